"""Random message sequences against the real machines: `python tests/sequences/sequence_run.py --sequences 0:1000000`.

A sequence is some steps of an honest run, so that its messages meet the machines somewhere on the way of a round, and
then 3 to 12 steps of whoever attacks: messages mostly, and what the network, the clock and the operators can do. After
each the watch (`sequence_watch.py`) has seen every effect of every machine.

Sequences come in runs of `RUN`, which share one federation: what one has brought about is where the next begins. So the
federation of a run has seen many rounds, attempts, sessions and restarts, and a sequence starts from no clean state but
the first of its run. Half of the runs take a few honest steps before each sequence. The other half stands still for
some sequences and then goes on for much of a round: else an attack ends most rounds before anything is released. In
half of the runs the secure worker crashes now and then while it has contributions, so that another attempt follows, in
which whoever attacks says again what was said in the one before. A failure names run, sequence and step, and the
command that plays the run again and cuts it down.
"""

import argparse
import concurrent.futures
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sequence_aids import Chance, quick
from sequence_attack import HOSTILE, Attacker
from sequence_watch import Watch
from sequence_world import DEEP, LINKS, ROLES, TICKS, Broken, Setting, World, people
from tertium.crypto.errors import TertiumError
from tertium.protocol.charter import Role
from tertium.protocol.messages import Message
from tertium.protocol.rounds import TABLES, Phase
from tertium.simulation.federation import THIRD

RUN = 100
"""Sequences that share one federation."""
LEAPS, LEAP = 0.06, 140
"""Share of sequences before which a run that leaps goes on, and for how many honest steps at most: a round has 117."""
AGAIN = 0.2
"""Share of an attack's steps in which something of the attempt before is said again, while there is one."""
Pair = tuple[str, str, type[Message]]
"""Role, phase, kind of message."""
Changes = Mapping[Role, Callable[[Any], Any]]


@dataclass
class Outcome:
    """What came of a run."""

    run: int
    sequences: int = 0
    messages: int = 0
    accepted: int = 0
    releases: int = 0
    broken: str | None = None
    at: tuple[int, int] = (0, 0)
    trace: list[str] = field(default_factory=list)
    tried: Counter[Pair] = field(default_factory=Counter)
    taken: Counter[Pair] = field(default_factory=Counter)


