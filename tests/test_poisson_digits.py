"""The Poisson flow of the digits: its noise, its scaled network against a posterior mean, its sampler along exact rays, and what is trained."""

import math

import pytest
import torch
from torch import nn

from mathcore.divergences import ks_1d
from mathcore.experiments import poisson_digits as experiment
from mathcore.flows.construction import MultivariateCauchy
from mathcore.networks import UNet
from mathcore.schedules import AffineSchedule
from mathcore.time_distributions import TimeDistribution
from mathcore.training import FitResult

F64 = torch.float64
TIMES = TimeDistribution.lognormal(AffineSchedule.edm())


class Recorder(nn.Module):
    """A network that says nothing, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, u):
        self.asked.append((x, u))
        return torch.zeros_like(x)


class Constant(experiment.ScaledDenoiser):
    """A denoiser that returns one image whatever it sees: exact for data of one point."""

    def __init__(self, image):
        super().__init__(nn.Identity(), 0.5)
        self.image = image

    def forward(self, x, t):
        return self.image.expand_as(x)


def test_the_noise_has_the_law_of_its_kernel(generator):
    like = torch.zeros(20_000, 1, 2, 2, dtype=F64)
    heavy = experiment.unit_noise("cauchy", like, generator).flatten(1)
    assert ks_1d(heavy.norm(dim=1), MultivariateCauchy(4, 1.0).radial_cdf)[1] > 1e-3
    light = experiment.unit_noise("gaussian", like, generator).flatten()
    assert ks_1d(light, torch.special.ndtr)[1] > 1e-3
    assert experiment.unit_noise("cauchy", like[:3].float(), generator).dtype == torch.float32


def test_the_network_sees_points_of_space_time_of_size_one(generator):
    recorder = Recorder()
    denoiser = experiment.ScaledDenoiser(recorder, 0.5)
    x, t = 30 * torch.randn(7, 1, 4, 4, generator=generator, dtype=F64), torch.logspace(-2, 1.5, 7, dtype=F64)
    denoiser(x, t)
    seen, clock = recorder.asked[0]
    size2 = t**2 + x.square().mean((1, 2, 3))
    # direction of x in space-time: its square and that of t / s add up to one
    assert torch.allclose(seen.square().mean((1, 2, 3)) + t**2 / size2, torch.ones(7, dtype=F64), rtol=1e-12)
    assert torch.allclose(experiment.T_MIN * (experiment.T_MAX / experiment.T_MIN) ** clock, t, rtol=1e-12)


def test_a_silent_network_shrinks_like_wiener(generator):
    """For Gaussian data and noise the posterior mean is sd^2 / (sd^2 + t^2) x; in many dimensions the measured size says so by itself."""
    sd, t, side = 0.5, 2.0, 100
    x0 = sd * torch.randn(3, 1, side, side, generator=generator, dtype=F64)
    x = x0 + t * torch.randn(x0.shape, generator=generator, dtype=F64)
    got = experiment.ScaledDenoiser(Recorder(), sd)(x, t)
    size2 = sd**2 + 2 * t**2  # s^2 counts the time as well as the noise of standard deviation t
    # mean of side^2 squares: relative spread sqrt(2) / side
    assert torch.allclose(got, sd**2 / size2 * x, rtol=5 * math.sqrt(2) / side, atol=0)
    quiet = experiment.ScaledDenoiser(Recorder(), sd)(0.3 * x0, 1e-3)
    assert torch.equal(quiet, 0.3 * x0)  # small images at little noise are kept, never enlarged


def test_the_loss_is_finite_and_weighs_times_alone(generator):
    """A denoiser that knows the only data point costs nothing; one that is wrong by one costs E w(t), whatever the noise."""
    point = torch.full((1, 1, 2, 2), 0.25, dtype=F64)
    x0 = point.expand(4000, -1, -1, -1)
    assert float(experiment.clean_loss(Constant(point), x0, "cauchy", TIMES, generator)) == 0
    seed = torch.Generator().manual_seed(4)
    got = float(experiment.clean_loss(Constant(point + 1), x0, "cauchy", TIMES, seed))
    t = TIMES.sample(4000, torch.Generator().manual_seed(4)).to(F64)  # the first thing that the loss draws
    assert got == pytest.approx(float((1 / 0.5**2 + 1 / (0.5 * t)).mean()), rel=1e-12)


@pytest.mark.parametrize("kernel", experiment.KERNELS)
@pytest.mark.parametrize("n_steps", [2, 7])
@pytest.mark.parametrize("shape", [(2,), (3, 2, 2)])
def test_samples_end_where_the_denoiser_points(kernel, n_steps, shape, generator):
    """With one data point the field lines are rays, on which Euler is exact: every start ends at the point, plus the mean of the data."""
    point, mean = torch.full((1, *shape), 0.25, dtype=F64), torch.full((1, *shape), -1.0, dtype=F64)
    model = experiment.PoissonModel(kernel, Constant(point), mean, torch.ones(1))
    assert torch.allclose(model.sample(50, n_steps, generator), torch.full((50, *shape), -0.75, dtype=F64), rtol=0, atol=1e-12)


def test_points_are_scaled_as_flat_images_are(generator):
    """The rows of a batch are vectors, whatever shape they come in."""

    class Tanh(nn.Module):
        def forward(self, x, u):
            return torch.tanh(x * (1 + u.reshape(-1, *(1,) * (x.ndim - 1))))

    x, t = torch.randn(5, 1, 2, 2, generator=generator, dtype=F64), torch.logspace(-2, 1, 5, dtype=F64)
    denoiser = experiment.ScaledDenoiser(Tanh(), 0.5)
    assert torch.allclose(denoiser(x.flatten(1), t), denoiser(x, t).flatten(1), rtol=1e-14, atol=0)


def test_the_prior_and_the_number_of_calls():
    recorder, mean = Recorder(), torch.zeros(1, 1, 2, 2, dtype=F64)
    model = experiment.PoissonModel("cauchy", experiment.ScaledDenoiser(recorder, 0.5), mean, torch.ones(1))
    starts = []
    for scale in (1.0, 3.0):
        recorder.asked.clear()
        model.sample(4, 9, torch.Generator().manual_seed(0), scale)
        assert len(recorder.asked) == 9
        seen, clock = recorder.asked[0]
        assert torch.allclose(clock, torch.ones_like(clock), rtol=1e-6)  # from T_MAX ...
        direction = seen.square().mean((1, 2, 3))
        starts.append(experiment.T_MAX * (direction / (1 - direction)).sqrt())  # undo the division by s
    assert torch.allclose(starts[1], 3 * starts[0], rtol=1e-6)


def test_bad_arguments(user_errors, generator):
    denoiser, images = experiment.ScaledDenoiser(Recorder(), 0.5), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="sigma_data"):
        experiment.ScaledDenoiser(Recorder(), 0.0)
    with pytest.raises(ValueError, match="t must be positive"):
        denoiser(images, 0.0)
    with pytest.raises(ValueError, match="x"):
        denoiser(torch.full((2, 1, 4, 4), math.nan), 1.0)
    with pytest.raises(ValueError, match=r"shape \(N, ...\)"):
        denoiser(torch.zeros(3), 1.0)
    with pytest.raises(TypeError, match="x"):
        denoiser(images.long(), 1.0)
    with pytest.raises(ValueError, match="kernel"):
        experiment.unit_noise("laplace", images)
    with pytest.raises(TypeError, match="like"):
        experiment.unit_noise("cauchy", images.long())
    with pytest.raises(ValueError, match="kernel"):
        experiment.clean_loss(denoiser, images, "student", TIMES)
    with pytest.raises(ValueError, match="kernel"):
        experiment.poisson_digits("student")
    model = experiment.PoissonModel("cauchy", denoiser, images[:1], torch.ones(1))
    with pytest.raises(ValueError, match="n_steps"):
        model.sample(3, 1)
    with pytest.raises(ValueError, match="n must"):
        model.sample(0)
    with pytest.raises(ValueError, match="prior_scale"):
        model.sample(3, prior_scale=0.0)


def test_what_is_trained(monkeypatch, generator):
    asked = {}

    def train(name, loss, t_max):
        model = UNet(size=8, width=16)
        batch = experiment.digit_images()[:64]
        value = loss(model, batch, generator)
        value.backward()
        asked.update(name=name, t_max=t_max, loss=float(value.detach()), moved=any(p.grad is not None for p in model.parameters()))
        return FitResult(model, torch.ones(3))

    monkeypatch.setattr(experiment, "train_digits", train)
    with torch.random.fork_rng():
        digits = experiment.poisson_digits("cauchy")
    assert asked["name"] == "poisson-cauchy"
    assert asked["t_max"] == 1.0
    assert asked["moved"]
    assert math.isfinite(asked["loss"])
    images = experiment.digit_images()
    assert torch.allclose(digits.mean, images.mean(0, keepdim=True))
    spread = float((images - images.mean(0)).square().sum((0, 1, 2, 3)) / (len(images) - 1) / 64)
    assert digits.denoiser.sigma_data == pytest.approx(math.sqrt(spread), rel=1e-5)
