"""The derivations against scipy's integrals, numbers put in for generic functions, and slips that must show."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import integrate, stats

from mathcore.symbolic import construction as c
from mathcore.symbolic.construction import C, R, d, h, k, r, t

sigma = c.width
V = sp.Function("V", positive=True)


# --- force fields -------------------------------------------------------------------------------------------------------------------------


def test_the_isotropic_field_of_space_time_is_an_inverse_power():
    solution = c.isotropic_profile()
    assert sp.simplify(solution * R ** (d + 1)).free_symbols == {sp.Symbol("C1")}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gravity_has_no_divergence(n):
    density, flux, coords = c.gravity(n)
    assert sp.simplify(c.space_time_divergence(density, flux, coords)) == 0
    # an inverse square law is divergence-free in three dimensions of space-time, n = 2, and in no other
    square = (t**2 + sum(x**2 for x in coords)) ** sp.Rational(3, 2)
    other = c.space_time_divergence(C * t / square, sp.Matrix([C * x / square for x in coords]), coords)
    assert (sp.simplify(other) == 0) == (n == 2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_the_constant_of_mass(n):
    assert sp.simplify(c.mass_constant(n) - c.mass_constant_closed(n)) == 0
    shells, _ = integrate.quad(lambda z: z ** (n - 1) / (1 + z * z) ** ((n + 1) / 2), 0, math.inf, epsabs=1e-13)
    assert float(c.mass_constant(n)) * float(c.sphere_area(n)) * shells == pytest.approx(1, rel=1e-10)
    assert sp.simplify(c.mass_constant_closed().subs(d, n) - c.mass_constant(n)) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_ratio_of_two_normal_lengths(n):
    law = c.ratio_law(n)
    assert sp.simplify(law - c.cauchy_radius_law(n)) == 0
    # r^2 / n is an F variable with n and 1 degrees of freedom
    at = np.array([0.1, 0.7, 1.0, 3.0, 20.0])
    want = stats.f(n, 1).pdf(at**2 / n) * 2 * at / n
    np.testing.assert_allclose(sp.lambdify(r, law)(at), want, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_scales_over_the_whole_half_line_give_the_kernel(n):
    shape = c.law_given_time(n) * (r**2 + t**2) ** sp.Rational(n + 1, 2)
    assert sp.simplify(sp.diff(shape, r)) == 0
    assert sp.simplify(sp.diff(shape, t)) == 0


def test_the_total_variation_on_the_line():
    value = c.total_variation_cauchy(r, t)
    for time, want in ((1, 0.29517), (10, 0.03180), (100, 0.003183)):
        assert float(value.subs({r: 1, t: time})) == pytest.approx(want, abs=6e-6)


def test_the_gaussian_kernel_solves_the_radial_equation_in_every_dimension():
    density, flux = c.gaussian_kernel()
    assert sp.simplify(c.radial_residual(density, flux)) == 0
    assert sp.simplify(c.radial_residual(density, 2 * flux)) != 0
    # found from the density alone where the dimension is a number
    for n in (2, 3):
        own, want = c.gaussian_kernel(n)
        assert sp.simplify(c.radial_flux(own, n) - want) == 0


def test_the_gaussian_field_is_the_variance_exploding_flow():
    for n in (1, 2, 3):
        assert c.gaussian_flux_minus_score(n) == sp.zeros(n, 1)


def test_any_radial_distribution_function_will_do():
    assert sp.simplify(c.radial_residual(*c.from_radial_cdf())) == 0
    for psi in (sp.tanh(r / t), 1 - sp.exp(-r / t), 1 - sp.exp(-((r / t) ** k))):
        assert sp.simplify(c.radial_residual(*c.from_radial_cdf(psi))) == 0
    density, flux = c.from_radial_cdf()
    assert sp.simplify(c.radial_residual(density, -flux)) != 0


def test_a_leak_hides_from_the_equation_and_shows_in_small_spheres():
    """psi + lambda(t) solves the equation off the source all the same; the ball around the data point then loses lambda' per unit time."""
    leak = sp.Function("lambda")(t)
    density, flux = c.from_radial_cdf(sp.tanh(r / t), leak=leak)
    assert sp.simplify(c.radial_residual(density, flux)) == 0
    assert sp.simplify(sp.limit(c.sphere_outflow(flux), r, 0) + sp.diff(leak, t)) == 0
    assert sp.limit(c.sphere_outflow(c.from_radial_cdf(sp.tanh(r / t))[1]), r, 0) == 0
    # a lower end of 1 in place of 0 is such a leak
    own, want = c.gaussian_kernel(2)
    assert sp.simplify(c.radial_flux(own, 2, lower=1) - want) != 0


def test_quantiles_are_kept_and_self_similar_kernels_share_their_field():
    psi = c.radial_cdf
    assert sp.simplify(c.radial_velocity() + sp.diff(psi, t) / sp.diff(psi, r)) == 0
    density, flux = c.from_radial_cdf()
    assert sp.simplify(c.radial_velocity() - r * flux / density) == 0
    for own in (c.self_similar(), sp.tanh(r / t), 1 - sp.exp(-r / t), sp.erf(r / (sp.sqrt(2) * t)), 2 * sp.atan(r / t) / sp.pi):
        assert sp.simplify(c.radial_velocity(own) - r / t) == 0
    assert sp.simplify(c.radial_velocity(sp.tanh(r / t**2)) - r / t) != 0


