"""Problem set 5 in a course of its own: the solutions, the untouched release, and wrong answers of the kind that students write."""

import copy
import re
from pathlib import Path

import nbformat
import pytest

from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits

SETS = Path(__file__).resolve().parents[2] / "notebooks" / "problem_sets"
LIMITS = Limits(cell_seconds=4, test_seconds=12, memory=3 << 30, patience=30)  # of a busy machine
POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 10, "q5": 15, "q6": 15, "q7": 10, "q8": 10}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "all across": ("q1", "** (d - 1) * (1", "** d * (1", "a strong push"),
    "only pushes": ("q1", "return -c", "return 0 * c", "the smallest beta"),
    "wrong root": ("q1", "(k + sp.sqrt(", "(k - sp.sqrt(", "without a push"),
    "determinant at x": ("q2", "bent = torch.tanh((low + high) / 2 + b)", "bent = torch.tanh(goal + b)", "the mass of a model"),
    "wrong order": ("q2", "in reversed(layers)", "in layers", "3 layers in dimension 2"),
    "bisected too little": ("q2", "range(80)", "range(20)", "3 layers in dimension 2"),
    "sign of the divergence": ("q3", "prior_log_prob(x) + total", "prior_log_prob(x) - total", "the mass of the law"),
    "forward": ("q3", "step = -1.0 / n", "step = 1.0 / n", "moved to the right"),
    "Euler": ("q3", "(0.0, 0.5, 0.5, 1.0)", "(0.0, 0.0, 0.0, 0.0)", "to which order"),
    "independent": ("q4", " + (a * db + b * da) * rho * s0 * s1", "", "the velocity"),
    "floor": ("q4", "(1 - rho**2)", "(1 - rho)", "the floor: "),
    "stays independent": ("q4", "+ 2 * a * b * rho * s0 * s1\n    return a * m0", "\n    return a * m0", "the trajectory: "),
    "no volume": ("q5", " - torch.logdet(V) / 2", "", "samples of x_t|is left of the target"),
    "prior weights": (
        "q5",
        "torch.softmax(torch.stack(logs), 0)",
        "torch.full((len(logs), len(x)), 1 / len(logs))",
        "weighed by their density|is left of the target",
    ),
    "underflow": (
        "q5",
        "share = torch.softmax(torch.stack(logs), 0)",
        "share = torch.stack(logs).exp()\n    share = share / share.sum(0)",
        "two points far out.*NaN",
    ),
    "transposed": ("q6", "(K.T - S0) + t * (S1 - K)", "(K - S0) + t * (S1 - K.T)", "correlated pairs in dimension 2"),
    "white": ("q6", "@ S0 @ (M - eye - s).T", "@ (M - eye - s).T", "straightness plus variance"),
    "monotone map": (
        "q6",
        "return M, float",
        "M = torch.linalg.cholesky(S1) @ torch.linalg.inv(torch.linalg.cholesky(S0))\n    return M, float",
        "drop of the cost",
    ),
    "chain rule": ("q7", "s * math.pi * math.cos", "s * math.cos", "a wrong time derivative"),
    "hard-coded": ("q7", "return brentq(loss, low, high, xtol=1e-4)", "return 0.5", "the cost of your own map"),
    "coarse": (
        "q7",
        "return brentq(loss, low, high, xtol=1e-4)",
        "return 1.02 * brentq(loss, low, high)",
        "the smallest bend",
    ),
    "right on average": (
        "q8",
        "times[:, None] * above",
        "times[torch.randperm(len(times))][:, None] * above",
        "the uniform law in dimension 1",
    ),
    "overflow": (
        "q8",
        "return torch.softmax(logs, 1) @ data",
        "share = logs.exp()\n    return share / share.sum(1, keepdim=True) @ data",
        "dimension 300.*NaN",
    ),
    "flux": ("q8", "* d * t / (r", "* d * t**2 / (r", "the profile of the flux"),
}
STUDENTS = {
    "good": [],
    "wrong-1": [
        "all across",
        "determinant at x",
        "sign of the divergence",
        "independent",
        "no volume",
        "transposed",
        "chain rule",
        "overflow",
    ],
    "wrong-2": ["only pushes", "wrong order", "forward", "floor", "prior weights", "white", "hard-coded", "flux"],
    "wrong-3": [
        "wrong root",
        "bisected too little",
        "Euler",
        "stays independent",
        "underflow",
        "monotone map",
        "coarse",
        "right on average",
    ],
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
    problem = source.get_set(SETS, "ps05")
    course = release.Course(tmp_path_factory.mktemp("course"))
    students = [*STUDENTS, "untouched"]
    release.release(problem, course, {student: {"first_name": student.title()} for student in students})
    for student in students:
        folder = course.root / "submitted" / student / "ps05"
        folder.mkdir(parents=True)
        name = f"{problem.stem}.ipynb"
        mine = nbformat.read(course.root / "release" / student / "ps05" / name, as_version=4)
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


@pytest.mark.parametrize("student", [name for name in STUDENTS if name != "good"])
def test_wrong_answers_lose_exactly_their_points(graded, student):
    report = graded[student]
    expected = {MISTAKES[name][0] for name in STUDENTS[student]}
    assert {name.removesuffix("-test") for name, got in report.points.items() if got == 0} == expected, report.errors
    assert report.score == 100 - sum(POINTS[question] for question in expected)
    for name in STUDENTS[student]:
        question, _, _, says = MISTAKES[name]
        assert re.search(says, report.errors[f"{question}-test"]), (name, report.errors[f"{question}-test"])
