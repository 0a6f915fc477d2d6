"""UniPC: orders on every schedule, every row against the published predictor and corrector, identities, exactness, cost, refusals."""

import itertools
import math

import mpmath
import pytest
import scipy.integrate
import sympy as sp
import torch
from problems import F64, KINDS, MIXTURE, SCHEDULES, Problem

from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ddim, diagnostics, dpm_solver, dpm_solver_pp, grids, unipc
from mathcore.solvers.diagnostics import convergence_order
from mathcore.symbolic import solvers as ss

everywhere = pytest.mark.parametrize("name", SCHEDULES)
forms = pytest.mark.parametrize("form", ["clean", "noise"])
correctors = pytest.mark.parametrize("corrector", [True, False])


pytestmark = pytest.mark.usefixtures("without_shape_checks")


def same(got, want, tol=1e-12):
    # states of size 1 to 100 and tens of steps: 1e-12 is some hundreds of roundings
    torch.testing.assert_close(got, want, rtol=tol, atol=tol)


def uneven(p, n=12):
    """A grid that is uniform in nothing."""
    u = torch.linspace(0, 1, n + 1, dtype=F64)
    t = p.schedule.inverse_half_log_snr(-2.0 + 3.5 * (u + 0.06 * torch.sin(7 * u) * u * (1 - u)))
    t[0], t[-1] = p.t_start, p.t_end
    return t


# --- orders ---------------------------------------------------------------------------------------------------------------------------


@everywhere
@forms
@correctors
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_from_the_middle(name, form, corrector, order):
    expected = order + corrector
    counts = (40, 80, 160, 320) if expected < 4 else (80, 160, 320, 640)
    options = {"order": order, "form": form, "corrector": corrector, "start": "rk4"}
    errors = Problem(name).errors(lambda *a: unipc(*a, **options), counts, form)
    assert convergence_order(counts, errors) == pytest.approx(expected, abs=0.15), errors


@everywhere
def test_order_from_noise(name):
    # with the ramp: where the outputs hardly change at the start it costs nothing; order 4 settles late, from pure noise
    p = diagnostics.Problem(MIXTURE, SCHEDULES[name])
    for order, tol in ((1, 0.15), (2, 0.15), (3, 0.3)):
        counts = (40, 80, 160, 320) if order < 3 else (160, 320, 640)
        errors = p.errors(lambda t, order=order: unipc(p.schedule, t, "clean", order=order, variant="bh1"), counts)
        assert convergence_order(counts, errors) == pytest.approx(order + 1, abs=tol), (order, errors)


@pytest.mark.parametrize(("order", "corrector", "expected"), [(3, False, 2), (1, True, 2), (2, True, 3), (3, True, 3)])
def test_the_ramp_costs_order_3_one_order_from_the_middle(order, corrector, expected):
    counts = (320, 640, 1280)
    errors = Problem("vp").errors(lambda *a: unipc(*a, order=order, form="noise", corrector=corrector), counts)
    assert convergence_order(counts, errors) == pytest.approx(expected, abs=0.15), errors


def test_slope_holds_down_to_1e_10():
    counts = (160, 320, 640)
    errors = Problem("vp").errors(lambda *a: unipc(*a, order=3, start="rk4"), counts, "clean")
    assert convergence_order(counts[-2:], errors[-2:]) == pytest.approx(4, abs=0.15), errors
    assert errors[-1] < 1e-10


# --- the published method, solved to 40 digits ------------------------------------------------------------------------------------------

TIMES = (0.93, 0.71, 0.52, 0.3, 0.13)


