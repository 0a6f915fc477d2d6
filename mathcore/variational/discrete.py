"""Latent-variable identities on finite tables: every expectation is a finite sum, so each holds to rounding error (section 2.1.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import floating


class DiscreteLatentModel:
    """p(z) p(x | z) on finite sets.

    Args:
        prior: p(z), ``(K,)``. likelihood: p(x | z), ``(K, X)``, rows sum to one. All entries positive.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that do not fit, entries that are not positive, rows that do not sum to one.
    """

    def __init__(self, prior: Float[Tensor, " K"], likelihood: Float[Tensor, "K X"]) -> None:
        self.prior = _table(prior, "prior", 1)
        self.likelihood = _table(likelihood, "likelihood", 2)
        if prior.shape[0] != likelihood.shape[0]:
            raise ValueError(f"likelihood must have one row per z, {prior.shape[0]}; got shape {tuple(likelihood.shape)}")

    def joint(self) -> Float[Tensor, "X K"]:
        """Generative joint p(x, z)."""
        return (self.prior[:, None] * self.likelihood).T

    def marginal(self) -> Float[Tensor, " X"]:
        """p(x)."""
        return self.joint().sum(1)

    def posterior(self) -> Float[Tensor, "X K"]:
        """p(z | x)."""
        return self.joint() / self.marginal()[:, None]

    def elbo(self, encoder: Float[Tensor, "X K"]) -> Float[Tensor, " X"]:
        """The bound of Theorem 2.1.1 for each x: reconstruction minus KL to the prior."""
        q = self._encoder(encoder)
        return (q * self.likelihood.T.log()).sum(1) - kl(q, self.prior.expand_as(q))

    def joint_kl_terms(self, data: Float[Tensor, " X"], encoder: Float[Tensor, "X K"]) -> dict[str, Float[Tensor, ""]]:
        """Both sides of section 2.1.2: total KL between the joints = modelling error + inference error."""
        q = self._encoder(encoder)
        p_data = _table(data, "data", 1)
        return {
            "total": kl((p_data[:, None] * q).reshape(1, -1), self.joint().reshape(1, -1))[0],
            "modelling": kl(p_data[None], self.marginal()[None])[0],
            "inference": p_data @ kl(q, self.posterior()),
        }

    def expected_elbo_terms(self, data: Float[Tensor, " X"], encoder: Float[Tensor, "X K"]) -> dict[str, Float[Tensor, ""]]:
        """The averaged bound as in section 2.1.5: reconstruction - mutual_information - aggregate_kl."""
        q = self._encoder(encoder)
        p_data = _table(data, "data", 1)
        aggregate = p_data @ q
        return {
            "reconstruction": p_data @ (q * self.likelihood.T.log()).sum(1),
            "mutual_information": p_data @ kl(q, aggregate.expand_as(q)),
            "aggregate_kl": kl(aggregate[None], self.prior[None])[0],
        }

    def _encoder(self, encoder: Tensor) -> Tensor:
        q = _table(encoder, "encoder", 2)
        if q.shape != self.likelihood.T.shape:
            raise ValueError(f"encoder must have shape {tuple(self.likelihood.T.shape)}, got {tuple(q.shape)}")
        return q


def kl(p: Float[Tensor, "n K"], q: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    """KL(p || q) of each row."""
    return (p * (p.log() - q.log())).sum(1)


def _table(table: Tensor, name: str, ndim: int) -> Tensor:
    floating(table, name, ndim=ndim)
    if not bool((table > 0).all()):
        raise ValueError(f"{name} must be positive everywhere, got a smallest entry of {float(table.min())}")
    sums = table.sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-8, rtol=0):
        raise ValueError(f"{name} must sum to one, got {sums.tolist()}")
    return table
