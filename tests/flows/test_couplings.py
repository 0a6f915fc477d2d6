"""Assignments against brute force, scipy and POT; couplings keep their points."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from mathcore.flows import independent_pairs, minibatch_ot_pairs, optimal_assignment

f64 = torch.float64


def cost(x0, x1, order):
    return float((x0.double() - x1[order].double()).square().sum())


@given(seed=st.integers(0, 1000), n=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_assignment_by_brute_force(seed, n):
    g = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(n, 2, generator=g, dtype=f64), torch.randn(n, 2, generator=g, dtype=f64) + 1
    best = min(cost(x0, x1, list(p)) for p in itertools.permutations(range(n)))
    got = optimal_assignment(x0, x1)
    assert sorted(got.tolist()) == list(range(n))
    assert cost(x0, x1, got) == pytest.approx(best, rel=1e-12, abs=1e-12)


CASES = {
    "clusters": lambda g: (
        torch.randn(200, 2, generator=g),
        3 * torch.randint(3, (200, 2), generator=g) + 0.1 * torch.randn(200, 2, generator=g),
    ),
    "far from the origin": lambda g: (1e3 + torch.randn(150, 3, generator=g), torch.randn(150, 3, generator=g) - 1e3),
    # a heavy tail: the spread of the cost is that of a few points, and the entropic start gives up
    "outliers": lambda g: (torch.randn(150, 2, generator=g, dtype=f64) ** 9, torch.randn(150, 2, generator=g, dtype=f64) ** 9),
    "ties": lambda g: (torch.randint(3, (120, 1), generator=g).double(), torch.randint(3, (120, 1), generator=g).double()),
    "images": lambda g: (torch.randn(100, 1, 8, 8, generator=g), torch.rand(100, 1, 8, 8, generator=g)),
}


@pytest.mark.parametrize("case", CASES)
def test_assignment_against_the_plain_algorithm(case, generator):
    x0, x1 = CASES[case](generator)
    squares = torch.cdist(x0.double().flatten(1), x1.double().flatten(1), compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    rows, columns = linear_sum_assignment(squares)
    # costs are shifted by potentials of their own size: a few roundings of the largest
    assert cost(x0, x1, optimal_assignment(x0, x1)) == pytest.approx(squares[rows, columns].sum(), rel=1e-10)


def test_assignment_against_pot(generator):
    ot = pytest.importorskip("ot")
    x0, x1 = torch.randn(300, 2, generator=generator, dtype=f64), torch.randn(300, 2, generator=generator, dtype=f64)
    squares = ((x0[:, None] - x1) ** 2).sum(-1).numpy()
    want = ot.emd2(np.full(300, 1 / 300), np.full(300, 1 / 300), squares)
    assert cost(x0, x1, optimal_assignment(x0, x1)) / 300 == pytest.approx(want, rel=1e-10)


def test_on_the_line_the_order_is_kept(generator):
    x0, x1 = torch.randn(400, 1, generator=generator), torch.rand(400, 1, generator=generator)
    left, right = minibatch_ot_pairs(x0, x1, generator)
    assert torch.equal(right[left[:, 0].argsort()], x1.sort(0).values)


@pytest.mark.parametrize("coupling", [independent_pairs, minibatch_ot_pairs])
def test_couplings_keep_the_points(coupling, generator):
    x0, x1 = torch.randn(50, 1, 2, 2, generator=generator), torch.randn(50, 1, 2, 2, generator=generator)
    left, right = coupling(x0, x1, generator)
    assert torch.equal(left, x0)
    assert right.shape == x1.shape
    assert torch.equal(right.flatten(1).sum(1).sort().values, x1.flatten(1).sum(1).sort().values)
    assert not torch.equal(right, x1)


def test_independent_pairs_forget_the_pairing():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=g, dtype=f64)
    _, right = independent_pairs(x, 2 * x, g)
    assert abs(float(torch.corrcoef(torch.cat([x, right], 1).T)[0, 1])) < 5 / 20_000**0.5  # standard error of a zero correlation
    again = independent_pairs(x, 2 * x, torch.Generator().manual_seed(3))[1]
    assert torch.equal(again, independent_pairs(x, 2 * x, torch.Generator().manual_seed(3))[1])


def test_equal_points_and_nothing_at_all():
    x = torch.ones(4, 2)
    assert sorted(optimal_assignment(x, x).tolist()) == [0, 1, 2, 3]
    assert optimal_assignment(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize("fn", [independent_pairs, minibatch_ot_pairs, optimal_assignment])
@pytest.mark.parametrize(
    ("x1", "error", "match"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "x1 must be a floating"),
        (torch.zeros(3, 2, dtype=f64), TypeError, "share a dtype"),
        (torch.zeros(4, 2), ValueError, "share a shape"),
        (torch.full((3, 2), float("nan")), ValueError, "x1 contains NaN"),
    ],
)
def test_refusals(fn, x1, error, match, user_errors):
    with pytest.raises(error, match=match):
        fn(torch.zeros(3, 2), x1)


def test_unknown_method(user_errors):
    with pytest.raises(ValueError, match="method must be one of exact"):
        minibatch_ot_pairs(torch.zeros(3, 2), torch.zeros(3, 2), method="sinkhorn")
