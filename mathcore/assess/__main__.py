"""Release, try, collect and grade problem sets. Each action has a help of its own: python -m mathcore.assess grade --help

python -m mathcore.assess release ps09 --students roster.csv     make releases, archives and hand-out pages
python -m mathcore.assess try ps09                               do the solutions get all points?
python -m mathcore.assess collect ps09.zip ps09 --students roster.csv
                                                                 sort downloaded notebooks into the course
python -m mathcore.assess grade ps09                             grade what was collected, write grades and feedback
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mathcore.settings import settings

if TYPE_CHECKING:
    from mathcore.assess.grading import Report

ROOT = Path(__file__).resolve().parents[2]
UNCONFINED = "where the kernel has no Landlock: every submission can then read and write what you can"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status. What is wrong with the input is one line, without a traceback."""
    options = _parser().parse_args(arguments)
    options.course = options.course.expanduser().resolve()
    try:
        options.run(options)
    except (ValueError, RuntimeError) as error:
        print(f"problem sets: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"problem sets: {error.name} is not installed; pip install 'mathcore[course]'", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mathcore.assess", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = _action(actions, _release, "release", "[SET ...]", "Make releases, archives and hand-out pages; of all sets where none is named.")
    new.add_argument("sets", nargs="*", metavar="SET", help="such as ps09; all by default")
    _add_students(new, "each gets a notebook with numbers of their own")
    new.add_argument("--handouts", type=Path, default=ROOT / "book" / "generated", help="where the pages of the book are written")
    new = _action(actions, _try, "try", "SET", "Grade a set's own solutions in a temporary course; your course stays as it is.")
    new.add_argument("rest", nargs="*", metavar="SET", help="such as ps09")
    new.add_argument("--unconfined", action="store_true", help=f"try {UNCONFINED}")
    what = "Sort downloaded notebooks into the course. A later one replaces an earlier one, never the other way round."
    new = _action(actions, _collect, "collect", "FOLDER SET --students ROSTER", what, "ps09.zip ps09 --students roster.csv")
    new.add_argument("rest", nargs="*", metavar="FOLDER SET", help="the download, a folder or a zip file, and the set")
    _add_students(new, "a notebook belongs to the one whose id, or first and last name, stands in its path as a word")
    new = _action(actions, _grade, "grade", "SET", f"Grade what was collected, write grades and feedback. {_limits()}")
    new.add_argument("rest", nargs="*", metavar="SET", help="such as ps09")
    new.add_argument("--only", nargs="+", metavar="STUDENT", help="grade only these")
    _add_students(new, "who handed in nothing gets a row of zeros, as do those who were given numbers of their own")
    new.add_argument("--unconfined", action="store_true", help=f"grade {UNCONFINED}")
    return parser


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], None],
    name: str,
    usage: str,
    what: str,
    example: str = "ps09",
) -> argparse.ArgumentParser:
    """Add an action with the options that all of them have."""
    command = f"python -m mathcore.assess {name}"
    parser = actions.add_parser(
        name,
        help=what.split(". ")[0].split(";")[0].rstrip(".").lower(),
        usage=f"{command} {usage} [options]",
        description=what,
        epilog=f"Example: {command} {example} --course ~/diffusion-2026",
    )
    parser.set_defaults(run=run)
    course = settings.build_dir / "problem_sets"
    parser.add_argument("--course", type=Path, default=course, help="folder of the course (default: %(default)s)")
    parser.add_argument("--sources", type=Path, default=ROOT / "notebooks" / "problem_sets", help="folder of the sources")
    return parser


def _add_students(parser: argparse.ArgumentParser, use: str) -> None:
    what = "roster: a CSV file with a column id, and first_name, last_name, email if wanted"
    parser.add_argument("--students", type=Path, metavar="ROSTER", help=f"{what}; {use}")


def _limits() -> str:
    """What a submission may use, as a sentence."""
    from mathcore.assess.sandbox import Limits

    most = Limits()
    return (
        f"A submission may use {most.cell_seconds:g} seconds of processor time for a cell and {most.test_seconds:g} for all it computes for one test cell, "
        f"{most.patience:g} times as much on the clock, and {most.memory / 2**30:g} GiB of memory. What takes more costs the question it belongs to."
    )


