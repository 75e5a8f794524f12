"""Who holds which share of a contribution, which of them counts it, and in which order they get it.

A scheme numbers its holders and says what each is (`Scheme.seats`); a charter names parties. Secure workers take their
seats in the order of the charter, and the model owner takes the one that is for it, if there is one. A secure worker
for which the scheme has no seat (in `plain`) gets an empty share.

One secure worker *counts* a contribution: it gets its share last, together with the receipts of all other holders, and
lists it as a contributor. So whoever is listed has its share at every holder, and a data owner that vanishes half way
is in no sum, without any holder having to take anything back. Which one it is follows from the question alone: one
whose share is a vector, in turn, so that seeds travel first and the load goes round.

A question says which secure workers take part in an attempt (`OpenRound.present`). They are never fewer than the
`quorum` q, and a total is released only over a set that q of them have signed. With m secure workers of which t can
read an update, 2q > m + t - 1: two sets that q sign each have t signers in common, so one of them is honest even where
t - 1 lie, and an honest one signs one set. `enough` of their totals then make the sum.
"""

from collections.abc import Sequence

from ..crypto.errors import Misuse
from ..crypto.labels import Buffer
from ..crypto.sharing.base import Kind, Scheme, Seat, Share
from ..crypto.sharing.registry import chartered
from ..crypto.sharing.wire import share_bytes, share_from_sections, total_bytes
from .charter_rules import Charter, Mode
from .errors import CharterError
from .ledger import Content, DataClass, Part
from .messages import OpenRound

_OF_MODE = {
    Mode.TRUSTED: "trusted",
    Mode.MASKED: "masked",
    Mode.ADDITIVE: "additive",
    Mode.SHAMIR: "shamir",
    Mode.PLAIN: "plain",
}
"""The modes that are one scheme; `shared` is any other in which all holders are secure workers."""


def scheme_of(charter: Charter) -> Scheme:
    """Return the scheme a charter names, for its secure workers.

    Raises:
        CharterError: this release has not that scheme, version or source, or it does not fit the charter's mode.
    """
    rules, named = charter.rules, charter.rules.scheme
    workers = len(charter.secure_workers)
    wanted = _OF_MODE.get(rules.mode)
    if wanted is not None and named.name != wanted:
        raise CharterError(f"rules.scheme: mode {rules.mode.value} runs the scheme {wanted}, not {named.name}")
    if wanted is None and named.name in _OF_MODE.values():
        raise CharterError(f"rules.mode: the scheme {named.name} has a mode of its own, {named.name}")
    owners = 1 if rules.mode in (Mode.MASKED, Mode.PLAIN) else 0
    holders = 1 if rules.mode is Mode.PLAIN else workers + owners
    try:
        digest = bytes.fromhex(named.digest) if named.digest is not None else None
        scheme = chartered(named.name, named.version, digest, holders, named.threshold)
    except (Misuse, ValueError) as error:
        raise CharterError(f"rules.scheme: {error}") from None
    if scheme.seats.count(Seat.MODEL_OWNER) != owners:
        raise CharterError(f"rules.mode: in mode {rules.mode.value} the scheme {named.name} seats other holders")
    return scheme


