"""Captures made by hand: what the bulk lane says, cut into segments, packed for any link, in any format."""

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tertium.audit.facts import join
from tertium.audit.reading import read_run
from tertium.audit.report import Kind, Report
from tertium.audit.wire import _envelopes
from tertium.cli import main

Capsys = pytest.CaptureFixture[str]
FIN, SYN, ACK = 1, 2, 16
V4, V6 = b"\x08\x00", b"\x86\xdd"

# --- what the bulk lane sends


def greeting(mechanism: bytes = b"PLAIN") -> bytes:
    return b"\xff" + bytes(7) + b"\x01\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


def command(name: bytes, said: bytes = b"") -> bytes:
    body = bytes([len(name)]) + name + said
    return b"\x04" + bytes([len(body)]) + body if len(body) < 256 else b"\x06" + struct.pack(">Q", len(body)) + body


def metadata(kind: bytes) -> bytes:
    return b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind + b"\x08Identity" + bytes(4)


def frame(data: bytes) -> bytes:
    return bytes([0, len(data)]) + data if len(data) < 256 else b"\x02" + struct.pack(">Q", len(data)) + data


def hello(subject: bytes) -> bytes:
    texts = subject.hex().encode(), (b"s" * 16).hex().encode()
    return command(b"HELLO", b"".join(bytes([len(text)]) + text for text in texts))


@dataclass(frozen=True)
class Talk:
    """What both ends of one connection say, in turns: whether it is the client, and what."""

    turns: tuple[tuple[bool, bytes], ...]
    client: tuple[bytes, int] = (b"\x0a\x00\x00\x01", 40000)
    server: tuple[bytes, int] = (b"\x0a\x00\x00\x02", 5001)

    def said(self, by_client: bool) -> bytes:
        return b"".join(data for client, data in self.turns if client is by_client)


def bulk(
    subject: bytes,
    records: Sequence[bytes],
    *,
    from_client: bool,
    extra: bytes = b"",
    end: bool = True,
    port: int = 40000,
) -> Talk:
    turns = [
        (True, greeting()),
        (False, greeting()),
        (True, hello(subject)),
        (False, command(b"WELCOME")),
        (True, command(b"INITIATE", metadata(b"DEALER"))),
        (False, command(b"READY", metadata(b"ROUTER"))),
        (True, frame(b"")),
        (False, command(b"PING", b"\0\0")),
        (True, command(b"PONG")),
        *((from_client, frame(record)) for record in records),
        (from_client, extra),
        *([(True, frame(b"")), (False, frame(b""))] if end else []),
    ]
    return Talk(tuple(turns), client=(b"\x0a\x00\x00\x01", port))


# --- how it travels


@dataclass(frozen=True)
class Seg:
    source: tuple[bytes, int]
    target: tuple[bytes, int]
    sequence: int
    acknowledged: int
    flags: int
    data: bytes = b""


def segments(talk: Talk, *, size: int = 1400, first: tuple[int, int] = (1000, 77)) -> list[Seg]:
    """Return the segments of a whole connection."""
    ends = talk.client, talk.server
    at = list(first)
    out = [
        Seg(*ends, at[0], 0, SYN),
        Seg(*ends[::-1], at[1], at[0] + 1, SYN | ACK),
        Seg(*ends, at[0] + 1, at[1] + 1, ACK),
    ]
    at = [at[0] + 1, at[1] + 1]
    for by_client, data in talk.turns:
        who = int(not by_client)
        for begin in range(0, len(data), size):
            piece = data[begin : begin + size]
            out.append(Seg(ends[who], ends[1 - who], at[who], at[1 - who], ACK, piece))
            at[who] += len(piece)
    out += [Seg(*ends, at[0], at[1], FIN | ACK), Seg(*ends[::-1], at[1], at[0] + 1, FIN | ACK)]
    return out


def ip(seg: Seg, version: int = 4) -> bytes:
    tcp = struct.pack(
        ">HHIIBBHHH",
        *(seg.source[1], seg.target[1], seg.sequence % 2**32, seg.acknowledged % 2**32),
        *(8 << 4, seg.flags, 500, 0, 0),
    )
    tcp += bytes(12) + seg.data
    if version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0)
        return head + seg.source[0] + seg.target[0] + tcp
    options = b"\x06\0" + bytes(6)
    addresses = b"".join(end[0].rjust(16, b"\x20") for end in (seg.source, seg.target))
    return struct.pack(">IHBB", 6 << 28, len(options) + len(tcp), 0, 64) + addresses + options + tcp


