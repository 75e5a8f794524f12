"""TCP connections of a capture, each direction put together again: every byte once, in order, and what is missing.

Rules of the file:
- Only places are kept while the file is read, 24 bytes a packet; contents are read again when a stream is asked for.
- Of bytes that came twice the copy is used that begins first in the stream; where the copies differ, that is counted,
  since two programs that put them together could then have read different things.
- A stretch that no packet of the capture has is a `Gap`, never closed up: bytes after it keep their place.
- Positions are counted from a connection's SYN. One whose SYN is not there begins with the first byte that is.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..protocol import limits
from .errors import UnusableCapture
from .packets import ACK, FIN, SYN, CaptureFile, End, NotRead, Packet, Segment, segment

_NEAR: Final = limits.MIB
"""How far from what was seen of a connection a late SYN may be and still be its own."""


@dataclass(frozen=True)
class Gap:
    """So many bytes of a stream are not in the capture."""

    length: int


def _signed(value: int) -> int:
    """Return the difference of two sequence numbers as it is meant (RFC 9293, 3.4)."""
    return (value + 2**31) % 2**32 - 2**31


class Flow:
    """One direction of a connection."""

    def __init__(self) -> None:
        self._base: int | None = None
        self._places = array("q")
        self._offsets = array("q")
        self._captured = array("I")
        self._last = 0
        """The highest position that is taken for sure; what comes is placed as near to it as it can be."""
        self._start: int | None = None
        self._acknowledged: int | None = None
        self._fin: int | None = None
        self.retransmitted = 0
        """Bytes that came again; known once the stream was read."""
        self.conflicting = 0
        """Bytes of those that were not the same."""

    @property
    def begun(self) -> bool:
        """Whether the capture has the beginning."""
        return self._start is not None

    @property
    def empty(self) -> bool:
        """Whether there is no content."""
        return not self._places

    def is_another(self, first: int) -> bool:
        """Whether a SYN, whose first byte of content would have this number, begins another connection."""
        if self._base is None:
            return False
        if self._start is not None:
            return (self._base + self._start - first) % 2**32 != 0
        return abs(_signed(first - self._base)) > _NEAR

    def begin(self, first: int) -> None:
        """Take in a SYN."""
        self._start = self._place(first)

    def add(self, found: Segment, offset: int) -> None:
        """Take in content, which lies in the file at `offset`."""
        place = self._place((found.sequence + bool(found.flags & SYN)) % 2**32)
        if found.length:
            self._places.append(place)
            self._offsets.append(offset)
            self._captured.append(found.captured)
            self._last = max(self._last, place + found.length)
        if found.flags & FIN:
            self._fin = place + found.length

    def acknowledge(self, number: int) -> None:
        """Take in that the other side has everything before this byte."""
        if self._base is not None:
            place = self._place(number)
            self._acknowledged = max(place, self._acknowledged or place)

    def _place(self, number: int) -> int:
        if self._base is None:
            self._base = number
        return self._last + _signed(number - self._base - self._last)

    def pieces(self, file: CaptureFile) -> Iterator[bytes | Gap]:
        """Yield the stream, in pieces. Raises `UnusableCapture` if the file can no longer be read."""
        self.retransmitted = self.conflicting = 0
        order = sorted(range(len(self._places)), key=self._places.__getitem__)
        cursor = self._start if self._start is not None else (self._places[order[0]] if order else 0)
        recent, recent_from = bytearray(), cursor
        for each in order:
            place, captured = self._places[each], self._captured[each]
            if place > cursor:
                yield Gap(place - cursor)
                cursor = recent_from = place
                recent.clear()
            data = file.piece(self._offsets[each], captured)
            again = min(captured, cursor - place)
            if again > 0:
                self.retransmitted += again
                self._compare(recent, place - recent_from, data[:again])
            fresh = data[again:]
            if fresh:
                yield fresh
                recent += fresh
                cursor += len(fresh)
            if len(recent) > 2 * limits.PACKET_BYTES:
                # No packet is longer, and none that follows begins before this one.
                recent_from += len(recent) - limits.PACKET_BYTES
                del recent[: -limits.PACKET_BYTES]
        missing = self._end() - cursor
        if missing > 0:
            yield Gap(missing)

    def _compare(self, known: bytearray, at: int, data: bytes) -> None:
        if at < 0:
            at, data = 0, data[-at:]
        other = known[at : at + len(data)]
        if other != data[: len(other)]:
            self.conflicting += sum(one != two for one, two in zip(other, data, strict=False))

    def _end(self) -> int:
        """Return where the stream ends, as far as the capture says."""
        if self._fin is not None:
            return max(self._last, self._fin)
        # An acknowledged FIN counts as a byte, and it may be the one packet that is missing.
        if self._acknowledged is not None and self._acknowledged > self._last + 1:
            return self._acknowledged - 1
        return self._last


@dataclass
class Connection:
    """A TCP connection."""

    client: End
    """Who opened it, or who was seen first."""
    server: End
    flows: tuple[Flow, Flow] = field(default_factory=lambda: (Flow(), Flow()))
    """What the client sent, and what the server sent."""

    def of(self, source: End) -> Flow:
        """Return what this end sent."""
        return self.flows[0] if source == self.client else self.flows[1]

    def to(self, source: End) -> Flow:
        """Return what this end was sent."""
        return self.flows[1] if source == self.client else self.flows[0]


class Connections:
    """All connections of a capture."""

    def __init__(self) -> None:
        self.all: list[Connection] = []
        self.packets = 0
        self.cut = 0
        """Packets of which the capture has not all."""
        self.fragments = 0
        self.others = 0
        """Packets that are no TCP over IP, or malformed."""
        self._segments = 0
        self._current: dict[tuple[End, End], Connection] = {}

    def take(self, packet: Packet) -> None:
        """Take in a packet. Raises `UnusableCapture` if there are too many."""
        self.packets += 1
        self.cut += len(packet.data) < packet.length
        found = segment(packet)
        if isinstance(found, NotRead):
            self.fragments += found.fragment
            self.others += not found.fragment
            return
        connection = self._connection(found)
        flow = connection.of(found.source)
        if found.flags & SYN:
            flow.begin((found.sequence + 1) % 2**32)
        if found.length or found.flags & FIN:
            self._segments += 1
            if self._segments > limits.CAPTURE_PACKETS:
                raise UnusableCapture(
                    f"a capture of more than {limits.CAPTURE_PACKETS:,} packets: split it by connection"
                )
            flow.add(found, packet.offset + found.start)
        if found.flags & ACK:
            connection.to(found.source).acknowledge(found.acknowledged)

    def _connection(self, found: Segment) -> Connection:
        key = min(found.source, found.target), max(found.source, found.target)
        connection = self._current.get(key)
        if connection is not None:
            first = (found.sequence + 1) % 2**32
            if not found.flags & SYN or not connection.of(found.source).is_another(first):
                return connection
        if len(self.all) >= limits.CAPTURE_CONNECTIONS:
            raise UnusableCapture(f"a capture of more than {limits.CAPTURE_CONNECTIONS:,} connections: split it")
        answers = found.flags & (SYN | ACK) == SYN | ACK
        ends = (found.target, found.source) if answers else (found.source, found.target)
        connection = self._current[key] = Connection(*ends)
        self.all.append(connection)
        return connection
