"""The noise conditional score network of the digits: its levels against chi distributions, its score and loss where both are known."""

import math

import pytest
import torch
from scipy.stats import chi

from mathcore.experiments.ncsn_digits import level_ratio, ncsn_loss, noise_conditional
from mathcore.scores.langevin import geometric_sigmas

SIGMAS = geometric_sigmas(0.1, 10.0, 5)


@pytest.mark.parametrize("dim", [64, 784, 3072])
@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.8])
def test_neighbouring_levels_overlap_as_asked(dim, overlap):
    ratio = level_ratio(dim, overlap)
    # the exact law of a length; its mean is below sqrt(dim) by 1 / (4 sqrt(dim)), a shift of 1 / sqrt(8 dim) standard deviations of density below 0.4
    ends = [ratio * (math.sqrt(dim) + k / math.sqrt(2)) for k in (-3, 3)]
    share = chi.cdf(ends[1], dim) - chi.cdf(ends[0], dim)
    assert share == pytest.approx(overlap, abs=0.4 / math.sqrt(dim))


def test_more_dimensions_and_more_overlap_need_more_levels():
    assert 1 < level_ratio(3072) < level_ratio(784) < level_ratio(64)
    assert level_ratio(64, 0.8) < level_ratio(64, 0.3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((0,), "dim must be"), ((64, 0.0), "overlap"), ((64, 0.999), "overlap"), ((2, 0.5), "no ratio")],
)
def test_a_ratio_that_does_not_exist(arguments, match, user_errors):
    with pytest.raises(ValueError, match=match):
        level_ratio(*arguments)


def test_the_network_sees_unit_inputs_and_the_place_of_the_level(generator):
    seen = []

    def network(x, t):
        seen.append((x, t))
        return torch.ones_like(x)

    x = 10 * torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=generator)
    out = noise_conditional(network, SIGMAS)(x, SIGMAS)  # row k at level k
    inputs, places = seen[0]
    torch.testing.assert_close(places, torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(out[:, 0, 0, 0], -1 / SIGMAS)
    torch.testing.assert_close(inputs[4], x[4] / math.sqrt(101))
    one = noise_conditional(network, SIGMAS)(x, 10.0)
    torch.testing.assert_close(one, torch.full_like(x, -0.1))


def test_the_loss_is_zero_for_who_knows_the_noise_and_one_for_who_predicts_nothing(generator):
    points = torch.full((4000, 1, 2, 2), 0.3, dtype=torch.float64)

    def exact(x, t):  # one data point: the noise is (x_sigma - x_0) / sigma, with x_sigma = x sqrt(1 + sigma^2)
        s = (0.1 * 100**t)[:, None, None, None]
        return (x * (1 + s**2).sqrt() - 0.3) / s

    # x_0 + sigma eps is rounded at 1e-15 of its size 10, then divided by sigma, at least 0.1
    assert float(ncsn_loss(exact, points, SIGMAS, generator)) < 1e-25
    nothing = float(ncsn_loss(lambda x, t: torch.zeros_like(x), points, SIGMAS, generator))
    assert abs(nothing - 1) < 5 * math.sqrt(2 / 16000)  # a mean of 16000 squares of variance 2


def test_every_level_is_drawn(generator):
    seen = []

    def network(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    ncsn_loss(network, torch.zeros(5000, 1, 1, 1, dtype=torch.float64), SIGMAS, generator)
    counts = torch.stack([(seen[0] - k / 4).abs() < 1e-9 for k in range(5)]).sum(1)
    assert int(counts.sum()) == 5000
    assert (counts - 1000).abs().max() < 5 * math.sqrt(5000 * 0.2 * 0.8)
