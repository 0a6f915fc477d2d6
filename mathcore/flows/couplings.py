"""Which source goes with which target in a batch: the coupling pi of x_t = a_t x_0 + b_t x_1 (sections 5.3.2 and 5.4).

A coupling here is a function ``(x0, x1, generator) -> (x0, x1)`` that reorders one of the two batches, so that both keep exactly the points, and so the
marginals, that they had. Pairs that are given (rectified ones, say) need no function: they go into the loss as they are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mathcore._validate import one_of
from mathcore.flows._dual_start import take_off_column_potentials
from mathcore.interpolation import check_pair

Batch = Float[Tensor, "n *shape"]


def independent_pairs(x0: Batch, x1: Batch, generator: torch.Generator | None = None) -> tuple[Batch, Batch]:
    """Return ``x0`` and ``x1`` in a uniformly random order: pairs of the product coupling, whatever the pairs were before (section 5.3.2).

    Raises:
        TypeError: not floating tensors of one dtype. ValueError: different shapes, NaN.
    """
    check_pair(x0, x1)
    order = torch.randperm(len(x1), generator=generator, device=generator.device if generator is not None else x1.device)
    return x0, x1[order.to(x1.device)]


def minibatch_ot_pairs(x0: Batch, x1: Batch, generator: torch.Generator | None = None, method: str = "exact") -> tuple[Batch, Batch]:
    """Return ``x0`` and ``x1`` reordered so that the sum of squared distances between partners is least (Tong et al. 2024; Pooladian et al. 2023).

    Between two batches, not two laws: the pairs are as likely as those of the optimal coupling only as N grows. Every point is used exactly once, which
    sampling from the plan with replacement does not do.

    Args:
        generator: not used by the exact assignment; there so that all couplings are called alike. method: ``"exact"``.

    Raises:
        TypeError: not floating tensors of one dtype. ValueError: another method, different shapes, NaN.
    """
    one_of(method, ("exact",), "method")
    return x0, x1[optimal_assignment(x0, x1)]


def optimal_assignment(x0: Batch, x1: Batch) -> Int[Tensor, " n"]:
    """Return the permutation p that minimises sum_n |x0[n] - x1[p[n]]|^2: ``(N,)``, for labels that travel with ``x1``.

    The shortest augmenting paths of scipy, on a cost from which dual potentials have been taken off. A number subtracted from a row or a column changes
    every assignment by the same amount, so any potentials leave the answer exact; good ones (some sweeps of Sinkhorn) leave little to search.

    Raises:
        TypeError: not floating tensors of one dtype. ValueError: different shapes, NaN.
    """
    from scipy.optimize import linear_sum_assignment

    check_pair(x0, x1)
    if len(x0) == 0:
        return torch.zeros(0, dtype=torch.int64, device=x0.device)
    first, second = (x.detach().reshape(len(x), -1).double() for x in (x0, x1))
    # |x0 - x1|^2 without the squares, which are such row and column terms
    cost = -(first - first.mean(0)) @ (second - second.mean(0)).T
    chosen = linear_sum_assignment(take_off_column_potentials(cost).cpu().numpy())[1]
    return torch.as_tensor(chosen, dtype=torch.int64, device=x1.device)
