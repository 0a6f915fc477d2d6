"""The common digit experiment: every model starts alike and is measured with one ruler."""

from dataclasses import replace

import pytest
import torch

from mathcore.experiments import digits
from mathcore.metrics import nearest_neighbour_distance


@pytest.fixture
def short_runs(monkeypatch, fresh_runs):
    monkeypatch.setattr(digits, "CPU", replace(digits.CPU, width=4, config=replace(digits.CPU.config, steps=4, batch_size=8)))


def noise_loss(model, images, generator):
    noise = torch.randn(images.shape, generator=generator)
    t = torch.rand(len(images), generator=generator)
    return (model(images + noise, t) - noise).square().mean()


def nothing_loss(model, images, generator):
    return model(images, torch.zeros(len(images))).square().mean()


def test_models_differ_in_their_loss_alone(short_runs):
    before = [p.clone() for p in digits.digits_network(1.0).parameters()]
    torch.manual_seed(5)  # the caller's generator has no say, and is not moved
    untouched = torch.get_rng_state()
    first, again = (digits.train_digits("noise", noise_loss, 1.0) for _ in range(2))
    other = digits.train_digits("nothing", nothing_loss, 1.0)
    assert torch.equal(torch.get_rng_state(), untouched)
    weights = [list(run.model.parameters()) for run in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1]))
    assert any(not torch.equal(a, b) for a, b in zip(weights[0], before))
    # the untrained prediction is zero, so a loss that asks for nothing moves no weight except by decay
    assert float(other.losses.abs().max()) == 0
    assert len(first.losses) == len(other.losses) == 4
    assert not any(p.requires_grad for p in weights[0])


def test_scores_tell_real_images_from_noise_and_copies():
    held_out, train = digits.digit_images("test"), digits.digit_images("train")
    floors = digits.digit_floors(len(held_out))
    generator = torch.Generator().manual_seed(0)
    fresh = train[torch.randperm(len(train), generator=generator)[: len(held_out)]]
    real, noise = (digits.score_digits(x) for x in (fresh, torch.randn(fresh.shape, generator=generator)))
    for name in ("energy", "frechet"):
        mean, std = floors[name]
        assert abs(getattr(real, name) - mean) < 5 * std, name
        assert getattr(noise, name) > mean + 20 * std, name  # noise is far outside what two real sets scatter
    assert float(real.nearest.generated.max()) == 0  # copies of the training set
    median = nearest_neighbour_distance(held_out, train).median()
    assert abs(float(real.nearest.held_out[2] - median)) < 0.05  # quantile interpolates, median takes the lower of the two


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(3, 1, 8, 8), "at least 4 images of shape"),
        (torch.zeros(360, 1, 7, 7), "got .360, 1, 7, 7."),
        (torch.full((360, 1, 8, 8), float("nan")), "NaN"),
    ],
)
def test_bad_samples_are_refused(user_errors, samples, message):
    with pytest.raises(ValueError, match=message):
        digits.score_digits(samples)


def test_an_unknown_split_is_refused(user_errors):
    with pytest.raises(ValueError, match="split"):
        digits.digit_images("validation")
