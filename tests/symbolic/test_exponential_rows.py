"""Every row of DEIS, DPM-Solver and DPM-Solver++ against Lagrange integrals and phi-functions worked out by sympy to 40 digits."""

import mpmath
import pytest
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
TIMES = (0.83, 0.61, 0.37, 0.2)
LABELS = ("3", "2", "1", "0")  # the grid from its start to the end of the last step, so that "1" is the newest node of that step
everywhere = pytest.mark.parametrize("name", SCHEDULES)
GRID = torch.tensor(TIMES, dtype=torch.float64)


def values(name, times=TIMES, labels=LABELS):
    return ss.at(name, dict(zip(labels, times, strict=True)))


def agree(got, want):
    # weights of both signs cancel against the step they add up to: 1e-11 is 1e5 roundings of float64
    assert float(got) == pytest.approx(float(want), rel=1e-11, abs=1e-12)


def number(expr, at):
    return sp.N(expr.subs(at), 40)


def lagrange(name, variable):
    """alpha_t times the integrals of the Lagrange polynomials d rho over the last step, newest node first."""
    at, nodes = values(name), [ss.scales(label) for label in "123"]
    end = ss.scales("0")
    if variable == "t":
        alpha, sigma = ss.schedules()[name]
        rate = sp.lambdify(ss.time, sp.diff(sigma / alpha, ss.time), "mpmath")
        basis = [sp.lambdify(ss.time, p, "mpmath") for p in ss.lagrange_basis([number(n.t, at) for n in nodes], ss.time)]
        mpmath.mp.dps = 40
        span = [mpmath.mpf(GRID[2].item()), mpmath.mpf(GRID[3].item())]
        raw = [mpmath.quad(lambda t, p=p: rate(t) * p(t), span) for p in basis]
    else:
        u = sp.Symbol("u")
        where, weight = (
            ((lambda n: n.rho), sp.S(1)) if variable == "rho" else ((lambda n: -n.lam), sp.exp(u))
        )  # d rho = e^u du, u = log rho
        raw = ss.interpolation_weights(
            [number(where(n), at) for n in nodes], u, weight, number(where(nodes[0]), at), number(where(end), at)
        )
    return [number(end.alpha, at) * w for w in raw]


@everywhere
@pytest.mark.parametrize("variable", ["t", "rho", "log_rho"])
def test_deis(name, variable):
    step = solvers.deis(SCHEDULES[name], GRID, order=3, variable=variable).steps[2]
    for j, want in zip((2, 1, 0), lagrange(name, variable), strict=True):
        agree(step.outputs[j], want)
    agree(step.states[2], number(ss.scales("0").alpha / ss.scales("1").alpha, values(name)))


@everywhere
@pytest.mark.parametrize("form", ["noise", "clean"])
def test_multistep_of_order_3(name, form):
    at, u, end = values(name), ss.lam, ss.scales("0")
    sign, front = (-1, -end.alpha) if form == "noise" else (1, end.sigma)  # Prop. 9.4.1 and section 9.5.2
    lams = [number(ss.scales(label).lam, at) for label in "123"]
    want = ss.interpolation_weights(lams, u, sp.exp(sign * u), lams[0], number(end.lam, at))
    make = solvers.dpm_solver if form == "noise" else solvers.dpm_solver_pp
    step = make(SCHEDULES[name], GRID, form, order=3, multistep=True, kind="taylor").steps[2]
    for j, w in zip((2, 1, 0), want, strict=True):
        agree(step.outputs[j], number(front, at) * w)
    before = ss.scales("1")
    agree(step.states[2], number(end.alpha / before.alpha if form == "noise" else end.sigma / before.sigma, at))


@everywhere
@pytest.mark.parametrize("form", ["noise", "clean"])
@pytest.mark.parametrize("kind", ["midpoint", "taylor"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep(name, form, kind, order):
    make = solvers.dpm_solver if form == "noise" else solvers.dpm_solver_pp
    rows = make(SCHEDULES[name], GRID[1:3], form, order=order, multistep=False, kind=kind).steps
    labels = ["s", "a", "b"][:order]
    at = values(name, [row.t for row in rows] + [TIMES[2]], [*labels, "t"])
    s = ss.scales("s")

    def z(label):  # signed length of the step to a node
        return (1 if form == "noise" else -1) * number(ss.scales(label).lam - s.lam, at)

    def c(label):
        return number(ss.scales(label).sigma if form == "noise" else ss.scales(label).alpha, at)

    def moment(k, label):  # -c z^{k+1} phi_{k+1}(z): what the k-th derivative in z contributes
        return -c(label) * z(label) ** (k + 1) * ss.phi(k + 1, z(label))

    d = {label: z(label) for label in labels[1:]}
    # outputs as (m_s, m_a, m_b): derivatives in z from differences of them
    if order == 1:
        want = [(moment(0, "t"),)]
    elif order == 2:
        weight = moment(1, "t") / d["a"] if kind == "taylor" else moment(0, "t") / (2 * d["a"] / z("t"))
        want = [(moment(0, "a"),), (moment(0, "t") - weight, weight)]
    else:
        inner = moment(1, "b") / d["a"]
        if kind == "midpoint":
            last = (0, moment(1, "t") / d["b"])
        else:  # the parabola through the three outputs
            y = sp.symbols("y_0 y_1 y_2")
            u = sp.Symbol("u")
            parabola = sum(v * p for v, p in zip(y, ss.lagrange_basis([sp.S(0), d["a"], d["b"]], u), strict=True))
            slope, curvature = sp.diff(parabola, u).subs(u, 0), sp.diff(parabola, u, 2)
            total = sp.expand(moment(1, "t") * slope + moment(2, "t") * curvature)
            last = (total.coeff(y[1]), total.coeff(y[2]))
        want = [(moment(0, "a"),), (moment(0, "b") - inner, inner), (moment(0, "t") - sum(last), *last)]
    for row, expected in zip(rows, want, strict=True):
        for j, w in enumerate(expected):
            agree(row.outputs.get(j, 0.0), w)
    end = ss.scales("t")
    agree(rows[-1].states[0], number(end.alpha / s.alpha if form == "noise" else end.sigma / s.sigma, at))
