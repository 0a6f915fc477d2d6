"""Gravity in space-time: the one isotropic field of a point source at t = 0, its marginal over data, and samplers (Xu et al. 2022, Poisson flow).

The Green function of the space-time divergence, u = (p_t, f_t p_t) with div u = 0 for t > 0 and all mass at x_0 when t = 0, among fields along the
line through the source is

    G = C (t, x - x_0) / (t^2 + |x - x_0|^2)^{(D+1)/2},      C = Gamma((D+1)/2) pi^{-(D+1)/2},

so p_t(x | x_0) is a multivariate Cauchy law of scale t and f_t(x | x_0) = (x - x_0) / t. Data at t = 0; all weights in logarithms.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars, Time
from mathcore._validate import count, floating, positive
from mathcore.flows.construction._superposition import blocks, checked_data, log_mass, positive_time

Data = Float[Tensor, "k d"]
Weights = Float[Tensor, " k"] | None


def log_constant(dim: int) -> float:
    """Return log C, C = Gamma((D+1)/2) pi^{-(D+1)/2}: the constant that gives the kernel mass one.

    Raises:
        ValueError: ``dim`` not a positive integer.
    """
    half = (count(dim, "dim") + 1) / 2
    return math.lgamma(half) - half * math.log(math.pi)


def poisson_field(x: Points, t: Time, data: Data, weights: Weights = None, normalized: bool = False) -> Float[Tensor, "n d+1"]:
    """Return the field u = C sum_k w_k (t, x - x_k) / R_k^{D+1} of point sources in space-time: ``(N, D + 1)``, time component first.

    The time component is the density p_t(x), the others f_t(x) p_t(x).

    Args:
        x: ``(N, D)``. t: positive. data: ``(K, D)``. weights: positive, any sum; None for equal ones.
        normalized: return u / |u| instead, which is a bounded target for a network and has the same field lines; exact also where u itself is smaller
            or larger than any float.

    Raises:
        TypeError: not floating tensors of one dtype.
        ValueError: t not positive, shapes that do not fit, NaN, weights not positive; without ``normalized`` also a field out of the range of the dtype.
    """
    log_density, velocity = _superposed(x, t, data, weights)
    direction = torch.cat([torch.ones_like(velocity[:, :1]), velocity], dim=1)
    if normalized:
        return direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    field = log_density.exp()[:, None] * direction
    if not bool(torch.isfinite(field).all() and (field[:, 0] > 0).all()):
        raise ValueError(f"the field leaves the range of {x.dtype} in dimension {x.shape[1]}; ask for normalized=True")
    return field


def poisson_velocity(x: Points, t: Time, data: Data, weights: Weights = None) -> Points:
    """Return f_t(x) = (x - E[x_0 | x_t = x]) / t, the ratio of the components of :func:`poisson_field`: ``(N, D)``.

    Raises:
        TypeError, ValueError: as :func:`poisson_field`.
    """
    return _superposed(x, t, data, weights)[1]


def poisson_clean(x: Points, t: Time, data: Data, weights: Weights = None) -> Points:
    """Return E[x_0 | x_t = x], the mean of the data under the Cauchy posterior w_k R_k^{-(D+1)}: ``(N, D)``.

    What a network should predict: the velocity target (x_t - x_0) / t has no mean, x_0 has.

    Raises:
        TypeError, ValueError: as :func:`poisson_field`.
    """
    return torch.cat([posterior @ data for posterior, *_ in _posteriors(x, t, data, weights)])


def poisson_log_prob(x: Points, t: Time, data: Data, weights: Weights = None) -> Scalars:
    """Return log p_t(x), the logarithm of the time component of :func:`poisson_field`, for any size: ``(N,)``.

    Raises:
        TypeError, ValueError: as :func:`poisson_field`.
    """
    return _superposed(x, t, data, weights)[0]


def poisson_perturb(x0: Points, t: Time, generator: torch.Generator | None = None) -> Points:
    """Draw x_t = x_0 + t eps / |eps'| with *independent* normals of dimension D and 1, one draw per row: exact given t.

    |eps| / |eps'| has the radius law of the kernel whatever t is; in :func:`pfgm_perturb` eps' is t itself.

    Raises:
        TypeError: ``x0`` no floating tensor. ValueError: not ``(N, D)``, NaN, t not positive.
    """
    floating(x0, "x0", ndim=2)
    time = positive_time(t, x0)
    return x0 + time * MultivariateCauchy(x0.shape[1], 1.0).sample(len(x0), generator, x0.dtype, x0.device)


def pfgm_perturb(x0: Points, sigma: float, tau: float, M: float, generator: torch.Generator | None = None) -> tuple[Points, Scalars]:
    """Draw (x_t, t) as the Poisson-flow paper does: x_t = x_0 + |eps_x| (1 + tau)^m u, t = |eps_t| (1 + tau)^m, m uniform on [0, M].

    ``(eps_x, eps_t) ~ N(0, sigma^2 I_{D+1})``, u uniform on the sphere. The ratio |x_t - x_0| / t has the radius law of the kernel, but only over all t
    at once: *given* t the law of x_t is the kernel's only well inside the range of the scales (see :func:`conditional_radius_gap`).

    Returns:
        ``x_t (N, D)`` and ``t (N,)``.

    Raises:
        TypeError: ``x0`` no floating tensor. ValueError: not ``(N, D)``, NaN, ``sigma``, ``tau`` or ``M`` not positive.
    """
    floating(x0, "x0", ndim=2)
    spread, growth, top = positive(sigma, "sigma"), positive(tau, "tau"), positive(M, "M")
    m = top * torch.rand(len(x0), generator=generator, dtype=x0.dtype, device=x0.device)
    scale = spread * torch.exp(math.log1p(growth) * m)
    # |eps_x| u is again a normal vector: its direction is uniform and independent of its length
    noise = torch.randn(len(x0), x0.shape[1] + 1, generator=generator, dtype=x0.dtype, device=x0.device)
    return x0 + scale[:, None] * noise[:, 1:], scale * noise[:, 0].abs()


def conditional_radius_gap(t: float, sigma: float, tau: float, M: float, dim: int, nodes: int = 400) -> float:
    """Return sup_r |P(|x_t - x_0| <= r | t) - P_Cauchy(r)| for :func:`pfgm_perturb`, by quadrature over its scale.

    Given t the scale s in [sigma, sigma (1 + tau)^M] has density proportional to s^{-2} e^{-t^2 / 2 s^2}, and given s and t, x_t - x_0 ~ N(0, s^2 I).

    Raises:
        ValueError: a number not positive, ``dim`` or ``nodes`` not a positive integer.
    """
    import numpy as np
    from scipy.special import betainc, gammainc, logsumexp

    time, low, d = positive(t, "t"), positive(sigma, "sigma"), count(dim, "dim")
    high = low * math.exp(math.log1p(positive(tau, "tau")) * positive(M, "M"))
    x, w = np.polynomial.legendre.leggauss(count(nodes, "nodes"))
    log_s = math.log(low) + (x + 1) / 2 * math.log(high / low)
    log_weight = np.log(w) - log_s - time**2 / 2 * np.exp(-2 * log_s)
    weight = np.exp(log_weight - logsumexp(log_weight))
    r = np.geomspace(1e-3 * min(time, low), 1e3 * max(time, high), 2000)
    given_t = np.array([weight @ gammainc(d / 2, r_i**2 / 2 * np.exp(-2 * log_s)) for r_i in r])
    return float(np.abs(given_t - betainc(d / 2, 0.5, r**2 / (r**2 + time**2))).max())


class MultivariateCauchy:
    """The Cauchy law on R^D, density C s / (s^2 + |x|^2)^{(D+1)/2}: the kernel of Poisson flow at t = s, and its prior at a large time T.

    Student's law with one degree of freedom: no mean, no variance.

    Args:
        dim: D. scale: s.

    Raises:
        ValueError: ``dim`` not a positive integer, ``scale`` not positive.
    """

    def __init__(self, dim: int, scale: float | int):
        self.dim = count(dim, "dim")
        self.scale = positive(scale, "scale")

    def __repr__(self) -> str:
        return f"MultivariateCauchy(dim={self.dim}, scale={self.scale})"

    def log_prob(self, x: Points) -> Scalars:
        """Return the log-density: ``(N,)``.

        Raises:
            TypeError: ``x`` no floating tensor. ValueError: not ``(N, D)``, NaN.
        """
        ratio = floating(x, "x", ndim=2, dim=self.dim) / self.scale
        shape = (self.dim + 1) / 2 * torch.log1p(ratio.square().sum(1))
        return log_constant(self.dim) - self.dim * math.log(self.scale) - shape

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Points:
        """Return ``n`` independent draws: ``(n, D)``.

        Raises:
            ValueError: ``n`` not a positive integer.
        """
        # in float64 whatever the dtype: in float32 the normal below is exactly zero once in some ten million draws
        normal = torch.randn(count(n, "n"), self.dim + 1, generator=generator, dtype=torch.float64, device=device)
        return (self.scale * normal[:, 1:] / normal[:, :1].abs()).to(dtype)

    def radial_cdf(self, r: Scalars) -> Scalars:
        """Return P(|x| <= r), the law of a Beta(D/2, 1/2) variable at r^2 / (s^2 + r^2): ``(n,)``, not differentiable.

        Raises:
            TypeError: ``r`` no floating tensor. ValueError: not ``(n,)``, NaN, negative.
        """
        from scipy.special import betainc

        if not bool((floating(r, "r", ndim=1) >= 0).all()):
            raise ValueError(f"r must not be negative, got {float(r.min())}")
        u = r.detach().cpu().double() / self.scale
        return torch.as_tensor(betainc(self.dim / 2, 0.5, (u**2 / (1 + u**2)).numpy())).to(r)


def _superposed(x: Tensor, t: Time, data: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return log p_t(x) ``(N,)`` and f_t(x) ``(N, D)``."""
    masses, fields = [], []
    for posterior, mass, offset, time in _posteriors(x, t, data, weights):
        masses.append(mass)
        fields.append(torch.einsum("nk,nkd->nd", posterior, offset) / time)
    return torch.cat(masses), torch.cat(fields)


def _posteriors(x: Tensor, t: Time, data: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield per block of rows the posterior of the data point ``(n, K)``, log p_t ``(n,)``, the offsets x - x_k ``(n, K, D)`` and the time."""
    log_weights, d = checked_data(x, data, weights), data.shape[1]
    for part, time in blocks(x, positive_time(t, x), data):
        offset = part[:, None] - data
        # log(R / t) by log1p keeps the digits of a small offset; no power of t is formed
        ratio = offset / (time[..., None] if time.ndim else time)
        log_terms = log_weights - (d + 1) / 2 * torch.log1p(ratio.square().sum(2))
        mass = log_mass(log_terms, part) + log_constant(d) - d * time.log().reshape(-1)
        yield torch.softmax(log_terms, dim=1), mass, offset, time
