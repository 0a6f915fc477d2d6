"""Characteristics against closed forms, sympy, quadrature, the Gaussian oracle and the quantiles of flows on the line."""

import math
from itertools import pairwise

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mathcore.distributions import Empirical
from mathcore.divergences import ks_1d
from mathcore.dynamics.fokker_planck import fokker_planck_residual
from mathcore.dynamics.likelihood import log_likelihood_ode
from mathcore.flows.construction import (
    CurveFamily,
    characteristic_field,
    characteristic_log_density,
    destination_thresholds,
    straight_line_clean,
    superposed_log_density,
    superposed_velocity,
    trace_back,
)
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.symbolic import construction as symbolic

F64 = torch.float64
STRAIGHT, PARABOLA, SPIRAL = CurveFamily.power(), CurveFamily.power(2), CurveFamily.rotating(1.3)
LINE = torch.tensor([[0.5], [0.5], [1.2], [1.7]], dtype=F64)
PLANE = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-0.7, 1.2]], dtype=F64)


def points(n, d, seed=0):
    return 1.5 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def hyperbolic(x, x0, t):
    return x0 + torch.sinh((x - x0) / t)


def normal(x):
    return torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0).log_prob(x).sum(1)


def laplace(x):
    return -(x.abs() + math.log(2)).sum(1)


def uniform(x):
    """On [0, 2]."""
    return torch.where((x >= 0) & (x <= 2), -math.log(2), -math.inf).sum(1).to(x)


def logistic(x):
    return (-x - 2 * torch.nn.functional.softplus(-x)).sum(1)


# --- one data point -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [STRAIGHT, PARABOLA, CurveFamily.power(0.5), SPIRAL])
def test_curves_and_first_integrals_fit(family):
    x0, far = points(7, 2), points(7, 2, 1)
    t = torch.linspace(0.05, 1, 7, dtype=F64)[:, None]
    x = family.curve(x0, far, t)
    assert torch.allclose(family.first_integral(x, x0, t), far, rtol=0, atol=1e-13 / 0.05)
    speed = torch.func.jvp(lambda s: family.curve(x0, far, s), (t,), (torch.ones_like(t),))[1]
    assert torch.allclose(characteristic_field(family.first_integral, x, x0, t[:, 0]), speed, rtol=1e-11, atol=1e-11)
    # all curves end in the data point
    assert torch.allclose(family.curve(x0, far, torch.full_like(t, 1e-12)), x0, atol=1e-5)
    assert torch.allclose(family.curve(x0, far, torch.ones_like(t)), far, atol=1e-14)


def test_the_field_of_the_spiral_is_the_derived_one():
    _, first_integral, x, _ = symbolic.curve_family("rotating")
    names = (*x, *symbolic.coordinates(2, "x0"), symbolic.t, sp.Symbol("omega", real=True))
    derived = sp.lambdify(names, list(symbolic.first_integral_field(first_integral, x)))
    places, sources = points(5, 2), points(5, 2, 1)
    got = characteristic_field(SPIRAL.first_integral, places, sources, 0.4)
    for row, a, b in zip(got, places, sources):
        assert torch.allclose(row, torch.tensor(derived(*a.tolist(), *b.tolist(), 0.4, 1.3), dtype=F64), rtol=1e-12)


def test_a_normal_prior_on_straight_lines():
    x, x0, t = points(8, 3), points(8, 3, 1), torch.linspace(0.1, 1, 8, dtype=F64)
    got = characteristic_log_density(STRAIGHT.first_integral, normal, x, x0, t)
    want = torch.distributions.Normal((1 - t[:, None]) * x0, t[:, None]).log_prob(x).sum(1)
    assert torch.allclose(got, want, rtol=1e-11, atol=1e-11)
    assert torch.allclose(characteristic_field(STRAIGHT.first_integral, x, x0, t), (x - x0) / t[:, None], rtol=1e-12)


@pytest.mark.parametrize("integral", [STRAIGHT.first_integral, PARABOLA.first_integral, hyperbolic])
@pytest.mark.parametrize("t", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_mass_is_one_at_all_times(integral, t):
    x = torch.linspace(-60, 60, 400_001, dtype=F64)[:, None]
    density = characteristic_log_density(integral, logistic, x, torch.full_like(x, 0.7), t).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=1e-8)


