"""Every page of the built book in a browser, in both themes and at two widths: what a reader would see is there, and nothing is fetched from outside."""

import os
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import HTML, NOTEBOOKS, PAGES, SHOTS

pytestmark = pytest.mark.book

FACTS = r"""() => {
  const outside = '.mjx-container, mjx-container, pre, code, script, style, textarea, noscript';
  const raw = [], walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());)
    if (!node.parentElement.closest(outside) && /\$\$|\\\(|\\\[|\\begin\{|\\math|\{(ref|prf:ref|doc|cite:?\w*|term)\}/.test(node.data)) raw.push(node.data.trim().slice(0, 80));
  const math = [...document.querySelectorAll('.math')];
  const describe = img => img.alt || img.src.slice(0, 80);
  const pictures = [...document.querySelectorAll('article img')];
  const layered = img => img.closest('.mc-explore figure') && [...img.closest('figure').querySelectorAll('img')].some(other => other.alt);
  return {
    title: document.querySelector('article h1')?.innerText ?? '',
    formulas: math.length,
    untypeset: math.filter(m => !m.querySelector('mjx-container')).map(m => m.textContent.slice(0, 80)),
    errors: [...document.querySelectorAll('mjx-merror, [data-mml-node="merror"]')].map(m => m.closest('mjx-container')?.textContent.slice(0, 80)),
    raw,
    broken: [...document.images].filter(img => !img.complete || img.naturalWidth === 0).map(describe),
    silent: pictures.filter(img => !layered(img) && (!img.alt.trim() || /_images|\.png$/.test(img.alt))).map(describe),
  };
}"""

OVERFLOW = """() => {
  const root = document.documentElement, width = root.clientWidth;
  if (root.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > width + 1 + window.scrollX);
  return [`page is ${root.scrollWidth} wide on ${width}`, ...wide.slice(0, 5).map(e => e.outerHTML.slice(0, 100))];
}"""

CUT = """() => [...document.querySelectorAll('div.math')].filter(box => {
  const start = Math.min(...[...box.querySelectorAll('mjx-c')].map(glyph => glyph.getBoundingClientRect()).filter(r => r.width > 0).map(r => r.left));
  return start < box.getBoundingClientRect().left - 2;
}).map(box => box.textContent.trim().slice(0, 80))"""

LOST = r"""() => {
  const text = e => (e ? e.textContent.trim().slice(0, 80) : '');
  const alone = [...document.querySelectorAll('.bd-article :not(.together) > span.math')].filter(m => m.nextSibling?.nodeType === 3 && /^[.,;:?!)\]]/.test(m.nextSibling.data));
  const nameless = [...document.querySelectorAll('.bd-article table.table tbody td')].filter(cell => {
    const k = cell.cellIndex, head = cell.closest('table').querySelectorAll('thead th')[k];
    const name = cell.querySelector('.column-name');
    return k > 0 && text(head) && text(cell) && getComputedStyle(cell).display === 'block' && !(name && name.offsetHeight);
  });
  return [...alone.map(m => 'a line may begin with what follows: ' + text(m)), ...nameless.map(c => 'which column? ' + text(c))];
}"""

STILL = "*{transition:none!important;animation:none!important;scroll-behavior:auto!important}"


def shoot(page, name):
    """Keep a picture of the page if ``MATHCORE_SHOTS`` asks for it: drawing takes longer than testing. Chromium draws nothing below some 16,000 pixels."""
    if not os.environ.get("MATHCORE_SHOTS"):
        return
    height = min(page.evaluate("document.documentElement.scrollHeight"), 15_000)
    SHOTS.mkdir(parents=True, exist_ok=True)
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}
    page.screenshot(path=SHOTS / f"{name.replace('/', '-')}.png", full_page=True, clip=clip)


def move_a_slider(page):
    """By mouse, then by keyboard; the frame has to change, and the value that is read aloud with it."""
    block = page.locator(".mc-explore[data-ready]").filter(has=page.locator("input[type=range]")).first
    control, picture = block.locator("input[type=range]").first, block.locator("figure img").last

    def state():
        return picture.get_attribute("src"), control.get_attribute("aria-valuetext")

    control.scroll_into_view_if_needed()
    box = control.bounding_box()
    seen = []
    for share in (0.02, 0.98):  # the two ends of the track
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        seen.append(state())
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
    control.focus()
    page.keyboard.press("Home")
    assert state() == seen[0]
    page.keyboard.press("ArrowRight")
    assert state() not in seen or control.get_attribute("max") == "1"
    page.keyboard.press("End")
    assert state() == seen[1]
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth > 0)")


@pytest.mark.parametrize("name", PAGES)
def test_page(open_page, name):
    """Formulas are typeset once; the theme and then the width change under them, as for a reader."""
    opened = open_page(name)
    page = opened.page
    page.add_style_tag(content=STILL)
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; document.documentElement.dataset.mode = theme }", theme)
        assert page.evaluate(OVERFLOW) == []
        shoot(page, f"{name}-{theme}")
    facts = page.evaluate(FACTS)
    assert facts["title"]
    for fault in ("untypeset", "errors", "raw", "broken", "silent"):
        assert facts[fault] == [], fault
    if name in NOTEBOOKS:  # each has one, see below
        move_a_slider(page)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)  # the layout settles
    assert page.evaluate(OVERFLOW) == []
    assert page.evaluate(CUT) == [], "formulas that begin outside of their box"
    assert page.evaluate(LOST) == []
    shoot(page, f"{name}-phone")
    assert opened.problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_of_the_reader(open_page, theme):
    """A page comes up in the theme that was chosen before, and the switch in its bar leads to the other."""
    opened = open_page(PAGES[0], theme)
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    switch = page.locator(".theme-switch-button:visible").first
    for _ in range(2):  # light, dark, and that of the system
        switch.click()
        if page.evaluate("document.documentElement.dataset.theme") != theme:
            break
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    page.add_style_tag(content=STILL)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert opened.problems == []


