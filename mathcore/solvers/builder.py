"""How a table is written down: a method in the notation of the book, arithmetic on combinations instead of tensors.

    build = Builder("ddim", schedule, times, prediction)
    x = build.start
    for t in build.nodes[1:]:
        m = build.evaluate(x)                                       # one model call, at the state and its time
        x = build.state(t.alpha * m.clean + t.sigma * m.noise, t)   # the row of the table
    return build.table()

``m.clean`` and ``m.noise`` are the same model output seen as two predictions: linear combinations of the state and of what the model returns. So
the change of prediction ends up inside the coefficients, and the loop that runs the table knows nothing of it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mathcore._validate import one_of
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers.rows import Coefficient, Step
from mathcore.solvers.table import SolverTable

Schedule = AffineSchedule | DiscreteSchedule


class Combination:
    """A linear combination of states ``("x", j)``, outputs ``("m", j)``, noises ``("z", k)`` and 1 ``("1", 0)``; closed under + - and scalar * /."""

    def __init__(self, terms: Mapping[tuple[str, int], Coefficient]) -> None:
        self.terms = dict(terms)

    def __add__(self, other: "Combination") -> "Combination":
        if not isinstance(other, Combination):
            return NotImplemented
        out = dict(self.terms)
        for key, c in other.terms.items():
            out[key] = out[key] + c if key in out else c
        return Combination(out)

    def __mul__(self, factor: Coefficient) -> "Combination":
        return Combination({key: c * factor for key, c in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: Coefficient) -> "Combination":
        return self * (1 / divisor if isinstance(divisor, Tensor) or divisor else math.nan)  # the table refuses nan, and says where

    def __neg__(self) -> "Combination":
        return self * -1.0

    def __sub__(self, other: "Combination") -> "Combination":
        return self + -other


@dataclass(frozen=True)
class Node:
    """One time and the scales there: alpha, sigma, lam = log(alpha / sigma) (infinite where one of them is 0) and rho = sigma / alpha."""

    t: float | int
    alpha: float
    sigma: float
    lam: float
    group: "Nodes"
    index: int

    @property
    def rho(self) -> float:
        """Noise-to-signal ratio e^{-lambda}."""
        return self.sigma / self.alpha if self.alpha else math.inf

    def clock(self, which: str) -> float:
        """The time on the clock ``"t"``, ``"lambda"`` or ``"rho"``."""
        return {"t": self.t, "lambda": self.lam, "rho": self.rho}[which]

    def scale(self, which: str) -> float:
        """What the scaled state x / c is divided by: 1 for ``"one"``, ``"alpha"`` or ``"sigma"``."""
        return {"one": 1.0, "alpha": self.alpha, "sigma": self.sigma}[which]

    @property
    def clean_end(self) -> bool:
        """Whether sigma = 0: nothing that divides by sigma, and no half-log-SNR, exists here."""
        return self.sigma == 0.0

    def convert(self, src: str, dst: str) -> tuple[float, float]:
        """The numbers (A, B) with dst = A x + B src at this time (Proposition 6.3.1)."""
        return self.group.conversion(src, dst, self.index)

    def rate(self, which: str) -> float:
        """``dalpha``, ``dsigma``, ``f`` or ``g2`` of the schedule; ``ValueError`` on a discrete one and where it is infinite."""
        if not isinstance(self.group.schedule, AffineSchedule):
            raise ValueError(f"{which} is a time derivative, which a DiscreteSchedule does not have; use the clock 'lambda' or 'rho'")
        return float(getattr(self.group.schedule, which)(self.t))

    @property
    def dlam(self) -> float:
        """Time derivative of lambda, -g^2 / (2 sigma^2)."""
        return -self.rate("g2") / (2 * self.sigma**2) if self.sigma else math.nan


class Nodes:
    """Times of one schedule with their scales, worked out together: one call per function instead of one per node."""

    def __init__(self, schedule: Schedule, times: Tensor) -> None:
        self.schedule, self.times = schedule, times
        if isinstance(schedule, AffineSchedule):
            alpha, sigma = schedule.alpha(times), schedule.sigma(times)
            lam = torch.where(sigma == 0, math.inf, -math.inf).to(torch.float64)
            inside = (alpha > 0) & (sigma > 0)
            lam[inside] = schedule.half_log_snr(times[inside])
        else:
            alpha, sigma, lam = (table[times] for table in (schedule.alpha_bar, schedule.sigma_bar, schedule.half_log_snr))
        columns = zip(times.tolist(), alpha.tolist(), sigma.tolist(), lam.tolist(), strict=True)
        self.list = [Node(*column, self, i) for i, column in enumerate(columns)]
        self._interior = ((alpha > 0) & (sigma > 0)).nonzero()[:, 0].tolist()
        self._conversions: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}

    def conversion(self, src: str, dst: str, i: int) -> tuple[float, float]:
        """See :meth:`Node.convert`."""
        if (src, dst) not in self._conversions:
            try:
                self._conversions[src, dst] = self._convert(src, dst, self._interior)
            except ValueError:  # singular at some node, perhaps one that is never asked for: take them one by one
                self._conversions[src, dst] = {}
        known = self._conversions[src, dst]
        if i not in known:
            known.update(self._convert(src, dst, [i]))
        return known[i]

    def _convert(self, src: str, dst: str, indices: list[int]) -> dict[int, tuple[float, float]]:
        """The library's own conversion, read off at (x, value) = (1, 0) and (0, 1)."""
        n = len(indices)
        if n == 0:
            return {}
        one, zero = torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        t = self.times[indices].repeat(2)
        out = convert_prediction(torch.cat([zero, one]), torch.cat([one, zero]), t, self.schedule, src, dst).tolist()
        return {i: (out[j], out[n + j]) for j, i in enumerate(indices)}


