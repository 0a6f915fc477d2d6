"""Three constructions of a generative ODE derived in sympy: force fields, characteristics, test functions.

Functions return what should vanish, or the closed form itself. ``r`` is the distance to the source, ``R`` the distance in space-time, ``d`` the dimension:
a symbol where it can be one, a number where coordinates are needed.
"""

from collections.abc import Sequence
from functools import cache

import sympy as sp
from sympy import Expr, Matrix, Symbol

from mathcore.symbolic.density import divergence, gradient

t, r, R, d, C, h = sp.symbols("t r R d C h", positive=True)
eps, rho, scale = sp.symbols("epsilon rho s", positive=True)
k = Symbol("k", real=True)

width = sp.Function("sigma", positive=True)(t)
profile = sp.Function("phi", positive=True)(t, r)
radial_cdf = sp.Function("psi", positive=True)(t, r)


def coordinates(n: int, name: str = "x") -> tuple[Symbol, ...]:
    """n real symbols name_1, ..., name_n."""
    return tuple(sp.symbols(f"{name}_1:{n + 1}", real=True))


# --- force fields: the isotropic field of space-time ----------------------------------------------------------------------------------------


def space_time_divergence(density: Expr, flux: Matrix, coords: Sequence[Symbol]) -> Expr:
    """d density/dt + div flux: zero for u = (p_t, f_t p_t), the continuity equation."""
    return sp.diff(density, t) + divergence(flux, coords)


@cache
def isotropic_profile() -> Expr:
    """The solution of R phi' + (d + 1) phi = 0, the divergence of phi(R) (t, x - x_0): a constant times a power of R."""
    unknown = sp.Function("varphi")
    return sp.dsolve(R * unknown(R).diff(R) + (d + 1) * unknown(R), unknown(R)).rhs


def gravity(n: int) -> tuple[Expr, Matrix, tuple[Symbol, ...]]:
    """Time component, space components and coordinates of C (t, x) / (t^2 + |x|^2)^{(n+1)/2}, the source at the origin."""
    coords = coordinates(n)
    power = (t**2 + sum(c**2 for c in coords)) ** sp.Rational(n + 1, 2)
    return C * t / power, Matrix([C * c / power for c in coords]), coords


def sphere_area(n: Expr | int) -> Expr:
    """Area of the unit sphere of R^n, 2 pi^{n/2} / Gamma(n/2)."""
    return 2 * sp.pi ** (sp.sympify(n) / 2) / sp.gamma(sp.sympify(n) / 2)


@cache
def mass_constant(n: int) -> Expr:
    """The C that gives the time component mass one in R^n, by integrating over shells."""
    z = Symbol("z", positive=True)
    shells = sp.integrate(z ** (n - 1) / (1 + z**2) ** sp.Rational(n + 1, 2), (z, 0, sp.oo))
    return sp.simplify(1 / (sphere_area(n) * shells))


def mass_constant_closed(n: Expr | int = d) -> Expr:
    """Gamma((n+1)/2) pi^{-(n+1)/2}."""
    half = (sp.sympify(n) + 1) / 2
    return sp.gamma(half) * sp.pi**-half


def ratio_law(n: int) -> Expr:
    """Density of |eps_x| / |eps_t| at r, the normals of dimension n and 1 independent: the integral over |eps_t| = epsilon, normalised."""
    radius = 2 ** (1 - sp.Rational(n, 2)) / sp.gamma(sp.Rational(n, 2)) * rho ** (n - 1) * sp.exp(-(rho**2) / 2)
    clock = sp.sqrt(2 / sp.pi) * sp.exp(-(eps**2) / 2)
    # the ratio has density int p(rho = r eps) p(eps) eps d eps
    inside = sp.powsimp(sp.expand(radius.subs(rho, r * eps) * clock * eps), force=True)
    return sp.simplify(sp.integrate(sp.simplify(inside), (eps, 0, sp.oo)))


def cauchy_radius_law(n: int) -> Expr:
    """Density of the radius of the kernel at t = 1: S_{n-1} C r^{n-1} (1 + r^2)^{-(n+1)/2}."""
    return sphere_area(n) * mass_constant_closed(n) * r ** (n - 1) / (1 + r**2) ** sp.Rational(n + 1, 2)