def test_the_two_forms_of_the_density_agree_on_curves_that_are_not_affine():
    """The integral of div f along the curve up to t = 1, against the determinant; at t = 1 the law is that of the determinant by definition."""
    x, x0 = points(9, 1), torch.full((9, 1), 0.2, dtype=F64)

    def field(y, s):
        return characteristic_field(hyperbolic, y, x0, s)

    def end(y):
        return normal(hyperbolic(y, x0, torch.ones_like(y))) + torch.log(torch.cosh(y - x0))[:, 0]

    got = log_likelihood_ode(field, end, x, torch.linspace(0.4, 1, 101, dtype=F64))
    assert torch.allclose(got, characteristic_log_density(hyperbolic, normal, x, x0, 0.4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "law", [stats.uniform(0, 2), stats.laplace(), stats.cauchy(), stats.t(3)], ids=["uniform", "laplace", "cauchy", "student"]
)
def test_any_prior_is_sampled_by_interpolation(law, generator):
    """(1 - t) x_0 + t eps has the distribution function F((x - (1 - t) x_0) / t); here from the density of the characteristics."""
    t, x0 = 0.6, 1.5
    u = torch.rand(20_000, generator=generator, dtype=F64)
    x = (1 - t) * x0 + t * torch.from_numpy(law.ppf(u.numpy()))
    grid = (1 - t) * x0 + t * torch.from_numpy(law.ppf(torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=F64).numpy()))[:, None]

    def prior(y):
        return torch.from_numpy(law.logpdf(y.detach()[:, 0].numpy()))

    density = characteristic_log_density(STRAIGHT.first_integral, prior, grid, torch.full_like(grid, x0), t).exp()
    below = 1e-4 + torch.cat([torch.zeros(1, dtype=F64), torch.cumulative_trapezoid(density, grid[:, 0])])

    def cdf(y):
        place = torch.searchsorted(grid[:, 0].contiguous(), y).clamp(1, len(grid) - 1)
        left, right = grid[place - 1, 0], grid[place, 0]
        return torch.lerp(below[place - 1], below[place], ((y - left) / (right - left)).clamp(0, 1)).clamp(0, 1)

    inside = (u > 1e-4) & (u < 1 - 1e-4)
    assert float(below[-1]) == pytest.approx(1, abs=1e-3)
    assert ks_1d(x[inside], cdf)[1] > 1e-3


@pytest.mark.parametrize("prior", [laplace, logistic])
def test_an_affine_path_with_a_curved_mean(prior):
    x0 = points(8, 1, 1)

    def integral(x, x0, t):
        return (x - (1 - t) * x0 - t * (1 - t) * torch.sin(x0)) / t**1.5

    def log_p(x, t):
        return characteristic_log_density(integral, prior, x, x0, t)

    def field(x, t):
        return characteristic_field(integral, x, x0, t)

    x = points(8, 1)
    assert float(fokker_planck_residual(log_p, field, 0.0, x, 0.6).abs().max()) < 1e-11
    assert float(fokker_planck_residual(log_p, lambda y, t: (y - x0) / t, 0.0, x, 0.6).abs().max()) > 0.1


# --- a finite data set --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.15, 0.6, 0.99])
def test_straight_lines_to_a_normal_prior_are_the_linear_schedule(t):
    oracle, x = AffineGaussianOracle(Empirical(PLANE), AffineSchedule.linear()), points(9, 2)
    velocity = superposed_velocity(STRAIGHT.first_integral, normal, x, t, PLANE)
    assert torch.allclose(velocity, oracle.velocity(x, t), rtol=1e-9, atol=1e-10)
    assert torch.allclose(superposed_log_density(STRAIGHT.first_integral, normal, x, t, PLANE), oracle.log_prob(x, t), rtol=1e-10)
    assert torch.allclose(straight_line_clean(normal, x, t, PLANE), oracle.clean(x, t), rtol=1e-9, atol=1e-10)


