"""The page of a problem set in the book: its questions and public tests as a reader sees them, and the notebook to download."""

import re
from pathlib import Path

from mathcore.assess.release import student_version
from mathcore.assess.source import Source, grade_id, role


def page(source: Source) -> str:
    """The hand-out as MyST text. Nothing of it is executed; the notebook it offers lies beside it."""
    parts: list[str] = []
    for cell in student_version(source).cells:
        kind = role(cell)
        if kind == "text":
            text = _for_the_book(cell.source)
            parts.append(text if parts else _with_facts(text, source))
        elif kind == "answer":
            parts.append(_code(cell.source))
        else:
            parts.append(f":::{{dropdown}} {_title(source, kind, grade_id(cell))}\n{_code(cell.source)}\n:::")
    return "\n\n".join(parts) + "\n"


def _title(source: Source, kind: str, name: str) -> str:
    """What a folded cell is called, from its kind and its id."""
    if kind == "test":
        question = name.removeprefix("q").removesuffix("-test")
        return f"Public test of question {question} ({source.points[name]:g} points with the hidden tests)"
    named = {"imports": "Given: imports and symbols", "problem": "Given: the objects of the questions"}
    return {"variant": "The numbers of the shared version", "show": "The figure"}.get(
        kind, named.get(name, f"Given: {name.replace('-', '_')}")
    )


def _for_the_book(text: str) -> str:
    """A cell's text as a page: names of notebooks become links, a heading is not broken before "points"."""
    return re.sub(r"`((?:ch\d\d|app)-[a-z0-9-]+)`", r"{doc}`/notebooks/\1`", re.sub(r"\((\d+) points\)", "(\\1\u00a0points)", text))


def _with_facts(text: str, source: Source) -> str:
    """The first cell, and under its title what one wants to know before starting."""
    title, _, rest = text.partition("\n")
    settings = source.notebook.metadata.get("mathcore", {})
    facts = [f"{len(source.points)} questions, {sum(source.points.values()):g} points"]
    facts += [f"about {settings['hours']:g} hours"] if "hours" in settings else []
    chapter = f"; they go with {{doc}}`chapter {settings['chapter']} </book/ch{settings['chapter']:02d}>`" if "chapter" in settings else ""
    link = f"{{download}}`{source.stem}.ipynb <downloads/{source.stem}.ipynb>`"
    note = (
        f"{', '.join(facts)}{chapter}. Work in the notebook: {link}. In a course, take the copy your instructor gives you instead: its numbers are yours "
        "alone. {doc}`/book/problem-sets` says how to work on it."
    )
    return f"{title}\n\n:::{{admonition}} The notebook\n:class: note handout\n{note}\n:::\n{rest}"


def _code(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}python\n{text}\n{fence}"


def write(source: Source, folder: Path) -> list[Path]:
    """Write ``<stem>.md`` and ``downloads/<stem>.ipynb`` to ``folder`` where they changed; return both."""
    import nbformat

    downloads = folder / "downloads"  # apart, since Sphinx takes a page and a notebook of one name for one document
    downloads.mkdir(parents=True, exist_ok=True)
    made = {folder / f"{source.stem}.md": page(source), downloads / f"{source.stem}.ipynb": nbformat.writes(student_version(source)) + "\n"}
    for path, text in made.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not built again
            path.write_text(text, encoding="utf-8")
    return list(made)
