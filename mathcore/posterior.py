"""What a noisy point says about the clean one: x_t = a x_0 + s eps with x_0 from a mixture (Eq. 4.4.1), in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore import _components
from mathcore._components import Corrupted
from mathcore._types import Matrices, Points, Scalars
from mathcore._validate import floating, per_sample

Scale = float | int | Float[Tensor, ""] | Float[Tensor, " n"]
"""A coefficient of the corruption: a number, a 0-d tensor, or one per row ``(N,)``."""

Covariances = Float[Tensor, " k"] | Float[Tensor, "k d"] | Float[Tensor, "k d d"]
"""K covariances: isotropic variances ``(K,)``, diagonals ``(K, D)`` or matrices ``(K, D, D)``."""

Field = Callable[[Corrupted, Tensor], Tensor]


def draw(means: Tensor, covs: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one normal draw per row: mean ``means[n]`` of shape ``(D,)`` and covariance ``covs[labels[n]]``."""
    noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
    if covs.ndim < 3:
        return means + covs.reshape(len(covs), -1).sqrt()[labels] * noise
    factors = torch.linalg.cholesky(covs)
    out = torch.empty_like(means)
    for k in labels.unique().tolist():  # one (D, D) factor at a time: gathering one per row would take O(N D^2)
        rows = labels == k
        out[rows] = means[rows] + noise[rows] @ factors[k].T
    return out


@dataclass(frozen=True)
class PosteriorMixture:
    """The law of x_0 given x_t, one Gaussian mixture per row of x_t; made by ``GaussianMixture.posterior``.

    Args:
        log_weights: ``(N, K)``, logarithms of weights that sum to one in each row; a weight may be too small for a float.
        means: ``(N, K, D)``.
        covs: shared by all rows, ``(K,)``, ``(K, D)`` or ``(K, D, D)``.
    """

    log_weights: Float[Tensor, "n k"]
    means: Float[Tensor, "n k d"]
    covs: Covariances

    @property
    def weights(self) -> Float[Tensor, "n k"]:
        """The weights, ``(N, K)``."""
        return self.log_weights.exp()

    @property
    def _matrices(self) -> Tensor:
        return self.covs if self.covs.ndim > 1 else self.covs[:, None]

    def mean(self) -> Points:
        """Return E[x_0 | x_t]: ``(N, D)``."""
        return torch.einsum("nk,nkd->nd", self.weights, self.means)

    def cov(self) -> Matrices:
        """Return Cov[x_0 | x_t]: ``(N, D, D)``."""
        inside = _components.within(self.weights, self._matrices, self.covs.ndim == 3, self.means.shape[-1])
        return inside + _components.between(self.weights, self.means)

    def sample(self, generator: torch.Generator | None = None) -> Points:
        """Return one draw of x_0 per row of x_t: ``(N, D)``."""
        labels = torch.multinomial(self.weights, 1, generator=generator)[:, 0]
        chosen = self.means[torch.arange(len(labels), device=labels.device), labels]
        return draw(chosen, self.covs, labels, generator)

    def log_prob(self, x0: Points) -> Scalars:
        """Return log p(x_0 | x_t), row against row: ``(N,)``.

        Raises:
            TypeError: ``x0`` is not a floating-point tensor.
            ValueError: ``x0`` has another shape than ``(N, D)``, or NaN.
        """
        n, _, dim = self.means.shape
        floating(x0, "x0", ndim=2, dim=dim)
        if len(x0) != n:
            raise ValueError(f"x0 must have one row per noisy point, {n}; got {len(x0)}")
        one, zero = self.means.new_ones(()), self.means.new_zeros(())
        # the differences to the row's own means are what a Gaussian centred at zero sees
        centred = Corrupted(torch.zeros_like(self.means[0]), self._matrices, self.means.new_zeros(dim), one, zero)
        diff = x0[:, None] - self.means
        square = (diff * _components.apply(centred.precisions, diff, centred.full)).sum(-1)
        peak = centred.log_density(self.means.new_zeros(1, dim))
        return torch.logsumexp(self.log_weights + peak - 0.5 * square, dim=1)