class State(Combination):
    """A state of the table, as a combination of itself alone, with its place."""

    def __init__(self, j: int, node: Node) -> None:
        super().__init__({("x", j): 1.0})
        self.j, self.node = j, node


class Output:
    """One model output, seen as any of the four predictions at its state."""

    def __init__(self, state: State, prediction: str) -> None:
        self.state, self.node, self._prediction = state, state.node, prediction

    def of(self, kind: str) -> Combination:
        """The prediction ``kind``: noise, clean, score or velocity. ``ValueError`` where the conversion is singular."""
        a, b = self.node.convert(self._prediction, kind)
        return self.state * a + Combination({("m", self.state.j): b})

    @property
    def noise(self) -> Combination:
        """The noise prediction."""
        return self.of("noise")

    @property
    def clean(self) -> Combination:
        """The clean prediction."""
        return self.of("clean")

    @property
    def score(self) -> Combination:
        """The score prediction."""
        return self.of("score")

    @property
    def velocity(self) -> Combination:
        """The velocity prediction, v = alpha' x + sigma' eps."""
        return self.of("velocity")


class Builder:
    """Collects the rows of one table; see the module.

    Args:
        name: the table's name.
        schedule: ``AffineSchedule``, or ``DiscreteSchedule`` with indices as times.
        times: strictly decreasing grid ``(M + 1,)`` inside the domain.
        prediction: what the model will return.

    Attributes:
        nodes: the grid as ``Node`` objects. start: the state x_T at ``nodes[0]``.
        sample_shape: set it where coefficients are tensors, one entry for each coordinate of a sample.

    Raises:
        TypeError: schedule or times of the wrong kind.
        ValueError: times with NaN, not strictly decreasing, outside the domain or fewer than two; unknown prediction.
    """

    def __init__(self, name: str, schedule: Schedule, times: Tensor, prediction: str) -> None:
        self.name, self.schedule, self.prediction = name, schedule, one_of(prediction, PREDICTIONS, "prediction")
        self.times = check_times(schedule, times)
        self.nodes = Nodes(schedule, self.times).list
        self.start = self._newest = State(0, self.nodes[0])
        self.sample_shape: tuple[int, ...] | None = None
        self._output: Output | None = None
        self._steps: list[Step] = []

    def evaluate(self, state: State) -> Output:
        """Call the model at the newest state; asked again for the same state, the same output."""
        if state is not self._newest:
            raise ValueError(f"{self.name}: the model can be evaluated at the newest state only, number {self._newest.j}, not {state.j}")
        if self._output is None:
            self._output = Output(state, self.prediction)
        return self._output

    @property
    def noise(self) -> Combination:
        """A standard normal variable of its own for the row under construction."""
        return Combination({("z", len(self._steps)): 1.0})

    def state(self, value: Combination, node: Node, stage: bool = False) -> State:
        """Add the row that makes ``value`` the new state, at ``node``; ``stage``: an intermediate one, not on the grid."""
        k = len(self._steps)
        terms = {key: c for key, c in value.terms.items() if isinstance(c, Tensor) or c != 0.0}
        if any(kind == "z" and j != k for kind, j in terms):
            raise ValueError(f"{self.name}: the noise of another row cannot be used again; make a state of it first")
        states, outputs = ({j: c for (kind, j), c in terms.items() if kind == which} for which in "xm")
        noise, constant = terms.get(("z", k), 0.0), terms.get(("1", 0), 0.0)
        evaluated, self._output = self._output is not None, None
        place = None if stage else node.index
        self._steps.append(Step(self._newest.node.t, node.t, states, outputs, noise, evaluated, place, constant))
        self._newest = State(k + 1, node)
        return self._newest

    def between(self, values: Iterable[float], clock: str = "lambda") -> list[Node]:
        """Nodes off the grid, given by half-log-SNR, ``"rho"`` or ``"t"``; ``ValueError`` where the schedule has none (a discrete one: nowhere)."""
        if not isinstance(self.schedule, AffineSchedule):
            raise ValueError(f"{self.name} evaluates the model between the times of the grid, and a DiscreteSchedule has indices only")
        at = torch.tensor(list(values), dtype=torch.float64)
        lams = {"lambda": at, "rho": -at.log()}.get(clock)
        if lams is None:
            return Nodes(self.schedule, at).list
        if not bool(torch.isfinite(lams).all()):
            raise ValueError(
                f"{self.name} needs a finite half-log-SNR at both ends of the grid: start it where alpha > 0, end it where sigma > 0"
            )
        return Nodes(self.schedule, self.schedule.inverse_half_log_snr(lams)).list

    def table(self) -> SolverTable:
        """The finished table."""
        if self._output is not None:
            raise ValueError(f"{self.name}: the last model output is used by no row")
        return SolverTable(self.name, self._steps, self.times, self.prediction, self.sample_shape)


