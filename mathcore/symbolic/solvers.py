"""Chapter 9 derived in sympy: schedules, exponential integrators, phi-functions, Lagrange and Taylor weights, and the rows of the solver tables.

Each function performs the derivation. Scales at a node are symbols made by `scales`; `at` puts in the values of a schedule of the dictionary at
given times, to as many digits as asked for, so that any derived coefficient can be compared with a table made in floating point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp
from sympy import Expr, Symbol

from mathcore.symbolic.ode import TABLEAUX

time = Symbol("t", positive=True)
tau = Symbol("tau", positive=True)
h = Symbol("h", positive=True)
lam = Symbol("lambda", real=True)
eta = Symbol("eta", nonnegative=True)

PREDICTIONS = ("noise", "clean", "score", "velocity")

# --- the dictionary of schedules (Table 4.1) ---------------------------------------------------------------------------------------------


def schedules() -> dict[str, tuple[Expr, Expr]]:
    """(alpha, sigma) as functions of `time`, by name, with the default parameters of ``AffineSchedule``."""
    low, high = sp.Rational(1, 10), sp.Integer(20)
    integral = low * time + (high - low) * time**2 / 2
    sigma_min, sigma_max, s = sp.Rational(1, 100), sp.Integer(50), sp.Rational(8, 1000)
    start, angle = sp.pi / 2 * s / (1 + s), sp.pi / 2 * (time + s) / (1 + s)
    cosine = sp.cos(angle) / sp.cos(start)
    return {
        "vp": (sp.exp(-integral / 2), sp.sqrt(1 - sp.exp(-integral))),
        "cosine": (cosine, sp.sqrt(1 - cosine**2)),
        "ve": (sp.Integer(1), sp.sqrt((sigma_min * (sigma_max / sigma_min) ** time) ** 2 - sigma_min**2)),
        "edm": (sp.Integer(1), time),
        "linear": (1 - time, time),
        "trig": (sp.cos(time), sp.sin(time)),
    }


@dataclass(frozen=True)
class Scales:
    """Symbols for alpha, sigma and their time derivatives at one node, and for its time."""

    t: Symbol
    alpha: Symbol
    sigma: Symbol
    dalpha: Symbol
    dsigma: Symbol

    @property
    def rho(self) -> Expr:
        """Noise-to-signal ratio sigma / alpha."""
        return self.sigma / self.alpha

    @property
    def lam(self) -> Expr:
        """Half-log-SNR log(alpha / sigma)."""
        return sp.log(self.alpha / self.sigma)


@cache
def scales(label: str) -> Scales:
    """The symbols of the node called ``label``."""
    t, alpha, sigma = sp.symbols(f"t_{label} alpha_{label} sigma_{label}", positive=True)
    return Scales(t, alpha, sigma, *sp.symbols(f"dalpha_{label} dsigma_{label}", real=True))


@cache
def _derivatives(name: str) -> tuple[Expr, ...]:
    alpha, sigma = schedules()[name]
    return alpha, sigma, sp.diff(alpha, time), sp.diff(sigma, time)


def at(name: str, times: Mapping[str, float], digits: int = 40) -> dict[Symbol, Expr]:
    """Values for the symbols of the nodes ``{label: time}`` of schedule ``name``, the times taken exactly."""
    values: dict[Symbol, Expr] = {}
    for label, t in times.items():
        node = scales(label)
        exact = sp.Rational(*float(t).as_integer_ratio())
        numbers = [sp.N(e.subs(time, exact), digits) for e in _derivatives(name)]
        values |= dict(zip((node.t, node.alpha, node.sigma, node.dalpha, node.dsigma), [sp.N(exact, digits), *numbers], strict=True))
    return values


def evaluate(expr: Expr, values: Mapping[Symbol, Expr], digits: int = 30) -> float:
    """``expr`` at ``values``, worked out with ``digits`` digits."""
    return float(sp.N(sp.sympify(expr).subs(values), digits))


# --- the ODE and its linear part (section 9.1.2) ---------------------------------------------------------------------------------------


@cache
def drift_and_diffusion() -> tuple[Expr, Expr, Expr, Expr]:
    """f and g^2 of `tau` from generic functions alpha, sigma (Lemma 4.4.1), with those functions: (alpha, sigma, f, g2).

    From the moments: d alpha = f alpha dt and d sigma^2 = (2 f sigma^2 + g^2) dt.
    """
    alpha, sigma = (sp.Function(n, positive=True)(tau) for n in ("alpha", "sigma"))
    f, g2 = sp.symbols("f g2")
    solution = sp.solve([sp.diff(alpha, tau) - f * alpha, sp.diff(sigma**2, tau) - 2 * f * sigma**2 - g2], [f, g2], dict=True)[0]
    return alpha, sigma, sp.simplify(solution[f]), sp.simplify(solution[g2])


def exponential_integrator_gap() -> Expr:
    """What is left of x' = f x + N when x is the right-hand side of Eq. 9.1.6; zero, for generic f and N."""
    u, s = sp.symbols("u s", real=True)
    f, nonlinear = sp.Function("f"), sp.Function("N")
    primitive = sp.Function("F")  # F' = f, so that the propagator from u to tau is exp(F(tau) - F(u))
    x_s = Symbol("x_s")
    x = sp.exp(primitive(tau) - primitive(s)) * x_s + sp.Integral(sp.exp(primitive(tau) - primitive(u)) * nonlinear(u), (u, s, tau))
    gap = sp.diff(x, tau) - f(tau) * x - nonlinear(tau)
    return sp.simplify(gap.subs(sp.Derivative(primitive(tau), tau), f(tau)).doit().expand())


