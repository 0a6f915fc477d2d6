"""Gaussian corruption seen from every side: transitions, reverse kernels, the linear SDE behind a schedule and back (section 4.4, Lemma C.1.4).

Times are ``t < s``: ``t`` is nearer to the data. A schedule is an ``AffineSchedule``, or a ``DiscreteSchedule`` whose times are its indices 0..L.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._schedule_tools import Function, Law, bisect, refuse
from mathcore._types import Index, Time
from mathcore._validate import floating, one_of, per_sample, positive
from mathcore.dynamics.paths import check_grid
from mathcore.schedules import AffineSchedule, DiscreteSchedule

Schedule = AffineSchedule | DiscreteSchedule
Values = Float[Tensor, ""] | Float[Tensor, " n"]
Batch = Float[Tensor, "n *shape"]
Clean = Callable[[Tensor, Tensor], Tensor]

# --- between two times (Eq. 4.4.4, 4.4.5) ----------------------------------------------------------------------------------------------


def transition(schedule: Schedule, t: Time | Index, s: Time | Index) -> tuple[Values, Values]:
    """Return (alpha_{s|t}, sigma_{s|t}): x_s = alpha_{s|t} x_t + sigma_{s|t} eps for t < s (Eq. 4.4.5), float64.

    alpha_{s|t} = alpha_s / alpha_t and sigma_{s|t}^2 = sigma_s^2 - alpha_{s|t}^2 sigma_t^2, the latter without subtracting nearly equal numbers:
    sigma_s^2 (1 - SNR(s) / SNR(t)).

    Raises:
        TypeError: no schedule, or times of the wrong kind (numbers for an ``AffineSchedule``, integers for a ``DiscreteSchedule``).
        ValueError: times outside the schedule, NaN, or not ``t < s``.
    """
    (alpha_t, *_), (alpha_s, sigma_s, _), lost = _pair(schedule, t, s)
    return alpha_s / alpha_t, sigma_s * lost.sqrt()


def reverse_kernel(schedule: Schedule, s: Time | Index, t: Time | Index) -> tuple[Values, Values, Values]:
    """Return (coef_xs, coef_x0, std) of p(x_t | x_s, x_0) = N(coef_xs x_s + coef_x0 x_0, std^2 I), t < s (Lemma 4.4.2), float64.

    With t = 0 and sigma_0 = 0 these are (0, alpha_0, 0): the last step returns the clean estimate, without noise. Errors as :func:`transition`.
    """
    (alpha_t, sigma_t, _), (alpha_s, sigma_s, _), lost = _pair(schedule, t, s)
    ratio = sigma_t / sigma_s
    return alpha_s / alpha_t * ratio.square(), alpha_t * lost, sigma_t * lost.sqrt()


def diffusion_weight(schedule: Schedule, t: Time | Index, s: Time | Index, prediction: str = "clean") -> Values:
    """Return w in KL(p(x_t | x_s, x_0) || p_phi(x_t | x_s)) = w ||error||^2 for t < s (Eq. 4.4.7), float64.

    ``prediction="clean"``: (SNR(t) - SNR(s)) / 2, on the error of x_0. ``"noise"``: (SNR(t) / SNR(s) - 1) / 2, on that of eps.

    Raises:
        ValueError: unknown prediction, or sigma_t = 0, where the SNR is infinite (the reconstruction term takes that step); as :func:`transition`.
    """
    one_of(prediction, ("clean", "noise"), "prediction")
    (_, sigma_t, lam_t), (_, _, lam_s), lost = _pair(schedule, t, s)
    refuse(sigma_t == 0, sigma_t, "the SNR is infinite at t, where sigma is")
    if prediction == "clean":
        return torch.exp(2 * lam_t) * lost / 2
    return torch.expm1(2 * (lam_t - lam_s)) / 2


def linear_sde_exact_step(x: Batch, t: Time | Index, s: Time | Index, schedule: Schedule, noise: Batch) -> Batch:
    """Return x_s given x_t = x for the linear SDE of the schedule, t < s: its exact law at any step length (Eq. C.1.4), shaped like ``x``.

    Args:
        x: ``(N, *shape)``. t, s: numbers, 0-d or ``(N,)``. noise: standard normal, shaped like ``x``.

    Raises:
        TypeError, ValueError: as :func:`transition`; ``noise`` of another shape, NaN.
    """
    if floating(noise, "noise").shape != floating(x, "x").shape:
        raise ValueError(f"noise must have the shape of x, {tuple(x.shape)}; got {tuple(noise.shape)}")
    signal, std = transition(schedule, t, s)
    return per_sample(signal, x, "s") * x + per_sample(std, x, "s") * noise


def vdm_loss(
    clean: Clean,
    x0: Batch,
    schedule: Schedule,
    times: Float[Tensor, " m"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " n"]:
    """Return an unbiased estimate of the diffusion part of the likelihood bound over a grid, in nats, one value per data point: ``(N,)``.

    The sum over the steps of the grid of (SNR(t) - SNR(s)) / 2 ||x_0 - clean(x_s, s)||^2, t < s (Eq. 4.4.7), with one noise per step. On a fine
    grid it tends to the loss of Variational Diffusion Models, -1/2 int SNR'(s) E||x_0 - clean||^2 ds, which the schedule enters by its ends alone.

    Args:
        clean: ``clean(x, s)``, ``s (N,)``. x0: ``(N, *shape)``.
        times: strictly monotone, inside the domain and with finite SNR; left out for a ``DiscreteSchedule``, whose indices 1..L are used.

    Raises:
        TypeError, ValueError: as :func:`diffusion_weight`; a grid for a discrete schedule or none for a continuous one; ``clean`` changes the shape.
    """
    discrete = isinstance(schedule, DiscreteSchedule)
    if discrete == (times is not None):
        raise ValueError(f"times must be given for an AffineSchedule and only for one; got {'one' if times is not None else 'none'}")
    floating(x0, "x0")
    grid = torch.arange(1, schedule.L + 1) if isinstance(schedule, DiscreteSchedule) else check_grid(times, "times").sort().values  # type: ignore[arg-type]
    total = x0.new_zeros(len(x0))
    for t, s in pairwise(grid):
        alpha, sigma, _ = _node(schedule, s, "s")
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        guess = clean(alpha.to(x0) * x0 + sigma.to(x0) * noise, s.to(x0.device).expand(len(x0)))
        if guess.shape != x0.shape:
            raise ValueError(f"clean must return the shape of its input, {tuple(x0.shape)}; got {tuple(guess.shape)}")
        total = total + diffusion_weight(schedule, t, s).to(x0) * (x0 - guess).square().flatten(1).sum(1)
    return total


# --- from the SDE to the schedule (Lemma 4.4.1, Eq. 4.3.4) ---------------------------------------------------------------------------------


def schedule_from_sde(f: Function, g2: Function, t_max: float | int = 1.0, name: str = "from_sde") -> AffineSchedule:
    """Return the schedule of dx = f(t) x dt + g(t) dw started at x_0 (Eq. 4.3.4): alpha = exp int_0^t f, sigma^2 = int_0^t (alpha_t/alpha_u)^2 g^2 du.

    The converse of ``schedule.f`` and ``schedule.g2`` (Lemma 4.4.1), for coefficients given as code or by a table. Both integrals are Gauss-Legendre
    sums over panels that are halved until they are right to 1e-13 relative. The schedule cannot be pickled when ``f`` or ``g2`` cannot.

    Args:
        f, g2: elementwise torch functions of times ``(n,)``, float64, in [0, t_max]; ``g2`` non-negative and not zero near 0.

    Raises:
        TypeError: ``f`` or ``g2`` does not return a tensor.
        ValueError: ``t_max`` not positive, values of another shape, not finite or (``g2``) negative, or an integral that does not settle.
    """
    end = positive(t_max, "t_max")
    rate, power = _checked(f, "f"), _checked(g2, "g2")
    edges, log_edge, var_edge = _panels(rate, power, end)

    def moments(t: Tensor) -> tuple[Tensor, Tensor]:
        flat = t.detach().reshape(-1)
        k = (torch.searchsorted(edges, flat, right=True) - 1).clamp(0, len(edges) - 2)
        gain, added = _inside(rate, power, edges[k], flat)
        return (log_edge[k] + gain).reshape(t.shape), (torch.exp(2 * gain) * var_edge[k] + added).reshape(t.shape)

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(moments(t)[0])

    def sigma(t: Tensor) -> Tensor:
        return moments(t)[1].sqrt()

    def half_log_snr(t: Tensor) -> Tensor:
        log_alpha, var = moments(t)
        return log_alpha - var.log() / 2

    law = Law(
        alpha=alpha,
        sigma=sigma,
        dalpha=lambda t: rate(t) * alpha(t),
        dsigma=lambda t: rate(t) * sigma(t) + power(t) / (2 * sigma(t)),
        f=rate,
        g2=power,
        half_log_snr=half_log_snr,
        inverse=lambda lam: bisect(half_log_snr, lam, 0.0, end),
    )
    return _FromSDE(name, 0.0, end, law, "from_sde", {"f": f, "g2": g2, "t_max": end, "name": name})


class _FromSDE(AffineSchedule):
    """A schedule known by the coefficients of its SDE; made by :func:`schedule_from_sde`."""

    def __repr__(self) -> str:
        return f"schedule_from_sde(f, g2, t_max={self.t_max}, name={self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return schedule_from_sde, tuple(self.parameters.values())


# --- helpers ------------------------------------------------------------------------------------------------------------------------------


def _node(schedule: Schedule, t: Time | Index, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, sigma and the half-log-SNR (infinite where sigma or alpha is zero) at one time, float64."""
    if isinstance(schedule, AffineSchedule):
        time = schedule.as_time(t)
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        inside = (alpha > 0) & (sigma > 0)
        lam = torch.where(alpha > 0, math.inf, -math.inf).to(torch.float64)
        if bool(inside.any()):
            lam = schedule.half_log_snr(time) if lam.ndim == 0 else lam.index_put((inside,), schedule.half_log_snr(time[inside]))
        return alpha, sigma, lam
    if not isinstance(schedule, DiscreteSchedule):
        raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
    if (
        isinstance(t, bool)
        or not isinstance(t, (int, Tensor))
        or (isinstance(t, Tensor) and (t.is_floating_point() or t.dtype == torch.bool))
    ):
        kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
        raise TypeError(f"{name} must be an index of the discrete schedule, an integer or an integer tensor; got {kind}")
    index = torch.as_tensor(t)
    refuse((index < 0) | (index > schedule.L), index, f"{name} must be in 0..{schedule.L}, got")
    index = index.to(torch.int64).cpu()
    return schedule.alpha_bar[index], schedule.sigma_bar[index], schedule.half_log_snr[index]


