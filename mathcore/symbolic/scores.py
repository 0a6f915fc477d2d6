"""Chapter 3 derived in sympy: each function performs the derivation and returns what comes out, nothing is typed in from the book."""

from functools import cache

import sympy as sp
from sympy import Expr, Function, Matrix, Symbol

from mathcore.symbolic.variational import complete_square, log_normal, normal_expectation

x, y, clean = sp.symbols("x y clean", real=True)
mean, start_mean, z = sp.symbols("mean start_mean z", real=True)
var, start_var, model_var, step, sigma = sp.symbols("var start_var model_var step sigma", positive=True)

POINT = Matrix([x, y])
"""A point of the plane: where two coordinates tell all there is to tell, derivations are made in D = 2."""


def gradient(fn: Expr) -> Matrix:
    """Gradient in the plane, a column."""
    return Matrix([fn.diff(v) for v in POINT])


def divergence(field: Matrix) -> Expr:
    """Divergence in the plane."""
    return sum((component.diff(v) for component, v in zip(field, POINT)), sp.Integer(0))


def plane_field(name: str) -> Matrix:
    """A field in the plane about which nothing is known: two functions of (x, y)."""
    return Matrix([Function(f"{name}_1")(x, y), Function(f"{name}_2")(x, y)])


# --- scores and energies (section 3.1) ------------------------------------------------------------------------------------------------


@cache
def gaussian_score() -> tuple[Matrix, Matrix, Matrix]:
    """Gradient of the log-density of a Gaussian in the plane, with the covariance and the centred point it was made from (Lemma D.2.1)."""
    a, c = sp.symbols("a c", positive=True)
    b = Symbol("b", real=True)
    cov, centred = Matrix([[a, b], [b, c]]), POINT - Matrix(sp.symbols("m_1 m_2", real=True))
    exponent = -(centred.T * cov.inv() * centred)[0] / 2 - sp.log(cov.det()) / 2 - sp.log(2 * sp.pi)
    return gradient(exponent).applyfunc(sp.simplify), cov, centred


@cache
def ebm_objective(trace_sign: int = -1) -> Expr:
    """E[trace_sign E'' + (E')^2 / 2] for the energy x^2 / (2 model_var) on data N(0, var) (section 3.1.3)."""
    energy = (sp.sqrt(var) * z) ** 2 / (2 * model_var)  # x = sqrt(var) z
    slope, curvature = energy.diff(z) / sp.sqrt(var), energy.diff(z, 2) / var
    return normal_expectation(trace_sign * curvature + slope**2 / 2, z)


@cache
def stationarity() -> tuple[Expr, Expr, Symbol]:
    """Right side of the Fokker-Planck equation of dx = grad log p dt + varsigma dw at rho = p, any p in the plane; with Laplace p, and varsigma."""
    varsigma = Symbol("varsigma", positive=True)
    p = Function("p", positive=True)(x, y)
    laplacian = divergence(gradient(p))
    right = -divergence((p * gradient(sp.log(p))).applyfunc(sp.expand)) + varsigma**2 / 2 * laplacian
    return sp.simplify(right), laplacian, varsigma


@cache
def ula_step() -> tuple[Expr, Expr]:
    """Mean and variance after one step x + eta score + sqrt(2 eta) z on the target N(mean, var), from N(start_mean, start_var) (Eq. 3.1.5)."""
    u = Symbol("u", real=True)
    before = start_mean + sp.sqrt(start_var) * u
    after = before - step * (before - mean) / var + sp.sqrt(2 * step) * z
    first = normal_expectation(after, u, z)
    return first, normal_expectation((after - first) ** 2, u, z)


@cache
def ula_stationary_variance() -> Expr:
    """The variance that `ula_step` leaves alone."""
    (value,) = sp.solve(ula_step()[1] - start_var, start_var)
    return sp.simplify(value)


# --- score matching (sections 3.2, 3.3.1) ---------------------------------------------------------------------------------------------


