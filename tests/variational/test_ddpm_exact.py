"""Exact sampler laws and kernel errors: the book's numbers, and routes that share no formula with the code."""

import math

import pytest
import sympy as sp
import torch

from mathcore.discrete_schedule import DiscreteSchedule
from mathcore.distributions import GaussianMixture
from mathcore.divergences import kl_gaussian
from mathcore.symbolic import variational as sv
from mathcore.variational.ddpm import ddpm_sample, oracle_model
from mathcore.variational.ddpm_exact import (
    GaussianChain,
    ddpm_gaussian_recursion,
    forward_joint,
    reverse_kernel_error,
    sampler_law,
    sampler_w1,
)

F = torch.float64
MIXTURE = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F), torch.tensor([[-1.0], [1.0]], dtype=F), torch.tensor([0.04, 0.09], dtype=F))


@pytest.fixture(scope="module")
def short():
    return DiscreteSchedule.from_beta_var(torch.linspace(0.05, 0.5, 8, dtype=F))


@pytest.fixture(scope="module")
def chain(short):
    v1 = float(short.alpha_bar[1] ** 2 * 0.25 + short.sigma_bar[1] ** 2)
    return GaussianChain.oracle(1.0, 0.25, short, final_var=float(short.beta_var[1]) * 0.25 / v1)


def slope(steps, errors):
    x, y = torch.log(torch.tensor(steps, dtype=F)), torch.log(torch.tensor(errors, dtype=F))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def test_bound_of_theorem_2_2_3(chain):
    x0 = torch.tensor([0.3], dtype=F)
    terms = {name: float(value.sum()) for name, value in chain.elbo_terms(x0).items()}
    assert terms["prior"] == pytest.approx(0.00397, abs=5e-6)
    assert terms["recon"] == pytest.approx(-0.06533, abs=5e-6)
    assert terms["diffusion"] == pytest.approx(1.85268, abs=5e-6)
    assert sum(terms.values()) == pytest.approx(1.79132, abs=5e-6)
    assert -float(chain.log_prob(x0)) == pytest.approx(1.33816, abs=5e-6)


def test_bound_by_monte_carlo_of_the_log_ratio(chain, short, generator):
    """-log p_phi(x_{0:L}) + log p(x_{1:L} | x_0) averaged over forward chains, from the factors alone."""
    n, x = 40_000, torch.full((40_000,), 0.3, dtype=F)
    normal = torch.distributions.Normal
    total = torch.zeros(n, dtype=F)
    for i in range(1, 9):
        law = normal(short.alpha_step[i] * x, short.beta_std[i])
        new = law.mean + law.stddev * torch.randn(n, generator=generator, dtype=F)
        total += law.log_prob(new) - normal(chain.slope[i] * new + chain.offset[i], chain.var[i].sqrt()).log_prob(x)
        x = new
    total -= normal(0.0, 1.0).log_prob(x)
    want = float(sum(v.sum() for v in chain.elbo_terms(torch.tensor([0.3], dtype=F)).values()))
    assert abs(float(total.mean()) - want) < 5 * float(total.std()) / n**0.5


def test_joint_of_the_chain_and_data_processing(chain, short):
    forward, reverse = forward_joint(1.0, 0.25, short), chain.joint()
    total = float(kl_gaussian(*forward, *reverse))
    mean, var = chain.law()
    model = float(kl_gaussian(torch.ones(1, dtype=F), torch.full((1, 1), 0.25, dtype=F), mean[:1], var[:1, None]))
    assert 0 < model < total
    # chain rule: total = E_data[bound] - H(data); the bound is quadratic in x_0, so three Gauss-Hermite nodes are exact
    nodes = 1.0 + 0.5 * torch.tensor([-(3**0.5), 0.0, 3**0.5], dtype=F)
    bound = sum(v.reshape(3, -1).sum(1) for v in chain.elbo_terms(nodes).values())
    average = float(torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=F) @ bound)
    assert total == pytest.approx(average - 0.5 * math.log(2 * math.pi * math.e * 0.25), abs=1e-11)


