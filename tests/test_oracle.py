"""The oracle against definitions it does not use: autograd of the marginal, Bayes by quadrature, the continuity equation, scipy's integrators."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from mathcore.distributions import Empirical, GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule

F64 = torch.float64
few = settings(max_examples=25, deadline=None)
SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "ve": AffineSchedule.ve(sigma_max=10.0),
    "edm": AffineSchedule.edm(t_max=10.0),
    "linear": AffineSchedule.linear(),
    "cosine": AffineSchedule.cosine(),
    "trig": AffineSchedule.trig(),
    "sub_vp": AffineSchedule.sub_vp(),
}
everywhere = pytest.mark.parametrize("name", SCHEDULES)


def close(got, want, rtol=1e-10, atol=1e-10):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=rtol, atol=atol)


def make(seed, k, dim, form="full"):
    g = torch.Generator().manual_seed(seed)
    root = 0.4 * torch.randn(k, dim, dim, generator=g, dtype=F64)
    covs = {
        "isotropic": 0.1 + torch.rand(k, generator=g, dtype=F64),
        "diagonal": 0.1 + torch.rand(k, dim, generator=g, dtype=F64),
        "full": root @ root.mT + 0.1 * torch.eye(dim, dtype=F64),
    }[form]
    return GaussianMixture(torch.softmax(torch.randn(k, generator=g, dtype=F64), 0), torch.randn(k, dim, generator=g, dtype=F64), covs)


def points(mixture, n, seed=0):
    return mixture.sample(n, generator=torch.Generator().manual_seed(seed))


modes = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64), torch.tensor([0.04, 0.09], dtype=F64)
)
laws = st.builds(make, st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["isotropic", "diagonal", "full"]))
names = st.sampled_from(list(SCHEDULES))
inside = st.floats(0.05, 0.95)


def at(schedule, u):
    return schedule.t_min + u * (schedule.t_max - schedule.t_min)


# --- fields ---------------------------------------------------------------------------------------------------------------------------------


@few
@given(laws, names, inside)
def test_score_noise_and_clean(law, name, u):
    schedule = SCHEDULES[name]
    oracle, t = AffineGaussianOracle(law, schedule), at(schedule, u)
    x = points(oracle.marginal(t), 5).requires_grad_()
    log_prob = oracle.marginal(t).log_prob(x)
    close(oracle.log_prob(x, t), log_prob)
    (score,) = torch.autograd.grad(log_prob.sum(), x)
    close(oracle.score(x, t), score)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    close(oracle.noise(x, t), -sigma * score)
    # the two posterior means must rebuild the point: alpha E[x_0|x] + sigma E[eps|x] = x, each computed on its own
    close(alpha * oracle.clean(x, t) + sigma * oracle.noise(x, t), x.detach())


@everywhere
@pytest.mark.parametrize("u", [0.1, 0.6, 0.9])
def test_conditional_expectations_by_quadrature(name, u):
    schedule = SCHEDULES[name]
    oracle, t = AffineGaussianOracle(modes, schedule), at(schedule, u)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    x = 0.4 * alpha - 0.3 * sigma
    grid = torch.linspace(
        -4, 5, 200_001, dtype=F64
    )  # trapezoids; the narrowest posterior is 100 steps wide and the density 1e-40 at the ends
    joint = modes.prob(grid[:, None]) * torch.exp(-0.5 * ((x - alpha * grid) / sigma) ** 2)
    joint = joint / joint.sum()
    noise = (x - alpha * grid) / sigma
    where = torch.tensor([[x]], dtype=F64)
    mean = (joint * grid).sum()
    close(oracle.clean(where, t)[0, 0], mean, rtol=1e-9)
    close(oracle.noise(where, t)[0, 0], (joint * noise).sum(), rtol=1e-9, atol=1e-9)
    close(oracle.posterior_cov(where, t)[0, 0, 0], (joint * (grid - mean) ** 2).sum(), rtol=1e-8)
    want = (joint * (float(schedule.dalpha(t)) * grid + float(schedule.dsigma(t)) * noise)).sum()
    close(oracle.velocity(where, t)[0, 0], want, rtol=1e-9, atol=1e-9)


@few
@given(laws, names, inside)
def test_continuity_equation(law, name, u):
    """d/dt log p + v . grad log p + div v = 0 (Eq. 4.1.8), the time derivative by autograd through marginal(t)."""
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(law, schedule)
    t = torch.tensor(at(schedule, u), dtype=F64, requires_grad=True)
    now = t.item()
    for row in points(oracle.marginal(now), 3).split(1):
        (rate,) = torch.autograd.grad(oracle.log_prob(row, t).sum(), t)
        transport = (oracle.velocity(row, now) * oracle.score(row, now)).sum() + oracle.divergence(row, now)[0]
        close(rate + transport, 0.0, atol=1e-9 * (1 + abs(float(rate))))


@few
@given(laws, names, inside)
def test_divergence_is_the_trace_of_the_jacobian(law, name, u):
    schedule = SCHEDULES[name]
    oracle, t = AffineGaussianOracle(law, schedule), at(schedule, u)
    for row in points(oracle.marginal(t), 3):
        jacobian = torch.autograd.functional.jacobian(lambda y: oracle.velocity(y[None], t)[0], row)
        close(oracle.divergence(row[None], t)[0], jacobian.trace(), rtol=1e-9, atol=1e-9)


@everywhere
@pytest.mark.parametrize("law", [modes, make(0, 3, 2), make(1, 2, 2, "diagonal")], ids=["line", "full", "diagonal"])
def test_ends_of_the_domain_and_one_time_per_row(name, law):
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(law, schedule)
    x = points(law, 6)
    u = torch.tensor([0.0, 0.3, 1.0, 0.0, 0.7, 1.0], dtype=F64)
    times = (schedule.t_min + u * (schedule.t_max - schedule.t_min)).clamp(schedule.t_min, schedule.t_max)
    for field in ("log_prob", "score", "noise", "clean", "velocity", "posterior_cov", "divergence"):
        rows = getattr(oracle, field)(x, times)
        close(rows, torch.cat([getattr(oracle, field)(x[i : i + 1], times[i]) for i in range(6)]))
        assert torch.isfinite(rows).all()
    close(oracle.clean(x, schedule.t_min), x)
    close(oracle.noise(x, schedule.t_min), torch.zeros_like(x))
    near = schedule.t_min + 1e-9 * (schedule.t_max - schedule.t_min)  # sigma' ~ t^-1/2 at worst, but v is smooth in t: error 1e-9 * |dv/dt|
    close(oracle.velocity(x, schedule.t_min), oracle.velocity(x, near), rtol=1e-5, atol=1e-5)
    close(oracle.divergence(x, schedule.t_min), oracle.divergence(x, near), rtol=1e-5, atol=1e-5)


def test_float32_times_and_points_keep_their_dtype():
    oracle = AffineGaussianOracle(modes.to(dtype=torch.float32), SCHEDULES["vp"])
    exact = AffineGaussianOracle(modes, SCHEDULES["vp"])
    x, t = points(modes, 50).float(), torch.rand(50, generator=torch.Generator().manual_seed(0))
    for field in ("score", "noise", "clean", "velocity", "log_prob"):
        got = getattr(oracle, field)(x, t)
        assert got.dtype == torch.float32
        want = getattr(exact, field)(x.double(), t.double())
        # float32 eps 6e-8 times the condition of the softmax exponent, at most (|x| / sigma)^2 = 25 / .04
        assert float((got - want).abs().max() / want.abs().max()) < 1e-4
    flow = oracle.flow_map(x, 1.0, 0.0)
    assert flow.dtype == torch.float32


# torch loads its own forward-mode rules through torch.jit.script, which it has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_velocity_is_differentiable_in_time():
    oracle, x = AffineGaussianOracle(make(3, 3, 2), SCHEDULES["vp"]), points(make(3, 3, 2), 4)
    t = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: oracle.velocity(x, u), t)
    tangent = torch.func.jvp(lambda u: oracle.velocity(x, u), (t.detach(),), (torch.ones_like(t),))[1]
    step = 1e-6
    # central differences: error step^2 plus 1e-16 / step
    close(tangent, (oracle.velocity(x, t.detach() + step) - oracle.velocity(x, t.detach() - step)) / (2 * step), rtol=1e-6, atol=1e-6)


# --- flow maps ------------------------------------------------------------------------------------------------------------------------------


def reference_flow(oracle, x, s, t):
    """scipy on f x - g^2/2 grad log p, the score by autograd of the marginal: another form of the field, in the plain time variable."""
    schedule = oracle.schedule

    def rate(u, y):
        point = torch.tensor(y.reshape(x.shape), requires_grad=True)
        (score,) = torch.autograd.grad(oracle.marginal(u).log_prob(point).sum(), point)
        return (schedule.f(u) * point - 0.5 * schedule.g2(u) * score).detach().numpy().ravel()

    result = solve_ivp(rate, (s, t), x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-11)
    return torch.tensor(result.y[:, -1]).reshape(x.shape)


@everywhere
@pytest.mark.parametrize(
    "law", [make(5, 1, 3), make(6, 1, 2, "diagonal"), make(7, 1, 2, "isotropic"), modes], ids=["full", "diag", "iso", "line"]
)
def test_exact_flow_solves_the_ode(name, law):
    schedule = SCHEDULES[name]
    oracle, t = AffineGaussianOracle(law, schedule), at(schedule, 0.9)
    x = points(law, 4)
    there = oracle.flow_map(x, schedule.t_min, t)
    # local tolerance 1e-10, times the number of steps and the expansion of the map
    close(there, reference_flow(oracle, x, schedule.t_min, t), rtol=1e-8, atol=1e-8)
    close(oracle.flow_map(there, t, schedule.t_min), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "edm", "linear"])
def test_adaptive_flow(name):
    schedule, law = SCHEDULES[name], make(8, 3, 2)
    oracle, t = AffineGaussianOracle(law, schedule), at(schedule, 0.8)
    x = points(law, 3)
    there = oracle.flow_map(x, schedule.t_min, t)
    close(there, reference_flow(oracle, x, schedule.t_min, t), rtol=1e-8, atol=1e-8)
    close(oracle.flow_map(there, t, schedule.t_min), x, rtol=1e-7, atol=1e-7)  # tolerance 1e-10 times the expansion of the map
    half = at(schedule, 0.4)
    close(oracle.flow_map(oracle.flow_map(x, schedule.t_min, half), half, t), there, rtol=1e-8, atol=1e-8)
    times = torch.tensor([0.1, 0.8], dtype=F64) * schedule.t_max
    rows = torch.cat([oracle.flow_map(x[i : i + 1], 0.05, times[i]) for i in range(2)])
    close(oracle.flow_map(x[:2], 0.05, times), rows, rtol=1e-8, atol=1e-8)
    assert torch.equal(oracle.flow_map(x[:0], 0.05, t), x[:0])


def test_adaptive_flow_agrees_with_the_exact_one():
    """A mixture of two equal components in 2-D is one Gaussian, but takes the general path."""
    one = make(5, 1, 2)
    twice = GaussianMixture(torch.tensor([0.25, 0.75], dtype=F64), one.means.repeat(2, 1), one.covs.repeat(2, 1, 1))
    for schedule in (SCHEDULES["vp"], SCHEDULES["linear"]):
        x = points(one, 20)
        got = AffineGaussianOracle(twice, schedule).flow_map(x, 0.0, 0.9)
        close(got, AffineGaussianOracle(one, schedule).flow_map(x, 0.0, 0.9), rtol=1e-9, atol=1e-9)


@few
@given(st.integers(0, 1000), names, inside, inside)
def test_line_flow_conserves_mass(seed, name, u, w):
    """In 1-D, F_t(Psi(x)) = F_s(x), and Psi' = p_s(x) / p_t(Psi(x)) by autograd; the times by the velocity."""
    schedule, law = SCHEDULES[name], make(seed, 3, 1, "isotropic")
    oracle = AffineGaussianOracle(law, schedule)
    s, t = (torch.tensor(at(schedule, v), dtype=F64, requires_grad=True) for v in (u, w))
    x = points(oracle.marginal(s.item()), 4).requires_grad_()
    y = oracle.flow_map(x, s, t)
    start, end = oracle.marginal(s.item()), oracle.marginal(t.item())
    close(end.cdf(y.detach()), start.cdf(x.detach()), rtol=1e-12, atol=1e-13)
    (slope,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    close(slope[:, 0], start.prob(x.detach()) / end.prob(y.detach()), rtol=1e-8)
    (rate,) = torch.autograd.grad(y.sum(), t, retain_graph=True)
    close(rate, oracle.velocity(y.detach(), t.item()).sum(), rtol=1e-7, atol=1e-7)
    (back,) = torch.autograd.grad(y.sum(), s)
    close(back, -(slope * oracle.velocity(x.detach(), s.item())).sum(), rtol=1e-7, atol=1e-7)


@everywhere
def test_line_flow_in_both_tails(name):
    """Equal components: the map is affine, known in closed form, and must keep its digits 30 standard deviations out."""
    schedule = SCHEDULES[name]
    mean, std = 0.7, 0.3
    law = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F64), torch.full((2, 1), mean, dtype=F64), torch.full((2,), std**2, dtype=F64))
    oracle, (s, t) = AffineGaussianOracle(law, schedule), (at(schedule, 0.9), at(schedule, 0.1))
    (a_s, n_s), (a_t, n_t) = ((float(schedule.alpha(v)), float(schedule.sigma(v))) for v in (s, t))
    before, after = math.hypot(a_s * std, n_s), math.hypot(a_t * std, n_t)
    z = torch.tensor([-30.0, -9, -3, -1e-3, 0, 1e-3, 3, 9, 30], dtype=F64)[:, None]
    close(oracle.flow_map(a_s * mean + before * z, s, t), a_t * mean + after * z, rtol=1e-11, atol=1e-13)
    # 30 deviations out on a real mixture: there and back
    marginal = AffineGaussianOracle(modes, schedule)
    x = a_s * modes.mean() + before * z
    close(marginal.flow_map(marginal.flow_map(x, s, schedule.t_max), schedule.t_max, s), x, rtol=1e-10, atol=1e-10)


