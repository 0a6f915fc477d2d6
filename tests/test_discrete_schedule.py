"""The discrete chain against its own recursion in 50 digits, Bayes' rule by quadrature and closed-form KL divergences."""

import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad

from mathcore.predictions import convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule

EPS = torch.finfo(torch.float64).eps
mp = mpmath.mp.clone()
mp.dps = 50


@pytest.fixture(params=["rising", "wild", "ddpm"])
def chain(request):
    if request.param == "ddpm":
        return DiscreteSchedule.linear(1000)
    if request.param == "rising":
        return DiscreteSchedule.from_beta_std(torch.linspace(0.05, 0.7, 12, dtype=torch.float64), require_increasing=True)
    return DiscreteSchedule.from_beta_var(torch.tensor([0.3, 1e-6, 0.9, 0.02, 0.5], dtype=torch.float64))


def test_chain_tables_follow_the_forward_recursion(chain):
    """One signal coefficient and one variance, pushed through x_i = alpha x_{i-1} + beta eps step by step, in 50 digits."""
    a, v = mp.mpf(1), mp.mpf(0)
    assert chain.alpha_bar.shape == (chain.L + 1,)
    for i in range(chain.L + 1):
        var = mp.mpf(chain.beta_var[i].item())
        a, v = mp.sqrt(1 - var) * a, (1 - var) * v + var
        # roundings of L factors accumulate at most linearly: L * eps
        assert abs(chain.alpha_bar[i].item() / a - 1) < 4 * (i + 1) * EPS
        assert abs(chain.alpha_step[i].item() - mp.sqrt(1 - var)) < 4 * EPS
        assert abs(chain.beta_std[i].item() ** 2 - var) < 4 * EPS * var or i == 0
        if i:
            assert abs(chain.sigma_bar[i].item() / mp.sqrt(v) - 1) < 4 * (i + 1) * EPS
            assert abs(chain.snr[i].item() / (a**2 / v) - 1) < 8 * (i + 1) * EPS
            assert abs(chain.half_log_snr[i].item() - mp.log(a / mp.sqrt(v))) < 8 * (i + 1) * EPS
    assert all(getattr(chain, n).dtype == torch.float64 for n in ("beta_std", "beta_var", "alpha_step", "alpha_bar", "sigma_bar", "snr"))


def test_index_zero_is_the_clean_data(chain):
    assert chain.alpha_step[0] == chain.alpha_bar[0] == 1
    assert chain.beta_std[0] == chain.beta_var[0] == chain.sigma_bar[0] == 0
    assert chain.snr[0] == chain.half_log_snr[0] == math.inf


def test_the_default_chain_is_the_published_one():
    chain = DiscreteSchedule.linear(1000)
    assert chain.beta_var[1].item() == pytest.approx(1e-4, rel=1e-14)
    assert chain.beta_var[-1].item() == pytest.approx(0.02, rel=1e-14)
    # 4.0358e-5: the last alphas_cumprod of the DDPM code with these betas
    assert chain.alpha_bar[-1].item() ** 2 == pytest.approx(4.0358e-5, rel=2e-5)
    # rescaled with L, the chain keeps its total amount of noise up to O(1/L)
    assert DiscreteSchedule.linear(4000).half_log_snr[-1].item() == pytest.approx(chain.half_log_snr[-1].item(), abs=0.05)


def test_posterior_matches_bayes_by_quadrature():
    """Mean and variance of p(x_i | x_{i-1}) p(x_{i-1} | x_0), normalised numerically (Lemma 2.2.2)."""
    chain = DiscreteSchedule.from_beta_std(torch.linspace(0.1, 0.6, 8, dtype=torch.float64))
    x0, x_i = 0.8, -0.4
    for i in (2, 5, 8):
        step, beta = math.sqrt(1 - chain.beta_std[i].item() ** 2), chain.beta_std[i].item()
        signal, noise = 1.0, 0.0
        for k in range(1, i):
            b2 = chain.beta_std[k].item() ** 2
            signal, noise = signal * math.sqrt(1 - b2), noise * (1 - b2) + b2

        def density(x, step=step, beta=beta, signal=signal, noise=noise):
            return math.exp(-((x_i - step * x) ** 2) / (2 * beta**2) - (x - signal * x0) ** 2 / (2 * noise))

        def moment(fn, density=density):  # relative accuracy: the unnormalised density is tiny
            return quad(lambda x: fn(x) * density(x), -6, 6, epsabs=0, epsrel=1e-12, limit=400)[0]

        z = moment(lambda x: 1.0)
        mean = moment(lambda x: x) / z
        variance = moment(lambda x, mean=mean: (x - mean) ** 2) / z
        coef_x0, coef_xi = chain.posterior_coefficients(i)
        assert (coef_x0 * x0 + coef_xi * x_i).item() == pytest.approx(mean, rel=1e-9)
        assert chain.posterior_var(i).item() == pytest.approx(variance, rel=1e-9)
        points = torch.tensor([[x_i]], dtype=torch.float64), torch.tensor([[x0]], dtype=torch.float64)
        assert chain.posterior_mean(*points, i).item() == pytest.approx(mean, rel=1e-9)


