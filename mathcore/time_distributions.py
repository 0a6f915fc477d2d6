"""Where training looks along time: densities p_time(t) on the domain of a schedule (section 6.2.2).

Each is a quantile function and a log-density, so that a draw is ``quantile(u)`` with u uniform. For a loss that is an integral over time, dividing
by the density of the drawn time leaves the expectation alone and changes the variance only.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars, Time
from mathcore._validate import count, floating, positive
from mathcore.schedules import AffineSchedule, check_affine

Values = Float[Tensor, ""] | Float[Tensor, " n"]


class TimeDistribution:
    """A probability density on the time domain of a schedule; made by the constructors below.

    Attributes:
        name: the name of the constructor.
        schedule: whose domain ``[t_min, t_max]`` the times lie in.
    """

    def __init__(self, name: str, schedule: AffineSchedule, quantile: Callable[[Tensor], Tensor], log_density: Callable[[Tensor], Tensor]):
        self.name, self.schedule, self._quantile, self._log_density = name, schedule, quantile, log_density

    def __repr__(self) -> str:
        return f"TimeDistribution.{self.name}(on {self.schedule!r})"

    def sample(self, n: int, generator: torch.Generator | None = None) -> Scalars:
        """Draw ``n`` independent times: ``(n,)``, float64, on the device of the generator (the CPU without one).

        Raises:
            ValueError: ``n`` is no positive integer.
        """
        device = "cpu" if generator is None else generator.device
        u = torch.rand(count(n, "n"), generator=generator, dtype=torch.float64, device=device)
        return self.quantile(u + 2.0**-54)  # multiples of 2^-53 moved to the middle of their cells: never 0, never 1

    def quantile(self, u: Scalars) -> Scalars:
        """Return the times below which the fractions ``u`` of the mass lie, in the shape and dtype of ``u``.

        Raises:
            TypeError: no floating tensor. ValueError: outside (0, 1).
        """
        floating(u, "u")
        if not bool(((u > 0) & (u < 1)).all()):
            raise ValueError(f"u must lie in the open interval (0, 1), got values between {float(u.min())} and {float(u.max())}")
        time = self._quantile(u.double())
        return time.clamp(self.schedule.t_min, self.schedule.t_max).to(u.dtype)  # moves by rounding only

    def log_prob(self, t: Time) -> Values:
        """Return log p_time(t), in the shape and dtype of ``t`` (float64 for a number).

        Raises:
            TypeError: no number or floating tensor.
            ValueError: ``t`` outside the domain, or at an end of it where the logarithm is not finite.
        """
        time = self.schedule.as_time(t)
        value = self._log_density(time)
        if not bool(torch.isfinite(value).all()):
            bad = float(time.reshape(-1)[~torch.isfinite(value).reshape(-1)][0])
            raise ValueError(f"the log-density of {self.name} is not finite at t = {bad:.17g}")
        return value.to(t.dtype) if isinstance(t, Tensor) else value

    @classmethod
    def uniform(cls, schedule: AffineSchedule) -> "TimeDistribution":
        """Uniform on the domain of ``schedule``."""
        start, width = _domain(schedule)
        return cls("uniform", schedule, lambda u: start + width * u, lambda t: torch.full_like(t, -math.log(width)))

    @classmethod
    def lognormal(cls, schedule: AffineSchedule, mean: float | int = -1.2, std: float | int = 1.2) -> "TimeDistribution":
        """Noise-to-signal ratio sigma / alpha log-normal, log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, whose values are the defaults).

        Restricted to the ratios that the schedule reaches, and normalised there. In time the density is N(-lambda_t; mean, std^2) |lambda'_t|.

        Raises:
            TypeError: no ``AffineSchedule``.
            ValueError: ``std`` not positive, ``mean`` not finite, or no mass in the range of the schedule.
        """
        _domain(schedule)
        centre, width = _finite(mean, "mean"), positive(std, "std")
        low, high = (torch.special.ndtr((ratio - centre) / width) for ratio in _log_ratios(schedule))
        mass = float(high - low)
        if mass < 1e-12:
            raise ValueError(f"the {schedule.name} schedule has no mass under log(sigma / alpha) ~ N({mean}, {std}^2)")

        def quantile(u: Tensor) -> Tensor:
            return schedule.inverse_half_log_snr(-(centre + width * torch.special.ndtri(float(low) + mass * u)))

        def log_density(t: Tensor) -> Tensor:
            z = (-schedule.half_log_snr(t) - centre) / width
            speed = schedule.g2(t) / (2 * schedule.sigma(t) ** 2)  # -lambda'
            return -z.square() / 2 - math.log(width * mass * math.sqrt(2 * math.pi)) + torch.log(speed)

        return cls("lognormal", schedule, quantile, log_density)

    @classmethod
    def logit_normal(cls, schedule: AffineSchedule, mean: float | int = 0.0, std: float | int = 1.0) -> "TimeDistribution":
        """The fraction u of the domain logit-normal, log(u / (1 - u)) ~ N(mean, std^2) (Esser et al. 2024): more of the middle, less of both ends.

        Raises:
            TypeError: no ``AffineSchedule``. ValueError: ``std`` not positive or ``mean`` not finite.
        """
        start, length = _domain(schedule)
        centre, width = _finite(mean, "mean"), positive(std, "std")

        def log_density(t: Tensor) -> Tensor:
            u = (t - start) / length
            z = (torch.logit(u) - centre) / width
            return -z.square() / 2 - math.log(width * length * math.sqrt(2 * math.pi)) - torch.log(u) - torch.log1p(-u)

        return cls("logit_normal", schedule, lambda u: start + length * torch.sigmoid(centre + width * torch.special.ndtri(u)), log_density)

    @classmethod
    def importance(
        cls, schedule: AffineSchedule, t: Scalars, sizes: Scalars, n_bins: int = 32, uniform_share: float | int = 0.1
    ) -> "TimeDistribution":
        """The density that minimises the variance of an integral over time: proportional to the root mean square of its terms, seen so far.

        For gradients g_t of omega(t) mse(t) the optimum is p_time ~ sqrt(E |g_t|^2) with omega inside g_t. It is estimated by a histogram of equal bins;
        an empty bin counts as the average of the others. Call it again with newer observations to adapt.

        Args:
            schedule: whose domain is divided.
            t: observed times ``(M,)``, however they were drawn.
            sizes: norm of the term at each, not divided by a density, ``(M,)``, not negative.
            n_bins: bins.
            uniform_share: in (0, 1], mass spread evenly, so that no time is starved and the ratio of densities is bounded.

        Raises:
            TypeError: ``schedule``, ``t`` or ``sizes`` of the wrong kind.
            ValueError: shapes that differ, ``t`` outside the domain, NaN, negative sizes, all of them zero, ``n_bins`` or ``uniform_share`` out of range.
        """
        start, length = _domain(schedule)
        floating(t, "t", 1), floating(sizes, "sizes", 1)
        if not 0.0 < uniform_share <= 1.0:
            raise ValueError(f"uniform_share must be in (0, 1], got {uniform_share}")
        if t.shape != sizes.shape or bool((sizes < 0).any()) or not bool((sizes > 0).any()):
            raise ValueError(f"sizes must be not negative, not all zero and of the shape of t, {tuple(t.shape)}; got {tuple(sizes.shape)}")
        height = _root_mean_squares((schedule.as_time(t) - start) / length, sizes.double(), count(n_bins, "n_bins"))
        masses = (1 - uniform_share) * height / height.sum() + uniform_share / n_bins
        edges = torch.cat([masses.new_zeros(1), masses.cumsum(0)])
        log_heights = torch.log(masses * n_bins / length)

        def quantile(u: Tensor) -> Tensor:
            k = (torch.searchsorted(edges.to(u.device), u, right=True) - 1).clamp(0, n_bins - 1)
            inside = ((u - edges.to(u.device)[k]) / masses.to(u.device)[k]).clamp(0, 1)
            return start + length * (k + inside) / n_bins

        def log_density(time: Tensor) -> Tensor:
            return log_heights.to(time.device)[_bins((time - start) / length, n_bins)]

        return cls("importance", schedule, quantile, log_density)


def _bins(fraction: Tensor, n_bins: int) -> Tensor:
    return (fraction * n_bins).long().clamp(0, n_bins - 1)


def _root_mean_squares(fraction: Tensor, sizes: Tensor, n_bins: int) -> Tensor:
    k = _bins(fraction, n_bins)
    zero = sizes.new_zeros(n_bins)
    seen, total = zero.index_add(0, k, torch.ones_like(sizes)), zero.index_add(0, k, sizes.square())
    height = (total / seen.clamp(min=1)).sqrt()
    return torch.where(seen > 0, height, height[seen > 0].mean())


def _domain(schedule: AffineSchedule) -> tuple[float, float]:
    check_affine(schedule)
    return schedule.t_min, schedule.t_max - schedule.t_min


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _log_ratios(schedule: AffineSchedule) -> tuple[Tensor, Tensor]:
    """log(sigma / alpha) at both ends of time, where infinite as such."""
    ends = [torch.as_tensor(fn(t)) for t in (schedule.t_min, schedule.t_max) for fn in (schedule.sigma, schedule.alpha)]
    return ends[0].log() - ends[1].log(), ends[2].log() - ends[3].log()
