"""AB-DEIS derived in sympy: polynomials through old outputs, closed forms of the weights, local and global errors (section 9.3).

Nodes are labelled backwards from the end of the step: ``"0"`` is t_i, ``"1"`` the newest anchor t_{i-1}, ``"2"`` the one before it.
"""

from collections.abc import Sequence
from functools import cache

import sympy as sp
from sympy import Expr, Symbol

from mathcore.symbolic.solvers import h, interpolation_weights, lagrange_basis, lam, scales, schedules, time

u = Symbol("u", real=True)


def anchors(n: int) -> list[Symbol]:
    """Symbols u_0, ..., u_n for the places of n + 1 anchors."""
    return list(sp.symbols(f"u_0:{n + 1}", real=True))


def interpolant(values: Sequence[Expr], nodes: Sequence[Expr], variable: Symbol = u) -> Expr:
    """The polynomial through the values at the nodes, sum_j l_j Y_j."""
    return sum((y * p for y, p in zip(values, lagrange_basis(nodes, variable), strict=True)), sp.Integer(0))


def remainder(n: int) -> Expr:
    """u^{n+1} minus its interpolant on n + 1 anchors: the product of all (u - u_j), as it vanishes at the anchors and has leading coefficient 1."""
    nodes = anchors(n)
    return sp.factor(sp.expand(u ** (n + 1) - sp.cancel(interpolant([v ** (n + 1) for v in nodes], nodes))))


@cache
def weights(order: int, variable: str, name: str = "linear") -> tuple[Expr, ...]:
    """The weights C_j of AB-DEIS in closed form, newest anchor first: alpha_t times the integral of l_j d rho over the last step.

    Args:
        order: number of anchors. variable: of the polynomial, ``"rho"``, ``"log_rho"`` or ``"t"``.
        name: schedule of `schedules`, which matters for ``"t"`` only and must be one whose t is a rational function of rho: ``linear`` or ``edm``.
    """
    rho = Symbol("rho", positive=True)
    marks = [scales(str(k)) for k in range(order + 1)]
    if variable == "t":
        alpha, sigma = schedules()[name]
        (clock,) = sp.solve(sp.Eq(sigma / alpha, rho), time)
    else:
        clock = {"rho": rho, "log_rho": sp.log(rho)}[variable]
    places = [node.t if variable == "t" else clock.subs(rho, node.rho) for node in marks]
    moments = []  # of the powers of the clock
    for k in range(order):
        primitive = sp.integrate(clock**k, rho)
        moments.append(primitive.subs(rho, marks[0].rho) - primitive.subs(rho, marks[1].rho))
    out = []
    for j, place in enumerate(places[1:]):
        others = [p for k, p in enumerate(places[1:]) if k != j]
        numerator = sp.Poly(sp.prod([u - p for p in others], start=sp.Integer(1)), u)
        integral = sum(c * moments[k] for (k,), c in numerator.terms())
        out.append(marks[0].alpha * integral / sp.prod([place - p for p in others], start=sp.Integer(1)))
    return tuple(out)


@cache
def local_error(n: int) -> Expr:
    """Leading term of one step of AB-DEIS-n with exact history: int_0^h w (f - P) du for anchors 0, -h, ..., -n h.

    Both the weight w = w_0 + w_1 u + ... and f are Taylor polynomials with free coefficients, f_k being the k-th derivative at the newest anchor; no
    assumption is made on either. The result is gamma f_{n+1} w_0 h^{n+2}.
    """
    w, f = sp.symbols(f"w_0:{n + 3}"), sp.symbols(f"f_0:{n + 3}")
    weight = sum(c * u**k for k, c in enumerate(w))
    function = sum(c * u**k / sp.factorial(k) for k, c in enumerate(f))
    nodes = [-j * h for j in range(n + 1)]
    polynomial = interpolant([function.subs(u, v) for v in nodes], nodes)
    error = sp.Poly(sp.expand(sp.integrate(sp.expand(weight * (function - polynomial)), (u, 0, h))), h)
    (power,) = error.monoms()[-1]
    return error.coeff_monomial(h**power) * h**power


def adams_constant(n: int) -> Expr:
    """gamma of `local_error`: 1/2, 5/12, 3/8, 251/720 for n = 0, 1, 2, 3 (Adams and Bashforth)."""
    return local_error(n) / (Symbol(f"f_{n + 1}") * Symbol("w_0") * h ** (n + 2))


def amplification(n: int) -> Expr:
    """sum |C_j| / |sum C_j| of AB-DEIS-n for equal steps so short that the weight is constant over them."""
    c = interpolation_weights([sp.Integer(-j) for j in range(n + 1)], u, sp.Integer(1), sp.Integer(0), sp.Integer(1))
    return sum(abs(v) for v in c) / abs(sum(c))


# --- Gaussian data: the global error in closed form --------------------------------------------------------------------------------------

data_std = Symbol("s_0", positive=True)


def gaussian_noise() -> Expr:
    """q(lambda) = rho / sqrt(s_0^2 + rho^2), rho = e^{-lambda}: for N(mu, s_0^2) the exact noise along the flow is c q with one c per path.

    In y = x / alpha the noise prediction is rho (y - mu) / (s_0^2 + rho^2), and dy / d rho = eps makes y - mu = c sqrt(s_0^2 + rho^2).
    """
    rho, mu = sp.symbols("rho mu", positive=True)
    y = sp.Function("y")
    exact = sp.dsolve(sp.Eq(y(rho).diff(rho), rho * (y(rho) - mu) / (data_std**2 + rho**2)), y(rho)).rhs
    (constant,) = exact.free_symbols - {rho, mu, data_std}
    return sp.simplify((exact.diff(rho) / constant).subs(rho, sp.exp(-lam)))


def boundary_term(m: int) -> Expr:
    """B with dB / d lambda = q q^{(m)} for odd m, any function q: (-1)^{(m-1)/2} (q^{((m-1)/2)})^2 / 2 and the terms of partial integration before it.

    Raises:
        ValueError: m even, where q q^{(m)} is no derivative: up to one it is plus or minus the square of q^{(m/2)}.
    """
    if m < 1 or m % 2 == 0:
        raise ValueError(f"m must be odd and positive, got {m}")
    q = sp.Function("q")(lam)
    half = (m - 1) // 2
    before = sum(((-1) ** k * q.diff(lam, k) * q.diff(lam, m - 1 - k) for k in range(half)), sp.Integer(0))
    return before + (-1) ** half * q.diff(lam, half) ** 2 / 2
