"""Divergences against closed forms, scipy's adaptive quadrature and tests, POT, scikit-learn, and their own defining inequalities."""

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, spatial, special, stats
from sklearn.metrics.pairwise import rbf_kernel

from mathcore import divergences as dv

F64 = torch.float64
EPS = torch.finfo(F64).eps
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, g):
    return torch.randn(*shape, generator=g, dtype=F64)


def spd(dim, g):
    a = randn(dim, dim, g=g)
    return a @ a.T + 0.2 * torch.eye(dim, dtype=F64)


def log_normal(x, mean, std):
    return torch.from_numpy(stats.norm.logpdf(x.numpy(), mean, std))


def gaussian(mean, std):
    return lambda x: log_normal(x[:, 0], mean, std)


GRID = torch.linspace(-12, 12, 4001, dtype=F64)


# --- Gaussians


@few
@given(seeds, st.integers(1, 5))
def test_kl_gaussian_equals_torch_distributions(seed, dim):
    g = rng(seed)
    means, covs = randn(2, dim, g=g), [spd(dim, g), spd(dim, g)]
    p, q = (torch.distributions.MultivariateNormal(m, c) for m, c in zip(means, covs))
    # condition numbers reach about 1e3 here, so 1e-10 leaves a factor of 1e3 over float64 rounding
    torch.testing.assert_close(
        dv.kl_gaussian(means[0], covs[0], means[1], covs[1]), torch.distributions.kl_divergence(p, q), rtol=1e-10, atol=1e-12
    )


def test_kl_gaussian_batches_each_argument(generator):
    g, dim, n = generator, 3, 4
    means1, mean2, cov1, covs2 = randn(n, dim, g=g), randn(dim, g=g), spd(dim, g), torch.stack([spd(dim, g) for _ in range(n)])
    got = dv.kl_gaussian(means1, cov1, mean2, covs2)
    assert got.shape == (n,)
    want = torch.stack([dv.kl_gaussian(means1[i], cov1, mean2, covs2[i]) for i in range(n)])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    assert dv.kl_gaussian(means1, cov1, means1, cov1).abs().max() < 10 * dim * EPS


def test_kl_gaussian_in_the_plane_equals_adaptive_quadrature():
    m1, c1, m2, c2 = [0.3, -0.2], [[0.5, 0.2], [0.2, 0.4]], [-0.1, 0.4], [[1.0, -0.3], [-0.3, 0.8]]
    p, q = stats.multivariate_normal(m1, c1), stats.multivariate_normal(m2, c2)
    want, _ = integrate.dblquad(lambda y, x: p.pdf([x, y]) * (p.logpdf([x, y]) - q.logpdf([x, y])), -6, 6, -6, 6, epsabs=1e-9)
    m1, c1, m2, c2 = (torch.tensor(a, dtype=F64) for a in (m1, c1, m2, c2))
    assert float(dv.kl_gaussian(m1, c1, m2, c2)) == pytest.approx(want, abs=1e-8)
    grid = [torch.linspace(-6, 6, 241, dtype=F64)] * 2
    log_p, log_q = (lambda x, d=d: torch.from_numpy(d.logpdf(x.numpy())) for d in (p, q))
    assert float(dv.f_divergence(log_p, log_q, grid, "kl")) == pytest.approx(want, abs=1e-8)


def test_kl_gaussian_keeps_the_dtype():
    eye, zero = torch.eye(2), torch.zeros(2)
    assert dv.kl_gaussian(zero, eye, zero, eye).dtype == torch.float32
    assert dv.wasserstein2_gaussian(zero, eye, zero + 3, eye).dtype == torch.float32


@few
@given(seeds)
def test_noise_reduces_divergences_between_gaussians(seed):
    """Data processing: a shared linear map followed by shared noise brings two laws closer in KL."""
    g = rng(seed)
    (m1, m2), c1, c2, a, noise = randn(2, 3, g=g), spd(3, g), spd(3, g), randn(2, 3, g=g), spd(2, g)
    before = dv.kl_gaussian(m1, c1, m2, c2)
    after = dv.kl_gaussian(a @ m1, a @ c1 @ a.T + noise, a @ m2, a @ c2 @ a.T + noise)
    assert 0 <= after <= before


