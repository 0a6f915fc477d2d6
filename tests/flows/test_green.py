"""The gravity field against explicit sums, scipy's Student law, autograd and quadrature; its samplers against the radius law."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from mathcore.divergences import ks_1d
from mathcore.dynamics.fokker_planck import fokker_planck_residual
from mathcore.dynamics.integrate import odeint_fixed
from mathcore.dynamics.likelihood import log_likelihood_ode
from mathcore.flows.construction import (
    MultivariateCauchy,
    conditional_radius_gap,
    pfgm_perturb,
    poisson_clean,
    poisson_field,
    poisson_log_prob,
    poisson_perturb,
    poisson_velocity,
)
from mathcore.flows.construction.green import log_constant

F64 = torch.float64
DATA = torch.tensor([[0.0, 0.0], [1.0, 0.5], [-0.7, 1.2], [0.4, -1.5]], dtype=F64)
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=F64)
PAPER = {"sigma": 0.01, "tau": 0.03, "M": 291.0}


def points(n, d, seed=0):
    return 1.5 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def field_by_hand(x, t, data, weights):
    """The sum of section G-I, one source after the other."""
    d = x.shape[1]
    constant = math.gamma((d + 1) / 2) / math.pi ** ((d + 1) / 2)
    out = torch.zeros(len(x), d + 1, dtype=F64)
    for x_k, w in zip(data, weights / weights.sum()):
        step = torch.cat([torch.full((len(x), 1), t, dtype=F64), x - x_k], dim=1)
        out += float(w) * constant * step / step.square().sum(1, keepdim=True) ** ((d + 1) / 2)
    return out


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("t", [0.01, 0.8, 30.0])
def test_the_field_is_the_sum_over_sources(d, t):
    x, data = points(20, d), points(4, d, seed=1)
    got, want = poisson_field(x, t, data, WEIGHTS), field_by_hand(x, t, data, WEIGHTS)
    scale = want.norm(dim=1, keepdim=True)  # per point: single components may cancel
    assert float(((got - want) / scale).abs().max()) < 1e-13
    assert torch.allclose(poisson_field(x, t, data, WEIGHTS, normalized=True), want / scale, rtol=0, atol=1e-13)
    # the second route: velocity as ratio, and density as first component
    assert float((poisson_velocity(x, t, data, WEIGHTS) * want[:, :1] - want[:, 1:]).abs().max() / scale.max()) < 1e-12
    assert torch.allclose(poisson_log_prob(x, t, data, WEIGHTS), want[:, 0].log(), rtol=1e-12, atol=1e-12)
    assert torch.allclose(x - t * poisson_velocity(x, t, data, WEIGHTS), poisson_clean(x, t, data, WEIGHTS), rtol=0, atol=1e-13 * (1 + t))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_divergence_in_space_time_vanishes(d):
    x, data = points(12, d), points(4, d, seed=1)
    place = torch.cat([torch.linspace(0.2, 2, 12, dtype=F64)[:, None], x], dim=1)

    def field(y):
        return poisson_field(y[:, 1:], y[:, 0], data)

    matrix = torch.stack([torch.func.jvp(field, (place,), (torch.eye(d + 1, dtype=F64)[i].expand_as(place),))[1] for i in range(d + 1)])
    size = matrix.abs().amax()
    assert float(torch.stack([matrix[i, :, i] for i in range(d + 1)]).sum(0).abs().max() / size) < 1e-13
    residual = fokker_planck_residual(lambda y, t: poisson_log_prob(y, t, data), lambda y, t: poisson_velocity(y, t, data), 0.0, x, 0.4)
    assert float(residual.abs().max()) < 1e-11


def test_field_lines_are_the_trajectories():
    start = torch.tensor([[0.3, 0.2, 0.1], [0.3, -1.0, 0.6]], dtype=F64)

    def along(y, s):
        return poisson_field(y[:, 1:], y[:, 0], DATA, normalized=True)

    line = odeint_fixed(along, start, torch.linspace(0, 2, 401, dtype=F64), return_path=True)
    for i in range(2):
        for node in (150, 400):
            t_end = float(line[i, node, 0])
            ts = torch.linspace(0.3, t_end, 401, dtype=F64)
            end = odeint_fixed(lambda x, t: poisson_velocity(x, t, DATA), start[i : i + 1, 1:], ts)
            assert torch.allclose(end[0], line[i, node, 1:], rtol=0, atol=1e-7)  # two fourth-order runs


def test_the_likelihood_along_the_ode():
    """From the law at T = 3, taken exactly, back to t = 0.3 by the divergence integral."""
    x, ts = points(6, 2), torch.linspace(0.3, 3.0, 201, dtype=F64)
    got = log_likelihood_ode(lambda y, t: poisson_velocity(y, t, DATA, WEIGHTS), lambda y: poisson_log_prob(y, 3.0, DATA, WEIGHTS), x, ts)
    assert torch.allclose(got, poisson_log_prob(x, 0.3, DATA, WEIGHTS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
def test_the_constant(d):
    shells, _ = integrate.quad(lambda z: z ** (d - 1) / (1 + z * z) ** ((d + 1) / 2), 0, math.inf, epsabs=1e-13)
    area = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
    assert math.exp(log_constant(d)) * area * shells == pytest.approx(1, rel=1e-10)


@given(st.integers(1, 6), st.floats(1e-3, 1e3), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_law_is_students_with_one_degree_of_freedom(d, scale, seed):
    law, x = MultivariateCauchy(d, scale), scale * points(5, d, seed)
    want = stats.multivariate_t(loc=[0.0] * d, shape=scale**2 * np.eye(d), df=1).logpdf(x.numpy())
    assert torch.allclose(law.log_prob(x), torch.as_tensor(want).reshape(-1), rtol=1e-9, atol=1e-9)
    assert torch.allclose(poisson_log_prob(x, scale, torch.zeros(1, d, dtype=F64)), law.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_samples_of_the_cauchy_law(d, generator):
    law = MultivariateCauchy(d, 2.0)
    x = law.sample(100_000, generator)
    assert ks_1d(x.norm(dim=1), law.radial_cdf)[1] > 1e-3
    assert torch.equal(x.sign().mean(0).abs() < 5 / math.sqrt(100_000), torch.ones(d, dtype=torch.bool))
    if d == 2:
        r = torch.linspace(0, 50, 30, dtype=F64)
        assert torch.allclose(law.radial_cdf(r), 1 - (1 + r**2 / 4) ** -0.5, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("d", "ratios"), [(1, (0.78, 0.73, 0.71)), (3, (1.41, 1.37, 1.34))])
def test_the_kernel_tends_to_a_point_mass_like_t_log_t(d, ratios):
    """E min(1, t |z|) = int_0^1 P(t |z| > u) du bounds the error on every Lipschitz function below one."""
    law = MultivariateCauchy(d, 1.0)
    for t, want in zip((1e-2, 1e-3, 1e-4), ratios):
        mean = integrate.quad(
            lambda u, t=t: 1 - float(law.radial_cdf(torch.tensor([u / t], dtype=F64))), 0, 1, limit=400, points=[t, 10 * t]
        )
        assert mean[0] / (t * math.log(1 / t)) == pytest.approx(want, abs=0.006)


# --- samplers -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "gap"),
    [(0.1, 0.0014), (0.3, 0.0043), (1.0, 0.014), (5.0, 0.063), (0.0005, 0.861), (0.01, 0.200), (27.202, 0.264), (108.808, 0.634)],
)
def test_how_far_the_papers_sampler_is_from_the_kernel_given_t(t, gap):
    # as printed, to the last figure
    assert conditional_radius_gap(t, **PAPER, dim=2) == pytest.approx(gap, abs=0.51 * 10 ** -len(str(gap).split(".")[1]))


def test_the_papers_sampler_is_right_over_all_times(generator):
    x0 = torch.zeros(100_000, 2, dtype=F64)
    x_t, t = pfgm_perturb(x0, **PAPER, generator=generator)
    ratio = x_t.norm(dim=1) / t
    assert ks_1d(ratio, MultivariateCauchy(2, 1.0).radial_cdf)[1] > 1e-3


@pytest.mark.parametrize("t", [0.01, 1.0, 30.0])
def test_given_t_the_exact_sampler_passes_where_the_papers_fails(t, generator):
    """The draws of the paper's sampler with t in a narrow window: their law given t, but for the width of the window."""
    law = MultivariateCauchy(2, 1.0)
    exact = poisson_perturb(torch.zeros(50_000, 2, dtype=F64), t, generator).norm(dim=1) / t
    assert ks_1d(exact, law.radial_cdf)[1] > 1e-3
    x_t, times = pfgm_perturb(torch.zeros(1_500_000, 2, dtype=F64), **PAPER, generator=generator)
    close = (times / t - 1).abs() < 0.05
    statistic, p = ks_1d(x_t[close].norm(dim=1) / times[close], law.radial_cdf)
    gap = conditional_radius_gap(t, **PAPER, dim=2)
    # the statistic of a sample of a law at distance gap: within the floor of its size and the width of the window
    assert statistic == pytest.approx(gap, abs=1.95 / math.sqrt(int(close.sum())) + 0.02)
    if t != 1.0:
        assert p < 1e-12