def noise_weight_gap() -> Expr:
    """g^2 / (2 sigma alpha) minus d(sigma / alpha)/d tau, zero: the noise enters x / alpha by the clock rho (proof of Prop. 9.2.1)."""
    alpha, sigma, _, g2 = drift_and_diffusion()
    return sp.simplify(g2 / (2 * sigma * alpha) - sp.diff(sigma / alpha, tau))


# --- predictions (Proposition 6.3.1) -----------------------------------------------------------------------------------------------------


@cache
def conversion(src: str, dst: str, label: str) -> tuple[Expr, Expr]:
    """(A, B) with dst = A x + B src at the node, by solving the four definitions together."""
    node = scales(label)
    x, given = sp.symbols("x given")
    unknown = dict(zip(PREDICTIONS, sp.symbols("noise clean score velocity"), strict=True))
    equations = [
        node.alpha * unknown["clean"] + node.sigma * unknown["noise"] - x,
        unknown["noise"] + node.sigma * unknown["score"],
        node.dalpha * unknown["clean"] + node.dsigma * unknown["noise"] - unknown["velocity"],
        unknown[src] - given,
    ]
    value = sp.expand(sp.solve(equations, list(unknown.values()), dict=True)[0][unknown[dst]])
    return sp.simplify(value.coeff(x, 1)), sp.simplify(value.coeff(given, 1))


# --- phi-functions and moments (sections 9.4.2 and 9.5.3) ------------------------------------------------------------------------------


@cache
def phi(m: int, argument: Expr = h) -> Expr:
    """phi_m(z) = int_0^1 e^{(1 - d) z} d^{m-1} / (m-1)! dd for m >= 1, and e^z for m = 0."""
    if m == 0:
        return sp.exp(argument)
    d, z = Symbol("d", positive=True), Symbol("z", nonzero=True)
    value = sp.integrate(sp.expand(sp.exp((1 - d) * z) * d ** (m - 1) / sp.factorial(m - 1)), (d, 0, 1))
    return sp.simplify(value).subs(z, argument)


@cache
def taylor_moment(k: int, sign: int) -> Expr:
    """int of e^{sign lambda} (lambda - lambda_s)^k / k! over a step from lambda_s = 0 to h (Eq. 9.4.7: sign -1; section 9.5.3: +1)."""
    return sp.simplify(sp.integrate(sp.exp(sign * lam) * lam**k / sp.factorial(k), (lam, 0, h)))


def lagrange_basis(nodes: Sequence[Expr], variable: Symbol) -> list[Expr]:
    """The Lagrange polynomials on ``nodes`` (section 9.3.1)."""
    return [
        sp.prod([(variable - other) / (node - other) for i, other in enumerate(nodes) if i != j], start=sp.Integer(1))
        for j, node in enumerate(nodes)
    ]


def interpolation_weights(nodes: Sequence[Expr], variable: Symbol, weight: Expr, start: Expr, end: Expr) -> list[Expr]:
    """Weights of the values at ``nodes`` when their interpolating polynomial is integrated against ``weight``: Adams methods (section 9.3.2)."""
    return [sp.integrate(sp.expand(weight * p), (variable, start, end)) for p in lagrange_basis(nodes, variable)]


def moment_gaps(weights: Sequence[Expr], nodes: Sequence[Expr], variable: Symbol, weight: Expr, start: Expr, end: Expr) -> list[Expr]:
    """Taylor-moment conditions of a quadrature: sum w_j (u_j - u_0)^k minus the integral of the same power, k < len(nodes); all zero at full order."""
    gaps = []
    for k in range(len(nodes)):
        exact = sp.integrate(sp.expand(weight * (variable - start) ** k), (variable, start, end))
        gaps.append(sp.simplify(sum(w * (u - start) ** k for w, u in zip(weights, nodes, strict=True)) - exact))
    return gaps


