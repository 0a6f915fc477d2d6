"""The twelve changes of prediction against their definitions, an exact posterior, and each other."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule

EPS = torch.finfo(torch.float64).eps
SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "sub_vp": AffineSchedule.sub_vp(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "cosine": AffineSchedule.cosine(),
    "custom": AffineSchedule.from_alpha_sigma(lambda t: 1 - t**2, lambda t: torch.sin(t)),
}
PAIRS = list(itertools.product(PREDICTIONS, repeat=2))
CHAIN_PAIRS = [p for p in PAIRS if "velocity" not in p]


def path_velocity(schedule, t, x0, eps):
    """Time derivative of alpha(t) x0 + sigma(t) eps, by automatic differentiation: reverse mode twice gives the forward derivative."""
    times = t.clone().requires_grad_()
    path = schedule.alpha(times)[:, None] * x0 + schedule.sigma(times)[:, None] * eps
    # path_n depends on t_n alone, so that one backward pass per coordinate is the whole Jacobian
    columns = [torch.autograd.grad(path[:, k].sum(), times, retain_graph=True)[0] for k in range(path.shape[1])]
    return torch.stack(columns, dim=1)


def truth(schedule, t, x0, eps):
    a, s = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    return a * x0 + s * eps, {"noise": eps, "clean": x0, "score": -eps / s, "velocity": path_velocity(schedule, t, x0, eps)}


def draw(n, seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, *(shape or (3,)), dtype=torch.float64, generator=g).unbind()


def size_of_terms(value, x_t, t, schedule, src, dst):
    """|A x_t| + |B value|: what rounding acts on when the conversion adds its two terms."""
    if src == dst:
        return value.abs()
    zero = torch.zeros_like(x_t)
    a_term = convert_prediction(zero, x_t.abs(), t, schedule, src, dst)
    return a_term.abs() + convert_prediction(value.abs(), zero, t, schedule, src, dst).abs()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_conversions_match_the_definitions(name, src, dst):
    schedule = SCHEDULES[name]
    t = torch.tensor([1e-3, 0.05, 0.2, 0.5, 0.8, 0.95], dtype=torch.float64) * schedule.t_max
    x_t, want = truth(schedule, t, *draw(6, 1))
    got = convert_prediction(want[src], x_t, t, schedule, src, dst)
    # coefficients carry about ten roundings, and the condition of alpha and sigma themselves (1/alpha <= 250)
    slack = 256 * EPS * size_of_terms(want[src], x_t, t, schedule, src, dst)
    assert ((got - want[dst]).abs() <= slack).all()


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(list(SCHEDULES)), fraction=st.floats(1e-6, 0.999), seed=st.integers(0, 2**31))
def test_round_trips_are_the_identity(name, fraction, seed):
    schedule = SCHEDULES[name]
    t = fraction * schedule.t_max
    value, x_t = draw(4, seed)
    for src, dst in itertools.permutations(PREDICTIONS, 2):
        middle = convert_prediction(value, x_t, t, schedule, src, dst)
        back = convert_prediction(middle, x_t, t, schedule, dst, src)
        # 1e-12 relative to the terms that were added: the middle value is known to eps times its own terms, which the way back scales by |B|
        middle_terms = size_of_terms(value, x_t, t, schedule, src, dst)
        terms = size_of_terms(middle_terms, x_t, t, schedule, dst, src)
        assert ((back - value).abs() <= 1e-12 * terms).all(), (src, dst)


@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trips_hold_to_1e_12_away_from_the_ends(name):
    """Where nothing cancels the plain statement holds: identity to 1e-12 times the largest number involved."""
    schedule = SCHEDULES[name]
    value, x_t = draw(4, 7)
    for fraction, (src, dst) in itertools.product((0.3, 0.5, 0.7), PAIRS):
        t = fraction * schedule.t_max
        middle = convert_prediction(value, x_t, t, schedule, src, dst)
        back = convert_prediction(middle, x_t, t, schedule, dst, src)
        scale = max(1.0, schedule.sigma(t).item() ** 2)  # 3000 for edm at t = 56: a score of order 1 there is a clean value of order 3000
        torch.testing.assert_close(back, value, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("name", SCHEDULES)
def test_three_changes_in_a_row_equal_one(name):
    schedule = SCHEDULES[name]
    value, x_t = draw(4, 3)
    t = 0.4 * schedule.t_max
    for a, b, c in itertools.permutations(PREDICTIONS, 3):
        direct = convert_prediction(value, x_t, t, schedule, a, c)
        middle = convert_prediction(value, x_t, t, schedule, a, b)
        terms = size_of_terms(size_of_terms(value, x_t, t, schedule, a, b), x_t, t, schedule, b, c)
        assert ((convert_prediction(middle, x_t, t, schedule, b, c) - direct).abs() <= 1e-12 * terms).all(), (a, b, c)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_score_of_a_two_point_law_gives_its_posterior_means(name):
    """Data on two points: the marginal is a two-component mixture, its score by autograd, the posterior by Bayes' rule."""
    schedule = SCHEDULES[name]
    points, prior = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    t = 0.3 * schedule.t_max
    a, s = schedule.alpha(t), schedule.sigma(t)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
    log_joint = prior.log() - (x[:, None] - a * points) ** 2 / (2 * s**2)
    (score,) = torch.autograd.grad(torch.logsumexp(log_joint, 1).sum(), x)
    posterior = torch.softmax(log_joint, 1).detach()
    x = x.detach()
    clean = posterior @ points
    noise = (posterior * (x[:, None] - a * points) / s).sum(1)
    velocity = schedule.dalpha(t) * clean + schedule.dsigma(t) * noise  # expectation of the conditional velocity
    for dst, want in (("clean", clean), ("noise", noise), ("velocity", velocity)):
        got = convert_prediction(score[:, None], x[:, None], t, schedule, "score", dst)
        # softmax and logsumexp: a few roundings of logits of order x^2 / sigma^2 <= 1e3, then 1/sigma
        torch.testing.assert_close(got[:, 0], want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("src", "dst"), CHAIN_PAIRS)
