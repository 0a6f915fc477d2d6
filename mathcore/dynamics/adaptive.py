"""Adaptive steps and the adjoint method, by torchdiffeq, kept inside the domain of the field."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import floating, like_input, one_of, positive
from mathcore.dynamics._steps import SolverDivergedError, VectorField
from mathcore.dynamics.paths import Grid, check_grid

METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")


def odeint_adaptive(
    v: VectorField,
    x0: Float[Tensor, "n *shape"],
    ts: Grid,
    rtol: float | int = 1e-6,
    atol: float | int = 1e-6,
    method: str = "dopri5",
    adjoint: bool = False,
    parameters: Iterable[Tensor] | None = None,
    return_path: bool = False,
) -> Float[Tensor, "n *shape"] | Float[Tensor, "n m *shape"]:
    """Integrate dx/dt = v(x, t) with steps chosen by an error estimate; return the state at ``ts[-1]``, or the path at the nodes ``ts``.

    torchdiffeq as it comes steps past its last time and interpolates back, and tries a first step of any length: a field that is not defined there (a
    noise schedule below t = 0) answers NaN or refuses. Here every node of ``ts`` is the end of a step and the first step is a hundredth of the range, so
    that ``v`` is never asked outside [ts[0], ts[-1]], neither on the way there nor in the adjoint pass.

    Args:
        v: ``v(x, t)``, ``t`` a float. x0: ``(N, *shape)``. ts: ``(M,)``, strictly monotone.
        rtol, atol: bound on the estimated error of a step, at most ``atol + rtol |x|`` in every coordinate of every sample.
        method: ``"dopri5"``, ``"dopri8"``, ``"bosh3"`` or ``"adaptive_heun"``.
        adjoint: gradients by the adjoint equation, in memory that does not grow with the steps, instead of through the steps.
        parameters: what the adjoint differentiates besides ``x0``; by default the parameters of ``v`` where it is a module, else nothing.

    Raises:
        TypeError: ``x0`` or ``ts`` is no floating tensor, or ``v`` returns none. ValueError: unknown method, bad grid, tolerances not positive, NaN, ``v``
            changes the shape. SolverDivergedError: no step is short enough, or 100,000 steps are not enough.
    """
    from torchdiffeq import odeint, odeint_adjoint

    one_of(method, METHODS, "method"), positive(rtol, "rtol"), positive(atol, "atol")
    grid = check_grid(ts).to(x0.device) if isinstance(x0, Tensor) else check_grid(ts)
    if floating(x0, "x0").ndim == 0:
        raise ValueError("x0 must have shape (N, *shape), got a 0-d tensor")
    field = _guarded(v, x0, float(grid.min()), float(grid.max()))
    options = {"first_step": float((grid[-1] - grid[0]).abs()) / 100, "max_num_steps": 100_000}
    tolerances: dict[str, Any] = {"rtol": float(rtol), "atol": float(atol), "method": method}
    forward = {**options, "step_t": grid, "norm": lambda error: error.abs().max()}
    try:
        if adjoint:
            if parameters is None:
                parameters = v.parameters() if isinstance(v, nn.Module) else ()
            # torchdiffeq runs a decreasing grid on the clock -t, and changes the sign of this option once less than of the grid
            back = {**options, "step_t": grid if grid[-1] > grid[0] else -grid}
            path = odeint_adjoint(field, x0, grid, options=forward, adjoint_options=back, adjoint_params=tuple(parameters), **tolerances)
        else:
            path = odeint(field, x0, grid, options=forward, **tolerances)
    except AssertionError as error:  # how torchdiffeq reports a step that underflows or a state that is not finite
        raise SolverDivergedError(f"{method}: {error}") from error
    return path.movedim(0, 1) if return_path else path[-1]


def _guarded(v: VectorField, x0: Tensor, low: float, high: float) -> Callable[[Tensor, Tensor], Tensor]:
    """``v`` with torchdiffeq's order of arguments. It rounds times to the dtype of the state; only that rounding is taken back at the ends."""
    slack = 4 * torch.finfo(x0.dtype).eps * max(abs(low), abs(high))

    def field(t: Tensor, x: Tensor) -> Tensor:
        time = float(t.detach())
        if not low - slack <= time <= high + slack:
            raise RuntimeError(f"the integrator left [{low}, {high}]: t={time}")
        return like_input(v(x, min(max(time, low), high)), x, "the field").to(x.dtype)

    return field
