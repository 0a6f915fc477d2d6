"""The derivations against scipy's laws, numbers put in for generic functions, and closed-form processes."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import stats

from mathcore.symbolic import density as d
from mathcore.symbolic.density import h, t, width, x, y

positive = sp.Symbol("u", positive=True)
NORMAL = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
SQUARED = d.diffusion**2


@pytest.mark.parametrize(
    ("branches", "law"), [([sp.log(positive)], stats.lognorm(1)), ([sp.sqrt(positive), -sp.sqrt(positive)], stats.chi2(1))]
)
def test_pushforward_of_a_normal(branches, law):
    p = sp.lambdify(positive, d.pushforward(NORMAL, x, branches, positive))
    at = np.linspace(0.1, 5, 12)
    np.testing.assert_allclose(p(at), law.pdf(at), rtol=1e-13)


@pytest.mark.parametrize("n", [2, 3])
def test_determinant_coefficients(n):
    entries, coefficients = d.determinant_coefficients(n)
    matrix = np.random.default_rng(0).normal(size=(n, n))
    values = {entries[i, k]: matrix[i, k] for i in range(n) for k in range(n)}
    for step in (0.1, -0.7):
        got = sum(float(c.subs(values)) * step**k for k, c in enumerate(coefficients))
        assert got == pytest.approx(np.linalg.det(np.eye(n) + step * matrix), rel=1e-12)


def test_log_density_along_a_step_with_numbers():
    _, field, _ = d.plane()
    u, f1, f2 = sp.sin(x) * y + t * x, x * y, x - t
    got = d.log_density_along_a_step().subs({d.generic_log_density(): u}).subs({field[0]: f1, field[1]: f2}).doit()
    moved = u.subs({x: x + h * f1, y: y + h * f2, t: t + h}, simultaneous=True)
    at = {x: 0.3, y: -0.8, t: 0.6}
    step = 1e-5
    central = (moved.subs(at).subs(h, step) - moved.subs(at).subs(h, -step)) / (2 * step)
    assert float(got.subs(at)) == pytest.approx(float(central), abs=1e-8)


def test_rate_of_the_ornstein_uhlenbeck_transition_density():
    x0, a, s = sp.Symbol("x0", real=True), sp.Symbol("a", positive=True), sp.Symbol("s", positive=True)
    m, v = x0 * sp.exp(-a * t), s**2 * (1 - sp.exp(-2 * a * t)) / (2 * a)
    p = sp.exp(-((x - m) ** 2) / (2 * v)) / sp.sqrt(2 * sp.pi * v)
    residual = sp.diff(p, t) - d.rate(p, sp.Matrix([-a * x]), s**2, (x,))
    assert sp.simplify(residual / p) == 0


def test_every_member_of_the_family_has_the_same_rate():
    p, f, g = d.plane()
    eta, score = sp.Symbol("eta", positive=True), d.gradient(sp.log(p))
    member = d.rate(p, f - (1 - eta**2) / 2 * g**2 * score, eta**2 * g**2)
    assert sp.simplify(member - d.rate(p, f, g**2)) == 0
    assert sp.simplify(d.rate(p, f - g**2 * score, sp.Integer(0)) - d.rate(p, f, g**2)) != 0


@pytest.mark.parametrize("dim", [2, 3])
def test_zero_flux(dim):
    assert d.zero_flux(d=dim) == 0
    assert d.zero_flux(symmetric=True, d=dim) != 0


def test_mixture_residuals_agree():
    whole, own = d.mixture_residuals()
    assert own != 0
    assert sp.simplify(whole - own) == 0


def test_gaussian_residuals():
    field, score = d.drift_rate * x + d.offset, d.gaussian_score()
    assert d.gaussian_residual(field, SQUARED) == 0
    assert d.gaussian_residual(field - SQUARED * score / 2, sp.Integer(0)) == 0
    assert d.gaussian_residual(-field + SQUARED * score, SQUARED, backward=True) == 0
    assert d.gaussian_residual(field - SQUARED * score, sp.Integer(0)) != 0
    assert d.gaussian_residual(-field + SQUARED * score, SQUARED) != 0


def test_correlation_of_the_stationary_ornstein_uhlenbeck_process():
    """dx = -a x dt + sqrt(2a) dw has variance 1 and correlation e^{-at}."""
    a = sp.Symbol("a", positive=True)
    noise = sp.Function("sigma", nonnegative=True)(t)
    assert sp.simplify(d.correlation_rate().subs({noise: sp.sqrt(2 * a), d.var: 1}) + a) == 0


@pytest.mark.parametrize("centred", [True, False])
def test_face_difference_of_an_exponential(centred):
    series = d.face_difference(centred, terms=8).subs(sp.Function("j", real=True)(x), sp.exp(x)).doit().subs(x, 0)
    a, b = (-0.05, 0.05) if centred else (0.0, 0.1)
    want = (math.exp(a) - math.exp(b)) / 0.1 + 1
    assert float(series.subs(width, 0.1)) == pytest.approx(want, rel=1e-7)


def test_scharfetter_gummel_error_of_an_exponential():
    p, f, g = sp.Function("p", positive=True), *sp.symbols("f g", positive=True)
    leading = d.scharfetter_gummel_error().subs(p(x), sp.exp(x)).doit().subs({x: 0, f: 0.7, g: 1.3})

    def flux(w):
        z = 2 * 0.7 * w / 1.3**2
        minus, plus = -z / (math.exp(-z) - 1), z / (math.exp(z) - 1)
        return 1.3**2 / (2 * w) * (minus * math.exp(-w / 2) - plus * math.exp(w / 2))

    error = flux(0.01) - (0.7 - 1.3**2 / 2)
    assert error == pytest.approx(float(leading.subs(width, 0.01)), rel=1e-3)  # the next order is (width)^4
    assert sp.limit(d.bernoulli(x), x, 0) == 1
