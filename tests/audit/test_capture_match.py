"""What a capture shows beside the ledgers: strays, transfers that broke off, what no lane sends, planted patterns."""

import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tertium.audit.captured import Transfer
from tertium.audit.report import Kind, Report, Severity
from tertium.cli import main
from tertium.protocol import limits
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.ledger import Act, DataClass, LedgerEntry

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from handmade import (
    PATTERN,
    Capsys,
    Case,
    Talk,
    body,
    bulk,
    command,
    frame,
    framed,
    greeting,
    metadata,
    pcap,
    segments,
    texts,
    udp,
)

# --- what does not match


def one(report: Report, subject: bytes) -> Transfer:
    assert report.capture is not None
    (found,) = [each for each in report.capture.transfers if each.subject == subject.hex()]
    return found


def with_one(run: Case, at: int, *talks: Talk) -> bytes:
    """Return a capture of the run with other connections for one envelope."""
    others = [talk for place, talk in enumerate(run.talks()) if place != at]
    return pcap([packet for talk in (*others, *talks) for packet in framed(segments(talk))])


def test_bytes_of_no_envelope_on_record_are_found_by_their_connection(run: Case, capsys: Capsys) -> None:
    stranger = bulk(b"x" * 32, [body(999)], from_client=True, port=50123)
    status, report = run.audit(capsys, with_one(run, -1, stranger))
    (text,) = texts(report, Kind.UNRECORDED_BYTES)
    size = len(stranger.said(True)) + len(stranger.said(False))
    assert text == f"{size:,} bytes on 1 connection (10.0.0.1:50123 to 10.0.0.2:5001) are of no envelope on record"
    assert status == 0
    assert report.capture is not None
    (stray,) = report.capture.strays
    assert (stray.client, stray.size, stray.subject) == ("10.0.0.1:50123", size, (b"x" * 32).hex())


def test_a_transfer_that_was_broken_off_and_came_again(run: Case, capsys: Capsys) -> None:
    data = body(run.envelopes[0].wire)
    half = run.talk(0, records=[data[:100]], extra=frame(data[100:])[:60], end=False, port=50001)
    refused = Talk((*half.turns[:3], (False, command(b"ERROR", b"\x03400"))), client=(b"\x0a\0\0\1", 50002))
    status, report = run.audit(capsys, with_one(run, 0, half, refused, run.talk(0)))
    transfer = one(report, run.envelopes[0].subject)
    assert [(each.state, each.records) for each in transfer.connections] == [
        ("whole", len(data)),
        ("broken off", 151),
        ("refused", 0),
    ] or sorted(each.state for each in transfer.connections) == ["broken off", "refused", "whole"]
    assert status == 0
    assert texts(report, Kind.UNRECORDED_BYTES) == []
    assert report.capture is not None
    assert (report.capture.matched, report.capture.not_captured) == (7, 0)


