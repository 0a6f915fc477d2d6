"""Coefficients of paths against their definitions, central differences and the schedules they come from."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.interpolation import Interpolation, interpolate
from mathcore.schedules import AffineSchedule

f64 = torch.float64


def root(t):
    return (1 - t).sqrt() * 1.5


def cube(t):
    return t**3


SCHEDULES = [AffineSchedule.vp(), AffineSchedule.ve(), AffineSchedule.edm(10.0), AffineSchedule.linear(), AffineSchedule.trig()]
PATHS = [Interpolation.linear(), Interpolation.trig(), Interpolation.custom(root, cube), *map(Interpolation.from_schedule, SCHEDULES)]
INNER = torch.linspace(0.05, 0.95, 19, dtype=f64)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_derivatives_against_central_differences(path):
    h = 1e-5
    for value, slope in ((path.a, path.da), (path.b, path.db)):
        got = (value(INNER + h) - value(INNER - h)) / (2 * h)
        # error h^2 f'''/6 + eps f / h; ve rises to 50 with f''' about 2e3 f
        torch.testing.assert_close(slope(INNER), got, rtol=1e-6, atol=1e-8)


def test_values_by_hand():
    assert Interpolation.linear().ends == (1.0, 0.0, 0.0, 1.0)
    assert Interpolation.trig().ends == (1.0, 0.0, 0.0, 1.0)
    assert float(Interpolation.linear().b(0.3)) == 0.3
    assert float(Interpolation.trig().a(0.5)) == pytest.approx(math.sqrt(0.5), rel=1e-15)
    assert float(Interpolation.trig().da(1.0)) == -math.pi / 2
    assert Interpolation.linear().convention == "data1"


def test_schedules_are_read_backwards_from_noise_to_data():
    """Table 5.2 with the clock reversed: vp ends at (0, 1) and starts at (sigma_T, alpha_T), ve at (a_max, 1)."""
    alpha_end = math.exp(-10.05 / 2)  # integral of 0.1 + 19.9 t over [0, 1] is 10.05
    vp = Interpolation.from_schedule(AffineSchedule.vp())
    assert vp.ends == pytest.approx((math.sqrt(1 - alpha_end**2), alpha_end, 0.0, 1.0), rel=1e-13)
    assert Interpolation.from_schedule(AffineSchedule.ve()).ends == pytest.approx((math.sqrt(50**2 - 0.01**2), 1, 0, 1), rel=1e-13)
    trig = Interpolation.from_schedule(AffineSchedule.trig())
    torch.testing.assert_close(trig.a(INNER), Interpolation.trig().a(INNER), rtol=1e-14, atol=0)
    torch.testing.assert_close(trig.db(INNER), Interpolation.trig().db(INNER), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_dtype_and_shape_follow_the_time(dtype):
    for path in PATHS:
        assert path.a(torch.tensor(0.5, dtype=dtype)).dtype == dtype
        assert path.b(torch.linspace(0, 1, 4, dtype=dtype)).shape == (4,)
        assert path.a(0.5).dtype == f64
        torch.testing.assert_close(path.db(torch.tensor(0.5, dtype=dtype).expand(3))[2], path.db(0.5).to(dtype))


@given(t=st.floats(0, 1), s=st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_interpolate_is_the_line_between_two_points(t, s):
    x0, x1 = torch.tensor([[s, 1.0]], dtype=f64), torch.tensor([[2.0, -s]], dtype=f64)
    x_t, rate = interpolate(x0, x1, t, Interpolation.linear())
    torch.testing.assert_close(x_t, torch.lerp(x0, x1, t), rtol=1e-14, atol=1e-14)
    assert torch.equal(rate, x1 - x0)


def test_interpolate_images_with_a_time_per_row(generator):
    x0, x1 = (torch.randn(3, 1, 2, 2, generator=generator, dtype=f64) for _ in range(2))
    t = torch.tensor([0.1, 0.5, 0.8], dtype=f64)
    x_t, rate = interpolate(x0, x1, t, Interpolation.trig())
    for i in range(3):
        angle = math.pi / 2 * float(t[i])
        torch.testing.assert_close(x_t[i], math.cos(angle) * x0[i] + math.sin(angle) * x1[i])
        torch.testing.assert_close(rate[i], math.pi / 2 * (math.cos(angle) * x1[i] - math.sin(angle) * x0[i]))


def test_derivatives_flow_through_time_and_pickles_come_back():
    for path in PATHS:
        t = torch.tensor(0.4, dtype=f64, requires_grad=True)
        (slope,) = torch.autograd.grad(path.b(t) + 0 * t, t)  # b is constant for ve and edm
        torch.testing.assert_close(slope, path.db(0.4), rtol=1e-12, atol=1e-14)
        again = pickle.loads(pickle.dumps(path))
        assert repr(again) == repr(path)
        assert torch.equal(again.a(INNER), path.a(INNER))


@pytest.mark.parametrize(
    ("t", "error", "match"),
    [
        (1.1, ValueError, r"outside \[0, 1\]"),
        (-1e-9, ValueError, "domain of the linear"),
        (float("nan"), ValueError, "t must be finite"),
        ("0.5", TypeError, "t must be a number"),
        (torch.tensor([1]), TypeError, "floating-point"),
        (torch.zeros(2, 2), ValueError, "shape"),
    ],
)
def test_bad_times(t, error, match, user_errors):
    path = Interpolation.linear()
    for method in (path.a, path.b, path.da, path.db, path.as_time):
        with pytest.raises(error, match=match):
            method(t)


def test_refusals(user_errors):
    x, linear = torch.zeros(2, 1), Interpolation.linear()
    with pytest.raises(ValueError, match=r"dsigma of the vp schedule is infinite .* at t = 0 on its own clock"):
        Interpolation.from_schedule(AffineSchedule.vp()).da(1.0)
    with pytest.raises(TypeError, match="schedule must be an AffineSchedule"):
        Interpolation.from_schedule("vp")
    with pytest.raises(TypeError, match="a must map a tensor"):
        Interpolation.custom(lambda t: 1.0, cube)
    with pytest.raises(ValueError, match="b must act elementwise"):
        Interpolation.custom(cube, lambda t: t[:1])
    with pytest.raises(ValueError, match="b must be finite"):
        Interpolation.custom(cube, lambda t: 1 / t)
    with pytest.raises(TypeError, match="path must be"):
        interpolate(x, x, 0.5, "linear")
    with pytest.raises(TypeError, match="x1 must be a floating"):
        interpolate(x, torch.zeros(2, 1, dtype=torch.int64), 0.5, linear)
    with pytest.raises(TypeError, match="share a dtype"):
        interpolate(x, x.double(), 0.5, linear)
    with pytest.raises(ValueError, match="share a shape"):
        interpolate(x, torch.zeros(3, 1), 0.5, linear)
    with pytest.raises(ValueError, match="x0 contains NaN"):
        interpolate(x / 0, x, 0.5, linear)
    with pytest.raises(ValueError, match="t must be a number"):
        interpolate(x, x, torch.zeros(3), linear)
