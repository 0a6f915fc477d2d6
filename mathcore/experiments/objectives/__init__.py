"""What an experiment trains a network for, and how samples are drawn with it: one small frozen configuration per family of the book."""

from mathcore.experiments.objectives.base import Objective
from mathcore.experiments.objectives.chains import DDPM, NCSN
from mathcore.experiments.objectives.denoise import Denoise
from mathcore.experiments.objectives.latent import HVAEObjective, VAEObjective
from mathcore.experiments.objectives.scores import ScoreMatching
from mathcore.experiments.objectives.transport import CNF, Flow, Poisson, Reflow, Transfer

__all__ = [
    "CNF",
    "DDPM",
    "NCSN",
    "Denoise",
    "Flow",
    "HVAEObjective",
    "Objective",
    "Poisson",
    "Reflow",
    "ScoreMatching",
    "Transfer",
    "VAEObjective",
]
