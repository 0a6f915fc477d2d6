"""One reflow of handwritten digits (section 5.4.2): the flow-matching network trained once more, on the pairs that its predecessor makes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mathcore._validate import count, floating
from mathcore.experiments.digits import digits_size, train_digits
from mathcore.experiments.flow_matching_digits import FlowMatchingDigits, flow_matching_digits
from mathcore.flows.matching import cfm_loss
from mathcore.flows.rectified import reflow_pairs
from mathcore.training.precision import single_precision

Images = Float[Tensor, "n 1 h h"]

PAIR_STEPS = 10
"""Steps of Heun's method from a noise to its image."""

PAIRS = 4096
"""Pairs that the reflow is trained on at the CPU scale, some three for each training image; twelve times as many at the full scale."""


def digit_pairs(model: FlowMatchingDigits, n: int, generator: torch.Generator | None = None) -> tuple[Images, Images]:
    """Draw ``n`` noises and return them with the images to which the ODE of ``model`` carries them (Eq. 5.4.2): both ``(n, 1, H, H)``.

    Twenty calls of the network; 1024 pairs take about two seconds on one core at the CPU scale.

    Raises:
        ValueError: ``n`` below 1.
    """
    first = next(model.network.parameters())

    def noise(m: int, g: torch.Generator | None) -> Tensor:
        return torch.randn((m, *model.shape), generator=g, dtype=first.dtype, device=first.device)

    sizes = [min(1024, n - start) for start in range(0, count(n, "n"), 1024)]  # a thousand at a time, for the memory of an accelerator
    with single_precision():
        parts = [reflow_pairs(model.velocity, noise, size, PAIR_STEPS, "heun", generator) for size in sizes]
    starts, ends = zip(*parts)
    return torch.cat(starts), torch.cat(ends)


def reflow_loss(
    model: nn.Module, pairs: tuple[Images, Images], teacher: FlowMatchingDigits, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Estimate the loss of Eq. 5.4.2 per pixel, on the straight lines between the two ends of each pair.

    Raises:
        TypeError, ValueError: as :func:`~mathcore.flows.matching.cfm_loss`.
    """
    noise, images = pairs
    return cfm_loss(model, noise, images, None, teacher.path, generator=generator) / floating(images, "images", ndim=4)[0].numel()


def reflow_digits() -> FlowMatchingDigits:
    """Train a second velocity on pairs of the flow-matching model, or read the kept run: half a minute on one core at the CPU scale.

    It starts from the weights that all digit models start from and takes as many steps, so that it and its teacher differ in the pairs alone. No
    training image is seen; noise and image are bound to each other, and at a small loss the paths are nearly straight.
    """
    teacher, n = flow_matching_digits(), PAIRS if digits_size().size == 8 else 12 * PAIRS

    def pairs() -> tuple[Images, Images]:
        return digit_pairs(teacher, n, torch.Generator(next(teacher.network.parameters()).device).manual_seed(0))

    def loss(model: nn.Module, batch: tuple[Images, Images], generator: torch.Generator) -> Tensor:
        return reflow_loss(model, batch, teacher, generator)

    run = train_digits("reflow", loss, t_max=1.0, data=pairs)
    return FlowMatchingDigits(run.model, teacher.path, run.losses, teacher.shape)
