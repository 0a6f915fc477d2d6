"""The adaptive integrator: accuracy, gradients by the adjoint, and a proof by recording that the field is never asked outside the grid."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.data import examples
from mathcore.dynamics.adaptive import METHODS, odeint_adaptive
from mathcore.dynamics.integrate import SolverDivergedError
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.solvers.diagnostics import Exact1D

ONE = torch.ones(1, 1, dtype=torch.float64)


class Recorder:
    """A field that remembers when it was asked, and is NaN outside [low, high]."""

    def __init__(self, low, high, fn):
        self.low, self.high, self.fn, self.times = low, high, fn, []

    def __call__(self, x, t):
        self.times.append(t)
        return self.fn(x, t) if self.low <= t <= self.high else x * float("nan")

    @property
    def inside(self):
        return min(self.times) >= self.low and max(self.times) <= self.high


def test_torchdiffeq_alone_leaves_the_interval():
    """What the wrapper is for: both ways in which the library asks beyond the last time."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    times = []
    torchdiffeq.odeint(lambda t, x: times.append(float(t)) or -x, ONE, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert max(times) > 1.0
    times.clear()
    slow = lambda t, x: times.append(float(t)) or 1e-4 * x  # noqa: E731
    torchdiffeq.odeint(slow, ONE, torch.tensor([0.0, 1e-3], dtype=torch.float64))
    assert times[1] > 1e-3  # already the trial step that chooses the first step size


FIELDS = {
    "decay": lambda x, t: -x,
    "nearly still": lambda x, t: 1e-8 * x,
    "still": lambda x, t: 0 * x,
    "stiff": lambda x, t: -20 * (x - math.cos(t)),
    "steep start": lambda x, t: x / (1e-3 + abs(t)) ** 0.5,
}


@settings(max_examples=20, deadline=None)
@given(
    st.floats(-2, 2).map(lambda a: round(a, 3)),
    st.floats(1e-5, 2),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_field_is_never_asked_outside_the_grid(start, span, nodes, backward, adjoint, name, dtype):
    ts = torch.linspace(start, start + span, nodes, dtype=torch.float64)
    ts = ts.flip(0) if backward else ts
    field = Recorder(float(ts.min()), float(ts.max()), FIELDS[name])
    x = torch.ones(2, 1, dtype=dtype, requires_grad=adjoint)
    end = odeint_adaptive(field, x, ts, rtol=1e-4, atol=1e-4, adjoint=adjoint)
    assert bool(torch.isfinite(end).all())
    if adjoint:
        calls = len(field.times)
        (grad,) = torch.autograd.grad(end.sum(), x)
        assert len(field.times) > calls
        assert bool(torch.isfinite(grad).all())
    assert field.inside


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_accuracy_follows_the_tolerance(method, ends):
    field = Recorder(0.0, 2.0, lambda x, t: x * math.cos(t))
    ts = torch.linspace(*ends, 5, dtype=torch.float64)
    start = ONE * math.exp(math.sin(ends[0]))
    rtol = 1e-5 if method in ("adaptive_heun", "bosh3") else 1e-8
    path = odeint_adaptive(field, start, ts, rtol=rtol, atol=0.01 * rtol, method=method, return_path=True)
    assert path.shape == (1, 5, 1)
    # the errors of accepted steps, each at most rtol, add up over some tens of steps
    assert (path[0, :, 0] - torch.exp(torch.sin(ts))).abs().max() < 50 * rtol
    assert field.inside


def test_probability_flow_of_vp_from_data_to_noise_and_back():
    """The schedule refuses t < 0 and t > 1; the exact flow goes by cumulative distributions."""
    data, schedule = examples.two_modes(), AffineSchedule.vp()
    oracle = AffineGaussianOracle(data, schedule)
    x, whole = torch.linspace(-1.5, 2.0, 6, dtype=torch.float64)[:, None], torch.tensor([0.0, 1.0], dtype=torch.float64)
    code = odeint_adaptive(oracle.velocity, x, whole, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(code, oracle.flow_map(x, 0.0, 1.0), rtol=0, atol=1e-6)
    velocity = Exact1D(data, schedule, "velocity")
    back = odeint_adaptive(velocity, code, torch.tensor([1.0, 1e-4], dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back, oracle.flow_map(code, 1.0, 1e-4), rtol=0, atol=1e-6)


def test_one_bad_sample_does_not_hide_in_a_large_batch():
    """The tolerance holds for every sample: 999 that stand still do not loosen it for the one that moves."""
    x = torch.zeros(1000, 1, dtype=torch.float64)
    x[0] = 1.0
    end = odeint_adaptive(lambda y, t: 20 * y * math.cos(20 * t), x, torch.tensor([0.0, 3.0], dtype=torch.float64), rtol=1e-7, atol=1e-9)
    assert abs(float(end[0]) / math.exp(math.sin(60.0)) - 1) < 1e-5


@pytest.mark.parametrize("ends", [(0.0, 1.5), (1.5, 0.0)])
@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_against_closed_forms(ends, adjoint):
    """x' = a x cos t: x(t) = x_0 e^{a (sin t - sin s)}."""
    a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = (2 * ONE).requires_grad_()
    ts = torch.tensor([ends[0], 0.6, ends[1]], dtype=torch.float64)
    path = odeint_adaptive(lambda y, t: a * y * math.cos(t), x, ts, 1e-9, 1e-9, adjoint=adjoint, parameters=[a], return_path=True)
    da, dx = torch.autograd.grad(path[0, 1:].sum(), (a, x))
    change = torch.sin(ts[1:]) - math.sin(ends[0])
    grown = torch.exp(0.7 * change)
    assert abs(float(da - (2 * change * grown).sum())) < 1e-6
    assert abs(float(dx - grown.sum())) < 1e-6


def test_the_adjoint_finds_the_parameters_of_a_module():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

        def forward(self, x, t):
            return self.rate * x

    v = Linear()
    odeint_adaptive(v, ONE, torch.tensor([0.0, 2.0], dtype=torch.float64), 1e-8, 1e-8, adjoint=True).sum().backward()
    assert abs(float(v.rate.grad) - 2 * math.exp(-1.0)) < 1e-6


TS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: odeint_adaptive(torch.sin, ONE, TS, method="rk45"), ValueError, "method must be one of"),
        (lambda: odeint_adaptive(torch.sin, ONE, TS, rtol=0.0), ValueError, "rtol"),
        (lambda: odeint_adaptive(torch.sin, ONE, TS, atol=-1.0), ValueError, "atol"),
        (lambda: odeint_adaptive(torch.sin, ONE, torch.zeros(2)), ValueError, "ts must hold"),
        (lambda: odeint_adaptive(torch.sin, [1.0], TS), TypeError, "x0"),
        (lambda: odeint_adaptive(torch.sin, ONE / 0, TS), ValueError, "x0 contains"),
        (lambda: odeint_adaptive(torch.sin, torch.tensor(1.0), TS), ValueError, "0-d"),
        (lambda: odeint_adaptive(lambda x, t: x[0], ONE, TS), ValueError, "shape of its input"),
        (lambda: odeint_adaptive(lambda x, t: t, ONE, TS), TypeError, "floating-point tensor"),
        (lambda: odeint_adaptive(lambda x, t: x**2, 2 * ONE, TS), SolverDivergedError, "dopri5"),  # infinite at t = 1/2
        (lambda: odeint_adaptive(lambda x, t: x / 0, ONE, TS), SolverDivergedError, "dopri5"),
    ],
)
def test_refusals(user_errors, call, error, match):
    with pytest.raises(error, match=match):
        call()
