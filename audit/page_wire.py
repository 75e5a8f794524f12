"""The section of the page about a capture: what was on the wire, held against what is on record.

Rules of the file:
- The figures are those of the report (`captured.py`), the same that the terminal shows; nothing is counted anew but
  transfers of one kind between two parties.
- What does not match stands open, connection by connection, the first of it; what does is folded, and not printed.
- Addresses are what packets say of themselves: text like any other, and nobody's word.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from ..protocol.text import plural
from .captured import Capture, Pattern, Stray, Transfer
from .page_html import Child, Html, el, join, name, table
from .page_parts import NOTHING, mark
from .page_proofs import short
from .words import where

_ROWS: Final = 20
_BYTES: Final = (
    ("greeting", "by which each end of a connection begins, 64 each"),
    ("handshake", "the one-time ticket that says which transfer this is, and the answer to it"),
    ("framing", "lengths, and what opens and ends a connection"),
    ("heartbeats", "signs of life"),
    ("records", "the sealed bodies themselves"),
    ("unexplained", "what no part of the protocol sends: a hidden message would be here"),
)


def wire(capture: Capture) -> Html:
    """Return what a capture shows: connections, bytes, transfers, patterns."""
    counted = capture.bytes
    every = sum(getattr(counted, key) for key, _ in _BYTES)
    rows: list[list[Child]] = [[key, f"{getattr(counted, key):,}", means] for key, means in _BYTES]
    lines: tuple[tuple[str, Child], ...] = (
        ("File", capture.file),
        ("Packets", join(f"{capture.packets:,}", _packets(capture))),
        ("Connections with sealed bodies", f"{capture.bulk:,} (the bulk lane)"),
        ("Connections of the control lane", f"{capture.control:,}: encrypted, counted, not read"),
        ("Other connections", f"{capture.others:,}"),
        ("Begun before the capture", f"{capture.begun_before:,}"),
    )
    return join(
        el(
            "p",
            "A capture of packets is a second account of the run, which no party wrote. It supports the ledgers or "
            "casts doubt on them, and proves nothing against anybody: packets are not signed.",
        ),
        el("p", _tally(capture), class_="tally"),
        el("dl", [el("div", el("dt", term), el("dd", said)) for term, said in lines], class_="facts"),
        table(
            "Every byte of the connections with sealed bodies, both ways, once",
            ["what", "bytes", "what that is"],
            [*rows, ["all", f"{every:,}", f"and {plural(counted.missing, 'byte')} that the capture lacks"]],
        ),
        el("h3", "Sealed bodies, at both ends", id="wire-transfers"),
        _transfers(capture),
        el("h3", "Bytes of nothing on record", id="wire-strays"),
        _strays(capture.strays),
        el("h3", "Planted patterns", id="wire-patterns"),
        _patterns(capture.patterns),
    )


def _tally(capture: Capture) -> list[Html]:
    number, unexplained = len(capture.transfers), capture.bytes.unexplained
    matched = f"{capture.matched:,} of {plural(number, 'transfer')} on record at both ends"
    marks = [
        _right(capture.matched == number, matched),
        _right(not unexplained, f"{plural(unexplained, 'byte')} unexplained"),
        _right(not capture.strays, f"{plural(len(capture.strays), 'connection')} with bytes of nothing on record"),
    ]
    if capture.not_captured:
        marks.append(mark("i", f"{plural(capture.not_captured, 'transfer')} on record and not captured whole", "plain"))
    if capture.patterns:
        found = sum(_is_there(each) for each in capture.patterns)
        about = f"{found} of {plural(len(capture.patterns), 'planted pattern')} found"
        marks.append(mark("✗", about, "bad") if found else mark("✓", about, "good"))
    return marks


def _right(right: bool, word: str) -> Html:
    return mark("✓", word, "good") if right else mark("!", word, "warn")


def _packets(capture: Capture) -> str:
    """Return what of the packets was not read as it was sent, if anything."""
    said = (
        (capture.cut, f"{capture.cut:,} cut short"),
        (capture.fragments, f"{plural(capture.fragments, 'fragment')} not put together"),
        (capture.not_tcp, f"{capture.not_tcp:,} not TCP"),
        (capture.truncated, "the file ends within one"),
        (
            capture.retransmitted,
            f"{plural(capture.retransmitted, 'byte')} came twice, {capture.conflicting:,} not the same",
        ),
    )
    return "".join(f"; {text}" for there, text in said if there)


def _transfers(capture: Capture) -> Html:
    if not capture.transfers:
        return el("p", "No connection of the capture is for anything on record.")
    groups: dict[tuple[str, str, str], list[Transfer]] = defaultdict(list)
    for each in capture.transfers:
        groups[each.data, each.sender, each.recipient].append(each)
    rows: list[list[Child]] = []
    for (data, sender, recipient), found in groups.items():
        matched = sum(each.matched for each in found)
        size = f"{sum(each.wire for each in found):,}"
        rows.append(
            [
                f"sealed {data}",
                name(sender),
                name(recipient),
                len(found),
                _right(matched == len(found), str(matched)),
                size,
            ]
        )
    heads = ["what", "from", "to", "transfers", "at both ends", "bytes"]
    odd = [each for each in capture.transfers if not each.matched]
    return join(
        table("Transfers by what they carry and between whom", heads, rows, most=_ROWS),
        _each("Transfers that are not whole, or on record at one end only", odd) if odd else None,
        el(
            "details",
            el("summary", f"Each of {plural(len(capture.transfers), 'transfer')}, with its connection"),
            _each("Every transfer and its connections", capture.transfers),
            class_="fold bulk",
        ),
    )


def _each(caption: str, found: Sequence[Transfer]) -> Html:
    rows: list[list[Child]] = []
    for each in found:
        carried = [
            el("div", f"{one.client} to {one.server}: {one.state}, {one.records:,} bytes of records")
            for one in each.connections
        ]
        rows.append(
            [
                where(each).capitalize(),
                f"sealed {each.data}",
                name(each.sender),
                name(each.recipient),
                f"{each.wire:,}",
                carried,
                _ends(each),
            ]
        )
    heads = ["round", "what", "from", "to", "bytes", "connection", "entries"]
    return table(caption, heads, rows, most=_ROWS, bulk=True)


def _ends(each: Transfer) -> Html:
    """Return where each end has noted a transfer."""
    sent, received = (f" #{at}" if at is not None else ": none" for at in (each.sent, each.received))
    return join(name(each.sender), sent, ", ", name(each.recipient), received)


def _strays(strays: Sequence[Stray]) -> Html:
    if not strays:
        return el("p", mark("✓", "None", "good"))
    rows: list[list[Child]] = [
        [
            f"{each.client} to {each.server}",
            f"{each.size:,}",
            each.why,
            short(each.subject) if each.subject is not None else NOTHING,
        ]
        for each in strays
    ]
    return join(
        el(
            "p",
            "They may be of another federation on the same wire; ask whose the addresses are. What is in them is not "
            "in any ledger that was given.",
        ),
        table(
            "Connections with bytes of nothing on record",
            ["connection", "bytes", "why", "ticket"],
            rows,
            most=_ROWS,
            bulk=True,
        ),
    )


def _patterns(patterns: Sequence[Pattern]) -> Html:
    if not patterns:
        return el("p", "None was looked for (--pattern).")
    rows: list[list[Child]] = [
        [
            f"pattern {each.number}",
            plural(each.length, "byte"),
            mark("✗", "found", "bad") if _is_there(each) else mark("✓", "not found", "good"),
            f"{each.packets:,}",
            f"{each.streams:,}",
            each.first or NOTHING,
        ]
        for each in patterns
    ]
    heads = ["pattern", "length", "state", "packets it is in", "places in connections put together", "first"]
    return table("Patterns that were looked for", heads, rows, most=_ROWS)


def _is_there(pattern: Pattern) -> bool:
    return bool(pattern.streams or pattern.packets)
