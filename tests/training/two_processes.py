"""Run under a launcher by the tests of the engine: several short trainings, their results written by the first process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from mathcore.networks import TimeMLP
from mathcore.training import TrainConfig, fit, launched, make_accelerator
from mathcore.training.checkpoints import save_checkpoint

torch.set_num_threads(1)


def data(n, generator):
    """Points with their noise and times, so that a loss of them needs no generator."""
    return torch.randn(n, 2, generator=generator), torch.randn(n, 2, generator=generator), torch.rand(n, generator=generator)


def fixed(model, batch, generator):
    x, noise, t = batch
    return (model(x + t[:, None] * noise, t) - noise).square().mean()


def drawn(model, batch, generator):
    x = batch[0]
    t, noise = torch.rand(len(x), generator=generator), torch.randn(x.shape, generator=generator)
    return (model(x + t[:, None] * noise, t) - noise).square().mean()


def broken(model, batch, generator):
    """Infinite on the second half of the batch alone, which one process computes."""
    return fixed(model, batch, generator) / (batch[0][0, 0] != MARK).float()


MARK = float(data(16, torch.Generator().manual_seed(0))[0][8, 0])

RUNS = {
    "fixed": (fixed, {}),
    "accumulated": (fixed, {"accumulate": 2}),
    "drawn": (drawn, {"decay": "cosine", "weight_decay": 0.01}),
}


def network(seed):
    torch.manual_seed(seed)
    return TimeMLP(2, hidden=8, depth=2, d_embed=8)


def config(**options):
    return TrainConfig(steps=12, batch_size=16, warmup=3, ema=0.9, bfloat16=False, **options)


def main(folder):
    from mathcore.settings import settings

    settings.progress = False
    settings.device = "cpu"
    accelerator = make_accelerator(config())
    first, calls = accelerator.is_main_process, []
    for name, (loss, options) in RUNS.items():
        # weights of the second process differ, and must be replaced by those of the first
        fit(
            network(accelerator.process_index),
            loss,
            data,
            config(**options),
            checkpoint=folder / name,
            accelerator=accelerator,
            on_step=calls.append,
        )
    # the first half alone, then the rest from its file
    half = replace(config(), steps=5)
    fit(network(0), fixed, data, half, checkpoint=folder / "resumed", accelerator=accelerator)
    fit(network(7), fixed, data, config(), checkpoint=folder / "resumed", accelerator=accelerator, resume=True)
    try:
        fit(network(0), broken, data, config(), accelerator=accelerator)
        error = "none"
    except FloatingPointError as raised:
        error = str(raised)
    record = {"processes": accelerator.num_processes, "launched": launched(), "calls": len(calls), "error": error}
    (folder / f"process-{accelerator.process_index}.json").write_text(json.dumps(record))
    if first:
        save_checkpoint(folder / "ready", {"one": torch.ones(1)}, {})
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
