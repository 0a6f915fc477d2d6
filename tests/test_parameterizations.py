"""One loss with four axes against definitions, automatic differentiation and exact posteriors; the ODE and the family of SDEs against exact moments."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.distributions import GaussianMixture
from mathcore.dynamics.sde import forward_sde, reverse_sde
from mathcore.oracle import AffineGaussianOracle
from mathcore.parameterizations import (
    FORMS,
    WEIGHTS,
    effective_weight,
    loss_weight,
    pf_velocity,
    regression_target,
    reverse_family,
    target_coefficients,
    time_weight,
    unified_loss,
    unified_terms,
)
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule
from mathcore.scores.dsm import dsm_terms
from mathcore.time_distributions import TimeDistribution

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "cosine": AffineSchedule.cosine(),
}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
kinds = pytest.mark.parametrize("kind", PREDICTIONS)
DATA = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64),
    torch.tensor([0.04, 0.3], dtype=torch.float64),
)
TWO_MODES = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])))


def normals(*shape, seed=0, count=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, dtype=dtype, generator=g).unbind()


def inner_times(schedule, n, low=0.05, high=0.95):
    return schedule.t_min + (schedule.t_max - schedule.t_min) * torch.linspace(low, high, n, dtype=torch.float64)


# --- targets (Eq. 6.2.1 to 6.2.5, Table 6.1) ---------------------------------------------------------------------------------------------


@everywhere
def test_targets_are_their_definitions(name):
    """Score: gradient of log N(x_t; alpha x_0, sigma^2). Velocity: derivative of the path, both by automatic differentiation."""
    schedule = SCHEDULES[name]
    x0, eps = normals(7, 3)
    t = inner_times(schedule, 7)
    point = (schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps).requires_grad_()
    log_p = -((point - schedule.alpha(t)[:, None] * x0) ** 2) / (2 * schedule.sigma(t)[:, None] ** 2)
    (score,) = torch.autograd.grad(log_p.sum(), point)
    # one rounding of x_t, size alpha x0 / sigma times eps, divided by sigma (sigma >= .012 on ve)
    torch.testing.assert_close(regression_target(x0, eps, t, schedule, "score"), score, rtol=1e-11, atol=1e-11)
    times = t.clone().requires_grad_()
    path = schedule.alpha(times)[:, None] * x0 + schedule.sigma(times)[:, None] * eps
    velocity = torch.stack([torch.autograd.grad(path[:, k].sum(), times, retain_graph=True)[0] for k in range(3)], 1)
    torch.testing.assert_close(regression_target(x0, eps, t, schedule, "velocity"), velocity, rtol=1e-12, atol=1e-12)
    assert torch.equal(regression_target(x0, eps, t, schedule, "clean"), x0)
    assert torch.equal(regression_target(x0, eps, t, schedule, "noise"), eps)


def test_the_score_target_divides_by_sigma_once():
    a, b = target_coefficients(SCHEDULES["edm"], 0.5, "score")
    assert (float(a), float(b)) == (0.0, -2.0)  # and not -4, which is -1 / sigma^2


@kinds
@everywhere
def test_the_mean_target_near_a_point_is_the_oracle(name, kind):
    """Conditional means of 2e5 samples in bins of x_t against the oracle averaged over the same samples (Eq. 6.2.1 to 6.2.4)."""
    schedule = SCHEDULES[name]
    data = TWO_MODES
    t = 0.3 if name != "edm" else 0.8
    g = torch.Generator().manual_seed(4)
    x0 = data.sample(200_000, g)
    eps = torch.randn(x0.shape, dtype=x0.dtype, generator=g)
    x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    residual = regression_target(x0, eps, t, schedule, kind) - getattr(AffineGaussianOracle(data, schedule), kind)(x_t, t)
    order = x_t[:, 0].argsort()
    bins = residual[order, 0].reshape(100, 2000)  # of equal mass
    z = bins.mean(1) / (bins.std(1) / math.sqrt(2000))
    assert float((z.abs() < 4).double().mean()) >= 0.95
    assert float(z.abs().max()) < 5.5


# --- weights (Eq. 6.3.6, section 6.2.2) -------------------------------------------------------------------------------------------------


@everywhere
def test_losses_agree_per_sample_up_to_the_weight(name):
    schedule = SCHEDULES[name]
    x_t, error = normals(9, 4)
    t = inner_times(schedule, 9)
    (wrong,) = normals(9, 4, seed=3, count=1)
    for src, dst in itertools.permutations(PREDICTIONS, 2):
        images = [convert_prediction(v, x_t, t, schedule, src, dst) for v in (wrong, wrong + error)]
        got = (images[1] - images[0]).square().sum(1)
        want = loss_weight(schedule, t, src, dst) * error.square().sum(1)
        # the difference of two converted values: rounding relative to their size
        size = images[0].abs().max() * images[0].abs().max()
        torch.testing.assert_close(got, want, rtol=1e-9, atol=float(1e-13 * size))


@everywhere
def test_loss_weights_are_those_of_the_monograph(name):
    schedule = SCHEDULES[name]
    t = inner_times(schedule, 9)
    alpha, sigma, slope = schedule.alpha(t), schedule.sigma(t), torch.autograd.functional.jacobian
    da, ds = (slope(fn, t).diagonal() for fn in (schedule.alpha, schedule.sigma))
    weights = {
        "noise": 1 / sigma**2,
        "clean": alpha**2 / sigma**4,
        "velocity": (alpha / (sigma * (da * sigma - alpha * ds))) ** 2,
    }
    for src, want in weights.items():
        torch.testing.assert_close(loss_weight(schedule, t, src, "score"), want, rtol=1e-10, atol=0)
    assert torch.equal(loss_weight(schedule, t, "noise", "noise"), torch.ones_like(t))
    assert loss_weight(schedule, 0.5, "noise", "score").shape == ()
    assert loss_weight(schedule, t.float(), "noise", "score").dtype == torch.float32


def test_amplification_of_exponential_vp_at_the_noisy_end():
    """alpha = .00657, Delta = .0657: errors of a velocity grow 15.2 times in the clean point, those of a noise 152 times."""
    vp = SCHEDULES["vp"]
    assert float(vp.alpha(1.0)) == pytest.approx(0.00657, abs=5e-6)
    assert float(loss_weight(vp, 1.0, "velocity", "clean").sqrt()) == pytest.approx(15.2, abs=0.05)
    assert float(loss_weight(vp, 1.0, "noise", "clean").sqrt()) == pytest.approx(152, abs=0.5)


@everywhere
def test_likelihood_weighting_is_uniform_in_log_snr_for_noise(name):
    schedule = SCHEDULES[name]
    t = inner_times(schedule, 9).requires_grad_()
    (rate,) = torch.autograd.grad(schedule.half_log_snr(t).sum(), t)
    got = time_weight(schedule, t.detach(), "g2") * loss_weight(schedule, t.detach(), "noise", "score")
    torch.testing.assert_close(got, -2 * rate, rtol=1e-10, atol=0)


def test_time_weights():
    vp, t = SCHEDULES["vp"], torch.tensor([0.2, 0.7], dtype=torch.float64)
    ratio = vp.alpha(t) ** 2 / vp.sigma(t) ** 2
    torch.testing.assert_close(time_weight(vp, t, "snr"), ratio, rtol=1e-12, atol=0)
    torch.testing.assert_close(time_weight(vp, t, "sigma2"), 1 - vp.alpha(t) ** 2, rtol=1e-12, atol=0)
    assert torch.equal(time_weight(vp, t, "one"), torch.ones(2, dtype=torch.float64))
    assert torch.equal(time_weight(vp, t, lambda u: 3 * u), 3 * t)
    assert torch.equal(time_weight(vp, t, lambda u: 2.0), torch.full_like(t, 2))


class Linear(torch.nn.Module):
    """A tiny model: two weights times x plus a weight times t."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64))

    def forward(self, x, t):
        return self.w[0] * x + self.w[1] * torch.tanh(x) + self.w[2] * t.reshape(-1, *([1] * (x.ndim - 1)))


