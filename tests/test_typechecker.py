"""The checker of annotations refuses wrong types, stops looking after its limit of calls in one test, and looks again in the next."""

import jaxtyping
import pytest
import typechecker

from mathcore.schedules import AffineSchedule

WRONG = {}  # no time at all


def test_it_looks_until_its_limit():
    schedule = AffineSchedule.vp()
    for _ in range(typechecker.CALLS - 1):
        schedule.alpha(0.3)
    with pytest.raises(jaxtyping.TypeCheckError):
        schedule.alpha(WRONG)
    schedule.alpha(0.3)
    with pytest.raises(TypeError, match="t must be a number") as caught:  # the package's own error
        schedule.alpha(WRONG)
    assert not isinstance(caught.value, jaxtyping.TypeCheckError)
    typechecker.distrust()  # what a fixture of all tests does before each
    with pytest.raises(jaxtyping.TypeCheckError):
        schedule.alpha(WRONG)


def test_every_test_begins_with_distrust(request):
    assert "_distrust" in request.fixturenames
