"""Figures with sliders: live in a notebook, pre-computed in the built book.

``explore(draw, alt="...", beta=slider(0.05, 0.95, 19), kind=["posterior", "marginal"])`` calls ``draw(beta=..., kind=...)``, which draws one
figure. What happens then is set by the environment variable ``MATHCORE_EXPLORE``:

=========  ====================================================================================================================
``widget``   (default) ipywidgets controls; every move calls ``draw`` again
``static``   the build of the book: all frames of the grid are drawn now and shown by one HTML block that needs no kernel and no network
``first``    the quickest run: only the first frame is shown, and the last one of the grid is drawn to see that it can be
=========  ====================================================================================================================
"""

import inspect
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mathcore._validate import one_of
from mathcore.viz import _frames

Value: TypeAlias = float | int | str
Values: TypeAlias = Sequence[Value] | np.ndarray | Tensor
Draw: TypeAlias = Callable[..., Any]

MODES = ("widget", "static", "first")
MAX_FRAMES = 150
MAX_BYTES = 2_500_000
"""Largest block: a page with text and other figures stays below 3 MB."""


@dataclass(frozen=True)
class Control:
    """One parameter of an exploration: its values, how each is written, and where it starts. Made by :func:`slider` or :func:`choices`."""

    values: tuple[Value, ...]
    texts: tuple[str, ...]
    start: int
    label: str | None

    @property
    def is_menu(self) -> bool:
        """Whether the values are words, chosen from a menu, rather than numbers on a slider."""
        return isinstance(self.values[0], str)


