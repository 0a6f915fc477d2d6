"""The symbolic side of appendix A: against dsolve, published weights and orders, and the torch integrators against it."""

import pytest
import sympy as sp
import torch

from mathcore.dynamics import _steps
from mathcore.dynamics.integrate import odeint_fixed, stability_function
from mathcore.symbolic import ode
from mathcore.symbolic.ode import h, t, x, z


def test_residual_of_solutions_and_others():
    assert ode.residual(t**2 / 4, lambda x, t: sp.sqrt(x)) == 0
    assert ode.residual(t**2 / 2, lambda x, t: sp.sqrt(x)) != 0
    assert ode.residual(sp.Integer(0), lambda x, t: sp.sqrt(x)) == 0


def test_picard_gives_the_series_of_the_solution():
    """x' = t x: partial sums of exp(t^2 / 2); x' = x^2: agreement with 1 / (1 - t) to order n and no further."""
    assert sp.expand(ode.picard(lambda x, t: t * x, 1, 4) - sum((t**2 / 2) ** k / sp.factorial(k) for k in range(5))) == 0
    iterate = ode.picard(lambda x, t: x**2, 1, 3)
    assert [iterate.coeff(t, k) for k in range(4)] == [1, 1, 1, 1]
    assert iterate.coeff(t, 4) != 1


def test_integrating_factor_and_variation_of_constants():
    assert ode.integrating_factor_gap(sp.Function("q")(t)) == 0
    r, u = sp.symbols("r u", positive=True)
    assert sp.simplify(ode.factor(r, u) * ode.factor(t, r) - ode.factor(t, u)) == 0
    start = sp.Symbol("x_0")
    for L, N in ((lambda u: -u, sp.sin), (lambda u: u**2 / 2, lambda u: u), (lambda u: 3 * u, lambda u: sp.exp(u))):
        got = ode.variation_of_constants(L, N, start)
        assert sp.simplify(got.subs(t, 0) - start) == 0
        assert sp.simplify(got.diff(t) - L(t).diff(t) * got - N(t)) == 0


@pytest.mark.parametrize(("method", "power"), [("euler", 2), ("heun", 3), ("midpoint", 3), ("rk4", 5)])
def test_local_errors_start_at_the_right_power(method, power):
    error = ode.local_error(method)
    polynomial = sp.Poly(sp.expand(error), h)
    assert [k for (k,), _ in polynomial.terms()] == [power]
    # on x' = lambda x every derivative but v = lambda x and v_x = lambda is zero: the error is that of the amplification factor
    lam = sp.Symbol("lambda")
    names = dict.fromkeys(error.free_symbols - {h}, 0)
    names |= {ode.derivative(0, 0): lam, ode.derivative(1, 0): lam}
    series = sp.series(sp.exp(z), z, 0, power + 1).removeO()
    leading = sp.expand(ode.amplification(method) - series).coeff(z, power) * (lam * h) ** power
    assert sp.simplify(error.subs(names) - leading) == 0


def test_euler_error_is_half_the_second_derivative():
    v, v_x, v_t = ode.derivative(0, 0), ode.derivative(1, 0), ode.derivative(0, 1)
    assert sp.simplify(ode.local_error("euler") + h**2 / 2 * (v_t + v * v_x)) == 0


def test_adams_bashforth_weights():
    assert ode.adams_bashforth(2) == [sp.Rational(3, 2), -sp.Rational(1, 2)]
    assert ode.adams_bashforth(4) == [sp.Rational(n, 24) for n in (55, -59, 37, -9)]


@pytest.mark.parametrize("method", ode.TABLEAUX)
def test_the_torch_tableaux_are_these(method):
    c, a, b = ode.TABLEAUX[method]
    torch_tableau = _steps.TABLEAUX[method]
    assert torch_tableau.c == tuple(map(float, c))
    assert torch_tableau.b == tuple(map(float, b))
    assert torch_tableau.a == tuple(tuple(map(float, row)) for row in a)
    value = complex(-0.7, 1.3)
    assert abs(complex(stability_function(method)(value)) - complex(ode.amplification(method).subs(z, value))) < 1e-14


@pytest.mark.parametrize("order", [2, 4])
def test_the_torch_adams_weights_are_these(order):
    got = _steps.adams_weights([-0.3 * j for j in range(order)], 0.3)
    assert all(abs(g - float(w)) < 1e-13 for g, w in zip(got, ode.adams_bashforth(order)))


@pytest.mark.parametrize("method", ["euler", "heun", "midpoint"])
def test_a_step_of_torch_errs_by_the_derived_amount(method):
    """x' = x^2 + t from x = 0.5: the leading error, with the derivatives of this field, within the next power of h."""
    error = ode.local_error(method)
    values = dict.fromkeys(error.free_symbols, 0)
    values |= {ode.derivative(0, 0): 0.25, ode.derivative(1, 0): 1.0, ode.derivative(0, 1): 1.0, ode.derivative(2, 0): 2.0, h: 0.01}
    start, field = torch.tensor([[0.5]], dtype=torch.float64), lambda x, t: x**2 + t
    ends = [
        odeint_fixed(field, start, torch.linspace(0, 0.01, n + 1, dtype=torch.float64), m).item() for n, m in ((1, method), (20, "rk4"))
    ]
    assert (ends[0] - ends[1]) / float(error.subs(values)) == pytest.approx(1, abs=0.03)
    assert x not in error.free_symbols
