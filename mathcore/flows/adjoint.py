"""Gradients through an ordinary differential equation by its adjoint equation (section 5.1.2)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import floating, like_input
from mathcore.dynamics.integrate import odeint_fixed
from mathcore.dynamics.paths import Grid
from mathcore.dynamics.sde import VectorField

State = Float[Tensor, "n *shape"]


@dataclass(frozen=True)
class AdjointGradient:
    """What :func:`adjoint_gradient` found.

    Attributes:
        value: the loss, 0-d. x0: its gradient in the start ``(N, *shape)``. parameters: its gradients in the parameters, in their order.
        returned: where the backward solve of the state ended, ``(N, *shape)``; its distance to the start is the error of retracing the path.
    """

    value: Float[Tensor, ""]
    x0: State
    parameters: tuple[Tensor, ...]
    returned: State


def adjoint_gradient(
    velocity: VectorField,
    x0: State,
    ts: Grid,
    loss: Callable[[Tensor], Tensor],
    parameters: Iterable[Tensor] | None = None,
    method: str = "rk4",
) -> AdjointGradient:
    """Differentiate loss(x(T)), dx/dt = v(x, t; phi), in the start and in phi, without keeping the path.

    Backward from T, three equations together (section 5.1.2): dx/dt = v, da/dt = -a.dv/dx from a(T) = dloss/dx(T), and dg/dt = -a.dv/dphi from g(T) = 0;
    a and g at the start are the gradients. Memory does not grow with the steps. The answer is that of the differential equation up to the order of
    ``method``, not the derivative of the computed solution: the two differ by the discretisation error.

    For a log-likelihood (Eq. 5.1.10) let the state be the point with the running divergence.

    Args:
        velocity: ``v(x, t)``, row by row in x, differentiable. x0: ``(N, *shape)``. ts: ``(M,)`` from 0 to T, strictly monotone. loss: ``(N, *shape) -> 0-d``.
        parameters: phi; by default those of ``velocity`` where it is a module, else none. method: of ``odeint_fixed``, with explicit steps.

    Raises:
        TypeError: ``x0``, ``ts`` or what ``velocity`` or ``loss`` return are no floating tensors; a parameter is none.
        ValueError: unknown method, ``"implicit_euler"`` (its own Newton iteration needs the gradients), bad grid, NaN, ``velocity`` changes the shape,
            ``loss`` is not 0-d or does not depend on its argument, a parameter that does not require a gradient or is of another dtype.
        SolverDivergedError: a state is not finite.
    """
    if method == "implicit_euler":
        raise ValueError("method must be explicit: implicit_euler solves for its step with gradients of its own")
    if parameters is None:
        parameters = velocity.parameters() if isinstance(velocity, nn.Module) else ()
    phi = tuple(parameters)
    _check_parameters(phi, floating(x0, "x0"))
    with torch.no_grad():
        end = odeint_fixed(velocity, x0.detach(), ts, method)
    value, start = _loss_and_slope(loss, end)
    n = end.numel()
    sizes = [n, n, *(p.numel() for p in phi)]

    def rate(state: Tensor, t: float) -> Tensor:
        x, a = (part.reshape(x0.shape) for part in state[0].split(sizes)[:2])
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            v = like_input(velocity(point, t), point, "velocity").to(x.dtype)
            if v.requires_grad:
                slopes = torch.autograd.grad(v, (point, *phi), a, allow_unused=True, materialize_grads=True)
            else:
                slopes = tuple(torch.zeros_like(p) for p in (point, *phi))
        return torch.cat([v.detach().flatten(), *(-s.flatten() for s in slopes)])[None]

    state = torch.cat([end.flatten(), start.flatten(), end.new_zeros(sum(sizes[2:]))])[None]
    with torch.no_grad():
        back = odeint_fixed(rate, state, ts.flip(0), method)[0].split(sizes)
    gradients = tuple(part.reshape(p.shape) for part, p in zip(back[2:], phi))
    return AdjointGradient(value, back[1].reshape(x0.shape), gradients, back[0].reshape(x0.shape))


def _loss_and_slope(loss: Callable[[Tensor], Tensor], end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss at the end point and its gradient there."""
    with torch.enable_grad():
        point = end.detach().requires_grad_()
        value = loss(point)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"loss must return a floating-point tensor, got {type(value).__name__}")
        if value.ndim != 0:
            raise ValueError(f"loss must return a 0-d tensor, got shape {tuple(value.shape)}")
        if not value.requires_grad:
            raise ValueError("loss must depend on its argument: the value it returned carries no gradient")
        return value.detach(), torch.autograd.grad(value, point)[0]


def _check_parameters(phi: tuple[Tensor, ...], x0: Tensor) -> None:
    for i, p in enumerate(phi):
        if not isinstance(p, Tensor) or not p.is_floating_point():
            raise TypeError(f"parameters[{i}] must be a floating-point tensor, got {type(p).__name__}")
        if p.dtype != x0.dtype:
            raise ValueError(f"parameters[{i}] must be {x0.dtype} like x0, got {p.dtype}")
        if not p.requires_grad:
            raise ValueError(f"parameters[{i}] does not require a gradient")
