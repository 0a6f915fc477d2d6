"""The grid solver against exact mixtures, matrix exponentials and conservation; the residual against finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.fokker_planck import (
    _random_walk,
    cell_average,
    cells,
    finite_volume_step,
    fokker_planck_1d,
    fokker_planck_2d,
    fokker_planck_residual,
    total_mass,
)
from mathcore.dynamics.sde import forward_family, forward_sde, reverse_sde
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

F64 = torch.float64
VP = AffineSchedule.vp()
SDE_VP = forward_sde(VP)
LINE = AffineGaussianOracle(examples.two_modes(), VP)
PLANE = AffineGaussianOracle(examples.ring(modes=3, radius=1.5, std=0.4), VP)


def still(x, t):
    return torch.zeros_like(x)


def slope(sizes, errors):
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def exact(oracle, t, grid):
    return cell_average(oracle.marginal(t).prob, grid)


# --- grid --------------------------------------------------------------------------------------------------------------------------------


def test_cells_fill_the_interval():
    grid = cells(-1.0, 2.0, 6)
    assert torch.allclose(grid, torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25, 1.75], dtype=F64))


def test_cell_average_is_the_difference_of_distribution_functions():
    data, grid = examples.two_modes(), cells(-3.0, 3.0, 60)
    edges = torch.linspace(-3, 3, 61, dtype=F64)[:, None]
    # three Gauss points are exact to degree five: the error is of order (width / std)^6 / 2016000 = 1e-8 of the peak
    assert torch.allclose(cell_average(data.prob, grid), data.cdf(edges).diff() / 0.1, atol=1e-7)


def test_total_mass_of_a_path():
    grid = (cells(-6.0, 6.0, 40), cells(-5.0, 5.0, 30))
    p = cell_average(PLANE.data.prob, grid)
    assert total_mass(p, grid) == pytest.approx(1.0, abs=1e-6)
    assert total_mass(torch.stack([p, 2 * p]), grid).tolist() == pytest.approx([1.0, 2.0], abs=1e-6)


# --- diffusion ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jumps", "n"), [(1e-9, 5), (0.3, 5), (7.0, 12), (400.0, 12), (3e3, 6), (1e5, 6)])
def test_random_walk_is_the_exponential_of_the_discrete_laplacian(jumps, n):
    laplacian = np.diag(np.full(n, -2.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    laplacian[0, 0] = laplacian[-1, -1] = -1.0  # reflecting walls
    walk = _random_walk(jumps, n)
    want = torch.from_numpy(expm(jumps / 2 * laplacian))
    assert torch.allclose(walk, want, rtol=1e-12, atol=1e-14 * max(1.0, math.sqrt(jumps)))
    assert bool((walk >= 0).all())
    assert torch.allclose(walk.sum(0), torch.ones(n, dtype=F64), rtol=1e-14)
    assert torch.equal(walk, walk.T)


def test_a_diffusion_of_any_length_keeps_mass_and_ends_uniform():
    grid = cells(0.0, 1.0, 50)
    p0 = torch.zeros(50, dtype=F64)
    p0[0] = 50.0
    for g in (3.0, 1e9):
        p = fokker_planck_1d(still, g, p0, grid, torch.tensor([0.0, 1.0], dtype=F64))
        assert torch.allclose(p, torch.ones(50, dtype=F64), rtol=1e-12)


def test_the_variance_of_a_diffusion_is_exact():
    # the second moment of the walk grows by g^2 per unit of time whatever the width of the cells
    data, grid = GaussianMixture(*(torch.tensor(v, dtype=F64) for v in ([1.0], [[0.2]], [0.3]))), cells(-12.0, 12.0, 120)
    times = torch.tensor([0.0, 0.7, 1.0], dtype=F64)
    path = fokker_planck_1d(still, lambda t: 1 + t, data.prob, grid, times, return_path=True)
    second = (path * grid.square()).sum(1) * 0.2
    gained = ((1 + times) ** 3 - 1) / 3
    assert torch.allclose(second - second[0], gained, rtol=1e-10)


# --- transport ---------------------------------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_cells_is_exact():
    grid, p0 = cells(0.0, 8.0, 8), torch.tensor([0.0, 3.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    p = finite_volume_step(p0, lambda x, t: torch.full_like(x, 3.0), 0.0, grid, 0.0, 1.0)
    assert torch.allclose(p, p0.roll(3), atol=1e-15)


def test_what_meets_a_wall_stays_in_the_last_cell():
    grid, p0 = cells(0.0, 8.0, 8), torch.ones(8, dtype=F64) / 8
    p = finite_volume_step(p0, lambda x, t: torch.full_like(x, 2.5), 0.0, grid, 0.0, 1.0)
    # two and a half cells are emptied on the left; on the right the last cell collects its own, two whole ones and half of the next
    assert torch.allclose(p * 8, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 3.5], dtype=F64), atol=1e-15)


def test_a_narrow_peak_stays_positive_and_bounded_below():
    grid = cells(-3.0, 3.0, 30)
    p0 = torch.zeros(30, dtype=F64)
    p0[14], p0[15] = 5.0, 1e-9
    for _ in range(5):
        p0 = finite_volume_step(p0, lambda x, t: torch.cos(3 * x), 0.0, grid, 0.0, 0.03)
    assert bool((p0 >= 0).all())
    assert total_mass(p0, grid) == pytest.approx(5.000000001 * 0.2, rel=1e-13)


def test_faces_that_overtake_each_other_are_refused(user_errors):
    grid = cells(-3.0, 3.0, 30)
    with pytest.raises(ValueError, match=r"overtake each other.*more times"):
        finite_volume_step(torch.ones(30, dtype=F64), lambda x, t: torch.sin(20 * x), 0.0, grid, 0.0, 1.0)


# --- against exact densities -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "expected", "tol"), [("forward", 2, 0.1), ("family", 2, 0.15), ("reverse", 2, 0.25), ("ode", 2.25, 0.6)])
def test_order_two_on_the_line(which, expected, tol):
    """VP from t = 0 to 0.4, back for the reverse SDE, cells and steps refined together; transport alone is of an order between 2 and 3."""
    wide = GaussianMixture(*(torch.tensor(v, dtype=F64) for v in ([0.4, 0.6], [[-1.2], [1.0]], [0.25, 0.16])))
    oracle = AffineGaussianOracle(wide, VP)
    sde = forward_family(SDE_VP, oracle.score, {"forward": 1.0, "family": 0.5, "ode": 0.0}.get(which, 1.0))
    start, end = 0.0, 0.4
    if which == "reverse":
        sde, start, end = reverse_sde(SDE_VP, oracle.score), end, start
    counts, errors = [60, 85, 120, 170], []
    for n in counts:
        grid = cells(-5.0, 5.0, n)
        p = fokker_planck_1d(sde.drift, sde.diffusion, oracle.marginal(start).prob, grid, torch.linspace(start, end, n // 2 + 1, dtype=F64))
        errors.append(float((p - exact(oracle, end, grid)).abs().max()))
        assert total_mass(p, grid) == pytest.approx(float(total_mass(exact(oracle, start, grid), grid)), abs=1e-13)
        assert bool((p >= 0).all())
    assert errors[-1] < 1e-3  # of a density with maximum near 1/2
    assert slope([1 / n for n in counts], errors) == pytest.approx(expected, abs=tol)


def test_order_two_in_the_steps_alone():
    grid, errors, counts = cells(-6.0, 6.0, 150), [], [8, 16, 32, 64]
    fine = fokker_planck_1d(SDE_VP.drift, SDE_VP.diffusion, LINE.data.prob, grid, torch.linspace(0, 1, 1025, dtype=F64))
    for m in counts:
        p = fokker_planck_1d(SDE_VP.drift, SDE_VP.diffusion, LINE.data.prob, grid, torch.linspace(0, 1, m + 1, dtype=F64))
        errors.append(float((p - fine).abs().max()))
    assert slope([1 / m for m in counts], errors) == pytest.approx(2.0, abs=0.3)


def test_order_two_in_the_plane():
    counts, errors = [24, 34, 48, 68], []
    for n in counts:
        grid = (cells(-5.0, 5.0, n), cells(-4.5, 5.5, n + 1))
        p = fokker_planck_2d(SDE_VP.drift, SDE_VP.diffusion, PLANE.data.prob, grid, torch.linspace(0, 0.3, n + 1, dtype=F64))
        errors.append(float((p - exact(PLANE, 0.3, grid)).abs().max()))
        assert total_mass(p, grid) == pytest.approx(float(total_mass(exact(PLANE, 0.0, grid), grid)), abs=1e-13)
        assert bool((p >= 0).all())
    assert slope([1 / n for n in counts], errors) == pytest.approx(2.0, abs=0.3)


def test_a_rotation_in_the_plane_brings_the_density_back():
    grid = (cells(-4.0, 4.0, 120), cells(-4.0, 4.0, 120))
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    p0 = exact(PLANE, 0.0, grid)
    errors = [
        float((fokker_planck_2d(lambda x, t: x @ turn.T, 0.0, p0, grid, torch.linspace(0, 2 * math.pi, m + 1, dtype=F64)) - p0).abs().max())
        for m in (30, 60)
    ]
    assert errors[1] < 0.27 * errors[0] < 0.003  # second order in the steps; the density has maximum 1/3


def test_path_holds_every_time_and_dtype_follows():
    grid, ts = cells(-5.0, 5.0, 50).float(), torch.linspace(0, 0.4, 5)
    data = LINE.data.to(torch.float32)
    path = fokker_planck_1d(SDE_VP.drift, SDE_VP.diffusion, data.prob, grid, ts, return_path=True)
    assert path.shape == (5, 50)
    assert path.dtype == torch.float32
    assert torch.equal(path[-1], fokker_planck_1d(SDE_VP.drift, SDE_VP.diffusion, data.prob, grid, ts))


@given(st.integers(4, 40), st.floats(0.0, 3.0), st.floats(-2.0, 2.0), st.floats(0.01, 1.0), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_mass_and_positivity_for_any_density(n, g, rate, h, seed):
    p0 = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=F64) ** 12  # rough, with cells near zero
    p = finite_volume_step(p0, lambda x, t: rate * x + 1, g, cells(-1.0, 2.0, n), 0.0, h)
    assert bool((p >= 0).all())
    assert float(p.sum()) == pytest.approx(float(p0.sum()), rel=1e-13)


# --- the residual ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", [LINE, PLANE], ids=["line", "plane"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.7])
def test_residual_vanishes_for_every_member_of_the_family(oracle, eta, generator):
    x = oracle.data.sample(20, generator)
    member = forward_family(SDE_VP, oracle.score, eta)
    for t in (0.2, torch.tensor(0.7, dtype=F64), torch.linspace(0.1, 1.0, 20, dtype=F64)):
        # rounding of a few terms of size g^2 / std^2, up to 1e3
        assert float(fokker_planck_residual(oracle.log_prob, member.drift, member.diffusion, x, t).abs().max()) < 1e-11


def test_residual_of_a_wrong_drift_is_the_divergence_of_what_is_wrong(generator):
    x = PLANE.data.sample(30, generator)
    residual = fokker_planck_residual(PLANE.log_prob, lambda y, t: SDE_VP.drift(y, t) + 0.3 * y, SDE_VP.diffusion, x, 0.4)
    want = 0.3 * (2 + (x * PLANE.score(x, 0.4)).sum(1))
    assert torch.allclose(residual, want, rtol=1e-10, atol=1e-11)


def test_residual_against_finite_differences():
    def p(x, t):  # solves nothing
        return torch.exp(-(x[:, 0] ** 2) * (1 + t) - t * x[:, 0])

    def drift(x, t):
        return torch.sin(x) * t

    def flux(x):
        return drift(x, t)[:, 0] * p(x, t)

    x, t, g, h = torch.linspace(-1, 1, 9, dtype=F64)[:, None], 0.3, 0.8, 1e-3
    want = (p(x, t + h) - p(x, t - h)) / (2 * h) + (flux(x + h) - flux(x - h)) / (2 * h)
    want = (want - g**2 / 2 * (p(x + h, t) - 2 * p(x, t) + p(x - h, t)) / h**2) / p(x, t)
    got = fokker_planck_residual(lambda y, u: p(y, u).log(), drift, g, x, t)
    assert torch.allclose(got, want, atol=1e-4)  # h^2 times third and fourth derivatives, below 100 here


# --- refusals ----------------------------------------------------------------------------------------------------------------------------

GRID = cells(-1.0, 1.0, 8)
P0 = torch.ones(8, dtype=F64)
TS = torch.tensor([0.0, 0.1], dtype=F64)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"grid": GRID**3}, ValueError, "grid must be increasing and evenly spaced"),
        ({"grid": GRID.flip(0)}, ValueError, "grid must be increasing"),
        ({"grid": GRID[:3]}, ValueError, "at least 4 cells"),
        ({"grid": GRID[None]}, ValueError, "grid must have 1 axes"),
        ({"grid": [1.0, 2.0]}, TypeError, "grid must be a torch.Tensor"),
        ({"ts": torch.tensor([0.0, 0.1, 0.1], dtype=F64)}, ValueError, "ts must hold"),
        ({"ts": torch.tensor([0.0], dtype=F64)}, ValueError, "ts must hold"),
        ({"p0": P0[:7]}, ValueError, "p0 must have the shape of the grid"),
        ({"p0": -P0}, ValueError, "p0 must not be negative"),
        ({"p0": P0 * math.nan}, ValueError, "p0 contains NaN"),
        ({"p0": P0.float()}, TypeError, "share one dtype"),
        ({"p0": P0.long()}, TypeError, "p0 must be a floating-point tensor"),
        ({"p0": lambda x: x}, ValueError, "the density must return one value per point"),
        ({"g": -1.0}, ValueError, "g must be non-negative"),
        ({"g": lambda t: math.nan}, ValueError, "g must be non-negative and finite"),
        ({"f": lambda x, t: x[:, 0]}, ValueError, "f must return the shape of its points"),
        ({"f": lambda x, t: x * math.nan}, ValueError, "drift f"),
    ],
)
def test_bad_input(user_errors, change, error, match):
    given_ = {"f": still, "g": 1.0, "p0": P0, "grid": GRID, "ts": TS} | change
    with pytest.raises(error, match=match):
        fokker_planck_1d(**given_)


def test_bad_input_elsewhere(user_errors):
    with pytest.raises(ValueError, match="grid must be a pair"):
        fokker_planck_2d(still, 1.0, P0, GRID, TS)
    with pytest.raises(TypeError, match="axes of the grid must share dtype"):
        fokker_planck_2d(still, 1.0, torch.ones(8, 8, dtype=F64), (GRID, GRID.float()), TS)
    with pytest.raises(ValueError, match="different finite times"):
        finite_volume_step(P0, still, 1.0, GRID, 0.1, 0.1)
    with pytest.raises(ValueError, match="low < high"):
        cells(1.0, 1.0, 8)
    with pytest.raises(ValueError, match="n must be an integer"):
        cells(0.0, 1.0, 3)
    with pytest.raises(ValueError, match="p must end in the shape of the grid"):
        total_mass(torch.ones(7, dtype=F64), GRID)
    x = torch.zeros(3, 1, dtype=F64)
    with pytest.raises(ValueError, match="log_p must return one value per row"):
        fokker_planck_residual(lambda y, t: y, still, 1.0, x, 0.5)
    with pytest.raises(ValueError, match="f must return the shape"):
        fokker_planck_residual(lambda y, t: -(y**2).sum(1) * t, lambda y, t: y[:, 0], 1.0, x, 0.5)
    with pytest.raises(ValueError, match="x must have 2 axes"):
        fokker_planck_residual(LINE.log_prob, still, 1.0, x[:, 0], 0.5)
