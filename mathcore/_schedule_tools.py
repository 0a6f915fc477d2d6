"""What the continuous schedules are built from: the functions of one law, a bisection over doubles, input checks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mathcore._types import Time
from mathcore._validate import finite, positive

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Law:
    """One row of the schedule dictionary: elementwise functions of a float64 time (``inverse``: of the half-log-SNR)."""

    alpha: Function
    sigma: Function
    dalpha: Function
    dsigma: Function
    f: Function
    g2: Function
    half_log_snr: Function
    inverse: Function


def linear_beta(beta_min: float, beta_max: float, t_max: float) -> tuple[Function, Function, Function]:
    """beta(t) = beta_min + t (beta_max - beta_min), its integral B(t) from 0, and the time at which the integral has a given value."""
    start, slope = positive(beta_min, "beta_min"), positive(beta_max, "beta_max") - beta_min
    if start + slope * positive(t_max, "t_max") <= 0:
        raise ValueError(f"beta(t) must stay positive up to t_max, got beta_min={beta_min}, beta_max={beta_max} and t_max={t_max}")

    def inverse(integral: Tensor) -> Tensor:  # root of slope t^2 / 2 + start t = integral, without cancellation
        return 2 * integral / (start + torch.sqrt(start**2 + 2 * slope * integral))

    return lambda t: start + slope * t, lambda t: t * (start + slope * t / 2), inverse


def bisect(decreasing: Function, target: Tensor, t_min: float, t_max: float) -> Tensor:
    """The double in [t_min, t_max] at which ``decreasing`` passes ``target``, elementwise.

    Halves the ordered set of doubles instead of the interval: the bits of non-negative doubles, read as integers, sort like the numbers. At
    most 63 halvings then end on neighbouring doubles, whether t is near 1 or near 1e-300, and nothing is asked of the function but order.
    """
    low, high = torch.tensor([t_min, t_max], dtype=torch.float64, device=target.device).abs().view(torch.int64).unbind()  # abs: no -0.0
    low, high = low.expand(target.shape).clone(), high.expand(target.shape).clone()
    while bool((high - low > 1).any()):
        middle = low + (high - low) // 2
        later = decreasing(middle.view(torch.float64)) > target
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    # of the two neighbours the lower one wins only if it is the very end: elsewhere they agree to one rounding
    return torch.where(decreasing(low.view(torch.float64)) <= target, low, high).view(torch.float64)


def check_law(alpha: Function, sigma: Function, t_min: float, t_max: float) -> None:
    """Refuse a pair of functions that is no schedule, from its values on 1025 times."""
    t = torch.linspace(t_min, t_max, 1025, dtype=torch.float64)
    for name, fn in (("alpha", alpha), ("sigma", sigma)):
        values = fn(t)
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must map a tensor to a tensor, it returned {type(values).__name__}")
        if values.shape != t.shape:
            raise ValueError(f"{name} must act elementwise: given shape {tuple(t.shape)}, it returned {tuple(values.shape)}")
        inside = torch.isfinite(values) & (values >= 0) & ((values > 0) | (t == t_min) | (t == t_max))
        refuse(~inside, t, f"{name} must be finite and positive inside the domain, and is not at t =")
    rises = torch.diff(torch.log(alpha(t)) - torch.log(sigma(t))) >= 0
    refuse(rises, t[1:], "the half-log-SNR must strictly decrease with time, and does not at t =")


def number_or_tensor(value: Time, name: str) -> Tensor:
    """``value`` as a tensor of at most one axis: a number becomes 0-d float64; NaN and infinity are refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"{name} must be a number or a floating-point tensor, got {type(value).__name__}")
    if not isinstance(value, Tensor):  # the loops of samplers ask with numbers, which are checked in a tenth of the time
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value:.17g}")
        return torch.tensor(value, dtype=torch.float64)
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {value.dtype}")
    if value.ndim > 1:
        raise ValueError(f"{name} must be a number, 0-d or of shape (N,), got shape {tuple(value.shape)}")
    refuse_infinite(value, value, f"{name} must be finite, got")
    return value


def refuse(bad: Tensor, values: Tensor, message: str) -> None:
    """Raise ``ValueError(message)`` with the first offending value, if there is one."""
    if bool(bad.any()):
        raise ValueError(f"{message} {float(values[bad].reshape(-1)[0]):.17g}")


def refuse_infinite(values: Tensor, at: Tensor, message: str) -> None:
    """Refuse with the first of ``at`` where ``values`` is not finite; no mask is made where all are."""
    if not finite(values):
        refuse(~torch.isfinite(values), at, message)


def refuse_outside(values: Tensor, low: float, high: float, message: str) -> None:
    """Refuse finite ``values`` outside [low, high], both rounded to their dtype; no mask is made where all are inside."""
    if values.numel():
        bounds = values.new_tensor([low, high]).tolist()
        if values.detach().min() < bounds[0] or values.detach().max() > bounds[1]:
            refuse((values < bounds[0]) | (values > bounds[1]), values, message)
