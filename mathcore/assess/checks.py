"""What the tests of a problem set ask, with messages that say what is wrong and where to look.

    checks.close(ddim_step(x, e, 0.6, 0.8, 0.8, 0.6), want, "one DDIM step")

Every check raises ``AssertionError`` for a wrong answer. An answer that is still missing keeps its ``NotImplementedError``. The tests' own values come second.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from mathcore.assess import symbolic as _symbolic

FACTORS = {"2": 2.0, "3": 3.0, "4": 4.0, "8": 8.0, "pi": math.pi, "(2 pi)": 2 * math.pi}
FACTORS |= {"sqrt(2)": math.sqrt(2), "sqrt(pi)": math.sqrt(math.pi), "sqrt(2 pi)": math.sqrt(2 * math.pi)}
ROUNDING = torch.finfo(torch.float64).eps
_tells: ContextVar[bool] = ContextVar("_tells", default=True)


@contextmanager
def discreet() -> Iterator[None]:
    """Inside, :func:`close` says how far off an answer is but not what is right: the grader's tests are hidden ones too, and can be met twice."""
    token = _tells.set(False)
    try:
        yield
    finally:
        _tells.reset(token)


def close(got: Any, want: Any, what: str, condition: float = 1e3, rtol: float | None = None, atol: float = 0.0) -> None:
    """Check numbers against the truth.

    The tolerance is ``condition`` units of rounding of float64, relative to the largest entry of ``want``; an explicit ``rtol`` (a truncation error, a
    standard error) takes its place, and ``atol`` is added. A number in float32 may be off by its own rounding besides, but not by that of a calculation
    in float32: ``condition`` never multiplies the rounding of a coarse dtype, which the answer chooses.

    Raises:
        AssertionError: no numbers, another shape, not finite, or too far; the message names the worst entry and a likely cause, and outside of
            :func:`discreet` what is right.
    """
    truth = _numbers(want, "the truth")
    given = _numbers(got, what)
    shape(got, tuple(truth.shape), what)
    finite(given, what)
    value, rounding = given.double(), _rounding(given) + _rounding(truth)
    truth = truth.double()
    scale = float(truth.abs().max()) if truth.numel() else 0.0
    error = (value - truth).abs()
    allowed = ((condition * ROUNDING if rtol is None else rtol) * scale + atol + rounding).clamp(min=1e-300)
    if not bool((error > allowed).any()):
        return
    worst = torch.unravel_index((error - allowed).argmax(), error.shape)
    where = f" at index {tuple(int(i) for i in worst)}" if truth.ndim else ""
    right = f": is {_digits(value[worst], truth[worst])}, should be {_digits(truth[worst], value[worst])}" if _tells.get() else ""
    text = f"{what}: off by {float(error[worst]):.2g}{where}, allowed are {float(allowed[worst]):.1g}{right}."
    raise AssertionError(text + (_precision(given, float(error[worst]), scale) or _cause(value, truth)))


def _precision(given: Tensor, error: float, scale: float) -> str:
    """A sentence on the dtype if the error has the size of rounding in it."""
    if given.is_floating_point() and given.dtype != torch.float64 and error <= max(1e-4, torch.finfo(given.dtype).eps) * scale:
        return f" The result has dtype {str(given.dtype).removeprefix('torch.')}: calculate and return float64."
    return " Was something calculated in float32, or by a rule that is not exact?" if error <= 1e-6 * scale else ""


def _rounding(numbers: Tensor) -> Tensor:
    """By how much each of ``numbers`` in float32 was rounded at most. A coarser dtype is no excuse: nobody asks for one."""
    return torch.finfo(torch.float32).eps / 2 * numbers.double().abs() if numbers.dtype == torch.float32 else torch.zeros(numbers.shape)


def _digits(number: Tensor, other: Tensor) -> str:
    """The number with enough digits to tell it from the other one."""
    return next((text for k in (6, 10) if (text := f"{float(number):.{k}g}") != f"{float(other):.{k}g}"), repr(float(number)))


