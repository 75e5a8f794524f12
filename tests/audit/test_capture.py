"""Captures in every format and for every link, damaged, hostile: read in full, or refused by name."""

import itertools
import os
import random
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tertium.audit import capture
from tertium.audit.capture import take
from tertium.audit.errors import UnusableCapture
from tertium.audit.report import Kind
from tertium.audit.streams import Gap
from tertium.audit.zmtp import Mechanism, Side
from tertium.cli import main
from tertium.protocol import limits

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from handmade import (
    FIN,
    FORMATS,
    LINKS,
    PATTERN,
    Capsys,
    Case,
    Seg,
    block,
    body,
    bulk,
    framed,
    greeting,
    hello,
    pcap,
    section,
    segments,
    texts,
)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("link", LINKS)
def test_every_link_type(run: Case, capsys: Capsys, link: str, version: int) -> None:
    talks = run.talks()
    frames = [packet for talk in talks for packet in framed(segments(talk), link, version)]
    status, report = run.audit(capsys, pcap(frames, LINKS[link][0]))
    run.sound(report, talks)
    assert status == 0
    assert texts(report, Kind.NOT_CAPTURED) == []


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(run: Case, capsys: Capsys, form: str) -> None:
    talks = run.talks()
    status, report = run.audit(capsys, FORMATS[form](run.packets(), 1))
    run.sound(report, talks)
    assert status == 0
    assert report.capture is not None
    assert report.capture.packets == len(run.packets())


def shuffled(segs: list[Seg]) -> list[Seg]:
    random.Random(5).shuffle(segs)
    return segs


def overlapping(segs: list[Seg]) -> list[Seg]:
    """Each segment again, together with what the same end sent before it."""
    out, before = [], dict[Any, Seg]()
    for seg in segs:
        out.append(seg)
        last = before.get(seg.source)
        if last is not None and seg.data and last.data:
            out.append(replace(seg, sequence=last.sequence, data=last.data + seg.data))
        before[seg.source] = seg
    return out


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (shuffled, False),
        (lambda segs: segs[::-1], False),
        (lambda segs: [*segs, *segs], True),
        (lambda segs: [each for seg in segs for each in (seg, seg)], True),
        (overlapping, True),
        (lambda segs: shuffled(overlapping(segs)), True),
    ],
    ids=["shuffled", "backwards", "sent again", "twice each", "overlapping", "overlapping and shuffled"],
)
@pytest.mark.parametrize("first", [(1000, 77), (2**32 - 60, 2**32 - 1), (2**31 - 3, 0)], ids=["", "wraps", "half"])
def test_segments_come_in_any_order_and_more_than_once(
    run: Case, capsys: Capsys, change: Callable[[list[Seg]], list[Seg]], again: bool, first: tuple[int, int]
) -> None:
    talks = run.talks()
    frames = [packet for talk in talks for packet in framed(change(segments(talk, size=60, first=first)))]
    status, report = run.audit(capsys, pcap(frames))
    run.sound(report, talks)
    assert status == 0
    assert report.capture is not None
    assert bool(report.capture.retransmitted) is again
    assert report.capture.conflicting == 0


def test_a_port_that_is_used_again_is_another_connection(run: Case, capsys: Capsys) -> None:
    talks = [replace(each, client=(each.client[0], 40000)) for each in run.talks()]
    frames = [
        packet for at, talk in enumerate(talks) for packet in framed(segments(talk, first=(1000 + 9 * at, 70 + 5 * at)))
    ]
    run.sound(run.audit(capsys, pcap(frames))[1], talks)


def test_copies_that_differ_are_counted_and_both_are_searched(run: Case, capsys: Capsys) -> None:
    segs, sealed = segments(run.talk(1), size=20), body(run.envelopes[1].wire, 1)
    long = next(seg for seg in segs if len(seg.data) == 20 and seg.data in sealed)
    other = replace(long, data=b"PLANTED!" + long.data[8:])
    frames = [p for at, t in enumerate(run.talks()) if at != 1 for p in framed(segments(t))]
    status, report = run.audit(capsys, pcap([*frames, *framed([*segs, other])]), "--pattern", b"PLANTED!".hex())
    assert status == 1
    assert report.capture is not None
    assert 0 < report.capture.conflicting <= 8
    assert (report.capture.patterns[0].streams, report.capture.patterns[0].packets) == (0, 1)
    assert any("came twice and not the same" in text for text in texts(report, Kind.NOT_CAPTURED))


