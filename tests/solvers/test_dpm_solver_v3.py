"""DPM-Solver-v3: its special cases, its orders, and its rows against the ODE they solve."""

from functools import partial
from itertools import pairwise

import jaxtyping
import numpy as np
import pytest
import torch
from problems import F64, KINDS, MIXTURE, SCHEDULES, Problem, wavy_statistics
from scipy.integrate import solve_ivp

from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import SolverTable, Step, V3Statistics, constant_statistics, ddim, deis, dpm_solver_pp, dpm_solver_v3, grids
from mathcore.solvers.diagnostics import Problem as FullProblem
from mathcore.solvers.diagnostics import convergence_order
from mathcore.solvers.v3_exact import exact_statistics

THREE = {name: SCHEDULES[name] for name in ("vp", "linear", "edm")}
three = pytest.mark.parametrize("name", THREE)
VP = THREE["vp"]
TIMES = torch.tensor([0.9, 0.7, 0.4, 0.2], dtype=F64)


@pytest.fixture
def fast():
    """No run-time shape checks inside the loops that measure orders."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def ends(schedule, times=None):
    start, end = grids.ends(schedule) if times is None else (times[0], times[-1])
    return float(schedule.half_log_snr(start)) - 0.01, float(schedule.half_log_snr(end)) + 0.01


# --- special cases -------------------------------------------------------------------------------------------------------------------------


@three
@pytest.mark.parametrize(("kind", "order"), [(kind, order) for kind in ("noise", "clean") for order in (1, 2, 3)])
def test_constants_are_the_earlier_solvers(name, kind, order):
    p = FullProblem(MIXTURE, THREE[name])
    times, model = p.grid(17), p.model()
    known = {
        "noise": deis(p.schedule, times, order=order, variable="log_rho"),
        "clean": dpm_solver_pp(p.schedule, times, order=order, kind="taylor"),
    }[kind]
    table = dpm_solver_v3(p.schedule, times, constant_statistics(kind), order=order)
    assert all(isinstance(c, float) for step in table.steps for c in (*step.states.values(), *step.outputs.values(), step.constant))
    torch.testing.assert_close(table.run(model, p.x_T), known.run(model, p.x_T), rtol=1e-12, atol=1e-12)  # hundreds of roundings
    if order == 1:
        torch.testing.assert_close(table.run(model, p.x_T), ddim(p.schedule, times).run(model, p.x_T), rtol=1e-12, atol=1e-12)


def test_the_simplified_2m_is_another_method():
    p = FullProblem(MIXTURE, VP)
    times, model = p.grid(10), p.model()
    gap = dpm_solver_v3(VP, times, constant_statistics("clean")).run(model, p.x_T) - dpm_solver_pp(VP, times).run(model, p.x_T)
    assert 0.05 < float(gap.abs().max()) < 0.2


@three
def test_one_step_is_exact_for_gaussian_data(name):
    mean, std = 0.7, 0.5
    data = GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[mean]], dtype=F64), torch.tensor([std**2], dtype=F64))
    p = FullProblem(data, THREE[name])
    errors = []
    for nodes in (300, 600, 1200):
        lams = torch.linspace(*ends(p.schedule), nodes, dtype=F64)
        ell = 1 / (1 + std**2 * torch.exp(2 * lams))
        slope = -2 * std**2 * torch.exp(2 * lams) * ell**2
        statistics = V3Statistics(lams, *(v[:, None] for v in (ell, 0 * ell, -mean * slope)))  # N = -ell mu
        errors.append(p.error(dpm_solver_v3(p.schedule, p.grid(1), statistics, order=1)))
    # what is left is the error of the splines, whose fourth power law ends in rounding
    assert errors[-1] < 1e-9
    assert errors[0] / errors[1] > 12
    assert p.error(ddim(p.schedule, p.grid(1))) > 0.1
    from_data, ell, slope = exact_statistics(data, lams[::60]), ell[::60], slope[::60]
    # 1 - e^{2 lambda} E[V] cancels where ell is small
    torch.testing.assert_close(from_data.ell[:, 0], ell, rtol=0.0, atol=1e-12)
    assert not from_data.a.any()
    torch.testing.assert_close(from_data.b[:, 0], -mean * slope, rtol=0.0, atol=1e-11)


# --- orders --------------------------------------------------------------------------------------------------------------------------------


@three
def test_orders_from_noise(name, fast):
    p = FullProblem(MIXTURE, THREE[name])
    statistics = exact_statistics(MIXTURE, torch.linspace(*ends(p.schedule), 60, dtype=F64))
    counts = (40, 80, 160, 320)
    for order, low, high in ((1, 0.85, 1.15), (2, 1.85, 2.15), (3, 2.5, 3.5)):
        errors = p.errors(lambda times, order=order: dpm_solver_v3(p.schedule, times, statistics, order=order), counts)
        assert low < convergence_order(counts, errors) < high, errors
    assert errors[-1] < 1e-5


@three
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_does_not_depend_on_the_statistics(name, order, fast):
    p = Problem(name)
    statistics = wavy_statistics(*ends(p.schedule, (p.t_start, p.t_end)), nodes=9)
    counts = (30, 60, 120, 240)
    errors = p.errors(lambda s, t, kind: dpm_solver_v3(s, t, statistics, kind, order=order, start="rk4"), counts)
    assert convergence_order(counts, errors) == pytest.approx(order, abs=0.2), errors


def test_the_ramp_costs_order_3_where_the_outputs_change(fast):
    # with the statistics of the model itself the new term hardly changes there, and the error of the ramp is too small to be seen
    p = Problem("vp")
    statistics = wavy_statistics(*ends(VP, (p.t_start, p.t_end)))
    counts = (60, 120, 240, 480)
    for start, expected in (("ramp", 2), ("rk4", 3)):
        method = partial(dpm_solver_v3, order=3, start=start)
        errors = p.errors(lambda s, t, kind, method=method: method(s, t, statistics, kind), counts)
        assert convergence_order(counts, errors) == pytest.approx(expected, abs=0.2)


def test_measured_statistics_pay_at_few_steps(fast):
    # known values: DDIM .27 .14 .069, v3-1 .11 .073 .034, 2M .11 .054 .013, v3-2 .052 .043 .014 with other samples
    p = FullProblem(MIXTURE, VP)
    statistics = exact_statistics(MIXTURE, torch.linspace(*ends(VP), 240, dtype=F64))
    table = {
        "ddim": lambda t: ddim(VP, t),
        "v3-1": lambda t: dpm_solver_v3(VP, t, statistics, order=1),
        "2M": lambda t: dpm_solver_pp(VP, t),
        "v3-2": lambda t: dpm_solver_v3(VP, t, statistics, order=2),
    }
    errors = {key: p.errors(method, (5, 10, 20)) for key, method in table.items()}
    known = {"ddim": (0.27, 0.14, 0.069), "v3-1": (0.11, 0.073, 0.034), "2M": (0.11, 0.054, 0.013), "v3-2": (0.052, 0.043, 0.014)}
    for key, values in known.items():
        assert errors[key] == pytest.approx(values, rel=0.1), key


# --- the rows ------------------------------------------------------------------------------------------------------------------------------


def test_a_row_solves_its_differential_equation():
    """Eq. 9.7.15 at n = 2 without any integral: three ODEs, solved by scipy, and a Vandermonde system, for arbitrary model outputs."""
    statistics = wavy_statistics(*ends(VP, TIMES), shape=(2,), nodes=7)
    outputs = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    calls = iter(outputs)
    path = dpm_solver_v3(VP, TIMES, statistics, order=3).trajectory(lambda x, t: next(calls), torch.tensor([[0.3, -1.1]], dtype=F64))
    lam, alpha, sigma = (getattr(VP, f)(TIMES)[:, None].numpy() for f in ("half_log_snr", "alpha", "sigma"))

    def at(v):
        return [c[0].numpy() for c in statistics.at(torch.tensor([float(v)], dtype=F64))]

    def solved(rate, start, low, high):
        knots = statistics.lambdas.numpy()
        y = np.concatenate(start)
        for a, b in pairwise([low.item(), *knots[(knots > low) & (knots < high)], high.item()]):  # smooth between the knots
            y = solve_ivp(rate, (a, b), y, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        return y

    def carried(v, n):  # N' = a N + b is what the new term calls constant
        return at(v)[1] * n + at(v)[2]

    x, eps = path[:3, 0].numpy(), outputs[:, 0].numpy()
    n = [(sigma[k] * eps[k] - at(lam[k, 0])[0] * x[k]) / alpha[k] for k in range(3)]
    s, t = lam[2], lam[3]
    new = [solved(carried, [n[k]], lam[k], s) if k < 2 else n[k] for k in range(3)]
    offsets = np.array([lam[1, 0] - s[0], lam[0, 0] - s[0]])
    first, second = np.linalg.solve(np.stack([offsets, offsets**2], 1), np.stack([new[1] - new[2], new[0] - new[2]]))

    def rate(v, state):  # y' = -ell y - N with N = e^A (polynomial + B), A' = a, B' = e^{-A} b
        y, growth, forcing = np.split(state, 3)
        ell, a, b = at(v)
        polynomial = new[2] + first * (v - s) + second * (v - s) ** 2
        return np.concatenate([-ell * y - np.exp(growth) * (polynomial + forcing), a, np.exp(-growth) * b])

    end = solved(rate, [x[2] / alpha[2], np.zeros(2), np.zeros(2)], s, t)[:2]
    torch.testing.assert_close(path[3, 0], torch.from_numpy(alpha[3] * end), rtol=0.0, atol=1e-10)  # tolerances of 1e-12, a few pieces


@pytest.mark.parametrize("kind", KINDS)
def test_the_four_predictions_are_one_method(kind):
    p = Problem("vp")
    statistics = wavy_statistics(*ends(VP, (p.t_start, p.t_end)))
    runs = [dpm_solver_v3(VP, p.grid(12), statistics, k, order=3).run(p.model(k), p.x) for k in ("noise", kind)]
    torch.testing.assert_close(*runs, rtol=1e-11, atol=1e-11)


def test_the_constant_of_a_row(generator):
    shift = torch.tensor([1.0, -2.0], dtype=F64)
    steps = [Step(1.0, 0.5, {0: 2.0}, {0: 1.0}, constant=shift), Step(0.5, 0.1, {1: 1.0}, evaluate=False, constant=0.5)]
    table = SolverTable("by hand", steps, torch.tensor([1.0, 0.1], dtype=F64), "noise", sample_shape=(2,))
    x = torch.randn(3, 2, generator=generator)
    for differentiable in (False, True):
        start = x.clone().requires_grad_(differentiable)
        got = table.run(lambda x, t: x, start, differentiable=differentiable)
        torch.testing.assert_close(got, 3 * x + shift.float() + 0.5, rtol=1e-6, atol=1e-6)
    got.sum().backward()
    torch.testing.assert_close(start.grad, torch.full((3, 2), 3.0))
    assert r"+[-2,\,1]\)" in table._repr_html_()
    assert r"+0.5 &&" in table.to_latex()


def test_what_a_row_holds():
    statistics = wavy_statistics(*ends(VP, TIMES), shape=(2, 3))
    table = dpm_solver_v3(VP, TIMES, statistics, order=3)
    assert (table.nfe, table.sample_shape, len(table.steps)) == (3, (2, 3), 3)
    assert sorted(table.steps[2].outputs) == [0, 1, 2]
    x = torch.ones(4, 2, 3)
    assert table.run(lambda x, t: x, x).dtype == torch.float32
    without = V3Statistics(statistics.lambdas, statistics.ell, statistics.a, torch.zeros_like(statistics.b))
    assert all(step.constant == 0.0 for step in dpm_solver_v3(VP, TIMES, without, order=3).steps)


def test_a_discrete_chain():
    chain = DiscreteSchedule.linear(100)
    index = torch.tensor([100, 60, 30, 10])
    oracle = AffineGaussianOracle(MIXTURE, chain)
    x = torch.tensor([[-1.0], [0.4]], dtype=F64)
    got = dpm_solver_v3(chain, index, constant_statistics("noise"), order=1).run(oracle.noise, x)
    torch.testing.assert_close(got, ddim(chain, index).run(oracle.noise, x), rtol=1e-12, atol=1e-12)


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_errors")
def test_bad_solvers():
    statistics = wavy_statistics(*ends(VP, TIMES), shape=(2,))
    with pytest.raises(TypeError, match="statistics must be V3Statistics"):
        dpm_solver_v3(VP, TIMES, {"ell": 0.0})
    for order in (0, 4, True, 1.5):
        with pytest.raises(ValueError, match="order must be 1, 2 or 3"):
            dpm_solver_v3(VP, TIMES, statistics, order=order)
    with pytest.raises(ValueError, match="prediction must be one of"):
        dpm_solver_v3(VP, TIMES, statistics, "epsilon")
    with pytest.raises(ValueError, match="start must be one of"):
        dpm_solver_v3(VP, TIMES, statistics, start="warm")
    with pytest.raises(ValueError, match=r"measured under another schedule \(vp\).*statistics.under"):
        dpm_solver_v3(AffineSchedule.edm(), torch.tensor([1.0, 0.5], dtype=F64), statistics.under(VP))
    with pytest.raises(ValueError, match="cover half-log-SNRs from"):
        dpm_solver_v3(VP, torch.tensor([0.95, 0.5], dtype=F64), statistics, order=1)
    with pytest.raises(ValueError, match="finite half-log-SNR"):
        dpm_solver_v3(VP, torch.tensor([0.9, 0.0], dtype=F64), constant_statistics("noise"), order=1)
    with pytest.raises(ValueError, match="at least 3 steps"):
        dpm_solver_v3(VP, TIMES[:3], statistics, order=3)
    with pytest.raises(ValueError, match="decrease"):
        dpm_solver_v3(VP, TIMES.flip(0), statistics)
    with pytest.raises(ValueError, match=r"made for samples of shape \(2,\), got x_T of shape \(4, 1\)"):
        dpm_solver_v3(VP, TIMES, statistics).run(lambda x, t: x, torch.ones(4, 1))
