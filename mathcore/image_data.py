"""Full-size image sets, read from parquet files on this machine: MNIST, Fashion-MNIST, CIFAR-10.

>>> digits = load_images("mnist")                                 # raises, saying which file to fetch and where to put it, if it is not here
>>> fit(model, loss, digits.sampler(flip=False), config)          # batches (n, 1, 28, 28) in [-1, 1]

Files are those of the Hugging Face Hub, in ``settings.data_dir / <name>``; `fetch_images` gets them where there is a network. Pixels stay whole
numbers in memory (CIFAR-10: 150 MB), and become floating-point numbers batch by batch.
"""

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mathcore._validate import count, one_of
from mathcore.settings import settings

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSetInfo:
    """What is known of an image set before it is here: its repository on the Hub and folder there, shape of an image, classes, number of images."""

    repository: str
    folder: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    sizes: dict[str, int]

    def file(self, split: str) -> str:
        """Path of the parquet file of a split inside the repository."""
        return f"{self.folder}/{split}-00000-of-00001.parquet"

    def address(self, split: str) -> str:
        """Address of that file."""
        return f"https://huggingface.co/datasets/{self.repository}/resolve/main/{self.file(split)}"


_DIGITS = tuple(str(d) for d in range(10))
_CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

IMAGE_SETS = {
    "mnist": ImageSetInfo("ylecun/mnist", "mnist", (1, 28, 28), _DIGITS, {"train": 60_000, "test": 10_000}),
    "fashion_mnist": ImageSetInfo(
        "zalando-datasets/fashion_mnist", "fashion_mnist", (1, 28, 28), _CLOTHES, {"train": 60_000, "test": 10_000}
    ),
    "cifar10": ImageSetInfo("uoft-cs/cifar10", "plain_text", (3, 32, 32), _THINGS, {"train": 50_000, "test": 10_000}),
}


@dataclass(frozen=True)
class ImageSet:
    """Images and their labels.

    Attributes:
        pixels: ``(N, C, H, W)``, 0..255.
        labels: ``(N,)``, 0..9.
        name, split: what they are.
    """

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "n c h w"]:
        """All images in [-1, 1]: 614 MB for CIFAR-10 in float32.

        Raises:
            TypeError: ``dtype`` is not a floating type.
        """
        return _scaled(self.pixels, dtype)

    def sampler(
        self, labels: bool = False, flip: bool = False, dtype: torch.dtype = torch.float32
    ) -> Callable[[int, torch.Generator], Any]:
        """Return ``data(n, generator)`` for :func:`mathcore.training.fit`: ``n`` random images, drawn with replacement.

        Args:
            labels: return ``(images, labels)``.
            flip: mirror each image with probability one half (for CIFAR-10; a mirrored digit is another sign).
            dtype: of the images.

        Raises:
            TypeError: ``dtype`` is not a floating type.
        """
        _scaled(self.pixels[:0], dtype)

        def draw(n: int, generator: torch.Generator) -> Any:
            rows = torch.randint(len(self.pixels), (n,), generator=generator)
            chosen = self.pixels[rows]
            if flip:
                mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
                chosen = torch.where(mirrored, chosen.flip(-1), chosen)
            images = _scaled(chosen, dtype)
            return (images, self.labels[rows]) if labels else images

        return draw


