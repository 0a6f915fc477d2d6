"""``mathcore experiments``: what there is to train, at which sizes, and how long it takes."""

from typing import Any

import torch
from torch import nn

from mathcore.experiments.configs import Convolutional, Experiment, Size, as_setting, choices, keys_of
from mathcore.experiments.datasets import classes_of, shape_of
from mathcore.experiments.objectives.latent import VAEObjective
from mathcore.experiments.registry import EXPERIMENTS, experiment
from mathcore.experiments.runs import untrained

RATE = 100e12
"""Operations per second at which the full sizes are converted into hours: about a tenth of what the data sheet of an H100 says for bfloat16."""

WIDE = 120
"""Columns of a terminal from which on the table says what each experiment shows."""


def list_experiments() -> None:
    """Print the table of experiments."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("name", style="cyan", no_wrap=True)
    table.add_column("ch")
    for heading in ("cpu data", "time", "gpu data", "weights", "time"):
        table.add_column(heading, no_wrap=True, justify="left" if "data" in heading else "right")
    if console.width >= WIDE:
        table.add_column("what it shows")
    for e in EXPERIMENTS.values():
        weights, operations = cost(e.gpu)
        row = [e.name, e.chapter, e.cpu.data, e.cpu.measured, e.gpu.data, f"{weights / 1e6:.1f}M", _hours(e.gpu, operations) or "-"]
        table.add_row(*row, *([e.title] if console.width >= WIDE else []))
    console.print(table)
    console.print(_FOOTNOTE, highlight=False)


_FOOTNOTE = """
cpu time  measured: processor time of training on one core of a small server
gpu time  never run, an estimate: operations of the network at 100 TFLOP/s;
          - where the network is too small for them to decide
next      mathcore experiments NAME  shows one, with every key for --set"""


def show_experiment(name: str) -> None:
    """Print one experiment: both sizes with every key that ``--set`` takes.

    Raises:
        ValueError: unknown name.
    """
    from rich.console import Console
    from rich.table import Table

    e = experiment(name)
    console = Console()
    console.print(
        f"[bold cyan]{e.name}[/]  {e.title}\nchapter {e.chapter}, page {e.page}; samplers: {', '.join(e.cpu.objective.samplers)}",
        highlight=False,
    )
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("key for --set", "--size cpu", "--size gpu"):
        table.add_column(heading, no_wrap=True)
    table.add_column("accepts")
    small, full = keys_of(e.cpu), keys_of(e.gpu)
    for key in {**small, **full}:
        values = (as_setting(of[key]) if key in of else "[dim]-[/]" for of in (small, full))
        names = dict.fromkeys(name for size in (e.cpu, e.gpu) if key in keys_of(size) for name in choices(size, key))
        table.add_row(key, *values, ", ".join(names))
    console.print(table, highlight=False)
    console.print(f"\ncpu: {cost(e.cpu)[0]:,} weights, {e.cpu.measured} of one core, measured\ngpu: {_never_run(e)}", highlight=False)


def _never_run(e: Experiment) -> str:
    """Weights of the full size, and what is known of its time."""
    weights, operations = cost(e.gpu)
    estimate = _hours(e.gpu, operations)
    counted = "" if operations is None else f"; {operations:.1e} operations" + (f", {estimate} at 100 TFLOP/s" if estimate else "")
    return f"{weights:,} weights, never run{counted}"


def cost(size: Size) -> tuple[int, float | None]:
    """Return the number of weights, and the operations of the whole training counted without running it (three times those of the predictions).

    The network is laid out on torch's meta device: shapes only, no memory. The second is None where a step is more than one prediction and its derivative.
    """
    from torch.utils.flop_counter import FlopCounterMode

    shape, objective = shape_of(size.data), size.objective
    _ = objective.t_max  # the schedule is made before the meta device is on
    with torch.device("meta"):
        network = untrained(size, shape, classes_of(size.data))
        weights = sum(p.numel() for p in network.parameters())
        if hasattr(objective, "kind") or hasattr(objective, "ode_steps"):
            return weights, None
        if isinstance(objective, VAEObjective):  # perceptrons: a multiplication and an addition for each weight
            return weights, 3.0 * 2 * weights * size.train.batch_size * size.train.steps
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _predict(network, objective, torch.empty(size.train.batch_size, *shape))
    return weights, 3.0 * counter.get_total_flops() * size.train.steps


def _predict(network: nn.Module, objective: Any, x: torch.Tensor) -> None:
    """One prediction of a batch, as the loss asks for it."""
    if objective.labelled:
        network(x, torch.empty(len(x)), torch.empty(len(x), dtype=torch.int64))
    else:
        network(x, torch.empty(len(x)))


def _hours(size: Size, operations: float | None) -> str:
    """Estimated time at :data:`RATE`, for networks of images; empty for others."""
    if operations is None or not isinstance(size.network, Convolutional):
        return ""
    hours = operations / RATE / 3600
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
