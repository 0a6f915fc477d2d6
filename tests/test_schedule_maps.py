"""Clocks between schedules and the price of a clock, against oracles, automatic differentiation, direct minimisation and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize

from mathcore.distributions import Empirical, GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.predictions import PREDICTIONS
from mathcore.schedule_maps import (
    OptimalClock,
    canonical_clock,
    canonical_rates,
    clock_energy,
    equal_snr,
    kinetic_energy,
    optimal_clock,
    schedule_curvature,
    transfer_model,
    trig_clock,
    trig_rates,
    velocity_power,
    velocity_transfer,
)
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ddim

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "sub_vp": AffineSchedule.sub_vp(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "cosine": AffineSchedule.cosine(),
}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
PAIRS = list(itertools.permutations(SCHEDULES, 2))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


DATA = GaussianMixture(tensor([0.3, 0.7]), tensor([[-1.0, 0.5], [1.0, 0.0]]), tensor([0.04, 0.3]))
GAUSSIAN = GaussianMixture(tensor([1.0]), tensor([[0.5]]), tensor([4.0]))


def points(n, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shared_times(schedule, n):
    """Times whose noise-to-signal ratio, .02 to 35, every schedule reaches."""
    return schedule.inverse_half_log_snr(torch.linspace(3.9, -3.55, n, dtype=torch.float64))


# --- clocks (Prop. 6.3.3, Eq. 6.3.4) --------------------------------------------------------------------------------------------------------


@everywhere
def test_clocks_give_back_the_schedule(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 21, dtype=torch.float64)
    c, tau = canonical_clock(schedule, t)
    radius, angle = trig_clock(schedule, t)
    for a, s in ((c * (1 - tau), c * tau), (radius * torch.cos(angle), radius * torch.sin(angle))):
        torch.testing.assert_close(a, schedule.alpha(t), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(s, schedule.sigma(t), rtol=1e-12, atol=1e-14)
    assert bool((tau.diff() > 0).all())
    assert bool((angle.diff() > 0).all())


@everywhere
def test_rates_are_derivatives(name):
    schedule = SCHEDULES[name]
    t = shared_times(schedule, 9).requires_grad_()
    for clock, rates in ((canonical_clock, canonical_rates), (trig_clock, trig_rates)):
        for value, rate in zip(clock(schedule, t), rates(schedule, t.detach())):
            (slope,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
            torch.testing.assert_close(rate, slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_equal_snr_carries_alpha_and_sigma_there_and_back(src, dst):
    a, b = SCHEDULES[src], SCHEDULES[dst]
    t = shared_times(a, 9)
    k, time = equal_snr(a, t, b)
    torch.testing.assert_close(k * b.alpha(time), a.alpha(t), rtol=1e-10, atol=0)
    torch.testing.assert_close(k * b.sigma(time), a.sigma(t), rtol=1e-10, atol=0)
    back, again = equal_snr(b, time, a)
    torch.testing.assert_close(back * k, torch.ones_like(t), rtol=1e-9, atol=0)
    torch.testing.assert_close(again, t, rtol=1e-9, atol=0)


@everywhere
def test_closed_forms_are_equal_snr(name):
    schedule = SCHEDULES[name]
    t = shared_times(schedule, 9)
    for clock, path in ((canonical_clock, "linear"), (trig_clock, "trig")):
        for got, want in zip(clock(schedule, t), equal_snr(schedule, t, SCHEDULES[path])):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


def test_equal_snr_at_the_ends():
    linear, trig, vp = (SCHEDULES[n] for n in ("linear", "trig", "vp"))
    k, t = equal_snr(linear, tensor([0.0, 0.5, 1.0]), trig)
    torch.testing.assert_close(k, tensor([1.0, math.sqrt(0.5), 1.0]))
    torch.testing.assert_close(t, tensor([0.0, math.pi / 4, math.pi / 2]))
    k, t = equal_snr(vp, 0.0, linear)
    assert (float(k), float(t)) == (1.0, 0.0)
    with pytest.raises(ValueError, match="vp schedule never has alpha = 0"):
        equal_snr(linear, 1.0, vp)
    with pytest.raises(ValueError, match="never has sigma = 0"):
        equal_snr(linear, 0.0, AffineSchedule.from_alpha_sigma(lambda t: 1 - t / 2, lambda t: 0.1 + t))
    with pytest.raises(ValueError, match="range of half_log_snr of the ve schedule"):
        equal_snr(SCHEDULES["edm"], 79.0, SCHEDULES["ve"])


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_a_transferred_oracle_is_the_oracle_of_the_other_schedule(src, dst):
    t = shared_times(SCHEDULES[dst], 5)
    (radius, _), x = trig_clock(SCHEDULES[dst], t), points(5)
    x = x * radius[:, None]
    oracles = [AffineGaussianOracle(DATA, SCHEDULES[name]) for name in (src, dst)]
    for kind in PREDICTIONS:
        model = transfer_model(getattr(oracles[0], kind), SCHEDULES[src], SCHEDULES[dst], kind)
        want = getattr(oracles[1], kind)(x, t)
        # the time is matched to 1e-10 relative, and fields vary on the scale of the smallest mode, .2
        torch.testing.assert_close(model(x, t), want, rtol=1e-8, atol=1e-8 * float(want.abs().max()))


def test_a_transferred_model_takes_one_time_for_all():
    model = transfer_model(lambda x, t: x * t, SCHEDULES["linear"], SCHEDULES["vp"], "noise")
    x = points(3)
    assert torch.equal(model(x, 0.4), model(x, tensor(0.4)))
    torch.testing.assert_close(model(x, 0.4)[1:2], model(x[1:2], tensor([0.4])))


@everywhere
@pytest.mark.parametrize("path", ["linear", "trig"])
def test_marginal_velocities_transfer(name, path):
    """Eq. 6.3.3 for the marginal velocity of a mixture, to 1e-10."""
    schedule = SCHEDULES[name]
    t = shared_times(schedule, 7)
    x = points(7) * trig_clock(schedule, t)[0][:, None]
    moved = velocity_transfer(AffineGaussianOracle(DATA, SCHEDULES[path]).velocity, schedule, path)
    want = AffineGaussianOracle(DATA, schedule).velocity(x, t)
    torch.testing.assert_close(moved(x, t), want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


@everywhere
def test_conditional_velocities_and_losses_transfer_per_sample(name):
    schedule = SCHEDULES[name]
    x0, eps, t = points(7), points(7, seed=1), shared_times(schedule, 7)
    alpha, sigma, da, ds = (getattr(schedule, f)(t)[:, None] for f in ("alpha", "sigma", "dalpha", "dsigma"))
    x = alpha * x0 + sigma * eps
    moved = velocity_transfer(lambda y, u: eps - x0, schedule)
    torch.testing.assert_close(moved(x, t), da * x0 + ds * eps, rtol=1e-10, atol=1e-10 * float(ds.abs().max()))
    # section 6.3.3: the loss is multiplied by (c tau')^2
    wrong = velocity_transfer(lambda y, u: eps - x0 + torch.sin(y), schedule)
    c, _ = canonical_clock(schedule, t)
    _, dtau = canonical_rates(schedule, t)
    want = (c * dtau) ** 2 * torch.sin(x / c[:, None]).square().sum(1)
    torch.testing.assert_close((wrong(x, t) - moved(x, t)).square().sum(1), want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["vp", "edm", "trig"])
def test_flow_maps_and_densities_transfer(name):
    """Psi_{s -> t}(x) = c(t) Psi^FM(x / c(s)) and p_t(x) = c^-D p^FM(x / c)."""
    schedule = SCHEDULES[name]
    s, t = shared_times(schedule, 3)[1:]
    x = points(3, 2, 3)
    own, base = AffineGaussianOracle(DATA, schedule), AffineGaussianOracle(DATA, SCHEDULES["linear"])
    (cs, us), (ct, ut) = (canonical_clock(schedule, u) for u in (s, t))
    start = x * trig_clock(schedule, s)[0]
    want = own.flow_map(start, s, t)
    torch.testing.assert_close(ct * base.flow_map(start / cs, us, ut), want, rtol=1e-7, atol=1e-7 * float(want.abs().max()))
    torch.testing.assert_close(own.log_prob(start, s), base.log_prob(start / cs, us) - 2 * torch.log(cs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dst", ["vp", "edm", "trig"])
def test_one_model_samples_alike_under_other_schedules(dst):
    """DDIM depends on sigma / alpha alone: on matched grids the transferred model gives the same points as the model at home."""
    home, away = SCHEDULES["linear"], SCHEDULES[dst]

    def model(x, t):  # no oracle: any function
        return torch.tanh(1.3 * x) + 0.1 * torch.as_tensor(t, dtype=x.dtype).reshape(-1, *([1] if torch.as_tensor(t).ndim else []))

    grid = shared_times(away, 12).flip(0)
    k, matched = equal_snr(away, grid, home)
    noise = points(6)
    at_home = ddim(home, matched, prediction="noise").run(model, noise / k[0])
    moved = transfer_model(model, home, away, "noise")
    torch.testing.assert_close(ddim(away, grid, prediction="noise").run(moved, noise), k[-1] * at_home, rtol=1e-8, atol=1e-8)


@everywhere
def test_curvature_is_the_second_difference(name):
    schedule = SCHEDULES[name]
    t, h = 0.5 * schedule.t_max, 1e-4 * schedule.t_max
    for got, fn in zip(schedule_curvature(schedule, t), (schedule.alpha, schedule.sigma)):
        want = float(fn(t + h) - 2 * fn(t) + fn(t - h)) / h**2
        # h^2 / 12 times a fourth derivative, below 1e4 times sigma (ve), and rounding 4e-16 / h^2
        assert float(got) == pytest.approx(want, rel=1e-5, abs=1e-6)
    assert schedule_curvature(schedule, shared_times(schedule, 3))[0].shape == (3,)


# --- the price of a clock (section 6.3.4) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, GAUSSIAN, Empirical(tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 4.0]]))])
def test_kinetic_energy_of_the_linear_clock_is_the_squared_distance(data):
    """rho = t: E |eps - x_0|^2, by Monte Carlo; the conditional energy of any other clock is larger."""
    x0 = data.sample(200_000, torch.Generator().manual_seed(0))
    distance = (torch.randn(x0.shape, dtype=x0.dtype, generator=torch.Generator().manual_seed(1)) - x0).square().sum(1)
    best = float(kinetic_energy(lambda t: t, data))
    assert abs(best - float(distance.mean())) < 5 * float(distance.std()) / math.sqrt(len(x0))
    assert float(kinetic_energy(lambda t: t**2, data)) == pytest.approx(4 / 3 * best, rel=1e-13)
    cosine = float(kinetic_energy(lambda t: 1 - torch.cos(math.pi / 2 * t), data))
    assert cosine == pytest.approx(math.pi**2 / 8 * best, rel=1e-13)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0.05, 3), min_size=2, max_size=6))
def test_no_monotone_clock_beats_the_linear_one(weights):
    w = tensor(weights)

    def rho(t):
        return sum(wk * t ** (k + 1) for k, wk in enumerate(w)) / w.sum()

    assert float(kinetic_energy(rho, DATA)) >= float(kinetic_energy(lambda t: t, DATA)) * (1 - 1e-14)


def test_no_path_at_all_beats_the_straight_one():
    """Random pairs of scales with the right ends, and bumps sin(pi t) w(x_0, eps) on the straight path (Cauchy-Schwarz, sample by sample)."""
    x0, eps = points(200, seed=4), points(200, seed=5)
    straight = (eps - x0).square().sum(1)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t = tensor((nodes + 1) / 2)[:, None, None]
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b, c = rng.uniform(-1, 1, 3)
        speeds = {
            "scales": (-1 + a * math.pi * torch.cos(math.pi * t)) * x0 + (1 + b * 2 * math.pi * torch.cos(2 * math.pi * t)) * eps,
            "bump": eps - x0 + math.pi * torch.cos(math.pi * t) * torch.sin(c * x0 + eps),
        }
        for speed in speeds.values():
            energy = (tensor(weights)[:, None] / 2 * speed.square().sum(2)).sum(0)
            assert bool((energy >= straight * (1 - 1e-12)).all())


def gaussian_power(r):
    """E |E[eps - x_0 | x_r]|^2 of N(.5, 4) by quadrature over x_r, the conditional mean from Bayes' rule on a grid."""
    from scipy.stats import norm

    x0 = np.linspace(0.5 - 20, 0.5 + 20, 4001)
    prior = norm.pdf(x0, 0.5, 2.0)

    def integrand(x):
        joint = prior * norm.pdf(x, (1 - r) * x0, r)
        total = np.trapezoid(joint, x0)
        clean = np.trapezoid(joint * x0, x0) / total
        return total * ((x - clean) / r) ** 2  # eps - x_0 = (x_r - x_0) / r

    spread = math.sqrt((1 - r) ** 2 * 4 + r**2)
    centre = (1 - r) * 0.5
    return quad(integrand, centre - 8 * spread, centre + 8 * spread, epsrel=1e-8)[0]


