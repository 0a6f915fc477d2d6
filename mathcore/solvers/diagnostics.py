"""Measuring samplers: problems with an exact answer, errors against it, convergence orders, model calls.

problem = Problem(examples.solver_mixture(), AffineSchedule.vp())
errors = problem.errors(lambda times: ddim(problem.schedule, times), counts)
convergence_order(counts, errors)                                   # 1.0
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import one_of
from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.predictions import PREDICTIONS
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.table import Model, SolverTable

STARTS = (-1.3, -0.2, 0.4, 1.7)
"""Default start points, in units of sqrt(alpha^2 + sigma^2) at the start."""


class Exact1D:
    """The exact prediction for a mixture on the line, by Bayes over its components: a model that costs some 20 microseconds.

    The same numbers as :class:`AffineGaussianOracle` gives, without its checks, and with the scales of a time worked out once.

    Args:
        data: mixture of dimension 1. schedule: what corrupts it. prediction: noise, clean, score or velocity.

    Raises:
        ValueError: a mixture in more dimensions, or an unknown prediction.
    """

    def __init__(self, data: GaussianMixture, schedule: AffineSchedule, prediction: str = "noise") -> None:
        if data.dim != 1:
            raise ValueError(f"Exact1D needs a mixture on the line, got dimension {data.dim}")
        self.schedule, self.prediction = schedule, one_of(prediction, PREDICTIONS, "prediction")
        self._weights, self._means, self._variances = data.weights, data.means[:, 0], data.covariances[:, 0, 0]
        self._known: dict[float, tuple[float, float, list[float], Tensor, Tensor]] = {}

    def _scales(self, t: float) -> tuple[float, float, list[float], Tensor, Tensor]:
        if t not in self._known:
            rates = ("dalpha", "dsigma") if self.prediction == "velocity" else ()
            a, s, *slopes = (float(getattr(self.schedule, name)(t)) for name in ("alpha", "sigma", *rates))
            v = a * a * self._variances + s * s
            self._known[t] = a, s, slopes, v, self._weights.log() - v.log() / 2
        return self._known[t]

    def __call__(self, x: Float[Tensor, "n 1"], t: float) -> Float[Tensor, "n 1"]:
        """The prediction at points ``(N, 1)`` and one time."""
        a, s, rates, v, prior = self._scales(float(t))
        offset = x - a * self._means  # (N, K)
        p = torch.softmax(prior - offset**2 / (2 * v), 1)
        scaled = (p * offset / v).sum(1, keepdim=True)  # minus the score
        if self.prediction == "score":
            return -scaled
        if self.prediction == "noise":
            return s * scaled
        clean = (p * (self._means + a * self._variances / v * offset)).sum(1, keepdim=True)
        return clean if self.prediction == "clean" else rates[0] * clean + rates[1] * s * scaled


class CallCounter:
    """A model that counts its calls and remembers at which times they were made: ``calls``, ``times``."""

    def __init__(self, model: Model) -> None:
        self.model, self.times = model, list[float]()

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        return len(self.times)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Pass the call on."""
        self.times.append(t)
        return self.model(x, t)


