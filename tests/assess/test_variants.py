"""A student's numbers: reproducible with the key, inside their laws, unlike another student's, and never with the key in them."""

import hashlib
import hmac
import statistics

import pytest

from mathcore.assess import variants

KEY = bytes(range(32))
CELL = """# your numbers
MU = 0.7  #: uniform(-1.5, 1.5, digits=2)
STD = 0.25  #: choice(0.2, 0.25, 0.3)
STEPS = 12  #: integers(8, 16)"""


def test_the_seed_is_the_hmac_of_the_three_parts():
    message = b"\0\0\0\3ann\0\0\0\4ps09\0\0\0\2MU"
    assert variants.seed(KEY, "ann", "ps09", "MU") == hmac.new(KEY, message, hashlib.sha256).digest()
    assert variants.seed(KEY, "an", "nps09", "MU") != variants.seed(KEY, "ann", "ps09", "MU")  # no two triples run together


def test_numbers_obey_their_laws_and_differ_between_students():
    drawn = [variants.draw(CELL, KEY, f"student{k}", "ps09") for k in range(400)]
    assert drawn[0] == variants.draw(CELL, KEY, "student0", "ps09")
    assert all(-1.5 <= d["MU"] <= 1.5 and d["MU"] == round(d["MU"], 2) for d in drawn)
    assert {d["STD"] for d in drawn} == {0.2, 0.25, 0.3}
    assert {d["STEPS"] for d in drawn} == set(range(8, 17))
    assert abs(statistics.mean(d["MU"] for d in drawn)) < 5 * (3 / 12**0.5) / 20  # five standard errors of 400 uniform draws of width 3
    assert len({tuple(d.values()) for d in drawn}) > 390
    assert drawn[0] != variants.draw(CELL, bytes(32), "student0", "ps09")
    assert drawn[0] != variants.draw(CELL, KEY, "student0", "ps02")


def test_the_students_copy_holds_literals_only():
    assert variants.render(CELL) == "# your numbers\nMU = 0.7\nSTD = 0.25\nSTEPS = 12"
    assert variants.render(CELL, {"MU": -0.31, "STD": 0.3, "STEPS": 9}) == "# your numbers\nMU = -0.31\nSTD = 0.3\nSTEPS = 9"
    assert variants.laws(variants.render(CELL)) == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("MU = 1  #: unifrom(0, 1)", "did you mean 'uniform'"),
        ("MU = 1  #: uniform(1, 0)", "lower and a higher"),
        ("MU = 1  #: uniform(0)", "lower and a higher"),
        ("MU = 1  #: integers(0.5, 2)", "two integers"),
        ("MU = 1  #: choice()", "at least one"),
        ("MU = 1  #: uniform(0, 1, digit=2)", "does not take digit"),
        ("MU = f(1)  #: uniform(0, 1)", "must be a literal"),
        ("MU = 1  #: uniform(0, __import__('os'))", "must be a literal"),
        ("MU = 1  #: 3 + 4", "a call such as"),
        ("print(1)  #: uniform(0, 1)", "not a line of the form"),
    ],
)
def test_a_bad_law_is_refused(line, says):
    with pytest.raises(ValueError, match=says):
        variants.laws(line)


def test_rosters(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("id,first_name,email,group\nann,Ann,ann@x.org,3\nbob-2,Bob,,\n", encoding="utf-8-sig")
    assert variants.read_roster(path) == {"ann": {"first_name": "Ann", "email": "ann@x.org"}, "bob-2": {"first_name": "Bob", "email": ""}}
    for text, says in (
        ("name\nann\n", "column id"),
        ("id\n", "at least one student"),
        ("id\nann\nann\n", "two rows"),
        ("id\n../x\n", "must be letters"),
        ("id\n\n ,\n", "must be letters"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            variants.read_roster(path)
    with pytest.raises(ValueError, match="no roster"):
        variants.read_roster(tmp_path / "none.csv")


def test_keys(tmp_path):
    path = tmp_path / "instructor" / "key"
    key = variants.read_key(path)
    assert len(key) == 32
    assert variants.read_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("secret")
    with pytest.raises(ValueError, match="hexadecimal"):
        variants.read_key(path)
    with pytest.raises(ValueError, match="at least 16 bytes"):
        variants.seed(b"short", "ann", "ps09", "MU")
