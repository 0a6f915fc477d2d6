"""Isotropic kernels against torch's laws, numerical integration and differentiation, exact oracles and sampling."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from mathcore.distributions import Empirical
from mathcore.divergences import ks_1d
from mathcore.dynamics.fokker_planck import fokker_planck_residual
from mathcore.flows.construction import IsotropicKernel, MultivariateCauchy, poisson_log_prob, poisson_velocity
from mathcore.flows.construction.kernels import NAMES, log_sphere_area
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

F64 = torch.float64
DATA = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-0.7, 1.2]], dtype=F64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=F64)
R = torch.linspace(0.05, 4, 30, dtype=F64)[:, None]
T = torch.tensor(0.7, dtype=F64)


def points(n, d, seed=0):
    return 1.5 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def plain(kernel):
    """The kernel without its closed forms: density and field from psi's derivatives alone."""
    return IsotropicKernel(kernel.psi, kernel.dpsi_dr, kernel.dpsi_dt, kernel.inverse, kernel.dim)


def stretched(k, dim):
    """psi = 1 - exp(-(r/t)^k) as three functions, nothing else."""
    return IsotropicKernel(
        psi=lambda r, t: -torch.expm1(-((r / t) ** k)),
        dpsi_dr=lambda r, t: k * r ** (k - 1) / t**k * torch.exp(-((r / t) ** k)),
        dpsi_dt=lambda r, t: -k * r**k / t ** (k + 1) * torch.exp(-((r / t) ** k)),
        inverse=lambda u, t: t * (-torch.log1p(-u)) ** (1 / k),
        dim=dim,
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_derivatives_and_inverse(name, dim):
    kernel, h = IsotropicKernel.named(name, dim), 1e-5
    # central differences: h^2 times a third derivative below 100, and eps / h
    slope = (kernel.psi(R + h, T) - kernel.psi(R - h, T)) / (2 * h)
    assert torch.allclose(kernel.dpsi_dr(R, T), slope, rtol=0, atol=1e-8)
    rate = (kernel.psi(R, T + h) - kernel.psi(R, T - h)) / (2 * h)
    assert torch.allclose(kernel.dpsi_dt(R, T), rate, rtol=0, atol=1e-8)
    u = torch.tensor([[1e-6], [0.2], [0.5], [0.9], [0.9999]], dtype=F64)
    assert torch.allclose(kernel.psi(kernel.inverse(u, T), T), u, rtol=1e-10, atol=1e-12)
    # the three conditions: from 0 to 1, rising, and a point mass for t -> 0
    assert float(kernel.psi(torch.zeros(1, 1, dtype=F64), T)) == 0
    assert bool((kernel.dpsi_dr(R, T) > 0).all())
    assert float(kernel.psi(R[:1], torch.tensor(1e-9, dtype=F64))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_closed_density_integrates_to_psi(name, dim):
    kernel, origin = IsotropicKernel.named(name, dim), torch.zeros(1, dim, dtype=F64)

    def shell(r):
        x = torch.zeros(1, dim, dtype=F64)
        x[0, 0] = r
        return math.exp(float(kernel.log_prob(x, origin, 0.7)) + log_sphere_area(dim)) * r ** (dim - 1)

    for r in (0.3, 2.0):
        inside, _ = integrate.quad(shell, 0, r, epsabs=1e-13)
        assert inside == pytest.approx(float(kernel.psi(torch.tensor([[r]], dtype=F64), T)), rel=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_formulas_from_psi_agree_with_the_closed_forms(name, dim):
    kernel, x, x0 = IsotropicKernel.named(name, dim), points(9, dim), points(9, dim, 1)
    t = torch.linspace(0.5, 3, 9, dtype=F64)
    assert torch.allclose(plain(kernel).log_prob(x, x0, t), kernel.log_prob(x, x0, t), rtol=1e-9, atol=1e-9)
    assert torch.allclose(plain(kernel).velocity(x, x0, t), (x - x0) / t[:, None], rtol=1e-10)
    assert torch.allclose(kernel.velocity(x, x0, t), (x - x0) / t[:, None], rtol=1e-13)


@given(st.integers(1, 5), st.floats(0.01, 100), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_two_kernels_are_known_laws(d, t, seed):
    x, x0 = t * points(6, d, seed), points(6, d, seed + 1)
    normal = torch.distributions.Normal(x0, torch.tensor(t, dtype=F64)).log_prob(x).sum(1)
    assert torch.allclose(IsotropicKernel.named("gaussian", d).log_prob(x, x0, t), normal, rtol=1e-10, atol=1e-10)
    cauchy = MultivariateCauchy(d, t).log_prob(x - x0)
    assert torch.allclose(IsotropicKernel.named("cauchy", d).log_prob(x, x0, t), cauchy, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [lambda n=name: IsotropicKernel.named(n, 2) for name in NAMES] + [lambda: stretched(1.7, 2)])
def test_the_marginal_field_carries_the_marginal_density(make):
    kernel, x = make(), points(8, 2)
    residual = fokker_planck_residual(
        lambda y, t: kernel.marginal_log_prob(y, t, DATA, WEIGHTS), lambda y, t: kernel.marginal_velocity(y, t, DATA, WEIGHTS), 0.0, x, 0.6
    )
    assert float(residual.abs().max()) < 1e-9  # of terms of order 100
    # a single source's field is not it
    alone = fokker_planck_residual(lambda y, t: kernel.marginal_log_prob(y, t, DATA, WEIGHTS), lambda y, t: y / t, 0.0, x, 0.6)
    assert float(alone.abs().max()) > 0.1


def test_the_gaussian_kernel_is_the_variance_exploding_oracle():
    oracle, kernel = AffineGaussianOracle(Empirical(DATA), AffineSchedule.edm()), IsotropicKernel.named("gaussian", 2)
    x = points(10, 2)
    for t in (0.2, 1.5, 20.0):
        assert torch.allclose(kernel.marginal_velocity(x, t, DATA), oracle.velocity(x, t), rtol=1e-9, atol=1e-11)
        assert torch.allclose(kernel.marginal_log_prob(x, t, DATA), oracle.log_prob(x, t), rtol=1e-11)


def test_the_cauchy_kernel_is_poisson_flow():
    x, t = points(10, 2), torch.linspace(0.1, 4, 10, dtype=F64)
    kernel = IsotropicKernel.named("cauchy", 2)
    assert torch.allclose(kernel.marginal_velocity(x, t, DATA, WEIGHTS), poisson_velocity(x, t, DATA, WEIGHTS), rtol=1e-10, atol=1e-12)
    assert torch.allclose(kernel.marginal_log_prob(x, t, DATA, WEIGHTS), poisson_log_prob(x, t, DATA, WEIGHTS), rtol=1e-11)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_samples(name, dim, generator):
    kernel, x0 = IsotropicKernel.named(name, dim), points(40_000, dim)
    offset = kernel.sample(x0, 0.7, generator) - x0
    assert ks_1d(offset.norm(dim=1), lambda r: kernel.psi(r[:, None], T)[:, 0])[1] > 1e-3
    direction = offset / offset.norm(dim=1, keepdim=True)
    assert float(direction.mean(0).abs().max()) < 5 / math.sqrt(40_000)
    assert torch.allclose(direction.T @ direction / 40_000, torch.eye(dim, dtype=F64) / dim, rtol=0, atol=5 / math.sqrt(40_000))


def test_one_source_is_a_change_of_radius_two_are_not():
    first, second = IsotropicKernel.named("gaussian", 2), IsotropicKernel.named("tanh", 2)
    # a path of the first, r = 1.3 t, becomes a path of the second: radius proportional to t
    t = torch.linspace(0.2, 2, 7, dtype=F64)
    images = torch.cat([first.matched_radius(second, 1.3 * s[None], s) for s in t])
    assert torch.allclose(images / t, (images / t)[:1].expand(7), rtol=1e-12)
    assert torch.allclose(second.matched_radius(first, images[:1], t[0]), 1.3 * t[:1], rtol=1e-10)
    x = torch.tensor([[0.3, 0.3]], dtype=F64)
    fields = [k.marginal_velocity(x, 0.5, DATA[:2]) for k in (first, second, IsotropicKernel.named("cauchy", 2))]
    assert float((fields[0] - fields[1]).abs().max()) > 0.02
    assert float((fields[0] - fields[2]).abs().max()) > 0.02


@pytest.mark.parametrize(("name", "want"), [("cauchy", (0.29517, 0.03180, 0.003183)), ("gaussian", (0.38292, 0.03988, 0.003989))])
def test_how_much_of_the_data_is_left_in_the_prior(name, want):
    kernel = IsotropicKernel.named(name, 1)
    for t, value in zip((1.0, 10.0, 100.0), want):
        assert kernel.total_variation(1.0, t) == pytest.approx(value, abs=6e-6)
        # the integral of |p - q| / 2, with the kink at the middle as a break point

        def gap(x, t=t):
            a, b = (float(kernel.log_prob(torch.tensor([[x]], dtype=F64), torch.tensor([[m]], dtype=F64), t).exp()) for m in (0.0, 1.0))
            return abs(a - b) / 2

        whole = integrate.quad(gap, -math.inf, 0.5, epsabs=1e-9)[0] + integrate.quad(gap, 0.5, math.inf, epsabs=1e-9)[0]
        assert kernel.total_variation(1.0, t) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_total_variation_in_space(name, generator):
    """The mass of the slab |x_1| < distance / 2, counted."""
    kernel, n = IsotropicKernel.named(name, 3), 200_000
    x = kernel.sample(torch.zeros(n, 3, dtype=F64), 0.5, generator)
    share = float((x[:, 0].abs() < 0.4).double().mean())
    want = kernel.total_variation(0.8, 0.5)
    assert abs(share - want) < 5 * math.sqrt(want * (1 - want) / n)


def test_limits_at_the_source_and_far_out():
    origin = torch.zeros(1, 2, dtype=F64)
    for name in ("gaussian", "cauchy"):
        kernel = IsotropicKernel.named(name, 2)
        assert torch.isfinite(kernel.log_prob(origin, origin, 0.3)).all()
        assert torch.equal(kernel.velocity(origin, origin, 0.3), origin)
        assert torch.isfinite(kernel.marginal_velocity(DATA, 0.01, DATA)).all()
    for name in ("tanh", "exponential"):
        kernel = IsotropicKernel.named(name, 2)
        with pytest.raises(ValueError, match="not positive and finite at r = 0"):
            kernel.log_prob(origin, origin, 0.3)
        with pytest.raises(ValueError, match="density is not finite"):
            kernel.marginal_velocity(DATA, 0.3, DATA)
        line = IsotropicKernel.named(name, 1)
        assert torch.isfinite(line.marginal_log_prob(DATA[:, :1], 0.3, DATA[:, :1])).all()
    assert torch.equal(plain(IsotropicKernel.named("gaussian", 2)).velocity(origin, origin, 0.3), origin)
    far = torch.tensor([[1e4, 0.0]], dtype=F64)
    for name in NAMES:
        assert torch.allclose(
            IsotropicKernel.named(name, 2).marginal_velocity(far, 1.0, DATA), far, rtol=0, atol=2
        )  # the data lie within 2
    with pytest.raises(ValueError, match="underflows"):
        plain(IsotropicKernel.named("gaussian", 2)).velocity(far, origin, 1.0)


X = torch.zeros(3, 2, dtype=F64)
KERNEL = IsotropicKernel.named("gaussian", 2)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: IsotropicKernel.named("gauss", 2), ValueError, "did you mean 'gaussian'"),
        (lambda: IsotropicKernel.named("tanh", 0), ValueError, "dim"),
        (lambda: IsotropicKernel(1.0, torch.add, torch.add, torch.add, 2), TypeError, "psi"),
        (lambda: KERNEL.log_prob(X, X[:2], 1.0), ValueError, "x0"),
        (lambda: KERNEL.log_prob(X[:, :1], X[:, :1], 1.0), ValueError, "last dimension 2"),
        (lambda: KERNEL.velocity(X, X, 0.0), ValueError, "t must be positive"),
        (lambda: KERNEL.velocity(X.long(), X, 1.0), TypeError, "x must be a floating"),
        (lambda: KERNEL.sample(X * math.nan, 1.0), ValueError, "x0 contains"),
        (lambda: KERNEL.sample(X, -1.0), ValueError, "t must be positive"),
        (lambda: KERNEL.marginal_velocity(X, 1.0, DATA[:, :1]), ValueError, "data"),
        (lambda: KERNEL.marginal_velocity(X, 1.0, DATA, -WEIGHTS), ValueError, "weights"),
        (lambda: KERNEL.marginal_log_prob(X.float(), 1.0, DATA), TypeError, "one dtype"),
        (lambda: KERNEL.matched_radius(KERNEL, X, 1.0), ValueError, "r must have 1 axes"),
        (lambda: KERNEL.total_variation(0.0, 1.0), ValueError, "distance"),
        (lambda: KERNEL.total_variation(1.0, -1.0), ValueError, "t must"),
    ],
)
def test_bad_input(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
