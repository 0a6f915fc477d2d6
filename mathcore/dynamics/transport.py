"""Densities carried by maps and by velocities (appendix B): change of variables, velocities of a given density, fields that move no mass."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars, Time
from mathcore._validate import floating, function
from mathcore.dynamics.fields import jacobian

Map = Callable[[Tensor], Tensor]


def log_abs_det_jacobian(fn: Map, x: Points) -> Scalars:
    """Return log |det d fn / d x| at the points, the logarithm of the factor by which ``fn`` stretches volume: ``(N, D) -> (N,)``.

    Raises:
        TypeError: ``x``, or what ``fn`` returns, is no floating tensor.
        ValueError: ``fn`` does not return ``(N, D)`` (its Jacobian would not be square), NaN, or a Jacobian that is singular or not finite.
    """
    value = torch.linalg.slogdet(jacobian(fn, x)).logabsdet
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        where = x[bad][0].tolist()
        raise ValueError(f"the Jacobian is singular or not finite at {int(bad.sum())} of {len(x)} points, first at x = {where}")
    return value


def pushforward_logpdf(inverse: Map, base_log_prob: Callable[[Tensor], Tensor], y: Points) -> Scalars:
    """Return the log-density at ``y`` of Psi(x), x ~ p_0: log p_0(Psi^{-1}(y)) + log |det d Psi^{-1} / d y| (Eq. B.1.1): ``(N,)``.

    Args:
        inverse: Psi^{-1}, ``(N, D) -> (N, D)``, differentiable. base_log_prob: log p_0, ``(N, D) -> (N,)``. y: ``(N, D)``.

    Raises:
        TypeError, ValueError: as :func:`log_abs_det_jacobian`; ``base_log_prob`` does not return ``(N,)``.
    """
    stretch = log_abs_det_jacobian(inverse, y)
    base = base_log_prob(inverse(y))
    if base.shape != y.shape[:1]:
        raise ValueError(f"base_log_prob must return one value per row, ({len(y)},); got {tuple(base.shape)}")
    return base + stretch


def velocity_from_density_1d(
    cdf: Callable[[Tensor, Tensor], Tensor],
    pdf: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "n 1"],
    t: Time,
    survival: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Float[Tensor, "n 1"]:
    """Return v = -(dF/dt) / p, the one velocity on the line that moves the densities p_t and lets no mass in from infinity (section B.1.2).

    The continuity equation integrated from minus infinity to x. dF/dt by automatic differentiation; where F > 1/2 it is taken from ``survival``,
    1 - F, if given: in the far right tail 1 - F keeps the digits that F has lost.

    Args:
        cdf, pdf, survival: functions ``(x (N, 1), t) -> (N,)`` of the density path; ``cdf`` and ``survival`` differentiable in ``t``.
        x: ``(N, 1)``. t: a number, 0-d, or one time per row.

    Raises:
        TypeError: ``x`` is no floating tensor. ValueError: not ``(N, 1)``, NaN, values of another shape, or a density that is not positive at some
            point, where no velocity can be read off.
    """
    time = torch.as_tensor(t, dtype=floating(x, "x", ndim=2, dim=1).dtype, device=x.device)
    value, rate = _time_derivative(cdf, x, time, "cdf")
    if survival is not None:
        rate = torch.where(value > 0.5, -_time_derivative(survival, x, time, "survival")[1], rate)
    density = pdf(x, time)
    if density.shape != x.shape[:1]:
        raise ValueError(f"pdf must return one value per row, ({len(x)},); got {tuple(density.shape)}")
    if not bool((density > 0).all()):
        raise ValueError(
            f"pdf must be positive where the velocity is asked, got {float(density.min())} at x = {float(x[density.argmin()])}"
        )
    return -(rate / density)[:, None]


def marginal_velocity(
    cond_v: Float[Tensor, "n k d"], cond_log_p: Float[Tensor, "n k"], weights: Float[Tensor, " k"]
) -> Float[Tensor, "n d"]:
    """Return the mean of conditional velocities under the posterior of the condition, sum_k v_k p_k pi_k / sum_k p_k pi_k (section B.1.2, Eq. 5.2.5).

    With p_k = p_t(x | z_k) and v_k = v_t(x | z_k) it moves the mixture sum_k pi_k p_k.

    Args:
        cond_v: v_t(x | z_k) at N points for K conditions. cond_log_p: log p_t(x | z_k). weights: pi(z_k), positive, any sum.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, weights not positive.
    """
    floating(cond_v, "cond_v", ndim=3)
    if floating(cond_log_p, "cond_log_p", ndim=2).shape != cond_v.shape[:2]:
        raise ValueError(f"cond_log_p must have shape {tuple(cond_v.shape[:2])} like cond_v, got {tuple(cond_log_p.shape)}")
    if floating(weights, "weights", ndim=1).shape != cond_v.shape[1:2] or not bool((weights > 0).all()):
        raise ValueError(
            f"weights must be {cond_v.shape[1]} positive numbers, got shape {tuple(weights.shape)} and minimum {float(weights.min())}"
        )
    posterior = torch.softmax(cond_log_p + weights.log(), dim=1)
    return (posterior[:, :, None] * cond_v).sum(1)


def zero_flux_field(score: Callable[[Tensor, Any], Tensor], A: Float[Tensor, "d d"]) -> Callable[[Tensor, Any], Tensor]:
    """Return w(x, t) = A score(x, t) for an antisymmetric A: a velocity that moves particles and no density (section B.1.2).

    div(p w) = div(A grad p) = sum_ij A_ij d_i d_j p = 0 for every smooth p, since A is antisymmetric and the Hessian symmetric. So v and v + w have
    the same densities. In one dimension A = 0: there is no other velocity.

    Raises:
        TypeError: ``A`` is no floating tensor, ``score`` no function. ValueError: ``A`` not square, NaN, or not antisymmetric to 1e-8 of its largest entry.
    """
    function(score, "score")
    if floating(A, "A", ndim=2).shape[0] != A.shape[1]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    gap = float((A + A.T).abs().max())
    if gap > 1e-8 * float(A.abs().max()):
        raise ValueError(f"A must be antisymmetric, A^T = -A; A + A^T has an entry of size {gap:.3g}")

    def field(x: Tensor, t: Any) -> Tensor:
        return score(x, t) @ A.T.to(x)

    return field


def _time_derivative(fn: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, name: str) -> tuple[Tensor, Tensor]:
    value, rate = torch.func.jvp(lambda u: fn(x, u), (t,), (torch.ones_like(t),))[:2]
    if value.shape != x.shape[:1]:
        raise ValueError(f"{name} must return one value per row, ({len(x)},); got {tuple(value.shape)}")
    return value, rate
