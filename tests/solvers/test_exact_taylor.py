"""Total derivatives against a closed form and finite differences; the Taylor scheme against exact flows."""

import math

import pytest
import torch
from problems import F64, SCHEDULES, Problem

from mathcore.distributions import GaussianMixture
from mathcore.networks import TimeMLP
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule, DiscreteSchedule
from mathcore.solvers import ddim, diagnostics, dpm_solver
from mathcore.solvers.diagnostics import convergence_order
from mathcore.solvers.exact_taylor import second_order_error, taylor_solver, total_derivatives

VP = AffineSchedule.vp()
everywhere = pytest.mark.parametrize("name", ["vp", "edm", "linear"])


@everywhere
def test_closed_form_for_a_gaussian(name):
    # on N(0, s^2) the flow is x = sqrt(v / v_s) x_s and eps = sigma x / v, so eps = k sigma / sqrt(v) with k constant on the path, where
    # sigma^2 / v = 1 / (1 + s^2 e^{2 lambda}): eps^{(j)} is k times the j-th derivative of (1 + s^2 e^{2 lambda})^{-1/2}
    schedule, s = SCHEDULES[name], 0.6
    data = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.full((1,), s * s, dtype=F64))
    t = float(schedule.inverse_half_log_snr(0.3))
    x = torch.tensor([[0.7], [-1.2]], dtype=F64)
    got = total_derivatives(AffineGaussianOracle(data, schedule).noise, schedule, x, t, 3)
    w = s * s * math.exp(0.6)  # with w' = 2 w
    f = (1 + w) ** -0.5
    ladder = [f, -w * (1 + w) ** -1.5, -2 * w * (1 + w) ** -1.5 + 3 * w**2 * (1 + w) ** -2.5]
    ladder.append(-4 * w * (1 + w) ** -1.5 + 18 * w**2 * (1 + w) ** -2.5 - 15 * w**3 * (1 + w) ** -3.5)
    eps = AffineGaussianOracle(data, schedule).noise(x, t)
    for value, factor in zip(got, ladder, strict=True):
        torch.testing.assert_close(value, eps / f * factor, rtol=1e-12, atol=1e-13)


def test_finite_differences_along_the_exact_flow_of_a_mixture():
    p = Problem("vp")
    x, t, d = torch.tensor([[-1.0], [0.3], [0.9]], dtype=F64), 0.45, 1e-3
    lam = VP.half_log_snr(t)

    def eps(shift):
        time = VP.inverse_half_log_snr(lam + shift)
        return p.oracle.noise(p.oracle.flow_map(x, t, time), time)

    got = total_derivatives(p.oracle.noise, VP, x, t, 2)
    # central differences: truncation d^2/6 and d^2/12 times derivatives of size 1, rounding 1e-16/d and 1e-15/d^2
    torch.testing.assert_close(got[1], (eps(d) - eps(-d)) / (2 * d), rtol=0, atol=2e-6)
    torch.testing.assert_close(got[2], (eps(d) + eps(-d) - 2 * eps(0.0)) / d**2, rtol=0, atol=2e-6)


def test_one_time_per_state_and_images():
    p = Problem("vp")
    x, t = torch.tensor([[-1.0], [0.3]], dtype=F64), torch.tensor([0.3, 0.6], dtype=F64)
    both = total_derivatives(p.oracle.noise, VP, x, t, 1)
    for i in range(2):
        torch.testing.assert_close(
            both[:, i : i + 1], total_derivatives(p.oracle.noise, VP, x[i : i + 1], float(t[i]), 1), rtol=1e-12, atol=0
        )
    image = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert total_derivatives(lambda x, t: 0.5 * x, VP, image, t, 2).shape == (3, 2, 1, 3, 3)


