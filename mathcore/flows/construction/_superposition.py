"""What every construction shares: fields of single data points, weighed by the posterior of the data point and added."""

import math

import torch
from torch import Tensor

from mathcore._validate import floating, per_sample

PAIRS_AT_ONCE = 2**22  # entries of a (points, data, D) block held in memory at a time: 32 MB in float64


def checked_data(x: Tensor, data: Tensor, weights: Tensor | None) -> Tensor:
    """Check points ``(N, D)`` against data ``(K, D)`` and return the log-weights ``(K,)``, normalised; equal ones for ``None``.

    Raises:
        TypeError: not floating tensors, or dtypes that differ.
        ValueError: shapes that do not fit, NaN, no data, weights not positive.
    """
    floating(x, "x", ndim=2)
    if floating(data, "data", ndim=2, dim=x.shape[1]).numel() == 0:
        raise ValueError(f"data must have shape (K, D) with K, D >= 1, got {tuple(data.shape)}")
    if data.dtype != x.dtype:
        raise TypeError(f"x and data must share one dtype, got {x.dtype} and {data.dtype}")
    if weights is None:
        return data.new_full((len(data),), -math.log(len(data)))
    if floating(weights, "weights", ndim=1).shape != data.shape[:1] or not bool((weights > 0).all()):
        raise ValueError(f"weights must be {len(data)} positive numbers, got shape {tuple(weights.shape)}, minimum {float(weights.min())}")
    return (weights / weights.sum()).log().to(data)


def positive_time(t: float | int | Tensor, x: Tensor) -> Tensor:
    """Return ``t`` shaped to broadcast over ``x``, ``()`` or ``(N, 1)``, if it is positive: at t = 0 the source is a point mass.

    Raises:
        TypeError, ValueError: as ``per_sample``; ValueError where t is not positive.
    """
    time = per_sample(t, x)
    if not bool((time > 0).all()):
        raise ValueError(f"t must be positive: at t = 0 each data point is a point mass; got {float(time.min())}")
    return time


def blocks(x: Tensor, t: Tensor, data: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Cut ``x (N, D)`` and ``t`` (``()`` or ``(N, 1)``) into row blocks whose product with the data stays in memory."""
    rows = max(1, PAIRS_AT_ONCE // data.numel())
    parts = x.split(rows) if len(x) else (x,)
    times = t.split(rows) if t.ndim else [t] * len(parts)
    return list(zip(parts, times))


def log_mass(log_terms: Tensor, x: Tensor) -> Tensor:
    """Return the log of the summed terms ``(N, K) -> (N,)``; refuse points that no data point reaches.

    Raises:
        ValueError: a term is NaN or plus infinity (a singular kernel at its data point), or all terms of a row are minus infinity.
    """
    total = torch.logsumexp(log_terms, dim=1)
    bad = ~torch.isfinite(total)
    if bool(bad.any()):
        value = float(total[bad][0])
        why = "no data point reaches it: the density is zero" if value == -math.inf else "the density is not finite"
        raise ValueError(f"there is no field at {int(bad.sum())} of {len(x)} points, first at x = {x[bad][0].tolist()}: {why}")
    return total