@pytest.mark.parametrize("what", ["too much", "the wrong way", "both ways"])
def test_records_that_the_entries_do_not_explain(run: Case, capsys: Capsys, what: str) -> None:
    data = body(run.envelopes[0].wire)
    if what == "too much":
        talk = run.talk(0, records=[data, b"more"])
    elif what == "the wrong way":
        talk = run.talk(0, from_client=not run.up(0))
    else:
        plain = run.talk(0)
        talk = replace(plain, turns=(*plain.turns[:-2], (not run.up(0), frame(b"answer")), *plain.turns[-2:]))
    _, report = run.audit(capsys, with_one(run, 0, talk))
    (text,) = texts(report, Kind.UNRECORDED_BYTES)
    assert text.startswith(
        "more records on the wire than is noted, or records that go the wrong way: 1 envelope, the first"
    )


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (command(b"PING", b"\0\0hidden"), "a command that is no heartbeat"),
        (command(b"PONG", b"hidden"), "a command that is no heartbeat"),
        (command(b"LEAK", b"hidden"), "a command that is no heartbeat"),
        (command(b"LEAK", bytes(600)), "a command of 605 bytes"),
        (b"\x01\x03abc", "a message of several frames"),
        (b"\x08\x03abc", "a frame that the lane does not send"),
        (b"\x02" + struct.pack(">Q", limits.RECORD_WIRE + 1), f"a frame of {limits.RECORD_WIRE + 1} bytes"),
        (b"\x02" + b"\xff" * 8, f"a frame of {2**64 - 1} bytes"),
    ],
)
def test_what_the_lane_does_not_send_is_unexplained(run: Case, capsys: Capsys, extra: bytes, why: str) -> None:
    _, report = run.audit(capsys, with_one(run, 0, run.talk(0, extra=extra)))
    assert [f"({why})" in text for text in texts(report, Kind.UNRECORDED_BYTES)] == [True]
    assert report.capture is not None
    assert report.capture.bytes.unexplained >= len(extra)


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("change", ["longer", "another", "filler"])
def test_a_handshake_that_is_not_the_lanes_hides_nothing(run: Case, capsys: Capsys, turn: int, change: str) -> None:
    plain = run.talk(0)
    by_client, said = plain.turns[turn]
    if turn < 2:
        said = {"longer": said + b"hidden!!", "another": greeting(b"NULL"), "filler": said[:40] + b"hide" + said[44:]}[
            change
        ]
    else:
        name, rest = said[3 : 3 + said[2]], said[3 + said[2] :]
        changed = {"longer": (name, rest + b"!"), "another": (b"LEAK", rest), "filler": (name, b"\x06hidden" + rest)}
        said = command(*changed[change])
    talk = replace(plain, turns=(*plain.turns[:turn], (by_client, said), *plain.turns[turn + 1 :]))
    _, report = run.audit(capsys, with_one(run, 0, talk))
    assert texts(report, Kind.UNRECORDED_BYTES)


@pytest.mark.parametrize("what", ["a property", "a long password", "a long error"])
def test_a_handshake_has_no_room_for_more_than_its_own(run: Case, capsys: Capsys, what: str) -> None:
    turns = list(run.talk(0).turns)
    if what == "a property":
        turns[4] = True, command(b"INITIATE", metadata(b"DEALER") + b"\x01X" + struct.pack(">I", 6) + b"hidden")
    elif what == "a long password":
        said = turns[2][1]
        turns[2] = True, said[:-33] + b"\x09" + said[-32:]
    else:
        turns[3:] = [(False, command(b"ERROR", b"\x06hidden"))]
    _, report = run.audit(capsys, with_one(run, 0, replace(run.talk(0), turns=tuple(turns))))
    assert any("a handshake that is not the bulk lane's" in text for text in texts(report, Kind.UNRECORDED_BYTES))


def test_a_ticket_of_no_envelope_on_record_is_found_though_nothing_followed(run: Case, capsys: Capsys) -> None:
    stranger = bulk(b"x" * 32, [], from_client=True, port=50123)
    refused = replace(stranger, turns=(*stranger.turns[:3], (False, command(b"ERROR", b"\x03400"))))
    _, report = run.audit(capsys, with_one(run, -1, refused))
    assert [text.endswith("are of no envelope on record") for text in texts(report, Kind.UNRECORDED_BYTES)] == [True]


def test_zeromq_without_a_lanes_mechanism_is_found_and_curve_is_counted(run: Case, capsys: Capsys) -> None:
    null = Talk(((True, greeting(b"NULL") + frame(b"leak")), (False, greeting(b"NULL"))), client=(b"\x0a\0\0\1", 50001))
    curve = Talk(((True, greeting(b"CURVE") + b"sealed"), (False, greeting(b"CURVE"))), client=(b"\x0a\0\0\1", 50002))
    mixed = Talk(((True, greeting(b"CURVE") + b"sealed"), (False, greeting(b"NULL"))), client=(b"\x0a\0\0\1", 50003))
    web = Talk(((True, b"GET / HTTP/1.1\r\n\r\n"),), client=(b"\x0a\0\0\1", 50004))
    _, report = run.audit(capsys, with_one(run, -1, null, curve, mixed, web))
    (text,) = texts(report, Kind.UNRECORDED_BYTES)
    assert "2 connections (10.0.0.1:50001 to 10.0.0.2:5001, 10.0.0.1:50003 to" in text
    assert report.capture is not None
    assert (report.capture.bulk, report.capture.control, report.capture.others) == (7, 1, 3)


