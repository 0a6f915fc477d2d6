"""Whatever is wrong is told in one line on stderr, with near matches, and exit code 2."""

import json

import pytest
import torch

from mathcore.training import save_checkpoint


def refused(result, *parts):
    """The command failed with code 2 and one line that holds all ``parts``."""
    assert result.exit_code == 2, (result.exit_code, result.stdout, result.stderr, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    for part in parts:
        assert part in lines[0], (part, lines[0])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("tran", "ddpm-digits"), ["'tran'", "'train'"]),
        (("train",), ["NAME"]),
        (("train", "ddpm-digts"), ["'ddpm-digts'", "did you mean ddpm-digits"]),
        (("train", "zzzzzz"), ["'zzzzzz'", "mathcore experiments lists them"]),
        (("train", "ddpm-digits", "--devce", "cpu"), ["--devce", "--device"]),
        (("train", "ddpm-digits", "--size", "gpus"), ["size must be one of cpu, gpu", "did you mean 'gpu'"]),
        (("train", "ddpm-digits", "--precision", "bfloat"), ["--precision", "'bfloat16'"]),
        (("train", "ddpm-digits", "--device", "cuda:7"), ["--device", "'cuda:7'"]),
        (("train", "ddpm-digits", "--device", "gpu0"), ["--device", "'gpu0'"]),
        (("train", "ddpm-digits", "--set", "train.stepz=3"), ["'train.stepz'", "'train.steps'"]),
        (("train", "ddpm-digits", "--set", "steps=3"), ["'steps'", "'train.steps'"]),
        (("train", "ddpm-digits", "--set", "train.steps"), ["key=value", "'train.steps'"]),
        (("train", "ddpm-digits", "--set", "train.steps=many"), ["train.steps must be a whole number", "'many'"]),
        (("train", "ddpm-digits", "--set", "train.steps=2.5"), ["train.steps must be a whole number", "'2.5'"]),
        (("train", "ddpm-digits", "--set", "train.steps=0"), ["steps must be", "0"]),
        (("train", "ddpm-digits", "--set", "train.lr=-1"), ["lr", "-1"]),
        (("train", "ddpm-digits", "--set", "train.decay=cosin"), ["decay", "'cosine'"]),
        (("train", "ddpm-digits", "--set", "objective.levels=5"), ["objective.levels", "21", "5"]),
        (("train", "ddpm-digits", "--set", "network.mults=1,x"), ["network.mults", "1,2,2"]),
        (
            ("train", "ddpm-digits", "--set", "network.mults=1,2,2,2,2"),
            ["network.mults=1,2,2,2,2", "divisible by 16, got 8", "--set network.mults=1,2,2,2 would do"],
        ),
        (("train", "ddpm-digits", "--set", "data=digit8"), ["data must be one of", "'digits8'"]),
        (("train", "ddpm-digits", "--set", "data=ring"), ["square images", "(2,)"]),
        (("train", "ddpm-digits", "--set", "sampler=dim"), ["sampler must be one of", "'ddim'"]),
        (("train", "score-ring", "--set", "objective.schedule=vpp"), ["objective.schedule", "'vp'"]),
        (("train", "score-ring", "--sample-every", "-1"), ["--sample-every", "-1"]),
        (("train", "ddpm-digits", "--set", "objective.levels=50"), ["sampler_steps=100", "objective.levels=50"]),
        (("train", "ddpm-digits", "--resume"), ["nothing to resume", "--out"]),
        (("train", "ddpm-digits", "--resume", "--out", "nowhere"), ["nothing to resume in nowhere", "--out"]),
        (("train", "ddpm-digits", "--resume", "--size", "gpus"), ["size must be one of cpu, gpu"]),
        (("train", "--resume"), ["--resume --out FOLDER"]),
        (("train", "reflow-digits"), ["reflow learns from the pairs of a trained flow", "mathcore train flow-matching-digits"]),
        (("experiments", "edm-digit"), ["'edm-digit'", "edm-digits"]),
        (("sample", "ddpm-digits"), ["there is no run of ddpm-digits", "mathcore train ddpm-digits"]),
        (("evaluate", "ddpm-digits"), ["there is no run of ddpm-digits", "mathcore train ddpm-digits"]),
        (("sample", "nowhere/at/all"), ["'nowhere/at/all'", "runs here: none"]),
        (("sample", "ddpm-digits", "-n", "0"), ["-n", "0"]),
        (("problem-sets", "--sources", "nowhere"), ["no problem sets in nowhere"]),
    ],
)
def test_refusals(mathcore, words, parts):
    """One line, and nothing before it: no first line of a run that never began."""
    result = mathcore(*words)
    refused(result, *parts)
    assert result.stdout == ""


