"""Sample metrics against closed forms, scipy's matrix root, scikit-learn's neighbours, hand-made manifolds, and torch-fidelity where it imports."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn.neighbors import NearestNeighbors

from mathcore import sample_metrics as m
from mathcore.metrics import frechet_distance

F64 = torch.float64


def rng(seed):
    return torch.Generator().manual_seed(seed)


def normal(n, d, seed=0, mean=0.0, std=1.0):
    return mean + std * torch.randn(n, d, generator=rng(seed), dtype=F64)


# --- Frechet distance


def test_frechet_against_the_closed_form_of_two_gaussians():
    """Any feature extractor: here one that doubles. W2^2 between N(0, 4 I) and N(2, 9 I) in D = 3: 3 (4 + 1); at n = 4000 a draw errs by about 0.2."""
    found = m.frechet(normal(4000, 3, 1, 1.0, 1.5), normal(8000, 3, 2), lambda x: 2 * x, generator=rng(3))
    assert found.n == found.reference_n == 4000
    assert abs(found.value - 15) < 1.0
    # between two samples of one law, E = (2 tr C + ...) / n: means 2 * 12 / 4000, covariances about as much again
    assert 0.003 < found.floor < 0.03
    assert 0 < found.floor_std < found.floor


def test_frechet_of_one_law_is_its_floor():
    values = [m.frechet(normal(300, 4, 10 + s), normal(600, 4, 20 + s), m.pixel_features, repeats=4, generator=rng(s)) for s in range(12)]
    excess = torch.tensor([v.value - v.floor for v in values])
    assert abs(float(excess.mean())) < 5 * float(excess.std()) / math.sqrt(12)
    shifted = m.frechet(normal(300, 4, 1, mean=0.5), normal(600, 4, 2), m.pixel_features, generator=rng(0))
    assert shifted.value > shifted.floor + 10 * shifted.floor_std


def formulas(x, y):
    """Two other computations: the matrix square root, and the eigenvalues of the product as torch-fidelity has them."""
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    head = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c1) + np.trace(c2)
    yield head - 2 * np.trace(linalg.sqrtm(c1 @ c2).real)
    yield head - 2 * np.sum(np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real)


@pytest.mark.parametrize("f", [2, 16, 64])
def test_frechet_of_features_against_two_other_formulas(f):
    mix = normal(f, f, 5)
    x, y = normal(200, f, 1) @ mix, normal(240, f, 2, 0.2) @ mix.T
    for want in formulas(x.numpy(), y.numpy()):
        assert float(frechet_distance(x, y)) == pytest.approx(want, rel=1e-6)


def test_frechet_against_torch_fidelity():
    try:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    except ImportError as error:
        pytest.skip(f"torch-fidelity does not import here ({error}); its formula is in the test above")
    x, y = normal(200, 16, 1), normal(240, 16, 2, 0.3)
    got = fid_statistics_to_metric(*(fid_features_to_statistics(z) for z in (x, y)), verbose=False)
    assert float(frechet_distance(x, y)) == pytest.approx(got["frechet_inception_distance"], rel=1e-8)


# --- precision and recall


def test_manifold_by_hand():
    """On the line, reference 0, 1, 3 with k = 1: radii 1, 1, 2, so the manifold is [-1, 5]."""
    reference = torch.tensor([[0.0], [1.0], [3.0]], dtype=F64)
    points = torch.tensor([[-1.01], [-1.0], [2.0], [5.0], [5.01]], dtype=F64)
    assert m.manifold_share(points, reference, 1) == 3 / 5
    assert m.manifold_share(points, reference, 2) == 1.0  # radii 3, 2, 3: [-3, 6]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_against_scikit_learn(k):
    x, y = normal(150, 5, 1), normal(120, 5, 2, std=0.8)
    radii = NearestNeighbors(n_neighbors=k + 1).fit(y).kneighbors(y)[0][:, k]
    distances = np.linalg.norm(x.numpy()[:, None] - y.numpy(), axis=2)
    assert m.manifold_share(x, y, k) == pytest.approx((distances <= radii).any(1).mean(), abs=1e-12)


def test_precision_and_recall_tell_quality_from_coverage():
    """Data on two sides. Samples of one side only: precision as good as it gets, half of the recall. Samples too wide: recall without precision."""
    sides = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=F64)
    data = normal(800, 2, 1) + sides[torch.arange(800) % 2]
    one_sided = normal(400, 2, 2) + sides[0]
    wide = normal(400, 2, 3, std=12.0)
    precision, recall = m.precision_recall(one_sided, data, m.pixel_features, generator=rng(0))
    assert abs(precision.value - precision.floor) < 0.05
    assert 0.4 < recall.value < 0.52
    assert 0.9 < recall.floor <= 1
    precision, recall = m.precision_recall(wide, data, m.pixel_features, generator=rng(0))
    assert precision.value < 0.4
    assert recall.value > 0.9
    assert precision.n == 400
    same, same_recall = m.precision_recall(data[:400], data[400:], m.pixel_features, generator=rng(0))
    assert abs(same.value - same.floor) < 5 * same.floor_std + 0.01
    assert abs(same_recall.value - same.floor) < 5 * same.floor_std + 0.01


def test_duplicates_have_a_manifold_of_points():
    """Collapsed samples: balls of radius zero, which contain themselves in exact arithmetic and nothing else."""
    collapsed = torch.full((10, 3), 1 / 3, dtype=F64)
    assert m.manifold_share(collapsed, collapsed, 3) == 1.0
    assert m.manifold_share(collapsed + 1e-9, collapsed, 3) == 0.0


# --- bits per dimension


def test_bits_of_uniform_noise_are_eight():
    """256 equally likely levels, 2/255 apart, dequantised: the density on [-1 - 1/255, 1 + 1/255]^D is constant."""
    found = m.bits_per_dimension(torch.full((10,), 12 * math.log(255 / 512), dtype=F64), 12, 2 / 255)
    assert found.value == pytest.approx(8.0, abs=1e-12)
    assert found.floor is None
    assert found.floor_std == pytest.approx(0, abs=1e-12)


def test_bits_of_a_discretised_gaussian_are_its_entropy():
    """A normal law rounded to a fine grid has the entropy h - log2(width) bits per coordinate; scipy says h."""
    law = stats.norm(0.2, 0.7)
    x = law.rvs((4000, 5), random_state=1)
    found = m.bits_per_dimension(torch.tensor(law.logpdf(x).sum(1)), 5, 0.01)
    cells = np.diff(law.cdf(np.arange(-8, 8, 0.01)))
    want = -np.sum(cells[cells > 0] * np.log2(cells[cells > 0]))
    assert abs(found.value - want) < 5 * found.floor_std
    assert found.floor_std == pytest.approx(
        math.sqrt(1 / 2 / 5) / math.log(2) / math.sqrt(4000), rel=0.1
    )  # var of -log p per dimension is 1/2


# --- neighbours


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_against_scikit_learn(k, monkeypatch):
    monkeypatch.setattr(m, "_PAIRS_AT_ONCE", 300)
    x, y = normal(70, 12, 1).reshape(70, 3, 2, 2), normal(90, 12, 2).reshape(90, 3, 2, 2)
    distances, numbers = m.nearest_neighbours(x, y, k)
    want, which = NearestNeighbors(n_neighbors=k).fit(y.flatten(1)).kneighbors(x.flatten(1))
    np.testing.assert_allclose(distances.numpy(), want, rtol=1e-12)
    assert (numbers.numpy() == which).all()


def test_copies_of_the_training_set_are_found_out():
    train, fresh = normal(300, 4, 1), normal(200, 4, 2)
    copies = m.nearest_distance(train[:100] + 1e-6, train, fresh, generator=rng(0))
    assert copies.value < 1e-5 < copies.floor
    honest = m.nearest_distance(normal(200, 4, 3), train, fresh, generator=rng(0))
    assert abs(honest.value - honest.floor) < 5 * math.sqrt(2) * honest.floor_std
    assert (honest.n, honest.reference_n) == (200, 300)


def test_everything_at_once_and_as_text():
    images = torch.rand(120, 1, 8, 8, generator=rng(0)) * 2 - 1
    found = m.evaluate_images(images[:40], images[40:80], images[80:], m.pixel_features, rng(1))
    assert [e.name for e in found] == ["frechet distance", "precision", "recall", "median distance to the training set"]
    assert all(math.isfinite(e.value) and math.isfinite(e.floor) and e.n > 0 for e in found)
    assert str(m.Estimate("width", 12.346, 1.2, 0.1, 500, 400)) == "width 12.35 (floor 1.2 ± 0.1, n = 500 against 400)"
    assert "floor" not in str(m.bits_per_dimension(torch.randn(5), 2, 0.1))
    again = m.evaluate_images(images[:40], images[40:80], images[80:], m.pixel_features, rng(1))
    assert again == found


def test_bad_input(user_errors):
    good, other = normal(10, 3), normal(10, 4)
    with pytest.raises(TypeError, match="samples must be a floating-point tensor"):
        m.frechet(torch.ones(10, 3, dtype=torch.int64), good, m.pixel_features)
    with pytest.raises(ValueError, match="samples and reference must have one shape"):
        m.frechet(other, good, m.pixel_features)
    with pytest.raises(ValueError, match="reference must hold at least 4 samples"):
        m.frechet(good, good[:3], m.pixel_features)
    with pytest.raises(ValueError, match="reference contains NaN"):
        m.precision_recall(good, torch.full((10, 3), math.nan), m.pixel_features)
    with pytest.raises(ValueError, match=r"features\(samples\) must have 2 axes"):
        m.frechet(good, good, lambda x: x[:, 0])
    with pytest.raises(ValueError, match="one row for each of 10 samples"):
        m.frechet(good, good, lambda x: x[:5])
    with pytest.raises(ValueError, match=r"repeats must be an integer of at least 2"):
        m.frechet(good, good, m.pixel_features, repeats=1)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.4 for 5 reference points, got 5"):
        m.precision_recall(good, good, m.pixel_features, k=5)
    with pytest.raises(ValueError, match="reference must have last dimension 3"):
        m.manifold_share(good, other)
    with pytest.raises(ValueError, match="at least 2 values"):
        m.bits_per_dimension(torch.zeros(1), 2, 0.1)
    with pytest.raises(ValueError, match="dims"):
        m.bits_per_dimension(torch.zeros(3), 0, 0.1)
    with pytest.raises(ValueError, match="bin_width"):
        m.bits_per_dimension(torch.zeros(3), 2, 0.0)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.10, got 11"):
        m.nearest_neighbours(good, good, 11)
    with pytest.raises(ValueError, match="samples and reference must be"):
        m.nearest_neighbours(other, good)
    with pytest.raises(ValueError, match="repeats"):
        m.nearest_distance(good, good, good, repeats=1)
    with pytest.raises(ValueError, match="at least 2 axes"):
        m.pixel_features(torch.zeros(3))
