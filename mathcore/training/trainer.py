"""The state of a training run: one optimiser step, and the file that a run can be continued from."""

import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mathcore._validate import NotFiniteError
from mathcore.training.checkpoints import CheckpointError, digest_tensors, load_checkpoint, save_checkpoint
from mathcore.training.config import Loss, TrainConfig, ema_decay, learning_rate
from mathcore.training.engine import Engine, LossModule


class Trainer:
    """The whole state of a run: everything that one step reads and changes, and nothing else."""

    def __init__(self, model: nn.Module, loss: Loss, config: TrainConfig, engine: Engine, generator: torch.Generator | None) -> None:
        self.config, self.engine, self.device = config, engine, engine.device
        self.model = model.to(engine.device).train()
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameters to train")
        called = torch.compile(model, dynamic=False) if config.compile else model  # batches have one shape
        self.objective = engine.wrap(LossModule(model, called, loss))
        self.optimizer = torch.optim.AdamW(self.parameters, lr=float(config.lr), weight_decay=float(config.weight_decay), fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        if generator is None:
            seeds = [2 * config.seed, 2 * config.seed + 1]
        else:
            seeds = torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()
        self.for_batches = torch.Generator().manual_seed(seeds[0])
        self.for_loss = torch.Generator(self.device).manual_seed(seeds[1])
        self.step = 0
        self.gradient_norm = math.nan
        self.losses = torch.empty(config.steps, dtype=torch.float64)

    def advance(self, batch: Any) -> None:
        """One optimiser step.

        Raises:
            FloatingPointError: the loss, the gradient or a value on the way to them is NaN or infinite; the weights are then as before the
                step.
        """
        config, step = self.config, self.step + 1
        self.optimizer.zero_grad()
        try:
            number = self._differentiate(self.engine.share(batch))
        except (NotFiniteError, FloatingPointError) as error:  # found by a check or a solver inside the loss, which know no step
            raise FloatingPointError(f"{error}, at training step {step}") from error
        if not math.isfinite(number):
            raise FloatingPointError(f"the loss is {number} at step {step}")
        limit = math.inf if config.grad_clip is None else float(config.grad_clip)
        norm = nn.utils.clip_grad_norm_(self.parameters, limit).item()
        if not math.isfinite(norm):
            raise FloatingPointError(f"the norm of the gradient is {norm} at step {step}, where the loss is {number:.4g}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - ema_decay(step, config.ema))
        self.losses[self.step] = number
        self.step, self.gradient_norm = step, norm

    def _differentiate(self, parts: list[Any]) -> float:
        """Leave the gradient of the mean loss of all parts, of all processes, in the weights, and return that loss."""
        generators, numbers = self._generators(len(parts)), []
        for k, (part, generator) in enumerate(zip(parts, generators, strict=True)):
            with self.engine.apart(self.objective) if k + 1 < len(parts) else nullcontext():
                with self.engine.autocast():
                    value = self.objective(self._ordered(part), generator)
                _check_loss(value)
                self.engine.backward(value if len(parts) == 1 else value / len(parts))
            numbers.append(value.detach())
        return self.engine.mean(sum(v.item() for v in numbers) / len(numbers))

    def _generators(self, n: int) -> list[torch.Generator]:
        """The sources of randomness for the ``n`` parts of this process.

        One part of one process draws from the generator of the run. With more of them, that generator gives each part of the batch a seed of its own,
        the same in every process: the result then depends on the number of parts, and not on which process computes which.
        """
        if self.engine.parts == 1:
            return [self.for_loss]
        seeds = torch.randint(2**62, (self.engine.parts,), generator=self.for_loss, device=self.device).tolist()
        first = self.engine.rank * n
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds[first : first + n]]

    def _ordered(self, part: Any) -> Any:
        """Images with the channels innermost, where the configuration wants that."""
        if not self.config.channels_last:
            return part
        if isinstance(part, tuple):
            return tuple(self._ordered(x) for x in part)
        return part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part

    def save(self, path: Path) -> None:
        """Write the state to ``path``."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average/{i}": v for i, v in enumerate(self.average)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{k}": v for k, v in state.items()}
        tensors |= {"generator/batches": self.for_batches.get_state(), "generator/loss": self.for_loss.get_state()}
        tensors["losses"] = self.losses[: self.step]
        save_checkpoint(path, tensors, {"kind": "training", "step": self.step, "parts": self.engine.parts, "config": asdict(self.config)})

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
                number, _, key = name.partition("/")
                state.setdefault(int(number), {})[key] = value
            for index, values in state.items():  # laid out in memory like the weights that they belong to
                like = self.parameters[index]
                state[index] = {k: torch.empty_like(like).copy_(v) if v.shape == like.shape else v for k, v in values.items()}
            self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
            self.for_batches.set_state(grouped["generator"]["batches"])
            self._continue_noise(grouped["generator"]["loss"])
        except (RuntimeError, KeyError, IndexError) as error:
            raise CheckpointError(f"checkpoint {path} does not fit this model or device: {error}") from error
        self.step = metadata["step"]
        self.losses[: self.step] = tensors["losses"]

    def _continue_noise(self, state: Tensor) -> None:
        """Take up the randomness of the loss; from the state of another kind of device, whose generator is another one, a new sequence begins."""
        if state.shape == self.for_loss.get_state().shape:
            self.for_loss.set_state(state)
        else:
            self.for_loss.manual_seed(int(digest_tensors({"": state})[:15], 16))

    def _compare(self, metadata: dict[str, Any], path: Path) -> None:
        """Raise unless the run can be continued under the present configuration."""
        theirs, ours = metadata["config"], asdict(self.config)
        for config, parts in ((theirs, metadata.get("parts", 1)), (ours, self.engine.parts)):
            config["parts of a batch, processes times accumulate"] = parts
            config.pop("accumulate", None)
        differing = {k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)}
        if self.config.decay == "constant" and metadata["step"] <= self.config.steps:
            differing.discard("steps")
        if differing:
            what = ", ".join(f"{k} = {theirs.get(k)!r} there, {ours.get(k)!r} here" for k in sorted(differing))
            raise CheckpointError(f"checkpoint {path} belongs to another configuration: {what}")


def _check_loss(value: Any) -> None:
    """Raise unless the loss can be differentiated."""
    if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
        what = f"shape {tuple(value.shape)}, requires_grad={value.requires_grad}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the loss must return a 0-d tensor that depends on the weights of the model, got {what}")
