"""The training loop, one for every loss of the book.

>>> result = fit(TimeMLP(2), loss, mixture.sample, TrainConfig(steps=2000))      # loss(model, batch, generator) -> scalar

A run is a function of the initial weights, the data and the configuration: batches and the loss draw from two generators seeded by the
configuration, and both are in the checkpoint, so that on the CPU a resumed run ends in the same bits as one never interrupted. (Layers that
draw from torch's global generator, such as dropout, are outside of this promise.)
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import one_of, positive
from mathcore.settings import settings
from mathcore.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint

Batch = Tensor | tuple[Tensor, ...]
Loss = Callable[[Any, Any, torch.Generator], Tensor]
Data = Tensor | tuple[Tensor, ...] | Callable[..., Any]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; everything but the model, the loss and the data.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step, drawn with replacement.
        lr: learning rate of AdamW after the warm-up.
        warmup: steps over which the rate rises linearly to ``lr``.
        decay: ``"constant"``, or ``"cosine"`` down to zero at the last step.
        ema: largest decay of the weight average (see :func:`ema_decay`); 0 keeps the last weights.
        grad_clip: largest norm of the whole gradient, or None.
        weight_decay: of AdamW.
        seed: of the generators for batches and loss.
        bfloat16: run the forward pass under bfloat16 autocast; by default what ``settings.precision`` says.

    Raises:
        ValueError: a count, rate or decay out of range; an unknown ``decay``.
    """

    steps: int
    batch_size: int = 128
    lr: float | int = 1e-3
    warmup: int = 100
    decay: str = "constant"
    ema: float | int = 0.995
    grad_clip: float | int | None = 1.0
    weight_decay: float | int = 0.0
    seed: int = 0
    bfloat16: bool = field(default_factory=lambda: settings.precision == "bfloat16")

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        positive(float(self.lr), "lr")
        one_of(self.decay, ("constant", "cosine"), "decay")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.grad_clip is not None:
            positive(float(self.grad_clip), "grad_clip")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay}")


@dataclass
class FitResult:
    """A finished training run.

    Attributes:
        model: the model that was passed in, on its device, now holding the averaged weights, in evaluation mode.
        losses: the loss at every step, float64 ``(steps,)`` on the CPU.
    """

    model: nn.Module
    losses: Float[Tensor, " steps"]


