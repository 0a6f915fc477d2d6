"""The full size as far as it goes without a GPU: its data from parquet files written here, every loss on a narrow network.

Compilation is switched off here: it takes minutes on a processor and is tested, for the loop, in tests/training/test_engine.py.
"""

import io

import pytest
import torch
from PIL import Image

from mathcore.experiments.registry import EXPERIMENTS
from mathcore.image_data import IMAGE_SETS

NARROW = {
    "train.steps": "2",
    "train.batch_size": "4",
    "train.warmup": "0",
    "train.compile": "false",
    "sampler_steps": "2",
    "network.width": "8",
    "network.d_embed": "8",
    "network.hidden": "8",
    "objective.levels": "25",
    "objective.ode_steps": "2",
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Forty random pictures of each set, ten of them held out, in the files that the Hub has."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Picture

    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path / "data"))
    for name, info in IMAGE_SETS.items():
        c, h, w = info.shape
        column = "img" if name == "cifar10" else "image"
        pixels = torch.randint(256, (40, h, w, c), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        kinds = Features({column: Picture(), "label": ClassLabel(names=list(info.classes))})
        for split, rows in (("train", range(30)), ("test", range(30, 40))):
            place = tmp_path / "data" / name / f"{split}-00000-of-00001.parquet"
            place.parent.mkdir(parents=True, exist_ok=True)
            content = {column: [_png(pixels[i]) for i in rows], "label": [i % 10 for i in rows]}
            Dataset.from_dict(content, features=kinds).to_parquet(place)


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.numpy().squeeze()).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _narrowed(name):
    from mathcore.experiments.configs import keys_of

    known = keys_of(EXPERIMENTS[name].gpu)
    return [word for key, value in NARROW.items() if key in known for word in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n != "reflow-digits"])
def test_full_size_trains_on_a_narrow_network(mathcore, data, tmp_path, name):
    result = mathcore("train", name, "--size", "gpu", "--device", "cpu", "--out", tmp_path / "run", *_narrowed(name))
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert (tmp_path / "run" / "samples" / "step-000002.png").exists()


def test_the_full_size_on_a_cpu_says_what_it_costs(mathcore, tmp_path):
    """With the settings that would make it small; a run that goes on must keep its own, and a small one costs nothing."""
    words = [w for w in _narrowed("ddpm-ring") if w != "--set"]
    few = [word for w in words for word in ("--set", "train.steps=101" if w.startswith("train.steps") else w)]
    told = mathcore("train", "ddpm-ring", "--size", "gpu", "--device", "cpu", "--out", tmp_path / "run", *few).stdout.splitlines()
    assert told[1] == "this is the full size on a CPU: 101 steps may take days; to try it out:  --set train.steps=100"
    again = mathcore("train", "--resume", "--device", "cpu", "--out", tmp_path / "run").stdout.splitlines()
    assert again[1] == "this is the full size on a CPU: 101 steps may take days"
    small = mathcore("train", "ddpm-ring", "--size", "gpu", "--device", "cpu", "--out", tmp_path / "small", *_narrowed("ddpm-ring")).stdout
    assert "this is the full size" not in small
    for command in ("sample", "evaluate"):
        result = mathcore(command, tmp_path / "run", "-n", "8", "--steps", "3")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(
            "ddpm-ring at its full size on a CPU: 8 samples in 3 steps may take long; fewer with -n and --steps"
        )


def test_compilation_of_the_full_size_is_announced(tmp_path, capsys):
    from mathcore.cli.train import _announce
    from mathcore.experiments.sessions import Session

    _announce(Session("ddpm-digits", "gpu", EXPERIMENTS["ddpm-digits"].gpu, tmp_path), 0, torch.device("cpu"), 1)
    told = capsys.readouterr().out.splitlines()[1]
    assert "nothing is seen for minutes while the first step compiles, and 100000 steps may take days" in told
    for value in ("train.compile=false", "train.bfloat16=false", "train.batch_size=8", "train.steps=100", "sampler_steps=10"):
        assert f"--set {value}" in told


def test_missing_data_are_told_in_one_line(mathcore, tmp_path, monkeypatch):
    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path / "nothing"))

    def offline(*args, **keywords):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    for words in ((), ("--fetch",)):
        result = mathcore("train", "edm-digits", "--size", "gpu", "--device", "cpu", "--out", tmp_path / "run", *words)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1
        assert "cifar10" in result.stderr
        assert result.stdout == ""
        assert not (tmp_path / "run" / "run.json").exists()
