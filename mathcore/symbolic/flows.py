"""Chapter 5 derived in sympy: determinants of flows, log-densities along trajectories, conditional velocities, straight and curved paths.

Times run from the source at 0 to the target at 1 except where a noise schedule alpha(t), sigma(t) is named.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Matrix, Symbol

from mathcore.symbolic.density import XY, divergence, gradient, plane, rate, t, x, y
from mathcore.symbolic.variational import log_normal

x0, x1, noise = sp.symbols("x_0 x_1 eps", real=True)
theta = Symbol("theta", real=True)
a, b = (sp.Function(name, real=True)(t) for name in ("a", "b"))
alpha, sigma = (sp.Function(name, positive=True)(t) for name in ("alpha", "sigma"))
s0, s1 = sp.symbols("s_0 s_1", positive=True)
m0, m1 = sp.symbols("m_0 m_1", real=True)


def turn(angle: Expr) -> Matrix:
    """The rotation of the plane by an angle."""
    return Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])


# --- normalizing flows (section 5.1.1) ------------------------------------------------------------------------------------------------


@cache
def planar_determinant(d: int) -> tuple[Expr, Expr]:
    """Determinant of the Jacobian of z + u h(w.z + b) in d dimensions, and 1 + h'(w.z + b) u.w (matrix determinant lemma)."""
    z, u, w = (Matrix(sp.symbols(f"{name}_1:{d + 1}", real=True)) for name in "zuw")
    bias, s = sp.symbols("b s", real=True)
    h = sp.Function("h")
    inside = (w.T * z)[0] + bias
    slope = sp.diff(h(s), s).subs(s, inside)
    return sp.expand((z + u * h(inside)).jacobian(z).doit().det(method="berkowitz")), sp.expand(1 + slope.doit() * (u.T * w)[0])


@cache
def log_det_terms(order: int) -> tuple[list[Expr], list[Expr]]:
    """Coefficients of eps, .., eps^order in log det(I + eps M), M a generic 2 x 2 matrix, and (-1)^{k+1} Tr(M^k) / k (Eq. 5.1.6)."""
    eps = Symbol("eps")
    M = Matrix(2, 2, sp.symbols("m_11 m_12 m_21 m_22"))
    series = sp.expand(sp.series(sp.log(1 + Symbol("d")), Symbol("d"), 0, order + 1).removeO())
    expanded = sp.Poly(sp.expand(series.subs(Symbol("d"), sp.expand((sp.eye(2) + eps * M).det() - 1))), eps)
    powers = [sp.Rational((-1) ** (k + 1), k) * sp.expand((M**k).trace()) for k in range(1, order + 1)]
    return [expanded.coeff_monomial(eps**k) for k in range(1, order + 1)], powers


@cache
def monge_ampere() -> Expr:
    """p(grad psi(z)) det Hessian psi(z) / p_prior(z) for psi = z.M z / 2 in the plane, p the law of grad psi(z), z ~ N(0, I) (Eq. 7.2.4)."""
    p, q, r = sp.symbols("p q r", positive=True)
    M, z = Matrix([[p, q], [q, r]]), Matrix(XY)
    image = M * z  # grad psi; the law of M z is N(0, M M^T)
    cov = M * M.T
    exponent = -(image.T * cov.inv() * image)[0] / 2 + (z.T * z)[0] / 2
    return sp.simplify(sp.exp(sp.simplify(exponent)) * M.det() / sp.sqrt(sp.factor(cov.det())))


# --- the instantaneous change of variables (Lemma 5.1.1) ------------------------------------------------------------------------------


@cache
def log_density_along_flow() -> tuple[Expr, Expr]:
    """d/dt log p(x(t), t) along dx/dt = F for any p in the plane that solves the continuity equation, and -div F (Eq. 5.1.9, proof 2)."""
    p, field, _ = plane()
    partial = rate(p, field, sp.Integer(0))  # dp/dt
    total = (partial + (gradient(p).T * field)[0]) / p
    return sp.simplify(total), sp.simplify(-divergence(field))


