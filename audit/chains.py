"""Signatures and chains: is each ledger the one its party signed for, wherever a checkpoint of it was kept?"""

from collections import defaultdict

from ..protocol.codec import decode_as
from ..protocol.ledger import Act, Checkpoint
from ..protocol.messages import Signed
from .evidence import Growth, open_checkpoint
from .exhibits import Shown
from .facts import At, Facts
from .findings import Findings, as_shown
from .reading import Given
from .report import Kind, Severity

_NAMED = (Act.SENT, Act.RECEIVED, Act.OPENED, Act.RELEASED)


def check(findings: Findings) -> None:
    """Hold every ledger to every checkpoint of its party, and every entry to what it names."""
    facts = findings.facts
    for name, why in facts.run.broken.items():
        findings.note(Kind.BROKEN_LEDGER, Severity.VIOLATION, why, party=name)
    known = _checkpoints(facts)
    for party in facts.charter.parties:
        _forks(findings, known[party.name])
        given = facts.given.get(party.name)
        if given is not None:
            _hold(findings, given, known[party.name])
            _look_at_exhibits(findings, given)


def _checkpoints(facts: Facts) -> dict[str, list[tuple[Shown, Checkpoint]]]:
    """Return every checkpoint by whose it is, from whoever was shown it and from its own file, the largest first."""
    known: dict[str, list[tuple[Shown, Checkpoint]]] = defaultdict(list)
    for shown, said in facts.of(Checkpoint):
        known[said.party].append((shown, said))
    for name, given in facts.given.items():
        for signed in (given.checkpoint[0] if given.checkpoint else None, given.contradicted):
            if signed is not None:
                known[name].append((as_shown(signed, said := open_checkpoint(facts.charter, signed)), said))
    for each in known.values():
        each.sort(key=lambda pair: pair[1].size, reverse=True)
    return known


def _forks(findings: Findings, known: list[tuple[Shown, Checkpoint]]) -> None:
    at_size: dict[int, tuple[Shown, Checkpoint]] = {}
    for shown, said in known:
        other = at_size.setdefault(said.size, (shown, said))
        if other[1].root != said.root:
            text = f"{said.party} signed for two view ledgers of {said.size} entries"
            findings.prove(Kind.FORKED_LEDGER, said.party, text, exhibits=(shown, other[0]))
            return


def _hold(findings: Findings, given: Given, known: list[tuple[Shown, Checkpoint]]) -> None:
    """Hold a given ledger to what its party signed; of several contradictions of a kind the largest is told."""
    name, file, told = given.party, given.file, set()
    right: list[tuple[Shown, Checkpoint]] = []
    wrong: list[tuple[Shown, Checkpoint]] = []
    for shown, said in known:
        fits = said.size <= file.size and file.root(said.size) == said.root
        (right if fits else wrong).append((shown, said))
    findings.take_checkpoints(name, [(_signed(shown), said) for shown, said in right])
    newest = findings.checkpoints[name][-1] if right else None
    for shown, said in wrong:
        kind = Kind.TRUNCATED_LEDGER if said.size > file.size else Kind.EDITED_LEDGER
        newer = newest if newest is not None and newest[1].size >= said.size else None
        if kind is Kind.EDITED_LEDGER and newer is not None and said.size > 0:
            kind = Kind.FORKED_LEDGER
        if kind in told:
            continue
        told.add(kind)
        if kind is Kind.FORKED_LEDGER and newer is not None:
            growth = Growth(
                older=_signed(shown),
                newer=newer[0],
                root=file.root(said.size),
                proof=tuple(file.consistency_proof(said.size, newer[1].size)),
            )
            text = f"{name} signed for {said.size} entries, and its ledger has others"
            findings.prove(kind, name, text, growth=growth)
        else:
            text = f"{name} signed for {said.size} entries, and its ledger is not what it signed for"
            findings.prove(kind, name, text, exhibits=(shown,), log_of=name)


def _signed(shown: Shown) -> Signed:
    return decode_as(Signed, shown.exhibit.content)


def _look_at_exhibits(findings: Findings, given: Given) -> None:
    facts, name = findings.facts, given.party
    if given.wrong:
        text = f"{len(given.wrong)} of the statements beside the ledger of {name} show nothing: {given.wrong[0]}"
        findings.note(Kind.WRONG_EXHIBIT, Severity.ANOMALY, text, party=name)
    beside = {shown.subject for shown in given.shown}
    lacking = [
        at
        for at in facts.entries_of(name)
        if _names_something(facts, at) and at.entry.subject is not None and at.entry.subject not in beside
    ]
    if lacking:
        text = f"{len(lacking)} entries of {name} name something that does not lie beside its ledger"
        findings.note(Kind.WRONG_EXHIBIT, Severity.ANOMALY, text, party=name, at=lacking)
    unnamed = [at for at in facts.entries_of(name) if _names_something(facts, at) and at.entry.subject is None]
    if unnamed:
        text = f"{len(unnamed)} entries of {name} do not say what was sent or received"
        findings.note(Kind.WRONG_EXHIBIT, Severity.ANOMALY, text, party=name, at=unnamed)


def _names_something(facts: Facts, at: At) -> bool:
    return at.entry.act in _NAMED and at.entry.charter == facts.charter.digest
