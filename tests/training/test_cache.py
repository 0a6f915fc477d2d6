"""The cache of runs: trained once, trained again whenever anything that matters changed, safe against damage and against company."""

import functools
import os
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from mathcore import networks
from mathcore.schedules import AffineSchedule
from mathcore.settings import settings
from mathcore.training import FitResult, TrainConfig, fit, run_cached
from mathcore.training.fingerprint import _sources, fingerprint

CONFIG = TrainConfig(steps=6, batch_size=4)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))
    monkeypatch.setattr(settings, "_build_dir", tmp_path)
    return tmp_path / "runs"


def model(seed=0):
    torch.manual_seed(seed)
    return networks.MLP(2, 1, hidden=4, depth=1)


class Trainer:
    """Counts how often it is really asked to train."""

    def __init__(self):
        self.calls = []

    def __call__(self, name="run", config=CONFIG, m=None, data=None, target=0.0):
        m = model() if m is None else m
        calls = self.calls

        def train(model):
            Trainer.log(calls)
            return fit(model, lambda m, b, g: (m(b) - target).square().mean(), torch.ones(3, 2), config)

        # the log is not part of what is computed: it goes in through the class, where the fingerprint of `calls` would change it
        calls = _Blind(self.calls)
        return run_cached(name, config, train, m, data)

    @staticmethod
    def log(calls):
        calls.entries().append(1)

    @property
    def count(self):
        return len(self.calls)


class _Blind:
    """Holds a list where a fingerprint does not look: not in ``__dict__``."""

    __slots__ = ("entries",)

    def __init__(self, entries):
        self.entries = lambda: entries


def test_the_second_call_reads_the_first_result(folder):
    trainer = Trainer()
    first = trainer()
    second = trainer()
    assert trainer.count == 1
    assert torch.equal(first.losses, second.losses)
    for key, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value)
    assert not second.model.training
    (kept,) = folder.glob("*.safetensors")
    assert kept.name.startswith("run-")


def test_whatever_matters_makes_another_run():
    trainer = Trainer()
    trainer()
    for n, change in enumerate(
        [
            {"config": TrainConfig(steps=7, batch_size=4)},
            {"m": model(seed=1)},
            {"m": networks.MLP(2, 1, hidden=5, depth=1)},
            {"data": torch.zeros(2)},
            {"target": 1.0},  # a variable that only the loss, inside the training function, sees
            {"name": "other"},
        ]
    ):
        trainer(**change)
        assert trainer.count == n + 2, change
    trainer()
    assert trainer.count == 7


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign", "other model"])
def test_a_damaged_entry_is_trained_again_with_a_warning(folder, damage):
    from safetensors.torch import save_file

    from mathcore.training import save_checkpoint

    trainer = Trainer()
    first = trainer()
    (path,) = folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-3])
    elif damage == "flip":
        content[-3] ^= 4
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        save_file({"a": torch.zeros(1)}, path)
    else:
        save_checkpoint(path, {"model/other": torch.zeros(1), "losses": torch.zeros(1)}, {"kind": "run"})
    with pytest.warns(UserWarning, match="a kept run is damaged and is trained again"):
        again = trainer()
    assert trainer.count == 2
    assert torch.equal(again.losses, first.losses)
    trainer()
    assert trainer.count == 2


def test_a_failed_training_leaves_nothing_behind(folder):
    def fail(model):
        raise FloatingPointError("the loss is nan at step 3")

    with pytest.raises(FloatingPointError, match="step 3"):
        run_cached("run", CONFIG, fail, model())
    assert list(folder.glob("*.safetensors")) == []


def test_bad_arguments(user_errors):
    with pytest.raises(ValueError, match="name must consist of letters"):
        run_cached("../up", CONFIG, lambda m: None, model())
    with pytest.raises(ValueError, match="that same model"):
        run_cached("run", CONFIG, lambda m: FitResult(nn.Linear(1, 1), torch.zeros(1)), model())


