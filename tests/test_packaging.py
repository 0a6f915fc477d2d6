"""pyproject, lock and conda file agree; the package is light to import and stands on its own."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(r.name): r
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
    for r in [Requirement(line)]
}


def pinned(requirement):
    (spec,) = LOCK[canonicalize_name(requirement.name)].specifier
    assert spec.operator == "=="
    return spec.version


@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_the_lock_satisfies_the_project(extra):
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, wanted):
        assert canonicalize_name(requirement.name) in LOCK, f"{requirement} is not in requirements.lock"
        assert requirement.specifier.contains(pinned(requirement)), f"{requirement}: the lock has {pinned(requirement)}"
        assert any(s.operator in (">=", "==") for s in requirement.specifier), f"{requirement} has no lower bound"


def test_the_lock_pins_everything_exactly_and_names_plain_torch():
    assert all(len(r.specifier) == 1 and pinned(r) for r in LOCK.values())
    assert str(LOCK["torch"]) == "torch==2.13.0"


def test_the_conda_file_installs_the_lock():
    env = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [d for d in env["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in env["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]  # each is a line of a requirements file: no --no-deps there
    (python,) = [d.removeprefix("python=") for d in conda if d.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    assert "pip" in conda


def test_the_workflow_runs_the_commands_of_the_readme():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("make test", "make book"):
        assert command in readme
        assert command in ci


def test_import_loads_nothing_heavy():
    """mathcore itself, and its numerical core, load neither sympy nor matplotlib, POT, scikit-learn or scipy.stats beyond what torch brings."""
    code = (
        "import sys, torch; before = set(sys.modules); import mathcore, mathcore.schedules, mathcore.predictions, mathcore.distributions, mathcore.oracle, mathcore.claims;"
        "print(' '.join(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert not {"sympy", "matplotlib", "ot", "sklearn", "mlxtend", "IPython", "networkx"} & set(loaded)


def test_layers_import_downwards_only():
    order = ["schedules", "predictions", "distributions", "oracle", "divergences", "variational"]
    for level, name in enumerate(order):
        files = (
            [ROOT / "mathcore" / f"{name}.py"]
            if (ROOT / "mathcore" / f"{name}.py").exists()
            else sorted((ROOT / "mathcore" / name).glob("*.py"))
        )
        for file in files:
            for later in order[level + 1 :]:
                assert not re.search(rf"^\s*(from|import) mathcore(\.| import ){later}\b", file.read_text(), re.M), (
                    f"{file.name} imports {later}"
                )
    for file in (ROOT / "mathcore" / "symbolic").glob("*.py"):
        assert not re.search(r"^\s*(from|import) torch", file.read_text(), re.M), f"{file.name} imports torch"


def test_files_stay_small():
    for file in sorted((ROOT / "mathcore").rglob("*.py")):
        assert file.read_text().count("\n") <= 350, f"{file.relative_to(ROOT)} is longer than 350 lines"