def gradient(loss, model):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


@everywhere
def test_one_network_has_the_same_gradient_in_four_losses(name):
    schedule, model = SCHEDULES[name], Linear()
    x0, eps = normals(64, 2)
    t = inner_times(schedule, 64)
    for head in PREDICTIONS:
        base = gradient(unified_terms(model, x0, eps, t, schedule, head, "score").mean(), model)
        for target in PREDICTIONS:
            terms = unified_terms(model, x0, eps, t, schedule, head, target, lambda u, k=target: loss_weight(schedule, u, k, "score"))
            got = gradient(terms.mean(), model)
            assert float((got - base).norm() / base.norm()) < 1e-10
    # the raw output read as another head without conversion is another loss
    raw = gradient(unified_terms(model, x0, eps, t, schedule, "noise", weight="one").mean(), model)
    other = gradient(unified_terms(model, x0, eps, t, schedule, "clean", weight="one").mean(), model)
    assert float((raw - other).norm() / raw.norm()) > 1e-3


@everywhere
@pytest.mark.parametrize("head", ["score", "noise", "clean"])
def test_against_the_denoising_score_matching_loss(name, head):
    schedule = SCHEDULES[name]
    x0, eps = normals(16, 3)
    t = inner_times(schedule, 16)
    for weight in ("one", "sigma2", "g2"):
        want = 2 * dsm_terms(Linear(), x0, eps, schedule, t, weight, head)  # chapter 3 has the factor 1/2
        torch.testing.assert_close(unified_terms(Linear(), x0, eps, t, schedule, head, "score", weight), want, rtol=1e-9, atol=1e-9)


