"""Conservation: single updates, shares and seeds are only where the mode of the charter lets them be."""

from collections import defaultdict

from ..protocol.charter import Mode
from ..protocol.ledger import OF_ONE, Act, DataClass
from ..protocol.messages import CloseList
from .access import forbidden
from .facts import MOST_REFS, At
from .findings import Findings
from .proofs import misstated
from .report import Kind, Retention


def check(findings: Findings) -> None:
    """Hold every entry to the mode, and to the signed header that it is about."""
    facts = findings.facts
    wrong: dict[tuple[str, DataClass, Act], list[At]] = defaultdict(list)
    opened: list[At] = []
    false: dict[str, list[At]] = defaultdict(list)
    owner = facts.charter.model_owner.name
    for at in facts.entries:
        entry = at.entry
        if forbidden(facts.seats, facts.charter, at.party, entry) is not None:
            wrong[at.party, entry.data, entry.act].append(at)
        elif at.party == owner and entry.act is Act.OPENED and entry.data is DataClass.UPDATE:
            opened.append(at)
    for party in facts.given:
        # Those under another charter too: an envelope of this one is nothing that another charter allowed.
        for at in facts.entries_of(party):
            header = facts.header(at.entry.subject)
            if header is not None and misstated(party, at.entry, header) is not None:
                false[party].append(at)
    for (party, data, act), found in wrong.items():
        why = forbidden(facts.seats, facts.charter, party, found[0].entry)
        text = f"{party} {act.value} the {data.value} of {_whose(found)}: {why}"
        findings.prove(Kind.FORBIDDEN_ACCESS, party, text, inclusions=found, about=_about(found[0]))
    if opened and facts.charter.rules.mode is Mode.PLAIN:
        text = f"{owner} opened {len(opened)} single updates, of {_whose(opened)}"
        findings.prove(Kind.PLAIN_ACCESS, owner, text, inclusions=_one_of_each(opened), at=opened)
    for party, found in {**false, **_other_sets(findings, false)}.items():
        text = f"{len(found)} entries of {party} are not what was signed"
        shown = [each for at in found[:1] for each in facts.shown[at.entry.subject or b""]]
        closes = [each for at in found[:1] for each, _ in facts.about(CloseList, at.entry.open_round or b"")]
        findings.prove(
            Kind.FALSE_ENTRY, party, text, exhibits=(*shown, *closes), inclusions=found, about=_about(found[0])
        )


def _other_sets(findings: Findings, known: dict[str, list[At]]) -> dict[str, list[At]]:
    """Return the entries about a sum that name other contributors than the Close list in its signed header."""
    facts = findings.facts
    found: dict[str, list[At]] = defaultdict(list)
    closed = {shown.subject: close.contributors for shown, close in facts.of(CloseList)}
    for at in facts.entries:
        if at.entry.data is not DataClass.AGGREGATE or at.party in known:
            continue
        header = facts.header(at.entry.subject)
        contributors = closed.get((header.close if header is not None else None) or b"")
        if contributors is not None and at.entry.whose != contributors:
            found[at.party].append(at)
    return found


def retention(findings: Findings) -> tuple[Retention, ...]:
    """Return what each party opened or made that has to be erased, and what is on record as erased."""
    facts, out = findings.facts, []
    for party in facts.given:
        taken: dict[DataClass, dict[int, At]] = defaultdict(dict)
        erased: dict[DataClass, set[int]] = defaultdict(set)
        for at in facts.entries_of(party):
            data = at.entry.data
            if at.entry.act in (Act.OPENED, Act.DERIVED) and data in _ERASED:
                taken[data][at.sequence] = at
            elif at.entry.act is Act.ERASED:
                erased[data] |= set(at.entry.derived_from)
        for data, places in taken.items():
            left = tuple(at.ref for sequence, at in places.items() if sequence not in erased[data])
            out.append(Retention(party, data.value, len(places), len(places) - len(left), left[:MOST_REFS]))
    return tuple(out)


_ERASED = (OF_ONE - {DataClass.SCORE, DataClass.MASK}) | {DataClass.KEY}


def _whose(found: list[At]) -> str:
    return ", ".join(sorted({name for at in found for name in at.entry.whose})) or "nobody"


def _one_of_each(found: list[At]) -> list[At]:
    return list({at.entry.whose: at for at in reversed(found)}.values())


def _about(at: At) -> tuple[bytes | None, int, int]:
    return at.entry.session, at.entry.round, at.entry.attempt
