"""The score of data, or of data at one noise level, without a noise schedule (sections 3.2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mathcore._validate import one_of, positive
from mathcore.experiments.objectives.base import Objective, Statistics, normal

KINDS = ("exact", "sliced", "denoising", "sure")


@dataclass(frozen=True)
class ScoreMatching(Objective):
    """Four losses for one field, the score at noise level ``sigma``; the first two can do without noise.

    Attributes:
        kind: ``"exact"``, ``"sliced"`` (Proposition 3.2.1, section 3.3.1), ``"denoising"`` (Theorem 3.3.1), or ``"sure"``: a denoiser learned from noisy points
            alone (Eq. 3.3.7), whose score follows from Tweedie's formula.
        sigma: of the noise that is added to the data. start: standard deviation of the points that Langevin chains start from.

    Raises:
        ValueError: unknown kind, ``sigma`` or ``start`` not positive.
    """

    samplers: ClassVar[tuple[str, ...]] = ("langevin",)

    kind: str = "denoising"
    sigma: float | int = 0.2
    start: float | int = 2.0

    def __post_init__(self) -> None:
        one_of(self.kind, KINDS, "objective.kind"), positive(self.sigma, "objective.sigma"), positive(self.start, "objective.start")

    def loss(self, model: Any, batch: Any, statistics: Statistics, generator: torch.Generator) -> Tensor:
        """Return the loss of clean data; the last two see their noisy copies alone."""
        from mathcore.scores.denoise import sure
        from mathcore.scores.dsm import dsm_loss
        from mathcore.scores.matching import score_matching_loss

        sigma = float(self.sigma)

        def score(x: Tensor, _: Any = None) -> Tensor:
            return model(x, 0.0)

        if self.kind == "denoising":
            return dsm_loss(score, batch, sigma, weight="sigma2", generator=generator)
        noisy = batch + sigma * normal(batch.shape, generator)
        if self.kind == "sure":
            return sure(lambda x: x + sigma**2 * score(x), noisy, sigma).mean() / sigma**2
        return sigma**2 * score_matching_loss(score, noisy, self.kind, generator=generator)

    def sample(
        self, model: nn.Module, shape: tuple[int, ...], statistics: Statistics, method: str, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Run Langevin chains of ``steps`` steps of size sigma^2 / 10 at the one noise level."""
        from mathcore.scores.langevin import langevin

        one_of(method, self.samplers, "sampler")
        with torch.no_grad():
            return langevin(
                lambda x: model(x, 0.0), float(self.start) * normal(shape, generator), 0.1 * float(self.sigma) ** 2, steps, generator
            )
