"""``mathcore problem-sets``: the student release and the instructor's archive."""

from collections.abc import Sequence
from pathlib import Path

from mathcore.settings import settings


def make_problem_sets(out: Path | None, students: Path | None, only: Sequence[str]) -> None:
    """Generate them; see :mod:`mathcore.assess.release`.

    Raises:
        ValueError, RuntimeError, OSError: what the release says, such as an unknown problem set or a roster that cannot be read.
    """
    raise NotImplementedError
