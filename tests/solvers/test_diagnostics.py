"""Problems with exact answers, against the oracle and an adaptive integrator; orders; call counts; refusals."""

import pytest
import torch
from scipy.integrate import solve_ivp

from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ancestral, ddim, dpm_solver, dpm_solver_pp, grids
from mathcore.solvers.diagnostics import CallCounter, Exact1D, Problem, convergence_order, output_weights


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


def test_output_weights_rebuild_a_run():
    schedule = AffineSchedule.vp()
    p = Problem(examples.solver_mixture(), schedule)
    for table in (
        ddim(schedule, p.grid(5), "clean"),
        dpm_solver(schedule, p.grid(3), "clean", order=3),
        dpm_solver_pp(schedule, p.grid(6), "clean", order=3),
        ancestral(schedule, p.grid(4), "clean"),
    ):
        start, weights = output_weights(table)
        outputs = []
        model = p.model("clean")
        silent = lambda k: torch.zeros_like(p.x_T)  # noqa: E731
        end = table.run(lambda x, t, model=model, outputs=outputs: outputs.append(model(x, t)) or outputs[-1], p.x_T, noise=silent)
        rebuilt = start * p.x_T + sum(w * m for w, m in zip(weights, outputs, strict=True))
        torch.testing.assert_close(end, rebuilt, rtol=1e-10, atol=1e-11)  # states reach 100 and cancel


def test_output_weights_of_one_ddim_step():
    schedule, times = AffineSchedule.linear(), torch.tensor([0.75, 0.25], dtype=torch.float64)
    start, weights = output_weights(ddim(schedule, times, "clean"))
    # sigma_t / sigma_s = 1/3 of the state, and what the clean point lacks: 0.75 - 0.25 / 3
    assert start == pytest.approx(1 / 3, rel=1e-14)
    assert weights.tolist() == pytest.approx([2 / 3], rel=1e-14)


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
