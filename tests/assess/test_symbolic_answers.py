"""Equivalent forms pass, plausible mistakes are named, nothing hangs. The expressions are DDIM's step and a few elementary ones, so the verdicts are known."""

import signal
import threading
import time

import pytest
import sympy as sp

from mathcore.assess import symbolic, tree

x, e = sp.symbols("x e", real=True)
a_s, s_s, a_t, s_t = sp.symbols("alpha_s sigma_s alpha_t sigma_t", positive=True)
t, h = sp.symbols("t h", positive=True)
STEP = a_t / a_s * x + (s_t - a_t * s_s / a_s) * e
alpha, sigma = sp.Function("alpha"), sp.Function("sigma")


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (a_t * (x / a_s - (s_s / a_s - s_t / a_t) * e), STEP),
        (sp.sqrt(t**2), t),  # needs the assumption t > 0
        (sp.Symbol("t") ** 2, t**2),  # a symbol of the same name without assumptions
        (sp.cosh(h) - sp.sinh(h), sp.exp(-h)),
        (sp.Integral(sp.exp(-t * h), (t, 0, 1)), (1 - sp.exp(-h)) / h),
        ((sigma(t) / alpha(t)).diff(t), sigma(t).diff(t) / alpha(t) - sigma(t) * alpha(t).diff(t) / alpha(t) ** 2),
        ((x, [t, 1]), (x, (t, sp.Integer(1)))),
        (sp.Matrix([[x, 0], [0, t * t / t]]), sp.Matrix([[x, 0], [0, t]])),
        (0.5, sp.Rational(1, 2)),
        (sp.log(a_t / s_t), sp.log(a_t) - sp.log(s_t)),
        (sp.Piecewise((t, t > 0), (0, True)), t),
    ],
)
def test_an_equivalent_form_is_accepted(got, expected):
    assert symbolic.compare(got, expected) == symbolic.Comparison(True, "equal", "")


@pytest.mark.parametrize(
    ("got", "expected", "kind", "says"),
    [
        (-STEP, STEP, "sign", "wrong sign"),
        (2 * STEP, STEP, "factor", "2 times"),
        (STEP / sp.sqrt(2 * sp.pi), STEP, "factor", "constant factor"),
        (1 / STEP, STEP, "reciprocal", "reciprocal"),
        (t**4, t**2, "square", "square of"),
        (t, t**2, "square root", "square root"),
        (STEP * a_s, STEP, "power", "power of alpha_s"),
        (a_t / a_s * x - (s_t - a_t * s_s / a_s) * e, STEP, "sign of a term", "one of its terms"),
        (a_t / a_s * x + s_t * e, STEP, "term", "lacks one"),
        (x + s_t * e, STEP, "missing symbol", "alpha_s, alpha_t, sigma_s"),
        (h - 1 + sp.exp(-h) + 3, h - 1 + sp.exp(-h), "constant", "constant 3"),
        (h + sp.exp(-h), h - 1 + sp.exp(-h), "term", "lacks one"),
        (STEP + sp.Symbol("q"), STEP, "extra symbol", "depends on q"),
        (STEP.xreplace({a_s: a_t, a_t: a_s, s_s: s_t, s_t: s_s}), STEP, "swapped", "indices s and t exchanged"),
        (x - t, t - x, "sign", "wrong sign"),
        (sp.exp(h**2), sp.sin(h), "value", "another number"),
        ((x, -t), (x, t), "sign", "part 2"),
        ((x, t, t), (x, t), "shape", "a tuple of 2 expressions, it is a tuple of 3 expressions"),
        ((x, t), x, "shape", "one expression, it is a tuple of 2"),
        ((x,), x, "shape", "is a tuple of one: remove the comma"),
        ((t, h - t, x), (x, t, h - t), "order", "the parts of the answer are right, but in another order"),
        ((x, (h, t)), (x, (t, h)), "order", "the parts of part 2 of the answer"),
        ((t, x, x), (x, t, h), "extra symbol", "part 1 of the answer"),
        ((sp.Matrix([x]), t), (t, sp.Matrix([x])), "order", "in another order"),
        (sp.Matrix([[x]]), sp.Matrix([[x, x]]), "shape", "shape"),
        (sp.Matrix([[x, t]]), sp.Matrix([[x, -t]]), "sign", r"entry \(0, 1\)"),
        (None, STEP, "type", "return missing"),
        ("x", STEP, "type", "without quotes"),
        (sp.Eq(x, t), STEP, "type", "should be an expression"),
        (True, STEP, "type", "type bool"),
        (sp.nan, STEP, "undefined", "no finite value"),
    ],
)
def test_a_mistake_is_named(got, expected, kind, says):
    import re

    result = symbolic.compare(got, expected)
    assert (result.equal, result.kind) == (False, kind), result
    assert re.search(says, result.message), result.message


