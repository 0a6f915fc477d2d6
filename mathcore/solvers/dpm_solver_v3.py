"""DPM-Solver-v3: an exponential multistep method whose linear and affine parts are measured on the model (section 9.7).

With y = x / alpha, N = (sigma eps - ell x) / alpha and the statistics ell, a, b of the model, the exact solution over a step from s to t is

    y_t = e^{-int ell} [ y_s - int E B dlambda - int E N_new dlambda ],   E = e^{int (ell + a)},   B = int e^{-int a} b,

where N_new = e^{-int a} N - B, every inner integral starting at s. N_new is replaced by its polynomial through the newest outputs. It depends on where
it starts, so an old value is carried on from step to step: N_new(from t) = e^{int a} N_new(from s) + int e^{int_r^t a} b dr.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mathcore.solvers.builder import Builder, Combination, Schedule
from mathcore.solvers.euler import WarmStart
from mathcore.solvers.exponential import lagrange_basis
from mathcore.solvers.rows import Coefficient
from mathcore.solvers.table import SolverTable
from mathcore.solvers.v3_statistics import V3Statistics


def dpm_solver_v3(
    schedule: Schedule, times: Tensor, statistics: V3Statistics, prediction: str = "noise", order: int = 2, start: str = "ramp"
) -> SolverTable:
    """DPM-Solver-v3 of ``order`` 1, 2 or 3 (Eq. 9.7.15, n = order - 1): one model call per step, order - 1 old outputs.

    Its coefficients are tensors of the shape of one sample where the statistics have one value per coordinate, and each row then has a constant term.
    All integrals are exact for the splines of the statistics, to rounding: a coarse grid of statistics costs accuracy, never order.

    Args:
        schedule, times, prediction: see ``Builder``; the half-log-SNR must be finite on the grid.
        statistics: of this model, from ``estimate_statistics``, or ``constant_statistics``.
        start: ``"ramp"`` or ``"rk4"``, see ``WarmStart``.

    Raises:
        TypeError: no statistics.
        ValueError: order outside 1..3, statistics of another schedule or on a shorter range, a bad grid, too few steps, an end without half-log-SNR.
    """
    if not isinstance(statistics, V3Statistics):
        raise TypeError(
            f"statistics must be V3Statistics, from estimate_statistics or constant_statistics; got {type(statistics).__name__}"
        )
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
    build = Builder(f"dpm_solver_v3({order}, {start})", schedule, times, prediction)
    if not statistics.belongs_to(schedule):
        raise ValueError(
            f"the statistics were measured under another schedule ({statistics.schedule and statistics.schedule['name']}) than {schedule!r}; "
            "if the model is the same one, rescaled, say so with statistics.under(schedule)"
        )
    lams = torch.tensor([node.lam for node in build.nodes], dtype=torch.float64)
    if not bool(torch.isfinite(lams).all()):
        raise ValueError(f"{build.name} needs a finite half-log-SNR on the whole grid: start it where alpha > 0, end it where sigma > 0")
    warm = WarmStart(build, order, start)
    build.sample_shape = statistics.shape or None
    ells = statistics.at(lams)[0]
    x = build.start
    past: list[tuple[float, Combination]] = []  # half-log-SNR and N_new, from where we are
    for k, (s, t) in enumerate(pairwise(build.nodes)):
        nonlinear = math.exp(-s.lam) * build.evaluate(x).noise - x * (_coefficient(ells[k]) / s.alpha)
        past = [(s.lam, nonlinear), *past][:order]
        step = _integrals(statistics, s.lam, t.lam)
        if k < warm.steps:
            x = warm.step(k, x, t)
        else:
            bracket = x / s.alpha - _constant(step.forced)
            for weight, (_, old) in zip(step.weights([lam for lam, _ in past]), past, strict=True):
                bracket = bracket - old * weight
            x = build.state(bracket * (t.alpha * step.decay), t)
        past = [(lam, old * step.gain + _constant(step.shift)) for lam, old in past]
    return build.table()


def _coefficient(value: Tensor) -> Coefficient:
    """A number where all coordinates share it."""
    return value if value.ndim else float(value)


def _constant(value: Coefficient) -> Combination:
    return Combination({("1", 0): value} if torch.as_tensor(value).any() else {})


# --- integrals over one step ---------------------------------------------------------------------------------------------------------------

_POINTS, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))


def _integration_matrix() -> Tensor:
    """S with (S f)_i = int_{-1}^{x_i} of the polynomial through (x_j, f_j): Legendre coefficients, each integrated, evaluated."""
    legendre, x = np.polynomial.legendre, _POINTS.numpy()
    integrals = np.stack([legendre.legval(x, legendre.legint(row, lbnd=-1)) for row in np.eye(len(x))], axis=1)
    return torch.from_numpy(integrals @ np.linalg.inv(legendre.legvander(x, len(x) - 1)))


_RUNNING = _integration_matrix()
_WIDEST = 0.5
"""Widest piece of the 16-point rule: exponentials of the statistics, of size 10 at most, are then integrated to rounding."""


@dataclass(frozen=True)
class Integrals:
    """What the statistics become over one step from s to t.

    Attributes:
        decay, gain: e^{-int ell} and e^{int a}. forced: int E B. shift: int e^{int_r^t a} b dr.
        points, density: quadrature of int E p dlambda for a function p of lambda; ``(P,)`` and ``(P, *shape)``.
    """

    decay: Coefficient
    gain: Coefficient
    forced: Coefficient
    shift: Coefficient
    points: Tensor
    density: Tensor

    def weights(self, nodes: list[float]) -> list[Coefficient]:
        """int E times each Lagrange polynomial on ``nodes``: the solution of the Vandermonde system (Eq. 9.7.14), put into Eq. 9.7.15."""
        basis = torch.from_numpy(np.stack(lagrange_basis(nodes, self.points.numpy())))  # (n, P)
        return [_coefficient(row) for row in torch.tensordot(basis, self.density, 1)]


def _integrals(statistics: V3Statistics, s: float, t: float) -> Integrals:
    inside = statistics.lambdas[(statistics.lambdas > s) & (statistics.lambdas < t)].tolist()
    edges = [s]
    for low, high in pairwise([s, *inside, t]):  # the splines are smooth between their nodes only
        parts = math.ceil((high - low) / _WIDEST)
        edges += [low + (high - low) * (i + 1) / parts for i in range(parts)]
    ends = torch.tensor(edges, dtype=torch.float64)
    half = ends.diff() / 2
    points = (ends[:-1, None] + half[:, None] * (_POINTS + 1)).flatten()
    shape = (len(half), len(_POINTS), *statistics.shape)
    ell, a, b = (v.reshape(shape) for v in statistics.at(points))
    linear, linear_end = _running(ell, half)
    affine, affine_end = _running(a, half)
    forcing, forcing_end = _running(torch.exp(-affine) * b, half)
    density = torch.exp(linear + affine) * _along(_WEIGHTS * half[:, None], ell)
    gain = torch.exp(affine_end)
    forced, shift = (density * forcing).sum((0, 1)), gain * forcing_end
    decay = _coefficient(torch.exp(-linear_end))
    return Integrals(decay, _coefficient(gain), _coefficient(forced), _coefficient(shift), points, density.flatten(0, 1))


def _running(values: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The integral up to each point, and up to the end, of values ``(pieces, 16, *shape)``."""
    within = torch.einsum("ij,kj...->ki...", _RUNNING, values)
    totals = torch.einsum("j,kj...->k...", _WEIGHTS, values)
    within, totals = (v * _along(half, v) for v in (within, totals))
    before = torch.cumsum(totals, 0) - totals
    return before[:, None] + within, totals.sum(0)


def _along(v: Tensor, like: Tensor) -> Tensor:
    return v.reshape(*v.shape, *([1] * (like.ndim - v.ndim)))
