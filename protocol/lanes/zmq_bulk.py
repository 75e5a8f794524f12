"""The bulk lane over ZeroMQ: one connection a ticket, records that are sealed already, no copies, no CURVE.

- The handshake is PLAIN: user name = subject, password = the ticket's secret, both in hex. ZAP uses the ticket up.
- An empty frame opens: the connecting side's first, by which the listening side learns the route. An empty frame ends:
  whoever sends the next one has sent its last record. A record is therefore never empty.
- Told of the end, the connecting side closes; the listening side, which cannot close one connection, answers with an
  empty frame. So the connecting side, which stays until what it had queued is sent, knows that all of it arrived.
- ZeroMQ's own heartbeats find dead connections (its I/O thread answers while a party is busy), and a connection on
  which nothing moved for `limits.BULK_IDLE` is ended, since a live peer can hold one open for nothing.
"""

import zmq

from ...crypto.labels import Buffer
from .. import limits
from ..ticket import Ticket
from .base import BulkDown, BulkUp, Record
from .tickets import Grant, TicketBook
from .zmq_sockets import (
    BULK_DOMAIN,
    CLIENT_EVENTS,
    Connection,
    Loop,
    Monitor,
    Received,
    Routed,
    bounded,
    receive,
    transmit,
)

END = b""
_ROUTER_TICK = 0.01
"""How often to look whether a full queue of a ROUTER has room; it cannot be polled for."""


class BulkServer(Routed):
    """The listening end of the bulk lane."""

    farewell = END

    def __init__(self, loop: Loop, endpoint: str, book: TicketBook) -> None:
        socket = bounded(loop, zmq.ROUTER, queue=limits.BULK_QUEUE, frame_limit=limits.RECORD_WIRE)
        socket.plain_server = True
        socket.zap_domain = BULK_DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.heartbeat_ivl = int(limits.PING_EVERY * 1000)
        socket.heartbeat_timeout = int(limits.SILENCE * 1000)
        super().__init__(loop, socket, queue=limits.BULK_QUEUE, share=limits.RECORDS_A_POLL)
        self.listen(endpoint)
        self._book = book
        self._unfinished: dict[bytes, float] = {}
        """Routes that are to be told of the end once their queue has room, and until when to try."""
        self._next_sweep = loop.clock() + 1.0

    def send(self, grant: Grant, data: Buffer) -> bool:
        """Send a record; False if the connection is not up or its queue is full."""
        connection = self.connections.get(grant.connection or b"")
        if connection is None:
            return False
        sent = self.transmit(connection, data, copy=False)
        if sent is False:
            self._loop.blocked = True
        elif sent:
            connection.heard = self._loop.clock()
        return sent is True

    def finish(self, grant: Grant) -> None:
        """End a grant from our side, without an event: withdraw the ticket, and end its connection after its queue."""
        self._book.end(grant)
        self.cut(grant)

    def cut(self, grant: Grant) -> None:
        """End the connection of a grant that the book has ended."""
        connection = self.connections.get(grant.connection or b"")
        if connection is not None:
            self.retire(connection, "closed")

    def admit(self, got: Received) -> Connection | None:
        """Take the empty frame that opens a connection whose ticket ZAP used up."""
        number = got.user
        grant = self._book.by_number(int(number)) if number.isdecimal() else None
        if grant is None:
            return None
        grant.connection = got.route
        if len(got.frame) != 0:
            self._report(grant, "sent a record before it opened")
            return None
        self._loop.emit(BulkUp(grant.subject, grant.peer))
        return Connection(got.route, got.fd, number, self._loop.clock())

    def accept(self, connection: Connection, got: Received) -> str | None:
        """Take a record, or the end."""
        grant = self._grant(connection)
        if grant is None:
            return None
        if not connection.opened:
            connection.opened = True
            return None
        if len(got.frame) == 0:
            return "ended by the other side"
        self._loop.emit(Record(grant.subject, grant.peer, got.frame.buffer))
        return None

    def lost(self, connection: Connection) -> None:
        """Report the end of a connection."""
        self._gone(connection)

    def tick(self, now: float) -> None:
        """Expire tickets, and end connections that never opened or on which nothing moves."""
        if self._unfinished:
            for route, deadline in list(self._unfinished.items()):
                if now >= deadline or super().bid_farewell(route):
                    del self._unfinished[route]
        if now < self._next_sweep:
            return
        self._next_sweep = now + 1.0
        self._book.expire()
        for grant in self._book.alive():
            connection = self.connections.get(grant.connection or b"")
            if connection is not None and now - connection.heard >= limits.BULK_IDLE:
                self.retire(connection, f"no record in {limits.BULK_IDLE:g} s")
            elif grant.used_at is not None and connection is None and now - grant.used_at >= limits.HANDSHAKE:
                self._report(grant, "used its ticket and never opened")

    def due(self) -> float:
        """Return when `tick` must be called again."""
        return self._loop.clock() + _ROUTER_TICK if self._unfinished else self._next_sweep

    def bid_farewell(self, route: bytes) -> bool:
        """Tell the other end that no record follows; later, if its queue is full of records that are still to go."""
        said = super().bid_farewell(route)
        if not said:
            self._unfinished.setdefault(route, self._loop.clock() + limits.BULK_DRAIN)
        return said

    def _grant(self, connection: Connection) -> Grant | None:
        return self._book.by_number(int(connection.user))

    def _gone(self, connection: Connection) -> None:
        grant = self._grant(connection)
        if grant is not None:
            self._report(grant, connection.reason)

    def _report(self, grant: Grant, reason: str) -> None:
        self._book.end(grant)
        self._loop.emit(BulkDown(grant.subject, grant.peer, reason))


