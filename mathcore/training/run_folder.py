"""A run and all it leaves behind, in one folder: its circumstances, its state, its curves and its pictures.

>>> train_in_folder("runs/ring", "ring", TimeMLP(2), loss, mixture.sample, TrainConfig(steps=2000), sample=draw)

=====================  ==========================================================================================================
``run.json``             name, configuration, and for each session (a resumed run has several) command, versions, hardware, dates, outcome
``checkpoint.safetensors``  the state, for ``resume=True``
``model.safetensors``    the averaged weights, at the end: :func:`load_weights`
``loss.png``             the loss of every step
``samples/step-*.png``   grids of samples (scatter plots of points in the plane) drawn with the averaged weights
``tensorboard/``         loss, learning rate, norm of the gradient, samples: ``tensorboard --logdir runs``
=====================  ==========================================================================================================
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mathcore._validate import count
from mathcore.settings import settings
from mathcore.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint, write_whole
from mathcore.training.config import Data, Loss, TrainConfig
from mathcore.training.interrupt import Terminated
from mathcore.training.loop import FitResult, Progress, fit
from mathcore.training.pictures import loss_curve, save_grid

Sample = Callable[[nn.Module], Tensor]
_PACKAGES = ("mathcore", "torch", "numpy", "accelerate", "datasets", "safetensors")


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine that a run computes on: processor, cores, threads, memory, and the accelerator if it uses one."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    found: dict[str, Any] = {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "device": str(device),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"accelerator": card.name, "accelerator_memory": card.total_memory, "cuda": torch.version.cuda}
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_run(folder: str | Path) -> dict[str, Any]:
    """Return the ``run.json`` of a folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no run in {folder}: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or "sessions" not in record or "config" not in record:
        raise CheckpointError(f"{path} is no record of a run")
    return record


