"""The experiments of the book by name, one for each that trains something in chapters 2 to 6, 9 and appendix D.

The small size is that of the notebooks, half a minute or less on one core. The full size is written for one GPU or several and has the data sets, networks
and numbers of steps of the literature. What the notebooks compute from exact fields, without training, is not listed here.
"""

from dataclasses import replace
from difflib import get_close_matches

from mathcore.experiments.configs import Convolutional, Experiment, Perceptron, Size
from mathcore.experiments.digits import CPU
from mathcore.experiments.objectives import (
    CNF,
    DDPM,
    NCSN,
    Denoise,
    Flow,
    HVAEObjective,
    Objective,
    Poisson,
    Reflow,
    ScoreMatching,
    Transfer,
    VAEObjective,
)
from mathcore.experiments.two_moons import TWO_MOONS
from mathcore.training import TrainConfig

DIGITS = CPU.config
"""Training of every digit model of the book at the small size."""

IMAGES = TrainConfig(steps=100_000, batch_size=256, lr=4e-4, warmup=2000, decay="cosine", ema=0.9995, bfloat16=True, compile=True)
"""Training on images at the full size. Channels innermost made each step longer on the card that it was measured on."""

COLOUR = replace(IMAGES, steps=200_000, batch_size=512, lr=2e-4, warmup=5000, ema=0.9999)
"""Training on CIFAR-10 at the full size."""

PLANE = TrainConfig(steps=3000, batch_size=256, lr=3e-3, decay="cosine")
LONG = TrainConfig(steps=100_000, batch_size=4096, lr=1e-3, warmup=1000, decay="cosine", ema=0.9995)

SMALL_UNET = Convolutional(CPU.width, CPU.mults)
GREY_UNET = Convolutional(64, (1, 2, 2), 256)
COLOUR_UNET = Convolutional(128, (1, 2, 2, 2), 512)


def _digits(objective: Objective, sampler: str, steps: int, measured: str, train: TrainConfig = DIGITS) -> Size:
    """Small size of the digit experiments."""
    return Size("digits8", SMALL_UNET, objective, train, sampler, steps, measured)


def _grey(objective: Objective, sampler: str, steps: int, data: str = "mnist") -> Size:
    """Full size on grey images of 28 x 28."""
    return Size(data, GREY_UNET, objective, IMAGES, sampler, steps)


def _colour(objective: Objective, sampler: str, steps: int) -> Size:
    """Full size on colour images of 32 x 32."""
    return Size("cifar10", COLOUR_UNET, objective, COLOUR, sampler, steps)


def _plane(data: str, objective: Objective, sampler: str, steps: int, measured: str, train: TrainConfig = PLANE, hidden: int = 128) -> Size:
    """Small size on points of the plane."""
    return Size(data, Perceptron(hidden, 3, 30.0), objective, train, sampler, steps, measured)


def _large(data: str, objective: Objective, sampler: str, steps: int, train: TrainConfig = LONG, hidden: int = 512) -> Size:
    """Full size on points."""
    return Size(data, Perceptron(hidden, 4, 30.0), objective, train, sampler, steps)


_CHAPTER_2 = (
    Experiment(
        "vae-ring",
        "2",
        "a VAE puts mass between the modes",
        "ch02-1-vae",
        cpu=_plane("ring", VAEObjective(), "prior", 1, "11 s"),
        gpu=Size("mnist", Perceptron(512, 3), VAEObjective(32, 0.3), replace(IMAGES, lr=1e-3), "prior", 1),
    ),
    Experiment(
        "hvae-nested",
        "2",
        "two latent layers on groups of modes",
        "ch02-2-hvae",
        cpu=_plane("nested", HVAEObjective(2, 0.15), "prior", 1, "12 s", hidden=64),
        gpu=Size("mnist", Perceptron(512, 3), HVAEObjective(64, 0.3, 16), replace(IMAGES, lr=1e-3), "prior", 1),
    ),
    Experiment(
        "ddpm-ring",
        "2",
        "DDPM of eight modes in the plane",
        "ch02-4-ddpm-training",
        cpu=_plane("ring", DDPM(100), "ancestral", 100, "13 s"),
        gpu=_large("modes50", DDPM(1000), "ancestral", 1000),
    ),
    Experiment(
        "ddpm-digits",
        "2",
        "DDPM of images",
        "ch02-6-ddpm-digits",
        cpu=_digits(DDPM(100), "ancestral", 100, "23 s"),
        gpu=_grey(DDPM(1000), "ancestral", 1000),
    ),
)

