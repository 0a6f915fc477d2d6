"""UniPC: a multistep predictor whose next model output also corrects it, at no further call (Zhao et al. 2023; beyond the monograph).

The corrected state is x = x^p + (outputs): predictor and corrector share the linear part of the step. So it needs no row of its own, and the table
has one row per step, from predicted state to predicted state; every state and output in it is the predicted one, as in the libraries.
"""

import math
from itertools import pairwise

from torch import Tensor

from mathcore._validate import one_of
from mathcore.solvers.builder import Builder, Combination, Node, Schedule
from mathcore.solvers.euler import WarmStart
from mathcore.solvers.exponential import Form
from mathcore.solvers.table import SolverTable

Past = list[tuple[Node, Combination]]
"""Nodes with their outputs, newest first."""


def unipc(
    schedule: Schedule,
    times: Tensor,
    prediction: str = "noise",
    order: int = 2,
    variant: str = "bh2",
    form: str = "clean",
    corrector: bool = True,
    solved: bool = False,
    start: str = "ramp",
) -> SolverTable:
    """UniPC-p of ``order`` p = 1, 2, 3 with the corrector, UniP-p without: one model call per step, p old outputs (p - 1 without).

    The predictor integrates the polynomial in lambda through the last p outputs, the corrector through these and the new one; the last step is the
    predictor. Orders p + 1 and p.

    Args:
        schedule, times, prediction: see ``Builder``. variant: B(z) of the paper, ``"bh1"`` is z and ``"bh2"`` e^z - 1, with z as in ``exponential``.
            B cancels wherever a system is solved; it stays where the published method writes 1/2 for the solution of the smallest one, in the
            predictor through two outputs and the corrector through two.
        form: which prediction the polynomial is in, ``"clean"`` (may end at sigma = 0, with DDIM) or ``"noise"``.
        corrector: whether to correct. solved: solve the smallest systems too; UniP-2 is then 2M, and UniP-3 3M, with exact weights.
        start: ``"ramp"`` raises p step by step, which leaves a one-time error: order 2 for UniP-3 and 3 for UniPC-3 where the outputs change at the
            start, as they do not at pure noise; ``"rk4"`` keeps the order, see ``WarmStart``.

    Raises:
        ValueError: order outside 1..3, unknown names, a bad grid, fewer than ``order`` steps, an end without half-log-SNR.
    """
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    one_of(variant, ("bh1", "bh2"), "variant")
    f = Form(one_of(form, ("clean", "noise"), "form"))
    half = None if solved else variant
    options = f"{variant}, {form}{', solved' if solved else ''}, {start}"
    build = Builder(f"{'unipc' if corrector else 'unip'}({order}, {options})", schedule, times, prediction)
    warm = WarmStart(build, order, start)
    x = build.start
    past, predicted = Past(), Combination({})
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        new = (s, f.of(build.evaluate(x)))
        here: Combination = x
        if corrector and k > warm.steps:  # the step that led here, again, with the output here
            here = x + _bend(f, past[0], [new, *past[1:]], s, half if len(past) == 1 else None) - predicted
        past = [new, *past][:order]
        if k < warm.steps:
            x = warm.step(k, x, t)
            continue
        predicted = _bend(f, past[0], past[1:] if t.sigma else [], t, half if len(past) == 2 else None)
        x = build.state(f.frozen(here, past[0][1], s, t) + predicted, t)
    return build.table()


def _bend(form: Form, base: tuple[Node, Combination], others: Past, t: Node, half: str | None) -> Combination:
    """What a step to ``t`` adds to the one frozen at ``base``: the polynomial through ``others`` too; ``half``: with one other, B / 2 as its weight."""
    s, m = base
    if half and others:
        z = form.z(s, t)
        b = z if half == "bh1" else math.expm1(z)
        weights = [-form.c(t) * b / 2 / (form.z(s, others[0][0]) / z)]
    else:
        weights = form.adams([s, *(node for node, _ in others)], t)[1:] if others else []
    total = Combination({})
    for weight, (_, other) in zip(weights, others, strict=True):
        total = total + weight * (other - m)
    return total
