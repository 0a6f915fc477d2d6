"""From one source to a student release, an instructor's archive and a page of the book, by nbgrader's own preprocessors.

A course is a folder:

    release/<set>/                 the notebook for everybody        release/<student>/<set>/     one student's own, where there is a roster
    submitted/<student>/<set>/     what came back                    feedback/<student>/<set>/    what goes back
    grades/<set>.csv               scores                            instructor/                  key, gradebook, solutions: never hand this out
"""

import copy
import json
import os
import sysconfig
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathcore.assess import variants
from mathcore.assess.source import STUB, Source, role

NBGRADER_CONFIG = '''"""Points nbgrader's own tools, started in this folder, at this course."""

from pathlib import Path

c = get_config()  # noqa: F821
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.db_url = f"sqlite:///{Path(__file__).resolve().parent / 'instructor' / 'gradebook.db'}"
c.CourseDirectory.source_directory = "instructor/source"
c.CourseDirectory.autograded_directory = "instructor/autograded"
# nbgrader's own Autograde would run submissions unconfined, and its Generate Feedback would publish hidden tests: the first finds nothing to run, the
# second writes where no student looks. Grade with python -m mathcore.assess grade.
c.CourseDirectory.submitted_directory = "instructor/nothing-for-nbgrader-to-run"
c.CourseDirectory.feedback_directory = "instructor/feedback-with-hidden-tests"
'''


@dataclass(frozen=True)
class Course:
    """The folder of a course."""

    root: Path

    @property
    def instructor(self) -> Path:
        """What students must not see."""
        return self.root / "instructor"

    @property
    def key(self) -> bytes:
        """The secret from which variants are drawn, made on first use."""
        return variants.read_key(self.instructor / "key")

    @property
    def database(self) -> str:
        """Address of nbgrader's gradebook."""
        return f"sqlite:///{self.instructor / 'gradebook.db'}"

    def config(self, source: Source, student: str = "*") -> Any:
        """nbgrader's configuration for one set."""
        from traitlets.config import Config

        config = Config()
        config.CourseDirectory.root = str(self.root)
        config.CourseDirectory.db_url = self.database
        config.CourseDirectory.source_directory = "instructor/source"
        config.CourseDirectory.autograded_directory = "instructor/autograded"
        config.CourseDirectory.assignment_id = source.name
        config.CourseDirectory.notebook_id = source.stem
        config.CourseDirectory.student_id = student
        config.ClearSolutions.code_stub = {"python": STUB}
        return config

    def open(self, source: Source, student: str = "*") -> Any:
        """nbgrader's ``CourseDirectory``."""
        from nbgrader.coursedir import CourseDirectory

        return CourseDirectory(config=self.config(source, student))


def render_variants(notebook: Any, values: dict[str, Any] | None = None) -> Any:
    """Write the numbers, or the defaults, into the variant cells as literals; change the notebook in place and return it."""
    from nbgrader.utils import compute_checksum

    for cell in notebook.cells:
        if role(cell) == "variant":
            cell.source = variants.render(cell.source, values)
            cell.metadata.nbgrader["checksum"] = compute_checksum(cell)
    return notebook


def numbers(source: Source, key: bytes, student: str) -> dict[str, Any]:
    """All numbers of one student in a set."""
    cells = [cell.source for cell in source.notebook.cells if role(cell) == "variant"]
    return {name: value for text in cells for name, value in variants.draw(text, key, student, source.name).items()}