def test_an_end_that_did_not_note_what_it_carried_is_named(run: Case, rewrite: Any, capsys: Capsys) -> None:
    folder = Path(shutil.copytree(run.folder, run.tmp / "copy"))
    rewrite(folder, "carol", lambda rows: rows[:1])
    _, report = run.audit(capsys, pcap(run.packets()), folder=folder)
    assert sorted(texts(report, Kind.UNRECORDED_BYTES)) == [
        "on the wire and not in the ledger of carol: 1 envelope from carol to first",
        "on the wire and not in the ledger of carol: 1 envelope from owner to carol",
    ]
    assert report.capture is not None
    assert report.capture.matched == 5
    assert len(report.capture.transfers) == 7


# --- patterns


@pytest.mark.parametrize("where", ["a record", "two packets", "another connection", "no connection", "nowhere"])
def test_a_planted_pattern_is_found_wherever_it_is(
    run: Case, capsys: Capsys, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = body(run.envelopes[0].wire)
    talk, frames = run.talk(0), list[bytes]()
    if where in ("a record", "two packets"):
        talk = run.talk(0, records=[data[:50] + PATTERN + data[50 + len(PATTERN) :]])
    elif where == "another connection":
        other = Talk(((True, greeting(b"CURVE") + PATTERN), (False, greeting(b"CURVE"))), client=(b"\x0a\0\0\1", 50002))
        frames = framed(segments(other))
    elif where == "no connection":
        frames = [udp(PATTERN)]
    if where == "two packets":
        monkeypatch.setattr(limits, "MIB", 16)
    frames += framed(segments(talk, size=10 if where == "two packets" else 1400))
    (tmp_path / "pattern").write_bytes(PATTERN)
    more = ("--pattern", b"another pattern!".hex(), "--pattern-file", str(tmp_path / "pattern"))
    others = [packet for talk in run.talks()[1:] for packet in framed(segments(talk))]
    status, report = run.audit(capsys, pcap([*frames, *others]), *more)
    assert report.capture is not None
    absent, planted = report.capture.patterns
    assert (absent.streams, absent.packets) == (0, 0)
    streams, packets = {"two packets": (1, 0), "no connection": (0, 1), "nowhere": (0, 0)}.get(where, (1, 1))
    assert (planted.number, planted.length, planted.streams, planted.packets) == (2, len(PATTERN), streams, packets)
    found = [each for each in report.findings if each.kind is Kind.PLANTED_PATTERN]
    assert [(each.severity, each.party) for each in found] == [(Severity.VIOLATION, None)] * (where != "nowhere")
    assert (status, report.verdict) == ((0, "clean") if where == "nowhere" else (1, "violation"))


def test_findings_keep_their_evidence_behind_a_violation_of_the_capture(
    run: Case, rewrite: Any, capsys: Capsys, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    rewrite(folder, "bob", lambda rows: rows[:9])
    more = ("--pattern", PATTERN.hex(), "--evidence", str(tmp_path / "evidence"))
    status, report = run.audit(capsys, pcap([*run.packets(), udp(PATTERN)]), *more, folder=folder)
    assert status == 1
    (bob,) = [each for each in report.findings if each.provable]
    weights = [list(Severity).index(each.severity) for each in report.findings]
    assert weights == sorted(weights)
    assert report.findings[1].kind is Kind.PLANTED_PATTERN
    assert bob.party == "bob"
    charter = str(folder / "charter.toml")
    assert main(["evidence", "verify", str(tmp_path / "evidence" / str(bob.evidence)), "--charter", charter]) == 0


def test_the_summary_has_a_section(run: Case, capsys: Capsys) -> None:
    path = run.write(pcap([*run.packets(), udp(PATTERN)]))
    assert main(["audit", str(run.folder), "--capture", str(path), "--pattern", PATTERN.hex()]) == 1
    said = capsys.readouterr().out.splitlines()
    at = said.index("the wire")
    assert said[at + 1].startswith(
        f"  run.pcap: {len(run.packets()) + 1} packets; 7 bulk connections, 0 of the control"
    )
    assert "0 unexplained" in said[at + 2]
    assert said[at + 3].startswith("  7 of 7 envelopes on the wire whole and on record at both ends; 0 on record not")
    assert said[at + 4] == "  1 pattern looked for, 1 found"
    assert said[0] == "VIOLATION: 1 on record"


# --- a capture, or a ledger, that was made to lie


def test_a_peer_that_is_no_party_ends_nothing(run: Case, capsys: Capsys, tmp_path: Path, rewrite: Any) -> None:
    """A ledger can name anybody as who its party sent something to."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))

    def stranger(rows: list[bytes]) -> list[bytes]:
        made = LedgerEntry(
            Act.SENT, DataClass.UPDATE, decode_as(LedgerEntry, rows[0]).charter, peer="zoe", whose=("bob",),
            wire=1000, subject=b"z" * 32,
        )  # fmt: skip
        return [*rows, encode(made)]

    rewrite(folder, "bob", stranger)
    data = body(1000)
    packets = framed(segments(bulk(b"z" * 32, [data], from_client=True, port=50123)))
    _, report = run.audit(capsys, pcap([*run.packets(), *packets]), folder=folder)
    assert one(report, b"z" * 32).recipient == "zoe"


def test_who_sealed_an_envelope_is_what_its_header_says(
    run: Case, capsys: Capsys, tmp_path: Path, rewrite: Any
) -> None:
    """Another party notes it as its own, of another length: the two ends of it have nothing to answer for."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    envelope = next(each for each in run.envelopes if each.sender == "bob")

    def claimed(rows: list[bytes]) -> list[bytes]:
        made = LedgerEntry(
            Act.SENT, DataClass.UPDATE, decode_as(LedgerEntry, rows[0]).charter, peer="carol", whose=("alice",),
            wire=5, subject=envelope.subject,
        )  # fmt: skip
        return [*rows, encode(made)]

    rewrite(folder, "alice", claimed)
    _, report = run.audit(capsys, pcap(run.packets()), folder=folder)
    transfer = one(report, envelope.subject)
    assert (transfer.sender, transfer.recipient, transfer.wire) == ("bob", envelope.recipient, envelope.wire)
    assert [each.state for each in transfer.connections] == ["whole"]
    assert not any("not in the ledger of carol" in text for text in texts(report, Kind.UNRECORDED_BYTES))


@pytest.mark.parametrize("hole", [False, True])
def test_a_hole_behind_bytes_that_no_lane_sends_does_not_explain_them(run: Case, capsys: Capsys, hole: bool) -> None:
    talk = run.talk(0, extra=command(b"SECRET", b"hidden" * 20))
    segs = segments(talk)
    if hole:
        # One segment from far ahead, as anybody on the way could send it.
        ahead = next(seg for seg in reversed(segs) if seg.source == talk.client)
        segs.append(replace(ahead, sequence=ahead.sequence + 100_000, flags=16, data=b"x"))
    others = [packet for each in run.talks()[1:] for packet in framed(segments(each))]
    _, report = run.audit(capsys, pcap([*others, *framed(segs)]))
    assert any("are nothing that the lane sends" in text for text in texts(report, Kind.UNRECORDED_BYTES))


@pytest.mark.parametrize(
    "hidden",
    [frame(b"") * 8, b"\x02" + struct.pack(">Q", 0), b"\x02" + struct.pack(">Q", 1) + b"x", command(b"PING", b"hi")],
    ids=["empty frames", "an empty frame with a long length", "a long length", "a time to live"],
)
def test_what_could_carry_a_message_in_framing_is_unexplained(run: Case, capsys: Capsys, hidden: bytes) -> None:
    _, report = run.audit(capsys, with_one(run, 0, run.talk(0, extra=hidden)))
    assert report.capture is not None
    assert report.capture.bytes.unexplained > 0
    assert any("are nothing that the lane sends" in text for text in texts(report, Kind.UNRECORDED_BYTES))
