"""A noise conditional score network of the digits (section 3.4): the network and the budget of DDPM, with other levels and another weight of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count, positive
from mathcore.experiments.digits import digit_images, train_digits
from mathcore.scores.dsm import dsm_loss
from mathcore.scores.langevin import Levels, NoisyScore, annealed_langevin, annealed_steps, geometric_sigmas

Network = Callable[[Tensor, Tensor], Tensor]
"""``network(x, t)``: a prediction of the noise, ``t (N,)`` in [0, 1]."""

SIGMA_MIN = 0.05
"""The smallest noise: less than half the distance of two grey levels of the small images."""


@dataclass(frozen=True)
class DigitNCSN:
    """``score(x (N, 1, H, H), sigma)`` at the levels ``sigmas (L,)``, ascending, float32; ``losses`` of each training step, one for predicting nothing."""

    score: NoisyScore
    sigmas: Levels
    losses: Tensor
    shape: tuple[int, ...]

    @torch.no_grad()
    def sample(self, n: int, n_steps: int = 5, generator: torch.Generator | None = None) -> Float[Tensor, "n 1 h h"]:
        """Draw ``n`` images by annealed Langevin dynamics (Algorithm 1): ``n_steps`` calls of the network at each level and one that denoises at last.

        The steps are half the variance of the level, eta_i = sigma_i^2 / 2.

        Raises:
            ValueError: ``n`` or ``n_steps`` below 1.
        """
        steps = annealed_steps(self.sigmas, 0.5 * float(self.sigmas[0]) ** 2)
        shape = (count(n, "n"), *self.shape)
        return annealed_langevin(self.score, shape, self.sigmas, steps, n_steps, denoise=True, generator=generator)


def level_ratio(dim: int, overlap: float = 0.5) -> float:
    """Return the ratio of neighbouring noise levels by the rule of Song and Ermon (2020, Technique 2).

    Pure noise of size sigma in ``dim`` dimensions has a length of about N(sqrt(dim) sigma, sigma^2 / 2). The ratio is the one at which the share
    ``overlap`` of the lengths of one level lies within three standard deviations of the next larger one.

    Raises:
        ValueError: ``dim`` below 1, ``overlap`` not strictly between 0 and 0.99.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    width = math.sqrt(2 * count(dim, "dim"))
    if not 0 < overlap < 0.99:
        raise ValueError(f"overlap must lie in (0, 0.99): at ratio one it is 0.997; got {overlap}")

    def excess(ratio: float) -> float:
        shift = width * (ratio - 1)
        return float(norm.cdf(shift + 3 * ratio) - norm.cdf(shift - 3 * ratio)) - overlap

    high = 2.0
    while excess(high) > 0:  # in few dimensions the share never falls far below that of three standard deviations
        high *= 2
        if high > 1e6:
            raise ValueError(f"no ratio leaves an overlap of {overlap} in {dim} dimensions")
    return float(brentq(excess, 1.0, high))


def noise_levels(data: Float[Tensor, "n *shape"], sigma_min: float = SIGMA_MIN, n_levels: int | None = None) -> Levels:
    """Return geometric noise levels from ``sigma_min`` to the largest distance of two points of ``data`` (Song and Ermon 2020), ``n_levels`` of them.

    Without a number their ratio is that of :func:`level_ratio`, which needs many dimensions: in the plane lengths of noise vary too much for the rule.

    Raises:
        ValueError: ``sigma_min`` not positive, or not below that distance; too few dimensions for the rule.
    """
    points = data.flatten(1)
    largest = max(float(torch.cdist(part, points).max()) for part in points.split(1024))
    low = positive(sigma_min, "sigma_min")
    if low >= largest:
        raise ValueError(f"sigma_min must be below the largest distance of two points, {largest:.4g}; got {low:.4g}")
    n = n_levels or 1 + math.ceil(math.log(largest / low) / math.log(level_ratio(points.shape[1])))
    return geometric_sigmas(low, largest, n).to(points)


def digit_sigmas() -> Levels:
    """Return the noise levels for the digits, float32: see :func:`noise_levels`."""
    return noise_levels(digit_images())


def noise_conditional(network: Network, sigmas: Levels) -> NoisyScore:
    """Return the score that a noise predictor ``network(x, t)`` gives at the levels: -network(x / sqrt(1 + sigma^2), t) / sigma.

    The division makes the input a point of a variance-preserving chain, alpha x_0 + sqrt(1 - alpha^2) eps with alpha = 1 / sqrt(1 + sigma^2); t is the
    place of log(sigma) between the smallest level, 0, and the largest, 1.
    """
    low, span = float(sigmas[0]), math.log(float(sigmas[-1]) / float(sigmas[0]))

    def score(x: Tensor, sigma: Tensor | float) -> Tensor:
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        each = s.reshape(-1, *[1] * (x.ndim - 1))
        return -network(x / (1 + each.square()).sqrt(), (s / low).log() / span) / each

    return score


def ncsn_loss(
    network: Network, images: Float[Tensor, "n *shape"], sigmas: Levels, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Estimate Eq. 3.4.1 with lambda = sigma^2, one random level for each image, divided so that predicting nothing scores one: 0-d."""
    level = torch.randint(len(sigmas), (len(images),), generator=generator, device=images.device)
    loss = dsm_loss(noise_conditional(network, sigmas), images, sigmas.to(images)[level], weight="sigma2", generator=generator)
    return 2 * loss / images[0].numel()


def ncsn_digits() -> DigitNCSN:
    """Train the network, or read the kept run: 20 s on one core at the CPU scale."""
    sigmas = digit_sigmas()

    def loss(network: Network, images: Tensor, generator: torch.Generator) -> Tensor:
        return ncsn_loss(network, images, sigmas, generator)

    run = train_digits("ncsn", loss, t_max=1.0)
    return DigitNCSN(noise_conditional(run.model, sigmas), sigmas, run.losses, tuple(digit_images().shape[1:]))
