"""The table of experiments and the page of one; help that fits a terminal."""

import math

import pytest
import torch

from mathcore.cli.listing import cost
from mathcore.experiments.configs import choices, keys_of, with_settings
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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_choices_are_accepted_and_nothing_else_is(name):
    """Each name on the list can be set, alone or with what else it asks for; a name that is not on it is refused by the list."""
    for size in (experiment(name).cpu, experiment(name).gpu):
        for key, value in keys_of(size).items():
            names = choices(size, key)
            if not names:
                assert not isinstance(value, str) or key == "objective.teacher", key
                continue
            assert value in names
            head = keys_of(size).get("objective.prediction")
            for other in names:
                if (key, head) == ("objective.weight", "edm") or (other == "edm" and keys_of(size).get("objective.weight") != "own"):
                    continue  # the edm head has one weight: a combination is refused, not a name
                assert keys_of(with_settings(size, [f"{key}={other}"]))[key] == other
            if key != "data":  # known where the data are opened
                with pytest.raises(ValueError, match="must be one of"):
                    with_settings(size, [f"{key}=nonsense"])


def test_one_experiment_shows_the_names_that_it_accepts(mathcore, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    text = mathcore("experiments", "score-sde-digits").stdout
    for names in (
        "constant, cosine",
        "vp, sub_vp, ve, edm, linear, cosine, trig",
        "own, sigma2, g2, one",
        "digits8, digits28, mnist, fashion_mnist, cifar10",
    ):
        assert names in text


def test_table_fits_eighty_columns_and_one_line_each(mathcore, monkeypatch):
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = [line.rstrip() for line in mathcore("experiments").stdout.splitlines()]
        assert max(map(len, lines)) <= columns
        assert len(lines) == 1 + len(EXPERIMENTS) + 5  # heading, rows, an empty line and the note of four


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
