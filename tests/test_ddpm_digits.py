"""DDPM on the digits: what is handed to training, and the sampler on a chain whose end is known."""

import math

import pytest
import torch
from torch import nn

from mathcore.experiments import ddpm_digits as experiment
from mathcore.networks import UNet
from mathcore.schedules import DiscreteSchedule
from mathcore.training import FitResult


class OneImage(nn.Module):
    """The exact noise prediction when every image of the data is the same: (x_i - alpha_bar x_0) / sigma_bar."""

    def __init__(self, schedule, image):
        super().__init__()
        self.schedule, self.image, self.anchor, self.calls = schedule, image, nn.Parameter(torch.zeros(())), 0

    def forward(self, x, i):
        self.calls += 1
        a, s = (v[i].to(x).reshape(-1, 1, 1, 1) for v in (self.schedule.alpha_bar, self.schedule.sigma_bar))
        return (x - a * self.image) / s


def test_the_chain_ends_at_the_only_image(generator):
    schedule, image = DiscreteSchedule.linear(50), torch.tensor([[0.5, -1.0], [0.25, 1.0]])
    network = OneImage(schedule, image)
    got = experiment.DDPMDigits(network, schedule, torch.ones(1), (1, 2, 2)).sample(20, generator)
    assert got.shape == (20, 1, 2, 2)
    assert network.calls == 50
    # the last step returns the predicted clean image itself; float32, sigma_bar_1 > 0.01
    assert float((got - image).abs().max()) < 1e-4


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_sample_refuses_a_wrong_count(n, user_errors):
    model = experiment.DDPMDigits(
        OneImage(DiscreteSchedule.linear(30), torch.zeros(2, 2)), DiscreteSchedule.linear(30), torch.ones(1), (1, 2, 2)
    )
    with pytest.raises(ValueError, match="n must"):
        model.sample(n)


def test_the_run_is_trained_on_the_chain_with_the_simple_loss(monkeypatch, generator):
    asked = {}

    def train(name, loss, t_max):
        images = torch.zeros(400, 1, 8, 8)
        asked.update(name=name, t_max=t_max, loss=float(loss(lambda x, i: torch.zeros_like(x), images, generator)))
        return FitResult(UNet(size=8, width=16), torch.ones(3))

    monkeypatch.setattr(experiment, "train_digits", train)
    model = experiment.ddpm_digits()
    assert asked["name"] == "ddpm"
    assert asked["t_max"] == model.schedule.L == experiment.digit_chain().L == 100
    assert abs(asked["loss"] - 1) < 5 * math.sqrt(2 / 25600)  # the mean of 25,600 squared standard normals
    assert model.shape == (1, 8, 8)
    assert model.sample(3, generator).shape == (3, 1, 8, 8)
