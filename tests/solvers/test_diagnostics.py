"""Problems with exact answers, against the oracle and an adaptive integrator; orders; call counts; refusals."""

import pytest
import torch
from scipy.integrate import solve_ivp

from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ddim, grids
from mathcore.solvers.diagnostics import CallCounter, Exact1D, Problem, convergence_order


def test_exact_images_are_those_of_an_adaptive_integrator():
    p = Problem(examples.solver_mixture(), AffineSchedule.vp())
    model = Exact1D(p.data, p.schedule)
    ends = [-float(p.schedule.half_log_snr(t)) for t in (p.t_start, p.t_end)]  # dy / d rho = eps with rho = e^u, y = x / alpha

    def rate(u, y):
        t = float(p.schedule.inverse_half_log_snr(-u))
        return (model(torch.tensor(y)[:, None] * float(p.schedule.alpha(t)), t)[:, 0] * torch.tensor(u).exp()).numpy()

    y0 = (p.x_T[:, 0] / float(p.schedule.alpha(p.t_start))).numpy()
    end = solve_ivp(rate, ends, y0, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1] * float(p.schedule.alpha(p.t_end))
    # y starts near 150 / alpha: the integrator keeps 1e-11 of that
    torch.testing.assert_close(torch.tensor(end), p.exact[:, 0], rtol=0, atol=1e-8)


def test_several_dimensions_need_start_points_and_use_the_oracle(generator):
    schedule = AffineSchedule.edm()
    with pytest.raises(ValueError, match="start points"):
        Problem(examples.ring(), schedule)
    p = Problem(examples.ring(), schedule, t_start=5.0, t_end=0.5, x=5 * torch.randn(4, 2, generator=generator, dtype=torch.float64))
    assert convergence_order((20, 40, 80), p.errors(lambda times: ddim(schedule, times), (20, 40, 80))) == pytest.approx(1, abs=0.15)


def test_calls_are_counted_at_their_times():
    p = Problem(examples.gaussian(), AffineSchedule.linear())
    counter, table = CallCounter(p.model()), ddim(p.schedule, p.grid(5, grids.uniform_t))
    p.error(table, counter)
    assert counter.calls == 5
    assert counter.times == table.times[:-1].tolist()


def test_order_of_a_power_law_is_its_exponent():
    counts = [3, 10, 40]
    assert convergence_order(counts, [7.0 * n**-2.5 for n in counts]) == pytest.approx(2.5, rel=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="dimension 2"):
        Exact1D(examples.ring(), AffineSchedule.vp())
    with pytest.raises(ValueError, match="prediction"):
        Exact1D(examples.gaussian(), AffineSchedule.vp(), "nois")
    with pytest.raises(ValueError, match="above t_end"):
        Problem(examples.gaussian(), AffineSchedule.vp(), t_start=0.2, t_end=0.4)
    for counts, errors in (([1], [1.0]), ([1, 2], [1.0]), ([1, 2], [1.0, 0.0]), ([1, 2], [1.0, float("nan")])):
        with pytest.raises(ValueError, match="counts"):
            convergence_order(counts, errors)
