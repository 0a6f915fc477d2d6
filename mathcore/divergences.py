"""Distances between laws: exact (Gaussians), by quadrature (densities on a grid) and between samples, with their Monte-Carlo floor.

The two-sample statistics `energy_distance` and `mmd_rbf` are V-statistics: squared distances between the two *empirical* laws. They are
never negative and vanish only on equal empirical laws, but two samples of one law lie a positive distance apart. A measured number means
something only beside `two_sample_floor` at the same sample size.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, one_of, positive

Values = Callable[[Float[Tensor, "m d"]], Tensor] | Tensor
"""A function of points ``(M, D)``, or its values there."""

Grid = Float[Tensor, " m"] | Sequence[Tensor]
"""Increasing nodes ``(M,)`` of a line, or one such tensor per dimension (their product is the grid)."""

_MASS_TOLERANCE = 1e-2  # a density whose integral over the grid is further from one is refused: the grid cuts it off or steps over it
_PAIRS_AT_ONCE = 2**21  # pairwise distances held in memory at a time: 16 MB in float64


def kl_gaussian(
    mean1: Float[Tensor, " d"] | Float[Tensor, "n d"],
    cov1: Float[Tensor, "d d"] | Float[Tensor, "n d d"],
    mean2: Float[Tensor, " d"] | Float[Tensor, "n d"],
    cov2: Float[Tensor, "d d"] | Float[Tensor, "n d d"],
) -> Float[Tensor, ""] | Float[Tensor, " n"]:
    """KL divergence ``KL(N(mean1, cov1) || N(mean2, cov2))`` in nats (section 1.1.1).

    Each argument may carry a leading batch axis ``N``; the result is 0-d when none does, else ``(N,)``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or dtypes differ.
        ValueError: wrong shape, NaN, or a covariance that is not symmetric positive definite.
    """
    dim = _check_gaussians({"mean1": mean1, "mean2": mean2}, {"cov1": cov1, "cov2": cov2}, batched=True)
    chol1, chol2 = _cholesky(cov1, "cov1"), _cholesky(cov2, "cov2")
    ratio = torch.linalg.solve_triangular(chol2, chol1.expand(*torch.broadcast_shapes(chol1.shape, chol2.shape)), upper=False)
    shift = torch.linalg.solve_triangular(chol2, (mean2 - mean1).unsqueeze(-1), upper=False)
    log_ratio = ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half the log-determinant of cov2^-1 cov1: no large terms to cancel
    return 0.5 * (ratio.square().sum((-2, -1)) + shift.square().sum((-2, -1)) - dim) - log_ratio


def wasserstein2_gaussian(
    mean1: Float[Tensor, " d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, " d"], cov2: Float[Tensor, "d d"]
) -> Float[Tensor, ""]:
    """Wasserstein-2 distance (not its square) between two Gaussians; singular covariances are welcome.

    With ``cov = A A^T`` the Bures term is an orthogonal Procrustes problem, ``min_U ||A1 - A2 U||_F^2`` over orthogonal ``U`` (Bhatia,
    Jain & Lim 2019): a sum of squares has nothing to cancel, where ``tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))`` loses half of the digits.

    Raises as `kl_gaussian`, but for a covariance that is not positive *semi*definite.
    """
    _check_gaussians({"mean1": mean1, "mean2": mean2}, {"cov1": cov1, "cov2": cov2}, batched=False)
    root1, root2 = _psd_root(cov1, "cov1"), _psd_root(cov2, "cov2")
    left, _, right = torch.linalg.svd(root2.T @ root1)
    bures = (root1 - root2 @ (left @ right)).square().sum()
    return ((mean1.double() - mean2.double()).square().sum() + bures).sqrt().to(mean1.dtype)


def f_divergence(log_p: Values, log_q: Values, grid: Grid, kind: str) -> Float[Tensor, ""]:
    """f-divergence ``D_f(p || q)`` of Eq. 1.1.4 by the trapezium rule on ``grid``, in nats.

    Where ``q = 0 < p`` the integrand is ``p f'(inf)``, without which disjoint supports would give KL 0, JS log(2)/2 and TV 1/2 instead of
    infinity, log 2 and 1. For smooth densities on a uniform grid that reaches into their tails the rule converges faster than any power of
    the step; at a jump it is of first order, at a kink (tv) of second.

    Args:
        log_p, log_q: log-densities, functions of points ``(M, D)`` returning ``(M,)`` or values ``(M,)`` at the nodes; ``-inf`` for density 0.
        grid: increasing nodes ``(M,)``, or a list of them, one per dimension.
        kind: ``kl`` = KL(p || q), ``reverse_kl`` = KL(q || p), ``js`` (at most log 2) or ``tv`` (at most 1).

    Raises:
        TypeError: the grid or the values are not floating-point tensors.
        ValueError: unknown kind, grid not increasing, NaN, wrong shape, or a density that does not integrate to one on the grid.
    """
    integrand = _INTEGRANDS[one_of(kind, _INTEGRANDS, "kind")]
    points, weights = quadrature_nodes(grid)
    values_p, values_q = _log_density(log_p, points, weights, "log_p"), _log_density(log_q, points, weights, "log_q")
    return (weights * integrand(values_p, values_q)).sum()


def kl_quadrature_1d(log_p: Values, log_q: Values, grid: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """``KL(p || q)`` of two densities on the line (section 1.1.1), infinite where q = 0 < p; arguments and errors as in `f_divergence`."""
    return f_divergence(log_p, log_q, floating(grid, "grid", ndim=1), "kl")


def fisher_divergence(score_p: Values, score_q: Values, samples: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Monte-Carlo Fisher divergence, the mean of ``||score_p(x) - score_q(x)||^2`` over samples of p (Eq. 1.1.3; no factor 1/2).

    The scores are functions of points ``(N, D)`` returning ``(N, D)``, or their values there. Normalisation constants do not enter.

    Raises:
        TypeError: samples or values are not floating-point tensors.
        ValueError: wrong shape, no samples, or NaN.
    """
    _points(samples, "samples")
    gap = _evaluate(score_p, samples, samples.shape, "score_p") - _evaluate(score_q, samples, samples.shape, "score_q")
    return floating(gap, "score_p - score_q").square().sum(-1).mean()


