"""DEIS, DPM-Solver and DPM-Solver++: orders on every schedule, exact equivalences, costs, refusals."""

import mpmath
import pytest
import torch
from problems import F64, SCHEDULES, Problem, same

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ddim, deis, dpm_solver, dpm_solver_pp, edm_heun, grids
from mathcore.solvers.diagnostics import convergence_order, exact_variance, linear_model
from mathcore.solvers.exponential import phi

everywhere = pytest.mark.parametrize("name", SCHEDULES)
COUNTS = (40, 80, 160, 320)
ORDERS = {
    **{f"deis {o} {v}": (deis, o, {"variable": v, "start": "rk4"}) for o in (2, 3, 4) for v in ("t", "rho", "log_rho")},
    **{f"dpm {o}S {k}": (dpm_solver, o, {"kind": k}) for o in (2, 3) for k in ("midpoint", "taylor")},
    **{f"dpm {o}M {k}": (dpm_solver, o, {"kind": k, "multistep": True, "start": "rk4"}) for o in (2, 3) for k in ("midpoint", "taylor")},
    **{f"pp {o}S {k}": (dpm_solver_pp, o, {"kind": k, "multistep": False}) for o in (2, 3) for k in ("midpoint", "taylor")},
    **{f"pp {o}M {k}": (dpm_solver_pp, o, {"kind": k, "start": "rk4"}) for o in (2, 3) for k in ("midpoint", "taylor")},
}


pytestmark = pytest.mark.usefixtures("without_shape_checks")


def uneven(p, n=12):
    """A grid that is uniform in nothing."""
    u = torch.linspace(0, 1, n + 1, dtype=F64)
    lam = -2.0 + 3.5 * (u + 0.06 * torch.sin(7 * u) * u * (1 - u))
    t = p.schedule.inverse_half_log_snr(lam)
    t[0], t[-1] = p.t_start, p.t_end
    return t


@pytest.mark.parametrize("label", ORDERS)
def test_order(problem, label):
    method, order, options = ORDERS[label]
    counts = COUNTS if order < 4 else [2 * n for n in COUNTS]  # four old outputs reach further back: the slope settles later
    errors = problem.errors(lambda *a: method(*a, order=order, **options), counts)
    assert convergence_order(counts, errors) == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize(("method", "order"), [(deis, 4), (dpm_solver_pp, 3)])
def test_slope_holds_down_to_1e_10(method, order):
    counts = (200, 400, 800) if order == 3 else (100, 200, 400, 800)
    options = {"start": "rk4"} | ({"variable": "log_rho"} if method is deis else {})
    errors = Problem("vp").errors(lambda *a: method(*a, order=order, **options), counts)
    assert convergence_order(counts[-2:], errors[-2:]) == pytest.approx(order, abs=0.15), errors
    assert errors[-1] < (1e-10 if order == 4 else 1e-8), errors


@pytest.mark.parametrize(("method", "options"), [(deis, {}), (deis, {"order": 4}), (dpm_solver_pp, {"order": 3})])
def test_a_ramp_costs_the_order_where_the_outputs_change(method, options):
    # from the middle of the schedule: a one-time error O(h^2); the Runge-Kutta start restores the order (test above)
    counts = (160, 320, 640)
    errors = Problem("vp").errors(lambda *a: method(*a, variable="log_rho", **options) if method is deis else method(*a, **options), counts)
    assert convergence_order(counts, errors) == pytest.approx(2, abs=0.15), errors


# --- equivalences -------------------------------------------------------------------------------------------------------------------------


@everywhere
def test_order_1_is_ddim(name):
    p = Problem(name)
    times = uneven(p)
    want = ddim(p.schedule, times).run(p.model(), p.x)
    for table in (
        *(deis(p.schedule, times, order=1, variable=v) for v in ("t", "rho", "log_rho")),
        *(f(p.schedule, times, order=1, multistep=m) for f in (dpm_solver, dpm_solver_pp) for m in (True, False)),
    ):
        same(table.run(p.model(), p.x), want)


@everywhere
def test_midpoint_with_r1_at_the_end_is_heun_in_the_noise_to_signal_ratio(name):
    p = Problem(name)
    times = uneven(p)
    same(dpm_solver(p.schedule, times, r1=1.0).run(p.model(), p.x), edm_heun(p.schedule, times).run(p.model(), p.x))


