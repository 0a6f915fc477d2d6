"""Exact score of a large mixture: ours against the broadcast over (points, components, dimensions).

    python -m benchmarks.mixture [--points 4096] [--components 1000] [--dim 64] [--form isotropic] [--device cuda]

Each contender runs in a process of its own, so that the peak resident memory is its own; the two take turns, and the score of the first points is
compared with a float64 evaluation. On a GPU it is the memory that PyTorch took there.
"""

import argparse
import math
import multiprocessing
import resource
import time

import torch

from mathcore.distributions import GaussianMixture


def problem(points: int, components: int, dim: int, form: str, dtype: torch.dtype) -> tuple[GaussianMixture, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shape = {"isotropic": (components,), "diagonal": (components, dim)}[form]
    weights = torch.softmax(torch.randn(components, generator=g, dtype=torch.float64), 0)
    means = 3 + torch.randn(components, dim, generator=g, dtype=torch.float64)
    mixture = GaussianMixture(weights, means, 0.2 + torch.rand(shape, generator=g, dtype=torch.float64))
    x = mixture.sample(points, generator=g).float()  # both see the float32 points
    return mixture.to(dtype=dtype), x.to(dtype)


def naive(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """Per-component broadcasting: every difference, (N, K, D)."""
    variances = mixture.covs if mixture.covs.ndim == 2 else mixture.covs[:, None]
    diff = mixture.means - x[:, None]
    logs = -0.5 * (diff.square() / variances + (2 * math.pi * variances).log()).sum(-1)
    weights = torch.softmax(logs + mixture.weights.log(), dim=1)
    return (weights[..., None] * diff / variances).sum(1)


def ours(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    return mixture.score(x)


def peak() -> float:
    """Highest resident memory of this process so far, in MiB (``ru_maxrss`` is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, size: tuple[int, int, int], form: str, repeats: int, device: str = "cpu") -> dict[str, float]:
    torch.set_num_threads(1)
    gpu = torch.device(device).type == "cuda"
    used = (lambda: torch.cuda.max_memory_allocated() / 2**20) if gpu else peak
    wait = torch.cuda.synchronize if gpu else lambda: None
    fn = {"naive": naive, "ours": ours}[name]
    mixture, x = problem(*size, form, torch.float32)
    mixture, x = mixture.to(device=device), x.to(device)
    fn(mixture, x[:2])
    before = used()
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        score = fn(mixture, x)
        wait()
        seconds.append(time.perf_counter() - start)
    memory = used() - before
    exact = naive(*(p[:16] if isinstance(p, torch.Tensor) else p for p in problem(*size, form, torch.float64)))
    error = float((score[:16].cpu() - exact).abs().max() / exact.abs().max())
    return {"seconds": min(seconds), "mib": memory, "error": error}


def compare(
    points: int = 4096, components: int = 1000, dim: int = 64, form: str = "isotropic", repeats: int = 3, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Measure both contenders, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results = {}
    for name in ("naive", "ours"):
        with context.Pool(1) as pool:
            results[name] = pool.apply(measure, (name, (points, components, dim), form, repeats, device))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--components", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--form", choices=["isotropic", "diagonal"], nargs="+", default=["isotropic", "diagonal"])
    parser.add_argument("--device", default="cpu", help="cpu: on one thread; cuda")
    args = parser.parse_args()
    where = "one thread" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(f"exact mixture score, N={args.points}, K={args.components}, D={args.dim}, float32, {where}, torch {torch.__version__}")
    for form in args.form:
        results = compare(args.points, args.components, args.dim, form, device=args.device)
        for name, r in results.items():
            print(f"  {form:<10} {name:<6} {r['seconds']:8.4f} s   peak +{r['mib']:7.0f} MiB   relative error {r['error']:.1e}")
        ratio = results["naive"]["seconds"] / results["ours"]["seconds"]
        print(f"  {form:<10} ratio  {ratio:8.1f} x   N x K in float32 is {args.points * args.components * 4 / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
