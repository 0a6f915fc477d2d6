"""Shared by all tests: shapes checked at run time, float64 by choice of each test, one torch thread."""

import hypothesis
import jaxtyping
import pytest
import torch
import typechecker

# Every annotated signature of mathcore is checked while the tests run, in the first calls of each test. Must precede the first import of the package.
jaxtyping.install_import_hook("mathcore", "typechecker.checked")

torch.set_num_threads(1)

# The same examples in every run: a red run is then about the change and not about the draw.
hypothesis.settings.register_profile("book", derandomize=True)
hypothesis.settings.load_profile("book")


@pytest.fixture(autouse=True)
def _distrust():
    """Let the checker of signatures start anew in each test."""
    typechecker.distrust()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def user_errors():
    """Switch the run-time shape checker off, so that a test sees the error that a user of the library would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def fresh_runs(monkeypatch, tmp_path):
    """Settings of the CPU scale with an empty folder of kept runs; returns that folder."""
    from mathcore.settings import settings  # after the import hook

    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))
    monkeypatch.setattr(settings, "_scale", "cpu")
    monkeypatch.setattr(settings, "_build_dir", tmp_path)
    return tmp_path / "runs"
