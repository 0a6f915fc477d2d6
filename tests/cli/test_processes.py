"""Real processes and real signals: Ctrl-C, SIGTERM, and two trainings that want one folder."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mathcore.training import load_checkpoint
from mathcore.training.engine import first_process
from mathcore.training.lock import only_writer
from mathcore.training.run_folder import read_run

TINY = ("--set", "train.steps=4", "--set", "train.batch_size=8", "--set", "train.warmup=0")


def weights(folder):
    return load_checkpoint(folder / "model.safetensors")[0]


def _command(*words, build, **extra):
    environment = {**os.environ, "MATHCORE_BUILD": str(build), "OMP_NUM_THREADS": "1", "CI": "true"}
    words = [sys.executable, "-m", "mathcore.cli", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, env=environment, preexec_fn=_keyboard, **pipes, **extra)


def _keyboard():
    """What was started in the background ignores Ctrl-C; the command is to hear it, and SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code", "outcome"), [(signal.SIGINT, 130, "stopped: KeyboardInterrupt"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, number, code, outcome):
    """The resumed run ends with the weights of one that nobody stopped."""
    keys = ("--set", "train.steps=600", "--set", "train.batch_size=8", "--set", "network.hidden=16", "--set", "train.lr=1e-3")
    out, given = tmp_path / "run", ("--checkpoint-every", "5", "--device", "cpu")
    run = _command("train", "score-ring", *keys, "--out", str(out), *given, build=tmp_path)
    until = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(number)
    _, told = run.communicate(timeout=120)
    if run.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert run.returncode == code, told
    assert "finishing the step under way, then a checkpoint; Ctrl-C again leaves without\n" in told
    assert f"mathcore train score-ring --out {out} --resume --device cpu --checkpoint-every 5\n" in told
    assert "Traceback" not in told
    assert read_run(out)["sessions"][0]["outcome"] == outcome
    for name, words in (("run", ("--resume",)), ("whole", keys)):
        again = _command("train", "score-ring", *words, "--out", str(tmp_path / name), build=tmp_path)
        _, told = again.communicate(timeout=120)
        assert again.returncode == 0, told
    resumed, whole = weights(out), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


def test_a_folder_has_one_training_at_a_time(mathcore, tmp_path):
    """Before its first checkpoint, and where a run would go on: nothing is printed or changed. The folder is free when it has ended."""
    out = tmp_path / "run"
    with only_writer(out):
        taken = mathcore("train", "score-ring", *TINY, "--out", out)
        assert sorted(p.name for p in out.iterdir()) == [".lock", ".lock-holder"]
    begun = mathcore("train", "score-ring", *TINY, "--out", out)
    assert begun.exit_code == 0, begun.stderr
    record = (out / "run.json").read_bytes()
    with only_writer(out):
        resumed = mathcore("train", "--resume", "--out", out)
    for refused in (taken, resumed):
        assert refused.exit_code == 2
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1
        assert f"another training is writing to {out} (process {os.getpid()} on " in refused.stderr
    assert (out / "run.json").read_bytes() == record
    assert mathcore("train", "--resume", "--out", out).exit_code == 0


def test_the_lock_of_a_killed_training_is_gone(mathcore, tmp_path):
    out = tmp_path / "run"
    code = (
        "import os, pathlib, signal\n"
        "from mathcore.training.lock import only_writer\n"
        f"with only_writer(pathlib.Path({str(out)!r})):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (out / ".lock-holder").exists()
    assert mathcore("train", "score-ring", *TINY, "--out", out).exit_code == 0
    assert not (out / ".lock-holder").exists()


def test_of_several_processes_the_first_takes_the_lock(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert first_process()
    for rank, first in (("0", True), ("1", False), ("10", False)):
        monkeypatch.setenv("RANK", rank)
        assert first_process() is first