@everywhere
@pytest.mark.parametrize("order", [2, 3])
def test_multistep_on_the_noise_is_deis_in_lambda(name, order):
    p = Problem(name)
    times = uneven(p)
    same(
        dpm_solver(p.schedule, times, order=order, multistep=True, kind="taylor").run(p.model(), p.x),
        deis(p.schedule, times, order=order, variable="log_rho").run(p.model(), p.x),
    )


@everywhere
def test_multistep_on_the_data_is_algorithm_7(name):
    p = Problem(name)
    times = uneven(p)
    a, s, lam = (getattr(p.schedule, f)(times) for f in ("alpha", "sigma", "half_log_snr"))
    x, model, old = p.x, p.model("clean"), None
    exact_x, exact_old = p.x, None
    for i in range(1, 13):
        h = lam[i] - lam[i - 1]
        m, exact_m = model(x, times[i - 1].item()), model(exact_x, times[i - 1].item())
        d, exact_d = m, exact_m
        if old is not None:
            before = lam[i - 1] - lam[i - 2]
            d = m + h / before / 2 * (m - old)
            exact_d = exact_m + (h - 1 + torch.exp(-h)) / (1 - torch.exp(-h)) / before * (exact_m - exact_old)
        x = s[i] / s[i - 1] * x + a[i] * (1 - torch.exp(-h)) * d
        exact_x = s[i] / s[i - 1] * exact_x + a[i] * (1 - torch.exp(-h)) * exact_d
        old, exact_old = m, exact_m
    same(dpm_solver_pp(p.schedule, times, "clean").run(model, p.x), x)
    same(dpm_solver_pp(p.schedule, times, "clean", kind="taylor").run(model, p.x), exact_x)


@everywhere
def test_third_order_multistep_has_the_factor_2(name):
    # the usual form with differences of outputs, on a grid that is uniform in nothing; without the factor it is another method
    p = Problem(name)
    times = uneven(p, 5)
    lam = p.schedule.half_log_snr(times)
    step = dpm_solver_pp(p.schedule, times, "clean", order=3).steps[4]
    h, before, first = lam[5] - lam[4], lam[4] - lam[3], lam[3] - lam[2]
    r0, r1 = before / h, first / h
    e = torch.expm1(-h)
    a = p.schedule.alpha(times[5])

    def update(m, factor):
        d0, d1 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
        slope_, second = d0 + r0 / (r0 + r1) * (d0 - d1), factor * (d0 - d1) / (r0 + r1)
        return -a * e * m[0] + a * (e / h + 1) * slope_ - a * ((e + h) / h**2 - 0.5) * second

    units = torch.eye(3, dtype=F64)
    got = torch.tensor([step.outputs[4], step.outputs[3], step.outputs[2]], dtype=F64)
    same(got, torch.stack([update(u, 2.0) for u in units]), 1e-11)
    assert float((got - torch.stack([update(u, 1.0) for u in units])).abs().max()) > 1e-4


