"""The derivations of section 9.4 against quadrature, a numeric step of very high precision, and the compiled solver tables."""

import mpmath
import pytest
import sympy as sp
import torch

from mathcore.schedules import AffineSchedule
from mathcore.solvers import dpm_solver, exponential_heun, heun
from mathcore.symbolic import dpm_solver as dp
from mathcore.symbolic import solvers as ss

CASES = [(1, "taylor"), (2, "taylor"), (2, "midpoint"), (3, "taylor"), (3, "midpoint")]
ORDINARY = {dp.gamma: sp.Rational(2, 5), dp.r1: sp.Rational(1, 4), dp.r2: sp.Rational(3, 5)}


def number(expr, h=None):
    return float(sp.N(sp.sympify(expr).subs(ORDINARY).subs({} if h is None else {ss.h: sp.Float(h, 30)}), 30))


def test_the_exact_solution_solves_the_ode_in_lambda():
    assert dp.exact_solution_gap() == 0


@pytest.mark.parametrize(("order", "kind"), CASES)
def test_the_tableau_is_the_compiled_table(order, kind):
    schedule = AffineSchedule.vp()
    s, t = 0.6, 0.35
    nodes = {"r1": 0.4} if order == 2 else {"r1": 0.25, "r2": 0.6} if order == 3 else {}
    steps = dpm_solver(schedule, torch.tensor([s, t], dtype=torch.float64), order=order, kind=kind, **nodes).steps
    h = float(schedule.half_log_snr(t) - schedule.half_log_snr(s))
    c, a, b = dp.tableau(order, kind)
    for step, row, place in zip(steps, [*a[1:], b], [*c[1:], 1], strict=True):
        sigma = float(schedule.sigma(step.t_next))
        for j, weight in enumerate(row):  # x = sigma z and N = -eps
            want = -sigma * h * number(weight, h)
            assert step.outputs.get(j, 0.0) == pytest.approx(want, rel=1e-11, abs=1e-13)
        grown = sigma / float(schedule.sigma(s)) * mpmath.exp(number(place) * h)
        assert step.states[0] == pytest.approx(float(grown), rel=1e-12)


def test_taylor_weights_are_integrals_of_lagrange_polynomials():
    h = 0.8
    for order in (2, 3):
        c, _, b = dp.tableau(order, "taylor")
        places = [number(ci) for ci in c]
        for j, weight in enumerate(b):

            def basis(u, j=j, places=places):
                others = [p for i, p in enumerate(places) if i != j]
                return mpmath.fprod((u / h - p) / (places[j] - p) for p in others)

            want = mpmath.quad(lambda u, basis=basis: mpmath.exp(h - u) * basis(u), [0, h]) / h
            assert number(weight, h) == pytest.approx(float(want), rel=1e-12)


def test_order_conditions():
    for order, kind in CASES:
        residuals = dp.order_conditions(*dp.tableau(order, kind))
        at_zero = {name: sp.limit(value.subs(ORDINARY), ss.h, 0) for name, value in residuals.items()}
        assert residuals["N"] == 0
        assert (at_zero["N'"] == 0) == (order > 1)
        assert (residuals["N'"] == 0) == (order > 1 and (order, kind) != (2, "midpoint"))
    # third order asks for r_2 = 2/3, in either kind
    for kind in ("taylor", "midpoint"):
        residuals = dp.order_conditions(*dp.tableau(3, kind))
        obstacles = [sp.limit(residuals[name], ss.h, 0) for name in ("N''", "N_z N'")]
        for value in obstacles:
            assert sp.simplify(value.subs(dp.r2, sp.Rational(2, 3))) == 0
        assert any(sp.simplify(value.subs(dp.r2, sp.Rational(3, 5))) != 0 for value in obstacles)


