"""Trained models: a run folder or a checkpoint, found by its path or by the name of its experiment and opened for its samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mathcore._validate import count, one_of
from mathcore.experiments.configs import Size, with_values
from mathcore.experiments.datasets import DataSet, classes_of, shape_of
from mathcore.experiments.objectives.base import Statistics
from mathcore.experiments.registry import EXPERIMENTS, experiment
from mathcore.settings import settings
from mathcore.training import CheckpointError, load_checkpoint
from mathcore.training.precision import single_precision

STATISTICS = "statistics.safetensors"
"""What an objective measured on the training data, beside the weights."""


@dataclass(frozen=True)
class Run:
    """A trained model with what sampling needs: ``step`` of the checkpoint, ``folder`` of the run, ``name`` and ``scale`` of its experiment."""

    folder: Path
    name: str
    scale: str
    size: Size
    model: nn.Module
    shape: tuple[int, ...]
    statistics: Statistics
    step: int
    device: torch.device

    @property
    def trained(self) -> str:
        """How far the training had come, in words."""
        return f"{self.step} of {self.size.train.steps} steps"

    @torch.no_grad()
    def sample(
        self, n: int, method: str | None = None, steps: int | None = None, seed: int = 0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``n`` samples ``(n, *shape)``, float32, by a sampler of the objective; without arguments the run's own.

        Raises:
            ValueError: ``n`` or ``steps`` below 1, unknown sampler.
        """
        chosen = one_of(method or self.size.sampler, self.size.objective.samplers, "sampler")
        taken = count(self.size.sampler_steps if steps is None else steps, "steps")
        source = generator or torch.Generator(self.device).manual_seed(seed)
        with single_precision():
            return self.size.objective.sample(self.model, (count(n, "n"), *self.shape), self.statistics, chosen, taken, source)


def usual_folder(name: str, scale: str) -> Path:
    """Return where a run of the experiment at a size lies unless told otherwise."""
    return settings.build_dir / "experiments" / f"{name}-{scale}"


def known_runs() -> list[str]:
    """Return the names of the folders in the usual place that hold a run."""
    return sorted(path.parent.name for path in (settings.build_dir / "experiments").glob("*/run.json"))


def untrained(size: Size, data_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the network of a size with the weights that its seed gives: float32, on the CPU.

    Raises:
        ValueError: a network that does not fit the data.
    """
    with single_precision(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.train.seed)
        return size.objective.network(size.network, data_shape, classes)


def open_run(target: str | Path, device: torch.device | str = "cpu") -> Run:
    """Open a run folder, a checkpoint inside one, or the usual folder of an experiment: ``"ddpm-digits"``, ``"ddpm-digits-gpu"``.

    A finished run gives its final averaged weights; one under way those of its last checkpoint, averaged too.

    Raises:
        CheckpointError: nothing there (the message lists the runs that are), a file that is no checkpoint, or weights that do not fit.
    """
    path = find_run(target)
    folder, file = (path, None) if path.is_dir() else (path.parent, path)
    info = run_info(folder)
    scale = info["size"]
    size = with_values(experiment(info["experiment"]).size(scale), info["config"])
    shape, place = shape_of(size.data), torch.device(device)
    model = untrained(size, shape, classes_of(size.data))
    if file is None:
        file = next((folder / part for part in ("model.safetensors", "checkpoint.safetensors") if (folder / part).exists()), None)
        if file is None:
            raise CheckpointError(f"{folder} has a run.json but no checkpoint yet: the run stopped before its first one")
    step = _load(file, model, size)
    statistics = load_checkpoint(folder / STATISTICS)[0] if (folder / STATISTICS).exists() else {}
    return Run(folder, info["experiment"], scale, size, model.to(place).eval().requires_grad_(False), shape, statistics, step, place)


def find_run(target: str | Path) -> Path:
    """Return the folder or file that ``target`` means.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(target)
    if path.is_file() or (path.is_dir() and (path / "run.json").exists()):
        return path
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder without run.json: no run of mathcore train")
    usual = settings.build_dir / "experiments" / str(target)
    for choice in (usual, *(settings.build_dir / "experiments" / f"{target}-{scale}" for scale in ("cpu", "gpu"))):
        if (choice / "run.json").exists():
            return choice
    if str(target) in EXPERIMENTS:
        raise CheckpointError(
            f"there is no run of {target} in {settings.build_dir / 'experiments'}: train one with  mathcore train {target}"
        )
    from difflib import get_close_matches

    runs = known_runs()
    near = get_close_matches(str(target), [*runs, *EXPERIMENTS], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"runs here: {', '.join(runs) or 'none'}"
    raise CheckpointError(f"there is no run folder, checkpoint or experiment {str(target)!r}; {hint}")


def open_teacher(target: str, data: DataSet) -> Run:
    """Open the run that makes the pairs of a reflow.

    Raises:
        CheckpointError: there is none, or it is no flow from the normal law to these data.
    """
    from mathcore.experiments.objectives.transport import Flow

    try:
        run = open_run(target, settings.device)
    except CheckpointError as error:
        raise CheckpointError(f"a reflow learns from the pairs of a trained flow (objective.teacher = {target}): {error}") from None
    if type(run.size.objective) is not Flow or run.shape != data.shape:
        raise CheckpointError(
            f"objective.teacher must be a run of flow matching on data of shape {data.shape}; {run.folder} is {run.name} on {run.size.data}"
        )
    return run


def run_info(folder: Path) -> dict[str, Any]:
    """The experiment, size and configuration that a run folder records.

    Raises:
        CheckpointError: no run.json, or none that ``mathcore train`` wrote.
    """
    from mathcore.training.run_folder import read_run

    record = read_run(folder)
    info = record.get("info", record)
    if not {"experiment", "size", "config"} <= info.keys() or info["experiment"] not in EXPERIMENTS:
        raise CheckpointError(f"{folder} was not written by mathcore train: its run.json names no experiment of this version")
    return info


def _load(file: Path, model: nn.Module, size: Size) -> int:
    """Load averaged weights into ``model``; the step they are of.

    Raises:
        CheckpointError: missing, damaged or foreign file, or weights of another model.
    """
    tensors, metadata = load_checkpoint(file)
    kind = metadata.get("kind")
    if kind not in ("weights", "training"):
        raise CheckpointError(f"{file} holds no weights but {kind or 'tensors of no kind that is known'}")
    weights = tensors if kind == "weights" else {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    try:
        model.load_state_dict(weights)
        averages = [tensors[f"average/{i}"] for i in range(sum(k.startswith("average/") for k in tensors))]
        if size.train.ema and averages:
            with torch.no_grad():
                torch._foreach_copy_([p for p in model.parameters() if p.requires_grad], averages)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{file} does not hold the weights of this experiment: {' '.join(str(error).split())[:200]}") from None
    return int(metadata.get("step", size.train.steps))
