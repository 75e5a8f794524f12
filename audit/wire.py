"""A capture held against the ledgers: every byte of the bulk lane belongs to an envelope that both ends noted.

The checks, in this order:
 1. a planted pattern is nowhere: in no packet, and in no stream put together
 2. every bulk connection shows the ticket of an envelope on record, and each end whose ledger is given noted it
 3. its records go from the sender to the recipient, and are as many bytes as the entries say, or were broken off
 4. nothing else is on a bulk connection, and no ZeroMQ connection is of neither lane
 5. every body on record is in the capture, whole, or this capture cannot speak of it; what it lacks itself is said

Only the first is a violation, and nobody's: a capture is nobody's word, and its packets are not signed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from ..crypto.sealing import body_bytes
from ..protocol.charter import Charter, Role
from ..protocol.ledger import Act, DataClass
from ..protocol.messages import Header
from ..protocol.text import plural
from .capture import Line, Taken
from .captured import Capture, Carried, Stray, Transfer, WireBytes
from .examine import Audit
from .facts import At, Facts, join, refs
from .findings import Found, by_weight
from .reading import Run
from .report import Finding, Kind, Severity
from .zmtp import Account, Mechanism

_ACTS: Final = frozenset({Act.SENT, Act.RECEIVED, Act.OPENED})
_MOST: Final = 4096
"""Transfers, and strays, of one report."""
_NAMED: Final = 3
"""Connections that one sentence names."""


@dataclass
class _Envelope:
    """An envelope with a body, as entries have it, and the connections that showed its ticket."""

    subject: bytes
    entries: list[At]
    header: Header | None = None
    """Its signed header, if anybody has it: what that says no entry of somebody else can change."""
    lines: list[Line] = field(default_factory=list)

    @property
    def first(self) -> At:
        return self.entries[0]

    @property
    def sender(self) -> str:
        if self.header is not None:
            return self.header.sender
        return self.first.party if self.first.entry.act is Act.SENT else self.first.entry.peer or ""

    @property
    def recipient(self) -> str:
        if self.header is not None:
            return self.header.recipient
        return self.first.entry.peer or "" if self.first.entry.act is Act.SENT else self.first.party

    @property
    def wire(self) -> int:
        return self.first.entry.wire if self.header is None else body_bytes(sum(self.header.sections))

    def noted(self, party: str, *acts: Act) -> int | None:
        return next((at.sequence for at in self.entries if at.party == party and at.entry.act in acts), None)

    @property
    def carried(self) -> list[tuple[Line, int]]:
        return [(line, max(side.record_bytes for side in line.sides)) for line in self.lines]

    @property
    def whole(self) -> bool:
        return any(size == self.wire for _, size in self.carried)


class _Wire:
    """One capture against one run."""

    def __init__(self, facts: Facts, taken: Taken) -> None:
        self.facts = facts
        self.taken = taken
        self.envelopes = _envelopes(facts)
        self.strays: list[Stray] = []
        self.findings: list[Finding] = []
        self.bulk = [line for line in taken.lines if line.mechanism is Mechanism.PLAIN]

    def note(self, kind: Kind, severity: Severity, text: str, at: Iterable[At] = ()) -> None:
        self.findings.append(Finding(kind=kind, severity=severity, party=None, text=text, entries=refs(at)))

    def check(self) -> None:
        self._patterns()
        self._tickets()
        self._records()
        self._nothing_else()
        self._all_there()

    def _patterns(self) -> None:
        for each in self.taken.patterns:
            if each.streams or each.packets:
                self.note(
                    Kind.PLANTED_PATTERN,
                    Severity.VIOLATION,
                    f"planted pattern {each.number}, of {each.length} bytes, is on the wire: in "
                    f"{plural(each.packets, 'packet')}, and at {plural(each.streams, 'place')} of connections put "
                    f"together; first in {each.first}",
                )

    def _tickets(self) -> None:
        unknown: list[Line] = []
        for line in self.bulk:
            envelope = self.envelopes.get(line.subject or b"")
            if envelope is not None:
                envelope.lines.append(line)
            # Where the capture lacks some, the ticket may be in what it lacks.
            elif line.subject is not None or (not line.missing and any(side.record_bytes for side in line.sides)):
                unknown.append(line)
        self._stray(unknown, "of no envelope on record", "are of no envelope on record")
        for sender, recipient, found in self._unnoted():
            who = sender if found[0].noted(sender, Act.SENT) is None and sender in self.facts.given else recipient
            self.note(
                Kind.UNRECORDED_BYTES,
                Severity.ANOMALY,
                f"on the wire and not in the ledger of {who}: {plural(len(found), 'envelope')} from {sender} to "
                f"{recipient}",
                [at for each in found for at in each.entries],
            )

    def _unnoted(self) -> list[tuple[str, str, list[_Envelope]]]:
        """Return, by sender and recipient, what was carried and an end whose ledger is given did not note."""
        pairs: dict[tuple[str, str], list[_Envelope]] = defaultdict(list)
        for each in self.envelopes.values():
            if not any(size for _, size in each.carried):
                continue
            ends = {each.sender: (Act.SENT,), each.recipient: (Act.RECEIVED, Act.OPENED)}
            if any(party in self.facts.given and each.noted(party, *acts) is None for party, acts in ends.items()):
                pairs[each.sender, each.recipient].append(each)
        return [(*pair, found) for pair, found in pairs.items()]

    def _records(self) -> None:
        wrong: list[_Envelope] = []
        for each in self.envelopes.values():
            listening = _listens(self.facts.charter, each.sender, each.recipient)
            for line, size in each.carried:
                both = all(side.record_bytes for side in line.sides)
                against = listening is not None and bool(line.sides[int(not listening)].record_bytes)
                if size > each.wire or both or against or any(at.entry.wire != each.wire for at in each.entries):
                    wrong.append(each)
                    break
        if wrong:
            first = wrong[0]
            self.note(
                Kind.UNRECORDED_BYTES,
                Severity.ANOMALY,
                f"more records on the wire than is noted, or records that go the wrong way: "
                f"{plural(len(wrong), 'envelope')}, the first of {first.wire:,} bytes from {first.sender} to "
                f"{first.recipient} on {_on(first.lines)}",
                [at for each in wrong for at in each.entries],
            )

    def _nothing_else(self) -> None:
        strange = [line for line in self.bulk if line.unexplained]
        # What follows a hole of the capture cannot be read, and proves nothing. A hole behind it explains nothing.
        holed = [line for line in strange if all(side.holed for side in line.sides if side.account.unexplained)]
        if holed:
            self.note(
                Kind.NOT_CAPTURED,
                Severity.NOTICE,
                f"{plural(sum(line.unexplained for line in holed), 'byte')} of "
                f"{plural(len(holed), 'bulk connection')} cannot be read: the capture lacks some before them",
            )
        strange = [line for line in strange if not any(line is each for each in holed)]
        why = next((side.why for line in strange for side in line.sides if side.why), "an end within a frame")
        self._stray(strange, why, f"are nothing that the lane sends ({why})", unexplained=True)
        neither = [line for line in self.taken.lines if line.mechanism is Mechanism.ANOTHER]
        self._stray(neither, "a mechanism of no lane", "speak ZeroMQ with a mechanism of no lane")

    def _stray(self, lines: Sequence[Line], why: str, text: str, *, unexplained: bool = False) -> None:
        if not lines:
            return
        for line in lines:
            subject = line.subject.hex() if line.subject is not None else None
            self.strays.append(
                Stray(line.client, line.server, line.unexplained if unexplained else line.size, why, subject)
            )
        total = sum(line.unexplained if unexplained else line.size for line in lines)
        self.note(
            Kind.UNRECORDED_BYTES,
            Severity.ANOMALY,
            f"{plural(total, 'byte')} on {plural(len(lines), 'connection')} ({_on(lines)}) {text}",
        )

    def _all_there(self) -> None:
        lacking = self.lacking()
        if lacking:
            self.note(
                Kind.NOT_CAPTURED,
                Severity.NOTICE,
                f"not in the capture, or not whole: {plural(len(lacking), 'envelope')} on record; it was taken "
                f"elsewhere, began later, or they were never carried",
                [at for each in lacking for at in each.entries],
            )
        lost = self._losses()
        if lost:
            self.note(Kind.NOT_CAPTURED, Severity.NOTICE, f"the capture is not all there was: {', '.join(lost)}")

    def lacking(self) -> list[_Envelope]:
        """Return what is on record under this charter and not in the capture as a whole."""
        return [
            each
            for each in self.envelopes.values()
            if not each.whole and any(at.entry.charter == self.facts.charter.digest for at in each.entries)
        ]

    def _losses(self) -> list[str]:
        taken, missing = self.taken, sum(line.missing for line in self.taken.lines)
        before = sum(not line.begun for line in taken.lines)
        conflicting = sum(line.conflicting for line in taken.lines)
        said = [
            (taken.cut, f"it cut {plural(taken.cut, 'packet')}"),
            (taken.truncated, "its file ends within a packet"),
            (missing, f"connections lack {plural(missing, 'byte')}"),
            (taken.fragments, f"{plural(taken.fragments, 'fragment')} of packets not put together"),
            (before, f"{plural(before, 'connection')} began before it"),
            (conflicting, f"{plural(conflicting, 'byte')} came twice and not the same"),
        ]
        return [text for there, text in said if there]

    def report(self, left_out: list[str]) -> Capture:
        """Return what the report says of the capture."""
        transfers = [self._transfer(each) for each in self.envelopes.values() if each.lines]
        taken, lines = self.taken, self.taken.lines
        for found, what in ((transfers, "transfers"), (self.strays, "stray connections")):
            if len(found) > _MOST:
                left_out.append(f"{len(found) - _MOST} {what} of the capture are not listed")
        return Capture(
            file=taken.name,
            packets=taken.packets,
            cut=taken.cut,
            truncated=taken.truncated,
            fragments=taken.fragments,
            not_tcp=taken.not_tcp,
            retransmitted=sum(line.retransmitted for line in lines),
            conflicting=sum(line.conflicting for line in lines),
            bulk=len(self.bulk),
            control=sum(line.mechanism is Mechanism.CURVE for line in lines),
            others=sum(line.begun and line.mechanism in (Mechanism.ANOTHER, Mechanism.NONE) for line in lines),
            begun_before=sum(not line.begun for line in lines),
            bytes=_total(side.account for line in self.bulk for side in line.sides),
            transfers=tuple(transfers[:_MOST]),
            matched=sum(each.matched for each in transfers),
            not_captured=len(self.lacking()),
            strays=tuple(self.strays[:_MOST]),
            patterns=taken.patterns,
        )

    def _transfer(self, each: _Envelope) -> Transfer:
        entry = each.first.entry
        return Transfer(
            subject=each.subject.hex(),
            data=entry.data.value,
            sender=each.sender,
            recipient=each.recipient,
            round=entry.round,
            attempt=entry.attempt,
            wire=each.wire,
            sent=each.noted(each.sender, Act.SENT),
            received=each.noted(each.recipient, Act.RECEIVED),
            opened=each.noted(each.recipient, Act.OPENED),
            connections=tuple(
                Carried(line.client, line.server, size, line.missing, _state(line, size, each.wire))
                for line, size in each.carried[:_MOST]
            ),
        )


def with_capture(audit: Audit, run: Run, taken: Taken) -> Audit:
    """Return an audit with what a capture shows beside the ledgers of its run."""
    wire = _Wire(join(run), taken)
    wire.check()
    report, left_out = audit.report, list(audit.report.left_out)
    known = [
        Found(each, audit.bundles.get(place), audit.disclosing.get(place)) for place, each in enumerate(report.findings)
    ]
    found = by_weight([*known, *(Found(each) for each in wire.findings)])
    violated = any(each.finding.severity is Severity.VIOLATION for each in found)
    told = msgspec.structs.replace(
        report,
        verdict="violation" if violated else "clean",
        findings=tuple(each.finding for each in found),
        capture=wire.report(left_out),
        cannot_show=(
            *report.cannot_show,
            "What was on a wire where the capture was not taken, what sealed bytes hold, and what the encrypted "
            "control lane said: a capture shows who sent how much to whom, and that no pattern is in the clear.",
        ),
        left_out=tuple(left_out),
    )
    return Audit.of(told, found)


def _envelopes(facts: Facts) -> dict[bytes, _Envelope]:
    """Return every envelope with a body that any given ledger has; a sender's entry stands first."""
    out = {}
    for subject, entries in facts.by_subject.items():
        about = [
            at for at in entries if at.entry.act in _ACTS and at.entry.data is not DataClass.CONTROL and at.entry.wire
        ]
        if about:
            ordered = sorted(about, key=lambda at: at.entry.act is not Act.SENT)
            out[subject] = _Envelope(subject, ordered, facts.header(subject))
    return out


