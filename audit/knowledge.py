"""What each party has on record of whom: accesses for the matrix, and sums for the rank test.

Rules of the file:
- An access is a fact of one ledger, or of a signature: a receipt says that its signer opened what it is for, and the
  model owner's account of a check with a fingerprint in it that it has the sum. A ledger that lacks the entry, or has
  another in its place, takes nothing of that away.
- What one party notes of others' sums is held against what was signed of them: a model owner cannot have data owners
  know a sum over a set that no secure worker closed.
- A sum is known to whoever opened it, put it together from enough totals, or opened a model that was made with it.
- Where a party's ledger was not given, the entries at the other end and signatures stand for it, and the row says so.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..protocol.check_messages import SumCheck
from ..protocol.ledger import Act, DataClass, LedgerEntry
from ..protocol.messages import CloseList, OpenRound, Purpose, Receipt
from .facts import MOST_REFS, At, Facts
from .rank import Form
from .report import Level


@dataclass(frozen=True)
class Sum:
    """A sum that a party knows, and from which model its updates are."""

    model: bytes
    round: int
    form: Form
    places: tuple[At, ...] = field(compare=False)
    through_model: bool = False
    """Whether it knows the sum only as the step between two models."""


@dataclass(frozen=True)
class Key:
    """What one access is of; accesses of one key are one line of a cell."""

    whose: str
    data: DataClass
    level: Level
    part: int | None = None
    of: int | None = None
    count: int = 0


@dataclass
class Knowledge:
    """What one party has on record."""

    party: str
    access: dict[str, dict[Key, list[At]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """By data owner."""
    shares: dict[tuple[str, bytes], dict[int, At]] = field(default_factory=lambda: defaultdict(dict))
    """By data owner and question: which shares it opened, by the scheme's number."""
    plain: dict[tuple[str, bytes], At] = field(default_factory=dict)
    """By data owner and model: an update it opened."""
    sums: dict[tuple[bytes, Form], Sum] = field(default_factory=dict)

    def take(self, key: Key, places: Iterable[At]) -> None:
        """Take in entries that show one access."""
        self.access[key.whose][key].extend(places)


def gather(facts: Facts) -> dict[str, Knowledge]:
    """Return what every party has on record."""
    out = {party.name: Knowledge(party.name) for party in facts.charter.parties}
    owners = {party.name for party in facts.charter.data_owners}
    for at in facts.entries:
        if at.entry.whose and not owners.issuperset(at.entry.whose):
            continue  # of nobody who has an update, which is a violation of its own
        _take(facts, out[at.party], at, at.entry)
        other = at.entry.peer
        if at.entry.act is Act.SENT and other is not None and other in out and other not in facts.given:
            _received(out[other], at, at.entry)
    _receipts(facts, out)
    _totals(facts, out)
    _checks(facts, out)
    _models(facts, out)
    return out


def _take(facts: Facts, known: Knowledge, at: At, entry: LedgerEntry) -> None:
    match entry.act:
        case Act.RECEIVED:
            _received(known, at, entry)
        case Act.OPENED:
            _opened(facts, known, at, entry)
        case Act.DERIVED | Act.STORED:
            if entry.data is DataClass.AGGREGATE:
                _learn_sum(facts, known, at, entry)
            elif entry.data is DataClass.UPDATE:
                _opened(facts, known, at, entry)


_SEALED = frozenset({DataClass.UPDATE, DataClass.SHARE, DataClass.SEED, DataClass.AGGREGATE, DataClass.MASK})


def _received(known: Knowledge, at: At, entry: LedgerEntry) -> None:
    empty = entry.payload == 0 and entry.data is not DataClass.MASK
    if entry.data not in _SEALED or empty:
        return  # a secure worker without a seat gets an envelope with nothing in it
    count = len(entry.whose) if entry.data is DataClass.AGGREGATE else 0
    part, of = _part(entry)
    for name in entry.whose:
        known.take(Key(name, entry.data, Level.CIPHERTEXT, part, of, count), (at,))


def _part(entry: LedgerEntry) -> tuple[int | None, int | None]:
    return (None, None) if entry.part is None else (entry.part.index + 1, entry.part.of)


def _opened(facts: Facts, known: Knowledge, at: At, entry: LedgerEntry) -> None:
    part, of = _part(entry)
    question = facts.question_of(entry)
    match entry.data:
        case DataClass.UPDATE:
            known.take(Key(entry.whose[0], entry.data, Level.PLAINTEXT), (at,))
            known.plain.setdefault((entry.whose[0], _model(entry, question)), at)
        case DataClass.SHARE | DataClass.SEED:
            if entry.part is not None:
                known.take(Key(entry.whose[0], entry.data, Level.SHARE, part, of), (at,))
                known.shares[entry.whose[0], entry.open_round or b""][entry.part.index] = at
        case DataClass.MASK:
            known.take(Key(entry.whose[0], entry.data, Level.PLAINTEXT), (at,))
        case DataClass.AGGREGATE:
            if entry.part is None:
                _learn_sum(facts, known, at, entry)
                return
            for name in entry.whose:
                # One holder's total is a share of the sum: by itself it says nothing of it.
                known.take(Key(name, entry.data, Level.SHARE, part, of, len(entry.whose)), (at,))


def _model(entry: LedgerEntry, question: OpenRound | None) -> bytes:
    """Return the model an update is of; where no question says it, the update stands for itself."""
    return question.model if question is not None else entry.open_round or b""


def _learn_sum(facts: Facts, known: Knowledge, at: At, entry: LedgerEntry, *, through_model: bool = False) -> None:
    question = facts.question_of(entry)
    _add_sum(known, Sum(_model(entry, question), entry.round, frozenset(entry.whose), (at,), through_model))