@few
@given(seeds, st.integers(1, 5))
def test_wasserstein2_gaussian_equals_pot(seed, dim):
    g = rng(seed)
    (m1, m2), c1, c2 = randn(2, dim, g=g), spd(dim, g), spd(dim, g)
    want = float(ot.gaussian.bures_wasserstein_distance(m1, m2, c1, c2))
    assert float(dv.wasserstein2_gaussian(m1, c1, m2, c2)) == pytest.approx(want, rel=1e-8)  # POT subtracts traces
    torch.testing.assert_close(dv.wasserstein2_gaussian(m1, c1, m2, c2), dv.wasserstein2_gaussian(m2, c2, m1, c1), rtol=1e-12, atol=0)


def test_wasserstein2_gaussian_in_closed_form():
    m1, m2 = torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([3.0, 1.0], dtype=F64)
    c1, c2 = torch.diag(torch.tensor([4.0, 1.0], dtype=F64)), torch.diag(torch.tensor([0.0, 9.0], dtype=F64))  # c2 is singular
    want = math.sqrt(3**2 + (2 - 0) ** 2 + (1 - 3) ** 2)  # commuting covariances: the distance between the standard deviations
    assert float(dv.wasserstein2_gaussian(m1, c1, m2, c2)) == pytest.approx(want, rel=1e-14)
    dirac = torch.zeros(2, 2, dtype=F64)
    assert float(dv.wasserstein2_gaussian(m1, dirac, m2, dirac)) == pytest.approx(3.0, rel=1e-14)


def test_wasserstein2_gaussian_resolves_tiny_distances(generator):
    """Subtracted traces would bottom out near sqrt(eps) = 1e-8; the Procrustes form reaches eps."""
    mean, cov = randn(6, g=generator), spd(6, generator)
    assert dv.wasserstein2_gaussian(mean, cov, mean, cov) < 100 * EPS * cov.diagonal().sum().sqrt()
    stretch = 1 + 1e-9  # the optimal map is a scaling of the plane, at distance (stretch - 1) sqrt(tr cov)
    got = float(dv.wasserstein2_gaussian(mean, cov, mean, stretch**2 * cov))
    assert got == pytest.approx(1e-9 * float(cov.trace().sqrt()), rel=1e-4)


# --- quadrature


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js", "tv"])
def test_f_divergence_equals_its_definition_under_adaptive_quadrature(kind):
    """Eq. 1.1.4 with the generator f as printed in the table, integrated by QUADPACK."""
    f = {
        "kl": lambda u: u * np.log(u),
        "reverse_kl": lambda u: -np.log(u),
        "js": lambda u: 0.5 * (u * np.log(u) - (u + 1) * np.log((1 + u) / 2)),
        "tv": lambda u: 0.5 * abs(u - 1),
    }[kind]
    p, q = stats.norm(0.5, 0.8), stats.norm(-0.3, 1.1)
    cuts = np.roots(
        [1 / 1.21 - 1 / 0.64, 2 * (0.5 / 0.64 + 0.3 / 1.21), 0.09 / 1.21 - 0.25 / 0.64 + 2 * np.log(1.1 / 0.8)]
    )  # kinks of tv: p = q
    want, _ = integrate.quad(lambda x: q.pdf(x) * f(p.pdf(x) / q.pdf(x)), -10, 10, points=sorted(cuts), epsabs=1e-11, limit=200)
    got = float(dv.f_divergence(gaussian(0.5, 0.8), gaussian(-0.3, 1.1), GRID, kind))
    # tv has kinks, where the trapezium rule commits h^2/8 * |jump of slope| with h = 6e-3 and slopes below 1
    assert got == pytest.approx(want, abs=1e-5 if kind == "tv" else 1e-9)


def test_kl_quadrature_equals_the_closed_form():
    one = torch.ones(1, 1, dtype=F64)
    for mean, std in [(0.0, 1.0), (1.5, 0.4), (-2.0, 1.3)]:
        want = dv.kl_gaussian(one[0] * mean, one * std**2, one[0] * 0.3, one * 0.9**2)
        torch.testing.assert_close(dv.kl_quadrature_1d(gaussian(mean, std), gaussian(0.3, 0.9), GRID), want, rtol=1e-11, atol=1e-12)


