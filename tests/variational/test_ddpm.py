"""DDPM formulas against the sympy derivations, exact mixtures and quadrature; sampler and bound against closed forms."""

import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.discrete_schedule import DiscreteSchedule
from mathcore.distributions import Empirical, GaussianMixture
from mathcore.divergences import kl_gaussian, ks_1d
from mathcore.symbolic import variational as sv
from mathcore.variational import ddpm
from mathcore.variational.ddpm_exact import GaussianChain

F = torch.float64


@pytest.fixture(scope="module")
def schedule():
    return DiscreteSchedule.from_beta_var(torch.linspace(0.02, 0.4, 12, dtype=F))


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=F), torch.tensor([[-1.0], [1.0]], dtype=F), torch.tensor([0.04, 0.09], dtype=F))


@pytest.fixture(scope="module")
def plane():
    covs = torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.05]]], dtype=F)
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F), torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=F), covs)


def symbolic(expr, schedule, i, **values):
    """Value of a derived expression at step i of the schedule."""
    names = {"x_i": sv.x_i, "x_0": sv.x_0, "noise": sv.noise}
    symbols = [sv.alpha, sv.alpha_bar_prev, *(names[k] for k in values)]
    return sp.lambdify(symbols, expr)(float(schedule.alpha_step[i]), float(schedule.alpha_bar[i - 1]), *values.values())


@pytest.mark.parametrize("i", [1, 2, 7, 12])
def test_formulas_are_the_derived_ones(schedule, i):
    x_i, x_0, noise = 0.8, -0.3, 1.1
    point, clean, eps = (torch.full((1, 1), v, dtype=F) for v in (x_i, x_0, noise))
    mean, var = sv.perturbation_step()
    level = ddpm.q_sample(clean, i, eps, schedule)
    assert float(level) == pytest.approx(symbolic(mean + sp.sqrt(var) * sv.noise, schedule, i, x_0=x_0, noise=noise), rel=1e-12)
    reverse_mean, _ = sv.reverse_conditional()
    assert float(ddpm.mean_from_clean(point, clean, i, schedule)) == pytest.approx(
        symbolic(reverse_mean, schedule, i, x_i=x_i, x_0=x_0), rel=1e-12
    )
    assert float(ddpm.mean_from_noise(point, eps, i, schedule)) == pytest.approx(
        symbolic(sv.mean_from_noise(), schedule, i, x_i=x_i, noise=noise), rel=1e-12
    )