_CHAPTER_3 = (
    Experiment(
        "score-matching-moons",
        "3",
        "the score by four losses",
        "ch03-2-denoising-score-matching",
        cpu=_plane("two_moons", ScoreMatching(), "langevin", 1000, "10 s"),
        gpu=_large("modes50", ScoreMatching("sliced", 0.1), "langevin", 5000),
    ),
    Experiment(
        "ncsn-moons",
        "3",
        "a ladder of noise levels weighs the modes",
        "ch03-3-ncsn",
        cpu=_plane("two_moons", NCSN(levels=10), "langevin", 10, "9 s"),
        gpu=_large("modes50", NCSN(), "langevin", 5),
    ),
    Experiment(
        "ncsn-digits",
        "3",
        "NCSN of images",
        "ch03-3-ncsn",
        cpu=_digits(NCSN(), "langevin", 5, "18 s"),
        gpu=_grey(NCSN(0.01), "langevin", 5),
    ),
)

_CHAPTER_4 = (
    Experiment(
        "score-ring",
        "4",
        "denoising finds the marginal score",
        "ch04-4-training-and-sampling",
        cpu=_plane("ring4", Denoise(times="quadratic"), "dpm_solver_pp", 20, "11 s"),
        gpu=_large("modes50", Denoise(times="quadratic"), "dpm_solver_pp", 20),
    ),
    Experiment(
        "score-sde-digits",
        "4",
        "score SDE, variance preserving",
        "ch04-4-training-and-sampling",
        cpu=_digits(Denoise(weight="sigma2", grey_step=CPU.grey_step), "ancestral", 100, "21 s"),
        gpu=_colour(Denoise(weight="sigma2", grey_step=2 / 255), "ancestral", 1000),
    ),
    Experiment(
        "ve-digits",
        "4",
        "score SDE, variance exploding",
        "ch04-4-training-and-sampling",
        cpu=_digits(Denoise("ve", weight="sigma2", times="lognormal"), "ancestral", 100, "22 s"),
        gpu=_colour(Denoise("ve", weight="sigma2", times="lognormal"), "ancestral", 1000),
    ),
    Experiment(
        "likelihood-digits",
        "4",
        "likelihood weighting, omega = g^2",
        "ch04-4-training-and-sampling",
        cpu=_digits(Denoise(weight="g2", grey_step=CPU.grey_step), "ancestral", 100, "23 s"),
        gpu=_colour(Denoise(weight="g2", grey_step=2 / 255), "ancestral", 1000),
    ),
)

_CHAPTER_5 = (
    Experiment(
        "flow-matching-ring",
        "5",
        "flow matching and the floor of its loss",
        "ch05-3-flow-matching",
        cpu=_plane("ring", Flow(), "heun", 20, "11 s"),
        gpu=_large("modes50", Flow(), "heun", 50),
    ),
    Experiment(
        "cnf-moons",
        "5",
        "the same network by maximum likelihood",
        "ch05-2-neural-odes",
        cpu=_plane("two_moons", CNF(), "rk4", 8, "9 s", TrainConfig(steps=100, batch_size=128, lr=1e-2, warmup=10, decay="cosine"), 32),
        gpu=_large("modes50", CNF(ode_steps=20, divergence="hutchinson"), "rk4", 20, replace(LONG, steps=20_000)),
    ),
    Experiment(
        "moons-to-ring",
        "5",
        "from one mixture, or class, to another",
        "ch05-4-paths-and-velocities",
        cpu=_plane("ring", Transfer(), "heun", 20, "14 s"),
        gpu=_grey(Transfer(source_class=0, target_class=1), "heun", 50),
    ),
    Experiment(
        "flow-matching-digits",
        "5",
        "flow matching of images",
        "ch05-3-flow-matching",
        cpu=_digits(Flow(), "heun", 10, "22 s"),
        gpu=_colour(Flow(), "heun", 50),
    ),
    Experiment(
        "reflow-digits",
        "5",
        "reflow, after flow-matching-digits",
        "ch05-5-rectified-flow",
        cpu=_digits(Reflow(), "euler", 5, "26 s"),
        gpu=_colour(Reflow(pairs=100_000, pair_steps=50), "euler", 2),
    ),
    Experiment(
        "poisson-ring",
        "5",
        "Poisson flow of points",
        "ch05-6-force-fields",
        cpu=_plane("ring", Poisson(), "euler", 18, "10 s"),
        gpu=_colour(Poisson(), "euler", 35),
    ),
    Experiment(
        "poisson-digits",
        "5",
        "Poisson flow and its Gaussian twin",
        "ch05-6-force-fields",
        cpu=_digits(Poisson(), "euler", 18, "23 s"),
        gpu=_grey(Poisson(), "euler", 35),
    ),
    Experiment(
        "prior-moons",
        "5",
        "any prior, any path",
        "ch05-7-characteristics",
        cpu=_plane("two_moons", Flow(prior="uniform"), "heun", 20, "9 s"),
        gpu=_grey(Flow(prior="uniform"), "heun", 50, "fashion_mnist"),
    ),
)

