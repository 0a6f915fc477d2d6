"""Build the book: execute what changed, in parallel; write the pages made from the run; hand the rest to Jupyter Book.

    python book/build.py            prints the path of the page to open

A notebook's stored run is reused while its own code, the library, the lock and the scale are what they were.
"""

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from jupyter_cache import get_cache
from jupyter_cache.cache.main import JupyterCacheBase
from jupyter_cache.executors import load_executor
from pages import Run, corrections_page, ledger_page, runs_of

from mathcore.assess import handout
from mathcore.assess.source import find_sets, load

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 600
# One thread per kernel: two kernels with two threads each on two cores run several times slower.
KERNEL_ENV = {"OMP_NUM_THREADS": "1", "MATHCORE_EXPLORE": "static", "CI": "true"}


def library_key() -> str:
    """Hash everything a notebook's result depends on besides the notebook: package, lock, scale, device, precision.

    The command line and the grading of problem sets are left out: no notebook of a chapter reaches them.
    """
    digest = hashlib.sha256()
    package = [path for path in sorted((ROOT / "mathcore").rglob("*.py")) if path.relative_to(ROOT).parts[1] not in ("assess", "cli")]
    for path in [*package, ROOT / "requirements.lock"]:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update(repr([os.environ.get(name) for name in ("MATHCORE_SCALE", "MATHCORE_DEVICE", "MATHCORE_PRECISION")]).encode())
    return digest.hexdigest()


def notebooks_of_toc(root: Path) -> list[Path]:
    """Return the notebooks that the table of contents names, in reading order: its root, chapters and sections."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    return [path for file in _files(toc) if (path := root / f"{file}.ipynb").is_file()]


def _files(entry: dict) -> list[str]:
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [file for key in ("parts", "chapters", "sections") for child in entry.get(key, []) for file in _files(child)]


def open_cache(build: Path, key: str) -> JupyterCacheBase:
    """Open the store of executed notebooks, emptied if the library has changed since it was filled."""
    stamp = build / "cache-key"
    if not stamp.is_file() or stamp.read_text() != key:
        for stale in ("cache", "html", ".doctrees", "jupyter_execute"):
            shutil.rmtree(build / stale, ignore_errors=True)
        build.mkdir(parents=True, exist_ok=True)
        stamp.write_text(key)
    return get_cache(build / "cache")


def open_store(root: Path) -> JupyterCacheBase:
    """Open the store of executed notebooks of the book under ``root``, without what its library or its benchmark results have outdated."""
    cache = open_cache(root / "_build", library_key())
    forget_stale_results(cache, root / "_build", notebooks_of_toc(root))
    return cache


def forget_stale_results(cache: JupyterCacheBase, build: Path, notebooks: list[Path]) -> None:
    """Drop the stored run of a notebook that reads benchmark results, if these have changed since."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    stamp = build / "results-key"
    if not stamp.is_file() or stamp.read_text() != digest.hexdigest():
        readers = {str(path) for path in notebooks if "benchmarks/results" in path.read_text(encoding="utf-8")}
        for record in cache.list_cache_records():
            if record.uri in readers:
                cache.remove_cache(record.pk)
        stamp.write_text(digest.hexdigest())


def execute(cache: JupyterCacheBase, notebooks: list[Path]) -> None:
    """Run the notebooks that have no stored result, two or more at a time; exit with the traceback of each that failed."""
    for record in cache.list_project_records():
        cache.remove_nb_from_project(record.pk)
    for path in notebooks:
        cache.add_nb_to_project(str(path))
    os.environ.update(KERNEL_ENV)
    result = load_executor("local-parallel", cache, logger=_console()).run_and_cache(timeout=CELL_TIMEOUT)
    failed = [*result.excepted, *result.errored]
    for uri in failed:
        traceback = cache.get_project_record(uri).traceback or "the kernel died or the notebook could not be read"
        print(f"\n{Path(uri).name} failed:\n{traceback}", file=sys.stderr)
    if failed:
        sys.exit(f"book: {len(failed)} of {len(notebooks)} notebooks failed: {', '.join(Path(uri).stem for uri in failed)}")


def _console() -> logging.Logger:
    logger = logging.getLogger("book")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))
    return logger


def write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` unless the file already holds it, so that an unchanged page is not rebuilt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(root: Path, runs: list[Run]) -> None:
    """Write the Ledger and Corrections pages from the run and ``claims.toml``, and the problem sets from their sources, without their answers."""
    write_if_changed(root / "book" / "generated" / "ledger.md", ledger_page(runs))
    write_if_changed(root / "book" / "generated" / "corrections.md", corrections_page(runs))
    for path in find_sets(root / "notebooks" / "problem_sets").values():
        handout.write(load(path), root / "book" / "generated")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's sources (default: this project)")
    root = parser.parse_args().root.resolve()
    build = root / "_build"
    notebooks = notebooks_of_toc(root)
    cache = open_store(root)
    execute(cache, notebooks)
    generate(root, [runs_of(cache, path) for path in notebooks])
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    status = subprocess.run([jupyter_book, "build", root, "-W", "--keep-going", "-n"], env=os.environ | KERNEL_ENV, check=False).returncode
    if status:
        sys.exit(status)
    for path in notebooks:  # the page offers the notebook as it is in the repository, not the executed one
        shutil.copyfile(path, build / "html" / "_sources" / path.relative_to(root))
    print(f"\nThe book is built. Open {build / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
