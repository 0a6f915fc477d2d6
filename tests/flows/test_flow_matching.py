"""Flow-matching losses by exact quadrature, against the oracle, target variances and each other."""

import math

import pytest
import torch

from mathcore.distributions import GaussianMixture
from mathcore.divergences import quadrature_nodes
from mathcore.flows import (
    affine_conditional_flow,
    affine_conditional_velocity,
    cfm_loss,
    cfm_terms,
    conditional_velocity,
    general_path_loss,
)
from mathcore.interpolant_oracle import InterpolantOracle
from mathcore.interpolation import Interpolation, interpolate
from mathcore.networks import UNet
from mathcore.schedules import AffineSchedule

f64 = torch.float64
LINEAR, TRIG = Interpolation.linear(), Interpolation.trig()
PATHS = [LINEAR, TRIG, Interpolation.from_schedule(AffineSchedule.vp())]
T = 0.4


def tensor(values):
    return torch.tensor(values, dtype=f64)


SOURCE = GaussianMixture(tensor([0.4, 0.6]), tensor([[-1.0], [0.8]]), tensor([0.25, 0.3]))
TARGET = GaussianMixture(tensor([0.3, 0.7]), tensor([[-2.0], [1.5]]), tensor([0.2, 0.4]))


def nodes():
    """Pairs (x_0, x_1) and weights that integrate against the product of the laws: the trapezium rule on smooth, decayed integrands."""
    grid = torch.linspace(-7, 7, 301, dtype=f64)
    pairs, weights = quadrature_nodes([grid, grid])
    return pairs[:, :1], pairs[:, 1:], weights * SOURCE.prob(pairs[:, :1]) * TARGET.prob(pairs[:, 1:])


def batch(generator, n=40, dim=2):
    x0, x1 = (torch.randn(n, dim, generator=generator, dtype=f64) for _ in range(2))
    return x0, x1, 0.95 * torch.rand(n, generator=generator, dtype=f64)


FIELDS = [lambda x, t: -x, lambda x, t: torch.tanh(2 * x) - 0.3 * x, lambda x, t: torch.zeros_like(x)]


@pytest.mark.parametrize("path", PATHS)
def test_the_loss_exceeds_flow_matching_by_the_target_variance(path):
    """Theorem 5.2.1, both sides by quadrature: over pairs for CFM, over p_t for FM and for the constant."""
    oracle = InterpolantOracle(SOURCE, TARGET, path)
    x, w = quadrature_nodes(torch.linspace(-9, 9, 3001, dtype=f64))
    w = w * oracle.log_prob(x, T).exp()
    constant = float((w * oracle.target_variance_at(x, T)).sum())
    x0, x1, weights = nodes()
    for field in [oracle.velocity, *FIELDS]:
        cfm = float((weights * cfm_terms(field, x0, x1, T, path)).sum())
        fm = float((w * (field(x, T) - oracle.velocity(x, T)).square().sum(1)).sum())
        assert cfm - fm == pytest.approx(constant, rel=1e-9)


