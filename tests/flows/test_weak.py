"""Test functions against closed-form expectations of Gaussians, marginals of exact oracles, and fields known to move no mass."""

import math

import pytest
import torch

from mathcore.data import examples
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.transport import zero_flux_field
from mathcore.flows.construction import gauss_hermite_pairs, standard_test_functions, weak_form_gap, weak_order, weak_rate
from mathcore.interpolant_oracle import InterpolantOracle
from mathcore.interpolation import Interpolation
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

F64 = torch.float64
DTS = torch.tensor([0.002, 0.004, 0.008, 0.016], dtype=F64)
SWIRL = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)


def gaussian(mean, variance):
    mean = torch.tensor([mean], dtype=F64)
    return GaussianMixture(torch.ones(1, dtype=F64), mean, torch.tensor([variance], dtype=F64))


def mixture():
    return GaussianMixture(*(torch.tensor(v, dtype=F64) for v in ([0.4, 0.6], [[-1.0, 0.5], [1.2, -0.3]], [0.3, 0.5])))


def setting(source, target, path, nodes):
    oracle = InterpolantOracle(source, target, path)
    x0, x1, weights = gauss_hermite_pairs(source, target, nodes)
    return oracle, lambda t: path.a(t) * x0 + path.b(t) * x1, weights


# --- expectations -------------------------------------------------------------------------------------------------------------------------


def test_nodes_integrate_polynomials_and_waves():
    source, target = mixture(), gaussian([0.5, -1.0], 2.0)
    x0, x1, weights = gauss_hermite_pairs(source, target, 14)
    assert float(weights.sum()) == pytest.approx(1, rel=1e-13)
    assert torch.allclose(weights @ x0, source.mean(), rtol=1e-12)
    centred = x0 - source.mean()
    assert torch.allclose((weights[:, None] * centred).T @ centred, source.cov(), rtol=1e-11, atol=1e-13)
    assert float((weights[:, None] * centred).T.matmul(x1 - target.mean()).abs().max()) < 1e-12
    # characteristic function of a normal along (1, 1): e^{i m - v}
    wave = weights @ torch.cos(x1.sum(1))
    assert float(wave) == pytest.approx(math.cos(-0.5) * math.exp(-2.0), rel=1e-6)


@pytest.mark.parametrize("path", [Interpolation.linear(), Interpolation.trig()], ids=["linear", "trig"])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_conditional_mean_has_order_two_on_every_test_function(path, dim):
    source = gaussian([0.3] * dim, 1.0)
    target = examples.two_modes() if dim == 1 else mixture()
    oracle, process, weights = setting(source, target, path, 40 if dim == 1 else 12)
    functions = standard_test_functions(dim)
    out = weak_order(process, oracle.velocity, functions, 0.4, DTS, weights)
    assert out.gaps.shape == (len(functions), len(DTS))
    assert torch.allclose(out.orders, torch.full_like(out.orders, 2.0), atol=0.15), out.orders
    # a drift of 0.5 too much: every one of them sees it
    wrong = weak_order(process, lambda x, t: oracle.velocity(x, t) + 0.5, functions, 0.4, DTS / 8, weights)
    assert torch.allclose(wrong.orders, torch.ones_like(wrong.orders), atol=0.15), wrong.orders


def test_a_rotation_of_an_isotropic_law_goes_unseen():
    """div(p w) = 0: order two is right, for the marginals are. A radial error of the same size is seen."""
    source, target = gaussian([0.0, 0.0], 1.0), gaussian([0.0, 0.0], 4.0)
    oracle, process, weights = setting(source, target, Interpolation.linear(), 12)
    # the cubic has mean zero on both sides by symmetry
    functions = {name: h for name, h in standard_test_functions(2).items() if name != "cubic"}
    turn = zero_flux_field(oracle.score, SWIRL)
    for field, order in ((lambda x, t: oracle.velocity(x, t) + x @ SWIRL, 2), (lambda x, t: oracle.velocity(x, t) + 0.3 * x, 1)):
        out = weak_order(process, field, functions, 0.5, DTS / (1 if order == 2 else 8), weights)
        assert torch.allclose(out.orders, torch.full_like(out.orders, float(order)), atol=0.15), out.orders
    # of the same kind for any law: a rotated score
    hidden = weak_order(process, lambda x, t: oracle.velocity(x, t) + turn(x, t), functions, 0.5, DTS, weights)
    assert torch.allclose(hidden.orders, torch.full_like(hidden.orders, 2.0), atol=0.15)


def test_the_gap_of_gaussians_in_closed_form():
    """E cos(k x) for x ~ N(0, V) is e^{-V k^2 / 2}; one linear step multiplies V by (1 + dt c)^2."""
    source, target = gaussian([0.0], 1.0), gaussian([0.0], 0.25)
    _, process, weights = setting(source, target, Interpolation.linear(), 30)
    variance, c, dt, k = lambda t: (1 - t) ** 2 + t**2 / 4, -0.3, 0.05, 1.7
    got = weak_form_gap(process(0.3), process(0.35), lambda x: c * x, {"wave": lambda x: torch.cos(k * x[:, 0])}, dt, weights)
    want = math.exp(-variance(0.35) * k**2 / 2) - math.exp(-variance(0.3) * (1 + dt * c) ** 2 * k**2 / 2)
    assert float(got[0]) == pytest.approx(want, abs=1e-12)


