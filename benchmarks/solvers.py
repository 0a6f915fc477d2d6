"""The samplers beside those of diffusers: the same steps, what they cost, and the error for a number of model calls.

    python -m benchmarks.solvers [agreement|overhead|error|parallel|all]

agreement   every pair of the correspondence, step by step on exact predictions, and the places where diffusers does not do what a name says
overhead    the cost of a step beside the model, against diffusers and against one fused multiply-add
error       root mean square error against the number of model calls, on exact mixtures in 1, 2 and 64 dimensions
parallel    ParaDiGMS: batched calls one after the other, and evaluations in all

Each prints its tables and writes benchmarks/results/solvers-*.json with seed, versions, hardware, command and date.
"""

import argparse
import sys
from typing import Any

import torch

from benchmarks import _correspondence, _deviations, _errors, _overhead, _parallel, _peers
from benchmarks._report import save, table

SEED = 1


def _pairs() -> list[dict[str, Any]]:
    rows = []
    for pair in _correspondence.pairs():
        apart, (left, right) = _peers.differences(pair, SEED), pair.texts
        rows.append(_pair(pair.formula, pair.prediction, left, right, len(apart), max(apart), pair.tol))
    threshold = ("dynamic_threshold(model, schedule, 'clean')", "DDPMScheduler(thresholding=True, sample_max_value=100.0)")
    return [*rows, _pair("dynamic thresholding", "clean", *threshold, 1, _peers.threshold_difference(SEED), 1e-14)]


def _pair(formula: str, prediction: str, ours: str, theirs: str, steps: int, largest: float, tol: float) -> dict[str, Any]:
    return {
        "formula": formula,
        "prediction": prediction,
        "ours": ours,
        "theirs": theirs,
        "steps": steps,
        "largest": largest,
        "tol": tol,
    }


def agreement() -> dict[str, Any]:
    rows = _pairs()
    print("\nAgreement: largest difference over all steps and four points, relative to sqrt(alpha^2 + sigma^2)")
    table(
        ["formula", "model", "steps", "largest", "bound", "holds"],
        [[r["formula"], r["prediction"], r["steps"], r["largest"], r["tol"], _yes(r["largest"] <= r["tol"])] for r in rows],
    )
    third, stall, previous = _deviations.third_order(), _deviations.stall(), _deviations.previous_timestep()
    for title, curves in (("Third-order multistep", third), ("Equal steps in lambda, growing numbers of steps", stall)):
        print(f"\n{title}: root mean square error")
        table(["", *curves["counts"]], [[name, *errors] for name, errors in curves["errors"].items()])
    print("measured orders: " + ", ".join(f"{name} {order:.2f}" for name, order in third["orders"].items()))
    print("\nDDIM's scheduler arrives at t - floor(1000 / n) and then calls the model at another timestep: root mean square error")
    keys = ["spacing", "n", "mismatches", "diffusers", "mathcore"]
    table(keys, [[r[k] for k in keys] for r in previous])
    return {"pairs": rows, "third_order": third, "stall": stall, "previous_timestep": previous}


def overhead() -> list[dict[str, Any]]:
    results = [_overhead.measure(shape) for shape in _overhead.SHAPES]
    for r in results:
        print(f"\nCost of a step beside the model, shape {tuple(r['shape'])}; one fused multiply-add: {r['fused_us']:.2f} us")
        table(
            [
                "method",
                "mathcore us",
                "diffusers us",
                "times less",
                f"at least {r['bound']:g}",
                "fused",
                f"at most {_overhead.FUSED:g}",
                "per run us",
            ],
            [
                [
                    q["method"],
                    *(f"{q[k]:.2f}" for k in ("ours_us", "theirs_us", "times_less")),
                    _yes(q["times_less"] >= r["bound"]),
                    f"{q['fused']:.2f}",
                    _yes(q["fused"] <= q["fused_bound"]) if q["fused_bound"] else None,
                    f"{q['ours_run_us']:.0f}",
                ]
                for q in r["rows"]
            ],
        )
    return results


def error() -> dict[str, Any]:
    results = _errors.compare(seed=SEED)
    for law, curves in results["laws"].items():
        print(f"\nRoot mean square error on the {law} mixture: the best of all methods and grids at each number of model calls")
        rows = []
        for k, n in enumerate(results["calls"]):
            (mine, a), (shared, b), (other, c) = (
                _errors.best(v, k) for v in (curves["mathcore"], _errors.shared(curves["mathcore"]), curves["diffusers"])
            )
            rows.append([n, a, mine, b, shared, c, other])
        table(["calls", "mathcore", "", "on their grids", "", "diffusers", ""], rows)
    return results


def parallel() -> dict[str, Any]:
    results = _parallel.compare(seed=SEED)
    keys = ["method", "steps", "window", "tol", "depth", "evaluations", "distance"]
    print("\nParaDiGMS: batched calls one after the other (depth), evaluations per sample, distance to the sequential result")
    table(keys, [[r[k] if k != "window" else r[k] or "all" for k in keys] for r in results["rows"]])
    return results


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


PARTS = {"agreement": agreement, "overhead": overhead, "error": error, "parallel": parallel}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    chosen = parser.parse_args().part
    torch.set_num_threads(1)
    for name, run in PARTS.items():
        if chosen not in (name, "all"):
            continue
        reason = _peers.missing() if name != "parallel" else None
        if reason:
            print(f"{name}: skipped, {reason}", file=sys.stderr)
            continue
        save(f"solvers-{name}", run(), f"python -m benchmarks.solvers {name}", SEED)


if __name__ == "__main__":
    main()
