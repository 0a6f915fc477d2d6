"""What the theory says exactly: equal methods, exact cases, and the four predictions as one."""

import math

import pytest
import torch
from problems import F64, KINDS, SCHEDULES, Problem

from mathcore.distributions import Empirical, GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ancestral, ddim, edm_heun, euler, euler_maruyama, grids, heun, rk4
from mathcore.solvers.diagnostics import exact_variance, linear_model
from mathcore.variational.ddpm import ddpm_sample, oracle_model

POINT = torch.tensor([[0.7, -1.1]], dtype=F64)
everywhere = pytest.mark.parametrize("name", SCHEDULES)


def same(got, want, tol=1e-12):
    # coefficients and states are of size 1 to 100, a run has tens of steps: 1e-12 is some hundreds of roundings
    torch.testing.assert_close(got, want, rtol=tol, atol=tol)


def wiggly(schedule, t_start, t_end, n=12):
    """A grid that is uniform in nothing."""
    u = torch.linspace(0, 1, n + 1, dtype=F64)
    t = t_start + (t_end - t_start) * (u + 0.06 * torch.sin(7 * u) * u * (1 - u))
    t[0], t[-1] = t_start, t_end
    return t


@everywhere
@pytest.mark.parametrize("kind", ["noise", "clean", "score"])
def test_ddim_is_exact_for_a_point_mass(name, kind):
    schedule = SCHEDULES[name]
    p = Problem(name)
    oracle = AffineGaussianOracle(Empirical(POINT), schedule)
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x_T = schedule.alpha(p.t_start) * POINT + schedule.sigma(p.t_start) * noise
    out = ddim(schedule, wiggly(schedule, p.t_start, p.t_end), kind).run(getattr(oracle, kind), x_T)
    same(out, schedule.alpha(p.t_end) * POINT + schedule.sigma(p.t_end) * noise)


@everywhere
def test_ddim_ends_at_the_data_exactly(name):
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(Empirical(POINT), schedule)
    times = grids.uniform_lambda(schedule, 6, to_clean=True)
    assert float(times[-1]) == schedule.t_min == 0.0
    same(ddim(schedule, times, "clean").run(oracle.clean, torch.ones(3, 2, dtype=F64)), POINT.expand(3, 2))


@pytest.mark.parametrize("name", ["linear", "trig", "cosine"])
def test_ddim_starts_where_there_is_no_signal(name):
    schedule, mixture = SCHEDULES[name], Problem("vp").mixture
    oracle = AffineGaussianOracle(mixture, schedule)
    times = grids.uniform_t(schedule, 250, t_start=schedule.t_max, t_end=0.05)
    x_T = torch.tensor([[-1.0], [0.5]], dtype=F64)
    out = ddim(schedule, times, "clean").run(oracle.clean, x_T)
    assert float((out - oracle.flow_map(x_T, schedule.t_max, 0.05)).abs().max()) < 3e-2  # order 1 with 250 steps
    with pytest.raises(ValueError, match="singular"):
        ddim(schedule, times, "noise")


