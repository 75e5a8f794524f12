"""Who may connect: the ZAP handler (ZeroMQ RFC 27) of a listening party, answered inside its own `poll`.

- Domain `control`: mechanism CURVE and a key of the charter, of a party that was not banished for a flood. The User-Id
  it gives is the party's name.
- Domain `bulk`: mechanism PLAIN and a ticket, which this uses up. The User-Id it gives is the grant's number.
- Everything else is refused: another mechanism, domain or version, and a request that is not as RFC 27 says.
"""

from collections.abc import Mapping

import zmq

from ...crypto.errors import Misbehaviour
from .. import limits
from ..errors import Flooding, StrangerKey, UnknownTicket
from .base import Refused
from .tickets import TicketBook
from .zmq_sockets import BULK_DOMAIN, CONTROL_DOMAIN, Loop, ZmqSocket

ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"


class Door:
    """The ZAP handler of one context."""

    def __init__(self, loop: Loop, names: Mapping[bytes, str], book: TicketBook, banished: Mapping[str, float]) -> None:
        """In `banished` stands until when a party is kept out, by the clock of `loop`."""
        self._loop = loop
        self._banished = banished
        self._names = names
        self._book = book
        self._socket: ZmqSocket = loop.context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ENDPOINT)
        loop.watch(self._socket, self.read)

    def read(self) -> None:
        """Answer the requests that have come, up to a turn's share."""
        for _ in range(limits.FRAMES_A_POLL):
            try:
                request = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            number = request[1] if len(request) > 1 else b""
            try:
                answer = [b"200", b"OK", self._admit(request).encode("ascii")]
            except Misbehaviour as error:
                self._loop.emit(Refused(error))
                answer = [b"400", b"refused", b""]
            self._socket.send_multipart([_VERSION, number, *answer, b""])

    def close(self) -> None:
        """Stop answering."""
        self._loop.unwatch(self._socket)
        self._socket.close()

    def _admit(self, request: list[bytes]) -> str:
        """Return the User-Id of an admitted connection.

        Raises:
            StrangerKey: a control connection with a key that is not in the charter, or without one.
            Flooding: one of a party that was cut off for a flood a moment ago.
            UnknownTicket, ExpiredTicket, ReusedTicket: a bulk connection without a ticket that is good now.
        """
        version, _number, domain, _address, _identity, mechanism, *credentials = [*request, *[b""] * 6][:9]
        if version == _VERSION and (domain, mechanism) == (CONTROL_DOMAIN, b"CURVE"):
            if (name := self._names.get(credentials[0])) is not None:
                if self._loop.clock() < self._banished.get(name, 0.0):
                    raise Flooding("connects again after it was cut off for a flood", party=name)
                return name
            raise StrangerKey("a control connection was opened with a key that is not in the charter")
        if version == _VERSION and (domain, mechanism) == (BULK_DOMAIN, b"PLAIN"):
            return str(self._book.redeem(*_ticket(*credentials[:2])).number)
        raise StrangerKey("a connection was opened without the mechanism of its lane")


def _ticket(username: bytes, password: bytes) -> tuple[bytes, bytes]:
    try:
        return bytes.fromhex(username.decode("ascii")), bytes.fromhex(password.decode("ascii"))
    except ValueError:
        raise UnknownTicket("a bulk connection showed something that is no ticket") from None