def test_forward_joint_by_pushing_noise_through_the_chain(short):
    """x = A (x_0 - m, eps_1, ...) with A read off the recursion: cov = A diag(v, 1, ...) A^T."""
    rows = [torch.eye(9, dtype=F)[0]]
    for i in range(1, 9):
        rows.append(short.alpha_step[i] * rows[-1] + short.beta_std[i] * torch.eye(9, dtype=F)[i])
    A = torch.stack(rows)
    mean, cov = forward_joint(1.0, 0.25, short)
    noise = torch.ones(9, dtype=F)
    noise[0] = 0.25
    torch.testing.assert_close(cov, A @ torch.diag(noise) @ A.T, rtol=0, atol=1e-13)
    torch.testing.assert_close(mean, A[:, 0], rtol=0, atol=1e-14)


def test_reverse_variance_and_theorem_2_2_1_constant_are_derived_ones(short):
    for i in (2, 5, 8):
        place = {sv.alpha: float(short.alpha_step[i]), sv.alpha_bar_prev: float(short.alpha_bar[i - 1]), sv.data_var: 0.25}
        best = float(sv.optimal_reverse_variance().subs(place))
        assert float(GaussianChain.oracle(1.0, 0.25, short, "oracle").var[i]) == pytest.approx(best, rel=1e-12)
        mean, _ = sv.gaussian_data_reverse()
        assert float(GaussianChain.oracle(0.0, 0.25, short).slope[i]) == pytest.approx(float(sp.diff(mean, sv.x_i).subs(place)), rel=1e-12)


@pytest.mark.parametrize(
    ("variance", "last", "errors"),
    [
        ("posterior", False, [-3.08e-2, -1.18e-2, -3.87e-3, -1.36e-3]),
        ("beta", False, [7.8e-3, 2.5e-3, 7.5e-4, 2.5e-4]),
        ("beta", True, [8.8e-3, 2.9e-3, 8.5e-4, 2.8e-4]),
    ],
)
def test_output_variance_error_is_first_order(variance, last, errors):
    sizes, got = (100, 300, 1000, 3000), []
    for L in sizes:
        schedule = DiscreteSchedule.linear(L)
        final = float(schedule.beta_var[1]) if last else None
        got.append(float(ddpm_gaussian_recursion(1.0, 0.25, schedule, variance, final)[1][0]) - 0.25)
    assert got == pytest.approx(errors, rel=0.02)  # two printed digits
    assert slope(sizes, [abs(e) for e in got]) == pytest.approx({"posterior": -0.92, "beta": -1.01}[variance], abs=0.02)


def test_exact_variance_leaves_only_the_prior_mismatch():
    means, variances = ddpm_gaussian_recursion(1.0, 0.25, DiscreteSchedule.linear(1000), "oracle")
    assert float(variances[0]) - 0.25 == pytest.approx(7.6e-11, rel=0.02)
    assert float(means[0]) - 1 == pytest.approx(-1.01e-5, rel=0.01)


def test_grid_law_is_the_recursion_on_gaussian_data(short):
    data = GaussianMixture(torch.ones(1, dtype=F), torch.ones(1, 1, dtype=F), torch.tensor([0.25], dtype=F))
    for variance in ("posterior", "beta"):
        x, density = sampler_law(data, short, variance)
        mean, var = (float(t[0]) for t in ddpm_gaussian_recursion(1.0, 0.25, short, variance))
        want = torch.exp(-0.5 * (x - mean) ** 2 / var) / math.sqrt(2 * math.pi * var)
        # cubic splines: (h / std)^4 with h = 4e-3, std = .4, over 8 steps
        assert float((density - want).abs().max()) < 1e-7


def test_w1_of_the_posterior_sampler():
    want = {25: 0.0791, 50: 0.0441, 100: 0.0246, 200: 0.0136}
    got = {L: sampler_w1(MIXTURE, DiscreteSchedule.linear(L)) for L in want}
    assert list(got.values()) == pytest.approx(list(want.values()), abs=1e-4)  # printed to 1e-4
    assert -1 <= slope(list(got), list(got.values())) <= -0.75


