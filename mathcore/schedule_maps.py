"""All affine flows are one flow (section 6.3.3): a change of clock and a scale carry any schedule onto any other; and what a choice of clock costs.

Two schedules meet where their signal-to-noise ratios agree: x_t of the one is k times x_{t'} of the other. The linear path (1 - t, t) and the
trigonometric one (cos t, sin t) have closed forms. Section 6.3.4 measures a clock rho, alpha = 1 - rho and sigma = rho, by its kinetic energy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars, Time
from mathcore._validate import count, floating, function, like_input, one_of, per_sample
from mathcore.distributions import Empirical, GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, check_affine

Batch = Float[Tensor, "n *shape"]
Values = Float[Tensor, ""] | Float[Tensor, " n"]
Grid = Float[Tensor, " m"]
Field = Callable[[Tensor, Any], Tensor]
Clock = Callable[[Tensor], Tensor]
"""rho(t), elementwise on [0, 1], from 0 to 1, differentiable by torch."""

CANONICAL = ("linear", "trig")

# --- clocks (section 6.3.3) -----------------------------------------------------------------------------------------------------------------


def canonical_clock(schedule: AffineSchedule, t: Time) -> tuple[Values, Values]:
    """Return (c, tau), c = alpha + sigma and tau = sigma / c, with x_t = c x^FM_tau on the linear path (Prop. 6.3.3); each of the shape of ``t``.

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: ``t`` outside the domain.
    """
    alpha, sigma = check_affine(schedule, "schedule").alpha(t), schedule.sigma(t)
    return alpha + sigma, sigma / (alpha + sigma)


def canonical_rates(schedule: AffineSchedule, t: Time) -> tuple[Values, Values]:
    """Return (c', tau') = (alpha' + sigma', Delta / c^2), Delta = alpha sigma' - alpha' sigma. Errors as above, and where sigma' is infinite."""
    c, _ = canonical_clock(schedule, t)
    return schedule.dalpha(t) + schedule.dsigma(t), _wronskian(schedule, t) / c**2


def trig_clock(schedule: AffineSchedule, t: Time) -> tuple[Values, Values]:
    """Return (R, tau), R = sqrt(alpha^2 + sigma^2) and tan tau = sigma / alpha, with x_t = R x^Trig_tau (Eq. 6.3.4); each of the shape of ``t``.

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: ``t`` outside the domain.
    """
    alpha, sigma = check_affine(schedule, "schedule").alpha(t), schedule.sigma(t)
    return torch.hypot(alpha, sigma), torch.atan2(sigma, alpha)


def trig_rates(schedule: AffineSchedule, t: Time) -> tuple[Values, Values]:
    """Return (R', tau') = ((alpha alpha' + sigma sigma') / R, Delta / R^2). Errors as above, and where sigma' is infinite."""
    radius, _ = trig_clock(schedule, t)
    slope = (schedule.alpha(t) * schedule.dalpha(t) + schedule.sigma(t) * schedule.dsigma(t)) / radius
    return slope, _wronskian(schedule, t) / radius**2


def equal_snr(schedule: AffineSchedule, t: Time, other: AffineSchedule) -> tuple[Values, Values]:
    """Return (k, t') with x_t = k x_{t'}: the time at which ``other`` has the same alpha / sigma, and the ratio of scales (Conclusion 6.3.1).

    Raises:
        TypeError: no ``AffineSchedule``.
        ValueError: ``t`` outside the domain, or a ratio that ``other`` does not reach (vp stops short of pure noise, where linear and trig end).
    """
    alpha, sigma = check_affine(schedule, "schedule").alpha(t), schedule.sigma(t)
    time = schedule.as_time(t)
    partner = check_affine(other, "other").as_time(_same_ratio(schedule, time, other))
    scale = torch.hypot(schedule.alpha(time), schedule.sigma(time)) / torch.hypot(other.alpha(partner), other.sigma(partner))
    return scale.to(alpha.dtype), partner.to(sigma.dtype)


