"""``mathcore train``: one experiment into one folder, in this process or in those of ``accelerate launch``."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from torch import Tensor

from mathcore._validate import one_of
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
    folder = (out or usual_folder(name, scale)).expanduser()
    if precision is not None:
        one_of(precision, PRECISIONS, "--precision")
        changes = [*changes, f"train.bfloat16={'true' if precision == 'bfloat16' else 'false'}"]
    size = planned(name, scale, changes, folder, resume)
    place = choose_device(device, scale)
    accelerator = make_accelerator(size.train, place) if launched() else None
    if accelerator is not None:
        place = accelerator.device
    spare_threads(scale, place)
    main = accelerator is None or accelerator.is_main_process
    if main:
        _announce(name, scale, folder, resume, f"{size.train.steps} steps of {size.train.batch_size} on {size.data}, {place}")
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
    from rich.console import Console
    from rich.table import Table

    values = losses[-max(1, len(losses) // 20) :]
    console = Console()
    console.print(
        f"loss {float(values.mean()):.4g} (mean of the last {len(values)} of {len(losses)} steps), {seconds:.0f} s", highlight=False
    )
    table = Table.grid(padding=(0, 2))
    files = {
        "model.safetensors": "averaged weights",
        "checkpoint.safetensors": "whole state, for --resume",
        "run.json": "seed, versions, hardware, command, configuration",
        "loss.png": "loss curve",
        "samples": "sample grids",
        "tensorboard": "tensorboard --logdir " + shown(folder / "tensorboard"),
    }
    for file, what in files.items():
        if (folder / file).exists():
            table.add_row(shown(folder / file), what)
    console.print(table)
    console.print(f"next:  mathcore sample {shown(folder)}   mathcore evaluate {shown(folder)}", highlight=False, soft_wrap=True)


def shown(path: Path) -> str:
    """Return a path as the user would type it: relative where it lies below the present folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
