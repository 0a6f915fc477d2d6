"""Grade submissions: the student's code in a process of its own, the tests in this one, and only plain values between them.

How. nbgrader's ``autograde`` drives the work and keeps the gradebook; its executor is replaced. The submission is first laid out on the source
(:func:`source.align`), which undoes every edit of a test or locked cell. Then, in the order of the notebook, the student's cells run in a process
(:mod:`mathcore.assess.sandbox`) that was given nothing but those cells; ``setup`` and ``variant`` cells run there and here; test cells run only here. Where a
test calls one of the student's functions, the arguments go over and plain values come back. The score is computed here, from those values.

What is defended (each is tried by a test): a submission cannot read the hidden tests, the truth, the key, the gradebook or another submission, since its
process holds none of them and the kernel (Landlock) refuses to open their files; it cannot change its grade by editing tests, points or metadata, by replacing
library functions, by inspecting frames, or by returning objects with an ``__eq__`` of their own, since no test and no comparison runs where its code runs; it
cannot stop the grading of its other questions or of other students by a loop, by filling memory, by exiting or by printing without end; it starts no program
and opens no TCP connection.

What is not defended. Work copied from a friend or written by a machine. Modules named as withheld cannot be imported or read, but whoever pastes their source has
the answer. A submission sees the arguments of every call it answers, those of hidden tests included, and can bring them into its own feedback, by a later cell or in
the message of an error; the truth is not among them. A process that starts many others slows the machine down until its time is up; they are killed with it as long as
they stay in its process group. UDP. Without Landlock (other systems, old kernels, before 5.13; TCP from 6.7, signals to other processes from 6.12) the protection of files
does not hold: grading refuses to start unless told ``confined=False``. Holes in the kernel, in Python and in its libraries are outside.
"""

import ast
import builtins
import contextlib
import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mathcore.assess import by_hand, confine, outputs
from mathcore.assess.release import Course, numbers, render_variants, using_nbgrader, with_variants
from mathcore.assess.sandbox import Limits, Submission
from mathcore.assess.source import Source, align, role
from mathcore.settings import settings

LARGEST_SUBMISSION = 20 << 20
ABSENT = "no submission"


@dataclass(frozen=True)
class Report:
    """What grading one submission gave.

    Attributes:
        points: by test cell. note: why a submission could not be graded (empty: it was). errors: what failed, by test cell.
        lacks: of the questions without points those that have no answer, and why, by test cell.
        by_hand: a line for each score given by hand that differs from what the tests say, or was dropped.
    """

    student: str
    points: dict[str, float]
    total: float
    note: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """Which questions have no answer, and why: ``not answered: q1, q2; answer cell missing: q5``."""
        why = {lack: [name.removesuffix("-test") for name in self.lacks if self.lacks[name] == lack] for lack in self.lacks.values()}
        return "; ".join(f"{lack}: {', '.join(names)}" for lack, names in why.items())

    @property
    def score(self) -> float:
        """Points in all."""
        return sum(self.points.values())


def grade(
    source: Source,
    course: Course,
    students: Iterable[str] | None = None,
    limits: Limits | None = None,
    confined: bool = True,
    roster: Iterable[str] = (),
) -> list[Report]:
    """Grade what lies in ``submitted/<student>/<set>/``, write ``grades/<set>.csv`` and the feedback pages; return one report per student.

    Args:
        source, course: the set must have been released in this course. students: whom to grade; everybody who submitted by default.
        limits: bounds for one submission. confined: see the module's text. roster: students who get a row of zeros if they submitted nothing, beside
            those whom the release gave numbers of their own; not where ``students`` are named.

    Raises:
        ValueError: nothing was released or submitted, or a confined process could read the course's secrets where they lie.
        RuntimeError: ``confined`` on a system without Landlock.
    """
    if not (course.instructor / "gradebook.db").is_file():
        raise ValueError(f"{source.name} was not released in {course.root}: release it there first")
    found = sorted(path.parent.name for path in (course.root / "submitted").glob(f"*/{source.name}") if path.is_dir())
    chosen = found if students is None else [student for student in students if student in found]
    if not chosen:
        raise ValueError(f"no submission in {course.root / 'submitted'}: expected submitted/<student>/{source.name}/{source.stem}.ipynb")
    for path in (source.path, course.instructor, course.root / "submitted") if confined else ():
        if confine.exposed(path, source.withheld):
            raise ValueError(f"{path} lies inside the Python installation, where every submission can read: move the course elsewhere")
    Submission(limits, confined=confined).__exit__()  # a system that cannot confine says so before the first student
    own = set(with_variants(source, course))
    reports = [_grade_one(source, course, student, student in own, limits or Limits(), confined) for student in _in_turn(chosen, source)]
    rows = _read_grades(source, course)
    judged = {student for student, row in rows.items() if row["note"] != ABSENT}  # before, from a submission that may lie elsewhere now
    absent = own.union(roster) - judged.union(found) if students is None else set()
    reports += [Report(student, dict.fromkeys(source.points, 0.0), sum(source.points.values()), ABSENT) for student in sorted(absent)]
    _write_grades(source, course, rows, reports)
    return reports


