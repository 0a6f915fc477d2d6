"""Graphical models and roadmaps, drawn from their definition: who depends on whom."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import matplotlib.pyplot as plt
import networkx as nx
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from mathcore._validate import one_of
from mathcore.viz import style

Edge: TypeAlias = tuple[str, str]
Place: TypeAlias = tuple[float | int, float | int]

KINDS = {
    "latent": ("circle", "none"),
    "observed": ("circle", style.COLORS["noise"]),
    "fixed": ("plain", "none"),
    "box": ("box", "none"),
    "data": ("box", style.COLORS["data"]),
    "model": ("box", style.COLORS["model"]),
    "second": ("box", style.COLORS["second"]),
    "third": ("box", style.COLORS["third"]),
}
"""Kind of a node -> its outline and its tint. ``fixed`` is a symbol without an outline: a parameter, or three dots."""


def graph(
    nodes: Mapping[str, str],
    edges: Sequence[Edge],
    positions: Mapping[str, Place] | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    dashed: Sequence[Edge] = (),
    edge_labels: Mapping[Edge, str] | None = None,
    bend: float | int = 0.35,
    ax: Axes | None = None,
) -> Axes:
    """Directed graph of a factorisation or a roadmap.

    Args:
        nodes: name -> label (mathtext allowed).
        edges: (parent, child) pairs, drawn solid: the factors of the model.
        positions: name -> (x, y) in inches; default: one column per generation of ``edges``, from left to right.
        kinds: name -> one of :data:`KINDS`; default ``latent``.
        dashed: further pairs, drawn dashed and bent: inference, or a forward process beside a reverse one.
        edge_labels: pair -> label, written beside the middle of its arrow.
        bend: curvature of the dashed arrows.
        ax: axes to draw on; default: a new figure of the size of the graph.

    Raises:
        ValueError: an edge, kind, label or position of an unknown node, an unknown kind, a node without a position, or a cycle
            in ``edges`` or in ``dashed``, which would be no factorisation.
    """
    kinds, edge_labels = dict(kinds or {}), dict(edge_labels or {})
    solid = _checked(nodes, edges, "edges")
    _checked(nodes, dashed, "dashed")
    for name in [*kinds, *(positions or {})]:
        one_of(name, nodes, "node")
    for pair in edge_labels:
        if pair not in (*edges, *dashed):
            raise ValueError(f"edge_labels names {pair}, which is no edge of the graph")
    place = dict(positions) if positions is not None else _generations(solid)
    if missing := [name for name in nodes if name not in place]:
        raise ValueError(f"positions has no place for {missing}")
    ax = ax if ax is not None else _canvas(place)
    patches = {name: _node(ax, place[name], label, kinds.get(name, "latent")) for name, label in nodes.items()}
    for pairs, line, rad in ((edges, "-", 0.0), (dashed, "--", bend)):
        for pair in pairs:
            _arrow(ax, place, patches, pair, line, rad, edge_labels.get(pair))
    _frame(ax, place)
    return ax


def _checked(nodes: Mapping[str, str], edges: Sequence[Edge], name: str) -> nx.DiGraph:
    """Return the edges as a graph.

    Raises:
        ValueError: unknown node, or a cycle.
    """
    for pair in edges:
        for end in pair:
            one_of(end, nodes, f"a node of {name}")
    out = nx.DiGraph()
    out.add_nodes_from(nodes)
    out.add_edges_from(edges)
    if not nx.is_directed_acyclic_graph(out):
        raise ValueError(f"{name} has the cycle {nx.find_cycle(out)}: no factorisation has one")
    return out


def _generations(solid: nx.DiGraph) -> dict[str, Place]:
    columns = list(nx.topological_generations(solid))
    return {name: (1.3 * i, 0.8 * ((len(column) - 1) / 2 - j)) for i, column in enumerate(columns) for j, name in enumerate(column)}


def _canvas(place: Mapping[str, Place]) -> Axes:
    xs, ys = zip(*place.values())
    width, height = max(xs) - min(xs) + 1.2, max(ys) - min(ys) + 1.0
    shrink = min(1.0, style.WIDTH / width)
    return plt.subplots(figsize=style.size(height * shrink, width * shrink))[1]


def _frame(ax: Axes, place: Mapping[str, Place]) -> None:
    xs, ys = zip(*place.values())
    ax.set(xlim=(min(xs) - 0.6, max(xs) + 0.6), ylim=(min(ys) - 0.5, max(ys) + 0.5), aspect="equal")
    ax.set_axis_off()


def _node(ax: Axes, at: Place, label: str, kind: str) -> Patch:
    """Draw one node and return its outline, where arrows end."""
    shape, tint = KINDS[one_of(kind, KINDS, "kind")]
    edge = style.INK if tint in ("none", style.COLORS["noise"]) else tint
    face = to_rgba(tint, 0.18) if tint != "none" else "none"
    if shape == "box":
        text = ax.text(
            *at, label, ha="center", va="center", fontsize=9, bbox={"boxstyle": "round,pad=0.4", "fc": face, "ec": edge, "lw": 1.0}
        )
        return text.get_bbox_patch()  # type: ignore[return-value]
    outline = FancyBboxPatch((at[0], at[1]), 0, 0, boxstyle="circle,pad=0.26", fc=face, ec="none" if shape == "plain" else edge, lw=1.0)
    ax.add_patch(outline)
    ax.text(*at, label, ha="center", va="center", fontsize=11)
    return outline


def _arrow(
    ax: Axes, place: Mapping[str, Place], patches: Mapping[str, Patch], pair: Edge, line: str, rad: float | int, label: str | None
) -> None:
    (x0, y0), (x1, y1) = place[pair[0]], place[pair[1]]
    ax.add_patch(
        FancyArrowPatch(
            (x0, y0), (x1, y1), patchA=patches[pair[0]], patchB=patches[pair[1]], shrinkA=1, shrinkB=2, arrowstyle="-|>", mutation_scale=11,
            linestyle=line, connectionstyle=f"arc3,rad={rad}", color=style.INK, linewidth=1.0,
        )
    )  # fmt: skip
    if label is not None:
        # arc3 passes at distance rad/2 * length from the middle of the chord, to the right of the direction of travel
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        off = rad / 2 * length + (0.14 if rad >= 0 else -0.14)
        normal = ((y1 - y0) / length, -(x1 - x0) / length) if rad else (-(y1 - y0) / length, (x1 - x0) / length)
        ax.text((x0 + x1) / 2 + off * normal[0], (y0 + y1) / 2 + off * normal[1], label, ha="center", va="center", fontsize=9)
