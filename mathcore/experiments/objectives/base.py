"""What every objective offers, and the samplers that the ones on a noise schedule share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import one_of

if TYPE_CHECKING:
    from mathcore.experiments.datasets import DataSet
    from mathcore.schedules import AffineSchedule, DiscreteSchedule

Statistics = dict[str, Tensor]
"""What was measured on the training data and is needed to sample, such as the mean image: kept beside the weights."""


class Objective:
    """A frozen dataclass that says what is learned; the methods turn it into a loss and into samples.

    Attributes:
        samplers: names of the ways to draw samples, the usual one first.
        labelled: whether a batch is a pair of data and labels.
    """

    samplers: ClassVar[tuple[str, ...]] = ()
    labelled: bool = False

    @property
    def t_max(self) -> float:
        """Largest time or index that the network is given."""
        return 1.0

    def network(self, size: Any, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Return the untrained network of the size ``size`` for data of ``shape``.

        Raises:
            ValueError: a network that does not fit the data.
        """
        return size.build(shape, self.t_max, classes if self.labelled else 0)

    def statistics(self, data: DataSet) -> Statistics:
        """Measure what sampling needs of the training data."""
        return {}

    def source(self, data: DataSet) -> Any:
        """Return what the training loop draws batches from."""
        return data.source(self.labelled)

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch: 0-d."""
        raise NotImplementedError

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Draw samples of ``shape`` (N, ...), by the sampler called ``method`` in ``steps`` steps; on the device of ``generator``.

        Raises:
            ValueError: unknown sampler, a number of steps that it cannot take.
        """
        raise NotImplementedError


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers, float32, on the device of the generator."""
    return torch.randn(shape, generator=generator, device=generator.device)


SOLVERS = ("dpm_solver_pp", "ddim", "ancestral", "unipc", "heun", "euler_maruyama")
"""Samplers of chapter 9 for a model on a noise schedule; all are tables of coefficients."""

CHAIN_SOLVERS = ("ancestral", "ddim", "dpm_solver_pp", "unipc")
"""The ones that need no time derivative."""


def run_solver(
    model: Callable[[Tensor, Any], Tensor],
    start: Tensor,
    schedule: AffineSchedule | DiscreteSchedule,
    prediction: str,
    method: str,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Carry ``start``, standard normal, through the table called ``method`` in ``steps`` steps from the noise to the data.

    The grid is the one that suits the method: equal steps of the half log-SNR for the exponential integrators, quadratic in time for the stochastic
    ones, that of Karras et al. for Heun. On a chain of levels it is a choice of ``steps`` of them.

    Raises:
        ValueError: unknown method, more steps than a chain has levels.
    """
    from mathcore import solvers
    from mathcore.schedules import DiscreteSchedule
    from mathcore.solvers import grids

    discrete = isinstance(schedule, DiscreteSchedule)
    one_of(method, CHAIN_SOLVERS if discrete else SOLVERS, "sampler")
    if isinstance(schedule, DiscreteSchedule):
        times = grids.discrete(schedule, steps, "trailing")
        scale = 1.0
    else:
        spacing: dict[str, Any] = {"ancestral": grids.quadratic_t, "euler_maruyama": grids.quadratic_t, "heun": grids.karras}
        times = spacing.get(method, grids.uniform_lambda)(schedule, steps)
        scale = float(schedule.sigma(times[0]))
    builder: Any = solvers.edm_heun if method == "heun" else getattr(solvers, method)
    table: Any = builder(schedule, times, prediction)
    return table.run(model, scale * start, **({"generator": generator} if table.stochastic else {}))
