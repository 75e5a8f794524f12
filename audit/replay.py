"""Adding a released sum up again, from what its contributors open to the auditor.

A data owner that kept its openings (`protocol/openings.py`) hands over salt and content of the shares it sealed. Each
is held to the commitment in its signed header, and that header to the receipt that the holder gave for it; only then is
it added, by the halves of the charter's own scheme, and the totals combined. What comes out is compared

- with each holder's total, bit for bit, where the model owner kept its openings too: a holder whose total is another
  one is named, in every mode
- with the fingerprint in the model owner's signed account of the check (`crypto/fingerprint.py`): a sum that is not
  this one has the same for 2 of 2^61 - 1 challenges

The auditor then knows these updates, and the report says whose. Nothing of an opening goes into a report. Evidence of a
wrong total opens what that one holder was sent, of a wrong sum all of it (`sums.py`): the report says that there is
such evidence and whom it would show, and it is written only where the auditor asks for that (`--disclose`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ..crypto.errors import Misbehaviour
from ..crypto.fingerprint import fingerprint
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..protocol import limits
from ..protocol.errors import SiteFileError
from ..protocol.messages import CloseList, Header, OpenRound, Purpose, Receipt, RoundStatement
from ..protocol.openings import Opening, OpeningFiles
from ..protocol.vector import vector_bytes
from .addition import opened_total, same, sum_of_totals, total_of_shares
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
    if vector_bytes(question) > limits.VECTOR_MEMORY:
        return _said(question, "not replayed", "it asks for more than any secure worker makes room for", ())
    known = tuple(name for name in close.contributors if _opened(facts, openings, open_round, name))
    again = _Again(findings, openings, open_round, question, close)
    try:
        totals = _totals(again)
    except _NotOpened as missing:
        return _said(question, "not replayed", str(missing), known)
    compared, wrong = _compare_totals(again, totals)
    try:
        total = sum_of_totals(facts.seats, question, totals)
    except Misbehaviour as error:
        return _said(question, "different", f"the opened shares make no sum: {error.reason}", known)
    check = last_check(facts, open_round)
    said = check[1] if check is not None else None
    if check is not None and said is not None and said.challenge is not None and said.fingerprint is not None:
        right = fingerprint(total, said.challenge) == said.fingerprint
        if not right and not sure:
            return _said(
                question, "not replayed", "of several sets it was closed over, the sum is not this one's", known
            )
        if not right:
            _wrong_sum(again, check[0], tuple(totals), named=bool(wrong))
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


@dataclass
class _Again:
    """One set that is added up again, and what was found of it."""

    findings: Findings
    openings: OpeningFiles
    open_round: bytes
    question: OpenRound
    close: CloseList
    sent: dict[str, list[tuple[Shown, Shown]]] = field(default_factory=dict)
    """By holder: of each contributor, the holder's receipt and the signed head that it names."""

    @property
    def facts(self) -> Facts:
        return self.findings.facts

    @property
    def about(self) -> tuple[bytes, int, int]:
        return self.question.session, self.question.round, self.question.attempt

    def asked(self) -> list[Shown]:
        """Return the signed question."""
        return [each for each in self.facts.shown[self.open_round] if isinstance(each.content, OpenRound)]

    def exchanged(self, holders: Iterable[str]) -> list[Shown]:
        """Return the receipts of these holders and the heads that they name."""
        return [each for holder in holders for pair in self.sent[holder] for each in pair]

    def find(self, party: str, head: Shown) -> Opening | None:
        """Return what a party opens of an envelope, checked; raises as `OpeningFiles.find`."""
        header = head.content
        return self.openings.find(party, header, head.subject) if isinstance(header, Header) else None

    def read(self, heads: Sequence[tuple[str, Shown]]) -> Iterator[Opening]:
        """Yield what these parties open of these envelopes once more; raises as `find` does, and if one does not."""
        for party, head in heads:
            opening = self.find(party, head)
            if opening is None:
                raise SiteFileError(f"{party} does not open any more what it opened")
            yield opening


def _bytes(opened: Iterable[tuple[str, Shown]]) -> int:
    return sum(sum(head.content.sections) for _, head in opened if isinstance(head.content, Header))


def _totals(again: _Again) -> dict[str, Words]:
    """Return each holder's total over the opened shares; raises `_NotOpened`."""
    seats, question, totals = again.facts.seats, again.question, {}
    for holder in seats.holders:
        if holder in seats.workers and holder not in question.present:
            continue
        sent = again.sent[holder] = [_sent(again, name, holder) for name in again.close.contributors]
        heads = {head.signer: head for _, head in sent}
        share = partial(_share, again, holder, heads)
        try:
            totals[holder] = total_of_shares(seats, question, holder, again.close.contributors, share)
        except Misbehaviour as error:
            raise _NotOpened(f"the opened shares make no total of {holder}: {error.reason}") from None
    return totals


