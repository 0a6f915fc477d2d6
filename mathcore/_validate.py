"""Input checks shared by every public function: one place, one wording."""

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """NaN or infinity in a tensor; training tells it from other bad arguments, since there it means that the run has diverged."""


class UnknownNameError(ValueError):
    """A name that is none of ``choices``."""

    def __init__(self, message: str, choices: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.choices = list(choices)


def floating(x: Any, name: str, ndim: int | None = None, dim: int | None = None) -> Tensor:
    """Return ``x`` if it is a finite floating-point tensor of the asked rank and last dimension; raise otherwise.

    Raises:
        TypeError: ``x`` is not a tensor, or is an integer, bool or complex one.
        ValueError: wrong number of axes, wrong last dimension; as NotFiniteError, NaN or infinity.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {x.dtype}")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(x.shape)}")
    if dim is not None and (x.ndim == 0 or x.shape[-1] != dim):
        raise ValueError(f"{name} must have last dimension {dim}, got shape {tuple(x.shape)}")
    if not finite(x):
        raise NotFiniteError(f"{name} contains NaN or infinity")
    return x


def finite(x: Tensor) -> bool:
    """Whether a floating tensor holds neither NaN nor infinity: one reduction, a quarter of the cost of ``isfinite(x).all()``."""
    return math.isfinite(float(x.detach().sum())) or bool(torch.isfinite(x).all())  # a sum that overflows is asked again element by element


def positive(value: float | int, name: str) -> float:
    """Return ``value`` if it is a finite positive number.

    Raises:
        ValueError: not finite or not above zero.
    """
    number = float(value)
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{name} must be a positive finite number, got {value}")
    return number


def count(value: Any, name: str, least: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``least``; True and False are none.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def folder_to_write(path: Path) -> Path:
    """Return ``path`` if it is a folder, or if one can be made there: nothing on the way to it is a file.

    Raises:
        ValueError: it is a file, or lies below one.
    """
    there = next((p for p in (path, *path.parents) if p.exists()), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"{there} is a file, not a folder")
    return path


def like_input(out: Any, x: Tensor, name: str) -> Tensor:
    """Return ``out``, what the user's function ``name`` made of ``x``, if it is a floating tensor shaped like ``x``.

    Raises:
        TypeError: no floating tensor. ValueError: another shape.
    """
    if not isinstance(out, Tensor) or not out.is_floating_point():
        raise TypeError(f"{name} must return a floating-point tensor, got {out.dtype if isinstance(out, Tensor) else type(out).__name__}")
    if out.shape != x.shape:
        raise ValueError(f"{name} must return the shape of its input, {tuple(x.shape)}; got {tuple(out.shape)}")
    return out


def function(value: Any, name: str) -> Any:
    """Return ``value`` if it can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}")
    return value


def nonnegative(value: Any, like: Tensor, name: str = "weight") -> Tensor:
    """Return what a weight function made of the times ``like``, float64, if it is one number or of their shape, finite and not negative.

    Raises:
        ValueError: it is not.
    """
    out = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    if out.shape not in {torch.Size(), like.shape}:
        raise ValueError(f"{name} must return one number or shape {tuple(like.shape)}, got {tuple(out.shape)}")
    if not finite(out) or bool((out < 0).any()):
        raise ValueError(f"{name} must be finite and not negative, got values between {float(out.min())} and {float(out.max())}")
    return out


def one_of(value: str, allowed: Iterable[str], name: str) -> str:
    """Return ``value`` if it is one of ``allowed``; otherwise name the choices and the nearest match.

    Raises:
        ValueError: as UnknownNameError, ``value`` is not among ``allowed``.
    """
    choices = list(allowed)
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(m) for m in near)}?" if near else ""
    raise UnknownNameError(f"{name} must be one of {', '.join(choices)}; got {value!r}{hint}", choices)


def per_sample(t: float | int | Tensor, x: Tensor, name: str = "t") -> Tensor:
    """Return ``t`` in the dtype and on the device of ``x``, shaped to broadcast over the trailing axes of ``x: (N, *shape)``.

    Raises:
        TypeError: ``t`` is neither a number nor a tensor.
        ValueError: ``t`` is, as NotFiniteError, NaN or infinite, or is neither 0-d nor of shape ``(N,)``.
    """
    if isinstance(t, bool) or not isinstance(t, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(t).__name__}")
    out = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if not finite(out):
        raise NotFiniteError(f"{name} contains NaN or infinity")
    if out.ndim == 0:
        return out
    if out.shape != x.shape[:1]:
        raise ValueError(f"{name} must be a number, 0-d, or of shape ({x.shape[0]},) like the batch; got shape {tuple(out.shape)}")
    return out.reshape(-1, *([1] * (x.ndim - 1)))
