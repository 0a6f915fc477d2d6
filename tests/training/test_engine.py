"""One loop in one process or several: the bits of a plain loop, two launched processes against one, parts of a batch, bfloat16, compilation, layout."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn
from training import two_processes
from training.two_processes import config, data, drawn, fixed, network

from mathcore.networks import TimeMLP, UNet
from mathcore.settings import settings
from mathcore.training import TrainConfig, fit, launched, load_checkpoint, make_accelerator

SCRIPT = Path(two_processes.__file__)
LAUNCH = {  # what `accelerate config` would write; its command line alone offers several processes on a CPU only through MPI
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_GPU",
    "use_cpu": True,
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "main_process_port": 0,
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(settings, "_device", torch.device("cpu"))


@pytest.fixture
def alone():
    """An accelerator's settings are shared by all that are made in a process: forget them."""
    from accelerate.state import AcceleratorState, PartialState

    def reset():
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()

    reset()
    yield
    reset()


def images(n, generator):
    return torch.randn(n, 1, 8, 8, generator=generator)


def denoise(model, x, generator):
    t, noise = torch.rand(len(x), generator=generator), torch.randn(x.shape, generator=generator)
    return (model(x + t[:, None, None, None] * noise, t) - noise).square().mean()


def unet():
    torch.manual_seed(1)
    return UNet(1, 8, width=16)


def weights(model):
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def plain_loop(model, loss, draw, c):
    """The loop in its shortest form: seeds, clipping, warm-up, AdamW, average."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.lr, weight_decay=c.weight_decay, fused=True)
    for_batches, for_loss = torch.Generator().manual_seed(2 * c.seed), torch.Generator().manual_seed(2 * c.seed + 1)
    average, losses = [p.detach().clone() for p in model.parameters()], []
    for k in range(c.steps):
        optimizer.zero_grad()
        value = loss(model, draw(c.batch_size, for_batches), for_loss)
        value.backward()
        if c.grad_clip:
            nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)
        for group in optimizer.param_groups:
            rise = min(1.0, (k + 1) / c.warmup)
            group["lr"] = c.lr * rise * (0.5 * (1 + math.cos(math.pi * k / c.steps)) if c.decay == "cosine" else 1.0)
        optimizer.step()
        for a, p in zip(average, model.parameters()):
            a.lerp_(p.detach(), 1 - min(c.ema, (k + 2) / (k + 11)))
        losses.append(value.item())
    with torch.no_grad():
        for a, p in zip(average, model.parameters()):
            p.copy_(a)
    return model, torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("through", ["plain torch", "accelerate"])
@pytest.mark.parametrize("kind", ["points", "images"])
def test_one_process_has_the_bits_of_a_plain_loop(kind, through, alone):
    c = TrainConfig(steps=12, batch_size=8, warmup=5, decay="cosine", weight_decay=0.01, seed=4, ema=0.9, bfloat16=False)
    make, loss, draw = {"points": (lambda: network(0), drawn, data), "images": (unet, denoise, images)}[kind]
    accelerator = make_accelerator(c, "cpu") if through == "accelerate" else None
    got = fit(make(), loss, draw, c, accelerator=accelerator)
    model, losses = plain_loop(make(), loss, draw, c)
    assert torch.equal(got.losses, losses)
    assert torch.equal(weights(got.model), weights(model))


# --- several processes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder in which two processes, started by ``accelerate launch``, have left their runs."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "launch.json").write_text(json.dumps(LAUNCH))
    root = str(SCRIPT.parents[2])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "launch.json"), str(SCRIPT), str(folder)]
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_two_processes_ran_and_only_the_first_reported(two):
    records = [json.loads((two / f"process-{k}.json").read_text()) for k in (0, 1)]
    assert [r["processes"] for r in records] == [2, 2]
    assert all(r["launched"] for r in records)
    assert [r["calls"] for r in records] == [3 * 12, 0]


def test_both_processes_stop_when_one_of_them_meets_infinity(two):
    errors = {json.loads((two / f"process-{k}.json").read_text())["error"] for k in (0, 1)}
    assert errors == {"the loss is inf at step 1: lower the learning rate or look at the loss"}


@pytest.mark.parametrize("name", ["fixed", "accumulated", "drawn", "resumed"])
def test_two_processes_equal_one_with_twice_the_batch(two, name):
    """Sums of float32 in another order: 1e-7 a step, and Adam's division by the root of the second moment makes at most a few times that."""
    loss, options = two_processes.RUNS.get(name, (fixed, {}))
    if name == "drawn":  # the loss draws for each part of the batch: one process makes the same parts
        options = {**options, "accumulate": 2}
    elif name == "accumulated":  # the parts change nothing else
        options = {}
    want = fit(network(0), loss, data, config(**options))
    tensors, metadata = load_checkpoint(two / name)
    assert metadata["step"] == 12
    torch.testing.assert_close(tensors["losses"], want.losses, rtol=0, atol=1e-6)
    got = torch.cat([tensors[f"average/{i}"].double().flatten() for i in range(len(list(want.model.parameters())))])
    torch.testing.assert_close(got, weights(want.model), rtol=0, atol=1e-6)
    # the comparison can fail: another seed, or only the half of the batch that one process saw
    for other in (config(**{**options, "seed": 1}), replace(config(**options), batch_size=8)):
        assert (weights(fit(network(0), loss, data, other).model) - got).abs().max() > 1e-4


