"""The Fokker-Planck equation on a grid of cells (sections B.1.3 and B.2), and as a residual that vanishes at the exact density (Theorem 4.1.1).

``dp/dt = -div(f p) + g^2/2 Laplacian p`` for the law p of ``dx = f dt + g dw``. A cell holds mass, a step moves it through faces, walls let nothing
out. From t to t + h a step is half a diffusion, a transport, half a diffusion (Strang 1968): second order in h and in the width of the cells.
Times may decrease: then this is the law of an SDE run in reversed time (Eq. 4.1.6), ``dp/dt = -div(f p) - g^2/2 Laplacian p``, which still spreads.

*Diffusion* between cells is a random walk: jumps to either neighbour at rate g^2 / (2 dx^2). After a while the number of jumps to the right minus
that to the left has the law of Skellam, e^{-z} I_k(z) with z = (variance gained) / dx^2; the walls reflect. This solves the discrete heat equation
exactly for a step of any length; like an implicit step it joins every cell with every other.

*Transport* follows each face back along the drift. What lay between the feet of two faces is what the cell between them holds afterwards, so that mass
is kept whatever the density inside a cell is taken to be. It is taken to be a parabola with the right mean, scaled towards the mean where it would
be negative (Filbet, Sonnendrucker & Bertrand 2001). No number of cells crossed is too large; only faces must not overtake each other.
"""

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars, Time
from mathcore._validate import count, floating
from mathcore.dynamics.fields import divergence
from mathcore.dynamics.paths import check_grid

Density = Callable[[Tensor], Tensor]
Field = Callable[[Tensor, Any], Tensor]
Diffusion = float | int | Callable[[Any], Any]
Axis = Float[Tensor, " n"]
Plane = tuple[Float[Tensor, " n1"], Float[Tensor, " n2"]]
Cells = Float[Tensor, " n"] | Float[Tensor, "n1 n2"]

GAUSS = ((-math.sqrt(0.6), 5 / 9), (0.0, 8 / 9), (math.sqrt(0.6), 5 / 9))
"""Nodes and weights of Gauss's rule with three points on [-1, 1]."""

MARGIN = 1e-12
"""The parabola inside a cell stays above this fraction of its mean, more than rounding could take away."""


