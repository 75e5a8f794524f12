"""What a model owner must not forget: its session, and the question that is open with the key to its answer.

The key is the one secret any journal holds. It is there from before the question is sent until the aggregate is
applied and checkpointed: without it a crash in between would lose a round that the secure worker has released.
"""

from typing import ClassVar

from ..crypto.sealing import RoundKey
from ..protocol.charter import Charter, Role
from ..protocol.journal import Entry, Journal, Write
from ..protocol.messages import OpenRound, Signed
from ..protocol.statements import open_signed


class SessionKept(Entry, frozen=True):
    """The session that is open; one that came to its end stays until the next, to say goodbye again."""

    kind: ClassVar[str] = "session"

    charter: bytes
    owner_nonce: bytes
    holder_nonces: tuple[bytes, ...]


class QuestionKept(Entry, frozen=True):
    """The question that is open, and the private half of its key."""

    kind: ClassVar[str] = "question"

    open_round: Signed
    secret: bytes

    def __repr__(self) -> str:
        return "QuestionKept()"


class AbortKept(Entry, frozen=True):
    """The abort with which a session ended."""

    kind: ClassVar[str] = "abort"

    abort: Signed


class Memory:
    """The model owner's side of the journal."""

    def __init__(self, charter: Charter, journal: Journal) -> None:
        self._charter = charter
        self._journal = journal

    def session(self) -> SessionKept | None:
        """Return the session an earlier process had open, if it is one of this charter."""
        kept = self._journal.read(SessionKept)
        return kept if kept is not None and kept.charter == self._charter.digest else None

    def question(self) -> tuple[OpenRound, Signed, RoundKey] | None:
        """Return the question an earlier process had open, and the key to its answer."""
        kept = self._journal.read(QuestionKept)
        if kept is None:
            return None
        question = open_signed(self._charter, kept.open_round, OpenRound, Role.MODEL_OWNER)
        return question, kept.open_round, RoundKey(kept.secret)

    def open_session(self, owner_nonce: bytes, holder_nonces: tuple[bytes, ...]) -> None:
        """Note a session, before anything is asked in it."""
        kept = SessionKept(self._charter.digest, owner_nonce, holder_nonces)
        self._journal.write(Write.SESSION_OPENED, kept, forget=(QuestionKept, AbortKept), scrub=True)

    def sign_question(self, signed: Signed, key: RoundKey) -> None:
        """Note a question and the key to its answer, before it is sent; the attempt before it is forgotten."""
        self._journal.write(Write.QUESTION_SIGNED, QuestionKept(signed, key.secret))

    def take_step(self) -> None:
        """Forget question and key: the aggregate is applied and checkpointed."""
        self._journal.write(Write.STEP_TAKEN, forget=(QuestionKept,), scrub=True)

    def end_session(self, abort: Signed) -> None:
        """Note that the session ended in this abort, before anybody is told; forget what was open in it."""
        self._journal.write(Write.SESSION_ENDED, AbortKept(abort), forget=(SessionKept, QuestionKept), scrub=True)