def _listens(charter: Charter, sender: str, recipient: str) -> bool | None:
    """Whether the sender of a body is the one who listens; None where roles do not say."""
    order = (Role.SECURE_WORKER, Role.MODEL_OWNER)
    known = {party.name: party.role for party in charter.parties}
    # A ledger can name anybody as who it was sent to.
    roles = [known.get(name) for name in (sender, recipient)]
    for role in order:
        if role in roles:
            return roles[0] is role if roles[0] is not roles[1] else None
    return None


def _state(line: Line, size: int, wire: int) -> Literal["whole", "broken off", "refused", "too much"]:
    if size == wire:
        return "whole"
    if size > wire:
        return "too much"
    return "refused" if any(side.refused for side in line.sides) else "broken off"


def _on(lines: Sequence[Line]) -> str:
    named = ", ".join(f"{line.client} to {line.server}" for line in lines[:_NAMED])
    return named + (f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else "")


def _total(accounts: Iterable[Account]) -> WireBytes:
    every = list(accounts)
    return WireBytes(
        greeting=sum(each.greeting for each in every),
        handshake=sum(each.handshake for each in every),
        framing=sum(each.framing for each in every),
        heartbeats=sum(each.heartbeats for each in every),
        records=sum(each.records for each in every),
        unexplained=sum(each.unexplained for each in every),
        missing=sum(each.missing for each in every),
    )
