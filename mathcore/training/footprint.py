"""What a training run will need of memory, counted on torch's meta device: every shape is computed, no number is.

>>> footprint(lambda: UNet(3, 32, width=128, mults=(1, 2, 2, 2)), (3, 32, 32), batch_size=128)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mathcore._validate import count


class Footprint(NamedTuple):
    """Number of ``parameters``, and bytes of what a training step keeps.

    ``weights``; their ``gradients``; the two moments of the ``optimiser``; the weight ``average``; and the ``activations`` that the forward pass keeps for
    the backward pass, for the part of a batch that a process computes at once. Not counted: work space, and the fragmentation of a real allocator.
    """

    parameters: int
    weights: int
    gradients: int
    optimiser: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all bytes."""
        return sum(self[1:])

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / 2**20:,.0f}" for name, value in zip(self._fields[1:], self[1:]))
        return f"{self.parameters:,} parameters; {self.total / 2**20:,.0f} MiB: {parts}"


def footprint(make: Callable[[], nn.Module], shape: tuple[int, ...], batch_size: int, bfloat16: bool = False) -> Footprint:
    """Count the memory of training ``make()`` on batches ``(batch_size, *shape)``, called as ``model(x, t)``.

    Args:
        make: builds the model; it is called with the meta device as default.
        shape: of one sample.
        batch_size: samples that one process computes at once: ``batch_size / (processes * accumulate)``.
        bfloat16: count the activations as under autocast, were all of them in bfloat16: a lower bound, since norms and sums stay in float32.

    Raises:
        ValueError: a batch that is not positive; what ``make`` returns keeps the shape of its input in no way (the model must map ``x`` to its shape).
    """
    count(batch_size, "batch_size")
    with torch.device("meta"):
        model = make().train()
        x, t = torch.empty(batch_size, *shape), torch.empty(batch_size)
    weights = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() * p.element_size() for p in weights)
    if bfloat16:
        model, x = model.bfloat16(), x.bfloat16()
    kept = _kept(model, x, t)
    return Footprint(sum(p.numel() for p in weights), size, size, 2 * size, size, kept)


def _kept(model: nn.Module, x: Tensor, t: Tensor) -> int:
    """Bytes of the tensors that autograd keeps, each memory once, without those of the weights."""
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        out = model(x, t)
    if out.shape != x.shape:
        raise ValueError(f"the model must map {tuple(x.shape)} to the same shape, got {tuple(out.shape)}")
    return sum(storage.nbytes() for storage in kept.values())
