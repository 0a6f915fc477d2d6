"""One function per kind of figure. Each draws on ``ax`` (or on a new figure), labels its axes and returns them.

Points, curves and images may be tensors, arrays or lists; nothing is drawn for a value that is NaN: it raises. Colours are names of
:data:`mathcore.viz.style.COLORS` or hex codes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.ticker import NullFormatter

from mathcore.viz import style
from mathcore.viz._inputs import Density, Field, Limits, Values, array, evaluate, plane, span


def _axes(ax: Axes | None, height: float | int = 3.4, width: float | int = style.WIDTH) -> Axes:
    return ax if ax is not None else plt.subplots(figsize=style.size(height, width))[1]


def legend(ax: Axes, outside: bool | None = None) -> Axes:
    """Add a legend: inside where it fits, to the right of the axes when it has more than four entries (or as ``outside`` says)."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return ax
    crowded = len(labels) > 4 if outside is None else outside
    drawn = ax.legend(handles, labels, **({"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if crowded else {}))
    for handle in drawn.legend_handles:
        if isinstance(handle, PathCollection):  # the dots of a scatter are too small and too pale to be told apart here
            handle.set(sizes=[18.0], alpha=1.0)
    return ax


def density_1d(
    density: Density | Field,
    lim: Limits,
    *,
    ax: Axes | None = None,
    color: str = "exact",
    label: str | None = None,
    fill: bool = False,
    n: int = 401,
    xlabel: str = "$x$",
    ylabel: str = "density",
    **line: Any,
) -> Axes:
    """Curve of a 1-D density over ``lim``; ``density`` has ``prob`` or is a callable ``(N, 1) -> (N,)``. ``fill`` shades the area below.

    Raises:
        ValueError: ``lim`` not increasing, values of the wrong shape or not finite, unknown colour.
    """
    ax, x, tone = _axes(ax), span(lim, n), style.color(color)
    y = evaluate(density, x[:, None])
    ax.plot(x.numpy(), y, color=tone, label=label, **line)
    if fill:
        ax.fill_between(x.numpy(), y, color=tone, alpha=0.15, linewidth=0)
    ax.set(xlim=lim, xlabel=xlabel, ylabel=ylabel)
    return ax


def density_2d(
    density: Density | Field,
    lim: Limits | tuple[Limits, Limits],
    *,
    ax: Axes | None = None,
    n: int = 160,
    vmax: float | int | None = None,
    colorbar: bool = False,
    xlabel: str = "$x_1$",
    ylabel: str = "$x_2$",
) -> Axes:
    """Heat map of a non-negative 2-D density over ``lim`` (one interval for both axes, or one for each), transparent where it is zero.

    Raises:
        ValueError: ``lim`` not increasing, negative values, values of the wrong shape or not finite.
    """
    ax = _axes(ax, 4.0, 4.6)
    points, extent = plane(lim, n)
    values = evaluate(density, points).reshape(n, n)
    if values.min() < 0:
        raise ValueError(f"a density cannot be negative, got {values.min():.3g}; draw signed values with imshow and style.SIGNED")
    image = ax.imshow(values, extent=extent, origin="lower", cmap=style.DENSITY, vmin=0, vmax=vmax, interpolation="bilinear")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="density", shrink=0.85)
    ax.grid(visible=False)
    ax.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    return ax


def scatter(
    points: Values,
    *,
    ax: Axes | None = None,
    color: str = "data",
    label: str | None = None,
    n_max: int = 2000,
    size: float | int = 5.0,
    alpha: float | int = 0.5,
    xlabel: str = "$x_1$",
    ylabel: str = "$x_2$",
    **marks: Any,
) -> Axes:
    """Samples ``(N, 2)`` as dots; of more than ``n_max`` every k-th is drawn, so that the same samples give the same figure.

    Raises:
        ValueError: not of shape (N, 2), NaN, ``n_max < 1``, unknown colour.
    """
    xy = array(points, "points", None, 2)
    if n_max < 1:
        raise ValueError(f"n_max must be at least 1, got {n_max}")
    kept = xy[:: -(-len(xy) // n_max)] if len(xy) else xy
    ax = _axes(ax, 4.0, 4.6)
    ax.scatter(kept[:, 0], kept[:, 1], s=size, color=style.color(color), alpha=alpha, linewidths=0, label=label, **marks)
    ax.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    return ax


def image_grid(images: Values, rows: int, cols: int, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Grey images ``(N, 1, H, W)`` with values in [-1, 1] as dark ink on paper, row by row; values outside are shown as the nearest end.

    Raises:
        ValueError: wrong shape, NaN, or fewer than ``rows * cols`` images.
    """
    pixels = array(images, "images", None, 1, None, None)
    if rows < 1 or cols < 1 or len(pixels) < rows * cols:
        raise ValueError(f"a grid of {rows} x {cols} needs at least {max(rows * cols, 1)} images, got {len(pixels)}")
    (h, w), gap = pixels.shape[2:], 1
    sheet = np.full((rows * (h + gap) - gap, cols * (w + gap) - gap), np.nan)
    for k in range(rows * cols):
        top, left = (k // cols) * (h + gap), (k % cols) * (w + gap)
        sheet[top : top + h, left : left + w] = pixels[k, 0]
    if ax is None:
        width = min(style.WIDTH, 0.55 * cols)
        ax = _axes(None, min(10.0, width * sheet.shape[0] / sheet.shape[1] + (0.3 if title else 0.0)), width)
    ax.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    return ax


def convergence(
    step_sizes: Values,
    errors: Mapping[str, Values],
    slopes: Sequence[float | int] = (),
    *,
    ax: Axes | None = None,
    xlabel: str = "step size $h$",
    ylabel: str = "error",
) -> Axes:
    """Errors against step sizes, log-log, with one dotted line of each slope, drawn below the curve whose fitted slope is nearest.

    Args:
        step_sizes: ``(M,)`` positive.
        errors: name -> ``(M,)`` positive.
        slopes: orders to compare with.

    Raises:
        ValueError: no curve, shapes that differ, values that are not positive, NaN.
    """
    h = array(step_sizes, "step_sizes", None)
    curves = {name: array(values, f"errors[{name!r}]", len(h)) for name, values in errors.items()}
    if not curves or len(h) < 2 or min(h.min(), *(e.min() for e in curves.values())) <= 0:
        raise ValueError("a convergence plot needs at least one curve, two step sizes, and positive step sizes and errors")
    ax = _axes(ax)
    fits = {name: np.polyfit(np.log(h), np.log(e), 1)[0] for name, e in curves.items()}
    for name, (tone, marker) in style.alternate(list(curves)).items():
        ax.loglog(h, curves[name], marker=marker, color=tone, label=name)
    ends = np.array([h.min(), h.max()])
    for slope in slopes:
        near = curves[min(fits, key=lambda name: abs(fits[name] - slope))]
        line = ends**slope * np.min(near / h**slope) / 1.8
        ax.loglog(ends, line, color=style.INK, linestyle=":", linewidth=1.0)
        ax.annotate(f"slope {slope:g}", (ends[1], line[1]), xytext=(4, -2), textcoords="offset points", va="center", fontsize=9)
    if ends[1] < 100 * ends[0]:  # too few powers of ten to read the axis by: name step sizes instead
        shown = h[np.unique(np.linspace(0, len(h) - 1, min(len(h), 5)).round().astype(int))]
        ax.set_xticks(shown, [f"{value:.3g}" for value in shown])
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return legend(ax)


def arrows(
    points: Values,
    vectors: Values,
    *,
    ax: Axes | None = None,
    color: str = "exact",
    label: str | None = None,
    scale: float | int | None = None,
) -> Axes:
    """Arrows ``vectors (N, 2)`` at ``points (N, 2)``; ``scale``: length on the plane of a unit vector, by default chosen to fit.

    Raises:
        ValueError: shapes that differ or are not (N, 2), NaN, ``scale <= 0``, unknown colour.
    """
    at = array(points, "points", None, 2)
    to = array(vectors, "vectors", len(at), 2)
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    ax = _axes(ax, 4.0, 4.6)
    units: dict[str, Any] = {} if scale is None else {"angles": "xy", "scale_units": "xy", "scale": 1 / scale}
    ax.quiver(*at.T, *to.T, color=style.color(color), label=label, width=0.0035, pivot="tail", **units)
    ax.set(xlabel=ax.get_xlabel() or "$x_1$", ylabel=ax.get_ylabel() or "$x_2$", aspect="equal")
    return ax


def vector_field(field: Field, lim: Limits | tuple[Limits, Limits], *, n: int = 17, ax: Axes | None = None, **arrow: Any) -> Axes:
    """Arrows of a field ``(N, 2) -> (N, 2)`` on an ``n x n`` grid; further arguments go to :func:`arrows`.

    Raises:
        ValueError: as :func:`arrows`, or ``lim`` not increasing.
    """
    points, _ = plane(lim, n)
    return arrows(points, field(points), ax=ax, **arrow)


def trajectories(
    paths: Values,
    times: Values | None = None,
    *,
    ax: Axes | None = None,
    color: str = "model",
    label: str | None = None,
    alpha: float | int = 0.5,
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> Axes:
    """Paths ``(T, N, D)``: for D = 1 the state against ``times (T,)``; for D = 2 curves in the plane, a ring at the start, a dot at the end.

    Raises:
        ValueError: wrong shape, NaN, D above 2, times missing for D = 1, or given for D = 2 (where they would not be shown).
    """
    x = array(paths, "paths", None, None, None)
    dim = x.shape[2]
    if dim not in (1, 2) or (dim == 1) != (times is not None):
        raise ValueError(
            f"paths must have shape (T, N, 1) with times (T,), or (T, N, 2) without; got {x.shape}, times given: {times is not None}"
        )
    tone, ax = style.color(color), _axes(ax, 3.4 if dim == 1 else 4.0, style.WIDTH if dim == 1 else 4.6)
    clock = array(times, "times", len(x)) if times is not None else None
    for k in range(x.shape[1]):
        coordinates = (clock, x[:, k, 0]) if clock is not None else (x[:, k, 0], x[:, k, 1])
        ax.plot(*coordinates, color=tone, alpha=alpha, linewidth=1.0, label=label if k == 0 else None)
    if dim == 2:
        ax.scatter(x[0, :, 0], x[0, :, 1], s=14, facecolors="none", edgecolors=tone, linewidths=0.8)
        ax.scatter(x[-1, :, 0], x[-1, :, 1], s=10, color=tone, linewidths=0)
        ax.set_aspect("equal")
    ax.set(xlabel=xlabel or ("time $t$" if dim == 1 else "$x_1$"), ylabel=ylabel or ("$x$" if dim == 1 else "$x_2$"))
    return ax


def bars(
    names: Sequence[str],
    heights: Mapping[str, Values],
    *,
    errors: Mapping[str, Values] | None = None,
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "value",
) -> Axes:
    """Grouped bars: for each of ``names`` one bar per entry of ``heights`` (series -> ``(len(names),)``), ``errors`` as whiskers.

    Raises:
        ValueError: no series, shapes that differ, NaN, errors for a series that is not drawn.
    """
    series = {key: array(values, f"heights[{key!r}]", len(names)) for key, values in heights.items()}
    if not series or set(errors or {}) - set(series):
        raise ValueError(f"errors must belong to a series of heights, got heights {list(series)} and errors {list(errors or {})}")
    ax, width = _axes(ax), 0.8 / len(series)
    for k, (key, (tone, _)) in enumerate(style.alternate(list(series)).items()):
        whiskers = array(errors[key], f"errors[{key!r}]", len(names)) if errors and key in errors else None
        place = np.arange(len(names)) + (k - (len(series) - 1) / 2) * width
        ax.bar(
            place,
            series[key],
            0.92 * width,
            color=tone,
            yerr=whiskers,
            label=key,
            error_kw={"ecolor": style.INK, "elinewidth": 1, "capsize": 2},
        )
    ax.set_xticks(range(len(names)), names)
    ax.grid(visible=False, axis="x")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return legend(ax) if len(series) > 1 else ax


def loss_curve(
    losses: Values,
    *,
    ax: Axes | None = None,
    color: str = "model",
    label: str | None = "training loss",
    window: int = 50,
    floor: float | int | None = None,
    log: bool = False,
    xlabel: str = "step",
    ylabel: str = "loss",
) -> Axes:
    """Losses ``(steps,)``: each step pale, the mean of the last ``window`` steps on top, ``floor`` (the loss of the exact field) dashed.

    Raises:
        ValueError: fewer losses than ``window``, NaN, or losses that are not positive on a log axis.
    """
    y = array(losses, "losses", None)
    if not 1 <= window <= len(y):
        raise ValueError(f"window must be between 1 and the number of losses {len(y)}, got {window}")
    if log and min(y.min(), floor if floor is not None else y.min()) <= 0:
        raise ValueError("a log axis needs positive losses and a positive floor")
    ax, tone = _axes(ax), style.color(color)
    ax.plot(np.arange(1, len(y) + 1), y, color=tone, alpha=0.25, linewidth=0.6)
    ax.plot(np.arange(window, len(y) + 1), np.convolve(y, np.full(window, 1 / window), mode="valid"), color=tone, label=label)
    if floor is not None:
        ax.axhline(floor, color=style.COLORS["exact"], linestyle="--", linewidth=1.2, label="exact field")
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    return legend(ax)
