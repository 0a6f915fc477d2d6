"""Log-ratios against products of normal densities, closed forms of the Ornstein-Uhlenbeck process, and exact Gaussian bounds."""

import math

import pytest
import torch

from mathcore.distributions import GaussianMixture
from mathcore.dynamics.girsanov import elbo_sde, girsanov_log_ratio, path_kl
from mathcore.dynamics.integrate import integrate_sde
from mathcore.dynamics.paths import brownian_path
from mathcore.dynamics.sde import forward_sde, reverse_sde
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule

TS = torch.linspace(0, 1, 101, dtype=torch.float64)
pull, rest = (lambda x, t: -x), (lambda x, t: torch.zeros_like(x))


def test_is_the_product_of_transition_densities(generator):
    """Two state-dependent drifts in the plane, g(t): each step's normal densities from torch.distributions."""
    f, f_tilde, g = (lambda x, t: torch.sin(x + t)), (lambda x, t: x * x.flip(1)), (lambda t: 0.5 + t)
    ts = torch.tensor([0.0, 0.1, 0.25, 0.7], dtype=torch.float64)
    path = torch.randn(5, 4, 2, generator=generator, dtype=torch.float64)
    want = torch.zeros(5, 4, dtype=torch.float64)
    for i in range(3):
        h, x = ts[i + 1] - ts[i], path[:, i]
        laws = [torch.distributions.Normal(x + d(x, float(ts[i])) * h, g(float(ts[i])) * h.sqrt()) for d in (f, f_tilde)]
        want[:, i + 1] = want[:, i] + (laws[0].log_prob(path[:, i + 1]) - laws[1].log_prob(path[:, i + 1])).sum(1)
    got = girsanov_log_ratio(path, ts, f, f_tilde, g, return_path=True)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(girsanov_log_ratio(path, ts, f, f_tilde, g), want[:, -1], rtol=1e-11, atol=1e-11)


def test_reversed_time(generator):
    """A decreasing grid: the step is N(x + f dt, g^2 |dt|) with dt negative."""
    f, f_tilde, g, ts = (lambda x, t: t * x), (lambda x, t: torch.cos(x)), 0.7, torch.tensor([1.0, 0.8, 0.3], dtype=torch.float64)
    path = torch.randn(4, 3, 1, generator=generator, dtype=torch.float64)
    want = torch.zeros(4, dtype=torch.float64)
    for i in range(2):
        h, x = ts[i + 1] - ts[i], path[:, i]
        laws = [torch.distributions.Normal(x + d(x, float(ts[i])) * h, g * h.abs().sqrt()) for d in (f, f_tilde)]
        want += (laws[0].log_prob(path[:, i + 1]) - laws[1].log_prob(path[:, i + 1])).sum(1)
    torch.testing.assert_close(girsanov_log_ratio(path, ts, f, f_tilde, g, reverse=True), want, rtol=1e-11, atol=1e-11)


def test_constant_drift_in_closed_form(generator):
    w = brownian_path(20, TS, 2, generator=generator)
    got = girsanov_log_ratio(w, TS, lambda x, t: torch.full_like(x, 0.6), rest, 1.0)
    torch.testing.assert_close(got, 0.6 * w[:, -1].sum(1) - 0.6**2 / 2 * 2, rtol=1e-10, atol=1e-10)


def test_reweights_one_law_into_the_other(generator):
    """E[R] = 1 and E[R x_T^2] = that of the Euler chain of the pull, whose variance is a geometric sum."""
    w = brownian_path(100_000, TS, 1, generator=generator)
    ratio = girsanov_log_ratio(w, TS, pull, rest, 1.0).exp()
    square = ratio * w[:, -1, 0] ** 2
    n, h = len(TS) - 1, 1 / (len(TS) - 1)
    var = h * sum((1 - h) ** (2 * k) for k in range(n))
    for values, want in ((ratio, 1.0), (square, var)):
        assert abs(float(values.mean()) - want) < 5 * float(values.std()) / math.sqrt(len(w))


def test_path_kl_is_the_mean_log_ratio(generator):
    start = torch.zeros(50_000, 1, dtype=torch.float64)
    path = integrate_sde((pull, lambda x, t: torch.ones_like(x)), start, TS, generator=generator, return_path=True)
    kl, ratio = path_kl(pull, rest, 1.0, path, TS), girsanov_log_ratio(path, TS, pull, rest, 1.0)
    h, n = 0.01, 100
    var = [h * sum((1 - h) ** (2 * k) for k in range(i)) for i in range(n)]  # of the chain at node i
    want = h / 2 * sum(var)
    for values in (kl, ratio):
        assert abs(float(values.mean()) - want) < 5 * float(values.std()) / math.sqrt(len(path))
    assert kl.std() < ratio.std()


# --- the bound: one Gaussian, VP with constant beta, score off by a constant -----------------------------------------------------------


B, M0, S0, T, X0 = 2.0, 0.5, 0.6, 1.5, 0.9
SCHEDULE = AffineSchedule.vp(B, B, t_max=T)
DATA = GaussianMixture(torch.ones(1).double(), torch.tensor([[M0]]).double(), torch.tensor([S0**2]).double())
ORACLE = AffineGaussianOracle(DATA, SCHEDULE)