@given(i=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_round_trips_and_two_update_rules(i, seed):
    schedule = DiscreteSchedule.from_beta_var(torch.linspace(0.02, 0.4, 12, dtype=F))
    g = torch.Generator().manual_seed(seed)
    x_i, eps = torch.randn(2, 3, 2, 2, generator=g, dtype=F), torch.randn(2, 3, 2, 2, generator=g, dtype=F)
    clean = ddpm.predict_clean_from_noise(x_i, eps, i, schedule)
    # 1/alpha_bar <= 5 here: a few hundred eps
    torch.testing.assert_close(ddpm.predict_noise_from_clean(x_i, clean, i, schedule), eps, rtol=0, atol=1e-12)
    torch.testing.assert_close(ddpm.q_sample(clean, i, eps, schedule), x_i, rtol=0, atol=1e-12)
    by_noise, by_clean = ddpm.mean_from_noise(x_i, eps, i, schedule), ddpm.mean_from_clean(x_i, clean, i, schedule)
    torch.testing.assert_close(by_noise, by_clean, rtol=0, atol=1e-12)


def test_per_sample_index_is_the_loop(schedule, generator):
    x, eps, i = torch.randn(4, 1, 3, 3, generator=generator), torch.randn(4, 1, 3, 3, generator=generator), torch.tensor([1, 5, 12, 2])
    for fn in (ddpm.q_sample, ddpm.forward_step):
        rows = [fn(x[k : k + 1], int(i[k]), eps[k : k + 1], schedule) for k in range(4)]
        torch.testing.assert_close(fn(x, i, eps, schedule), torch.cat(rows))
    assert ddpm.q_sample(x, i, eps, schedule).dtype == torch.float32


def test_composed_chain_has_the_corrupted_law(schedule, mixture, generator):
    x = mixture.sample(4000, generator)
    for i in range(1, 9):
        x = ddpm.forward_step(x, i, torch.randn(x.shape, generator=generator, dtype=F), schedule)
    law = mixture.corrupt(float(schedule.alpha_bar[8]), float(schedule.sigma_bar[8]))
    assert ks_1d(x, law.cdf)[1] > 0.01


@pytest.mark.parametrize("i", [1, 2, 12])
def test_reverse_kernel_against_bayes_by_quadrature(schedule, mixture, i):
    grid = torch.linspace(-6, 6, 6001, dtype=F)
    a, s = float(schedule.alpha_bar[i - 1]), float(schedule.sigma_bar[i - 1])
    before = mixture.corrupt(a, s) if i > 1 else mixture
    x_i = torch.tensor([[0.4]], dtype=F)
    beta = float(schedule.beta_std[i])
    log_step = -0.5 * ((x_i[0] - schedule.alpha_step[i] * grid) / beta) ** 2
    product = torch.exp(log_step + before.log_prob(grid[:, None]))
    product = product / (product.sum() * (grid[1] - grid[0]))
    kernel = ddpm.reverse_kernel_oracle(mixture, x_i.expand(len(grid), 1), i, schedule)
    # the trapezoidal rule is exact to rounding for Gaussians 10 grid steps wide or more
    torch.testing.assert_close(kernel.log_prob(grid[:, None]).exp(), product, rtol=0, atol=1e-8)


def test_theorem_2_2_1_on_a_mixture_by_quadrature(schedule, mixture):
    """Marginal minus conditional KL is the same negative number for every p_phi = N(slope x_i + shift, var)."""
    i, grid = 6, torch.linspace(-8, 8, 481, dtype=F)[:, None]
    h, n = float(grid[1] - grid[0]), len(grid)
    a, s, sigma2 = float(schedule.alpha_bar[i]), float(schedule.sigma_bar[i]), schedule.posterior_var(i)
    law, kernel = mixture.corrupt(a, s), torch.distributions.Normal
    pairs = torch.cartesian_prod(grid[:, 0], grid[:, 0])  # (x_i, x_{i-1}) or (x_i, x_0)
    log_reverse = ddpm.reverse_kernel_oracle(mixture, pairs[:, :1], i, schedule).log_prob(pairs[:, 1:]).reshape(n, n)
    p_i = law.prob(grid)
    p_0i = (mixture.log_prob(pairs[:, 1:]) + kernel(a * pairs[:, 1], s).log_prob(pairs[:, 0])).exp()
    mean = ddpm.mean_from_clean(pairs[:, :1], pairs[:, 1:], i, schedule)[:, 0]
    constants = []
    for slope, shift, var in ((0.9, 0.0, 0.1), (0.5, 0.3, 0.4), (1.1, -0.2, 1.0)):
        log_model = kernel(slope * pairs[:, 0] + shift, var**0.5).log_prob(pairs[:, 1]).reshape(n, n)
        marginal = p_i @ (log_reverse.exp() * (log_reverse - log_model)).sum(1) * h**2
        gaps = torch.distributions.kl_divergence(kernel(mean, sigma2.sqrt()), kernel(slope * pairs[:, 0] + shift, var**0.5))
        constants.append(float(marginal - (p_0i @ gaps) * h**2))
    # the trapezoidal rule is exact to rounding (narrowest std .2 = 6 steps); tails beyond 8 weigh exp(-24)
    assert constants == pytest.approx([constants[0]] * 3, abs=1e-7)
    assert constants[0] < -0.01


def test_oracles_satisfy_the_identities_of_the_optimum(schedule, plane, generator):
    i = torch.randint(1, 13, (50,), generator=generator)
    x = torch.randn(50, 2, generator=generator, dtype=F)
    clean, eps, mean = (ddpm.oracle_model(plane, schedule, p)(x, i) for p in ("clean", "noise", "mean"))
    a, s = schedule.alpha_bar[i][:, None], schedule.sigma_bar[i][:, None]
    torch.testing.assert_close(a * clean + s * eps, x, rtol=0, atol=1e-12)  # Eq. 2.2.12
    for level in (1, 6, 12):
        rows = i == level
        law = plane.corrupt(float(schedule.alpha_bar[level]), float(schedule.sigma_bar[level]))
        torch.testing.assert_close(eps[rows], -schedule.sigma_bar[level] * law.score(x[rows]), rtol=0, atol=1e-11)
        kernel = ddpm.reverse_kernel_oracle(plane, x[rows], level, schedule)
        torch.testing.assert_close(mean[rows], kernel.mean(), rtol=0, atol=1e-11)  # tower rule
        cov = ddpm.oracle_reverse_cov(plane, schedule)(x[rows], level)
        torch.testing.assert_close(cov, kernel.cov(), rtol=0, atol=1e-11)


def test_noise_has_no_more_variance_than_its_prior(schedule, plane, generator):
    """Smallest simple loss at level i is E Tr Cov(eps | x_i) <= D."""
    for i in (1, 6, 12):
        a, s = float(schedule.alpha_bar[i]), float(schedule.sigma_bar[i])
        x = plane.corrupt(a, s).sample(2000, generator)
        trace = (a / s) ** 2 * plane.posterior_cov(x, a, s).diagonal(dim1=1, dim2=2).sum(1).mean()
        assert 0 < trace < 2


def test_kl_of_equal_covariances_is_the_weighted_distance(schedule, generator):
    i, x_i, x0, guess = 5, *(torch.randn(3, 2, generator=generator, dtype=F) for _ in range(3))
    true, model = ddpm.mean_from_clean(x_i, x0, i, schedule), ddpm.mean_from_clean(x_i, guess, i, schedule)
    cov = schedule.posterior_var(i) * torch.eye(2, dtype=F)
    for k in range(3):
        want = float(kl_gaussian(true[k], cov, model[k], cov))
        clean = float(schedule.weight(i, "clean", "elbo") * (x0[k] - guess[k]).square().sum())
        eps = [ddpm.predict_noise_from_clean(x_i, v, i, schedule)[k] for v in (x0, guess)]
        noise = float(schedule.weight(i, "noise", "elbo") * (eps[0] - eps[1]).square().sum())
        assert clean == pytest.approx(want, rel=1e-12)
        assert noise == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_three_parameterizations_of_one_model_have_one_loss(schedule, plane, generator, weighting):
    x0 = plane.sample(200, generator)
    losses = [
        float(ddpm.ddpm_loss(ddpm.oracle_model(plane, schedule, p), x0, schedule, p, weighting, torch.Generator().manual_seed(3), 0.2))
        for p in ddpm.PARAMETERIZATIONS
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-11)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_oracle_is_the_minimiser(schedule, plane, generator, weighting):
    """A perturbation h adds E w h^2 on average: with common random numbers the two signs of h average to that exactly."""
    x0, base = plane.sample(4000, generator), ddpm.oracle_model(plane, schedule)

    def loss(scale):
        model = lambda x, i: base(x, i) + scale * torch.sin(3 * x + i[:, None])  # noqa: E731
        return float(ddpm.ddpm_loss(model, x0, schedule, "noise", weighting, torch.Generator().manual_seed(5), 0.3))

    middle, minus, plus = loss(0.0), loss(-0.3), loss(0.3)
    assert (plus + minus) / 2 > middle  # convex
    # first-order term: a mean of 4000 draws around zero, far smaller than the second-order one at this size
    assert min(plus, minus) > middle


def test_elbo_loss_is_the_bound_without_prior_and_constant(schedule, generator):
    x0 = torch.full((60_000, 1), 0.3, dtype=F)
    model = lambda x, i: 0.3 * x  # noqa: E731
    decoder_std = 0.25
    terms = ddpm.ddpm_elbo_terms(model, x0[:2000], schedule, decoder_std, n_mc=10, generator=generator)
    want = float((terms["recon"] + terms["diffusion"].sum(1)).mean()) - 0.5 * math.log(2 * math.pi * decoder_std**2)
    parts = torch.tensor([float(ddpm.ddpm_loss(model, part, schedule, "noise", "elbo", generator, decoder_std)) for part in x0.split(2000)])
    # standard error over 30 batches; the reference uses 20 000 draws at every level and is more precise
    assert abs(float(parts.mean()) - want) < 5 * float(parts.std()) / 30**0.5


def test_bound_terms_against_the_gaussian_chain(generator):
    schedule = DiscreteSchedule.from_beta_var(torch.linspace(0.05, 0.5, 8, dtype=F))
    data = GaussianMixture(torch.ones(1, dtype=F), torch.ones(1, 1, dtype=F), torch.tensor([0.25], dtype=F))
    v1 = float(schedule.alpha_bar[1] ** 2 * 0.25 + schedule.sigma_bar[1] ** 2)
    decoder_var = float(schedule.beta_var[1]) * 0.25 / v1
    exact = GaussianChain.oracle(1.0, 0.25, schedule, final_var=decoder_var).elbo_terms(torch.tensor([0.3], dtype=F))
    x0 = torch.full((50, 1), 0.3, dtype=F)
    terms = ddpm.ddpm_elbo_terms(ddpm.oracle_model(data, schedule), x0, schedule, decoder_var**0.5, 400, "noise", generator)
    torch.testing.assert_close(terms["prior"], exact["prior"].expand(50))
    for name in ("recon", "diffusion"):
        values = terms[name].reshape(50, -1)
        z = (values.mean(0) - exact[name].reshape(-1)) / (values.std(0) / 50**0.5)
        assert z.abs().max() < 5, name
    assert terms["diffusion"].shape == (50, 7)


def test_three_samplers_give_one_output(schedule, plane):
    out = [
        ddpm.ddpm_sample(ddpm.oracle_model(plane, schedule, p), (64, 2), schedule, p, generator=torch.Generator().manual_seed(1), dtype=F)
        for p in ddpm.PARAMETERIZATIONS
    ]
    # rounding is amplified by the chain at most 1/alpha_bar_L times
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-11)
    torch.testing.assert_close(out[0], out[2], rtol=0, atol=1e-11)


