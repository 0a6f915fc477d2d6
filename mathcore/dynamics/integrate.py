"""Time stepping: ordinary equations with fixed steps, stochastic ones, semilinear ones, and Picard sweeps (appendix A).

All take a strictly monotone grid ``ts (M,)``, increasing or decreasing, and states ``(N, *shape)``; all are differentiable by autograd, and a caller who
does not want the graph wraps them in ``torch.no_grad()``. A path is ``(N, M, *shape)``, node i at ``ts[i]``.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count, floating, like_input, one_of
from mathcore.dynamics._steps import (
    ADAMS,
    METHODS,
    TABLEAUX,
    SolverDivergedError,
    adams_weights,
    combine,
    implicit_euler_step,
    runge_kutta_step,
    stability_function,
)
from mathcore.dynamics.paths import Grid, check_grid
from mathcore.dynamics.sde import SDE, VectorField

__all__ = [
    "SolverDivergedError",
    "flow_map",
    "integrate_sde",
    "integrate_semilinear",
    "odeint_fixed",
    "picard_iterate",
    "stability_function",
]

State = Float[Tensor, "n *shape"]
States = Float[Tensor, "n *shape"] | Float[Tensor, "n m *shape"]
SDE_METHODS = ("euler_maruyama", "heun", "milstein")
RULES = ("left", "trapezoid")


def odeint_fixed(v: VectorField, x0: State, ts: Grid, method: str = "rk4", return_path: bool = False) -> States:
    """Integrate dx/dt = v(x, t) from ``x0`` at ``ts[0]`` over the grid; return the state at ``ts[-1]``, or the path (section A.1.4).

    | method | order | calls of ``v`` per step |
    | euler | 1 | 1 |
    | heun, midpoint | 2 | 2 |
    | rk4 | 4 | 4 |
    | ab2, ab4 (Adams-Bashforth on any grid, started by rk4) | 2, 4 | 1 |
    | implicit_euler (Newton; stable for every decaying mode) | 1 | 1 and D backward passes per Newton iteration |

    Args:
        v: ``v(x, t)``, ``t`` a float that never leaves [ts[0], ts[-1]]. x0: ``(N, *shape)``. ts: ``(M,)``, strictly monotone; decreasing runs backward.

    Raises:
        TypeError: ``x0``, ``ts`` or what ``v`` returns is no floating tensor.
        ValueError: unknown method, bad grid, NaN in ``x0``, ``v`` changes the shape.
        SolverDivergedError: a state is not finite, or Newton's iteration failed.
    """
    one_of(method, METHODS, "method")
    x, times, v = _state(x0), check_grid(ts).tolist(), _checked(v, x0)
    path, slopes = [x], list[Tensor]()
    for i in range(len(times) - 1):
        t, t_next = times[i], times[i + 1]
        if method == "implicit_euler":
            x = implicit_euler_step(v, x, t, t_next)
        elif method in ADAMS:
            slopes = [v(x, t), *slopes][: ADAMS[method]]
            if len(slopes) < ADAMS[method]:
                x = runge_kutta_step(v, x, t, t_next, TABLEAUX["rk4"], first=slopes[0])
            else:
                known = [times[i - j] for j in range(len(slopes))]
                x = combine(x, t_next - t, adams_weights(known, t_next), slopes)
        else:
            x = runge_kutta_step(v, x, t, t_next, TABLEAUX[method])
        _alive(x, method, i, t_next)
        if return_path:
            path.append(x)
    return torch.stack(path, dim=1) if return_path else x


def flow_map(v: VectorField, x: State, s: float | int, t: float | int, n_steps: int, method: str = "rk4") -> State:
    """Return Psi_{s -> t}(x), the solution at ``t`` through ``x`` at ``s``, by ``n_steps`` equal steps; ``x`` itself where s = t.

    Raises:
        ValueError: ``n_steps`` not a positive integer, times not finite; and the errors of :func:`odeint_fixed`.
    """
    count(n_steps, "n_steps")
    if not (math.isfinite(s) and math.isfinite(t)):
        raise ValueError(f"s and t must be finite, got {s} and {t}")
    if s == t:
        one_of(method, METHODS, "method")
        return _state(x).clone()
    ts = torch.linspace(s, t, n_steps + 1, dtype=torch.float64)
    ts[0], ts[-1] = s, t
    return odeint_fixed(v, x, ts, method)


def integrate_sde(
    sde: SDE | tuple[VectorField, VectorField],
    x0: State,
    ts: Grid,
    method: str = "euler_maruyama",
    generator: torch.Generator | None = None,
    noise: Float[Tensor, "steps n *shape"] | None = None,
    return_path: bool = False,
) -> States:
    """Integrate dx = drift dt + diffusion dw from ``x0`` at ``ts[0]`` over the grid; return the state at ``ts[-1]``, or the path.

    On a decreasing grid dt is negative and the noise that of a reverse-time Wiener process, as the reverse SDE (Eq. 4.1.6) asks.

    | method | step, h = t' - t, dW = sqrt|h| z | order |
    | euler_maruyama | x + f h + g dW (Eq. A.2.2) | weak 1; strong 1 for g(t), 1/2 for g(x, t) |
    | heun | averages f over the step and its prediction, g over the step; for g(t) only | weak 2, strong 1; 2 for g = 0 |
    | milstein | adds g g' (dW^2 - |h|) / 2; equals euler_maruyama for g(t) | weak 1, strong 1 |

    Args:
        sde: an :class:`~mathcore.dynamics.sde.SDE`, whose g depends on time alone and whose direction the grid must follow; or a pair
            ``(drift(x, t), diffusion(x, t))`` of functions shaped like ``x``, where coordinate i of the diffusion depends on coordinate i of ``x`` alone.
        x0: ``(N, *shape)``. ts: ``(M,)`` strictly monotone. generator: source of the noise.
        noise: the standard normals z themselves, ``(M - 1, N, *shape)``: see ``path_noise``.

    Raises:
        TypeError: ``sde`` is neither, or a state, grid or noise is no floating tensor.
        ValueError: unknown method, bad grid, a grid against the direction of the SDE or outside its times, noise of another shape, NaN, both
            ``generator`` and ``noise``, ``heun`` with a pair (it would give the Stratonovich solution), a drift that changes the shape.
        SolverDivergedError: a state is not finite.
    """
    one_of(method, SDE_METHODS, "method")
    times, x = check_grid(ts).tolist(), _state(x0)
    drift, diffusion = _coefficients(sde, x0, times, method)
    draw = _noise(noise, generator, x0, len(times) - 1)
    path = [x]
    for i in range(len(times) - 1):
        t, t_next = times[i], times[i + 1]
        h, root = t_next - t, math.sqrt(abs(t_next - t))
        z, f, g = draw(i), drift(x, t), diffusion(x, t)
        if method == "heun":
            mean = (g + diffusion(x, t_next)) / 2
            f = (f + drift(x + h * f + (root * g) * z, t_next)) / 2
            g = mean
        step = torch.add(x, f, alpha=h) + (root * g) * z
        if method == "milstein" and not isinstance(sde, SDE):
            step = step + g * _slope(diffusion, x, t) * (z**2 - 1) * (abs(h) / 2)
        x = step
        _alive(x, method, i, t_next)
        if return_path:
            path.append(x)
    return torch.stack(path, dim=1) if return_path else x


def integrate_semilinear(
    L: float | int | Callable[[float], Any],
    N: VectorField,
    x0: State,
    ts: Grid,
    return_path: bool = False,
) -> States:
    """Integrate dx/dt = L(t) x + N(x, t) by exponential Euler: the linear part exactly, N frozen over the step (Eq. A.1.4, section A.1.3).

        x_{n+1} = E(t_n -> t_{n+1}) x_n + (int E(tau -> t_{n+1}) dtau) N(x_n, t_n),      E(s -> t) = exp int_s^t L

    Order 1; the step is limited by N, not by L, and with L = 0 the method is Euler's. For a function ``L`` the integrals are Gauss-Legendre quadratures
    of 16 nodes, on pieces of the step across which E changes by at most a factor e^4.

    Args:
        L: a number, or a function of a float time. N: ``N(x, t)``. x0, ts, return_path: as :func:`odeint_fixed`.

    Raises:
        TypeError, ValueError, SolverDivergedError: as :func:`odeint_fixed`; ``ValueError`` also where L is not finite.
    """
    times, x, N = check_grid(ts).tolist(), _state(x0), _checked(N, x0)
    path = [x]
    for i in range(len(times) - 1):
        factor, weight = _exponential_weights(L, times[i], times[i + 1])
        x = torch.add(factor * x, N(x, times[i]), alpha=weight)
        _alive(x, "integrate_semilinear", i, times[i + 1])
        if return_path:
            path.append(x)
    return torch.stack(path, dim=1) if return_path else x


def picard_iterate(
    v: VectorField,
    x0: State,
    ts: Grid,
    n_sweeps: int,
    rule: str = "left",
    guess: Float[Tensor, "n m *shape"] | None = None,
) -> Float[Tensor, "n m *shape"]:
    """Return the path after ``n_sweeps`` Picard sweeps x(t) <- x0 + int v(x(s), s) ds over the grid: ``(N, M, *shape)`` (section A.1.4).

    One sweep is one call of ``v`` on all nodes at once, ``x (N M, *shape)`` and ``t (N M,)``. With ``rule="left"`` the fixed point is the Euler path, and
    after k sweeps its first k + 1 nodes stand exactly; with ``"trapezoid"`` it is that of the implicit trapezoidal rule.

    Args:
        guess: the path to start from, equal to ``x0`` at node 0; by default ``x0`` everywhere.

    Raises:
        TypeError: not floating tensors. ValueError: unknown rule, bad grid, ``n_sweeps`` negative or no integer, a guess of another shape or start, ``v``
            changes the shape. SolverDivergedError: a state is not finite.
    """
    one_of(rule, RULES, "rule")
    grid, x = check_grid(ts), _state(x0)
    count(n_sweeps, "n_sweeps", 0)
    m = len(grid)
    path = x[:, None].expand(len(x), m, *x.shape[1:]) if guess is None else floating(guess, "guess")
    if path.shape != (len(x), m, *x.shape[1:]) or not torch.equal(path[:, 0], x):
        raise ValueError(f"guess must have shape {(len(x), m, *x.shape[1:])} and equal x0 at node 0, got shape {tuple(path.shape)}")
    times = grid.to(x).repeat(len(x))
    h = grid.diff().to(x).reshape(-1, *[1] * (x.ndim - 1))
    for k in range(n_sweeps):
        flat = path.reshape(-1, *x.shape[1:])
        slopes = _checked(v, flat)(flat, times).reshape(path.shape)
        mean = slopes[:, :-1] if rule == "left" else (slopes[:, :-1] + slopes[:, 1:]) / 2
        # x0 first: the sum then runs in the order in which Euler's method adds
        path = torch.cat([x[:, None], h * mean], dim=1).cumsum(1)
        _alive(path, f"picard_iterate({rule})", k, grid[-1].item())
    return path


# --- helpers ------------------------------------------------------------------------------------------------------------------------------


def _state(x0: Tensor) -> Tensor:
    if floating(x0, "x0").ndim == 0:
        raise ValueError("x0 must have shape (N, *shape), got a 0-d tensor")
    return x0


def _checked(v: VectorField, x0: Tensor) -> VectorField:
    """``v`` with a look at what it returns, in the dtype of the state."""
    if not callable(v):
        raise TypeError(f"the field must be a function of (x, t), got {type(v).__name__}")

    return lambda x, t: like_input(v(x, t), x, "the field").to(x0.dtype)


def _alive(x: Tensor, method: str, i: int, t: float) -> None:
    # one reduction, a quarter of the cost of isfinite().all(); a sum that overflows is asked again element by element
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        raise SolverDivergedError(
            f"{method}: the state is not finite after step {i + 1}, at t={t}; take smaller steps or look at the field there"
        )


def _coefficients(sde: Any, x0: Tensor, times: list[float], method: str) -> tuple[VectorField, Callable[[Tensor, Any], Any]]:
    """Drift and diffusion as functions of state and time."""
    if isinstance(sde, SDE):
        if (sde.t_end > sde.t_start) != (times[-1] > times[0]):
            raise ValueError(f"the SDE runs from t={sde.t_start} to {sde.t_end}, but ts runs from {times[0]} to {times[-1]}")
        low, high = min(sde.t_start, sde.t_end), max(sde.t_start, sde.t_end)
        if min(times) < low or max(times) > high:
            raise ValueError(f"ts must stay inside [{low}, {high}], the times of the SDE; got {times[0]} to {times[-1]}")
        return _checked(sde.drift, x0), lambda x, t: _scalar(sde.diffusion(t), x)
    if not (isinstance(sde, tuple) and len(sde) == 2 and all(callable(part) for part in sde)):
        raise TypeError(f"sde must be an SDE or a pair (drift(x, t), diffusion(x, t)) of functions, got {type(sde).__name__}")
    if method == "heun":
        raise ValueError(
            "heun converges to the Stratonovich solution when g depends on the state; use milstein, or an SDE with diffusion(t)"
        )
    return _checked(sde[0], x0), _checked(sde[1], x0)


def _slope(diffusion: VectorField, x: Tensor, t: float) -> Tensor:
    """Derivative of each coordinate of the diffusion by its own coordinate of x."""
    return torch.func.jvp(lambda y: diffusion(y, t), (x,), (torch.ones_like(x),))[1]


def _scalar(g: Any, x: Tensor) -> Any:
    """g(t) as a Python number where no gradient runs through it: a 0-d tensor costs an operation more per step."""
    if isinstance(g, Tensor):
        if g.ndim != 0:
            raise ValueError(f"diffusion(t) must be a number or 0-d at one time, got shape {tuple(g.shape)}")
        return g.to(x) if g.requires_grad else g.item()
    return float(g)


def _noise(noise: Tensor | None, generator: torch.Generator | None, x0: Tensor, steps: int) -> Callable[[int], Tensor]:
    if noise is None:
        return lambda i: torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    if generator is not None:
        raise ValueError("give generator or noise, not both")
    if floating(noise, "noise").shape != (steps, *x0.shape):
        raise ValueError(f"noise must have shape {(steps, *x0.shape)}, one standard normal per step; got {tuple(noise.shape)}")
    return lambda i: noise[i].to(x0)


def _exponential_weights(L: float | int | Callable[[float], Any], t: float, t_next: float, points: int = 16) -> tuple[float, float]:
    """Return E(t -> t_next) and the integral over [t, t_next] of E(tau -> t_next)."""
    h = t_next - t
    if not callable(L):
        if not math.isfinite(L):
            raise ValueError(f"L must be finite, got {L}")
        return math.exp(L * h), math.expm1(L * h) / L if L else h
    rate = L
    u, b, tails = _quadrature(points)

    def values(start: float, length: float) -> Any:
        out = np.array([float(rate(start + c * length)) for c in u])
        if not np.isfinite(out).all():
            raise ValueError(f"L must be finite between t={start} and {start + length}")
        return out

    pieces = max(1, math.ceil(abs(h) * float(np.abs(values(t, h)).max()) / 4))
    factor, weight, length = 1.0, 0.0, h / pieces
    for k in range(pieces):
        at = values(t + k * length, length)
        growth = math.exp(length * float(b @ at))
        weight = growth * weight + length * float(b @ np.exp(length * (tails @ at)))
        factor *= growth
    return factor, weight


@cache
def _quadrature(points: int) -> tuple[Any, Any, Any]:
    """Gauss-Legendre nodes and weights on [0, 1], and the matrix that turns values at the nodes into integrals from each node to 1."""
    x, w = np.polynomial.legendre.leggauss(points)
    table = np.polynomial.legendre.legvander(x, points)  # P_k(x_j)
    k = np.arange(1, points)
    # int_x^1 P_k = (P_{k-1} - P_{k+1}) / (2k + 1); the coefficients of the interpolant come from the quadrature itself
    tails = np.column_stack([1 - x, (table[:, k - 1] - table[:, k + 1]) / (2 * k + 1)])
    coefficients = (2 * np.arange(points)[:, None] + 1) / 2 * table[:, :points].T * w
    return (x + 1) / 2, w / 2, tails @ coefficients / 2
