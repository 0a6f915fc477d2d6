"""Velocities from a source to the data: flow matching, reflow, transfer, maximum likelihood, and the Poisson flow (chapter 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import count, one_of
from mathcore.experiments.objectives.base import Objective, Statistics, normal

if TYPE_CHECKING:
    from mathcore.experiments.datasets import DataSet

ODE_METHODS = ("heun", "euler", "midpoint", "rk4")
PATHS = ("linear", "trig")
PRIORS = ("normal", "uniform", "laplace")


@dataclass(frozen=True)
class Flow(Objective):
    """Conditional flow matching from a source at t = 0 to the data at t = 1 (Eq. 5.2.9), per coordinate.

    Attributes:
        path: ``"linear"`` or ``"trig"``. prior: law of the source, of mean 0 and variance 1 in every coordinate.

    Raises:
        ValueError: unknown path or prior.
    """

    samplers: ClassVar[tuple[str, ...]] = ODE_METHODS

    path: str = "linear"
    prior: str = "normal"

    def __post_init__(self) -> None:
        one_of(self.path, PATHS, "objective.path"), one_of(self.prior, PRIORS, "objective.prior")

    def draw_source(self, shape: tuple[int, ...], statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Draw from the source: ``shape``, on the device of the generator."""
        if self.prior == "normal":
            return normal(shape, generator)
        u = torch.rand(shape, generator=generator, device=generator.device)
        if self.prior == "uniform":
            return 12**0.5 * (u - 0.5)
        v = torch.rand(shape, generator=generator, device=generator.device)  # the difference of two exponentials, in (0, 1]
        return 0.5**0.5 * ((1 - u).log() - (1 - v).log())

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the loss of data paired with fresh draws of the source, or of given pairs."""
        from mathcore.flows.matching import cfm_loss
        from mathcore.interpolation import Interpolation

        start, end = batch if isinstance(batch, (tuple, list)) else (self.draw_source(tuple(batch.shape), statistics, generator), batch)
        path = getattr(Interpolation, self.path)()
        return cfm_loss(model, start, end, None, path, generator=generator) / end[0].numel()

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Integrate the ODE from the source in ``steps`` equal steps."""
        from mathcore.dynamics.integrate import odeint_fixed

        one_of(method, self.samplers, "sampler")
        start = self.draw_source(shape, statistics, generator)
        with torch.no_grad():
            return odeint_fixed(model, start, torch.linspace(0, 1, steps + 1, dtype=torch.float64), method)


