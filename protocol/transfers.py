"""Bodies in motion: records out as credit allows, records in as they come, and nothing held beyond the window.

A receiver grants credit when the bulk connection is up and again each time half the window has been opened, so at most
`limits.CREDIT_WINDOW` records of a transfer exist between sender and opener. A record beyond the credit ends the
transfer; credit granted while a batch of records is taken counts only from the next batch, or a sender that ignores
credit would never be noticed. A transfer that stands still for `limits.STALL` seconds is given up, so a slot is never
held by silence.

That the last record was handed to the lane does not say that it arrived: a connection that ends after that is reported
too, as `Unconfirmed`, and the role knows whether it was still waiting for a receipt.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..crypto.errors import Misbehaviour
from ..crypto.labels import Buffer
from . import limits
from .errors import CreditExceeded, PeerLost
from .exchange import Incoming, Outgoing
from .lanes.base import Lanes
from .messages import Credit


@dataclass
class _Out:
    peer: str
    outgoing: Outgoing
    moved: float
    records: Iterator[bytes] | None = None
    held: bytes | None = None
    sent: int = 0
    credit: int = 0
    up: bool = False
    done: bool = False


@dataclass
class _In:
    peer: str
    incoming: Incoming
    moved: float
    taken: int = 0
    granted: int = 0
    allowed: int = 0
    """What had been granted when the records now being taken came in."""


@dataclass(frozen=True)
class Completed:
    """An incoming envelope is open and authentic."""

    peer: str
    incoming: Incoming
    sections: tuple[memoryview, ...]


@dataclass(frozen=True)
class Failed:
    """A transfer ended before its end."""

    peer: str
    subject: bytes
    error: Misbehaviour


@dataclass(frozen=True)
class Delivered:
    """The last record of an outgoing envelope was handed to the lane."""

    peer: str
    subject: bytes


@dataclass(frozen=True)
class Unconfirmed:
    """The connection of an outgoing envelope ended after its last record was handed over; it may have arrived."""

    peer: str
    subject: bytes
    reason: str


TransferEvent = Completed | Failed | Delivered | Unconfirmed


class Transfers:
    """All transfers of one party."""

    def __init__(self) -> None:
        self._out: dict[bytes, _Out] = {}
        self._in: dict[bytes, _In] = {}

    def provide(self, peer: str, outgoing: Outgoing, now: float) -> None:
        """Have a body ready for `peer`; from its first record, whatever was sent before."""
        self._out[outgoing.subject] = _Out(peer, outgoing, now)

    def expect(self, peer: str, incoming: Incoming, now: float) -> None:
        """Be ready to take a body from `peer`."""
        self._in[incoming.subject] = _In(peer, incoming, now)

    def drop(self, subject: bytes) -> None:
        """Forget a transfer."""
        self._out.pop(subject, None)
        self._in.pop(subject, None)

    def up(self, peer: str, subject: bytes, now: float) -> list[Credit]:
        """Note that the bulk connection is open; return the first credit, if we are the receiver."""
        out = self._out.get(subject)
        if out is not None and out.peer == peer:
            # A new connection starts from the body's first record, so credit of an earlier one is void.
            out.up, out.records, out.held, out.sent, out.done, out.moved = True, None, None, 0, False, now
            return []
        entry = self._in.get(subject)
        if entry is None or entry.peer != peer:
            return []
        entry.moved = now
        entry.granted = limits.CREDIT_WINDOW
        return [Credit(subject=subject, records=entry.granted)]

    def credit(self, peer: str, credit: Credit) -> None:
        """Note how many records the receiver will take. Credit never shrinks; an unknown subject means nothing."""
        out = self._out.get(credit.subject)
        if out is not None and out.peer == peer:
            out.credit = max(out.credit, credit.records)

    def record(self, peer: str, subject: bytes, data: Buffer, now: float) -> tuple[list[Credit], list[TransferEvent]]:
        """Take a record; return credit to grant and what it completed or ended. Call `taken` after each batch."""
        entry = self._in.get(subject)
        if entry is None or entry.peer != peer:
            return [], []
        if len(data) >= limits.RECORD_PLAINTEXT // 2:
            # Only the last record is short. A body in crumbs would hold its slot until the round's deadline.
            entry.moved = now
        entry.taken += 1
        try:
            if entry.taken > entry.allowed:
                raise CreditExceeded("sent more records than it had credit for", party=peer)
            if entry.incoming.feed(data):
                sections = entry.incoming.finish()
                del self._in[subject]
                return [], [Completed(peer, entry.incoming, sections)]
        except Misbehaviour as error:
            self.drop(subject)
            return [], [Failed(peer, subject, _named(error, peer))]
        if entry.granted - entry.taken <= limits.CREDIT_WINDOW // 2:
            entry.granted = entry.taken + limits.CREDIT_WINDOW
            return [Credit(subject=subject, records=entry.granted)], []
        return [], []

    def taken(self) -> None:
        """Note that all that had come in has been taken: what comes next may use what was granted until now."""
        for entry in self._in.values():
            entry.allowed = entry.granted

    def down(self, peer: str, subject: bytes, reason: str) -> list[TransferEvent]:
        """Note that a bulk connection is gone."""
        out = self._out.get(subject)
        if out is not None and out.peer == peer:
            out.up = False
            out.credit = 0
            if out.done:
                return [Unconfirmed(peer, subject, reason)]
            return [Failed(peer, subject, PeerLost(f"bulk connection lost: {reason}", party=peer))]
        entry = self._in.get(subject)
        if entry is not None and entry.peer == peer:
            self.drop(subject)
            return [Failed(peer, subject, PeerLost(f"bulk connection lost: {reason}", party=peer))]
        return []

    def pump(self, lanes: Lanes, now: float) -> tuple[bool, list[TransferEvent]]:
        """Send what credit and queues allow; return whether a queue was full, and what was delivered.

        A bounded number of records a call and transfer, so that one fast receiver does not starve the loop.
        """
        blocked, events = False, list[TransferEvent]()
        for subject, out in list(self._out.items()):
            if not out.up or out.done:
                continue
            if out.records is None:
                out.records = out.outgoing.records()
            budget = limits.CREDIT_WINDOW
            while budget and out.sent < out.credit:
                record = out.held if out.held is not None else next(out.records, None)
                if record is None:
                    out.done, out.records = True, None
                    events.append(Delivered(out.peer, subject))
                    break
                if not lanes.send_record(subject, record):
                    out.held, blocked = record, True
                    break
                out.held = None
                out.sent += 1
                out.moved = now
                budget -= 1
            else:
                blocked = blocked or not budget
        return blocked, events

    def stalled(self, now: float) -> list[TransferEvent]:
        """Give up incoming transfers that have not moved for `limits.STALL`."""
        events: list[TransferEvent] = []
        for subject, entry in list(self._in.items()):
            if now - entry.moved >= limits.STALL:
                self.drop(subject)
                error = PeerLost(f"no bytes of a body for {limits.STALL:g} s", party=entry.peer)
                events.append(Failed(entry.peer, subject, error))
        return events

    def next_deadline(self) -> float | None:
        """Return when `stalled` has something to do, or None."""
        return min((entry.moved + limits.STALL for entry in self._in.values()), default=None) if self._in else None


def _named(error: Misbehaviour, peer: str) -> Misbehaviour:
    return error if error.party else type(error)(error.reason, party=peer)
