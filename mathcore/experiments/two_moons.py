"""The small network of the two moons that several notebooks use: trained once, then read from the cache of runs."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore.data import examples
from mathcore.networks import TimeMLP
from mathcore.schedules import AffineSchedule
from mathcore.settings import settings
from mathcore.training import FitResult, TrainConfig, fit, run_cached
from mathcore.training.loop import Loss
from mathcore.training.precision import single_precision

TWO_MOONS = TrainConfig(steps=3000, batch_size=256, lr=1e-2, decay="cosine")
"""How :func:`two_moons_network` is trained at the scale ``"cpu"``: about 9 seconds on one core."""

EARLIEST = 1e-3
"""Smallest time the networks see, as a fraction of the domain; the noise prediction has no limit at sigma = 0."""


def noise_loss(schedule: AffineSchedule) -> Loss:
    """Return the loss E |model(alpha_t x_0 + sigma_t z, t) - z|^2 per coordinate, as ``loss(model, x_0, generator)`` for :func:`fit`.

    The time is ``t_min + (t_max - t_min) (EARLIEST + (1 - EARLIEST) u^2)`` with u uniform: half of the draws lie in the quarter next to the data, where
    the noise prediction has its detail. The minimiser at each time is the exact noise prediction, whatever the law of the times.
    """

    def loss(model: nn.Module, x_0: Float[Tensor, "n d"], generator: torch.Generator) -> Float[Tensor, ""]:
        u = torch.rand(len(x_0), generator=generator, device=x_0.device, dtype=x_0.dtype)
        t = schedule.t_min + (schedule.t_max - schedule.t_min) * (EARLIEST + (1 - EARLIEST) * u**2)
        z = torch.randn(x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype)
        x_t = schedule.alpha(t)[:, None] * x_0 + schedule.sigma(t)[:, None] * z
        return (model(x_t, t) - z).square().mean()

    return loss


def two_moons_network(max_frequency: float | int = 30.0) -> FitResult:
    """The noise prediction of ``examples.two_moons()`` under ``AffineSchedule.vp()``, learned by a perceptron; float32, on ``settings.device``.

    Ten times as many steps at the scale ``"gpu"``.

    Args:
        max_frequency: of the time features, see :func:`mathcore.networks.time_embedding`: how fast the prediction can change with time.

    Returns:
        The network ``model(x (N, 2), t)`` for t in [0.001, 1] and its losses, from the cache where this code has run before.

    Raises:
        ValueError: ``max_frequency`` not finite or not above 0.1.
    """
    config = TWO_MOONS if settings.scale == "cpu" else replace(TWO_MOONS, steps=10 * TWO_MOONS.steps)
    data, loss = examples.two_moons().to(dtype=torch.float32), noise_loss(AffineSchedule.vp())
    with single_precision(), torch.random.fork_rng(devices=[]):  # every caller makes the same weights, and so gets the same run
        torch.manual_seed(0)
        model = TimeMLP(2, max_frequency=max_frequency)

    def train(model: nn.Module) -> FitResult:
        return fit(model, loss, data.sample, config, label="two moons")

    identity = {"training": config, "max_frequency": max_frequency}  # the frequencies are not among the weights of the network
    return run_cached("two-moons-noise", identity, train, model)
