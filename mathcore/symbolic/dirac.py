"""The probability-flow ODE by expansion of Dirac deltas, in sympy: the derivation behind the essay on the Dirac route.

A delta is handled as a smooth kernel of width eps about which nothing else is assumed, `delta`, or as a Gaussian one, `mollifier`, whose width tends to
zero at the end. One noisy step moves a point by f h + g sqrt(h) z; the kernel around the moved point is expanded in `root` = sqrt(h), averaged over z,
and its derivatives are handed over to the density.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Matrix, Symbol

from mathcore.symbolic.density import divergence, gradient, plane, rate
from mathcore.symbolic.solvers import drift_and_diffusion
from mathcore.symbolic.variational import normal_expectation

x, y = sp.symbols("x y", real=True)
x_1, x_2, y_1, y_2 = sp.symbols("x_1 x_2 y_1 y_2", real=True)
eps, root = sp.symbols("eps root", positive=True)
z, z_1, z_2 = sp.symbols("z z_1 z_2", real=True)
state, noise, x_0 = sp.symbols("x epsilon x_0", real=True)
eta = Symbol("eta", nonnegative=True)
alpha, sigma, dalpha, dsigma = sp.symbols("alpha sigma dalpha dsigma", real=True, nonzero=True)

f = sp.Function("f", real=True)
g = Symbol("g", real=True)
p = sp.Function("p", positive=True)
delta = sp.Function("delta", real=True)


# --- a density as an expectation ------------------------------------------------------------------------------------------------------------


def mollifier(u: Expr) -> Expr:
    """The density of N(0, eps^2) at u: a delta of width eps."""
    return sp.exp(-(u**2) / (2 * eps**2)) / (sp.sqrt(2 * sp.pi) * eps)


def mollified(phi: Expr, order: int = 4) -> Expr:
    """E_y[delta_eps(x - y) c(y)] = int delta_eps(x - y) phi(y) dy for phi = c p, a function of `x`: its series in eps up to the given power.

    With y = x + eps z the integral is E phi(x + eps z), and odd powers average out.
    """
    terms = [eps**k * z**k / sp.factorial(k) * sp.diff(phi, x, k) for k in range(order + 1)]
    return normal_expectation(sum(terms, sp.Integer(0)), z)


def against_delta(test: Expr, k: int = 0) -> Expr:
    """int test(y) d^k/dx^k delta(x - y) dy with sympy's DiracDelta; ``test`` a function of `y`.

    As a function of y, d/dx delta(x - y) is minus the derivative of delta(y - x).
    """
    return sp.simplify((-1) ** k * sp.integrate(test * sp.DiracDelta(y - x, k), (y, -sp.oo, sp.oo)))


# --- one noisy step -------------------------------------------------------------------------------------------------------------------------


@cache
def delta_after_step(top: int = 2) -> list[Expr]:
    """Coefficients of 1, root, root^2, ... in delta(x - y - f(y) root^2 - g root z), for one draw z of the noise."""
    shift = -(f(y) * root**2 + g * root * z)
    terms = sum((shift**k / sp.factorial(k) * sp.diff(delta(x - y), x, k) for k in range(top + 1)), sp.Integer(0))
    expanded = sp.expand(terms)
    return [expanded.coeff(root, k) for k in range(top + 1)]


@cache
def expected_delta(top: int = 2) -> list[Expr]:
    """The coefficients of `delta_after_step`, averaged over z: the odd ones vanish."""
    return [normal_expectation(c, z) for c in delta_after_step(top)]


def hand_over(coefficient: Expr, top: int = 6) -> Expr:
    """E_y of a sum of c_k(y) d^k delta(x - y)/dx^k: the sum of d^k/dx^k [c_k(x) p(x)].

    Raises:
        ValueError: something is left that is no derivative of the delta of order at most ``top``.
    """
    out, rest = sp.Integer(0), sp.expand(coefficient)
    for k in range(top, -1, -1):
        basis = sp.diff(delta(x - y), x, k)
        factor = sp.expand(rest).coeff(basis, 1)
        if factor.has(delta):
            raise ValueError(f"the coefficient of the derivative of order {k} still contains the delta: {factor}")
        out += sp.diff(factor.subs(y, x) * p(x), x, k)
        rest = sp.expand(rest - factor * basis)
    if rest != 0:
        raise ValueError(f"only sums of derivatives of delta(x - y) can be handed over, left with {rest}")
    return out


@cache
def density_rate() -> Expr:
    """(p_{t+h} - p_t)/h as h -> 0: the coefficient of root^2, handed over to the density. The Fokker-Planck equation."""
    return sp.expand(hand_over(expected_delta()[2]))


@cache
def plane_step() -> Expr:
    """Coefficient of h in E_z delta(x - y - f(y) h - g sqrt(h) z) in the plane, as an expression in the derivatives of delta(x_1 - y_1, x_2 - y_2)."""
    kernel = delta(x_1 - y_1, x_2 - y_2)
    field = [sp.Function(name, real=True)(y_1, y_2) for name in ("f_1", "f_2")]
    shift = [-(fi * root**2 + g * root * zi) for fi, zi in zip(field, (z_1, z_2))]
    total = sp.Integer(0)
    for j in range(3):
        for k in range(3 - j):
            weight = shift[0] ** j * shift[1] ** k / (sp.factorial(j) * sp.factorial(k))
            total += weight * sp.diff(kernel, x_1, j, x_2, k)
    return normal_expectation(sp.expand(total).coeff(root, 2), z_1, z_2)


# --- one density, many processes ------------------------------------------------------------------------------------------------------------


@cache
def _log_gradient() -> tuple[Expr, Matrix, Expr, Expr, Matrix]:
    density, field, diffusion = plane()
    level = Symbol("sigma_t", nonnegative=True)
    return density, field, diffusion, level, gradient(sp.log(density))


def family_gap(factor: Expr | None = None) -> Expr:
    """Fokker-Planck of (f, g) minus that of (f - factor grad log p, sigma_t), for any density and drift in the plane; factor (g^2 - sigma_t^2)/2."""
    density, field, diffusion, level, score = _log_gradient()
    share = (diffusion**2 - level**2) / 2 if factor is None else factor
    return sp.simplify(rate(density, field, diffusion**2) - rate(density, field - share * score, level**2))


def reverse_gap(factor: Expr | None = None) -> Expr:
    """What is left when p_{T-s} is put into the Fokker-Planck equation of the clock s for the drift -(f - factor grad log p) and the noise sigma_t.

    Zero for factor = (g^2 + sigma_t^2)/2, for any density and drift in the plane.
    """
    density, field, diffusion, level, score = _log_gradient()
    share = (diffusion**2 + level**2) / 2 if factor is None else factor
    backward = -rate(density, field, diffusion**2)  # d/ds of p_{T-s}
    return sp.simplify(backward - rate(density, -(field - share * score), level**2))


def levels() -> tuple[Expr, Expr]:
    """The symbols g(t) and sigma_t of `family_gap` and `reverse_gap`."""
    _, _, diffusion, level, _ = _log_gradient()
    return diffusion, level


def current_gap() -> Expr:
    """-div(f p - g^2/2 grad p) minus the right-hand side of the Fokker-Planck equation: zero, the total current is f p - g^2/2 grad p = v p."""
    density, field, diffusion, _, score = _log_gradient()
    current = field * density - diffusion**2 / 2 * gradient(density)
    velocity = field - diffusion**2 / 2 * score
    same = sp.simplify(divergence(current - velocity * density))
    return sp.simplify(-divergence(current) - rate(density, field, diffusion**2)) + same


# --- linear drift: DDIM ---------------------------------------------------------------------------------------------------------------------


@cache
def dictionary() -> tuple[Expr, Expr]:
    """f and g^2 from the moments of x_t = alpha x_0 + sigma eps, in the symbols alpha, sigma, dalpha, dsigma (Lemma 4.4.1)."""
    a, s, drift, squared = drift_and_diffusion()
    (time,) = a.args
    places = [(sp.diff(a, time), dalpha), (sp.diff(s, time), dsigma), (a, alpha), (s, sigma)]
    return sp.simplify(drift.subs(places)), sp.simplify(squared.subs(places))


def flow_velocity() -> Expr:
    """f x - g^2/2 score with score = -noise/sigma: the probability-flow ODE of a noise prediction."""
    drift, squared = dictionary()
    return sp.simplify(drift * state + squared / (2 * sigma) * noise)


@cache
def ddim_limit() -> tuple[Expr, Expr]:
    """Drift and squared diffusion of stochastic DDIM with noise factor eta: what one step back by h does, divided by h, as h -> 0.

    The step ends at alpha - h dalpha, sigma - h dsigma; its noise has the standard deviation eta sigma(s, t) of Lemma 4.4.2.
    """
    h = root**2
    a, s = alpha - h * dalpha, sigma - h * dsigma
    squared = sp.simplify((sigma**2 - (alpha / a) ** 2 * s**2) * s**2 / sigma**2)
    clean = (state - sigma * noise) / alpha
    mean = a * clean + s * sp.sqrt(1 - eta**2 * squared / s**2) * noise  # sigma > 0
    step = Symbol("h", positive=True)
    of_mean = sp.diff(mean.subs(root, sp.sqrt(step)), step).subs(step, 0)
    of_noise = sp.diff((eta**2 * squared).subs(root, sp.sqrt(step)), step).subs(step, 0)
    return sp.simplify(-of_mean), sp.simplify(of_noise)


def conditional_field() -> Expr:
    """f x - g^2/2 d/dx log p(x | x_0) for p(x | x_0) = N(alpha x_0, sigma^2): the velocity of one conditional path."""
    drift, squared = dictionary()
    return sp.simplify(drift * state + squared / 2 * (state - alpha * x_0) / sigma**2)
