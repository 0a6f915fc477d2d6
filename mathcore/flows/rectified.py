"""Rectified flow (section 5.4): one Rectify, Reflow, and the three numbers that say what it does: cost, straightness, variance of the target.

Time runs from the source at t = 0 to the target at t = 1. For one Rectify along the straight path, with the exact velocity,

    E|x_1 - x_0|^2 - E|z_1 - z_0|^2 = S(Z) + V(pi),

the drop in quadratic cost is what the new paths lack in straightness plus what the old pairs leave unexplained. Between Gaussians all four are exact
here (:func:`linear_rectified_map`); for pairs of samples there are estimators.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points
from mathcore._validate import floating, one_of, positive
from mathcore.dynamics.integrate import flow_map, odeint_fixed
from mathcore.dynamics.paths import Grid, check_grid
from mathcore.dynamics.sde import VectorField

State = Float[Tensor, "n *shape"]
Matrix = Float[Tensor, "d d"]
LinearPath = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``path(t) -> (P, Q)`` for a 0-d float64 ``t``: x_t = P_t x_0 + Q_t x_1 with ``(D, D)`` matrices, differentiable in ``t``."""

ESTIMATORS = ("neighbours", "gaussian")


# --- samples ------------------------------------------------------------------------------------------------------------------------------


def rectify(velocity: VectorField, z0: State, n_steps: int, method: str = "rk4") -> State:
    """Return z_1, the image of the source points under the flow from t = 0 to t = 1: with ``z0`` the pairs of one Rectify (Algorithm 2, step 2).

    Args:
        velocity: v(x, t) fitted to (or exact for) the reference path. z0: ``(N, *shape)``. n_steps, method: equal steps of ``odeint_fixed``.

    Raises:
        TypeError, ValueError, SolverDivergedError: as :func:`mathcore.dynamics.flow_map`.
    """
    return flow_map(velocity, z0, 0.0, 1.0, n_steps, method)


def rectified_path(velocity: VectorField, z0: State, ts: Grid, method: str = "rk4") -> Float[Tensor, "n m *shape"]:
    """Return the trajectories of :func:`rectify` at the nodes ``ts``, 0 to 1: ``(N, M, *shape)``, what :func:`straightness` reads.

    Raises:
        TypeError, ValueError, SolverDivergedError: as ``odeint_fixed``; ValueError also where ``ts`` does not run from 0 to 1.
    """
    _unit_grid(ts)
    return odeint_fixed(velocity, z0, ts, method, return_path=True)


def reflow_pairs(
    velocity: VectorField,
    sample_source: Callable[[int, torch.Generator | None], Tensor],
    n: int,
    n_steps: int,
    method: str = "rk4",
    generator: torch.Generator | None = None,
) -> tuple[State, State]:
    """Draw ``n`` *new* source points and return them with their images: the coupling on which the next round is fitted (Eq. 5.4.2).

    Fresh draws in every round keep the source law exact; errors in the law of the images are carried on by every later round, which never sees the target.

    Args:
        sample_source: ``(n, generator) -> (n, *shape)``, for instance ``mixture.sample``.

    Raises:
        TypeError, ValueError, SolverDivergedError: as :func:`rectify`; ValueError also where the source returns another number of points.
    """
    with torch.no_grad():
        z0 = floating(sample_source(n, generator), "sample_source(n, generator)")
        if z0.ndim == 0 or len(z0) != n:
            raise ValueError(f"sample_source must return {n} points, got shape {tuple(z0.shape)}")
        return z0, rectify(velocity, z0, n_steps, method)


def transport_cost(x0: State, x1: State, p: float | int = 2.0) -> Float[Tensor, ""]:
    """Return the mean of |x_1 - x_0|^p over the pairs, a convex cost for p >= 1 (Proposition 5.4.1): 0-d.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that differ, NaN, no pair, ``p`` not positive.
    """
    return _displacement(x0, x1).square().sum(1).pow(positive(p, "p") / 2).mean()


