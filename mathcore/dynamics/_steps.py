"""What the fixed-step methods are made of: Runge-Kutta tableaux, Adams-Bashforth weights, Newton's iteration, amplification factors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mathcore._tableaux import TABLEAUX, Tableau
from mathcore._validate import one_of
from mathcore.dynamics.fields import value_and_jacobian

VectorField = Callable[[Tensor, Any], Tensor]


class SolverDivergedError(FloatingPointError):
    """A state stopped being finite, or an implicit step found no solution."""


ADAMS = {"ab2": 2, "ab4": 4}
METHODS = (*TABLEAUX, *ADAMS, "implicit_euler")


def combine(x: Tensor, h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return x + h sum_j w_j k_j."""
    for w, k in zip(weights, slopes):
        if w:
            x = torch.add(x, k, alpha=h * w)
    return x


def runge_kutta_step(v: VectorField, x: Tensor, t: float, t_next: float, tableau: Tableau, first: Tensor | None = None) -> Tensor:
    """One step; ``first`` is the slope at (x, t) where it is known already. No stage time leaves [t, t_next], by rounding either."""
    h, slopes = t_next - t, [v(x, t) if first is None else first]
    for c, row in zip(tableau.c[1:], tableau.a[1:]):
        slopes.append(v(combine(x, h, row, slopes), t_next if c == 1.0 else t + c * h))
    return combine(x, h, tableau.b, slopes)


def adams_weights(times: Sequence[float], t_next: float) -> list[float]:
    """Return w with h sum_j w_j k_j the integral over [times[0], t_next] of the polynomial through (times[j], k_j); newest node first.

    On a uniform grid these are the Adams-Bashforth weights, 3/2, -1/2 for two nodes.
    """
    h = t_next - times[0]
    u = (np.array(times) - times[0]) / h
    powers = np.arange(len(u))
    return [float(w) for w in np.linalg.solve(u[None, :] ** powers[:, None], 1 / (powers + 1))]


def implicit_euler_step(v: VectorField, x: Tensor, t: float, t_next: float) -> Tensor:
    """Solve y = x + h v(y, t_next) by Newton's iteration, one linear system for each sample."""
    h, n = t_next - t, len(x)
    identity = torch.eye(math.prod(x.shape[1:]), dtype=x.dtype, device=x.device)

    def flat(y: Tensor) -> Tensor:
        return v(y.reshape(x.shape), t_next).reshape(n, -1)

    start = x.reshape(n, -1)
    y = start
    # quadratic convergence: after a correction this small what is left is below rounding
    tolerance = 0.01 * torch.finfo(x.dtype).eps ** 0.5
    for _ in range(50):
        value, slope = value_and_jacobian(flat, y)
        correction = torch.linalg.solve(identity - h * slope, y - start - h * value)
        y = y - correction
        if not bool(torch.isfinite(y).all()):
            break
        if bool((correction.abs().amax(1) <= tolerance * (1 + y.abs().amax(1))).all()):
            return y.reshape(x.shape)
    raise SolverDivergedError(
        f"implicit_euler: Newton's iteration found no solution of the step from t={t} to {t_next}; take smaller steps"
    )


def stability_function(method: str) -> Callable[[complex | Tensor], Tensor]:
    """Return z -> the factor by which one step of ``method`` multiplies the solution of dx/dt = L x, z = L h: complex128, shaped like ``z``.

    The method is stable where its modulus is at most 1. ``ab2`` and ``ab4`` have several such factors, the roots of their characteristic polynomial; the
    one of largest modulus is returned.

    Raises:
        ValueError: unknown method.
    """
    one_of(method, METHODS, "method")

    def factor(z: complex | Tensor) -> Tensor:
        w = torch.as_tensor(z, dtype=torch.complex128)
        if method == "implicit_euler":
            return 1 / (1 - w)
        if method in ADAMS:
            return _largest_root(w, ADAMS[method])
        tableau = TABLEAUX[method]
        slopes: list[Tensor] = []
        for row in tableau.a:
            slopes.append(1 + w * sum((a * k for a, k in zip(row, slopes)), torch.zeros_like(w)))
        return 1 + w * sum((b * k for b, k in zip(tableau.b, slopes)), torch.zeros_like(w))

    return factor


def _largest_root(z: Tensor, order: int) -> Tensor:
    """Root of largest modulus of r^n = r^{n-1} + z sum_j w_j r^{n-1-j}, the largest eigenvalue of the companion matrix."""
    weights = torch.tensor(adams_weights([float(-j) for j in range(order)], 1.0), dtype=torch.complex128)
    companion = torch.zeros(z.numel(), order, order, dtype=torch.complex128)
    companion[:, 0] = z.reshape(-1, 1) * weights
    companion[:, 0, 0] += 1
    companion[:, range(1, order), range(order - 1)] = 1
    roots = torch.linalg.eigvals(companion)
    return roots.gather(1, roots.abs().argmax(1, keepdim=True)).reshape(z.shape)
