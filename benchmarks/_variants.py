"""What the schedulers of diffusers compute where it is not what the library computes, written with its Builder, so that both can be compared."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from mathcore.solvers import Builder, Combination, Node, SolverTable
from mathcore.solvers.builder import Schedule
from mathcore.solvers.exponential import Form, phi


def grouped(
    schedule: Schedule, times: torch.Tensor, prediction: str, form: str = "noise", orders: Sequence[int] = (1, 2), kind: str = "midpoint"
) -> SolverTable:
    """Singlestep DPM-Solver whose intermediate nodes are nodes of the grid: row k goes from the start of its group to node k + 1.

    The groups are 1, 2, ... within ``orders``, repeated and cut. The place of an intermediate node is its share of the group's step in lambda, and the
    second state of a group of three enters with half the change (midpoint) or the exact weight (taylor).
    """
    build, f = Builder(f"grouped({form}, {kind})", schedule, times, prediction), Form(form)
    x = build.start
    group: list[tuple[Combination, Node, Combination]] = []  # states, nodes and outputs since the start of the group
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        order = orders[k % len(orders)]
        group = [*(group if order > 1 else []), (x, s, f.of(build.evaluate(x)))]
        x = build.state(_group_step(f, group, order, kind, t), t)
    return build.table()


def _group_step(f: Form, group: list[tuple[Combination, Node, Combination]], order: int, kind: str, t: Node) -> Combination:
    start, s, m = group[0]
    z, c = f.z(s, t), f.c(t)
    new = f.frozen(start, m, s, t)
    slopes = [(f.z(s, node) / z, (out - m) / (f.z(s, node) / z)) for _, node, out in group[1:order]]
    if order == 1:
        return new
    if order == 2:
        return new - c * (math.expm1(z) / 2 if kind == "midpoint" else z * phi(2, z)) * slopes[0][1]
    (r1, d1), (r2, d2) = slopes
    if kind == "midpoint":
        return new - c * z * phi(2, z) * d2
    slope, curvature = (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1)
    return new - c * z * phi(2, z) * slope - c * z * phi(3, z) * curvature


def multistep(
    schedule: Schedule, times: torch.Tensor, prediction: str, order: int = 3, factor: float = 1.0, kind: str = "midpoint", last: int = 0
) -> SolverTable:
    """Multistep DPM-Solver++ with a free ``factor`` before the second difference (2 gives order 3), and ``last`` final steps of order 1, 2, ... back."""
    build, f = Builder(f"multistep({order}, factor={factor:g})", schedule, times, prediction), Form("clean")
    x, steps = build.start, len(build.nodes) - 1
    past: list[tuple[Node, Combination]] = []
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        past = [(s, f.of(build.evaluate(x))), *past][:order]
        used = min(len(past), steps - k) if k >= steps - last else len(past)
        z, c, m = f.z(s, t), f.c(t), past[0][1]
        new = f.frozen(x, m, s, t)
        if used > 1:
            r0 = f.z(past[1][0], s) / z
            d0 = (m - past[1][1]) / r0
            slope = d0
            if used == 3:
                r1 = f.z(past[2][0], past[1][0]) / z
                d1 = (past[1][1] - past[2][1]) / r1
                slope = d0 + r0 / (r0 + r1) * (d0 - d1)
                new = new - c * z * phi(3, z) * factor * (d0 - d1) / (r0 + r1)
            new = new - c * (math.expm1(z) / 2 if used == 2 and kind == "midpoint" else z * phi(2, z)) * slope
        x = build.state(new, t)
    return build.table()
