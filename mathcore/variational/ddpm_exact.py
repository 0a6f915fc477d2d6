"""What a DDPM sampler does when its network is perfect, without sampling noise: Gaussian chains, 1-D laws on a grid, kernel errors."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating, one_of, positive
from mathcore.discrete_schedule import DiscreteSchedule
from mathcore.distributions import GaussianMixture
from mathcore.variational.ddpm import VARIANCES

Levels = Float[Tensor, " levels"]


@dataclass(frozen=True)
class GaussianChain:
    """A 1-D reverse chain x_{i-1} | x_i ~ N(slope[i] x_i + offset[i], var[i]), i = 1..L, started from x_L ~ N(0, 1).

    Tables have length L + 1; index 0 is not used. ``var[1]`` is the decoder variance of the reconstruction term.
    """

    schedule: DiscreteSchedule
    slope: Levels
    offset: Levels
    var: Levels

    @classmethod
    def oracle(
        cls, mean: float, var: float, schedule: DiscreteSchedule, variance: str = "posterior", final_var: float | None = None
    ) -> "GaussianChain":
        """The chain with the exact reverse means for data N(mean, var).

        Args:
            mean, var: of the data. variance: ``posterior``, ``beta`` or ``oracle`` (exact), as in `ddpm_sample`.
            final_var: variance of the last step x_0 | x_1; by default 0, and the exact one for ``oracle``.

        Raises:
            ValueError: unknown name, ``var`` not positive, ``final_var`` negative.
        """
        one_of(variance, VARIANCES, "variance")
        if final_var is not None and not final_var >= 0:
            raise ValueError(f"final_var must not be negative, got {final_var}")
        v = schedule.alpha_bar**2 * positive(var, "var") + schedule.sigma_bar**2  # variance of x_i
        m = schedule.alpha_bar * mean
        slope, offset, reverse = (torch.zeros_like(v) for _ in range(3))
        slope[1:] = schedule.alpha_step[1:] * v[:-1] / v[1:]
        offset[1:] = m[:-1] - slope[1:] * m[1:]
        steps = torch.arange(1, schedule.L + 1)
        exact = v[:-1] * schedule.beta_var[1:] / v[1:]
        reverse[1:] = {"posterior": schedule.posterior_var(steps), "beta": schedule.beta_var[1:], "oracle": exact}[variance]
        if final_var is not None:
            reverse[1] = final_var
        elif variance != "oracle":
            reverse[1] = 0.0
        return cls(schedule, slope, offset, reverse)

    def law(self) -> tuple[Levels, Levels]:
        """Means and variances of x_0..x_L under the reverse chain; entry 0 is what the sampler produces."""
        means, variances = [0.0], [1.0]
        for i in range(self.schedule.L, 0, -1):
            means.append(float(self.slope[i]) * means[-1] + float(self.offset[i]))
            variances.append(float(self.slope[i]) ** 2 * variances[-1] + float(self.var[i]))
        return torch.tensor(means[::-1], dtype=torch.float64), torch.tensor(variances[::-1], dtype=torch.float64)

    def log_prob(self, x0: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Exact log p_phi(x_0)."""
        mean, var = (table[0] for table in self.law())
        return -0.5 * ((floating(x0, "x0", ndim=1) - mean).square() / var + torch.log(2 * math.pi * var))

    def joint(self) -> tuple[Levels, Float[Tensor, "levels levels"]]:
        """Mean and covariance of (x_0, ..., x_L) under the reverse chain."""
        means, variances = self.law()
        cov = torch.diag(variances)
        for i in range(self.schedule.L, 0, -1):  # cov(x_{i-1}, x_j) = slope_i cov(x_i, x_j) for j >= i
            cov[i - 1, i:] = self.slope[i] * cov[i, i:]
            cov[i:, i - 1] = cov[i - 1, i:]
        return means, cov

    def elbo_terms(self, x0: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Eq. 2.2.13 in closed form: ``prior (n,)``, ``recon (n,)``, ``diffusion (n, L - 1)`` with column k for i = k + 2.

        Raises:
            ValueError: a reverse variance is zero (pass ``final_var``), so that the bound is infinite.
        """
        floating(x0, "x0", ndim=1)
        if not bool((self.var[1:] > 0).all()):
            raise ValueError("every reverse variance must be positive for a bound; give final_var, the decoder variance at i = 1")
        s, steps = self.schedule, torch.arange(2, self.schedule.L + 1)
        x = x0[:, None]
        coef_x0, coef_xi = s.posterior_coefficients(steps)
        slope = self.slope[2:] - coef_xi  # gap of the means = slope x_i + offset - coef_x0 x_0, with x_i given x_0 Gaussian
        gap = slope * s.alpha_bar[2:] * x + self.offset[2:] - coef_x0 * x
        spread = slope**2 * s.sigma_bar[2:] ** 2
        q_var, p_var = s.posterior_var(steps), self.var[2:]
        error = self.slope[1] * s.alpha_bar[1] * x0 + self.offset[1] - x0
        recon = (error**2 + self.slope[1] ** 2 * s.sigma_bar[1] ** 2) / self.var[1] + torch.log(2 * math.pi * self.var[1])
        signal = s.alpha_bar[-1] ** 2
        return {
            "prior": 0.5 * (signal * x0**2 - signal - torch.log(s.sigma_bar[-1] ** 2)),
            "recon": 0.5 * recon,
            "diffusion": 0.5 * ((gap**2 + spread + q_var) / p_var - 1 - torch.log(q_var / p_var)),
        }


def ddpm_gaussian_recursion(
    mean: float, var: float, schedule: DiscreteSchedule, variance: str = "posterior", final_var: float | None = None
) -> tuple[Levels, Levels]:
    """Means and variances (index 0: output) of the DDPM sampler with exact means on data N(mean, var); see `GaussianChain.oracle`."""
    return GaussianChain.oracle(mean, var, schedule, variance, final_var).law()


def forward_joint(mean: float, var: float, schedule: DiscreteSchedule) -> tuple[Levels, Float[Tensor, "levels levels"]]:
    """Mean and covariance of (x_0, ..., x_L) under the forward chain for data N(mean, var): cov(x_i, x_j) = (abar_j / abar_i) v_i, i <= j."""
    v = schedule.alpha_bar**2 * positive(var, "var") + schedule.sigma_bar**2
    upper = torch.triu((v / schedule.alpha_bar)[:, None] * schedule.alpha_bar)
    return schedule.alpha_bar * mean, upper + torch.triu(upper, 1).T


def sampler_law(
    data: GaussianMixture, schedule: DiscreteSchedule, variance: str = "posterior", half_width: float = 8.0, n_grid: int = 4096
) -> tuple[Float[Tensor, " g"], Float[Tensor, " g"]]:
    """Density of the output of the DDPM sampler with exact means on 1-D data, on a uniform grid of [-half_width, half_width).

    Each step pushes the density through the mean, which increases in x, and convolves it with a Gaussian in Fourier space.

    Args:
        data: 1-D mixture. variance: ``posterior`` or ``beta``, without noise at i = 1. half_width, n_grid: of the periodic grid.

    Raises:
        ValueError: data not 1-D, unknown variance, or a grid that lost mass (too narrow or too coarse).
    """
    from scipy.interpolate import CubicSpline

    one_of(variance, ("posterior", "beta"), "variance")
    if data.dim != 1:
        raise ValueError(f"data must be 1-D, got dimension {data.dim}")
    step = 2 * positive(half_width, "half_width") / n_grid
    x = -half_width + step * torch.arange(n_grid, dtype=torch.float64)
    frequency = 2 * math.pi * torch.fft.rfftfreq(n_grid, step, dtype=torch.float64)
    density = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    for i in range(schedule.L, 0, -1):
        a, s = float(schedule.alpha_bar[i]), float(schedule.sigma_bar[i])
        coef_x0, coef_xi = schedule.posterior_coefficients(i)
        mean = coef_x0 * data.posterior_mean(x[:, None], a, s)[:, 0] + coef_xi * x
        slope = coef_x0 * data.posterior_mean_divergence(x[:, None], a, s) + coef_xi  # derivative of the line above
        spline = CubicSpline(mean.numpy(), (density / slope).numpy(), extrapolate=False)
        density = torch.nan_to_num(torch.from_numpy(spline(x.numpy())), nan=0.0)  # NaN outside the image: no mass there
        if i > 1:
            var = schedule.posterior_var(i) if variance == "posterior" else schedule.beta_var[i]
            density = torch.fft.irfft(torch.fft.rfft(density) * torch.exp(-0.5 * var * frequency**2), n_grid)
    mass = float(density.sum() * step)
    if abs(mass - 1) > 1e-6:
        raise ValueError(f"the grid lost mass (total {mass:.8f}): enlarge half_width={half_width} or n_grid={n_grid}")
    return x, density


def sampler_w1(
    data: GaussianMixture, schedule: DiscreteSchedule, variance: str = "posterior", half_width: float = 8.0, n_grid: int = 4096
) -> float:
    """Wasserstein-1 distance between the sampler's law and the data (1-D): the integral of |F_sampler - F_data|. Arguments: `sampler_law`."""
    x, density = sampler_law(data, schedule, variance, half_width, n_grid)
    step = x[1] - x[0]
    cdf = (density.cumsum(0) - 0.5 * density) * step  # trapezoidal
    return float((cdf - data.cdf(x[:, None])).abs().sum() * step)


class KernelError(NamedTuple):
    """Averaged KL of the true reverse kernel to two Gaussians with the true mean."""

    matched: float
    """variance matched at each x_i: sixth order in beta."""
    fixed: float
    """variance sigma^2(i) of Eq. 2.2.5: fourth order in beta."""


def reverse_kernel_error(
    data: GaussianMixture, alpha_bar_prev: float, beta_std: float, n_outer: int = 401, n_inner: int = 401
) -> KernelError:
    """E over x_i of KL(p(x_{i-1} | x_i) || Gaussian) for 1-D data, by trapezoidal quadrature (section 2.2.6).

    Args:
        data: 1-D mixture. alpha_bar_prev: signal left before the step, in (0, 1). beta_std: noise of the step, in (0, 1).
        n_outer, n_inner: nodes in x_i and in x_{i-1}.

    Raises:
        ValueError: data not 1-D, or a coefficient outside (0, 1).
    """
    if data.dim != 1:
        raise ValueError(f"data must be 1-D, got dimension {data.dim}")
    for value, name in ((alpha_bar_prev, "alpha_bar_prev"), (beta_std, "beta_std")):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be strictly between 0 and 1, got {value}")
    alpha = math.sqrt(1 - beta_std**2)
    previous = data.corrupt(alpha_bar_prev, math.sqrt(1 - alpha_bar_prev**2))
    level = previous.corrupt(alpha, beta_std)
    reach = 9 * level.covariances.max().sqrt() + level.means.abs().max()
    x = torch.linspace(-1, 1, n_outer, dtype=torch.float64)[:, None] * reach  # (A, 1)
    kernel = previous.posterior(x, alpha, beta_std)
    mean, var = kernel.mean()[:, 0], kernel.cov()[:, 0, 0]
    u = torch.linspace(-10, 10, n_inner, dtype=torch.float64)  # x_{i-1} in standard deviations around its mean
    y = mean[:, None] + var.sqrt()[:, None] * u  # (A, B)
    log_true = previous.posterior(x.repeat_interleave(n_inner, 0), alpha, beta_std).log_prob(y.reshape(-1, 1)).reshape(y.shape)
    fixed = (1 - alpha_bar_prev**2) / (1 - (alpha * alpha_bar_prev) ** 2) * beta_std**2
    weights = level.prob(x) * (x[1, 0] - x[0, 0])

    def average(gaussian_var: Tensor) -> float:
        log_gaussian = -0.5 * ((y - mean[:, None]) ** 2 / gaussian_var + torch.log(2 * math.pi * gaussian_var))
        kl = (log_true.exp() * (log_true - log_gaussian)).sum(1) * (u[1] - u[0]) * var.sqrt()
        return float(weights @ kl)

    return KernelError(average(var[:, None]), average(torch.tensor(fixed, dtype=torch.float64)))
