"""The derivations of chapter 9 against independent integration, and every row of the solver tables against its derivation."""

import mpmath
import pytest
import scipy.integrate
import sympy as sp
import torch

from mathcore import solvers
from mathcore.schedules import AffineSchedule
from mathcore.symbolic import solvers as ss

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "cosine": AffineSchedule.cosine(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
kinds = pytest.mark.parametrize("kind", ss.PREDICTIONS)
TIMES = (0.83, 0.61, 0.27, 0.04)


def times(name):
    return torch.tensor(TIMES, dtype=torch.float64) * min(1.0, SCHEDULES[name].t_max)


def agree(got, want):
    # a coefficient is a few float64 operations on scales that are good to a few roundings; up to 1e3 of them where differences cancel
    assert float(got) == pytest.approx(want, rel=1e-12, abs=1e-12)


def agree_row(step, row, values, state=0):
    agree(step.states.get(state, 0.0), ss.evaluate(row["x"], values))
    agree(step.outputs.get(state, 0.0), ss.evaluate(row["m"], values))
    agree(step.noise, ss.evaluate(row.get("z", sp.S(0)), values))
    assert set(step.states) | set(step.outputs) <= {state}


# --- base pieces ------------------------------------------------------------------------------------------------------------------------


def test_exponential_integrator_solves_the_semilinear_ode():
    assert ss.exponential_integrator_gap() == 0


def test_the_noise_enters_by_the_clock_rho():
    assert ss.noise_weight_gap() == 0


@everywhere
def test_the_dictionary_is_the_one_of_the_schedules(name):
    schedule = SCHEDULES[name]
    alpha, sigma, f, g2 = ss.drift_and_diffusion()
    for t in times(name).tolist():
        values = ss.at(name, {"s": t})
        node = ss.scales("s")
        places = {sp.diff(alpha, ss.tau): node.dalpha, sp.diff(sigma, ss.tau): node.dsigma}
        for which, expr in {"alpha": alpha, "sigma": sigma, "f": f, "g2": g2}.items():
            at_node = expr.subs(places).subs({alpha: node.alpha, sigma: node.sigma})
            agree(getattr(schedule, which)(t), ss.evaluate(at_node, values))
        agree(schedule.half_log_snr(t), ss.evaluate(node.lam, values))


def test_phi_functions():
    x = sp.Symbol("x")
    for m in range(5):
        series = sp.series(ss.phi(m, x), x, 0, 4).removeO()
        assert sp.expand(series - sum(x**n / sp.factorial(n + m) for n in range(4))) == 0
    for m in range(1, 4):  # recursion phi_{m+1}(z) = (phi_m(z) - 1/m!) / z
        assert sp.simplify(ss.phi(m + 1) - (ss.phi(m) - sp.S(1) / sp.factorial(m)) / ss.h) == 0


def test_phi_against_quadrature():
    for m in (1, 2, 3):
        for z in (-2.5, -0.1, 0.3, 4.0):
            want = mpmath.quad(lambda d, m=m, z=z: mpmath.exp((1 - d) * z) * d ** (m - 1) / mpmath.factorial(m - 1), [0, 1])
            assert ss.evaluate(ss.phi(m, sp.Float(z, 40)), {}) == pytest.approx(float(want), rel=1e-13)


@pytest.mark.parametrize("k", range(4))
def test_moments_are_phi_functions(k):
    # sigma_t e^{lambda_t} = alpha_t: the noise moments are sigma_t h^{k+1} phi_{k+1}(h), the data moments alpha_t h^{k+1} phi_{k+1}(-h)
    h = ss.h
    noise = sp.exp(h) * ss.taylor_moment(k, -1)  # per sigma_t, as e^{-lambda_s} = e^{h} e^{-lambda_t}
    data = sp.exp(-h) * ss.taylor_moment(k, 1)
    assert sp.simplify(noise - h ** (k + 1) * ss.phi(k + 1)) == 0
    assert sp.simplify(sp.expand(data - h ** (k + 1) * ss.phi(k + 1, -h))) == 0
    if k:  # with the start of the step as base and the sign not flipped the data form holds at k = 0 only
        assert sp.simplify(ss.taylor_moment(k, 1) - h ** (k + 1) * ss.phi(k + 1, -h)) != 0


def test_lagrange_basis():
    u = sp.Symbol("u")
    nodes = sp.symbols("u_0 u_1 u_2")
    basis = ss.lagrange_basis(nodes, u)
    assert sp.simplify(sum(basis) - 1) == 0
    for j, p in enumerate(basis):
        assert [sp.simplify(p.subs(u, node)) for node in nodes] == [int(i == j) for i in range(3)]


def test_adams_weights_on_equal_steps_are_the_classical_ones():
    u = sp.Symbol("u")
    assert ss.interpolation_weights([sp.S(0), sp.S(-1)], u, sp.S(1), sp.S(0), sp.S(1)) == [sp.Rational(3, 2), -sp.Rational(1, 2)]
    third = [sp.Rational(23, 12), -sp.Rational(4, 3), sp.Rational(5, 12)]
    assert ss.interpolation_weights([sp.S(0), sp.S(-1), sp.S(-2)], u, sp.S(1), sp.S(0), sp.S(1)) == third


def test_exponential_adams_weights_meet_the_moment_conditions_on_any_grid():
    a, b, start = sp.Rational(-2, 5), sp.Rational(-11, 10), sp.S(0)
    weights = ss.interpolation_weights([start, a, b], ss.lam, sp.exp(-ss.lam), start, ss.h)
    assert ss.moment_gaps(weights, [start, a, b], ss.lam, sp.exp(-ss.lam), start, ss.h) == [0, 0, 0]
    assert ss.moment_gaps([2 * weights[0], *weights[1:]], [start, a, b], ss.lam, sp.exp(-ss.lam), start, ss.h)[0] != 0
    at = {ss.h: sp.Rational(7, 10)}
    for w, p in zip(weights, ss.lagrange_basis([start, a, b], ss.lam), strict=True):
        f = sp.lambdify(ss.lam, sp.exp(-ss.lam) * p)
        want, _ = scipy.integrate.quad(f, 0, 0.7, epsabs=1e-14)
        assert float(w.subs(at)) == pytest.approx(want, abs=1e-12)


def test_orders_of_the_tableaus():
    assert [len(ss.rooted_trees(p)) for p in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    for name, order in (("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)):
        c, a, b = ss.TABLEAUX[name]
        assert [sum(row, sp.S(0)) for row in a] == list(c)
        assert ss.order_of_tableau(a, b) == order
    _, a, b = ss.TABLEAUX["rk4"]
    assert ss.order_of_tableau(a, [b[1], b[0], b[2], b[3]]) == 1  # two weights exchanged


def test_the_kernels_agree_where_they_should():
    s, t = ss.scales("s"), ss.scales("t")
    clean, state, var = ss.bayes_kernel()
    a, b, c = ss.marginal_kernel()
    places = {s.alpha: sp.Rational(3, 10), s.sigma: sp.Rational(19, 20), t.alpha: sp.Rational(9, 10), t.sigma: sp.Rational(2, 5)}
    std = sp.sqrt(var)
    for mine, theirs in ((a, clean), (b, state)):
        assert abs(sp.N((mine.subs(c, std) - theirs).subs(places), 30)) < 1e-25
    h = s.lam - t.lam  # minus the step
    assert sp.simplify(var - t.sigma**2 * (1 - sp.exp(2 * h))) == 0
    # with the two nodes exchanged the factor is no variance
    swapped = {s.alpha: places[t.alpha], s.sigma: places[t.sigma], t.alpha: places[s.alpha], t.sigma: places[s.sigma]}
    assert var.subs(swapped) < 0


# --- rows of the tables --------------------------------------------------------------------------------------------------------------------


@everywhere
@kinds
def test_conversions(name, kind):
    for t in times(name).tolist():
        values = ss.at(name, {"s": t})
        build = solvers.Builder("probe", SCHEDULES[name], torch.tensor([t, t / 2], dtype=torch.float64), kind)
        m = build.evaluate(build.start)
        for dst in ss.PREDICTIONS:
            a, b = ss.conversion(kind, dst, "s")
            agree(m.of(dst).terms["x", 0], ss.evaluate(a, values))
            agree(m.of(dst).terms["m", 0], ss.evaluate(b, values))


@everywhere
@kinds
@pytest.mark.parametrize("level", [0, sp.Rational(1, 2), 1])
def test_one_call_rows(name, kind, level):
    grid = times(name)
    eta = {ss.eta: level}
    tables = {
        "ddim": (solvers.ddim(SCHEDULES[name], grid, kind), ss.ddim(kind)),
        "ddim with noise": (solvers.ddim(SCHEDULES[name], grid, kind, eta=float(level)), ss.ddim_stochastic(kind)),
        "posterior": (solvers.ancestral(SCHEDULES[name], grid, kind), ss.ancestral(kind, "posterior")),
        "beta": (solvers.ancestral(SCHEDULES[name], grid, kind, "beta"), ss.ancestral(kind, "beta")),
        "em": (solvers.euler_maruyama(SCHEDULES[name], grid, kind, float(level)), ss.euler_maruyama(kind, sp.sympify(level))),
    }
    for k in range(3):
        values = ss.at(name, {"s": grid[k].item(), "t": grid[k + 1].item()}) | eta
        for table, row in tables.values():
            agree_row(table.steps[k], row, values, state=k)


@everywhere
@pytest.mark.parametrize("clock", ["t", "lambda", "rho"])
@pytest.mark.parametrize("scale", ["one", "alpha", "sigma"])
@pytest.mark.parametrize(("method", "kind"), [("euler", "noise"), ("heun", "clean"), ("heun", "score"), ("rk4", "velocity")])
def test_runge_kutta_rows(name, kind, clock, scale, method):
    grid = times(name)[1:3]
    table = getattr(solvers, method)(SCHEDULES[name], grid, kind, clock=clock, scale=scale)
    stage_times = [step.t for step in table.steps]
    labels = [f"stage{i}" for i in range(len(stage_times))]
    values = ss.at(name, dict(zip(labels, stage_times, strict=True)) | {"end": grid[1].item()})
    rows = ss.runge_kutta_rows(method, clock, scale, kind, [*labels, "end"])
    for step, row in zip(table.steps, rows, strict=True):
        for key, expr in row.items():
            got = (step.states if key[0] == "x" else step.outputs).get(int(key[1:]), 0.0)
            agree(got, ss.evaluate(expr, values))


@everywhere
@kinds
def test_rows_of_the_edm_sampler(name, kind):
    schedule, grid = SCHEDULES[name], times(name)
    table = solvers.edm_heun(schedule, grid, kind, s_churn=0.6, s_noise=1.003)
    churn, first, second = table.steps[:3]
    values = ss.at(name, {"s": churn.t, "up": churn.t_next, "t": grid[1].item()})
    s, up, t = (ss.scales(label) for label in ("s", "up", "t"))
    agree(ss.evaluate(up.rho / s.rho, values), 1.2)  # gamma = 0.6 / 3
    agree(churn.states[0], ss.evaluate(up.alpha / s.alpha, values))
    agree(churn.noise, 1.003 * ss.evaluate(up.alpha * sp.sqrt(up.rho**2 - s.rho**2), values))
    rows = ss.runge_kutta_rows("heun", "rho", "alpha", kind, ["up", "t", "t"])
    for step, row in zip((first, second), rows, strict=True):
        for key, expr in row.items():
            agree((step.states if key[0] == "x" else step.outputs).get(1 + int(key[1:]), 0.0), ss.evaluate(expr, values))
    assert t.rho.subs(values) < up.rho.subs(values)
