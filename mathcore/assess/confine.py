"""What a submission's process may touch: resource limits, and Linux Landlock, which needs no privileges and cannot be undone from inside; and its clock.

This module is imported before anything else in that process, so that the student's code and every thread it starts live inside the rules. It imports only
the standard library.
"""

import ctypes
import os
import resource
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SLICE = 0.2
"""Seconds between two looks at whether the time of a process is up."""
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
NO_NEW_PRIVILEGES = 38
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
EVERYTHING_IN_A_FOLDER = sum(1 << bit for bit in range(1, 13)) & ~(1 << 6 | 1 << 9 | 1 << 11)  # no devices, sockets are of no use
TRUNCATE = 1 << 14
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SYSTEM = (
    *(
        "/usr",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/fonts",
        "/etc/passwd",
        "/etc/nsswitch.conf",
        "/sys/devices/system",
    ),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/sys/vm"),
)


def landlock_version() -> int:
    """Version of Landlock that this kernel offers; 0: none (another system, an old kernel, or switched off)."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def readable(withheld: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """What the process needs: folders and files it may read, and folders of which it may only see the names of the entries.

    ``withheld`` names modules of this package, ``mathcore.solvers``, whose files it cannot read where the package lies outside the Python installation.
    """
    package = Path(__file__).resolve().parents[1]
    prefixes = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    outside = [Path(p).resolve() for p in sys.path if p and not any(_under(Path(p).resolve(), prefix) for prefix in prefixes)]
    hidden = {package.joinpath(*name.split(".")[1:]) for name in withheld}
    cache = package / "__pycache__"  # bytecode is as good as the source
    entries = [*(path for path in package.iterdir() if path != cache), *(cache.iterdir() if cache.is_dir() else ())]
    own = [path for path in entries if package / path.name.split(".")[0] not in hidden]
    listed = [str(path) for path in {*outside, package, package.parent} if path.is_dir()]
    return [*SYSTEM, *map(str, prefixes), *map(str, own)], listed


def exposed(path: Path, withheld: Iterable[str] = ()) -> bool:
    """Whether a confined process could read the file or folder ``path``."""
    return any(_under(path.resolve(), Path(allowed).resolve()) for allowed in readable(withheld)[0])


def _under(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def limit(memory: int, seconds: int, file_size: int) -> None:
    """Bound this process and its children: bytes of address space, seconds of processor time, bytes of a file; no core dumps."""
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (bound, bound))


class Watch:
    """Says when a process has used ``seconds`` of processor time, or ``patience`` times as many have passed on the wall; looks at most five times a second."""

    def __init__(self, pid: int, seconds: float, patience: float) -> None:
        self._pid, self._seconds = pid, seconds
        self._used, self._next = processor_seconds(pid), 0.0
        self._end = time.monotonic() + patience * seconds

    def __call__(self) -> bool:
        """Whether its time is up."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + SLICE
        return now > self._end or processor_seconds(self._pid) - self._used > self._seconds


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def confine(read: Iterable[str], listed: Iterable[str], write: str) -> None:
    """From now on this process reads only ``read``, sees the names in ``listed``, writes only below ``write``; no TCP, no program, no other process.

    Raises:
        OSError: the kernel refused.
    """
    version = landlock_version()
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15)) - 1
    files |= 1 << 15 if version >= 5 else 0
    attributes = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)[
        : 8 if version < 4 else 16 if version < 6 else 24
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    rules = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for path in read:
        _allow(libc, rules, path, READ_FILE | READ_DIR)
    for path in listed:
        _allow(libc, rules, path, READ_DIR)
    for path in DEVICES:
        _allow(libc, rules, path, READ_FILE | WRITE_FILE)
    _allow(libc, rules, write, (EVERYTHING_IN_A_FOLDER | (TRUNCATE if version >= 3 else 0)) & files)
    _checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    if not os.path.isdir(path):
        rights &= READ_FILE | WRITE_FILE
    try:
        _checked(libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, target), 0))
    finally:
        os.close(target)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
