"""The derivations of chapter 3 against numbers: torch's densities, quadrature and the numerical functions of mathcore.scores."""

import math

import pytest
import sympy as sp
import torch
from scipy.integrate import quad

from mathcore.scores.denoise import sure
from mathcore.scores.langevin import ula_gaussian, ula_gaussian_variance
from mathcore.scores.matching import denoising_adjoint
from mathcore.symbolic import scores as derive

f64 = torch.float64


def test_gaussian_score():
    score, cov, centred = derive.gaussian_score()
    assert (score + cov.inv() * centred).applyfunc(sp.simplify) == sp.zeros(2, 1)


def test_energy_objective_and_its_minimiser():
    v, s2 = derive.model_var, derive.var
    assert sp.solve(derive.ebm_objective().diff(v), v) == [s2]
    assert sp.solve(derive.ebm_objective(+1).diff(v), v) == []  # with the other sign it has no minimiser
    numbers = {v: 0.8, s2: 1.7}
    density = lambda u: math.exp(-u * u / 3.4) / math.sqrt(2 * math.pi * 1.7)  # noqa: E731
    want = quad(lambda u: density(u) * (-1 / 0.8 + (u / 0.8) ** 2 / 2), -15, 15)[0]
    assert float(derive.ebm_objective().subs(numbers)) == pytest.approx(want, rel=1e-9)


def test_only_root_two_is_stationary():
    right, laplacian, varsigma = derive.stationarity()
    assert sp.simplify(right - (varsigma**2 / 2 - 1) * laplacian) == 0
    assert sp.simplify(right.subs(varsigma, sp.sqrt(2))) == 0


def test_ula_is_the_recursion_of_the_library():
    places = {derive.mean: 0.3, derive.var: 0.7, derive.step: 0.2, derive.start_mean: -1.0, derive.start_var: 2.0}
    got = tuple(float(e.subs(places)) for e in derive.ula_step())
    assert got == pytest.approx(ula_gaussian(0.3, 0.7, 0.2, 1, -1.0, 2.0), rel=1e-13)
    assert float(derive.ula_stationary_variance().subs(places)) == pytest.approx(ula_gaussian_variance(0.7, 0.2), rel=1e-13)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_hyvarinen_gap_is_half_the_fisher_information(degree):
    assert sp.simplify(derive.hyvarinen_gap(degree) - 1 / (2 * derive.var)) == 0


def test_parts_and_operators_are_identities():
    assert derive.integration_by_parts() == 0
    assert derive.lagrange_identity() == 0
    assert sp.simplify(derive.sure_minus_score_matching() - 1 / derive.sigma**2) == 0
    assert sp.simplify(derive.gsm_minus_half_sure() + derive.POINT.dot(derive.POINT) / 2 - derive.sigma**2) == 0


def test_operators_read_the_clean_point_off_the_kernel():
    first, second, u = derive.on_kernel()
    assert (first - u).applyfunc(sp.simplify) == sp.zeros(2, 1)
    assert (second - u * u.T).applyfunc(sp.simplify) == sp.zeros(2, 2)


def test_curvature_between_modes():
    m, v = 1.3, 0.9
    p = lambda t: sum(math.exp(-((t - c) ** 2) / (2 * v)) for c in (-m, m))  # noqa: E731
    h = 1e-3
    want = (p(h) - 2 * p(0) + p(-h)) / h**2 / p(0)
    assert float(derive.curvature_between_modes().subs({derive.mean: m, derive.var: v})) == pytest.approx(want, rel=1e-5)


def test_blurred_score_of_a_gaussian():
    """For N(0, v): -x / (v + sigma^2) + x / v = sigma^2 x / v^2 + ..."""
    expression = derive.blurred_score_expansion()
    v = sp.Symbol("v", positive=True)
    (p,) = {f.func for f in expression.atoms(sp.core.function.AppliedUndef)}
    density = sp.Lambda(derive.x, sp.exp(-(derive.x**2) / (2 * v)))
    assert sp.simplify(expression.replace(p, density).doit() - derive.x / v**2) == 0


def test_derivatives_of_the_log_partition_are_cumulants():
    for derivative, cumulant in derive.log_partition_derivatives():
        places = dict(zip(sorted(derivative.free_symbols, key=str), (0.7, -0.4, 0.3, 1.2, 0.5)))
        psi = sp.Lambda(derive.x, derive.x**2 / 3)
        values = [float(e.replace(sp.Function("psi"), psi).subs(places)) for e in (derivative, cumulant)]
        assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_cumulants_of_a_two_point_law():
    """Bernoulli in disguise: kappa_3 = p (1 - p)(1 - 2p) (difference of the values)^3."""
    _, cumulant = derive.log_partition_derivatives()[2]
    names = {str(s): s for s in cumulant.free_symbols}
    values = {names["eta_1"]: 0.0, names["eta_2"]: 2.0, names["w_1"]: 0.7, names["w_2"]: 0.3, derive.x: 0.0}
    got = float(cumulant.replace(sp.Function("psi"), sp.Lambda(derive.x, 0)).subs(values))
    assert got == pytest.approx(0.3 * 0.7 * 0.4 * 8, rel=1e-12)


def test_tweedie_for_a_gaussian_prior():
    exact_mean, exact_var, mean, var = derive.tweedie_gaussian()
    assert sp.simplify(exact_mean - mean) == 0
    assert sp.simplify(exact_var - var) == 0


def test_stein_for_polynomials():
    assert derive.stein_gap(derive.z**5 - 2 * derive.z**2 + 3) == 0
    assert derive.stein_gap(derive.z) == 0


def test_sure_of_a_linear_denoiser():
    estimate, risk, closed = derive.sure_of_linear()
    assert sp.expand(estimate - risk) == 0
    assert sp.expand(estimate - closed) == 0


def test_sure_and_the_adjoint_are_those_of_the_library():
    x, y, sigma = derive.x, derive.y, derive.sigma
    field = sp.Matrix([sp.sin(x) * y, x**2 - y])
    at, s = {x: 0.4, y: -1.1, sigma: 0.6}, 0.6
    point = torch.tensor([[0.4, -1.1]], dtype=f64)
    code = lambda p: torch.stack([torch.sin(p[:, 0]) * p[:, 1], p[:, 0] ** 2 - p[:, 1]], dim=1)  # noqa: E731
    assert float(sure(code, point, s)) == pytest.approx(float(derive.sure(field).subs(at)), rel=1e-12)
    assert float(denoising_adjoint(s)(code, point)) == pytest.approx(float(derive.denoising_adjoint(field).subs(at)), rel=1e-12)
