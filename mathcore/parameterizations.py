"""One objective with four axes - schedule, prediction, weight, distribution of times - and the ODE and SDEs of one network (sections 6.2 to 6.4).

``predictions.convert_prediction`` holds the twelve changes of prediction. Here are what they do to targets and losses (Table 6.1, Eq. 6.3.6), the five
forms of the probability-flow ODE (Eq. 6.3.2), and the reverse-time SDEs that share its marginals (Prop. 6.4.1).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars, Time
from mathcore._validate import floating, function, like_input, nonnegative, one_of, per_sample
from mathcore.dynamics.sde import SDE, VectorField
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, check_affine
from mathcore.time_distributions import TimeDistribution

Batch = Float[Tensor, "n *shape"]
Values = Float[Tensor, ""] | Float[Tensor, " n"]

Weight = str | Callable[[Tensor], Any]
"""A name among :data:`WEIGHTS`, or a function of the times, float64 ``(N,) -> (N,)`` or a number."""

WEIGHTS = ("one", "sigma2", "g2", "snr")
"""1; sigma^2; g^2, with a score target the likelihood weighting of section 6.2.2; alpha^2 / sigma^2, with a clean target that of the noise loss."""

FORMS = ("noise", "clean", "score", "clean_noise", "velocity")
"""The five forms of Eq. 6.3.2; ``"clean_noise"`` takes the pair (clean, noise)."""


# --- targets and weights (section 6.2.2, Eq. 6.3.6) -----------------------------------------------------------------------------------------


def target_coefficients(schedule: AffineSchedule, t: Time, prediction: str) -> tuple[Values, Values]:
    """Return (A_t, B_t), the conditional target being A_t x_0 + B_t eps (Table 6.1), each of the shape of ``t``.

    Clean (1, 0), noise (0, 1), score (0, -1/sigma), velocity (alpha', sigma').

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: unknown name, ``t`` outside the domain, an infinite coefficient (the score at sigma = 0).
    """
    one_of(prediction, PREDICTIONS, "prediction")
    sigma = check_affine(schedule).sigma(t)
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    if prediction == "velocity":
        return schedule.dalpha(t), schedule.dsigma(t)
    if prediction != "score":
        return (one, zero) if prediction == "clean" else (zero, one)
    if not bool((sigma > 0).all()):
        raise ValueError(f"the conditional score is infinite where sigma is zero, at t={t}")
    return zero, -1 / sigma


def regression_target(x0: Batch, eps: Batch, t: Time, schedule: AffineSchedule, prediction: str) -> Batch:
    """Return the conditional target A_t x_0 + B_t eps (Eq. 6.2.5), whose mean given x_t is the optimal ``prediction``.

    Raises:
        TypeError: ``x0`` or ``eps`` is no floating tensor. ValueError: shapes that differ, NaN; and as :func:`target_coefficients`.
    """
    _pair(x0, eps, "x0", "eps")
    a, b = (per_sample(c, x0) for c in target_coefficients(schedule, _time(t, schedule), prediction))
    return a * x0 + b * eps


def loss_weight(schedule: AffineSchedule, t: Time, src: str, dst: str) -> Values:
    """Return k(t) with |dst error|^2 = k |src error|^2 (Eq. 6.3.6), of the shape of ``t``; its root is by how much a change amplifies errors.

    Raises:
        TypeError, ValueError: as ``convert_prediction``; among others where the change is singular.
    """
    one_of(src, PREDICTIONS, "src"), one_of(dst, PREDICTIONS, "dst")
    time = check_affine(schedule).as_time(t)
    unit = time.new_ones(max(1, time.numel()), 1)
    gain = convert_prediction(
        unit, torch.zeros_like(unit), time, schedule, src, dst
    )  # the conversion is affine: at x_t = 0 what it does to errors
    return gain.square().reshape(time.shape).to(t.dtype if isinstance(t, Tensor) else torch.float64)


def time_weight(schedule: AffineSchedule, t: Time, weight: Weight) -> Values:
    """Return omega(t), float64, of the shape of ``t``.

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: unknown name; a weight that is negative, not finite or of another shape.
    """
    time = check_affine(schedule).as_time(t)
    if callable(weight):
        value = weight(time)
    elif one_of(weight, WEIGHTS, "weight") == "g2":
        value = schedule.g2(time)
    elif weight == "snr":
        value = torch.exp(2 * schedule.half_log_snr(time))
    else:
        value = schedule.sigma(time) ** 2 if weight == "sigma2" else torch.ones_like(time)
    return nonnegative(value, time).expand(time.shape)


def effective_weight(
    schedule: AffineSchedule, t: Time, target: str, weight: Weight = "one", times: TimeDistribution | None = None
) -> Values:
    """Return the weight per unit of time that a design puts on the squared error of the score: ``(N,)`` or 0-d, float64 (section 6.2.2).

    omega(t) p_time(t) times sigma^2 (noise), sigma^4 / alpha^2 (clean), 1 (score), (g^2 / 2)^2 (velocity). Designs that agree in it have the same expected
    gradients. ``times``: the distribution of times, by default uniform.

    Raises:
        TypeError, ValueError: as :func:`time_weight`, :func:`loss_weight` and ``TimeDistribution.log_prob``; ValueError for times of another schedule.
    """
    times = TimeDistribution.uniform(check_affine(schedule)) if times is None else _same_domain(times, schedule)
    time = schedule.as_time(t)
    return time_weight(schedule, time, weight) * torch.exp(times.log_prob(time)) * loss_weight(schedule, time, "score", target)


def unified_loss(
    model: Callable[[Tensor, Any], Tensor],
    x0: Batch,
    t: Time | TimeDistribution,
    schedule: AffineSchedule,
    prediction: str,
    target: str | None = None,
    weight: Weight = "one",
    generator: torch.Generator | None = None,
    unbiased: bool = False,
) -> Float[Tensor, ""]:
    """Estimate E omega(t) |m(x_t, t) - (A_t x_0 + B_t eps)|^2 with one noise per row (Eq. 6.2.5): 0-d, norms summed over ``shape``.

    Args:
        model: ``model(x_t, t)`` returns the ``prediction``; ``t`` reaches it as ``(N,)`` in the dtype of ``x0``.
        x0: clean data ``(N, *shape)``.
        t: the times, or the distribution to draw one for each row from.
        schedule: of the corruption.
        prediction: what the model returns.
        target: in what the loss is taken, by default ``prediction``; the output is converted first (Prop. 6.3.1), which is what makes Eq. 6.3.6 hold.
        weight: omega, for errors of the ``target``.
        generator: for the times, then the noise.
        unbiased: divide by the density of the drawn times, which makes this an estimate of the integral of omega(t) mse(t) over time.

    Raises:
        TypeError: ``x0`` or a prediction is no floating tensor; no ``AffineSchedule``.
        ValueError: unknown name, NaN, ``t`` outside the domain, a prediction of another shape, a target or conversion that is singular at a time,
            ``unbiased`` without a distribution.
    """
    floating(x0, "x0")
    if not isinstance(t, TimeDistribution):
        if unbiased:
            raise ValueError("unbiased needs a TimeDistribution for t: the density of given times is not known")
        return unified_terms(model, x0, _normal(x0, generator), t, schedule, prediction, target, weight).mean()
    times = _same_domain(t, check_affine(schedule))
    drawn = times.sample(len(x0), generator).to(x0.device)
    terms = unified_terms(model, x0, _normal(x0, generator), drawn, schedule, prediction, target, weight)
    return (terms / torch.exp(times.log_prob(drawn)).to(terms) if unbiased else terms).mean()


def unified_terms(
    model: Callable[[Tensor, Any], Tensor],
    x0: Batch,
    eps: Batch,
    t: Time,
    schedule: AffineSchedule,
    prediction: str,
    target: str | None = None,
    weight: Weight = "one",
) -> Scalars:
    """Return the summands of :func:`unified_loss` for given noise and times: ``(N,)``, no randomness; errors as there."""
    one_of(prediction, PREDICTIONS, "prediction")
    target = prediction if target is None else one_of(target, PREDICTIONS, "target")
    _pair(x0, eps, "x0", "eps")
    # the model is told the time at which the coefficients are taken: rounded to the dtype of the data
    label = per_sample(t, x0.reshape(len(x0), -1)[:, 0]).expand(len(x0))
    time = check_affine(schedule).as_time(label)
    x_t = per_sample(schedule.alpha(time), x0) * x0 + per_sample(schedule.sigma(time), x0) * eps
    value = like_input(model(x_t, label), x0, "model")
    error = convert_prediction(value, x_t, time, schedule, prediction, target) - regression_target(x0, eps, time, schedule, target)
    return time_weight(schedule, time, weight).to(x0.dtype) * error.reshape(len(x0), -1).square().sum(1)


# --- the ODE and the SDEs of one network (sections 6.3.2 and 6.4) -----------------------------------------------------------------------------


def pf_velocity(value: Batch | tuple[Batch, Batch], x: Batch, t: Time, schedule: AffineSchedule, form: str) -> Batch:
    """Return dx/dt of the probability-flow ODE in one of its five :data:`FORMS` (Eq. 6.3.2): ``(N, *shape)``.

    ``value``: the prediction of that name; for ``"clean_noise"`` the pair (clean, noise), the form alpha' clean + sigma' noise that divides by nothing.

    Raises:
        TypeError, ValueError: as ``convert_prediction``, among others where the form is singular; TypeError for a pair where one is asked for or vice versa.
    """
    one_of(form, FORMS, "form")
    if isinstance(value, tuple) != (form == "clean_noise"):
        raise TypeError(f"value must be {'the pair (clean, noise)' if form == 'clean_noise' else 'one tensor'} for form {form!r}")
    if not isinstance(value, tuple):
        return convert_prediction(value, x, t, schedule, form, "velocity")
    clean, noise = value
    _pair(x, clean, "x", "clean")
    _pair(x, noise, "x", "noise")
    return regression_target(clean, noise, t, schedule, "velocity")


def reverse_family(
    velocity: VectorField, schedule: AffineSchedule, gamma: float | int | Callable[[Any], Any], t_start: float | int, t_end: float | int
) -> SDE:
    """Return dx = [v - gamma^2 / 2 s] dt + gamma dw from ``t_start`` back to ``t_end``, with the score s made from v (Eq. 6.4.2 and 6.4.3).

    With the exact velocity every gamma(t) >= 0 gives the marginals of the schedule: 0 the ODE, g the reverse-time SDE, and the choice is free after training.
    The score divides by sigma, so that ``t_end`` must have sigma > 0 unless gamma vanishes there.

    Args:
        velocity: ``(x, t) -> `` like ``x``.
        gamma: a number or a function of time that returns a number, 0-d or ``(N,)``.
        t_start, t_end: inside the domain of ``schedule``.

    Raises:
        TypeError: ``velocity`` no function, no ``AffineSchedule``.
        ValueError: times equal or outside the domain; when it runs: gamma negative or not finite, the score singular.
    """
    function(velocity, "velocity")
    check_affine(schedule).as_time(t_start), schedule.as_time(t_end)

    def level(t: Any) -> Tensor:
        value = torch.as_tensor(gamma(t) if callable(gamma) else gamma, dtype=torch.float64)
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(f"gamma must be finite and not negative, got {gamma(t) if callable(gamma) else gamma}")
        return value

    level(t_start)

    def drift(x: Tensor, t: Any) -> Tensor:
        v, noise = velocity(x, t), level(t)
        if not bool(noise.any()):
            return v
        return v - per_sample(noise, x) ** 2 / 2 * convert_prediction(v, x, t, schedule, "velocity", "score")

    return SDE(drift, level, t_start, t_end)


# --- checks -------------------------------------------------------------------------------------------------------------------------------


def _time(t: Time, schedule: AffineSchedule) -> Tensor:
    """Coefficients are formed in float64 and rounded once, to the dtype of the data."""
    return check_affine(schedule).as_time(t)


def _pair(x: Tensor, y: Tensor, name: str, other: str) -> None:
    floating(x, name), floating(y, other)
    if x.ndim == 0 or x.shape != y.shape:
        raise ValueError(f"{other} must have the shape (N, *shape) of {name}, {tuple(x.shape)}, got {tuple(y.shape)}")


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _same_domain(times: TimeDistribution, schedule: AffineSchedule) -> TimeDistribution:
    if not isinstance(times, TimeDistribution):
        raise TypeError(f"times must be a TimeDistribution, got {type(times).__name__}")
    if (times.schedule.t_min, times.schedule.t_max) != (schedule.t_min, schedule.t_max):
        domain = f"[{schedule.t_min}, {schedule.t_max}]"
        raise ValueError(f"the times must be those of the schedule, on {domain}; got {times!r}")
    return times
