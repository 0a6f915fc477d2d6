"""The training loop, one for every loss of the book.

>>> result = fit(TimeMLP(2), loss, mixture.sample, TrainConfig(steps=2000))      # loss(model, batch, generator) -> scalar

A run is a function of the initial weights, the data and the configuration: batches and the loss draw from two generators seeded by the
configuration, and both are in the checkpoint, so that on the CPU a resumed run ends in the same bits as one never interrupted. (Layers that
draw from torch's global generator, such as dropout, are outside of this promise.) Several processes share one batch; see ``accelerator``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore.settings import settings
from mathcore.training.checkpoints import CheckpointError, remove_unfinished
from mathcore.training.config import Data, Loss, TrainConfig, learning_rate
from mathcore.training.engine import Engine
from mathcore.training.interrupt import held_back
from mathcore.training.trainer import Trainer


@dataclass
class FitResult:
    """A finished training run.

    Attributes:
        model: the model that was passed in, on its device, now holding the averaged weights, in evaluation mode.
        losses: the loss at every step, float64 ``(steps,)`` on the CPU.
    """

    model: nn.Module
    losses: Float[Tensor, " steps"]


class Progress:
    """What a run tells of itself after a step: ``step`` of ``steps``, ``loss``, ``learning_rate``, ``gradient_norm`` before clipping, and its ``model``."""

    def __init__(self, run: Trainer) -> None:
        self._run = run
        self.model, self.step, self.steps = run.model, run.step, run.config.steps
        self.loss, self.learning_rate = float(run.losses[run.step - 1]), learning_rate(run.step, run.config)
        self.gradient_norm = run.gradient_norm

    @property
    def losses(self) -> Float[Tensor, " n"]:
        """The losses of all steps so far."""
        return self._run.losses[: self.step]

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with the averaged weights and in evaluation mode, for as long as the block lasts."""
        weights, average = [p.detach() for p in self._run.parameters], self._run.average
        kept = [w.clone() for w in weights]
        if self._run.config.ema:
            torch._foreach_copy_(weights, average)
        try:
            with torch.no_grad():
                yield self.model.eval()
        finally:
            torch._foreach_copy_(weights, kept)
            self.model.train()


