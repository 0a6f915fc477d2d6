"""Where the schedulers of diffusers do not do what their names say, each as errors against an exact answer."""

from dataclasses import replace
from typing import Any

import torch

from benchmarks import _variants
from benchmarks._peers import SPACES, follow, prepare, scheduler
from mathcore import solvers
from mathcore.data import examples
from mathcore.solvers.diagnostics import Problem, convergence_order

VP, TIME = SPACES["vp"]
MULTI, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
UNIFORM = {"use_exponential_sigmas": True, "lower_order_final": False}


def _problem(levels: torch.Tensor) -> Problem:
    times = TIME(levels)
    return Problem(examples.solver_mixture(), VP, t_start=float(times[0]), t_end=float(times[-1]))


def _rms(x: torch.Tensor, problem: Problem) -> float:
    return float((x - problem.exact).square().mean().sqrt())


def _uniform(name: str, options: dict[str, Any], n: int, own_timesteps: bool = False) -> tuple[Problem, torch.Tensor]:
    """A scheduler over n equal steps in lambda (its own last one, of length 0, is left out): the problem it solved, and where it ended."""
    end = {} if name.startswith("DEIS") else {"final_sigmas_type": "sigma_min"}
    prepared = prepare(scheduler(name, {**options, **UNIFORM, **end}), n + 1)
    problem = _problem(prepared.nodes)
    if own_timesteps:
        bar = prepared.scheduler.alphas_cumprod.double()[prepared.scheduler.timesteps]
        prepared = replace(prepared, levels=((1 - bar) / bar).sqrt())
    return problem, follow(prepared, problem.model(), TIME, problem.x_T, last=n)[-1]


def third_order(counts: tuple[int, ...] = (20, 40, 80, 160, 320, 640), fitted: slice = slice(2, 5)) -> dict[str, Any]:
    """The multistep scheduler of order 3, the same formula in double precision, and the formula with its factor 2.

    Orders are fitted to some of the counts, above what single precision leaves of the first curve.
    """
    curves: dict[str, list[float]] = {"diffusers": [], "its formula in float64": [], "with the factor 2": []}
    for n in counts:
        problem, end = _uniform(MULTI, {"solver_order": 3}, n)
        times = problem.grid(n)
        curves["diffusers"].append(_rms(end, problem))
        curves["its formula in float64"].append(problem.error(_variants.multistep(VP, times, "noise")))
        curves["with the factor 2"].append(problem.error(solvers.dpm_solver_pp(VP, times, order=3)))
    return {
        "counts": list(counts),
        "errors": curves,
        "orders": {k: convergence_order(counts[fitted], v[fitted]) for k, v in curves.items()},
        "fitted": list(counts[fitted]),
    }


def stall(counts: tuple[int, ...] = (20, 40, 80, 160, 320, 640, 1280)) -> dict[str, Any]:
    """High orders on equal steps in lambda: single-precision tables against the library's double-precision ones.

    Diffusers calls its model at whole timesteps; its curves give the exact prediction at the noise level the step assumes, and in the last one at the
    noise level of the timestep instead, which is what a network indexed by timesteps sees.
    """
    ours = {
        "UniPC-3": lambda t: solvers.unipc(VP, t, order=3),
        "UniPC-3 on the noise": lambda t: solvers.unipc(VP, t, order=3, form="noise"),
        "DEIS-3": lambda t: solvers.deis(VP, t, order=3, variable="log_rho"),
    }
    theirs = {
        "UniPC-3": (UNIPC, {"solver_order": 3}),
        "UniPC-3 on the noise": (UNIPC, {"solver_order": 3, "predict_x0": False}),
        "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3, "solver_type": "logrho"}),
    }
    errors: dict[str, list[float]] = {f"{name}, {side}": [] for name in ours for side in ("diffusers", "mathcore")}
    errors["UniPC-3, diffusers, at its timesteps"] = []
    for n in counts:
        for name, make in ours.items():
            problem, end = _uniform(*theirs[name], n)
            errors[f"{name}, diffusers"].append(_rms(end, problem))
            errors[f"{name}, mathcore"].append(problem.error(make(problem.grid(n))))
        errors["UniPC-3, diffusers, at its timesteps"].append(_rms(_uniform(*theirs["UniPC-3"], n, own_timesteps=True)[1], problem))
    return {"counts": list(counts), "errors": errors}


def previous_timestep(
    spacings: tuple[str, ...] = ("linspace", "trailing"), counts: tuple[int, ...] = (10, 15, 20, 30, 50, 60, 70, 100, 150, 300, 600)
) -> list[dict[str, Any]]:
    """DDIM's scheduler steps to t - floor(1000 / n), whatever timestep it visits next: where the two differ the next call sees a state of another time."""
    rows = []
    for spacing in spacings:
        for n in counts:
            options = {"clip_sample": False, "timestep_spacing": spacing}
            prepared = prepare(scheduler("DDIMScheduler", options), n)
            visited = prepared.scheduler.timesteps.tolist()
            arrived = [t - 1000 // n for t in visited]
            nodes = torch.cat([prepared.levels, torch.zeros(1, dtype=torch.float64)])  # where it calls the model, then the data
            problem = _problem(nodes)
            end = follow(prepared, problem.model(), TIME, problem.x_T)[-1]
            rows.append(
                {
                    "spacing": spacing,
                    "n": n,
                    "timesteps": visited[:3],
                    "arrives_at": arrived[:2],
                    "mismatches": sum(a != b for a, b in zip(arrived, visited[1:], strict=False)),
                    "diffusers": _rms(end, problem),
                    "mathcore": problem.error(solvers.ddim(VP, TIME(nodes))),
                }
            )
    return rows
