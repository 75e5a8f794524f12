"""Both lanes among parties of one process: no sockets, no threads, no randomness but the tickets' secrets.

- A `MemoryNetwork` joins `MemoryLanes` by name; a party whose name another does not know is a stranger to it.
- The rules are those of `base.py`. What one party does is seen by another when that one polls, in the order done.
- Everything sent passes through `MemoryNetwork.deliver`; a subclass that overrides it (and `reachable`) makes a network
  that delays, drops, duplicates, corrupts or partitions. With time taken from `clock`, a run can be repeated exactly.
- Parties may poll from different threads: one lock guards the whole network, and a poll waits on its party's condition.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...crypto.errors import Misbehaviour
from ...crypto.labels import Buffer
from .. import limits
from ..errors import LaneError, StrangerKey
from ..ticket import Ticket
from .base import BulkDown, BulkUp, Down, Event, Frame, Record, Refused, Up, Woken
from .tickets import Grant, TicketBook

_CONTROL_ROOM = 2 * limits.CONTROL_QUEUE
"""Frames under way to a peer that does not poll, before it goes down; over ZeroMQ both ends have a queue."""


@dataclass(eq=False)
class Wire:
    """One connection: `client` opened it, `server` listens; of the control lane if `subject` is None."""

    client: str
    server: str
    subject: bytes | None = None
    ended: set[str] = field(default_factory=set)
    """The ends for which it is over."""
    under_way: dict[str, int] = field(default_factory=dict)
    """Frames sent and not yet polled, by receiver."""
    waiting: set[str] = field(default_factory=set)
    """The ends whose last record did not fit."""

    def other(self, name: str) -> str:
        """Return the party at the other end."""
        return self.server if name == self.client else self.client


@dataclass(frozen=True)
class Delivery:
    """One frame, record, or end of a connection on its way; a fault injector may change `data`."""

    wire: Wire
    source: str
    target: str
    data: Buffer = field(repr=False)
    end: str | None = None
    """Why the connection ends, if this is its end."""


class MemoryNetwork:
    """The network between the parties of one process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._parties: dict[str, MemoryLanes] = {}

    def deliver(self, delivery: Delivery) -> None:
        """Take what a party sent. Override to inject faults: `put` it now, later, twice or altered, or `drop` it."""
        self.put(delivery)

    def reachable(self, client: str, server: str) -> bool:
        """Whether `client` can open a connection to `server` now. Override for a partition."""
        return True

    def put(self, delivery: Delivery) -> None:
        """Hand a delivery to its target, if that is still there and the connection not over for it."""
        with self.lock:
            target = self._parties.get(delivery.target)
            if target is None:
                self.drop(delivery)
            else:
                target._take(delivery)

    def drop(self, delivery: Delivery) -> None:
        """Lose a delivery. A lane does not lose frames of a connection that lives: `disconnect` those parties too."""
        with self.lock:
            self._arrived(delivery.wire, delivery.target)

    def disconnect(self, a: str, b: str, reason: str = "the connection was lost") -> None:
        """End every connection between two parties at once, as a network does; what was under way is lost."""
        with self.lock:
            for name, other in ((a, b), (b, a)):
                if (lanes := self._parties.get(name)) is not None:
                    lanes._lose(other, reason)

    def stop(self, name: str) -> None:
        """End a party as a crash does: its lanes are closed, and its peers lose their connections to it."""
        with self.lock:
            lanes = self._parties.pop(name, None)
            if lanes is None:
                return
            for other in self._parties.values():
                other._lose(name, "the connection was lost")
            lanes._stop()

    def party(self, name: str) -> "MemoryLanes | None":
        """Return the lanes of a party that has joined and is not closed."""
        return self._parties.get(name)

    def _join(self, lanes: "MemoryLanes") -> None:
        with self.lock:
            if lanes.name in self._parties:
                raise LaneError(f"{lanes.name} has joined this network already")
            self._parties[lanes.name] = lanes

    def _leave(self, lanes: "MemoryLanes") -> None:
        self._parties.pop(lanes.name, None)

    def _arrived(self, wire: Wire, target: str) -> None:
        wire.under_way[target] = max(0, wire.under_way.get(target, 0) - 1)
        source = wire.other(target)
        if source in wire.waiting:
            wire.waiting.discard(source)
            if (party := self._parties.get(source)) is not None:
                party._has_room()


@dataclass
class _Dial:
    """A control connection that a party wants open."""

    next: float
    pause: float = limits.RECONNECT_FIRST
    complained: bool = False