def test_full_size_without_gpu(mathcore):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused(mathcore("train", "ddpm-digits", "--size", "gpu"), "GPU", "--size cpu", "--device cpu", "for days")


def test_a_wrong_device_or_data_set_is_told_before_a_folder_that_is_taken(mathcore, build, monkeypatch, tmp_path):
    """Which the user would otherwise hear of only after a second command."""
    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path / "data"))
    tiny = ("--set", "train.steps=1", "--set", "train.batch_size=4", "--set", "sampler_steps=1", "--out", tmp_path / "run")
    assert mathcore("train", "ddpm-digits", *tiny).exit_code == 0
    refused(mathcore("train", "ddpm-digits", *tiny), "holds a run already")
    refused(mathcore("train", "ddpm-digits", *tiny, "--device", "gpu"), "--device", "'gpu'")
    missing = mathcore("train", "ddpm-digits", *tiny, "--set", "data=cifar10")
    assert missing.exit_code == 1
    assert "add --fetch" in missing.stderr


def test_a_file_in_the_place_of_a_folder(mathcore, tmp_path):
    file, run = tmp_path / "afile", tmp_path / "run"
    file.write_text("kept")
    assert mathcore("train", "score-ring", "--set", "train.steps=1", "--out", run).exit_code == 0
    for words in (
        ("train", "vae-ring", "--out", file),
        ("train", "vae-ring", "--out", file / "below" / "it"),
        ("train", "--resume", "--out", file),
        ("sample", run, "--out", file / "x.png"),
        ("problem-sets", "--out", file / "course"),
    ):
        result = mathcore(*words)
        refused(result, f"{file} is a file, not a folder")
        assert result.stdout == ""
    assert file.read_text() == "kept"


def test_data_that_are_not_here(mathcore, monkeypatch, tmp_path):
    monkeypatch.setenv("MATHCORE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = mathcore("train", "ddpm-digits", "--size", "gpu", "--device", "cpu")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "mnist" in result.stderr
    assert "add --fetch to mathcore train" in result.stderr
    assert result.stdout == ""


def test_folder_that_holds_no_run(mathcore, tmp_path):
    refused(mathcore("sample", tmp_path), "without run.json")
    (tmp_path / "run.json").write_text("{ no json")
    refused(mathcore("sample", tmp_path), "run.json")
    (tmp_path / "run.json").write_text(json.dumps({"name": "of somebody else", "sessions": [], "config": {}}))
    refused(mathcore("sample", tmp_path), "not written by mathcore train")


def test_checkpoint_outside_of_a_run(mathcore, tmp_path):
    save_checkpoint(tmp_path / "weights.safetensors", {"a": torch.zeros(2)}, {})
    refused(mathcore("sample", tmp_path / "weights.safetensors"), "run.json")


def test_an_error_nobody_foresaw_keeps_its_traceback(mathcore, monkeypatch):
    monkeypatch.setattr("mathcore.cli.listing.list_experiments", lambda: 1 / 0)
    assert isinstance(mathcore("experiments").exception, ZeroDivisionError)


def test_traceback_on_demand(mathcore, monkeypatch):
    monkeypatch.setenv("MATHCORE_TRACEBACK", "1")
    assert isinstance(mathcore("train", "no-such").exception, ValueError)
