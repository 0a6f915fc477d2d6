"""Linear-Gaussian VAE and HVAE against independent routes: joint covariances, Monte Carlo, sympy, and the book's numbers."""

from itertools import pairwise

import pytest
import sympy as sp
import torch

from mathcore.divergences import kl_gaussian
from mathcore.symbolic import variational as sv
from mathcore.variational.linear_gaussian import AffineGaussian, LinearGaussianHVAE, LinearGaussianVAE

F = torch.float64


def random_cov(k, g):
    a = torch.randn(k, k, generator=g, dtype=F)
    return a @ a.T + 0.3 * torch.eye(k, dtype=F)


def random_layer(k, m, g):
    return AffineGaussian(torch.randn(k, m, generator=g, dtype=F), torch.randn(k, generator=g, dtype=F), random_cov(k, g))


def scalar_layer(a, var, b=0.0):
    return AffineGaussian(torch.tensor([[a]], dtype=F), torch.tensor([b], dtype=F), torch.tensor([[var]], dtype=F))


@pytest.fixture
def vae(generator):
    return LinearGaussianVAE(torch.randn(5, 2, generator=generator, dtype=F), torch.randn(5, generator=generator, dtype=F), 0.7)


def test_gap_is_posterior_kl_and_vanishes_at_the_posterior(vae, generator):
    x = torch.randn(6, 5, generator=generator, dtype=F)
    q_mean, q_cov = torch.randn(6, 2, generator=generator, dtype=F), random_cov(2, generator)
    posterior = vae.posterior()
    gap = vae.log_prob(x) - vae.elbo(x, q_mean, q_cov)
    want = torch.stack([kl_gaussian(a, q_cov, b, posterior.cov) for a, b in zip(q_mean, posterior.mean(x))])
    assert (gap > 0).all()
    # values of order 10, condition numbers below 1e2: 1e-12 is a few hundred eps
    torch.testing.assert_close(gap, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vae.elbo(x, posterior.mean(x), posterior.cov), vae.log_prob(x), rtol=1e-12, atol=1e-12)


def test_posterior_and_evidence_come_from_the_joint(vae, generator):
    mean, cov = vae.joint()
    gain = cov[5:, :5] @ torch.linalg.inv(cov[:5, :5])  # Gaussian conditioning, another formula than M^{-1} W^T
    posterior = vae.posterior()
    torch.testing.assert_close(posterior.matrix, gain, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(posterior.cov, cov[5:, 5:] - gain @ cov[:5, 5:], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(vae.marginal()[1], cov[:5, :5])
    torch.testing.assert_close(vae.marginal()[0], mean[:5])


def test_simple_decoder_leaves_sigma_squared_outside_the_signal(vae):
    values = torch.linalg.eigvalsh(vae.marginal()[1])
    torch.testing.assert_close(values[:3], torch.full((3,), 0.49, dtype=F), rtol=0, atol=1e-12)


def test_samples_have_the_marginal_law(vae, generator):
    n = 40_000
    x = vae.sample(n, generator)
    mean, cov = vae.marginal()
    assert ((x.mean(0) - mean) / (cov.diagonal() / n).sqrt()).abs().max() < 5
    # variance of an empirical covariance entry: (cov_ij^2 + cov_ii cov_jj) / n
    se = ((cov**2 + torch.outer(cov.diagonal(), cov.diagonal())) / n).sqrt()
    assert ((torch.cov(x.T) - cov) / se).abs().max() < 5


def test_joint_kl_decomposition(vae, generator):
    data = torch.randn(5, generator=generator, dtype=F), random_cov(5, generator)
    encoder = random_layer(2, 5, generator)
    total = kl_gaussian(*encoder.joint(*data), *vae.joint())
    modelling = kl_gaussian(*data, *vae.marginal())
    posterior = vae.posterior()
    # inference error: mean gap is affine in x, so its average needs only the law of x
    slope = encoder.matrix - posterior.matrix
    centre = encoder.mean(data[0][None])[0], posterior.mean(data[0][None])[0]
    extra = 0.5 * torch.linalg.solve(posterior.cov, slope @ data[1] @ slope.T).trace()
    inference = kl_gaussian(centre[0], encoder.cov, centre[1], posterior.cov) + extra
    torch.testing.assert_close(total, modelling + inference, rtol=1e-12, atol=1e-12)
    assert total > modelling  # Eq. 2.1.2


def test_expected_bound_splits_as_in_the_collapse_discussion(vae, generator):
    data = torch.randn(5, generator=generator, dtype=F), random_cov(5, generator)
    encoder = random_layer(2, 5, generator)
    terms = vae.expected_elbo_terms(data, encoder)
    split = terms["reconstruction"] - terms["mutual_information"] - terms["aggregate_kl"]
    # E elbo = -H(data) - KL(joint || joint) - E log q + ... : E_data log p - inference error, from the joint KL
    entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * data[1])
    want = -entropy - kl_gaussian(*encoder.joint(*data), *vae.joint())
    torch.testing.assert_close(split, want, rtol=1e-12, atol=1e-12)
    assert terms["mutual_information"] > 0


def test_scalar_model_is_the_symbolic_derivation():
    w, b, s, x, m, r = 1.3, 0.2, 0.6, -0.7, 0.1, 0.4
    model = LinearGaussianVAE(torch.tensor([[w]], dtype=F), torch.tensor([b], dtype=F), s)
    symbols = (sv.weight, sv.offset, sv.sigma_dec, sv.x, sv.q_mean, sv.q_std)
    elbo = sp.lambdify(symbols, sv.linear_gaussian_elbo())(w, b, s, x, m, r)
    evidence = sp.lambdify(symbols, sv.linear_gaussian_log_evidence())(w, b, s, x, m, r)
    point, q_mean, q_cov = (torch.tensor([[v]], dtype=F) for v in (x, m, r**2))
    assert float(model.elbo(point, q_mean, q_cov)) == pytest.approx(elbo, rel=1e-13)
    assert float(model.log_prob(point)) == pytest.approx(evidence, rel=1e-13)
    mean, var = (sp.lambdify(symbols, e)(w, b, s, x, m, r) for e in sv.linear_gaussian_posterior())
    assert float(model.posterior().mean(point)) == pytest.approx(mean, rel=1e-13)
    assert float(model.posterior().cov) == pytest.approx(var, rel=1e-13)


def test_raising_the_bound_can_widen_the_gap():
    """Data N(0, 1), decoder N(W z, .25), encoder N(a x, 1) with the best a: bound and gap grow together."""
    bounds, gaps = [], []
    unit = torch.zeros(1, dtype=F), torch.ones(1, 1, dtype=F)
    for w in (0.0, 0.1, 0.3, 0.5):
        model = LinearGaussianVAE(torch.tensor([[w]], dtype=F), torch.zeros(1, dtype=F), 0.5)
        terms = model.expected_elbo_terms(unit, scalar_layer(w / (0.25 + w**2), 1.0))
        bound = terms["reconstruction"] - terms["mutual_information"] - terms["aggregate_kl"]
        entropy = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e, dtype=F))
        likelihood = -entropy - kl_gaussian(*unit, *model.marginal())
        bounds.append(float(bound)), gaps.append(float(likelihood - bound))
    assert bounds == pytest.approx([-2.2258, -2.1689, -1.8764, -1.7258], abs=5e-5)
    assert gaps == pytest.approx([0, 3.9e-4, 0.0263, 0.1534], abs=6e-5)