@pytest.mark.parametrize("r", [0.3, 0.6, 0.9])
def test_power_of_a_gaussian_by_bayes(r):
    assert float(velocity_power(GAUSSIAN, tensor([r]))[0]) == pytest.approx(gaussian_power(r), rel=1e-7)


def test_power_of_mixtures():
    r = tensor([0.0, 0.05, 0.3, 0.7, 1.0])
    twice = GaussianMixture(tensor([0.4, 0.6]), tensor([[0.5], [0.5]]), tensor([4.0, 4.0]))  # one Gaussian written as two
    torch.testing.assert_close(velocity_power(twice, r), velocity_power(GAUSSIAN, r), rtol=1e-12, atol=0)
    # the ends: |E eps - x_0|^2 given x_0, and given eps
    two = GaussianMixture(tensor([0.5, 0.5]), tensor([[-1.0], [1.0]]), tensor([0.01, 0.01]))
    ends = velocity_power(two, tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, tensor([1.01, 1.0]), rtol=1e-12, atol=0)
    full = GaussianMixture(tensor([1.0]), tensor([[0.2, -0.4]]), tensor([[[1.0, 0.3], [0.3, 0.5]]]))
    got = velocity_power(full, tensor([0.4]))
    sampled = GaussianMixture(tensor([0.5, 0.5]), full.means.repeat(2, 1), full.covs.repeat(2, 1, 1))
    estimate = velocity_power(sampled, tensor([0.4]), n=200_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, got, rtol=0.03, atol=0)  # relative standard error of a squared norm sqrt(2 / n), and heavier


