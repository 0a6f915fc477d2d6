"""Potentials that leave an assignment problem little to search: Sinkhorn at falling temperature, on all entries while it is warm, then on the small ones.

A number taken off a column changes every assignment by the same amount, so that whatever is done here, rounding and dropped entries included, decides
how fast the exact answer is found and not what it is.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

DENSE = ((0.15, 6), (0.04, 10))
SPARSE = ((0.01, 30), (0.003, 30))
"""Temperatures in standard deviations of the cost, with their numbers of sweeps: over all entries, and over those that are kept."""
KEPT = 0.06
"""Reduced costs below this many standard deviations are kept: some sixty in a row of a thousand."""
RELAXATION = 1.6
"""Over-relaxation of a sweep, from the third on."""


def take_off_column_potentials(cost: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return ``cost`` (changed in place, n >= 1) less a potential of each column; row potentials would not shorten the search."""
    scale = float(cost.float().std(correction=0))
    if not scale > 0:
        return cost
    work = cost.float() / scale
    potential = torch.zeros_like(work[0])
    for temperature, sweeps in DENSE:
        potential += _dense(work, temperature, sweeps)
    potential += _dense(work, 0.0, 0)
    potential = potential.double() + torch.from_numpy(_sparse(work.cpu().numpy())).to(cost.device)
    cost -= scale * potential
    return cost


def _dense(work: Tensor, temperature: float, sweeps: int) -> Tensor:
    """Take potentials off ``work`` in place, the smallest of each row and column and then those of Sinkhorn; return those of the columns."""
    work -= work.amin(1, keepdim=True)
    potential = work.amin(0)
    work -= potential
    if not sweeps:
        return potential
    kernel = (work * (-1 / temperature)).exp_()
    rows, columns = _sweeps(kernel.__matmul__, lambda r: r @ kernel, torch.ones_like(kernel[0]), sweeps)
    u, v = temperature * rows.log(), temperature * columns.log()
    if not bool(torch.isfinite(u).all() and torch.isfinite(v).all()):
        return potential  # under- or overflow, as with outliers: the smallest entries alone serve
    work -= u[:, None]
    work -= v
    return potential + v


def _sparse(work: Any) -> Any:
    """Return column potentials from the small entries of ``work`` (non-negative, a zero in every column): ``(n,)`` float64."""
    from scipy.sparse import csr_array

    n = len(work)
    small = work < KEPT
    small[np.arange(n), work.argmin(1)] = True  # no row is left empty
    row, column = np.nonzero(small)
    value, by_row = work[row, column].astype(np.float64), np.searchsorted(row, np.arange(n + 1))
    turned = csr_array((np.arange(len(row)), column, by_row), shape=work.shape).T.tocsr()
    order = turned.data
    potential = np.zeros(n)
    for temperature, sweeps in SPARSE:
        value -= np.minimum.reduceat(value, by_row[:-1])[row]
        least = np.minimum.reduceat(value[order], turned.indptr[:-1])
        value -= least[column]
        potential += least
        entries = np.exp(-value / temperature)
        kernel = csr_array((entries, column, by_row), shape=work.shape)
        back = csr_array((entries[order], turned.indices, turned.indptr), shape=work.shape)
        with np.errstate(all="ignore"):  # what is not finite is seen below
            rows, columns = _sweeps(kernel.__matmul__, back.__matmul__, np.ones(n), sweeps)
            u, v = temperature * np.log(rows), temperature * np.log(columns)
        if not (np.isfinite(u).all() and np.isfinite(v).all()):
            break
        value -= u[row] + v[column]
        potential += v
    return potential


def _sweeps(forward: Any, backward: Any, ones: Any, sweeps: int) -> tuple[Any, Any]:
    """Sinkhorn's scalings after so many sweeps of a kernel given by its products with a vector."""
    rows = columns = ones
    for k in range(sweeps):
        power = RELAXATION if k > 1 else 1.0
        rows = rows ** (1 - power) * forward(columns) ** -power
        columns = columns ** (1 - power) * backward(rows) ** -power
    return rows, columns
