"""Preconditioning (section D.6; Karras et al. 2022): a clean predictor made of a skip connection and a network whose input and target have unit variance.

    x_phi(x, t) = c_skip x + c_out F(c_in x, c_noise)                                                                       (Eq. D.6.1)

c_skip x is the best linear estimate of x_0, c_out its root mean square error, so that F learns only what no linear rule can. Variances are per
coordinate, of data with mean zero and standard deviation sigma_data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._types import Scalars, Time
from mathcore._validate import floating, function, like_input, one_of, per_sample, positive
from mathcore.predictions import PREDICTIONS
from mathcore.schedules import AffineSchedule, check_affine

Batch = Float[Tensor, "n *shape"]
Values = Float[Tensor, ""] | Float[Tensor, " n"]

NOISE_EMBEDDINGS = ("log_snr", "quarter_log_sigma", "angle")
"""c_noise: log(sigma / alpha); log(sigma / alpha) / 4, that of Karras et al. for alpha = 1; the angle atan(sigma / (alpha sigma_data)), finite at both ends."""


class EDMCoefficients(NamedTuple):
    """The scales of Eq. D.6.1, each of the shape of the times."""

    c_skip: Values
    c_out: Values
    c_in: Values


def edm_coefficients(schedule: AffineSchedule, t: Time, sigma_data: float | int) -> EDMCoefficients:
    """Return c_skip, c_out and c_in (Eq. D.6.4; Eq. D.6.5 for the EDM schedule), in the shape and dtype of ``t`` (float64 for a number).

    With R = alpha^2 sigma_data^2 + sigma^2: alpha sigma_data^2 / R, sigma sigma_data / sqrt(R) and 1 / sqrt(R). At sigma = 0 they are 1 / alpha, 0 and
    1 / (alpha sigma_data); at alpha = 0 they are 0, sigma_data and 1 / sigma.

    Raises:
        TypeError: no ``AffineSchedule``. ValueError: ``sigma_data`` not positive, ``t`` outside the domain.
    """
    alpha, sigma, scale = *_scales(schedule, t), positive(sigma_data, "sigma_data")
    root = torch.hypot(alpha, sigma / scale)  # sqrt(R) / sigma_data, without overflow
    out = alpha / root / root, sigma / root, 1 / (scale * root)
    return EDMCoefficients(*(c.to(t.dtype) if isinstance(t, Tensor) else c for c in out))


def edm_target(schedule: AffineSchedule, x0: Batch, eps: Batch, t: Time, sigma_data: float | int) -> Batch:
    """Return what F regresses on, (sigma x_0 - alpha sigma_data^2 eps) / (sigma_data sqrt(R)) (section D.6.1, the target of Eq. D.6.2 simplified).

    Linear in (x_0, eps): their conditional means given x_t make the optimal F, with no division by a small number.

    Raises:
        TypeError: no floating tensors, no ``AffineSchedule``. ValueError: shapes that differ, NaN, and as :func:`edm_coefficients`.
    """
    floating(x0, "x0"), floating(eps, "eps")
    if x0.ndim == 0 or x0.shape != eps.shape:
        raise ValueError(f"eps must have the shape (N, *shape) of x0, {tuple(x0.shape)}, got {tuple(eps.shape)}")
    alpha, sigma, scale = *_scales(schedule, t), positive(sigma_data, "sigma_data")
    root = torch.hypot(alpha, sigma / scale)
    return per_sample(sigma / scale / (scale * root), x0) * x0 - per_sample(alpha / root, x0) * eps


def noise_embedding(schedule: AffineSchedule, t: Time, sigma_data: float | int, name: str) -> Values:
    """Return c_noise, an increasing function of sigma / alpha, by its :data:`NOISE_EMBEDDINGS` name, in the shape and dtype of ``t``.

    Raises:
        TypeError: no ``AffineSchedule``.
        ValueError: unknown name, ``sigma_data`` not positive, ``t`` outside the domain, an infinite logarithm (``"angle"`` has none).
    """
    one_of(name, NOISE_EMBEDDINGS, "noise_embedding")
    alpha, sigma, scale = *_scales(schedule, t), positive(sigma_data, "sigma_data")
    if name == "angle":
        value = torch.atan2(sigma, alpha * scale)
    elif not bool(((alpha > 0) & (sigma > 0)).all()):
        raise ValueError(f"{name} is infinite where alpha or sigma is zero, at t={t}; the noise embedding 'angle' is finite there")
    else:
        value = -schedule.half_log_snr(schedule.as_time(t)) * (0.25 if name == "quarter_log_sigma" else 1.0)
    return value.to(t.dtype) if isinstance(t, Tensor) else value


def estimate_sigma_data(x: Batch) -> float:
    """Return sigma_data of a data set ``(N, *shape)``: the root of the variance averaged over coordinates, each about its own mean.

    Raises:
        TypeError: no floating tensor. ValueError: fewer than two points, NaN, or no variance.
    """
    floating(x, "x")
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"x must be at least two points (N, *shape), got shape {tuple(x.shape)}")
    return positive(float(x.double().var(0).mean().sqrt()), "the standard deviation of x")


class Preconditioned(nn.Module):
    """The clean predictor of Eq. D.6.1: a model ``(x, t) -> E[x_0 | x_t = x]`` around a raw network.

    Args:
        network: ``network(c_in x, c_noise) -> `` like ``x``, with ``c_noise: (N,)`` in the dtype of ``x``; a module's weights become part of this one.
        schedule: of the corruption.
        sigma_data: standard deviation of the data, per coordinate.
        noise_embedding: what the network is told of the noise level, among :data:`NOISE_EMBEDDINGS`.

    Raises:
        TypeError: ``network`` no function, no ``AffineSchedule``. ValueError: ``sigma_data`` not positive, unknown embedding.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        schedule: AffineSchedule,
        sigma_data: float | int,
        noise_embedding: str = "log_snr",
    ) -> None:
        super().__init__()
        function(network, "network")
        check_affine(schedule)
        self.network, self.schedule = network, schedule
        self.sigma_data = positive(sigma_data, "sigma_data")
        self.noise_embedding = one_of(noise_embedding, NOISE_EMBEDDINGS, "noise_embedding")

    def coefficients(self, t: Time) -> EDMCoefficients:
        """Return c_skip, c_out and c_in at ``t``; see :func:`edm_coefficients`."""
        return edm_coefficients(self.schedule, t, self.sigma_data)

    def residual(self, x: Batch, t: Time) -> Batch:
        """Return F(c_in x, c_noise): ``(N, *shape)``.

        Raises:
            TypeError, ValueError: a bad ``x`` or ``t``, an answer of the network of another kind or shape, an infinite noise embedding.
        """
        column = floating(x, "x").reshape(len(x), -1)[:, 0]
        c_noise = noise_embedding(self.schedule, self._label(t, column), self.sigma_data, self.noise_embedding)
        c_in = self.coefficients(self.schedule.as_time(self._label(t, column))).c_in
        return like_input(self.network(per_sample(c_in, x) * x, c_noise.to(x.dtype)), x, "network")

    def forward(self, x: Batch, t: Time) -> Batch:
        """Return the predicted clean points. Rows with sigma_t = 0 are x / alpha_t exactly, and the network is not asked about them.

        Raises: as :meth:`residual`.
        """
        floating(x, "x")
        time = self._label(t, x.reshape(len(x), -1)[:, 0])
        noisy = self.schedule.sigma(time) > 0
        if bool(noisy.all()):
            return self._mix(x, time, self.residual(x, time))
        out = x / per_sample(self.schedule.alpha(time), x)
        if not bool(noisy.any()):
            return out
        rows = noisy.nonzero()[:, 0]
        return out.index_copy(0, rows, self._mix(x[rows], time[rows], self.residual(x[rows], time[rows])))

    def predict(self, x: Batch, t: Time, prediction: str) -> Batch:
        """Return any of the four predictions, formed from F directly: nothing cancels at low noise, as it would when the clean one is converted.

        noise = sigma / R x - alpha sigma_data / sqrt(R) F.

        Raises:
            TypeError, ValueError: as :meth:`residual`; ValueError where sigma = 0 for all but the clean prediction, or an infinite alpha' or sigma'.
        """
        if one_of(prediction, PREDICTIONS, "prediction") == "clean":
            return self(x, t)
        time = self.schedule.as_time(self._label(t, floating(x, "x").reshape(len(x), -1)[:, 0]))
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        if not bool((sigma > 0).all()):
            raise ValueError(f"the {prediction} prediction does not exist where sigma is zero, at t={t}")
        root = torch.hypot(alpha, sigma / self.sigma_data)
        raw = self.residual(x, t)
        noise = per_sample(sigma / self.sigma_data**2 / root / root, x) * x - per_sample(alpha / root, x) * raw
        if prediction == "noise":
            return noise
        if prediction == "score":
            return -noise / per_sample(sigma, x)
        return per_sample(self.schedule.dalpha(time), x) * self._mix(x, time, raw) + per_sample(self.schedule.dsigma(time), x) * noise

    def target(self, x0: Batch, eps: Batch, t: Time) -> Batch:
        """Return the regression target of F; see :func:`edm_target`."""
        return edm_target(self.schedule, x0, eps, t, self.sigma_data)

    def loss_terms(self, x0: Batch, eps: Batch, t: Time) -> Scalars:
        """Return |F - target|^2 for each row, summed over ``shape``: ``(N,)``.

        The loss of Eq. D.6.2 with the weight omega = 1 / c_out^2 on the clean loss, written so that nothing is 0 / 0 at sigma = 0 (where the noise embedding
        must be finite). For F = 0 its mean is 1 per coordinate at every noise level.

        Raises: as :func:`edm_target` and :meth:`residual`.
        """
        target = self.target(x0, eps, self._label(t, x0.reshape(len(x0), -1)[:, 0]))
        time = self.schedule.as_time(self._label(t, x0.reshape(len(x0), -1)[:, 0]))
        x_t = per_sample(self.schedule.alpha(time), x0) * x0 + per_sample(self.schedule.sigma(time), x0) * eps
        return (self.residual(x_t, t) - target).reshape(len(x0), -1).square().sum(1)

    def _mix(self, x: Tensor, time: Tensor, raw: Tensor) -> Tensor:
        c_skip, c_out, _ = self.coefficients(self.schedule.as_time(time))
        return per_sample(c_skip, x) * x + per_sample(c_out, x) * raw

    def _label(self, t: Any, column: Tensor) -> Tensor:
        """``t`` as ``(N,)`` in the dtype of the data: the network and the coefficients see the same time."""
        return per_sample(t, column).expand(len(column))


def _scales(schedule: AffineSchedule, t: Time) -> tuple[Tensor, Tensor]:
    """Alpha and sigma at ``t``, float64 of its shape."""
    check_affine(schedule)
    time = schedule.as_time(t)
    return schedule.alpha(time), schedule.sigma(time)
