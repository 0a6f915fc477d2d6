"""The conversions that the Notation page states, against exact fields of a mixture under both conventions. Needs no built book."""

import pytest
import torch

from mathcore.data import examples
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule

A = AffineSchedule.vp()
T = 0.4
# float64 sums of two components with coefficients of order one: a few hundred units in the last place
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture
def points():
    return torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]


def oracles(other):
    data = examples.two_modes()
    return AffineGaussianOracle(data, A), AffineGaussianOracle(data, other)


def test_edm_is_any_schedule_divided_by_its_signal(points):
    here, edm = oracles(AffineSchedule.edm())
    sigma = torch.exp(-A.half_log_snr(T))
    x = points / A.alpha(T)
    torch.testing.assert_close(edm.noise(x, sigma), here.noise(points, T), **CLOSE)
    torch.testing.assert_close(edm.clean(x, sigma), here.clean(points, T), **CLOSE)
    torch.testing.assert_close(edm.score(x, sigma), A.alpha(T) * here.score(points, T), **CLOSE)


def test_the_linear_path_is_any_schedule_divided_by_its_sum(points):
    here, linear = oracles(AffineSchedule.linear())
    scale = A.alpha(T) + A.sigma(T)
    t = 1 / (1 + torch.exp(A.half_log_snr(T)))
    torch.testing.assert_close(t, A.sigma(T) / scale, **CLOSE)
    torch.testing.assert_close(linear.velocity(points / scale, t), here.noise(points, T) - here.clean(points, T), **CLOSE)


def test_equal_half_log_snr_is_equal_up_to_units(points):
    B = AffineSchedule.trig()
    here, there = oracles(B)
    s = B.inverse_half_log_snr(A.half_log_snr(T))
    torch.testing.assert_close(
        there.clean(points * B.alpha(s) / A.alpha(T), s), here.clean(points, T), rtol=1e-8, atol=1e-9
    )  # time to 1e-10


def test_the_table_of_velocity_conversions(points):
    here, _ = oracles(A)
    a, s, da, ds = A.alpha(T), A.sigma(T), A.dalpha(T), A.dsigma(T)
    v, w = here.velocity(points, T), a * ds - da * s
    torch.testing.assert_close((a * v - da * points) / w, here.noise(points, T), **CLOSE)
    torch.testing.assert_close((ds * points - s * v) / w, here.clean(points, T), **CLOSE)
    torch.testing.assert_close(-(a * v - da * points) / (s * w), here.score(points, T), **CLOSE)


def test_published_betas_are_variances():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    chain = DiscreteSchedule.from_beta_var(betas)
    torch.testing.assert_close(chain.alpha_bar[1:] ** 2, torch.cumprod(1 - betas, 0), **CLOSE)
    torch.testing.assert_close(torch.as_tensor(chain.posterior_var(1)), torch.zeros((), dtype=torch.float64))