def test_line_flow_with_one_time_per_row():
    oracle, x = AffineGaussianOracle(modes, SCHEDULES["vp"]), points(modes, 6)
    s, t = torch.linspace(0, 0.5, 6, dtype=F64), torch.linspace(1, 0.2, 6, dtype=F64)
    close(oracle.flow_map(x, s, t), torch.cat([oracle.flow_map(x[i : i + 1], float(s[i]), t[i]) for i in range(6)]))
    gaussian = AffineGaussianOracle(make(0, 1, 2), SCHEDULES["vp"])
    x = points(make(0, 1, 2), 6)
    close(gaussian.flow_map(x, s, t), torch.cat([gaussian.flow_map(x[i : i + 1], float(s[i]), t[i]) for i in range(6)]))


def test_flow_carries_the_law(generator):
    oracle, n = AffineGaussianOracle(modes, SCHEDULES["linear"]), 50_000
    x = oracle.flow_map(torch.randn(n, 1, generator=generator, dtype=F64), 1.0, 0.0)
    for power, want in ((1, float(modes.mean())), (2, float(modes.cov() + modes.mean() ** 2))):
        assert abs(float((x**power).mean()) - want) < 5 * float((x**power).std()) / math.sqrt(n)


# --- finite data sets and discrete chains ----------------------------------------------------------------------------------------------------


