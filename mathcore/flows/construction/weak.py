"""Test functions: what it means that an ODE has the marginals of a process, and a test that says so (part R of the three constructions).

A velocity f carries the laws of x_t exactly if for every test function h one Euler step is right to first order,

    E h(x_{t + dt}) = E h(x_t + f(x_t) dt) + O(dt^2).

With f = E[dx_t/dt | x_t] the gap shrinks like dt^2; with a wrong f like dt, *unless* its error w moves no mass, div(p_t w) = 0: then the marginals are right
too, and no test function can tell. The expectations are weighted sums over fixed draws, or over quadrature nodes, which make them exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars
from mathcore._validate import count, floating, like_input, positive
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.sde import VectorField

Smooth = Callable[[Tensor], Tensor]
"""A smooth function ``(N, D) -> (N,)``, row by row."""

Weights = Float[Tensor, " n"] | None


@dataclass(frozen=True)
class WeakOrder:
    """Outcome of :func:`weak_order`: step sizes ``dts (M,)``, ``gaps (F, M)`` with sign, and the fitted order of each test function ``orders (F,)``."""

    dts: Float[Tensor, " m"]
    gaps: Float[Tensor, "f m"]
    orders: Float[Tensor, " f"]


def weak_form_gap(
    now: Points,
    after: Points,
    velocity: Callable[[Tensor], Tensor],
    test_functions: Mapping[str, Smooth],
    dt: float,
    weights: Weights = None,
) -> Float[Tensor, " f"]:
    """Return E h(x_{t + dt}) - E h(x_t + f(x_t) dt) for each test function: ``(F,)``.

    Args:
        now, after: the process at t and t + dt, ``(N, D)``; on the same draws, so that the noise of the two means cancels.
        velocity: f at time t, ``(N, D) -> (N, D)``. weights: of the rows, positive, any sum; None for equal ones.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, ``dt`` zero or not finite, no test function.
    """
    if floating(after, "after").shape != floating(now, "now", ndim=2).shape or now.numel() == 0:
        raise ValueError(f"now and after must have one shape (N, D), got {tuple(now.shape)} and {tuple(after.shape)}")
    step = positive(abs(dt), "|dt|") * (1 if dt > 0 else -1)
    weight = _weights(now, weights)
    moved = now + step * like_input(velocity(now), now, "velocity")
    functions = _functions(test_functions)
    return torch.stack([weight @ (_values(h, after, name) - _values(h, moved, name)) for name, h in functions.items()])


def weak_order(
    process: Callable[[float], Tensor],
    velocity: VectorField,
    test_functions: Mapping[str, Smooth],
    t: float,
    dts: Float[Tensor, " m"],
    weights: Weights = None,
) -> WeakOrder:
    """Fit the order in dt of :func:`weak_form_gap` at time ``t``: near 2 for a velocity that carries the marginals, near 1 for one that does not.

    Keep dt small (0.02 or less): where first- and second-order terms have opposite signs, the fit over large steps gives an order below 1.

    Args:
        process: the process at a time on fixed draws or nodes, ``(N, D)``. velocity: f(x, t). dts: at least four, positive.
        weights: of the draws or nodes, ``(N,)``; None for equal ones.

    Raises:
        TypeError: not floating tensors.
        ValueError: fewer than four steps, steps not positive, no test function, or a gap that is only rounding (for a linear h and the right velocity of a
            straight path it is zero): there is no order to fit.
    """
    steps = floating(dts, "dts", ndim=1).double()
    if len(steps) < 4 or not bool((steps > 0).all()):
        raise ValueError(f"dts must hold at least four positive steps, got {steps.tolist()}")
    now = floating(process(t), "process(t)", ndim=2)
    slope = like_input(velocity(now, t), now, "velocity")
    gaps = torch.stack(
        [weak_form_gap(now, process(t + h), lambda x: slope, test_functions, h, weights) for h in steps.tolist()], dim=1
    ).double()
    for (name, h), row in zip(test_functions.items(), gaps):
        floor = 100 * torch.finfo(now.dtype).eps * float(_values(h, now, name).abs().max())
        if bool((row.abs() <= floor).any()):
            raise ValueError(f"the gap of the test function {name!r} is rounding error ({float(row.abs().min()):.3g}): no order to fit")
    centred = steps.log() - steps.log().mean()
    orders = (gaps.abs().log() @ centred) / centred.square().sum()
    return WeakOrder(steps, gaps, orders)


def weak_rate(
    x: Points,
    test_functions: Mapping[str, Smooth],
    velocity: Callable[[Tensor], Tensor],
    squared_diffusion: float = 0.0,
    weights: Weights = None,
) -> Float[Tensor, " f"]:
    """Return E[f . grad h + g^2/2 Laplacian h], which is d/dt E h(x_t) for dx = f dt + g dw: ``(F,)``.

    The weak form of the continuity equation (g = 0), and with the second Taylor term of h that of the Fokker-Planck equation.

    Args:
        x: the process at time t, ``(N, D)``. velocity: f at time t. squared_diffusion: g^2, not negative.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, g^2 negative, no test function.
    """
    if not 0.0 <= squared_diffusion < float("inf"):
        raise ValueError(f"squared_diffusion must be finite and not negative, got {squared_diffusion}")
    weight, drift = _weights(floating(x, "x", ndim=2), weights), like_input(velocity(x), x, "velocity")

    def gradient(h: Smooth, name: str) -> Callable[[Tensor], Tensor]:
        return torch.func.grad(lambda y: _values(h, y, name).sum())

    rates = []
    for name, h in _functions(test_functions).items():
        slope = gradient(h, name)
        change = (slope(x) * drift).sum(1)
        if squared_diffusion:
            from mathcore.dynamics.fields import divergence

            change = change + squared_diffusion / 2 * divergence(slope, x)
        rates.append(weight @ change)
    return torch.stack(rates)


def standard_test_functions(dim: int) -> dict[str, Smooth]:
    """Return five test functions on R^D: two polynomials, two Gaussian bumps off the origin and a cosine with a phase.

    The cubic is odd: its mean is zero for every law that is symmetric about the origin, and there is then no gap to fit.

    Raises:
        ValueError: ``dim`` not a positive integer.
    """
    direction = torch.linspace(1.0, 0.5, count(dim, "dim"), dtype=torch.float64)

    def along(x: Tensor) -> Tensor:
        return x @ direction.to(x)

    return {
        "quadratic": lambda x: x.square().sum(1) + along(x) * x[:, 0],
        "cubic": lambda x: along(x) ** 3,
        "bump": lambda x: torch.exp(-(x - 0.5).square().sum(1) / 2),
        "wide bump": lambda x: torch.exp(-(x + 0.3 * direction.to(x)).square().sum(1) / 8),
        "cosine": lambda x: torch.cos(along(x) + 0.4),
    }


def gauss_hermite_pairs(source: GaussianMixture, target: GaussianMixture, n_nodes: int) -> tuple[Points, Points, Scalars]:
    """Return nodes and weights that integrate over independent x_0 from ``source`` and x_1 from ``target``: ``(x0 (N, D), x1 (N, D), weights (N,))``.

    A product Gauss-Hermite rule for each pair of components, exact for polynomials of degree 2 ``n_nodes`` - 1 in each standardised coordinate;
    N = K_0 K_1 n_nodes^{2D}, so for D = 1 or 2.

    Raises:
        ValueError: dimensions that differ, ``n_nodes`` not a positive integer, or more than ten million nodes.
    """
    if source.dim != target.dim:
        raise ValueError(f"source and target must share one dimension, got {source.dim} and {target.dim}")
    total = source.n_components * target.n_components * count(n_nodes, "n_nodes") ** (2 * source.dim)
    if total > 10**7:
        raise ValueError(f"{total} nodes are too many; fewer n_nodes, or draws instead of nodes")
    (first, w0), (second, w1) = (_mixture_nodes(law, n_nodes) for law in (source, target))
    return first.repeat_interleave(len(second), 0), second.repeat(len(first), 1), (w0[:, None] * w1).flatten()


def _mixture_nodes(law: GaussianMixture, n: int) -> tuple[Tensor, Tensor]:
    z, w = (torch.as_tensor(a, dtype=law.means.dtype) for a in np.polynomial.hermite_e.hermegauss(n))
    grid = torch.cartesian_prod(*[z] * law.dim).reshape(-1, law.dim)
    mass = torch.cartesian_prod(*[w / w.sum()] * law.dim).reshape(-1, law.dim).prod(1)
    factor = torch.linalg.cholesky(law.covariances)
    nodes = law.means[:, None] + grid @ factor.mT
    return nodes.flatten(0, 1), (law.weights[:, None] * mass).flatten()


def _functions(test_functions: Mapping[str, Smooth]) -> Mapping[str, Smooth]:
    if not isinstance(test_functions, Mapping) or not test_functions:
        raise ValueError("test_functions must be a dictionary of at least one function (N, D) -> (N,)")
    return test_functions


def _values(h: Smooth, x: Tensor, name: str) -> Tensor:
    out = h(x)
    if not isinstance(out, Tensor) or out.shape != x.shape[:1]:
        raise ValueError(f"the test function {name!r} must return one number per row, shape ({len(x)},)")
    return out


def _weights(x: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return x.new_full((len(x),), 1 / len(x))
    if floating(weights, "weights", ndim=1).shape != x.shape[:1] or not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        raise ValueError(f"weights must be {len(x)} non-negative numbers, got shape {tuple(weights.shape)}")
    return (weights / weights.sum()).to(x)
