"""The derivations of section 9.2 against Gaussian conditioning, finite differences, the schedules and the solver tables."""

import math

import pytest
import sympy as sp
import torch

from mathcore import solvers
from mathcore.schedules import AffineSchedule
from mathcore.solvers.diagnostics import exact_variance, linear_model
from mathcore.symbolic import ddim as sd
from mathcore.symbolic import solvers as ss

SCHEDULES = {"vp": AffineSchedule.vp(), "linear": AffineSchedule.linear(), "edm": AffineSchedule.edm(), "trig": AffineSchedule.trig()}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
kinds = pytest.mark.parametrize("kind", ss.PREDICTIONS)
S, T = 0.61, 0.27


def value(expr, name, **extra):
    expr = sp.sympify(expr)
    places = ss.at(name, {"s": S, "t": T})
    return ss.evaluate(expr, places | {symbol: extra[symbol.name] for symbol in expr.free_symbols if symbol.name in extra})


def numbers(name):
    schedule = SCHEDULES[name]
    return [float(f(t)) for t in (S, T) for f in (schedule.alpha, schedule.sigma)]


@kinds
def test_every_form_of_ddim_recombines_clean_and_noise(kind):
    t = ss.scales("t")
    assert sd.in_clean_and_noise(ss.ddim(kind), kind) == (t.alpha, t.sigma)


def test_the_frozen_pair_is_ddim():
    t = ss.scales("t")
    assert sd.frozen_pair() == (t.alpha, t.sigma)


@everywhere
@kinds
def test_euler_minus_ddim_is_the_gap_of_two_tables(name, kind):
    times = torch.tensor([S, T], dtype=torch.float64)
    clean, noise = (value(e, name) for e in sd.euler_minus_ddim(kind))
    x = float(SCHEDULES[name].alpha(S)) * 0.7 - float(SCHEDULES[name].sigma(S)) * 1.3  # the state with clean = 0.7, noise = -1.3
    node = ss.scales("s")
    places = {"clean": 0.7, "noise": -1.3, "score": 1.3 / node.sigma, "velocity": 0.7 * node.dalpha - 1.3 * node.dsigma}
    output = value(places[kind], name)

    def model(at, t):
        return torch.full_like(at, output)

    start = torch.tensor([[x]], dtype=torch.float64)
    got = [method(SCHEDULES[name], times, prediction=kind).run(model, start) for method in (solvers.euler, solvers.ddim)]
    # a handful of roundings on numbers of size one
    assert float(got[0] - got[1]) == pytest.approx(0.7 * clean - 1.3 * noise, abs=1e-13)


@pytest.mark.parametrize(("name", "same"), [("linear", True), ("edm", True), ("vp", False), ("trig", False)])
def test_euler_is_ddim_for_affine_schedules_only(name, same):
    gaps = [value(e, name) for e in sd.euler_minus_ddim("velocity")]
    assert (max(map(abs, gaps)) < 1e-15) == same


@everywhere
@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_composition_keeps_the_marginal(name, share):
    a, b, c = ss.marginal_kernel()
    mean, variance = sd.composed(a, b, c)
    t = ss.scales("t")
    assert sp.simplify(mean - t.alpha * sd.x_0) == 0
    assert sp.simplify(variance - t.sigma**2) == 0
    # by adding the variances of independent parts, in numbers
    _, sigma_s, alpha_t, sigma_t = numbers(name)
    std = share * sigma_t
    got = value(a, name, c=std) * 0.3 + value(b, name, c=std) * (float(SCHEDULES[name].alpha(S)) * 0.3)
    assert got == pytest.approx(alpha_t * 0.3, rel=1e-14)
    assert value(b, name, c=std) ** 2 * sigma_s**2 + std**2 == pytest.approx(sigma_t**2, rel=1e-14)


def test_composition_of_any_kernel():
    a, b, std = sp.symbols("a b std", positive=True)
    s = ss.scales("s")
    mean, variance = sd.composed(a, b, std)
    assert sp.simplify(mean - (a + b * s.alpha) * sd.x_0) == 0
    assert sp.simplify(variance - b**2 * s.sigma**2 - std**2) == 0


@everywhere
def test_one_noise_level_is_that_of_the_markov_chain(name):
    (variance,) = sd.bayes_variance()
    assert sp.simplify(variance - ss.bayes_kernel()[2]) == 0
    h = float(SCHEDULES[name].half_log_snr(T) - SCHEDULES[name].half_log_snr(S))
    sigma_t = numbers(name)[3]
    assert value(variance, name) == pytest.approx(sigma_t**2 * -math.expm1(-2 * h), rel=1e-13)


@everywhere
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_forward_law_by_gaussian_conditioning(name, share):
    alpha_s, sigma_s, alpha_t, sigma_t = numbers(name)
    std = share * sigma_t
    b = math.sqrt(sigma_t**2 - std**2) / sigma_s
    covariance = b * sigma_s**2  # of (x_s, x_t) given x_0
    gain = covariance / sigma_t**2
    want = alpha_s - gain * alpha_t, gain, sigma_s**2 - gain * covariance
    for got, number in zip(sd.forward_law(), want, strict=True):
        assert value(got, name, c=std) == pytest.approx(number, abs=1e-13)


@everywhere
def test_the_forward_process_is_markov_for_the_posterior_noise_only(name):
    std = math.sqrt(value(sd.bayes_variance()[0], name))
    assert value(sd.forward_law()[0], name, c=std) == pytest.approx(0, abs=1e-13)
    for other in (0.0, 0.5 * std):
        assert abs(value(sd.forward_law()[0], name, c=other)) > 1e-3


@everywhere
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_variance_of_one_step_is_that_of_the_table(name, eta):
    schedule, times = SCHEDULES[name], torch.tensor([S, T], dtype=torch.float64)
    table = solvers.ddim(schedule, times, eta=eta)
    got = value(sd.next_variance(sp.Float(0.83, 30)), name, c=table.steps[0].noise, data_std=0.6)
    assert got == pytest.approx(exact_variance(table, linear_model(schedule, 0.6), 0.83), rel=1e-13)


def test_conditional_maps_compose():
    there = sd.compose([sd.conditional_map("s", "u"), sd.conditional_map("u", "t")])
    assert sp.simplify(there - sd.conditional_map("s", "t")) == 0
    assert sp.simplify(sd.compose([sd.conditional_map("s", "t"), sd.conditional_map("t", "s")]) - sd.x) == 0


@everywhere
def test_conditional_velocity_by_finite_differences(name):
    schedule, step = SCHEDULES[name], 1e-5

    def moved(h):
        alpha_t, sigma_t, alpha, sigma = (float(f(u)) for u in (T, T + h) for f in (schedule.alpha, schedule.sigma))
        return alpha * 0.8 + sigma / sigma_t * (-0.4 - alpha_t * 0.8)

    # central differences: step^2 / 6 times third derivatives below 1e4, and rounding 1e-16 / step
    got = value(sd.conditional_velocity(), name, x=sp.Float(-0.4, 30), x_0=sp.Float(0.8, 30))
    assert got == pytest.approx((moved(step) - moved(-step)) / (2 * step), abs=1e-6)


def test_on_its_path_the_conditional_velocity_is_the_slope_of_the_interpolation():
    t = ss.scales("t")
    on_path = sd.conditional_velocity().subs(sd.x, t.alpha * sd.x_0 + t.sigma * sd.noise)
    assert sp.simplify(on_path - t.dalpha * sd.x_0 - t.dsigma * sd.noise) == 0