def test_the_exact_sampler_takes_a_time_per_row(generator):
    t = torch.rand(50_000, generator=generator, dtype=F64) * 3 + 0.01
    x0 = points(50_000, 3)
    ratio = (poisson_perturb(x0, t, generator) - x0).norm(dim=1) / t
    u = ratio**2 / (1 + ratio**2)
    assert stats.kstest(u.numpy(), stats.beta(1.5, 0.5).cdf).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([u, t]))[0, 1])) < 5 / math.sqrt(50_000)


def test_high_dimension_and_single_precision(generator):
    x, data = points(3, 784).float(), points(5, 784, 1).float()
    field = poisson_field(x, 0.5, data, normalized=True)
    assert field.dtype == torch.float32
    assert torch.allclose(field.norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="normalized=True"):
        poisson_field(x, 0.5, data)
    assert MultivariateCauchy(3, 1.0).sample(4, generator, torch.float32).dtype == torch.float32


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, t = points(17, 2), torch.linspace(0.1, 1, 17, dtype=F64)
    whole = poisson_velocity(x, t, DATA)
    monkeypatch.setattr("mathcore.flows.construction._superposition.PAIRS_AT_ONCE", 20)
    assert torch.allclose(poisson_velocity(x, t, DATA), whole, rtol=1e-14)
    assert torch.allclose(torch.stack([poisson_velocity(x[i : i + 1], float(t[i]), DATA)[0] for i in range(17)]), whole, rtol=1e-13)