def _pair(
    schedule: Schedule, t: Time | Index, s: Time | Index
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor], Tensor]:
    """The nodes at t and s, and 1 - SNR(s) / SNR(t), the share of the noise at s that came after t."""
    early, late = _node(schedule, t, "t"), _node(schedule, s, "s")
    first, last = torch.as_tensor(t, dtype=torch.float64).cpu(), torch.as_tensor(s, dtype=torch.float64).cpu()
    if first.ndim and last.ndim and first.shape != last.shape:
        raise ValueError(f"t and s must agree in shape, got {tuple(first.shape)} and {tuple(last.shape)}")
    wrong = first >= last
    if bool(wrong.any()):
        at = (value.expand(wrong.shape)[wrong].reshape(-1)[0].item() for value in (first, last))
        raise ValueError("need t < s, t nearer to the data; got t={} and s={}".format(*at))
    return early, late, -torch.expm1(2 * (late[2] - early[2]))


def _checked(fn: Function, name: str) -> Function:
    def call(t: Tensor) -> Tensor:
        flat = t.reshape(-1)
        value = fn(flat)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must map a tensor to a tensor, it returned {type(value).__name__}")
        if value.shape != flat.shape:
            raise ValueError(f"{name} must act elementwise: given shape {tuple(flat.shape)}, it returned {tuple(value.shape)}")
        refuse(~torch.isfinite(value), flat, f"{name} must be finite on [0, t_max], and is not at t =")
        if name == "g2":
            refuse(value < 0, flat, "g2 is a square and must not be negative, and is at t =")
        return value.to(torch.float64).reshape(t.shape)

    return call


