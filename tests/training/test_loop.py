"""The loop: exact resume, the weight average and clipping against closed forms, and the errors that stop it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from mathcore._validate import NotFiniteError, floating
from mathcore.networks import TimeMLP, UNet
from mathcore.settings import settings
from mathcore.training import CheckpointError, TrainConfig, fit, load_checkpoint
from mathcore.training.config import ema_decay, learning_rate


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))


class Point(nn.Module):
    """A model that is one vector of weights."""

    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def denoise(model, batch, generator):
    t = torch.rand(len(batch), generator=generator, dtype=batch.dtype)
    noise = torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
    t_ = t.reshape(-1, *[1] * (batch.ndim - 1))
    return (model((1 - t_) * batch + t_ * noise, t) - noise).square().mean()


def small(kind="mlp"):
    torch.manual_seed(3)
    return TimeMLP(2, hidden=8, depth=2, d_embed=8) if kind == "mlp" else UNet(1, 4, width=4, mults=(1, 2), d_embed=8)


def ring(n, generator):
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], dim=1)


class Interrupt(Exception):
    pass


def breaking(loss, at):
    """The loss, raising at its ``at``-th call."""
    calls = 0

    def wrapped(model, batch, generator):
        nonlocal calls
        calls += 1
        if calls == at:
            loss(model, batch, generator)  # draws its numbers and builds a graph, then dies
            raise Interrupt
        return loss(model, batch, generator)

    return wrapped


CONFIGS = {
    "sampler": ("mlp", ring, TrainConfig(steps=20, batch_size=4, warmup=10, decay="cosine", weight_decay=0.01, seed=5)),
    "tensor": ("unet", torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0)), TrainConfig(steps=20, batch_size=4, ema=0.9)),
    "autocast": ("mlp", ring, TrainConfig(steps=20, batch_size=4, bfloat16=True, grad_clip=None)),
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_an_interrupted_run_resumes_to_the_same_bits(name, tmp_path_factory):
    kind, data, config = CONFIGS[name]
    whole_path = tmp_path_factory.mktemp("whole") / "c"
    whole = fit(small(kind), denoise, data, config, checkpoint=whole_path)
    want, _ = load_checkpoint(whole_path)

    @hypothesis_settings(max_examples=5, deadline=None, database=None)
    @given(at=st.integers(2, 20), every=st.integers(1, 9))
    def check(at, every):
        path = tmp_path_factory.mktemp("broken") / "c"
        with pytest.raises(Interrupt):
            fit(small(kind), breaking(denoise, at), data, config, checkpoint=path, checkpoint_every=every)
        resuming = every < at  # there is a checkpoint
        torch.manual_seed(99)
        fresh = TimeMLP(2, hidden=8, depth=2, d_embed=8) if kind == "mlp" else UNet(1, 4, width=4, mults=(1, 2), d_embed=8)
        again = fit(fresh if resuming else small(kind), denoise, data, config, checkpoint=path, checkpoint_every=every, resume=resuming)
        assert torch.equal(again.losses, whole.losses)
        for key, value in whole.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[key], value), key
        got, _ = load_checkpoint(path)  # the whole state: moments, counters, both generators, the average
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert torch.equal(got[key], value), key

    check()


def test_a_finished_run_goes_on_for_more_steps_as_if_it_had_been_longer(tmp_path):
    config = {"batch_size": 4, "warmup": 3}
    fit(small(), denoise, ring, TrainConfig(steps=7, **config), checkpoint=tmp_path / "c")
    longer = fit(small(), denoise, ring, TrainConfig(steps=12, **config), checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(longer.losses, fit(small(), denoise, ring, TrainConfig(steps=12, **config)).losses)
    done = fit(small(), denoise, ring, TrainConfig(steps=12, **config), checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(done.losses, longer.losses)


def test_the_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    config = TrainConfig(steps=5, batch_size=4)
    before = torch.get_rng_state()
    runs = [fit(model, denoise, ring, config).losses for model in (small(), small())]
    torch.manual_seed(3)
    small()
    assert torch.equal(runs[0], runs[1])
    other = fit(small(), denoise, ring, TrainConfig(steps=5, batch_size=4, seed=1)).losses
    assert not torch.equal(runs[0], other)
    given_generator = [fit(small(), denoise, ring, config, generator=torch.Generator().manual_seed(s)).losses for s in (1, 1, 2)]
    assert torch.equal(given_generator[0], given_generator[1])
    assert not torch.equal(given_generator[0], given_generator[2])
    state = torch.get_rng_state()
    fit(model := Point(1.0), lambda m, b, g: m.w.square().sum(), ring, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.w.grad is None
    assert before.shape == state.shape


@pytest.mark.parametrize("steps", [1, 2, 10, 60])
def test_average_against_its_closed_form_on_a_constant_gradient(steps):
    # A constant gradient g makes every Adam step -lr sign(g) (eps = 1e-8 over |g| = 2 and 5: relative 5e-9). On a ramp w_k = k c the average with
    # decay (1 + k) / (10 + k) telescopes to c (0.9 k - 0.1 + 9! / ((k + 2) ... (k + 10))); derived by summing rising factorials.
    config = TrainConfig(steps=steps, lr=0.01, warmup=0, grad_clip=None, ema=0.9999)
    result = fit(Point(0.0, 0.0), lambda m, b, g: 2 * m.w[0] - 5 * m.w[1], ring, config)
    lag = 0.9 * steps - 0.1 + math.factorial(9) / math.prod(range(steps + 2, steps + 11))
    want = torch.tensor([-0.01 * lag, 0.01 * lag], dtype=torch.float64)
    torch.testing.assert_close(result.model.w.detach(), want, rtol=1e-7, atol=0)


def test_average_with_its_largest_decay_and_without_any():
    # decay d from the first step (the warm-up gives 2/11 there): e_k = c (k - d (1 - d^k) / (1 - d)), the classic lag of a ramp
    loss = lambda m, b, g: m.w.sum()  # noqa: E731
    d, k = 0.1, 25
    kept = fit(Point(0.0), loss, ring, TrainConfig(steps=k, lr=0.01, warmup=0, grad_clip=None, ema=d)).model.w.item()
    assert kept == pytest.approx(-0.01 * (k - d * (1 - d**k) / (1 - d)), rel=1e-6)
    last = fit(Point(0.0), loss, ring, TrainConfig(steps=k, lr=0.01, warmup=0, grad_clip=None, ema=0.0)).model.w.item()
    assert last == pytest.approx(-0.01 * k, rel=1e-6)


def test_average_rises_to_its_largest_decay():
    decays = [ema_decay(k, 0.995) for k in range(1, 5000)]
    assert decays == sorted(decays)
    assert decays[0] == 2 / 11
    assert decays[-1] == 0.995


def test_clipping_bounds_the_first_moment_and_keeps_its_direction(tmp_path):
    # after one step Adam's first moment is 0.1 times the (clipped) gradient: gradient (3, 4) has norm 5
    for clip, norm in ((1.0, 1.0), (2.5, 2.5), (None, 5.0), (50.0, 5.0)):
        config = TrainConfig(steps=1, warmup=0, grad_clip=clip)
        fit(Point(0.0, 0.0), lambda m, b, g: 3 * m.w[0] + 4 * m.w[1], ring, config, checkpoint=tmp_path / "c")
        moment = load_checkpoint(tmp_path / "c")[0]["optimizer/0/exp_avg"]
        # torch divides by norm + 1e-6
        torch.testing.assert_close(moment, torch.tensor([0.06, 0.08], dtype=torch.float64) * norm, rtol=1e-5, atol=0)


def test_warmup_and_cosine_show_in_the_weights():
    # each Adam step under a constant gradient has the length of its rate: the way travelled is the sum of the rates
    def travelled(**kwargs):
        return -fit(
            Point(0.0), lambda m, b, g: m.w.sum(), ring, TrainConfig(steps=40, lr=0.01, grad_clip=None, ema=0, **kwargs)
        ).model.w.item()

    assert travelled(warmup=10) == pytest.approx(0.01 * (30 + 5.5), rel=1e-6)  # 1/10 + ... + 10/10 = 5.5
    assert travelled(warmup=0, decay="cosine") == pytest.approx(0.01 * (20 + 0.5), rel=1e-6)  # cosine sums to 1/2 over [0, pi)
    config = TrainConfig(steps=1000, decay="cosine")
    assert learning_rate(1000, config) < 1e-5 * config.lr
    assert learning_rate(100, config) > learning_rate(99, config)


def test_training_learns_the_mean():
    # the best constant under a squared loss is the data mean; the noise of the average is about lr-sized
    data = torch.tensor([[1.0, 5.0], [3.0, -1.0]], dtype=torch.float64)
    config = TrainConfig(steps=800, batch_size=64, lr=0.05, decay="cosine", grad_clip=None)
    model = fit(Point(0.0, 0.0), lambda m, b, g: (m.w - b).square().sum(1).mean(), data, config).model
    torch.testing.assert_close(model.w.detach(), torch.tensor([2.0, 2.0], dtype=torch.float64), rtol=0, atol=0.15)


def test_tuples_stay_together_and_samplers_get_the_generator():
    images = torch.arange(50.0, dtype=torch.float64)[:, None]
    seen = []

    def loss(model, batch, generator):
        x, y = batch
        seen.append(torch.equal(x[:, 0] * 2, y))
        assert x.shape == (16, 1)
        return model.w.sum() * 0.0 + (model.w * x.mean()).sum()

    fit(Point(1.0), loss, (images, images[:, 0] * 2), TrainConfig(steps=4, batch_size=16))
    assert seen == [True] * 4


def test_mode_precision_and_buffers():
    class Counted(Point):
        def __init__(self):
            super().__init__(1.0)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    modes = []

    def loss(model, batch, generator):
        modes.append(model.training)
        model.calls += 1
        return model.w.square().sum()

    result = fit(Counted(), loss, ring, TrainConfig(steps=3))
    assert modes == [True] * 3
    assert not result.model.training
    assert int(result.model.calls) == 3
    assert result.model.w.dtype == torch.float64
    assert result.losses.shape == (3,)


def test_autocast_is_on_only_on_request():
    seen = []

    def loss(model, batch, generator):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return model.w.sum()

    for wanted in (True, False):
        fit(Point(1.0), loss, ring, TrainConfig(steps=1, bfloat16=wanted))
    assert seen == [torch.bfloat16, None]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path, value):
    calls = 0

    def loss(model, batch, generator):
        nonlocal calls
        calls += 1
        return model.w.square().sum() * (value if calls == 8 else 1.0)

    path = tmp_path / "c"
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} at step 8: .*the checkpoint of step 6 is in .*c"):
        fit(Point(1.0), loss, ring, TrainConfig(steps=20), checkpoint=path, checkpoint_every=3)
    tensors, metadata = load_checkpoint(path)
    assert metadata["step"] == 6
    assert all(torch.isfinite(v).all() for v in tensors.values())
    result = fit(Point(1.0), lambda m, b, g: m.w.square().sum(), ring, TrainConfig(steps=20), checkpoint=path, resume=True)
    assert torch.isfinite(result.losses).all()


def test_a_check_inside_the_loss_that_meets_nan_is_told_like_a_loss_that_is_nan():
    """Other bad arguments stay what they are."""
    model = Point(1.0)
    with pytest.raises(
        FloatingPointError, match=r"^x contains NaN or infinity, at training step 1: lower the learning rate or look at the loss$"
    ):
        fit(model, lambda m, b, g: floating(m.w / 0, "x").sum(), ring, TrainConfig(steps=5))
    assert model.w.item() == 1.0
    with pytest.raises(ValueError, match="x must have 2 axes") as raised:
        fit(model, lambda m, b, g: floating(m.w, "x", 2).sum(), ring, TrainConfig(steps=5))
    assert not isinstance(raised.value, NotFiniteError)


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_gradient_that_is_not_finite_stops_the_run(clip):
    model = Point(0.0)
    with pytest.raises(FloatingPointError, match="the norm of the gradient is inf at step 1, where the loss is 0"):
        fit(model, lambda m, b, g: m.w.sqrt().sum(), ring, TrainConfig(steps=5, grad_clip=clip))
    assert model.w.item() == 0.0


def test_resuming_from_the_wrong_thing(tmp_path, user_errors):
    path, config = tmp_path / "c", TrainConfig(steps=4, batch_size=4)
    with pytest.raises(ValueError, match="resume=True needs the checkpoint"):
        fit(small(), denoise, ring, config, resume=True)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        fit(small(), denoise, ring, config, checkpoint=path, resume=True)
    fit(small(), denoise, ring, config, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"another configuration: lr = 0\.001 there, 0\.1 here"):
        fit(small(), denoise, ring, TrainConfig(steps=4, batch_size=4, lr=0.1), checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="another configuration: steps = 4 there, 3 here"):
        fit(small(), denoise, ring, TrainConfig(steps=3, batch_size=4), checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        fit(TimeMLP(2, hidden=9), denoise, ring, config, checkpoint=path, resume=True)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        fit(small(), denoise, ring, config, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 1, "batch_size": 2.5}, "batch_size"),
        ({"steps": 1, "warmup": -1}, "warmup"),
        ({"steps": 1, "lr": math.nan}, "lr must be a positive"),
        ({"steps": 1, "decay": "cosin"}, "decay must be one of.*did you mean 'cosine'"),
        ({"steps": 1, "ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"steps": 1, "grad_clip": 0.0}, "grad_clip must be a positive"),
        ({"steps": 1, "weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_configurations_out_of_range(user_errors, kwargs, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**kwargs)


def test_bad_data_and_losses(user_errors):
    config, point = TrainConfig(steps=1), Point(1.0)
    good = lambda m, b, g: m.w.sum()  # noqa: E731
    with pytest.raises(TypeError, match="data must be a tensor, a tuple of tensors or a callable"):
        fit(point, good, [1.0], config)
    with pytest.raises(TypeError, match=r"data must be a tensor or a tuple of tensors, got \['Tensor', 'list'\]"):
        fit(point, good, (torch.zeros(2), [1.0]), config)
    with pytest.raises(ValueError, match="the same number of samples, at least one"):
        fit(point, good, (torch.zeros(2), torch.zeros(3)), config)
    with pytest.raises(ValueError, match="the same number of samples, at least one"):
        fit(point, good, torch.zeros(0, 2), config)
    with pytest.raises(ValueError, match=r"the loss must return a 0-d tensor.*shape \(1,\)"):
        fit(point, lambda m, b, g: m.w, ring, config)
    with pytest.raises(ValueError, match=r"the loss must return a 0-d tensor.*requires_grad=False"):
        fit(point, lambda m, b, g: m.w.detach().sum(), ring, config)
    with pytest.raises(ValueError, match=r"the loss must return a 0-d tensor.*got float"):
        fit(point, lambda m, b, g: 1.0, ring, config)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(nn.Identity(), good, ring, config)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        fit(point, good, ring, config, checkpoint_every=0)


def test_the_progress_bar_is_drawn_only_when_asked_for(monkeypatch, capsys):
    for wanted in (False, True):
        monkeypatch.setattr(settings, "_progress", wanted)
        fit(Point(1.0), lambda m, b, g: m.w.square().sum(), ring, TrainConfig(steps=25), label="parabola")
        drawn = capsys.readouterr().err
        assert ("parabola" in drawn) is wanted
