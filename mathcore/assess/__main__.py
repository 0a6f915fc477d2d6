"""Release, collect and grade problem sets.

python -m mathcore.assess release [SETS] [--students roster.csv]     make releases, archives and hand-out pages
python -m mathcore.assess collect FOLDER SET --students roster.csv   sort downloaded notebooks into the course
python -m mathcore.assess grade SET                                  grade what was collected, write grades and feedback
"""

import argparse
import sys
from pathlib import Path

from mathcore.settings import settings

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status. What is wrong with the input is one line, without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m mathcore.assess", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["release", "collect", "grade"])
    parser.add_argument("rest", nargs="*", metavar="FOLDER SET", help="release: sets (all); collect: a folder and a set; grade: a set")
    parser.add_argument("--students", type=Path, help="roster: a CSV file with a column id, and first_name, last_name, email if wanted")
    parser.add_argument(
        "--course", type=Path, default=settings.build_dir / "problem_sets", help="folder of the course (default: %(default)s)"
    )
    parser.add_argument("--sources", type=Path, default=ROOT / "notebooks" / "problem_sets", help="folder of the sources")
    parser.add_argument("--handouts", type=Path, default=ROOT / "book" / "generated", help="where release writes the pages of the book")
    parser.add_argument("--only", nargs="+", metavar="STUDENT", help="grade only these students")
    parser.add_argument(
        "--unconfined", action="store_true", help="grade where the kernel has no Landlock: every submission can then read the course"
    )
    options = parser.parse_args(arguments)
    options.course = options.course.expanduser().resolve()
    try:
        {"release": _release, "collect": _collect, "grade": _grade}[options.action](options)
    except (ValueError, RuntimeError) as error:
        print(f"problem sets: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"problem sets: {error.name} is not installed; pip install 'mathcore[course]'", file=sys.stderr)
        return 2
    return 0


def _release(options: argparse.Namespace) -> None:
    from mathcore.assess import handout, release, variants
    from mathcore.assess.source import find_sets, get_set

    roster = variants.read_roster(options.students) if options.students else None
    course = release.Course(options.course)
    for name in options.rest or find_sets(options.sources):
        source = get_set(options.sources, name)
        written = release.release(source, course, roster)
        handout.write(source, options.handouts)
        own = f", {len(written) - 1} of them with a student's own numbers" if roster else ""
        print(f"{name}: {len(written)} notebook{'s' if len(written) > 1 else ''} in {course.root / 'release'}{own}")
    print(f"keep {course.instructor} to yourself: it holds the key, the solutions and the gradebook")


def _collect(options: argparse.Namespace) -> None:
    from mathcore.assess import collecting, variants
    from mathcore.assess.release import Course
    from mathcore.assess.source import get_set

    if len(options.rest) != 2 or not options.students:
        raise ValueError("collect needs a folder (or zip file), a set, and --students roster.csv")
    source = get_set(options.sources, options.rest[1])
    result = collecting.collect(Path(options.rest[0]), source, Course(options.course), list(variants.read_roster(options.students)))
    print(f"{len(result.taken)} submissions collected")
    for student, path in result.chosen.items():
        print(f"{student} sent several, the one modified last counts: {path}")
    for title, names in (("no submission from", result.missing), ("not matched to a student", result.unmatched)):
        if names:
            print(f"{title}: {', '.join(names)}")
    if not result.taken:
        raise ValueError("no notebook has a student's id in its path as a word: see Collect in the instructor's guide")


def _grade(options: argparse.Namespace) -> None:
    from mathcore.assess.grading import grade
    from mathcore.assess.release import Course
    from mathcore.assess.source import get_set

    if len(options.rest) != 1:
        raise ValueError("grade needs one set")
    course = Course(options.course)
    reports = grade(get_set(options.sources, options.rest[0]), course, options.only, confined=not options.unconfined)
    for report in reports:
        lost = [name.removesuffix("-test") for name, error in report.errors.items() if error]
        print(f"{report.student:20} {report.score:6g} of {report.total:g}  {report.note or ('lost: ' + ', '.join(lost) if lost else '')}")
    print(f"grades in {course.root / 'grades'}, pages for students in {course.root / 'feedback'}")


if __name__ == "__main__":
    sys.exit(main())
