"""The Taylor scheme of section 9.4.2 with exact derivatives, and the leading error of DPM-Solver-2 that follows from them: yardsticks for section 9.4.3.

A total derivative along the solution, d/d lambda eps(x_lambda, lambda), is one Jacobian-vector product with the direction (dx/dt, 1), divided by d lambda/dt;
nested, it gives the higher ones. It costs more than model calls and needs a model that forward-mode differentiation can pass through.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp

from mathcore._types import Time
from mathcore._validate import count, floating, one_of, per_sample
from mathcore.predictions import convert_prediction
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.builder import check_times
from mathcore.solvers.diagnostics import Problem
from mathcore.solvers.dpm_solver import KINDS
from mathcore.solvers.exponential import phi
from mathcore.solvers.table import Model

Batch = Float[Tensor, "n *shape"]


def total_derivatives(model: Model, schedule: AffineSchedule, x: Batch, t: Time, order: int) -> Float[Tensor, "k n *shape"]:
    """eps and its first ``order`` total derivatives in the half-log-SNR along the model's own probability-flow ODE, at (x, t): (order + 1, N, *shape).

    Args:
        model: noise prediction, differentiable in ``x`` and ``t`` by ``torch.func.jvp``.
        schedule: gives lambda_t and the ODE. x: states ``(N, *shape)``. t: one time, or one per state, inside the domain. order: 0 or more.

    Raises:
        TypeError: no ``AffineSchedule``, ``x`` no floating tensor.
        ValueError: a negative order, NaN, times outside the domain or where the half-log-SNR is infinite.
    """
    if not isinstance(schedule, AffineSchedule):
        raise TypeError(f"schedule must be an AffineSchedule, which has time derivatives; got {type(schedule).__name__}")
    count(order, "order", 0)
    time = per_sample(t, floating(x, "x")).reshape(-1)
    time = time[0] if time.numel() == 1 else time
    schedule.half_log_snr(time)  # refuses the ends where it is infinite

    def differentiated(f: Model) -> Model:
        def along(x: Tensor, t: Tensor) -> Tensor:
            velocity = convert_prediction(model(x, t), x, t, schedule, "noise", "velocity")
            rate = -schedule.g2(t) / (2 * schedule.sigma(t) ** 2)  # d lambda / dt
            return jvp(f, (x, t), (velocity, torch.ones_like(t)))[1] / per_sample(rate, x)

        return along

    functions = [model]
    for _ in range(order):
        functions.append(differentiated(functions[-1]))
    return torch.stack([f(x, time) for f in functions])


def taylor_solver(model: Model, schedule: AffineSchedule, times: Float[Tensor, " nodes"], x: Batch, order: int) -> Batch:
    """Run Eq. 9.4.7 with exact derivatives up to ``order - 1`` (Eq. 9.4.8 and 9.4.10 for orders 1 and 3): the state at the last of ``times``.

    x_t = alpha_t / alpha_s x_s - sigma_t sum_k h^{k+1} phi_{k+1}(h) eps^{(k)}. One-step error O(h^{order+1}), global order ``order``.

    Args:
        model, schedule, x: as :func:`total_derivatives`, ``x`` at ``times[0]``. times: strictly decreasing, with finite half-log-SNR.

    Raises:
        TypeError, ValueError: as :func:`total_derivatives`; ``order`` below 1, or a bad grid.
    """
    if order < 1:
        raise ValueError(f"order must be a positive integer, got {order!r}")
    for s, t in pairwise(check_times(schedule, times)):
        derivatives = total_derivatives(model, schedule, x, s, order - 1)
        h = float(schedule.half_log_snr(t) - schedule.half_log_snr(s))
        taylor = sum(h ** (k + 1) * phi(k + 1, h) * d for k, d in enumerate(derivatives))
        x = float(schedule.alpha(t) / schedule.alpha(s)) * x - float(schedule.sigma(t)) * taylor
        if not math.isfinite(float(x.sum())):
            raise ValueError(f"the state stopped being finite in the step from {float(s)} to {float(t)}")
    return x


def second_order_error(problem: Problem, kind: str = "midpoint", steps: int = 100) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """(A, B): ``dpm_solver(order=2, kind=kind, r1=gamma)`` on a uniform lambda grid of step h ends at exact + h^2 (A + gamma B) + O(h^3), (N, 1) each.

    One step errs by -sigma_t h^3 [(gamma / 4 - 1 / 6) eps'' + gamma / 4 sigma J eps' + k eps'], J = d eps / dx, k = 0 for kind ``taylor`` and 1 / 12 for
    ``midpoint`` (derived in ``mathcore.symbolic.dpm_solver.local_error``). The flow carries it to the end with the factor d x_end / d x, which on the
    line is a ratio of densities, since the flow preserves probability; the sum over the steps is an integral over lambda, here by the trapezoidal rule.

    Args:
        problem: on the line, with its exact flow. kind: how the difference of outputs enters. steps: of the rule.

    Raises:
        ValueError: a problem in more dimensions, an unknown kind, ``steps`` below 1.
    """
    one_of(kind, KINDS, "kind")
    if problem.data.dim != 1:
        raise ValueError(f"second_order_error needs a problem on the line, got dimension {problem.data.dim}")
    schedule, oracle, n = problem.schedule, problem.oracle, len(problem.x_T)
    nodes = problem.grid(steps, grids.uniform_lambda)
    t = nodes.repeat_interleave(n)
    x = oracle.flow_map(problem.x_T.repeat(len(nodes), 1), torch.full_like(t, problem.t_start), t)
    _, first, second = total_derivatives(oracle.noise, schedule, x, t, 2)
    slope = jvp(lambda x: oracle.noise(x, t), (x,), (torch.ones_like(x),))[1]
    sigma, log_density = schedule.sigma(t)[:, None], oracle.log_prob(x, t).reshape(-1, n, 1)
    carried = -sigma * (log_density - log_density[-1]).exp().reshape(-1, 1)
    extra = first / 12 if kind == "midpoint" else 0.0
    parts = carried * (extra - second / 6), carried * (second + sigma * slope * first) / 4
    lam = schedule.half_log_snr(nodes)
    return tuple(torch.trapezoid(part.reshape(-1, n, 1), lam, dim=0) for part in parts)  # type: ignore[return-value]
