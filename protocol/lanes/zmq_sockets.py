"""What every ZeroMQ socket of the lanes has in common: its bounds, its monitor, and who a frame came from.

- One socket of a connecting party is one connection: libzmq never reconnects it. Else a frame queued for one connection
  would be sent on the next, before the protocol above introduced itself on that one.
- `MAXMSGSIZE` is set on every socket; libzmq has none by default, and reads what an unauthenticated peer announces.
- A frame's sender is ZAP's `User-Id`, which libzmq attaches to it. The routing id only says where an answer goes.
- Known limit: `MAXMSGSIZE` bounds a frame, not the number of frames of a multipart message, so a peer that
  *authenticated* and never ends such a message makes libzmq hold it: a party of the charter, or a ticket holder.
"""

import contextlib
import itertools
import os
import socket as sockets
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from ...crypto.labels import Buffer
from .. import limits
from ..errors import LaneError
from .base import Event

CONTROL_DOMAIN = b"control"
BULK_DOMAIN = b"bulk"

_CURVE_OVERHEAD = 64
"""A CURVE MESSAGE adds 33 bytes to a frame; `MAXMSGSIZE` is compared with what is on the wire."""
_RECONNECT_NEVER_MS = 3_600_000
"""An hour, by when the lane has closed the socket. -1 means never too, but then libzmq discards, on a disconnect, the
frames it has received and we have not read yet: a goodbye and what was said before it."""
_MOMENT = 0.02
_DEPARTED = 1024
_NOTICE_EVERY = 0.05
"""Seconds between two looks at who came and went, or strangers would wake this party with each connection."""
_MONITOR_NUMBERS = itertools.count()

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
)
CLIENT_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILED
SERVER_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

ZmqSocket = zmq.Socket[bytes]


class Loop:
    """What the parts of one party's lanes share: the context, the poller, the clock, and the events found so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.context: zmq.Context[ZmqSocket] = zmq.Context(io_threads=1)
        # One I/O thread: the order "accepted, frames, disconnected" that `Routed` relies on is then libzmq's own.
        self.context.set(zmq.MAX_SOCKETS, 65_000)
        self.clock = clock
        self.events: deque[Event] = deque()
        self.blocked = False
        """A router queue was full: poll again soon, since a ROUTER cannot say when one peer's queue has room."""
        self.writable = False
        """A full queue has room again, so the poll in progress should return."""
        self._poller = zmq.Poller()
        self._handlers: dict[ZmqSocket | int, Callable[[], None]] = {}
        self._writers: dict[ZmqSocket, Callable[[], None]] = {}

    def emit(self, event: Event) -> None:
        """Add an event to what the next `poll` returns."""
        self.events.append(event)

    def watch(self, source: ZmqSocket | int, handler: Callable[[], None]) -> None:
        """Call `handler` when `source` (a socket or a file descriptor) can be read."""
        self._handlers[source] = handler
        self._poller.register(source, zmq.POLLIN)

    def unwatch(self, source: ZmqSocket | int) -> None:
        """Stop watching `source`."""
        if self._handlers.pop(source, None) is not None:
            self._writers.pop(source, None)  # type: ignore[arg-type]
            self._poller.unregister(source)

    def want_room(self, socket: ZmqSocket, handler: Callable[[], None]) -> None:
        """Call `handler` once, when `socket` can be written again, and end the poll that finds it."""
        self._writers[socket] = handler
        self._poller.modify(socket, zmq.POLLIN | zmq.POLLOUT)

    def wait(self, milliseconds: int) -> None:
        """Wait for a watched source and call its handler."""
        for source, mask in self._poller.poll(milliseconds):
            if mask & zmq.POLLOUT and (writer := self._writers.pop(source, None)) is not None:
                self._poller.modify(source, zmq.POLLIN)
                self.writable = True
                writer()
            if mask & (zmq.POLLIN | zmq.POLLERR) and (handler := self._handlers.get(source)) is not None:
                handler()