def test_empirical(generator):
    data = Empirical(torch.randn(5, 2, generator=generator, dtype=F64))
    schedule = SCHEDULES["vp"]
    oracle, x, t = AffineGaussianOracle(data, schedule), torch.randn(4, 2, generator=generator, dtype=F64).requires_grad_(), 0.4
    (score,) = torch.autograd.grad(oracle.marginal(t).log_prob(x).sum(), x)
    close(oracle.score(x, t), score)
    x = x.detach()
    times = torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=F64)
    for field in ("score", "clean", "noise", "velocity", "divergence", "posterior_cov", "log_prob"):
        close(getattr(oracle, field)(x, times), torch.cat([getattr(oracle, field)(x[i : i + 1], times[i]) for i in range(4)]))
    jacobian = torch.autograd.functional.jacobian(lambda y: oracle.velocity(y[None], t)[0], x[0])
    close(oracle.divergence(x[:1], t)[0], jacobian.trace())
    close(oracle.flow_map(x, 1.0, 0.3), reference_flow(oracle, x, 1.0, 0.3), rtol=1e-8, atol=1e-8)
    line = AffineGaussianOracle(Empirical(data.points[:, :1].contiguous()), schedule)
    close(line.flow_map(x[:, :1], 1.0, 0.3), reference_flow(line, x[:, :1], 1.0, 0.3), rtol=1e-8, atol=1e-8)


