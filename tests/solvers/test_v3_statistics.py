"""The statistics of DPM-Solver-v3: exact ones against differences, measured ones against exact ones, files, refusals."""

import json
import math

import pytest
import torch
from problems import F64, KINDS, MIXTURE, SCHEDULES, wavy_statistics

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.networks import TimeMLP
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.settings import settings
from mathcore.solvers import V3Statistics, constant_statistics, dpm_solver_pp, dpm_solver_v3, estimate_statistics, grids
from mathcore.solvers.diagnostics import Exact1D
from mathcore.solvers.v3_exact import exact_statistics, expectation_grid, noise_term
from mathcore.training import CheckpointError, save_checkpoint

VP, EDM = SCHEDULES["vp"], SCHEDULES["edm"]
TIMES = torch.tensor([0.9, 0.7, 0.4, 0.2], dtype=F64)


@pytest.fixture(autouse=True)
def quiet():
    """No progress bars."""
    settings.progress = False
    yield
    settings._progress = None


# --- exact statistics ----------------------------------------------------------------------------------------------------------------------


def test_exact_terms_by_differences_along_the_exact_flow():
    oracle, d = AffineGaussianOracle(MIXTURE, EDM), 1e-4
    y = torch.tensor([-1.7, -0.4, 0.1, 0.9], dtype=F64)
    for lam in (-2.0, -0.5, 0.7, 1.6):
        model, sigma = Exact1D(MIXTURE, EDM), math.exp(-lam)
        term = noise_term(MIXTURE, y, lam)

        def along(step, lam=lam, model=model):
            to = math.exp(-lam - step)
            return to * model(oracle.flow_map(y[:, None], math.exp(-lam), to), to)[:, 0]

        torch.testing.assert_close(term.value, sigma * model(y[:, None], sigma)[:, 0], rtol=1e-11, atol=1e-13)
        slope = (model((y + d)[:, None], sigma) - model((y - d)[:, None], sigma))[:, 0] * sigma / (2 * d)
        # central differences: d^2 times third derivatives of size 100, beside roundings of the flow over d
        torch.testing.assert_close(term.slope, slope, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(term.rate, (along(d) - along(-d)) / (2 * d), rtol=1e-5, atol=1e-6)


def test_mean_square_slopes():
    # known values of E|dN/dx|^2 at lambda = -1, 0, 1, 2 for ell = 0, 1 and the best one, and that best one; given to two or three digits
    known = {
        -1.0: (0.791, 0.013, 0.0010, 0.889),
        0.0: (0.413, 0.273, 0.088, 0.570),
        1.0: (0.420, 0.451, 0.185, 0.484),
        2.0: (0.042, 0.678, 0.0088, 0.182),
    }
    for lam, want in known.items():
        y, w = expectation_grid(MIXTURE, lam)
        slope = noise_term(MIXTURE, y, lam).slope
        best = float((w * slope).sum())
        got = [float((w * (slope - ell).square()).sum()) for ell in (0.0, 1.0, best)]
        assert [*got, best] == pytest.approx(want, rel=0.05)
        assert float(w.sum()) == pytest.approx(1, abs=1e-14)
        mmse = float((w * MIXTURE.posterior_cov(y[:, None], 1.0, math.exp(-lam))[:, 0, 0]).sum())
        assert best == pytest.approx(1 - math.exp(2 * lam) * mmse, abs=1e-12)


def test_the_drift_of_the_exact_linear_part():
    # d ell* / d lambda, which enters b* through N' and nowhere else alone: b* must fit N' of the splines' own slope
    lams = torch.linspace(-3.0, 2.5, 300, dtype=F64)
    statistics = exact_statistics(MIXTURE, lams)
    k = 150
    y, w = expectation_grid(MIXTURE, float(lams[k]))
    value, _, rate = noise_term(MIXTURE, y, float(lams[k]))
    ell, slope = statistics.ell[k, 0], statistics.at(lams, derivative=1)[0][k, 0]
    n, dn = value - ell * y, rate - slope * y + ell * value
    root = w.sqrt()
    fit = torch.linalg.lstsq(torch.stack([n * root, root], 1), (dn * root)[:, None]).solution[:, 0]
    torch.testing.assert_close(fit, torch.stack([statistics.a[k, 0], statistics.b[k, 0]]), rtol=1e-5, atol=1e-7)  # the spline's slope, h^3


# --- estimation ----------------------------------------------------------------------------------------------------------------------------


def trajectories(schedule, n, nodes=60, kind="noise"):
    table = dpm_solver_pp(schedule, grids.uniform_lambda(schedule, 2 * nodes), kind)
    oracle = AffineGaussianOracle(MIXTURE, schedule)
    x = oracle.marginal(table.times[0]).sample(n, generator=torch.Generator().manual_seed(0))
    return table.times[::2], table.trajectory(Exact1D(MIXTURE, schedule, kind), x)[::2], oracle


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_from_samples_against_quadrature(kind):
    times, states, oracle = trajectories(VP, 4000 if kind == "noise" else 1000)
    got = estimate_statistics(getattr(oracle, kind), VP, times, states, kind)
    want = exact_statistics(MIXTURE, got.lambdas)
    assert float((got.ell / want.ell - 1).abs().max()) < (0.05 if kind == "noise" else 0.1)
    for name in ("a", "b"):
        assert float((getattr(got, name) - getattr(want, name)).abs().quantile(0.9)) < 0.1
    assert got.belongs_to(VP)
    assert got.shape == (1,)


def test_independent_gaussian_coordinates():
    stds, means = torch.tensor([0.3, 1.0, 2.0], dtype=F64), torch.tensor([[0.5, -1.0, 0.0]], dtype=F64)
    data = GaussianMixture(torch.ones(1, dtype=F64), means, (stds**2)[None])
    oracle = AffineGaussianOracle(data, VP)
    times = grids.uniform_lambda(VP, 30)
    g = torch.Generator().manual_seed(1)
    states = torch.stack([oracle.marginal(t).sample(50, generator=g) for t in times])
    exact = estimate_statistics(oracle.noise, VP, times, states)
    ell = 1 / (1 + stds**2 * torch.exp(2 * exact.lambdas)[:, None])
    torch.testing.assert_close(exact.ell, ell, rtol=1e-10, atol=0.0)
    assert not exact.a.any()  # N is the constant -ell mu
    signs = estimate_statistics(oracle.noise, VP, times, states, jacobian="hutchinson", generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(signs.ell, ell, rtol=1e-10, atol=0.0)  # exact where the Jacobian is diagonal


def test_hutchinson_on_coupled_coordinates():
    data = examples.ring(modes=5)
    oracle = AffineGaussianOracle(data, VP)
    times, n = torch.tensor([0.5, 0.3], dtype=F64), 2000
    g = torch.Generator().manual_seed(3)
    states = torch.stack([oracle.marginal(t).sample(n, generator=g) for t in times])
    exact, rough = (
        estimate_statistics(oracle.noise, VP, times, states, jacobian=kind, probes=probes, generator=g)
        for kind, probes in (("exact", 1), ("hutchinson", 4))
    )
    # an off-diagonal entry of size one, 8000 signs: standard error 0.011
    torch.testing.assert_close(rough.ell, exact.ell, rtol=0.0, atol=0.056)
    assert not torch.equal(rough.ell, exact.ell)
    slope = oracle.marginal(times[0]).score_jacobian(states[0]).diagonal(dim1=1, dim2=2).mean(0)
    torch.testing.assert_close(exact.ell[0], -slope * VP.sigma(times[0]) ** 2, rtol=1e-10, atol=0.0)


def test_statistics_move_between_schedules():
    """N is a function of (x / alpha, lambda): the same model under another schedule has the same statistics."""
    times, states, oracle = trajectories(VP, 200, nodes=12)
    lams = VP.half_log_snr(times)
    edm = AffineSchedule.edm(t_max=200.0)
    scaled = states / VP.alpha(times)[:, None, None]
    first = estimate_statistics(oracle.noise, VP, times, states)
    second = estimate_statistics(AffineGaussianOracle(MIXTURE, edm).noise, edm, edm.inverse_half_log_snr(lams), scaled)
    for name in ("ell", "a", "b"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-6, atol=1e-8)
    assert not first.belongs_to(edm)
    moved = first.under(edm)
    assert moved.belongs_to(edm)
    grid = grids.uniform_lambda(VP, 5)
    runs = []
    for schedule, statistics, t in ((VP, first, grid), (edm, moved, edm.inverse_half_log_snr(VP.half_log_snr(grid)))):
        x = torch.tensor([[-1.0], [0.8]], dtype=F64) / VP.alpha(grid[0]) * schedule.alpha(t[0])
        runs.append(dpm_solver_v3(schedule, t, statistics).run(Exact1D(MIXTURE, schedule), x) / schedule.alpha(t[-1]))
    torch.testing.assert_close(*runs, rtol=1e-8, atol=1e-8)  # the grids differ by the rounding of the inverse


def test_a_network_in_single_precision():
    torch.manual_seed(0)
    model = TimeMLP(2, hidden=16, depth=2, max_frequency=10.0)
    table = dpm_solver_pp(VP, grids.uniform_lambda(VP, 12))
    states = table.trajectory(model, torch.randn(32, 2, generator=torch.Generator().manual_seed(0)))
    statistics = estimate_statistics(model, VP, table.times, states)
    assert statistics.shape == (2,)
    assert statistics.ell.dtype == F64
    out = dpm_solver_v3(VP, grids.uniform_lambda(VP, 5), statistics).run(model, states[0])
    assert out.shape == (32, 2)
    assert out.dtype == torch.float32
    assert all(p.grad is None for p in model.parameters())


def test_a_model_without_time_is_welcome():
    states = torch.randn(4, 8, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    statistics = estimate_statistics(lambda x, t: torch.tanh(x), VP, TIMES, states)
    assert bool(torch.isfinite(statistics.a).all())


# --- files ---------------------------------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    statistics = wavy_statistics(-2.0, 1.0, shape=(2, 3)).under(VP)
    statistics.save(tmp_path / "deep" / "v3.safetensors")
    again = V3Statistics.load(tmp_path / "deep" / "v3.safetensors")
    for name in ("lambdas", "ell", "a", "b"):
        assert torch.equal(getattr(again, name), getattr(statistics, name))
    assert again.schedule == statistics.schedule == json.loads(json.dumps(statistics.schedule))
    assert again.belongs_to(AffineSchedule.vp())
    assert not again.belongs_to(AffineSchedule.vp(beta_max=19.0))
    assert not again.belongs_to(DiscreteSchedule.linear(100))


@pytest.mark.usefixtures("user_errors")
def test_bad_files(tmp_path):
    path = tmp_path / "v3.safetensors"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        V3Statistics.load(path)
    wavy_statistics(-2.0, 1.0).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(CheckpointError, match="truncated"):
        V3Statistics.load(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        V3Statistics.load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        V3Statistics.load(path)
    save_checkpoint(path, {"w": torch.ones(2)}, {"kind": "run"})
    with pytest.raises(CheckpointError, match="holds no statistics for DPM-Solver-v3, but 'run'"):
        V3Statistics.load(path)


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_errors")
def test_bad_statistics():
    lams, ones = torch.arange(3, dtype=F64), torch.ones(3, 2, dtype=F64)
    for arguments, message in [
        ((lams.flip(0), ones, ones, ones), "lambdas must increase"),
        ((torch.empty(0), ones[:0], ones[:0], ones[:0]), "at least one"),
        ((lams, ones, ones[:, :1], ones), r"a must have shape \(3, \*shape\)"),
        ((lams, ones[:2], ones, ones), "ell must have shape"),
        ((lams, ones * math.nan, ones, ones), "ell contains NaN"),
        ((lams[:, None], ones, ones, ones), "lambdas must have 1 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            V3Statistics(*arguments)
    with pytest.raises(TypeError, match="b must be a floating-point"):
        V3Statistics(lams, ones, ones, ones.long())
    with pytest.raises(TypeError, match=r"lambdas must be a torch\.Tensor"):
        V3Statistics([0.0], ones, ones, ones)
    with pytest.raises(ValueError, match="kind must be one of noise, clean"):
        constant_statistics("score")
    with pytest.raises(TypeError, match="schedule must be"):
        wavy_statistics(0.0, 1.0).under("vp")


@pytest.mark.usefixtures("user_errors")
def test_bad_estimates():
    oracle = AffineGaussianOracle(MIXTURE, VP)
    states = torch.randn(4, 8, 1, dtype=F64)
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        estimate_statistics(oracle.noise, DiscreteSchedule.linear(100), torch.tensor([4, 3, 2, 1]), states)
    with pytest.raises(TypeError, match=r"states must be a torch\.Tensor"):
        estimate_statistics(oracle.noise, VP, TIMES, [1.0])
    for times, given, options, message in [
        (TIMES, states[:3], {}, r"states must have shape \(4, N"),
        (TIMES, states[:, :1], {}, "N >= 2"),
        (TIMES, states[..., 0], {}, "states must have shape"),
        (TIMES, states * math.nan, {}, "states contains NaN"),
        (TIMES.flip(0), states, {}, "decrease"),
        (TIMES, states, {"prediction": "eps"}, "prediction must be one of"),
        (TIMES, states, {"jacobian": "full"}, "jacobian must be one of"),
        (TIMES, states, {"jacobian": "hutchinson", "probes": 0}, "probes must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimate_statistics(oracle.noise, VP, times, given, **options)
    with pytest.raises(ValueError, match=r"takes the number out, by float\(t\)"):
        estimate_statistics(Exact1D(MIXTURE, VP), VP, TIMES, states)
    y = torch.zeros(3, dtype=F64)
    with pytest.raises(ValueError, match="on the line"):
        noise_term(examples.ring(), y, 0.0)
    with pytest.raises(ValueError, match="lam must be finite"):
        noise_term(MIXTURE, y, math.inf)
    with pytest.raises(ValueError, match="y must have 1 axes"):
        noise_term(MIXTURE, y[:, None], 0.0)
    with pytest.raises(ValueError, match="at least 3 points"):
        expectation_grid(MIXTURE, 0.0, 2)
    with pytest.raises(ValueError, match="lambdas must increase"):
        exact_statistics(MIXTURE, y)
