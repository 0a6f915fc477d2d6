"""A false claim stops the build and turns the test run red; so does a claim that lost its control. The same book, put right, is green."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_cache import get_cache

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.book, pytest.mark.timeout(900)]

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

BOOKS = {
    "true": (CELL.replace("STATEMENT", TRUE).replace("CONTROL", CONTROL), None),
    "false": (CELL.replace("STATEMENT", FALSE).replace("CONTROL", CONTROL), "it is 0.865 at a random point"),
    "no-control": (CELL.replace("STATEMENT", TRUE).replace("CONTROL", ""), "the block has no negative control"),
    "control-that-holds": (
        CELL.replace("STATEMENT", TRUE).replace("CONTROL", CONTROL.replace("x**2 - 1", TRUE)),
        "the control was not rejected",
    ),
}


@pytest.fixture
def book(name, tmp_path):
    """A book of one notebook with one claim; yields its folder and what the run has to say, or None if it has to pass."""
    source, complaint = BOOKS[name]
    code = {"cell_type": "code", "id": "claim", "metadata": {}, "source": source, "execution_count": None, "outputs": []}
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A page\n\nWith one claim."}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [title, code],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "tiny.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: tiny\n", encoding="utf-8")
    (tmp_path / "_config.yml").write_text(CONFIG, encoding="utf-8")
    return tmp_path, complaint


def run(*command, cwd):
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "book")}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["true", "false"])
def test_build(book):
    folder, complaint = book
    status, output = run(PROJECT / "book" / "build.py", "--root", folder, cwd=folder)
    page = folder / "_build" / "html" / "tiny.html"
    if complaint is None:
        assert status == 0, output
        assert "Executing 1 notebook(s)" in output
        assert '<div class="claim">' in page.read_text(encoding="utf-8")
    else:
        assert status != 0, output
        assert "tiny.ipynb failed" in output
        assert "thm-2-1-1" in output
        assert complaint in output
        assert not page.exists()


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_run(book):
    """What passed is not run again for the book; what failed is not kept."""
    folder, complaint = book
    nbval = ["-m", "pytest", "-p", "keep_runs", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    status, output = run(*nbval, "tiny.ipynb", cwd=folder)
    kept = get_cache(folder / "_build" / "cache").list_cache_records()
    if complaint is None:
        assert status == 0, output
        assert [Path(record.uri).name for record in kept] == ["tiny.ipynb"]
        status, output = run(PROJECT / "book" / "build.py", "--root", folder, cwd=folder)
        assert status == 0, output
        assert "Executing 0 notebook(s)" in output
        assert '<div class="claim">' in (folder / "_build" / "html" / "tiny.html").read_text(encoding="utf-8")
    else:
        assert status == 1, output
        assert "thm-2-1-1" in output
        assert complaint in output
        assert kept == []
