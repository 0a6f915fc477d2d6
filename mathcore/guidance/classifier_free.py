"""Classifier-free guidance: two predictions, one affine combination (Eq. 8.3.2 and 8.3.3).

    guided = omega cond + (1 - omega) uncond

omega = 0 is the unconditional model, 1 the conditional one, more extrapolates beyond it. Many papers write (1 + w) cond - w uncond instead: omega = 1 + w.
The four predictions are affine images of one another and the weights sum to one, so the same combination serves noise, clean, score and velocity
alike, as long as both models predict the same kind.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mathcore.solvers.table import Model

Weight = float | int | Callable[[Any], float]
"""The guidance weight omega, or omega as a function of time: 1 outside an interval of noise levels is interval guidance."""


def classifier_free(cond: Model, uncond: Model, omega: Weight) -> Model:
    """The guided model of two models, each asked once per call; at omega = 1 or 0 only the one that counts is asked.

    Args:
        cond, uncond: ``model(x, t) -> prediction`` of the same kind. omega: weight of ``cond``, a number or a function of t.

    Raises:
        ValueError: omega not finite; at a call: predictions of different shapes.
    """
    weight = _weight(omega)

    def guided(x: Tensor, t: Any) -> Tensor:
        w = weight(t)
        if w in (0.0, 1.0):
            return (cond if w else uncond)(x, t)
        c, u = cond(x, t), uncond(x, t)
        if c.shape != u.shape:
            raise ValueError(f"the two models must predict the same shape, got {tuple(c.shape)} and {tuple(u.shape)}")
        return torch.lerp(u, c, w)

    return guided


def classifier_free_batched(model: Callable[..., Tensor], label: Int[Tensor, " n"], empty: int, omega: Weight) -> Model:
    """The guided model of one network ``model(x, t, label)``, asked once per call with a doubled batch (Algorithm 4).

    Args:
        model: conditional network; ``t`` a number or ``(N,)``. label: condition of each sample. empty: the label that stands for no condition.
        omega: as in :func:`classifier_free`; at 1 and 0 the batch is not doubled.

    Raises:
        TypeError: labels that are not integers.
        ValueError: omega not finite; at a call: labels of another shape than ``(N,)``.
    """
    if not isinstance(label, Tensor) or label.is_floating_point() or label.dtype == torch.bool:
        raise TypeError(f"label must be a tensor of integers, got {label.dtype if isinstance(label, Tensor) else type(label).__name__}")
    weight, none = _weight(omega), torch.full_like(label, empty)

    def guided(x: Tensor, t: Any) -> Tensor:
        if label.shape != x.shape[:1]:
            raise ValueError(f"label must have shape ({len(x)},), one per sample, got {tuple(label.shape)}")
        w = weight(t)
        if w in (0.0, 1.0):
            return model(x, t, label if w else none)
        twice = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        c, u = model(torch.cat([x, x]), twice, torch.cat([label, none])).chunk(2)
        return torch.lerp(u, c, w)

    return guided


def _weight(omega: Weight) -> Callable[[Any], float]:
    if not callable(omega):
        number = _finite(omega)
        return lambda t: number
    return lambda t: _finite(omega(t))


def _finite(omega: Any) -> float:
    if isinstance(omega, bool) or not isinstance(omega, (int, float)) or not math.isfinite(omega):
        raise ValueError(f"omega must be a finite number or a function of t that returns one, got {omega!r}")
    return float(omega)
