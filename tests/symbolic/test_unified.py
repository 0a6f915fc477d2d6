"""The derivations of chapter 6 against the schedules in numbers, Monte Carlo, integration of ODEs, and mistakes that must not vanish."""

import itertools
import math

import pytest
import sympy as sp
import torch
from scipy.integrate import quad, solve_ivp

from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.parameterizations import loss_weight, target_coefficients
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedule_maps import canonical_rates, trig_rates, velocity_power
from mathcore.schedules import AffineSchedule
from mathcore.symbolic import unified as su
from mathcore.symbolic.solvers import schedules
from mathcore.symbolic.solvers import time as schedule_time

SCHEDULES = {"vp": AffineSchedule.vp(), "ve": AffineSchedule.ve(), "edm": AffineSchedule.edm(), "linear": AffineSchedule.linear()}
SCHEDULES |= {"trig": AffineSchedule.trig(), "cosine": AffineSchedule.cosine()}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
kinds = pytest.mark.parametrize("kind", PREDICTIONS)
changes = pytest.mark.parametrize(("src", "dst"), list(itertools.permutations(PREDICTIONS, 2)))
T = 0.37


def number(expr, name, t=T, **values):
    """``expr`` with the functions of the schedule put in, at t."""
    alpha, sigma = (sp.sympify(e).subs(schedule_time, su.t) for e in schedules()[name])
    expr = sp.sympify(expr).subs({su.alpha: alpha, su.sigma: sigma}).doit()
    expr = expr.subs({symbol: values[symbol.name] for symbol in expr.free_symbols if symbol.name in values})
    return float(sp.N(expr.subs(su.t, sp.Rational(*float(t).as_integer_ratio())), 30))


# --- targets, conversions, losses --------------------------------------------------------------------------------------------------------------


@kinds
@everywhere
def test_the_table_of_targets(name, kind):
    for got, want in zip(su.target_coefficients(kind), target_coefficients(SCHEDULES[name], T, kind)):
        assert number(got, name) == pytest.approx(float(want), rel=1e-12, abs=1e-15)


def test_the_score_target_is_minus_one_over_sigma_and_no_square():
    assert sp.simplify(su.target_coefficients("score")[1] + 1 / su.sigma) == 0
    assert sp.simplify(su.target_coefficients("score")[1] + 1 / su.sigma**2) != 0


@changes
def test_conversions(src, dst):
    assert su.conversion_gap(src, dst) == 0
    for name, schedule in SCHEDULES.items():
        one, nil = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        want = convert_prediction(nil, one, T, schedule, src, dst), convert_prediction(one, nil, T, schedule, src, dst)
        for got, exact in zip(su.conversion_in_time(src, dst), want):
            # ve starts at sigma = .01 sqrt(expm1(...)): a few roundings more
            assert number(got, name) == pytest.approx(float(exact), rel=1e-11, abs=1e-14)


@changes
def test_loss_factors(src, dst):
    for name, schedule in SCHEDULES.items():
        assert number(su.loss_factor(src, dst), name) == pytest.approx(float(loss_weight(schedule, T, src, dst)), rel=1e-11)
    assert sp.simplify(su.loss_factor(src, dst) * su.loss_factor(dst, src)) == 1


def test_score_of_a_velocity():
    a, b = su.conversion_in_time("velocity", "score")
    minus = su.alpha.diff(su.t) * su.sigma - su.alpha * su.sigma.diff(su.t)  # Eq. 6.4.3 as it stands
    assert sp.simplify(a + su.alpha.diff(su.t) / (su.sigma * minus)) == 0
    assert sp.simplify(b - su.alpha / (su.sigma * minus)) == 0


def test_likelihood_weighting():
    assert su.likelihood_weight_gap() == 0
    rate = sp.log(su.alpha / su.sigma).diff(su.t)
    for name, schedule in SCHEDULES.items():  # and not -lambda', which would be half of it
        assert float(schedule.g2(T) / schedule.sigma(T) ** 2) == pytest.approx(-2 * number(rate, name), rel=1e-11)


# --- the conditioning trick -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["score", "velocity"])
@everywhere
def test_the_shift_of_squared_losses_is_the_conditional_variance(name, kind):
    """Model-free, and equal to E Var(target | x_t) by the oracle: k^2 Var(x_0 | x_t) with dtarget/dx_0 = k at fixed x_t."""
    shift, dependence = su.conditioning_gap(kind)
    assert dependence == 0
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.3]], [0.49])))
    schedule, x = SCHEDULES[name], torch.tensor([[0.2]], dtype=torch.float64)
    slope = convert_prediction(torch.ones_like(x), 0 * x, T, schedule, "clean", kind) ** 2
    want = slope * AffineGaussianOracle(law, schedule).posterior_cov(x, T)[:, :, 0]
    assert number(shift, name, mean=0.3, std=0.7) == pytest.approx(float(want), rel=1e-11)


