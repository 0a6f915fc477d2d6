"""Brownian paths have the moments of a Wiener process at every refinement; the three sums have the limits that calculus gives them."""

import math

import pytest
import torch
from scipy.stats import kstest

from mathcore.dynamics.paths import brownian_path, brownian_refine, ito_sum, path_noise

TS = torch.tensor([0.5, 0.6, 1.0, 1.1, 2.0], dtype=torch.float64)


def covariance(w):
    flat = w[..., 0]
    return flat.T @ flat / len(flat)


def largest_z(w, ts):
    """Largest deviation of the second moments from min(s, t) - ts[0], in standard errors: Var(w_s w_t) = st + min(s, t)^2 for Gaussians."""
    u = (ts - ts[0]).abs()
    want = torch.minimum(u[:, None], u[None])
    error = ((u[:, None] * u[None] + want**2) / len(w)).sqrt()
    return float(((covariance(w) - want)[1:, 1:] / error[1:, 1:]).abs().max())


@pytest.mark.parametrize("ts", [TS, TS.flip(0)], ids=["forward", "backward"])
def test_the_law_of_a_path_and_of_its_refinements(ts, generator):
    w = brownian_path(20_000, ts, 2, generator)
    assert w.shape == (20_000, 5, 2)
    assert not bool(w[:, 0].any())
    assert largest_z(w, ts) < 5
    z = path_noise(w, ts)
    assert z.shape == (4, 20_000, 2)
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    # increments that do not overlap are independent, and so are the coordinates: correlations within 5 standard errors
    rows = z.permute(1, 0, 2).reshape(20_000, -1)
    assert (torch.corrcoef(rows.T) - torch.eye(8)).abs().max() < 5 / math.sqrt(20_000)
    fine, grid = brownian_refine(w, ts, generator)
    fine, grid = brownian_refine(fine, grid, generator)
    assert torch.equal(fine[:, ::4], w)
    assert torch.equal(grid[::4], ts)
    assert largest_z(fine, grid) < 5
    assert kstest(path_noise(fine, grid).flatten().numpy(), "norm").pvalue > 1e-4


def test_path_noise_rebuilds_the_path(generator):
    w = brownian_path(3, TS, 2, generator)
    steps = path_noise(w, TS) * TS.diff().sqrt()[:, None, None]
    torch.testing.assert_close(steps.cumsum(0).transpose(0, 1), w[:, 1:])


def test_sums_of_w_dw(generator):
    """The trapezoidal sum is w_T^2 / 2 for every path; left and right differ from it by half the quadratic variation."""
    n, steps, T = 4000, 256, 2.0
    w = brownian_path(n, torch.linspace(0, T, steps + 1, dtype=torch.float64), 1, generator)
    end = w[:, -1]
    left, middle, right = (ito_sum(w, w, rule) for rule in ("left", "trapezoid", "right"))
    torch.testing.assert_close(middle, end**2 / 2, rtol=0, atol=1e-12)
    variation = (w.diff(dim=1) ** 2).sum(1)
    torch.testing.assert_close(right - left, variation)
    # mean square of left - (w_T^2 - T) / 2 is T h / 2; the quadratic variation is a sum of 256 squares, nearly normal: relative error sqrt(2.1 / n)
    square = (left - (end**2 - T) / 2).square().mean()
    assert abs(float(square) / (T * T / steps / 2) - 1) < 5 * math.sqrt(2.1 / n)


def test_a_deterministic_integrand_gives_a_gaussian_with_the_integral_of_its_square(generator):
    ts = torch.linspace(0, 1, 201, dtype=torch.float64)
    w = brownian_path(20_000, ts, 1, generator)
    g = torch.exp(ts)
    exact = (math.exp(2) - 1) / 2
    for rule in ("left", "trapezoid", "right"):
        total = ito_sum(g, w, rule)[:, 0]
        # one rule on 200 steps shifts the variance by at most 1%
        assert abs(float(total.var()) / exact - 1) < 0.01 + 5 * math.sqrt(2 / 20_000)
        assert kstest((total / total.std()).numpy(), "norm").pvalue > 1e-4
    torch.testing.assert_close(ito_sum(g, w), ito_sum(g[None, :, None].expand_as(w), w))


def test_refusals(user_errors):
    w, ts = torch.zeros(2, 5, 1, dtype=torch.float64), TS
    for call, error, match in [
        (lambda: brownian_path(2, [0.0, 1.0]), TypeError, "ts"),
        (lambda: brownian_path(2, torch.tensor([0, 1])), TypeError, "ts"),
        (lambda: brownian_path(2, torch.tensor([0.0, 1.0, 1.0])), ValueError, "strictly"),
        (lambda: brownian_path(2, torch.tensor([0.0])), ValueError, "at least two"),
        (lambda: brownian_path(2, torch.tensor([0.0, float("nan")])), ValueError, "NaN"),
        (lambda: brownian_path(0, ts), ValueError, "n must be an integer of at least 1"),
        (lambda: brownian_path(2, ts, 1.5), ValueError, "d must be"),
        (lambda: brownian_refine(w[:, :4], ts), ValueError, "one node for each time"),
        (lambda: brownian_refine(w[..., 0], ts), ValueError, "3 axes"),
        (lambda: path_noise(w * float("nan"), ts), ValueError, "NaN"),
        (lambda: ito_sum(w, w, "middle"), ValueError, "rule must be one of"),
        (lambda: ito_sum(w[:, :4], w), ValueError, "integrand must have the shape"),
        (lambda: ito_sum(ts[:4], w), ValueError, "integrand must have the shape"),
        (lambda: ito_sum(1.0, w), TypeError, "integrand"),
    ]:
        with pytest.raises(error, match=match):
            call()
