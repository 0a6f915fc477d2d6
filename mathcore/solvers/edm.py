"""The sampler of Karras et al. (2022), Algorithm 2 (section D.6): Heun with a little noise added before each step."""

import math
from itertools import pairwise

from torch import Tensor

from mathcore.solvers.builder import Builder, Schedule
from mathcore.solvers.table import SolverTable


def edm_heun(
    schedule: Schedule,
    times: Tensor,
    prediction: str = "noise",
    s_churn: float | int = 0.0,
    s_min: float | int = 0.0,
    s_max: float | int = math.inf,
    s_noise: float | int = 1.0,
) -> SolverTable:
    """Heun on d(x / alpha) / d rho = eps, rho = sigma / alpha (sigma itself on the EDM schedule), after raising rho to rho (1 + gamma).

    gamma = min(s_churn / M, sqrt(2) - 1) where s_min <= rho <= s_max, else 0. Order 2 without churn, two calls per step; a step that ends at sigma = 0
    is an Euler step. With exact predictions churn only adds error; it corrects errors of a trained model.

    Args:
        schedule, times, prediction: see ``Builder``. s_churn: total amount of churn. s_min, s_max: range of rho in which it acts.
        s_noise: standard deviation of the added noise, relative to what the schedule asks for.

    Raises:
        ValueError: negative settings; a bad grid; churn that raises rho above its value at ``schedule.t_max`` (lower s_max, or take a schedule with
            a larger t_max); churn with a ``DiscreteSchedule``.
    """
    for name, value in (("s_churn", s_churn), ("s_min", s_min), ("s_max", s_max), ("s_noise", s_noise)):
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    build = Builder(f"edm_heun(s_churn={s_churn:g})", schedule, times, prediction)
    gamma = min(s_churn / (len(build.nodes) - 1), math.sqrt(2) - 1)
    churned = [s for s in build.nodes[:-1] if gamma and s_min <= s.rho <= s_max]
    try:
        raised = dict(zip(churned, build.between([s.rho * (1 + gamma) for s in churned], "rho") if churned else [], strict=True))
    except ValueError as error:
        raise ValueError(f"churn raises sigma / alpha from {churned[0].rho:.6g} by {100 * gamma:.3g} per cent: {error}") from error
    x = build.start
    for s, t in pairwise(build.nodes):
        if s in raised:
            up = raised[s]
            x = build.state(up.alpha * (x / s.alpha + s_noise * math.sqrt(up.rho**2 - s.rho**2) * build.noise), up, stage=True)
            s = up
        y, h, slope = x / s.alpha, t.rho - s.rho, build.evaluate(x).noise
        if t.sigma:
            stage = build.state(t.alpha * (y + h * slope), t, stage=True)
            slope = (slope + build.evaluate(stage).noise) / 2
        x = build.state(t.alpha * (y + h * slope), t)
    return build.table()
