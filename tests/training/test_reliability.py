"""Training that is killed, runs out of disk, or finds files that are not its own; and no pickle is loaded, ever."""

import ast
import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import killed
from training.two_processes import config, drawn, network
from training.two_processes import data as points

import mathcore
from mathcore.networks import TimeMLP
from mathcore.settings import settings
from mathcore.training import CheckpointError, fit, load_checkpoint, run_cached

TESTS = Path(killed.__file__).parents[1]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))


def test_killed_twenty_times_at_random_and_resumed_to_the_same_bits(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, killed.__file__, str(tmp_path), "20"], capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record["killed"] >= 20
    assert all(record["equal"])
    assert len(set(record["steps"])) >= 5  # the kills fell on different places
    assert record["left"] == 0  # what a kill left of an unfinished checkpoint is gone after the next session


def big():
    torch.manual_seed(0)
    return TimeMLP(2, hidden=64, depth=2, d_embed=8)


def test_a_file_that_the_system_cuts_short_leaves_the_last_checkpoint(tmp_path):
    """The limit on the size of a file stands in for a full disk: the write itself fails, after some of its bytes."""
    path, (_, hard) = tmp_path / "c", resource.getrlimit(resource.RLIMIT_FSIZE)
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def look(progress):
        if progress.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))

    try:
        with pytest.raises(
            CheckpointError,
            match=r"^the checkpoint of step 6 could not be written to .*c: File too large; the checkpoint of step 4 is in .*c$",
        ):
            fit(big(), drawn, points, config(), checkpoint=path, checkpoint_every=2, on_step=look)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert load_checkpoint(path)[1]["step"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    resumed, whole = fit(big(), drawn, points, config(), checkpoint=path, resume=True), fit(big(), drawn, points, config())
    assert torch.equal(resumed.losses, whole.losses)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small file system")
def test_a_full_file_system(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        path, fill = small / "c", small / "other"

        def look(progress):
            if progress.step == 5:
                with pytest.raises(OSError, match="No space left"), fill.open("wb") as file:
                    file.write(bytes(400_000))

        with pytest.raises(
            CheckpointError, match=r"step 6 could not be written to .*: No space left on device; the checkpoint of step 4 is in"
        ):
            fit(network(0), drawn, points, config(), checkpoint=path, checkpoint_every=2, on_step=look)
        assert load_checkpoint(path)[1]["step"] == 4
        fill.unlink()
        resumed = fit(network(0), drawn, points, config(), checkpoint=path, resume=True)
        assert torch.equal(resumed.losses, fit(network(0), drawn, points, config()).losses)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="the checkpoint of step 12 could not be written"):
        fit(network(0), drawn, points, config(), checkpoint=tmp_path / "file" / "c")


# --- no pickle


class Trap:
    """Unpickled, it raises an alarm."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.fixture
def no_pickle(monkeypatch):
    """Every way into a pickle is an alarm."""

    def alarm(*args, **kwargs):
        raise AssertionError("a pickle was loaded")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, alarm)
    for name in ("load", "jit.load"):
        owner, _, attribute = f"torch.{name}".rpartition(".")
        monkeypatch.setattr(eval(owner), attribute, alarm)


@pytest.mark.usefixtures("no_pickle")
def test_a_pickle_in_the_place_of_a_checkpoint_is_refused_unread(tmp_path, fresh_runs):
    path = tmp_path / "c"
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        path.write_bytes(pickle.dumps(Trap(), protocol))
        with pytest.raises(CheckpointError, match="truncated or is not a safetensors file"):
            fit(network(0), drawn, points, config(), checkpoint=path, resume=True)
    torch.save({"model": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="truncated or is not a safetensors file"):
        fit(network(0), drawn, points, config(), checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="truncated or is not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.usefixtures("no_pickle")
def test_a_whole_run_and_its_cache_load_no_pickle(tmp_path, fresh_runs):
    fit(network(0), drawn, points, config(), checkpoint=tmp_path / "c", checkpoint_every=5)
    fit(network(0), drawn, points, config(), checkpoint=tmp_path / "c", resume=True)
    for _ in range(2):
        run_cached("unpickled", config(), lambda model: fit(model, drawn, points, config()), network(0))
    assert list(fresh_runs.glob("unpickled*.safetensors"))


READERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"torch.load", "torch.jit.load", "np.load", "numpy.load", "pd.read_pickle", "torch.hub.load", "torch.serialization.load"}


def offences(source):
    """Imports of packages that read pickles, and calls of functions that do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in READERS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in READERS else []
        elif isinstance(node, ast.Attribute):
            found += [ast.unparse(node)] if ast.unparse(node) in CALLS or node.attr in ("load_state_dict_from_url", "allow_pickle") else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


def test_the_library_has_no_way_to_load_a_pickle():
    root = Path(mathcore.__file__).parent
    sources = [*root.rglob("*.py"), *(root.parent / "benchmarks").rglob("*.py")]
    assert len(sources) > 50
    assert {str(p): found for p in sources if (found := offences(p.read_text(encoding="utf-8")))} == {}
    for bad in (
        "import pickle",
        "from dill import loads",
        "torch.load(p)",
        "x = torch.jit.load",
        "np.load(p, allow_pickle=True)",
        "import joblib.x",
    ):
        assert offences(bad), bad
