"""The score SDE of the digits: dequantisation, its loss, and what is handed to training."""

import math

import pytest
import torch

from mathcore.experiments import score_sde_digits as experiment
from mathcore.networks import UNet
from mathcore.schedules import AffineSchedule
from mathcore.training import FitResult


def test_dequantised_images_are_uniform_in_their_bin(generator):
    grid = torch.randint(17, (500, 1, 8, 8), generator=generator).double() / 8 - 1
    noisy = experiment.dequantise(grid, 0.125, generator)
    u = (noisy - grid) * 8
    assert torch.equal((noisy * 8).round() / 8, grid)  # rounding undoes it
    # 32,000 uniform values on [-1/2, 1/2]: standard deviations of the mean and of the mean square
    assert abs(float(u.mean())) < 5 * math.sqrt(1 / 12 / u.numel())
    assert abs(float(u.square().mean()) - 1 / 12) < 5 * math.sqrt(1 / 180 / u.numel())


@pytest.mark.parametrize("bad", [0.0, -0.125, math.nan])
def test_a_grey_step_is_positive(bad, user_errors):
    with pytest.raises(ValueError, match="grey_step"):
        experiment.dequantise(torch.zeros(2, 1, 8, 8), bad)


def test_images_are_floating_and_finite(user_errors):
    with pytest.raises(TypeError, match="images"):
        experiment.dequantise(torch.zeros(2, 1, 8, 8, dtype=torch.long), 0.125)
    with pytest.raises(ValueError, match="images"):
        experiment.dequantise(torch.full((2, 1, 8, 8), math.nan), 0.125)


def test_predicting_no_noise_costs_one(generator):
    loss = experiment.noise_loss(lambda x, t: torch.zeros_like(x), torch.zeros(400, 1, 8, 8), AffineSchedule.vp(), 0.125, generator)
    assert abs(float(loss) - 1) < 5 * math.sqrt(2 / 25600)  # the mean of 25,600 squared normals


def test_the_uniform_noise_of_a_bin_is_part_of_the_data(generator):
    # who takes black images for exactly black is wrong by alpha u / sigma, with E u^2 = step^2 / 12
    vp, step = AffineSchedule.vp(), 0.5

    def naive(x, t):
        alpha, sigma = (f(t)[:, None, None, None] for f in (vp.alpha, vp.sigma))
        return (x + alpha) / sigma

    images = torch.full((4000, 1, 8, 8), -1.0, dtype=torch.float64)
    late = AffineSchedule.from_alpha_sigma(vp.alpha, vp.sigma, t_min=0.5, t_max=1.0)
    loss = float(experiment.noise_loss(naive, images, late, step, generator))
    t = torch.linspace(0.5, 1, 2001, dtype=torch.float64)
    per_time = vp.alpha(t).square() / vp.sigma(t).square() * step**2 / 12
    want = float(torch.trapezoid(per_time, t) / 0.5)
    spread = float(per_time.max()) * 2  # more than the standard deviation of one image's summand
    assert abs(loss - want) < 5 * spread / math.sqrt(4000)
    assert want > 5 * spread / math.sqrt(4000)  # so that no uniform noise at all would be noticed


def test_the_run_is_trained_on_vp_with_this_loss(monkeypatch, generator):
    asked = {}

    def train(name, loss, t_max):
        model = UNet(size=8, width=16)
        asked.update(name=name, t_max=t_max, loss=float(loss(lambda x, t: torch.zeros_like(x), torch.zeros(400, 1, 8, 8), generator)))
        return FitResult(model, torch.ones(3))

    monkeypatch.setattr(experiment, "train_digits", train)
    digits = experiment.score_sde_digits()
    assert asked["name"] == "score-sde"
    assert asked["t_max"] == digits.schedule.t_max == 1.0
    assert abs(asked["loss"] - 1) < 5 * math.sqrt(2 / 25600)
    assert digits.schedule.name == "vp"
    assert digits.grey_step == 1 / 8
    assert len(digits.losses) == 3