def law_given_time(n: int) -> Expr:
    """p(x_t | t) up to a constant for scales s log-uniform on the whole of (0, oo): the integral of s^{-(n+2)} e^{-(r^2 + t^2) / 2 s^2}."""
    # u = 1 / s
    u = Symbol("u", positive=True)
    return sp.simplify(sp.integrate(u**n * sp.exp(-(R**2) * u**2 / 2), (u, 0, sp.oo)).subs(R, sp.sqrt(r**2 + t**2)))


def total_variation_cauchy(distance: Expr, time: Expr) -> Expr:
    """Total variation of two Cauchy laws on the line, of scale ``time`` and so far apart: the mass within half the distance."""
    x = Symbol("x", real=True)
    return sp.simplify(2 * sp.integrate(time / (sp.pi * (time**2 + x**2)), (x, 0, distance / 2)))


# --- force fields: time apart from space ----------------------------------------------------------------------------------------------------


def radial_residual(density: Expr, flux: Expr, n: Expr | int = d) -> Expr:
    """d density/dt + r^{1-n} d(flux r^n)/dr: the space-time divergence of (density, flux (x - x_0)) for functions of (t, r)."""
    return sp.diff(density, t) + sp.diff(flux * r**n, r) / r ** (n - 1)


def radial_flux(density: Expr, n: Expr | int = d, lower: Expr | int = 0) -> Expr:
    """-r^{-n} d/dt int_lower^r density s^{n-1} ds, the flux that goes with a density (left as an integral where sympy finds none).

    The lower end must be 0: any other leaves a flux c(t) / r^n through small spheres, a source of mass at the data point.
    """
    inside = (density * r ** (n - 1)).subs(r, scale)
    return sp.simplify(-sp.diff(sp.integrate(inside, (scale, lower, r)), t) / r**n)


def gaussian_kernel(n: Expr | int = d) -> tuple[Expr, Expr]:
    """Density N(x; x_0, sigma_t^2 I) as a function of r, and the flux sigma'/sigma times it."""
    density = (2 * sp.pi * width**2) ** (-sp.sympify(n) / 2) * sp.exp(-(r**2) / (2 * width**2))
    return density, sp.diff(width, t) / width * density


def gaussian_flux_minus_score(n: int) -> Matrix:
    """Flux of the Gaussian kernel over n coordinates minus -sigma sigma' grad p: zero, the variance-exploding probability-flow ODE."""
    coords = coordinates(n)
    radius = sp.sqrt(sum(c**2 for c in coords))
    density, flux = (part.subs(r, radius) for part in gaussian_kernel(n))
    return _simplified(flux * Matrix(coords) + sp.diff(width, t) * width * gradient(density, coords))


def from_radial_cdf(psi: Expr = radial_cdf, n: Expr | int = d, leak: Expr | int = 0) -> tuple[Expr, Expr]:
    """Density r^{1-n} dpsi/dr and flux -r^{-n} d(psi + leak)/dt of a radial distribution function, both times S_{n-1}."""
    return sp.diff(psi, r) / r ** (n - 1), -sp.diff(psi + leak, t) / r**n


def sphere_outflow(flux: Expr, n: Expr | int = d) -> Expr:
    """Mass per unit time out of the ball of radius r, over S_{n-1}: flux r^n. Its limit at r = 0 is the strength of a source at the data point."""
    return sp.simplify(flux * r**n)


def radial_velocity(psi: Expr = radial_cdf) -> Expr:
    """dr/dt of a particle that keeps its quantile, psi(t, r(t)) constant."""
    path = sp.Function("r_p", positive=True)(t)
    total = sp.diff(psi.subs(r, path), t)
    speed = sp.solve(total, sp.diff(path, t))[0]
    return sp.simplify(speed.subs(path, r).doit())


def self_similar() -> Expr:
    """psi(t, r) = Psi(r / t) for a generic function Psi."""
    return sp.Function("Psi")(r / t)


