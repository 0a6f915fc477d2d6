"""The gap that a Gaussian encoder cannot close."""

import math

import pytest
import torch
from scipy.integrate import quad

from mathcore.variational.nonlinear import log_evidence, log_joint, smallest_gap

F = torch.float64
GRID = torch.linspace(-8, 8, 8001, dtype=F)


def test_evidence_against_scipy():
    def density(z):
        return math.exp(-((0.7 - z**2) ** 2) / (2 * 0.3**2) - z**2 / 2) / (2 * math.pi * 0.3)

    want = quad(density, -8, 8, points=[-0.8, 0.8], epsabs=1e-13, limit=200)[0]
    assert float(log_evidence(torch.square, 0.3, 0.7, GRID)) == pytest.approx(math.log(want), abs=1e-10)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_bimodal_posterior_costs_log_two(sigma):
    start = torch.tensor([[1.4, 0.3]], dtype=F)
    both = torch.tensor([[1.4, 0.3], [-1.4, 0.3]], dtype=F)
    one = smallest_gap(torch.abs, sigma, 1.5, start, GRID)
    # the halves of the posterior are Gaussians cut at 0, 4.7 (sigma = .3) or 15 (.1) standard deviations out: mass 1e-6 or nothing
    tolerance = {0.1: 1e-9, 0.3: 5e-6}[sigma]
    assert one == pytest.approx(math.log(2), abs=tolerance)
    assert abs(smallest_gap(torch.abs, sigma, 1.5, both, GRID)) < tolerance


def test_square_decoder_too():
    assert smallest_gap(torch.square, 0.1, 1.5, torch.tensor([[1.2, 0.1]], dtype=F), GRID) > 0.69


def test_unimodal_posterior_leaves_no_gap():
    assert abs(smallest_gap(lambda z: 0.8 * z, 0.5, 1.0, torch.tensor([[0.0, 1.0]], dtype=F), GRID)) < 1e-10


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    with pytest.raises(ValueError, match="sigma_dec must be a positive"):
        log_joint(torch.abs, -1.0, 0.0, GRID)
    with pytest.raises(ValueError, match="start must have positive standard deviations"):
        smallest_gap(torch.abs, 0.1, 1.5, torch.tensor([[0.0, 0.0]], dtype=F), GRID)
    with pytest.raises(TypeError, match="z must be"):
        log_joint(torch.abs, 1.0, 0.0, [0.0])
    with pytest.raises(ValueError, match="z contains NaN"):
        log_joint(torch.abs, 1.0, 0.0, torch.tensor([torch.nan]))
    narrow = torch.linspace(-1.0, 1.0, 201, dtype=F)  # the posterior sits at 1.5, off this grid
    with pytest.raises(ValueError, match="widen or refine z"):
        smallest_gap(torch.abs, 0.8, 1.5, torch.tensor([[0.5, 0.5]], dtype=F), narrow)
