"""The engine: the loop against arithmetic by hand, what it costs, what it refuses."""

import math
import weakref

import pytest
import torch
from problems import F64, Problem
from torch.utils._python_dispatch import TorchDispatchMode

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import Builder, SolverTable, Step, ancestral, ddim, edm_heun, euler, euler_maruyama, grids, heun, rk4

TIMES = torch.tensor([1.0, 0.5, 0.25], dtype=F64)
VP = AffineSchedule.vp()


def hand(steps, prediction="noise"):
    return SolverTable("by hand", steps, TIMES, prediction)


TWO = (
    Step(1.0, 0.5, {0: 2.0}, {0: -0.5}, node=1),
    Step(0.5, 0.25, {0: 0.1, 1: 1.0}, {0: 3.0, 1: 0.25}, 0.5, node=2),
)


@pytest.mark.parametrize("shape", [(3,), (64, 2), (2, 1, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_loop_is_the_formula(shape, dtype, generator):
    x = torch.randn(shape, generator=generator).to(dtype)
    z = torch.randn(shape, generator=generator).to(dtype)
    seen = []

    def model(x, t):
        seen.append(t)
        return torch.tanh(x) + t

    def formula(x):
        m0 = torch.tanh(x) + 1.0
        x1 = 2 * x - 0.5 * m0
        return 0.1 * x + x1 + 3 * m0 + 0.25 * (torch.tanh(x1) + 0.5) + 0.5 * z.to(x)

    got = hand(TWO).run(model, x, noise=lambda k: z)
    assert got.dtype == dtype
    tol = 16 * torch.finfo(dtype).eps  # values of size 10, ten roundings
    torch.testing.assert_close(got, formula(x.double()).to(dtype), rtol=tol, atol=tol)
    assert seen == [1.0, 0.5]


def test_a_row_may_have_no_model_call_no_state_or_a_tensor_as_coefficient():
    per_coordinate = torch.tensor([1.0, 10.0], dtype=F64)
    steps = (
        Step(1.0, 1.0, noise=2.0, evaluate=False),  # the noise itself becomes a state
        Step(1.0, 0.5, {0: per_coordinate}, {}, evaluate=False),
        Step(0.5, 0.25, {2: 1.0, 1: per_coordinate}, {2: -1.0}, node=1),
        Step(0.25, 0.1, {}, {2: 2.0}, evaluate=False, node=2),
    )
    x, z = torch.ones(3, 2), torch.full((3, 2), 0.25)
    table = hand(steps)
    got = []
    out = table.run(lambda x, t: x**2, x, noise=lambda k: z, callback=lambda k, x: got.append((k, x[0].tolist())))
    assert got == [(1, [0.5, 0.5]), (2, [1.0, 10.0]), (3, [0.5, -85.0]), (4, [2.0, 200.0])]
    assert out.dtype == torch.float32
    assert table.nfe == 1


def test_float32_states_keep_float64_coefficients():
    # 1 + 1e-12 and -1 cancel: in float32 coefficients the result would be 0
    steps = [Step(1.0, 0.5, {0: 1.0}, evaluate=False), Step(0.5, 0.25, {0: 0.3 + 0.6, 1: -0.9}, evaluate=False)]
    assert hand(steps).steps[1].states[0] == 0.3 + 0.6
    assert all(isinstance(c, float) for k in ddim(VP, TIMES).steps for c in (*k.states.values(), *k.outputs.values()))


@pytest.mark.parametrize(("method", "rows", "nfe"), [(ddim, 10, 10), (euler, 10, 10), (heun, 20, 20), (rk4, 40, 40), (edm_heun, 20, 20)])
def test_nfe_rows_and_grid_nodes(method, rows, nfe):
    times = grids.uniform_t(VP, 10)
    table = method(VP, times)
    assert (len(table.steps), table.nfe) == (rows, nfe)
    assert [step.node for step in table.steps if step.node is not None] == list(range(1, 11))
    assert torch.equal(table.times, times)
    assert method(VP, times, "clean").prediction == "clean"


def test_heun_makes_an_euler_step_to_the_clean_end():
    times = grids.karras(AffineSchedule.edm(), 10, to_clean=True)
    table = heun(AffineSchedule.edm(), times)
    assert table.nfe == 19
    assert table.steps[-1].t_next == 0.0


def test_only_the_history_that_is_needed_is_kept():
    n, alive, most = 12, [], 0

    def model(x, t):
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        out = x * 0.1
        alive.append(weakref.ref(out))
        return out

    p = Problem("vp")
    for method, outputs in ((ddim, 0), (heun, 1), (rk4, 3)):
        alive.clear()
        most = 0
        method(p.schedule, p.grid(n)).run(model, p.x.clone(), callback=lambda k, x: alive.append(weakref.ref(x)))
        # while the model runs: its argument, the outputs before it in this interval, and the state the interval began with
        assert most <= 1 + outputs + (outputs > 0) + max(0, outputs - 1), (method, most)


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("schedule", "per_step"), [(VP, 2), (AffineSchedule.edm(), 1)])
def test_a_step_of_ddim_is_two_tensor_operations_or_one(schedule, per_step):
    x = torch.ones(64, 2)

    def operations(n):
        table = ddim(schedule, grids.uniform_t(schedule, n))
        table.run(lambda x, t: x, x)
        with Count() as counter:
            table.run(lambda x, t: x, x)
        return len(counter.calls)

    assert operations(30) - operations(10) == 20 * per_step  # whatever a run costs once cancels


def test_randomness_comes_from_the_generator():
    table, x = ancestral(VP, TIMES), torch.zeros(4, 2)
    a, b = (table.run(lambda x, t: x, x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    torch.manual_seed(0)
    c = table.run(lambda x, t: x, x)
    d = table.run(lambda x, t: x, x)
    torch.manual_seed(0)
    assert torch.equal(c, table.run(lambda x, t: x, x))
    assert not torch.equal(c, d)
    state = torch.get_rng_state()
    ddim(VP, TIMES).run(lambda x, t: x, x)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, torch.zeros(4, 2))


def test_gradients_only_when_asked_for():
    x = torch.tensor([[0.3, -1.0]], dtype=F64, requires_grad=True)
    table = heun(VP, TIMES)
    assert not table.run(lambda x, t: x.sin(), x).requires_grad
    assert torch.autograd.gradcheck(lambda x: table.run(lambda x, t: x.sin(), x, differentiable=True), (x,))
    tangent = torch.ones_like(x)
    _, moved = torch.func.jvp(lambda x: table.run(lambda x, t: x.sin(), x, differentiable=True), (x.detach(),), (tangent,))
    (back,) = torch.autograd.grad(table.run(lambda x, t: x.sin(), x, differentiable=True).sum(), x)
    torch.testing.assert_close(moved.sum(), back.sum())


def test_trajectory():
    table, x = rk4(VP, grids.uniform_t(VP, 5)), torch.ones(3, 2)
    path = table.trajectory(lambda x, t: x.tanh(), x)
    assert path.shape == (6, 3, 2)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], table.run(lambda x, t: x.tanh(), x))


def test_display():
    table = ancestral(VP, grids.uniform_t(VP, 30))
    latex = table.to_latex()
    assert latex.count("x_{1} &=") == 1
    assert "vdots" in latex
    assert "+0.8" in latex or "z" in latex
    assert latex.count("{") == latex.count("}")
    assert len(table.to_latex(max_rows=None).splitlines()) == 32
    page = table._repr_html_()
    assert page.startswith("<table")
    assert page.count("<tr>") == page.count("</tr>") == 13
    assert "nfe=30" in repr(table)
    with pytest.raises(ValueError, match="max_rows"):
        table.to_latex(max_rows=2)


def test_names_are_not_shared():
    tables = [
        ddim(VP, TIMES),
        ddim(VP, TIMES, eta=1),
        ancestral(VP, TIMES),
        heun(VP, TIMES),
        heun(VP, TIMES, clock="lambda"),
        euler_maruyama(VP, TIMES),
    ]
    assert len({t.name for t in tables}) == len(tables)


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


def bad_from(step, value):
    times = grids.uniform_t(VP, 8)

    def model(x, t):
        return x * value if t <= float(times[step]) else x

    return ddim(VP, times), model


@pytest.mark.parametrize("step", [0, 3, 7])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_from_the_model_is_named(step, value):
    table, model = bad_from(step, value)
    with pytest.raises(ValueError, match=rf"step {step} of 8 .*model returned NaN"):
        table.run(model, torch.ones(4, 2))


def test_nan_in_one_sample_of_a_stochastic_run_is_named():
    z = torch.Generator().manual_seed(0)
    times = grids.uniform_t(VP, 8)
    limit = {}

    def model(x, t):
        limit.setdefault(t, float(x[1, 0]))
        return torch.where((x == limit[t]) & (t < float(times[5])), torch.nan, x)

    with pytest.raises(ValueError, match="step 6 of 8"):  # only if the second run meets the same noise
        ancestral(VP, times).run(model, torch.ones(4, 2), generator=z)


def test_overflow_and_irreproducible_models_are_told_apart():
    times = grids.uniform_t(VP, 4)
    with pytest.raises(ValueError, match=r"step 0 .*overflowed torch.float32"):
        ddim(VP, times).run(lambda x, t: x * 1e38, 3 * torch.ones(2, 2))
    calls = iter(range(100))
    with pytest.raises(ValueError, match="not reproducible"):
        ddim(VP, times).run(lambda x, t: x * (math.nan if next(calls) == 2 else 1.0), torch.ones(2, 2))


def test_a_large_finite_result_is_no_error():
    step = [Step(1.0, 0.5, {0: 1.0}, evaluate=False, node=1)]
    x = torch.full((4, 2), 3e38)  # their sum overflows
    assert torch.equal(hand(step).run(lambda x, t: x, x), x)


@pytest.mark.usefixtures("user_errors")
def test_bad_runs():
    table = ddim(VP, TIMES)
    with pytest.raises(TypeError, match="x_T"):
        table.run(lambda x, t: x, [1.0])
    with pytest.raises(TypeError, match="x_T"):
        table.run(lambda x, t: x, torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="x_T"):
        table.run(lambda x, t: x, torch.tensor(1.0))
    with pytest.raises(ValueError, match="x_T contains NaN"):
        table.run(lambda x, t: x, torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match=r"step 0 .*\(2, 3\)"):
        table.run(lambda x, t: torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match="shape of its input"):
        table.run(lambda x, t: x[:, :1], torch.ones(2, 3))  # would broadcast
    with pytest.raises(TypeError, match="floating-point"):
        table.run(lambda x, t: x.long(), torch.ones(2, 3))
    with pytest.raises(TypeError, match="NoneType"):
        table.run(lambda x, t: None, torch.ones(2, 3))
    with pytest.raises(ValueError, match="generator or noise"):
        ancestral(VP, TIMES).run(lambda x, t: x, torch.ones(2, 1), generator=torch.Generator(), noise=lambda k: torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"noise\(0\)"):
        ancestral(VP, TIMES).run(lambda x, t: x, torch.ones(2, 1), noise=lambda k: torch.ones(1))


@pytest.mark.usefixtures("user_errors")
def test_bad_tables():
    with pytest.raises(ValueError, match="at least one step"):
        hand([])
    with pytest.raises(ValueError, match="prediction must be one of"):
        hand(TWO, "epsilon")
    with pytest.raises(ValueError, match="uses state 1, which does not exist"):
        hand([Step(1.0, 0.5, {1: 1.0})])
    with pytest.raises(ValueError, match="uses output 0, which does not exist"):
        hand([Step(1.0, 0.5, {}, {0: 1.0}, evaluate=False)])
    with pytest.raises(ValueError, match="combines nothing"):
        hand([Step(1.0, 0.5)])
    with pytest.raises(ValueError, match="coefficient of state 0 is not finite"):
        hand([Step(1.0, 0.5, {0: math.nan})])
    with pytest.raises(ValueError, match="noise is not finite"):
        hand([Step(1.0, 0.5, {0: 1.0}, noise=math.inf)])


METHODS = (ddim, euler, heun, rk4, ancestral, euler_maruyama, edm_heun)


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize("method", METHODS)
def test_bad_grids(method):
    for times, message in [
        (torch.tensor([0.2, 0.5]), "decrease"),
        (torch.tensor([0.5, 0.5]), "decrease"),
        (torch.tensor([0.5, math.nan]), "decrease"),
        (torch.tensor([1.5, 0.5]), "domain"),
        (torch.tensor([0.5, -0.5]), "domain"),
        (torch.tensor([0.5]), "at least one step"),
        (torch.ones(2, 2), "shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            method(VP, times)
    with pytest.raises(TypeError, match="floating-point times"):
        method(VP, torch.tensor([1, 0]))
    with pytest.raises(TypeError, match="times must be a tensor"):
        method(VP, [1.0, 0.0])
    with pytest.raises(TypeError, match="schedule must be"):
        method("vp", TIMES)
    with pytest.raises(ValueError, match="prediction must be one of"):
        method(VP, TIMES, "eps")
    with pytest.raises(TypeError, match="integer indices"):
        method(DiscreteSchedule.linear(50), TIMES)


@pytest.mark.usefixtures("user_errors")
def test_what_a_method_cannot_do():
    chain, index = DiscreteSchedule.linear(50), torch.tensor([50, 20, 0])
    for call, message in [
        (lambda: euler(chain, index), "no time derivative|velocity"),
        (lambda: euler_maruyama(chain, index), "DiscreteSchedule"),
        (lambda: rk4(chain, index, clock="rho", scale="alpha"), "indices only"),
        (lambda: edm_heun(chain, index, s_churn=10.0), "indices only"),
        (lambda: ddim(chain, index, "velocity"), "velocity"),
        (lambda: ddim(VP, TIMES, eta=-1), "eta"),
        (lambda: ddim(VP, TIMES, eta=math.nan), "eta"),
        (lambda: ancestral(VP, TIMES, variance="oracle"), "variance must be one of"),
        (lambda: euler_maruyama(VP, TIMES, noise_level=-0.1), "noise_level"),
        (lambda: edm_heun(VP, TIMES, s_noise=-1.0), "s_noise"),
        (lambda: edm_heun(VP, TIMES, s_churn=math.nan), "s_churn"),
        (lambda: edm_heun(AffineSchedule.edm(), torch.tensor([80.0, 1.0, 0.1]), s_churn=3.0), "churn raises"),
        (lambda: heun(VP, TIMES, clock="sigma"), "clock must be one of"),
        (lambda: heun(VP, TIMES, scale="x"), "scale must be one of"),
        (lambda: euler(AffineSchedule.linear(), torch.tensor([1.0, 0.5]), "noise"), "singular"),
        (lambda: heun(VP, torch.tensor([1.0, 0.0]), clock="lambda"), "not finite"),
        (lambda: rk4(VP, torch.tensor([1.0, 0.0]), clock="lambda", scale="alpha"), "finite half-log-SNR"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_chain_can_be_stepped_in_its_noise_to_signal_ratio():
    chain = DiscreteSchedule.linear(50)
    index = grids.discrete(chain, 10)
    for scale in ("alpha", "sigma"):
        assert euler(chain, index[:-1], clock="lambda", scale=scale).nfe == 9
    assert edm_heun(chain, index).nfe == 19


def test_builder_refuses_what_cannot_be_a_row():
    build = Builder("mine", VP, TIMES, "noise")
    start = build.start
    assert build.evaluate(start) is build.evaluate(start)
    noise = build.noise
    x = build.state(start + noise, build.nodes[1])
    with pytest.raises(ValueError, match="newest state only"):
        build.evaluate(start)
    with pytest.raises(ValueError, match="noise of another row"):
        build.state(x + noise, build.nodes[2])
    build.evaluate(x)
    with pytest.raises(ValueError, match="used by no row"):
        build.table()


def test_a_method_written_with_the_builder():
    # two-step Adams-Bashforth in time on dx/dt = v, ten lines: what a newcomer writes
    p = Problem("linear")
    build = Builder("ab2", p.schedule, p.grid(200, grids.uniform_t), "noise")
    x, before = build.start, None
    for s, t in zip(build.nodes, build.nodes[1:], strict=False):
        v, dt = build.evaluate(x).velocity, t.t - s.t
        x = build.state(x + dt * (v if before is None else 1.5 * v - 0.5 * before), t)
        before = v
    table = build.table()
    assert table.nfe == 200
    assert table.history <= 6
    assert float((table.run(p.model(), p.x) - p.exact).abs().max()) < 1e-3  # Euler is at 3e-3 here
