"""Keeping the clean prediction in range: clipping, and dynamic thresholding (Saharia et al. 2022; section 9.5.2).

Both act on the clean prediction whatever the model returns: convert, bound, convert back. They make sense where data live in a known box, pixels in
[-1, 1]; they make the model non-smooth, so that a solver keeps its order only where the bound does not act.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mathcore._validate import floating, one_of, positive
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers.table import Model


def dynamic_threshold(
    model: Model,
    schedule: AffineSchedule | DiscreteSchedule,
    prediction: str = "noise",
    quantile: float | int = 0.995,
    floor: float | int = 1.0,
) -> Model:
    """A model whose clean prediction is clipped to [-q, q] and scaled back into the box of the data, q = max(floor, quantile of |clean|), per sample.

    The scale is floor / q: the result lies in [-floor, floor], and a prediction that lies there already is left alone. Pixels have floor 1.

    Args:
        model: ``model(x, t) -> prediction``. schedule: what relates the predictions; with a ``DiscreteSchedule``, t is an index.
        prediction: what the model returns, and what the new one returns. quantile: in (0, 1].
        floor: half the width of the data's box, positive.

    Raises:
        ValueError: unknown prediction, quantile outside (0, 1], floor not positive; at a call: a conversion that is singular at t.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    smallest = positive(floor, "floor")

    def bounded(clean: Tensor) -> Tensor:
        size = clean.abs().flatten(1) if clean.ndim > 1 else clean.abs()[:, None]
        q = _quantile(size, quantile).clamp(min=smallest).reshape(-1, *[1] * (clean.ndim - 1))
        return torch.maximum(torch.minimum(clean, q), -q) * (smallest / q)

    return _on_clean(model, schedule, prediction, bounded)


def clip(
    model: Model, schedule: AffineSchedule | DiscreteSchedule, prediction: str = "noise", low: float | int = -1.0, high: float | int = 1.0
) -> Model:
    """A model whose clean prediction is clipped to [low, high].

    Raises:
        ValueError: unknown prediction, low not below high; at a call: a conversion that is singular at t.
    """
    if not low < high:
        raise ValueError(f"low must lie below high, got {low} and {high}")
    return _on_clean(model, schedule, prediction, lambda clean: clean.clamp(low, high))


def _on_clean(model: Model, schedule: AffineSchedule | DiscreteSchedule, prediction: str, change: Callable[[Tensor], Tensor]) -> Model:
    if not isinstance(schedule, (AffineSchedule, DiscreteSchedule)):
        raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
    one_of(prediction, PREDICTIONS, "prediction")

    def changed(x: Tensor, t: Any) -> Tensor:
        clean = convert_prediction(model(x, t), x, t, schedule, prediction, "clean")
        return convert_prediction(change(floating(clean, "the clean prediction")), x, t, schedule, "clean", prediction)

    return changed


def _quantile(values: Tensor, q: float | int) -> Tensor:
    """Linearly interpolated quantile of each row; ``torch.quantile`` refuses more than 16 million entries."""
    place = q * (values.shape[1] - 1)
    below = int(place)
    ordered = values.sort(dim=1).values
    return torch.lerp(ordered[:, below], ordered[:, min(below + 1, values.shape[1] - 1)], place - below)
