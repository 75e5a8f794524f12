"""One direction of a ZeroMQ connection, read from its bytes: greeting, PLAIN handshake, frames.

Rules of the file:
- Every byte is counted under one heading of `Account`. What is not exactly what the bulk lane sends is `unexplained`:
  a hidden channel would be there, so nothing is passed over as padding or as a peer's own business.
- ZMTP 3.x (ZeroMQ RFC 23, 37) and PLAIN (RFC 24), as libzmq speaks them. CURVE is recognised and not read.
- Missing bytes within a record are known to be of it, from its length. Anywhere else the frames after a gap cannot be
  found again, and the rest of the stream is unexplained.
- Bounds are those of the lane: nothing longer than a command is ever held.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..protocol import limits
from .streams import Gap

_GREETING: Final = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_COMMAND_BYTES: Final = 512
"""Longest command of a bulk connection; the longest honest one shows a ticket."""
_METADATA_BYTES: Final = 128
_EMPTY_FRAMES: Final = 4
"""Of one end: one opens, one ends, and it may be told twice."""
_OPENING: Final = b""
"""Stands for the first command, which says who listens."""
HEX: Final = frozenset(b"0123456789abcdef")
_SOCKETS: Final = frozenset({b"DEALER", b"ROUTER"})


class Mechanism(Enum):
    """How a connection proves who it is."""

    PLAIN = "PLAIN"
    ANOTHER = "another"
    CURVE = "CURVE"
    NONE = "no ZeroMQ"


@dataclass
class Account:
    """Bytes of one direction, each counted once."""

    greeting: int = 0
    handshake: int = 0
    framing: int = 0
    heartbeats: int = 0
    records: int = 0
    unexplained: int = 0
    missing: int = 0
    """Bytes that the capture lacks; they are in no other number."""

    @property
    def captured(self) -> int:
        """All bytes that the capture has."""
        return self.greeting + self.handshake + self.framing + self.heartbeats + self.records + self.unexplained


class Side:
    """What one end of a connection sent."""

    def __init__(self) -> None:
        self.account = Account()
        self.mechanism = Mechanism.NONE
        self.subject: bytes | None = None
        """Which transfer the ticket that it showed is for."""
        self.why = ""
        """Why bytes are unexplained, if some are."""
        self.record_bytes = 0
        """Bytes of records, those that are missing too."""
        self.holed = False
        """Whether they are only because the capture lacks bytes before them."""
        self.refused = False
        """Whether it refused the other end's ticket."""
        self.serves = False
        """Whether it answered a ticket; libzmq does not say in its greeting who listens."""
        self._held = bytearray()
        self._left = 0
        """Bytes of the record in progress that are still to come."""
        self._empty = 0
        self._lost = False
        self._greeted = False
        self._expected: list[bytes] = []

    @property
    def greeted(self) -> bool:
        """Whether it began with a greeting of ZMTP 3."""
        return self._greeted

    @property
    def frames(self) -> bool:
        """Whether frames of it are read."""
        return self.mechanism is Mechanism.PLAIN

    def take(self, piece: bytes | Gap) -> None:
        """Take in the next piece of the stream."""
        if isinstance(piece, Gap):
            self._gap(piece.length)
            return
        at = 0
        while at < len(piece):
            if self._lost:
                self.account.unexplained += len(piece) - at
                return
            if self._left:
                taken = min(self._left, len(piece) - at)
                self._record(taken)
                self.account.records += taken
                at += taken
                continue
            wanted = self._wanted()
            begin, at = at, min(len(piece), at + wanted - len(self._held))
            self._held += piece[begin:at]
            if len(self._held) == wanted:
                self._step()

    def end(self) -> None:
        """Take in the end of the stream: what was begun and not finished is what it was begun as."""
        said, self._held = bytes(self._held), bytearray()
        held = len(said)
        if not self._greeted:
            if _begins_greeting(said):
                self.account.greeting += held
            else:
                self.account.unexplained += held
        elif not self.frames:
            self.account.unexplained += held
        elif self._expected:
            self.account.handshake += held
        else:
            self.account.framing += held

    def _gap(self, length: int) -> None:
        self.account.missing += length
        if self._left:
            length -= self._record(min(self._left, length))
        if length and not self._lost:
            self.holed = True
            self._lose("bytes before it are missing in the capture")

    def _record(self, length: int) -> int:
        self._left -= length
        self.record_bytes += length
        return length

    def _lose(self, why: str) -> None:
        """Stop reading: nothing that follows can be told apart."""
        self._lost = True
        self.why = self.why or why
        self.account.unexplained += len(self._held)
        self._held.clear()

    # --- what the bytes are

    def _wanted(self) -> int:
        """Return how many bytes must be held before the next step."""
        held = self._held
        if not self._greeted:
            return _GREETING
        if not held:
            return 1
        header = 9 if held[0] & _LONG else 2
        if len(held) < header or not held[0] & _COMMAND:
            return header
        return header + int.from_bytes(held[1:header], "big")

    def _step(self) -> None:
        if not self._greeted:
            self._greet()
        elif len(self._held) == 1:
            if self._held[0] & ~(_LONG | _COMMAND) or (self._expected and not self._held[0] & _COMMAND):
                many = self._held[0] & ~(_LONG | _COMMAND) == _MORE
                self._lose("a message of several frames" if many else "a frame that the lane does not send")
        elif self._held[0] & _COMMAND:
            self._command()
        else:
            self._frame()

    def _greet(self) -> None:
        held = bytes(self._held)
        if held[0] != 0xFF or held[9] != 0x7F or held[10] < 3:
            self._lose("no greeting of ZMTP 3")
            return
        name = held[12:32].rstrip(b"\0")
        known = {each.value.encode(): each for each in (Mechanism.PLAIN, Mechanism.CURVE)}
        self.mechanism = known.get(name, Mechanism.ANOTHER)
        self._greeted = True
        # The signature's eight bytes and the filler are the sender's to choose; libzmq sends these.
        number = int.from_bytes(held[1:9], "big")
        if self.frames and (number > 1 or any(held[32:])):
            self._lose("a greeting that libzmq does not send")
            return
        self.account.greeting += _GREETING
        self._held.clear()
        if not self.frames:
            self._lose(f"mechanism {self.mechanism.value}")
            return
        self._expected = [_OPENING]

    def _frame(self) -> None:
        header = len(self._held)
        length = int.from_bytes(self._held[1:], "big")
        if length > limits.RECORD_WIRE:
            self._lose(f"a frame of {length} bytes")
            return
        self._empty += not length
        # In frames that hold nothing, and lengths written longer than libzmq does, a message could be hidden.
        if self._empty > _EMPTY_FRAMES or (header > 2 and length < 256):
            self._lose("frames that the lane does not send")
            return
        self.account.framing += header
        self._held.clear()
        self._left = length

    def _command(self) -> None:
        header = 9 if self._held[0] & _LONG else 2
        if len(self._held) == header:
            length = int.from_bytes(self._held[1:header], "big")
            if not 0 < length <= _COMMAND_BYTES:
                self._lose(f"a command of {length} bytes")
            return
        body = bytes(self._held[header:])
        name, said = body[1 : 1 + body[0]], body[1 + body[0] :]
        if self._expected:
            if not self._shakes(name, said):
                self._lose("a handshake that is not the bulk lane's")
                return
            self.account.handshake += len(self._held)
        else:
            if not _beats(name, said):
                self._lose("a command that is no heartbeat")
                return
            self.account.heartbeats += len(self._held)
        self._held.clear()

    def _shakes(self, name: bytes, said: bytes) -> bool:
        """Whether this is the next command of the handshake; take it in."""
        if self._expected == [_OPENING]:
            self.serves = name != b"HELLO"
            self._expected = [b"WELCOME", b"READY"] if self.serves else [b"HELLO", b"INITIATE"]
        expected = self._expected.pop(0)
        if name == b"ERROR" and expected in (b"WELCOME", b"READY"):
            self.refused = True
            return said[:1] == bytes([len(said) - 1]) and len(said) <= 4
        if name != expected:
            return False
        if name == b"HELLO":
            shown = _ticket(said)
            self.subject = shown
            return shown is not None
        return said == b"" if name == b"WELCOME" else _is_metadata(said)