@everywhere
def test_the_oracle_leaves_the_posterior_variance(name):
    """E |x* - x_0|^2 = E tr Cov(x_0 | x_t), and the oracle beats its perturbations (section 6.1)."""
    schedule, t = SCHEDULES[name], 0.4
    oracle = AffineGaussianOracle(DATA, schedule)
    x0 = DATA.sample(20_000, torch.Generator().manual_seed(1))
    (eps,) = normals(20_000, 2, seed=2, count=1)
    terms = unified_terms(oracle.clean, x0, eps, t, schedule, "clean")
    x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    gap = terms - oracle.posterior_cov(x_t, torch.tensor(t, dtype=torch.float64)).diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(gap.mean() / (gap.std() / math.sqrt(len(gap))))) < 5


def test_the_conditional_loss_is_shifted_by_a_constant():
    """Difference of conditional and marginal loss over 20 perturbations of the optimum, same samples: constant to 1 per cent (section 6.1)."""
    schedule, t, n = SCHEDULES["linear"], 0.5, 200_000
    oracle = AffineGaussianOracle(DATA, schedule)
    x0, (eps,) = DATA.sample(n, torch.Generator().manual_seed(1)), normals(n, 2, seed=2, count=1)
    x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    exact, target = oracle.velocity(x_t, t), regression_target(x0, eps, t, schedule, "velocity")
    g = torch.Generator().manual_seed(3)
    shifts = []
    for _ in range(20):
        bump = 0.3 * torch.sin(x_t @ torch.randn(2, 2, dtype=torch.float64, generator=g) + 1)
        shifts.append(float(((exact + bump - target) ** 2).sum(1).mean() - (bump**2).sum(1).mean()))
    assert np.std(shifts) / np.mean(shifts) < 0.01


