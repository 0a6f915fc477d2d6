"""Preconditioning against its criteria measured on samples, exact posteriors, its limits, and the equivalences of section D.6."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mathcore.distributions import GaussianMixture
from mathcore.oracle import AffineGaussianOracle
from mathcore.preconditioning import NOISE_EMBEDDINGS, Preconditioned, edm_coefficients, edm_target, estimate_sigma_data, noise_embedding
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedule_maps import equal_snr
from mathcore.schedules import AffineSchedule

SCHEDULES = {
    "vp": AffineSchedule.vp(),
    "ve": AffineSchedule.ve(),
    "edm": AffineSchedule.edm(),
    "linear": AffineSchedule.linear(),
    "trig": AffineSchedule.trig(),
    "cosine": AffineSchedule.cosine(),
}
everywhere = pytest.mark.parametrize("name", SCHEDULES)
LEVELS = [("edm", 0.3), ("edm", 5.0), ("linear", 0.2), ("linear", 0.7), ("trig", 0.4), ("trig", 1.2)]
# one coordinate, mean zero, neither symmetric nor Gaussian
BIMODAL = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [[-1.4], [0.6]], [0.04, 0.09])))
SIGMA = float(BIMODAL.cov().sqrt())


class Net(nn.Module):
    """Any smooth network that sees both inputs."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, c_noise):
        return torch.tanh(self.w * x + c_noise.to(x).reshape(-1, *([1] * (x.ndim - 1))))


def zero(x, c_noise):
    return torch.zeros_like(x)


def normals(*shape, seed=0, count=2, dtype=torch.float64):
    return torch.randn(count, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).unbind()


def times_of(schedule, n, low=0.05, high=0.95):
    return schedule.t_min + (schedule.t_max - schedule.t_min) * torch.linspace(low, high, n, dtype=torch.float64)


# --- criteria ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "t"), LEVELS)
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_inputs_and_targets_have_unit_variance_and_are_uncorrelated(name, t, shift):
    """2e6 samples: standard errors of a variance .001 at kurtosis 3, of a correlation 7e-4; centring does not matter (section D.6.1)."""
    schedule = SCHEDULES[name]
    x0 = BIMODAL.sample(2_000_000, torch.Generator().manual_seed(1)) + shift
    (eps,) = normals(2_000_000, 1, seed=2, count=1)
    x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    c = edm_coefficients(schedule, t, SIGMA)
    pair = torch.cat([c.c_in * x_t, edm_target(schedule, x0, eps, t, SIGMA)], 1)
    (v, cross), (_, w) = torch.cov(pair.T).tolist()
    assert v == pytest.approx(1, abs=0.005)
    assert w == pytest.approx(1, abs=0.005)
    assert abs(cross) < 3.5e-3


@pytest.mark.parametrize(("name", "t"), LEVELS)
def test_no_other_skip_has_a_smaller_error(name, t):
    """c_out^2 as the mean squared error of c x_t, on samples over a grid of c: least at c_skip, where it is c_out^2."""
    schedule = SCHEDULES[name]
    c = edm_coefficients(schedule, t, SIGMA)
    x0, (eps,) = BIMODAL.sample(400_000, torch.Generator().manual_seed(1)), normals(400_000, 1, seed=2, count=1)
    x_t = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    best = float((x0 * x_t).mean() / x_t.square().mean())
    # standard errors of the regression slope, .0016 / |x_t|, and of a mean square, .003 relative
    assert float(c.c_skip) == pytest.approx(best, abs=5 * 0.0016 / float(x_t.std()))
    assert float((x0 - c.c_skip * x_t).square().mean()) == pytest.approx(float(c.c_out**2), rel=0.015)
    errors = [float((x0 - factor * c.c_skip * x_t).square().mean()) for factor in (0.5, 0.75, 1.0, 1.25, 1.5)]
    assert min(errors) == errors[2]


