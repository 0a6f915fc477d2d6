"""Training and sampling beside diffusers: our loop and U-Net, a plain loop and UNet2DModel of as many parameters, on the same batches.

    python -m benchmarks.training [steps|sampling|all] [--device cuda]

steps       optimiser steps per second of both loops around both networks
sampling    images per second of a DDIM table and of DDIMPipeline, again with both networks

Ratios of one run on one machine count, nothing else does. Each part prints its table and writes benchmarks/results/training-*.json. On a GPU the networks
and batches are larger, and what is measured is the time of the wall until the device has done its work.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _peers
from benchmarks._report import save, table
from mathcore import solvers
from mathcore.networks import UNet
from mathcore.schedules import AffineSchedule
from mathcore.training import TrainConfig
from mathcore.training.engine import Engine
from mathcore.training.trainer import Trainer

SEED = 1
SIZES = {
    # ours: width and multiples; theirs: channels of the blocks, chosen so that the numbers of parameters agree to 2 %
    8: ((16, (1, 2)), (16, 24)),
    28: ((32, (1, 2)), (24, 48)),
}
LARGE = {28: ((64, (1, 2, 2)), (56, 88, 88)), 32: ((128, (1, 2, 2, 2)), (104, 176, 176, 176))}
"""Sizes on a GPU, chosen in the same way."""

BATCH, SAMPLES = {"cpu": 32, "cuda": 256}, {"cpu": 16, "cuda": 256}
VP = AffineSchedule.vp()
STEPS = 10


def networks(large: bool) -> dict[int, Any]:
    """The sizes of a device."""
    return LARGE if large else SIZES


def our_network(size: int, large: bool = False) -> nn.Module:
    """The U-Net of the library; time in [0, 1]."""
    width, mults = networks(large)[size][0]
    return UNet(1, size, width=width, mults=mults)


def their_network(size: int, large: bool = False) -> nn.Module:
    """UNet2DModel with one layer per block, plain convolutional blocks and attention in the middle, as in ours; time in 0..999."""
    import diffusers

    channels = networks(large)[size][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diffusers.UNet2DModel(
            sample_size=size,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
            norm_num_groups=8,
            attention_head_dim=channels[-1],
        )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def operations(model: nn.Module, size: int) -> int:
    """Multiplications and additions of one call with one image: equal numbers of parameters need not mean equal work."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(torch.zeros(1, 1, size, size), torch.zeros(1))
    return counted.get_total_flops()


