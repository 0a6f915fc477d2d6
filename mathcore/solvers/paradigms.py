"""ParaDiGMS: all steps of a window at once, by Picard iteration (section 9.8; Shih et al. 2023).

A row of a table adds an increment to the scaled state. With the increments taken from the last iterate the sum over a window is one cumulative sum,
and the model calls it needs are one batched call:

    x^{(k+1)}_{l+j+1} / c_{l+j+1} = x_l / c_l + sum_{i=0..j} d_{l+i}(x^{(k)}),   d_i = row_i(x, m) / c_{i+1} - x_i / c_i.

Every fixed point is what the table computes step by step, whatever the scale c; how fast the iteration gets there depends on it.

    sampler = paradigms(ddim(schedule, times), window=16, tol=1e-4, scale=schedule.alpha(times))
    result = sampler.run(model, x_T)                    # result.x, .trajectory, .iterations, .evaluations, .rounds
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, one_of
from mathcore.solvers.implicit import ImplicitTable
from mathcore.solvers.rows import Coefficient, is_zero
from mathcore.solvers.table import Model, Noise, SolverTable, noise_source

NORMS = ("mean", "sum")
PATIENCE = 100
"""Iterations without progress after which an implicit rule is given up."""


@dataclass(frozen=True)
class Round:
    """One iteration: the window covers nodes ``left``..``left + size``, and moves on by ``stride``.

    Attributes:
        left: left edge l, a node whose state is final. size: intervals p in the window. stride: how far the left edge moves.
        errors: squared change of the nodes l + 1, l + 2, ... that were tested. calls: states at which the model was evaluated.
    """

    left: int
    size: int
    stride: int
    errors: Float[Tensor, " tested"]
    calls: int


@dataclass(frozen=True)
class ParallelResult:
    """What a parallel run gives.

    Attributes:
        trajectory: states on the grid ``(M + 1, N, *shape)``. rounds: what happened, iteration by iteration.
    """

    trajectory: Tensor
    rounds: tuple[Round, ...]

    @property
    def x(self) -> Tensor:
        """The state at the end of the grid, ``(N, *shape)``."""
        return self.trajectory[-1]

    @property
    def iterations(self) -> int:
        """Parallel depth: batched model calls, one after the other."""
        return len(self.rounds)

    @property
    def evaluations(self) -> int:
        """Model evaluations per sample, over all iterations; the table alone needs ``table.nfe``."""
        return sum(r.calls for r in self.rounds)


Callback: TypeAlias = Callable[[Round, Tensor], None]
Terms: TypeAlias = list[tuple[str, int, Tensor]]


class ParallelSampler:
    """A table with its window, tolerances and scale; made by :func:`paradigms`."""

    def __init__(self, table: SolverTable | ImplicitTable, window: int, tol: Tensor, norm: str, scale: Tensor) -> None:
        self.table, self.window, self.tol, self.norm, self.scale = table, window, tol, norm, scale
        self.implicit = isinstance(table, ImplicitTable)
        self.stochastic = any(not is_zero(step.noise) for step in table.steps)
        self._terms = _increments(table, scale)

    def __repr__(self) -> str:
        return f"ParallelSampler({self.table.name}: {len(self.table.steps)} intervals, window={self.window}, norm={self.norm!r})"

    @torch.no_grad()
    def run(
        self,
        model: Model,
        x_T: Tensor,
        generator: torch.Generator | None = None,
        callback: Callback | None = None,
        noise: Noise | None = None,
    ) -> ParallelResult:
        """Run from ``x_T (N, *shape)`` at the first node to the last, starting from the constant trajectory.

        Each iteration calls the model once, with the states of the window stacked node after node into the batch, ``(p N, *shape)``, and with ``t`` a
        tensor ``(p N,)`` (at least float32; int64 for indices), not a number as in ``SolverTable.run``. Three trajectories are held in memory, four
        with noise. All arithmetic is in the dtype of ``x_T``. No graph is kept.

        Args:
            model, x_T: as in ``SolverTable.run``. generator, noise: source of z_k, drawn once for each row and kept; the same generator gives the
                same noise as in ``SolverTable.run``.
            callback: called as ``callback(round, states)`` after each iteration; ``states`` is the running trajectory: clone what you keep.

        Raises:
            TypeError: ``x_T`` or a prediction is no floating tensor.
            ValueError: ``x_T`` without a batch axis or not finite; a prediction of another shape, or with NaN or infinity, or an iterate that overflows
                (the message names iteration and node); an implicit rule that makes no progress.
        """
        if not floating(x_T, "x_T").ndim:
            raise ValueError("x_T must have shape (N, *shape), got a 0-d tensor")
        if generator is not None and noise is not None:
            raise ValueError("give generator or noise, not both")
        self._shape(x_T)
        M = len(self.table.steps)
        states = x_T.detach().expand(M + 1, *x_T.shape).clone()
        # what the increments are made of: states as they were when the model last saw them, what it returned, noise
        buffers = {"x": torch.zeros_like(states), "m": torch.zeros_like(states)} | self._noise(x_T, generator, noise)
        rounds = list[Round]()
        left = idle = 0
        while left < M:
            rounds.append(self._round(model, states, buffers, left, len(rounds)))
            stride = rounds[-1].stride
            left, idle = left + stride, 0 if stride else idle + 1
            if callback is not None:
                callback(rounds[-1], states)
            if idle == PATIENCE:
                raise ValueError(
                    f"{self.table.name}: no progress past node {left} in {PATIENCE} iterations; take smaller steps or a larger tol"
                )
        return ParallelResult(states, tuple(rounds))

    def sweep(self, model: Model, states: Tensor, noise: Noise | None = None) -> Tensor:
        """One Picard iteration on the whole grid (Eq. 9.8.3): a trajectory ``(M + 1, N, *shape)`` in, the next one out. Differentiable.

        Raises:
            ValueError: another number of nodes, a stochastic table without ``noise``; as :meth:`run`.
        """
        M = len(self.table.steps)
        if floating(states, "states").ndim < 2 or len(states) != M + 1:
            raise ValueError(f"states must have shape ({M + 1}, N, *shape), one entry per node, got {tuple(states.shape)}")
        self._shape(states[0])
        if self.stochastic and noise is None:
            raise ValueError(f"{self.table.name} adds noise: give noise(k), the same in every sweep")
        m = self._evaluate(model, states[: M + self.implicit], 0, 0)
        new = self._sum({"x": states, "m": m} | self._noise(states[0], None, noise), states[0], 0, M)
        return torch.cat([states[:1], new])

    def _round(self, model: Model, states: Tensor, buffers: dict[str, Tensor], left: int, k: int) -> Round:
        """Iteration k + 1: evaluate, add up, compare, write the window and what comes into view behind it."""
        size = min(self.window, len(self.table.steps) - left)
        right, seen = left + size, slice(left, left + size + self.implicit)
        buffers["x"][seen] = states[seen]
        buffers["m"][seen] = self._evaluate(model, states[seen], left, k)
        new = self._sum(buffers, states[left], left, size)
        self._finite(new, left + 1, k, "an iterate overflowed, from finite predictions,")
        errors, stride = self._stride(new, states, left)
        states[left + 1 : right + 1] = new
        states[right + 1 : right + 1 + stride] = new[-1]  # constant extrapolation
        return Round(left, size, stride, errors, seen.stop - left)

    def _noise(self, x: Tensor, generator: torch.Generator | None, noise: Noise | None) -> dict[str, Tensor]:
        """The noise of every row, ``(M, N, *shape)``, drawn in the order of the rows as ``SolverTable.run`` does."""
        if not self.stochastic:
            return {}
        draw = noise_source(noise, generator, x)[0]
        return {"z": torch.stack([torch.zeros_like(x) if is_zero(step.noise) else draw(k) for k, step in enumerate(self.table.steps)])}

    def _sum(self, buffers: dict[str, Tensor], anchor: Tensor, left: int, size: int) -> Tensor:
        """New states of the nodes left + 1 .. left + size: the anchor plus the cumulative sum of the increments."""
        stop = left + size
        total = anchor.new_zeros(size, *anchor.shape)
        for name, lag, coefficients in self._terms:
            first = max(left, lag)  # rows before have nothing that far back
            if first < stop:
                factor = _like(coefficients[first:stop], total)
                total[first - left :] += factor if name == "1" else factor * buffers[name][first - lag : stop - lag]
        scale = self.scale[left + 1 : stop + 1]
        return _like(scale / self.scale[left], total) * anchor + _like(scale, total) * total.cumsum(0)

    def _stride(self, new: Tensor, states: Tensor, left: int) -> tuple[Tensor, int]:
        """Squared change of the tested nodes and how far the window may move.

        The first new node of an explicit rule comes from the anchor by one step of the table and needs no test; so does any node up to which
        nothing fails, so the first that fails becomes the anchor. An implicit rule has no such gift: it moves to the last node that passes.
        """
        tested = len(new) - (not self.implicit)
        change = (new[:tested] - states[left + 1 : left + 1 + tested]).square().flatten(1)
        errors = (change.mean(1) if self.norm == "mean" else change.sum(1)).to("cpu", torch.float64)
        failed = (errors > self.tol[left + 1 : left + 1 + tested]).nonzero()[:, 0].tolist()
        return errors, failed[0] + (not self.implicit) if failed else len(new)

    def _evaluate(self, model: Model, states: Tensor, left: int, k: int) -> Tensor:
        """The model at consecutive nodes, in one call."""
        times = self.table.times[left : left + len(states)]
        if times.is_floating_point():
            times = times.to(torch.promote_types(states.dtype, torch.float32))
        batch = states.flatten(0, 1)
        m: Any = model(batch, times.to(states.device).repeat_interleave(states.shape[1]))
        if not isinstance(m, Tensor) or not m.is_floating_point():
            raise TypeError(f"the model must return a floating-point tensor, got {m.dtype if isinstance(m, Tensor) else type(m).__name__}")
        if m.shape != batch.shape:
            raise ValueError(f"the model must return the shape of its input, {tuple(batch.shape)}, got {tuple(m.shape)}")
        m = m.to(states.dtype).reshape(states.shape)
        self._finite(m, left, k, "the model returned NaN or infinity")
        return m

    def _shape(self, x: Tensor) -> None:
        want = self.table.sample_shape
        if want is not None and x.shape[1:] != want:
            raise ValueError(f"{self.table.name} was made for samples of shape {tuple(want)}, got a batch of shape {tuple(x.shape)}")

    def _finite(self, values: Tensor, first: int, k: int, what: str) -> None:
        if not bool(torch.isfinite(values).all()):
            node = first + int((~torch.isfinite(values)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{self.table.name}, iteration {k + 1}: {what} at node {node} (t={self.table.times[node].item()})")


def paradigms(
    table: SolverTable | ImplicitTable,
    window: int | None = None,
    tol: float | int | Tensor = 0.0,
    *,
    norm: str = "mean",
    scale: Tensor | None = None,
) -> ParallelSampler:
    """Run ``table`` in parallel over a sliding window (Eq. 9.8.4, Algorithm 8), on any grid.

    The window moves past every node whose squared change is at most ``tol``. For an explicit table it moves by at least one node, so that there are
    at most M iterations; tol = 0 then gives what ``table.run`` gives, up to rounding. An implicit one (``implicit_trapezoid``) needs tol > 0.

    Args:
        table: one row and one model call for every interval: Euler in any clock, DDIM, ancestral, the multistep methods with a ramp.
        window: number p of intervals; ``None``: all that remain, plain Picard iteration (Eq. 9.8.3). 1 is the table itself.
        tol: one bound on the squared change, or one for every node ``(M + 1,)``.
        norm: ``"mean"`` of the squares over batch and coordinates, or their ``"sum"``, the squared Euclidean norm of Algorithm 8.
        scale: the c of the module's formula at the nodes, ``(M + 1,)``, positive. Default 1, the increments of the state itself; ``schedule.alpha(times)``
            makes the sums of DDIM and AB-DEIS those of Picard iteration in (x / alpha, sigma / alpha), ``schedule.sigma(times)`` those of 2M in
            x / sigma.

    Raises:
        TypeError: tol or scale of another type.
        ValueError: a table with stages, rows without a model call, window below 1, tol negative, unknown norm, scale not positive, wrong shapes.
    """
    M = len(table.times) - 1
    _single_rows(table)
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"window must be an integer of at least 1, or None for the whole grid; got {window!r}")
    bounds = _per_node(tol, "tol", M)
    if not bool((bounds >= 0).all()):
        raise ValueError(f"tol must not be negative or NaN, got {tol}")
    if isinstance(table, ImplicitTable) and not bool((bounds > 0).all()):
        raise ValueError(f"{table.name} is implicit and reaches its solution in the limit only: tol must be positive, got {tol}")
    scales = _per_node(1.0 if scale is None else scale, "scale", M)
    if not bool(((scales > 0) & (scales < math.inf)).all()):
        raise ValueError(f"scale must be positive and finite at every node, got {scales.tolist()}")
    return ParallelSampler(table, M if window is None else window, bounds, one_of(norm, NORMS, "norm"), scales)


def _single_rows(table: SolverTable | ImplicitTable) -> None:
    for k, step in enumerate(table.steps):
        if step.node != k + 1 or not step.evaluate:
            raise ValueError(
                f"{table.name} cannot be run in parallel: row {k} ({step.t} -> {step.t_next}) is not a whole interval with one model call. Tables that "
                "can are those of Euler, DDIM, the ancestral samplers and the multistep methods with start='ramp'"
            )


def _per_node(value: Any, name: str, M: int) -> Tensor:
    """A number, or one number per node, as float64 ``(M + 1,)`` on the CPU."""
    if isinstance(value, Tensor):
        if value.shape != (M + 1,):
            raise ValueError(f"{name} must be a number or have one entry per node, shape ({M + 1},); got shape {tuple(value.shape)}")
        return value.detach().to("cpu", torch.float64)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    return torch.full((M + 1,), float(value), dtype=torch.float64)


# --- increments -------------------------------------------------------------------------------------------------------------------------


def _increments(table: SolverTable | ImplicitTable, scale: Tensor) -> Terms:
    """Coefficients of every d_i, sorted by what they multiply: state, output, noise or 1, ``lag`` nodes before node i (-1: after it)."""
    M, c = len(table.steps), scale.tolist()
    found: dict[tuple[str, int], list[Coefficient]] = {}

    def add(name: str, lag: int, k: int, value: Coefficient) -> None:
        row = found.setdefault((name, lag), [0.0] * M)
        row[k] = row[k] + value / c[k + 1]

    for k, step in enumerate(table.steps):
        for j, a in step.states.items():
            add("x", k - j, k, a)
        for j, b in step.outputs.items():
            add("m", k - j, k, b)
        for name, value in (("z", step.noise), ("1", step.constant)):
            if not is_zero(value):
                add(name, 0, k, value)
        add("x", 0, k, -c[k + 1] / c[k])
    return [(name, lag, _stack(row)) for (name, lag), row in sorted(found.items())]


def _stack(row: Sequence[Coefficient]) -> Tensor:
    """One coefficient per row, ``(M,)``, or ``(M, *c)`` where some are tensors for one sample."""
    if any(isinstance(value, Tensor) for value in row):
        return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in row)))
    return torch.tensor(row, dtype=torch.float64)


def _like(coefficients: Tensor, values: Tensor) -> Tensor:
    """Shaped, typed and placed to multiply ``values (rows, N, *shape)``."""
    rows, *sample = coefficients.shape
    return coefficients.to(values).reshape(rows, *[1] * (values.ndim - 1 - len(sample)), *sample)
