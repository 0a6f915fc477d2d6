"""What a score or an energy that is given as code must return: one place, one wording."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "n *shape"]

Score = Callable[[Tensor], Tensor]
"""A field ``(N, *shape) -> (N, *shape)``; row n of the answer depends on row n of the points alone."""

Energy = Callable[[Tensor], Tensor]
"""A function ``(N, *shape) -> (N,)``, row by row."""


def one_per_row(out: Any, x: Tensor, name: str) -> Tensor:
    """Return ``out`` if it is a floating tensor with one number for each row of ``x``.

    Raises:
        TypeError: no floating tensor. ValueError: another shape.
    """
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise TypeError(f"{name} must return a floating-point tensor, got {out.dtype if isinstance(out, Tensor) else type(out).__name__}")
    if out.shape != x.shape[:1]:
        raise ValueError(f"{name} must return one number per row, shape ({len(x)},); got {tuple(out.shape)}")
    return out


def row_sum(x: Tensor) -> Tensor:
    """Sum over all axes but the first: ``(N, *shape) -> (N,)``."""
    return torch.sum(x.reshape(len(x), -1), dim=1)