@cache
def hyvarinen_gap(degree: int) -> Expr:
    """E (s - s*)^2 / 2 - E[s' + s^2 / 2] for a polynomial s with free coefficients and data N(mean, var) (Proposition 3.2.1)."""
    coefficients = sp.symbols(f"c:{degree + 1}", real=True)
    s = sum((c * x**k for k, c in enumerate(coefficients)), sp.Integer(0))
    true = log_normal(x, mean, var).diff(x)
    difference = (s - true) ** 2 / 2 - s.diff(x) - s**2 / 2
    return normal_expectation(difference.subs(x, mean + sp.sqrt(var) * z), z)


@cache
def integration_by_parts() -> Expr:
    """s.grad p + p div s - div(p s) for any density and any field in the plane: the cross term of the proof, before it is integrated."""
    p, s = Function("p")(x, y), plane_field("s")
    return sp.expand((s.T * gradient(p))[0] + p * divergence(s) - divergence(p * s))


# --- denoising (sections 3.3.2, 3.3.4) ------------------------------------------------------------------------------------------------


@cache
def curvature_between_modes() -> Expr:
    """p''(0) / p(0) for two equal Gaussians at -mean and mean with variance var (section 3.3.2)."""
    p = sum(sp.exp(log_normal(x, c, var)) for c in (-mean, mean)) / 2
    return sp.simplify((p.diff(x, 2) / p).subs(x, 0))


@cache
def blurred_score_expansion() -> Expr:
    """Coefficient of sigma^2 in grad log p_sigma - grad log p for any density on the line, p_sigma = E p(x - sigma z) expanded in sigma."""
    p = Function("p", positive=True)
    taylor = p(x) + sum((p(x).diff(x, k) * (-sigma * z) ** k / sp.factorial(k) for k in range(1, 4)), sp.Integer(0))
    score = sp.log(normal_expectation(taylor, z)).diff(x)
    return sp.simplify(score.diff(sigma, 2).subs(sigma, 0) / 2)


@cache
def log_partition_derivatives(orders: int = 4) -> list[tuple[Expr, Expr]]:
    """(derivative, cumulant) of orders 1, 2, ...: of the log-partition in x, and of the natural parameter given x (section 3.3.4).

    The prior has two values eta_k with free weights, so that p(eta_k | x) is proportional to w_k exp(eta_k x - psi(eta_k)), psi any function.
    """
    eta = sp.symbols("eta_1 eta_2", real=True)
    mass = [w * sp.exp(e * x - Function("psi")(e)) for w, e in zip(sp.symbols("w_1 w_2", positive=True), eta)]
    total = sum(mass, sp.Integer(0))
    moments = [sum(m * e**k for m, e in zip(mass, eta)) / total for k in range(orders + 1)]
    cumulants: list[Expr] = []
    for n in range(1, orders + 1):  # m_n = sum_k binom(n-1, k-1) kappa_k m_{n-k}
        known = sum((sp.binomial(n - 1, k) * cumulants[k] * moments[n - 1 - k] for k in range(n - 1)), sp.Integer(0))
        cumulants.append(moments[n] - known)
    return [(sp.log(total).diff(x, n), cumulant) for n, cumulant in enumerate(cumulants, 1)]


@cache
def tweedie_gaussian() -> tuple[Expr, Expr, Expr, Expr]:
    """Posterior mean and variance for x_0 ~ N(mean, var), x = alpha x_0 + sigma eps: by completing the square, then from the score (Lemma 3.3.2)."""
    alpha = Symbol("alpha", positive=True)
    posterior = complete_square(log_normal(clean, mean, var) + log_normal(x, alpha * clean, sigma**2), clean)
    score = log_normal(x, alpha * mean, alpha**2 * var + sigma**2).diff(x)
    return *posterior, (x + sigma**2 * score) / alpha, (sigma**2 + sigma**4 * score.diff(x)) / alpha**2


# --- Stein and SURE (section 3.3.5) ---------------------------------------------------------------------------------------------------


