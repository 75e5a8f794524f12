"""What a secure worker must not forget: session, question, receipts, aborts, releases.

The total and the round key are in none of it: they live in memory, so a crash ends the attempt, and `lost_attempt` says
which one, to be signed as aborted. What was decided survives with its sealed bytes and is resent as it is.
"""

from typing import ClassVar

from ..crypto.errors import Misbehaviour
from ..protocol.charter import Charter
from ..protocol.exchange import Outgoing
from ..protocol.journal import Entry, Journal, Write
from ..protocol.messages import Abort, Contribution, OpenRound, SealedHead, Signed
from ..protocol.session import HolderSession
from ..protocol.statements import open_signed, statement_digest
from .gate import Decision, ReleaseGate


class SessionKept(Entry, frozen=True):
    """The session that is open: the model owner's nonce and ours."""

    kind: ClassVar[str] = "session"

    owner_nonce: bytes
    nonce: bytes


class QuestionKept(Entry, frozen=True):
    """The question admitted last."""

    kind: ClassVar[str] = "question"

    open_round: Signed


class ReceiptKept(Entry, frozen=True):
    """A contribution to the question admitted last that is in the total, or was when the process ended."""

    kind: ClassVar[str] = "receipt"

    party: str
    commitment: bytes

    @property
    def key(self) -> bytes:
        """The contributor."""
        return self.party.encode()


class AbortKept(Entry, frozen=True):
    """The abort signed last; the offer of the next attempt carries it."""

    kind: ClassVar[str] = "abort"

    abort: Signed


class ReleaseKept(Entry, frozen=True):
    """A release, decided or waiting for the other secure workers; its body is kept under the subject of its head."""

    kind: ClassVar[str] = "release"

    open_round: bytes
    close: Signed
    head: SealedHead
    commitment: bytes
    statement: Signed
    attested: bool = False
    decided: bool = True
    listed: Signed | None = None
    """What we counted, where others have to know it too: a model owner that was restarted passes it on again."""


