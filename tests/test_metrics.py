"""Metrics against scipy's matrix square root, scikit-learn, hand-made cases, and what they must order rightly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import linalg
from sklearn.neighbors import NearestNeighbors

from mathcore import data, metrics
from mathcore.distributions import GaussianMixture
from mathcore.settings import settings

F64 = torch.float64
few = hypothesis_settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def randn(*shape, g):
    return torch.randn(*shape, generator=g, dtype=F64)


def rng(seed):
    return torch.Generator().manual_seed(seed)


# --- Frechet distance of features


@few
@given(seeds, st.integers(1, 6))
def test_frechet_distance_equals_scipys_matrix_root(seed, dim):
    g = rng(seed)
    x, y = randn(40, dim, g=g) @ randn(dim, dim, g=g), randn(50, dim, g=g) + randn(dim, g=g)
    c1, c2 = np.cov(x.numpy().T).reshape(dim, dim), np.cov(y.numpy().T).reshape(dim, dim)
    want = np.sum((x.mean(0) - y.mean(0)).numpy() ** 2) + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    # a nearly singular covariance of condition c costs sqrtm about sqrt(eps) of its own scale
    assert float(metrics.frechet_distance(x, y)) == pytest.approx(want, rel=1e-6)
    assert float(metrics.frechet_distance(y, x)) == pytest.approx(want, rel=1e-6)


def with_moments(mean, cov, n, g):
    """A sample whose mean and covariance are exactly the ones given."""
    dim = len(mean)
    x = randn(n, dim, g=g)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T).reshape(dim, dim)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def test_frechet_distance_of_fewer_points_than_features(generator):
    """tr (C1 C2)^(1/2) is the sum of the singular values of A B^T, where A and B are the centred points over the roots of N - 1."""
    x, y = randn(5, 40, g=generator), 1 + 2 * randn(9, 40, g=generator)
    a, b = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    want = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    assert float(metrics.frechet_distance(x, y)) == pytest.approx(float(want), rel=1e-12)
    assert 0 <= float(metrics.frechet_distance(x, x)) < 1e-24


def test_frechet_distance_of_gaussians_in_closed_form(generator):
    """Commuting covariances V diag(a) V^T and V diag(b) V^T: the distance between their standard deviations."""
    rotation = torch.linalg.qr(randn(4, 4, g=generator)).Q
    a, b = torch.tensor([4.0, 1.0, 0.25, 9.0], dtype=F64), torch.tensor([1.0, 1.0, 2.25, 0.01], dtype=F64)
    m1, m2 = randn(2, 4, g=generator)
    x, y = (with_moments(m, rotation @ torch.diag(v) @ rotation.T, 30, generator) for m, v in ((m1, a), (m2, b)))
    want = float((m1 - m2).square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert float(metrics.frechet_distance(x, y)) == pytest.approx(want, rel=1e-11)


def test_frechet_distance_with_fewer_samples_than_features(generator):
    """Singular covariances: tr (C1 C2)^(1/2) is the nuclear norm of the (small) matrix of inner products of centred samples."""
    x, y = randn(5, 40, g=generator), randn(7, 40, g=generator)
    xc, yc = (v.numpy() - v.numpy().mean(0) for v in (x, y))
    cross = np.linalg.norm(xc @ yc.T, "nuc") / math.sqrt(4 * 6)
    want = np.sum((x.mean(0) - y.mean(0)).numpy() ** 2) + np.sum(xc**2) / 4 + np.sum(yc**2) / 6 - 2 * cross
    assert float(metrics.frechet_distance(x, y)) == pytest.approx(want, rel=1e-10)


def test_frechet_distance_has_no_noise_floor_of_its_own(generator):
    x = randn(20, 60, g=generator)
    assert 0 <= float(metrics.frechet_distance(x, x)) < 1e-24  # squares of eps-sized roots, where subtracted traces leave 1e-14
    shift = randn(60, g=generator)
    assert float(metrics.frechet_distance(x, x + shift)) == pytest.approx(float(shift @ shift), rel=1e-12)
    assert metrics.frechet_distance(x.float(), (x + shift).float()).dtype == torch.float32


# --- nearest neighbours


@few
@given(seeds, st.integers(1, 20), st.integers(1, 20))
def test_nearest_neighbour_distance_equals_sklearn(seed, n, m):
    g = rng(seed)
    x, y = randn(n, 1, 3, 3, g=g), randn(m, 1, 3, 3, g=g)
    want = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(y.flatten(1).numpy()).kneighbors(x.flatten(1).numpy())[0][:, 0]
    got = metrics.nearest_neighbour_distance(x, y)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)
    assert bool((metrics.nearest_neighbour_distance(x, torch.cat([y, x])) == 0).all())
    assert bool((metrics.nearest_neighbour_distance(x, torch.cat([y, y + 1])) <= got).all())


def test_nearest_neighbour_distance_does_not_depend_on_the_blocks(generator, monkeypatch):
    x, y = randn(33, 4, g=generator), randn(20, 4, g=generator)
    whole = metrics.nearest_neighbour_distance(x, y)
    monkeypatch.setattr(metrics, "_PAIRS_AT_ONCE", 50)
    torch.testing.assert_close(metrics.nearest_neighbour_distance(x, y), whole, rtol=1e-12, atol=0)


def test_memorisation_tells_copies_from_fresh_samples(generator):
    train, held_out, fresh = (randn(300, 5, g=generator) for _ in range(3))
    noisy_copies = train + 0.01 * randn(300, 5, g=generator)
    copied, honest = metrics.memorisation(noisy_copies, train, held_out), metrics.memorisation(fresh, train, held_out)
    assert bool((copied.generated < 0.1 * copied.held_out).all())
    # two samples of one law: the medians of 300 distances (spread about 0.4) differ by 5 * 1.25 * 0.4 * sqrt(2/300) < 0.21 at most
    assert abs(float(honest.generated[2] - honest.held_out[2])) < 0.21
    want = np.quantile(metrics.nearest_neighbour_distance(held_out, train).numpy(), honest.levels.numpy())
    np.testing.assert_allclose(honest.held_out.numpy(), want, rtol=1e-12)


# --- modes


def test_mode_coverage_counts_by_hand():
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=F64),
        torch.tensor([[1.0, 0.01], [1.0, 1.0]], dtype=F64),  # variances: the first component is flat
    )
    x = torch.tensor([[1.9, 0.0], [0.0, 0.19], [0.0, 0.21], [2.1, 0.0], [9.0, 1.0]], dtype=F64)
    result = metrics.mode_coverage(x, mixture, radius=2.0)
    assert result.counts.tolist() == [2, 1]
    assert (result.covered, result.share) == (2, 3 / 5)
    assert metrics.mode_coverage(x[:4], mixture, radius=2.0).covered == 1


def test_mode_coverage_of_true_samples(generator):
    mixture, n, radius = data.examples.ring(), 4000, 2.0
    result = metrics.mode_coverage(mixture.sample(n, generator=generator), mixture, radius)
    want = 1 - math.exp(-(radius**2) / 2)  # neighbouring modes are 7.6 standard deviations apart
    assert abs(result.share - want) < 5 * math.sqrt(want * (1 - want) / n)
    assert result.covered == 8
    half = GaussianMixture(torch.full((4,), 0.25, dtype=F64), mixture.means[:4], torch.full((4,), 0.04, dtype=F64))
    assert metrics.mode_coverage(half.sample(n, generator=generator), mixture, radius).covered == 4


# --- digits


@pytest.mark.parametrize("size", [8, 28])
def test_digit_classifier_is_accurate(size):
    # measured 0.97; the standard error of 355 test images is 0.01
    assert metrics.digit_accuracy(size) > 0.94


def test_digit_classifier_repeats_to_the_bit(tmp_path, monkeypatch):
    images, _ = data.load("digits8", "test")
    before = metrics.digit_features(images)
    monkeypatch.setattr(settings, "_build_dir", tmp_path)  # nothing kept there: it must train
    metrics._trained.cache_clear()
    with torch.no_grad():  # of the caller, not of the training
        after = metrics.digit_features(images)
    assert torch.equal(before, after)
    metrics._trained.cache_clear()


@pytest.mark.parametrize("name", ["digits8", "digits28"])
def test_digit_frechet_distance_orders_damage(name, generator):
    images, _ = data.load(name, "test")
    fresh, n = data.load(name, "train")[0], len(images) // 2
    mean, std = metrics.digit_frechet_floor(images, n, 5, generator)
    assert 0 < std < mean
    noise = torch.randn(fresh[:n].shape, generator=generator)
    damaged = [float(metrics.digit_frechet_distance(fresh[:n] + s * noise, images[:n])) for s in (0.0, 0.3, 0.6, 1.2)]
    assert damaged == sorted(damaged)
    assert damaged[2] > 2 * mean
    blurred = torch.nn.functional.avg_pool2d(fresh[:n], 3, 1, 1)
    assert float(metrics.digit_frechet_distance(blurred, images[:n])) > 4 * mean
    one_class = images[data.load(name, "test")[1] == 3]
    assert float(metrics.digit_frechet_distance(one_class, images)) > 10 * mean


def test_digit_floor_falls_with_the_sample_size(generator):
    images, _ = data.load("digits28", "test")
    small, large = (metrics.digit_frechet_floor(images, n, 8, generator)[0] for n in (50, 400))
    assert large < small / 4  # the bias is of order 1/n: a factor 8 here
    assert metrics.digit_frechet_floor(images, 50, 2, rng(1)) == metrics.digit_frechet_floor(images, 50, 2, rng(1))


def test_digit_features_follow_the_input_and_do_not_mix_images(monkeypatch):
    images, _ = data.load("digits8", "test", dtype=F64)
    features = metrics.digit_features(images)
    assert (features.shape, features.dtype) == ((len(images), 32), F64)
    monkeypatch.setattr(metrics, "_IMAGES_AT_ONCE", 10)
    torch.testing.assert_close(metrics.digit_features(images), features, rtol=1e-5, atol=1e-5)  # float32 inside
    assert metrics.digit_classifier(8) is metrics.digit_classifier(8)


# --- bad input

X = torch.zeros(4, 3, dtype=F64)


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        ([[1.0]], X, TypeError, r"features_x must be a torch\.Tensor"),
        (X.long(), X, TypeError, "features_x must be a floating-point"),
        (X, X.float(), TypeError, "share one dtype"),
        (X, X[:, :2], ValueError, "features_y must have last dimension 3"),
        (X[0], X, ValueError, "features_x must have 2 axes"),
        (X[:1], X, ValueError, "features_x must hold at least 2"),
        (X, X * math.nan, ValueError, "features_y contains NaN"),
    ],
)
def test_frechet_distance_refuses_bad_input(user_errors, x, y, error, match):
    with pytest.raises(error, match=match):
        metrics.frechet_distance(x, y)


@pytest.mark.parametrize(
    ("x", "y", "error", "match"),
    [
        ([[1.0]], X, TypeError, r"samples must be a torch\.Tensor"),
        (X, X.long(), TypeError, "reference must be a floating-point"),
        (X, X.float(), TypeError, "share one dtype"),
        (X, X[:, :2], ValueError, "samples and reference must be"),
        (X[:, 0], X[:, 0], ValueError, "samples and reference must be"),
        (X, X[:0], ValueError, "at least one point"),
        (X * math.nan, X, ValueError, "samples contains NaN"),
    ],
)
def test_nearest_neighbour_distance_refuses_bad_input(user_errors, x, y, error, match):
    with pytest.raises(error, match=match):
        metrics.nearest_neighbour_distance(x, y)
    with pytest.raises(error, match=match):
        metrics.memorisation(x, y, y)


@pytest.mark.parametrize("levels", [(), (0.5, 1.5), (-0.1,), (math.nan,)])
def test_memorisation_refuses_bad_levels(user_errors, levels):
    with pytest.raises(ValueError, match="levels must be numbers in"):
        metrics.memorisation(X, X, X, levels)


IMAGES = torch.zeros(6, 1, 8, 8)


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (IMAGES.numpy(), TypeError, r"images must be a torch\.Tensor"),
        (IMAGES.byte(), TypeError, "images must be a floating-point"),
        (IMAGES[:, 0], ValueError, "images must have 4 axes"),
        (IMAGES.repeat(1, 3, 1, 1), ValueError, "images must have shape"),
        (IMAGES[..., :7], ValueError, "images must have shape"),
        (IMAGES[..., :7, :7], ValueError, "must be 8x8 or 28x28 pixels, got size 7"),
        (IMAGES[:0], ValueError, "images must have shape"),
        (IMAGES * math.nan, ValueError, "images contains NaN"),
    ],
)
def test_digit_features_refuse_bad_input(user_errors, images, error, match):
    with pytest.raises(error, match=match):
        metrics.digit_features(images)
    with pytest.raises(error, match=match):
        metrics.digit_frechet_distance(images, images)
    with pytest.raises(error, match=match):
        metrics.digit_frechet_floor(images, 2)


def test_other_metrics_refuse_bad_input(user_errors):
    mixture = data.examples.ring()
    with pytest.raises(ValueError, match="images of one size"):
        metrics.digit_frechet_distance(IMAGES, torch.zeros(6, 1, 28, 28))
    with pytest.raises(ValueError, match=r"n must lie in 2\.\.3"):
        metrics.digit_frechet_floor(IMAGES, 4)
    with pytest.raises(ValueError, match="repeats must be at least 2"):
        metrics.digit_frechet_floor(IMAGES, 2, repeats=1)
    with pytest.raises(ValueError, match="8x8 or 28x28"):
        metrics.digit_accuracy(16)
    with pytest.raises(ValueError, match="samples must have last dimension 2"):
        metrics.mode_coverage(X, mixture)
    with pytest.raises(ValueError, match="samples must hold at least one"):
        metrics.mode_coverage(X[:0, :2], mixture)
    with pytest.raises(TypeError, match="share one dtype"):
        metrics.mode_coverage(X[:, :2].float(), mixture)
    with pytest.raises(TypeError, match="samples must be a floating-point"):
        metrics.mode_coverage(X[:, :2].long(), mixture)
    with pytest.raises(ValueError, match="samples contains NaN"):
        metrics.mode_coverage(X[:, :2] * math.nan, mixture)
    with pytest.raises(ValueError, match="radius must be a positive"):
        metrics.mode_coverage(X[:, :2], mixture, radius=0.0)
