"""A capture of packets, read: its bulk connections one by one, and whether planted patterns are anywhere in it.

A pattern is looked for twice: in every packet as it was captured, headers and all, and in every stream put together,
where one that was split over packets shows. Of connections that are not read otherwise too.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..crypto.files import reason
from ..protocol import limits
from .captured import Pattern
from .errors import UnusableCapture
from .packets import CaptureFile, End
from .streams import Connection, Connections, Gap
from .zmtp import Mechanism, Side


@dataclass(frozen=True)
class Line:
    """One connection that was read."""

    client: str
    server: str
    sides: tuple[Side, Side]
    begun: bool
    retransmitted: int
    conflicting: int

    @property
    def mechanism(self) -> Mechanism:
        """How it proves who is there: what either end said, in the order of `Mechanism`."""
        said = {side.mechanism for side in self.sides}
        # What one end says must not hide what the other has in the clear.
        return next(each for each in Mechanism if each in said)

    @property
    def subject(self) -> bytes | None:
        """Which transfer it is for, once a ticket was shown."""
        return self.sides[0].subject or self.sides[1].subject

    @property
    def size(self) -> int:
        """Bytes, both ways."""
        return sum(side.account.captured for side in self.sides)

    @property
    def missing(self) -> int:
        """Bytes that the capture lacks."""
        return sum(side.account.missing for side in self.sides)

    @property
    def unexplained(self) -> int:
        """Bytes that the lane does not send."""
        return sum(side.account.unexplained for side in self.sides)


@dataclass
class Taken:
    """A capture, read."""

    name: str
    truncated: bool
    packets: int
    cut: int
    fragments: int
    not_tcp: int
    lines: list[Line] = field(default_factory=list)
    """Connections with content."""
    patterns: tuple[Pattern, ...] = ()


class _Sought:
    """A pattern, and where it was found."""

    def __init__(self, number: int, pattern: bytes) -> None:
        self.number = number
        self.pattern = pattern
        self.streams = 0
        self.packets = 0
        self.first = ""

    def found(self) -> Pattern:
        return Pattern(self.number, len(self.pattern), self.streams, self.packets, self.first)


class _Search:
    """Looks for all patterns in one stream, piece by piece."""

    def __init__(self, sought: Sequence[_Sought], where: str) -> None:
        self._sought = sought
        self._where = where
        self._keep = max((len(each.pattern) for each in sought), default=1) - 1
        self._held = bytearray()
        self._searched = 0
        """How many of the bytes held were searched before."""

    def take(self, piece: bytes | Gap) -> None:
        if isinstance(piece, Gap):
            self.flush()
            self._held.clear()
            self._searched = 0
            return
        self._held += piece
        if len(self._held) >= limits.MIB + self._keep:
            self.flush()

    def flush(self) -> None:
        for each in self._sought:
            begin = max(0, self._searched - len(each.pattern) + 1)
            number = self._held.count(each.pattern, begin)
            if number:
                each.streams += number
                each.first = each.first or self._where
        if len(self._held) > self._keep:
            del self._held[: len(self._held) - self._keep]
        self._searched = len(self._held)


def read_patterns(given: Sequence[str], files: Sequence[Path]) -> list[bytes]:
    """Return the patterns of a command line: in hexadecimal, and files of raw bytes.

    Raises:
        UnusableCapture: one is no hexadecimal, cannot be read, or is too short or too long, or there are too many.
    """
    if len(given) + len(files) > limits.PATTERNS:
        raise UnusableCapture(f"more than {limits.PATTERNS} patterns to look for")
    patterns = []
    for number, text in enumerate(given, 1):
        try:
            patterns.append(bytes.fromhex(text))
        except ValueError:
            raise UnusableCapture(f"pattern {number} is not written in hexadecimal") from None
    for path in files:
        try:
            if not path.is_file():
                raise UnusableCapture(f"{path} is no file with a pattern")
            with path.open("rb") as file:
                patterns.append(file.read(limits.PATTERN_BYTES + 1))
        except OSError as error:
            raise UnusableCapture(f"{path} cannot be read: {reason(error)}") from None
    for number, pattern in enumerate(patterns, 1):
        if not limits.PATTERN_LEAST <= len(pattern) <= limits.PATTERN_BYTES:
            raise UnusableCapture(
                f"pattern {number} is too {'short' if len(pattern) < limits.PATTERN_LEAST else 'long'}: from "
                f"{limits.PATTERN_LEAST} to {limits.PATTERN_BYTES:,} bytes can be looked for"
            )
    return patterns


def take(path: Path, patterns: Sequence[bytes] = ()) -> Taken:
    """Read a capture.

    Raises:
        UnusableCapture: it is none, is not sound, or is beyond a limit.
    """
    sought = [_Sought(number, pattern) for number, pattern in enumerate(patterns, 1)]
    connections = Connections()
    with CaptureFile(path) as file:
        for packet in file.packets():
            connections.take(packet)
            for each in sought:
                if each.pattern in packet.data:
                    each.packets += 1
                    each.first = each.first or f"packet {connections.packets}"
        lines = [_read(file, each, sought) for each in connections.all if any(not flow.empty for flow in each.flows)]
        return Taken(
            name=file.name,
            truncated=file.truncated,
            packets=connections.packets,
            cut=connections.cut,
            fragments=connections.fragments,
            not_tcp=connections.others,
            lines=lines,
            patterns=tuple(each.found() for each in sought),
        )


def _read(file: CaptureFile, connection: Connection, sought: Sequence[_Sought]) -> Line:
    names = _text(connection.client), _text(connection.server)
    sides = Side(), Side()
    for side, flow, (source, target) in zip(sides, connection.flows, (names, names[::-1]), strict=True):
        search = _Search(sought, f"{source} to {target}")
        for piece in flow.pieces(file):
            side.take(piece)
            search.take(piece)
        side.end()
        search.flush()
    if sides[0].serves and not sides[1].serves:
        # Its SYN is not in the capture, and the listening side was seen first.
        names, sides = names[::-1], sides[::-1]
    return Line(
        *names,
        sides,
        begun=any(flow.begun for flow in connection.flows) or any(side.greeted for side in sides),
        retransmitted=sum(flow.retransmitted for flow in connection.flows),
        conflicting=sum(flow.conflicting for flow in connection.flows),
    )


def _text(end: End) -> str:
    address, port = ipaddress.ip_address(end[0]), end[1]
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
