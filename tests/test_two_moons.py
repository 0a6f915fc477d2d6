"""The networks shared by notebooks: their loss against what it must be at known models, one cached run for every caller."""

import math

import pytest
import torch

from mathcore.data import examples as data
from mathcore.experiments import two_moons as trained
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.settings import settings
from mathcore.training import TrainConfig

MOONS = data.two_moons()


@pytest.fixture
def short_runs(monkeypatch, fresh_runs):
    monkeypatch.setattr(trained, "TWO_MOONS", TrainConfig(steps=40, batch_size=64, lr=1e-2))
    return fresh_runs


class Model(torch.nn.Module):
    """A model from a function of (x, t)."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("schedule", [AffineSchedule.vp(), AffineSchedule.edm()], ids=lambda s: s.name)
def test_the_loss_is_least_at_the_exact_noise_and_grows_by_the_square_of_a_shift(schedule, generator):
    oracle, loss = AffineGaussianOracle(MOONS, schedule), trained.noise_loss(schedule)
    x_0 = MOONS.sample(20_000, generator=generator)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)

    def value(model):
        return float(loss(Model(model), x_0, torch.Generator().manual_seed(1)))

    best = value(oracle.noise)
    # the same draws each time, so only the cross term 2 shift (eps - z), mean 0 and standard deviation below 1, is random
    slack = 5 * 2 * 0.5 / math.sqrt(2 * len(x_0))
    assert value(lambda x, t: oracle.noise(x, t) + shift) - best == pytest.approx(float(shift.square().mean()), abs=slack)
    # predicting nothing costs the variance of z, which is 1 with standard deviation sqrt(2) per draw
    assert value(lambda x, t: torch.zeros_like(x)) == pytest.approx(1.0, abs=5 * math.sqrt(2 / (2 * len(x_0))))
    assert best < 0.5


def test_the_times_of_the_loss_stay_in_the_domain_and_favour_the_data(generator):
    schedule, seen = AffineSchedule.edm(t_max=10.0), []
    trained.noise_loss(schedule)(Model(lambda x, t: seen.append(t) or x), MOONS.sample(10_000, generator=generator), generator)
    (t,) = seen
    assert float(t.min()) >= 0.01
    assert float(t.max()) <= 10.0
    # half below a quarter of the domain (the offset of 0.001 aside); a binomial share, n = 10,000
    share = float((t < 10 * (1e-3 + 0.999 / 4)).to(torch.float64).mean())
    assert share == pytest.approx(0.5, abs=5 * 0.5 / 100)


def test_every_caller_gets_the_same_run(short_runs):
    first = trained.two_moons_network()
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)  # as a notebook on exact formulas has it
    try:
        second = trained.two_moons_network()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(list(short_runs.glob("*.safetensors"))) == 1
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert len(first.losses) == 40
    assert float(first.losses[-10:].mean()) < 0.6 < float(first.losses[0])  # it learns
    trained.two_moons_network(max_frequency=10.0)  # another network, another run
    assert len(list(short_runs.glob("*.safetensors"))) == 2


def test_a_larger_scale_trains_longer(short_runs, monkeypatch):
    monkeypatch.setattr(settings, "_scale", "gpu")
    monkeypatch.setattr(trained, "TWO_MOONS", TrainConfig(steps=2, batch_size=4))
    assert len(trained.two_moons_network().losses) == 20


@pytest.mark.usefixtures("user_errors")
def test_bad_frequencies_are_refused():
    for bad in (0.05, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_frequency"):
            trained.two_moons_network(max_frequency=bad)
