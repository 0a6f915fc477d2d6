"""Every member of the two families satisfies the Fokker-Planck equation of the same marginals, which autograd and finite differences write out."""

import pytest
import torch

from mathcore.data import examples
from mathcore.dynamics.sde import SDE, forward_family, forward_sde, probability_flow, reverse_sde, semilinear_split
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

SCHEDULES = [AffineSchedule.vp(), AffineSchedule.ve(0.05, 10.0), AffineSchedule.edm(3.0), AffineSchedule.linear(), AffineSchedule.sub_vp()]
X = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]


def density(oracle, x, t):
    return oracle.log_prob(x, t).exp()


def residual(oracle, sde, t, sign):
    """dp/dt + d(drift p)/dx -+ g^2/2 d2p/dx2 at X: zero when the law of ``sde`` moves like the marginals, with the clock (sign 1) or against it (-1)."""
    x = X.clone().requires_grad_()
    p = density(oracle, x, t)
    (slope,) = torch.autograd.grad(p.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    current = sde.drift(x, t)[:, 0] * density(oracle, x, t)
    (divergence,) = torch.autograd.grad(current.sum(), x)
    h = 1e-5 * t
    dp = (density(oracle, X, t + h) - density(oracle, X, t - h)) / (2 * h)
    g = float(sde.diffusion(t))
    return dp + divergence[:, 0] - sign * 0.5 * g**2 * curvature[:, 0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_forward_and_reverse_families_carry_the_marginals(schedule, eta):
    oracle = AffineGaussianOracle(examples.two_modes(), schedule)
    sde = forward_sde(schedule)
    for t in (0.3, 0.7):
        # the central difference in time errs by about 1e-10 of the third time derivative and 1e-16 / h by rounding
        scale = float(density(oracle, X, t).max()) * float(1 + schedule.g2(t))
        assert residual(oracle, forward_family(sde, oracle.score, eta), t, 1.0).abs().max() < 1e-7 * scale
        assert residual(oracle, reverse_sde(sde, oracle.score, eta), t, -1.0).abs().max() < 1e-7 * scale
        wrong = SDE(reverse_sde(sde, oracle.score, eta).drift, lambda t: (1 + eta) * sde.diffusion(t), 1.0, 0.0)
        assert residual(oracle, wrong, t, -1.0).abs().max() > 1e-4 * scale


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_probability_flow_is_the_conditional_mean_velocity(schedule):
    oracle = AffineGaussianOracle(examples.two_modes(), schedule)
    v = probability_flow(forward_sde(schedule), oracle.score)
    linear, rest = semilinear_split(schedule, oracle.score)
    for t in (0.2, torch.tensor(0.6, dtype=torch.float64), torch.linspace(0.1, 0.9, len(X), dtype=torch.float64)):
        want = oracle.velocity(X, t)
        torch.testing.assert_close(v(X, t), want, rtol=1e-11, atol=1e-11)
        split = torch.as_tensor(linear(t)).reshape(-1, 1) * X + rest(X, t)
        torch.testing.assert_close(split, want, rtol=1e-11, atol=1e-11)


def test_clocks_dtypes_and_the_ends_of_the_families():
    schedule, score = AffineSchedule.vp(), lambda x, t: -x
    sde = forward_sde(schedule)
    assert (sde.t_start, sde.t_end) == (0.0, 1.0)
    back = reverse_sde(sde, score)
    assert (back.t_start, back.t_end) == (1.0, 0.0)
    assert reverse_sde(back, score).t_start == 0.0
    x = torch.randn(3, 2)
    assert back.drift(x, 0.5).dtype == torch.float32
    same = forward_family(sde, lambda x, t: pytest.fail("asked for a score it does not need"), 1.0)
    assert torch.equal(same.drift(x, 0.5), sde.drift(x, 0.5))
    assert float(forward_family(sde, score, 0.0).diffusion(0.5)) == 0.0
    flow = probability_flow(sde, score)
    torch.testing.assert_close(reverse_sde(sde, score, 0.0).drift(x, 0.5), flow(x, 0.5))


def test_refusals(user_errors):
    sde = forward_sde(AffineSchedule.vp())
    score = torch.sin
    for call, error, match in [
        (lambda: forward_sde("vp"), TypeError, "schedule"),
        (lambda: semilinear_split("vp", score), TypeError, "schedule"),
        (lambda: semilinear_split(AffineSchedule.vp(), 3), TypeError, "score"),
        (lambda: SDE(1.0, lambda t: 1.0, 0.0, 1.0), TypeError, "drift must be a function"),
        (lambda: SDE(lambda x, t: x, 1.0, 0.0, 1.0), TypeError, "diffusion must be a function"),
        (lambda: SDE(lambda x, t: x, lambda t: 1.0, 0.5, 0.5), ValueError, "t_start and t_end"),
        (lambda: SDE(lambda x, t: x, lambda t: 1.0, 0.0, float("inf")), ValueError, "finite"),
        (lambda: reverse_sde(sde, score, -0.1), ValueError, "eta"),
        (lambda: reverse_sde(sde, 1.0), TypeError, "score"),
        (lambda: forward_family((1, 2), score, 1.0), TypeError, "sde must be an SDE"),
        (lambda: forward_family(sde, score, float("nan")), ValueError, "eta"),
        (lambda: probability_flow(sde, None), TypeError, "score"),
        (lambda: sde.drift(X, 1.5), ValueError, "outside"),
        (lambda: forward_sde(AffineSchedule.linear()).drift(X, 1.0), ValueError, "infinite|finite|singular"),
    ]:
        with pytest.raises(error, match=match):
            call()
