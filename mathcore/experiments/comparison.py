"""All models of handwritten digits side by side: one network, one budget of training, one ruler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mathcore._validate import count
from mathcore.experiments.ddpm_digits import ddpm_digits
from mathcore.experiments.digits import score_digits
from mathcore.experiments.edm_digits import edm_digits
from mathcore.experiments.flow_matching_digits import flow_matching_digits
from mathcore.experiments.ncsn_digits import ncsn_digits
from mathcore.experiments.poisson_digits import poisson_digits
from mathcore.experiments.reflow_digits import reflow_digits
from mathcore.experiments.score_sde_digits import score_sde_digits
from mathcore.settings import settings

Images = Float[Tensor, "n 1 h h"]
Spread = tuple[float, float]
"""Mean and standard deviation over the seeds."""


@dataclass(frozen=True)
class DigitModel:
    """``sample(n, generator)`` draws images ``(n, 1, H, H)`` in ``calls`` calls of the network; ``page``: the notebook that builds the model."""

    name: str
    page: str
    calls: int
    sample: Callable[[int, torch.Generator], Images]


@dataclass(frozen=True)
class DigitRow:
    """One line of the comparison: the scores of :func:`~mathcore.experiments.digits.score_digits`, ``nearest`` the median distance to a training image."""

    name: str
    page: str
    calls: int
    energy: Spread
    frechet: Spread
    nearest: Spread


def digit_models() -> tuple[DigitModel, ...]:
    """Return the models of chapters 2 to 5 and of appendix D in their order, trained, or read where they are kept: three minutes on one core at the CPU scale.

    All have the network, the initial weights and the number of training steps of :func:`~mathcore.experiments.digits.train_digits`, and the sampler of
    their own page.
    """
    ddpm, ncsn, sde = ddpm_digits(), ncsn_digits(), score_sde_digits()
    flow, reflow, poisson, edm = flow_matching_digits(), reflow_digits(), poisson_digits("cauchy"), edm_digits()
    ladder = len(ncsn.sigmas)
    return (
        DigitModel("DDPM, ancestral", "ch02-6-ddpm-digits", ddpm.schedule.L, ddpm.sample),
        DigitModel("NCSN, annealed Langevin", "ch03-3-ncsn", 5 * ladder + 1, lambda n, g: ncsn.sample(n, 5, g)),
        DigitModel("score SDE, ancestral", "ch04-4-training-and-sampling", 100, lambda n, g: sde.sample(n, 100, "ancestral", g)),
        DigitModel("score SDE, DPM-Solver++ 2M", "ch04-4-training-and-sampling", 20, lambda n, g: sde.sample(n, 20, "dpm_solver_pp", g)),
        DigitModel("flow matching, Heun", "ch05-3-flow-matching", 20, lambda n, g: flow.sample(n, 10, "heun", g)),
        DigitModel("reflow, Euler", "ch05-5-rectified-flow", 5, lambda n, g: reflow.sample(n, 5, "euler", g)),
        DigitModel("Poisson flow, Euler", "ch05-6-force-fields", 18, lambda n, g: poisson.sample(n, 18, g)),
        DigitModel("EDM, Heun", "app-d-edm", 35, lambda n, g: edm.sample(n, 18, g)),
    )


def compare_digits(models: Sequence[DigitModel], n: int, seeds: Sequence[int]) -> list[DigitRow]:
    """Draw ``n`` images of each model for each seed and measure them; ``digit_floors(n)`` says what as many real images would score.

    Raises:
        ValueError: ``n`` below 4, fewer than two seeds, a seed twice.
    """
    count(n, "n", 4)
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be at least two different numbers, got {list(seeds)}")
    rows = []
    for model in models:
        scores = [score_digits(model.sample(n, torch.Generator(settings.device).manual_seed(seed))) for seed in seeds]
        numbers = [[s.energy, s.frechet, float(s.nearest.generated[len(s.nearest.levels) // 2])] for s in scores]
        spreads = [(float(v.mean()), float(v.std())) for v in torch.tensor(numbers, dtype=torch.float64).T]
        rows.append(DigitRow(model.name, model.page, model.calls, *spreads))
    return rows