@everywhere
def test_the_four_predictions_are_one_method(name):
    p = Problem(name)
    times = wiggly(p.schedule, p.t_start, p.t_end)
    z = torch.randn(60, 4, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    methods = (ddim, euler, rk4, edm_heun, ancestral, euler_maruyama, lambda *a: ddim(*a, eta=0.7), lambda *a: heun(*a, clock="lambda"))
    for method in methods:
        runs = [method(p.schedule, times, kind).run(p.model(kind), p.x, noise=lambda k: z[k]) for kind in KINDS]
        for run in runs[1:]:
            same(run, runs[0], 1e-11)


@everywhere
def test_ddim_is_euler_in_the_noise_to_signal_ratio(name):
    p = Problem(name)
    times = wiggly(p.schedule, p.t_start, p.t_end)
    same(
        euler(p.schedule, times, clock="rho", scale="alpha").run(p.model(), p.x),
        ddim(p.schedule, times).run(p.model(), p.x),
    )


@everywhere
def test_edm_without_churn_is_heun_in_the_noise_to_signal_ratio(name):
    p = Problem(name)
    times = wiggly(p.schedule, p.t_start, p.t_end)
    same(edm_heun(p.schedule, times).run(p.model(), p.x), heun(p.schedule, times, clock="rho", scale="alpha").run(p.model(), p.x))


@pytest.mark.parametrize(("name", "affine"), [("linear", True), ("edm", True), ("vp", False), ("trig", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_euler_is_ddim_only_where_the_schedule_is_affine_in_time(name, affine, kind):
    p = Problem(name)
    times = wiggly(p.schedule, p.t_start, p.t_end)
    gap = (euler(p.schedule, times, kind).run(p.model(kind), p.x) - ddim(p.schedule, times, kind).run(p.model(kind), p.x)).abs().max()
    assert float(gap) < 1e-12 if affine else float(gap) > 1e-3


def test_ddim_is_not_exact_where_plain_euler_is():
    mixture = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.ones(1, dtype=F64))
    schedule, x = AffineSchedule.vp(), torch.tensor([[-1.3], [1.7]], dtype=F64)
    oracle = AffineGaussianOracle(mixture, schedule)
    times = torch.tensor([0.6, 0.4], dtype=F64)
    # the flow of a standard normal law under a variance-preserving schedule is the identity: plain Euler is exact there and DDIM is not
    same(euler(schedule, times).run(oracle.noise, x), x, 1e-14)
    a, s = (getattr(schedule, f)(times) for f in ("alpha", "sigma"))
    shrink = a[0] * a[1] + s[0] * s[1]  # cosine of the angle between the two points of the circle (alpha, sigma)
    same(ddim(schedule, times).run(oracle.noise, x), shrink * x, 1e-14)


@everywhere
def test_ancestral_sampling_is_ddim_with_eta_1(name):
    p = Problem(name)
    times = wiggly(p.schedule, p.t_start, p.t_end)
    z = torch.randn(12, 4, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    runs = [t.run(p.model(), p.x, noise=lambda k: z[k]) for t in (ddim(p.schedule, times, eta=1), ancestral(p.schedule, times))]
    same(*runs)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("kind", ["noise", "clean"])
def test_ancestral_sampling_is_ddpm(variance, kind):
    chain = DiscreteSchedule.linear(60)
    model = oracle_model(Problem("vp").mixture, chain, kind)
    want = ddpm_sample(model, (8, 1), chain, kind, variance, generator=torch.Generator().manual_seed(5), dtype=F64)
    generator = torch.Generator().manual_seed(5)
    x_T = torch.randn(8, 1, generator=generator, dtype=F64)
    table = ancestral(chain, grids.discrete(chain, 60), kind, variance)
    assert table.nfe == 60
    same(table.run(lambda x, i: model(x, torch.tensor(i)), x_T, generator=generator), want)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_chain_and_its_continuous_twin_give_the_same_ddim(spacing):
    # the chain's scales at its indices are those of a continuous schedule through the same points
    chain = DiscreteSchedule.linear(100)
    grid = grids.discrete(chain, 10, spacing)
    oracle = AffineGaussianOracle(Problem("vp").mixture, chain)
    x = torch.tensor([[-1.0], [0.3]], dtype=F64)
    got = ddim(chain, grid).run(oracle.noise, x)
    for s, t in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        clean = oracle.clean(x, s)
        x = chain.alpha_bar[t] * clean + chain.sigma_bar[t] / chain.sigma_bar[s] * (x - chain.alpha_bar[s] * clean)
    same(got, x)


def test_eta_beyond_one_up_to_full_renoising():
    schedule, times = AffineSchedule.vp(), torch.tensor([0.8, 0.5], dtype=F64)
    h = float(schedule.half_log_snr(0.5) - schedule.half_log_snr(0.8))
    limit = (1 - math.exp(-2 * h)) ** -0.5
    step = ddim(schedule, times, eta=limit * (1 - 1e-12)).steps[0]
    assert step.noise == pytest.approx(float(schedule.sigma(0.5)), rel=1e-11)
    with pytest.raises(ValueError, match="at most"):
        ddim(schedule, times, eta=1.01 * limit)


def test_every_eta_keeps_the_marginal_of_a_point_mass():
    # given x_0 the kernel family of DDIM has the marginals of the forward process for every eta (Lemma 9.2.2)
    schedule = AffineSchedule.vp()
    times = grids.uniform_t(schedule, 7, t_start=1.0, t_end=0.1)
    for eta in (0.0, 0.5, 1.0):
        got = exact_variance(ddim(schedule, times, eta=eta), linear_model(schedule, 0.0), float(schedule.sigma(1.0)) ** 2)
        assert got == pytest.approx(float(schedule.sigma(0.1)) ** 2, rel=1e-12)
