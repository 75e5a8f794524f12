"""Both lanes of one party over ZeroMQ, without a thread of their own: everything happens inside `poll`.

- Control (`zmq_control.py`): CURVE, allow-list by ZAP, application heartbeats. Bulk (`zmq_bulk.py`): PLAIN tickets.
- Only `wake` may be called from another thread; all else belongs to the thread that polls.
- `poll` gives every socket its turn and reads a bounded number of messages from it, so no peer starves another,
  and returns as soon as there is an event.
- A party that does not poll for `limits.HANDSHAKE` admits nobody meanwhile, and after `silence` is lost to its peers.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ...crypto.labels import Buffer
from .. import limits
from ..errors import LaneError
from ..ticket import Ticket
from .base import Address, BulkDown, BulkUp, Event, Record, Woken
from .malloc import keep_freed_memory
from .tickets import TicketBook
from .zap import Door
from .zmq_bulk import BulkLink, BulkServer
from .zmq_control import ControlLink, ControlServer
from .zmq_sockets import Loop

_KEY_BYTES = 32
_ROUTER_WAIT = 0.002
"""How long `poll` waits at most while a ROUTER's queue is full."""


@dataclass(frozen=True)
class Listen:
    """The two addresses a party listens on, `tcp://host:port`; with port 0 the system chooses."""

    control: str
    bulk: str


