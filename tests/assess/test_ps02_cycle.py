"""Problem set 2 in a course of its own: the solutions, the untouched release, and wrong answers of the kind that students write."""

import copy
import re
from pathlib import Path

import nbformat
import pytest

from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits

SETS = Path(__file__).resolve().parents[2] / "notebooks" / "problem_sets"
LIMITS = Limits(cell_seconds=4, test_seconds=12, memory=3 << 30)
POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 10, "q5": 10, "q6": 15, "q7": 15, "q8": 10}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "half the logit": ("q1", "sp.log(w / (1 - w)) / 2)", "sp.log(w / (1 - w)))", "the mean of the data"),
    "marginal variance": ("q2", "return mean, 1 / diagonal,", "return mean, torch.linalg.inv(precision).diagonal(),", "the variances"),
    "unseen pixels": ("q2", "rows = W[seen] / noise[seen][:, None]", "rows = W / noise[:, None]", "no pixel is seen"),
    "independent layers": ("q3", "(1 - a[k] * b[k]) ** 2 * U[k] + a[k] ** 2 * t[k] ** 2", "U[k] + a[k] ** 2 * U[k + 1]", "two layers"),
    "encoder top down": (
        "q3",
        "return torch.stack(b).flip(0), torch.stack(t).flip(0)",
        "return torch.stack(b), torch.stack(t)",
        "exact encoder",
    ),
    "one step": ("q4", "c_0, c_i = (A_j - A_i**2 / A_j) / rest,", "c_0, c_i = A_j * (1 - A_i**2) / rest,", "a step that goes nowhere"),
    "no half": ("q4", "c_0**2 / (2 * v)", "c_0**2 / v", "the factor of the clean"),
    "sign of C": (
        "q5",
        "return information(*mixture, ab) - information(*mixture, ab_prev)",
        "return information(*mixture, ab_prev) - information(*mixture, ab)",
        "All signs are wrong",
    ),
    "noise at the end": ("q6", "if k < len(levels) - 2:", "if k < len(levels):", "the variance 'beta'"),
    "variances exchanged": ("q6", 'fresh if variance == "beta"', 'fresh if variance != "beta"', "prediction with the variance"),
    "velocity": ("q6", '"velocity": now * x - blur * out', '"velocity": now * x + blur * out', "velocity prediction"),
    "sum from one": ("q7", "if before == 1:", "if before == 1:\n            diffusion.append(0 * error)", r"has shape \(2, \d+\)"),
    "previous level": ("q7", "(2 * (1 - fresh) * (1 - before**2))", "(2 * (1 - fresh) * (1 - ab**2))", "minus -log p_data"),
    "noise at the last step": ("q8", "if i > 1:", "if i > 0:", "kappa = 1.0"),
    "hard-coded": ("q8", "low, high = 0.0, 1.0", "return 0.5\n    low, high = 0.0, 1.0", "the best kappa"),
}
STUDENTS = {
    "good": [],
    "wrong-1": ["half the logit", "marginal variance", "independent layers", "one step", "sign of C", "velocity", "sum from one"],
    "wrong-2": ["unseen pixels", "encoder top down", "no half", "variances exchanged", "previous level", "hard-coded"],
    "wrong-3": ["noise at the last step", "noise at the end"],
}


def handed_in(problem, released, names):
    """The released notebook with the solutions, some of them spoiled."""
    notebook, by_id = copy.deepcopy(released), {cell.id: cell.source for cell in problem.notebook.cells}
    for cell in notebook.cells:
        if source.role(cell) == "answer":
            cell.source = by_id[cell.id]
    cells = {cell.id: cell for cell in notebook.cells}
    for question, old, new, _ in map(MISTAKES.get, names):
        answer = cells[f"{question}-answer"]
        assert old in answer.source, old
        answer.source = answer.source.replace(old, new)
    return notebook


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """``{student: report}``."""
    problem = source.get_set(SETS, "ps02")
    course = release.Course(tmp_path_factory.mktemp("course"))
    students = [*STUDENTS, "untouched"]
    release.release(problem, course, {student: {"first_name": student.title()} for student in students})
    for student in students:
        folder = course.root / "submitted" / student / "ps02"
        folder.mkdir(parents=True)
        name = f"{problem.stem}.ipynb"
        mine = nbformat.read(course.root / "release" / student / "ps02" / name, as_version=4)
        nbformat.write(handed_in(problem, mine, STUDENTS[student]) if student in STUDENTS else mine, folder / name)
    reports = grading.grade(problem, course, limits=LIMITS, confined=bool(confine.landlock_version()))
    return {report.student: report for report in reports}


def test_the_solutions_score_everything(graded):
    assert graded["good"].errors == {}
    assert graded["good"].points == {f"{q}-test": p for q, p in POINTS.items()}
    assert (graded["good"].score, graded["good"].total) == (100, 100)


def test_an_untouched_release_scores_nothing_and_says_what_is_missing(graded):
    report = graded["untouched"]
    assert (report.score, len(report.errors)) == (0, len(POINTS))
    assert all(error.startswith("NotImplementedError: Write your answer here") for error in report.errors.values()), report.errors


@pytest.mark.parametrize("student", ["wrong-1", "wrong-2", "wrong-3"])
def test_wrong_answers_lose_exactly_their_points(graded, student):
    report = graded[student]
    expected = {MISTAKES[name][0] for name in STUDENTS[student]}
    assert {name.removesuffix("-test") for name, got in report.points.items() if got == 0} == expected, report.errors
    assert report.score == 100 - sum(POINTS[question] for question in expected)
    for name in STUDENTS[student]:
        question, _, _, says = MISTAKES[name]
        assert re.search(says, report.errors[f"{question}-test"]), (name, report.errors[f"{question}-test"])
