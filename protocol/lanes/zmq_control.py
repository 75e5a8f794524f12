"""The control lane over ZeroMQ: CURVE connections between named parties, their heartbeats, and their ends.

On the wire a control frame is one ZeroMQ frame inside CURVE:

    b""                 a ping, or the answer to one
    b"\\x00"             goodbye: the sender ends this connection
    b"\\x01" + payload   a frame of the protocol above

- The connecting side pings every `ping_every`, the listening side answers; either reports `Down` after `silence`.
- The listening side knows a connection by its first frame, so the connecting side pings as soon as it is up.
- A second connection with the same key replaces the first: a party whose network broke must not wait for us to notice.
- A peer that does not take its frames goes down when its queue is full; frames are never skipped.
- A party that sends the listening side more than any round needs (`limits.FLOOD_RATE`) is cut off, and kept out for
  `limits.BANISHED`: each of its frames would hold up those of the others, most of all when they are refused.
"""

import enum
from dataclasses import dataclass

import zmq

from .. import limits
from .base import Down, Frame, Up
from .zmq_sockets import (
    CLIENT_EVENTS,
    CONTROL_DOMAIN,
    Connection,
    Loop,
    Monitor,
    Received,
    Routed,
    ZmqSocket,
    bounded,
    curve_bound,
    insist,
    receive,
    transmit,
)

PING = b""
GOODBYE = b"\x00"
PAYLOAD = b"\x01"


class Kind(enum.Enum):
    """What a control frame is."""

    PING = enum.auto()
    GOODBYE = enum.auto()
    PAYLOAD = enum.auto()
    MALFORMED = enum.auto()


def kind_of(data: memoryview, frame_limit: int) -> Kind:
    """Return what `data` is; `frame_limit` bounds the payload in bytes."""
    if len(data) == 0:
        return Kind.PING
    if data[0] == PAYLOAD[0] and len(data) <= 1 + frame_limit:
        return Kind.PAYLOAD
    return Kind.GOODBYE if data == GOODBYE else Kind.MALFORMED


@dataclass
class _Allowance:
    """How many bytes a party may send at the moment, as of when."""

    left: float
    at: float


