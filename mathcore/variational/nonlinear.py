"""A one-dimensional VAE with a nonlinear decoder, by quadrature over z: how large must the gap of a Gaussian encoder be? (section 2.1.5)"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, positive

Decoder = Callable[[Tensor], Tensor]


def log_joint(decoder: Decoder, sigma_dec: float, x: float, z: Float[Tensor, " g"]) -> Float[Tensor, " g"]:
    """log p(x, z) for z ~ N(0, 1), x | z ~ N(decoder(z), sigma_dec^2), at one x and many z."""
    sigma = positive(sigma_dec, "sigma_dec")
    floating(z, "z", ndim=1)
    return -((x - decoder(z)) ** 2) / (2 * sigma**2) - z.square() / 2 - math.log(2 * math.pi * sigma)


def log_evidence(decoder: Decoder, sigma_dec: float, x: float, z: Float[Tensor, " g"]) -> Float[Tensor, ""]:
    """log p(x) by the trapezoidal rule on a uniform grid of codes."""
    return torch.logsumexp(log_joint(decoder, sigma_dec, x, z), 0) + (z[1] - z[0]).log()


def smallest_gap(decoder: Decoder, sigma_dec: float, x: float, start: Float[Tensor, "K 2"], z: Float[Tensor, " g"]) -> float:
    """Smallest KL(q || p(z | x)) over equal-weight mixtures q of K Gaussians, from the given start, by quadrature and L-BFGS.

    With K = 1 this is what the best Gaussian encoder leaves between log p(x) and its bound, however deep its network.

    Args:
        decoder: elementwise function of z. sigma_dec: decoder standard deviation. x: the observation.
        start: initial mean and standard deviation of each component, ``(K, 2)``. z: uniform grid of codes, ``(G,)``.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: wrong shapes, NaN, a standard deviation that is not positive, or a best q that leaves the grid.
    """
    floating(start, "start", ndim=2, dim=2)
    if not bool((start[:, 1] > 0).all()):
        raise ValueError(f"start must have positive standard deviations in its second column, got {start[:, 1].tolist()}")
    log_posterior = log_joint(decoder, sigma_dec, x, z) - log_evidence(decoder, sigma_dec, x, z)
    step = z[1] - z[0]
    theta = torch.stack([start[:, 0], start[:, 1].log()], 1).requires_grad_()
    optimiser = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe")

    def log_q() -> Tensor:
        mean, log_std = theta[:, :1], theta[:, 1:]
        parts = -0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)  # (K, G)
        return torch.logsumexp(parts, 0) - math.log(len(theta))

    def gap() -> Tensor:
        q = log_q()
        return (q.exp() * (q - log_posterior)).sum() * step

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = gap()
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        mass = float(log_q().exp().sum() * step)
        if abs(mass - 1) > 1e-9:  # part of q is off the grid, or narrower than its spacing
            raise ValueError(f"the best q has mass {mass:.6g} on the grid of codes; widen or refine z")
        return float(gap())
