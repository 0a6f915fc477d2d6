"""Ctrl-C and SIGTERM between two steps instead of in the middle of one."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Terminated(SystemExit):
    """SIGTERM came: the time limit of a cluster, say. Nobody has to catch it; the process then ends with code 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def held_back(active: bool) -> Iterator[Callable[[], KeyboardInterrupt | Terminated | None]]:
    """Hold Ctrl-C and SIGTERM back while the block runs; what is yielded returns the exception to end with, None as long as neither came.

    The first signal is answered by a line on stderr. Ctrl-C after it interrupts at once, wherever the program is; another SIGTERM does not,
    since nobody presses it, and programs such as ``timeout`` may send it twice.

    With ``active`` False, outside of the main thread, or where somebody else handles a signal, that signal is not held back.
    """
    came: KeyboardInterrupt | Terminated | None = None

    def press(number: int, frame: object) -> None:
        nonlocal came
        if came is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if came is None:
            _say("finishing the step under way, then a checkpoint; Ctrl-C again leaves without")
        came = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()

    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = active and threading.current_thread() is threading.main_thread()
    ours = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    for number in ours:
        signal.signal(number, press)
    try:
        yield lambda: came
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def _say(line: str) -> None:
    """Write a line to stderr below a progress bar, past the buffer of ``sys.stderr``, which the signal may have found in use."""
    with suppress(OSError):  # nobody listens any more
        os.write(2, f"\n{line}\n".encode())
