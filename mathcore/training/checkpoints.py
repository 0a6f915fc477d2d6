"""Checkpoints: tensors and a JSON header in one safetensors file, written whole or not at all. Nothing is ever unpickled."""

import glob
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FORMAT = "mathcore-checkpoint-1"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, not ours, or does not fit what it is loaded into."""


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of tensors, in the order of their names."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        h.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        h.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``metadata`` to ``path`` by :func:`write_whole`.

    Args:
        path: the file; its folder is made if needed.
        tensors: any tensors, by name.
        metadata: anything that JSON can hold.

    Raises:
        TypeError: metadata that JSON cannot hold.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    # clones, because safetensors refuses tensors that share memory
    held = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    header = {"format": _FORMAT, "metadata": json.dumps(dict(metadata)), "sha256": digest_tensors(held)}
    write_whole(path, save(held, header))


def write_whole(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``; whenever the process dies, the file there is the old one or the new one, complete.

    The bytes go to a temporary file beside it, are forced to the disk, and take the name in one step.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # no tempfile.mkstemp: its files are for their owner alone, while these get the permissions that the umask leaves to every new file
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(path: str | Path) -> None:
    """Remove what processes killed in the middle of :func:`write_whole` have left beside ``path``."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the metadata that :func:`save_checkpoint` wrote to ``path``.

    Raises:
        CheckpointError: no such file, a truncated or altered one, or one that this project did not write.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated or is not a safetensors file ({error})") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of this project (format {header.get('format')!r})")
    if header.get("sha256") != digest_tensors(tensors):
        raise CheckpointError(f"checkpoint {path} is damaged: its content does not match its checksum")
    return tensors, json.loads(header["metadata"])
