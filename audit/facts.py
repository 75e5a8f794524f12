"""What all given ledgers and signed statements say, joined and indexed; every check reads this and nothing else."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ..protocol.charter import Charter
from ..protocol.ledger import Act, Checkpoint, DataClass, LedgerEntry
from ..protocol.messages import Header, OpenRound, Statement
from ..protocol.seats import Seats
from .exhibits import Shown
from .reading import Given, Run
from .report import Ref

T = TypeVar("T", bound=Statement)
MOST_REFS: Final = 256
"""Entries that one finding, cell or line names."""


@dataclass(frozen=True)
class At:
    """One entry of one ledger."""

    party: str
    sequence: int
    entry: LedgerEntry

    @property
    def ref(self) -> Ref:
        """As a report names it."""
        return Ref(self.party, self.sequence)


def refs(places: Iterable[At]) -> tuple[Ref, ...]:
    """Return entries as a report names them, the first `MOST_REFS`."""
    return tuple(at.ref for at in list(places)[:MOST_REFS])


@dataclass
class Facts:
    """Everything a check may ask.

    `entries` are those under the charter of the audit; what is found by party or subject is of any.
    """

    run: Run
    charter: Charter
    seats: Seats
    entries: list[At] = field(default_factory=list)
    by_party: dict[str, list[At]] = field(default_factory=lambda: defaultdict(list))
    by_open_round: dict[bytes, list[At]] = field(default_factory=lambda: defaultdict(list))
    by_subject: dict[bytes, list[At]] = field(default_factory=lambda: defaultdict(list))
    by_act: dict[tuple[str, Act, bytes], list[At]] = field(default_factory=lambda: defaultdict(list))
    """By party, act and subject: a ledger may have any number of entries about one subject."""
    shown: dict[bytes, list[Shown]] = field(default_factory=lambda: defaultdict(list))
    """By subject: what is signed, by each of its signers."""
    holders_of: dict[tuple[bytes, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """By subject and signer: beside whose ledgers it lies."""
    by_kind: dict[type, list[Shown]] = field(default_factory=lambda: defaultdict(list))
    by_question: dict[tuple[type, bytes], list[Shown]] = field(default_factory=lambda: defaultdict(list))
    questions: dict[bytes, OpenRound] = field(default_factory=dict)
    """By digest, in the order of session (as first seen), round and attempt."""

    @property
    def given(self) -> dict[str, Given]:
        """The ledgers that can be used, by party."""
        return self.run.given

    def of(self, kind: type[T], *, cosigned: bool = False) -> Iterator[tuple[Shown, T]]:
        """Yield every statement of a kind that its own signer made, or with `cosigned` that others signed too."""
        for shown in self.by_kind.get(kind, ()):
            if isinstance(shown.content, kind) and shown.own is not cosigned:
                yield shown, shown.content

    def about(self, kind: type[T], open_round: bytes, *, cosigned: bool = False) -> list[tuple[Shown, T]]:
        """Return the statements of a kind about one question."""
        found = self.by_question.get((kind, open_round), ())
        return [(each, each.content) for each in found if isinstance(each.content, kind) and each.own is not cosigned]

    def heads(self) -> Iterator[tuple[Shown, Header]]:
        """Yield every head of an envelope."""
        for shown in self.by_kind.get(Header, ()):
            if isinstance(shown.content, Header):
                yield shown, shown.content

    def add(self, shown: Shown) -> None:
        """Take in something that a party signed."""
        self.shown[shown.subject].append(shown)
        self.by_kind[type(shown.content)].append(shown)
        open_round = getattr(shown.content, "open_round", None)
        if open_round is not None:
            self.by_question[type(shown.content), open_round].append(shown)

    def entries_of(self, party: str) -> list[At]:
        """Return a party's entries, in order."""
        return self.by_party.get(party, [])

    def of_question(self, open_round: bytes) -> list[At]:
        """Return the entries that belong to one question."""
        return self.by_open_round.get(open_round, [])

    def noted(self, party: str, subject: bytes, *acts: Act) -> list[At]:
        """Return a party's entries of these acts about one subject."""
        return [at for act in acts for at in self.by_act.get((party, act, subject), ())]

    def has_noted(self, party: str, subject: bytes, *acts: Act) -> bool:
        """Whether a party has an entry of one of these acts about a subject."""
        return any((party, act, subject) in self.by_act for act in acts)

    def header(self, subject: bytes | None) -> Header | None:
        """Return the header that an entry names, if it lies beside any ledger."""
        for shown in self.shown.get(subject or b"", ()):
            if isinstance(shown.content, Header):
                return shown.content
        return None

    def acts(self, act: Act, *data: DataClass) -> Iterator[At]:
        """Yield the entries of an act on these classes."""
        return (at for at in self.entries if at.entry.act is act and at.entry.data in data)

    def checkpoints_of(self, party: str) -> list[tuple[Shown, Checkpoint]]:
        """Return the checkpoints of a party that lie beside any ledger."""
        return [pair for pair in self.of(Checkpoint) if pair[1].party == party]

    def question_of(self, entry: LedgerEntry) -> OpenRound | None:
        """Return the question an entry belongs to, if anybody has it."""
        return self.questions.get(entry.open_round or b"")


def join(run: Run) -> Facts:
    """Return the facts of a run."""
    facts = Facts(run, run.charter, Seats(run.charter))
    for name, given in run.given.items():
        for sequence, entry in enumerate(given.entries):
            at = At(name, sequence, entry)
            facts.by_party[name].append(at)
            if entry.subject is not None:
                facts.by_subject[entry.subject].append(at)
                facts.by_act[name, entry.act, entry.subject].append(at)
            if entry.charter != run.charter.digest:
                continue
            facts.entries.append(at)
            if entry.open_round is not None:
                facts.by_open_round[entry.open_round].append(at)
        for shown in given.shown:
            key = shown.subject, shown.signer
            if not facts.holders_of[key]:
                facts.add(shown)
            facts.holders_of[key].add(name)
    asked = [(shown.subject, question) for shown, question in facts.of(OpenRound)]
    first = {question.session: place for place, (_, question) in reversed(list(enumerate(asked)))}
    asked.sort(key=lambda pair: (first[pair[1].session], pair[1].round, pair[1].attempt))
    facts.questions = dict(asked)
    return facts
