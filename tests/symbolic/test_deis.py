"""The derivations of section 9.3 against numpy, scipy and the solver tables."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import sympy as sp
import torch

from mathcore.schedules import AffineSchedule
from mathcore.solvers import deis
from mathcore.symbolic import deis as sd
from mathcore.symbolic import solvers as ss

SCHEDULES = {"vp": AffineSchedule.vp(), "edm": AffineSchedule.edm(), "linear": AffineSchedule.linear(), "trig": AffineSchedule.trig()}
TIMES = (0.83, 0.61, 0.37, 0.2, 0.13)  # the last one is the end of the step


def test_interpolant_against_scipy():
    nodes, values = [0.3, -0.2, 1.1, 0.7], [2.0, -1.0, 0.5, 3.0]
    polynomial = sp.lambdify(sd.u, sd.interpolant([sp.Float(v) for v in values], [sp.Float(v) for v in nodes]))
    other = scipy.interpolate.BarycentricInterpolator(nodes, values)
    points = np.linspace(-1, 2, 13)
    np.testing.assert_allclose(polynomial(points), other(points), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", range(4))
def test_remainder_is_the_product_over_the_anchors(n):
    assert sp.expand(sd.remainder(n) - sp.prod([sd.u - v for v in sd.anchors(n)])) == 0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(("name", "variable"), [*((s, v) for s in SCHEDULES for v in ("rho", "log_rho")), ("linear", "t"), ("edm", "t")])
def test_closed_forms_are_the_weights_of_the_tables(name, variable, order):
    times = TIMES[-order - 1 :]
    at = ss.at(name, dict(zip(map(str, range(order, -1, -1)), times, strict=True)))
    row = deis(SCHEDULES[name], torch.tensor(times, dtype=torch.float64), order=order, variable=variable).steps[-1]
    closed = [ss.evaluate(w, at) for w in sd.weights(order, variable, name)]
    # weights of both signs cancel to their sum: 1e-12 is 1e4 roundings of float64
    assert [row.outputs[k] for k in range(order - 1, -1, -1)] == pytest.approx(closed, rel=1e-12)


def test_closed_form_in_log_rho_as_one_finds_it_in_a_table():
    r0, r1, l1, l2 = sp.symbols("r_0 r_1 l_1 l_2", positive=True)
    at = {ss.scales("0").alpha: 1, ss.scales("0").sigma: r0, ss.scales("1").alpha: 1, ss.scales("1").sigma: r1}
    at |= {ss.scales("2").alpha: 1, ss.scales("2").sigma: sp.exp(l2)}
    values = {r0: sp.Rational(1, 3), r1: sp.Rational(4, 5), l1: sp.log(sp.Rational(4, 5)), l2: sp.Rational(1, 2)}
    for weight, other, own in zip(sd.weights(2, "log_rho"), (l2, l1), (l1, l2), strict=True):
        want = sum(s * r * (sp.log(r) - other - 1) for s, r in ((1, r0), (-1, r1))) / (own - other)
        assert float((weight.subs(at) - want).subs(values)) == pytest.approx(0.0, abs=1e-14)


def test_an_unknown_variable_is_refused():
    with pytest.raises(KeyError, match="lambda"):
        sd.weights(2, "lambda")


@pytest.mark.parametrize("n", range(4))
def test_local_error_of_the_exponential(n):
    # one step for f = e^u against the weight cos u, at two step sizes: what is left after the leading term is one power of h smaller
    left = []
    for step in (0.02, 0.01):
        nodes = [-j * step for j in range(n + 1)]
        polynomial = scipy.interpolate.lagrange(nodes, np.exp(nodes))
        gap = scipy.integrate.quad(lambda u, p=polynomial: math.cos(u) * (math.exp(u) - p(u)), 0, step, epsabs=1e-18, epsrel=1e-12)[0]
        symbols = {sp.Symbol(f"f_{n + 1}"): 1, sp.Symbol("w_0"): 1, ss.h: step}
        left.append(gap / float(sd.local_error(n).subs(symbols)) - 1)
    assert abs(left[1]) < 0.02
    # differences of neighbouring values of size 1 carry 1e-16 / h^{n+2} of the answer: below 1e-3 up to n = 2
    assert n == 3 or left[0] / left[1] == pytest.approx(2.0, rel=0.05)


def test_constants_of_adams_and_bashforth():
    assert [sd.adams_constant(n) for n in range(4)] == [sp.Rational(1, 2), sp.Rational(5, 12), sp.Rational(3, 8), sp.Rational(251, 720)]


def test_amplification_of_the_classical_weights():
    third, fourth = [23, -16, 5], [55, -59, 37, -9]  # over 12 and 24
    want = [1, 2, sp.Rational(sum(map(abs, third)), 12), sp.Rational(sum(map(abs, fourth)), 24)]
    assert [sd.amplification(n) for n in range(4)] == want


def test_noise_along_the_flow_of_a_gaussian():
    # against the oracle: eps / (c q) is 1 along the flow x = alpha (mu + c sqrt(s_0^2 + rho^2))
    q = sp.lambdify((ss.lam, sd.data_std), sd.gaussian_noise())
    mu, std, c = 0.7, 0.4, -1.3
    for schedule in SCHEDULES.values():
        t = 0.3
        a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
        x = a * (mu + c * math.hypot(std, s / a))
        noise = s * (x - a * mu) / (a * a * std**2 + s * s)
        assert noise == pytest.approx(c * q(math.log(a / s), std), rel=1e-13)


@pytest.mark.parametrize("m", [1, 3, 5])
def test_boundary_terms_for_a_function_of_my_own(m):
    q = sp.exp(-(ss.lam**2)) + sp.sin(3 * ss.lam)
    term = sd.boundary_term(m).subs(sp.Function("q")(ss.lam), q).doit()
    f = sp.lambdify(ss.lam, q * q.diff(ss.lam, m))
    ends = sp.lambdify(ss.lam, term)
    integral, _ = scipy.integrate.quad(f, -0.4, 0.9, epsabs=1e-12, epsrel=1e-12)
    assert ends(0.9) - ends(-0.4) == pytest.approx(integral, rel=1e-10, abs=1e-9)


@pytest.mark.parametrize("m", [0, 2, -1])
def test_even_derivatives_have_no_boundary_term(m):
    with pytest.raises(ValueError, match="odd"):
        sd.boundary_term(m)
