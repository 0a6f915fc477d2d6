"""Time grids: strictly decreasing, from noise to data, float64 times of an ``AffineSchedule`` or indices of a ``DiscreteSchedule``.

All continuous grids have ``n`` steps, ``n + 1`` nodes. Without ``t_start`` and ``t_end`` they run between :func:`ends`, where the half-log-SNR is
finite; ``t_end=schedule.t_min`` or ``to_clean=True`` goes to the data itself, for the methods that can.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mathcore._validate import one_of, positive
from mathcore.schedules import AffineSchedule, DiscreteSchedule

Grid = Float[Tensor, " nodes"]


def ends(schedule: AffineSchedule) -> tuple[float, float]:
    """Default start and end of a grid: the domain, moved in by min(0.001 of its length, 0.002) where the half-log-SNR is infinite."""
    if not isinstance(schedule, AffineSchedule):
        raise TypeError(
            f"schedule must be an AffineSchedule, got {type(schedule).__name__}; indices of a DiscreteSchedule come from grids.discrete"
        )
    margin = min(1e-3 * (schedule.t_max - schedule.t_min), 2e-3)

    def settle(t: float, inside: float) -> float:
        regular = float(schedule.alpha(t)) > 0 and float(schedule.sigma(t)) > 0
        return t if regular else inside

    return settle(schedule.t_max, schedule.t_max - margin), settle(schedule.t_min, schedule.t_min + margin)


def uniform_t(schedule: AffineSchedule, n: int, t_start: float | None = None, t_end: float | None = None, to_clean: bool = False) -> Grid:
    """Equal steps in time.

    Args of this and the next four: ``n`` steps; ``t_start > t_end`` ends, see :func:`ends`; ``to_clean``: the last of the n steps goes from ``t_end``
    to ``schedule.t_min``.

    Raises:
        TypeError: no ``AffineSchedule``.
        ValueError: n < 1 (2 with ``to_clean``), ends outside the domain or in the wrong order, an end that is singular for the spacing.
    """
    return _spaced(schedule, n, t_start, t_end, to_clean, lambda t: t, lambda u: u)


def quadratic_t(schedule: AffineSchedule, n: int, t_start: float | None = None, t_end: float | None = None, to_clean: bool = False) -> Grid:
    """Equal steps in the square root of time (Song et al. 2021, DDIM)."""
    return _spaced(schedule, n, t_start, t_end, to_clean, math.sqrt, torch.square)


def exponential(schedule: AffineSchedule, n: int, t_start: float | None = None, t_end: float | None = None, to_clean: bool = False) -> Grid:
    """Equal ratios of time: t_i = t_start (t_end / t_start)^{i/n}; ``t_end`` above 0. On the EDM schedule this is :func:`uniform_lambda`."""
    return _spaced(schedule, n, t_start, t_end, to_clean, _log, torch.exp)


def uniform_lambda(
    schedule: AffineSchedule, n: int, t_start: float | None = None, t_end: float | None = None, to_clean: bool = False
) -> Grid:
    """Equal steps in the half-log-SNR (section 9.4.3), finite at both ends."""
    return _spaced(
        schedule, n, t_start, t_end, to_clean, lambda t: float(schedule.half_log_snr(t)), lambda u: schedule.inverse_half_log_snr(u)
    )


def karras(
    schedule: AffineSchedule,
    n: int,
    rho: float | int = 7.0,
    t_start: float | None = None,
    t_end: float | None = None,
    to_clean: bool = False,
) -> Grid:
    """Equal steps in (sigma / alpha)^{1/rho} (Karras et al. 2022, Eq. 5; section D.6). ``rho``: positive; 1 is uniform in the noise-to-signal ratio."""
    power = positive(rho, "rho")

    def inverse(u: Tensor) -> Tensor:
        return schedule.inverse_half_log_snr(-power * torch.log(u))

    return _spaced(schedule, n, t_start, t_end, to_clean, lambda t: math.exp(-float(schedule.half_log_snr(t)) / power), inverse)


def discrete(schedule: DiscreteSchedule, n: int, spacing: str = "leading") -> Int[Tensor, " nodes"]:
    """The ``n`` steps over a chain of ``L`` that are in use, as indices ``(n + 1,)`` ending at 0 (clean).

    ``"leading"``: 1 + k floor(L / n), reaches L only for n = L. ``"trailing"``: L - k L / n, rounded. ``"linspace"``: n equal
    parts from L to 1, rounded. With n = L all are L, L-1, ..., 0. (Lin et al. 2024, Table 2, whose timestep i - 1 is our index i.)

    Raises:
        TypeError: no ``DiscreteSchedule``.
        ValueError: n outside 1..L, unknown spacing.
    """
    if not isinstance(schedule, DiscreteSchedule):
        raise TypeError(f"schedule must be a DiscreteSchedule, got {type(schedule).__name__}")
    L = schedule.L
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= L:
        raise ValueError(f"n must be an integer in 1..{L}, got {n!r}")
    one_of(spacing, ("leading", "trailing", "linspace"), "spacing")
    k = torch.arange(n, dtype=torch.float64)
    if spacing == "leading":
        visited = 1 + (n - 1 - k) * (L // n)
    elif spacing == "trailing":
        visited = torch.round(L - k * L / n)
    else:
        visited = torch.round(torch.linspace(L, 1, n, dtype=torch.float64))
    return torch.cat([visited.to(torch.int64), torch.zeros(1, dtype=torch.int64)])


def _log(t: float) -> float:
    if t <= 0:
        raise ValueError(f"equal ratios of time need t_end > 0, got {t}; to_clean=True adds a step to the end of the domain")
    return math.log(t)


def _spaced(
    schedule: AffineSchedule,
    n: int,
    t_start: float | None,
    t_end: float | None,
    to_clean: bool,
    forward: Callable[[float], float],
    inverse: Callable[[Tensor], Tensor],
) -> Tensor:
    """Equal steps in ``forward(t)``; both ends are kept to the last digit."""
    default = ends(schedule)
    start, end = (d if t is None else float(t) for d, t in zip(default, (t_start, t_end), strict=True))
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 + to_clean:
        raise ValueError(f"n must be an integer of at least {1 + to_clean}, got {n!r}")
    if not schedule.t_min <= end < start <= schedule.t_max:
        raise ValueError(
            f"need {schedule.t_min} <= t_end < t_start <= {schedule.t_max}, the domain of the {schedule.name} schedule; "
            f"got t_start={start} and t_end={end}"
        )
    if to_clean and end == schedule.t_min:
        raise ValueError(f"to_clean adds a step from t_end to t_min={schedule.t_min}; t_end must lie above it")
    grid = inverse(torch.linspace(forward(start), forward(end), n + 1 - to_clean, dtype=torch.float64)) if n > to_clean else torch.empty(2)
    grid = grid.to(torch.float64)
    grid[0], grid[-1] = start, end
    if to_clean:
        grid = torch.cat([grid, grid.new_tensor([schedule.t_min])])
    if not bool((grid[1:] < grid[:-1]).all()):
        raise ValueError(f"{n} steps from {start} to {end} are too many: neighbouring nodes coincide in float64")
    return grid
