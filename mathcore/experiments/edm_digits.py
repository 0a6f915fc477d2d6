"""An EDM-preconditioned model of handwritten digits (section D.6): the network and budget of the other digit experiments, around it the scales of Eq. D.6.5."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._types import Time
from mathcore._validate import count, floating
from mathcore.experiments.digits import digit_images, train_digits
from mathcore.preconditioning import Preconditioned, estimate_sigma_data
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.edm import edm_heun
from mathcore.time_distributions import TimeDistribution

Images = Float[Tensor, "n 1 h h"]

T_MIN = 0.002
"""Noise from which the last step of a sampler goes to zero (Karras et al. 2022)."""


@dataclass(frozen=True)
class EDMDigits:
    """``predictor(x, t)`` returns clean images of which the mean is subtracted; ``losses`` of each step, one for predicting nothing."""

    predictor: Preconditioned
    mean: Images
    losses: Tensor

    def denoise(self, x: Images, t: Time) -> Images:
        """Return the predicted clean images for ``x = x_0 + t eps``: the mean of the noisy ones is that of the clean ones, since alpha = 1.

        Raises:
            TypeError, ValueError: as ``Preconditioned.forward``.
        """
        return self.mean + self.predictor(floating(x, "x") - self.mean, t)

    @torch.no_grad()
    def sample(self, n: int, n_steps: int = 18, generator: torch.Generator | None = None) -> Images:
        """Draw ``n`` images in ``2 n_steps - 1`` calls of the network: Heun on the grid of Karras et al. from the largest noise to 0.002, then to zero.

        Raises:
            ValueError: ``n`` below 1, ``n_steps`` below 2.
        """
        schedule, device = self.predictor.schedule, self.mean.device
        times = grids.karras(schedule, count(n_steps, "n_steps", 2), t_end=T_MIN, to_clean=True)
        noise = torch.randn((count(n, "n"), *self.mean.shape[1:]), generator=generator, device=device, dtype=self.mean.dtype)
        return edm_heun(schedule, times, "clean").run(self.denoise, float(times[0]) * noise)


def edm_loss(predictor: Preconditioned, x0: Images, times: TimeDistribution, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """Estimate the loss of Eq. D.6.2 with weight 1 / c_out^2, one random time for each row, per pixel: predicting nothing scores one.

    Raises:
        TypeError, ValueError: as ``Preconditioned.loss_terms``.
    """
    t = times.sample(len(x0), generator).to(x0)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    return predictor.loss_terms(x0, noise, t).mean() / x0[0].numel()


def edm_digits() -> EDMDigits:
    """Train the network, or read the kept run: 20 s on one core at the CPU scale.

    Noise from the log-normal law of Karras et al. up to 80, network told log(sigma) / 4, mean image and ``sigma_data`` measured on the training set.
    """
    images = digit_images()
    mean, sigma_data = images.mean(0, keepdim=True), estimate_sigma_data(images)
    schedule = AffineSchedule.edm()
    times = TimeDistribution.lognormal(schedule)

    def around(network: nn.Module) -> Preconditioned:
        return Preconditioned(network, schedule, sigma_data, "quarter_log_sigma")

    def loss(network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        return edm_loss(around(network), batch - mean, times, generator)

    run = train_digits("edm", loss, t_max=1.0)
    return EDMDigits(around(run.model), mean, run.losses)
