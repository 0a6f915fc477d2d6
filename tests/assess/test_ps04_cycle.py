"""Problem set 4, graded once in a temporary folder: the solutions, an untouched release, and what plausible wrong answers cost."""

import copy
import re
from pathlib import Path

import nbformat
import pytest

from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits

ROOT = Path(__file__).resolve().parents[2]
CONFINED = bool(confine.landlock_version())
LIMITS = Limits(cell_seconds=4, test_seconds=12, memory=3 << 30, patience=30)
POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 15, "q6": 15, "q7": 15}

# (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "VP's variance": ("q1", "1 - (1 + clock) * sp.exp(-clock)", "1 - sp.exp(-clock)", "which solves P'"),
    "ODE for all eta": ("q2", "return rest + (1 - rest) * sp.exp((1 - c * (1 + eta**2)) * B)", "return sp.exp((1 - c) * B)", "at t = 0"),
    "whole score": ("q3", "(1 + eta**2) / 2 * g2", "g2", "moves nothing"),
    "noise of the wrong end": ("q3", "(g2 * h).sqrt()", "(sde.g2(then) * h).sqrt()", "only noise is added"),
    "borrowed sign": ("q4", "return s0**2 + extra, s0**2 - extra", "return s0**2 - extra, s0**2 + extra", "forward increments"),
    "forward increments": ("q4", "sde.f(ts[j]) * x - g2 * score(x, ts[j])", "sde.f(ts[j]) * x", "must be independent"),
    "last time is 1": ("q5", "(sde.alpha(ts[-1]), sde.sigma(ts[-1]))", "(sde.alpha(1.0), sde.sigma(1.0))", "ends before t = 1"),
    "spread not squared": ("q6", "to_clean**2 * spread(x, s)", "to_clean * spread(x, s)", "exact in three long steps"),
    "exchanged times": ("q6", "sde.sigma(t) ** 2 / sde.sigma(s) ** 2 * x", "sde.sigma(s) ** 2 / sde.sigma(t) ** 2 * x", "always says 0.3"),
    "steps go unchecked": ("q7", "final_ratio(found, 4 * STEPS, LOUD)", "1.0", "four times as many steps"),
}
STUDENTS = {
    "good": [],
    "wrong-1": ["VP's variance", "whole score", "forward increments", "spread not squared", "steps go unchecked"],
    "wrong-2": ["ODE for all eta", "noise of the wrong end", "borrowed sign", "last time is 1", "exchanged times"],
}


def solved(problem, names, released):
    """The released notebook with the source's solutions, some of them spoiled."""
    notebook, by_id = copy.deepcopy(released), {c.id: c for c in problem.notebook.cells}
    for cell in notebook.cells:
        if source.role(cell) == "answer":
            cell.source = by_id[cell.id].source
            for question, old, new, _ in (MISTAKES[name] for name in names):
                if cell.id == f"{question}-answer":
                    assert old in cell.source, old
                    cell.source = cell.source.replace(old, new)
    return notebook


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps04")
    course = release.Course(tmp_path_factory.mktemp("ps04"))
    students = [*STUDENTS, "untouched"]
    release.release(problem, course, {student: {"first_name": student} for student in students})
    for student in students:
        folder = course.root / "submitted" / student / "ps04"
        folder.mkdir(parents=True)
        name = f"{problem.stem}.ipynb"
        mine = nbformat.read(course.root / "release" / student / "ps04" / name, as_version=4)
        nbformat.write(solved(problem, STUDENTS[student], mine) if student in STUDENTS else mine, folder / name)
    return {report.student: report for report in grading.grade(problem, course, limits=LIMITS, confined=CONFINED)}


def test_the_solutions_score_everything(reports):
    assert reports["good"].errors == {}
    assert reports["good"].points == {f"{q}-test": p for q, p in POINTS.items()}
    assert (reports["good"].score, reports["good"].total, reports["good"].note) == (100, 100, "")


def test_an_untouched_release_scores_nothing_and_says_what_is_missing(reports):
    assert reports["untouched"].score == 0
    assert len(reports["untouched"].errors) == len(POINTS)
    assert all(error.startswith("NotImplementedError: Write your answer here") for error in reports["untouched"].errors.values())


@pytest.mark.parametrize("student", ["wrong-1", "wrong-2"])
def test_wrong_answers_lose_exactly_their_points(reports, student):
    report = reports[student]
    expected = {MISTAKES[name][0] for name in STUDENTS[student]}
    assert {name.removesuffix("-test") for name, got in report.points.items() if got == 0} == expected, report.errors
    assert report.score == 100 - sum(POINTS[q] for q in expected)
    for name in STUDENTS[student]:
        question, _, _, says = MISTAKES[name]
        assert re.search(says, report.errors[f"{question}-test"]), (name, report.errors)
