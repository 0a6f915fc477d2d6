"""``mathcore evaluate``: distances, coverage and likelihood of a trained model, each with what a perfect model would score at the same sample size."""

import json
import time

import torch
from torch import Tensor

from mathcore._validate import count
from mathcore.cli.machine import choose_device, spare_threads, told_of_sampling
from mathcore.cli.train import shown
from mathcore.divergences import energy_distance, two_sample_floor
from mathcore.experiments.datasets import DataSet, held_out, open_data
from mathcore.experiments.runs import Run, open_run
from mathcore.sample_metrics import Estimate, bits_per_dimension, evaluate_images, pixel_features
from mathcore.training.precision import single_precision


def run_evaluation(target: str, n: int, sampler: str | None, steps: int | None, seed: int, device: str | None) -> None:
    """Draw ``n`` samples, measure them, print a table and keep it as ``evaluation.json`` in the run folder.

    Raises:
        ValueError, RuntimeError: no such run or sampler, data that are not here, too few samples.
    """
    count(n, "-n", 4), count(seed, "--seed", 0)
    run = open_run(target, choose_device(device))
    spare_threads(run.scale, run.device)
    data = open_data(run.size.data)
    method, taken = sampler or run.size.sampler, run.size.sampler_steps if steps is None else steps
    told_of_sampling(run, n, taken)
    started = time.monotonic()
    samples = run.sample(n, method, taken, seed).cpu()
    seconds = time.monotonic() - started
    with single_precision():
        estimates = (_points if data.mixture is not None else _images)(samples, data, seed)
        likelihood = _likelihood(run, data, n, seed)
    estimates += [likelihood] if likelihood is not None else []
    title = f"{run.name}, trained {run.trained}: {n} samples by {method}, {taken} steps, seed {seed} ({seconds:.1f} s)"
    _print(title, estimates)
    record = {"experiment": run.name, "trained": run.step, "sampler": method, "steps": taken, "seed": seed, "n": n}
    kept = run.folder / "evaluation.json"
    kept.write_text(
        json.dumps({**record, "estimates": [e._asdict() if hasattr(e, "_asdict") else vars(e) for e in estimates]}, indent=1) + "\n"
    )
    print(shown(kept))


def _points(samples: Tensor, data: DataSet, seed: int) -> list[Estimate]:
    """Samples of a mixture: energy distance, and the share and number of modes found; floors from draws of the mixture itself."""
    from scipy.stats import chi

    from mathcore.metrics import mode_coverage

    mixture = data.mixture
    assert mixture is not None
    near = float(chi.ppf(chi.cdf(3, 2), mixture.dim))  # as large a share of true samples as within three standard deviations in the plane
    g, n = torch.Generator().manual_seed(seed + 1), len(samples)
    value = float(energy_distance(samples, mixture.sample(n, g)))
    distance = Estimate("energy distance", value, *two_sample_floor(energy_distance, mixture.sample, n, generator=g), n, n, "")
    found = mode_coverage(samples, mixture, near)
    true = [mode_coverage(mixture.sample(n, g), mixture, near) for _ in range(10)]
    shares, covered = (torch.tensor([float(v) for v in row]) for row in zip(*((c.share, c.covered) for c in true)))
    return [
        distance,
        Estimate("share near a mode", found.share, float(shares.mean()), float(shares.std()), n, n, "floor: true samples"),
        Estimate(
            f"modes found of {mixture.n_components}",
            found.covered,
            float(covered.mean()),
            float(covered.std()),
            n,
            n,
            "floor: true samples",
        ),
    ]


def _images(samples: Tensor, data: DataSet, seed: int) -> list[Estimate]:
    """Samples that are images: energy distance of the pixels, and the metrics in a feature space."""
    from mathcore.metrics import DIGIT_SETS, digit_features

    assert data.images is not None
    test, g = held_out(data.name), torch.Generator().manual_seed(seed + 1)
    n = min(len(samples), len(test))
    everything = torch.cat([data.images[: 4 * len(test)], test]).flatten(1)

    def some(count: int, generator: torch.Generator | None) -> Tensor:
        return everything[torch.randint(len(everything), (count,), generator=generator)]

    against = test[torch.randperm(len(test), generator=g)[:n]].flatten(1)
    value = float(energy_distance(samples[:n].flatten(1), against))
    floor = two_sample_floor(energy_distance, some, n, generator=g)
    digits = (data.shape[0] == 1 and DIGIT_SETS.get(data.shape[1]) == data.name) or data.name == "mnist"
    features, note = (digit_features, "features of the digit classifier") if digits else (pixel_features, "features: the pixels")
    print(f"{note}; not the FID of the literature")
    return [Estimate("energy distance", value, *floor, n, n, "pixels"), *evaluate_images(samples, data.images, test, features, generator=g)]


def _likelihood(run: Run, data: DataSet, n: int, seed: int) -> Estimate | None:
    """Likelihood of fresh or held-out data, where the model has one; None for images that it never saw as a density."""
    from mathcore.experiments.likelihoods import log_likelihood

    g = torch.Generator(run.device).manual_seed(seed + 2)
    if data.mixture is not None:
        x = data.mixture.sample(n, torch.Generator().manual_seed(seed + 2))
        found = log_likelihood(run, x.to(run.device), g)
        if found is None:
            return None
        exact, values = data.mixture.log_prob(x), found[0].cpu()
        error = float(exact.std() / n**0.5)
        return Estimate(
            "-log-likelihood, nats",
            -float(values.mean()),
            -float(exact.mean()),
            error,
            n,
            n,
            f"{found[1]}; floor: exact density, same points",
        )
    step = float(getattr(run.size.objective, "grey_step", 0.0))
    if not step:
        return None
    from mathcore.experiments.score_sde_digits import dequantise

    x = held_out(data.name)[:n].to(run.device)
    found = log_likelihood(run, dequantise(x, step, g), g)
    return None if found is None else bits_per_dimension(found[0].cpu(), x[0].numel(), step)


def _print(title: str, estimates: list[Estimate]) -> None:
    """A table that fits eighty columns; notes stand under it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("measure", no_wrap=True)
    for heading in ("value", "floor", "±", "n", "against"):
        table.add_column(heading, justify="right", no_wrap=True)
    for e in estimates:
        floor = "" if e.floor is None else f"{e.floor:.4g}"
        table.add_row(e.name, f"{e.value:.4g}", floor, f"{e.floor_std:.2g}", str(e.n), str(e.reference_n or ""))
    print(title)
    console.print(table)
    for e in estimates:
        if e.note:
            console.print(f"{e.name}: {e.note}", style="dim", highlight=False)
