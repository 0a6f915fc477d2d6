"""DDPM (section 2.2): forward chain, predictions, training loss, sampler and likelihood bound, for data of any shape (N, *shape).

A model is a callable ``model(x, i) -> prediction`` with ``x (N, *shape)`` and ``i (N,)`` int64 in 1..L. What it predicts is said by
``parameterization``: ``"noise"`` (eps), ``"clean"`` (x_0) or ``"mean"`` (the mean of the reverse kernel).
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._types import Index, Points
from mathcore._validate import floating, one_of, per_sample, positive
from mathcore.discrete_schedule import DiscreteSchedule
from mathcore.distributions import Empirical, GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.posterior import PosteriorMixture

Batch = Float[Tensor, "n *shape"]
Model = Callable[[Tensor, Tensor], Tensor]
ReverseCov = Callable[[Tensor, int], Tensor]

PARAMETERIZATIONS = ("noise", "clean", "mean")
VARIANCES = ("posterior", "beta", "oracle")


# --- forward chain (section 2.2.1) ----------------------------------------------------------------------------------------------------


def forward_step(x_prev: Batch, i: Index, noise: Batch, schedule: DiscreteSchedule) -> Batch:
    """One step of the chain, x_i = alpha_i x_{i-1} + beta_i noise.

    Raises (as do the five functions below):
        TypeError: tensors that are not floating-point, an index that is not an integer.
        ValueError: shapes that differ, NaN, an index outside 1..L.
    """
    _alike(noise, "noise", x_prev, "x_prev")
    return _at(schedule.alpha_step, i, x_prev, schedule) * x_prev + _at(schedule.beta_std, i, x_prev, schedule) * noise


def q_sample(x0: Batch, i: Index, noise: Batch, schedule: DiscreteSchedule) -> Batch:
    """Any level in one shot, x_i = alpha_bar_i x_0 + sqrt(1 - alpha_bar_i^2) noise (Eq. 2.2.1)."""
    _alike(noise, "noise", x0, "x0")
    return _at(schedule.alpha_bar, i, x0, schedule) * x0 + _at(schedule.sigma_bar, i, x0, schedule) * noise


# --- predictions (section 2.2.4) ------------------------------------------------------------------------------------------------------


def predict_clean_from_noise(x_i: Batch, noise: Batch, i: Index, schedule: DiscreteSchedule) -> Batch:
    """The x_0 that (x_i, noise) stand for (Eq. 2.2.12)."""
    _alike(noise, "noise", x_i, "x_i")
    return (x_i - _at(schedule.sigma_bar, i, x_i, schedule) * noise) / _at(schedule.alpha_bar, i, x_i, schedule)


def predict_noise_from_clean(x_i: Batch, clean: Batch, i: Index, schedule: DiscreteSchedule) -> Batch:
    """The noise that (x_i, x_0) stand for (Eq. 2.2.12)."""
    _alike(clean, "clean", x_i, "x_i")
    return (x_i - _at(schedule.alpha_bar, i, x_i, schedule) * clean) / _at(schedule.sigma_bar, i, x_i, schedule)


def mean_from_noise(x_i: Batch, noise: Batch, i: Index, schedule: DiscreteSchedule) -> Batch:
    """Reverse mean in eps-form, (x_i - beta_i^2 / sqrt(1 - alpha_bar_i^2) noise) / alpha_i (section 2.2.4)."""
    _alike(noise, "noise", x_i, "x_i")
    shrink = _at(schedule.beta_var, i, x_i, schedule) / _at(schedule.sigma_bar, i, x_i, schedule)
    return (x_i - shrink * noise) / _at(schedule.alpha_step, i, x_i, schedule)


def mean_from_clean(x_i: Batch, clean: Batch, i: Index, schedule: DiscreteSchedule) -> Batch:
    """Reverse mean as the mixture of x_i and the clean prediction of Eq. 2.2.4."""
    return schedule.posterior_mean(x_i, clean, i)


# --- exact reverse kernel and oracle models -------------------------------------------------------------------------------------------


def reverse_kernel_oracle(data: GaussianMixture | Empirical, x_i: Points, i: int, schedule: DiscreteSchedule) -> PosteriorMixture:
    """The true p(x_{i-1} | x_i), one Gaussian mixture per point (section 2.2.2): the law of x_{i-1} corrupted by one step.

    Raises:
        ValueError: index outside 1..L, or i = 1 for a finite data set, whose kernel has no density.
    """
    before = int(schedule.index(i)) - 1
    previous = data if before == 0 else data.corrupt(float(schedule.alpha_bar[before]), float(schedule.sigma_bar[before]))
    if isinstance(previous, Empirical):
        raise ValueError("for a finite data set the kernel at i = 1 is a sum of Diracs and has no density; use i >= 2")
    return previous.posterior(x_i, float(schedule.alpha_step[i]), float(schedule.beta_std[i]))


def oracle_model(data: GaussianMixture | Empirical, schedule: DiscreteSchedule, parameterization: str = "noise") -> Model:
    """The population minimiser of every loss below (section 2.2.4), as a model: E[eps | x_i], E[x_0 | x_i] or E[x_{i-1} | x_i].

    Raises:
        ValueError: unknown parameterization.
    """
    one_of(parameterization, PARAMETERIZATIONS, "parameterization")

    oracle = AffineGaussianOracle(data, schedule)

    def model(x: Points, i: Tensor) -> Points:
        i = schedule.index(i)  # 1..L: the oracle itself would take 0 too
        if parameterization == "noise":
            return oracle.noise(x, i)
        clean = oracle.clean(x, i)
        return clean if parameterization == "clean" else mean_from_clean(x, clean, i, schedule)

    return model


def oracle_reverse_cov(data: GaussianMixture | Empirical, schedule: DiscreteSchedule) -> ReverseCov:
    """Exact Cov(x_{i-1} | x_i) as a function ``(x (N, D), i) -> (N, D, D)``: posterior variance plus what x_0 is uncertain by."""

    def cov(x: Points, i: int) -> Tensor:
        coef_x0 = schedule.posterior_coefficients(i)[0].to(x)
        clean = data.posterior_cov(x, float(schedule.alpha_bar[i]), float(schedule.sigma_bar[i]))
        return schedule.posterior_var(i).to(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device) + coef_x0**2 * clean

    return cov


# --- training (Algorithm of section 2.2.4) --------------------------------------------------------------------------------------------


def ddpm_loss(
    model: Model,
    x0: Batch,
    schedule: DiscreteSchedule,
    parameterization: str = "noise",
    weighting: str = "simple",
    generator: torch.Generator | None = None,
    decoder_std: float | None = None,
) -> Float[Tensor, ""]:
    """One-sample estimate of the DDPM loss, i uniform on 1..L, squared norms summed over ``shape``.

    ``weighting="simple"``: Eq. 2.2.10, weight 1 on the noise error, whichever quantity is predicted. ``weighting="elbo"``: unbiased for
    L_recon + L_diffusion of Eq. 2.2.13 without the Gaussian constant of L_recon: the weights of section 2.2.4 for i >= 2 and, at i = 1,
    the reconstruction term with the standard deviation ``decoder_std``.

    Raises:
        TypeError: ``x0`` is not a floating-point tensor.
        ValueError: unknown name, ``decoder_std`` missing or not positive with ``elbo``, a prediction of the wrong shape.
    """
    one_of(parameterization, PARAMETERIZATIONS, "parameterization")
    one_of(weighting, ("simple", "elbo"), "weighting")
    floating(x0, "x0")
    i = torch.randint(1, schedule.L + 1, x0.shape[:1], generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    x_i = q_sample(x0, i, noise, schedule)
    target = {"noise": noise, "clean": x0}.get(parameterization)
    if target is None:
        target = mean_from_noise(x_i, noise, i, schedule)
    error = (_predict(model, x_i, i) - target).square().flatten(1).sum(1)  # (N,)
    if weighting == "simple":
        return (schedule.weight(i, parameterization, "simple").to(error) * error).mean()
    return schedule.L * (_elbo_weight(schedule, i, parameterization, decoder_std).to(error) * error).mean()


def _elbo_weight(schedule: DiscreteSchedule, i: Tensor, parameterization: str, decoder_std: float | None) -> Tensor:
    if decoder_std is None:
        raise ValueError("weighting 'elbo' needs decoder_std, the standard deviation of p(x_0 | x_1) in the reconstruction term")
    simple = schedule.weight(1, parameterization, "simple") / schedule.weight(1, "mean", "simple")  # squared mean error per squared error
    weight = (simple / (2 * positive(decoder_std, "decoder_std") ** 2)).to(i.device).expand(i.shape).clone()
    later = i > 1
    if bool(later.any()):
        weight[later] = schedule.weight(i[later], parameterization, "elbo")
    return weight


# --- sampling (Eq. 2.2.14) ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def ddpm_sample(
    model: Model,
    shape: Sequence[int],
    schedule: DiscreteSchedule,
    parameterization: str = "noise",
    variance: str = "posterior",
    reverse_cov: ReverseCov | None = None,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Ancestral sampling from x_L ~ N(0, I) down to x_0 (Eq. 2.2.14).

    Args:
        model: see the module. shape: ``(N, *shape)`` of the result.
        variance: ``"posterior"``: sigma^2(i) (Eq. 2.2.5). ``"beta"``: beta_i^2 (Ho et al. 2020). Neither adds noise at i = 1.
            ``"oracle"``: the exact covariance given by ``reverse_cov``, at i = 1 too, for points ``(N, D)``.
        reverse_cov: ``(x_i, i) -> (N, D, D)``, see `oracle_reverse_cov`; exactly when ``variance="oracle"``.
        return_trajectory: return ``(L + 1, N, *shape)`` with entry i the state x_i; entry 0 is the sample.
        callback: called with ``(i, x_i, reverse mean)`` before each step is taken. progress: show a progress bar.

    Raises:
        ValueError: unknown name, ``reverse_cov`` missing or superfluous, a prediction of the wrong shape.
    """
    one_of(parameterization, PARAMETERIZATIONS, "parameterization")
    if (one_of(variance, VARIANCES, "variance") == "oracle") != (reverse_cov is not None):
        raise ValueError(f"reverse_cov goes with variance 'oracle' and with no other; got variance {variance!r}")
    x = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=device)
    trajectory = [x]
    for i in _countdown(schedule.L, progress):
        mean = _reverse_mean(model, x, i, schedule, parameterization)
        if callback is not None:
            callback(i, x, mean)
        x = mean if i == 1 and reverse_cov is None else mean + _reverse_noise(x, i, schedule, variance, reverse_cov, generator)
        if return_trajectory:
            trajectory.append(x)
    return torch.stack(trajectory[::-1]) if return_trajectory else x