def gaussian(r):
    return velocity_power(GAUSSIAN, r)


def test_the_optimal_clock_of_a_gaussian():
    """m = 1/2, s^2 = 4: linear 2.10841, optimal 1.81917, K frozen along the linear clock 3.2508."""
    clock = optimal_clock(gaussian)
    assert isinstance(clock, OptimalClock)
    assert clock.energy == pytest.approx(1.81917, abs=5e-6)
    assert float(clock_energy(gaussian, lambda t: t)) == pytest.approx(2.10841, abs=5e-6)
    root, _ = quad(lambda r: math.sqrt(0.25 + (r - 4 * (1 - r)) ** 2 / (4 * (1 - r) ** 2 + r * r)), 0, 1, epsabs=1e-13)
    assert clock.energy == pytest.approx(root**2, rel=1e-10)
    # the clock reaches that energy, and its speed sqrt(K) rho' is constant
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    rho = clock(t)
    speed = gaussian((rho[1:] + rho[:-1]) / 2).sqrt() * rho.diff() / t.diff()
    torch.testing.assert_close(speed, torch.full_like(speed, math.sqrt(clock.energy)), rtol=1e-3, atol=0)
    assert float((speed**2 * t.diff()).sum()) == pytest.approx(clock.energy, rel=1e-6)
    assert float(rho[0]) == 0
    assert float(rho[-1]) == 1


