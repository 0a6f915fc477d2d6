"""Problem set 3 graded as a course: solutions, an untouched copy, two students with mistakes that cost their question and no other."""

import copy
import re
from pathlib import Path

import nbformat
import pytest

from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits

ROOT = Path(__file__).resolve().parents[2]
CONFINED = bool(confine.landlock_version())
LIMITS = Limits(cell_seconds=4, test_seconds=12)
POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 10, "q6": 10, "q7": 15, "q8": 10}

# (student, question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "trace with a plus": ("wrong-1", "q1", "return -laplacian + square / 2", "return laplacian + square / 2", "the objective"),
    "A not symmetrised": ("wrong-1", "q2", "S = (A + A.T) / 2", "S = A", "not symmetric"),
    "variance of the kernel": ("wrong-1", "q3", "+ eps / sigma\n", "+ eps / sigma**2\n", "which is the mean of"),
    "cumulant for moment": ("wrong-1", "q4", " + 3 * second**2", "", "fourth central moment on your mixture"),
    "sign by parts": ("wrong-1", "q5", "x * out - sigma**2 * out.diff(x)", "x * out + sigma**2 * out.diff(x)", "the adjoint"),
    "step rule": ("wrong-1", "q7", "delta * level**2 / levels[0] ** 2", "delta * level / levels[0]", "whatever the level"),
    "fixed step": ("wrong-1", "q8", "return 10 * level**2 * gap(", "return 10 * gap(", "the weights freeze"),
    "by hand": ("wrong-2", "q1", "return (sixth - 3", "return 0.5, 0.5\n    return (sixth - 3", "energy of your mixture"),
    "one probe for all": ("wrong-2", "q2", "for u in probes:", "for u in probes[:1]:", "the sliced loss"),
    "unscaled data": ("wrong-2", "q3", "score(alpha * x + sigma * eps)", "score(x + sigma * eps)", "the loss with alpha"),
    "no alpha": ("wrong-2", "q4", "(x + sigma**2 * d1) / alpha", "x + sigma**2 * d1", "the mean where"),
    "universal threshold": (
        "wrong-2",
        "q6",
        "return min(candidates",
        "return sigma * math.sqrt(2 * math.log(len(y)))\n    return min(candidates",
        "threshold of 80 numbers",
    ),
    "tweedie at the wrong level": (
        "wrong-2",
        "q7",
        "return x + visited[-1] ** 2 * score(x, visited[-1])",
        "return x + levels[0] ** 2 * score(x, levels[0])",
        "include_last=False and denoise=True",
    ),
    "an edge too many": ("wrong-2", "q8", "/ h**2  # rate", "/ h  # rate", "the gap of N"),
}
STUDENTS = ["good", "untouched", "wrong-1", "wrong-2"]


def handed_in(problem, student, released):
    """The released notebook with the source's solutions, spoiled by the student's mistakes."""
    notebook, by_id = copy.deepcopy(released), {c.id: c for c in problem.notebook.cells}
    for cell in notebook.cells:
        if student != "untouched" and source.role(cell) == "answer":
            cell.source = by_id[cell.id].source
            for name, (who, question, old, new, _) in MISTAKES.items():
                if who == student and cell.id == f"{question}-answer":
                    assert cell.source.count(old) == 1, name
                    cell.source = cell.source.replace(old, new)
    return notebook


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """``{student: report}`` of one graded course."""
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps03")
    course = release.Course(tmp_path_factory.mktemp("course"))
    release.release(problem, course, {student: {"first_name": student.title()} for student in STUDENTS})
    for student in STUDENTS:
        folder = course.root / "submitted" / student / "ps03"
        folder.mkdir(parents=True)
        mine = nbformat.read(course.root / "release" / student / "ps03" / f"{problem.stem}.ipynb", as_version=4)
        nbformat.write(handed_in(problem, student, mine), folder / f"{problem.stem}.ipynb")
    return {report.student: report for report in grading.grade(problem, course, limits=LIMITS, confined=CONFINED)}


def test_the_solutions_score_everything(reports):
    assert reports["good"].errors == {}
    assert reports["good"].points == {f"{q}-test": p for q, p in POINTS.items()}
    assert (reports["good"].score, reports["good"].total) == (100, 100)


def test_an_untouched_copy_scores_nothing_and_only_lacks_answers(reports):
    errors = reports["untouched"].errors
    assert (reports["untouched"].score, len(errors)) == (0, len(POINTS))
    assert all(error.startswith("NotImplementedError: Write your answer here") for error in errors.values())


@pytest.mark.parametrize("student", ["wrong-1", "wrong-2"])
def test_each_mistake_costs_its_question_and_no_other(reports, student):
    report = reports[student]
    expected = {question for who, question, *_ in MISTAKES.values() if who == student}
    assert {name.removesuffix("-test") for name, got in report.points.items() if got == 0} == expected, report.errors
    assert report.score == 100 - sum(POINTS[q] for q in expected)
    for name, (who, question, _, _, says) in MISTAKES.items():
        if who == student:
            assert re.search(says, report.errors[f"{question}-test"]), (name, report.errors)
