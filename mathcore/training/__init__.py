"""Training: one loop for every loss, in one process or many, checkpoints that resume exactly, and a cache of finished runs."""

from mathcore.training.cache import run_cached
from mathcore.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from mathcore.training.config import TrainConfig, ema_decay
from mathcore.training.engine import launched, make_accelerator
from mathcore.training.loop import FitResult, Progress, fit

__all__ = [
    "CheckpointError",
    "FitResult",
    "Progress",
    "TrainConfig",
    "ema_decay",
    "fit",
    "launched",
    "load_checkpoint",
    "make_accelerator",
    "run_cached",
    "save_checkpoint",
]
