"""What a secure worker checks before it consents to a round, and before it makes room for an upload. Numbered.

A question (`OpenRound`):
 1. signed by the charter's model owner, decoded canonically
 2. of our charter
 3. of the session that our own nonce went into
 4. a later round than the last released, or a later attempt at the one that is open
 5. the only one this model owner signed for that round and attempt: two are evidence, and get no aggregate
 6. for training, held by exactly the secure workers of the charter
 7. a cohort of data owners of the charter, no smaller than the minimum
 8. the charter's plan, weight rule and limits
 9. a vector we have room for
10. a key the aggregate can be sealed to

An upload (`Ready`), after the numbered steps of `exchange.examine`, which come first:
 1. from a data owner
 2. while the round collects
 3. from one the cohort names, that has not declined
 4. that has no receipt yet
The body's bytes then come in under a ticket (the lanes), credit (`transfers`), and are added only after the whole body
and its commitment are authentic (`sealing.BodyOpener`).
"""

from ..crypto.sealing import check_public_key
from ..protocol.charter import Charter, Role
from ..protocol.errors import IllegalMessage, OversizedClaim, SplitView, WrongRound, WrongSession
from ..protocol.messages import OpenRound, Purpose, Signed
from ..protocol.session import HolderSession, check_question
from ..protocol.statements import open_signed, statement_digest
from ..protocol.vector import vector_bytes


class Questions:
    """The questions one session has seen: what was asked first for each round and attempt, what was released last."""

    def __init__(self, charter: Charter, session: HolderSession, memory: int) -> None:
        self._charter = charter
        self._session = session
        self._memory = memory
        self._asked: dict[tuple[int, int], bytes] = {}
        self.released = 0
        """The last round that was released; rounds count from 1."""

    def admit(self, signed: Signed, current: OpenRound | None) -> tuple[OpenRound, bytes]:
        """Return the question and its digest; raises the named error of the first check that fails."""
        charter = self._charter
        owner = charter.model_owner.name
        question = open_signed(charter, signed, OpenRound, Role.MODEL_OWNER)  # 1
        name = statement_digest(OpenRound, signed)
        check_question(charter, question)  # 2, 3, 6, 7, 8: what data owners check too
        if not self._session.matches(question):  # 3
            raise WrongSession("asks in another session than the one our nonce opened", party=owner)
        latest = (current.round, current.attempt) if current is not None else (self.released + 1, 0)
        if question.round < 1 or (question.round, question.attempt) < latest:  # 4
            raise WrongRound(f"asks for round {question.round} after round {self.released}", party=owner)
        if self._asked.get((question.round, question.attempt), name) != name:  # 5
            raise SplitView(f"signed two different questions for round {question.round}", party=owner)
        if question.purpose is not Purpose.TRAIN:  # 6
            raise IllegalMessage("asks a secure worker to evaluate", party=owner)
        if vector_bytes(question) > self._memory:  # 9
            raise OversizedClaim(
                f"asks for sums of {vector_bytes(question)} bytes; there is room for {self._memory}",
                party=owner,
            )
        check_public_key(question.owner_key, party=owner)  # 10
        return question, name

    def record(self, question: OpenRound, name: bytes) -> None:
        """Note that this question was admitted: no other one will be for its round and attempt."""
        self._asked[(question.round, question.attempt)] = name
