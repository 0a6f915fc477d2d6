"""Derivatives in space of a vector field given as code: its Jacobian, and its divergence exactly or by random probes."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Matrices, Points, Scalars
from mathcore._validate import count, floating, like_input, one_of

Batch = Float[Tensor, "n *shape"]

Field = Callable[[Tensor], Tensor]
"""A field at one time, ``(N, *shape) -> (N, *shape)``; row n of the answer depends on row n of the points alone."""


def divergence(
    fn: Field,
    x: Batch,
    method: str = "exact",
    n_probes: int = 1,
    probe: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Scalars:
    """Return the divergence of ``fn`` at ``x``, the trace of its Jacobian: ``(N,)``.

    ``"exact"``: one backward pass for each of the D coordinates of a sample. ``"hutchinson"``: the mean of z^T J z over ``n_probes`` random z with
    E[z z^T] = I, one backward pass each; unbiased, and with S the symmetric part of J of variance 2 |S|_F^2 / n_probes for Gaussian probes and
    2 sum_{i != j} S_ij^2 / n_probes for signs (Hutchinson 1990; section 4.2.2). Differentiable, in what ``fn`` depends on too.

    Args:
        fn: the field, e.g. ``lambda x: v(x, t)``. x: points, any trailing shape.
        method: ``"exact"`` or ``"hutchinson"``. n_probes, probe (``"rademacher"`` or ``"gaussian"``), generator: of the second.

    Raises:
        TypeError: ``x``, or what ``fn`` returns, is no floating tensor.
        ValueError: unknown method or probe, ``n_probes`` not a positive integer, ``x`` without a batch axis or with NaN, ``fn`` changes the shape.
    """
    one_of(method, ("exact", "hutchinson"), "method")
    if floating(x, "x").ndim == 0:
        raise ValueError("x must have shape (N, *shape), got a 0-d tensor")
    probes = draw_probes(x, n_probes, probe, generator) if method == "hutchinson" else None
    return value_and_divergence(fn, x, probes)[1]


def jacobian(fn: Field, x: Points) -> Matrices:
    """Return the Jacobian of ``fn`` at the points ``(N, D)``: ``(N, D, D)``, entry (n, i, j) the derivative of output i by coordinate j.

    Raises:
        TypeError, ValueError: as :func:`divergence`; ``x`` must be ``(N, D)``.
    """
    return value_and_jacobian(fn, floating(x, "x", ndim=2))[1]


def draw_probes(x: Tensor, n_probes: int, probe: str, generator: torch.Generator | None) -> list[Tensor]:
    """Return ``n_probes`` random directions shaped like ``x``, of mean zero and covariance one; errors as :func:`divergence`."""
    one_of(probe, ("rademacher", "gaussian"), "probe")
    count(n_probes, "n_probes")
    if probe == "gaussian":
        return [torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) for _ in range(n_probes)]
    signs = (torch.randint(2, x.shape, generator=generator, device=x.device) for _ in range(n_probes))
    return [2 * s.to(x.dtype) - 1 for s in signs]


def value_and_divergence(fn: Field, x: Batch, probes: list[Tensor] | None = None) -> tuple[Batch, Scalars]:
    """Return ``fn(x)`` and its divergence ``(N,)`` for one evaluation of ``fn``: exact, or with the given probes."""
    value, apply, _ = _linearise(fn, x)
    directions = (_unit(x, i) for i in range(x[:1].numel())) if probes is None else iter(probes)
    total = x.new_zeros(len(x))
    for z in directions:
        total = total + (z * apply(z)).reshape(len(x), -1).sum(1)
    return value, total if probes is None else total / len(probes)


def value_and_jacobian(fn: Field, x: Points) -> tuple[Points, Matrices]:
    """Return ``fn(x)`` and its Jacobian for one evaluation of ``fn``."""
    value, apply, backward = _linearise(fn, x)
    rows = [apply(_unit(x, i)) for i in range(x.shape[1])]
    return value, torch.stack(rows, dim=1 if backward else 2) if rows else x.new_zeros(*x.shape, 0)


def _unit(x: Tensor, i: int) -> Tensor:
    """The i-th coordinate direction in every row."""
    out = torch.zeros_like(x)
    out.view(len(x), -1)[:, i] = 1
    return out


def _linearise(fn: Field, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], bool]:
    """Return ``fn(x)``, a product with its Jacobian, and which: True for u -> J^T u (backward), False for u -> J u (forward). u . J u is the same in both."""
    attached = False

    def watched(y: Tensor) -> Tensor:
        nonlocal attached
        out = like_input(fn(y), y, "fn")
        attached = out.requires_grad
        return out

    value, pull = torch.func.vjp(watched, x)[:2]
    if attached:
        return value, lambda u: pull(u.to(value.dtype))[0], True
    # a field that does not depend on x, or that switches gradients off inside, which forward mode does not heed
    return value, lambda u: torch.func.jvp(watched, (x,), (u,))[1], False