def _add_sum(known: Knowledge, learnt: Sum) -> None:
    data = DataClass.MODEL if learnt.through_model else DataClass.AGGREGATE
    for name in sorted(learnt.form):
        known.take(Key(name, data, Level.AGGREGATE, count=len(learnt.form)), learnt.places)
    known.sums.setdefault((learnt.model, learnt.form), learnt)


def _receipts(facts: Facts, out: dict[str, Knowledge]) -> None:
    """Let a receipt stand for the entry of a holder that has none of that: it opened what the receipt names."""
    for shown, receipt in facts.of(Receipt):
        question = facts.questions.get(receipt.open_round)
        if question is None or receipt.contributor not in question.cohort:
            continue
        content = facts.seats.content(question, receipt.contributor, receipt.holder)
        if _is_on_record(facts, receipt, content.data):
            continue
        places = facts.by_subject.get(shown.subject, [])
        known = out[receipt.holder]
        for at in places[:1]:
            if content.data is DataClass.UPDATE:
                known.take(Key(receipt.contributor, content.data, Level.PLAINTEXT), (at,))
                known.plain.setdefault((receipt.contributor, question.model), at)
            elif content.part is not None:
                part, of = content.part.index + 1, content.part.of
                known.take(Key(receipt.contributor, content.data, Level.SHARE, part, of), (at,))
                known.shares[receipt.contributor, receipt.open_round][content.part.index] = at


def _is_on_record(facts: Facts, receipt: Receipt, data: DataClass) -> bool:
    """Whether the holder's own ledger says of the opening what its receipt says."""
    said = facts.charter.digest, receipt.open_round, data, (receipt.contributor,)
    return any(
        (at.entry.charter, at.entry.open_round, at.entry.data, at.entry.whose) == said
        for at in facts.noted(receipt.holder, receipt.header, Act.OPENED)[:MOST_REFS]
    )


def _totals(facts: Facts, out: dict[str, Knowledge]) -> None:
    """Have whoever opened enough holders' totals over one set know the sum."""
    seats = facts.seats
    for known in out.values():
        found: dict[tuple[bytes, tuple[str, ...]], dict[int, At]] = defaultdict(dict)
        for at in facts.entries_of(known.party):
            entry = at.entry
            if entry.charter != facts.charter.digest:
                continue
            if entry.act is Act.OPENED and entry.data is DataClass.AGGREGATE and entry.part is not None:
                found[entry.open_round or b"", entry.whose][entry.part.index] = at
        for (open_round, whose), totals in found.items():
            own = seats.index(known.party)
            kept = own is None or all(own in known.shares[name, open_round] for name in whose)
            if len(totals) >= seats.enough and kept:
                at = next(iter(totals.values()))
                model = _model(at.entry, facts.questions.get(open_round))
                _add_sum(known, Sum(model, at.entry.round, frozenset(whose), tuple(totals.values())))


def _checks(facts: Facts, out: dict[str, Knowledge]) -> None:
    """Let the fingerprint of a sum, in the model owner's signed account, stand for its entry that it has the sum."""
    for shown, check in facts.of(SumCheck):
        question = facts.questions.get(check.open_round)
        places = facts.by_subject.get(shown.subject, [])[:1]
        if check.fingerprint is None or question is None or not places:
            continue
        known = out[shown.signer]
        if any(model == question.model for model, _ in known.sums):
            continue
        # Which of several sets it was, the account does not say, and one stands for having had any.
        for whose in _closed(facts, check.open_round)[:1]:
            _add_sum(known, Sum(question.model, question.round, frozenset(whose), tuple(places)))


def _models(facts: Facts, out: dict[str, Knowledge]) -> None:
    """Have whoever opened a model know the sum it was made with: the step from the model before, which all had."""
    made = _made_with(facts)
    for at in facts.acts(Act.OPENED, DataClass.MODEL):
        question = facts.question_of(at.entry)
        step = made.get(question.model) if question is not None else None
        if step is not None:
            _add_sum(out[at.party], Sum(step.model, step.round, step.form, (at, *step.places), through_model=True))


def _made_with(facts: Facts) -> dict[bytes, Sum]:
    """Return, by model, the sum it was made with: from the owner's ledger, else from the round asked before."""
    made: dict[bytes, Sum] = {}
    owner = facts.charter.model_owner.name
    entries = facts.entries_of(owner)
    for at in entries:
        if at.entry.act is not Act.DERIVED or at.entry.data is not DataClass.MODEL or at.entry.subject is None:
            continue
        for source in at.entry.derived_from:
            entry = entries[source].entry
            if entry.data is DataClass.AGGREGATE:
                model = _model(entry, facts.question_of(entry))
                closed = _closed(facts, entry.open_round or b"")
                whose = entry.whose if entry.whose in closed else next(iter(closed), entry.whose)
                made[at.entry.subject] = Sum(model, entry.round, frozenset(whose), (at,))
    if owner in facts.given:
        return made
    trained = [(name, asked) for name, asked in facts.questions.items() if asked.purpose is Purpose.TRAIN]
    for (name, before), (_, after) in itertools.pairwise(trained):
        whose = next(iter(_closed(facts, name)), ())
        if whose and after.model != before.model:
            made.setdefault(after.model, Sum(before.model, before.round, frozenset(whose), ()))
    return made


def _closed(facts: Facts, open_round: bytes) -> list[tuple[str, ...]]:
    """Return the sets that secure workers closed a question with, as far as they are of data owners."""
    owners = {party.name for party in facts.charter.data_owners}
    found = (close.contributors for _, close in facts.about(CloseList, open_round))
    return list(dict.fromkeys(each for each in found if owners.issuperset(each)))
