"""Plain data between the grader and a submission's process: JSON, tensors as safetensors, mathematics as trees; never pickle, never code.

One message is a frame: the lengths of its two parts, the JSON part, the safetensors part. A function, or any object that is not plain data, travels as a
reference that only its owner can follow. Values arrive as values: nothing that a submission sends can define ``__eq__`` or run on the other side.
"""

import importlib
import json
import os
import select
import struct
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mathcore.assess import tree
from mathcore.assess.confine import SLICE
from mathcore.assess.symbolic import Answer

LARGEST = 64 << 20
"""Bytes of the largest message that is accepted."""
Expired = Callable[[], bool]


class Closed(EOFError):
    """The other side has ended."""


class Garbled(Exception):
    """What came is no message."""


class Wire:
    """One end of the line, over two file descriptors.

    Args:
        read, write: file descriptors. symbolic: whether sympy expressions are decoded here (in the student's process) or kept as :class:`Answer`.
        stub: makes what stands here for an object that the other side keeps: ``stub(number, kind)``.
    """

    def __init__(self, read: int, write: int, symbolic: bool, stub: Callable[[int, str], Any]) -> None:
        self._read, self._write, self._symbolic, self._stub = read, write, symbolic, stub
        self.kept: dict[int, Any] = {}

    def send(self, message: dict, expired: Expired | None = None) -> None:
        """Send a message, until ``expired()``; its values may be anything that :meth:`_pack` knows.

        Raises:
            Closed: the other side has ended. TimeoutError: it does not read. ValueError: too large.
        """
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        text = json.dumps(self._pack(message, tensors, 0)).encode()
        blob = save(tensors) if tensors else b""
        if len(text) + len(blob) > LARGEST:
            raise ValueError(f"a value of {len(text) + len(blob)} bytes is too large to be handed over, {LARGEST} are allowed")
        data = memoryview(struct.pack("!QQ", len(text), len(blob)) + text + blob)
        try:
            while data:
                while expired is not None and not select.select([], [self._write], [], SLICE)[1]:
                    if expired():
                        raise TimeoutError
                data = data[os.write(self._write, data) :]
        except BrokenPipeError:
            raise Closed from None

    def receive(self, expired: Expired | None = None) -> dict:
        """Wait for a message until ``expired()``.

        Raises:
            TimeoutError: none came. Closed: the other side has ended. Garbled: not a message.
        """
        sizes = struct.unpack("!QQ", self._exactly(16, expired))
        if sum(sizes) > LARGEST:
            raise Garbled(f"a message of {sum(sizes)} bytes is too large, {LARGEST} are allowed")
        text, blob = self._exactly(sizes[0], expired), self._exactly(sizes[1], expired)
        from safetensors.torch import load

        try:
            message = self._unpack(json.loads(text), load(blob) if blob else {}, 0)
        except Exception as error:  # a forged message is as good as none
            raise Garbled(f"not a message ({type(error).__name__}: {error})") from None
        if not isinstance(message, dict):
            raise Garbled("not a message")
        return message

    def _exactly(self, size: int, expired: Expired | None) -> bytes:
        parts: list[bytes] = []
        while size:
            while expired is not None and not select.select([self._read], [], [], SLICE)[0]:
                if expired():
                    raise TimeoutError
            part = os.read(self._read, min(size, 1 << 20))
            if not part:
                raise Closed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    # --- values ----------------------------------------------------------------------------------------------------------------------------

    def _pack(self, value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
        if depth > 50:
            raise ValueError("a value is nested more than 50 deep")

        def pack(part: Any) -> Any:
            return self._pack(part, tensors, depth + 1)

        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, list):
            return [pack(part) for part in value]
        if isinstance(value, tuple):
            return {"$": "tuple", "v": [pack(part) for part in value]}
        if isinstance(value, dict):
            return {"$": "dict", "v": [[pack(k), pack(v)] for k, v in value.items()]}
        if isinstance(value, Tensor):
            tensors[key := str(len(tensors))] = value.detach().cpu().contiguous().clone()
            return {"$": "tensor", "v": key}
        return self._pack_object(value, pack)

    def _pack_object(self, value: Any, pack: Callable[[Any], Any]) -> Any:
        import numpy as np
        import sympy

        if isinstance(value, np.generic):
            return pack(value.item())
        if isinstance(value, complex):
            return {"$": "complex", "v": [value.real, value.imag]}
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            return {"$": "array", "v": pack(torch.from_numpy(np.ascontiguousarray(value).copy()))}
        if isinstance(value, Answer):
            return {"$": "tree", "v": pack(value.tree)}
        if isinstance(value, (sympy.Basic, sympy.MatrixBase)):
            return {"$": "tree", "v": pack(tree.encode(value))}
        if isinstance(value, torch.dtype):
            return {"$": "dtype", "v": str(value).removeprefix("torch.")}
        if isinstance(value, torch.Generator):
            return {"$": "generator", "v": pack(value.get_state())}
        if isinstance(value, _loaded("distributions", "GaussianMixture")):
            return {"$": "mixture", "v": [pack(value.weights), pack(value.means), pack(value.covs)]}
        if isinstance(value, _loaded("schedules", "AffineSchedule")) and all(
            type(v) in (int, float, str) for v in value.parameters.values()
        ):
            return {"$": "schedule", "v": [value._constructor, pack(value.parameters)]}
        if isinstance(value, _loaded("discrete_schedule", "DiscreteSchedule")):
            return {"$": "chain", "v": pack(value.beta_var[1:])}
        return self._keep(value)

    def _keep(self, value: Any) -> dict:
        if isinstance(value, Stub):
            return {"$": "yours", "v": value.number}
        number = next((n for n, known in self.kept.items() if known is value), len(self.kept))
        self.kept[number] = value
        return {"$": "mine", "v": number, "kind": "function" if callable(value) else type(value).__name__}

    def _unpack(self, value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
        if depth > 100:
            raise ValueError("nested too deep")

        def unpack(part: Any) -> Any:
            return self._unpack(part, tensors, depth + 1)

        if isinstance(value, list):
            return [unpack(part) for part in value]
        if not isinstance(value, dict):
            return value
        kind, body = value["$"], value["v"]
        if kind == "tree":
            return tree.decode(unpack(body)) if self._symbolic else Answer(_plain(body))
        simple: dict[str, Callable[[], Any]] = {
            "tuple": lambda: tuple(unpack(part) for part in body),
            "dict": lambda: {unpack(k): unpack(v) for k, v in body},
            "tensor": lambda: tensors[body],
            "array": lambda: unpack(body).numpy(),
            "complex": lambda: complex(*body),
            "dtype": lambda: _dtype(body),
            "generator": lambda: _generator(unpack(body)),
            "mixture": lambda: _imported("distributions", "GaussianMixture")(*[unpack(part) for part in body]),
            "schedule": lambda: getattr(_imported("schedules", "AffineSchedule"), _constructor(body[0]))(**unpack(body[1])),
            "chain": lambda: _imported("discrete_schedule", "DiscreteSchedule").from_beta_var(unpack(body)),
            "yours": lambda: self.kept[body],
            "mine": lambda: self._stub(int(body), str(value.get("kind", "object"))),
        }
        return simple[kind]()


class Stub:
    """Stands for an object that the other side keeps under ``number``."""

    number: int


# Classes of the book are looked up when a value needs them: a set may withhold them, and then nothing in the student's process may lead to them.


def _loaded(module: str, name: str) -> Any:
    """The class, or ``()``, of which nothing is an instance, where its module was never imported."""
    return getattr(sys.modules.get(f"mathcore.{module}"), name, ())


def _imported(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"mathcore.{module}"), name)


def _plain(body: Any) -> Any:
    """A tree on its way to the comparing process: lists, names and flags only."""
    if isinstance(body, list):
        return [_plain(part) for part in body]
    if isinstance(body, dict) and body.get("$") == "dict":
        return {str(k): v for k, v in body["v"] if isinstance(v, bool)}
    if isinstance(body, (str, int)):
        return body
    raise ValueError("not a tree")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError("not a dtype")
    return dtype


def _generator(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def _constructor(name: str) -> str:
    if name not in ("vp", "ve", "edm", "linear", "cosine", "trig", "sub_vp"):
        raise ValueError("not a schedule")
    return name