def test_a_gap_between_samples(generator):
    """Drawn pairs: the same number within the standard error, which shared draws keep at dt / sqrt(n)."""
    source, target, path = gaussian([0.0], 1.0), examples.two_modes(), Interpolation.linear()
    oracle, process, weights = setting(source, target, path, 40)
    functions = standard_test_functions(1)

    def field(x):
        return oracle.velocity(x, 0.5) + 1

    exact = weak_form_gap(process(0.5), process(0.51), field, functions, 0.01, weights)
    n = 100_000
    x0, x1 = source.sample(n, generator), target.sample(n, generator)
    drawn = weak_form_gap(0.5 * (x0 + x1), 0.49 * x0 + 0.51 * x1, field, functions, 0.01)
    # |velocity - field| and the slopes of the functions are below 20 on the bulk
    assert torch.allclose(drawn, exact, rtol=0, atol=5 * 0.01 * 20 / math.sqrt(n))


# --- the rate: continuity and Fokker-Planck equations -------------------------------------------------------------------------------------


def test_the_rate_of_the_continuity_equation():
    source, target = gaussian([0.3, 0.3], 1.0), mixture()
    oracle, process, weights = setting(source, target, Interpolation.linear(), 12)
    functions, h = standard_test_functions(2), 1e-4
    got = weak_rate(process(0.4), functions, lambda x: oracle.velocity(x, 0.4), weights=weights)
    for value, fn in zip(got, functions.values()):
        central = weights @ (fn(process(0.4 + h)) - fn(process(0.4 - h))) / (2 * h)
        # 12 nodes integrate the posterior mean to a few parts in a million; the difference quotient to 1e-8
        assert float(value) == pytest.approx(float(central), abs=2e-5)


def test_the_rate_of_the_fokker_planck_equation():
    """The Ornstein-Uhlenbeck process with its noise, its probability flow without, and the drift alone, which is neither."""
    oracle, t, h = AffineGaussianOracle(examples.two_modes(), AffineSchedule.vp()), 0.3, 1e-5
    f, g2 = float(oracle.schedule.f(t)), float(oracle.schedule.g2(t))
    functions = standard_test_functions(1)
    still = gaussian([0.0], 1e-30)

    def nodes(time):
        x0, _, weights = gauss_hermite_pairs(oracle.marginal(time), still, 60)
        keep = slice(None, None, 60)  # the second factor is a point
        return x0[keep], weights.reshape(-1, 60).sum(1)

    x, weights = nodes(t)
    noisy = weak_rate(x, functions, lambda y: f * y, g2, weights)
    flow = weak_rate(x, functions, lambda y: oracle.velocity(y, t), 0.0, weights)
    alone = weak_rate(x, functions, lambda y: f * y, 0.0, weights)
    (ahead, w_a), (behind, w_b) = nodes(t + h), nodes(t - h)
    want = torch.stack([(w_a @ fn(ahead) - w_b @ fn(behind)) / (2 * h) for fn in functions.values()])
    assert torch.allclose(noisy, want, rtol=0, atol=1e-7)
    assert torch.allclose(flow, want, rtol=0, atol=1e-7)
    assert bool(((alone - want).abs() > 1e-2).all())


# --- bad input ----------------------------------------------------------------------------------------------------------------------------

X = torch.zeros(4, 2, dtype=F64)
H = standard_test_functions(2)


def identity(x, t=0.0):
    return x


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: weak_form_gap(X, X[:2], identity, H, 0.1), ValueError, "now and after"),
        (lambda: weak_form_gap(X, X, identity, H, 0.0), ValueError, r"\|dt\|"),
        (lambda: weak_form_gap(X, X, identity, {}, 0.1), ValueError, "test_functions"),
        (lambda: weak_form_gap(X, X, identity, {"bad": lambda x: x}, 0.1), ValueError, "'bad' must return one number per row"),
        (lambda: weak_form_gap(X.long(), X, identity, H, 0.1), TypeError, "now must be"),
        (lambda: weak_form_gap(X, X * math.nan, identity, H, 0.1), ValueError, "after contains"),
        (lambda: weak_form_gap(X, X, lambda x: x[:, :1], H, 0.1), ValueError, "velocity must return"),
        (lambda: weak_form_gap(X, X, identity, H, 0.1, torch.ones(3, dtype=F64)), ValueError, "weights"),
        (lambda: weak_order(lambda t: X, identity, H, 0.1, DTS[:3]), ValueError, "at least four"),
        (lambda: weak_order(lambda t: X, identity, H, 0.1, -DTS), ValueError, "positive steps"),
        (
            lambda: weak_order(lambda t: X + t, lambda x, t: torch.ones_like(x), {"line": lambda x: x[:, 0]}, 0.1, DTS),
            ValueError,
            "'line' is rounding",
        ),
        (lambda: weak_order(lambda t: [t], identity, H, 0.1, DTS), TypeError, "process"),
        (lambda: weak_rate(X, H, identity, -1.0), ValueError, "squared_diffusion"),
        (lambda: weak_rate(X[0], H, identity), ValueError, "x must have 2 axes"),
        (lambda: weak_rate(X, [torch.cos], identity), ValueError, "test_functions"),
        (lambda: standard_test_functions(0), ValueError, "dim"),
        (lambda: gauss_hermite_pairs(examples.two_modes(), mixture(), 3), ValueError, "one dimension"),
        (lambda: gauss_hermite_pairs(mixture(), mixture(), 0), ValueError, "n_nodes"),
        (lambda: gauss_hermite_pairs(mixture(), mixture(), 100), ValueError, "too many"),
    ],
)
def test_bad_input(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