# --- Runge-Kutta (section A.1) -----------------------------------------------------------------------------------------------------------

Tree = tuple[Any, ...]
"""A rooted tree, as the sorted tuple of its root's children."""


def rooted_trees(order: int) -> set[Tree]:
    """All rooted trees with ``order`` nodes: a leaf hung on every node of every smaller tree."""
    if order == 1:
        return {()}

    def grown(tree: Tree) -> set[Tree]:
        out = {tuple(sorted((*tree, ())))}
        for i, child in enumerate(tree):
            out |= {tuple(sorted((*tree[:i], taller, *tree[i + 1 :]))) for taller in grown(child)}
        return out

    return set().union(*(grown(tree) for tree in rooted_trees(order - 1)))


def order_of_tableau(a: Sequence[Sequence[Expr]], b: Sequence[Expr], highest: int = 5) -> int:
    """Largest p <= ``highest`` with sum_i b_i Phi_i(tree) = 1 / gamma(tree) on every rooted tree of at most p nodes (Butcher's conditions).

    Each tree is one elementary differential in the Taylor series of the solution and of the step; 1, 1, 2, 4, 9 trees have 1, 2, 3, 4, 5 nodes.
    """

    def size(tree: Tree) -> int:
        return 1 + sum(map(size, tree))

    def density(tree: Tree) -> int:
        return size(tree) * int(sp.prod([density(child) for child in tree]))

    def inner(tree: Tree) -> list[Expr]:
        values = [sp.S(1)] * len(b)
        for child in tree:
            below = inner(child)
            sums = [sum((w * v for w, v in zip(row, below, strict=False)), sp.S(0)) for row in a]
            values = [v * total for v, total in zip(values, sums, strict=True)]
        return values

    for p in range(1, highest + 1):
        for tree in rooted_trees(p):
            if sp.simplify(sum(w * v for w, v in zip(b, inner(tree), strict=True)) - sp.Rational(1, density(tree))) != 0:
                return p - 1
    return highest


@cache
def rate(clock: str, scale: str, prediction: str, label: str) -> tuple[Expr, Expr]:
    """(P, Q) with d(x / c)/du = P x + Q m at the node, by the chain rule from dx/dt = v; c is 1, alpha or sigma, u is t, lambda or rho."""
    node = scales(label)
    c, dc = {"one": (sp.S(1), sp.S(0)), "alpha": (node.alpha, node.dalpha), "sigma": (node.sigma, node.dsigma)}[scale]
    dlam = node.dalpha / node.alpha - node.dsigma / node.sigma
    du = {"t": sp.S(1), "lambda": dlam, "rho": (node.dsigma * node.alpha - node.sigma * node.dalpha) / node.alpha**2}[clock]
    a, b = conversion(prediction, "velocity", label)
    return sp.simplify((a - dc / c) / (c * du)), sp.simplify(b / (c * du))


# --- rows of the tables: coefficients by name, x the state at s, m the output there, z the noise -------------------------------------------


def from_prediction(of_x: Expr, of_noise: Expr, prediction: str, label: str) -> dict[str, Expr]:
    """Coefficients of x and m when the update is of_x x + of_noise eps and the model predicts something else."""
    a, b = conversion(prediction, "noise", label)
    return {"x": of_x + of_noise * a, "m": of_noise * b}


def ddim(prediction: str) -> dict[str, Expr]:
    """DDIM from s to t (Prop. 9.2.1): eps frozen in Eq. 9.1.6, whose weight integrates to alpha_t (rho_t - rho_s) by `noise_weight_gap`."""
    s, t = scales("s"), scales("t")
    rho = Symbol("rho")
    return from_prediction(t.alpha / s.alpha, t.alpha * sp.integrate(1, (rho, s.rho, t.rho)), prediction, "s")


@cache
def marginal_kernel() -> tuple[Expr, Expr, Symbol]:
    """(a, b, c): the laws N(a x_0 + b x_s, c^2) of x_t that keep p_t(x_t | x_0), solved from mean and variance (Lemma 9.2.2), b >= 0."""
    s, t = scales("s"), scales("t")
    a, b = sp.symbols("a b")
    c = Symbol("c", nonnegative=True)
    solutions = sp.solve([a + b * s.alpha - t.alpha, b**2 * s.sigma**2 + c**2 - t.sigma**2], [a, b], dict=True)
    sample = {s.alpha: 0.3, s.sigma: 0.95, t.alpha: 0.9, t.sigma: 0.4, c: 0.1}
    (kept,) = [solution for solution in solutions if solution[b].subs(sample) > 0]
    return kept[a], kept[b], c