@cache
def total_and_partial_derivative() -> tuple[Expr, Expr]:
    """d/dt log p + div F and (partial d/dt) log p + div F for F = k x, p = N(0, e^{2 k t}): the first vanishes, the second does not (Eq. 5.1.9)."""
    k = Symbol("k", positive=True)
    log_p = log_normal(x, sp.Integer(0), sp.exp(2 * k * t))
    partial = sp.diff(log_p, t) + k
    return sp.simplify(partial + k * x * sp.diff(log_p, x)), sp.simplify(partial)


@cache
def sine_flow() -> tuple[Expr, Expr]:
    """For x(t) = 2 atan(e^t tan(x_0 / 2)): dx/dt - sin x, and d/dt(-log dx/dx_0) + cos x."""
    r = Symbol("r", positive=True)  # tan(x_0 / 2); both are derivatives in t of functions of e^t r
    path = 2 * sp.atan(sp.exp(t) * r)
    stretch = sp.diff(path, r) * (1 + r**2) / 2  # dr/dx_0 = (1 + tan^2) / 2
    half = sp.exp(t) * r
    sine, cosine = 2 * half / (1 + half**2), (1 - half**2) / (1 + half**2)  # of x = 2 atan(half)
    return sp.simplify(sp.diff(path, t) - sine), sp.simplify(sp.diff(-sp.log(stretch), t) + cosine)


# --- conditional velocities (sections 5.2.1 and 5.3.2) --------------------------------------------------------------------------------


@cache
def conditional_velocity() -> Expr:
    """f x - g^2/2 grad log p_t(x | x_0) at x = alpha x_0 + sigma eps, with f = alpha'/alpha and g^2 = (sigma^2)' - 2 f sigma^2 (section 5.2.1)."""
    f = sp.diff(alpha, t) / alpha
    squared = sp.diff(sigma**2, t) - 2 * f * sigma**2
    score = sp.diff(log_normal(x, alpha * x0, sigma**2), x)
    return sp.expand(sp.simplify((f * x - squared / 2 * score).subs(x, alpha * x0 + sigma * noise)))


@cache
def one_sided_velocity() -> Expr:
    """b' x_1 + (a'/a) (x - b x_1) at x = a x_0 + b x_1 (section 5.3.2)."""
    value = sp.diff(b, t) * x1 + sp.diff(a, t) / a * (x - b * x1)
    return sp.expand(sp.simplify(value.subs(x, a * x0 + b * x1)))


# --- Gaussian paths (section 5.3.1) ---------------------------------------------------------------------------------------------------


@cache
def gaussian_path(d: int) -> tuple[Expr, Matrix]:
    """For N(mu(t), sigma(t)^2 I) in d = 1 or 2 dimensions and v = sigma'/sigma (x - mu) + mu' (Prop. 5.3.1).

    Returns the residual of the continuity equation divided by p, and d Psi_{0 -> t} / dt - v(Psi_{0 -> t}).
    """
    point = Matrix(XY[:d])
    mu = Matrix([sp.Function(f"mu_{i + 1}", real=True)(t) for i in range(d)])

    def field(at: Matrix) -> Matrix:
        return sp.diff(sigma, t) / sigma * (at - mu) + sp.diff(mu, t)

    log_p = sum((log_normal(c, m, sigma**2) for c, m in zip(point, mu)), sp.Integer(0))
    v = field(point)
    residual = sp.diff(log_p, t) + (gradient(log_p, XY[:d]).T * v)[0] + divergence(v, XY[:d])
    flow = mu + sigma / sigma.subs(t, 0) * (point - mu.subs(t, 0))
    return sp.simplify(residual), (sp.diff(flow, t) - field(flow)).applyfunc(sp.simplify)


@cache
def swirl() -> tuple[Expr, Expr]:
    """Residual of the continuity equation over p for N(0, sigma(t)^2 I_2) and (sigma'/sigma) x + omega J x; and |v|^2 less that of omega = 0."""
    omega = Symbol("omega", positive=True)
    point, quarter = Matrix(XY), Matrix([[0, -1], [1, 0]])
    v = sp.diff(sigma, t) / sigma * point + omega * quarter * point
    log_p = log_normal(x, sp.Integer(0), sigma**2) + log_normal(y, sp.Integer(0), sigma**2)
    residual = sp.diff(log_p, t) + (gradient(log_p).T * v)[0] + divergence(v)
    return sp.simplify(residual), sp.simplify((v.T * v)[0] - (v.T * v)[0].subs(omega, 0))


