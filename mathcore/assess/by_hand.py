"""Scores that an instructor gave by hand in nbgrader's formgrader: kept as long as the student's answer is the one they were given for."""

import symtable
from typing import Any

from mathcore.assess.release import Course, using_nbgrader
from mathcore.assess.source import Source, grade_id, role


def settle(source: Source, course: Course, student: str, before: Any, after: Any) -> list[str]:
    """Drop the scores by hand of the questions whose answer has changed from notebook ``before`` to ``after``; return a line for each of interest.

    Both are graded copies of one student's submission; ``before`` is what the instructor saw, ``None`` if it is gone. Then nothing is dropped.
    """
    from nbgrader.api import Gradebook

    lines = {}
    with using_nbgrader(), Gradebook(course.database) as book:
        for grade in book.find_submission_notebook(source.stem, source.name, student).grades:
            given, tests = grade.manual_score, grade.auto_score or 0.0
            if given is None:
                continue
            line = f"{given:g} by hand, the tests say {tests:g}"
            if before is None:
                line += " (whether the answer changed since is not known: the copy that you saw is gone)"
            elif answer(before, grade.name) != answer(after, grade.name):
                grade.manual_score, grade.needs_manual_grade = None, False
                line = f"{given:g} by hand dropped, since the answer has changed; the tests say {tests:g}"
            elif given == tests:
                continue
            lines[grade.name] = f"{grade.name.removesuffix('-test')}: {line}"
        book.db.commit()
    return [lines[name] for name in source.points if name in lines]


def answer(notebook: Any, test: str) -> list[str]:
    """The student's code that the test cell ``test`` depends on: the cells that bind a name it uses, and those that bind a name which they use.

    A cell that does not parse may bind anything and belongs to every answer. A cell that only imports belongs to none.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    bound, wanted = _names(next(cell.source for cell in code if role(cell) == "test" and grade_id(cell) == test)) or (set(), set())
    wanted -= bound
    cells = [(cell.source, _names(cell.source)) for cell in code if role(cell) in ("answer", "")]
    reached = {k for k, (_, names) in enumerate(cells) if names is None}
    while new := {k for k, (_, names) in enumerate(cells) if k not in reached and names and names[0] & wanted}:
        reached |= new
        wanted = wanted.union(*(names[1] for k, (_, names) in enumerate(cells) if k in new and names))
    return [cells[k][0] for k in sorted(reached)]


def _names(text: str) -> tuple[set[str], set[str]] | None:
    """The names that a cell binds at its top, and those that it uses from there; nothing if it is no Python."""
    try:
        top = symtable.symtable(text, "<cell>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_namespace()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    tables = top.get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        bound |= {s.get_name() for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()}
    return bound, used
