"""The data of the experiments by name: exact mixtures, drawn afresh at every step, and images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mathcore import data
from mathcore._validate import one_of
from mathcore.distributions import GaussianMixture
from mathcore.image_data import IMAGE_SETS, image_files, load_images

MIXTURES: dict[str, Callable[[], GaussianMixture]] = {
    "two_moons": data.examples.two_moons,
    "ring": data.examples.ring,
    "nested": data.examples.nested,
    "ring4": lambda: data.examples.ring(4),
    "modes50": lambda: _modes(8, 50),
}
"""Data that are points: mixtures whose density, score and velocity are known."""

CARRIED = ("digits8", "digits28")
"""Images that an installed package carries."""

IMAGES = (*CARRIED, *IMAGE_SETS)
"""Data that are images; those that are not carried lie on this machine once they were fetched."""


@dataclass(frozen=True)
class DataSet:
    """``mixture`` for points; ``images`` and ``labels`` of the training split for images. ``classes``: how many labels there are.

    ``sampler``: of large sets, what draws batches without a copy of the whole in single precision.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    mixture: GaussianMixture | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    sampler: Callable[[bool], Any] | None = None

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` points, or as many images with replacement: ``(n, *shape)``, on the CPU."""
        if self.mixture is not None:
            return self.mixture.sample(n, generator)
        assert self.images is not None
        return self.images[torch.randint(len(self.images), (n,), generator=generator)]

    def source(self, labelled: bool = False) -> Any:
        """Return what :func:`mathcore.training.fit` draws from: clean data, or pairs of data and labels."""
        if self.mixture is not None:
            return self._labelled_points if labelled else self.mixture.sample
        if self.sampler is not None:
            return self.sampler(labelled)
        return (self.images, self.labels) if labelled else self.images

    def _labelled_points(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Points and the half of the components that they come from: left or right moon, 0 or 1."""
        assert self.mixture is not None
        x, component = self.mixture.sample_with_labels(n, generator)
        return x, component * 2 // self.mixture.n_components


def open_data(name: str) -> DataSet:
    """Return the data set called ``name``, float32 on the CPU; photographs are mirrored at random in training.

    Raises:
        ValueError: unknown name. RuntimeError: images that are not on this machine; the message says what is needed.
    """
    one_of(name, [*MIXTURES, *IMAGES], "data")
    if name in MIXTURES:
        mixture = MIXTURES[name]().to(dtype=torch.float32)
        return DataSet(name, (mixture.dim,), classes_of(name), mixture)
    if name in CARRIED:
        images, labels = data.load(name, "train")
        return DataSet(name, tuple(images.shape[1:]), classes_of(name), images=images, labels=labels)
    found = load_images(name, "train")
    images, mirrored = found.images(), name == "cifar10"
    return DataSet(
        name,
        tuple(images.shape[1:]),
        classes_of(name),
        images=images,
        labels=found.labels,
        sampler=lambda labelled: found.sampler(labels=labelled, flip=mirrored),
    )


def check_data(name: str) -> None:
    """Raise what :func:`open_data` would, as far as it can be known without reading the data.

    Raises:
        ValueError: unknown name. RuntimeError: images that are not on this machine; the message says what is needed.
    """
    if one_of(name, [*MIXTURES, *IMAGES], "data") in IMAGE_SETS:
        image_files(name, "train")


def classes_of(name: str) -> int:
    """Return how many labels the data set called ``name`` has."""
    return 2 if name in MIXTURES else 10


def shape_of(name: str) -> tuple[int, ...]:
    """Return the shape of one sample without opening the data.

    Raises:
        ValueError: unknown name.
    """
    one_of(name, [*MIXTURES, *IMAGES], "data")
    if name in MIXTURES:
        return (MIXTURES[name]().dim,)
    return (1, int(name.removeprefix("digits")), int(name.removeprefix("digits"))) if name in CARRIED else IMAGE_SETS[name].shape


def _modes(k: int, dim: int) -> GaussianMixture:
    """``k`` equal round modes of standard deviation 0.3 at the same random places, of norm about 1.5 sqrt(dim) / 5, in every call."""
    g = torch.Generator().manual_seed(0)
    means = 0.3 * torch.randn(k, dim, generator=g, dtype=torch.float64)
    return GaussianMixture(torch.full((k,), 1 / k, dtype=torch.float64), means, torch.full((k,), 0.3**2, dtype=torch.float64))


def held_out(name: str) -> Tensor:
    """Return the held-out images of a data set, float32 in [-1, 1].

    Raises:
        ValueError: unknown name, or data that are points. RuntimeError: images that are not on this machine.
    """
    one_of(name, IMAGES, "data")
    if name in CARRIED:
        return data.load(name, "test")[0]
    return load_images(name, "test").images()
