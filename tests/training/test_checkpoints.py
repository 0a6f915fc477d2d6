"""Checkpoints: what is written comes back, whole or not at all, and every bad file is refused in one sentence."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from mathcore.training import CheckpointError, load_checkpoint, save_checkpoint


def content(seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(300, 7, generator=g)
    return {
        "a": a,
        "shares memory with a": a[:3].T,
        "half": a.bfloat16(),
        "double": a.double(),
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 2),
        "state": g.get_state(),
        "flag": torch.tensor([True, False]),
    }


def test_what_is_written_comes_back_exactly(tmp_path):
    path = tmp_path / "deep" / "er" / "run.safetensors"
    save_checkpoint(path, content(), {"step": 3, "config": {"lr": 0.1, "ema": None}})
    tensors, metadata = load_checkpoint(path)
    assert metadata == {"step": 3, "config": {"lr": 0.1, "ema": None}}
    assert tensors.keys() == content().keys()
    for name, want in content().items():
        assert tensors[name].dtype == want.dtype
        assert torch.equal(tensors[name], want), name
    assert [p.name for p in path.parent.iterdir()] == ["run.safetensors"]


def test_the_file_is_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    save_checkpoint(tmp_path / "c", content(), {})
    assert torch.equal(load_file(tmp_path / "c")["double"], content()["double"])


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.999])
def test_truncated_anywhere(tmp_path, keep):
    path = tmp_path / "c"
    save_checkpoint(path, content(), {"step": 1})
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)


def test_one_flipped_bit_in_a_weight(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, content(), {"step": 1})
    damaged = bytearray(path.read_bytes())
    damaged[-1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load_checkpoint(path)


def test_foreign_files(tmp_path):
    import pickle

    from safetensors.torch import save_file

    path = tmp_path / "c"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this project"):
        load_checkpoint(path)
    torch.save({"weight": torch.zeros(3)}, path)  # a zip of pickles: must not be opened as one
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failure_before_the_name_changes_hands_leaves_the_old_file(tmp_path, monkeypatch, where):
    path = tmp_path / "c"
    save_checkpoint(path, content(0), {"step": 1})
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, content(1), {"step": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_process_killed_in_the_middle_of_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, content(0), {"step": 1})
    before = path.read_bytes()
    script = (
        "import os, signal, torch\n"
        "from mathcore.training import save_checkpoint\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"save_checkpoint({str(path)!r}, {{'a': torch.zeros(1000)}}, {{'step': 2}})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=os.getcwd(), timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert load_checkpoint(path)[1] == {"step": 1}
    # what the dead process left behind neither takes the name nor gets in the way of the next writer
    assert len(list(tmp_path.glob(".c.*.tmp"))) == 1
    save_checkpoint(path, content(2), {"step": 3})
    assert load_checkpoint(path)[1] == {"step": 3}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "c", content(0), {})
    finally:
        os.umask(before)
    assert (tmp_path / "c").stat().st_mode & 0o777 == mode


def test_metadata_that_json_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="JSON serializable"):
        save_checkpoint(tmp_path / "c", {}, {"when": object()})
    assert list(tmp_path.iterdir()) == []
