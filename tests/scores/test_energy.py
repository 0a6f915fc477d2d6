"""Energies against Gaussians in closed form, torch's own densities, finite differences and line integrals known by hand."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from mathcore.data import examples
from mathcore.scores.energy import (
    asymmetry,
    contrastive_divergence,
    contrastive_loss,
    ebm_log_likelihood,
    energy_score,
    gaussian_score,
    log_density_from_score,
    log_partition,
)
from mathcore.scores.langevin import ula_gaussian

f64 = torch.float64
LINE = torch.linspace(-9, 9, 1201, dtype=f64)
COV = torch.tensor([[0.8, 0.3], [0.3, 0.5]], dtype=f64)
MEAN = torch.tensor([0.4, -1.0], dtype=f64)


def test_the_score_of_an_energy_does_not_see_the_normaliser(generator):
    data = examples.ring()
    x = data.sample(20, generator)
    for shift in (0.0, 123.0):
        torch.testing.assert_close(energy_score(lambda y, shift=shift: shift - data.log_prob(y))(x), data.score(x), rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(energy_score(lambda y: y.square().sum((1, 2)) / 2)(x[:, None]), -x[:, None])


def test_partition_functions_of_gaussians():
    one = log_partition(lambda x: (x[:, 0] - 1).square() / (2 * 0.3) + 7, LINE)
    assert float(one) == pytest.approx(math.log(math.sqrt(2 * math.pi * 0.3)) - 7, rel=1e-12)
    axis = torch.linspace(-9, 9, 241, dtype=f64)
    precision = torch.linalg.inv(COV)
    two = log_partition(lambda x: torch.einsum("ni,ij,nj->n", x, precision, x) / 2, [axis, axis])
    assert float(two) == pytest.approx(math.log(2 * math.pi) + 0.5 * math.log(float(torch.linalg.det(COV))), rel=1e-10)


def test_a_lowered_valley_takes_mass_from_everywhere_else():
    """Lower E by h on A: p(A) goes from a to a e^h / (1 - a + a e^h), and all else shrinks by one factor."""
    base = lambda x: x[:, 0].square() / 2  # noqa: E731
    h, inside = 1.7, lambda x: (x[:, 0] > 0.3) & (x[:, 0] < 1.1)
    lower = lambda x: base(x) - h * inside(x).to(x)  # noqa: E731
    fine = torch.linspace(-9, 9, 18_001, dtype=f64)
    a = 0.5 * (math.erf(1.1 / math.sqrt(2)) - math.erf(0.3 / math.sqrt(2)))
    factor = float((log_partition(base, fine) - log_partition(lower, fine)).exp())
    assert factor == pytest.approx(1 / (1 - a + a * math.exp(h)), rel=1e-3)  # a jump costs one spacing, 1e-3


def test_log_likelihood_and_its_gradient(generator):
    x = examples.two_modes().sample(200, generator)
    theta = torch.tensor([0.3, 0.9], dtype=f64, requires_grad=True)

    def energy(y):
        return theta[0] * y[:, 0] + theta[1] * y[:, 0].square() / 2

    got = ebm_log_likelihood(energy, x, LINE)
    mean, var = -0.3 / 0.9, 1 / 0.9
    want = MultivariateNormal(torch.full((1,), mean, dtype=f64), torch.full((1, 1), var, dtype=f64)).log_prob(x).mean()
    torch.testing.assert_close(got.detach(), want, rtol=1e-12, atol=0)
    gradient = torch.autograd.grad(got, theta)[0]
    moments = torch.stack([x.mean(), x.square().mean() / 2])
    model = torch.tensor([mean, (var + mean**2) / 2], dtype=f64)
    torch.testing.assert_close(gradient, model - moments, rtol=1e-10, atol=1e-12)  # -E_data dE + E_model dE


def test_contrastive_loss_has_the_gradient_of_the_likelihood(generator):
    x, n = examples.two_modes().sample(200, generator), 40_000
    theta = torch.tensor(0.9, dtype=f64, requires_grad=True)
    energy = lambda y: theta * y[:, 0].square() / 2  # noqa: E731
    samples = torch.randn(n, 1, dtype=f64, generator=generator) / math.sqrt(0.9)
    got = torch.autograd.grad(contrastive_loss(energy, x, samples), theta)[0]
    want = -torch.autograd.grad(ebm_log_likelihood(energy, x, LINE), theta)[0]
    assert abs(float(got - want)) < 5 * math.sqrt(2 / n) / (2 * 0.9)  # the variance of y^2 / 2 is 2 v^2 / 4


def test_contrastive_divergence_of_a_gaussian(generator):
    n, v0, step, k = 100_000, 2.5, 0.1, 3
    x = math.sqrt(v0) * torch.randn(n, 1, dtype=f64, generator=generator)
    theta = torch.tensor(1.0, dtype=f64, requires_grad=True)
    loss = contrastive_divergence(lambda y: theta * y[:, 0].square() / 2, x, step, k, generator)
    _, v_k = ula_gaussian(0.0, 1.0, step, k, 0.0, v0)
    assert abs(float(loss.detach()) - (v0 - v_k) / 2) < 5 * v0 * math.sqrt(2 / n)  # the difference of two sample variances, halved
    assert float(torch.autograd.grad(loss, theta)[0]) == pytest.approx(float(loss.detach()), rel=1e-12)  # the samples are held fixed


def test_gaussian_score_is_autograd_of_the_log_density(generator):
    x = torch.randn(7, 2, dtype=f64, generator=generator).requires_grad_()
    want = torch.autograd.grad(MultivariateNormal(MEAN, COV).log_prob(x).sum(), x)[0]
    torch.testing.assert_close(gaussian_score(x.detach(), MEAN, COV), want, rtol=1e-12, atol=1e-12)


def test_a_density_from_its_score(generator):
    data = examples.two_moons()
    x, ref = data.sample(30, generator), torch.tensor([0.5, 0.5], dtype=f64)
    got = log_density_from_score(data.score, x, ref, n_quad=400)
    torch.testing.assert_close(got, data.log_prob(x) - data.log_prob(ref[None]), rtol=1e-9, atol=1e-9)


def test_a_rotation_is_no_gradient():
    """Along a straight line from a to b the field (-y, x) integrates to the area a x b."""
    rotation = lambda x: torch.stack([-x[:, 1], x[:, 0]], dim=1)  # noqa: E731
    b, a = torch.tensor([[1.0, 2.0]], dtype=f64), torch.tensor([3.0, -1.0], dtype=f64)
    got = log_density_from_score(rotation, b, a, n_quad=2)
    torch.testing.assert_close(got, torch.tensor([3.0 * 2.0 - (-1.0) * 1.0], dtype=f64))
    torch.testing.assert_close(asymmetry(rotation, b), torch.tensor([math.sqrt(2)], dtype=f64))


def test_scores_have_symmetric_jacobians(generator):
    data = examples.two_moons()
    x = data.sample(20, generator)
    scale = data.score_jacobian(x).square().sum((1, 2)).sqrt()
    assert float((asymmetry(data.score, x) / scale).max()) < 1e-12


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: energy_score(lambda x: x)(torch.zeros(2, 1)), ValueError, "energy must return one number per row"),
        (lambda: energy_score(lambda x: x[:, 0])(torch.tensor([[1]])), TypeError, "x must be a floating-point"),
        (lambda: energy_score(lambda x: x[:, 0])(torch.tensor([[float("nan")]])), ValueError, "x contains NaN"),
        (lambda: log_partition(lambda x: x[:, 0], torch.tensor([1.0, 0.0])), ValueError, "grid must be strictly increasing"),
        (lambda: log_partition(lambda x: x, LINE), ValueError, "energy must return one number per row"),
        (lambda: ebm_log_likelihood(lambda x: x[:, 0], torch.zeros(3), LINE), ValueError, "x must have 2 axes"),
        (lambda: contrastive_loss(lambda x: x[:, 0], torch.zeros(2, 1), [1.0]), TypeError, "model_samples must be a torch.Tensor"),
        (lambda: contrastive_divergence(lambda x: x[:, 0], torch.zeros(2, 1), 0.0, 1), ValueError, "step"),
        (lambda: gaussian_score(torch.zeros(1, 2), MEAN.float(), -torch.eye(2)), ValueError, "positive definite"),
        (lambda: gaussian_score(torch.zeros(1, 2), torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1]])), ValueError, "symmetric"),
        (lambda: gaussian_score(torch.zeros(1, 3), MEAN, COV), ValueError, "mean and cov must have shapes"),
        (lambda: log_density_from_score(lambda x: -x, torch.zeros(1, 2), torch.zeros(3)), ValueError, "x_ref must have shape"),
        (lambda: log_density_from_score(lambda x: -x, torch.zeros(1, 2), torch.zeros(2), 0), ValueError, "n_quad"),
        (lambda: asymmetry(lambda x: x, torch.zeros(2)), ValueError, "x must have 2 axes"),
    ],
)
def test_refusals(call, error, match, user_errors):
    with pytest.raises(error, match=match):
        call()
