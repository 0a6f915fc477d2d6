"""Paths between two samples: x_t = a_t x_0 + b_t x_1 on [0, 1], source at t = 0 and target at t = 1 (section 5.3.2, Table 5.2).

This is the clock of flow matching. A noise schedule runs the other way, data at t = 0; :meth:`Interpolation.from_schedule` turns it round, so that no
function has to guess which clock it is given.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._schedule_tools import number_or_tensor, refuse, refuse_infinite, refuse_outside
from mathcore._types import Time
from mathcore._validate import floating, per_sample
from mathcore.schedules import AffineSchedule, check_affine

Function = Callable[[Tensor], Tensor]
Values = Float[Tensor, ""] | Float[Tensor, " n"]
Batch = Float[Tensor, "n *shape"]


class Interpolation:
    """Coefficients of x_t = a(t) x_0 + b(t) x_1 on the closed interval [0, 1], source at 0 and target at 1.

    Made by the constructors below, never directly. Each function takes a number (answer: 0-d float64) or a floating tensor, 0-d or ``(N,)`` (answer: its
    shape, dtype and device; the arithmetic is float64 throughout). All of them raise ``TypeError`` for what is no number or floating tensor, and
    ``ValueError`` outside [0, 1] and where the value is infinite.

    Attributes:
        name: ``"linear"``, ``"trig"``, the name of the schedule, or the one given to :meth:`custom`.
        convention: always ``"data1"``: time runs from the source to the target.
        canonical: whether this is the straight path a = 1 - t, b = t at constant speed.
        ends: the floats (a(0), b(0), a(1), b(1)); (1, 0, 0, 1) where the path really joins the two samples.
    """

    convention: ClassVar[str] = "data1"

    def __init__(self, name: str, law: dict[str, Function], constructor: str, parameters: dict[str, Any]) -> None:
        self.name, self._law, self._constructor, self._parameters = name, law, constructor, parameters
        self.canonical = constructor == "linear"
        self.ends = (float(self.a(0.0)), float(self.b(0.0)), float(self.a(1.0)), float(self.b(1.0)))

    def __repr__(self) -> str:
        return f"Interpolation.{self._constructor}({', '.join(f'{k}={v!r}' for k, v in self._parameters.items())})"

    def __reduce__(self) -> tuple[Any, ...]:  # the law is made of closures, which do not pickle; the call that made it does
        return partial(getattr(Interpolation, self._constructor), **self._parameters), ()

    # --- functions of time -------------------------------------------------------------------------------------------------------

    def a(self, t: Time) -> Values:
        """Coefficient of the source."""
        return self._at(t, "a")

    def b(self, t: Time) -> Values:
        """Coefficient of the target."""
        return self._at(t, "b")

    def da(self, t: Time) -> Values:
        """Time derivative of a (infinite at t = 1 for the schedules vp, ve and cosine, whose noise starts like a square root)."""
        return self._at(t, "da")

    def db(self, t: Time) -> Values:
        """Time derivative of b."""
        return self._at(t, "db")

    def as_time(self, t: Time) -> Values:
        """``t`` as a float64 tensor of its own shape inside [0, 1].

        Raises:
            TypeError: not a number or floating tensor. ValueError: more than one axis, NaN, infinite or outside [0, 1].
        """
        value = number_or_tensor(t, "t")
        refuse_outside(value, 0.0, 1.0, f"t outside [0, 1], the domain of the {self.name} interpolation:")
        return value.to(torch.float64)

    def coefficients(self, t: Time) -> tuple[Values, Values, Values, Values]:
        """(a, b, a', b') at ``t``, all four for one look at the time."""
        time = self.as_time(t)
        values = self.law(time)
        if not bool(torch.isfinite(torch.stack(values)).all()):
            return tuple(self._at(t, which) for which in ("a", "b", "da", "db"))  # type: ignore[return-value]  # says which, and where
        return tuple(value.to(t.dtype) if isinstance(t, Tensor) else value for value in values)  # type: ignore[return-value]

    def law(self, time: Float[Tensor, "*n"]) -> list[Float[Tensor, "*n"]]:
        """[a, b, a', b'] at float64 times inside [0, 1], without a check: inner loops look at their result instead."""
        return [self._law[which](time) for which in ("a", "b", "da", "db")]

    def _at(self, t: Time, which: str) -> Tensor:
        time = self.as_time(t)
        value = self._law[which](time)
        value = value.to(t.dtype) if isinstance(t, Tensor) else value
        refuse_infinite(value, time, f"{which} of the {self.name} interpolation is infinite or undefined at t =")
        return value

    # --- the dictionary of paths (Table 5.2) -------------------------------------------------------------------------------------

    @classmethod
    def linear(cls) -> "Interpolation":
        """The canonical path a = 1 - t, b = t of flow matching and rectified flow (section 5.4)."""
        law: dict[str, Function] = {"a": lambda t: 1 - t, "b": lambda t: t, "da": lambda t: torch.full_like(t, -1.0), "db": torch.ones_like}
        return cls("linear", law, "linear", {})

    @classmethod
    def trig(cls) -> "Interpolation":
        """The trigonometric path a = cos(pi t / 2), b = sin(pi t / 2). The cosine is written as a sine of 1 - t, exactly 0 at the end."""
        rate = math.pi / 2
        law: dict[str, Function] = {
            "a": lambda t: torch.sin(rate * (1 - t)),
            "b": lambda t: torch.sin(rate * t),
            "da": lambda t: -rate * torch.sin(rate * t),
            "db": lambda t: rate * torch.sin(rate * (1 - t)),
        }
        return cls("trig", law, "trig", {})

    @classmethod
    def from_schedule(cls, schedule: AffineSchedule) -> "Interpolation":
        """The path of a noise schedule with its clock reversed: a = sigma and b = alpha at s = t_max - t (t_max - t_min); x_0 is the noise, x_1 the data.

        At t = 0 a is sigma and b is alpha at t_max: b(0) > 0 where the schedule keeps a trace of the data (VP: small; VE: 1, and a(0) = sigma_max).

        Raises:
            TypeError: ``schedule`` is no ``AffineSchedule``.
        """
        check_affine(schedule)
        span = schedule.t_max - schedule.t_min

        def read(fn: Callable[[Tensor], Tensor], factor: float) -> Function:
            def value(t: Tensor) -> Tensor:
                # 1 - t is exact near the data, where the schedule is steep; the end t_max may be missed by a rounding
                own = (schedule.t_min + (1 - t) * span).clamp(schedule.t_min, schedule.t_max)
                try:
                    return factor * fn(own)
                except ValueError as error:
                    raise ValueError(f"{error} on its own clock, t_max - t (t_max - t_min)") from error

            return value

        law = {
            "a": read(schedule.sigma, 1.0),
            "b": read(schedule.alpha, 1.0),
            "da": read(schedule.dsigma, -span),
            "db": read(schedule.dalpha, -span),
        }
        return cls(schedule.name, law, "from_schedule", {"schedule": schedule})

    @classmethod
    def custom(cls, a: Function, b: Function, name: str = "custom") -> "Interpolation":
        """A path from two elementwise torch functions of a float64 time; derivatives by forward-mode automatic differentiation.

        Nothing is asked of the ends: read them off :attr:`ends`.

        Raises:
            TypeError: a function does not return a tensor. ValueError: a wrong output shape, or values that are not finite; looked at on 1025 times.
        """
        grid = torch.linspace(0, 1, 1025, dtype=torch.float64)
        for label, fn in (("a", a), ("b", b)):
            values = fn(grid)
            if not isinstance(values, Tensor):
                raise TypeError(f"{label} must map a tensor to a tensor, it returned {type(values).__name__}")
            if values.shape != grid.shape:
                raise ValueError(f"{label} must act elementwise: given shape {tuple(grid.shape)}, it returned {tuple(values.shape)}")
            refuse(~torch.isfinite(values), grid, f"{label} must be finite on [0, 1], and is not at t =")
        law = {"a": a, "b": b, "da": _derivative(a), "db": _derivative(b)}
        return cls(name, law, "custom", {"a": a, "b": b, "name": name})


def _derivative(fn: Function) -> Function:
    # clone: forward mode refuses expanded memory, one time said N times
    return lambda t: torch.func.jvp(fn, (t.clone(),), (torch.ones_like(t),))[1]


def interpolate(x0: Batch, x1: Batch, t: Time, path: Interpolation) -> tuple[Batch, Batch]:
    """Return the point x_t = a x_0 + b x_1 and its time derivative a' x_0 + b' x_1 (section 5.3.2): two of ``(N, *shape)``.

    Args:
        x0, x1: samples of source and target, ``(N, *shape)``. t: a number, 0-d, or one time per row ``(N,)``.

    Raises:
        TypeError: ``x0``, ``x1`` not floating tensors of one dtype, or ``path`` no ``Interpolation``.
        ValueError: different shapes, NaN, ``t`` outside [0, 1] or where a derivative is infinite.
    """
    check_pair(x0, x1)
    if not isinstance(path, Interpolation):
        raise TypeError(f"path must be an Interpolation, got {type(path).__name__}")
    time = path.as_time(t)
    per_sample(time, x0)
    path.coefficients(time)
    return on_path(x0, x1, time, path)


def on_path(x0: Tensor, x1: Tensor, time: Tensor, path: Interpolation) -> tuple[Tensor, Tensor]:
    """:func:`interpolate` without looking at a single value: for pairs and times, float64 0-d or ``(N,)``, that are checked before or afterwards."""
    if path.canonical:  # two operations for the path that nearly everybody trains on
        t = time.to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1)) if time.ndim else time.to(x0.dtype)
        return torch.lerp(x0, x1, t), x1 - x0
    scales = torch.stack(path.law(time)).to(x0.dtype)  # the arithmetic of the coefficients is float64, whatever the dtype of the points
    a, b, da, db = (scales.reshape(4, -1, *[1] * (x0.ndim - 1)) if time.ndim else scales).unbind()
    return torch.addcmul(a * x0, b, x1), torch.addcmul(da * x0, db, x1)


def check_pair(x0: Tensor, x1: Tensor) -> None:
    """Refuse what is no pair of batches, row n of one with row n of the other.

    Raises:
        TypeError: not floating tensors of one dtype. ValueError: no batch axis, different shapes, NaN.
    """
    floating(x0, "x0"), floating(x1, "x1")
    if x0.ndim == 0 or x0.shape != x1.shape:
        raise ValueError(f"x0 and x1 must share a shape (N, *shape), got {tuple(x0.shape)} and {tuple(x1.shape)}")
    if x0.dtype != x1.dtype:
        raise TypeError(f"x0 and x1 must share a dtype, got {x0.dtype} and {x1.dtype}")