class ControlServer(Routed):
    """The listening end of the control lane."""

    farewell = GOODBYE

    def __init__(
        self, loop: Loop, secret: bytes, endpoint: str, frame_limit: int, silence: float, banished: dict[str, float]
    ) -> None:
        """In `banished` stands until when a party is kept out; the door reads it."""
        socket = bounded(loop, zmq.ROUTER, queue=limits.CONTROL_QUEUE, frame_limit=curve_bound(frame_limit))
        socket.curve_server = True
        socket.curve_secretkey = secret
        socket.zap_domain = CONTROL_DOMAIN
        # Without this, libzmq admits any key whenever nothing answers at the ZAP address.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        super().__init__(loop, socket, queue=limits.CONTROL_QUEUE, share=limits.FRAMES_A_POLL)
        self.listen(endpoint)
        self._frame_limit = frame_limit
        self._silence = silence
        self._by_peer: dict[str, Connection] = {}
        self._banished = banished
        self._allowances: dict[str, _Allowance] = {}
        """By party and not by connection, or a new connection would bring a new allowance."""
        self._next_sweep = loop.clock() + silence / 4

    def has(self, peer: str) -> bool:
        """Whether `peer` is up."""
        return peer in self._by_peer

    def send(self, peer: str, frame: bytes) -> bool:
        """Send a frame; False if `peer` is not up, or goes down because its queue is full."""
        connection = self._by_peer.get(peer)
        if connection is None:
            return False
        sent = insist(lambda: self.transmit(connection, PAYLOAD + frame, copy=True))
        if sent is False:
            self.retire(connection, "does not take its frames")
        # If it is gone it goes down once what it said before is read: an abort, say, that came while we spoke.
        return sent is True

    def admit(self, got: Received) -> Connection | None:
        """Take the first frame of a connection whose key ZAP found in the charter."""
        peer = got.user
        if not peer or kind_of(got.frame.buffer, self._frame_limit) in (Kind.GOODBYE, Kind.MALFORMED):
            return None
        # It may have shaken hands more than once before it was banished.
        if self._loop.clock() < self._banished.get(peer, 0.0):
            return None
        if (old := self._by_peer.get(peer)) is not None:
            self.retire(old, "replaced by a newer connection")
        connection = Connection(got.route, got.fd, peer, self._loop.clock())
        self._by_peer[peer] = connection
        self._loop.emit(Up(peer))
        return connection

    def accept(self, connection: Connection, got: Received) -> str | None:
        """Take a frame of a connection that is up."""
        if self._by_peer.get(connection.user) is not connection:
            return None
        if self._floods(connection.user, len(got.frame)):
            self._banished[connection.user] = self._loop.clock() + limits.BANISHED
            self.retire(connection, "sends more than any round needs")
            self.sever(connection.fd)
            return None
        match kind_of(got.frame.buffer, self._frame_limit):
            case Kind.PING:
                self.transmit(connection, PING, copy=True)
            case Kind.PAYLOAD:
                self._loop.emit(Frame(connection.user, bytes(got.frame.buffer[1:])))
            case Kind.GOODBYE:
                return "said goodbye"
            case Kind.MALFORMED:
                return "sent a frame that is none"
        return None

    def lost(self, connection: Connection) -> None:
        """Report the end of a connection."""
        self._forget(connection)

    def tick(self, now: float) -> None:
        """Report peers that fell silent."""
        if now >= self._next_sweep:
            self._next_sweep = now + self._silence / 4
            for connection in list(self._by_peer.values()):
                if now - connection.heard >= self._silence:
                    self.retire(connection, f"silent for {self._silence:g} s")

    def due(self) -> float:
        """Return when `tick` must be called again."""
        return self._next_sweep

    def _floods(self, peer: str, size: int) -> bool:
        """Count a frame of `size` bytes; True if it is more than `peer` may send."""
        now = self._loop.clock()
        allowance = self._allowances.setdefault(peer, _Allowance(limits.FLOOD_BURST, now))
        left = min(limits.FLOOD_BURST, allowance.left + (now - allowance.at) * limits.FLOOD_RATE)
        allowance.left = left - min(max(size, limits.FLOOD_LEAST), limits.FLOOD_MOST)
        allowance.at = now
        return allowance.left < 0

    def _forget(self, connection: Connection) -> None:
        if self._by_peer.get(connection.user) is connection:
            del self._by_peer[connection.user]
            self._loop.emit(Down(connection.user, connection.reason))