def test_gradients_of_both_losses_agree():
    """A model linear in its parameters: equal gradients at random parameters, since the difference of the losses is constant."""
    oracle = InterpolantOracle(SOURCE, TARGET, LINEAR)
    x, w = quadrature_nodes(torch.linspace(-9, 9, 3001, dtype=f64))
    w = w * oracle.log_prob(x, T).exp()
    x0, x1, weights = nodes()
    c = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=f64).requires_grad_()
    model = lambda x, t: c[0] + c[1] * x + c[2] * torch.sin(x) + c[3] * x**2  # noqa: E731
    cfm = torch.autograd.grad((weights * cfm_terms(model, x0, x1, T, LINEAR)).sum(), c)[0]
    fm = torch.autograd.grad((w * (model(x, T) - oracle.velocity(x, T)).square().sum(1)).sum(), c)[0]
    torch.testing.assert_close(cfm, fm, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_one_sided_is_two_sided_pair_by_pair(path, generator):
    x0, x1, t = batch(generator)
    model = lambda x, t: torch.tanh(x) * t[:, None]  # noqa: E731
    terms = [cfm_terms(model, x0, x1, t, path, form=form) for form in ("two_sided", "one_sided")]
    torch.testing.assert_close(terms[1], terms[0], rtol=1e-11, atol=1e-11)
    # the one-sided form divides by a_t: about eps / a_t is lost
    for a in (1e-3, 1e-6, 1e-9):
        x_t, rate = interpolate(x0, x1, 1 - a, LINEAR)
        gap = (conditional_velocity(x_t, None, x1, 1 - a, LINEAR, "one_sided") - rate).abs().max()
        assert float(gap) < 20 * 2.2e-16 / a


def test_conditional_velocity_moves_a_point_along_its_path(generator):
    x0, x1, t = batch(generator)
    h = 1e-6
    for path in PATHS:
        x_t = interpolate(x0, x1, t, path)[0]
        moved = (interpolate(x0, x1, t + h, path)[0] - interpolate(x0, x1, (t - h).abs(), path)[0]) / (t + h - (t - h).abs())[:, None]
        for form in ("two_sided", "one_sided"):
            torch.testing.assert_close(conditional_velocity(x_t, x0, x1, t, path, form), moved, rtol=1e-5, atol=1e-6)


def test_flow_first_recovers_the_one_sided_formula(generator):
    x0, x1, t = batch(generator)
    mu, scale = lambda u: TRIG.b(u)[:, None] * x1, lambda u: TRIG.a(u)
    x_t, rate = affine_conditional_flow(mu, scale, x0, t)
    want, speed = interpolate(x0, x1, t, TRIG)
    torch.testing.assert_close(x_t, want)
    torch.testing.assert_close(rate, speed)
    torch.testing.assert_close(affine_conditional_velocity(mu, scale, x_t, t), rate)
    torch.testing.assert_close(conditional_velocity(x_t, None, x1, t, TRIG, "one_sided"), rate, rtol=1e-10, atol=1e-11)
    matrices = lambda u: scale(u)[:, None, None] * torch.eye(2, dtype=f64)  # noqa: E731
    torch.testing.assert_close(affine_conditional_velocity(mu, matrices, x_t, t), rate)


def test_flow_first_with_a_turning_matrix(generator):
    """A_t = (1 - t) R(3 t): A' A^{-1} = -1 / (1 - t) + 3 J with J the quarter turn."""

    def turn(u):
        c, s = torch.cos(3 * u), torch.sin(3 * u)
        return (1 - u) * torch.stack([torch.stack([c, -s]), torch.stack([s, c])])

    mu, x = lambda u: torch.stack([u, u**2]), torch.randn(5, 2, generator=generator, dtype=f64)
    t = 0.3
    J, centre = tensor([[0.0, -1.0], [1.0, 0.0]]), tensor([t, t**2])
    want = tensor([1.0, 2 * t]) + (x - centre) @ (-torch.eye(2, dtype=f64) / (1 - t) + 3 * J).T
    torch.testing.assert_close(affine_conditional_velocity(mu, turn, x, t), want)
    start = torch.randn(5, 2, generator=generator, dtype=f64)
    x_t, rate = affine_conditional_flow(mu, turn, start, t)
    torch.testing.assert_close(affine_conditional_velocity(mu, turn, x_t, t), rate)


def test_a_general_path_contains_the_affine_one(generator):
    x0, x1, t = batch(generator)
    model = lambda x, t: torch.sin(x + t[:, None])  # noqa: E731
    got = general_path_loss(model, lambda a, b, u: torch.cos(math.pi / 2 * u) * a + torch.sin(math.pi / 2 * u) * b, x0, x1, t)
    torch.testing.assert_close(got, cfm_terms(model, x0, x1, t, TRIG).mean())


def test_a_general_path_that_turns(generator):
    """x_t = (1-t) x_0 + t x_1 + s sin(pi t) J (x_1 - x_0): the model that returns the derivative by hand has loss zero."""
    x0, x1, t = batch(generator)
    J = tensor([[0.0, -1.0], [1.0, 0.0]])
    path = lambda a, b, u: (1 - u) * a + u * b + 0.7 * torch.sin(math.pi * u) * (b - a) @ J.T  # noqa: E731
    model = lambda x, u: x1 - x0 + 0.7 * math.pi * torch.cos(math.pi * u[:, None]) * (x1 - x0) @ J.T  # noqa: E731
    assert float(general_path_loss(model, path, x0, x1, t)) < 1e-25
    assert float(general_path_loss(lambda x, u: x1 - x0, path, x0, x1, t)) > 0.1


def test_the_loss_is_the_mean_of_its_terms_with_uniform_times(generator):
    x0, x1 = SOURCE.sample(20_000, generator), TARGET.sample(20_000, generator)
    seen = []

    def model(x, t):
        seen.append((x, t))
        return torch.tanh(x)

    got = cfm_loss(model, x0, x1, None, TRIG, generator=generator)
    t = seen[0][1]
    assert t.shape == (20_000,)
    assert abs(float(t.mean()) - 0.5) < 5 / math.sqrt(12 * 20_000)
    torch.testing.assert_close(got, cfm_terms(model, x0, x1, t, TRIG).mean())
    cfm_loss(model, x0.float(), x1.float(), None, LINEAR, generator=generator)
    assert seen[-1][1].dtype == torch.float32


def test_sigma_blurs_the_path_and_not_the_target(generator):
    x0, x1, t = batch(generator, n=20_000)
    noise = torch.randn(20_000, 2, generator=generator, dtype=f64)
    seen = []

    def model(x, t):
        seen.append(x)
        return torch.zeros_like(x)

    terms = cfm_terms(model, x0, x1, t, LINEAR, sigma=0.3, noise=noise)
    torch.testing.assert_close(terms, (x1 - x0).square().sum(1))
    torch.testing.assert_close(seen[0], torch.lerp(x0, x1, t[:, None]) + 0.3 * noise)
    cfm_loss(model, x0, x1, 0.0, LINEAR, sigma=0.3, generator=generator)
    blur = (seen[1] - x0).square()  # E8: at t = 0 the law is the source blurred by 0.3
    assert abs(float(blur.mean()) - 0.09) < 5 * float(blur.std()) / math.sqrt(blur.numel())
    # a function of x_t: the one-sided target carries the noise on
    one = conditional_velocity(seen[0], None, x1, t, LINEAR, "one_sided")
    torch.testing.assert_close(one, (x1 - seen[0]) / (1 - t[:, None]))
    torch.testing.assert_close(cfm_terms(model, x0, x1, t, LINEAR, 0.3, noise, "one_sided"), one.square().sum(1))


def test_weights_times_and_images(generator):
    x0, x1 = (torch.randn(3, 1, 8, 8, generator=generator) for _ in range(2))
    zero = lambda x, t: torch.zeros_like(x)  # noqa: E731
    t = torch.tensor([0.1, 0.5, 0.9])
    plain = cfm_terms(zero, x0, x1, t, LINEAR)
    torch.testing.assert_close(plain, (x1 - x0).square().sum((1, 2, 3)))
    torch.testing.assert_close(cfm_terms(zero, x0, x1, t, LINEAR, weight=lambda u: 1 + u), (1 + t) * plain)
    torch.testing.assert_close(cfm_terms(zero, x0, x1, t, LINEAR, weight=lambda u: 2.0), 2 * plain)
    torch.testing.assert_close(general_path_loss(zero, torch.lerp, x0, x1, t, weight=lambda u: 2.0), 2 * plain.mean())
    net = UNet(channels=1, size=8, width=16, mults=(1,))
    cfm_loss(net, x0, x1, None, LINEAR, generator=generator).backward()
    assert float(net.head.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x0": torch.tensor([[1], [2]])}, TypeError, "x0 must be a floating"),
        ({"x1": torch.full((2, 1), math.nan)}, ValueError, "x1 contains NaN"),
        ({"x1": torch.zeros(3, 1)}, ValueError, "share a shape"),
        ({"t": 1.2}, ValueError, r"t must lie in \[0, 1\]"),
        ({"t": torch.zeros(3)}, ValueError, "t must be a number"),
        ({"path": "linear"}, TypeError, "path must be an Interpolation"),
        ({"sigma": -0.1}, ValueError, "sigma must be a non-negative"),
        ({"form": "threesided"}, ValueError, "form must be one of two_sided, one_sided"),
        ({"form": "one_sided", "t": 1.0}, ValueError, "divides by a_t"),
        ({"weight": lambda t: -t}, ValueError, "not negative"),
        ({"weight": lambda t: t[:1]}, ValueError, "weight must return one number"),
        ({"model": lambda x, t: x[:1]}, ValueError, "model must return the shape"),
        ({"model": lambda x, t: 1.0}, TypeError, "model must return a floating"),
    ],
)
def test_refusals(change, error, match, user_errors):
    arguments = {"model": lambda x, t: x, "x0": torch.zeros(2, 1), "x1": torch.ones(2, 1), "t": 0.5, "path": LINEAR} | change
    with pytest.raises(error, match=match):
        cfm_loss(**arguments)


