"""What goes wrong around a party: its network, its clock, its pace. All of it drawn from one seeded generator.

Rules of the file:
- Nothing here protects anything, so nothing here needs the operating system's randomness; nothing protective takes its
  randomness from here. A schedule still repeats exactly, because no decision depends on a protective value: keys,
  digests, signatures and sealed bodies differ from run to run in content and never in length or order.
- A lane keeps its promises (`protocol/lanes/base.py`) under every fault: what a network loses, doubles or alters costs
  the connection it was on. Two connections may overtake each other; within one, order is TCP's. Only a bulk record can
  arrive altered, because only the bulk lane has no CURVE under it.
- A silent network (a partition, one deaf direction, a peer that is gone without a word) shows after `limits.SILENCE`.
- After `Trouble.until` the network heals for good: what is held flows, and nothing more goes wrong.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ..protocol import limits
from ..protocol.lanes.memory_lanes import Delivery, MemoryLanes, Wire
from .federation import Clock, Network

LOST = "the connection was lost"


@dataclass(frozen=True)
class Trouble:
    """How a network behaves. Shares are probabilities a delivery; times are simulated seconds."""

    delay: float = 0.002
    """The mean time under way."""
    spike: float = 0.0
    """Share of deliveries that take a hundred times longer."""
    reset: float = 0.0
    """Share at which every connection between two parties breaks, with what was under way."""
    drop: float = 0.0
    """Share that is lost, and its connection with it."""
    double: float = 0.0
    """Share that arrives twice: a bulk record does, a control frame ends its connection (CURVE counts)."""
    corrupt: float = 0.0
    """Share that arrives altered: a bulk record does, a control frame ends its connection."""
    partition: float = 0.0
    """Share at which two parties are cut off from each other."""
    deaf: float = 0.0
    """Share at which one direction goes dead: a half-dead peer."""
    cut_most: float = 12.0
    """The longest a partition or a deaf direction lasts; beyond `limits.SILENCE` the connection is lost."""
    until: float = 30.0
    """When the network heals."""

    def words(self) -> str:
        """Return the troubles that are there, for a person."""
        shares = ("spike", "reset", "drop", "double", "corrupt", "partition", "deaf")
        said = [f"{name} {getattr(self, name):.3f}" for name in shares if getattr(self, name)]
        return ", ".join([f"delay {self.delay * 1000:.1f} ms", *said]) + f", healed after {self.until:g} s"


class FaultyNetwork(Network):
    """A network with troubles. `flush` hands over what is due; `due` says when something is."""

    def __init__(
        self, trouble: Trouble, chance: Random, now: Callable[[], float], note: Callable[..., None] = lambda *_: None
    ) -> None:
        """`note` is told of every trouble: what kind, and between whom."""
        super().__init__()
        self.trouble = trouble
        self.seen: list[Callable[[Delivery], None]] = []
        """Who is shown each delivery that is sent, before anything happens to it."""
        self._chance, self._now, self._note = chance, now, note
        self._held: list[tuple[float, int, Delivery]] = []
        self._numbers = itertools.count()
        self._last: dict[tuple[Wire, str], float] = {}
        self._cuts: dict[tuple[str, str], tuple[float, float]] = {}
        """By source and target: until when nothing passes, and when the silence is noticed."""
        self._stuck: list[tuple[int, Delivery]] = []

    # --- sending

    def deliver(self, delivery: Delivery) -> None:
        """Take what a party sent; what becomes of it is drawn now."""
        for look in self.seen:
            look(delivery)
        if delivery.end is None and self._now() < self.trouble.until:
            changed = self._troubled(delivery)
            if changed is None:
                return
            delivery = changed
        self._hold(delivery)

    def _troubled(self, delivery: Delivery) -> Delivery | None:
        trouble, chance = self.trouble, self._chance
        source, target, bulk = delivery.source, delivery.target, delivery.wire.subject is not None
        drawn = chance.random()
        for kind in ("reset", "drop", "double", "corrupt", "partition", "deaf"):
            drawn -= getattr(trouble, kind)
            if drawn < 0:
                break
        else:
            return delivery
        self._note(kind, source, target)
        if kind == "partition":
            self.cut(source, target, chance.uniform(0.1, trouble.cut_most), both=True)
            return delivery
        if kind == "deaf":
            self.cut(source, target, chance.uniform(0.1, trouble.cut_most), both=False)
            return delivery
        if kind == "double" and bulk:
            self._hold(delivery)
            return delivery
        if kind == "corrupt" and bulk:
            return Delivery(delivery.wire, source, target, _altered(bytes(delivery.data), chance))
        self.drop(delivery)
        if kind == "reset" or not bulk:
            self.disconnect(source, target, LOST)
        else:
            self.break_wire(delivery.wire)
        return None

    def _hold(self, delivery: Delivery, at_least: float = 0.0) -> None:
        takes = self._chance.expovariate(1.0) * self.trouble.delay
        if self.trouble.spike and self._chance.random() < self.trouble.spike:
            takes *= 100
        way = (delivery.wire, delivery.target)
        at = max(self._now() + takes, self._last.get(way, 0.0), at_least)
        self._last[way] = at
        heapq.heappush(self._held, (at, next(self._numbers), delivery))

    # --- time

    def due(self) -> float:
        """Return when `flush` has something to do; infinity for never."""
        first = self._held[0][0] if self._held else float("inf")
        return min((first, *(end for ends in self._cuts.values() for end in ends)))

    def flush(self) -> None:
        """Hand over what is due, heal what is over, notice what is silent."""
        now = self._now()
        if not self._cuts and (not self._held or self._held[0][0] > now):
            return  # as most times: this is asked before every step
        for pair, (until, noticed) in list(self._cuts.items()):
            if noticed <= min(now, until):
                self._note("silence", *pair)
                self.disconnect(*pair, f"nothing heard for {limits.SILENCE:g} s")
                self._cuts[pair] = (until, float("inf"))
            if until <= now:
                del self._cuts[pair]
                self._note("heal", *pair)
                freed = [each for each in self._stuck if (each[1].source, each[1].target) == pair]
                self._stuck = [each for each in self._stuck if (each[1].source, each[1].target) != pair]
                for number, delivery in freed:
                    heapq.heappush(self._held, (now, number, delivery))
        while self._held and self._held[0][0] <= now:
            _, number, delivery = heapq.heappop(self._held)
            if (delivery.source, delivery.target) in self._cuts:
                self._stuck.append((number, delivery))
            else:
                self.put(delivery)

    # --- what goes wrong

    def cut(self, source: str, target: str, seconds: float, *, both: bool) -> None:
        """Let nothing pass from one to the other, or between them, for so long, but not beyond the healing."""
        now = self._now()
        until = min(now + seconds, self.trouble.until)
        for pair in ((source, target), (target, source))[: 2 if both else 1]:
            self._cuts.setdefault(pair, (until, now + limits.SILENCE))

    def reachable(self, client: str, server: str) -> bool:
        """Whether a connection can be opened: both directions must pass."""
        return (client, server) not in self._cuts and (server, client) not in self._cuts

    def break_wire(self, wire: Wire, reason: str = LOST) -> None:
        """End one connection at both ends at once."""
        with self.lock:
            for name in (wire.client, wire.server):
                lanes = self.party(name)
                if lanes is not None and name not in wire.ended:
                    lanes._end(wire, reason)

    def vanish(self, name: str, how: str) -> None:
        """Take a party off the network as its crash does.

        `how` is "at once" (what it had sent is lost with it), "after its last words" (those arrive, then the end), or
        "without a word" (the others notice the silence).
        """
        with self.lock:
            lanes = self.party(name)
            if lanes is None or how == "at once":
                self.stop(name)
                return
            self._leave(lanes)
            later = self._now() + limits.SILENCE if how == "without a word" else 0.0
            for wire in (*lanes._control.values(), *lanes._bulk.values()):
                self._hold(Delivery(wire, name, wire.other(name), b"", end=LOST), later)
            lanes._stop()


def _altered(data: bytes, chance: Random) -> bytes:
    """Return other bytes: one bit changed, the end cut off, or some more."""
    match chance.randrange(3):
        case 0:
            at = chance.randrange(len(data))
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 1 if len(data) > 1:
            return data[: chance.randrange(1, len(data))]
        case _:
            return data + bytes(chance.randrange(1, 40))


class SteppedLanes(MemoryLanes):
    """Lanes that say whether a poll would return something."""

    @property
    def pending(self) -> bool:
        """Whether there is something to poll for."""
        return bool(self._inbox or self._return_now)

    @property
    def closed(self) -> bool:
        """Whether these lanes are closed."""
        return self._closed


class PartyClock:
    """One party's own clock: it can jump forward, as after a suspension, or stand still; it never goes back."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead = 0.0
        self._stands_at = 0.0
        self._until = 0.0

    def __call__(self) -> float:
        """Return the time this party believes in."""
        return self._stands_at if self._base.now < self._until else self._base.now + self._ahead

    def jump(self, seconds: float) -> None:
        """Go forward at once."""
        self._ahead += seconds
        self._stands_at += seconds

    def stand_still(self, seconds: float) -> None:
        """Show the same time for so long, and lag behind by as much for good."""
        self._stands_at = self()
        self._until = self._base.now + seconds
        self._ahead = self._stands_at - self._until

    def when(self, at: float) -> float:
        """Return the simulated time from which on this clock shows `at`, as far as is known now."""
        if self._base.now < self._until and at > self._stands_at:
            return max(self._until, at - self._ahead)
        return at - self._ahead


class PacedExecutor:
    """Runs a job on the loop's own thread, but so much later as the party is slow."""

    busy = False

    def __init__(self, base: Clock, takes: Callable[[], float]) -> None:
        self._base, self._takes = base, takes
        self._jobs: list[tuple[float, str, Callable[[], Any]]] = []

    def submit(self, tag: str, job: Callable[[], Any]) -> None:
        """Plan a job; one that has not begun gives way to it, as in `ThreadExecutor`."""
        self._jobs = [each for each in self._jobs if each[0] <= self._base.now]
        self._jobs.append((self._base.now + self._takes(), tag, job))

    def due(self) -> float:
        """Return when the next result is there; infinity for never."""
        return min((at for at, _, _ in self._jobs), default=float("inf"))

    def results(self) -> list[tuple[str, Any]]:
        """Run what is due; return its results."""
        due = [each for each in self._jobs if each[0] <= self._base.now]
        self._jobs = [each for each in self._jobs if each[0] > self._base.now]
        return [(tag, _outcome(job)) for _, tag, job in due]


def _outcome(job: Callable[[], Any]) -> Any:
    try:
        return job()
    except Exception as error:  # handed to the machine, which turns it into a sentence
        return error
