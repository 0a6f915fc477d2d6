"""K Gaussian components after x -> a x + s eps, seen from many points at once: the arithmetic under ``mathcore.distributions``."""

import math

import torch
from torch import Tensor

DIRECT_LIMIT = 2**19
"""Number of scalars N*K*D up to which squared distances are summed from differences (no cancellation); above it the quadratic form is expanded
into one matrix product of memory O(NK + ND). It is also the size of the blocks in which what cannot be expanded is computed: 4 MiB in float64,
beyond which differences leave the cache and cost ten to fifty times as much as the product."""


def lift(scale: Tensor, ndim: int) -> Tensor:
    """Return a 0-d scale unchanged, and one of shape ``(n, 1)`` shaped to broadcast over ``ndim`` axes after the first."""
    return scale if scale.ndim == 0 else scale.reshape(-1, *([1] * ndim))


def apply(matrices: Tensor, vectors: Tensor, full: bool) -> Tensor:
    """Multiply vectors ``(n, K, D)`` by K matrices in diagonal ``(.., K, 1|D)`` or full ``(.., K, D, D)`` form, shared or one set per row."""
    if not full:
        return matrices * vectors
    return torch.einsum("kij,nkj->nki" if matrices.ndim == 3 else "nkij,nkj->nki", matrices, vectors)


def within(weights: Tensor, matrices: Tensor, full: bool, dim: int) -> Tensor:
    """Return the weighted mean over components of K matrices: ``(n, D, D)``."""
    if full:
        return torch.einsum("nk,kij->nij" if matrices.ndim == 3 else "nk,nkij->nij", weights, matrices)
    diagonal = torch.einsum("nk,kd->nd" if matrices.ndim == 2 else "nk,nkd->nd", weights, matrices)
    return torch.diag_embed(diagonal.expand(-1, dim))