def test_one_point_flow_is_affine():
    oracle = AffineGaussianOracle(Empirical(torch.tensor([[0.5]], dtype=F64)), SCHEDULES["edm"])
    x = torch.tensor([[-3.0], [4.0]], dtype=F64)
    close(oracle.flow_map(x, 2.0, 0.01), 0.5 + (x - 0.5) * 0.005, rtol=1e-12, atol=1e-12)  # noise is constant along the flow


def test_discrete_chain():
    chain = DiscreteSchedule.linear(100)
    oracle = AffineGaussianOracle(modes, chain)
    x = points(modes, 5).requires_grad_()
    index = torch.tensor([1, 20, 50, 99, 100])
    for i in index.tolist():
        a = float(torch.prod(chain.alpha_step[: i + 1]))
        law = modes.corrupt(a, math.sqrt(1 - a * a))
        (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
        close(oracle.score(x, i), score, rtol=1e-9, atol=1e-9)
        close(oracle.clean(x, i), (x + (1 - a * a) * score) / a, rtol=1e-8, atol=1e-8)
        close(oracle.marginal(i).means, law.means)
    x = x.detach()
    close(oracle.noise(x, index), torch.cat([oracle.noise(x[k : k + 1], int(i)) for k, i in enumerate(index)]))
    close(oracle.clean(x, 0), x)


# --- what is refused ---------------------------------------------------------------------------------------------------------------------------


def test_bad_input(user_errors):
    vp, chain, x = SCHEDULES["vp"], DiscreteSchedule.linear(100), points(modes, 3)
    oracle, steps, plane = AffineGaussianOracle(modes, vp), AffineGaussianOracle(modes, chain), AffineGaussianOracle(Empirical(x), vp)
    for call, error, match in [
        (lambda: AffineGaussianOracle("data", vp), TypeError, "data must be a GaussianMixture"),
        (lambda: AffineGaussianOracle(modes, "vp"), TypeError, "schedule must be an AffineSchedule"),
        (lambda: steps.velocity(x, 3), ValueError, "velocity needs an AffineSchedule"),
        (lambda: steps.divergence(x, 3), ValueError, "needs an AffineSchedule"),
        (lambda: steps.flow_map(x, 3, 2), ValueError, "flow_map needs an AffineSchedule"),
        (lambda: steps.score(x, 101), ValueError, r"t must be an index in 0\.\.100"),
        (lambda: steps.score(x, -1), ValueError, r"t must be an index in 0\.\.100"),
        (lambda: steps.score(x, 0.5), TypeError, "t must be an integer index"),
        (lambda: steps.score(x, torch.tensor(0.5)), TypeError, "t must be an integer index"),
        (lambda: steps.score(x, True), TypeError, "t must be an integer index"),
        (lambda: oracle.marginal(torch.tensor([0.1, 0.2])), ValueError, "a must be a number or a 0-d"),
        (lambda: plane.score(x, 0.0), ValueError, "s must be positive for a finite data set"),
        (lambda: plane.flow_map(x, 1.0, 0.0), ValueError, "s must be positive for a finite data set"),
        (lambda: plane.marginal(0.0), ValueError, "s must be positive for a finite data set"),
    ]:
        with pytest.raises(error, match=match):
            call()


@pytest.mark.parametrize("field", ["log_prob", "score", "noise", "clean", "velocity", "posterior_cov", "divergence", "flow_map"])
def test_bad_points_and_times(field, user_errors):
    oracle, x = AffineGaussianOracle(make(0, 2, 2), SCHEDULES["vp"]), torch.zeros(3, 2, dtype=F64)

    def call(y, t):
        return oracle.flow_map(y, t, 0.5) if field == "flow_map" else getattr(oracle, field)(y, t)

    for y, t, error, match in [
        (x.tolist(), 0.5, TypeError, "must be a torch.Tensor"),
        (x.float(), 0.5, TypeError, "convert one of them"),
        (x[:, :1], 0.5, ValueError, "last dimension 2"),
        (x * math.nan, 0.5, ValueError, "NaN"),
        (x, 1.5, ValueError, "t outside"),
        (x, math.nan, ValueError, "t"),
        (x, "0.5", TypeError, "t must be"),
        (x, torch.full((2,), 0.5, dtype=F64), ValueError, "must be a number, 0-d, or of shape"),
    ]:
        with pytest.raises(error, match=match):
            call(y, t)


def test_repr_names_both_parts():
    assert "GaussianMixture" in repr(AffineGaussianOracle(modes, SCHEDULES["vp"]))
    assert "vp" in repr(AffineGaussianOracle(modes, SCHEDULES["vp"]))
    assert np.isfinite(AffineGaussianOracle(modes, SCHEDULES["vp"]).marginal(0.5).means.numpy()).all()