def test_total_variation_of_shifted_gaussians_is_an_error_function():
    shift, std = 1.7, 0.6
    got = float(dv.f_divergence(gaussian(0, std), gaussian(shift, std), GRID, "tv"))
    assert got == pytest.approx(special.erf(shift / (2 * std * math.sqrt(2))), abs=1e-5)  # one kink: h^2/8 * 2 * slope


def test_total_variation_is_the_largest_gap_over_events(generator):
    p, q = stats.norm(0.0, 1.0), stats.norm(0.8, 0.5)
    tv = float(dv.f_divergence(gaussian(0.0, 1.0), gaussian(0.8, 0.5), GRID, "tv"))
    for _ in range(200):
        ends = (4 * randn(6, g=generator)).sort().values.numpy().reshape(3, 2)  # a union of three intervals
        assert abs(sum(p.cdf(b) - p.cdf(a) - q.cdf(b) + q.cdf(a) for a, b in ends)) <= tv + 1e-5


@pytest.mark.parametrize(("kind", "want"), [("kl", math.inf), ("reverse_kl", math.inf), ("js", math.log(2)), ("tv", 1.0)])
def test_disjoint_supports_take_the_slope_at_infinity(kind, want):
    grid = torch.linspace(0, 3, 301, dtype=F64)
    # 100 nodes each, one of them at an end of the grid with half a weight: the mass is 99.5 steps
    log_p = torch.full((301,), -math.inf, dtype=F64)
    log_p[:100] = -math.log(99.5 * 0.01)
    log_q = log_p.flip(0)
    assert float(dv.f_divergence(log_p, log_q, grid, kind)) == pytest.approx(want, abs=1e-12)


def test_kl_of_nested_uniforms_is_infinite_one_way_only():
    grid = torch.linspace(0, 1, 10_001, dtype=F64)
    wide, narrow = torch.zeros_like(grid), torch.where(grid <= 0.75, -math.log(0.75), -math.inf).to(F64)
    assert dv.kl_quadrature_1d(wide, narrow, grid) == math.inf
    # the jump costs half a step: 5e-5 / 0.75 relative
    assert float(dv.kl_quadrature_1d(narrow, wide, grid)) == pytest.approx(-math.log(0.75), rel=1e-4)


def test_far_tails_do_not_underflow_into_infinity():
    grid = torch.linspace(-60, 60, 8001, dtype=F64)
    got = dv.kl_quadrature_1d(gaussian(-40, 1.0), gaussian(40, 1.0), grid)  # q underflows to exactly 0 where p lives
    assert float(got) == pytest.approx(80**2 / 2, rel=1e-12)


@few
@given(st.floats(-2, 2), st.floats(0.3, 2), st.floats(-2, 2), st.floats(0.3, 2))
def test_f_divergences_obey_their_inequalities(m1, s1, m2, s2):
    p, q = gaussian(m1, s1), gaussian(m2, s2)
    value = {kind: float(dv.f_divergence(p, q, GRID, kind)) for kind in ("kl", "reverse_kl", "js", "tv")}
    swapped = {kind: float(dv.f_divergence(q, p, GRID, kind)) for kind in value}
    slack = 1e-5  # the kinks of tv
    assert all(v >= -1e-12 for v in value.values())
    assert value["js"] <= math.log(2) + 1e-12
    assert value["tv"] <= 1 + slack
    assert value["tv"] ** 2 <= value["kl"] / 2 + slack  # Pinsker
    assert value["tv"] ** 2 / 2 <= value["js"] + slack  # Pinsker, applied to the two halves of JS
    assert value["js"] <= math.log(2) * value["tv"] + slack  # Lin 1991
    assert swapped["js"] == pytest.approx(value["js"], abs=1e-13)
    assert swapped["tv"] == pytest.approx(value["tv"], abs=1e-13)
    assert swapped["kl"] == pytest.approx(value["reverse_kl"], rel=1e-12, abs=1e-14)


def mixture(x, weight, m):
    return torch.logaddexp(math.log(weight) + log_normal(x, -m, 1), math.log(1 - weight) + log_normal(x, m, 1))