class CorruptibleMixture:
    """Shared by ``GaussianMixture`` and ``Empirical``: every exact field of the law of a x_0 + s eps, s and a shared or one per row.

    Tweedie's formula and its second order (section 3.3.4) tie them: a E[x_0|x] = x + s^2 score, a^2 Cov[x_0|x] = s^2 I + s^4 Jacobian.
    Arguments common to all methods: ``x_t`` ``(N, D)``; ``a`` and ``s`` numbers, 0-d or ``(N,)`` tensors, ``s >= 0`` (``s > 0`` for a finite data set).
    All raise TypeError for a tensor of another dtype than the law's and ValueError for a wrong shape, NaN, or a and s both zero.
    """

    weights: Tensor
    means: Tensor
    _matrices: Tensor  # (K, 1), (K, D) or (K, D, D); zero for a finite data set
    _centre: Tensor

    @property
    def dim(self) -> int:
        """The dimension D."""
        return int(self.means.shape[1])

    @property
    def n_components(self) -> int:
        """The number of components K."""
        return len(self.means)

    def checked_points(self, x: Tensor, name: str) -> Tensor:
        """Return ``x`` if it is ``(N, D)``, finite, in the dtype and on the device of the law; raise as said above otherwise."""
        floating(x, name, ndim=2, dim=self.dim)
        if x.dtype != self.means.dtype or x.device != self.means.device:
            law = f"{self.means.dtype} on {self.means.device}"
            raise TypeError(f"{name} is {x.dtype} on {x.device} but the law is {law}; convert one of them with .to(...)")
        return x

    def checked_scales(self, a: Scale, s: Scale, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both coefficients in the dtype of ``x`` if the corrupted law has a density, both 0-d or both ``(n, 1)``."""
        first, second = torch.broadcast_tensors(per_sample(a, x, "a"), per_sample(s, x, "s"))
        if bool((second < 0).any()):
            raise ValueError(f"s must be non-negative, got {float(second.min())}")
        if bool(((first == 0) & (second == 0)).any()):
            raise ValueError("a and s must not both be zero: the corrupted law would be a point")
        if bool((second == 0).any()) and not bool(self._matrices.any()):
            raise ValueError("s must be positive for a finite data set: without noise it has no density, got 0.0")
        return first, second

    def components_1d(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations of the components of a x_0 + s eps in one dimension, ``(1, K)`` or ``(n, K)``; checked a and s."""
        return a * self.means.T, (a.square() * self._matrices.reshape(1, -1) + s.square()).sqrt()

    def _seen(self, a: Tensor, s: Tensor) -> Corrupted:
        return Corrupted(self.means, self._matrices, self._centre, a, s)

    def _weights(self, seen: Corrupted, x: Tensor) -> Tensor:
        return torch.softmax(self.weights.log() + seen.log_density(x), dim=1)

    def _log_weights(self, seen: Corrupted, x: Tensor) -> Tensor:
        return torch.log_softmax(self.weights.log() + seen.log_density(x), dim=1)

    def _block_rows(self, per_component: int) -> int:
        return max(1, _components.DIRECT_LIMIT // (self.n_components * per_component))

    def _shared(self, seen: Corrupted, field: Field, x: Tensor, contracts: bool) -> Tensor:
        """Evaluate ``field`` at all points at once if it is a contraction done by matrix products, otherwise in blocks of bounded memory."""
        if contracts and seen.expandable:
            return field(seen, x)
        return torch.cat([field(seen, part) for part in x.split(self._block_rows(self.dim))])

    def _field(self, field: Field, x_t: Tensor, a: Scale, s: Scale, contracts: bool = False) -> Tensor:
        first, second = self.checked_scales(a, s, self.checked_points(x_t, "x_t"))
        if first.ndim == 0 or (contracts and self._matrices.shape[1:] == (1,)):
            return self._shared(self._seen(first, second), field, x_t, contracts)
        # every row has covariances of its own
        rows = self._block_rows(self._matrices[0].numel() if self._matrices.ndim == 3 else self.dim)
        parts = zip(x_t.split(rows), first.split(rows), second.split(rows))
        return torch.cat([field(self._seen(a_i, s_i), x_i) for x_i, a_i, s_i in parts])

    def _log_prob(self, seen: Corrupted, x: Tensor) -> Tensor:
        return torch.logsumexp(self.weights.log() + seen.log_density(x), dim=1)

    def _score(self, seen: Corrupted, x: Tensor) -> Tensor:
        return seen.mean_score(x, self._weights(seen, x))

    def _mean(self, seen: Corrupted, x: Tensor) -> Tensor:
        return seen.mean_posterior(x, self._weights(seen, x))

    def _mean_and_score(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        return torch.cat([seen.mean_posterior(x, weights), seen.mean_score(x, weights)], dim=1)

    def _cumulant3(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        dev = _components.deviations(weights, seen.posterior_means(x))[..., 0]
        variances = (seen.gains() * _components.lift(seen.s, seen.covs.ndim).square()).reshape(-1, self.n_components)
        return (weights * (dev**3 + 3 * variances * dev)).sum(-1)

    def _jacobian(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        return _components.between(weights, seen.scores(x)) - _components.within(weights, seen.precisions, seen.full, self.dim)

    def _laplacian(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        spread = (weights * _components.deviations(weights, seen.scores(x)).square().sum(-1)).sum(-1)
        return spread - _components.within_trace(weights, seen.precisions, seen.full, self.dim)

    def _posterior_cov(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        inside = _components.within(weights, seen.gains(), seen.full, self.dim) * _components.lift(seen.s, 2).square()
        return inside + _components.between(weights, seen.posterior_means(x))

    def _clean_divergence(self, seen: Corrupted, x: Tensor) -> Tensor:
        weights = self._weights(seen, x)
        spread = (weights * _components.deviations(weights, seen.posterior_means(x)).square().sum(-1)).sum(-1)
        s, a = seen.s.reshape(-1), seen.a.reshape(-1)
        # without noise all components agree on x / a: the spread is 0 and any divisor will do
        return a * (_components.within_trace(weights, seen.gains(), seen.full, self.dim) + spread / torch.where(s > 0, s, 1).square())

    def corrupted_log_prob(self, x_t: Points, a: Scale, s: Scale) -> Scalars:
        """Return the log-density of a x_0 + s eps at ``x_t``: ``(N,)``; ``corrupt(a, s).log_prob`` with a and s possibly one per row."""
        return self._field(self._log_prob, x_t, a, s, contracts=True)

    def corrupted_score(self, x_t: Points, a: Scale, s: Scale) -> Points:
        """Return the score of the law of a x_0 + s eps at ``x_t``: ``(N, D)``."""
        return self._field(self._score, x_t, a, s, contracts=True)

    def corrupted_score_jacobian(self, x_t: Points, a: Scale, s: Scale) -> Matrices:
        """Return the Hessian of the log-density of a x_0 + s eps at ``x_t``: ``(N, D, D)``."""
        return self._field(self._jacobian, x_t, a, s)

    def corrupted_laplacian(self, x_t: Points, a: Scale, s: Scale) -> Scalars:
        """Return the trace of ``corrupted_score_jacobian`` without forming it: ``(N,)``."""
        return self._field(self._laplacian, x_t, a, s)

    def posterior_weights(self, x_t: Points, a: Scale, s: Scale) -> Float[Tensor, "n k"]:
        """Return p(component k | x_t): ``(N, K)``."""
        return self._field(self._weights, x_t, a, s, contracts=True)

    def posterior_mean(self, x_t: Points, a: Scale, s: Scale) -> Points:
        """Return E[x_0 | x_t], the minimiser of the clean-prediction loss (Prop. 4.2.1): ``(N, D)``."""
        return self._field(self._mean, x_t, a, s, contracts=True)

    def posterior_mean_and_score(self, x_t: Points, a: Scale, s: Scale) -> tuple[Points, Points]:
        """Return ``posterior_mean`` and ``corrupted_score`` for the price of one."""
        mean, score = self._field(self._mean_and_score, x_t, a, s, contracts=True).split(self.dim, dim=1)
        return mean, score

    def posterior_cov(self, x_t: Points, a: Scale, s: Scale) -> Matrices:
        """Return Cov[x_0 | x_t]: ``(N, D, D)``."""
        return self._field(self._posterior_cov, x_t, a, s)

    def posterior_mean_divergence(self, x_t: Points, a: Scale, s: Scale) -> Scalars:
        """Return the divergence in ``x_t`` of ``posterior_mean``, a Tr Cov[x_0 | x_t] / s^2 and finite at s = 0: ``(N,)``."""
        return self._field(self._clean_divergence, x_t, a, s)

    def posterior_cumulant3(self, x_t: Points, a: Scale, s: Scale) -> Scalars:
        """Return the third cumulant of x_0 given ``x_t`` in one dimension: ``(N,)``.

        Raises:
            ValueError: the dimension is not 1.
        """
        if self.dim != 1:
            raise ValueError(f"posterior_cumulant3 needs dimension 1, got {self.dim}")
        return self._field(self._cumulant3, x_t, a, s)