def test_more_refusals(user_errors):
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x0 must be given"):
        conditional_velocity(x, None, x, 0.5, LINEAR)
    with pytest.raises(TypeError, match=r"x1 must be torch\.float32"):
        conditional_velocity(x, x, x.double(), 0.5, LINEAR)
    with pytest.raises(ValueError, match="noise must be given"):
        cfm_terms(lambda x, t: x, x, x, 0.5, LINEAR, sigma=1.0)
    with pytest.raises(ValueError, match="noise must have shape"):
        cfm_terms(lambda x, t: x, x, x, 0.5, LINEAR, sigma=1.0, noise=x[:1])
    with pytest.raises(ValueError, match="path_fn must return the shape"):
        general_path_loss(lambda x, t: x, lambda a, b, t: t * a[:1, :1], x, x, 0.5)
    line, still = lambda u: u * torch.ones(2), lambda u: torch.ones(())
    with pytest.raises(ValueError, match="mu must return"):
        affine_conditional_flow(lambda u: torch.ones(3), still, x, 0.5)
    with pytest.raises(ValueError, match="A must return"):
        affine_conditional_flow(line, lambda u: torch.ones(2), x, 0.5)
    with pytest.raises(TypeError, match="A must return a floating"):
        affine_conditional_flow(line, lambda u: 1.0, x, 0.5)
    for singular in (lambda u: 1 - u, lambda u: (1 - u) * torch.eye(2)):
        with pytest.raises(ValueError, match="A is singular"):
            affine_conditional_velocity(line, singular, x, 1.0)