@dataclass(frozen=True)
class Received:
    """One message as it came off a socket."""

    route: bytes
    """Where an answer goes; empty on a socket with one connection."""
    frame: zmq.Frame
    single: bool
    """False if the sender sent a message of several frames; then only the first is here."""

    @property
    def user(self) -> str:
        """ZAP's User-Id of the connection; empty if it has none, which no admitted connection has."""
        try:
            return str(self.frame.get("User-Id"))
        except zmq.ZMQError:
            return ""

    @property
    def fd(self) -> int:
        """The connection's file descriptor, by which monitor events name it; -1 if unknown."""
        try:
            return int(self.frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return -1


def receive(socket: ZmqSocket, *, routed: bool) -> Received | None:
    """Return the next message without waiting, None if there is none."""
    try:
        route = socket.recv(zmq.DONTWAIT) if routed else b""
        frame: zmq.Frame = socket.recv(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    single = not frame.more
    more = frame.more
    while more:
        more = socket.recv(zmq.DONTWAIT, copy=False).more
    return Received(route, frame, single)


def transmit(socket: ZmqSocket, data: Buffer, *, route: bytes = b"", copy: bool = True) -> bool:
    """Send without waiting; False if the queue is full. Raises `zmq.ZMQError` if the connection is gone."""
    try:
        if route:
            socket.send(route, zmq.SNDMORE | zmq.DONTWAIT)
        socket.send(data, zmq.DONTWAIT, copy=copy)
    except zmq.Again:
        return False
    return True


def insist(send: Callable[[], bool | None]) -> bool | None:
    """Try `send` again for a moment while it says False.

    A burst fills a queue in less time than libzmq's own thread needs to wake up; that is no fault of the peer.
    """
    end = time.monotonic() + _MOMENT
    while (sent := send()) is False and time.monotonic() < end:
        time.sleep(0.0005)
    return sent


class Monitor:
    """The connection events of one socket."""

    def __init__(self, loop: Loop, socket: ZmqSocket, events: int) -> None:
        name = f"inproc://monitor-{next(_MONITOR_NUMBERS)}"
        self._watched = socket
        socket.monitor(name, events)
        self.socket: ZmqSocket = loop.context.socket(zmq.PAIR)
        # With a bounded queue, strangers who connect faster than we poll would block libzmq's only I/O thread.
        self.socket.rcvhwm = 0
        self.socket.linger = 0
        self.socket.connect(name)

    def read(self) -> Iterator[tuple[int, int]]:
        """Yield what happened since the last call, as libzmq's event and its value."""
        while True:
            try:
                event, _endpoint = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            yield struct.unpack("=Hi", event)

    def close(self) -> None:
        """Stop watching."""
        self._watched.disable_monitor()
        self.socket.close()


def bounded(loop: Loop, kind: int, *, queue: int, frame_limit: int) -> ZmqSocket:
    """Return a new socket with the bounds every socket of the lanes has."""
    socket: ZmqSocket = loop.context.socket(kind)
    socket.maxmsgsize = frame_limit
    socket.sndhwm = socket.rcvhwm = queue
    socket.backlog = limits.BACKLOG
    socket.handshake_ivl = int(limits.HANDSHAKE * 1000)
    socket.connect_timeout = int(limits.HANDSHAKE * 1000)
    socket.reconnect_ivl = _RECONNECT_NEVER_MS
    socket.linger = int(limits.LINGER * 1000)
    socket.ipv6 = False
    return socket


def curve_bound(frame_limit: int) -> int:
    """Return the `MAXMSGSIZE` that lets a control frame of `frame_limit` bytes and its kind through CURVE."""
    return 1 + frame_limit + _CURVE_OVERHEAD


def bind(socket: ZmqSocket, endpoint: str) -> str:
    """Bind and return the address as bound, with the port the system chose for port 0.

    Raises:
        LaneError: the address is malformed, not ours, or in use.
    """
    try:
        socket.bind(endpoint)
        bound = socket.getsockopt(zmq.LAST_ENDPOINT)
    except zmq.ZMQError as error:
        raise LaneError(f"cannot listen on {endpoint}: {error.strerror.lower()}") from None
    return bound.rstrip(b"\0").decode("ascii") if isinstance(bound, bytes) else endpoint


@dataclass(eq=False)
class Connection:
    """One admitted connection of a listening socket."""

    route: bytes
    fd: int
    user: str
    heard: float
    opened: bool = False
    """Whether its first frame was taken."""
    unread: int | None = None
    """Once libzmq saw it end: how many more frames may be read before none of its own can be left."""
    reason: str = "the connection was lost"


class Routed:
    """A listening socket: knows its connections by the routes libzmq gave them and notices when they end.

    A connection that broke a rule, or was replaced, is *retired*: libzmq cannot close one connection of a ROUTER, so
    its frames are ignored, and each is answered with a farewell that an honest peer takes as the end. One that goes on
    for longer than its queue holds is *severed*: its TCP connection is shut down under libzmq, which closes it then.
    """

    farewell: bytes

    def __init__(self, loop: Loop, socket: ZmqSocket, *, queue: int, share: int) -> None:
        self._loop = loop
        self.socket = socket
        socket.router_mandatory = True
        self._monitor = Monitor(loop, socket, SERVER_EVENTS)
        self._queue = queue
        self._share = share
        self._open: set[int] = set()
        self._by_fd: dict[int, bytes] = {}
        self._retired: dict[bytes, int] = {}
        """By route: how many frames came since."""
        self._departed: OrderedDict[bytes, None] = OrderedDict()
        """The last retired routes that were closed: what libzmq still holds of them must not open them again."""
        self._ending: dict[bytes, Connection] = {}
        self.connections: dict[bytes, Connection] = {}
        self.notice_at = float("inf")
        """When to watch the monitor again; never, while it is watched."""
        loop.watch(socket, self.read)
        loop.watch(self._monitor.socket, self._notice)

    def listen(self, endpoint: str) -> None:
        """Bind; `endpoint` then holds the address as bound. Raises `LaneError`, with everything closed.

        Only now that the monitor watches: of a connection that came before it, no end would ever be seen, and none of
        its frames could be told from those of a connection that has ended.
        """
        try:
            self.endpoint = bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def admit(self, got: Received) -> Connection | None:
        """Return the connection a first frame opens, or None to ignore that connection from now on."""
        raise NotImplementedError

    def accept(self, connection: Connection, got: Received) -> str | None:
        """Take a frame of an admitted connection; return the reason to retire it, if it broke a rule."""
        raise NotImplementedError

    def lost(self, connection: Connection) -> None:
        """Take note that a connection ended, for the reason it holds."""
        raise NotImplementedError

    def read(self) -> None:
        """Read what has come, up to a turn's share."""
        self._read_monitor()
        for _ in range(self._share):
            got = receive(self.socket, routed=True)
            if got is None:
                for connection in list(self._ending.values()):
                    self._end(connection)
                return
            self._take(got)
            for connection in list(self._ending.values()):
                assert connection.unread is not None  # noqa: S101 - mypy; set where it is entered
                connection.unread -= 1
                if connection.unread <= 0:
                    self._end(connection)

    def settle(self) -> None:
        """Finish the ends that were noticed while sending, for which nothing will wake the poll."""
        if self._loop.clock() >= self.notice_at:
            self.notice_at = float("inf")
            self._loop.watch(self._monitor.socket, self._notice)
        if self._ending:
            self.read()

    def retire(self, connection: Connection, reason: str) -> None:
        """End a connection from our side."""
        connection.reason = reason
        still_open = connection.unread is None and connection.fd in self._open
        self._end(connection)
        if still_open:
            self._retired[connection.route] = 0
            self.bid_farewell(connection.route)
        else:
            self._depart(connection.route)

    def sever(self, fd: int) -> None:
        """Shut an open TCP connection down, whatever is still to go."""
        self._read_monitor()
        # Should libzmq have closed it this instant and given its number to another, that one is lost and comes back.
        if fd in self._open:
            with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(fd)) as line:
                line.shutdown(sockets.SHUT_RDWR)

    def transmit(self, connection: Connection, data: Buffer, *, copy: bool) -> bool | None:
        """Send without waiting: True, or False if its queue is full, or None if the connection is gone."""
        try:
            return transmit(self.socket, data, route=connection.route, copy=copy)
        except zmq.ZMQError as error:
            connection.reason = f"the connection was lost ({error.strerror.lower()})"
            self._ends(connection)
            return None

    def bid_farewell(self, route: bytes) -> bool:
        """Tell the other end that we are done with it; False if its queue is full."""
        try:
            return transmit(self.socket, self.farewell, route=route)
        except zmq.ZMQError:
            return True

    def close(self) -> None:
        """Say farewell to all and release the address."""
        for route in self.connections:
            self.bid_farewell(route)
        self._loop.unwatch(self.socket)
        self._loop.unwatch(self._monitor.socket)
        self._monitor.close()
        self.socket.close()

    def _notice(self) -> None:
        """Read who came and went; then not before a while, but with the frames that come."""
        self._loop.unwatch(self._monitor.socket)
        self.notice_at = self._loop.clock() + _NOTICE_EVERY
        self.read()

    def _take(self, got: Received) -> None:
        # libzmq's own ids start with a zero. One chosen by a peer can be taken over by another peer when it is free,
        # and what we then send to the first would reach the second.
        if len(got.route) != 5 or got.route[0] != 0:
            return
        if got.route in self._departed:
            return
        if (more := self._retired.get(got.route)) is not None:
            self._retired[got.route] = more + 1
            if more < self._queue:
                self.bid_farewell(got.route)
            else:
                self.sever(got.fd)
            return
        connection = self.connections.get(got.route)
        if connection is None:
            connection = self._new(got)
            if connection is None:
                return
        connection.heard = self._loop.clock()
        reason = self.accept(connection, got) if got.single else "sent a message of several frames"
        if reason is not None and got.route in self.connections:
            self.retire(connection, reason)

    def _new(self, got: Received) -> Connection | None:
        # The descriptor may have belonged to a connection whose end is still to be read.
        self._read_monitor()
        fd = got.fd
        connection = self.admit(got) if got.single else None
        if fd in self._open:
            self._by_fd[fd] = got.route
        if connection is None:
            if fd in self._open:
                self._retired[got.route] = 0
            self.bid_farewell(got.route)
        else:
            self.connections[got.route] = connection
            if fd not in self._open:
                self._ends(connection)
        return connection

    def _read_monitor(self) -> None:
        for event, fd in self._monitor.read():
            if event == zmq.EVENT_ACCEPTED:
                self._open.add(fd)
                continue
            self._open.discard(fd)
            route = self._by_fd.pop(fd, b"")
            if self._retired.pop(route, None) is not None:
                self._depart(route)
            if (connection := self.connections.get(route)) is not None:
                self._ends(connection)

    def _depart(self, route: bytes) -> None:
        self._departed[route] = None
        if len(self._departed) > _DEPARTED:
            self._departed.popitem(last=False)

    def _ends(self, connection: Connection) -> None:
        if connection.unread is None:
            # libzmq takes from its connections in turn, so one full queue each is all that can come before the last.
            connection.unread = (self._queue + 2) * (len(self._open) + len(self._ending) + 1)
            self._ending[connection.route] = connection

    def _end(self, connection: Connection) -> None:
        self._ending.pop(connection.route, None)
        if self.connections.pop(connection.route, None) is not None:
            self.lost(connection)
