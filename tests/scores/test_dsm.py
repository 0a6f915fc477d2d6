"""Denoising score matching by exact quadrature over data and noise, against posterior covariances, exact scores and least squares."""

import math

import pytest
import torch

from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.networks import UNet
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.scores.dsm import dsm_loss, dsm_terms

f64 = torch.float64
DATA = GaussianMixture(torch.tensor([0.3, 0.7], dtype=f64), torch.tensor([[-1.5], [1.0]], dtype=f64), torch.tensor([0.16, 0.36], dtype=f64))
SIGMA = 0.7


def nodes(width=7.0, n=281):
    """Pairs (x_0, eps), and weights that integrate against p_data(x_0) N(eps; 0, 1): the trapezium rule on smooth, decayed integrands."""
    grid = torch.linspace(-width, width, n, dtype=f64)
    pairs, weights = quadrature_nodes([grid, grid])
    density = DATA.prob(pairs[:, :1]) * torch.exp(-pairs[:, 1].square() / 2) / math.sqrt(2 * math.pi)
    return pairs[:, :1], pairs[:, 1:], weights * density


def line(n=2001, width=12.0):
    x, w = quadrature_nodes(torch.linspace(-width, width, n, dtype=f64))
    return x, w


def dsm(model, **options):
    x0, eps, weights = nodes()
    return float((weights * dsm_terms(model, x0, eps, SIGMA, **options)).sum())


def exact(x, sigma):
    return DATA.corrupted_score(x, 1.0, SIGMA)


FIELDS = [exact, lambda x, s: -x, lambda x, s: torch.tanh(2 * x) - 0.3 * x, lambda x, s: torch.zeros_like(x)]


def test_value_at_the_exact_score_is_the_posterior_covariance():
    x, w = line()
    p = DATA.corrupt(1.0, SIGMA).prob(x)
    want = float((w * p * DATA.posterior_cov(x, 1.0, SIGMA)[:, 0, 0]).sum()) / (2 * SIGMA**4)
    assert dsm(exact) == pytest.approx(want, rel=1e-10)
    assert want == pytest.approx(0.6515032, abs=1e-7)  # computed before this code existed, in two ways


@pytest.mark.parametrize("field", FIELDS)
def test_it_exceeds_score_matching_by_one_constant(field):
    x, w = line()
    p = DATA.corrupt(1.0, SIGMA).prob(x)
    gap = (field(x, SIGMA) - exact(x, SIGMA)).square().sum(1)
    assert dsm(field) - float((w * p * gap).sum()) / 2 == pytest.approx(dsm(exact), rel=1e-9)


