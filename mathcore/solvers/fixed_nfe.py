"""DPM-Solver-fast: singlestep solvers of mixed order that spend a budget of model calls to the last one (Lu et al. 2022, section 3.4)."""

from itertools import pairwise

from torch import Tensor

from mathcore._validate import count, one_of
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.builder import Builder
from mathcore.solvers.dpm_solver import KINDS, single_step
from mathcore.solvers.exponential import Form
from mathcore.solvers.table import SolverTable

PLACES = {1: [], 2: [1 / 2], 3: [1 / 3, 2 / 3]}
"""Inner nodes of a step of each order, as fractions of its length in lambda."""


def orders_for(calls: int, order: int = 3) -> list[int]:
    """Orders of the steps that cost ``calls`` model calls in all: as many of ``order`` as fit, the rest lower and last.

    Order 3 with a remainder of 0 gives its last step up for one of order 2 and one of order 1, so that the run never ends on a long step.

    Raises:
        ValueError: ``calls`` no positive integer, ``order`` outside 1..3.
    """
    count(calls, "calls")
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    full, rest = divmod(calls, order)
    if order == 3 and rest == 0:
        return [3] * (full - 1) + [2, 1]
    return [order] * full + ([rest] if rest else [])


def dpm_solver_fast(
    schedule: AffineSchedule,
    calls: int,
    prediction: str = "noise",
    order: int = 3,
    form: str = "noise",
    kind: str = "midpoint",
    t_start: float | None = None,
    t_end: float | None = None,
) -> SolverTable:
    """Singlestep DPM-Solver (``form="noise"``) or DPM-Solver++ (``"clean"``) with exactly ``calls`` model calls.

    The outer steps are equal in the half-log-SNR, their orders those of :func:`orders_for`; a final step of order 1 leaves a global order of 2.

    Args:
        schedule: continuous. calls: the budget, ``table.nfe``. prediction: what the model returns. order: highest order of a step, 1 to 3.
        kind: ``"midpoint"`` or ``"taylor"``, see :func:`dpm_solver`. t_start, t_end: see :func:`grids.ends`.

    Raises:
        TypeError: a ``DiscreteSchedule``, which has nothing between its indices.
        ValueError: as :func:`orders_for` and :func:`grids.uniform_lambda`; unknown names.
    """
    one_of(form, ("noise", "clean"), "form"), one_of(kind, KINDS, "kind")
    orders = orders_for(calls, order)
    times: Tensor = grids.uniform_lambda(schedule, len(orders), t_start, t_end)
    build = Builder(f"dpm_solver_fast({calls}, order {order}, {form})", schedule, times, prediction)
    off_grid = [s.lam + r * (t.lam - s.lam) for (s, t), p in zip(pairwise(build.nodes), orders, strict=True) for r in PLACES[p]]
    nodes = iter(build.between(off_grid) if off_grid else [])
    x = build.start
    for (s, t), p in zip(pairwise(build.nodes), orders, strict=True):
        x = single_step(build, Form(form), kind, x, s, [(r, next(nodes)) for r in PLACES[p]], t)
    return build.table()
