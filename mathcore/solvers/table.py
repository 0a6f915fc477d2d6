"""A sampler is a table: the coefficients of every step, computed once in float64, and one short loop that runs them.

Step k starts from the state x_k, evaluates the model there (or not), and forms a sparse linear combination of what has been seen:

    x_{k+1} = sum_j a_{kj} x_j + sum_j b_{kj} m_j + c_k z_k + d_k,      m_j = model(x_j, t_j),  z_k standard normal,  j <= k.

Every method of chapter 9 has this form: an intermediate stage is a state of its own, a multistep method names old outputs, a change of
prediction is linear in (x_j, m_j) and so already part of the coefficients.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mathcore._validate import finite, floating, one_of
from mathcore.predictions import PREDICTIONS
from mathcore.solvers._layout import html_table, latex_table
from mathcore.solvers.rows import Coefficient, Row, Step, compile_steps, is_zero, moved_to

Model = Callable[[Tensor, Any], Tensor]
"""``model(x, t)``: ``x (N, *shape)``, ``t`` a Python float (an int where times are indices of a discrete schedule)."""

Noise = Callable[[int], Tensor]
"""``noise(k)``: the standard normal z_k of step k, shaped like the state."""


class SolverTable:
    """The coefficients of one sampler on one grid, and the loop that runs them.

    Args:
        name: how the table calls itself, e.g. ``"ddim(eta=0)"``.
        steps: rows in order.
        times: the grid ``(M + 1,)``, decreasing: float64, or int64 indices.
        prediction: what the model must return: noise, clean, score or velocity.
        sample_shape: shape of one sample, where coefficients belong to its coordinates; ``None``: any.

    Attributes:
        nfe: number of model calls of one run.
        history: largest number of tensors held at once (states and outputs), the new state included.
        stochastic: whether any row adds noise.

    Raises:
        ValueError: no steps, an unknown prediction, a coefficient that is not finite, a row that names a state or output that does not exist
            yet or combines nothing.
    """

    def __init__(
        self, name: str, steps: Iterable[Step], times: Tensor, prediction: str, sample_shape: tuple[int, ...] | None = None
    ) -> None:
        self.name, self.steps, self.times, self.sample_shape = name, tuple(steps), times, sample_shape
        self.prediction = one_of(prediction, PREDICTIONS, "prediction")
        if not self.steps:
            raise ValueError(f"{name}: a table needs at least one step")
        for k, step in enumerate(self.steps):
            _check(self, k, step)
        self.nfe = sum(step.evaluate for step in self.steps)
        self.stochastic = any(not is_zero(step.noise) for step in self.steps)
        self._plan, self.history = compile_steps(self.steps)
        self._moved: dict[tuple[torch.dtype, torch.device], tuple[Row, ...]] = {}

    def __repr__(self) -> str:
        return f"SolverTable({self.name}: {len(self.times) - 1} intervals, {len(self.steps)} rows, nfe={self.nfe}, prediction={self.prediction!r})"

    def run(
        self,
        model: Model,
        x_T: Tensor,
        generator: torch.Generator | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
        noise: Noise | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """Run the table from ``x_T`` at ``times[0]`` to the state at ``times[-1]``, both ``(N, *shape)`` with any trailing shape.

        The state keeps the dtype and device of ``x_T``; coefficients stay Python doubles until torch rounds them inside the arithmetic. Whether the
        result is finite is asked once, at the end: a NaN survives every linear combination, so one reduction per run finds it; only then is the run
        repeated, looking at every step, to name the first bad one.

        Args:
            model: ``model(x, t) -> prediction`` of the kind ``self.prediction``, shaped like ``x``.
            x_T: start. generator: source of the z_k; by default one seeded from torch's global generator.
            callback: called as ``callback(k, x)`` with each new state k = 1..len(steps); ``steps[k - 1]`` says which time it belongs to.
            noise: gives z_k itself, instead of ``generator``. differentiable: keep the graph for autograd (memory grows with the steps).

        Raises:
            TypeError: ``x_T`` or a prediction is no floating tensor.
            ValueError: ``x_T`` without a batch axis, not finite, or of another sample shape than the table's; a prediction of another shape; states
                that stop being finite (the message names the step and says whether the model or the combination did it).
        """
        if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or not x_T.ndim or not finite(x_T):
            floating(x_T, "x_T")
            raise ValueError("x_T must have shape (N, *shape), got a 0-d tensor")
        if self.sample_shape is not None and x_T.shape[1:] != self.sample_shape:
            raise ValueError(f"{self.name} was made for samples of shape {tuple(self.sample_shape)}, got x_T of shape {tuple(x_T.shape)}")
        if generator is not None and noise is not None:
            raise ValueError("give generator or noise, not both")
        plan = self._plan_for(x_T)
        draw, rewind = noise_source(noise, generator, x_T) if self.stochastic else (_no_noise, None)
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            x = _loop(plan, self.history, model, x_T, draw, differentiable, callback)
        if not finite(x):
            if rewind is not None:
                rewind()
            with torch.no_grad():
                _locate(self, plan, model, x_T, draw)
        return x

    def _plan_for(self, x: Tensor) -> tuple["Row", ...]:
        key = x.dtype, x.device
        if key not in self._moved:
            self._moved[key] = moved_to(self._plan, x)
        return self._moved[key]

    def trajectory(self, model: Model, x_T: Tensor, generator: torch.Generator | None = None, noise: Noise | None = None) -> Tensor:
        """The states on the grid: ``(M + 1, N, *shape)``, entry i at ``times[i]``. Arguments and errors as :meth:`run`."""
        kept: dict[int, Tensor] = {0: x_T}

        def keep(k: int, x: Tensor) -> None:
            node = self.steps[k - 1].node
            if node is not None:
                kept[node] = x

        self.run(model, x_T, generator=generator, callback=keep, noise=noise)
        return torch.stack([kept[i] for i in sorted(kept)])

    def to_latex(self, max_rows: int | None = 8, digits: int = 4) -> str:
        """The rows as one aligned LaTeX display, the middle ones left out beyond ``max_rows`` (``None``: all)."""
        return latex_table(self.steps, max_rows, digits)

    def _repr_html_(self) -> str:
        return html_table(self.name, repr(self), self.steps)


# --- checking -------------------------------------------------------------------------------------------------------------


def _check(table: SolverTable, k: int, step: Step) -> None:
    here = f"{table.name}, step {k} ({step.t} -> {step.t_next})"
    if not step.states and not step.outputs and is_zero(step.noise):
        raise ValueError(f"{here} combines nothing")
    for what, terms in (("state", step.states), ("output", step.outputs)):
        for j, c in terms.items():
            if not 0 <= j <= k or (what == "output" and not table.steps[j].evaluate):
                raise ValueError(f"{here} uses {what} {j}, which does not exist yet")
            if not _regular(c):
                raise ValueError(f"{here}: the coefficient of {what} {j} is not finite ({c}); the method is singular at these times")
    for what, c in (("coefficient of the noise", step.noise), ("constant", step.constant)):
        if not _regular(c):
            raise ValueError(f"{here}: the {what} is not finite ({c})")


def _regular(c: Coefficient) -> bool:
    return bool(torch.isfinite(c).all()) if isinstance(c, Tensor) else math.isfinite(c)


# --- running ------------------------------------------------------------------------------------------------------------------------------


def _loop(plan: tuple[Row, ...], size: int, model: Model, x: Tensor, draw: Noise, differentiable: bool, callback: Any) -> Tensor:
    """The whole sampler. The new state is a fresh tensor, so adding into it in place disturbs nobody (autograd apart)."""
    mul: Any = torch.mul
    add: Any = torch.add
    accumulate: Any = torch.add if differentiable else Tensor.add_
    accumulate_dense: Any = torch.addcmul if differentiable else Tensor.addcmul_
    registers: list[Any] = [None] * size
    registers[0], shape, dtype = x, x.shape, x.dtype
    for k, (t, here, out, lead, a, second, b, plain, dense, c, shift, new, drop) in enumerate(plan):
        if out is not None:
            m = model(registers[here], t)
            if m.__class__ is not Tensor or m.shape != shape or m.dtype is not dtype:
                m = _accept(m, x, k, t)
            registers[out] = m
            del m  # or the name would keep the output alive during the next call
        if lead is None:
            y, c = mul(draw(k), c), None
        elif second is not None:
            y = add(registers[lead], registers[second], alpha=b)
        else:
            y = mul(registers[lead], a)
        for r, b in plain:
            y = accumulate(y, registers[r], alpha=b)
        for r, factor in dense:
            y = accumulate_dense(y, registers[r], factor)
        if c is not None:
            y = accumulate_dense(y, draw(k), c) if isinstance(c, Tensor) else accumulate(y, draw(k), alpha=c)
        if shift is not None:
            y = y + shift if differentiable else y.add_(shift)
        registers[new] = y
        for r in drop:
            registers[r] = None
        if callback is not None:
            callback(k + 1, y)
    return y


def _accept(m: Any, x: Tensor, k: int, t: float | int) -> Tensor:
    """``m`` in the dtype of ``x``, if it is a prediction for ``x`` at all."""
    if not isinstance(m, Tensor) or not m.is_floating_point():
        kind = m.dtype if isinstance(m, Tensor) else type(m).__name__
        raise TypeError(f"the model must return a floating-point tensor, at step {k} (t={t}) it returned {kind}")
    if m.shape != x.shape:
        raise ValueError(
            f"the model must return the shape of its input, {tuple(x.shape)}; at step {k} (t={t}) it returned {tuple(m.shape)}"
        )
    return m.to(x.dtype)


def _no_noise(k: int) -> Tensor:
    raise AssertionError(f"step {k} of a deterministic table asked for noise")


def noise_source(noise: Noise | None, generator: torch.Generator | None, x: Tensor) -> tuple[Noise, Callable[[], object] | None]:
    """Return z_k as a function of k, and what starts the same sequence again."""
    if noise is not None:
        given = noise

        def checked(k: int) -> Tensor:
            z = given(k)
            if not isinstance(z, Tensor) or z.shape != x.shape:
                got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise ValueError(f"noise({k}) must be a tensor of shape {tuple(x.shape)}, got {got}")
            return z.to(x)

        return checked, None
    source = generator or torch.Generator(x.device).manual_seed(int(torch.randint(2**62, ())))
    start = source.get_state()
    return lambda k: torch.randn(x.shape, generator=source, dtype=x.dtype, device=x.device), lambda: source.set_state(start)


def _locate(table: SolverTable, plan: tuple[Row, ...], model: Model, x: Tensor, draw: Noise) -> None:
    """Repeat a run that ended in NaN or infinity and raise at the first step that makes one."""
    count = 0  # model calls so far; a row that calls the model does so before its state is made

    def where(k: int) -> str:
        return f"{table.name}, step {k} of {len(table.steps)} ({table.steps[k].t} -> {table.steps[k].t_next})"

    calls = [k for k, step in enumerate(table.steps) if step.evaluate]

    def watched(x: Tensor, t: Any) -> Tensor:
        nonlocal count
        k, count = calls[count], count + 1
        m = model(x, t)
        if isinstance(m, Tensor) and not bool(torch.isfinite(m).all()):
            raise ValueError(f"{where(k)}: the model returned NaN or infinity at t={t}, for a finite state")
        return m

    def look(k: int, x: Tensor) -> None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{where(k - 1)}: the state overflowed {x.dtype}, from finite predictions")

    _loop(plan, table.history, watched, x, draw, False, look)
    raise ValueError(
        f"{table.name}: the result is not finite, but a second run met no NaN or infinity: the model or noise is not reproducible"
    )
