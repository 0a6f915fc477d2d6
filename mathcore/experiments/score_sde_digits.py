"""A score SDE of handwritten digits (section 4.2): the network and budget of the other digit experiments, trained in continuous time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import count, floating, one_of, positive
from mathcore.experiments.digits import digit_images, digits_size, train_digits
from mathcore.schedules import AffineSchedule
from mathcore.scores.dsm import dsm_loss
from mathcore.solvers import ancestral, dpm_solver_pp, grids

Images = Float[Tensor, "n 1 h w"]

T_MIN = 1e-3
"""Where the samplers stop: the noise left there, 0.01, is a twelfth of a grey step of the small images."""

SAMPLERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ancestral": (grids.quadratic_t, ancestral),
    "dpm_solver_pp": (grids.uniform_lambda, dpm_solver_pp),
}
"""Grid and table of each method of :meth:`ScoreSDEDigits.sample`."""


@dataclass(frozen=True)
class ScoreSDEDigits:
    """``network(x, t)`` predicts the noise of ``schedule``, so that the score is ``-network(x, t) / sigma_t``.

    ``losses``: :func:`noise_loss` of each training step. ``grey_step``: distance of two grey values, the width of the uniform noise in the training data.
    """

    network: nn.Module
    schedule: AffineSchedule
    losses: Tensor
    grey_step: float
    shape: tuple[int, ...]

    @torch.no_grad()
    def sample(self, n: int, n_steps: int = 100, method: str = "ancestral", generator: torch.Generator | None = None) -> Images:
        """Draw ``n`` images in ``n_steps`` calls of the network, from t = 1 to T_MIN.

        Args:
            method: ``"ancestral"``: the reverse SDE by steps that are quadratic in t. ``"dpm_solver_pp"``: the probability-flow ODE by DPM-Solver++(2M)
                in equal steps of the half log-SNR.

        Raises:
            ValueError: ``n`` or ``n_steps`` below 1, unknown method.
        """
        spacing, table = SAMPLERS[one_of(method, tuple(SAMPLERS), "method")]
        solver = table(self.schedule, spacing(self.schedule, count(n_steps, "n_steps"), t_end=T_MIN))
        first = next(self.network.parameters())
        start = torch.randn((count(n, "n"), *self.shape), generator=generator, dtype=first.dtype, device=first.device)
        return solver.run(self.network, start, **({"generator": generator} if solver.stochastic else {}))


def dequantise(images: Float[Tensor, "n *shape"], grey_step: float, generator: torch.Generator | None = None) -> Float[Tensor, "n *shape"]:
    """Add noise uniform on one grey step, centred, so that the images have a density; rounding to the grid undoes it.

    The average log-density of what comes out bounds the log-probability of the grey values from below, up to the volume of a bin (Theis et al. 2016).

    Raises:
        TypeError: no floating-point tensor. ValueError: NaN, ``grey_step`` not positive.
    """
    floating(images, "images")
    u = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + positive(grey_step, "grey_step") * (u - 0.5)


def noise_loss(
    model: Callable[[Tensor, Any], Tensor],
    images: Images,
    schedule: AffineSchedule,
    grey_step: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Eq. 4.2.1 with weight sigma^2 at uniform times, for dequantised images, in units in which a model that predicts no noise has loss 1.

    Raises:
        TypeError, ValueError: as :func:`dequantise` and :func:`~mathcore.scores.dsm.dsm_loss`.
    """
    x0 = dequantise(images, grey_step, generator)
    return dsm_loss(model, x0, schedule, weight="sigma2", prediction="noise", generator=generator) * (2 / images[0].numel())


def score_sde_digits() -> ScoreSDEDigits:
    """Train a noise prediction on the linear VP schedule by :func:`noise_loss`, or read the kept run: 20 s on one core at the CPU scale.

    The schedule is that of DDPM's chain in continuous time, and the weight makes the loss that of DDPM: the two models differ in their clock, and in that
    this one sees dequantised images. Without them its density would be spent on resolving the grid of grey values.
    """
    schedule, grey_step = AffineSchedule.vp(), digits_size().grey_step

    def loss(model: Callable[[Tensor, Any], Tensor], images: Tensor, generator: torch.Generator) -> Tensor:
        return noise_loss(model, images, schedule, grey_step, generator)

    run = train_digits("score-sde", loss, schedule.t_max)
    return ScoreSDEDigits(run.model, schedule, run.losses, grey_step, tuple(digit_images().shape[1:]))
