"""A report as text for a terminal: the verdict first, then who did what, then who has what of whom."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from .captured import Capture
from .report import Finding, How, Report, Row, Severity

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
    yield from _section("who can work out an update", [each.text for each in report.exposures if _shown(each.how)])
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
        names = f" by {', '.join(by)}" if by else ""
        yield f"VIOLATION: {len(violations)} found{names}"
    else:
        yield "clean: no violation is on record"
    yield (
        f"{report.federation}, mode {report.mode}; {given} of {len(report.parties)} ledgers, "
        f"{sum(party.entries for party in report.parties)} entries, "
        f"{len({(each.session, each.round) for each in report.attempts})} rounds; charter {report.charter[:16]}"
    )
    yield from report.warnings
    for party in report.parties:
        if not party.given:
            yield f"not given: {party.name} ({party.why_not})"


def _told(finding: Finding) -> str:
    who = f"{finding.party}: " if finding.party is not None else ""
    evidence = f" [{finding.evidence}]" if finding.evidence else " [provable]" if finding.provable else ""
    return f"{who}{finding.kind.value}: {finding.text}{evidence}"


def _shown(how: How) -> bool:
    return how is not How.TWO_LEFT


def _sums(report: Report) -> list[str]:
    counted = Counter(each.check for each in report.attempts if each.contributors is not None)
    return [
        f"{number} {state}" if state != "none" else f"{number} without a check" for state, number in counted.items()
    ]


def _replays(report: Report) -> list[str]:
    return [
        f"round {each.round}: {each.outcome}: {each.text}; known to you: {', '.join(each.known) or 'nobody'}"
        for each in report.replays
    ]


def _releases(report: Report) -> list[str]:
    out = []
    for each in report.attempts:
        by = sorted({release.holder for release in each.releases})
        if by:
            whose = each.contributors or each.releases[0].contributors
            again = f", attempt {each.attempt + 1}" if each.attempt else ""
            out.append(f"round {each.round}{again}: {', '.join(by)} released a sum over {len(whose)}")
    return out


def _wire(capture: Capture) -> list[str]:
    counted = capture.bytes
    out = [
        f"{capture.file}: {capture.packets} packets; {capture.bulk} bulk connections, {capture.control} of the control "
        f"lane (encrypted, not read), {capture.others} others, {capture.begun_before} begun before",
        f"every byte of the bulk connections: {counted.greeting} greeting, {counted.handshake} handshake, "
        f"{counted.framing} framing, {counted.heartbeats} heartbeats, {counted.records} records, "
        f"{counted.unexplained} unexplained; {counted.missing} are missing in the capture",
        f"{capture.matched} of {len(capture.transfers)} envelopes on the wire are whole and on record at both ends; "
        f"{capture.not_captured} on record are not in the capture, or not whole",
    ]
    broken = [(each, one) for each in capture.transfers for one in each.connections if one.state != "whole"]
    if broken:
        each, one = broken[0]
        out.append(
            f"{len(broken)} transfers did not arrive on their connection, first one from {each.sender} to "
            f"{each.recipient} in round {each.round}: {one.state} after {one.records} of {each.wire} bytes"
        )
    found = sum(bool(each.streams or each.packets) for each in capture.patterns)
    if capture.patterns:
        out.append(f"{len(capture.patterns)} patterns looked for, {found} found")
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
    name = row.who[0] if row.given else f"{row.who[0]} (not given)"
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
