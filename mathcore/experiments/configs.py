"""What an experiment is: data, network, objective, training and sampler at two sizes, and how ``--set key=value`` changes one of them."""

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from mathcore._validate import UnknownNameError, count, one_of, positive
from mathcore.experiments.datasets import IMAGES, MIXTURES
from mathcore.experiments.objectives.base import Objective
from mathcore.settings import SCALES
from mathcore.training import TrainConfig


@dataclass(frozen=True)
class Perceptron:
    """A :class:`mathcore.networks.TimeMLP` for points; also the size of the two halves of a variational autoencoder.

    Raises:
        ValueError: a size that is not positive.
    """

    hidden: int = 128
    depth: int = 3
    max_frequency: float | int = 1000.0

    def __post_init__(self) -> None:
        count(self.hidden, "network.hidden"), count(self.depth, "network.depth"), positive(self.max_frequency, "network.max_frequency")

    def build(self, shape: tuple[int, ...], t_max: float, classes: int) -> nn.Module:
        """Return the network for points of ``shape`` (D,).

        Raises:
            ValueError: data that are no points.
        """
        from mathcore.networks import TimeMLP

        if len(shape) != 1:
            raise ValueError(f"a perceptron takes points (N, D), not images of shape {shape}: choose data that are points")
        return TimeMLP(shape[0], self.hidden, self.depth, t_max=t_max, max_frequency=self.max_frequency, classes=classes)


@dataclass(frozen=True)
class Convolutional:
    """A :class:`mathcore.networks.UNet` for images: channels at full resolution and their multiples at each halving.

    Raises:
        ValueError: a size that is not positive, no multiples.
    """

    width: int = 16
    mults: tuple[int, ...] = (1, 2)
    d_embed: int = 64

    def __post_init__(self) -> None:
        count(self.width, "network.width"), count(self.d_embed, "network.d_embed", 2)
        if not self.mults or any(m < 1 for m in self.mults):
            raise ValueError(f"network.mults must be positive whole numbers such as 1,2,2; got {self.mults}")

    def build(self, shape: tuple[int, ...], t_max: float, classes: int) -> nn.Module:
        """Return the network for images of ``shape`` (C, H, H).

        Raises:
            ValueError: data that are no square images, or whose side cannot be halved as often as ``mults`` asks.
        """
        from mathcore.networks import UNet

        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"a U-Net takes square images (N, C, H, H), not data of shape {shape}: choose data that are images")
        halvings, fitting = len(self.mults) - 1, (shape[1] & -shape[1]).bit_length() - 1
        if halvings > fitting:
            shorter = ",".join(map(str, self.mults[: fitting + 1]))
            raise ValueError(
                f"network.mults={as_setting(self.mults)} halves the images {halvings} times, so that their side must be divisible by {2**halvings}, "
                f"got {shape[1]}: --set network.mults={shorter} would do"
            )
        return UNet(shape[0], shape[1], self.width, self.mults, self.d_embed, t_max=t_max, classes=classes)


@dataclass(frozen=True)
class Size:
    """One size of an experiment: everything that determines the run.

    Attributes:
        data: name for :func:`mathcore.experiments.datasets.open_data`.
        network, objective, train: what is trained, on which loss, how.
        sampler, sampler_steps: how ``mathcore sample`` draws unless told otherwise.
        measured: time of the whole run where it was measured, ``""`` where it never ran.

    Raises:
        ValueError: a sampler that the objective does not have, fewer than one step.
    """

    data: str
    network: Perceptron | Convolutional
    objective: Objective
    train: TrainConfig
    sampler: str
    sampler_steps: int
    measured: str = ""

    def __post_init__(self) -> None:
        one_of(self.sampler, self.objective.samplers, "sampler")
        count(self.sampler_steps, "sampler_steps")


@dataclass(frozen=True)
class Experiment:
    """A named experiment of the book: ``cpu`` runs in half a minute or less on one core, ``gpu`` is the full size.

    Attributes:
        name: for the command line. chapter: ``"2"`` to ``"9"``, or an appendix. title: what it shows, one line. page: notebook that discusses it.
    """

    name: str
    chapter: str
    title: str
    page: str
    cpu: Size
    gpu: Size

    def size(self, name: str) -> Size:
        """Return the size called ``"cpu"`` or ``"gpu"``.

        Raises:
            ValueError: another name.
        """
        return self.gpu if one_of(name, SCALES, "size") == "gpu" else self.cpu


