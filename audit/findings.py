"""Where checks put what they find, with its evidence where there is some.

Rules of the file:
- A violation that has evidence is reported in the words of its proof: `prove` makes the bundle and has it verified, as
  somebody else will. Where the proof does not hold, what is left is what the check says without one.
- One finding a kind, party and attempt: a hundred entries of one lie are one finding with a hundred entries.
- A bundle with openings in it is verified and let go: it holds updates, and as many as there are would not fit into
  memory. It is made again where somebody asks for it to be written.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from ..crypto.errors import Misbehaviour, NotInTree
from ..crypto.labels import Label
from ..protocol.errors import JournalError, SiteFileError
from ..protocol.ledger import Checkpoint, Exhibit
from ..protocol.messages import Signed
from ..protocol.openings import Opening
from .evidence import LARGEST, MOST_EXHIBITS, Bundle, Growth, Inclusion, Item, Log, verify
from .exhibits import Shown
from .facts import MOST_REFS, At, Facts, refs
from .report import Finding, Kind, Severity

MOST_INCLUDED = 64
"""Entries that one bundle shows."""


@dataclass(frozen=True)
class Found:
    """A finding, and what proves it."""

    finding: Finding
    bundle: Bundle | None = None
    disclosing: Callable[[], Bundle] | None = None
    """Makes the bundle anew, where that opens something; raises what reading the openings raises."""


class Findings:
    """What an audit has found so far."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.found: list[Found] = []
        self.checkpoints: dict[str, list[tuple[Signed, Checkpoint]]] = {}
        """By party whose ledger is given: the checkpoints that it is, the largest last."""

    def note(
        self,
        kind: Kind,
        severity: Severity,
        text: str,
        *,
        party: str | None = None,
        others: Iterable[str] = (),
        about: tuple[bytes | None, int, int] = (None, 0, 0),
        at: Sequence[At] = (),
    ) -> None:
        """Note a finding without evidence. `about` is session, round and attempt."""
        self.found.append(Found(_finding(kind, severity, text, party, others, about, at)))

    def prove(
        self,
        kind: Kind,
        party: str | None,
        text: str,
        *,
        exhibits: Iterable[Shown] = (),
        inclusions: Sequence[At] = (),
        growth: Growth | None = None,
        log_of: str | None = None,
        about: tuple[bytes | None, int, int] = (None, 0, 0),
        at: Sequence[At] = (),
        without_proof: Severity = Severity.VIOLATION,
    ) -> None:
        """Note a violation with its evidence; where that shows nothing, `text` with the severity `without_proof`."""
        bundle = self._bundle(kind, party, exhibits, inclusions, growth, log_of)
        shown = at or inclusions
        try:
            if bundle is None:
                raise NotInTree("there is no evidence")
            proven = verify(self.facts.charter, bundle)
        except (Misbehaviour, NotInTree):
            self.found.append(Found(_finding(kind, without_proof, text, party, (), about, shown)))
            return
        finding = _finding(kind, Severity.VIOLATION, proven.text, proven.party, proven.others, about, shown, True)
        self.found.append(Found(finding, bundle))

    def prove_by_openings(
        self,
        kind: Kind,
        party: str | None,
        text: str,
        *,
        exhibits: Sequence[Shown],
        openings: Callable[[], Sequence[Opening]],
        size: int,
        others: Iterable[str] = (),
        about: tuple[bytes | None, int, int] = (None, 0, 0),
        at: Sequence[At] = (),
        without_proof: Severity = Severity.VIOLATION,
    ) -> None:
        """Note a violation with evidence that opens envelopes, of `size` bytes in all.

        `openings` reads them, each time it is called. What is too much for one file is a violation without evidence,
        as the check itself saw it; what the proof does not show weighs `without_proof`.
        """
        items = _items(exhibits)
        heavy = size + sum(len(each.content) for each in items) > LARGEST // 2
        if heavy or len(items) > MOST_EXHIBITS:
            self.found.append(Found(_finding(kind, Severity.VIOLATION, text, party, others, about, at)))
            return

        def make() -> Bundle:
            return Bundle(1, self.facts.charter.digest, kind, party, items, openings=tuple(openings()))

        try:
            proven = verify(self.facts.charter, make())
        except (Misbehaviour, SiteFileError):
            self.found.append(Found(_finding(kind, without_proof, text, party, others, about, at)))
            return
        finding = _finding(kind, Severity.VIOLATION, proven.text, proven.party, proven.others, about, at, True)
        finding = msgspec.structs.replace(finding, discloses=proven.discloses)
        self.found.append(Found(finding, disclosing=make))

    def _bundle(
        self,
        kind: Kind,
        party: str | None,
        exhibits: Iterable[Shown],
        inclusions: Sequence[At],
        growth: Growth | None,
        log_of: str | None,
    ) -> Bundle | None:
        proven = [self._included(each) for each in inclusions[:MOST_INCLUDED]]
        log = None if log_of is None else self._log(log_of)
        if log_of is not None and log is None:
            return None
        return Bundle(
            version=1,
            charter=self.facts.charter.digest,
            kind=kind,
            party=party,
            exhibits=_items(exhibits),
            inclusions=tuple(each for each in proven if each is not None),
            growth=growth,
            log=log,
        )

    def _included(self, at: At) -> Inclusion | None:
        file = self.facts.given[at.party].file
        known = self.checkpoints.get(at.party, [])
        place = bisect.bisect_right(known, at.sequence, key=lambda pair: pair[1].size)
        if place == len(known):
            return None
        signed, said = known[place]
        proof = tuple(file.inclusion_proof(at.sequence, said.size))
        return Inclusion(at.sequence, file.data(at.sequence), signed, proof)

    def _log(self, party: str) -> Log | None:
        given = self.facts.given.get(party)
        if given is None:
            return None
        entries, size = [], 0
        try:
            for sequence in range(given.file.size):
                entries.append(given.file.data(sequence))
                size += len(entries[-1])
                if size > LARGEST // 2:
                    return None
        except JournalError:
            return None
        known = self.checkpoints.get(party, ())
        return Log(party, tuple(entries), known[-1][0] if known else None)

    def take_checkpoints(self, party: str, known: Iterable[tuple[Signed, Checkpoint]]) -> None:
        """Keep verified checkpoints that the given ledger of `party` is, for proofs about its entries."""
        by_size = {said.size: (signed, said) for signed, said in known}
        self.checkpoints[party] = [by_size[size] for size in sorted(by_size)]


