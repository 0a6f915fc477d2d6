"""Parallel sampling against the sequential loop: finite termination, every kind of table, the window, the trapezoid, what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import F64, KINDS, MIXTURE, SCHEDULES, wavy_statistics

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import (
    Builder,
    SolverTable,
    Step,
    ancestral,
    ddim,
    deis,
    dpm_solver,
    dpm_solver_pp,
    dpm_solver_v3,
    edm_heun,
    euler,
    euler_maruyama,
    grids,
    heun,
    implicit_trapezoid,
    paradigms,
    rk4,
)
from mathcore.solvers.diagnostics import Problem, convergence_order

VP = SCHEDULES["vp"]
PROBLEM = Problem(MIXTURE, VP)
V = PROBLEM.oracle.velocity


def chain(n, schedule=VP, kind="velocity", spacing=grids.uniform_t):
    problem = PROBLEM if schedule is VP else Problem(MIXTURE, schedule)
    return problem, euler(schedule, problem.grid(n, spacing), kind)


def sequential(problem, table):
    """State by state, with the quick model of the diagnostics: another code path for the model and for the sums."""
    return table.trajectory(problem.model(table.prediction), problem.x_T)


def deviation(result, trajectory):
    return float((result.trajectory - trajectory).abs().max())


# --- Picard -----------------------------------------------------------------------------------------------------------------------------


def test_after_k_sweeps_the_first_k_plus_one_nodes_are_exact():
    problem, table = chain(32)
    want = sequential(problem, table)
    x = problem.x_T.expand(33, 4, 1).clone()
    sampler = paradigms(table)
    far = {}
    for k in range(1, 33):
        x = sampler.sweep(V, x)
        far[k] = float((x - want).abs().max())
        # values of size 2, 32 additions
        torch.testing.assert_close(x[: k + 1], want[: k + 1], rtol=0, atol=1e-14)
    # superlinear: measured before in an independent implementation
    for k, error in {1: 4.3e-1, 2: 1.2e-1, 4: 4.1e-3, 8: 2.9e-7, 12: 2.8e-13}.items():
        assert far[k] == pytest.approx(error, rel=0.03)
    assert far[16] < 1e-14


def test_the_sequential_trajectory_is_the_fixed_point_in_every_scale():
    for schedule in SCHEDULES.values():
        problem, table = chain(20, schedule, spacing=grids.quadratic_t)
        want = sequential(problem, table)
        size = float(want.abs().max())
        for scale in (None, schedule.alpha(table.times), schedule.sigma(table.times)):
            got = paradigms(table, scale=scale).sweep(problem.oracle.velocity, want)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * size)


def test_a_sweep_is_differentiable_and_depends_on_earlier_nodes_only():
    _, table = chain(5)
    x = torch.linspace(-1, 1, 6, dtype=F64)[:, None, None]
    (jacobian,) = torch.autograd.functional.jacobian(lambda x: (paradigms(table).sweep(lambda x, t: x.sin(), x),), (x,))
    jacobian = jacobian[0][:, 0, 0, :, 0, 0]
    below = torch.tril(torch.ones(6, 6), -1)
    below[0, 0] = 1
    assert torch.equal(jacobian != 0, below.bool())


# --- the window -------------------------------------------------------------------------------------------------------------------------


COUNTS = {
    ("mean", 1, 1e-3): (128, 128, 0.0),
    ("mean", 16, 1e-2): (9, 137, 1.4e-2),
    ("mean", 16, 1e-4): (12, 188, 1.8e-3),
    ("mean", 16, 1e-8): (19, 287, 1.4e-5),
    ("mean", 64, 1e-4): (7, 251, 1.3e-3),
    ("mean", 128, 1e-8): (8, 424, 1.4e-5),
    ("sum", 16, 1e-2): (10, 148, None),
    ("sum", 16, 1e-4): (14, 207, None),
    ("sum", 16, 1e-8): (20, 298, None),
    ("sum", 64, 1e-4): (7, 282, None),
    ("sum", 128, 1e-8): (8, 446, None),
}


@pytest.mark.parametrize(("norm", "window", "tol"), COUNTS)
def test_counts_of_an_independent_implementation(norm, window, tol):
    problem, table = chain(128)
    result = paradigms(table, window, tol, norm=norm).run(V, problem.x_T)
    iterations, evaluations, error = COUNTS[norm, window, tol]
    assert (result.iterations, result.evaluations) == (iterations, evaluations)
    if error is not None:
        assert deviation(result, sequential(problem, table)) == pytest.approx(error, rel=0.05, abs=1e-14)


def windows():
    return st.one_of(st.none(), st.integers(1, 40))


@given(
    steps=st.integers(1, 25),
    window=windows(),
    tol=st.sampled_from([0.0, 1e-8, 1e-3, math.inf]),
    norm=st.sampled_from(["mean", "sum"]),
    name=st.sampled_from(["vp", "linear", "edm"]),
)
@settings(max_examples=25, deadline=None)
def test_every_round_moves_on_and_the_window_never_leaves_the_grid(steps, window, tol, norm, name):
    problem, table = chain(steps, SCHEDULES[name], spacing=grids.karras)
    kept = []
    sampler = paradigms(table, window, tol, norm=norm)
    result = sampler.run(problem.oracle.velocity, problem.x_T, callback=lambda r, x: kept.append((r, x.clone())))
    assert [r for r, _ in kept] == list(result.rounds)
    left = 0
    for r in result.rounds:
        assert r.left == left
        assert 1 <= r.stride <= r.size == r.calls == min(window or steps, steps - left)
        assert r.errors.shape == (r.size - 1,)
        passed = (r.errors <= tol).tolist()
        assert r.stride == (passed.index(False) + 1 if False in passed else r.size)
        left += r.stride
    assert left == steps
    assert result.iterations <= steps
    assert result.evaluations == sum(r.size for r in result.rounds)
    # what is behind the left edge never changes again
    for r, x in kept:
        assert torch.equal(x[: r.left + r.stride + 1], result.trajectory[: r.left + r.stride + 1])
    if tol == 0.0:
        want = sequential(problem, table)
        torch.testing.assert_close(result.trajectory, want, rtol=0, atol=1e-11 * float(want.abs().max()))


def test_a_larger_tolerance_needs_no_more_iterations_here():
    problem, table = chain(60)
    for window in (4, 16, None):
        depth = [paradigms(table, window, tol).run(V, problem.x_T).iterations for tol in (0.0, 1e-12, 1e-8, 1e-4, 1e-2, 1.0)]
        assert depth == sorted(depth, reverse=True)


def test_a_window_of_one_is_the_table():
    for method in (euler, ddim, deis, dpm_solver_pp):
        table = method(VP, PROBLEM.grid(12))
        result = paradigms(table, 1, 1e-2, scale=VP.alpha(table.times)).run(PROBLEM.oracle.noise, PROBLEM.x_T)
        assert result.iterations == result.evaluations == table.nfe == 12
        assert deviation(result, sequential(PROBLEM, table)) < 1e-13


def test_new_nodes_start_at_the_right_edge():
    _, table = chain(6)
    seen = []
    x_T = torch.tensor([[0.7], [-0.2]], dtype=F64)

    def model(x, t):
        seen.append(x.reshape(-1, 2)[:, 0].tolist())
        return torch.sin(x) * (1 + t[:, None])

    kept = []
    paradigms(table, 3, math.inf).run(model, x_T, callback=lambda r, x: kept.append(x[:, 0, 0].tolist()))
    assert seen[0] == [0.7, 0.7, 0.7]
    assert seen[1] == [kept[0][3]] * 3
    assert len(seen) == 2


def test_tolerances_of_single_nodes():
    problem, table = chain(20)
    tol = torch.full((21,), math.inf, dtype=F64)
    tol[7] = 0.0
    result = paradigms(table, None, tol).run(V, problem.x_T)
    assert [r.stride for r in result.rounds] == [7, 13]
    uniform = paradigms(table, 5, torch.full((21,), 1e-4)).run(V, problem.x_T)
    assert torch.equal(uniform.trajectory, paradigms(table, 5, float(torch.tensor(1e-4))).run(V, problem.x_T).trajectory)


# --- tables -----------------------------------------------------------------------------------------------------------------------------


TABLES = {
    "ddim": ddim,
    "euler lambda": lambda *a: euler(*a, clock="lambda"),
    "euler rho": lambda *a: euler(*a, clock="rho", scale="alpha"),
    "dpm_solver 2M": lambda *a: dpm_solver(*a, order=2, multistep=True),
    "2M": dpm_solver_pp,
    "2M taylor": lambda *a: dpm_solver_pp(*a, kind="taylor"),
    "3M": lambda *a: dpm_solver_pp(*a, order=3),
    "deis 4": lambda *a: deis(*a, order=4),
    "deis 3 rho": lambda *a: deis(*a, order=3, variable="rho"),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("schedule", ["vp", "linear", "edm"])
def test_tables_of_one_row_per_interval(name, schedule):
    problem = Problem(MIXTURE, SCHEDULES[schedule])
    times = problem.grid(24, grids.quadratic_t)
    for kind in ("noise", "clean"):
        table = TABLES[name](problem.schedule, times, kind)
        want = sequential(problem, table)
        for scale in (None, problem.schedule.alpha(times), problem.schedule.sigma(times)):
            for window in (5, None):
                got = paradigms(table, window, 0.0, scale=scale).run(getattr(problem.oracle, kind), problem.x_T)
                # rounding of states up to 140 (EDM) and of coefficients of clean predictions up to 1 / sigma = 1 / alpha = 500
                torch.testing.assert_close(got.trajectory, want, rtol=1e-11, atol=1e-11)


def test_one_sweep_of_ddim_and_2m_by_hand():
    """The increments of the section, written out: noise sums in (x / alpha, rho), data sums in x / sigma."""
    times = PROBLEM.grid(9, grids.quadratic_t)
    alpha, sigma, lam = VP.alpha(times), VP.sigma(times), VP.half_log_snr(times)
    x = torch.linspace(-1, 2, 10, dtype=F64)[:, None, None] * torch.ones(1, 4, 1)
    noise, clean = (torch.stack([getattr(PROBLEM.oracle, kind)(x[i], float(times[i])) for i in range(9)]) for kind in ("noise", "clean"))

    rho = sigma / alpha
    y = [x[0] / alpha[0]]
    for i in range(9):
        y.append(y[-1] + (rho[i + 1] - rho[i]) * noise[i])
    for kind in KINDS:
        got = paradigms(ddim(VP, times, kind), scale=alpha).sweep(getattr(PROBLEM.oracle, kind), x)
        # a velocity or clean prediction is converted with coefficients up to 1 / alpha_T = 150
        torch.testing.assert_close(got, alpha[:, None, None] * torch.stack(y), rtol=1e-11, atol=1e-11)

    h = lam.diff()
    z = [x[0] / sigma[0]]
    for i in range(9):
        d = clean[i] if i == 0 else (1 + h[i] / (2 * h[i - 1])) * clean[i] - h[i] / (2 * h[i - 1]) * clean[i - 1]
        z.append(z[-1] + alpha[i + 1] / sigma[i + 1] * (1 - torch.exp(-h[i])) * d)
    for kind in ("clean", "noise"):
        got = paradigms(dpm_solver_pp(VP, times, kind), scale=sigma).sweep(getattr(PROBLEM.oracle, kind), x)
        torch.testing.assert_close(got, sigma[:, None, None] * torch.stack(z), rtol=1e-11, atol=1e-11)


def test_one_step_of_ddim_is_euler_only_where_the_schedule_is_affine_in_time():
    for name, same in (("vp", False), ("linear", True), ("edm", True)):
        problem = Problem(MIXTURE, SCHEDULES[name])
        times = problem.grid(16)
        plain = paradigms(euler(problem.schedule, times), 1).run(problem.oracle.noise, problem.x_T).x
        gap = float((plain - ddim(problem.schedule, times).run(problem.model(), problem.x_T)).abs().max())
        assert gap < 1e-12 if same else gap > 1e-3


@pytest.mark.parametrize("method", [ancestral, euler_maruyama, lambda *a: ddim(*a, eta=0.5), lambda *a: dpm_solver_pp(*a, sde=True)])
def test_recorded_noise(method):
    times = PROBLEM.grid(15, grids.uniform_t)
    table = method(VP, times)
    z = torch.randn(15, 4, 1, generator=torch.Generator().manual_seed(5), dtype=F64)
    want = table.run(PROBLEM.model(), PROBLEM.x_T, noise=lambda k: z[k])
    sampler = paradigms(table, 6, 0.0)
    torch.testing.assert_close(sampler.run(PROBLEM.oracle.noise, PROBLEM.x_T, noise=lambda k: z[k]).x, want, rtol=1e-12, atol=1e-12)
    trajectory = table.trajectory(PROBLEM.model(), PROBLEM.x_T, noise=lambda k: z[k])
    swept = paradigms(table).sweep(PROBLEM.oracle.noise, trajectory, noise=lambda k: z[k])
    torch.testing.assert_close(swept, trajectory, rtol=1e-12, atol=1e-12)
    want = table.run(PROBLEM.model(), PROBLEM.x_T, generator=torch.Generator().manual_seed(6))
    got = sampler.run(PROBLEM.oracle.noise, PROBLEM.x_T, generator=torch.Generator().manual_seed(6)).x
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_dpm_solver_v3_whose_rows_have_constants():
    times = PROBLEM.grid(14)
    ends = float(VP.half_log_snr(times[0])) - 0.01, float(VP.half_log_snr(times[-1])) + 0.01
    table = dpm_solver_v3(VP, times, wavy_statistics(*ends), order=3)
    assert any(not isinstance(step.constant, float) for step in table.steps)
    got = paradigms(table, 4, scale=VP.alpha(times)).run(PROBLEM.oracle.noise, PROBLEM.x_T)
    torch.testing.assert_close(got.trajectory, sequential(PROBLEM, table), rtol=1e-11, atol=1e-11)


def test_discrete_schedules_give_integer_times():
    schedule = DiscreteSchedule.linear(40)
    times = grids.discrete(schedule, 10)
    kinds = set()

    def model(x, t):
        kinds.add((t.dtype, t.shape))
        return torch.tanh(x) * (1 + t.double()[:, None] / 40)

    table, x_T = ddim(schedule, times), torch.tensor([[0.3], [-1.0]], dtype=F64)
    got = paradigms(table, 4, 0.0).run(model, x_T)
    want = table.run(lambda x, t: torch.tanh(x) * (1 + t / 40), x_T)
    torch.testing.assert_close(got.x, want, rtol=1e-12, atol=1e-12)
    assert {d for d, _ in kinds} == {torch.int64}
    assert max(s[0] for _, s in kinds) == 8


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 1, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_trailing_shape_and_dtype(shape, dtype, generator):
    x_T = torch.randn(shape, generator=generator).to(dtype)
    table = dpm_solver_pp(VP, PROBLEM.grid(14), "clean")
    seen = set()

    def model(x, t):
        seen.add((x.dtype, t.dtype, x.shape[1:], len(x) == len(t)))
        return torch.tanh(2 * x)

    got = paradigms(table, 5, 0.0).run(model, x_T)
    assert got.trajectory.shape == (15, *shape)
    assert got.x.dtype == dtype
    assert seen == {(dtype, dtype, shape[1:], True)}
    want = table.run(lambda x, t: torch.tanh(2 * x), x_T)
    tol = 100 * torch.finfo(dtype).eps  # 14 sums of values of size one
    torch.testing.assert_close(got.x, want, rtol=tol, atol=tol)


def test_half_precision_gets_its_times_in_single():
    times = []
    paradigms(ddim(VP, PROBLEM.grid(4)), 2, 1e-2).run(lambda x, t: times.append(t) or x * 0.1, torch.ones(2, 3, dtype=torch.bfloat16))
    assert {t.dtype for t in times} == {torch.float32}


def test_tensor_coefficients_constants_and_long_memory():
    per_coordinate = torch.tensor([0.5, 2.0], dtype=F64)
    steps = [
        Step(1.0, 0.5, {0: 1.0}, {0: per_coordinate}, node=1),
        Step(0.5, 0.25, {1: per_coordinate, 0: 0.5}, {1: -1.0}, node=2),
        Step(0.25, 0.1, {2: 1.0}, {0: 0.25, 2: -0.5}, node=3, constant=per_coordinate),
    ]
    table = SolverTable("by hand", steps, torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=F64), "noise", (2,))
    x_T = torch.tensor([[0.3, -0.4], [1.0, 0.2]], dtype=F64)
    for window in (1, 2, None):
        got = paradigms(table, window, 0.0).run(lambda x, t: x.sin() + t[:, None], x_T)
        torch.testing.assert_close(got.trajectory, table.trajectory(lambda x, t: x.sin() + t, x_T), rtol=1e-14, atol=1e-14)
    for call in (paradigms(table).run, lambda model, x: paradigms(table).sweep(model, x.expand(4, *x.shape))):
        with pytest.raises(ValueError, match=r"samples of shape \(2,\), got a batch of shape \(5, 3\)"):
            call(lambda x, t: x, torch.ones(5, 3, dtype=F64))


# --- the trapezoid ----------------------------------------------------------------------------------------------------------------------


def printed_trapezoid(schedule, times):
    """The fixed point of the printed formula: node j + 1 gets the integral up to node j (the whole first cell for j = 0)."""
    build = Builder("printed", schedule, times, "velocity")
    x = build.start
    rates = []
    for s, t in zip(build.nodes, build.nodes[1:]):
        rates.append(build.evaluate(x).velocity)
        h = t.t - s.t
        if len(rates) == 1:
            new = build.start + h * rates[0]
        elif len(rates) == 2:
            new = build.start + h / 2 * rates[0] + h / 2 * rates[1]
        else:
            new = x + h / 2 * rates[-2] + h / 2 * rates[-1]
        x = build.state(new, t)
    return build.table()


@pytest.mark.parametrize(
    ("ends", "right", "printed"),
    [
        ((0.8, 0.05), (2.6e-3, 6.5e-4, 1.6e-4, 4.1e-5), (7.2e-2, 2.7e-2, 1.2e-2, 5.4e-3)),
        ((1.0, 1e-3), (9.7e-3, 2.3e-3, 5.7e-4, 1.4e-4), (1.8e-2, None, None, 6.0e-3)),
    ],
)
def test_the_trapezoid_has_order_two_and_the_printed_one_less(ends, right, printed):
    problem = Problem(MIXTURE, VP, *ends)
    counts = (20, 40, 80, 160)
    errors, wrong = [], []
    for n in counts:
        times = problem.grid(n, grids.uniform_t)
        result = paradigms(implicit_trapezoid(VP, times, "velocity"), None, 1e-24).run(problem.oracle.velocity, problem.x_T)
        assert result.iterations <= 18
        assert result.rounds[0].calls == n + 1
        errors.append(float((result.x - problem.exact).abs().max()))
        wrong.append(float((printed_trapezoid(VP, times).run(problem.model("velocity"), problem.x_T) - problem.exact).abs().max()))
    assert errors == pytest.approx(right, rel=0.03)
    assert convergence_order(counts, errors) == pytest.approx(2, abs=0.15)
    for got, want in zip(wrong, printed):
        assert want is None or got == pytest.approx(want, rel=0.04)
    assert convergence_order(counts, wrong) < 1.4


@pytest.mark.parametrize("kind", ["noise", "velocity"])
@pytest.mark.parametrize(("clock", "scale"), [("t", "one"), ("lambda", "sigma"), ("rho", "alpha"), ("lambda", "one")])
def test_the_fixed_point_solves_the_implicit_rule(kind, clock, scale):
    problem = Problem(MIXTURE, VP, 0.8, 0.05)
    times = problem.grid(20)
    c = {"one": None, "alpha": VP.alpha(times), "sigma": VP.sigma(times)}[scale]
    table = implicit_trapezoid(VP, times, kind, clock, scale)
    full, sliding = (paradigms(table, p, 1e-26, scale=c).run(getattr(problem.oracle, kind), problem.x_T).trajectory for p in (None, 4))
    torch.testing.assert_close(full, sliding, rtol=0, atol=1e-11)
    # the residual of the rule, with velocities of the oracle and derivatives of the clock by differences of the schedule
    u, w = {"t": times, "lambda": VP.half_log_snr(times), "rho": VP.sigma(times) / VP.alpha(times)}[clock], full
    d = 1e-5
    shift = {"t": lambda t: t, "lambda": VP.half_log_snr, "rho": lambda t: VP.sigma(t) / VP.alpha(t)}[clock]
    size = {"one": torch.ones_like, "alpha": VP.alpha, "sigma": VP.sigma}[scale]
    du, dc, c = (shift(times + d) - shift(times - d)) / (2 * d), (size(times + d) - size(times - d)) / (2 * d), size(times)
    v = torch.stack([problem.oracle.velocity(full[i], float(times[i])) for i in range(21)])
    rates = (v / c[:, None, None] - (dc / c**2)[:, None, None] * w) / du[:, None, None]
    residual = (w / c[:, None, None]).diff(dim=0) - u.diff()[:, None, None] * (rates[1:] + rates[:-1]) / 2
    assert float(residual.abs().max()) < 1e-7  # central differences: d^2 of third derivatives of size 1e3 in a scaled state of size 10


def test_an_implicit_window_waits_until_its_nodes_have_settled():
    problem = Problem(MIXTURE, VP, 0.8, 0.05)
    table = implicit_trapezoid(VP, problem.grid(20, grids.uniform_t), "velocity")
    result = paradigms(table, 1, 1e-20).run(problem.oracle.velocity, problem.x_T)
    assert {r.stride for r in result.rounds} == {0, 1}
    want = paradigms(table, None, 1e-24).run(problem.oracle.velocity, problem.x_T).x
    torch.testing.assert_close(result.x, want, rtol=0, atol=1e-8)


def test_an_implicit_rule_that_does_not_contract_is_given_up():
    table = implicit_trapezoid(AffineSchedule.linear(), torch.tensor([0.9, 0.1], dtype=F64), "velocity")
    with pytest.raises(ValueError, match="no progress past node 0 in 100 iterations"):
        paradigms(table, None, 1e-12).run(lambda x, t: -5 * x.tanh() + 3 * x.cos(), torch.ones(1, 1, dtype=F64))


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    "method",
    [
        heun,
        rk4,
        edm_heun,
        dpm_solver,
        lambda *a: dpm_solver_pp(*a, multistep=False),
        lambda *a: deis(*a, order=3, start="rk4"),
        lambda *a: edm_heun(*a, s_churn=1.0, s_max=50.0),
    ],
)
def test_tables_with_stages_are_refused(method):
    table = method(VP, PROBLEM.grid(6))
    with pytest.raises(ValueError, match=r"cannot be run in parallel: row \d"):
        paradigms(table)


@pytest.mark.usefixtures("user_errors")
def test_bad_arguments():
    _, table = chain(6)
    for window in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="window must be an integer of at least 1"):
            paradigms(table, window)
    for tol in (-1e-3, math.nan, torch.full((7,), -1.0)):
        with pytest.raises(ValueError, match="tol must not be negative"):
            paradigms(table, 2, tol)
    with pytest.raises(ValueError, match=r"tol must be a number or have one entry per node, shape \(7,\)"):
        paradigms(table, 2, torch.ones(6))
    with pytest.raises(TypeError, match="tol must be a number or a tensor"):
        paradigms(table, 2, "small")
    with pytest.raises(ValueError, match="norm must be one of mean, sum"):
        paradigms(table, 2, norm="max")
    for scale in (torch.zeros(7), -torch.ones(7), torch.full((7,), math.inf), torch.full((7,), math.nan)):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            paradigms(table, 2, scale=scale)
    with pytest.raises(ValueError, match="scale must be a number or have one entry"):
        paradigms(table, 2, scale=torch.ones(6))
    with pytest.raises(ValueError, match="tol must be positive"):
        paradigms(implicit_trapezoid(VP, table.times))
    with pytest.raises(ValueError, match="clock must be one of"):
        implicit_trapezoid(VP, table.times, clock="time")


@pytest.mark.usefixtures("user_errors")
def test_bad_runs():
    problem, table = chain(6)
    sampler = paradigms(table, 3)
    with pytest.raises(TypeError, match="x_T"):
        sampler.run(V, [1.0])
    with pytest.raises(ValueError, match="0-d"):
        sampler.run(V, torch.tensor(1.0))
    with pytest.raises(ValueError, match="x_T contains NaN"):
        sampler.run(V, torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="generator or noise"):
        sampler.run(V, problem.x_T, generator=torch.Generator(), noise=lambda k: problem.x_T)
    with pytest.raises(TypeError, match="floating-point tensor, got NoneType"):
        sampler.run(lambda x, t: None, problem.x_T)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        sampler.run(lambda x, t: x.long(), problem.x_T)
    with pytest.raises(ValueError, match=r"shape of its input, \(12, 1\), got \(4, 1\)"):
        sampler.run(lambda x, t: x[:4], problem.x_T)
    with pytest.raises(ValueError, match=r"states must have shape \(7, N"):
        sampler.sweep(V, problem.x_T)
    with pytest.raises(ValueError, match="give noise"):
        paradigms(ancestral(VP, table.times)).sweep(V, problem.x_T.expand(7, 4, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_from_the_model_is_named(value):
    problem, table = chain(12)
    bad = float(table.times[7])

    def model(x, t):
        return torch.where((t == bad)[:, None] & (x < 0), value, torch.zeros_like(x))

    # node 7 comes into a window of 3 in the third iteration, a window of 8 in the first
    for window, k in ((3, 3), (8, 1)):
        with pytest.raises(ValueError, match=rf"iteration {k}: the model returned NaN or infinity at node 7 \(t={bad}"):
            paradigms(table, window, 1e-3).run(model, problem.x_T)


def test_an_overflow_is_named():
    table = euler(VP, PROBLEM.grid(4, grids.uniform_t), "velocity")
    with pytest.raises(ValueError, match="iteration 1: an iterate overflowed, from finite predictions, at node 1"):
        paradigms(table).run(lambda x, t: -torch.full_like(x, 3e38), torch.full((2, 1), 3e38))
