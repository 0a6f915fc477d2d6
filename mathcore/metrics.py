"""How good are samples? Distances in the feature space of a small digit classifier, copies of the training set, and modes found.

None of these numbers means anything alone. Print the floor beside a distance (`digit_frechet_floor`), held-out data beside the nearest-neighbour
distances (`memorisation`). The classifier is trained here on a few thousand digits: its distance is the *digit Frechet distance*, comparable
only with itself at the same sample size, and is not the FID of the literature.
"""

import copy
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mathcore import data
from mathcore._validate import floating, positive
from mathcore.distributions import GaussianMixture
from mathcore.divergences import wasserstein2_gaussian
from mathcore.training import FitResult, TrainConfig, fit, run_cached
from mathcore.training.precision import single_precision

DIGIT_SETS = {8: "digits8", 28: "digits28"}
"""Image sizes that have a digit classifier, and the data set that it is trained on."""

_PAIRS_AT_ONCE = 2**21  # pairwise distances held in memory at a time
_IMAGES_AT_ONCE = 1024


class Memorisation(NamedTuple):
    """Quantiles of the distance to the nearest training point, of generated samples and of held-out data; each tensor is ``(Q,)``."""

    levels: Float[Tensor, " q"]
    generated: Float[Tensor, " q"]
    held_out: Float[Tensor, " q"]


class ModeCoverage(NamedTuple):
    """Samples near each component ``(K,)``, how many components have any, and the share of samples that are near one at all."""

    counts: Int[Tensor, " k"]
    covered: int
    share: float


class DigitClassifier(nn.Module):
    """Three small convolutions, whose channel averages are what `digit_features` returns, and a perceptron that names the digit."""

    def __init__(self, size: int, width: int = 16) -> None:
        super().__init__()
        first = 1 if size < 16 else 2  # stride: 8x8 images keep their resolution for one layer
        side = -(-size // (4 * first))
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=first, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(2 * width * side**2, 2 * width), nn.SiLU(), nn.Linear(2 * width, 10))

    def forward(self, images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 10"]:
        """Return the logits of the ten digits."""
        return self.head(self.convolutions(images))


def frechet_distance(features_x: Float[Tensor, "n f"], features_y: Float[Tensor, "m f"]) -> Float[Tensor, ""]:
    """Squared Wasserstein-2 distance between the Gaussians fitted to two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` with covariances that divide by N - 1, in float64. Fewer samples than features make the
    covariances singular, which is no obstacle; but the distance is biased upwards by an amount that falls like 1/N.

    Raises:
        TypeError: not floating-point tensors, or dtypes differ.
        ValueError: wrong shape, fewer than two samples, or NaN.
    """
    for name, x in (("features_x", features_x), ("features_y", features_y)):
        floating(x, name, ndim=2, dim=features_x.shape[-1] if name == "features_y" else None)
        if len(x) < 2 or x.shape[1] == 0:
            raise ValueError(f"{name} must hold at least 2 samples of at least 1 feature, got shape {tuple(x.shape)}")
    if features_x.dtype != features_y.dtype:
        raise TypeError(f"features must share one dtype, got {features_x.dtype} and {features_y.dtype}")
    both = torch.cat([features_x, features_y]).double()
    if len(both) < both.shape[1]:  # fewer points than features, such as pixels: the same points in coordinates of the space that they span
        both = torch.linalg.qr(both.T, mode="r").R.T
    moments = []
    for x in both.split([len(features_x), len(features_y)]):
        moments += [x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])]
    return wasserstein2_gaussian(*moments).square().to(features_x.dtype)


def digit_classifier(size: int) -> DigitClassifier:
    """Return the classifier of digits of ``size`` x ``size`` pixels (8 or 28), trained once on the training split and kept with the runs.

    Training takes a few seconds on one core and gives the same weights every time. Do not change the network: all callers share it.

    Raises:
        ValueError: another size.
    """
    if size not in DIGIT_SETS:
        raise ValueError(f"digit images must be {' or '.join(f'{s}x{s}' for s in DIGIT_SETS)} pixels, got size {size}")
    return _trained(size)


