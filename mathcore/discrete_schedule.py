"""The discrete DDPM chain of chapter 2: x_i = alpha_i x_{i-1} + beta_i eps_i, i = 1..L, index 0 clean."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Index
from mathcore._validate import floating, one_of, per_sample, positive

Table = Float[Tensor, " levels"]
Values = Float[Tensor, ""] | Float[Tensor, " n"]


class DiscreteSchedule:
    """The forward chain x_i = sqrt(1 - beta_i^2) x_{i-1} + beta_i eps_i (section 2.2.1), made by the constructors below.

    ``beta_std`` is the standard deviation beta_i of chapter 2, ``beta_var`` its square (beta_i of the DDPM paper); ``alpha_step`` and
    ``alpha_bar`` multiply the signal, they are not squared. Every table is float64 on the CPU, of length L+1; index 0 is the clean data.

    Attributes:
        L: number of steps.
        beta_std, beta_var: step noise, 0 at index 0.
        alpha_step, alpha_bar, sigma_bar: step and cumulative signal, sqrt(1 - alpha_bar^2); 1, 1 and 0 at index 0.
        snr, half_log_snr: alpha_bar^2 / sigma_bar^2 and half its logarithm; infinite at index 0.
    """

    def __init__(self, beta_var: Table, require_increasing: bool = False) -> None:
        """Use :meth:`from_beta_std`, :meth:`from_beta_var` or :meth:`linear`."""
        beta_var = _betas(beta_var, "beta_var")
        if require_increasing and not bool((beta_var.diff() > 0).all()):
            raise ValueError("beta must increase strictly with the step, and require_increasing=True was asked for")
        self.L = beta_var.shape[0]
        self.beta_var: Table = torch.cat([beta_var.new_zeros(1), beta_var])
        self.beta_std: Table = self.beta_var.sqrt()
        self.alpha_step: Table = (1 - self.beta_var).sqrt()
        log_signal = torch.log1p(-self.beta_var).cumsum(0)  # log of alpha_bar^2; 1 - alpha_bar^2 without cancellation follows
        noise = torch.expm1(log_signal).abs()  # abs and not a minus sign: the clean end is +0, its SNR +infinity
        self.alpha_bar: Table = torch.exp(log_signal / 2)
        self.sigma_bar: Table = noise.sqrt()
        self.snr: Table = torch.exp(log_signal) / noise
        self.half_log_snr: Table = (log_signal - noise.log()) / 2

    def __repr__(self) -> str:
        return (
            f"DiscreteSchedule(L={self.L}, beta_std {self.beta_std[1]:.4g}..{self.beta_std[-1]:.4g}, alpha_bar[L] {self.alpha_bar[-1]:.4g})"
        )

    @classmethod
    def from_beta_std(cls, beta_std: Table, require_increasing: bool = False) -> "DiscreteSchedule":
        """The chain with step standard deviations ``beta_std (L,)``, the beta_i of chapter 2.

        Raises:
            TypeError: not a floating tensor.
            ValueError: not one axis of at least one entry, an entry outside (0, 1), or not increasing when that is required.
        """
        return cls(_betas(beta_std, "beta_std") ** 2, require_increasing)

    @classmethod
    def from_beta_var(cls, beta_var: Table, require_increasing: bool = False) -> "DiscreteSchedule":
        """The chain with step variances ``beta_var (L,)``, the beta_i of the DDPM paper (Ho et al. 2020).

        Errors as :meth:`from_beta_std`.
        """
        return cls(beta_var, require_increasing)

    @classmethod
    def linear(cls, L: int, beta_var_min: float = 1e-4, beta_var_max: float = 0.02) -> "DiscreteSchedule":
        """Variances linear from ``beta_var_min`` to ``beta_var_max`` (Ho et al. 2020 at L = 1000), both scaled by 1000/L.

        Raises:
            ValueError: L < 1, a non-positive end, or a scaled variance of 1 or more (the default ends: L <= 20).
        """
        if isinstance(L, bool) or not isinstance(L, int) or L < 1:
            raise ValueError(f"L must be a positive integer, got {L!r}")
        low, high = (positive(v, n) * 1000 / L for v, n in ((beta_var_min, "beta_var_min"), (beta_var_max, "beta_var_max")))
        if max(low, high) >= 1:
            raise ValueError(f"scaled by 1000/L, the variances at L={L} reach {max(low, high):.4g}, not below 1: take a larger L")
        return cls(torch.linspace(low, high, L, dtype=torch.float64))

    # --- the reverse conditional kernel (Lemma 2.2.2) ----------------------------------------------------------------------------------

    def posterior_coefficients(self, i: Index) -> tuple[Values, Values]:
        """Coefficients ``(coef_x0, coef_xi)`` of the mean of p(x_{i-1} | x_i, x_0) (Eq. 2.2.4), float64, each of the shape of ``i``.

        Raises:
            TypeError: ``i`` is no integer or integer tensor.
            ValueError: ``i`` has more than one axis or leaves 1..L.
        """
        now = self.index(i)
        noise = self._take(self.sigma_bar, now) ** 2
        coef_x0 = self._take(self.alpha_bar, now - 1) * self._take(self.beta_var, now) / noise
        return coef_x0, self._take(self.sigma_bar, now - 1) ** 2 * self._take(self.alpha_step, now) / noise

    def posterior_var(self, i: Index) -> Values:
        """Variance sigma^2(i) of p(x_{i-1} | x_i, x_0) (Eq. 2.2.4), float64, of the shape of ``i``; exactly 0 at i = 1. Errors as above."""
        now = self.index(i)
        return (self._take(self.sigma_bar, now - 1) / self._take(self.sigma_bar, now)) ** 2 * self._take(self.beta_var, now)

    def posterior_mean(self, x_i: Float[Tensor, "n *shape"], x0: Float[Tensor, "n *shape"], i: Index) -> Float[Tensor, "n *shape"]:
        """Mean of p(x_{i-1} | x_i, x_0) (Eq. 2.2.4), in the dtype and on the device of ``x_i``.

        Raises:
            TypeError: ``x_i`` or ``x0`` is no floating tensor, or ``i`` no integer.
            ValueError: their shapes differ, a value is not finite, or ``i`` is neither one index nor one per sample in 1..L.
        """
        floating(x_i, "x_i"), floating(x0, "x0")
        if x0.shape != x_i.shape:
            raise ValueError(f"x0 must have the shape of x_i, {tuple(x_i.shape)}, got {tuple(x0.shape)}")
        coef_x0, coef_xi = self.posterior_coefficients(i)
        return per_sample(coef_x0, x_i, "i") * x0 + per_sample(coef_xi, x_i, "i") * x_i

    # --- loss weights (section 2.2.4) --------------------------------------------------------------------------------------------------

    def weight(self, i: Index, parameterization: str, kind: str) -> Values:
        """The weight w_i in w_i * ||prediction - target||^2, float64, of the shape of ``i``.

        ``kind="elbo"``: the KL term of the likelihood bound (Eq. 2.2.8) in the predicted quantity, ``noise``, ``clean`` or ``mean``; i >= 2
        only, for the posterior variance is 0 at i = 1 and the bound has a reconstruction term there. ``kind="simple"``: the loss that has
        weight 1 on noise (Eq. 2.2.10), whichever quantity is predicted.

        Raises:
            TypeError: ``i`` is no integer or integer tensor.
            ValueError: an unknown name, an index outside 1..L, or i = 1 with ``elbo``.
        """
        one_of(parameterization, ("noise", "clean", "mean"), "parameterization")
        one_of(kind, ("simple", "elbo"), "kind")
        now = self.index(i)
        per_noise = torch.ones_like(now, dtype=torch.float64)
        if kind == "elbo":
            if bool((now == 1).any()):
                raise ValueError(
                    "elbo weights start at i = 2, got i = 1, where the posterior variance is 0 and the bound has a reconstruction term"
                )
            before = self._take(self.sigma_bar, now - 1) ** 2
            per_noise = self._take(self.beta_var, now) / (2 * self._take(self.alpha_step, now) ** 2 * before)
        if parameterization == "clean":  # alpha_bar * (clean error) = -sigma_bar * (noise error)
            return per_noise * self._take(self.snr, now)
        if parameterization == "mean":  # mean error = -beta^2 / (alpha sigma_bar) * (noise error)
            scale = self._take(self.alpha_step, now) * self._take(self.sigma_bar, now) / self._take(self.beta_var, now)
            return per_noise * scale**2
        return per_noise

    def index(self, i: Index) -> Tensor:
        """``i`` as an int64 tensor of its own shape and device, each entry in 1..L.

        Raises:
            TypeError: not an integer or integer tensor.
            ValueError: more than one axis, or an entry outside 1..L.
        """
        if isinstance(i, bool) or not isinstance(i, (int, Tensor)):
            raise TypeError(f"i must be an integer or an integer tensor, got {type(i).__name__}")
        if isinstance(i, Tensor) and (i.is_floating_point() or i.is_complex() or i.dtype == torch.bool):
            raise TypeError(f"i must be an integer tensor, got dtype {i.dtype}")
        out = torch.as_tensor(i, dtype=torch.int64)
        if out.ndim > 1:
            raise ValueError(f"i must be one index or of shape (N,), got shape {tuple(out.shape)}")
        bad = (out < 1) | (out > self.L)
        if bool(bad.any()):
            raise ValueError(f"i must be in 1..{self.L}, got {int(out[bad].reshape(-1)[0])}")
        return out

    @staticmethod
    def _take(table: Tensor, i: Tensor) -> Tensor:
        return table.to(i.device)[i]


def _betas(values: Tensor, name: str) -> Tensor:
    out = floating(values, name, ndim=1).detach().to(dtype=torch.float64, device="cpu")
    if out.numel() == 0:
        raise ValueError(f"{name} must have at least one entry")
    bad = (out <= 0) | (out >= 1)
    if bool(bad.any()):
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {float(out[bad][0])}")
    return out
