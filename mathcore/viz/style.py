"""How every figure of the book looks: the same colours for the same things, dark ink on a transparent page.

The book's dark theme shows the same files through ``filter: invert(1) hue-rotate(180deg)``, which turns ink light and keeps hues. The
colours below were chosen to stay apart, and to keep a contrast of at least 3 to the page, on white and through that filter on #121212,
for normal vision and for the three kinds of colour blindness; a test measures it. Blue and vermillion are those of Okabe and Ito (2008).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgb

from mathcore._validate import count, one_of

INK = "#1b1b1b"
"""Text, axes and everything that is not data."""

COLORS = {
    "data": "#0072B2",  # the data distribution and its samples: blue
    "noise": "#808080",  # the prior, noise and noisy samples: grey
    "model": "#D55E00",  # what a network or a sampler produced: vermillion
    "exact": INK,  # the oracle: ink
    "second": "#14994A",  # a second method or latent beside the model: green
    "third": "#6A1B7A",  # a third one: purple
}
"""Colour of each role."""

CYCLE = (COLORS["model"], COLORS["data"], COLORS["second"], COLORS["third"], COLORS["noise"], COLORS["exact"])
"""Colours of curves that have no role, in this order."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Markers that go with :data:`CYCLE`, so that no figure needs its colours to be read."""

WIDTH = 7.2
"""Width of a figure in inches: the text column of a page."""

DPI = 144
"""Resolution of every figure: twice the 72 points of an inch."""


def color(name: str) -> str:
    """Return the colour of a role of :data:`COLORS`; any colour that matplotlib knows by a hex code or ``C0`` passes through.

    Raises:
        ValueError: neither a role nor a hex code nor ``C0`` to ``C9``.
    """
    if name.startswith("#") or (len(name) == 2 and name[0] == "C" and name[1].isdigit()):
        return name
    return COLORS[one_of(name, COLORS, "color")]


def over_white(colors: np.ndarray) -> np.ndarray:
    """Return the most transparent RGBA colours (K, 4) that look like ``colors`` (K, 3) over a white page."""
    alpha = 1.0 - colors.min(axis=1)
    safe = np.where(alpha > 0, alpha, 1.0)[:, None]
    ink = np.where(alpha[:, None] > 0, (colors - (1.0 - alpha[:, None])) / safe, 1.0)
    return np.clip(np.column_stack([ink, alpha]), 0.0, 1.0)


def _sequential() -> ListedColormap:
    """Transparent (white paper) through light blue to a dark blue, with falling lightness; inverted it runs from the page to light blue."""
    stops = ["#ffffff", "#d3e5f3", "#8fc1e3", "#3b8fc6", "#0a5b96", "#062f54"]
    ramp = LinearSegmentedColormap.from_list("ramp", stops)(np.linspace(0, 1, 256))[:, :3]
    return ListedColormap(over_white(ramp), name="density")


DENSITY = _sequential()
"""Colour map of densities and other values that start at zero."""

SIGNED = LinearSegmentedColormap.from_list("signed", [COLORS["model"], "#f7d9c4", "#ffffff", "#c5dff0", COLORS["data"]])
"""Colour map of signed values: vermillion below zero, paper at zero, blue above."""


def blend(start: str, end: str, n: int) -> list[str]:
    """Return ``n`` colours from ``start`` to ``end`` (roles or hex codes), for families of curves ordered by time or by noise level.

    Raises:
        ValueError: ``n < 1`` or an unknown colour.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    ends = np.array([to_rgb(color(start)), to_rgb(color(end))])
    weights = np.linspace(0.0, 1.0, n)[:, None]
    return [mpl.colors.to_hex(row) for row in (1 - weights) * ends[0] + weights * ends[1]]


RC: dict[str, Any] = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "legend.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
    "figure.max_open_warning": 0,
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "cm",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.titlesize": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dadada",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 4),
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
    "svg.hashsalt": "mathcore",
}
"""The settings that :func:`use` applies."""


def use() -> None:
    """Apply the style to all later figures; called once, in the setup cell of a notebook.

    In a notebook it also makes the inline backend save PNG files of the whole figure: no cropping, so that all figures of a page are
    equally wide and text has one size.
    """
    mpl.rcParams.update(RC)
    _configure_inline_backend()
    _share_parsed_formulas()


def _share_parsed_formulas() -> None:
    """Let a figure use the formulas and tick labels that others have parsed: half of the time of a layout, hence of a frame under a slider.

    matplotlib keeps the last 50 of each renderer, that is of each figure. A version that keeps them in another way is left alone.
    """
    from matplotlib.mathtext import MathTextParser

    parse = getattr(getattr(MathTextParser, "_parse_cached", None), "__wrapped__", None)
    if parse is None:  # another version, or done already
        return
    parsers: dict[str, Any] = {}

    @functools.lru_cache(4096)
    def parsed(output: str, *key: Any) -> Any:
        return parse(parsers[output], *key)

    def parse_cached(self: Any, *key: Any) -> Any:
        parsers.setdefault(self._output_type, self)
        return parsed(self._output_type, *key)

    MathTextParser._parse_cached = parse_cached  # type: ignore[attr-defined]


def _configure_inline_backend() -> None:
    """Have Jupyter's inline backend keep the size of the figure; do nothing outside a kernel."""
    from IPython import get_ipython

    shell = get_ipython()  # type: ignore[no-untyped-call]
    if shell is None or getattr(shell, "kernel", None) is None:
        return
    import matplotlib.pyplot as plt
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    plt.get_backend()  # settles the backend, whose first use would undo the two lines below
    set_matplotlib_formats("png", bbox_inches=None)
    mpl.rcParams.update(RC)


def size(height: float | int = 3.4, width: float | int = WIDTH) -> tuple[float, float]:
    """Return ``(width, height)`` in inches for ``figsize``, refusing a width that the page would have to shrink.

    Raises:
        ValueError: not positive, or wider than the page.
    """
    if not 0 < width <= WIDTH or not 0 < height <= 10:
        raise ValueError(f"a figure must have 0 < width <= {WIDTH} and 0 < height <= 10 inches, got width {width}, height {height}")
    return (float(width), float(height))


def alternate(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a (colour, marker) for each name: its own where it is a role of :data:`COLORS`, else the next of :data:`CYCLE` not taken.

    Raises:
        ValueError: more names than there are colours, or a name twice.
    """
    if len(names) > len(CYCLE) or len(set(names)) != len(names):
        raise ValueError(f"at most {len(CYCLE)} different names fit one figure, got {list(names)}")
    taken = {COLORS[name] for name in names if name in COLORS}
    free = iter([c for c in CYCLE if c not in taken])
    chosen = {name: COLORS[name] if name in COLORS else next(free) for name in names}
    return {name: (chosen[name], marker) for name, marker in zip(names, MARKERS)}


def number(value: SupportsFloat, digits: int = 1) -> str:
    """Return ``value`` to ``digits`` significant digits as a reader writes it: 52, 0.006, but ``$7\\cdot10^{-15}$`` from four powers of ten on.

    Raises:
        ValueError: fewer than one digit.
    """
    count(digits, "digits")
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    head, _, power = f"{value:.{digits - 1}e}".partition("e")
    if abs(int(power)) >= 4:
        return rf"${head}\cdot10^{{{int(power)}}}$"
    return f"{value:.{max(digits - 1 - int(power), 0)}f}" if int(power) < digits else f"{float(head) * 10 ** int(power):.0f}"
