"""What a secure worker checks before it consents to a round, and before it makes room for an upload. Numbered.

A question (`OpenRound`):
 1. signed by the charter's model owner, decoded canonically
 2. of our charter
 3. of the session that our own nonce went into
 4. of a later round than the last released, or a later attempt at the one that is open; or the last one again
 5. the only one this model owner signed for that round and attempt, and every attempt at a round asks the same: two
    questions are evidence, and get no aggregate
 6. for training, held by secure workers of the charter, no fewer than its scheme needs, and by us
 7. a cohort of data owners of the charter, no smaller than the minimum
 8. the charter's plan, weight rule and limits
 9. a vector we have room for
10. a key the aggregate can be sealed to

An upload (`Ready`), after the numbered steps of `exchange.examine`, which come first:
 1. from a data owner
 2. while the round collects
 3. from one the cohort names, that has not declined
 4. whose header lists one commitment a recipient of a share of it (`seats.recipients`), and its own at our place
 5. with the receipt of every other holder, if this secure worker counts it (`seats.counting`), and else with none
 6. each of the commitment that the header lists for that holder, and of that very list
 7. that has no receipt yet
The body's bytes then come in under a ticket (the lanes), credit (`transfers`), and are added only after the whole body
and its commitment are authentic (`sealing.BodyOpener`).
"""

from ..crypto.sealing import check_public_key
from ..protocol.charter import Charter, Role
from ..protocol.errors import IllegalMessage, OversizedClaim, SplitView, WrongRound, WrongSession
from ..protocol.messages import OpenRound, Purpose, Signed
from ..protocol.seats import Seats
from ..protocol.session import check_question, question_digest
from ..protocol.statements import open_signed, statement_digest
from ..protocol.vector import vector_bytes
from .memory import Memory


def admit_question(
    charter: Charter, seats: Seats, memory: Memory, room: int, signed: Signed
) -> tuple[OpenRound, bytes]:
    """Return the question and its digest; raises the named error of the first check that fails.

    `room` is how long a summed vector may be, in bytes. A question that is the last one again passes.
    """
    owner = charter.model_owner.name
    question = open_signed(charter, signed, OpenRound, Role.MODEL_OWNER)  # 1
    name = statement_digest(OpenRound, signed)
    check_question(charter, seats, question)  # 2, 3, 6, 7, 8: what data owners check too
    if memory.session is None or not memory.session.matches(question):  # 3
        raise WrongSession("asks in another session than the one our nonce opened", party=owner)
    if memory.session.holder not in question.present:  # 6
        raise IllegalMessage("asks a secure worker that its question does without", party=owner)
    last = memory.question
    if last is not None and name != memory.open_round:
        asked, latest = (question.round, question.attempt), (last.round, last.attempt)
        if asked < latest or (question.round == last.round and memory.released):  # 4
            raise WrongRound(f"asks for round {question.round} after round {last.round}", party=owner)
        if asked == latest:  # 5
            raise SplitView(f"signed two different questions for round {question.round}", party=owner)
        if question.round == last.round and question_digest(question) != question_digest(last):
            raise SplitView(f"asks something else in another attempt at round {question.round}", party=owner)
    if question.round < 1:  # 4
        raise WrongRound("asks for round 0; rounds count from 1", party=owner)
    if question.purpose is not Purpose.TRAIN:  # 6
        raise IllegalMessage("asks a secure worker to evaluate", party=owner)
    if vector_bytes(question) > room:  # 9
        raise OversizedClaim(f"asks for sums of {vector_bytes(question)} bytes; there is room for {room}", party=owner)
    check_public_key(question.owner_key, party=owner)  # 10
    return question, name
