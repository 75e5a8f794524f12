"""Adding a released sum up again, from what its contributors open to the auditor.

A data owner that kept its openings (`protocol/openings.py`) hands over salt and content of the shares it sealed. Each
is held to the commitment in its signed header, and that header to the receipt that the holder gave for it; only then is
it added, by the halves of the charter's own scheme, and the totals combined. What comes out is compared

- with each holder's total, bit for bit, where the model owner kept its openings too: a holder whose total is another
  one is named, in every mode
- with the fingerprint in the model owner's signed account of the check (`crypto/fingerprint.py`): a sum that is not
  this one has the same for 2 of 2^61 - 1 challenges

The auditor then knows these updates, and the report says whose. Nothing of an opening goes into a report or evidence.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from ..crypto.errors import Misbehaviour
from ..crypto.fingerprint import fingerprint
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..crypto.sharing.wire import total_from_section
from ..protocol import limits
from ..protocol.errors import SiteFileError
from ..protocol.messages import CloseList, Contribution, Header, OpenRound, Purpose, Receipt, RoundStatement
from ..protocol.openings import OpeningFiles
from .exhibits import Shown
from .facts import Facts
from .findings import Findings
from .outcomes import last_check
from .report import Kind, Replay, Severity
from .words import names, where

Outcome = Literal["equal", "different", "not replayed"]


class _NotOpened(Exception):
    """A sum cannot be added up again: who did not open what, in words."""


def replay(findings: Findings, openings: OpeningFiles) -> tuple[Replay, ...]:
    """Add up again every closed sum whose contributors all open their commitments; raises nothing of a peer's."""
    facts, out = findings.facts, []
    for open_round, question in facts.questions.items():
        closes = facts.about(CloseList, open_round)
        if question.purpose is Purpose.TRAIN and closes and openings:
            sets = _sets(question, closes)
            out += [_round(findings, openings, open_round, question, each, sure=len(sets) == 1) for each in sets]
    return tuple(out)


def _sets(question: OpenRound, closes: Sequence[tuple[Shown, CloseList]]) -> list[CloseList]:
    """Return each set that was closed with, at most one a holder: one that lies is not to stand for all."""
    out: list[CloseList] = []
    for _, close in closes:
        if close.holder in question.present and not any(close.contributions == each.contributions for each in out):
            out.append(close)
    return out[: len(question.present)]


def _round(
    findings: Findings,
    openings: OpeningFiles,
    open_round: bytes,
    question: OpenRound,
    close: CloseList,
    *,
    sure: bool,
) -> Replay:
    """Add up one set; unless it is `sure` that the sum was over this one, a fingerprint of another shows nothing."""
    facts = findings.facts
    if question.words * question.plan.word_bits // 8 > limits.VECTOR_MEMORY:
        return _said(question, "not replayed", "it asks for more than any secure worker makes room for", ())
    known = tuple(name for name in close.contributors if _opened(facts, openings, open_round, name))
    try:
        totals = _totals(findings, openings, open_round, question, close.contributions)
    except _NotOpened as missing:
        return _said(question, "not replayed", str(missing), known)
    compared, wrong = _compare_totals(findings, openings, open_round, question, totals, close)
    scheme = facts.seats.scheme
    try:
        total = scheme.combiner(question.plan, question.words).combine(totals)
    except Misbehaviour as error:
        return _said(question, "different", f"the opened shares make no sum: {error.reason}", known)
    check = last_check(facts, open_round)
    said = check[1] if check is not None else None
    if said is not None and said.challenge is not None and said.fingerprint is not None:
        right = fingerprint(total, said.challenge) == said.fingerprint
        if not right and not sure:
            return _said(
                question, "not replayed", "of several sets it was closed over, the sum is not this one's", known
            )
        if not right:
            text = f"the sum of {where(question)} is not what its contributors opened"
            about = question.session, question.round, question.attempt
            others = (*question.present, facts.charter.model_owner.name)
            findings.note(Kind.WRONG_SUM, Severity.VIOLATION, text, others=others, about=about)
        how = f"the fingerprint of the released sum is {'that' if right else 'not that'} of the opened one"
        if compared:
            how += f", and {compared} of {len(totals)} totals were compared bit for bit"
        return _said(question, "equal" if right and not wrong else "different", how, known)
    if compared and not wrong:
        return _said(question, "equal", f"{compared} of {len(totals)} totals were compared bit for bit", known)
    text = f"the totals of {names(wrong)} are others" if wrong else "no fingerprint and no opened total to compare with"
    return _said(question, "different" if wrong else "not replayed", text, known)


def _said(question: OpenRound, outcome: Outcome, text: str, known: Sequence[str]) -> Replay:
    return Replay(
        session=question.session.hex(),
        round=question.round,
        attempt=question.attempt,
        outcome=outcome,
        text=text,
        known=tuple(known),
    )


