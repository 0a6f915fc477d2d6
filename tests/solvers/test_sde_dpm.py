"""The stochastic DPM-Solver and DPM-Solver++: rows against the exact solution of the reverse SDE, the variance they make, identities, refusals."""

import pytest
import sympy as sp
import torch
from problems import F64, SCHEDULES, Problem

from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ddim, dpm_solver, dpm_solver_pp, grids
from mathcore.solvers.diagnostics import convergence_order, exact_variance, linear_model
from mathcore.symbolic import solvers as ss

METHODS = {"noise": dpm_solver, "clean": dpm_solver_pp}
forms = pytest.mark.parametrize("form", METHODS)
kinds = pytest.mark.parametrize("kind", ["midpoint", "taylor"])


def make(form, *args, **options):
    return METHODS[form](*args, multistep=True, sde=True, **options)


# --- rows ---------------------------------------------------------------------------------------------------------------------------------


def exact_step(form):
    """Over a step from lambda_s to lambda_s + h: weights of x_s, of an output c_0 + c_1 (lambda - lambda_s), and the variance of the noise.

    The reverse SDE dx = [f x - g^2 score] dt + g dw is linear in x once the output is a known polynomial, so its solution is a propagator, an integral
    against the polynomial, and a Gaussian whose variance is the integral of a square (Ito's isometry). All three are taken in half-log-SNR, with f and
    g^2 from `drift_and_diffusion`.
    """
    lam, start, h = ss.lam, sp.Symbol("lambda_s", real=True), ss.h
    alpha, sigma, f, g2 = ss.drift_and_diffusion()
    rate = sp.diff(sp.log(alpha / sigma), ss.tau)  # d lambda / dt
    assert sp.simplify(f - sp.diff(sp.log(alpha), ss.tau)) == 0
    scale = sp.Function("a", positive=True)  # alpha as a function of lambda; sigma = alpha e^{-lambda}
    sigma_of = scale(lam) * sp.exp(-lam)
    per_state = sp.diff(sp.log(scale(lam)), lam)  # f dt / d lambda
    per_noise = sp.simplify(g2 / rate / sigma**2) * sigma_of  # -g^2 score dt / d lambda with score = -noise / sigma
    weight = per_noise
    if form == "clean":  # noise = (x - alpha clean) / sigma
        per_state, weight = per_state + per_noise / sigma_of, -per_noise / sigma_of * scale(lam)
    diffusion2 = sp.simplify(-g2 / rate / sigma**2) * sigma_of**2  # g^2 |dt / d lambda|
    # propagator from lambda to the end: the part of alpha in closed form, the rest of per_state is a number
    rest = sp.simplify(per_state - sp.diff(sp.log(scale(lam)), lam))
    assert rest.is_number
    propagator = scale(start + h) / scale(lam) * sp.exp(rest * (start + h - lam))

    def integral(e):
        return sp.integrate(sp.expand(sp.simplify(e)), (lam, start, start + h))

    moments = [integral(propagator * weight * (lam - start) ** k) for k in (0, 1)]
    return propagator.subs(lam, start), *moments, integral(propagator**2 * diffusion2), (scale, start)


@pytest.fixture(scope="module")
def solutions():
    return {form: exact_step(form) for form in METHODS}


@pytest.mark.parametrize("name", ["vp", "cosine", "ve", "edm", "linear", "trig"])
@forms
@kinds
def test_rows(solutions, name, form, kind):
    times = {"2": 0.61, "1": 0.37, "0": 0.2}
    at = ss.at(name, times)
    lam, alpha = ({k: sp.N(getattr(ss.scales(k), w).subs(at), 40) for k in times} for w in ("lam", "alpha"))
    h, before = lam["0"] - lam["1"], lam["1"] - lam["2"]
    linear, constant, slope, variance, (scale, start) = solutions[form]

    def number(e):
        ends = {scale(start + ss.h): alpha["0"], scale(start): alpha["1"]}
        return sp.N(sp.sympify(e).subs(ends).subs({start: lam["1"], ss.h: h}), 40)

    a, b0, b1 = number(linear), number(constant), number(slope)
    if kind == "midpoint":  # the slope enters by the value half-way
        b1 = b0 * h / 2
    want = {1: b0 + b1 / before, 0: -b1 / before}  # the line through the last two outputs
    step = make(form, SCHEDULES[name], torch.tensor(list(times.values()), dtype=F64), form, kind=kind).steps[1]
    got = [step.states[1], step.outputs[1], step.outputs[0], step.noise]
    expected = [float(e) for e in (a, want[1], want[0], sp.sqrt(number(variance)))]
    assert got == pytest.approx(expected, rel=1e-11, abs=1e-12)  # differences of exponentials, 1e5 roundings
    first = make(form, SCHEDULES[name], torch.tensor([0.37, 0.2], dtype=F64), form, order=1).steps[0]
    assert [first.states[0], first.outputs[0], first.noise] == pytest.approx([expected[0], float(b0), expected[3]], rel=1e-11)


