"""A problem set in a course of its own: released, handed in with the solutions, untouched and with mistakes, and graded once."""

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mathcore.assess import grading, release, source
from mathcore.assess.sandbox import Limits

SETS = Path(__file__).resolve().parents[1] / "notebooks" / "problem_sets"
KEY = "5e" * 32
LIMITS = Limits(cell_seconds=4, test_seconds=12, memory=3 << 30, patience=30)  # of a busy machine


def pin_key(course: release.Course) -> None:
    """Give the course a key that is no secret: every run of the tests then grades the same numbers."""
    course.instructor.mkdir(parents=True)
    (course.instructor / "key").write_text(KEY + "\n", encoding="ascii")


GRADE = """import dataclasses, json, sys
from pathlib import Path
from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits
problem, limits = source.get_set(Path(sys.argv[1]), sys.argv[2]), Limits(**json.loads(sys.argv[4]))
reports = grading.grade(problem, release.Course(Path(sys.argv[3])), limits=limits, confined=bool(confine.landlock_version()))
print(json.dumps([dataclasses.asdict(report) for report in reports]))"""


def graded_apart(course: release.Course, name: str, limits: Limits = LIMITS) -> dict[str, grading.Report]:
    """``{student: report}``, graded in a process without the type checker of the tests, which makes thousands of oracle calls ten times as slow."""
    words = [SETS, name, course.root, json.dumps(dataclasses.asdict(limits))]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:invalid escape sequence", "-c", GRADE, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return {report["student"]: grading.Report(**report) for report in json.loads(run.stdout)}


class GradedSet:
    """The tests of one set. ``mistakes``: name -> (question, what is replaced in the solution, by what, what the message must say)."""

    name: str
    points: dict[str, int]
    mistakes: dict[str, tuple[str, str, str, str]]
    students: dict[str, list[str]]

    @pytest.fixture(scope="class")
    @classmethod
    def reports(cls, tmp_path_factory) -> dict[str, Any]:
        """``{student: report}`` of a course graded once."""
        return cls().grade(tmp_path_factory.mktemp("course"))

    def grade(self, folder: Path) -> dict[str, Any]:
        """Return the report of each student, of ``good``, who hands in the solutions, and of ``untouched``."""
        problem, course = source.get_set(SETS, self.name), release.Course(folder)
        pin_key(course)
        everybody = {"good": [], "untouched": None, **self.students}
        release.release(problem, course, {student: {"first_name": student.title()} for student in everybody})
        for student, names in everybody.items():
            place = course.root / "submitted" / student / self.name
            place.mkdir(parents=True)
            mine = nbformat.read(course.root / "release" / student / self.name / f"{problem.stem}.ipynb", as_version=4)
            nbformat.write(mine if names is None else self._solved(problem, mine, names), place / f"{problem.stem}.ipynb")
        return graded_apart(course, self.name)

    def _solved(self, problem: Any, released: Any, names: list[str]) -> Any:
        notebook, by_id = copy.deepcopy(released), {cell.id: cell.source for cell in problem.notebook.cells}
        answers = {cell.id: cell for cell in notebook.cells if source.role(cell) == "answer"}
        for name, cell in answers.items():
            cell.source = by_id[name]
        for question, old, new, _ in (self.mistakes[name] for name in names):
            answer = answers[f"{question}-answer"]
            assert old in answer.source, old
            answer.source = answer.source.replace(old, new)
        return notebook

    def test_the_solutions_score_everything(self, reports):
        assert reports["good"].errors == {}
        assert reports["good"].points == {f"{q}-test": p for q, p in self.points.items()}
        assert (reports["good"].score, reports["good"].total) == (100, 100)

    def test_an_untouched_release_scores_nothing_and_says_what_is_missing(self, reports):
        errors = reports["untouched"].errors
        assert (reports["untouched"].score, len(errors)) == (0, len(self.points))
        assert all(error.startswith("NotImplementedError: Write your answer here") for error in errors.values()), errors

    def test_each_mistake_costs_its_question_and_no_other(self, reports):
        for student, names in self.students.items():
            report, expected = reports[student], {self.mistakes[name][0] for name in names}
            assert {name.removesuffix("-test") for name, got in report.points.items() if got == 0} == expected, (student, report.errors)
            assert report.score == 100 - sum(self.points[question] for question in expected), student
            for name in names:
                question, _, _, says = self.mistakes[name]
                assert re.search(says, report.errors[f"{question}-test"]), (student, name, report.errors[f"{question}-test"])