def fisher_divergence_quadrature(score_p: Values, score_q: Values, log_p: Values, grid: Grid) -> Float[Tensor, ""]:
    """Fisher divergence of Eq. 1.1.3 (no factor 1/2) by the trapezium rule; arguments as in `fisher_divergence` and `f_divergence`.

    The scores need not be finite where p = 0. Two laws with one score on a disconnected support are at distance zero. Raises as `f_divergence`.
    """
    points, weights = quadrature_nodes(grid)
    values = _log_density(log_p, points, weights, "log_p")
    gap = _evaluate(score_p, points, points.shape, "score_p") - _evaluate(score_q, points, points.shape, "score_q")
    support = values > -math.inf
    squares = floating(gap[support], "score_p - score_q").square().sum(-1)
    return (weights[support] * values[support].exp() * squares).sum()


def _kl_integrand(log_p: Tensor, log_q: Tensor) -> Tensor:
    value = log_p.exp() * (log_p - log_q)
    value = torch.where(log_q == -math.inf, math.inf, value)  # f'(inf) = inf
    return torch.where(log_p == -math.inf, 0.0, value)  # 0 log 0 = 0, also where both vanish


def _js_integrand(log_p: Tensor, log_q: Tensor) -> Tensor:
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (_kl_integrand(log_p, log_m) + _kl_integrand(log_q, log_m))


_INTEGRANDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": _kl_integrand,
    "reverse_kl": lambda log_p, log_q: _kl_integrand(log_q, log_p),
    "js": _js_integrand,
    "tv": lambda log_p, log_q: 0.5 * (log_p.exp() - log_q.exp()).abs(),
}


def wasserstein1_1d(x: Float[Tensor, " n"] | Float[Tensor, "n 1"], y: Float[Tensor, " m"] | Float[Tensor, "m 1"]) -> Float[Tensor, ""]:
    """Wasserstein-1 distance between two samples of the line, ``(N,)`` or ``(N, 1)``: the integral of the gap between their quantiles.

    Raises as `energy_distance`.
    """
    x, y = _line(x, "x"), _line(y, "y")
    _same_dtype({"x": x, "y": y})
    i, j, weights = _monotone_coupling(len(x), len(y), x)
    return (weights * (x.sort().values[i] - y.sort().values[j]).abs()).sum()


def sliced_wasserstein(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], n_projections: int = 128, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Sliced Wasserstein-2 distance: root of the mean squared 1-D W2 over ``n_projections`` random directions (Bonneel et al. 2015).

    Raises as `energy_distance`, and ValueError for ``n_projections`` below 1.
    """
    _pair(x, y)
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, got {n_projections}")
    directions = torch.randn(x.shape[1], n_projections, generator=generator, dtype=x.dtype, device=x.device)
    directions = directions / directions.norm(dim=0)
    i, j, weights = _monotone_coupling(len(x), len(y), x)
    gaps = (x @ directions).sort(0).values[i] - (y @ directions).sort(0).values[j]
    return (weights[:, None] * gaps.square()).sum(0).mean().sqrt()


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Energy distance ``2 E|X-Y| - E|X-X'| - E|Y-Y'|`` between the empirical laws of two samples (Szekely & Rizzo 2013).

    A V-statistic: the pairs (i, i) count. It is the *square* of a metric, never negative beyond rounding; two samples of ``n`` points of
    one law are ``2 E|X-X'| / n`` apart on average. O(N^2) time, bounded memory, summed in float64.

    Raises:
        TypeError: not floating-point tensors, or dtypes differ.
        ValueError: wrong shape, empty, or NaN.
    """
    _pair(x, y)
    return (2 * _mean_over_pairs(x, y) - _mean_over_pairs(x, x) - _mean_over_pairs(y, y)).to(x.dtype)


