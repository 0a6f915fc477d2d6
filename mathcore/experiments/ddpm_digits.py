"""A DDPM of handwritten digits (section 2.2): noise prediction on the linear chain, the first of the digit experiments."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import count
from mathcore.experiments.digits import digit_images, train_digits
from mathcore.schedules import DiscreteSchedule
from mathcore.settings import settings
from mathcore.training.precision import single_precision
from mathcore.variational.ddpm import ddpm_loss, ddpm_sample

Images = Float[Tensor, "n 1 h h"]


@dataclass(frozen=True)
class DDPMDigits:
    """``network(x, i)`` predicts the noise of level ``i`` of ``schedule``; ``losses`` of each training step, one for predicting nothing."""

    network: nn.Module
    schedule: DiscreteSchedule
    losses: Tensor
    shape: tuple[int, ...]

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Images:
        """Draw ``n`` images by ancestral sampling (Eq. 2.2.14): one call of the network for each level.

        Raises:
            ValueError: ``n`` below 1.
        """
        first = next(self.network.parameters())
        with single_precision():
            return ddpm_sample(self.network, (count(n, "n"), *self.shape), self.schedule, generator=generator, device=first.device)


def digit_chain() -> DiscreteSchedule:
    """Return the chain of the digits: linear, 1000 levels at the full scale and 100 at the CPU's."""
    return DiscreteSchedule.linear(1000 if settings.scale == "gpu" else 100)


def ddpm_digits() -> DDPMDigits:
    """Train the network by the loss of Eq. 2.2.10 per pixel, or read the kept run: 20 s on one core at the CPU scale."""
    schedule, shape = digit_chain(), tuple(digit_images().shape[1:])
    pixels = shape[-1] * shape[-2]

    def loss(model: Callable[[Tensor, Tensor], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
        return ddpm_loss(model, images, schedule, generator=generator) / pixels

    run = train_digits("ddpm", loss, t_max=schedule.L)
    return DDPMDigits(run.model, schedule, run.losses, shape)
