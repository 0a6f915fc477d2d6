"""The messages of the checks: each plausible mistake is named, a missing answer stays a NotImplementedError."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

from mathcore.assess import checks
from mathcore.assess.symbolic import Answer

TRUTH = torch.tensor([0.5, -1.5, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (-TRUTH, "All signs"),
        (2 * TRUTH, "is 2 times the right one everywhere: is a factor missing"),
        (-TRUTH / 4, "is -1/4 times the right one everywhere"),
        (TRUTH * math.sqrt(2 * math.pi), r"is sqrt\(2 pi\) times the right one everywhere"),
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
        (TRUTH + 1j, "should be real numbers, is complex"),
    ],
)
def test_close_names_the_mistake(got, says):
    with pytest.raises(AssertionError, match="the weights: .*" + says):
        checks.close(got, TRUTH, "the weights")


def test_a_ratio_that_a_wrong_exponent_may_have_made_is_not_called_a_factor():
    start, shrink = torch.tensor([1.0, -2.0], dtype=torch.float64), 0.9
    with pytest.raises(
        AssertionError
    ) as caught:  # 12 steps of a linear walk, all too short: the ratio is one number, and no factor was forgotten
        checks.close(start * (1 - (1 - shrink) / 5) ** 12, start * shrink**12, "the walk")
    assert str(caught.value).startswith("the walk: off by 1")
    assert "times" not in str(caught.value)
    v, sigma = sp.symbols("v sigma", positive=True)
    with pytest.raises(AssertionError, match="is 2 times the right one: a constant factor is wrong"):
        checks.symbolic(2 * v * sigma, v * sigma, "the variance")
    with pytest.raises(AssertionError, match=r"at sigma = 3, is 3 times the right one\.$"):  # a power of sigma is wrong, no factor
        checks.symbolic(v * sigma**2, 3 * v, "the variance", subs={sigma: 3})


def test_standard_deviation_for_variance():
    with pytest.raises(AssertionError, match="square root of the right one"):
        checks.close(TRUTH.abs().sqrt(), TRUTH.abs(), "variances")


def test_tolerance_follows_the_precision():
    checks.close(TRUTH * (1 + 1e-13), TRUTH, "double")
    checks.close(TRUTH.float(), TRUTH, "single, rounded once at the end")
    checks.close((TRUTH / 7).float(), TRUTH / 7, "single, rounded once at the end")
    with pytest.raises(AssertionError):
        checks.close(TRUTH * (1 + 1e-5), TRUTH, "double")
    with pytest.raises(AssertionError, match=r"off by.*The result has dtype float32: calculate and return float64"):
        checks.close((TRUTH * (1 + 1e-6)).float(), TRUTH, "single")
    with pytest.raises(AssertionError, match="dtype bfloat16"):
        checks.close((TRUTH / 7).bfloat16(), TRUTH / 7, "half", rtol=1e-9)
    with pytest.raises(AssertionError, match="calculated in float32"):
        checks.close((TRUTH / 7).float().double(), TRUTH / 7, "single in the middle")
    checks.close(0.1 + 0.2, 0.3, "Python's own numbers are doubles")
    checks.close([0.1, 0.2], np.array([0.1, 0.2]), "lists and arrays")
    checks.close(3, 3, "integers")
    with pytest.raises(AssertionError, match="off by 1"):
        checks.close(2, 3, "integers")


def test_no_dtype_of_an_answer_buys_tolerance():
    wrong = TRUTH.clone()
    wrong[0] *= 1.001
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for result, truth in ((wrong, TRUTH), (TRUTH, wrong), (wrong.to(dtype), TRUTH.to(dtype))):
            if not torch.equal(result.to(dtype), truth):
                with pytest.raises(AssertionError, match="off by"):
                    checks.close(result.to(dtype), truth, "the ratio", condition=1e7)
    checks.close(torch.tensor([1.0, 1e8]), torch.tensor([1.0, 1e8], dtype=torch.float64), "of two sizes", condition=1)
    with pytest.raises(AssertionError, match=r"index \(0,\)"):  # the rounding of a large entry excuses no small one
        checks.close(torch.tensor([2.0, 1e8]), torch.tensor([1.0, 1e8], dtype=torch.float64), "of two sizes", condition=1)


def test_a_wrong_number_is_told_the_right_one_except_by_the_grader():
    with pytest.raises(AssertionError, match=r"the gain: off by 0\.081, allowed are 4e-13: is 2\.081, should be 2\."):
        checks.close(2.081, 2.0, "the gain")
    with pytest.raises(AssertionError, match=r"at index \(1,\).*is -1\.500000001, should be -1\.5\."):
        checks.close(TRUTH - torch.tensor([0, 1e-9, 0, 0], dtype=torch.float64), TRUTH, "the gain")
    with checks.discreet(), pytest.raises(AssertionError) as caught:
        checks.close(2.081, 2.125, "the gain")
    assert str(caught.value) == "the gain: off by 0.044, allowed are 5e-13."


def test_several_values_are_taken_apart():
    assert checks.parts((1, 2, 3), 3, "a step") == (1, 2, 3)
    assert checks.parts([[1], 2], 2, "a step") == ([1], 2)
    assert [float(v) for v in checks.parts(TRUTH, 4, "a step")] == TRUTH.tolist()
    for got, says in (
        ((1, 2), "a step: should be 3 values, are 2"),
        ((1,), "should be 3 values, is 1"),
        (1.0, r"should be 3 values, is 1\.0"),
        (torch.tensor(1.0), "should be 3 values, is a Tensor"),
        ({1: 2, 3: 4, 5: 6}, "is a dict"),
        ("abc", "is 'abc'"),
        (None, "is a return missing"),
    ):
        with pytest.raises(AssertionError, match=says):
            checks.parts(got, 3, "a step")


def test_numbers_to_calculate_with():
    assert torch.equal(checks.numbers([1, 2], "R"), torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert checks.numbers(TRUTH.clone().requires_grad_(), "R").requires_grad is False
    for got, says in (
        (torch.eye(2), "R: has dtype float32: calculate and return float64"),
        (None, "return missing"),
        (1j, "complex"),
    ):
        with pytest.raises(AssertionError, match=says):
            checks.numbers(got, "R")


def test_a_comma_too_many():
    with pytest.raises(AssertionError, match="tuple of one: remove the comma"):
        checks.close((2.0,), 2.0, "the gain")


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


def test_numbers_of_sympy_are_numbers():
    checks.close(sp.Float("0.25"), 0.25, "here")
    checks.close((sp.Rational(1, 4), sp.sqrt(2)), [0.25, 2**0.5], "here", rtol=1e-12)
    checks.close(Answer(["Parts", ["Rational", "1", "4"], ["Float", "0.5", 53]]), [0.25, 0.5], "from another process")
    with pytest.raises(AssertionError, match="return float"):
        checks.close(Answer(["Symbol", "x", {}]), 0.25, "here")
