"""Latent-variable models (chapter 2): their networks compute their own bound, and draw by decoding codes from the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import count, one_of, positive
from mathcore.experiments.objectives.base import Objective, Statistics


class Bound(nn.Module):
    """Hands a batch and a generator to the loss of a latent-variable model, so that several processes can wrap the whole; data are flattened."""

    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch ``(N, *shape)``: 0-d, minus the bound in nats per row."""
        return self._loss(self.model, x.flatten(1), generator)


@dataclass(frozen=True)
class VAEObjective(Objective):
    """Minus the evidence bound of a Gaussian VAE (Theorem 2.1.1), in nats per row; the network's ``hidden`` and ``depth`` are those of both halves.

    Attributes:
        d_code: dimension of the code. sigma_dec: standard deviation of the decoder.

    Raises:
        ValueError: a size that is not positive.
    """

    samplers: ClassVar[tuple[str, ...]] = ("prior",)

    d_code: int = 2
    sigma_dec: float | int = 0.1

    def __post_init__(self) -> None:
        count(self.d_code, "objective.d_code"), positive(self.sigma_dec, "objective.sigma_dec")

    def network(self, size: Any, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the untrained model for flattened data."""
        from mathcore.variational.vae import VAE, vae_loss

        return Bound(VAE(math.prod(shape), self.d_code, float(self.sigma_dec), _hidden(size), size.depth), vae_loss)

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return minus the bound."""
        return model(batch, generator)

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Decode codes drawn from the prior; the number of steps is of no account."""
        one_of(method, self.samplers, "sampler")
        inner: Any = model.model
        return inner.sample(shape[0], generator).reshape(shape)


@dataclass(frozen=True)
class HVAEObjective(VAEObjective):
    """The same with two latent layers, on form (A) of the bound of Eq. 2.1.3.

    Attributes:
        d_top: dimension of the upper code.

    Raises:
        ValueError: a size that is not positive.
    """

    d_top: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.d_top, "objective.d_top")

    def network(self, size: Any, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the untrained model for flattened data."""
        from mathcore.variational.hvae import HVAE, hvae_loss

        return Bound(HVAE([math.prod(shape), self.d_code, self.d_top], float(self.sigma_dec), _hidden(size), size.depth), hvae_loss)


def _hidden(size: Any) -> int:
    """Width of the halves.

    Raises:
        ValueError: a network that is no perceptron.
    """
    if not hasattr(size, "hidden"):
        raise ValueError("a variational autoencoder is made of perceptrons: it has network.hidden and network.depth, not network.width")
    return size.hidden
