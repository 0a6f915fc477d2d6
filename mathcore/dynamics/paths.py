"""Brownian paths on a grid, the same path on a finer grid, and the sums that define stochastic integrals (sections A.2.1 and A.2.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count, floating, one_of

Grid = Float[Tensor, " m"]
Path = Float[Tensor, "n m d"]


def check_grid(ts: Tensor, name: str = "ts") -> Tensor:
    """Return a grid as float64 on the CPU.

    Raises:
        TypeError: no floating tensor. ValueError: not one axis of at least two entries, NaN, or not strictly monotone.
    """
    floating(ts, name, ndim=1)
    grid = ts.detach().to("cpu", torch.float64)
    steps = grid.diff()
    if len(grid) < 2 or not (bool((steps > 0).all()) or bool((steps < 0).all())):
        shown = grid.tolist() if len(grid) < 12 else f"{len(grid)} values from {grid[0].item()} to {grid[-1].item()}"
        raise ValueError(f"{name} must hold at least two strictly increasing or strictly decreasing times, got {shown}")
    return grid


def brownian_path(n: int, ts: Grid, d: int = 1, generator: torch.Generator | None = None) -> Path:
    """Return ``n`` independent paths of a d-dimensional Wiener process started at ``ts[0]``: ``(n, M, d)``, zero at node 0.

    Increments are independent, N(0, |t - s| I) (Eq. A.2.4), so that Cov[w(s), w(t)] = min(s, t) - ts[0] on an increasing grid. A decreasing grid gives
    a reverse-time process. dtype and device are those of ``ts``.

    Raises:
        TypeError: ``ts`` no floating tensor. ValueError: ``ts`` not strictly monotone, ``n`` or ``d`` not a positive integer.
    """
    check_grid(ts)
    for name, value in (("n", n), ("d", d)):
        count(value, name)
    steps = torch.randn(n, len(ts) - 1, d, generator=generator, dtype=ts.dtype, device=ts.device) * ts.diff().abs().sqrt()[:, None]
    return torch.cat([steps.new_zeros(n, 1, d), steps.cumsum(1)], dim=1)


def brownian_refine(
    w: Path, ts: Grid, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "n 2*m-1 d"], Float[Tensor, " 2*m-1"]]:
    """Return the same paths with a node in the middle of every step, ``(n, 2M - 1, d)``, and the finer grid ``(2M - 1,)``.

    Given its ends, the middle of a step h is N((w_i + w_{i+1}) / 2, (h / 4) I), the Brownian bridge; the old nodes are kept to the last digit.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, ``ts`` not strictly monotone.
    """
    w, ts = _check_path(w, ts)
    noise = torch.randn(w[:, 1:].shape, generator=generator, dtype=w.dtype, device=w.device)
    middle = (w[:, 1:] + w[:, :-1]) / 2 + noise * (ts.diff().abs().sqrt() / 2).to(w)[:, None]
    fine = torch.cat([torch.stack([w[:, :-1], middle], dim=2).flatten(1, 2), w[:, -1:]], dim=1)
    return fine, torch.cat([torch.stack([ts[:-1], (ts[:-1] + ts[1:]) / 2], dim=1).flatten(), ts[-1:]])


def path_noise(w: Path, ts: Grid) -> Float[Tensor, "m-1 n d"]:
    """Return the standard normals whose increments make ``w``, step first: the ``noise`` of :func:`~mathcore.dynamics.integrate.integrate_sde`.

    Two solvers driven by the same path on different grids can so be compared path by path. Errors as :func:`brownian_refine`.
    """
    w, ts = _check_path(w, ts)
    return (w.diff(dim=1) / ts.diff().abs().sqrt().to(w)[:, None]).transpose(0, 1)


def ito_sum(integrand: Path | Grid, w: Path, rule: str = "left") -> Float[Tensor, "n d"]:
    """Return sum_i G_i (w_{i+1} - w_i), coordinate by coordinate: ``(n, d)``.

    ``rule`` says where in the step G is taken: ``"left"`` tends to the Ito integral, ``"trapezoid"`` (mean of both ends) to the Stratonovich integral,
    ``"right"`` to the backward one. The three differ only when G is random (section A.2.2).

    Args:
        integrand: G at the nodes, ``(n, M, d)``, or ``(M,)`` for a function of time. w: the path ``(n, M, d)``.

    Raises:
        TypeError: not floating tensors. ValueError: unknown rule, shapes that do not fit, NaN.
    """
    one_of(rule, ("left", "trapezoid", "right"), "rule")
    floating(w, "w", ndim=3), floating(integrand, "integrand")
    if integrand.shape not in {w.shape, w.shape[1:2]}:
        raise ValueError(f"integrand must have the shape of w, {tuple(w.shape)}, or ({w.shape[1]},); got {tuple(integrand.shape)}")
    values = integrand[:, None] if integrand.ndim == 1 else integrand
    left, right = values[..., :-1, :], values[..., 1:, :]
    return ({"left": left, "right": right, "trapezoid": (left + right) / 2}[rule] * w.diff(dim=1)).sum(1)


def _check_path(w: Tensor, ts: Tensor) -> tuple[Tensor, Tensor]:
    floating(w, "w", ndim=3)
    check_grid(ts)
    if w.shape[1] != len(ts):
        raise ValueError(f"w must have shape (n, {len(ts)}, d), one node for each time; got {tuple(w.shape)}")
    return w, ts