@everywhere
@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(1e-3, 0.999), sigma_data=st.floats(0.05, 20))
def test_error_bounds(name, fraction, sigma_data):
    schedule = SCHEDULES[name]
    t = fraction * schedule.t_max
    c_skip, c_out, c_in = map(float, edm_coefficients(schedule, t, sigma_data))
    ratio = float(schedule.sigma(t) / schedule.alpha(t))
    assert 0 <= c_out <= min(ratio, sigma_data) * (1 + 1e-14)
    assert c_skip * float(schedule.alpha(t)) + (c_out / sigma_data) ** 2 == pytest.approx(1, rel=1e-13)  # error and explained part
    assert c_in * ratio == pytest.approx(c_out / sigma_data * ratio / float(schedule.sigma(t)), rel=1e-12)


def test_edm_values_and_the_crossover():
    t = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64)
    c = edm_coefficients(SCHEDULES["edm"], t, 0.5)
    torch.testing.assert_close(c.c_skip, 0.25 / (0.25 + t**2))
    torch.testing.assert_close(c.c_out, t * 0.5 / torch.sqrt(0.25 + t**2))
    torch.testing.assert_close(c.c_in, 1 / torch.sqrt(0.25 + t**2))
    assert float(c.c_skip[1]) == pytest.approx(0.5, rel=1e-15)


def test_trig_with_unit_data_is_v_prediction():
    schedule = SCHEDULES["trig"]
    x0, eps = normals(6, 2)
    t = times_of(schedule, 6)
    velocity = schedule.dalpha(t)[:, None] * x0 + schedule.dsigma(t)[:, None] * eps
    torch.testing.assert_close(edm_target(schedule, x0, eps, t, 1.0), -velocity, rtol=1e-14, atol=1e-15)
    model = Preconditioned(Net(), schedule, 1.0)
    x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    torch.testing.assert_close(model.predict(x_t, t, "velocity"), -model.residual(x_t, t), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("other", ["vp", "trig", "linear"])
def test_everything_depends_on_the_noise_to_signal_ratio_alone(other):
    """Target, network input and embedding are those of another schedule at equal ratio."""
    edm, schedule = AffineSchedule.edm(t_max=400.0), SCHEDULES[other]  # vp goes up to sigma / alpha = 152
    t = times_of(schedule, 6)
    k, partner = equal_snr(schedule, t, edm)
    x0, eps = normals(6, 2)
    torch.testing.assert_close(edm_target(schedule, x0, eps, t, 0.6), edm_target(edm, x0, eps, partner, 0.6), rtol=1e-12, atol=1e-13)
    c, d = edm_coefficients(schedule, t, 0.6), edm_coefficients(edm, partner, 0.6)
    torch.testing.assert_close(k * c.c_in, d.c_in, rtol=1e-12, atol=0)
    torch.testing.assert_close(c.c_out, d.c_out, rtol=1e-12, atol=0)
    for name in NOISE_EMBEDDINGS:
        torch.testing.assert_close(
            noise_embedding(schedule, t, 0.6, name), noise_embedding(edm, partner, 0.6, name), rtol=1e-12, atol=1e-12
        )


# --- the model ------------------------------------------------------------------------------------------------------------------------------


@everywhere
def test_stubs_give_the_skip_and_the_identity(name):
    schedule = SCHEDULES[name]
    (x,) = normals(5, 3, count=1)
    t = times_of(schedule, 5)
    c = edm_coefficients(schedule, t, 0.8)
    torch.testing.assert_close(Preconditioned(zero, schedule, 0.8)(x, t), c.c_skip[:, None] * x)
    got = Preconditioned(lambda y, c_noise: y, schedule, 0.8)(x, t)
    torch.testing.assert_close(got, (c.c_skip + c.c_out * c.c_in)[:, None] * x)


@everywhere
def test_three_losses_are_one(name):
    """Clean loss with weight 1 / c_out^2, Eq. D.6.2, and the loss of the network itself (section D.6.1)."""
    schedule = SCHEDULES[name]
    model = Preconditioned(Net(), schedule, SIGMA)
    x0, eps = normals(8, 2, 2)
    t = times_of(schedule, 8)
    c = model.coefficients(t)
    x_t = schedule.alpha(t)[:, None, None] * x0 + schedule.sigma(t)[:, None, None] * eps
    clean = (model(x_t, t) - x0).square().sum((1, 2)) / c.c_out**2
    raw = (1 - c.c_skip * schedule.alpha(t)) / c.c_out, c.c_skip * schedule.sigma(t) / c.c_out  # Eq. D.6.2 before it is simplified
    target = raw[0][:, None, None] * x0 - raw[1][:, None, None] * eps
    printed = (model.residual(x_t, t) - target).square().sum((1, 2))
    # at small sigma / alpha the first two divide differences by c_out >= .02
    torch.testing.assert_close(model.loss_terms(x0, eps, t), clean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(model.loss_terms(x0, eps, t), printed, rtol=1e-11, atol=1e-11)


@everywhere
def test_the_zero_network_is_exact_on_gaussian_data_of_that_size(name):
    schedule = SCHEDULES[name]
    law = GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in ([1.0], [[0.0, 0.0]], [0.36])))
    oracle, model = AffineGaussianOracle(law, schedule), Preconditioned(zero, schedule, 0.6)
    (x,) = normals(7, 2, count=1)
    t = times_of(schedule, 7)
    for kind in PREDICTIONS:
        torch.testing.assert_close(model.predict(x, t, kind), getattr(oracle, kind)(x, t), rtol=1e-11, atol=1e-12)
    optimum = model.target(oracle.clean(x, t), oracle.noise(x, t), t)
    torch.testing.assert_close(optimum, torch.zeros_like(x), rtol=0, atol=1e-14 * float(x.abs().max()))


