"""Flow matching on handwritten digits (section 5.2): the network and budget of the other digit experiments, trained on straight lines from noise to images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._types import Time
from mathcore._validate import count, floating
from mathcore.dynamics.integrate import odeint_fixed
from mathcore.experiments.digits import digit_images, train_digits
from mathcore.flows.matching import cfm_loss
from mathcore.interpolation import Interpolation
from mathcore.training.precision import single_precision

Images = Float[Tensor, "n 1 h h"]


@dataclass(frozen=True)
class FlowMatchingDigits:
    """``network(x, t)`` predicts the velocity along ``path``, noise at t = 0 and images at t = 1; ``losses`` of each training step, per pixel."""

    network: nn.Module
    path: Interpolation
    losses: Tensor
    shape: tuple[int, ...]

    def velocity(self, x: Images, t: Time) -> Images:
        """Return the velocity of the ODE dx/dt = v(x, t) at ``x``.

        Raises:
            TypeError, ValueError: no floating tensor, wrong shape, NaN.
        """
        return self.network(floating(x, "x", ndim=4), t)

    @torch.no_grad()
    def sample(self, n: int, n_steps: int = 10, method: str = "heun", generator: torch.Generator | None = None) -> Images:
        """Draw ``n`` images: ``n_steps`` equal steps of :func:`~mathcore.dynamics.integrate.odeint_fixed` from noise at t = 0 to t = 1.

        Calls of the network: ``n_steps`` for ``"euler"``, twice as many for ``"heun"`` and ``"midpoint"``, four times for ``"rk4"``.

        Raises:
            ValueError: ``n`` or ``n_steps`` below 1, unknown method.
        """
        first = next(self.network.parameters())
        start = torch.randn((count(n, "n"), *self.shape), generator=generator, dtype=first.dtype, device=first.device)
        grid = torch.linspace(0, 1, count(n_steps, "n_steps") + 1, dtype=torch.float64)
        with single_precision():
            return odeint_fixed(self.velocity, start, grid, method)


def flow_matching_loss(
    model: nn.Module, images: Images, path: Interpolation, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Estimate the conditional flow-matching loss (Eq. 5.2.9) per pixel: standard normal noise paired with ``images`` at random, uniform times.

    Raises:
        TypeError, ValueError: as :func:`~mathcore.flows.matching.cfm_loss`.
    """
    noise = torch.randn(floating(images, "images", ndim=4).shape, generator=generator, device=images.device, dtype=images.dtype)
    return cfm_loss(model, noise, images, None, path, generator=generator) / images[0].numel()


def flow_matching_digits() -> FlowMatchingDigits:
    """Train a velocity along the straight path from noise to the training images, or read the kept run: 20 s on one core at the CPU scale."""
    path = Interpolation.linear()

    def loss(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        return flow_matching_loss(model, images, path, generator)

    run = train_digits("flow-matching", loss, t_max=1.0)
    return FlowMatchingDigits(run.model, path, run.losses, tuple(digit_images().shape[1:]))