def _same_ratio(schedule: AffineSchedule, time: Tensor, other: AffineSchedule) -> Tensor:
    flat = time.reshape(-1)
    clean, pure = schedule.sigma(flat) == 0, schedule.alpha(flat) == 0
    for end, scale, name in ((clean, other.sigma(other.t_min), "sigma"), (pure, other.alpha(other.t_max), "alpha")):
        if bool(end.any()) and float(scale) > 0:
            raise ValueError(
                f"the {other.name} schedule never has {name} = 0, the {schedule.name} schedule has at t = {float(flat[end][0])}"
            )
    out = torch.full_like(flat, other.t_min).masked_fill(pure, other.t_max)
    inside = (~(clean | pure)).nonzero()[:, 0]
    if len(inside):
        out = out.index_put((inside,), other.inverse_half_log_snr(schedule.half_log_snr(flat[inside])))
    return out.reshape(time.shape)


def transfer_model(model: Field, src_schedule: AffineSchedule, dst_schedule: AffineSchedule, prediction: str) -> Field:
    """Return the model of the same ``prediction`` under ``dst_schedule`` that a ``model`` trained under ``src_schedule`` is: no training (section 6.3.3).

    At (x, t) it asks for (x / k, t') of equal signal-to-noise ratio. Clean points and noise pass unchanged, scores are divided by k, and a velocity is
    alpha' clean + sigma' noise with the derivatives of ``dst_schedule``. Samples for the same noise then agree up to the error of the solver.

    Raises:
        TypeError: ``model`` no function, no ``AffineSchedule``.
        ValueError: unknown ``prediction``; when called: as :func:`equal_snr`, and for a velocity where Delta vanishes or a derivative is infinite.
    """
    one_of(prediction, PREDICTIONS, "prediction")
    function(model, "model")
    check_affine(src_schedule, "src_schedule"), check_affine(dst_schedule, "dst_schedule")

    def transferred(x: Tensor, t: Any) -> Tensor:
        time = dst_schedule.as_time(t)
        scale, partner = equal_snr(dst_schedule, time, src_schedule)
        k = per_sample(scale, floating(x, "x"))
        value = like_input(model(x / k, partner.to(x.dtype)), x, "model")
        if prediction == "score":
            return value / k
        if prediction != "velocity":
            return value
        clean, noise = (convert_prediction(value, x / k, partner, src_schedule, "velocity", kind) for kind in ("clean", "noise"))
        return per_sample(dst_schedule.dalpha(time), x) * clean + per_sample(dst_schedule.dsigma(time), x) * noise

    return transferred


def velocity_transfer(velocity: Field, schedule: AffineSchedule, path: str = "linear") -> Field:
    """Return the velocity v(x, t) = c' y + c tau' velocity(y, tau), y = x / c, under ``schedule`` of a field on a canonical path (Eq. 6.3.3, 6.3.5).

    ``path``: ``"linear"`` or ``"trig"``. Holds for conditional and for marginal velocities alike.

    Raises:
        TypeError: ``velocity`` no function, no ``AffineSchedule``. ValueError: unknown path; when called: ``t`` outside the domain, an infinite derivative.
    """
    function(velocity, "velocity")
    check_affine(schedule, "schedule")
    linear = one_of(path, CANONICAL, "path") == "linear"
    clock, rates = (canonical_clock, canonical_rates) if linear else (trig_clock, trig_rates)

    def transferred(x: Tensor, t: Any) -> Tensor:
        time = schedule.as_time(t)
        scale, tau = clock(schedule, time)
        dscale, dtau = rates(schedule, time)
        y = floating(x, "x") / per_sample(scale, x)
        value = like_input(velocity(y, tau.to(x.dtype)), x, "velocity")
        return per_sample(dscale, x) * y + per_sample(scale * dtau, x) * value

    return transferred


def schedule_curvature(schedule: AffineSchedule, t: Time) -> tuple[Values, Values]:
    """Return (alpha'', sigma''), by differentiating the derivatives (section 6.3.4): the part of dv/dt at fixed x that the schedule alone causes.

    Each float64, of the shape of ``t``.

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: ``t`` outside the domain, or an infinite derivative.
    """
    with torch.enable_grad():
        time = check_affine(schedule, "schedule").as_time(t).detach().clone().requires_grad_()
        slopes = schedule.dalpha(time), schedule.dsigma(time)
        return _slope(slopes[0], time), _slope(slopes[1], time)


