"""A file of captured packets: pcap and pcapng, and the piece of a TCP connection that each packet has.

Rules of the file:
- The file is read once, in order, a packet at a time. Every length is held to a limit and to the end of the file before
  anything is read for it; a format that is not as its specification says is `UnusableCapture`, never a guess.
- What a packet holds was written by anybody. A packet that is no TCP segment over IP, a fragment, or malformed, is
  counted and passed by.
- A file that ends within its last packet was cut while it was written: that is said, and the rest counts.
- pcap and pcapng are as in draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng, link types as in -pcaplinktype.
"""

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..crypto.files import reason
from ..protocol import limits
from .errors import UnusableCapture

_MAGICS: Final = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",
    b"\xa1\xb2\x3c\x4d": ">",
}
"""How a pcap begins, in micro- or nanoseconds, and its byte order. Times are not looked at."""
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6

_NULL, _ETHERNET, _LOOP, _SLL, _IPV4, _IPV6, _SLL2 = 0, 1, 108, 113, 228, 229, 276
_RAW: Final = frozenset({12, 14, 101})
LINKS: Final = _RAW | {_NULL, _ETHERNET, _LOOP, _SLL, _IPV4, _IPV6, _SLL2}
"""The link types that are read."""
_ETHER_V4, _ETHER_V6 = b"\x08\x00", b"\x86\xdd"
_TAGS: Final = frozenset({b"\x81\x00", b"\x88\xa8"})
_MOST_TAGS = 4
_MOST_EXTENSIONS = 8
_EXTENSIONS: Final = frozenset({0, 43, 60})
_FRAGMENT, _TCP = 44, 6

FIN, SYN, RST, ACK = 1, 2, 4, 16
End = tuple[bytes, int]
"""Address and port of one end of a connection."""


@dataclass(frozen=True)
class Packet:
    """One packet as it lies in the file."""

    link: int
    offset: int
    """Where in the file its bytes begin."""
    data: bytes
    length: int
    """How long it was on the wire; `data` may be cut."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What a packet holds of a TCP connection."""

    source: End
    target: End
    flags: int
    sequence: int
    acknowledged: int
    start: int
    """Where in the packet its content begins."""
    captured: int
    """Bytes of content that are in the capture."""
    length: int
    """Bytes of content that were on the wire."""


@dataclass(frozen=True)
class NotRead:
    """A packet that is no TCP segment; `fragment` if it is a piece of one packet, which nothing here puts together."""

    fragment: bool


class CaptureFile:
    """A capture that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            UnusableCapture: it is no file, cannot be read, or is no capture of packets.
        """
        self.name = path.name
        self.truncated = False
        """Whether the file ends within a packet."""
        try:
            # Whoever names a pipe or a device is not to wait for it.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else "that is no name of a file"
            raise UnusableCapture(f"{path} cannot be read: {why}") from None
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            os.close(descriptor)
            raise UnusableCapture(f"{path} is no file of captured packets: it is no regular file")
        self.size = about.st_size
        self._file: BinaryIO = os.fdopen(descriptor, "rb", buffering=limits.MIB)
        try:
            self._magic = self._read(4)
            if self._magic not in _MAGICS and self._magic != _SECTION:
                raise UnusableCapture(f"{path} is no file of captured packets: it begins as neither pcap nor pcapng")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "CaptureFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def piece(self, offset: int, length: int) -> bytes:
        """Return bytes of the file again; raises `UnusableCapture` if they are not there any more."""
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise UnusableCapture(f"{self.name} cannot be read: {reason(error)}") from None
        if len(data) != length:
            raise UnusableCapture(f"{self.name} became shorter while it was read")
        return data

    def packets(self) -> Iterator[Packet]:
        """Yield every packet, in the order of the file; once. Raises `UnusableCapture`."""
        try:
            yield from self._pcap(_MAGICS[self._magic]) if self._magic in _MAGICS else self._pcapng()
        except OSError as error:
            raise UnusableCapture(f"{self.name} cannot be read: {reason(error)}") from None

    def _read(self, length: int) -> bytes:
        try:
            return self._file.read(length)
        except OSError as error:
            raise UnusableCapture(f"{self.name} cannot be read: {reason(error)}") from None

    def _bad(self, what: str) -> UnusableCapture:
        return UnusableCapture(f"{self.name} is not a sound capture: {what}, before byte {self._file.tell()}")

    def _link(self, number: int) -> int:
        if number not in LINKS:
            raise UnusableCapture(
                f"{self.name} has packets of link type {number}; Ethernet, loopback, Linux cooked and raw IP are read"
            )
        return number

    # --- pcap

    def _pcap(self, order: str) -> Iterator[Packet]:
        head = self._read(20)
        if len(head) < 20:
            raise self._bad("its header is cut")
        major, minor, *_, network = struct.unpack(order + "HHiIII", head)
        if (major, minor) != (2, 4):
            raise self._bad(f"pcap version {major}.{minor} instead of 2.4")
        link = self._link(network & 0xFFFF)
        record = struct.Struct(order + "IIII")
        while head := self._read(16):
            if len(head) < 16:
                self.truncated = True
                return
            *_, captured, length = record.unpack(head)
            packet = self._packet(link, captured, length)
            if packet is None:
                return
            yield packet

    def _packet(self, link: int, captured: int, length: int) -> Packet | None:
        """Read a packet that begins here; None if the file ends within it."""
        if captured > limits.PACKET_BYTES:
            raise self._bad(f"a packet of {captured} bytes")
        if length < captured:
            raise self._bad(f"a packet of {length} bytes of which {captured} were captured")
        offset = self._file.tell()
        data = self._read(captured)
        if len(data) < captured:
            self.truncated = True
            return None
        return Packet(link, offset, data, length)

    # --- pcapng

    def _pcapng(self) -> Iterator[Packet]:
        order = self._section()
        interfaces: list[tuple[int, int]] = []
        while head := self._read(8):
            if len(head) < 8:
                self.truncated = True
                return
            if head[:4] == _SECTION:
                self._file.seek(-4, os.SEEK_CUR)
                order, interfaces = self._section(), []
                continue
            kind, total = struct.unpack(order + "II", head)
            begin = self._file.tell()
            if total < 12 or total % 4:
                raise self._bad(f"a block of {total} bytes")
            if begin - 8 + total > self.size:
                self.truncated = True
                return
            if kind == _INTERFACE:
                if total < 20:
                    raise self._bad("an interface without its fields")
                link, _, snap = struct.unpack(order + "HHI", self._read(8))
                interfaces.append((link, snap))
                if len(interfaces) > limits.CAPTURE_INTERFACES:
                    raise self._bad(f"more than {limits.CAPTURE_INTERFACES} interfaces")
            elif kind in (_ENHANCED, _SIMPLE):
                yield self._block(order, kind, total - 12, interfaces)
            # What the block has besides is passed by, as long as the file says it is.
            self._file.seek(begin - 8 + total - 4)
            if self._read(4) != head[4:]:
                raise self._bad("a block that ends with another length than it begins with")

    def _section(self) -> str:
        head = self._read(8)
        order = _ORDERS.get(head[4:])
        if order is None:
            raise self._bad("a section without a byte order")
        (total,) = struct.unpack(order + "I", head[:4])
        if total < 28 or total % 4 or self._file.tell() - 12 + total > self.size:
            raise self._bad(f"a section header of {total} bytes")
        (major,) = struct.unpack(order + "H", self._read(2))
        if major != 1:
            raise self._bad(f"pcapng version {major}")
        self._file.seek(total - 18, os.SEEK_CUR)
        if self._read(4) != head[:4]:
            raise self._bad("a section header that ends with another length than it begins with")
        return order

    def _block(self, order: str, kind: int, room: int, interfaces: list[tuple[int, int]]) -> Packet:
        fixed = 20 if kind == _ENHANCED else 4
        if room < fixed:
            raise self._bad("a packet without its fields")
        if kind == _ENHANCED:
            number, _, _, captured, length = struct.unpack(order + "IIIII", self._read(fixed))
        else:
            number, (length,) = 0, struct.unpack(order + "I", self._read(fixed))
            captured = length
        if number >= len(interfaces):
            raise self._bad(f"a packet of interface {number}, which was not described")
        link, snap = interfaces[number]
        if kind == _SIMPLE and snap:
            captured = min(captured, snap)
        if captured > room - fixed:
            raise self._bad("a packet that is longer than its block")
        packet = self._packet(self._link(link), captured, length)
        if packet is None:
            raise self._bad("a block that is not there")
        return packet


