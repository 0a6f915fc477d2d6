"""Section 9.7 derived: the split ODE, its exact solution, the best linear and affine parts, and the error of the multistep scheme.

The clock is lambda. ell, a, b are generic functions of it, with primitives P, A of ell and a; the normalised nonlinear term is
N = (sigma eps - ell x) / alpha, so that y = x / alpha obeys dy/dlambda = -ell y - N. The monograph's own N is alpha times this one.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Symbol

lam, start = sp.symbols("lambda lambda_s", real=True)
r, u = sp.symbols("r u", real=True)
h = Symbol("h", positive=True)
x, eps, clean, y_s = sp.symbols("x epsilon x_0 y_s", real=True)
ell, a, b = sp.symbols("ell a b", real=True)
alpha = sp.Function("alpha", positive=True)
ell_of, a_of, b_of, P, A = (sp.Function(name, real=True) for name in ("ell", "a", "b", "P", "A"))
nonlinear = sp.Function("N", real=True)
slope_mean, slope_variance = sp.symbols("m v", positive=True)

# --- the ODE and its split (Eq. 9.7.1 and 9.7.2) ------------------------------------------------------------------------------------------


@cache
def drift() -> Expr:
    """dx/dlambda = alpha' x_0 + sigma' eps at x = alpha x_0 + sigma eps with sigma = alpha e^{-lambda}, in x and eps."""
    sigma = alpha(lam) * sp.exp(-lam)
    value = sp.diff(alpha(lam), lam) * (x - sigma * eps) / alpha(lam) + sp.diff(sigma, lam) * eps
    return sp.expand(sp.simplify(value))


def split(sign: int = -1) -> Expr:
    """The right-hand side of Eq. 9.7.1, (alpha'/alpha - ell) x plus ``sign`` times (sigma eps - ell x)."""
    sigma = alpha(lam) * sp.exp(-lam)
    return (sp.diff(alpha(lam), lam) / alpha(lam) - ell) * x + sign * (sigma * eps - ell * x)


def scaled_gap() -> Expr:
    """d(x/alpha)/dlambda + ell x/alpha + N on the solutions of the ODE: zero, whatever alpha is."""
    path = sp.Function("x")
    n = (alpha(lam) * sp.exp(-lam) * eps - ell * path(lam)) / alpha(lam)
    gap = sp.diff(path(lam) / alpha(lam), lam) + ell * path(lam) / alpha(lam) + n
    return sp.simplify(gap.subs(sp.Derivative(path(lam), lam), drift().subs(x, path(lam))))


def best_linear_part() -> tuple[Expr, Expr]:
    """The minimiser over ell of E (J - ell)^2 and the minimum, where J = sigma d eps / dx has mean `slope_mean` and variance `slope_variance`."""
    second_moment = slope_variance + slope_mean**2
    objective = second_moment - 2 * ell * slope_mean + ell**2
    (best,) = sp.solve(sp.diff(objective, ell), ell)
    return best, sp.expand(objective.subs(ell, best))


def gaussian_linear_part() -> tuple[Expr, Expr]:
    """ell* for data N(mu, s_0^2), as a function of lambda, and the derivative of lambda - log(1 + s_0^2 e^{2 lambda}) / 2."""
    s0, mu = sp.symbols("s_0 mu", positive=True)
    point, scale, noise = sp.symbols("x alpha sigma", positive=True)
    prediction = noise * (point - scale * mu) / (scale**2 * s0**2 + noise**2)
    value = sp.simplify((noise * sp.diff(prediction, point)).subs(scale, noise * sp.exp(lam)))
    return value, sp.diff(lam - sp.log(1 + s0**2 * sp.exp(2 * lam)) / 2, lam)


# --- the exact solution (Eq. 9.7.4 to 9.7.6) ----------------------------------------------------------------------------------------------


def solution_gap(sign: int = -1, exponent: int = 1) -> Expr:
    """dy/dlambda + ell y + N for y = e^{-e (P - P_s)} [y_s + sign int e^{e (P(r) - P_s)} N dr], e = ``exponent``; zero for the right signs."""
    outer = sp.exp(-exponent * (P(lam) - P(start)))
    y = outer * (y_s + sign * sp.Integral(sp.exp(exponent * (P(r) - P(start))) * nonlinear(r), (r, start, lam)))
    gap = sp.diff(y, lam) + ell_of(lam) * y + nonlinear(lam)
    return sp.simplify(gap.subs(sp.Derivative(P(lam), lam), ell_of(lam)).doit().expand())


# --- the second reparametrisation (Eq. 9.7.7 to 9.7.10) -----------------------------------------------------------------------------------


def reparametrised() -> Expr:
    """N_new = e^{-(A - A_s)} N - int e^{-(A(r) - A_s)} b dr, A' = a."""
    return sp.exp(A(start) - A(lam)) * nonlinear(lam) - sp.Integral(sp.exp(A(start) - A(r)) * b_of(r), (r, start, lam))


def _with_a(expr: Expr) -> Expr:
    return expr.subs(sp.Derivative(A(lam), lam), a_of(lam))


def reparametrised_slope() -> Expr:
    """The derivative of `reparametrised` in lambda."""
    return sp.simplify(_with_a(sp.diff(reparametrised(), lam)))


def affine_residual() -> Expr:
    """e^{-(A - A_s)} [N' - (a N + b)]."""
    n = nonlinear(lam)
    return sp.exp(A(start) - A(lam)) * (sp.diff(n, lam) - a_of(lam) * n - b_of(lam))


def inverse_gap() -> Expr:
    """e^{A - A_s} [N_new + int e^{-(A(r) - A_s)} b dr] - N, zero."""
    forcing = sp.Integral(sp.exp(A(start) - A(r)) * b_of(r), (r, start, lam))
    return sp.simplify(sp.exp(A(lam) - A(start)) * (reparametrised() + forcing) - nonlinear(lam))


def coefficients_of_new() -> tuple[Expr, Expr, Expr]:
    """What multiplies eps and x in N_new, and the rest (Eq. 9.7.16, for the normalised N)."""
    sigma = alpha(lam) * sp.exp(-lam)
    value = sp.expand(reparametrised().subs(nonlinear(lam), (sigma * eps - ell_of(lam) * x) / alpha(lam)))
    return tuple(sp.simplify(e) for e in (value.coeff(eps, 1), value.coeff(x, 1), value.coeff(eps, 0).coeff(x, 0)))


def statistics_of(of_noise: Expr, of_state: Expr, rest: Expr) -> tuple[Expr, Expr, Expr]:
    """The (ell, a, b) whose N_new, times a constant and plus a constant, is of_noise eps + of_state x + rest (Eq. 9.7.17), all functions of `lam`.

    Solved from `coefficients_of_new` in this order: the ratio of the first two gives ell, the first a, the last b.
    """
    sigma = alpha(lam) * sp.exp(-lam)
    value_ell = -sigma * of_state / of_noise
    value_a = -1 - sp.diff(of_noise, lam) / of_noise
    growth = sp.exp(-lam) / of_noise  # e^A up to a constant factor
    return value_ell, sp.simplify(value_a), sp.simplify(-growth * sp.diff(rest, lam))


def target_gap(of_noise: Expr, of_state: Expr, rest: Expr) -> tuple[Expr, Expr]:
    """With the (ell, a, b) of `statistics_of`: a minus the logarithmic slope of e^A, and the slope of N_new minus the target, eps and x held; both zero."""
    value_ell, value_a, value_b = statistics_of(of_noise, of_state, rest)
    growth = sp.exp(-lam) / of_noise
    n = sp.exp(-lam) * eps - value_ell * x / alpha(lam)
    target = of_noise * eps + of_state * x + rest
    return sp.simplify(sp.diff(sp.log(growth), lam) - value_a), sp.simplify(
        sp.diff(n / growth, lam) - value_b / growth - sp.diff(target, lam)
    )


# --- constants: the earlier solvers (section 9.7.6) ---------------------------------------------------------------------------------------

CONSTANTS = {"noise": (sp.S(0), sp.S(-1), sp.S(0)), "clean": (sp.S(1), sp.S(0), sp.S(0))}
"""(ell, a, b) with which N_new is a constant times the noise or the clean prediction."""


def new_at_constants(kind: str, normalised: bool = True) -> Expr:
    """N_new at the constants of ``kind``, in the prediction of that kind; ``normalised=False``: with the monograph's N, alpha times ours."""
    value_ell, value_a, _ = CONSTANTS[kind]
    sigma = alpha(lam) * sp.exp(-lam)
    n = sigma * eps - value_ell * x
    if kind == "clean":
        n = n.subs(eps, (x - alpha(lam) * clean) / sigma)
    n = n / alpha(lam) if normalised else n
    return sp.simplify(sp.exp(-value_a * (lam - start)) * n)


def constants_without_normalisation(kind: str) -> tuple[Expr, Expr]:
    """The (ell, a) that make the monograph's N_new a constant times the prediction: a solves d log|N|/dlambda = a with the prediction held."""
    value_ell = CONSTANTS[kind][0]
    held = alpha(lam) * sp.exp(-lam) * eps if kind == "noise" else -alpha(lam) * clean
    return value_ell, sp.simplify(sp.diff(held, lam) / held)


def first_order_row(value_ell: Expr, value_a: Expr) -> dict[str, Expr]:
    """Coefficients of x and eps in one first-order step of length ``h`` with constants, b = 0; at the start alpha_s, sigma_s, at the end alpha_t."""
    alpha_s, sigma_s, alpha_t = sp.symbols("alpha_s sigma_s alpha_t", positive=True)
    weight = sp.integrate(sp.exp((value_ell + value_a) * u), (u, 0, h))
    row = alpha_t * sp.exp(-value_ell * h) * (x / alpha_s - weight * (sigma_s * eps - value_ell * x) / alpha_s)
    row = sp.expand(row)
    return {"x": sp.simplify(row.coeff(x, 1)), "eps": sp.simplify(row.coeff(eps, 1))}


# --- derivatives from past values (Eq. 9.7.14, Prop. 9.7.1) -------------------------------------------------------------------------------


def vandermonde(offsets: list[Expr]) -> sp.Matrix:
    """R_n: row k holds the powers 1..n of the k-th offset lambda_{i_k} - lambda_s."""
    return sp.Matrix(len(offsets), len(offsets), lambda k, m: offsets[k] ** (m + 1))


def error_identity(new: Expr, density: Expr, offsets: list[Expr], step: Expr) -> dict[str, Expr]:
    """Both sides of Prop. 9.7.1 for a function N_new and a density E of u = lambda - lambda_s.

    ``"error"``: int E (sum_k N~^(k) u^k / k! - N_new) over the step, derivatives from `vandermonde`. ``"formula"``: the two terms of the proposition.
    ``"printed"``: with the monograph's sign of the first and its further 1/k! in the second.
    """
    n = len(offsets)
    slope = sp.diff(new, u)
    inverse = vandermonde(offsets).inv()
    differences = sp.Matrix([new.subs(u, d) - new.subs(u, 0) for d in offsets])
    taylor = inverse * differences  # entry k - 1 is N~^(k) / k!
    scheme = new.subs(u, 0) + sum((taylor[k] * u ** (k + 1) for k in range(n)), sp.S(0))
    moments = [sp.integrate(density * u ** (k + 1), (u, 0, step)) for k in range(n)]
    drift = sp.integrate(sp.integrate(slope.subs(u, r), (r, 0, u)) * density, (u, 0, step))
    runs = sp.Matrix([sp.integrate(slope, (u, 0, d)) for d in offsets])
    terms = [(inverse * runs)[k] * moments[k] for k in range(n)]
    return {
        "error": sp.simplify(sp.integrate(sp.expand(density * (scheme - new)), (u, 0, step))),
        "formula": sp.simplify(sum(terms, sp.S(0)) - drift),
        "printed": sp.simplify(sum((term / sp.factorial(k + 1) for k, term in enumerate(terms)), sp.S(0)) + drift),
    }
