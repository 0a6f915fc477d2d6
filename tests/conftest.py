"""Shared by all tests: shapes checked at run time, float64 by choice of each test, one torch thread."""

import jaxtyping
import pytest
import torch

# Every annotated signature of mathcore is checked while the tests run. Must precede the first import of the package.
jaxtyping.install_import_hook("mathcore", "typechecker.checked")

torch.set_num_threads(1)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def user_errors():
    """Switch the run-time shape checker off, so that a test sees the error that a user of the library would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