def test_the_printed_rule_gains_nothing():
    """rho' = c / K(rho) has energy c = int K, that of the linear clock; rho' ~ 1 / K(t) has 3.2508 (section 6.3.4, corrected)."""
    linear = float(clock_energy(gaussian, lambda t: t))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    r = (nodes + 1) / 2
    power = gaussian(r)
    # rule read with K at rho: t(r) = int_0^r K / c, so int K rho'^2 dt = int K (c / K) dr
    c = float((weights / 2 * power).sum())
    assert c == pytest.approx(linear, rel=1e-12)
    fine = torch.linspace(0, 1, 4001, dtype=torch.float64)
    inverse = 1 / gaussian(fine)
    rho = torch.cat([inverse.new_zeros(1), torch.cumulative_trapezoid(inverse, fine)])
    slope, rho = inverse / rho[-1], rho / rho[-1]
    frozen = float(torch.trapezoid(gaussian(rho.clamp(max=1)) * slope**2, fine))
    assert frozen == pytest.approx(3.2508, abs=1e-3)


def test_the_optimal_clock_against_direct_minimisation():
    """400 cells, the energy minimised over the increments of rho by L-BFGS: 1.8191."""

    def energy(logits):
        z = torch.from_numpy(logits).requires_grad_()
        steps = torch.softmax(z, 0)
        rho = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        middle = (rho[1:] + rho[:-1]) / 2
        k = 0.25 + (middle - 4 * (1 - middle)) ** 2 / (4 * (1 - middle) ** 2 + middle**2)
        value = (k * steps**2).sum() * 400
        (slope,) = torch.autograd.grad(value, z)
        return float(value.detach()), slope.numpy()

    result = minimize(energy, np.zeros(400), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15})
    assert result.fun == pytest.approx(optimal_clock(gaussian).energy, abs=3e-4)
    assert result.fun == pytest.approx(1.8191, abs=3e-4)


def test_linear_is_optimal_exactly_when_the_power_is_constant():
    clock = optimal_clock(lambda r: torch.full_like(r, 2.0), 100)
    t = torch.linspace(0, 1, 33, dtype=torch.float64)
    torch.testing.assert_close(clock(t), t)
    assert clock.energy == pytest.approx(2.0, rel=1e-14)
    slow = optimal_clock(lambda r: 1 + 9 * r**2, 1000)(tensor([0.5]))
    assert float(slow) > 0.5  # fast where K is small, slow where it is large


