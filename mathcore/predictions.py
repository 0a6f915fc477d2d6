"""Noise, clean, score and velocity: one prediction in four forms (Proposition 6.3.1).

With x_t = alpha x + sigma eps all four carry the same information, and each is a linear combination of x_t and any other one. The table
below holds the two coefficients of each of the twelve changes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Index, Time
from mathcore._validate import floating, one_of, per_sample
from mathcore.schedules import AffineSchedule, DiscreteSchedule

PREDICTIONS = ("noise", "clean", "score", "velocity")
"""The names of the four predictions: eps, x, s = grad log p_t, v = alpha' x + sigma' eps."""

Batch = Float[Tensor, "n *shape"]


def convert_prediction(value: Batch, x_t: Batch, t: Time | Index, schedule: AffineSchedule | DiscreteSchedule, src: str, dst: str) -> Batch:
    """Turn the prediction ``value`` of kind ``src`` at ``(x_t, t)`` into kind ``dst``; both are among :data:`PREDICTIONS`.

    Exact pointwise for the oracles, and the definition of the other three for one trained network (Proposition 6.3.1). With a
    ``DiscreteSchedule``, ``t`` is a step index in 1..L and the velocity, a time derivative, does not exist.

    Args:
        value: prediction, any batch-first shape ``(N, *shape)``.
        x_t: the noisy points, the same shape.
        t: one time (index), or one per sample ``(N,)``.
        schedule: gives alpha_t and sigma_t; coefficients are formed in float64, then rounded to the dtype of ``x_t``.
        src: kind of ``value``.
        dst: kind that is returned.

    Raises:
        TypeError: ``value`` or ``x_t`` is no floating tensor, ``schedule`` no schedule, or ``t`` of the wrong kind for it.
        ValueError: unknown name, velocity on a discrete chain, shapes that differ, NaN or infinity, ``t`` outside the domain, or a
            conversion that is singular at ``t`` (it divides by an alpha or sigma that is 0 there, or needs an infinite derivative).
    """
    one_of(src, PREDICTIONS, "src"), one_of(dst, PREDICTIONS, "dst")
    floating(value, "value"), floating(x_t, "x_t")
    if x_t.ndim == 0 or value.shape != x_t.shape:
        raise ValueError(f"value must have the shape (N, *shape) of x_t, {tuple(x_t.shape)}, got {tuple(value.shape)}")
    scales = _scales(t, schedule, src, dst)
    if src == dst:
        return value
    a, b = (_finite(c, x_t, t, src, dst) for c in _coefficients(scales, t, src, dst))
    return per_sample(a, x_t) * x_t + per_sample(b, x_t) * value


@dataclass(frozen=True)
class _ChainScales:
    """alpha and sigma of a discrete chain at one step or one per sample."""

    alpha: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class _AffineScales:
    """The functions of a continuous schedule at fixed times, evaluated when asked: some are infinite where others are not needed."""

    schedule: AffineSchedule
    time: Tensor

    def __getattr__(self, which: str) -> Tensor:
        return getattr(self.schedule, which)(self.time)

    @property
    def wronskian(self) -> Tensor:
        """alpha sigma' - alpha' sigma, the determinant of (x, eps) -> (x_t, v)."""
        return self.alpha * self.dsigma - self.dalpha * self.sigma


# (src, dst): scales s -> (A, B) with dst = A x_t + B src
_TABLE: dict[tuple[str, str], Callable[..., tuple[Tensor, Tensor]]] = {
    ("noise", "clean"): lambda s: (1 / s.alpha, -s.sigma / s.alpha),
    ("noise", "score"): lambda s: (torch.zeros_like(s.sigma), -1 / s.sigma),
    ("noise", "velocity"): lambda s: (s.f, s.wronskian / s.alpha),
    ("clean", "noise"): lambda s: (1 / s.sigma, -s.alpha / s.sigma),
    ("clean", "score"): lambda s: (-1 / s.sigma**2, s.alpha / s.sigma**2),
    ("clean", "velocity"): lambda s: (s.dsigma / s.sigma, -s.wronskian / s.sigma),
    ("score", "noise"): lambda s: (torch.zeros_like(s.sigma), -s.sigma),
    ("score", "clean"): lambda s: (1 / s.alpha, s.sigma**2 / s.alpha),
    ("score", "velocity"): lambda s: (s.f, -s.g2 / 2),
    ("velocity", "noise"): lambda s: (-s.dalpha / s.wronskian, s.alpha / s.wronskian),
    ("velocity", "clean"): lambda s: (s.dsigma / s.wronskian, -s.sigma / s.wronskian),
    ("velocity", "score"): lambda s: (s.dalpha / s.wronskian / s.sigma, -s.alpha / s.wronskian / s.sigma),
}


def _scales(t: Time | Index, schedule: AffineSchedule | DiscreteSchedule, src: str, dst: str) -> _ChainScales | _AffineScales:
    if isinstance(schedule, AffineSchedule):
        return _AffineScales(schedule, schedule.as_time(t))
    if not isinstance(schedule, DiscreteSchedule):
        raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
    if "velocity" in (src, dst):
        raise ValueError(f"cannot convert {src} to {dst} with a DiscreteSchedule: a chain has no time derivative, hence no velocity")
    i = schedule.index(t)  # type: ignore[arg-type]  # refuses what is no index
    return _ChainScales(schedule.alpha_bar.to(i.device)[i], schedule.sigma_bar.to(i.device)[i])


def _coefficients(scales: _ChainScales | _AffineScales, t: Time | Index, src: str, dst: str) -> tuple[Tensor, Tensor]:
    try:
        return _TABLE[src, dst](scales)
    except ValueError as error:  # the schedule refused an infinite value
        raise ValueError(f"the conversion of {src} to {dst} is singular at t={t}: {error}") from error


def _finite(coefficient: Tensor, x_t: Tensor, t: Time | Index, src: str, dst: str) -> Tensor:
    rounded = coefficient.to(dtype=x_t.dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise ValueError(f"the conversion of {src} to {dst} is singular at t={t}: a coefficient is not finite in {x_t.dtype}")
    return rounded