@given(st.integers(1, 3), st.floats(0.05, 0.95), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_superposed_fields_carry_their_density(d, t, seed):
    data, x = points(4, d, seed), points(5, d, seed + 1)
    weights = torch.tensor([1.0, 0.3, 2.0, 0.7], dtype=F64)
    family = CurveFamily.rotating(0.8) if d == 2 else CurveFamily.power(1.5)
    arguments = (family.first_integral, logistic)
    residual = fokker_planck_residual(
        lambda y, s: superposed_log_density(*arguments, y, s, data, weights),
        lambda y, s: superposed_velocity(*arguments, y, s, data, weights),
        0.0,
        x,
        t,
    )
    assert float(residual.abs().max()) < 1e-9 / t**3  # relative to second derivatives of order 1 / t^2 and rates 1 / t


def test_clean_and_field_agree_for_a_bounded_prior():
    x, t = torch.linspace(0.3, 1.8, 15, dtype=F64)[:, None], 0.5
    clean = straight_line_clean(uniform, x, t, LINE)
    field = superposed_velocity(STRAIGHT.first_integral, uniform, x, t, LINE)
    assert torch.allclose(field, (x - clean) / t, rtol=1e-12, atol=1e-12)
    # the posterior by counting: of the data points whose far end lies in [0, 2]
    for value, m in zip(x[:, 0], clean[:, 0]):
        inside = [float(p) for p in LINE[:, 0] if 0 <= (float(value) - float(p)) / t + float(p) <= 2]
        assert float(m) == pytest.approx(sum(inside) / len(inside), rel=1e-12)


def test_where_the_prior_of_the_worked_example_goes():
    """Data 0.5 (twice), 1.2, 1.7; prior uniform on [0, 2]: [0, 1) -> 0.5, [1, 1.5) -> 1.2, [1.5, 2] -> 1.7."""
    places, thresholds = destination_thresholds(LINE[:, 0], lambda u: 2 * u)
    assert torch.allclose(places, torch.tensor([0.5, 1.2, 1.7], dtype=F64))
    assert torch.allclose(thresholds, torch.tensor([1.0, 1.5], dtype=F64), rtol=0, atol=1e-15)
    starts = torch.tensor([0.05, 0.5, 0.9, 0.98, 1.02, 1.25, 1.48, 1.52, 1.95], dtype=F64)[:, None]
    # to 2e-4 and not to 0, where the last step would land on the posterior mean itself
    ts = torch.linspace(1, 0, 5001, dtype=F64)[:-1]
    ends = trace_back(lambda x, t: straight_line_clean(uniform, x, t, LINE), starts, ts)
    want = places[torch.bucketize(starts, thresholds)]
    assert float((ends - want).abs().max()) < 5e-4


@pytest.mark.parametrize("prior", [(laplace, stats.laplace()), (normal, stats.norm())], ids=["laplace", "normal"])
def test_thresholds_for_weighted_data(prior):
    log_prob, law = prior
    data, weights = torch.tensor([1.0, -0.5, 1.0, 0.3], dtype=F64), torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=F64)
    places, thresholds = destination_thresholds(data, lambda u: torch.from_numpy(law.ppf(u.numpy())), weights)
    assert torch.allclose(thresholds, torch.from_numpy(law.ppf([0.4, 0.6])), rtol=1e-12)
    near = torch.cat([thresholds - 0.05, thresholds + 0.05])[:, None]
    ends = trace_back(lambda x, t: straight_line_clean(log_prob, x, t, data[:, None], weights), near, torch.linspace(1, 0, 1501, dtype=F64))
    assert torch.allclose(ends[:, 0], torch.tensor([-0.5, 0.3, 0.3, 1.0], dtype=F64), atol=1e-3)
    assert places.tolist() == [-0.5, pytest.approx(0.3), 1.0]


def test_tracing_one_point_is_exact_and_many_of_first_order():
    x, ts = points(5, 2), torch.tensor([1.0, 0.4, 0.3, 0.0], dtype=F64)
    path = trace_back(lambda y, t: PLANE[1].expand_as(y), x, ts, return_path=True)
    assert torch.allclose(path, PLANE[1] + ts[None, :, None] * (x[:, None] - PLANE[1]), atol=1e-14)

    def end(n):
        return trace_back(lambda y, t: straight_line_clean(normal, y, t, PLANE), x, torch.linspace(1, 0.2, n + 1, dtype=F64))

    oracle = AffineGaussianOracle(Empirical(PLANE), AffineSchedule.linear())
    exact = oracle.flow_map(x, 1.0, 0.2)
    errors = [float((end(n) - exact).abs().max()) for n in (80, 160, 320)]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1, 1], abs=0.1)