def test_w1_of_samples_agrees(generator):
    schedule = DiscreteSchedule.linear(25)
    n = 20_000
    x = ddpm_sample(oracle_model(MIXTURE, schedule), (n, 1), schedule, generator=generator, dtype=F)
    grid, density = sampler_law(MIXTURE, schedule)
    cdf = (density.cumsum(0) - density / 2) * (grid[1] - grid[0])
    empirical = torch.searchsorted(x[:, 0].sort().values, grid, right=True) / n
    # Kolmogorov: sup gap exceeds 2 / sqrt(n) with probability 2 exp(-8)
    assert float((empirical - cdf).abs().max()) < 2 / n**0.5


def test_kernel_error_orders():
    data = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F), torch.tensor([[-1.0], [1.0]], dtype=F), torch.full((2,), 0.35**2, dtype=F))
    steps = (0.5, 0.2, 0.1, 0.05, 0.025)
    errors = [reverse_kernel_error(data, 0.9, b) for b in steps]
    matched, fixed = [e.matched for e in errors], [e.fixed for e in errors]
    assert matched == pytest.approx([1.817e-2, 2.560e-4, 5.243e-6, 8.844e-8, 1.410e-9], rel=5e-4)
    assert fixed == pytest.approx([0.1921, 6.172e-3, 3.998e-4, 2.523e-5, 1.580e-6], rel=5e-4)
    assert slope(steps[1:], matched[1:]) == pytest.approx(6, abs=0.2)
    assert slope(steps[1:], fixed[1:]) == pytest.approx(4, abs=0.05)
    finer = reverse_kernel_error(data, 0.9, 0.2, 801, 801)
    assert finer == pytest.approx(errors[1], rel=1e-9)


def test_kernel_error_vanishes_for_gaussian_data():
    data = GaussianMixture(torch.ones(1, dtype=F), torch.ones(1, 1, dtype=F), torch.tensor([0.25], dtype=F))
    error = reverse_kernel_error(data, 0.9, 0.5)
    assert abs(error.matched) < 1e-13
    place = {sv.alpha: 0.75**0.5, sv.alpha_bar_prev: 0.9, sv.data_var: 0.25}
    _, true_var = sv.gaussian_data_reverse()
    _, fixed_var = sv.reverse_conditional()
    kl = sv.kl_between(sp.Integer(0), true_var, sp.Integer(0), fixed_var)
    assert error.fixed == pytest.approx(float(kl.subs(place)), rel=1e-10)


@pytest.mark.usefixtures("user_errors")
def test_bad_input(short):
    plane = GaussianMixture(torch.ones(1, dtype=F), torch.zeros(1, 2, dtype=F), torch.ones(1, dtype=F))
    with pytest.raises(ValueError, match="var must be a positive"):
        ddpm_gaussian_recursion(0.0, -1.0, short)
    with pytest.raises(ValueError, match="variance must be one of"):
        ddpm_gaussian_recursion(0.0, 1.0, short, "exact")
    with pytest.raises(ValueError, match="final_var must not be negative"):
        ddpm_gaussian_recursion(0.0, 1.0, short, final_var=-0.1)
    with pytest.raises(ValueError, match="give final_var"):
        GaussianChain.oracle(0.0, 1.0, short).elbo_terms(torch.zeros(1, dtype=F))
    with pytest.raises(TypeError, match="x0 must be"):
        GaussianChain.oracle(0.0, 1.0, short).log_prob(0.3)
    with pytest.raises(ValueError, match="x0 contains NaN"):
        GaussianChain.oracle(0.0, 1.0, short).log_prob(torch.tensor([torch.nan], dtype=F))
    with pytest.raises(ValueError, match="data must be 1-D"):
        sampler_law(plane, short)
    with pytest.raises(ValueError, match="data must be 1-D"):
        reverse_kernel_error(plane, 0.9, 0.1)
    with pytest.raises(ValueError, match="beta_std must be strictly between"):
        reverse_kernel_error(MIXTURE, 0.9, 1.0)
    with pytest.raises(ValueError, match="the grid lost mass"):
        sampler_law(MIXTURE, short, half_width=1.0)
    with pytest.raises(ValueError, match="variance must be one of"):
        sampler_law(MIXTURE, short, "oracle")
