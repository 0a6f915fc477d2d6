"""Transitions against regression on simulated pairs and Bayes on a grid; the chain of chapter 2; the schedule of an SDE against scipy and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from mathcore.data import examples
from mathcore.dynamics.kernels import diffusion_weight, linear_sde_exact_step, reverse_kernel, schedule_from_sde, transition, vdm_loss
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule

SCHEDULES = [AffineSchedule.vp(), AffineSchedule.ve(0.05, 10.0), AffineSchedule.edm(3.0), AffineSchedule.linear(), AffineSchedule.sub_vp()]
TIMES = st.tuples(st.floats(0.01, 0.94), st.floats(0.02, 1.0)).map(lambda p: (p[0], p[0] + 0.01 + (0.98 - p[0]) * p[1] * 0.9))


@given(TIMES, st.sampled_from(SCHEDULES))
@settings(max_examples=25, deadline=None)
def test_moments_compose(times, schedule):
    """Two steps make one (Chapman-Kolmogorov) and a step keeps the marginal: moments of sums of independent normals, in closed form."""
    t, u = times
    s = (t + u) / 2
    a, b, c = transition(schedule, t, s), transition(schedule, s, u), transition(schedule, t, u)
    # rounding of lambda at the two times, 1e-16 |lambda|, divided by its difference over a step of 0.005 or more
    torch.testing.assert_close(b[0] * a[0], c[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(b[0] ** 2 * a[1] ** 2 + b[1] ** 2, c[1] ** 2, rtol=1e-11, atol=0)
    var = a[0] ** 2 * schedule.sigma(t) ** 2 + a[1] ** 2
    torch.testing.assert_close(var, schedule.sigma(s) ** 2, rtol=1e-12, atol=0)
    coef_xs, coef_x0, std = reverse_kernel(schedule, s, t)
    torch.testing.assert_close(coef_xs * schedule.alpha(s) + coef_x0, schedule.alpha(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(coef_xs**2 * schedule.sigma(s) ** 2 + std**2, schedule.sigma(t) ** 2, rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_transition_is_the_linear_sde(schedule):
    """Against the moment equations of the SDE, solved by scipy."""
    t, s = 0.3, 0.7

    def rate(u, y):
        f, g2 = float(schedule.f(u)), float(schedule.g2(u))
        return [f * y[0], 2 * f * y[1] + g2]

    want = solve_ivp(rate, (t, s), [1.0, 0.0], rtol=1e-11, atol=1e-13).y[:, -1]
    mean, std = transition(schedule, t, s)
    assert float(mean) == pytest.approx(want[0], rel=1e-9)  # tolerance of the solver
    assert float(std) ** 2 == pytest.approx(want[1], rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_reverse_kernel_is_bayes_on_a_grid(schedule):
    t, s, x0, xs = 0.4, 0.8, 0.7, 1.1
    signal, std = (float(v) for v in transition(schedule, t, s))
    # the posterior lies within eight sigma_t of the kernel around alpha_t x_0, or near xs / signal
    half = 10 * float(schedule.sigma(t)) + abs(xs / signal)
    grid = torch.linspace(-half, half, 40001, dtype=torch.float64)
    log = -((xs - signal * grid) ** 2) / (2 * std**2) - (grid - float(schedule.alpha(t)) * x0) ** 2 / (2 * float(schedule.sigma(t)) ** 2)
    w = torch.softmax(log, 0)
    mean = (w * grid).sum()
    coef_xs, coef_x0, spread = reverse_kernel(schedule, s, t)
    torch.testing.assert_close(coef_xs * xs + coef_x0 * x0, mean, rtol=1e-9, atol=1e-9)  # equal weights on a Gaussian: far below
    torch.testing.assert_close(spread**2, (w * (grid - mean) ** 2).sum(), rtol=1e-9, atol=0)


def test_ends_of_the_schedule():
    zero = torch.tensor(0.0, dtype=torch.float64)
    for schedule in (AffineSchedule.vp(), AffineSchedule.linear()):
        got = reverse_kernel(schedule, 0.5, 0.0)
        torch.testing.assert_close(torch.stack(got), torch.stack([zero, schedule.alpha(0.0), zero]))
        torch.testing.assert_close(transition(schedule, 0.0, 0.5)[1], schedule.sigma(0.5))
    # alpha_1 = 0: x_1 has forgotten x_t, the reverse kernel is the marginal kernel
    torch.testing.assert_close(torch.stack(transition(AffineSchedule.linear(), 0.3, 1.0)), torch.stack([zero, zero + 1]))
    torch.testing.assert_close(torch.stack(reverse_kernel(AffineSchedule.linear(), 1.0, 0.3)), torch.tensor([0.0, 0.7, 0.3]).double())
    mixed = transition(AffineSchedule.vp(), torch.tensor([0.0, 0.2]).double(), torch.tensor([0.5, 0.5]).double())
    torch.testing.assert_close(mixed[1][0], AffineSchedule.vp().sigma(0.5))


def test_close_times_keep_their_digits():
    """sigma_{s|t}^2 / (s - t) tends to g^2: by subtraction it would be lost at a distance of 1e-9."""
    schedule, t, h = AffineSchedule.vp(), 0.5, 2.0**-30
    # relative error: 1e-16 |lambda| / (lambda' h) by rounding, h by the next term
    assert float(transition(schedule, t, t + h)[1]) ** 2 / h == pytest.approx(float(schedule.g2(t)), rel=1e-6)


def test_the_chain_of_chapter_2():
    """The same functions on a discrete schedule are its step and its posterior, and the sum of KL terms is that of chapter 2."""
    schedule = DiscreteSchedule.linear(50)
    i = torch.arange(2, 51)
    step = transition(schedule, i - 1, i)
    torch.testing.assert_close(step[0], schedule.alpha_step[i], rtol=1e-13, atol=0)
    torch.testing.assert_close(step[1], schedule.beta_std[i], rtol=1e-12, atol=0)
    coef_xs, coef_x0, std = reverse_kernel(schedule, i, i - 1)
    want = schedule.posterior_coefficients(i)
    torch.testing.assert_close(coef_x0, want[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(coef_xs, want[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(std**2, schedule.posterior_var(i), rtol=1e-12, atol=0)
    for name in ("clean", "noise"):
        torch.testing.assert_close(diffusion_weight(schedule, i - 1, i, name), schedule.weight(i, name, "elbo"), rtol=1e-11, atol=0)


def test_exact_step_has_the_law_of_any_number_of_steps(generator):
    schedule, ts = AffineSchedule.vp(), torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    x0 = torch.full((100_000, 1), 0.8, dtype=torch.float64)
    many = x0
    for t, s in pairwise(ts):
        many = linear_sde_exact_step(many, t, s, schedule, torch.randn(x0.shape, generator=generator, dtype=x0.dtype))
    once = linear_sde_exact_step(x0, 0.1, 0.6, schedule, torch.randn(x0.shape, generator=generator, dtype=x0.dtype))
    std = float(once.std())
    assert abs(float(many.mean() - once.mean())) < 5 * std * math.sqrt(2 / len(x0))
    assert abs(float(many.std() / std) - 1) < 5 * math.sqrt(1 / len(x0))


def test_vdm_loss_of_the_exact_model(generator):
    """For data N(m, v) the exact clean prediction errs by v sigma^2 / (alpha^2 v + sigma^2) on average: an independent sum."""
    data, schedule = examples.gaussian(), AffineSchedule.vp()
    oracle = AffineGaussianOracle(data, schedule)
    times = torch.linspace(0.05, 1.0, 20, dtype=torch.float64)
    x0 = data.sample(20_000, generator=generator)
    got = vdm_loss(oracle.clean, x0, schedule, times.flip(0), generator)
    want, v = 0.0, float(data.cov()[0, 0])
    for t, s in zip(times[:-1].tolist(), times[1:].tolist()):
        snr = [float(schedule.alpha(u) / schedule.sigma(u)) ** 2 for u in (t, s)]
        want += (snr[0] - snr[1]) / 2 * v / (1 + snr[1] * v)
    assert abs(float(got.mean()) - want) < 5 * float(got.std()) / math.sqrt(len(x0))


def test_vdm_loss_does_not_see_the_schedule():
    """Same SNR at the nodes, same noise: the sum is the same number, whatever the schedule and its clock."""
    data = examples.two_modes()
    x0 = data.sample(50, generator=torch.Generator().manual_seed(3))
    lam = torch.linspace(3.0, -3.0, 30, dtype=torch.float64)
    losses = []
    for schedule in (AffineSchedule.vp(), AffineSchedule.linear(), AffineSchedule.edm(100.0), AffineSchedule.trig()):
        clean = AffineGaussianOracle(data, schedule).clean
        losses.append(vdm_loss(clean, x0, schedule, schedule.inverse_half_log_snr(lam), torch.Generator().manual_seed(1)))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-8, atol=0)  # lambda -> t -> lambda
    chain = DiscreteSchedule.linear(40)
    assert vdm_loss(AffineGaussianOracle(data, chain).clean, x0, chain).shape == (50,)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [(AffineSchedule.vp(), 1.0), (AffineSchedule.ve(), 1.0), (AffineSchedule.sub_vp(), 1.0), (AffineSchedule.linear(), 0.999)],
    ids=["vp", "ve", "sub_vp", "linear"],
)
def test_schedule_from_sde_inverts_the_lemma(schedule, end):
    back = schedule_from_sde(schedule.f, schedule.g2, end)
    ts = torch.cat([torch.logspace(-8, -2, 7), torch.linspace(0.05, 0.999, 20)]).double() * end
    for name in ("alpha", "sigma", "f", "g2", "half_log_snr"):
        # rounding of up to a few hundred quadrature terms
        torch.testing.assert_close(getattr(back, name)(ts), getattr(schedule, name)(ts), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(back.dalpha(ts), schedule.dalpha(ts), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back.dsigma(ts), schedule.dsigma(ts), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(back.inverse_half_log_snr(schedule.half_log_snr(ts)), ts, rtol=1e-11, atol=0)


def test_schedule_from_a_table_with_a_kink():
    """beta given at three times and joined by straight lines: B by hand, alpha = exp(-B / 2), sigma^2 = 1 - exp(-B)."""

    def beta(t):
        return torch.where(t < 0.3, 1 + 10 * t, 4 + 20 * (t - 0.3))

    back = schedule_from_sde(lambda t: -beta(t) / 2, beta, 1.0)
    B = (0.3 + 0.45) + 4 * 0.7 + 10 * 0.49
    assert float(back.alpha(1.0)) == pytest.approx(math.exp(-B / 2), rel=1e-12)
    assert float(back.sigma(1.0)) == pytest.approx(math.sqrt(-math.expm1(-B)), rel=1e-12)
    assert float(back.alpha(0.0)) == 1.0
    assert float(back.sigma(0.0)) == 0.0
    assert "schedule_from_sde" in repr(back)


def test_what_is_refused(user_errors):
    vp, x = AffineSchedule.vp(), torch.zeros(2, 1)
    with pytest.raises(ValueError, match="need t < s"):
        transition(vp, 0.5, 0.5)
    with pytest.raises(ValueError, match="need t < s"):
        reverse_kernel(vp, 0.2, 0.6)
    with pytest.raises(ValueError, match="domain"):
        transition(vp, 0.5, 1.5)
    with pytest.raises(ValueError, match="agree in shape"):
        transition(vp, torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5]))
    with pytest.raises(TypeError, match="schedule"):
        transition("vp", 0.1, 0.2)
    with pytest.raises(TypeError, match="index of the discrete"):
        transition(DiscreteSchedule.linear(30), 0.1, 0.2)
    with pytest.raises(ValueError, match=r"0\.\.30"):
        transition(DiscreteSchedule.linear(30), 3, 31)
    with pytest.raises(ValueError, match="SNR is infinite"):
        diffusion_weight(vp, 0.0, 0.5)
    with pytest.raises(ValueError, match="prediction"):
        diffusion_weight(vp, 0.1, 0.5, "score")
    with pytest.raises(ValueError, match="shape of x"):
        linear_sde_exact_step(x, 0.1, 0.2, vp, torch.zeros(2, 2))
    with pytest.raises(TypeError, match="floating"):
        linear_sde_exact_step(x.long(), 0.1, 0.2, vp, x)
    with pytest.raises(ValueError, match="NaN"):
        linear_sde_exact_step(x + math.nan, 0.1, 0.2, vp, x)
    with pytest.raises(ValueError, match="times must be given"):
        vdm_loss(lambda x, t: x, x, vp)
    with pytest.raises(ValueError, match="clean must return"):
        vdm_loss(lambda x, t: x[:1], x, vp, torch.linspace(0.1, 1, 3))
    with pytest.raises(ValueError, match="infinite"):
        vdm_loss(lambda x, t: x, x, vp, torch.linspace(0.0, 1, 3))


def test_what_schedule_from_sde_refuses(user_errors):
    one = torch.ones_like
    with pytest.raises(ValueError, match="t_max"):
        schedule_from_sde(one, one, -1.0)
    with pytest.raises(TypeError, match="f must map"):
        schedule_from_sde(lambda t: 0.0, one)
    with pytest.raises(ValueError, match="elementwise"):
        schedule_from_sde(one, lambda t: t.sum())
    with pytest.raises(ValueError, match="must not be negative"):
        schedule_from_sde(one, lambda t: 0.5 - t)
    with pytest.raises(ValueError, match=r"do not settle|must be finite"):
        schedule_from_sde(lambda t: -1 / (1 - t), one)
