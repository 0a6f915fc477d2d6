"""One network, one budget, one ruler: the handwritten digits on which the models of the book are trained and compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore import data
from mathcore._validate import count, floating
from mathcore.distributions import Empirical
from mathcore.divergences import energy_distance, two_sample_floor
from mathcore.metrics import Memorisation, digit_frechet_distance, digit_frechet_floor, memorisation
from mathcore.networks import UNet
from mathcore.settings import settings
from mathcore.training import FitResult, TrainConfig, fit, run_cached
from mathcore.training.loop import Data, Loss
from mathcore.training.precision import single_precision


@dataclass(frozen=True)
class DigitsSize:
    """What ``settings.scale`` decides: ``images`` names the data set of :func:`mathcore.data.load`, ``size`` is the side of an image in pixels.

    ``grey_step``: distance of two neighbouring grey values on the scale [-1, 1].
    """

    images: str
    size: int
    width: int
    mults: tuple[int, ...]
    grey_step: float
    config: TrainConfig


CPU = DigitsSize("digits8", 8, 16, (1, 2), 2 / 16, TrainConfig(steps=800, batch_size=96, lr=3e-3, decay="cosine"))
"""About 20 seconds of training on one core."""

GPU = DigitsSize("digits28", 28, 64, (1, 2, 2), 2 / 255, TrainConfig(steps=20_000, batch_size=256, lr=5e-4, decay="cosine", ema=0.999))


@dataclass(frozen=True)
class DigitScores:
    """How far ``(N, 1, H, H)`` samples are from held-out images: two distances, and quantiles of the distance to the nearest training image."""

    energy: float
    frechet: float
    nearest: Memorisation


def digits_size() -> DigitsSize:
    """Return the size of the digit experiments at the scale of ``settings``."""
    return GPU if settings.scale == "gpu" else CPU


def digit_images(split: str = "train") -> Float[Tensor, "n 1 h h"]:
    """Return the images of a split, ``"train"`` or ``"test"``, in [-1, 1], float32, on ``settings.device``.

    Raises:
        ValueError: unknown split.
    """
    return data.load(digits_size().images, split)[0].to(settings.device)


def digits_network(t_max: float | int) -> UNet:
    """Return the untrained U-Net for ``t`` up to ``t_max``: the same weights in every call, float32."""
    size = digits_size()
    with single_precision(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(size=size.size, width=size.width, mults=size.mults, t_max=float(t_max))


def train_digits(name: str, loss: Loss, t_max: float | int, data: Callable[[], Data] | None = None) -> FitResult:
    """Train the U-Net of this module on the training images with ``loss(model, images, generator)``, or read the kept run; weights frozen.

    Every run starts from the same weights and has the same number of steps, so that models differ in their loss alone.

    Args:
        name: of the run, letters, digits and ``-``.
        loss: 0-d, of ``model(x (N, 1, H, H), t (N,))``.
        t_max: largest value of ``t`` that the network is given.
        data: makes what the loss gets in place of the training images; called only where the run is not kept.
    """
    size = digits_size()
    source = data or digit_images

    def train(model: nn.Module) -> FitResult:
        return fit(model, loss, source(), size.config, label=f"{name} on {size.images}")

    with single_precision():
        run = run_cached(f"{size.images}-{name}", size.config, train, digits_network(t_max))
    run.model.requires_grad_(False)
    return run


def score_digits(samples: Float[Tensor, "n 1 h h"], repeats: int = 8) -> DigitScores:
    """Measure samples against the held-out images; ``digit_floors(len(samples))`` says what as many real images would score.

    With n the number of samples, or of held-out images if that is smaller: ``energy`` is the energy distance between the pixels of n images a side,
    ``frechet`` the digit Frechet distance between n/2 a side, a mean over ``repeats`` random pairs of subsets; ``nearest``: see
    :func:`mathcore.metrics.memorisation`. Compare scores at one n only: both distances are biased upwards by about 1/n.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than four images, not of the size of the experiment, or NaN.
    """
    held_out = digit_images("test").cpu()
    floating(samples, "samples")
    if samples.shape[1:] != held_out.shape[1:] or len(samples) < 4:
        raise ValueError(f"samples must be at least 4 images of shape {tuple(held_out.shape[1:])}, got {tuple(samples.shape)}")
    x = samples.detach().cpu().to(held_out.dtype)
    n = min(len(x), len(held_out))

    def some(images: Tensor, seed: int, count: int) -> Tensor:
        return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]]

    energy = energy_distance(x[:n].flatten(1), some(held_out, 3, n).flatten(1))
    pairs = [(some(x, k, n // 2), some(held_out, k + 100, n // 2)) for k in range(repeats)]
    frechet = sum(float(digit_frechet_distance(*pair)) for pair in pairs) / repeats
    return DigitScores(float(energy), frechet, memorisation(x, digit_images().cpu(), held_out))


@cache
def digit_floors(n: int) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of both distances of :func:`score_digits` between two sets of real images, for ``n`` samples.

    Raises:
        ValueError: ``n`` below 4.
    """
    train, held_out = digit_images().cpu(), digit_images("test").cpu()
    everything, n = Empirical(torch.cat([train, held_out]).flatten(1)), min(count(n, "n", 4), len(held_out))
    energy = two_sample_floor(energy_distance, everything.sample, n, generator=torch.Generator().manual_seed(1))
    return {"energy": energy, "frechet": digit_frechet_floor(held_out, n // 2, generator=torch.Generator().manual_seed(2))}
