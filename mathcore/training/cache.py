"""Finished runs, kept by a hash of all that determines them: the tests and the book train each model once."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mathcore.settings import settings
from mathcore.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from mathcore.training.fingerprint import fingerprint
from mathcore.training.loop import FitResult


def run_cached(name: str, config: Any, fn: Callable[[nn.Module], FitResult], model: nn.Module, data: Any = None) -> FitResult:
    """Return ``fn(model)``, or its result as kept by an earlier call with the same configuration, model, data and code.

    >>> torch.manual_seed(0)                                                    # the initial weights count: seed them
    >>> model = TimeMLP(2)
    >>> result = run_cached("ring-ddpm", config, lambda model: fit(model, loss, mixture.sample, config), model)

    The final weights and the losses are in ``settings.build_dir / "runs" / "<name>-<hash>.safetensors"``. The hash covers ``config``, the initial
    weights and structure of ``model``, ``data``, ``fn`` with all variables it reaches (so a loss, schedule or data set that ``fn`` uses
    counts without being named), the source of every module of ``mathcore`` reached, and torch's version: see
    :func:`mathcore.training.fingerprint.fingerprint`. Delete the folder ``runs`` to train everything again.

    Two processes may ask for the same run at once: one trains, the other waits and reads.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``.
        config: what identifies the run: a :class:`TrainConfig`, a dict, any plain values.
        fn: trains the model it is given and returns the :class:`FitResult` of that model.
        model: untrained; holds the final weights afterwards.
        data: the training data, where ``fn`` does not reach it by itself.

    Returns:
        The result of training, on ``settings.device`` where it was read.

    Raises:
        ValueError: ``name`` with other characters; ``fn`` returning another model.

    Warns:
        UserWarning: a damaged entry was found; it is trained again.
    """
    from filelock import FileLock  # a dependency of torch; the lock ends with its process, however that ends

    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name must consist of letters, digits, '.', '_' and '-', got {name!r}")
    key = fingerprint(config, repr(model), _settings(model), model.state_dict(), data, fn, str(torch.__version__))
    path = settings.build_dir / "runs" / f"{name}-{key[:16]}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return _read(path, model)
            except CheckpointError as error:
                warnings.warn(f"a kept run is damaged and is trained again: {error}", stacklevel=2)
        result = fn(model)
        if result.model is not model:
            raise ValueError("fn must train the model it is given and return the FitResult of that same model")
        weights = {f"model/{k}": v for k, v in model.state_dict().items()}
        save_checkpoint(path, {**weights, "losses": result.losses}, {"kind": "run", "name": name, "key": key})
        return result


def _settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The plain values that the parts of a model were made with: two models of one ``repr`` and one set of weights may differ in them."""
    plain = int, float, str, tuple
    return {
        name: {
            key: value for key, value in vars(part).items() if not key.startswith("_") and isinstance(value, plain) and key != "training"
        }
        for name, part in model.named_modules()
    }


def _read(path: Path, model: nn.Module) -> FitResult:
    """Load a kept run into ``model``.

    Raises:
        CheckpointError: damaged, or not a run of this model.
    """
    tensors, metadata = load_checkpoint(path)
    if metadata.get("kind") != "run" or "losses" not in tensors:
        raise CheckpointError(f"{path} is no kept run")
    try:
        model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error
    return FitResult(model.to(settings.device).eval(), tensors["losses"])
