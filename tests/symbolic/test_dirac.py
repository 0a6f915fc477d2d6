"""The delta expansions against quadrature, finite differences of exact densities, schedules and solver tables."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import quad
from scipy.stats import norm

from mathcore import solvers
from mathcore.schedules import AffineSchedule
from mathcore.symbolic import density as sd
from mathcore.symbolic import dirac
from mathcore.symbolic.dirac import delta, eps, f, g, p, x, y, z


def test_the_mollified_density_is_the_convolution():
    """Series to eps^4 against scipy's quadrature of the convolution of a polynomial with the kernel, where the series ends."""
    phi = x**4 - 2 * x**2 + 3
    series = sp.lambdify((x, eps), dirac.mollified(phi))
    for width in (0.3, 1.1):
        want = quad(lambda u, w: (u**4 - 2 * u**2 + 3) * norm.pdf(0.7 - u, scale=w), -20, 20, args=(width,), epsabs=1e-13)[0]
        assert series(0.7, width) == pytest.approx(want, rel=1e-10)  # quadrature


def test_the_error_of_the_mollified_density_is_its_curvature():
    bell = sp.exp(-(x**2) / 2)
    gap = sp.expand(dirac.mollified(bell, 2) - bell)
    assert sp.simplify(gap - eps**2 / 2 * sp.diff(bell, x, 2)) == 0


@pytest.mark.parametrize("k", [0, 1, 2])
def test_derivatives_move_over(k):
    """DiracDelta of sympy against plain differentiation."""
    test = (1 + y + y**3) * sp.exp(-(y**2) / 2)
    want = sp.diff(test.subs(y, x), x, k)
    assert sp.simplify(dirac.against_delta(test, k) - want) == 0


def test_one_step_has_no_half_power():
    zero, first, second = dirac.expected_delta()
    assert zero == delta(x - y)
    assert first == 0
    assert dirac.delta_after_step()[1] != 0  # before averaging it is there
    assert sp.simplify(second - (-f(y) * sp.diff(delta(x - y), x) + g**2 / 2 * sp.diff(delta(x - y), x, 2))) == 0


def test_the_expansion_is_that_of_a_gaussian_kernel():
    """At f = 0 the average over z of a kernel N(0, eps^2) is the kernel N(0, eps^2 + g^2 h): scipy evaluates it."""
    coefficient = dirac.expected_delta()[2].subs(f(y), 0)
    values = coefficient.replace(delta, dirac.mollifier).doit()
    at = {x: 0.4, y: -0.1, eps: 0.6, g: 1.3}
    h = 1e-5
    slope = (norm.pdf(0.5, scale=math.sqrt(0.36 + 1.69 * h)) - norm.pdf(0.5, scale=0.6)) / h
    assert float(values.subs(at)) == pytest.approx(slope, rel=1e-4)  # forward difference, O(h)


def test_fokker_planck_is_that_of_the_density_module():
    field = sp.Matrix([f(x)])
    assert sp.simplify(dirac.density_rate() - sd.rate(p(x), field, g**2, [x])) == 0


def test_fokker_planck_predicts_one_exact_step():
    """Linear drift, Gaussian density: (p_h - p_0)/h of the exact step against the derived rate."""
    m, s, a, b, h = 0.4, 0.8, -0.7, 1.1, 1e-6
    after = norm(m * (1 + a * h), math.sqrt(s**2 * (1 + a * h) ** 2 + b**2 * h))
    bell = sp.exp(-((x - m) ** 2) / (2 * s**2)) / (sp.sqrt(2 * sp.pi) * s)
    derived = sp.lambdify(x, dirac.density_rate().subs({p(x): bell, f(x): a * x, g: b}).doit())
    for point in (-0.5, 0.3, 1.9):
        measured = (after.pdf(point) - norm(m, s).pdf(point)) / h
        assert derived(point) == pytest.approx(measured, abs=1e-5)  # O(h) and rounding 1e-16 / h


def test_hand_over_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="left with"):
        dirac.hand_over(delta(x - y) + f(y))
    with pytest.raises(ValueError, match="delta"):
        dirac.hand_over(delta(x - y) ** 2)