@cache
def bayes_kernel() -> tuple[Expr, Expr, Expr]:
    """(coefficient of x_0, of x_s, variance) of p(x_t | x_s, x_0), t < s, by completing the square in p(x_s | x_t) p(x_t | x_0)."""
    s, t = scales("s"), scales("t")
    x_t, x_s, x_0 = sp.symbols("x_t x_s x_0")
    step = s.alpha / t.alpha
    var = s.sigma**2 - step**2 * t.sigma**2  # so that x_s given x_0 has variance sigma_s^2
    exponent = sp.Poly(-((x_s - step * x_t) ** 2) / (2 * var) - (x_t - t.alpha * x_0) ** 2 / (2 * t.sigma**2), x_t)
    precision = -2 * exponent.coeff_monomial(x_t**2)
    mean = sp.expand(exponent.coeff_monomial(x_t) / precision)
    return sp.simplify(sp.diff(mean, x_0)), sp.simplify(sp.diff(mean, x_s)), sp.simplify(1 / precision)


def ddim_stochastic(prediction: str) -> dict[str, Expr]:
    """DDIM with noise eta (Eq. 9.2.10): the kernel of `marginal_kernel` at clean = x_0, c = eta times the standard deviation of `bayes_kernel`."""
    s = scales("s")
    a, b, c = marginal_kernel()
    std = eta * sp.sqrt(bayes_kernel()[2])
    a, b = a.subs(c, std), b.subs(c, std)
    row = from_prediction(b + a / s.alpha, -a * s.sigma / s.alpha, prediction, "s")
    return row | {"z": std}


def ancestral(prediction: str, variance: str) -> dict[str, Expr]:
    """DDPM's step (Eq. 2.2.14) on any pair s, t: mean of `bayes_kernel` at clean, its variance or that of the forward step."""
    s, t = scales("s"), scales("t")
    clean, state, var = bayes_kernel()
    row = from_prediction(state + clean / s.alpha, -clean * s.sigma / s.alpha, prediction, "s")
    forward = s.sigma**2 - (s.alpha / t.alpha) ** 2 * t.sigma**2
    return row | {"z": sp.sqrt(var if variance == "posterior" else forward)}


def euler_maruyama(prediction: str, noise_level: Expr) -> dict[str, Expr]:
    """One Euler-Maruyama step of dx = [f x - (1 + l^2)/2 g^2 score] dt + l g dw backward in time, f and g^2 as in `drift_and_diffusion`."""
    s, t = scales("s"), scales("t")
    alpha, sigma, f, g2 = drift_and_diffusion()
    places = {sp.diff(alpha, tau): s.dalpha, sp.diff(sigma, tau): s.dsigma}
    f, g2 = (e.subs(places).subs({alpha: s.alpha, sigma: s.sigma}) for e in (f, g2))
    dt = t.t - s.t
    of_noise = -(1 + noise_level**2) / 2 * g2 * (-1 / s.sigma)
    return from_prediction(1 + dt * f, dt * of_noise, prediction, "s") | {"z": noise_level * sp.sqrt(g2 * (s.t - t.t))}


def runge_kutta_rows(method: str, clock: str, scale: str, prediction: str, labels: Sequence[str]) -> list[dict[str, Expr]]:
    """The rows of one interval of `TABLEAUX[method]` applied to d(x/c)/du; ``labels``: the nodes of the stages, then the end.

    Coefficients are named ``x0, x1, ...`` (the state at the start, then the stages) and ``m0, m1, ...`` (the outputs there).
    """
    _, a, b = TABLEAUX[method]

    def clock_of(node: Scales) -> Expr:
        return {"t": node.t, "lambda": node.lam, "rho": node.rho}[clock]

    def scale_of(node: Scales) -> Expr:
        return {"one": sp.S(1), "alpha": node.alpha, "sigma": node.sigma}[scale]

    start, end = scales(labels[0]), scales(labels[-1])
    step = clock_of(end) - clock_of(start)
    rows = []
    for weights, label in zip([*a[1:], b], labels[1:], strict=True):
        node = scales(label)
        row: dict[str, Expr] = {"x0": scale_of(node) / scale_of(start)}
        for j, weight in enumerate(weights):
            p, q = rate(clock, scale, prediction, labels[j])
            row[f"x{j}"] = row.get(f"x{j}", sp.S(0)) + scale_of(node) * step * weight * p
            row[f"m{j}"] = scale_of(node) * step * weight * q
        rows.append(row)
    return rows
