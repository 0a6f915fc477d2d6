"""On a CUDA device: exact fields, solvers and likelihoods beside the CPU in float64, and training with its checkpoints. Skipped where there is none.

Both devices round to nearest in float64 and differ in the order of sums and in the last bit of exp, log and roots. A result of ``n`` such operations whose
errors the problem enlarges by ``growth`` may then differ by ``n * growth * eps`` of its size. A path through single precision would leave 1e-7, and fails.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from mathcore import solvers
from mathcore.cli import app
from mathcore.distributions import GaussianMixture
from mathcore.dynamics.adaptive import odeint_adaptive
from mathcore.dynamics.integrate import odeint_fixed
from mathcore.dynamics.likelihood import log_likelihood_ode
from mathcore.networks import TimeMLP, UNet
from mathcore.oracle import AffineGaussianOracle
from mathcore.schedules import AffineSchedule
from mathcore.settings import settings
from mathcore.solvers import SolverTable, grids
from mathcore.training import TrainConfig, fit, load_checkpoint
from mathcore.training.footprint import footprint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

CUDA = torch.device("cuda")
F64 = torch.float64
EPS = torch.finfo(F64).eps
OPERATIONS = 200
"""More than the operations between the input of a field of three components in the plane and one number of its output."""

VP, TRIG = AffineSchedule.vp(), AffineSchedule.trig()
SCHEDULES = {"vp": VP, "trig": TRIG, "ve": AffineSchedule.ve(sigma_max=10.0), "edm": AffineSchedule.edm(t_max=10.0)}


def near(got: Tensor, want: Tensor, growth: float) -> None:
    """Compare a result on the GPU with that of the CPU, as the head of this module says."""
    assert got.device.type == CUDA.type
    assert got.dtype == want.dtype
    apart, size = float((got.detach().cpu() - want.detach()).abs().max()), max(1.0, float(want.detach().abs().max()))
    assert apart <= OPERATIONS * growth * EPS * size, (apart, size, growth)


def law(form: str = "full") -> GaussianMixture:
    """Three components in the plane, float64, on the CPU."""
    g = torch.Generator().manual_seed(0)
    root = 0.4 * torch.randn(3, 2, 2, generator=g, dtype=F64)
    covs = {"isotropic": torch.tensor([0.1, 0.3, 0.2], dtype=F64), "full": root @ root.mT + 0.1 * torch.eye(2, dtype=F64)}
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.randn(3, 2, generator=g, dtype=F64), covs[form])


def oracles(schedule: AffineSchedule, form: str = "full") -> tuple[AffineGaussianOracle, AffineGaussianOracle]:
    """The same oracle on the CPU and on the GPU."""
    return AffineGaussianOracle(law(form), schedule), AffineGaussianOracle(law(form).to(device=CUDA), schedule)


@pytest.mark.parametrize("form", ["isotropic", "full"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_fields_agree_with_the_cpu(name: str, form: str) -> None:
    """The growth: condition of the covariances (at most 20 here) times the largest exponent, which is what exp turns into a relative error."""
    schedule = SCHEDULES[name]
    here, there = oracles(schedule, form)
    for u in (0.02, 0.3, 0.9):
        t = schedule.t_min + u * (schedule.t_max - schedule.t_min)
        x = here.marginal(t).sample(50, torch.Generator().manual_seed(1))
        rows = torch.full((50,), t, dtype=F64)
        growth = 20 * (1 + float(here.log_prob(x, t).abs().max()))
        for field in ("score", "clean", "noise", "velocity", "log_prob", "divergence", "posterior_cov"):
            want = getattr(here, field)(x, t)
            for time in (t, torch.tensor(t, dtype=F64), rows, rows.to(CUDA)):
                near(getattr(there, field)(x.to(CUDA), time), want, growth)


def test_the_expanded_form_of_many_points_agrees_with_the_cpu() -> None:
    """Above a size the distances are one matrix product; it cancels, by |x|^2 over the variance, and is in float64 on either device."""
    one = law("isotropic")
    x = one.sample(2**19 // 6 + 1000, torch.Generator().manual_seed(1))
    growth = 20 * (1 + float(one.log_prob(x).abs().max()) + float(x.square().sum(1).max()) / 0.1)
    for method in ("score", "log_prob"):
        near(getattr(one.to(device=CUDA), method)(x.to(CUDA)), getattr(one, method)(x), growth)


def test_points_are_drawn_by_generators_of_the_device() -> None:
    there = law().to(device=CUDA)
    x, again = (there.sample(40_000, torch.Generator(CUDA).manual_seed(3)) for _ in range(2))
    assert torch.equal(x, again)
    spread = law().cov().diagonal().sqrt() / len(x) ** 0.5
    assert bool(((x.mean(0).cpu() - law().mean()).abs() < 5 * spread).all())


TABLES: dict[str, Callable[[AffineSchedule, Tensor], SolverTable]] = {
    "ddim": solvers.ddim,
    "ancestral": solvers.ancestral,
    "euler_maruyama": solvers.euler_maruyama,
    "predictor_corrector": solvers.predictor_corrector,
    "heun": solvers.heun,
    "rk4": solvers.rk4,
    "edm_heun": solvers.edm_heun,
    "deis": lambda s, t: solvers.deis(s, t, order=3),
    "dpm_solver": lambda s, t: solvers.dpm_solver(s, t, order=3),
    "dpm_solver_pp": solvers.dpm_solver_pp,
    "dpm_solver_pp, sde": lambda s, t: solvers.dpm_solver_pp(s, t, sde=True),
    "unipc": solvers.unipc,
    "exponential_heun": solvers.exponential_heun,
}


@pytest.mark.parametrize("name", TABLES)
def test_solvers_agree_with_the_cpu(name: str) -> None:
    """The growth: calls of the model, times what the run makes of a shift of its start, measured on the CPU; noises are given, so that both see the same."""
    here, there = oracles(VP)
    table = TABLES[name](VP, grids.uniform_lambda(VP, 15))
    g = torch.Generator().manual_seed(2)
    x, z = torch.randn(20, 2, generator=g, dtype=F64), torch.randn(len(table.steps), 20, 2, generator=g, dtype=F64)
    noise = (lambda k: z[k]) if table.stochastic else None
    want = table.run(here.noise, x, noise=noise)
    shift = 1e-6
    enlarged = float((table.run(here.noise, x + shift, noise=noise) - want).abs().max()) / shift
    growth = 20 * table.nfe * max(1.0, enlarged)
    near(table.run(there.noise, x.to(CUDA), noise=noise), want, growth)
    if table.stochastic:
        seeded = [table.run(there.noise, x.to(CUDA), torch.Generator(CUDA).manual_seed(5)) for _ in range(2)]
        assert torch.equal(*seeded)


@pytest.mark.parametrize("method", ["heun", "rk4", "ab4", "implicit_euler"])
def test_differential_equations_agree_with_the_cpu(method: str) -> None:
    """The growth: calls times what a step enlarges, below 20 from the data to the noise, times the condition as above."""
    here, there = oracles(TRIG)
    x, ts = law().sample(20, torch.Generator().manual_seed(1)), torch.linspace(0.05, 1.5, 31, dtype=F64)
    near(odeint_fixed(there.velocity, x.to(CUDA), ts, method), odeint_fixed(here.velocity, x, ts, method), 20 * 20 * 4 * len(ts))


def test_adaptive_solutions_agree_with_the_cpu() -> None:
    """To their tolerances: a last bit may decide whether a step is accepted."""
    here, there = oracles(TRIG)
    x, ends = law().sample(20, torch.Generator().manual_seed(1)), torch.tensor([0.05, 1.5], dtype=F64)
    got, want = (odeint_adaptive(o.velocity, x.to(o.data.means.device), ends, rtol=1e-9, atol=1e-9) for o in (there, here))
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=20 * 1e-7)
    torch.testing.assert_close(there.flow_map(x.to(CUDA), 0.05, 1.5).cpu(), here.flow_map(x, 0.05, 1.5), rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", ["exact", "closed form"])
def test_likelihoods_agree_with_the_cpu_and_with_the_exact_density(divergence: str) -> None:
    here, there = oracles(TRIG)
    x = law().sample(20, torch.Generator().manual_seed(1))
    ts = 0.05 + 1.45 * torch.linspace(0, 1, 81, dtype=F64)

    def value(oracle: AffineGaussianOracle, start: Tensor) -> Tensor:
        kind = "exact" if divergence == "exact" else oracle.divergence
        return log_likelihood_ode(oracle.velocity, lambda y: oracle.log_prob(y, 1.5), start, ts, "rk4", kind)

    got = value(there, x.to(CUDA))
    near(got, value(here, x), 20 * 20 * 4 * len(ts))
    torch.testing.assert_close(got.cpu(), here.log_prob(x, 0.05), rtol=0, atol=1e-4)  # fourth order in a step of 0.018


def test_the_estimated_divergence_draws_its_probes_on_the_device() -> None:
    """Unbiased: the mean over 400 probes lies within five standard errors of the exact value."""
    there = oracles(TRIG)[1]
    x = law().sample(1, torch.Generator().manual_seed(1)).to(CUDA).expand(400, 2).contiguous()
    path = (torch.linspace(0.05, 1.5, 41, dtype=F64), "rk4")
    values = log_likelihood_ode(
        there.velocity, lambda y: there.log_prob(y, 1.5), x, *path, "hutchinson", generator=torch.Generator(CUDA).manual_seed(0)
    )
    exact = log_likelihood_ode(there.velocity, lambda y: there.log_prob(y, 1.5), x[:1], *path)
    assert abs(float(values.mean() - exact)) < 5 * float(values.std()) / 20


@pytest.mark.parametrize("kind", ["points", "images"])
def test_networks_and_their_derivatives_agree_with_the_cpu(kind: str) -> None:
    """Thirty layers at the most, sums of a few hundred terms, weights of a size that enlarges little."""
    torch.manual_seed(0)
    net: nn.Module = (TimeMLP(2) if kind == "points" else UNet(1, 8, width=16)).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    g = torch.Generator().manual_seed(0)
    x = torch.randn((6, 2) if kind == "points" else (6, 1, 8, 8), generator=g, dtype=F64)
    v, t = torch.randn(x.shape, generator=g, dtype=F64), torch.rand(6, generator=g, dtype=F64)
    want = torch.func.jvp(lambda a: net(a, t), (x,), (v,))
    net.to(CUDA)
    got = torch.func.jvp(lambda a: net(a, t.to(CUDA)), (x.to(CUDA),), (v.to(CUDA),))
    for a, b in zip(got, want, strict=True):
        near(a, b, 30)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Single precision without the shorter mantissa of tensor cores, deterministic kernels, no progress bars, no shape checks."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(settings, "_progress", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    jaxtyping.config.update("jaxtyping_disable", False)


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """Smooth images: one wave of a random phase."""
    phase = 2 * math.pi * torch.rand(n, 1, 1, 1, generator=generator)
    return torch.cos(torch.linspace(0, math.pi, 16)[None, None, :, None] + phase) * torch.ones(1, 3, 1, 16)


def denoise(model: Callable[..., Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
    t = torch.rand(len(x), generator=generator, device=x.device)
    level = t.reshape(-1, *[1] * (x.ndim - 1))
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (model((1 - level) * x + level * noise, t) - noise).square().mean()


def ring(n: int, generator: torch.Generator) -> Tensor:
    angle = torch.rand(n, generator=generator) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def network(kind: str = "unet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TimeMLP(2, hidden=32) if kind == "mlp" else UNet(3, 16, width=32, mults=(1, 2))


PLAIN = TrainConfig(steps=30, batch_size=32, lr=2e-3, warmup=5, bfloat16=False)
RUNS: dict[str, tuple[str, Any, TrainConfig]] = {
    "points": ("mlp", ring, replace(PLAIN, decay="cosine", weight_decay=0.01)),
    "tensor": ("mlp", ring(50, torch.Generator().manual_seed(0)), PLAIN),
    "images": ("unet", pictures, PLAIN),
    "images, bfloat16, channels last": ("unet", pictures, replace(PLAIN, bfloat16=True, channels_last=True)),
    "images, in parts": ("unet", pictures, replace(PLAIN, accumulate=4)),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_resumes_to_the_same_bits(name: str, tmp_path: Path, exact: None) -> None:
    """Under deterministic kernels; without them the sums of a gradient may change their order from run to run."""
    kind, data, config = RUNS[name]

    def stop(progress: Any) -> None:
        if progress.step == 17:
            raise InterruptedError

    whole = fit(network(kind), denoise, data, config, device=CUDA, checkpoint=tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fit(network(kind), denoise, data, config, device=CUDA, checkpoint=tmp_path / "c", checkpoint_every=7, on_step=stop)
    again = fit(network(kind, 5), denoise, data, config, device="cuda:0", checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(again.losses, whole.losses)
    got, want = (load_checkpoint(tmp_path / file)[0] for file in ("c", "whole"))
    assert got.keys() == want.keys()
    assert [key for key in want if not torch.equal(got[key], want[key])] == []
    assert {p.device.type for p in again.model.parameters()} == {"cuda"}


@pytest.mark.parametrize(
    ("change", "rounding"),
    [({"channels_last": True}, 2**-24), ({"accumulate": 4}, 2**-24), ({"bfloat16": True}, 2**-9)],
    ids=["channels last", "accumulate", "bfloat16"],
)
def test_other_ways_to_compute_are_the_same_training(change: dict[str, Any], rounding: float, exact: None) -> None:
    """Off by the rounding of 30 layers in a row, which in single precision adds up over the steps. The loss takes its noise from the batch, lest its
    parts draw other noise."""

    def given(model: Callable[..., Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        level = torch.linspace(0.1, 0.9, 7, device=x.device)[(100 * x[:, 0, 0, 0].abs()).long() % 7]
        noise = torch.cos(40 * x + 7 * torch.arange(16, device=x.device))
        return (model(x + level[:, None, None, None] * noise, level) - noise).square().mean()

    want = fit(network(), given, pictures, PLAIN, device=CUDA).losses
    got = fit(network(), given, pictures, replace(PLAIN, **change), device=CUDA).losses
    assert want[-5:].mean() < 0.9 * want[0]
    allowed = 30 * len(want) * rounding if rounding < 1e-6 else 30 * rounding
    assert float((got - want).abs().max()) <= allowed * float(want[0])
    other = fit(network(), given, pictures, replace(PLAIN, seed=1), device=CUDA).losses
    assert float((other - want).abs().max()) > 30 * len(want) * 2**-24  # the comparison can fail


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_compiled_run_is_the_same_training(bfloat16: bool, exact: None) -> None:
    """Bounds as above."""
    torch.use_deterministic_algorithms(False)
    config = replace(PLAIN, compile=True, channels_last=True, bfloat16=bfloat16)
    got, want = (fit(network(), denoise, pictures, replace(config, compile=c), device=CUDA).losses for c in (True, False))
    assert float((got - want).abs().max()) <= (30 * 2**-9 if bfloat16 else 30 * len(want) * 2**-24) * float(want[0])


@pytest.mark.parametrize(("first", "second"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_of_one_device_goes_on_on_the_other(first: str, second: str, tmp_path: Path, exact: None) -> None:
    """Weights, average and moments are the same numbers; the noise is new, since each kind of device has a generator of its own."""
    before = fit(network(), denoise, pictures, PLAIN, device=first, checkpoint=tmp_path / "c").losses
    tensors, _ = load_checkpoint(tmp_path / "c")
    same = fit(network(seed=5), denoise, pictures, PLAIN, device=second, checkpoint=tmp_path / "c", resume=True)
    assert torch.equal(same.losses, before)
    for k, p in enumerate(same.model.parameters()):
        assert p.device.type == second
        assert torch.equal(p.detach().cpu(), tensors[f"average/{k}"])
    runs = []
    for k in (0, 1):
        copy = Path(shutil.copy(tmp_path / "c", tmp_path / f"c{k}"))
        runs.append(fit(network(seed=5), denoise, pictures, replace(PLAIN, steps=40), device=second, checkpoint=copy, resume=True).losses)
    assert torch.equal(*runs)
    assert float(runs[0][30:].mean()) < 1.2 * float(before[-10:].mean())


def test_the_memory_of_a_run_is_at_least_what_was_counted(exact: None) -> None:
    """Weights, gradients, moments, average and activations are counted without a device; what cuDNN works with comes on top."""
    counted = footprint(lambda: UNet(3, 32, width=64, mults=(1, 2)), (3, 32, 32), 64).total
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    config = replace(PLAIN, steps=3, batch_size=64)
    fit(UNet(3, 32, width=64, mults=(1, 2)), denoise, torch.randn(64, 3, 32, 32), config, device=CUDA)
    used = torch.cuda.max_memory_allocated() - before
    assert 0.9 * counted < used < 3 * counted, (used, counted)


def test_a_run_of_the_command_line_names_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: None) -> None:
    monkeypatch.setattr(settings, "_device", None)
    monkeypatch.setenv("MATHCORE_BUILD", str(tmp_path))
    short = "--set train.steps=4 --set sampler_steps=5 --precision bfloat16 --device"
    for words in (f"train {short} cuda", "sample -n 9 --device cuda", "evaluate -n 8 --device cuda", "evaluate -n 8 --device cpu"):
        command, *options = words.split()
        done = CliRunner().invoke(app, [command, "score-sde-digits", *options])
        assert done.exit_code == 0, (done.stderr, done.exception)
    used = json.loads((tmp_path / "experiments" / "score-sde-digits-cpu" / "run.json").read_text())["sessions"][0]["hardware"]
    assert used["accelerator"] == torch.cuda.get_device_name()
    assert used["accelerator_memory"] == torch.cuda.get_device_properties(0).total_memory


def test_a_device_that_is_not_there_is_told_in_one_line(tmp_path: Path, user_errors: None) -> None:
    number = torch.cuda.device_count()
    message = f"asks for 'cuda:{number}', but torch sees {number} CUDA devices; use cpu or another machine"
    with pytest.raises(ValueError, match=message):
        settings.device = f"cuda:{number}"
    done = CliRunner().invoke(app, ["train", "ddpm-ring", "--device", f"cuda:{number}", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert done.stderr.strip() == f"Error: --device {message}"
    assert not (tmp_path / "run").exists()