def _cause(value: Tensor, truth: Tensor) -> str:
    """A sentence on what turns these numbers into the right ones, if one simple thing does."""

    def near(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and a.numel() > 0 and bool(torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(b.abs().max())))

    if not truth.numel() or near(truth, torch.zeros_like(truth)):
        return ""
    if near(-value, truth):
        return " All signs are wrong."
    if bool((value != 0).all()) and bool((truth != 0).all()):
        ratio = value / truth
        if truth.numel() > 1 and near(ratio, ratio.flatten()[:1].expand_as(ratio)) and (name := _factor(float(ratio.flatten()[0]))):
            return f" Your value is {name} times the right one everywhere: is a factor missing, or there twice?"
        if near(value, truth.square()):
            return " Your value is the square of the right one: variance and standard deviation?"
        if near(value.square(), truth):
            return " Your value is the square root of the right one: standard deviation and variance?"
        if near(value * truth, torch.ones_like(truth)):
            return " Your value is the reciprocal of the right one."
    if truth.ndim and len(truth) > 2:
        for shift, word in ((1, "late"), (-1, "early")):
            a, b = (value[1:], truth[:-1]) if shift == 1 else (value[:-1], truth[1:])
            if near(a, b) and not near(truth[1:], truth[:-1]):
                return f" Your entries are the right ones, one index too {word}."
        if near(value.flip(0), truth):
            return " Your entries are the right ones in reverse order."
    return ""


def _factor(ratio: float) -> str:
    """The name of a factor that is easily forgotten; nothing for another ratio, which a wrong exponent may have made as well."""
    for name, value in FACTORS.items():
        for shown, number in ((name, value), (f"1/{name}", 1 / value)):
            if math.isclose(abs(ratio), number, rel_tol=1e-6):
                return f"-{shown}" if ratio < 0 else shown
    return ""


def shape(got: Any, want: Sequence[int], what: str) -> None:
    """Check the shape of numbers.

    Raises:
        AssertionError: no numbers or another shape.
    """
    have = tuple(_numbers(got, what).shape)
    if have != tuple(want):
        comma = " (a tuple of one: remove the comma)" if isinstance(got, tuple) and have == (1, *want) else ""
        raise AssertionError(f"{what}: has shape {have}, should have {tuple(want)}{comma}")


def parts(got: Any, count: int, what: str) -> tuple[Any, ...]:
    """Return the values of an answer that consists of several, for a test that takes them apart: ``mean, std = checks.parts(step(x), 2, "a step")``.

    Raises:
        AssertionError: not a tuple or list (or the rows of a tensor) of this many.
    """
    if got is None:
        raise AssertionError(f"{what}: is None; is a return missing?")
    rows = got.ndim > 0 if isinstance(got, Tensor) else type(got).__name__ == "ndarray" and got.ndim > 0
    if not rows and not isinstance(got, (tuple, list)):
        raise AssertionError(f"{what}: should be {count} values, is {_short(got)}")
    if len(got) != count:
        raise AssertionError(f"{what}: should be {count} values, {'is' if len(got) == 1 else 'are'} {len(got)}")
    return tuple(got)


def numbers(got: Any, what: str) -> Tensor:
    """Return the numbers of an answer as a float64 tensor, for a test that calculates with them: ``R = checks.numbers(rotation(), "R")``.

    Raises:
        AssertionError: no real numbers, or in a coarser dtype, whose rounding would spoil what is calculated from them.
    """
    value = _numbers(got, what)
    if value.is_floating_point() and value.dtype != torch.float64:
        raise AssertionError(f"{what}: has dtype {str(value.dtype).removeprefix('torch.')}: calculate and return float64")
    return value.double()


def finite(got: Any, what: str) -> None:
    """Check that no number is NaN or infinite.

    Raises:
        AssertionError: no numbers, or the message says how many are not finite.
    """
    value = _numbers(got, what)
    bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() else 0
    if bad:
        raise AssertionError(
            f"{what}: {bad} of {value.numel()} numbers are NaN or infinite: is there a division by zero or a step too many?"
        )


def between(got: Any, low: float, high: float, what: str) -> None:
    """Check that one number lies in [low, high].

    Raises:
        AssertionError: it does not, or is no number.
    """
    value = _numbers(got, what)
    shape(value, (), what)
    finite(value, what)
    if not low <= float(value) <= high:
        raise AssertionError(f"{what}: is {float(value):.4g}, should lie between {low:.4g} and {high:.4g}")


def equal(got: Any, want: Any, what: str) -> None:
    """Check a count, a name or a flag exactly.

    Raises:
        AssertionError: another type of thing or another value.
    """
    plain = got.item() if isinstance(got, Tensor) and got.ndim == 0 else got
    if type(plain) not in (bool, int, float, str, type(None)) or isinstance(plain, bool) != isinstance(want, bool) or plain != want:
        raise AssertionError(f"{what}: is {_short(got)}, should be {want!r}")