def ema_decay(step: int, largest: float | int) -> float:
    """Decay of the weight average at step 1, 2, ...: ``min(largest, (1 + step) / (10 + step))``.

    The average then always reaches over about the last tenth of the run at most, so it forgets the initial weights in a short run too.
    """
    return min(float(largest), (1 + step) / (10 + step))


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of step 1, 2, ...: linear warm-up times the chosen decay."""
    rise = min(1.0, step / config.warmup) if config.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * (step - 1) / config.steps)) if config.decay == "cosine" else 1.0
    return float(config.lr) * rise * fall


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


class _Trainer:
    """The whole state of a run: everything that one step reads and changes, and nothing else."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device, generator: torch.Generator | None) -> None:
        self.model, self.config, self.device = model.to(device).train(), config, device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameters to train")
        self.optimizer = torch.optim.AdamW(self.parameters, lr=float(config.lr), weight_decay=float(config.weight_decay), fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        if generator is None:
            seeds = [2 * config.seed, 2 * config.seed + 1]
        else:
            seeds = torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()
        self.for_batches = torch.Generator().manual_seed(seeds[0])
        self.for_loss = torch.Generator(device).manual_seed(seeds[1])
        self.step = 0
        self.losses = torch.empty(config.steps, dtype=torch.float64)

    def advance(self, loss: Loss, batch: Any) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss or the gradient is NaN or infinite; the weights are then as before the step.
        """
        config, step = self.config, self.step + 1
        autocast: AbstractContextManager = torch.autocast(self.device.type, torch.bfloat16) if config.bfloat16 else nullcontext()
        self.optimizer.zero_grad()
        with autocast:
            value = loss(self.model, batch, self.for_loss)
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            what = f"shape {tuple(value.shape)}, requires_grad={value.requires_grad}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"the loss must return a 0-d tensor that depends on the weights of the model, got {what}")
        number = value.item()
        if not math.isfinite(number):
            raise FloatingPointError(f"the loss is {number} at step {step}")
        value.backward()
        limit = math.inf if config.grad_clip is None else float(config.grad_clip)
        norm = nn.utils.clip_grad_norm_(self.parameters, limit).item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradient is {norm} at step {step}, where the loss is {number:.4g}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - ema_decay(step, config.ema))
        self.losses[self.step] = number
        self.step = step

    def save(self, path: Path) -> None:
        """Write the state to ``path``."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{i}": v for i, v in enumerate(self.average)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        tensors |= {"generator/batches": self.for_batches.get_state(), "generator/loss": self.for_loss.get_state()}
        tensors["losses"] = self.losses[: self.step]
        save_checkpoint(path, tensors, {"kind": "training", "step": self.step, "config": asdict(self.config)})

    def restore(self, path: Path) -> None:
        """Take the state from ``path``.

        Raises:
            CheckpointError: missing, damaged or foreign file; another configuration (more steps at a constant rate are welcome) or model.
        """
        tensors, metadata = load_checkpoint(path)
        if metadata.get("kind") != "training":
            raise CheckpointError(f"{path} is no training checkpoint but {metadata.get('kind')!r}")
        self._compare(metadata, path)
        grouped: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}, "generator": {}}
        for name, value in tensors.items():
            head, _, rest = name.partition("/")
            if rest:
                grouped[head][rest] = value
        try:
            self.model.load_state_dict(grouped["model"])
            torch._foreach_copy_(self.average, [grouped["average"][str(i)] for i in range(len(self.average))])
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in grouped["optimizer"].items():
                index, _, key = name.partition("/")
                state.setdefault(int(index), {})[key] = value
            self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
            self.for_batches.set_state(grouped["generator"]["batches"])
            self.for_loss.set_state(grouped["generator"]["loss"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"checkpoint {path} does not fit this model or device: {error}") from error
        self.step = metadata["step"]
        self.losses[: self.step] = tensors["losses"]

    def _compare(self, metadata: dict[str, Any], path: Path) -> None:
        """Raise unless the run can be continued under the present configuration."""
        theirs, ours = metadata["config"], asdict(self.config)
        differing = {k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)}
        if self.config.decay == "constant" and metadata["step"] <= self.config.steps:
            differing.discard("steps")
        if differing:
            what = ", ".join(f"{k} = {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in sorted(differing))
            raise CheckpointError(f"checkpoint {path} belongs to another configuration: {what}")


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

    Returns:
        The model and its losses.

    Raises:
        TypeError, ValueError: data or loss of the wrong kind; ``resume`` without ``checkpoint``.
        FloatingPointError: NaN or infinity in the loss or the gradient; names the step. The last checkpoint stays as it is.
        CheckpointError: on ``resume``, a missing, damaged or foreign checkpoint, or one of another run.
    """
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the checkpoint to resume from")
    place = settings.device if device is None else torch.device(device)
    draw = _sampler(data, place)
    run = _Trainer(model, config, place, generator)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None:
        run.restore(path)
    _advance_all(run, loss, draw, path, checkpoint_every, label)
    if config.ema:
        torch._foreach_copy_([p.detach() for p in run.parameters], run.average)
    model.zero_grad()
    return FitResult(model.eval(), run.losses)


def _advance_all(run: _Trainer, loss: Loss, draw: Callable, path: Path | None, every: int, label: str) -> None:
    """Take the remaining steps, with a progress bar and checkpoints."""
    from tqdm.auto import tqdm

    saved = run.step
    with tqdm(total=run.config.steps, initial=run.step, desc=label, disable=not settings.progress, leave=False) as bar:
        while run.step < run.config.steps:
            try:
                run.advance(loss, draw(run.config.batch_size, run.for_batches))
            except FloatingPointError as error:
                kept = f"; the checkpoint of step {saved} is in {path}" if path is not None and saved else ""
                raise FloatingPointError(f"{error}: lower the learning rate or look at the loss{kept}") from None
            bar.update()
            if run.step % 20 == 0:
                bar.set_postfix(loss=f"{run.losses[run.step - 20 : run.step].mean():.4f}", refresh=False)
            if path is not None and (run.step % every == 0 or run.step == run.config.steps):
                run.save(path)
                saved = run.step
