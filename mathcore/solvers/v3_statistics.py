"""What DPM-Solver-v3 knows about its model: three functions of the half-log-SNR per coordinate, measured once (section 9.7).

With y = x / alpha the probability-flow ODE is, for any ell, a, b,

    dy/dlambda = -ell y - N,    N = (sigma eps - ell x) / alpha,    dN/dlambda = a N + b + residual.

ell* = E[diag(sigma grad eps)] takes what is linear in x out of N (Eq. 9.7.3); a*, b* are the least-squares fit of dN/dlambda, along the trajectories, by
a line in N (Eq. 9.7.8). The order of the solver does not depend on their values, the size of its error does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, one_of
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers.builder import Schedule, check_times
from mathcore.solvers.exact_taylor import total_derivatives
from mathcore.solvers.table import Model

KIND = "dpm-solver-v3 statistics"


@dataclass(frozen=True, eq=False)
class V3Statistics:
    """The functions ell, a and b on a grid of half-log-SNRs; between its nodes they are cubic splines.

    The splines are twice differentiable, so that they cost the solver none of its order. Kept in float64 on the CPU.

    Args:
        lambdas: increasing ``(Q,)``. One node means constants, valid everywhere.
        ell, a, b: values there ``(Q, *shape)``, where ``shape`` is that of one sample; ``(Q,)`` if all coordinates share them.
        schedule: what :func:`schedule_identity` says of the schedule they were measured under; ``None`` if they belong to none.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: lambdas that do not increase, other shapes, NaN or infinity.
    """

    lambdas: Float[Tensor, " q"]
    ell: Float[Tensor, "q *shape"]
    a: Float[Tensor, "q *shape"]
    b: Float[Tensor, "q *shape"]
    schedule: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        floating(self.lambdas, "lambdas", ndim=1)
        if not len(self.lambdas) or not bool((self.lambdas.diff() > 0).all()):
            raise ValueError(f"lambdas must increase strictly and there must be at least one, got {len(self.lambdas)}")
        for name in ("ell", "a", "b"):
            value = floating(getattr(self, name), name)
            if value.shape != (len(self.lambdas), *self.ell.shape[1:]):
                raise ValueError(
                    f"{name} must have shape ({len(self.lambdas)}, *shape) like lambdas and ell, got {tuple(value.shape)} beside {tuple(self.ell.shape)}"
                )
        for name in ("lambdas", "ell", "a", "b"):
            object.__setattr__(self, name, getattr(self, name).detach().to("cpu", torch.float64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample; ``()`` if all coordinates share the values."""
        return tuple(self.ell.shape[1:])

    @cached_property
    def _splines(self) -> list[Any]:
        from scipy.interpolate import CubicSpline, PPoly

        values = [v.numpy() for v in (self.ell, self.a, self.b)]
        if len(self.lambdas) == 1:
            return [PPoly(v[None], [0.0, 1.0]) for v in values]
        return [CubicSpline(self.lambdas.numpy(), v) for v in values]

    def at(self, lam: Float[Tensor, " m"], derivative: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return ell, a and b, or their derivatives, at half-log-SNRs ``(M,)``: three tensors ``(M, *shape)``.

        Raises:
            ValueError: outside the grid, beyond what a round trip through the time loses (1e-6).
        """
        low, high = float(self.lambdas[0]), float(self.lambdas[-1])
        if len(self.lambdas) > 1 and not bool(((lam >= low - 1e-6) & (lam <= high + 1e-6)).all()):
            raise ValueError(
                f"the statistics cover half-log-SNRs from {low:.6g} to {high:.6g}, asked for {float(lam.min()):.6g} to {float(lam.max()):.6g}; "
                "measure them on the whole range of the sampler"
            )
        ell, a, b = (torch.as_tensor(spline(lam.numpy(), derivative)) for spline in self._splines)
        return ell, a, b

    def under(self, schedule: Schedule) -> "V3Statistics":
        """The same functions, now for ``schedule``: right for the same model rescaled to it, because N is a function of (x / alpha, lambda) alone."""
        return replace(self, schedule=schedule_identity(schedule))

    def belongs_to(self, schedule: Schedule) -> bool:
        """Whether they were measured under ``schedule``, or under none."""
        if self.schedule is None:
            return True
        ours, theirs = self.schedule, schedule_identity(schedule)
        same = ours["name"] == theirs["name"] and len(ours["scales"]) == len(theirs["scales"])
        return same and torch.allclose(torch.tensor(ours["scales"]), torch.tensor(theirs["scales"]), rtol=1e-6, atol=0.0)

    def save(self, path: str | Path) -> None:
        """Write them to one safetensors file, whole or not at all; the errors are those of ``training.save_checkpoint``."""
        from mathcore.training.checkpoints import save_checkpoint  # here, because solvers do not need the training package

        tensors = {name: getattr(self, name) for name in ("lambdas", "ell", "a", "b")}
        save_checkpoint(path, tensors, {"kind": KIND, "schedule": self.schedule})

    @classmethod
    def load(cls, path: str | Path) -> "V3Statistics":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: no such file, a truncated, altered or foreign one, or a checkpoint of something else.
        """
        from mathcore.training.checkpoints import CheckpointError, load_checkpoint

        tensors, metadata = load_checkpoint(path)
        if metadata.get("kind") != KIND:
            raise CheckpointError(f"{path} holds no statistics for DPM-Solver-v3, but {metadata.get('kind')!r}")
        return cls(**tensors, schedule=metadata["schedule"])


def schedule_identity(schedule: Schedule) -> dict[str, Any]:
    """What a schedule is told by, in plain JSON: its name, and alpha and sigma at five places.

    Raises:
        TypeError: no schedule.
    """
    if isinstance(schedule, AffineSchedule):
        at = schedule.t_min + (schedule.t_max - schedule.t_min) * torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
        name, scales = schedule.name, torch.cat([schedule.alpha(at), schedule.sigma(at)])
    elif isinstance(schedule, DiscreteSchedule):
        at = torch.linspace(1, schedule.L, 5).round().long()
        name, scales = f"discrete, L={schedule.L}", torch.cat([schedule.alpha_bar[at], schedule.sigma_bar[at]])
    else:
        raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
    return {"name": name, "scales": scales.tolist()}


def constant_statistics(kind: str) -> V3Statistics:
    """The constants (ell, a, b) with which DPM-Solver-v3 is an earlier solver (section 9.7.6): ``"noise"`` (0, -1, 0) or ``"clean"`` (1, 0, 0).

    Order 1 is DDIM with either, order 2 AB-DEIS of that order in lambda on the noise, or 2M with its exact weights.
    """
    ell, a = {"noise": (0.0, -1.0), "clean": (1.0, 0.0)}[one_of(kind, ("noise", "clean"), "kind")]
    at, *values = torch.tensor([[0.0], [ell], [a], [0.0]], dtype=torch.float64)
    return V3Statistics(at, values[0], values[1], values[2])


# --- measuring ---------------------------------------------------------------------------------------------------------------------------


def estimate_statistics(
    model: Model,
    schedule: AffineSchedule,
    times: Float[Tensor, " q"],
    states: Float[Tensor, "q n *shape"],
    prediction: str = "noise",
    jacobian: str = "exact",
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> V3Statistics:
    """Measure ell*, a* and b* of a model on its own trajectories: averages over the ``n`` states at each of ``q`` times (section 9.7.3).

    >>> table = dpm_solver_pp(schedule, grids.uniform_lambda(schedule, 240))
    >>> states = table.trajectory(model, x_T)
    >>> statistics = estimate_statistics(model, schedule, table.times[::2], states[::2])

    Derivatives are forward-mode (``torch.func.jvp``) on whole batches, so the model must be differentiable in both arguments, take ``t`` as a 0-d
    tensor, and treat each sample by itself. Two passes over the times: the first measures ell, whose slope enters the second.

    Args:
        model: ``model(x, t)``, predicting ``prediction``. times: decreasing ``(Q,)``, half-log-SNR finite. states: ``(Q, N, *shape)``, N at least 2.
        jacobian: the diagonal of grad eps, ``"exact"`` by one derivative per coordinate, or ``"hutchinson"``: the mean of v * (grad eps v) over
            ``probes`` random signs v per sample, for images.
        generator: source of the signs.

    Returns:
        Statistics with values ``(Q, *shape)``. Where N does not vary, up to rounding, a is 0 and b its mean slope.

    Raises:
        TypeError: no ``AffineSchedule`` (a chain has no derivative in lambda), no tensors.
        ValueError: a bad grid, states of the wrong shape or with NaN, fewer than two of them, unknown names, or a model that drops the derivative in t.
    """
    if not isinstance(schedule, AffineSchedule):
        raise TypeError(f"schedule must be an AffineSchedule, got {type(schedule).__name__}: derivatives in lambda need continuous times")
    one_of(prediction, PREDICTIONS, "prediction"), one_of(jacobian, ("exact", "hutchinson"), "jacobian")
    grid = check_times(schedule, times)
    if floating(states, "states").ndim < 3 or len(states) != len(grid) or states.shape[1] < 2:
        raise ValueError(f"states must have shape ({len(grid)}, N, *shape) with N >= 2, one batch per time, got {tuple(states.shape)}")
    if probes < 1:
        raise ValueError(f"probes must be at least 1, got {probes}")
    _check_time_derivative(model, states[0], grid)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        return convert_prediction(model(x, t), x, t, schedule, prediction, "noise")

    def tangents(x: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        return _axes(x) if jacobian == "exact" else _signs(x, probes, generator)

    lams = schedule.half_log_snr(grid)
    ell = []
    with torch.no_grad(), _bar(2 * len(grid)) as bar:
        for t, x in zip(grid, states, strict=True):
            ell.append(float(schedule.sigma(t)) * _jacobian_diagonal(noise, x, t.to(x), tangents(x)))
            bar.update()
        known = torch.stack(ell)
        slopes = V3Statistics(lams, known, known, known).at(lams, derivative=1)[0].to(known.device)
        a, b = torch.empty_like(known), torch.empty_like(known)
        differences = prediction in ("clean", "velocity")
        for i, (t, x) in enumerate(zip(grid, states, strict=True)):
            a[i], b[i] = _fit(noise, schedule, t, x, known[i], slopes[i], differences)
            bar.update()
    return V3Statistics(lams, known, a, b, schedule_identity(schedule))


def _bar(total: int) -> Any:
    from tqdm.auto import tqdm

    from mathcore.settings import settings

    return tqdm(total=total, desc="statistics", disable=not settings.progress, leave=False)


def _check_time_derivative(model: Model, x: Tensor, grid: Tensor) -> None:
    """Refuse a model that reads the number out of t: its derivative in time would be lost without a word."""
    t, later = grid[0].to(x), grid[-1].to(x)
    with torch.no_grad():
        pair = torch.func.jvp(lambda time: model(x, time), (t,), (torch.ones_like(t),))
        if not bool(pair[1].any()) and not torch.equal(pair[0], model(x, later)):
            raise ValueError("the model depends on t, but has no derivative in it: it takes the number out, by float(t) or t.item()")


def _axes(x: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """For each coordinate: the tangent that moves it in every sample, and the mask that keeps it."""
    for i in range(x[0].numel()):
        direction = torch.zeros_like(x[0]).flatten()
        direction[i] = 1.0
        yield direction.reshape(x.shape[1:]).expand_as(x), direction.reshape(x.shape[1:])


def _signs(x: Tensor, probes: int, generator: torch.Generator | None) -> Iterable[tuple[Tensor, Tensor]]:
    """Random signs v, and v / probes: E[v (J v)] is the diagonal of J."""
    for _ in range(probes):
        bits = torch.randint(2, x.shape, generator=generator, device=generator.device if generator else x.device)
        v = (2 * bits - 1).to(x)
        yield v, v / probes


def _jacobian_diagonal(noise: Callable[..., Tensor], x: Tensor, t: Tensor, tangents: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean over samples of the diagonal of grad eps: ``shape``, float64."""
    total = torch.zeros(x.shape[1:], dtype=torch.float64, device=x.device)
    for tangent, mask in tangents:
        derivative = torch.func.jvp(lambda y: noise(y, t), (x,), (tangent.contiguous(),))[1]
        total += (mask * derivative).double().mean(0)
    return total


def _fit(
    noise: Callable[..., Tensor], schedule: AffineSchedule, t: Tensor, x: Tensor, ell: Tensor, slope: Tensor, differences: bool
) -> tuple[Tensor, Tensor]:
    """a and b at one time: least squares of dN/dlambda along the trajectories on N, per coordinate, float64.

    ``differences``: whether eps was made as a difference of numbers like x / alpha, and has their rounding errors.
    """
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    eps, rate = total_derivatives(noise, schedule, x, t, 1).double() * (sigma / alpha)  # e^{-lambda} eps and e^{-lambda} eps'
    y = x.double() / alpha
    n = eps - ell * y
    dn = rate - eps - slope * y + ell * eps  # d(e^{-lambda} eps) = e^{-lambda} (eps' - eps),  dy = -e^{-lambda} eps
    spread, mean = n.var(0, correction=0), n.mean(0)
    size = eps.square() + (ell * y).square() + (y.square() if differences else 0.0)
    rounding = (64 * torch.finfo(x.dtype).eps) ** 2 * size.mean(0)
    varies = spread > rounding
    covariance = ((n - mean) * (dn - dn.mean(0))).mean(0)
    a = torch.where(varies, covariance / torch.where(varies, spread, 1.0), 0.0)
    return a, dn.mean(0) - a * mean
