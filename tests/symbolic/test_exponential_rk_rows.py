"""Every row of exponential Euler and Heun against variation of constants carried out by sympy."""

import pytest
import sympy as sp
import torch

from mathcore.schedules import AffineSchedule
from mathcore.solvers import exponential_euler, exponential_heun
from mathcore.symbolic import exponential_rk as er
from mathcore.symbolic import solvers as ss

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "cosine": AffineSchedule.cosine(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
}
KINDS = ("noise", "clean", "score", "velocity")
GRID = torch.tensor([0.61, 0.37], dtype=torch.float64)


def values(name):
    return ss.at(name, {"s": 0.61, "t": 0.37})


def agree(step, row, at):
    for key, expr in row.items():
        got = (step.states if key[0] == "x" else step.outputs).get(int(key[1:]), 0.0)
        # conversions divide by sigma and by derivatives of size 1 to 100: 1e-11 is 1e4 roundings
        assert float(got) == pytest.approx(ss.evaluate(expr, at), rel=1e-11, abs=1e-12), key


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n != "edm"])
@pytest.mark.parametrize("kind", KINDS)
def test_euler_in_time(name, kind):
    row = er.frozen_in_time(kind)
    agree(exponential_euler(SCHEDULES[name], GRID, kind).steps[0], {"x0": row["x"], "m0": row["m"]}, values(name))


@pytest.mark.parametrize(("name", "scale"), [(n, s) for n in SCHEDULES for s in ("one", "alpha", "sigma") if (n, s) != ("edm", "one")])
@pytest.mark.parametrize("kind", KINDS)
def test_heun_and_euler_in_lambda(name, scale, kind):
    at = values(name)
    want = er.exponential_rows(scale, kind, corrected=True)
    for step, row in zip(exponential_heun(SCHEDULES[name], GRID, kind, scale).steps, want, strict=True):
        agree(step, row, at)
    agree(exponential_euler(SCHEDULES[name], GRID, kind, "lambda", scale).steps[0], want[0], at)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_linear_part_they_are_the_plain_methods(kind):
    # alpha = 1 on the EDM schedule: the weights have the limits 1, h, h / 2
    L, h = sp.Symbol("L", nonzero=True), sp.Symbol("h", nonzero=True)
    assert [sp.limit(c, L, 0) for c in er.variation_of_constants(1)] == [1, h, h / 2]
    at, labels = values("edm"), ["s", "t", "t"]
    rows = ss.runge_kutta_rows("heun", "lambda", "one", kind, labels)
    for step, row in zip(exponential_heun(SCHEDULES["edm"], GRID, kind).steps, rows, strict=True):
        agree(step, row, at)
    (row,) = ss.runge_kutta_rows("euler", "t", "one", kind, ["s", "t"])
    agree(exponential_euler(SCHEDULES["edm"], GRID, kind).steps[0], row, at)


def test_the_linear_parts_are_those_of_the_table():
    alpha = er.split("alpha")[3]
    lam = sp.Symbol("lambda", real=True)
    assert [er.split(scale)[0] for scale in ("alpha", "sigma")] == [-1, 1]
    assert sp.simplify(er.split("one")[0] - sp.diff(alpha, lam) / alpha) == 0
    # N: -sigma eps, -eps, and the clean prediction (x - sigma eps) / alpha
    assert sp.simplify(er.split("one")[2] + alpha * sp.exp(-lam)) == 0
    assert er.split("sigma")[1:3] == (0, -1)
    assert sp.simplify(er.split("alpha")[1] - 1 / alpha) == 0
    assert sp.simplify(er.split("alpha")[2] + sp.exp(-lam)) == 0


def test_weights_are_phi_functions():
    L, h = sp.Symbol("L", nonzero=True), sp.Symbol("h", nonzero=True)
    for k, got in enumerate(er.variation_of_constants(1)):
        assert sp.simplify(got - h ** min(k, 1) * ss.phi(k, L * h)) == 0