class Tags(HTMLParser):
    """The tags of a page with their attributes, and whether each stands in a ``nav``; much faster than a tree of two megabytes of pictures."""

    def __init__(self, text):
        super().__init__()
        self.found, self._navs = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._navs += tag == "nav"
        self.found.append((tag, {name: value or "" for name, value in attrs}, self._navs > 0))

    def handle_endtag(self, tag):
        self._navs -= tag == "nav"


@pytest.fixture(scope="module")
def tags(html):
    """``{page: [(tag, attributes, in a nav)]}`` of every page."""
    pages = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(html).as_posix(): Tags(path.read_text(encoding="utf-8")).found for path in pages}


@pytest.mark.xdist_group("tags")
def test_links_and_anchors_resolve(tags):
    """Every relative link of every page leads to a file of the book, and every fragment to an element of that page."""
    ids = {
        name: {a["id"] for _, a, _ in found if "id" in a} | {a["name"] for tag, a, _ in found if tag == "a" and "name" in a}
        for name, found in tags.items()
    }
    dead, seen = [], 0
    for name, found in tags.items():
        for address in [a["href"] for tag, a, _ in found if tag == "a" and "href" in a]:
            link = urlsplit(address)
            if link.scheme or link.netloc:
                continue
            seen += 1
            target = (HTML / name).parent / unquote(link.path) if link.path else HTML / name
            if not target.is_file():
                dead.append(f"{name}: {address}")
                continue
            page = target.resolve().relative_to(HTML).as_posix()
            if link.fragment and page in ids and unquote(link.fragment) not in ids[page]:
                dead.append(f"{name}: {address}")
    assert dead == []
    assert seen > len(tags)


@pytest.mark.xdist_group("tags")
def test_every_page_of_the_contents_is_reachable_from_the_first(tags):
    links = {
        (HTML / "book" / unquote(urlsplit(a["href"]).path)).resolve()
        for tag, a, in_nav in tags[f"{PAGES[0]}.html"]
        if tag == "a" and in_nav and "://" not in a.get("href", "://")
    }
    assert {(HTML / f"{name}.html").resolve() for name in PAGES[1:]} <= links


@pytest.mark.xdist_group("tags")
def test_nothing_is_loaded_from_elsewhere(tags):
    """Scripts, styles, pictures and fonts named in the pages are files of the book."""
    dead, seen = [], 0
    for name, found in tags.items():
        for tag, a, _ in found:
            address = a.get("href") if tag == "link" else a.get("src") if tag in ("script", "img", "iframe", "source") else None
            if address is None:
                continue
            link = urlsplit(address)
            if link.scheme == "data" or set(a.get("rel", "").split()) & {"canonical", "next", "prev", "index", "search"}:
                continue
            seen += 1
            if link.scheme or link.netloc or not ((HTML / name).parent / unquote(link.path)).is_file():
                dead.append(f"{name}: {address[:100]}")
    assert dead == []
    assert seen > len(tags)


def test_search_finds_the_score(open_page):
    opened = open_page("search", query="?q=score")
    opened.page.wait_for_selector("#search-results ul.search li")
    found = opened.page.locator("#search-results ul.search li a").all_inner_texts()
    assert any("score" in text.lower() for text in found), found  # results come in by rank: pages with the word in their title first
    assert opened.problems == []


def explorations():
    """Notebook pages that hold a slider; all notebooks, so that each is reported, where the book has not been built."""
    built = [name for name in NOTEBOOKS if (HTML / f"{name}.html").is_file()]
    return [name for name in built if "mc-explore" in (HTML / f"{name}.html").read_text(encoding="utf-8")] or NOTEBOOKS


def test_every_notebook_has_something_to_explore(html):
    assert explorations() == NOTEBOOKS


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [PAGES[0], explorations()[0]])
def test_a_page_can_be_printed(open_page, name, theme):
    """On paper there are no controls and no sidebars, and dark ink stands on white in both themes."""
    opened = open_page(name, theme)
    page = opened.page
    page.emulate_media(media="print")
    gone = page.locator(".mc-explore form, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article").all()
    assert [e for e in gone if e.is_visible()] == []
    ink, paper = page.evaluate(
        """() => { const light = c => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number); return a === 0 ? 255 : (r + g + b) / 3 };
        return [light(getComputedStyle(document.querySelector('article p')).color), light(getComputedStyle(document.body).backgroundColor)] }"""
    )
    assert ink < 90
    assert paper > 230
    SHOTS.mkdir(parents=True, exist_ok=True)
    pdf = SHOTS / f"{name.replace('/', '-')}-{theme}-print.pdf"
    page.pdf(path=pdf, format="A4")
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert opened.problems == []
