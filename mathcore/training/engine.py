"""Where a run computes: one process and plain torch, or one of several processes of ``accelerate``, which brings the gradients together."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mathcore.training.config import TrainConfig


class LossModule(nn.Module):
    """The loss as a module around the model: the one call per batch that the engine of several processes wraps.

    A loss may call the model often, or its methods, or differentiate it forwards; wrapping the model itself would forbid all of that.
    """

    def __init__(self, model: nn.Module, called: Callable, loss: Callable) -> None:
        super().__init__()
        self.model = model
        self._plain = (called, loss)  # in a tuple, lest a module in it be registered and its weights counted twice

    def forward(self, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        called, loss = self._plain
        return loss(called, batch, generator)


class Engine:
    """What the loop asks of the place that it runs in; without an ``accelerator`` every answer is the plain one.

    Raises:
        TypeError: something that is no ``accelerate.Accelerator``.
        ValueError: an accelerator that shards the model, accumulates by itself, or computes in another precision than the configuration.
    """

    def __init__(self, accelerator: Any, config: TrainConfig, device: torch.device) -> None:
        self.accelerator, self.config, self.device = accelerator, config, device
        self.processes, self.rank = 1, 0
        if accelerator is not None:
            _check(accelerator, config)
            self.device, self.processes, self.rank = accelerator.device, accelerator.num_processes, accelerator.process_index
        self.parts = self.processes * config.accumulate
        if config.batch_size % self.parts:
            raise ValueError(
                f"batch_size {config.batch_size} cannot be divided equally among {self.processes} processes times accumulate = {config.accumulate}"
            )

    def wrap(self, objective: LossModule) -> nn.Module:
        """Return the module to call for a loss; in several processes, its weights are now those of the first one."""
        return objective if self.accelerator is None else self.accelerator.prepare_model(objective)

    def autocast(self) -> AbstractContextManager:
        """Bfloat16 autocast where the configuration wants it."""
        if not self.config.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16) if self.accelerator is None else self.accelerator.autocast()

    def apart(self, module: nn.Module) -> AbstractContextManager:
        """Gradients computed inside stay in this process."""
        return nullcontext() if self.accelerator is None else self.accelerator.no_sync(module)

    def backward(self, value: Tensor) -> None:
        """Add the gradient of ``value`` to that of the weights, averaged over the processes."""
        if self.accelerator is None:
            value.backward()
        else:
            self.accelerator.backward(value)

    def mean(self, number: float) -> float:
        """The mean of one number over the processes, known to all of them."""
        if self.processes == 1:
            return number
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return float(self.accelerator.reduce(torch.tensor(number, dtype=dtype, device=self.device), reduction="mean"))

    def share(self, batch: Any) -> list[Any]:
        """The parts of a batch that this process computes.

        Raises:
            ValueError: the sampler returned another number of samples than asked for, and there are parts to make.
        """
        if self.parts == 1:
            return [batch]
        got = {len(x) for x in (batch if isinstance(batch, tuple) else (batch,))}
        if got != {self.config.batch_size}:
            raise ValueError(f"data was asked for {self.config.batch_size} samples and returned {sorted(got)}")
        size, first = self.config.batch_size // self.parts, self.rank * self.config.accumulate
        places = [slice(k * size, (k + 1) * size) for k in range(first, first + self.config.accumulate)]
        return [tuple(x[place] for x in batch) if isinstance(batch, tuple) else batch[place] for place in places]

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.processes > 1:
            self.accelerator.wait_for_everyone()


def _check(accelerator: Any, config: TrainConfig) -> None:
    """Raise unless the loop can run in ``accelerator``; see :class:`Engine`."""
    from accelerate import Accelerator

    if not isinstance(accelerator, Accelerator):
        raise TypeError(f"accelerator must be an accelerate.Accelerator, got {type(accelerator).__name__}")
    kind = accelerator.distributed_type.value
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ValueError(
            f"training runs with whole copies of the model in each process (NO, MULTI_CPU, MULTI_GPU); accelerate is set to {kind}"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"set TrainConfig.accumulate instead of the accelerator's gradient_accumulation_steps = {accelerator.gradient_accumulation_steps}"
        )
    if accelerator.mixed_precision != ("bf16" if config.bfloat16 else "no"):
        raise ValueError(
            f"the configuration has bfloat16 = {config.bfloat16}, but accelerate has mixed_precision {accelerator.mixed_precision!r}"
        )


def launched() -> bool:
    """Whether this process is one of several that ``accelerate launch`` or ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_process() -> bool:
    """Whether this process is the only one, or the first of those that the launcher started on all machines."""
    return os.environ.get("RANK", "0") == "0"


def make_accelerator(config: TrainConfig, device: str | torch.device | None = None) -> Any:
    """Return the ``accelerate.Accelerator`` that a run with ``config`` wants; call it before anything is put on a device.

    Under ``accelerate launch`` (or ``torchrun``) it joins the processes; alone it is one process with the precision of ``config``.

    Args:
        device: ``"cpu"`` or ``"cuda"``; default: that of ``settings``. Which card of several a process gets is up to the launcher.

    Raises:
        RuntimeError: ``accelerate`` is not installed.
        ValueError: another precision was asked of the launcher than of ``config``; a device that this process does not get.
    """
    from mathcore.settings import settings

    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise RuntimeError("training in several processes needs the package accelerate: pip install 'mathcore[full]'") from error
    place, precision = torch.device(device or settings.device), "bf16" if config.bfloat16 else "no"
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise ValueError(f"accelerate was launched with mixed precision {asked!r}, but the configuration has bfloat16 = {config.bfloat16}")
    accelerator = Accelerator(cpu=place.type == "cpu", mixed_precision=precision)
    if accelerator.device.type != place.type:
        raise ValueError(f"device {place} was asked for, but accelerate gives this process {accelerator.device}")
    return accelerator
