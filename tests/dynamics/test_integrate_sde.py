"""Integrators of stochastic equations: strong orders on one Brownian path at all grids, weak orders without sampling, torchsde, exact laws."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import kstest

from mathcore.data import examples
from mathcore.dynamics.integrate import SolverDivergedError, integrate_sde, odeint_fixed
from mathcore.dynamics.paths import brownian_path, path_noise
from mathcore.dynamics.sde import SDE, forward_sde, reverse_sde
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers.diagnostics import convergence_order

FINE = 2**12
STRIDES = (256, 128, 64, 32)


def coarse(w, ts, stride):
    """The same path on every ``stride``-th node, as noise for the integrator."""
    return path_noise(w[:, ::stride], ts[::stride]), ts[::stride]


def strong_order(sde, x, exact, w, ts, method):
    errors = []
    for stride in STRIDES:
        noise, grid = coarse(w, ts, stride)
        end = integrate_sde(sde, x, grid, method, noise=noise)
        errors.append(float((end - exact).square().mean().sqrt()))
    return convergence_order([FINE // s for s in STRIDES], errors)


@pytest.mark.parametrize("method", ["euler_maruyama", "heun", "milstein"])
@pytest.mark.parametrize("backward", [False, True])
def test_strong_order_one_for_additive_noise(method, backward, generator):
    """dx = (1 - t) x dt + e^{-t} dw, whose solution is an integral over the path; both directions of time."""
    ts = torch.linspace(0, 1, FINE + 1, dtype=torch.float64)
    ts = ts.flip(0) if backward else ts
    w = brownian_path(500, ts, 1, generator)
    x = torch.ones(500, 1, dtype=torch.float64)
    E = lambda t: torch.exp(t - t**2 / 2)  # noqa: E731
    integrand = torch.exp(-ts) / E(ts)
    middle = (integrand[1:] + integrand[:-1]) / 2  # of the fine grid: error of order 1 / FINE
    exact = E(ts[-1]) * (x / E(ts[0]) + (middle[:, None] * w.diff(dim=1)).sum(1))
    sde = SDE(lambda x, t: (1 - t) * x, lambda t: math.exp(-t), float(ts[0]), float(ts[-1]))
    assert abs(strong_order(sde, x, exact, w, ts, method) - 1) < 0.1


@pytest.mark.parametrize(("method", "order"), [("euler_maruyama", 0.5), ("milstein", 1.0)])
def test_strong_orders_for_multiplicative_noise(method, order, generator):
    """Geometric Brownian motion dx = 0.5 x dt + 0.8 x dw, x = exp((0.5 - 0.32) t + 0.8 w)."""
    ts = torch.linspace(0, 1, FINE + 1, dtype=torch.float64)
    w = brownian_path(2000, ts, 1, generator)
    x = torch.ones(2000, 1, dtype=torch.float64)
    exact = torch.exp((0.5 - 0.32) + 0.8 * w[:, -1])
    pair = (lambda x, t: 0.5 * x, lambda x, t: 0.8 * x)
    assert abs(strong_order(pair, x, exact, w, ts, method) - order) < 0.1


def variance(sde, ts, method):
    """Exact variance of what the method makes of a linear equation from 0: rows carry the noise of one step each, and their squares add."""
    n = len(ts) - 1
    noise = torch.eye(n, dtype=torch.float64)[:, :, None]
    return float(integrate_sde(sde, torch.zeros(n, 1, dtype=torch.float64), ts, method, noise=noise).square().sum())


@pytest.mark.parametrize(("method", "order"), [("euler_maruyama", 1), ("heun", 2), ("milstein", 1)])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_weak_orders_on_the_variance(method, order, direction):
    """The forward SDE from a point, against sigma^2; the reverse SDE of N(0, 1) data under VP, whose law stays N(0, 1), from 0."""
    schedule = AffineSchedule.vp(0.5, 4.0)
    sde, exact, ends = forward_sde(schedule), float(schedule.sigma(1.0)) ** 2, (0.0, 1.0)
    if direction == "reverse":
        # the score is -x: dx = beta x / 2 dt + sqrt(beta) dw with dt < 0, again an Ornstein-Uhlenbeck process
        sde, ends = reverse_sde(sde, lambda x, t: -x), (1.0, 0.0)
    counts = (64, 128, 256, 512)
    errors = [abs(variance(sde, torch.linspace(*ends, n + 1, dtype=torch.float64), method) - exact) for n in counts]
    assert abs(convergence_order(counts, errors) - order) < 0.1, errors


def test_stationary_variance_of_euler_maruyama():
    """x' = (1 - theta h) x + g sqrt(h) z settles at g^2 / (2 theta) / (1 - theta h / 2)."""
    theta, g, h = 2.0, 0.7, 0.1
    sde = SDE(lambda x, t: -theta * x, lambda t: g, 0.0, 30.0)
    got = variance(sde, torch.arange(301, dtype=torch.float64) * h, "euler_maruyama")
    assert abs(got - g**2 / (2 * theta) / (1 - theta * h / 2)) < 1e-12


def test_heun_without_noise_is_heun_and_euler_maruyama_is_euler(generator):
    x, ts = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator), torch.linspace(0, 1, 9, dtype=torch.float64)
    drift = lambda x, t: torch.sin(x) + t  # noqa: E731
    sde = SDE(drift, lambda t: 0.0, 0.0, 1.0)
    for method, theirs in (("heun", "heun"), ("euler_maruyama", "euler"), ("milstein", "euler")):
        got = integrate_sde(sde, x, ts, method, generator=generator, return_path=True)
        torch.testing.assert_close(got, odeint_fixed(drift, x, ts, theirs, return_path=True), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("method", "theirs"), [("euler_maruyama", "euler"), ("milstein", "milstein")])
