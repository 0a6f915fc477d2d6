"""One-dimensional normal mixtures: log-probabilities of both tails, and their inverses."""

import math

import torch
from torch import Tensor


def log_cdf(x: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return log P(X <= x) for ``x`` ``(n,)``, log-weights ``(K,)``, means and standard deviations ``(1|n, K)``; accurate far to the left."""
    return torch.logsumexp(log_weights + torch.special.log_ndtr((x[:, None] - means) / stds), dim=1)


def _log_pdf(x: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    z = (x[:, None] - means) / stds
    return torch.logsumexp(log_weights - 0.5 * z.square() - stds.log() - 0.5 * math.log(2 * math.pi), dim=1)


def lower_quantile(log_p: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return x with log P(X <= x) = ``log_p`` for ``log_p <= log 1/2``, by safeguarded Newton on the log scale.

    The first derivative in every argument is exact (the implicit function theorem, one detached Newton step); higher ones are not provided.

    Raises:
        RuntimeError: no convergence, which bisection excludes for finite input.
    """
    with torch.no_grad():
        root = _search(log_p, log_weights, means, stds)
        slope = torch.exp(_log_pdf(root, log_weights, means, stds) - log_p)
    # zero in value, so that rounding in a flat part of the distribution function does not move the root; only its derivative is wanted
    step = (log_cdf(root, log_weights, means, stds) - log_p) / torch.where(slope > 0, slope, math.inf)
    return root - (step - step.detach())


def _search(log_p: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    # Phi(z) <= exp(-z^2/2) for z <= 0, so no component has its quantile left of the first bound, and each has it left of its mean
    low = (means - stds * torch.sqrt(-2 * log_p)[:, None]).amin(1)
    high = means.expand(len(log_p), -1).amax(1)
    x, last = 0.5 * (low + high), high - low
    eps = torch.finfo(x.dtype).eps
    for _ in range(400):
        value = log_cdf(x, log_weights, means, stds) - log_p
        low, high = torch.where(value < 0, x, low), torch.where(value < 0, high, x)
        newton = value / torch.exp(_log_pdf(x, log_weights, means, stds) - log_p - value)
        # Newton only while it stays inside the bracket and halves its step; bisection otherwise
        good = (x - newton > low) & (x - newton < high) & (newton.abs() < 0.5 * last)
        following = torch.where(good, x - newton, 0.5 * (low + high))
        last, x = (following - x).abs(), following
        if bool((last <= 2 * eps * (x.abs() + stds.amin(1))).all()):
            return x
    raise RuntimeError("the quantile search did not converge")


def transport(x: Tensor, log_weights: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Return the increasing map of one mixture onto another, F_target^{-1}(F_source(x)), for ``x`` ``(n,)``.

    ``source`` and ``target`` are (means, stds), each ``(1|n, K)``. The smaller of the two tails is matched, so that both keep their digits.
    """
    means, stds = source
    left = log_cdf(x, log_weights, means, stds)
    right = log_cdf(-x, log_weights, -means, stds)
    sign = torch.where(left <= right, 1.0, -1.0).to(x.dtype)
    return _signed_quantile(torch.minimum(left, right), sign, log_weights, *target)


def quantile(u: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return F^{-1}(u) for ``u`` ``(n,)`` in (0, 1)."""
    left = u <= 0.5
    log_p = torch.where(left, u, 0.5).log().where(left, torch.log1p(-torch.where(left, 0.5, u)))
    return _signed_quantile(log_p, torch.where(left, 1.0, -1.0).to(u.dtype), log_weights, means, stds)


def _signed_quantile(log_p: Tensor, sign: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Solve in the right tail (sign -1) as in the left tail of the mirrored mixture."""
    return sign * lower_quantile(log_p, log_weights, sign[:, None] * means, stds)
