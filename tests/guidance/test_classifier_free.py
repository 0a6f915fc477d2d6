"""Classifier-free guidance: Eq. 8.3.3 in all four predictions, its cost, intervals, the doubled batch, refusals."""

import pytest
import torch

from mathcore.distributions import GaussianMixture
from mathcore.guidance import classifier_free, classifier_free_batched
from mathcore.networks import TimeMLP
from mathcore.oracle import AffineGaussianOracle
from mathcore.predictions import PREDICTIONS, convert_prediction
from mathcore.schedules import AffineSchedule
from mathcore.solvers import ddim, grids
from mathcore.solvers.diagnostics import CallCounter

F64 = torch.float64
VP = AffineSchedule.vp()
BOTH = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[-1.0], [1.0]], dtype=F64), torch.tensor([0.09, 0.04], dtype=F64))
RIGHT = GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[1.0]], dtype=F64), torch.tensor([0.04], dtype=F64))
COND, UNCOND = AffineGaussianOracle(RIGHT, VP), AffineGaussianOracle(BOTH, VP)
X = torch.linspace(-2, 2, 9, dtype=F64)[:, None]


def guided(kind, omega):
    return classifier_free(getattr(COND, kind), getattr(UNCOND, kind), omega)


@pytest.mark.parametrize("omega", [-0.5, 0.3, 2.0, 8.5])
def test_the_score_is_the_gradient_of_the_tilted_density(omega):
    # log p(c | x)^omega p(x) up to a constant is omega log p(x | c) + (1 - omega) log p(x): differentiate it
    x = X.clone().requires_grad_()
    log_density = omega * COND.log_prob(x, 0.3) + (1 - omega) * UNCOND.log_prob(x, 0.3)
    (want,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(guided("score", omega)(X, 0.3), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("omega", [0.3, 8.5])
def test_all_four_predictions_are_guided_alike(kind, omega):
    got = convert_prediction(guided(kind, omega)(X, 0.4), X, 0.4, VP, kind, "noise")
    torch.testing.assert_close(got, guided("noise", omega)(X, 0.4), rtol=1e-11, atol=1e-11)


def test_the_other_convention():
    # (1 + w) cond - w uncond, as many papers write it
    w, t = 7.5, 0.4
    want = (1 + w) * COND.noise(X, t) - w * UNCOND.noise(X, t)
    torch.testing.assert_close(guided("noise", 1 + w)(X, t), want, rtol=1e-12, atol=1e-12)


def test_its_ends_cost_one_call():
    for omega, calls in ((0.0, (0, 3)), (1.0, (3, 0)), (2.0, (3, 3))):
        cond, uncond = CallCounter(COND.noise), CallCounter(UNCOND.noise)
        out = ddim(VP, grids.uniform_t(VP, 3)).run(classifier_free(cond, uncond, omega), X)
        assert (cond.calls, uncond.calls) == calls
        if omega in (0, 1):
            model = (UNCOND, COND)[int(omega)].noise
            assert torch.equal(out, ddim(VP, grids.uniform_t(VP, 3)).run(model, X))


def test_guidance_in_an_interval():
    cond, uncond = CallCounter(COND.noise), CallCounter(UNCOND.noise)
    model = classifier_free(cond, uncond, lambda t: 5.0 if 0.2 < t < 0.7 else 1.0)
    assert torch.equal(model(X, 0.9), COND.noise(X, 0.9))
    torch.testing.assert_close(model(X, 0.5), guided("noise", 5.0)(X, 0.5), rtol=0, atol=0)
    assert uncond.times == [0.5]


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_doubled_batch_is_two_calls(per_sample, generator):
    net = TimeMLP(2, hidden=16, classes=3).double()
    torch.nn.init.normal_(next(p for n, p in net.named_parameters() if "table" in n), generator=generator)  # zero before training
    x = torch.randn(5, 2, generator=generator, dtype=F64)
    t = torch.full((5,), 0.3, dtype=F64) if per_sample else 0.3
    label = torch.tensor([0, 1, 2, 1, 0])
    want = classifier_free(lambda x, t: net(x, t, label), lambda x, t: net(x, t, torch.full((5,), 3)), 2.5)(x, t)
    calls = []

    def counted(x, t, label):
        calls.append(len(x))
        return net(x, t, label)

    torch.testing.assert_close(classifier_free_batched(counted, label, 3, 2.5)(x, t), want, rtol=1e-12, atol=1e-12)
    assert calls == [10]
    assert not torch.allclose(want, net(x, t, label))
    assert torch.equal(classifier_free_batched(counted, label, 3, 1.0)(x, t), net(x, t, label))
    assert torch.equal(classifier_free_batched(counted, label, 3, 0)(x, t), net(x, t))
    assert calls == [10, 5, 5]


def test_refusals(user_errors):
    for omega in (float("nan"), float("inf"), "2", None, True, torch.tensor(2.0)):
        with pytest.raises(ValueError, match="omega must be a finite number"):
            classifier_free(COND.noise, UNCOND.noise, omega)
    with pytest.raises(ValueError, match="omega must be a finite number"):
        classifier_free(COND.noise, UNCOND.noise, lambda t: float("nan"))(X, 0.3)
    with pytest.raises(ValueError, match="same shape"):
        classifier_free(COND.noise, lambda x, t: x[:1], 2.0)(X, 0.3)
    net = TimeMLP(1, hidden=8, classes=2)
    with pytest.raises(TypeError, match="label must be a tensor of integers"):
        classifier_free_batched(net, torch.zeros(3), 2, 2.0)
    with pytest.raises(ValueError, match=r"label must have shape \(9,\)"):
        classifier_free_batched(net, torch.zeros(3, dtype=torch.int64), 2, 2.0)(X, 0.3)
