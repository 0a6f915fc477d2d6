"""Shapes and memory on the meta device, against hand counts, the real thing, and all full sizes of the experiments."""

import resource

import pytest
import torch
from torch import nn

from mathcore.networks import UNet
from mathcore.training.footprint import footprint


class Two(nn.Module):
    """Two layers: what autograd keeps can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7, bias=False), nn.Linear(7, 5, bias=False)

    def forward(self, x, t):
        return self.second(self.first(x).sigmoid())


def test_by_hand():
    # kept: the input (N, 5) for the first weight, the sigmoid (N, 7) for itself and the second weight, which is the same memory
    found = footprint(Two, (5,), 10)
    assert found.parameters == 70
    assert (found.weights, found.gradients, found.optimiser, found.average) == (280, 280, 560, 280)
    assert found.activations == 4 * 10 * (5 + 7)
    assert found.total == 280 * 5 + 480
    assert footprint(Two, (5,), 10, bfloat16=True)[:5] == found[:5]
    assert footprint(Two, (5,), 10, bfloat16=True).activations == 240
    assert footprint(Two, (5,), 20).activations == 960


def test_the_same_on_real_tensors():
    """What autograd keeps of a real forward pass: its memory, address by address."""
    model, x, kept = UNet(1, 8, width=16), torch.randn(4, 1, 8, 8), {}
    own = {p.data_ptr() for p in model.parameters()}

    def pack(saved):
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        model(x, torch.rand(4))
    want = sum(s.nbytes() for address, s in kept.items() if address not in own)
    # kernels of the CPU may keep a statistic in another shape than those of the meta device
    assert footprint(lambda: UNet(1, 8, width=16), (1, 8, 8), 4).activations == pytest.approx(want, rel=0.02)


def parameters(c, widths, d):
    """Weights of the U-Net, layer by layer: blocks on the way down, in the middle and up; attention, time features, first and last convolution."""

    def block(a, b):
        return 2 * a + (9 * a + 1) * b + 2 * b + (9 * b + 1) * b + (d + 1) * 2 * b + (0 if a == b else (a + 1) * b)

    first, last = widths[0], widths[-1]
    blocks = [*zip([first, *widths], widths), (last, last), *((a + b, b) for a, b in zip([*widths[1:], last], widths))]
    attention = 2 * last + (last + 1) * 3 * last + (last + 1) * last
    return sum(block(a, b) for a, b in blocks) + attention + 2 * (d + 1) * d + (9 * c + 1) * first + 2 * first + (9 * first + 1) * c


@pytest.mark.parametrize(("channels", "size", "width", "mults"), [(1, 28, 64, (1, 2, 2)), (3, 32, 128, (1, 2, 2, 2))])
def test_the_full_sizes_of_the_unet_take_no_memory_to_count(channels, size, width, mults):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = footprint(lambda: UNet(channels, size, width=width, mults=mults, d_embed=4 * width), (channels, size, size), 256)
    assert found.parameters == parameters(channels, [width * k for k in mults], 4 * width)
    assert found.activations > 2**30
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < found.activations / 4
    half = footprint(lambda: UNet(channels, size, width=width, mults=mults, d_embed=4 * width), (channels, size, size), 256, bfloat16=True)
    assert 0.45 < half.activations / found.activations < 0.65
    # parts of a batch need that much less
    part = footprint(lambda: UNet(channels, size, width=width, mults=mults, d_embed=4 * width), (channels, size, size), 64)
    assert part.activations == pytest.approx(found.activations / 4, rel=0.01)


def full_sizes():
    from mathcore.experiments.configs import Convolutional
    from mathcore.experiments.registry import EXPERIMENTS

    return [e.name for e in EXPERIMENTS.values() if isinstance(e.gpu.network, Convolutional)]


@pytest.mark.parametrize("name", full_sizes())
def test_every_full_size_of_images_fits_one_large_card(name):
    """Network of the objective on the meta device: output of the right shape, memory of a step below 80 GB."""
    from mathcore.experiments.datasets import shape_of
    from mathcore.experiments.registry import experiment

    size = experiment(name).gpu
    shape = shape_of(size.data)
    found = footprint(lambda: size.network.build(shape, 1.0, 0), shape, size.train.batch_size // size.train.accumulate)
    assert 1e5 < found.parameters < 2e8
    assert found.total < 80e9, str(found)


def test_bad_input(user_errors):
    with pytest.raises(ValueError, match="batch_size"):
        footprint(Two, (5,), 0)

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x, t):
            return self.layer(x)

    with pytest.raises(ValueError, match=r"must map \(3, 5\) to the same shape, got \(3, 2\)"):
        footprint(Narrow, (5,), 3)
    assert "70 parameters; " in str(footprint(Two, (5,), 1))