@pytest.mark.parametrize(("sigma", "best"), [(1.2, 0.0), (0.5, 0.75**0.5)])
def test_posterior_collapse_threshold(sigma, best):
    """Data N(0, 1) and fixed decoder variance: the best W is 0 above the threshold, else W^2 = 1 - sigma^2."""
    unit = torch.zeros(1, dtype=F), torch.ones(1, 1, dtype=F)

    def bound(w):
        model = LinearGaussianVAE(torch.tensor([[w]], dtype=F), torch.zeros(1, dtype=F), sigma)
        terms = model.expected_elbo_terms(unit, model.posterior())
        return float(terms["reconstruction"] - terms["mutual_information"] - terms["aggregate_kl"])

    values = {w: bound(w) for w in [*torch.linspace(0, 1.5, 301, dtype=F).tolist(), best]}
    assert abs(max(values, key=values.get) - best) < 5e-3  # grid step of w


def test_all_decoders_tie_when_their_variance_is_free():
    bounds = []
    for w in (0.0, 0.3, 0.8):
        model = LinearGaussianVAE(torch.tensor([[w]], dtype=F), torch.zeros(1, dtype=F), (1 - w**2) ** 0.5)
        terms = model.expected_elbo_terms((torch.zeros(1, dtype=F), torch.ones(1, 1, dtype=F)), model.posterior())
        bounds.append(float(terms["reconstruction"] - terms["mutual_information"] - terms["aggregate_kl"]))
    assert bounds == pytest.approx([bounds[0]] * 3, rel=1e-13)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 2), (4, 3, 2, 1)])
def test_correct_layer_forms_equal_the_direct_bound(sizes, generator):
    decoders = [random_layer(a, b, generator) for a, b in pairwise(sizes)]
    encoders = [random_layer(b, a, generator) for a, b in pairwise(sizes)]
    model = LinearGaussianHVAE(decoders, encoders)
    x = torch.randn(4, sizes[0], generator=generator, dtype=F)
    direct = model.elbo(x)
    assert (direct < model.log_prob(x)).all()
    for form in ("log_ratio", "reversed"):
        reconstruction, penalties = model.terms(x, form)
        assert penalties.shape == (4, len(sizes) - 1)
        # terms reach 1e2..1e3 for random layers: relative 1e-10 leaves three digits for the solves
        torch.testing.assert_close(reconstruction - penalties.sum(1), direct, rtol=1e-10, atol=1e-10)
    reconstruction, penalties = model.terms(x, "adjacent_kl")
    agrees = torch.allclose(reconstruction - penalties.sum(1), direct, rtol=1e-6)
    assert agrees == (len(sizes) == 2)  # with one layer the forms coincide


