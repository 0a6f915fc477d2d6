"""Score matching against autograd's Jacobians, quadrature, exact least squares and integration by parts done numerically."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian as autograd_jacobian

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.networks import MLP
from mathcore.scores.denoise import sure
from mathcore.scores.energy import energy_score
from mathcore.scores.matching import (
    denoising_adjoint,
    generalized_sm_loss,
    gradient_adjoint,
    score_matching_loss,
    score_matching_terms,
)

f64 = torch.float64
A = torch.tensor([[1.0, -2.0, 0.3], [0.5, 0.7, 1.1], [-0.4, 0.2, -1.5]], dtype=f64)
LAW = GaussianMixture(
    torch.tensor([0.4, 0.6], dtype=f64), torch.tensor([[-0.8, 0.3], [0.9, -0.2]], dtype=f64), torch.tensor([0.3, 0.5], dtype=f64)
)


def bent(x):
    return torch.sin(x @ A.T) * x[:, :1]


def network(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(2, 2, hidden=16, depth=2).double()


def plane(n=161, width=7.0):
    grid = torch.linspace(-width, width, n, dtype=f64)
    return quadrature_nodes([grid, grid])


def test_exact_terms_row_by_row(generator):
    x = torch.randn(6, 3, dtype=f64, generator=generator)
    jac = torch.stack([autograd_jacobian(lambda y: bent(y[None])[0], row) for row in x])
    want = jac.diagonal(dim1=1, dim2=2).sum(1) + 0.5 * bent(x).norm(dim=1) ** 2
    torch.testing.assert_close(score_matching_terms(bent, x), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(score_matching_loss(bent, x), want.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", [LAW.score, network(0), network(1), lambda x: -x])
def test_it_is_score_matching_up_to_one_constant(field):
    """E |s - s*|^2 / 2 - E [Tr + |s|^2 / 2] = E |s*|^2 / 2 for every field: both sides by quadrature, nothing by parts."""
    points, weights = plane()
    p = weights * LAW.prob(points)
    with torch.no_grad():
        gap = float((p * (field(points) - LAW.score(points)).square().sum(1)).sum()) / 2
        value = float((p * score_matching_terms(field, points)).sum())
    constant = float((p * LAW.score(points).square().sum(1)).sum()) / 2
    assert gap - value == pytest.approx(constant, rel=1e-9)  # the density falls below 1e-16 at the edge


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_slices_are_unbiased(probe, generator):
    n = 40_000
    x = torch.tensor([[0.3, -0.7, 1.1]], dtype=f64).expand(n, 3)
    got = score_matching_terms(bent, x, "sliced", 2, probe, generator)
    want = score_matching_terms(bent, x[:1])
    assert abs(float(got.mean() - want)) < 5 * float(got.std()) / math.sqrt(n)
    assert float(got.std()) > 0.1


def test_one_sign_is_exact_on_the_line(generator):
    x = torch.randn(20, 1, dtype=f64, generator=generator)
    field = lambda y: torch.sin(3 * y)  # noqa: E731
    got = score_matching_terms(field, x, "sliced", generator=generator)
    torch.testing.assert_close(got, score_matching_terms(field, x), rtol=1e-13, atol=1e-13)


def test_the_best_linear_score_is_the_gaussian_of_the_sample(generator):
    """Minimise over s(x) = -P (x - m) exactly (the loss is quadratic in P and P m): the inverse sample covariance and the sample mean."""
    x = LAW.sample(300, generator)

    def loss(c):
        return score_matching_loss(lambda y: c[4:] - y @ c[:4].reshape(2, 2).T, x)

    zero = torch.zeros(6, dtype=f64)
    gradient = torch.func.grad(loss)(zero)
    best = -torch.linalg.solve(torch.func.hessian(loss)(zero), gradient)
    precision = torch.linalg.inv(torch.cov(x.T, correction=0))
    torch.testing.assert_close(best[:4].reshape(2, 2), precision, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(best[4:], precision @ x.mean(0), rtol=1e-10, atol=1e-10)


def test_through_an_energy_it_is_the_hessian_form(generator):
    x = torch.randn(5, 2, dtype=f64, generator=generator)
    energy = lambda y: y[:, 0] ** 4 + y[:, 0] * y[:, 1] ** 2 + torch.cos(y[:, 1])  # noqa: E731
    a, b = x.unbind(1)
    trace = 12 * a**2 + 2 * a - torch.cos(b)
    gradient = torch.stack([4 * a**3 + b**2, 2 * a * b - torch.sin(b)], dim=1)
    want = -trace + gradient.square().sum(1) / 2
    torch.testing.assert_close(score_matching_terms(energy_score(energy), x), want, rtol=1e-12, atol=1e-12)


def test_the_loss_trains_a_network_and_an_energy(generator):
    x = LAW.sample(50, generator)
    net, head = network(2), MLP(2, 1, hidden=8, depth=2).double()
    for loss in (
        score_matching_loss(net, x),
        score_matching_loss(net, x, "sliced", generator=generator),
        score_matching_loss(energy_score(lambda y: head(y)[:, 0]), x),
    ):
        loss.backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in list(net.parameters())[:-1])
    assert float(next(head.parameters()).grad.abs().sum()) > 0


def test_the_gradient_operator_gives_hyvarinen_back(generator):
    x = LAW.sample(40, generator)
    torch.testing.assert_close(generalized_sm_loss(gradient_adjoint, network(0), x), score_matching_loss(network(0), x))


@pytest.mark.parametrize("field", [network(3), lambda x: torch.tanh(x), LAW.score])
def test_the_adjoint_of_the_denoising_operator(field):
    """int (Lf).g = int f L*g with f a density and L f = x f + sigma^2 grad f."""
    points, weights = plane()
    f, sigma = LAW.prob(points), 0.6
    with torch.no_grad():
        left = weights * ((points * f[:, None] + sigma**2 * f[:, None] * LAW.score(points)) * field(points)).sum(1)
        right = weights * f * denoising_adjoint(sigma)(field, points)
    assert float(left.sum()) == pytest.approx(float(right.sum()), rel=1e-9, abs=1e-11)


def test_the_denoising_operator_is_half_of_sure(generator):
    sigma, net = 0.5, network(4)
    x = LAW.corrupt(1.0, sigma).sample(30, generator)
    gap = generalized_sm_loss(denoising_adjoint(sigma), net, x) - sure(net, x, sigma).mean() / 2
    torch.testing.assert_close(gap, -x.square().sum(1).mean() / 2 + sigma**2)  # -|x|^2 / 2 + D sigma^2 / 2 with D = 2


def test_the_minimiser_of_the_denoising_operator_is_the_posterior_mean(generator):
    """On blurred Gaussian data, over linear fields, exactly: the gradient vanishes at the field of the exact moments of the sample."""
    sigma = 0.7
    law = GaussianMixture(torch.ones(1, dtype=f64), torch.tensor([[0.5]], dtype=f64), torch.tensor([0.8], dtype=f64))
    points, weights = quadrature_nodes(torch.linspace(-9, 9, 801, dtype=f64))
    p = weights * law.corrupt(1.0, sigma).prob(points)

    def loss(c):
        field = lambda y: c[0] * y + c[1]  # noqa: E731
        return (p * (field(points).square().sum(1) / 2 - denoising_adjoint(sigma)(field, points))).sum()

    zero = torch.zeros(2, dtype=f64)
    best = -torch.linalg.solve(torch.func.hessian(loss)(zero), torch.func.grad(loss)(zero))
    torch.testing.assert_close(best[0] * points + best[1], law.posterior_mean(points, 1.0, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": torch.tensor([[1]])}, TypeError, "x must be a floating-point"),
        ({"x": torch.tensor([[float("nan")]])}, ValueError, "x contains NaN"),
        ({"x": torch.zeros(0, 2)}, ValueError, "at least one row"),
        ({"x": torch.tensor(1.0)}, ValueError, "at least one row"),
        ({"kind": "slices"}, ValueError, "kind must be one of"),
        ({"kind": "sliced", "probe": "sphere"}, ValueError, "probe must be one of"),
        ({"kind": "sliced", "n_probes": 0}, ValueError, "n_probes"),
        ({"score": lambda x: x[:, :1]}, ValueError, "shape of its input"),
        ({"score": lambda x: 1.0}, TypeError, "floating-point"),
    ],
)
def test_refusals(change, error, match, user_errors):
    arguments = {"score": lambda x: -x, "x": torch.zeros(3, 2)} | change
    with pytest.raises(error, match=match):
        score_matching_loss(**arguments)


def test_generalized_refuses(user_errors):
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="adjoint must return one number per row"):
        generalized_sm_loss(lambda field, y: y, lambda y: y, x)
    with pytest.raises(ValueError, match="field must return the shape"):
        generalized_sm_loss(gradient_adjoint, lambda y: y[:, 0], x)
    with pytest.raises(TypeError, match="x must be a torch"):
        generalized_sm_loss(gradient_adjoint, lambda y: y, [[0.0]])
    with pytest.raises(ValueError, match="sigma"):
        denoising_adjoint(0.0)


def test_at_the_true_score_the_loss_is_minus_half_the_fisher_information(generator):
    data, n = examples.ring(), 20_000
    x = data.sample(n, generator)
    terms = score_matching_terms(data.score, x) + data.score(x).square().sum(1) / 2  # Tr + |s|^2 has mean zero
    assert abs(float(terms.mean())) < 5 * float(terms.std()) / math.sqrt(n)