def load_weights(folder: str | Path, model: nn.Module) -> dict[str, Any]:
    """Load the averaged weights of a finished run into ``model``, put it in evaluation mode, and return the run's ``run.json``.

    Raises:
        CheckpointError: no run there, not finished yet, damaged, or weights of another model.
    """
    record, path = read_run(folder), Path(folder) / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"the run in {folder} is not finished ({record['sessions'][-1]['outcome']}): resume it first")
    tensors, metadata = load_checkpoint(path)
    if metadata.get("kind") != "weights":
        raise CheckpointError(f"{path} holds no weights but {metadata.get('kind')!r}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error
    model.eval()
    return record


class _Folder:
    """The files of one session, written by the first process."""

    def __init__(
        self, folder: Path, record: dict[str, Any], present: dict[str, Any], sample: Sample | None, every: tuple[int, int], goes_on: bool
    ) -> None:
        self.folder, self.record, self.present, self.sample = folder, record, present, sample
        self.log_every, self.sample_every = every
        taken = load_checkpoint(folder / "checkpoint.safetensors")[1].get("step", 0) if goes_on else 0
        self.session, self.begun, self.writer = record["sessions"][-1], time.monotonic(), _writer(folder / "tensorboard", taken + 1)
        self.write()

    def write(self) -> None:
        """Write ``run.json``, whole or not at all."""
        write_whole(self.folder / "run.json", (json.dumps(self.record, indent=1) + "\n").encode())

    def on_step(self, progress: Progress) -> None:
        """Log, and draw samples, where it is time for it."""
        step = progress.step
        if self.record != self.record | self.present:  # a resumed run that was accepted: it may have been given more steps
            self.record |= self.present
            self.write()
        if self.writer is not None and (step % self.log_every == 0 or step == progress.steps):
            self.writer.add_scalar("loss", float(progress.losses[-self.log_every :].mean()), step)
            self.writer.add_scalar("learning rate", progress.learning_rate, step)
            self.writer.add_scalar("norm of the gradient", progress.gradient_norm, step)
        if self.sample is not None and (step == progress.steps or (self.sample_every and step % self.sample_every == 0)):
            with progress.averaged() as model:
                self.show(self.sample(model), step)

    def show(self, samples: Tensor, step: int) -> None:
        """Keep samples as a picture, and send it to TensorBoard."""
        picture = save_grid(samples, self.folder / "samples" / f"step-{step:06d}.png")
        if self.writer is not None:
            self.writer.add_image("samples", picture, step)

    def close(self, outcome: str, result: FitResult | None = None) -> None:
        """Write down how the session ended; after a whole run also its weights and its loss curve."""
        if result is not None:
            losses = result.losses
            save_checkpoint(self.folder / "model.safetensors", result.model.state_dict(), {"kind": "weights", "name": self.record["name"]})
            loss_curve(losses, self.folder / "loss.png", self.record["name"])
            self.session["loss"] = float(losses[-min(100, len(losses)) :].mean())
        if self.writer is not None:
            self.writer.close()
        self.session |= {"outcome": outcome, "ended": _now(), "seconds": round(time.monotonic() - self.begun, 1)}
        self.write()


def train_in_folder(
    folder: str | Path,
    name: str,
    model: nn.Module,
    loss: Loss,
    data: Data,
    config: TrainConfig,
    *,
    device: str | torch.device | None = None,
    accelerator: Any = None,
    resume: bool = False,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    sample: Sample | None = None,
    sample_every: int = 0,
    command: str | None = None,
    info: dict[str, Any] | None = None,
) -> FitResult:
    """Train ``model`` by :func:`mathcore.training.fit` and keep the run in ``folder``; see the table at the top of this module.

    Args:
        folder: made if needed; an unfinished run in it goes on with ``resume=True``.
        name: of the run, for its record, its progress bar and the title of its curve.
        model, loss, data, config, device, accelerator, checkpoint_every: as for ``fit``.
        resume: go on from the checkpoint in ``folder``; a run that stopped before its first one begins again.
        log_every: steps between two points of the curves in TensorBoard.
        sample: ``sample(model)``: images ``(N, C, H, W)`` in [-1, 1] or points ``(N, 2)`` from the averaged weights, by a generator of its own; its
            calls do not count for the run. Drawn at the end and, unless it is 0, every ``sample_every`` steps.
        command: what started the run; default: the command line of this process.
        info: further plain values for ``run.json``.

    Returns:
        The model with the averaged weights, and the losses.

    Raises:
        FileExistsError: there is a run in ``folder``, and ``resume`` is False.
        CheckpointError: ``resume`` without a checkpoint, or with one of another run; a file that cannot be written.
        ValueError, TypeError, FloatingPointError, Terminated: as ``fit``.
    """
    folder = Path(folder)
    place = accelerator.device if accelerator is not None else torch.device(device or settings.device)
    first = accelerator is None or accelerator.is_main_process
    count(log_every, "log_every"), count(sample_every, "sample_every", 0)
    record = _record(folder, name, config, resume, info)
    record["sessions"].append(_session(command, place, accelerator, resume))
    present = {"config": asdict(config), "info": info or record["info"]}
    if accelerator is not None:
        accelerator.wait_for_everyone()  # every process has looked at the folder before the first one writes to it
    checkpoint, files = folder / "checkpoint.safetensors", None
    goes_on = resume and checkpoint.exists()
    try:
        files = _Folder(folder, record, present, sample, (log_every, sample_every), goes_on) if first else None
        options: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": goes_on}
        options["on_step"] = None if files is None else files.on_step
        result = fit(model, loss, data, config, device=device, accelerator=accelerator, label=name, **options)
        if files is not None:
            files.close("finished", result)
        return result
    except BaseException as error:
        _close_after(files, error, folder)
        raise


def _close_after(files: _Folder | None, error: BaseException, folder: Path) -> None:
    """Write down why a session ended, if the disk still takes it.

    Raises:
        CheckpointError: it ended because a file could not be written.
    """
    if files is not None:
        told = "terminated" if isinstance(error, Terminated) else f"stopped: {type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
        try:
            files.close(told)
        except OSError:
            warnings.warn(f"the end of the session could not be written to {folder}", stacklevel=3)
    if isinstance(error, OSError) and not isinstance(error, CheckpointError):
        raise CheckpointError(f"the run in {folder} stopped, because a file could not be written: {error.strerror or error}") from error


def _record(folder: Path, name: str, config: TrainConfig, resume: bool, info: dict[str, Any] | None) -> dict[str, Any]:
    """The record to go on with: a new one, or that of the run in the folder, which keeps its configuration until another one was accepted."""
    if resume:
        record = read_run(folder)
        if record.get("name") != name:
            raise CheckpointError(f"the run in {folder} is {record.get('name')!r}, not {name!r}")
        return {"info": info or {}} | record
    if any((folder / file).exists() for file in ("checkpoint.safetensors", "model.safetensors")):
        raise FileExistsError(f"there is a run in {folder} already: resume it or choose another folder")
    return {"name": name, "seed": config.seed, "config": asdict(config), "info": info or {}, "sessions": []}


def _session(command: str | None, device: torch.device, accelerator: Any, resume: bool) -> dict[str, Any]:
    """The circumstances of this process."""
    return {
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": _now(),
        "resumed": resume,
        "versions": versions(),
        "hardware": hardware(device) | {"processes": 1 if accelerator is None else accelerator.num_processes},
        "outcome": "running",
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _writer(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's event files from ``step`` on, or None, with a warning, where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        warnings.warn("no curves for TensorBoard: pip install 'mathcore[full]'", stacklevel=4)
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step)