class Problem:
    """A law under a schedule, between two times, with start points and their exact images under the probability-flow ODE.

    Args:
        data: Gaussian mixture. schedule: what corrupts it.
        t_start, t_end: ``t_start > t_end``; by default the ends of :func:`grids.ends`.
        x: start points ``(N, D)``; on the line the four of :data:`STARTS` times sqrt(alpha^2 + sigma^2) by default.

    Attributes:
        x_T: the start points. exact: where the exact flow takes them, from closed forms or cumulative distributions on the line.

    Raises:
        ValueError: no start points in more than one dimension; times outside the domain or not decreasing.
    """

    def __init__(
        self,
        data: GaussianMixture,
        schedule: AffineSchedule,
        t_start: float | None = None,
        t_end: float | None = None,
        x: Float[Tensor, "n d"] | None = None,
    ) -> None:
        default = grids.ends(schedule)
        self.data, self.schedule = data, schedule
        self.t_start, self.t_end = (d if t is None else float(t) for d, t in zip(default, (t_start, t_end), strict=True))
        if not self.t_start > self.t_end:
            raise ValueError(f"t_start must lie above t_end, got {self.t_start} and {self.t_end}")
        if x is None:
            if data.dim != 1:
                raise ValueError(f"give start points x for data of dimension {data.dim}; the default ones lie on a line")
            size = math.hypot(float(schedule.alpha(self.t_start)), float(schedule.sigma(self.t_start)))
            x = torch.tensor(STARTS, dtype=data.means.dtype)[:, None] * size
        self.x_T = x
        self.oracle = AffineGaussianOracle(data, schedule)
        self.exact = self.oracle.flow_map(x, self.t_start, self.t_end)

    def model(self, prediction: str = "noise") -> Model:
        """The exact prediction; on the line the quick one."""
        one_of(prediction, PREDICTIONS, "prediction")
        return Exact1D(self.data, self.schedule, prediction) if self.data.dim == 1 else getattr(self.oracle, prediction)

    def grid(self, n: int, spacing: Callable[..., Tensor] = grids.uniform_lambda) -> Float[Tensor, " nodes"]:
        """``n`` steps from ``t_start`` to ``t_end`` with a spacing of :mod:`mathcore.solvers.grids`."""
        return spacing(self.schedule, n, t_start=self.t_start, t_end=self.t_end)

    def error(self, table: SolverTable, model: Model | None = None, noise: Callable[[int], Tensor] | None = None) -> float:
        """Root mean square over points and coordinates of what ``table`` makes of ``x_T``, minus ``exact``; ``model``: the exact one by default."""
        end = table.run(model or self.model(table.prediction), self.x_T, noise=noise)
        return float((end - self.exact).square().mean().sqrt())

    def errors(
        self,
        method: Callable[[Tensor], SolverTable],
        counts: Sequence[int],
        spacing: Callable[..., Tensor] = grids.uniform_lambda,
        model: Model | None = None,
    ) -> list[float]:
        """The errors of ``method(times)`` on grids of ``counts`` steps; one model, and so one set of scales, for all of them."""
        tables = [method(self.grid(n, spacing)) for n in counts]
        model = model or self.model(tables[0].prediction)
        return [self.error(table, model) for table in tables]


def convergence_order(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Minus the least-squares slope of log error against log number of steps.

    Raises:
        ValueError: fewer than two points, lengths that differ, counts or errors that are not positive and finite.
    """
    n, e = np.asarray(counts, dtype=float), np.asarray(errors, dtype=float)
    if n.shape != e.shape or n.ndim != 1 or len(n) < 2:
        raise ValueError(f"need the same number, at least 2, of counts and errors; got {n.shape} and {e.shape}")
    if not (np.isfinite(n).all() and np.isfinite(e).all() and (n > 0).all() and (e > 0).all()):
        raise ValueError(f"counts and errors must be positive and finite, got {list(counts)} and {list(errors)}")
    return -float(np.polyfit(np.log(n), np.log(e), 1)[0])


def linear_model(schedule: AffineSchedule, data_std: float) -> Model:
    """The exact noise prediction for N(0, data_std^2), linear in x: a sampler that uses it is a linear map of its start and its noises."""

    def model(x: Tensor, t: float) -> Tensor:
        a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
        return s / (a * a * data_std**2 + s * s) * x

    return model


def exact_variance(table: SolverTable, model: Model, start_var: float) -> float:
    """Variance of what a sampler with a linear ``model`` makes from N(0, start_var), without sampling.

    Row 0 of a batch carries the start alone, row k + 1 the noise of step k alone; the variances of the rows add.
    """
    n = len(table.steps)
    start = torch.zeros(n + 1, 1, dtype=torch.float64)
    start[0] = math.sqrt(start_var)

    def unit(k: int) -> Tensor:
        z = torch.zeros(n + 1, 1, dtype=torch.float64)
        z[k + 1] = 1.0
        return z

    return float(table.run(model, start, noise=unit).square().sum())


def output_weights(table: SolverTable) -> tuple[float, Float[Tensor, " calls"]]:
    """What a sampler makes of its start and of its model outputs: ``(start, weights)`` with end state start x_T + sum_k weights[k] m_k.

    k counts the model calls, m_k is what the model returned at call k; noises and constants are left out. No model is involved: the weights are a
    property of the table.
    """
    n, calls = table.nfe, iter(range(table.nfe))
    # a batch of n + 2: row k sees call k alone, row n the start alone, the last one nothing
    rows = torch.zeros(n + 1, n + 2, 1, dtype=torch.float64)
    rows[range(n + 1), range(n + 1)] = 1.0
    end = table.run(lambda x, t: rows[next(calls)], rows[n], noise=lambda k: torch.zeros(n + 2, 1, dtype=torch.float64))[:, 0]
    return float(end[n] - end[n + 1]), end[:n] - end[n + 1]