class Memory:
    """The secure worker's side of the journal."""

    def __init__(self, charter: Charter, holder: str, journal: Journal) -> None:
        """Read what an earlier process left. Raises `JournalError` where it cannot be read."""
        self._charter = charter
        self._holder = holder
        self._journal = journal
        self.gate = ReleaseGate(charter, journal)
        self.session: HolderSession | None = None
        self.question: OpenRound | None = None
        """The question admitted last in this session."""
        self.open_round: bytes | None = None
        self.abort: Signed | None = None
        self.release: ReleaseKept | None = journal.read(ReleaseKept)
        session, question, abort = journal.read(SessionKept), journal.read(QuestionKept), journal.read(AbortKept)
        if session is not None:
            self.session = HolderSession(holder, session.owner_nonce, session.nonce)
        self.abort = abort.abort if abort is not None else None
        if question is not None and not self._recall(question.open_round):
            self._clear()

    def _recall(self, signed: Signed) -> bool:
        """Remember the question of an earlier process; False if it was asked under another charter: that is over."""
        try:
            self._remember(signed)
        except Misbehaviour:
            return False
        return self.question is not None and self.question.charter == self._charter.digest

    @property
    def session_id(self) -> bytes | None:
        """The session's id, once a question has told the other holders' nonces."""
        return self.question.session if self.question is not None else None

    @property
    def released(self) -> bool:
        """Whether the question admitted last has been released."""
        return self.release is not None and self.release.open_round == self.open_round and self.release.decided

    @property
    def agreed(self) -> bool:
        """Whether the question admitted last has a signed Close list, and its release waits for the others'."""
        kept = self.release
        return kept is not None and kept.open_round == self.open_round and not kept.decided and self.aborted is None

    @property
    def aborted(self) -> Signed | None:
        """Return the signed abort of the question admitted last, if its attempt has ended so."""
        question = self.question
        return None if question is None else self.abort_of(question.session, question.round, question.attempt)

    @property
    def lost_attempt(self) -> OpenRound | None:
        """Return the question an earlier process was collecting for when it ended."""
        return None if self.released or self.agreed or self.aborted is not None else self.question

    def abort_of(self, session: bytes, number: int, attempt: int) -> Signed | None:
        """Return the signed abort of this attempt, if it is the last that was signed."""
        if self.abort is None:
            return None
        said = open_signed(self._charter, self.abort, Abort)
        return self.abort if (said.session, said.round, said.attempt) == (session, number, attempt) else None

    def receipted(self) -> tuple[Contribution, ...]:
        """Return whose contribution to the question admitted last has a receipt."""
        return tuple(Contribution(kept.party, kept.commitment) for kept in self._journal.all(ReceiptKept))

    # --- writing

    def offer_session(self, session: HolderSession) -> None:
        """Begin a session; what is left of the one before is forgotten, all but what the gate knows."""
        kept = SessionKept(session.owner_nonce, session.nonce)
        self._journal.write(Write.SESSION_OFFERED, kept, forget=_OF_A_SESSION, keep=(b"", ()))
        self._clear()
        self.session = session

    def admit_question(self, signed: Signed) -> None:
        """Note a question, before anything is offered for it."""
        self._journal.write(
            Write.QUESTION_ADMITTED, QuestionKept(signed), forget=(ReceiptKept, ReleaseKept), keep=(b"", ())
        )
        self.release = None
        self._remember(signed)

    def add_contribution(self, party: str, commitment: bytes) -> None:
        """Note a contribution, before its receipt is sent."""
        self._journal.write(Write.CONTRIBUTION_ADDED, ReceiptKept(party, commitment))

    def abort_attempt(self, abort: Signed) -> None:
        """Note that an attempt has ended, before anybody is told."""
        self._journal.write(Write.ATTEMPT_ABORTED, AbortKept(abort))
        self.abort = abort

    def agree(self, release: ReleaseKept, outgoing: Outgoing, bound: Decision | None) -> None:
        """Note a set and the sealed bytes of its total, before the others are told that we have closed over it.

        With `bound`, the gate lets no other set of this model pass from now on, in whatever attempt or session.
        """
        entries = () if bound is None else self.gate.bind(bound)
        self._journal.write(Write.SET_AGREED, release, *entries, keep=(outgoing.subject, outgoing.records()))
        self.release = release

    def decide_release(self, decision: Decision, release: ReleaseKept, outgoing: Outgoing | None) -> None:
        """Note a release, what the gate must know and, if given, the sealed bytes, before any of it is sent."""
        keep = (outgoing.subject, outgoing.records()) if outgoing is not None else None
        self._journal.write(Write.RELEASE_DECIDED, release, *self.gate.entries(decision), keep=keep)
        self.release = release

    def attest(self) -> None:
        """Note that the round is over; the release stays, for a model owner that comes back."""
        if self.release is not None:
            kept = self.release
            over = ReleaseKept(kept.open_round, kept.close, kept.head, kept.commitment, kept.statement, attested=True)
            self._journal.write(Write.ROUND_ATTESTED, over)
            self.release = over

    def leave_session(self) -> None:
        """Forget a session that is over."""
        if self.session is not None:
            self._journal.write(Write.SESSION_LEFT, forget=_OF_A_SESSION, keep=(b"", ()))
        self._clear()

    def outgoing(self) -> Outgoing | None:
        """Return the release as it was sealed: the same bytes, however often it is sent."""
        kept = self.release
        if kept is None:
            return None
        subject, journal = kept.head.subject, self._journal
        return Outgoing(kept.head, kept.commitment, lambda: journal.body(subject))

    def _remember(self, signed: Signed) -> None:
        self.question = open_signed(self._charter, signed, OpenRound)
        self.open_round = statement_digest(OpenRound, signed)

    def _clear(self) -> None:
        self.session = self.question = self.open_round = self.abort = self.release = None


_OF_A_SESSION: tuple[type[Entry], ...] = (SessionKept, QuestionKept, ReceiptKept, AbortKept, ReleaseKept)
