"""The table of experiments and the page of one; help that fits a terminal."""

import math

import pytest
import torch

from mathcore.cli.listing import cost
from mathcore.experiments.configs import keys_of
from mathcore.experiments.registry import EXPERIMENTS, experiment


def test_table_lists_every_experiment(mathcore):
    result = mathcore("experiments")
    assert result.exit_code == 0
    for name in EXPERIMENTS:
        assert f"{name} " in result.stdout
    assert "never run" in result.stdout


def test_one_experiment_shows_every_key(mathcore):
    result = mathcore("experiments", "conditional-digits")
    assert result.exit_code == 0
    for key in keys_of(experiment("conditional-digits").cpu):
        assert key in result.stdout


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_help_names_the_commands(mathcore, words):
    result = mathcore(*words)
    assert result.exit_code == 0
    for command in ("train", "sample", "evaluate", "experiments", "problem-sets"):
        assert command in result.stdout


def test_help_of_train_names_its_options(mathcore):
    text = mathcore("train", "--help").stdout
    for option in ("--size", "--set", "--out", "--resume", "--device", "--precision"):
        assert option in text


def test_version(mathcore):
    import mathcore as package

    assert mathcore("--version").stdout.strip() == f"mathcore {package.__version__}"


def test_counted_operations_of_a_convolution_by_hand(monkeypatch):
    """One 3x3 convolution of c channels on h x h pixels is 2 * 9 c^2 h^2 operations for each image; training costs three predictions a step."""
    from mathcore.cli import listing

    c, h, size = 3, 32, experiment("edm-digits").gpu
    monkeypatch.setattr(listing, "untrained", lambda *_: _Plain(c))
    weights, operations = cost(size)
    assert weights == 9 * c * c
    assert operations == pytest.approx(3 * 2 * 9 * c * c * h * h * size.train.batch_size * size.train.steps, rel=1e-12)


class _Plain(torch.nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(c, c, 3, padding=1, bias=False)

    def forward(self, x, t):
        return self.convolution(x)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_cost_of_the_full_size_is_counted_without_memory(name):
    weights, operations = cost(experiment(name).gpu)
    assert weights > 0
    assert operations is None or (operations > 0 and math.isfinite(operations))
