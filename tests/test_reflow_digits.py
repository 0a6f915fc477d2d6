"""Reflow on the digits: pairs of a field solved by hand, the loss on them, and what is handed to training."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from mathcore.experiments import reflow_digits as experiment
from mathcore.experiments.flow_matching_digits import FlowMatchingDigits
from mathcore.interpolation import Interpolation
from mathcore.networks import UNet
from mathcore.training import FitResult

PATH = Interpolation.linear()


class Field(nn.Module):
    """A velocity given as a function of (x, t), with one weight so that it has a dtype."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.anchor = fn, nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        return self.fn(x, torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1))


def teacher(fn):
    return FlowMatchingDigits(Field(fn), PATH, torch.ones(1), (1, 2, 2))


@pytest.mark.parametrize("n", [7, 2500])  # below and beyond the batch of a thousand
def test_pairs_are_noise_and_its_image_under_the_flow(n, generator):
    """dx/dt = x takes x_0 to e x_0, whatever the batch in which it was computed; the images of no two noises are exchanged."""
    noise, images = experiment.digit_pairs(teacher(lambda x, t: x), n, generator)
    assert noise.shape == images.shape == (n, 1, 2, 2)
    # ten steps of Heun: each multiplies by 1 + h + h^2/2, which falls short of e^h by h^3/6 (1 + ...): 1.5e-3 of e after ten
    assert float((images - math.e * noise).abs().max()) < 2e-3 * math.e * float(noise.abs().max())
    assert len(noise.flatten(1).unique(dim=0)) == n  # every batch draws its own noise
    assert abs(float(noise.mean())) < 5 / math.sqrt(4 * n)


def test_the_loss_vanishes_for_the_displacement_alone(generator):
    """Pairs (z, z + c): the displacement c is the minimiser; its negative, a reversed clock, pays |2c|^2."""
    noise = torch.randn(300, 1, 2, 2, generator=generator)
    pairs = noise, noise + 0.5
    right, reversed_ = (Field(lambda x, t, v=v: torch.full_like(x, v)) for v in (0.5, -0.5))
    loss = partial(experiment.reflow_loss, pairs=pairs, teacher=teacher(lambda x, t: x), generator=generator)
    assert float(loss(right)) < 1e-12  # float32 rounding of noise + 0.5, squared
    assert abs(float(loss(reversed_)) - 1.0) < 1e-5


def test_the_run_is_trained_on_pairs_of_the_teacher(monkeypatch, generator):
    asked = {}

    def train(name, loss, t_max, data):
        z0, z1 = data()
        again = data()
        asked.update(name=name, t_max=t_max, shape=z0.shape, same=torch.equal(z1, again[1]))
        asked["loss"] = float(loss(Field(lambda x, t: torch.zeros_like(x)), (z0[:64], z1[:64]), generator))
        asked["cost"] = float((z1[:64] - z0[:64]).square().mean())
        return FitResult(UNet(size=8, width=16), torch.ones(3))

    slow = FlowMatchingDigits(Field(lambda x, t: 0.1 * x), PATH, torch.ones(1), (1, 8, 8))
    monkeypatch.setattr(experiment, "train_digits", train)
    monkeypatch.setattr(experiment, "flow_matching_digits", lambda: slow)
    model = experiment.reflow_digits()
    assert asked["name"] == "reflow"
    assert asked["t_max"] == 1.0
    assert asked["shape"] == (experiment.PAIRS, 1, 8, 8)
    assert asked["same"]  # the pairs are a function of the teacher: the run is the same in every process
    assert asked["loss"] == pytest.approx(asked["cost"], rel=1e-5)  # standing still pays the cost of the pairs
    assert model.path is PATH
    assert model.shape == (1, 8, 8)


@pytest.mark.parametrize("n", [0, -3])
def test_pairs_refuse_a_wrong_count(n, user_errors):
    with pytest.raises(ValueError, match="n must"):
        experiment.digit_pairs(teacher(lambda x, t: x), n)