@everywhere
def test_effective_weight_is_the_weight_on_the_score_error(name):
    """omega p |head error|^2 for a given score error, head by head, from the conversions themselves."""
    schedule = SCHEDULES[name]
    t = inner_times(schedule, 5)
    times = TimeDistribution.lognormal(schedule)
    x_t, error = normals(5, 1)
    for target in PREDICTIONS:
        images = [convert_prediction(v, x_t, t, schedule, "score", target) for v in (0 * error, error)]
        want = 0.7 * t * torch.exp(times.log_prob(t)) * ((images[1] - images[0]) / error).square()[:, 0]
        got = effective_weight(schedule, t, target, lambda u: 0.7 * u, times)
        torch.testing.assert_close(got, want, rtol=1e-7, atol=0)
    assert float(effective_weight(schedule, t[0], "score")) == pytest.approx(1 / schedule.t_max)


def test_designs_with_one_effective_weight_have_one_expected_gradient():
    """Two designs of the same w_eff: equal mean gradients (z-test), different variance (section 6.2.2, last paragraph)."""
    schedule, model, n = SCHEDULES["trig"], Linear(), 4000
    uniform, middle = TimeDistribution.uniform(schedule), TimeDistribution.logit_normal(schedule)

    def matched(u):  # weight on the clean loss under logit-normal times such that w_eff is that of the noise loss under uniform times
        return effective_weight(schedule, u, "noise") / effective_weight(schedule, u, "clean", "one", middle)

    designs = {"noise": (uniform, "one"), "clean": (middle, matched)}
    t = inner_times(schedule, 9)
    weights = [effective_weight(schedule, t, target, weight, times) for target, (times, weight) in designs.items()]
    torch.testing.assert_close(*weights, rtol=1e-10, atol=0)
    samples = []
    for seed, (target, (times, weight)) in enumerate(designs.items(), 10):
        g = torch.Generator().manual_seed(seed)
        x0, drawn = DATA.sample(n, g), times.sample(n, g)
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=g)
        params = dict(model.named_parameters())

        def term(p, k, x0=x0, eps=eps, drawn=drawn, target=target, weight=weight):
            def run(x, u):
                return torch.func.functional_call(model, p, (x, u))

            return unified_terms(run, x0[k], eps[k], drawn[k], schedule, "noise", target, weight).mean()

        blocks = torch.arange(n).reshape(100, -1)
        samples.append(torch.stack([torch.func.grad(term)(params, k)["w"] for k in blocks]))
    samples = [s.detach() for s in samples]
    difference = samples[0].mean(0) - samples[1].mean(0)
    error = (sum(s.var(0) for s in samples) / 100).sqrt()
    assert float((difference / error).abs().max()) < 5
    assert float((samples[0].std(0) / samples[1].std(0)).log().abs().max()) > 0.1


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_loss_draws_times_then_noise_and_may_divide_by_the_density(unbiased):
    schedule, model = SCHEDULES["vp"], Linear()
    times = TimeDistribution.lognormal(schedule)
    (x0,) = normals(32, 2, count=1)
    got = unified_loss(model, x0, times, schedule, "noise", generator=torch.Generator().manual_seed(5), unbiased=unbiased)
    g = torch.Generator().manual_seed(5)
    t = times.sample(32, g)
    terms = unified_terms(model, x0, torch.randn(x0.shape, dtype=x0.dtype, generator=g), t, schedule, "noise")
    assert float(got.detach()) == pytest.approx(
        float((terms / torch.exp(times.log_prob(t)) if unbiased else terms).mean().detach()), rel=1e-14
    )
    fixed = unified_loss(model, x0, 0.3, schedule, "noise", generator=torch.Generator().manual_seed(5))
    (eps,) = torch.randn(1, *x0.shape, dtype=x0.dtype, generator=torch.Generator().manual_seed(5))
    assert float(fixed.detach()) == pytest.approx(float(unified_terms(model, x0, eps, 0.3, schedule, "noise").mean().detach()), rel=1e-14)


