"""The exact fields of a law under an affine Gaussian corruption: what a perfectly trained diffusion model would return."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore import _quantiles
from mathcore._adaptive_flow import integrate_flow
from mathcore._components import lift
from mathcore._types import Index, Matrices, Points, Scalars, Time
from mathcore._validate import per_sample
from mathcore.distributions import Empirical, GaussianMixture
from mathcore.schedules import AffineSchedule, DiscreteSchedule


class AffineGaussianOracle:
    """A law of clean data and a schedule, x_t = alpha_t x_0 + sigma_t eps (Eq. 4.4.1), and every field that follows from the two.

    ``t`` is a number, a 0-d tensor or one time per row ``(N,)``; with a ``DiscreteSchedule`` it is an index in 0..L (0 is clean), and ``velocity``,
    ``divergence`` and ``flow_map`` are refused: a chain has no time derivative. Points ``x`` are ``(N, D)`` in the dtype and on the device of the data.

    Args:
        data: ``GaussianMixture``, or ``Empirical`` (whose fields need sigma_t > 0).
        schedule: ``AffineSchedule`` or ``DiscreteSchedule``.

    Raises:
        TypeError: arguments of other types. All methods: ``x`` not a tensor of the data's dtype.
        ValueError: all methods: wrong shape, NaN, a time outside the domain of the schedule.
    """

    def __init__(self, data: GaussianMixture | Empirical, schedule: AffineSchedule | DiscreteSchedule):
        if not isinstance(data, (GaussianMixture, Empirical)):
            raise TypeError(f"data must be a GaussianMixture or an Empirical, got {type(data).__name__}")
        if not isinstance(schedule, (AffineSchedule, DiscreteSchedule)):
            raise TypeError(f"schedule must be an AffineSchedule or a DiscreteSchedule, got {type(schedule).__name__}")
        self.data, self.schedule = data, schedule

    def __repr__(self) -> str:
        return f"AffineGaussianOracle({self.data!r}, {self.schedule!r})"

    def _scales(self, t: Time | Index) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at ``t`` in float64, of its shape."""
        if isinstance(self.schedule, AffineSchedule):
            time = self.schedule.as_time(t)
            return self.schedule.alpha(time), self.schedule.sigma(time)
        if (
            isinstance(t, bool)
            or not isinstance(t, (int, Tensor))
            or (isinstance(t, Tensor) and (t.is_floating_point() or t.dtype == torch.bool))
        ):
            raise TypeError(
                f"t must be an integer index of the discrete schedule, got {t.dtype if isinstance(t, Tensor) else type(t).__name__}"
            )
        index = torch.as_tensor(t)
        if index.ndim > 1 or bool(((index < 0) | (index > self.schedule.L)).any()):
            raise ValueError(f"t must be an index in 0..{self.schedule.L}, shared or one per row, got {t}")
        index = index.to(self.schedule.alpha_bar.device)
        return self.schedule.alpha_bar[index], self.schedule.sigma_bar[index]

    def _continuous(self, method: str) -> AffineSchedule:
        if not isinstance(self.schedule, AffineSchedule):
            raise ValueError(f"{method} needs an AffineSchedule: a discrete chain has no time derivative")
        return self.schedule

    def marginal(self, t: Float[Tensor, ""] | float | int) -> GaussianMixture:
        """Return the law p_t of x_t at one time; at sigma_t = 0 that of the data, which an ``Empirical`` refuses."""
        return self.data.corrupt(*self._scales(t))

    def log_prob(self, x: Points, t: Time | Index) -> Scalars:
        """Return log p_t(x): ``(N,)``."""
        return self.data.corrupted_log_prob(x, *self._scales(t))

    def score(self, x: Points, t: Time | Index) -> Points:
        """Return grad log p_t(x), the minimiser of the score-matching losses (Prop. 4.2.1): ``(N, D)``."""
        return self.data.corrupted_score(x, *self._scales(t))

    def clean(self, x: Points, t: Time | Index) -> Points:
        """Return E[x_0 | x_t = x], also where alpha_t = 0 and Tweedie's formula is singular: ``(N, D)``."""
        return self.data.posterior_mean(x, *self._scales(t))

    def noise(self, x: Points, t: Time | Index) -> Points:
        """Return E[eps | x_t = x] = -sigma_t score (Eq. 6.3.1): ``(N, D)``."""
        alpha, sigma = self._scales(t)
        return -per_sample(sigma, self.data.checked_points(x, "x")) * self.data.corrupted_score(x, alpha, sigma)

    def posterior_cov(self, x: Points, t: Time | Index) -> Matrices:
        """Return Cov[x_0 | x_t = x]: ``(N, D, D)``."""
        return self.data.posterior_cov(x, *self._scales(t))

    def velocity(self, x: Points, t: Time) -> Points:
        """Return the velocity of the probability-flow ODE, E[alpha' x_0 + sigma' eps | x_t = x] = f x - g^2 score / 2 (Eq. 4.1.7, Eq. 6.3.1): ``(N, D)``.

        Finite at both ends of every schedule wherever the limit is: the first form is used for sigma_t > 0, where f may be infinite, the second
        at sigma_t = 0, where sigma' may be.
        """
        to_clean, to_score, to_point = (per_sample(c, self.data.checked_points(x, "x")) for c in self._velocity_coefficients(t))
        clean, score = self.data.posterior_mean_and_score(x, *self._scales(t))
        return to_clean * clean + to_score * score + to_point * x

    def divergence(self, x: Points, t: Time) -> Scalars:
        """Return the divergence in x of ``velocity``, from second posterior moments, no differentiation: ``(N,)``."""
        column = self.data.checked_points(x, "x")[:, 0]
        clean, score, point = (per_sample(c, column) for c in self._velocity_coefficients(t))
        scales = self._scales(t)
        value = clean * self.data.posterior_mean_divergence(x, *scales) + score * self.data.corrupted_laplacian(x, *scales)
        return value + point * self.data.dim

    def _velocity_coefficients(self, t: Time) -> Tensor:
        """Return the coefficients of clean, score and x in the velocity: ``(3,)`` or ``(3, n)``, float64."""
        schedule = self._continuous("velocity")
        time = schedule.as_time(t)
        noisy = schedule.sigma(time) > 0
        if bool(noisy.all()):
            return _inside(schedule, time)
        if not bool(noisy.any()):
            return _at_clean_end(schedule, time)
        rows = torch.arange(3)[:, None]
        out = time.new_zeros(3, len(time)).index_put((rows, noisy.nonzero()[:, 0]), _inside(schedule, time[noisy]))
        return out.index_put((rows, (~noisy).nonzero()[:, 0]), _at_clean_end(schedule, time[~noisy]))

    def flow_map(self, x: Points, s: Time, t: Time) -> Points:
        """Return Psi_{s -> t}(x), the solution at ``t`` of the probability-flow ODE through ``x`` at ``s`` (Eq. 10.1.2): ``(N, D)``.

        Exact for one Gaussian in any dimension. In one dimension the flow preserves order and so matches distribution functions,
        x_t = F_t^{-1}(F_s(x_s)), solved on the log scale of the nearer tail; what remains is the conditioning of the map itself, about
        1e-16 / p_t(x_t). Both are differentiable once in all arguments. Otherwise DOP853 of scipy with relative tolerance 1e-10 per point, not differentiable.

        Raises:
            ValueError: an ``Empirical`` with sigma = 0 at either end (all mass sits in the points), or alpha = sigma = 0.
            RuntimeError: the integration failed.
        """
        schedule = self._continuous("flow_map")
        work = self.data.checked_points(x, "x").double()
        start, end = schedule.as_time(s), schedule.as_time(t)
        data = self.data.to(torch.float64)
        source = data.checked_scales(*self._scales(start), work)
        target = data.checked_scales(*self._scales(end), work)
        if isinstance(data, GaussianMixture) and data.n_components == 1:
            return _gaussian_flow(data, work, source, target).to(x.dtype)
        if data.dim == 1:
            ends = (data.components_1d(*source), data.components_1d(*target))
            return _quantiles.transport(work[:, 0], data.weights.log(), *ends).to(x.dtype)[:, None]
        return integrate_flow(AffineGaussianOracle(data, schedule).velocity, work, start, end).to(x.dtype)


