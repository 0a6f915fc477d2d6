"""Energy-based models, p = exp(-E) / Z (section 3.1): the score, the partition function by quadrature, and the way back from a score to a density."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars
from mathcore._validate import count, floating, like_input
from mathcore.divergences import Grid, quadrature_nodes
from mathcore.dynamics.fields import jacobian
from mathcore.scores._calls import Batch, Energy, Score, one_per_row
from mathcore.scores.langevin import langevin


def energy_score(energy: Energy) -> Score:
    """Return the score of exp(-E) / Z, the field x -> -grad E(x); Z does not matter (Eq. 3.1.2).

    The field can be differentiated again, in x and in what ``energy`` depends on.

    Args:
        energy: ``(N, *shape) -> (N,)``, row by row.

    Raises:
        TypeError, ValueError: when called, for what is no floating tensor, NaN, or an energy that does not return one number per row.
    """

    def score(x: Tensor) -> Tensor:
        floating(x, "x")
        return -torch.func.grad(lambda y: one_per_row(energy(y), y, "energy").sum())(x)

    return score


def log_partition(energy: Energy, grid: Grid) -> Float[Tensor, ""]:
    """Return log Z, Z the integral of exp(-E), by the trapezium rule on ``grid``: 0-d, differentiable in what ``energy`` depends on.

    Args:
        energy: ``(N, D) -> (N,)``. grid: increasing nodes ``(M,)``, or a list of them, one for each dimension; they must reach where exp(-E) is negligible.

    Raises:
        TypeError, ValueError: a grid that is not increasing, an energy that does not return one number per node.
    """
    points, weights = quadrature_nodes(grid)
    return torch.logsumexp(weights.log() - one_per_row(energy(points), points, "energy"), dim=0)


def ebm_log_likelihood(energy: Energy, x: Points, grid: Grid) -> Float[Tensor, ""]:
    """Return the mean log-likelihood -E[E(x)] - log Z of data ``x`` (Eq. 3.1.1), to be maximised; arguments and errors as :func:`log_partition`."""
    return -one_per_row(energy(floating(x, "x", ndim=2)), x, "energy").mean() - log_partition(energy, grid)


def contrastive_loss(energy: Energy, x: Batch, model_samples: Float[Tensor, "m *shape"]) -> Float[Tensor, ""]:
    """Return mean E(data) - mean E(samples): its gradient in the parameters is minus that of Eq. 3.1.1 when the samples come from the model.

    The samples are held fixed. For those of ``k`` Langevin steps from the data, see :func:`contrastive_divergence`.

    Raises:
        TypeError, ValueError: no floating tensors, NaN, an energy that does not return one number per row.
    """
    floating(x, "x"), floating(model_samples, "model_samples")
    low, high = (one_per_row(energy(y.detach()), y, "energy") for y in (x, model_samples))
    return low.mean() - high.mean()


def contrastive_divergence(
    energy: Energy, x: Batch, step: float | int, n_steps: int, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Return :func:`contrastive_loss` with samples made by ``n_steps`` Langevin steps that start at the data (Hinton 2002; section 3.1.1).

    Errors as :func:`mathcore.scores.langevin.langevin`.
    """
    return contrastive_loss(energy, x, langevin(energy_score(energy), x, step, n_steps, generator))


def gaussian_score(x: Points, mean: Float[Tensor, " d"], cov: Float[Tensor, "d d"]) -> Points:
    """Return the score of N(mean, cov) at ``x``, -cov^{-1} (x - mean): ``(N, D)`` (Lemma D.2.1).

    Raises:
        TypeError: no floating tensors. ValueError: shapes that do not fit, NaN, a covariance that is not symmetric positive definite.
    """
    dim = floating(x, "x", ndim=2).shape[1]
    if floating(mean, "mean").shape != (dim,) or floating(cov, "cov").shape != (dim, dim):
        raise ValueError(f"mean and cov must have shapes ({dim},) and ({dim}, {dim}), got {tuple(mean.shape)} and {tuple(cov.shape)}")
    factor, failed = torch.linalg.cholesky_ex(cov)
    if bool(failed) or not torch.allclose(cov, cov.mT, rtol=1e3 * torch.finfo(cov.dtype).eps, atol=0.0):
        raise ValueError("cov must be symmetric positive definite")
    return -torch.cholesky_solve((x - mean).mT, factor).mT


def log_density_from_score(score: Score, x: Points, x_ref: Float[Tensor, " d"], n_quad: int = 32) -> Scalars:
    """Return log p(x) - log p(x_ref), the integral of the score along the straight line from ``x_ref`` to each row of ``x``: ``(N,)`` (section 3.1.2).

    Gauss-Legendre quadrature of ``n_quad`` nodes. For a field that is no gradient the answer is that of this path and of no other.

    Raises:
        TypeError: no floating tensors. ValueError: shapes that do not fit, NaN, ``n_quad`` below 1.
    """
    import numpy as np

    floating(x, "x", ndim=2)
    if floating(x_ref, "x_ref").shape != x.shape[1:]:
        raise ValueError(f"x_ref must have shape ({x.shape[1]},), got {tuple(x_ref.shape)}")
    nodes, weights = (torch.as_tensor(a).to(x) for a in np.polynomial.legendre.leggauss(count(n_quad, "n_quad")))
    way = x - x_ref
    total = x.new_zeros(len(x))
    for node, weight in zip((nodes + 1) / 2, weights / 2):
        at = x_ref + node * way
        total = total + weight * (like_input(score(at), at, "score") * way).sum(1)
    return total


def asymmetry(field: Score, x: Points) -> Scalars:
    """Return the Frobenius norm of the antisymmetric part (J - J^T) / 2 of the field's Jacobian: ``(N,)``, zero for a gradient field.

    Raises:
        TypeError, ValueError: as :func:`mathcore.dynamics.fields.jacobian`.
    """
    matrices = jacobian(field, x)
    return ((matrices - matrices.mT) / 2).square().sum((1, 2)).sqrt()
