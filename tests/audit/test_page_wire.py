"""The section of the page about a capture: the figures of the report, with a sign where they are not right."""

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
from tertium.audit import page
from tertium.audit.glossary import TERMS
from tertium.audit.report import Report
from tertium.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from handmade import PATTERN, Capsys, Case, body, bulk, framed, pcap, segments, udp
from pages import Node, parse, well_formed


def drawn(run: Case, capsys: Capsys, data: bytes, *more: str, folder: Path | None = None) -> tuple[Report, Node]:
    """Return the report of a capture, and its page."""
    to = run.tmp / "audit.html"
    _, report = run.audit(capsys, data, "--html", str(to), *more, folder=folder)
    tree = parse(to.read_text(encoding="utf-8"))
    well_formed(tree)
    return report, tree


def cells(table: Node) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows()]


def test_a_run_without_a_capture_has_no_such_section(run: Case, tmp_path: Path) -> None:
    assert main(["audit", str(run.folder), "--html", str(tmp_path / "audit.html")]) == 0
    tree = parse((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert not [node for node in tree.walk() if node.attributes.get("id") == "wire"]
    assert "capture of packets" not in tree.by_id("verdict").text
    assert [(dt.text, dd.text) for dt, dd in zip(*_words(tree), strict=True)] == list(TERMS)


def _words(tree: Node) -> tuple[list[Node], list[Node]]:
    words = tree.by_id("words")
    return words.all("dt"), words.all("dd")


def test_what_matches_is_counted_and_stands_under_the_headings_of_the_report(run: Case, capsys: Capsys) -> None:
    report, tree = drawn(run, capsys, pcap(run.packets()), "--pattern", PATTERN.hex())
    assert report.capture is not None
    wire, counted = tree.by_id("wire"), report.capture.bytes
    assert "A capture of packets was held against the ledgers" in tree.by_id("verdict").text
    assert [mark.text for mark in wire.of_class("tally")[0].of_class("mark")] == [
        "✓7 of 7 transfers on record at both ends",
        "✓0 bytes unexplained",
        "✓0 connections with bytes of nothing on record",
        "✓0 of 1 planted pattern found",
    ]
    by_heading, groups, each, patterns = (cells(table) for table in wire.all("table"))
    keys = ("greeting", "handshake", "framing", "heartbeats", "records", "unexplained")
    assert [row[:2] for row in by_heading[:-1]] == [[key, f"{getattr(counted, key):,}"] for key in keys]
    assert by_heading[-1][:2] == ["all", f"{sum(getattr(counted, key) for key in keys):,}"]
    size = {(t.data, t.sender, t.recipient): t.wire for t in report.capture.transfers}
    assert [row for row in groups if row[1] == "bob"] == [
        ["sealed plaintext update", "bob", "first", "1", "✓1", f"{size['plaintext update', 'bob', 'first']:,}"]
    ]
    assert sum(int(row[3]) for row in groups) == len(each) == 7
    for row, transfer in zip(each, report.capture.transfers, strict=True):
        (one,) = transfer.connections
        assert row[5] == f"{one.client} to {one.server}: whole, {one.records:,} bytes of records"
        assert row[6] == f"{transfer.sender} #{transfer.sent}, {transfer.recipient} #{transfer.received}"
    assert patterns == [["pattern 1", "17 bytes", "✓not found", "0", "0", "\N{EN DASH}"]]


def test_what_does_not_match_is_marked_and_stands_open(run: Case, rewrite: Any, capsys: Capsys, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    rewrite(folder, "carol", lambda rows: rows[:1])
    stranger = bulk(b"x" * 32, [body(999)], from_client=True, port=50123)
    data = pcap([*run.packets(), *framed(segments(stranger)), udp(PATTERN)])
    report, tree = drawn(run, capsys, data, "--pattern", PATTERN.hex(), folder=folder)
    wire = tree.by_id("wire")
    assert [mark.text for mark in wire.of_class("tally")[0].of_class("mark")] == [
        "!5 of 7 transfers on record at both ends",
        "✓0 bytes unexplained",
        "!1 connection with bytes of nothing on record",
        "✗1 of 1 planted pattern found",
    ]
    _, _, odd, _, strays, patterns = wire.all("table")
    assert {row[6].partition(" #")[0].split(":")[0] for row in cells(odd)} == {"carol", "owner"}
    assert all("carol: none" in row[6] for row in cells(odd))
    above = odd.parent
    while above is not None:
        assert above.tag != "details"
        above = above.parent
    assert report.capture is not None
    (stray,) = report.capture.strays
    assert cells(strays)[0][:3] == ["10.0.0.1:50123 to 10.0.0.2:5001", f"{stray.size:,}", "of no envelope on record"]
    assert cells(patterns)[0][2:] == ["✗found", "1", "0", report.capture.patterns[0].first]
    # Of hundreds the first are told and printed, and the rest folded.
    many = msgspec.structs.replace(report.capture, strays=tuple(report.capture.strays * 30))
    tree = parse(page.draw(msgspec.structs.replace(report, capture=many), {}))
    (rest,) = [node for node in tree.by_id("wire").of_class("bulk") if "fold" not in node.attributes["class"]]
    assert (rest.all("summary")[0].text, len(rest.all("table")[0].rows())) == ("10 more of 30", 10)
