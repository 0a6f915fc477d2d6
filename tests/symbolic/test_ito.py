"""The derived differentials against textbook formulas, scipy's normal moments, and finite differences of expectations."""

import math

import pytest
import sympy as sp
from scipy.stats import norm

from mathcore.symbolic import ito
from mathcore.symbolic.ito import t, x


def zero(expr):
    return sp.simplify(sp.expand(expr)) == 0


def test_the_one_dimensional_formula():
    """Against the formula as printed in every textbook, for undefined h, f, g."""
    h, f, g = sp.Function("h")(x, t), sp.Function("f")(x, t), sp.Function("g")(x, t)
    d = ito.ito_differential(h, f, g)
    assert zero(d.drift - (h.diff(t) + f * h.diff(x) + g**2 * h.diff(x, 2) / 2))
    assert zero(d.noise[0] - g * h.diff(x))
    assert ito.naive_differential(h, f, g).drift == h.diff(t) + f * h.diff(x)


def test_text_and_geometric_brownian_motion():
    mu, nu = sp.symbols("mu nu")
    d = ito.ito_differential("log(x)", "mu*x", "nu*x")
    assert zero(d.drift - (mu - nu**2 / 2))
    assert zero(d.noise[0] - nu)
    assert "dw" in d._repr_latex_()


def test_several_variables():
    u, v = sp.symbols("u v", real=True)
    b, d = sp.symbols("b d")
    assert ito.ito_differential(sp.log(u**2 + v**2), [0, 0], 1, [u, v]).drift == 0  # harmonic in the plane
    assert zero(ito.ito_differential(u * v, [0, 0], [[b], [d]], [u, v]).drift - b * d)  # one common noise
    assert ito.ito_differential(u * v, [0, 0], [[b, 0], [0, d]], [u, v]).drift == 0  # independent noises
    h, f1, f2 = (sp.Function(n)(u, v) for n in ("h", "f1", "f2"))
    G = sp.Matrix(2, 2, sp.symbols("G:4"))
    rule, trace = ito.ito_differential(h, [f1, f2], G, [u, v]), ito.apply_generator(h, [f1, f2], G, [u, v])
    assert zero(rule.drift - trace)


def test_generator_and_adjoint_by_integration():
    p = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
    for phi, f, g in ((x**4, -x, 2), (x**3 + x, x**2, 1)):
        left = sp.integrate(ito.apply_generator(phi, f, g) * p, (x, -sp.oo, sp.oo))
        right = sp.integrate(phi * ito.apply_adjoint(p, f, g), (x, -sp.oo, sp.oo))
        assert zero(left - right)


def test_moments_against_scipy():
    assert zero(ito.linear_moments(4, 0, 1, 0) - 3 * t**2)
    # dx = -x dt + 2 dw from 0.5: N(0.5 e^-t, 2 (1 - e^-2t))
    for power in (1, 2, 3, 4):
        value = float(ito.linear_moments(power, -1, 4, sp.Rational(1, 2)).subs(t, 0.7))
        law = norm(0.5 * math.exp(-0.7), math.sqrt(2 * (1 - math.exp(-1.4))))
        assert value == pytest.approx(law.moment(power), rel=1e-10)
    assert ito.moment_equation(2, "-x", 3) == {2: -2, 0: 9}


def test_kernels():
    for name, (f, g2, alpha, variance) in ito.kernel_table().items():
        assert ito.moment_residual(alpha, variance, f, g2) == sp.zeros(2, 1), name
    B = sp.Function("B")(t)
    assert zero(ito.kernel_table()["vp"][3] - (1 - sp.exp(-B)))
    assert zero(ito.kernel_table()["sub_vp"][3] - (1 - sp.exp(-B)) ** 2)
    assert zero(ito.linear_kernel("-1/2", 1)[1] - (1 - sp.exp(-t)))
    f, g2 = ito.coefficients_from_kernel(1 - t, t)
    assert zero(f + 1 / (1 - t))
    assert zero(g2 - 2 * t / (1 - t))
    assert ito.moment_residual(sp.exp(-t), 1 - sp.exp(-t), -1, 2) != sp.zeros(2, 1)


def test_girsanov_step_sign_depends_on_the_measure():
    step = ito.girsanov_step()
    f, base = sp.symbols("f f_tilde", real=True)
    g = sp.Symbol("g", positive=True)
    gap = (f - base) / g
    assert zero(step["denominator"] - (gap * ito.dw - gap**2 * ito.dt / 2))
    assert zero(step["numerator"] - (gap * ito.dw + gap**2 * ito.dt / 2))


def test_what_is_refused():
    u, v = sp.symbols("u v")
    with pytest.raises(ValueError, match="drift must have one entry"):
        ito.ito_differential(u, [0], 1, [u, v])
    with pytest.raises(ValueError, match="2 rows"):
        ito.ito_differential(u, [0, 0], [[1]], [u, v])
    with pytest.raises(ValueError, match="2 rows"):
        ito.ito_differential(u, [0, 0], [[1], [1, 2]], [u, v])
    with pytest.raises(ValueError, match="cannot read"):
        ito.ito_differential("x +* 2", 0, 1)
    with pytest.raises(ValueError, match="polynomial"):
        ito.moment_equation(2, "sin(x)")
    with pytest.raises(ValueError, match="negative"):
        ito.moment_equation(-1, x)
    with pytest.raises(ValueError, match="polynomial"):
        ito.ito_table(1 / ito.dt)
