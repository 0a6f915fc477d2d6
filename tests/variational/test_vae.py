"""VAE terms against sympy, Monte Carlo and the exact linear model; optimal decoder against its closed forms and a trained one."""

import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.distributions import GaussianMixture
from mathcore.networks import MLP
from mathcore.symbolic import variational as sv
from mathcore.variational.linear_gaussian import LinearGaussianVAE
from mathcore.variational.vae import VAE, AutoEncoder, ae_loss, elbo_gaussian_vae, kl_to_standard_normal, optimal_decoder, vae_loss

F = torch.float64
SYMBOLIC_KL = sp.lambdify((sv.mean_1, sv.std_1, sv.mean_2, sv.std_2), sv.gaussian_kl())
PAIR = torch.tensor([[1.0], [-1.0]], dtype=F)


@given(mean=st.floats(-5, 5), std=st.floats(0.05, 5))
@settings(max_examples=25, deadline=None)
def test_kl_is_the_integrated_one(mean, std):
    want = SYMBOLIC_KL(mean, std, 0.0, 1.0)
    one = kl_to_standard_normal(torch.tensor([[mean]], dtype=F), torch.tensor([[std]], dtype=F))
    assert float(one) == pytest.approx(want, rel=1e-11, abs=1e-12)  # terms cancel near mean 0, std 1


def test_kl_by_monte_carlo(generator):
    mean, std = torch.randn(1, 3, generator=generator, dtype=F), torch.rand(1, 3, generator=generator, dtype=F) + 0.3
    q, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    z = mean + std * torch.randn(100_000, 3, generator=generator, dtype=F)
    draws = (q.log_prob(z) - prior.log_prob(z)).sum(1)
    assert abs(float(draws.mean() - kl_to_standard_normal(mean, std))) < 5 * float(draws.std()) / 100_000**0.5


def test_one_sample_bound_averages_to_the_exact_one(generator):
    model = LinearGaussianVAE(torch.randn(4, 2, generator=generator, dtype=F), torch.randn(4, generator=generator, dtype=F), 0.6)
    x, mean, std = (
        torch.randn(1, 4, generator=generator, dtype=F),
        torch.tensor([[0.3, -0.2]], dtype=F),
        torch.tensor([[0.5, 0.9]], dtype=F),
    )
    n = 50_000
    z = mean + std * torch.randn(n, 2, generator=generator, dtype=F)
    reconstruction, kl = elbo_gaussian_vae(x.expand(n, 4), mean.expand(n, 2), std.expand(n, 2), model.decoder.mean(z), 0.6)
    exact = float(model.elbo(x, mean, torch.diag(std[0] ** 2)))
    draws = reconstruction - kl
    assert abs(float(draws.mean()) - exact) < 5 * float(draws.std()) / n**0.5


def test_reparametrised_gradient_is_the_derivative_of_the_exact_bound(generator):
    model = LinearGaussianVAE(torch.randn(3, 1, generator=generator, dtype=F), torch.zeros(3, dtype=F), 0.8)
    x, n = torch.tensor([[0.4, -1.0, 0.2]], dtype=F), 100_000
    mean, std = torch.tensor([[0.3]], dtype=F, requires_grad=True), torch.tensor([[0.7]], dtype=F, requires_grad=True)
    # independent copies of the parameters, so that the gradient of each draw can be seen
    means, stds = (p.detach().expand(n, 1).clone().requires_grad_() for p in (mean, std))
    z = means + stds * torch.randn(n, 1, generator=generator, dtype=F)
    reconstruction, kl = elbo_gaussian_vae(x.expand(n, 3), means, stds, model.decoder.mean(z), 0.8)
    per_draw = torch.autograd.grad((reconstruction - kl).sum(), [means, stds])

    def exact(m, s):
        return float(model.elbo(x, torch.tensor([[m]], dtype=F), torch.tensor([[s**2]], dtype=F)))

    h = 1e-5  # central difference of a function of order 10: error about h^2 + eps / h
    for draws, difference in zip(per_draw, (exact(0.3 + h, 0.7) - exact(0.3 - h, 0.7), exact(0.3, 0.7 + h) - exact(0.3, 0.7 - h))):
        assert abs(float(draws.mean()) - difference / (2 * h)) < 5 * float(draws.std()) / n**0.5 + 1e-8


def test_two_points_decode_to_tanh():
    z = torch.linspace(-4, 4, 41, dtype=F)[:, None]
    std = torch.full_like(PAIR, 0.8)
    got = optimal_decoder(PAIR, 0.9 * PAIR, std, z)
    torch.testing.assert_close(got, torch.tanh(0.9 * z / 0.64), rtol=0, atol=1e-14)
    assert float(optimal_decoder(PAIR, 0.9 * PAIR, std, torch.ones(1, 1, dtype=F))) == pytest.approx(0.8867, abs=5e-5)
    assert got.abs().max() < 1


