"""What has to go on from round to round: the model that is asked with, and the life of every round key."""

from collections import defaultdict

from ..protocol.ledger import Act, DataClass
from .facts import At, Facts
from .findings import Findings
from .report import Kind, Severity


def check(findings: Findings) -> None:
    """Follow the model over the owner's ledger, and every key from drawn to erased."""
    _models(findings)
    _keys(findings)


def _models(findings: Findings) -> None:
    """Hold each question to the model the owner stored before it asked.

    After a restart it may ask with an earlier one, from its last checkpoint; the first may come from anywhere.
    """
    facts = findings.facts
    owner = facts.charter.model_owner.name
    if owner not in facts.given:
        return
    stored: set[bytes] = set()
    last: bytes | None = None
    asked: set[bytes] = set()
    first: bytes | None = None
    for at in facts.entries_of(owner):
        entry = at.entry
        if entry.act is Act.STORED and entry.data is DataClass.MODEL and entry.subject is not None:
            stored.add(entry.subject)
            last = entry.subject
        question = facts.questions.get(entry.subject or b"") if entry.act is Act.SENT else None
        if question is None or (entry.subject or b"") in asked:
            continue
        asked.add(entry.subject or b"")
        first = first or question.model
        if question.model == (last or first):
            continue
        where = question.session, question.round, question.attempt
        if question.model in stored or question.model == first:
            text = f"round {question.round} goes on from an earlier model than the last one, as after a restart"
            findings.note(Kind.MODEL_JUMP, Severity.NOTICE, text, party=owner, about=where, at=[at])
        else:
            text = (
                f"round {question.round} asks with a model that no round before it is on record as having made; or "
                f"{owner} was stopped between writing it and noting that"
            )
            findings.note(Kind.MODEL_JUMP, Severity.ANOMALY, text, party=owner, about=where, at=[at])


def _keys(findings: Findings) -> None:
    facts = findings.facts
    _erased(findings)
    drawn: dict[bytes, set[str]] = defaultdict(set)
    for at in facts.acts(Act.DERIVED, DataClass.KEY):
        drawn[at.entry.subject or b""].add(at.party)
    used: dict[bytes, set[tuple[str, bytes]]] = defaultdict(set)
    unknown: dict[str, list[At]] = defaultdict(list)
    for shown, header in facts.heads():
        key = header.recipient_key.ljust(32, b"\0")
        got = facts.noted(header.recipient, shown.subject, Act.RECEIVED, Act.OPENED)
        if got:
            # What a sender writes into a header, nobody need have taken.
            used[key].add((header.recipient, header.open_round))
        if got and header.recipient not in drawn[key]:
            unknown[header.recipient] += got
    for party, found in unknown.items():
        text = f"{party} took {len(found)} envelopes with keys that its ledger does not have as drawn"
        findings.note(Kind.UNKNOWN_KEY, Severity.ANOMALY, text, party=party, at=found)
    for key, uses in used.items():
        if len(uses) > 1:
            parties = sorted({party for party, _ in uses})
            text = f"one round key of {', '.join(parties)} was used {len(uses)} times under different questions"
            places = facts.by_subject.get(key, [])
            findings.note(
                Kind.KEY_REUSED, Severity.ANOMALY, text, party=parties[0] if len(parties) == 1 else None, at=places
            )
    for key, parties_of in drawn.items():
        if len(parties_of) > 1:
            text = f"{', '.join(sorted(parties_of))} have drawn one and the same round key"
            findings.note(Kind.KEY_REUSED, Severity.ANOMALY, text, others=sorted(parties_of), at=facts.by_subject[key])


def _erased(findings: Findings) -> None:
    """Note keys without an erasure: their process ended, or it still has them."""
    facts = findings.facts
    for party in facts.given:
        kept = _unerased(facts, party)
        if kept:
            text = (
                f"{len(kept)} round keys of {party} have no erasure on record: the process that had them in memory "
                f"ended, or has them still"
            )
            findings.note(Kind.KEY_KEPT, Severity.NOTICE, text, party=party, at=kept)


def _unerased(facts: Facts, party: str) -> list[At]:
    erased = {at.entry.subject for at in facts.entries_of(party) if _is(at, Act.ERASED)}
    return [at for at in facts.entries_of(party) if _is(at, Act.DERIVED) and at.entry.subject not in erased]


def _is(at: At, act: Act) -> bool:
    return at.entry.act is act and at.entry.data is DataClass.KEY