def test_plane():
    kernel = delta(dirac.x_1 - dirac.y_1, dirac.x_2 - dirac.y_2)
    places = (dirac.y_1, dirac.y_2)
    f_1, f_2 = (sp.Function(n, real=True)(*places) for n in ("f_1", "f_2"))
    lap = sp.diff(kernel, dirac.x_1, 2) + sp.diff(kernel, dirac.x_2, 2)
    want = -f_1 * sp.diff(kernel, dirac.x_1) - f_2 * sp.diff(kernel, dirac.x_2) + g**2 / 2 * lap
    assert sp.simplify(dirac.plane_step() - want) == 0


def test_families():
    diffusion, level = dirac.levels()
    assert dirac.family_gap() == 0
    assert dirac.reverse_gap() == 0
    assert dirac.family_gap(diffusion**2 / 2) != 0  # the ODE's drift with noise kept
    assert dirac.reverse_gap((diffusion**2 - level**2) / 2) != 0
    assert dirac.current_gap() == 0


@pytest.mark.parametrize("schedule", [AffineSchedule.vp(), AffineSchedule.linear(), AffineSchedule.trig()], ids=lambda s: s.name)
def test_dictionary_and_velocity_are_those_of_the_library(schedule):
    t = 0.4
    at = {getattr(dirac, n): float(getattr(schedule, n)(t)) for n in ("alpha", "sigma", "dalpha", "dsigma")}
    drift, squared = dirac.dictionary()
    assert float(drift.subs(at)) == pytest.approx(float(schedule.f(t)), rel=1e-12)
    assert float(squared.subs(at)) == pytest.approx(float(schedule.g2(t)), rel=1e-12)
    clean, eps_ = 0.8, -1.2
    x_t = at[dirac.alpha] * clean + at[dirac.sigma] * eps_
    want = at[dirac.dalpha] * clean + at[dirac.dsigma] * eps_
    assert float(dirac.flow_velocity().subs(at).subs({dirac.state: x_t, dirac.noise: eps_})) == pytest.approx(want, rel=1e-12)
    assert float(dirac.conditional_field().subs(at).subs({dirac.state: x_t, dirac.x_0: clean})) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
def test_ddim_limit_is_the_limit_of_the_table(factor):
    """A short step of the library's DDIM against the derived drift and diffusion."""
    schedule, s, h = AffineSchedule.vp(), 0.5, 1e-5
    row = solvers.ddim(schedule, torch.tensor([s, s - h], dtype=torch.float64), eta=factor).steps[0]
    at = {getattr(dirac, n): float(getattr(schedule, n)(s)) for n in ("alpha", "sigma", "dalpha", "dsigma")}
    x_s, noise = 0.9, -0.4
    moved = row.states[0] * x_s + row.outputs[0] * noise
    drift, squared = (e.subs(at).subs({dirac.state: x_s, dirac.noise: noise, dirac.eta: factor}) for e in dirac.ddim_limit())
    assert float(drift) == pytest.approx((x_s - moved) / h, rel=1e-3)  # first order in h
    assert float(squared) == pytest.approx(row.noise**2 / h, rel=1e-3)
    if factor == 0.0:
        assert float(drift) == pytest.approx(float(dirac.flow_velocity().subs(at).subs({dirac.state: x_s, dirac.noise: noise})), rel=1e-12)


def test_the_delta_before_averaging_by_quadrature():
    """Averaging the expansion with numpy's Gauss-Hermite rule, exact for its powers of z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    expected = dirac.expected_delta()
    for k, coefficient in enumerate(dirac.delta_after_step()):
        averaged = sum(w * coefficient.subs(z, float(u)) for u, w in zip(nodes, weights)) / math.sqrt(2 * math.pi)
        numbers = {sp.diff(delta(x - y), x, j): 1.7 + j for j in (2, 1, 0)}
        gap = (averaged - expected[k]).subs({f(y): 0.3, g: 1.2}).subs(numbers)
        assert abs(float(gap)) < 1e-12