def test_a_small_difference_is_seen_and_a_large_expression_is_not_one():
    assert not symbolic.compare(STEP + e * sp.Rational(1, 10**9), STEP).equal
    assert symbolic.compare(sp.expand((x + t + h) ** 12), (x + t + h) ** 12).equal


P = sp.Symbol("P", real=True)
S, s_d = sp.symbols("S s_d", positive=True)
LEVEL = t / (1 - t)
WEIGHT = sp.exp(-((sp.log(LEVEL) - P) ** 2) / (2 * S**2)) / (S * sp.sqrt(2 * sp.pi)) * (1 + LEVEL**2 / s_d**2) / LEVEL
POWERS = LEVEL ** (P / S**2 - 1) * sp.exp(-(sp.log(LEVEL) ** 2 + P**2) / (2 * S**2)) * (1 + LEVEL**2 / s_d**2) / (S * sp.sqrt(2 * sp.pi))
LOG_SNR = sp.log((1 - t) / t)
DENSITY = (s_d**2 + sp.exp(-2 * LOG_SNR)) / s_d**2 * sp.exp(-((LOG_SNR + P) ** 2) / (2 * S**2)) / sp.sqrt(2 * sp.pi * S**2)
INSIDE = {"t": (0.1, 0.9), "P": (-1, 1), "S": (0.6, 1.5), "s_d": (0.4, 1.5)}


@pytest.mark.parametrize("form", [WEIGHT, sp.expand(WEIGHT), POWERS], ids=["as derived", "expanded", "as a power"])
def test_what_algebra_does_not_finish_is_compared_by_numbers(form):
    """The log-normal density of noise levels as a weight for flow matching: sympy expands or simplifies none of its forms within minutes."""

    def compared(got):
        return symbolic.compare(got, DENSITY * sp.exp(LOG_SNR), where=INSIDE, seconds=10)

    assert compared(form).equal
    assert compared(form * (2 - 2 * t)).kind == "value"
    assert compared(-form).kind == "sign"
    assert compared(form * 3).kind == "factor"
    assert compared(form * s_d).kind == "power"
    assert compared(form + sp.Symbol("q")).kind == "extra symbol"


def test_poles_branches_and_bound_symbols():
    assert symbolic.compare((x**2 - t**2) / (x - t), x + t).equal
    assert not symbolic.compare(sp.sqrt(x**2), x).equal  # x is real, not positive
    assert not symbolic.compare(sp.log(x**2) / 2, sp.log(x)).equal  # differ by i pi left of 0
    assert symbolic.compare(sp.log(x**2) / 2, sp.log(sp.Abs(x))).equal
    assert symbolic.compare(sp.Integral(t * sp.exp(-t * h), (t, 0, t)), (1 - (1 + t * h) * sp.exp(-t * h)) / h**2).equal
    n = sp.Symbol("n", integer=True, positive=True)
    assert symbolic.compare(sp.Sum(n, (n, 1, n)), n * (n + 1) / 2).equal
    assert not symbolic.compare(h / sp.Integer(0), h).equal


def test_the_limit_is_processor_time_not_the_clock_of_a_busy_machine():
    symbolic.compare(x, x)
    process = symbolic._WORKER._running()
    process.send_signal(signal.SIGSTOP)  # others have the machine for three seconds
    timer = threading.Timer(3, process.send_signal, [signal.SIGCONT])
    timer.start()
    assert symbolic.compare(x, x, seconds=1).equal
    timer.join()
    process.send_signal(signal.SIGSTOP)  # for ever
    start = time.monotonic()
    assert symbolic.compare(x, x, seconds=0.5).kind == "time"
    assert time.monotonic() - start > 2


