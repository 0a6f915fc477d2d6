"""The built book, served on loopback, and a browser that can reach nothing else.

``make test-book`` builds the book first. ``MATHCORE_BOOK`` names another book to test: a folder with ``_toc.yml``, sources and ``_build``.
"""

import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("MATHCORE_BOOK", PROJECT)).resolve()
HTML = ROOT / "_build" / "html"
SHOTS = PROJECT / "_build" / "test-screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]

sys.path.insert(0, str(PROJECT / "book"))


def entries(item):
    """All pages that a part of the table of contents names, in reading order."""
    own = [item[key] for key in ("root", "file") if key in item]
    return own + [file for key in ("parts", "chapters", "sections") for child in item.get(key, []) for file in entries(child)]


PAGES = entries(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]


def missing(reason):
    """Skip on a machine that lacks something, but never in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html():
    """Folder of the built pages."""
    if not (HTML / "index.html").is_file():
        missing(f"no built book in {HTML}: run `make book`")
    return HTML


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def site(html):
    """Address of the book on a local server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser():
    """Chromium from PATH, else the one that playwright has installed."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        missing("playwright is not installed: the pages of the book cannot be opened")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as p:
        try:
            found = p.chromium.launch(executable_path=path, args=ARGS)
        except Error as error:
            missing(f"none of {', '.join(BROWSERS)} on PATH, and `playwright install chromium` has not run: {str(error).splitlines()[0]}")
        yield found
        found.close()


class Opened:
    """A page in the browser, and what went wrong while it was open."""

    def __init__(self, browser, address, theme, width=1280):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        self.context.set_default_timeout(120_000)
        self.page, self.problems = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("console", lambda m: self.problems.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        self.page.on("requestfailed", lambda r: self.problems.append(f"failed: {r.url}"))
        self.page.on("request", lambda r: None if r.url.startswith((address, "data:")) else self.problems.append(f"external: {r.url}"))
        self.page.on("response", lambda r: self.problems.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)

    def typeset(self):
        """Wait until MathJax, on a page that has formulas, is done."""
        self.page.wait_for_function("() => !document.querySelector('.math') || window.MathJax?.startup?.promise")
        self.page.evaluate("async () => { if (document.querySelector('.math')) await MathJax.startup.promise }")


@pytest.fixture
def open_page(site, browser):
    """Open a page of the book: ``open_page("notebooks/ch02-1-vae", theme="dark")``."""
    opened = []

    def go(name, theme="light", query="", width=1280):
        this = Opened(browser, site, theme, width)
        opened.append(this)
        this.page.goto(f"{site}/{name}.html{query}", timeout=120_000)
        this.typeset()
        return this

    yield go
    for this in opened:
        this.context.close()
