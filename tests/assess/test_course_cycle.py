"""A whole course in a temporary folder: release, submissions good and bad, grading, feedback. Graded once; the tests read what came out."""

import copy
import csv
import json
import os
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from set_cycle import graded_apart, pin_key

from mathcore.assess import collecting, confine, grading, handout, release, source, variants
from mathcore.assess.sandbox import Limits

pytestmark = pytest.mark.timeout(900)  # the first test waits for the course to be graded, on a busy machine

ROOT = Path(__file__).resolve().parents[2]
CONFINED = bool(confine.landlock_version())
LIMITS = Limits(cell_seconds=4, test_seconds=10, memory=3 << 30, patience=30)  # of a busy machine
POINTS = {"q1": 10, "q2": 15, "q3": 15, "q4": 15, "q5": 10, "q6": 15, "q7": 10, "q8": 10}

# What plausible and wicked students write: (question, what is replaced in the solution, by what, what the message must say)
MISTAKES = {
    "sign": ("q1", "(sigma_t / alpha_t - sigma_s / alpha_s)", "(sigma_s / alpha_s - sigma_t / alpha_t)", "wrong sign in one of its terms"),
    "variance": (
        "q2",
        "* sp.sqrt(sigma_s**2 - (alpha_s / alpha_t) ** 2 * sigma_t**2)",
        "* (sigma_s**2 - (alpha_s / alpha_t) ** 2 * sigma_t**2)",
        "the standard deviation",
    ),
    "index": ("q4", "return tensor(*out)", "return tensor(*out[::-1])", "off by"),
    "loop": ("q6", "old = None", "while True:\n        pass", "never ends"),
    "memory": (
        "q7",
        "sizes, errors = [160, 320, 640], []",
        "sizes, errors, hoard = [160, 320, 640], [], []\n    while True:\n        hoard.append(bytearray(1 << 30))",
        "MemoryError",
    ),
    "square": (
        "q1",
        "return alpha_t * clean + sigma_t * (x_s - alpha_s * clean) / sigma_s",
        "return alpha_t * clean**2 + sigma_t * (x_s - alpha_s * clean) / sigma_s",
        "goes nowhere",
    ),
    "hard-coded": (
        "q5",
        "return 1 - sp.exp(-h), h - 1 + sp.exp(-h), h**2 / 2 - h + 1 - sp.exp(-h)",
        "return 1 - sp.exp(-1), sp.exp(-1), sp.Rational(1, 2) - sp.exp(-1)",
        "does not depend on h",
    ),
    "hidden tests": ("q4", "import numpy as np", "import numpy as np\n    steal()", "Permission denied" if CONFINED else "steal"),
    "exit": ("q6", "old = None", "import sys\n    sys.exit(0)", "SystemExit"),
    "hard exit": ("q7", "sizes, errors = [160, 320, 640], []", "import os\n    os._exit(0)", "ended itself"),
    "number": ("q3", "return x\n", "return torch.full_like(x, 0.123)\n", "constant 0.7"),
    "forged": ("q8", "return math.sqrt(low * high)", "return Always()", "should be numbers"),
    "patched": ("q6", "old = None", "patch()\n    return x", "which is DDIM|and so exact"),
    "string": (
        "q5",
        "return 1 - sp.exp(-h), h - 1 + sp.exp(-h), h**2 / 2 - h + 1 - sp.exp(-h)",
        'return "1 - exp(-h)", "h", "__import__(\'os\').system(\'true\')"',
        "should be a sympy expression",
    ),
    "invented": ("q2", "s, t = 0.6, 0.4", "return 0.8, 0.3, -5.0", "at your two times"),
    "made up": ("q7", "sizes, errors = [160, 320, 640], []", "return [1e-3, 2.5e-4, 6.25e-5], 2.0", "the error of the port"),
}
STUDENTS = {
    "good": [],
    "wrong-1": ["sign", "variance", "index", "loop", "memory"],
    "wrong-2": ["square", "hidden tests", "hard-coded", "exit", "hard exit"],
    "wrong-3": ["number", "string", "patched", "forged", "invented", "made up"],
}
STEAL = f"""def steal():
    import os
    for path in ({str(ROOT / "notebooks" / "problem_sets" / "ps09-solvers" / "ps09-solvers.ipynb")!r}, "COURSE/instructor/gradebook.db", f"/proc/{{os.getppid()}}/mem"):
        open(path, "rb").read(1)"""
