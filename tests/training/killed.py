"""Run by the reliability tests: kill a training run twenty times at random points, resume it, and compare with one that was left alone.

Each run is a fork of this process, so that torch is imported once. Prints one line of JSON.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from training.two_processes import data, drawn

from mathcore.networks import TimeMLP
from mathcore.settings import settings
from mathcore.training import TrainConfig, fit
from mathcore.training.checkpoints import digest_tensors, load_checkpoint

CONFIG = TrainConfig(steps=90, batch_size=8, warmup=10, decay="cosine", weight_decay=0.01, bfloat16=False)


def train(path):
    """One session: from the checkpoint if there is one."""
    torch.manual_seed(0 if not path.exists() else 99)  # whoever resumes needs no particular weights
    fit(TimeMLP(2, hidden=16, depth=2, d_embed=8), drawn, data, CONFIG, checkpoint=path, checkpoint_every=3, resume=path.exists())


def session(path, delay):
    """A forked session, killed after ``delay`` seconds; returns whether the kill found it alive."""
    child = os.fork()
    if child == 0:
        try:
            train(path)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    ended = time.monotonic() + delay
    while time.monotonic() < ended:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, status
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(folder, kills):
    settings.progress, settings.device = False, "cpu"
    torch.set_num_threads(1)
    fit(
        TimeMLP(2, hidden=16, depth=2, d_embed=8), drawn, data, replace(CONFIG, steps=2), checkpoint=folder / "warm"
    )  # imports, before the forks
    whole = folder / "whole"
    begun = time.monotonic()
    assert not session(whole, 1e9)
    length = time.monotonic() - begun
    want = digest_tensors(load_checkpoint(whole)[0])
    draw, killed, unfinished, steps, equal = random.Random(0), 0, 0, [], []
    while killed < kills:
        path = folder / f"run-{len(equal)}"
        for _ in range(3):  # up to three kills in one run
            if not session(path, draw.uniform(0, length)):
                break
            killed += 1
            unfinished += len(list(folder.glob(".*.tmp")))
            steps.append(load_checkpoint(path)[1]["step"] if path.exists() else 0)  # what is there is whole
        session(path, 1e9)
        equal.append(digest_tensors(load_checkpoint(path)[0]) == want)
    left = len(list(folder.glob(".*.tmp")))
    print(json.dumps({"killed": killed, "steps": steps, "equal": equal, "unfinished": unfinished, "left": left, "length": length}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