@pytest.mark.parametrize("variance", ["posterior", "beta", "oracle"])
def test_sampler_law_on_gaussian_data(schedule, generator, variance):
    data = GaussianMixture(torch.ones(1, dtype=F), torch.ones(1, 1, dtype=F), torch.tensor([0.25], dtype=F))
    n = 20_000
    cov = ddpm.oracle_reverse_cov(data, schedule) if variance == "oracle" else None
    x = ddpm.ddpm_sample(ddpm.oracle_model(data, schedule), (n, 1), schedule, "noise", variance, cov, generator, dtype=F)
    mean, var = (float(t[0]) for t in GaussianChain.oracle(1.0, 0.25, schedule, variance).law())
    assert abs(float(x.mean()) - mean) < 5 * (var / n) ** 0.5
    assert abs(float(x.var()) - var) < 5 * var * (2 / n) ** 0.5


def test_exact_covariance_reproduces_correlated_data(generator):
    cov = torch.tensor([[[1.0, 0.8], [0.8, 1.0]]], dtype=F)
    data = GaussianMixture(torch.ones(1, dtype=F), torch.tensor([[0.5, -0.5]], dtype=F), cov)
    schedule = DiscreteSchedule.from_beta_var(torch.linspace(0.3, 0.9, 12, dtype=F))  # alpha_bar_L < 1e-3: no prior mismatch to speak of
    n = 20_000
    x = ddpm.ddpm_sample(
        ddpm.oracle_model(data, schedule), (n, 2), schedule, "noise", "oracle", ddpm.oracle_reverse_cov(data, schedule), generator, dtype=F
    )
    se = ((cov[0] ** 2 + 1) / n).sqrt()
    assert ((torch.cov(x.T) - cov[0]) / se).abs().max() < 5


