"""The page of feedback: points, a list of the questions, and the student's notebook with comments and messages.

The page is one file. It runs no script and asks nothing of the network: formulas are MathML, figures lie inside. Everything that a submission made is escaped:
of its own text cells Markdown and formulas are set, HTML appears as it was typed, pictures are left out, and links lead to http, https and mailto only.
"""

import contextlib
import html
import re
from collections.abc import Mapping
from typing import Any

import mistune
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import MathBlockParser, MathInlineParser
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from mathcore.assess.mathml import formula
from mathcore.assess.source import Source, grade_id, role

LONGEST_OWN_TEXT = 10_000
"""Of a submission's own text so much is set; the rest stays as it was typed, since a parser can be made slow by its text."""
UNTOUCHED = "No response."  # nbgrader's own comment on an answer cell that is as it was handed out
MARKS = {"full": "✓", "partial": "◐", "none": "✗"}

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1b1b;--quiet:#555;--link:#0b4f9e;--line:#c9c9c9;--code:#f5f5f3;
--full:#e2f3e5;--full-text:#14532d;--full-line:#1a7f37;--partial:#fff1d0;--partial-text:#6b4200;--partial-line:#b26a00;
--none:#fde8e8;--none-text:#8b1a1a;--none-line:#c62828;--comment:#5c5c5c;--keyword:#7a1fa2;--string:#0b6b2b;--number:#a13d00;--name:#0b4f9e}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--text:#e4e4e4;--quiet:#a9adb3;--link:#8ab8ff;--line:#474b52;--code:#1f2226;
--full:#12331e;--full-text:#b9f0c8;--full-line:#3fb95f;--partial:#3b2c08;--partial-text:#ffdf9e;--partial-line:#d99a2b;
--none:#401518;--none-text:#ffcaca;--none-line:#f06a6a;--comment:#a3a8ae;--keyword:#d7a6ff;--string:#8fdca4;--number:#ffb380;--name:#8ab8ff}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:1rem/1.55 system-ui,sans-serif;overflow-wrap:break-word}
main{max-width:52rem;margin:0 auto;padding:1rem}
h1{font-size:1.7rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.3rem;line-height:1.3;margin:2.5rem 0 .5rem}
h3,h4,h5,h6{font-size:1.05rem;margin:1.5rem 0 .5rem}
a{color:var(--link)}
.total{font-size:1.25rem;font-weight:600;margin:.25rem 0 1rem}
nav ul{list-style:none;margin:0;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(18rem,100%),1fr));gap:.4rem}
nav li,.bar{padding:.4rem .75rem;border-left:.3rem solid var(--line);border-radius:.2rem}
.full{background:var(--full);color:var(--full-text);border-color:var(--full-line)}
.partial{background:var(--partial);color:var(--partial-text);border-color:var(--partial-line)}
.none{background:var(--none);color:var(--none-text);border-color:var(--none-line)}
.bar{margin:1.5rem 0 .5rem;font-weight:600;display:flex;flex-wrap:wrap;gap:0 1rem;justify-content:space-between;scroll-margin-top:.5rem}
nav a,.bar a{color:inherit;font-weight:400}
.label{margin:1.25rem 0 .25rem;font-size:.875rem;color:var(--quiet)}
pre{margin:.5rem 0;padding:.6rem .75rem;font:.875rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-x:auto}
pre.code,.text pre{background:var(--code);border-radius:.2rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.9em}
.text code{background:var(--code);padding:.1em .25em;border-radius:.2rem}
pre.output,pre.failure{white-space:pre-wrap;overflow-wrap:anywhere}
pre.output{border-left:.3rem solid var(--line)}
pre.failure{background:var(--none);color:var(--none-text);border-left:.3rem solid var(--none-line)}
.comment{margin:.5rem 0;padding:.1rem .75rem;border:1px solid var(--link);border-left-width:.3rem;border-radius:.2rem}
img{display:block;max-width:100%;height:auto;margin:.5rem 0;background:#fff}
.text p,.text ol,.text ul,.formula{overflow-x:auto;overflow-y:hidden}
.text p,.text ol,.text ul{margin:.6rem 0;padding-block:.35rem}.formula{display:block;padding:.4rem 0}
math{font-family:"Cambria Math","STIX Two Math","Latin Modern Math","Libertinus Math","DejaVu Math TeX Gyre",math}
mtd[columnalign=right]{text-align:right;padding-right:0}mtd[columnalign=left]{text-align:left;padding-left:0}
.text table{display:block;overflow-x:auto;border-collapse:collapse}
.text td,.text th{border:1px solid var(--line);padding:.2rem .6rem}
.code [class^=c]{color:var(--comment);font-style:italic}
.code [class^=k],.code .ow{color:var(--keyword)}
.code [class^=s]{color:var(--string)}.code [class^=m]{color:var(--number)}
.code .nf,.code .nc,.code .nd{color:var(--name)}
@media print{pre{white-space:pre-wrap;overflow-wrap:anywhere}.bar a{display:none}}
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {total}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="total">{total}</p>
<nav id="questions" aria-label="Questions">
<ul>
{questions}
</ul>
</nav>
{cells}
</main>
</body>
</html>
"""


def page(notebook: Any, source: Source, points: Mapping[str, float], lacks: Mapping[str, str]) -> str:
    """Return the page of one student as HTML.

    Args:
        notebook: the graded notebook, hidden tests taken out; a comment in a cell's nbgrader metadata is shown below the cell.
        source: the set, which says what each question is worth. points: what the student got, by test cell.
        lacks: of the questions without points those that have no answer, and why, by test cell.

    Raises:
        ValueError: the points or the notebook have other test cells than the set.
    """
    tests = [grade_id(cell) for cell in notebook.cells if role(cell) == "test"]
    if points.keys() != source.points.keys() or tests != list(source.points):
        raise ValueError(
            f"points and notebook must have the test cells of {source.name}, {', '.join(source.points)}; "
            f"the points have {', '.join(points) or 'none'}, the notebook has {', '.join(tests) or 'none'}"
        )
    questions = {name: number for number, name in enumerate(source.points, start=1)}
    comments = _comments(notebook, questions)
    room, cells = LONGEST_OWN_TEXT, []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells.append(_code_cell(cell, source, points, questions))
        elif role(cell):
            cells.append(f'<div class="text">{markdown(cell.source.removeprefix(f"# {source.title}"))}</div>')
        else:
            text = _own_text(cell.source)
            room -= len(text)
            cells.append(_own_cell(text, as_typed=room < 0))
    said = {name: "with a comment" if comments.get(number) else "" for name, number in questions.items()}
    notes = {name: ", ".join(filter(None, [lacks.get(name), said[name]])) for name in questions}
    listed = [_listed(name, number, source, points, notes[name]) for name, number in questions.items()]
    total = f"{_plain(sum(points.values()))} of {_plain(sum(source.points.values()))} points"
    return PAGE.format(title=html.escape(source.title), total=total, style=STYLE, questions="\n".join(listed), cells="\n".join(cells))


def markdown(text: str) -> str:
    """Markdown as HTML: formulas as MathML, HTML in the text as it was typed, no pictures."""
    parser = mistune.Markdown(
        _Renderer(), MathBlockParser(), MathInlineParser(), [mistune.import_plugin(name) for name in ("strikethrough", "table")]
    )
    return str(parser(text))


class _Renderer(mistune.HTMLRenderer):
    """mistune's renderer with escaped HTML, narrowed: text of a stranger becomes part of our page."""

    def __init__(self) -> None:
        super().__init__(escape=True)

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return f"<h{max(2, level)}>{text}</h{max(2, level)}>\n"  # the page has one first heading, and no ids but its own

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f"[picture: {html.escape(text)}]"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if not re.match(r"(?:https?://|mailto:)", url, re.IGNORECASE):
            return text
        return f'<a href="{html.escape(url)}" rel="noopener noreferrer">{text}</a>'

    def block_code(self, code: str, info: str | None = None) -> str:
        return f"<pre>{html.escape(code)}</pre>\n"

    def inline_math(self, body: str) -> str:
        return _formula_or_text(body, f"${body}$", display=False)

    def block_math(self, body: str) -> str:
        return _formula_or_text(body, f"$${body}$$", display=True)

    def latex_environment(self, name: str, body: str) -> str:
        tex = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return _formula_or_text(tex, tex, display=True)


def _formula_or_text(tex: str, typed: str, display: bool) -> str:
    try:
        found = formula(tex, display)
    except ValueError:
        return f"<code>{html.escape(typed)}</code>"
    return f'<span class="formula">{found}</span>' if display else found


def _own_cell(text: str, as_typed: bool) -> str:
    shown = f'<pre class="output">{html.escape(text)}</pre>'
    if not as_typed:
        with contextlib.suppress(Exception):  # whatever a text does to the parser, the other students wait for their pages
            shown = f'<div class="text">{markdown(text)}</div>'
    return f'<p class="label">Your own text</p>\n{shown}'


def _own_text(text: str) -> str:
    """What a student typed into a text cell: grading has put a fence around it, see :func:`source.align`."""
    fenced = re.fullmatch(r"(~{3,})text\n(.*)\n\1", text, re.DOTALL)
    return fenced[2] if fenced else text


def _comments(notebook: Any, questions: Mapping[str, int]) -> dict[int, str]:
    """Comments on answers, by number of the question; an answer belongs to the next test."""
    found: dict[int, str] = {}
    waiting: list[str] = []
    for cell in notebook.cells:
        if role(cell) == "answer":
            waiting.append(_comment(cell))
        elif role(cell) == "test":
            found[questions[grade_id(cell)]] = " ".join(filter(None, waiting))
            waiting = []
    return found


def _comment(cell: Any) -> str:
    """The instructor's comment on an answer; nbgrader's own on an untouched one is none."""
    comment = str(cell.metadata.nbgrader.get("comment") or "")
    return "" if comment == UNTOUCHED else comment


def _level(got: float, worth: float) -> str:
    return "full" if got >= worth else "partial" if got > 0 else "none"


def _plain(value: float) -> str:
    return f"{round(value, 2):g}"


def _listed(name: str, number: int, source: Source, points: Mapping[str, float], note: str) -> str:
    level, score = _level(points[name], source.points[name]), f"{_plain(points[name])} of {_plain(source.points[name])}"
    link = f'<a href="#question-{number}">Question {number}: {score}</a>'
    return f'<li class="{level}"><span aria-hidden="true">{MARKS[level]}</span> {link}{", " if note else ""}{note}</li>'


def _code_cell(cell: Any, source: Source, points: Mapping[str, float], questions: Mapping[str, int]) -> str:
    """Bar, code, comment and outputs of a code cell; a failed test says why before it shows itself."""
    code = f'<pre class="code">{highlight(cell.source, PythonLexer(), HtmlFormatter(nowrap=True))}</pre>'
    outputs = "\n".join(map(_output, cell.get("outputs", [])))
    kind = role(cell)
    if kind == "test":
        name = grade_id(cell)
        level, number = _level(points[name], source.points[name]), questions[name]
        score = f"Question {number}: {_plain(points[name])} of {_plain(source.points[name])} points"
        bar = f'<span><span aria-hidden="true">{MARKS[level]}</span> {score}</span><a href="#questions">All questions</a>'
        return f'<div class="bar {level}" id="question-{number}">{bar}</div>\n{outputs}\n<p class="label">Public tests</p>\n{code}'
    if kind == "answer":
        comment = _comment(cell)
        label = "Your answer" + (", as it was handed out" if cell.metadata.nbgrader.get("comment") == UNTOUCHED else "")
        said = f'<div class="comment text"><p><strong>Comment</strong></p>{markdown(comment)}</div>' if comment else ""
        return f'<p class="label">{label}</p>\n{code}\n{said}\n{outputs}'
    own = "" if kind else '<p class="label">Your own code</p>\n'
    return f"{own}{code}\n{outputs}"


def _output(output: Any) -> str:
    if output.output_type == "error":
        return f'<pre class="failure">{html.escape(_message(output))}</pre>'
    if output.output_type == "stream":
        return f'<pre class="output">{html.escape(strip_ansi(output.text))}</pre>'
    if "image/png" in output.data:
        return f'<img alt="figure that your cell drew" src="data:image/png;base64,{html.escape(output.data["image/png"])}">'
    return f'<pre class="output">{html.escape(strip_ansi(output.data.get("text/plain", "")))}</pre>'


def _message(output: Any) -> str:
    """The message of an error and where it arose; a traceback repeats the message at its end, and here it stands first, once."""
    text = strip_ansi("\n".join(output.traceback)).strip()
    head = strip_ansi(f"{output.ename}: {output.evalue}").strip().removesuffix(":")
    rest = text.removeprefix(head).removesuffix(head).strip()
    return f"{head}\n\n{rest}" if rest else head
