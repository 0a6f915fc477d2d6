"""Exact likelihoods along the probability-flow ODE, and paths of the reverse SDE, beside torchdiffeq and torchsde doing the same job.

    python -m benchmarks.dynamics [--points 10000] [--paths 100000] [--steps 200]

The data are the ring of eight modes in the plane under the VP schedule, with the exact score, from which the velocity f x - g^2 score / 2 is formed; both
sides call the same functions, so that what differs is the machinery around them. Each contender runs in a process of its own with one thread. Bounds to hold: 10,000 likelihoods in 5 s, 100,000
paths of 200 steps in 10 s.

All is in float32, because the accuracy allows it: "against float64" is the root mean square difference to the same computation, noise included, in
float64, on a thousand points. It is below the error of the method, which is the other column: the difference to the exact log-density, and to the exact
mean radius.
"""

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mathcore.data import examples
from mathcore.dynamics import divergence, forward_sde, integrate_sde, log_likelihood_ode, probability_flow, reverse_sde
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

SCHEDULE = AffineSchedule.vp()
LIKELIHOOD_STEPS = 40
LIKELIHOOD_SECONDS, PATH_SECONDS = 5.0, 10.0
Result = dict[str, float]


def oracle(dtype: torch.dtype) -> AffineGaussianOracle:
    return AffineGaussianOracle(examples.ring().to(dtype=dtype), SCHEDULE)


def timed(fn: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    out = fn()
    return out, time.perf_counter() - start


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.double().square().mean()))


# --- likelihood ------------------------------------------------------------------------------------------------------------------------------


def likelihood(name: str, points: int) -> Result:
    """Log-densities of samples of the data at t = 0, by RK4 with steps that shrink towards the data."""
    torch.set_num_threads(1)
    x = oracle(torch.float64).data.sample(points, generator=torch.Generator().manual_seed(0))
    truth = oracle(torch.float64).log_prob(x, 0.0)
    ts = torch.linspace(0, 1, LIKELIHOOD_STEPS + 1, dtype=torch.float64) ** 2.5
    run = {"ours": _ours, "ours, closed-form divergence": _closed, "torchdiffeq": _torchdiffeq}[name]
    exact = oracle(torch.float32)
    run(exact, x[:4].float(), ts[:3])
    got, seconds = timed(lambda: run(exact, x.float(), ts))
    error = (got - truth).abs()
    rounding = got[:1000] - run(oracle(torch.float64), x[:1000], ts)
    return {"seconds": seconds, "mean error": float(error.mean()), "max error": float(error.max()), "against float64": rms(rounding)}


def velocity(exact: AffineGaussianOracle) -> Callable[[Tensor, Any], Tensor]:
    return probability_flow(forward_sde(SCHEDULE), exact.score)


def _ours(exact: AffineGaussianOracle, x: Tensor, ts: Tensor) -> Tensor:
    return log_likelihood_ode(velocity(exact), lambda z: exact.log_prob(z, ts[-1]), x, ts)


def _closed(exact: AffineGaussianOracle, x: Tensor, ts: Tensor) -> Tensor:
    return log_likelihood_ode(velocity(exact), lambda z: exact.log_prob(z, ts[-1]), x, ts, divergence=exact.divergence)


def _torchdiffeq(exact: AffineGaussianOracle, x: Tensor, ts: Tensor) -> Tensor:
    """The pair (x, delta) through ``odeint`` with its fixed-grid rk4 (the 3/8 rule), which has four stages too."""
    from torchdiffeq import odeint

    v = velocity(exact)

    def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return v(state[0], float(t)), divergence(lambda y: v(y, float(t)), state[0])

    end, delta = odeint(rate, (x, x.new_zeros(len(x))), ts, method="rk4")
    return exact.log_prob(end[-1], ts[-1]) + delta[-1]


# --- paths -----------------------------------------------------------------------------------------------------------------------------------


