"""The grader's end: a submission in its own process, killed when it takes too long, started again for what comes after.

What the process is given: the cells of the student's notebook, the locked cells that students have too, and the arguments of calls. What comes back: plain
values (:mod:`mathcore.assess.wire`). After a cell or a call that ended the process, a new one runs the good cells again, so one bad answer stops nothing else.
"""

import atexit
import builtins
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mathcore.assess import checks, confine
from mathcore.assess.wire import Closed, Garbled, Stub, Wire


@dataclass(frozen=True)
class Limits:
    """Bounds of one submission: seconds of its processor time for a cell and for all calls of one test cell, bytes of memory, bytes of a file.

    Processor time, so that a busy machine fails nobody; ``patience`` times as many seconds may pass on the wall, so that sleeping does not help either.
    """

    cell_seconds: float = 60.0
    test_seconds: float = 60.0
    memory: int = 4 << 30
    file_size: int = 64 << 20
    patience: float = 5.0


class StudentError(Exception):
    """An error of the student's code that is not one of Python's own."""


class ProcessEnded(StudentError):
    """The submission's process took too long, used too much memory, or ended itself."""


class Submission:
    """One student's process.

    Args:
        limits: see :class:`Limits`. withheld: modules that the student's code cannot import. confined: apply Landlock; without it the process reads
            whatever its user can.

    Raises:
        RuntimeError: ``confined`` where the kernel has no Landlock.
    """

    def __init__(self, limits: Limits | None = None, withheld: Iterable[str] = (), confined: bool = True) -> None:
        self.limits, self.withheld, self.confined = limits or Limits(), tuple(withheld), confined
        if confined and not confine.landlock_version():
            raise RuntimeError(
                "this system has no Landlock, so a submission could read the hidden tests and write into the gradebook: grade on Linux 5.13 or newer, "
                "or pass unconfined if you trust every submission or grade inside a container of its own"
            )
        self._work = tempfile.TemporaryDirectory(prefix="submission-")
        self._done: list[str] = []
        self._process: int | None = None
        self._wire: Any = None
        self._budget: float | None = None
        self._watch: confine.Watch | None = None

    def __enter__(self) -> "Submission":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._work.cleanup()

    def run(self, source: str) -> dict:
        """Run a cell; return ``seconds``, ``stdout``, ``texts``, ``pictures`` and ``error`` (``None``, or name, message and traceback).

        A cell that ends the process gives an error of the name ``ProcessEnded``.
        """
        try:
            result = self._ask({"op": "run", "source": source}, self.limits.cell_seconds)
        except ProcessEnded as error:
            return {
                "seconds": 0.0,
                "stdout": "",
                "texts": [],
                "pictures": [],
                "error": ["ProcessEnded", str(error), f"ProcessEnded: {error}"],
            }
        self._done.append(source)
        return result

    def names(self, names: Iterable[str]) -> dict[str, Any]:
        """The student's values of those ``names`` that exist; functions come as :class:`Remote`."""
        return self._ask({"op": "names", "names": list(names)}, self.limits.test_seconds)

    @contextmanager
    def budget(self, seconds: float) -> Iterator[None]:
        """A test runs inside this block: all its calls together get ``seconds``, and the checks keep the right values to themselves."""
        self._budget = seconds
        try:
            with checks.discreet():
                yield
        finally:
            self._budget = self._watch = None

    def kill(self) -> None:
        """End the process and all of its group."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process, signal.SIGKILL)
            _TEMPLATE.wait(self._process)
            self._wire.close()
            self._process = self._watch = None

    # --- the line --------------------------------------------------------------------------------------------------------------------------

    def _ask(self, request: dict, seconds: float) -> Any:
        if self._process is None:
            self._start()
        assert self._process is not None
        watch = self._watch or confine.Watch(self._process, self._budget or seconds, self.limits.patience)
        if self._budget:
            self._watch = watch
        try:
            if watch():
                raise TimeoutError
            return self._converse(request, watch)
        except TimeoutError:
            self.kill()
            raise ProcessEnded(f"stopped after {self._budget or seconds:g} s: is there a loop that never ends?") from None
        except (Closed, Garbled) as error:
            reason = "sent something that cannot be read" if isinstance(error, Garbled) else self._how_it_ended()
            self.kill()
            raise ProcessEnded(f"the process of your notebook {reason}") from None

    def _converse(self, request: dict, watch: confine.Watch) -> Any:
        self._wire.send(request, watch)
        while True:
            reply = self._wire.receive(watch)
            if reply.get("op") == "value":
                return reply["value"]
            if watch():
                raise TimeoutError
            if reply.get("op") == "callback":
                self._wire.send(_called(reply), watch)
            elif reply.get("op") == "error":
                raise _rebuilt(str(reply.get("name")), str(reply.get("message")), str(reply.get("traceback")))
            else:
                raise Garbled("unknown message")

    def _how_it_ended(self) -> str:
        assert self._process is not None
        code = _TEMPLATE.wait(self._process)
        if code < 0:
            return f"was ended by the system ({signal.Signals(-code).name}), most likely for its use of memory or time"
        return f"ended itself (exit status {code})"

    def _start(self) -> None:
        read, listed = confine.readable(self.withheld)
        settings = {
            "op": "fork",
            "memory": self.limits.memory,
            "cpu": int(20 * (self.limits.cell_seconds + self.limits.test_seconds)),
            "file_size": self.limits.file_size,
            "confined": self.confined,
            "read": read,
            "listed": listed,
            "withheld": self.withheld,
            "work": self._work.name,
        }
        there, here = os.pipe(), os.pipe()
        self._process = _TEMPLATE.fork(settings, [there[0], here[1]])
        os.close(there[0])
        os.close(here[1])
        self._wire = Line(here[0], there[1], self)
        try:
            self._wire.receive(confine.Watch(self._process, 60, self.limits.patience))
        except (Closed, TimeoutError, Garbled):
            self.kill()
            raise RuntimeError("the submission's process did not start: its confinement was refused by the system") from None
        for source in self._done:
            self._converse({"op": "run", "source": source}, confine.Watch(self._process, self.limits.cell_seconds, self.limits.patience))


class Template:
    """The process that every submission's process is a copy of: started at the first submission, it has imported torch, sympy and matplotlib."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._control: socket.socket
        self._home: tempfile.TemporaryDirectory

    def fork(self, settings: dict, fds: list[int]) -> int:
        """Start a submission's process with the two ends of its line; return its id."""
        self._running()
        socket.send_fds(self._control, [json.dumps(settings).encode()], fds)
        return int(self._control.recv(64))

    def wait(self, pid: int) -> int:
        """Collect a submission's process that has ended; return its exit status."""
        self._control.send(json.dumps({"op": "wait", "pid": pid}).encode())
        return int(self._control.recv(64))

    def close(self) -> None:
        """End the template, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._control.close()
            self._home.cleanup()
            self._process = None

    def _running(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._home = tempfile.TemporaryDirectory(prefix="grading-")
        self._control, there = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from mathcore.assess._child import template; template({there.fileno()})"
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env=_environment(self._home.name),
                cwd=self._home.name,
                pass_fds=(there.fileno(),),
                start_new_session=True,
            )
            there.close()
            self._control.settimeout(120)
            if self._control.recv(64) != b"ready":
                complaints.seek(0)
                raise RuntimeError(f"the process for submissions did not start: {complaints.read().decode(errors='replace')[-2000:]}")


_TEMPLATE = Template()
atexit.register(_TEMPLATE.close)


class Remote(Stub):
    """A function, or an object with methods, in the student's process: called like any other."""

    def __init__(self, number: int, kind: str, owner: Submission, line: "Line") -> None:
        self.number, self._kind, self._owner, self._line = number, kind, owner, line

    def __repr__(self) -> str:
        return f"<the student's {self._kind}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there with plain values; functions among them are called back here."""
        self._check()
        return self._owner._ask({"op": "call", "target": self, "args": args, "kwargs": kwargs}, self._owner.limits.test_seconds)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._check()
        return self._owner._ask({"op": "get", "target": self, "name": name}, self._owner.limits.test_seconds)

    def _check(self) -> None:
        if self._owner._wire is not self._line or self._owner._process is None:
            raise ProcessEnded("the process of your notebook ended in an earlier call of this test")


