"""Exact log-densities by the instantaneous change of variables along an ODE, and the codes it assigns (section 4.2.2, Eq. 4.2.7)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars
from mathcore._validate import count, floating, one_of, positive
from mathcore.dynamics.fields import draw_probes, value_and_divergence
from mathcore.dynamics.integrate import odeint_fixed
from mathcore.dynamics.paths import Grid
from mathcore.dynamics.sde import VectorField

State = Float[Tensor, "n *shape"]


def log_likelihood_ode(
    velocity: VectorField,
    prior_log_prob: Callable[[Tensor], Tensor],
    x0: State,
    ts: Grid,
    method: str = "rk4",
    divergence: str | Callable[[Tensor, Any], Tensor] = "exact",
    n_probes: int = 1,
    generator: torch.Generator | None = None,
) -> Scalars:
    """Return the log-density at ``x0`` and ``ts[0]`` of the law that the ODE carries to or from ``prior_log_prob`` at ``ts[-1]`` (Eq. 4.2.7).

    Integrates x and delta together, d delta / dt = div v, by the fixed-step ``method``, whose order the answer has:

        log p(x_0, ts[0]) = log p_prior(x(ts[-1])) + delta(ts[-1])

    The grid runs from the time of the question to the time of the known density, in either direction. Under a noise schedule let the steps shrink towards
    the data, where the velocity changes fastest (``torch.linspace(0, 1, n + 1) ** 2.5`` for VP), and start where it is finite.

    Args:
        velocity: ``v(x, t)``. prior_log_prob: ``(N, *shape) -> (N,)``. x0: ``(N, *shape)``. ts: ``(M,)``, strictly monotone.
        divergence: ``"exact"``, D backward passes per evaluation; ``"hutchinson"``, one for each of ``n_probes`` random signs that are drawn once and kept
            along the path (the integrand stays smooth; the answer is unbiased); or a function ``(x, t) -> (N,)`` that is the divergence, in closed form.
        generator: of the probes.

    Raises:
        TypeError: not floating tensors. ValueError: unknown method or divergence, bad grid, NaN, a velocity, prior or divergence of the wrong shape.
        SolverDivergedError: a state is not finite.
    """
    if isinstance(divergence, str):
        one_of(divergence, ("exact", "hutchinson"), "divergence")
    if floating(x0, "x0").ndim == 0:
        raise ValueError("x0 must have shape (N, *shape), got a 0-d tensor")
    probes = draw_probes(x0, n_probes, "rademacher", generator) if divergence == "hutchinson" else None

    def rate(y: Tensor, t: Any) -> Tensor:
        x = y[:, :-1].reshape(x0.shape)
        if callable(divergence):
            v, div = velocity(x, t), divergence(x, t)
        else:
            v, div = value_and_divergence(lambda u: velocity(u, t), x, probes)
        if v.shape != x.shape:
            raise ValueError(f"velocity must return the shape of its input, {tuple(x.shape)}; got {tuple(v.shape)}")
        return torch.cat([v.reshape(len(x), -1), _per_row(div, x, "divergence")[:, None]], dim=1)

    start = torch.cat([x0.reshape(len(x0), -1), x0.new_zeros(len(x0), 1)], dim=1)
    end = odeint_fixed(rate, start, ts, method)
    x = end[:, :-1].reshape(x0.shape)
    return _per_row(prior_log_prob(x), x, "prior_log_prob") + end[:, -1]


def encode(velocity: VectorField, x0: State, ts: Grid, method: str = "rk4") -> State:
    """Return the code of ``x0``: where the ODE takes it from ``ts[0]``, the data, to ``ts[-1]``, the prior (section 4.2.2).

    Raises:
        as :func:`~mathcore.dynamics.integrate.odeint_fixed`.
    """
    return odeint_fixed(velocity, x0, ts, method)


def decode(velocity: VectorField, code: State, ts: Grid, method: str = "rk4") -> State:
    """Return the point whose code is ``code``: the same grid as in :func:`encode`, run from its end to its start.

    A method of order p brings ``encode`` back with an error of order p where p is odd and p + 1 where it is even (section A.1.4). Errors as there.
    """
    return odeint_fixed(velocity, code, ts.flip(0), method)


def bits_per_dim(log_prob: Scalars, dim: int, bin_width: float | int) -> Scalars:
    """Return -log2 of the probability of a bin of side ``bin_width`` around each point, per coordinate: ``(N,)``.

    The density times the volume of the bin stands for its probability: exact on average over uniformly dequantised data, as a lower bound (Theis et al. 2016).
    For 256 grey levels on [-1, 1] the width is 2 / 256, which adds log2(128) = 7 to -log2 p / D.

    Raises:
        TypeError: no floating tensor. ValueError: not ``(N,)``, NaN, ``dim`` not a positive integer, ``bin_width`` not positive.
    """
    floating(log_prob, "log_prob", ndim=1)
    count(dim, "dim")
    return -log_prob / (dim * math.log(2)) - math.log2(positive(bin_width, "bin_width"))


def _per_row(values: Any, x: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"{name} must return a floating-point tensor, got {type(values).__name__}")
    if values.shape != x.shape[:1]:
        raise ValueError(f"{name} must return one number per row, shape ({len(x)},); got {tuple(values.shape)}")
    return values
