"""A report as text for a terminal: the verdict first, then who did what, then who has what of whom."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from ..protocol.text import plural
from .captured import Capture
from .report import Finding, How, Report, Row, Severity
from .words import disclosed, names, where, worked_out

_MOST: Final = 12
"""Lines of one section; the JSON has all."""
_COLUMNS: Final = 8


def lines(report: Report) -> Iterator[str]:
    """Yield the lines of the summary."""
    yield from _verdict(report)
    yield from _section("violations", [_told(each) for each in report.of(Severity.VIOLATION)])
    yield from _matrix(report)
    yield from _section("sums", _sums(report))
    yield from _section("releases", _releases(report))
    yield from _section("added up again, so that you know these updates now", _replays(report))
    yield from _section("who can work out an update", _exposures(report))
    if report.capture is not None:
        yield from _section("the wire", _wire(report.capture))
    yield from _section("anomalies", [_told(each) for each in report.of(Severity.ANOMALY)])
    yield from _section("notices", [_told(each) for each in report.of(Severity.NOTICE)])
    yield from _section("what this audit cannot show", report.cannot_show, most=len(report.cannot_show))
    yield from _section("left out", report.left_out)


def _verdict(report: Report) -> Iterator[str]:
    violations = report.of(Severity.VIOLATION)
    given = sum(party.given for party in report.parties)
    if violations:
        by = sorted({each.party for each in violations if each.party is not None})
        yield f"VIOLATION: {len(violations)} on record" + (f", by {names(by)}" if by else "")
    else:
        lacking = len(report.parties) - given
        without = f"; {lacking} of {len(report.parties)} ledgers could not be looked at" if lacking else ""
        yield f"clean: no violation is on record{without}"
    rounds = {(each.session, each.round) for each in report.attempts if each.purpose == "train"}
    yield (
        f"{report.federation}, mode {report.mode}; {given} of {len(report.parties)} ledgers, "
        f"{sum(party.entries for party in report.parties)} entries, {plural(len(rounds), 'round')}; "
        f"charter {report.charter[:16]}"
    )
    yield from report.warnings
    for party in report.parties:
        if not party.given:
            yield f"without {party.name}: {party.why_not}"


def _told(finding: Finding) -> str:
    who = f"{finding.party}: " if finding.party is not None else ""
    opened = finding.discloses
    if finding.evidence is not None:
        written = f"{finding.evidence}, which opens {disclosed(opened)}" if opened is not None else finding.evidence
    elif opened is not None:
        written = f"provable by opening {disclosed(opened)}: --evidence FOLDER --disclose"
    else:
        written = "provable: --evidence FOLDER" if finding.provable else ""
    evidence = f" [{written}]" if written else ""
    return f"{who}{finding.kind.value}: {finding.text}{evidence}"


def _exposures(report: Report) -> list[str]:
    """Return who can work out an update, a line a group and way; that two are left is no update yet."""
    lines: dict[tuple[tuple[str, ...], How, bool], list[str]] = {}
    for each in report.exposures:
        if each.how is not How.TWO_LEFT:
            lines.setdefault((each.who, each.how, each.allowed), []).append(each.whose)
    return [worked_out(who, whose, how, allowed=allowed) for (who, how, allowed), whose in lines.items()]


def _sums(report: Report) -> list[str]:
    counted = Counter(each.check for each in report.attempts if each.contributors is not None)
    return [
        f"{number} {state}" if state != "none" else f"{number} without a check" for state, number in counted.items()
    ]


def _replays(report: Report) -> list[str]:
    return [f"{where(each)}: {each.outcome}: {each.text}; known to you: {names(each.known)}" for each in report.replays]


def _releases(report: Report) -> list[str]:
    out = []
    for each in report.attempts:
        by = sorted({release.holder for release in each.releases})
        if by:
            whose = each.contributors or each.releases[0].contributors
            out.append(f"{where(each)}: {names(by)} released a sum over {len(whose)}")
    return out


def _wire(capture: Capture) -> list[str]:
    counted = capture.bytes
    out = [
        f"{capture.file}: {plural(capture.packets, 'packet')}; {plural(capture.bulk, 'bulk connection')}, "
        f"{capture.control:,} of the control lane (encrypted, not read), {capture.others:,} others, "
        f"{capture.begun_before:,} begun before",
        f"every byte of the bulk connections: {counted.greeting:,} greeting, {counted.handshake:,} handshake, "
        f"{counted.framing:,} framing, {counted.heartbeats:,} heartbeats, {counted.records:,} records, "
        f"{counted.unexplained:,} unexplained; {counted.missing:,} are missing in the capture",
        f"{capture.matched:,} of {plural(len(capture.transfers), 'envelope')} on the wire whole and on record at both "
        f"ends; {capture.not_captured:,} on record not in the capture, or not whole",
    ]
    broken = [(each, one) for each in capture.transfers for one in each.connections if one.state != "whole"]
    if broken:
        each, one = broken[0]
        out.append(
            f"{plural(len(broken), 'connection')} on which a transfer did not arrive whole, the first from "
            f"{each.sender} to {each.recipient} in {where(each)}: {one.state} after {one.records:,} of {each.wire:,} "
            f"bytes"
        )
    found = sum(bool(each.streams or each.packets) for each in capture.patterns)
    if capture.patterns:
        out.append(f"{plural(len(capture.patterns), 'pattern')} looked for, {found} found")
    return out


def _matrix(report: Report) -> Iterator[str]:
    """Yield the matrix: who down, whose across, as wide as eight data owners."""
    if not report.matrix or not report.matrix[0].cells:
        return
    yield ""
    yield "who has on record what of whom"
    owners = [cell.whose for cell in report.matrix[0].cells][:_COLUMNS]
    table = [["", *owners], *(_cells(row, len(owners)) for row in report.matrix[: 2 * _MOST])]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    rest = len(report.matrix) - 2 * _MOST, len(report.matrix[0].cells) - _COLUMNS
    if max(rest) > 0:
        yield f"  and {max(rest[0], 0)} more rows, {max(rest[1], 0)} more columns: see --json"


def _cells(row: Row, columns: int) -> list[str]:
    name = row.who[0] if row.given else f"{row.who[0]} (without its ledger)"
    return [name, *(cell.text for cell in row.cells[:columns])]


def _section(title: str, said: Iterable[str], *, most: int = _MOST) -> Iterator[str]:
    told = list(said)
    if not told:
        return
    yield ""
    yield title
    for line in told[:most]:
        yield f"  {line}"
    if len(told) > most:
        yield f"  and {len(told) - most} more: see --json"