FORGED_PICTURE = """from IPython.display import display
display({"image/png": 'x"><script>alert(4)</script>', "text/html": "<script>alert(5)</script>", "text/plain": "<script>alert(6)</script>"}, raw=True)"""
PATCH = """class Always(float):
    __eq__ = __le__ = __ge__ = lambda self, other: True
    __hash__ = float.__hash__

def patch():
    import builtins, sys, mathcore.assess.checks as c
    for name in ("close", "order", "symbolic", "between", "equal"):
        setattr(c, name, lambda *a, **k: None)
    torch.allclose = lambda *a, **k: True
    builtins.AssertionError = ValueError
    for frame in sys._current_frames().values():
        while frame:
            for key in list(frame.f_locals):
                if "points" in key or "score" in key:
                    frame.f_globals[key] = 1e6
            frame = frame.f_back"""


def solved(problem, names, released, course):
    """The released notebook with the source's solutions, some of them spoiled."""
    notebook, by_id = copy.deepcopy(released), {c.id: c for c in problem.notebook.cells}
    for cell in notebook.cells:
        if source.role(cell) == "answer":
            cell.source = by_id[cell.id].source
            for name in names:
                question, old, new, _ = MISTAKES[name]
                if cell.id == f"{question}-answer":
                    assert old in cell.source, name
                    cell.source = cell.source.replace(old, new)
    notebook.cells.insert(1, nbformat.v4.new_code_cell("import torch\n" + STEAL.replace("COURSE", str(course.root)) + "\n\n" + PATCH))
    return notebook


def vandalised(problem, released, course):
    """Solutions, but the tests of questions 1 and 2 edited, that of 3 deleted, points and flags changed; in between, cells that end the process."""
    notebook = solved(problem, ["square"], released, course)
    cells = {c.id: c for c in notebook.cells}
    cells["q1-test"].source = "pass"
    cells["q1-test"].metadata.nbgrader.points = 1000
    cells["q2-test"].metadata.nbgrader.grade = False
    cells["q2-answer"].metadata.nbgrader.grade = True
    cells["q2-answer"].metadata.nbgrader.points = 500
    cells["imports"].source += "\nchecks.close = checks.symbolic = lambda *a, **k: None"
    cells["variant"].source = "WEIGHT, LEFT, RIGHT, STD_LEFT, STD_RIGHT, BETA_MAX, MEAN = 0.5, -1.0, 1.0, 0.3, 0.3, 20.0, 0.7"
    notebook.cells.remove(cells["q3-test"])
    notebook.cells.append(copy.deepcopy(cells["q4-test"]))
    end = next(k for k, c in enumerate(notebook.cells) if c.id == "q2-answer")
    own = [
        "while True: pass",
        "import os; os._exit(0)",
        "hoard = []\nwhile True: hoard.append(bytearray(1 << 30))",
        "raise KeyboardInterrupt",
        "def broken(:",
        "### BEGIN HIDDEN TESTS",
        FORGED_PICTURE,
    ]
    notebook.cells[end:end] = [nbformat.v4.new_code_cell(text) for text in own]
    notebook.cells.insert(
        end, nbformat.v4.new_markdown_cell("<script>alert(1)</script> <img src=x onerror=alert(2)> [x](javascript:alert(3)) where $a<b$")
    )
    return notebook


@pytest.fixture(scope="session")
def graded(tmp_path_factory):
    """The course after grading: ``(problem, course, {student: report})``."""
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    course = release.Course(tmp_path_factory.mktemp("course"))
    pin_key(course)
    students = [*STUDENTS, "untouched", "vandal", "broken", "empty"]
    release.release(problem, course, {student: {"first_name": student.title()} for student in students})
    for student in students:
        folder = course.root / "submitted" / student / "ps09"
        folder.mkdir(parents=True)
        path = folder / f"{problem.stem}.ipynb"
        mine = nbformat.read(course.root / "release" / student / "ps09" / path.name, as_version=4)
        if student in STUDENTS:
            nbformat.write(solved(problem, STUDENTS[student], mine, course), path)
        elif student == "vandal":
            path.write_text(json.dumps(vandalised(problem, mine, course)))
        elif student == "untouched":
            nbformat.write(mine, path)
        elif student == "broken":
            path.write_text('{"cells": [')
    return problem, course, graded_apart(course, "ps09", LIMITS)


def lost(report):
    return {name.removesuffix("-test") for name, got in report.points.items() if got == 0}


