"""Tables with implicit rows: rows that use the model at the very state they make. No loop can run them, a fixed-point iteration can."""

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor

from mathcore._validate import one_of
from mathcore.predictions import PREDICTIONS
from mathcore.solvers.builder import Nodes, Output, Schedule, State, check_times
from mathcore.solvers.euler import CLOCKS, SCALES, rate
from mathcore.solvers.rows import Step


class ImplicitTable:
    """Rows as in a ``SolverTable``, one for each interval, where row k may also use state and output k + 1; see ``paradigms``.

    Attributes:
        name, steps, times, prediction, sample_shape: as in ``SolverTable``.
    """

    def __init__(self, name: str, steps: Iterable[Step], times: Tensor, prediction: str) -> None:
        self.name, self.steps, self.times = name, tuple(steps), times
        self.prediction = one_of(prediction, PREDICTIONS, "prediction")
        self.sample_shape: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"ImplicitTable({self.name}: {len(self.steps)} intervals, prediction={self.prediction!r})"


def implicit_trapezoid(schedule: Schedule, times: Tensor, prediction: str = "noise", clock: str = "t", scale: str = "one") -> ImplicitTable:
    """The implicit trapezoid rule on the PF-ODE, order 2 (section 9.8.3): w_t = w_s + (h / 2) (dw/du at s + dw/du at t), w = x / scale, u the clock.

    A window of p intervals needs the model at p + 1 nodes, the end of the grid among them. Arguments and errors as ``euler``.
    """
    one_of(clock, CLOCKS, "clock"), one_of(scale, SCALES, "scale")
    nodes = Nodes(schedule, check_times(schedule, times)).list
    states = [State(j, node) for j, node in enumerate(nodes)]
    rates = [rate(Output(x, prediction), clock, scale) for x in states]
    steps = []
    for k, (x, y) in enumerate(pairwise(states)):
        s, t = x.node, y.node
        new = t.scale(scale) * (x / s.scale(scale) + (t.clock(clock) - s.clock(clock)) / 2 * (rates[k] + rates[k + 1]))
        row = {kind: {j: c for (which, j), c in new.terms.items() if which == kind} for kind in "xm"}
        steps.append(Step(s.t, t.t, row["x"], row["m"], node=k + 1))
    return ImplicitTable(f"implicit_trapezoid({clock}, {scale})", steps, nodes[0].group.times, prediction)