def _on(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or each tensor of a tuple, to ``device``."""
    return tuple(part.to(device) for part in batch) if isinstance(batch, (tuple, list)) else batch.to(device)


def _sampler(data: Data, device: torch.device) -> Callable[[int, torch.Generator], Any]:
    """Return ``draw(n, generator)``; tensors are drawn from with replacement and are moved to the device once."""
    if not isinstance(data, (Tensor, tuple)):
        if not callable(data):
            raise TypeError(f"data must be a tensor, a tuple of tensors or a callable data(n, generator), got {type(data).__name__}")
        return lambda n, generator: _on(data(n, generator), device)
    parts = data if isinstance(data, tuple) else (data,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"data must be a tensor or a tuple of tensors, got {[type(part).__name__ for part in parts]}")
    sizes = [tuple(part.shape) for part in parts]
    if any(not size for size in sizes) or len({size[0] for size in sizes}) != 1 or sizes[0][0] == 0:
        raise ValueError(
            f"data must hold the same number of samples, at least one, along the first axis of every tensor; got shapes {sizes}"
        )
    parts = _on(parts, device)

    def draw(n: int, generator: torch.Generator) -> Any:
        rows = torch.randint(sizes[0][0], (n,), generator=generator).to(device)
        batch = tuple(part[rows] for part in parts)
        return batch if isinstance(data, tuple) else batch[0]

    return draw


def fit(
    model: nn.Module,
    loss: Loss,
    data: Data,
    config: TrainConfig,
    *,
    generator: torch.Generator | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    label: str = "training",
    accelerator: Any = None,
    on_step: Callable[["Progress"], None] | None = None,
) -> FitResult:
    """Train ``model`` in place by AdamW and leave the averaged weights in it.

    Args:
        model: trained in its own precision; moved to ``device``.
        loss: ``loss(model, batch, generator)`` returning a 0-d tensor; all its randomness from ``generator``, which lives on ``device``.
        data: samples ``(N, ...)``; or a tuple of such tensors, ``(images, labels)``, of which the loss gets a tuple; or a sampler
            ``data(n, generator)``, such as ``mixture.sample``, which gets a generator on the CPU.
        config: see :class:`TrainConfig`.
        generator: source of the two seeds in place of ``config.seed``.
        device: default ``settings.device``.
        checkpoint: file to keep the state of the run in, written every ``checkpoint_every`` steps and at the end.
        resume: continue from ``checkpoint``, which must exist; the model's own weights and ``generator`` are then of no account.
        label: name on the progress bar, which is drawn where ``settings.progress`` holds.
        accelerator: an ``accelerate.Accelerator``, see :func:`mathcore.training.make_accelerator`; the run then computes on its device and together
            with its other processes. Every process calls ``fit`` with the same arguments; the first one writes the checkpoint, which all must
            be able to read. Result: that of one process with the same ``batch_size`` and ``accumulate`` times the number of processes, to rounding.
        on_step: called after every step, in the first process only, as ``on_step(progress)``; it must not draw from the generators of the run.

    Returns:
        The model and its losses.

    Raises:
        TypeError, ValueError: data, loss or accelerator of the wrong kind; ``resume`` without ``checkpoint``; a batch that cannot be divided equally.
        FloatingPointError: NaN or infinity in the loss or the gradient; names the step. The last checkpoint stays as it is.
        KeyboardInterrupt: Ctrl-C, after the step under way and its checkpoint; a second one at once.
        Terminated: SIGTERM, in the same way, as a SystemExit.
        CheckpointError: on ``resume``, a missing, damaged or foreign checkpoint, or one of another run; a checkpoint that cannot be written, the disk
            being full, say: the one before it stays.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the checkpoint to resume from")
    engine = Engine(accelerator, config, settings.device if device is None else torch.device(device))
    draw = _sampler(data, engine.device)
    run = Trainer(model, loss, config, engine, generator)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and engine.rank == 0:
        remove_unfinished(path)
    if resume and path is not None:
        run.restore(path)
    _advance_all(run, draw, path, checkpoint_every, label, on_step)
    if config.ema:
        torch._foreach_copy_([p.detach() for p in run.parameters], run.average)
    model.zero_grad()
    return FitResult(model.eval(), run.losses)


def _advance_all(run: Trainer, draw: Callable, path: Path | None, every: int, label: str, on_step: Callable | None) -> None:
    """Take the remaining steps, with a progress bar and checkpoints; on Ctrl-C or SIGTERM, in one process, one more of the step just taken."""
    from tqdm.auto import tqdm

    saved, first = run.step, run.engine.rank == 0
    alone = path is not None and run.engine.processes == 1
    with (
        tqdm(total=run.config.steps, initial=run.step, desc=label, disable=not (settings.progress and first), leave=False) as bar,
        held_back(alone) as signalled,
    ):
        while run.step < run.config.steps:
            try:
                run.advance(draw(run.config.batch_size, run.for_batches))
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}: lower the learning rate or look at the loss{_kept(path, saved)}") from None
            bar.update()
            if run.step % 20 == 0:
                bar.set_postfix(loss=f"{run.losses[run.step - 20 : run.step].mean():.4f}", refresh=False)
            if path is not None and first and (run.step % every == 0 or run.step == run.config.steps):
                _save(run, path, saved)
                saved = run.step
            if on_step is not None and first:
                on_step(Progress(run))
            if (end := signalled()) is not None:
                if path is not None and saved < run.step:
                    _save(run, path, saved)
                raise end
    run.engine.wait()


def _save(run: Trainer, path: Path, saved: int) -> None:
    """Write the checkpoint, or say what is left of the one before."""
    try:
        run.save(path)
    except OSError as error:
        why = error.strerror or error
        raise CheckpointError(f"the checkpoint of step {run.step} could not be written to {path}: {why}{_kept(path, saved)}") from error


def _kept(path: Path | None, saved: int) -> str:
    """What there is to go on from."""
    return f"; the checkpoint of step {saved} is in {path}" if path is not None and saved else ""
