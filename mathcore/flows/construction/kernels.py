"""Isotropic models from a radial distribution function psi_t(r) = P(|x_t - x_0| <= r): sampler, conditional field, marginal field over data.

With the flux along the line through x_0, the space-time divergence vanishes exactly where each particle keeps its quantile, psi_t(r(t)) constant:

    p_t(x | x_0) = d psi/dr / (S_{D-1} r^{D-1}),      f_t(x | x_0) = -(d psi/dt) / (r d psi/dr) (x - x_0),

S_{D-1} the area of the unit sphere. Any psi_t that rises from 0 to 1 in r and tends to 1 for t -> 0 at every r > 0 will do. Data at t = 0.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Points, Scalars, Time
from mathcore._validate import count, floating, like_input, one_of, positive
from mathcore.flows.construction._superposition import blocks, checked_data, log_mass, positive_time
from mathcore.flows.construction.green import log_constant

Radial = Callable[[Tensor, Tensor], Tensor]
"""A function of radius (or probability) and time, elementwise; the time broadcasts against the radius."""

Profile = Callable[[Tensor], Tensor]
"""A function of r / t, elementwise."""

NAMES = ("gaussian", "cauchy", "tanh", "exponential")


class IsotropicKernel:
    """A conditional path p_t(x | x_0) that depends on |x - x_0| alone, and the field that carries it.

    Args:
        psi: the radial distribution function psi(r, t). dpsi_dr, dpsi_dt: its derivatives. inverse: (u, t) -> r with psi(r, t) = u.
        dim: D, on which the Gaussian and Cauchy psi depend.
        log_density: optional log p_t as a function of (r, t), where the formula from ``dpsi_dr`` is 0/0: at r = 0, and far out where ``dpsi_dr``
            underflows. rate: optional -(d psi/dt) / (r d psi/dr), likewise.

    Raises:
        TypeError: an argument that is no function. ValueError: ``dim`` not a positive integer.
    """

    def __init__(
        self,
        psi: Radial,
        dpsi_dr: Radial,
        dpsi_dt: Radial,
        inverse: Radial,
        dim: int,
        log_density: Radial | None = None,
        rate: Radial | None = None,
        name: str = "custom",
    ):
        given = {"psi": psi, "dpsi_dr": dpsi_dr, "dpsi_dt": dpsi_dt, "inverse": inverse}
        optional = {"log_density": log_density, "rate": rate}
        for label, fn in (given | {k: v for k, v in optional.items() if v is not None}).items():
            if not callable(fn):
                raise TypeError(f"{label} must be a function of (radius, time), got {type(fn).__name__}")
        self.psi, self.dpsi_dr, self.dpsi_dt, self.inverse = psi, dpsi_dr, dpsi_dt, inverse
        self.dim, self.name = count(dim, "dim"), name
        self._log_density, self._rate = log_density, rate

    def __repr__(self) -> str:
        return f"IsotropicKernel({self.name!r}, dim={self.dim})"

    @classmethod
    def self_similar(
        cls, cdf: Profile, pdf: Profile, inverse: Profile, dim: int, log_shape: Profile | None = None, name: str = "custom"
    ) -> "IsotropicKernel":
        """Build psi_t(r) = cdf(r / t). Every such kernel has the conditional field (x - x_0) / t; they differ in the weights of the data points.

        Args:
            cdf: distribution function of |z|, z = (x_t - x_0) / t. pdf: its derivative. inverse: its inverse.
            log_shape: optional log-density of z in R^D as a function of |z|.
        """
        return cls(
            psi=lambda r, t: cdf(r / t),
            dpsi_dr=lambda r, t: pdf(r / t) / t,
            dpsi_dt=lambda r, t: -r / t**2 * pdf(r / t),
            inverse=lambda u, t: t * inverse(u),
            dim=dim,
            log_density=None if log_shape is None else lambda r, t: log_shape(r / t) - dim * t.log(),
            rate=lambda r, t: torch.ones_like(r) / t,
            name=name,
        )

    @classmethod
    def named(cls, name: str, dim: int) -> "IsotropicKernel":
        """Return one of the four self-similar kernels: for z = (x_t - x_0) / t,

        | gaussian | z normal: x_t = x_0 + t eps | tail exp(-r^2 / 2t^2) |
        | cauchy | z multivariate Cauchy, Poisson flow | tail r^{-(D+1)} |
        | tanh | psi = tanh(r / t) | tail e^{-2r/t}; density infinite at x_0 for D >= 2 |
        | exponential | psi = 1 - e^{-r/t} | tail e^{-r/t}; density infinite at x_0 for D >= 2 |

        Raises:
            ValueError: another name, or ``dim`` not a positive integer.
        """
        one_of(name, NAMES, "name")
        return {"gaussian": _gaussian, "cauchy": _cauchy, "tanh": _tanh, "exponential": _exponential}[name](count(dim, "dim"))

    # --- one source -------------------------------------------------------------------------------------------------------------------

    def sample(self, x0: Points, t: Time, generator: torch.Generator | None = None) -> Points:
        """Draw x_t given x_0, one per row: radius by the inverse of psi_t at a uniform number, direction uniform: ``(N, D)``.

        Raises:
            TypeError: ``x0`` no floating tensor. ValueError: not ``(N, D)``, NaN, t not positive.
        """
        time = positive_time(t, floating(x0, "x0", ndim=2, dim=self.dim))
        u = torch.rand(len(x0), 1, generator=generator, dtype=torch.float64, device=x0.device)
        direction = torch.randn(x0.shape, generator=generator, dtype=torch.float64, device=x0.device)
        radius = like_input(self.inverse(u, time.double()), u, "inverse")
        return x0 + (radius * direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)).to(x0)

    def log_prob(self, x: Points, x0: Points, t: Time) -> Scalars:
        """Return log p_t(x | x_0): ``(N,)``.

        Raises:
            TypeError: not floating tensors. ValueError: shapes that differ, NaN, t not positive, or a density that is not positive and finite there.
        """
        radius, time = self._pair(x, x0, t)
        value = self._log_kernel(radius, time)
        if not bool(torch.isfinite(value).all()):
            where = float(radius[~torch.isfinite(value)][0])
            raise ValueError(f"the density of {self!r} is not positive and finite at r = {where}")
        return value[:, 0]

    def velocity(self, x: Points, x0: Points, t: Time) -> Points:
        """Return f_t(x | x_0) = -(d psi/dt) / (r d psi/dr) (x - x_0): ``(N, D)``; zero at x_0.

        Raises:
            TypeError: not floating tensors. ValueError: shapes that differ, NaN, t not positive, or d psi/dr not positive where it is divided by.
        """
        radius, time = self._pair(x, x0, t)
        return self._rates(radius, time) * (x - x0)

    def matched_radius(self, other: "IsotropicKernel", r: Scalars, t: Time) -> Scalars:
        """Return the radius at which ``other`` has the quantile that this kernel has at ``r``: ``(n,)``.

        The map takes every path of this kernel onto one of the other, for *one* source; over several data points the two models differ.

        Raises:
            TypeError: ``r`` no floating tensor. ValueError: not ``(n,)``, NaN, t not positive.
        """
        radius = floating(r, "r", ndim=1)[:, None]
        time = positive_time(t, radius)
        return other.inverse(self.psi(radius, time), time)[:, 0]

    def total_variation(self, distance: float, t: float) -> float:
        """Return the total variation between p_t(. | x_0) and p_t(. | x_0') at |x_0 - x_0'| = ``distance``: what is left of x_0 in the prior.

        The mass within half the distance of a plane through x_0: E psi_t(distance / 2|u_1|), u uniform on the sphere; psi_t(distance / 2) on the line.
        For densities that fall with r, as the named ones do.

        Raises:
            ValueError: ``distance`` or ``t`` not positive.
        """
        from scipy.integrate import quad

        half, time = positive(distance, "distance") / 2, torch.tensor(positive(t, "t"), dtype=torch.float64)

        def at(r: float) -> float:
            return float(self.psi(torch.tensor([[r]], dtype=torch.float64), time))

        if self.dim == 1:
            return at(half)
        # u_1 = cos(angle), of density proportional to sin^{D-2}
        norm = math.exp(math.lgamma(self.dim / 2) - math.lgamma((self.dim - 1) / 2)) / math.sqrt(math.pi)
        value, _ = quad(lambda a: math.sin(a) ** (self.dim - 2) * at(half / math.cos(a)), 0, math.pi / 2, epsabs=1e-12, epsrel=1e-10)
        return 2 * norm * value

    # --- a finite data set ------------------------------------------------------------------------------------------------------------

    def marginal_velocity(self, x: Points, t: Time, data: Float[Tensor, "k d"], weights: Float[Tensor, " k"] | None = None) -> Points:
        """Return f_t(x) = E[f_t(x | x_0) | x_t = x] for data points with the given weights (None: equal): ``(N, D)``.

        Raises:
            TypeError: not floating tensors of one dtype.
            ValueError: shapes that do not fit, NaN, t or weights not positive, or a point where the density is zero or infinite (a singular kernel at
                its data point).
        """
        return self._superposed(x, t, data, weights)[1]

    def marginal_log_prob(self, x: Points, t: Time, data: Float[Tensor, "k d"], weights: Float[Tensor, " k"] | None = None) -> Scalars:
        """Return log p_t(x) of the data set: ``(N,)``.

        Raises:
            TypeError, ValueError: as :meth:`marginal_velocity`.
        """
        return self._superposed(x, t, data, weights)[0]

    # --- helpers ----------------------------------------------------------------------------------------------------------------------

    def _superposed(self, x: Tensor, t: Time, data: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        log_weights = checked_data(x, floating(data, "data", ndim=2, dim=self.dim), weights)
        masses, fields = [], []
        for part, time in blocks(x, positive_time(t, x), data):
            offset = part[:, None] - data
            radius = _norm(offset)
            log_terms = log_weights + self._log_kernel(radius, time)
            masses.append(log_mass(log_terms, part))
            weight = torch.softmax(log_terms, dim=1) * self._rates(radius, time)
            fields.append(torch.einsum("nk,nkd->nd", weight, offset))
        return torch.cat(masses), torch.cat(fields)

    def _log_kernel(self, r: Tensor, t: Tensor) -> Tensor:
        if self._log_density is not None:
            return self._log_density(r, t)
        # on the line r^0 = 1 at r = 0 too
        power = (self.dim - 1) * r.log() if self.dim > 1 else torch.zeros_like(r)
        return self.dpsi_dr(r, t).log() - power - log_sphere_area(self.dim)

    def _rates(self, r: Tensor, t: Tensor) -> Tensor:
        """-(d psi/dt) / (r d psi/dr), with zero in place of 0/0 at r = 0, where it multiplies x - x_0 = 0."""
        if self._rate is not None:
            return self._rate(r, t)
        inside = torch.where(r > 0, r, 1.0)
        slope = self.dpsi_dr(inside, t)
        if not bool((slope > 0).all()):
            raise ValueError(
                f"dpsi_dr must be positive for {self!r}, got {float(slope.min())}; where it underflows give the rate in closed form"
            )
        return torch.where(r > 0, -self.dpsi_dt(inside, t) / (inside * slope), 0.0)

    def _pair(self, x: Tensor, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        if floating(x0, "x0").shape != floating(x, "x", ndim=2, dim=self.dim).shape:
            raise ValueError(f"x0 must have the shape of x, {tuple(x.shape)}, got {tuple(x0.shape)}")
        return _norm(x - x0)[:, None], positive_time(t, x)


def log_sphere_area(dim: int) -> float:
    """Return log S_{D-1} = log(2 pi^{D/2} / Gamma(D/2)), the area of the unit sphere of R^D.

    Raises:
        ValueError: ``dim`` not a positive integer.
    """
    return math.log(2) + count(dim, "dim") / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _norm(offset: Tensor) -> Tensor:
    return torch.linalg.vector_norm(offset, dim=-1)


def _scipy(name: str, *args: float) -> Profile:
    """A special function of scipy at tensors: values only, no derivative."""

    def fn(z: Tensor) -> Tensor:
        from scipy import special

        return torch.as_tensor(getattr(special, name)(*args, z.detach().cpu().double().numpy())).to(z)

    return fn


def _gaussian(dim: int) -> IsotropicKernel:
    log_norm = dim / 2 * math.log(2 * math.pi)
    inverse = _scipy("gammaincinv", dim / 2)
    return IsotropicKernel.self_similar(
        cdf=lambda z: torch.special.gammainc(torch.full_like(z, dim / 2), z**2 / 2),
        pdf=lambda z: torch.exp(log_sphere_area(dim) - log_norm - z**2 / 2) * z ** (dim - 1),
        inverse=lambda u: (2 * inverse(u)).sqrt(),
        dim=dim,
        log_shape=lambda z: -(z**2) / 2 - log_norm,
        name="gaussian",
    )


def _cauchy(dim: int) -> IsotropicKernel:
    value, inverse = _scipy("betainc", dim / 2, 0.5), _scipy("betaincinv", dim / 2, 0.5)
    # the mass beyond r, I_{1/(1+z^2)}(1/2, D/2), keeps the digits of 1 - u in the heavy tail
    beyond = _scipy("betaincinv", 0.5, dim / 2)
    return IsotropicKernel.self_similar(
        cdf=lambda z: value(z**2 / (1 + z**2)),
        pdf=lambda z: torch.exp(log_sphere_area(dim) + log_constant(dim) - (dim + 1) / 2 * torch.log1p(z**2)) * z ** (dim - 1),
        inverse=lambda u: torch.where(u < 0.5, (inverse(u) / (1 - inverse(u))).sqrt(), (1 / beyond(1 - u) - 1).sqrt()),
        dim=dim,
        log_shape=lambda z: log_constant(dim) - (dim + 1) / 2 * torch.log1p(z**2),
        name="cauchy",
    )


def _tanh(dim: int) -> IsotropicKernel:
    # log sech^2 z = 2 log 2 - 2z - 2 log(1 + e^{-2z}) for z >= 0: no overflow
    def log_sech2(z: Tensor) -> Tensor:
        return 2 * math.log(2) - 2 * z - 2 * torch.log1p(torch.exp(-2 * z))

    return IsotropicKernel.self_similar(
        torch.tanh, lambda z: log_sech2(z).exp(), torch.atanh, dim, lambda z: _thinned(log_sech2(z), z, dim), "tanh"
    )


def _exponential(dim: int) -> IsotropicKernel:
    return IsotropicKernel.self_similar(
        lambda z: -torch.expm1(-z), lambda z: torch.exp(-z), lambda u: -torch.log1p(-u), dim, lambda z: _thinned(-z, z, dim), "exponential"
    )


def _thinned(log_pdf: Tensor, z: Tensor, dim: int) -> Tensor:
    """From the log-density of the radius to that of the point: over the sphere of radius z."""
    return log_pdf - log_sphere_area(dim) - ((dim - 1) * z.log() if dim > 1 else 0.0)
