"""The adjoint equation against backpropagation, the derivative of the matrix exponential, and torchdiffeq."""

import math

import pytest
import torch
from torch import nn

from mathcore.dynamics import divergence, log_likelihood_ode, odeint_adaptive, odeint_fixed
from mathcore.flows import adjoint_gradient

f64 = torch.float64


def grid(steps, end=1.0):
    return torch.linspace(0, end, steps + 1, dtype=f64)


def square(x):
    return x.square().sum()


class Net(nn.Module):
    """A small time-dependent field in float64."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(8, 3, generator=g, dtype=f64))
        self.second = nn.Parameter(0.5 * torch.randn(2, 8, generator=g, dtype=f64))

    def forward(self, x, t):
        time = torch.full_like(x[:, :1], float(t))
        return torch.tanh(torch.cat([x, time], dim=1) @ self.first.T) @ self.second.T


def test_linear_field_in_closed_form(generator):
    """d/dM of c.exp(MT)x is the integral of exp(M(T-t))^T c (exp(Mt)x)^T: read off the exponential of a block matrix."""
    M = torch.tensor([[0.3, -0.8], [0.5, -0.2]], dtype=f64, requires_grad=True)
    x0, c, end = torch.randn(1, 2, generator=generator, dtype=f64), torch.randn(2, generator=generator, dtype=f64), 1.5
    got = adjoint_gradient(lambda x, t: x @ M.T, x0, grid(200, end), lambda x: (x @ c).sum(), [M])
    A, outer = M.detach(), torch.outer(c, x0[0])
    block = torch.zeros(4, 4, dtype=f64)
    # the upper right block of exp([[A^T, c x^T], [0, A^T]] T) is the integral of exp(A^T (T - s)) c x^T exp(A^T s)
    block[:2, :2], block[:2, 2:], block[2:, 2:] = A.T, outer, A.T
    want = torch.linalg.matrix_exp(end * block)[:2, 2:]
    # RK4 with 200 steps: error T h^4 |M|^5 / 120, of order 1e-11
    torch.testing.assert_close(got.parameters[0], want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got.x0[0], torch.linalg.matrix_exp(end * A.T) @ c, rtol=1e-8, atol=1e-10)
    assert float(got.value) == pytest.approx(float(torch.linalg.matrix_exp(end * A) @ x0[0] @ c), rel=1e-9)


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_against_backpropagation_and_torchdiffeq(end, generator):
    net, x0 = Net(), torch.randn(5, 2, generator=generator, dtype=f64)
    ts = grid(100).mul(end)
    got = adjoint_gradient(net, x0, ts, square)
    start = x0.clone().requires_grad_()
    direct = torch.autograd.grad(square(odeint_fixed(net, start, ts)), [start, *net.parameters()])
    fine = odeint_adaptive(net, start, ts[[0, -1]], rtol=1e-10, atol=1e-10, adjoint=True)
    library = torch.autograd.grad(square(fine), [start, *net.parameters()])
    for mine, through_steps, torchdiffeq in zip([got.x0, *got.parameters], direct, library):
        torch.testing.assert_close(mine, through_steps, rtol=1e-6, atol=1e-7)  # both have discretisation errors of h^4
        torch.testing.assert_close(mine, torchdiffeq, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(got.returned, x0, rtol=0, atol=1e-7)


def test_order_of_the_method(generator):
    """The gap to backpropagation through the same steps shrinks with the order of the method: it is discretisation alone."""
    net, x0 = Net(), torch.randn(3, 2, generator=generator, dtype=f64)
    for method, order in (("euler", 1), ("heun", 2), ("rk4", 4)):
        gaps = []
        for steps in (16, 32):
            start = x0.clone().requires_grad_()
            direct = torch.autograd.grad(square(odeint_fixed(net, start, grid(steps), method)), start)[0]
            gaps.append(float((adjoint_gradient(net, x0, grid(steps), square, method=method).x0 - direct).norm()))
        assert math.log2(gaps[0] / gaps[1]) > order - 0.4


def test_gradient_of_a_likelihood(generator):
    """The state is the point with the running divergence (Eq. 5.1.10); against backpropagation through log_likelihood_ode."""
    net, x = Net(), torch.randn(4, 2, generator=generator, dtype=f64)
    ts = grid(40).flip(0)

    def augmented(state, t):
        field = lambda y: net(y, t)  # noqa: E731
        return torch.cat([field(state[:, :2]), divergence(field, state[:, :2])[:, None]], dim=1)

    def loss(state):
        return (-0.5 * state[:, :2].square().sum(1) - math.log(2 * math.pi) + state[:, 2]).mean()

    got = adjoint_gradient(augmented, torch.cat([x, x.new_zeros(4, 1)], dim=1), ts, loss, net.parameters())
    value = log_likelihood_ode(net, lambda z: -0.5 * z.square().sum(1) - math.log(2 * math.pi), x, ts).mean()
    torch.testing.assert_close(got.value, value.detach(), rtol=1e-12, atol=0)
    for mine, direct in zip(got.parameters, torch.autograd.grad(value, list(net.parameters()))):
        torch.testing.assert_close(mine, direct, rtol=1e-5, atol=1e-6)


def saved_tensors(run):
    """Most tensors alive at once among those kept for a backward pass."""
    alive, most = 0, 0

    class Counted:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor = tensor
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    with torch.autograd.graph.saved_tensors_hooks(Counted, lambda kept: kept.tensor):
        run()
    return most


def test_memory_does_not_grow_with_the_steps(generator):
    net, x0 = Net(), torch.randn(3, 2, generator=generator, dtype=f64)
    adjoint = [saved_tensors(lambda n=n: adjoint_gradient(net, x0, grid(n), square)) for n in (10, 40)]
    direct = [saved_tensors(lambda n=n: square(odeint_fixed(net, x0, grid(n))).backward()) for n in (10, 40)]
    assert adjoint[0] == adjoint[1] > 0
    assert direct[1] > 3.5 * direct[0]


def test_fields_without_gradients():
    x0 = torch.ones(2, 3, dtype=f64)
    got = adjoint_gradient(lambda x, t: torch.full_like(x, t), x0, grid(10), square)
    torch.testing.assert_close(got.x0, 2 * (x0 + 0.5))
    assert got.parameters == ()
    unused = torch.ones(4, dtype=f64, requires_grad=True)
    got = adjoint_gradient(lambda x, t: -x, x0, grid(20), square, [unused])
    torch.testing.assert_close(got.parameters[0], torch.zeros(4, dtype=f64))
    torch.testing.assert_close(got.x0, 2 * math.exp(-2) * x0, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x0": torch.tensor([[1]])}, TypeError, "x0 must be a floating"),
        ({"x0": torch.full((1, 1), math.nan, dtype=f64)}, ValueError, "x0 contains NaN"),
        ({"method": "implicit_euler"}, ValueError, "method must be explicit"),
        ({"method": "rk5"}, ValueError, "method must be one of"),
        ({"ts": torch.tensor([0.0, 0.0])}, ValueError, "ts"),
        ({"loss": lambda x: 1.0}, TypeError, "loss must return a floating"),
        ({"loss": lambda x: x}, ValueError, "loss must return a 0-d"),
        ({"loss": lambda x: torch.zeros(())}, ValueError, "loss must depend"),
        ({"parameters": [1.0]}, TypeError, r"parameters\[0\] must be a floating"),
        ({"parameters": [torch.ones(1, requires_grad=True)]}, ValueError, r"parameters\[0\] must be torch.float64"),
        ({"parameters": [torch.ones(1, dtype=f64)]}, ValueError, "does not require a gradient"),
        ({"velocity": lambda x, t: x[:, :0]}, ValueError, "the field must return the shape"),
    ],
)
def test_refusals(change, error, match, user_errors):
    arguments = {"velocity": lambda x, t: -x, "x0": torch.ones(1, 1, dtype=f64), "ts": grid(4), "loss": square} | change
    with pytest.raises(error, match=match):
        adjoint_gradient(**arguments)
