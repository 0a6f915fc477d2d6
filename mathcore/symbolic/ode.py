"""Ordinary differential equations in sympy (appendix A): Picard's iterates, variation of constants, and the one-step methods expanded in the step.

Fields are functions of two expressions, ``field(x, t)``. The methods are kept as exact tableaux; the torch integrators are tested against them.
"""

from collections.abc import Callable

import sympy as sp
from sympy import Expr, Rational, Symbol

x, t, s, h, z = sp.symbols("x t s h z", positive=True)
tau = sp.Symbol("tau", positive=True)
Lam = sp.Function("Lambda")
"""An antiderivative of the linear coefficient: L = Lambda'."""

Field = Callable[[Expr, Expr], Expr]

TABLEAUX: dict[str, tuple[tuple[Rational, ...], tuple[tuple[Rational, ...], ...], tuple[Rational, ...]]] = {
    "euler": ((Rational(0),), ((),), (Rational(1),)),
    "heun": ((Rational(0), Rational(1)), ((), (Rational(1),)), (Rational(1, 2), Rational(1, 2))),
    "midpoint": ((Rational(0), Rational(1, 2)), ((), (Rational(1, 2),)), (Rational(0), Rational(1))),
    "rk4": (
        (Rational(0), Rational(1, 2), Rational(1, 2), Rational(1)),
        ((), (Rational(1, 2),), (Rational(0), Rational(1, 2)), (Rational(0), Rational(0), Rational(1))),
        (Rational(1, 6), Rational(1, 3), Rational(1, 3), Rational(1, 6)),
    ),
}
"""Explicit Runge-Kutta methods: times c, stage weights a, final weights b."""


def residual(solution: Expr, field: Field) -> Expr:
    """Return dx/dt - field(x, t) for a candidate ``solution`` in ``t``: zero when it solves Eq. A.1.1."""
    return sp.simplify(sp.sympify(solution).diff(t) - field(sp.sympify(solution), t))


def picard(field: Field, start: Expr | int, n: int) -> Expr:
    """Return iterate ``n`` of x <- start + int_0^t field(x(s), s) ds from the constant curve, expanded (Theorem A.1.1)."""
    curve = sp.sympify(start)
    for _ in range(n):
        curve = start + sp.integrate(sp.expand(field(curve.subs(t, s), s)), (s, 0, t))
    return sp.expand(curve)


def factor(start: Expr, end: Expr) -> Expr:
    """Return E(start -> end) = exp int L = exp(Lambda(end) - Lambda(start)) (Eq. A.1.2)."""
    return sp.exp(Lam(end) - Lam(start))


def integrating_factor_gap(curve: Expr) -> Expr:
    """Return d/dt [E^{-1}(s -> t) x] - E^{-1}(s -> t) (dx/dt - L x) for a curve in ``t``: zero, the product rule of section A.1.3."""
    inverse = 1 / factor(s, t)
    return sp.simplify((inverse * curve).diff(t) - inverse * (curve.diff(t) - Lam(t).diff(t) * curve))


def variation_of_constants(antiderivative: Callable[[Expr], Expr], source: Callable[[Expr], Expr], start: Expr) -> Expr:
    """Return E(0 -> t) start + int_0^t E(tau -> t) source(tau) dtau, the solution of dx/dt = L x + source (Eq. A.1.4), in ``t``."""

    def grown(a: Expr, b: Expr) -> Expr:
        return sp.exp(antiderivative(b) - antiderivative(a))

    return sp.simplify(grown(sp.Integer(0), t) * start + sp.integrate(sp.expand(grown(tau, t) * source(tau)), (tau, 0, t)))


def amplification(method: str) -> Expr:
    """Return the factor by which one step multiplies the solution of dx/dt = lambda x, a polynomial in ``z`` = lambda h."""
    _, a, b = TABLEAUX[method]
    stages: list[Expr] = []
    for row in a:
        stages.append(1 + z * sum((w * k for w, k in zip(row, stages)), sp.Integer(0)))
    return sp.expand(1 + z * sum((w * k for w, k in zip(b, stages)), sp.Integer(0)))


def adams_bashforth(order: int) -> list[Rational]:
    """Return the weights of the last ``order`` slopes, newest first: integrals over the next unit step of the Lagrange polynomials."""
    nodes = [-j for j in range(order)]
    weights = []
    for j in nodes:
        basis = sp.prod([(t - k) / (j - k) for k in nodes if k != j])
        weights.append(sp.integrate(sp.expand(basis), (t, 0, 1)))
    return weights


def derivative(i: int, j: int) -> Symbol:
    """The partial derivative of the field, i times by x and j times by t, at the start of the step."""
    return sp.Symbol("v_" + "x" * i + "t" * j if i + j else "v")


def local_error(method: str) -> Expr:
    """Return the first power of ``h`` at which one step of ``method`` from x = t = 0 differs from the solution, for a general scalar field.

    The field is its Taylor polynomial, sum v_{x^i t^j} x^i t^j / (i! j!); the solution comes from Picard's iteration on power series in h.

    Raises:
        ValueError: they agree up to h^7.
    """
    for degree in range(1, 7):
        gap = _step_gap(method, degree)
        if gap != 0:
            return sp.factor(gap)
    raise ValueError(f"{method} agrees with the solution up to h^7")


def _step_gap(method: str, degree: int) -> Expr:
    """Step minus solution up to h^{degree + 1}, with the field's Taylor polynomial of that degree."""
    c, a, b = TABLEAUX[method]
    solution = sp.Integer(0)
    for _ in range(degree + 1):
        solution = _cut(sp.integrate(_taylor(solution, h, degree), h), degree + 1)
    slopes: list[Expr] = []
    for node, row in zip(c, a):
        point = _cut(h * sum((w * k for w, k in zip(row, slopes)), sp.Integer(0)), degree)
        slopes.append(_taylor(point, node * h, degree))
    step = _cut(h * sum((w * k for w, k in zip(b, slopes)), sp.Integer(0)), degree + 1)
    return sp.expand(step - solution)


def _taylor(point: Expr, time: Expr, degree: int) -> Expr:
    powers = [sp.Integer(1)]
    for _ in range(degree):
        powers.append(_cut(powers[-1] * point, degree))
    pairs = ((i, j) for i in range(degree + 1) for j in range(degree + 1 - i))
    terms = (derivative(i, j) * powers[i] * time**j / (sp.factorial(i) * sp.factorial(j)) for i, j in pairs)
    return _cut(sum(terms, sp.Integer(0)), degree)


def _cut(expression: Expr, degree: int) -> Expr:
    """Drop the powers of h above ``degree``."""
    polynomial = sp.Poly(sp.expand(expression), h)
    return sum((coefficient * h**k for (k,), coefficient in polynomial.terms() if k <= degree), sp.Integer(0))