def cells(low: float | int, high: float | int, n: int) -> Axis:
    """Return the centres of ``n`` equal cells that fill [low, high]: ``(n,)`` float64.

    Raises:
        ValueError: not ``low < high``, both finite, or ``n < 4``.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"cells needs finite low < high, got {low} and {high}")
    count(n, "n", 4)
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n


def cell_average(density: Density, grid: Axis | Plane) -> Cells:
    """Return the mean over each cell of a density ``(N, D) -> (N,)``, by three Gauss points along each axis: what the solver works with.

    Raises:
        ValueError: ``density`` does not return ``(N,)``; errors of the grid as :func:`fokker_planck_1d`.
    """
    axes = _axes(grid)
    shape, parts = tuple(len(a) for a in axes), []
    for rule in product(GAUSS, repeat=len(axes)):
        shifted = tuple(a + node / 2 * _width(a) for a, (node, _) in zip(axes, rule))
        value = density(_points(shifted))
        if not isinstance(value, Tensor) or value.shape != (math.prod(shape),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the density must return one value per point, ({math.prod(shape)},); got {got}")
        parts.append(math.prod(weight / 2 for _, weight in rule) * value)
    return _density(torch.stack(parts).sum(0).reshape(shape), axes)


def total_mass(p: Float[Tensor, "..."], grid: Axis | Plane) -> Float[Tensor, "..."]:
    """Return the sum of ``p`` over the cells times their size, for one density or a path of them.

    Raises:
        ValueError: ``p`` does not end in the shape of the grid; errors of the grid as :func:`fokker_planck_1d`.
    """
    axes = _axes(grid)
    shape = tuple(len(a) for a in axes)
    if tuple(floating(p, "p").shape[-len(shape) :]) != shape:
        raise ValueError(f"p must end in the shape of the grid, {shape}; got {tuple(p.shape)}")
    return p.flatten(-len(shape)).sum(-1) * math.prod(_width(a) for a in axes)


def fokker_planck_1d(
    f: Field, g: Diffusion, p0: Axis | Density, grid: Axis, ts: Float[Tensor, " m"], return_path: bool = False
) -> Float[Tensor, " n"] | Float[Tensor, "m n"]:
    """Solve the Fokker-Planck equation on the line from ``p0`` at ``ts[0]``, one step per interval of ``ts``; walls at the ends of the grid.

    The mass stays what it was to rounding and no cell turns negative. The error is of second order in the cells and in the steps together.

    Args:
        f: drift f(x, t), points ``(N, 1) -> (N, 1)``, ``t`` a float. A velocity, with ``g = 0``, gives the continuity equation.
        g: diffusion coefficient, a number or a function of time; not negative.
        p0: mean density of each cell ``(n,)``, or a function of points ``(N, 1) -> (N,)`` to take it from (:func:`cell_average`).
        grid: centres of equal cells ``(n,)``, see :func:`cells`; at least 4.
        ts: strictly monotone times ``(m,)``; decreasing ones run an SDE of reversed time, as ``integrate_sde`` does.
        return_path: return the density at every time, ``(m, n)``, and not only at the last, ``(n,)``.

    Raises:
        TypeError: not floating tensors where tensors are due, or of different dtypes.
        ValueError: a grid that is not evenly spaced and increasing, times that are not monotone, a negative ``p0`` or ``g``, shapes that do not fit,
            NaN, or a step so long that two faces overtake each other.
    """
    return _solve(f, g, p0, floating(grid, "grid", ndim=1), ts, return_path)


def fokker_planck_2d(
    f: Field, g: Diffusion, p0: Float[Tensor, "n1 n2"] | Density, grid: Plane, ts: Float[Tensor, " m"], return_path: bool = False
) -> Float[Tensor, "n1 n2"] | Float[Tensor, "m n1 n2"]:
    """Solve the Fokker-Planck equation in the plane; as :func:`fokker_planck_1d` with ``grid = (centres of x_1, centres of x_2)``.

    Values are ``(n1, n2)``, the first axis that of x_1. Transport goes coordinate by coordinate, x_1 for half a step, x_2, x_1 again.
    """
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise ValueError(f"grid must be a pair of axes, got {type(grid).__name__}")
    return _solve(f, g, p0, (grid[0], grid[1]), ts, return_path)


def finite_volume_step(p: Cells, f: Field, g: Diffusion, grid: Axis | Plane, start: float | int, end: float | int) -> Cells:
    """Return the density at ``end`` from that at ``start``: one step of :func:`fokker_planck_1d` or :func:`fokker_planck_2d`, whose errors it raises."""
    axes = _axes(grid)
    if not (math.isfinite(start) and math.isfinite(end)) or start == end:
        raise ValueError(f"a step needs different finite times, got {start} and {end}")
    return _step(_density(p, axes), f, g, axes, float(start), float(end))


def fokker_planck_residual(log_p: Callable[[Tensor, Tensor], Tensor], f: Field, g: Diffusion, x: Points, t: Time) -> Scalars:
    """Return ``(dp/dt + div(f p) - g^2/2 Laplacian p) / p`` at the points: zero if and only if p solves the equation there (Eq. 4.1.8): ``(N,)``.

    Written with u = log p, which does not underflow: ``du/dt + div f + f . grad u - g^2/2 (Laplacian u + |grad u|^2)``; every derivative by automatic
    differentiation. ``g = 0`` gives the residual of the continuity equation.

    Args:
        log_p: log-density ``(x, t) -> (N,)``, differentiable in both, e.g. ``oracle.log_prob``.
        f: drift or velocity f(x, t). g: a number or a function of time.
        x: ``(N, D)``. t: a number, 0-d, or one time per row, as ``log_p``, ``f`` and ``g`` take it.

    Raises:
        TypeError, ValueError: ``x`` is no floating ``(N, D)``, or NaN; ``log_p`` does not return ``(N,)``; ``f`` changes the shape.
    """
    time = torch.as_tensor(t, dtype=floating(x, "x", ndim=2).dtype, device=x.device)
    value, rate = torch.func.jvp(lambda u: log_p(x, u), (time,), (torch.ones_like(time),))[:2]
    if value.shape != x.shape[:1]:
        raise ValueError(f"log_p must return one value per row, ({len(x)},); got {tuple(value.shape)}")

    def score(y: Tensor) -> Tensor:
        return torch.func.vjp(lambda z: log_p(z, time), y)[1](torch.ones_like(value))[0]

    drift, gradient, squared = f(x, t), score(x), torch.as_tensor(g(t) if callable(g) else g, dtype=x.dtype, device=x.device).square()
    if drift.shape != x.shape:
        raise ValueError(f"f must return the shape of its points, {tuple(x.shape)}; got {tuple(drift.shape)}")
    spread = divergence(score, x) + gradient.square().sum(1)
    return rate + divergence(lambda y: f(y, t), x) + (drift * gradient).sum(1) - squared / 2 * spread


# --- the solver --------------------------------------------------------------------------------------------------------------------------


def _solve(f: Field, g: Diffusion, p0: Tensor | Density, grid: Axis | Plane, ts: Tensor, return_path: bool) -> Tensor:
    axes = _axes(grid)
    times = check_grid(ts).tolist()
    p = cell_average(p0, grid) if callable(p0) else _density(p0, axes)
    path = [p]
    for start, end in pairwise(times):
        p = _step(p, f, g, axes, start, end)
        if return_path:
            path.append(p)
    return torch.stack(path) if return_path else p


def _step(p: Tensor, f: Field, g: Diffusion, axes: tuple[Tensor, ...], start: float, end: float) -> Tensor:
    middle = (start + end) / 2
    p = _diffuse(p, axes, _variance(g, start, middle))
    if len(axes) == 1:
        p = _transport(p, f, axes, 0, start, end)
    else:
        for axis, a, b in ((0, start, middle), (1, start, end), (0, middle, end)):
            p = _transport(p, f, axes, axis, a, b)
    return _diffuse(p, axes, _variance(g, middle, end))


# --- diffusion ---------------------------------------------------------------------------------------------------------------------------


def _variance(g: Diffusion, start: float, end: float) -> float:
    """The integral of g^2, by three Gauss points."""
    half, middle, total = (end - start) / 2, (start + end) / 2, 0.0
    for node, weight in GAUSS:
        value = float(g(middle + half * node) if callable(g) else g)
        if not 0.0 <= value < math.inf:
            raise ValueError(f"g must be non-negative and finite, got {value} near t = {middle:g}")
        total += weight * half * value**2
    return abs(total)


def _diffuse(p: Tensor, axes: tuple[Tensor, ...], variance: float) -> Tensor:
    if variance == 0.0:
        return p
    for axis, centres in enumerate(axes):
        walk = _random_walk(variance / _width(centres) ** 2, len(centres)).to(dtype=p.dtype, device=p.device)
        p = walk @ p if axis == 0 else p @ walk  # the matrix is symmetric
    return p


def _random_walk(jumps: float, n: int) -> Tensor:
    """Transition matrix ``(n, n)`` between n cells in a row with reflecting walls, after ``jumps`` expected jumps: no entry is negative."""
    import numpy as np
    from scipy.special import ive  # e^{-z} I_k(z), the law of Skellam

    if jumps > 100 * n**2:  # the slowest mode has decayed by exp(-100 pi^2 / 2): nothing is left of where the walk began
        return torch.full((n, n), 1 / n, dtype=torch.float64)
    reach = math.ceil(12 * math.sqrt(jumps) + 60)  # beyond twelve standard deviations nothing is left
    turns = 1 + reach // (2 * n)
    law = np.zeros(2 * n * turns + 1)
    law[: reach + 1] = ive(np.arange(reach + 1), jumps)
    # a wall is a mirror: the walk between two of them, unfolded, is a walk on a circle of 2n cells
    circle = law[:-1].reshape(turns, 2 * n).sum(0) + law[1:].reshape(turns, 2 * n).sum(0)[::-1]
    if not np.isfinite(circle).all():  # ive gives up near z = 1e9
        raise ValueError(f"one step spreads mass over {math.sqrt(jumps):.3g} cells, more than can be computed; use shorter steps")
    circle /= circle.sum()
    line = np.concatenate([circle[n - 1 : 0 : -1], circle[:n]])
    windows = np.lib.stride_tricks.sliding_window_view
    return torch.from_numpy(windows(line, n)[::-1] + windows(circle[1:], n))


# --- transport ---------------------------------------------------------------------------------------------------------------------------


def _transport(p: Tensor, f: Field, axes: tuple[Tensor, ...], axis: int, start: float, end: float) -> Tensor:
    feet = _feet(f, axes, axis, start, end)
    if axis == len(axes) - 1:
        return _between_feet(p, feet)
    return _between_feet(p.T, feet.T).T


def _feet(f: Field, axes: tuple[Tensor, ...], axis: int, start: float, end: float) -> Tensor:
    """Where each face at ``end`` was at ``start`` along one coordinate, by the midpoint rule, in cells from the lower wall."""
    width, low = _width(axes[axis]), float(axes[axis][0]) - _width(axes[axis]) / 2
    faces = low + width * torch.arange(len(axes[axis]) + 1, dtype=axes[axis].dtype, device=axes[axis].device)
    points = _points(tuple(faces if k == axis else a for k, a in enumerate(axes)))
    here, back = points[:, axis], points.clone()
    back[:, axis] = here - (end - start) / 2 * _component(f, points, end, axis)
    foot = here - (end - start) * _component(f, back, (start + end) / 2, axis)
    feet = ((foot - low) / width).reshape([len(faces) if k == axis else len(a) for k, a in enumerate(axes)])
    if not bool((feet.diff(dim=axis) > 0).all()):
        raise ValueError(
            f"the step from {start:g} to {end:g} is too long for this drift: faces of cells overtake each other; use more times"
        )
    feet = feet.clamp(0, len(faces) - 1)  # there is no mass outside
    feet.select(axis, 0).fill_(0)
    feet.select(axis, -1).fill_(len(faces) - 1)  # nothing passes a wall
    return feet


def _component(f: Field, points: Tensor, t: float, axis: int) -> Tensor:
    value = floating(f(points, t), "the drift f(x, t)")
    if value.shape != points.shape:
        raise ValueError(f"f must return the shape of its points, {tuple(points.shape)}; got {tuple(value.shape)}")
    return value[:, axis]


def _between_feet(p: Tensor, feet: Tensor) -> Tensor:
    """Mass (in units of one cell's width) between consecutive feet ``(..., n + 1)`` under the parabolas of ``p (..., n)``."""
    n = p.shape[-1]
    cell = feet.floor().clamp(max=n - 1).long()
    inside = feet - cell
    first, last = cell[..., :-1], cell[..., 1:]
    begin, stop = inside[..., :-1], inside[..., 1:]
    same = first == last
    parabola = _parabolas(p)
    mass = _part(parabola, first, begin, torch.where(same, stop, torch.ones_like(stop)))
    mass = mass + torch.where(same, torch.zeros_like(stop), _part(parabola, last, torch.zeros_like(stop), stop))
    for k in range(1, int((last - first).max())):  # whole cells in between
        mass = mass + torch.where(first + k < last, p.gather(-1, (first + k).clamp(max=n - 1)), torch.zeros_like(mass))
    return mass


def _parabolas(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of c0 + c1 u + c2 u^2, u in [0, 1], in each cell: mean ``p``, ends of fourth order, scaled towards the mean to stay positive."""
    wide = torch.cat([p[..., 1:2], p[..., :1], p, p[..., -1:], p[..., -2:-1]], dim=-1)  # mirrored at the walls
    ends = (7 * (wide[..., 1:-2] + wide[..., 2:-1]) - wide[..., :-3] - wide[..., 3:]) / 12
    left, right = ends[..., :-1], ends[..., 1:]
    curve = 3 * (left + right) - 6 * p
    slope = right - left - curve
    turn = -slope / torch.where(curve > 0, 2 * curve, torch.ones_like(curve))
    lowest = torch.minimum(left, right)
    bottom = (curve > 0) & (turn > 0) & (turn < 1)
    lowest = torch.where(bottom, left + slope * turn / 2, lowest)
    room, depth = (1 - MARGIN) * p, p - lowest
    scale = torch.where(depth > room, room / torch.where(depth > 0, depth, torch.ones_like(depth)), torch.ones_like(depth))
    return p + scale * (left - p), scale * slope, scale * curve


def _part(parabola: tuple[Tensor, Tensor, Tensor], cell: Tensor, begin: Tensor, stop: Tensor) -> Tensor:
    """Integral of the parabola of ``cell`` from ``begin`` to ``stop``."""
    c0, c1, c2 = (c.gather(-1, cell) for c in parabola)
    middle, length = (begin + stop) / 2, stop - begin
    return length * (c0 + c1 * middle + c2 * (middle.square() + length.square() / 12))


# --- checks ------------------------------------------------------------------------------------------------------------------------------


def _axes(grid: Axis | Plane) -> tuple[Tensor, ...]:
    axes = tuple(grid) if isinstance(grid, (tuple, list)) else (grid,)
    if len(axes) not in (1, 2):
        raise ValueError(f"grid must be one axis or a pair of axes, got {len(axes)}")
    for axis in axes:
        steps = floating(axis, "grid", ndim=1).diff()
        if len(axis) < 4:
            raise ValueError(f"grid must have at least 4 cells along each axis, got {len(axis)}")
        # centres computed in any reasonable way differ by a few roundings of the largest of them
        slack = 16 * torch.finfo(axis.dtype).eps * float(axis.abs().max())
        if not bool((steps > 0).all()) or float(steps.max() - steps.min()) > slack:
            raise ValueError(
                f"grid must be increasing and evenly spaced, got steps between {float(steps.min()):g} and {float(steps.max()):g}"
            )
    if len({(a.dtype, a.device) for a in axes}) > 1:
        raise TypeError(f"the axes of the grid must share dtype and device, got {[(a.dtype, a.device) for a in axes]}")
    return axes


def _width(axis: Tensor) -> float:
    return float(axis[-1] - axis[0]) / (len(axis) - 1)


def _points(axes: tuple[Tensor, ...]) -> Tensor:
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _density(p: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
    shape = tuple(len(a) for a in axes)
    if tuple(floating(p, "p0").shape) != shape:
        raise ValueError(f"p0 must have the shape of the grid, {shape}; got {tuple(p.shape)}")
    if p.dtype != axes[0].dtype:
        raise TypeError(f"p0 and grid must share one dtype, got {p.dtype} and {axes[0].dtype}")
    if not bool((p >= 0).all()):
        raise ValueError(f"p0 must not be negative, got {float(p.min())}")
    return p
