"""The single source of a problem set: one notebook in nbgrader's terms, and the rules it keeps.

Every cell carries nbgrader metadata with an id. What a cell is follows from it:

===========  ===============================================================================================================================
text         Markdown, locked
setup        code, locked, tag ``setup``: imports and symbols; runs beside the student's code and beside the tests
variant      code, locked, tag ``variant``: each student's own numbers (:mod:`mathcore.assess.variants`); runs on both sides too
show         code, locked, no tag: a figure from the student's answers; runs beside the student's code only
answer       code, ``solution``: functions whose bodies stand between ``### BEGIN SOLUTION`` and ``### END SOLUTION``
test         code, ``grade`` with ``points``: public tests, then ``### BEGIN HIDDEN TESTS`` to ``### END HIDDEN TESTS``
===========  ===============================================================================================================================
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathcore._validate import one_of
from mathcore.assess import variants

STUB = 'raise NotImplementedError("Write your answer here and remove this line.")'
MISSING = "# This cell was missing from the submission."
MARKERS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


@dataclass(frozen=True)
class Source:
    """A problem set: its name, its notebook file, and what the notebook's metadata say."""

    path: Path
    notebook: Any

    @property
    def name(self) -> str:
        """Short name, ``ps09``."""
        return self.path.stem.split("-")[0]

    @property
    def stem(self) -> str:
        """Name of the notebook without its ending, ``ps09-solvers``."""
        return self.path.stem

    @property
    def title(self) -> str:
        """First heading."""
        return next(m[1] for c in self.notebook.cells if c.cell_type == "markdown" and (m := re.search(r"^# (.+)$", c.source, re.M)))

    @property
    def withheld(self) -> tuple[str, ...]:
        """Modules that a submission may not import, since they hold the answers."""
        return tuple(self.notebook.metadata.get("mathcore", {}).get("withheld", ()))

    @property
    def points(self) -> dict[str, float]:
        """Points of each test cell by id, in order."""
        return {grade_id(cell): float(cell.metadata.nbgrader.points) for cell in self.notebook.cells if role(cell) == "test"}


def role(cell: Any) -> str:
    """What a cell is, see above; ``""`` for a cell that is not of the source (a student's own)."""
    settings = cell.metadata.get("nbgrader", {})
    if not settings.get("grade_id"):
        return ""
    if settings.get("grade"):
        return "test"
    if settings.get("solution"):
        return "answer"
    if cell.cell_type != "code":
        return "text"
    tags = cell.metadata.get("tags", [])
    return "setup" if "setup" in tags else "variant" if "variant" in tags else "show"


def grade_id(cell: Any) -> str:
    """The id that nbgrader knows the cell by."""
    return str(cell.metadata.nbgrader.grade_id)


def load(path: Path) -> Source:
    """Read a source and check that it keeps the rules.

    Raises:
        ValueError: it does not; the message names the cell.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    seen: set[str] = set()
    roles = []
    for number, cell in enumerate(notebook.cells, start=1):
        here = f"{path.name}, cell {number}"
        if not role(cell):
            raise ValueError(f"{here} has no nbgrader id: every cell of a source is text, setup, variant, show, answer or test")
        if grade_id(cell) in seen:
            raise ValueError(f"{here}: the id {grade_id(cell)!r} is used twice")
        seen.add(grade_id(cell))
        roles.append(role(cell))
        _check_cell(cell, f"{here} ({grade_id(cell)})")
    if "test" not in roles or roles.count("answer") == 0:
        raise ValueError(f"{path.name} needs at least one answer cell and one test cell")
    return Source(path, notebook)


def _check_cell(cell: Any, here: str) -> None:
    if cell.get("outputs"):
        raise ValueError(f"{here} has outputs: clear them")
    text, kind = cell.source, role(cell)
    wanted = {"answer": MARKERS[:2], "test": MARKERS[2:]}.get(kind, ())
    for marker in MARKERS:
        if (marker in text) != (marker in wanted):
            raise ValueError(f"{here} is a {kind} cell and must {'' if marker in wanted else 'not '}hold ### {marker}")
    if cell.cell_type == "code":
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise ValueError(f"{here} is not plain Python: {error}") from None
    if kind == "test" and not float(cell.metadata.nbgrader.get("points", 0)) > 0:
        raise ValueError(f"{here} must have points above 0")
    if kind == "variant" and not variants.laws(text):
        raise ValueError(f"{here} is a variant cell without a line NAME = default  #: law(...)")


def find_sets(folder: Path) -> dict[str, Path]:
    """Sources in ``folder``: ``{"ps09": .../ps09-solvers/ps09-solvers.ipynb}``, in order."""
    return {path.stem.split("-")[0]: path for path in sorted(folder.glob("ps*/ps*.ipynb")) if path.parent.name == path.stem}


def get_set(folder: Path, name: str) -> Source:
    """The set called ``name``.

    Raises:
        ValueError: no such set, or its source breaks the rules.
    """
    found = find_sets(folder)
    return load(found[one_of(name, found, "the problem set")])


def align(submitted: Any, source: Source) -> Any:
    """The submission as it is graded: the source's cells, each answer replaced by the student's, and the student's own cells where they put them.

    Whatever the student did to a test, to a locked cell, or to the metadata of any cell is undone by this.
    """
    import copy

    answers: dict[str, Any] = {}
    own: dict[str, list[Any]] = {}
    known = {grade_id(cell): role(cell) for cell in source.notebook.cells}
    last = ""
    for cell in submitted.cells:
        name = str(cell.metadata.get("nbgrader", {}).get("grade_id") or "")
        if name in known and name not in own:
            last = name
            own[name] = []
            if known[name] == "answer":
                answers[name] = cell.source
        else:
            own.setdefault(last, []).append(_stripped(cell))
    notebook = copy.deepcopy(source.notebook)
    cells = list(own.get("", []))
    for cell in notebook.cells:
        if role(cell) == "answer":
            cell.source = answers.get(grade_id(cell), MISSING)
        cells += [cell, *own.get(grade_id(cell), [])]
    notebook.cells = cells
    return notebook


def _stripped(cell: Any) -> Any:
    """A student's own cell, as code or text of our making. Text is shown as it was typed: rendered, it could hold a script for the instructor's browser."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    text = str(cell.source)
    if cell.cell_type == "code":
        return new_code_cell(text)
    fence = "~" * max(3, 1 + max((len(run) for run in re.findall("~+", text)), default=0))
    return new_markdown_cell(f"{fence}text\n{text}\n{fence}")
