"""The flow of an exact velocity in double precision: what an oracle falls back on where it has no closed form."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mathcore._validate import per_sample

RTOL = 1e-10
"""Relative tolerance of the integration, per point."""


def integrate_flow(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the solution at ``end`` of dx/dt = velocity(x, t) through ``x`` ``(N, D)`` at ``start``, by scipy's DOP853; not differentiable.

    ``start`` and ``end`` are float64, each 0-d or one per row; the velocity is never asked outside the interval between the two.

    Raises:
        RuntimeError: the integration failed.
    """
    from scipy.integrate import solve_ivp

    if x.numel() == 0:
        return x.clone()
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    span = per_sample(end - start, x)

    def rate(u: float, y: object) -> object:
        # rounding of the interpolated time must not leave the domain of the field
        time = torch.clamp((1 - u) * start + u * end, low, high)
        return (span * velocity(torch.as_tensor(y, device=x.device).reshape(x.shape), time)).flatten().cpu().numpy()

    # scipy controls the root mean square over all coordinates: tighten it so that the bound holds for each
    rtol = max(RTOL / math.sqrt(x.numel()), 3e-14)
    with torch.no_grad():
        result = solve_ivp(rate, (0.0, 1.0), x.flatten().cpu().numpy(), method="DOP853", rtol=rtol, atol=0.1 * rtol)
    if not result.success:
        raise RuntimeError(f"the flow from {start} to {end} could not be integrated: {result.message}")
    return torch.as_tensor(result.y[:, -1], dtype=x.dtype, device=x.device).reshape(x.shape)
