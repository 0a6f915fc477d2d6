"""Autoencoder and Gaussian VAE, their training losses (section 2.1), and the decoder that is best for a fixed encoder."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import floating, positive
from mathcore.networks import MLP


class AutoEncoder(nn.Module):
    """Deterministic encoder and decoder (section 2.1.0).

    Args:
        dim: data dimension D. d_code: code dimension d. hidden, depth: width and number of hidden layers of both networks.
    """

    def __init__(self, dim: int, d_code: int, hidden: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.encoder = MLP(dim, d_code, hidden, depth)
        self.decoder = MLP(d_code, dim, hidden, depth)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Reconstruct ``x``."""
        return self.decoder(self.encoder(x))


class VAE(nn.Module):
    """q(z | x) = N(mu(x), diag std(x)^2), p(x | z) = N(decoder(z), sigma_dec^2 I), z ~ N(0, I) (section 2.1.3).

    Args:
        dim: data dimension D. d_code: latent dimension d. sigma_dec: decoder standard deviation, in the units of x.
        hidden, depth: width and number of hidden layers of both networks.

    Raises:
        ValueError: a size or ``sigma_dec`` not positive.
    """

    def __init__(self, dim: int, d_code: int, sigma_dec: float, hidden: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.d_code, self.sigma_dec = d_code, positive(sigma_dec, "sigma_dec")
        self.encoder = MLP(dim, 2 * d_code, hidden, depth)
        self.decoder = MLP(d_code, dim, hidden, depth)

    def encode(self, x: Float[Tensor, "n D"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Mean and standard deviation of q(z | x)."""
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        return mean, log_std.exp()

    def elbo_terms(
        self, x: Float[Tensor, "n D"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """One-sample reconstruction term and exact KL of Theorem 2.1.1; the bound is their difference."""
        mean, std = self.encode(x)
        z = mean + std * _randn_like(mean, generator)  # reparametrised: gradients reach the encoder
        return elbo_gaussian_vae(x, mean, std, self.decoder(z), self.sigma_dec)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, decoder_noise: bool = False) -> Float[Tensor, "n D"]:
        """Decode prior samples; ``decoder_noise`` adds sigma_dec eps, which makes them samples of the model."""
        like = next(self.parameters())
        x = self.decoder(torch.randn(n, self.d_code, generator=generator, dtype=like.dtype, device=like.device))
        return x + self.sigma_dec * _randn_like(x, generator) if decoder_noise else x


def kl_to_standard_normal(mean: Float[Tensor, "n d"], std: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """KL(N(mean, diag std^2) || N(0, I)) = 1/2 sum_j (mean_j^2 + std_j^2 - 1 - log std_j^2) (section 2.1.3).

    Raises:
        TypeError: not floating-point tensors.
        ValueError: different shapes, NaN, or a standard deviation that is not positive.
    """
    floating(mean, "mean", ndim=2)
    _same_shape(std, "std", mean, "mean")
    _all_positive(std, "std")
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(1)


def elbo_gaussian_vae(
    x: Float[Tensor, "n D"],
    q_mean: Float[Tensor, "n d"],
    q_std: Float[Tensor, "n d"],
    reconstruction: Float[Tensor, "n D"],
    sigma_dec: float,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Reconstruction term log p(x | z) and KL to the prior of the Gaussian VAE (Theorem 2.1.1, section 2.1.3).

    Args:
        x: data, ``(N, D)``. q_mean, q_std: parameters of q(z | x), ``(N, d)``.
        reconstruction: decoder mean at one z ~ q(z | x), ``(N, D)``. sigma_dec: decoder standard deviation.

    Returns:
        Two tensors ``(N,)``; the one-sample bound is the first minus the second, in nats.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that differ, NaN, or a standard deviation that is not positive.
    """
    floating(x, "x", ndim=2)
    _same_shape(reconstruction, "reconstruction", x, "x")
    var = positive(sigma_dec, "sigma_dec") ** 2
    error = (x - reconstruction).square().sum(1)
    return -error / (2 * var) - 0.5 * x.shape[1] * math.log(2 * math.pi * var), kl_to_standard_normal(q_mean, q_std)


def ae_loss(model: AutoEncoder, batch: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """Mean squared reconstruction error ||x - model(x)||^2; ``generator`` is unused, it keeps the signature of the other losses."""
    return (batch - model(batch)).square().sum(1).mean()


def vae_loss(
    model: VAE, batch: Float[Tensor, "n D"], generator: torch.Generator | None = None, kl_weight: float = 1.0
) -> Float[Tensor, ""]:
    """Training loss of the VAE (section 2.1.3): minus the one-sample bound, with the KL multiplied by ``kl_weight``."""
    reconstruction, kl = model.elbo_terms(batch, generator)
    return (kl_weight * kl - reconstruction).mean()


def optimal_decoder(
    data: Float[Tensor, "k D"], encoder_mean: Float[Tensor, "k d"], encoder_std: Float[Tensor, "k d"], z: Float[Tensor, "n d"]
) -> Float[Tensor, "n D"]:
    """Best decoder mean for a fixed Gaussian encoder and equally likely data points (section 2.1.4): mu*(z) = E[x | z].

    Point k has the posterior weight q(z | x_k) / sum_j q(z | x_j): a softmax, so mu*(z) is an average of the data.

    Args:
        data: the points, ``(K, D)``. encoder_mean, encoder_std: q(z | x_k) = N(mean_k, diag std_k^2), ``(K, d)``. z: codes, ``(N, d)``.

    Returns:
        Decoder means, ``(N, D)``.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that differ, NaN, or a standard deviation that is not positive.
    """
    floating(data, "data", ndim=2)
    floating(encoder_mean, "encoder_mean", ndim=2)
    _same_shape(encoder_std, "encoder_std", encoder_mean, "encoder_mean")
    _all_positive(encoder_std, "encoder_std")
    floating(z, "z", ndim=2, dim=encoder_mean.shape[1])
    if data.shape[0] != encoder_mean.shape[0]:
        raise ValueError(f"data and encoder_mean must have equally many rows, got {data.shape[0]} and {encoder_mean.shape[0]}")
    scaled = (z[:, None] - encoder_mean) / encoder_std  # (N, K, d)
    log_q = -0.5 * scaled.square().sum(2) - encoder_std.log().sum(1)  # (N, K), up to a constant
    return torch.softmax(log_q, dim=1) @ data


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _same_shape(x: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if floating(x, name).shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other_name}, {tuple(other.shape)}; got {tuple(x.shape)}")


def _all_positive(std: Tensor, name: str) -> None:
    if not bool((std > 0).all()):
        raise ValueError(f"{name} must be positive everywhere, got a smallest entry of {float(std.min())}")
