"""Exponential Euler and Heun: orders, the identities that hold exactly, those that hold to O(h^3) only, refusals."""

import pytest
import torch
from problems import F64, KINDS, SCHEDULES, Problem, same

from mathcore.schedules import DiscreteSchedule
from mathcore.solvers import ddim, dpm_solver, dpm_solver_pp, euler, exponential_euler, exponential_heun, grids, heun
from mathcore.solvers.diagnostics import convergence_order

COUNTS = (30, 60, 120, 240)
everywhere = pytest.mark.parametrize("name", SCHEDULES)


pytestmark = pytest.mark.usefixtures("without_shape_checks")


def run(p, table):
    return table.run(p.model(table.prediction), p.x)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (exponential_euler, 1),
        (lambda *a: exponential_euler(*a, clock="lambda"), 1),
        (exponential_heun, 2),
        (lambda *a: exponential_heun(*a, scale="sigma"), 2),
        (lambda *a: exponential_heun(*a, scale="alpha"), 2),
    ],
)
def test_order(problem, method, order):
    errors = problem.errors(method, COUNTS)
    assert convergence_order(COUNTS, errors) == pytest.approx(order, abs=0.15), errors


@everywhere
def test_on_scaled_states_they_are_published_methods(name):
    p = Problem(name)
    times = p.grid(9, grids.uniform_t)
    same(run(p, exponential_heun(p.schedule, times, scale="sigma")), run(p, dpm_solver(p.schedule, times, order=2, kind="taylor", r1=1.0)))
    pp = dpm_solver_pp(p.schedule, times, order=2, multistep=False, kind="taylor", r1=1.0)
    same(run(p, exponential_heun(p.schedule, times, scale="alpha")), run(p, pp))
    for scale in ("sigma", "alpha"):
        same(run(p, exponential_euler(p.schedule, times, clock="lambda", scale=scale)), run(p, ddim(p.schedule, times)))


@everywhere
def test_the_printed_forms_are_methods_of_their_own(name):
    # one step of length h in lambda: the printed exponential Heun is O(h^3) from Algorithm 5 and the printed exponential Euler O(h^2) from DDIM
    p = Problem(name)
    schedule, middle = p.schedule, float(p.schedule.half_log_snr(p.t_start)) + 1.2

    def gaps(first, second):
        out = []
        for h in (0.4, 0.2, 0.1, 0.05):
            times = schedule.inverse_half_log_snr(torch.tensor([middle, middle + h], dtype=F64))
            out.append(float((run(p, first(times)) - run(p, second(times))).abs().max()))
        return convergence_order([1, 2, 4, 8], out)

    heun_gap = gaps(lambda t: exponential_heun(schedule, t), lambda t: dpm_solver(schedule, t, order=2))
    euler_gap = gaps(lambda t: exponential_euler(schedule, t, clock="lambda"), lambda t: ddim(schedule, t))
    assert heun_gap == pytest.approx(3, abs=0.25)
    assert euler_gap == pytest.approx(2, abs=0.25)


def test_without_a_linear_part_they_are_plain():
    p = Problem("edm")  # alpha = 1: f = 0 and L = 0
    times = p.grid(6, grids.uniform_t)
    same(run(p, exponential_euler(p.schedule, times)), run(p, euler(p.schedule, times)))
    same(run(p, exponential_heun(p.schedule, times)), run(p, heun(p.schedule, times, clock="lambda")))


@pytest.mark.parametrize("method", [exponential_euler, exponential_heun])
@pytest.mark.parametrize("kind", KINDS)
def test_the_four_predictions_are_one_method(method, kind):
    p = Problem("linear")
    times = p.grid(6)
    same(run(p, method(p.schedule, times, kind)), run(p, method(p.schedule, times)), 1e-11)


def test_cost_and_chain():
    chain = DiscreteSchedule.linear(100)
    times = grids.discrete(chain, 10)[:-1]
    assert exponential_heun(chain, times).nfe == 2 * exponential_euler(chain, times, clock="lambda").nfe == 18


def test_refusals(user_errors):
    p, chain = Problem("vp"), DiscreteSchedule.linear(100)
    times = p.grid(4)
    with pytest.raises(ValueError, match="clock must be one of"):
        exponential_euler(p.schedule, times, clock="rho")
    with pytest.raises(ValueError, match="scale must be one of"):
        exponential_heun(p.schedule, times, scale="x")
    with pytest.raises(ValueError, match="scale must be 'one'"):
        exponential_euler(p.schedule, times, scale="sigma")
    with pytest.raises(ValueError, match="finite half-log-SNR"):
        exponential_heun(p.schedule, grids.uniform_lambda(p.schedule, 4, to_clean=True))
    with pytest.raises(ValueError, match="finite half-log-SNR"):
        exponential_euler(p.schedule, grids.uniform_lambda(p.schedule, 4, to_clean=True), clock="lambda")
    with pytest.raises(ValueError, match="time derivative"):
        exponential_euler(chain, grids.discrete(chain, 10))
    with pytest.raises(TypeError, match="schedule must be"):
        exponential_heun("vp", times)
    with pytest.raises(ValueError, match="decrease strictly"):
        exponential_heun(p.schedule, times.flip(0))
