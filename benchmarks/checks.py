"""What the check of a sum adds to a round: a federation whose parties check beside one whose parties do not.

They run in this one thread, one after the other and in turn, so their rounds are made of the same work on the same
core: model out, three updates sealed, opened and added, the sum back, the step and its checkpoint. Never both at once:
two sets of vectors in memory would compare the kernel's pages. Training is a copy of a pattern; real training only
makes the share of the check smaller. Of each federation the median round counts, without the first, which makes its
memory; the share is the median over pairs. The bound is 15 % of a round of 25 million parameters.

Run: python -m benchmarks.checks [--parameters N] [--pairs N] [--cpu]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tertium.learning.numpy_task import Planted
from tertium.owner.asking import Asking
from tertium.owner.machine import ModelOwner
from tertium.owner.store import OwnerStore
from tertium.protocol.charter import Deadlines, Mode, Rules, SchemeName
from tertium.protocol.lanes.malloc import keep_freed_memory
from tertium.protocol.progress import RoundDone
from tertium.protocol.site import OwnerPlan
from tertium.simulation.federation import OWNER, Federation
from tertium.workers.data_owner import DataOwner

BOUND = 0.15
ROUNDS = 3
"""Of each federation, after the first."""
NAMES = ("alice", "bob", "carol")
_LONG = Deadlines(join=3600, upload=3600, close=3600, release=3600, statement=3600, absence=3600)


class Unchecked(ModelOwner):
    """Applies every sum as it comes."""

    def _verify(self, asking: Asking, now: float) -> None:
        if asking.verification is not None:
            self._give_up_verifying(asking, asking.verification, now)


class Silent(DataOwner):
    """Keeps nothing for a check."""

    def begin_answering(self, *_: Any) -> None:
        """Do nothing."""


def federation(folder: Path, parameters: int, rounds: int, *, checked: bool) -> Federation:
    """Return three data owners, a secure worker and a model owner that are about to begin."""
    machines = {} if checked else {OWNER: Unchecked, **dict.fromkeys(NAMES, Silent)}
    rules = Rules(mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=3, deadlines=_LONG)
    tasks = {name: Planted(parameters=parameters, pattern=0.25 * at) for at, name in enumerate(NAMES, 1)}
    plan = OwnerPlan(task="planted", rounds=rounds, kind="delta", metrics=())
    return Federation(
        tasks, Planted(parameters=parameters), plan, OwnerStore(folder, "npz"), rules=rules, machines=machines
    )


def done(run: Federation) -> list[RoundDone]:
    """Return the rounds a federation has finished."""
    return [line for line in run.progress[OWNER] if isinstance(line, RoundDone)]


def rounds_of(run: Federation, clock: Callable[[], float]) -> list[float]:
    """Run to the end; return what each round took."""
    took = []
    for number in range(ROUNDS + 1):
        before = clock()
        run.run(until=lambda number=number: len(done(run)) > number)
        took.append(clock() - before)
    return took


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns 1 if the bound is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=25_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="count this thread's CPU time")
    args = parser.parse_args(argv)
    clock: Callable[[], float] = time.thread_time if args.cpu else time.perf_counter
    keep_freed_memory()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.pairs):
        for checked, state in ((False, "unverified"), (True, "verified")):
            with tempfile.TemporaryDirectory() as folder:
                run = federation(Path(folder), args.parameters, ROUNDS + 1, checked=checked)
                seconds[checked].append(statistics.median(rounds_of(run, clock)[1:]))
                if {line.check for line in done(run)} != {state}:
                    raise SystemExit("benchmarks.checks: the rounds are not what they should be")
            del run
    share = statistics.median((one - other) / other for one, other in zip(seconds[True], seconds[False], strict=True))
    with_it, without = (statistics.median(seconds[checked]) for checked in (True, False))
    print(f"a round of {args.parameters:,} parameters, 3 data owners: {without:.2f} s, checked {with_it:.2f} s")
    print(f"the check adds {share:.1%} in the median of {args.pairs} pairs (bound {BOUND:.0%})")
    return int(share > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