def test_trajectory_callback_and_images(schedule, generator):
    seen = []
    out = ddpm.ddpm_sample(
        lambda x, i: torch.zeros_like(x),
        (2, 1, 4, 4),
        schedule,
        generator=generator,
        return_trajectory=True,
        callback=lambda i, x, mean: seen.append((i, x, mean)),
    )
    assert out.shape == (13, 2, 1, 4, 4)
    assert out.dtype == torch.float32
    assert [i for i, _, _ in seen] == list(range(12, 0, -1))
    torch.testing.assert_close(seen[0][1], out[12])
    torch.testing.assert_close(seen[-1][2], out[0])  # no noise at i = 1
    x0 = out[0]
    assert torch.isfinite(ddpm.ddpm_loss(lambda x, i: x, x0, schedule, "clean", generator=generator))
    assert ddpm.ddpm_elbo_terms(lambda x, i: x, x0, schedule, 0.1, generator=generator)["recon"].shape == (2,)


def test_clean_prediction_is_an_average(schedule, mixture):
    long = DiscreteSchedule.linear(200)
    x = torch.linspace(-2, 2, 9, dtype=F)[:, None]
    clean = ddpm.oracle_model(mixture, long, "clean")(x, torch.full((9,), 200))
    # E[x_0 | x_L] = mean + O(alpha_bar_L): first-order term alpha_bar_L Cov x
    bound = float(long.alpha_bar[-1]) * float(mixture.cov()[0, 0]) * 3
    assert (clean - mixture.mean()).abs().max() < bound


