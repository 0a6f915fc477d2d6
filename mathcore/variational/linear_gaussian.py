"""Linear-Gaussian VAE and hierarchical VAE: every term of every bound of section 2.1 in closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, one_of, positive

Law = tuple[Tensor, Tensor]
"""A Gaussian law: mean ``(D,)`` and covariance ``(D, D)``."""


@dataclass(frozen=True)
class AffineGaussian:
    """The conditional law y | x ~ N(matrix x + offset, cov): an encoder, a decoder, or one layer of a hierarchy.

    Args:
        matrix: ``(k, m)``. offset: ``(k,)``. cov: ``(k, k)``, symmetric positive definite.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that do not fit, NaN, covariance not symmetric positive definite.
    """

    matrix: Float[Tensor, "k m"]
    offset: Float[Tensor, " k"]
    cov: Float[Tensor, "k k"]

    def __post_init__(self) -> None:
        k = floating(self.matrix, "matrix", ndim=2).shape[0]
        floating(self.offset, "offset", ndim=1, dim=k)
        _covariance(self.cov, "cov", k)

    def mean(self, x: Float[Tensor, "n m"]) -> Float[Tensor, "n k"]:
        """Conditional mean at each ``x``."""
        return x @ self.matrix.T + self.offset

    def push(self, mean: Float[Tensor, " m"], cov: Float[Tensor, "m m"]) -> Law:
        """Law of y when x ~ N(mean, cov)."""
        return self.matrix @ mean + self.offset, self.matrix @ cov @ self.matrix.T + self.cov

    def joint(self, mean: Float[Tensor, " m"], cov: Float[Tensor, "m m"]) -> Law:
        """Law of (x, y) stacked, when x ~ N(mean, cov); with data and an encoder, the inference joint of Eq. 2.1.2."""
        y_mean, y_cov = self.push(mean, cov)
        cross = self.matrix @ cov
        return torch.cat([mean, y_mean]), torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, y_cov], 1)])


class LinearGaussianVAE:
    """z ~ N(0, I_d), x | z ~ N(W z + b, sigma^2 I_D) (section 2.1.1).

    Args:
        W: ``(D, d)``. b: ``(D,)``. sigma: decoder standard deviation, in the units of x.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that do not fit, NaN, ``sigma`` not positive.
    """

    def __init__(self, W: Float[Tensor, "D d"], b: Float[Tensor, " D"], sigma: float) -> None:
        floating(W, "W", ndim=2)
        floating(b, "b", ndim=1, dim=W.shape[0])
        self.W, self.b, self.sigma = W, b, positive(sigma, "sigma")
        self.prior: Law = (W.new_zeros(W.shape[1]), _eye(W, W.shape[1]))
        self.decoder = AffineGaussian(W, b, self.sigma**2 * _eye(W, W.shape[0]))

    def marginal(self) -> Law:
        """Law of x: N(b, W W^T + sigma^2 I)."""
        return self.decoder.push(*self.prior)

    def joint(self) -> Law:
        """Generative joint law of (x, z), in that order (Eq. 2.1.2)."""
        return _swap(self.decoder.joint(*self.prior), self.W.shape[1])

    def log_prob(self, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Exact log p(x)."""
        floating(x, "x", ndim=2, dim=self.b.shape[0])
        return _log_normal(x, *self.marginal())

    def posterior(self) -> AffineGaussian:
        """The true p(z | x) = N(M^{-1} W^T (x - b), sigma^2 M^{-1}) with M = W^T W + sigma^2 I, as an encoder."""
        M = self.W.T @ self.W + self.sigma**2 * _eye(self.W, self.W.shape[1])
        gain = torch.linalg.solve(M, self.W.T)
        return AffineGaussian(gain, -gain @ self.b, self.sigma**2 * torch.linalg.inv(M))

    def elbo(self, x: Float[Tensor, "n D"], q_mean: Float[Tensor, "n d"], q_cov: Float[Tensor, "d d"]) -> Float[Tensor, " n"]:
        """The bound of Theorem 2.1.1 for q(z | x) = N(q_mean, q_cov): reconstruction minus KL to the prior."""
        d = self.W.shape[1]
        floating(x, "x", ndim=2, dim=self.b.shape[0])
        floating(q_mean, "q_mean", ndim=2, dim=d)
        _covariance(q_cov, "q_cov", d)
        reconstruction = _expected_log_normal(x - self.decoder.mean(q_mean), self.W @ q_cov @ self.W.T, self.decoder.cov)
        return reconstruction - _expected_kl(q_mean, torch.zeros_like(q_cov), q_cov, self.prior[1])

    def expected_elbo_terms(self, data: Law, encoder: AffineGaussian) -> dict[str, Float[Tensor, ""]]:
        """The bound averaged over Gaussian data, split as in section 2.1.5: reconstruction - mutual_information - aggregate_kl."""
        q_mean, q_cov = encoder.push(*data)  # the aggregated posterior
        joint_mean, joint_cov = encoder.joint(*data)
        residual = torch.cat([_eye(self.W, self.b.shape[0]), -self.W], 1)
        error = (residual @ joint_mean - self.b)[None]
        return {
            "reconstruction": _expected_log_normal(error, residual @ joint_cov @ residual.T, self.decoder.cov)[0],
            "mutual_information": 0.5 * (torch.logdet(q_cov) - torch.logdet(encoder.cov)),
            "aggregate_kl": _expected_kl(q_mean[None], torch.zeros_like(q_cov), q_cov, self.prior[1])[0],
        }

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """Ancestral samples: z from the prior, then x given z."""
        D, d = self.W.shape
        u = torch.randn(n, d + D, generator=generator, dtype=self.W.dtype, device=self.W.device)
        return self.decoder.mean(u[:, :d]) + self.sigma * u[:, d:]


