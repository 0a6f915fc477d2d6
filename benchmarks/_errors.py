"""Error against the number of model calls, on exact predictions: every method and grid of the library, and the schedulers of diffusers.

Both start from the same points at the largest noise level of diffusers' tables and are compared with the exact flow to where they end. Both are given
the exact prediction at the very noise level their step assumes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks._peers import SPACES, follow, prepare, scheduler
from mathcore import solvers
from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers import SolverTable, grids
from mathcore.solvers.diagnostics import Exact1D

CALLS = (5, 6, 8, 10, 12, 15, 20, 30, 50, 75, 100)
CONTINUOUS = AffineSchedule.vp(t_max=1.01)  # the tables' largest noise level lies a little beyond t = 1
Make = Callable[[AffineSchedule, torch.Tensor], SolverTable]


def laws(seed: int = 0) -> dict[str, GaussianMixture]:
    """The targets: the solvers' mixture on the line, the ring in the plane, and sixteen round modes at random places in 64 dimensions."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.softmax(torch.randn(16, generator=g, dtype=torch.float64), 0)
    means = torch.randn(16, 64, generator=g, dtype=torch.float64)
    spread = 0.05 + 0.2 * torch.rand(16, generator=g, dtype=torch.float64)
    return {"1-D": examples.solver_mixture(), "2-D": examples.ring(), "64-D": GaussianMixture(weights, means, spread**2)}


# --- ours -----------------------------------------------------------------------------------------------------------------------------

SPACINGS = {"uniform_t": grids.uniform_t, "quadratic_t": grids.quadratic_t, "uniform_lambda": grids.uniform_lambda, "karras": grids.karras}
METHODS: dict[str, tuple[int, Make]] = {
    # name: calls per step, table
    "ddim": (1, solvers.ddim),
    **{
        f"deis({o}, {v})": (1, lambda s, t, o=o, v=v: solvers.deis(s, t, order=o, variable=v))
        for o in (2, 3, 4)
        for v in ("t", "rho", "log_rho")
    },
    **{f"dpm_solver({o}S)": (o, lambda s, t, o=o: solvers.dpm_solver(s, t, order=o)) for o in (2, 3)},
    **{f"dpm_solver_pp({o}S)": (o, lambda s, t, o=o: solvers.dpm_solver_pp(s, t, order=o, multistep=False)) for o in (2, 3)},
    **{f"dpm_solver({o}M)": (1, lambda s, t, o=o: solvers.dpm_solver(s, t, order=o, multistep=True)) for o in (2, 3)},
    **{f"dpm_solver_pp({o}M)": (1, lambda s, t, o=o: solvers.dpm_solver_pp(s, t, order=o)) for o in (2, 3)},
    **{
        f"unipc({o}, {v}, {f})": (1, lambda s, t, o=o, v=v, f=f: solvers.unipc(s, t, order=o, variant=v, form=f))
        for o in (2, 3)
        for v in ("bh1", "bh2")
        for f in ("clean", "noise")
    },
    "heun in rho": (2, lambda s, t: solvers.heun(s, t, clock="rho", scale="alpha")),
}

# --- theirs ------------------------------------------------------------------------------------------------------------------------------

MULTI, SINGLE, UNIPC, DEIS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
KEEP = {"lower_order_final": False}
END = {"final_sigmas_type": "sigma_min"}
PLACES: dict[str, dict[str, Any]] = {
    "linspace": {},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"DPM++ {o}M {t}": (MULTI, {"solver_order": o, "solver_type": t, **KEEP, **END})
        for o, t in ((2, "midpoint"), (2, "heun"), (3, "midpoint"))
    },
    **{f"DPM {o}M": (MULTI, {"solver_order": o, "algorithm_type": "dpmsolver", **KEEP, **END}) for o in (2, 3)},
    **{f"DPM++ {o}S": (SINGLE, {"solver_order": o, "lower_order_final": True, **END}) for o in (2, 3)},
    **{
        f"UniPC-{o} {v}{name}": (UNIPC, {"solver_order": o, "solver_type": v, "predict_x0": x0, **KEEP, **END})
        for x0, name in ((True, ""), (False, " noise"))
        for o in (2, 3)
        for v in ("bh1", "bh2")
    },
    **{f"DEIS-{o}": (DEIS, {"solver_order": o, **KEEP}) for o in (2, 3)},
}
ROOTED: dict[str, tuple[str, int, dict[str, Any]]] = {
    # these step x / alpha on n nodes and then to sigma = 0, a step that is left out: scheduler, calls per step, arguments of step
    **{f"LMS-{o}": ("LMSDiscreteScheduler", 1, {"order": o}) for o in (2, 3, 4)},
    "Heun": ("HeunDiscreteScheduler", 2, {}),
    "KDPM2": ("KDPM2DiscreteScheduler", 2, {}),
}


