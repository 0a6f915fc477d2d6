"""The messages of the checks: each plausible mistake is named, a missing answer stays a NotImplementedError."""

import math

import numpy as np
import pytest
import torch

from mathcore.assess import checks

TRUTH = torch.tensor([0.5, -1.5, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (-TRUTH, "All signs"),
        (2 * TRUTH, "2 times the right one everywhere"),
        (TRUTH**2, "square of the right one"),
        (1 / TRUTH, "reciprocal"),
        (TRUTH.roll(1), "one index too late"),
        (TRUTH.roll(-1), "one index too early"),
        (TRUTH.flip(0), "reverse order"),
        (TRUTH + torch.tensor([0, 0, 1e-3, 0]), r"off by 0.001 at index \(2,\), allowed are 7e-13"),
        (TRUTH[:3], r"shape \(3,\), should have \(4,\)"),
        (TRUTH * math.nan, "4 of 4 numbers are NaN"),
        (None, "return missing"),
        ("text", "should be numbers"),
        (object(), "should be numbers"),
    ],
)
def test_close_names_the_mistake(got, says):
    with pytest.raises(AssertionError, match="the weights: .*" + says):
        checks.close(got, TRUTH, "the weights")


def test_standard_deviation_for_variance():
    with pytest.raises(AssertionError, match="square root of the right one"):
        checks.close(TRUTH.abs().sqrt(), TRUTH.abs(), "variances")


def test_tolerance_follows_the_precision():
    checks.close(TRUTH * (1 + 1e-13), TRUTH, "double")
    checks.close((TRUTH * (1 + 1e-5)).float(), TRUTH, "single")
    with pytest.raises(AssertionError):
        checks.close(TRUTH * (1 + 1e-5), TRUTH, "double")
    with pytest.raises(AssertionError):
        checks.close((TRUTH * (1 + 1e-3)).float(), TRUTH, "single")
    checks.close(0.1 + 0.2, 0.3, "Python's own numbers are doubles")
    checks.close([0.1, 0.2], np.array([0.1, 0.2]), "lists and arrays")
    checks.close(3, 3, "integers")
    with pytest.raises(AssertionError, match="off by 1"):
        checks.close(2, 3, "integers")


def test_order():
    sizes = [0.1, 0.05, 0.025, 0.0125]
    checks.order(sizes, [3 * s**2 for s in sizes], 2, "the method")
    with pytest.raises(AssertionError, match=r"falls like h\^1.00, should be h\^2"):
        checks.order(sizes, [3 * s for s in sizes], 2, "the method")
    with pytest.raises(AssertionError, match="positive and finite"):
        checks.order(sizes, [1, 0, 1, 1], 2, "the method")
    with pytest.raises(ValueError, match="at least four"):
        checks.order(sizes[:3], [1, 1, 1], 2, "the method")


def test_small_checks():
    checks.between(0.5, 0, 1, "a share")
    checks.equal(torch.tensor(3), 3, "calls")
    checks.shape([[1.0, 2.0]], (1, 2), "a table")
    for call, says in (
        (lambda: checks.between(1.5, 0, 1, "a share"), "is 1.5, should lie between 0 and 1"),
        (lambda: checks.between([0.5, 0.5], 0, 1, "a share"), "shape"),
        (lambda: checks.between(math.nan, 0, 1, "a share"), "NaN"),
        (lambda: checks.equal(4, 3, "calls"), "is 4, should be 3"),
        (lambda: checks.equal(True, 1, "calls"), "is True"),
        (lambda: checks.equal([3], 3, "calls"), "is a list"),
    ):
        with pytest.raises(AssertionError, match=says):
            call()


def test_raises_keeps_a_missing_answer_apart():
    def missing():
        raise NotImplementedError("later")

    def refuses():
        raise ValueError("no")

    checks.raises(ValueError, refuses, "a bad grid")
    with pytest.raises(NotImplementedError):
        checks.raises(ValueError, missing, "a bad grid")
    with pytest.raises(AssertionError, match="returned a value"):
        checks.raises(ValueError, lambda: 1, "a bad grid")
    with pytest.raises(AssertionError, match="raised ValueError: no"):
        checks.raises(TypeError, refuses, "a bad grid")


def test_symbolic_and_closed_form():
    import sympy as sp

    h = sp.Symbol("h", positive=True)
    checks.symbolic(sp.sin(h) ** 2 + sp.cos(h) ** 2, 1, "the sum")
    with pytest.raises(AssertionError, match="the sum: the answer has the wrong sign"):
        checks.symbolic(-h, h, "the sum")
    checks.closed_form(sp.exp(h), "m_0")
    with pytest.raises(AssertionError, match="still holds Integral"):
        checks.closed_form(2 * sp.Integral(sp.exp(-(h**2)), (h, 0, 1)), "m_0")
    with pytest.raises(AssertionError, match="should be a sympy expression"):
        checks.closed_form("exp(h)", "m_0")


def test_counted():
    model = checks.Counted(lambda x, t: x * t)
    assert model(2.0, torch.tensor(3.0)) == 6.0
    assert (model.calls, model.times) == (1, [3.0])