def test_unbiased_losses_estimate_one_integral():
    schedule, model = SCHEDULES["linear"], Linear()
    x0 = DATA.sample(40_000, torch.Generator().manual_seed(0))
    estimates = []
    seen = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    laws = (
        TimeDistribution.uniform(schedule),
        TimeDistribution.lognormal(schedule, 0.0, 2.0),
        TimeDistribution.importance(schedule, seen, 0.2 + seen, 10),
    )
    for seed, law in enumerate(laws, 10):
        g = torch.Generator().manual_seed(seed)
        t = law.sample(len(x0), g)
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=g)
        terms = unified_terms(model, x0, eps, t, schedule, "noise").detach() / torch.exp(law.log_prob(t))
        estimates.append((float(terms.mean()), float(terms.std()) / math.sqrt(len(t))))
    for (a, ea), (b, eb) in itertools.combinations(estimates, 2):
        assert abs(a - b) < 5 * math.hypot(ea, eb)


# --- the ODE in five forms (Eq. 6.3.2) -----------------------------------------------------------------------------------------------------


@everywhere
def test_five_forms_are_one_velocity(name):
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(DATA, schedule)
    (x,) = normals(9, 2, count=1)
    t = inner_times(schedule, 9)
    heads = {kind: getattr(oracle, kind)(x, t) for kind in PREDICTIONS} | {"clean_noise": (oracle.clean(x, t), oracle.noise(x, t))}
    for form in FORMS:
        torch.testing.assert_close(pf_velocity(heads[form], x, t, schedule, form), oracle.velocity(x, t), rtol=1e-10, atol=1e-10)


def test_the_edm_ode_and_the_pair_at_both_ends():
    x, clean = normals(4, 2)
    torch.testing.assert_close(pf_velocity(clean, x, 0.7, SCHEDULES["edm"], "clean"), (x - clean) / 0.7)
    for t in (0.0, 1.0):  # the pair divides by nothing
        torch.testing.assert_close(pf_velocity((clean, x), x, t, SCHEDULES["linear"], "clean_noise"), x - clean)


# --- the family of reverse-time SDEs (Prop. 6.4.1) -------------------------------------------------------------------------------------------


@everywhere
@settings(max_examples=8, deadline=None)
@given(eta=st.floats(0, 3), fraction=st.floats(0.1, 0.9))
def test_the_family_is_that_of_the_forward_sde(name, eta, fraction):
    """gamma = eta g against the reverse SDE built from f, g and the score."""
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(DATA, schedule)
    t = fraction * schedule.t_max
    end = 0.01 * schedule.t_max
    family = reverse_family(oracle.velocity, schedule, lambda u: eta * torch.sqrt(schedule.g2(u)), 0.9 * schedule.t_max, end)
    known = reverse_sde(forward_sde(schedule), oracle.score, eta)
    (x,) = normals(5, 2, count=1)
    torch.testing.assert_close(family.drift(x, t), known.drift(x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(family.diffusion(t), known.diffusion(t).double())
    assert (family.t_start, family.t_end) == (0.9 * schedule.t_max, end)


RECURSION = {0.0: (0.248523, 0.249260), 0.5: (0.249069, 0.249534), 1.0: (0.249936, 0.249968), 2.0: (0.251686, 0.250840)}


@pytest.mark.parametrize("gamma", RECURSION)
def test_every_gamma_ends_at_the_variance_of_the_data(gamma):
    """Data N(0, 1/4), linear schedule: Euler-Maruyama keeps the law Gaussian, so that its variance is a recursion. Errors halve: weak order one."""
    schedule = SCHEDULES["linear"]
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.0]], [0.25])))
    oracle = AffineGaussianOracle(law, schedule)
    sde = reverse_family(oracle.velocity, schedule, gamma, 1.0, 0.0)
    variances = []
    for n in (500, 1000):
        h, variance = -1 / n, 1.0
        times = torch.linspace(1, 0, n + 1, dtype=torch.float64)[:-1]
        slopes = sde.drift(torch.ones(n, 1, dtype=torch.float64), times)[:, 0]  # the fields are linear
        for slope in slopes.tolist():
            variance = (1 + h * slope) ** 2 * variance - float(sde.diffusion(0.5)) ** 2 * h
        variances.append(variance)
    assert variances == pytest.approx(RECURSION[gamma], abs=5e-7)
    errors = [abs(v - 0.25) for v in variances]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)