def test_a_snap_length_is_said_and_lengths_still_match(run: Case, capsys: Capsys) -> None:
    talks = [run.talk(at, records=[body(each.wire)]) for at, each in enumerate(run.envelopes)]
    frames = [packet for talk in talks for packet in framed(segments(talk))]
    status, report = run.audit(capsys, pcap(frames, snap=180))
    wire = report.capture
    assert wire is not None
    assert status == 0
    assert wire.cut > 0
    assert wire.bytes.missing > 0
    assert wire.matched == 7
    assert texts(report, Kind.UNRECORDED_BYTES) == []
    assert texts(report, Kind.NOT_CAPTURED) == [
        f"the capture is not all there was: it cut {wire.cut:,} packets, connections lack {wire.bytes.missing:,} bytes"
    ]
    # Cut so short that frames cannot be read, nobody is accused of what cannot be seen.
    for snap in (100, 150, 171):
        status, report = run.audit(capsys, pcap(frames, snap=snap))
        assert (status, texts(report, Kind.UNRECORDED_BYTES)) == (0, [])
        unreadable = [text for text in texts(report, Kind.NOT_CAPTURED) if "cannot be read: the capture lacks" in text]
        assert bool(unreadable) is (snap > 100)


def test_a_file_that_ends_within_a_packet_counts_up_to_there(run: Case, capsys: Capsys) -> None:
    for form in ("pcap", "pcapng"):
        whole = FORMATS[form](run.packets(), 1)
        status, report = run.audit(capsys, whole[:-30])
        assert status == 0
        assert report.capture is not None
        assert report.capture.truncated
        assert report.capture.matched == 7
        assert "its file ends within a packet" in texts(report, Kind.NOT_CAPTURED)[0]


def test_missing_packets_are_missing_bytes_and_a_late_start_is_said(run: Case, capsys: Capsys) -> None:
    talks = run.talks()
    segs, sealed = [segments(talk, size=20) for talk in talks], body(run.envelopes[0].wire, 0)
    inside = next(at for at, seg in enumerate(segs[0]) if len(seg.data) == 20 and seg.data in sealed)
    segs[0] = segs[0][:inside] + segs[0][inside + 1 :]
    segs[1] = segs[1][10:]
    segs[2] = segs[2][:-1]
    status, report = run.audit(capsys, pcap([packet for each in segs for packet in framed(each)]))
    wire = report.capture
    assert wire is not None
    assert status == 0
    assert wire.begun_before == 1
    assert (wire.bulk, wire.matched, wire.not_captured) == (6, 6, 1)
    assert wire.bytes.missing == 20
    assert texts(report, Kind.UNRECORDED_BYTES) == []
    assert any("1 connection began before it" in text for text in texts(report, Kind.NOT_CAPTURED))
    assert any(
        text.startswith("not in the capture, or not whole: 1 envelope on record;")
        for text in texts(report, Kind.NOT_CAPTURED)
    )


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("up", [True, False])
def test_bytes_missing_at_the_end_are_known_from_the_fin_or_what_was_acknowledged(
    run: Case, up: bool, fin: bool
) -> None:
    segs = segments(run.talk(0, from_client=up, end=False), size=20)
    last = max(
        at for at, seg in enumerate(segs) if seg.data and seg.source == (segs[0].source if up else segs[0].target)
    )
    kept = [
        seg
        for at, seg in enumerate(segs)
        if at != last and (fin or seg.flags & FIN == 0 or seg.source != segs[last].source)
    ]
    (line,) = take(run.write(pcap(framed(kept)))).lines
    # An acknowledgement without the FIN that it may be of is held to be of one: never more than are missing.
    assert line.missing == len(segs[last].data) - (not fin and not up) > 0
    assert take(run.write(pcap(framed(segs)))).lines[0].missing == 0


