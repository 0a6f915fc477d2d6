"""DDIM with any amount of noise, DDPM's ancestral sampler on any grid, Euler-Maruyama on the reverse SDE (sections 9.2 and 4.1)."""

import math
from itertools import pairwise

from torch import Tensor

from mathcore._validate import one_of
from mathcore.solvers.builder import Builder, Combination, Node, Schedule, State
from mathcore.solvers.table import SolverTable


def ddim(schedule: Schedule, times: Tensor, prediction: str = "noise", eta: float | int = 0.0) -> SolverTable:
    """DDIM: estimated clean part and estimated noise, recombined at the next time (Eq. 9.2.3; Eq. 9.2.9 and 9.2.10 with noise).

    x_t = alpha_t clean + sqrt(sigma_t^2 - c^2) noise + c z,  c = eta (sigma_t / sigma_s) sigma_{s|t} = eta sigma_t sqrt(1 - e^{-2h}).

    Order 1, one model call per step, exact for a point mass at eta = 0. It may start where alpha = 0 (with a clean or velocity model) and end at
    sigma = 0.

    Args:
        schedule, times, prediction: see ``Builder``.
        eta: 0 is deterministic; 1 gives the DDPM posterior variance; at most what keeps c <= sigma_t in every step.

    Raises:
        ValueError: eta negative or too large, a bad grid, a conversion that is singular at one of its times.
    """
    if not 0.0 <= eta < math.inf:
        raise ValueError(f"eta must be a non-negative number, got {eta}")
    build = Builder(f"ddim(eta={eta:g})", schedule, times, prediction)
    x = build.start
    for s, t in pairwise(build.nodes):
        x = build.state(ddim_step(build, x, s, t, eta), t)
    return build.table()


def ddim_step(build: Builder, x: State, s: Node, t: Node, eta: float | int) -> Combination:
    """One step of :func:`ddim`."""
    m, c = build.evaluate(x), eta * t.sigma * _fresh(s, t)
    if c > t.sigma:
        raise ValueError(f"eta={eta} asks for more noise than there is at t={t.t}: at most {1 / _fresh(s, t):.6g} on this grid")
    return t.alpha * m.clean + math.sqrt(t.sigma**2 - c**2) * m.noise + c * build.noise


def ancestral(schedule: Schedule, times: Tensor, prediction: str = "noise", variance: str = "posterior") -> SolverTable:
    """DDPM's sampler (Eq. 2.2.14) on any grid: the mean of p(x_t | x_s, x_0 = clean), plus noise.

    ``variance="posterior"``: that law's own (Eq. 2.2.5), which makes it ``ddim(eta=1)`` in law and in numbers. ``"beta"``: the variance
    sigma_s^2 - (alpha_s / alpha_t)^2 sigma_t^2 of the forward step (Ho et al. 2020). A step that ends at sigma = 0 adds no noise in either.

    Raises:
        ValueError: unknown variance, a bad grid, a conversion that is singular at one of its times.
    """
    one_of(variance, ("posterior", "beta"), "variance")
    build = Builder(f"ancestral({variance})", schedule, times, prediction)
    x = build.start
    for s, t in pairwise(build.nodes):
        m = build.evaluate(x)
        fresh = _fresh(s, t)  # sigma_{s|t} / sigma_s
        std = t.sigma * fresh if variance == "posterior" else (s.sigma * fresh if t.sigma else 0.0)
        # posterior mean: alpha_t sigma_{s|t}^2 / sigma_s^2 of the clean point, alpha_{s|t} sigma_t^2 / sigma_s^2 of the state
        shrink = t.sigma / s.sigma * math.exp(s.lam - t.lam)
        x = build.state(t.alpha * fresh**2 * m.clean + shrink * x + std * build.noise, t)
    return build.table()


def euler_maruyama(schedule: Schedule, times: Tensor, prediction: str = "noise", noise_level: float | int = 1.0) -> SolverTable:
    """Euler-Maruyama in time on dx = [v - (noise_level^2 / 2) g^2 score] dt + noise_level g dw (Eq. 4.1.6 at noise level 1, the ODE at 0).

    Weak order 1. Every noise level has the same marginals when the score is exact.

    Raises:
        ValueError: negative noise level, a ``DiscreteSchedule``, a bad grid, a time at which g or a conversion is infinite.
    """
    if not 0.0 <= noise_level < math.inf:
        raise ValueError(f"noise_level must be a non-negative number, got {noise_level}")
    build = Builder(f"euler_maruyama({noise_level:g})", schedule, times, prediction)
    x = build.start
    for s, t in pairwise(build.nodes):
        x = build.state(euler_maruyama_step(build, x, s, t, noise_level), t)
    return build.table()


def euler_maruyama_step(build: Builder, x: State, s: Node, t: Node, noise_level: float | int) -> Combination:
    """One step of :func:`euler_maruyama`."""
    m, dt = build.evaluate(x), t.t - s.t
    g2 = noise_level**2 * s.rate("g2")
    return x + dt * (m.velocity - g2 / 2 * m.score) + math.sqrt(-dt * g2) * build.noise


def _fresh(s: Node, t: Node) -> float:
    """Share of fresh noise at s, given x_t: sigma_{s|t} / sigma_s = sqrt(1 - e^{-2h}), h = lambda_t - lambda_s."""
    return math.sqrt(-math.expm1(-2 * (t.lam - s.lam)))