class LinearGaussianHVAE:
    """A hierarchy of affine Gaussian layers with top prior N(0, I) and a bottom-up Markov encoder (section 2.1.5).

    Args:
        decoders: p(x | z_1), p(z_1 | z_2), ..., p(z_{L-1} | z_L): L laws, bottom first.
        encoders: q(z_1 | x), q(z_2 | z_1), ..., q(z_L | z_{L-1}): L laws, bottom first.

    Raises:
        ValueError: different numbers of layers, or sizes that do not chain.
    """

    def __init__(self, decoders: Sequence[AffineGaussian], encoders: Sequence[AffineGaussian]) -> None:
        if not decoders or len(decoders) != len(encoders):
            raise ValueError(f"decoders and encoders must be equally many and at least one; got {len(decoders)} and {len(encoders)}")
        self.sizes = [decoders[0].matrix.shape[0], *(p.matrix.shape[1] for p in decoders)]  # D, d_1, ..., d_L
        for i, (p, q) in enumerate(zip(decoders, encoders)):
            if tuple(p.matrix.shape) != (self.sizes[i], self.sizes[i + 1]) or tuple(q.matrix.shape) != (self.sizes[i + 1], self.sizes[i]):
                raise ValueError(f"layer {i + 1}: decoder {tuple(p.matrix.shape)} and encoder {tuple(q.matrix.shape)} do not chain")
        top = decoders[0].matrix
        prior = AffineGaussian(top.new_zeros(self.sizes[-1], 0), top.new_zeros(self.sizes[-1]), _eye(top, self.sizes[-1]))
        self.decoders, self.encoders = [*decoders, prior], list(encoders)  # the prior is a last layer that sees nothing
        self.L = len(encoders)
        ends = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        self._block = [slice(ends[i], ends[i + 1]) for i in range(self.L + 1)] + [slice(ends[-1], ends[-1])]

    def log_prob(self, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Exact log p(x): the top prior pushed down through the decoders."""
        floating(x, "x", ndim=2, dim=self.sizes[0])
        mean, cov = self.decoders[-1].offset, self.decoders[-1].cov
        for layer in reversed(self.decoders[:-1]):
            mean, cov = layer.push(mean, cov)
        return _log_normal(x, mean, cov)

    def encode(self, x: Float[Tensor, "n D"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "k k"]]:
        """Law of (x, z_1, ..., z_L) stacked, under q and at fixed x: mean per point, one covariance (zero in the x block)."""
        floating(x, "x", ndim=2, dim=self.sizes[0])
        mean, cov = x, x.new_zeros(self.sizes[0], self.sizes[0])
        for i, layer in enumerate(self.encoders):
            last = self._block[i]
            cross = layer.matrix @ cov[last]
            corner = layer.matrix @ cov[last, last] @ layer.matrix.T + layer.cov
            mean = torch.cat([mean, layer.mean(mean[:, last])], 1)
            cov = torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, corner], 1)])
        return mean, cov

    def elbo(self, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Eq. 2.1.3 directly: E_q log p(x, z_{1:L}) plus the entropy of q(z_{1:L} | x)."""
        mean, cov = self.encode(x)
        latent = cov[self.sizes[0] :, self.sizes[0] :]
        entropy = 0.5 * (torch.logdet(latent) + latent.shape[0] * (1 + math.log(2 * math.pi)))
        return torch.stack([self._log_decoder(i, mean, cov) for i in range(self.L + 1)]).sum(0) + entropy

    def terms(self, x: Float[Tensor, "n D"], form: str = "log_ratio") -> tuple[Float[Tensor, " n"], Float[Tensor, "n L"]]:
        """Reconstruction and one penalty per layer (bottom first); bound = reconstruction - sum of penalties.

        Args:
            x: points, ``(N, D)``.
            form: ``"log_ratio"``: form (A), log-ratios averaged under the joint of q. ``"reversed"``: form (B), Kullback-Leibler
                divergences with the reversed encoder q(z_{i-1} | z_i, x), as in DDPM. ``"adjacent_kl"``: divergences between
                q(z_i | z_{i-1}) and p(z_i | z_{i+1}) averaged under the joint; *not* the bound for L >= 2, kept to show that.

        Raises:
            ValueError: unknown form, or ``x`` of the wrong shape.
        """
        penalty = {"log_ratio": self._log_ratio, "reversed": self._reversed_kl, "adjacent_kl": self._adjacent_kl}
        chosen = penalty[one_of(form, penalty, "form")]
        mean, cov = self.encode(x)
        return self._log_decoder(0, mean, cov), torch.stack([chosen(i, mean, cov) for i in range(1, self.L + 1)], 1)

    # Block 0 is x, block i is z_i; decoders[i] is the law of block i given block i + 1, encoders[i - 1] of block i given block i - 1.

    def _log_decoder(self, i: int, mean: Tensor, cov: Tensor) -> Tensor:
        return self._log_conditional(self.decoders[i], self._block[i], self._block[i + 1], mean, cov)

    def _log_conditional(self, layer: AffineGaussian, this: slice, given: slice, mean: Tensor, cov: Tensor) -> Tensor:
        residual = torch.zeros(layer.matrix.shape[0], cov.shape[0], dtype=cov.dtype, device=cov.device)
        residual[:, this] = _eye(cov, layer.matrix.shape[0])
        residual[:, given] = -layer.matrix
        return _expected_log_normal(mean @ residual.T - layer.offset, residual @ cov @ residual.T, layer.cov)

    def _log_ratio(self, i: int, mean: Tensor, cov: Tensor) -> Tensor:
        encoder = self._log_conditional(self.encoders[i - 1], self._block[i], self._block[i - 1], mean, cov)
        return encoder - self._log_decoder(i, mean, cov)

    def _reversed_kl(self, i: int, mean: Tensor, cov: Tensor) -> Tensor:
        this, given, p = self._block[i], self._block[i + 1], self.decoders[i]
        gain = torch.linalg.solve(cov[given, given], cov[given, this]).T  # q(z_i | z_{i+1}, x) by Gaussian conditioning
        q_cov = cov[this, this] - gain @ cov[given, this]
        slope = gain - p.matrix  # the two means differ by (m_i - offset - matrix m_{i+1}) + slope (z_{i+1} - m_{i+1})
        return _expected_kl(mean[:, this] - p.mean(mean[:, given]), slope @ cov[given, given] @ slope.T, q_cov, p.cov)

    def _adjacent_kl(self, i: int, mean: Tensor, cov: Tensor) -> Tensor:
        below, above, q, p = self._block[i - 1], self._block[i + 1], self.encoders[i - 1], self.decoders[i]
        slope = torch.zeros(q.matrix.shape[0], cov.shape[0], dtype=cov.dtype, device=cov.device)
        slope[:, below], slope[:, above] = q.matrix, -p.matrix
        return _expected_kl(q.mean(mean[:, below]) - p.mean(mean[:, above]), slope @ cov @ slope.T, q.cov, p.cov)


def _eye(like: Tensor, n: int) -> Tensor:
    return torch.eye(n, dtype=like.dtype, device=like.device)


def _covariance(cov: Tensor, name: str, k: int) -> None:
    floating(cov, name, ndim=2)
    if tuple(cov.shape) != (k, k):
        raise ValueError(f"{name} must have shape ({k}, {k}), got {tuple(cov.shape)}")
    if not torch.allclose(cov, cov.T) or int(torch.linalg.cholesky_ex(cov.detach()).info):
        raise ValueError(f"{name} must be symmetric positive definite, got {cov.detach().tolist()}")


def _swap(law: Law, first: int) -> Law:
    """Put the first block of a stacked Gaussian last."""
    order = [*range(first, law[0].shape[0]), *range(first)]
    return law[0][order], law[1][order][:, order]


def _log_normal(x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    return cast(Tensor, torch.distributions.MultivariateNormal(mean, cov).log_prob(x))


def _expected_log_normal(error: Tensor, error_cov: Tensor, cov: Tensor) -> Tensor:
    """E log N(r; 0, cov) for r ~ N(error, error_cov): ``error`` (N, k) -> (N,)."""
    quadratic = _mahalanobis(error, cov) + torch.linalg.solve(cov, error_cov).trace()
    return -0.5 * (quadratic + torch.logdet(cov) + cov.shape[0] * math.log(2 * math.pi))


def _expected_kl(gap: Tensor, gap_cov: Tensor, q_cov: Tensor, p_cov: Tensor) -> Tensor:
    """KL of two Gaussians averaged over a difference of means ~ N(gap, gap_cov): ``gap`` (N, k) -> (N,)."""
    traces = torch.linalg.solve(p_cov, q_cov + gap_cov).trace() - q_cov.shape[0]
    return 0.5 * (_mahalanobis(gap, p_cov) + traces + torch.logdet(p_cov) - torch.logdet(q_cov))


def _mahalanobis(v: Tensor, cov: Tensor) -> Tensor:
    return (v * torch.linalg.solve(cov, v.T).T).sum(1)
