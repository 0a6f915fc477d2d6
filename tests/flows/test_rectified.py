"""Rectified flow against matrix square roots, the Bures distance, quantile maps and the exact oracle of two mixtures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.divergences import energy_distance, two_sample_floor, wasserstein2_gaussian
from mathcore.flows.rectified import (
    bures_map,
    coupling_variance,
    linear_rectified_map,
    rectified_path,
    rectify,
    reflow_pairs,
    straightness,
    transport_cost,
)
from mathcore.interpolant_oracle import InterpolantOracle
from mathcore.interpolation import Interpolation

F64 = torch.float64
EYE = torch.eye(2, dtype=F64)
S0 = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=F64)
S1 = torch.tensor([[1.0, -0.8], [-0.8, 3.0]], dtype=F64)
LINEAR = Interpolation.linear()


def turn(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=F64)


def normal(dim=2):
    return GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, dim, dtype=F64), torch.ones(1, dtype=F64))


def four_modes():
    means = 3.0 * torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=F64)
    return GaussianMixture(torch.full((4,), 0.25, dtype=F64), means, torch.full((4,), 0.09, dtype=F64))


# --- Gaussians ----------------------------------------------------------------------------------------------------------------------------


def test_the_worked_gaussian_example():
    once = linear_rectified_map(S0, S1)
    # published to seven figures
    want = {"cost_before": 7.0, "cost_after": 2.460821, "straightness": 0.974116, "variance": 3.565063}
    for name, value in want.items():
        assert float(getattr(once, name)) == pytest.approx(value, abs=6e-7), name
    drop = once.cost_before - once.cost_after
    assert float(drop) == pytest.approx(float(once.straightness + once.variance), abs=1e-11)
    root = torch.from_numpy(sqrtm((S1 @ torch.linalg.inv(S0)).numpy()))
    assert torch.allclose(once.matrix, root, rtol=0, atol=1e-11)
    assert torch.allclose(once.matrix, torch.tensor([[1.2406, -1.1171], [-1.7554, 3.2354]], dtype=F64), atol=5e-5)
    twice = linear_rectified_map(S0, S1, cross=S0 @ once.matrix.T)
    assert torch.allclose(twice.matrix, once.matrix, rtol=0, atol=1e-11)
    assert float(twice.straightness.abs()) < 1e-11
    assert float(twice.variance.abs()) < 1e-11
    assert float(twice.cost_after) == pytest.approx(float(once.cost_after), abs=1e-11)


def test_the_optimal_map_is_cheaper_and_symmetric():
    best = bures_map(S0, S1)
    assert torch.allclose(best, best.T, atol=1e-13)
    assert torch.allclose(best @ S0 @ best.T, S1, atol=1e-12)
    cost = float(torch.trace((best - EYE) @ S0 @ (best - EYE).T))
    zero = torch.zeros(2, dtype=F64)
    assert cost == pytest.approx(float(wasserstein2_gaussian(zero, S0, zero, S1)) ** 2, rel=1e-12)
    assert cost == pytest.approx(2.361372, abs=6e-7)
    assert cost < float(linear_rectified_map(S0, S1).cost_after) - 0.09


@given(st.integers(1, 3), st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_one_rectify_of_any_gaussian_coupling(d, seed):
    """The drop in cost is S + V, the end law is kept, and no convex quadratic cost grows."""
    g = torch.Generator().manual_seed(seed)
    factor = torch.randn(2 * d, 2 * d, generator=g, dtype=F64)
    joint = factor @ factor.T + 0.3 * torch.eye(2 * d, dtype=F64)
    first, second, cross = joint[:d, :d], joint[d:, d:], joint[:d, d:]
    out = linear_rectified_map(first, second, cross)
    scale = float(joint.trace())
    # the tolerance of the integrator, 1e-13 per unit of the growth of M along the way
    drop = float(out.cost_before - out.cost_after)
    assert drop == pytest.approx(float(out.straightness + out.variance), abs=1e-10 * scale)
    assert torch.allclose(out.matrix @ first @ out.matrix.T, second, rtol=0, atol=1e-10 * scale)
    assert drop > -1e-10 * scale
    assert float(out.straightness) > -1e-10 * scale


@pytest.mark.parametrize("angle", [0.7, 2.5, -3.0])
def test_a_rotation_is_straight_and_kept(angle):
    """2 (D - tr A) whatever the angle, though the identity would cost nothing."""
    A = turn(angle)
    out = linear_rectified_map(EYE, EYE, cross=A.T)
    assert torch.allclose(out.matrix, A, atol=1e-11)
    assert float(out.cost_after) == pytest.approx(2 * (2 - 2 * math.cos(angle)), rel=1e-11)
    assert abs(float(out.straightness)) + abs(float(out.variance)) < 1e-10


def test_half_a_turn_has_no_flow():
    with pytest.raises(ValueError, match=r"cross at t = 0\.5"):
        linear_rectified_map(EYE, EYE, cross=-EYE)
    one = torch.ones(1, 1, dtype=F64)
    with pytest.raises(ValueError, match=r"cross at t = 0\.333"):
        linear_rectified_map(one, 4 * one, cross=-2 * one)


def test_the_end_map_does_not_depend_on_the_scalar_schedule():
    def trig(t):
        return torch.cos(torch.pi / 2 * t) * EYE, torch.sin(torch.pi / 2 * t) * EYE

    other = linear_rectified_map(S0, S1, path=trig)
    assert torch.allclose(other.matrix, linear_rectified_map(S0, S1).matrix, rtol=0, atol=1e-11)
    # the trajectories do depend on it
    assert abs(float(other.straightness) - 0.974116) > 0.1


@pytest.mark.parametrize(("size", "cost"), [(0.0, 0.0), (0.5, 3.3245), (1.0, 5.0012), (2.0, 5.8114)])
def test_a_bent_path_can_raise_the_cost(size, cost):
    swirl = turn(math.pi / 2)

    def path(t):
        bend = size * torch.sin(torch.pi * t) * swirl
        return (1 - t) * EYE - bend, t * EYE + bend

    out = linear_rectified_map(EYE, EYE, path=path)
    assert float(out.cost_before) == pytest.approx(4.0)
    assert float(out.cost_after) == pytest.approx(cost, abs=6e-5)
    # the map is a rotation
    assert torch.allclose(out.matrix @ out.matrix.T, EYE, atol=1e-10)


# --- samples of mixtures ------------------------------------------------------------------------------------------------------------------


def test_in_one_dimension_rectify_is_the_quantile_map(generator):
    source = GaussianMixture(*(torch.tensor(v, dtype=F64) for v in ([0.5, 0.5], [[-1.0], [1.5]], [0.3, 0.2])))
    target = examples.two_modes()
    oracle = InterpolantOracle(source, target, LINEAR)
    z0 = source.sample(200, generator)
    z1 = rectify(oracle.velocity, z0, 200)
    want = target.icdf(source.cdf(z0))
    assert torch.allclose(z1, want, rtol=0, atol=1e-4)  # fourth order: 200 steps of a field whose time scale is a tenth
    assert torch.allclose(rectify(oracle.velocity, z0, 400), want, rtol=0, atol=1e-5)


def test_marginals_are_kept_on_the_way(generator):
    oracle = InterpolantOracle(normal(), four_modes(), LINEAR)
    z0 = oracle.source.sample(1500, generator)
    path = rectified_path(oracle.velocity, z0, torch.linspace(0, 1, 41, dtype=F64))
    for i, t in ((10, 0.25), (20, 0.5), (30, 0.75), (40, 1.0)):
        law = oracle.marginal(t)
        floor, spread = two_sample_floor(energy_distance, lambda n, g, p=law: p.sample(n, g), 1500, 8, generator)
        assert float(energy_distance(path[:, i], law.sample(1500, generator))) < float(floor) + 6 * float(spread), t


def test_every_convex_cost_falls(generator):
    oracle = InterpolantOracle(normal(), four_modes(), LINEAR)
    x0, x1 = oracle.source.sample(4000, generator), oracle.target.sample(4000, generator)
    z1 = rectify(oracle.velocity, x0, 60)
    ratios = [float(transport_cost(x0, z1, p) / transport_cost(x0, x1, p)) for p in (1, 1.5, 2, 4)]
    assert all(ratio < 0.9 for ratio in ratios), ratios


def test_the_drop_in_cost_on_a_mixture(generator):
    """E|x_1 - x_0|^2 - E|z_1 - z_0|^2 = S + V with nothing Gaussian about the pair."""
    oracle = InterpolantOracle(normal(), four_modes(), LINEAR)
    n, ts = 4000, torch.linspace(0, 1, 61, dtype=F64)
    z0 = oracle.source.sample(n, generator)
    path = rectified_path(oracle.velocity, z0, ts)
    before = 2.0 + 9.0 + 2 * 0.09  # independent centred ends: the two second moments
    drop = before - float(transport_cost(z0, path[:, -1]))
    variance = torch.stack([oracle.target_variance(t.item(), 2000, generator) for t in ts])
    total = float(straightness(path, ts) + torch.trapezoid(variance, ts))
    # E|z_1 - z_0|^2 has standard error about 7 / sqrt(4000) = 0.1; the rest less
    assert total == pytest.approx(drop, abs=0.5)


def test_rectified_pairs_leave_nothing_to_explain(generator):
    oracle = InterpolantOracle(normal(), four_modes(), LINEAR)
    z0, z1 = reflow_pairs(oracle.velocity, oracle.source.sample, 4000, 200, generator=generator)
    again = reflow_pairs(oracle.velocity, oracle.source.sample, 50, 20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again[0], oracle.source.sample(50, torch.Generator().manual_seed(3)))
    ts = torch.linspace(0.05, 0.95, 7, dtype=F64)
    after = coupling_variance(z0, z1, ts).mean()
    before = coupling_variance(z0, z1[torch.randperm(len(z1), generator=generator)], ts).mean()
    assert 4 < float(before) < 7
    # not zero: a pair and its neighbour may be on two sides of a boundary between modes
    assert float(after) < 0.05


def test_the_neighbours_estimate_the_exact_variance(generator):
    oracle = InterpolantOracle(normal(), four_modes(), LINEAR)
    x0, x1 = oracle.source.sample(20000, generator), oracle.target.sample(20000, generator)
    ts = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    exact = torch.stack([oracle.target_variance(t.item(), 20000, generator) for t in ts])
    # half a squared difference of 20000 pairs: standard error below 1%, neighbours at a distance of 0.02
    assert torch.allclose(coupling_variance(x0, x1, ts), exact, rtol=0.05)


def test_the_gaussian_estimate_is_exact_for_gaussian_pairs(generator):
    """x_1 = 2 x_0 + eps on the line: x_1 - x_0 = x_0 + eps beside x_t = (1 + t) x_0 + t eps."""
    x0 = torch.randn(200_000, 1, generator=generator, dtype=F64)
    x1 = 2 * x0 + torch.randn(x0.shape, generator=generator, dtype=F64)
    ts = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    want = 2 - (1 + 2 * ts) ** 2 / ((1 + ts) ** 2 + ts**2)
    got = coupling_variance(x0, x1, ts, "gaussian")
    assert torch.allclose(got, want, rtol=5 * math.sqrt(2 / 200_000))
    assert torch.allclose(coupling_variance(x0[:20000], x1[:20000], ts), want, rtol=0.06)


# --- straightness and cost ----------------------------------------------------------------------------------------------------------------


def test_straightness_of_a_parabola():
    """y_t = t^2 c: int |c - 2 t c|^2 dt = |c|^2 / 3, and the broken line through M nodes has 1 - h^2 of it."""
    c = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=F64)
    for m in (5, 11, 101):
        ts = torch.linspace(0, 1, m, dtype=F64)
        got = float(straightness(ts[None, :, None] ** 2 * c[:, None], ts))
        assert got == pytest.approx(float(c.square().sum(1).mean()) / 3 * (1 - 1 / (m - 1) ** 2), rel=1e-12)


def test_straight_lines_are_straight(generator):
    x0, x1 = (torch.randn(30, 2, 3, generator=generator, dtype=F64) for _ in range(2))
    ts = torch.tensor([0.0, 0.1, 0.7, 1.0], dtype=F64)
    line = torch.stack([torch.lerp(x0, x1, t) for t in ts], dim=1)
    assert float(straightness(line, ts)) < 1e-28
    # the same line at a changing speed is not
    assert float(straightness(line[:, [0, 2, 1, 3]], ts)) > 1


def test_cost_of_known_pairs():
    x0, x1 = torch.zeros(2, 2, dtype=F64), torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=F64)
    assert float(transport_cost(x0, x1)) == 14.5
    assert float(transport_cost(x0, x1, 1)) == 3.5
    assert float(transport_cost(x0, x1, 3)) == pytest.approx((125 + 8) / 2)


# --- bad input ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: transport_cost(torch.zeros(3, 2), torch.zeros(2, 2)), ValueError, "x1"),
        (lambda: transport_cost(torch.zeros(3, 2), torch.zeros(3, 2), -1), ValueError, "p must"),
        (lambda: transport_cost(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2)), TypeError, "x0"),
        (lambda: transport_cost(torch.full((3, 2), math.nan), torch.zeros(3, 2)), ValueError, "x0"),
        (lambda: straightness(torch.zeros(3, 4, 2), torch.linspace(0, 1, 5)), ValueError, "path"),
        (lambda: straightness(torch.zeros(3, 5, 2), torch.linspace(0, 2, 5)), ValueError, "run from 0 to 1"),
        (lambda: straightness([0.0], torch.linspace(0, 1, 5)), TypeError, "path"),
        (lambda: coupling_variance(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0.5])), ValueError, "at least 3 pairs"),
        (lambda: coupling_variance(torch.zeros(9, 2), torch.zeros(9, 2), torch.tensor([1.5])), ValueError, "ts"),
        (lambda: coupling_variance(torch.zeros(9, 2), torch.zeros(9, 2), torch.tensor([0.5]), "neighbors"), ValueError, "neighbours"),
        (lambda: bures_map(EYE, torch.eye(3, dtype=F64)), ValueError, "S1"),
        (lambda: bures_map(-EYE, EYE), ValueError, "S0 must be positive definite"),
        (lambda: bures_map(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), EYE), ValueError, "symmetric"),
        (lambda: linear_rectified_map(EYE, EYE, cross=2 * EYE), ValueError, "cross"),
        (lambda: linear_rectified_map(EYE, EYE, cross=torch.eye(3)), ValueError, "cross"),
        (lambda: linear_rectified_map(EYE, EYE, path=lambda t: (t * EYE, (1 - t) * EYE)), ValueError, "path must start"),
        (lambda: linear_rectified_map(EYE, EYE, path=lambda t: (1 - t, t)), ValueError, "P is"),
        (lambda: rectify(lambda x, t: x, torch.zeros(3, 2), 0), ValueError, "n_steps"),
        (lambda: rectify(lambda x, t: x[:, :1], torch.zeros(3, 2), 2), ValueError, "field"),
        (lambda: rectified_path(lambda x, t: x, torch.zeros(3, 2), torch.linspace(0, 0.5, 3)), ValueError, "run from 0 to 1"),
        (lambda: reflow_pairs(lambda x, t: x, lambda n, g: torch.zeros(n + 1, 2), 3, 2), ValueError, "sample_source"),
    ],
)
def test_bad_input(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
