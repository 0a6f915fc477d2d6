"""A session of training: what is asked for, checked before the first word of it is printed, and carried out in one folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mathcore._validate import folder_to_write
from mathcore.experiments.configs import Size, as_setting, keys_of, with_settings, with_values
from mathcore.experiments.datasets import DataSet, check_data, classes_of, open_data, shape_of
from mathcore.experiments.objectives import DDPM, Reflow
from mathcore.experiments.objectives.base import Statistics
from mathcore.experiments.registry import EXPERIMENTS, experiment
from mathcore.experiments.runs import STATISTICS, find_run, open_teacher, run_info, untrained, usual_folder
from mathcore.training import CheckpointError, FitResult, load_checkpoint, save_checkpoint
from mathcore.training.precision import single_precision

SHOWN = 64
"""Samples on the grids that training leaves behind."""

FREE = {"sampler", "sampler_steps", "train.accumulate"}
"""Keys that may change when a run is resumed, since no step depends on them; of the last one the checkpoint knows with how many processes."""


@dataclass(frozen=True)
class Session:
    """The experiment ``name`` at the size called ``scale``: ``size``, with all changes, into ``folder``.

    ``before``: the configuration so far of a run that is resumed, None for a new one.
    """

    name: str
    scale: str
    size: Size
    folder: Path
    before: Size | None = None

    @property
    def resume(self) -> bool:
        """Whether the run in the folder goes on."""
        return self.before is not None


def plan_session(name: str | None, scale: str | None, changes: Sequence[str], out: Path | None, resume: bool) -> Session:
    """Return the session that is asked for. With ``resume`` what is left out is that of the run: its folder may stand for the name, or be ``out``.

    Raises:
        ValueError: unknown name, size or key, a bad value; no name; a file where the folder would be. CheckpointError: nothing to resume, or a run of
            another experiment or size.
    """
    if resume:
        return _resumed(name, scale, changes, out)
    if name is None:
        raise ValueError("Missing argument 'NAME': an experiment (mathcore experiments lists them), unless --resume goes on with a run")
    if name not in EXPERIMENTS and (Path(name) / "run.json").exists():
        raise ValueError(f"{name} is the folder of a run, not an experiment: add --resume to go on with it")
    size = with_settings(experiment(name).size(scale or "cpu"), changes)
    folder = usual_folder(name, scale or "cpu") if out is None else out.expanduser()
    return Session(name, scale or "cpu", size, folder_to_write(folder))


def _resumed(name: str | None, scale: str | None, changes: Sequence[str], out: Path | None) -> Session:
    """The session that goes on with a run."""
    folder = _folder_to_resume(name, scale, out)
    info = run_info(folder)
    if name is not None and info["experiment"] != name and (out is not None or name in EXPERIMENTS):
        raise CheckpointError(f"{folder} holds a run of {info['experiment']}, not of {name}")
    if scale not in (None, info["size"]):
        raise CheckpointError(f"{folder} holds a run of size {info['size']}, not {scale}: leave --size out to go on with it")
    before = with_values(experiment(info["experiment"]).size(info["size"]), info["config"])
    return Session(info["experiment"], info["size"], with_settings(before, changes), folder, before)


def _folder_to_resume(name: str | None, scale: str | None, out: Path | None) -> Path:
    """The folder of the run to go on with, by the words that are there."""
    if name is None and out is None:
        raise ValueError("--resume goes on with which run? Name its folder, mathcore train --resume --out FOLDER, or its experiment")
    if out is None and name in EXPERIMENTS and scale is not None:
        experiment(str(name)).size(scale)
        out = usual_folder(str(name), scale)
    if out is not None:
        if not (folder_to_write(out.expanduser()) / "run.json").exists():
            raise CheckpointError(f"there is nothing to resume in {out}: leave --resume out to start, or name the folder with --out")
        return out.expanduser()
    try:
        found = find_run(str(name))
    except CheckpointError as error:
        raise CheckpointError(f"there is nothing to resume: {error}, or name the folder of a run with --out") from None
    return found if found.is_dir() else found.parent


def check_session(session: Session) -> None:
    """Look at all but the folder that would stop the session before its first step, or its samples at the end.

    Raises:
        ValueError: data, network, objective and sampler that do not go together. RuntimeError: data that are not here.
        CheckpointError: no teacher for a reflow.
    """
    size, objective = session.size, session.size.objective
    check_data(size.data)
    shape, classes = shape_of(size.data), classes_of(size.data)
    _ = objective.t_max  # the schedule is made before the meta device is on
    with torch.device("meta"):
        untrained(size, shape, classes)
    if isinstance(objective, DDPM) and size.sampler_steps > objective.levels:
        raise ValueError(
            f"the sampler cannot take more steps than the chain has levels: sampler_steps={size.sampler_steps}, objective.levels={objective.levels}"
        )
    if isinstance(objective, Reflow):
        open_teacher(objective.teacher, DataSet(size.data, shape, classes))


def steps_taken(session: Session) -> int:
    """Return how many steps are taken already, by the checkpoint in the folder: none for a new run, or where one stopped before its first checkpoint.

    Raises:
        FileExistsError: a run in the folder that is not to be resumed.
        CheckpointError: a checkpoint that is damaged or of another configuration.
    """
    folder = session.folder
    if session.before is not None:
        return _steps_before(session.size, session.before, folder)
    if any((folder / file).exists() for file in ("checkpoint.safetensors", "model.safetensors")):
        raise FileExistsError(f"{folder} holds a run already: add --resume to go on with it, or --out FOLDER to begin another")
    return 0


def _steps_before(size: Size, before: Size, folder: Path) -> int:
    """Steps in the checkpoint of a run; 0 where it stopped before its first one, and may begin again in any way.

    Raises:
        CheckpointError: a checkpoint that is damaged, or cannot be continued under ``size``.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    metadata = load_checkpoint(path)[1]
    taken = int(metadata.get("step", 0))
    there = keys_of(before) | {f"train.{key}": value for key, value in metadata.get("config", {}).items()}
    here = keys_of(size)
    differing = sorted(key for key in here if here[key] != there[key] and key not in FREE)
    if size.train.decay == "constant" and size.train.steps >= taken:
        differing = [key for key in differing if key != "train.steps"]
    if differing:
        what = ", ".join(f"{key} = {as_setting(there[key])} there, {as_setting(here[key])} here" for key in differing)
        raise CheckpointError(f"{folder} holds a run of another configuration: {what}; {_way_out(differing, size, taken)}")
    return taken