def test_a_network_can_be_differentiated():
    torch.manual_seed(0)
    net = TimeMLP(2, hidden=8, depth=1).double()
    x = torch.randn(3, 2, dtype=F64)
    got = total_derivatives(net, VP, x, 0.5, 1)
    d = 1e-6
    lam, times = VP.half_log_snr(0.5), []
    for shift in (d, -d):
        times.append(VP.inverse_half_log_snr(lam + shift))
    f, g2, sigma = float(VP.f(0.5)), float(VP.g2(0.5)), float(VP.sigma(0.5))
    v = f * x + g2 / (2 * sigma) * net(x, 0.5)
    ahead, behind = (net(x + (float(time) - 0.5) * v, float(time)) for time in times)
    # the path is straight to O(d^2), which the central difference cancels, and the time embedding has frequencies up to 1000; rounding 1e-16 / 1e-6
    torch.testing.assert_close(got[1], (ahead - behind) / (2 * d), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_one_step(order):
    p = Problem("vp")
    lam, steps = float(VP.half_log_snr(0.5)), (0.2, 0.1, 0.05)
    errors = []
    for h in steps:
        times = torch.tensor([0.5, float(VP.inverse_half_log_snr(lam + h))], dtype=F64)
        end = taylor_solver(p.oracle.noise, VP, times, p.x_T, order)
        errors.append(float((end - p.oracle.flow_map(p.x_T, 0.5, float(times[1]))).abs().max()))
    assert convergence_order([round(1 / h) for h in steps], errors) == pytest.approx(order + 1, abs=0.15), errors


def test_order_one_is_ddim():
    p = Problem("linear")
    times = p.grid(7)
    torch.testing.assert_close(
        taylor_solver(p.oracle.noise, p.schedule, times, p.x_T, 1),
        ddim(p.schedule, times).run(p.oracle.noise, p.x_T),
        rtol=1e-12,
        atol=1e-13,
    )


@pytest.mark.parametrize("kind", ["midpoint", "taylor"])
@pytest.mark.parametrize("gamma", [0.2, 0.5, 1.0])
def test_the_leading_error_of_second_order_is_the_measured_one(kind, gamma):
    p, n = Problem("linear"), 200
    a, b = second_order_error(p, kind)
    h = 3.5 / n
    end = dpm_solver(p.schedule, p.grid(n), order=2, kind=kind, r1=gamma).run(p.model(), p.x_T)
    # the next power of h, with coefficients of the same size, is a few per cent of the largest
    predicted = h**2 * (a + gamma * b)
    torch.testing.assert_close(end - p.exact, predicted, rtol=0.05, atol=0.02 * float(predicted.abs().max()))


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    p, x = Problem("vp"), torch.ones(2, 1, dtype=F64)
    model = p.oracle.noise
    with pytest.raises(TypeError, match="AffineSchedule"):
        total_derivatives(model, DiscreteSchedule.linear(50), x, 3, 1)
    with pytest.raises(TypeError, match="x must be a floating"):
        total_derivatives(model, VP, x.long(), 0.5, 1)
    with pytest.raises(ValueError, match="x contains NaN"):
        total_derivatives(model, VP, x * math.nan, 0.5, 1)
    with pytest.raises(ValueError, match="order"):
        total_derivatives(model, VP, x, 0.5, -1)
    with pytest.raises(ValueError, match="half_log_snr"):
        total_derivatives(model, VP, x, 0.0, 1)
    with pytest.raises(ValueError, match="domain"):
        total_derivatives(model, VP, x, 1.5, 1)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        total_derivatives(model, VP, x, torch.ones(3, dtype=F64), 1)
    with pytest.raises(ValueError, match="order"):
        taylor_solver(model, VP, p.grid(3), x, 0)
    with pytest.raises(ValueError, match="decrease"):
        taylor_solver(model, VP, p.grid(3).flip(0), x, 2)
    with pytest.raises(ValueError, match="stopped being finite"):
        taylor_solver(lambda x, t: x * 1e300, VP, p.grid(3), x, 1)
    with pytest.raises(ValueError, match="on the line"):
        plane = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), torch.ones(1, dtype=F64))
        second_order_error(diagnostics.Problem(plane, VP, x=torch.zeros(1, 2, dtype=F64)))
    with pytest.raises(ValueError, match="kind"):
        second_order_error(p, "middle")
    with pytest.raises(ValueError, match="n must be"):
        second_order_error(p, steps=0)
