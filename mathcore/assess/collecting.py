"""Sort the notebooks that a learning platform hands out into ``submitted/<student>/<set>/``."""

import os
import re
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mathcore.assess.release import Course
from mathcore.assess.source import Source


@dataclass
class Collected:
    """Students whose notebook was taken, students without one, files that belong to nobody, and which file counts where a student sent several."""

    taken: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    chosen: dict[str, str] = field(default_factory=dict)


def collect(folder: Path, source: Source, course: Course, students: Sequence[str]) -> Collected:
    """Copy each student's notebook from ``folder``, searched in depth, or from a zip file, into the course.

    A notebook belongs to the student whose id stands in its path below ``folder``, as a word: ``ann/ps09-solvers.ipynb``, ``ann_ps09.ipynb``,
    ``Smith_ann_4711_ps09-solvers.ipynb``. Of several notebooks of one student the one modified last counts.

    Raises:
        ValueError: no such folder, or a file that is no zip archive.
    """
    if folder.is_file():
        folder = _unpacked(folder, course.root / "downloads" / f"{source.name}-{folder.stem}")
    if not folder.is_dir():
        raise ValueError(f"there is no folder or zip file {folder}")
    result, newest = Collected(), dict[str, Path]()
    for path in sorted(folder.rglob("*.ipynb"), key=lambda p: p.stat().st_mtime):
        if ".ipynb_checkpoints" in path.parts or path.is_symlink():
            continue
        owner = _owner(path.relative_to(folder).as_posix(), students)
        if owner:
            if owner in newest:
                result.chosen[owner] = path.relative_to(folder).as_posix()
            newest[owner] = path
        else:
            result.unmatched.append(path.relative_to(folder).as_posix())
    for student in students:
        if student in newest:
            target = course.root / "submitted" / student / source.name / f"{source.stem}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(newest[student], target)
    result.taken = sorted(newest)
    result.missing = [student for student in students if student not in newest]
    return result


def _owner(path: str, students: Sequence[str]) -> str:
    """The student whose id stands in ``path`` as a word; the longest of several, nobody if two of that length do."""
    found = [s for s in students if re.search(rf"(?<![A-Za-z0-9]){re.escape(s)}(?![A-Za-z0-9])", path)]
    longest = [s for s in found if len(s) == max(map(len, found))]
    return longest[0] if len(longest) == 1 else ""


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
