"""What the samplers converge to: the probability-flow ODE of any model, solved by scipy to a tolerance.

For mixtures in one dimension and Gaussians ``AffineGaussianOracle.flow_map`` is exact and to be preferred; a guided or trained model has no such form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mathcore._validate import floating, one_of, positive
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule
from mathcore.solvers import grids
from mathcore.solvers.table import Model


@dataclass(frozen=True)
class Reference:
    """The settings of :func:`reference`, to be run with a model."""

    schedule: AffineSchedule
    t_start: float
    t_end: float
    prediction: str
    rtol: float

    def run(self, model: Model, x_T: Tensor) -> Tensor:
        """The state at ``t_end`` of the solution through ``x_T (N, *shape)`` at ``t_start``, in the dtype of ``x_T``; the model is asked in float64.

        Raises:
            TypeError, ValueError: as ``SolverTable.run`` for ``x_T`` and for what the model returns.
            RuntimeError: the integration failed.
        """
        return self.trajectory(model, x_T, [self.t_end])[0]

    def trajectory(self, model: Model, x_T: Tensor, times: Tensor | Sequence[float]) -> Tensor:
        """The solution at decreasing ``times`` between the two ends, ``(len(times), N, *shape)``; between steps by DOP853's own interpolation."""
        from scipy.integrate import solve_ivp

        if floating(x_T, "x_T").ndim == 0 or x_T.numel() == 0:
            raise ValueError(f"x_T must have shape (N, *shape) with at least one sample, got {tuple(x_T.shape)}")
        at = torch.as_tensor(times, dtype=torch.float64)
        if at.ndim != 1 or not bool(((at >= self.t_end) & (at <= self.t_start)).all()) or not bool((at[1:] < at[:-1]).all()):
            raise ValueError(f"times must decrease strictly within [{self.t_end}, {self.t_start}], got {at.tolist()}")
        start, end = (float(self.schedule.half_log_snr(t)) for t in (self.t_start, self.t_end))
        lams = self.schedule.half_log_snr(at).clamp(start, end).tolist()  # a vector rounds its ends differently

        def rate(lam: float, y: object) -> object:
            # d(x / alpha) / d lambda = -e^{-lambda} eps; rounding of the inverse must not leave the domain of the schedule
            t = float(self.schedule.inverse_half_log_snr(lam).clamp(self.t_end, self.t_start))
            x = torch.as_tensor(y, device=x_T.device).reshape(x_T.shape) * float(self.schedule.alpha(t))
            eps = convert_prediction(model(x, t), x, t, self.schedule, self.prediction, "noise")
            return (-math.exp(-lam) * eps).flatten().cpu().numpy()

        y_T = x_T.double() / float(self.schedule.alpha(self.t_start))
        # scipy controls the root mean square over all coordinates: tighten it so that the bound holds for each
        rtol = max(self.rtol / math.sqrt(x_T.numel()), 3e-14)
        with torch.no_grad():
            result = solve_ivp(rate, (start, end), y_T.flatten().cpu().numpy(), method="DOP853", t_eval=lams, rtol=rtol, atol=0.1 * rtol)
        if not result.success:
            raise RuntimeError(f"the ODE from t={self.t_start} to {self.t_end} could not be integrated: {result.message}")
        states = torch.as_tensor(result.y.T, device=x_T.device).reshape(len(at), *x_T.shape)
        return (states * self.schedule.alpha(at).to(states).reshape(-1, *[1] * x_T.ndim)).to(x_T.dtype)


def reference(
    schedule: AffineSchedule,
    t_start: float | None = None,
    t_end: float | None = None,
    prediction: str = "noise",
    rtol: float | int = 1e-11,
) -> Reference:
    """The probability-flow ODE by DOP853 on d(x / alpha) / d lambda = -e^{-lambda} eps, for states of any shape.

    Args:
        schedule: continuous. t_start, t_end: with finite half-log-SNR, see :func:`grids.ends`. prediction: what the model returns.
        rtol: relative tolerance per coordinate (the absolute one is a tenth of it), from 3e-14 to 1e-2.

    Raises:
        TypeError: a ``DiscreteSchedule``: an ODE needs the times between its indices.
        ValueError: unknown prediction, ends in the wrong order or singular, tolerance not in range.
    """
    start, end = grids.uniform_lambda(schedule, 1, t_start, t_end).tolist()
    if not 3e-14 <= positive(rtol, "rtol") <= 1e-2:
        raise ValueError(f"rtol must lie in [3e-14, 1e-2], got {rtol}")
    return Reference(schedule, start, end, one_of(prediction, PREDICTIONS, "prediction"), float(rtol))
