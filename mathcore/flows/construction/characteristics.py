"""Characteristics: choose curves through the data point and a law at their far ends; the field and the density follow, for any prior.

A family of curves through x_0 is written as a *first integral*, the far end as a function of where one is: phi_t(x_t | x_0) = x_T, constant along a
curve. Its total derivative vanishes, which gives the field, and the far ends are distributed as the prior, which gives the density:

    f_t(x | x_0) = -(d phi/dx)^{-1} d phi/dt,      p_t(x | x_0) = p_T(phi_t(x | x_0)) |det d phi/dx|.

Data at t = 0, prior at t = T = 1 unless the first integral says otherwise. A first integral is called as ``first_integral(x, x0, t)`` with ``x`` and
``x0`` of shape ``(N, D)`` and ``t`` of shape ``(N, 1)``, returns ``(N, D)``, and works row by row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars, Time
from mathcore._validate import floating, like_input, positive
from mathcore.dynamics.fields import value_and_jacobian
from mathcore.dynamics.paths import Grid, check_grid
from mathcore.dynamics.transport import pushforward_logpdf
from mathcore.flows.construction._superposition import blocks, checked_data, log_mass, positive_time

FirstIntegral = Callable[[Tensor, Tensor, Tensor], Tensor]
LogProb = Callable[[Tensor], Tensor]
"""Log-density of the prior, ``(N, D) -> (N,)``; minus infinity outside its support."""

Data = Float[Tensor, "k d"]
Weights = Float[Tensor, " k"] | None


# --- families of curves -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveFamily:
    """Curves from x_T at t = 1 to x_0 at t = 0: ``curve(x0, xT, t)`` runs along one, ``first_integral(x, x0, t)`` leads back to its far end.

    Attributes:
        name, curve, first_integral: both take and return ``(N, D)``, times ``(N, 1)``.
    """

    name: str
    curve: FirstIntegral
    first_integral: FirstIntegral

    @classmethod
    def power(cls, k: float | int = 1) -> "CurveFamily":
        """x_t = x_0 + t^k (x_1 - x_0): one straight line run at growing speed; k = 1 at constant speed.

        Raises:
            ValueError: ``k`` not positive.
        """
        exponent = positive(k, "k")
        return cls(
            f"power {k}",
            lambda x0, xT, t: x0 + t**exponent * (xT - x0),
            lambda x, x0, t: x0 + (x - x0) / t**exponent,
        )

    @classmethod
    def rotating(cls, angle: float | int) -> "CurveFamily":
        """x_t = x_0 + t R(angle (1 - t)) (x_1 - x_0) in the plane: a spiral that turns by ``angle`` on its way in.

        Raises:
            ValueError: ``angle`` not finite.
        """
        if not math.isfinite(angle):
            raise ValueError(f"angle must be finite, got {angle}")
        return cls(
            f"rotating {angle}",
            lambda x0, xT, t: x0 + t * _turn(xT - x0, angle * (1 - t)),
            lambda x, x0, t: x0 + _turn(x - x0, -angle * (1 - t)) / t,
        )


def _turn(v: Tensor, angle: Tensor) -> Tensor:
    if v.shape[-1] != 2:
        raise ValueError(f"a rotating curve needs dimension 2, got {v.shape[-1]}")
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.cat([c * v[..., :1] - s * v[..., 1:], s * v[..., :1] + c * v[..., 1:]], dim=-1)


# --- one data point per row ---------------------------------------------------------------------------------------------------------------


def characteristic_field(first_integral: FirstIntegral, x: Points, x0: Points, t: Time) -> Points:
    """Return f_t(x | x_0) = -(d phi/dx)^{-1} d phi/dt, the field whose curves are those of the first integral: ``(N, D)``.

    Args:
        first_integral: see the module; differentiable in ``x`` and ``t``. x, x0: ``(N, D)``. t: positive.

    Raises:
        TypeError: not floating tensors, or a first integral that returns none.
        ValueError: shapes that do not fit, NaN, t not positive, or a Jacobian that is singular or not finite.
    """
    time = _pair(x, x0, t)
    _, matrix = value_and_jacobian(lambda y: first_integral(y, x0, time), x)
    slope = torch.func.jvp(lambda u: like_input(first_integral(x, x0, u), x, "first_integral"), (time,), (torch.ones_like(time),))[1]
    solved, info = torch.linalg.solve_ex(matrix, slope[:, :, None])
    bad = (info != 0) | ~torch.isfinite(solved).all(2).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"the first integral has a singular Jacobian at {int(bad.sum())} of {len(x)} points, first at x = {x[bad][0].tolist()}"
        )
    return -solved[:, :, 0]


def characteristic_log_density(first_integral: FirstIntegral, prior_log_prob: LogProb, x: Points, x0: Points, t: Time) -> Scalars:
    """Return log p_t(x | x_0) = log p_T(phi_t(x | x_0)) + log |det d phi/dx|: ``(N,)``, minus infinity off the support of the prior's image.

    The same as log p_T(x_T) plus the integral of div f along the curve from t to T, without the integral.

    Args:
        prior_log_prob: ``(N, D) -> (N,)``, minus infinity outside its support.

    Raises:
        TypeError, ValueError: as :func:`characteristic_field`; ValueError also where the prior does not return ``(N,)``.
    """
    time = _pair(x, x0, t)
    return pushforward_logpdf(lambda y: first_integral(y, x0, time), prior_log_prob, x)


# --- a finite data set --------------------------------------------------------------------------------------------------------------------


def superposed_velocity(
    first_integral: FirstIntegral, prior_log_prob: LogProb, x: Points, t: Time, data: Data, weights: Weights = None
) -> Points:
    """Return f_t(x) = E[f_t(x | x_0) | x_t = x] for data points with the given weights (None: equal) and any prior: ``(N, D)``.

    For a prior of bounded support the field jumps at the edges of the images of the support: use small fixed steps.

    Raises:
        TypeError: not floating tensors of one dtype.
        ValueError: shapes that do not fit, NaN, t or weights not positive, or a point that no data point reaches.
    """
    return _superposed(first_integral, prior_log_prob, x, t, data, weights, field=True)[1]


def superposed_log_density(
    first_integral: FirstIntegral, prior_log_prob: LogProb, x: Points, t: Time, data: Data, weights: Weights = None
) -> Scalars:
    """Return log p_t(x) of the data set: ``(N,)``.

    Raises:
        TypeError, ValueError: as :func:`superposed_velocity`.
    """
    return _superposed(first_integral, prior_log_prob, x, t, data, weights, field=False)[0]


def straight_line_clean(prior_log_prob: LogProb, x: Points, t: Time, data: Data, weights: Weights = None) -> Points:
    """Return E[x_0 | x_t = x] for straight lines, x_t = (1 - t) x_0 + t x_1 with x_1 from the prior: ``(N, D)``, no Jacobians.

    The posterior weight of a data point is p_1((x - x_0) / t + x_0); the velocity is (x - E[x_0 | x_t = x]) / t.

    Raises:
        TypeError, ValueError: as :func:`superposed_velocity`.
    """
    log_weights = checked_data(x, data, weights)
    out = []
    for part, time in blocks(x, positive_time(t, x), data):
        far = (part[:, None] - data) / (time[..., None] if time.ndim else time) + data
        log_terms = log_weights + _prior(prior_log_prob, far.flatten(0, 1)).reshape(len(part), len(data))
        log_mass(log_terms, part)
        out.append(torch.softmax(log_terms, dim=1) @ data)
    return torch.cat(out)


def trace_back(clean: Callable[[Tensor, float], Tensor], x: Points, ts: Grid, return_path: bool = False) -> Points | Float[Tensor, "n m d"]:
    """Integrate dx/dt = (x - m(x, t)) / t, m = E[x_0 | x_t], with m frozen over each step, which is then exact: x <- m + (x - m) t'/t.

    The equation of straight lines and of every self-similar kernel. First order, stable for any step, and it never evaluates at the end, so that the grid
    may end at t = 0.

    Args:
        clean: m(x, t), ``t`` a float. x: states at ``ts[0]``. ts: ``(M,)``, strictly monotone, positive but for the last.

    Returns:
        The states at ``ts[-1]``, or the path ``(N, M, D)``.

    Raises:
        TypeError: not floating tensors. ValueError: NaN, a bad grid, or a time not positive where the equation is evaluated.
    """
    grid = check_grid(ts).tolist()
    state = floating(x, "x", ndim=2)
    if min(grid[:-1]) <= 0 or grid[-1] < 0:
        raise ValueError(f"ts must be positive, but for its last entry, which may be 0; got {min(grid)}")
    path = [state]
    for t, t_next in pairwise(grid):
        state = torch.lerp(like_input(clean(state, t), state, "clean"), state, t_next / t)
        if return_path:
            path.append(state)
    return torch.stack(path, dim=1) if return_path else state


def destination_thresholds(
    data: Float[Tensor, " k"], icdf: Callable[[Tensor], Tensor], weights: Weights = None
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m-1"]]:
    """Return the distinct data points of a line in order, and the prior's quantiles between their shares: which x_T ends where (part H).

    A flow on the line keeps quantiles, whatever its field: far ends between two neighbouring thresholds end in the data point between them.

    Args:
        data: ``(K,)``. icdf: quantile function of the prior, ``(m,) -> (m,)``. weights: positive, any sum; None for equal ones.

    Raises:
        TypeError: not floating tensors. ValueError: NaN, no data, weights not positive or of another shape.
    """
    log_weights = checked_data(floating(data, "data", ndim=1)[:, None], data[:, None], weights)
    points, place = data.unique(return_inverse=True)
    share = torch.zeros_like(points).index_add(0, place, log_weights.exp())
    levels = share.cumsum(0)[:-1]
    return points, like_input(icdf(levels), levels, "icdf")


def _superposed(
    first_integral: FirstIntegral, prior_log_prob: LogProb, x: Tensor, t: Time, data: Tensor, weights: Tensor | None, field: bool
) -> tuple[Tensor, Tensor]:
    log_weights = checked_data(x, data, weights)
    masses, fields, shape = [], [], (-1, len(data))
    for part, time in blocks(x, positive_time(t, x), data):
        n, k = len(part), len(data)
        points, sources = part.repeat_interleave(k, 0), data.repeat(n, 1)
        times = time.expand(n, 1).reshape(n).repeat_interleave(k)

        def prior(far: Tensor) -> Tensor:
            return _prior(prior_log_prob, far)

        log_terms = log_weights + characteristic_log_density(first_integral, prior, points, sources, times).reshape(shape)
        masses.append(log_mass(log_terms, part))
        if field:
            each = characteristic_field(first_integral, points, sources, times).reshape(*shape, part.shape[1])
            fields.append(torch.einsum("nk,nkd->nd", torch.softmax(log_terms, dim=1), each))
    return torch.cat(masses), torch.cat(fields) if field else x


def _prior(prior_log_prob: LogProb, x: Tensor) -> Tensor:
    value = prior_log_prob(x)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise ValueError(f"prior_log_prob must return one number per row, shape ({len(x)},); got {tuple(getattr(value, 'shape', ()))}")
    return value


def _pair(x: Tensor, x0: Tensor, t: Time) -> Tensor:
    """Check the points and return the times as ``(N, 1)``."""
    if floating(x0, "x0").shape != floating(x, "x", ndim=2).shape:
        raise ValueError(f"x0 must have the shape of x, {tuple(x.shape)}, got {tuple(x0.shape)}")
    # a copy: forward differentiation refuses a tensor whose rows share memory
    return positive_time(t, x).expand(len(x), 1).clone()
