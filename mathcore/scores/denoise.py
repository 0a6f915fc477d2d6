"""Denoising from scores: Tweedie's formula and its higher orders (section 3.3.4), and Stein's estimate of a denoiser's risk (section 3.3.5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Matrices, Scalars
from mathcore._validate import count, floating, like_input, one_of, positive
from mathcore.dynamics.fields import draw_probes, value_and_divergence
from mathcore.scores._calls import Batch, Score, row_sum


def tweedie_mean(x: Batch, score: Batch, alpha: float | int = 1.0, sigma: float | int = 1.0) -> Batch:
    """Return E[x_0 | x] = (x + sigma^2 score) / alpha for x = alpha x_0 + sigma eps (Lemma 3.3.2, Eq. 3.3.6).

    Args:
        x: noisy points ``(N, *shape)``. score: the values of grad log p(x) there, same shape.

    Raises:
        TypeError: no floating tensors. ValueError: shapes that differ, NaN, ``alpha`` zero, ``sigma`` not positive.
    """
    if floating(score, "score").shape != floating(x, "x").shape:
        raise ValueError(f"score must have the shape of x, {tuple(x.shape)}; got {tuple(score.shape)}")
    return (x + positive(sigma, "sigma") ** 2 * score) / _nonzero(alpha)


def tweedie_cov(score_jacobian: Matrices, alpha: float | int = 1.0, sigma: float | int = 1.0) -> Matrices:
    """Return Cov[x_0 | x] = (sigma^2 I + sigma^4 H) / alpha^2 from the Hessian H of log p at the noisy points: ``(N, D, D)`` (section 3.3.4).

    Raises:
        TypeError: no floating tensor. ValueError: not ``(N, D, D)``, NaN, ``alpha`` zero, ``sigma`` not positive.
    """
    floating(score_jacobian, "score_jacobian", ndim=3)
    if score_jacobian.shape[1] != score_jacobian.shape[2]:
        raise ValueError(f"score_jacobian must have shape (N, D, D), got {tuple(score_jacobian.shape)}")
    var = positive(sigma, "sigma") ** 2
    identity = torch.eye(score_jacobian.shape[1], dtype=score_jacobian.dtype, device=score_jacobian.device)
    return (var * identity + var**2 * score_jacobian) / _nonzero(alpha) ** 2


def tweedie_cumulant(score: Score, x: Float[Tensor, "n d"], order: int, alpha: float | int = 1.0, sigma: float | int = 1.0) -> Tensor:
    """Return the cumulant tensor of x_0 given x of the given order: ``(N, D, ..., D)`` with ``order`` axes D (section 3.3.4).

    Order 1 is the mean, order 2 the covariance, and from order 3 on it is (sigma^2 / alpha)^order times the derivatives of that order of log p, here
    by forward differentiation of ``score``, ``order - 1`` times: D^{order - 1} evaluations.

    Args:
        score: grad log p of the noisy law, as a function ``(N, D) -> (N, D)``. x: noisy points ``(N, D)``.

    Raises:
        TypeError: ``x`` or what ``score`` returns is no floating tensor.
        ValueError: ``order`` below 1, wrong shape, NaN, ``alpha`` zero, ``sigma`` not positive.
    """
    floating(x, "x", ndim=2)
    var, scale = positive(sigma, "sigma") ** 2, _nonzero(alpha)

    def checked(y: Tensor) -> Tensor:
        return like_input(score(y), y, "score")

    field: Score = checked
    for _ in range(count(order, "order") - 1):
        field = _derivative(field, x.shape[1])
    value = field(x)
    if order == 1:
        return tweedie_mean(x, value, alpha, sigma)
    return tweedie_cov(value, alpha, sigma) if order == 2 else (var / scale) ** order * value


def _derivative(field: Score, dim: int) -> Score:
    """The field with one axis more, holding its derivatives by each coordinate."""

    def by_coordinate(y: Tensor) -> Tensor:
        units = torch.eye(dim, dtype=y.dtype, device=y.device)
        return torch.stack([torch.func.jvp(field, (y,), (unit.expand_as(y).contiguous(),))[1] for unit in units], dim=-1)

    return by_coordinate


def sure(
    denoiser: Score,
    x_noisy: Batch,
    sigma: float | int,
    divergence: str = "exact",
    n_probes: int = 1,
    probe: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Scalars:
    """Return Stein's unbiased risk estimate |D(x) - x|^2 + 2 sigma^2 div D(x) - dim sigma^2, one for each noisy point: ``(N,)`` (Eq. 3.3.7).

    For x = x_0 + sigma eps its mean over eps is E |D(x) - x_0|^2, whatever x_0 is: the squared error without the clean point. One value may be negative.

    Args:
        denoiser: ``(N, *shape) -> (N, *shape)``. x_noisy: ``(N, *shape)``.
        divergence: ``"exact"`` or ``"hutchinson"``, with ``n_probes``, ``probe`` and ``generator``: see :func:`mathcore.dynamics.fields.divergence`.

    Raises:
        TypeError: ``x_noisy`` or what ``denoiser`` returns is no floating tensor.
        ValueError: ``sigma`` not positive, unknown ``divergence`` or ``probe``, NaN, a denoiser that changes the shape.
    """
    var = positive(sigma, "sigma") ** 2
    one_of(divergence, ("exact", "hutchinson"), "divergence")
    floating(x_noisy, "x_noisy")
    probes = draw_probes(x_noisy, n_probes, probe, generator) if divergence == "hutchinson" else None
    value, trace = value_and_divergence(denoiser, x_noisy, probes)
    return row_sum((value - x_noisy).square()) + 2 * var * trace - var * x_noisy[:1].numel()


def _nonzero(alpha: float | int) -> float:
    number = float(alpha)
    if number == 0.0 or not -float("inf") < number < float("inf"):
        raise ValueError(f"alpha must be finite and not zero: without signal x says nothing about x_0; got {alpha}")
    return number