def test_points_that_no_data_reaches():
    x = torch.tensor([[3.0], [0.5]], dtype=F64)
    for call in (
        lambda: straight_line_clean(uniform, x, 0.1, LINE),
        lambda: superposed_velocity(STRAIGHT.first_integral, uniform, x, 0.1, LINE),
        lambda: superposed_log_density(STRAIGHT.first_integral, uniform, x, 0.1, LINE),
    ):
        with pytest.raises(ValueError, match=r"1 of 2 points, first at x = \[3\.0\]: no data point reaches it"):
            call()


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, t = points(11, 2), torch.linspace(0.2, 1, 11, dtype=F64)
    arguments = (SPIRAL.first_integral, logistic, x, t, PLANE)
    whole = superposed_velocity(*arguments), superposed_log_density(*arguments), straight_line_clean(logistic, x, t, PLANE)
    monkeypatch.setattr("mathcore.flows.construction._superposition.PAIRS_AT_ONCE", 15)
    parts = superposed_velocity(*arguments), superposed_log_density(*arguments), straight_line_clean(logistic, x, t, PLANE)
    for a, b in zip(whole, parts):
        assert torch.allclose(a, b, rtol=1e-13)


X = torch.zeros(3, 2, dtype=F64)
FIRST = STRAIGHT.first_integral


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: CurveFamily.power(0), ValueError, "k must"),
        (lambda: CurveFamily.rotating(math.inf), ValueError, "angle"),
        (lambda: characteristic_field(SPIRAL.first_integral, X[:, :1], X[:, :1], 0.5), ValueError, "dimension 2"),
        (lambda: characteristic_field(FIRST, X, X[:2], 0.5), ValueError, "x0 must have the shape"),
        (lambda: characteristic_field(FIRST, X, X, 0.0), ValueError, "t must be positive"),
        (lambda: characteristic_field(FIRST, X.long(), X, 0.5), TypeError, "x must be a floating"),
        (lambda: characteristic_field(lambda x, x0, t: x0 + 0 * x * t, X, X, 0.5), ValueError, "singular Jacobian at 3 of 3"),
        (lambda: characteristic_field(lambda x, x0, t: x[:, :1], X, X, 0.5), ValueError, "must return the shape"),
        (lambda: characteristic_log_density(lambda x, x0, t: x0 + 0 * x * t, normal, X, X, 0.5), ValueError, "singular"),
        (lambda: characteristic_log_density(FIRST, lambda x: x, X, X, 0.5), ValueError, "base_log_prob"),
        (lambda: superposed_velocity(FIRST, normal, X * math.nan, 0.5, PLANE), ValueError, "x contains"),
        (lambda: superposed_velocity(FIRST, lambda x: x, X, 0.5, PLANE), ValueError, "prior_log_prob"),
        (lambda: superposed_log_density(FIRST, normal, X, 0.5, PLANE[:, :1]), ValueError, "data"),
        (lambda: straight_line_clean(normal, X, 0.5, PLANE, torch.ones(2, dtype=F64)), ValueError, "weights"),
        (lambda: straight_line_clean(normal, X.float(), 0.5, PLANE), TypeError, "one dtype"),
        (lambda: trace_back(lambda x, t: x, X, torch.tensor([1.0, 0.0, -0.1])), ValueError, "ts must be positive"),
        (lambda: trace_back(lambda x, t: x, X, torch.tensor([1.0, 1.0])), ValueError, "strictly"),
        (lambda: trace_back(lambda x, t: x[:1], X, torch.tensor([1.0, 0.5])), ValueError, "clean must return"),
        (lambda: destination_thresholds(X, lambda u: u), ValueError, "data must have 1 axes"),
        (lambda: destination_thresholds(X[:, 0], lambda u: u, -torch.ones(3, dtype=F64)), ValueError, "weights"),
        (lambda: destination_thresholds(PLANE[:, 0], lambda u: u[:1]), ValueError, "icdf"),
    ],
)
def test_bad_input(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
