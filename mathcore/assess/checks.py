"""What the tests of a problem set ask, with messages that say what is wrong and where to look.

    checks.close(ddim_step(x, e, 0.6, 0.8, 0.8, 0.6), want, "one DDIM step")

Every check raises ``AssertionError`` for a wrong answer. An answer that is still missing keeps its ``NotImplementedError``. The tests' own values come second.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mathcore.assess import symbolic as _symbolic


def close(got: Any, want: Any, what: str, condition: float = 1e3, rtol: float | None = None, atol: float = 0.0) -> None:
    """Check numbers against the truth.

    The tolerance is ``condition`` units of rounding of the coarser of the two dtypes, relative to the largest entry of ``want``; an explicit ``rtol``
    (a truncation error, a standard error) takes its place, and ``atol`` is added.

    Raises:
        AssertionError: no numbers, another shape, not finite, or too far; the message names the largest error and a likely cause.
    """
    truth = _numbers(want, "the truth")
    value = _numbers(got, what)
    shape(value, tuple(truth.shape), what)
    finite(value, what)
    dtypes = [d for d in (value.dtype, truth.dtype) if d.is_floating_point]
    eps = max((torch.finfo(d).eps for d in dtypes), default=0.0)
    value, truth = value.double(), truth.double()
    scale = float(truth.abs().max()) if truth.numel() else 0.0
    allowed = (condition * eps if rtol is None else rtol) * scale + atol
    error = (value - truth).abs()
    worst = float(error.max()) if error.numel() else 0.0
    if worst > max(allowed, 1e-300):
        where = "" if truth.ndim == 0 else f" at index {tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))}"
        raise AssertionError(f"{what}: off by {worst:.2g}{where}, allowed are {allowed:.1g}.{_cause(value, truth)}")


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
        if truth.numel() > 1 and near(ratio, ratio.flatten()[:1].expand_as(ratio)):
            return f" Your value is {float(ratio.flatten()[0]):.4g} times the right one everywhere: a factor is wrong."
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


def shape(got: Any, want: Sequence[int], what: str) -> None:
    """Check the shape of numbers.

    Raises:
        AssertionError: no numbers or another shape.
    """
    have = tuple(_numbers(got, what).shape)
    if have != tuple(want):
        raise AssertionError(f"{what}: has shape {have}, should have {tuple(want)}")


def finite(got: Any, what: str) -> None:
    """Check that no number is NaN or infinite.

    Raises:
        AssertionError: no numbers, or the message says how many are not finite.
    """
    value = _numbers(got, what)
    bad = int((~torch.isfinite(value)).sum()) if value.is_floating_point() or value.is_complex() else 0
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
    if isinstance(got, Tensor):
        return got
    try:
        value = torch.as_tensor(got)
        return (
            torch.as_tensor(got, dtype=torch.float64) if value.dtype == torch.float32 and not hasattr(got, "dtype") else value
        )  # Python's floats are doubles
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: should be numbers, is {_short(got)}") from None


def _short(got: Any) -> str:
    return f"{got!r}"[:80] if isinstance(got, (bool, int, float, str, type(None))) else f"a {type(got).__name__}"
