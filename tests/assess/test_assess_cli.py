"""``python -m mathcore.assess``: what is wrong with the input is one line and exit status 2, nothing is written then; and a small set from release to grades."""

import csv
import os
import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from mathcore.assess import by_hand, confine, grading, release, source
from mathcore.assess.__main__ import main
from mathcore.assess.sandbox import Limits

UNCONFINED = [] if confine.landlock_version() else ["--unconfined"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["release", "ps9"], "did you mean 'ps09'"),
        (["release", "ps09", "--students", "none.csv"], "there is no roster at none.csv"),
        (["grade"], "grade needs one set"),
        (["grade", "ps02", "ps09"], "grade needs one set"),
        (["grade", "ps09"], "was not released in"),
        (["grade", "ps09", "--students", "none.csv"], "there is no roster at none.csv"),
        (["try"], "try needs one set"),
        (["try", "ps9"], "did you mean 'ps09'"),
        (["collect", "folder"], "collect needs a folder"),
        (["collect", "nowhere", "ps09", "--students", "roster.csv"], "there is no folder or zip file nowhere"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roster.csv").write_text("id\nann\n")
    pages = ["--handouts", "pages"] if arguments[0] == "release" else []
    assert main([*arguments, "--course", "course", *pages]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roster.csv"]


def test_release_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no environment is activated, and nbgrader still finds the alembic beside it
    (tmp_path / "roster.csv").write_text("id\nann\n")
    course = tmp_path / "course"
    places = ["--course", str(course), "--students", str(tmp_path / "roster.csv")]
    assert main(["release", "ps09", *places, "--handouts", str(tmp_path / "pages")]) == 0
    out = capsys.readouterr().out
    assert "ps09: 2 notebooks" in out
    assert "keep" in out
    assert (course / "release" / "ann" / "ps09" / "ps09-solvers.ipynb").is_file()
    assert (tmp_path / "pages" / "ps09-solvers.md").is_file()
    assert (tmp_path / "pages" / "downloads" / "ps09-solvers.ipynb").is_file()
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "ann_ps09.ipynb").write_text("{}")
    assert main(["collect", str(inbox), "ps09", *places]) == 0
    assert capsys.readouterr().out == "1 submission collected\n"
    put(inbox / "ann_ps09.ipynb", "{ }", 4e9)
    put(inbox / "Bob.ipynb", "{}", 4e9)
    assert main(["collect", str(inbox), "ps09", *places]) == 0
    kept = next((course / "instructor" / "replaced" / "ann").iterdir())
    assert capsys.readouterr().out.splitlines() == [
        "1 submission collected",
        f"ann has handed in again: the earlier notebook is kept as {kept}",
        "not placed: Bob.ipynb: no id or name of the roster stands in its path as a word",
    ]
    put(inbox / "ann_ps09.ipynb", "", 1e9)
    assert main(["collect", str(inbox), "ps09", *places]) == 0
    assert "ann: left out as older than what was collected before: ann_ps09.ipynb" in capsys.readouterr().out
    (inbox / "ann_ps09.ipynb").unlink()
    assert main(["collect", str(inbox), "ps09", *places]) == 2
    assert "no notebook could be given to a student" in capsys.readouterr().err


def put(path, text, modified):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (modified, modified))


