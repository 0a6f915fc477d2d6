"""The trainable hierarchy against the linear-Gaussian one, whose bound is exact."""

import math

import pytest
import torch

from mathcore.variational.hvae import HVAE, hvae_loss
from mathcore.variational.linear_gaussian import AffineGaussian, LinearGaussianHVAE
from mathcore.variational.vae import VAE, vae_loss

F = torch.float64


class Affine(torch.nn.Module):
    """A network that returns an affine mean, and a constant log-std where one is asked for."""

    def __init__(self, slope, log_std=None):
        super().__init__()
        self.slope, self.log_std = torch.nn.Parameter(torch.tensor(slope, dtype=F)), log_std

    def forward(self, x):
        mean = self.slope * x
        return mean if self.log_std is None else torch.cat([mean, torch.full_like(mean, self.log_std)], 1)


def scalar_layer(a, var):
    return AffineGaussian(torch.tensor([[a]], dtype=F), torch.zeros(1, dtype=F), torch.tensor([[var]], dtype=F))


@pytest.fixture
def pair():
    """The two-layer example of section 2.1.5 as a trainable model and in closed form."""
    model = HVAE((1, 1, 1), sigma_dec=0.3)
    model.encoders = torch.nn.ModuleList([Affine(0.6, math.log(0.4)), Affine(0.8, math.log(0.45))])
    model.decoders = torch.nn.ModuleList([Affine(1.2), Affine(0.7, math.log(0.5))])
    exact = LinearGaussianHVAE([scalar_layer(1.2, 0.09), scalar_layer(0.7, 0.25)], [scalar_layer(0.6, 0.16), scalar_layer(0.8, 0.45**2)])
    return model, exact


def test_terms_average_to_form_a(pair, generator):
    model, exact = pair
    n = 50_000
    reconstruction, penalties = (t.detach() for t in model.elbo_terms(torch.full((n, 1), 0.9, dtype=F), generator))
    want_reconstruction, want_penalties = exact.terms(torch.tensor([[0.9]], dtype=F), "log_ratio")
    for draws, want in zip((reconstruction, *penalties.T), (want_reconstruction[0], *want_penalties[0])):
        assert abs(float(draws.mean() - want)) < 5 * float(draws.std()) / n**0.5
    bound = reconstruction - penalties.sum(1)
    assert abs(float(bound.mean()) + 1.98849) < 5 * float(bound.std()) / n**0.5 + 5e-6


def test_samples_have_the_marginal_law(pair, generator):
    model, _ = pair
    n = 50_000
    x = model.sample(n, generator, decoder_noise=True)
    var = 1.2**2 * (0.7**2 + 0.5**2) + 0.3**2
    assert abs(float(x.mean())) < 5 * (var / n) ** 0.5
    assert abs(float(x.var()) - var) < 5 * var * (2 / n) ** 0.5


def test_decode_keeps_what_is_above(pair, generator):
    model, _ = pair
    with torch.no_grad():
        top = model.decode(torch.full((20_000, 1), 2.0, dtype=F), 2, generator)  # x mean given z_2 = 2: 1.2 N(1.4, .5^2)
        low = model.decode(torch.full((10, 1), 2.0, dtype=F), 1)
    assert abs(float(top.mean()) - 1.68) < 5 * 0.6 / 20_000**0.5
    torch.testing.assert_close(low, torch.full((10, 1), 2.4, dtype=F))


def test_one_layer_is_the_vae(generator):
    torch.manual_seed(0)
    vae = VAE(3, 2, 0.4, hidden=8, depth=1)
    model = HVAE((3, 2), 0.4, hidden=8, depth=1)
    model.encoders[0], model.decoders[0] = vae.encoder, vae.decoder
    x = torch.randn(6, 3, generator=generator)
    losses = [fn(m, x, torch.Generator().manual_seed(4)) for fn, m in ((vae_loss, vae), (hvae_loss, model))]
    torch.testing.assert_close(*losses)


def test_training_raises_the_bound(generator):
    torch.manual_seed(0)
    model = HVAE((2, 2, 1), sigma_dec=0.3, hidden=16, depth=1)
    x = torch.randn(256, 1, generator=generator) * torch.tensor([[1.0, 0.5]])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = hvae_loss(model, x, generator)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.5 * sum(losses[:10]) / 10
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.usefixtures("user_errors")
def test_bad_input(pair):
    model, _ = pair
    with pytest.raises(ValueError, match="at least one latent dimension"):
        HVAE((3,), 0.1)
    with pytest.raises(ValueError, match="sigma_dec must be a positive"):
        HVAE((3, 1), 0.0)
    with pytest.raises(ValueError, match=r"layer must be in 1\.\.2"):
        model.decode(torch.zeros(1, 1, dtype=F), 3)
    with pytest.raises(ValueError, match="z must have last dimension 1"):
        model.decode(torch.zeros(1, 2, dtype=F), 2)
    with pytest.raises(ValueError, match="x contains NaN"):
        model.elbo_terms(torch.full((1, 1), torch.nan, dtype=F))
    with pytest.raises(TypeError, match="x must be a floating-point"):
        hvae_loss(model, torch.zeros(1, 1, dtype=torch.int64))