def _scaled(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating type, got {dtype}")
    return pixels.to(dtype).div_(127.5).sub_(1.0)  # in place: a step of training waits for its batch


def load_images(name: str, split: str = "train", folder: str | Path | None = None) -> ImageSet:
    """Return a split of an image set from the parquet files ``<split>*.parquet`` in ``folder``, through the package ``datasets``. Nothing is downloaded.

    Args:
        name: ``"mnist"``, ``"fashion_mnist"`` or ``"cifar10"``.
        split: ``"train"`` or ``"test"``.
        folder: default ``settings.data_dir / name``.

    Raises:
        ValueError: unknown name or split.
        RuntimeError: the file is not here (the message says what to fetch from where), is damaged, or holds something else; ``datasets`` is missing.
    """
    info, files = _info(name), image_files(name, split, folder)
    if importlib.util.find_spec("datasets") is None:
        raise RuntimeError("full-size image sets need the package datasets: pip install 'mathcore[full]'")
    try:
        pixels, labels = _read([str(f) for f in files], info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(
            f"{files[0].parent}/{split}*.parquet cannot be read as {name}: {_first_line(error)}; fetch {info.address(split)} again"
        ) from error
    return ImageSet(pixels, labels, name, split)


def image_files(name: str, split: str = "train", folder: str | Path | None = None) -> list[Path]:
    """Return the files that :func:`load_images` would read, without reading them.

    Raises:
        ValueError: unknown name or split. RuntimeError: they are not here; the message says what to fetch from where.
    """
    info, place = _info(name), settings.data_dir / name if folder is None else Path(folder)
    files = sorted(place.glob(f"{one_of(split, SPLITS, 'split')}*.parquet"))
    if not files:
        raise RuntimeError(
            f"image set {name!r} is not on this machine. With a network, add --fetch to mathcore train, or call"
            f" mathcore.image_data.fetch_images({name!r}); without one, fetch {info.address(split)} elsewhere and put it into {place}"
        )
    return files


def _info(name: str) -> ImageSetInfo:
    return IMAGE_SETS[one_of(name, IMAGE_SETS, "name")]


def _read(files: list[str], info: ImageSetInfo) -> tuple[Tensor, Tensor]:
    """Pixels and labels of parquet files, one row after the other and without a copy in the cache of ``datasets``.

    Raises:
        ValueError: no images, images of another shape, or labels out of range.
    """
    from datasets import Image, load_dataset

    rows = load_dataset("parquet", data_files={"all": files}, split="all", streaming=True)
    columns = list(next(iter(rows), {}))
    image = next((c for c in ("image", "img") if c in columns), None)
    label = next((c for c in ("label", "labels") if c in columns), None)
    if image is None or label is None:
        raise ValueError(f"its columns are {columns}, not an image and a label")
    rows, mode, (c, h, w) = rows.cast_column(image, Image()), "L" if info.shape[0] == 1 else "RGB", info.shape
    pixels: list[Tensor] = []
    labels: list[int] = []
    for row in rows:
        picture = row[image]
        if picture is None or picture.size != (w, h):
            raise ValueError(f"image {len(pixels)} has {'no pixels' if picture is None else f'{picture.size} pixels'}, not {(w, h)}")
        pixels.append(torch.frombuffer(bytearray(picture.convert(mode).tobytes()), dtype=torch.uint8))
        labels.append(row[label])
    found = torch.tensor(labels)
    if found.is_floating_point() or found.min() < 0 or found.max() >= len(info.classes):
        raise ValueError(f"its labels are not whole numbers in 0..{len(info.classes) - 1}")
    return torch.stack(pixels).reshape(-1, h, w, c).permute(0, 3, 1, 2).contiguous(), found


def fetch_images(name: str, folder: str | Path | None = None) -> Path:
    """Download both splits of an image set from the Hugging Face Hub, those that are not here yet, and return their folder.

    Raises:
        ValueError: unknown name.
        RuntimeError: no network or no such file there; the message says what to fetch by hand and where to put it.
    """
    info = _info(name)
    place = settings.data_dir / name if folder is None else Path(folder)
    for split in SPLITS:
        target = place / Path(info.file(split)).name
        if target.exists():
            continue
        try:
            from huggingface_hub import hf_hub_download

            found = hf_hub_download(info.repository, info.file(split), repo_type="dataset")
        except Exception as error:  # the client raises a dozen kinds: offline, refused, not found, timed out
            why = f"{type(error).__name__}: {_first_line(error)}"
            raise RuntimeError(f"{info.address(split)} could not be fetched ({why}); fetch it elsewhere and put it into {place}") from error
        place.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        shutil.copyfile(found, part)
        part.replace(target)
    return place


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def quantisation(levels: int = 256) -> float:
    """Distance of two neighbouring grey values on the scale [-1, 1]: what :func:`mathcore.sample_metrics.bits_per_dimension` asks for.

    Raises:
        ValueError: fewer than two levels.
    """
    return 2.0 / (count(levels, "levels", 2) - 1)