class Run:
    """One federation, and the sequences it is put through."""

    def __init__(
        self,
        number: int,
        changes: Changes | None = None,
        skipped: frozenset[tuple[int, int]] = frozenset(),
        *,
        hostile: tuple[str, ...] | None = None,
        fickle: bool | None = None,
    ) -> None:
        """`skipped` are steps of whoever attacks that are left out, to find which ones matter.

        `hostile` and `fickle` fix what is otherwise drawn: whose keys are held, and how training comes out.
        """
        self.outcome = Outcome(number)
        self._chance, self._skipped = Chance(number * 1_000_003), skipped
        setting = Setting.draw(self._chance)
        if fickle is not None:
            setting = dataclasses.replace(setting, fickle=fickle)
        drawn = self._chance.choice(HOSTILE)
        self.hostile = drawn if hostile is None else hostile
        identities, charter = people(setting.stable)
        self.watch = Watch(identities, charter, setting.stable)
        self._where = Chance(0)
        self.world = World(setting, self.watch, changes)
        self.world.deep = lambda: self._where.random() < DEEP
        self.attacker = Attacker(self.world, self.watch, self.hostile, self._chance)
        self.world.heard = self.attacker.hear

    def play(self, sequences: int = RUN) -> Outcome:
        """Play so many sequences, or until something breaks."""
        outcome = self.outcome
        try:
            with quick():
                for number in range(sequences):
                    self._sequence(number)
                    outcome.sequences += 1
        except Broken as broken:
            outcome.broken = str(broken)
        outcome.tried, outcome.taken = self.world.tried, self.world.taken
        outcome.releases = self.watch.releases
        return outcome

    def _sequence(self, number: int) -> None:
        # Each sequence and each step draws from a seed of its own: leaving one out changes no other's choices.
        chance, world, base = self._chance, self.world, (self.outcome.run * RUN + number) * 16
        chance.seed(base)
        self.outcome.at = (number, 0)
        for _ in range(self._honest_steps(chance)):
            world.honest(chance)
            if chance.random() < world.setting.crashes and world.has_contributions():
                self._note(f"restart: {THIRD}, with contributions")
                world.restart(THIRD)
            if chance.random() < TICKS:
                world.tick(chance.choice(_NAMES))
        for step in range(1, 1 + chance.choice((3, 3, 4, 4, 4, 4, 5, 5, 6, 8, 12))):
            chance.seed(base + step)
            self.outcome.at = (number, step)
            if (number, step) not in self._skipped:
                self._hostile_step(chance)

    def _honest_steps(self, chance: Random) -> int:
        if not self.world.setting.leaps:
            return int(chance.choice((0, 0, 1, 2, 3, 6, 9, 15)))
        return chance.randrange(20, LEAP) if chance.random() < LEAPS else chance.choice((0, 0, 1, 2))

    def _hostile_step(self, chance: Random) -> None:
        drawn, world = chance.random(), self.world
        target = chance.choice(_NAMES)
        if chance.random() < AGAIN and self._replay(chance):
            return
        if drawn < 0.92:
            made = None
            for _ in range(20):
                target = min(chance.choice(_NAMES), chance.choice(_NAMES), key=world.rarely)
                made = self.attacker.message(target)
                if made is not None:
                    break
            else:
                world.honest(chance)
            if made is None:
                return
            self._give(target, *made)
            return
        if drawn < 0.965:
            self._body(chance)
        elif drawn < 0.975:
            pair = chance.choice(LINKS)
            self._note(f"connection lost: {pair}")
            world.unlink(pair, "the network")
        elif drawn < 0.98:
            # The secure worker's is what makes another attempt at a round.
            target = chance.choice((target, THIRD))
            self._note(f"restart: {target}")
            world.restart(target)
        elif drawn < 0.987:
            seconds = chance.choice((0.5, 1.5, 4.0, 12.0, 31.0))
            self._note(f"{seconds} s pass")
            world.pass_time(seconds)
        elif drawn < 0.993 and self.attacker.known.get("subject"):
            subject = chance.choice(self.attacker.known["subject"])
            self._note(f"a transfer of {target} breaks off")
            world.fail(target, chance.choice(_NAMES), subject)
        elif drawn < 0.997:
            if ROLES[target] is not Role.SECURE_WORKER:  # which has no work thread
                self._note(f"work of {target} fails, or comes too late")
                tag = chance.choice(("00", world.work.get(target, ("00", None))[0]))
                if chance.random() < 0.3:
                    world.full_disk(target)
                else:
                    world.worked(target, tag, chance.choice((TertiumError("no"), None)))
        elif drawn < 0.999:
            self._note(f"interrupt: {target}")
            world.interrupt(target)
        else:
            world.wait()

    def _replay(self, chance: Random) -> bool:
        """Say again what was said in an earlier attempt to somebody who is in another, and hand its body over."""
        world = self.world
        again = [name for name in _NAMES if world.in_another_attempt(name)]
        target = chance.choice(again) if again else ""
        made = self.attacker.of_the_attempt_before(target) if again else None
        if made is None:
            return False
        taken = self._give(target, *made)
        head = getattr(made[1], "head", None)
        if taken and head is not None and chance.random() < 0.8 and (target, head.subject) in world.transfers():
            world.transfer((target, head.subject))
        return True

    def _give(self, target: str, peer: str, message: Message) -> bool:
        self._note(f"{peer} -> {target}: {type(message).__name__}")
        self.outcome.messages += 1
        taken = self.world.give(target, peer, message, forged=True)
        self.outcome.accepted += taken
        return taken

    def _body(self, chance: Random) -> None:
        ready = self.world.transfers()
        if not ready:
            return
        key = chance.choice(ready)
        spoil = chance.choice((None, None, _flipped, _short, _longer))
        self._note(f"a body for {key[0]}{', spoiled' if spoil else ''}")
        self.world.transfer(key, spoil)

    def _note(self, line: str) -> None:
        number, step = self.outcome.at
        self.outcome.trace.append(f"{number}.{step} {line}")


