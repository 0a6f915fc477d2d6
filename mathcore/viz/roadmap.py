"""The two maps of the preface, drawn from data: who invented what and when, and which part of the book needs which.

The monograph's preface has both as drawings. Here they are tables, and what is not in the book yet is drawn as an outline.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.text import Text

from mathcore.viz import graphs, style

AVAILABLE = frozenset({2, 3, 4, 5, 6, 9})
"""Chapters that are in the book; a test compares them with the table of contents."""

LANES = {"variational": "data", "score": "second", "flow": "third"}
"""The three lineages and their colours (names of :data:`mathcore.viz.style.COLORS`)."""


@dataclass(frozen=True)
class Work:
    """A publication on the timeline: ``key`` is its entry of the bibliography, ``chapter`` the chapter that teaches it."""

    name: str
    year: int
    lane: str
    chapter: int
    key: str


@dataclass(frozen=True)
class Stop:
    """A chapter, or half of one, on the map: the stops it needs, and its place in inches; a stop without a lane belongs to all three."""

    name: str
    label: str
    chapter: int
    needs: tuple[str, ...]
    at: tuple[float, float]
    lane: str | None = None


WORKS = (
    Work("VAE", 2013, "variational", 2, "kingma2013vae"),
    Work("DPM", 2015, "variational", 2, "sohldickstein2015"),
    Work("DDPM", 2020, "variational", 2, "ho2020ddpm"),
    Work("EBM", 1985, "score", 3, "ackley1985"),
    Work("NCSN", 2019, "score", 3, "song2019ncsn"),
    Work("Score SDE", 2020, "score", 4, "song2020scoresde"),
    Work("NF", 2015, "flow", 5, "rezende2015flows"),
    Work("neural ODE", 2018, "flow", 5, "chen2018node"),
    Work("flow matching", 2022, "flow", 5, "lipman2022flow"),
)
"""Nine steps in three lineages. The years are those of first publication."""

STOPS = (
    Stop("1", "1  generative models", 1, (), (2.6, 5.4)),
    Stop("2.1", "2.1  VAE, HVAE", 2, ("1",), (0.0, 4.5), "variational"),
    Stop("2.2", "2.2  DDPM", 2, ("2.1",), (0.0, 3.6), "variational"),
    Stop("3.1", "3.1  energy, score", 3, ("1",), (2.6, 4.5), "score"),
    Stop("3.3", "3.3  denoising, NCSN", 3, ("3.1", "2.2"), (2.6, 3.6), "score"),
    Stop("4", "4  score SDE", 4, ("2.2", "3.3"), (2.6, 2.7)),
    Stop("5.1", "5.1  neural flows", 5, ("1",), (5.2, 4.5), "flow"),
    Stop("5.2", "5.2  flow matching", 5, ("5.1", "4"), (5.2, 2.7), "flow"),
    Stop("6", "6  unified view", 6, ("4", "5.2"), (2.6, 1.8)),
    Stop("7", "7  transport", 7, ("5.2", "6"), (5.2, 0.9)),
    Stop("8", "8  guidance", 8, ("6",), (0.0, 0.9)),
    Stop("9", "9  fast solvers", 9, ("6", "8"), (2.6, 0.9)),
    Stop("10", "10  distillation", 10, ("9",), (2.6, 0.0)),
    Stop("11", "11  flow maps", 11, ("10",), (5.2, 0.0)),
)
"""What needs what; the arrows of :func:`chapter_map`."""

FIRST_YEAR, LAST_YEAR = 2012, 2022.9
"""The axis of the timeline; earlier works stand to the left of a break."""


def _across(year: int) -> float:
    return float(year) if year > FIRST_YEAR else FIRST_YEAR - 0.3


def timeline(ax: Axes | None = None) -> Axes:
    """Draw the works of :data:`WORKS` along the years, one lane a lineage; filled markers are taught in the book as it stands."""
    ax = ax if ax is not None else plt.subplots(figsize=style.size(3.0))[1]
    for row, (lane, role) in enumerate(LANES.items()):
        tone = style.COLORS[role]
        works = [work for work in WORKS if work.lane == lane]
        ax.plot([_across(works[0].year), LAST_YEAR], [-row, -row], color=tone, linewidth=1.2, zorder=1)
        ax.text(FIRST_YEAR - 2.3, -row, lane, color=tone, ha="left", va="center", fontsize=10)
        for work in works:
            here = work.chapter in AVAILABLE
            x = _across(work.year)
            ax.plot(x, -row, "o", markersize=10, color=tone, markerfacecolor=tone if here else "white", markeredgewidth=1.6)
            ax.text(x, -row + 0.21, work.name, ha="center", va="bottom", fontsize=9)
            ax.text(x, -row - 0.19, f"{work.year}\nch. {work.chapter}", ha="center", va="top", fontsize=8, linespacing=1.15)
        if works[0].year < FIRST_YEAR:
            ax.text(FIRST_YEAR + 0.5, -row, "//", ha="center", va="center", fontsize=11, color=tone)
    ax.set(xlim=(FIRST_YEAR - 2.4, LAST_YEAR), ylim=(0.4 - len(LANES), 0.5))
    ax.set_axis_off()
    return ax


def chapter_map(ax: Axes | None = None) -> Axes:
    """Draw :data:`STOPS` as a graph, an arrow from what is needed to what needs it; planned chapters have a dashed outline and no tint."""
    ax = ax if ax is not None else plt.subplots(figsize=style.size(6.4, 6.7))[1]
    kinds = {stop.name: LANES[stop.lane] if stop.lane else "box" for stop in STOPS if stop.chapter in AVAILABLE}
    graphs.graph(
        {stop.name: stop.label for stop in STOPS},
        [(need, stop.name) for stop in STOPS for need in stop.needs],
        {stop.name: stop.at for stop in STOPS},
        kinds={stop.name: kinds.get(stop.name, "box") for stop in STOPS},
        ax=ax,
    )
    ax.set_xlim(-0.75, max(stop.at[0] for stop in STOPS) + 0.75)  # room for the longest label
    planned = {stop.label: stop.lane for stop in STOPS if stop.chapter not in AVAILABLE}
    for text in ax.texts:
        if text.get_text() in planned:
            _outline(text, planned[text.get_text()])
    return ax


def _outline(text: Text, lane: str | None) -> None:
    box = text.get_bbox_patch()
    assert box is not None  # every stop is drawn as a box
    box.set(linestyle="--", facecolor="none", edgecolor=style.COLORS[LANES[lane] if lane else "noise"])