class MemoryLanes:
    """One party's lanes in memory; see `base.Lanes` for what each call promises."""

    def __init__(
        self,
        name: str,
        network: MemoryNetwork,
        peers: Iterable[str],
        *,
        listen: bool = False,
        frame_limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join `network`; `peers` (a mapping by name, say) are the parties of the charter.

        Raises:
            LaneError: a party of that name has joined already.
        """
        self.name = name
        self._network = network
        self._peers = frozenset(peers)
        self._listens = listen
        self._frame_limit = frame_limit
        self._clock = clock
        self._changed = threading.Condition(network.lock)
        self._inbox: deque[tuple[Event, Wire | None]] = deque()
        self._dials: dict[str, _Dial] = {}
        self._control: dict[str, Wire] = {}
        self._bulk: dict[bytes, Wire] = {}
        self._book = TicketBook(clock)
        self._return_now = False
        self._closed = False
        network._join(self)

    def __repr__(self) -> str:
        return f"MemoryLanes({self.name!r})"

    def connect(self, peer: str) -> None:
        """Open, and keep reopening with a growing pause, the control connection to a party that listens.

        Raises:
            LaneError: the peer is not in the charter, or these lanes are closed.
        """
        with self._network.lock:
            self._check(peer)
            if peer not in self._dials:
                self._dials[peer] = _Dial(next=self._clock())
                self._dial()
                self._changed.notify_all()

    def send(self, peer: str, frame: bytes) -> bool:
        """Send a control frame; False if `peer` is not up.

        Raises:
            LaneError: the frame is over the limit.
        """
        if len(frame) > self._frame_limit:
            raise LaneError(f"a control frame has at most {self._frame_limit} bytes, not {len(frame)}")
        with self._network.lock:
            wire = self._control.get(peer)
            if wire is None:
                return False
            if wire.under_way.get(peer, 0) >= _CONTROL_ROOM:
                self._lose(peer, "does not take its frames", control_only=True)
                self._network.deliver(Delivery(wire, self.name, peer, b"", end="the connection was lost"))
                return False
            self._deliver(wire, frame)
            return True

    def grant(self, peer: str, subject: bytes) -> Ticket:
        """Allow `peer` one bulk connection for `subject`; see `base.Lanes.grant`.

        Raises:
            LaneError: these lanes do not listen, the peer is not in the charter, or has too many tickets.
        """
        with self._network.lock:
            self._check(peer)
            if not self._listens:
                raise LaneError("only a party that listens grants tickets")
            new, old = self._book.grant(peer, subject)
            if old is not None:
                self._close_bulk(subject)
            return new.ticket

    def open_bulk(self, peer: str, ticket: Ticket) -> None:
        """Open the bulk connection `ticket` allows; `BulkUp` or `BulkDown` follows.

        Raises:
            LaneError: the peer is not in the charter, or these lanes are closed.
        """
        with self._network.lock:
            self._check(peer)
            self._close_bulk(ticket.subject)
            self._changed.notify_all()
            server = self._network.party(peer)
            if server is None or not server._listens or not self._network.reachable(self.name, peer):
                self._emit(BulkDown(ticket.subject, peer, "cannot be reached"))
                return
            try:
                server._book.redeem(ticket.subject, ticket.secret)
            except Misbehaviour as error:
                server._emit(Refused(error))
                self._emit(BulkDown(ticket.subject, peer, "the ticket was refused"))
                return
            wire = Wire(self.name, peer, ticket.subject)
            self._bulk[ticket.subject] = server._bulk[ticket.subject] = wire
            self._emit(BulkUp(ticket.subject, peer), wire)
            server._emit(BulkUp(ticket.subject, self.name), wire)

    def send_record(self, subject: bytes, data: Buffer) -> bool:
        """Send one record without copying it; False if its queue is full or its connection not up.

        Raises:
            LaneError: the record is empty or over the limit.
        """
        if not 0 < len(data) <= limits.RECORD_WIRE:
            raise LaneError(f"a record has 1 to {limits.RECORD_WIRE} bytes, not {len(data)}")
        with self._network.lock:
            wire = self._bulk.get(subject)
            if wire is None:
                return False
            if wire.under_way.get(wire.other(self.name), 0) >= limits.BULK_QUEUE:
                wire.waiting.add(self.name)
                return False
            self._deliver(wire, data)
            return True

    def close_bulk(self, subject: bytes) -> None:
        """End the bulk connection and withdraw its ticket; records already queued are still sent. Idempotent."""
        with self._network.lock:
            self._close_bulk(subject)
            if (grant := self._book.by_subject(subject)) is not None:
                self._book.end(grant)

    def poll(self, timeout: float) -> list[Event]:
        """Wait up to `timeout` seconds for something to happen; return what did, in order.

        Raises:
            LaneError: these lanes are closed.
        """
        end = time.monotonic() + timeout
        with self._network.lock:
            while True:
                if self._closed:
                    raise LaneError("these lanes are closed")
                self._dial()
                self._book.expire()
                left = end - time.monotonic()
                if self._inbox or self._return_now or left <= 0:
                    self._return_now = False
                    return self._drain()
                self._changed.wait(max(0.001, min(left, self.due() - self._clock())))

    def due(self) -> float:
        """Return the time, by `clock`, at which these lanes will do something of themselves; infinity if never.

        A simulator whose parties have nothing left to do moves its clock to the earliest.
        """
        with self._network.lock:
            return min((dial.next for peer, dial in self._dials.items() if peer not in self._control), default=math.inf)

    def wake(self) -> None:
        """Make a `poll` in progress, or the next one, return at once. Safe from any thread."""
        with self._network.lock:
            if not self._closed:
                self._emit(Woken())

    def close(self) -> None:
        """Tell the peers, close every connection, leave the network. Idempotent."""
        with self._network.lock:
            if self._closed:
                return
            for wire in (*self._control.values(), *self._bulk.values()):
                self._say_end(wire, "said goodbye" if wire.subject is None else "ended by the other side")
            self._network._leave(self)
            self._stop()

    def _dial(self) -> None:
        now = self._clock()
        for peer, dial in self._dials.items():
            if peer in self._control or dial.next > now:
                continue
            server = self._network.party(peer)
            dial.next = now + dial.pause
            dial.pause = min(2 * dial.pause, limits.RECONNECT_MOST)
            if server is None or not server._listens or not self._network.reachable(self.name, peer):
                continue
            if self.name not in server._peers:
                server._emit(Refused(StrangerKey("a control connection was opened by a party not in the charter")))
                if not dial.complained:
                    self._emit(Down(peer, "refused this party's key"))
                dial.complained = True
                dial.pause = limits.RECONNECT_MOST
                dial.next = now + dial.pause
                continue
            dial.pause, dial.complained = limits.RECONNECT_FIRST, False
            server._lose(self.name, "replaced by a newer connection", control_only=True)
            wire = Wire(self.name, peer)
            self._control[peer] = server._control[self.name] = wire
            self._emit(Up(peer), wire)
            server._emit(Up(self.name), wire)

    def _deliver(self, wire: Wire, data: Buffer) -> None:
        target = wire.other(self.name)
        wire.under_way[target] = wire.under_way.get(target, 0) + 1
        self._network.deliver(Delivery(wire, self.name, target, data))

    def _say_end(self, wire: Wire, reason: str) -> None:
        wire.ended.add(self.name)
        self._network.deliver(Delivery(wire, self.name, wire.other(self.name), b"", end=reason))

    def _take(self, delivery: Delivery) -> None:
        wire = delivery.wire
        if self.name in wire.ended:
            self._network.drop(delivery)
        elif delivery.end is not None:
            self._end(wire, delivery.end)
        elif wire.subject is None:
            self._emit(Frame(delivery.source, bytes(delivery.data)), wire)
        else:
            self._emit(Record(wire.subject, delivery.source, delivery.data), wire)

    def _lose(self, peer: str, reason: str, *, control_only: bool = False) -> None:
        """End the connections with `peer` at this end."""
        bulk = [] if control_only else [wire for wire in self._bulk.values() if wire.other(self.name) == peer]
        for wire in (*([self._control[peer]] if peer in self._control else []), *bulk):
            self._end(wire, reason)

    def _end(self, wire: Wire, reason: str) -> None:
        wire.ended.add(self.name)
        peer = wire.other(self.name)
        if wire.subject is None:
            if self._control.get(peer) is wire:
                del self._control[peer]
            if (dial := self._dials.get(peer)) is not None:
                dial.next = self._clock() + dial.pause
            self._emit(Down(peer, reason))
        else:
            if self._bulk.get(wire.subject) is wire:
                del self._bulk[wire.subject]
                self._end_grant(wire.subject)
            self._emit(BulkDown(wire.subject, peer, reason))

    def _end_grant(self, subject: bytes) -> None:
        grant: Grant | None = self._book.by_subject(subject)
        if grant is not None and grant.used_at is not None:
            self._book.end(grant)

    def _close_bulk(self, subject: bytes) -> None:
        """End a bulk connection from this end, and take back what is queued about it."""
        if (wire := self._bulk.pop(subject, None)) is not None:
            self._say_end(wire, "ended by the other side")
        kept: deque[tuple[Event, Wire | None]] = deque()
        for event, of in self._inbox:
            if not (isinstance(event, BulkUp | Record | BulkDown) and event.subject == subject):
                kept.append((event, of))
            elif isinstance(event, Record) and of is not None:
                self._network._arrived(of, self.name)
        self._inbox = kept

    def _emit(self, event: Event, wire: Wire | None = None) -> None:
        self._inbox.append((event, wire))
        self._changed.notify_all()

    def _has_room(self) -> None:
        self._return_now = True
        self._changed.notify_all()

    def _drain(self) -> list[Event]:
        events = []
        while self._inbox:
            event, wire = self._inbox.popleft()
            if wire is not None and isinstance(event, Frame | Record):
                self._network._arrived(wire, self.name)
            events.append(event)
        return events

    def _stop(self) -> None:
        self._closed = True
        for wire in (*self._control.values(), *self._bulk.values()):
            wire.ended.add(self.name)
        self._inbox.clear()
        self._dials.clear()
        self._control.clear()
        self._bulk.clear()
        self._changed.notify_all()

    def _check(self, peer: str) -> None:
        if self._closed:
            raise LaneError("these lanes are closed")
        if peer not in self._peers:
            raise LaneError(f"{peer} is not a party of the charter")