def check_times(schedule: Schedule, times: Tensor) -> Tensor:
    """Return a grid as float64 times of an ``AffineSchedule`` or int64 indices of a ``DiscreteSchedule``, on the CPU.

    Raises:
        TypeError: no schedule, no tensor, or times where indices are needed and conversely.
        ValueError: not one axis of two entries or more, NaN, not strictly decreasing, outside the domain.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
    if not isinstance(times, Tensor):
        raise TypeError(f"times must be a tensor, got {type(times).__name__}")
    discrete = isinstance(schedule, DiscreteSchedule)
    if times.is_floating_point() == discrete or times.is_complex() or times.dtype == torch.bool:
        needed = "integer indices of the discrete schedule" if discrete else "floating-point times"
        raise TypeError(f"times must be {needed}, got dtype {times.dtype}")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must have shape (M + 1,) with at least one step, got shape {tuple(times.shape)}")
    grid = times.detach().to("cpu", torch.int64 if discrete else torch.float64)
    if not bool((grid[1:] < grid[:-1]).all()):  # NaN fails too
        raise ValueError(
            f"times must decrease strictly, from noise to data; got {times.tolist() if len(times) < 12 else 'a grid that does not'}"
        )
    low, high = (0, schedule.L) if isinstance(schedule, DiscreteSchedule) else (schedule.t_min, schedule.t_max)
    if float(grid[-1]) < low or float(grid[0]) > high:
        raise ValueError(f"times must lie in [{low}, {high}], the domain of the schedule; got {grid[0].item()} down to {grid[-1].item()}")
    return grid
