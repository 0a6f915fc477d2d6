"""The time grids: exact ends, equal steps in what they say, agreement with published grids."""

import math

import pytest
import torch
from problems import F64, SCHEDULES

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import grids

SPACINGS = {
    "uniform_t": (grids.uniform_t, lambda s, t: t),
    "quadratic_t": (grids.quadratic_t, lambda s, t: t.sqrt()),
    "exponential": (grids.exponential, lambda s, t: t.log()),
    "uniform_lambda": (grids.uniform_lambda, lambda s, t: s.half_log_snr(t)),
    "karras": (grids.karras, lambda s, t: (s.sigma(t) / s.alpha(t)) ** (1 / 7)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_equal_steps(name, spacing):
    schedule, (make, measure) = SCHEDULES[name], SPACINGS[spacing]
    grid = make(schedule, 12)
    assert grid.dtype == F64
    assert grid.shape == (13,)
    assert (float(grid[0]), float(grid[-1])) == grids.ends(schedule)
    steps = measure(schedule, grid).diff()
    # the inverse of the half-log-SNR is good to 1e-10 relative
    torch.testing.assert_close(steps, steps.mean().expand(12), rtol=1e-8, atol=1e-12)
    clean = make(schedule, 13, to_clean=True)
    assert torch.equal(clean[:-1], grid)
    assert float(clean[-1]) == schedule.t_min
    inner = make(schedule, 3, t_start=0.5, t_end=0.25)
    assert (float(inner[0]), float(inner[-1])) == (0.5, 0.25)


def test_default_ends():
    assert grids.ends(AffineSchedule.vp()) == (1.0, 0.001)
    assert grids.ends(AffineSchedule.edm()) == (80.0, 0.002)
    assert grids.ends(AffineSchedule.linear()) == (0.999, 0.001)
    low = AffineSchedule.from_alpha_sigma(lambda t: 1 - t / 4, lambda t: (1 + t) / 4, t_min=0.0, t_max=1.0)
    assert grids.ends(low) == (1.0, 0.0)


def test_karras_grid_of_the_paper():
    grid = grids.karras(AffineSchedule.edm(), 18, t_start=80.0, t_end=0.002, to_clean=True)
    i = torch.arange(18, dtype=F64) / 17
    want = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(grid[:-1], want, rtol=1e-12, atol=0)
    assert float(grid[-1]) == 0.0


def test_exponential_is_uniform_in_lambda_on_the_edm_schedule():
    schedule = AffineSchedule.edm()
    torch.testing.assert_close(grids.exponential(schedule, 9), grids.uniform_lambda(schedule, 9), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("spacing", "want"),
    [("leading", [801, 601, 401, 201, 1, 0]), ("trailing", [1000, 800, 600, 400, 200, 0]), ("linspace", [1000, 750, 500, 251, 1, 0])],
)
def test_chain_spacings(spacing, want):
    # table 2 of Lin et al. 2024 for 5 steps, its timesteps 0..999 written as indices 1..1000
    assert grids.discrete(DiscreteSchedule.linear(1000), 5, spacing).tolist() == want


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_all_steps_of_a_chain(spacing):
    assert grids.discrete(DiscreteSchedule.linear(40), 40, spacing).tolist() == list(range(40, -1, -1))
    assert grids.discrete(DiscreteSchedule.linear(40), 1, spacing).tolist()[-1] == 0


@pytest.mark.usefixtures("user_errors")
def test_refusals():
    vp, chain = AffineSchedule.vp(), DiscreteSchedule.linear(50)
    for make, _ in SPACINGS.values():
        for n in (0, -3, 2.0, True):
            with pytest.raises(ValueError, match="n must be an integer"):
                make(vp, n)
        with pytest.raises(ValueError, match="at least 2"):
            make(vp, 1, to_clean=True)
        with pytest.raises(ValueError, match="domain"):
            make(vp, 4, t_start=1.5)
        with pytest.raises(ValueError, match="t_end < t_start"):
            make(vp, 4, t_start=0.2, t_end=0.3)
        with pytest.raises(ValueError, match="t_end < t_start"):
            make(vp, 4, t_start=math.nan)
        with pytest.raises(ValueError, match="t_end must lie above"):
            make(vp, 4, t_end=0.0, to_clean=True)
        with pytest.raises(TypeError, match=r"grids\.discrete"):
            make(chain, 4)
    for make in (grids.uniform_lambda, grids.karras, grids.exponential):
        with pytest.raises(ValueError, match=r"t_end > 0|infinite"):
            make(vp, 4, t_end=0.0)
    with pytest.raises(ValueError, match="rho"):
        grids.karras(vp, 4, rho=0.0)
    with pytest.raises(ValueError, match="coincide"):
        grids.uniform_t(vp, 4, t_start=0.5 + 1e-16, t_end=0.5 - 1e-16)
    with pytest.raises(TypeError, match="DiscreteSchedule"):
        grids.discrete(vp, 4)
    for n in (0, 51, 2.0):
        with pytest.raises(ValueError, match=r"1\.\.50"):
            grids.discrete(chain, n)
    with pytest.raises(ValueError, match="spacing must be one of"):
        grids.discrete(chain, 4, "quadratic")
