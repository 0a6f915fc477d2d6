"""Figures of the book: one style, one function per kind of figure, and sliders that work without a kernel."""

from mathcore.viz import graphs, plots, style
from mathcore.viz.explore import choices, explore, slider

__all__ = ["choices", "explore", "graphs", "plots", "slider", "style"]
