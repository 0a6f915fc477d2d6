"""Denoising score matching (section 3.3.2): one loss for a single noise level, for many (section 3.4) and for continuous time (Eq. 4.2.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars
from mathcore._validate import floating, like_input, nonnegative, one_of, per_sample
from mathcore.schedules import AffineSchedule
from mathcore.scores._calls import Batch, row_sum

Corruption = AffineSchedule | float | int | Float[Tensor, ""] | Float[Tensor, " n"]
"""How data is made noisy: a schedule, x_t = alpha_t x_0 + sigma_t eps; or sigma itself, one or one per row, x_0 + sigma eps."""

Weight = str | Callable[[Tensor], Any]
WEIGHTS = ("one", "sigma2", "g2")
PREDICTIONS = ("score", "noise", "clean")


def dsm_loss(
    model: Callable[[Tensor, Any], Tensor],
    x0: Batch,
    corruption: Corruption,
    t: Float[Tensor, ""] | Float[Tensor, " n"] | float | int | None = None,
    weight: Weight = "one",
    prediction: str = "score",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Estimate E w |s_model(x_t) - grad log p(x_t | x_0)|^2 / 2 with one noise per row (Eq. 3.3.2, Eq. 3.3.4, Eq. 3.4.1, Eq. 4.2.1): 0-d.

    The conditional score is -(x_t - alpha x_0) / sigma^2 = -eps / sigma. Squared norms are summed over ``shape``; the factor 1/2 is the monograph's. The
    minimiser is the score of the noisy *marginal* (Theorem 3.3.1, Proposition 4.2.1), and the minimum is not zero.

    Args:
        model: ``model(x_t, t)`` for a schedule, ``model(x, sigma)`` for sigma; ``t`` and sigma reach it as ``(N,)``.
        x0: clean data ``(N, *shape)``.
        corruption: an ``AffineSchedule``; or sigma > 0, one number or one for each row (levels drawn from a list give Eq. 3.4.1 divided by their number).
        t: times, for a schedule only; by default uniform on (t_min, t_max], one for each row. Elsewhere than uniform: draw them and pass them.
        weight: w. ``"one"``; ``"sigma2"``, which makes the loss |eps_model - eps|^2 / 2; ``"g2"``, for a schedule, the likelihood weighting; or a function
            of the times, or of sigma, ``(N,) -> (N,)``.
        prediction: what the model returns, turned into a score: ``"score"``, ``"noise"`` (s = -eps / sigma) or ``"clean"`` (s = (alpha x - x_t) / sigma^2).

    Raises:
        TypeError: ``x0`` or a prediction is no floating tensor; ``corruption`` neither a schedule nor a number or floating tensor.
        ValueError: unknown name, sigma zero or negative, ``t`` with a sigma or outside the domain, ``"g2"`` without a schedule, a weight that is
            negative or not finite, a prediction of another shape, NaN in ``x0``.
    """
    noise = _normal(floating(x0, "x0"), generator)
    return dsm_terms(model, x0, noise, corruption, _drawn(x0, corruption, t, generator), weight, prediction).mean()


def dsm_terms(
    model: Callable[[Tensor, Any], Tensor],
    x0: Batch,
    noise: Batch,
    corruption: Corruption,
    t: Float[Tensor, ""] | Float[Tensor, " n"] | float | int | None = None,
    weight: Weight = "one",
    prediction: str = "score",
) -> Scalars:
    """Return the summands of :func:`dsm_loss` for given noise and, with a schedule, given times: ``(N,)``, no randomness.

    Raises:
        TypeError, ValueError: as there; ValueError also for a schedule without ``t``, or ``noise`` of another shape.
    """
    one_of(prediction, PREDICTIONS, "prediction")
    floating(x0, "x0"), floating(noise, "noise")
    if x0.ndim == 0 or noise.shape != x0.shape:
        raise ValueError(f"noise must have the shape (N, *shape) of x0, {tuple(x0.shape)}, got {tuple(noise.shape)}")
    level = _level(x0, corruption, t)
    alpha, sigma = (per_sample(c, x0) for c in (level.alpha, level.sigma))
    x_t = alpha * x0 + sigma * noise
    value = like_input(model(x_t, level.label), x0, "model")
    target = {"score": -noise / sigma, "noise": noise, "clean": x0}[prediction]
    to_score = {"score": torch.ones_like(level.sigma), "noise": 1 / level.sigma, "clean": level.alpha / level.sigma**2}[prediction]
    factor = _weight(weight, corruption, level) * to_score.square()  # float64
    return factor.to(x0.dtype) * row_sum((value - target).square()) / 2


@dataclass(frozen=True)
class _Level:
    """Coefficients per row, float64 ``(N,)``, and the time or sigma that the model is told, in the dtype of the data."""

    alpha: Tensor
    sigma: Tensor
    label: Tensor
    own: Tensor  # the same in float64, for weights


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _drawn(x0: Tensor, corruption: Any, t: Any, generator: torch.Generator | None) -> Any:
    """``t``, or for a schedule without it one uniform time per row, never t_min, where sigma may be 0."""
    if t is not None or not isinstance(corruption, AffineSchedule):
        return t
    u = torch.rand(x0.shape[:1], generator=generator, dtype=torch.float64, device=x0.device)
    return corruption.t_max - (corruption.t_max - corruption.t_min) * u


def _level(x0: Tensor, corruption: Any, t: Any) -> _Level:
    if isinstance(corruption, AffineSchedule):
        if t is None:
            raise ValueError("t must be given with a schedule: a number or one time per row")
        # the model is told the time it will be asked at: of the dtype of the data, so that its coefficients are those of that time
        label = per_sample(t, x0.reshape(len(x0), -1)[:, 0]).expand(len(x0))
        time = corruption.as_time(label)
        alpha, sigma = corruption.alpha(time), corruption.sigma(time)
    else:
        if isinstance(corruption, bool) or not isinstance(corruption, (int, float, Tensor)):
            raise TypeError(f"corruption must be an AffineSchedule or a noise level sigma, got {type(corruption).__name__}")
        if t is not None:
            raise ValueError("t goes with a schedule; with a noise level sigma there is no time")
        label = per_sample(corruption, x0.reshape(len(x0), -1)[:, 0], "sigma").expand(len(x0))
        time = sigma = label.double()
        alpha = torch.ones_like(sigma)
    if not bool((sigma > 0).all()):
        raise ValueError(f"sigma must be positive: without noise there is no conditional score; got {float(sigma.min())}")
    return _Level(alpha, sigma, label, time)


def _weight(weight: Weight, corruption: Any, level: _Level) -> Tensor:
    if callable(weight):
        value = weight(level.own)
    elif one_of(weight, WEIGHTS, "weight") == "g2":
        if not isinstance(corruption, AffineSchedule):
            raise ValueError("weight 'g2' needs a schedule: a single noise level has no diffusion coefficient")
        value = corruption.g2(level.own)
    else:
        value = level.sigma**2 if weight == "sigma2" else torch.ones_like(level.sigma)
    return nonnegative(value, level.own)
