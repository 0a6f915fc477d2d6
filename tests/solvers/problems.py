"""Test problems with exact answers: a 1-D mixture and a Gaussian under every schedule, with models that cost a few microseconds."""

import torch

from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import diagnostics, grids
from mathcore.solvers.diagnostics import CallCounter

F64 = torch.float64
SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "cosine": AffineSchedule.cosine(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "sub_vp": AffineSchedule.sub_vp(),
}
MIXTURE = examples.solver_mixture()
KINDS = ("noise", "clean", "score", "velocity")


class Problem(diagnostics.Problem):
    """The mixture (or another law) on the middle of a schedule: half-log-SNR -2 to 1.5, four start points, exact end points."""

    def __init__(self, name, mixture=MIXTURE, low=-2.0, high=1.5):
        schedule = SCHEDULES[name]
        super().__init__(mixture, schedule, *(float(schedule.inverse_half_log_snr(v)) for v in (low, high)))
        self.x, self.mixture = self.x_T, mixture

    def model(self, kind="noise"):
        return CallCounter(super().model(kind))

    def errors(self, method, counts, kind="noise", spacing=grids.uniform_lambda):
        return super().errors(lambda times: method(self.schedule, times, kind), counts, spacing)