def straightness(path: Float[Tensor, "n m *shape"], ts: Grid) -> Float[Tensor, ""]:
    """Return S = int_0^1 E|y_1 - y_0 - dy/dt|^2 dt of the broken lines through the nodes: 0-d (section 5.4.3).

    Zero exactly where every path is a straight line run at constant speed. For nodes on a smooth path the value lies below the true one by O(h^2): each
    piece replaces the speed by its mean.

    Args:
        path: ``(N, M, *shape)``, node i at ``ts[i]``. ts: ``(M,)``, increasing from 0 to 1.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, a grid that does not run from 0 to 1.
    """
    grid = _unit_grid(ts)
    if floating(path, "path").ndim < 2 or path.shape[1] != len(grid) or path.numel() == 0:
        raise ValueError(f"path must have shape (N, {len(grid)}, *shape) like ts, got {tuple(path.shape)}")
    nodes, h = path.flatten(2) if path.ndim > 2 else path[:, :, None], grid.diff().to(path)
    gap = nodes[:, -1:] - nodes[:, :1] - nodes.diff(dim=1) / h[:, None]
    return (gap.square().sum(2) @ h).mean()


def coupling_variance(x0: Points, x1: Points, ts: Float[Tensor, " m"], estimator: str = "neighbours") -> Float[Tensor, " m"]:
    """Estimate E tr Cov(x_1 - x_0 | x_t), x_t = (1 - t) x_0 + t x_1, from pairs, at each of the times: ``(M,)`` (section 5.4.1).

    The loss that no velocity can go below on these pairs; V(pi) is its integral over [0, 1], ``torch.trapezoid(values, ts)``. Zero for pairs whose
    straight paths do not cross.

    Args:
        x0, x1: ``(N, D)``, N >= 3. ts: times in [0, 1], any order.
        estimator: ``"neighbours"``: half the mean squared difference between a pair's displacement and that of the pair nearest at time t; no model, but
            the displacement must vary little over the distance to a neighbour, which asks for many pairs per dimension. ``"gaussian"``: the residual of
            linear regression on x_t, which is the answer where (x_0, x_1) is Gaussian and an upper bound elsewhere.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that differ, NaN, fewer than three pairs (D + 2 for ``"gaussian"``), times outside [0, 1].
    """
    one_of(estimator, ESTIMATORS, "estimator")
    floating(x0, "x0", ndim=2), floating(ts, "ts", ndim=1)
    u = _displacement(x0, x1)
    least = 3 if estimator == "neighbours" else x0.shape[1] + 2
    if len(x0) < least:
        raise ValueError(f"the estimator {estimator!r} needs at least {least} pairs, got {len(x0)}")
    if not bool(((ts >= 0) & (ts <= 1)).all()):
        raise ValueError(f"ts must lie in [0, 1], got values from {float(ts.min())} to {float(ts.max())}")
    rule = _neighbour_variance if estimator == "neighbours" else _regression_variance
    return torch.stack([rule(torch.lerp(x0, x1, t.to(x0)), u) for t in ts])


def _neighbour_variance(x: Tensor, u: Tensor) -> Tensor:
    from scipy.spatial import cKDTree

    points = x.detach().cpu().numpy()
    nearest = torch.from_numpy(cKDTree(points).query(points, k=2)[1]).to(u.device)
    # where pairs coincide at time t the tree may list a pair itself second
    own = torch.arange(len(x), device=u.device)
    other = torch.where(nearest[:, 0] == own, nearest[:, 1], nearest[:, 0])
    return (u - u[other]).square().sum(1).mean() / 2


def _regression_variance(x: Tensor, u: Tensor) -> Tensor:
    design = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
    fitted = design @ (torch.linalg.pinv(design) @ u)
    return (u - fitted).square().sum() / len(x)


# --- Gaussians, exactly -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearRectification:
    """One exact Rectify of a centred Gaussian pair: z_1 = matrix z_0, and the numbers of section 5.4 (0-d tensors).

    ``cost_before`` E|x_1 - x_0|^2 of the given pairs, ``cost_after`` E|z_1 - z_0|^2, ``straightness`` S of the trajectories z_t, ``variance`` the integral
    of E tr Cov(dx_t/dt | x_t), which for the straight path is V(pi).
    """

    matrix: Matrix
    cost_before: Float[Tensor, ""]
    cost_after: Float[Tensor, ""]
    straightness: Float[Tensor, ""]
    variance: Float[Tensor, ""]


def bures_map(S0: Matrix, S1: Matrix) -> Matrix:
    """Return the optimal map between centred Gaussians for the quadratic cost, S0^{-1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}: symmetric (section 5.4.3).

    Raises:
        TypeError: not floating tensors. ValueError: not square of one size, NaN, not symmetric positive definite.
    """
    first, second = _covariance(S0, "S0"), _covariance(S1, "S1", len(S0))
    values, vectors = torch.linalg.eigh(first)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    middle, basis = torch.linalg.eigh(root @ second @ root)
    return (inverse @ ((basis * middle.sqrt()) @ basis.T) @ inverse).to(S0.dtype)