def test_prior_as_denominator_leaves_the_hull_of_the_data():
    """The encoder-induced posterior is normalised by the aggregated posterior; with the prior instead it is no density."""
    z = torch.tensor([[3.0]], dtype=F)
    aggregate = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F), 0.9 * PAIR, torch.full((2,), 0.64, dtype=F))
    prior = GaussianMixture(torch.ones(1, dtype=F), torch.zeros(1, 1, dtype=F), torch.ones(1, dtype=F))
    right = optimal_decoder(PAIR, 0.9 * PAIR, torch.full_like(PAIR, 0.8), z)
    wrong = float(right * aggregate.prob(z) / prior.prob(z))
    assert wrong == pytest.approx(1.794, abs=5e-4)


def test_optimal_decoder_is_the_symbolic_minimiser(generator):
    data, codes = torch.randn(3, 1, generator=generator, dtype=F), torch.randn(3, 1, generator=generator, dtype=F)
    std, z = torch.rand(3, 1, generator=generator, dtype=F) + 0.5, torch.tensor([[0.2]], dtype=F)
    w, p = sp.symbols("w1:4", positive=True), sp.symbols("p1:4", real=True)
    density = torch.distributions.Normal(codes[:, 0], std[:, 0]).log_prob(z[0]).exp().tolist()
    place = dict(zip((*w, *p), (*density, *data[:, 0].tolist())))
    want = float(sv.optimal_decoder(list(w), list(p)).subs(place))
    assert float(optimal_decoder(data, codes, std, z)) == pytest.approx(want, rel=1e-12)


def test_trained_decoder_finds_it():
    torch.manual_seed(0)
    decoder, g = MLP(1, 1, hidden=64, depth=2), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 500)
    for _ in range(500):
        x = torch.randint(0, 2, (2048, 1), generator=g) * 2.0 - 1
        z = 0.9 * x + 0.8 * torch.randn(x.shape, generator=g)
        loss = (x - decoder(z)).square().mean()
        optimiser.zero_grad(), loss.backward(), optimiser.step(), schedule.step()
    z = torch.linspace(-2, 2, 81)[:, None]
    data = PAIR.float()
    want = optimal_decoder(data, 0.9 * data, torch.full_like(data, 0.8), z)
    assert float((decoder(z) - want).abs().max().detach()) < 3e-2


def test_modules_and_losses(generator):
    torch.manual_seed(0)
    x = torch.randn(8, 3, generator=generator)
    vae, auto = VAE(3, 2, sigma_dec=0.5, hidden=16, depth=1), AutoEncoder(3, 2, hidden=16, depth=1)
    assert vae.sample(5, generator).shape == (5, 3)
    quiet = vae.sample(5, torch.Generator().manual_seed(2))
    noisy = vae.sample(5, torch.Generator().manual_seed(2), decoder_noise=True)
    assert 0 < float((noisy - quiet).std()) < 2
    reconstruction, kl = vae.elbo_terms(x, torch.Generator().manual_seed(1))
    loss = vae_loss(vae, x, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx((kl - reconstruction).mean().item(), rel=1e-6)
    weighted = vae_loss(vae, x, torch.Generator().manual_seed(1), kl_weight=3.0)
    assert (weighted - loss).item() == pytest.approx(2 * kl.mean().item(), rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in vae.parameters())
    assert ae_loss(auto, x).item() == pytest.approx(((x - auto(x)) ** 2).sum(1).mean().item(), rel=1e-6)


def test_constant_of_the_reconstruction_term():
    """Density, not only squared error: integrate exp(reconstruction) over x."""
    grid = torch.linspace(-6, 6, 2001, dtype=F)[:, None]
    zero, one = torch.zeros_like(grid), torch.ones_like(grid)
    reconstruction, _ = elbo_gaussian_vae(grid, zero, one, zero + 0.3, 0.5)
    assert float(reconstruction.exp().sum() * (grid[1] - grid[0])) == pytest.approx(1.0, abs=1e-12)
    assert math.isclose(float(kl_to_standard_normal(zero[:1], one[:1])), 0.0, abs_tol=1e-15)


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    one = torch.ones(2, 1, dtype=F)
    with pytest.raises(ValueError, match="std must be positive"):
        kl_to_standard_normal(one, -one)
    with pytest.raises(ValueError, match="std must have the shape of mean"):
        kl_to_standard_normal(one, one[:1])
    with pytest.raises(TypeError, match="mean must be"):
        kl_to_standard_normal([0.0], one)
    with pytest.raises(ValueError, match="x contains NaN"):
        elbo_gaussian_vae(one * torch.nan, one, one, one, 0.1)
    with pytest.raises(ValueError, match="reconstruction must have the shape of x"):
        elbo_gaussian_vae(one, one, one, one[:1], 0.1)
    with pytest.raises(ValueError, match="sigma_dec must be a positive"):
        elbo_gaussian_vae(one, one, one, one, 0.0)
    with pytest.raises(ValueError, match="sigma_dec must be a positive"):
        VAE(2, 1, sigma_dec=-1.0)
    with pytest.raises(ValueError, match="z must have last dimension 1"):
        optimal_decoder(one, one, one, torch.ones(1, 2, dtype=F))
    with pytest.raises(ValueError, match="equally many rows"):
        optimal_decoder(one[:1], one, one, one)
    with pytest.raises(ValueError, match="encoder_std must be positive"):
        optimal_decoder(one, one, 0 * one, one)
    with pytest.raises(TypeError, match="data must be a floating-point"):
        optimal_decoder(one.long(), one, one, one)
