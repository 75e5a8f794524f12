"""Two stories of one message: what one party signed or noted as sent, and another as received.

A signature outweighs a ledger: a sender cannot deny what it signed, nor a receiver what it gave a receipt for. Without
one there are two words and no proof; what was only lost on the way is a notice.
"""

from collections import defaultdict

from ..protocol.ledger import Act, Checkpoint
from ..protocol.messages import Header, OpenRound, Receipt
from .exhibits import KINDS, Shown
from .facts import At, Facts
from .findings import Findings
from .proofs import DURABLE
from .report import Kind, Severity
from .words import spoken

_GOT = (Act.RECEIVED, Act.OPENED)


def check(findings: Findings) -> None:
    """Compare both ends of every envelope and every signed statement."""
    _denied_sendings(findings)
    _denied_receivings(findings)
    _unpaired(findings)


def about(facts: Facts, shown: Shown) -> tuple[bytes | None, int, int]:
    """Return session, round and attempt of what was signed, as far as it is known."""
    content = shown.content
    if isinstance(content, Header | OpenRound):
        return content.session, content.round, content.attempt
    question = facts.questions.get(getattr(content, "open_round", b""))
    return (None, 0, 0) if question is None else (question.session, question.round, question.attempt)


def _denied_sendings(findings: Findings) -> None:
    facts = findings.facts
    unsent: dict[str, list[Shown]] = defaultdict(list)
    for same in facts.shown.values():
        for shown in same:
            told = isinstance(shown.content, Header) or (shown.own and shown.exhibit.label in _SAID)
            if not told or shown.signer not in facts.given:
                continue
            if not facts.has_noted(shown.signer, shown.subject, Act.SENT):
                unsent[shown.signer].append(shown)
    for party, all_shown in unsent.items():
        strong = [shown for shown in all_shown if shown.label in DURABLE]
        shown = (strong or all_shown)[0]
        what = spoken(shown.label)
        text = (
            f"{party} signed a {what} that its ledger does not have as sent, which lies beside the ledger of "
            f"{', '.join(sorted(facts.holders_of[shown.subject, party]))}; {len(all_shown)} such in all"
        )
        at = [each for one in all_shown for each in facts.by_subject.get(one.subject, ())]
        if not strong:
            findings.note(Kind.DENIED_SENDING, Severity.ANOMALY, text, party=party, about=about(facts, shown), at=at)
            continue
        question = facts.shown.get(getattr(shown.content, "open_round", b""), [])
        findings.prove(
            Kind.DENIED_SENDING,
            party,
            text,
            exhibits=(shown, *(each for each in question if isinstance(each.content, OpenRound))),
            log_of=party,
            about=about(facts, shown),
            at=at,
            without_proof=Severity.ANOMALY,
        )


_SAID = frozenset(label for label, kind in KINDS.items() if kind is not Checkpoint)
"""Checkpoints travel with other messages and are no entry of who signed them."""


def _denied_receivings(findings: Findings) -> None:
    facts = findings.facts
    told: set[str] = set()
    for shown, receipt in facts.of(Receipt):
        holder = receipt.holder
        if holder not in facts.given or holder in told or facts.has_noted(holder, receipt.header, Act.OPENED):
            continue
        told.add(holder)
        text = f"{holder} gave {receipt.contributor} a receipt for what its ledger does not have as opened"
        question = [each for each in facts.shown.get(receipt.open_round, []) if isinstance(each.content, OpenRound)]
        findings.prove(
            Kind.DENIED_RECEIVING,
            holder,
            text,
            exhibits=(shown, *question),
            log_of=holder,
            about=about(facts, shown),
            at=[at for subject in (shown.subject, receipt.header) for at in facts.by_subject.get(subject, ())],
            without_proof=Severity.ANOMALY,
        )


def _unpaired(findings: Findings) -> None:
    """Note, by pair of parties, what has one end only."""
    facts = findings.facts
    lost: dict[tuple[str, str], list[At]] = defaultdict(list)
    from_nowhere: dict[tuple[str, str], list[At]] = defaultdict(list)
    for at in facts.entries:
        entry, peer = at.entry, at.entry.peer
        if peer is None or peer not in facts.given or entry.subject is None:
            continue
        if entry.act is Act.SENT and not facts.has_noted(peer, entry.subject, *_GOT):
            lost[at.party, peer].append(at)
        if entry.act is not Act.RECEIVED or facts.has_noted(peer, entry.subject, Act.SENT):
            continue
        if not any(isinstance(each.content, Checkpoint) for each in facts.shown.get(entry.subject, ())[:1]):
            from_nowhere[at.party, peer].append(at)
    for (sender, recipient), found in lost.items():
        text = (
            f"{len(found)} of what {sender} sent {recipient} is not noted there: lost on the way, too late, or refused"
        )
        findings.note(Kind.UNPAIRED, Severity.NOTICE, text, party=None, others=(sender, recipient), at=found)
    for (recipient, sender), found in from_nowhere.items():
        text = f"{recipient} notes {len(found)} messages of {sender} that {sender} does not note as sent to anybody"
        findings.note(Kind.UNPAIRED, Severity.ANOMALY, text, party=None, others=(sender, recipient), at=found)
