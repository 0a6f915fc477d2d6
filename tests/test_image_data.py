"""Parquet files written here, as the Hub has them, and read back pixel by pixel; and every way in which they may be missing or wrong."""

import io
import sys

import pytest
import torch
from PIL import Image

from mathcore import image_data
from mathcore.image_data import IMAGE_SETS, fetch_images, load_images, quantisation
from mathcore.settings import settings


def pictures(name, n, seed=0):
    c, h, w = IMAGE_SETS[name].shape
    return torch.randint(256, (n, c, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def png(pixels):
    array = pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(path, pixels, labels, name="mnist", image="image", label="label", declared=True):
    """A parquet file: with the column types of ``datasets`` in its header, as on the Hub, or plain."""
    import pyarrow
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as Picture
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    content = {image: [png(p) for p in pixels], label: [int(k) for k in labels]}
    if declared:
        kinds = Features({image: Picture(), label: ClassLabel(names=list(IMAGE_SETS[name].classes)) if name else Value("int64")})
        Dataset.from_dict(content, features=kinds).to_parquet(path)
    else:
        parquet.write_table(pyarrow.table(content), path)


@pytest.mark.parametrize(
    ("name", "image", "declared"), [("mnist", "image", True), ("fashion_mnist", "image", False), ("cifar10", "img", True)]
)
def test_what_is_written_is_read_pixel_by_pixel(tmp_path, monkeypatch, name, image, declared):
    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path))
    pixels, labels = pictures(name, 23), torch.arange(23) % 10
    for k, part in enumerate((slice(0, 15), slice(15, 23))):  # in two files
        write(tmp_path / name / f"train-0000{k}-of-00002.parquet", pixels[part], labels[part], name, image, declared=declared)
    write(tmp_path / name / "test-00000-of-00001.parquet", pixels[:3], labels[:3], name, image, declared=declared)
    found = load_images(name)
    assert torch.equal(found.pixels, pixels)
    assert torch.equal(found.labels, labels)
    assert (found.name, found.split, len(found)) == (name, "train", 23)
    assert len(load_images(name, "test")) == 3
    images = found.images()
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(((images.double() + 1) * 127.5).round().to(torch.uint8), pixels)
    assert not list((tmp_path / name).glob("*.arrow"))


def test_batches(tmp_path, generator):
    pixels, labels = pictures("cifar10", 10), torch.arange(10)
    write(tmp_path / "train.parquet", pixels, labels, "cifar10")
    found = load_images("cifar10", folder=tmp_path)
    whole = found.images()
    x, y = found.sampler(labels=True)(200, generator)
    assert torch.equal(x, whole[y])
    assert len(set(y.tolist())) == 10  # each of ten is missed by 200 draws with probability 1e-9
    x, y = found.sampler(labels=True, flip=True, dtype=torch.float64)(200, generator)
    assert x.dtype == torch.float64
    whole, mirrored = found.images(torch.float64), found.images(torch.float64).flip(-1)
    plain = (x == whole[y]).flatten(1).all(1)
    assert torch.equal(~plain, (x == mirrored[y]).flatten(1).all(1))
    assert 60 <= int(plain.sum()) <= 140  # 100 +- 7
    again = found.sampler()(5, torch.Generator().manual_seed(1))
    assert torch.equal(again, found.sampler()(5, torch.Generator().manual_seed(1)))


def test_training_from_a_parquet_file(tmp_path, monkeypatch):
    from mathcore.networks import UNet
    from mathcore.training import TrainConfig, fit

    monkeypatch.setattr(settings, "_progress", False)
    write(tmp_path / "train.parquet", pictures("cifar10", 6), torch.arange(6), "cifar10")
    draw = load_images("cifar10", folder=tmp_path).sampler(flip=True)
    result = fit(
        UNet(3, 32, width=8), lambda m, x, g: (m(x, 0.5) - x).square().mean(), draw, TrainConfig(steps=2, batch_size=2), device="cpu"
    )
    assert torch.isfinite(result.losses).all()


def test_what_is_not_here_is_named_with_its_address_and_place(tmp_path, monkeypatch, user_errors):
    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path))
    with pytest.raises(
        RuntimeError,
        match=r"^image set 'cifar10' is not on this machine.*--fetch.*fetch https://huggingface\.co/datasets/uoft-cs/cifar10/.*test-.*parquet elsewhere and put it into .*/cifar10$",
    ):
        load_images("cifar10", "test")
    with pytest.raises(ValueError, match=r"name must be one of mnist, fashion_mnist, cifar10.*did you mean 'cifar10'"):
        load_images("cifar")
    with pytest.raises(ValueError, match=r"split must be one of train, test.*"):
        load_images("mnist", "tests")
    write(tmp_path / "mnist" / "train.parquet", pictures("mnist", 2), [0, 1])
    monkeypatch.setattr(image_data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"need the package datasets: pip install 'mathcore\[full\]'"):
        load_images("mnist")


def test_files_that_hold_something_else(tmp_path, user_errors):
    path = tmp_path / "train.parquet"
    bad = [
        (lambda: write(path, pictures("cifar10", 2), [0, 1], "cifar10"), r"image 0 has \(32, 32\) pixels, not \(28, 28\)"),
        (lambda: write(path, pictures("mnist", 2), [0, 11], None), r"labels are not whole numbers in 0\.\.9"),
        (lambda: write(path, pictures("mnist", 2), [0, 1], image="photo"), r"its columns are \['photo', 'label'\]"),
        (lambda: path.write_bytes(b"PAR1 this is no parquet file"), "cannot be read as mnist"),
        (lambda: path.write_bytes(b""), "cannot be read as mnist"),
    ]
    for make, message in bad:
        make()
        with pytest.raises(RuntimeError, match=message) as raised:
            load_images("mnist", folder=tmp_path)
        assert "\n" not in str(raised.value)
        assert "fetch https://huggingface.co/datasets/ylecun/mnist" in str(raised.value)


def test_without_a_network_the_download_says_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub

    def refused(*args, **kwargs):
        raise ConnectionError("connection refused\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(
        RuntimeError,
        match=r"^https://huggingface\.co/.*mnist.* could not be fetched \(ConnectionError: connection refused\); .* put it into .*$",
    ):
        fetch_images("mnist", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        fetch_images("mnits")


def test_a_download_is_put_where_it_is_looked_for(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        source = tmp_path / "cache" / file
        write(source, pictures("fashion_mnist", 4), range(4), "fashion_mnist")
        return str(source)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for _ in range(2):  # the second time nothing is asked for
        place = fetch_images("fashion_mnist", tmp_path / "here")
    assert asked == [("zalando-datasets/fashion_mnist", f"fashion_mnist/{s}-00000-of-00001.parquet", "dataset") for s in ("train", "test")]
    assert len(load_images("fashion_mnist", "test", folder=place)) == 4


def test_the_library_alone_does_not_import_datasets():
    assert image_data.__file__
    import subprocess

    code = "import sys, mathcore.image_data; print([m for m in ('datasets', 'huggingface_hub', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_grey_steps(user_errors):
    assert quantisation() == 2 / 255
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    assert (values.diff() - quantisation()).abs().max() < 1e-15
    with pytest.raises(ValueError, match="levels"):
        quantisation(1)