@pytest.mark.parametrize(("m", "fisher"), [(1, 0.342), (2, 0.200), (3, 2.63e-2), (4, 1.08e-3), (5, 1.52e-5), (6, 7.5e-8)])
def test_fisher_is_blind_to_the_weights_of_separated_modes(m, fisher):
    grid = torch.linspace(-m - 12, m + 12, 6001, dtype=F64)
    x = grid.clone().requires_grad_()
    # the log-densities through torch, so that their scores come from autograd
    logs = [torch.logaddexp(math.log(w) - (x + m) ** 2 / 2, math.log(1 - w) - (x - m) ** 2 / 2) for w in (0.5, 0.9)]
    score_p, score_q = (torch.autograd.grad(v.sum(), x)[0][:, None] for v in logs)
    got = float(dv.fisher_divergence_quadrature(score_p, score_q, mixture(grid, 0.5, m), grid))
    assert got == pytest.approx(fisher, rel=5e-3)  # three printed digits
    kl = float(dv.kl_quadrature_1d(mixture(grid, 0.5, m), mixture(grid, 0.9, m), grid))
    assert kl <= 0.5 * math.log(0.25 / 0.09) + 1e-12
    if m >= 5:
        assert kl == pytest.approx(0.5 * math.log(0.25 / 0.09), abs=1e-4)  # KL sees the weights


def test_fisher_divergence_of_gaussians_in_closed_form(generator):
    m1, s1, m2, s2 = 0.4, 0.7, -0.3, 1.2
    want = s1**2 * (s2**-2 - s1**-2) ** 2 + (m1 - m2) ** 2 * s2**-4
    score_p, score_q = (lambda x: (m1 - x) / s1**2), (lambda x: (m2 - x) / s2**2)
    got = dv.fisher_divergence_quadrature(score_p, score_q, gaussian(m1, s1), GRID)
    assert float(got) == pytest.approx(want, rel=1e-10)
    x = m1 + s1 * randn(20_000, 1, g=generator)
    squares = (score_p(x) - score_q(x)).square()
    assert abs(float(dv.fisher_divergence(score_p, score_q, x)) - want) < 5 * float(squares.std()) / math.sqrt(len(x))


def test_fisher_divergence_ignores_scores_where_there_is_no_mass():
    grid = torch.linspace(-1, 1, 2001, dtype=F64)
    log_p = torch.where(grid.abs() <= 0.5, 0.0, -math.inf).to(F64)
    score_p = torch.where(grid.abs() <= 0.5, 0.0, math.nan).to(F64)[:, None]
    got = dv.fisher_divergence_quadrature(score_p, lambda x: -x, log_p, grid)
    assert float(got) == pytest.approx(1 / 12, rel=1e-2)  # E x^2 of the uniform law; the two jumps cost a step


# --- samples


@few
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_wasserstein1_equals_scipy_and_pot(seed, n, m):
    g = rng(seed)
    x, y = randn(n, g=g), 2 * randn(m, g=g) + 1
    got = float(dv.wasserstein1_1d(x, y))
    assert got == pytest.approx(stats.wasserstein_distance(x.numpy(), y.numpy()), rel=1e-10, abs=1e-13)
    assert got == pytest.approx(float(ot.wasserstein_1d(x.numpy(), y.numpy(), p=1)), rel=1e-10, abs=1e-13)
    assert dv.wasserstein1_1d(y[:, None], x[:, None]) == pytest.approx(got, rel=1e-12)


def test_wasserstein1_equals_the_linear_program(generator):
    x, y = randn(7, g=generator), randn(5, g=generator)
    cost = (x[:, None] - y[None, :]).abs().numpy()
    assert float(dv.wasserstein1_1d(x, y)) == pytest.approx(ot.emd2(np.full(7, 1 / 7), np.full(5, 1 / 5), cost), rel=1e-12)


def test_sliced_wasserstein_on_the_line_is_wasserstein2(generator):
    x, y = randn(30, 1, g=generator), randn(21, 1, g=generator) + 0.5
    want = math.sqrt(float(ot.wasserstein_1d(x[:, 0].numpy(), y[:, 0].numpy(), p=2)))
    assert float(dv.sliced_wasserstein(x, y, 3, generator)) == pytest.approx(want, rel=1e-10)


