"""How to train: the numbers of a run, the learning rate and the weight average as functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mathcore._validate import one_of, positive
from mathcore.settings import settings

Batch = Tensor | tuple[Tensor, ...]
Loss = Callable[[Any, Any, torch.Generator], Tensor]
Data = Tensor | tuple[Tensor, ...] | Callable[..., Any]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; everything but the model, the loss and the data.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step, drawn with replacement; over all processes and parts, so that neither of them changes what a step is.
        lr: learning rate of AdamW after the warm-up.
        warmup: steps over which the rate rises linearly to ``lr``.
        decay: ``"constant"``, or ``"cosine"`` down to zero at the last step.
        ema: largest decay of the weight average (see :func:`ema_decay`); 0 keeps the last weights.
        grad_clip: largest norm of the whole gradient, or None.
        weight_decay: of AdamW.
        seed: of the generators for batches and loss.
        bfloat16: run the forward pass under bfloat16 autocast; by default what ``settings.precision`` says.
        accumulate: parts in which each process computes its share of the batch, one after the other: memory for time. The loss must then be a mean
            over the samples.
        compile: run the model through ``torch.compile``.
        channels_last: keep images and the weights of convolutions with the channels innermost, the order that tensor cores want.

    Raises:
        ValueError: a count, rate or decay out of range; an unknown ``decay``; a switch that is neither True nor False.
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
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup", 0), ("seed", 0), ("accumulate", 1)):
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
        for name in ("bfloat16", "compile", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be divided into accumulate = {self.accumulate} equal parts")


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
