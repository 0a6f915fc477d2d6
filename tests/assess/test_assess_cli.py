"""``python -m mathcore.assess``: what is wrong with the input is one line and exit status 2; nothing is written then."""

import pytest

from mathcore.assess.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["release", "ps9"], "did you mean 'ps09'"),
        (["release", "ps09", "--students", "none.csv"], "there is no roster at none.csv"),
        (["grade"], "grade needs one set"),
        (["grade", "ps09"], "was not released in"),
        (["collect", "folder"], "collect needs a folder"),
        (["collect", "nowhere", "ps09", "--students", "roster.csv"], "there is no folder or zip file nowhere"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roster.csv").write_text("id\nann\n")
    assert main([*arguments, "--course", "course", "--handouts", "pages"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roster.csv"]


def test_release_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no environment is activated, and nbgrader still finds the alembic beside it
    (tmp_path / "roster.csv").write_text("id\nann\n")
    course = tmp_path / "course"
    places = ["--course", str(course), "--handouts", str(tmp_path / "pages"), "--students", str(tmp_path / "roster.csv")]
    assert main(["release", "ps09", *places]) == 0
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
    assert "1 submissions collected" in capsys.readouterr().out