def published(name, form, order, variant, corrector, solved):
    """The predicted states as coefficients of (x_0, m_0, m_1, m_2, m_3), by the two linear systems of Zhao et al. (2023), Algorithm 1 or 2."""
    mpmath.mp.dps = 40
    at = ss.at(name, dict(zip("abcde", TIMES, strict=True)))

    def number(expr):
        return mpmath.mpf(str(sp.N(sp.sympify(expr).subs(at), 40)))

    nodes = [ss.scales(label) for label in "abcde"]
    alpha, sigma, lam = ([number(getattr(n, w)) for n in nodes] for w in ("alpha", "sigma", "lam"))
    zeros = [mpmath.mpf(0)] * 5

    def unit(k):
        return [*zeros[:k], mpmath.mpf(1), *zeros[k + 1 :]]

    def combine(*terms):
        return [sum(c * v[k] for c, v in terms) for k in range(5)]

    def update(i, x, points):
        """From t_i to t_{i+1}; points: the outputs used besides m_i, as (half-log-SNR, coefficients)."""
        h = lam[i + 1] - lam[i]
        z, c = (h, sigma[i + 1]) if form == "noise" else (-h, alpha[i + 1])
        linear = alpha[i + 1] / alpha[i] if form == "noise" else sigma[i + 1] / sigma[i]
        m = unit(i + 1)
        B = z if variant == "bh1" else mpmath.expm1(z)
        new = combine((linear, x), (-c * mpmath.expm1(z), m))
        if not points:
            return new
        r = [(where - lam[i]) / h for where, _ in points]
        right = [sp.factorial(k) * sp.Float(str(z), 40) * ss.phi(k + 1, sp.Float(str(z), 40)) for k in range(1, len(r) + 1)]
        rows = mpmath.matrix([[rj**k for rj in r] for k in range(len(r))])
        weights = mpmath.lu_solve(rows, mpmath.matrix([mpmath.mpf(str(b)) / B for b in right]))
        if len(points) == 1 and not solved:
            weights = [mpmath.mpf("0.5")]
        return combine((1, new), *((-c * B * w / rj, combine((1, v), (-1, m))) for w, rj, (_, v) in zip(weights, r, points, strict=True)))

    x, states = unit(0), []
    for i in range(4):
        past = [(lam[j], unit(j + 1)) for j in range(i - 1, max(i - order, -1), -1)]
        states.append(update(i, x, past))
        x = update(i, x, [*past, (lam[i + 1], unit(i + 2))]) if corrector and i < 3 else states[-1]
    return states


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n in ss.schedules()])
@forms
def test_rows(name, form):
    for order, variant, corrector, solved in itertools.product((1, 2, 3), ("bh1", "bh2"), (True, False), (False, True)):
        options = {"order": order, "variant": variant, "form": form, "corrector": corrector, "solved": solved}
        table = unipc(SCHEDULES[name], torch.tensor(TIMES, dtype=F64), form, **options)
        # the coefficients of a run, from a run: sample 0 carries the start and sample k + 1 the output of step k
        outputs, got = iter(torch.eye(5, dtype=F64)[1:, :, None]), []
        table.run(
            lambda x, t, outputs=outputs: next(outputs), torch.eye(5, dtype=F64)[0, :, None], callback=lambda k, x, got=got: got.append(x)
        )
        want = torch.tensor([[float(c) for c in state] for state in published(name, **options)], dtype=F64)
        torch.testing.assert_close(torch.stack(got)[..., 0], want, rtol=1e-11, atol=1e-12)


# --- identities ---------------------------------------------------------------------------------------------------------------------------


@everywhere
@forms
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_predictors_are_ddim_and_the_multistep_methods(name, form, variant):
    p = Problem(name)
    times = uneven(p)
    multistep = dpm_solver if form == "noise" else dpm_solver_pp

    def run(**options):
        return unipc(p.schedule, times, variant=variant, form=form, corrector=False, **options).run(p.model(), p.x)

    same(run(order=1), ddim(p.schedule, times).run(p.model(), p.x))
    for order in (2, 3):
        same(run(order=order, solved=True), multistep(p.schedule, times, order=order, multistep=True, kind="taylor").run(p.model(), p.x))
    algorithm_7 = multistep(p.schedule, times, multistep=True, kind="midpoint").run(p.model(), p.x)
    gap = float((run(order=2) - algorithm_7).abs().max())
    assert gap < 1e-12 if variant == "bh2" else gap > 1e-5


@everywhere
def test_the_variants_differ_in_the_halved_systems_only(name):
    p = Problem(name)
    times = uneven(p)
    for order in (1, 2, 3):
        solved = [unipc(p.schedule, times, order=order, variant=v, solved=True).run(p.model(), p.x) for v in ("bh1", "bh2")]
        same(*solved)
        halved = [unipc(p.schedule, times, order=order, variant=v).run(p.model(), p.x) for v in ("bh1", "bh2")]
        assert float((halved[0] - halved[1]).abs().max()) > 1e-7


@everywhere
@forms
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_polynomials_of_the_outputs_are_integrated_exactly(name, form, degree):
    # outputs lam^degree whatever the state: the exact solution from state 0 is one integral per node
    p = Problem(name)
    times = uneven(p, 6)
    lam = p.schedule.half_log_snr(times)
    sign, scale = (-1, -p.schedule.alpha(times)) if form == "noise" else (1, p.schedule.sigma(times))
    integrals = [scipy.integrate.quad(lambda u: math.exp(sign * u) * u**degree, float(lam[0]), v, epsabs=1e-14)[0] for v in lam.tolist()]
    exact, m = scale * torch.tensor(integrals, dtype=F64), lam**degree

    def predicted(order):
        steps = unipc(p.schedule, times, form, order=order, form=form, corrector=False, solved=True).steps
        return torch.stack([step.states[k] * exact[k] + sum(c * m[j] for j, c in step.outputs.items()) for k, step in enumerate(steps)])

    for order in (1, 2, 3):
        one_step = predicted(order)[order - 1 :]  # each from the exact solution, with the full history
        if degree < order:
            same(one_step, exact[order:], 1e-11)
        # a row of UniPC goes from predicted to predicted state; with exact corrected states these are the one-step predictions
        steps = unipc(p.schedule, times, form, order=order, form=form, solved=True).steps
        if degree <= order:
            for k in range(order, 6):
                got = steps[k].states[k] * one_step[k - order] + sum(c * m[j] for j, c in steps[k].outputs.items())
                same(got, one_step[k - order + 1], 1e-11)