def test_finite_data_oracle(schedule, generator):
    data = Empirical(torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=F))
    x = ddpm.ddpm_sample(ddpm.oracle_model(data, schedule), (20, 2), schedule, generator=generator, dtype=F)
    distance = torch.cdist(x, data.points).min(1).values
    assert distance.max() < 0.2  # the exact model of a finite data set reproduces its points


@pytest.mark.usefixtures("user_errors")
def test_bad_input(schedule, plane):
    x, model = torch.zeros(3, 2, dtype=F), ddpm.oracle_model(plane, schedule)
    with pytest.raises(ValueError, match="noise must have the shape of x0"):
        ddpm.q_sample(x, 1, torch.zeros(3, 1, dtype=F), schedule)
    with pytest.raises(ValueError, match=r"i must be in 1..12, got 13"):
        ddpm.q_sample(x, 13, x, schedule)
    with pytest.raises(ValueError, match="i must be in"):
        model(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="i must be an integer"):
        ddpm.forward_step(x, 1.5, x, schedule)
    with pytest.raises(TypeError, match="x0 must be a"):
        ddpm.ddpm_loss(model, [[0.0]], schedule)
    with pytest.raises(TypeError, match="floating-point"):
        ddpm.mean_from_noise(x.long(), x.long(), 1, schedule)
    with pytest.raises(ValueError, match="clean contains NaN"):
        ddpm.predict_noise_from_clean(x, x / 0, 1, schedule)
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        ddpm.ddpm_loss(model, x, schedule, "noize")
    with pytest.raises(ValueError, match="weighting must be one of"):
        ddpm.ddpm_loss(model, x, schedule, weighting="none")
    with pytest.raises(ValueError, match="needs decoder_std"):
        ddpm.ddpm_loss(model, x, schedule, weighting="elbo")
    with pytest.raises(ValueError, match="must return the shape of its input"):
        ddpm.ddpm_loss(lambda x, i: x[:, :1], x, schedule)
    with pytest.raises(ValueError, match="reverse_cov goes with"):
        ddpm.ddpm_sample(model, (2, 2), schedule, variance="oracle", dtype=F)
    with pytest.raises(ValueError, match="variance must be one of"):
        ddpm.ddpm_sample(model, (2, 2), schedule, variance="small", dtype=F)
    with pytest.raises(ValueError, match="decoder_std must be a positive"):
        ddpm.ddpm_elbo_terms(model, x, schedule, 0.0)
    with pytest.raises(ValueError, match="n_mc must be at least 1"):
        ddpm.ddpm_elbo_terms(model, x, schedule, 0.1, n_mc=0)
    with pytest.raises(ValueError, match="sum of Diracs"):
        ddpm.reverse_kernel_oracle(Empirical(x + 1), x, 1, schedule)
    with pytest.raises(ValueError, match="parameterization must be one of"):
        ddpm.oracle_model(plane, schedule, "score")
