"""Tweedie's formulas against exact posteriors, and Stein's estimate against the risk it estimates, by Gauss-Hermite quadrature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.scores.denoise import sure, tweedie_cov, tweedie_cumulant, tweedie_mean

f64 = torch.float64


def mixture(dim, seed=0):
    g = torch.Generator().manual_seed(seed)
    roots = 0.4 * torch.randn(3, dim, dim, dtype=f64, generator=g)
    covs = roots @ roots.mT + 0.1 * torch.eye(dim, dtype=f64)
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5], dtype=f64), torch.randn(3, dim, dtype=f64, generator=g), covs)


@run(max_examples=25, deadline=None)
@given(st.sampled_from([1, 2, 16]), st.floats(0.2, 2.0), st.floats(0.1, 3.0), st.booleans())
def test_mean_and_covariance_of_a_mixture(dim, alpha, sigma, flip):
    alpha = -alpha if flip else alpha
    data = mixture(dim)
    x = data.corrupt(alpha, sigma).sample(8, torch.Generator().manual_seed(1))
    mean = tweedie_mean(x, data.corrupted_score(x, alpha, sigma), alpha, sigma)
    cov = tweedie_cov(data.corrupted_score_jacobian(x, alpha, sigma), alpha, sigma)
    # adding x and sigma^2 score cancels up to sigma^2 / alpha^2 / cov: three more digits are lost at most here
    torch.testing.assert_close(mean, data.posterior_mean(x, alpha, sigma), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cov, data.posterior_cov(x, alpha, sigma), rtol=1e-9, atol=1e-9 * (sigma / alpha) ** 2)


def test_cumulants_to_the_fourth_order_on_the_line():
    """Posterior cumulants by quadrature of p(x_0) N(x; alpha x_0, sigma^2), no score involved."""
    data, alpha, sigma = mixture(1), 0.8, 0.7
    x = torch.tensor([[-1.5], [-0.2], [0.4], [1.9]], dtype=f64)
    grid, w = quadrature_nodes(torch.linspace(-9, 9, 4001, dtype=f64))
    for row in x:
        p = w * data.prob(grid) * torch.exp(-((row - alpha * grid[:, 0]) ** 2) / (2 * sigma**2))
        p = p / p.sum()
        mean = (p * grid[:, 0]).sum()
        m2, m3, m4 = ((p * (grid[:, 0] - mean) ** k).sum() for k in (2, 3, 4))
        want = torch.stack([mean, m2, m3, m4 - 3 * m2**2])
        score = lambda y: data.corrupted_score(y, alpha, sigma)  # noqa: E731
        got = torch.stack([tweedie_cumulant(score, row[None], k, alpha, sigma).flatten()[0] for k in (1, 2, 3, 4)])
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_third_cumulant_in_the_plane_is_the_tensor_of_third_central_moments():
    data, alpha, sigma = examples.two_moons(), 0.9, 0.5
    x = torch.tensor([[0.3, 0.4]], dtype=f64)
    axis = torch.linspace(-3.5, 3.5, 351, dtype=f64)
    grid, w = quadrature_nodes([axis, axis])
    p = w * data.prob(grid) * torch.exp(-(x - alpha * grid).square().sum(1) / (2 * sigma**2))
    p = p / p.sum()
    centred = grid - (p[:, None] * grid).sum(0)
    want = torch.einsum("n,ni,nj,nk->ijk", p, centred, centred, centred)
    got = tweedie_cumulant(lambda y: data.corrupted_score(y, alpha, sigma), x, 3, alpha, sigma)
    assert got.shape == (1, 2, 2, 2)
    torch.testing.assert_close(got[0], want, rtol=1e-8, atol=1e-10)


def hermite(n=80):
    z, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.as_tensor(z), torch.as_tensor(w / w.sum())


@pytest.mark.parametrize("fn", [torch.tanh, torch.sin, lambda x: x**3 / 5, lambda x: 0.4 * x + 1])
@pytest.mark.parametrize("clean", [-1.3, 0.0, 2.0])
def test_sure_is_unbiased_at_every_clean_point(fn, clean):
    sigma = 0.6
    z, w = hermite()
    x = clean + sigma * z[:, None]
    risk = float((w * (fn(x)[:, 0] - clean) ** 2).sum())
    assert float((w * sure(fn, x, sigma)).sum()) == pytest.approx(risk, rel=1e-9, abs=1e-10)


def test_sure_of_a_linear_denoiser(generator):
    """Both sides in closed form: |(A - I) x|^2 + sigma^2 |A|_F^2."""
    A = torch.tensor([[0.7, 0.2], [-0.3, 0.5]], dtype=f64)
    sigma, clean = 0.8, torch.tensor([1.0, -2.0], dtype=f64)
    z, w = hermite(12)
    pairs, weights = torch.cartesian_prod(z, z), torch.kron(w, w)
    got = float((weights * sure(lambda y: y @ A.T, clean + sigma * pairs, sigma)).sum())
    want = float(((A - torch.eye(2, dtype=f64)) @ clean).square().sum() + sigma**2 * A.square().sum())
    assert got == pytest.approx(want, rel=1e-12)


def test_sure_by_probes_is_sure_on_average(generator):
    x = torch.tensor([[0.4, -1.0, 0.3]], dtype=f64).expand(20_000, 3)
    field = lambda y: torch.tanh(y @ torch.tensor([[1.0, 0.5, 0], [0.2, 1, -1], [0, 0.3, 1]], dtype=f64))  # noqa: E731
    got = sure(field, x, 0.5, "hutchinson", 2, "gaussian", generator)
    want = sure(field, x[:1], 0.5)
    assert abs(float(got.mean() - want)) < 5 * float(got.std()) / math.sqrt(20_000)


def test_sure_of_images_counts_pixels():
    x = torch.randn(3, 1, 4, 4, dtype=f64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sure(lambda y: y, x, 0.5), torch.full((3,), 16 * 0.25, dtype=f64))  # the identity: D sigma^2
    torch.testing.assert_close(sure(torch.zeros_like, x, 0.5), x.square().sum((1, 2, 3)) - 4)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: tweedie_mean(torch.zeros(2, 1), torch.zeros(3, 1)), ValueError, "score must have the shape of x"),
        (lambda: tweedie_mean(torch.zeros(2, 1), torch.zeros(2, 1), alpha=0.0), ValueError, "alpha must be finite and not zero"),
        (lambda: tweedie_mean(torch.zeros(2, 1), torch.zeros(2, 1), sigma=0.0), ValueError, "sigma must be a positive"),
        (lambda: tweedie_mean(torch.zeros(2, 1), torch.tensor([[float("nan")], [0]])), ValueError, "score contains NaN"),
        (lambda: tweedie_mean(torch.tensor([[1]]), torch.zeros(1, 1)), TypeError, "x must be a floating-point"),
        (lambda: tweedie_cov(torch.zeros(2, 3, 2)), ValueError, r"\(N, D, D\)"),
        (lambda: tweedie_cov(torch.zeros(2, 2)), ValueError, "3 axes"),
        (lambda: tweedie_cov(torch.zeros(1, 2, 2), alpha=float("inf")), ValueError, "alpha"),
        (lambda: tweedie_cumulant(lambda y: -y, torch.zeros(2, 2), 0), ValueError, "order"),
        (lambda: tweedie_cumulant(lambda y: y[:, :1], torch.zeros(2, 2), 1), ValueError, "score must return the shape"),
        (lambda: tweedie_cumulant(lambda y: -y, torch.zeros(2), 1), ValueError, "x must have 2 axes"),
        (lambda: sure(lambda y: y, torch.zeros(2, 2), -1.0), ValueError, "sigma"),
        (lambda: sure(lambda y: y, torch.zeros(2, 2), 1.0, "exakt"), ValueError, "divergence must be one of"),
        (lambda: sure(lambda y: y[:, 0], torch.zeros(2, 2), 1.0), ValueError, "shape of its input"),
        (lambda: sure(lambda y: y, [[1.0]], 1.0), TypeError, "x_noisy must be a torch.Tensor"),
    ],
)
def test_refusals(call, error, match, user_errors):
    with pytest.raises(error, match=match):
        call()
