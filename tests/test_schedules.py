"""Continuous schedules against mpmath, automatic differentiation, quadrature and ODE integration."""

import math
import pickle

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq

from mathcore.schedules import AffineSchedule

EPS = torch.finfo(torch.float64).eps
DIGITS = 480  # 1 - alpha^2 at t = 1e-200 (where cosine(s=0) has 1 - alpha^2 of 1e-400) keeps 80 digits
mp = mpmath.mp.clone()
mp.dps = DIGITS


def integral_of_beta(t):  # Simpson, exact for a linear beta
    def beta(u):
        return mp.mpf(0.1) * (1 - u) + mp.mpf(20) * u  # the double .1, as the library has it

    return t * (beta(0) + 4 * beta(t / 2) + beta(t)) / 6


def nichol_dhariwal(t, s):  # their f(t) / f(0) is alpha^2
    return (mp.cos((t + s) / (1 + s) * mp.pi / 2) / mp.cos(s / (1 + s) * mp.pi / 2)) ** 2


def ve_level(t):
    return mp.mpf(0.01) * (mp.mpf(50) / mp.mpf(0.01)) ** t


# schedule and its (alpha, sigma) as defined in the literature, in hundreds of digits so that the naive forms lose nothing
CASES = {
    "vp": (AffineSchedule.vp(), lambda t: (mp.exp(-integral_of_beta(t) / 2), mp.sqrt(1 - mp.exp(-integral_of_beta(t))))),
    "sub_vp": (AffineSchedule.sub_vp(), lambda t: (mp.exp(-integral_of_beta(t) / 2), 1 - mp.exp(-integral_of_beta(t)))),
    "ve": (AffineSchedule.ve(), lambda t: (mp.mpf(1), mp.sqrt(ve_level(t) ** 2 - ve_level(0) ** 2))),
    "edm": (AffineSchedule.edm(), lambda t: (mp.mpf(1), t)),
    "linear": (AffineSchedule.linear(), lambda t: (1 - t, t)),
    "trig": (AffineSchedule.trig(), lambda t: (mp.cos(t), mp.sin(t))),
    "cosine": (AffineSchedule.cosine(), lambda t: tuple(mp.sqrt(v) for v in (lambda a: (a, 1 - a))(nichol_dhariwal(t, mp.mpf(0.008))))),
    "cosine0": (AffineSchedule.cosine(0.0), lambda t: (mp.cos(mp.pi * t / 2), mp.sin(mp.pi * t / 2))),
    "custom": (
        AffineSchedule.from_alpha_sigma(lambda t: (1 - t) ** 2, lambda t: t**1.5 + t**3, t_max=0.9),
        lambda t: ((1 - t) ** 2, t ** mp.mpf("1.5") + t**3),
    ),
}
NAMES = list(CASES)
FUNCTIONS = ("alpha", "sigma", "dalpha", "dsigma", "f", "g2", "half_log_snr")
# times as fractions of t_max: both ends of the open domain, and its middle
FRACTIONS = (1e-200, 1e-100, 1e-30, 1e-12, 1e-5, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999)


def times(schedule, fractions=FRACTIONS):
    return torch.tensor(fractions, dtype=torch.float64) * schedule.t_max


def half_log_snr_mp(name, t):
    a, s = CASES[name][1](t)
    return mp.log(a) - mp.log(s)


