"""Exponential Euler and exponential Heun as they are printed (Eq. 9.1.7 and 9.4.14), with the scaled states that make them exact identities.

Both solve dw/du = L(u) w + N by treating the linear part exactly. How much of the problem that isolates depends on what is called w and u:

    clock "t",      scale "one":    L = f,                           N = g^2 / (2 sigma) eps
    clock "lambda", scale "one":    L = (d alpha / d lambda)/alpha,  N = -sigma eps
    clock "lambda", scale "sigma":  w = x / sigma,  L = 1,           N = -eps
    clock "lambda", scale "alpha":  w = x / alpha,  L = -1,          N = clean

With scale "one" a step also holds the schedule's factor sigma (or g^2 / sigma) still; on the scaled states the coefficients are constants and only the
prediction is frozen.
"""

import math
from itertools import pairwise

from torch import Tensor

from mathcore._validate import one_of
from mathcore.solvers.builder import Builder, Combination, Node, Output, Schedule
from mathcore.solvers.euler import SCALES
from mathcore.solvers.exponential import phi
from mathcore.solvers.table import SolverTable


def exponential_euler(schedule: Schedule, times: Tensor, prediction: str = "noise", clock: str = "t", scale: str = "one") -> SolverTable:
    """Exponential Euler, order 1, one call per step.

    clock ``"t"`` is Eq. 9.1.7: f and N frozen at s, so that the exponent is f(s)(t - s), and g^2 / sigma is frozen with the noise. Clock ``"lambda"``
    is the first line of Eq. 9.4.14, whose exponent is the integral of L, log(alpha_t / alpha_s) for scale one; on the scales ``"sigma"`` and
    ``"alpha"`` it is DDIM.

    Args of this and the next:
        schedule, times, prediction: see ``Builder``; in the clock lambda the half-log-SNR must be finite at both ends of the grid.
        scale: what is stepped, ``"one"`` (x), ``"sigma"`` (x / sigma) or ``"alpha"`` (x / alpha); clock t has ``"one"`` only.

    Raises:
        ValueError: unknown names, clock t with a scale other than one or a ``DiscreteSchedule``, a bad grid, an end where f or lambda is infinite.
    """
    one_of(clock, ("t", "lambda"), "clock"), one_of(scale, SCALES, "scale")
    build = Builder(f"exponential_euler({clock}, {scale})", schedule, times, prediction)
    if clock == "lambda":
        return _in_lambda(build, scale, corrected=False)
    if scale != "one":
        raise ValueError(f"clock 't' steps the state itself: scale must be 'one', got {scale!r}")
    x = build.start
    for s, t in pairwise(build.nodes):
        m, dt, f = build.evaluate(x), t.t - s.t, s.rate("f")
        weight = dt * phi(1, f * dt) * s.rate("g2") / (2 * s.sigma)  # (e^{f dt} - 1) / f, which is dt where f = 0
        x = build.state(x * math.exp(f * dt) + weight * m.noise, t)
    return build.table()


def exponential_heun(schedule: Schedule, times: Tensor, prediction: str = "noise", scale: str = "one") -> SolverTable:
    """Exponential Heun in the clock lambda (Eq. 9.4.14), order 2, two calls per step.

    w^mid = e^E w + h phi_1(E) N_s,  w_t = w^mid + h phi_2(E) (N(w^mid, t) - N_s),  E = int L, h = lambda_t - lambda_s. With L = 0 it is Heun. On
    ``"sigma"`` it is ``dpm_solver(order=2, kind="taylor", r1=1)``, on ``"alpha"`` ``dpm_solver_pp`` of the same kind; on ``"one"``, the printed form,
    a method of its own that differs from them by O(h^3) per step.

    Arguments and errors as :func:`exponential_euler`.
    """
    one_of(scale, SCALES, "scale")
    return _in_lambda(Builder(f"exponential_heun({scale})", schedule, times, prediction), scale, corrected=True)


def _in_lambda(build: Builder, scale: str, corrected: bool) -> SolverTable:
    for end in (build.nodes[0], build.nodes[-1]):
        if not math.isfinite(end.lam):
            raise ValueError(f"{build.name} needs a finite half-log-SNR at both ends of the grid, got {end.lam} at t={end.t}")
    x = build.start
    for s, t in pairwise(build.nodes):
        h, exponent, c = t.lam - s.lam, _integral(s, t, scale), t.scale(scale)
        n_s = _nonlinear(build.evaluate(x), scale)
        new = c * (math.exp(exponent) * (x / s.scale(scale)) + h * phi(1, exponent) * n_s)
        if corrected:
            n_t = _nonlinear(build.evaluate(build.state(new, t, stage=True)), scale)
            new = new + c * h * phi(2, exponent) * (n_t - n_s)
        x = build.state(new, t)
    return build.table()


def _integral(s: Node, t: Node, scale: str) -> float:
    """The integral of L over the step."""
    return {"one": math.log(t.alpha / s.alpha), "alpha": s.lam - t.lam, "sigma": t.lam - s.lam}[scale]


def _nonlinear(m: Output, scale: str) -> Combination:
    """N at the state of ``m``."""
    if scale == "alpha":
        return m.clean
    return -m.noise if scale == "sigma" else -m.node.sigma * m.noise