def test_sliced_wasserstein_agrees_with_pot_and_with_a_translation(generator):
    x, y = randn(50, 3, g=generator), 1.5 * randn(40, 3, g=generator)
    draws = [float(dv.sliced_wasserstein(x, y, 50, generator)) ** 2 for _ in range(20)]
    want = [float(ot.sliced_wasserstein_distance(x, y, n_projections=50, seed=s)) ** 2 for s in range(20)]
    error = math.sqrt((np.var(draws, ddof=1) + np.var(want, ddof=1)) / 20)
    assert abs(np.mean(draws) - np.mean(want)) < 5 * error
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=F64)  # SW^2 = E (shift . direction)^2 = |shift|^2 / 3
    squares = [float(dv.sliced_wasserstein(x, x + shift, 50, generator)) ** 2 for _ in range(20)]
    assert abs(np.mean(squares) - float(shift @ shift) / 3) < 5 * np.std(squares, ddof=1) / math.sqrt(20)


def test_sliced_wasserstein_repeats_with_the_generator(generator):
    x, y = randn(10, 2, g=generator), randn(10, 2, g=generator)
    assert dv.sliced_wasserstein(x, y, 8, rng(1)) == dv.sliced_wasserstein(x, y, 8, rng(1))
    assert dv.sliced_wasserstein(x, y, 8, rng(1)) != dv.sliced_wasserstein(x, y, 8, rng(2))


@few
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.integers(1, 3))
def test_energy_distance_and_mmd_equal_library_sums(seed, n, m, dim):
    g = rng(seed)
    x, y = randn(n, dim, g=g), randn(m, dim, g=g) + 0.5

    def mean(a, b):
        return spatial.distance.cdist(a.numpy(), b.numpy()).mean()

    energy = float(dv.energy_distance(x, y))
    assert energy == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), abs=1e-12)
    assert energy == pytest.approx(float(dv.energy_distance(y, x)), abs=1e-13)
    assert energy >= -1e-14
    if dim == 1:
        assert energy == pytest.approx(stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2, abs=1e-12)
    gamma = 1 / (2 * 0.7**2)
    want = rbf_kernel(x, x, gamma).mean() + rbf_kernel(y, y, gamma).mean() - 2 * rbf_kernel(x, y, gamma).mean()
    mmd = float(dv.mmd_rbf(x, y, 0.7))
    assert mmd == pytest.approx(want, abs=1e-12)
    assert mmd >= -1e-14
    assert dv.energy_distance(x, x).abs() < 1e-14
    assert dv.mmd_rbf(x, x, 0.7).abs() < 1e-14


def test_energy_distance_does_not_depend_on_the_blocks(generator, monkeypatch):
    x, y = randn(57, 2, g=generator), randn(41, 2, g=generator)
    whole = dv.energy_distance(x, y)
    monkeypatch.setattr(dv, "_PAIRS_AT_ONCE", 100)
    torch.testing.assert_close(dv.energy_distance(x, y), whole, rtol=1e-12, atol=1e-14)


def test_energy_distance_in_many_dimensions(generator):
    """Above 32 dimensions distances come from matrix products; far from the origin those would cancel if nothing were centred."""
    x, y = 1e6 + randn(30, 50, g=generator), 1e6 + 1.1 * randn(20, 50, g=generator)
    means = [spatial.distance.cdist(a.numpy(), b.numpy()).mean() for a, b in ((x, y), (x, x), (y, y))]
    # a point to itself: sqrt(eps) * |x| = 1e-7, averaged over pairs; the coordinates themselves carry eps * 1e6 = 2e-10
    assert float(dv.energy_distance(x, y)) == pytest.approx(2 * means[0] - means[1] - means[2], abs=1e-7)


def test_energy_distance_in_float32_far_from_the_origin(generator):
    x = (1e3 + 1e-2 * randn(200, 2, g=generator)).float()
    y = x + torch.tensor([1e-2, 0.0])
    torch.testing.assert_close(dv.energy_distance(x, y), dv.energy_distance(x.double(), y.double()).float(), rtol=1e-6, atol=0)


def test_energy_distance_is_differentiable(generator):
    x, y = randn(6, 2, g=generator).requires_grad_(), randn(5, 2, g=generator)
    assert torch.autograd.gradcheck(lambda a: dv.energy_distance(a, y), (x,))
    assert torch.autograd.gradcheck(lambda a: dv.mmd_rbf(a, y, 0.8), (x,))