def _share(again: _Again, holder: str, heads: Mapping[str, Shown], contributor: str) -> Sequence[bytes]:
    """Return what a contributor opens of its share for a holder; raises `_NotOpened`."""
    head = heads[contributor]
    try:
        opening = again.find(contributor, head)
    except (Misbehaviour, SiteFileError) as error:
        _wrong_opening(again, contributor, error)
        raise _NotOpened(f"{contributor} opens something else than it sent to {holder}") from None
    if opening is None:
        raise _NotOpened(f"{contributor} does not open what it sent to {holder}")
    return opening.sections


def _sent(again: _Again, contributor: str, holder: str) -> tuple[Shown, Shown]:
    """Return a holder's receipt for this contributor, and the signed head that it names; raises `_NotOpened`."""
    for shown, receipt in again.facts.about(Receipt, again.open_round):
        if (receipt.holder, receipt.contributor) == (holder, contributor):
            for head in again.facts.shown.get(receipt.header, ()):
                header = head.content
                if isinstance(header, Header) and (header.sender, header.commitment) == (
                    contributor,
                    receipt.commitment,
                ):
                    return shown, head
    raise _NotOpened(f"no receipt of {holder} for {contributor} is on record")


def _opened(facts: Facts, openings: OpeningFiles, open_round: bytes, contributor: str) -> bool:
    """Whether a data owner has opened any share of its contribution to this question."""
    receipts = [each.header for _, each in facts.about(Receipt, open_round) if each.contributor == contributor]
    heads = [(subject, facts.header(subject)) for subject in receipts]
    return any(head is not None and openings.has(contributor, head, subject) for subject, head in heads)


def _wrong_opening(again: _Again, party: str, error: Exception) -> None:
    why = error.reason if isinstance(error, Misbehaviour) else str(error)
    text = f"what {party} opens of {where(again.question)} is not what was committed to: {why}"
    again.findings.note(Kind.WRONG_OPENING, Severity.ANOMALY, text, party=party, about=again.about)


# --- what holders released


def _released(again: _Again, holder: str) -> tuple[Shown, Shown, Shown] | None:
    """Return a holder's statement, the head of the total that it names, and the Close list that this is over.

    A holder's total is held to the set that it signed itself, and to no set that another holder says it was.
    """
    for stated, said in again.facts.about(RoundStatement, again.open_round):
        if said.holder != holder:
            continue
        for head in again.facts.shown.get(said.release, ()):
            header = head.content
            if isinstance(header, Header) and (header.sender, header.label) == (holder, Label.AGGREGATE):
                signed = (each for each in again.facts.shown.get(header.close or b"", ()) if each.signer == holder)
                for close in signed:
                    over = close.content
                    if isinstance(over, CloseList) and over.contributions == again.close.contributions:
                        return stated, head, close
    return None


def _compare_totals(again: _Again, totals: Mapping[str, Words]) -> tuple[int, list[str]]:
    """Return how many released totals were opened and compared, and the holders whose total is another one."""
    seats, wrong, compared = again.facts.seats, [], 0
    for holder, ours in totals.items():
        found = _released(again, holder)
        if found is None:
            continue
        owner = again.facts.charter.model_owner.name
        try:
            opening = again.find(owner, found[1])
            if opening is None:
                continue
            theirs = opened_total(seats, again.question, opening.sections)
        except (Misbehaviour, SiteFileError) as error:
            _wrong_opening(again, owner, error)
            continue
        compared += 1
        if not same(theirs, ours):
            wrong.append(holder)
            _wrong_total(again, holder, found)
    return compared, wrong


# --- what is found, with what shows it


def _wrong_total(again: _Again, holder: str, found: tuple[Shown, Shown, Shown]) -> None:
    text = f"the total that {holder} released in {where(again.question)} is not that of the shares it gave receipts for"
    heads = [(head.signer, head) for _, head in again.sent[holder]]
    opened = [(again.facts.charter.model_owner.name, found[1]), *heads]
    again.findings.prove_by_openings(
        Kind.WRONG_TOTAL,
        holder,
        text,
        exhibits=(*again.asked(), *found, *again.exchanged((holder,))),
        openings=lambda: tuple(again.read(opened)),
        size=_bytes(opened),
        about=again.about,
        at=again.facts.by_subject.get(found[1].subject, []),
        # Nobody is accused of what its own signatures do not show.
        without_proof=Severity.ANOMALY,
    )


def _wrong_sum(again: _Again, check: Shown, holders: Sequence[str], *, named: bool) -> None:
    """Note that a sum is wrong; with evidence only where nobody is `named` for it, since that opens every share."""
    question, owner = again.question, again.facts.charter.model_owner.name
    text, others = f"the sum of {where(question)} is not what its contributors opened", (*question.present, owner)
    if named:
        again.findings.note(Kind.WRONG_SUM, Severity.VIOLATION, text, others=others, about=again.about)
        return
    closes = [
        shown for shown, close in again.facts.about(CloseList, again.open_round) if close.holder in question.present
    ]
    opened = [(head.signer, head) for holder in holders for _, head in again.sent[holder]]
    again.findings.prove_by_openings(
        Kind.WRONG_SUM,
        None,
        text,
        exhibits=(*again.asked(), check, *closes, *again.exchanged(holders)),
        openings=lambda: tuple(again.read(opened)),
        size=_bytes(opened),
        others=others,
        about=again.about,
    )