@cache
def _trained(size: int) -> DigitClassifier:
    """The classifier, on the CPU wherever the models of the book train: a ruler must not depend on the machine's accelerator."""
    images, labels = data.load(DIGIT_SETS[size])
    config = TrainConfig(steps=400, lr=3e-3, warmup=20, decay="cosine", ema=0.0, weight_decay=0.1)

    def train(network: nn.Module) -> FitResult:
        return fit(network, _cross_entropy, (images, labels), config, device="cpu", label=f"digit classifier {size}x{size}")

    with single_precision(), torch.random.fork_rng(devices=[]), torch.enable_grad():  # the first who asks may not need gradients
        torch.manual_seed(0)
        model = DigitClassifier(size)
        run_cached(f"digit-classifier-{size}", config, train, model)
    return model.cpu().eval().requires_grad_(False)


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    images, labels = batch
    return functional.cross_entropy(model(images), labels, label_smoothing=0.1)


def digit_accuracy(size: int) -> float:
    """Share of the test split that `digit_classifier` names rightly.

    Raises:
        ValueError: a size other than 8 and 28.
    """
    model = digit_classifier(size)
    images, labels = data.load(DIGIT_SETS[size], "test")
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def digit_features(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n f"]:
    """Features ``(N, 32)`` of digit images in [-1, 1], of 8x8 or 28x28 pixels: what `digit_classifier` sees after its last convolution.

    Activations are averaged over the pixels, as in the Inception features of Heusel et al. (2017). Deeper layers are trained to ignore how a
    digit is drawn, and so would miss noise and blur. Computed in float32; dtype and device follow the images, nothing is clipped to [-1, 1].

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not ``(N, 1, H, H)`` with H 8 or 28, no images, or NaN.
    """
    floating(images, "images", ndim=4)
    if images.shape[1] != 1 or images.shape[2] != images.shape[3] or len(images) == 0:
        raise ValueError(f"images must have shape (N, 1, H, H), got {tuple(images.shape)}")
    network = copy.deepcopy(digit_classifier(images.shape[-1]).convolutions).to(images.device)
    with torch.no_grad():
        return torch.cat([network(part.float()).mean((2, 3)) for part in images.split(_IMAGES_AT_ONCE)]).to(images.dtype)


def digit_frechet_distance(x: Float[Tensor, "n 1 h w"], y: Float[Tensor, "m 1 h w"]) -> Float[Tensor, ""]:
    """Digit Frechet distance: `frechet_distance` of the `digit_features` of two sets of images (not FID). Print `digit_frechet_floor` beside it.

    Compare samples with the *test* split: the classifier has seen the other one.

    Raises:
        TypeError: not floating-point tensors, or dtypes differ.
        ValueError: as `digit_features`; fewer than two images; images of different sizes.
    """
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must be images of one size, got {tuple(x.shape)} and {tuple(y.shape)}")
    return frechet_distance(digit_features(x), digit_features(y))


def digit_frechet_floor(
    images: Float[Tensor, "n 1 h w"], n: int, repeats: int = 10, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Mean and standard deviation of the digit Frechet distance between two disjoint random sets of ``n`` real images each.

    What samples indistinguishable from ``images`` would score at this size; the bias of the distance is in it.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: as `digit_features`; ``n`` below 2 or ``2 n`` above the number of images; ``repeats`` below 2.
    """
    features = digit_features(images)
    if not 2 <= n <= len(images) // 2:
        raise ValueError(f"n must lie in 2..{len(images) // 2} to split {len(images)} images into two disjoint sets, got {n}")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    device = images.device if generator is None else generator.device
    halves = (torch.randperm(len(images), generator=generator, device=device)[: 2 * n].to(images.device).chunk(2) for _ in range(repeats))
    values = torch.stack([frechet_distance(features[a], features[b]) for a, b in halves]).double()
    return float(values.mean()), float(values.std())


def nearest_neighbour_distance(samples: Float[Tensor, "n *shape"], reference: Float[Tensor, "m *shape"]) -> Float[Tensor, " n"]:
    """Euclidean distance ``(N,)`` from each sample to the nearest reference point; trailing axes are flattened.

    Raises:
        TypeError: not floating-point tensors, or dtypes differ.
        ValueError: points of different shape, an empty set, or NaN.
    """
    floating(samples, "samples")
    floating(reference, "reference")
    if samples.dtype != reference.dtype:
        raise TypeError(f"samples and reference must share one dtype, got {samples.dtype} and {reference.dtype}")
    if samples.ndim < 2 or samples.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f"samples and reference must be (N, *shape) and (M, *shape), got {tuple(samples.shape)} and {tuple(reference.shape)}"
        )
    if samples.numel() == 0 or reference.numel() == 0:
        raise ValueError(f"samples and reference must hold at least one point, got {tuple(samples.shape)} and {tuple(reference.shape)}")
    points, others = samples.flatten(1), reference.flatten(1)
    centre = others.double().mean(0)  # products of centred float64 points find the neighbour; its distance is then taken exactly
    parts = (points.double() - centre).split(max(1, _PAIRS_AT_ONCE // len(others)))
    nearest = torch.cat([torch.cdist(part, others.double() - centre).argmin(1) for part in parts])
    return (points - others[nearest]).norm(dim=1)


def memorisation(
    samples: Float[Tensor, "n *shape"],
    train: Float[Tensor, "m *shape"],
    held_out: Float[Tensor, "k *shape"],
    levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> Memorisation:
    """Compare the distance of samples to the training set with the distance that fresh data have.

    A model that generalises gives two rows alike. Generated distances far below the held-out ones mean copies of the training set, far above
    them poor samples.

    Raises:
        TypeError: as `nearest_neighbour_distance`.
        ValueError: as `nearest_neighbour_distance`; levels empty or outside [0, 1].
    """
    if not levels or not all(0 <= level <= 1 for level in levels):
        raise ValueError(f"levels must be numbers in [0, 1], got {levels}")
    generated, real = (nearest_neighbour_distance(x, train) for x in (samples, held_out))
    at = torch.tensor(levels, dtype=samples.dtype, device=samples.device)
    return Memorisation(at, generated.quantile(at), real.quantile(at))


def mode_coverage(samples: Float[Tensor, "n d"], mixture: GaussianMixture, radius: float = 3.0) -> ModeCoverage:
    """Count the samples near each component of a mixture: within ``radius`` of its mean in units of its own standard deviations.

    The distance is Mahalanobis's; a sample within reach of several components counts for the nearest. Of true samples in the plane, a share
    ``1 - exp(-radius^2 / 2)`` is near a component (98.9 % at 3), so compare with that and not with one.

    Raises:
        TypeError: ``samples`` is not a floating-point tensor of the mixture's dtype.
        ValueError: wrong shape, no samples, NaN, or a radius that is not positive.
    """
    floating(samples, "samples", ndim=2, dim=mixture.dim)
    limit = positive(radius, "radius")
    if len(samples) == 0:
        raise ValueError(f"samples must hold at least one point, got shape {tuple(samples.shape)}")
    if samples.dtype != mixture.means.dtype:
        raise TypeError(f"samples and mixture must share one dtype, got {samples.dtype} and {mixture.means.dtype}")
    chol = torch.linalg.cholesky(mixture.covariances)  # (K, D, D)
    offsets = (samples[None] - mixture.means[:, None]).mT  # (K, D, N)
    distance, nearest = torch.linalg.solve_triangular(chol, offsets, upper=False).norm(dim=1).min(0)
    counts = torch.bincount(nearest[distance <= limit], minlength=mixture.n_components)
    return ModeCoverage(counts, int((counts > 0).sum()), float(counts.sum()) / len(samples))
