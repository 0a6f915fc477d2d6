"""Exponential Euler and Heun derived by variation of constants (Eq. 9.1.7 and 9.4.14), and their rows in the tables."""

from functools import cache

import sympy as sp
from sympy import Expr, Symbol

from mathcore.symbolic.solvers import conversion, drift_and_diffusion, from_prediction, scales, tau
from mathcore.symbolic.solvers import lam as LAMBDA


@cache
def variation_of_constants(degree: int) -> list[Expr]:
    """Coefficients of (w_s, N_s, N_t - N_s) in the solution after a step h of w' = L w + N, L constant and N a constant (degree 0) or a line (1).

    Functions of the symbols `L` and `h`; e^{Lh}, h phi_1(Lh), h phi_2(Lh).
    """
    L, step, u = Symbol("L", nonzero=True), Symbol("h", nonzero=True), Symbol("u", real=True)
    propagator = sp.exp(L * (step - u))
    weights = [sp.integrate(propagator * (u / step) ** k, (u, 0, step)) for k in range(degree + 1)]
    return [sp.exp(L * step), *(sp.simplify(w) for w in weights)]


def _at(expr: Expr, L: Expr, step: Expr) -> Expr:
    return expr.subs({Symbol("L", nonzero=True): L, Symbol("h", nonzero=True): step})


def frozen_in_time(prediction: str) -> dict[str, Expr]:
    """The row of Eq. 9.1.7: x' = f x + g^2 / (2 sigma) eps with everything at s, over t - s; coefficients named as in ``solvers``."""
    s, t = scales("s"), scales("t")
    alpha, sigma, f, g2 = drift_and_diffusion()
    rates = {sp.diff(alpha, tau): s.dalpha, sp.diff(sigma, tau): s.dsigma}
    f, g2 = (e.subs(rates).subs({alpha: s.alpha, sigma: s.sigma}) for e in (f, g2))
    of_x, of_noise = (_at(c, f, t.t - s.t) for c in variation_of_constants(0))
    return from_prediction(of_x, of_noise * g2 / (2 * s.sigma), prediction, "s")


@cache
def split(scale: str) -> tuple[Expr, Expr, Expr, Expr]:
    """(L, coefficient of x in N, coefficient of eps in N, scale c): the lambda-ODE of w = x / c with its linear part, as functions of lambda.

    From dx/d lambda = (alpha'/alpha) x - sigma eps (Eq. 9.4.5) and alpha / sigma = e^lambda, so that sigma'/sigma = alpha'/alpha - 1. On the scale
    alpha the clean prediction (x - sigma eps) / alpha is what is left over, and it takes a multiple of x with it.
    """
    lam = LAMBDA
    alpha = sp.Function("alpha", positive=True)(lam)
    sigma = alpha * sp.exp(-lam)
    c = {"one": sp.S(1), "alpha": alpha, "sigma": sigma}[scale]
    growth = sp.simplify(sp.diff(alpha, lam) / alpha - sp.diff(c, lam) / c)  # of w, as dx/d lambda gives it
    linear = {"one": growth, "alpha": sp.S(-1), "sigma": growth}[scale]
    return linear, sp.simplify((growth - linear) / c), sp.simplify(-sigma / c), c


def exponential_rows(scale: str, prediction: str, corrected: bool) -> list[dict[str, Expr]]:
    """Rows of one step in the clock lambda from node s to t, the exponent E = int L: the predictor, and the corrector if asked for (Eq. 9.4.14)."""
    s, t = scales("s"), scales("t")
    step = t.lam - s.lam
    exponent = {"one": sp.log(t.alpha / s.alpha), "alpha": -step, "sigma": step}[scale]
    ratio = {"one": sp.S(1), "alpha": t.alpha, "sigma": t.sigma}[scale]
    before = {"one": sp.S(1), "alpha": s.alpha, "sigma": s.sigma}[scale]
    of_w, of_n, of_slope = (ratio * _at(c, exponent / step, step) for c in variation_of_constants(1))

    def nonlinear(label: str) -> tuple[Expr, Expr]:  # N at a node, in x and in the prediction
        node = scales(label)
        place = {sp.Function("alpha", positive=True)(LAMBDA): node.alpha, LAMBDA: node.lam}
        of_x, of_noise = (e.subs(place) for e in split(scale)[1:3])
        a, b = conversion(prediction, "noise", label)
        return of_x + of_noise * a, of_noise * b

    (a, b), (a_mid, b_mid) = nonlinear("s"), nonlinear("t")
    rows = [{"x0": of_w / before + of_n * a, "m0": of_n * b}]
    if corrected:
        rows.append(
            {"x0": rows[0]["x0"] - of_slope * a, "m0": rows[0]["m0"] - of_slope * b, "x1": of_slope * a_mid, "m1": of_slope * b_mid}
        )
    return rows
