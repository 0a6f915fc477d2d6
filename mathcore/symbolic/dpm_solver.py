"""Section 9.4 derived in sympy: the exact solution in half-log-SNR, DPM-Solver as an exponential Runge-Kutta method, its leading error, and both Heuns.

On the scaled state z = x / sigma the probability-flow ODE in lambda has constant coefficients, dz/d lambda = z - eps (section 9.4.1). The derivations
below start from it; a coefficient of eps in z times sigma_t is the coefficient in x_t.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Symbol

from mathcore.symbolic.solvers import h, lagrange_basis, lam, phi

gamma = Symbol("gamma", positive=True)
r1, r2 = sp.symbols("r_1 r_2", positive=True)
u = Symbol("u", positive=True)
"""Half-log-SNR since the start of the step."""


def exact_solution_gap() -> Expr:
    """What is left of the ODE in lambda (Eq. 9.4.5) when x is the right-hand side of Eq. 9.4.4; zero, for generic alpha and eps."""
    start, v = sp.symbols("lambda_s v", real=True)
    alpha, eps = (sp.Function(n)(lam) for n in ("alpha", "epsilon"))
    integral = sp.Integral(sp.exp(-v) * eps.subs(lam, v), (v, start, lam))
    x = alpha / alpha.subs(lam, start) * Symbol("x_s") - alpha * integral
    sigma = alpha * sp.exp(-lam)
    return sp.simplify((sp.diff(x, lam) - (sp.diff(alpha, lam) / alpha * x - sigma * eps)).doit())


# --- DPM-Solver as an exponential Runge-Kutta method ---------------------------------------------------------------------------------------

Tableau = tuple[list[Expr], list[list[Expr]], list[Expr]]


@cache
def tableau(order: int, kind: str) -> Tableau:
    """(c, a, b) of DPM-Solver-``order`` with N = -eps: stages z_i = e^{c_i h} z + h sum_j a_ij N_j, end e^h z + h sum_j b_j N_j.

    A polynomial through known values of N is integrated exactly against the propagator e^{h - u}. Kind ``taylor`` takes all of them (Eq. 9.4.11 at
    order 2); ``midpoint`` holds N still at the value that the line has at h / 2 (order 2, Algorithm 5 for `gamma` = 1/2), or takes the line through the
    first and the last value only (order 3). Nodes: `gamma` at order 2, `r1` and `r2` at order 3.
    """
    places = {1: [], 2: [gamma], 3: [r1, r2]}[order]
    c = [sp.S(0), *places]
    a = [_integrated(c[:i], c[i]) for i in range(1, order)]
    if kind == "taylor" or order == 1:
        return c, [[], *a], _integrated(c, sp.S(1))
    if order == 2:
        frozen = _integrated(c[:1], sp.S(1))[0]
        return c, [[], *a], [frozen * (1 - 1 / (2 * gamma)), frozen / (2 * gamma)]
    outer = _integrated([c[0], c[2]], sp.S(1))
    return c, [[], *a], [outer[0], sp.S(0), outer[1]]


def _integrated(nodes: list[Expr], end: Expr) -> list[Expr]:
    """1/h times the integrals of the Lagrange polynomials on ``nodes`` h against e^{end h - u} over u from 0 to end h.

    A power (u / h)^k, whose integral is a phi-function by definition, contributes k! end^{k+1} phi_{k+1}(end h).
    """
    w = Symbol("w")  # u / h
    weights = []
    for p in lagrange_basis(nodes, w):
        powers = sp.Poly(p, w).all_coeffs()[::-1]
        weights.append(sum(q * sp.factorial(k) * end ** (k + 1) * phi(k + 1).subs(h, end * h) for k, q in enumerate(powers)))
    return weights


def order_conditions(c: list[Expr], a: list[list[Expr]], b: list[Expr]) -> dict[str, Expr]:
    """Residuals of the order conditions of exponential Runge-Kutta methods (Hochbruck & Ostermann 2010, section 2.3) as functions of `h`.

    The error of a step is h N times the first, h^2 N' times the second, h^3 N'' times the third and h^3 N_z N' times the fourth. So order 2
    needs the second to vanish at h = 0, order 3 the second to O(h^2) and the other two at h = 0; where they vanish identically, the method keeps its
    order however large the linear part is.
    """

    def against(weights: list[Expr], values: list[Expr]) -> Expr:
        return sum((w * v for w, v in zip(weights, values, strict=False)), sp.S(0))

    stages = [ci**2 * phi(2).subs(h, ci * h) - against(row, c) if ci else sp.S(0) for ci, row in zip(c, a, strict=True)]
    residuals = {
        "N": sum(b) - phi(1),
        "N'": against(b, c) - phi(2),
        "N''": against(b, [ci**2 / 2 for ci in c]) - phi(3),
        "N_z N'": against(b, stages),
    }
    return {name: sp.factor(value) for name, value in residuals.items()}


@cache
def local_error(kind: str) -> tuple[Expr, dict[str, Expr]]:
    """Leading error of one step of DPM-Solver-2: the h^3 coefficient of (scheme - exact) in z, for a generic smooth eps(z, lambda).

    Also returns what it is to be compared with: the total derivatives ``first`` and ``second`` of eps along the exact solution and its partial
    derivative ``slope`` in z, at the start of the step. Both solutions are expanded from the second-order Taylor polynomial of eps.
    """
    z, z0, e, ez, eu, ezz, ezu, euu = sp.symbols("z z_0 e e_z e_u e_zz e_zu e_uu")
    dz = z - z0
    eps = e + ez * dz + eu * u + (ezz * dz**2 + 2 * ezu * dz * u + euu * u**2) / 2
    exact = z0
    for _ in range(3):  # Picard: each round makes one more power of u exact
        exact = z0 + sp.integrate(_truncated(exact - eps.subs(z, exact), u, 2), u)
    _, a, b = tableau(2, kind)
    first_weight, *weights = (_truncated(sp.series(w, h, 0, 3).removeO(), h, 2) for w in (a[1][0], *b))
    grown, middle_grown = (sum((r * h) ** k / sp.factorial(k) for k in range(4)) for r in (sp.S(1), gamma))
    middle = _truncated(middle_grown * z0 - h * first_weight * e, h, 3)
    scheme = grown * z0 - h * (weights[0] * e + weights[1] * _truncated(eps.subs({z: middle, u: gamma * h}), h, 2))
    gap = sp.expand(scheme - exact.subs(u, h))
    if any(sp.simplify(gap.coeff(h, k)) for k in range(3)):
        raise AssertionError(f"the scheme {kind} is not of second order")
    v = z0 - e  # dz/du at the start
    first = eu + ez * v
    second = euu + 2 * ezu * v + ezz * v**2 + ez * (v - first)
    return gap.coeff(h, 3), {"first": first, "second": second, "slope": ez}


def _truncated(expr: Expr, variable: Symbol, degree: int) -> Expr:
    """The powers of ``variable`` up to ``degree``."""
    expanded = sp.expand(expr)
    return sum((expanded.coeff(variable, k) * variable**k for k in range(degree + 1)), sp.S(0))


# --- Heun, plain and exponential (section 9.4.5) ---------------------------------------------------------------------------------------------


@cache
def heun_gap(truncated: bool = False) -> tuple[Expr, dict[str, Symbol]]:
    """Exponential Heun (Eq. 9.4.14) minus plain Heun (Eq. 9.4.13) for one step of dx/d lambda = L x + N, as a polynomial in `h` up to h^3.

    L = L_0 + L_1 u + L_2 u^2 / 2 and N(x, u) = N + N_x (x - x_0) + N_u u + ... with all second derivatives. ``truncated`` keeps 1 + E of e^E, and the values
    at E = 0 of c_1 and c_2. Also returns the symbols ``x``, ``L``, ``dL`` and ``N``, the values at the start.
    """
    x0, n, nx, nu, nxx, nxu, nuu = sp.symbols("x_0 N N_x N_u N_xx N_xu N_uu")
    l0, l1, l2 = sp.symbols("L_0 L_1 L_2")
    linear = l0 + l1 * u + l2 * u**2 / 2

    def nonlinear(x: Expr) -> Expr:
        return n + nx * (x - x0) + nu * h + (nxx * (x - x0) ** 2 + 2 * nxu * (x - x0) * h + nuu * h**2) / 2

    exponent = sp.integrate(linear, (u, 0, h))
    if truncated:
        grown, first, second = 1 + exponent, sp.S(1), sp.Rational(1, 2)
    else:  # the series of e^E, c_1 and c_2: E is O(h), so that three powers are enough for h^3
        grown, first, second = (sum(exponent**k / sp.factorial(k + m) for k in range(4)) for m in range(3))
    predicted = grown * x0 + h * first * n
    exponential = predicted + h * second * (nonlinear(predicted) - n)
    middle = x0 + h * (l0 * x0 + n)
    plain = x0 + h / 2 * (l0 * x0 + n + linear.subs(u, h) * middle + nonlinear(middle))
    return _truncated(exponential - plain, h, 3), {"x": x0, "L": l0, "dL": l1, "N": n}
