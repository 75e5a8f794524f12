"""One release a round, over one set a model, of the minimum cohort at least: what each secure worker let go of."""

from collections import defaultdict
from dataclasses import dataclass

from ..crypto.labels import Label
from ..protocol.ledger import Act, DataClass
from ..protocol.messages import OpenRound, RoundStatement
from .exhibits import Shown
from .facts import At, Facts
from .findings import Findings
from .report import Kind, Severity


@dataclass(frozen=True)
class Let:
    """One sum that a secure worker released, by a statement it signed or by its own entry."""

    holder: str
    subject: bytes
    open_round: bytes
    contributors: tuple[str, ...]
    shown: Shown | None
    at: At | None


def released(facts: Facts) -> list[Let]:
    """Return every release on record, once a holder and envelope; a signed statement before an entry."""
    found: dict[tuple[str, bytes, bytes], Let] = {}
    for shown, said in facts.of(RoundStatement):
        key = said.holder, said.release, said.open_round
        found.setdefault(key, Let(said.holder, said.release, said.open_round, said.contributors, shown, None))
    for at in facts.acts(Act.RELEASED, DataClass.AGGREGATE):
        entry = at.entry
        if entry.subject is not None and entry.open_round is not None:
            let = Let(at.party, entry.subject, entry.open_round, entry.whose, None, at)
            found.setdefault((at.party, entry.subject, entry.open_round), let)
    return list(found.values())


def check(findings: Findings) -> None:
    """Compare all releases of each holder."""
    facts = findings.facts
    by_holder: dict[str, list[tuple[Let, OpenRound]]] = defaultdict(list)
    for let in released(facts):
        question = facts.questions.get(let.open_round)
        if question is not None:
            by_holder[let.holder].append((let, question))
    least = facts.charter.rules.minimum_cohort
    for holder, lets in by_holder.items():
        for let, _ in lets:
            if len(let.contributors) < least:
                text = f"{holder} released a sum over {len(let.contributors)}; the minimum cohort is {least}"
                _prove(findings, Kind.SMALL_RELEASE, text, [let])
        slots: dict[tuple[bytes, int], list[Let]] = defaultdict(list)
        models: dict[bytes, dict[frozenset[str], Let]] = defaultdict(dict)
        for let, question in lets:
            slots[question.session, question.round].append(let)
            models[question.model].setdefault(frozenset(let.contributors), let)
        for (_, number), found in slots.items():
            pair = _two(found)
            if pair is not None:
                _prove(findings, Kind.TWO_RELEASES, f"{holder} released two sums in round {number}", list(pair))
        for sets in models.values():
            if len(sets) > 1:
                text = f"{holder} released sums over {len(sets)} contributor sets for one model"
                _prove(findings, Kind.TWO_SETS_OF_ONE_MODEL, text, list(sets.values())[:2])
    _received_twice(findings)


def _two(found: list[Let]) -> tuple[Let, Let] | None:
    other = next((each for each in found if each.subject != found[0].subject), None)
    return None if other is None else (found[0], other)


def _prove(findings: Findings, kind: Kind, text: str, lets: list[Let]) -> None:
    facts = findings.facts
    asked = [each for let in lets for each in facts.shown[let.open_round] if isinstance(each.content, OpenRound)]
    question = facts.questions[lets[0].open_round]
    findings.prove(
        kind,
        lets[0].holder,
        text,
        exhibits=(*(let.shown for let in lets if let.shown is not None), *asked),
        inclusions=[let.at for let in lets if let.at is not None],
        about=(question.session, question.round, question.attempt),
        at=[at for let in lets for at in facts.by_subject.get(let.subject, ())],
    )


def _received_twice(findings: Findings) -> None:
    """Note two sums of one holder that the model owner opened in one round, where no release of it is on record.

    What the model owner writes down accuses nobody else: each is a sum whose head the holder signed, and handed over.
    """
    facts = findings.facts
    opened: dict[tuple[str, bytes, int], set[bytes]] = defaultdict(set)
    places: dict[tuple[str, bytes, int], list[At]] = defaultdict(list)
    for at in facts.acts(Act.OPENED, DataClass.AGGREGATE):
        subject, header = at.entry.subject or b"", facts.header(at.entry.subject)
        if header is None or header.label is not Label.AGGREGATE:
            continue
        if at.party not in facts.holders_of.get((subject, header.sender), ()):
            continue
        key = header.sender, header.session, header.round
        opened[key].add(subject)
        places[key].append(at)
    for key, subjects in opened.items():
        if len(subjects) > 1:
            holder, session, number = key
            text = f"{places[key][0].party} opened {len(subjects)} sums of {holder} in round {number}"
            findings.note(
                Kind.TWO_RELEASES, Severity.VIOLATION, text, party=holder, about=(session, number, 0), at=places[key]
            )
