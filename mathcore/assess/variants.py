"""Each student's own numbers: drawn from a secret key and the student's name, written into their copy as plain literals.

A variant cell of the source gives every number a default and the law it is drawn from:

    MU = 0.7       #: uniform(-1.5, 1.5, digits=2)
    STD = 0.25     #: choice(0.2, 0.25, 0.3)
    STEPS = 12     #: integers(8, 16)

Students see the literals without the laws. Whoever holds the key and the roster can compute them again, nobody else can.
"""

import ast
import csv
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathcore._validate import one_of

LAWS = ("uniform", "integers", "choice")
_LINE = re.compile(r"^(?P<name>[A-Za-z_]\w*) = (?P<default>.+?)\s*#: (?P<law>.+)$")


@dataclass(frozen=True)
class Law:
    """How one number is drawn: ``kind`` of :data:`LAWS` with its arguments, and the default for the shared release."""

    kind: str
    args: tuple[Any, ...]
    digits: int
    default: Any

    def draw(self, seed: bytes) -> Any:
        """The value that 32 random bytes give."""
        if self.kind == "choice":
            return self.args[int.from_bytes(seed, "big") % len(self.args)]
        low, high = self.args
        if self.kind == "integers":
            return low + int.from_bytes(seed, "big") % (high - low + 1)
        return round(low + (high - low) * int.from_bytes(seed[:8], "big") / 2**64, self.digits)


def laws(source: str) -> dict[str, Law]:
    """Return the laws of a variant cell by name.

    Raises:
        ValueError: a line that looks like a law and is none; an unknown law, wrong arguments, or a default that is no literal.
    """
    found: dict[str, Law] = {}
    for line in source.splitlines():
        match = _LINE.match(line.strip())
        if match:
            found[match["name"]] = _law(match["name"], match["default"], match["law"])
        elif "#:" in line:
            raise ValueError(f"not a line of the form NAME = default  #: law(...): {line.strip()!r}")
    return found


def _law(name: str, default: str, text: str) -> Law:
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not a call")
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        value = ast.literal_eval(default)
        kind = call.func.id
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{name}: the default must be a literal and the law a call such as uniform(0, 1, digits=2), got {text!r}"
        ) from None
    one_of(kind, LAWS, f"the law of {name}")
    if kind == "choice" and not args:
        raise ValueError(f"{name}: choice() needs at least one value")
    if kind != "choice" and (len(args) != 2 or not all(type(a) in (int, float) for a in args) or args[0] >= args[1]):
        raise ValueError(f"{name}: {kind} needs a lower and a higher number, got {text!r}")
    if kind == "integers" and not all(type(a) is int for a in args):
        raise ValueError(f"{name}: integers needs two integers, got {text!r}")
    if set(options) - {"digits"} or (options and kind != "uniform"):
        raise ValueError(f"{name}: {kind} does not take {', '.join(options)}")
    return Law(kind, args, int(options.get("digits", 3)), value)


def seed(key: bytes, student: str, problem_set: str, question: str) -> bytes:
    """HMAC-SHA256 of student, set and question under the key; each part is preceded by its length, so that no two triples collide.

    Raises:
        ValueError: a key of fewer than 16 bytes.
    """
    if len(key) < 16:
        raise ValueError(f"the key must have at least 16 bytes, got {len(key)}")
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (p.encode() for p in (student, problem_set, question)))
    return hmac.new(key, message, hashlib.sha256).digest()


def draw(source: str, key: bytes, student: str, problem_set: str) -> dict[str, Any]:
    """The numbers of one student for a variant cell."""
    return {name: law.draw(seed(key, student, problem_set, name)) for name, law in laws(source).items()}


def render(source: str, values: Mapping[str, Any] | None = None) -> str:
    """The variant cell as students see it: literals, no laws; the defaults where ``values`` has none."""
    lines = []
    for line in source.splitlines():
        match = _LINE.match(line.strip())
        if match:
            value = (values or {}).get(match["name"], ast.literal_eval(match["default"]))
            line = f"{match['name']} = {value!r}"
        lines.append(line)
    return "\n".join(lines)


def read_roster(path: Path) -> dict[str, dict[str, str]]:
    """Return ``{student: {first_name, last_name, email}}`` from a CSV file with a column ``id`` and, if wanted, those of nbgrader.

    Raises:
        ValueError: no file, no such column, a repeated or unusable id.
    """
    if not path.is_file():
        raise ValueError(f"there is no roster at {path}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "id" not in rows[0]:
        raise ValueError(f"{path} must be a CSV file with a header row that has a column id, and at least one student")
    students: dict[str, dict[str, str]] = {}
    for row in rows:
        student = (row.pop("id") or "").strip()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.@-]*", student):
            raise ValueError(f"{path}: an id must be letters, digits and any of _ . @ - after the first character, got {student!r}")
        if student in students:
            raise ValueError(f"{path}: the id {student!r} stands in two rows")
        students[student] = {k: (v or "").strip() for k, v in row.items() if k in ("first_name", "last_name", "email")}
    return students


def read_key(path: Path) -> bytes:
    """Return the key of a course, made on first use and readable by its owner only.

    Raises:
        ValueError: the file holds no key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    try:
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        raise ValueError(f"{path} holds no key: it must be one line of hexadecimal digits") from None