def test_the_best_linear_field_for_gaussian_data():
    """Least squares over s(x) = a x + b on N(m, v): a = -1 / (v + sigma^2), by the normal equations of the loss itself."""
    m, v = 0.4, 0.5
    a = torch.zeros(2, dtype=f64, requires_grad=True)
    data = GaussianMixture(torch.ones(1, dtype=f64), torch.tensor([[m]], dtype=f64), torch.tensor([v], dtype=f64))
    grid = torch.linspace(-7, 7, 201, dtype=f64)
    pairs, weights = quadrature_nodes([grid, grid])
    weights = weights * data.prob(pairs[:, :1]) * torch.exp(-pairs[:, 1].square() / 2) / math.sqrt(2 * math.pi)

    def loss(c):
        return (weights * dsm_terms(lambda x, s: c[0] * x + c[1], pairs[:, :1], pairs[:, 1:], SIGMA)).sum()

    gradient = torch.autograd.grad(loss(a), a)[0]
    hessian = torch.autograd.functional.hessian(loss, a.detach())
    best = -torch.linalg.solve(hessian, gradient)
    want = torch.tensor([-1.0, m], dtype=f64) / (v + SIGMA**2)
    torch.testing.assert_close(best, want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("schedule", [AffineSchedule.vp(), AffineSchedule.linear(), AffineSchedule.edm(10.0)])
@pytest.mark.parametrize("weight", ["one", "sigma2", "g2", lambda t: 1 + t**2])
def test_three_predictions_are_one_loss(schedule, weight, generator):
    oracle = AffineGaussianOracle(DATA, schedule)
    x0, eps = DATA.sample(50, generator), torch.randn(50, 1, dtype=f64, generator=generator)
    t = schedule.t_max * (0.05 + 0.9 * torch.rand(50, dtype=f64, generator=generator))
    models = {"score": oracle.score, "noise": oracle.noise, "clean": oracle.clean}
    values = [dsm_terms(model, x0, eps, schedule, t, weight, name) for name, model in models.items()]
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(values[2], values[0], rtol=1e-8, atol=1e-11)


def test_a_schedule_and_a_noise_level_are_one_loss(generator):
    """EDM has alpha = 1, sigma = t: the time is the noise level."""
    x0, eps = DATA.sample(40, generator), torch.randn(40, 1, dtype=f64, generator=generator)
    sigma = 0.1 + torch.rand(40, dtype=f64, generator=generator)
    model = lambda x, s: torch.tanh(x) * s[:, None]  # noqa: E731
    for weight in ("one", "sigma2"):
        got = dsm_terms(model, x0, eps, sigma, weight=weight)
        torch.testing.assert_close(got, dsm_terms(model, x0, eps, AffineSchedule.edm(), sigma, weight), rtol=1e-12, atol=0)


def test_weights_by_hand(generator):
    vp = AffineSchedule.vp()
    x0, eps, t = DATA.sample(9, generator), torch.randn(9, 1, dtype=f64, generator=generator), torch.linspace(0.1, 1, 9, dtype=f64)
    zero = lambda x, t: torch.zeros_like(x)  # noqa: E731
    terms = {w: dsm_terms(zero, x0, eps, vp, t, w) for w in ("one", "sigma2", "g2")}
    half = eps[:, 0].square() / 2
    torch.testing.assert_close(terms["sigma2"], half)  # |0 - eps|^2 / 2
    torch.testing.assert_close(terms["one"], half / (1 - torch.exp(-0.1 * t - 9.95 * t**2)))
    torch.testing.assert_close(terms["g2"], (0.1 + 19.9 * t) * terms["one"])
    torch.testing.assert_close(dsm_terms(zero, x0, eps, vp, t, lambda t: 3.0), 3 * terms["one"])


def test_the_loss_is_the_mean_of_its_terms(generator):
    x0, want = DATA.sample(20_000, generator), dsm(FIELDS[2])
    seen = []

    def model(x, s):
        seen.append((x, s))
        return FIELDS[2](x, s)

    got = float(dsm_loss(model, x0, SIGMA, generator=generator))
    x, s = seen[0]
    assert s.shape == (20_000,)
    assert torch.equal(s, torch.full_like(s, SIGMA))
    spread = dsm_terms(FIELDS[2], x0, (x - x0) / SIGMA, SIGMA)
    assert got == pytest.approx(float(spread.mean()), rel=1e-12)
    assert abs(got - want) < 5 * float(spread.std()) / math.sqrt(20_000)


def test_times_are_uniform_and_reach_the_model_in_its_precision(generator):
    seen = []

    def model(x, t):
        seen.append(t)
        return x

    schedule = AffineSchedule.edm(4.0)
    dsm_loss(model, torch.zeros(20_000, 1), schedule, weight="sigma2", generator=generator)
    t = seen[0]
    assert t.dtype == torch.float32
    assert 0 < float(t.min()) < 1e-3
    assert abs(float(t.mean()) - 2) < 5 * math.sqrt(16 / 12 / 20_000)
    dsm_loss(model, torch.zeros(3, 1), schedule, t=torch.tensor([1.0, 2.0, 3.0]), generator=generator)
    assert seen[1].tolist() == [1.0, 2.0, 3.0]
    dsm_loss(model, torch.zeros(3, 1), schedule, t=2, generator=generator)
    assert seen[2].tolist() == [2.0, 2.0, 2.0]


def test_images_sum_over_pixels_and_the_loss_trains(generator):
    net = UNet(channels=1, size=8, width=16, mults=(1,), t_max=10.0)
    x0 = torch.rand(4, 1, 8, 8, generator=generator)
    sigmas = torch.tensor([0.1, 0.5, 1.0, 5.0])
    loss = dsm_loss(net, x0, sigmas, weight="sigma2", generator=generator)
    assert float(loss.detach()) == pytest.approx(32, rel=0.3)  # the untrained network says 0: half of 64 squared normals
    loss.backward()
    assert float(net.head.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x0": torch.tensor([[1]])}, TypeError, "x0 must be a floating-point"),
        ({"x0": torch.tensor([[float("inf")]])}, ValueError, "x0 contains NaN"),
        ({"corruption": 0.0}, ValueError, "sigma must be positive"),
        ({"corruption": torch.tensor([1.0, -1.0])}, ValueError, "sigma must be positive"),
        ({"corruption": torch.tensor([1.0, 1.0, 1.0])}, ValueError, "sigma must be a number"),
        ({"corruption": "vp"}, TypeError, "AffineSchedule or a noise level"),
        ({"t": 0.5}, ValueError, "there is no time"),
        ({"corruption": AffineSchedule.vp(), "t": 2.0}, ValueError, "domain"),
        ({"corruption": AffineSchedule.vp(), "t": 0.0}, ValueError, "sigma must be positive"),
        ({"weight": "snr"}, ValueError, "weight must be one of"),
        ({"weight": "g2"}, ValueError, "needs a schedule"),
        ({"weight": lambda s: -s}, ValueError, "not negative"),
        ({"weight": lambda s: s[:1]}, ValueError, "weight must return one number"),
        ({"prediction": "velocity"}, ValueError, "prediction must be one of"),
        ({"model": lambda x, s: x[:, :0]}, ValueError, "model must return the shape"),
        ({"model": lambda x, s: 1.0}, TypeError, "model must return a floating-point"),
    ],
)
def test_refusals(change, error, match, user_errors):
    arguments = {"model": lambda x, s: x, "x0": torch.zeros(2, 1), "corruption": 0.5} | change
    with pytest.raises(error, match=match):
        dsm_loss(**arguments)


def test_terms_refuse(user_errors):
    x0 = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="t must be given"):
        dsm_terms(lambda x, t: x, x0, x0, AffineSchedule.vp())
    with pytest.raises(ValueError, match="noise must have the shape"):
        dsm_terms(lambda x, t: x, x0, torch.zeros(3, 1), 0.5)