def anisotropic_residual(correct: bool = True) -> Expr:
    """Space-time divergence of (p, p M_t x), p = N(0, S_t) in the plane with a generic S_t, M_t = S_t' S_t^{-1} / 2; without the half if not correct."""
    a, b, c = (sp.Function(name, real=True)(t) for name in "abc")
    S, coords = Matrix([[a, b], [b, c]]), coordinates(2)
    column = Matrix(coords)
    # det S > 0 for a covariance; its root enters p and the rest cancels
    log_p = -sp.log(S.det()) / 2 - (column.T * S.inv() * column)[0] / 2
    M = sp.diff(S, t) * S.inv() / (2 if correct else 1)
    field = M * column
    return sp.simplify(sp.diff(log_p, t) + (gradient(log_p, coords).T * field)[0] + divergence(field, coords))


# --- characteristics ------------------------------------------------------------------------------------------------------------------------


def first_integral_field(first_integral: Matrix, coords: Sequence[Symbol]) -> Matrix:
    """-(d phi/dx)^{-1} d phi/dt for a first integral phi_t(x | x_0) = x_T."""
    matrix = first_integral.jacobian(Matrix(list(coords)))
    return _simplified(-matrix.adjugate() * sp.diff(first_integral, t) / sp.simplify(matrix.det()))


def curve_family(name: str, n: int = 2) -> tuple[Matrix, Matrix, tuple[Symbol, ...], tuple[Symbol, ...]]:
    """Curve x_t (in terms of x_T), first integral x_T (in terms of x), coordinates of x and of x_T: "straight", "parabola" or "rotating" (n = 2).

    Raises:
        ValueError: another name, or "rotating" outside the plane.
    """
    x, x0, far = (Matrix(coordinates(n, name)) for name in ("x", "x0", "xT"))
    if name == "rotating" and n == 2:
        angle = (1 - t) * Symbol("omega", real=True)
        rotation = Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
        turn, back = rotation * t, rotation.T / t
    elif name in ("straight", "parabola"):
        power = {"straight": 1, "parabola": 2}[name]
        turn, back = sp.eye(n) * t**power, sp.eye(n) / t**power
    else:
        raise ValueError(f"name must be straight, parabola or (for n = 2) rotating; got {name!r} with n = {n}")
    return x0 + turn * (far - x0), x0 + back * (x - x0), tuple(x), tuple(far)


def field_along_curve(name: str, n: int = 2) -> Matrix:
    """Field of the first integral at a point of the curve minus the curve's time derivative: zero."""
    curve, first_integral, x, _ = curve_family(name, n)
    field = first_integral_field(first_integral, x).subs(dict(zip(x, curve)), simultaneous=True)
    return _simplified(field - sp.diff(curve, t))


def characteristic_residual(first_integral: Matrix, coords: Sequence[Symbol]) -> Expr:
    """Continuity equation, over p, of log p = log p_T(phi) + log det d phi/dx with the field of phi, for a generic prior: zero."""
    n = len(coords)
    prior = sp.Function("ell", real=True)
    places = coordinates(n, "y")
    matrix = first_integral.jacobian(Matrix(list(coords)))
    field = first_integral_field(first_integral, coords)
    log_det = sp.log(sp.simplify(matrix.det()))
    # the chain rule by hand: the gradient of the prior stays a symbol, and sympy has no derivative at a composed argument to simplify
    slopes = Matrix([sp.diff(prior(*places), y) for y in places])
    along = matrix * field + sp.diff(first_integral, t)
    rest = sp.diff(log_det, t) + (gradient(log_det, coords).T * field)[0] + divergence(field, coords)
    return sp.simplify((slopes.T * along)[0] + rest)


def log_factor_two_ways(name: str, n: int = 2) -> Expr:
    """int_t^1 div f ds along the curve minus log |det d phi/dx|: zero, the two forms of the density's factor."""
    _, first_integral, x, _ = curve_family(name, n)
    spread = divergence(first_integral_field(first_integral, x), x)
    integral = sp.integrate(sp.simplify(spread).subs(t, scale), (scale, t, 1))
    return sp.simplify(integral - sp.log(sp.simplify(first_integral.jacobian(Matrix(x)).det())))