class Line(Wire):
    """The grader's end of the wire."""

    def __init__(self, read: int, write: int, owner: Submission) -> None:
        super().__init__(read, write, symbolic=False, stub=lambda number, kind: Remote(number, kind, owner, self))
        os.set_blocking(write, False)

    def close(self) -> None:
        """Close both descriptors."""
        for fd in (self._read, self._write):
            with suppress(OSError):
                os.close(fd)


def _called(request: dict) -> dict:
    """Run one of our own functions for the student's code."""
    try:
        target: Callable[..., Any] = request["target"]
        if isinstance(target, Stub):
            raise TypeError("not a function of the grader")
        return {"op": "value", "value": target(*request["args"], **request["kwargs"])}
    except Exception as error:
        name = type(error).__name__ if hasattr(builtins, type(error).__name__) else "RuntimeError"
        return {"op": "error", "name": name, "message": str(error)}


def _rebuilt(name: str, message: str, trace: str) -> Exception:
    """The student's error as one of ours: Python's own classes keep their name, so that a test can ask for a ``ValueError``."""
    kind = getattr(builtins, name, None)
    error: Exception
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (OSError, UnicodeError)):
        error = kind(message)
    else:
        error = StudentError(f"{name}: {message}")
    error.student_traceback = trace  # type: ignore[attr-defined]
    return error


def _environment(work: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": work,
        "IPYTHONDIR": work,
        "CI": "true",
    }
