"""A demo without torch, run as a program by the tests: real processes that start in a second, and faults on request."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tertium.cli.demos import launcher
from tertium.cli.demos.play import play
from tertium.cli.demos.recipes import Act, Member, Recipe
from tertium.cli.errors import run
from tertium.cli.trust import trust
from tertium.learning.numpy_task import NumpyTask, NumpyTrainer
from tertium.protocol.charter import Role
from tertium.protocol.site import OwnerPlan

FAULTS = ("noise", "paced", "quit")
PACE = 0.25
"""Seconds that a paced training waits first."""


class Faulty(NumpyTask):
    """A logistic regression at a site where something else is wrong."""

    def __init__(self, *, fault: str = "", **options: Any) -> None:
        super().__init__(model="logistic", features=3, **options)
        self.fault = fault

    def trainer(self) -> NumpyTrainer:
        if self.fault == "noise":
            os.write(1, b'{"event":"nonsense"}\n\x1b[2J\xff\xfe' + b"x" * 200_000 + b"\n")
        return _wrap(self, super().trainer())


def _wrap(task: Faulty, trainer: NumpyTrainer) -> NumpyTrainer:
    train = trainer.train

    def faulty(*arguments: Any) -> Any:
        if task.fault == "quit":
            os._exit(7)
        if task.fault == "paced":
            time.sleep(PACE)
        return train(*arguments)

    trainer.train = faulty  # type: ignore[method-assign]
    return trainer


def in_acts(number: int) -> Callable[[int, int], tuple[Act, ...]]:
    """Return what makes so many acts of the same rounds, each but the last of one round."""

    def acts(rounds: int, seed: int) -> tuple[Act, ...]:
        def act(first: int, last: int) -> Act:
            plan = OwnerPlan(task="numbers", rounds=last, batches=2, batch_size=8, seed=seed)
            return Act(f"{last - first + 1} rounds", plan, first=first)

        return (*(act(each, each) for each in range(1, number)), act(number, rounds))

    return acts


def numbers(faults: dict[str, str], acts: int) -> Recipe:
    def member(name: str, party: int) -> Member:
        options = {"party": party, "examples": 40, "fault": faults.get(name, "")}
        return Member(name, Role.DATA_OWNER, "green", "", options)

    return Recipe(
        name="numbers",
        title="a regression",
        task="numbers",
        factory="numbers_demo:Faulty",
        members=(
            Member("owner", Role.MODEL_OWNER, "cyan", "", {"examples": 0, "test_examples": 100}),
            member("alice", 1),
            member("bob", 2),
            member("charlie", 3),
            Member("third", Role.SECURE_WORKER, "yellow", ""),
        ),
        pooled={"examples": 120, "test_examples": 100},
        rounds=4,
        acts=in_acts(acts),
        minimum_cohort=3,
        needs=("matplotlib",),
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--rounds", type=int)
@click.option("--seed", type=int, default=0)
@click.option("--json", "as_json", is_flag=True)
@click.option("--mode", default="trusted")
@click.option("--secure-workers", type=int)
@click.option("--notice", type=float)
@click.option("--orderly", type=float)
@click.option("--acts", type=int, default=1)
@click.option("--fault", "faults", type=(str, click.Choice(FAULTS)), multiple=True)
def main(
    out: Path | None,
    rounds: int | None,
    seed: int,
    as_json: bool,
    mode: str,
    secure_workers: int | None,
    notice: float | None,
    orderly: float | None,
    acts: int,
    faults: tuple[tuple[str, str], ...],
) -> int:
    """Play the numbers demo."""
    if notice is not None:
        launcher.NOTICE = notice
    if orderly is not None:
        launcher._ORDERLY = orderly
    trusted = trust(mode, secure_workers)
    return play(numbers(dict(faults), acts), trusted, rounds=rounds, seed=seed, out=out, as_json=as_json, verbose=False)


if __name__ == "__main__":
    sys.exit(run(main))