def test_first_step_returns_to_the_clean_data(chain):
    assert chain.posterior_var(1) == 0
    coef_x0, coef_xi = chain.posterior_coefficients(1)
    assert coef_x0.item() == pytest.approx(1, abs=4 * EPS)
    assert coef_xi == 0


def test_posterior_mean_takes_batches_images_and_dtypes(chain, generator):
    x_i, x0 = torch.randn(2, 4, 1, 3, 3, generator=generator).unbind()
    i = torch.tensor([1, 2, 3, chain.L])
    got = chain.posterior_mean(x_i, x0, i)
    assert got.dtype == torch.float32
    one_by_one = [chain.posterior_mean(x_i[k : k + 1], x0[k : k + 1], int(i[k])) for k in range(4)]
    assert torch.equal(got, torch.cat(one_by_one))
    assert chain.posterior_var(i).shape == (4,)
    assert chain.posterior_var(i.to(torch.int32))[3] == chain.posterior_var(chain.L)


def test_elbo_weights_are_kl_divergences(chain, generator):
    """Weight * squared error = KL between two posteriors that differ by that error, whatever quantity is predicted (Eq. 2.2.8)."""
    i = torch.arange(2, chain.L + 1)
    x0, noise, guess = torch.randn(3, len(i), 1, dtype=torch.float64, generator=generator).unbind()
    x_i = chain.alpha_bar[i, None] * x0 + chain.sigma_bar[i, None] * noise
    guess_x0 = x0 + guess  # a wrong clean prediction and the wrong mean and noise that follow from it
    guess_noise = (x_i - chain.alpha_bar[i, None] * guess_x0) / chain.sigma_bar[i, None]
    std = chain.posterior_var(i).sqrt()[:, None]
    mean, guess_mean = chain.posterior_mean(x_i, x0, i), chain.posterior_mean(x_i, guess_x0, i)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(guess_mean, std))[:, 0]
    errors = {"noise": guess_noise - noise, "clean": guess_x0 - x0, "mean": guess_mean - mean}
    for kind, error in errors.items():
        # differences of nearly equal means cost digits: guess moves the mean by beta^2, down to 1e-6 (wild chain)
        torch.testing.assert_close(chain.weight(i, kind, "elbo") * error[:, 0] ** 2, kl, rtol=1e-7, atol=1e-12)
        # the simple loss is the squared noise error, whatever is predicted
        simple = chain.weight(i, kind, "simple") * error[:, 0] ** 2
        torch.testing.assert_close(simple, errors["noise"][:, 0] ** 2, rtol=1e-7, atol=1e-12)


def test_clean_weight_is_half_the_loss_of_signal_to_noise(chain):
    i = torch.arange(2, chain.L + 1)
    want = (chain.snr[i - 1] - chain.snr[i]) / 2
    # the difference loses the digits that the two neighbours share: eps * SNR, times the L roundings of a cumulative product
    slack = 4 * chain.L * EPS * chain.snr[i - 1]
    assert ((chain.weight(i, "clean", "elbo") - want).abs() <= slack).all()


def test_weight_of_mean_is_the_inverse_variance(chain):
    for i in (2, chain.L):
        assert chain.weight(i, "mean", "elbo").item() == pytest.approx(0.5 / chain.posterior_var(i).item(), rel=1e-12)
    assert chain.weight(1, "noise", "simple") == 1


def test_the_two_constructors_agree_and_float32_betas_are_taken():
    std = torch.tensor([0.1, 0.25, 0.5])
    a, b = DiscreteSchedule.from_beta_std(std), DiscreteSchedule.from_beta_var(std.double() ** 2)
    assert torch.equal(a.alpha_bar, b.alpha_bar)
    assert (a.L, a.alpha_bar.dtype) == (3, torch.float64)
    assert "L=3" in repr(a)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(a)).snr, a.snr)