@everywhere
def test_stochastic_order_1_is_ddim_with_eta_1(name):
    p = Problem(name)
    times = uneven(p)
    z = torch.randn(12, 4, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    runs = [
        t.run(p.model(), p.x, noise=lambda k: z[k])
        for t in (ddim(p.schedule, times, eta=1.0), dpm_solver_pp(p.schedule, times, order=1, sde=True))
    ]
    same(*runs)


@pytest.mark.parametrize(
    ("order", "kind", "reference"), [(1, "midpoint", (-0.205, -0.111, -0.058)), (2, "midpoint", (1.8e-2, 4.7e-3, 1.2e-3))]
)
def test_variance_of_the_stochastic_methods(order, kind, reference):
    # known values for N(0, 1/4) on the linear-beta schedule, 40, 80, 160 equal steps in lambda from 1 to 0.001, given to two or three digits
    schedule, errors = AffineSchedule.vp(), []
    for n in (40, 80, 160):
        table = dpm_solver_pp(schedule, grids.uniform_lambda(schedule, n), order=order, kind=kind, sde=True)
        start, end = (float(schedule.alpha(t)) ** 2 / 4 + float(schedule.sigma(t)) ** 2 for t in (1.0, 1e-3))
        errors.append(exact_variance(table, linear_model(schedule, 0.5), start) / end - 1)
    assert errors == pytest.approx(reference, rel=0.05)


# --- cost, ends, refusals -------------------------------------------------------------------------------------------------------------------


def test_cost_and_history():
    p = Problem("vp")
    times = p.grid(12)
    for order in (1, 2, 3):
        assert dpm_solver(p.schedule, times, order=order).nfe == 12 * order
        assert dpm_solver_pp(p.schedule, times, order=order).nfe == 12
        assert deis(p.schedule, times, order=order).nfe == 12
        assert deis(p.schedule, times, order=order, start="rk4").nfe == 12 + 3 * (order - 1)
        # the state, its successor and `order` outputs, whatever the number of steps; the model is asked for what the method steps with
        assert dpm_solver_pp(p.schedule, times, "clean", order=order).history == 2 + order
        assert dpm_solver_pp(p.schedule, p.grid(40), "clean", order=order).history == 2 + order


def test_multistep_on_the_data_may_end_at_the_data():
    schedule = AffineSchedule.vp()
    for order in (1, 2, 3):
        step = dpm_solver_pp(schedule, grids.uniform_lambda(schedule, 8, to_clean=True), "clean", order=order).steps[-1]
        assert (dict(step.states), dict(step.outputs), step.t_next) == ({}, {7: 1.0}, 0.0)
    stochastic = dpm_solver_pp(schedule, grids.uniform_lambda(schedule, 8, to_clean=True), "clean", sde=True).steps[-1]
    assert (dict(stochastic.outputs), stochastic.noise) == ({7: 1.0}, 0.0)


def test_multistep_on_a_chain():
    chain = DiscreteSchedule.linear(100)
    index = grids.discrete(chain, 10)
    assert dpm_solver_pp(chain, index).nfe == 10
    assert deis(chain, index[:-1], variable="log_rho").nfe == 9
    for call in (
        lambda: dpm_solver(chain, index[:-1]),
        lambda: deis(chain, index[:-1], variable="t"),
        lambda: deis(chain, index[:-1], variable="rho", start="rk4"),
    ):
        with pytest.raises(ValueError, match="DiscreteSchedule"):
            call()


@pytest.mark.parametrize("m", [1, 2, 3])
def test_phi_keeps_its_digits(m):
    for z in (-20.0, -1.001, -0.999, -1e-3, -1e-8, 0.0, 1e-8, 1e-3, 0.3, 0.999, 1.001, 20.0):
        mpmath.mp.dps = 40
        exact = (
            mpmath.mpf(1) / mpmath.factorial(m)
            if z == 0
            else (mpmath.exp(z) - sum(mpmath.mpf(z) ** j / mpmath.factorial(j) for j in range(m))) / mpmath.mpf(z) ** m
        )
        assert phi(m, z) == pytest.approx(float(exact), rel=5e-14)


@pytest.mark.usefixtures("user_errors")
def test_refusals():
    vp = AffineSchedule.vp()
    times = grids.uniform_lambda(vp, 2)
    open_end = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=F64)
    for call, message in [
        (lambda: deis(vp, times, order=0), "order must be"),
        (lambda: deis(vp, times, order=5), "order must be"),
        (lambda: deis(vp, times, order=3), "at least 3 steps"),
        (lambda: deis(vp, times, order=2, variable="lambda"), "variable must be one of"),
        (lambda: deis(vp, times, order=2, start="exact"), "start must be one of"),
        (lambda: deis(vp, open_end), "finite half-log-SNR"),
        (lambda: dpm_solver(vp, open_end), "finite half-log-SNR"),
        (lambda: dpm_solver(vp, times, order=4), "order must be"),
        (lambda: dpm_solver(vp, times, kind="heun"), "kind must be one of"),
        (lambda: dpm_solver(vp, times, r1=0.0), "r1"),
        (lambda: dpm_solver(vp, times, order=3, r1=0.7), "r1 < r2"),
        (lambda: dpm_solver(vp, times, order=3, multistep=True), "at least 3 steps"),
        (lambda: dpm_solver_pp(vp, times, order=3), "at least 3 steps"),
        (lambda: dpm_solver_pp(vp, times, order=3, sde=True), "order 1 or 2"),
        (lambda: dpm_solver_pp(vp, times, multistep=False, sde=True), "multistep"),
        (lambda: dpm_solver_pp(vp, torch.tensor([0.2, 0.5])), "decrease"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