def test_the_paths_of_torchsde(method, theirs, generator):
    torchsde = pytest.importorskip("torchsde", reason="torchsde is a peer for cross-checks only")
    ts = torch.linspace(0, 1, 17, dtype=torch.float64)
    x = torch.rand(6, 3, dtype=torch.float64, generator=generator)
    pair = (lambda x, t: torch.sin(x), lambda x, t: 0.3 + 0.2 * x**2)

    class Theirs(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return pair[0](y, t)

        def g(self, t, y):
            return pair[1](y, t)

    bm = torchsde.BrownianInterval(0.0, 1.0, size=(6, 3), dtype=torch.float64, entropy=3)
    want = torchsde.sdeint(Theirs(), x, ts, bm=bm, method=theirs, dt=1 / 16).transpose(0, 1)
    noise = torch.stack([bm(a, b) for a, b in pairwise(ts)]) / ts.diff().sqrt()[:, None, None]
    torch.testing.assert_close(integrate_sde(pair, x, ts, method, noise=noise, return_path=True), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_reverse_sde_samples_the_data(eta, generator):
    data, schedule = examples.two_modes(), AffineSchedule.vp()
    oracle = AffineGaussianOracle(data, schedule)
    x = oracle.marginal(1.0).sample(4000, generator)
    ts = torch.linspace(1, 0, 401, dtype=torch.float64) ** 2
    out = integrate_sde(reverse_sde(forward_sde(schedule), oracle.score, eta), x, ts, "heun", generator)
    # 400 second-order steps leave less bias than 4000 samples can see
    assert kstest(out[:, 0].numpy(), lambda u: data.cdf(torch.as_tensor(u)[:, None]).numpy()).pvalue > 1e-3


def test_reproducible_shapes_dtype_and_path(generator):
    sde = forward_sde(AffineSchedule.vp())
    x, ts = torch.ones(3, 2, 2), torch.linspace(0, 1, 6)
    runs = [integrate_sde(sde, x, ts, generator=torch.Generator().manual_seed(5), return_path=True) for _ in range(2)]
    assert torch.equal(*runs)
    assert runs[0].shape == (3, 6, 2, 2)
    assert runs[0].dtype == torch.float32
    assert torch.equal(runs[0][:, 0], x)
    assert torch.equal(runs[0][:, -1], integrate_sde(sde, x, ts, generator=torch.Generator().manual_seed(5)))


def test_gradients_reach_the_diffusion():
    g = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    noise = torch.ones(4, 1, 1, dtype=torch.float64)
    ts = torch.linspace(0, 1, 5, dtype=torch.float64)
    end = integrate_sde(SDE(lambda x, t: 0 * x, lambda t: g, 0, 1), torch.zeros(1, 1, dtype=torch.float64), ts, noise=noise)
    assert torch.autograd.grad(end.sum(), g)[0].item() == pytest.approx(4 * 0.5, rel=1e-14)


VP = forward_sde(AffineSchedule.vp())
PAIR = (lambda x, t: x, lambda x, t: x)
X, TS = torch.ones(2, 1), torch.linspace(0, 1, 5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: integrate_sde(VP, X, TS, "srk"), ValueError, "method must be one of"),
        (lambda: integrate_sde(VP, X, TS.flip(0)), ValueError, "runs from t=0.0 to 1.0, but ts runs from 1.0"),
        (lambda: integrate_sde(VP, X, 2 * TS), ValueError, "inside"),
        (lambda: integrate_sde(VP, X, TS[:1]), ValueError, "at least two"),
        (lambda: integrate_sde(torch.sin, X, TS), TypeError, "sde must be an SDE or a pair"),
        (lambda: integrate_sde((torch.sin, 1.0), X, TS), TypeError, "pair"),
        (lambda: integrate_sde(PAIR, X, TS, "heun"), ValueError, "Stratonovich"),
        (lambda: integrate_sde(VP, X, TS, noise=torch.zeros(5, 2, 1)), ValueError, "noise must have shape"),
        (lambda: integrate_sde(VP, X, TS, noise=torch.full((4, 2, 1), float("nan"))), ValueError, "noise contains NaN"),
        (lambda: integrate_sde(VP, X, TS, noise=[0.0]), TypeError, "noise"),
        (lambda: integrate_sde(VP, X, TS, generator=torch.Generator(), noise=torch.zeros(4, 2, 1)), ValueError, "not both"),
        (lambda: integrate_sde(VP, X.int(), TS), TypeError, "x0"),
        (lambda: integrate_sde(VP, X / 0, TS), ValueError, "x0 contains"),
        (lambda: integrate_sde((lambda x, t: x[:1], PAIR[1]), X, TS), ValueError, "shape of its input"),
        (lambda: integrate_sde((PAIR[0], lambda x, t: 1.0), X, TS), TypeError, "floating-point tensor"),
        (lambda: integrate_sde(SDE(PAIR[0], lambda t: torch.ones(2), 0, 1), X, TS), ValueError, "0-d"),
        (lambda: integrate_sde((lambda x, t: x * 1e300, PAIR[1]), X.double(), 9 * TS), SolverDivergedError, "euler_maruyama"),
    ],
)
def test_refusals(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
