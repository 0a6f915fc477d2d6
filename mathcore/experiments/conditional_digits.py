"""A class-conditional diffusion model of handwritten digits, for classifier-free guidance (chapters 8 and 9)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mathcore.data import load
from mathcore.experiments.digits import digits_size
from mathcore.networks import UNet, drop_labels
from mathcore.schedules import AffineSchedule
from mathcore.settings import settings
from mathcore.training import FitResult, fit, run_cached
from mathcore.training.precision import single_precision

CLASSES = 10
P_EMPTY = 0.1
"""How often training hides the label."""


@dataclass(frozen=True)
class Digits:
    """``network(x, t, label)`` predicts the velocity of ``schedule``; label 10 or none is the unconditional model.

    ``losses``: mean squared error of each training step. ``images``: name of the data set for :func:`mathcore.data.load`. ``size``: side of an image.
    """

    network: UNet
    schedule: AffineSchedule
    losses: Tensor
    images: str
    size: int


def velocity_loss(model: Callable[..., Tensor], batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Squared error of the velocity -sin(t) x_0 + cos(t) eps at uniform angles t (Salimans and Ho 2022), labels dropped at random."""
    x_0, label = batch
    t = math.pi / 2 * torch.rand(len(x_0), generator=generator, device=x_0.device, dtype=x_0.dtype)
    noise = torch.randn(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)
    cos, sin = (f(t)[:, None, None, None] for f in (torch.cos, torch.sin))
    label = drop_labels(label, P_EMPTY, CLASSES, generator)
    return (model(cos * x_0 + sin * noise, t, label) - (cos * noise - sin * x_0)).square().mean()


def conditional_digits() -> Digits:
    """Train the model, or read the kept run: 20 s on one core at the CPU scale, 28x28 images and a larger network at the GPU scale."""
    size = digits_size()
    train = tuple(part.to(settings.device) for part in load(size.images, "train"))

    def trained(model: nn.Module) -> FitResult:
        return fit(model, velocity_loss, train, size.config)

    with single_precision(), torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(size=size.size, width=size.width, mults=size.mults, t_max=math.pi / 2, classes=CLASSES)
        run = run_cached(f"{size.images}-conditional", size.config, trained, network)
    network.requires_grad_(False)
    return Digits(network, AffineSchedule.trig(), run.losses, size.images, size.size)
