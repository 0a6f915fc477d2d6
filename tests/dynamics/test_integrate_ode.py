"""Fixed-step integrators of ordinary equations: measured orders, closed forms of single steps, torchdiffeq, and refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from mathcore.data import examples
from mathcore.dynamics.integrate import (
    SolverDivergedError,
    flow_map,
    integrate_semilinear,
    odeint_fixed,
    picard_iterate,
    stability_function,
)
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers.diagnostics import Exact1D, convergence_order

ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "ab2": 2, "ab4": 4, "implicit_euler": 1}
ONE = torch.ones(1, 1, dtype=torch.float64)
COUNTS = (100, 200, 400, 800)


def grid(a, b, n, spacing=1.0):
    return a + (b - a) * torch.linspace(0, 1, n + 1, dtype=torch.float64) ** spacing


def growth(x, t):
    return x * math.cos(t)  # x = exp(sin t)


@pytest.mark.parametrize("spacing", [1.0, 1.2], ids=["uniform", "graded"])
@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_orders_forward_and_backward(method, order, spacing):
    counts = [n // 10 for n in COUNTS] if method == "implicit_euler" else COUNTS
    for a, b in ((0.0, 2.0), (2.0, 0.0)):
        start, exact = ONE * math.exp(math.sin(a)), math.exp(math.sin(b))
        errors = [abs(odeint_fixed(growth, start, grid(a, b, n, spacing), method).item() - exact) for n in counts]
        assert abs(convergence_order(counts, errors) - order) < 0.15, errors


@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "ab2"])
def test_orders_on_the_probability_flow_of_a_mixture(method):
    """From noise to data, against the exact flow by cumulative distributions."""
    data, schedule = examples.solver_mixture(), AffineSchedule.vp()
    start = torch.tensor([[-1.3], [0.9]], dtype=torch.float64)
    exact = AffineGaussianOracle(data, schedule).flow_map(start, 1.0, 1e-3)
    velocity = Exact1D(data, schedule, "velocity")
    errors = [float((odeint_fixed(velocity, start, grid(1.0, 1e-3, n), method) - exact).abs().max()) for n in (200, 400, 800)]
    assert abs(convergence_order((200, 400, 800), errors) - ORDERS[method]) < 0.15, errors


@pytest.mark.parametrize(("method", "p"), [("euler", 1), ("heun", 3), ("rk4", 5)])
def test_there_and_back_gains_an_order_for_even_methods(method, p):
    """R(z) R(-z) = 1 - z^2, 1 + z^4 / 4, 1 + z^6 / 72 + ...: the leading errors of an even method cancel."""
    errors, counts = [], (20, 40, 80, 160)
    for n in counts:
        ts = grid(0.0, 2.0, n)
        there = odeint_fixed(growth, ONE, ts, method)
        errors.append(abs(float(odeint_fixed(growth, there, ts.flip(0), method) - ONE)))
    assert abs(convergence_order(counts, errors) - p) < 0.15, errors


@pytest.mark.parametrize("method", ["euler", "heun", "midpoint", "rk4", "implicit_euler"])
@pytest.mark.parametrize("lam", [-3.0, 0.4 + 1.1j])
def test_one_step_multiplies_by_the_stability_function(method, lam):
    """On dx/dt = L x, complex L as a rotation in the plane."""
    a, b = complex(lam).real, complex(lam).imag
    rotation = torch.tensor([[a, -b], [b, a]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    got = odeint_fixed(lambda y, t: y @ rotation.T, x, torch.tensor([0.0, 0.37], dtype=torch.float64), method)[0]
    z = lam * 0.37
    series = {"euler": 1 + z, "heun": 1 + z + z**2 / 2, "midpoint": 1 + z + z**2 / 2, "implicit_euler": 1 / (1 - z)}
    series["rk4"] = sum(z**k / math.factorial(k) for k in range(5))
    for want in (series[method], complex(stability_function(method)(z))):
        assert abs(complex(*got.tolist()) - want) < 1e-14


def test_stability_of_adams_methods_is_the_largest_characteristic_root():
    z = torch.tensor([-0.9, -1.01, 0.1 + 0.4j], dtype=torch.complex128)
    got = stability_function("ab2")(z)
    for value, factor in zip(z.tolist(), got.tolist()):
        roots = np.roots([1, -1 - 1.5 * value, 0.5 * value])
        assert abs(factor - roots[np.abs(roots).argmax()]) < 1e-12
    assert abs(got[0]) < 1 < abs(got[1])  # the real interval of stability ends at -1
    assert abs(complex(stability_function("ab4")(0.01)) - math.exp(0.01)) < 1e-10
    assert stability_function("ab4")(z.reshape(3, 1)).shape == (3, 1)


def test_adams_bashforth_4_uses_the_published_weights():
    """From the fifth node on, one step is 55/24, -59/24, 37/24, -9/24 of the last slopes."""
    ts = grid(0.0, 1.0, 6)
    path = odeint_fixed(growth, ONE, ts, "ab4", return_path=True)[0, :, 0]
    slopes = path * torch.cos(ts)
    for i in (3, 4, 5):
        step = (55 * slopes[i] - 59 * slopes[i - 1] + 37 * slopes[i - 2] - 9 * slopes[i - 3]) / 24 / 6
        assert abs(float(path[i + 1] - path[i] - step)) < 1e-14


@pytest.mark.parametrize(("method", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")])
def test_the_paths_of_torchdiffeq(method, theirs, generator):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)
    ts = grid(0.3, 1.7, 12, 1.3)

    def field(y, t):
        return torch.sin(y) + float(t) * y.flip(-1)

    got = odeint_fixed(field, x, ts, method, return_path=True)
    want = torchdiffeq.odeint(lambda t, y: field(y, t), x, ts, method=theirs).movedim(0, 1)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


def test_implicit_euler_survives_where_euler_does_not():
    """Eigenvalues -1 and -1000 at h = 0.01; and a nonlinear step solves its own equation."""
    rates = torch.tensor([1.0, 1000.0], dtype=torch.float64)
    ts, x = grid(0.0, 1.0, 100), torch.ones(1, 2, dtype=torch.float64)
    slow = odeint_fixed(lambda y, t: -rates * y, x, ts, "implicit_euler")[0]
    assert abs(float(slow[0]) - 1.01**-100) < 1e-12
    assert float(slow[1]) < 1e-12
    with pytest.raises(SolverDivergedError, match="euler"):
        odeint_fixed(lambda y, t: -rates * y, x, grid(0.0, 4.0, 400), "euler")  # 9^400
    y = odeint_fixed(lambda y, t: torch.cos(3 * y) * t, x.reshape(1, 2, 1), torch.tensor([1.0, 1.4]), "implicit_euler")
    torch.testing.assert_close(y, 1 + (1.4 - 1.0) * torch.cos(3 * y) * 1.4, rtol=1e-6, atol=1e-6)  # the float32 grid


def test_implicit_euler_says_when_there_is_no_solution():
    with pytest.raises(SolverDivergedError, match="no solution of the step"):
        odeint_fixed(lambda y, t: y**2 + 1, 2 * ONE, torch.tensor([0.0, 1.0]), "implicit_euler")  # y^2 - y + 3 = 0


def test_times_never_leave_the_grid():
    """Also where t + (t' - t) is not t' in floating point."""
    ts = torch.tensor([0.1, 0.3, 0.7, 1.1, math.pi / 2], dtype=torch.float64)
    for method in ORDERS:
        for g in (ts, ts.flip(0)):
            asked = list[float]()
            odeint_fixed(lambda x, t, asked=asked: asked.append(t) or x, ONE, g, method)
            assert min(asked) >= 0.1
            assert max(asked) <= math.pi / 2
            assert method in ("euler", "midpoint", "ab2", "ab4") or float(g[-1]) in asked


def test_dtype_gradient_and_derivative_through_a_solver():
    assert odeint_fixed(lambda x, t: x.double(), torch.ones(2, 3), grid(0, 1, 3)).dtype == torch.float32
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(odeint_fixed(lambda x, t: rate * x, ONE, grid(0, 1, 40)).sum(), rate)
    assert abs(float(slope) - math.exp(0.7)) < 1e-7
    tangent = torch.func.jvp(lambda x: flow_map(growth, x, 0.0, 2.0, 50), (ONE,), (ONE,))[1]
    assert abs(float(tangent) - math.exp(math.sin(2.0))) < 1e-6


def test_flow_map_composes_and_is_the_identity_at_equal_times(generator):
    x = torch.randn(5, 1, dtype=torch.float64, generator=generator)
    assert torch.equal(flow_map(growth, x, 0.4, 0.4, 3), x)
    there = flow_map(growth, x, 0.0, 1.0, 200)
    torch.testing.assert_close(flow_map(growth, there, 1.0, 2.0, 200), x * math.exp(math.sin(2)), rtol=1e-9, atol=1e-9)


# --- semilinear ------------------------------------------------------------------------------------------------------------------------------


def test_exponential_euler_is_exact_for_a_constant_source_and_is_euler_without_a_linear_part():
    x = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    got = integrate_semilinear(-50.0, lambda x, t: torch.full_like(x, 4.0), x, torch.tensor([0.0, 0.7], dtype=torch.float64))
    torch.testing.assert_close(got, math.exp(-35) * x + 4 * (1 - math.exp(-35)) / 50, rtol=1e-14, atol=1e-16)
    ts = grid(0.0, 1.0, 9, 1.4)
    path = integrate_semilinear(0.0, growth, ONE, ts, return_path=True)
    assert torch.equal(path, odeint_fixed(growth, ONE, ts, "euler", return_path=True))


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("span", [(0.2, 1.5), (1.5, 0.2)])
def test_variable_rates_are_integrated_to_rounding(scale, span):
    """One step with N = 1 from 0 returns the integral of E(tau -> t'); from 1 with N = 0, E itself. Against nested quadratures of scipy."""
    rate = lambda t: -scale * (1 + math.sin(3 * t))  # noqa: E731
    ts = torch.tensor(span, dtype=torch.float64)
    inner = lambda a: math.exp(quad(rate, a, span[1], epsabs=1e-13, epsrel=1e-13)[0])  # noqa: E731
    factor = integrate_semilinear(rate, lambda x, t: torch.zeros_like(x), ONE, ts).item()
    assert abs(factor / inner(span[0]) - 1) < 1e-11
    weight = integrate_semilinear(rate, lambda x, t: torch.ones_like(x), 0 * ONE, ts).item()
    want = quad(inner, *span, epsabs=0, epsrel=1e-11, limit=200)[0]
    assert abs(weight / want - 1) < 1e-9


def test_a_stiff_linear_part_does_not_limit_the_step():
    source = lambda x, t: torch.full_like(x, math.sin(t))  # noqa: E731
    exact = (100 * math.sin(2) - math.cos(2) + math.exp(-200)) / 10001
    assert abs(integrate_semilinear(-100.0, source, 0 * ONE, grid(0, 2, 40)).item() - exact) < 2e-4
    assert abs(odeint_fixed(lambda x, t: -100 * x + math.sin(t), 0 * ONE, grid(0, 2, 40), "euler").item()) > 1e19
    counts = (1600, 3200, 6400, 12800)
    errors = [abs(integrate_semilinear(-100.0, source, 0 * ONE, grid(0, 2, n)).item() - exact) for n in counts]
    assert abs(convergence_order(counts, errors) - 1) < 0.05


# --- Picard ----------------------------------------------------------------------------------------------------------------------------------


def bent(x, t):
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
    return torch.cos(2 * x) + t * x.flip(-1)


def test_picard_sweeps_finish_one_node_at_a_time(generator):
    x, ts = torch.randn(3, 2, dtype=torch.float64, generator=generator), grid(0.0, 1.5, 12, 1.2)
    euler = odeint_fixed(bent, x, ts, "euler", return_path=True)
    for k in range(13):
        path = picard_iterate(bent, x, ts, k)
        assert (path - euler)[:, : k + 1].abs().max() < 1e-14
        assert k == 12 or float((path - euler)[:, k + 1].abs().max()) > 1e-12
    guess = torch.cat([x[:, None], torch.randn(3, 12, 2, dtype=torch.float64, generator=generator)], dim=1)
    assert (picard_iterate(bent, x, ts, 12, guess=guess) - euler).abs().max() < 1e-13


def test_picard_with_trapezoids_tends_to_the_implicit_trapezoidal_path(generator):
    x, ts = torch.randn(3, 2, dtype=torch.float64, generator=generator), grid(0.0, 1.0, 10)
    path = picard_iterate(bent, x, ts, 60, "trapezoid")
    slopes = torch.stack([bent(path[:, i], float(ts[i])) for i in range(11)], dim=1)
    torch.testing.assert_close(path.diff(dim=1), 0.1 * (slopes[:, 1:] + slopes[:, :-1]) / 2, rtol=1e-12, atol=1e-12)


def test_picard_on_exponential_growth_is_the_taylor_series():
    """dx/dt = x: sweep k of the integral equation is the sum of t^j / j!; with 4000 trapezoids to about 1e-7."""
    path = picard_iterate(lambda x, t: x, ONE, grid(0.0, 1.0, 4000), 4, "trapezoid")
    assert abs(path[0, -1].item() - sum(1 / math.factorial(j) for j in range(5))) < 1e-6


# --- against scipy, and refusals -----------------------------------------------------------------------------------------------------------


def test_rk4_agrees_with_scipy_on_a_coupled_system(generator):
    x = torch.randn(1, 2, dtype=torch.float64, generator=generator)
    got = odeint_fixed(bent, x, grid(0.0, 2.0, 400))
    want = solve_ivp(
        lambda t, y: bent(torch.as_tensor(y)[None], t)[0].numpy(), (0, 2), x[0].numpy(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    assert np.abs(got[0].numpy() - want.y[:, -1]).max() < 1e-8


TS = torch.linspace(0, 1, 5)
X = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: odeint_fixed(growth, X, TS, "rk5"), ValueError, "method must be one of .*did you mean 'rk4'"),
        (lambda: odeint_fixed(growth, X, torch.tensor([0.0, 0.5, 0.4])), ValueError, "ts must hold .*strictly"),
        (lambda: odeint_fixed(growth, X, [0.0, 1.0]), TypeError, "ts must be a torch.Tensor"),
        (lambda: odeint_fixed(growth, X.long(), TS), TypeError, "x0 must be a floating"),
        (lambda: odeint_fixed(growth, X * float("nan"), TS), ValueError, "x0 contains NaN"),
        (lambda: odeint_fixed(growth, torch.tensor(1.0), TS), ValueError, "x0 must have shape"),
        (lambda: odeint_fixed(lambda x, t: x.sum(1), X, TS), ValueError, "shape of its input"),
        (lambda: odeint_fixed(lambda x, t: 1.0, X, TS), TypeError, "field must return a floating"),
        (lambda: odeint_fixed(3, X, TS), TypeError, "field must be a function"),
        (lambda: odeint_fixed(lambda x, t: x / 0, X, TS, "heun"), SolverDivergedError, "heun: .*after step 1, at t=0.25"),
        (lambda: flow_map(growth, X, 0.0, 1.0, 0), ValueError, "n_steps"),
        (lambda: flow_map(growth, X, 0.0, float("inf"), 3), ValueError, "finite"),
        (lambda: flow_map(growth, X, 0.5, 0.5, 3, "rk5"), ValueError, "method"),
        (lambda: integrate_semilinear(float("nan"), growth, X, TS), ValueError, "L must be finite"),
        (lambda: integrate_semilinear(lambda t: float("inf"), growth, X, TS), ValueError, "L must be finite"),
        (lambda: integrate_semilinear(1.0, lambda x, t: x[:1], X, TS), ValueError, "shape of its input"),
        (lambda: picard_iterate(growth, X, TS, -1), ValueError, "n_sweeps"),
        (lambda: picard_iterate(growth, X, TS, 2, "middle"), ValueError, "rule must be one of"),
        (lambda: picard_iterate(growth, X, TS, 2, guess=torch.zeros(2, 5, 1)), ValueError, "guess must .* equal x0"),
        (lambda: picard_iterate(growth, X, TS, 2, guess=torch.ones(2, 4, 1)), ValueError, "guess must have shape"),
        (lambda: picard_iterate(lambda x, t: x[:2], X, TS, 2), ValueError, "shape of its input"),
        (lambda: stability_function("dopri5"), ValueError, "method must be one of"),
    ],
)
def test_refusals(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
