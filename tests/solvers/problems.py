"""Test problems with exact answers: a 1-D mixture and a Gaussian under every schedule, with models that cost a few microseconds."""

import math

import torch

from mathcore.data import examples
from mathcore.schedules import AffineSchedule
from mathcore.solvers import V3Statistics, diagnostics, grids
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


def wavy_statistics(low, high, shape=(1,), nodes=40):
    """Statistics that belong to no model: smooth, of size one, different in each coordinate."""
    lams = torch.linspace(low, high, nodes, dtype=F64)
    phase = torch.arange(math.prod(shape), dtype=F64).reshape(shape)
    angle = lams.reshape(-1, *[1] * len(shape)) + phase
    return V3Statistics(lams, 0.4 + 0.3 * torch.sin(angle), -0.5 + 0.4 * torch.cos(1.3 * angle), 0.6 * torch.sin(0.7 * angle))


def same(got, want, tol=1e-12):
    """Equal to rounding of a few steps."""
    torch.testing.assert_close(got, want, rtol=tol, atol=tol)