def test_the_shift_of_the_kl_is_minus_a_mutual_information():
    """C = I(x_0; x_s | x_t) up to sign: half the log of a ratio of conditional variances, from the covariance of the three."""
    shift, dependence = su.conditioning_gap("kl")
    assert dependence == 0
    places = {"step": 0.9, "grow": 0.4, "alpha_s": 0.8, "sigma_s": 0.6, "std": 1.3}
    a, s, b, q, d = (places[k] for k in ("alpha_s", "sigma_s", "step", "grow", "std"))
    mixing = torch.tensor([[d, 0, 0], [a * d, s, 0], [a * b * d, b * s, q]], dtype=torch.float64)  # of x_0, x_s, x_t
    cov = mixing @ mixing.T

    def logdet(*k):
        return float(torch.logdet(cov[list(k)][:, list(k)]))

    information = (logdet(0, 2) + logdet(1, 2) - logdet(2) - logdet(0, 1, 2)) / 2
    value = float(shift.subs({symbol: places[symbol.name] for symbol in shift.free_symbols}))
    assert value == pytest.approx(information, rel=1e-12)


# --- the ODE and one step -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["noise", "clean", "score", "clean_noise", "velocity"])
def test_five_forms(form):
    assert su.pf_ode_gap(form) == 0


def test_a_form_without_primes_is_seen():
    """alpha clean + sigma noise, with the primes lost, is the state and no velocity."""
    lost = su.alpha * su.clean + su.sigma * su.noise
    assert sp.simplify(lost - su.pf_ode_forms()["clean_noise"]) != 0


@everywhere
@kinds
def test_one_euler_step_less_one_ddim_step(name, kind):
    """Second-order coefficients against the two steps in numbers with h -> 0, clean = .7 and noise = -1.3 held."""
    schedule = SCHEDULES[name]
    of_clean, of_noise = (number(e, name) for e in su.euler_minus_ddim(kind))
    gaps = []
    for h in (1e-3, 5e-4):
        a, s, da, ds = (float(f(T)) for f in (schedule.alpha, schedule.sigma, schedule.dalpha, schedule.dsigma))
        euler = (a + h * da) * 0.7 + (s + h * ds) * -1.3
        gaps.append((euler - float(schedule.alpha(T + h)) * 0.7 + float(schedule.sigma(T + h)) * 1.3) / h**2)
    extrapolated = 2 * gaps[1] - gaps[0]
    # what is left is of order h^2 relative, and rounding 1e-16 / h^2
    assert extrapolated == pytest.approx(of_clean * 0.7 - of_noise * 1.3, rel=1e-3, abs=1e-8)


def test_the_difference_is_of_second_order_for_cosine_and_none_for_linear():
    """Slopes of one step of velocity Euler against DDIM: 1.979, 1.990, 1.995 with the oracle of two modes, and equality for the linear path."""
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [[-1.0], [1.0]], [0.04, 0.09])))
    x = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
    for name in ("cosine", "linear"):
        schedule = SCHEDULES[name]
        oracle, t, gaps = AffineGaussianOracle(law, schedule), 0.6, []
        for h in (0.08, 0.04, 0.02, 0.01):
            ddim = schedule.alpha(t - h) * oracle.clean(x, t) + schedule.sigma(t - h) * oracle.noise(x, t)
            gaps.append(float((x - h * oracle.velocity(x, t) - ddim).abs().max()))
        if name == "linear":
            assert max(gaps) < 1e-12
        else:
            slopes = [math.log2(a / b) for a, b in itertools.pairwise(gaps)]
            assert slopes == pytest.approx([2, 2, 2], abs=0.06)
            assert abs(slopes[-1] - 2) < abs(slopes[0] - 2)


@pytest.mark.parametrize("form", ["noise", "clean"])
def test_exponential_euler_is_ddim(form):
    s = sp.Symbol("s", positive=True)
    assert su.exponential_euler(form) == (su.alpha.subs(su.t, s), su.sigma.subs(su.t, s))


