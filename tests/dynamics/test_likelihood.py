"""Log-likelihoods along an ODE, against the exact log-density of the mixture, against linear flows, and round trips through the code."""

import math

import pytest
import torch
from torch.distributions import Normal

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.integrate import SolverDivergedError
from mathcore.dynamics.likelihood import bits_per_dim, decode, encode, log_likelihood_ode
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers.diagnostics import Exact1D, convergence_order

F64 = {"dtype": torch.float64}


def standard(z):
    return Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)


@pytest.mark.parametrize("divergence", ["exact", "closed"])
def test_the_density_of_a_mixture_in_the_plane(divergence, generator):
    """Exact p_T instead of the prior: the density of the data comes back, in any number of modes."""
    oracle = AffineGaussianOracle(examples.ring(), AffineSchedule.vp())
    x = torch.cat([oracle.data.sample(8, generator), torch.tensor([[0.0, 0.0], [3.0, 3.0]], **F64)])
    ts = torch.linspace(0, 1, 41, **F64) ** 2.5
    kind = oracle.divergence if divergence == "closed" else divergence
    got = log_likelihood_ode(oracle.velocity, lambda z: oracle.log_prob(z, 1.0), x, ts, divergence=kind)
    # 40 steps of RK4; their error is fourth order (next test)
    torch.testing.assert_close(got, oracle.log_prob(x, 0.0), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_the_answer_has_the_order_of_the_method(method, order):
    data, schedule = examples.two_modes(), AffineSchedule.edm(3.0)
    oracle, velocity = AffineGaussianOracle(data, schedule), Exact1D(data, schedule, "velocity")
    x, counts, errors = torch.tensor([[-1.5], [-0.3], [0.4], [1.8]], **F64), (25, 50, 100) if order == 4 else (50, 100, 200), []
    for n in counts:
        ts = torch.linspace(0.1, 0.6, n + 1, **F64)
        got = log_likelihood_ode(velocity, lambda z: oracle.log_prob(z, 0.6), x, ts, method)
        errors.append(float((got - oracle.log_prob(x, 0.1)).abs().max()))
    assert abs(convergence_order(counts, errors) - order) < 0.15, errors


def test_the_prior_instead_of_the_last_marginal_costs_their_difference():
    oracle = AffineGaussianOracle(examples.two_modes(), AffineSchedule.vp())
    x, ts = torch.tensor([[-1.5], [0.4], [1.8]], **F64), torch.linspace(0, 0.5, 60, **F64)
    got = log_likelihood_ode(oracle.velocity, standard, x, ts, divergence=oracle.divergence)
    code = oracle.flow_map(x, 0.0, 0.5)
    torch.testing.assert_close(got - oracle.log_prob(x, 0.0), standard(code) - oracle.log_prob(code, 0.5), rtol=0, atol=1e-4)


def test_backward_from_a_known_start():
    """The grid may also run from the time of the question down to a density known at t = 0."""
    oracle = AffineGaussianOracle(examples.two_modes(), AffineSchedule.ve(0.1, 3.0))
    x, ts = torch.linspace(-2, 2, 5, **F64)[:, None], torch.linspace(0.6, 0, 100, **F64)
    got = log_likelihood_ode(oracle.velocity, lambda z: oracle.log_prob(z, 0.0), x, ts, divergence=oracle.divergence)
    torch.testing.assert_close(got, oracle.log_prob(x, 0.6), rtol=0, atol=1e-6)


A = torch.tensor([[0.3, -1.0, 0.2], [0.8, -0.4, 0.1], [0.0, 0.5, 0.6]], **F64)


def linear(x, t):
    return (x.flatten(1) @ A.T).reshape(x.shape)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1)])
def test_a_linear_flow_has_a_gaussian_density(shape, generator):
    """x(1) = e^A x, so that log p = log N(e^A x) + tr A; any trailing shape."""
    x = torch.randn(6, *shape, generator=generator, **F64)
    ts = torch.linspace(0, 1, 60, **F64)
    got = log_likelihood_ode(linear, standard, x, ts)
    flow = torch.linalg.matrix_exp(A)
    law = GaussianMixture(torch.ones(1, **F64), torch.zeros(1, 3, **F64), torch.linalg.inv(flow.T @ flow)[None])
    torch.testing.assert_close(got, law.log_prob(x.flatten(1)), rtol=0, atol=1e-7)


