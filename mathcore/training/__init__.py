"""Training: one loop for every loss, checkpoints that resume exactly, and a cache of finished runs."""

from mathcore.training.cache import run_cached
from mathcore.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from mathcore.training.loop import FitResult, TrainConfig, ema_decay, fit

__all__ = ["CheckpointError", "FitResult", "TrainConfig", "ema_decay", "fit", "load_checkpoint", "run_cached", "save_checkpoint"]
