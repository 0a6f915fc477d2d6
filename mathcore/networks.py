"""The two networks the book trains: an MLP for points and a small U-Net for images, both reading the time through sinusoids.

Both are smooth in ``x`` and ``t`` and made of operations that have forward-mode derivatives and batching rules, so ``torch.func.jvp``,
``jacfwd``, ``jacrev`` and ``vmap`` work on them (consistency and mean-flow training need the first). Nothing in ``forward`` looks at the
values of its inputs: there is no check for NaN here, only for shapes.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mathcore._types import Index, Time
from mathcore._validate import count, positive


def _times(t: float | int | Tensor, x: Tensor) -> Tensor:
    """Return ``t`` as ``(N,)`` on the device of ``x: (N, ...)``, in its dtype but at least float32 (index 999 must not round to 1000)."""
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    if isinstance(t, bool) or not isinstance(t, (int, float, Tensor)):
        raise TypeError(f"t must be a number or a tensor, got {type(t).__name__}")
    if not isinstance(t, Tensor):
        return torch.full(x.shape[:1], float(t), dtype=dtype, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape != x.shape[:1]):
        raise ValueError(f"t must be a number, 0-d, or of shape ({x.shape[0]},) like the batch; got shape {tuple(t.shape)}")
    return t.to(device=x.device, dtype=dtype).expand(x.shape[:1])


def _check(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise unless ``x`` is a floating tensor ``(N, *shape)`` of the precision of the weights."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got dtype {x.dtype}")
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x has dtype {x.dtype} and the weights have {dtype}; convert one of them")
    if x.shape[1:] != shape:
        raise ValueError(f"x must have shape (N, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def time_embedding(t: Float[Tensor, " n"], dim: int, max_frequency: float | int = 1000.0) -> Float[Tensor, "n dim"]:
    """Cosines and sines of ``t`` at ``dim / 2`` angular frequencies, geometric from 0.1 to ``max_frequency`` (Vaswani et al. 2017).

    With ``t = i / 1000`` and the default these are the frequencies of the DDPM code (Ho et al. 2020) at L = 1000.

    Args:
        t: times, shape ``(N,)``; one unit should be the length of the whole process.
        dim: even width of the embedding, at least 4.
        max_frequency: radians per unit of ``t``; the derivative in ``t`` is at most this large.

    Returns:
        Tensor ``(N, dim)``: the cosines, then the sines.

    Raises:
        ValueError: odd or too small ``dim``; ``max_frequency`` not above 0.1.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be even and at least 4, got {dim}")
    if not 0.1 < max_frequency < math.inf:
        raise ValueError(f"max_frequency must be finite and above 0.1, got {max_frequency}")
    powers = torch.arange(dim // 2, dtype=t.dtype, device=t.device) / (dim // 2 - 1)
    frequencies = 0.1 * (10.0 * max_frequency) ** powers
    angles = t[:, None] * frequencies  # (N, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeFeatures(nn.Module):
    """Learned features ``(N, d_embed)`` of a time: sinusoids of ``t / t_max``, then a two-layer perceptron."""

    def __init__(self, d_embed: int, t_max: float | int = 1.0, max_frequency: float | int = 1000.0) -> None:
        super().__init__()
        self.d_embed, self.t_max, self.max_frequency = d_embed, positive(float(t_max), "t_max"), max_frequency
        time_embedding(torch.zeros(1), d_embed, max_frequency)  # refuses a bad width or frequency now, not at the first call
        self.layers = nn.Sequential(nn.Linear(d_embed, d_embed), nn.SiLU(), nn.Linear(d_embed, d_embed), nn.SiLU())

    def forward(self, t: Float[Tensor, " n"], dtype: torch.dtype) -> Float[Tensor, "n d_embed"]:
        """Return the features of ``t``, in the precision ``dtype`` of the weights."""
        return self.layers(time_embedding(t / self.t_max, self.d_embed, self.max_frequency).to(dtype))


class LabelFeatures(nn.Module):
    """Learned features ``(N, d_embed)`` of a class label, added to those of the time; ``classes`` itself is the label that says nothing.

    Raises:
        TypeError: labels that are not integers.
        ValueError: ``classes`` not positive; labels of another shape than ``(N,)`` or outside 0..classes.
    """

    def __init__(self, classes: int, d_embed: int) -> None:
        super().__init__()
        self.classes = count(classes, "classes")
        self.table = nn.Embedding(classes + 1, d_embed)
        nn.init.zeros_(self.table.weight)  # the untrained network does not look at labels

    def forward(self, label: Int[Tensor, " n"] | None, n: int) -> Float[Tensor, "n d_embed"]:
        """Return the features of ``label``; ``None``: the empty label for all ``n``."""
        if label is None:
            return self.table.weight[self.classes].expand(n, -1)
        if label.is_floating_point() or label.dtype == torch.bool:
            raise TypeError(f"label must be integers, got dtype {label.dtype}")
        if label.shape != (n,):
            raise ValueError(f"label must have shape ({n},), one per input, got {tuple(label.shape)}")
        try:
            return self.table(label)
        except IndexError as error:
            raise ValueError(
                f"labels must lie in 0..{self.classes}, the last one meaning none; got {label.min()} to {label.max()}"
            ) from error


def _features(of_time: Tensor, labels: LabelFeatures | None, label: Tensor | None) -> Tensor:
    """Features of the time, plus those of the label in a network that has classes."""
    if labels is not None:
        return of_time + labels(label, len(of_time))
    if label is not None:
        raise ValueError("this network was made without classes and takes no label")
    return of_time


def drop_labels(label: Int[Tensor, " n"], p: float, empty: int, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
    """Replace each label by ``empty`` with probability ``p``: training for classifier-free guidance (Eq. 8.3.1).

    Raises:
        ValueError: ``p`` outside [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    dropped = torch.rand(label.shape, generator=generator, device=label.device) < p
    return torch.where(dropped, empty, label)


class MLP(nn.Module):
    """Perceptron ``(N, d_in) -> (N, d_out)`` with ``depth`` hidden SiLU layers of width ``hidden``.

    Raises:
        TypeError: input that is not a floating tensor in the precision of the weights.
        ValueError: a size that is not a positive whole number; input of another shape than ``(N, d_in)``.
    """

    def __init__(self, d_in: int, d_out: int, hidden: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.d_in, self.d_out = count(d_in, "d_in"), count(d_out, "d_out")
        widths = [d_in] + [count(hidden, "hidden")] * count(depth, "depth")
        hidden_layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden_layers, nn.Linear(hidden, d_out))

    def forward(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """Return the value at ``x``, shape ``(N, d_out)``."""
        _check(x, (self.d_in,), next(self.parameters()).dtype)
        return self.layers(x)


class TimeMLP(nn.Module):
    """Perceptron ``model(x, t)`` from points ``(N, dim)`` to points ``(N, dim)``; features of the time enter every hidden layer.

    Args:
        dim: dimension of the points.
        hidden, depth: width and number of the hidden SiLU layers.
        d_embed: width of the time features, even.
        t_max: the largest time the model will see: 1 for a process on [0, 1], ``L`` where ``t`` is the index of a discrete chain.
        max_frequency: see :func:`time_embedding`; choose about 10 where the derivative in ``t`` is trained too.
        classes: number of classes of a conditional network ``model(x, t, label)``, see :class:`LabelFeatures`; 0: none.

    Raises:
        TypeError: input that is not a floating tensor in the precision of the weights; labels that are not integers.
        ValueError: a size that is not a positive whole number; ``x`` that is not ``(N, dim)``; ``t`` neither a number, 0-d nor ``(N,)``; labels outside
            0..classes, or labels for a network without classes.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 128,
        depth: int = 3,
        d_embed: int = 64,
        t_max: float | int = 1.0,
        max_frequency: float | int = 1000.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.dim = count(dim, "dim")
        self.time = TimeFeatures(d_embed, t_max, max_frequency)
        widths = [dim] + [count(hidden, "hidden")] * count(depth, "depth")
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.from_time = nn.ModuleList(nn.Linear(d_embed, hidden, bias=False) for _ in range(depth))
        self.out = nn.Linear(hidden, dim)
        self.label = LabelFeatures(classes, d_embed) if classes else None

    def forward(self, x: Float[Tensor, "n d"], t: Time | Index, label: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d"]:
        """Return the prediction at points ``x``, times ``t`` and, if the network has classes, labels; shape ``(N, dim)``."""
        _check(x, (self.dim,), self.out.weight.dtype)
        features = _features(self.time(_times(t, x), x.dtype), self.label, label)
        for layer, shift in zip(self.hidden, self.from_time):
            x = functional.silu(layer(x) + shift(features))
        return self.out(x)


def _groups(width: int) -> int:
    """Largest number of groups, 8 at most, of at least two channels each (one channel of one pixel has no spread to divide by)."""
    return max((g for g in range(1, 9) if width % (2 * g) == 0), default=1)


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a shortcut; the time scales and shifts the middle (Dhariwal and Nichol 2021)."""

    def __init__(self, c_in: int, c_out: int, d_embed: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_groups(c_in), c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(_groups(c_out), c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.from_time = nn.Linear(d_embed, 2 * c_out)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        nn.init.zeros_(self.conv2.weight)  # the block starts as its shortcut

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Map ``x (N, c_in, H, W)`` and time features ``(N, d_embed)`` to ``(N, c_out, H, W)``."""
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.from_time(features)[:, :, None, None].chunk(2, dim=1)  # (N, c_out, 1, 1) each
        h = self.conv2(functional.silu(self.norm2(h) * (1 + scale) + shift))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """Single-head self-attention over the pixels, written out because the fused kernels have no forward-mode derivative."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(width), width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)  # (N, C, HW) each
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(x.shape[1]), dim=-1)  # (N, HW, HW)
        return x + self.out((v @ weights.transpose(1, 2)).reshape(x.shape))


class UNet(nn.Module):
    """U-Net ``model(x, t)`` from images ``(N, channels, size, size)`` to the same shape (Ho et al. 2020, made small).

    One residual block per resolution on the way down and up, one with optional attention at the bottom. The image is halved between
    resolutions, so ``size`` must be divisible by ``2 ** (len(mults) - 1)``.

    Args:
        channels, size: of the images, which are square.
        width: channels at full resolution. A multiple of 16 is cheapest per channel: CPU convolutions work in blocks of 16 (or 8).
        mults: multiples of ``width`` at each resolution.
        d_embed: width of the time features, even.
        attention: self-attention at the lowest resolution.
        t_max, max_frequency: as for :class:`TimeMLP`: ``t_max=L`` where ``t`` is the index of a discrete chain.
        classes: number of classes of a conditional network ``model(x, t, label)``, see :class:`LabelFeatures`; 0: none.

    Raises:
        TypeError: input that is not a floating tensor in the precision of the weights; labels that are not integers.
        ValueError: sizes that do not fit; ``x`` of another shape; ``t`` neither a number, 0-d nor ``(N,)``; labels outside 0..classes, or labels for
            a network without classes.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        width: int = 32,
        mults: tuple[int, ...] = (1, 2),
        d_embed: int = 64,
        attention: bool = True,
        t_max: float | int = 1.0,
        max_frequency: float | int = 1000.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.size = count(channels, "channels"), count(size, "size")
        if not mults:
            raise ValueError("mults must name at least one resolution, got an empty tuple")
        if size % 2 ** (len(mults) - 1):
            raise ValueError(f"size must be divisible by {2 ** (len(mults) - 1)} for {len(mults)} resolutions, got {size}")
        widths = [count(width, "width") * count(m, "mults") for m in mults]
        self.time = TimeFeatures(d_embed, t_max, max_frequency)
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(ResidualBlock(a, b, d_embed) for a, b in zip([width, *widths], widths))
        self.middle = ResidualBlock(widths[-1], widths[-1], d_embed)
        self.attention = Attention(widths[-1]) if attention else nn.Identity()
        below = [*widths[1:], widths[-1]]  # what comes up from underneath each resolution
        self.up = nn.ModuleList(ResidualBlock(a + b, b, d_embed) for a, b in zip(below, widths))
        self.norm, self.head = nn.GroupNorm(_groups(width), widths[0]), nn.Conv2d(widths[0], channels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # the untrained prediction is zero
        self.label = LabelFeatures(classes, d_embed) if classes else None

    def forward(self, x: Float[Tensor, "n c h w"], t: Time | Index, label: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n c h w"]:
        """Return the prediction at images ``x``, times ``t`` and, if the network has classes, labels; shape of ``x``."""
        _check(x, (self.channels, self.size, self.size), self.head.weight.dtype)
        features = _features(self.time(_times(t, x), x.dtype), self.label, label)
        h, kept = self.stem(x), []
        for level, block in enumerate(self.down):
            h = block(functional.avg_pool2d(h, 2) if level else h, features)
            kept.append(h)
        h = self.attention(self.middle(h, features))
        for level in reversed(range(len(kept))):
            h = self.up[level](torch.cat([h, kept[level]], dim=1), features)
            if level:
                h = functional.interpolate(h, scale_factor=2.0)  # nearest
        return self.head(functional.silu(self.norm(h)))