# --- changing a size ------------------------------------------------------------------------------------------------------------------------


def keys_of(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names of all values in a nest of dataclasses, with the values: what ``--set`` accepts."""
    found: dict[str, Any] = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            found |= keys_of(value, f"{prefix}{part.name}.")
        elif part.name != "measured":
            found[prefix + part.name] = value
    return found


def as_setting(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)


def choices(size: Size, key: str) -> tuple[str, ...]:
    """Return the names among which the value of ``key`` is chosen; empty where it is no name, or any.

    They are those of the check that refuses other names, so that there is no second list to keep in step. For ``data`` they are those
    that suit the kind of network.
    """
    if key == "data":
        points = isinstance(size.network, Perceptron)
        return (*(MIXTURES if points else ()), *(IMAGES if not points or hasattr(size.objective, "d_code") else ()))
    if not isinstance(keys_of(size)[key], str):
        return ()
    return tuple(name for name in _instead_of("?", size, key) if not _instead_of(name, size, key))


def _instead_of(value: str, size: Size, key: str) -> list[str]:
    """The names that the check of ``key`` wants in the place of ``value``; none where it accepts it, or refuses it in another way."""
    try:
        _replaced(size, key.split("."), value)
    except UnknownNameError as error:
        return error.choices
    except ValueError:
        pass
    return []


def with_settings(size: Size, settings: Iterable[str]) -> Size:
    """Return ``size`` changed by ``key=value`` strings, in their order; the result is validated as the original was.

    >>> with_settings(experiment("ddpm-digits").cpu, ["train.steps=4", "network.mults=1,2,2"])

    Raises:
        ValueError: no ``=``, an unknown key (the message names near ones), a value of the wrong kind or out of range.
    """
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes key=value, such as train.steps=100; got {text!r}")
        key = key.strip()
        _known(key, keys_of(size))
        path = key.split(".")
        size = _replaced(size, path, _parse(value.strip(), _hint(size, path), key))
    return size


def with_values(size: Size, values: Mapping[str, Any]) -> Size:
    """Return ``size`` with the values that :func:`keys_of` gave for another one, as they come back from JSON.

    Raises:
        ValueError: an unknown key, a bad value: the values are those of another version of the experiment.
    """
    for key, value in values.items():
        _known(key, keys_of(size))
        size = _replaced(size, key.split("."), tuple(value) if isinstance(value, list) else value)
    return size


def _known(key: str, values: dict[str, Any]) -> None:
    """Raise unless ``key`` is one of the keys; a last part alone, ``steps`` for ``train.steps``, is answered with the whole."""
    if key in values:
        return
    same_end = [name for name in values if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_end:
        raise ValueError(f"--set has no key {key!r}; did you mean {' or '.join(repr(name) for name in same_end)}?")
    one_of(key, values, "a key of --set")


def _hint(config: Any, path: Sequence[str]) -> Any:
    """The annotated type of the value at ``path``."""
    for part in path[:-1]:
        config = getattr(config, part)
    return get_type_hints(type(config))[path[-1]]


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    """Replace the value at ``path`` inside a nest of frozen dataclasses; what was measured is then of another run."""
    head, rest = path[0], path[1:]
    inner = _replaced(getattr(config, head), rest, value) if rest else value
    return replace(config, **{head: inner}, **({"measured": ""} if isinstance(config, Size) and inner != getattr(config, head) else {}))


def _parse(text: str, hint: Any, key: str) -> Any:
    """Read ``text`` as a value of the type ``hint``.

    Raises:
        ValueError: it is none.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() in ("none", "null"):
        return None
    try:
        if bool in kinds:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if float in kinds:
            return float(text)
        if int in kinds:
            return int(text)
        if any(get_origin(kind) is tuple for kind in kinds):
            return tuple(int(part) for part in text.strip("()[]").split(",") if part.strip())
    except (ValueError, KeyError):
        pass
    else:
        return text
    wanted = (
        "true or false"
        if bool in kinds
        else "a number"
        if float in kinds
        else "a whole number"
        if int in kinds
        else "whole numbers such as 1,2,2"
    )
    raise ValueError(f"{key} must be {wanted}, got {text!r}")
