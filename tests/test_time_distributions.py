"""Distributions of training times against quadrature, the laws they are named after, and the optimum they promise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad

from mathcore.schedules import AffineSchedule
from mathcore.time_distributions import TimeDistribution

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "cosine": AffineSchedule.cosine(),
}


def observed(schedule):
    t = torch.linspace(0.01, 0.99, 400, dtype=torch.float64)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * t, 0.2 + t**2


MAKERS = {
    "uniform": TimeDistribution.uniform,
    "lognormal": TimeDistribution.lognormal,
    "logit_normal": lambda s: TimeDistribution.logit_normal(s, 0.5, 0.8),
    "importance": lambda s: TimeDistribution.importance(s, *observed(s), n_bins=8),
}
every = pytest.mark.parametrize(("kind", "name"), [(k, n) for k in MAKERS for n in SCHEDULES])


@every
def test_the_density_is_the_slope_of_the_quantiles(kind, name):
    law = MAKERS[kind](SCHEDULES[name])
    u, h = torch.linspace(0.013, 0.987, 40, dtype=torch.float64), 1e-6
    t = law.quantile(u)
    slope = (law.quantile(u + h) - law.quantile(u - h)) / (2 * h)
    # dt/du = 1 / p(t); central difference h^2 times a third derivative (1e5 times the value at u = .013) and rounding 1e-16 t / h
    torch.testing.assert_close(slope * torch.exp(law.log_prob(t)), torch.ones_like(u), rtol=0, atol=1e-5)
    assert bool((t.diff() > 0).all())


@every
def test_the_density_integrates_to_one(kind, name):
    schedule = SCHEDULES[name]
    law = MAKERS[kind](schedule)
    points = np.concatenate([np.geomspace(1e-9, 1e-2, 8), np.linspace(0.02, 0.98, 25), 1 - np.geomspace(1e-2, 1e-9, 8)])
    edges = schedule.t_min + (schedule.t_max - schedule.t_min) * points
    total = sum(quad(lambda t: math.exp(float(law.log_prob(t))), a, b, epsabs=1e-10, limit=200)[0] for a, b in pairwise(edges))
    # what lies beyond the outer points is below 1e-4 for lognormal on ve (sqrt-like start) and 1e-8 elsewhere
    assert total == pytest.approx(1.0, abs=2e-4)


@every
def test_samples_follow_the_law_and_the_generator(kind, name):
    law = MAKERS[kind](SCHEDULES[name])
    t = law.sample(2000, torch.Generator().manual_seed(1))
    assert torch.equal(t, law.sample(2000, torch.Generator().manual_seed(1)))
    assert t.dtype == torch.float64
    assert bool(((t >= law.schedule.t_min) & (t <= law.schedule.t_max)).all())
    u = torch.arange(1, 10, dtype=torch.float64) / 10
    below = (t[:, None] < law.quantile(u)).double().mean(0)
    assert bool(((below - u).abs() < 5 * (u * (1 - u) / 2000).sqrt()).all())


def test_lognormal_is_that_of_edm():
    law = TimeDistribution.lognormal(SCHEDULES["edm"])
    t = torch.tensor([0.01, 0.3, 2.0, 20.0], dtype=torch.float64)
    mass = scipy.stats.norm.cdf((math.log(80) + 1.2) / 1.2)  # what lies below t_max
    want = scipy.stats.lognorm(s=1.2, scale=math.exp(-1.2)).logpdf(t.numpy()) - math.log(mass)
    np.testing.assert_allclose(law.log_prob(t).numpy(), want, rtol=1e-12)
    median = float(law.quantile(torch.tensor([0.5], dtype=torch.float64)))
    assert median == pytest.approx(math.exp(-1.2), rel=4e-6)  # 0.3012; half the mass above 80, 1.7e-6, times 1.2 / phi(0)


def test_lognormal_levels_are_those_of_the_schedule():
    """log(sigma / alpha) of the drawn times is normal on a schedule whose range is the whole line."""
    law = TimeDistribution.lognormal(SCHEDULES["linear"], mean=0.3, std=0.7)
    t = law.sample(4000, torch.Generator().manual_seed(2))
    assert scipy.stats.kstest(-SCHEDULES["linear"].half_log_snr(t).numpy(), scipy.stats.norm(0.3, 0.7).cdf).pvalue > 1e-4


def test_logit_normal_matches_its_definition():
    t = TimeDistribution.logit_normal(SCHEDULES["trig"], -0.4, 0.9).sample(4000, torch.Generator().manual_seed(3)) / (math.pi / 2)
    assert scipy.stats.kstest(torch.logit(t).numpy(), scipy.stats.norm(-0.4, 0.9).cdf).pvalue > 1e-4


def test_dividing_by_the_density_keeps_the_expectation_and_changes_the_variance():
    """int_0^1 e^t dt under four laws of t (footnote to section 6.2.2)."""
    schedule, values = SCHEDULES["linear"], []
    for k, law in enumerate(maker(schedule) for maker in MAKERS.values()):
        t = law.sample(20_000, torch.Generator().manual_seed(k))
        terms = torch.exp(t - law.log_prob(t))
        z = (terms.mean() - (math.e - 1)) / (terms.std() / math.sqrt(len(t)))
        # 1 / p is unbounded for the two laws that leave out the ends: their second moment is heavy, the mean is right all the same
        assert abs(float(z)) < 5
        values.append(float(terms.std()))
    assert len({round(v, 2) for v in values}) == 4


def test_importance_is_the_optimum():
    """Terms c(t) z with z = +-1: the variance int c^2 / p is least, (int c)^2, for p ~ c."""
    schedule = SCHEDULES["linear"]
    t = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    size = torch.exp(3 * t)
    law = TimeDistribution.importance(schedule, t, size, n_bins=100, uniform_share=1e-9)

    def second_moment(p):
        return float((size**2 / p).mean())

    best = float(size.mean()) ** 2
    # a histogram of 100 bins: relative excess (3 / 100)^2 / 12
    assert second_moment(torch.exp(law.log_prob(t))) == pytest.approx(best, rel=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(10):
        p = torch.exp(law.log_prob(t)) * torch.from_numpy(np.exp(0.3 * rng.standard_normal(1000)))
        assert second_moment(p / p.mean()) > best
    assert second_moment(torch.ones_like(t)) / best == pytest.approx((math.exp(6) - 1) / 6 / ((math.exp(3) - 1) / 3) ** 2, rel=1e-4)


def test_importance_gives_no_time_up_and_fills_empty_bins():
    schedule = SCHEDULES["vp"]
    t, size = torch.tensor([0.1, 0.15], dtype=torch.float64), torch.tensor([0.0, 2.0], dtype=torch.float64)
    law = TimeDistribution.importance(schedule, t, size, n_bins=10, uniform_share=0.2)
    # bins are left-closed; bin 1 holds both, root mean square sqrt(2); the nine empty ones count as much: uniform
    torch.testing.assert_close(torch.exp(law.log_prob(torch.linspace(0.05, 0.95, 10).double())), torch.ones(10).double())
    law = TimeDistribution.importance(schedule, torch.tensor([0.25, 0.75]).double(), torch.tensor([0.0, 1.0]).double(), 2, 0.2)
    torch.testing.assert_close(torch.exp(law.log_prob(torch.tensor([0.25, 0.75]).double())), torch.tensor([0.2, 1.8]).double())


def test_shapes_and_dtypes():
    law = TimeDistribution.uniform(SCHEDULES["trig"])
    assert law.log_prob(0.3).shape == ()
    assert law.log_prob(0.3).dtype == torch.float64
    assert law.log_prob(torch.tensor([0.3, 0.4])).dtype == torch.float32
    assert law.quantile(torch.tensor([0.5])).dtype == torch.float32
    assert "uniform" in repr(law)


def test_bad_input_is_refused(user_errors):
    schedule, x = SCHEDULES["linear"], torch.tensor([0.5])
    for maker in MAKERS.values():
        law = maker(schedule)
        with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
            law.log_prob(1.5)
        with pytest.raises(TypeError, match="t must be a number"):
            law.log_prob("0.5")
        with pytest.raises(ValueError, match="t must be finite"):
            law.log_prob(math.nan)
        with pytest.raises(ValueError, match=r"open interval \(0, 1\)"):
            law.quantile(torch.tensor([0.0, 0.5]))
        with pytest.raises(TypeError, match="u must be a floating"):
            law.quantile(torch.tensor([1]))
        with pytest.raises(ValueError, match="n must be an integer"):
            law.sample(0)
    for name, arguments in (("uniform", ()), ("lognormal", ()), ("logit_normal", ()), ("importance", (x, x))):
        with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
            getattr(TimeDistribution, name)("linear", *arguments)
    with pytest.raises(ValueError, match="not finite at t = 1"):
        TimeDistribution.logit_normal(schedule).log_prob(1.0)
    with pytest.raises(ValueError, match="t = 0"):
        TimeDistribution.lognormal(schedule).log_prob(0.0)
    with pytest.raises(ValueError, match="std must be a positive"):
        TimeDistribution.lognormal(schedule, std=0.0)
    with pytest.raises(ValueError, match="mean must be finite"):
        TimeDistribution.logit_normal(schedule, mean=math.nan)
    with pytest.raises(ValueError, match="no mass"):
        TimeDistribution.lognormal(AffineSchedule.vp(), mean=60.0, std=1.0)
    with pytest.raises(ValueError, match="uniform_share"):
        TimeDistribution.importance(schedule, x, x, uniform_share=0.0)
    with pytest.raises(ValueError, match="sizes must be not negative"):
        TimeDistribution.importance(schedule, x, -x)
    with pytest.raises(ValueError, match="sizes must be not negative"):
        TimeDistribution.importance(schedule, x, torch.ones(2))
    with pytest.raises(ValueError, match="sizes must be not negative"):
        TimeDistribution.importance(schedule, x, 0 * x)
    with pytest.raises(ValueError, match="sizes contains NaN"):
        TimeDistribution.importance(schedule, x, x * math.nan)
    with pytest.raises(ValueError, match="n_bins"):
        TimeDistribution.importance(schedule, x, x, n_bins=0)