def _gaussian_flow(data: GaussianMixture, x: Tensor, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
    """Return a_t mu + C_t^{1/2} C_s^{-1/2} (x - a_s mu), C = a^2 Sigma + s^2 I: all C commute, so that their roots solve the linear ODE."""
    mean, covs = data.means[0], data.covs
    values, basis = torch.linalg.eigh(covs[0]) if covs.ndim == 3 else (covs.reshape(-1), None)
    offset = x - source[0] * mean
    before, after = (lift(a, 1).square() * values + lift(s, 1).square() for a, s in (source, target))
    ratio = (after / before).sqrt()
    moved = ratio * offset if basis is None else (ratio * (offset @ basis)) @ basis.T
    return target[0] * mean + moved


def _inside(schedule: AffineSchedule, t: Tensor) -> Tensor:
    """The velocity as alpha' clean - sigma sigma' score, for sigma > 0."""
    return torch.stack([schedule.dalpha(t), -schedule.sigma(t) * schedule.dsigma(t), torch.zeros_like(t)])


def _at_clean_end(schedule: AffineSchedule, t: Tensor) -> Tensor:
    """The velocity as f x - g^2 score / 2, for sigma = 0."""
    return torch.stack([torch.zeros_like(t), -0.5 * schedule.g2(t), schedule.f(t)])
