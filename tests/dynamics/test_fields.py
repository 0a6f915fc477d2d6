"""Divergence and Jacobian of a field, against autograd's own Jacobian, closed forms and the moments of Hutchinson's estimate."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian as autograd_jacobian

from mathcore.data import examples
from mathcore.dynamics.fields import divergence, jacobian
from mathcore.networks import TimeMLP
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

A = torch.tensor([[1.0, -2.0, 0.3], [0.5, 0.7, 1.1], [-0.4, 0.2, -1.5]], dtype=torch.float64)


def bent(x):
    return torch.sin(x @ A.T) * x[:, :1]


def one_by_one(fn, x):
    return torch.stack([autograd_jacobian(lambda y: fn(y[None])[0], row) for row in x])


def test_jacobian_is_the_one_of_autograd_row_by_row(generator):
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(jacobian(bent, x), one_by_one(bent, x), rtol=1e-13, atol=1e-13)


def test_exact_divergence_is_the_trace_also_of_fields_of_any_shape(generator):
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)

    def field(y):
        return torch.sin(y @ A.T) * y.sum((1, 2), keepdim=True)

    full = autograd_jacobian(field, x).reshape(4, 6, 4, 6)
    want = torch.stack([full[n, :, n, :].trace() for n in range(4)])
    torch.testing.assert_close(divergence(field, x), want, rtol=1e-12, atol=1e-12)


def test_divergence_of_the_exact_velocity_is_the_oracles_closed_form(generator):
    oracle = AffineGaussianOracle(examples.ring(), AffineSchedule.vp())
    x = 2 * torch.randn(20, 2, dtype=torch.float64, generator=generator)
    for t in (0.05, 0.4, 0.9):
        got = divergence(lambda y, t=t: oracle.velocity(y, t), x)
        torch.testing.assert_close(got, oracle.divergence(x, t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("outer", [False, True])
def test_a_field_that_switches_gradients_off_has_the_same_derivatives(outer, generator):
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    quiet = torch.no_grad()(bent)
    with torch.set_grad_enabled(not outer):
        torch.testing.assert_close(divergence(quiet, x), divergence(bent, x))
        torch.testing.assert_close(jacobian(quiet, x), jacobian(bent, x))
        g = torch.Generator().manual_seed(1)
        noisy = divergence(quiet, x, "hutchinson", 2, generator=g)
        torch.testing.assert_close(noisy, divergence(bent, x, "hutchinson", 2, generator=g.manual_seed(1)))


def test_a_constant_field_has_no_divergence():
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert divergence(torch.ones_like, x).tolist() == [0.0, 0.0, 0.0]
    assert divergence(torch.ones_like, x[:0]).shape == (0,)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_has_the_mean_and_variance_of_its_theory(probe, generator):
    n, probes = 40_000, 2
    x = torch.zeros(n, 3, dtype=torch.float64)
    got = divergence(lambda y: y @ A.T, x, "hutchinson", probes, probe, generator)
    sym = (A + A.T) / 2
    square = sym.square().sum() if probe == "gaussian" else sym.square().sum() - sym.diagonal().square().sum()
    variance = float(2 * square / probes)
    assert abs(float(got.mean() - A.trace())) < 5 * math.sqrt(variance / n)
    # standard error of a sample variance: sqrt((kurtosis - 1) / n); both kurtoses are below 15 here
    assert abs(float(got.var()) / variance - 1) < 5 * math.sqrt(14 / n)


def test_signs_are_exact_where_the_jacobian_is_diagonal(generator):
    x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(divergence(torch.exp, x, "hutchinson", generator=generator), x.exp().sum(1))


def test_the_divergence_can_be_trained(generator):
    """d/dB of the divergence of B x is the identity for each row; and through a network every weight but the last bias gets a gradient."""
    B = A.clone().requires_grad_()
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    divergence(lambda y: y @ B.T, x).sum().backward()
    torch.testing.assert_close(B.grad, 7 * torch.eye(3, dtype=torch.float64))
    net = TimeMLP(3, hidden=8, depth=2)
    divergence(lambda y: net(y, 0.3), x.float()).square().mean().backward()
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters()) >= len(list(net.parameters())) - 2


def test_derivative_of_the_divergence_in_space(generator):
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    gradient = torch.func.grad(lambda y: divergence(bent, y).sum())(x)
    h = 1e-5
    for i in range(3):
        e = torch.zeros_like(x)
        e[:, i] = h
        central = (divergence(bent, x + e) - divergence(bent, x - e)) / (2 * h)
        torch.testing.assert_close(gradient[:, i], central, rtol=1e-8, atol=1e-8)  # h^2 truncation 1e-10, rounding 1e-16 / h


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"method": "exakt"}, ValueError, "method must be one of"),
        ({"method": "hutchinson", "probe": "uniform"}, ValueError, "probe must be one of"),
        ({"method": "hutchinson", "n_probes": 0}, ValueError, "n_probes"),
        ({"x": torch.tensor([[float("nan")]])}, ValueError, "x contains NaN"),
        ({"x": torch.tensor([[1]])}, TypeError, "x must be a floating-point"),
        ({"x": [[1.0]]}, TypeError, "x must be a torch.Tensor"),
        ({"x": torch.tensor(1.0)}, ValueError, "0-d"),
        ({"fn": lambda x: x[:, :1]}, ValueError, "shape of its input"),
        ({"fn": lambda x: x.long()}, TypeError, "floating-point"),
        ({"fn": lambda x: 1.0}, TypeError, "float"),
    ],
)
def test_divergence_refuses(user_errors, kwargs, error, match):
    with pytest.raises(error, match=match):
        divergence(**{"fn": torch.sin, "x": torch.ones(2, 2), **kwargs})


def test_jacobian_refuses_what_is_no_list_of_points(user_errors):
    with pytest.raises(ValueError, match="2 axes"):
        jacobian(torch.sin, torch.ones(2, 2, 2))
