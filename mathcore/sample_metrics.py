"""Samples against data in any feature space, every number beside what real data would score at the same sample size.

>>> print(frechet(samples, held_out, digit_features))
frechet distance 4.1 (floor 0.62 ± 0.05, n = 178 against 178)

A distance between two finite samples is not zero when their laws are equal: its *floor* is the mean over pairs of disjoint samples of real data, as
large as the ones compared, with their standard deviation. Only the excess over the floor is about the model.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mathcore._validate import count, floating, positive
from mathcore.metrics import frechet_distance, nearest_neighbour_distance

Features = Callable[[Tensor], Tensor]
_PAIRS_AT_ONCE = 2**22  # pairwise distances held in memory at a time
_IMAGES_AT_ONCE = 1024


class Estimate(NamedTuple):
    """A measured number with its floor.

    Attributes:
        name: what was measured.
        value: the number.
        floor: the same number for real data in the place of the samples; None where there is no such thing.
        floor_std: its standard deviation from draw to draw; without a floor, the standard error of ``value``.
        n, reference_n: how many samples were compared with how many.
        note: how to read it.
    """

    name: str
    value: float
    floor: float | None
    floor_std: float
    n: int
    reference_n: int
    note: str = ""

    def __str__(self) -> str:
        if self.floor is None:
            return f"{self.name} {self.value:.4g} (± {self.floor_std:.2g}, n = {self.n})"
        return f"{self.name} {self.value:.4g} (floor {self.floor:.3g} ± {self.floor_std:.2g}, n = {self.n} against {self.reference_n})"


def pixel_features(images: Float[Tensor, "n *shape"]) -> Float[Tensor, "n f"]:
    """The pixels themselves as features: no network between the numbers and what is seen, and no knowledge of what matters to the eye.

    Raises:
        TypeError: not a floating-point tensor. ValueError: fewer than two axes.
    """
    floating(images, "images")
    if images.ndim < 2:
        raise ValueError(f"images must have at least 2 axes, got shape {tuple(images.shape)}")
    return images.flatten(1)


def _features(x: Tensor, features: Features, name: str) -> Float[Tensor, "n f"]:
    """Features of all of ``x``, some at a time, float64 on the CPU.

    Raises:
        TypeError, ValueError: what is compared is no finite floating-point tensor, or its features are not ``(N, F)``.
    """
    floating(x, name)
    if x.ndim < 2 or len(x) < 4:
        raise ValueError(f"{name} must hold at least 4 samples (N, *shape), got shape {tuple(x.shape)}")
    with torch.no_grad():
        parts = [features(part) for part in x.split(_IMAGES_AT_ONCE)]
    for part, given in zip(parts, x.split(_IMAGES_AT_ONCE)):
        floating(part, f"features({name})", ndim=2)
        if len(part) != len(given):
            raise ValueError(f"features must return one row for each of {len(given)} samples, got shape {tuple(part.shape)}")
    return torch.cat(parts).double().cpu()


def _disjoint(
    n_samples: int, n_reference: int, repeats: int, generator: torch.Generator | None
) -> tuple[int, list[tuple[Tensor, Tensor, Tensor]]]:
    """A size, and draws of that size: rows of the samples, and two disjoint sets of rows of the reference.

    Raises:
        ValueError: fewer than two repeats.
    """
    n, draws = min(n_samples, n_reference // 2), []
    for _ in range(count(repeats, "repeats", 2)):
        device = "cpu" if generator is None else generator.device
        ours, theirs = (torch.randperm(size, generator=generator, device=device).cpu() for size in (n_samples, n_reference))
        draws.append((ours[:n], theirs[:n], theirs[n : 2 * n]))
    return n, draws


def _moments(values: list[float]) -> tuple[float, float]:
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std())


def frechet(
    samples: Float[Tensor, "n *shape"],
    reference: Float[Tensor, "m *shape"],
    features: Features,
    *,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Frechet distance (squared, as usual) between the features of samples and of real data; see :func:`mathcore.metrics.frechet_distance`.

    The distance falls like 1/n towards its limit, so value and floor are means over random sets of one size, the largest for which the reference has
    two disjoint ones. It is the FID of the literature only with that network, that resizing and 50,000 samples.

    Args:
        samples, reference: ``(N, *shape)`` and ``(M, *shape)``, at least 4 each.
        features: maps ``(n, *shape)`` to ``(n, F)``, such as :func:`mathcore.metrics.digit_features` or :func:`pixel_features`.
        repeats: sets drawn.

    Raises:
        TypeError, ValueError: not finite floating-point tensors of one shape, too few, features that are not ``(n, F)``, fewer than 2 repeats.
    """
    x, y = _pair(samples, reference, features)
    n, draws = _disjoint(len(x), len(y), repeats, generator)
    value, _ = _moments([float(frechet_distance(x[a], y[b])) for a, b, _ in draws])
    floor = _moments([float(frechet_distance(y[c], y[b])) for _, b, c in draws])
    return Estimate("frechet distance", value, *floor, n, n, f"{x.shape[1]} features")


