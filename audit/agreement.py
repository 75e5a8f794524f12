"""Do all know the same question, set, count and sum of an attempt? And is nobody left out who has a receipt?"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from ..protocol.ledger import Act, DataClass
from ..protocol.messages import (
    CloseList,
    Header,
    HolderList,
    OpenRound,
    Receipt,
    RoundStatement,
    Statement,
)
from .exhibits import Shown
from .facts import At, Facts
from .findings import Findings
from .pairing import about
from .report import Kind, Severity
from .words import names

T = TypeVar("T", bound=Statement)


def check(findings: Findings) -> None:
    """Compare what every party was shown of every attempt."""
    facts = findings.facts
    _one_of_each(findings, Kind.TWO_QUESTIONS, facts.of(OpenRound), _asks, "questions for one attempt")
    _one_of_each(findings, Kind.TWO_SETS, facts.of(CloseList), _closes, "contributor sets for one question")
    _one_of_each(findings, Kind.TWO_SETS, facts.of(HolderList), _closes, "lists for one question")
    _one_of_each(findings, Kind.TWO_OUTCOMES, facts.of(RoundStatement), _closes, "outcomes of one question")
    _sums_over_their_sets(findings)
    _left_out(findings)
    for open_round in facts.questions:
        _same_views(findings, open_round)


def _asks(question: OpenRound) -> Hashable:
    return question.session, question.round, question.attempt, question.purpose


def _closes(said: CloseList | HolderList | RoundStatement) -> Hashable:
    return said.holder, said.open_round


def _one_of_each(
    findings: Findings, kind: Kind, said: Iterable[tuple[Shown, T]], key: Callable[[T], Hashable], what: str
) -> None:
    """Prove that a party signed two statements where there is to be one."""
    facts = findings.facts
    groups: dict[Hashable, dict[bytes, Shown]] = defaultdict(dict)
    for shown, statement in said:
        groups[key(statement)].setdefault(shown.subject, shown)
    for found in groups.values():
        if len(found) > 1:
            first, second, *_ = found.values()
            findings.prove(
                kind,
                first.signer,
                f"{first.signer} signed {len(found)} {what}",
                exhibits=(first, second),
                about=about(facts, first),
                at=[at for subject in found for at in facts.by_subject.get(subject, ())],
            )


def _sums_over_their_sets(findings: Findings) -> None:
    facts = findings.facts
    told: set[tuple[str, bytes]] = set()
    heads: dict[tuple[str, bytes], list[tuple[Shown, Header]]] = defaultdict(list)
    stated: dict[tuple[str, bytes], list[tuple[Shown, RoundStatement]]] = defaultdict(list)
    for each, header in facts.heads():
        if header.close is not None:
            heads[header.sender, header.open_round].append((each, header))
    for each, said in facts.of(RoundStatement):
        stated[said.holder, said.open_round].append((each, said))
    for shown, close in facts.of(CloseList):
        key = close.holder, close.open_round
        if key in told:
            continue
        contributors = close.contributors
        against: list[Shown] = [
            each
            for each, said in stated.get(key, ())
            if said.close != shown.subject or said.contributors != contributors
        ]
        against += [each for each, header in heads.get(key, ()) if not _sums(header, shown, close)]
        if against:
            told.add(key)
            findings.prove(
                Kind.CONTRADICTED_SET,
                close.holder,
                f"{close.holder} released a sum, or stated an outcome, over another set than it closed with",
                exhibits=(shown, against[0]),
                about=about(facts, shown),
                at=[at for each in (shown, *against) for at in facts.by_subject.get(each.subject, ())],
            )


def _sums(header: Header, shown: Shown, close: CloseList) -> bool:
    return header.close == shown.subject and header.contributors == len(close.contributions)


def _left_out(findings: Findings) -> None:
    facts = findings.facts
    closes: dict[tuple[str, bytes], list[tuple[Shown, CloseList]]] = defaultdict(list)
    in_all: dict[tuple[str, bytes], set[tuple[str, bytes]]] = {}
    for shown, close in facts.of(CloseList):
        listed = _listed(close)
        in_all.setdefault((close.holder, close.open_round), listed).intersection_update(listed)
        closes[close.holder, close.open_round].append((shown, close))
    told: set[tuple[str, bytes, str]] = set()
    for shown, receipt in facts.of(Receipt):
        key, which = (receipt.holder, receipt.open_round), (receipt.contributor, receipt.commitment)
        if key not in in_all or which in in_all[key] or (*key, receipt.contributor) in told:
            continue
        question = facts.questions.get(receipt.open_round)
        if question is None or receipt.contributor not in question.cohort:
            continue
        if facts.seats.counting(question, receipt.contributor) != receipt.holder:
            continue
        told.add((*key, receipt.contributor))
        close_shown = next(each for each, close in closes[key] if which not in _listed(close))
        asked = [each for each in facts.shown[receipt.open_round] if isinstance(each.content, OpenRound)]
        findings.prove(
            Kind.LEFT_OUT,
            receipt.holder,
            f"{receipt.holder} gave {receipt.contributor} a receipt and closed without it",
            exhibits=(shown, close_shown, *asked),
            about=about(facts, shown),
            at=[at for each in (shown, close_shown) for at in facts.by_subject.get(each.subject, ())],
        )


def _listed(close: CloseList) -> set[tuple[str, bytes]]:
    return {(entry.party, entry.commitment) for entry in close.contributions}


def _same_views(findings: Findings, open_round: bytes) -> None:
    """Compare the sets that different holders closed with, and those that parties note of the sum."""
    facts = findings.facts
    question = facts.questions[open_round]
    where = question.session, question.round, question.attempt
    said = sorted({(close.holder, close.contributors) for _, close in facts.about(CloseList, open_round)})
    closed = {contributors for _, contributors in said}
    # One holder with two sets has signed both, and is found for that.
    if len(closed) > 1 and len({holder for holder, _ in said}) > 1:
        told = "; ".join(f"{holder}: {names(contributors)}" for holder, contributors in said)
        text = f"secure workers closed round {question.round} over different sets ({told})"
        # Each may have been shown other lists by the model owner; nothing is released over them.
        severity = Severity.VIOLATION if _released(facts, open_round) > 1 else Severity.ANOMALY
        findings.note(Kind.DIFFERENT_VIEWS, severity, text, others=sorted({holder for holder, _ in said}), about=where)
    other: dict[str, list[At]] = defaultdict(list)
    for at in facts.of_question(open_round):
        entry = at.entry
        made = entry.act is Act.DERIVED and entry.data is DataClass.AGGREGATE
        if made and closed and entry.whose not in closed:
            other[at.party].append(at)
    for party, found in other.items():
        text = (
            f"{party} notes a sum over {names(found[0].entry.whose)}, and the set of round {question.round} is another"
        )
        findings.note(Kind.DIFFERENT_VIEWS, Severity.VIOLATION, text, party=party, about=where, at=found)


def _released(facts: Facts, open_round: bytes) -> int:
    """Return over how many different sets a sum was released for this question."""
    stated = {said.contributors for _, said in facts.about(RoundStatement, open_round)}
    return len(stated | {at.entry.whose for at in facts.of_question(open_round) if at.entry.act is Act.RELEASED})
