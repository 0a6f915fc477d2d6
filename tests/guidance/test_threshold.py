"""Bounds on the clean prediction: against numpy's quantile, in every prediction, on chains, idempotent, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mathcore.guidance import clip, dynamic_threshold
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule, DiscreteSchedule

F64 = torch.float64
VP = AffineSchedule.vp()


def sample(seed, shape=(3, 1, 4, 5), scale=3.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=g, dtype=F64), torch.randn(shape, generator=g, dtype=F64)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), q=st.floats(0.3, 1.0), floor=st.floats(0.2, 3.0))
def test_dynamic_threshold_against_numpy(seed, q, floor):
    clean, x = sample(seed)
    got = dynamic_threshold(lambda x, t: clean, VP, "clean", quantile=q, floor=floor)(x, 0.4)
    for row, out in zip(clean.numpy(), got.numpy(), strict=True):
        bound = max(np.quantile(np.abs(row), q), floor)
        np.testing.assert_allclose(out, np.clip(row, -bound, bound) * floor / bound, rtol=1e-12, atol=1e-14)
    assert float(got.abs().max()) <= floor * (1 + 1e-15)


def test_nothing_happens_inside_the_box():
    clean, x = sample(0, scale=0.2)
    assert float(clean.abs().max()) < 1
    assert torch.equal(dynamic_threshold(lambda x, t: clean, VP, "clean")(x, 0.4), clean)
    assert torch.equal(clip(lambda x, t: clean, VP, "clean")(x, 0.4), clean)


def test_each_sample_has_a_bound_of_its_own():
    clean = torch.cat([torch.full((1, 8), 0.5), torch.full((1, 8), 50.0)]).double()
    got = dynamic_threshold(lambda x, t: clean, VP, "clean")(torch.zeros_like(clean), 0.4)
    assert torch.equal(got, torch.cat([clean[:1], torch.ones(1, 8, dtype=F64)]))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("wrap", [dynamic_threshold, clip])
def test_the_bound_is_on_the_clean_prediction_whatever_is_predicted(kind, wrap):
    clean, x = sample(1)
    want = wrap(lambda x, t: clean, VP, "clean")(x, 0.4)
    model = wrap(lambda x, t: convert_prediction(clean, x, t, VP, "clean", kind), VP, kind)
    torch.testing.assert_close(convert_prediction(model(x, 0.4), x, 0.4, VP, kind, "clean"), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("wrap", [dynamic_threshold, clip])
def test_on_a_chain(wrap):
    chain, i = DiscreteSchedule.linear(100), 60
    clean, x = sample(2)
    model = wrap(lambda x, t: convert_prediction(clean, x, t, chain, "clean", "noise"), chain, "noise")
    got = (x - chain.sigma_bar[i] * model(x, i)) / chain.alpha_bar[i]
    torch.testing.assert_close(got, wrap(lambda x, t: clean, VP, "clean")(x, 0.4), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("wrap", [dynamic_threshold, clip])
def test_twice_is_once(wrap):
    clean, x = sample(3)
    once = wrap(lambda x, t: clean, VP, "clean")
    torch.testing.assert_close(wrap(once, VP, "clean")(x, 0.4), once(x, 0.4), rtol=1e-14, atol=1e-14)


def test_clip_bounds_and_flat_batches():
    clean = torch.tensor([-3.0, 0.1, 4.0], dtype=F64)
    assert clip(lambda x, t: clean, VP, "clean", 0, 2)(clean, 0.4).tolist() == [0.0, 0.1, 2.0]
    assert dynamic_threshold(lambda x, t: clean, VP, "clean")(clean, 0.4).tolist() == [-1.0, 0.1, 1.0]  # one value per sample


def test_refusals(user_errors):
    clean, x = sample(4)
    for q in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="quantile must lie in"):
            dynamic_threshold(lambda x, t: clean, VP, "clean", quantile=q)
    for floor in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="floor must be a positive"):
            dynamic_threshold(lambda x, t: clean, VP, "clean", floor=floor)
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="low must lie below high"):
            clip(lambda x, t: clean, VP, "clean", low, high)
    with pytest.raises(ValueError, match="prediction must be one of"):
        clip(lambda x, t: clean, VP, "eps")
    with pytest.raises(TypeError, match="schedule must be"):
        clip(lambda x, t: clean, "vp")
    with pytest.raises(ValueError, match="NaN or infinity"):
        dynamic_threshold(lambda x, t: clean * float("nan"), VP)(x, 0.4)
    with pytest.raises(ValueError, match="singular at t=0"):
        clip(lambda x, t: clean, VP, "score")(x, 0.0)
    with pytest.raises(ValueError, match="no time derivative"):
        clip(lambda x, t: clean, DiscreteSchedule.linear(50), "velocity")(x, 3)
