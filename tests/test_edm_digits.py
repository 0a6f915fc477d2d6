"""The EDM-preconditioned digits: centring, the loss in units of one, the number of calls of the sampler, and what is handed to training."""

import math

import pytest
import torch
from torch import nn

from mathcore.experiments import edm_digits as experiment
from mathcore.networks import UNet
from mathcore.preconditioning import Preconditioned
from mathcore.schedules import AffineSchedule
from mathcore.time_distributions import TimeDistribution
from mathcore.training import FitResult

EDM = AffineSchedule.edm()


class Silent(nn.Module):
    """A raw network that predicts nothing, and counts how often it is asked."""

    calls = 0

    def forward(self, x, c_noise):
        self.calls += 1
        return torch.zeros_like(x)


def silent(mean=0.25, sigma_data=0.5):
    return experiment.EDMDigits(Preconditioned(Silent(), EDM, sigma_data), torch.full((1, 1, 8, 8), mean), torch.zeros(1))


def test_predicting_nothing_costs_one_per_pixel(generator):
    x0 = 0.5 * torch.randn(600, 1, 8, 8, generator=generator, dtype=torch.float64)
    loss = experiment.edm_loss(silent().predictor, x0, TimeDistribution.lognormal(EDM), generator)
    assert abs(float(loss) - 1) < 5 * math.sqrt(2 / x0.numel())  # for Gaussian data the target is standard normal at every level


def test_the_prediction_is_the_posterior_mean_of_gaussian_images(generator):
    """Of N(0.25, 0.5^2) pixels under noise t: precision-weighted average of the prior mean and the pixel."""
    x, t = torch.randn(5, 1, 8, 8, generator=generator), 0.7
    expected = (0.25 / 0.5**2 + x / t**2) / (1 / 0.5**2 + 1 / t**2)
    torch.testing.assert_close(silent().denoise(x, t), expected, rtol=1e-5, atol=1e-5)  # float32
    assert torch.equal(silent().denoise(x, 0.0), 0.25 + (x - 0.25))  # no noise: the image, up to one rounding


@pytest.mark.parametrize("n_steps", [2, 5, 18])
def test_heun_calls_the_network_twice_a_step_but_the_last(n_steps, generator):
    model = silent()
    x = model.sample(3, n_steps, generator)
    assert x.shape == (3, 1, 8, 8)
    assert x.dtype == torch.float32
    assert model.predictor.network.calls == 2 * n_steps - 1


def test_samples_of_the_silent_network_are_gaussian(generator):
    """The network that predicts nothing is exact for Gaussian data. Its ODE contracts N(0, 80^2) to a standard deviation of 0.5 80 / sqrt(0.5^2 + 80^2)."""
    x = silent().sample(400, 100, generator)
    pixels = x.numel()
    assert abs(float(x.mean()) - 0.25) < 5 * 0.5 / math.sqrt(pixels)
    # five standard errors, and an error of Heun with 100 steps that stays below one half of a per cent
    assert abs(float(x.std()) / 0.5 - 1) < 5 / math.sqrt(2 * pixels) + 5e-3


def test_bad_arguments(user_errors):
    with pytest.raises(ValueError, match="n_steps"):
        silent().sample(4, 1)
    with pytest.raises(ValueError, match="n must"):
        silent().sample(0)
    with pytest.raises(TypeError, match="x must"):
        silent().denoise(torch.zeros(2, 1, 8, 8, dtype=torch.long), 1.0)
    with pytest.raises(ValueError, match="NaN"):
        silent().denoise(torch.full((2, 1, 8, 8), math.nan), 1.0)


def test_what_is_trained(monkeypatch, generator):
    """The untrained loss is one; images are centred, the scale is that of the centred images, the label is log(sigma) / 4."""
    seen = {}

    def train(name, loss, t_max):
        model = UNet(size=8, width=16, t_max=t_max)  # its last layer is zero
        batch = experiment.digit_images()[:200]
        seen.update(name=name, value=loss(model, batch, generator).item())
        return FitResult(model, torch.ones(1, dtype=torch.float64))

    monkeypatch.setattr(experiment, "train_digits", train)
    model, images = experiment.edm_digits(), experiment.digit_images()
    assert seen["name"] == "edm"
    # the loss of one image varies by about 0.35 about one, since its pixels share their deviation from the mean
    assert abs(seen["value"] - 1) < 5 * 0.35 / math.sqrt(200)
    torch.testing.assert_close(model.mean, images.mean(0, keepdim=True))
    deviation = (images - model.mean).square().mean().sqrt()
    # n against n - 1 in the variance: 1 / (2 n)
    assert abs(model.predictor.sigma_data / float(deviation) - 1) < 1 / len(images)
    assert model.predictor.noise_embedding == "quarter_log_sigma"