def mmd_rbf(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], bandwidth: float) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy with the kernel ``exp(-|x-y|^2 / (2 bandwidth^2))`` (Gretton et al. 2012).

    A V-statistic, like `energy_distance`: never negative, and ``2 (1 - E k(X, X')) / n`` on average for two samples of one law.

    Raises as `energy_distance`, and ValueError for a ``bandwidth`` that is not positive.
    """
    _pair(x, y)
    rate = 0.5 / positive(bandwidth, "bandwidth") ** 2
    xx, xy, yy = (_mean_over_pairs(a, b, lambda distance: (-rate * distance.square()).exp()) for a, b in ((x, x), (x, y), (y, y)))
    return (xx + yy - 2 * xy).to(x.dtype)


def ks_1d(samples: Float[Tensor, " n"] | Float[Tensor, "n 1"], cdf: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Kolmogorov-Smirnov test of a sample of the line against a continuous distribution function: ``(statistic, p-value)``, exact in ``n``.

    ``cdf`` receives the sorted samples in the shape they came in.

    Raises:
        TypeError: ``samples`` or the values of ``cdf`` are not floating-point tensors.
        ValueError: wrong shape, empty, NaN, or values of ``cdf`` outside [0, 1].
    """
    from scipy.stats import kstwo  # imported here: scipy.stats is slow to load

    ordered = _line(samples, "samples").sort().values
    n = len(ordered)
    levels = floating(cdf(ordered.reshape(samples.shape)), "cdf(samples)").reshape(-1).double()
    if len(levels) != n or bool(((levels < 0) | (levels > 1)).any()):
        raise ValueError(f"cdf(samples) must be {n} values in [0, 1], got {len(levels)} in [{float(levels.min())}, {float(levels.max())}]")
    steps = torch.arange(n + 1, dtype=torch.float64, device=levels.device) / n
    statistic = float(torch.maximum(steps[1:] - levels, levels - steps[:-1]).max())
    return statistic, float(kstwo.sf(statistic, n))


def two_sample_floor(
    metric: Callable[[Tensor, Tensor], Tensor | float],
    sample: Callable[[int, torch.Generator | None], Tensor],
    n: int,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Mean and standard deviation of ``metric`` between two independent samples of one law: what a perfect model would score.

    ``sample(n, generator)`` draws ``n`` points; take the size of the samples you compare, because the floor falls with it.

    Raises ValueError for ``n`` below 1 or ``repeats`` (independent pairs) below 2.
    """
    if n < 1 or repeats < 2:
        raise ValueError(f"n must be at least 1 and repeats at least 2, got n={n}, repeats={repeats}")
    values = torch.tensor([float(metric(sample(n, generator), sample(n, generator))) for _ in range(repeats)], dtype=torch.float64)
    return float(values.mean()), float(values.std())


def _mean_over_pairs(x: Tensor, y: Tensor, function: Callable[[Tensor], Tensor] = lambda distance: distance) -> Tensor:
    """Mean of ``function(|x_i - y_j|)`` over all pairs, in float64, a block of rows at a time."""
    total, centre = torch.zeros((), dtype=torch.float64, device=x.device), x.double().mean(0)
    x, y = x.double() - centre, y.double() - centre
    # the matrix product is faster in many dimensions, but sees a point up to 1e-7 |x| from itself
    mode = "donot_use_mm_for_euclid_dist" if x.shape[1] <= 32 else "use_mm_for_euclid_dist"
    for rows in x.split(max(1, _PAIRS_AT_ONCE // len(y))):
        total = total + function(torch.cdist(rows, y, compute_mode=mode)).sum()
    return total / (len(x) * len(y))


def _monotone_coupling(n: int, m: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal plan between sorted samples of sizes n and m: which ranks meet, and with what mass.

    The quantile functions jump at k/n and k/m: over the common denominator nm these are integers, so ties are exact.
    """
    jumps = torch.cat([torch.arange(n + 1, device=like.device) * m, torch.arange(m + 1, device=like.device) * n]).unique()
    return jumps[:-1] // m, jumps[:-1] // n, (jumps.diff().double() / (n * m)).to(like.dtype)


def quadrature_nodes(grid: Grid) -> tuple[Tensor, Tensor]:
    """Return points ``(M, D)`` and trapezium weights ``(M,)`` of a product grid; TypeError or ValueError unless its nodes are floats that increase."""
    axes: list[Any] = list(grid) if isinstance(grid, (list, tuple)) else [grid]
    weights = []
    for axis in axes:
        steps = floating(axis, "grid", ndim=1).diff()
        if len(steps) == 0 or not bool((steps > 0).all()):
            raise ValueError(f"grid must be strictly increasing with at least 2 nodes, got {len(axis)} nodes")
        weights.append(torch.cat([steps[:1], steps[:-1] + steps[1:], steps[-1:]]) / 2)
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), reduce(torch.kron, weights)


def _evaluate(function: Values, points: Tensor, shape: torch.Size, name: str) -> Tensor:
    values = function(points) if callable(function) else function
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"{name} must give a floating-point tensor, got {getattr(values, 'dtype', type(values).__name__)}")
    if values.shape != shape:
        raise ValueError(f"{name} must give shape {tuple(shape)} at points of shape {tuple(points.shape)}, got {tuple(values.shape)}")
    return values


def _log_density(log_p: Values, points: Tensor, weights: Tensor, name: str) -> Tensor:
    """Values ``(M,)`` of a log-density that integrates to one on the grid."""
    values = _evaluate(log_p, points, weights.shape, name)
    if bool(torch.isnan(values).any()) or bool((values == math.inf).any()):
        raise ValueError(f"{name} contains NaN or +infinity")
    mass = float((weights * values.detach().exp()).sum())
    if abs(mass - 1) > _MASS_TOLERANCE:
        raise ValueError(f"{name} integrates to {mass:.4g} on the grid, not to 1: widen or refine the grid, or normalise the density")
    return values


def _line(x: Tensor, name: str) -> Tensor:
    floating(x, name)
    if x.ndim not in (1, 2) or x.shape[1:] not in ((), (1,)) or len(x) == 0:
        raise ValueError(f"{name} must have shape (N,) or (N, 1) with N at least 1, got {tuple(x.shape)}")
    return x.reshape(-1)


def _points(x: Tensor, name: str, dim: int | None = None) -> Tensor:
    if floating(x, name, ndim=2, dim=dim).numel() == 0:
        raise ValueError(f"{name} must hold at least one point, got shape {tuple(x.shape)}")
    return x


def _pair(x: Tensor, y: Tensor) -> None:
    _same_dtype({"x": _points(x, "x"), "y": _points(y, "y", x.shape[1])})


def _same_dtype(tensors: dict[str, Tensor]) -> None:
    if len({x.dtype for x in tensors.values()}) > 1:
        raise TypeError(f"arguments must share one dtype, got {', '.join(f'{name}: {x.dtype}' for name, x in tensors.items())}")


def _check_gaussians(means: dict[str, Tensor], covs: dict[str, Tensor], batched: bool) -> int:
    """Check means ``([N,] D)`` and covariances ``([N,] D, D)`` against the last axis of the first mean; return D."""
    tensors = {name: floating(x, name) for name, x in (means | covs).items()}
    _same_dtype(tensors)
    dim = next(iter(means.values())).shape[-1:].numel()
    batches = set()
    for name, x in tensors.items():
        tail = (dim,) if name in means else (dim, dim)
        batch = x.shape[: max(0, x.ndim - len(tail))]
        if dim == 0 or tuple(x.shape) != (*batch, *tail) or len(batch) > int(batched):
            raise ValueError(f"{name} must have shape {tail}{' after an optional batch axis' if batched else ''}, got {tuple(x.shape)}")
        batches |= set(batch)
    if len(batches) > 1:
        raise ValueError(f"batches of means and covariances must have one size, got {sorted(batches)}")
    return dim


def _check_symmetric(cov: Tensor, name: str) -> None:
    gap = float((cov - cov.mT).abs().max())
    if gap > math.sqrt(torch.finfo(cov.dtype).eps) * float(cov.abs().max()):
        raise ValueError(f"{name} must be symmetric, got entries that differ by {gap:.3g} from their mirror image")


def _cholesky(cov: Tensor, name: str) -> Tensor:
    _check_symmetric(cov, name)
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool(info.any()):
        raise ValueError(f"{name} must be positive definite, got smallest eigenvalue {float(torch.linalg.eigvalsh(cov).min()):.3g}")
    return factor


def _psd_root(cov: Tensor, name: str) -> Tensor:
    """A float64 matrix A with A A^T = cov, for a covariance that may be singular."""
    _check_symmetric(cov, name)
    values, vectors = torch.linalg.eigh(cov.double())
    eps, largest = torch.finfo(cov.dtype).eps, values.abs().max()
    if values[0] < -math.sqrt(eps) * largest:
        raise ValueError(f"{name} must be positive semidefinite, got smallest eigenvalue {float(values[0]):.3g}")
    # a zero eigenvalue comes out as +-eps: left in, its root would be 1e-8
    return vectors * torch.where(values > len(values) * eps * largest, values, 0.0).sqrt()
