"""Ctrl-C and SIGTERM leave a checkpoint of the step just taken; the resumed run ends in the bits of the uninterrupted one."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from mathcore.training import TrainConfig, fit, load_checkpoint
from mathcore.training.interrupt import Terminated, held_back

CONFIG = TrainConfig(steps=12, batch_size=8, ema=0.9)


@pytest.fixture(autouse=True)
def _keyboard():
    """What was started in the background ignores Ctrl-C; these tests press it, and send SIGTERM."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0]), signal.signal(signal.SIGTERM, before[1])


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def _loss(model, batch, generator):
    return (model(batch) - torch.randn(batch.shape, generator=generator)).square().mean()


def _data(n, generator):
    return torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_interrupted_run_resumes_to_the_same_bits(tmp_path, capfd, number, error):
    whole = fit(_net(), _loss, _data, CONFIG, device="cpu")
    path = tmp_path / "state.safetensors"

    def press(progress):
        if progress.step == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(error):
        fit(_net(), _loss, _data, CONFIG, device="cpu", checkpoint=path, on_step=press)
    assert capfd.readouterr().err.split("\n") == ["", "finishing the step under way, then a checkpoint; Ctrl-C again leaves without", ""]
    assert load_checkpoint(path)[1]["step"] == 5
    resumed = fit(_net(), _loss, _data, CONFIG, device="cpu", checkpoint=path, resume=True)
    assert torch.equal(resumed.losses, whole.losses)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_second_press_interrupts_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), held_back(True) as signalled:
        os.kill(os.getpid(), signal.SIGINT)
        assert signalled()
        reached.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(2)
    assert reached == [1]


def test_a_second_sigterm_is_patient_and_ctrl_c_after_it_is_not(capfd):
    reached = []
    with pytest.raises(KeyboardInterrupt), held_back(True) as signalled:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(signalled(), Terminated)
        assert signalled().code == 143
        reached.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(2)
    assert reached == [1]
    assert capfd.readouterr().err.count("finishing the step under way") == 1


def test_a_handler_of_somebody_else_stays():
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with held_back(True) as signalled:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signalled() is None
    assert heard == [signal.SIGTERM]


def test_nothing_is_held_back_without_a_checkpoint_or_in_another_thread():
    with pytest.raises(KeyboardInterrupt), held_back(False):
        os.kill(os.getpid(), signal.SIGINT)
    found = []

    def elsewhere():
        with held_back(True) as signalled:
            found.append((signalled(), signal.getsignal(signal.SIGINT) is signal.default_int_handler))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [(None, True)]
