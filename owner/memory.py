"""What a model owner must not forget: its session, how far it came, and the question that is open, with its key.

The key is the one secret in the state of any party, and lies beside the journal (`protocol/keyslots.py`). It is there
from before the question is sent until the aggregate is applied and checkpointed: without it a crash in between would
lose a round that the secure worker has released.
"""

from typing import ClassVar

from ..crypto.errors import Misbehaviour, Misuse
from ..crypto.sealing import RoundKey
from ..protocol.charter import Charter, Role
from ..protocol.errors import JournalError
from ..protocol.journal import Entry, Journal, Write
from ..protocol.keyslots import FILE as KEY_FILE
from ..protocol.keyslots import SLOTS
from ..protocol.messages import OpenRound, Signed
from ..protocol.statements import open_signed


class SessionKept(Entry, frozen=True):
    """The session that is open; one that came to its end stays until the next, to say goodbye again."""

    kind: ClassVar[str] = "session"

    charter: bytes
    owner_nonce: bytes
    holder_nonces: dict[str, bytes]
    """By holder, in the charter's order."""


class ReachedKept(Entry, frozen=True):
    """How far the session came: after which round, with which model, and whose folder holds that model."""

    kind: ClassVar[str] = "reached"

    round: int
    model: bytes
    """Digest of the model as it was asked about, or will be."""
    folder: str
    finished: bool
    """Whether the plan has no further round."""


class CheckKept(Entry, frozen=True):
    """What came of checking the last sum: our own signed account."""

    kind: ClassVar[str] = "check"

    check: Signed


class QuestionKept(Entry, frozen=True):
    """The question that is open, and where the private half of its key is."""

    kind: ClassVar[str] = "question"

    open_round: Signed
    slot: int


class AbortKept(Entry, frozen=True):
    """The abort with which a session ended."""

    kind: ClassVar[str] = "abort"

    abort: Signed


class Memory:
    """The model owner's side of the journal."""

    def __init__(self, charter: Charter, journal: Journal) -> None:
        self._charter = charter
        self._journal = journal
        kept = journal.read(QuestionKept)
        # An earlier process may have ended before it could overwrite what it had forgotten.
        journal.slots.clear(but=None if kept is None else kept.slot)

    def session(self) -> SessionKept | None:
        """Return the session an earlier process had open, if it is one of this charter."""
        kept = self._journal.read(SessionKept)
        return kept if kept is not None and kept.charter == self._charter.digest else None

    def question(self) -> tuple[OpenRound, Signed, RoundKey] | None:
        """Return the question an earlier process had open, and the key to its answer."""
        kept = self._journal.read(QuestionKept)
        if kept is None:
            return None
        try:
            question = open_signed(self._charter, kept.open_round, OpenRound, Role.MODEL_OWNER)
        except Misbehaviour as error:
            raise JournalError(f"the journal holds a question that we did not sign: {error.reason}") from error
        try:
            key = RoundKey(self._journal.slots.get(kept.slot))
        except Misuse:
            key = None
        if key is None or key.public != question.owner_key:
            raise JournalError(
                f"the key to the answer of round {question.round} is not in {KEY_FILE} beside the journal"
            )
        return question, kept.open_round, key

    def unfinished(self) -> ReachedKept | None:
        """Return how far the session of an earlier process came, if there is more to do in it."""
        reached = self._journal.read(ReachedKept)
        if self.session() is None or reached is None:
            return None
        return None if reached.finished and self._journal.read(QuestionKept) is None else reached

    def goes_on_from(self, rounds_done: int, model: bytes, folder: str) -> bool:
        """Whether the open session is at exactly this model: what is open in it must not be mixed with another run's.

        A folder that was moved is still the same run. Where the last step is in the checkpoint and not in the journal
        yet, nothing but the folder says so.
        """
        reached = self._journal.read(ReachedKept)
        if reached is None:
            return False
        if (reached.round, reached.model) == (rounds_done, model):
            return True
        pending = self.question()
        return pending is not None and pending[0].round == rounds_done == reached.round + 1 and reached.folder == folder

    def open_session(self, owner_nonce: bytes, holder_nonces: dict[str, bytes], reached: ReachedKept) -> None:
        """Note a session, before anything is asked in it."""
        kept = SessionKept(self._charter.digest, owner_nonce, holder_nonces)
        self._journal.write(Write.SESSION_OPENED, kept, reached, forget=(QuestionKept, AbortKept))
        self._journal.slots.clear()

    def sign_question(self, signed: Signed, key: RoundKey) -> None:
        """Note a question and the key to its answer, before it is sent; the attempt before it is forgotten."""
        before = self._journal.read(QuestionKept)
        slot = 0 if before is None else (before.slot + 1) % SLOTS
        self._journal.slots.put(slot, key.secret)
        self._journal.write(Write.QUESTION_SIGNED, QuestionKept(signed, slot))
        self._journal.slots.clear(but=slot)

    def take_step(self, reached: ReachedKept, check: Signed | None = None) -> None:
        """Forget question and key: the aggregate is applied and checkpointed; `check` is what came of checking it."""
        checked = () if check is None else (CheckKept(check),)
        self._journal.write(Write.STEP_TAKEN, reached, *checked, forget=(QuestionKept,))
        self._journal.slots.clear()

    def end_session(self, abort: Signed, check: Signed | None = None) -> None:
        """Note that the session ended in this abort, before anybody is told; forget what was open in it.

        `check` is what came of checking the sum of its last round, if that is why.
        """
        checked = () if check is None else (CheckKept(check),)
        self._journal.write(Write.SESSION_ENDED, AbortKept(abort), *checked, forget=_OF_A_SESSION)
        self._journal.slots.clear()


_OF_A_SESSION: tuple[type[Entry], ...] = (SessionKept, ReachedKept, QuestionKept)
