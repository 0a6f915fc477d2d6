"""The exact fields of an interpolation between two Gaussian mixtures: what a perfectly trained flow-matching model would return."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore import _quantiles
from mathcore._adaptive_flow import integrate_flow
from mathcore._components import apply
from mathcore._types import Points, Scalars, Time
from mathcore._validate import count, floating, per_sample
from mathcore.distributions import GaussianMixture
from mathcore.interpolation import Interpolation

Instant = Float[Tensor, ""] | float | int


class InterpolantOracle:
    """Independent x_0 of a source and x_1 of a target, x_t = a_t x_0 + b_t x_1 (section 5.3.2), and every field that follows.

    Every pair (i, j) of components is one Gaussian of x_t, of weight w_i u_j, mean a mu_i + b nu_j and covariance V = a^2 S_i + b^2 T_j; in it the velocity
    x'_t is jointly Gaussian with x_t. The marginal velocity E[x'_t | x_t] (Eq. 5.2.10) is the mean of the pairs' velocities under p(i, j | x_t).

    ``t`` is a number, a 0-d tensor or one time per row ``(N,)``. Points ``x`` are ``(N, D)`` in the dtype and on the device of the mixtures. All fields are
    differentiable in point and time. One number or matrix per pair and point is kept: memory O(N K_0 K_1 D), with full covariances and a time per row D
    times that.

    Args:
        source, target: ``GaussianMixture`` of one dimension and dtype. path: ``Interpolation``.

    Raises:
        TypeError: arguments of other types, or mixtures of two dtypes. All methods: ``x`` not a tensor of the mixtures' dtype.
        ValueError: mixtures of two dimensions. All methods: wrong shape, NaN, a time outside [0, 1], a time at which both coefficients are zero.
    """

    def __init__(self, source: GaussianMixture, target: GaussianMixture, path: Interpolation):
        for name, law in (("source", source), ("target", target)):
            if not isinstance(law, GaussianMixture):
                raise TypeError(f"{name} must be a GaussianMixture, got {type(law).__name__}")
        if not isinstance(path, Interpolation):
            raise TypeError(f"path must be an Interpolation, got {type(path).__name__}")
        if source.dim != target.dim:
            raise ValueError(f"source and target must share a dimension, got {source.dim} and {target.dim}")
        if source.means.dtype != target.means.dtype:
            raise TypeError(f"source and target must share a dtype, got {source.means.dtype} and {target.means.dtype}")
        self.source, self.target, self.path, self.dim = source, target, path, source.dim
        self._weights = (source.weights[:, None] * target.weights).flatten()
        ones = torch.ones_like(self._weights).reshape(source.n_components, target.n_components, 1)
        self._means = (ones * source.means[:, None]).flatten(0, 1), (ones * target.means).flatten(0, 1)
        first, second = _same_form(source, target)
        self._full = first.ndim == 3
        ones = ones[..., None] if self._full else ones
        self._covs = (ones * first[:, None]).flatten(0, 1), (ones * second).flatten(0, 1)

    def __repr__(self) -> str:
        return f"InterpolantOracle({self.source!r}, {self.target!r}, {self.path!r})"

    # --- the law of x_t ---------------------------------------------------------------------------------------------------------------

    def marginal(self, t: Instant) -> GaussianMixture:
        """Return the law p_t of x_t at one time, one component for each pair."""
        if (isinstance(t, Tensor) and t.ndim > 0) or not isinstance(t, (int, float, Tensor)):
            raise ValueError(f"t must be one time, a number or 0-d, got {t.shape if isinstance(t, Tensor) else t}")
        a, b = self._scales(t, self._means[0], "a", "b")
        _some_scale(a, b)
        covs = a.square() * self._covs[0] + b.square() * self._covs[1]
        isotropic = not self._full and covs.shape[1] == 1 and self.dim > 1
        return GaussianMixture(self._weights, a * self._means[0] + b * self._means[1], covs[:, 0] if isotropic else covs)

    def log_prob(self, x: Points, t: Time) -> Scalars:
        """Return log p_t(x): ``(N,)``."""
        return torch.logsumexp(_Pairs(self, self._points(x), t).log_joint, dim=1)

    def score(self, x: Points, t: Time) -> Points:
        """Return grad log p_t(x): ``(N, D)``."""
        pairs = _Pairs(self, self._points(x), t)
        return pairs.average(pairs.scores)

    # --- the velocity -----------------------------------------------------------------------------------------------------------------

    def velocity(self, x: Points, t: Time) -> Points:
        """Return E[a' x_0 + b' x_1 | x_t = x] (Eq. 5.2.10), the minimiser of the flow-matching losses (Theorem 5.2.1): ``(N, D)``.

        Raises:
            ValueError: also where a derivative of the path is infinite, such as at t = 1 for a VP schedule.
        """
        pairs = _Moving(self, self._points(x), t)
        return pairs.average(pairs.velocities)

    def divergence(self, x: Points, t: Time) -> Scalars:
        """Return the divergence in x of ``velocity``, without differentiation: ``(N,)``; errors as there."""
        pairs = _Moving(self, self._points(x), t)
        # d/dx of the posterior p(k | x) is p(k | x) (score_k - score)
        relative = pairs.scores - pairs.average(pairs.scores)[:, None]
        own = pairs.traces(pairs.slopes) + (pairs.velocities * relative).sum(-1)
        return (pairs.posterior * own).sum(1)

    def target_variance_at(self, x: Points, t: Time) -> Scalars:
        """Return tr Cov(x'_t | x_t = x), the variance of the regression target at a point: ``(N,)``; errors as ``velocity``."""
        pairs = _Moving(self, self._points(x), t)
        return (pairs.posterior * pairs.traces(pairs.residual_covs)).sum(1) + pairs.spread()

    def target_variance(self, t: Instant, n: int = 10_000, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return E tr Cov(x'_t | x_t), the value of the flow-matching loss at its minimum at time ``t`` (Theorem 5.2.1): 0-d.

        The part inside the pairs is exact. What comes from not knowing the pair is an average over ``n`` samples of p_t, zero for two single Gaussians.

        Raises:
            ValueError: also ``n`` not a positive integer; errors as ``velocity``.
        """
        x = self.marginal(t).sample(count(n, "n"), generator)
        pairs = _Moving(self, x, t)
        inside = (self._weights * pairs.traces(pairs.residual_covs)).sum(-1)
        return inside + pairs.spread().mean() if len(self._weights) > 1 else inside

    def flow_map(self, x: Points, s: Time, t: Time) -> Points:
        """Return Psi_{s -> t}(x), the solution at ``t`` of dx/dt = velocity through ``x`` at ``s`` (section 5.2.4): ``(N, D)``.

        In one dimension the flow preserves order and so matches distribution functions, x_t = F_t^{-1}(F_s(x_s)), solved on the log scale of the nearer
        tail. For two single Gaussians with isotropic or diagonal covariances it is affine and closed. Both need no derivative of the path. Otherwise DOP853
        of scipy with relative tolerance 1e-10 per point, not differentiable.

        Raises:
            RuntimeError: the integration failed. ValueError: as ``velocity``, for the last of the three.
        """
        work = self._points(x).double()
        exact = (
            self if x.dtype == torch.float64 else InterpolantOracle(self.source.to(torch.float64), self.target.to(torch.float64), self.path)
        )
        start, end = self.path.as_time(s), self.path.as_time(t)
        for label, time in (("s", start), ("t", end)):
            per_sample(time, work, label)
        single = len(self._weights) == 1 and not self._full
        if self.dim > 1 and not single:
            return integrate_flow(exact.velocity, work, start, end).to(x.dtype)
        (mean, var), (mean_end, var_end) = exact._laws(start), exact._laws(end)
        if single:
            moved = mean_end + (var_end / var).sqrt() * (work[:, None] - mean)
            return moved[:, 0].to(x.dtype)
        ends = ((mean[..., 0], var[..., 0].sqrt()), (mean_end[..., 0], var_end[..., 0].sqrt()))
        return _quantiles.transport(work[:, 0], exact._weights.log(), *ends).to(x.dtype)[:, None]

    # --- helpers ----------------------------------------------------------------------------------------------------------------------

    def _points(self, x: Points) -> Points:
        if floating(x, "x", ndim=2, dim=self.dim).dtype != self._weights.dtype:
            raise TypeError(f"x must be {self._weights.dtype} like the mixtures, got {x.dtype}")
        return x

    def _scales(self, t: Time, like: Tensor, *names: str) -> list[Tensor]:
        """Return coefficients of the path at ``t``, 0-d or shaped to broadcast over the trailing axes of ``like`` ``(N, ...)``."""
        time = self.path.as_time(t)
        return [per_sample(getattr(self.path, name)(time), like, "t") for name in names]

    def _laws(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return means ``(1|N, K, D)`` and diagonal variances ``(1|N, K, 1|D)`` of the pairs."""
        rows = self._means[0].new_empty(time.numel(), 1, 1)
        a, b = self._scales(time, rows, "a", "b")
        _some_scale(a, b)
        laws = a * self._means[0] + b * self._means[1], a.square() * self._covs[0] + b.square() * self._covs[1]
        return (laws[0][None], laws[1][None]) if time.ndim == 0 else laws


class _Pairs:
    """The pairs of components as Gaussian laws of x_t, seen from the points ``x``."""

    def __init__(self, oracle: InterpolantOracle, x: Tensor, t: Time):
        self.full, self.dim = oracle._full, oracle.dim
        self.means, self.covs = oracle._means, oracle._covs
        self.a, self.b = oracle._scales(t, x[:, None], "a", "b")
        _some_scale(self.a, self.b)
        self.cov = self.lift(self.a.square()) * self.covs[0] + self.lift(self.b.square()) * self.covs[1]
        self.precisions, log_dets = _inverse(self.cov, self.full, self.dim)
        self.offsets = x[:, None] - (self.a * self.means[0] + self.b * self.means[1])
        self.scores = -apply(self.precisions, self.offsets, self.full)
        square = -(self.offsets * self.scores).sum(-1)
        self.log_joint = oracle._weights.log() - 0.5 * (square + log_dets + self.dim * math.log(2 * math.pi))
        self.posterior = torch.softmax(self.log_joint, dim=1)

    def lift(self, scale: Tensor) -> Tensor:
        """Return a coefficient shaped to broadcast over the pairs' covariances."""
        return scale[..., None] if self.full and scale.ndim > 0 else scale

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of ``(N, K, D)`` under the posterior of the pair: ``(N, D)``."""
        return (self.posterior[..., None] * values).sum(1)


class _Moving(_Pairs):
    """The pairs with their velocities x'_t: in each of them x'_t and x_t are jointly Gaussian."""

    def __init__(self, oracle: InterpolantOracle, x: Tensor, t: Time):
        super().__init__(oracle, x, t)
        self.da, self.db = oracle._scales(t, x[:, None], "da", "db")
        cross = self.lift(self.da * self.a) * self.covs[0] + self.lift(self.db * self.b) * self.covs[1]  # Cov(x'_t, x_t)
        self.cross = cross
        self.velocities = self.da * self.means[0] + self.db * self.means[1] - apply(cross, self.scores, self.full)

    @property
    def slopes(self) -> Tensor:
        """Jacobians of ``velocities`` in x, in the form of the covariances."""
        return self.cross @ self.precisions if self.full else self.cross * self.precisions

    @property
    def residual_covs(self) -> Tensor:
        """Covariances of x'_t given x_t and the pair, (a b' - a' b)^2 T V^{-1} S: no difference of nearly equal matrices."""
        wronskian = self.lift((self.a * self.db - self.da * self.b).square())
        first, second = self.covs
        return wronskian * (second @ self.precisions @ first if self.full else second * self.precisions * first)

    def traces(self, matrices: Tensor) -> Tensor:
        """Return the traces of one matrix for each pair: ``(K,)`` or ``(N, K)``."""
        return matrices.diagonal(dim1=-2, dim2=-1).sum(-1) if self.full else matrices.sum(-1) * (self.dim // matrices.shape[-1])

    def spread(self) -> Tensor:
        """Return the variance of the pairs' velocities under the posterior of the pair: ``(N,)``."""
        return (self.posterior * (self.velocities - self.average(self.velocities)[:, None]).square().sum(-1)).sum(1)


def _same_form(source: GaussianMixture, target: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Return both covariances as ``(K, 1)``, ``(K, D)`` or ``(K, D, D)``, the simplest form that fits the two."""
    if source.dim == 1:
        return source.covs.reshape(-1, 1), target.covs.reshape(-1, 1)
    if source.covs.ndim == 3 or target.covs.ndim == 3:
        return source.covariances, target.covariances
    return (source.covs.reshape(source.n_components, -1), target.covs.reshape(target.n_components, -1))


def _inverse(cov: Tensor, full: bool, dim: int) -> tuple[Tensor, Tensor]:
    """Return inverses and log-determinants of covariances in diagonal or full form."""
    if not full:
        return 1 / cov, cov.log().sum(-1) * (dim // cov.shape[-1])
    identity = torch.eye(dim, dtype=cov.dtype, device=cov.device)
    factor = torch.linalg.cholesky(cov)
    # not cholesky_inverse: its forward-mode derivative is wrong (torch 2.13), and velocities are differentiated in time that way
    return torch.cholesky_solve(identity.expand_as(factor), factor), 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _some_scale(a: Tensor, b: Tensor) -> None:
    if bool(((a == 0) & (b == 0)).any()):
        raise ValueError("a and b of the path are both zero at some t: all mass sits in one point there")
