"""The exact fields between mixtures against quadrature, automatic differentiation, the continuity equation and the diffusion oracle."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.dynamics import divergence, fokker_planck_residual
from mathcore.interpolant_oracle import InterpolantOracle
from mathcore.interpolation import Interpolation
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

f64 = torch.float64
LINEAR, TRIG = Interpolation.linear(), Interpolation.trig()


def tensor(values):
    return torch.tensor(values, dtype=f64)


def mixture(form, dim=2, k=2, seed=0):
    """A mixture with isotropic, diagonal or full covariances."""
    g = torch.Generator().manual_seed(seed)
    w = torch.rand(k, generator=g, dtype=f64) + 0.3
    root = torch.randn(k, dim, dim, generator=g, dtype=f64)
    full = 0.3 * root @ root.mT + 0.2 * torch.eye(dim, dtype=f64)
    covs = {"isotropic": full[:, 0, 0], "diagonal": full.diagonal(dim1=1, dim2=2), "full": full}[form]
    return GaussianMixture(w / w.sum(), torch.randn(k, dim, generator=g, dtype=f64), covs)


LEFT = GaussianMixture(tensor([0.4, 0.6]), tensor([[-1.0], [0.8]]), tensor([0.25, 0.1]))
RIGHT = GaussianMixture(tensor([0.3, 0.7]), tensor([[-2.0], [1.5]]), tensor([0.2, 0.4]))
FORMS = [("isotropic", "isotropic"), ("isotropic", "diagonal"), ("full", "diagonal"), ("full", "full")]


def conditional_moments(oracle, x, t):
    """Density, mean and variance of x'_t given x_t = x in 1-D by quadrature over x_0, with x_1 = (x - a x_0) / b."""
    a, b, da, db = (float(c(t)) for c in (oracle.path.a, oracle.path.b, oracle.path.da, oracle.path.db))
    x0, weights = quadrature_nodes(torch.linspace(-9, 9, 6001, dtype=f64))
    out = []
    for point in x[:, 0].tolist():
        x1 = (point - a * x0) / b
        joint = weights * oracle.source.prob(x0) * oracle.target.prob(x1) / b
        rate = (da * x0 + db * x1)[:, 0]
        mass = joint.sum()
        mean = (joint * rate).sum() / mass
        out.append([float(mass), float(mean), float((joint * (rate - mean) ** 2).sum() / mass)])
    return tensor(out).T