@dataclass
class Setting:
    """A law with start points at the largest noise level, where the exact flow takes them, and models in the time of a schedule."""

    data: GaussianMixture
    x: torch.Tensor
    exact: torch.Tensor
    first: float
    last: float

    def model(self, schedule: AffineSchedule) -> Callable[..., torch.Tensor]:
        """The exact noise prediction."""
        return Exact1D(self.data, schedule) if self.data.dim == 1 else AffineGaussianOracle(self.data, schedule).noise


def setting(data: GaussianMixture, points: int, seed: int = 0) -> Setting:
    """Start points from the prior, and their exact images (by cumulative distributions on the line, an adaptive integrator elsewhere)."""
    prepared = prepare(scheduler(MULTI, END), 10)
    schedule, time = SPACES["vp"]
    first, last = (float(time(prepared.nodes[i])) for i in (0, -1))
    x = torch.randn(points, data.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Setting(data, x, AffineGaussianOracle(data, schedule).flow_map(x, first, last), first, last)


def ours(case: Setting, calls: tuple[int, ...] = CALLS) -> dict[str, list[float | None]]:
    """RMS error of every method on every grid; ``None`` where the number of calls fits no number of steps."""
    trig, model = SPACES["vp"][0], case.model(CONTINUOUS)
    first, last = (float(CONTINUOUS.inverse_half_log_snr(trig.half_log_snr(t))) for t in (case.first, case.last))
    curves: dict[str, list[float | None]] = {}
    for spacing, grid in SPACINGS.items():
        for name, (per_step, make) in METHODS.items():
            errors: list[float | None] = []
            for n in calls:
                if n % per_step or n // per_step < 4:
                    errors.append(None)
                    continue
                table = make(CONTINUOUS, grid(CONTINUOUS, n // per_step, t_start=first, t_end=last))
                errors.append(_rms(table.run(model, case.x), case))
            curves[f"{name}, {spacing}"] = errors
    return curves


def theirs(case: Setting, calls: tuple[int, ...] = CALLS) -> dict[str, list[float | None]]:
    """RMS error of every scheduler on every grid; a duplicated last node, where the grid has one, is left out."""
    schedule, time = SPACES["vp"]
    model = case.model(schedule)
    curves: dict[str, list[float | None]] = {}
    for place, options in PLACES.items():
        for name, (kind, settings) in SCHEDULERS.items():
            if kind == SINGLE and place == "trailing":
                continue  # it has one spacing only
            extra = 1 if place in ("karras", "exponential") else 0
            errors: list[float | None] = []
            for n in calls:
                prepared = prepare(scheduler(kind, {**settings, **options}), n + extra)
                end = follow(prepared, model, time, case.x, last=n)[-1]
                errors.append(_rms(end, case))
            curves[f"{name}, {place}"] = errors
    return curves | _rooted(case, calls)


def _rooted(case: Setting, calls: tuple[int, ...]) -> dict[str, list[float | None]]:
    """The schedulers that step x / alpha. With ``trailing`` they have no node at the smallest noise level, so it does not occur."""
    (trig, angle), (edm, time) = SPACES["vp"], SPACES["edm"]
    model, start = case.model(edm), case.x / trig.alpha(case.first)
    curves: dict[str, list[float | None]] = {}
    for place in ("linspace", "karras", "exponential"):
        for name, (kind, per_step, arguments) in ROOTED.items():
            errors: list[float | None] = []
            for n in calls:
                if n % per_step:
                    errors.append(None)
                    continue
                prepared = prepare(scheduler(kind, PLACES[place]), n // per_step + 1)
                ends = [float(angle(prepared.nodes[k])) for k in (0, n // per_step)]
                if max(abs(a - b) for a, b in zip(ends, (case.first, case.last), strict=True)) > 1e-6:
                    raise RuntimeError(f"{kind} on {place} runs from {ends[0]} to {ends[1]}")
                end = follow(prepared, model, time, start, last=n, **arguments)[-1]
                errors.append(_rms(end * trig.alpha(case.last), case))
            curves[f"{name}, {place}"] = errors
    return curves


def best(curves: dict[str, list[float | None]], k: int) -> tuple[str, float]:
    """The smallest error at the k-th number of calls, and whose it is."""
    error, name = min((errors[k], name) for name, errors in curves.items() if errors[k] is not None)
    return name, error


def shared(curves: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Those of the library's curves that are on a grid which diffusers has too."""
    return {name: errors for name, errors in curves.items() if not name.endswith("quadratic_t")}


def compare(calls: tuple[int, ...] = CALLS, points: int = 128, seed: int = 0) -> dict[str, Any]:
    """Every curve, for every law."""
    out: dict[str, Any] = {"calls": list(calls), "points": points, "laws": {}}
    for name, data in laws(seed).items():
        case = setting(data, points, seed)
        out["laws"][name] = {"mathcore": ours(case, calls), "diffusers": theirs(case, calls)}
    return out


def _rms(x: torch.Tensor, case: Setting) -> float | None:
    error = float((x.double() - case.exact).square().mean().sqrt())
    return error if error == error else None