def _ticket(said: bytes) -> bytes | None:
    """Return the subject of a HELLO: two short texts in hexadecimal, as `lanes/zap.py` takes them."""
    user = said[1 : 1 + said[0]] if said else b""
    rest = said[1 + len(user) :]
    secret = rest[1:]
    if not user or len(user) % 2 or len(user) > 2 * limits.SUBJECT_BYTES or not HEX.issuperset(user):
        return None
    if len(secret) != 2 * limits.TICKET_SECRET or rest[0] != len(secret) or not HEX.issuperset(secret):
        return None
    return bytes.fromhex(user.decode("ascii"))


def _is_metadata(said: bytes) -> bool:
    """Whether these are the properties that libzmq gives a socket of the lanes: its type, and an empty identity."""
    if len(said) > _METADATA_BYTES:
        return False
    known: dict[bytes, bytes] = {}
    while said:
        name, rest = said[1 : 1 + said[0]], said[1 + said[0] :]
        size = int.from_bytes(rest[:4], "big")
        if len(rest) < 4 + size or name in known:
            return False
        known[name], said = rest[4 : 4 + size], rest[4 + size :]
    identity = known.pop(b"Identity", b"")
    return identity == b"" and set(known) == {b"Socket-Type"} and known[b"Socket-Type"] in _SOCKETS


def _beats(name: bytes, said: bytes) -> bool:
    """Whether this is a PING or PONG as libzmq sends it, without a context, and without a time to live."""
    return said == _BEATS.get(name)


def _begins_greeting(said: bytes) -> bool:
    """Whether these are the first bytes of a greeting of either lane, which a lost connection may leave."""
    free = {8: b"\0\1", 11: bytes(range(256))}
    for name in (b"PLAIN", b"CURVE"):
        whole = (b"\xff" + bytes(8) + b"\x7f\x03\0" + name).ljust(_GREETING, b"\0")
        if all(byte in free.get(at, whole[at : at + 1]) for at, byte in enumerate(said)):
            return True
    return False


_BEATS: Final = {b"PING": b"\0\0", b"PONG": b""}