def slider(
    low: float | int,
    high: float | int,
    num: int,
    *,
    label: str | None = None,
    start: float | int | None = None,
    fmt: str = ".3g",
    log: bool = False,
) -> Control:
    """Slider over ``num`` evenly spaced numbers from ``low`` to ``high``, both included (evenly in the logarithm with ``log``).

    Args:
        low: first value.
        high: last value.
        num: number of values, at least 2.
        label: how the parameter is called on the page; default: the name of the keyword.
        start: where the slider stands at first: the value nearest to it; default: ``low``.
        fmt: how a value is written (format specification).
        log: geometric instead of even spacing; needs ``low > 0``.

    Raises:
        ValueError: ``low >= high``, not finite, ``num < 2``, ``start`` outside, ``low <= 0`` with ``log``, or texts that repeat.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (log and low <= 0):
        raise ValueError(f"a slider needs finite low < high{' and low > 0' if log else ''}, got {low} and {high}")
    if num < 2:
        raise ValueError(f"a slider needs at least 2 values, got num = {num}")
    space = np.geomspace if log else np.linspace
    return choices([float(v) for v in space(low, high, num)], label=label, start=start, fmt=fmt)


def choices(values: Values, *, label: str | None = None, start: Value | None = None, fmt: str = ".3g") -> Control:
    """Slider over given increasing numbers, or a menu of given words.

    Raises:
        TypeError: values that are neither all numbers nor all words.
        ValueError: no values, values not increasing or repeated, ``start`` outside, or texts that repeat.
    """
    items = tuple(values.tolist() if isinstance(values, (np.ndarray, Tensor)) else values)
    if not items:
        raise ValueError("a control needs at least one value, got none")
    words = all(isinstance(v, str) for v in items)
    if not words and not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in items):
        raise TypeError(f"values must be all numbers or all strings, got {list(items)}")
    if not words and not (all(math.isfinite(v) for v in items) and all(a < b for a, b in pairwise(items))):
        raise ValueError(f"the numbers of a slider must be finite and increasing, got {list(items)}")
    texts = items if words else tuple(str(v) if isinstance(v, int) else format(v, fmt) for v in items)
    if len(set(texts)) < len(texts):
        raise ValueError(f"two values read the same: {list(texts)}; " + ("drop one" if words else f"give more digits than fmt={fmt!r}"))
    return Control(items, texts, _start(items, start, words), label)


def _start(items: tuple[Any, ...], start: Any, words: bool) -> int:
    if start is None:
        return 0
    if words:
        return items.index(one_of(start, items, "start"))
    if isinstance(start, str) or not items[0] <= start <= items[-1]:
        raise ValueError(f"start must lie between {items[0]} and {items[-1]}, got {start!r}")
    return min(range(len(items)), key=lambda i: abs(items[i] - start))


def explore(draw: Draw, *, alt: str, **controls: Control | Values) -> None:
    """Show the figure that ``draw`` makes, with one control per keyword (see the module's head for the three modes).

    Args:
        draw: called with one value per control; draws on a figure of its own (or returns one), of the same size every time.
            What is random in it must come from a generator made inside it, so that each call gives the same figure.
        alt: what the figure shows, for readers who cannot see it.
        controls: :func:`slider`, :func:`choices`, or a list of increasing numbers or of words.

    Raises:
        TypeError: ``draw`` does not take the controls, or returns something else than a figure.
        ValueError: an unknown mode, no control, an empty ``alt``, more than 150 frames or 2.5 MB to pre-compute, a ``draw`` that draws nothing,
            changes the size of its figure, or draws the same values differently the second time.
    """
    mode = one_of(os.environ.get("MATHCORE_EXPLORE", "widget"), MODES, "MATHCORE_EXPLORE")
    if not alt.strip():
        raise ValueError("alt must say in words what the figure shows, got an empty string")
    if not controls:
        raise ValueError("explore needs at least one control: a slider, choices, or a list of values")
    made = {name: c if isinstance(c, Control) else choices(c) for name, c in controls.items()}
    inspect.signature(draw).bind(**{name: c.values[c.start] for name, c in made.items()})
    if mode == "widget":
        _show_widget(draw, alt, made)
    else:
        html = _static_html(draw, alt, made, only_first=mode == "first")
        display({"text/html": html, "text/plain": f"Interactive figure: {alt}"}, raw=True)


def _figure(draw: Draw, values: dict[str, Value]) -> bytes:
    """Return the figure for ``values`` as a PNG with a transparent page, and close every figure made on the way."""
    before = set(plt.get_fignums())
    blank = plt.figure()
    try:
        made = draw(**values)
        if made is not None and not isinstance(made, (Figure, Axes)):
            raise TypeError(f"draw must return a figure, axes, or None after drawing on the current figure; got {type(made).__name__}")
        figure: Any = plt.gcf() if made is None else made.figure if isinstance(made, Axes) else made
        if not figure.axes:
            used = "an empty figure" if figure is blank else "a figure without axes"
            raise ValueError(f"draw left {used} for {values}; it must draw on the current figure or return one, and not call plt.show()")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor="none", bbox_inches=None, pil_kwargs={"compress_level": 1})
        return buffer.getvalue()
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _static_html(draw: Draw, alt: str, controls: dict[str, Control], only_first: bool) -> str:
    """Return the HTML of all frames, or of the first one after a look at the last.

    Raises:
        ValueError: too many frames, frames of different sizes, or a ``draw`` that is not reproducible.
    """
    counts = {name: len(c.values) for name, c in controls.items()}
    if math.prod(counts.values()) > MAX_FRAMES:
        grid = " x ".join(f"{count} ({name})" for name, count in counts.items())
        longest = max(counts, key=lambda name: counts[name])
        raise ValueError(
            f"{grid} = {math.prod(counts.values())} frames, more than {MAX_FRAMES}: give {longest} fewer values or drop a control"
        )

    def values(at: Sequence[int]) -> dict[str, Value]:
        return {name: c.values[i] for (name, c), i in zip(controls.items(), at)}

    start = tuple(c.start for c in controls.values())
    first = _figure(draw, values(start))
    if _figure(draw, values(start)) != first:
        raise ValueError(f"draw made two different figures for {values(start)}: make its random generator inside it, from a fixed seed")
    if only_first:
        _frames.same_size([first, _figure(draw, values([n - 1 for n in counts.values()]))])
        return _frames.page(alt, [], [first], [0], 0)
    places = list(product(*(range(n) for n in counts.values())))
    frames = [first if at == start else _figure(draw, values(at)) for at in _progress(places)]
    _frames.same_size(frames)
    different = list(dict.fromkeys(frames))
    shown = [(c.label or name, c.texts, c.start, c.is_menu) for name, c in controls.items()]
    html = _frames.page(alt, shown, different, [different.index(f) for f in frames], places.index(start))
    if len(html) > MAX_BYTES:
        raise ValueError(
            f"{len(different)} frames take {len(html) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6} MB: "
            "give fewer values, a smaller figure, fewer dots, or keep titles and axis limits constant"
        )
    return html


def _progress(places: list[tuple[int, ...]]) -> Any:
    from tqdm import tqdm

    from mathcore.settings import settings

    # to the terminal, not to the notebook: its outputs must be the same every time
    return tqdm(places, desc="frames", delay=2, leave=False, disable=not settings.progress, file=sys.__stderr__)


def _show_widget(draw: Draw, alt: str, controls: dict[str, Control]) -> None:
    """Show ipywidgets controls above the figure. The figure is an image whose bytes change, so it does not flicker."""
    import ipywidgets as widgets

    def widget(name: str, c: Control) -> Any:
        options = list(zip(c.texts, c.values))
        kind = widgets.Dropdown if c.is_menu else widgets.SelectionSlider
        return kind(options=options, value=c.values[c.start], description=c.label or name, style={"description_width": "initial"})

    made = {name: widget(name, c) for name, c in controls.items()}
    picture = widgets.Image(format="png", tooltip=alt, layout=widgets.Layout(max_width="100%", object_fit="contain"))
    problem = widgets.Output()

    def update(_: Any = None) -> None:
        problem.clear_output()
        with problem:  # an error in draw shows its traceback below the controls
            picture.value = _frames.on_paper(_figure(draw, {name: w.value for name, w in made.items()}))

    picture.value = _frames.on_paper(_figure(draw, {name: w.value for name, w in made.items()}))
    for control in made.values():
        control.observe(update, names="value")
    row = widgets.Box(list(made.values()), layout=widgets.Layout(flex_flow="row wrap"))
    display(widgets.VBox([row, picture, problem]))