@pytest.mark.parametrize(("name", "t"), LEVELS)
def test_the_optimal_network_of_a_mixture(name, t):
    """F* from the conditional means of clean and noise makes every prediction exact; its loss lies in [0, 1] per coordinate."""
    schedule = SCHEDULES[name]
    oracle = AffineGaussianOracle(BIMODAL, schedule)
    x0, (eps,) = BIMODAL.sample(20_000, torch.Generator().manual_seed(1)), normals(20_000, 1, seed=2, count=1)
    x = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
    best = edm_target(schedule, oracle.clean(x, t), oracle.noise(x, t), t, SIGMA)
    model = Preconditioned(lambda y, c_noise: best, schedule, SIGMA)
    for kind in PREDICTIONS:
        torch.testing.assert_close(model.predict(x, t, kind), getattr(oracle, kind)(x, t), rtol=1e-10, atol=1e-10)
    loss = model.loss_terms(x0, eps, t)
    assert 0 < float(loss.mean()) < 1
    assert float(loss.mean()) < float(Preconditioned(zero, schedule, SIGMA).loss_terms(x0, eps, t).mean())


@everywhere
def test_heads_agree_with_the_conversions_and_are_better_at_low_noise(name):
    schedule = SCHEDULES[name]
    model = Preconditioned(Net(), schedule, 0.6)
    (x,) = normals(7, 2, count=1)
    t = times_of(schedule, 7)
    for kind in PREDICTIONS:
        want = convert_prediction(model(x, t), x, t, schedule, "clean", kind)
        torch.testing.assert_close(model.predict(x, t, kind), want, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        small = float(schedule.inverse_half_log_snr(math.log(1e5)))  # sigma / alpha = 1e-5: a float32 rounding of x, 6e-8, is .006 sigma
        exact = model.predict(x, small, "noise")
        narrow = Preconditioned(Net().float(), schedule, 0.6)
        direct = narrow.predict(x.float(), small, "noise").double() - exact
        converted = convert_prediction(narrow(x.float(), small), x.float(), small, schedule, "clean", "noise").double() - exact
    assert float(direct.abs().max()) < 1e-5
    assert float(converted.abs().max()) > 1e-3


@everywhere
def test_at_zero_noise_the_prediction_is_the_point(name):
    schedule = SCHEDULES[name]

    def refuses_nothing(x, c_noise):
        assert bool(torch.isfinite(c_noise).all())
        return 1e6 * torch.ones_like(x)

    (x,) = normals(3, 2, count=1)
    for embedding in NOISE_EMBEDDINGS:
        model = Preconditioned(refuses_nothing, schedule, 0.5, embedding)
        start = schedule.t_min
        assert torch.equal(model(x, start), x)
        mixed = model(x, torch.tensor([start, 0.5 * schedule.t_max, start], dtype=torch.float64))
        assert torch.equal(mixed[[0, 2]], x[[0, 2]])
        assert torch.equal(mixed[1:2], model(x[1:2], 0.5 * schedule.t_max))
    c = edm_coefficients(schedule, schedule.t_min, 0.5)
    assert [float(v) for v in c] == [1.0, 0.0, 2.0]


def test_general_start_with_another_alpha_and_the_end_without_signal():
    half = AffineSchedule.from_alpha_sigma(lambda t: 0.5 * (1 - t), lambda t: t)
    (x,) = normals(3, 2, count=1)
    torch.testing.assert_close(Preconditioned(Net(), half, 0.5)(x, 0.0), 2 * x, rtol=1e-15, atol=0)
    linear = SCHEDULES["linear"]
    assert [float(v) for v in edm_coefficients(linear, 1.0, 0.5)] == [0.0, 0.5, 1.0]
    model = Preconditioned(Net(), linear, 0.5, "angle")
    torch.testing.assert_close(model(x, 1.0), 0.5 * model.residual(x, 1.0))
    assert float(noise_embedding(linear, 1.0, 0.5, "angle")) == pytest.approx(math.pi / 2)


@everywhere
def test_gradients_reach_the_weights_at_every_noise_level(name):
    schedule = SCHEDULES[name]
    model = Preconditioned(Net(), schedule, 0.5)
    assert [n for n, _ in model.named_parameters()] == ["network.w"]
    x0, eps = normals(6, 2)
    t = times_of(schedule, 6, 1e-6, 0.999)
    model.loss_terms(x0, eps, t).sum().backward()
    assert torch.isfinite(model.network.w.grad)
    assert float(model.network.w.grad) != 0


def test_initial_loss_is_one_per_coordinate_at_every_level():
    schedule = SCHEDULES["edm"]
    model = Preconditioned(zero, schedule, SIGMA)
    for seed, t in enumerate((0.002, 0.1, 1.0, 30.0)):
        x0, (eps,) = BIMODAL.sample(100_000, torch.Generator().manual_seed(seed)), normals(100_000, 1, seed=seed + 9, count=1)
        assert float(model.loss_terms(x0, eps, t).mean()) == pytest.approx(1, abs=0.02)  # standard error .0045


@everywhere
@pytest.mark.parametrize("embedding", NOISE_EMBEDDINGS)
def test_embeddings_increase(name, embedding):
    schedule = SCHEDULES[name]
    assert bool((noise_embedding(schedule, times_of(schedule, 200, 0.001, 0.999), 0.5, embedding).diff() > 0).all())


def test_the_embedding_of_karras():
    assert float(noise_embedding(SCHEDULES["edm"], 3.0, 0.5, "quarter_log_sigma")) == pytest.approx(math.log(3.0) / 4, rel=1e-15)
    assert float(noise_embedding(SCHEDULES["vp"], 0.3, 0.5, "log_snr")) == pytest.approx(
        math.log(float(SCHEDULES["vp"].sigma(0.3) / SCHEDULES["vp"].alpha(0.3))), rel=1e-13
    )


def test_shapes_dtypes_and_times():
    schedule = SCHEDULES["vp"]
    model = Preconditioned(Net(), schedule, 0.5)
    for dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
        (x,) = normals(3, 1, 4, 4, count=1, dtype=dtype)
        assert model(x, 0.4).dtype == dtype
        assert model(x, 0.4).shape == x.shape
        t = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
        for k in range(3):
            torch.testing.assert_close(model(x, t)[k : k + 1], model(x[k : k + 1], t[k]))
    assert edm_coefficients(schedule, torch.tensor([0.2, 0.3]), 0.5).c_in.dtype == torch.float32
    assert edm_coefficients(schedule, 0.2, 0.5).c_in.shape == ()
    seen = []
    Preconditioned(lambda x, c: (seen.append(c), x)[1], schedule, 0.5)(x, 0.4)
    assert seen[0].shape == (3,)
    assert seen[0].dtype == x.dtype


def test_sigma_data_of_a_data_set():
    x = BIMODAL.sample(200_000, torch.Generator().manual_seed(1))
    pair = torch.cat([2 * x + 5, torch.zeros_like(x)], 1)
    assert estimate_sigma_data(pair) == pytest.approx(2 * SIGMA / math.sqrt(2), rel=0.01)  # mean variance of the two coordinates
    assert estimate_sigma_data(pair.reshape(-1, 2, 1, 1)) == estimate_sigma_data(pair)


def test_bad_input_is_refused(user_errors):
    vp, x = SCHEDULES["vp"], torch.zeros(2, 3)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma_data must be a positive"):
            edm_coefficients(vp, 0.5, bad)
        with pytest.raises(ValueError, match="sigma_data must be a positive"):
            Preconditioned(zero, vp, bad)
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        edm_coefficients("vp", 0.5, 0.5)
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        Preconditioned(zero, "vp", 0.5)
    with pytest.raises(TypeError, match="network must be a function"):
        Preconditioned("net", vp, 0.5)
    with pytest.raises(ValueError, match="noise_embedding must be one of"):
        Preconditioned(zero, vp, 0.5, "log")
    with pytest.raises(ValueError, match=r"t outside \[0.0, 1.0\]"):
        edm_coefficients(vp, -0.1, 0.5)
    with pytest.raises(ValueError, match="eps must have the shape"):
        edm_target(vp, x, x[:1], 0.5, 0.5)
    with pytest.raises(ValueError, match="eps contains NaN"):
        edm_target(vp, x, x * math.nan, 0.5, 0.5)
    with pytest.raises(ValueError, match="'angle' is finite"):
        noise_embedding(SCHEDULES["linear"], 1.0, 0.5, "log_snr")
    with pytest.raises(ValueError, match="log_snr is infinite"):
        Preconditioned(zero, vp, 0.5).loss_terms(x, x, 0.0)
    model = Preconditioned(Net().float(), vp, 0.5)
    with pytest.raises(ValueError, match="x contains NaN"):
        model(x * math.nan, 0.5)
    with pytest.raises(TypeError, match="x must be a floating"):
        model(x.long(), 0.5)
    with pytest.raises(ValueError, match=r"of shape \(2,\)"):
        model(x, torch.ones(3))
    with pytest.raises(ValueError, match="prediction must be one of"):
        model.predict(x, 0.5, "eps")
    with pytest.raises(ValueError, match="does not exist where sigma is zero"):
        model.predict(x, 0.0, "noise")
    with pytest.raises(ValueError, match="network must return the shape"):
        Preconditioned(lambda x, c: x[:, :1], vp, 0.5)(x, 0.5)
    with pytest.raises(ValueError, match="standard deviation of x must be a positive"):
        estimate_sigma_data(x)
    with pytest.raises(ValueError, match="at least two points"):
        estimate_sigma_data(x[:1])