def _way_out(differing: Sequence[str], size: Size, taken: int) -> str:
    """Why a run cannot go on like this, and what can be done."""
    if "train.steps" not in differing:
        return "every step depends on it: leave the change out, or begin another run with --out FOLDER"
    if size.train.decay == "constant":
        return f"it has taken {taken} steps already"
    return "under a cosine every step depends on their number; only a run with train.decay=constant can be made longer"


def train_session(
    session: Session,
    *,
    device: torch.device,
    accelerator: Any = None,
    sample_every: int = 0,
    checkpoint_every: int = 1000,
    command: str | None = None,
) -> FitResult:
    """Train into the folder of the session and return the losses and the model; see :func:`mathcore.training.run_folder.train_in_folder`.

    Raises:
        ValueError, RuntimeError: data, network and objective that do not go together, data that are not here. CheckpointError: a bad checkpoint.
        FloatingPointError: NaN in the loss; the last checkpoint stays.
    """
    from mathcore.training.run_folder import train_in_folder

    size, objective = session.size, session.size.objective
    data = open_data(size.data)
    model = untrained(size, data.shape, data.classes)
    statistics = _statistics(session, data, accelerator is None or accelerator.is_main_process)

    def loss(net: Any, batch: Any, generator: torch.Generator) -> Tensor:
        return objective.loss(net, batch, statistics, generator)

    with single_precision():
        return train_in_folder(
            session.folder,
            session.name,
            model,
            loss,
            objective.source(data),
            size.train,
            device=device,
            accelerator=accelerator,
            resume=session.resume,
            checkpoint_every=checkpoint_every,
            sample=_painter(size, data.shape, statistics, device),
            command=command,
            sample_every=sample_every,
            info={"experiment": session.name, "size": session.scale, "config": keys_of(size)},
        )


def _painter(size: Size, shape: tuple[int, ...], statistics: Statistics, device: torch.device) -> Callable[[nn.Module], Tensor]:
    """What draws the samples on the grids: images, or the first two coordinates of points, always from the same random numbers."""

    def sample(net: nn.Module) -> Tensor:
        generator = torch.Generator(device).manual_seed(0)
        with torch.no_grad(), single_precision():
            x = size.objective.sample(net, (SHOWN, *shape), statistics, size.sampler, size.sampler_steps, generator)
        return x if x.ndim == 4 else x[:, :2]

    return sample


def _statistics(session: Session, data: DataSet, main: bool) -> Statistics:
    """What the objective measures on the data: read where a run is resumed, so that it goes on with the very numbers; measured and kept otherwise."""
    path = session.folder / STATISTICS
    if session.resume and path.exists():
        return load_checkpoint(path)[0]
    values = session.size.objective.statistics(data)
    if values and main:
        save_checkpoint(path, values, {"kind": "statistics"})
    return values
