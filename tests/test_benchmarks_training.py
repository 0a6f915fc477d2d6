"""The throughput benchmark at its smallest size: equal networks, equal work, four contenders, results kept with their circumstances."""

import json

import jaxtyping
import pytest
import torch

from benchmarks import _peers, _report, training

reason = _peers.missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.fixture(autouse=True)
def plain():
    """No run-time shape checks: they would cost one side only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("size", "large"), [(size, large) for large in (False, True) for size in training.networks(large)])
def test_the_networks_have_equal_numbers_of_parameters(size, large):
    ours, theirs = training.our_network(size, large), training.their_network(size, large)
    assert training.parameters(theirs) == pytest.approx(training.parameters(ours), rel=0.02)
    x = torch.randn(2, 1, size, size)
    assert training.Called(theirs)(x, torch.rand(2)).shape == ours(x, torch.rand(2)).shape == x.shape


def test_both_loops_take_the_same_steps():
    """To the bit, with one seed: what is compared is then time and nothing else."""
    ends = []
    for make in (training.our_step, training.plain_step):
        torch.manual_seed(0)
        model = training.our_network(8)
        step = make(model)
        x, generator = (
            torch.randn(training.BATCH["cpu"], 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            torch.Generator().manual_seed(1),
        )
        before = model.head.weight.detach().clone()
        for _ in range(3):
            step(x, generator)
        assert not torch.equal(model.head.weight, before)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


def test_the_parts_run_and_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_report, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(training, "SIZES", {8: training.SIZES[8]})
    measured = {name: (lambda size, device, f=f: f(size, 1, device), key) for name, (f, key) in training.PARTS.items()}
    monkeypatch.setattr(training, "PARTS", measured)
    training.main([])
    printed = capsys.readouterr().out
    assert "our loop over the plain one, our network" in printed
    for name, key, contenders in (("steps", "steps_per_second", 4), ("sampling", "images_per_second", 3)):
        record = json.loads((tmp_path / "benchmarks" / "results" / f"training-{name}.json").read_text())
        (found,) = record["results"]
        assert record["command"] == f"python -m benchmarks.training {name}"
        assert "diffusers" in record["versions"]
        assert len(found[key]) == contenders
        assert all(v > 0 for v in [*found[key].values(), *found["ratios"].values()])
