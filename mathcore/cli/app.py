"""The commands and their options. What they do is imported when one is run, so that help costs nothing."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mathcore.cli.errors import OneLineErrors

app = typer.Typer(
    name="mathcore",
    cls=OneLineErrors,
    help="Train, sample and evaluate the models of the book, at the size of a laptop or of a cluster.",
    epilog="Start with:  mathcore train ddpm-digits",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Device = Annotated[
    str | None, typer.Option("--device", help="Torch device: cpu, cuda, cuda:1, mps. Default: cuda for --size gpu, else cpu.")
]
Target = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, checkpoint in one, or name of a trained experiment.")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="Way to draw samples. Default: the usual one of the experiment.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the sampler. Default: those of the experiment.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random numbers.")]


def loading() -> AbstractContextManager[object]:
    """Say on a terminal that a command is on its way while its imports take their seconds; the line vanishes with the block."""
    if "torch" in sys.modules or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("loading PyTorch")


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        import mathcore

        print(f"mathcore {mathcore.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Experiment; [cyan]mathcore experiments[/] lists them. With --resume also a run folder, or nothing."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="cpu: half a minute or less on one core, the default; gpu: full size.", show_default=False)
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.steps=400. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run. Default: _build/experiments/NAME-SIZE.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run where its last checkpoint is; its folder is enough, run.json has the rest.")
    ] = False,
    device: Device = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="float32, or bfloat16 for the forward passes. Default: the experiment's.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the data set first, if it is not here.")] = False,
    sample_every: Annotated[int, typer.Option("--sample-every", help="Steps between grids of samples; 0: only at the end.")] = 0,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            "--checkpoint-every",
            help="Steps between checkpoints. Ctrl-C and SIGTERM write one too, unless there are several processes. Default: 500.",
        ),
    ] = None,
) -> None:
    """Train an experiment; leave weights, loss curve, samples and a record of the run in one folder."""
    with loading():
        from mathcore.cli.train import run_training

    run_training(name, size, change or [], out, resume, device, precision, fetch, sample_every, checkpoint_every)


@app.command()
def sample(
    run: Target,
    n: Annotated[int, typer.Option("-n", "--number", help="How many samples.")] = 64,
    sampler: Sampler = None,
    steps: Steps = None,
    seed: Seed = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Weight of the conditional model, for models with labels.")] = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG to write; the tensor goes beside it. Default: into the run folder.")
    ] = None,
) -> None:
    """Draw samples of a trained model: a PNG grid and a safetensors file."""
    with loading():
        from mathcore.cli.sample import draw_samples

    draw_samples(run, n, sampler, steps, seed, guidance, device, out)


@app.command()
def evaluate(
    run: Target,
    n: Annotated[int, typer.Option("-n", "--number", help="How many samples are measured.")] = 256,
    sampler: Sampler = None,
    steps: Steps = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Measure a trained model: every number beside its Monte-Carlo floor and its sample size."""
    with loading():
        from mathcore.cli.evaluate import run_evaluation

    run_evaluation(run, n, sampler, steps, seed, device)


@app.command()
def experiments(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show one experiment with all its keys for --set.")] = None,
) -> None:
    """List the experiments with their sizes and expected times."""
    with loading():
        from mathcore.cli.listing import list_experiments, show_experiment

    if name is None:
        list_experiments()
    else:
        show_experiment(name)


@app.command(name="problem-sets")
def problem_sets(
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the course. Default: _build/problem_sets.")] = None,
    students: Annotated[Path | None, typer.Option("--students", help="CSV roster: numbers of their own for each student.")] = None,
    sources: Annotated[Path, typer.Option("--sources", help="Folder of the sources.")] = Path("notebooks/problem_sets"),
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="One problem set, such as ps02. May be repeated.")
    ] = None,
) -> None:
    """Generate the student release and the instructor's archive of the problem sets."""
    from mathcore.cli.problems import make_problem_sets

    make_problem_sets(sources, out, students, only or [])
