"""Test problems with exact answers: a 1-D mixture and a Gaussian under every schedule, with models that cost a few microseconds."""

import math

import numpy as np
import torch

from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids

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
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[-1.2], [0.8]], dtype=F64), torch.tensor([0.16, 0.0625], dtype=F64)
)
KINDS = ("noise", "clean", "score", "velocity")


class Model:
    """The exact prediction for a 1-D mixture, by Bayes over its components; scales are looked up once per time. Counts its calls."""

    def __init__(self, mixture, schedule, kind="noise"):
        self.schedule, self.kind, self.calls, self.times, self._scales = schedule, kind, 0, [], {}
        self.weights, self.means = mixture.weights, mixture.means[:, 0]
        self.variances = mixture.covariances[:, 0, 0]

    def scales(self, t):
        if t not in self._scales:
            names = ("alpha", "sigma", "dalpha", "dsigma") if self.kind == "velocity" else ("alpha", "sigma")
            a, s, *rates = (float(getattr(self.schedule, name)(t)) for name in names)
            v = a * a * self.variances + s * s
            self._scales[t] = a, s, rates, v, self.weights.log() - v.log() / 2
        return self._scales[t]

    def __call__(self, x, t):
        self.calls += 1
        self.times.append(t)
        a, s, rates, v, prior = self.scales(t)
        offset = x - a * self.means  # (N, 1) - (K,)
        p = torch.softmax(prior - offset**2 / (2 * v), 1)
        noise = s * (p * offset / v).sum(1, keepdim=True)
        if self.kind == "noise":
            return noise
        if self.kind == "score":
            return -noise / s
        clean = (p * (self.means + a * self.variances / v * offset)).sum(1, keepdim=True)
        return clean if self.kind == "clean" else rates[0] * clean + rates[1] * noise


class Problem:
    """The mixture (or another law) on the middle of a schedule: half-log-SNR -2 to 1.5, four start points, exact end points."""

    def __init__(self, name, mixture=MIXTURE, low=-2.0, high=1.5):
        self.schedule, self.mixture = SCHEDULES[name], mixture
        self.t_start, self.t_end = (float(self.schedule.inverse_half_log_snr(v)) for v in (low, high))
        size = math.hypot(float(self.schedule.alpha(self.t_start)), float(self.schedule.sigma(self.t_start)))
        self.x = torch.tensor([[-1.3], [-0.2], [0.4], [1.7]], dtype=F64) * size
        self.exact = AffineGaussianOracle(mixture, self.schedule).flow_map(self.x, self.t_start, self.t_end)

    def grid(self, n, spacing=grids.uniform_lambda):
        return spacing(self.schedule, n, t_start=self.t_start, t_end=self.t_end)

    def model(self, kind="noise"):
        return Model(self.mixture, self.schedule, kind)

    def errors(self, method, counts, kind="noise", spacing=grids.uniform_lambda):
        model = self.model(kind)
        return [
            float((method(self.schedule, self.grid(n, spacing), kind).run(model, self.x) - self.exact).square().mean().sqrt())
            for n in counts
        ]


def slope(counts, errors):
    """Convergence order: minus the least-squares slope of log error against log steps."""
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def linear_model(schedule, data_std):
    """The exact noise prediction for N(0, data_std^2): linear in x, so a sampler is a linear map of its start and its noises."""

    def model(x, t):
        a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
        return s / (a * a * data_std**2 + s * s) * x

    return model


def exact_variance(table, model, start_var):
    """Variance of what a linear sampler makes, without sampling: row 0 of the batch carries the start, row k + 1 the noise of step k."""
    n = len(table.steps)
    start = torch.zeros(n + 1, 1, dtype=F64)
    start[0] = math.sqrt(start_var)

    def unit(k):
        z = torch.zeros(n + 1, 1, dtype=F64)
        z[k + 1] = 1.0
        return z

    return float(table.run(model, start, noise=unit).square().sum())