# --- the price of a clock (section 6.3.4) ---------------------------------------------------------------------------------------------------


def kinetic_energy(rho: Clock, data: GaussianMixture | Empirical, n: int = 512) -> Float[Tensor, ""]:
    """Return int_0^1 E |rho' (eps - x_0)|^2 dt = (D + tr Cov x_0 + |E x_0|^2) int rho'^2, the energy of the conditional velocity: 0-d, float64.

    Least for rho = t, and then equal to E |eps - x_0|^2. ``n``: nodes of a Gauss-Legendre rule, exact for polynomial clocks of degree n.

    Raises:
        TypeError: ``rho`` no function of tensors, ``data`` no law. ValueError: rho does not run from 0 to 1, or is not finite.
    """
    if not isinstance(data, (GaussianMixture, Empirical)):
        raise TypeError(f"data must be a GaussianMixture or an Empirical, got {type(data).__name__}")
    _, slope, weights = _along(rho, n)
    second = data.mean().double().square().sum() + data.cov().double().trace()
    return (data.dim + second) * (weights * slope**2).sum()


def velocity_power(data: GaussianMixture, r: Grid, n: int = 4001, generator: torch.Generator | None = None) -> Grid:
    """Return K(r) = E |E[eps - x_0 | (1 - r) x_0 + r eps]|^2 at each ``r``: ``(M,)``, float64, the energy of the *marginal* velocity at clock speed 1.

    Closed form for one Gaussian; in one dimension the trapezoidal rule on ``n`` points over ten standard deviations around each mean, which for an
    analytic integrand converges faster than any power; otherwise the mean over ``n`` samples.

    Raises:
        TypeError: ``data`` no ``GaussianMixture``, ``r`` no floating tensor. ValueError: ``r`` outside [0, 1], ``n`` below 2.
    """
    if not isinstance(data, GaussianMixture):
        raise TypeError(f"data must be a GaussianMixture, got {type(data).__name__}")
    floating(r, "r", 1), count(n, "n", 2)
    if not bool(((r >= 0) & (r <= 1)).all()):
        raise ValueError(f"r must lie in [0, 1], got values between {float(r.min())} and {float(r.max())}")
    law, places = data.to(torch.float64), r.double()
    if law.n_components == 1:
        a, clean = (1 - places)[:, None], torch.linalg.eigvalsh(law.covariances[0])  # variances of x_0 along its axes
        gain = (places[:, None] - a * clean) ** 2 / (a**2 * clean + places[:, None] ** 2)  # regression of eps - x_0 on x_r
        return law.means.square().sum() + gain.sum(1)
    oracle = AffineGaussianOracle(law, AffineSchedule.linear())
    return torch.stack([_power(oracle, u, n, generator) for u in places])


def _power(oracle: AffineGaussianOracle, r: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """K at one r, by quadrature on the line or by sampling."""
    marginal = oracle.marginal(r)
    if marginal.dim > 1:
        return oracle.velocity(marginal.sample(n, generator), r).square().sum(1).mean()
    reach = 10 * marginal.covariances[:, 0, 0].sqrt()
    low, high = (marginal.means[:, 0] - reach).min(), (marginal.means[:, 0] + reach).max()
    x = low + (high - low) * torch.linspace(0, 1, n, dtype=r.dtype, device=r.device)
    return torch.trapezoid(marginal.prob(x[:, None]) * oracle.velocity(x[:, None], r)[:, 0] ** 2, x)


def clock_energy(power: Callable[[Tensor], Tensor], rho: Clock, n: int = 512) -> Float[Tensor, ""]:
    """Return int_0^1 K(rho) rho'^2 dt, the energy of the marginal velocity along the clock ``rho`` (section 6.3.4): 0-d, float64.

    Args:
        power: K, ``(M,) -> (M,)``; for instance :func:`velocity_power` of a law.
        rho: from 0 to 1. n: nodes of a Gauss-Legendre rule.

    Raises:
        TypeError: functions that return no tensors. ValueError: rho does not run from 0 to 1, K negative or of another shape, not finite.
    """
    place, slope, weights = _along(rho, n)
    return (weights * _powers(power, place.clamp(0, 1)) * slope**2).sum()


@dataclass(frozen=True)
class OptimalClock:
    """The clock of least marginal energy: ``times[k]`` is when it reaches ``places[k]``; ``energy`` is the minimum, (int sqrt K)^2."""

    places: Grid
    times: Grid
    energy: float

    def __call__(self, t: Grid) -> Grid:
        """Return rho(t) by linear interpolation: ``(M,)``.

        Raises:
            TypeError: no floating tensor. ValueError: outside [0, 1].
        """
        floating(t, "t", 1)
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1], got values between {float(t.min())} and {float(t.max())}")
        k = torch.searchsorted(self.times, t.double(), right=True).clamp(1, len(self.times) - 1)
        low, high = self.times[k - 1], self.times[k]
        share = ((t.double() - low) / (high - low)).clamp(0, 1)
        return (self.places[k - 1] + share * (self.places[k] - self.places[k - 1])).to(t.dtype)


