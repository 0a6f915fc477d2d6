"""DPM-Solver-fast: the budget is spent to the last call, by steps that are the singlestep solvers."""

import pytest
import torch
from problems import SCHEDULES, Problem

from mathcore.schedules import DiscreteSchedule
from mathcore.solvers import ddim, dpm_solver, dpm_solver_fast, dpm_solver_pp
from mathcore.solvers.diagnostics import CallCounter, convergence_order
from mathcore.solvers.fixed_nfe import orders_for


def test_orders_of_the_paper():
    # Lu et al. 2022, section 3.4: the three remainders of 3, and small budgets
    assert orders_for(12) == [3, 3, 3, 2, 1]
    assert orders_for(13) == [3, 3, 3, 3, 1]
    assert orders_for(14) == [3, 3, 3, 3, 2]
    assert [orders_for(k) for k in (1, 2, 3)] == [[1], [2], [2, 1]]
    assert orders_for(7, 2) == [2, 2, 2, 1]
    assert orders_for(4, 1) == [1, 1, 1, 1]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("form", ["noise", "clean"])
def test_every_budget_is_met(order, form):
    p = Problem("vp")
    for calls in range(1, 31):
        table = dpm_solver_fast(p.schedule, calls, order=order, form=form, t_start=p.t_start, t_end=p.t_end)
        model = CallCounter(p.model("noise"))
        table.run(model, p.x)
        assert table.nfe == model.calls == calls == sum(orders_for(calls, order))
        expected = {1: calls, 2: -(-calls // 2), 3: calls // 3 + 1}[order]
        assert len(table.times) - 1 == expected


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("form", "single"), [("noise", dpm_solver), ("clean", dpm_solver_pp)])
@pytest.mark.parametrize("kind", ["midpoint", "taylor"])
def test_its_steps_are_the_singlestep_solvers(name, form, single, kind):
    p = Problem(name)
    table = dpm_solver_fast(p.schedule, 6, "velocity", form=form, kind=kind, t_start=p.t_start, t_end=p.t_end)  # orders 3, 2, 1
    x = p.x
    for i, order in enumerate((3, 2, 1)):
        step = single(p.schedule, table.times[i : i + 2], "velocity", order=order, multistep=False, kind=kind)
        x = step.run(p.model("velocity"), x)
    torch.testing.assert_close(table.run(p.model("velocity"), p.x), x, rtol=1e-12, atol=1e-12)


def test_order_1_is_ddim():
    p = Problem("linear")
    torch.testing.assert_close(
        dpm_solver_fast(p.schedule, 8, order=1, t_start=p.t_start, t_end=p.t_end).run(p.model(), p.x),
        ddim(p.schedule, p.grid(8)).run(p.model(), p.x),
        rtol=1e-12,
        atol=1e-12,
    )


def test_a_last_step_of_order_1_leaves_order_2():
    p = Problem("vp")
    counts = (24, 48, 96, 192)
    errors = [p.error(dpm_solver_fast(p.schedule, k, t_start=p.t_start, t_end=p.t_end)) for k in counts]  # orders 3, ..., 3, 2, 1
    assert convergence_order(counts, errors) == pytest.approx(2, abs=0.2), errors


def test_refusals(user_errors):
    schedule = SCHEDULES["vp"]
    for calls in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="calls must be an integer of at least 1"):
            dpm_solver_fast(schedule, calls)
    for order in (0, 4, True):
        with pytest.raises(ValueError, match="order must be 1, 2 or 3"):
            dpm_solver_fast(schedule, 6, order=order)
    with pytest.raises(ValueError, match="form must be one of noise, clean"):
        dpm_solver_fast(schedule, 6, form="data")
    with pytest.raises(ValueError, match="kind must be one of"):
        dpm_solver_fast(schedule, 6, kind="heun")
    with pytest.raises(TypeError, match="AffineSchedule"):
        dpm_solver_fast(DiscreteSchedule.linear(100), 6)
    with pytest.raises(ValueError, match="t_end < t_start"):
        dpm_solver_fast(schedule, 6, t_start=0.1, t_end=0.9)
