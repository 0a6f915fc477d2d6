"""Score matching from data alone: Hyvarinen's objective exactly and by random slices (sections 3.2.1, 3.3.1), and its form for any operator (3.3.6)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Scalars
from mathcore._validate import floating, like_input, one_of, positive
from mathcore.dynamics.fields import divergence, draw_probes, value_and_divergence
from mathcore.scores._calls import Batch, Score, one_per_row, row_sum

Adjoint = Callable[[Score, Tensor], Tensor]
"""``adjoint(field, x) -> (N,)``: the adjoint of a linear operator, applied to a field and evaluated at ``x``."""

KINDS = ("exact", "sliced")


def score_matching_loss(
    score: Score,
    x: Batch,
    kind: str = "exact",
    n_probes: int = 1,
    probe: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Return the mean over data ``x`` of Tr(grad s) + |s|^2 / 2: 0-d (Proposition 3.2.1).

    It is the score matching loss E |s - grad log p|^2 / 2 less a constant that does not depend on s, and so can be negative. For an energy E take
    s = -grad E (:func:`mathcore.scores.energy.energy_score`), which gives -Tr(grad^2 E) + |grad E|^2 / 2 (section 3.1.3).

    Args:
        score: the field, ``(N, *shape) -> (N, *shape)``. x: data, any trailing shape.
        kind: ``"exact"``, one backward pass per coordinate, or ``"sliced"``: the mean over random directions u of u.grad s u + (u.s)^2 / 2, one backward
            pass each, unbiased (section 3.3.1).
        n_probes, probe (``"rademacher"`` or ``"gaussian"``), generator: of the second.

    Raises:
        TypeError: ``x`` or what ``score`` returns is no floating tensor.
        ValueError: unknown kind or probe, ``n_probes`` below 1, NaN in ``x``, no data, a score of another shape.
    """
    if len(floating(x, "x").shape) == 0 or len(x) == 0:
        raise ValueError(f"x must hold at least one row, got shape {tuple(x.shape)}")
    return score_matching_terms(score, x, kind, n_probes, probe, generator).mean()


def score_matching_terms(
    score: Score,
    x: Batch,
    kind: str = "exact",
    n_probes: int = 1,
    probe: str = "rademacher",
    generator: torch.Generator | None = None,
) -> Scalars:
    """Return the summands of :func:`score_matching_loss`, one for each row: ``(N,)``; arguments and errors as there."""
    probes = draw_probes(x, n_probes, probe, generator) if one_of(kind, KINDS, "kind") == "sliced" else None
    value, trace = value_and_divergence(score, x, probes)
    if probes is None:
        return trace + row_sum(value.square()) / 2
    squares = torch.stack([row_sum(u * value).square() for u in probes]).mean(0)
    return trace + squares / 2


def generalized_sm_loss(adjoint: Adjoint, field: Score, x: Batch) -> Float[Tensor, ""]:
    """Return the mean over data ``x`` of |field|^2 / 2 - adjoint(field): 0-d (section 3.3.6).

    With ``adjoint`` that of a linear operator L it equals E |field - Lp / p|^2 / 2 less a constant, so that the minimiser is Lp / p: the score for
    :func:`gradient_adjoint`, the posterior mean for :func:`denoising_adjoint`.

    Raises:
        TypeError: ``x`` or a returned value is no floating tensor. ValueError: NaN in ``x``, a returned value of another shape.
    """
    value = like_input(field(floating(x, "x")), x, "field")
    return (row_sum(value.square()) / 2 - one_per_row(adjoint(field, x), x, "adjoint")).mean()


def gradient_adjoint(field: Score, x: Batch) -> Scalars:
    """Adjoint of L = grad: minus the divergence of the field, ``(N,)``; :func:`generalized_sm_loss` is then Hyvarinen's objective."""
    return -divergence(field, x)


def denoising_adjoint(sigma: float | int) -> Adjoint:
    """Return the adjoint of L f = x f + sigma^2 grad f, which is x.g - sigma^2 div g (section 3.3.6).

    On data blurred by N(0, sigma^2 I) the target Lp / p is E[x_0 | x], and the loss half of Stein's risk estimate (Eq. 3.3.7) up to a constant.

    Raises:
        ValueError: ``sigma`` not positive.
    """
    var = positive(sigma, "sigma") ** 2

    def adjoint(field: Score, x: Tensor) -> Tensor:
        value, trace = value_and_divergence(field, x)
        return row_sum(x * value) - var * trace

    return adjoint