def test_two_processes_train_once(tmp_path):
    script = (
        "import sys, time, torch\n"
        "from pathlib import Path\n"
        "from mathcore.networks import MLP\n"
        "from mathcore.training import TrainConfig, fit, run_cached\n"
        "torch.manual_seed(0); config = TrainConfig(steps=3)\n"
        "def train(model):\n"
        "    Path('trained.txt').open('a').write('x'); time.sleep(1)\n"
        "    return fit(model, lambda m, b, g: m(b).square().mean(), torch.ones(3, 2), config)\n"
        "result = run_cached('shared', config, train, MLP(2, 1, hidden=4, depth=1))\n"
        "print(result.losses.tolist())\n"
    )
    (tmp_path / "train.py").write_text(script)
    env = {**os.environ, "MATHCORE_BUILD": str(tmp_path / "b"), "CI": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    start = [subprocess.Popen([sys.executable, "train.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in start]
    assert [process.returncode for process in start] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert (tmp_path / "trained.txt").read_text() == "x"


def in_a_notebook(source, **names):
    """Run a cell as a notebook would: functions whose module is ``__main__`` and whose file is no file."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "<cell>", "exec"), space)
    return space["f"]


def test_fingerprint_sees_values_and_code_but_not_place():
    cell = "def f(x):\n    def inner():\n        return helper(x) * L\n    return inner()\ndef helper(x):\n    return x + 1\n"
    reference = fingerprint(in_a_notebook(cell, L=200))
    assert fingerprint(in_a_notebook(cell, L=200)) == reference
    assert fingerprint(in_a_notebook("# a comment above\n\n" + cell, L=200)) == reference
    assert fingerprint(in_a_notebook(cell, L=400)) != reference  # a global that only a nested function reads
    assert fingerprint(in_a_notebook(cell.replace("x + 1", "x + 2"), L=200)) != reference  # a helper of a helper


def test_fingerprint_follows_objects_to_their_values():
    vp = [AffineSchedule.vp(), AffineSchedule.vp(), AffineSchedule.vp(beta_max=10.0), AffineSchedule.cosine()]
    prints = [fingerprint(functools.partial(print, schedule)) for schedule in vp]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    tensor = torch.arange(4.0)
    assert fingerprint(tensor) == fingerprint(tensor.clone()) != fingerprint(tensor.double())
    assert fingerprint(tensor) != fingerprint(tensor.reshape(2, 2))
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 2, "b": 1})
    assert fingerprint([1, 2], 3) != fingerprint([1], 2, 3)
    assert fingerprint(1) != fingerprint("1") != fingerprint(1.0)
    assert fingerprint(torch.Generator().manual_seed(1)) != fingerprint(torch.Generator().manual_seed(2))
    loop = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)


def test_fingerprint_ignores_where_a_run_happens(monkeypatch):
    before = fingerprint(settings)
    monkeypatch.setattr(settings, "_progress", True)
    assert fingerprint(settings) == before


def test_source_of_reached_modules_counts(monkeypatch):
    reached = _sources(["mathcore.oracle"])
    assert {"mathcore.oracle", "mathcore.distributions", "mathcore.schedules", "mathcore._validate"} <= reached.keys()
    assert "mathcore.networks" not in reached
    import mathcore.training.fingerprint as module

    def cell():
        return AffineSchedule

    before = fingerprint(cell)
    changed = types.SimpleNamespace(**{"schedules": "mathcore.schedules", "untouched": "mathcore.divergences"})
    for name, differs in ((changed.schedules, True), ("mathcore.training.loop", True), (changed.untouched, False)):
        original = module._sources
        edited = lambda names, name=name, original=original: {  # noqa: E731
            k: v + b"# edited" if k == name else v for k, v in original(names).items()
        }
        with monkeypatch.context() as patch:
            patch.setattr(module, "_sources", edited)
            assert (fingerprint(cell) != before) is differs, name


class Steady(networks.MLP):
    """An MLP with a setting that is in neither its weights nor its ``repr``."""

    def __init__(self, frequency):
        super().__init__(2, 1, hidden=4, depth=1)
        self.frequency = frequency


def test_models_that_differ_in_a_plain_setting_do_not_share_a_run():
    trainer = Trainer()
    for frequency in (10.0, 1000.0, 10.0):
        torch.manual_seed(0)
        trainer(m=Steady(frequency))
    assert trainer.count == 2
