"""The folder of a run: its record, its pictures and curves read back, resumed runs, full disks, and files that do not belong there."""

import errno
import json
import math
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image
from training.two_processes import config, data, drawn, fixed, network

from mathcore.settings import settings
from mathcore.training import CheckpointError, TrainConfig, fit, load_checkpoint, run_folder
from mathcore.training.interrupt import Terminated
from mathcore.training.pictures import image_grid, loss_curve, save_grid
from mathcore.training.run_folder import load_weights, read_run, train_in_folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))


@pytest.fixture
def no_tensorboard(monkeypatch):
    """Without its event files, whose import takes a second; the warning about it is tried by itself."""
    monkeypatch.setattr(run_folder, "_writer", lambda folder, step: None)


def points(model):
    return model(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), 0.5)


def curves(folder):
    """What TensorBoard itself reads from the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_run_leaves_everything_and_resumes_to_the_same_bits(tmp_path):
    want = fit(network(0), drawn, data, config())
    folder = tmp_path / "deep" / "run"
    options = {"log_every": 2, "checkpoint_every": 3, "sample": points, "sample_every": 4, "command": "mathcore train ring"}

    def dying(model, batch, generator, calls=iter(range(1, 100))):  # noqa: B008  (one counter is the point)
        if next(calls) == 9:
            raise RuntimeError("the machine is wanted elsewhere\nand now")
        return drawn(model, batch, generator)

    with pytest.raises(RuntimeError, match="elsewhere"):
        train_in_folder(folder, "ring", network(0), dying, data, config(), info={"experiment": "ring"}, **options)
    record = read_run(folder)
    assert record["sessions"][0]["outcome"] == "stopped: RuntimeError: the machine is wanted elsewhere"
    with pytest.raises(CheckpointError, match=r"is not finished \(stopped: RuntimeError.*\): resume it first"):
        load_weights(folder, network(0))
    with pytest.raises(FileExistsError, match=r"there is a run in .*run already"):
        train_in_folder(folder, "ring", network(0), drawn, data, config())

    result = train_in_folder(folder, "ring", network(9), drawn, data, config(), resume=True, **options)
    assert torch.equal(result.losses, want.losses)
    model = network(3)
    record = load_weights(folder, model)
    assert not model.training
    for key, value in want.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key

    assert (record["name"], record["seed"], record["info"]) == ("ring", 0, {"experiment": "ring"})
    assert TrainConfig(**record["config"]) == config()
    sessions = record["sessions"]
    assert [s["resumed"] for s in sessions] == [False, True]
    assert sessions[1]["outcome"] == "finished"
    assert sessions[1]["command"] == "mathcore train ring"
    assert sessions[1]["versions"]["torch"] == torch.__version__
    assert sessions[1]["hardware"]["cores"] == os.cpu_count()
    assert sessions[1]["hardware"]["device"] == "cpu"
    assert sessions[1]["loss"] == pytest.approx(float(want.losses.mean()), rel=1e-12)
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [f"step-{k:06d}.png" for k in (4, 8, 12)]
    with Image.open(folder / "loss.png") as picture:
        assert picture.size == (720, 420)

    events = curves(folder / "tensorboard")
    scalars = events.Scalars("loss")
    assert [s.step for s in scalars] == [2, 4, 6, 8, 10, 12]  # steps 7 and 8 were taken twice and are there once
    assert [s.value for s in scalars] == pytest.approx(want.losses.reshape(6, 2).mean(1).tolist(), rel=1e-6)
    assert events.Scalars("learning rate")[-1].value == pytest.approx(config().lr)
    assert all(s.value > 0 for s in events.Scalars("norm of the gradient"))
    assert [i.step for i in events.Images("samples")] == [4, 8, 12]


@pytest.mark.usefixtures("no_tensorboard")
def test_the_command_line_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mathcore", "train", "two words"])
    train_in_folder(tmp_path / "r", "r", network(0), fixed, data, config())
    assert read_run(tmp_path / "r")["sessions"][0]["command"] == "mathcore train 'two words'"
    assert not (tmp_path / "r" / "samples").exists()


@pytest.mark.usefixtures("no_tensorboard")
def test_resuming_what_is_not_there_or_is_another_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"no run in .*nowhere: .*run\.json does not exist"):
        train_in_folder(tmp_path / "nowhere", "r", network(0), fixed, data, config(), resume=True)
    folder = tmp_path / "r"
    train_in_folder(folder, "r", network(0), fixed, data, config())
    with pytest.raises(CheckpointError, match="is 'r', not 'other'"):
        train_in_folder(folder, "other", network(0), fixed, data, config(), resume=True)
    with pytest.raises(CheckpointError, match="another configuration: seed = 0 there, 5 here"):
        train_in_folder(folder, "r", network(0), fixed, data, config(seed=5), resume=True, info={"seed": 5})
    assert read_run(folder)["info"] == {}  # what was refused is not written down
    assert read_run(folder)["config"]["seed"] == 0  # what was refused is not written down as the configuration
    longer = replace(config(), steps=15)
    assert len(train_in_folder(folder, "r", network(0), fixed, data, longer, resume=True).losses) == 15
    assert read_run(folder)["config"]["steps"] == 15
    (folder / "checkpoint.safetensors").unlink()  # killed before its first checkpoint: begins again
    again = train_in_folder(folder, "r", network(0), fixed, data, config(), resume=True)
    assert torch.equal(again.losses, fit(network(0), fixed, data, config()).losses)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_weights(folder, torch.nn.Linear(2, 2))
    (folder / "model.safetensors").write_bytes((folder / "checkpoint.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds no weights but 'training'"):
        load_weights(folder, network(0))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}'])
def test_records_that_are_none(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json (cannot be read|is no record of a run)"):
        read_run(tmp_path)


@pytest.mark.parametrize("file", [".checkpoint.safetensors.", ".run.json.", "samples"])
@pytest.mark.usefixtures("no_tensorboard")
def test_a_disk_that_fills_up_gives_one_error_and_keeps_what_was_good(tmp_path, monkeypatch, file):
    folder, full = tmp_path / "r", False
    real = os.fsync

    def limited(handle):
        if full and file in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", limited)

    def sample(model):
        nonlocal full
        full = True  # from step 6 on
        if file == "samples":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return points(model)

    unwritten = pytest.warns(UserWarning, match="the end of the session could not be written") if file == ".run.json." else nullcontext()
    with unwritten, pytest.raises(CheckpointError, match=r"^[^\n]*No space left on device[^\n]*$"):
        train_in_folder(folder, "r", network(0), drawn, data, config(), checkpoint_every=3, sample=sample, sample_every=6)
    full = False
    _, metadata = load_checkpoint(folder / "checkpoint.safetensors")
    assert metadata["step"] in (6, 12)
    if file == ".checkpoint.safetensors.":
        assert "No space left" in read_run(folder)["sessions"][0]["outcome"]
    again = train_in_folder(folder, "r", network(0), drawn, data, config(), resume=True)
    assert torch.equal(again.losses, fit(network(0), drawn, data, config()).losses)
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.usefixtures("no_tensorboard")
def test_a_terminated_run_says_so_and_its_record_is_for_all_to_read(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL), os.umask(0o022)

    def loss(model, batch, generator, calls=iter(range(1, 100))):  # noqa: B008  (one counter is the point)
        if next(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return drawn(model, batch, generator)

    try:
        with pytest.raises(Terminated):
            train_in_folder(tmp_path / "r", "r", network(0), loss, data, config())
    finally:
        signal.signal(signal.SIGTERM, before[0]), os.umask(before[1])
    assert read_run(tmp_path / "r")["sessions"][0]["outcome"] == "terminated"
    assert (tmp_path / "r" / "run.json").stat().st_mode & 0o777 == 0o644
    again = train_in_folder(tmp_path / "r", "r", network(0), drawn, data, config(), resume=True)
    assert torch.equal(again.losses, fit(network(0), drawn, data, config()).losses)


@pytest.mark.usefixtures("no_tensorboard")
def test_nan_leaves_the_last_good_state_and_says_so(tmp_path):
    calls = iter(range(1, 100))

    def loss(model, batch, generator):
        return drawn(model, batch, generator) * (math.nan if next(calls) == 8 else 1.0)

    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 8: .*; the checkpoint of step 6 is in .*checkpoint\.safetensors"
    ):
        train_in_folder(tmp_path / "r", "r", network(0), loss, data, config(), checkpoint_every=3)
    assert read_run(tmp_path / "r")["sessions"][0]["outcome"].startswith("stopped: FloatingPointError: the loss is nan at step 8")
    tensors, metadata = load_checkpoint(tmp_path / "r" / "checkpoint.safetensors")
    assert metadata["step"] == 6
    assert all(torch.isfinite(v).all() for v in tensors.values())


def test_without_tensorboard_there_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"no curves for TensorBoard: pip install 'mathcore\[full\]'"):
        train_in_folder(tmp_path / "r", "r", network(0), fixed, data, config())
    assert not (tmp_path / "r" / "tensorboard").exists()


@pytest.mark.usefixtures("no_tensorboard")
def test_bad_intervals(tmp_path, user_errors):
    with pytest.raises(ValueError, match="log_every must be an integer of at least 1"):
        train_in_folder(tmp_path / "r", "r", network(0), fixed, data, config(), log_every=0)
    with pytest.raises(ValueError, match="sample_every must be an integer of at least 0"):
        train_in_folder(tmp_path / "r", "r", network(0), fixed, data, config(), sample_every=-1)
    assert not (tmp_path / "r").exists()


# --- pictures


def test_a_grid_shows_every_pixel_where_it_belongs():
    images = torch.linspace(-1, 1, 5 * 16 * 16).reshape(5, 1, 16, 16)
    grid = image_grid(images, columns=3)  # two rows; each pixel twice
    assert grid.shape == (3, 2 * 34 + 2, 3 * 34 + 2)
    for k in range(5):
        top, left = 2 + k // 3 * 34, 2 + k % 3 * 34
        cell = grid[:, top : top + 32 : 2, left : left + 32 : 2]
        assert (cell.float() / 127.5 - 1 - images[k]).abs().max() <= 1 / 255 + 1e-6  # half a grey level
    assert (grid[:, 36:, 70:] == 255).all()  # no sixth image
    colour = torch.full((1, 3, 40, 40), -1.0)
    colour[:, 0] = 7.0  # beyond white is white
    assert image_grid(colour)[:, 5, 5].tolist() == [255, 0, 0]


def test_pictures_are_files_that_can_be_read(tmp_path):
    for samples in (torch.zeros(4, 3, 32, 32), torch.randn(20, 2)):
        pixels = save_grid(samples, tmp_path / "s.png")
        with Image.open(tmp_path / "s.png") as picture:
            assert picture.size == (pixels.shape[2], pixels.shape[1])
    loss_curve(torch.tensor([1.0, -0.5]), tmp_path / "l.png")
    assert (tmp_path / "l.png").stat().st_size > 1000


def test_pictures_of_the_wrong_things(tmp_path, user_errors):
    for bad, what in (
        (torch.zeros(2, 2, 8, 8), r"\(N, 3, H, W\)"),
        (torch.zeros(0, 1, 8, 8), "must have shape"),
        (torch.zeros(3, 8), "4 axes"),
    ):
        with pytest.raises(ValueError, match=what):
            image_grid(bad)
    with pytest.raises(TypeError, match="images must be a floating-point tensor"):
        image_grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="columns"):
        image_grid(torch.zeros(1, 1, 8, 8), columns=0)
    with pytest.raises(ValueError, match="samples contains NaN"):
        save_grid(torch.full((3, 2), math.nan), tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"images \(N, C, H, W\) or points \(N, 2\), got shape \(3, 3\)"):
        save_grid(torch.zeros(3, 3), tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one value"):
        loss_curve(torch.zeros(0), tmp_path / "x.png")
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == "[]"
