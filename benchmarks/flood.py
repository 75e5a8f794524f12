"""What an attack costs the honest: rounds at a secure worker under a flood, beside rounds without one, in one run.

    python -m benchmarks.flood [--seconds N] [--turns N] [--connections N]

One federation of real processes runs round after round (3 parameters, 3 honest data owners). In turn there is

- *quiet*: nobody else;
- *flood*: 1,000 connections of strangers (`benchmarks/hostile.py`), two more that come back as fast as they can, a data
  owner that announces terabytes each round, and a program with another party's keys that floods the control lane;
- *neighbour*: the same flood at the secure worker of another federation on this machine. What it costs is what the
  attackers, and a victim that withstands them, take of the machine's cores; the rest of *flood* is ours.

The figure of a turn is the median of the seconds the model owner says each round took. Attackers are elsewhere in
life, so here they have the last core to themselves, and the federation has the others, in all turns; with `--together`
they share all cores, at the lowest priority. `--enemies` leaves some of them out. The CPU time of the secure worker is
steadier than the clock, so it stands beside, with its memory and its descriptors.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tertium.protocol import limits

from .hostile import SWITCH
from .place import OWNER, THIRD, Place

SLOWER = 1.20
"""Most a round may take under the flood, as a multiple of one without."""
GROWTH = 64 * limits.MIB
DEADLINE = 60.0
_SETTLE = 2.0
"""Seconds between the start of a turn and of its measurement."""
ENEMIES = ("strangers", "hasty", "announcer", "babbler")
_HONEST = 3
_FOR_EVER = "import sys; from tertium.cli import main; sys.exit(main([w for w in sys.argv[1:] if w != '--once']))"


class Turn(NamedTuple):
    """What one turn came to."""

    median: float
    rounds: int
    cpu: float
    """CPU seconds of the secure worker a second."""
    memory: int
    """Resident bytes of the secure worker at the end."""
    descriptors: int


def resident(pid: int, field: str = "VmRSS") -> int:
    """Return the resident set of a process, or with `VmHWM` its peak, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * limits.KIB
    raise ValueError(field)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Federation:
    """A federation that runs round after round, and its enemies."""

    def __init__(self, enemies: Sequence[str], pause: float, *, apart: bool) -> None:
        self.enemies, self.pause = enemies, pause
        self._cores = {max(os.sched_getaffinity(0))} if apart else os.sched_getaffinity(0)
        self.place = Place(parameters=3, cohort=_HONEST + 2, rounds=1_000_000)
        self.switch = self.place.root / "flood"
        self.announcer, self.babbler = self.place.names[_HONEST:]

    def start(self) -> None:
        """Start everybody and wait for rounds; then the party whose keys the babbler has leaves."""
        os.environ[SWITCH] = str(self.switch)
        for name in (OWNER, THIRD, *self.place.names):
            program = ("-m", "benchmarks.hostile", "announcer") if name == self.announcer else ()
            process = self.place.start(name, *program)
            if name == self.announcer:
                os.sched_setaffinity(process.pid, self._cores)
        self.await_rounds(3)
        self.place.processes[self.babbler].kill()
        self.await_rounds(20)

    def start_secure_worker(self) -> None:
        """Start the secure worker alone, to wait for ever."""
        self.place.start(THIRD, "-c", _FOR_EVER)

    @property
    def pid(self) -> int:
        """The secure worker's process."""
        return self.place.processes[THIRD].pid

    def seconds(self) -> list[float]:
        """Return what each round so far took."""
        return [line["seconds"] for line in self.place.lines(OWNER) if line["event"] == "round-done"]

    def await_rounds(self, more: int) -> None:
        """Wait until so many more rounds are done."""
        goal, until = len(self.seconds()) + more, time.monotonic() + DEADLINE
        while len(self.seconds()) < goal:
            ended = [name for name, process in self.place.processes.items() if process.poll() is not None]
            if time.monotonic() > until or set(ended) - {self.babbler}:
                raise RuntimeError(f"no {more} rounds in {DEADLINE:g} s; ended: {ended}")
            time.sleep(0.1)

    @contextlib.contextmanager
    def flooded(self, connections: int) -> Iterator[None]:
        """Attack the secure worker of this federation meanwhile."""
        third = self.place.charter.party(THIRD)
        ports = [str(endpoint).rsplit(":", 1)[1] for endpoint in (third.control, third.bulk)]
        words = ["--control", ports[0], "--bulk", ports[1], "--key", third.curve.hex()]
        words += ["--connections", str(connections), "--hasty", "2" if "hasty" in self.enemies else "0"]
        words += ["--pause", str(self.pause)]
        babbling = [str(self.place.root / self.babbler), str(self.place.charter_path)]
        commands = {"strangers": words, "babbler": babbling}
        program = [sys.executable, "-m", "benchmarks.hostile"]
        if "announcer" in self.enemies:
            self.switch.touch()
        attackers = []
        try:
            for name in set(commands) & set(self.enemies):
                with (self.place.root / f"{name}.out").open("ab") as out:
                    attackers.append(subprocess.Popen([*program, name, *commands[name]], stdout=out))
                os.sched_setaffinity(attackers[-1].pid, self._cores)
            yield
            if any(attacker.poll() is not None for attacker in attackers):
                raise RuntimeError("an attacker gave up")
        finally:
            self.switch.unlink(missing_ok=True)
            for attacker in attackers:
                attacker.kill()
                attacker.wait(10)

    def measure(self, seconds: float) -> Turn:
        """Let rounds pass for a while."""
        time.sleep(_SETTLE)
        before, cpu, begun = len(self.seconds()), cpu_seconds(self.pid), time.monotonic()
        time.sleep(seconds)
        passed, used = time.monotonic() - begun, cpu_seconds(self.pid) - cpu
        took = self.seconds()[before:]
        if not took:
            raise RuntimeError(f"no round was done in {seconds:g} s")
        return Turn(statistics.median(took), len(took), used / passed, resident(self.pid), descriptors(self.pid))


