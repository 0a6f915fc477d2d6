"""Section 9.2 derived in sympy: what DDIM freezes, the kernels that keep the marginals, the conditional flow behind the step.

The rows of the tables and the two kernels come from `mathcore.symbolic.solvers`; here they are compared, composed, inverted and differentiated.
Symbols at the nodes s (start) and t < s (end) are those of `scales`.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import sympy as sp
from sympy import Expr, Symbol

from mathcore.symbolic.solvers import bayes_kernel, conversion, ddim, marginal_kernel, runge_kutta_rows, scales, tau
from mathcore.symbolic.variational import normal_expectation

x, x_0, x_s, x_t = sp.symbols("x x_0 x_s x_t", real=True)
clean, noise = sp.symbols("clean noise", real=True)
data_std = Symbol("data_std", positive=True)

Row = Mapping[str, Expr]


# --- what is frozen (sections 9.2.1 and 9.2.2) --------------------------------------------------------------------------------------------


def in_clean_and_noise(row: Row, prediction: str) -> tuple[Expr, Expr]:
    """An update from s as a combination of the estimated clean point and the estimated noise at s: its two coefficients.

    ``row``: coefficients ``x`` of the state and ``m`` of the model output. x = alpha_s clean + sigma_s noise, and the output follows from them.
    """
    node = scales("s")
    state = node.alpha * clean + node.sigma * noise
    of_state, of_noise = conversion("noise", prediction, "s")
    update = sp.expand(row["x"] * state + row["m"] * (of_state * state + of_noise * noise))
    return sp.simplify(update.coeff(clean, 1)), sp.simplify(update.coeff(noise, 1))


def frozen_pair() -> tuple[Expr, Expr]:
    """Coefficients of clean and noise in x_s plus the integral of alpha' clean + sigma' noise from s to t, both predictions held (section 9.2.2)."""
    s, t = sp.symbols("s t", positive=True)
    out = []
    for name in ("alpha", "sigma"):
        scale = sp.Function(name, positive=True)
        gain = sp.integrate(sp.diff(scale(tau), tau), (tau, s, t))
        places = {scale(u): getattr(scales(label), name) for u, label in ((s, "s"), (t, "t"))}
        out.append(sp.simplify((scale(s) + gain).subs(places)))
    return out[0], out[1]


@cache
def euler_minus_ddim(prediction: str) -> tuple[Expr, Expr]:
    """Coefficients of clean and noise in the plain Euler step in time minus the DDIM step, the model making ``prediction`` (Observation 9.2.1)."""
    (plain,) = runge_kutta_rows("euler", "t", "one", prediction, ["s", "t"])
    euler = in_clean_and_noise({"x": plain["x0"], "m": plain["m0"]}, prediction)
    exact = in_clean_and_noise(ddim(prediction), prediction)
    return sp.simplify(euler[0] - exact[0]), sp.simplify(euler[1] - exact[1])


# --- kernels that keep the marginals (section 9.2.3) ------------------------------------------------------------------------------------


def composed(a: Expr, b: Expr, std: Expr) -> tuple[Expr, Expr]:
    """Mean and variance of x_t given x_0 when x_s ~ p_s(. | x_0) and x_t ~ N(a x_0 + b x_s, std^2) (Eq. 9.2.5 and 9.2.6)."""
    s = scales("s")
    first, second = sp.symbols("first second", real=True)
    value = a * x_0 + b * (s.alpha * x_0 + s.sigma * first) + std * second
    mean = normal_expectation(value, first, second)
    return mean, sp.simplify(normal_expectation(sp.expand(value**2), first, second) - mean**2)


@cache
def bayes_variance() -> list[Expr]:
    """All c^2 for which the kernel of `marginal_kernel` has the same dependence on x_s as the law p(x_t | x_s, x_0) of the Markov chain."""
    _, b, c = marginal_kernel()
    squared = Symbol("squared", nonnegative=True)
    equation = (b**2).subs(c, sp.sqrt(squared)) - bayes_kernel()[1] ** 2
    return [sp.simplify(solution) for solution in sp.solve(equation, squared)]


@cache
def forward_law() -> tuple[Expr, Expr, Expr]:
    """(coefficient of x_0, of x_t, variance) of x_s given x_t and x_0 when x_t comes from x_s by `marginal_kernel`: the square completed in x_s.

    The process is Markov forward in time only where the coefficient of x_0 vanishes.
    """
    s = scales("s")
    a, b, c = marginal_kernel()
    exponent = -((x_t - a * x_0 - b * x_s) ** 2) / (2 * c**2) - (x_s - s.alpha * x_0) ** 2 / (2 * s.sigma**2)
    quadratic = sp.Poly(sp.expand(exponent), x_s)
    precision = sp.simplify(-2 * quadratic.coeff_monomial(x_s**2))  # b^2 sigma_s^2 + c^2 = sigma_t^2 makes it simple
    mean = sp.expand(sp.expand(quadratic.coeff_monomial(x_s)) / precision)
    return sp.simplify(mean.coeff(x_0, 1)), sp.simplify(mean.coeff(x_t, 1)), sp.simplify(1 / precision)


def next_variance(variance: Expr) -> Expr:
    """Variance after a DDIM step with noise c from N(0, variance), when the model is exact for data N(0, data_std^2)."""
    s, t = scales("s"), scales("t")
    _, _, c = marginal_kernel()
    exact = s.alpha**2 * data_std**2 + s.sigma**2
    of_clean, of_noise = s.alpha * data_std**2 / exact, s.sigma / exact  # E[x_0 | x_s] and E[eps | x_s], per x_s
    return (t.alpha * of_clean + sp.sqrt(t.sigma**2 - c**2) * of_noise) ** 2 * variance + c**2


# --- the conditional flow (section 9.2.4) ---------------------------------------------------------------------------------------------------


@cache
def conditional_map(start: str = "s", end: str = "t") -> Expr:
    """Psi_{start -> end}(x | x_0): the kernel of `marginal_kernel` without noise, between any two nodes."""
    a, b, c = marginal_kernel()
    u, v = scales(start), scales(end)
    s, t = scales("s"), scales("t")
    places = dict(zip((s.alpha, s.sigma, t.alpha, t.sigma), (u.alpha, u.sigma, v.alpha, v.sigma), strict=True))
    return sp.expand((a * x_0 + b * x).subs(c, 0).subs(places, simultaneous=True))


@cache
def conditional_velocity() -> Expr:
    """d/dh at h = 0 of Psi_{t -> t + h}(x | x_0), for generic alpha and sigma, written with the symbols of node t."""
    node, step = scales("t"), Symbol("step", real=True)
    s, t = scales("s"), scales("t")
    alpha, sigma = (sp.Function(name, positive=True) for name in ("alpha", "sigma"))
    ends = {s.alpha: alpha(tau), s.sigma: sigma(tau), t.alpha: alpha(tau + step), t.sigma: sigma(tau + step)}
    moved = conditional_map().subs(ends, simultaneous=True)
    slope = sp.diff(moved, step).subs(step, 0).doit()
    for name, function in (("alpha", alpha), ("sigma", sigma)):
        slope = slope.subs(sp.diff(function(tau), tau), getattr(node, f"d{name}")).subs(function(tau), getattr(node, name))
    return sp.expand(slope)


def compose(maps: Sequence[Expr]) -> Expr:
    """Maps of ``x`` applied one after the other."""
    out: Expr = x
    for f in maps:
        out = f.subs(x, out)
    return sp.expand(out)
