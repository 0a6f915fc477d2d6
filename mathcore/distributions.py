"""Laws whose corruption is known exactly: Gaussian mixtures, and finite data sets as sums of point masses."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mathcore import _components, _quantiles
from mathcore._types import Matrices, Points, Scalars
from mathcore._validate import floating
from mathcore.posterior import CorruptibleMixture, Covariances, PosteriorMixture, draw

Scalar = float | int | Float[Tensor, ""]


def _check_weights(weights: Tensor) -> None:
    floating(weights, "weights", ndim=1)
    if len(weights) == 0 or not bool((weights > 0).all()):
        smallest = float(weights.min()) if len(weights) else "none"
        raise ValueError(f"weights must be positive and there must be at least one; the smallest given is {smallest}")
    total = float(weights.double().sum())
    # normalising in float32 leaves a few of its rounding errors; in float64 the tolerance is 1e-8
    if abs(total - 1) > max(1e-8, 16 * torch.finfo(weights.dtype).eps):
        raise ValueError(f"weights must sum to 1, got {total}")


def _check_covs(covs: Tensor, k: int, dim: int) -> None:
    floating(covs, "covs")
    if covs.shape not in {(k,), (k, dim), (k, dim, dim)}:
        raise ValueError(f"covs must have shape ({k},), ({k}, {dim}) or ({k}, {dim}, {dim}), got {tuple(covs.shape)}")
    if covs.ndim < 3:
        if not bool((covs > 0).all()):
            raise ValueError(f"covs must be positive variances, got minimum {float(covs.min())}")
        return
    asymmetry = (covs - covs.mT).abs().amax((1, 2))
    # products such as A C A^T are symmetric up to a few rounding errors per entry
    crooked = asymmetry > 1e3 * torch.finfo(covs.dtype).eps * covs.abs().amax((1, 2))
    if bool(crooked.any()):
        raise ValueError(f"covs[{int(crooked.int().argmax())}] is not symmetric")
    failed = torch.linalg.cholesky_ex(covs.detach()).info > 0
    if bool(failed.any()):
        raise ValueError(f"covs[{int(failed.int().argmax())}] is not positive definite")


class GaussianMixture(CorruptibleMixture):
    """The density sum_k w_k N(x; mu_k, Sigma_k), with everything that a diffusion model would have to learn about it.

    No method uses autograd, and all are differentiable in the point, the parameters and the coefficients of the corruption. Large problems with
    isotropic or diagonal covariances take memory O(NK + ND); see ``mathcore._components.DIRECT_LIMIT`` for where and at what accuracy.

    Args:
        weights: ``(K,)``, positive, summing to one.
        means: ``(K, D)``.
        covs: variances ``(K,)`` of isotropic components, diagonals ``(K, D)``, or matrices ``(K, D, D)``; kept in the form given. For K = D the
            shape ``(K, D)`` is still read as diagonals.

    Raises:
        TypeError: not floating-point tensors, of one dtype out of float32 and float64.
        ValueError: shapes that do not fit, NaN, weights not positive or not summing to one, covariances not symmetric positive definite.
    """

    def __init__(self, weights: Float[Tensor, " k"], means: Float[Tensor, "k d"], covs: Covariances):
        _check_weights(weights)
        floating(means, "means", ndim=2)
        if len(means) != len(weights) or means.shape[1] == 0:
            raise ValueError(f"means must have shape ({len(weights)}, D) with D >= 1, got {tuple(means.shape)}")
        _check_covs(covs, *means.shape)
        if not weights.dtype == means.dtype == covs.dtype or means.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"weights, means and covs must share one dtype, float32 or float64; got {weights.dtype}, {means.dtype}, {covs.dtype}"
            )
        self.weights, self.means, self.covs = weights, means, covs
        self._matrices = covs[:, None] if covs.ndim == 1 else covs
        self._centre = weights @ means
        self._own = self._seen(means.new_ones(()), means.new_zeros(()))

    def __repr__(self) -> str:
        return f"GaussianMixture(n_components={self.n_components}, dim={self.dim}, covs={tuple(self.covs.shape)}, {self.means.dtype})"

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "GaussianMixture":
        """Return the same mixture in another dtype or on another device."""
        return GaussianMixture(*(p.to(dtype=dtype, device=device) for p in (self.weights, self.means, self.covs)))

    @property
    def covariances(self) -> Float[Tensor, "k d d"]:
        """The covariances as matrices, whatever form they are kept in."""
        return self.covs if self.covs.ndim == 3 else torch.diag_embed(self._matrices.expand(-1, self.dim))

    def _one_dimensional(self, method: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights, means and standard deviations, each ``(K,)`` or ``(1, K)``."""
        if self.dim != 1:
            raise ValueError(f"{method} needs dimension 1, got {self.dim}")
        return self.weights.log(), self.means.T, self.covs.reshape(1, -1).sqrt()

    def mean(self) -> Float[Tensor, " d"]:
        """Return the mean: ``(D,)``."""
        return self._centre

    def cov(self) -> Float[Tensor, "d d"]:
        """Return the covariance: ``(D, D)``."""
        weights = self.weights[None]
        inside = _components.within(weights, self._matrices, self.covs.ndim == 3, self.dim)
        return (inside + _components.between(weights, self.means[None]))[0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Points:
        """Return ``n`` independent draws: ``(n, D)``."""
        return self.sample_with_labels(n, generator)[0]

    def sample_with_labels(self, n: int, generator: torch.Generator | None = None) -> tuple[Points, Int[Tensor, " n"]]:
        """Return ``n`` draws ``(n, D)`` and the component that each came from ``(n,)``."""
        labels = torch.multinomial(self.weights, _count(n), replacement=True, generator=generator)
        return draw(self.means[labels], self.covs, labels, generator), labels

    def log_prob(self, x: Points) -> Scalars:
        """Return the log-density: ``(N,)``."""
        return self._shared(self._own, self._log_prob, self.checked_points(x, "x"), contracts=True)

    def prob(self, x: Points) -> Scalars:
        """Return the density: ``(N,)``."""
        return self.log_prob(x).exp()

    def score(self, x: Points) -> Points:
        """Return the gradient of the log-density, sum_k p(k|x) Sigma_k^{-1} (mu_k - x): ``(N, D)``."""
        return self._shared(self._own, self._score, self.checked_points(x, "x"), contracts=True)

    def score_jacobian(self, x: Points) -> Matrices:
        """Return the Hessian of the log-density: ``(N, D, D)``."""
        return self._shared(self._own, self._jacobian, self.checked_points(x, "x"), contracts=False)

    def responsibilities(self, x: Points) -> Float[Tensor, "n k"]:
        """Return p(component k | x): ``(N, K)``."""
        return self._shared(self._own, self._weights, self.checked_points(x, "x"), contracts=True)

    def cdf(self, x: Points) -> Scalars:
        """Return P(X <= x) in one dimension, ``x`` of shape ``(N, 1)``: ``(N,)``.

        Raises:
            ValueError: the dimension is not 1.
        """
        log_weights, means, stds = self._one_dimensional("cdf")
        return _quantiles.log_cdf(self.checked_points(x, "x")[:, 0], log_weights, means, stds).exp()

    def icdf(self, u: Scalars) -> Float[Tensor, "n 1"]:
        """Return the quantiles at ``u`` ``(N,)`` in (0, 1), solved on the log scale of the nearer tail: ``(N, 1)``.

        Raises:
            ValueError: the dimension is not 1, or ``u`` leaves the open unit interval.
        """
        log_weights, means, stds = self._one_dimensional("icdf")
        if floating(u, "u", ndim=1).dtype != self.means.dtype:
            raise TypeError(f"u must be {self.means.dtype} like the mixture, got {u.dtype}")
        if not bool(((u > 0) & (u < 1)).all()):
            raise ValueError(f"u must lie strictly between 0 and 1, got values in [{float(u.min())}, {float(u.max())}]")
        args = (p.double() for p in (u, log_weights, means, stds))
        return _quantiles.quantile(*args).to(u.dtype)[:, None]

    def marginal(self, dims: Sequence[int]) -> "GaussianMixture":
        """Return the law of the coordinates ``dims``, in that order.

        Raises:
            ValueError: no index, a repeated one, or one outside 0..D-1.
        """
        chosen = list(dims)
        if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < self.dim for i in chosen):
            raise ValueError(f"dims must be distinct indices in 0..{self.dim - 1}, got {chosen}")
        covs = self.covs if self.covs.ndim == 1 else self.covs[:, chosen] if self.covs.ndim == 2 else self.covs[:, chosen][:, :, chosen]
        return GaussianMixture(self.weights, self.means[:, chosen], covs)

    def affine(self, A: Float[Tensor, "m d"], b: Float[Tensor, " m"]) -> "GaussianMixture":
        """Return the law of A x + b, with full covariances A Sigma_k A^T.

        Raises:
            ValueError: shapes that do not fit, or A not of full row rank (the image would have no density).
        """
        floating(A, "A", ndim=2, dim=self.dim)
        if floating(b, "b", ndim=1).shape != A.shape[:1]:
            raise ValueError(f"b must have shape ({len(A)},), got {tuple(b.shape)}")
        if not A.dtype == b.dtype == self.means.dtype:
            raise TypeError(f"A and b must be {self.means.dtype} like the mixture, got {A.dtype} and {b.dtype}")
        if int(torch.linalg.matrix_rank(A)) < len(A):
            raise ValueError(
                f"A must have full row rank {len(A)}, or the image has no density; got rank {int(torch.linalg.matrix_rank(A))}"
            )
        product = A @ self.covariances @ A.T
        return GaussianMixture(self.weights, self.means @ A.T + b, 0.5 * (product + product.mT))

    def corrupt(self, a: Scalar, s: Scalar) -> "GaussianMixture":
        """Return the law of a x_0 + s eps (Eq. 4.4.1): means a mu_k, covariances a^2 Sigma_k + s^2 I, in the form they are kept in.

        Raises:
            ValueError: ``s`` negative, both zero, not finite, or not scalars.
        """
        first, second = self.checked_scales(_scalar(a, "a"), _scalar(s, "s"), self.means)
        identity = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device) if self.covs.ndim == 3 else 1
        return GaussianMixture(self.weights, first * self.means, first.square() * self.covs + second.square() * identity)

    def posterior(self, x_t: Points, a: Scalar, s: Scalar) -> PosteriorMixture:
        """Return the law of x_0 given a x_0 + s eps = x_t, one mixture per row.

        Its components have weights ``(N, K)``, means ``(N, K, D)`` and covariances shared by all rows, in the form of ``covs``.

        Raises:
            ValueError: ``s`` not positive (the law would be a point), or the errors of ``posterior_mean``.
        """
        first, second = self.checked_scales(_scalar(a, "a"), _scalar(s, "s"), self.checked_points(x_t, "x_t"))
        if not bool(second > 0):
            raise ValueError(f"s must be positive for the posterior to have a density, got {float(second)}")
        seen = self._seen(first, second)
        covs = second.square() * seen.gains()
        return PosteriorMixture(self._log_weights(seen, x_t), seen.posterior_means(x_t), covs[:, 0] if self.covs.ndim == 1 else covs)


