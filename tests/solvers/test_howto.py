"""The page "Add a multistep method of your own": its code runs as printed, its numbers hold, and its checks catch the mistakes it names."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from problems import Problem

from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import diagnostics, dpm_solver_pp, unipc
from mathcore.solvers.diagnostics import convergence_order

PAGE = (Path(__file__).parents[2] / "book" / "new-solver.md").read_text(encoding="utf-8")
FILE, *CHECKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
NAME = "mathcore.solvers.adams_nystrom"


@pytest.fixture
def installed(monkeypatch):
    """Make the file of the page importable under its own name, with some of its text replaced."""

    def install(replacements=()):
        source = FILE
        for old, new in replacements:
            assert source.count(old) == 1, f"the page no longer says {old!r}"
            source = source.replace(old, new)
        module = types.ModuleType(NAME)
        monkeypatch.setitem(sys.modules, NAME, module)
        exec(compile(source, f"{NAME}.py", "exec"), module.__dict__)
        return module.adams_nystrom

    return install


def run_checks():
    namespace = {"__name__": "page"}
    for number, block in enumerate(CHECKS, 1):
        exec(compile(block, f"new-solver.md, block {number + 1}", "exec"), namespace)
    return namespace


def test_the_file_is_short():
    assert FILE.count("\n") < 60
    assert max(len(line) for block in (FILE, *CHECKS) for line in block.splitlines()) <= 92  # the page's code column


def test_the_page_runs_as_printed(installed, user_errors, capsys):
    installed()
    run_checks()
    assert "nfe=6" in capsys.readouterr().out


MISTAKES = {
    "factor forgotten": [("s.sigma / r.sigma * x_r", "x_r")],
    "weights exchanged": [("v_s, v_r = DATA", "v_r, v_s = DATA")],
    "ordinary weights": [("v_s, v_r = DATA.adams([s, r], t)", "v_s, v_r = (c * t.alpha * (t.lam - s.lam) for c in (1.5, -0.5))")],
    "second opinion ignored": [("theta * again", "theta * x")],
    "states exchanged": [("(1 - theta) * x + theta * again", "theta * x + (1 - theta) * again")],
    "no refusal": [("not -1.0 < theta <= 1.0", "False")],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(mistake, installed, user_errors):
    installed(MISTAKES[mistake])
    with pytest.raises((AssertionError, ValueError)):
        run_checks()


@pytest.mark.parametrize("name", ["vp", "cosine", "linear", "edm", "ve", "trig", "sub_vp"])
def test_the_order_holds_on_every_schedule(name, installed):
    # from the middle of the path, where the ramp's one-time error is of second order too
    method, problem, counts = installed(), Problem(name), (30, 60, 120, 240)
    errors = problem.errors(method, counts)
    assert convergence_order(counts, errors) == pytest.approx(2, abs=0.2), errors


def test_what_the_page_says_about_larger_theta(installed):
    unlimited = installed(MISTAKES["no refusal"])
    vp = AffineSchedule.vp()
    problem = diagnostics.Problem(examples.solver_mixture(), vp)
    few, some, many = problem.errors(lambda times: unlimited(vp, times, theta=1.2), (40, 160, 320))
    allowed = problem.errors(lambda times: unlimited(vp, times, theta=1), (40,))
    assert few < allowed[0]
    assert some > 1
    assert many > 1e12


def test_the_verdict_of_the_page(installed):
    method, vp = installed(), AffineSchedule.vp()
    problem = diagnostics.Problem(examples.solver_mixture(), vp)
    counts = (20, 40, 80)
    ours = torch.tensor(problem.errors(lambda times: method(vp, times), counts))
    exact, published, third = (
        torch.tensor(problem.errors(lambda times, make=make: make(vp, times), counts))
        for make in (lambda *a: dpm_solver_pp(*a, kind="taylor"), dpm_solver_pp, unipc)
    )
    assert (ours < 0.75 * exact).all()
    assert ((ours > 0.8 * published) & (ours < 1.2 * published)).all()
    assert (third < ours / 2).all()
