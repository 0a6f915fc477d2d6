import re
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

from mathcore.viz import roadmap

PROJECT = Path(__file__).resolve().parents[2]


def test_what_is_called_available_is_in_the_table_of_contents():
    toc = (PROJECT / "_toc.yml").read_text(encoding="utf-8")
    yaml.safe_load(toc)
    assert {int(number) for number in re.findall(r"file: book/ch(\d+)$", toc, re.M)} == roadmap.AVAILABLE


def test_every_work_is_in_the_bibliography():
    entries = re.findall(r"^@\w+\{([\w-]+),", (PROJECT / "book" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert {work.key for work in roadmap.WORKS} <= set(entries)


def test_lanes_run_forward_in_time_and_years_are_those_of_the_keys():
    for lane in roadmap.LANES:
        years = [work.year for work in roadmap.WORKS if work.lane == lane]
        assert years == sorted(years)
    for work in roadmap.WORKS:
        assert str(work.year) in work.key


def test_figures_show_every_entry_and_mark_what_is_planned():
    ax = roadmap.timeline()
    assert {work.name for work in roadmap.WORKS} <= {text.get_text() for text in ax.texts}
    open_markers = [line for line in ax.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "white"]
    assert len(open_markers) == sum(work.chapter not in roadmap.AVAILABLE for work in roadmap.WORKS)

    ax = roadmap.chapter_map()
    ax.figure.canvas.draw()
    dashed = {text.get_text() for text in ax.texts if text.get_bbox_patch().get_linestyle() in ("--", "dashed")}
    assert dashed == {stop.label for stop in roadmap.STOPS if stop.chapter not in roadmap.AVAILABLE}


def test_no_box_of_the_map_is_cut_off():
    ax = roadmap.chapter_map()
    ax.figure.canvas.draw()
    frame = ax.get_window_extent()
    for text in ax.texts:
        box = text.get_bbox_patch().get_window_extent()
        assert frame.x0 <= box.x0, text.get_text()
        assert box.x1 <= frame.x1, text.get_text()
    plt.close("all")
