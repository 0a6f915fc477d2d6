"""The networks: shapes, derivatives (forward mode against reverse mode and finite differences), batching, and refused input."""

import math

import pytest
import torch
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap

from mathcore.networks import MLP, TimeMLP, UNet, drop_labels, time_embedding

# torch.func's first forward-mode call imports a module of torch that still scripts its decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def awake(model):
    """The model in float64 with no zero weights left, so that every path carries a signal."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.5 / math.sqrt(max(1, p[0].numel())) + (1.0 if p.ndim == 1 else 0.0) * 0.3)
    return model.double()


def cases():
    g = torch.Generator().manual_seed(2)
    f64 = {"generator": g, "dtype": torch.float64}
    return {
        "time-mlp": (lambda: TimeMLP(3, hidden=16, depth=2, d_embed=8, max_frequency=10.0), torch.randn(4, 3, **f64)),
        "unet": (lambda: UNet(2, 8, width=8, mults=(1, 2), d_embed=8, max_frequency=10.0), torch.randn(3, 2, 8, 8, **f64)),
        "unet-3": (
            lambda: UNet(1, 4, width=6, mults=(1, 1, 2), d_embed=8, attention=False, max_frequency=10.0),
            torch.randn(3, 1, 4, 4, **f64),
        ),
    }


@pytest.fixture(params=list(cases()))
def case(request):
    build, x = cases()[request.param]
    return awake(build()), x, torch.linspace(0.1, 0.9, len(x), dtype=torch.float64)


def test_shape_and_dtype_follow_the_input(case):
    model, x, t = case
    assert model(x, t).shape == x.shape
    assert model(x, t).dtype == torch.float64
    assert model.float()(x.float(), t).dtype == torch.float32


def test_a_number_a_zero_dim_tensor_and_one_time_each_agree(case):
    model, x, _ = case
    want = model(x, torch.full((len(x),), 0.5, dtype=torch.float64))
    # the same arithmetic in all three, so equality is exact
    assert torch.equal(model(x, 0.5), want)
    assert torch.equal(model(x, torch.tensor(0.5)), want)
    assert torch.equal(model(x, torch.tensor([0.5] * len(x), dtype=torch.float32)), want)


def test_integer_indices_are_taken_as_they_are(case):
    model, x, _ = case
    model.time.t_max = 1000.0
    i = torch.arange(1, len(x) + 1) * 100
    assert torch.equal(model(x, i), model(x, i.double()))
    assert torch.equal(model(x, 100), model(x, torch.tensor(100)))


def test_the_time_matters_and_samples_do_not_mix(case):
    model, x, t = case
    out = model(x, t)
    assert (model(x, t + 0.05) - out).abs().max() > 1e-4
    moved = model(torch.cat([x[:1] + 1, x[1:]]), t)
    # other samples are untouched up to the rounding of differently blocked matrix products (float64 eps times a few hundred terms)
    torch.testing.assert_close(moved[1:], out[1:], rtol=1e-12, atol=1e-12)
    assert (moved[0] - out[0]).abs().max() > 1e-4


def test_forward_mode_against_central_differences(case):
    model, x, t = case
    g = torch.Generator().manual_seed(3)
    dx, dt = torch.randn(x.shape, generator=g, dtype=x.dtype), torch.randn(t.shape, generator=g, dtype=t.dtype)
    value, tangent = jvp(lambda x, t: model(x, t), (x, t), (dx, dt))
    torch.testing.assert_close(value, model(x, t), rtol=1e-12, atol=1e-12)
    h = 1e-5
    slope = (model(x + h * dx, t + h * dt) - model(x - h * dx, t - h * dt)) / (2 * h)
    # error: h^2 f''' / 6 ~ 1e-10 * 1e3 (frequencies up to 10) plus rounding eps / h ~ 1e-11, relative to the largest slope
    assert (tangent - slope).abs().max() < 1e-6 * slope.abs().max()


def test_forward_mode_against_reverse_mode_per_sample(case):
    model, x, t = case

    def one(x, t):
        return model(x[None], t)[0].flatten()

    forward = vmap(jacfwd(one, argnums=(0, 1)))(x, t)
    backward = vmap(jacrev(one, argnums=(0, 1)))(x, t)
    for a, b in zip(forward, backward):
        # both are exact up to rounding; relative to the largest entry
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * float(b.detach().abs().max()) + 1e-14)


def test_vmap_over_one_sample_equals_the_batch(case):
    model, x, t = case
    torch.testing.assert_close(vmap(lambda x, t: model(x[None], t)[0])(x, t), model(x, t), rtol=1e-10, atol=1e-12)


def test_gradients_of_a_forward_derivative_reach_every_weight(case):
    # what consistency and mean-flow training do: differentiate a loss that contains a jvp
    model, x, t = case
    weights = {k: v.detach().requires_grad_() for k, v in model.named_parameters()}
    _, tangent = jvp(lambda x, t: functional_call(model, weights, (x, t)), (x, t), (torch.ones_like(x), torch.ones_like(t)))
    grads = torch.autograd.grad(tangent.square().sum(), list(weights.values()), allow_unused=True)
    for name, grad in zip(weights, grads):
        # additive constants of the output drop out of a derivative; nothing else does
        if name not in ("out.bias", "head.bias"):
            assert grad is not None, name
            assert torch.isfinite(grad).all(), name
    assert sum(g is not None and bool(g.abs().max() > 0) for g in grads) >= len(grads) - 2


def test_unet_starts_at_zero_and_mlp_does_not():
    torch.manual_seed(0)
    assert UNet()(torch.randn(2, 1, 8, 8), 0.5).abs().max() == 0
    assert TimeMLP(2)(torch.randn(2, 2), 0.5).abs().max() > 0


def test_bfloat16_autocast_trains_float32_weights():
    torch.manual_seed(0)
    model = UNet(width=8, d_embed=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (model(torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.9])).float() - 1).square().mean()
    loss.backward()
    assert model.head.weight.grad.dtype == torch.float32
    assert model.head.weight.grad.abs().max() > 0


def test_mlp_shapes_and_derivatives():
    model = awake(MLP(3, 2, hidden=8, depth=2))
    assert [tuple(layer.weight.shape) for layer in model.layers[::2]] == [(8, 3), (8, 8), (2, 8)]
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forward = vmap(jacfwd(lambda x: model(x[None])[0]))(x)
    backward = torch.stack([torch.autograd.functional.jacobian(lambda x: model(x[None])[0], row) for row in x])
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-13)


def test_time_embedding_is_unit_circles_of_the_stated_frequencies():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    e = time_embedding(t, 8, max_frequency=20.0)
    torch.testing.assert_close(e[:, :4] ** 2 + e[:, 4:] ** 2, torch.ones(2001, 4, dtype=torch.float64), rtol=1e-14, atol=0)
    # the rate of turning, measured: geometric from 0.1 to 20, ratio 200^(1/3)
    turned = torch.atan2(e[1, 4:], e[1, :4]) / t[1]
    want = torch.tensor([0.1, 0.1 * 200 ** (1 / 3), 0.1 * 200 ** (2 / 3), 20.0], dtype=torch.float64)
    torch.testing.assert_close(turned, want, rtol=1e-10, atol=0)


def test_low_precision_input_keeps_large_indices_apart():
    # bfloat16 rounds 999 to 1000: the index must not go through it
    torch.manual_seed(0)
    model = TimeMLP(2, t_max=1000).bfloat16()
    x = torch.zeros(2, 2, dtype=torch.bfloat16)
    assert not torch.equal(model(x, 999), model(x, 1000))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(0, 1), "d_in must be an integer of at least 1, got 0"),
        (lambda: MLP(1, 1, depth=0), "depth"),
        (lambda: TimeMLP(2, hidden=-1), "hidden"),
        (lambda: TimeMLP(2, d_embed=7), "dim must be even"),
        (lambda: TimeMLP(2, t_max=0.0), "t_max"),
        (lambda: TimeMLP(2, max_frequency=float("nan")), "max_frequency"),
        (lambda: UNet(size=7), "size must be divisible by 2"),
        (lambda: UNet(mults=()), "mults must name"),
        (lambda: UNet(mults=(1, 0)), "mults"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(user_errors, build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_input_is_refused_by_name(user_errors):
    points, images = TimeMLP(2), UNet()
    for model, good in ((points, torch.zeros(3, 2)), (images, torch.zeros(3, 1, 8, 8))):
        with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
            model([1.0], 0.5)
        with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got dtype torch\.int64"):
            model(good.long(), 0.5)
        with pytest.raises(TypeError, match=r"x has dtype torch\.float64 and the weights have torch\.float32"):
            model(good.double(), 0.5)
        with pytest.raises(ValueError, match="x must have shape"):
            model(good[:, :, None], 0.5)
        with pytest.raises(ValueError, match=r"t must be a number, 0-d, or of shape \(3,\).*\(2,\)"):
            model(good, torch.zeros(2))
        with pytest.raises(TypeError, match="t must be a number or a tensor, got str"):
            model(good, "0.5")
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3\), got \(5, 2\)"):
        MLP(3, 1)(torch.zeros(5, 2))


# --- class labels ---------------------------------------------------------------------------------------------------------------------------


def conditional():
    torch.manual_seed(0)
    return {"mlp": (TimeMLP(2, hidden=16, classes=3), (2,)), "unet": (UNet(size=4, width=16, mults=(1,), classes=3), (1, 4, 4))}


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_labels_are_learned_and_the_empty_label_is_the_default(kind, generator):
    model, shape = conditional()[kind]
    x = torch.randn(6, *shape, generator=generator)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    target = label[(...,) + (None,) * len(shape)].expand(x.shape) / 3.0
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model(x, 0.5, label) - target).square().mean()
        loss.backward()
        optimiser.step()
    same = x[:1].expand(x.shape).contiguous()
    out = model(same, 0.5, label).detach()
    assert float((out[0] - out[2]).abs().max()) > 1e-2  # one point, two labels
    torch.testing.assert_close(out[0], out[4])
    torch.testing.assert_close(model(same, 0.5)[0].detach(), out[3])  # label 3 = none


def test_labels_that_do_not_fit_are_refused(user_errors):
    model, _ = conditional()["mlp"]
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="lie in 0"):
        model(x, 0.5, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        model(x, 0.5, torch.tensor([0]))
    with pytest.raises(TypeError, match="integers"):
        model(x, 0.5, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="without classes"):
        TimeMLP(2)(x, 0.5, torch.tensor([0, 1]))


def test_labels_are_dropped_with_the_stated_probability(generator):
    label = torch.arange(10).repeat(2000)
    dropped = drop_labels(label, 0.1, 10, generator)
    share = (dropped == 10).double()
    assert abs(float(share.mean()) - 0.1) < 5 * math.sqrt(0.09 / len(label))  # five standard errors of a proportion
    assert bool((dropped[dropped != 10] == label[dropped != 10]).all())
    assert torch.equal(drop_labels(label, 0.0, 10), label)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        drop_labels(label, 1.2, 10)
