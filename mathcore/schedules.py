"""Noise schedules: what corruption does to scale, in continuous time and along a discrete chain.

A continuous schedule is the pair (alpha_t, sigma_t) of x_t = alpha_t x_0 + sigma_t eps (Eq. 4.4.1), data at t = 0. A discrete one is the
chain x_i = alpha_i x_{i-1} + beta_i eps_i of section 2.2.1. Every closed form below is written without subtracting nearly equal numbers, so
that it keeps its digits at both ends of the domain.
"""

import math
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._schedule_tools import (
    Function,
    Law,
    bisect,
    check_law,
    linear_beta,
    number_or_tensor,
    refuse,
    refuse_infinite,
    refuse_outside,
)
from mathcore._types import Time
from mathcore._validate import positive
from mathcore.discrete_schedule import DiscreteSchedule

__all__ = ["AffineSchedule", "DiscreteSchedule"]

Values = Float[Tensor, ""] | Float[Tensor, " n"]


class AffineSchedule:
    """An affine Gaussian corruption x_t = alpha(t) x_0 + sigma(t) eps on the closed time domain [t_min, t_max], data at t_min.

    Made by the constructors below, never directly. Each function takes a number (answer: 0-d float64) or a floating tensor, 0-d or ``(N,)``
    (answer: its shape, dtype and device; the arithmetic is float64 throughout). All of them raise ``TypeError`` for what is no number or
    floating tensor, and ``ValueError`` outside the domain and where the value is infinite.

    Attributes:
        name: the name of the constructor, or the one given to :meth:`from_alpha_sigma`.
        t_min, t_max: ends of the closed domain.
        convention: always ``"data0"``: time runs from data to noise.
        parameters: what the constructor was called with.
    """

    convention: ClassVar[str] = "data0"

    def __init__(self, name: str, t_min: float, t_max: float, law: Law, constructor: str, parameters: dict[str, Any]) -> None:
        self.name, self.t_min, self.t_max, self.parameters = name, float(t_min), float(t_max), parameters
        self._law, self._constructor = law, constructor
        ends = law.half_log_snr(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        self._lambda_max, self._lambda_min = float(ends[0]), float(ends[1])

    def __repr__(self) -> str:
        return f"AffineSchedule.{self._constructor}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __reduce__(self) -> tuple[Any, ...]:  # the law is made of closures, which do not pickle; the call that made it does
        return partial(getattr(AffineSchedule, self._constructor), **self.parameters), ()

    # --- functions of time -------------------------------------------------------------------------------------------------------

    def alpha(self, t: Time) -> Values:
        """Signal scale alpha_t, the shape of ``t``."""
        return self._at(t, "alpha")

    def sigma(self, t: Time) -> Values:
        """Noise standard deviation sigma_t, the shape of ``t``."""
        return self._at(t, "sigma")

    def dalpha(self, t: Time) -> Values:
        """Time derivative of alpha."""
        return self._at(t, "dalpha")

    def dsigma(self, t: Time) -> Values:
        """Time derivative of sigma (infinite at t = 0 for vp, ve and cosine, whose sigma starts like a square root)."""
        return self._at(t, "dsigma")

    def f(self, t: Time) -> Values:
        """Drift coefficient f = alpha' / alpha of dx = f x dt + g dw (Lemma 4.4.1)."""
        return self._at(t, "f")

    def g2(self, t: Time) -> Values:
        """Squared diffusion coefficient g^2 = 2 sigma sigma' - 2 f sigma^2 (Lemma 4.4.1)."""
        return self._at(t, "g2")

    def half_log_snr(self, t: Time) -> Values:
        """Half-log-SNR lambda_t = log(alpha_t / sigma_t), strictly decreasing in t (Eq. 9.4.2)."""
        return self._at(t, "half_log_snr")

    def inverse_half_log_snr(self, lam: Time) -> Values:
        """The time at which the half-log-SNR is ``lam``, to 1e-10 relative (rounding of the dtype of ``lam`` apart).

        Raises:
            ValueError: ``lam`` is outside the range of the schedule, or so large that its time is below the smallest normal number, or a
                custom alpha or sigma has lost too many digits there.
        """
        value = number_or_tensor(lam, "lam")
        low, high = self._lambda_min, self._lambda_max
        # half_log_snr(t_max), rounded by the caller's dtype, must find its way back: a few units in the last place of slack
        slack = [4.0 * torch.finfo(value.dtype).eps * max(1.0, abs(end)) if math.isfinite(end) else 0.0 for end in (low, high)]
        lam64 = value.to(torch.float64)
        outside = (lam64 < low - slack[0]) | (lam64 > high + slack[1])
        refuse(outside, value, f"lam outside [{low}, {high}], the range of half_log_snr of the {self.name} schedule:")
        t = self._law.inverse(lam64.clamp(low, high)).clamp(self.t_min, self.t_max)  # both move by rounding only
        if high == math.inf:
            refuse(~(t >= torch.finfo(value.dtype).tiny), value, f"lam too large, its time is below the normal numbers of {value.dtype}:")
        return t.to(value.dtype)

    def as_time(self, t: Time) -> Values:
        """``t`` as a float64 tensor of its own shape inside the domain.

        An end of the domain rounded to a narrower dtype (pi/2 in float32 exceeds pi/2) counts as that end.

        Raises:
            TypeError: not a number or floating tensor.
            ValueError: more than one axis, NaN, infinite or outside the domain.
        """
        value = number_or_tensor(t, "t")
        outside = f"t outside [{self.t_min}, {self.t_max}], the domain of the {self.name} schedule:"
        if not isinstance(t, Tensor):
            if not self.t_min <= t <= self.t_max:
                raise ValueError(f"{outside} {t:.17g}")
            return value
        refuse_outside(value, self.t_min, self.t_max, outside)
        time = value.to(torch.float64)
        return time if value.dtype == torch.float64 else time + (time.clamp(self.t_min, self.t_max) - time).detach()

    def _at(self, t: Time, which: str) -> Tensor:
        time = self.as_time(t)
        value = getattr(self._law, which)(time)
        undefined = f"{which} of the {self.name} schedule is infinite or undefined at t ="
        if not isinstance(t, Tensor):
            if not math.isfinite(value):
                raise ValueError(f"{undefined} {t:.17g}")
            return value
        value = value.to(t.dtype)
        refuse_infinite(value, time, undefined)
        return value

    # --- the dictionary of schedules ---------------------------------------------------------------------------------------------

    @classmethod
    def vp(cls, beta_min: float = 0.1, beta_max: float = 20.0, t_max: float = 1.0) -> "AffineSchedule":
        """Variance preserving (Table 4.1): alpha = exp(-B/2), sigma^2 = 1 - exp(-B), B = int beta, beta = beta_min + t (beta_max - beta_min)."""
        beta, integral, inverse = linear_beta(beta_min, beta_max, t_max)

        def sigma(t: Tensor) -> Tensor:
            return torch.sqrt(-torch.expm1(-integral(t)))

        law = Law(
            alpha=lambda t: torch.exp(-integral(t) / 2),
            sigma=sigma,
            dalpha=lambda t: -beta(t) / 2 * torch.exp(-integral(t) / 2),
            dsigma=lambda t: beta(t) / 2 * torch.exp(-integral(t)) / sigma(t),
            f=lambda t: -beta(t) / 2,
            g2=beta,
            half_log_snr=lambda t: -(integral(t) + torch.log(-torch.expm1(-integral(t)))) / 2,
            inverse=lambda lam: inverse(torch.logaddexp(torch.zeros_like(lam), -2 * lam)),  # B = log(1 + e^{-2 lam})
        )
        return cls("vp", 0.0, t_max, law, "vp", {"beta_min": beta_min, "beta_max": beta_max, "t_max": t_max})

    @classmethod
    def sub_vp(cls, beta_min: float = 0.1, beta_max: float = 20.0, t_max: float = 1.0) -> "AffineSchedule":
        """Sub-variance-preserving (Song et al. 2021): alpha as in :meth:`vp`, sigma = 1 - exp(-B), g^2 = beta (1 - exp(-2B))."""
        beta, integral, inverse = linear_beta(beta_min, beta_max, t_max)
        law = Law(
            alpha=lambda t: torch.exp(-integral(t) / 2),
            sigma=lambda t: -torch.expm1(-integral(t)),
            dalpha=lambda t: -beta(t) / 2 * torch.exp(-integral(t) / 2),
            dsigma=lambda t: beta(t) * torch.exp(-integral(t)),
            f=lambda t: -beta(t) / 2,
            g2=lambda t: -beta(t) * torch.expm1(-2 * integral(t)),
            half_log_snr=lambda t: -integral(t) / 2 - torch.log(-torch.expm1(-integral(t))),
            inverse=lambda lam: inverse(2 * torch.asinh(torch.exp(-lam) / 2)),  # sigma / alpha = 2 sinh(B/2)
        )
        return cls("sub_vp", 0.0, t_max, law, "sub_vp", {"beta_min": beta_min, "beta_max": beta_max, "t_max": t_max})

    @classmethod
    def ve(cls, sigma_min: float = 0.01, sigma_max: float = 50.0) -> "AffineSchedule":
        """Variance exploding on [0, 1] (Table 4.1): alpha = 1, sigma_t^2 = s(t)^2 - s(0)^2, s(t) = sigma_min (sigma_max / sigma_min)^t."""
        low, high = positive(sigma_min, "sigma_min"), positive(sigma_max, "sigma_max")
        if low >= high:
            raise ValueError(f"sigma_max must exceed sigma_min, got sigma_min={sigma_min} and sigma_max={sigma_max}")
        rate = 2 * math.log(high / low)  # s(t)^2 = sigma_min^2 exp(rate t)

        def sigma(t: Tensor) -> Tensor:
            return low * torch.sqrt(torch.expm1(rate * t))

        def g2(t: Tensor) -> Tensor:
            return low**2 * rate * torch.exp(rate * t)

        law = Law(
            alpha=torch.ones_like,
            sigma=sigma,
            dalpha=torch.zeros_like,
            dsigma=lambda t: g2(t) / (2 * sigma(t)),
            f=torch.zeros_like,
            g2=g2,
            half_log_snr=lambda t: -math.log(low) - torch.log(torch.expm1(rate * t)) / 2,
            inverse=lambda lam: torch.log1p(torch.exp(-2 * (lam + math.log(low)))) / rate,
        )
        return cls("ve", 0.0, 1.0, law, "ve", {"sigma_min": sigma_min, "sigma_max": sigma_max})

    @classmethod
    def edm(cls, t_max: float = 80.0) -> "AffineSchedule":
        """EDM (Karras et al. 2022; section D.6): alpha = 1, sigma = t on [0, t_max]."""
        law = Law(
            alpha=torch.ones_like,
            sigma=torch.clone,
            dalpha=torch.zeros_like,
            dsigma=torch.ones_like,
            f=torch.zeros_like,
            g2=lambda t: 2 * t,
            half_log_snr=lambda t: -torch.log(t),
            inverse=lambda lam: torch.exp(-lam),
        )
        return cls("edm", 0.0, positive(t_max, "t_max"), law, "edm", {"t_max": t_max})

    @classmethod
    def linear(cls) -> "AffineSchedule":
        """Flow matching / rectified flow with data at 0: alpha = 1 - t, sigma = t on [0, 1]."""
        law = Law(
            alpha=lambda t: 1 - t,
            sigma=torch.clone,
            dalpha=lambda t: -torch.ones_like(t),
            dsigma=torch.ones_like,
            f=lambda t: -1 / (1 - t),
            g2=lambda t: 2 * t / (1 - t),
            half_log_snr=lambda t: torch.log1p(-t) - torch.log(t),
            inverse=lambda lam: torch.sigmoid(-lam),
        )
        return cls("linear", 0.0, 1.0, law, "linear", {})

    @classmethod
    def trig(cls) -> "AffineSchedule":
        """Trigonometric: alpha = cos t, sigma = sin t on [0, pi/2]. The cosine is written sin(t_max - t), exactly 0 at the end."""
        end = math.pi / 2
        law = Law(
            alpha=lambda t: torch.sin(end - t),
            sigma=torch.sin,
            dalpha=lambda t: -torch.sin(t),
            dsigma=lambda t: torch.sin(end - t),
            f=lambda t: -torch.sin(t) / torch.sin(end - t),
            g2=lambda t: 2 * torch.sin(t) / torch.sin(end - t),
            half_log_snr=lambda t: torch.log(torch.sin(end - t)) - torch.log(torch.sin(t)),
            inverse=lambda lam: torch.atan(torch.exp(-lam)),
        )
        return cls("trig", 0.0, end, law, "trig", {})

    @classmethod
    def cosine(cls, s: float = 0.008) -> "AffineSchedule":
        """Cosine (Nichol & Dhariwal 2021) on [0, 1]: alpha = cos u(t) / cos u(0), u = (t + s) / (1 + s) pi/2, sigma^2 = 1 - alpha^2."""
        if not 0.0 <= s < math.inf:
            raise ValueError(f"s must be a non-negative finite number, got {s}")
        c = math.pi / (2 * (1 + s))  # u(t) = c (t + s) and pi/2 - u(t) = c (1 - t)
        cos_0, sin_0 = math.sin(c), math.sin(s * c)  # of u(0)

        def alpha(t: Tensor) -> Tensor:
            return torch.sin(c * (1 - t)) / cos_0

        def sigma(t: Tensor) -> Tensor:  # sin^2 u(t) - sin^2 u(0) = sin(u(t) + u(0)) sin(u(t) - u(0))
            return torch.sqrt(torch.sin(c * (t + 2 * s))) * torch.sqrt(torch.sin(c * t)) / cos_0

        def dalpha(t: Tensor) -> Tensor:
            return -c * torch.sin(c * (t + s)) / cos_0

        def inverse(lam: Tensor) -> Tensor:  # u(t) - u(0) from its sine and cosine, both without subtraction
            zero = torch.zeros_like(lam)
            a, b = torch.exp(-torch.logaddexp(zero, -2 * lam) / 2), torch.exp(-torch.logaddexp(zero, 2 * lam) / 2)  # alpha and sigma
            sin_u = torch.hypot(b, a * sin_0)
            return torch.atan2(cos_0 * b * (b / (sin_u + a * sin_0)), a * cos_0**2 + sin_0 * sin_u) / c

        law = Law(
            alpha=alpha,
            sigma=sigma,
            dalpha=dalpha,
            dsigma=lambda t: -alpha(t) * dalpha(t) / sigma(t),
            f=lambda t: dalpha(t) / alpha(t),
            g2=lambda t: -2 * dalpha(t) / alpha(t),
            half_log_snr=lambda t: torch.log(alpha(t)) - torch.log(sigma(t)),
            inverse=inverse,
        )
        return cls("cosine", 0.0, 1.0, law, "cosine", {"s": s})

    @classmethod
    def from_alpha_sigma(
        cls, alpha: Function, sigma: Function, t_min: float = 0.0, t_max: float = 1.0, name: str = "custom"
    ) -> "AffineSchedule":
        """A schedule from two elementwise torch functions; derivatives by automatic differentiation.

        Raises:
            TypeError: a function does not return a tensor.
            ValueError: not 0 <= t_min < t_max finite, a wrong output shape, alpha or sigma not positive inside the domain (zero is allowed
                at its ends), or a half-log-SNR that does not strictly decrease (Lemma 4.4.1 needs g^2 >= 0); looked at on 1025 times.
        """
        if not 0.0 <= t_min < t_max < math.inf:
            raise ValueError(f"need 0 <= t_min < t_max finite, got t_min={t_min} and t_max={t_max}")
        check_law(alpha, sigma, t_min, t_max)

        def derivative(fn: Function) -> Function:
            return lambda t: torch.func.vjp(fn, t)[1](torch.ones_like(t))[0]

        dalpha, dsigma = derivative(alpha), derivative(sigma)

        def half_log_snr(t: Tensor) -> Tensor:
            return torch.log(alpha(t)) - torch.log(sigma(t))

        def inverse(lam: Tensor) -> Tensor:
            t = bisect(half_log_snr, lam, t_min, t_max)
            error = (half_log_snr(t) - lam).abs()
            slope = (dalpha(t) / alpha(t) - dsigma(t) / sigma(t)).abs()
            rounding = 4 * torch.finfo(t.dtype).eps * lam.abs().clamp(min=1)
            accurate = torch.isfinite(error) & (error <= 1e-10 * t * slope + rounding)
            lost = "alpha and sigma are not accurate enough there (write 1 - alpha^2 without cancellation) for lam ="
            refuse(~accurate & (t > t_min) & (t < t_max), lam, lost)
            return t

        law = Law(
            alpha=alpha,
            sigma=sigma,
            dalpha=dalpha,
            dsigma=dsigma,
            f=lambda t: dalpha(t) / alpha(t),
            g2=lambda t: 2 * sigma(t) * (dsigma(t) - dalpha(t) / alpha(t) * sigma(t)),
            half_log_snr=half_log_snr,
            inverse=inverse,
        )
        given = {"alpha": alpha, "sigma": sigma, "t_min": t_min, "t_max": t_max, "name": name}
        return cls(name, t_min, t_max, law, "from_alpha_sigma", given)


def check_affine(schedule: object, name: str = "schedule") -> AffineSchedule:
    """Return ``schedule`` if it is an :class:`AffineSchedule`.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(schedule, AffineSchedule):
        raise TypeError(f"{name} must be an AffineSchedule, got {type(schedule).__name__}")
    return schedule