def test_discrete_conversions_match_the_definitions(src, dst):
    chain = DiscreteSchedule.linear(100)
    i = torch.tensor([1, 2, 30, 99, 100])
    x0, eps = draw(5, 2)
    s = chain.sigma_bar[i, None]
    x_i = chain.alpha_bar[i, None] * x0 + s * eps  # Eq. 2.2.9
    want = {"noise": eps, "clean": x0, "score": -eps / s}
    got = convert_prediction(want[src], x_i, i, chain, src, dst)
    slack = 64 * EPS * size_of_terms(want[src], x_i, i, chain, src, dst)
    assert ((got - want[dst]).abs() <= slack).all()
    for k in range(5):  # an int for the whole batch is the same index for each
        assert torch.equal(got[k : k + 1], convert_prediction(want[src][k : k + 1], x_i[k : k + 1], int(i[k]), chain, src, dst))


@pytest.mark.parametrize("shape", [(), (2,), (1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_trailing_shape_any_dtype_time_shared_or_per_sample(shape, dtype, generator):
    schedule = AffineSchedule.vp()
    value, x_t = torch.randn(2, 3, *shape, dtype=dtype, generator=generator).unbind()
    t = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
    got = convert_prediction(value, x_t, t, schedule, "noise", "velocity")
    assert (got.dtype, got.shape) == (dtype, x_t.shape)
    for k in range(3):
        for time in (t[k].item(), t[k], t[k : k + 1]):
            assert torch.equal(got[k : k + 1], convert_prediction(value[k : k + 1], x_t[k : k + 1], time, schedule, "noise", "velocity"))
    # float32 coefficients are the float64 ones rounded once
    wide = convert_prediction(value.double(), x_t.double(), t.double(), schedule, "noise", "velocity")
    torch.testing.assert_close(got.double(), wide, rtol=0, atol=8 * torch.finfo(dtype).eps * (wide.abs().max().item() + 20))


def test_same_name_is_the_identity_and_gradients_flow(generator):
    value, x_t = torch.randn(2, 3, 2, dtype=torch.float64, generator=generator).unbind()
    schedule = AffineSchedule.linear()
    assert convert_prediction(value, x_t, 0.5, schedule, "score", "score") is value
    value.requires_grad_()
    velocity = convert_prediction(value, x_t, 0.5, schedule, "clean", "velocity")
    (slope,) = torch.autograd.grad(velocity.sum(), value)
    torch.testing.assert_close(slope, torch.full_like(slope, -2.0))  # v = (x_t - x) / t
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(convert_prediction(value, x_t, t, schedule, "clean", "velocity").sum(), t)
    torch.testing.assert_close(slope, (-(x_t - value) / 0.25).sum())


# --- where conversions exist, and where not ------------------------------------------------------------------------------------------

# (schedule, end of time) -> the conversions that are singular there, from which of alpha, sigma, sigma' is 0 or infinite
SINGULAR = [
    ("linear", "end", {("noise", "clean"), ("score", "clean"), ("noise", "velocity"), ("score", "velocity")}),
    ("trig", "end", {("noise", "clean"), ("score", "clean"), ("noise", "velocity"), ("score", "velocity")}),
    ("linear", "start", {("noise", "score"), ("clean", "noise"), ("clean", "score"), ("clean", "velocity"), ("velocity", "score")}),
    ("edm", "start", {("noise", "score"), ("clean", "noise"), ("clean", "score"), ("clean", "velocity"), ("velocity", "score")}),
    (
        "vp",
        "start",
        {("noise", "score"), ("clean", "noise"), ("clean", "score"), ("clean", "velocity"), ("noise", "velocity")}
        | {("velocity", dst) for dst in ("noise", "clean", "score")},
    ),
    ("vp", "end", set()),
]


@pytest.mark.parametrize(("name", "end", "singular"), SINGULAR)
def test_singular_conversions_are_refused_and_regular_ones_are_not(name, end, singular):
    schedule = SCHEDULES[name]
    t = schedule.t_max if end == "end" else schedule.t_min
    value, x_t = draw(2, 5)
    for src, dst in PAIRS:
        if (src, dst) in singular:
            with pytest.raises(ValueError, match=f"{src} to {dst} is singular at t="):
                convert_prediction(value, x_t, t, schedule, src, dst)
            with pytest.raises(ValueError, match="singular"):  # one bad time in a batch is enough
                convert_prediction(value, x_t, torch.tensor([0.5, t], dtype=torch.float64), schedule, src, dst)
        else:
            assert torch.isfinite(convert_prediction(value, x_t, t, schedule, src, dst)).all()


def test_regular_limits_at_the_ends():
    """The pure-noise end of the linear path and the data end of the vp path, by hand."""
    value, x_t = draw(2, 6)
    at_noise = convert_prediction(value, x_t, 1.0, SCHEDULES["linear"], "velocity", "clean")
    torch.testing.assert_close(at_noise, x_t - value)  # v = eps - x0 with eps = x_t
    at_data = convert_prediction(value, x_t, 0.0, SCHEDULES["vp"], "score", "velocity")
    torch.testing.assert_close(at_data, -0.05 * (x_t + value))  # f x - g^2 s / 2 with beta(0) = .1


def test_a_coefficient_beyond_the_dtype_is_refused():
    value = torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"clean to score is singular at t=1e-25: a coefficient is not finite in torch.float32"):
        convert_prediction(value, value, 1e-25, SCHEDULES["edm"], "clean", "score")
    assert torch.isfinite(convert_prediction(value.double(), value.double(), 1e-25, SCHEDULES["edm"], "clean", "score")).all()


def test_bad_input_is_refused(user_errors):
    schedule, chain, x = AffineSchedule.vp(), DiscreteSchedule.linear(50), torch.zeros(2, 3)

    def convert(value=x, x_t=x, t=0.5, schedule=schedule, src="noise", dst="clean"):
        return convert_prediction(value, x_t, t, schedule, src, dst)

    with pytest.raises(ValueError, match="src must be one of noise, clean, score, velocity; got 'eps'"):
        convert(src="eps")
    with pytest.raises(ValueError, match=r"dst must be one of .* did you mean 'velocity'"):
        convert(dst="velocit")
    with pytest.raises(ValueError, match="value must have the shape"):
        convert(value=x[:, :1])
    with pytest.raises(ValueError, match="value must have the shape"):
        convert(value=x[0, 0], x_t=x[0, 0])
    with pytest.raises(ValueError, match="value contains NaN"):
        convert(value=x * math.nan)
    with pytest.raises(ValueError, match="x_t contains NaN or infinity"):
        convert(x_t=x + math.inf)
    with pytest.raises(TypeError, match=r"value must be a torch\.Tensor"):
        convert(value=[[0.0]])
    with pytest.raises(TypeError, match="x_t must be a floating-point"):
        convert(x_t=x.long())
    with pytest.raises(TypeError, match="schedule must be"):
        convert(schedule="vp")
    with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
        convert(t=1.5)
    with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
        convert(t=1.5, dst="noise")  # the identity checks its time too
    with pytest.raises(TypeError, match="t must be a number"):
        convert(t="0.5")
    with pytest.raises(ValueError, match=r"of shape \(2,\)"):
        convert(t=torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(TypeError, match="i must be an integer"):
        convert(t=0.5, schedule=chain)
    with pytest.raises(ValueError, match=r"i must be in 1\.\.50, got 0"):
        convert(t=0, schedule=chain)
    for src, dst in (("velocity", "noise"), ("score", "velocity"), ("velocity", "velocity")):
        with pytest.raises(ValueError, match="no time derivative"):
            convert(t=3, schedule=chain, src=src, dst=dst)
