"""Langevin sampling: at one noise level (section 3.1.4), through many (Algorithm 1), and what is known of both in closed form.

A step is x <- x + eta score(x) + sqrt(2 eta) z, as the monograph has it. In the papers of Song and Ermon it reads x + (a/2) score + sqrt(a) z: a = 2 eta.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count, floating, like_input, positive
from mathcore.dynamics.integrate import SolverDivergedError
from mathcore.scores._calls import Batch, Energy, Score, one_per_row, row_sum

NoisyScore = Callable[[Tensor, float], Tensor]
"""``score(x, sigma)``: the score of the data blurred by N(0, sigma^2 I), ``x (N, *shape)``, sigma a number."""

Path = Float[Tensor, "n m *shape"]
Levels = Float[Tensor, " l"]


@torch.no_grad()
def langevin(
    score: Score,
    x0: Batch,
    step: float | int,
    n_steps: int,
    generator: torch.Generator | None = None,
    noise: Float[Tensor, "k n *shape"] | None = None,
    metropolis_log_prob: Energy | None = None,
    return_trajectory: bool = False,
) -> Batch | Path:
    """Take ``n_steps`` steps of the unadjusted Langevin algorithm, x + eta score(x) + sqrt(2 eta) z (Eq. 3.1.5, Eq. 3.2.3).

    It is Euler-Maruyama for dx = score dt + sqrt(2) dw (Eq. 3.1.6), and its stationary law differs from the target by O(eta). With
    ``metropolis_log_prob`` each step is accepted with the probability of Metropolis and Hastings, which leaves the target exactly invariant (MALA).

    Args:
        score: ``(N, *shape) -> (N, *shape)``. x0: where the N chains start. step: eta > 0.
        noise: the standard normals z, one per step ``(n_steps, N, *shape)``, in place of draws from ``generator``.
        metropolis_log_prob: log-density of the target up to a constant, ``(N, *shape) -> (N,)``.
        return_trajectory: return all states ``(N, n_steps + 1, *shape)``, the start first, and not only the last.

    Raises:
        TypeError: ``x0``, ``noise`` or a returned value is no floating tensor.
        ValueError: ``step`` not positive, ``n_steps`` below 1, NaN in ``x0``, a shape that does not fit.
        SolverDivergedError: a state is not finite (a step beyond the limit of stability).
    """
    eta, x = positive(step, "step"), floating(x0, "x0")
    if x.ndim == 0:
        raise ValueError("x0 must have shape (N, *shape), got a 0-d tensor")
    if noise is not None and floating(noise, "noise").shape != (count(n_steps, "n_steps"), *x.shape):
        raise ValueError(f"noise must have shape {(n_steps, *x.shape)}, one standard normal per step; got {tuple(noise.shape)}")
    drift, path = like_input(score(x), x, "score"), [x]
    for n in range(count(n_steps, "n_steps")):
        z = noise[n].to(x) if noise is not None else _normal(x, generator)
        proposal = x + eta * drift + math.sqrt(2 * eta) * z
        if not bool(torch.isfinite(proposal.sum())) and not bool(torch.isfinite(proposal).all()):
            raise SolverDivergedError(f"langevin: a state is not finite after step {n + 1}; take a step smaller than {eta:g}")
        new_drift = like_input(score(proposal), x, "score") if n + 1 < n_steps or metropolis_log_prob is not None else drift
        if metropolis_log_prob is not None:
            moved = _accepted(metropolis_log_prob, x, drift, proposal, new_drift, z, eta, generator)
            proposal, new_drift = torch.where(moved, proposal, x), torch.where(moved, new_drift, drift)
        x, drift = proposal, new_drift
        if return_trajectory:
            path.append(x)
    return torch.stack(path, dim=1) if return_trajectory else x


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _accepted(
    log_prob: Energy, x: Tensor, drift: Tensor, y: Tensor, drift_y: Tensor, z: Tensor, eta: float, generator: torch.Generator | None
) -> Tensor:
    """Whether each row moves: a uniform draw against p(y) q(x | y) / p(x) q(y | x), q(. | x) = N(x + eta score(x), 2 eta I); broadcasts over rows."""
    there = row_sum(z.square()) / 2  # |y - x - eta score(x)|^2 / (4 eta)
    back = row_sum((x - y - eta * drift_y).square()) / (4 * eta)
    gain = one_per_row(log_prob(y), y, "metropolis_log_prob") - one_per_row(log_prob(x), x, "metropolis_log_prob")
    uniform = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
    return (uniform.log() < gain + there - back).reshape(-1, *[1] * (x.ndim - 1))


# --- many levels of noise -------------------------------------------------------------------------------------------------------------


def geometric_sigmas(sigma_min: float | int, sigma_max: float | int, n_levels: int) -> Levels:
    """Return ``n_levels`` noise levels in geometric progression, ascending, float64: sigma_1 = ``sigma_min``, sigma_L = ``sigma_max``.

    Raises:
        ValueError: not 0 < sigma_min < sigma_max, or fewer than two levels.
    """
    low, high = positive(sigma_min, "sigma_min"), positive(sigma_max, "sigma_max")
    if not low < high:
        raise ValueError(f"sigma_max must exceed sigma_min, got sigma_min={sigma_min} and sigma_max={sigma_max}")
    share = torch.arange(count(n_levels, "n_levels", 2), dtype=torch.float64) / (n_levels - 1)
    sigmas = low * torch.exp(share * math.log(high / low))
    sigmas[-1] = high
    return sigmas


def annealed_steps(sigmas: Levels, delta: float | int) -> Levels:
    """Return the step sizes of Algorithm 1, eta_l = delta sigma_l^2 / sigma_1^2: ``(L,)``.

    Raises:
        TypeError, ValueError: as :func:`annealed_langevin` for ``sigmas``; ``delta`` not positive.
    """
    levels = _levels(sigmas)
    return positive(delta, "delta") * (levels / levels[0]).square()


@torch.no_grad()
def annealed_langevin(
    score: NoisyScore,
    shape: Sequence[int],
    sigmas: Levels,
    steps: Levels,
    n_steps: int | Sequence[int],
    init_std: float | int | None = None,
    include_last: bool = True,
    denoise: bool = False,
    generator: torch.Generator | None = None,
    return_levels: bool = False,
) -> Batch | Path:
    """Run Langevin chains through the noise levels from the largest down, each level started where the one before ended (Algorithm 1).

    Args:
        score: ``score(x, sigma)`` with sigma a Python number. shape: ``(N, *shape)`` of the result; dtype and device are those of ``sigmas``.
        sigmas: noise levels ``(L,)``, ascending. steps: eta for each ``(L,)``, see :func:`annealed_steps`.
        n_steps: Langevin steps at every level, or one number for each, in the order of ``sigmas``.
        init_std: the chains start from N(0, init_std^2 I); by default sigma_L, the prior of Table 3.1. (Algorithm 1 as printed: 1.)
        include_last: run level sigma_1 too. False stops after sigma_2 as Algorithm 1 is printed, and so returns a sample of about p_{sigma_2}.
        denoise: end with Tweedie's formula, x + sigma^2 score(x, sigma), at the last level run.
        return_levels: return ``(N, K + 1, *shape)``: the start and the state after each of the K levels run (the last one denoised where asked).

    Raises:
        TypeError: ``sigmas`` or ``steps`` no floating tensor.
        ValueError: sigmas not positive and ascending, steps of another shape or not positive, a count below 1, one level and ``include_last=False``.
        SolverDivergedError: a state is not finite.
    """
    levels, etas, counts = _plan(sigmas, steps, n_steps, include_last)
    std = float(sigmas[-1]) if init_std is None else positive(init_std, "init_std")
    x = std * torch.randn(tuple(shape), generator=generator, dtype=sigmas.dtype, device=sigmas.device)
    states = [x]
    for sigma, eta, n in zip(levels, etas, counts):
        x = langevin(_at(score, sigma), x, eta, n, generator)
        states.append(x)
    if denoise:
        x = x + levels[-1] ** 2 * like_input(score(x, levels[-1]), x, "score")
        states[-1] = x
    return torch.stack(states, dim=1) if return_levels else x


def _at(score: NoisyScore, sigma: float) -> Score:
    return lambda x: score(x, sigma)


def _levels(sigmas: Tensor) -> Tensor:
    floating(sigmas, "sigmas", ndim=1)
    if len(sigmas) == 0 or not bool((sigmas > 0).all()) or not bool((sigmas.diff() > 0).all()):
        raise ValueError(f"sigmas must be positive and strictly ascending, at least one; got {sigmas.tolist()}")
    return sigmas


def _plan(sigmas: Tensor, steps: Tensor, n_steps: int | Sequence[int], include_last: bool) -> tuple[list[float], list[float], list[int]]:
    """Levels, step sizes and counts in the order in which they are run: from the largest noise down."""
    size = len(_levels(sigmas))
    if floating(steps, "steps").shape != sigmas.shape or not bool((steps > 0).all()):
        raise ValueError(f"steps must be {size} positive numbers like sigmas, got {steps.tolist()}")
    counts = [n_steps] * size if isinstance(n_steps, int) else list(n_steps)
    if len(counts) != size:
        raise ValueError(f"n_steps must be one number or one for each of the {size} levels, got {len(counts)}")
    last = 0 if include_last else 1
    if size == last:
        raise ValueError("include_last=False leaves no level to run: it needs at least two")
    return sigmas.tolist()[last:][::-1], steps.tolist()[last:][::-1], [count(n, "n_steps") for n in counts][last:][::-1]


# --- closed forms ---------------------------------------------------------------------------------------------------------------------


def ula_gaussian(
    mean: float | int, var: float | int, step: float | int, n_steps: int, mean0: float | int, var0: float | int
) -> tuple[float, float]:
    """Mean and variance of :func:`langevin` after ``n_steps`` steps, target N(mean, var) and start N(mean0, var0), one coordinate.

    Each step maps the mean to m + r (M - m) and the variance to r^2 V + 2 eta with r = 1 - eta / var (section 3.1.4). Unstable steps are welcome: the
    numbers then grow.

    Raises:
        ValueError: ``var`` or ``step`` not positive, ``var0`` negative, ``n_steps`` below 1.
    """
    ratio = 1 - positive(step, "step") / positive(var, "var")
    if not 0.0 <= var0 < math.inf:
        raise ValueError(f"var0 must be a finite number of at least 0, got {var0}")
    offset, spread = float(mean0) - float(mean), float(var0)
    for _ in range(count(n_steps, "n_steps")):
        offset, spread = ratio * offset, ratio**2 * spread + 2 * step
    return float(mean) + offset, spread


def ula_gaussian_variance(var: float | int, step: float | int) -> float:
    """Stationary variance of :func:`langevin` on N(mean, var), var / (1 - eta / (2 var)): larger than ``var``, by eta / 2 to first order (section 3.1.4).

    Raises:
        ValueError: not positive numbers, or ``step >= 2 var``, where no stationary law exists.
    """
    s2, eta = positive(var, "var"), positive(step, "step")
    if eta >= 2 * s2:
        raise ValueError(f"step must be below 2 var = {2 * s2:g}: at {eta:g} the chain has no stationary law")
    return s2 / (1 - eta / (2 * s2))


def annealed_langevin_gaussian(
    mean: float | int,
    var: float | int,
    sigmas: Levels,
    steps: Levels,
    n_steps: int | Sequence[int],
    init_std: float | int | None = None,
    include_last: bool = True,
) -> tuple[float, float]:
    """Mean and variance, per coordinate, of :func:`annealed_langevin` fed with the exact scores of data N(mean, var); no sampling.

    ``var = 0`` (a point) is allowed. Arguments and errors as there.
    """
    if not 0.0 <= var < math.inf:
        raise ValueError(f"var must be a finite number of at least 0, got {var}")
    state = (0.0, (float(sigmas[-1]) if init_std is None else positive(init_std, "init_std")) ** 2)
    for sigma, eta, n in zip(*_plan(sigmas, steps, n_steps, include_last)):
        state = ula_gaussian(mean, var + sigma**2, eta, n, *state)
    return state


def langevin_spectral_gap_1d(log_prob: Energy, grid: Float[Tensor, " m"], k: int = 1) -> Float[Tensor, " k"]:
    """Return the ``k`` smallest non-zero eigenvalues of the generator -(d^2/dx^2 + score d/dx), ascending; the first is the spectral gap.

    Expectations under dx = score dt + sqrt(2) dw decay to those of the target like e^{-gap t} (section 3.1.4). The generator becomes a birth-death chain
    on the nodes, reversible for the target as the process is, with a reflecting end at either side: accurate to the square of the spacing.

    Args:
        log_prob: log-density of the target up to a constant, ``(N, 1) -> (N,)``. grid: increasing nodes that reach into both tails.

    Raises:
        TypeError: ``grid`` no floating tensor. ValueError: grid not increasing, ``k`` not in 1..M-1, a log-density that is not finite on the grid.
    """
    from scipy.linalg import eigh_tridiagonal

    nodes = floating(grid, "grid", ndim=1).double()
    gaps = nodes.diff()
    if len(nodes) < 2 or not bool((gaps > 0).all()):
        raise ValueError(f"grid must hold at least two increasing nodes, got {len(nodes)}")
    if count(k, "k") >= len(nodes):
        raise ValueError(f"k must be below the number of nodes {len(nodes)}, got {k}")
    middles = (nodes[1:] + nodes[:-1]) / 2
    at, between = (floating(one_per_row(log_prob(p[:, None]), p, "log_prob"), "log_prob on the grid").double() for p in (nodes, middles))
    width = torch.cat([gaps[:1], gaps[1:] + gaps[:-1], gaps[-1:]]) / 2
    weight = at + width.log()  # log of the mass of each cell
    # the flow between neighbours is p(middle) / gap in both directions; divided by root masses it is the symmetric off-diagonal
    flow = between - gaps.log()
    diagonal = torch.zeros_like(nodes)
    diagonal[:-1] += (flow - weight[:-1]).exp()
    diagonal[1:] += (flow - weight[1:]).exp()
    off = -(flow - (weight[:-1] + weight[1:]) / 2).exp()
    values = eigh_tridiagonal(diagonal.numpy(), off.numpy(), eigvals_only=True, select="i", select_range=(1, k))
    return torch.as_tensor(values)