def order(sizes: Sequence[float], errors: Sequence[float], expected: float, what: str, tolerance: float = 0.2) -> None:
    """Check the order of convergence: the least-squares slope of log error against log step size, from four points or more.

    Raises:
        AssertionError: another slope; errors that are not positive and finite.
    """
    if len(sizes) != len(errors) or len(sizes) < 4:
        raise ValueError("an order needs at least four step sizes, and one error for each")
    if not all(0 < float(e) < math.inf for e in errors):
        raise AssertionError(f"{what}: errors must be positive and finite, got {[float(e) for e in errors]}")
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor([float(e) for e in errors], dtype=torch.float64).log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    if not abs(slope - expected) <= tolerance:
        shown = ", ".join(f"{float(e):.1e}" for e in errors)
        raise AssertionError(f"{what}: the error falls like h^{slope:.2f}, should be h^{expected:g} (errors {shown})")


def symbolic(
    got: Any,
    expected: Any,
    what: str,
    where: Mapping[str, tuple[float, float]] | None = None,
    subs: Mapping[Any, Any] | None = None,
    seconds: float = 20.0,
) -> None:
    """Check an expression; arguments as :func:`mathcore.assess.symbolic.compare`.

    Raises:
        AssertionError: it is not equivalent to ``expected``; the message names the difference that was recognised.
    """
    result = _symbolic.compare(got, expected, where=where, subs=subs, seconds=seconds)
    if not result.equal:
        raise AssertionError(f"{what}: {result.message}.")


def closed_form(got: Any, what: str) -> None:
    """Check that an expression holds no integral, sum or derivative left to be done.

    Raises:
        AssertionError: it does, or is no expression.
    """
    described = _symbolic.describe(got)
    if described is None:
        raise AssertionError(f"{what}: should be a sympy expression, is {_short(got)}")
    left = {"Integral", "Sum", "Product", "Derivative", "Limit"} & _heads(described)
    if left:
        raise AssertionError(f"{what}: should be in closed form, it still holds {' and '.join(sorted(left))}")


def _heads(described: list) -> set[str]:
    return {described[0]}.union(*(_heads(part) for part in described[1:] if isinstance(part, list) and part and isinstance(part[0], str)))


def raises(kind: type[Exception], call: Callable[[], Any], what: str) -> None:
    """Check that a call is refused with an error of this kind.

    Raises:
        AssertionError: it was not, or with another error. NotImplementedError: the answer is still missing.
    """
    try:
        call()
    except NotImplementedError:
        raise
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"{what}: should raise {kind.__name__}, raised {type(error).__name__}: {error}") from None
    raise AssertionError(f"{what}: should raise {kind.__name__}, returned a value")


class Counted:
    """A model that counts its calls and remembers its times: ``model.calls``, ``model.times``."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self._model, self.calls, self.times = model, 0, list[float]()

    def __call__(self, x: Any, t: Any) -> Any:
        """Ask the model."""
        self.calls += 1
        self.times.append(float(t))
        return self._model(x, t)


def _numbers(got: Any, what: str) -> Tensor:
    if got is None:
        raise AssertionError(f"{what}: is None; is a return missing?")
    try:
        got = _plain(got)
        value = torch.as_tensor(got).detach()
        if value.dtype == torch.float32 and not hasattr(got, "dtype"):  # Python's floats are doubles
            value = torch.as_tensor(got, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: should be numbers, is {_short(got)}") from None
    if value.is_complex():
        raise AssertionError(f"{what}: should be real numbers, is complex")
    return value


def _plain(got: Any) -> Any:
    """Sympy's numbers as Python's, also as they come from another process."""
    if isinstance(got, (list, tuple)):
        return [_plain(part) for part in got]
    if isinstance(got, _symbolic.Answer):
        head, *rest = got.tree
        if head == "Parts":
            return [_plain(_symbolic.Answer(part)) for part in rest]
        return int(rest[0]) / int(rest[1]) if head == "Rational" else float(rest[0]) if head == "Float" else got
    return float(got) if getattr(got, "is_number", False) is True else got


def _short(got: Any) -> str:
    if isinstance(got, _symbolic.Answer):
        return "an expression: return float(...)"
    return f"{got!r}"[:80] if isinstance(got, (bool, int, float, str, type(None))) else f"a {type(got).__name__}"
