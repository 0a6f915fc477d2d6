"""What a run looks like: grids of images, clouds of points, the loss curve; all of them files."""

import math
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mathcore._validate import count, floating


def image_grid(images: Float[Tensor, "n c h w"], columns: int | None = None) -> UInt8[Tensor, "3 rows columns"]:
    """Return images in [-1, 1] as one picture, ``(3, rows, columns)`` in 0..255, with two pixels between them; small ones are enlarged.

    Values outside of [-1, 1] are shown as the nearest end: a picture has no other colours.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not ``(N, 1, H, W)`` or ``(N, 3, H, W)`` with N at least 1, NaN, or fewer than one column.
    """
    floating(images, "images", ndim=4)
    n, channels, height, width = images.shape
    if n == 0 or channels not in (1, 3):
        raise ValueError(f"images must have shape (N, 1, H, W) or (N, 3, H, W), got {tuple(images.shape)}")
    columns = math.ceil(math.sqrt(n)) if columns is None else count(columns, "columns")
    times = max(1, 32 // max(height, width))
    shown = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(n, 3, height, width)
    shown = shown.repeat_interleave(times, 2).repeat_interleave(times, 3)
    rows, (h, w), gap = math.ceil(n / columns), shown.shape[2:], 2
    grid = torch.full((3, rows * (h + gap) + gap, columns * (w + gap) + gap), 255, dtype=torch.uint8)
    for k in range(n):
        top, left = gap + k // columns * (h + gap), gap + k % columns * (w + gap)
        grid[:, top : top + h, left : left + w] = shown[k]
    return grid


def save_grid(samples: Tensor, path: str | Path) -> UInt8[Tensor, "3 rows columns"]:
    """Write a picture of samples, a grid of images ``(N, C, H, W)`` or a scatter plot of points ``(N, 2)``, and return its pixels.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: samples of another shape, or NaN.
        OSError: the file cannot be written.
    """
    from PIL import Image

    floating(samples, "samples")
    if samples.ndim != 4 and (samples.ndim != 2 or samples.shape[1] != 2):
        raise ValueError(f"samples must be images (N, C, H, W) or points (N, 2), got shape {tuple(samples.shape)}")
    pixels = image_grid(samples) if samples.ndim == 4 else _scatter(samples)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(path)
    return pixels


def _scatter(points: Float[Tensor, "n 2"]) -> UInt8[Tensor, "3 rows columns"]:
    """Pixels of a scatter plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")  # no pyplot: a training run must not touch a notebook's figures
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    x, y = points.detach().double().cpu().T
    axes.scatter(x.numpy(), y.numpy(), s=4, alpha=0.5, linewidths=0)
    axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    canvas.draw()
    return torch.tensor(canvas.buffer_rgba().tolist(), dtype=torch.uint8)[..., :3].permute(2, 0, 1)


def loss_curve(losses: Float[Tensor, " steps"], path: str | Path, title: str = "") -> None:
    """Write the loss of every step, and its mean over the last hundredth of the run so far, as a PNG.

    Raises:
        ValueError: no losses, or NaN. OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    values = floating(losses, "losses", ndim=1).detach().double().cpu()
    if len(values) == 0:
        raise ValueError("losses must hold at least one value")
    window = max(1, len(values) // 100)
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), values.cumsum(0)])
    smooth = (sums[window:] - sums[:-window]) / window
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(values) + 1), values.numpy(), linewidth=0.5, alpha=0.4, label="each step")
    axes.plot(range(window, len(values) + 1), smooth.numpy(), linewidth=1.5, label=f"mean of {window}")
    axes.set(xlabel="step", ylabel="loss", title=title)
    if float(values.min()) > 0:
        axes.set_yscale("log")
    axes.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
