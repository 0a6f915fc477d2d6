"""One writer at a time in the folder of a run."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a run into ``folder``, which is made if needed, while the block runs.

    The system drops the lock when the process dies, in whatever way. Who has it stands in a file of its own, since not every system lets
    others read a locked one.

    Raises:
        FileExistsError: another process has it; says which one.
        OSError: the folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".lock-holder"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(
            f"another training is writing to {folder}{_told(holder)}: wait for it, stop it, or take another folder"
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {platform.node()}, since {datetime.now().isoformat(' ', 'seconds')}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _told(holder: Path) -> str:
    """Who has the lock, in brackets; empty in the moment before it is written."""
    try:
        told = holder.read_text(encoding="utf-8")
    except OSError:
        return ""
    return f" ({told})" if told else ""
