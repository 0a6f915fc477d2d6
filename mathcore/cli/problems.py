"""``mathcore problem-sets``: the student release and the instructor's archive, by :mod:`mathcore.assess`."""

from collections.abc import Sequence
from pathlib import Path

from mathcore._validate import folder_to_write
from mathcore.cli.train import shown
from mathcore.settings import settings


def make_problem_sets(sources: Path, out: Path | None, students: Path | None, only: Sequence[str]) -> None:
    """Release the problem sets in the folder ``sources``, all or the ones named, into the course folder ``out``.

    Raises:
        ValueError: no problem sets there, an unknown one, a roster that cannot be read, a source that breaks the rules, a file in the
            place of the folder.
        RuntimeError: nbgrader is missing or refuses.
    """
    from mathcore.assess.source import find_sets, get_set

    root = folder_to_write((out or settings.build_dir / "problem_sets").expanduser().resolve())
    found = find_sets(sources)
    if not found:
        raise ValueError(
            f"there are no problem sets in {sources}: run the command in the root of the project, or name their folder with --sources"
        )
    chosen = [get_set(sources, name) for name in only or found]
    try:
        import nbgrader  # noqa: F401
    except ImportError:
        raise RuntimeError("problem sets are released by nbgrader, which is not installed: pip install 'mathcore[course]'") from None
    from mathcore.assess.release import Course, release
    from mathcore.assess.variants import read_roster

    roster = read_roster(students) if students is not None else None
    course = Course(root)
    for source in chosen:
        written = release(source, course, roster)
        print(f"{source.name}: {len(written)} notebook{'s' if len(written) > 1 else ''} for students, the first {shown(written[0])}")
    print(f"{shown(course.root / 'release')}  hand this out\n{shown(course.instructor)}  keep this: solutions, key, gradebook")