def test_the_solutions_score_everything(graded):
    report = graded[2]["good"]
    assert report.errors == {}
    assert report.points == {f"{q}-test": p for q, p in POINTS.items()}
    assert (report.score, report.total, report.note) == (100, 100, "")


def test_an_untouched_release_scores_nothing_and_says_what_is_missing(graded):
    report = graded[2]["untouched"]
    assert report.score == 0
    assert len(report.errors) == len(POINTS)
    assert all(error.startswith("NotImplementedError: Write your answer here") for error in report.errors.values())


@pytest.mark.parametrize("student", ["wrong-1", "wrong-2", "wrong-3"])
def test_wrong_answers_lose_exactly_their_points(graded, student):
    report = graded[2][student]
    expected = {MISTAKES[name][0] for name in STUDENTS[student]}
    assert lost(report) == expected, report.errors
    assert report.score == 100 - sum(POINTS[q] for q in expected)
    for name in STUDENTS[student]:
        question, _, _, says = MISTAKES[name]
        assert re.search(says, report.errors[f"{question}-test"]), (name, report.errors)


def test_edited_tests_points_and_cells_change_nothing(graded):
    report = graded[2]["vandal"]
    assert lost(report) == {"q1"}, (report.errors, report.note)
    assert report.score == 90


def test_what_is_no_notebook_gets_nothing_and_a_reason(graded):
    assert (graded[2]["broken"].score, graded[2]["empty"].score) == (0, 0)
    assert "not a notebook" in graded[2]["broken"].note
    assert "there is no notebook" in graded[2]["empty"].note


