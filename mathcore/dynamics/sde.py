"""Stochastic differential equations dx = f(x, t) dt + g(t) dw, and the reverse, the family and the ODE that share their marginals (section 4.1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathcore._validate import function, per_sample
from mathcore.schedules import AffineSchedule, check_affine

VectorField = Callable[[Tensor, Any], Tensor]
"""``v(x, t)``: ``x (N, *shape)``, ``t`` a number, 0-d or ``(N,)``; the answer is shaped like ``x``."""

Diffusion = Callable[[Any], Any]
"""``g(t)``: a number or 0-d tensor for one time, ``(N,)`` for one per row."""


@dataclass(frozen=True)
class SDE:
    """dx = drift(x, t) dt + diffusion(t) dw, run from ``t_start`` to ``t_end`` (Eq. 4.1.3; Eq. A.2.3).

    With ``t_start > t_end`` time runs backward: dt is negative and w a reverse-time Wiener process, as in Eq. 4.1.6.

    Args:
        drift: ``(x, t) -> `` like ``x``. diffusion: ``t -> `` g(t) >= 0, a scalar.
        t_start, t_end: different finite numbers.

    Raises:
        TypeError: ``drift`` or ``diffusion`` cannot be called.
        ValueError: times that are equal or not finite.
    """

    drift: VectorField
    diffusion: Diffusion
    t_start: float | int
    t_end: float | int

    def __post_init__(self) -> None:
        for name in ("drift", "diffusion"):
            function(getattr(self, name), name)
        if not (math.isfinite(self.t_start) and math.isfinite(self.t_end)) or self.t_start == self.t_end:
            raise ValueError(f"t_start and t_end must be different finite times, got {self.t_start} and {self.t_end}")


def forward_sde(schedule: AffineSchedule) -> SDE:
    """Return dx = f(t) x dt + g(t) dw, whose kernel is x_t = alpha_t x_0 + sigma_t eps (Lemma 4.4.1), from ``t_min`` to ``t_max``.

    Where f or g is infinite (``linear`` and ``trig`` at their noisy end) the schedule raises ``ValueError`` when it is asked.

    Raises:
        TypeError: no ``AffineSchedule``.
    """
    schedule = check_affine(schedule)

    def diffusion(t: Any) -> Tensor:
        return torch.sqrt(schedule.g2(t))

    return SDE(lambda x, t: per_sample(schedule.f(t), x) * x, diffusion, schedule.t_min, schedule.t_max)


def reverse_sde(sde: SDE, score: VectorField, eta: float | int = 1.0) -> SDE:
    """Return dx = [f - (1 + eta^2)/2 g^2 score] dt + eta g dw in reversed time, from ``t_end`` of ``sde`` to its ``t_start``.

    With the exact score every eta gives the marginals of ``sde``: eta = 1 is the reverse-time SDE of Anderson (Eq. 4.1.6), eta = 0 the
    probability-flow ODE.

    Raises:
        TypeError: ``sde`` is no :class:`SDE`, ``score`` no function. ValueError: eta negative or not finite.
    """
    sde = _check(sde, score, eta)
    half = (1 + eta**2) / 2
    return SDE(_corrected(sde, score, half), lambda t: eta * sde.diffusion(t), sde.t_end, sde.t_start)


def forward_family(sde: SDE, score: VectorField, eta: float | int) -> SDE:
    """Return dx = [f - (1 - eta^2)/2 g^2 score] dt + eta g dw: the same marginals as ``sde``, in its own direction, for every eta >= 0.

    eta = 1 is ``sde`` itself, eta = 0 the probability-flow ODE. Errors as :func:`reverse_sde`.
    """
    sde = _check(sde, score, eta)
    half = (1 - eta**2) / 2
    return SDE(_corrected(sde, score, half), lambda t: eta * sde.diffusion(t), sde.t_start, sde.t_end)


def probability_flow(sde: SDE, score: VectorField) -> VectorField:
    """Return the velocity v(x, t) = f - g^2 score / 2 of the probability-flow ODE (Eq. 4.1.7). Errors as :func:`reverse_sde`."""
    return _corrected(_check(sde, score, 0.0), score, 0.5)


def semilinear_split(schedule: AffineSchedule, score: VectorField) -> tuple[Callable[[Any], Tensor], VectorField]:
    """Return L and N of the probability-flow ODE dx/dt = L(t) x + N(x, t) (Eq. A.1.3): L = f, N = -g^2 score / 2.

    Raises:
        TypeError: no ``AffineSchedule``, or ``score`` no function.
    """
    schedule = check_affine(schedule)
    function(score, "score")
    return schedule.f, lambda x, t: -0.5 * per_sample(schedule.g2(t), x) * score(x, t)


def _check(sde: SDE, score: VectorField, eta: float | int) -> SDE:
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be an SDE, got {type(sde).__name__}")
    function(score, "score")
    if not 0.0 <= eta < math.inf:
        raise ValueError(f"eta must be a non-negative finite number, got {eta}")
    return sde


def _corrected(sde: SDE, score: VectorField, half: float) -> VectorField:
    """The drift f - half g^2 score; the score is not asked where its factor is zero (``forward_family`` at eta = 1)."""
    if half == 0.0:
        return sde.drift

    def drift(x: Tensor, t: Any) -> Tensor:
        return sde.drift(x, t) - half * per_sample(sde.diffusion(t) ** 2, x) * score(x, t)

    return drift