_CHAPTER_6 = (
    Experiment(
        "heads-moons",
        "6",
        "four heads on any schedule",
        "ch06-1-conditioning-and-targets",
        cpu=_plane("two_moons", Denoise("trig", "velocity"), "dpm_solver_pp", 20, "9 s"),
        gpu=_colour(Denoise("trig", "velocity"), "dpm_solver_pp", 20),
    ),
)

_CHAPTER_9 = (
    Experiment(
        "solver-moons",
        "9",
        "the network on which solvers are compared",
        "ch09-2-deis",
        cpu=Size("two_moons", Perceptron(max_frequency=30.0), Denoise(times="quadratic"), TWO_MOONS, "dpm_solver_pp", 20, "11 s"),
        gpu=_large("two_moons", Denoise(times="quadratic"), "dpm_solver_pp", 20),
    ),
    Experiment(
        "conditional-moons",
        "9",
        "two moons under classifier-free guidance",
        "ch09-8-choosing-a-sampler",
        cpu=_plane("two_moons", Denoise(times="quadratic", p_empty=0.1, guidance=2.0), "dpm_solver_pp", 20, "11 s"),
        gpu=_large("two_moons", Denoise(times="quadratic", p_empty=0.1, guidance=2.0), "dpm_solver_pp", 20),
    ),
    Experiment(
        "conditional-digits",
        "9",
        "images by class, classifier-free guidance",
        "ch09-8-choosing-a-sampler",
        cpu=_digits(Denoise("trig", "velocity", p_empty=0.1, guidance=2.0), "dpm_solver_pp", 20, "22 s"),
        gpu=_colour(Denoise("cosine", "noise", p_empty=0.1, guidance=2.0), "dpm_solver_pp", 20),
    ),
)

_APPENDIX_D = (
    Experiment(
        "edm-moons",
        "D",
        "EDM's head beside the others",
        "app-d-edm",
        cpu=_plane("two_moons", Denoise("edm", "edm", times="lognormal"), "heun", 18, "18 s"),
        gpu=_large("modes50", Denoise("edm", "edm", times="lognormal"), "heun", 18),
    ),
    Experiment(
        "edm-digits",
        "D",
        "EDM-preconditioned images, Heun in 18 steps",
        "app-d-edm",
        cpu=_digits(Denoise("edm", "edm", times="lognormal"), "heun", 18, "23 s"),
        gpu=_colour(Denoise("edm", "edm", times="lognormal"), "heun", 18),
    ),
)

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e for e in (*_CHAPTER_2, *_CHAPTER_3, *_CHAPTER_4, *_CHAPTER_5, *_CHAPTER_6, *_CHAPTER_9, *_APPENDIX_D)
}
"""All experiments in the order of the book."""


def experiment(name: str) -> Experiment:
    """Return the experiment called ``name``.

    Raises:
        ValueError: there is none; the message names near ones.
    """
    if name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "mathcore experiments lists them"
        raise ValueError(f"there is no experiment {name!r}; {hint}")
    return EXPERIMENTS[name]