def test_an_anisotropic_gaussian():
    assert c.anisotropic_residual() == 0
    assert c.anisotropic_residual(correct=False) != 0


# --- characteristics ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["straight", "parabola", "rotating"])
def test_families_of_curves(name):
    curve, first_integral, x, far = c.curve_family(name)
    back = first_integral.subs(dict(zip(x, curve)), simultaneous=True)
    assert sp.simplify(back - sp.Matrix(far)) == sp.zeros(2, 1)
    assert c.field_along_curve(name) == sp.zeros(2, 1)
    assert c.log_factor_two_ways(name) == 0
    assert c.characteristic_residual(first_integral, x) == 0
    sources = c.coordinates(2, "x0")
    assert sp.simplify(curve.subs(t, 0) - sp.Matrix(sources)) == sp.zeros(2, 1)


def test_the_fields_written_out():
    x, x0 = sp.Matrix(c.coordinates(2)), sp.Matrix(c.coordinates(2, "x0"))
    for name, power in (("straight", 1), ("parabola", 2)):
        field = c.first_integral_field(c.curve_family(name)[1], tuple(x))
        assert sp.simplify(field - power * (x - x0) / t) == sp.zeros(2, 1)
        assert sp.simplify(c.divergence(field, tuple(x)) - 2 * power / t) == 0


def test_curves_that_are_not_affine():
    first_integral, coords = c.hyperbolic_first_integral()
    assert c.characteristic_residual(first_integral, coords) == 0
    field = c.first_integral_field(first_integral, coords)
    # sinh((x - x_0)/t) constant along (x - x_0)/t constant
    assert sp.simplify(field[0] - (coords[0] - sp.Symbol("x0", real=True)) / t) == 0


@pytest.mark.parametrize("n", [1, 2])
def test_affine_paths_to_any_prior(n):
    first_integral, want, coords = c.affine_family(n)
    assert sp.simplify(c.first_integral_field(first_integral, coords) - want) == sp.zeros(n, 1)
    assert sp.simplify(c.divergence(want, coords) - n * sp.diff(sigma, t) / sigma) == 0
    assert c.characteristic_residual(first_integral, coords) == 0
    assert sp.simplify(first_integral.jacobian(sp.Matrix(coords)).det() - sigma**-n) == 0


@pytest.mark.parametrize(("name", "n"), [("spiral", 2), ("rotating", 3)])
def test_unknown_curves(name, n):
    with pytest.raises(ValueError, match="straight, parabola or"):
        c.curve_family(name, n)


# --- test functions -----------------------------------------------------------------------------------------------------------------------


def test_first_order_of_one_step():
    """With H, path and velocity put in: the coefficients of the two expansions by difference quotients."""
    true, step = c.one_step_coefficients()
    a, b = c.coordinates(2, "a")
    f = sp.symbols("f_1 f_2", real=True)
    path, H = (sp.sin(t), t**2), a**2 * b
    functions = {sp.Function(f"varphi_{i}", real=True): sp.Lambda(t, p) for i, p in zip((1, 2), path)}
    put = {sp.Function("H", real=True): sp.Lambda((a, b), H)}

    def numbers(expr):
        for old, new in (put | functions).items():  # H first: sympy has no derivative by sin(t)
            expr = expr.replace(old, new).doit()
        return float(expr.subs({t: 0.7, f[0]: 0.3, f[1]: -0.2}))

    def value(at):
        return math.sin(at) ** 2 * at**2

    assert numbers(true) == pytest.approx((value(0.7 + 1e-6) - value(0.7 - 1e-6)) / 2e-6, rel=1e-8)

    def stepped(size):
        return (math.sin(0.7) + size * 0.3) ** 2 * (0.49 - size * 0.2)

    assert numbers(step) == pytest.approx((stepped(1e-6) - stepped(-1e-6)) / 2e-6, rel=1e-8)


def test_the_gap_between_gaussians():
    exact = c.gaussian_gap()
    assert exact[:2] == [0, 0]
    assert exact[2] != 0
    slip = sp.Symbol("w", real=True)
    wrong = c.gaussian_gap(slip=slip)
    assert wrong[0] == 0
    assert sp.simplify(wrong[1] - slip * V(t) * k**2 * sp.exp(-V(t) * k**2 / 2)) == 0
    # the second-order coefficient against the gap itself, for V = (1 - t)^2 + t^2 / 4
    variance = (1 - t) ** 2 + t**2 / 4
    coefficient = float(exact[2].subs(V(t), variance).doit().subs({t: 0.3, k: 1.7}))
    v, rate = (sp.lambdify(t, e) for e in (variance, sp.diff(variance, t) / (2 * variance)))
    step = 1e-3
    gap = math.exp(-v(0.3 + step) * 1.7**2 / 2) - math.exp(-v(0.3) * (1 + step * rate(0.3)) ** 2 * 1.7**2 / 2)
    assert gap / step**2 == pytest.approx(coefficient, rel=5e-3)  # the next order is a factor of the step


def test_the_series_of_the_gap_in_the_step():
    assert h not in sp.Add(*c.gaussian_gap()).free_symbols


def test_weak_and_strong_form_differ_by_boundary_terms():
    assert c.weak_generator_residual() == 0