class Called(nn.Module):
    """UNet2DModel under the signature of ours."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, t: Any) -> Tensor:
        return self.inner(x, t * 999.0).sample


def noise_loss(model: nn.Module, x0: Tensor, generator: torch.Generator) -> Tensor:
    """Both losses: predict the noise at a random time."""
    t = torch.rand(len(x0), generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    level = t[:, None, None, None]
    return (model((1 - level) * x0 + level * noise, t) - noise).square().mean()


def plain_step(model: nn.Module) -> Callable[[Tensor, torch.Generator], None]:
    """The loop of a tutorial: AdamW, clipping, a running average of the weights by diffusers' EMAModel."""
    from diffusers.training_utils import EMAModel

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    average = EMAModel(model.parameters(), decay=0.995)

    def step(x: Tensor, generator: torch.Generator) -> None:
        optimizer.zero_grad()
        noise_loss(model, x, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.step(model.parameters())

    return step


def our_step(model: nn.Module) -> Callable[[Tensor, torch.Generator], None]:
    """One step of the library's loop, with its average, clipping, learning rate, checks and record of the loss."""
    device = next(model.parameters()).device
    config = TrainConfig(steps=100_000, batch_size=BATCH[device.type], lr=1e-4, warmup=0, bfloat16=False)
    run = Trainer(model, noise_loss, config, Engine(None, config, device), None)
    return lambda x, generator: run.advance(x)


def least(runs: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Least time of each, all of them in turn: of this thread, so that other work on the machine does not count; on a GPU until it is done."""

    def now() -> float:
        if device == "cpu":
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    best = dict.fromkeys(runs, float("inf"))
    for k in range(repeats + 1):
        for name, run in runs.items():
            start = now()
            run()
            if k:  # the first round warms up
                best[name] = min(best[name], now() - start)
    return best


def training(size: int, repeats: int = 12, device: str = "cpu") -> dict[str, Any]:
    """Steps per second of both loops around both networks."""
    torch.manual_seed(SEED)
    generator, large = torch.Generator(device).manual_seed(SEED), device != "cpu"
    x = torch.randn(BATCH[device], 1, size, size, generator=generator, device=device)
    both = {"our": lambda: our_network(size, large), "their": lambda: Called(their_network(size, large))}
    steps = {
        f"{loop} loop, {name} network": make(network().to(device))
        for name, network in both.items()
        for loop, make in (("our", our_step), ("plain", plain_step))
    }
    seconds = least({name: lambda step=step: step(x, generator) for name, step in steps.items()}, repeats, device)
    return {
        "size": size,
        "batch": BATCH[device],
        "parameters": {name: parameters(network()) for name, network in both.items()},
        "operations_per_image": {name: operations(network(), size) for name, network in both.items()},
        "steps_per_second": {name: 1 / s for name, s in seconds.items()},
        "ratios": {
            "ours over theirs, loop and network": seconds["plain loop, their network"] / seconds["our loop, our network"],
            "our loop over the plain one, our network": seconds["plain loop, our network"] / seconds["our loop, our network"],
            "our loop over the plain one, their network": seconds["plain loop, their network"] / seconds["our loop, their network"],
            "our network over theirs, plain loop": seconds["plain loop, their network"] / seconds["plain loop, our network"],
        },
    }


def sampling(size: int, repeats: int = 5, device: str = "cpu") -> dict[str, Any]:
    """Images per second of a table of DDIM steps and of DDIMPipeline, whose random start is drawn in both."""
    import diffusers

    torch.manual_seed(SEED)
    large, images = device != "cpu", SAMPLES[device]
    generator, peer = torch.Generator(device).manual_seed(SEED), their_network(size, large).eval().to(device)
    ours, theirs = our_network(size, large).eval().to(device), Called(peer).eval()
    made = solvers.ddim(VP, solvers.grids.uniform_lambda(VP, STEPS), "noise")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.DDIMPipeline(peer, _peers.scheduler("DDIMScheduler", {"clip_sample": False})).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def by_table(model: nn.Module) -> None:
        with torch.no_grad():
            made.run(model, torch.randn(images, 1, size, size, generator=generator, device=device))

    def by_pipeline() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline(batch_size=images, generator=generator, num_inference_steps=STEPS, output_type="np")

    runs = {
        "table, our network": lambda: by_table(ours),
        "table, their network": lambda: by_table(theirs),
        "pipeline, their network": by_pipeline,
    }
    seconds = least(runs, repeats, device)
    return {
        "size": size,
        "images": images,
        "steps": STEPS,
        "images_per_second": {name: images / s for name, s in seconds.items()},
        "ratios": {
            "ours over theirs, sampler and network": seconds["pipeline, their network"] / seconds["table, our network"],
            "table over pipeline, their network": seconds["pipeline, their network"] / seconds["table, their network"],
        },
    }


PARTS = {"steps": (training, "steps_per_second"), "sampling": (sampling, "images_per_second")}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--device", default="cpu", choices=list(BATCH))
    options = parser.parse_args(arguments)
    part, device = options.part, options.device
    reason = _peers.missing()
    if reason:
        print(f"left out: {reason}")
        return
    for name in PARTS if part == "all" else [part]:
        measure, speeds = PARTS[name]
        results = [measure(size, device=device) for size in networks(device != "cpu")]
        for found in results:
            print(f"\n{name}, {found['size']}x{found['size']}: {speeds.replace('_', ' ')}")
            if "parameters" in found:
                table(
                    ["", "parameters", "operations"],
                    [[n, found["parameters"][n], found["operations_per_image"][n]] for n in found["parameters"]],
                )
            table(["", "per second"], list(found[speeds].items()))
            table(["", "times"], list(found["ratios"].items()))
        given, kept = (f" --device {device}", f"-{device}") if device != "cpu" else ("", "")
        save(f"training-{name}{kept}", results, f"python -m benchmarks.training {name}{given}", SEED)


if __name__ == "__main__":
    sys.exit(main())
