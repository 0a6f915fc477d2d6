"""A claim that is wrong, empty, uncontrolled or fed with bad input must never pass, and a control must be rejected for the right reason."""

import contextlib

import pytest
import sympy as sp
import torch

from mathcore.claims import Checks, ClaimError, claim

ID = "thm-2-1-1"


@pytest.fixture
def checks():
    return Checks()


def verdicts(name, good, bad):
    return pytest.mark.parametrize(
        ("args", "ok"),
        [(args, True) for args in good] + [(args, False) for args in bad],
        ids=lambda v: "" if isinstance(v, tuple) else f"{name}-{v}",
    )


x, n = sp.Symbol("x", positive=True), sp.Symbol("n", integer=True, positive=True)
h = [0.1, 0.05, 0.025, 0.0125]


@verdicts(
    "zero",
    good=[(sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1,), (sp.Matrix([[sp.log(x**2) - 2 * sp.log(x), 0]]),), (sp.cos(sp.pi * n) - (-1) ** n,)],
    bad=[(sp.sin(x) ** 2 + sp.cos(x) - 1,), (sp.Matrix([0, x]),), (sp.Integer(1),), (sp.Rational(1, 10**15),)],
)
def test_zero(checks, args, ok):
    if ok:
        checks.zero(*args)
    else:
        with pytest.raises(ClaimError, match="zero"):
            checks.zero(*args)


@verdicts(
    "close",
    good=[(1.0, 1.0 + 1e-11), (torch.ones(3), torch.ones(3)), (torch.ones(2, 2), 1.0), (1e-12, 0.0, 1e-10, 1e-11)],
    bad=[(1.0, 1.0 + 1e-9), (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])), (1e-12, 0.0), (torch.zeros(2), 1.0)],
)
def test_close(checks, args, ok):
    if ok:
        checks.close(*args)
    else:
        with pytest.raises(ClaimError, match="close"):
            checks.close(*args)


@verdicts(
    "at_most",
    good=[(1.0, 1.0), (torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0])), (1.1, 1.0, 0.2)],
    bad=[(1.1, 1.0), (torch.tensor([0.0, 2.0]), 1.0)],
)
def test_inequalities(checks, args, ok):
    mirrored = (-torch.as_tensor(args[0]), -torch.as_tensor(args[1]), *args[2:])
    for check, values in ((checks.at_most, args), (checks.at_least, mirrored)):
        if ok:
            check(*values)
        else:
            with pytest.raises(ClaimError):
                check(*values)


@verdicts("order", good=[(h, [v**2 for v in h], 2), (h, [3 * v**2 + v**3 for v in h], 2)], bad=[(h, h, 2), (h, [v**2.3 for v in h], 2)])
def test_order(checks, args, ok):
    if ok:
        checks.order(*args)
    else:
        with pytest.raises(ClaimError, match="slope"):
            checks.order(*args)


def test_z_accepts_the_mean_and_rejects_a_shifted_one(checks, generator):
    samples = torch.randn(10_000, 2, generator=generator, dtype=torch.float64)
    checks.z(samples, [0.0, 0.0])
    with pytest.raises(ClaimError, match="standard errors"):
        checks.z(samples, [0.0, 0.06])  # six standard errors of 1/100 away


def test_z_has_the_stated_false_alarm_rate(generator):
    """Ten thousand true claims at 2 standard errors: 4.55% fail, up to five binomial standard errors."""
    failed = 0
    for samples in torch.randn(10_000, 400, generator=generator, dtype=torch.float64):
        try:
            Checks().z(samples, 0.0, n_sigma=2)
        except ClaimError:
            failed += 1
    assert abs(failed / 10_000 - 0.0455) < 5 * (0.0455 * 0.9545 / 10_000) ** 0.5 + 0.001  # 0.001: Student's t with 399 degrees of freedom


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda c: c.close(float("nan"), 1.0), "NaN"),
        (lambda c: c.close(torch.ones(3), torch.ones(2)), "equal shapes"),
        (lambda c: c.close(torch.ones(0), torch.ones(0)), "empty"),
        (lambda c: c.at_most(torch.ones(3), torch.ones(2)), "equal shapes"),
        (lambda c: c.at_least(float("inf"), 1.0), "infinity"),
        (lambda c: c.order(h[:3], h[:3], 1), "at least 4"),
        (lambda c: c.order(h, [0.0, *h[1:]], 1), "positive"),
        (lambda c: c.z(torch.ones(100), 1.0), "vary"),
        (lambda c: c.z(torch.randn(10), 0.0), "at least 30"),
        (lambda c: c.z(torch.randn(100, 2), [0.0, 0.0, 0.0]), "shape"),
    ],
)
def test_bad_input_is_an_error_and_never_a_rejection(call, match):
    with pytest.raises(ValueError, match=match):
        call(Checks())
    with pytest.raises(ValueError, match=match), claim(ID) as c:
        c.rejects(call)


def test_a_block_needs_a_check_and_a_control():
    with pytest.raises(ClaimError, match="checks nothing"), claim(ID):
        pass
    with pytest.raises(ClaimError, match="negative control"), claim(ID) as c:
        c.close(1.0, 1.0)
    with claim(ID) as c:
        c.close(1.0, 1.0)
        c.rejects(lambda c: c.close(1.0, 2.0))


def test_a_control_that_passes_or_checks_nothing_is_an_error():
    with pytest.raises(ClaimError, match="not rejected"), claim(ID) as c:
        c.close(1.0, 1.0)
        c.rejects(lambda c: c.close(1.0, 1.0))
    with pytest.raises(ClaimError, match="checked nothing"), claim(ID) as c:
        c.rejects(lambda c: None)
    with pytest.raises(ZeroDivisionError), claim(ID) as c:
        c.rejects(lambda c: c.close(1 / 0, 1.0))


def test_a_failing_check_leaves_the_block():
    with pytest.raises(ClaimError, match="close"), claim(ID) as c:
        c.close(1.0, 2.0)


def test_ids_are_known_and_different():
    with pytest.raises(KeyError, match="thm-2-1-1"):
        claim("thm-2-1-2")
    for ids in ((), (ID, ID)):
        with pytest.raises(ValueError, match="different ids"):
            claim(*ids)


def test_a_record_says_what_was_compared_as_the_caller_wrote_it():
    kl, weighted, pair = 1.0, 1.0, (2.0, 2.0)
    with claim(ID) as c:
        c.close(kl, 2 * weighted - 1.0)
        c.close(got=kl, want=weighted)
        c.at_most(kl, bound=weighted + 1)
        c.zero(x - x)
        c.order(step_sizes=h, errors=h, expected=1)
        c.close(*pair)
        c.rejects(lambda c: c.close(kl, 3 * weighted))
    assert [r["what"] for r in c.records] == ["kl = 2 * weighted - 1.0", "kl = weighted", "kl ≤ weighted + 1", "x - x = 0", "h", "*pair"]
    assert [r["what"] for r in c.controls] == ["kl = 3 * weighted"]


@pytest.mark.parametrize(("got", "bound", "text"), [(1.0, 2.0, "1 against 2"), (torch.tensor([0.0, 3.0]), 2.0, "closest 3 against 2")])
def test_an_inequality_reports_the_pair_that_is_nearest_to_failing_or_worst(checks, got, bound, text):
    with contextlib.suppress(ClaimError):
        checks.at_most(got, bound)
    assert checks.records[0]["text"] == text