@everywhere
def test_the_four_predictions_are_one_method(name):
    p = Problem(name)
    times = uneven(p)
    for options in ({"order": 3}, {"order": 2, "form": "noise", "start": "rk4"}):
        runs = [unipc(p.schedule, times, kind, **options).run(p.model(kind), p.x) for kind in KINDS]
        for run in runs[1:]:
            same(run, runs[0], 1e-11)


# --- cost, ends, refusals -------------------------------------------------------------------------------------------------------------------


def test_cost_history_and_names():
    p = Problem("vp")
    times, names = p.grid(12), set()
    for order, corrector, form in itertools.product((1, 2, 3), (True, False), ("clean", "noise")):
        table = unipc(p.schedule, times, form, order=order, form=form, corrector=corrector)
        model = p.model(form)
        table.run(model, p.x)
        assert table.nfe == model.calls == len(table.steps) == 12
        assert model.times == times[:-1].tolist()  # never at the end of the grid: the last step is the predictor
        assert table.history == 2 + order + corrector * (1 if order > 0 else 0)
        names.add(table.name)
        assert unipc(p.schedule, times, form, order=order, form=form, corrector=corrector, start="rk4").nfe == 12 + 3 * (order - 1)
    names |= {unipc(p.schedule, times, **o).name for o in ({"variant": "bh1"}, {"solved": True}, {"start": "rk4"})}
    assert len(names) == 15


def test_the_data_form_may_end_at_the_data():
    schedule = AffineSchedule.vp()
    times = grids.uniform_lambda(schedule, 8, to_clean=True)
    for order in (1, 2, 3):
        table = unipc(schedule, times, "clean", order=order)
        assert table.steps[-1].t_next == 0.0
        outputs = []

        def model(x, t, outputs=outputs):
            outputs.append(x.tanh())
            return outputs[-1]

        assert torch.equal(table.run(model, torch.ones(2, 1, dtype=F64)), outputs[-1])


def test_on_a_chain():
    chain = DiscreteSchedule.linear(100)
    index = grids.discrete(chain, 10)
    oracle = AffineGaussianOracle(MIXTURE, chain)
    x = torch.tensor([[-1.0], [0.3]], dtype=F64)
    # a continuous schedule through the scales of the chain's indices: variance preserving, with lambda = 10 - 20 t
    twin = AffineSchedule.from_alpha_sigma(lambda t: torch.sigmoid(20 - 40 * t).sqrt(), lambda t: torch.sigmoid(40 * t - 20).sqrt())
    table, other = unipc(chain, index, order=3), unipc(twin, (10 - chain.half_log_snr[index[:-1]]) / 20, order=3)
    assert table.nfe == 10
    for step, twin_step in zip(table.steps[:-1], other.steps, strict=True):
        assert dict(step.outputs) == pytest.approx(dict(twin_step.outputs), rel=1e-9, abs=1e-10)
    assert torch.isfinite(table.run(oracle.noise, x)).all()
    with pytest.raises(ValueError, match="DiscreteSchedule"):
        unipc(chain, index[:-1], start="rk4")


def test_float32_states_follow_float64():
    p = Problem("vp")
    table = unipc(p.schedule, p.grid(10), order=3)
    single = table.run(lambda x, t: p.model()(x.double(), t).float(), p.x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), table.run(p.model(), p.x), rtol=0, atol=1e-5)  # 10 steps, states up to 10, 1e-7 each


@pytest.mark.usefixtures("user_errors")
def test_refusals():
    vp = AffineSchedule.vp()
    times = grids.uniform_lambda(vp, 2)
    for call, message in [
        (lambda: unipc(vp, times, order=0), "order must be"),
        (lambda: unipc(vp, times, order=4), "order must be"),
        (lambda: unipc(vp, times, order=True), "order must be"),
        (lambda: unipc(vp, times, variant="bh3"), "variant must be one of"),
        (lambda: unipc(vp, times, form="velocity"), "form must be one of"),
        (lambda: unipc(vp, times, start="exact"), "start must be one of"),
        (lambda: unipc(vp, times, "eps"), "prediction must be one of"),
        (lambda: unipc(vp, times, order=3), "at least 3 steps"),
        (lambda: unipc(vp, torch.tensor([0.2, 0.5])), "decrease"),
        (lambda: unipc(vp, torch.tensor([0.5, 0.2, 0.0]), form="noise"), "not finite"),
        (lambda: unipc(AffineSchedule.linear(), torch.tensor([1.0, 0.5, 0.2]), "clean"), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="schedule must be"):
        unipc("vp", times)