def paths(name: str, n: int, steps: int) -> Result:
    """Samples of the reverse SDE from noise, ``steps`` equal steps of Euler-Maruyama; what they say about the radius against the exact mean."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(1)
    exact = oracle(torch.float32)
    x = torch.randn(n, 2, generator=g)
    ts = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64)
    run = {"ours": _reverse, "torchsde": _torchsde}[name]
    run(exact, x[:4], ts[:3], None)
    end, seconds = timed(lambda: run(exact, x, ts, g))
    radius = end.double().norm(dim=1)
    truth = exact.marginal(1e-3).sample(400_000, generator=g).double().norm(dim=1).mean()
    out = {"seconds": seconds, "microseconds per path": 1e6 * seconds / n, "mean radius - exact": float(radius.mean() - truth)}
    if name == "ours":
        out["against float64"] = rounding(min(n, 1000), steps)
    return out


def _reverse(exact: AffineGaussianOracle, x: Tensor, ts: Tensor, g: torch.Generator | None) -> Tensor:
    return integrate_sde(reverse_sde(forward_sde(SCHEDULE), exact.score), x, ts, generator=g)


def _torchsde(exact: AffineGaussianOracle, x: Tensor, ts: Tensor, g: torch.Generator | None) -> Tensor:
    """The same equation on the clock 1 - t, which torchsde needs to increase, with its own Brownian motion."""
    from torchsde import BrownianInterval, sdeint

    backward = reverse_sde(forward_sde(SCHEDULE), exact.score)

    class Reversed(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, s: Tensor, y: Tensor) -> Tensor:
            return -backward.drift(y, 1.0 - float(s))

        def g(self, s: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, float(backward.diffusion(1.0 - float(s))))

    clock = 1.0 - ts
    motion = BrownianInterval(float(clock[0]), float(clock[-1]), size=x.shape, dtype=x.dtype)
    dt = float(clock[-1] - clock[0]) / (len(ts) - 1)
    with torch.no_grad():
        return sdeint(Reversed(), x, clock[[0, -1]], bm=motion, method="euler", dt=dt)[-1]


def rounding(n: int, steps: int) -> float:
    """Root mean square difference between the ends of the float32 and float64 runs with the same start and noise."""
    g = torch.Generator().manual_seed(2)
    x, noise = torch.randn(n, 2, generator=g), torch.randn(steps, n, 2, generator=g)
    ts = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64)
    ends = []
    for dtype in (torch.float32, torch.float64):
        sde = reverse_sde(forward_sde(SCHEDULE), oracle(dtype).score)
        ends.append(integrate_sde(sde, x.to(dtype), ts, noise=noise.to(dtype)).double())
    return rms(ends[0] - ends[1])


def compare(points: int = 10_000, n_paths: int = 100_000, steps: int = 200, peer_paths: int = 10_000) -> dict[str, Result]:
    """Measure everybody, each in a fresh process; torchsde on fewer paths, since its time per path is what is compared."""
    jobs: dict[str, tuple[Callable[..., Result], tuple[Any, ...]]] = {
        "likelihood, ours": (likelihood, ("ours", points)),
        "likelihood, ours, closed-form divergence": (likelihood, ("ours, closed-form divergence", points)),
        "likelihood, torchdiffeq": (likelihood, ("torchdiffeq", points)),
        "paths, ours": (paths, ("ours", n_paths, steps)),
        "paths, torchsde": (paths, ("torchsde", peer_paths, steps)),
    }
    context = multiprocessing.get_context("spawn")
    results: dict[str, Result] = {}
    for label, (fn, args) in jobs.items():
        with context.Pool(1) as pool:
            try:
                results[label] = pool.apply(fn, args)
            except ImportError as error:
                print(f"  {label}: left out, {error}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    print(f"{args.points} likelihoods, {args.paths} paths of {args.steps} steps (torchsde: 10,000), one thread, torch {torch.__version__}")
    results = compare(args.points, args.paths, args.steps)
    for label, result in results.items():
        print(f"  {label:<42}" + "  ".join(f"{key} {value:.3g}" for key, value in result.items()))
    for label, bound in (("likelihood, ours", LIKELIHOOD_SECONDS), ("paths, ours", PATH_SECONDS)):
        seconds = results[label]["seconds"]
        print(f"  {label}: {seconds:.1f} s, bound {bound:.0f} s: {'holds' if seconds < bound else 'FAILS'}")


if __name__ == "__main__":
    main()
