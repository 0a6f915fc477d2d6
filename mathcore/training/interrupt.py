"""Ctrl-C between two steps instead of in the middle of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back(active: bool) -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back while the block runs; what is yielded says whether it was pressed. A second one interrupts at once, wherever the program is.

    With ``active`` False, outside of the main thread, or where somebody else handles the signal, nothing is held back.
    """
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    here = (
        active and threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if here:
        signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        if here:
            signal.signal(signal.SIGINT, signal.default_int_handler)
