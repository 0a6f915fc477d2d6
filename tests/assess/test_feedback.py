"""The page of feedback, made from a small notebook; that a real course leads to it is tested in test_course_cycle."""

import copy
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from mathcore.assess import feedback, mathml, source

SETS = Path(__file__).resolve().parents[2] / "notebooks" / "problem_sets"
POINTS = {"q1-test": 0.0, "q2-test": 5.0, "q3-test": 15.0}
LACKS = {"q1-test": "not answered"}
PIXEL = "iVBORw0KGgo="
HOSTILE = """# Full marks </div></main> for **me**

Text <b onclick=alert(0)>bold</b> with <img src=x onerror=alert(1)> [x](javascript:alert(2)) [y]( JaVaScRiPt:alert(3)) [z](java&#115;cript:alert(4))
[w](data:text/html,<script>alert(5)</script>) <javascript:alert(6)> ![cat](https://example.org/cat.png "t\\" onload=alert(7)") ![dog][d]

[v](https://example.org/" onmouseover="alert(8)) [u](//example.org) [top](#question-1) [d]

[d]: vbscript:alert(9)

<script src="https://example.org/x.js"></script>

<iframe src="https://example.org"></iframe><style>@import "https://example.org/x.css"</style><svg onload=alert(10)>

$\\text{<script>alert(11)</script>}$ $\\text{&lt;img src=x onerror=alert(12)&gt;}$ $\\href{javascript:alert(13)}{x}$ $\\style{background:url(//example.org)}{y}$
$\\class{a" onclick="alert(14)}{z}$ $\\text{&amp;lt;script&amp;gt;}$ $<img src=x onerror=alert(15)>$ $\\color{red" onclick="alert(16)}{x}$

| <script>alert(17)</script> | $\\mathrm{<b>}$ |
|---|---|
| ![a](b) | `<script>` |

```html"onclick="alert(18)
<script>alert(19)</script>
```
~~~
</pre><script>alert(20)</script>
~~~
"""


def cell(kind, text, grade_id="", **settings):
    make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    made = make(text)
    if grade_id:
        made.metadata["nbgrader"] = {
            "grade_id": grade_id,
            "grade": False,
            "solution": False,
            "locked": True,
            "schema_version": 3,
        } | settings
    return made


def error(name, message, *lines):
    return nbformat.v4.new_output("error", ename=name, evalue=message, traceback=list(lines))