def test_ks_equals_scipy(generator):
    for n in (1, 5, 50, 500):
        x = randn(n, g=generator)
        want = stats.ks_1samp(x.numpy(), stats.norm.cdf, method="exact")
        statistic, p_value = dv.ks_1d(x, torch.special.ndtr)
        assert statistic == pytest.approx(want.statistic, abs=1e-14)
        assert p_value == pytest.approx(want.pvalue, rel=1e-9)
        assert dv.ks_1d(x[:, None], torch.special.ndtr) == (statistic, p_value)


def test_ks_rejects_a_wrong_law(generator):
    x = randn(1000, g=generator)
    assert dv.ks_1d(x, torch.special.ndtr)[1] > 1e-3
    assert dv.ks_1d(1.4 * x, torch.special.ndtr)[1] < 1e-3


def test_floor_equals_the_expected_bias(generator):
    """For n draws of N(0, 1), E|X - X'| = 2/sqrt(pi) and E exp(-(X - X')^2/2) = 1/sqrt(3); the statistics say what floors follow."""
    n, repeats = 50, 200

    def sample(k, g):
        return randn(k, 1, g=g)

    for metric, want in [
        (dv.energy_distance, 2 * (2 / math.sqrt(math.pi)) / n),
        (lambda x, y: dv.mmd_rbf(x, y, 1.0), 2 * (1 - 3**-0.5) / n),
    ]:
        mean, std = dv.two_sample_floor(metric, sample, n, repeats, generator)
        assert abs(mean - want) < 5 * std / math.sqrt(repeats)
        assert dv.two_sample_floor(metric, sample, n, 3, rng(4)) == dv.two_sample_floor(metric, sample, n, 3, rng(4))


# --- bad input


def points(n=3, dim=2):
    return torch.arange(n * dim, dtype=F64).reshape(n, dim)


@pytest.mark.parametrize("metric", [dv.energy_distance, dv.sliced_wasserstein, lambda x, y: dv.mmd_rbf(x, y, 1.0)])
@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        ([[1.0]], points(), TypeError, "x must be a torch.Tensor"),
        (points().long(), points(), TypeError, "x must be a floating-point"),
        (points(), points().float(), TypeError, "share one dtype"),
        (points(), points(3, 1), ValueError, "y must have last dimension 2"),
        (points(), points()[0], ValueError, "y must have 2 axes"),
        (points()[:0], points(), ValueError, "x must hold at least one"),
        (points(), points() * math.nan, ValueError, "y contains NaN"),
    ],
)
def test_two_sample_metrics_refuse_bad_input(user_errors, metric, x, y, error, match):
    with pytest.raises(error, match=match):
        metric(x, y)


GOOD = {
    "mean1": torch.zeros(2, dtype=F64),
    "cov1": torch.eye(2, dtype=F64),
    "mean2": torch.ones(2, dtype=F64),
    "cov2": torch.eye(2, dtype=F64),
}


@pytest.mark.parametrize("function", [dv.kl_gaussian, dv.wasserstein2_gaussian])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"mean1": [0.0, 0.0]}, TypeError, "mean1 must be a torch.Tensor"),
        ({"cov1": torch.eye(2, dtype=torch.int64)}, TypeError, "cov1 must be a floating-point"),
        ({"cov2": torch.eye(2)}, TypeError, "share one dtype"),
        ({"mean1": torch.tensor(0.0, dtype=F64)}, ValueError, "mean1 must have shape"),
        ({"mean2": torch.zeros(3, dtype=F64)}, ValueError, "mean2 must have shape"),
        ({"cov1": torch.ones(2, dtype=F64)}, ValueError, "cov1 must have shape"),
        ({"cov2": torch.eye(3, dtype=F64)}, ValueError, "cov2 must have shape"),
        ({"mean1": torch.zeros(2, dtype=F64) * math.nan}, ValueError, "mean1 contains NaN"),
        ({"cov1": torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=F64)}, ValueError, "cov1 must be symmetric"),
        ({"cov2": torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)}, ValueError, "cov2 must be positive"),
    ],
)
def test_gaussians_refuse_bad_input(user_errors, function, change, error, match):
    with pytest.raises(error, match=match):
        function(**(GOOD | change))