# --- the reverse kernel is not Gaussian (Eq. 6.1.1) -----------------------------------------------------------------------------------------


def gap_to_a_gaussian(step, matched):
    """E KL(p(x_{t - step} | x_t) || Gaussian) for two modes, alpha = 1, sigma = t, at t = .8; the kernel by Bayes' rule on a grid."""
    t = 0.8
    law = TWO_MODES.corrupt(1.0, t - step)
    noise = t**2 - (t - step) ** 2
    points = torch.linspace(-4.5, 4.5, 181, dtype=torch.float64)
    width, total = 14 * math.sqrt(noise), 0.0
    weights = TWO_MODES.corrupt(1.0, t).prob(points[:, None]) * (points[1] - points[0])
    kernels = []
    for x in points:
        y = torch.linspace(float(x) - width, float(x) + width, 1201, dtype=torch.float64)
        log_p = law.log_prob(y[:, None]) - (x - y) ** 2 / (2 * noise)
        log_p = log_p - torch.logsumexp(log_p, 0) - torch.log(y[1] - y[0])
        p = torch.exp(log_p) * (y[1] - y[0])
        mean = (p * y).sum()
        kernels.append((y, log_p, mean, (p * (y - mean) ** 2).sum()))
    shared = sum(w * k[3] for w, k in zip(weights, kernels))
    for w, (y, log_p, mean, var) in zip(weights, kernels):
        v = var if matched else shared
        log_q = -((y - mean) ** 2) / (2 * v) - torch.log(2 * math.pi * v) / 2
        total += float(w * torch.trapezoid(torch.exp(log_p) * (log_p - log_q), y))
    return total


@pytest.mark.parametrize(("matched", "slope"), [(False, 2.02), (True, 3.02)])
def test_the_gap_of_a_gaussian_reverse_kernel(matched, slope):
    """Slope 2 with the best constant variance, 3 with the variance of each point: last slope of the step sizes .1 ... .00625."""
    gaps = [gap_to_a_gaussian(h, matched) for h in (0.0125, 0.00625)]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(slope, abs=0.1)


# --- bad input -----------------------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_targets_and_weights(user_errors):
    vp, x = SCHEDULES["vp"], torch.zeros(2, 3)
    with pytest.raises(ValueError, match="prediction must be one of"):
        target_coefficients(vp, 0.5, "eps")
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        target_coefficients("vp", 0.5, "noise")
    with pytest.raises(ValueError, match="sigma is zero"):
        target_coefficients(vp, 0.0, "score")
    with pytest.raises(ValueError, match="dsigma of the vp schedule is infinite"):
        target_coefficients(vp, 0.0, "velocity")
    with pytest.raises(ValueError, match="eps must have the shape"):
        regression_target(x, x[:1], 0.5, vp, "noise")
    with pytest.raises(ValueError, match="x0 contains NaN"):
        regression_target(x * math.nan, x, 0.5, vp, "noise")
    with pytest.raises(TypeError, match="x0 must be a floating"):
        regression_target(x.long(), x, 0.5, vp, "noise")
    with pytest.raises(ValueError, match="singular"):
        loss_weight(vp, 0.0, "clean", "score")
    with pytest.raises(ValueError, match="src must be one of"):
        loss_weight(vp, 0.5, "x", "score")
    with pytest.raises(ValueError, match="weight must be one of " + ", ".join(WEIGHTS)):
        time_weight(vp, 0.5, "snrr")
    with pytest.raises(ValueError, match="weight must be finite and not negative"):
        time_weight(vp, 0.5, lambda t: -t)
    with pytest.raises(ValueError, match="weight must return one number"):
        time_weight(vp, 0.5, lambda t: torch.ones(3))
    with pytest.raises(ValueError, match="infinite"):
        time_weight(vp, 0.0, "snr")
    with pytest.raises(TypeError, match="times must be a TimeDistribution"):
        effective_weight(vp, 0.5, "noise", "one", "uniform")
    with pytest.raises(ValueError, match="times must be those of the schedule"):
        effective_weight(vp, 0.5, "noise", "one", TimeDistribution.uniform(SCHEDULES["edm"]))