@pytest.fixture
def graded():
    """``(notebook, set)``: three questions, not answered, partly right, and right with a comment."""
    cells = [cell("markdown", "# Problem set 1. A & B\n\nText with $a<b$.", "intro")]
    for k, comment in enumerate((feedback.UNTOUCHED, "", "Well *done*: $x^2$ <b>"), start=1):
        cells.append(cell("code", f"def f{k}(): ...", f"q{k}-answer", solution=True, comment=comment))
        cells.append(cell("code", f"assert f{k}() == 1  # <i>", f"q{k}-test", grade=True, points=5 * k))
    message = "Write your answer " + "here" * 500
    head = f"NotImplementedError: {message}"
    cells[2].outputs = [error("NotImplementedError", message, head, "", "in your code:", "your code, line 1, in f: raise", head)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    return notebook, source.Source(Path("ps01-small.ipynb"), copy.deepcopy(notebook))


def soup(notebook, problem, points=POINTS):
    return BeautifulSoup(feedback.page(notebook, problem, points, LACKS), "html.parser")


def harmful(page):
    """What on a page runs, loads or leads away, as ``(tag, attribute, value)``."""
    found = []
    for tag in page.find_all(True):
        if tag.name in (
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "base",
            "form",
            "svg",
            "video",
            "audio",
            "foreignobject",
            "annotation-xml",
        ):
            found.append((tag.name, "", ""))
        for name, value in tag.attrs.items():
            leads = name in ("href", "src", "action", "srcset", "xlink:href") and not re.match(
                r"#quest|https?://|mailto:|data:image/png;base64,", value
            )
            loads = name in ("src", "srcset") and not str(value).startswith("data:image/png")
            if (
                name.startswith("on")
                or leads
                or loads
                or "url(" in str(value)
                or (name == "style" and not str(value).startswith("text-align:"))
            ):
                found.append((tag.name, name, value))
    return found


@pytest.mark.parametrize("fence", ["~~~", "~~~~", ""])  # as grading lays a student's text out, and as a text that pretends to be of the set
def test_a_hostile_text_brings_nothing_that_runs_or_loads(graded, fence):
    notebook, problem = graded
    clean = soup(notebook, problem)
    text = f"{fence}text\n{HOSTILE}\n{fence}" if fence else HOSTILE
    notebook.cells.insert(1, cell("markdown", text))
    notebook.cells[-1].outputs = [
        nbformat.v4.new_output("stream", text="</pre><script>alert(30)</script>\x1b[31mred\x1b[0m"),
        nbformat.v4.new_output(
            "display_data", data={"text/html": "<script>alert(31)</script>", "text/plain": "<script>alert(32)</script>"}
        ),
        nbformat.v4.new_output("display_data", data={"image/png": 'x" onerror="alert(33)'}),
        error("</pre><script>", "alert(34)", "<img src=x onerror=alert(35)>"),
    ]
    notebook.cells.append(cell("code", "</pre><script>alert(36)</script>"))
    page = soup(notebook, problem)
    assert harmful(page) == []
    assert not page.find_all("img", src=lambda value: "example" in value)
    assert [tag.name for tag in page.main.find_all(id=True)] == [tag.name for tag in clean.main.find_all(id=True)]
    assert len(page.find_all("h1")) == 1
    assert {a["href"] for a in page.main.find_all("a") if not a["href"].startswith("#")} <= {
        "https://example.org/%22",
        "https://example.org/",
    }
    assert "Full marks </div></main> for me" in page.main.get_text()  # what was typed is still to be read
    assert "<script>alert(36)</script>" in page.main.get_text()


def test_the_check_for_harm_sees_harm():
    for text in (
        '<a href="javascript:1">',
        "<p onclick=1>",
        "<img src=https://x.org>",
        "<script>",
        '<math href="x">',
        '<p style="background:url(x)">',
    ):
        assert len(harmful(BeautifulSoup(text, "html.parser"))) == 1, text


def formulas(text):
    """Formulas of a text as Jupyter reads them, apart from our parser."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\$\$.+?\$\$|\$.+?\$|\\\\\[.+?\\\\\]|\\\\\(.+?\\\\\)", prose, re.DOTALL)


@pytest.mark.parametrize("name", source.find_sets(SETS))
def test_every_formula_of_a_set_is_set(name):
    cells = [c.source for c in source.get_set(SETS, name).notebook.cells if c.cell_type == "markdown"]
    pages = [BeautifulSoup(feedback.markdown(text), "html.parser") for text in cells]
    assert sum(len(page.find_all("math")) for page in pages) == sum(len(formulas(text)) for text in cells) > 50
    for page in pages:
        for tag in page.find_all(True):
            assert "mathvariant" not in tag.attrs or tag["mathvariant"] == "normal", tag  # browsers would show an ordinary letter
        for tag in page.find_all(["code", "pre"]):
            tag.decompose()
        assert not re.search(r"[\\$]", page.get_text())


def shape(tex, display=False):
    """Tags and texts of a formula: ``msub(x,t)``."""

    def walk(tag):
        children = [walk(child) for child in tag.find_all(True, recursive=False)]
        return f"{tag.name}({','.join(children)})" if children else tag.get_text() or tag.name

    return walk(BeautifulSoup(mathml.formula(tex, display), "html.parser").math.mrow)


def test_formulas_have_the_right_parts():
    assert shape(r"\frac{\mathbf x_t^2}{\sqrt 3}") == "mrow(mfrac(mrow(msubsup(𝐱,t,2)),mrow(msqrt(3))))"
    assert shape(r"\mathbb R\mathcal N\boldsymbol\epsilon") == "mrow(ℝ,𝒩,𝝐)"  # the first two: one older than the alphabet, one of it
    assert shape(r"a<b") == "mrow(a,<,b)"
    assert shape(r"\nabla\log p") == "mrow(∇,mspace,log,mspace,p)"
    assert shape(r"z\sim q") == "mrow(z,∼,q)"
    assert shape(r"\hat x") == "mrow(mover(x,ˆ))"
    assert shape(r"\text{&lt;b&gt;}") == "mrow(<b>)"
    assert shape(r"\begin{aligned}a&=b\\c&=d\end{aligned}", display=True).count("mtr") == 2
    assert shape("(t',k)") == "mrow((,mrow(t,′),,,k,))"  # at full size: in a superscript browsers show a speck
    assert shape("x_{t'}") == "mrow(msub(x,mrow(mrow(t,′))))"
    assert shape(r"\alpha_t'") == "mrow(msub(mrow(α,′),t))"
    assert shape(r"\sigma_t'^2\rho'^2f''") == "mrow(msup(msub(mrow(σ,′),t),2),msup(mrow(ρ,′),mrow(2)),mrow(f,″))"
    assert mathml.formula(r"\lVert x_t\rVert^2").count('<mo stretchy="false"') == 2  # of one size
    assert shape(r"\big\|x\big\|^2") == "mrow(‖,x,msup(mrow(‖),2))"  # of one size, too
    assert shape(r"(y)\max(z)") == "mrow((,y,),mspace,max,(,z,))"
    assert '<mi mathvariant="normal">Ω</mi>' in mathml.formula(r"\Omega")
    assert 'form="prefix"' in mathml.formula("(-x)")
    assert 'form="prefix"' not in mathml.formula("y)-x")
    assert mathml.formula("x", display=True).startswith('<math display="block">')


@pytest.mark.parametrize("tex", [r"\frac", "{", r"\foo x", r"\newcommand{\a}{b}\a", "x" * 2001, "\\sqrt{" * 300])
def test_a_formula_that_cannot_be_set_says_so_and_stays_as_typed(tex):
    with pytest.raises(ValueError, match="formula"):
        mathml.formula(tex)
    page = BeautifulSoup(feedback.markdown(f"before ${tex}$ after"), "html.parser")
    assert page.get_text().strip() == f"before ${tex}$ after"


def test_all_ways_to_write_formulas_and_none_in_code():
    text = "$a$ and \\\\(b\\\\)\n\n$$c$$\n\n\\\\[d\\\\]\n\n\\begin{align}e&=f\\end{align}\n\n`$g$`\n\n~~~\n$h$\n~~~\n\nfive dollars: \\$5 or \\$6"
    page = BeautifulSoup(feedback.markdown(text), "html.parser")
    assert [math["display"] for math in page.find_all("math")] == ["inline", "inline", "block", "block", "block"]
    assert "$g$" in page.code.get_text()
    assert "$h$" in page.pre.get_text()
    assert "$5 or $6" in page.get_text()


def test_the_head_names_the_set_and_the_points(graded):
    page = soup(*graded)
    assert page.html["lang"] == "en"
    assert page.find("meta", attrs={"name": "viewport"})["content"] == "width=device-width, initial-scale=1"
    assert page.title.get_text() == "Problem set 1. A & B: 20 of 30 points"
    assert [tag.get_text() for tag in page.find_all("h1")] == ["Problem set 1. A & B"]
    assert page.find(class_="total").get_text() == "20 of 30 points"
    levels = [int(tag.name[1]) for tag in page.find_all(re.compile("^h[1-6]$"))]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_list_and_the_bars_follow_the_points(graded):
    page = soup(*graded)
    listed = page.nav.find_all("li")
    assert [" ".join(item.get_text().split()) for item in listed] == [
        "✗ Question 1: 0 of 5, not answered",
        "◐ Question 2: 5 of 10",
        "✓ Question 3: 15 of 15, with a comment",
    ]
    assert [item["class"] for item in listed] == [["none"], ["partial"], ["full"]]
    for item in listed:
        bar = page.find(id=item.a["href"].removeprefix("#"))
        assert bar["class"] == ["bar", *item["class"]]
        assert f"{item.a.get_text()} points" in bar.get_text()
        assert page.find(id=bar.a["href"].removeprefix("#")).name == "nav"


def test_points_by_hand_and_comments_are_shown(graded):
    notebook, problem = graded
    page = soup(notebook, problem, POINTS | {"q1-test": 2.3333333})
    assert "Question 1: 2.33 of 5 points" in page.find(id="question-1").get_text()
    assert page.find(id="question-1")["class"] == ["bar", "partial"]
    comments = page.find_all(class_="comment")
    assert [comment.em.get_text() for comment in comments] == ["done"]
    assert comments[0].find("msup")
    assert not comments[0].b
    assert feedback.UNTOUCHED not in page.get_text()


def test_a_message_stands_once_above_the_test_and_wraps(graded):
    page = soup(*graded)
    failures = page.find_all(class_="failure")
    assert [text.get_text().count("NotImplementedError: Write") for text in failures] == [1]
    assert failures[0].get_text().endswith("your code, line 1, in f: raise")
    assert failures[0].find_previous(id=True)["id"] == "question-1"
    assert failures[0].find_next(class_="code").get_text().startswith("assert f1()")
    rule = re.search(r"pre\.failure\{([^}]*)\}", feedback.STYLE)[1]
    assert "pre-wrap" in rule
    assert "anywhere" in rule
    assert "border-left" in re.search(r"^pre\.failure\{([^}]*)\}", feedback.STYLE, re.MULTILINE)[1]


def test_figures_and_own_cells(graded):
    notebook, problem = graded
    notebook.cells[1].outputs = [nbformat.v4.new_output("display_data", data={"image/png": PIXEL, "text/plain": "<Figure>"})]
    typed = f"~~~text\n{'word ' * (feedback.LONGEST_OWN_TEXT // 5)}**b**\n~~~"
    notebook.cells += [cell("markdown", "~~~text\nmy *note*\n~~~"), cell("code", "1 + 1"), cell("markdown", typed)]
    page = soup(notebook, problem)
    assert (page.img["alt"], page.img["src"]) == ("figure that your cell drew", f"data:image/png;base64,{PIXEL}")
    labels = [label.get_text() for label in page.find_all(class_="label")]
    assert labels[-3:] == ["Your own text", "Your own code", "Your own text"]
    assert page.find("em", string="note")
    assert "**b**" in page.find_all("pre")[-1].get_text()  # longer than what is set


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme):
    assert contrast("000", "ffffff") == pytest.approx(21)
    light, dark = (dict(re.findall(r"--([a-z-]+):#([0-9a-f]+)", part)) for part in feedback.STYLE.split("prefers-color-scheme:dark"))
    assert light.keys() == dark.keys()
    colour = light if theme == "light" else dark
    pairs = [(text, ground) for text in ("text", "quiet", "link") for ground in ("page", "code")]
    pairs += [(token, "code") for token in ("comment", "keyword", "string", "number", "name")]
    pairs += [(f"{level}-text", level) for level in feedback.MARKS]
    ratios = {pair: contrast(colour[pair[0]], colour[pair[1]]) for pair in pairs}
    assert min(ratios.values()) >= 4.5, ratios
    lines = {level: contrast(colour[f"{level}-line"], colour["page"]) for level in feedback.MARKS}
    assert min(lines.values()) >= 3, lines  # WCAG's bound for what is not text


def test_points_and_notebook_must_be_of_the_set(graded):
    notebook, problem = graded
    with pytest.raises(ValueError, match="the points have q1-test, the notebook has q1-test, q2-test, q3-test"):
        feedback.page(notebook, problem, {"q1-test": 1.0}, {})
    del notebook.cells[2]
    with pytest.raises(ValueError, match=r"must have the test cells of ps01, q1-test, .* the notebook has q2-test, q3-test"):
        feedback.page(notebook, problem, POINTS, {})