def test_kl_refuses_singular_and_uneven_batches(user_errors):
    with pytest.raises(ValueError, match="cov2 must be positive definite"):
        dv.kl_gaussian(**(GOOD | {"cov2": torch.zeros(2, 2, dtype=F64)}))
    with pytest.raises(ValueError, match="batches of means and covariances"):
        dv.kl_gaussian(**(GOOD | {"mean1": torch.zeros(3, 2, dtype=F64), "mean2": torch.zeros(4, 2, dtype=F64)}))
    with pytest.raises(ValueError, match="mean1 must have shape"):
        dv.wasserstein2_gaussian(**(GOOD | {"mean1": torch.zeros(3, 2, dtype=F64)}))


@pytest.mark.parametrize(
    ("log_p", "grid", "kind", "error", "match"),
    [
        (gaussian(0, 1), GRID, "kll", ValueError, "did you mean 'kl'"),
        (gaussian(0, 1), GRID.flip(0), "kl", ValueError, "grid must be strictly increasing"),
        (gaussian(0, 1), GRID[:1], "kl", ValueError, "at least 2 nodes"),
        (gaussian(0, 1), GRID.long(), "kl", TypeError, "grid must be a floating-point"),
        (gaussian(0, 1), 12.0, "kl", TypeError, "grid must be a torch.Tensor"),
        (gaussian(0, 1), GRID * math.nan, "kl", ValueError, "grid contains NaN"),
        (lambda x: x.numpy(), GRID, "kl", TypeError, "log_p must give a floating-point tensor"),
        (lambda x: -(x**2), GRID, "kl", ValueError, "log_p must give shape"),
        (lambda x: x[:, 0] * math.nan, GRID, "js", ValueError, "log_p contains NaN"),
        (lambda x: -(x[:, 0] ** 2) / 2, GRID, "tv", ValueError, "log_p integrates to 2.507"),
        (gaussian(11, 1), GRID, "tv", ValueError, "log_p integrates to 0.84"),
    ],
)
def test_f_divergence_refuses_bad_input(user_errors, log_p, grid, kind, error, match):
    with pytest.raises(error, match=match):
        dv.f_divergence(log_p, gaussian(0, 1), grid, kind)


def test_other_functions_refuse_bad_input(user_errors):
    x = points(4, 1)
    with pytest.raises(ValueError, match="grid must have 1 axes"):
        dv.kl_quadrature_1d(gaussian(0, 1), gaussian(0, 1), GRID[:, None])
    with pytest.raises(TypeError, match=r"grid must be a torch\.Tensor"):
        dv.kl_quadrature_1d(gaussian(0, 1), gaussian(0, 1), [GRID, GRID])
    with pytest.raises(ValueError, match="score_q must give shape"):
        dv.fisher_divergence(lambda v: v, lambda v: v[:, 0], x)
    with pytest.raises(TypeError, match="score_p must give"):
        dv.fisher_divergence(lambda v: v.long(), lambda v: v, x)
    with pytest.raises(ValueError, match="contains NaN"):
        dv.fisher_divergence(lambda v: v * math.nan, lambda v: v, x)
    with pytest.raises(ValueError, match="samples must hold at least one"):
        dv.fisher_divergence(lambda v: v, lambda v: v, x[:0])
    with pytest.raises(ValueError, match="contains NaN"):
        dv.fisher_divergence_quadrature(lambda v: v * math.nan, lambda v: v, gaussian(0, 1), GRID)
    with pytest.raises(ValueError, match=r"x must have shape \(N,\)"):
        dv.wasserstein1_1d(points(), x)
    with pytest.raises(TypeError, match="share one dtype"):
        dv.wasserstein1_1d(x, x.float())
    with pytest.raises(ValueError, match="n_projections must be at least 1"):
        dv.sliced_wasserstein(x, x, 0)
    with pytest.raises(ValueError, match="bandwidth must be a positive"):
        dv.mmd_rbf(x, x, 0.0)
    with pytest.raises(ValueError, match=r"cdf\(samples\) must be 4 values in \[0, 1\]"):
        dv.ks_1d(x, lambda v: v)
    with pytest.raises(ValueError, match="samples must have shape"):
        dv.ks_1d(points(), torch.special.ndtr)
    with pytest.raises(ValueError, match="repeats at least 2"):
        dv.two_sample_floor(dv.energy_distance, lambda n, g: x, 4, repeats=1)