class Empirical(CorruptibleMixture):
    """A finite data set as a law: equal point masses. Its corruption is what a network that memorised the data would learn.

    Args:
        points: ``(K, D)``, float32 or float64.

    Raises:
        TypeError: not a floating-point tensor, or of another dtype.
        ValueError: not ``(K, D)`` with K, D >= 1, or NaN.
    """

    def __init__(self, points: Float[Tensor, "k d"]):
        floating(points, "points", ndim=2)
        if points.numel() == 0:
            raise ValueError(f"points must have shape (K, D) with K, D >= 1, got {tuple(points.shape)}")
        if points.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"points must be float32 or float64, got {points.dtype}")
        self.means = points
        self.weights = points.new_full((len(points),), 1 / len(points))
        self._matrices = points.new_zeros(len(points), 1)
        self._centre = points.mean(0)

    def __repr__(self) -> str:
        return f"Empirical(n_points={self.n_components}, dim={self.dim}, {self.means.dtype})"

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Empirical":
        """Return the same data set in another dtype or on another device."""
        return Empirical(self.means.to(dtype=dtype, device=device))

    @property
    def points(self) -> Float[Tensor, "k d"]:
        """The data: ``(K, D)``."""
        return self.means

    def mean(self) -> Float[Tensor, " d"]:
        """Return the mean: ``(D,)``."""
        return self._centre

    def cov(self) -> Float[Tensor, "d d"]:
        """Return the covariance of the law, the sum divided by K and not K - 1: ``(D, D)``."""
        return _components.between(self.weights[None], self.means[None])[0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Points:
        """Return ``n`` points drawn with replacement: ``(n, D)``."""
        rows = torch.randint(self.n_components, (_count(n),), generator=generator, device=self.means.device)
        return self.means[rows]

    def corrupt(self, a: Scalar, s: Scalar) -> GaussianMixture:
        """Return the law of a x_0 + s eps: equal isotropic components of variance s^2 at a x_k.

        Raises:
            ValueError: ``s`` not positive, not finite, or not scalars.
        """
        first, second = self.checked_scales(_scalar(a, "a"), _scalar(s, "s"), self.means)
        return GaussianMixture(self.weights, first * self.means, second.square().expand(self.n_components))

    def log_prob(self, x: Points) -> Scalars:
        """Refuse: a sum of point masses has no density.

        Raises:
            ValueError: always.
        """
        raise ValueError("a finite data set has no density and so no log_prob; use corrupt(a, s).log_prob with s > 0")

    def score(self, x: Points) -> Points:
        """Refuse: a sum of point masses has no density.

        Raises:
            ValueError: always.
        """
        raise ValueError("a finite data set has no density and so no score; use corrupt(a, s).score with s > 0")


def _count(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an integer, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return n


def _scalar(value: Scalar, name: str) -> Scalar:
    if isinstance(value, Tensor) and value.ndim > 0:
        raise ValueError(f"{name} must be a number or a 0-d tensor, got shape {tuple(value.shape)}")
    return value
