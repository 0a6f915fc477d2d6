"""Chapter 2 derived in sympy: each function performs the derivation and returns what comes out, nothing is typed in from the book.

Everything is written for one coordinate; all laws of the chapter are isotropic, so coordinates do not interact. The two free
numbers of a step of the chain are ``alpha`` (this step's signal coefficient) and ``alpha_bar_prev`` (the product up to the previous
step); ``beta_var = 1 - alpha**2`` and ``alpha_bar = alpha * alpha_bar_prev`` follow, which keeps every result a rational function.
"""

from functools import cache

import sympy as sp
from sympy import Expr, Symbol

alpha = Symbol("alpha", positive=True)
alpha_bar_prev = Symbol("alpha_bar_prev", positive=True)
beta_var = 1 - alpha**2
alpha_bar = alpha * alpha_bar_prev

x_0, x_i, x_prev = sp.symbols("x_0 x_i x_prev", real=True)
noise, noise_model, clean_model = sp.symbols("noise noise_model clean_model", real=True)
data_var = Symbol("data_var", positive=True)

mean_1, mean_2 = sp.symbols("mean_1 mean_2", real=True)
std_1, std_2 = sp.symbols("std_1 std_2", positive=True)

weight, offset, x, z, q_mean = sp.symbols("weight offset x z q_mean", real=True)
sigma_dec, q_std = sp.symbols("sigma_dec q_std", positive=True)


def log_normal(value: Expr, mean: Expr, var: Expr) -> Expr:
    """Log-density of N(mean, var) at ``value``."""
    return -((value - mean) ** 2) / (2 * var) - sp.log(2 * sp.pi * var) / 2


def normal_expectation(expr: Expr, *normals: Symbol) -> Expr:
    """Integrate ``expr`` against independent standard normal laws of the given symbols."""
    for u in normals:
        density = sp.exp(-(u**2) / 2) / sp.sqrt(2 * sp.pi)
        powers = sp.Poly(sp.expand(expr), u).terms()  # one integral per power of u; the coefficients stay outside
        expr = sum((c * sp.integrate(u**k * density, (u, -sp.oo, sp.oo)) for (k,), c in powers), sp.Integer(0))
    return sp.simplify(expr)


def complete_square(exponent: Expr, variable: Symbol) -> tuple[Expr, Expr]:
    """Read mean and variance of a Gaussian off its exponent, -precision * v^2 / 2 + linear * v + (terms free of v).

    Raises:
        ValueError: the exponent is not a quadratic polynomial in ``variable``.
    """
    poly = sp.Poly(sp.expand(exponent), variable)
    if poly.degree() != 2:
        raise ValueError(f"the exponent must be quadratic in {variable}, got degree {poly.degree()}")
    precision = -2 * poly.coeff_monomial(variable**2)
    linear = poly.coeff_monomial(variable)
    return sp.factor(sp.cancel(linear / precision)), sp.factor(sp.cancel(1 / precision))


# --- Gaussian KL and the VAE (sections 2.1.1 to 2.1.4) ------------------------------------------------------------------------------


@cache
def gaussian_kl() -> Expr:
    """KL(N(mean_1, std_1^2) || N(mean_2, std_2^2)), by integrating the log-ratio against the first law."""
    u = Symbol("u", real=True)
    value = mean_1 + std_1 * u  # change of variables: the first law becomes the standard normal one
    ratio = log_normal(value, mean_1, std_1**2) - log_normal(value, mean_2, std_2**2)
    return sp.simplify(sp.expand_log(normal_expectation(sp.expand_log(ratio), u)))


def kl_between(mean_a: Expr, var_a: Expr, mean_b: Expr, var_b: Expr) -> Expr:
    """`gaussian_kl` with expressions put in for its means and variances."""
    places = {mean_1: mean_a, std_1: sp.sqrt(var_a), mean_2: mean_b, std_2: sp.sqrt(var_b)}
    return gaussian_kl().subs(places, simultaneous=True)


def optimal_decoder(weights: list[Expr], points: list[Expr]) -> Expr:
    """Minimiser of sum_k w_k (x_k - mu)^2 over mu, by the first-order condition (section 2.1.4): the weighted mean of the points."""
    mu = Symbol("mu", real=True)
    risk = sum(w * (p - mu) ** 2 for w, p in zip(weights, points, strict=True))
    (solution,) = sp.solve(sp.diff(risk, mu), mu)
    return sp.simplify(solution)


@cache
def linear_gaussian_posterior() -> tuple[Expr, Expr]:
    """Mean and variance of p(z | x) for z ~ N(0, 1), x | z ~ N(weight z + offset, sigma_dec^2), by completing the square."""
    return complete_square(log_normal(x, weight * z + offset, sigma_dec**2) + log_normal(z, sp.Integer(0), sp.Integer(1)), z)


@cache
def linear_gaussian_log_evidence() -> Expr:
    """log p(x) of the same model, as log p(x, z) - log p(z | x), which must not depend on z (a free check of the posterior)."""
    mean, var = linear_gaussian_posterior()
    joint = log_normal(x, weight * z + offset, sigma_dec**2) + log_normal(z, sp.Integer(0), sp.Integer(1))
    return sp.simplify(joint - log_normal(z, mean, var))


@cache
def linear_gaussian_elbo() -> Expr:
    """The bound of Theorem 2.1.1 for q(z | x) = N(q_mean, q_std^2): E_q log p(x, z) - E_q log q(z), integrated."""
    u = Symbol("u", real=True)
    code = q_mean + q_std * u
    joint = log_normal(x, weight * code + offset, sigma_dec**2) + log_normal(code, sp.Integer(0), sp.Integer(1))
    return normal_expectation(joint - log_normal(code, q_mean, q_std**2), u)


