"""Predictor-corrector samplers: a step of a sampler, then Langevin steps that repair the marginal (Song et al. 2021; section 4.3.3)."""

from itertools import pairwise

from torch import Tensor

from mathcore._validate import count, one_of, positive
from mathcore.solvers.builder import Builder, Schedule
from mathcore.solvers.ddim import ddim_step, euler_maruyama_step
from mathcore.solvers.table import SolverTable

PREDICTORS = ("ancestral", "euler_maruyama", "ddim")


def predictor_corrector(
    schedule: Schedule,
    times: Tensor,
    prediction: str = "noise",
    predictor: str = "ancestral",
    n_corrector: int = 1,
    snr: float | int = 0.16,
) -> SolverTable:
    """A predictor step to t, then ``n_corrector`` Langevin steps x <- x + d score(x, t) + sqrt(2 d) z at t, with d = 2 (snr sigma_t)^2.

    The published rule is d = 2 (snr |z| / |score|)^2 with norms taken over the batch. That is no linear combination of what a table has seen; since
    |z| is about sqrt(D) and |score| about sqrt(D) / sigma_t, the fixed rule takes their ratio to be sigma_t. Langevin steps of finite length leave a
    law slightly too wide: for N(0, v) the variance v / (1 - d / (2 v)), so that the error does not fall below O(snr^2) however fine the grid.

    Args:
        schedule, times, prediction: see ``Builder``. predictor: ``"ancestral"``, ``"euler_maruyama"`` (no ``DiscreteSchedule``) or ``"ddim"``.
        n_corrector: Langevin steps per node, 0 or more; each costs a model call. A node at sigma = 0, where there is no score, gets none.
        snr: noise-to-score ratio of the step, positive; d / sigma_t^2 = 2 snr^2.

    Raises:
        ValueError: unknown predictor, a negative number of corrector steps, snr not positive, a bad grid, a singular conversion.
    """
    one_of(predictor, PREDICTORS, "predictor")
    count(n_corrector, "n_corrector", 0)
    r = positive(snr, "snr")
    build = Builder(f"predictor_corrector({predictor}, {n_corrector}, snr={r:g})", schedule, times, prediction)
    x = build.start
    for s, t in pairwise(build.nodes):
        if predictor == "euler_maruyama":
            new = euler_maruyama_step(build, x, s, t, 1.0)
        else:
            new = ddim_step(build, x, s, t, eta=1.0 if predictor == "ancestral" else 0.0)
        for _ in range(n_corrector if t.sigma else 0):
            x = build.state(new, t, stage=True)
            # d score = -2 snr^2 sigma eps, sqrt(2 d) = 2 snr sigma
            new = x - 2 * r**2 * t.sigma * build.evaluate(x).noise + 2 * r * t.sigma * build.noise
        x = build.state(new, t)
    return build.table()
