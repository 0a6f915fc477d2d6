"""Dated result files, and tables on the terminal."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results")


def hardware() -> dict[str, Any]:
    """The processor's name, its cores, the threads torch uses, the load of the last minute, and the GPU if one was used."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    card = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_initialized() else {}
    return card | {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(load, 1) if load is not None else None,
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of packages; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in ("mathcore", "torch", "numpy", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(name: str, results: Any, command: str, seed: int) -> Path:
    """Write ``results`` with the circumstances of the run."""
    record = {
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": seed,
        "hardware": hardware(),
        "versions": versions("diffusers"),
        "results": _rounded(results),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(RESULTS.parents[1])}", file=sys.stderr)
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns."""
    cells = [[_text(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[j]) for row in cells) for j in range(len(header))]
    for row in cells:
        print("  " + "  ".join(c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True))))


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    return f"{cell:.2g}" if isinstance(cell, float) else str(cell)


def _rounded(value: Any) -> Any:
    """Floats to four digits: more than that no run repeats."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
