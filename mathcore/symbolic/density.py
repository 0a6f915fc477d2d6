"""Appendix B and section 4.1.5 derived in sympy: how maps, velocities and noise move a density.

``plane()`` gives a density, a drift and a diffusion coefficient about which nothing is known; ``rate`` is the right-hand side of the Fokker-Planck
equation. What the two say together holds for every smooth choice.
"""

from collections.abc import Sequence
from functools import cache

import sympy as sp
from sympy import Expr, Matrix, Symbol

from mathcore.symbolic.variational import log_normal

t = Symbol("t", positive=True)
x, y, j = sp.symbols("x y j", real=True)
h, width = sp.symbols("h width", positive=True)
XY = (x, y)

mean, var = sp.Function("m", real=True)(t), sp.Function("P", positive=True)(t)
drift_rate, offset, diffusion = (sp.Function(name, real=True)(t) for name in ("f", "b", "g"))


# --- vector calculus ------------------------------------------------------------------------------------------------------------------------


def gradient(u: Expr, coords: Sequence[Symbol] = XY) -> Matrix:
    """Gradient of a function as a column."""
    return Matrix([sp.diff(u, c) for c in coords])


def divergence(field: Matrix, coords: Sequence[Symbol] = XY) -> Expr:
    """Divergence of a column of functions."""
    return sum((sp.diff(u, c) for u, c in zip(field, coords)), sp.Integer(0))


def rate(p: Expr, field: Matrix, squared: Expr, coords: Sequence[Symbol] = XY) -> Expr:
    """-div(field p) + squared/2 Laplacian p: what the Fokker-Planck equation makes of dp/dt, with squared = g^2 (Eq. 4.1.8)."""
    return -divergence(field * p, coords) + squared / 2 * divergence(gradient(p, coords), coords)


@cache
def plane() -> tuple[Expr, Matrix, Expr]:
    """A density p(x, y, t) > 0, a drift with two components and g(t): generic functions."""
    p = sp.Function("p", positive=True)(x, y, t)
    field = Matrix([sp.Function(name, real=True)(x, y, t) for name in ("f_1", "f_2")])
    return p, field, diffusion


# --- maps (section B.1.1) -------------------------------------------------------------------------------------------------------------------


def pushforward(density: Expr, variable: Symbol, branches: Sequence[Expr], target: Symbol) -> Expr:
    """Density of y = Psi(x) on the line: the sum over the branches x(y) of the inverse of p(x(y)) |x'(y)|; one branch for a bijection (Eq. B.1.1)."""
    parts = [density.subs(variable, b) * sp.Abs(sp.diff(b, target)) for b in branches]
    return sp.simplify(sum(parts, sp.Integer(0)))


@cache
def determinant_coefficients(n: int) -> tuple[Matrix, list[Expr]]:
    """A generic n x n matrix A and the coefficients of 1, h, ..., h^n in det(I + h A) (section B.1.2)."""
    entries = Matrix(n, n, lambda i, k: Symbol(f"a_{i + 1}{k + 1}", real=True))
    poly = sp.Poly(sp.expand((sp.eye(n) + h * entries).det(method="berkowitz")), h)
    return entries, [poly.coeff_monomial(h**k) for k in range(n + 1)]


# --- the continuity equation (section B.1.2) ------------------------------------------------------------------------------------------------


@cache
def log_density_along_a_step() -> Expr:
    """Coefficient of h in log p_{t+h}(x + h f) - log p_t(x), by Taylor's formula in the plane (steps 3 and 4 to Eq. B.1.4)."""
    u = sp.Function("u", real=True)
    _, field, _ = plane()
    a, b, c = sp.symbols("a b c", real=True)
    moved = u(a, b, c).subs({a: x + h * field[0], b: y + h * field[1], c: t + h}, simultaneous=True)
    return sp.expand(sp.diff(moved, h).subs(h, 0).doit())


@cache
def generic_log_density() -> Expr:
    """The function u(x, y, t) = log p of :func:`log_density_along_a_step`."""
    return sp.Function("u", real=True)(x, y, t)


def zero_flux(symmetric: bool = False, d: int = 2) -> Expr:
    """div(A grad p) for a generic density in d dimensions and a generic antisymmetric A (or symmetric, which leaves the off-diagonal terms twice)."""
    coords = sp.symbols(f"x_1:{d + 1}", real=True)
    p = sp.Function("p", positive=True)(*coords)

    upper = Matrix(d, d, lambda i, k: Symbol(f"a_{i + 1}{k + 1}", real=True) if i < k else 0)
    matrix = upper + upper.T if symmetric else upper - upper.T
    return sp.simplify(divergence(matrix * gradient(p, coords), coords))