_NAMES = tuple(ROLES)


def _flipped(records: list[bytes]) -> list[bytes]:
    return [records[0][:-1] + bytes([records[0][-1] ^ 1]), *records[1:]]


def _short(records: list[bytes]) -> list[bytes]:
    return [records[0][:-3]]


def _longer(records: list[bytes]) -> list[bytes]:
    return [*records, b"more"]


AMONG_SEVERAL = {(Role.SECURE_WORKER, Phase.LISTED), (Role.SECURE_WORKER, Phase.CLOSED)}
"""Where only a secure worker comes that has others to agree with; the federation of the sequences has one."""


def legal_pairs() -> set[Pair]:
    """Return every role, phase and kind of message that the tables hold for a federation with one secure worker."""
    return {
        (role.value, phase.value, kind)
        for role, table in TABLES.items()
        for phase, row in table.items()
        if (role, phase) not in AMONG_SEVERAL
        for kind in row
        if isinstance(kind, type)
    }


def play(number: int) -> Outcome:
    """Play one run."""
    return Run(number).play()


def runs(numbers: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Play runs over so many processes; yields in their order."""
    if jobs == 1:
        yield from map(play, numbers)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(play, numbers, chunksize=4)


def cut_down(number: int, changes: Changes | None = None) -> tuple[Outcome, list[str]]:
    """Play a run that breaks, leaving out ever more of the attack as long as it breaks alike; returns what is left."""
    first = Run(number, changes).play()
    if first.broken is None:
        return first, []
    kind = _kind(first.broken)
    steps = [(s, at) for s in range(first.at[0] + 1) for at in range(1, 13)]
    left, size = steps, max(1, len(steps) // 2)
    best = first
    while size:
        start = 0
        while start < len(left):
            fewer = left[:start] + left[start + size :]
            again = Run(number, changes, frozenset(set(steps) - set(fewer))).play(first.at[0] + 1)
            if again.broken is not None and _kind(again.broken) == kind:
                left, best = fewer, again
            else:
                start += size
        size //= 2
    return best, best.trace


def _kind(broken: str) -> str:
    return " ".join(word for word in broken.split()[:4] if not any(c.isdigit() for c in word))


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last)) if last else range(int(first))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status 1 if a sequence broke something or a pair of the tables was not tried."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=_range, default=range(20_000), metavar="FROM:TO")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--run", type=int, help="play this run alone; if it breaks, cut it down and print what is left")
    given = parser.parse_args(arguments)
    write = sys.stdout.write
    if given.run is not None:
        outcome, trace = cut_down(given.run)
        write("".join(f"{line}\n" for line in trace))
        write(f"run {given.run}: {outcome.broken or 'nothing broke'}\n")
        return 1 if outcome.broken else 0
    numbers = range(given.sequences.start // RUN, -(-given.sequences.stop // RUN))
    begun, total, broken = time.monotonic(), Outcome(0), 0
    for outcome in runs(numbers, max(1, given.jobs)):
        total.sequences += outcome.sequences
        total.messages += outcome.messages
        total.accepted += outcome.accepted
        total.releases += outcome.releases
        total.tried += outcome.tried
        total.taken += outcome.taken
        if outcome.broken is not None:
            broken += 1
            write(f"run {outcome.run}, sequence {outcome.at[0]}, step {outcome.at[1]}: {outcome.broken}\n")
            write(f"    replay: python tests/sequences/sequence_run.py --run {outcome.run}\n")
        sys.stdout.flush()
    missed = legal_pairs() - set(total.tried)
    for role, phase, kind in sorted(missed, key=str):
        write(f"not tried: {kind.__name__} at a {role} that is {phase}\n")
    seconds = time.monotonic() - begun
    write(
        f"{total.sequences} sequences in {seconds:.0f} s: {total.messages} hostile messages, {total.accepted} of them "
        f"taken, {total.releases} aggregates released and added up again; {len(total.tried)} of {len(legal_pairs())} "
        f"pairs of phase and message tried, {len(total.taken)} taken; {broken} runs broken\n"
    )
    return 1 if broken or missed else 0


if __name__ == "__main__":
    sys.exit(main())
