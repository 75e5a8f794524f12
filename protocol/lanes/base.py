"""What a lane is: two kinds of connection between named parties, and the events they give.

Control lane: authenticated, encrypted, small frames, one connection a pair of parties, always opened by the party that
does not listen. Bulk lane: one connection a transfer, opened with a one-time ticket; it carries records of bodies that
are sealed already. `subject` names a transfer: the digest of its signed header.

Rules every implementation keeps, and `tests/lanes/` checks on each:
- `Up(peer)` comes before any `Frame` of a connection, `Down(peer)` after the last; a reconnect is `Down`, then `Up`.
- A frame sent while a peer is up arrives once and in order, or the peer goes down.
- Frames to a peer that is not up are dropped: `send` says so with False.
- A record arrives once and in order, or `BulkDown`. `send_record` never blocks and never buffers more than the queue
  bound; when it returns False, poll and try again.
- Nothing from a connection that did not authenticate becomes an event, except `Refused`, which names the error.
- `poll` returns within its timeout. No call waits for a peer.
"""

from dataclasses import dataclass
from typing import Protocol

from ...crypto.errors import Misbehaviour
from ...crypto.labels import Buffer
from ..ticket import Ticket


@dataclass(frozen=True)
class Address:
    """Where a party listens (None where it does not) and the 32-byte CURVE key it is known by."""

    curve: bytes
    control: str | None = None
    bulk: str | None = None


@dataclass(frozen=True)
class Up:
    """A control connection with `peer` is open and its key is the one the charter names."""

    peer: str


@dataclass(frozen=True)
class Down:
    """The control connection with `peer` is gone; why, in words.

    Also given, once until the next `Up`, when a connection that was never up is refused or cannot be tried.
    """

    peer: str
    reason: str


@dataclass(frozen=True)
class Frame:
    """A control frame from `peer`."""

    peer: str
    data: bytes


@dataclass(frozen=True)
class BulkUp:
    """The bulk connection of `subject` with `peer` is open; records may flow."""

    subject: bytes
    peer: str


@dataclass(frozen=True)
class Record:
    """A record of the body of `subject`. `data` is valid until the next `poll`."""

    subject: bytes
    peer: str
    data: Buffer


@dataclass(frozen=True)
class BulkDown:
    """The bulk connection of `subject` is gone or was refused; another needs another ticket."""

    subject: bytes
    peer: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """A connection was refused; `error` is the named reason. Nothing else is known about the other end."""

    error: Misbehaviour


@dataclass(frozen=True)
class Woken:
    """`wake` was called from another thread."""


Event = Up | Down | Frame | BulkUp | Record | BulkDown | Refused | Woken


class Lanes(Protocol):
    """One party's two lanes."""

    name: str

    def connect(self, peer: str) -> None:
        """Open, and keep reopening with a growing pause, the control connection to a party that listens.

        Raises `LaneError` if the charter has no such party. Idempotent.
        """

    def send(self, peer: str, frame: bytes) -> bool:
        """Send a control frame; False if `peer` is not up. Raises `LaneError` if the frame is over the limit."""

    def grant(self, peer: str, subject: bytes) -> Ticket:
        """As the listening side: allow `peer` one bulk connection for `subject`, for `limits.TICKET_LIFETIME`.

        A second grant for the same subject withdraws the first and ends its connection; nothing of that connection
        becomes an event any more, its `BulkDown` included. Raises `LaneError` if `peer` has `limits.TICKETS_PER_PEER`
        grants that are neither closed nor expired.
        """

    def open_bulk(self, peer: str, ticket: Ticket) -> None:
        """As the connecting side: open the bulk connection `ticket` allows."""

    def send_record(self, subject: bytes, data: Buffer) -> bool:
        """Send one record without copying it; the caller must not change `data` afterwards.

        False: the queue is full, or the connection is not up (and `BulkDown` is there or on its way). Raises
        `LaneError` if the record is empty or over `limits.RECORD_WIRE`.
        """

    def close_bulk(self, subject: bytes) -> None:
        """End the bulk connection and withdraw its ticket; records already queued are still sent. Idempotent.

        The other side gets `BulkDown` after the last record; this side gets no further event of the connection. What
        is still queued needs `poll` to be called, or `close`, which waits for it up to `limits.LINGER` seconds.
        """

    def poll(self, timeout: float) -> list[Event]:
        """Wait up to `timeout` seconds for something to happen; return what did, in order.

        An empty list before that means that a full bulk queue may have room. Raises `LaneError` after `close`.
        """

    def wake(self) -> None:
        """Make a `poll` in progress, or the next one, return at once. The one call that is safe from any thread."""

    def close(self) -> None:
        """Tell the peers, close every connection, release every address. Idempotent."""
