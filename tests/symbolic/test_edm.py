"""The derivations of section D.6 against the library's coefficients, the formulas as they stand, sampling, and exact flows."""

import math

import pytest
import sympy as sp
import torch

from mathcore.distributions import GaussianMixture
from mathcore.divergences import kl_gaussian
from mathcore.oracle import AffineGaussianOracle
from mathcore.preconditioning import edm_coefficients, edm_target
from mathcore.schedules import AffineSchedule
from mathcore.symbolic import edm as se

SCHEDULES = {"vp": AffineSchedule.vp(), "edm": AffineSchedule.edm(), "linear": AffineSchedule.linear(), "trig": AffineSchedule.trig()}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
T, STD = 0.37, 0.6


def places(name):
    schedule = SCHEDULES[name]
    return {se.alpha: float(schedule.alpha(T)), se.sigma: float(schedule.sigma(T)), se.data_std: STD}


# --- criteria -----------------------------------------------------------------------------------------------------------------------------------


def test_the_raw_target_is_the_printed_one():
    printed = ((1 - se.skip * se.alpha) * se.x_0 - se.skip * se.sigma * se.noise) / se.out
    assert sp.simplify(se.raw_target() - printed) == 0
    misprint = ((1 - se.skip**2) * se.x_0 - se.skip * se.sigma * se.noise) / se.out  # the inner factor alpha lost, as in the footnote
    assert sp.simplify(se.raw_target() - misprint) != 0
    assert se.loss_gap() == 0


def test_output_variance():
    printed = (1 - se.skip * se.alpha) ** 2 * se.data_std**2 + se.skip**2 * se.sigma**2
    assert sp.expand(se.output_variance() - printed) == 0
    assert sp.simplify(se.output_variance().diff(se.skip, 2) - 2 * se.variance) == 0  # a minimum


@everywhere
def test_coefficients_are_those_of_the_library(name):
    derived = [float(se.coefficients()[k].subs(places(name))) for k in ("skip", "out", "in")]
    assert derived == pytest.approx([float(c) for c in edm_coefficients(SCHEDULES[name], T, STD)], rel=1e-13)


def test_coefficients_satisfy_the_criteria():
    c = se.coefficients()
    assert sp.simplify(se.second_moment(c["in"] * se.x_t) - 1) == 0
    assert sp.simplify(se.second_moment(se.optimal_target()) - 1) == 0
    assert sp.simplify(se.output_variance().diff(se.skip).subs(se.skip, c["skip"])) == 0


@everywhere
def test_the_target_is_that_of_the_library(name):
    got = float(se.optimal_target().subs(places(name) | {se.x_0: 0.8, se.noise: -1.7}))
    x0, eps = torch.tensor([[0.8]], dtype=torch.float64), torch.tensor([[-1.7]], dtype=torch.float64)
    assert got == pytest.approx(float(edm_target(SCHEDULES[name], x0, eps, T, STD)), rel=1e-14)


def test_simplified_forms():
    assert se.simplified_loss_gap() == 0
    printed = (se.sigma * se.x_0 - se.alpha * se.data_std**2 * se.noise) / sp.sqrt(se.variance) / se.data_std
    assert sp.simplify(se.optimal_target() - printed) == 0
    assert sp.simplify(se.flat_weight() - se.variance / (se.sigma * se.data_std) ** 2) == 0


def test_limits():
    assert se.limits() == {"clean": (1 / se.alpha, 0), "noisy": (0, se.data_std), "no signal": (0, se.data_std)}


# --- meaning ------------------------------------------------------------------------------------------------------------------------------------


def test_the_skip_is_the_best_linear_estimate():
    slope, error = se.best_linear_estimate()
    assert sp.simplify(slope - se.coefficients()["skip"]) == 0
    assert sp.simplify(error - se.coefficients()["out"] ** 2) == 0


def test_target_and_input_are_uncorrelated_at_the_optimum_only():
    assert se.target_input_covariance() == 0
    (where,) = sp.solve(se.target_input_covariance(optimal=False), se.skip)
    assert sp.simplify(where - se.coefficients()["skip"]) == 0


def test_it_is_v_prediction():
    assert se.angle_gap() == 0
    assert se.trig_target() == 0
    assert se.scale_invariance() == (0, 0)


@everywhere
def test_noise_from_the_network(name):
    clean = se.coefficients()["skip"] * se.x + se.coefficients()["out"] * se.raw
    assert sp.simplify(se.noise_from_raw() - (se.x - se.alpha * clean) / se.sigma) == 0
    bounded = se.noise_from_raw().subs({se.alpha: 1, se.data_std: STD})
    assert sp.limit(bounded.coeff(se.raw, 1), se.sigma, 0) == -1
    assert sp.limit(bounded.coeff(se.x, 1), se.sigma, 0) == 0


# --- alpha = 1, sigma = t -------------------------------------------------------------------------------------------------------------------------


def test_edm_values():
    t, d = se.t, se.data_std
    printed = {"in": 1 / sp.sqrt(d**2 + t**2), "skip": d**2 / (d**2 + t**2), "out": t * d / sp.sqrt(d**2 + t**2)}
    for name, value in se.edm_coefficients().items():
        assert sp.simplify(value - printed[name]) == 0
    assert se.edm_coefficients()["skip"].subs(t, d) == sp.Rational(1, 2)


def test_the_ode_and_its_gaussian_solution():
    assert sp.simplify(se.edm_drift() - (se.x - sp.Function("D")(se.x, se.t)) / se.t) == 0
    assert se.gaussian_flow_gap() == 0
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.0]], [0.36])))
    x = torch.tensor([[5.0]], dtype=torch.float64)
    want = 5 * math.sqrt((0.36 + 0.25) / (0.36 + 16))
    assert float(AffineGaussianOracle(law, SCHEDULES["edm"]).flow_map(x, 4.0, 0.5)) == pytest.approx(want, rel=1e-13)


def test_the_prior_is_wrong_by_the_fourth_power():
    ratio = sp.Symbol("ratio", positive=True)
    assert sp.simplify(se.prior_gap_series() - ratio**4 / 4) == 0
    one, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for r in (0.1, 0.05):
        kl = float(kl_gaussian(zero, (1 + r**2) * one, zero, one))
        assert kl == pytest.approx(3 * r**4 / 4, rel=r**2)  # the next term is -2/3 r^2 relative


def test_error_bounds():
    for gap in se.out_bounds():
        assert all(float(gap.subs(places(name))) > 0 for name in SCHEDULES)
        assert sp.ask(sp.Q.positive(gap)) or gap.is_positive
