"""The comparison of the digit models: its bookkeeping on models that return real images, and the counts of calls it prints."""

import pytest
import torch

from mathcore.experiments import comparison, digits
from mathcore.experiments.ncsn_digits import DigitNCSN, noise_conditional
from mathcore.experiments.score_sde_digits import T_MIN, ScoreSDEDigits
from mathcore.schedules import AffineSchedule


def drawn(split):
    images = digits.digit_images(split)
    return lambda n, g: images[torch.randperm(len(images), generator=g)[:n]]


def test_rows_are_means_over_the_seeds():
    model = comparison.DigitModel("copies", "ch02-6-ddpm-digits", 0, drawn("train"))
    (row,) = comparison.compare_digits([model], 64, [3, 4, 5])
    assert (row.name, row.page, row.calls) == ("copies", "ch02-6-ddpm-digits", 0)
    scores = [digits.score_digits(drawn("train")(64, torch.Generator().manual_seed(s))) for s in (3, 4, 5)]
    values = [s.energy for s in scores]
    assert row.energy[0] == pytest.approx(sum(values) / 3)
    assert row.energy[1] == pytest.approx(
        ((max(values) - row.energy[0]) ** 2 + sum((v - row.energy[0]) ** 2 for v in sorted(values)[:2])) ** 0.5 / 2**0.5
    )
    assert row.nearest == (0.0, 0.0)  # training images are their own neighbours
    held_out = comparison.DigitModel("real", "", 0, drawn("test"))
    (real,) = comparison.compare_digits([held_out], 64, [3, 4])
    assert real.nearest[0] > 1


@pytest.mark.parametrize(
    ("n", "seeds", "message"), [(3, [1, 2], "n must"), (8, [1], "seeds must"), (8, [1, 1], "seeds must"), (8, [], "seeds must")]
)
def test_bad_requests(n, seeds, message, user_errors):
    with pytest.raises(ValueError, match=message):
        comparison.compare_digits([], n, seeds)


def test_samplers_make_the_calls_that_the_table_prints(generator):
    """Five steps at each of L levels and one that denoises; the score sees nothing, so that the walk is free."""
    sigmas = torch.tensor([0.1, 0.5, 2.0])
    calls = []
    score = noise_conditional(lambda x, t: calls.append(t) or torch.zeros_like(x), sigmas)
    ncsn = DigitNCSN(score, sigmas, torch.ones(1), (1, 2, 2))
    assert ncsn.sample(4, 5, generator).shape == (4, 1, 2, 2)
    assert len(calls) == 5 * 3 + 1


class OneImage(torch.nn.Module):
    """The exact noise prediction when every image of the data is the same."""

    def __init__(self, schedule, image):
        super().__init__()
        self.schedule, self.image, self.anchor, self.calls = schedule, image, torch.nn.Parameter(torch.zeros(())), 0

    def forward(self, x, t):
        self.calls += 1
        a, s = (v(torch.as_tensor(t, dtype=torch.float64)).to(x).reshape(-1, 1, 1, 1) for v in (self.schedule.alpha, self.schedule.sigma))
        return (x - a * self.image) / s


@pytest.mark.parametrize("method", ["ancestral", "dpm_solver_pp"])
def test_both_samplers_end_at_the_noisy_image(method, generator):
    """With one image the clean prediction never changes, and both methods are exact in any number of steps: N(alpha x_0, sigma^2 I) at T_MIN."""
    vp, image = AffineSchedule.vp(), torch.tensor([[0.5, -1.0], [0.25, 1.0]])
    network = OneImage(vp, image)
    got = ScoreSDEDigits(network, vp, torch.ones(1), 0.125, (1, 2, 2)).sample(4000, 10, method, generator)
    assert network.calls == 10
    noise = (got.double() - float(vp.alpha(T_MIN)) * image.double()) / float(vp.sigma(T_MIN))
    # 16,000 standard normals; the ODE starts from N(0, I) and not from the law at t = 1, which has the mean alpha x_0 = 0.007 x_0; float32 / sigma: 1e-5
    assert abs(float(noise.mean())) < 5 / 16000**0.5 + 0.007
    assert abs(float(noise.var()) - 1) < 5 * (2 / 16000) ** 0.5


def test_unknown_sampler(user_errors):
    vp = AffineSchedule.vp()
    with pytest.raises(ValueError, match="did you mean 'ancestral'"):
        ScoreSDEDigits(OneImage(vp, torch.zeros(2, 2)), vp, torch.ones(1), 0.125, (1, 2, 2)).sample(2, 4, "ancestal")