# --- what contributors sent


def _totals(
    findings: Findings,
    openings: OpeningFiles,
    open_round: bytes,
    question: OpenRound,
    contributions: Sequence[Contribution],
) -> dict[int, Words]:
    """Return each holder's total over the opened shares, by the scheme's number; raises `_NotOpened`."""
    facts, seats = findings.facts, findings.facts.seats
    totals: dict[int, Words] = {}
    for index, holder in enumerate(seats.holders):
        if holder in seats.workers and holder not in question.present:
            continue
        half = seats.scheme.holder(question.plan, question.words, index)
        total = totals[index] = half.zero()
        total.fill(0)
        for entry in contributions:
            header, subject = _sent(facts, open_round, entry.party, holder)
            try:
                opening = openings.find(entry.party, header, subject)
                share = None if opening is None else seats.share(question, entry.party, holder, opening.sections)
            except (Misbehaviour, SiteFileError) as error:
                _wrong_opening(findings, question, entry.party, error)
                raise _NotOpened(f"{entry.party} opens something else than it sent to {holder}") from None
            if opening is None:
                raise _NotOpened(f"{entry.party} does not open what it sent to {holder}")
            if share is None:
                raise _NotOpened(f"{holder} holds nothing of {entry.party}")
            half.accumulate(total, share)
    return totals


def _sent(facts: Facts, open_round: bytes, contributor: str, holder: str) -> tuple[Header, bytes]:
    """Return the header of the envelope that a holder gave this contributor its receipt for; raises `_NotOpened`."""
    for _, receipt in facts.about(Receipt, open_round):
        if (receipt.holder, receipt.contributor) == (holder, contributor):
            header = facts.header(receipt.header)
            if header is not None and header.commitment == receipt.commitment:
                return header, receipt.header
    raise _NotOpened(f"no receipt of {holder} for {contributor} is on record")


def _opened(facts: Facts, openings: OpeningFiles, open_round: bytes, contributor: str) -> bool:
    """Whether a data owner has opened any share of its contribution to this question."""
    receipts = [each.header for _, each in facts.about(Receipt, open_round) if each.contributor == contributor]
    heads = [(subject, facts.header(subject)) for subject in receipts]
    return any(head is not None and openings.has(contributor, head, subject) for subject, head in heads)


def _wrong_opening(findings: Findings, question: OpenRound, party: str, error: Exception) -> None:
    why = error.reason if isinstance(error, Misbehaviour) else str(error)
    text = f"what {party} opens of {where(question)} is not what was committed to: {why}"
    about = question.session, question.round, question.attempt
    findings.note(Kind.WRONG_OPENING, Severity.ANOMALY, text, party=party, about=about)


# --- what holders released


def _released(facts: Facts, open_round: bytes, holder: str) -> tuple[Header, bytes] | None:
    """Return the head of the total that a holder stated it released, and its digest."""
    for _, said in facts.about(RoundStatement, open_round):
        header = facts.header(said.release)
        if said.holder == holder and header is not None and header.label is Label.AGGREGATE:
            return header, said.release
    return None


def _closed_with(facts: Facts, header: Header, close: CloseList) -> bool:
    """Whether the list that a released total names, signed by its sender, has these contributions."""
    signed = (shown.content for shown in facts.shown.get(header.close or b"", ()) if shown.signer == header.sender)
    return any(isinstance(each, CloseList) and each.contributions == close.contributions for each in signed)


def _compare_totals(
    findings: Findings,
    openings: OpeningFiles,
    open_round: bytes,
    question: OpenRound,
    totals: Mapping[int, Words],
    close: CloseList,
) -> tuple[int, list[str]]:
    """Return how many released totals were opened and compared, and the holders whose total is another one.

    A holder's total is held to the set that it signed itself, and to no set that another holder says it was.
    """
    facts, seats, wrong, compared = findings.facts, findings.facts.seats, [], 0
    about, owner = (question.session, question.round, question.attempt), facts.charter.model_owner.name
    for index, ours in totals.items():
        holder = seats.holders[index]
        header, subject = _released(facts, open_round, holder) or (None, b"")
        if header is None or not _closed_with(facts, header, close):
            continue
        try:
            opening = openings.find(owner, header, subject)
            if opening is None:
                continue
            section = memoryview(b"".join(opening.sections))
            theirs = total_from_section(seats.scheme, question.plan, question.words, section)
        except (Misbehaviour, SiteFileError) as error:
            _wrong_opening(findings, question, owner, error)
            continue
        compared += 1
        if not np.array_equal(theirs, ours):
            wrong.append(holder)
            text = (
                f"the total that {holder} released in {where(question)} is not that of the shares it gave receipts for"
            )
            at = facts.by_subject.get(subject, [])
            findings.note(Kind.WRONG_TOTAL, Severity.VIOLATION, text, party=holder, about=about, at=at)
    return compared, wrong
