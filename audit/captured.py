"""What a capture of packets shows beside the ledgers, as frozen values of a report; they are counted in `wire.py`."""

from typing import Literal

import msgspec


class WireBytes(msgspec.Struct, frozen=True):
    """All bytes of the bulk connections, both ways, each counted once."""

    greeting: int
    """64 bytes an end, by which ZeroMQ begins."""
    handshake: int
    """The ticket, and the answers to it."""
    framing: int
    """Lengths of records, and the empty frames that open and end."""
    heartbeats: int
    records: int
    """Sealed bodies."""
    unexplained: int
    """What the lane does not send."""
    missing: int
    """What the capture lacks; in none of the other numbers."""


class Carried(msgspec.Struct, frozen=True):
    """One connection that carried records of a transfer, or was opened for them."""

    client: str
    server: str
    records: int
    """Bytes of records."""
    missing: int
    """How many of all its bytes the capture lacks."""
    state: Literal["whole", "broken off", "refused", "too much"]


class Transfer(msgspec.Struct, frozen=True):
    """One envelope's body on the wire, and who noted it."""

    subject: str
    data: str
    sender: str
    recipient: str
    round: int
    attempt: int
    wire: int
    """Bytes of the sealed body, as the entries say."""
    sent: int | None
    """The sender's entry, if it noted one and its ledger is given."""
    received: int | None
    """The recipient's, of taking it in."""
    opened: int | None
    """The recipient's, of reading it; none where the transfer was broken off or what came was refused."""
    connections: tuple[Carried, ...]

    @property
    def matched(self) -> bool:
        """Whether its whole body is in the capture, and both ends have it on record."""
        whole = any(each.state == "whole" for each in self.connections)
        return whole and self.sent is not None and self.received is not None


class Stray(msgspec.Struct, frozen=True):
    """A connection with bytes that belong to nothing on record."""

    client: str
    server: str
    size: int
    """Bytes, both ways."""
    why: str
    subject: str | None = None


class Pattern(msgspec.Struct, frozen=True):
    """One pattern that was looked for."""

    number: int
    """From 1: first those of `--pattern`, then those of `--pattern-file`."""
    length: int
    streams: int
    """How often it is in the streams of all connections, put together."""
    packets: int
    """How many packets it is in, as they were captured."""
    first: str
    """Where it was found first, in words; empty if nowhere."""


class Capture(msgspec.Struct, frozen=True):
    """A capture of packets, held against the ledgers."""

    file: str
    packets: int
    cut: int
    """Packets that the capture has not all of, by its snap length."""
    truncated: bool
    """Whether the file ends within a packet."""
    fragments: int
    """Pieces of IP packets, which are searched for patterns and not put together."""
    not_tcp: int
    """Packets that are no TCP over IP, or malformed; searched for patterns and not read."""
    retransmitted: int
    """Bytes that came more than once."""
    conflicting: int
    """Bytes of those that differ from the copy that was read."""
    bulk: int
    """Connections of the bulk lane."""
    control: int
    """Connections with CURVE, as the control lane has them: encrypted, counted, not read."""
    others: int
    """Connections with anything else in them."""
    begun_before: int
    """Connections of which the capture lacks the beginning, and so what they are."""
    bytes: WireBytes
    transfers: tuple[Transfer, ...]
    matched: int
    """Transfers whose whole body is in the capture and that both ends have on record."""
    not_captured: int
    """Envelopes on record whose body is not, or not whole, in the capture."""
    strays: tuple[Stray, ...]
    patterns: tuple[Pattern, ...]