class ControlLink:
    """The connecting end of the control lane to one peer: opens it, and opens it again when it is gone."""

    def __init__(
        self,
        loop: Loop,
        peer: str,
        endpoint: str,
        *,
        keys: tuple[bytes, bytes],
        server_key: bytes,
        frame_limit: int,
        ping_every: float,
        silence: float,
    ) -> None:
        self._loop = loop
        self._peer = peer
        self._endpoint = endpoint
        self._server_key = server_key
        self._secret, self._public = keys
        self._frame_limit = frame_limit
        self._ping_every = ping_every
        self._silence = silence
        self._socket: ZmqSocket | None = None
        self._monitor: Monitor | None = None
        self._pause = limits.RECONNECT_FIRST
        self._next = 0.0
        """When to open again (no socket), give up (opening), or ping (up)."""
        self._heard = 0.0
        self._complained = False
        self.up = False
        self._open()

    def send(self, frame: bytes) -> bool:
        """Send a frame; False if the peer is not up, or goes down because its queue is full."""
        if not self.up:
            return False
        return self._transmit(PAYLOAD + frame)

    def tick(self, now: float) -> None:
        """Open, ping or give up, whichever is due."""
        if self._socket is None:
            if now >= self._next:
                self._open()
        elif not self.up:
            if now >= self._next:
                self._shut("did not finish its handshake")
        elif now - self._heard >= self._silence:
            self._shut(f"silent for {self._silence:g} s")
        elif now >= self._next:
            self._next = now + self._ping_every
            self._transmit(PING)

    def due(self) -> float:
        """Return when `tick` must be called again."""
        return min(self._next, self._heard + self._silence) if self.up else self._next

    def close(self) -> None:
        """Say goodbye and close; never to be opened again."""
        # If it is gone already, closing would wait for a goodbye that nobody can take.
        self._read()
        if self.up:
            self._transmit(GOODBYE)
        self._release(linger=limits.LINGER)
        self.up = False

    def _open(self) -> None:
        socket = None
        try:
            frame_limit = curve_bound(self._frame_limit)
            socket = bounded(self._loop, zmq.DEALER, queue=limits.CONTROL_QUEUE, frame_limit=frame_limit)
            socket.curve_secretkey = self._secret
            socket.curve_publickey = self._public
            socket.curve_serverkey = self._server_key
            monitor = Monitor(self._loop, socket, CLIENT_EVENTS)
        except zmq.ZMQError as error:
            # No descriptor left, which strangers who connect can bring about: tried again like any other failure.
            if socket is not None:
                socket.close(linger=0)
            self._complain(f"cannot be reached: {error.strerror.lower()}")
            self._next = self._loop.clock() + limits.RECONNECT_MOST
            return
        self._socket, self._monitor = socket, monitor
        self._loop.watch(self._monitor.socket, self._read)
        self._loop.watch(socket, self._read)
        self._next = self._loop.clock() + limits.HANDSHAKE
        try:
            socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            # The address may be right and the name service down, so this is retried like any other failure.
            self._complain(f"cannot be reached: {error.strerror.lower()}")
            self._shut("cannot be reached")

    def _read(self) -> None:
        if self._socket is None or self._monitor is None:
            return
        ended = None
        for event, value in self._monitor.read():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._has_opened()
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._complain(f"refused this party's key (status {value})")
                ended = "refused"
            else:
                ended = ended or "the connection was lost"
        if not self.up:
            if ended:
                self._shut(ended)
            return
        # After the end only what libzmq had received is left, at most one queue of it.
        share = limits.FRAMES_A_POLL + (limits.CONTROL_QUEUE + 2 if ended else 0)
        for _ in range(share):
            got = receive(self._socket, routed=False)
            if got is None:
                break
            if (reason := self._take(got)) is not None:
                self._shut(reason)
                return
        if ended:
            self._shut(ended)

    def _take(self, got: Received) -> str | None:
        self._heard = self._loop.clock()
        self._pause = limits.RECONNECT_FIRST
        if not got.single:
            return "sent a message of several frames"
        match kind_of(got.frame.buffer, self._frame_limit):
            case Kind.PAYLOAD:
                self._loop.emit(Frame(self._peer, bytes(got.frame.buffer[1:])))
            case Kind.GOODBYE:
                return "said goodbye"
            case Kind.MALFORMED:
                return "sent a frame that is none"
            case Kind.PING:
                return None
        return None

    def _has_opened(self) -> None:
        now = self._loop.clock()
        self.up = True
        self._complained = False
        self._heard = now
        self._next = now + self._ping_every
        self._loop.emit(Up(self._peer))
        self._transmit(PING)

    def _transmit(self, data: bytes) -> bool:
        socket = self._socket
        if socket is None:
            return False
        try:
            if insist(lambda: transmit(socket, data)):
                return True
            self._shut("does not take its frames")
        except zmq.ZMQError as error:
            self._shut(f"the connection was lost ({error.strerror.lower()})")
        return False

    def _complain(self, reason: str) -> None:
        """Report once, until it works again, that the peer cannot be had; and hurry no more."""
        self._pause = limits.RECONNECT_MOST
        if not self._complained:
            self._complained = True
            self._loop.emit(Down(self._peer, reason))

    def _shut(self, reason: str) -> None:
        self._release(linger=0)
        self._next = self._loop.clock() + self._pause
        self._pause = min(2 * self._pause, limits.RECONNECT_MOST)
        if self.up:
            self.up = False
            self._loop.emit(Down(self._peer, reason))

    def _release(self, linger: float) -> None:
        if self._socket is None or self._monitor is None:
            return
        self._loop.unwatch(self._monitor.socket)
        self._loop.unwatch(self._socket)
        self._monitor.close()
        self._socket.close(linger=int(linger * 1000))
        self._socket = self._monitor = None
