"""Denoising on a continuous noise schedule: every head, weight and law of the times (chapters 4, 6, 9 and appendix D)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import one_of, per_sample
from mathcore.experiments.objectives.base import SOLVERS, Objective, Statistics, normal, run_solver

if TYPE_CHECKING:
    from mathcore.experiments.datasets import DataSet
    from mathcore.schedules import AffineSchedule

SCHEDULES = ("vp", "sub_vp", "ve", "edm", "linear", "cosine", "trig")
HEADS = ("noise", "clean", "score", "velocity", "edm")
WEIGHTS = ("own", "sigma2", "g2", "one")
TIMES = ("uniform", "quadratic", "lognormal", "logit_normal")


@dataclass(frozen=True)
class Denoise(Objective):
    """Regression of one head on a noise schedule; the loss is per coordinate.

    Attributes:
        schedule: a constructor of :class:`mathcore.schedules.AffineSchedule`.
        prediction: what the network returns; ``"edm"``: the residual F of Eq. D.6.1 inside an EDM-preconditioned denoiser.
        weight: ``"own"``: the plain squared error of the head. ``"sigma2"``, ``"g2"``, ``"one"``: that of the score with this weight (Eq. 4.2.1).
        times: law of the training times; ``"quadratic"``: half of the draws in the quarter next to the data.
        grey_step: width of the uniform noise that turns grey values into a density, or 0.
        p_empty: how often training hides the label; 0: no labels. guidance: weight of the conditional model in sampling.

    Raises:
        ValueError: an unknown name, a weight of the score for the head ``"edm"``, ``p_empty`` outside [0, 1].
    """

    samplers: ClassVar[tuple[str, ...]] = SOLVERS

    schedule: str = "vp"
    prediction: str = "noise"
    weight: str = "own"
    times: str = "uniform"
    grey_step: float | int = 0.0
    p_empty: float | int = 0.0
    guidance: float | int = 1.0

    def __post_init__(self) -> None:
        one_of(self.schedule, SCHEDULES, "objective.schedule"), one_of(self.prediction, HEADS, "objective.prediction")
        one_of(self.weight, WEIGHTS, "objective.weight"), one_of(self.times, TIMES, "objective.times")
        if self.prediction == "edm" and self.weight != "own":
            raise ValueError(
                f"objective.weight of the edm head must be 'own', which is 1 / c_out^2 on the clean error; got {self.weight!r}"
            )
        if not 0 <= self.p_empty <= 1:
            raise ValueError(f"objective.p_empty must lie in [0, 1], got {self.p_empty}")
        if not 0 <= self.grey_step < float("inf"):
            raise ValueError(f"objective.grey_step must not be negative, got {self.grey_step}")

    @property
    def labelled(self) -> bool:  # type: ignore[override]
        """Whether the network is told the label."""
        return self.p_empty > 0

    @property
    def t_max(self) -> float:
        """End of the schedule; the edm head hands log(sigma) / 4 to the network, which is of order one."""
        return 1.0 if self.prediction == "edm" else self.process().t_max

    def process(self) -> AffineSchedule:
        """Return the schedule."""
        return _process(self.schedule)

    def statistics(self, data: DataSet) -> Statistics:
        """Mean image and size of the data, for the edm head alone."""
        if self.prediction != "edm":
            return {}
        from mathcore.preconditioning import estimate_sigma_data

        x = data.images if data.images is not None else data.draw(65536, torch.Generator().manual_seed(0))
        return {"mean": x.mean(0, keepdim=True), "sigma_data": torch.tensor(estimate_sigma_data(x), dtype=torch.float64)}

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the loss of clean data, or of pairs of data and labels."""
        x0, label = batch if self.labelled else (batch, None)
        if self.grey_step:
            from mathcore.experiments.score_sde_digits import dequantise

            x0 = dequantise(x0, self.grey_step, generator)
        if self.weight != "own":
            return self._score_loss(self._labelled(model, label, generator), x0, generator)
        schedule, t = self.process(), self._draw_times(x0, generator)
        noise = normal(x0.shape, generator)
        net = self._labelled(model, label, generator)
        if self.prediction == "edm":
            return self.denoiser(net, statistics).loss_terms(x0 - statistics["mean"].to(x0), noise, t).mean() / x0[0].numel()
        alpha, sigma = per_sample(schedule.alpha(t), x0), per_sample(schedule.sigma(t), x0)
        if self.prediction == "velocity":
            target = per_sample(schedule.dalpha(t), x0) * x0 + per_sample(schedule.dsigma(t), x0) * noise
        else:
            target = {"noise": noise, "clean": x0, "score": -noise / sigma}[self.prediction]
        return (net(alpha * x0 + sigma * noise, t) - target).square().mean()

    def _score_loss(self, net: Callable, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Denoising score matching with one of its named weights, whatever the head predicts."""
        from mathcore.predictions import convert_prediction
        from mathcore.scores.dsm import dsm_loss

        schedule, head = self.process(), self.prediction
        if head == "velocity":  # in noise form first: dsm_loss knows the other three

            def as_noise(x: Tensor, t: Tensor) -> Tensor:
                return convert_prediction(net(x, t), x, t, schedule, "velocity", "noise")

            net_, head = as_noise, "noise"
        else:
            net_ = net
        t = None if self.times == "uniform" else self._draw_times(x0, generator)
        return dsm_loss(net_, x0, schedule, t, weight=self.weight, prediction=head, generator=generator) * (2 / x0[0].numel())

    def _draw_times(self, x0: Tensor, generator: torch.Generator) -> Tensor:
        """One time for each row; the lower end is a thousandth of the domain where a head has no limit there."""
        from mathcore.experiments.two_moons import EARLIEST
        from mathcore.time_distributions import TimeDistribution

        schedule = self.process()
        if self.times in ("lognormal", "logit_normal"):
            return getattr(TimeDistribution, self.times)(schedule).sample(len(x0), generator).to(x0)
        u = torch.rand(len(x0), generator=generator, device=x0.device, dtype=x0.dtype)
        u = u**2 if self.times == "quadratic" else u
        return schedule.t_min + (schedule.t_max - schedule.t_min) * (EARLIEST + (1 - 2 * EARLIEST if self._open else 1 - EARLIEST) * u)

    @property
    def _open(self) -> bool:
        """Whether the end of the schedule is pure noise, where a clean or velocity head is fine but a conversion is singular."""
        return self.schedule in ("linear", "trig", "cosine")

    def _labelled(self, model: Any, label: Tensor | None, generator: torch.Generator) -> Callable[[Tensor, Any], Tensor]:
        """The model with its labels bound, some of them hidden."""
        if label is None:
            return model
        from mathcore.networks import drop_labels

        return partial(_with_label, model, drop_labels(label, float(self.p_empty), _classes(model), generator))

    def denoiser(self, net: Callable[[Tensor, Any], Tensor], statistics: Statistics) -> Any:
        """Return the EDM-preconditioned clean prediction around a network, for data of which the mean is subtracted."""
        from mathcore.preconditioning import Preconditioned

        return Preconditioned(net, self.process(), float(statistics["sigma_data"]), "quarter_log_sigma")

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Draw samples by a table of chapter 9; with labels, the classes in turn under classifier-free guidance."""
        net: Callable[[Tensor, Any], Tensor] = model
        if self.labelled:
            from mathcore.guidance.classifier_free import classifier_free_batched

            classes = _classes(model)
            label = torch.arange(shape[0], device=generator.device) % classes
            net = classifier_free_batched(model, label, classes, float(self.guidance))
        start = normal(shape, generator)
        if self.prediction != "edm":
            return run_solver(net, start, self.process(), self.prediction, method, steps, generator)
        mean = statistics["mean"].to(start)
        return mean + run_solver(self.denoiser(net, statistics), start, self.process(), "clean", method, steps, generator)


@cache
def _process(name: str) -> AffineSchedule:
    """The schedule called ``name``; on the CPU, also where a network is being laid out without memory."""
    from mathcore.schedules import AffineSchedule

    with torch.device("cpu"):
        return getattr(AffineSchedule, name)()


def _with_label(model: Any, label: Tensor, x: Tensor, t: Any) -> Tensor:
    return model(x, t, label)


def _classes(model: Any) -> int:
    """Number of classes of a network, which may be wrapped for several processes or compiled."""
    for name in ("module", "_orig_mod"):
        model = getattr(model, name, model)
    return model.label.classes