def linear_rectified_map(S0: Matrix, S1: Matrix, cross: Matrix | None = None, path: LinearPath | None = None) -> LinearRectification:
    """Rectify the centred Gaussian pair with Cov(x_0) = S0, Cov(x_1) = S1 and Cov(x_0, x_1) = cross, to about 1e-11 (sections 5.4.1 and 5.4.3).

    The velocity is linear, v(x, t) = X_t V_t^{-1} x with V_t = Cov(x_t) and X_t = Cov(dx_t/dt, x_t), so z_t = M_t z_0 with dM/dt = X_t V_t^{-1} M.
    Independent ends and the straight path give M_1 = (S1 S0^{-1})^{1/2}, the principal root: straight from then on, and not symmetric, so not optimal.

    Args:
        cross: E[x_0 x_1^T]; None for independent ends. path: matrices (P_t, Q_t) of x_t = P_t x_0 + Q_t x_1; None for the straight path.

    Raises:
        TypeError: not floating tensors. ValueError: shapes that do not fit, NaN, S0 or S1 not symmetric positive definite, ``cross`` not the cross
            covariance of any pair, a path that does not start at x_0 and end at x_1, or paths that cross at one time (V_t singular): no flow carries them.
    """
    ends = _covariance(S0, "S0"), _covariance(S1, "S1", len(S0))
    joint = _joint(*ends, cross)
    curve = _linear_path(path, len(S0))
    _no_crossing(curve, joint)
    matrix, kinetic, variance = _integrate_linear(curve, joint)
    d = len(S0)
    chord = np.hstack([-np.eye(d), np.eye(d)])
    after = np.trace((matrix - np.eye(d)) @ joint[:d, :d] @ (matrix - np.eye(d)).T)
    # int E|z_1 - z_0 - dz/dt|^2 = int E|dz/dt|^2 - E|z_1 - z_0|^2, since dz/dt integrates to z_1 - z_0
    numbers = (np.trace(chord @ joint @ chord.T), after, kinetic - after, variance)
    return LinearRectification(torch.as_tensor(matrix).to(S0), *(torch.as_tensor(v, dtype=torch.float64).to(S0) for v in numbers))


def _integrate_linear(curve: Callable[[float], Any], joint: Any) -> tuple[Any, float, float]:
    """Return M_1, int tr Cov(dz/dt) dt along the flow itself, and int tr Cov(dx/dt | x_t) dt."""
    from scipy.integrate import solve_ivp

    d = len(joint) // 2
    start = joint[:d, :d]

    def rate(t: float, y: Any) -> Any:
        at, moving = curve(t)
        M, V, X = y[:-2].reshape(d, d), at @ joint @ at.T, moving @ joint @ at.T
        gain = np.linalg.solve(V, X.T).T  # X V^{-1}: V is symmetric
        velocity = gain @ M
        rest = np.trace(moving @ joint @ moving.T) - np.trace(gain @ X.T)
        return np.concatenate([velocity.ravel(), [np.trace(velocity @ start @ velocity.T), rest]])

    out = solve_ivp(rate, (0.0, 1.0), np.concatenate([np.eye(d).ravel(), [0.0, 0.0]]), method="DOP853", rtol=1e-13, atol=1e-13)
    if not out.success:
        raise RuntimeError(f"the flow between the Gaussians was not integrated: {out.message}")
    return out.y[:-2, -1].reshape(d, d), float(out.y[-2, -1]), float(out.y[-1, -1])