@pytest.mark.parametrize("kind", ["taylor", "midpoint"])
def test_local_error_against_a_step_in_40_digits(kind):
    # one concrete smooth field, solved by mpmath's Taylor method; h^3 dominates at h = 1e-4 up to a relative 1e-3
    mpmath.mp.dps = 40
    z, v = sp.symbols("z v")
    field = sp.sin(2 * z + v) + z**2 / 3
    eps = sp.lambdify((z, v), field, "mpmath")
    start, step, place = mpmath.mpf("0.3"), mpmath.mpf("1e-4"), mpmath.mpf("0.4")
    exact = mpmath.odefun(lambda u, y: y - eps(y, u), 0, start)(step)
    e0 = eps(start, 0)
    middle = mpmath.exp(place * step) * start - mpmath.expm1(place * step) * e0
    weight = (mpmath.exp(step) - 1 - step) / (place * step) if kind == "taylor" else mpmath.expm1(step) / (2 * place)
    scheme = mpmath.exp(step) * start - mpmath.expm1(step) * e0 - weight * (eps(middle, place * step) - e0)
    value, parts = dp.local_error(kind)
    partials = {
        "e": field,
        "e_z": sp.diff(field, z),
        "e_u": sp.diff(field, v),
        "e_zz": sp.diff(field, z, 2),
        "e_zu": sp.diff(field, z, v),
        "e_uu": sp.diff(field, v, 2),
    }
    at = {sp.Symbol(name): sp.N(f.subs({z: sp.Rational(3, 10), v: 0}), 30) for name, f in partials.items()}
    at |= {sp.Symbol("z_0"): sp.Rational(3, 10)}
    assert float((scheme - exact) / step**3) == pytest.approx(number(value.subs(at)), rel=2e-3)
    # and the total derivatives are those along the solution, dz/dv = z - eps
    for name in ("first", "second"):
        field = sp.diff(field, v) + sp.diff(field, z) * (z - sp.sin(2 * z + v) - z**2 / 3)
        want = float(field.subs({z: sp.Rational(3, 10), v: 0}))
        assert number(parts[name].subs(at)) == pytest.approx(want, rel=1e-12)


def test_heun_gaps_against_steps_of_the_compiled_tables():
    # the variance-preserving schedule in lambda: L = sigma^2, N = -sigma eps; with eps = 0.7 constant, N = -0.7 sigma
    schedule = AffineSchedule.vp()
    s = 0.5
    lam = float(schedule.half_log_snr(s))
    x = torch.tensor([[1.3]], dtype=torch.float64)

    def constant(x, t):
        return torch.full_like(x, 0.7)

    gap, _ = dp.heun_gap()
    u = sp.Symbol("u")
    sigma = 1 / sp.sqrt(1 + sp.exp(2 * (sp.Float(lam, 30) + u)))
    at = {}
    for name, f in {"L": sigma**2, "N": sp.Rational(-7, 10) * sigma}.items():
        values = [sp.N(sp.diff(f, u, k).subs(u, 0), 30) for k in range(3)]
        keys = ["L_0", "L_1", "L_2"] if name == "L" else ["N", "N_u", "N_uu"]
        at |= {sp.Symbol(k): value for k, value in zip(keys, values, strict=True)}
    at |= {sp.Symbol(k): 0 for k in ("N_x", "N_xx", "N_xu")} | {sp.Symbol("x_0"): sp.Rational(13, 10)}
    leading = float(gap.coeff(ss.h, 3).subs(at))
    assert [sp.simplify(gap.coeff(ss.h, k)) for k in range(3)] == [0, 0, 0]
    h = 0.01
    times = torch.tensor([s, float(schedule.inverse_half_log_snr(lam + h))], dtype=torch.float64)
    plain, exponential = (table.run(constant, x) for table in (heun(schedule, times, clock="lambda"), exponential_heun(schedule, times)))
    assert float(exponential - plain) / h**3 == pytest.approx(leading, rel=0.05)  # the next power of h is a few per cent


def test_the_truncated_expansion_loses_second_order():
    gap, at = dp.heun_gap(truncated=True)
    assert sp.expand(gap.coeff(ss.h, 2) + at["L"] * (at["L"] * at["x"] + at["N"]) / 2) == 0
    assert [sp.simplify(gap.coeff(ss.h, k)) for k in range(2)] == [0, 0]
