"""Section D.6 derived in sympy: preconditioning from its three criteria, for any scales alpha and sigma of the corruption.

One coordinate of centred data with standard deviation ``data_std``; x_t = alpha x_0 + sigma eps. ``skip``, ``out`` and ``raw`` are the free scales and the
network's answer; ``coefficients`` solves for them.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Function, Symbol

from mathcore.symbolic import unified
from mathcore.symbolic.variational import kl_between, normal_expectation

alpha, sigma, data_std = sp.symbols("alpha sigma data_std", positive=True)
skip, raw, x_0, noise, x = sp.symbols("skip raw x_0 noise x", real=True)
out, weight, t = sp.symbols("out weight t", positive=True)

x_t = alpha * x_0 + sigma * noise
variance = alpha**2 * data_std**2 + sigma**2
"""R, the variance of one coordinate of x_t."""


def second_moment(expr: Expr) -> Expr:
    """E expr^2 for ``expr`` linear in x_0 and eps, of which only the two variances and independence are used."""
    u, v = sp.symbols("u v", real=True)
    return sp.factor(normal_expectation(sp.expand(expr.subs({x_0: data_std * u, noise: v}) ** 2), u, v))


def covariance(first: Expr, second: Expr) -> Expr:
    """E first second for two expressions linear in x_0 and eps."""
    return sp.simplify((second_moment(first + second) - second_moment(first - second)) / 4)


# --- the criteria (Eq. D.6.1 to D.6.4) --------------------------------------------------------------------------------------------------------


@cache
def raw_target() -> Expr:
    """The answer of the network that makes the clean predictor skip x_t + out raw exact (Eq. D.6.2)."""
    (solution,) = sp.solve(skip * x_t + out * raw - x_0, raw)
    return sp.collect(sp.expand(solution), (x_0, noise))


def loss_gap() -> Expr:
    """weight |clean predictor - x_0|^2 less weight out^2 |raw - target|^2 (Eq. D.6.2)."""
    return sp.simplify(weight * (skip * x_t + out * raw - x_0) ** 2 - weight * out**2 * (raw - raw_target()) ** 2)


@cache
def output_variance() -> Expr:
    """out^2 as a function of `skip`: the second moment of the target set to one (Criterion 2, Eq. D.6.3)."""
    (solution,) = sp.solve(second_moment(raw_target()) - 1, out**2)
    return sp.expand(solution)


@cache
def coefficients() -> dict[str, Expr]:
    """``"in"``, ``"skip"`` and ``"out"`` from the three criteria, positive branches (Eq. D.6.4)."""
    scale = Symbol("scale", positive=True)
    (c_in,) = sp.solve(second_moment(scale * x_t) - 1, scale)  # Criterion 1
    (c_skip,) = sp.solve(output_variance().diff(skip), skip)  # Criterion 3
    c_out = sp.sqrt(sp.factor(sp.simplify(output_variance().subs(skip, c_skip))))
    return {"in": c_in, "skip": sp.simplify(c_skip), "out": sp.simplify(c_out)}


def at_optimum(expr: Expr) -> Expr:
    """``expr`` with the optimal skip and out put in."""
    c = coefficients()
    return sp.simplify(expr.subs({skip: c["skip"], out: c["out"]}))


@cache
def optimal_target() -> Expr:
    """The target at the optimum, simplified."""
    return sp.factor(at_optimum(raw_target()))


def simplified_loss_gap() -> Expr:
    """weight out^2 |raw - target|^2 less weight sigma^2 / R |data_std raw - (sigma x_0 - alpha data_std^2 eps) / sqrt(R)|^2 (section D.6.1)."""
    printed = weight * sigma**2 / variance * (data_std * raw - (sigma * x_0 - alpha * data_std**2 * noise) / sp.sqrt(variance)) ** 2
    return sp.simplify(at_optimum(weight * out**2 * (raw - raw_target()) ** 2) - printed)


@cache
def flat_weight() -> Expr:
    """The weight of the clean loss that puts weight one on the network's own loss, 1 / out^2."""
    (solution,) = sp.solve(weight * out**2 - 1, weight)
    return sp.factor(at_optimum(solution))


@cache
def limits() -> dict[str, tuple[Expr, Expr]]:
    """(skip, out) at sigma -> 0, at sigma -> oo and at alpha -> 0 (section D.6.1)."""
    c = coefficients()
    ends = {"clean": (sigma, 0), "noisy": (sigma, sp.oo), "no signal": (alpha, 0)}
    return {name: (sp.limit(c["skip"], *end, "+"), sp.limit(c["out"], *end, "+")) for name, end in ends.items()}


