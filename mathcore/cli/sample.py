"""``mathcore sample``: samples of a trained model, as a picture and as a tensor."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from mathcore._validate import count, folder_to_write
from mathcore.cli.machine import choose_device, spare_threads, told_of_sampling
from mathcore.cli.train import shown
from mathcore.experiments.runs import Run, open_run


def draw_samples(
    target: str, n: int, sampler: str | None, steps: int | None, seed: int, guidance: float | None, device: str | None, out: Path | None
) -> None:
    """Draw ``n`` samples and write ``FILE.png`` and ``FILE.safetensors``.

    Raises:
        ValueError, RuntimeError: no such run or sampler, a file that is no PNG, guidance for a model without labels.
    """
    from mathcore.training import save_checkpoint
    from mathcore.training.pictures import save_grid

    count(n, "-n"), count(seed, "--seed", 0)
    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"--out must name a .png file, got {str(out)!r}")
    if out is not None:
        folder_to_write(out.parent)
    run = guided(open_run(target, choose_device(device)), guidance)
    spare_threads(run.scale, run.device)
    method, taken = sampler or run.size.sampler, run.size.sampler_steps if steps is None else steps
    told_of_sampling(run, n, taken)
    started = time.monotonic()
    x = run.sample(n, sampler, steps, seed).cpu()
    seconds = time.monotonic() - started
    picture = out or run.folder / "samples" / f"{method}-{taken}-seed{seed}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_grid(x if x.ndim == 4 else x[:, :2], picture)
    tensor = picture.with_suffix(".safetensors")
    about = {"kind": "samples", "experiment": run.name, "sampler": method, "steps": taken, "seed": seed, "trained": run.step}
    save_checkpoint(tensor, {"samples": x}, about)
    print(f"{n} samples of {run.name} (trained {run.trained}) by {method}, {taken} steps, seed {seed}: {seconds:.1f} s")
    print(f"{shown(picture)}\n{shown(tensor)}  tensor 'samples' {tuple(x.shape)}")


def guided(run: Run, guidance: float | None) -> Run:
    """Return ``run`` with another guidance weight.

    Raises:
        ValueError: a model without labels, a weight that is not finite.
    """
    if guidance is None:
        return run
    objective = run.size.objective
    if not objective.labelled:
        raise ValueError(f"--guidance needs a model with labels, such as conditional-digits; {run.name} has none")
    if not torch.isfinite(torch.tensor(guidance)):
        raise ValueError(f"--guidance must be a finite number, got {guidance}")
    return replace(run, size=replace(run.size, objective=replace(objective, guidance=guidance)))  # type: ignore[type-var]
