"""ParaDiGMS beside the sequential sampler: how many batched calls one after the other, and how many evaluations in all."""

from typing import Any

import torch

from mathcore.data import examples
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ddim, dpm_solver_pp, grids
from mathcore.solvers.paradigms import paradigms

VP = AffineSchedule.vp()
METHODS = {
    # table on a grid, and the scale whose increments the iteration sums
    "DDIM": (lambda t: ddim(VP, t), VP.alpha),
    "2M": (lambda t: dpm_solver_pp(VP, t), VP.sigma),
}


def compare(
    steps: tuple[int, ...] = (100, 400),
    windows: tuple[int | None, ...] = (8, 32, 128, None),
    tols: tuple[float, ...] = (1e-2, 1e-4, 1e-6, 0.0),
    samples: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Parallel depth and total evaluations per sample, and the distance to what the same table makes step by step."""
    oracle = AffineGaussianOracle(examples.ring(), VP)
    x_T = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = []
    for n in steps:
        times = grids.uniform_t(VP, n)
        for name, (make, scale) in METHODS.items():
            table = make(times)
            want = table.run(oracle.noise, x_T)
            for window in windows:
                if window is not None and window > n:
                    continue
                for tol in tols:
                    result = paradigms(table, window, tol**2, scale=scale(times)).run(oracle.noise, x_T)
                    rows.append(
                        {
                            "method": name,
                            "steps": n,
                            "window": window,
                            "tol": tol,
                            "depth": result.iterations,
                            "evaluations": result.evaluations,
                            "distance": float((result.x - want).square().mean().sqrt()),
                        }
                    )
    return {"samples": samples, "rows": rows}