def test_radius_gap_converges():
    assert conditional_radius_gap(5.0, **PAPER, dim=3, nodes=200) == pytest.approx(conditional_radius_gap(5.0, **PAPER, dim=3), abs=1e-9)
    assert special.betainc(1.5, 0.5, 0.5) == pytest.approx(float(MultivariateCauchy(3, 1.0).radial_cdf(torch.ones(1, dtype=F64))))


X = torch.zeros(3, 2, dtype=F64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: poisson_field(X, 0.0, DATA), ValueError, "t must be positive"),
        (lambda: poisson_field(X, -1.0, DATA), ValueError, "t must be positive"),
        (lambda: poisson_field(X, 1.0, DATA[:, :1]), ValueError, "data"),
        (lambda: poisson_field(X[:, 0], 1.0, DATA), ValueError, "x must have 2 axes"),
        (lambda: poisson_field(X * math.nan, 1.0, DATA), ValueError, "x contains NaN"),
        (lambda: poisson_field(X.long(), 1.0, DATA), TypeError, "x must be a floating"),
        (lambda: poisson_field(X.float(), 1.0, DATA), TypeError, "one dtype"),
        (lambda: poisson_velocity(X, 1.0, DATA[:0]), ValueError, "data"),
        (lambda: poisson_velocity(X, 1.0, DATA, torch.tensor([1.0, 2.0])), ValueError, "weights"),
        (lambda: poisson_velocity(X, 1.0, DATA, WEIGHTS - 1), ValueError, "weights"),
        (lambda: poisson_clean(X, torch.ones(2, dtype=F64), DATA), ValueError, "t must be a number"),
        (lambda: poisson_log_prob(X, math.nan, DATA), ValueError, "t contains"),
        (lambda: poisson_perturb(X, 0.0), ValueError, "t must be positive"),
        (lambda: poisson_perturb([0.0], 1.0), TypeError, "x0"),
        (lambda: pfgm_perturb(X, 0.0, 0.1, 3), ValueError, "sigma"),
        (lambda: pfgm_perturb(X, 0.1, -0.1, 3), ValueError, "tau"),
        (lambda: pfgm_perturb(X[0], 0.1, 0.1, 3), ValueError, "x0"),
        (lambda: conditional_radius_gap(0.0, 0.1, 0.1, 3, 2), ValueError, "t must"),
        (lambda: conditional_radius_gap(1.0, 0.1, 0.1, 3, 0), ValueError, "dim"),
        (lambda: MultivariateCauchy(0, 1.0), ValueError, "dim"),
        (lambda: MultivariateCauchy(2, 0.0), ValueError, "scale"),
        (lambda: MultivariateCauchy(2, 1.0).log_prob(X[:, :1]), ValueError, "x must have last dimension 2"),
        (lambda: MultivariateCauchy(2, 1.0).sample(0), ValueError, "n must"),
        (lambda: MultivariateCauchy(2, 1.0).radial_cdf(torch.tensor([-1.0])), ValueError, "r must"),
    ],
)
def test_bad_input(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