# --- what a packet holds


def segment(packet: Packet) -> Segment | NotRead:
    """Return the piece of a TCP connection in a packet."""
    try:
        at = _network(packet)
        if at is None:
            return NotRead(False)
        version = packet.data[at] >> 4
        if version not in (4, 6):
            return NotRead(False)
        return _ipv4(packet, at) if version == 4 else _ipv6(packet, at)
    except (IndexError, struct.error):
        return NotRead(False)


def _network(packet: Packet) -> int | None:
    """Return where the IP packet begins, or None if there is none."""
    data, link = packet.data, packet.link
    if link in _RAW or link in (_IPV4, _IPV6):
        return 0
    if link in (_NULL, _LOOP):
        return 4
    if link == _SLL:
        return 16 if data[14:16] in (_ETHER_V4, _ETHER_V6) else None
    if link == _SLL2:
        return 20 if data[0:2] in (_ETHER_V4, _ETHER_V6) else None
    at = 12
    for _ in range(_MOST_TAGS):
        if data[at : at + 2] not in _TAGS:
            break
        at += 4
    return at + 2 if data[at : at + 2] in (_ETHER_V4, _ETHER_V6) else None


def _ipv4(packet: Packet, at: int) -> Segment | NotRead:
    data = packet.data
    header = (data[at] & 15) * 4
    total, _, pieces = struct.unpack_from(">HHH", data, at + 2)
    # A length of 0 is what the sender's own kernel shows of a packet that its card will split.
    end = at + total if total else packet.length
    if header < 20 or end > packet.length or end < at + header:
        return NotRead(False)
    if pieces & 0x3FFF:
        return NotRead(True)
    if data[at + 9] != _TCP:
        return NotRead(False)
    return _tcp(packet, at + header, end, data[at + 12 : at + 16], data[at + 16 : at + 20])


def _ipv6(packet: Packet, at: int) -> Segment | NotRead:
    data = packet.data
    (payload,) = struct.unpack_from(">H", data, at + 4)
    end = at + 40 + payload if payload else packet.length
    if end > packet.length:
        return NotRead(False)
    following, place = data[at + 6], at + 40
    for _ in range(_MOST_EXTENSIONS):
        if following == _FRAGMENT:
            return NotRead(True)
        if following not in _EXTENSIONS:
            break
        following, place = data[place], place + 8 * (data[place + 1] + 1)
    if following != _TCP:
        return NotRead(False)
    return _tcp(packet, place, end, data[at + 8 : at + 24], data[at + 24 : at + 40])


def _tcp(packet: Packet, at: int, end: int, source: bytes, target: bytes) -> Segment | NotRead:
    data = packet.data
    from_port, to_port, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", data, at)
    start = at + (offset >> 4) * 4
    if start < at + 20 or start > end:
        return NotRead(False)
    captured = max(0, min(end, len(data)) - start)
    return Segment((source, from_port), (target, to_port), flags, sequence, acknowledged, start, captured, end - start)
