"""``mathcore train``: one experiment into one folder, in this process or in those of ``accelerate launch``."""

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from mathcore._validate import count, one_of
from mathcore.cli.machine import choose_device, full_size_on_cpu, spare_threads
from mathcore.experiments.configs import as_setting, keys_of
from mathcore.experiments.runs import usual_folder
from mathcore.experiments.sessions import Session, check_session, plan_session, steps_taken, train_session
from mathcore.settings import PRECISIONS
from mathcore.training.engine import first_process, launched, make_accelerator
from mathcore.training.interrupt import Terminated
from mathcore.training.lock import only_writer

CHECKPOINT_EVERY = 500
"""Steps between checkpoints unless told otherwise."""

TRY: dict[str, Any] = {"train.compile": False, "train.bfloat16": False, "train.batch_size": 8, "train.steps": 100, "sampler_steps": 10}
"""What makes a full size small enough to be tried out on a CPU, in minutes."""


def run_training(
    name: str | None,
    scale: str | None,
    changes: Sequence[str],
    out: Path | None,
    resume: bool,
    device: str | None,
    precision: str | None,
    fetch: bool,
    sample_every: int,
    checkpoint_every: int | None,
) -> None:
    """Train, and say at the end how it went and where things lie; on Ctrl-C and SIGTERM how to go on.

    Raises:
        ValueError, RuntimeError, OSError: whatever cannot be done, in one line.
    """
    every = count(CHECKPOINT_EVERY if checkpoint_every is None else checkpoint_every, "--checkpoint-every")
    count(sample_every, "--sample-every", 0)
    session = plan_session(name, scale, [*changes, *_forward(precision)], out, resume)
    place = choose_device(device, session.scale)
    if fetch:
        _fetch(session.size.data)
    check_session(session)
    again = {"--device": device, "--sample-every": sample_every or None, "--checkpoint-every": checkpoint_every}
    with only_writer(session.folder) if first_process() else nullcontext():
        _train(session, place, sample_every, every, again)


def _train(session: Session, place: torch.device, sample_every: int, every: int, again: dict[str, Any]) -> None:
    """Train in a folder that no other process writes to; ``again`` has the options that a command that goes on would repeat."""
    taken = steps_taken(session)
    accelerator = make_accelerator(session.size.train, place) if launched() else None
    place, processes, main = (place, 1, True) if accelerator is None else _part(accelerator)
    spare_threads(session.scale, place)
    if main:
        _announce(session, taken, place, processes)
    started, command = time.monotonic(), shlex.join(["mathcore", *sys.argv[1:]])
    try:
        result = train_session(
            session, device=place, accelerator=accelerator, sample_every=sample_every, checkpoint_every=every, command=command
        )
    except (KeyboardInterrupt, Terminated) as end:
        if main:
            _interrupted(session, again, processes)
        raise typer.Exit(143 if isinstance(end, Terminated) else 130) from None
    if main:
        _report(session.folder, result.losses, time.monotonic() - started)


def _forward(precision: str | None) -> list[str]:
    """The setting that ``--precision`` stands for.

    Raises:
        ValueError: unknown precision.
    """
    return (
        [] if precision is None else [f"train.bfloat16={'true' if one_of(precision, PRECISIONS, '--precision') == 'bfloat16' else 'false'}"]
    )


def _part(accelerator: Any) -> tuple[torch.device, int, bool]:
    """Device of this process, number of processes, and whether this is the one that speaks."""
    return accelerator.device, accelerator.num_processes, accelerator.is_main_process


def _fetch(name: str) -> None:
    """Download a data set that is not here.

    Raises:
        RuntimeError: no network; the message says which file to put where.
    """
    from mathcore.image_data import IMAGE_SETS, fetch_images, image_files

    if name not in IMAGE_SETS:
        return
    try:
        image_files(name)
    except RuntimeError:
        print(f"fetched {shown(fetch_images(name))}")


def _announce(session: Session, taken: int, device: torch.device, processes: int) -> None:
    """The first line: what is trained, on what, and into which folder."""
    train, name = session.size.train, f"{session.name} ({session.scale})"
    begin = f"going on with {name} after step {taken}" if session.resume else f"training {name}"
    among = f", {processes} processes" if processes > 1 else ""
    print(
        f"{begin}: {train.steps} steps of {train.batch_size} on {session.size.data}, {device}{among}; folder {shown(session.folder)}",
        flush=True,
    )
    if full_size_on_cpu(session.scale, device) and (train.compile or train.steps > TRY["train.steps"]):
        print(_price(session), flush=True)


def _price(session: Session) -> str:
    """What the full size costs on a CPU, and the settings for a try; a run that is resumed has to keep its own."""
    train, values = session.size.train, keys_of(session.size)
    compiling = "nothing is seen for minutes while the first step compiles, and " if train.compile else ""
    smaller = [f"--set {key}={as_setting(value)}" for key, value in TRY.items() if values[key] > value]
    hint = "" if session.resume else f"; to try it out:  {' '.join(smaller)}"
    return f"this is the full size on a CPU: {compiling}{train.steps} steps may take days{hint}"


def _interrupted(session: Session, options: dict[str, Any], processes: int) -> None:
    """Say what is left and the command that goes on; it has the ``options`` that were given, the rest is in ``run.json``."""
    left, folder = session.folder / "checkpoint.safetensors", shown(session.folder)
    if not left.exists():
        print(f"\nstopped before the first checkpoint; {folder} holds nothing to go on from", file=sys.stderr)
        return
    usual = session.folder == usual_folder(session.name, session.scale)
    where = (["--size", session.scale] if session.scale != "cpu" else []) if usual else ["--out", folder]
    given = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    command = shlex.join(["mathcore", "train", session.name, *where, "--resume", *given])
    lost = "the steps since its last checkpoint are lost, as always with several processes; " if processes > 1 else ""
    launcher = ", behind the same launcher" if processes > 1 else ""
    print(f"\nstopped; {lost}the state is in {shown(left)}. Go on with{launcher}:  {command}", file=sys.stderr)


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
