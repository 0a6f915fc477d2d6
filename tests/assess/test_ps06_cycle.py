"""Problem set 6 graded as a course: solutions, an untouched copy, two students with mistakes that cost their question and no other."""

import copy
import re
from pathlib import Path

import jaxtyping
import nbformat
import pytest

from mathcore.assess import confine, grading, release, source
from mathcore.assess.sandbox import Limits

ROOT = Path(__file__).resolve().parents[2]
CONFINED = bool(confine.landlock_version())
LIMITS = Limits(cell_seconds=4, test_seconds=12)
POINTS = {"q1": 10, "q2": 10, "q3": 10, "q4": 15, "q5": 15, "q6": 15, "q7": 15, "q8": 10}

# (student, question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "one clean point for all": ("wrong-1", "q1", "(A - B * alpha / sigma) ** 2", "A**2", "which is seen"),
    "refuses alpha = 0": (
        "wrong-1",
        "q2",
        '    if abs(det) < 1e-12:\n        raise ValueError(f"the source {source} is a multiple of x_t")\n    clean',
        '    if alpha == 0 or abs(det) < 1e-12:\n        raise ValueError("alpha is 0")\n    clean',
        "ValueError: alpha is 0",
    ),
    "no change of clock": (
        "wrong-1",
        "q3",
        "return normal * (1 + level**2 / s_d**2) / level",
        "return normal * (1 + level**2 / s_d**2)",
        "flow matching",
    ),
    "score in the old unit": ("wrong-1", "q4", "return value / k", "return value", "the score of a model of linear under vp"),
    "gradient of gamma left out": ("wrong-1", "q5", " - grad_gamma2(x, t) / 2", "", "where gamma depends on the place"),
    "error of the score alone": (
        "wrong-1",
        "q6",
        "return -e * root * sp.asinh(y), -2 * e",
        "return -e * root * sp.asinh(y), -e",
        "the shift for c = 1",
    ),
    "wrong table": ("wrong-1", "q7", "wrong = np.trapezoid(np.interp(reached, places, table)", "wrong = np.trapezoid(table", "like 1 / K"),
    "clean head for all": (
        "wrong-1",
        "q8",
        "(A * sigma - B * alpha) * s_d / math.sqrt(total)",
        "abs(A * sigma - B * alpha) * s_d / math.sqrt(total)",
        "the noise under linear",
    ),
    "gradient without its factor": ("wrong-2", "q1", "return 4 * (A * sigma", "return (A * sigma", "the variance of the gradient"),
    "sign of the amplification": (
        "wrong-2",
        "q2",
        "return abs(alpha * D - sigma * C) / abs(det)",
        "return (alpha * D - sigma * C) / det",
        "the amplification",
    ),
    "noise in log-SNR": ("wrong-2", "q3", "2 / (sp.pi * ((1 - t) ** 2 + t**2))", "1 / (sp.pi * t * (1 - t)) ", "times"),
    "same time": ("wrong-2", "q4", "there = float(src.inverse_half_log_snr(dst.half_log_snr(t)))", "there = t", "the partner"),
    "paid twice": ("wrong-2", "q5", "strength * score / 2", "strength * score", "three steps for data at the origin"),
    "the noise of the reverse SDE": (
        "wrong-2",
        "q6",
        "if c == 0.0 or c == grid[-1]:",
        "if c > 0:\n        return 1.0\n    if c == 0.0:",
        "the best c",
    ),
    "printed rule": ("wrong-2", "q7", "dtype=torch.float64).sqrt().numpy()", "dtype=torch.float64).numpy()", "the best clock of N"),
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
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps06")
    course = release.Course(tmp_path_factory.mktemp("course"))
    release.release(problem, course, {student: {"first_name": student.title()} for student in STUDENTS})
    for student in STUDENTS:
        folder = course.root / "submitted" / student / "ps06"
        folder.mkdir(parents=True)
        mine = nbformat.read(course.root / "release" / student / "ps06" / f"{problem.stem}.ipynb", as_version=4)
        nbformat.write(handed_in(problem, student, mine), folder / f"{problem.stem}.ipynb")
    jaxtyping.config.update("jaxtyping_disable", True)  # of the oracles, whose types other tests check: most of the time
    try:
        return {report.student: report for report in grading.grade(problem, course, limits=LIMITS, confined=CONFINED)}
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


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
