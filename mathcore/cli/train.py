"""``mathcore train``: one experiment into one folder, in this process or in those of ``accelerate launch``."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from torch import Tensor

from mathcore._validate import count, one_of
from mathcore.cli.machine import choose_device, spare_threads
from mathcore.experiments.runs import planned, train_experiment, usual_folder
from mathcore.settings import PRECISIONS


def run_training(
    name: str,
    scale: str,
    changes: Sequence[str],
    out: Path | None,
    resume: bool,
    device: str | None,
    precision: str | None,
    fetch: bool,
    sample_every: int,
    checkpoint_every: int,
) -> None:
    """Train, and say at the end how it went and where things lie; on Ctrl-C how to go on.

    Raises:
        ValueError, RuntimeError, OSError: whatever cannot be done, in one line.
    """
    from mathcore.experiments.registry import experiment
    from mathcore.training.engine import launched, make_accelerator

    experiment(name).size(scale)  # unknown names first
    count(sample_every, "--sample-every", 0), count(checkpoint_every, "--checkpoint-every")
    folder = (out or usual_folder(name, scale)).expanduser()
    if precision is not None:
        one_of(precision, PRECISIONS, "--precision")
        changes = [*changes, f"train.bfloat16={'true' if precision == 'bfloat16' else 'false'}"]
    size = planned(name, scale, changes, folder, resume)
    place = choose_device(device, scale)
    if fetch:
        _fetch(size.data)
    accelerator = make_accelerator(size.train, place) if launched() else None
    if accelerator is not None:
        place = accelerator.device
    spare_threads(scale, place)
    main = accelerator is None or accelerator.is_main_process
    among = "" if accelerator is None else f", {accelerator.num_processes} processes"
    if main:
        _announce(name, scale, folder, resume, f"{size.train.steps} steps of {size.train.batch_size} on {size.data}, {place}{among}")
    started = time.monotonic()
    try:
        result = train_experiment(
            name,
            scale,
            size,
            folder,
            device=place,
            resume=resume,
            accelerator=accelerator,
            sample_every=sample_every,
            checkpoint_every=checkpoint_every,
            command=shlex.join(["mathcore", *sys.argv[1:]]),
        )
    except KeyboardInterrupt:
        if main:
            _interrupted(name, scale, out, folder)
        raise typer.Exit(130) from None
    if main:
        _report(folder, result.losses, time.monotonic() - started)


def _fetch(name: str) -> None:
    """Download a data set that is not here.

    Raises:
        RuntimeError: no network; the message says which file to put where.
    """
    from mathcore.experiments.datasets import CARRIED, IMAGES
    from mathcore.image_data import fetch_images, load_images

    if name not in IMAGES or name in CARRIED:
        return
    try:
        load_images(name, "train")
    except RuntimeError:
        print(f"fetched {shown(fetch_images(name))}")


def _announce(name: str, scale: str, folder: Path, resume: bool, what: str) -> None:
    print(f"{'going on with' if resume else 'training'} {name} ({scale}): {what}; folder {shown(folder)}", flush=True)


def _interrupted(name: str, scale: str, out: Path | None, folder: Path) -> None:
    """Say what is left and the command that goes on."""
    command = ["mathcore", "train", name, *(["--size", scale] if scale != "cpu" else []), *(["--out", str(out)] if out else []), "--resume"]
    left = folder / "checkpoint.safetensors"
    if left.exists():
        print(f"\nstopped; the state is in {shown(left)}. Go on with:  {shlex.join(command)}", file=sys.stderr)
    else:
        print(f"\nstopped before the first checkpoint; {shown(folder)} holds nothing to go on from", file=sys.stderr)


def _report(folder: Path, losses: Tensor, seconds: float) -> None:
    """Loss at the end, time, and the files of the run."""
    last = losses[-max(1, len(losses) // 20) :]
    print(f"loss {float(last.mean()):.4g} (mean of the last {len(last)} of {len(losses)} steps), {seconds:.0f} s\n{shown(folder)}")
    files = {
        "model.safetensors": "averaged weights",
        "checkpoint.safetensors": "whole state, for --resume",
        "run.json": "seed, versions, hardware, command, configuration",
        "loss.png": "loss curve",
        "samples": "sample grids",
        "tensorboard": f"curves:  tensorboard --logdir {shown(folder)}",
    }
    for file, what in files.items():
        if (folder / file).exists():
            print(f"  {file:24}{what}")
    print(f"next:  mathcore sample {shown(folder)}   or   mathcore evaluate {shown(folder)}")


def shown(path: Path) -> str:
    """Return a path as the user would type it: relative where it lies below the present folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
