"""Fingerprints of runs: one hash over values, functions and the source of the library that they reach."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mathcore.settings import Settings
from mathcore.training.checkpoints import digest_tensors

_ALWAYS = ("mathcore.networks", "mathcore.data", "mathcore.training.loop", "mathcore.training.cache")


def fingerprint(*values: Any) -> str:
    """Return a hash (64 hex digits) of values and of the code they reach.

    Counted are: numbers, strings, tensors and arrays by value; containers and plain objects by their parts; functions by their byte code, their
    defaults, and the variables they use from around them; and for everything that is defined in ``mathcore`` the source of its module and of
    all modules of ``mathcore`` that this one imports. ``mathcore.networks``, ``mathcore.data`` and the training loop always count. Code
    outside of ``mathcore`` counts only where a function defined in a notebook or script reaches it by name; installed packages never do.
    """
    walk = _Walk()
    for value in values:
        walk.add(value)
    for name, source in sorted(_sources({*walk.modules, *_ALWAYS}).items()):
        walk.hash.update(f"module {name} {hashlib.sha256(source).hexdigest()};".encode())
    return walk.hash.hexdigest()


def _sources(names: Iterable[str]) -> dict[str, bytes]:
    """Source of modules of ``mathcore`` and of all that they import from it, at the top or inside functions."""
    found: dict[str, bytes] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _file(name)
        if path is None:
            continue
        found[name] = path.read_bytes()
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if _ours(alias.name)]
            elif isinstance(node, ast.ImportFrom) and _ours(node.module or ""):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _file(module: str) -> Path | None:
    """The file of a module of ``mathcore``, found without importing it; None where ``module`` is a name inside a module."""
    base = Path(__file__).resolve().parents[1].joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _ours(module: str) -> bool:
    return module == "mathcore" or module.startswith("mathcore.")


class _Walk:
    """Feeds a hash with everything reachable from a value, once."""

    def __init__(self) -> None:
        self.hash, self.modules, self.seen = hashlib.sha256(), set[str](), dict[int, Any]()

    def add(self, value: Any) -> None:
        """Feed one value, by its kind."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device, Path)):
            self.hash.update(f"{type(value).__name__} {value!r};".encode())
        elif id(value) in self.seen:
            self.hash.update(b"again;")
        else:
            self.seen[id(value)] = value  # kept, so that no other object gets its id
            self.hash.update(f"{type(value).__module__}.{type(value).__qualname__}(".encode())
            self._add_compound(value)
            self.hash.update(b");")

    def _add_compound(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            value = value.get_state()
        if isinstance(value, Tensor):
            self.hash.update(digest_tensors({"": value}).encode())
        elif type(value).__module__ == "numpy":
            self.add(torch.as_tensor(value))
        elif isinstance(value, Mapping):
            self._add_all(part for item in value.items() for part in item)
        elif isinstance(value, (set, frozenset)):
            self._add_all(sorted(value, key=repr))
        elif isinstance(value, (list, tuple)):
            self._add_all(value)
        elif isinstance(value, functools.partial):
            self._add_all([value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self._add_all([value.__func__, value.__self__])
        elif isinstance(value, (types.FunctionType, type, types.ModuleType)):
            self._add_definition(inspect.unwrap(value) if isinstance(value, types.FunctionType) else value)
        elif not isinstance(value, Settings):  # where a run happens does not change what it computes
            self._add_object(value)

    def _add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)

    def _add_object(self, value: Any) -> None:
        self.add(type(value))
        if dataclasses.is_dataclass(value):
            self._add_all((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        else:
            self.add(getattr(value, "__dict__", None))

    def _add_definition(self, value: Any) -> None:
        """A function, class or module: of ours by its module, of a notebook or script by its content, of a package by its name."""
        module = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        self.add(f"{module}:{getattr(value, '__qualname__', '')}")
        if _ours(module):
            self.modules.add(module)
            if isinstance(value, types.FunctionType):  # closures made by a function of ours carry values
                self._add_all([value.__defaults__, _enclosed(value)])
        elif isinstance(value, types.FunctionType) and not _installed(value.__code__.co_filename):
            self._add_code(value.__code__, value.__globals__)
            self._add_all([value.__defaults__, value.__kwdefaults__, _enclosed(value)])
        elif isinstance(value, type) and _defined_here(value):
            self._add_all([value.__bases__, {k: v for k, v in vars(value).items() if isinstance(v, (types.FunctionType, int, float, str))}])

    def _add_code(self, code: types.CodeType, around: Mapping[str, Any]) -> None:
        """Byte code with its constants, and the global variables it names."""
        self.hash.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._add_code(constant, around)
            else:
                self.add(constant)
        for name in code.co_names:
            self.add(name)
            if name in around:
                self.add(around[name])


def _enclosed(function: types.FunctionType) -> list[Any]:
    """The variables that a closure holds."""
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # still empty
            held.append(None)
    return held


def _installed(filename: str) -> bool:
    return "site-packages" in filename or "/lib/python" in filename.replace("\\", "/") or filename.startswith("<frozen")


def _defined_here(value: type) -> bool:
    """Whether a class stands in a notebook or script rather than in a package or in Python itself."""
    try:
        return not _installed(inspect.getfile(value))
    except (TypeError, OSError):
        return value.__module__ == "__main__"