# --- the chain: perturbation kernel and reverse kernel (sections 2.2.1, 2.2.2) --------------------------------------------------------


@cache
def perturbation_step() -> tuple[Expr, Expr]:
    """Induction step of Eq. 2.2.1: mean and variance of x_i given x_0, from the same statement at i - 1 and one forward step."""
    u, v = sp.symbols("u v", real=True)
    previous = alpha_bar_prev * x_0 + sp.sqrt(1 - alpha_bar_prev**2) * u
    value = alpha * previous + sp.sqrt(beta_var) * v
    mean = normal_expectation(value, u, v)
    return mean, sp.factor(normal_expectation((value - mean) ** 2, u, v))


def prior_kl() -> Expr:
    """KL(p(x_i | x_0) || N(0, 1)) for one coordinate (section 2.2.1)."""
    mean, var = perturbation_step()
    return sp.expand_log(kl_between(mean, var, sp.Integer(0), sp.Integer(1)))


@cache
def reverse_conditional() -> tuple[Expr, Expr]:
    """Lemma 2.2.2: mean and variance of p(x_{i-1} | x_i, x_0), from the product p(x_i | x_{i-1}) p(x_{i-1} | x_0).

    The third factor of Bayes' formula, 1 / p(x_i | x_0), is free of x_{i-1} and only normalises.
    """
    product = log_normal(x_i, alpha * x_prev, beta_var) + log_normal(x_prev, alpha_bar_prev * x_0, 1 - alpha_bar_prev**2)
    return complete_square(product, x_prev)


def posterior_coefficients() -> tuple[Expr, Expr]:
    """Coefficients of x_0 and of x_i in the mean of Lemma 2.2.2 (Eq. 2.2.4)."""
    mean, _ = reverse_conditional()
    return sp.factor(sp.diff(mean, x_0)), sp.factor(sp.diff(mean, x_i))


def coefficient_sum() -> Expr:
    """Sum of the two coefficients: below one for i >= 2, so the step is no convex combination (section 2.2.6)."""
    return sp.factor(sp.cancel(sum(posterior_coefficients())))


def mean_from_noise() -> Expr:
    """The eps-form of the mean (section 2.2.4): x_0 replaced by what (x_i, noise) say it is."""
    (clean,) = sp.solve(sp.Eq(x_i, alpha_bar * x_0 + sp.sqrt(1 - alpha_bar**2) * noise), x_0)
    mean, _ = reverse_conditional()
    return sp.collect(sp.expand(sp.simplify(mean.subs(x_0, clean))), [x_i, noise], sp.factor)


def noise_weight() -> Expr:
    """Factor of (noise_model - noise)^2 in the KL of Eq. 2.2.7, with both means in eps-form."""
    _, var = reverse_conditional()
    mean = mean_from_noise()
    kl = kl_between(mean, var, mean.subs(noise, noise_model), var)
    return sp.factor(sp.simplify(kl / (noise_model - noise) ** 2))


def clean_weight() -> Expr:
    """Factor of (clean_model - x_0)^2 in the KL of Eq. 2.2.7, with both means in clean form."""
    mean, var = reverse_conditional()
    kl = kl_between(mean, var, mean.subs(x_0, clean_model), var)
    return sp.factor(sp.simplify(kl / (clean_model - x_0) ** 2))


# --- Gaussian data N(0, data_var): Theorem 2.2.1 and the best reverse variance --------------------------------------------------------


@cache
def gaussian_data_reverse() -> tuple[Expr, Expr]:
    """Mean and variance of p(x_{i-1} | x_i) for data N(0, data_var), by completing the square in p(x_i | x_{i-1}) p_{i-1}(x_{i-1})."""
    previous_var = alpha_bar_prev**2 * data_var + 1 - alpha_bar_prev**2
    return complete_square(log_normal(x_i, alpha * x_prev, beta_var) + log_normal(x_prev, sp.Integer(0), previous_var), x_prev)


def _average(kl: Expr) -> Expr:
    """Average over x_0 ~ N(0, data_var) and x_i given x_0."""
    u, v = sp.symbols("u v", real=True)
    clean = sp.sqrt(data_var) * u
    level = alpha_bar * clean + sp.sqrt(1 - alpha_bar**2) * v
    return normal_expectation(kl.subs({x_0: clean, x_i: level}, simultaneous=True), u, v)


@cache
def conditional_kl_constant() -> Expr:
    """C of Theorem 2.2.1 for Gaussian data: averaged marginal KL minus averaged conditional KL.

    Computed with p_phi = N(slope x_i + shift, model_var) for symbolic slope, shift and model_var; all three must cancel.
    """
    slope, shift = sp.symbols("slope shift", real=True)
    model_var = Symbol("model_var", positive=True)
    model = slope * x_i + shift
    marginal = kl_between(*gaussian_data_reverse(), model, model_var)
    conditional = kl_between(*reverse_conditional(), model, model_var)
    return sp.simplify(sp.expand(_average(marginal) - _average(conditional)))


@cache
def optimal_reverse_variance() -> Expr:
    """Scalar variance that minimises the averaged KL of Eq. 2.2.2 for Gaussian data, when the mean is exact."""
    model_var = Symbol("model_var", positive=True)
    mean, var = gaussian_data_reverse()
    (solution,) = sp.solve(sp.diff(kl_between(mean, var, mean, model_var), model_var), model_var)
    return sp.factor(solution)


def optimal_reverse_variance_limits() -> tuple[Expr, Expr]:
    """Limits of `optimal_reverse_variance` for a point mass (data_var -> 0) and for data that is N(0, 1) already."""
    best = optimal_reverse_variance()
    return sp.factor(sp.limit(best, data_var, 0)), sp.factor(sp.cancel(best.subs(data_var, 1)))