def _linear_path(path: LinearPath | None, d: int) -> Callable[[float], tuple[Any, Any]]:
    """Return t -> ([P Q], [P' Q']), each ``(D, 2D)`` in numpy."""
    eye = np.eye(d)
    if path is None:
        slope = np.hstack([-eye, eye])
        return lambda t: (np.hstack([(1 - t) * eye, t * eye]), slope)
    blocks = path

    def stacked(t: Tensor) -> Tensor:
        parts = blocks(t)
        for part, name in zip(parts, "PQ"):
            if not isinstance(part, Tensor) or part.shape != (d, d):
                raise ValueError(f"path must return two matrices of shape {(d, d)}; {name} is {tuple(getattr(part, 'shape', ()))}")
        return torch.cat([p.double() for p in parts], dim=1)

    def curve(t: float) -> tuple[Any, Any]:
        at = torch.tensor(t, dtype=torch.float64)
        value, slope = torch.func.jvp(stacked, (at,), (torch.ones_like(at),))[:2]
        return value.numpy(), slope.numpy()

    for t, want in ((0.0, np.hstack([eye, 0 * eye])), (1.0, np.hstack([0 * eye, eye]))):
        gap = np.abs(curve(t)[0] - want).max()
        if not gap < 1e-12:
            raise ValueError(f"path must start at x_0, (P, Q) = (I, 0), and end at x_1, (0, I); at t = {t} it is off by {gap:.3g}")
    return curve


def _no_crossing(curve: Callable[[float], Any], joint: Any, nodes: int = 129) -> None:
    from scipy.optimize import minimize_scalar

    d = len(joint) // 2

    def smallest(t: float) -> float:
        at = curve(t)[0]
        # against what the two ends would give if they were independent
        apart = np.trace(at[:, :d] @ joint[:d, :d] @ at[:, :d].T) + np.trace(at[:, d:] @ joint[d:, d:] @ at[:, d:].T)
        return float(np.linalg.eigvalsh(at @ joint @ at.T)[0] / apart)

    grid = np.linspace(0, 1, nodes)
    values = [smallest(t) for t in grid]
    k = int(np.argmin(values))
    low, high = grid[max(0, k - 1)], grid[min(nodes - 1, k + 1)]
    best = minimize_scalar(smallest, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    where, value = min(((best.x, best.fun), (grid[k], values[k])), key=lambda pair: pair[1])
    if value < 1e-12:
        raise ValueError(f"paths cross at t = {where:.4f}: the covariance of x_t is singular there, and no flow carries these pairs")


def _joint(first: Tensor, second: Tensor, cross: Tensor | None) -> Any:
    """The covariance of (x_0, x_1) in numpy."""
    if cross is None:
        return torch.block_diag(first, second).numpy()
    if floating(cross, "cross", ndim=2).shape != first.shape:
        raise ValueError(f"cross must have shape {tuple(first.shape)} like S0, got {tuple(cross.shape)}")
    off = cross.detach().to("cpu", torch.float64)
    joint = torch.cat([torch.cat([first, off], dim=1), torch.cat([off.T, second], dim=1)])
    values = torch.linalg.eigvalsh(joint)
    if float(values[0]) < -1e-8 * float(values[-1]):
        raise ValueError(f"cross is no covariance between such ends: the joint covariance has the eigenvalue {float(values[0]):.3g}")
    return joint.numpy()


def _covariance(S: Tensor, name: str, d: int | None = None) -> Tensor:
    """Return a covariance as float64 on the CPU."""
    if floating(S, name, ndim=2).shape[0] != S.shape[1] or S.numel() == 0 or (d is not None and len(S) != d):
        raise ValueError(f"{name} must be a square matrix{'' if d is None else f' of size {d}'}, got shape {tuple(S.shape)}")
    matrix = S.detach().to("cpu", torch.float64)
    if float((matrix - matrix.T).abs().max()) > 1e-6 * float(matrix.abs().max()):
        raise ValueError(f"{name} must be symmetric, got entries that differ from their mirror image")
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    if not smallest > 0:
        raise ValueError(f"{name} must be positive definite, got smallest eigenvalue {smallest:.3g}")
    return (matrix + matrix.T) / 2


def _displacement(x0: Tensor, x1: Tensor) -> Tensor:
    if floating(x0, "x0").ndim == 0 or x0.numel() == 0:
        raise ValueError(f"x0 must have shape (N, *shape) with N >= 1, got {tuple(x0.shape)}")
    if floating(x1, "x1").shape != x0.shape:
        raise ValueError(f"x1 must have the shape of x0, {tuple(x0.shape)}, got {tuple(x1.shape)}")
    return (x1 - x0).reshape(len(x0), -1)


def _unit_grid(ts: Tensor) -> Tensor:
    grid = check_grid(ts)
    if grid[0] != 0.0 or grid[-1] != 1.0:
        raise ValueError(f"ts must run from 0 to 1, got {grid[0].item()} to {grid[-1].item()}")
    return grid