def _in_turn(students: Sequence[str], source: Source) -> Iterator[str]:
    """The students one after another, with a line on the terminal that says who is graded."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, disable=not settings.progress) as shown:
        task = shown.add_task(source.name, total=len(students))
        for student in students:
            shown.update(task, description=f"grading {source.name} of {student}")
            yield student
            shown.advance(task)


def _grade_one(source: Source, course: Course, student: str, own: bool, limits: Limits, confined: bool) -> Report:
    from nbgrader.converters import Autograde

    path = course.root / "submitted" / student / source.name / f"{source.stem}.ipynb"
    copy = course.instructor / "autograded" / student / source.name / path.name
    before = copy.read_text(encoding="utf-8") if copy.is_file() else ""
    values = numbers(source, course.key, student) if own else None
    grader = Grader(source, values, limits, confined, released_answers(source, course))
    problem, changed = _unreadable(path), list[str]()
    if not problem:
        log = io.StringIO()
        autograde = Autograde(coursedir=course.open(source, student), config=course.config(source, student))
        autograde.log = _logger(log)
        autograde.force = True
        autograde.sanitize_preprocessors = [grader.lay_out, *_steps("ClearOutput", "OverwriteKernelspec", "CheckCellMetadata")]
        autograde.autograde_preprocessors = [grader.execute, *_steps("LimitOutput", "SaveAutoGrades", "CheckCellMetadata")]
        try:
            with using_nbgrader():
                autograde.start()
            changed = by_hand.settle(source, course, student, _notebook(before), _notebook(copy.read_text(encoding="utf-8")))
        except Exception as error:  # one submission must not stop the others
            if before:  # what scores by hand were given for; nbgrader has removed it
                copy.write_text(before, encoding="utf-8")
            problem = f"could not be graded ({type(error).__name__}): {log.getvalue()[-2000:]}"
    if problem:
        return Report(student, dict.fromkeys(source.points, 0.0), sum(source.points.values()), problem)
    points = _points(source, course, student)
    lacks = {name: why for name, why in grader.lacks.items() if not points[name]}
    _feedback(source, course, student, points, lacks)
    return Report(student, points, sum(source.points.values()), "", grader.errors, changed, lacks)


def _notebook(text: str) -> Any:
    """The notebook, or nothing where there is no text."""
    import nbformat

    return nbformat.reads(text, as_version=4) if text else None


def released_answers(source: Source, course: Course) -> dict[str, str]:
    """Checksums of the answer cells as they were handed out, by the id of the cell; empty where the release is gone."""
    import nbformat

    path = course.root / "release" / source.name / f"{source.stem}.ipynb"
    if not path.is_file():
        return {}
    cells = nbformat.read(path, as_version=4).cells
    return {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.get("checksum", "") for cell in cells if role(cell) == "answer"}


def _unreadable(path: Path) -> str:
    import nbformat

    if not path.is_file():
        return f"there is no notebook {path.name}: was it renamed?"
    if path.stat().st_size > LARGEST_SUBMISSION:
        return f"the notebook has {path.stat().st_size >> 20} MiB, more than {LARGEST_SUBMISSION >> 20}"
    try:
        with using_nbgrader():
            nbformat.validate(nbformat.read(path, as_version=4))
    except Exception as error:  # nbformat raises whatever JSON, jsonschema and itself raise
        return f"the file is not a notebook ({type(error).__name__})"
    return ""


def _steps(*names: str) -> list[Any]:
    from nbgrader import preprocessors

    return [getattr(preprocessors, name) for name in names]


def _logger(stream: io.StringIO) -> logging.Logger:
    logger = logging.Logger("grading", logging.WARNING)
    logger.addHandler(logging.StreamHandler(stream))
    return logger


class Grader:
    """The two steps of ours in nbgrader's ``autograde``, for one student.

    Attributes:
        errors: what failed, by test cell: name of the error and message. lacks: of these, what has no answer, and why.
    """

    def __init__(
        self, source: Source, values: dict[str, Any] | None, limits: Limits, confined: bool, released: dict[str, str] | None = None
    ) -> None:
        self._source, self._values, self._limits, self._confined = source, values, limits, confined
        self._released = released or {}
        self.errors: dict[str, str] = {}
        self.lacks: dict[str, str] = {}

    def lay_out(self, notebook: Any, resources: Any) -> tuple[Any, Any]:
        """Put the student's answers into the source, with the student's own numbers."""
        from nbgrader.preprocessors import ComputeChecksums

        laid = render_variants(align(notebook, self._source), self._values)
        laid, resources = ComputeChecksums().preprocess(laid, resources)
        for cell in laid.cells:  # nbgrader takes an answer for untouched where it has the checksum that was handed out
            if role(cell) == "answer":
                cell.metadata.nbgrader.checksum = self._released.get(cell.metadata.nbgrader.grade_id, "")
        return laid, resources

    def execute(self, notebook: Any, resources: Any) -> tuple[Any, Any]:
        """Run the notebook: student's cells there, tests here."""
        trusted: dict[str, Any] = {"__name__": "__grader__", "__builtins__": builtins}
        answers: list[Any] = []  # to the question of the next test
        with Submission(self._limits, self._source.withheld, self._confined) as submission:
            for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
                cell.execution_count = number
                kind = role(cell)
                if kind == "test":
                    cell.outputs, answers = self._test(cell, answers, trusted, submission), []
                    continue
                if kind in ("setup", "variant"):
                    exec(compile(cell.source, f"<{kind}>", "exec"), trusted)
                cell.outputs = outputs.of_cell(submission.run(cell.source))
                answers += [cell] if kind == "answer" else []
        return notebook, resources

    def _test(self, cell: Any, answers: list[Any], trusted: dict[str, Any], submission: Submission) -> list[Any]:
        """Run a test cell here, with the student's names bound to what stands for them."""
        name = cell.metadata.nbgrader.grade_id
        wanted = _free_names(cell.source) - trusted.keys() - set(dir(builtins))
        try:
            with submission.budget(self._limits.test_seconds), contextlib.redirect_stdout(io.StringIO()):
                scope = {**trusted, **submission.names(sorted(wanted))}
                exec(compile(cell.source, f"<{name}>", "exec"), scope)
        except Exception as error:
            lack, cause = outputs.lacking(answers, error)
            self.lacks |= {name: lack} if lack else {}
            self.errors[name] = outputs.said(cause)
            return outputs.of_failure(cause)
        return []


