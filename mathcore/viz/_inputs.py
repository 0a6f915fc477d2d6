"""What the figures accept: values of any kind as checked arrays, densities on grids."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Values: TypeAlias = Tensor | np.ndarray | Sequence[Any]
Field: TypeAlias = Callable[[Tensor], Tensor]
Limits: TypeAlias = tuple[float | int, float | int]


@runtime_checkable
class Density(Protocol):
    """Anything with a density, such as :class:`mathcore.distributions.GaussianMixture`."""

    def prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Density at ``x (N, D)``, shape ``(N,)``."""


def array(values: Values, name: str, *shape: int | None) -> np.ndarray:
    """Return ``values`` as a finite float64 array of the asked shape (``None``: any length).

    Raises:
        ValueError: wrong shape, NaN or infinity.
    """
    detached = values.detach().cpu() if isinstance(values, Tensor) else values
    out = np.asarray(detached, dtype=np.float64)
    if shape and (out.ndim != len(shape) or any(want is not None and want != got for want, got in zip(shape, out.shape))):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise ValueError(f"{name} must have shape ({wanted}), got {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return out


def span(lim: Limits, n: int, name: str = "lim") -> Tensor:
    """Return ``n`` float64 points over ``lim``.

    Raises:
        ValueError: ``lim`` not finite and increasing, or ``n < 2``.
    """
    low, high = lim
    if not (np.isfinite([low, high]).all() and low < high) or n < 2:
        raise ValueError(f"{name} must be finite and increasing with at least 2 points, got {lim} with {n}")
    return torch.linspace(low, high, n, dtype=torch.float64)


def plane(lim: Limits | tuple[Limits, Limits], n: int) -> tuple[Tensor, tuple[float, float, float, float]]:
    """Return the points ``(n * n, 2)`` of a grid, rows along the second axis, and the extent of the plane."""
    (x_lim, y_lim) = lim if isinstance(lim[0], tuple) else (lim, lim)  # type: ignore[assignment]
    y, x = torch.meshgrid(span(y_lim, n), span(x_lim, n), indexing="ij")  # type: ignore[arg-type]
    return torch.stack([x.ravel(), y.ravel()], dim=1), (*x_lim, *y_lim)  # type: ignore[return-value]


def evaluate(density: Density | Field, points: Tensor) -> np.ndarray:
    """Return the values of ``density`` at ``points (N, D)``.

    Raises:
        ValueError: values of the wrong shape or not finite.
    """
    fn = density.prob if isinstance(density, Density) else density
    return array(fn(points), "the density", len(points))
