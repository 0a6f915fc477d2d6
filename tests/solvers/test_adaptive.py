"""Adaptive DPM-Solver: published counts, what a run reports, tolerances that bind, refusals."""

import pytest
import torch
from problems import F64, Problem

from mathcore import solvers
from mathcore.data import examples
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import dpm_solver, dpm_solver_adaptive, dpm_solver_pp
from mathcore.solvers.diagnostics import CallCounter

pytestmark = pytest.mark.usefixtures("without_shape_checks")


VP = AffineSchedule.vp()
WHOLE = solvers.diagnostics.Problem(examples.solver_mixture(), VP)


def as_one_sample():
    """The four start points as one sample of four coordinates."""
    model = WHOLE.model()
    return (lambda x, t: model(x.T, t).T), WHOLE.x_T.T


# from an independent implementation of the published algorithm, run on this problem: calls and root mean square error
@pytest.mark.parametrize(
    ("order", "rtol", "calls", "error"),
    [
        (3, 0.05, 42, 1.6e-3),
        (3, 0.01, 75, 2.5e-4),
        (3, 0.002, 117, 4.2e-5),
        (2, 0.05, 82, 1.5e-2),
        (2, 0.01, 126, 3.4e-3),
        (2, 0.002, 156, 9.1e-4),
    ],
)
def test_calls_and_errors_of_an_independent_implementation(order, rtol, calls, error):
    model, x = as_one_sample()
    out = dpm_solver_adaptive(VP, order=order, rtol=rtol).run(model, x)
    assert out.nfe == calls
    assert float((out.x.T - WHOLE.exact).square().mean().sqrt()) == pytest.approx(error, rel=0.04)  # two digits are known


def test_an_absolute_tolerance_that_stays_behind_controls_the_run():
    model, x = as_one_sample()
    runs = [dpm_solver_adaptive(VP, rtol=rtol, atol=0.0078).run(model, x) for rtol in (0.01, 0.002)]
    assert [run.nfe for run in runs] == [60, 69]
    errors = [float((run.x.T - WHOLE.exact).square().mean().sqrt()) for run in runs]
    assert errors == pytest.approx([3.8e-4, 2.3e-4], rel=0.04)  # five times the tolerance buys less than a factor two


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("form", ["noise", "clean"])
@pytest.mark.parametrize("name", ["vp", "linear", "edm", "ve"])
def test_tighter_is_more_accurate_and_costs_more(name, form, order):
    p = Problem(name)
    runs = [
        dpm_solver_adaptive(p.schedule, p.t_start, p.t_end, order=order, form=form, rtol=r).run(p.model(), p.x) for r in (0.05, 5e-3, 5e-4)
    ]
    errors = [float((run.x - p.exact).abs().max()) for run in runs]
    assert errors[2] < errors[1] < errors[0] < 0.2
    assert errors[2] < errors[0] / 8
    assert runs[0].nfe < runs[1].nfe < runs[2].nfe


@pytest.mark.parametrize("order", [2, 3])
def test_what_a_run_reports(order):
    model = CallCounter(WHOLE.model())
    out = dpm_solver_adaptive(VP, order=order, rtol=0.01).run(model, WHOLE.x_T)
    assert out.nfe == model.calls == order * len(out.attempts) == order * (out.accepted + out.rejected)
    assert out.rejected > 0
    assert len(out.times) == out.accepted + 1
    assert out.times[0] == 1.0
    assert out.times[-1] == WHOLE.t_end
    assert bool((out.times[1:] < out.times[:-1]).all())
    assert all(attempt.accepted == (attempt.error <= 1) for attempt in out.attempts)
    assert min(model.times) > WHOLE.t_end  # nothing is asked beyond the end


@pytest.mark.parametrize(("form", "single"), [("noise", dpm_solver), ("clean", dpm_solver_pp)])
@pytest.mark.parametrize(("order", "kind"), [(2, "midpoint"), (2, "taylor"), (3, "midpoint"), (3, "taylor")])
def test_accepted_steps_are_the_singlestep_solver_on_the_chosen_grid(form, single, order, kind):
    out = dpm_solver_adaptive(VP, prediction="velocity", order=order, form=form, kind=kind).run(WHOLE.model("velocity"), WHOLE.x_T)
    table = single(VP, out.times, "velocity", order=order, multistep=False, kind=kind)
    torch.testing.assert_close(table.run(WHOLE.model("velocity"), WHOLE.x_T), out.x, rtol=1e-10, atol=1e-10)


