"""The statistics of DPM-Solver-v3 for a mixture on the line, from posterior cumulants and quadrature: what ``estimate_statistics`` has to find.

In y = x / alpha everything depends on lambda alone. Let D, V, K be mean, variance and third cumulant of x_0 given y = x_0 + e^{-lambda} eps. Then

    e^{-lambda} eps* = y - D,    dD/dy = e^{2 lambda} V,    dD/dlambda = e^{2 lambda} (V (y - D) - K)  along the trajectories,

the last because the posterior is exponential in x_0 and x_0^2 with parameters e^{2 lambda} y and -e^{2 lambda} / 2. So N = (1 - ell) y - D, and
ell* = 1 - e^{2 lambda} E[V]: one minus the least mean-square error in units of the noise.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating
from mathcore.distributions import GaussianMixture
from mathcore.solvers.v3_statistics import V3Statistics


class NoiseTerm(NamedTuple):
    """n = e^{-lambda} eps* = sigma eps* / alpha at points y, its slope in y and its rate of change in lambda along the trajectories: each ``(N,)``."""

    value: Tensor
    slope: Tensor
    rate: Tensor


def noise_term(data: GaussianMixture, y: Float[Tensor, " n"], lam: float | int) -> NoiseTerm:
    """The noise term at points ``y = x / alpha (N,)`` and one half-log-SNR; N is ``value - ell y``, its slope ``slope - ell``.

    Raises:
        TypeError: ``y`` is not a tensor of the dtype of the data.
        ValueError: data in more than one dimension, ``y`` of another shape or with NaN, ``lam`` not finite.
    """
    if data.dim != 1:
        raise ValueError(f"noise_term needs a mixture on the line, got dimension {data.dim}")
    if not math.isfinite(lam):
        raise ValueError(f"lam must be finite, got {lam}")
    at, rho = floating(y, "y", ndim=1)[:, None], math.exp(-lam)
    value = y - data.posterior_mean(at, 1.0, rho)[:, 0]
    variance, third = data.posterior_cov(at, 1.0, rho)[:, 0, 0], data.posterior_cumulant3(at, 1.0, rho)
    return NoiseTerm(value, 1 - variance / rho**2, -value - (variance * value - third) / rho**2)


def expectation_grid(data: GaussianMixture, lam: float | int, points: int = 4001) -> tuple[Tensor, Tensor]:
    """Points ``y (P,)`` and weights for averages over the law of y = x_0 + e^{-lambda} eps: the trapezoid rule, which converges exponentially here.

    Raises:
        ValueError: data in more than one dimension, fewer than 3 points.
    """
    if data.dim != 1 or points < 3:
        raise ValueError(f"expectation_grid needs a mixture on the line and at least 3 points, got dimension {data.dim} and {points}")
    law = data.corrupt(1.0, math.exp(-lam))
    reach = 10 * law.covariances[:, 0, 0].sqrt()  # the density at ten standard deviations is 1e-22 of its peak
    low, high = float((law.means[:, 0] - reach).min()), float((law.means[:, 0] + reach).max())
    y = torch.linspace(low, high, points, dtype=torch.float64)
    return y, law.prob(y[:, None]) * ((high - low) / (points - 1))


def exact_statistics(data: GaussianMixture, lambdas: Float[Tensor, " q"], points: int = 4001) -> V3Statistics:
    """ell*, a* and b* of the exact model at half-log-SNRs ``(Q,)``: values ``(Q, 1)``, for every schedule.

    ell* varies as d ell* / d lambda = 2 e^{4 lambda} E[V^2] - 2 e^{2 lambda} E[V], because the mean-square error falls with the SNR e^{2 lambda} at the
    rate E[V^2] (Guo et al. 2005). Where N does not vary, up to rounding, a is 0.

    Raises:
        TypeError, ValueError: as :func:`expectation_grid` and :func:`noise_term`; lambdas that do not increase.
    """
    rows = []
    for lam in floating(lambdas, "lambdas", ndim=1).tolist():
        y, w = expectation_grid(data, lam, points)
        value, slope, rate = noise_term(data, y, lam)
        ell = (w * slope).sum()
        drift = 2 * (w * (1 - slope).square()).sum() - 2 * (1 - ell)
        n, dn = value - ell * y, rate - drift * y + ell * value
        mean, mean_rate = (w * n).sum(), (w * dn).sum()
        spread = (w * (n - mean).square()).sum()
        varies = spread > (64 * torch.finfo(y.dtype).eps) ** 2 * (w * y.square()).sum()  # n is a difference of two numbers like y
        a = (w * (n - mean) * dn).sum() / spread if varies else torch.zeros_like(spread)
        rows.append(torch.stack([ell, a, mean_rate - a * mean]))
    ell, a, b = torch.stack(rows)[..., None].unbind(1)
    return V3Statistics(lambdas, ell, a, b)
