"""The switches: defaults, environment, assignment, and what is refused."""

from pathlib import Path

import pytest
import torch

import mathcore
from mathcore.settings import Settings


@pytest.fixture
def fresh(monkeypatch):
    for name in ("MATHCORE_SCALE", "MATHCORE_DEVICE", "MATHCORE_BUILD", "CI"):
        monkeypatch.delenv(name, raising=False)
    return Settings()


def test_defaults(fresh):
    assert fresh.scale == "cpu"
    assert fresh.device == torch.device("cpu")
    assert fresh.progress is True
    assert fresh.build_dir == Path(mathcore.__file__).resolve().parents[1] / "_build"


def test_environment_is_read_at_each_access(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("MATHCORE_SCALE", "gpu")
    monkeypatch.setenv("MATHCORE_DEVICE", "cpu")
    monkeypatch.setenv("MATHCORE_BUILD", str(tmp_path))
    assert (fresh.scale, fresh.device, fresh.build_dir) == ("gpu", torch.device("cpu"), tmp_path.resolve())
    assert "gpu" in repr(fresh)


@pytest.mark.parametrize(("value", "drawn"), [("", True), ("0", True), ("false", True), ("1", False), ("true", False)])
def test_progress_is_off_on_ci(fresh, monkeypatch, value, drawn):
    monkeypatch.setenv("CI", value)
    assert fresh.progress is drawn


def test_assignment_wins_over_the_environment(fresh, monkeypatch, tmp_path):
    for name, value in [("MATHCORE_SCALE", "gpu"), ("MATHCORE_DEVICE", "no such thing"), ("CI", "1"), ("MATHCORE_BUILD", "/elsewhere")]:
        monkeypatch.setenv(name, value)
    fresh.scale, fresh.device, fresh.progress, fresh.build_dir = "cpu", "cpu", True, tmp_path
    assert (fresh.scale, fresh.device, fresh.progress, fresh.build_dir) == ("cpu", torch.device("cpu"), True, tmp_path.resolve())


def test_unknown_values_are_refused_by_name(fresh, monkeypatch):
    monkeypatch.setenv("MATHCORE_SCALE", "gpus")
    with pytest.raises(ValueError, match=r"MATHCORE_SCALE must be one of cpu, gpu; got 'gpus'; did you mean 'gpu'"):
        _ = fresh.scale
    monkeypatch.setenv("MATHCORE_DEVICE", "tachyon")
    with pytest.raises(ValueError, match=r"MATHCORE_DEVICE must name a torch device.*'tachyon'"):
        _ = fresh.device
    with pytest.raises(ValueError, match=r"settings\.scale must be one of"):
        fresh.scale = "huge"
    with pytest.raises(ValueError, match=r"settings\.device must name"):
        fresh.device = "gpu"


def test_a_device_that_is_not_there_is_refused(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("MATHCORE_SCALE", "gpu")
    with pytest.raises(ValueError, match=r"the scale 'gpu'.*0 CUDA devices"):
        _ = fresh.device
    with pytest.raises(ValueError, match=r"settings\.device.*no MPS device"):
        fresh.device = "mps"


def test_a_cuda_index_beyond_the_last_is_refused(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("MATHCORE_DEVICE", "cuda:0")
    assert fresh.device == torch.device("cuda:0")
    monkeypatch.setenv("MATHCORE_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match=r"'cuda:1'.*1 CUDA devices"):
        _ = fresh.device


def test_precision_reaches_the_configuration_of_a_run(monkeypatch):
    from mathcore.training import TrainConfig

    assert not TrainConfig(steps=1).bfloat16
    monkeypatch.setenv("MATHCORE_PRECISION", "bfloat16")
    assert TrainConfig(steps=1).bfloat16
    assert not TrainConfig(steps=1, bfloat16=False).bfloat16
    monkeypatch.setenv("MATHCORE_PRECISION", "bfloat6")
    with pytest.raises(ValueError, match=r"MATHCORE_PRECISION must be one of float32, bfloat16.*did you mean 'bfloat16'"):
        TrainConfig(steps=1)
