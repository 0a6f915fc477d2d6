"""Two drifts, one noise: how likely a path is under one against the other, and what that says about training (appendix C.2).

A path is ``(N, M, *shape)``, node i at ``ts[i]``, as ``integrate_sde(return_path=True)`` returns it. Drifts are called with ``t`` a float.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count, floating, function, like_input, one_of, per_sample
from mathcore.dynamics.fields import divergence
from mathcore.dynamics.paths import check_grid
from mathcore.dynamics.sde import VectorField
from mathcore.schedules import AffineSchedule, check_affine

Path = Float[Tensor, "n m *shape"]
Diffusion = float | int | Callable[[float], Any]
LogDensity = Callable[[Tensor], Tensor]


def girsanov_log_ratio(
    path: Path,
    ts: Float[Tensor, " m"],
    f: VectorField,
    f_tilde: VectorField,
    g: Diffusion,
    reverse: bool = False,
    return_path: bool = False,
) -> Float[Tensor, " n"] | Float[Tensor, "n m"]:
    """Return log p_f(path) / p_f_tilde(path) for dx = f dt + g dw against dx = f_tilde dt + g dw, given the first node: ``(N,)``.

    The sum over the steps of delta . (dx - f_tilde dt) / g^2 - |delta|^2 dt / (2 g^2), delta = f - f_tilde at the start of the step: the exact
    log-ratio of the two Euler-Maruyama chains, and Girsanov's formula as the steps shrink. Only the path enters, no Wiener process: the increments
    under the denominator are read off the path, so that they cannot be those of the wrong measure.

    Args:
        path: ``(N, M, *shape)``, drawn from either law or from elsewhere. ts: ``(M,)``, increasing.
        f, f_tilde: drifts ``(x, t) -> `` like ``x``. g: the common diffusion coefficient, a number or a function of time; positive.
        reverse: for SDEs in reversed time (Eq. 4.1.6): ``ts`` decreasing, dt negative, the node at ``ts[0]`` the noisy end.
        return_path: the running sum ``(N, M)``, zero at node 0, instead of the total.

    Raises:
        TypeError: ``path`` or ``ts`` is no floating tensor, ``f`` or ``f_tilde`` no function.
        ValueError: shapes that do not fit, NaN, ``g`` not positive, or ``ts`` running against ``reverse``.
    """
    sign = -1.0 if reverse else 1.0
    terms = []
    for dx, h, gap, base, var in _steps(path, ts, f, f_tilde, g, reverse):
        surprise = dx - base * h
        terms.append((sign * gap * surprise - gap.square() * (abs(h) / 2)).flatten(1).sum(1) / var)
    running = torch.stack([torch.zeros_like(terms[0]), *terms], 1).cumsum(1)
    return running if return_path else running[:, -1]


def path_kl(
    f: VectorField, f_tilde: VectorField, g: Diffusion, path: Path, ts: Float[Tensor, " m"], reverse: bool = False
) -> Float[Tensor, " n"]:
    """Return the sum of |f - f_tilde|^2 |dt| / (2 g^2) along each path: ``(N,)``; over paths of ``f`` its mean is KL(p_f || p_f_tilde).

    Exactly the divergence of the two Euler-Maruyama chains started from one law; that of the two SDEs as the steps shrink (appendix C.2). It has no
    martingale in it, so its spread is smaller than that of :func:`girsanov_log_ratio`, whose mean is the same. Arguments and errors as there.
    """
    terms = [gap.square().flatten(1).sum(1) * (abs(h) / 2) / var for _, h, gap, _, var in _steps(path, ts, f, f_tilde, g, reverse)]
    return torch.stack(terms, 1).sum(1)


def elbo_sde(
    score: VectorField,
    schedule: AffineSchedule,
    x0: Float[Tensor, "n *shape"],
    prior_log_prob: LogDensity,
    n_t: int = 100,
    form: str = "dsm",
    t_min: float | int | None = None,
    n_probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """Return an unbiased estimate of the lower bound on log p_phi(x_0) of the learned reverse SDE, in nats: ``(N,)`` (appendix C.2.1).

    ``"ism"``: E log prior(x_T) - 1/2 int E[g^2 |s|^2 + 2 div(g^2 s - f)] dt, expectations given x_0. ``"dsm"``: the divergence of the score replaced,
    by partial integration, with s . eps / sigma; the difference |s + eps/sigma|^2 - |eps/sigma|^2 is multiplied out, so that nothing of size
    1 / sigma^2 has to cancel. The bound is tight for the exact score and a prior equal to p_T.

    Each of ``n_t`` equal strata of [t_min, t_max] gives one time and one noise per data point, used with both signs: the part of the
    ``dsm`` integrand that grows like 1 / sigma is odd in the noise and drops out.

    Args:
        score: ``s(x, t)``, ``t (2N,)``. x0: ``(N, *shape)``. prior_log_prob: ``(N, *shape) -> (N,)``.
        t_min: default: the start of the schedule. Above it the bound is one on E[log p_phi(x_t_min) | x_0].
        n_probes: random probes for the divergence of ``ism``; by default it is exact.

    Raises:
        TypeError: no ``AffineSchedule``, ``x0`` no floating tensor, functions missing.
        ValueError: unknown form, ``n_t`` not positive, ``t_min`` outside the schedule, NaN, a score that changes the shape.
    """
    one_of(form, ("ism", "dsm"), "form")
    check_affine(schedule)
    count(n_t, "n_t")
    for name, given in (("score", score), ("prior_log_prob", prior_log_prob)):
        function(given, name)
    start = schedule.t_min if t_min is None else float(t_min)
    if not schedule.t_min <= start < schedule.t_max:
        raise ValueError(f"t_min must lie in [{schedule.t_min}, {schedule.t_max}), got {t_min}")
    floating(x0, "x0")
    dim, width = x0[:1].numel(), (schedule.t_max - start) / n_t

    end = torch.full(x0.shape[:1], schedule.t_max, dtype=x0.dtype, device=x0.device)
    x_T, _, _ = _antithetic(schedule, x0, end, generator)
    total = prior_log_prob(x_T).reshape(2, -1).mean(0)
    for j in range(n_t):
        u = torch.rand(x0.shape[:1], generator=generator, dtype=x0.dtype, device=x0.device)
        t = (start + (j + 1 - u) * width).clamp(max=schedule.t_max)  # (0, 1]: sigma = 0 is never asked for
        x, noise, sigma = _antithetic(schedule, x0, t, generator)
        both = t.repeat(2)
        s = like_input(score(x, both), x, "score")
        if form == "dsm":
            cross = (s * noise / sigma).flatten(1).sum(1)
        elif n_probes is None:
            cross = divergence(lambda y, at=both: score(y, at), x)  # type: ignore[misc]
        else:
            cross = divergence(lambda y, at=both: score(y, at), x, "hutchinson", n_probes, generator=generator)  # type: ignore[misc]
        integrand = schedule.g2(both) * (s.square().flatten(1).sum(1) / 2 + cross) - dim * schedule.f(both)
        total = total - width * integrand.reshape(2, -1).mean(0)
    return total


def _antithetic(schedule: AffineSchedule, x0: Tensor, t: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """x_t for a noise and for its negative, one after the other ``(2N, *shape)``; the noise; sigma, ready to divide by."""
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    clean, noise, t = torch.cat([x0, x0]), torch.cat([noise, -noise]), t.repeat(2)
    alpha, sigma = per_sample(schedule.alpha(t), clean), per_sample(schedule.sigma(t), clean)
    return alpha * clean + sigma * noise, noise, sigma


def _steps(
    path: Tensor, ts: Tensor, f: VectorField, f_tilde: VectorField, g: Diffusion, reverse: bool
) -> Iterator[tuple[Tensor, float, Tensor, Tensor, float]]:
    """For each step: increment, dt, f - f_tilde, f_tilde, g^2."""
    if floating(path, "path").ndim < 3:
        raise ValueError(f"path must have shape (N, M, *shape), got {tuple(path.shape)}")
    times = check_grid(ts).tolist()
    if len(times) != path.shape[1]:
        raise ValueError(f"path must have one node for each of the {len(times)} times, got shape {tuple(path.shape)}")
    if (times[-1] < times[0]) != reverse:
        raise ValueError(f"ts must {'decrease with' if reverse else 'increase without'} reverse=True, got {times[0]} to {times[-1]}")
    for name, given in (("f", f), ("f_tilde", f_tilde)):
        function(given, name)
    for i in range(len(times) - 1):
        t, x = times[i], path[:, i]
        scale = float(g(t)) if callable(g) else float(g)
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"g must be positive and finite: without common noise no ratio exists; got {scale} at t={t}")
        base, top = like_input(f_tilde(x, t), x, "f_tilde"), like_input(f(x, t), x, "f")
        yield path[:, i + 1] - x, times[i + 1] - t, top - base, base, scale**2
