"""A compiled run through PyTorch's own compiler; the other tests of compiled training do without one."""

import os
import re
import shutil
import subprocess
import sys

import pytest

KEYS = ["train.steps=5", "train.warmup=0", "train.batch_size=8", "train.lr=0.05", "network.hidden=16"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile writes C++ and needs g++")
def test_a_compiled_run_learns_what_a_plain_one_does(tmp_path):
    """The last of five losses, to the digits that are printed: at the full rate from the start each step changes it by tens of per cent."""
    environment = os.environ | {"CI": "true", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    losses = {}
    for compiled, steps in (("false", "4"), ("false", "5"), ("true", "5")):
        words = ["train", "ddpm-ring", "--out", str(tmp_path / f"{compiled}{steps}"), "--device", "cpu"]
        for key in (*KEYS, f"train.compile={compiled}", f"train.steps={steps}"):
            words += ["--set", key]
        run = subprocess.run(
            [sys.executable, "-m", "mathcore.cli", *words], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert run.returncode == 0, run.stderr
        losses[compiled, steps] = float(re.search(r"loss ([0-9.]+) \(mean of the last 1 of", run.stdout)[1])
    assert any((tmp_path / "kernels").rglob("*.so"))
    assert losses["true", "5"] == pytest.approx(losses["false", "5"], rel=2e-3)
    assert losses["false", "4"] != pytest.approx(losses["false", "5"], rel=2e-2)
