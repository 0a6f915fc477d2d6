"""Langevin chains against linear algebra, the integrator of SDEs, exact invariance, and the spectrum of the Ornstein-Uhlenbeck process."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.divergences import ks_1d
from mathcore.dynamics import SDE, SolverDivergedError, integrate_sde
from mathcore.scores.langevin import (
    annealed_langevin,
    annealed_langevin_gaussian,
    annealed_steps,
    geometric_sigmas,
    langevin,
    langevin_spectral_gap_1d,
    ula_gaussian,
    ula_gaussian_variance,
)

f64 = torch.float64


def f(values):
    return torch.tensor(values, dtype=f64)


def test_a_chain_is_euler_maruyama_of_the_langevin_equation(generator):
    data, eta, n = examples.ring(), 0.01, 20
    x0 = torch.randn(6, 2, dtype=f64, generator=generator)
    noise = torch.randn(n, 6, 2, dtype=f64, generator=generator)
    got = langevin(data.score, x0, eta, n, noise=noise, return_trajectory=True)
    sde = SDE(lambda x, t: data.score(x), lambda t: math.sqrt(2.0), 0.0, n * eta)
    ts = eta * torch.arange(n + 1, dtype=f64)
    ts[-1] = n * eta
    want = integrate_sde(sde, x0, ts, noise=noise, return_path=True)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)  # the steps differ by rounding of the times
    torch.testing.assert_close(langevin(data.score, x0, eta, n, noise=noise), got[:, -1], rtol=0, atol=0)


def test_same_generator_same_chain_and_any_shape(generator):
    x0 = torch.zeros(3, 1, 2, 2, dtype=torch.float32)
    runs = [langevin(lambda x: -x, x0, 0.1, 5, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert runs[0].dtype == torch.float32
    assert torch.equal(*runs)
    assert len(runs[0].unique()) == 12  # every coordinate of every row has noise of its own


@run(max_examples=25, deadline=None)
@given(st.floats(0.05, 3.0), st.floats(0.01, 2.5), st.floats(-2, 2), st.integers(1, 12))
def test_gaussian_moments_are_those_of_the_linear_map(var, share, mean, n):
    """With a linear score the last state is a linear function of start and noise: read its coefficients off, and add their squares."""
    eta, mean0, var0 = share * var, 0.7, 1.3
    score = lambda x: -(x - mean) / var  # noqa: E731
    # rows: the start at mean0 without noise, a start shifted by 1, and one unit noise at each step
    x0 = torch.full((n + 2, 1), mean0, dtype=f64)
    x0[1] += 1
    noise = torch.zeros(n, n + 2, 1, dtype=f64)
    noise[range(n), range(2, n + 2)] = 1
    out = langevin(score, x0, eta, n, noise=noise)[:, 0]
    gains = out[1:] - out[0]
    got = ula_gaussian(mean, var, eta, n, mean0, var0)
    assert got[0] == pytest.approx(float(out[0]), rel=1e-9, abs=1e-9)
    assert got[1] == pytest.approx(float(var0 * gains[0] ** 2 + gains[1:].square().sum()), rel=1e-8)


@run(max_examples=25, deadline=None)
@given(st.floats(0.1, 10.0), st.floats(0.05, 1.9))
def test_the_stationary_variance_stays(var, share):
    eta = share * var
    stationary = ula_gaussian_variance(var, eta)
    assert stationary > var
    assert ula_gaussian(0.0, var, eta, 50, 0.0, stationary)[1] == pytest.approx(stationary, rel=1e-12)
    assert ula_gaussian(0.0, var, eta, 2000, 5.0, 0.0) == pytest.approx((0.0, stationary), rel=1e-9, abs=1e-9)


def test_beyond_the_limit_of_stability():
    with pytest.raises(ValueError, match="no stationary law"):
        ula_gaussian_variance(1.0, 2.0)
    assert ula_gaussian(0.0, 1.0, 2.1, 100, 0.0, 1.0)[1] > 1e6
    with pytest.raises(SolverDivergedError, match="smaller than 50"):
        langevin(lambda x: -x, torch.ones(2, 1), 50.0, 100)


def test_metropolis_leaves_the_target_alone_where_the_plain_chain_does_not(generator):
    data, n, eta = examples.two_modes(), 8000, 0.06
    x0 = data.sample(n, generator)
    plain = langevin(data.score, x0, eta, 30, generator)
    exact = langevin(data.score, x0, eta, 30, generator, metropolis_log_prob=data.log_prob)
    assert ks_1d(exact, data.cdf)[1] > 1e-3
    assert ks_1d(plain, data.cdf)[1] < 1e-6  # the stationary variance of the narrow mode alone is 4 times too large
    moved = langevin(data.score, x0, eta, 1, generator, metropolis_log_prob=data.log_prob) != x0
    assert 0.3 < float(moved.double().mean()) < 0.99


def test_metropolis_takes_or_leaves_whole_rows(generator):
    x0 = torch.randn(500, 3, dtype=f64, generator=generator)
    out = langevin(lambda x: -x, x0, 1.2, 1, generator, metropolis_log_prob=lambda x: -x.square().sum(1) / 2)
    moved = (out != x0).sum(1)
    assert set(moved.tolist()) == {0, 3}


def test_gap_of_a_gaussian_is_that_of_hermite_polynomials():
    var = 0.4
    grid = torch.linspace(-9, 9, 401, dtype=f64) * math.sqrt(var)
    got = langevin_spectral_gap_1d(lambda x: -x[:, 0].square() / (2 * var), grid, k=3)
    torch.testing.assert_close(got, f([1, 2, 3]) / var, rtol=1e-6, atol=0)


def test_the_gap_is_accurate_to_the_square_of_the_spacing():
    law = GaussianMixture(f([0.5, 0.5]), f([[-1], [1]]), f([1.0, 1.0]))
    gaps = [float(langevin_spectral_gap_1d(law.log_prob, torch.linspace(-9, 9, m, dtype=f64))) for m in (201, 401, 801)]
    assert (gaps[1] - gaps[0]) / (gaps[2] - gaps[1]) == pytest.approx(4, rel=0.01)


def test_gap_of_two_modes_against_an_independent_discretisation():
    """Values computed before this code, from the Schrodinger form of the operator on a sinc grid, to all digits given."""
    want = {0: 1.0, 1: 0.48507, 2: 0.11906, 3: 1.4317e-2, 4: 6.201e-4, 5: 8.952e-6}
    for m, gap in want.items():
        law = GaussianMixture(f([0.5, 0.5]), f([[-m], [m]]), f([1.0, 1.0]))
        grid = torch.linspace(-m - 8, m + 8, 2001, dtype=f64)
        assert float(langevin_spectral_gap_1d(law.log_prob, grid)) == pytest.approx(gap, rel=1e-4)


def test_gap_on_an_uneven_grid_and_an_unnormalised_density():
    u = torch.linspace(-1, 1, 801, dtype=f64)
    gap = langevin_spectral_gap_1d(lambda x: 50 - x[:, 0].square() / 2, 3 * u + 4 * u**3)
    assert float(gap) == pytest.approx(1.0, rel=1e-3)


def test_levels_and_steps():
    sigmas = geometric_sigmas(0.05, 8, 10)
    assert float(sigmas[0]) == 0.05
    assert float(sigmas[-1]) == 8.0
    ratio = sigmas[1:] / sigmas[:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(9))
    steps = annealed_steps(sigmas, 1e-4)
    assert float(steps[0]) == pytest.approx(1e-4)
    torch.testing.assert_close((steps / sigmas.square()).diff(), torch.zeros(9, dtype=f64))


@pytest.mark.parametrize("include_last", [True, False])
def test_annealed_visits_the_levels_downwards(include_last):
    calls = []

    def score(x, sigma):
        calls.append(sigma)
        return -x / sigma**2

    sigmas = f([0.5, 1.0, 2.0])
    out = annealed_langevin(score, (4, 2), sigmas, annealed_steps(sigmas, 0.01), [2, 3, 4], include_last=include_last, return_levels=True)
    assert calls == [2.0] * 4 + [1.0] * 3 + ([0.5] * 2 if include_last else [])
    assert out.shape == (4, 4 if include_last else 3, 2)


@pytest.mark.parametrize(("init_std", "include_last"), [(None, True), (1.0, False)])
def test_annealed_moments(init_std, include_last, generator):
    mean, var, n = 0.8, 0.3, 40_000
    data = GaussianMixture(f([1.0]), f([[mean]]), f([var]))
    sigmas = geometric_sigmas(0.3, 3.0, 4)
    steps = annealed_steps(sigmas, 0.02)
    out = annealed_langevin(
        lambda x, s: data.corrupted_score(x, 1.0, s), (n, 1), sigmas, steps, 15, init_std, include_last, generator=generator
    )
    want_mean, want_var = annealed_langevin_gaussian(mean, var, sigmas, steps, 15, init_std, include_last)
    assert abs(float(out.mean()) - want_mean) < 5 * math.sqrt(want_var / n)
    assert abs(float(out.var()) / want_var - 1) < 5 * math.sqrt(2 / n)  # Gaussian: variance of a sample variance is 2 v^2 / n


def test_annealed_moments_known_elsewhere():
    """Variance of one mode of unit variance, sigma from 0.5 to 20 in ten levels, delta 0.02, 100 steps a level: two values computed before this code."""
    sigmas = geometric_sigmas(0.5, 20, 10)
    steps = annealed_steps(sigmas, 0.02)
    got = [annealed_langevin_gaussian(0, 1, sigmas, steps, 100, include_last=last)[1] for last in (False, True)]
    assert got == pytest.approx([1.5926, 1.2733], abs=1e-4)


def test_denoising_ends_with_the_posterior_mean():
    point = f([0.3, -1.0])
    sigmas = f([0.1, 1.0])
    out = annealed_langevin(
        lambda x, s: (point - x) / s**2, (5, 2), sigmas, annealed_steps(sigmas, 1e-3), 10, denoise=True, return_levels=True
    )
    torch.testing.assert_close(out[:, -1], point.expand(5, 2), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"step": 0.0}, ValueError, "step must be a positive"),
        ({"n_steps": 0}, ValueError, "n_steps must be an integer"),
        ({"n_steps": 2.5}, ValueError, "n_steps must be an integer"),
        ({"x0": torch.tensor([[float("nan")]])}, ValueError, "x0 contains NaN"),
        ({"x0": torch.tensor([[1]])}, TypeError, "x0 must be a floating-point"),
        ({"x0": torch.tensor(1.0)}, ValueError, "0-d"),
        ({"score": lambda x: x[:, :0]}, ValueError, "score must return the shape"),
        ({"score": lambda x: x.long()}, TypeError, "score must return a floating-point"),
        ({"noise": torch.zeros(3, 2, 1)}, ValueError, "noise must have shape"),
        ({"metropolis_log_prob": lambda x: x}, ValueError, "metropolis_log_prob must return one number per row"),
    ],
)
def test_langevin_refuses(change, error, match, user_errors):
    arguments = {"score": lambda x: -x, "x0": torch.zeros(2, 1), "step": 0.1, "n_steps": 2} | change
    with pytest.raises(error, match=match):
        langevin(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"sigmas": f([1.0, 0.5])}, ValueError, "sigmas must be positive and strictly ascending"),
        ({"sigmas": f([0.0, 0.5])}, ValueError, "sigmas must be positive"),
        ({"sigmas": torch.tensor([1, 2])}, TypeError, "sigmas must be a floating-point"),
        ({"steps": f([1.0])}, ValueError, "steps must be 2 positive numbers"),
        ({"steps": f([1.0, -1.0])}, ValueError, "steps must be 2 positive numbers"),
        ({"n_steps": [1]}, ValueError, "one for each of the 2 levels"),
        ({"n_steps": [1, 0]}, ValueError, "n_steps must be an integer"),
        ({"init_std": 0.0}, ValueError, "init_std must be a positive"),
        ({"sigmas": f([1.0]), "steps": f([1.0]), "include_last": False}, ValueError, "no level to run"),
    ],
)
def test_annealed_refuses(change, error, match, user_errors):
    arguments = {"score": lambda x, s: -x, "shape": (2, 1), "sigmas": f([0.5, 1.0]), "steps": f([0.1, 0.1]), "n_steps": 1} | change
    with pytest.raises(error, match=match):
        annealed_langevin(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: geometric_sigmas(1.0, 1.0, 3), ValueError, "sigma_max must exceed"),
        (lambda: geometric_sigmas(0.1, 1.0, 1), ValueError, "n_levels"),
        (lambda: annealed_steps(f([1.0, 2.0]), 0.0), ValueError, "delta"),
        (lambda: ula_gaussian(0, -1, 0.1, 1, 0, 1), ValueError, "var must be"),
        (lambda: ula_gaussian(0, 1, 0.1, 1, 0, -1), ValueError, "var0"),
        (lambda: annealed_langevin_gaussian(0, -1, f([1.0]), f([0.1]), 1), ValueError, "var must be a finite"),
        (lambda: langevin_spectral_gap_1d(lambda x: -(x[:, 0] ** 2), f([0.0, 0.0, 1.0])), ValueError, "increasing nodes"),
        (lambda: langevin_spectral_gap_1d(lambda x: -(x[:, 0] ** 2), f([0.0, 1.0]), k=2), ValueError, "k must be below"),
        (lambda: langevin_spectral_gap_1d(lambda x: x[:, 0].log(), f([0.0, 1.0, 2.0])), ValueError, "log_prob on the grid contains NaN"),
        (lambda: langevin_spectral_gap_1d(lambda x: x, f([0.0, 1.0])), ValueError, "log_prob must return one number per row"),
    ],
)
def test_the_others_refuse(call, error, match, user_errors):
    with pytest.raises(error, match=match):
        call()