def test_centred_gaussian_power_has_a_zero_and_still_a_clock():
    law = GaussianMixture(tensor([1.0]), tensor([[0.0]]), tensor([1.0]))
    clock = optimal_clock(lambda r: velocity_power(law, r))
    want, _ = quad(lambda r: abs(2 * r - 1) / math.sqrt((1 - r) ** 2 + r * r), 0, 1, points=[0.5])
    assert clock.energy == pytest.approx(want**2, rel=1e-9)


def test_bad_input_is_refused(user_errors):
    vp, x = SCHEDULES["vp"], torch.zeros(2, 3)
    for fn in (canonical_clock, canonical_rates, trig_clock, trig_rates, schedule_curvature):
        with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
            fn("vp", 0.5)
        with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
            fn(vp, 1.5)
        with pytest.raises(TypeError, match="t must be a number"):
            fn(vp, "0.5")
    with pytest.raises(ValueError, match="infinite"):
        canonical_rates(vp, 0.0)
    with pytest.raises(TypeError, match="other must be an AffineSchedule"):
        equal_snr(vp, 0.5, "linear")
    with pytest.raises(ValueError, match=r"t outside"):
        equal_snr(vp, 2.0, SCHEDULES["linear"])

    def model(x, t):
        return x

    with pytest.raises(ValueError, match="prediction must be one of"):
        transfer_model(model, vp, vp, "eps")
    with pytest.raises(TypeError, match="model must be a function"):
        transfer_model(1, vp, vp, "noise")
    with pytest.raises(TypeError, match="src_schedule must be"):
        transfer_model(model, "vp", vp, "noise")
    moved = transfer_model(model, vp, SCHEDULES["linear"], "noise")
    with pytest.raises(ValueError, match="x contains NaN"):
        moved(x * math.nan, 0.5)
    with pytest.raises(ValueError, match=r"of shape \(2,\)"):
        moved(x, torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="vp schedule never has alpha = 0"):
        moved(x, 1.0)
    with pytest.raises(ValueError, match="model must return the shape"):
        transfer_model(lambda x, t: x[:, :1], vp, SCHEDULES["linear"], "noise")(x, 0.5)
    with pytest.raises(ValueError, match="path must be one of"):
        velocity_transfer(model, vp, "vp")
    with pytest.raises(TypeError, match="velocity must be a function"):
        velocity_transfer(None, vp)
    with pytest.raises(TypeError, match="x must be a floating"):
        velocity_transfer(model, vp)(x.long(), 0.5)


def test_bad_input_is_refused_by_energies(user_errors):
    def line(t):
        return t

    with pytest.raises(TypeError, match="data must be a GaussianMixture or an Empirical"):
        kinetic_energy(line, "data")
    with pytest.raises(TypeError, match="rho must be a function"):
        kinetic_energy(1.0, DATA)
    with pytest.raises(TypeError, match="rho must return"):
        kinetic_energy(lambda t: 1.0, DATA)
    with pytest.raises(ValueError, match="rho must run from 0 to 1"):
        kinetic_energy(lambda t: 1 - t, DATA)
    with pytest.raises(ValueError, match="rho and its derivative must be finite"):
        kinetic_energy(lambda t: torch.where((t > 0) & (t < 1), t * math.nan, t), DATA)
    with pytest.raises(ValueError, match="n must be an integer"):
        kinetic_energy(line, DATA, n=1)
    with pytest.raises(TypeError, match="data must be a GaussianMixture"):
        velocity_power(Empirical(points(3)), tensor([0.5]))
    with pytest.raises(ValueError, match=r"r must lie in \[0, 1\]"):
        velocity_power(GAUSSIAN, tensor([1.5]))
    with pytest.raises(ValueError, match="r must have 1 axes"):
        velocity_power(GAUSSIAN, tensor([[0.5]]))
    with pytest.raises(ValueError, match="power must be finite and not negative"):
        clock_energy(lambda r: -r, line)
    with pytest.raises(ValueError, match="power must return the shape"):
        clock_energy(lambda r: r[:1], line)
    with pytest.raises(ValueError, match="vanishes on a whole cell"):
        optimal_clock(lambda r: torch.relu(r - 0.5))
    with pytest.raises(ValueError, match="n must be an integer"):
        optimal_clock(gaussian, 1)
    clock = optimal_clock(gaussian, 10)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        clock(tensor([1.5]))
    with pytest.raises(TypeError, match="t must be a torch"):
        clock(0.5)