def compare(seconds: float, turns: int, connections: int, enemies: Sequence[str], pause: float, *, apart: bool) -> bool:
    """Print the turns and the ratios; True if within the bounds."""
    everywhere = os.sched_getaffinity(0)
    ours, theirs = Federation(enemies, pause, apart=apart), Federation(enemies, pause, apart=apart)
    found: dict[str, list[Turn]] = {"quiet": [], "flood": [], "neighbour": []}
    with ours.place, theirs.place:
        theirs.start_secure_worker()
        if apart and len(everywhere) > 1:
            os.sched_setaffinity(theirs.pid, {max(everywhere)})
            os.sched_setaffinity(0, everywhere - {max(everywhere)})  # what is started from here on inherits it
        ours.start()
        calm = resident(ours.pid)
        attacked: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
            "quiet": contextlib.nullcontext,
            "flood": lambda: ours.flooded(connections),
            "neighbour": lambda: theirs.flooded(connections),
        }
        for _ in range(turns):
            for name, attack in attacked.items():
                with attack():
                    turn = ours.measure(seconds)
                found[name].append(turn)
                print(
                    f"{name:<10}{turn.median * 1000:>7.1f} ms{turn.rounds:>6} rounds{turn.cpu:>6.2f} CPU s/s"
                    f"{turn.memory / limits.MIB:>8.1f} MiB{turn.descriptors:>6} descriptors",
                    flush=True,
                )
        grown = resident(ours.pid, "VmHWM") - calm
        for path in sorted(ours.place.root.glob("*.out")):
            if path.stem in enemies and (said := path.read_text().splitlines()):
                print(f"{path.stem}: {said[-1]}")
    medians = {name: statistics.median(turn.median for turn in each) for name, each in found.items()}
    ratio = medians["flood"] / medians["quiet"]
    print(f"a round under the flood takes {ratio:.2f} times as long; at most {SLOWER:.2f}")
    print(f"a round beside a flooded neighbour takes {medians['neighbour'] / medians['quiet']:.2f} times as long")
    print(f"memory grew by {grown / limits.MIB:.1f} MiB; at most {GROWTH // limits.MIB}", flush=True)
    return ratio <= SLOWER and grown < GROWTH


def main(given: list[str] | None = None) -> int:
    """Compare; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3, help="of each kind")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before a stranger comes back")
    parser.add_argument("--together", action="store_true", help="attackers may use every core")
    parser.add_argument("--enemies", nargs="+", choices=ENEMIES, default=ENEMIES)
    arguments = parser.parse_args(given)
    attack = (arguments.connections, arguments.enemies, arguments.pause)
    return int(not compare(arguments.seconds, arguments.turns, *attack, apart=not arguments.together))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
