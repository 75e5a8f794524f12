"""Many simulations: `python -m tertium.simulation.torture --seeds 0:500 [--jobs 2]`, or one: `--seed N --trace`.

A failure prints the seed, the invariant and what happened, the scenario in words, and the command that plays exactly
that again with everything that was seen. Exit status 0: nothing broke; 1: something did; 2: the arguments are none.
"""

import argparse
import concurrent.futures
import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from .invariants import ALL
from .scenario import FAMILIES, Scenario, draw
from .world import World

SHOWN = 5
"""Failures shown in full."""


@dataclass(frozen=True)
class Verdict:
    """What came of one seed."""

    seed: int
    broken: tuple[str, ...]
    released: int
    """Rounds that were released."""
    crashes: int
    steps: int


def replay_command(seed: int, family: str | None = None) -> str:
    """Return the command that plays a seed again."""
    only = "" if family is None else f" --family {shlex.quote(family)}"
    return f"python -m tertium.simulation.torture --seed {seed}{only} --trace"


def play(seed: int, folder: Path, scenario: Scenario | None = None, *, openings: Path | None = None) -> World:
    """Play one seed in a folder of its own under `folder`; what broke is in `World.broken`.

    With `openings`, parties keep there what they could open to an auditor.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"seed-{seed}-") as own:
        world = World(scenario or draw(seed), Path(own), ALL, openings=openings)
        world.play()
        return world


def verdict(seed: int, folder: Path, family: str | None = None) -> Verdict:
    """Play one seed, of one family if that is given, and say what came of it."""
    world = play(seed, folder, draw(seed, family))
    fired = sum(len(schedule.fired) for schedule in world.schedules.values())
    return Verdict(seed, tuple(world.broken), len(world.released), fired, world.steps)


def run(seeds: Sequence[int], jobs: int = 1, family: str | None = None) -> Iterator[Verdict]:
    """Play seeds over so many processes, all of one family if that is given; yields verdicts in their order."""
    with scratch() as folder:
        if jobs == 1:
            for seed in seeds:
                yield verdict(seed, folder, family)
            return
        with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(verdict, seeds, repeat(folder), repeat(family), chunksize=20)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is gone afterwards; in memory where there is such a place, for checkpoints are synced."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder in it, for this user alone
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="tertium-simulation-") as folder:
        yield Path(folder)


def explain(seed: int, broken: Sequence[str], family: str | None = None) -> str:
    """Return what a person needs to look into a failure."""
    lines = [f"seed {seed}: {text}" for text in broken]
    lines += [f"    {line}" for line in draw(seed, family).words()]
    return "\n".join([*lines, f"    replay: {replay_command(seed, family)}"])


def table() -> str:
    """Return the table of invariants, for the documentation."""
    rows = [f"| `{each.__name__}` | {' '.join((each.__doc__ or '').split())} | {each.why} |" for each in ALL]
    return "\n".join(["| invariant | holds | because |", "| --- | --- | --- |", *rows]) + "\n"


def _line(entry: tuple[object, ...]) -> str:
    at, what, *about = entry
    return f"{at:12.6f}  {what:10} {' '.join(str(each) for each in about)}"


def _replay(seed: int, family: str | None, *, trace: bool) -> int:
    with scratch() as folder:
        world = play(seed, folder, draw(seed, family))
    write = sys.stdout.write
    if trace:
        write("".join(f"{_line(entry)}\n" for entry in world.trace))
        for name, lines in world.progress.items():
            write("".join(f"{name}: {progress.line()}\n" for progress in lines))
    for line in world.scenario.words():
        write(f"{line}\n")
    ends = {name: world.parties[name].error if name in world.parties else "crashed" for name in world.roles}
    for name, error in ends.items():
        write(f"{name} ended: {error or 'done'}\n")
    write("\n".join(world.broken) + "\n" if world.broken else f"seed {seed}: no invariant broken\n")
    return 1 if world.broken else 0


def _seeds(text: str) -> range:
    first, _, last = text.partition(":")
    seeds = range(int(first), int(last)) if last else range(int(first))
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text} names no seeds")
    return seeds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tertium.simulation.torture", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=range(500), metavar="FROM:TO", help="seeds to play (0:500)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--seed", type=int, help="play this one alone, and say how everybody ended")
    parser.add_argument("--family", choices=FAMILIES, metavar="NAME", help="what each seed is in this family alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happened")
    parser.add_argument("--invariants", action="store_true", help="print the table of invariants, and play nothing")
    given = parser.parse_args(arguments)
    if given.invariants:
        sys.stdout.write(table())
        return 0
    if given.seed is not None:
        return _replay(given.seed, given.family, trace=given.trace)
    begun, played, released, crashes, failures = time.monotonic(), 0, 0, 0, list[Verdict]()
    for each in run(given.seeds, max(1, given.jobs), given.family):
        played, released, crashes = played + 1, released + each.released, crashes + each.crashes
        if each.broken:
            failures.append(each)
            if len(failures) <= SHOWN:
                sys.stdout.write(explain(each.seed, each.broken, given.family) + "\n")
        if played % 1000 == 0:
            sys.stdout.write(f"{played} played, {len(failures)} broken\n")
        sys.stdout.flush()
    if len(failures) > SHOWN:
        sys.stdout.write(f"also broken: seeds {', '.join(str(each.seed) for each in failures[SHOWN:][:100])}\n")
    seconds = time.monotonic() - begun
    sys.stdout.write(
        f"{played} simulations in {seconds:.0f} s: {released} rounds released, {crashes} crashes, "
        f"{len(failures)} with a broken invariant\n"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