@pytest.mark.parametrize("action", ["release", "try", "collect", "grade"])
def test_every_action_has_its_own_help_with_an_example(action, capsys):
    with pytest.raises(SystemExit) as caught:
        main([action, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert f"Example: python -m mathcore.assess {action} ps09" in text
    assert ("--only" in text) == (action == "grade")
    if action == "grade":
        assert (
            "60 seconds of processor time for a cell and 60 for all it computes for one test cell, 5 times as much on the clock, and 4 GiB"
            in text
        )


SETUP = """import math"""
FIRST = """def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION"""
FIRST_TEST = """assert double(3) == 6, "three doubled is six"
### BEGIN HIDDEN TESTS
assert double(math.pi) == 2 * math.pi, "a number that is no integer"
### END HIDDEN TESTS"""
SECOND = """def triple(x):
    ### BEGIN SOLUTION
    return double(x) + x
    ### END SOLUTION"""
SECOND_TEST = """x = 2
assert triple(x) == 6
### BEGIN HIDDEN TESTS
assert triple(5) == 15, "five tripled"
### END HIDDEN TESTS"""

AS_RELEASED = "as released"


@pytest.fixture
def tiny(tmp_path):
    """The folder of sources with one set of two questions, 5 and 15 points, whose second answer uses the first."""
    cells = [nbformat.v4.new_markdown_cell("# Problem set 1. Tiny\n\nTwo questions.", id="intro")]
    for name, text in (("imports", SETUP), ("q1-answer", FIRST), ("q1-test", FIRST_TEST), ("q2-answer", SECOND), ("q2-test", SECOND_TEST)):
        cells.append(nbformat.v4.new_code_cell(text, id=name))
    for cell in cells:
        kind = cell.id.rpartition("-")[2]
        facts = {"grade": kind == "test", "solution": kind == "answer", "locked": kind != "answer", "schema_version": 3, "task": False}
        cell.metadata["nbgrader"] = (
            facts | {"grade_id": cell.id} | ({"points": 5 if cell.id == "q1-test" else 15} if kind == "test" else {})
        )
    cells[1].metadata["tags"] = ["setup"]
    path = tmp_path / "sources" / "ps01-tiny" / "ps01-tiny.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return tmp_path / "sources"


class TinyCourse:
    """The course of the small set by command, with a roster of ann and bob."""

    def __init__(self, sources, folder, capsys):
        self.course, self._capsys = release.Course(folder / "course"), capsys
        self.problem = source.get_set(sources, "ps01")
        (folder / "roster.csv").write_text("id\nann\nbob\n")
        self.places = ["--sources", str(sources), "--course", str(self.course.root)]
        self.roster = ["--students", str(folder / "roster.csv")]
        self.run("release", "--handouts", str(folder / "pages"))  # all sets, of which there is one

    def run(self, *arguments, status=0):
        """Return what is printed, by line."""
        assert main([*arguments, *self.places]) == status
        return self._capsys.readouterr().out.splitlines()

    def grade(self, *arguments):
        return self.run("grade", "ps01", *self.roster, *UNCONFINED, *arguments)[:-1]

    def hand_in(self, student, first=FIRST, second=SECOND, own=""):
        """The answers; one that is ``None`` is deleted."""
        notebook = nbformat.read(self.course.root / "release" / "ps01" / "ps01-tiny.ipynb", as_version=4)
        cells = {cell.id: cell for cell in notebook.cells}
        for name, text in (("q1-answer", first), ("q2-answer", second)):
            if text is None:
                notebook.cells.remove(cells[name])
            elif text != AS_RELEASED:
                cells[name].source = text
        notebook.cells.insert(2, nbformat.v4.new_code_cell(own))
        path = self.course.root / "submitted" / student / "ps01" / "ps01-tiny.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)

    def score_by_hand(self, student, test, points):
        """What the formgrader does."""
        from nbgrader.api import Gradebook

        with release.using_nbgrader(), Gradebook(self.course.database) as book:
            grade = book.find_grade(test, "ps01-tiny", "ps01", student)
            grade.manual_score, grade.needs_manual_grade = points, False
            book.db.commit()

    def page(self, student):
        """The lines of the list and the failures on a student's page."""
        page = BeautifulSoup(
            (self.course.root / "feedback" / student / "ps01" / "ps01-tiny.html").read_text(encoding="utf-8"), "html.parser"
        )
        return [li.get_text() for li in page.nav.find_all("li")], [pre.get_text() for pre in page.find_all(class_="failure")]

    @property
    def rows(self):
        with (self.course.root / "grades" / "ps01.csv").open(newline="") as file:
            return {row["student"]: row for row in csv.DictReader(file)}


def line(student, score, rest=""):
    return f"{student:20} {score:6g} of 20" + (f"  {rest}" if rest else "")


def test_a_score_by_hand_lasts_as_long_as_the_answer(tiny, tmp_path, capsys):
    course = TinyCourse(tiny, tmp_path, capsys)
    wrong = "def triple(x):\n    return double(x)"
    course.hand_in("ann", second=wrong)
    assert course.grade("--only", "ann") == [line("ann", 5, "lost: q2")]
    course.score_by_hand("ann", "q2-test", 7)
    kept = f"{'':20} q2: 7 by hand, the tests say 0"
    assert course.grade("--only", "ann") == [line("ann", 12, "lost: q2 (7 of 15)"), kept]
    course.hand_in("ann", second=wrong, own="# a thought of mine\nscratch = triple(1)")
    assert course.grade("--only", "ann")[1] == kept  # no answer has changed
    path = course.course.root / "submitted" / "ann" / "ps01" / "ps01-tiny.ipynb"
    path.write_text("broken")
    assert "not a notebook" in course.grade("--only", "ann")[0]
    course.hand_in("ann")
    dropped = f"{'':20} q2: 7 by hand dropped, since the answer has changed; the tests say 15"
    assert course.grade("--only", "ann") == [line("ann", 20), dropped]
    assert course.grade("--only", "ann") == [line("ann", 20)]
    course.score_by_hand("ann", "q2-test", 0)  # copied from a friend
    assert course.grade("--only", "ann") == [line("ann", 5, "lost: q2"), f"{'':20} q2: 0 by hand, the tests say 15"]
    (course.course.instructor / "autograded" / "ann" / "ps01" / "ps01-tiny.ipynb").unlink()
    assert "the copy that you saw is gone" in course.grade("--only", "ann")[1]
    course.hand_in("ann", first="def double(x):\n    return x + x")  # the second answer calls the first
    assert "q2: 0 by hand dropped" in course.grade("--only", "ann")[1]
    assert float(course.rows["ann"]["q2-test"]) == 15


def test_who_handed_in_nothing_has_a_row(tiny, tmp_path, capsys):
    course = TinyCourse(tiny, tmp_path, capsys)
    course.hand_in("ann")
    assert course.grade("--only", "ann") == [line("ann", 20)]
    assert set(course.rows) == {"ann"}
    assert course.grade() == [line("ann", 20), line("bob", 0, "no submission")]
    empty = {"student": "bob", "score": "0.0", "total": "20.0", "q1-test": "0.0", "q2-test": "0.0", "note": "no submission"}
    assert course.rows["bob"] == empty
    course.hand_in("bob", second="def triple(x):\n    return 7")
    assert course.grade() == [line("ann", 20), line("bob", 5, "lost: q2")]
    (course.course.root / "submitted" / "bob").rename(tmp_path / "elsewhere")
    assert course.grade() == [line("ann", 20)]
    assert (course.rows["bob"]["score"], course.rows["bob"]["note"]) == ("5.0", "")  # a score that was earned stays


def test_what_has_no_answer_is_told_from_what_is_wrong(tiny, tmp_path, capsys):
    course = TinyCourse(tiny, tmp_path, capsys)
    course.hand_in("ann", first=AS_RELEASED, second=None)
    course.hand_in("bob", second=None, own="def triple(x):\n    return 3 * x")  # the answer stands elsewhere
    lacks = "not answered: q1; answer cell missing: q2"
    assert course.grade() == [line("ann", 0, lacks), line("bob", 20)]
    assert [course.rows[student]["note"] for student in ("ann", "bob")] == [lacks, ""]
    listed, failures = course.page("ann")
    assert listed == ["✗ Question 1: 0 of 5, not answered", "✗ Question 2: 0 of 15, answer cell missing"]
    assert failures[1] == "NoAnswer: the notebook that you handed in has no cell q2-answer, so name 'triple' is not defined"
    course.score_by_hand("ann", "q2-test", 3)  # for what stands in an e-mail
    assert course.grade("--only", "ann")[0] == line("ann", 3, "lost: q2 (3 of 15); not answered: q1")
    course.hand_in("bob", first=AS_RELEASED)  # the second answer calls the first
    assert course.grade("--only", "bob") == [line("bob", 0, "lost: q2; not answered: q1")]


def test_an_error_is_printed_once_and_before_what_follows_from_it(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grading, "Limits", lambda: Limits(cell_seconds=2, test_seconds=2, patience=30))
    course = TinyCourse(tiny, tmp_path, capsys)
    course.hand_in("ann", first="def double(x):\n    x = = 2", second="while True:\n    pass")
    assert course.grade("--only", "ann") == [line("ann", 0, "answer cell does not run: q1, q2")]
    assert course.page("ann") == (
        ["✗ Question 1: 0 of 5, answer cell does not run", "✗ Question 2: 0 of 15, answer cell does not run"],
        [
            "SyntaxError: invalid syntax\n\nyour code, line 2:\n    x = = 2\n        ^",
            "NoAnswer: your cell q1-answer ended with the SyntaxError above, so name 'double' is not defined",
            "ProcessEnded: stopped after 2 s: is there a loop that never ends?",
            "NoAnswer: your cell q2-answer ended with the ProcessEnded above, so name 'triple' is not defined",
        ],
    )
    own = "class Own(Exception): pass\ndef triple(x):\n    raise Own('so')"
    course.hand_in("ann", first="def double(x):\n    while True:\n        pass", second=own)
    assert course.grade("--only", "ann") == [line("ann", 0, "lost: q1, q2")]
    assert course.page("ann")[1] == [
        "ProcessEnded: stopped after 2 s: is there a loop that never ends?",
        "Own: so\n\nin your code:\nyour code, line 3, in triple: raise Own('so')",
    ]


def change(sources, old, new):
    path = sources / "ps01-tiny" / "ps01-tiny.ipynb"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_set_is_tried_without_touching_the_course(tiny, tmp_path, capsys):
    course = TinyCourse(tiny, tmp_path, capsys)
    change(tiny, "five tripled", "five times three")
    before = {path: path.read_bytes() for path in course.course.root.rglob("*") if path.is_file()}
    assert course.run("try", "ps01", *UNCONFINED) == [
        "ps01: the solutions get 20 of 20",
        f"the release in {course.course.root} was made from another version of the source: release again",
    ]
    assert {path: path.read_bytes() for path in course.course.root.rglob("*") if path.is_file()} == before


def test_a_set_whose_solutions_fail_is_not_ready(tiny, tmp_path, capsys):
    change(tiny, "triple(5) == 15", "triple(5) == 16")
    assert main(["try", "ps01", *UNCONFINED, "--sources", str(tiny), "--course", str(tmp_path / "course")]) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == ["ps01: the solutions get 5 of 20", "q2: AssertionError: five tripled"]
    assert said.err == "problem sets: the solutions of ps01 should get all points; lost: q2\n"
    assert not (tmp_path / "course").exists()


def test_what_belongs_to_an_answer():
    def cell(text, name="", kind=""):
        facts = {"nbgrader": {"grade_id": name, "grade": kind == "test", "solution": kind == "answer"}} if name else {}
        return nbformat.v4.new_code_cell(text, metadata=facts)

    answer, helper = "def f(x):\n    return [helper(k) for k in x]", "def helper(x):\n    global SCALE\n    SCALE = 2\n    return x"
    cells = [
        cell("import torch", "imports"),
        cell("import torch"),
        cell(helper),
        cell(answer, "q1-answer", "answer"),
        cell("got = f([1])\nx = got"),
        cell("def g(y):\n    return SCALE * y", "q2-answer", "answer"),
        cell("for x in [1, 2]:\n    assert f(x) == torch.ones(x)", "q1-test", "test"),
        cell("assert g(1)", "q2-test", "test"),
        cell("this is no Python"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert by_hand.answer(notebook, "q1-test") == [helper, answer, "this is no Python"]
    assert [re.sub(r"\W.*", "", text, flags=re.DOTALL) for text in by_hand.answer(notebook, "q2-test")] == ["def", "def", "this"]
