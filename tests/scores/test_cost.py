"""Counted operations against the sizes of the matrices."""

import pytest
import torch

from mathcore.networks import MLP
from mathcore.scores.cost import matmul_flops
from mathcore.scores.matching import score_matching_loss


def test_products_by_hand():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert matmul_flops(lambda: a @ b) == 2 * 3 * 4 * 5
    assert matmul_flops(lambda: torch.exp(a)) == 0
    weight = b.clone().requires_grad_()
    assert matmul_flops(lambda: (a @ weight).sum().backward()) == 2 * 2 * 3 * 4 * 5  # forward, and one product for the weight


def test_the_exact_trace_costs_a_backward_pass_for_each_coordinate():
    net, x = MLP(6, 6, hidden=16, depth=2), torch.zeros(10, 6)
    forward = matmul_flops(lambda: net(x))
    assert forward == 2 * 10 * (6 * 16 + 16 * 16 + 16 * 6)
    # a backward pass to the input repeats every product once
    assert matmul_flops(lambda: score_matching_loss(net, x)) == (1 + 6) * forward
    assert matmul_flops(lambda: score_matching_loss(net, x, "sliced", n_probes=2)) == (1 + 2) * forward


def test_refusal(user_errors):
    with pytest.raises(TypeError, match="fn must be a function"):
        matmul_flops(3)