def within_trace(weights: Tensor, matrices: Tensor, full: bool, dim: int) -> Tensor:
    """Return the trace of ``within`` without forming the matrices: ``(n,)``."""
    traces = matrices.diagonal(dim1=-2, dim2=-1).sum(-1) if full else matrices.sum(-1) * (dim // matrices.shape[-1])
    return (weights * traces).sum(-1)


def deviations(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return K vectors per row, ``(n, K, D)``, minus their weighted mean."""
    return vectors - torch.einsum("nk,nkd->nd", weights, vectors)[:, None]


def between(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return the weighted covariance of K vectors per row: ``(n, D, D)``."""
    centred = deviations(weights, vectors)
    return (weights[..., None] * centred).mT @ centred


class Corrupted:
    """The laws N(a m_k, a^2 C_k + s^2 I), k = 1..K, and what they imply about the clean point.

    ``means`` is ``(K, D)``; ``covs`` is ``(K, 1)`` isotropic, ``(K, D)`` diagonal or ``(K, D, D)`` full and may be zero; ``a`` and ``s`` are 0-d,
    or both ``(n, 1)`` for one corruption per row of the points. Factorisations are made once, here.
    """

    def __init__(self, means: Tensor, covs: Tensor, centre: Tensor, a: Tensor, s: Tensor):
        self.means, self.covs, self.centre, self.a, self.s = means, covs, centre, a, s
        self.dim = means.shape[-1]
        self.full = covs.ndim == 3
        noisy = lift(a, covs.ndim).square() * covs
        variance = lift(s, covs.ndim).square()
        if self.full:
            identity = torch.eye(self.dim, dtype=means.dtype, device=means.device)
            factor = torch.linalg.cholesky(noisy + variance * identity)
            # not cholesky_inverse: its forward-mode derivative is wrong (torch 2.13), and velocities are differentiated in time that way
            self.precisions = torch.cholesky_solve(identity.expand_as(factor), factor)
            self.log_dets = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            noisy = noisy + variance
            self.precisions = 1 / noisy
            self.log_dets = noisy.log().sum(-1) * (self.dim // covs.shape[-1])

    @property
    def expandable(self) -> bool:
        """Whether sums over components are matrix products: not when every row has its own full or diagonal covariances."""
        return not self.full and (self.covs.shape[-1] == 1 or self.a.ndim == 0)

    def expands(self, n: int) -> bool:
        """Whether ``n`` points are many enough for the expanded form."""
        return self.expandable and n * self.means.numel() > DIRECT_LIMIT

    def differences(self, x: Tensor) -> Tensor:
        """Return ``x - a m_k``: ``(n, K, D)``."""
        return x[:, None] - lift(self.a, 2) * self.means

    def log_density(self, x: Tensor) -> Tensor:
        """Return log N(x; a m_k, a^2 C_k + s^2 I): ``(n, K)``."""
        if self.expands(len(x)):
            square = self._expanded_square(x)
        else:
            diff = self.differences(x)
            square = (diff * apply(self.precisions, diff, self.full)).sum(-1)
        return -0.5 * (square + self.log_dets + self.dim * math.log(2 * math.pi))

    def _expanded_square(self, x: Tensor) -> Tensor:
        """Return the Mahalanobis squares by one matrix product.

        |x|^2 - 2 x.m + |m|^2 cancels where x is near m: the data are centred first, and the product is accumulated in float64, so that the error,
        about 2e-16 |x - centre|^2 / variance, stays below float32 resolution. In float64 it is what remains.
        """
        offset, a = (x - self.a * self.centre).double(), self.a.double().expand(len(x), 1)
        means = (self.means - self.centre).double()
        if self.covs.shape[-1] == 1:
            left = torch.cat([-2 * a * offset, offset.square().sum(-1, keepdim=True), a.square()], dim=1)
            right = torch.cat([means, means.new_ones(len(means), 1), means.square().sum(-1, keepdim=True)], dim=1)
            return (left @ right.T).to(x.dtype) * self.precisions[..., 0]
        precisions = self.precisions.double()
        left = torch.cat([offset.square(), -2 * a * offset, a.square()], dim=1)
        right = torch.cat([precisions, precisions * means, (precisions * means.square()).sum(-1, keepdim=True)], dim=1)
        return (left @ right.T).to(x.dtype)

    def scores(self, x: Tensor) -> Tensor:
        """Return the score of each component: ``(n, K, D)``."""
        return -apply(self.precisions, self.differences(x), self.full)

    def mean_score(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean over components of ``scores``: ``(n, D)``."""
        if not self.expands(len(x)):
            return torch.einsum("nk,nkd->nd", weights, self.scores(x))
        offset, means = x - self.a * self.centre, self.means - self.centre
        if self.covs.shape[-1] == 1:
            scaled = weights * self.precisions[..., 0]
            return self.a * (scaled @ means) - offset * scaled.sum(-1, keepdim=True)
        return self.a * (weights @ (self.precisions * means)) - offset * (weights @ self.precisions)

    def posterior_means(self, x: Tensor) -> Tensor:
        """Return E[x_0 | x, k] = m_k + a C_k (a^2 C_k + s^2 I)^{-1} (x - a m_k): ``(n, K, D)``."""
        pull = apply(self.precisions, self.differences(x), self.full)
        return self.means + lift(self.a, 2) * apply(self.covs, pull, self.full)

    def mean_posterior(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean over components of ``posterior_means``: ``(n, D)``."""
        if not self.expands(len(x)):
            return torch.einsum("nk,nkd->nd", weights, self.posterior_means(x))
        # with P the precision, m_k + a C P (x - a m_k) = c + s^2 P (m_k - c) + a C P (x - a c) for any c
        offset, means = x - self.a * self.centre, self.means - self.centre
        if self.covs.shape[-1] == 1:
            scaled = weights * self.precisions[..., 0]
            shrunk = self.s.square() * (scaled @ means)
            return self.centre + shrunk + self.a * offset * (scaled * self.covs[:, 0]).sum(-1, keepdim=True)
        shrunk = self.s.square() * (weights @ (self.precisions * means))
        return self.centre + shrunk + self.a * offset * (weights @ (self.covs * self.precisions))

    def gains(self) -> Tensor:
        """Return C_k (a^2 C_k + s^2 I)^{-1}, which is Cov[x_0 | x, k] / s^2, in the form of ``covs``."""
        if not self.full:
            return self.covs * self.precisions
        product = self.covs @ self.precisions
        return 0.5 * (product + product.mT)
