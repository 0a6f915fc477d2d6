"""The run-time checker of annotations: beartype, with an int accepted where a float is asked for, as PEP 484 has it.

In each test the first calls of a function are checked; what a solver calls ten thousand times is then trusted: a checked call
of a schedule takes more than twice as long.
"""

import functools
import inspect
import sys
from collections import Counter
from typing import Any

from beartype import BeartypeConf, beartype

CALLS = 100
"""Calls of one function that are checked in one test (twice each: with and without what it returns)."""

_seen: Counter[tuple[str, str]] = Counter()
_trusted: list[Any] = []


def checked(signature: Any) -> Any:
    """Decorate a function that stands for a signature: jaxtyping calls it before and after the function that bears the signature."""
    name = signature.__module__, signature.__qualname__
    # made at the first call: no worker calls all of the package's functions, and the checkers of all take it half a minute
    check = functools.cache(lambda: beartype(conf=BeartypeConf(is_pep484_tower=True))(signature))

    @functools.wraps(signature)
    def counted(*args: Any, **kwargs: Any) -> Any:
        _seen[name] += 1
        if _seen[name] == 2 * CALLS and (function := _find(*name)) is not None:
            function.__no_type_check__ = True  # jaxtyping then calls it at once
            _trusted.append(function)
        return check()(*args, **kwargs)

    return counted


def _find(module: str, qualname: str) -> Any:
    """Return the function of that name, or None: it is local to another, or no plain function or method."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part, None)
    found = getattr(found, "__func__", getattr(found, "fget", found))  # of a static or class method, of a property
    return found if inspect.isfunction(found) else None


def distrust() -> None:
    """Check every function again: a new test begins."""
    _seen.clear()
    while _trusted:
        del _trusted.pop().__no_type_check__