def student_version(source: Source) -> Any:
    """The release as a notebook in memory: no solution, no hidden test, no law of a variant; nothing is written."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions, LockCells

    notebook, resources = copy.deepcopy(source.notebook), dict[str, Any]()
    for step in (LockCells(), ClearSolutions(code_stub={"python": STUB}), ClearOutput(), ClearHiddenTests()):
        notebook, resources = step.preprocess(notebook, resources)
    return render_variants(notebook)


def release(source: Source, course: Course, students: dict[str, dict[str, str]] | None = None) -> list[Path]:
    """Write the release of a set, register it in the gradebook, and pack the instructor's archive; return the notebooks for students.

    With ``students`` (:func:`variants.read_roster`) each gets a copy with numbers of their own.

    The names are remembered, so that grading knows whose numbers are whose; a later call with a longer roster leaves the others' numbers as they are.

    Raises:
        RuntimeError: nbgrader refused; the message says why.
    """
    import nbformat

    (course.root / "release").mkdir(parents=True, exist_ok=True)
    (course.root / "nbgrader_config.py").write_text(NBGRADER_CONFIG, encoding="utf-8")
    kept = course.instructor / "source" / source.name
    kept.mkdir(parents=True, exist_ok=True)
    nbformat.write(source.notebook, kept / f"{source.stem}.ipynb")
    _generate(source, course)
    common = course.root / "release" / source.name / f"{source.stem}.ipynb"
    written = [common]
    if students:
        key = course.key
        for student, details in students.items():
            notebook = render_variants(_with_laws(nbformat.read(common, as_version=4), source), numbers(source, key, student))
            path = course.root / "release" / student / source.name / f"{source.stem}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
            written.append(path)
            _register(course, student, details)
        remembered = sorted({*with_variants(source, course), *students})
        (course.instructor / f"{source.name}-students.json").write_text(json.dumps(remembered), encoding="utf-8")
    _archive(source, course)
    return written


def with_variants(source: Source, course: Course) -> list[str]:
    """The students who were given numbers of their own in a set."""
    path = course.instructor / f"{source.name}-students.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _with_laws(notebook: Any, source: Source) -> Any:
    laws = {cell.metadata.nbgrader.grade_id: cell.source for cell in source.notebook.cells if role(cell) == "variant"}
    for cell in notebook.cells:
        if role(cell) == "variant":
            cell.source = laws[cell.metadata.nbgrader.grade_id]
    return notebook


def _generate(source: Source, course: Course) -> None:
    """Run nbgrader's ``generate_assignment`` with its database, and the variants rendered after the cells were saved."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.preprocessors import (
        CheckCellMetadata,
        ClearHiddenTests,
        ClearOutput,
        ClearSolutions,
        ComputeChecksums,
        LockCells,
        SaveCells,
    )

    def render(notebook: Any, resources: Any) -> tuple[Any, Any]:
        return render_variants(notebook), resources

    steps = [LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums, SaveCells, ClearHiddenTests, ComputeChecksums]
    maker = GenerateAssignment(coursedir=course.open(source), config=course.config(source))
    maker.preprocessors = [*steps, render, CheckCellMetadata]
    maker.force = True
    try:
        with using_nbgrader():
            maker.start()
    except NbGraderException as error:
        raise RuntimeError(f"nbgrader could not release {source.name}: {error}") from None


@contextmanager
def using_nbgrader() -> Iterator[None]:
    """Let nbgrader find the program ``alembic``, which it calls by name, where no environment is activated; keep its libraries' warnings off the screen."""
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["PATH"] = path


def _register(course: Course, student: str, details: dict[str, str]) -> None:
    from nbgrader.api import Gradebook

    with using_nbgrader(), Gradebook(course.database) as book:
        book.update_or_create_student(student, **details)


def _archive(source: Source, course: Course) -> None:
    """Pack what is needed to grade elsewhere: source with solutions, key, gradebook."""
    with zipfile.ZipFile(course.instructor / f"{source.stem}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(course.instructor.iterdir()):
            if path.name in ("key", "gradebook.db", f"{source.name}-students.json"):
                archive.write(path, f"instructor/{path.name}")
        archive.write(
            course.instructor / "source" / source.name / f"{source.stem}.ipynb", f"instructor/source/{source.name}/{source.stem}.ipynb"
        )