def test_a_chain_and_a_continuous_schedule_share_conversions(generator):
    """At equal alpha and sigma the discrete and the vp conversion are the same map."""
    chain, schedule = DiscreteSchedule.linear(100), AffineSchedule.vp()
    value, x = torch.randn(2, 1, 3, dtype=torch.float64, generator=generator).unbind()
    t = schedule.inverse_half_log_snr(chain.half_log_snr[60])
    for src, dst in (("noise", "clean"), ("score", "clean"), ("clean", "score")):
        torch.testing.assert_close(convert_prediction(value, x, 60, chain, src, dst), convert_prediction(value, x, t, schedule, src, dst))


@pytest.mark.parametrize("make", [DiscreteSchedule.from_beta_std, DiscreteSchedule.from_beta_var])
def test_bad_betas_are_refused(user_errors, make):
    for bad in ([0.1, 0.0], [0.1, 1.0], [-0.1], [1.5]):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            make(torch.tensor(bad))
    with pytest.raises(ValueError, match="NaN"):
        make(torch.tensor([0.1, math.nan]))
    with pytest.raises(ValueError, match="1 axes"):
        make(torch.full((2, 2), 0.1))
    with pytest.raises(ValueError, match="at least one"):
        make(torch.zeros(0))
    with pytest.raises(TypeError, match="beta_"):
        make([0.1, 0.2])
    with pytest.raises(TypeError, match="floating-point"):
        make(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="increase"):
        make(torch.tensor([0.1, 0.3, 0.2]), require_increasing=True)
    with pytest.raises(ValueError, match="increase"):
        make(torch.tensor([0.1, 0.1]), require_increasing=True)


def test_bad_linear_chains_are_refused(user_errors):
    for bad in (1, 2, 10, 20):
        with pytest.raises(ValueError, match="larger L"):
            DiscreteSchedule.linear(bad)
    assert DiscreteSchedule.linear(21).L == 21
    for bad in (0, -3, True, 2.5):
        with pytest.raises(ValueError, match="L must be a positive integer"):
            DiscreteSchedule.linear(bad)
    with pytest.raises(ValueError, match="beta_var_min"):
        DiscreteSchedule.linear(100, beta_var_min=0.0)


def test_bad_indices_are_refused(user_errors):
    chain = DiscreteSchedule.linear(50)
    x = torch.zeros(2, 3)
    calls = (
        chain.posterior_var,
        chain.posterior_coefficients,
        lambda i: chain.posterior_mean(x, x, i),
        lambda i: chain.weight(i, "noise", "simple"),
    )
    for call in calls:
        for bad in (0, 51, -1, torch.tensor([1, 51]), torch.tensor(0)):
            with pytest.raises(ValueError, match=r"i must be in 1\.\.50"):
                call(bad)
        for bad in (1.0, True, "1", None, torch.tensor(1.0), torch.tensor([True, False])):
            with pytest.raises(TypeError, match="i must be an integer"):
                call(bad)
        with pytest.raises(ValueError, match="shape"):
            call(torch.ones(2, 1, dtype=torch.int64))


def test_bad_weights_and_posterior_points_are_refused(user_errors):
    chain, x = DiscreteSchedule.linear(50), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="got i = 1"):
        chain.weight(torch.tensor([1, 2]), "noise", "elbo")
    with pytest.raises(ValueError, match="parameterization must be one of noise, clean, mean"):
        chain.weight(2, "velocity", "elbo")
    with pytest.raises(ValueError, match="kind must be one of simple, elbo"):
        chain.weight(2, "noise", "full")
    with pytest.raises(ValueError, match="x0 must have the shape of x_i"):
        chain.posterior_mean(x, x[:, :1], 2)
    with pytest.raises(ValueError, match="x_i contains NaN"):
        chain.posterior_mean(x * math.nan, x, 2)
    with pytest.raises(TypeError, match=r"x0 must be a torch\.Tensor"):
        chain.posterior_mean(x, [0.0], 2)
    with pytest.raises(TypeError, match="x_i must be a floating-point"):
        chain.posterior_mean(x.long(), x, 2)
    with pytest.raises(ValueError, match=r"i must be a number, 0-d, or of shape \(2,\)"):
        chain.posterior_mean(x, x, torch.tensor([1, 2, 3]))
