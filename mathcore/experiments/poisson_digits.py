"""A Poisson flow of handwritten digits and its Gaussian twin: the network and budget of the other digit experiments, clean prediction under two kernels.

Both models move along x_t = x_0 + t z and differ in the law of z alone: multivariate Cauchy (gravity in space-time, Xu et al. 2022) or standard normal
(variance exploding). The velocity is (x - E[x_0 | x_t = x]) / t for both, so that one network, one loss and one sampler serve the two.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._types import Time
from mathcore._validate import count, floating, one_of, per_sample, positive
from mathcore.experiments.digits import digit_images, train_digits
from mathcore.flows.construction.green import MultivariateCauchy
from mathcore.preconditioning import estimate_sigma_data
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ddim, grids
from mathcore.time_distributions import TimeDistribution

Data = Float[Tensor, "n *shape"]

KERNELS = ("cauchy", "gaussian")
T_MIN, T_MAX = 0.002, 80.0
"""The sampler's range of times; 80 is the scale of the prior."""


class ScaledDenoiser(nn.Module):
    """Clean prediction around a network that sees data of unit size whatever the noise: D(x, t) = c x + sigma_data F(x / s, u).

    s = sqrt(t^2 + |x|^2 / d) is the measured size of the point of space-time: under a Cauchy kernel there is no standard deviation to divide by.
    c = min(1, sigma_data^2 / s^2) is Wiener's coefficient with that size, and u is log t, from 0 at T_MIN to 1 at T_MAX.

    Raises:
        ValueError: ``sigma_data`` not positive.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network, self.sigma_data = network, positive(sigma_data, "sigma_data")

    def forward(self, x: Data, t: Time) -> Data:
        """Return the predicted clean points or images, of which the mean of the data is subtracted as it is of ``x``.

        Raises:
            TypeError: no floating tensor. ValueError: no rows of data, NaN, t not positive.
        """
        if floating(x, "x").ndim < 2:
            raise ValueError(f"x must have shape (N, ...), got {tuple(x.shape)}")
        ones = (1,) * (x.ndim - 1)
        time = per_sample(t, x).expand(len(x), *ones)
        if not bool((time > 0).all()):
            raise ValueError(f"t must be positive, got {float(time.min())}")
        size2 = time**2 + x.square().flatten(1).mean(1).reshape(-1, *ones)
        clock = (time / T_MIN).log() / math.log(T_MAX / T_MIN)
        kept = torch.minimum(self.sigma_data**2 / size2, torch.ones_like(size2))
        return kept * x + self.sigma_data * self.network(x / size2.sqrt(), clock.reshape(-1))


def unit_noise(kernel: str, like: Data, generator: torch.Generator | None = None) -> Data:
    """Draw z of x_t = x_0 + t z, one point or image for each of ``like``.

    Raises:
        TypeError: ``like`` no floating tensor. ValueError: unknown kernel, NaN.
    """
    one_of(kernel, KERNELS, "kernel")
    if kernel == "gaussian":
        return torch.randn(floating(like, "like").shape, generator=generator, device=like.device, dtype=like.dtype)
    law = MultivariateCauchy(floating(like, "like")[0].numel(), 1.0)
    return law.sample(len(like), generator, like.dtype, like.device).reshape(like.shape)


def clean_loss(
    denoiser: ScaledDenoiser, x0: Data, kernel: str, times: TimeDistribution, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Estimate E w(t) |D(x_t, t) - x_0|^2 per coordinate, w = (t + sigma_data) / (t sigma_data^2): finite under the Cauchy kernel, where 1 / t^2 is not.

    The weight must not see x_0 (nor |x_t - x_0|), or the minimiser would no longer be E[x_0 | x_t].

    Raises:
        TypeError, ValueError: as :func:`unit_noise`.
    """
    t = times.sample(len(x0), generator).to(x0)
    noisy = x0 + per_sample(t, x0) * unit_noise(kernel, x0, generator)
    errors = (denoiser(noisy, t) - x0).square().flatten(1).mean(1)
    return ((t + denoiser.sigma_data) / (t * denoiser.sigma_data**2) * errors).mean()


@dataclass(frozen=True)
class PoissonModel:
    """``denoiser`` for points or images of which ``mean`` is subtracted, trained under ``kernel``; ``losses`` of each step."""

    kernel: str
    denoiser: ScaledDenoiser
    mean: Data
    losses: Tensor

    @torch.no_grad()
    def sample(self, n: int, n_steps: int = 18, generator: torch.Generator | None = None, prior_scale: float = 1.0) -> Data:
        """Draw ``n`` of the data in ``n_steps`` calls of the network: DDIM, here Euler's step of dx/dt = (x - D) / t, at last x = D.

        Args:
            n_steps: on the grid of Karras et al. from T_MAX to T_MIN, then to zero.
            prior_scale: factor on the scale of the prior, while the times stay: 1 is right.

        Raises:
            ValueError: ``n`` or ``n_steps`` below 1 or 2, ``prior_scale`` not positive.
        """
        schedule = AffineSchedule.edm()
        times = grids.karras(schedule, count(n_steps, "n_steps", 2), t_start=T_MAX, t_end=T_MIN, to_clean=True)
        like = self.mean.expand(count(n, "n"), *self.mean.shape[1:])
        start = positive(prior_scale, "prior_scale") * float(times[0]) * unit_noise(self.kernel, like, generator)
        return self.mean + ddim(schedule, times, "clean").run(self.denoiser, start)


def poisson_digits(kernel: str) -> PoissonModel:
    """Train the network under a kernel, or read the kept run: 20 s on one core at the CPU scale. Times log-normal as Karras et al. (2022) take them.

    Raises:
        ValueError: unknown kernel.
    """
    one_of(kernel, KERNELS, "kernel")
    images = digit_images()
    mean, sigma_data = images.mean(0, keepdim=True), estimate_sigma_data(images)
    times = TimeDistribution.lognormal(AffineSchedule.edm())

    def loss(network: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
        return clean_loss(ScaledDenoiser(network, sigma_data), batch - mean, kernel, times, generator)

    run = train_digits(f"poisson-{kernel}", loss, t_max=1.0)
    return PoissonModel(kernel, ScaledDenoiser(run.model, sigma_data), mean, run.losses)
