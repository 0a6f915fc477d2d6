"""The comparison with diffusers: every pair of the correspondence within its tolerance, the deviations that are claimed, and the other parts at small size."""

import json

import jaxtyping
import pytest
import torch

from benchmarks import _deviations, _errors, _overhead, _parallel, _peers, _report, solvers
from benchmarks._correspondence import pairs
from mathcore.data import examples
from mathcore.solvers.diagnostics import convergence_order

reason = _peers.missing()
peer = pytest.mark.skipif(reason is not None, reason=str(reason))
PAIRS = pairs()


@pytest.fixture(autouse=True, scope="module")
def fast():
    """No run-time shape checks here, as in the other tests of samplers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@peer
@pytest.mark.parametrize("pair", PAIRS, ids=[f"{i} {p.formula} {p.prediction}" for i, p in enumerate(PAIRS)])
def test_pair(pair):
    apart = _peers.differences(pair, solvers.SEED)
    assert len(apart) >= 11
    assert max(apart) <= pair.tol, apart
    assert max(apart) > 0  # two computations, one of them in single precision


@peer
def test_a_pair_that_is_none_is_found_out():
    # without the factor 2 the two agree to 1e-6, with it they are different methods; so are the two weights of 2M
    for ours, theirs in (("3M without its factor 2", {"order": 3}), ("2M (Algorithm 7)", {"kind": "taylor"})):
        pair = next(p for p in PAIRS if p.formula == ours)
        wrong = _peers.Pair("wrong", ("dpm_solver_pp", theirs), pair.theirs, pair.tol, steps=pair.steps)
        assert max(_peers.differences(wrong)) > 1e-3


@peer
def test_dynamic_thresholding_is_the_same():
    assert _peers.threshold_difference() < 1e-14


@peer
def test_pairs_are_told_apart():
    assert len({(p.texts, p.prediction) for p in PAIRS}) == len(PAIRS)
    names = {p.theirs[0] for p in PAIRS}
    assert len(names) == 8
    assert {p.ours[0] for p in PAIRS if p.own} == {"grouped", "multistep"}


@peer
def test_third_order_multistep_is_of_order_2_there_and_3_here():
    orders = _deviations.third_order((80, 160, 320), slice(None))["orders"]
    assert orders["diffusers"] == pytest.approx(2, abs=0.2)
    assert orders["its formula in float64"] == pytest.approx(2, abs=0.2)
    assert orders["with the factor 2"] == pytest.approx(3, abs=0.2)


@peer
def test_single_precision_stalls_and_double_does_not():
    errors = _deviations.stall((160, 640))["errors"]
    for name, order in (("UniPC-3", 3.7), ("DEIS-3", 3.0)):
        (coarse, fine), (_, stalled) = errors[f"{name}, mathcore"], errors[f"{name}, diffusers"]
        assert convergence_order((160, 640), (coarse, fine)) == pytest.approx(order, abs=0.3)
        assert stalled > 30 * fine
    assert errors["UniPC-3, diffusers, at its timesteps"] == pytest.approx([1e-3, 1e-3], rel=0.3)


@peer
def test_the_previous_timestep_is_not_the_next_one():
    rows = _deviations.previous_timestep(("trailing",), (20, 150))
    assert [row["mismatches"] for row in rows] == [0, 99]
    assert rows[0]["diffusers"] == pytest.approx(rows[0]["mathcore"], rel=1e-4)
    assert rows[1]["diffusers"] > 2 * rows[1]["mathcore"]


@peer
def test_overhead_reports_every_method():
    found = _overhead.measure((4, 2), steps=(5, 65), repeats=2)
    assert [row["method"] for row in found["rows"]] == list(_overhead.METHODS)
    assert found["bound"] is None
    assert all(row["theirs_us"] > 0 for row in found["rows"])  # how many times more is a matter of the machine and its load


@peer
def test_errors_fall_and_are_those_of_the_exact_flow():
    case = _errors.setting(examples.solver_mixture(), 16)
    calls = (10, 40)
    for curves in (_errors.ours(case, calls), _errors.theirs(case, calls)):
        for name, errors in curves.items():
            if errors[0] is not None and "S" not in name:
                assert errors[1] < errors[0] < 3, name
        assert _errors.best(curves, 1)[1] < 1e-3
    assert "quadratic" in _errors.best(_errors.ours(case, calls), 1)[0]
    assert "quadratic" not in _errors.best(_errors.shared(_errors.ours(case, calls)), 1)[0]


def test_parallel_depth():
    rows = _parallel.compare(steps=(20,), windows=(4, None), tols=(1e-3, 0.0), samples=3)["rows"]
    for row in rows:
        assert row["depth"] <= 20
        assert row["distance"] < (1e-12 if row["tol"] == 0 else 1e-1)
        assert row["tol"] == 0 or row["depth"] < 20


def test_result_files_say_how_they_were_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_report, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    path = _report.save("solvers-parallel", {"value": 0.123456789, "none": None}, "python -m benchmarks.solvers parallel", 1)
    record = json.loads(path.read_text())
    assert set(record) == {"command", "date", "seed", "hardware", "versions", "results"}
    assert record["results"] == {"value": 0.1235, "none": None}
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"]
    _report.table(["a", "b"], [["x", 1.234], ["y", None]])
    assert capsys.readouterr().out.splitlines() == ["  a    b", "  x  1.2", "  y    -"]


def test_parts_that_need_the_peer_are_skipped_without_it(monkeypatch, capsys):
    monkeypatch.setattr(_peers, "PEER", "no-such-package-here")
    monkeypatch.setattr("sys.argv", ["solvers", "overhead"])
    monkeypatch.setattr(_report, "RESULTS", None)  # writing would fail
    solvers.main()
    assert "overhead: skipped, no-such-package-here is not installed" in capsys.readouterr().err
