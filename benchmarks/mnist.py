"""MNIST on three owners with disjoint digits, 40 rounds in real processes, beside one plain PyTorch process.

The plain process takes the same batches from the same initial model: local steps in float32, averages in float64, and
nothing of this package but the order of the batches. Bounds, for each seed: the accuracies differ by at most 0.2
points. For all seeds of mode `trusted`: a median of at least 95.5 %. For one seed: mode `additive` with three holders
too; and the time from the first OpenRound to the last statement, at most 1.5 times that of the plain process, with one
thread or with one a core, whichever is faster. What is timed scores the model once, after the last round, and is not
scored at all in the plain process; the demo as it comes, with its twenty scores, is shown beside it.
The seeds are 1 to 5, whatever they give.

Run: python -m benchmarks.mnist [--data DIR] [--seeds N ...] [--rounds N] [--pairs N] [--threads N ...]
"""

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tertium.cli.demos.mnist import prepare
from tertium.cli.demos.play import play
from tertium.cli.demos.recipes import MNIST, Act, Recipe
from tertium.cli.trust import trust
from tertium.crypto.labels import Label, digest
from tertium.learning.batches import batch_order
from tertium.protocol.training import TrainingPlan

SEEDS = (1, 2, 3, 4, 5)
POINTS = 0.002
"""How far the accuracy may be from the plain process's."""
MEDIAN = 0.955
SLOWER = 1.5
HOLDERS = 3
OWNERS = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}


@dataclasses.dataclass(frozen=True)
class Plain:
    """What one plain process trained."""

    weights: dict[str, Any]
    """float32 tensors, by their names in the module."""
    accuracy: float
    seconds: float
    """Of the training alone: nothing read, nothing scored."""