def _pair(samples: Tensor, reference: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    """Features of both."""
    x, y = _features(samples, features, "samples"), _features(reference, features, "reference")
    if samples.shape[1:] != reference.shape[1:] or x.shape[1] != y.shape[1]:
        raise ValueError(f"samples and reference must have one shape, got {tuple(samples.shape)} and {tuple(reference.shape)}")
    return x, y


def manifold_share(points: Float[Tensor, "n f"], reference: Float[Tensor, "m f"], k: int = 3) -> float:
    """Share of ``points`` inside of the manifold of ``reference``: the balls around its points that reach to their ``k``-th nearest neighbour.

    Precision with generated ``points`` and real ``reference``, recall the other way round (Kynkaanniemi et al. 2019, Eq. 1 and 2).

    Raises:
        TypeError, ValueError: not finite floating-point tensors ``(N, F)`` and ``(M, F)``; ``k`` not in 1..M-1.
    """
    floating(points, "points", ndim=2)
    floating(reference, "reference", ndim=2, dim=points.shape[1])
    if count(k, "k") >= len(reference):
        raise ValueError(f"k must lie in 1..{len(reference) - 1} for {len(reference)} reference points, got {k}")
    rows = max(1, _PAIRS_AT_ONCE // len(reference))
    exact = "donot_use_mm_for_euclid_dist"  # a point lies at distance 0 from itself, not at 1e-8
    radii = torch.cat([torch.cdist(part, reference, compute_mode=exact).kthvalue(k + 1, dim=1).values for part in reference.split(rows)])
    inside = [(torch.cdist(part, reference, compute_mode=exact) <= radii).any(1) for part in points.split(rows)]
    return float(torch.cat(inside).double().mean())


def precision_recall(
    samples: Float[Tensor, "n *shape"],
    reference: Float[Tensor, "m *shape"],
    features: Features,
    *,
    k: int = 3,
    repeats: int = 5,
    generator: torch.Generator | None = None,
) -> tuple[Estimate, Estimate]:
    """Improved precision and recall: how many samples look like data, and how much of the data the samples reach (Kynkaanniemi et al. 2019).

    Their "floor" is a ceiling: real data against real data score less than one, by an amount that depends on n and k.

    Args:
        samples, reference, features, repeats: as for :func:`frechet`.
        k: neighbours that make the radius of a ball.

    Raises:
        TypeError, ValueError: as :func:`frechet`; ``k`` not below the size of the sets.
    """
    x, y = _pair(samples, reference, features)
    n, draws = _disjoint(len(x), len(y), repeats, generator)
    precision, recall, real = [], [], []
    for a, b, c in draws:
        precision.append(manifold_share(x[a], y[b], k))
        recall.append(manifold_share(y[b], x[a], k))
        real.append(manifold_share(y[c], y[b], k))
    floor, note = _moments(real), f"k = {k}; floor: real data, the most to hope for"
    return (
        Estimate("precision", _moments(precision)[0], *floor, n, n, note),
        Estimate("recall", _moments(recall)[0], *floor, n, n, note),
    )


def bits_per_dimension(log_likelihood: Float[Tensor, " n"], dims: int, bin_width: float) -> Estimate:
    """Bits that a lossless code by the model needs for each pixel value, from log-densities in nats of data dequantised by uniform noise.

    ``-log2 p(x) / D - log2(bin_width)``: an upper bound, in the mean over the noise, for the model's discrete law (Theis et al. 2016, section 3.1).

    Args:
        log_likelihood: ``(N,)``, of points ``(D,)`` on the scale that the grey values have a distance ``bin_width`` on: 2/255 on [-1, 1].
        dims: D.

    Raises:
        TypeError, ValueError: not a finite floating-point tensor ``(N,)`` with N at least 2; ``dims`` or ``bin_width`` not positive.
    """
    values = floating(log_likelihood, "log_likelihood", ndim=1).detach().double()
    if len(values) < 2:
        raise ValueError(f"log_likelihood must hold at least 2 values, got {len(values)}")
    bits = -values / (math.log(2) * count(dims, "dims")) - math.log2(positive(bin_width, "bin_width"))
    return Estimate(
        "bits per dimension", float(bits.mean()), None, float(bits.std()) / math.sqrt(len(bits)), len(bits), 0, "± standard error"
    )


def nearest_neighbours(
    samples: Float[Tensor, "n *shape"], reference: Float[Tensor, "m *shape"], k: int = 1
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Euclidean distances ``(N, k)`` of each sample to its nearest reference points, in ascending order, and their numbers ``(N, k)``.

    For the picture that shows generated images beside the training images most like them.

    Raises:
        TypeError, ValueError: not finite floating-point tensors of one shape and dtype, or empty; ``k`` not in 1..M.
    """
    nearest_neighbour_distance(samples[:1], reference)  # its checks
    floating(samples, "samples")
    if not 1 <= count(k, "k") <= len(reference):
        raise ValueError(f"k must lie in 1..{len(reference)}, got {k}")
    x, y = samples.flatten(1), reference.flatten(1)
    rows, centre = max(1, _PAIRS_AT_ONCE // len(y)), y.double().mean(0)
    near = torch.cat([torch.cdist(p.double() - centre, y.double() - centre).topk(k, 1, largest=False).indices for p in x.split(rows)])
    distances, order = (x[:, None] - y[near]).norm(dim=2).sort(dim=1)
    return distances, near.gather(1, order)


def nearest_distance(
    samples: Float[Tensor, "n *shape"],
    train: Float[Tensor, "m *shape"],
    held_out: Float[Tensor, "k *shape"],
    *,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Median distance of samples to the nearest training point; for the floor held-out data take their place.

    Far below the floor: copies of the training set. Far above: poor samples.

    Raises:
        TypeError, ValueError: as :func:`nearest_neighbours`; fewer than 2 repeats.
    """
    value, real = nearest_neighbour_distance(samples, train), nearest_neighbour_distance(held_out, train)
    n, device = min(len(samples), len(real)), "cpu" if generator is None else generator.device
    rows = [torch.randint(len(real), (n,), generator=generator, device=device).to(real.device) for _ in range(count(repeats, "repeats", 2))]
    floor = _moments([float(real[r].median()) for r in rows])
    return Estimate("median distance to the training set", float(value.median()), *floor, len(samples), len(train), "floor: held-out data")


def evaluate_images(
    samples: Float[Tensor, "n c h w"],
    train: Float[Tensor, "m c h w"],
    held_out: Float[Tensor, "k c h w"],
    features: Features,
    generator: torch.Generator | None = None,
) -> list[Estimate]:
    """Frechet distance, precision and recall against held-out images, and the distance to the training images.

    Raises:
        TypeError, ValueError: as the functions that it calls.
    """
    return [
        frechet(samples, held_out, features, generator=generator),
        *precision_recall(samples, held_out, features, generator=generator),
        nearest_distance(samples, train, held_out, generator=generator),
    ]
