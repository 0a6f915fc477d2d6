"""diffusers beside the library: its schedulers run step by step on exact predictions, on the noise levels of their own tables.

A scheduler keeps sigma / alpha in single precision. Those numbers, as they are, become the grid of the library's table and the noise levels at which
the exact prediction is evaluated: what then differs is the formula of the step and the arithmetic.
"""

import importlib.metadata
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import _variants
from mathcore import solvers
from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import SolverTable
from mathcore.solvers.diagnostics import STARTS, Exact1D

PEER = "diffusers"
COMMON = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
PREDICTIONS = {"noise": "epsilon", "clean": "sample", "velocity": "v_prediction"}
SPACES = {
    # what the scheduler steps: x at unit variance, the flow (1 - t) x + t noise, or x / alpha; each as a schedule whose time is a function of sigma / alpha
    "vp": (AffineSchedule.trig(), torch.atan),
    "flow": (AffineSchedule.linear(), lambda sigma: sigma),
    "edm": (AffineSchedule.edm(t_max=200.0), lambda sigma: sigma),
}


def missing() -> str | None:
    """Why the comparison cannot run, or ``None``."""
    try:
        version = importlib.metadata.version(PEER)
    except importlib.metadata.PackageNotFoundError:
        return f"{PEER} is not installed (pip install 'mathcore[peers]')"
    return None if version else f"{PEER} has no version"


def scheduler(name: str, options: dict[str, Any], prediction: str = "noise") -> Any:
    """A scheduler of diffusers, silent about what it deprecates."""
    import diffusers

    diffusers.utils.logging.set_verbosity(logging.ERROR)
    kind = {} if "prediction_type" in options else {"prediction_type": PREDICTIONS[prediction]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, name)(**COMMON, **kind, **options)


@dataclass(frozen=True)
class Prepared:
    """A scheduler with its timesteps set: ``levels`` are sigma / alpha where it calls the model, ``nodes`` those of its grid, in float64."""

    scheduler: Any
    levels: torch.Tensor
    nodes: torch.Tensor


def prepare(peer: Any, n: int) -> Prepared:
    """Set ``n`` timesteps and read the noise levels back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.set_timesteps(n)
    if not hasattr(peer, "sigmas"):  # DDIM: tables of alpha_bar, the previous timestep by subtraction
        stride = peer.config.num_train_timesteps // n
        before = [t - stride for t in peer.timesteps.tolist()]
        bars = [peer.alphas_cumprod[t] for t in peer.timesteps]
        ends = [peer.alphas_cumprod[t] if t >= 0 else peer.final_alpha_cumprod for t in before]
        bars, ends = (torch.stack([torch.as_tensor(v) for v in values]).double() for values in (bars, ends))
        levels, after = ((1 - v).div(v).sqrt() for v in (bars, ends))
        return Prepared(peer, levels, torch.cat([levels, after[-1:]]))
    peer.set_begin_index(0)
    sigmas = peer.sigmas.double()
    levels = sigmas[: len(peer.timesteps)].clone()
    if hasattr(peer, "sigmas_interpol"):
        levels[1::2] = peer.sigmas_interpol.double()[: len(levels)][1::2]
    # two-stage methods list their nodes twice, and some grids end on one node twice, equal to a rounding
    nodes = sigmas[torch.cat([torch.tensor([True]), sigmas[1:] < (1 - 1e-6) * sigmas[:-1]])]
    return Prepared(peer, levels, nodes)


def follow(
    prepared: Prepared,
    model: Callable[..., torch.Tensor],
    time: Callable,
    x: torch.Tensor,
    noise: Any = None,
    last: int | None = None,
    **step: Any,
) -> list[torch.Tensor]:
    """The states after each step; ``model(x, t)`` is evaluated at ``time`` of the scheduler's own noise levels, ``last`` steps of them; ``step`` goes to the scheduler."""
    states, extra = [], dict(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, t in enumerate(prepared.scheduler.timesteps[:last]):
            if noise is not None:
                extra["variance_noise"] = noise[k]
            x = prepared.scheduler.step(model(x, float(time(prepared.levels[k]))), t, x, return_dict=False, **extra)[0]
            states.append(x)
    return states


@dataclass(frozen=True)
class Pair:
    """One line of the correspondence: a call of the library and a configuration of diffusers that should make the same steps."""

    formula: str
    ours: tuple[str, dict[str, Any]]
    theirs: tuple[str, dict[str, Any]]
    tol: float
    steps: int = 12
    prediction: str = "noise"
    space: str = "vp"
    stochastic: bool = False
    cut: int = 0
    """Nodes at the end of the grid that the library's table leaves out (a duplicated one, or a last step to sigma = 0 it has no formula for)."""
    every: int = 1
    """The library's grid takes every second node where the others are its intermediate ones."""
    step: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the scheduler's ``step``."""
    own: bool = False
    """Whether the left side is built in the benchmark, the library having another method of that name."""

    def table(self, schedule: AffineSchedule, times: torch.Tensor) -> SolverTable:
        """The left side on a grid."""
        name, options = self.ours
        make = getattr(_variants if self.own else solvers, name)
        return make(schedule, times[: len(times) - self.cut : self.every], self.prediction, **options)

    @property
    def texts(self) -> tuple[str, str]:
        """Both sides as they would be called."""
        return _call(*self.ours), _call(*self.theirs)


def _call(name: str, options: dict[str, Any]) -> str:
    short = {k: f"list(range({len(v)}))" if isinstance(v, list) else repr(v) for k, v in options.items()}
    return f"{name}({', '.join(f'{k}={v}' for k, v in short.items())})"


def differences(pair: Pair, seed: int = 0) -> list[float]:
    """Largest difference over four points after each step of both, relative to sqrt(alpha^2 + sigma^2) of what is stepped."""
    prepared = prepare(scheduler(*pair.theirs, pair.prediction), pair.steps)
    schedule, time = SPACES[pair.space]
    times = time(prepared.nodes)
    model = Exact1D(examples.solver_mixture(), schedule, pair.prediction)
    x = torch.tensor(STARTS, dtype=torch.float64)[:, None] * _size(schedule, float(times[0]))
    z = torch.randn(pair.steps, 4, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) if pair.stochastic else None
    table, ours = pair.table(schedule, times), list[torch.Tensor]()
    table.run(model, x, callback=lambda k, x: ours.append(x), noise=(lambda k: z[k]) if z is not None else None)
    theirs = follow(prepared, model, time, x, z, **pair.step)
    return [float((a - b).abs().max()) / _size(schedule, row.t_next) for row, a, b in zip(table.steps, ours, theirs, strict=False)]


def _size(schedule: AffineSchedule, t: float) -> float:
    return float(torch.hypot(schedule.alpha(t), schedule.sigma(t)))


def threshold_difference(seed: int = 0) -> float:
    """Dynamic thresholding of one batch of clean predictions, some far outside [-1, 1]: largest difference."""
    from mathcore.guidance import dynamic_threshold

    clean = 2 * torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    clean[0] = clean[0].clamp(-1, 1)
    ours = dynamic_threshold(lambda x, t: clean, SPACES["vp"][0], "clean")(clean, 0.5)
    theirs = scheduler("DDPMScheduler", {"thresholding": True, "sample_max_value": 100.0})._threshold_sample(clean.clone())
    return float((ours - theirs).abs().max())
