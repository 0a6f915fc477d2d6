"""Which device a command runs on, and with how many threads."""

import os

import torch

from mathcore.experiments.runs import Run
from mathcore.settings import settings


def choose_device(asked: str | None, scale: str = "cpu") -> torch.device:
    """Return the device called ``asked`` and make it that of ``settings``; by default CUDA for the full size, and what ``settings`` says else.

    Raises:
        ValueError: no such device, or none of that kind on this machine; the message says what to do.
    """
    if asked is not None:
        try:
            settings.device = asked
        except ValueError as error:
            raise ValueError(str(error).replace("settings.device", "--device")) from None
    elif scale == "gpu" and settings.device.type == "cpu":
        if not torch.cuda.is_available():
            raise ValueError(
                "the full size wants a GPU and torch sees none on this machine: --size cpu is the small one, --device cpu runs the full one here all the same, for days"
            )
        settings.device = "cuda"
    return settings.device


def full_size_on_cpu(scale: str, device: torch.device) -> bool:
    """Whether a command is about to compute at the full size on a CPU, of which the user should hear before the wait."""
    return scale == "gpu" and device.type == "cpu"


def told_of_sampling(run: Run, n: int, steps: int) -> None:
    """Say that samples of a full-size model take their time on a CPU, if that is where they are to be drawn."""
    if full_size_on_cpu(run.scale, run.device):
        elsewhere = ", or on the GPU with --device cuda" if torch.cuda.is_available() else ""
        print(
            f"{run.name} at its full size on a CPU: {n} samples in {steps} steps may take long; fewer with -n and --steps{elsewhere}",
            flush=True,
        )


def spare_threads(scale: str, device: torch.device) -> None:
    """Use one thread for the small size on the CPU, unless ``OMP_NUM_THREADS`` is set: its networks are too small to share.

    Two threads that wait for each other on a busy machine were several times slower than one.
    """
    if scale == "cpu" and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
