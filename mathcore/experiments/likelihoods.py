"""Log-likelihoods of trained models, exact along their ODE or bounded by their latents: what ``mathcore evaluate`` prints in nats or bits."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mathcore.dynamics.likelihood import log_likelihood_ode
from mathcore.experiments.objectives import DDPM, Denoise, Flow, HVAEObjective, Transfer, VAEObjective
from mathcore.experiments.objectives.transport import log_normal
from mathcore.experiments.runs import Run
from mathcore.training.precision import single_precision

ODE_STEPS = 40
"""Runge-Kutta steps of a likelihood by the ODE, four calls of the network each."""


def log_likelihood(run: Run, x: Tensor, generator: torch.Generator) -> tuple[Tensor, str] | None:
    """Return the log-likelihood ``(N,)`` of data ``x`` in nats, or a lower bound of it, and which one it is; None where the model has neither.

    By the probability-flow ODE for velocities and for heads on a schedule that start from a normal law; by the evidence bound for VAEs and DDPM. The divergence
    is exact for points and Hutchinson's for images.

    Raises:
        ValueError: data of another shape.
    """
    if x.shape[1:] != run.shape:
        raise ValueError(f"data must have the shape {run.shape} of the model, got {tuple(x.shape[1:])}")
    with single_precision(), torch.no_grad():
        objective: Any = run.size.objective
        if isinstance(objective, HVAEObjective):
            terms, penalties = run.model.model.elbo_terms(x.flatten(1), generator)  # type: ignore[union-attr,operator]
            return terms - penalties.sum(1), "evidence bound"
        if isinstance(objective, VAEObjective):
            terms, kl = run.model.model.elbo_terms(x.flatten(1), generator)  # type: ignore[union-attr,operator]
            return terms - kl, "evidence bound"
        if isinstance(objective, DDPM):
            return -_ddpm_bound(run, objective, x, generator), "evidence bound"
        field = _velocity(run, objective)
        if field is None:
            return None
        velocity, prior, ts = field
        kind = "exact" if x.ndim == 2 and x.shape[1] <= 64 else "hutchinson"
        with torch.enable_grad():
            value = log_likelihood_ode(velocity, prior, x, ts, "rk4", kind, generator=generator)
        return value.detach(), f"ODE, {kind} divergence"


def _ddpm_bound(run: Run, objective: DDPM, x: Tensor, generator: torch.Generator) -> Tensor:
    """Minus the bound of Eq. 2.2.13, nats per row."""
    from mathcore.variational.ddpm import ddpm_elbo_terms

    terms = ddpm_elbo_terms(run.model, x, objective.chain(), float(objective.decoder_std), 1, objective.prediction, generator)
    return terms["prior"] + terms["recon"] + terms["diffusion"].sum(1)


def _velocity(run: Run, objective: Any) -> tuple[Callable[[Tensor, Any], Tensor], Callable[[Tensor], Tensor], Tensor] | None:
    """The velocity of the ODE, the log-density where it ends, and the grid from the data to there."""
    if isinstance(objective, Flow) and not isinstance(objective, Transfer) and objective.prior == "normal":
        return run.model, log_normal, torch.linspace(1, 0, ODE_STEPS + 1, dtype=torch.float64)
    if not isinstance(objective, Denoise) or objective.labelled:
        return None
    from mathcore.predictions import convert_prediction
    from mathcore.solvers import grids

    schedule = objective.process()
    noisiest, cleanest = grids.ends(schedule)
    fraction = torch.linspace(0, 1, ODE_STEPS + 1, dtype=torch.float64) ** 2.5
    ts = cleanest + (noisiest - cleanest) * fraction
    scale = float(schedule.sigma(noisiest))
    if objective.prediction == "edm":
        mean = run.statistics["mean"].to(run.device)
        denoiser = objective.denoiser(run.model, run.statistics)
        return (lambda x, t: denoiser.predict(x - mean, t, "velocity")), _scaled_normal(scale, mean), ts

    def velocity(x: Tensor, t: Any) -> Tensor:
        return convert_prediction(run.model(x, t), x, t, schedule, objective.prediction, "velocity")

    return velocity, _scaled_normal(scale, None), ts


def _scaled_normal(scale: float, mean: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Log-density of N(mean, scale^2 I)."""
    return lambda x: log_normal((x if mean is None else x - mean) / scale) - x[0].numel() * math.log(scale)