def _reverse_mean(model: Model, x: Tensor, i: int, schedule: DiscreteSchedule, parameterization: str) -> Tensor:
    prediction = _predict(model, x, torch.full(x.shape[:1], i, dtype=torch.int64, device=x.device))
    if parameterization == "noise":
        return mean_from_noise(x, prediction, i, schedule)
    return mean_from_clean(x, prediction, i, schedule) if parameterization == "clean" else prediction


def _reverse_noise(
    x: Tensor, i: int, schedule: DiscreteSchedule, variance: str, reverse_cov: ReverseCov | None, generator: torch.Generator | None
) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    if reverse_cov is not None:
        return (torch.linalg.cholesky(reverse_cov(x, i)) @ noise[..., None])[..., 0]
    var = schedule.posterior_var(i) if variance == "posterior" else schedule.beta_var[i]
    return cast(Tensor, var.sqrt().to(noise) * noise)


# --- likelihood bound (Theorem 2.2.3) -------------------------------------------------------------------------------------------------


@torch.no_grad()
def ddpm_elbo_terms(
    model: Model,
    x0: Batch,
    schedule: DiscreteSchedule,
    decoder_std: float,
    n_mc: int = 1,
    parameterization: str = "noise",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The three terms of Eq. 2.2.13 in nats, per data point; their sum bounds -log p_phi(x_0) from above.

    The diffusion sum runs over i = 2..L (at i = 1 the reverse conditional kernel is a Dirac) and the reconstruction term has its own
    standard deviation ``decoder_std``. Expectations over x_i are means over ``n_mc`` draws; the prior term is exact.

    Returns:
        ``prior (N,)``, ``recon (N,)`` and ``diffusion (N, L - 1)``, column k belonging to i = k + 2.

    Raises:
        ValueError: unknown name, ``decoder_std`` or ``n_mc`` not positive, a prediction of the wrong shape.
    """
    one_of(parameterization, PARAMETERIZATIONS, "parameterization")
    var = positive(decoder_std, "decoder_std") ** 2
    if n_mc < 1:
        raise ValueError(f"n_mc must be at least 1, got {n_mc}")
    dim = floating(x0, "x0").flatten(1).shape[1]
    copies = x0.repeat_interleave(n_mc, 0)  # (N n_mc, *shape)

    def mean_error(i: int) -> Tensor:
        noise = torch.randn(copies.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x_i = q_sample(copies, i, noise, schedule)
        error = _reverse_mean(model, x_i, i, schedule, parameterization) - mean_from_clean(x_i, copies, i, schedule)
        return error.square().flatten(1).sum(1).reshape(-1, n_mc).mean(1)  # (N,)

    signal, noise_var = float(schedule.alpha_bar[-1]) ** 2, float(schedule.sigma_bar[-1]) ** 2
    diffusion = [mean_error(i) / (2 * float(schedule.posterior_var(i))) for i in range(2, schedule.L + 1)]
    return {
        "prior": 0.5 * (signal * x0.square().flatten(1).sum(1) - dim * signal - dim * math.log(noise_var)),
        "recon": mean_error(1) / (2 * var) + 0.5 * dim * math.log(2 * math.pi * var),
        "diffusion": torch.stack(diffusion, 1) if diffusion else x0.new_zeros(x0.shape[0], 0),
    }


def _predict(model: Model, x: Tensor, i: Tensor) -> Tensor:
    prediction = model(x, i)
    if prediction.shape != x.shape:
        raise ValueError(f"the model must return the shape of its input, {tuple(x.shape)}; got {tuple(prediction.shape)}")
    return prediction


def _at(table: Tensor, i: Index, x: Tensor, schedule: DiscreteSchedule) -> Tensor:
    index = schedule.index(i)
    return per_sample(table.to(index.device)[index], x, "i")


def _alike(x: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if floating(x, name).shape != floating(other, other_name).shape:
        raise ValueError(f"{name} must have the shape of {other_name}, {tuple(other.shape)}; got {tuple(x.shape)}")


def _countdown(L: int, progress: bool) -> Sequence[int]:
    steps = range(L, 0, -1)
    if not progress:
        return steps
    from tqdm.auto import tqdm

    return cast(Sequence[int], tqdm(steps))