def test_hutchinson_is_unbiased_with_one_probe_kept_along_the_path(generator):
    """On a linear field the estimate is T z^T A z: its mean is tr A and its variance sum_{i != j} 2 S_ij^2."""
    n = 20_000
    x = torch.zeros(n, 3, **F64)
    got = log_likelihood_ode(linear, standard, x, torch.tensor([0.0, 0.5, 1.0], **F64), "euler", "hutchinson", 1, generator)
    delta = got - standard(x)
    sym = (A + A.T) / 2
    variance = float(2 * (sym.square().sum() - sym.diagonal().square().sum()))
    assert abs(float(delta.mean() - A.trace())) < 5 * math.sqrt(variance / n)
    assert abs(float(delta.var()) / variance - 1) < 5 * math.sqrt(14 / n)  # fresh probes at each step would halve it


def test_the_likelihood_can_be_trained():
    """d log p / da of x' = a x, from 0 to 1: -e^{2a} x^2 + 1."""
    a = torch.tensor(0.3, requires_grad=True, **F64)
    x = torch.tensor([[0.7]], **F64)
    got = log_likelihood_ode(lambda y, t: a * y, standard, x, torch.linspace(0, 1, 60, **F64))
    (slope,) = torch.autograd.grad(got.sum(), a)
    assert abs(float(slope) - (1 - math.exp(0.6) * 0.49)) < 1e-7


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 3), ("rk4", 5)])
def test_round_trip_through_the_code(method, order):
    data, schedule = examples.solver_mixture(), AffineSchedule.vp()
    velocity = Exact1D(data, schedule, "velocity")
    x, counts = torch.tensor([[-1.0], [0.9]], **F64), (50, 100, 200)
    grids = [torch.linspace(0.05, 1.0, n + 1, **F64) for n in counts]
    errors = [float((decode(velocity, encode(velocity, x, ts, method), ts, method) - x).abs().max()) for ts in grids]
    assert abs(convergence_order(counts, errors) - order) < 0.3, errors
    exact = AffineGaussianOracle(data, schedule).flow_map(x, 0.05, 1.0)
    torch.testing.assert_close(encode(velocity, x, grids[-1]), exact, rtol=0, atol=1e-5)


def test_bits_per_dim_of_uniform_noise_is_the_depth_of_the_image():
    """Uniform on [-1, 1]^D in 256 levels: 8 bits each."""
    log_prob = torch.full((4,), -12 * math.log(2.0), **F64)
    torch.testing.assert_close(bits_per_dim(log_prob, 12, 2 / 256), torch.full((4,), 8.0, **F64))


X, TS = torch.ones(2, 2), torch.linspace(0, 1, 4)


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"divergence": "hutchinsen"}, ValueError, "divergence must be one of"),
        ({"divergence": "hutchinson", "n_probes": 0}, ValueError, "n_probes"),
        ({"divergence": lambda x, t: x}, ValueError, "divergence must return one number per row"),
        ({"divergence": lambda x, t: 0.0}, TypeError, "divergence must return"),
        ({"prior_log_prob": lambda z: z}, ValueError, "prior_log_prob must return one number per row"),
        ({"velocity": lambda x, t: x[:, :1]}, ValueError, "shape of its input"),
        ({"velocity": lambda x, t: x[:, :1], "divergence": lambda x, t: x[:, 0]}, ValueError, "velocity must return the shape"),
        ({"velocity": lambda x, t: x / 0}, SolverDivergedError, "rk4"),
        ({"method": "rk5"}, ValueError, "method"),
        ({"x0": torch.ones(2, 2, dtype=torch.int64)}, TypeError, "x0"),
        ({"x0": torch.tensor(1.0)}, ValueError, "0-d"),
        ({"ts": torch.zeros(3)}, ValueError, "ts must hold"),
    ],
)
def test_refusals(user_errors, kwargs, error, match):
    given = {"velocity": lambda x, t: -x, "prior_log_prob": standard, "x0": X, "ts": TS}
    with pytest.raises(error, match=match):
        log_likelihood_ode(**{**given, **kwargs})


def test_bits_per_dim_refusals(user_errors):
    for args, error, match in [
        ((torch.ones(2, 2), 2, 0.1), ValueError, "1 axes"),
        ((torch.ones(2), 0, 0.1), ValueError, "dim"),
        ((torch.ones(2), 2, 0.0), ValueError, "bin_width"),
        ((1.0, 2, 0.1), TypeError, "log_prob"),
    ]:
        with pytest.raises(error, match=match):
            bits_per_dim(*args)
