"""A false claim stops the build and turns the test run red; so does a claim that lost its control. The same book without them is green."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_cache import get_cache

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.book, pytest.mark.timeout(900), pytest.mark.xdist_group("red")]  # one worker, which makes the fixture once

CONFIG = """title: A tiny book
only_build_toc_files: true
execute: {execute_notebooks: cache, cache: _build/cache, timeout: 120}
sphinx: {config: {nb_execution_raise_on_error: true, suppress_warnings: [mystnb.unknown_mime_type]}}
"""

CELL = """import sympy as sp

from mathcore.claims import claim

x = sp.Symbol("x")
with claim("thm-2-1-1") as c:
    c.zero(sp.expand((x + 1) ** 2) - STATEMENT)
    CONTROL
"""
TRUE, FALSE = "x**2 - 2 * x - 1", "x**2 - x - 1"
CONTROL = "c.rejects(lambda c: c.zero(sp.expand((x + 1) ** 2) - x**2 - 1))"

GOOD = CELL.replace("STATEMENT", TRUE).replace("CONTROL", CONTROL)
BAD = {
    "untrue": (CELL.replace("STATEMENT", FALSE).replace("CONTROL", CONTROL), "it is 0.865 at a random point"),
    "no-control": (CELL.replace("STATEMENT", TRUE).replace("CONTROL", ""), "the block has no negative control"),
    "control-that-holds": (
        CELL.replace("STATEMENT", TRUE).replace("CONTROL", CONTROL.replace("x**2 - 1", TRUE)),
        "the control was not rejected",
    ),
}


def add_page(folder, name, source):
    """Write a notebook of one claim."""
    code = {"cell_type": "code", "id": "claim", "metadata": {}, "source": source, "execution_count": None, "outputs": []}
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A page\n\nWith one claim."}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [title, code],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


def contents(folder, root, *chapters):
    files = "".join(f"\n- file: {name}" for name in chapters)
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: {root}\n" + (f"chapters:{files}\n" if files else ""), encoding="utf-8")


def run(*command, cwd):
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "book")}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A book with one true page and three that are not: its folder, and how its test run ended and what it said."""
    folder = tmp_path_factory.mktemp("red")
    (folder / "_config.yml").write_text(CONFIG, encoding="utf-8")
    for name, source in {"good": GOOD, **{name: source for name, (source, _) in BAD.items()}}.items():
        add_page(folder, name, source)
    contents(folder, "good", *BAD)
    nbval = ["-m", "pytest", "-p", "keep_runs", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q"]
    return folder, *run(*nbval, ".", cwd=folder)


def test_each_notebook_with_a_bad_claim_fails_and_no_other(tested):
    folder, status, output = tested
    assert status == 1, output
    for name, (_, complaint) in BAD.items():
        assert f"FAILED {name}.ipynb::Cell 0" in output
        assert complaint in output
    assert "3 failed, 1 passed" in output
    assert "thm-2-1-1" in output
    kept = get_cache(folder / "_build" / "cache").list_cache_records()
    assert [Path(record.uri).name for record in kept] == ["good.ipynb"]


def test_the_build_stops_at_bad_claims(tested):
    """What passed is not run again for the book; what failed is, and names itself."""
    folder = tested[0]
    status, output = run(PROJECT / "book" / "build.py", "--root", folder, cwd=folder)
    assert status != 0, output
    assert "Executing 3 notebook(s)" in output
    assert "3 of 4 notebooks failed" in output
    assert "thm-2-1-1" in output
    for name, (_, complaint) in BAD.items():
        assert f"{name}.ipynb failed" in output
        assert complaint in output
    assert not (folder / "_build" / "html").exists()


def test_the_book_without_them_is_built(tested, tmp_path):
    """From the run that is kept and from one more notebook, executed now."""
    folder = tmp_path / "green"
    shutil.copytree(tested[0], folder)
    add_page(folder, "more", GOOD.replace("x + 1", "1 + x"))
    contents(folder, "good", "more")
    status, output = run(PROJECT / "book" / "build.py", "--root", folder, cwd=folder)
    assert status == 0, output
    assert "Executing 1 notebook(s)" in output
    for name in ("good", "more"):
        assert '<div class="claim">' in (folder / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8")