def test_the_estimate_is_the_distance_of_the_two_orders():
    p, h = Problem("vp"), 0.3
    # with rtol next to nothing and atol = 1 the error is that of the worst of four samples of one coordinate
    solver = dpm_solver_adaptive(p.schedule, p.t_start, p.t_end, order=3, rtol=1e-12, atol=1.0, first_step=h)
    first = solver.run(p.model(), p.x).attempts[0]
    low, high = (
        dpm_solver(p.schedule, torch.tensor([first.t, first.t_next], dtype=F64), order=o, r1=1 / 3).run(p.model(), p.x) for o in (2, 3)
    )
    assert first.error == pytest.approx(float((high - low).abs().max()), rel=1e-9)
    assert float(VP.half_log_snr(first.t_next) - VP.half_log_snr(first.t)) == pytest.approx(h, rel=1e-9)


def test_a_point_mass_needs_few_steps():
    # eps is constant along the flow of a point mass: the estimate vanishes and the second step runs to the end
    out = dpm_solver_adaptive(VP).run(lambda x, t: (x - VP.alpha(t) * 0.7) / VP.sigma(t), WHOLE.x_T)
    assert (out.accepted, out.rejected) == (2, 0)


def test_shapes_and_dtype():
    out = dpm_solver_adaptive(VP, 0.9, 0.1).run(lambda x, t: x.tanh(), torch.ones(2, 1, 3, 3))
    assert out.x.shape == (2, 1, 3, 3)
    assert out.x.dtype == torch.float32
    assert dpm_solver_adaptive(VP, 0.9, 0.1).run(lambda x, t: x.tanh(), torch.ones(5)).x.shape == (5,)


def test_refusals(user_errors):
    with pytest.raises(TypeError, match="AffineSchedule"):
        dpm_solver_adaptive(DiscreteSchedule.linear(100))
    for order in (1, 4, True):
        with pytest.raises(ValueError, match="order must be 2"):
            dpm_solver_adaptive(VP, order=order)
    for name in ("rtol", "atol", "first_step"):
        for value in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match=f"{name} must be a positive"):
                dpm_solver_adaptive(VP, **{name: value})
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        dpm_solver_adaptive(VP, max_steps=0)
    with pytest.raises(ValueError, match="form must be one of"):
        dpm_solver_adaptive(VP, form="x")
    with pytest.raises(ValueError, match="prediction must be one of"):
        dpm_solver_adaptive(VP, prediction="eps")
    with pytest.raises(ValueError, match="t_end < t_start"):
        dpm_solver_adaptive(VP, 0.1, 0.9)
    with pytest.raises(ValueError, match="half_log_snr"):
        dpm_solver_adaptive(VP, 1.0, 0.0)


def test_failures_of_a_run(user_errors):
    with pytest.raises(RuntimeError, match="max_steps=3"):
        dpm_solver_adaptive(VP, rtol=1e-4, max_steps=3).run(WHOLE.model(), WHOLE.x_T)
    with pytest.raises(ValueError, match="the model returned NaN"):
        dpm_solver_adaptive(VP).run(lambda x, t: x * float("nan"), WHOLE.x_T)
    with pytest.raises(RuntimeError, match="the step shrank"):  # a model without a limit: the two orders never agree
        dpm_solver_adaptive(VP, rtol=1e-13).run(lambda x, t: torch.sin(1e18 * x) * 1e6, WHOLE.x_T)
    with pytest.raises(TypeError, match="x_T must be a floating-point tensor"):
        dpm_solver_adaptive(VP).run(WHOLE.model(), torch.ones(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="x_T contains NaN"):
        dpm_solver_adaptive(VP).run(WHOLE.model(), torch.full((3, 1), float("nan")))
    with pytest.raises(ValueError, match="x_T must have shape"):
        dpm_solver_adaptive(VP).run(WHOLE.model(), torch.tensor(1.0))