@cache
def covariance_fields() -> tuple[Matrix, Expr]:
    """A S + S A^T - S' for A = S' S^{-1} / 2, any symmetric S(t) in the plane; and the antisymmetric part A_12 - A_21 (exercise: which A move N(mu, S))."""
    p, q, r = (sp.Function(name, real=True)(t) for name in "pqr")
    S = Matrix([[p, q], [q, r]])
    A = sp.diff(S, t) * S.inv() / 2
    return (A * S + S * A.T - sp.diff(S, t)).applyfunc(sp.simplify), sp.simplify(A[0, 1] - A[1, 0])


# --- the linear path between two Gaussians on the line (sections 5.2.4, 5.3.2) ----------------------------------------------------------


@cache
def gaussian_interpolant_velocity() -> tuple[Expr, Expr]:
    """E[x_1 - x_0 | x_t = x] for independent N(m_0, s_0^2), N(m_1, s_1^2) by the regression formula, and V'/(2V) (x - m) + m'."""
    m, var = (1 - t) * m0 + t * m1, (1 - t) ** 2 * s0**2 + t**2 * s1**2
    cross = t * s1**2 - (1 - t) * s0**2  # Cov(x_1 - x_0, x_t)
    return m1 - m0 + cross / var * (x - m), sp.diff(var, t) / (2 * var) * (x - m) + sp.diff(m, t)


@cache
def gaussian_trajectory() -> tuple[Expr, Expr]:
    """Residual of x(t) = x_0 sqrt(V) in the velocity of N(0, 1) -> N(0, s_1^2), and x''(t) (remark in section 5.3.2: straight pairs, curved paths)."""
    field = gaussian_interpolant_velocity()[0].subs({m0: 0, m1: 0, s0: 1})
    path = x0 * sp.sqrt((1 - t) ** 2 + t**2 * s1**2)
    return sp.simplify(sp.diff(path, t) - field.subs(x, path)), sp.factor(sp.simplify(sp.diff(path, t, 2)))


# --- flow-first (section 5.3.3) ---------------------------------------------------------------------------------------------------------


@cache
def affine_flow() -> Matrix:
    """d Psi / dt - [mu' + A' A^{-1} (Psi - mu)] for Psi = mu + A x_0 in the plane, A = (1 - t) R(theta t), any mu(t)."""
    mu = Matrix([sp.Function(f"mu_{i}", real=True)(t) for i in (1, 2)])
    A = (1 - t) * turn(theta * t)
    flow = mu + A * Matrix(XY)
    field = sp.diff(mu, t) + sp.diff(A, t) * A.inv() * (flow - mu)
    return (sp.diff(flow, t) - field).applyfunc(sp.simplify)


@cache
def great_circle() -> tuple[Expr, Expr]:
    """|dPsi/dt|^2 and Psi . dPsi/dt on the sphere for Psi = [sin((1-t) theta) p + sin(t theta) q] / sin(theta), p.q = cos(theta)."""
    weights = Matrix([sp.sin((1 - t) * theta), sp.sin(t * theta)]) / sp.sin(theta)
    products = Matrix([[1, sp.cos(theta)], [sp.cos(theta), 1]])  # of p and q with each other
    speed = sp.diff(weights, t)
    return sp.simplify((speed.T * products * speed)[0]), sp.simplify((weights.T * products * speed)[0])


# --- couplings (section 5.4.3) ----------------------------------------------------------------------------------------------------------


@cache
def rotation_determinant() -> Expr:
    """det((1 - t) I + t R(theta)): positive for all t unless theta = pi, so that the pairs (x, R x) do not cross."""
    return sp.factor(sp.simplify(((1 - t) * sp.eye(2) + t * turn(theta)).det()))


@cache
def rotation_asymmetry() -> Expr:
    """(H R(theta))_21 - (H R(theta))_12 for a symmetric H with trace Symbol('trace'): zero is needed for (x, R x) to be optimal for a cost with Hessian H."""
    p, q, trace = sp.symbols("p q trace", real=True)
    product = Matrix([[p, q], [q, trace - p]]) * turn(theta)
    return sp.simplify(product[1, 0] - product[0, 1])
