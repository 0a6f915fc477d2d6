"""AB-DEIS: exponential Adams-Bashforth on the noise prediction (section 9.3)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mathcore._validate import one_of
from mathcore.schedules import AffineSchedule
from mathcore.solvers.builder import Builder, Combination, Node, Schedule
from mathcore.solvers.euler import WarmStart
from mathcore.solvers.exponential import POINTS, WEIGHTS, lagrange_integrals
from mathcore.solvers.table import SolverTable

VARIABLES = ("t", "rho", "log_rho")


def deis(
    schedule: Schedule, times: Tensor, prediction: str = "noise", order: int = 3, variable: str = "t", start: str = "ramp"
) -> SolverTable:
    """AB-DEIS of ``order`` 1 to 4 (polynomial degree order - 1): one model call per step, order - 1 old outputs (section 9.3.2).

    x_t = alpha_t / alpha_s x_s + sum_j C_j eps_j,  C_j = alpha_t int of the j-th Lagrange polynomial d rho, rho = sigma / alpha. Order 1 is DDIM.

    Args:
        schedule, times, prediction: see ``Builder``; the half-log-SNR must be finite on the grid. variable: what the polynomial is in:
            time (the monograph), rho (classical variable-step Adams-Bashforth on dy / d rho = eps) or log rho = -lambda.
        start: ``"ramp"`` raises the degree step by step, which leaves a one-time error O(h^2) (invisible from pure noise, where eps hardly
            changes, order 2 elsewhere); ``"rk4"`` makes the first order - 1 steps with Runge-Kutta 4 at 4 calls each and keeps the full order.

    Raises:
        ValueError: order outside 1..4, unknown names, a grid that is bad or shorter than the start; with a ``DiscreteSchedule``, variable t or
            start rk4, which need times between the indices.
    """
    if isinstance(order, bool) or order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order!r}")
    one_of(variable, VARIABLES, "variable")
    build = Builder(f"deis({order}, {variable}, {start})", schedule, times, prediction)
    warm = WarmStart(build, order, start)
    points = _quadrature(build, variable)
    x = build.start
    past: list[tuple[Node, Combination]] = []
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        past = [(s, build.evaluate(x).noise), *past][:order]
        if k < warm.steps:
            x = warm.step(k, x, t)
            continue
        u = [_variable(node, variable) for node, _ in past]
        density = -t.alpha * np.exp(-points[k][0]) * WEIGHTS * (t.lam - s.lam) / 2
        weights = lagrange_integrals(u, points[k][1], density)
        x = build.state(t.alpha * (x / s.alpha) + _sum(weights, [eps for _, eps in past]), t)
    return build.table()


def _variable(node: Node, variable: str) -> float:
    return {"t": float(node.t), "rho": node.rho, "log_rho": -node.lam}[variable]


def _sum(weights: Sequence[float], terms: Sequence[Combination]) -> Combination:
    total = weights[0] * terms[0]
    for w, term in zip(weights[1:], terms[1:], strict=True):
        total = total + w * term
    return total


def _quadrature(build: Builder, variable: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gauss points of every interval as half-log-SNR, where the integrand e^{-lambda} is smooth, and in the polynomial's variable."""
    lam = np.array([node.lam for node in build.nodes])
    if not np.isfinite(lam).all():
        raise ValueError(
            f"{build.name} needs a finite half-log-SNR at both ends of the grid: start it where alpha > 0, end it where sigma > 0"
        )
    points = lam[:-1, None] + np.diff(lam)[:, None] * (POINTS + 1) / 2  # (M, 32)
    if variable == "t":
        if not isinstance(build.schedule, AffineSchedule):
            raise ValueError(f"{build.name}: a polynomial in t needs times between the indices of a DiscreteSchedule; use log_rho")
        u = build.schedule.inverse_half_log_snr(torch.from_numpy(points.reshape(-1))).numpy().reshape(points.shape)
    else:
        u = np.exp(-points) if variable == "rho" else -points
    return list(zip(points, u, strict=True))