class ZmqLanes:
    """One party's lanes over ZeroMQ; see `base.Lanes` for what each call promises."""

    def __init__(
        self,
        name: str,
        curve_secret: bytes,
        peers: Mapping[str, Address],
        *,
        listen: Listen | None = None,
        frame_limit: int,
        clock: Callable[[], float] = time.monotonic,
        ping_every: float = limits.PING_EVERY,
        silence: float = limits.SILENCE,
    ) -> None:
        """Set the lanes up and listen, if `listen` says where; `bound` then holds the addresses as bound.

        Args:
            name: this party's name.
            curve_secret: its 32-byte CURVE (X25519) secret key.
            peers: every other party of the charter, by name.
            listen: where to listen, None for a party that only connects.
            frame_limit: largest control frame, in bytes; `limits.control_frame` gives it.
            clock: seconds, monotonic; ticket lifetimes, heartbeats and pauses follow it.
            ping_every: seconds between two pings of the connecting side.
            silence: seconds without a sign of life after which a peer is down.

        Raises:
            LaneError: a key is no key, two parties share one, or an address cannot be listened on.
        """
        public = _public_key(curve_secret)
        names = _names(peers)
        keep_freed_memory()
        self.name = name
        self.bound: Listen | None = None
        self._peers = dict(peers)
        self._keys = (curve_secret, public)
        self._frame_limit = frame_limit
        self._clock = clock
        self._ping_every = ping_every
        self._silence = silence
        self._closed = False
        self._woken = threading.Lock()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._loop = Loop(clock)
        self._loop.watch(self._wake_in, self._read_wake)
        self._book = TicketBook(clock)
        self._links: dict[str, ControlLink] = {}
        self._transfers: dict[bytes, BulkLink] = {}
        self._draining: list[BulkLink] = []
        self._door: Door | None = None
        self._control: ControlServer | None = None
        self._bulk: BulkServer | None = None
        if listen is not None:
            try:
                self._listen(listen, names)
            except BaseException:
                self.close()
                raise

    def __repr__(self) -> str:
        return f"ZmqLanes({self.name!r})"

    def connect(self, peer: str) -> None:
        """Open, and keep reopening with a growing pause, the control connection to a party that listens.

        Raises:
            LaneError: the peer is not in the charter, or does not listen, or these lanes are closed.
        """
        self._check_open()
        address = self._address(peer)
        if address.control is None:
            raise LaneError(f"{peer} does not listen; it must connect to us")
        if peer not in self._links:
            self._links[peer] = ControlLink(
                self._loop,
                peer,
                address.control,
                keys=self._keys,
                server_key=address.curve,
                frame_limit=self._frame_limit,
                ping_every=self._ping_every,
                silence=self._silence,
            )

    def send(self, peer: str, frame: bytes) -> bool:
        """Send a control frame; False if `peer` is not up.

        Raises:
            LaneError: the frame is over the limit.
        """
        if len(frame) > self._frame_limit:
            raise LaneError(f"a control frame has at most {self._frame_limit} bytes, not {len(frame)}")
        if (link := self._links.get(peer)) is not None:
            return link.send(frame)
        return self._control is not None and self._control.send(peer, frame)

    def grant(self, peer: str, subject: bytes) -> Ticket:
        """Allow `peer` one bulk connection for `subject`; see `base.Lanes.grant`.

        Raises:
            LaneError: these lanes do not listen, the peer is not in the charter, or has too many tickets.
        """
        self._check_open()
        self._address(peer)
        if self._bulk is None:
            raise LaneError("only a party that listens grants tickets")
        new, old = self._book.grant(peer, subject)
        if old is not None:
            self._bulk.cut(old)
            self._forget(subject)
        return new.ticket

    def open_bulk(self, peer: str, ticket: Ticket) -> None:
        """Open the bulk connection `ticket` allows; `BulkUp` or `BulkDown` follows.

        Raises:
            LaneError: the peer is not in the charter, or has no bulk address, or these lanes are closed.
        """
        self._check_open()
        address = self._address(peer)
        if address.bulk is None:
            raise LaneError(f"{peer} does not listen; it must connect to us")
        self.close_bulk(ticket.subject)
        if not (0 < len(ticket.subject) <= limits.SUBJECT_BYTES and len(ticket.secret) == limits.TICKET_SECRET):
            self._loop.emit(BulkDown(ticket.subject, peer, "granted a ticket of the wrong size"))
            return
        try:
            self._transfers[ticket.subject] = BulkLink(self._loop, peer, address.bulk, ticket)
        except zmq.ZMQError as error:
            # No descriptor left, which strangers who connect can bring about.
            self._loop.emit(BulkDown(ticket.subject, peer, f"no connection can be opened ({error.strerror.lower()})"))

    def send_record(self, subject: bytes, data: Buffer) -> bool:
        """Send one record without copying it; False if its queue is full or its connection not up.

        Raises:
            LaneError: the record is empty or over the limit.
        """
        if not 0 < len(data) <= limits.RECORD_WIRE:
            raise LaneError(f"a record has 1 to {limits.RECORD_WIRE} bytes, not {len(data)}")
        if (transfer := self._transfers.get(subject)) is not None:
            return transfer.send(data)
        grant = self._book.by_subject(subject)
        return grant is not None and self._bulk is not None and self._bulk.send(grant, data)

    def close_bulk(self, subject: bytes) -> None:
        """End the bulk connection and withdraw its ticket; records already queued are still sent. Idempotent."""
        if (transfer := self._transfers.pop(subject, None)) is not None:
            transfer.finish()
            if not transfer.ended:
                self._draining.append(transfer)
        if self._bulk is not None and (grant := self._book.by_subject(subject)) is not None:
            self._bulk.finish(grant)
        self._forget(subject)

    def poll(self, timeout: float) -> list[Event]:
        """Wait up to `timeout` seconds for something to happen; return what did, in order.

        Raises:
            LaneError: these lanes are closed.
        """
        self._check_open()
        loop = self._loop
        end = time.monotonic() + timeout
        while True:
            due = self._tick()
            left = end - time.monotonic()
            wait = min(left, due - self._clock())
            if loop.blocked:
                wait = min(wait, _ROUTER_WAIT)
            blocked, loop.blocked, loop.writable = loop.blocked, False, False
            # Rounded up for a timer, or it would be polled for again and again within its last millisecond.
            loop.wait(0 if loop.events or wait <= 0 else max(1, math.ceil(wait * 1000)))
            if loop.events:
                events, loop.events = list(loop.events), deque()
                return events
            if blocked or loop.writable or time.monotonic() >= end:
                return []

    def wake(self) -> None:
        """Make a `poll` in progress, or the next one, return at once. Safe from any thread."""
        with self._woken:
            if not self._closed:
                # A full pipe holds a wake already.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_out, b"w")

    def close(self) -> None:
        """Tell the peers, close every connection, release every address. Idempotent.

        Takes up to `limits.LINGER` seconds when a peer does not take what is queued for it.
        """
        with self._woken:
            if self._closed:
                return
            self._closed = True
        for link in self._links.values():
            link.close()
        for transfer in (*self._transfers.values(), *self._draining):
            transfer.release(linger=limits.LINGER)
        for part in (self._control, self._bulk, self._door):
            if part is not None:
                part.close()
        self._loop.unwatch(self._wake_in)
        self._loop.context.term()
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._loop.events.clear()
        self._links.clear()
        self._transfers.clear()
        self._draining.clear()

    def _listen(self, listen: Listen, names: Mapping[bytes, str]) -> None:
        # The door stands before the addresses are bound: nobody may come in unasked, not even for a moment.
        banished: dict[str, float] = {}
        self._door = Door(self._loop, names, self._book, banished)
        self._control = ControlServer(
            self._loop, self._keys[0], listen.control, self._frame_limit, self._silence, banished
        )
        self._bulk = BulkServer(self._loop, listen.bulk, self._book)
        self.bound = Listen(self._control.endpoint, self._bulk.endpoint)

    def _tick(self) -> float:
        now = self._clock()
        due = math.inf
        for server in (self._control, self._bulk):
            if server is not None:
                server.settle()
                server.tick(now)
                due = min(due, server.due(), server.notice_at)
        for link in self._links.values():
            link.tick(now)
            due = min(due, link.due())
        for transfer in (*self._transfers.values(), *self._draining):
            transfer.tick(now)
            due = min(due, transfer.due())
        self._draining = [transfer for transfer in self._draining if not transfer.ended]
        for subject in [s for s, transfer in self._transfers.items() if transfer.ended]:
            del self._transfers[subject]
        return due

    def _read_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_in, 65_536)
        self._loop.emit(Woken())

    def _forget(self, subject: bytes) -> None:
        """Take back what is queued about a connection the caller has ended: it would be taken for its successor's."""
        events = self._loop.events
        if any(isinstance(event, BulkUp | Record | BulkDown) and event.subject == subject for event in events):
            self._loop.events = deque(
                event
                for event in events
                if not (isinstance(event, BulkUp | Record | BulkDown) and event.subject == subject)
            )

    def _address(self, peer: str) -> Address:
        address = self._peers.get(peer)
        if address is None:
            raise LaneError(f"{peer} is not a party of the charter")
        return address

    def _check_open(self) -> None:
        if self._closed:
            raise LaneError("these lanes are closed")


def _public_key(secret: bytes) -> bytes:
    if len(secret) != _KEY_BYTES:
        raise LaneError(f"a CURVE secret key has {_KEY_BYTES} bytes, not {len(secret)}")
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _names(peers: Mapping[str, Address]) -> dict[bytes, str]:
    names: dict[bytes, str] = {}
    for name, address in peers.items():
        if len(address.curve) != _KEY_BYTES:
            raise LaneError(f"the CURVE key of {name} has {len(address.curve)} bytes, not {_KEY_BYTES}")
        if (other := names.setdefault(address.curve, name)) != name:
            raise LaneError(f"{other} and {name} have the same CURVE key")
        if not (name.isascii() and 0 < len(name) <= 255):
            raise LaneError(f"{name!r} cannot be a party's name: it is not ASCII, or not 1 to 255 characters long")
    return names
