"""Measured convergence orders against the exact flow of a mixture, on every schedule, and that no error curve stalls."""

import pytest
import torch
from problems import KINDS, SCHEDULES, Problem

from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ancestral, ddim, edm_heun, euler, euler_maruyama, grids, heun, rk4
from mathcore.solvers.diagnostics import Exact1D, convergence_order, exact_variance, linear_model

COUNTS = (30, 60, 120, 240)
METHODS = {
    "ddim": (ddim, 1),
    "euler t": (euler, 1),
    "euler lambda": (lambda *a: euler(*a, clock="lambda"), 1),
    "euler lambda sigma": (lambda *a: euler(*a, clock="lambda", scale="sigma"), 1),
    "heun t": (heun, 2),
    "heun lambda": (lambda *a: heun(*a, clock="lambda"), 2),
    "heun rho": (lambda *a: heun(*a, clock="rho"), 2),
    "heun t alpha": (lambda *a: heun(*a, clock="t", scale="alpha"), 2),
    "heun lambda sigma": (lambda *a: heun(*a, clock="lambda", scale="sigma"), 2),
    "edm": (edm_heun, 2),
}


pytestmark = pytest.mark.usefixtures("without_shape_checks")


def test_the_test_model_is_the_oracle():
    # two independent routes to the same posterior: agreement to rounding, amplified by 1 / sigma and the time derivatives
    for schedule in SCHEDULES.values():
        oracle = AffineGaussianOracle(Problem("vp").mixture, schedule)
        t = schedule.t_max * 0.4
        x = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
        for kind in KINDS:
            torch.testing.assert_close(
                Exact1D(Problem("vp").mixture, schedule, kind)(x, t), getattr(oracle, kind)(x, t), rtol=1e-10, atol=1e-11
            )


@pytest.mark.parametrize("name", METHODS)
def test_order(problem, name):
    method, order = METHODS[name]
    errors = problem.errors(method, COUNTS)
    assert convergence_order(COUNTS, errors) == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize(
    ("clock", "scale", "counts"), [("t", "one", COUNTS), ("lambda", "sigma", COUNTS), ("rho", "alpha", (60, 120, 240, 480))]
)
def test_runge_kutta_4_keeps_its_slope_to_1e_10(problem, clock, scale, counts):
    errors = problem.errors(lambda *a: rk4(*a, clock=clock, scale=scale), counts)
    assert convergence_order(counts, errors) == pytest.approx(4, abs=0.15), errors
    # rounding, 480 steps of 4 stages at 1e-16 each, leaves the last error untouched
    assert convergence_order(counts[-2:], errors[-2:]) == pytest.approx(4, abs=0.15), errors
    assert errors[-1] < (1e-10 if counts[-1] == 480 else 2e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", [grids.uniform_t, grids.quadratic_t, grids.karras, grids.exponential])
def test_order_on_other_grids_and_predictions(kind, spacing):
    for name in ("vp", "linear"):
        problem = Problem(name)
        for method, order in ((ddim, 1), (heun, 2)):
            errors = problem.errors(method, COUNTS, kind, spacing)
            assert convergence_order(COUNTS, errors) == pytest.approx(order, abs=0.15), (name, errors)


def test_no_method_leaves_the_domain_of_its_grid(problem):
    times = problem.grid(5)
    for method in (*(m for m, _ in METHODS.values()), rk4):
        table, model = method(problem.schedule, times, "noise"), problem.model()
        table.run(model, problem.x)
        assert min(model.times) >= float(times[-1])
        assert max(model.times) <= float(times[0])
        assert model.calls == table.nfe


# --- stochastic methods: the law they make, exactly, for Gaussian data -----------------------------------------------------------------


def variance_errors(method, schedule, t_start, t_end, counts, data_std=0.5, spacing=grids.uniform_t):
    model = linear_model(schedule, data_std)

    def true(t):
        return float(schedule.alpha(t)) ** 2 * data_std**2 + float(schedule.sigma(t)) ** 2

    out = []
    for n in counts:
        table = method(schedule, spacing(schedule, n, t_start=t_start, t_end=t_end))
        out.append(exact_variance(table, model, true(t_start)) / true(t_end) - 1)
    return out


@pytest.mark.parametrize("level", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", ["vp", "ve", "edm", "linear", "cosine", "trig"])
def test_euler_maruyama_is_weakly_of_order_1(name, level):
    p = Problem(name, low=-1.0, high=1.0)
    counts = (30, 60, 120, 240)
    errors = variance_errors(
        lambda s, t: euler_maruyama(s, t, noise_level=level), p.schedule, p.t_start, p.t_end, counts, spacing=grids.uniform_lambda
    )
    assert convergence_order(counts, [abs(e) for e in errors]) == pytest.approx(1, abs=0.15), errors


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_sampling_is_of_order_1_in_law(name, variance):
    p = Problem(name, low=-1.0, high=1.0)
    counts = (30, 60, 120, 240)
    errors = variance_errors(
        lambda s, t: ancestral(s, t, variance=variance), p.schedule, p.t_start, p.t_end, counts, spacing=grids.uniform_lambda
    )
    assert convergence_order(counts, [abs(e) for e in errors]) == pytest.approx(1, abs=0.15), errors


@pytest.mark.parametrize(
    ("eta", "reference"),
    [(0.0, (-0.44, -0.25, -0.13, -0.068)), (0.5, (-0.46, -0.27, -0.16, -0.085)), (1.0, (-0.56, -0.39, -0.25, -0.15))],
)
def test_variance_lost_by_ddim(eta, reference):
    # known values for N(0, 1/4) on the linear-beta schedule with 10, 20, 40, 80 equal steps from 1 to 0.001, given to two digits
    errors = variance_errors(lambda s, t: ddim(s, t, eta=eta), AffineSchedule.vp(), 1.0, 1e-3, (10, 20, 40, 80))
    assert errors == pytest.approx(reference, abs=6e-3)


@pytest.mark.parametrize(
    ("churn", "reference"),
    [(0.0, (0.114, 0.025, 5.8e-3, 1.4e-3)), (5.0, (0.215, 0.046, 0.011, 2.6e-3)), (40.0, (0.264, 0.087, 0.036, 0.012))],
)
def test_variance_error_of_edm_with_churn(churn, reference):
    # known values for N(0, 1/4), rho = 7 nodes between 80 and 0.002 and a last step to 0, with N = 18, 36, 72, 144 steps, given to two digits
    schedule, errors = AffineSchedule.edm(t_max=120.0), []
    for n in (18, 36, 72, 144):
        times = grids.karras(schedule, n, t_start=80.0, t_end=0.002, to_clean=True)
        table = edm_heun(schedule, times, s_churn=churn)
        assert table.nfe == 2 * n - 1
        errors.append(exact_variance(table, linear_model(schedule, 0.5), 80.0**2 + 0.25) / 0.25 - 1)
    assert [abs(e) for e in errors] == pytest.approx(reference, rel=0.05)
