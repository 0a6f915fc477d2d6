"""The page of a problem set in the book: its questions and public tests as a reader sees them, and the notebook to download."""

import re
from pathlib import Path

from mathcore.assess.release import student_version
from mathcore.assess.source import Source, role


def page(source: Source) -> str:
    """The hand-out as MyST text. Nothing of it is executed; the notebook it offers lies beside it."""
    points = source.points
    hours = source.notebook.metadata.get("mathcore", {}).get("hours")
    parts: list[str] = []
    for cell in student_version(source).cells:
        kind = role(cell)
        if kind == "text":
            parts.append(cell.source if parts else _with_facts(cell.source, source, sum(points.values()), hours))
        elif kind == "answer":
            parts.append(_code(cell.source))
        else:
            title = {
                "test": f"Public test, {points.get(cell.metadata.nbgrader.grade_id, 0):g} points with the hidden ones",
                "variant": "The numbers of the shared version",
                "show": "The figure",
            }
            parts.append(f":::{{dropdown}} {title.get(kind, 'Given')}\n{_code(cell.source)}\n:::")
    return "\n\n".join(parts) + "\n"


def _with_facts(text: str, source: Source, points: float, hours: float | None) -> str:
    """The first cell, and under its title what one wants to know before starting."""
    title, rest = text.split("\n", 1)
    facts = f"{len(source.points)} questions, {points:g} points" + (f", about {hours:g} hours" if hours else "")
    link = f"{{download}}`{source.stem}.ipynb <downloads/{source.stem}.ipynb>`"
    note = (
        f"{facts}. Work in the notebook: {link}. In a course, take the copy your instructor gives you instead: its numbers are yours alone."
    )
    return f"{title}\n\n:::{{note}}\n{note}\n:::\n{rest}"


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
