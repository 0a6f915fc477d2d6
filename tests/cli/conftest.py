"""A command line in this process, with its own build folder."""

import pytest
from typer.testing import CliRunner

from mathcore.settings import settings


@pytest.fixture
def build(tmp_path, monkeypatch):
    """An empty build folder; the device of ``settings`` is put back, since commands set it."""
    monkeypatch.setenv("MATHCORE_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("MATHCORE_DEVICE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    device = settings._device
    yield tmp_path / "build"
    settings._device = device


@pytest.fixture
def mathcore(build, user_errors):
    """Run ``mathcore WORDS`` and return the result: ``exit_code``, ``stdout``, ``stderr``."""
    from mathcore.cli import app

    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])