def hyperbolic_first_integral() -> tuple[Matrix, tuple[Symbol, ...]]:
    """x_T = x_0 + sinh((x - x_0) / t) on the line: curves that are not linear in x_T."""
    x, x0 = coordinates(1)[0], Symbol("x0", real=True)
    return Matrix([x0 + sp.sinh((x - x0) / t)]), (x,)


def affine_family(n: int = 1) -> tuple[Matrix, Matrix, tuple[Symbol, ...]]:
    """First integral (x - mu_t(x_0)) / sigma_t, the field mu' + sigma'/sigma (x - mu) it should have, and the coordinates; generic mu and sigma."""
    x = coordinates(n)
    mu = Matrix([sp.Function(f"mu_{i + 1}", real=True)(t) for i in range(n)])
    return (Matrix(x) - mu) / width, sp.diff(mu, t) + sp.diff(width, t) / width * (Matrix(x) - mu), x


# --- test functions -------------------------------------------------------------------------------------------------------------------------


@cache
def one_step_coefficients() -> tuple[Expr, Expr]:
    """Coefficients of h in H(path(t + h)) and in H(path(t) + h f) for a generic H on the plane, path and velocity f.

    Their mean over the ends agrees where f = E[path' | x_t] (tower property), for every H at once only then or up to a part that moves no mass.
    """
    a, b = coordinates(2, "a")
    H = sp.Function("H", real=True)
    path = [sp.Function(f"varphi_{i}", real=True) for i in (1, 2)]
    f = sp.symbols("f_1 f_2", real=True)
    slopes = [sp.diff(H(a, b), s).subs({a: path[0](t), b: path[1](t)}) for s in (a, b)]
    true = sum((s * sp.diff(p(t), t) for s, p in zip(slopes, path)), sp.Integer(0))
    step = sum((s * v for s, v in zip(slopes, f)), sp.Integer(0))
    return true, step


@cache
def gaussian_gap(terms: int = 3, slip: Expr | int = 0) -> list[Expr]:
    """Coefficients of 1, h, h^2, ... in E e^{ikx_{t+h}} - E e^{ik(x_t + h f(x_t))}, x_t ~ N(0, V(t)), f = (V'/2V + slip) x.

    The characteristic function of a centred normal is e^{-V k^2/2}, and a linear step multiplies its variance.
    """
    V = sp.Function("V", positive=True)
    rate = sp.diff(V(t), t) / (2 * V(t)) + slip
    ahead = sum(sp.diff(V(t), t, i) * h**i / sp.factorial(i) for i in range(terms + 1))
    moved = V(t) * (1 + h * rate) ** 2
    gap = sp.exp(-(ahead - V(t)) * k**2 / 2) - sp.exp(-(moved - V(t)) * k**2 / 2)
    front = sp.exp(-V(t) * k**2 / 2)
    return [sp.simplify(front * sp.diff(gap, h, i).subs(h, 0) / sp.factorial(i)) for i in range(terms)]


def weak_generator_residual() -> Expr:
    """-div(f p) + g^2/2 p'' against h, minus p (f h' + g^2/2 h''), minus the boundary terms d/dx(...): zero (integration by parts, on the line)."""
    x = Symbol("x", real=True)
    p, f, test = (sp.Function(name, real=True)(x) for name in ("p", "f", "h"))
    g2 = Symbol("g", positive=True) ** 2
    moved = (-sp.diff(f * p, x) + g2 / 2 * sp.diff(p, x, 2)) * test
    weak = p * (f * sp.diff(test, x) + g2 / 2 * sp.diff(test, x, 2))
    boundary = -f * p * test + g2 / 2 * (sp.diff(p, x) * test - p * sp.diff(test, x))
    return sp.simplify(moved - weak - sp.diff(boundary, x))


def _simplified(matrix: Matrix) -> Matrix:
    """Entry by entry, and mutable as it came: ``sp.simplify`` of a matrix returns an immutable one."""
    return Matrix(matrix.applyfunc(sp.simplify))