@pytest.mark.parametrize("path", [LINEAR, TRIG, Interpolation.custom(lambda t: 1 - t**2, lambda t: torch.sin(t))])
@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_density_velocity_and_variance_by_quadrature(path, t):
    oracle, x = InterpolantOracle(LEFT, RIGHT, path), tensor([[-2.5], [-0.3], [0.4], [1.7]])
    mass, mean, variance = conditional_moments(oracle, x, t)
    # the trapezium rule on smooth, decayed integrands is exact to rounding
    torch.testing.assert_close(oracle.log_prob(x, t).exp(), mass, rtol=1e-11, atol=0)
    torch.testing.assert_close(oracle.velocity(x, t)[:, 0], mean, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(oracle.target_variance_at(x, t), variance, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("path", [LINEAR, TRIG, Interpolation.from_schedule(AffineSchedule.vp())])
def test_continuity_equation_and_derivatives(forms, path, generator):
    oracle = InterpolantOracle(mixture(forms[0]), mixture(forms[1], k=3, seed=1), path)
    x, t = 1.5 * torch.randn(20, 2, generator=generator, dtype=f64), 0.02 + 0.9 * torch.rand(20, generator=generator, dtype=f64)
    residual = fokker_planck_residual(oracle.log_prob, oracle.velocity, 0.0, x, t)
    scale = float(divergence(lambda y: oracle.velocity(y, t), x).abs().max())
    assert float(residual.abs().max()) < 1e-11 * max(1.0, scale)  # sums of terms of that size and larger, rounded at 1e-16
    torch.testing.assert_close(oracle.divergence(x, t), divergence(lambda y: oracle.velocity(y, t), x), rtol=1e-9, atol=1e-10)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(oracle.score(x, t), torch.autograd.grad(oracle.log_prob(y, t).sum(), y)[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("forms", FORMS)
def test_marginal_has_the_same_law_and_the_right_ends(forms, generator):
    source, target = mixture(forms[0]), mixture(forms[1], k=3, seed=1)
    oracle = InterpolantOracle(source, target, LINEAR)
    x = torch.randn(10, 2, generator=generator, dtype=f64)
    for t in (0.0, 0.3, 1.0):
        marginal = oracle.marginal(t)
        torch.testing.assert_close(marginal.log_prob(x), oracle.log_prob(x, t), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(oracle.log_prob(x, torch.full((10,), t, dtype=f64)), oracle.log_prob(x, t), rtol=1e-12, atol=1e-12)
        a, b = 1 - t, t
        torch.testing.assert_close(marginal.mean(), a * source.mean() + b * target.mean())
        torch.testing.assert_close(marginal.cov(), a * a * source.cov() + b * b * target.cov())
    torch.testing.assert_close(oracle.log_prob(x, 0.0), source.log_prob(x))
    torch.testing.assert_close(oracle.log_prob(x, 1.0), target.log_prob(x))
    # at the ends one of the two samples is known: E[x_1 - x_0 | x_0 = x] = E x_1 - x
    torch.testing.assert_close(oracle.velocity(x, 0.0), target.mean() - x)
    torch.testing.assert_close(oracle.velocity(x, 1.0), x - source.mean())


@pytest.mark.parametrize("schedule", [AffineSchedule.linear(), AffineSchedule.vp(), AffineSchedule.trig()])
def test_a_gaussian_source_is_diffusion_run_backwards(schedule, generator):
    """Section 5.3.2: the velocity at t is minus (span times) that of the probability-flow ODE at the reversed time."""
    data = mixture("full", k=3)
    normal = GaussianMixture(tensor([1.0]), torch.zeros(1, 2, dtype=f64), tensor([1.0]))
    fm, diffusion = InterpolantOracle(normal, data, Interpolation.from_schedule(schedule)), AffineGaussianOracle(data, schedule)
    x, t = torch.randn(12, 2, generator=generator, dtype=f64), torch.linspace(0.05, 0.95, 12, dtype=f64)
    s = schedule.t_max * (1 - t)
    torch.testing.assert_close(fm.velocity(x, t), -schedule.t_max * diffusion.velocity(x, s), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(fm.score(x, t), diffusion.score(x, s), rtol=1e-10, atol=1e-11)


def test_target_variance():
    gauss = [GaussianMixture(tensor([1.0]), tensor([[m]]), tensor([v])) for m, v in ((0.0, 2.0), (3.0, 0.5))]
    t = 0.3
    # Var(x_1 - x_0 | x_t) of two independent normals by the normal equations
    total, cross, variance = 2.0 + 0.5, t * 0.5 - (1 - t) * 2.0, (1 - t) ** 2 * 2.0 + t**2 * 0.5
    got = InterpolantOracle(*gauss, LINEAR).target_variance(t, 1)
    assert float(got) == pytest.approx(total - cross**2 / variance, rel=1e-13)
    oracle = InterpolantOracle(LEFT, RIGHT, LINEAR)
    x, weights = quadrature_nodes(torch.linspace(-8, 8, 1601, dtype=f64))
    want = float((weights * oracle.log_prob(x, t).exp() * oracle.target_variance_at(x, t)).sum())
    n = 40_000
    g = torch.Generator().manual_seed(1)
    spread = float(oracle.target_variance_at(oracle.marginal(t).sample(2000, g), t).std())
    assert abs(float(oracle.target_variance(t, n, g)) - want) < 5 * spread / math.sqrt(n)
    # two dimensions, full covariances, known pair: Schur complement of the joint covariance
    s, r = mixture("full", k=1), mixture("full", k=1, seed=3)
    S, T = s.covariances[0], r.covariances[0]
    V, C = (1 - t) ** 2 * S + t**2 * T, t * T - (1 - t) * S
    schur = S + T - C @ torch.linalg.solve(V, C.T)
    assert float(InterpolantOracle(s, r, LINEAR).target_variance(t)) == pytest.approx(float(schur.trace()), rel=1e-11)


def integrate(oracle, x, s, t):
    def rate(u, y):
        return oracle.velocity(torch.as_tensor(y).reshape(x.shape), u).flatten().numpy()

    got = solve_ivp(rate, (s, t), x.flatten().numpy(), method="RK45", rtol=1e-10, atol=1e-11)
    return torch.as_tensor(got.y[:, -1]).reshape(x.shape)


def test_flow_map_on_the_line(generator):
    x = tensor([[-1.6], [-0.7], [0.0], [0.5], [1.2]])
    ends = []
    for path in (LINEAR, TRIG):
        oracle = InterpolantOracle(LEFT, RIGHT, path)
        ends.append(oracle.flow_map(x, 0.0, 1.0))
        torch.testing.assert_close(oracle.flow_map(x, 0.0, 0.6), integrate(oracle, x, 0.0, 0.6), rtol=0, atol=1e-7)
        back = oracle.flow_map(oracle.flow_map(x, 0.0, 0.7), torch.full((5,), 0.7, dtype=f64), torch.zeros(5, dtype=f64))
        torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)  # scope of Prop. 5.4.1: one endpoint map for all scalar affine paths
    torch.testing.assert_close(RIGHT.cdf(ends[0]), LEFT.cdf(x), rtol=1e-11, atol=0)


@pytest.mark.parametrize("form", ["isotropic", "diagonal", "full"])
def test_flow_map_in_the_plane(form, generator):
    x = torch.randn(4, 2, generator=generator, dtype=f64)
    for k in (1, 2):
        oracle = InterpolantOracle(mixture(form, k=k), mixture(form, k=k, seed=2), LINEAR)
        torch.testing.assert_close(oracle.flow_map(x, 0.1, 0.9), integrate(oracle, x, 0.1, 0.9), rtol=0, atol=1e-7)
        t = tensor([0.0, 0.2, 0.5, 1.0])
        got = oracle.flow_map(x, 0.1, t)
        for i in range(4):
            torch.testing.assert_close(got[i], integrate(oracle, x[i : i + 1], 0.1, float(t[i]))[0], rtol=0, atol=1e-7)


def test_float32_keeps_its_dtype_and_the_flow_its_digits(generator):
    source, target = (m.to(torch.float32) for m in (mixture("full"), mixture("full", seed=1)))
    low, high = InterpolantOracle(source, target, LINEAR), InterpolantOracle(source.to(f64), target.to(f64), LINEAR)
    x = torch.randn(5, 2, generator=generator)
    for name in ("velocity", "score", "log_prob", "divergence"):
        got = getattr(low, name)(x, 0.4)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), getattr(high, name)(x.double(), 0.4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(low.flow_map(x, 0.0, 1.0).double(), high.flow_map(x.double(), 0.0, 1.0), rtol=1e-6, atol=1e-6)
    assert low.marginal(0.4).means.dtype == torch.float32


def test_constructor_refusals(user_errors):
    with pytest.raises(TypeError, match="source must be a GaussianMixture"):
        InterpolantOracle("normal", RIGHT, LINEAR)
    with pytest.raises(TypeError, match="path must be an Interpolation"):
        InterpolantOracle(LEFT, RIGHT, AffineSchedule.linear())
    with pytest.raises(ValueError, match="share a dimension"):
        InterpolantOracle(LEFT, mixture("full"), LINEAR)
    with pytest.raises(TypeError, match="share a dtype"):
        InterpolantOracle(LEFT, RIGHT.to(torch.float32), LINEAR)


@pytest.mark.parametrize("name", ["log_prob", "score", "velocity", "divergence", "target_variance_at"])
@pytest.mark.parametrize(
    ("x", "t", "error", "match"),
    [
        (torch.zeros(3, dtype=f64), 0.5, ValueError, "x must have 2 axes"),
        (torch.zeros(3, 2, dtype=f64), 0.5, ValueError, "x must have last dimension 1"),
        (torch.zeros(3, 1), 0.5, TypeError, "float64 like the mixtures"),
        (torch.full((3, 1), math.nan, dtype=f64), 0.5, ValueError, "x contains NaN"),
        (torch.zeros(3, 1, dtype=f64), 1.5, ValueError, "outside"),
        (torch.zeros(3, 1, dtype=f64), torch.zeros(2), ValueError, "t must be a number"),
    ],
)
def test_field_refusals(name, x, t, error, match, user_errors):
    with pytest.raises(error, match=match):
        getattr(InterpolantOracle(LEFT, RIGHT, LINEAR), name)(x, t)


def test_more_refusals(user_errors):
    oracle, x = InterpolantOracle(LEFT, RIGHT, LINEAR), torch.zeros(3, 1, dtype=f64)
    with pytest.raises(ValueError, match="one time"):
        oracle.marginal(torch.zeros(2))
    with pytest.raises(ValueError, match="n must be an integer"):
        oracle.target_variance(0.5, 0)
    with pytest.raises(ValueError, match="s must be a number"):
        oracle.flow_map(x, torch.zeros(2), 1.0)
    still = InterpolantOracle(LEFT, RIGHT, Interpolation.custom(lambda t: (1 - t) * t, lambda t: t))
    with pytest.raises(ValueError, match="both zero"):
        still.velocity(x, 0.0)
    with pytest.raises(ValueError, match="both zero"):
        still.flow_map(x, 0.0, 1.0)
    with pytest.raises(ValueError, match="dsigma of the vp"):
        InterpolantOracle(LEFT, RIGHT, Interpolation.from_schedule(AffineSchedule.vp())).velocity(x, 1.0)