@cache
def _rule(points: int = 16) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def _inside(rate: Function, power: Function, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals over [start, t], elementwise: of f, and of exp(2 int_u^t f) g^2(u) du."""
    u, w = _rule()
    length = (t - start)[:, None]
    nodes = start[:, None] + length * u  # (n, 16)
    gain = (rate(nodes) * length) @ w
    tails = t[:, None] - nodes  # from each node to t, once more by 16 points
    inner = (rate(nodes[..., None] + tails[..., None] * u) * tails[..., None]) @ w
    return gain, (torch.exp(2 * inner) * power(nodes) * length) @ w


def _panels(rate: Function, power: Function, end: float) -> tuple[Tensor, Tensor, Tensor]:
    """Edges of the panels, and log alpha and sigma^2 there; halving a panel once more would change neither by more than 1e-13 of itself."""
    edges, todo = [(0.0, 0.0, 0.0)], [(0.0, end)]
    while todo:
        low, high = todo.pop()
        middle = (low + high) / 2
        if high - low < 1e-12 * end:
            raise ValueError(f"the integrals of f and g2 do not settle near t={low}: is one of them infinite or not integrable there?")
        ends = torch.tensor([[low, high], [low, middle], [middle, high]], dtype=torch.float64)
        gain, added = (value.tolist() for value in _inside(rate, power, ends[:, 0], ends[:, 1]))
        log_alpha, var = edges[-1][1] + gain[0], math.exp(2 * gain[0]) * edges[-1][2] + added[0]
        off = abs(math.exp(2 * gain[2]) * added[1] + added[2] - added[0])
        # a growth of e^40 inside one panel could hide a peak between the nodes
        if abs(gain[1] + gain[2] - gain[0]) <= 1e-13 * (1 + abs(log_alpha)) and off <= 1e-13 * var and abs(gain[0]) < 20:
            edges.append((high, log_alpha, var))
        else:
            todo += [(middle, high), (low, middle)]
    return tuple(torch.tensor(edges, dtype=torch.float64).T.contiguous().unbind())  # type: ignore[return-value]