@everywhere
def test_jacobian_of_gaussian_data(name):
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.0]], [0.49])))
    oracle = AffineGaussianOracle(law, SCHEDULES[name])
    want = float(oracle.divergence(torch.zeros(1, 1, dtype=torch.float64), T))
    for head, (linear, slope) in su.gaussian_jacobian().items():
        assert number(linear + slope, name, std=0.7) == pytest.approx(want, rel=1e-11), head
    alpha, sigma, std = su.alpha, su.sigma, su.std
    printed = (alpha * alpha.diff(su.t) * std**2 + sigma * sigma.diff(su.t)) / (alpha**2 * std**2 + sigma**2)
    assert sp.simplify(su.gaussian_jacobian()["velocity"][1] - printed) == 0


def test_the_parts_of_the_jacobian_are_large_and_cancel():
    linear, slope = su.gaussian_jacobian()["clean"]
    parts = [number(e, "linear", t=0.001, std=0.7) for e in (linear, slope)]
    assert min(map(abs, parts)) > 900
    assert abs(sum(parts)) < 1.1


def test_schedule_curvature():
    assert su.curvature_gap() == 0


# --- clocks -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "rates"), [("linear", canonical_rates), ("trig", trig_rates)])
def test_clocks(path, rates):
    assert su.transfer_gaps(path) == (0, 0)
    scale, dscale, _, dtau = su.clock(path)
    assert sp.simplify(dtau - su.wronskian / scale**2) == 0
    for name, schedule in SCHEDULES.items():
        for got, want in zip((dscale, dtau), rates(schedule, T)):
            assert number(got, name) == pytest.approx(float(want), rel=1e-11, abs=1e-14)


def test_marginal_transfer():
    assert su.transferred_continuity() == 0


# --- the price of a clock -----------------------------------------------------------------------------------------------------------------------


@everywhere
def test_power_of_the_velocity_target_by_sampling(name):
    schedule, n = SCHEDULES[name], 400_000
    g = torch.Generator().manual_seed(0)
    x0 = 0.4 + 0.7 * (torch.rand(n, dtype=torch.float64, generator=g) - 0.5) * math.sqrt(12)  # uniform: only two moments enter
    eps = torch.randn(n, dtype=torch.float64, generator=g)
    power = (schedule.dalpha(T) * x0 + schedule.dsigma(T) * eps) ** 2
    assert abs(number(su.target_power(), name, mean=0.4, std=0.7) - float(power.mean())) < 5 * float(power.std()) / math.sqrt(n)


def test_power_for_the_linear_schedule_is_constant():
    value = su.target_power().subs({su.alpha: 1 - su.t, su.sigma: su.t}).doit()
    assert sp.simplify(value - (1 + su.std**2 + su.mean**2)) == 0


def test_marginal_power_of_a_gaussian():
    law = GaussianMixture(
        *(torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.5], [[0.5], [0.5]], [4.0, 4.0]))
    )  # quadrature, not the closed form
    for r in (0.2, 0.7, 1.0):
        value = float(su.marginal_power().subs({su.r: r, su.mean: 0.5, su.std: 2.0}))
        assert value == pytest.approx(float(velocity_power(law, torch.tensor([r], dtype=torch.float64))[0]), rel=1e-12)


def test_extremals():
    rho = sp.Function("rho")(su.t)
    line = {rho: su.t}
    assert su.euler_lagrange("conditional").subs(line).doit() == 0
    assert su.euler_lagrange("conditional").subs({rho: su.t**2}).doit() != 0
    # frozen: (kappa rho')' = 0, that is rho' ~ 1 / kappa, the printed rule
    kappa = sp.Function("kappa", positive=True)(su.t)
    assert sp.simplify(su.euler_lagrange("frozen") + 2 * (kappa * rho.diff(su.t)).diff(su.t)) == 0
    assert su.first_integral_gap() == 0


def test_a_marginal_extremal_in_closed_form():
    """K(rho) = rho^2: constant speed rho rho' = 1/2 gives rho = sqrt(t), which solves the equation; the printed rule rho' = 1/(3 rho^2) does not."""
    rho, K = sp.Function("rho")(su.t), sp.Function("K", positive=True)
    squared = su.euler_lagrange("marginal").subs(K(rho), rho**2).doit()

    def residual(candidate):
        return sp.simplify(squared.subs(rho, candidate).doit())

    assert residual(sp.sqrt(su.t)) == 0
    assert residual(su.t ** sp.Rational(1, 3)) != 0
    # their energies int rho^2 rho'^2: 1/4 = (int r dr)^2, against 1/3 = int r^2 dr, that of the linear clock
    for candidate, energy in (
        (sp.sqrt(su.t), sp.Rational(1, 4)),
        (su.t ** sp.Rational(1, 3), sp.Rational(1, 3)),
        (su.t, sp.Rational(1, 3)),
    ):
        assert sp.integrate(sp.powsimp(candidate**2 * candidate.diff(su.t) ** 2), (su.t, 0, 1)) == energy