def test_special_cases_and_ranges():
    assert symbolic.compare(STEP, x, subs={a_t: a_s, s_t: s_s}).equal
    assert symbolic.compare(STEP, x, subs={"alpha_t": a_s, "sigma_t": s_s}).equal
    root = sp.sqrt(s_t**2 - h**2)  # real only for h < sigma_t
    assert symbolic.compare(root, sp.sqrt((s_t - h) * (s_t + h)), where={"h": (0.1, 0.3), "sigma_t": (0.5, 1.0)}).equal


@pytest.mark.parametrize(
    "bomb",
    [
        sp.Pow(9, sp.Pow(9, sp.Pow(9, 9, evaluate=False), evaluate=False), evaluate=False),
        sp.Pow(sp.Add(*sp.symbols("z:40"), evaluate=False), 60, evaluate=False),
    ],
)
def test_an_explosive_answer_costs_no_more_than_its_time(bomb):
    symbolic.compare(x, x)  # the process is up
    start = time.monotonic()
    result = symbolic.compare(bomb, STEP, seconds=2)
    assert not result.equal
    assert result.kind in ("time", "memory", "undefined", "extra symbol"), result
    assert time.monotonic() - start < 20
    assert symbolic.compare(x, x).equal  # and the next question is answered


def test_only_mathematics_crosses_the_border():
    for expression in (STEP, sp.Matrix([[x, t]]), alpha(t).diff(t), sp.Float("0.1", 30), sp.Rational(-3, 7), sp.pi * sp.I):
        assert tree.decode(tree.encode(expression)) == expression
    for forged in (
        ["__import__", "os"],
        ["Lambda", ["Symbol", "x", {}]],
        ["Symbol", "x", {"__class__": True, "0": True}],
        [],
        "x",
        ["Rational", "1" * 9999, "1"],
    ):
        with pytest.raises(tree.Untranslatable):
            tree.decode(forged)
    with pytest.raises(tree.Untranslatable, match="Lambda"):
        tree.encode(sp.Lambda(x, 2 * x))


def test_bad_input_of_the_author(user_errors):
    with pytest.raises(ValueError, match="seconds"):
        symbolic.compare(x, x, seconds=0)
    with pytest.raises(ValueError, match="expected must be a sympy expression, got str"):
        symbolic.compare(x, "x")


@pytest.mark.parametrize(
    ("answer", "name", "value", "limit"),
    [
        ("2 * d / (1 - (1 - d / w) ** 2)", "d", 0, "w"),  # the fixed point of x <- (1 - d / w) x + noise, as everybody writes it
        ("(a * z / w**2) / (1 / s**2 + a**2 / w**2)", "w", 0, "z / a"),  # a product of Gaussians
        ("sin(d) / d", "d", 0, "1"),
        ("d * Sum((1 - d / 4) ** n, (n, 0, oo))", "d", 2, "4"),
    ],
)
def test_a_special_case_that_reads_zero_over_zero(answer, name, value, limit):
    """A right formula is right also where it cannot be evaluated as it stands."""
    letters = {s: sp.Symbol(s, positive=True) for s in "adswz"}
    got, want = sp.sympify(answer, locals=letters), sp.sympify(limit, locals=letters)
    assert symbolic.compare(got, want, subs={name: value}).equal
    wrong = symbolic.compare(got, 2 * want, subs={name: value})
    assert not wrong.equal
    assert f"at {name} = {value}" in wrong.message


def test_a_special_case_meets_every_symbol_of_that_name():
    """A student may make a symbol anew, with other assumptions, and mix the two."""
    given, own = sp.Symbol("d", positive=True), sp.Symbol("d")
    assert symbolic.compare(given + own**2, sp.Integer(6), subs={"d": 2}).equal
    assert not symbolic.compare(given + own**2, sp.Integer(4), subs={"d": 2}).equal
