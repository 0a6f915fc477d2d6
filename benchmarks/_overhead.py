"""What a step costs beside the model: the library's loop, the same method in diffusers, and one fused multiply-add of that shape."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._peers import scheduler
from mathcore import solvers
from mathcore.schedules import AffineSchedule

SHAPES = {(64, 2): 10.0, (64, 1, 28, 28): 6.0}
"""Shapes of a batch, with how many times less than diffusers a step may cost."""

FUSED = 3.0
"""How many fused multiply-adds a step of a method with at most one old output may cost."""

VP = AffineSchedule.vp()
KEEP = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
METHODS: dict[str, tuple[Callable[..., Any], str, tuple[str, dict[str, Any]], bool]] = {
    # name: library, what the model predicts, diffusers, whether one old output is all it keeps
    "DDIM": (lambda t, p: solvers.ddim(VP, t, p), "noise", ("DDIMScheduler", {"clip_sample": False}), True),
    "2M": (lambda t, p: solvers.dpm_solver_pp(VP, t, p), "clean", ("DPMSolverMultistepScheduler", KEEP), True),
    "2M, noise model": (lambda t, p: solvers.dpm_solver_pp(VP, t, p), "noise", ("DPMSolverMultistepScheduler", KEEP), True),
    "DEIS-2": (
        lambda t, p: solvers.deis(VP, t, p, order=2, variable="log_rho"),
        "noise",
        ("DEISMultistepScheduler", {"lower_order_final": False}),
        True,
    ),
    "UniPC-2": (lambda t, p: solvers.unipc(VP, t, p), "clean", ("UniPCMultistepScheduler", KEEP), False),
    "UniPC-2, noise model": (lambda t, p: solvers.unipc(VP, t, p), "noise", ("UniPCMultistepScheduler", KEEP), False),
}


def _model(x: torch.Tensor, t: Any) -> torch.Tensor:
    return x


def _peer_loop(peer: Any, x: torch.Tensor) -> None:
    for t in peer.timesteps:
        x = peer.step(_model(x, t), t, x, return_dict=False)[0]


def _fused(x: torch.Tensor, n: int) -> None:
    for _ in range(n):
        torch.add(x, x, alpha=0.3)


def measure(shape: tuple[int, ...], steps: tuple[int, int] = (10, 50), repeats: int = 100, seed: int = 0) -> dict[str, Any]:
    """Microseconds of processor time of every contender (its own, so that other work on the machine does not count): all of them in turn, ``repeats`` times twice, and the least of each.

    Per step: the difference of a long and a short run over the difference of their lengths. Per run: what a run costs beside its steps.
    """
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    setup: dict[tuple[str, int], Callable[[], object]] = {}
    for n in steps:
        times = solvers.grids.uniform_lambda(VP, n)
        runs["fused", n] = lambda n=n: _fused(x, n)
        for name, (make, prediction, (peer_name, options), _) in METHODS.items():
            table, peer = make(times, prediction), scheduler(peer_name, options, prediction)
            runs[f"ours {name}", n] = lambda table=table: table.run(_model, x)
            setup[f"theirs {name}", n] = lambda peer=peer, n=n: peer.set_timesteps(n)
            runs[f"theirs {name}", n] = lambda peer=peer: _peer_loop(peer, x)
    least = dict.fromkeys(runs, float("inf"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(repeats):
            for key, run in runs.items():
                for _ in range(2):  # the first warms the caches that the contender before has filled with its own
                    setup.get(key, bool)()
                    start = time.thread_time()
                    run()
                    least[key] = min(least[key], time.thread_time() - start)
    short, long = steps
    names = dict.fromkeys(name for name, _ in runs)
    per_step = {name: 1e6 * (least[name, long] - least[name, short]) / (long - short) for name in names}
    per_run = {name: 1e6 * least[name, short] - short * per_step[name] for name in names}
    rows = [_row(name, per_step, per_run) for name in METHODS]
    return {"shape": list(shape), "bound": SHAPES.get(shape), "fused_us": per_step["fused"], "rows": rows}


def _row(name: str, per_step: dict[str, float], per_run: dict[str, float]) -> dict[str, Any]:
    ours, theirs, one = per_step[f"ours {name}"], per_step[f"theirs {name}"], METHODS[name][3]
    return {
        "method": name,
        "ours_us": ours,
        "theirs_us": theirs,
        "ours_run_us": per_run[f"ours {name}"],
        "times_less": theirs / ours,
        "fused": ours / per_step["fused"],
        "fused_bound": FUSED if one else None,
    }