# --- Fokker-Planck ------------------------------------------------------------------------------------------------------------------------------


def test_the_family_keeps_the_marginals_and_the_printed_proof_does_not():
    assert su.reverse_family_gap() == 0
    assert su.forward_family_gap() == 0
    p, _, level = su.plane()
    x, y = sp.symbols("x y", real=True)
    assert sp.simplify(su.reverse_family_gap(printed=True) - level**2 * (p.diff(x, 2) + p.diff(y, 2))) == 0


def test_special_members():
    f, g, s = sp.symbols("f g s", real=True)
    assert sp.simplify(su.family_drift(sp.Integer(0)) - (f * su.x - g**2 / 2 * s)) == 0  # the ODE
    assert sp.simplify(su.family_drift(g) - (f * su.x - g**2 * s)) == 0  # Eq. 4.1.6


SHIFTS = {1: (0.50, 0.79, 1.08), 10: (5.0, 1.99, 1.25)}


@pytest.mark.parametrize("horizon", SHIFTS)
def test_shift_of_the_mean_under_a_wrong_score(horizon):
    delta, T_end = sp.Symbol("delta", real=True), sp.Symbol("T", positive=True)
    shift = su.shifted_mean()
    for gamma, want in zip((0, 1, 2), SHIFTS[horizon]):
        value = float(sp.limit(shift.subs({delta: 1, T_end: horizon}), su.gamma, gamma))
        assert value == pytest.approx(want, abs=0.006)
        end = solve_ivp(lambda u, m, g=gamma: [0.5 * (1 + g**2) - 0.5 * g**2 * m[0]], (0, horizon), [0.0], rtol=1e-10, atol=1e-12).y[0, -1]
        assert value == pytest.approx(end, rel=1e-8)


def test_the_bound_of_the_likelihood_weighting_is_strict():
    """Left .5 delta^2, right 2 delta^2 (1 - e^{-1/2})^2 = .3096 delta^2: the KL of two unit Gaussians whose means differ by the shift at gamma = g = 1."""
    delta, T_end = sp.Symbol("delta", real=True), sp.Symbol("T", positive=True)
    right = sp.simplify(su.shifted_mean().subs({su.gamma: 1, T_end: 1}) ** 2 / 2 / delta**2)
    assert float(right) == pytest.approx(0.3096, abs=5e-5)
    assert float(right) < 0.5


def test_girsanov_is_least_at_the_reverse_sde():
    bound, where = su.girsanov_optimum()
    g = sp.Symbol("g", positive=True)
    assert where == [g]
    values = [float(bound.subs({g: 1.3, su.gamma: v})) for v in (0.65, 1.3, 2.6)]
    assert min(values) == values[1] == pytest.approx(1.3**2)


RECURSION = {0.5: (0.249069, 0.249534), 1.0: (0.249936, 0.249968), 2.0: (0.251686, 0.250840)}


@pytest.mark.parametrize("gamma", RECURSION)
def test_variance_of_euler_maruyama(gamma):
    """The derived step iterated on the linear path for data N(0, 1/4); the slope of its velocity is (t - (1 - t) / 4) / V_t."""
    step = sp.lambdify((*sp.symbols("V V_t", positive=True), sp.Symbol("slope", real=True), su.h, su.gamma), su.variance_step(), "math")
    for n, want in zip((500, 1000), RECURSION[gamma]):
        variance = 1.0
        for k in range(n, 0, -1):
            t = k / n
            exact = (1 - t) ** 2 / 4 + t**2
            variance = step(variance, exact, (t - (1 - t) / 4) / exact, -1 / n, gamma)
        assert variance == pytest.approx(want, abs=5e-7)


def test_energies_of_the_gaussian_example():
    """m = 1/2, s = 2: linear clock 2.10841, least 1.81917, from the derived K."""
    power = sp.lambdify(su.r, su.marginal_power().subs({su.mean: sp.Rational(1, 2), su.std: 2}), "math")
    assert quad(power, 0, 1, epsabs=1e-12)[0] == pytest.approx(2.10841, abs=5e-6)
    assert quad(lambda r: math.sqrt(power(r)), 0, 1, epsabs=1e-12)[0] ** 2 == pytest.approx(1.81917, abs=5e-6)
