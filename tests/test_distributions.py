"""Mixtures against scipy, sklearn, autograd, quadrature, Bayes' rule and Monte Carlo. Every random law below has covariances with eigenvalues in
about [0.1, 10], so that float64 results are good to 1e-15 * condition * D, well inside rtol 1e-11."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from sklearn.mixture import GaussianMixture as SklearnMixture

from benchmarks.mixture import naive, problem
from mathcore import _components
from mathcore.distributions import Empirical, GaussianMixture
from mathcore.posterior import PosteriorMixture

F64 = torch.float64
FORMS = ("isotropic", "diagonal", "full")
few = settings(max_examples=25, deadline=None)


def close(got, want, rtol=1e-11, atol=1e-11):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=rtol, atol=atol)


def make(seed, k, dim, form):
    g = torch.Generator().manual_seed(seed)
    root = 0.5 * torch.randn(k, dim, dim, generator=g, dtype=F64)
    covs = {
        "isotropic": 0.2 + torch.rand(k, generator=g, dtype=F64),
        "diagonal": 0.2 + torch.rand(k, dim, generator=g, dtype=F64),
        "full": root @ root.mT + 0.2 * torch.eye(dim, dtype=F64),
    }[form]
    means = 2 * torch.randn(k, dim, generator=g, dtype=F64)
    return GaussianMixture(torch.softmax(torch.randn(k, generator=g, dtype=F64), 0), means, covs)


@st.composite
def mixtures(draw, dims=(1, 2, 3)):
    mixture = make(draw(st.integers(0, 10**6)), draw(st.integers(1, 4)), draw(st.sampled_from(dims)), draw(st.sampled_from(FORMS)))
    return mixture, mixture.sample(6, generator=torch.Generator().manual_seed(draw(st.integers(0, 10**6)))) * 1.5


scales = st.tuples(st.floats(0.1, 1.5), st.floats(0.05, 3.0))
line = make(3, 3, 1, "isotropic")


@few
@given(mixtures())
def test_log_prob_is_scipys(law):
    mixture, x = law
    laws = zip(mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy())
    parts = [np.log(w) + stats.multivariate_normal(m, c).logpdf(x.numpy()).reshape(-1) for w, m, c in laws]
    close(mixture.log_prob(x), special.logsumexp(parts, axis=0))
    close(mixture.prob(x), np.exp(special.logsumexp(parts, axis=0)))


@few
@given(mixtures())
def test_score_and_jacobian_are_derivatives(law):
    mixture, x = law
    x = x.requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_prob(x).sum(), x, create_graph=True)
    close(mixture.score(x), score)
    rows = [torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0] for i in range(mixture.dim)]
    close(mixture.score_jacobian(x), torch.stack(rows, dim=1))


def test_responsibilities_are_sklearns():
    for form, kind in (("full", "full"), ("diagonal", "diag"), ("isotropic", "spherical")):
        mixture = make(7, 4, 3, form)
        peer = SklearnMixture(4, covariance_type=kind)
        peer.weights_, peer.means_, peer.covariances_ = (p.numpy() for p in (mixture.weights, mixture.means, mixture.covs))
        precision = np.linalg.inv(mixture.covs.numpy()) if form == "full" else 1 / mixture.covs.numpy()
        peer.precisions_cholesky_ = np.linalg.cholesky(precision) if form == "full" else np.sqrt(precision)
        x = mixture.sample(50, generator=torch.Generator().manual_seed(1))
        close(mixture.responsibilities(x), peer.predict_proba(x.numpy()), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_moments_and_labels(form, generator):
    mixture, n = make(5, 3, 2, form), 200_000
    x, labels = mixture.sample_with_labels(n, generator)
    assert torch.equal(x, mixture.sample(n, generator=torch.Generator().manual_seed(0)))
    z = (x.mean(0) - mixture.mean()) / (x.std(0) / math.sqrt(n))
    assert z.abs().max() < 5
    centred = x - mixture.mean()
    products = centred[:, :, None] * centred[:, None]
    assert ((products.mean(0) - mixture.cov()) / (products.std(0) / math.sqrt(n))).abs().max() < 5
    for k in range(3):
        part = x[labels == k]
        assert abs(len(part) - n * mixture.weights[k]) < 5 * math.sqrt(n)
        for got, want in zip(torch.cov(part.T).flatten(), mixture.covariances[k].flatten()):
            # a product of two normals has standard deviation at most sqrt(2) times the larger variance
            assert abs(got - want) < 5 * math.sqrt(2 / len(part)) * mixture.covariances[k].diagonal().max()


@few
@given(mixtures(dims=(2, 3)), st.integers(0, 1000))
def test_affine_is_the_change_of_variables(law, seed):
    mixture, x = law
    g = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.qr(torch.randn(mixture.dim, mixture.dim, generator=g, dtype=F64))[0] * (
        0.5 + torch.rand(mixture.dim, generator=g, dtype=F64)
    )
    shift = torch.randn(mixture.dim, generator=g, dtype=F64)
    image = mixture.affine(matrix, shift)
    close(image.log_prob(x @ matrix.T + shift), mixture.log_prob(x) - torch.linalg.slogdet(matrix).logabsdet)
    # dropping coordinates is the affine map by rows of the identity
    dims = [mixture.dim - 1, 0]
    rows = torch.eye(mixture.dim, dtype=F64)[dims]
    close(mixture.marginal(dims).log_prob(x[:, :2]), mixture.affine(rows, torch.zeros(2, dtype=F64)).log_prob(x[:, :2]))


def test_marginal_integrates_the_other_coordinate():
    for form in FORMS:
        mixture = make(11, 3, 2, form)
        for at in (-1.0, 0.7):
            joint = lambda y, at=at, mixture=mixture: float(mixture.prob(torch.tensor([[at, y]], dtype=F64)))  # noqa: E731
            want = integrate.quad(joint, -15, 15, epsabs=1e-11, limit=200)[0]  # the cut tails are below exp(-60)
            close(mixture.marginal([0]).prob(torch.tensor([[at]], dtype=F64)), [want], rtol=1e-9)


@few
@given(st.integers(0, 1000), scales, st.floats(-4, 4))
def test_line_posterior_is_bayes_rule_by_quadrature(seed, scale, at):
    mixture, (a, s) = make(seed, 3, 1, "isotropic"), scale
    x = torch.tensor([[at]], dtype=F64)
    grid = torch.linspace(-20, 20, 40_001, dtype=F64)[
        :, None
    ]  # trapezoids converge spectrally: features are no narrower than 0.4 * s / 1.5
    joint = mixture.prob(grid) * torch.as_tensor(stats.norm.pdf(at, a * grid[:, 0].numpy(), s))
    evidence = joint.sum() * 1e-3
    close(mixture.corrupt(a, s).prob(x)[0], evidence, rtol=1e-9)
    mean = (joint * grid[:, 0]).sum() * 1e-3 / evidence
    moment = [(joint * (grid[:, 0] - mean) ** p).sum() * 1e-3 / evidence for p in (2, 3)]
    close(mixture.posterior_mean(x, a, s)[0, 0], mean, rtol=1e-9, atol=1e-9)
    close(mixture.posterior_cov(x, a, s)[0, 0, 0], moment[0], rtol=1e-9, atol=1e-9)
    close(mixture.posterior_cumulant3(x, a, s)[0], moment[1], rtol=1e-8, atol=1e-9)


@few
@given(mixtures(), scales)
def test_posterior_moments_are_derivatives_of_the_marginal(law, scale):
    mixture, x = law
    a, s = scale
    x = x.requires_grad_()
    noisy = mixture.corrupt(a, s)
    (score,) = torch.autograd.grad(noisy.log_prob(x).sum(), x, create_graph=True)
    tol = {"rtol": 1e-9, "atol": 1e-9 * (1 + s**4)}
    close(mixture.posterior_mean(x, a, s), (x + s**2 * score) / a, **tol)
    hessian = torch.stack([torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0] for i in range(mixture.dim)], dim=1)
    cov = (s**2 * torch.eye(mixture.dim, dtype=F64) + s**4 * hessian) / a**2
    close(mixture.posterior_cov(x, a, s), cov, **tol)
    close(mixture.corrupted_score(x, a, s), score)
    # both Hessians subtract products of component scores, |x - mean|^2 / variance^2, and round at their size
    narrowest = torch.linalg.eigvalsh(noisy.covariances).min()
    largest = float((torch.cdist(x.detach(), noisy.means) / narrowest).square().max())
    rounding = {"atol": 1e-11 + 64 * torch.finfo(F64).eps * largest}
    close(mixture.corrupted_score_jacobian(x, a, s), hessian, **rounding)
    close(mixture.corrupted_laplacian(x, a, s), hessian.diagonal(dim1=1, dim2=2).sum(-1), **rounding)
    close(mixture.posterior_mean_divergence(x, a, s), a / s**2 * cov.diagonal(dim1=1, dim2=2).sum(-1), rtol=1e-8, atol=1e-8)
    assert torch.equal(noisy.responsibilities(x), mixture.posterior_weights(x, a, s))


@few
@given(mixtures(), scales)
def test_posterior_mixture_is_bayes_rule(law, scale):
    mixture, x = law
    a, s = scale
    posterior = mixture.posterior(x, a, s)
    assert isinstance(posterior, PosteriorMixture)
    x0 = mixture.sample(len(x), generator=torch.Generator().manual_seed(2))
    likelihood = torch.as_tensor(stats.norm.logpdf(x.numpy(), a * x0.numpy(), s).sum(1))
    # each of the three terms on the right is as large as ((x - a x0) / s)^2, up to 1e4
    close(posterior.log_prob(x0), mixture.log_prob(x0) + likelihood - mixture.corrupt(a, s).log_prob(x), rtol=1e-10, atol=1e-9)
    close(posterior.mean(), mixture.posterior_mean(x, a, s))
    close(posterior.cov(), mixture.posterior_cov(x, a, s))


@pytest.mark.parametrize("form", FORMS)
def test_posterior_samples(form, generator):
    mixture, n = make(5, 3, 2, form), 100_000
    x = torch.tensor([[0.3, -0.8]], dtype=F64)
    draws = mixture.posterior(x.expand(n, 2), 0.8, 1.1).sample(generator)
    mean, cov = mixture.posterior_mean(x, 0.8, 1.1)[0], mixture.posterior_cov(x, 0.8, 1.1)[0]
    assert ((draws.mean(0) - mean) / (draws.std(0) / math.sqrt(n))).abs().max() < 5
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    assert ((products.mean(0) - cov) / (products.std(0) / math.sqrt(n))).abs().max() < 5


FIELDS = ("corrupted_log_prob", "corrupted_score", "corrupted_score_jacobian", "corrupted_laplacian")
POSTERIOR = ("posterior_weights", "posterior_mean", "posterior_cov", "posterior_mean_divergence")


@pytest.mark.parametrize("limit", [0, 40, 2**19])
@pytest.mark.parametrize("form", [*FORMS, "points"])
def test_one_scale_per_row_in_any_block_size(form, limit, monkeypatch):
    law = Empirical(make(4, 5, 3, "full").means) if form == "points" else make(4, 5, 3, form)
    g = torch.Generator().manual_seed(0)
    x, a, s = torch.randn(7, 3, generator=g, dtype=F64), torch.rand(7, generator=g, dtype=F64), 0.2 + torch.rand(7, generator=g, dtype=F64)
    for name in FIELDS + POSTERIOR:
        monkeypatch.setattr(_components, "DIRECT_LIMIT", 2**19)
        want = torch.cat([getattr(law, name)(x[i : i + 1], float(a[i]), s[i]) for i in range(7)])
        shared = torch.cat([getattr(law, name)(x[i : i + 1], 0.6, 0.7) for i in range(7)])
        monkeypatch.setattr(_components, "DIRECT_LIMIT", limit)
        close(getattr(law, name)(x, a, s), want)
        close(getattr(law, name)(x, 0.6, torch.tensor(0.7)), shared, rtol=1e-6, atol=1e-6)  # 0.7 rounded to float32
        close(getattr(law, name)(x, 0.6, 0.7), shared)


def test_cumulant3_with_one_scale_per_row():
    x, s = line.sample(5, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1, 5, dtype=F64)
    close(line.posterior_cumulant3(x, 0.9, s), torch.cat([line.posterior_cumulant3(x[i : i + 1], 0.9, float(s[i])) for i in range(5)]))


@pytest.mark.parametrize("form", FORMS)
def test_ends_of_the_corruption(form):
    mixture = make(9, 3, 2, form)
    x = mixture.sample(5, generator=torch.Generator().manual_seed(0))
    close(mixture.posterior_mean(x, 0.5, 0.0), 2 * x)  # no noise: the clean point is known
    close(mixture.posterior_cov(x, 0.5, 0.0), torch.zeros(5, 2, 2))
    close(mixture.posterior_mean_divergence(x, 0.5, 0.0), torch.full((5,), 4.0))  # of x / 0.5 in two dimensions
    close(mixture.corrupt(1.0, 0.0).log_prob(x), mixture.log_prob(x))
    close(mixture.posterior_mean(x, 0.0, 1.0), mixture.mean().expand(5, 2))  # no signal: the prior
    close(mixture.posterior_cov(x, 0.0, 1.0), mixture.cov().expand(5, 2, 2))
    close(mixture.corrupt(0.0, 2.0).log_prob(x), stats.multivariate_normal(np.zeros(2), 4 * np.eye(2)).logpdf(x))


def test_corrupted_density_solves_the_heat_equation():
    mixture = make(2, 3, 2, "full")
    x, time_ = mixture.sample(5, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=F64, requires_grad=True)
    for i in range(5):  # s^2 = 2 t: d/dt p = Laplacian of p, so d/dt log p = Laplacian of log p + |score|^2
        noisy = mixture.corrupt(1.0, torch.sqrt(2 * time_))
        (rate,) = torch.autograd.grad(noisy.log_prob(x[i : i + 1]).sum(), time_)
        point = x[i].clone().requires_grad_()
        hessian = torch.autograd.functional.hessian(lambda y, n=noisy: n.log_prob(y[None])[0], point)
        (score,) = torch.autograd.grad(noisy.log_prob(point[None]).sum(), point)
        close(rate, hessian.trace().detach() + score.square().sum())


def test_parameters_are_differentiable_at_equal_eigenvalues():
    covs = torch.eye(3, dtype=F64).repeat(2, 1, 1).requires_grad_()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights, means = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[0.0, 0, 0], [1, 1, 1]], dtype=F64)

    def loss(c):  # the constructor asks for symmetry, and a finite difference must not break it
        return GaussianMixture(weights, means, 0.5 * (c + c.mT)).log_prob(x).sum()

    assert torch.autograd.gradcheck(loss, covs)


# --- finite data sets -----------------------------------------------------------------------------------------------------------------


def test_empirical_is_the_sum_over_its_points(generator):
    points = torch.randn(6, 2, generator=generator, dtype=F64)
    data, x, a, s = Empirical(points), torch.randn(5, 2, generator=generator, dtype=F64), 0.7, 0.4
    logits = stats.norm.logpdf(x.numpy()[:, None], a * points.numpy(), s).sum(-1)
    weights = special.softmax(logits, axis=1)
    close(data.posterior_weights(x, a, s), weights)
    close(data.posterior_mean(x, a, s), weights @ points.numpy())
    for i in range(5):
        close(data.posterior_cov(x, a, s)[i], np.cov(points.numpy().T, aweights=weights[i], ddof=0))
    close(data.corrupt(a, s).log_prob(x), special.logsumexp(logits, axis=1) - np.log(6))
    close(data.corrupted_score(x, a, s), data.corrupt(a, s).score(x))
    close(data.mean(), points.numpy().mean(0))
    close(data.cov(), np.cov(points.numpy().T, ddof=0))
    draws = data.sample(60_000, generator=generator)
    counts = (draws[:, None] == points).all(-1).sum(0)
    assert counts.sum() == 60_000
    assert stats.chisquare(counts).pvalue > 1e-6
    assert data.dim == 2
    assert data.n_components == 6
    assert data.points is points


def test_empirical_collapses_to_the_nearest_point():
    data = Empirical(torch.tensor([[0.0], [1.0]], dtype=F64))
    got = data.posterior_mean(torch.tensor([[0.499], [0.501]], dtype=F64), 1.0, 1e-3)
    # log-odds are (x - 1/2) / s^2 = -1000 and +1000
    close(got, [[0.0], [1.0]], atol=1e-300)


# --- quantiles ------------------------------------------------------------------------------------------------------------------------


@few
@given(st.integers(0, 1000))
def test_cdf_and_icdf(seed):
    mixture = make(seed, 3, 1, "diagonal")
    w, m, s = mixture.weights.numpy(), mixture.means[:, 0].numpy(), mixture.covs[:, 0].sqrt().numpy()
    x = np.linspace(-6, 6, 13)
    close(mixture.cdf(torch.tensor(x)[:, None]), (w * stats.norm.cdf(x[:, None], m, s)).sum(1))
    for u in (1e-6, 0.1, 0.5, 0.77, 1 - 1e-6):
        want = optimize.brentq(lambda y, u=u: (w * stats.norm.cdf(y, m, s)).sum() - u, -60, 60, xtol=1e-14)
        slope = (w * stats.norm.pdf(want, m, s)).sum()
        # the reference subtracts numbers of size u: error 1e-16 u / slope
        close(mixture.icdf(torch.tensor([u], dtype=F64)), [[want]], atol=1e-12 + 1e-15 * u / slope)


def test_icdf_deep_in_the_tails():
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64), torch.tensor([0.04, 0.09], dtype=F64)
    )
    u = torch.tensor([1e-300, 1e-100, 1e-17], dtype=F64)
    x = mixture.icdf(u)[:, 0].numpy()
    logs = np.log([[0.3], [0.7]]) + stats.norm.logcdf(x, [[-1.0], [1.0]], [[0.2], [0.3]])
    np.testing.assert_allclose(special.logsumexp(logs, axis=0), np.log(u.numpy()), rtol=1e-14)
    mirror = GaussianMixture(mixture.weights, -mixture.means, mixture.covs)
    half = torch.tensor([2.0**-30, 0.25, 0.5], dtype=F64)  # exact in 1 - u
    close(mirror.icdf(1 - half), -mixture.icdf(half), rtol=1e-14, atol=1e-14)


# --- speed and accuracy of the expanded form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["isotropic", "diagonal"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-6), (F64, 1e-12)])
def test_expanded_form_agrees_with_direct_form(form, dtype, tol, monkeypatch):
    """The data sit 3 units off the origin in each of 64 coordinates: without centring float32 would lose |x|^2 eps = 1e-4 in the exponent."""
    mixture, x = problem(64, 50, 64, form, dtype)
    want = (mixture.score(x), mixture.log_prob(x), mixture.posterior_mean(x, 0.8, 0.5))
    monkeypatch.setattr(_components, "DIRECT_LIMIT", 0)
    got = (mixture.score(x), mixture.log_prob(x), mixture.posterior_mean(x, 0.8, 0.5))
    for g, w in zip(got, want):
        assert float((g - w).abs().max() / w.abs().max()) < tol


def test_direct_form_is_exact_on_small_problems():
    mixture, x = problem(64, 50, 64, "isotropic", F64)
    assert float((mixture.score(x) - naive(mixture, x)).norm() / naive(mixture, x).norm()) < 1e-14


# --- what is refused ------------------------------------------------------------------------------------------------------------------------

W, M, C = torch.tensor([0.4, 0.6], dtype=F64), torch.zeros(2, 3, dtype=F64), torch.ones(2, dtype=F64)


@pytest.mark.parametrize(
    ("weights", "means", "covs", "error", "match"),
    [
        ([0.4, 0.6], M, C, TypeError, "weights must be a torch.Tensor"),
        (torch.tensor([1, 0]), M, C, TypeError, "weights must be a floating"),
        (W.float(), M, C, TypeError, "one dtype"),
        (W.half(), M.half(), C.half(), TypeError, "float32 or float64"),
        (torch.tensor([0.4, 0.7], dtype=F64), M, C, ValueError, "weights must sum to 1"),
        (torch.tensor([0.0, 1.0], dtype=F64), M, C, ValueError, "weights must be positive"),
        (torch.ones(0, dtype=F64), M, C, ValueError, "weights must be positive"),
        (W[:, None], M, C, ValueError, "weights must have 1 axes"),
        (W, M[:1], C, ValueError, "means must have shape"),
        (W, M[:, :0], C, ValueError, "means must have shape"),
        (W, M * math.nan, C, ValueError, "means contains NaN"),
        (W, M, torch.ones(3, dtype=F64), ValueError, "covs must have shape"),
        (W, M, -C, ValueError, "covs must be positive"),
        (W, M, torch.zeros(2, 3, dtype=F64), ValueError, "covs must be positive"),
        (W, M, torch.stack([torch.eye(3), torch.ones(3, 3)]).double(), ValueError, r"covs\[1\] is not positive definite"),
        (W, M, torch.stack([torch.eye(3), torch.eye(3) + torch.ones(3, 3).triu(1)]).double(), ValueError, r"covs\[1\] is not symmetric"),
    ],
)
def test_bad_parameters(weights, means, covs, error, match, user_errors):
    with pytest.raises(error, match=match):
        GaussianMixture(weights, means, covs)


CALLS = [lambda d, x, n=n: getattr(d, n)(x, 0.5, 0.5) for n in FIELDS + POSTERIOR]
OWN = [lambda d, x, n=n: getattr(d, n)(x) for n in ("log_prob", "prob", "score", "score_jacobian", "responsibilities")]


@pytest.mark.parametrize("call", [*CALLS, *OWN, lambda d, x: d.posterior(x, 0.5, 0.5)])
def test_bad_points(call, user_errors):
    mixture, x = GaussianMixture(W, M, C), torch.zeros(4, 3, dtype=F64)
    for bad, error, match in [
        (x.tolist(), TypeError, "must be a torch.Tensor"),
        (x.long(), TypeError, "floating-point"),
        (x.float(), TypeError, "convert one of them"),
        (x[0], ValueError, "must have 2 axes"),
        (x[:, :2], ValueError, "last dimension 3"),
        (x * math.nan, ValueError, "NaN"),
    ]:
        with pytest.raises(error, match=match):
            call(mixture, bad)


def test_bad_scales(user_errors):
    mixture, x = GaussianMixture(W, M, C), torch.zeros(4, 3, dtype=F64)
    for name in FIELDS + POSTERIOR:
        for a, s, error, match in [
            ("1", 0.5, TypeError, "a must be a number"),
            (0.5, math.nan, ValueError, "s contains NaN"),
            (0.5, -0.1, ValueError, "s must be non-negative"),
            (0.0, 0.0, ValueError, "not both be zero"),
            (torch.ones(3, dtype=F64), 0.5, ValueError, "a must be a number, 0-d"),
        ]:
            with pytest.raises(error, match=match):
                getattr(mixture, name)(x, a, s)
        with pytest.raises(ValueError, match="s must be positive for a finite data set"):
            getattr(Empirical(M), name)(x, 1.0, 0.0)


def test_other_refusals(user_errors):
    mixture, data, x = GaussianMixture(W, M, C), Empirical(M), torch.zeros(4, 3, dtype=F64)
    for call, error, match in [
        (lambda: mixture.sample(0), ValueError, "n must be at least 1"),
        (lambda: mixture.sample(2.0), TypeError, "n must be an integer"),
        (lambda: data.sample(-1), ValueError, "n must be at least 1"),
        (lambda: mixture.cdf(x), ValueError, "cdf needs dimension 1, got 3"),
        (lambda: mixture.icdf(x[:, 0]), ValueError, "icdf needs dimension 1, got 3"),
        (lambda: mixture.posterior_cumulant3(x, 0.5, 0.5), ValueError, "needs dimension 1, got 3"),
        (lambda: line.icdf(torch.tensor([0.0], dtype=F64)), ValueError, "strictly between 0 and 1"),
        (lambda: line.icdf(torch.tensor([0.5])), TypeError, "u must be torch.float64"),
        (lambda: line.cdf(torch.tensor([0.5], dtype=F64)), ValueError, "x must have 2 axes"),
        (lambda: mixture.marginal([]), ValueError, "dims must be distinct"),
        (lambda: mixture.marginal([0, 0]), ValueError, "dims must be distinct"),
        (lambda: mixture.marginal([3]), ValueError, r"dims must be distinct indices in 0\.\.2"),
        (lambda: mixture.affine(torch.ones(2, 3, dtype=F64), torch.zeros(2, dtype=F64)), ValueError, "full row rank 2"),
        (lambda: mixture.affine(torch.ones(1, 2, dtype=F64), torch.zeros(1, dtype=F64)), ValueError, "A must have last dimension 3"),
        (lambda: mixture.affine(torch.ones(1, 3, dtype=F64), torch.zeros(2, dtype=F64)), ValueError, "b must have shape"),
        (lambda: mixture.affine(torch.ones(1, 3), torch.zeros(1)), TypeError, "A and b must be torch.float64"),
        (lambda: mixture.corrupt(torch.ones(2, dtype=F64), 0.5), ValueError, "a must be a number or a 0-d"),
        (lambda: mixture.corrupt(0.0, 0.0), ValueError, "not both be zero"),
        (lambda: mixture.posterior(x, 0.5, 0.0), ValueError, "s must be positive"),
        (lambda: mixture.posterior(x, 0.5, 0.5).log_prob(x[:2]), ValueError, "one row per noisy point"),
        (lambda: data.corrupt(1.0, 0.0), ValueError, "s must be positive for a finite data set"),
        (lambda: data.log_prob(x), ValueError, "no log_prob"),
        (lambda: data.score(x), ValueError, "no score"),
        (lambda: Empirical(M.long()), TypeError, "points must be a floating"),
        (lambda: Empirical(M.half()), TypeError, "float32 or float64"),
        (lambda: Empirical(M[:0]), ValueError, "points must have shape"),
        (lambda: Empirical(M[0]), ValueError, "points must have 2 axes"),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_conversion_and_repr():
    for law in (make(0, 3, 2, "full"), Empirical(M)):
        assert law.to(dtype=torch.float32).mean().dtype == torch.float32
        assert law.to(dtype=torch.float32).sample(3).dtype == torch.float32
        assert type(law).__name__ in repr(law)
    assert make(0, 3, 2, "isotropic").covariances.shape == (3, 2, 2)
    assert make(0, 3, 2, "isotropic").corrupt(0.5, 0.5).covs.shape == (3,)
    empty = torch.zeros(0, 2, dtype=F64)
    assert make(0, 3, 2, "diagonal").score(empty).shape == (0, 2)
    assert make(0, 3, 2, "full").score_jacobian(empty).shape == (0, 2, 2)


def test_a_component_whose_posterior_weight_is_no_float_still_has_its_density():
    modes = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([[-60.0], [60.0]], dtype=torch.float64),
        torch.tensor([0.01, 0.01], dtype=torch.float64),
    )
    x, x0 = torch.tensor([[60.0]], dtype=torch.float64), torch.tensor([[-60.0]], dtype=torch.float64)
    posterior = modes.posterior(x, 1.0, 1.0)
    assert float(posterior.weights[0, 0]) == 0  # about exp(-120^2 / 2)
    want = (
        stats.norm.logpdf(-60, -60, 0.1)
        + math.log(0.5)
        + stats.norm.logpdf(60, -60, 1)
        - math.log(0.5)
        - stats.norm.logpdf(60, 60, math.sqrt(1.01))
    )
    assert float(posterior.log_prob(x0)) == pytest.approx(want, rel=1e-13)