@dataclass(frozen=True)
class Transfer(Flow):
    """Flow matching between two data sets: the plane's other mixture, or two classes of images (section 5.3).

    Attributes:
        source_data: name of a mixture, for points. source_class, target_class: for images.

    Raises:
        ValueError: as :class:`Flow`; a class that is not 0 to 9.
    """

    source_data: str = "two_moons"
    source_class: int = 0
    target_class: int = 1

    def __post_init__(self) -> None:
        from mathcore.experiments.datasets import MIXTURES

        super().__post_init__()
        one_of(self.source_data, MIXTURES, "objective.source_data")
        for name in ("source_class", "target_class"):
            if not 0 <= getattr(self, name) <= 9:
                raise ValueError(f"objective.{name} must be 0 to 9, got {getattr(self, name)}")

    def statistics(self, data: DataSet) -> Statistics:
        """Up to a thousand images of the source class, so that a run can be sampled without the data set."""
        if data.images is None or data.labels is None:
            return {}
        return {"source": data.images[data.labels == self.source_class][:1000].clone()}

    def source(self, data: DataSet) -> Any:
        """Return a sampler of independent pairs: both ends drawn at random."""
        from mathcore.experiments.datasets import open_data

        if data.images is None or data.labels is None:
            other = open_data(self.source_data)
            if other.shape != data.shape:
                raise ValueError(f"objective.source_data {other.name!r} has shape {other.shape}, the target {data.name!r} {data.shape}")
            return lambda n, g: (other.draw(n, g), data.draw(n, g))
        first, second = (data.images[data.labels == c] for c in (self.source_class, self.target_class))

        def pairs(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = [torch.randint(len(part), (n,), generator=g) for part in (first, second)]
            return first[rows[0]], second[rows[1]]

        return pairs

    def draw_source(self, shape: tuple[int, ...], statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Draw from the source data."""
        from mathcore.experiments.datasets import open_data

        seeded = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        if "source" not in statistics:
            return open_data(self.source_data).draw(shape[0], seeded).to(generator.device)
        images = statistics["source"]
        return images[torch.randint(len(images), (shape[0],), generator=seeded)].to(generator.device)


@dataclass(frozen=True)
class Reflow(Flow):
    """Flow matching on the pairs that a trained flow makes (Eq. 5.4.2).

    Attributes:
        teacher: the run folder of that flow, or the name of an experiment that was trained into its usual folder at the same size.
        pairs: how many are made. pair_steps: steps of Heun's method from a start to its end.

    Raises:
        ValueError: as :class:`Flow`; a count below 1.
    """

    teacher: str = "flow-matching-digits"
    pairs: int = 4096
    pair_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self.pairs, "objective.pairs"), count(self.pair_steps, "objective.pair_steps")

    def source(self, data: DataSet) -> Any:
        """Return the pairs, made by the teacher: two tensors.

        Raises:
            CheckpointError: no such teacher; the message says how to train it.
        """
        from mathcore.experiments.runs import open_teacher
        from mathcore.flows.rectified import reflow_pairs

        teacher = open_teacher(self.teacher, data)
        g = torch.Generator(teacher.device).manual_seed(0)

        def start(n: int, generator: Any) -> Tensor:
            return self.draw_source((n, *data.shape), {}, generator or g)

        parts = []
        with torch.no_grad():
            for done in range(0, self.pairs, 1024):  # a thousand at a time, for the memory of an accelerator
                parts.append(reflow_pairs(teacher.model, start, min(1024, self.pairs - done), self.pair_steps, "heun", g))
        return tuple(torch.cat(ends).cpu() for ends in zip(*parts))


@dataclass(frozen=True)
class CNF(Flow):
    """The velocity of a continuous normalizing flow by maximum likelihood (Eq. 5.1.10), in nats per coordinate; normal prior only.

    Attributes:
        ode_steps: Runge-Kutta steps of each likelihood. divergence: ``"exact"`` or ``"hutchinson"``.

    Raises:
        ValueError: as :class:`Flow`; a count below 1, an unknown divergence.
    """

    ode_steps: int = 8
    divergence: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.prior, ("normal",), "objective.prior"), count(self.ode_steps, "objective.ode_steps")
        one_of(self.divergence, ("exact", "hutchinson"), "objective.divergence")

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return minus the mean log-likelihood of the batch."""
        from mathcore.dynamics.likelihood import log_likelihood_ode

        ts = torch.linspace(1, 0, self.ode_steps + 1, dtype=torch.float64)
        value = log_likelihood_ode(model, log_normal, batch, ts, "rk4", self.divergence, generator=generator)
        return -value.mean() / batch[0].numel()


def log_normal(x: Tensor) -> Tensor:
    """Return the log-density of the standard normal law at the rows of ``x``: ``(N,)``."""
    flat = x.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * torch.log(torch.tensor(2 * torch.pi)))


@dataclass(frozen=True)
class Poisson(Objective):
    """Clean prediction under a Cauchy kernel, the Poisson flow, or a Gaussian one, its twin: see :mod:`mathcore.experiments.poisson_digits`.

    Raises:
        ValueError: unknown kernel.
    """

    samplers: ClassVar[tuple[str, ...]] = ("euler",)

    kernel: str = "cauchy"

    def __post_init__(self) -> None:
        one_of(self.kernel, ("cauchy", "gaussian"), "objective.kernel")

    def statistics(self, data: DataSet) -> Statistics:
        """Mean and size of the data."""
        from mathcore.preconditioning import estimate_sigma_data

        x = data.images if data.images is not None else data.draw(65536, torch.Generator().manual_seed(0))
        return {"mean": x.mean(0, keepdim=True), "sigma_data": torch.tensor(estimate_sigma_data(x), dtype=torch.float64)}

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the weighted squared error of the clean prediction."""
        from mathcore.experiments.poisson_digits import ScaledDenoiser, clean_loss
        from mathcore.schedules import AffineSchedule
        from mathcore.time_distributions import TimeDistribution

        denoiser = ScaledDenoiser(model, float(statistics["sigma_data"]))
        return clean_loss(
            denoiser, batch - statistics["mean"].to(batch), self.kernel, TimeDistribution.lognormal(AffineSchedule.edm()), generator
        )

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Draw samples in ``steps`` calls of the network."""
        from mathcore.experiments.poisson_digits import PoissonModel, ScaledDenoiser

        one_of(method, self.samplers, "sampler")
        denoiser = ScaledDenoiser(model, float(statistics["sigma_data"]))
        return PoissonModel(self.kernel, denoiser, statistics["mean"].to(generator.device), torch.empty(0)).sample(
            shape[0], steps, generator
        )