def test_bad_input_is_refused_by_the_loss(user_errors):
    vp, x = SCHEDULES["vp"], torch.zeros(2, 3)

    def model(x, t):
        return x

    with pytest.raises(ValueError, match="unbiased needs a TimeDistribution"):
        unified_loss(model, x, 0.5, vp, "noise", unbiased=True)
    with pytest.raises(ValueError, match="times must be those of the schedule"):
        unified_loss(model, x, TimeDistribution.uniform(SCHEDULES["edm"]), vp, "noise")
    with pytest.raises(TypeError, match=r"x0 must be a torch\.Tensor"):
        unified_loss(model, [[0.0]], 0.5, vp, "noise")
    with pytest.raises(ValueError, match="target must be one of"):
        unified_loss(model, x, 0.5, vp, "noise", "eps")
    with pytest.raises(ValueError, match="prediction must be one of"):
        unified_loss(model, x, 0.5, vp, "eps")
    with pytest.raises(ValueError, match="model must return the shape"):
        unified_loss(lambda x, t: x[:, :1], x, 0.5, vp, "noise")
    with pytest.raises(ValueError, match="contains NaN"):
        unified_loss(lambda x, t: x * math.nan, x, 0.5, vp, "noise")
    with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
        unified_loss(model, x, 1.5, vp, "noise")
    with pytest.raises(ValueError, match=r"of shape \(2,\)"):
        unified_terms(model, x, x, torch.ones(3), vp, "noise")
    with pytest.raises(ValueError, match="singular"):
        unified_loss(model, x, 0.0, vp, "noise", "score")
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        unified_loss(model, x, 0.5, "vp", "noise")


def test_bad_input_is_refused_by_the_ode_and_the_sdes(user_errors):
    vp, x = SCHEDULES["vp"], torch.zeros(2, 3)
    with pytest.raises(ValueError, match="form must be one of " + ", ".join(FORMS)):
        pf_velocity(x, x, 0.5, vp, "both")
    with pytest.raises(TypeError, match="value must be the pair"):
        pf_velocity(x, x, 0.5, vp, "clean_noise")
    with pytest.raises(TypeError, match="value must be one tensor"):
        pf_velocity((x, x), x, 0.5, vp, "clean")
    with pytest.raises(ValueError, match="clean must have the shape"):
        pf_velocity((x[:1], x), x, 0.5, vp, "clean_noise")
    with pytest.raises(ValueError, match="singular"):
        pf_velocity(x, x, 1.0, SCHEDULES["linear"], "noise")
    with pytest.raises(ValueError, match="value contains NaN"):
        pf_velocity(x * math.nan, x, 0.5, vp, "noise")

    def velocity(x, t):
        return -x

    with pytest.raises(TypeError, match="velocity must be a function"):
        reverse_family("v", vp, 1.0, 1.0, 0.1)
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        reverse_family(velocity, "vp", 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="gamma must be finite and not negative"):
        reverse_family(velocity, vp, -1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
        reverse_family(velocity, vp, 1.0, 2.0, 0.1)
    with pytest.raises(ValueError, match="different finite times"):
        reverse_family(velocity, vp, 1.0, 0.5, 0.5)
    sde = reverse_family(velocity, vp, lambda t: 0.5 - t, 0.1, 0.05)
    with pytest.raises(ValueError, match="gamma must be finite and not negative"):
        sde.drift(x, 0.9)
    with pytest.raises(ValueError, match="singular"):
        reverse_family(velocity, vp, 1.0, 1.0, 0.0).drift(x, 0.0)