LINKS: dict[str, tuple[int, Callable[[bytes, bytes], bytes]]] = {
    "ethernet": (1, lambda kind, data: bytes(12) + kind + data),
    "ethernet with tags": (1, lambda kind, data: bytes(12) + b"\x88\xa8\0\1\x81\0\0\2" + kind + data),
    "null": (0, lambda kind, data: struct.pack("<I", 2 if kind == V4 else 30) + data),
    "loop": (108, lambda kind, data: struct.pack(">I", 2 if kind == V4 else 24) + data),
    "cooked": (113, lambda kind, data: bytes(14) + kind + data),
    "cooked, second form": (276, lambda kind, data: kind + bytes(18) + data),
    "raw": (101, lambda kind, data: data),
    "raw, as BSD has it": (12, lambda kind, data: data),
}


def pcap(frames: Iterable[bytes], link: int = 1, *, order: str = "<", nano: bool = False, snap: int = 1 << 18) -> bytes:
    out = struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snap, link)
    for data in frames:
        out += struct.pack(order + "IIII", 1, 2, min(len(data), snap), len(data)) + data[:snap]
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    total = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + total + body + total


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def pcapng(frames: Sequence[bytes], link: int = 1, *, order: str = "<", simple: bool = False) -> bytes:
    out = section(order) + block(1, struct.pack(order + "HHI", link, 0, 0), order) + block(5, b"statistics..", order)
    for data in frames:
        if simple:
            out += block(3, struct.pack(order + "I", len(data)) + data, order)
        else:
            out += block(6, struct.pack(order + "IIIII", 0, 1, 2, len(data), len(data)) + data, order)
    return out


FORMATS: dict[str, Callable[..., bytes]] = {
    "pcap": pcap,
    "pcap, other order": lambda frames, link: pcap(frames, link, order=">"),
    "pcap, nanoseconds": lambda frames, link: pcap(frames, link, nano=True),
    "pcap, nanoseconds, other order": lambda frames, link: pcap(frames, link, nano=True, order=">"),
    "pcapng": pcapng,
    "pcapng, other order": lambda frames, link: pcapng(frames, link, order=">"),
    "pcapng, simple": lambda frames, link: pcapng(frames, link, simple=True),
}


def framed(segs: Iterable[Seg], link: str = "ethernet", version: int = 4) -> list[bytes]:
    wrap = LINKS[link][1]
    return [wrap(V4 if version == 4 else V6, ip(seg, version)) for seg in segs]


PATTERN = b"a planted pattern"


def udp(data: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0) + bytes(8)
    return bytes(12) + V4 + head + struct.pack(">HHHH", 1, 2, 8 + len(data), 0) + data


# --- a run, and its packets


def envelopes_of(folder: Path) -> list[Any]:
    """Return the envelopes with a body of an exported run."""
    with read_run(folder) as run:
        envelopes = list(_envelopes(join(run)).values())
    assert len(envelopes) == 7
    return envelopes


def body(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


@dataclass
class Case:
    folder: Path
    tmp: Path
    envelopes: list[Any]

    def up(self, at: int) -> bool:
        """Whether the client sends: a data owner to anybody, or the owner to the secure worker, but never from them."""
        envelope = self.envelopes[at]
        if envelope.sender == "first":
            return False
        return not (envelope.sender == "owner" and envelope.recipient != "first")

    def talk(self, at: int, **more: Any) -> Talk:
        envelope = self.envelopes[at]
        data = body(envelope.wire, at)
        said = {"from_client": self.up(at), "port": 40000 + at, **more}
        return bulk(envelope.subject, said.pop("records", [data[:100], data[100:]]), **said)

    def talks(self) -> list[Talk]:
        return [self.talk(at) for at in range(len(self.envelopes))]

    def write(self, data: bytes) -> Path:
        path = self.tmp / "run.pcap"
        path.write_bytes(data)
        return path

    def audit(
        self, capsys: pytest.CaptureFixture[str], data: bytes, *more: str, folder: Path | None = None
    ) -> tuple[int, Report]:
        status = main(["audit", str(folder or self.folder), "--capture", str(self.write(data)), "--json", *more])
        return status, msgspec.json.decode(capsys.readouterr().out, type=Report)

    def packets(self) -> list[bytes]:
        return [packet for talk in self.talks() for packet in framed(segments(talk))]

    def sound(self, found: Report, talks: Sequence[Talk]) -> None:
        """See that every byte is accounted for, and everything matched."""
        wire = found.capture
        assert wire is not None
        assert [each.text for each in found.findings if each.kind is Kind.UNRECORDED_BYTES] == []
        assert (wire.bulk, wire.matched, wire.not_captured, wire.strays) == (7, 7, 0, ())
        assert (wire.bytes.unexplained, wire.bytes.missing) == (0, 0)
        assert sum(msgspec.structs.astuple(wire.bytes)) == sum(
            len(t.said(side)) for t in talks for side in (True, False)
        )
        assert wire.bytes.records == sum(each.wire for each in self.envelopes)
        assert wire.bytes.heartbeats == 7 * (9 + 7)


def texts(report: Report, kind: Kind) -> list[str]:
    return [each.text for each in report.findings if each.kind is kind]
