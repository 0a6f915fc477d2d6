"""One row of a table, and rows turned into operations on a few registers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Coefficient = float | Tensor
"""A number, or a float64 tensor that broadcasts with one sample (DPM-Solver-v3 has one coefficient per coordinate)."""


@dataclass(frozen=True)
class Step:
    """One row of a table. State 0 is the start, state k + 1 the result of row k; output j is the model at state j.

    Attributes:
        t, t_next: times of the state the row starts from and of the one it makes (indices for a discrete schedule).
        states, outputs: nonzero coefficients a_{kj} and b_{kj} by j.
        noise: c_k.
        evaluate: whether the model is called at the state the row starts from.
        node: position of the new state in the grid; ``None`` for an intermediate stage.
        constant: d_k, the same for every sample (DPM-Solver-v3).
    """

    t: float | int
    t_next: float | int
    states: Mapping[int, Coefficient] = field(default_factory=dict)
    outputs: Mapping[int, Coefficient] = field(default_factory=dict)
    noise: Coefficient = 0.0
    evaluate: bool = True
    node: int | None = None
    constant: Coefficient = 0.0


def is_zero(c: Coefficient) -> bool:
    """Whether a coefficient is the number 0."""
    return not isinstance(c, Tensor) and c == 0.0


class Row(NamedTuple):
    """A step with its operands as registers: new = a lead + b second + sum plain + sum dense + noise z + shift. ``drop``: read by nobody again."""

    t: float | int
    here: int
    out: int | None
    lead: int | None
    a: Coefficient
    second: int | None
    b: float
    plain: tuple[tuple[int, float], ...]
    dense: tuple[tuple[int, Tensor], ...]
    noise: Coefficient | None
    shift: Coefficient | None
    new: int
    drop: tuple[int, ...]


def _row(step: Step, here: int, out: int | None, terms: Sequence[tuple[int, Coefficient]], new: int, drop: tuple[int, ...]) -> Row:
    ordered = sorted(terms, key=lambda term: isinstance(term[1], Tensor) or term[1] != 1.0)  # a coefficient that is exactly 1 leads
    (lead, a), rest = (ordered[0], ordered[1:]) if ordered else ((None, 0.0), [])
    plain = [(r, c) for r, c in rest if not isinstance(c, Tensor)]
    dense = tuple((r, c) for r, c in rest if isinstance(c, Tensor))
    fused = not isinstance(a, Tensor) and a == 1.0 and bool(plain)  # x + b m is one operation, a x + b m two
    second, b = plain.pop(0) if fused else (None, 0.0)
    noise, shift = (None if is_zero(c) else c for c in (step.noise, step.constant))
    return Row(step.t, here, out, lead, a, second, b, tuple(plain), dense, noise, shift, new, drop)


def compile_steps(steps: Sequence[Step]) -> tuple[tuple[Row, ...], int]:
    """Give every state and output a register, freed after its last use, and return the rows and the number of registers."""
    last: dict[tuple[str, int], int] = {("x", len(steps)): len(steps)}
    for k, step in enumerate(steps):
        last[("x", k)] = k  # the model's argument
        last.update({("x", j): k for j in step.states} | {("m", j): k for j in step.outputs})
    register: dict[tuple[str, int], int] = {("x", 0): 0}
    free: list[int] = []
    size, rows = 1, []

    def take(key: tuple[str, int]) -> int:
        nonlocal size
        if not free:
            free.append(size)
            size += 1
        register[key] = free.pop()
        return register[key]

    for k, step in enumerate(steps):
        out = take(("m", k)) if step.evaluate else None
        terms = [(register["x", j], c) for j, c in step.states.items()] + [(register["m", j], c) for j, c in step.outputs.items()]
        here, new = register["x", k], take(("x", k + 1))
        drop = tuple(register.pop(key) for key in list(register) if last.get(key, k) <= k)
        free.extend(drop)
        rows.append(_row(step, here, out, terms, new, drop))
    return tuple(rows), size


def moved_to(plan: tuple[Row, ...], x: Tensor) -> tuple[Row, ...]:
    """The plan for states like ``x``: tensor coefficients in its dtype and on its device, leading ones as 0-d tensors.

    A 0-d tensor multiplies in two thirds of the time of a Python float, with the same rounding in single and double precision; in half precision it
    would be rounded first, so that numbers stay numbers there.
    """
    wrap = x.dtype in (torch.float32, torch.float64)

    def moved(row: Row) -> Row:
        dense = tuple((r, c.to(x)) for r, c in row.dense)
        lead = row.a.to(x) if isinstance(row.a, Tensor) else torch.tensor(row.a, dtype=x.dtype) if wrap else row.a
        noise, shift = (c.to(x) if isinstance(c, Tensor) else c for c in (row.noise, row.shift))
        return row._replace(a=lead, dense=dense, noise=noise, shift=shift)

    return tuple(map(moved, plan))
