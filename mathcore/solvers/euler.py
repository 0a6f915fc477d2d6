"""Euler, Heun and Runge-Kutta 4 on the probability-flow ODE, in any clock and any scaling of the state (sections 9.1.2, 9.4.5 and A.1).

The drift is one function whatever the network predicts, so plain methods make the same step in all four predictions; what distinguishes them is the
clock u (t, lambda or rho = sigma / alpha) in which the step is straight, and the scaled state w = x / c that is stepped:

    scale "one":    dx/dt      = v
    scale "alpha":  d(x/alpha) = eps d rho          Euler is DDIM in the clock rho, Heun the sampler of Karras et al. (2022)
    scale "sigma":  d(x/sigma) = clean e^lambda d lambda
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from mathcore._tableaux import TABLEAUX, Tableau
from mathcore._validate import one_of
from mathcore.solvers.builder import Builder, Combination, Node, Output, Schedule, State
from mathcore.solvers.table import SolverTable

CLOCKS = ("t", "lambda", "rho")
SCALES = ("one", "alpha", "sigma")


def euler(schedule: Schedule, times: Tensor, prediction: str = "noise", clock: str = "t", scale: str = "one") -> SolverTable:
    """Plain Euler, order 1, one model call per step (Eq. 9.1.8).

    Args of this and the next two:
        schedule, times: see ``Builder``. A ``DiscreteSchedule`` has no time derivative: it needs a scale other than ``"one"`` and a clock other
            than ``"t"``.
        prediction: what the model returns. clock: the variable in which a step is straight, ``"t"``, ``"lambda"`` or ``"rho"``.
        scale: what is stepped, ``"one"`` (x), ``"alpha"`` (x / alpha) or ``"sigma"`` (x / sigma).

    Raises:
        ValueError: unknown names, a bad grid, a clock, scale or conversion that is singular at one of its times.
    """
    return _runge_kutta("euler", schedule, times, prediction, clock, scale)


def heun(schedule: Schedule, times: Tensor, prediction: str = "noise", clock: str = "t", scale: str = "one") -> SolverTable:
    """Heun, order 2, two calls per step (Eq. 9.4.13); a step that ends at sigma = 0 is an Euler step, as in Karras et al. (2022)."""
    return _runge_kutta("heun", schedule, times, prediction, clock, scale)


def rk4(schedule: Schedule, times: Tensor, prediction: str = "noise", clock: str = "t", scale: str = "one") -> SolverTable:
    """The classical Runge-Kutta method, order 4, four calls per step; it evaluates at the end of the grid and half-way in the clock."""
    return _runge_kutta("rk4", schedule, times, prediction, clock, scale)


def interval(build: Builder, x: State, t: Node, middle: Node | None, tableau: Tableau, clock: str, scale: str) -> State:
    """One step from the newest state ``x`` to ``t`` with an explicit Butcher tableau (c, a, b) applied to dw/du; ``middle``: where c = 1/2."""
    c, a, b = tableau
    s = x.node
    h = t.clock(clock) - s.clock(clock)
    w, rates = x / s.scale(scale), [rate(build.evaluate(x), clock, scale)]
    for ci, row in zip(c[1:], a[1:], strict=True):
        node = t if ci == 1.0 or middle is None else middle
        stage = build.state(node.scale(scale) * _advance(w, h, row, rates), node, stage=True)
        rates.append(rate(build.evaluate(stage), clock, scale))
    return build.state(t.scale(scale) * _advance(w, h, b, rates), t)


def _runge_kutta(name: str, schedule: Schedule, times: Tensor, prediction: str, clock: str, scale: str) -> SolverTable:
    one_of(clock, CLOCKS, "clock"), one_of(scale, SCALES, "scale")
    build = Builder(f"{name}({clock}, {scale})", schedule, times, prediction)
    middles: list[Node | None] = [None] * len(build.nodes)
    if 0.5 in TABLEAUX[name].c:
        middles = [*build.between([(s.clock(clock) + t.clock(clock)) / 2 for s, t in pairwise(build.nodes)], clock)]
    x = build.start
    for t, middle in zip(build.nodes[1:], middles, strict=False):
        used = "euler" if name == "heun" and t.sigma == 0 else name  # an Euler step to the clean end
        x = interval(build, x, t, middle, TABLEAUX[used], clock, scale)
    return build.table()


def _advance(w: Combination, h: float, weights: Sequence[float], rates: Sequence[Combination]) -> Combination:
    for weight, rate in zip(weights, rates, strict=True):
        w = w + h * weight * rate
    return w


def rate(m: Output, clock: str, scale: str) -> Combination:
    """dw/du at the state of ``m``."""
    node = m.node
    if scale == "one":
        if clock == "t":
            return m.velocity
        return m.velocity / (node.dlam if clock == "lambda" else -node.rho * node.dlam)
    per_lambda = -node.rho * m.noise if scale == "alpha" else m.clean / node.rho
    if clock == "rho":  # d rho = -rho d lambda
        return m.noise if scale == "alpha" else -(m.clean / node.rho**2)
    return per_lambda if clock == "lambda" else node.dlam * per_lambda


class WarmStart:
    """The first order - 1 steps of a multistep method, which have too few old outputs: ``"ramp"`` (lower orders) or ``"rk4"``.

    A ramp makes a one-time error O(h^2), so that the global order is at most 2 unless the outputs hardly change there, as they do from pure noise.
    Runge-Kutta 4 on d(x / alpha) / d lambda costs 4 calls in each of these steps and keeps the order; its first call is the output the method needs.
    """

    def __init__(self, build: Builder, order: int, start: str) -> None:
        one_of(start, ("ramp", "rk4"), "start")
        if len(build.nodes) < order + 1:
            raise ValueError(f"{build.name} needs at least {order} steps, got {len(build.nodes) - 1}")
        self._build, self.steps = build, order - 1 if start == "rk4" else 0
        halves = [(s.lam + t.lam) / 2 for s, t in pairwise(build.nodes[: self.steps + 1])]
        self._middles = build.between(halves) if halves else []

    def step(self, k: int, x: State, t: Node) -> State:
        """Step k by Runge-Kutta 4."""
        return interval(self._build, x, t, self._middles[k], TABLEAUX["rk4"], "lambda", "alpha")
