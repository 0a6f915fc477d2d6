"""Flow matching on the digits: its loss against closed forms, its sampler on fields solved by hand, and what is handed to training."""

import math

import pytest
import torch
from torch import nn

from mathcore.experiments import flow_matching_digits as experiment
from mathcore.interpolation import Interpolation
from mathcore.networks import UNet
from mathcore.training import FitResult

F64 = torch.float64
PATH = Interpolation.linear()


class Field(nn.Module):
    """A velocity given as a function of (x, t), with one weight so that it has a dtype; remembers the times it was asked."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.anchor, self.asked = fn, nn.Parameter(torch.zeros((), dtype=F64)), []

    def forward(self, x, t):
        self.asked.append(float(torch.as_tensor(t).reshape(-1)[0]))
        return self.fn(x, torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1))


def digits(fn):
    return experiment.FlowMatchingDigits(Field(fn), PATH, torch.ones(1), (1, 2, 2))


def test_a_field_that_stands_still_pays_the_length_of_the_lines(generator):
    """E |x_1 - x_0|^2 per pixel is |x_1|^2 + 1 for standard normal x_0, whatever the time."""
    images = torch.full((20_000, 1, 2, 2), 0.5, dtype=F64)
    got = float(experiment.flow_matching_loss(Field(lambda x, t: torch.zeros_like(x)), images, PATH, generator))
    # a mean of 80 000 values (0.5 - z)^2 of variance 2 + 4 * 0.25 = 3
    assert abs(got - 1.25) < 5 * math.sqrt(3 / 80_000)


def test_the_exact_velocity_of_one_image_costs_nothing(generator):
    """All lines end in one point, so x_1 - x_0 = (x_1 - x_t) / (1 - t) is known from x_t."""
    image = torch.tensor([[0.25, -1.0], [0.5, 0.0]], dtype=F64)
    images = image.expand(500, 1, 2, 2)
    exact = Field(lambda x, t: (image - x) / (1 - t))
    assert float(experiment.flow_matching_loss(exact, images, PATH, generator)) < 1e-18  # (1e-16 / (1 - t))^2, some t near 1
    backward = Field(lambda x, t: (x - image) / (1 - t))
    assert float(experiment.flow_matching_loss(backward, images, PATH, generator)) > 1


@pytest.mark.parametrize(("method", "calls"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_samples_solve_the_ode_from_noise_at_zero(method, calls):
    """dx/dt = 3 t^2 adds one to every pixel of the noise, up to the error of the method (rk4 integrates a cubic exactly)."""
    model, n_steps = digits(lambda x, t: 3 * t**2 * torch.ones_like(x)), 20
    got = model.sample(50, n_steps, method, torch.Generator().manual_seed(3))
    start = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    # Euler misses half a step of 3 t^2 from 0 to 3, Heun h^2 / 12 of its derivative's change, 6
    allowed = {"euler": 1.6 / n_steps, "heun": 0.6 / n_steps**2, "rk4": 1e-12}[method]
    assert float((got - start - 1).abs().max()) < allowed
    assert len(model.network.asked) == calls * n_steps
    assert model.network.asked[0] == 0
    assert model.network.asked == sorted(model.network.asked)
    assert not got.requires_grad


def test_gaussian_images_are_drawn_with_their_variance():
    """For pixels N(0, s^2) the exact velocity is (s^2 t - (1 - t)) / V x with V = (1 - t)^2 + s^2 t^2, and the flow multiplies by s."""
    s = 0.5
    model = digits(lambda x, t: (s**2 * t - (1 - t)) / ((1 - t) ** 2 + s**2 * t**2) * x)
    got = model.sample(7, 40, "rk4", torch.Generator().manual_seed(0))
    start = torch.randn(7, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.allclose(got, s * start, rtol=1e-6, atol=0)


def test_bad_arguments(user_errors, generator):
    model = digits(lambda x, t: x)
    images = torch.zeros(2, 1, 2, 2, dtype=F64)
    with pytest.raises(ValueError, match="n must"):
        model.sample(0)
    with pytest.raises(ValueError, match="n_steps"):
        model.sample(2, 0)
    with pytest.raises(ValueError, match="method"):
        model.sample(2, 3, "leapfrog")
    with pytest.raises(TypeError, match="x"):
        model.velocity(images.long(), 0.5)
    with pytest.raises(ValueError, match="x"):
        model.velocity(images * math.nan, 0.5)
    with pytest.raises(ValueError, match="x"):
        model.velocity(images[0], 0.5)
    with pytest.raises(TypeError, match="images"):
        experiment.flow_matching_loss(model.network, images.long(), PATH, generator)
    with pytest.raises(ValueError, match="images"):
        experiment.flow_matching_loss(model.network, images * math.nan, PATH, generator)
    with pytest.raises(TypeError, match="path"):
        experiment.flow_matching_loss(model.network, images, "linear", generator)


def test_what_is_trained(monkeypatch, generator):
    asked = {}

    def train(name, loss, t_max):
        model, times = UNet(size=8, width=16), []
        model.register_forward_pre_hook(lambda module, args: times.append(args[1]))
        value = loss(model, experiment.digit_images()[:64], generator)
        value.backward()
        asked.update(
            name=name, t_max=t_max, loss=float(value.detach()), times=times[0], moved=any(p.grad is not None for p in model.parameters())
        )
        return FitResult(model, torch.ones(3))

    monkeypatch.setattr(experiment, "train_digits", train)
    with torch.random.fork_rng():
        model = experiment.flow_matching_digits()
    assert asked["name"] == "flow-matching"
    assert asked["t_max"] == 1.0
    assert asked["moved"]
    assert 0 < asked["loss"] < 10
    assert asked["times"].shape == (64,)
    assert bool(((asked["times"] >= 0) & (asked["times"] < 1)).all())
    assert model.path.ends == (1.0, 0.0, 0.0, 1.0)
    assert model.sample(3, 2, generator=generator).shape == (3, 1, 8, 8)
