"""Ito calculus in sympy: differentials of functions of a diffusion, moments and kernels of linear equations, Girsanov's step (appendix C).

The rule is derived and not typed in: a function is expanded to second order in dt and dw, and the products of differentials are rewritten by the
table dt dt = 0, dt dw = 0, dw_i dw_j = delta_ij dt. Expressions may be given as sympy objects or as text, ``"log(x)"``, in the symbols below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import sympy as sp
from sympy import Expr, Matrix, Symbol

from mathcore.symbolic.variational import log_normal

x = Symbol("x", real=True)
t = Symbol("t", nonnegative=True)
x_0 = Symbol("x_0", real=True)
dt = Symbol("dt", positive=True)
dw = Symbol("dw", real=True)

Formula: TypeAlias = Expr | str | int | float

# --- the formula (sections C.1.2 and C.1.3) -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Differential:
    """dh = ``drift`` dt + sum_j ``noise[j]`` dw_j."""

    drift: Expr
    noise: tuple[Expr, ...]

    def _repr_latex_(self) -> str:
        names = ["dw"] if len(self.noise) == 1 else [f"dw_{j + 1}" for j in range(len(self.noise))]
        terms = [(self.drift, "dt"), *zip(self.noise, names)]
        shown = [rf"\left({sp.latex(value)}\right)\,{name}" for value, name in terms if value != 0]
        return rf"$\displaystyle dh={' + '.join(shown) or '0'}$"


def ito_table(product: Expr, noises: Sequence[Symbol] = (dw,)) -> Expr:
    """Rewrite a polynomial in dt and the dw_j by Ito's table: what is left is linear in dt and the dw_j.

    Raises:
        ValueError: not a polynomial in the differentials.
    """
    poly = _polynomial(product, dt, *noises)
    out: Expr = sp.Integer(0)
    for (of_dt, *of_noise), coefficient in poly.terms():
        if (of_dt, sum(of_noise)) in {(0, 0), (1, 0), (0, 1)}:
            out += coefficient * sp.prod(symbol**power for symbol, power in zip((dt, *noises), (of_dt, *of_noise)))
        elif of_dt == 0 and sum(of_noise) == 2 and max(of_noise) == 2:
            out += coefficient * dt
        # dt dt, dt dw, dw_i dw_j with i != j, and every product of three or more vanish
    return out


def ito_differential(
    h: Formula,
    drift: Formula | Sequence[Formula],
    diffusion: Formula | Sequence[Sequence[Formula]] | Matrix = 1,
    variables: Sequence[Symbol] = (x,),
    time: Symbol = t,
) -> Differential:
    """Return the differential of h(z_t, t) for dz = drift dt + diffusion dw (section C.1.2; Eq. C.1.1; section C.1.3).

    ``ito_differential("log(x)", "mu*x", "nu*x")`` is geometric Brownian motion. Text is read by sympy, which evaluates it: do not pass it text from
    strangers.

    Args:
        h: a function of ``variables`` and ``time``. drift: one formula, or one for each variable.
        diffusion: one formula g (the noise matrix is then g times the identity), or the rows of the noise matrix, one row for each variable.

    Raises:
        ValueError: numbers of drifts or rows that do not match the variables, rows of different lengths, text that is no formula.
    """
    places = list(variables)
    f, G = _coefficients(drift, diffusion, places, time)
    value = _formula(h, places, time)
    noises = (dw,) if G.cols == 1 else sp.symbols(f"dw_1:{G.cols + 1}", real=True)
    step = [f[i] * dt + sum(G[i, j] * noises[j] for j in range(G.cols)) for i in range(len(places))]
    step.append(dt)
    places.append(time)
    first = sum(sp.diff(value, v) * d for v, d in zip(places, step))
    second = sum(sp.diff(value, v, u) * d * e for v, d in zip(places, step) for u, e in zip(places, step))
    change = sp.Poly(ito_table(sp.expand(first + second / 2), noises), dt, *noises)
    return Differential(sp.simplify(change.coeff_monomial(dt)), tuple(sp.simplify(change.coeff_monomial(w)) for w in noises))


def naive_differential(h: Formula, drift: Formula, diffusion: Formula = 1) -> Differential:
    """Return dh = (dh/dt + f dh/dx) dt + g dh/dx dw, the chain rule of ordinary calculus: what goes wrong (section C.1.1)."""
    value = _formula(h, [x], t)
    f, g = _formula(drift, [x], t), _formula(diffusion, [x], t)
    return Differential(sp.simplify(sp.diff(value, t) + f * sp.diff(value, x)), (sp.simplify(g * sp.diff(value, x)),))


def apply_generator(
    phi: Formula,
    drift: Formula | Sequence[Formula],
    diffusion: Formula | Sequence[Sequence[Formula]] | Matrix = 1,
    variables: Sequence[Symbol] = (x,),
) -> Expr:
    """Return A phi = f . grad phi + Tr(G G^T Hess phi) / 2, the rate of E[phi(x_t)] (section C.1.4). Arguments as :func:`ito_differential`."""
    f, G = _coefficients(drift, diffusion, list(variables), t)
    value = _formula(phi, variables, t)
    gradient = sum(f[i] * sp.diff(value, v) for i, v in enumerate(variables))
    return sp.expand(gradient + (G * G.T * sp.hessian(value, list(variables))).trace() / 2)


def apply_adjoint(
    p: Formula,
    drift: Formula | Sequence[Formula],
    diffusion: Formula | Sequence[Sequence[Formula]] | Matrix = 1,
    variables: Sequence[Symbol] = (x,),
) -> Expr:
    """Return A* p = -div(f p) + sum_ij d_i d_j ((G G^T)_ij p) / 2, the right side of the Fokker-Planck equation. Arguments as above."""
    f, G = _coefficients(drift, diffusion, list(variables), t)
    value, spread, n = _formula(p, variables, t), G * G.T, len(variables)
    current = sum(sp.diff(f[i] * value, variables[i]) for i in range(n))
    smoothing = sum(sp.diff(spread[i, j] * value, variables[i], variables[j]) for i in range(n) for j in range(n))
    return sp.expand(smoothing / 2 - current)


# --- moments and kernels of linear equations (section C.1.5, Eq. 4.3.3, 4.3.4) ---------------------------------------------------------------


def moment_equation(power: int, drift: Formula, diffusion: Formula = 1) -> dict[int, Expr]:
    """Return {k: c_k} with d/dt E[x^power] = sum_k c_k E[x^k], from Ito's formula for x^power.

    Raises:
        ValueError: ``power < 0``, or coefficients that are not polynomials in x, for which the moments do not close up.
    """
    if power < 0:
        raise ValueError(f"power must not be negative, got {power}")
    rate = _polynomial(ito_differential(x**power, drift, diffusion).drift, x)
    return {k: sp.simplify(c) for (k,), c in rate.terms() if c != 0}


def linear_moments(power: int, f: Formula, g2: Formula, start: Formula = x_0) -> Expr:
    """Return E[x_t^power] for dx = f(t) x dt + g(t) dw from the point ``start``, by solving the moment equations one after the other."""
    rate, growth = _formula(f, [x], t), sp.sqrt(_formula(g2, [x], t))
    equation = moment_equation(power, rate * x, growth)
    source = sum(c * linear_moments(k, f, g2, start) for k, c in equation.items() if k != power)
    factor = sp.exp(sp.integrate(equation.get(power, sp.Integer(0)), (t, 0, t)))
    u = Symbol("u", nonnegative=True)
    added = sp.integrate(sp.expand(sp.simplify(sp.sympify(source / factor).subs(t, u))), (u, 0, t))
    return sp.simplify(factor * (_formula(start, [x], t) ** power + added))


def linear_kernel(f: Formula, g2: Formula, clock: Symbol = t) -> tuple[Expr, Expr]:
    """Return (alpha, P): x_t given x_0 is N(alpha x_0, P) for dx = f x d(clock) + g dw, with clock 0 at the data (Eq. 4.3.4).

    alpha = exp int f, P = int (alpha / alpha_u)^2 g^2 du. In another clock than time, f and g^2 are rates per unit of that clock.
    """
    u = Symbol("u", nonnegative=True)
    rate, power = (_formula(e, [x], clock).subs(clock, u) for e in (f, g2))
    alpha = sp.simplify(sp.exp(sp.integrate(rate, (u, 0, clock))))
    ratio = sp.simplify(power / alpha.subs(clock, u) ** 2)
    variance = alpha**2 * sp.integrate(sp.expand(ratio.rewrite(sp.exp)), (u, 0, clock))
    return alpha, sp.factor(sp.expand(variance.rewrite(sp.exp)))


def moment_residual(alpha: Formula, variance: Formula, f: Formula, g2: Formula, clock: Symbol = t) -> Matrix:
    """Return (alpha' - f alpha, P' - 2 f P - g^2): zero when N(alpha x_0, P) is the kernel (Eq. 4.3.3)."""
    a, p, rate, power = (_formula(e, [x], clock) for e in (alpha, variance, f, g2))
    return Matrix([sp.diff(a, clock) - rate * a, sp.diff(p, clock) - 2 * rate * p - power]).applyfunc(lambda e: sp.simplify(sp.expand(e)))


@cache
def kernel_table() -> dict[str, tuple[Expr, Expr, Expr, Expr]]:
    """Return (f, g^2, alpha, P) of VE, VP and sub-VP with undefined B(t) = int beta and sigma(t)^2, and of any affine corruption (Table 4.1).

    VE in the clock v = sigma^2(t) - sigma^2(0), where dx = dw; VP and sub-VP in the clock B, where beta disappears; affine by Lemma 4.4.1.
    """
    v, B = Symbol("v", nonnegative=True), Symbol("B", nonnegative=True)
    beta, spread = sp.Function("B")(t), sp.Function("v")(t)
    table = {}
    for name, clock, run, f, g2 in (
        ("ve", v, spread, sp.Integer(0), sp.Integer(1)),
        ("vp", B, beta, -sp.Rational(1, 2), sp.Integer(1)),
        ("sub_vp", B, beta, -sp.Rational(1, 2), 1 - sp.exp(-2 * B)),
    ):
        alpha, variance = linear_kernel(f, g2, clock)
        rate = sp.diff(run, t)
        table[name] = tuple(sp.sympify(e).subs(clock, run) for e in (f, g2, alpha, variance))
        table[name] = (table[name][0] * rate, table[name][1] * rate, *table[name][2:])
    alpha, sigma = (sp.Function(name, positive=True)(t) for name in ("alpha", "sigma"))
    table["affine"] = (*coefficients_from_kernel(alpha, sigma), alpha, sigma**2)
    return table


def coefficients_from_kernel(alpha: Expr, sigma: Expr, time: Symbol = t) -> tuple[Expr, Expr]:
    """Return (f, g^2) of the linear SDE with kernel N(alpha x_0, sigma^2) (Lemma 4.4.1): the moment equations solved for them."""
    f, g2 = sp.symbols("f g2")
    equations = [sp.diff(alpha, time) - f * alpha, sp.diff(sigma**2, time) - 2 * f * sigma**2 - g2]
    solution = sp.solve(equations, [f, g2], dict=True)[0]
    return sp.simplify(solution[f]), sp.simplify(solution[g2])


# --- Girsanov (section C.2) -----------------------------------------------------------------------------------------------------------------


@cache
def girsanov_step() -> dict[str, Expr]:
    """One step of the log-ratio of dx = f dt + g dw to dx = f_tilde dt + g dw, from the two Gaussian transition densities (section C.2).

    ``"increment"``: in the step dx of the path; ``"denominator"``: in the Wiener increment dw that the denominator reads off it,
    dx = f_tilde dt + g dw; ``"numerator"``: in that of the numerator, dx = f dt + g dw. Symbols: ``f``, ``f_tilde``, ``g``, `dt`, `dw`, ``dx``.
    """
    f, base, dx = sp.symbols("f f_tilde dx", real=True)
    g = Symbol("g", positive=True)
    ratio = sp.expand_log(log_normal(dx, f * dt, g**2 * dt) - log_normal(dx, base * dt, g**2 * dt))
    return {
        "increment": sp.simplify(ratio),
        "denominator": sp.expand(sp.simplify(ratio.subs(dx, base * dt + g * dw))),
        "numerator": sp.expand(sp.simplify(ratio.subs(dx, f * dt + g * dw))),
    }


def _coefficients(drift: object, diffusion: object, variables: Sequence[Symbol], time: Symbol) -> tuple[list[Expr], Matrix]:
    n = len(variables)
    parts = list(drift) if isinstance(drift, (list, tuple, sp.MatrixBase)) else [drift]
    if len(parts) != n:
        raise ValueError(f"drift must have one entry for each of the {n} variables, got {len(parts)}")
    f = [_formula(part, variables, time) for part in parts]
    if isinstance(diffusion, (list, tuple, sp.MatrixBase)):
        rows = diffusion.tolist() if isinstance(diffusion, sp.MatrixBase) else [list(row) for row in diffusion]
        if len(rows) != n or len({len(row) for row in rows}) != 1:
            raise ValueError(f"diffusion must have {n} rows of one length, got lengths {[len(row) for row in rows]}")
        return f, Matrix([[_formula(entry, variables, time) for entry in row] for row in rows])
    return f, _formula(diffusion, variables, time) * sp.eye(n)


def _formula(value: object, variables: Sequence[Symbol], time: Symbol) -> Expr:
    """A sympy expression; names in a text that are those of the variables or of time mean them."""
    if not isinstance(value, str):
        return sp.sympify(value)
    try:
        return sp.sympify(value, locals={str(v): v for v in (*variables, time)})
    except (sp.SympifyError, SyntaxError, TypeError) as error:
        raise ValueError(f"cannot read {value!r} as a formula: {error}") from None


def _polynomial(value: Expr, *variables: Symbol) -> sp.Poly:
    try:
        return sp.Poly(sp.expand(value), *variables)
    except sp.PolynomialError:
        raise ValueError(f"need a polynomial in {', '.join(map(str, variables))}, got {value}") from None
