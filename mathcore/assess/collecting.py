"""Sort the notebooks that a learning platform hands out into ``submitted/<student>/<set>/``; what came later wins, and nothing is lost."""

import filecmp
import itertools
import os
import re
import shutil
import time
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mathcore.assess.release import Course
from mathcore.assess.source import Source

Roster = Mapping[str, Mapping[str, str]]
"""Students by id, with their names where they are known, as :func:`variants.read_roster` reads them."""


@dataclass
class Collected:
    """What came of a download.

    Attributes:
        taken: students whose notebook of this download lies in the course now. missing: students who have handed in nothing, now or before.
        chosen: of several notebooks of a student in this download, the one that counts. replaced: where a student's earlier submission was put.
        older: a student's notebook that was left out, since the course has a later one.
        unplaced: files that were given to nobody, and why.
    """

    taken: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, Path] = field(default_factory=dict)
    older: dict[str, str] = field(default_factory=dict)
    unplaced: dict[str, str] = field(default_factory=dict)


def collect(folder: Path, source: Source, course: Course, roster: Roster) -> Collected:
    """Copy each student's notebook from ``folder``, searched in depth, or from a zip file, into the course, with its time of modification.

    A notebook belongs to the student whose id, or first and last name, stands in its path below ``folder`` as a word and in the same case:
    ``ann/ps09-solvers.ipynb``, ``ann_ps09.ipynb``, ``smithann_LATE_4711_99887_ps09-solvers-1.ipynb``, ``Ann Smith_48213_assignsubmission_file_/ps09.ipynb``.
    Of several notebooks of one student, here and in the course, the one modified last counts. One that it replaces in the course is kept in
    ``instructor/replaced/<student>/``.

    Raises:
        ValueError: no such folder, or a file that is no zip archive.
    """
    if folder.is_file():
        folder = _unpacked(folder, course.root / "downloads" / f"{source.name}-{folder.stem}")
    if not folder.is_dir():
        raise ValueError(f"there is no folder or zip file {folder}")
    result, newest, others = Collected(), dict[str, Path](), dict[str, str]()
    for path in sorted(_files(folder), key=lambda p: (p.stat().st_mtime, p)):
        name = path.relative_to(folder).as_posix()
        owner, why = _owner(name, source, roster)
        if path.suffix != ".ipynb":
            others |= {name: owner} if owner else {}
        elif not owner:
            result.unplaced[name] = why
        else:
            if owner in newest:
                result.chosen[owner] = name
            newest[owner] = path
    for student in sorted(newest):
        _place(student, newest[student], newest[student].relative_to(folder).as_posix(), source, course, result)
    result.missing = [student for student in roster if not _target(student, source, course).is_file()]
    result.unplaced |= {name: f"{owner} sent no notebook but this" for name, owner in others.items() if owner in result.missing}
    return result


def _files(folder: Path) -> Iterator[Path]:
    """The files below ``folder`` that a person put there: no checkpoints, no links, none of the shadows that macOS packs."""
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") or part == "__MACOSX" for part in parts):
            yield path


def _target(student: str, source: Source, course: Course) -> Path:
    return course.root / "submitted" / student / source.name / f"{source.stem}.ipynb"


def _place(student: str, path: Path, name: str, source: Source, course: Course, result: Collected) -> None:
    """Copy ``path`` into the course unless a later submission of the student is there; put away the one that it replaces."""
    target = _target(student, source, course)
    if target.is_file() and not filecmp.cmp(path, target, shallow=False):
        if path.stat().st_mtime < target.stat().st_mtime:
            result.older[student] = name
            return
        result.replaced[student] = _put_away(target, course.instructor / "replaced" / student, source.name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        stamp = path.stat()
        os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    result.taken.append(student)


def _put_away(path: Path, folder: Path, name: str) -> Path:
    """Move a submission into ``folder`` under the time it was modified, without writing over another one; return where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H%M%SZ")
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    kept = next(place for ending in endings if not (place := folder / f"{name}-{stamp}{ending}.ipynb").exists())
    return Path(shutil.move(path, kept))


def _owner(path: str, source: Source, roster: Roster) -> tuple[str, str]:
    """The student a path names, or nobody and why.

    Upper and lower case differ, since *Ann Smith* in a path need not be the student ``ann``. An id or name inside a longer one that is found does not count:
    ``ann-lee_ps09.ipynb`` is not ann's. Two students in one path are a reason to give it to neither.
    """
    other = re.search(r"(?<![^\W_])ps\d\d(?!\d)", path.rpartition("/")[2])
    if other and other[0] != source.name:
        return "", f"its name says {other[0]}"
    own = rf"{re.escape(source.stem)}(-\d+| ?\(\d+\))?"  # the set's name with an attempt's number, which are nobody's
    text = re.sub(own, " ", unicodedata.normalize("NFC", path))
    found = _named(text, roster, re.NOFLAG)
    if len(found) == 1:
        return found.pop(), ""
    if found:
        return "", f"it could be of {' or '.join(sorted(found))}"
    near = sorted(_named(text, roster, re.IGNORECASE))
    return "", f"it has {', '.join(near)} only in another case" if near else "no id or name of the roster stands in its path as a word"


def _named(text: str, roster: Roster, flags: re.RegexFlag) -> set[str]:
    """Students whose id or full name stands in ``text`` as a word that is no part of a longer one found."""
    spans: list[tuple[int, int, str]] = []
    for student, details in roster.items():
        full = unicodedata.normalize("NFC", f"{details.get('first_name', '')} {details.get('last_name', '')}")
        for name in {student, full} if all(full.split(" ", 1)) else {student}:
            spans += [(*match.span(), student) for match in re.finditer(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text, flags)]
    return {s for a, b, s in spans if not any(c <= a and b <= d and d - c > b - a for c, d, _ in spans)}


def _unpacked(archive: Path, target: Path) -> Path:
    if not zipfile.is_zipfile(archive):
        raise ValueError(f"{archive} is neither a folder nor a zip file")
    shutil.rmtree(target, ignore_errors=True)
    with zipfile.ZipFile(archive) as content:
        if sum(item.file_size for item in content.infolist()) > 2 << 30:
            raise ValueError(f"{archive} unpacks to more than 2 GiB")
        for item in content.infolist():
            path = content.extract(item, target)  # names that climb out of the folder are made harmless by zipfile itself
            stamp = time.mktime((*item.date_time, 0, 0, -1))  # extract forgets when a file was modified, which decides between attempts
            os.utime(path, (stamp, stamp))
    return target
