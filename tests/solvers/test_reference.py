"""The reference ODE against exact flows, for models without one against a fine grid; shapes and refusals."""

import pytest
import torch
from problems import F64, KINDS, SCHEDULES, Problem

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.guidance import classifier_free
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import reference, rk4
from mathcore.solvers.diagnostics import Exact1D

VP = AffineSchedule.vp()


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_exact_flow_of_a_mixture(name):
    p = Problem(name)
    got = reference(p.schedule, p.t_start, p.t_end).run(p.model(), p.x)
    # tolerance 1e-11 per step, tens of steps, flow derivatives of size 10
    torch.testing.assert_close(got, p.exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_all_four_predictions(kind):
    p = Problem("linear")
    torch.testing.assert_close(reference(p.schedule, p.t_start, p.t_end, kind).run(p.model(kind), p.x), p.exact, rtol=0, atol=1e-9)


def test_any_shape_and_dtype():
    data = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 4, dtype=F64), torch.full((1,), 0.25, dtype=F64))
    oracle = AffineGaussianOracle(data, VP)
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    want = oracle.flow_map(x.reshape(3, 4), 0.9, 0.2).reshape(x.shape)
    solver = reference(VP, 0.9, 0.2)
    model = lambda x, t: oracle.noise(x.reshape(-1, 4), t).reshape(x.shape)  # noqa: E731
    torch.testing.assert_close(solver.run(model, x), want, rtol=0, atol=1e-9)
    single = solver.run(model, x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        solver.run(lambda x, t: model(x[:, None].expand(-1, 4), t)[:, 0], x[:, 0, 0, 0]), want[:, 0, 0, 0], rtol=0, atol=1e-9
    )


def test_a_guided_model_against_runge_kutta_on_a_fine_grid():
    # no exact flow here: another method, another clock, another scaling of the state; its error at 800 steps is 1e-10
    p = Problem("vp", examples.two_modes())
    right = GaussianMixture(torch.ones(1, dtype=F64), torch.ones(1, 1, dtype=F64), torch.full((1,), 0.09, dtype=F64))
    model = classifier_free(Exact1D(right, VP), Exact1D(p.data, VP), 3.0)
    fine = rk4(VP, p.grid(800)).run(model, p.x)
    torch.testing.assert_close(reference(VP, p.t_start, p.t_end).run(model, p.x), fine, rtol=0, atol=1e-8)


def test_trajectory_lies_on_the_flow():
    p = Problem("vp")
    times = p.grid(7)
    states = reference(VP, p.t_start, p.t_end).trajectory(p.model(), p.x, times)
    assert states.shape == (8, 4, 1)
    for state, t in zip(states, times.tolist(), strict=True):
        torch.testing.assert_close(state, p.oracle.flow_map(p.x, p.t_start, t), rtol=0, atol=1e-7)  # interpolation of order 7


def test_a_looser_tolerance_is_looser():
    p = Problem("vp")
    errors = [float((reference(VP, p.t_start, p.t_end, rtol=r).run(p.model(), p.x) - p.exact).abs().max()) for r in (1e-3, 1e-7, 1e-12)]
    assert errors[2] < 1e-11 < errors[1] < 1e-6 < errors[0] < 1e-2


def test_refusals(user_errors):
    p = Problem("vp")
    with pytest.raises(TypeError, match="AffineSchedule"):
        reference(DiscreteSchedule.linear(100))
    with pytest.raises(ValueError, match="prediction must be one of"):
        reference(VP, prediction="eps")
    for rtol in (0.0, 1e-16, 0.5, float("nan")):
        with pytest.raises(ValueError, match="rtol must"):
            reference(VP, rtol=rtol)
    with pytest.raises(ValueError, match="t_end < t_start"):
        reference(VP, 0.2, 0.4)
    with pytest.raises(ValueError, match="half_log_snr"):
        reference(VP, 1.0, 0.0)
    solver = reference(VP, p.t_start, p.t_end)
    with pytest.raises(ValueError, match="times must decrease strictly within"):
        solver.trajectory(p.model(), p.x, [0.5, 0.7])
    with pytest.raises(ValueError, match="times must decrease strictly within"):
        solver.trajectory(p.model(), p.x, [1.0])
    with pytest.raises(ValueError, match="value must have the shape"):
        solver.run(lambda x, t: x[:2], p.x)
    with pytest.raises(ValueError, match="value contains NaN"):
        solver.run(lambda x, t: x * float("nan"), p.x)
    with pytest.raises(ValueError, match="x_T contains NaN"):
        solver.run(p.model(), p.x * float("nan"))
    with pytest.raises(TypeError, match="x_T must be a floating-point"):
        solver.run(p.model(), torch.ones(3, 1, dtype=torch.int64))