# --- what the coefficients mean ---------------------------------------------------------------------------------------------------------------


@cache
def best_linear_estimate() -> tuple[Expr, Expr]:
    """(slope, mean squared error) of the best linear estimate of x_0 from x_t, by least squares: skip and out^2."""
    slope = covariance(x_0, x_t) / second_moment(x_t)
    return sp.simplify(slope), second_moment(x_0 - slope * x_t)


def target_input_covariance(optimal: bool = True) -> Expr:
    """Covariance of the target and x_t, at the optimal skip or at any."""
    return covariance(optimal_target() if optimal else raw_target(), x_t)


@cache
def angle_gap() -> Expr:
    """Target less sin(angle) x_0 / data_std - cos(angle) eps, tan(angle) = sigma / (alpha data_std): v-prediction up to the sign, for data scaled to one."""
    angle = sp.atan(sigma / (alpha * data_std))
    return sp.simplify(optimal_target() - sp.sin(angle) * x_0 / data_std + sp.cos(angle) * noise)


@cache
def trig_target() -> Expr:
    """Target plus the conditional velocity of the trigonometric path, for data of unit variance: zero (v-prediction with the other sign)."""
    u = Symbol("u", positive=True)
    velocity = (sp.cos(u) * x_0 + sp.sin(u) * noise).diff(u)
    return sp.simplify(optimal_target().subs({alpha: sp.cos(u), sigma: sp.sin(u), data_std: 1}, simultaneous=True) + velocity)


@cache
def scale_invariance() -> tuple[Expr, Expr]:
    """Change of the target and of in * x_t when alpha and sigma are multiplied by a common factor: both depend on sigma / alpha alone."""
    k = Symbol("k", positive=True)
    grown = {alpha: k * alpha, sigma: k * sigma}
    gaps = [e.subs(grown, simultaneous=True) - e for e in (optimal_target(), coefficients()["in"] * x_t)]
    return sp.simplify(gaps[0]), sp.simplify(gaps[1])


def noise_from_raw() -> Expr:
    """(x - alpha (skip x + out raw)) / sigma at the optimum: the noise prediction, bounded in x and raw at every noise level."""
    return sp.collect(sp.expand(at_optimum((x - alpha * (skip * x + out * raw)) / sigma)), (x, raw), sp.simplify)


# --- alpha = 1, sigma = t (section D.6.2) -----------------------------------------------------------------------------------------------------


@cache
def edm_coefficients() -> dict[str, Expr]:
    """The coefficients for the EDM schedule, in `t` (Eq. D.6.5)."""
    return {name: sp.simplify(c.subs({alpha: 1, sigma: t})) for name, c in coefficients().items()}


@cache
def edm_drift() -> Expr:
    """dx/dt of the probability-flow ODE from the clean prediction D(x, t): the clean form of Eq. 6.3.2 at alpha = 1, sigma = t."""
    a, b = unified.conversion_in_time("clean", "velocity")
    value = a * x + b * Function("D")(x, t)
    return sp.simplify(value.subs({unified.alpha: 1, unified.sigma: unified.t}).doit().subs(unified.t, t))


@cache
def gaussian_flow_gap() -> Expr:
    """dx/dt less the drift along x sqrt((data_std^2 + t^2) / (data_std^2 + T^2)), with the posterior mean of N(0, data_std^2) for D."""
    end = Symbol("T", positive=True)
    curve = x * sp.sqrt((data_std**2 + t**2) / (data_std**2 + end**2))
    posterior = edm_coefficients()["skip"] * curve  # of Gaussian data the linear estimate is the mean
    return sp.simplify(curve.diff(t) - (curve - posterior) / t)


@cache
def prior_gap_series() -> Expr:
    """Leading term of KL(N(0, data_std^2 + T^2) || N(0, T^2)), one coordinate, in the small ratio data_std / T = ``ratio``."""
    ratio = Symbol("ratio", positive=True)
    return sp.series(kl_between(sp.Integer(0), 1 + ratio**2, sp.Integer(0), sp.Integer(1)), ratio, 0, 6).removeO()


@cache
def out_bounds() -> tuple[Expr, Expr]:
    """(1 - (out / data_std)^2, 1 - (out alpha / sigma)^2): squares, so that out <= min(data_std, sigma / alpha)."""
    c = coefficients()["out"]
    return sp.factor(1 - (c / data_std) ** 2), sp.factor(1 - (c * alpha / sigma) ** 2)