# --- the variance they make, exactly, for Gaussian data ---------------------------------------------------------------------------------


def variance_errors(method, schedule, counts, t_start=None, t_end=None, data_std=0.5):
    errors = []
    for n in counts:
        times = grids.uniform_lambda(schedule, n, t_start=t_start, t_end=t_end)
        start, end = (float(schedule.alpha(t)) ** 2 * data_std**2 + float(schedule.sigma(t)) ** 2 for t in (times[0], times[-1]))
        errors.append(exact_variance(method(schedule, times), linear_model(schedule, data_std), start) / end - 1)
    return errors


@pytest.mark.parametrize(
    ("form", "order", "kind", "reference"),
    [
        ("clean", 1, "midpoint", (-0.205, -0.111, -0.058, -0.029)),
        ("clean", 2, "midpoint", (1.8e-2, 4.7e-3, 1.2e-3, 3.0e-4)),
        ("clean", 2, "taylor", (4.2e-2, None, None, 6.0e-4)),
        ("noise", 2, "midpoint", (-9.1e-3, None, None, -1.5e-4)),
    ],
)
def test_known_variances(form, order, kind, reference):
    # N(0, 1/4) on the linear-beta schedule, 40, 80, 160, 320 equal steps in lambda from 1 to 0.001, given to two or three digits
    errors = variance_errors(lambda *a: make(form, *a, order=order, kind=kind), AffineSchedule.vp(), (40, 80, 160, 320), 1.0, 1e-3)
    for got, want in zip(errors, reference, strict=True):
        assert want is None or got == pytest.approx(want, rel=0.05), errors


@pytest.mark.parametrize("name", SCHEDULES)
@forms
@pytest.mark.parametrize(("order", "kind"), [(1, "midpoint"), (2, "midpoint"), (2, "taylor")])
def test_weak_order_for_gaussian_data(name, form, order, kind):
    p = Problem(name, low=-1.0, high=1.0)
    counts = (80, 160, 320)
    errors = variance_errors(lambda *a: make(form, *a, order=order, kind=kind), p.schedule, counts, p.t_start, p.t_end)
    assert convergence_order(counts, [abs(e) for e in errors]) == pytest.approx(order, abs=0.15), errors


def test_order_1_on_the_noise_looks_like_order_2_between_the_ends():
    # errors of the two halves of the full range cancel to leading order; on a part of it the order shows
    counts = (80, 160, 320)
    for ends, order in (((1.0, 1e-3), 2), ((0.6, 0.1), 1)):
        errors = variance_errors(lambda *a: make("noise", *a, order=1), AffineSchedule.vp(), counts, *ends)
        assert convergence_order(counts, [abs(e) for e in errors]) == pytest.approx(order, abs=0.15), errors


# --- identities and ends ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_order_1_on_the_data_is_ddim_with_eta_1_and_on_the_noise_is_not(name):
    p = Problem(name)
    times = grids.uniform_t(p.schedule, 12, t_start=p.t_start, t_end=p.t_end)
    z = torch.randn(12, 4, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    want = ddim(p.schedule, times, eta=1.0).run(p.model(), p.x, noise=lambda k: z[k])
    data, noise = (make(form, p.schedule, times, order=1).run(p.model(), p.x, noise=lambda k: z[k]) for form in ("clean", "noise"))
    torch.testing.assert_close(data, want, rtol=1e-12, atol=1e-12)
    assert float((noise - want).abs().max()) > 1e-2


@forms
@pytest.mark.parametrize("prediction", ["clean", "score", "velocity"])
def test_predictions_are_one_method(form, prediction):
    p = Problem("vp")
    z = torch.randn(12, 4, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    runs = [make(form, p.schedule, p.grid(12), kind).run(p.model(kind), p.x, noise=lambda k: z[k]) for kind in ("noise", prediction)]
    torch.testing.assert_close(*runs, rtol=1e-11, atol=1e-11)


@forms
def test_on_a_chain(form):
    chain = DiscreteSchedule.linear(100)
    table = make(form, chain, grids.discrete(chain, 10)[:-1])
    assert table.nfe == 9
    assert table.stochastic


@pytest.mark.usefixtures("user_errors")
def test_refusals():
    vp = AffineSchedule.vp()
    times, to_clean = grids.uniform_lambda(vp, 4), grids.uniform_lambda(vp, 4, to_clean=True)
    for call, message in [
        (lambda: dpm_solver(vp, times, sde=True), "multistep=False"),
        (lambda: dpm_solver(vp, times, order=3, multistep=True, sde=True), "order 1 or 2"),
        (lambda: dpm_solver(vp, times, multistep=True, sde=True, start="rk4"), "start='rk4'"),
        (lambda: dpm_solver(vp, times, multistep=True, sde=True, kind="heun"), "kind must be one of"),
        (lambda: dpm_solver(vp, to_clean, multistep=True, sde=True), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
