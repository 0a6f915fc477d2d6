"""The two models with a ladder of noise levels: DDPM (chapter 2) and the noise conditional score network (chapter 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import count, one_of, positive
from mathcore.experiments.objectives.base import CHAIN_SOLVERS, Objective, Statistics, normal, run_solver

if TYPE_CHECKING:
    from mathcore.experiments.datasets import DataSet


@dataclass(frozen=True)
class DDPM(Objective):
    """The loss of Eq. 2.2.10 per coordinate on the linear chain of ``levels``; the network is told the index.

    Attributes:
        prediction: ``"noise"`` or ``"clean"``. decoder_std: of p(x_0 | x_1) in the likelihood bound.

    Raises:
        ValueError: fewer than 21 levels (the linear chain has none), an unknown prediction, ``decoder_std`` not positive.
    """

    samplers: ClassVar[tuple[str, ...]] = CHAIN_SOLVERS

    levels: int = 100
    prediction: str = "noise"
    decoder_std: float | int = 0.1

    def __post_init__(self) -> None:
        count(self.levels, "objective.levels", 21), one_of(self.prediction, ("noise", "clean"), "objective.prediction")
        positive(self.decoder_std, "objective.decoder_std")

    @property
    def t_max(self) -> float:
        """The largest index."""
        return float(self.levels)

    def chain(self) -> Any:
        """Return the schedule."""
        from mathcore.schedules import DiscreteSchedule

        return DiscreteSchedule.linear(self.levels)

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the squared error at one random level for each row."""
        from mathcore.variational.ddpm import ddpm_loss

        return ddpm_loss(model, batch, self.chain(), self.prediction, generator=generator) / batch[0].numel()

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Draw samples by a table on ``steps`` of the levels; ``ancestral`` with all of them is Eq. 2.2.14.

        Raises:
            ValueError: unknown sampler, more steps than levels.
        """
        if steps > self.levels:
            raise ValueError(f"the chain has {self.levels} levels, so at most as many steps; got {steps}")
        return run_solver(model, normal(shape, generator), self.chain(), self.prediction, method, steps, generator)


@dataclass(frozen=True)
class NCSN(Objective):
    """Denoising score matching at a ladder of noise levels with weight sigma^2 (Eq. 3.4.1), per coordinate.

    The largest level is the largest distance of two training points, the ratio of neighbours follows from the dimension: see
    :mod:`mathcore.experiments.ncsn_digits`.

    Attributes:
        sigma_min: the smallest level. levels: how many; 0: by the rule for many dimensions.

    Raises:
        ValueError: ``sigma_min`` not positive, one level or fewer than none.
    """

    samplers: ClassVar[tuple[str, ...]] = ("langevin",)

    sigma_min: float | int = 0.05
    levels: int = 0

    def __post_init__(self) -> None:
        positive(self.sigma_min, "objective.sigma_min"), count(self.levels, "objective.levels", 0)
        if self.levels == 1:
            raise ValueError("objective.levels must be 0, for the rule, or at least 2")

    def statistics(self, data: DataSet) -> Statistics:
        """The noise levels."""
        from mathcore.experiments.ncsn_digits import noise_levels

        x = data.images if data.images is not None else data.draw(4096, torch.Generator().manual_seed(0))
        return {
            "sigmas": noise_levels(x[:8192], float(self.sigma_min), self.levels or None)
        }  # more would cost hours and change the distance little

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the loss at one random level for each row."""
        from mathcore.experiments.ncsn_digits import ncsn_loss

        return ncsn_loss(model, batch, statistics["sigmas"].to(batch), generator)

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Annealed Langevin dynamics (Algorithm 1), ``steps`` at every level and one that denoises at last."""
        from mathcore.experiments.ncsn_digits import noise_conditional
        from mathcore.scores.langevin import annealed_langevin, annealed_steps

        one_of(method, self.samplers, "sampler")
        sigmas = statistics["sigmas"].to(generator.device)
        sizes = annealed_steps(sigmas, 0.5 * float(sigmas[0]) ** 2)
        return annealed_langevin(noise_conditional(model, sigmas), shape, sigmas, sizes, steps, denoise=True, generator=generator)