def test_two_layer_example_of_the_corrections():
    model = LinearGaussianHVAE(
        [scalar_layer(1.2, 0.3**2), scalar_layer(0.7, 0.5**2)], [scalar_layer(0.6, 0.4**2), scalar_layer(0.8, 0.45**2)]
    )
    x = torch.tensor([[0.9]], dtype=F)
    assert float(model.log_prob(x)) == pytest.approx(-1.34172, abs=5e-6)
    assert float(model.elbo(x)) == pytest.approx(-1.98849, abs=5e-6)
    for form, want in (("log_ratio", -1.98849), ("reversed", -1.98849), ("adjacent_kl", -2.34689)):
        reconstruction, penalties = model.terms(x, form)
        assert float(reconstruction - penalties.sum(1)) == pytest.approx(want, abs=5e-6)


def test_one_layer_hierarchy_is_the_vae(vae, generator):
    encoder = random_layer(2, 5, generator)
    model = LinearGaussianHVAE([vae.decoder], [encoder])
    x = torch.randn(3, 5, generator=generator, dtype=F)
    torch.testing.assert_close(model.elbo(x), vae.elbo(x, encoder.mean(x), encoder.cov), rtol=1e-12, atol=1e-12)


def test_each_generative_layer_appears_in_one_log_ratio_only(generator):
    sizes = (2, 2, 2, 2)
    base = [random_layer(a, b, generator) for a, b in pairwise(sizes)]
    encoders = [random_layer(b, a, generator) for a, b in pairwise(sizes)]
    matrices = [p.matrix.clone().requires_grad_() for p in base]
    model = LinearGaussianHVAE([AffineGaussian(m, p.offset, p.cov) for m, p in zip(matrices, base)], encoders)
    _, penalties = model.terms(torch.randn(1, 2, generator=generator, dtype=F))
    for layer, matrix in enumerate(matrices[1:]):  # p(z_1 | z_2), p(z_2 | z_3)
        for term in range(3):
            (grad,) = torch.autograd.grad(penalties[0, term], matrix, retain_graph=True, allow_unused=True)
            size = 0.0 if grad is None else float(grad.abs().max())
            assert (size > 1e-6) == (term == layer), (layer, term, size)


@pytest.mark.usefixtures("user_errors")
def test_bad_input(vae):
    eye = torch.eye(2, dtype=F)
    with pytest.raises(ValueError, match="cov must be symmetric positive definite"):
        AffineGaussian(eye, torch.zeros(2, dtype=F), -eye)
    with pytest.raises(ValueError, match=r"cov must have shape \(2, 2\)"):
        AffineGaussian(eye, torch.zeros(2, dtype=F), torch.eye(3, dtype=F))
    with pytest.raises(ValueError, match="offset"):
        AffineGaussian(eye, torch.zeros(3, dtype=F), eye)
    with pytest.raises(ValueError, match="sigma must be a positive"):
        LinearGaussianVAE(eye, torch.zeros(2, dtype=F), 0.0)
    with pytest.raises(TypeError, match="W must be"):
        LinearGaussianVAE([[1.0]], torch.zeros(1, dtype=F), 1.0)
    with pytest.raises(TypeError, match="W must be a floating-point"):
        LinearGaussianVAE(torch.ones(1, 1, dtype=torch.int64), torch.zeros(1, dtype=F), 1.0)
    with pytest.raises(ValueError, match="x must have last dimension 5"):
        vae.log_prob(torch.zeros(3, 4, dtype=F))
    with pytest.raises(ValueError, match="x contains NaN"):
        vae.elbo(torch.full((1, 5), torch.nan, dtype=F), torch.zeros(1, 2, dtype=F), eye)
    with pytest.raises(ValueError, match="q_cov must be symmetric positive"):
        vae.elbo(torch.zeros(1, 5, dtype=F), torch.zeros(1, 2, dtype=F), torch.ones(2, 2, dtype=F))
    with pytest.raises(ValueError, match="layer 2"):
        LinearGaussianHVAE([scalar_layer(1, 1), AffineGaussian(eye, eye[0], eye)], [scalar_layer(1, 1), scalar_layer(1, 1)])
    with pytest.raises(ValueError, match="equally many"):
        LinearGaussianHVAE([scalar_layer(1, 1)], [])
    with pytest.raises(ValueError, match="did you mean 'reversed'"):
        LinearGaussianHVAE([scalar_layer(1, 1)], [scalar_layer(1, 1)]).terms(torch.zeros(1, 1, dtype=F), "reverse")
