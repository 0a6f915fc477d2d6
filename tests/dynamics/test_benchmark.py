"""The benchmark's contenders do the same job: on a small problem they agree with each other and with the exact answer. No timing here."""

import pytest
import torch

from benchmarks import dynamics as bench


def test_likelihoods_agree(monkeypatch):
    monkeypatch.setattr(bench, "LIKELIHOOD_STEPS", 12)
    pytest.importorskip("torchdiffeq")
    threads = torch.get_num_threads()
    for name in ("ours", "torchdiffeq"):
        result = bench.likelihood(name, 50)
        assert result["mean error"] < 0.05  # 12 steps
        assert result["against float64"] < 1e-4
    torch.set_num_threads(threads)


def test_paths_agree():
    pytest.importorskip("torchsde", reason="torchsde is a peer for benchmarks only")
    for name in ("ours", "torchsde"):
        result = bench.paths(name, 500, 100)
        # standard error of the mean radius of 500 samples, std 0.2: 0.009; 100 steps of Euler-Maruyama add a few thousandths
        assert abs(result["mean radius - exact"]) < 0.06
    assert bench.rounding(50, 100) < 1e-4
