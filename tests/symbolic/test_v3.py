"""The derivations of section 9.7: that they vanish where they should, do not where a sign is wrong, and are what the solver computes."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp

from mathcore.schedules import AffineSchedule
from mathcore.solvers import constant_statistics, dpm_solver_v3
from mathcore.symbolic import v3


def test_the_split_does_not_depend_on_the_linear_part():
    assert sp.simplify(v3.split() - v3.drift()) == 0
    assert sp.simplify(v3.split(+1) - v3.drift()) != 0
    assert v3.scaled_gap() == 0


def test_the_drift_is_the_velocity_of_a_schedule():
    schedule = AffineSchedule.vp()
    t = 0.37
    lam0 = float(schedule.half_log_snr(t))

    def scale(lam):
        return float(schedule.alpha(schedule.inverse_half_log_snr(lam)))

    def at(lam, point, noise):
        return scale(lam) * (point + math.exp(-lam) * noise)

    # along x = alpha x_0 + sigma eps with both held, by a central difference: error 1e-6 squared times a third derivative, plus 1e-16 / 1e-5
    d = 1e-5
    for point, noise in ((1.3, -0.4), (0.2, 2.0)):
        slope = (scale(lam0 + d) - scale(lam0 - d)) / (2 * d)
        expr = v3.drift().subs(sp.Derivative(v3.alpha(v3.lam), v3.lam), slope).subs(v3.alpha(v3.lam), scale(lam0))
        value = expr.subs({v3.lam: lam0, v3.x: at(lam0, point, noise), v3.eps: noise})
        assert float(value) == pytest.approx((at(lam0 + d, point, noise) - at(lam0 - d, point, noise)) / (2 * d), abs=1e-8)


def test_the_solution_formula_and_its_misprints():
    assert v3.solution_gap() == 0
    for sign, exponent in ((1, 1), (-1, -1), (1, -1)):
        assert v3.solution_gap(sign, exponent) != 0


def test_best_linear_part():
    best, least = v3.best_linear_part()
    assert (best, least) == (v3.slope_mean, v3.slope_variance)
    value, slope = v3.gaussian_linear_part()
    assert sp.simplify(value - slope) == 0
    assert sp.limit(value, v3.lam, -sp.oo) == 1
    assert sp.limit(value, v3.lam, sp.oo) == 0


def test_reparametrisation():
    assert sp.simplify((v3.reparametrised_slope() - v3.affine_residual()).doit()) == 0
    assert v3.inverse_gap() == 0


def test_the_new_term_solves_an_affine_equation_exactly():
    # N' = a N + b with numbers, integrated by scipy: N_new must then be constant
    a, b, s = 0.7, -0.3, 0.2
    lams = np.linspace(s, 1.7, 9)
    n = solve_ivp(lambda _, y: a * y + b, (s, 1.7), [1.4], t_eval=lams, rtol=1e-12, atol=1e-13).y[0]
    new = v3.reparametrised().subs(v3.A(v3.r), a * v3.r).subs({v3.A(v3.lam): a * v3.lam, v3.A(v3.start): a * s, v3.start: s})
    new = new.subs(v3.b_of(v3.r), b).doit()
    values = [float(new.subs(v3.nonlinear(v3.lam), value).subs(v3.lam, at)) for at, value in zip(lams, n, strict=True)]
    assert values == pytest.approx([1.4] * 9, abs=1e-10)  # the tolerance of the integration, a few times


@pytest.mark.parametrize("kind", ["noise", "clean"])
def test_constants(kind):
    held = {"noise": v3.eps, "clean": v3.clean}[kind]
    ratio = sp.simplify(v3.new_at_constants(kind) / held)
    assert not ratio.has(v3.lam)
    assert sp.simplify(v3.new_at_constants(kind, normalised=False) / held).has(v3.lam)
    row = v3.first_order_row(*v3.CONSTANTS[kind][:2])
    schedule, times = AffineSchedule.vp(), torch.tensor([0.7, 0.3], dtype=torch.float64)
    step = dpm_solver_v3(schedule, times, constant_statistics(kind), order=1).steps[0]
    scales = {f"{n}_{w}": float(getattr(schedule, n)(t)) for n in ("alpha", "sigma") for w, t in zip("st", times, strict=True)}
    values = {s: scales.get(s.name, float(schedule.half_log_snr(times).diff())) for e in row.values() for s in e.free_symbols}
    assert float(row["x"].subs(values)) == pytest.approx(step.states[0], rel=1e-13)
    assert float(row["eps"].subs(values)) == pytest.approx(step.outputs[0], rel=1e-13)


@pytest.mark.parametrize("kind", ["noise", "clean"])
def test_constants_without_normalisation(kind):
    _, a = v3.constants_without_normalisation(kind)
    scale = v3.new_at_constants(kind, normalised=False) / {"noise": v3.eps, "clean": v3.clean}[kind]
    printed = v3.CONSTANTS[kind][1]
    # N = (scale e^{-printed (lambda_s - lambda)}) prediction, so its logarithmic slope is that of scale plus the printed a
    assert sp.simplify(sp.diff(scale, v3.lam) / scale + printed - a) == 0


def test_coefficients_of_the_new_term():
    of_noise, of_state, rest = v3.coefficients_of_new()
    again = of_noise * v3.eps + of_state * v3.x + rest
    n = (v3.alpha(v3.lam) * sp.exp(-v3.lam) * v3.eps - v3.ell_of(v3.lam) * v3.x) / v3.alpha(v3.lam)
    assert sp.simplify((v3.reparametrised().subs(v3.nonlinear(v3.lam), n) - again).expand()) == 0


def test_the_velocity_of_the_linear_schedule_is_in_the_family():
    scale = 1 / (1 + sp.exp(-v3.lam))  # alpha = 1 - t, sigma = t; the velocity eps - x_0 is (eps - x) / alpha
    ell, a, b = (sp.simplify(e.subs(v3.alpha(v3.lam), scale)) for e in v3.statistics_of(1 / scale, -1 / scale, sp.S(0)))
    assert sp.simplify(ell - (1 - scale)) == 0
    assert sp.simplify(a + scale) == 0
    assert b == 0
    assert v3.target_gap(1 / scale, sp.exp(v3.lam), sp.sin(v3.lam)) == (0, 0)


@pytest.mark.parametrize("offsets", [[-sp.Rational(1, 3)], [-sp.Rational(1, 3), -sp.Rational(4, 5)]])
def test_error_identity(offsets):
    out = v3.error_identity(sp.exp(-v3.u) + v3.u**4, sp.exp(v3.u / 2), offsets, sp.Rational(1, 2))
    assert sp.simplify(out["error"] - out["formula"]) == 0
    assert abs(sp.N(out["error"] - out["printed"])) > 0.1
    polynomial = v3.error_identity(3 - 2 * v3.u + (v3.u**2 if len(offsets) == 2 else 0), sp.exp(v3.u / 2), offsets, sp.Rational(1, 2))
    assert polynomial["error"] == 0  # exact for polynomials of degree n