@pytest.mark.parametrize("form", ["ism", "dsm"])
@pytest.mark.parametrize(("shift", "want"), [(0.0, None), (0.3, -0.489883), (0.4, -0.503065)])
def test_bound_of_a_gaussian(form, shift, want, generator):
    """Exact: with the true score the bound is log p(x_0); shifted by c, two numbers obtained by one-dimensional quadrature."""
    if want is None:
        want = float(torch.distributions.Normal(M0, S0).log_prob(torch.tensor(X0)))
    x0 = torch.full((4000, 1), X0, dtype=torch.float64)
    got = elbo_sde(lambda x, t: ORACLE.score(x, t) + shift, SCHEDULE, x0, ORACLE.marginal(T).log_prob, 40, form, generator=generator)
    assert got.shape == (4000,)
    assert abs(float(got.mean()) - want) < 5 * float(got.std()) / math.sqrt(len(got)) + 1e-6
    assert float(got.std()) < 2  # the antithetic pair keeps the spread finite at sigma -> 0


def test_bound_is_below_the_likelihood_of_the_learned_model(generator):
    """Shifted by 0.4, the learned SDE ends in N(0.83054, 0.36) (moment equations): the bound lies below its log-density."""
    ts = torch.linspace(T, 0, 401, dtype=torch.float64)
    learned = reverse_sde(forward_sde(SCHEDULE), lambda x, t: ORACLE.score(x, t) + 0.4)
    start = ORACLE.marginal(T).sample(20_000, generator=generator)
    end = integrate_sde(learned, start, ts, generator=generator)
    assert abs(float(end.mean()) - 0.83054) < 5 * float(end.std()) / math.sqrt(len(end)) + 0.01  # and the bias of the steps
    assert float(torch.distributions.Normal(0.83054, 0.6).log_prob(torch.tensor(X0))) > -0.503065


def test_bound_with_probes_and_truncation(generator):
    x0 = torch.full((3000, 2), 0.3, dtype=torch.float64)
    data = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), torch.tensor([0.36]).double())
    oracle = AffineGaussianOracle(data, SCHEDULE)
    prior = oracle.marginal(T).log_prob
    exact = elbo_sde(oracle.score, SCHEDULE, x0, prior, 20, "ism", generator=generator)
    probed = elbo_sde(oracle.score, SCHEDULE, x0, prior, 20, "ism", n_probes=1, generator=generator)
    gap = float((exact - probed).mean())
    assert abs(gap) < 5 * math.hypot(float(exact.std()), float(probed.std())) / math.sqrt(len(x0))
    late = elbo_sde(oracle.score, SCHEDULE, x0, prior, 20, t_min=0.2, generator=generator)
    noisy = SCHEDULE.alpha(0.2) * x0 + SCHEDULE.sigma(0.2) * torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    want = oracle.log_prob(noisy, 0.2)  # tight: E[log p_t(x_t) | x_0]
    assert abs(float((late - want).mean())) < 5 * math.hypot(float(late.std()), float(want.std())) / math.sqrt(len(x0))


def test_what_is_refused(user_errors):
    path = torch.zeros(3, 2, 1, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="g must be positive"):
        girsanov_log_ratio(path, ts, pull, rest, 0.0)
    with pytest.raises(ValueError, match=r"g must be positive.*t=0.0"):
        path_kl(pull, rest, lambda t: -1.0, path, ts)
    with pytest.raises(ValueError, match="increase without"):
        girsanov_log_ratio(path, ts.flip(0), pull, rest, 1.0)
    with pytest.raises(ValueError, match="decrease with"):
        girsanov_log_ratio(path, ts, pull, rest, 1.0, reverse=True)
    with pytest.raises(ValueError, match="one node for each"):
        girsanov_log_ratio(path, torch.linspace(0, 1, 3), pull, rest, 1.0)
    with pytest.raises(ValueError, match="N, M"):
        girsanov_log_ratio(path[..., 0], ts, pull, rest, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        girsanov_log_ratio(path + math.nan, ts, pull, rest, 1.0)
    with pytest.raises(TypeError, match="path"):
        girsanov_log_ratio(path.long(), ts, pull, rest, 1.0)
    with pytest.raises(TypeError, match="f_tilde"):
        girsanov_log_ratio(path, ts, pull, 0.0, 1.0)
    with pytest.raises(ValueError, match="f must return"):
        girsanov_log_ratio(path, ts, lambda x, t: x[:1], rest, 1.0)
    x0, prior = torch.zeros(2, 1, dtype=torch.float64), ORACLE.marginal(T).log_prob
    with pytest.raises(ValueError, match="form"):
        elbo_sde(ORACLE.score, SCHEDULE, x0, prior, form="elbo")
    with pytest.raises(ValueError, match="n_t"):
        elbo_sde(ORACLE.score, SCHEDULE, x0, prior, 0)
    with pytest.raises(ValueError, match="t_min"):
        elbo_sde(ORACLE.score, SCHEDULE, x0, prior, t_min=9.0)
    with pytest.raises(TypeError, match="schedule"):
        elbo_sde(ORACLE.score, None, x0, prior)
    with pytest.raises(TypeError, match="prior_log_prob"):
        elbo_sde(ORACLE.score, SCHEDULE, x0, 0.0)
    with pytest.raises(ValueError, match="score must return"):
        elbo_sde(lambda x, t: x[:1], SCHEDULE, x0, prior)