class BulkLink:
    """The connecting end of one bulk connection."""

    def __init__(self, loop: Loop, peer: str, endpoint: str, ticket: Ticket) -> None:
        self._loop = loop
        self._peer = peer
        self.subject = ticket.subject
        self._up = False
        self._draining = False
        self.ended = False
        """Whether this connection is over and everything of it released."""
        self._deadline = loop.clock() + limits.HANDSHAKE
        self._socket = socket = bounded(loop, zmq.DEALER, queue=limits.BULK_QUEUE, frame_limit=limits.RECORD_WIRE)
        socket.plain_username = ticket.subject.hex().encode("ascii")
        socket.plain_password = ticket.secret.hex().encode("ascii")
        self._monitor = Monitor(loop, socket, CLIENT_EVENTS)
        loop.watch(self._monitor.socket, self._read)
        loop.watch(socket, self._read)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            self._shut(f"cannot be reached: {error.strerror.lower()}")

    def send(self, data: Buffer) -> bool:
        """Send a record; False if the connection is not up or its queue is full."""
        if not self._up:
            return False
        try:
            if transmit(self._socket, data, copy=False):
                return True
            self._loop.want_room(self._socket, lambda: None)
        except zmq.ZMQError as error:
            self._shut(f"the connection was lost ({error.strerror.lower()})")
        return False

    def finish(self) -> None:
        """End without an event, after what is queued was sent."""
        if self.ended or self._draining:
            return
        if not self._up:
            self.release(linger=0)
            return
        self._up = False
        self._draining = True
        self._deadline = self._loop.clock() + limits.BULK_DRAIN
        self._say_end()

    def tick(self, now: float) -> None:
        """Give up a handshake, or a queue that is not taken, when its time is over."""
        if not self._up and not self.ended and now >= self._deadline:
            self._shut("did not finish its handshake")

    def due(self) -> float:
        """Return when `tick` must be called again."""
        return float("inf") if self._up or self.ended else self._deadline

    def release(self, linger: float) -> None:
        """Close, giving what is queued `linger` seconds more."""
        if self.ended:
            return
        self.ended = True
        self._up = False
        self._loop.unwatch(self._monitor.socket)
        self._loop.unwatch(self._socket)
        self._monitor.close()
        self._socket.close(linger=int(linger * 1000))

    def _say_end(self) -> None:
        if self.ended:
            return
        try:
            if not transmit(self._socket, END):
                self._loop.want_room(self._socket, self._say_end)
        except zmq.ZMQError:
            self.release(linger=0)

    def _read(self) -> None:
        if self.ended:
            return
        lost = None
        for event, value in self._monitor.read():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._up = True
                self._loop.emit(BulkUp(self.subject, self._peer))
                self._say_end()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                lost = f"the ticket was refused (status {value})"
            else:
                lost = lost or "the connection was lost"
        share = limits.RECORDS_A_POLL + (limits.BULK_QUEUE + 2 if lost else 0)
        for _ in range(share):
            if self.ended or not self._take(receive(self._socket, routed=False)):
                break
        if lost:
            self._shut(lost)

    def _take(self, got: Received | None) -> bool:
        """Take a message; False if there is none left."""
        if got is None:
            return False
        if not got.single:
            self._shut("sent a message of several frames")
        elif len(got.frame) == 0:
            self._shut("ended by the other side")
        elif self._up:
            self._loop.emit(Record(self.subject, self._peer, got.frame.buffer))
        return True

    def _shut(self, reason: str) -> None:
        if self.ended:
            return
        quiet = self._draining
        self.release(linger=0)
        if not quiet:
            self._loop.emit(BulkDown(self.subject, self._peer, reason))
