"""The switches that a reader sets once: size of the experiments, device, progress bars, where results are kept.

=================  ====================  =======================================================================================
environment        attribute             meaning
=================  ====================  =======================================================================================
``MATHCORE_SCALE``   ``settings.scale``      ``"cpu"`` (default: every heavy cell under a minute on one core) or ``"gpu"`` (full size)
``MATHCORE_DEVICE``  ``settings.device``     a torch device; default ``cpu``, or ``cuda`` when the scale is ``"gpu"``
``MATHCORE_PRECISION`` ``settings.precision`` ``float32`` (default) or ``bfloat16``: forward passes of training under autocast (environment only)
``CI``               ``settings.progress``   progress bars are off when ``CI`` is set (to anything but empty, 0, false or no)
``MATHCORE_BUILD``   ``settings.build_dir``  folder of everything computed; default ``_build`` in the root of the project
``MATHCORE_DATA``    ``settings.data_dir``   folder of downloaded data sets; default ``_data`` in the root of the project (environment only)
=================  ====================  =======================================================================================

The environment is read at each access, so a test or a notebook may set it late; an assignment to an attribute wins over it.
"""

import os
from pathlib import Path

import torch

from mathcore._validate import one_of

SCALES = ("cpu", "gpu")
PRECISIONS = ("float32", "bfloat16")


def _root() -> Path:
    """Root of the source tree, or the current folder where the package is installed without one."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def _device(value: str | torch.device, name: str) -> torch.device:
    """Return the torch device called ``value`` if this machine has it.

    Raises:
        ValueError: not the name of a device, or a CUDA or MPS device that this machine does not have.
    """
    try:
        device = torch.device(value)
    except RuntimeError:
        raise ValueError(f"{name} must name a torch device such as cpu, cuda, cuda:1 or mps; got {value!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{name} asks for {value!r}, but torch sees {torch.cuda.device_count()} CUDA devices; use cpu or another machine")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{name} asks for {value!r}, but this machine has no MPS device; use cpu")
    return device


class Settings:
    """Scale, device, progress bars and build folder, from the environment unless assigned.

    Raises:
        ValueError: on access or assignment, an unknown scale or a device that this machine does not have.
    """

    def __init__(self) -> None:
        self._scale: str | None = None
        self._device: torch.device | None = None
        self._progress: bool | None = None
        self._build_dir: Path | None = None

    @property
    def scale(self) -> str:
        """Size of the experiments: ``"cpu"`` or ``"gpu"``."""
        return self._scale or one_of(os.environ.get("MATHCORE_SCALE", "cpu"), SCALES, "MATHCORE_SCALE")

    @scale.setter
    def scale(self, value: str) -> None:
        self._scale = one_of(value, SCALES, "settings.scale")

    @property
    def precision(self) -> str:
        """Precision of the forward passes of training: ``"float32"``, or ``"bfloat16"`` under autocast."""
        return one_of(os.environ.get("MATHCORE_PRECISION", "float32"), PRECISIONS, "MATHCORE_PRECISION")

    @property
    def device(self) -> torch.device:
        """Where models train. The scale ``"gpu"`` means ``cuda`` unless ``MATHCORE_DEVICE`` says otherwise."""
        if self._device is not None:
            return self._device
        if "MATHCORE_DEVICE" in os.environ:
            return _device(os.environ["MATHCORE_DEVICE"], "MATHCORE_DEVICE")
        return _device("cuda" if self.scale == "gpu" else "cpu", f"the scale {self.scale!r} (MATHCORE_DEVICE is not set)")

    @device.setter
    def device(self, value: str | torch.device) -> None:
        self._device = _device(value, "settings.device")

    @property
    def progress(self) -> bool:
        """Whether progress bars are drawn."""
        if self._progress is not None:
            return self._progress
        return os.environ.get("CI", "").lower() in ("", "0", "false", "no")

    @progress.setter
    def progress(self, value: bool) -> None:
        self._progress = bool(value)

    @property
    def build_dir(self) -> Path:
        """Folder of everything computed (trained runs, the built book). It is not created here."""
        if self._build_dir is not None:
            return self._build_dir
        named = os.environ.get("MATHCORE_BUILD", "")
        return Path(named).expanduser().resolve() if named else _root() / "_build"

    @build_dir.setter
    def build_dir(self, value: str | Path) -> None:
        self._build_dir = Path(value).expanduser().resolve()

    @property
    def data_dir(self) -> Path:
        """Folder of downloaded data sets, which ``make clean`` leaves alone. It is not created here."""
        named = os.environ.get("MATHCORE_DATA", "")
        return Path(named).expanduser().resolve() if named else _root() / "_data"

    def __repr__(self) -> str:
        return f"Settings(scale={self.scale!r}, device={str(self.device)!r}, progress={self.progress}, build_dir={str(self.build_dir)!r})"


settings = Settings()
