"""Shared by the solver tests."""

import jaxtyping
import pytest
from problems import SCHEDULES, Problem


@pytest.fixture(scope="module")
def without_shape_checks():
    """No run-time shape checks in a module of convergence orders: they cost more than the samplers, and every other test runs with them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", params=SCHEDULES)
def problem(request):
    """The mixture on the middle of each schedule."""
    return Problem(request.param)