def _items(exhibits: Iterable[Shown]) -> tuple[Item, ...]:
    found = {(each.subject, each.signer): each.exhibit for each in exhibits}
    return tuple(Item(each.subject, each.signer, each.label, each.content) for each in found.values())


def by_weight(found: Iterable[Found]) -> list[Found]:
    """Return findings with violations first, then anomalies, then notices."""
    weights = tuple(Severity)
    return sorted(found, key=lambda each: weights.index(each.finding.severity))


def as_shown(signed: Signed, said: Checkpoint) -> Shown:
    """Return a verified checkpoint as what lies beside a ledger."""
    exhibit = Exhibit.of_statement(Label.CHECKPOINT, signed)
    return Shown(exhibit, signed.signer, exhibit.subject, said, own=True)


def _finding(
    kind: Kind,
    severity: Severity,
    text: str,
    party: str | None,
    others: Iterable[str],
    about: tuple[bytes | None, int, int],
    at: Sequence[At],
    provable: bool = False,
) -> Finding:
    session, number, attempt = about
    return Finding(
        kind=kind,
        severity=severity,
        party=party,
        text=text,
        others=tuple(others)[:MOST_REFS],
        session=None if session is None else session.hex(),
        round=number,
        attempt=attempt,
        entries=refs(at),
        provable=provable,
    )
