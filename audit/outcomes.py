"""What became of each attempt: was its sum verified, who cosigned it, whom did it drop, what was refused."""

from collections import defaultdict

from ..crypto.errors import BadSignature
from ..protocol.check_messages import SumCheck, SumState
from ..protocol.errors import BrokenLedger, DisputedContribution, GateShut, SplitView
from ..protocol.ledger import Act, DataClass
from ..protocol.messages import Abort, CloseList, OpenRound, Purpose, Receipt, RoundStatement
from .exhibits import Shown
from .facts import At, Facts, refs
from .findings import Findings
from .report import Kind, Refusal, Severity
from .words import names, where

Slot = tuple[bytes, int]
"""Session and round."""


def check(findings: Findings) -> None:
    """Look at the outcome of every question that asks for training."""
    facts = findings.facts
    rounds: dict[Slot, list[tuple[bytes, OpenRound]]] = defaultdict(list)
    for open_round, question in facts.questions.items():
        if question.purpose is Purpose.TRAIN:
            rounds[question.session, question.round].append((open_round, question))
    aborted: dict[Slot, list[Abort]] = defaultdict(list)
    for _, abort in facts.of(Abort):
        aborted[abort.session, abort.round].append(abort)
    for (session, number), attempts in rounds.items():
        for open_round, question in attempts:
            _sum(findings, open_round, question)
            _cosigned(findings, open_round, question)
        _dropped(findings, attempts, aborted[session, number])
    for _, abort in facts.of(Abort):
        text = f"{abort.party} gave up {where_of(abort)}: {abort.cause.value}: {abort.text}"
        about = (abort.session, abort.round, abort.attempt)
        findings.note(Kind.ABORTED_ATTEMPT, Severity.NOTICE, text, party=None, others=(abort.party,), about=about)
    for refusal in refusals(facts):
        text = f"{refusal.party} refused {refusal.number} of {refusal.peer or 'a stranger'}: {refusal.code}"
        found = [facts.entries_of(refusal.party)[ref.entry] for ref in refusal.entries]
        weight = Severity.ANOMALY if any(_accuses(facts, at) for at in found) else Severity.NOTICE
        findings.note(Kind.REFUSED, weight, text, others=[p for p in (refusal.party, refusal.peer) if p], at=found)


_ACCUSING = frozenset({SplitView.code, BadSignature.code, DisputedContribution.code, BrokenLedger.code})
"""Refusals that an honest peer gives no cause for, as a rule; who did it, no signature says here."""


def _accuses(facts: Facts, at: At) -> bool:
    """Whether a refusal is one that no honest run has: a gate shuts on too few, and else on sets that isolate one."""
    entry = at.entry
    if entry.code == GateShut.code:
        return len(entry.whose) >= facts.charter.rules.minimum_cohort
    return entry.code in _ACCUSING


def where_of(abort: Abort) -> str:
    """Return round and attempt of an abort, in words; one of a whole session has neither."""
    return where(abort) if abort.round else "the session"


def last_check(facts: Facts, open_round: bytes) -> tuple[Shown, SumCheck] | None:
    """Return the model owner's account of the check of this sum: the worst, if it signed several."""
    found = facts.about(SumCheck, open_round)
    order = [SumState.FAILED, SumState.UNVERIFIED, SumState.VERIFIED]
    return min(found, key=lambda pair: order.index(pair[1].state), default=None)


def _about(question: OpenRound) -> tuple[bytes, int, int]:
    return question.session, question.round, question.attempt


def _sum(findings: Findings, open_round: bytes, question: OpenRound) -> None:
    facts = findings.facts
    asked = [each for each in facts.shown[open_round] if isinstance(each.content, OpenRound)]
    for shown, check in facts.about(SumCheck, open_round):
        at = facts.by_subject.get(shown.subject, [])
        exhibits = (shown, *asked)
        for holder in check.contradicted:
            text = f"the total of {holder} contradicts the sum of {where(question)}"
            findings.prove(Kind.CONTRADICTED_TOTAL, None, text, exhibits=exhibits, about=_about(question), at=at)
        if check.state is SumState.FAILED:
            text = f"the sum of {where(question)} is not that of its contributors"
            findings.prove(Kind.FAILED_SUM, None, text, exhibits=exhibits, about=_about(question), at=at)
    last = last_check(facts, open_round)
    used = [at for at in facts.of_question(open_round) if _is(at, Act.DERIVED, DataClass.AGGREGATE)]
    if last is None and used:
        text = f"the sum of {where(question)} was used, and no check of it is on record"
        findings.note(Kind.UNVERIFIED_SUM, Severity.ANOMALY, text, about=_about(question), at=used)
    if last is not None and last[1].state is SumState.UNVERIFIED:
        text = f"the sum of {where(question)} is unverified: {names(last[1].silent)} silent"
        at = facts.by_subject.get(last[0].subject, [])
        findings.note(Kind.UNVERIFIED_SUM, Severity.ANOMALY, text, others=last[1].silent, about=_about(question), at=at)


def _is(at: At, act: Act, data: DataClass) -> bool:
    return at.entry.act is act and at.entry.data is data


def cosigners(facts: Facts, open_round: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return who signed the outcome of a question beside its holders, and who should have and did not."""
    stated = facts.about(RoundStatement, open_round)
    signed = {shown.signer for shown, _ in facts.about(RoundStatement, open_round, cosigned=True)}
    expected = {facts.charter.model_owner.name, *(name for _, said in stated for name in said.contributors)}
    return tuple(sorted(signed)), tuple(sorted(expected - signed)) if stated else ()


def _cosigned(findings: Findings, open_round: bytes, question: OpenRound) -> None:
    _, absent = cosigners(findings.facts, open_round)
    if absent:
        text = f"the outcome of {where(question)} is not cosigned by {names(absent)}"
        findings.note(Kind.NOT_COSIGNED, Severity.NOTICE, text, others=absent, about=_about(question))


def _dropped(findings: Findings, attempts: list[tuple[bytes, OpenRound]], aborted: list[Abort]) -> None:
    """Note who had its receipt in an attempt that was given up, and is in no closed set of the round."""
    facts = findings.facts
    session, number, last = _about(attempts[-1][1])
    closed: set[str] = set()
    receipted: set[str] = set()
    for open_round, question in attempts:
        closed |= {name for _, close in facts.about(CloseList, open_round) for name in close.contributors}
        if question.attempt < last or not facts.about(CloseList, open_round):
            receipted |= {receipt.contributor for _, receipt in facts.about(Receipt, open_round)}
    for abort in aborted:
        receipted |= {entry.party for entry in abort.receipted}
    left = sorted(receipted - closed)
    if left and closed:
        text = f"{names(left)} had a receipt in an attempt at round {number} that was given up, and is not in its sum"
        findings.note(Kind.DROPPED, Severity.ANOMALY, text, others=left, about=(session, number, last))


def refusals(facts: Facts) -> tuple[Refusal, ...]:
    """Return what was refused, by who refused it, of whom, and the name of the error."""
    found: dict[tuple[str, str | None, str], list[At]] = defaultdict(list)
    for at in facts.entries:
        if at.entry.act is Act.REFUSED:
            found[at.party, at.entry.peer, at.entry.code].append(at)
    return tuple(Refusal(*key, len(places), refs(places)) for key, places in found.items())
