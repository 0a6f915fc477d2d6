"""The experiments: losses against their definition, and the models they hand out (trained once, then read)."""

import math

import torch

from mathcore.experiments.conditional_digits import CLASSES, velocity_loss
from mathcore.predictions import convert_prediction
from mathcore.schedules import AffineSchedule


def test_the_velocity_loss_vanishes_for_who_knows_data_and_noise(generator):
    # with one data point, alpha x_0 + sigma eps determines eps; the velocity then comes from the library's conversion, not from the loss's formula
    schedule, x_0 = AffineSchedule.trig(), torch.full((1, 1, 4, 4), 0.3, dtype=torch.float64)
    seen = []

    def model(x, t, label):
        seen.append(label)
        return convert_prediction(x_0.expand(x.shape), x, t, schedule, "clean", "velocity")

    batch = x_0.expand(64, 1, 4, 4), torch.arange(64) % CLASSES
    loss = velocity_loss(model, batch, generator)
    # t near 0 divides by sigma: rounding 1e-16 / sigma^2 with sigma above 1e-4 in 64 draws
    assert float(loss) < 1e-12
    hidden = (torch.cat(seen) == CLASSES).double().mean()
    assert abs(float(hidden) - 0.1) < 5 * math.sqrt(0.09 / 64)


def test_the_velocity_loss_of_predicting_nothing_is_the_variance_of_the_velocity(generator):
    x_0 = torch.zeros(20000, 1, 1, 1, dtype=torch.float64)
    loss = velocity_loss(lambda x, t, label: torch.zeros_like(x), (x_0, torch.zeros(20000, dtype=torch.long)), generator)
    # E cos^2 t = 1/2 at uniform angles; the squares cos^2 eps^2 have variance 3 * 3/8 - 1/4
    assert abs(float(loss) - 0.5) < 5 * math.sqrt((9 / 8 - 1 / 4) / 20000)