def stein_gap(fn: Expr) -> Expr:
    """E f'(z) - E z f(z) for a polynomial f of ``z``."""
    return normal_expectation(fn.diff(z) - z * fn, z)


@cache
def sure_of_linear() -> tuple[Expr, Expr, Expr]:
    """E SURE and risk of D(x) = A x at a clean point of the plane, both integrated over the noise, and |(A - I) x|^2 + sigma^2 |A|_F^2."""
    A, at = Matrix(2, 2, sp.symbols("a_11 a_12 a_21 a_22", real=True)), Matrix(sp.symbols("u_1 u_2", real=True))
    noise = Matrix(sp.symbols("z_1 z_2", real=True))
    noisy = at + sigma * noise
    residual, error = A * noisy - noisy, A * noisy - at
    estimate = residual.dot(residual) + 2 * sigma**2 * A.trace() - 2 * sigma**2
    bias = (A - sp.eye(2)) * at
    closed = bias.dot(bias) + sigma**2 * sum(a**2 for a in A)
    return normal_expectation(estimate, *noise), normal_expectation(error.dot(error), *noise), closed


def sure(field: Matrix) -> Expr:
    """Stein's estimate for a denoiser in the plane (Eq. 3.3.7)."""
    residual = field - POINT
    return residual.dot(residual) + 2 * sigma**2 * divergence(field) - 2 * sigma**2


@cache
def sure_minus_score_matching() -> Expr:
    """SURE / (2 sigma^4) less Hyvarinen's integrand, for the denoiser x + sigma^2 s with any field s in the plane (section 3.3.5)."""
    s = plane_field("s")
    return sp.expand(sure(POINT + sigma**2 * s) / (2 * sigma**4) - divergence(s) - s.dot(s) / 2)


# --- operators (section 3.3.6) --------------------------------------------------------------------------------------------------------


def denoising_operator(fn: Expr) -> Matrix:
    """L f = x f + sigma^2 grad f, in the plane."""
    return POINT * fn + sigma**2 * gradient(fn)


def denoising_adjoint(field: Matrix) -> Expr:
    """L* g = x.g - sigma^2 div g, in the plane."""
    return POINT.dot(field) - sigma**2 * divergence(field)


def second_moment_operator(fn: Expr) -> Matrix:
    """L f = (x x^T + sigma^2 I) f + sigma^2 (x grad f^T + grad f x^T) + sigma^4 Hessian f, in the plane."""
    slope = gradient(fn)
    mixed = POINT * slope.T + slope * POINT.T
    return (POINT * POINT.T + sigma**2 * sp.eye(2)) * fn + sigma**2 * mixed + sigma**4 * sp.hessian(fn, list(POINT))


@cache
def lagrange_identity() -> Expr:
    """(L f).g - f L* g - div(sigma^2 f g) for the denoising operator, any f and g in the plane: zero makes L* the adjoint."""
    f, g = Function("f")(x, y), plane_field("g")
    return sp.expand(denoising_operator(f).dot(g) - f * denoising_adjoint(g) - divergence(sigma**2 * f * g))


@cache
def on_kernel() -> tuple[Matrix, Matrix, Matrix]:
    """Both operators applied to the kernel N(point; u, sigma^2 I) and divided by it, with the clean point u: what their targets average."""
    u = Matrix(sp.symbols("u_1 u_2", real=True))
    kernel = sp.exp(-(POINT - u).dot(POINT - u) / (2 * sigma**2))
    first, second = (operator(kernel) / kernel for operator in (denoising_operator, second_moment_operator))
    return first.applyfunc(sp.simplify), second.applyfunc(sp.simplify), u


@cache
def gsm_minus_half_sure() -> Expr:
    """|g|^2 / 2 - L* g - SURE(g) / 2 for the denoising operator and any field g in the plane (section 3.3.6)."""
    g = plane_field("g")
    return sp.expand(g.dot(g) / 2 - denoising_adjoint(g) - sure(g) / 2)