def test_fragments_and_what_is_no_tcp_are_counted_and_passed_by(run: Case) -> None:
    packets = framed(segments(run.talk(0)))
    pieces = [packet[:20] + field + packet[22:] for packet in packets for field in (b"\x20\0", b"\0\7")]
    others = [packet[:23] + b"\x11" + packet[24:] for packet in packets]
    others += [packet[:at] for packet in packets[:1] for at in range(54)]
    others += [packets[0][:46] + value + packets[0][47:] for value in (b"\x10", b"\xf0")]
    others += [packets[5][:16] + value + packets[5][18:] for value in (b"\0\x10", b"\xff\xff")]
    taken = take(run.write(pcap([*pieces, *others])))
    assert (taken.packets, taken.fragments, taken.not_tcp) == (len(pieces) + len(others), len(pieces), len(others))
    assert taken.lines == []
    six = [p[:20] + b"\x2c" + p[21:] for p in framed(segments(run.talk(0)), version=6)]
    assert take(run.write(pcap(six))).fragments == len(six)


# --- files nobody should be handed


def ng(*blocks: bytes) -> bytes:
    return section() + b"".join(blocks)


INTERFACE = block(1, struct.pack("<HHI", 1, 0, 0))
HEAD = pcap([])
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "neither pcap nor pcapng"),
    "no capture": (b"#!/bin/sh\n" * 10, "neither pcap nor pcapng"),
    "a header that is cut": (HEAD[:20], "header is cut"),
    "another version": (HEAD[:4] + b"\x03" + HEAD[5:], "pcap version 3.4"),
    "another link type": (pcap([], 127), "link type 127"),
    "a packet of 4 GiB": (HEAD + struct.pack("<IIII", 0, 0, 2**32 - 1, 2**32 - 1), "a packet of 4294967295 bytes"),
    "a packet longer than itself": (HEAD + struct.pack("<IIII", 0, 0, 9, 8) + bytes(9), "of which 9 were captured"),
    "a section of nothing": (b"\x0a\x0d\x0d\x0a" + struct.pack("<II", 0, 0x1A2B3C4D) + bytes(16), "section header"),
    "a section without an order": (b"\x0a\x0d\x0d\x0a" + bytes(24), "without a byte order"),
    "a section that ends otherwise": (section()[:-4] + bytes(4), "ends with another length"),
    "another pcapng": (section()[:12] + b"\2" + section()[13:], "pcapng version 2"),
    "a block of nothing": (ng(struct.pack("<II", 5, 0)), "a block of 0 bytes"),
    "a block of 13": (ng(struct.pack("<II", 5, 13) + bytes(5)), "a block of 13 bytes"),
    "a block that ends otherwise": (ng(block(5, b"")[:-4] + bytes(4)), "ends with another length"),
    "an interface of nothing": (ng(block(1, b"")), "without its fields"),
    "an interface of another type": (
        ng(block(1, struct.pack("<HHI", 127, 0, 0)), block(3, bytes(4))),
        "link type 127",
    ),
    "a packet of no interface": (ng(block(3, bytes(4))), "which was not described"),
    "a packet of another interface": (ng(INTERFACE, block(6, struct.pack("<IIIII", 1, 0, 0, 0, 0))), "interface 1"),
    "a packet without fields": (ng(INTERFACE, block(6, bytes(8))), "without its fields"),
    "a packet longer than its block": (
        ng(INTERFACE, block(6, struct.pack("<IIIII", 0, 0, 0, 40, 40) + bytes(8))),
        "longer than its block",
    ),
    "interfaces without end": (ng(INTERFACE * (limits.CAPTURE_INTERFACES + 1)), "more than 1024 interfaces"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_is_no_sound_capture_ends_with_2_and_one_sentence(run: Case, capsys: Capsys, what: str) -> None:
    data, why = HOSTILE[what]
    assert main(["audit", str(run.folder), "--capture", str(run.write(data))]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert why in error


def test_what_is_no_file_is_refused_at_once(run: Case, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "none", tmp_path, Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(UnusableCapture, match=r"is no file of captured packets|cannot be read"):
            take(path)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--pattern", "00112233445566"), "too short"),
        (("--pattern", "0011223344556g77"), "not written in hexadecimal"),
        (("--pattern", "00" * (limits.PATTERN_BYTES + 1)), "too long"),
        (("--pattern-file", "long"), "too long"),
        (("--pattern-file", "none"), "is no file"),
        (("--pattern", "00" * 8) * (limits.PATTERNS + 1), "more than 256 patterns"),
    ],
)
def test_patterns_that_cannot_be_looked_for(
    run: Case, capsys: Capsys, more: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("long").write_bytes(bytes(limits.PATTERN_BYTES + 1))
    path = run.write(pcap([]))
    assert main(["audit", str(run.folder), "--capture", str(path), *more]) == 2
    assert why in capsys.readouterr().err
    assert main(["audit", str(run.folder), *more]) == 2


def test_more_packets_or_connections_than_fit_are_refused(run: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.write(pcap(run.packets()))
    for name in ("CAPTURE_PACKETS", "CAPTURE_CONNECTIONS"):
        with monkeypatch.context() as less:
            less.setattr(limits, name, 6)
            with pytest.raises(UnusableCapture, match="more than 6 "):
                take(path)


def test_wild_sequence_numbers_cost_no_memory(run: Case) -> None:
    talk = run.talk(0)
    wild = [replace(seg, sequence=seg.sequence * 0x1234567, acknowledged=2**31 - 1) for seg in segments(talk)]
    (line,) = take(run.write(pcap(framed(wild)))).lines
    assert line.size + line.retransmitted <= sum(len(seg.data) for seg in wild)


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
    cut=st.floats(0.2, 1),
)
def test_a_damaged_capture_is_read_or_refused_by_name(
    run: Case, form: str, changes: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(FORMATS[form](framed(segments(run.talk(0), size=200)), 1))
    for place, value in changes:
        at = int(place * len(data))
        data[at : at + len(value)] = value
    try:
        taken = take(run.write(bytes(data[: int(cut * len(data))])), [PATTERN])
    except UnusableCapture:
        return
    assert sum(line.size for line in taken.lines) <= len(data)


@settings(max_examples=100, deadline=2000)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda tail: greeting() + tail),
        st.binary(max_size=300).map(lambda tail: greeting() + hello(b"x" * 32) + tail),
        st.lists(st.binary(max_size=40), max_size=6).map(
            lambda records: bulk(b"x" * 32, records, from_client=True).said(True)
        ),
    ),
    cuts=st.lists(st.integers(0, 500), max_size=8),
    gap=st.integers(0, 100),
)
def test_a_side_counts_every_byte_however_it_is_cut(data: bytes, cuts: list[int], gap: int) -> None:
    whole, pieces = Side(), Side()
    whole.take(data)
    whole.end()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        pieces.take(data[begin:end])
    pieces.end()
    assert whole.account == pieces.account
    assert (whole.subject, whole.why, whole.record_bytes) == (pieces.subject, pieces.why, pieces.record_bytes)
    assert whole.account.captured == len(data)
    if whole.account.unexplained == 0 and len(data) >= 64:
        assert whole.mechanism is Mechanism.PLAIN
    holed = Side()
    for piece in (data[: places[1]], Gap(gap), data[places[1] :]):
        holed.take(piece)
    holed.end()
    assert (holed.account.captured, holed.account.missing) == (len(data), gap)


def test_a_search_finds_what_lies_over_the_edge_of_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MIB", 32)
    for at in range(100):
        sought = [capture._Sought(1, PATTERN), capture._Sought(2, b"another, longer pattern")]
        search = capture._Search(sought, "here")
        stream = bytes(at) + PATTERN + bytes(100 - at) + PATTERN
        for begin in range(0, len(stream), 7):
            search.take(stream[begin : begin + 7])
        search.flush()
        assert [each.streams for each in sought] == [2, 0]
    search = capture._Search([sought[1]], "here")
    for piece in (b"another, lon", Gap(1), b"ger pattern"):
        search.take(piece)
    search.flush()
    assert sought[1].streams == 0