def _release(options: argparse.Namespace) -> None:
    from mathcore.assess import handout, release, variants
    from mathcore.assess.source import find_sets, get_set

    roster = variants.read_roster(options.students) if options.students else None
    course = release.Course(options.course)
    for name in options.sets or find_sets(options.sources):
        source = get_set(options.sources, name)
        written = release.release(source, course, roster)
        handout.write(source, options.handouts)
        own = f", {len(written) - 1} of them with a student's own numbers" if roster else ""
        print(f"{name}: {len(written)} notebook{'s' if len(written) > 1 else ''} in {course.root / 'release'}{own}")
    print(f"keep {course.instructor} to yourself: it holds the key, the solutions and the gradebook")


def _try(options: argparse.Namespace) -> None:
    from mathcore.assess.release import Course
    from mathcore.assess.source import get_set
    from mathcore.assess.trial import outdated, try_solutions

    if len(options.rest) != 1:
        raise ValueError("try needs one set")
    source = get_set(options.sources, options.rest[0])
    report = try_solutions(source, confined=not options.unconfined)
    print(f"{source.name}: the solutions get {report.score:g} of {report.total:g}")
    for name, error in report.errors.items():
        print(f"{name.removesuffix('-test')}: {error}")
    if outdated(source, Course(options.course)):
        print(f"the release in {options.course} was made from another version of the source: release again")
    if report.score < report.total:
        raise RuntimeError(f"the solutions of {source.name} should get all points; {report.note or _lost(report, source.points)}")


def _collect(options: argparse.Namespace) -> None:
    from mathcore.assess import collecting, variants
    from mathcore.assess.release import Course
    from mathcore.assess.source import get_set

    if len(options.rest) != 2 or not options.students:
        raise ValueError("collect needs a folder (or zip file), a set, and --students roster.csv")
    source = get_set(options.sources, options.rest[1])
    course = Course(options.course)
    result = collecting.collect(Path(options.rest[0]), source, course, variants.read_roster(options.students))
    print(f"{len(result.taken)} submission{'' if len(result.taken) == 1 else 's'} collected")
    for student, path in result.chosen.items():
        print(f"{student} sent several, the one modified last counts: {path}")
    for student, kept in result.replaced.items():
        print(f"{student} has handed in again: the earlier notebook is kept as {kept}")
    for student, path in result.older.items():
        print(f"{student}: left out as older than what was collected before: {path}")
    for path, why in result.unplaced.items():
        print(f"not placed: {path}: {why}")
    if result.missing:
        print(f"no submission from: {', '.join(result.missing)}")
    if not result.taken and not result.older:
        raise ValueError("no notebook could be given to a student: see Collect in the instructor's guide")


def _grade(options: argparse.Namespace) -> None:
    from mathcore.assess import variants
    from mathcore.assess.grading import grade
    from mathcore.assess.release import Course
    from mathcore.assess.source import get_set

    if len(options.rest) != 1:
        raise ValueError("grade needs one set")
    course, source = Course(options.course), get_set(options.sources, options.rest[0])
    roster = variants.read_roster(options.students) if options.students else {}
    for report in grade(source, course, options.only, confined=not options.unconfined, roster=roster):
        rest = report.note or _lost(report, source.points)
        print(f"{report.student:20} {report.score:6g} of {report.total:g}{'  ' if rest else ''}{rest}")
        for line in report.by_hand:
            print(f"{'':20} {line}")
    print(f"grades in {course.root / 'grades'}, pages for students in {course.root / 'feedback'}")


def _lost(report: "Report", points: dict[str, float]) -> str:
    """The questions that did not get all their points, those without an answer apart."""
    lost = [
        name.removesuffix("-test") + (f" ({report.points[name]:g} of {most:g})" if report.points[name] else "")
        for name, most in points.items()
        if report.points[name] < most and name not in report.lacks
    ]
    return "; ".join(filter(None, [f"lost: {', '.join(lost)}" if lost else "", report.remark]))


if __name__ == "__main__":
    sys.exit(main())
