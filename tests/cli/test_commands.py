"""Train, resume, sample, evaluate: a few steps each, and what lies in the folder afterwards."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mathcore.settings import settings
from mathcore.training import load_checkpoint

TINY = ("--set", "train.steps=4", "--set", "train.batch_size=8", "--set", "train.warmup=0")


def ok(result):
    assert result.exit_code == 0, (result.stdout, result.stderr, result.exception)
    return result


def weights(folder):
    return load_checkpoint(Path(folder) / "model.safetensors")[0]


def test_train_leaves_a_whole_folder(mathcore, build):
    result = ok(mathcore("train", "ddpm-digits", *TINY, "--set", "sampler_steps=5"))
    folder = build / "experiments" / "ddpm-digits-cpu"
    for file in ("model.safetensors", "checkpoint.safetensors", "run.json", "loss.png", "samples/step-000004.png"):
        assert (folder / file).stat().st_size > 0, file
    assert "loss " in result.stdout
    assert "4 steps of 8 on digits8, cpu" in result.stdout
    assert "mathcore sample" in result.stdout
    record = json.loads((folder / "run.json").read_text())
    assert record["info"]["experiment"] == "ddpm-digits"
    assert record["info"]["config"]["train.steps"] == 4
    assert record["sessions"][0]["outcome"] == "finished"
    assert {"python", "torch"} <= record["sessions"][0]["versions"].keys()


def test_a_second_run_does_not_overwrite_the_first(mathcore, build):
    ok(mathcore("train", "score-ring", *TINY))
    again = mathcore("train", "score-ring", *TINY)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert "--out" in again.stderr
    ok(mathcore("train", "score-ring", *TINY, "--out", build / "another"))


def test_resume_continues_with_the_configuration_of_the_run(mathcore, tmp_path):
    """Four steps at a constant rate and four more equal eight at once; the second command repeats nothing but the new number."""
    keys = ("--set", "train.batch_size=8", "--set", "train.decay=constant", "--set", "network.hidden=16")
    ok(mathcore("train", "score-ring", *keys, "--set", "train.steps=8", "--out", tmp_path / "whole"))
    ok(mathcore("train", "score-ring", *keys, "--set", "train.steps=4", "--out", tmp_path / "parts"))
    result = ok(mathcore("train", "score-ring", "--resume", "--set", "train.steps=8", "--out", tmp_path / "parts"))
    assert "going on with score-ring" in result.stdout
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_resume_refuses_other_experiments_and_damaged_checkpoints(mathcore, tmp_path):
    ok(mathcore("train", "score-ring", *TINY, "--out", tmp_path / "run"))
    other = mathcore("train", "ddpm-ring", "--resume", "--out", tmp_path / "run")
    assert other.exit_code == 2
    assert "holds a run of score-ring, not of ddpm-ring" in other.stderr
    state = tmp_path / "run" / "checkpoint.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    damaged = mathcore("train", "score-ring", "--resume", "--out", tmp_path / "run")
    assert damaged.exit_code == 2
    assert "truncated" in damaged.stderr


def test_resume_needs_nothing_but_the_folder(mathcore, build, tmp_path):
    """Name, size and settings come from run.json, whichever way the folder is named."""
    ok(mathcore("train", "score-ring", *TINY, "--set", "train.seed=3", "--out", tmp_path / "run"))
    before = weights(tmp_path / "run")
    for words in (("--out", tmp_path / "run"), (tmp_path / "run",), (tmp_path / "run" / "checkpoint.safetensors",)):
        result = ok(mathcore("train", "--resume", *words))
        assert "going on with score-ring (cpu) after step 4: 4 steps of 8 on ring4, cpu" in result.stdout
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[k], after[k]) for k in before)
    ok(mathcore("train", "score-ring", *TINY))
    assert "going on with score-ring (cpu)" in ok(mathcore("train", "score-ring-cpu", "--resume")).stdout
    named = mathcore("train", tmp_path / "run")
    assert named.exit_code == 2
    assert "add --resume" in named.stderr


def test_resume_takes_the_size_from_the_run(mathcore, tmp_path):
    """Without --size a run of the full size is not continued as a small one: it wants its GPU, or to be told to do without."""
    narrow = ("--set", "network.hidden=8", "--set", "train.compile=false", "--set", "train.warmup=0", "--set", "sampler_steps=2")
    full = ("--set", "train.steps=2", "--set", "train.batch_size=8")
    ok(mathcore("train", "ddpm-ring", "--size", "gpu", "--device", "cpu", *narrow, *full, "--out", tmp_path / "run"))
    for size in ((), ("--size", "gpu")):
        result = ok(mathcore("train", "ddpm-ring", *size, "--resume", "--device", "cpu", "--out", tmp_path / "run"))
        assert "going on with ddpm-ring (gpu)" in result.stdout
    other = mathcore("train", "ddpm-ring", "--size", "cpu", "--resume", "--out", tmp_path / "run")
    assert other.exit_code == 2
    assert "holds a run of size gpu, not cpu" in other.stderr


def test_resume_without_device_wants_the_gpu_of_the_full_size(mathcore, tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    narrow = ("--set", "network.hidden=8", "--set", "train.steps=1", "--set", "train.compile=false", "--set", "sampler_steps=1")
    ok(
        mathcore(
            "train", "ddpm-ring", "--size", "gpu", "--device", "cpu", *narrow, "--set", "train.batch_size=8", "--out", tmp_path / "run"
        )
    )
    settings.device = "cpu"
    monkeypatch.setattr(settings, "_device", None)  # as in a fresh process
    result = mathcore("train", "--resume", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "the full size wants a GPU" in result.stderr


def test_refused_resume_changes_nothing(mathcore, tmp_path):
    """The reason and the way out are told before anything is printed or written; the run goes on afterwards as if nobody had asked."""
    ok(mathcore("train", "ddpm-ring", *TINY, "--out", tmp_path / "run"))
    record = (tmp_path / "run" / "run.json").read_bytes()
    for change, parts in (
        ("train.steps=80", ("train.steps = 4 there, 80 here", "under a cosine", "train.decay=constant")),
        ("objective.levels=200", ("objective.levels = 100 there, 200 here", "--out FOLDER")),
        ("train.lr=1e-2", ("train.lr = 0.003 there, 0.01 here",)),
    ):
        result = mathcore("train", "--resume", "--out", tmp_path / "run", "--set", change)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert all(part in result.stderr for part in parts), result.stderr
    assert (tmp_path / "run" / "run.json").read_bytes() == record
    ok(mathcore("train", "--resume", "--out", tmp_path / "run", "--set", "sampler=ddim"))
    constant = ("--set", "train.decay=constant")
    ok(mathcore("train", "score-ring", *TINY, *constant, "--out", tmp_path / "other"))
    fewer = mathcore("train", "--resume", "--out", tmp_path / "other", "--set", "train.steps=3")
    assert fewer.exit_code == 2
    assert "it has taken 4 steps already" in fewer.stderr


def test_precision_and_device_reach_the_run(mathcore, tmp_path):
    ok(mathcore("train", "flow-matching-digits", *TINY, "--precision", "bfloat16", "--device", "cpu", "--out", tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["bfloat16"] is True
    assert all(v.dtype == torch.float32 for v in weights(tmp_path / "run").values())


@pytest.mark.parametrize(("name", "rate"), [("score-ring", "1e30"), ("vae-ring", "1e6"), ("cnf-moons", "1e6")])
def test_nan_is_told_in_one_line_with_code_1(mathcore, tmp_path, name, rate):
    """Whether it is found in the loss, by the check of an argument on the way to it, or by a solver."""
    keys = ("--set", f"train.lr={rate}", "--set", "train.grad_clip=none", "--set", "train.steps=60")
    result = mathcore("train", name, *TINY, *keys, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert re.search(r"at (training )?step \d+.*: lower the learning rate or look at the loss$", result.stderr.strip())


def test_sample_writes_picture_and_tensor(mathcore, build, tmp_path):
    ok(mathcore("train", "ddpm-digits", *TINY, "--set", "sampler_steps=3"))
    result = ok(mathcore("sample", "ddpm-digits", "-n", "6", "--sampler", "ddim", "--steps", "4", "--seed", "3"))
    folder = build / "experiments" / "ddpm-digits-cpu"
    tensors, about = load_checkpoint(folder / "samples" / "ddim-4-seed3.safetensors")
    assert tensors["samples"].shape == (6, 1, 8, 8)
    assert about["sampler"] == "ddim"
    assert about["seed"] == 3
    with Image.open(folder / "samples" / "ddim-4-seed3.png") as picture:
        assert picture.size[0] > 8
    assert "6 samples of ddpm-digits" in result.stdout
    for place in (folder, folder / "checkpoint.safetensors", "ddpm-digits-cpu"):  # the averaged weights of either file are the same
        ok(mathcore("sample", place, "-n", "6", "--sampler", "ddim", "--steps", "4", "--seed", "3", "--out", tmp_path / "again.png"))
        assert torch.equal(load_checkpoint(tmp_path / "again.safetensors")[0]["samples"], tensors["samples"])


def test_sample_refuses(mathcore, build, tmp_path):
    ok(mathcore("train", "score-ring", *TINY))
    for words, part in (
        (("--sampler", "dpm_solver"), "'dpm_solver_pp'"),
        (("--out", tmp_path / "x.jpg"), ".png"),
        (("--guidance", "2"), "labels"),
        (("--device", "cuda:9"), "--device"),
    ):
        result = mathcore("sample", "score-ring", *words)
        assert result.exit_code == 2
        assert part in result.stderr
    folder = build / "experiments" / "score-ring-cpu"
    foreign = mathcore("sample", folder / "loss.png")
    assert foreign.exit_code == 2
    assert "not a safetensors file" in foreign.stderr
    ok(mathcore("sample", folder))
    made = folder / "samples" / "dpm_solver_pp-20-seed0.safetensors"
    (folder / "made.safetensors").write_bytes(made.read_bytes())
    samples = mathcore("sample", folder / "made.safetensors")
    assert samples.exit_code == 2
    assert "holds no weights but samples" in samples.stderr
    record = json.loads((folder / "run.json").read_text())
    record["info"]["config"]["network.hidden"] = 32
    (folder / "run.json").write_text(json.dumps(record))
    result = mathcore("sample", folder)
    assert result.exit_code == 2
    assert "does not hold the weights" in result.stderr


def test_guidance_changes_samples_of_a_conditional_model(mathcore, tmp_path):
    ok(mathcore("train", "conditional-moons", *TINY, "--out", tmp_path / "run"))
    drawn = []
    for weight in ("0", "4"):
        ok(mathcore("sample", tmp_path / "run", "-n", "4", "--guidance", weight, "--out", tmp_path / f"{weight}.png"))
        drawn.append(load_checkpoint(tmp_path / f"{weight}.safetensors")[0]["samples"])
    assert not torch.equal(*drawn)


def test_reflow_learns_from_its_teacher(mathcore, build):
    ok(mathcore("train", "flow-matching-digits", *TINY, "--set", "sampler_steps=1"))
    ok(
        mathcore(
            "train", "reflow-digits", *TINY, "--set", "objective.pairs=16", "--set", "objective.pair_steps=1", "--set", "sampler_steps=1"
        )
    )
    ok(mathcore("train", "score-ring", *TINY))
    wrong = mathcore("train", "reflow-digits", "--out", build / "other", "--set", "objective.teacher=score-ring")
    assert wrong.exit_code == 2
    assert "flow matching" in wrong.stderr


@pytest.mark.parametrize("name", ["ring", "modes50"])
def test_true_samples_are_near_a_mode_in_any_dimension(name):
    """Within the distance that holds 98.9 % of a normal law, three standard deviations in the plane: the share of 400 has a standard error of 0.005."""
    from mathcore.cli.evaluate import _points
    from mathcore.experiments.datasets import open_data

    data = open_data(name)
    share = _points(data.draw(400, torch.Generator().manual_seed(5)), data, seed=0)[1]
    assert share.value == pytest.approx(0.989, abs=0.025)
    assert share.floor == pytest.approx(0.989, abs=0.01)


@pytest.mark.parametrize("name", ["score-ring", "score-sde-digits", "vae-ring"])
def test_evaluate_prints_floor_and_sample_size(mathcore, tmp_path, name):
    ok(mathcore("train", name, *TINY, "--set", "sampler_steps=2", "--out", tmp_path / "run"))
    result = ok(mathcore("evaluate", tmp_path / "run", "-n", "32", "--steps", "3"))
    assert "floor" in result.stdout
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    names = {e["name"] for e in record["estimates"]}
    assert "energy distance" in names
    assert any("likelihood" in n or "bits" in n for n in names)
    for e in record["estimates"]:
        assert e["n"] > 0
        assert isinstance(e["value"], float | int)


def test_several_processes_are_told_what_ctrl_c_costs(tmp_path, capsys, build):
    from mathcore.cli.train import _interrupted
    from mathcore.experiments.registry import experiment
    from mathcore.experiments.sessions import Session

    folder = build / "experiments" / "ddpm-ring-gpu"
    folder.mkdir(parents=True)
    session = Session("ddpm-ring", "gpu", experiment("ddpm-ring").gpu, folder)
    _interrupted(session, {}, 2)
    assert "stopped before the first checkpoint" in capsys.readouterr().err
    (folder / "checkpoint.safetensors").touch()
    _interrupted(session, {"--device": None, "--sample-every": 10}, 2)
    told = capsys.readouterr().err
    assert "steps since its last checkpoint are lost" in told
    assert "behind the same launcher:  mathcore train ddpm-ring --size gpu --resume --sample-every 10\n" in told


def test_a_terminal_is_told_that_imports_take_their_time(tmp_path):
    """The words come before the error about the name, which needs the imports; a pipe gets the error alone."""
    import pty

    code = "import sys; sys.argv = ['mathcore', 'train', 'no-such']; from mathcore.cli import app; app()"
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=follower, timeout=120, check=False, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    told = os.read(leader, 65536).decode()
    os.close(leader)
    assert "loading PyTorch" in told
    assert told.index("loading PyTorch") < told.index("Error: there is no experiment 'no-such'")
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert piped.stderr.startswith("Error: ")


def test_help_does_not_import_torch(tmp_path):
    code = "import sys; sys.argv = ['mathcore', '--help']\ntry:\n    from mathcore.cli import app; app()\nexcept SystemExit as e:\n    assert not e.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
