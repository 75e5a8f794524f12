"""What a data owner or evaluator must not forget: what it answered last, what it sent, and what sums it was part of.

None of it is an update: digests and signed receipts. The vector itself is made again from the data after a restart,
and its salted digest says whether it came out the same; if not, there is no second contribution to that round.
"""

from typing import ClassVar

import msgspec

from ..protocol.charter import Charter
from ..protocol.journal import Entry, Journal, Write
from ..protocol.messages import OpenRound, Signed
from ..protocol.session import contributor_set, question_digest

KEPT = 2
"""Rounds whose contributions are remembered: a later round's record makes an earlier one's old news."""


class AnswerKept(Entry, frozen=True):
    """The invitation answered last."""

    kind: ClassVar[str] = "answer"

    session: bytes
    round: int
    attempt: int
    open_round: bytes
    question: bytes
    """What all attempts at this round ask alike (`session.question_digest`)."""
    declined: bool
    refusals: int
    """How often this site declined in this session."""


class SentKept(Entry, frozen=True):
    """A contribution that was sealed: by round, with everything holders may later be held to."""

    kind: ClassVar[str] = "sent"

    session: bytes
    round: int
    attempt: int
    open_round: bytes
    question: bytes
    model: bytes
    cohort: tuple[str, ...]
    salt: bytes
    vector: bytes
    """Salted digest of the encoded vector."""
    counting: str
    """The secure worker that counts it."""
    commitments: dict[str, tuple[bytes, ...]]
    """By holder; more than one if a restart made it seal the same vector again in the same attempt."""
    receipts: dict[str, Signed] = msgspec.field(default_factory=dict)
    recorded: tuple[str, ...] = ()
    """Holders whose record of the round came."""

    @property
    def key(self) -> bytes:
        """The attempt's OpenRound."""
        return self.open_round


class SummedKept(Entry, frozen=True):
    """A model from which this party's update went into a sum, and over which set: the second line behind the gate."""

    kind: ClassVar[str] = "summed"

    model: bytes
    session: bytes
    round: int
    contributors: bytes

    @property
    def key(self) -> bytes:
        """The model's digest."""
        return self.model


class CheckKept(Entry, frozen=True):
    """What came of checking the last sum that this party was in and heard of: the model owner's signed account."""

    kind: ClassVar[str] = "check"

    session: bytes
    round: int
    check: Signed


class AbortKept(Entry, frozen=True):
    """What this party signed when it was left alone with a round."""

    kind: ClassVar[str] = "abort"

    abort: Signed


class Memory:
    """A data owner's or evaluator's side of the journal."""

    def __init__(self, charter: Charter, journal: Journal) -> None:
        self._charter = charter
        self._journal = journal
        self.answer = journal.read(AnswerKept)
        """The invitation answered last, by this process or an earlier one."""

    # --- answering

    def take_invitation(self, question: OpenRound, open_round: bytes, *, refusals: int) -> None:
        """Note a question before it is answered: no other one is, for its round and attempt, from now on."""
        self._answer(question, open_round, declined=False, refusals=refusals)

    def decline(self, question: OpenRound, open_round: bytes, *, refusals: int) -> None:
        """Note that a question was declined, before anybody is told."""
        self._answer(question, open_round, declined=True, refusals=refusals)

    def _answer(self, question: OpenRound, open_round: bytes, *, declined: bool, refusals: int) -> None:
        kept = AnswerKept(
            question.session,
            question.round,
            question.attempt,
            open_round,
            question_digest(question),
            declined,
            refusals,
        )
        self._journal.write(Write.INVITATION_ANSWERED, kept)
        self.answer = kept

    # --- contributing

    def sent(self) -> list[SentKept]:
        """Return the contributions that are remembered, oldest first."""
        return sorted(self._journal.all(SentKept), key=lambda kept: (kept.round, kept.attempt))

    def seal_update(self, kept: SentKept) -> None:
        """Note what is about to be sent, before it is announced; contributions to long past rounds are forgotten."""
        before = self._journal.all(SentKept)
        recent = {kept.round, *(old.round for old in before if old.session == kept.session)}
        dropped = sorted(recent)[:-KEPT]
        old = [each for each in before if each.session != kept.session or each.round in dropped]
        self._journal.write(Write.UPDATE_SEALED, kept, forget=old)

    def take_receipt(self, kept: SentKept) -> None:
        """Note a receipt."""
        self._journal.write(Write.RECEIPT_TAKEN, kept)

    def take_record(self, kept: SentKept) -> None:
        """Note, with the next write, whose record came: an earlier process's is not to be missed by a later one."""
        self._journal.stage_beside(kept)

    def summed(self, model: bytes) -> SummedKept | None:
        """Return over which set a sum was made that this party's update of this model is in, if one was."""
        return self._journal.read(SummedKept, model)

    def close_set(self, sent: SentKept, contributors: tuple[str, ...]) -> None:
        """Note the set of a sum, before the statement about it is cosigned."""
        kept = SummedKept(sent.model, sent.session, sent.round, contributor_set(contributors))
        self._journal.write(Write.SET_CLOSED, kept)

    def check_sum(self, sent: SentKept, check: Signed) -> None:
        """Note what came of checking a sum."""
        self._journal.write(Write.SUM_CHECKED, CheckKept(sent.session, sent.round, check))

    def abandon(self, abort: Signed) -> None:
        """Note this party's own abort: it was left alone with a round, or with a session."""
        self._journal.write(Write.ABANDONED, AbortKept(abort))
