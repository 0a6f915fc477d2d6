"""Adaptive DPM-Solver-12 and -23: the step size follows an error estimate (Lu et al. 2022, Appendix C).

Two orders share their model calls: the higher one is kept, its distance from the lower one is the estimate. The coefficients of a step are known
only once the step before it has been accepted, so that a run is a sequence of one-interval tables instead of one table.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mathcore._validate import count, floating, one_of, positive
from mathcore.predictions import PREDICTIONS
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.builder import Builder
from mathcore.solvers.dpm_solver import KINDS, second_order, second_stage, third_order
from mathcore.solvers.exponential import Form
from mathcore.solvers.table import Model, SolverTable

ATOL_TO_RTOL = 0.0078 / 0.05
"""Ratio of the published tolerances; 0.0078 is one grey level of 256 on [-1, 1]."""


@dataclass(frozen=True)
class Attempt:
    """One tried step: from t to t_next, with its error estimate in units of the tolerance (accepted if at most 1)."""

    t: float
    t_next: float
    error: float

    @property
    def accepted(self) -> bool:
        """Whether the step was kept."""
        return self.error <= 1.0


@dataclass(frozen=True)
class AdaptiveRun:
    """What an adaptive run made.

    Attributes:
        x: the state at the end, shaped like the start. nfe: model calls, those of rejected steps included. attempts: every tried step in order.
    """

    x: Tensor
    nfe: int
    attempts: tuple[Attempt, ...]

    @property
    def accepted(self) -> int:
        """Number of steps that were kept."""
        return sum(a.accepted for a in self.attempts)

    @property
    def rejected(self) -> int:
        """Number of steps that were tried and repeated with a shorter length."""
        return len(self.attempts) - self.accepted

    @property
    def times(self) -> Tensor:
        """The grid that the run chose: decreasing, ``(accepted + 1,)``."""
        return torch.tensor([self.attempts[0].t, *(a.t_next for a in self.attempts if a.accepted)], dtype=torch.float64)


@dataclass(frozen=True)
class AdaptiveSolver:
    """The settings of :func:`dpm_solver_adaptive`, to be run with a model."""

    schedule: AffineSchedule
    t_start: float
    t_end: float
    prediction: str
    order: int
    form: str
    kind: str
    rtol: float
    atol: float
    first_step: float
    max_steps: int

    def run(self, model: Model, x_T: Tensor) -> AdaptiveRun:
        """Solve from ``x_T (N, *shape)`` at ``t_start``; one step size for the whole batch, that of its worst sample.

        Raises:
            TypeError: ``x_T`` or a prediction is no floating tensor.
            ValueError: ``x_T`` without a batch axis or not finite, predictions of another shape, NaN or infinity from the model.
            RuntimeError: ``max_steps`` attempts did not reach the end, or the step shrank to nothing.
        """
        if floating(x_T, "x_T").ndim == 0 or x_T.numel() == 0:
            raise ValueError(f"x_T must have shape (N, *shape) with at least one sample, got {tuple(x_T.shape)}")
        end, t, x, before = float(self.schedule.half_log_snr(self.t_end)), self.t_start, x_T, x_T
        lam, h = float(self.schedule.half_log_snr(t)), self.first_step
        attempts: list[Attempt] = []
        while t != self.t_end:
            if len(attempts) == self.max_steps:
                raise RuntimeError(f"no end after max_steps={self.max_steps} steps: t={t} of {self.t_end}, step {h:.3g} in half-log-SNR")
            last = h >= (end - lam) * (1 - 1e-12)
            t_next = self.t_end if last else float(self.schedule.inverse_half_log_snr(lam + h))
            if not t_next < t or lam + h == lam:
                raise RuntimeError(f"the step shrank to {h:.3g} in half-log-SNR at t={t}: the tolerances cannot be met there")
            low, high = _last_two(_pair(self, t, t_next), model, x)
            attempts.append(Attempt(t, t_next, self._error(high, low, before)))
            if attempts[-1].accepted:
                t, lam, x, before = t_next, end if last else lam + h, high, low
            h = min(0.9 * h * max(attempts[-1].error, 1e-30) ** (-1 / self.order), end - lam)  # an error of 0 lets it run to the end
        return AdaptiveRun(x, self.order * len(attempts), tuple(attempts))

    def _error(self, high: Tensor, low: Tensor, before: Tensor) -> float:
        """Root mean square over one sample of the distance in units of the tolerance; the largest in the batch."""
        scale = (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)
        gap = ((high - low) / scale).reshape(len(high), -1)
        error = float(gap.square().mean(1).max().sqrt())
        return error if math.isfinite(error) else 1e30


def dpm_solver_adaptive(
    schedule: AffineSchedule,
    t_start: float | None = None,
    t_end: float | None = None,
    prediction: str = "noise",
    order: int = 3,
    form: str = "noise",
    kind: str = "midpoint",
    rtol: float | int = 0.05,
    atol: float | int | None = None,
    first_step: float | int = 0.05,
    max_steps: int = 1000,
) -> AdaptiveSolver:
    """DPM-Solver-12 (``order=2``) or -23 (``order=3``), on the noise or (DPM-Solver++) on the clean prediction, with error control.

    E = rms((x_high - x_low) / max(atol, rtol max(|x_low|, |x_prev|))), x_prev the lower-order state of the step before; accept the higher order if
    E <= 1; the next length in half-log-SNR is 0.9 h E^{-1/order}, at most what is left. A rejected step costs as many calls as an accepted one.

    Args:
        schedule: continuous, with finite half-log-SNR at both ends. t_start, t_end: see :func:`grids.ends`. prediction: what the model returns.
        kind: ``"midpoint"`` or ``"taylor"``, see :func:`dpm_solver`. rtol: relative tolerance. atol: absolute one, 0.156 rtol by default, as in the
            published pair (0.05, 0.0078); one that stays behind while rtol shrinks soon controls everything. first_step: in half-log-SNR.
        max_steps: largest number of attempts.

    Raises:
        TypeError: a ``DiscreteSchedule``, which has nothing between its indices.
        ValueError: unknown names, order not 2 or 3, tolerances, first step or max_steps not positive, ends in the wrong order or outside the domain.
    """
    one_of(prediction, PREDICTIONS, "prediction"), one_of(form, ("noise", "clean"), "form"), one_of(kind, KINDS, "kind")
    if isinstance(order, bool) or order not in (2, 3):
        raise ValueError(f"order must be 2 (the pair 1, 2) or 3 (the pair 2, 3), got {order!r}")
    count(max_steps, "max_steps")
    start, end = grids.uniform_lambda(schedule, 1, t_start, t_end).tolist()
    rtol, first = positive(rtol, "rtol"), positive(first_step, "first_step")
    atol = ATOL_TO_RTOL * rtol if atol is None else positive(atol, "atol")
    return AdaptiveSolver(schedule, start, end, prediction, order, form, kind, rtol, atol, first, max_steps)


def _pair(solver: AdaptiveSolver, t: float, t_next: float) -> SolverTable:
    """One interval; the last state but one is of the lower order, the last one of the higher."""
    form, kind = Form(solver.form), solver.kind
    build = Builder("dpm_solver_adaptive", solver.schedule, torch.tensor([t, t_next], dtype=torch.float64), solver.prediction)
    x, (s, end) = build.start, build.nodes
    places = [1 / 2] if solver.order == 2 else [1 / 3, 2 / 3]
    inner = build.between([s.lam + r * (end.lam - s.lam) for r in places])
    m = form.of(build.evaluate(x))
    new = form.frozen(x, m, s, end)
    d1 = form.of(build.evaluate(build.state(form.frozen(x, m, s, inner[0]), inner[0], stage=True))) - m
    second = second_order(form, kind, new, d1, s, places[0], end)
    if solver.order == 2:
        build.state(new, end, stage=True)
        build.state(second, end)
        return build.table()
    d2 = form.of(build.evaluate(build.state(second_stage(form, x, m, d1, s, 2.0, inner[1]), inner[1], stage=True))) - m
    build.state(second, end, stage=True)
    build.state(third_order(form, kind, new, d1, d2, s, (1 / 3, 2 / 3), end), end)
    return build.table()


def _last_two(table: SolverTable, model: Model, x: Tensor) -> list[Tensor]:
    states: list[Tensor] = []
    table.run(model, x, callback=lambda _, state: states.append(state))
    return states[-2:]
