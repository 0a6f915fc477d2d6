"""Flow-matching losses and optimal pairing of a batch, beside torchcfm doing the same job.

    python -m benchmarks.flows [--repeats 15]

torchcfm is in no lock of this project; install it by hand, ``pip install --no-deps torchcfm``.

| row | ours | torchcfm |
| loss | ``cfm_loss`` and its gradient | ``sample_location_and_conditional_flow``, the squared error of the same network, and its gradient |
| pairing | ``minibatch_ot_pairs`` | ``OTPlanSampler("exact").sample_plan``: POT's network simplex, then draws from the plan with replacement |

Both sides of a row run in turns in one process with one thread; a row counts the fastest of its turns, in processor time (a shared machine says little else). Bound to hold: 1024 points are paired at least
twice as fast. Both pairings are exact: the mean squared distance is that of the optimal plan, which is reported for both; what torchcfm draws from it
leaves about 1/e of the points out.
"""

import argparse
import importlib.metadata
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks._report import save, table
from mathcore.data import examples
from mathcore.flows import cfm_loss, minibatch_ot_pairs
from mathcore.interpolation import Interpolation
from mathcore.networks import TimeMLP

RATIO = 2.0
PAIRS = 1024
Result = dict[str, float]


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> Result:
    """Fastest of ``repeats`` turns of each, in milliseconds of processor time."""
    best = [float("inf"), float("inf")]
    for fn in (ours, theirs):
        fn()
    for _ in range(repeats):
        for i, fn in enumerate((ours, theirs)):
            start = time.process_time()
            fn()
            best[i] = min(best[i], 1e3 * (time.process_time() - start))
    return {"ours, ms": best[0], "torchcfm, ms": best[1], "torchcfm / ours": best[1] / best[0]}


def batch(kind: str, n: int) -> tuple[Tensor, Tensor]:
    """A batch of normal noise and one of data, float32."""
    g = torch.Generator().manual_seed(0)
    if kind == "ring":
        return torch.randn(n, 2, generator=g), examples.ring().to(dtype=torch.float32).sample(n, generator=g)
    if kind == "normal":
        return torch.randn(n, 2, generator=g), 1 + torch.randn(n, 2, generator=g)
    return torch.randn(n, 1, 8, 8, generator=g), torch.rand(n, 1, 8, 8, generator=g) * 2 - 1  # images


def loss(kind: str, n: int, repeats: int) -> Result:
    """A training loss and its gradient, the optimiser left out; ``bare``: a network that does nothing, so that what is left is the path."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    torch.set_num_threads(1)
    x0, x1 = batch(kind.removeprefix("bare "), n)
    path, matcher = Interpolation.linear(), ConditionalFlowMatcher(sigma=0.0)
    scale = torch.ones((), requires_grad=True)
    network = TimeMLP(x0[0].numel())
    model = (lambda x, t: scale * x) if kind.startswith("bare") else lambda x, t: network(x.flatten(1), t).reshape(x.shape)
    parameters = [scale] if kind.startswith("bare") else list(network.parameters())

    def ours() -> None:
        torch.autograd.grad(cfm_loss(model, x0, x1, None, path), parameters)

    def theirs() -> None:
        t, x_t, target = matcher.sample_location_and_conditional_flow(x0, x1)
        torch.autograd.grad((model(x_t, t) - target).square().flatten(1).sum(1).mean(), parameters)

    return in_turns(ours, theirs, 20 * repeats)


def pairing(kind: str, n: int, repeats: int) -> Result:
    """Optimal pairs of two batches."""
    from torchcfm.optimal_transport import OTPlanSampler

    torch.set_num_threads(1)
    x0, x1 = batch(kind, n)
    sampler = OTPlanSampler("exact")
    out = in_turns(lambda: minibatch_ot_pairs(x0, x1), lambda: sampler.sample_plan(x0, x1), repeats)
    squares = torch.cdist(x0.double().flatten(1), x1.double().flatten(1)).square()
    left, right = minibatch_ot_pairs(x0, x1)
    out["cost, ours"] = float((left.double() - right.double()).flatten(1).square().sum(1).mean())
    out["cost, plan"] = float((torch.as_tensor(sampler.get_map(x0, x1)) * squares).sum())
    return out


JOBS: dict[str, tuple[Callable[..., Result], str, int]] = {
    "loss, path alone, 512 points": (loss, "bare ring", 512),
    "loss, path alone, 256 images": (loss, "bare images", 256),
    "loss, network, 512 points": (loss, "ring", 512),
    "pairing, normal to normal": (pairing, "normal", PAIRS),
    "pairing, normal to ring": (pairing, "ring", PAIRS),
    "pairing, 8 x 8 images": (pairing, "images", PAIRS),
}


def compare(repeats: int) -> dict[str, Result]:
    """Measure every row, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    results: dict[str, Result] = {}
    for label, (fn, kind, n) in JOBS.items():
        with context.Pool(1) as pool:
            results[label] = pool.apply(fn, (kind, n, repeats))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    try:
        version = importlib.metadata.version("torchcfm")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("benchmarks.flows compares with torchcfm, which is in no lock: pip install --no-deps torchcfm") from None
    torch.set_num_threads(1)
    results = compare(args.repeats)
    columns = ["ours, ms", "torchcfm, ms", "torchcfm / ours", "cost, ours", "cost, plan"]
    print(f"one thread, torch {torch.__version__}, torchcfm {version}")
    table(["row", *columns], [[label, *(f"{row[c]:.4g}" if c in row else None for c in columns)] for label, row in results.items()])
    for label, row in results.items():
        if label.startswith("pairing"):
            ratio = row["torchcfm / ours"]
            print(f"  {label}: {ratio:.1f} times as fast, bound {RATIO:.0f}: {'holds' if ratio >= RATIO else 'FAILS'}")
    save("flows", {"torchcfm": version, **results}, f"python -m benchmarks.flows --repeats {args.repeats}", seed=0)


if __name__ == "__main__":
    main()
