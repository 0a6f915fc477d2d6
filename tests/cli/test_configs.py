"""Configurations: names, keys, values; every one of both sizes builds, trains a step and samples."""

import dataclasses

import pytest
import torch

from mathcore.experiments.configs import keys_of, with_settings, with_values
from mathcore.experiments.datasets import MIXTURES, open_data, shape_of
from mathcore.experiments.registry import EXPERIMENTS, experiment
from mathcore.experiments.runs import Run, untrained
from mathcore.training import TrainConfig, fit


def test_keys_and_values_round_trip_through_json():
    import json

    for e in EXPERIMENTS.values():
        for scale in ("cpu", "gpu"):
            size = e.size(scale)
            values = json.loads(json.dumps(keys_of(size)))
            assert with_values(size, values) == size
            assert with_values(e.cpu, {}) == e.cpu


def test_settings_change_what_they_name_and_nothing_else():
    before = experiment("ddpm-digits").cpu
    after = with_settings(
        before, ["train.steps=7", "train.grad_clip=none", "network.mults=1,2,2", "train.compile=yes", "sampler=ddim", "train.lr=1e-2"]
    )
    changed = {k: v for k, v in keys_of(after).items() if v != keys_of(before)[k]}
    assert changed == {
        "train.steps": 7,
        "train.grad_clip": None,
        "network.mults": (1, 2, 2),
        "train.compile": True,
        "sampler": "ddim",
        "train.lr": 1e-2,
    }
    assert after.measured == ""
    assert before == experiment("ddpm-digits").cpu


def test_later_setting_wins():
    assert with_settings(experiment("ddpm-digits").cpu, ["train.steps=7", "train.steps=9"]).train.steps == 9


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment("ddpm-digits").cpu.data = "ring"  # type: ignore[misc]


def test_pages_exist():
    from pathlib import Path

    root = Path(__file__).resolve().parents[2] / "notebooks"
    for e in EXPERIMENTS.values():
        assert (root / f"{e.page}.ipynb").exists(), e.page


def test_shapes_of_images_without_opening_them():
    for name in ("digits8", "digits28"):
        assert open_data(name).shape == shape_of(name)
    for name in MIXTURES:
        assert open_data(name).shape == shape_of(name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_small_experiment_trains_and_samples(name):
    """Two steps and four samples, on a hundredth of the levels; finite, of the shape of the data, and the same from the same seed."""
    if name == "reflow-digits":
        pytest.skip("needs its teacher: test_commands trains both")
    size = with_settings(experiment(name).cpu, ["train.steps=2", "train.batch_size=8", "train.warmup=0"])
    data, objective = open_data(size.data), size.objective
    model = untrained(size, data.shape, data.classes)
    statistics = objective.statistics(data)
    fit(model, lambda net, batch, g: objective.loss(net, batch, statistics, g), objective.source(data), size.train, device="cpu")
    from pathlib import Path

    run = Run(Path(), name, "cpu", size, model, data.shape, statistics, 2, torch.device("cpu"))
    steps = min(size.sampler_steps, 5)
    x = run.sample(4, steps=steps)
    assert x.shape == (4, *data.shape)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert torch.equal(x, run.sample(4, steps=steps))


@pytest.mark.parametrize("name", ["ddpm-digits", "ncsn-digits", "score-sde-digits", "flow-matching-digits", "edm-digits", "poisson-digits"])
def test_three_steps_are_those_of_the_book(name, monkeypatch, tmp_path):
    """The command trains the model of the notebook: same weights to the last bit after three steps of both code paths."""
    from importlib import import_module

    from mathcore.experiments import digits

    monkeypatch.setenv("MATHCORE_BUILD", str(tmp_path))
    monkeypatch.setenv("MATHCORE_SCALE", "cpu")
    short = dataclasses.replace(digits.CPU.config, steps=3)
    monkeypatch.setattr(digits, "CPU", dataclasses.replace(digits.CPU, config=short))
    function = name.replace("-", "_")
    maker = getattr(import_module(f"mathcore.experiments.{function}"), function)
    theirs = maker("cauchy") if name == "poisson-digits" else maker()

    size = dataclasses.replace(experiment(name).cpu, train=short)
    data, objective = open_data(size.data), size.objective
    model = untrained(size, data.shape, data.classes)
    statistics = objective.statistics(data)
    result = fit(model, lambda net, batch, g: objective.loss(net, batch, statistics, g), objective.source(data), size.train, device="cpu")
    assert torch.equal(result.losses, theirs.losses)


def test_train_config_of_the_plane_is_the_book_s():
    from mathcore.experiments.two_moons import TWO_MOONS

    assert experiment("solver-moons").cpu.train == TWO_MOONS
    assert isinstance(TWO_MOONS, TrainConfig)