class Seats:
    """The seats of a charter's scheme."""

    def __init__(self, charter: Charter) -> None:
        """Raises `CharterError` as `scheme_of` does."""
        self.scheme = scheme_of(charter)
        self.workers = tuple(party.name for party in charter.secure_workers)
        waiting = iter(self.workers)
        owner = charter.model_owner.name
        self.holders = tuple(owner if seat is Seat.MODEL_OWNER else next(waiting) for seat in self.scheme.seats)
        """Whoever holds a share, by the scheme's number."""
        self.owner = self.holders.index(owner) if owner in self.holders else None
        """The model owner's number, if it is a holder."""
        workers, threshold = len(self.workers), self.scheme.threshold
        self.enough = threshold if self.owner is None else workers
        """How many secure workers' totals make the sum, with the model owner's own where it is a holder."""
        self.quorum = min(workers, (workers + self.enough - 1) // 2 + 1)
        """How many secure workers must take part in an attempt, and sign one set (q)."""

    def index(self, party: str) -> int | None:
        """Return a holder's number; None for a secure worker whose share is empty."""
        return self.holders.index(party) if party in self.holders else None

    def turn(self, question: OpenRound, contributor: str) -> int:
        """Return the public number by which work goes round among holders."""
        return question.cohort.index(contributor) + question.round

    def counting(self, question: OpenRound, contributor: str) -> str:
        """Return the secure worker that counts a contribution."""
        return self._counting(question, self.turn(question, contributor))

    def counted_by(self, question: OpenRound) -> dict[str, str]:
        """Return the secure worker that counts it, for everybody in the cohort."""
        turns = enumerate(question.cohort, question.round)
        return {name: self._counting(question, turn) for turn, name in turns}

    def vectors_to(self, question: OpenRound, holder: str) -> set[str]:
        """Return everybody in the cohort whose share for a holder is a vector, or has one: such a share is not kept."""
        turns = enumerate(question.cohort, question.round)
        return {name for turn, name in turns if Kind.VECTOR in self._form(holder, turn)}

    def before(self, question: OpenRound, contributor: str) -> tuple[str, ...]:
        """Return who gets a share of it before the one that counts it, in the order of the holders."""
        counting = self.counting(question, contributor)
        out = {counting, *(set(self.workers) - set(question.present))}
        return tuple(name for name in dict.fromkeys((*self.holders, *self.workers)) if name not in out)

    def recipients(self, question: OpenRound, contributor: str) -> tuple[str, ...]:
        """Return everybody who gets a share of it, in that order: the one that counts it is the last."""
        return (*self.before(question, contributor), self.counting(question, contributor))

    def share_bytes(self, question: OpenRound, contributor: str, holder: str) -> list[int]:
        """Return how long each section of a share is; none for an empty share."""
        index = self.index(holder)
        if index is None:
            return []
        return share_bytes(self.scheme, question.plan, question.words, index, self.turn(question, contributor))

    def share(self, question: OpenRound, contributor: str, holder: str, sections: Sequence[Buffer]) -> Share | None:
        """Return the share that the sections of a body hold; vectors are not copied. None for an empty one.

        Raises:
            WrongShare: the sections are not those of this share.
        """
        index = self.index(holder)
        if index is None:
            return None
        turn = self.turn(question, contributor)
        return share_from_sections(self.scheme, question.plan, question.words, index, turn, sections)

    def content(self, question: OpenRound, contributor: str, holder: str) -> Content:
        """Return what a holder's share of a contribution is, as a view ledger names it."""
        index = self.index(holder)
        if index is None:
            return Content(DataClass.SHARE, (contributor,))
        if len(self.holders) == 1:
            return Content(DataClass.UPDATE, (contributor,))
        form = self._form(holder, self.turn(question, contributor))
        data = DataClass.SHARE if Kind.VECTOR in form else DataClass.SEED
        return Content(data, (contributor,), Part(index, len(self.holders)))

    def total_content(self, contributors: tuple[str, ...], holder: str) -> Content:
        """Return what a holder's total over a set is, as a view ledger names it."""
        index = self.index(holder)
        part = None if index is None or len(self.holders) == 1 else Part(index, len(self.holders))
        return Content(DataClass.AGGREGATE, contributors, part)

    def total_bytes(self, question: OpenRound, holder: str) -> list[int]:
        """Return how long each section of a holder's released total is; none for one that holds nothing."""
        return [] if self.index(holder) is None else [total_bytes(self.scheme, question.plan, question.words)]

    def _counting(self, question: OpenRound, turn: int) -> str:
        full = [name for name in question.present if Kind.VECTOR in self._form(name, turn)] or list(question.present)
        # An auditor is shown questions that nobody took, one that asks no secure worker among them.
        full = full or list(self.workers)
        return full[turn % len(full)]

    def _form(self, holder: str, turn: int) -> tuple[Kind, ...]:
        index = self.index(holder)
        return () if index is None else self.scheme.form(index, turn)
