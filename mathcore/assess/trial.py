"""Try a set before it is handed out: do its own solutions get all points?"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from mathcore.assess.grading import Report, grade
from mathcore.assess.release import Course, release
from mathcore.assess.sandbox import Limits
from mathcore.assess.source import Source


def try_solutions(source: Source, limits: Limits | None = None, confined: bool = True) -> Report:
    """Release a set in a temporary course, hand in the source's own solutions and grade them there; the numbers are those of the shared release.

    Raises:
        ValueError, RuntimeError: as :func:`mathcore.assess.grading.grade`.
    """
    with TemporaryDirectory() as folder:
        course = Course(Path(folder).resolve())
        release(source, course)
        path = course.root / "submitted" / "solution" / source.name / f"{source.stem}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(source.notebook, path)
        return grade(source, course, limits=limits, confined=confined)[0]


def outdated(source: Source, course: Course) -> bool:
    """Whether the set was released in ``course`` from another version of the source than this."""
    path = course.instructor / "source" / source.name / f"{source.stem}.ipynb"
    if not path.is_file():
        return False
    released = nbformat.read(path, as_version=4)
    return [(cell.id, cell.source) for cell in released.cells] != [(cell.id, cell.source) for cell in source.notebook.cells]
