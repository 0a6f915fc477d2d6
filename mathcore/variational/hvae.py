"""A trainable hierarchical VAE with a bottom-up Markov encoder (section 2.1.5), trained on form (A) of its bound."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import floating, positive
from mathcore.networks import MLP
from mathcore.variational.vae import kl_to_standard_normal


class HVAE(nn.Module):
    """p(z_L) prod p(z_{i-1} | z_i) p(x | z_1), encoder q(z_1 | x) prod q(z_i | z_{i-1}); all conditionals diagonal Gaussians.

    The decoder of x has the fixed standard deviation ``sigma_dec``; all other conditionals learn theirs.

    Args:
        sizes: D, d_1, ..., d_L: data dimension, then latent dimensions bottom first.
        sigma_dec: decoder standard deviation, in the units of x. hidden, depth: of every network.

    Raises:
        ValueError: fewer than two sizes, a size or ``sigma_dec`` not positive.
    """

    def __init__(self, sizes: Sequence[int], sigma_dec: float, hidden: int = 64, depth: int = 2) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"sizes must give the data dimension and at least one latent dimension, got {list(sizes)}")
        self.sizes, self.L, self.sigma_dec = list(sizes), len(sizes) - 1, positive(sigma_dec, "sigma_dec")
        pairs = list(pairwise(sizes))
        self.encoders = nn.ModuleList(MLP(below, 2 * above, hidden, depth) for below, above in pairs)
        self.decoders = nn.ModuleList(MLP(above, below if i == 0 else 2 * below, hidden, depth) for i, (below, above) in enumerate(pairs))

    def encoder_law(self, i: int, below: Float[Tensor, "n a"]) -> tuple[Float[Tensor, "n b"], Float[Tensor, "n b"]]:
        """Mean and standard deviation of q(z_i | z_{i-1}), i = 1..L (z_0 is x)."""
        mean, log_std = self.encoders[i - 1](below).chunk(2, dim=1)
        return mean, log_std.exp()

    def decoder_law(self, i: int, above: Float[Tensor, "n b"]) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n a"]]:
        """Mean and standard deviation of p(z_{i-1} | z_i), i = 1..L; i = 1 gives p(x | z_1)."""
        out = self.decoders[i - 1](above)
        if i == 1:
            return out, torch.full_like(out, self.sigma_dec)
        mean, log_std = out.chunk(2, dim=1)
        return mean, log_std.exp()

    def encode(self, x: Float[Tensor, "n D"], generator: torch.Generator | None = None) -> list[Tensor]:
        """One bottom-up sample [x, z_1, ..., z_L], reparametrised."""
        chain = [floating(x, "x", ndim=2, dim=self.sizes[0])]
        for i in range(1, self.L + 1):
            chain.append(_draw(*self.encoder_law(i, chain[-1]), generator))
        return chain

    def elbo_terms(
        self, x: Float[Tensor, "n D"], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n L"]]:
        """One-sample reconstruction and layer penalties of form (A); the bound of Eq. 2.1.3 is the first minus their sum.

        Layer i < L: log q(z_i | z_{i-1}) - log p(z_i | z_{i+1}) at the sample; the top layer: the exact KL to N(0, I).
        """
        z = self.encode(x, generator)
        reconstruction = _log_normal(x, *self.decoder_law(1, z[1]))
        penalties = [
            _log_normal(z[i], *self.encoder_law(i, z[i - 1])) - _log_normal(z[i], *self.decoder_law(i + 1, z[i + 1]))
            for i in range(1, self.L)
        ]
        penalties.append(kl_to_standard_normal(*self.encoder_law(self.L, z[-2])))
        return reconstruction, torch.stack(penalties, 1)

    def decode(
        self, z: Float[Tensor, "n d"], layer: int, generator: torch.Generator | None = None, decoder_noise: bool = False
    ) -> Float[Tensor, "n D"]:
        """Sample downwards from given codes z_layer: fixes everything above and redraws everything below.

        Raises:
            ValueError: ``layer`` outside 1..L, or codes of another dimension.
        """
        if not 1 <= layer <= self.L:
            raise ValueError(f"layer must be in 1..{self.L}, got {layer}")
        floating(z, "z", ndim=2, dim=self.sizes[layer])
        for i in range(layer, 1, -1):
            z = _draw(*self.decoder_law(i, z), generator)
        mean, std = self.decoder_law(1, z)
        return _draw(mean, std, generator) if decoder_noise else mean

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, decoder_noise: bool = False) -> Float[Tensor, "n D"]:
        """Top-down generation from z_L ~ N(0, I)."""
        like = next(self.parameters())
        top = torch.randn(n, self.sizes[-1], generator=generator, dtype=like.dtype, device=like.device)
        return self.decode(top, self.L, generator, decoder_noise)


def hvae_loss(model: HVAE, batch: Float[Tensor, "n D"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
    """Training loss: minus the one-sample bound of Eq. 2.1.3 in form (A), by bottom-up sampling."""
    reconstruction, penalties = model.elbo_terms(batch, generator)
    return (penalties.sum(1) - reconstruction).mean()


def _draw(mean: Tensor, std: Tensor, generator: torch.Generator | None) -> Tensor:
    return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)


def _log_normal(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (-0.5 * ((value - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)
