"""The submission's process: confines itself, then runs the student's cells and answers calls of the functions they define.

Started by :mod:`mathcore.assess.sandbox`. A template imports what every submission needs once, reads nothing else, and forks one process per submission;
none of them holds anything worth stealing: no tests, no truth, no other student's work.
"""

import json
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any


def template(control: int) -> None:
    """Import the heavy libraries, then fork a submission's process for each request on the socket ``control`` until it closes."""
    import importlib
    import socket

    import torch

    from mathcore.assess import confine

    # of the book nothing that a set could withhold: what was never loaded cannot be dug out of the memory of a submission's process
    for name in ("sympy", "numpy", "jaxtyping", "mathcore.assess.wire", "mathcore.assess.checks"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    shell = _shell()
    line = socket.socket(fileno=control)
    line.send(b"ready")
    while True:
        data, fds, _, _ = socket.recv_fds(line, 1 << 16, 2)
        if not data:
            return
        request = json.loads(data)
        if request["op"] == "wait":
            line.send(str(_wait(request["pid"])).encode())
        elif pid := os.fork():
            for fd in fds:
                os.close(fd)
            line.send(str(pid).encode())
        else:
            line.close()
            with suppress(BaseException):
                _become(request, confine)
                serve(shell, fds)
            os._exit(0)


def _wait(pid: int) -> int:
    """Exit status of a submission that ends within two seconds, negative for a signal; 0 if it does not."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # it was collected before
            return 0
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return 0


def _become(settings: dict, confine: Any) -> None:
    """Turn a fresh copy of the template into the confined process of one submission."""
    import tempfile

    os.setsid()
    os.chdir(settings["work"])
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR"), settings["work"]))
    tempfile.tempdir = None
    confine.limit(settings["memory"], settings["cpu"], settings["file_size"])
    if settings["withheld"]:
        for name in [n for n in sys.modules if any(n == w or n.startswith(w + ".") for w in settings["withheld"])]:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if hasattr(sys.modules.get(parent), child):
                delattr(sys.modules[parent], child)
        sys.meta_path.insert(0, Withheld(tuple(settings["withheld"])))
    if settings["confined"]:
        confine.confine(settings["read"], settings["listed"], settings["work"])


class Withheld:
    """Refuses the imports that would answer the set."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for a withheld module, leave every other to the next finder.

        Raises:
            ImportError: ``name`` is withheld.
        """
        for withheld in self._names:
            if name == withheld or name.startswith(withheld + "."):
                raise ImportError(f"{withheld} is not available here: this set asks you to write what it holds")


def serve(shell: Any, fds: list[int]) -> None:
    """Answer requests: run a cell, look names up, call a function, read an attribute."""
    from mathcore.assess.wire import Closed, Stub, Wire

    class Theirs(Stub):
        """A function that the grader handed over: called here, run there."""

        def __init__(self, number: int) -> None:
            self.number = number

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            wire.send({"op": "callback", "target": self, "args": args, "kwargs": kwargs})
            reply = wire.receive()
            if reply["op"] == "error":
                import builtins

                raise getattr(builtins, reply["name"], RuntimeError)(reply["message"])
            return reply["value"]

    wire = Wire(fds[0], fds[1], symbolic=True, stub=lambda number, kind: Theirs(number))
    wire.send({"op": "ready"})
    while True:
        try:
            request = wire.receive()
        except Closed:
            return
        try:
            reply = {"op": "value", "value": _answer(shell, request)}
            wire.send(reply)
        except BaseException as error:
            wire.send({"op": "error", "name": type(error).__name__, "message": _message(error), "traceback": _traceback(error)})


def _answer(shell: Any, request: dict) -> Any:
    if request["op"] == "run":
        return _run(shell, request["source"])
    if request["op"] == "names":
        return {name: shell.user_ns[name] for name in request["names"] if name in shell.user_ns}
    if request["op"] == "get":
        return getattr(request["target"], request["name"])
    return request["target"](*request["args"], **request["kwargs"])


def _shell() -> Any:
    """An IPython shell without history; its pictures are kept by the inline backend."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui: Any = None) -> None:
            """Do nothing: there is no window here."""

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    config.InteractiveShell.cache_size = 0
    shell = Shell.instance(config=config)
    shell.enable_matplotlib("inline")
    return shell


def _run(shell: Any, source: str) -> dict:
    """Run a cell; return its text, its pictures and its error, if any."""
    from IPython.utils.capture import capture_output

    start = time.monotonic()
    with capture_output() as captured:
        result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    pictures = [output.data["image/png"] for output in captured.outputs if "image/png" in output.data]
    texts = [output.data.get("text/plain", "") for output in captured.outputs if "image/png" not in output.data]
    reply = {
        "seconds": time.monotonic() - start,
        "stdout": captured.stdout[:20_000] if error is None else "",
        "texts": [t[:20_000] for t in texts],
    }
    reply["pictures"] = [_base64(picture) for picture in pictures][:20]
    reply["error"] = None if error is None else [type(error).__name__, _message(error)[:5_000], _traceback(error)]
    return reply


def _base64(picture: Any) -> str:
    import base64

    return picture if isinstance(picture, str) else base64.b64encode(picture).decode()


def _message(error: BaseException) -> str:
    """The message of an error; that of a syntax error without file and line, which stand in the traceback."""
    return str(error.msg or "") if isinstance(error, SyntaxError) else str(error)


def _traceback(error: BaseException) -> str:
    """The frames of the student's own cells, the line that is no Python, and the error."""
    import traceback

    summary = traceback.TracebackException.from_exception(error, limit=-20)
    kept = [frame for frame in summary.stack if "ipython-input" in frame.filename or "mathcore/assess" not in frame.filename]
    own = [frame for frame in kept if "IPython" not in frame.filename]
    lines = [f"your code, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in own if "ipython-input" in frame.filename]
    if isinstance(error, SyntaxError) and type(error.lineno) is int and type(error.filename) is str:
        _, *line, _ = "".join(summary.format_exception_only()).splitlines()  # between the name of the file and the message
        here = "your code" if re.match("<ipython-input|<tokenize>", error.filename) else error.filename
        lines += [f"{here}, line {error.lineno}:", *line]
    return "\n".join([*lines, f"{type(error).__name__}: {_message(error)}".removesuffix(": ")])[:5_000]
