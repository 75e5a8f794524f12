"""The centralised baseline, in a process of its own: the same model, trained on everybody's data in one place.

It reads one JSON line, its question, and prints one, its score. It gives way to the federation, but not so far
that a busy machine never lets it finish, and ends when its standard input does, so that it does not outlive its
launcher.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from ...crypto.errors import TertiumError
from ...learning.centralised import train_centralised
from ...learning.registry import load_task
from ...learning.task import LocalUpdate, ServerOptimiser
from ...protocol.site import OwnerPlan
from ...protocol.training import Score
from .. import spare_the_end
from ..errors import MISUSE, OK
from .recipes import Act, Recipe

_NICE = 5


class Question(msgspec.Struct, frozen=True):
    """What to train: the task with everybody's data, and the federated rounds it is compared with."""

    factory: str
    options: dict[str, Any]
    acts: tuple[tuple[int, OwnerPlan], ...]
    """First round and plan of each act."""
    owners: int
    seed: int


class Answer(msgspec.Struct, frozen=True):
    """What came of it."""

    score: Score
    losses: tuple[float, ...]
    """By round, the mean loss of its batches before each step, where the plans ask for the loss."""


class Baseline:
    """The baseline's process, seen from the launcher."""

    def __init__(self, recipe: Recipe, acts: tuple[Act, ...], seed: int, owners: int, folder: Path) -> None:
        question = Question(
            factory=recipe.factory,
            options=dict(recipe.pooled or {}),
            acts=tuple((act.first, act.plan) for act in acts),
            owners=owners,
            seed=seed,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._said: list[bytes] = [b"", b""]
        self._readers = [
            threading.Thread(target=self._read, args=(index,), name="baseline", daemon=True) for index in (0, 1)
        ]
        for reader in self._readers:
            reader.start()
        stdin = self._process.stdin
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.write(msgspec.json.encode(question) + b"\n")
                stdin.flush()

    @property
    def done(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def answer(self) -> Answer | str:
        """Return the answer of a process that has ended, or a sentence that says why there is none."""
        for reader in self._readers:
            reader.join(timeout=1.0)
        with contextlib.suppress(msgspec.MsgspecError):
            if self._process.returncode == 0:
                return msgspec.json.decode(self._said[0], type=Answer)
        words = self._said[1].decode(errors="replace").strip().splitlines()
        return words[-1] if words else f"it ended with status {self._process.returncode}"

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _read(self, index: int) -> None:
        stream = (self._process.stdout, self._process.stderr)[index]
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                self._said[index] = stream.read()


def answer(question: Question) -> Answer:
    """Train and return the final score, and the losses on the way; raises `SiteFileError` as the task does."""
    plans = [
        plan.training_plan(number - 1) for first, plan in question.acts for number in range(first, plan.rounds + 1)
    ]
    task, chosen = load_task(question.factory, question.options), question.acts[0][1]
    optimiser = None
    if chosen.optimiser is not None:
        optimiser = ServerOptimiser(chosen.optimiser.name, dict(chosen.optimiser.options), chosen.reduction)
    losses: list[float] = []

    def note(number: int, update: LocalUpdate) -> None:
        names = plans[number - 1].metrics
        losses.extend(value for name, value in zip(names, update.metrics, strict=True) if name == "loss")

    score = train_centralised(
        task, plans, owners=question.owners, seed=question.seed, optimiser=optimiser, each_update=note
    )
    return Answer(score, tuple(losses))


def main() -> int:
    """Answer the question on standard input."""
    spare_the_end()
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    try:
        found = answer(msgspec.json.decode(line, type=Question))
    except (TertiumError, msgspec.MsgspecError) as error:
        click.echo(str(error), err=True)
        return MISUSE
    click.echo(msgspec.json.encode(found).decode())
    return OK


def _end_with_stdin() -> None:
    descriptor = sys.stdin.fileno()
    # Not the buffered reader: its lock would be held while the interpreter ends.
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            time.sleep(0)
    os._exit(MISUSE)


if __name__ == "__main__":
    sys.exit(main())