@cache
def mixture_residuals() -> tuple[Expr, Expr]:
    """Residual of the continuity equation for p = w p_1 + (1 - w) p_2 with the posterior mean of v_1, v_2, and the same mean of their residuals.

    The second in the list vanishes where each pair (p_k, v_k) solves its own equation (conditioning, section B.1.2).
    """
    w = Symbol("w", positive=True)
    weights, parts = (w, 1 - w), [sp.Function(f"p_{k}", positive=True)(x, y, t) for k in (1, 2)]
    fields = [Matrix([sp.Function(f"v_{k}{i}", real=True)(x, y, t) for i in (1, 2)]) for k in (1, 2)]
    total = sum(a * p for a, p in zip(weights, parts))
    field = sum((a * p * v for a, p, v in zip(weights, parts, fields)), sp.zeros(2, 1)) / total
    whole = sp.diff(total, t) - rate(total, field, sp.Integer(0))
    own = sum(a * (sp.diff(p, t) - rate(p, v, sp.Integer(0))) for a, p, v in zip(weights, parts, fields))
    return whole, own


# --- Gaussian laws (Theorem 4.1.1, sections B.1.2 and B.1.3) --------------------------------------------------------------------------------


def gaussian_residual(field: Expr, squared: Expr, backward: bool = False) -> Expr:
    """(dp/dt - rate) / p for p = N(m(t), P(t)), where m' = f m + b and P' = 2 f P + g^2 are put in (Eq. 4.1.4: dx = (f x + b) dt + g dw).

    ``backward``: in the clock s = T - t, where dp/ds = -dp/dt, for a ``field`` per unit of s. ``field`` is a function of x and t.
    """
    log_p = log_normal(x, mean, var)
    p = sp.exp(log_p)
    moments = {sp.diff(mean, t): drift_rate * mean + offset, sp.diff(var, t): 2 * drift_rate * var + diffusion**2}
    change = sp.diff(log_p, t).subs(moments)
    moved = rate(p, Matrix([field]), squared, (x,)) / p
    return sp.simplify((-change if backward else change) - moved)


def gaussian_score() -> Expr:
    """The score of N(m(t), P(t))."""
    return sp.simplify(sp.diff(log_normal(x, mean, var), x))


@cache
def correlation_rate() -> Expr:
    """d/dt log Corr(x_0, x_t) for a linear SDE with noise sigma(t) whose variance is P(t), whatever its drift (section 4.1.5).

    P' = 2 a P + sigma^2 fixes the coefficient a of the drift, and Cov(x_0, x_t)' = a Cov(x_0, x_t).
    """
    noise = sp.Function("sigma", nonnegative=True)(t)
    a = (sp.diff(var, t) - noise**2) / (2 * var)
    return sp.simplify(a - sp.diff(sp.log(var), t) / 2)


# --- boxes and faces (section B.2.1, finite volumes) ----------------------------------------------------------------------------------------


def face_difference(centred: bool, terms: int = 4) -> Expr:
    """[j(left face) - j(right face)] / width + j'(x) as a series in the width; faces at x -+ width/2, or at x and x + width."""
    flux = sp.Function("j", real=True)
    left, right = (x - width / 2, x + width / 2) if centred else (x, x + width)
    series = [sum(sp.diff(flux(x), x, k) * (place - x) ** k / sp.factorial(k) for k in range(terms + 1)) for place in (left, right)]
    return sp.expand((series[0] - series[1]) / width + sp.diff(flux(x), x))


def bernoulli(z: Expr) -> Expr:
    """B(z) = z / (e^z - 1)."""
    return z / (sp.exp(z) - 1)


@cache
def scharfetter_gummel_error() -> Expr:
    """Leading term in the width of the Scharfetter-Gummel flux minus f p - g^2/2 p' at the face (finite volumes; f, g constant near it)."""
    f, g = sp.symbols("f g", positive=True)
    p = sp.Function("p", positive=True)
    taylor = [sum(sp.diff(p(x), x, k) * step**k / sp.factorial(k) for k in range(5)) for step in (-width / 2, width / 2)]
    z = 2 * f * width / g**2
    powers = [sp.bernoulli(k) * (-1) ** (k == 1) / sp.factorial(k) for k in range(5)]  # sympy takes B_1 = +1/2
    minus, plus = (sum(c * (s * z) ** k for k, c in enumerate(powers)) for s in (-1, 1))
    flux = sp.expand(g**2 / (2 * width) * (minus * taylor[0] - plus * taylor[1]))
    error = sp.expand(flux - (f * p(x) - g**2 / 2 * sp.diff(p(x), x)))
    return sp.expand(error.coeff(width, 2)) * width**2 + sum(error.coeff(width, k) * width**k for k in (-1, 0, 1))