def test_a_run_of_two_processes_goes_on_in_one_with_as_many_parts(two, tmp_path):
    import shutil

    loss, options = two_processes.RUNS["drawn"]
    shutil.copy(two / "drawn", tmp_path / "c")
    c = replace(config(**options), accumulate=2)
    assert torch.isfinite(fit(network(0), loss, data, c, checkpoint=tmp_path / "c", resume=True).losses).all()
    with pytest.raises(RuntimeError, match="parts of a batch, processes times accumulate = 2 there, 1 here"):
        fit(network(0), loss, data, config(**options), checkpoint=tmp_path / "c", resume=True)


# --- one process, other ways to compute


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_accumulation_changes_only_the_rounding(parts):
    whole, split = (fit(network(0), fixed, data, config(accumulate=k)) for k in (1, parts))
    torch.testing.assert_close(split.losses, whole.losses, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(split.model), weights(whole.model), rtol=0, atol=1e-6)


def test_an_accumulated_run_resumes_to_the_same_bits(tmp_path):
    c = config(accumulate=4)
    whole = fit(network(0), drawn, data, c)
    fit(network(0), drawn, data, replace(c, steps=7), checkpoint=tmp_path / "c")
    again = fit(network(5), drawn, data, c, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(again.losses, whole.losses)
    assert torch.equal(weights(again.model), weights(whole.model))


def test_parts_of_a_batch_draw_different_numbers():
    seen = []

    def loss(model, batch, generator):
        seen.append(torch.randn(2, generator=generator))
        return drawn(model, batch, generator)

    fit(network(0), loss, data, config(accumulate=4))
    assert len(seen) == 48
    assert len({tuple(x.tolist()) for x in seen}) == 48


def test_bfloat16_through_accelerate_equals_torch_autocast(alone):
    c = TrainConfig(steps=10, batch_size=8, warmup=0, lr=1e-2, bfloat16=True)
    got = fit(unet(), denoise, images, c, accelerator=make_accelerator(c, "cpu"))
    want = fit(unet(), denoise, images, c)
    single = fit(unet(), denoise, images, replace(c, bfloat16=False))
    assert torch.equal(got.losses, want.losses)
    assert torch.equal(weights(got.model), weights(want.model))
    # eight bits of mantissa: the losses agree to a few per mille, and not to single precision
    assert 1e-6 < (want.losses / single.losses - 1).abs().max() < 2e-2


def test_channels_last_changes_only_the_rounding_and_resumes_to_the_same_bits(tmp_path):
    layouts = []

    def loss(model, x, generator):
        layouts.append(
            x.is_contiguous(memory_format=torch.channels_last) and model.stem.weight.is_contiguous(memory_format=torch.channels_last)
        )
        return denoise(model, x, generator)

    def colours(n, generator):
        return torch.randn(n, 3, 8, 8, generator=generator)

    def run(steps, last=True, **options):
        torch.manual_seed(1)
        model = UNet(3, 8, width=16)
        return fit(model, loss, colours, TrainConfig(steps=steps, batch_size=4, channels_last=last, bfloat16=False), **options)

    whole = run(10)
    assert layouts == [True] * 10
    plain = run(10, last=False)
    assert layouts[10:] == [False] * 10
    # per step 1e-6 relative at the most, and Adam turns a relative error of a small gradient into one of its whole step
    torch.testing.assert_close(whole.losses, plain.losses, rtol=1e-3, atol=0)
    run(6, checkpoint=tmp_path / "c")
    again = run(10, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(again.losses, whole.losses)
    assert torch.equal(weights(again.model), weights(whole.model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_training_is_the_same_training():
    """Dynamo and AOT autograd run, with the eager backend of the compiler's tests: no C++ compiler is asked for."""
    import torch._dynamo

    calls = []

    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    jaxtyping.config.update("jaxtyping_disable", True)  # the shape checker of the tests is no code to compile
    compile_, torch.compile = torch.compile, lambda model, **options: compile_(model, backend=backend, **options)
    try:
        c = config(compile=True)
        got = fit(network(0), fixed, data, c)
    finally:
        torch.compile = compile_
        jaxtyping.config.update("jaxtyping_disable", False)
    want = fit(network(0), fixed, data, config())
    assert calls
    torch.testing.assert_close(got.losses, want.losses, rtol=0, atol=1e-6)
    assert type(got.model) is TimeMLP
    assert list(got.model.state_dict()) == list(want.model.state_dict())


# --- refusals


def test_what_the_engine_refuses(user_errors, alone, monkeypatch):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    with pytest.raises(TypeError, match=r"accelerator must be an accelerate\.Accelerator, got str"):
        fit(network(0), fixed, data, config(), accelerator="cpu")
    with pytest.raises(ValueError, match="batch_size 16 cannot be divided into accumulate = 3 equal parts"):
        config(accumulate=3)
    for name in ("compile", "channels_last"):
        with pytest.raises(ValueError, match=f"{name} must be True or False, got 'yes'"):
            config(**{name: "yes"})
    with pytest.raises(ValueError, match=r"set TrainConfig\.accumulate instead of the accelerator's gradient_accumulation_steps = 2"):
        fit(network(0), fixed, data, config(), accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2))
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(ValueError, match="the configuration has bfloat16 = False, but accelerate has mixed_precision 'bf16'"):
        fit(network(0), fixed, data, config(), accelerator=Accelerator(cpu=True, mixed_precision="bf16"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="launched with mixed precision 'bf16', but the configuration has bfloat16 = False"):
        make_accelerator(config(), "cpu")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(RuntimeError, match=r"pip install 'mathcore\[full\]'"):
        make_accelerator(config(), "cpu")


def test_a_sampler_of_the_wrong_size_is_found_where_it_matters():
    with pytest.raises(ValueError, match=r"data was asked for 16 samples and returned \[5\]"):
        fit(network(0), fixed, lambda n, g: data(5, g), config(accumulate=2))


def test_launched_reads_what_launchers_set(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched()
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched()


# --- what a run tells while it goes


def test_progress_shows_the_run_and_lends_the_average(tmp_path):
    seen, averages = [], []
    c = config()

    def look(progress):
        before = weights(progress.model)
        with progress.averaged() as model:
            averages.append(weights(model))
            assert not model.training
        assert torch.equal(weights(progress.model), before)
        assert progress.model.training
        seen.append((progress.step, progress.steps, progress.loss, progress.learning_rate, progress.gradient_norm, len(progress.losses)))

    result = fit(network(0), drawn, data, c, on_step=look)
    quiet = fit(network(0), drawn, data, c)
    assert torch.equal(result.losses, quiet.losses)  # looking changes nothing
    assert torch.equal(averages[-1], weights(quiet.model))
    assert [s[0] for s in seen] == list(range(1, 13))
    assert [s[2] for s in seen] == result.losses.tolist()
    assert seen[0][3] == pytest.approx(c.lr / 3)
    assert all(s[4] > 0 and s[1] == 12 for s in seen)
    assert [s[5] for s in seen] == list(range(1, 13))