def optimal_clock(power: Callable[[Tensor], Tensor], n: int = 2000) -> OptimalClock:
    """Return the clock rho' ~ K(rho)^{-1/2}, of constant marginal speed, whose energy (int_0^1 sqrt K)^2 no other clock beats (section 6.3.4).

    From Euler-Lagrange with K a function of rho; the first integral is K(rho) rho'^2 = const. ``n``: cells in rho, with a two-point Gauss rule in each.

    Raises:
        TypeError: ``power`` returns no tensor. ValueError: K negative, zero on a whole cell, not finite or of another shape; ``n`` below 2.
    """
    edges = torch.linspace(0, 1, count(n, "n", 2) + 1, dtype=torch.float64)
    offset, middle = 0.5 / math.sqrt(3) / n, (edges[1:] + edges[:-1]) / 2
    roots = _powers(power, torch.cat([middle - offset, middle + offset])).sqrt().reshape(2, n).sum(0) / (2 * n)
    if not bool((roots > 0).all()):
        raise ValueError("K vanishes on a whole cell: the clock would jump there")
    reached = torch.cat([roots.new_zeros(1), roots.cumsum(0)])
    total = float(reached[-1])
    times = reached / total
    times[-1] = 1.0
    return OptimalClock(edges, times, total**2)


def _along(rho: Clock, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """rho and rho' at the Gauss-Legendre nodes of [0, 1], and the weights."""
    from numpy.polynomial.legendre import leggauss

    function(rho, "rho")
    nodes, weights = (torch.from_numpy(a) for a in leggauss(count(n, "n", 2)))
    ends = like_input(rho(torch.tensor([0.0, 1.0], dtype=torch.float64)), torch.zeros(2), "rho")
    if not bool(torch.isclose(ends, torch.tensor([0.0, 1.0], dtype=ends.dtype), rtol=0, atol=1e-9).all()):
        raise ValueError(f"rho must run from 0 to 1, got rho(0)={float(ends[0])} and rho(1)={float(ends[1])}")
    with torch.enable_grad():
        t = ((nodes + 1) / 2).requires_grad_()
        place = like_input(rho(t), t, "rho")
        slope = _slope(place, t)
    if not bool((torch.isfinite(place) & torch.isfinite(slope)).all()):
        raise ValueError("rho and its derivative must be finite inside [0, 1]")
    return place.detach(), slope, weights / 2


def _slope(values: Tensor, t: Tensor) -> Tensor:
    if not values.requires_grad:  # a constant function of t
        return torch.zeros_like(t)
    (slope,) = torch.autograd.grad(values.sum(), t, allow_unused=True)
    return torch.zeros_like(t) if slope is None else slope


def _powers(power: Callable[[Tensor], Tensor], r: Scalars) -> Scalars:
    value = like_input(power(r), r, "power")
    if not bool((torch.isfinite(value) & (value >= 0)).all()):
        raise ValueError("power must be finite and not negative")
    return value


def _wronskian(schedule: AffineSchedule, t: Time) -> Tensor:
    return schedule.alpha(t) * schedule.dsigma(t) - schedule.dalpha(t) * schedule.sigma(t)
