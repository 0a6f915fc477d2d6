"""The derivations of chapter 5 vanish where they should, do not where they should not, and agree with numbers."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from mathcore.symbolic import flows as f
from mathcore.symbolic.density import t, x, y


@pytest.mark.parametrize("d", [1, 2, 3])
def test_planar_determinant(d):
    got, lemma = f.planar_determinant(d)
    assert sp.expand(got - lemma) == 0
    # numbers put in, against numpy's determinant of the Jacobian for h = tanh
    h, s = sp.Function("h"), sp.Symbol("s")
    rng = np.random.default_rng(d)
    u, w, z = rng.normal(size=(3, d))
    values = {sp.Symbol(f"{name}_{i + 1}", real=True): v[i] for name, v in zip("uwz", (u, w, z)) for i in range(d)}
    number = float(got.subs(h, sp.Lambda(s, sp.tanh(s))).doit().subs(values | {sp.Symbol("b", real=True): 0.3}))
    jacobian = np.eye(d) + np.outer(u, w) / math.cosh(w @ z + 0.3) ** 2
    assert number == pytest.approx(np.linalg.det(jacobian), rel=1e-12)


def test_log_det_series_is_one_of_traces():
    coefficients, traces = f.log_det_terms(6)
    assert len(coefficients) == 6
    assert all(sp.expand(c - p) == 0 for c, p in zip(coefficients, traces))
    assert sp.expand(coefficients[1] + traces[1]) != 0


def test_monge_ampere():
    p, q, r = sp.symbols("p q r", positive=True)
    # sqrt(det^2) is |det|: for a positive definite matrix the ratio is one
    value = f.monge_ampere()
    assert float(value.subs({p: 2, q: 0.5, r: 1.5})) == pytest.approx(1, rel=1e-14)
    assert float(value.subs({p: 1, q: 0.9, r: 3})) == pytest.approx(1, rel=1e-14)
    assert float(value.subs({p: 1, q: 2, r: 1})) == pytest.approx(-1, rel=1e-14)  # not convex


def test_instantaneous_change_of_variables():
    total, divergence = f.log_density_along_flow()
    assert sp.simplify(total - divergence) == 0
    assert divergence != 0
    along, partial = f.total_and_partial_derivative()
    k = sp.Symbol("k", positive=True)
    assert along == 0
    assert sp.simplify(partial - k * x**2 * sp.exp(-2 * k * t)) == 0


def test_sine_flow():
    assert f.sine_flow() == (0, 0)
    path = solve_ivp(lambda s, z: np.sin(z), (0, 0.8), [0.7], rtol=1e-11, atol=1e-12).y[0, -1]
    assert path == pytest.approx(2 * math.atan(math.exp(0.8) * math.tan(0.35)), rel=1e-9)


def test_conditional_velocities():
    want = sp.diff(f.alpha, t) * f.x0 + sp.diff(f.sigma, t) * f.noise
    assert sp.simplify(f.conditional_velocity() - want) == 0
    assert sp.simplify(f.one_sided_velocity() - sp.diff(f.a, t) * f.x0 - sp.diff(f.b, t) * f.x1) == 0


@pytest.mark.parametrize("d", [1, 2])
def test_gaussian_path(d):
    residual, gap = f.gaussian_path(d)
    assert residual == 0
    assert gap == sp.zeros(d, 1)


def test_swirl_moves_no_mass_and_costs_energy():
    residual, extra = f.swirl()
    assert residual == 0
    assert sp.simplify(extra - sp.Symbol("omega", positive=True) ** 2 * (x**2 + y**2)) == 0


def test_covariance_fields():
    residual, skew = f.covariance_fields()
    assert residual == sp.zeros(2, 2)
    assert skew != 0
    p, q, r = (sp.Function(name, real=True)(t) for name in "pqr")
    assert sp.simplify(skew.subs({p: 1 + t, q: t / 2, r: 1 + t}).doit()) == 0  # S and S' commute: a gradient field


def test_gaussian_interpolant():
    regression, closed = f.gaussian_interpolant_velocity()
    assert sp.simplify(regression - closed) == 0
    residual, bend = f.gaussian_trajectory()
    assert residual == 0
    for s in (0.5, 1, 2):
        at = {t: 0.3, f.x0: 1.2, f.s1: s}
        path = lambda u, s=s: 1.2 * math.sqrt((1 - u) ** 2 + u**2 * s**2)  # noqa: E731
        h = 1e-4
        assert float(bend.subs(at)) == pytest.approx((path(0.3 + h) - 2 * path(0.3) + path(0.3 - h)) / h**2, rel=1e-6)
    variance = (1 - t) ** 2 + t**2 * f.s1**2
    assert sp.simplify(bend - f.x0 * f.s1**2 / variance ** sp.Rational(3, 2)) == 0


def test_flow_first():
    assert f.affine_flow() == sp.zeros(2, 1)
    speed, along = f.great_circle()
    assert sp.simplify(speed - f.theta**2) == 0
    assert along == 0


def test_rotations():
    determinant = f.rotation_determinant()
    assert sp.simplify(determinant - (1 - 2 * t * (1 - t) * (1 - sp.cos(f.theta)))) == 0
    assert determinant.subs({f.theta: sp.pi, t: sp.Rational(1, 2)}) == 0
    assert sp.simplify(f.rotation_asymmetry() - sp.Symbol("trace", real=True) * sp.sin(f.theta)) == 0
