"""The derivations of chapter 2 against the statements as the book prints them, and against independent integration."""

import pytest
import sympy as sp

from mathcore.symbolic import variational as sv

a, ap, b2 = sv.alpha, sv.alpha_bar_prev, sv.beta_var
ab = sv.alpha_bar


def zero(expr):
    return sp.simplify(expr) == 0


def test_gaussian_kl_is_the_printed_formula():
    m1, m2, s1, s2 = sv.mean_1, sv.mean_2, sv.std_1, sv.std_2
    assert zero(sv.gaussian_kl() - (sp.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - sp.Rational(1, 2)))
    to_prior = sv.gaussian_kl().subs({m2: 0, s2: 1})
    assert zero(sp.expand_log(to_prior - (m1**2 + s1**2 - 1 - sp.log(s1**2)) / 2))


def test_normal_expectation_knows_the_moments():
    u, v = sp.symbols("u v", real=True)
    assert [sv.normal_expectation(u**k, u) for k in range(7)] == [1, 0, 1, 0, 3, 0, 15]
    assert sv.normal_expectation(u**2 * v**4 + u * v, u, v) == 3


def test_complete_square_refuses_what_is_not_a_gaussian_exponent():
    with pytest.raises(ValueError, match="degree 3"):
        sv.complete_square(sv.z**3, sv.z)


def test_induction_step():
    mean, var = sv.perturbation_step()
    assert zero(mean - ab * sv.x_0)
    assert zero(var - (1 - ab**2))


def test_prior_kl():
    printed = (ab**2 * sv.x_0**2 - ab**2 - sp.log(1 - ab**2)) / 2
    assert abs((sv.prior_kl() - printed).subs({a: 0.8, ap: 0.3, sv.x_0: 1.7}).evalf()) < 1e-14


def test_lemma_2_2_2():
    mean, var = sv.reverse_conditional()
    printed = ap * b2 / (1 - ab**2) * sv.x_0 + (1 - ap**2) * a / (1 - ab**2) * sv.x_i
    assert zero(mean - printed)
    assert zero(var - (1 - ap**2) / (1 - ab**2) * b2)
    assert zero(1 / var - (a**2 / b2 + 1 / (1 - ap**2)))
    assert not zero(var - b2)  # the original paper's alternative is another number
    assert var.subs(ap, 1) == 0
    assert zero(mean.subs(ap, 1) - sv.x_0)  # boundary i = 1


def test_bayes_product_is_the_lemma_as_a_density():
    mean, var = sv.reverse_conditional()
    log_bayes = (
        sv.log_normal(sv.x_i, a * sv.x_prev, b2)
        + sv.log_normal(sv.x_prev, ap * sv.x_0, 1 - ap**2)
        - sv.log_normal(sv.x_i, ab * sv.x_0, 1 - ab**2)
    )
    point = {a: 0.9, ap: 0.7, sv.x_0: -0.4, sv.x_i: 0.8, sv.x_prev: 1.3}
    assert abs((log_bayes - sv.log_normal(sv.x_prev, mean, var)).subs(point).evalf()) < 1e-13


def test_eps_form_and_its_weight():
    printed = (sv.x_i - (1 - a**2) / sp.sqrt(1 - ab**2) * sv.noise) / a
    assert zero(sv.mean_from_noise() - printed)
    assert zero(sv.noise_weight() - b2 / (2 * a**2 * (1 - ap**2)))


def test_clean_weight_is_half_the_snr_drop():
    snr, snr_prev = ab**2 / (1 - ab**2), ap**2 / (1 - ap**2)
    assert zero(sv.clean_weight() - (snr_prev - snr) / 2)


def test_coefficients_do_not_sum_to_one():
    assert zero(sv.coefficient_sum() - (ap + a) / (1 + ap * a))
    # 1 - sum = (1 - ap)(1 - a)/(1 + ap a) > 0 for ap, a < 1
    assert zero(1 - sv.coefficient_sum() - (1 - ap) * (1 - a) / (1 + ap * a))


def test_constant_of_theorem_2_2_1():
    constant = sv.conditional_kl_constant()
    assert constant.free_symbols <= {a, ap, sv.data_var}  # slope, shift and variance of p_phi have cancelled
    v_prev, v_i = ap**2 * sv.data_var + 1 - ap**2, ab**2 * sv.data_var + 1 - ab**2
    printed = -sp.log(v_prev * b2 / v_i / sv.reverse_conditional()[1]) / 2
    for point in ({a: 0.9, ap: 0.7, sv.data_var: 0.25}, {a: 0.5, ap: 0.95, sv.data_var: 3.0}):
        value = constant.subs(point).evalf()
        assert abs(value - printed.subs(point).evalf()) < 1e-13
        assert value < 0


def test_optimal_reverse_variance_and_limits():
    v_prev, v_i = ap**2 * sv.data_var + 1 - ap**2, ab**2 * sv.data_var + 1 - ab**2
    assert zero(sv.optimal_reverse_variance() - v_prev * b2 / v_i)
    point_mass, standard = sv.optimal_reverse_variance_limits()
    assert zero(point_mass - sv.reverse_conditional()[1])
    assert zero(standard - b2)


def test_linear_gaussian_posterior_evidence_and_gap():
    mean, var = sv.linear_gaussian_posterior()
    m = sv.weight**2 + sv.sigma_dec**2
    assert zero(mean - sv.weight * (sv.x - sv.offset) / m)
    assert zero(var - sv.sigma_dec**2 / m)
    evidence = sv.linear_gaussian_log_evidence()
    assert sv.z not in evidence.free_symbols
    point = {sv.weight: 1.3, sv.offset: 0.2, sv.sigma_dec: 0.6, sv.x: -0.7, sv.q_mean: 0.1, sv.q_std: 0.4}
    assert abs((evidence - sv.log_normal(sv.x, sv.offset, m)).subs(point).evalf()) < 1e-13
    gap = evidence - sv.linear_gaussian_elbo() - sv.kl_between(sv.q_mean, sv.q_std**2, mean, var)
    assert abs(gap.subs(point).evalf()) < 1e-13


def test_optimal_decoder_is_the_weighted_mean():
    w = sp.symbols("w1:4", positive=True)
    p = sp.symbols("p1:4", real=True)
    assert zero(sv.optimal_decoder(list(w), list(p)) - sum(i * j for i, j in zip(w, p)) / sum(w))
