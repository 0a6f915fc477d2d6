"""DPM-Solver and DPM-Solver++: exponential integrators in half-log-SNR, on the noise (section 9.4) or on the data (section 9.5).

One file for both: with z = h on the noise and z = -h on the data every formula is the same (see ``exponential``).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from mathcore._validate import one_of
from mathcore.solvers.builder import Builder, Combination, Node, Schedule, State
from mathcore.solvers.euler import WarmStart
from mathcore.solvers.exponential import Form, phi
from mathcore.solvers.table import SolverTable

KINDS = ("midpoint", "taylor")

Inner = tuple[float, Node]
"""A place inside a step: its fraction of the step in half-log-SNR, and the node there."""


def dpm_solver(
    schedule: Schedule,
    times: Tensor,
    prediction: str = "noise",
    order: int = 2,
    multistep: bool = False,
    kind: str = "midpoint",
    start: str = "ramp",
    r1: float | None = None,
    r2: float = 2 / 3,
    sde: bool = False,
) -> SolverTable:
    """DPM-Solver-1, -2, -3 on the noise prediction (Eq. 9.4.8, 9.4.11, Algorithm 5), singlestep (``order`` calls per step) or multistep (one).

    Args of this and of ``dpm_solver_pp``:
        schedule, times, prediction: see ``Builder``. A ``DiscreteSchedule`` has multistep only: the others evaluate between the nodes.
        order: 1 (DDIM), 2 or 3.
        kind: how a difference of outputs enters: ``"midpoint"`` is the printed algorithm, ``"taylor"`` the exact weight of the derivative. Both
            have the full order. Multistep of order 3 is the exact polynomial in either.
        start: of a multistep method, ``"ramp"`` or ``"rk4"``, see ``WarmStart``.
        r1: place of the (first) intermediate node in (0, 1] of the step, 1/2 at order 2 and 1/3 at order 3 by default; r2: the second, at order 3
            only; order 3 needs r2 = 2/3.
        sde: solve the reverse SDE (Eq. 4.1.6) in place of the ODE; multistep, order 1 or 2, started with the ramp (Lu et al. 2022).

    Raises:
        ValueError: unknown names, order outside 1..3, nodes outside 0 < r1 (< r2) <= 1, a bad grid, too few steps, an end without half-log-SNR.
    """
    if sde:
        return _stochastic("sde_dpm_solver", "noise", schedule, times, prediction, order, multistep, kind, start)
    return _solver("dpm_solver", "noise", schedule, times, prediction, order, multistep, kind, start, r1, r2)


def dpm_solver_pp(
    schedule: Schedule,
    times: Tensor,
    prediction: str = "noise",
    order: int = 2,
    multistep: bool = True,
    kind: str = "midpoint",
    start: str = "ramp",
    r1: float | None = None,
    r2: float = 2 / 3,
    sde: bool = False,
) -> SolverTable:
    """DPM-Solver++ on the clean prediction: 2S (Algorithm 6), 2M (Algorithm 7), 3S, 3M, and the stochastic 1 and 2M (Lu et al. 2022).

    Multistep methods may end at sigma = 0: that step is DDIM, which returns the clean prediction. 3M carries the factor 2 that some libraries
    leave out. ``sde`` of order 1 is DDIM with eta = 1. Arguments and errors as ``dpm_solver``.
    """
    if sde:
        return _stochastic("sde_dpm_solver_pp", "clean", schedule, times, prediction, order, multistep, kind, start)
    return _solver("dpm_solver_pp", "clean", schedule, times, prediction, order, multistep, kind, start, r1, r2)


def _solver(
    name: str,
    form_kind: str,
    schedule: Schedule,
    times: Tensor,
    prediction: str,
    order: int,
    multistep: bool,
    kind: str,
    start: str,
    r1: float | None,
    r2: float,
) -> SolverTable:
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    one_of(kind, KINDS, "kind"), one_of(start, ("ramp", "rk4"), "start")
    r1 = (0.5 if order < 3 else 1 / 3) if r1 is None else r1
    if not 0 < r1 <= 1 or (order == 3 and not r1 < r2 <= 1):
        raise ValueError(f"need 0 < r1 <= 1, and r1 < r2 <= 1 at order 3; got r1={r1} and r2={r2}")
    build = Builder(f"{name}({order}{'M' if multistep else 'S'}, {kind}, {start})", schedule, times, prediction)
    if multistep:
        return _multistep(build, Form(form_kind), order, kind, start)
    return _singlestep(build, Form(form_kind), order, kind, r1, r2)


def _multistep(build: Builder, form: Form, order: int, kind: str, start: str) -> SolverTable:
    warm = WarmStart(build, order, start)
    x = build.start
    past: list[tuple[Node, Combination]] = []
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        past = [(s, form.of(build.evaluate(x))), *past][:order]
        if k < warm.steps:
            x = warm.step(k, x, t)
            continue
        m = past[0][1]
        new = form.frozen(x, m, s, t)
        if len(past) == 2 and kind == "midpoint" and t.sigma:
            before, old = past[1]
            ratio = (t.lam - s.lam) / (s.lam - before.lam)
            new = form.frozen(x, m + ratio / 2 * (m - old), s, t)
        elif len(past) > 1 and t.sigma:
            weights = form.adams([node for node, _ in past], t)
            for weight, (_, old) in zip(weights[1:], past[1:], strict=True):
                new = new + weight * (old - m)
        x = build.state(new, t)
    return build.table()


def _stochastic(
    name: str, form_kind: str, schedule: Schedule, times: Tensor, prediction: str, order: int, multistep: bool, kind: str, start: str
) -> SolverTable:
    """The reverse SDE in lambda, whose exact solution has the same shape in either form: with the prediction a polynomial in lambda

    noise  x_t = alpha_t / alpha_s x_s - 2 alpha_t int e^{-lambda} eps d lambda + sigma_t sqrt(e^{2h} - 1) z
    data   x_t = sigma_t / sigma_s e^{-h} x_s + 2 alpha_t int e^{-2 (lambda_t - lambda)} clean d lambda + sigma_t sqrt(1 - e^{-2h}) z

    a constant contributes -f c (e^u - 1), a slope -f c u phi_2(u) per step, with f = 2, u = h on the noise and f = 1, u = -2h on the data.
    """
    if order not in (1, 2) or not multistep or start != "ramp":
        raise ValueError(
            f"with sde=True the method is multistep=True of order 1 or 2 with start='ramp', got order={order}, multistep={multistep} and start={start!r}"
        )
    one_of(kind, KINDS, "kind")
    form, noisy = Form(form_kind), form_kind == "noise"
    build = Builder(f"{name}({order}M, {kind})", schedule, times, prediction)
    WarmStart(build, order, start)
    x = build.start
    past: list[tuple[Node, Combination]] = []
    for s, t in pairwise(build.nodes):
        past = [(s, form.of(build.evaluate(x))), *past][:order]
        h, m = t.lam - s.lam, past[0][1]
        u, c = (h, 2 * form.c(t)) if noisy else (-2 * h, form.c(t))
        linear = t.alpha / s.alpha if noisy else t.sigma / s.sigma * math.exp(-h)
        new = x * linear - c * math.expm1(u) * m + t.sigma * math.sqrt(abs(math.expm1(2 * form.z(s, t)))) * build.noise
        if len(past) == 2 and t.sigma:
            slope = (m - past[1][1]) * (h / (s.lam - past[1][0].lam))
            new = new - c * (math.expm1(u) / 2 if kind == "midpoint" else u * phi(2, u)) * slope
        x = build.state(new, t)
    return build.table()


def _singlestep(build: Builder, form: Form, order: int, kind: str, r1: float, r2: float) -> SolverTable:
    places = {1: [], 2: [r1], 3: [r1, r2]}[order]
    off_grid = [s.lam + r * (t.lam - s.lam) for s, t in pairwise(build.nodes) for r in places if r != 1.0]
    nodes = iter(build.between(off_grid) if off_grid else [])
    x = build.start
    for s, t in pairwise(build.nodes):
        x = single_step(build, form, kind, x, s, [(r, t if r == 1.0 else next(nodes)) for r in places], t)
    return build.table()


def single_step(build: Builder, form: Form, kind: str, x: State, s: Node, inner: Sequence[Inner], t: Node) -> State:
    """One step of order 1, 2 or 3 with stages at none, one or two places ``inner`` (Lu et al. 2022, Algorithms 1 and 2)."""
    m = form.of(build.evaluate(x))
    new = form.frozen(x, m, s, t)
    if not inner:
        return build.state(new, t)
    r1, first = inner[0]
    d1 = form.of(build.evaluate(build.state(form.frozen(x, m, s, first), first, stage=True))) - m
    if len(inner) == 1:
        return build.state(second_order(form, kind, new, d1, s, r1, t), t)
    r2, second = inner[1]
    d2 = form.of(build.evaluate(build.state(second_stage(form, x, m, d1, s, r2 / r1, second), second, stage=True))) - m
    return build.state(third_order(form, kind, new, d1, d2, s, (r1, r2), t), t)


def second_order(form: Form, kind: str, new: Combination, d1: Combination, s: Node, r1: float, t: Node) -> Combination:
    """The first-order step ``new`` with the slope that ``d1``, the output at the fraction r1 of the step minus that at s, gives."""
    z = form.z(s, t)
    weight = math.expm1(z) / 2 if kind == "midpoint" else z * phi(2, z)
    return new - form.c(t) * weight / r1 * d1  # with r1 = 1/2 the midpoint kind cancels the output at s to the last digit


def second_stage(form: Form, x: Combination, m: Combination, d1: Combination, s: Node, ratio: float, second: Node) -> Combination:
    """The state at the second inner node, of order 2 by the slope from the first; ``ratio``: r2 / r1."""
    z2 = form.z(s, second)
    return form.frozen(x, m, s, second) - form.c(second) * ratio * z2 * phi(2, z2) * d1


def third_order(
    form: Form, kind: str, new: Combination, d1: Combination, d2: Combination, s: Node, places: tuple[float, float], t: Node
) -> Combination:
    """The first-order step ``new`` with the slope from ``d2`` alone (midpoint), or slope and curvature from both differences (taylor)."""
    z, c, (r1, r2) = form.z(s, t), form.c(t), places
    if kind == "midpoint":
        return new - c / r2 * z * phi(2, z) * d2
    slope = (d1 * (r2 / r1) - d2 * (r1 / r2)) / (r2 - r1)
    curvature = 2 * (d2 / r2 - d1 / r1) / (r2 - r1)
    return new - c * z * phi(2, z) * slope - c * z * phi(3, z) * curvature
