"""The ledger against the run that built the book: what is called checked has been checked, in the notebook that the row names."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from build import library_key
from conftest import NOTEBOOKS, ROOT, missing
from docutils.nodes import make_id
from jupyter_cache import get_cache
from pages import runs_of

from mathcore.ledger import ledger
from mathcore.viz.explore import MAX_BYTES

pytestmark = pytest.mark.book

MAX_PAGE = 3_000_000


@pytest.fixture(scope="module")
def runs(html):
    """Records of each notebook, from the store of executed notebooks; a notebook edited after the build has none."""
    cache = get_cache(ROOT / "_build" / "cache")
    found = {}
    for name in NOTEBOOKS:
        try:
            found[Path(name).name] = runs_of(cache, ROOT / f"{name}.ipynb")
        except KeyError:
            missing(f"{name} has no stored run as it stands: run `make book`")
    return found


def test_the_book_is_the_one_of_this_code(html):
    assert (ROOT / "_build" / "cache-key").read_text() == library_key(), "the library has changed since the book was built: run `make book`"


@pytest.mark.xdist_group("ledger")
def test_every_checked_row_left_a_record_with_a_control(runs):
    rows = [row for row in ledger().rows.values() if row.status == "checked" and row.notebook in runs]
    bare = [row.id for row in rows if not any(r["checks"] and r["controls"] for r in runs[row.notebook].of(row.id))]
    assert bare == []


@pytest.mark.xdist_group("ledger")
def test_every_record_belongs_to_a_checked_row_of_its_notebook(runs):
    """A cross-check in another notebook may mention a row, but no claim block runs for a row that is only shown or read."""
    stray = [id for run in runs.values() for record in run.records for id in record["ids"] if ledger().row(id).status != "checked"]
    assert stray == []


@pytest.mark.xdist_group("ledger")
def test_every_row_of_the_book_is_on_the_ledger_page(html, runs):
    page = BeautifulSoup((html / "book" / "generated" / "ledger.html").read_text(encoding="utf-8"), "html.parser")
    targets = {tag["href"].rpartition("#")[2] for tag in page.select("article a[href*='#']")}
    rows = [row for row in ledger().rows.values() if row.notebook in runs]
    # docutils drops what may not begin an identifier: 05b-g-1 becomes b-g-1
    assert {make_id(row.id) for row in rows if make_id(row.id)} <= targets
    # nothing is left of 5-3-1, whose target gets a number: its link is known by its text
    shown = {(tag["href"].partition("#")[0].rpartition("/")[2], tag.get_text()) for tag in page.select("article a[href*='#id']")}
    assert {(f"{row.notebook}.html", row.number) for row in rows if not make_id(row.id)} <= shown
    assert "no record" not in page.get_text()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_page_size(html, name):
    """A page with its pictures stays below 3 MB."""
    path = html / f"{name}.html"
    text = path.read_text(encoding="utf-8")
    images = {(path.parent / unquote(src)).resolve() for src in re.findall(r'<img[^>]*\ssrc="(?!data:)([^"]+)"', text)}
    size = path.stat().st_size + sum(image.stat().st_size for image in images)
    assert size <= MAX_PAGE, f"{size / 1e6:.1f} MB"
    assert MAX_BYTES < MAX_PAGE


def test_the_page_offers_the_notebook_of_the_repository(html):
    """The download is the file without outputs, not the one that the build executed."""
    for name in NOTEBOOKS:
        assert (html / "_sources" / f"{name}.ipynb").read_bytes() == (ROOT / f"{name}.ipynb").read_bytes()