def read(path: Path, skip: int) -> Any:
    """Return the bytes of a compressed IDX file after its header, without the reader that is measured beside this."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=skip)


def plain(folder: Path, seed: int, rounds: int, threads: int = 1) -> Plain:
    """Train in this process as anyone would write it in PyTorch."""
    import torch
    from torch import nn
    from torch.nn.functional import nll_loss

    def images(name: str) -> Any:
        pixels = torch.from_numpy(read(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy())
        return (pixels.to(torch.float32) / 255 - 0.1307) / 0.3081

    def answers(name: str) -> Any:
        return torch.from_numpy(read(folder / f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64))

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10), nn.LogSoftmax(dim=1)),
    )
    pixels, labels = images("train"), answers("train")
    rows = {name: np.flatnonzero(np.isin(labels.numpy(), digits)) for name, digits in OWNERS.items()}
    plan = TrainingPlan(task="mnist", batches=10, epochs=0, batch_size=32, seed=seed)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.optim.SGD(model.parameters(), lr=0.1)  # imports what it needs, once
    begun = time.perf_counter()
    for number in range(1, rounds + 1):
        sums = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in weights.items()}
        for owner, held in rows.items():
            model.load_state_dict(weights)
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            stream = digest(Label.BATCH_ORDER, seed.to_bytes(8, "big"), number.to_bytes(8, "big"), owner.encode())
            for order in batch_order(len(held), plan, stream):
                batch = torch.from_numpy(held[order])
                sgd.zero_grad()
                nll_loss(model(pixels[batch]), labels[batch]).backward()
                sgd.step()
            for name, value in model.state_dict().items():
                sums[name] += value.to(torch.float64)
        weights = {name: (value / len(rows)).to(torch.float32) for name, value in sums.items()}
    seconds = time.perf_counter() - begun
    model.load_state_dict(weights)
    with torch.no_grad():
        right = model(images("t10k")).argmax(1) == answers("t10k")
    return Plain(weights, float(right.double().mean()), seconds)


def alone(folder: Path, seed: int, rounds: int, threads: int = 1) -> tuple[float, float]:
    """Return accuracy and seconds of a plain process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--data", str(folder), "--rounds", str(rounds)]
    command += ["--plain", str(seed), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
    accuracy, seconds = json.loads(done.stdout)
    return accuracy, seconds


def unscored(recipe: Recipe) -> Recipe:
    """Return the demo with one evaluation, after the last round: what is left is training and protocol."""

    def acts(rounds: int, seed: int) -> tuple[Act, ...]:
        return tuple(
            dataclasses.replace(act, plan=msgspec.structs.replace(act.plan, evaluate_rounds=()))
            for act in recipe.acts(rounds, seed)
        )

    return dataclasses.replace(recipe, acts=acts, own_models=False, evaluation=None)


def federated(recipe: Recipe, seed: int, rounds: int, mode: str = "trusted") -> tuple[float, float]:
    """Return accuracy of a demo in real processes, and seconds from its first OpenRound to its last statement."""
    holders = HOLDERS if mode == "additive" else None
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with contextlib.redirect_stdout(io.StringIO()) as out:
            play(recipe, trust(mode, holders), rounds=rounds, seed=seed, out=run, as_json=True, verbose=False)
        log = (run / "owner" / "log").read_text()
    asked = re.search(r"^ *([\d.]+) round 1: asking ", log, re.MULTILINE)
    stated = re.search(rf"^ *([\d.]+) round {rounds}: aggregate of 3 applied, verified", log, re.MULTILINE)
    if asked is None or stated is None:
        raise SystemExit("benchmarks.mnist: the model owner's log does not say when it began and ended")
    return json.loads(out.getvalue())["accuracy"], float(stated[1]) - float(asked[1])


def accuracies(folder: Path, recipe: Recipe, seeds: Sequence[int], rounds: int) -> bool:
    """Compare seed by seed; print a line each and the median, and return whether the bounds are met."""
    met, found = True, []
    for number, seed in enumerate(seeds):
        expected, _ = alone(folder, seed, rounds)
        for mode in ("trusted", "additive") if number == 0 else ("trusted",):
            accuracy, seconds = federated(recipe, seed, rounds, mode)
            met &= abs(accuracy - expected) <= POINTS
            if mode == "trusted":
                found.append(accuracy)
            words = f"{accuracy:.2%}, plain process {expected:.2%}, difference {accuracy - expected:+.2%}"
            print(f"seed {seed}, {mode}: {words}; {seconds:.1f} s with all scores", flush=True)
    median = statistics.median(found)
    print(f"median of {len(found)} seeds in trusted: {median:.2%} (bound {MEDIAN:.1%} after {MNIST.rounds} rounds)")
    return met and (median >= MEDIAN or rounds < MNIST.rounds)


def times(folder: Path, recipe: Recipe, seed: int, rounds: int, pairs: int, threads: Sequence[int]) -> bool:
    """Time the rounds and the training alone in turn; print the ratios, and return whether the median is in bounds."""
    ratios = []
    for _ in range(pairs):
        by_threads = {number: alone(folder, seed, rounds, number)[1] for number in threads}
        _, ours = federated(unscored(recipe), seed, rounds)
        ratios.append(ours / min(by_threads.values()))
        words = ", ".join(f"{seconds:.1f} s with {number} thread(s)" for number, seconds in by_threads.items())
        print(f"{rounds} rounds: {ours:.1f} s; training alone: {words}; ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f} (bound {SLOWER})")
    return statistics.median(ratios) <= SLOWER


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns 1 if a bound is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with the four files; this user's cache by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--rounds", type=int, default=MNIST.rounds)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--plain", type=int, help=argparse.SUPPRESS)
    threads = sorted({1, os.cpu_count() or 1})
    parser.add_argument(
        "--threads", type=int, nargs="+", default=threads, help="how many to time the plain process with"
    )
    args = parser.parse_args(argv)
    if args.plain is not None:
        one = plain(args.data, args.plain, args.rounds, args.threads[0])
        print(json.dumps([one.accuracy, one.seconds]))
        return 0
    recipe = prepare(MNIST, args.data)
    folder = Path(dict(recipe.members[0].options or {})["data"])
    met = times(folder, recipe, (args.seeds or SEEDS)[0], args.rounds, args.pairs, args.threads) if args.pairs else True
    if args.seeds:
        met &= accuracies(folder, recipe, args.seeds, args.rounds)
    return int(not met)


if __name__ == "__main__":
    raise SystemExit(main())
