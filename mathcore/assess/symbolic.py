"""Is this expression the right one? Any equivalent form counts; a wrong one is told what is wrong with it.

``compare`` works in a process of its own that holds no secrets, has a memory limit and is killed when its time is up, so that no expression can hang or
exhaust the caller. Expressions travel as :mod:`mathcore.assess.tree`; strings are never evaluated. The judgement itself is in :mod:`mathcore.assess._verdict`.
"""

import atexit
import json
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathcore._validate import positive
from mathcore.assess import tree
from mathcore.assess.confine import SLICE, Watch

MEMORY = 2 << 30
"""Bytes of address space of the process that compares."""
PATIENCE = 5.0
"""Seconds that may pass on the wall for each second of processor time that a comparison is allowed: a busy machine fails nobody."""


@dataclass(frozen=True)
class Comparison:
    """Whether two expressions agree, which kind of difference was recognised, and a sentence for the student (empty if they agree)."""

    equal: bool
    kind: str
    message: str


@dataclass(frozen=True)
class Answer:
    """A symbolic answer that came from another process: its description, never decoded outside the comparing process."""

    tree: list


def compare(
    got: Any,
    expected: Any,
    where: Mapping[str, tuple[float, float]] | None = None,
    subs: Mapping[Any, Any] | None = None,
    seconds: float = 20.0,
) -> Comparison:
    """Compare the student's expression ``got`` with ``expected``, by their values at random points that respect the symbols' assumptions.

    Symbols are the same if their names are; the assumptions of ``expected`` hold. Undefined functions are replaced by random smooth positive ones.

    Args:
        got: sympy expression, a matrix or (nested) tuple of them, a number, or an :class:`Answer`. expected: the same, trusted.
        where: ranges ``{name: (low, high)}`` of symbols, instead of those that follow from their assumptions.
        subs: replacements made in ``got`` before the comparison, symbols or names to expressions (to check a limit or a special case).
        seconds: processor time that the whole comparison may take.

    Raises:
        ValueError: ``expected`` or ``subs`` cannot be described (see :func:`tree.encode`), or a limit that is not positive.
    """
    positive(seconds, "seconds")
    try:
        described = describe(got)
    except tree.Untranslatable as error:
        return Comparison(False, "type", f"the answer is not an expression that can be compared: {error}")
    if described is None:
        return Comparison(False, "type", f"the answer should be a sympy expression, it is {_kind(got)}")
    request = {
        "got": described,
        "expected": _described(expected, "expected"),
        "where": {name: [float(low), float(high)] for name, (low, high) in (where or {}).items()},
        "subs": [[str(old), _described(new, "subs")] for old, new in (subs or {}).items()],
    }
    try:
        reply = _WORKER.ask(request, seconds)
    except TimeoutError:
        return Comparison(False, "time", f"the comparison took more than {seconds:g} s: simplify the answer before you return it")
    except EOFError:
        return Comparison(False, "memory", "the comparison ran out of memory: the expression is too large")
    return Comparison(bool(reply["equal"]), str(reply["kind"]), str(reply["message"]))


def describe(value: Any) -> list | None:
    """Return ``value`` as a tree, a (nested) tuple or list as ``["Parts", ...]``; ``None`` if it is no mathematics at all."""
    import sympy

    if isinstance(value, Answer):
        return value.tree
    if isinstance(value, (list, tuple)):
        parts = [describe(part) for part in value]
        return None if any(part is None for part in parts) else ["Parts", *parts]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = sympy.sympify(value)
    return tree.encode(value) if isinstance(value, (sympy.Basic, sympy.MatrixBase)) else None


def _described(value: Any, name: str) -> list:
    described = describe(value)
    if described is None:
        raise ValueError(f"{name} must be a sympy expression, got {type(value).__name__}")
    return described


def _kind(value: Any) -> str:
    if value is None:
        return "None (is a return missing?)"
    return (
        f"a string (write the expression without quotes): {value[:60]!r}" if isinstance(value, str) else f"of type {type(value).__name__}"
    )


class Worker:
    """The comparing process: started at the first question, killed when one takes too long, then started again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def ask(self, request: dict, seconds: float) -> dict:
        """Return the answer to one request.

        Raises:
            TimeoutError: none within ``seconds`` of the process's own time. EOFError: the process ended instead.
        """
        process = self._running()
        assert process.stdin is not None
        watch = Watch(process.pid, seconds, PATIENCE)
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _read_line(process, watch)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            self.close()
            raise TimeoutError if isinstance(error, TimeoutError) else EOFError from error
        return json.loads(line)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            self.close()
            root = str(Path(__file__).resolve().parents[2])
            command = [
                sys.executable,
                "-P",
                "-c",
                f"import sys; sys.path.insert(0, {root!r}); from mathcore.assess._verdict import serve; serve({MEMORY})",
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
            if _read_line(self._process, Watch(self._process.pid, 60, PATIENCE)) != b"ready\n":  # importing sympy is not the student's time
                raise RuntimeError("the process that compares expressions did not start")
        return self._process


def _read_line(process: subprocess.Popen, expired: Watch) -> bytes:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        while not select.select([process.stdout], [], [], SLICE)[0]:
            if expired():
                raise TimeoutError
        chunk = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        if not chunk:
            raise EOFError
        line += chunk
    return line


_WORKER = Worker()
atexit.register(_WORKER.close)