@pytest.mark.parametrize("name", NAMES)
def test_alpha_sigma_and_half_log_snr_match_high_precision(name):
    schedule, reference = CASES[name]
    t = times(schedule)
    a, s, lam = schedule.alpha(t), schedule.sigma(t), schedule.half_log_snr(t)
    for k, tk in enumerate(t.tolist()):
        want_a, want_s = reference(mp.mpf(tk))
        # relative error: a few roundings, times |t alpha'/alpha|, at most 1e4 at t = 0.9999 t_max of schedules with alpha(t_max) = 0,
        # where 1 - t or pi/2 - t carries the rounding of pi/2 itself (6e-17)
        condition = 1 + float(1 / want_a)
        assert abs(mp.mpf(a[k].item()) / want_a - 1) < 16 * EPS * condition
        assert abs(mp.mpf(s[k].item()) / want_s - 1) < 16 * EPS
        want = mp.log(want_a / want_s)
        assert abs(mp.mpf(lam[k].item()) - want) < 16 * EPS * (condition + abs(want))


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_match_automatic_differentiation(name):
    schedule, _ = CASES[name]
    t = times(schedule, (1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99))

    def slope(fn):
        return torch.func.vjp(fn, t)[1](torch.ones_like(t))[0]

    # analytic derivatives on both sides: rounding only; 1e-12 covers condition numbers up to a few thousand (alpha -> 0 at t_max)
    torch.testing.assert_close(schedule.dalpha(t), slope(schedule.alpha), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(schedule.dsigma(t), slope(schedule.sigma), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(schedule.f(t), slope(lambda u: schedule.alpha(u).log()), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(schedule.g2(t), -2 * schedule.sigma(t) ** 2 * slope(schedule.half_log_snr), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_alpha_is_the_exponential_of_the_integrated_drift(name):
    schedule, _ = CASES[name]
    start, end = 0.01 * schedule.t_max, 0.95 * schedule.t_max
    integral, error = quad(lambda u: schedule.f(u).item(), start, end, epsabs=1e-12, epsrel=1e-12)
    got = (schedule.alpha(end) / schedule.alpha(start)).log().item()
    assert abs(got - integral) < 1e-11 + 10 * error


@pytest.mark.parametrize("name", NAMES)
def test_sigma_squared_solves_the_variance_equation(name):
    schedule, _ = CASES[name]
    end = 0.95 * schedule.t_max
    flow = solve_ivp(
        lambda t, p: 2 * schedule.f(t).item() * p + schedule.g2(t).item(), (1e-4 * schedule.t_max, end), [schedule.sigma(1e-4 * schedule.t_max).item() ** 2],
        method="DOP853", rtol=1e-11, atol=1e-14,
    )  # fmt: skip
    # local tolerance 1e-11 accumulates over at most a few hundred steps
    assert flow.y[0, -1] == pytest.approx(schedule.sigma(end).item() ** 2, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_half_log_snr_is_right_to_1e_10_over_the_whole_domain(name):
    schedule, _ = CASES[name]
    low = schedule.half_log_snr(schedule.t_max).item() if schedule.t_max * schedule.alpha(schedule.t_max) > 0 else -60.0
    high = schedule.half_log_snr(1e-200 * schedule.t_max).item()
    lam = torch.cat([torch.linspace(low, high, 41), torch.linspace(max(low, -6.0), 6.0, 25)]).to(torch.float64)
    lam = lam.clamp(low, high)  # linspace of float32 ends rounds
    t = schedule.inverse_half_log_snr(lam)
    with mp.workdps(DIGITS):
        for lk, tk in zip(lam.tolist(), t.tolist()):
            # half_log_snr decreases: a change of sign across t (1 +- 1e-10) proves the relative accuracy
            assert half_log_snr_mp(name, mp.mpf(tk) * (1 - mp.mpf("1e-10"))) > lk
            after = mp.mpf(tk) * (1 + mp.mpf("1e-10"))
            assert after >= schedule.t_max or half_log_snr_mp(name, after) < lk


@pytest.mark.parametrize("name", NAMES)
def test_inverse_half_log_snr_matches_brentq(name):
    schedule, _ = CASES[name]
    for lam in (-3.0, -0.5, 0.0, 2.0, 5.0):
        ends = 1e-12 * schedule.t_max, (1 - 1e-12) * schedule.t_max
        root = brentq(lambda u, lam=lam: schedule.half_log_snr(u).item() - lam, *ends, xtol=1e-16, rtol=1e-14)
        assert schedule.inverse_half_log_snr(lam).item() == pytest.approx(root, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(NAMES), exponent=st.floats(-200, -1e-3))
def test_time_to_half_log_snr_and_back(name, exponent):
    schedule, _ = CASES[name]
    t = 10.0**exponent * schedule.t_max
    # |d log t / d lambda| <= 2, and lambda is rounded at |lambda| <= 1000: 2 * 1000 * eps, some roundings more
    assert schedule.inverse_half_log_snr(schedule.half_log_snr(t)).item() == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_end_of_the_domain_survives_the_round_trip(name, dtype):
    schedule, _ = CASES[name]
    end = torch.tensor(schedule.t_max, dtype=dtype)
    if schedule.alpha(end) == 0:
        with pytest.raises(ValueError, match="half_log_snr of the"):
            schedule.half_log_snr(end)
        return
    back = schedule.inverse_half_log_snr(schedule.half_log_snr(end))
    # |d log t / d lambda| is below 1 at the ends: vp .1, ve .12, edm 1, custom .1
    assert back.item() == pytest.approx(schedule.t_max, rel=16 * torch.finfo(dtype).eps)
    assert torch.isfinite(schedule.half_log_snr(back))  # inside the domain again


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_the_float64_answer_rounded(name):
    schedule, _ = CASES[name]
    t = times(schedule, (1e-3, 0.1, 0.5, 0.9)).float()
    for which in FUNCTIONS:
        got = getattr(schedule, which)(t)
        assert got.dtype == torch.float32
        assert got.shape == t.shape
        assert torch.equal(got, getattr(schedule, which)(t.double()).float())
        assert torch.equal(got[1], getattr(schedule, which)(t[1]))  # 0-d
        scalar = getattr(schedule, which)(t[1].item())
        assert scalar.dtype == torch.float64
        assert scalar.ndim == 0


def test_boundary_values():
    for schedule, _ in CASES.values():
        assert schedule.alpha(0.0) == 1
        assert schedule.sigma(0) == 0
        assert schedule.convention == "data0"
        assert (schedule.t_min, type(schedule.t_max)) == (0.0, float)
    for name in ("linear", "trig", "cosine", "cosine0"):
        schedule, _ = CASES[name]
        assert schedule.alpha(schedule.t_max) == 0
        assert schedule.sigma(schedule.t_max).item() == pytest.approx(1, abs=4 * EPS)
    assert AffineSchedule.vp().g2(0.0).item() == 0.1
    assert AffineSchedule.vp(t_max=2.0).t_max == 2.0


def test_a_float32_end_beyond_the_float64_end_is_that_end():
    end = torch.tensor(math.pi / 2, dtype=torch.float32)
    assert end.double() > math.pi / 2  # the premise
    schedule = AffineSchedule.trig()
    assert schedule.alpha(end) == 0
    assert schedule.sigma(end) == 1
    # and it stays differentiable there
    assert torch.func.grad(schedule.alpha)(end).item() == -1


def test_orders_of_the_three_classes():
    """Variance for unit-variance data: preserved by vp, below it for sub-vp, exploding for ve (section 4.3)."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)

    def variance(s):
        return s.alpha(t) ** 2 + s.sigma(t) ** 2

    torch.testing.assert_close(variance(AffineSchedule.vp()), torch.ones_like(t), rtol=0, atol=8 * EPS)
    torch.testing.assert_close(variance(AffineSchedule.cosine()), torch.ones_like(t), rtol=0, atol=8 * EPS)
    assert (variance(AffineSchedule.sub_vp())[1:] < 1).all()
    assert (variance(AffineSchedule.ve()).diff() > 0).all()


def test_custom_schedule_equals_its_closed_form():
    ours, closed = AffineSchedule.from_alpha_sigma(lambda t: 1 - t, lambda t: t, name="mine"), AffineSchedule.linear()
    t = times(closed)
    assert ours.name == "mine"
    for which in FUNCTIONS:
        torch.testing.assert_close(getattr(ours, which)(t), getattr(closed, which)(t), rtol=1e-12, atol=0)
    lam = torch.linspace(-30, 600, 200, dtype=torch.float64)
    torch.testing.assert_close(ours.inverse_half_log_snr(lam), closed.inverse_half_log_snr(lam), rtol=1e-12, atol=0)
    with torch.no_grad():  # derivatives do not depend on the recording of gradients
        assert ours.dalpha(0.5) == -1


def test_custom_schedule_on_a_domain_away_from_the_singular_ends():
    ours = AffineSchedule.from_alpha_sigma(lambda t: torch.cos(t), lambda t: torch.sin(t), t_min=0.2, t_max=1.1)
    ends = torch.tensor([0.2, 1.1], dtype=torch.float64)
    torch.testing.assert_close(ours.inverse_half_log_snr(ours.half_log_snr(ends)), ends, rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match=r"t outside \[0.2, 1.1\]"):
        ours.alpha(0.1)
    with pytest.raises(ValueError, match=r"lam outside"):
        ours.inverse_half_log_snr(5.0)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "custom"])
def test_schedules_survive_pickling_and_say_what_they_are(name):
    schedule, _ = CASES[name]
    copy = pickle.loads(pickle.dumps(schedule))
    assert repr(copy) == repr(schedule)
    assert repr(schedule).startswith(f"AffineSchedule.{schedule.name}(")
    assert copy.g2(0.3) == schedule.g2(0.3)
    assert AffineSchedule.vp(beta_min=0.5).parameters == {"beta_min": 0.5, "beta_max": 20.0, "t_max": 1.0}


def test_gradients_flow_through_a_time():
    t = torch.tensor([0.2, 0.6], dtype=torch.float64, requires_grad=True)
    schedule = AffineSchedule.vp()
    (slope,) = torch.autograd.grad(schedule.half_log_snr(t).sum(), t)
    torch.testing.assert_close(slope, -schedule.g2(t) / (2 * schedule.sigma(t) ** 2), rtol=1e-12, atol=0)
    lam = schedule.half_log_snr(t).detach().requires_grad_()
    (back,) = torch.autograd.grad(schedule.inverse_half_log_snr(lam).sum(), lam)
    torch.testing.assert_close(back, 1 / slope, rtol=1e-11, atol=0)


# --- bad input -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", FUNCTIONS)
def test_bad_times_are_refused(user_errors, name, which):
    fn = getattr(CASES[name][0], which)
    end = CASES[name][0].t_max
    for t in (-1e-9, end * 1.001, torch.tensor([0.1, 2 * end]), torch.tensor(-0.5)):
        with pytest.raises(ValueError, match="t outside"):
            fn(t)
    for t in (math.nan, math.inf, torch.tensor([0.1, math.nan])):
        with pytest.raises(ValueError, match="t must be finite"):
            fn(t)
    for t in ("0.5", None, True, [0.5], torch.tensor(1), torch.tensor([True]), torch.tensor(0.5 + 0j)):
        with pytest.raises(TypeError, match="t must be a"):
            fn(t)
    with pytest.raises(ValueError, match=r"shape \(N,\), got shape \(2, 1\)"):
        fn(torch.full((2, 1), 0.5))


def test_infinite_values_are_refused():
    for name in NAMES:
        with pytest.raises(ValueError, match=r"half_log_snr of the \w+ schedule is infinite or undefined at t = 0"):
            CASES[name][0].half_log_snr(0.0)
    for name in ("linear", "trig", "cosine", "cosine0"):
        for which in ("f", "g2", "half_log_snr"):
            with pytest.raises(ValueError, match=f"{which} of the"):
                getattr(CASES[name][0], which)(torch.tensor([0.5, CASES[name][0].t_max], dtype=torch.float64))
    for name in ("vp", "ve", "cosine"):
        with pytest.raises(ValueError, match="dsigma of the"):
            CASES[name][0].dsigma(0.0)


def test_bad_half_log_snr_is_refused(user_errors):
    for name in ("vp", "ve", "edm", "sub_vp", "custom"):
        low = CASES[name][0].half_log_snr(CASES[name][0].t_max).item()
        with pytest.raises(ValueError, match="lam outside"):
            CASES[name][0].inverse_half_log_snr(low - 1e-9)
    for name in NAMES:
        with pytest.raises(ValueError, match=r"lam too large|not accurate enough"):
            CASES[name][0].inverse_half_log_snr(2000.0)
        with pytest.raises(ValueError, match="lam must be finite"):
            CASES[name][0].inverse_half_log_snr(math.nan)
        with pytest.raises(TypeError, match="lam must be a"):
            CASES[name][0].inverse_half_log_snr(torch.tensor(1))
    # a sigma of t^1.5 underflows long before its time does; a naive sqrt(1 - alpha^2) has no digits left at 1e-8
    naive = AffineSchedule.from_alpha_sigma(lambda t: torch.cos(t), lambda t: torch.sqrt(1 - torch.cos(t) ** 2))
    assert naive.inverse_half_log_snr(2.0).item() == pytest.approx(AffineSchedule.trig().inverse_half_log_snr(2.0).item(), rel=1e-12)
    for schedule, lam in ((CASES["custom"][0], 900.0), (naive, 15.0)):
        with pytest.raises(ValueError, match="not accurate enough"):
            schedule.inverse_half_log_snr(lam)
    with pytest.raises(ValueError, match=r"normal numbers of torch\.float32"):
        AffineSchedule.edm().inverse_half_log_snr(torch.tensor(100.0))


def test_bad_parameters_are_refused(user_errors):
    for make in (AffineSchedule.vp, AffineSchedule.sub_vp):
        for key in ("beta_min", "beta_max", "t_max"):
            for value in (0.0, -1.0, math.nan, math.inf):
                with pytest.raises(ValueError, match=key):
                    make(**{key: value})
        with pytest.raises(ValueError, match="stay positive"):
            make(beta_min=1.0, beta_max=0.5, t_max=3.0)
    with pytest.raises(ValueError, match="sigma_max must exceed sigma_min"):
        AffineSchedule.ve(2.0, 1.0)
    with pytest.raises(ValueError, match="sigma_min"):
        AffineSchedule.ve(0.0, 1.0)
    with pytest.raises(ValueError, match="t_max"):
        AffineSchedule.edm(-1.0)
    with pytest.raises(ValueError, match="s must be"):
        AffineSchedule.cosine(-0.1)


def test_bad_custom_schedules_are_refused(user_errors):
    make = AffineSchedule.from_alpha_sigma
    with pytest.raises(ValueError, match="need 0 <= t_min < t_max"):
        make(lambda t: 1 - t, lambda t: t, t_min=1.0, t_max=0.5)
    with pytest.raises(TypeError, match="alpha must map a tensor"):
        make(lambda t: 1.0, lambda t: t)
    with pytest.raises(ValueError, match="sigma must act elementwise"):
        make(torch.ones_like, lambda t: t[:3])
    with pytest.raises(ValueError, match="alpha must be finite and positive"):
        make(lambda t: 0.5 - t, lambda t: t)
    with pytest.raises(ValueError, match="must strictly decrease"):
        make(torch.ones_like, lambda t: 1 + torch.sin(6 * t))