def test_grades_are_written_and_graded_again_they_stay(graded):
    problem, course, reports = graded
    with (course.root / "grades" / "ps09.csv").open(newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {student: float(row["score"]) for student, row in rows.items()} == {s: r.score for s, r in reports.items()}
    again = grading.grade(problem, course, ["untouched"], limits=LIMITS, confined=CONFINED)
    assert [(r.student, r.score) for r in again] == [("untouched", 0.0)]
    with (course.root / "grades" / "ps09.csv").open(newline="") as file:
        assert {row["student"]: row for row in csv.DictReader(file)}.keys() == rows.keys()


def secrets_of(problem):
    """Lines that only solutions and hidden tests have."""
    given = {line.strip() for cell in release.student_version(problem).cells for line in cell.source.splitlines()}
    own = {line.strip() for cell in problem.notebook.cells for line in cell.source.splitlines()}
    lines = {line for line in own - given if len(line) > 24 and "#:" not in line}
    assert len(lines) > 60
    return lines


def hidden_of(problem):
    """Lines that only hidden tests have."""
    solutions = "\n".join(cell.source for cell in problem.notebook.cells if source.role(cell) == "answer")
    return {line for line in secrets_of(problem) if line not in solutions}


def leaked(text, lines):
    """Which lines stand in a text, be it plain, JSON or HTML, with tags or without."""
    import html

    def bare(line):
        return line.strip().strip("\",'").strip()

    plain = html.unescape(re.sub(r"<[^>]*>", "", text)).replace("\\n", "\n").replace('\\"', '"')
    present = {bare(line) for line in plain.splitlines()}
    return sorted(line for line in lines if bare(line) in present)


def test_a_leak_would_be_seen(graded):
    problem, course, _ = graded
    kept = (course.instructor / "source" / "ps09" / f"{problem.stem}.ipynb").read_text(encoding="utf-8")
    assert len(leaked(kept, secrets_of(problem))) > 0.9 * len(secrets_of(problem))
    own = (course.root / "feedback" / "good" / "ps09" / f"{problem.stem}.html").read_text(
        encoding="utf-8"
    )  # it shows the student's own solutions
    assert len(leaked(own, secrets_of(problem) - hidden_of(problem))) > 20


def test_no_solution_and_no_hidden_test_is_released(graded):
    problem, course, _ = graded
    released = list((course.root / "release").rglob("*.*"))
    assert len(released) == 9
    for path in released:
        assert leaked(path.read_text(encoding="utf-8"), secrets_of(problem)) == [], path
        assert "#: uniform" not in path.read_text(encoding="utf-8")
        assert course.key.hex() not in path.read_text(encoding="utf-8")
    assert leaked(handout.page(problem), secrets_of(problem)) == []


def test_no_solution_and_no_hidden_test_is_under_the_built_book():
    built = [ROOT / "_build" / "html", ROOT / "book" / "generated"]
    problems = [source.load(path) for path in source.find_sets(ROOT / "notebooks" / "problem_sets").values()]
    given = {line.strip() for p in problems for cell in release.student_version(p).cells for line in cell.source.splitlines()}
    lines = set().union(*map(secrets_of, problems)) - given  # what one set asks for another may give
    assert len(lines) > 60
    pages = [
        p
        for folder in built
        for p in folder.rglob("*")
        if p.suffix in (".html", ".ipynb", ".md", ".txt", ".js") and "ps0" in p.name + p.parent.name
    ]
    for path in pages:
        assert leaked(path.read_text(encoding="utf-8", errors="ignore"), lines) == [], path
    for folder in built:
        for path in folder.rglob("*.ipynb"):
            assert "BEGIN HIDDEN TESTS" not in path.read_text(encoding="utf-8", errors="ignore"), path


def test_everybody_gets_their_own_numbers_and_the_key_gives_them_again(graded):
    problem, course, _ = graded
    cells = {}
    for student in ("good", "wrong-1"):
        notebook = nbformat.read(course.root / "release" / student / "ps09" / f"{problem.stem}.ipynb", as_version=4)
        cells[student] = next(c.source for c in notebook.cells if source.role(c) == "variant")
        assert f"WEIGHT = {release.numbers(problem, course.key, student)['WEIGHT']}" in cells[student]
    assert cells["good"] != cells["wrong-1"]


def test_feedback_shows_points_and_messages_but_no_hidden_test(graded):
    problem, course, reports = graded
    for student in (*STUDENTS, "untouched", "vandal"):
        page = (course.root / "feedback" / student / "ps09" / f"{problem.stem}.html").read_text(encoding="utf-8")
        assert f'<p class="total">{reports[student].score:g} of 100 points</p>' in page, student
        assert leaked(page, hidden_of(problem)) == [], student
        assert not re.search(r"<script>alert|<img[^>]*onerror|href=.javascript|src=.data:image/png;base64,.{0,40}<", page), student
    idle = {s: (course.root / "feedback" / s / "ps09" / f"{problem.stem}.html").read_text(encoding="utf-8") for s in ("good", "untouched")}
    assert "not answered" not in idle["good"]
    assert idle["untouched"].count("not answered") == idle["untouched"].count("Your answer, as it was handed out") == len(problem.points)
    page = (course.root / "feedback" / "wrong-1" / "ps09" / f"{problem.stem}.html").read_text(encoding="utf-8")
    assert "wrong sign in one of its terms" in page
    assert "is there a loop that never ends?" in page


def test_the_archive_holds_what_grading_elsewhere_needs(graded):
    problem, course, _ = graded
    with zipfile.ZipFile(course.instructor / f"{problem.stem}.zip") as archive:
        names = archive.namelist()
        assert {
            "instructor/key",
            "instructor/gradebook.db",
            f"instructor/source/ps09/{problem.stem}.ipynb",
            "instructor/ps09-students.json",
        } <= set(names)


def test_a_course_that_was_not_released_or_not_handed_in(tmp_path):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    with pytest.raises(ValueError, match="was not released"):
        grading.grade(problem, release.Course(tmp_path))
    release.release(problem, release.Course(tmp_path))
    with pytest.raises(ValueError, match="no submission"):
        grading.grade(problem, release.Course(tmp_path))


def roster_of(*students):
    return {student: {} for student in students}


def handed_in(course, student):
    return course.root / "submitted" / student / "ps09" / "ps09-solvers.ipynb"


def put(path, text, day):
    """A file that was modified on a day of March 2026."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    stamp = datetime(2026, 3, day, 9, tzinfo=UTC).timestamp()
    os.utime(path, (stamp, stamp))


def packed(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    return target


def test_downloads_find_their_owners(tmp_path):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    course, inbox = release.Course(tmp_path / "course"), tmp_path / "inbox"
    for name in ("Smith_ann_4711_ps09-solvers.ipynb", "bob/ps09-solvers.ipynb", "anna.ipynb", "stranger/x.ipynb", "eve_late.ipynb"):
        put(inbox / name, name, 4)
    put(inbox / "__MACOSX" / "._bob.ipynb", "a shadow", 5)
    put(inbox / ".ipynb_checkpoints" / "bob.ipynb", "a checkpoint", 5)
    put(inbox / "zoe_ps09.pdf", "a picture of an answer", 4)
    everybody = roster_of("ann", "anna", "bob", "eve", "zoe")
    for place in (inbox, packed(inbox, tmp_path / "all.zip")):
        result = collecting.collect(place, problem, course, everybody)
        assert (result.taken, result.missing) == (["ann", "anna", "bob", "eve"], ["zoe"])
        assert result.unplaced == {
            "stranger/x.ipynb": "no id or name of the roster stands in its path as a word",
            "zoe_ps09.pdf": "zoe sent no notebook but this",
        }
        assert (result.replaced, result.older, result.chosen) == ({}, {}, {})  # the same files a second time are no news
    assert handed_in(course, "ann").read_text().startswith("Smith_ann")
    assert handed_in(course, "bob").read_text() == "bob/ps09-solvers.ipynb"
    with pytest.raises(ValueError, match="no folder or zip"):
        collecting.collect(tmp_path / "none", problem, course, everybody)


PLATFORMS = [  # path of a download, roster, owner or what is said
    ("smithann_4711_99887_ps09-solvers-1.ipynb", roster_of("smithann", "jonesbob"), "smithann"),
    ("smithann_LATE_4711_99887_ps09-solvers.ipynb", roster_of("smithann", "jonesbob"), "smithann"),
    ("smithann_LATE_4711_99887_ps09-solvers.ipynb", roster_of("4711", "471", "9988"), "4711"),
    ("smithann_4711_99887_ps09-solvers-1.ipynb", roster_of("4711", "1"), "4711"),  # the attempt's number is nobody's id
    ("smithann_4711_99887_ps09-solvers.ipynb", roster_of("4711", "99887"), "it could be of 4711 or 99887"),
    ("SmithAnn_ps09-solvers.ipynb", roster_of("smithann"), "it has smithann only in another case"),
    ("ann-lee_ps09-solvers.ipynb", roster_of("ann", "ann-lee"), "ann-lee"),
    ("ann_ps09_with_bob.ipynb", roster_of("ann", "bob"), "it could be of ann or bob"),
    ("ann_ps03-scores.ipynb", roster_of("ann"), "its name says ps03"),
    ("Ann Smith_48213_assignsubmission_file_/ps09-solvers.ipynb", roster_of("ann"), "it has ann only in another case"),
    (
        "Ann Smith_48213_assignsubmission_file_/ps09-solvers.ipynb",
        {"as2": {"first_name": "Ann", "last_name": "Smith"}, "Ann": {"first_name": "Ann", "last_name": "Jones"}},
        "as2",
    ),
    (
        "Ann Smith_48213_assignsubmission_file_/ps09-solvers.ipynb",
        {student: {"first_name": "Ann", "last_name": "Smith"} for student in ("as2", "as3")},
        "it could be of as2 or as3",
    ),
    ("Zoe\u0301 Noe\u0308l_7_assignsubmission_file_/a.ipynb", {"zn": {"first_name": "Zo\u00e9", "last_name": "No\u00ebl"}}, "zn"),
]


@pytest.mark.parametrize(("path", "roster", "expected"), PLATFORMS)
def test_names_of_canvas_and_moodle(path, roster, expected, tmp_path):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    put(tmp_path / "inbox" / path, "x", 4)
    result = collecting.collect(tmp_path / "inbox", problem, release.Course(tmp_path / "course"), roster)
    assert [*result.taken, *result.unplaced.values()] == [expected]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_later_submission_replaces_an_earlier_one_and_never_the_other_way_round(tmp_path, zipped):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    course = release.Course(tmp_path / "course")

    def collect(name, text, day):
        put(tmp_path / name / "ann_ps09.ipynb", text, day)
        place = packed(tmp_path / name, tmp_path / f"{name}.zip") if zipped else tmp_path / name
        return collecting.collect(place, problem, course, roster_of("ann", "bob"))

    first = collect("monday", "half", 2)
    assert (first.taken, first.missing, first.replaced) == (["ann"], ["bob"], {})
    written = datetime.fromtimestamp(handed_in(course, "ann").stat().st_mtime, UTC)
    assert written.date().isoformat() == "2026-03-02"  # it keeps its time
    second = collect("thursday", "whole", 5)
    kept = second.replaced["ann"]
    assert kept.parent == course.instructor / "replaced" / "ann"
    assert re.fullmatch(r"ps09-2026-03-02T\d{6}Z\.ipynb", kept.name)
    assert (kept.read_text(), handed_in(course, "ann").read_text()) == ("half", "whole")
    third = collect("tuesday", "", 3)
    assert (third.taken, third.older, third.replaced, third.missing) == ([], {"ann": "ann_ps09.ipynb"}, {}, ["bob"])
    assert handed_in(course, "ann").read_text() == "whole"
    put(tmp_path / "bobs" / "bob.ipynb", "b", 6)
    assert collecting.collect(tmp_path / "bobs", problem, course, roster_of("ann", "bob")).missing == []  # ann handed in before
    again = [collect("friday", "more", 6).replaced["ann"], collect("saturday", "half again", 6).replaced["ann"]]
    assert [path.read_text() for path in again] == ["whole", "more"]
    put(handed_in(course, "ann"), "another of monday", 2)
    assert collect("sunday", "all", 8).replaced["ann"].name == kept.stem + "-2.ipynb"
    assert kept.read_text() == "half"


def test_of_two_attempts_in_an_archive_the_later_counts(tmp_path):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    course = release.Course(tmp_path / "course")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, day in (("ann_first.ipynb", 4), ("ann_second.ipynb", 5), ("ann_zeroth.ipynb", 3)):
            archive.writestr(zipfile.ZipInfo(name, (2026, 3, day, 9, 0, 0)), name)
    result = collecting.collect(tmp_path / "all.zip", problem, course, roster_of("ann"))
    assert result.chosen == {"ann": "ann_second.ipynb"}
    assert (course.root / "submitted" / "ann" / "ps09" / "ps09-solvers.ipynb").read_text() == "ann_second.ipynb"


def test_nbgraders_own_autograde_finds_nothing_to_run(graded):
    """It would run submissions unconfined; the course's configuration file points it at a folder that does not exist."""
    _, course, _ = graded
    loaded: dict = {}
    lines = (course.root / "nbgrader_config.py").read_text().replace("c = get_config()", "c = config")
    config = SimpleNamespace(CourseDirectory=SimpleNamespace())
    exec(lines, {"__file__": str(course.root / "nbgrader_config.py"), "config": config}, loaded)
    assert not (course.root / config.CourseDirectory.submitted_directory).exists()
    assert config.CourseDirectory.feedback_directory != "feedback"


def test_a_source_that_breaks_the_rules_is_refused(tmp_path):
    good = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09").notebook
    path = tmp_path / "ps01-x.ipynb"

    def broken(change):
        notebook = copy.deepcopy(good)
        change({c.id: c for c in notebook.cells}, notebook)
        path.write_text(json.dumps(notebook))
        with pytest.raises(ValueError) as caught:
            source.load(path)
        return str(caught.value)

    def strip(marker, cell):
        def change(cells, _):
            cells[cell].source = "\n".join(line for line in cells[cell].source.splitlines() if marker not in line)

        return change

    assert "must hold ### BEGIN HIDDEN TESTS" in broken(strip("BEGIN HIDDEN", "q1-test"))
    assert "must hold ### END SOLUTION" in broken(strip("END SOLUTION", "q1-answer"))
    assert "used twice" in broken(lambda cells, nb: cells["q1-test"].metadata.nbgrader.update(grade_id="q2-test"))
    assert "no nbgrader id" in broken(lambda cells, nb: nb.cells.append(nbformat.v4.new_code_cell("1")))
    assert "points above 0" in broken(lambda cells, nb: cells["q1-test"].metadata.nbgrader.update(points=0))
    assert "not plain Python" in broken(lambda cells, nb: cells["imports"].update(source="%matplotlib inline"))
    assert "without a line NAME" in broken(lambda cells, nb: cells["variant"].update(source="X = 1"))
    assert "has outputs" in broken(lambda cells, nb: cells["imports"].outputs.append(nbformat.v4.new_output("stream", text="x")))
    with pytest.raises(ValueError, match="did you mean 'ps09'"):
        source.get_set(ROOT / "notebooks" / "problem_sets", "ps9")


def test_the_pages_and_numbers_are_the_same_every_time(tmp_path):
    problem = source.get_set(ROOT / "notebooks" / "problem_sets", "ps09")
    first = [path.read_bytes() for path in handout.write(problem, tmp_path)]
    assert [path.read_bytes() for path in handout.write(problem, tmp_path)] == first
    assert variants.draw("A = 1  #: integers(1, 6)", bytes(32), "ann", "ps09") == variants.draw(
        "A = 1  #: integers(1, 6)", bytes(32), "ann", "ps09"
    )