def _free_names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _points(source: Source, course: Course, student: str) -> dict[str, float]:
    from nbgrader.api import Gradebook

    with using_nbgrader(), Gradebook(course.database) as book:
        notebook = book.find_submission_notebook(source.stem, source.name, student)
        scores = {grade.name: float(grade.score or 0.0) for grade in notebook.grades}
    return {name: scores.get(name, 0.0) for name in source.points}


def _feedback(source: Source, course: Course, student: str, points: dict[str, float], lacks: dict[str, str]) -> None:
    """Write the feedback page: the student's notebook with points and messages, the hidden tests taken out again."""
    import nbformat
    from nbgrader.preprocessors import ClearHiddenTests, GetGrades

    from mathcore.assess import feedback

    place = Path(student) / source.name
    graded: Any = nbformat.read(course.instructor / "autograded" / place / f"{source.stem}.ipynb", as_version=4)
    resources = {"nbgrader": {"notebook": source.stem, "assignment": source.name, "student": student, "db_url": course.database}}
    for cell in graded.cells:
        if role(cell) == "test":  # not where a student may write: a marker without its end would stop it
            ClearHiddenTests().preprocess_cell(cell, resources, 0)
    with using_nbgrader():
        GetGrades().preprocess(graded, resources)  # and the comments
    path = course.root / "feedback" / place / f"{source.stem}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(feedback.page(graded, source, points, lacks), encoding="utf-8")


def _read_grades(source: Source, course: Course) -> dict[str, dict[str, Any]]:
    """The rows of ``grades/<set>.csv`` by student, with the columns that the set has now."""
    path = course.root / "grades" / f"{source.name}.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["student"]: {k: row.get(k, "") for k in _columns(source)} for row in csv.DictReader(file)}


def _columns(source: Source) -> list[str]:
    return ["student", "score", "total", *source.points, "note"]


def _write_grades(source: Source, course: Course, rows: dict[str, dict[str, Any]], reports: list[Report]) -> None:
    """Write ``grades/<set>.csv``: ``rows`` that were there, and the reports, which take the place of a student's row."""
    new = {r.student: {"student": r.student, "score": r.score, "total": r.total, **r.points, "note": r.note or r.remark} for r in reports}
    path = course.root / "grades" / f"{source.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns(source))
        writer.writeheader()
        writer.writerows(row for _, row in sorted((rows | new).items()))
