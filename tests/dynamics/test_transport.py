"""Changes of variables against scipy's laws and closed-form Gaussians; velocities against the probability-flow ODE of exact mixtures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.fokker_planck import fokker_planck_residual
from mathcore.dynamics.transport import (
    log_abs_det_jacobian,
    marginal_velocity,
    pushforward_logpdf,
    velocity_from_density_1d,
    zero_flux_field,
)
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

F64 = torch.float64
VP = AffineSchedule.vp()
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)


def normal_log_prob(x):
    return (-x.square() / 2 - math.log(2 * math.pi) / 2).sum(1)


def test_the_exponential_of_a_normal_is_log_normal():
    y = torch.linspace(0.05, 8, 40, dtype=F64)[:, None]
    got = pushforward_logpdf(torch.log, normal_log_prob, y)
    assert torch.allclose(got, torch.from_numpy(stats.lognorm(1).logpdf(y[:, 0])), rtol=1e-12)


@given(st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_an_affine_map_of_a_mixture(d, seed):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(d, d, generator=g, dtype=F64) + 2 * torch.eye(d, dtype=F64)
    b = torch.randn(d, generator=g, dtype=F64)
    data = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=F64), torch.randn(2, d, generator=g, dtype=F64), torch.tensor([0.5, 1.5], dtype=F64)
    )
    y = data.affine(A, b).sample(10, g)
    inverse = torch.linalg.inv(A)
    got = pushforward_logpdf(lambda v: (v - b) @ inverse.T, data.log_prob, y)
    # relative to the size of the quadratic forms; the condition of A enters squared
    scale = float(torch.linalg.cond(A)) ** 2
    assert torch.allclose(got, data.affine(A, b).log_prob(y), rtol=1e-13 * scale, atol=1e-13 * scale)
    assert torch.allclose(
        log_abs_det_jacobian(lambda v: v @ A.T + b, y), torch.linalg.slogdet(A).logabsdet.expand(10), rtol=1e-10, atol=1e-12
    )


def test_a_composition_multiplies_determinants(generator):
    x = torch.randn(12, 3, generator=generator, dtype=F64)
    first, second = lambda v: torch.sinh(v) + v.roll(1, 1) / 4, lambda v: v + 0.3 * torch.sin(v.flip(1))
    whole = log_abs_det_jacobian(lambda v: second(first(v)), x)
    parts = log_abs_det_jacobian(first, x) + log_abs_det_jacobian(second, first(x))
    assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-13)
    misplaced = log_abs_det_jacobian(first, x) + log_abs_det_jacobian(second, x)
    assert float((whole - misplaced).abs().max()) > 0.01


def test_the_pushforward_by_the_flow_is_the_marginal():
    oracle = AffineGaussianOracle(examples.two_modes(), VP)
    y = torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    got = pushforward_logpdf(lambda v: oracle.flow_map(v, 0.4, 0.0), oracle.data.log_prob, y)
    assert torch.allclose(got, oracle.log_prob(y, 0.4), rtol=1e-9, atol=1e-9)


def test_the_velocity_of_a_density_path_is_the_flow_of_the_oracle():
    oracle = AffineGaussianOracle(examples.two_modes(), VP)

    def at(t):
        return oracle.data.corrupt(VP.alpha(t), VP.sigma(t))

    def cdf(x, t):
        return at(t).cdf(x)

    x = torch.linspace(-2.5, 2.5, 21, dtype=F64)[:, None]
    got = velocity_from_density_1d(cdf, lambda v, t: at(t).prob(v), x, 0.3)
    assert torch.allclose(got, oracle.velocity(x, 0.3), rtol=1e-9)


def test_the_survival_function_keeps_the_right_tail():
    """A shifting normal has velocity 1 everywhere; twelve standard deviations out F is 1 to the last digit."""
    shifted = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)

    def cdf(x, t):
        return shifted.cdf(x[:, 0] - t)

    def survival(x, t):
        return shifted.cdf(t - x[:, 0])

    def pdf(x, t):
        return shifted.log_prob(x[:, 0] - t).exp()

    x = torch.tensor([[-12.0], [0.0], [12.0]], dtype=F64)
    assert torch.allclose(velocity_from_density_1d(cdf, pdf, x, 0.25, survival), torch.ones(3, 1, dtype=F64), rtol=1e-12)


def test_a_shifting_and_scaling_family():
    m, s = lambda t: torch.sin(t), lambda t: 1 + t**2
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    x, t = torch.linspace(-3, 3, 13, dtype=F64)[:, None], 0.7
    got = velocity_from_density_1d(
        lambda v, u: normal.cdf((v[:, 0] - m(u)) / s(u)), lambda v, u: normal.log_prob((v[:, 0] - m(u)) / s(u)).exp() / s(u), x, t
    )
    assert torch.allclose(got, math.cos(t) + 2 * t / (1 + t**2) * (x - math.sin(t)), rtol=1e-10)


def conditional(oracle, x, t):
    """Velocities and log-densities of x_t given the component that x_0 came from."""
    data = oracle.data
    parts = [GaussianMixture(torch.ones(1, dtype=F64), data.means[k : k + 1], data.covs[k : k + 1]) for k in range(data.n_components)]
    fields = [AffineGaussianOracle(part, VP) for part in parts]
    return torch.stack([f.velocity(x, t) for f in fields], 1), torch.stack([f.log_prob(x, t) for f in fields], 1)


def test_the_marginal_velocity_is_the_posterior_mean(generator):
    oracle = AffineGaussianOracle(examples.ring(modes=5), VP)
    x = 3 * torch.randn(50, 2, generator=generator, dtype=F64)
    v, log_p = conditional(oracle, x, 0.3)
    assert torch.allclose(marginal_velocity(v, log_p, oracle.data.weights), oracle.velocity(x, 0.3), rtol=1e-11, atol=1e-12)
    # weights of any sum; log-densities far below what exp can hold
    assert torch.allclose(marginal_velocity(v, log_p - 2000, 7 * oracle.data.weights), oracle.velocity(x, 0.3), rtol=1e-9, atol=1e-10)


def test_a_zero_flux_field_leaves_the_continuity_equation_alone(generator):
    oracle = AffineGaussianOracle(examples.two_moons(), VP)
    w = zero_flux_field(oracle.score, TURN)
    x = oracle.data.sample(20, generator)
    assert float(w(x, 0.3).norm(dim=1).min()) > 0.1
    residual = fokker_planck_residual(oracle.log_prob, lambda y, t: oracle.velocity(y, t) + 2 * w(y, t), 0.0, x, 0.3)
    assert float(residual.abs().max()) < 1e-10


def test_bad_input(user_errors):
    x = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"singular or not finite at 3 of 3"):
        log_abs_det_jacobian(lambda v: v * v[:, :1] ** 2, x)
    with pytest.raises(ValueError, match="must return the shape of its input"):
        log_abs_det_jacobian(lambda v: v[:, :1], x)
    with pytest.raises(ValueError, match="x must have 2 axes"):
        log_abs_det_jacobian(lambda v: v, x[0])
    with pytest.raises(ValueError, match="contains NaN"):
        pushforward_logpdf(lambda v: v, normal_log_prob, x * math.nan)
    with pytest.raises(TypeError, match="floating-point"):
        pushforward_logpdf(lambda v: v, normal_log_prob, x.long())
    with pytest.raises(ValueError, match="base_log_prob must return one value per row"):
        pushforward_logpdf(lambda v: v, lambda v: v, x)
    for A, match in ((torch.eye(2, dtype=F64), "antisymmetric"), (torch.zeros(2, 3, dtype=F64), "square"), (TURN * math.nan, "NaN")):
        with pytest.raises(ValueError, match=match):
            zero_flux_field(lambda v, t: v, A)
    with pytest.raises(TypeError, match="score must be a function"):
        zero_flux_field(None, TURN)


def test_bad_input_of_the_velocities(user_errors):
    v, log_p, weights = torch.zeros(3, 4, 2, dtype=F64), torch.zeros(3, 4, dtype=F64), torch.ones(4, dtype=F64)
    with pytest.raises(ValueError, match="cond_log_p must have shape"):
        marginal_velocity(v, log_p[:, :3], weights)
    with pytest.raises(ValueError, match="weights must be 4 positive numbers"):
        marginal_velocity(v, log_p, weights[:3])
    with pytest.raises(ValueError, match="weights must be 4 positive numbers"):
        marginal_velocity(v, log_p, weights - 1)
    with pytest.raises(TypeError, match=r"cond_v must be a torch\.Tensor"):
        marginal_velocity([1.0], log_p, weights)
    x = torch.zeros(3, 1, dtype=F64)
    one, zero = lambda y, t: y[:, 0] + t, lambda y, t: y[:, 0]
    with pytest.raises(ValueError, match="pdf must be positive"):
        velocity_from_density_1d(one, zero, x, 0.5)
    with pytest.raises(ValueError, match="cdf must return one value per row"):
        velocity_from_density_1d(lambda y, t: y + t, one, x, 0.5)
    with pytest.raises(ValueError, match="pdf must return one value per row"):
        velocity_from_density_1d(one, lambda y, t: y, x, 0.5)
    with pytest.raises(ValueError, match="last dimension 1"):
        velocity_from_density_1d(one, one, torch.zeros(3, 2, dtype=F64), 0.5)
