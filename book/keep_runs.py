"""A plugin of pytest: what nbval has executed goes into the store that the book is built from, so that no notebook runs twice.

PYTHONPATH=book pytest -p keep_runs notebooks book --nbval-lax --nbval-current-env -n 2 --dist loadfile
"""

import copy
import os
from collections.abc import Generator

import pytest
from build import KERNEL_ENV, notebooks_of_toc, open_store
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbval.plugin import IPyNbCell, IPyNbFile

PASSED = pytest.StashKey[dict[int, tuple[IPyNbCell, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Run the kernels as the book does; take out of the store, before any worker writes to it, what is out of date."""
    os.environ.update(KERNEL_ENV)
    if not hasattr(config, "workerinput"):
        open_store(config.rootpath)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the run of a notebook once each of its code cells has passed."""
    report = yield
    if isinstance(item, IPyNbCell) and call.when == "call" and report.passed:
        passed = item.parent.stash.setdefault(PASSED, {})
        passed[item.cell_num] = item, call.duration
        if len(passed) == sum(cell.cell_type == "code" for cell in item.parent.nb.cells):
            keep(item.parent, passed)
    return report


def keep(file: IPyNbFile, passed: dict[int, tuple[IPyNbCell, float]]) -> None:
    """Store an executed notebook, if it is a page of the book."""
    root = file.config.rootpath
    if file.path not in notebooks_of_toc(root):
        return
    nb = copy.deepcopy(file.nb)
    for number, cell in enumerate(cell for cell in nb.cells if cell.cell_type == "code"):
        cell.outputs, cell.execution_count = passed[number][0].test_outputs, number + 1
    seconds = sum(duration for _, duration in passed.values())
    bundle = CacheBundleIn(nb, str(file.path), data={"execution_seconds": seconds})
    get_cache(root / "_build" / "cache").cache_notebook_bundle(bundle, overwrite=True)
