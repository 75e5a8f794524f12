"""How a model owner puts a question together: whom it asks, and what exactly."""

import msgspec

from ..crypto.identity import Identity
from ..crypto.labels import Label, digest
from ..crypto.sealing import RoundKey
from ..learning.task import GlobalModel
from ..protocol.charter import Charter
from ..protocol.messages import OpenRound, Purpose, Signed
from ..protocol.session import session_id
from ..protocol.site import OwnerPlan
from ..protocol.statements import sign
from ..protocol.training import model_digest


def draw_cohort(plan: OwnerPlan, here: list[str], number: int) -> tuple[str, ...]:
    """Draw a round's cohort from who is connected, or return whose turn it is.

    By an order anybody can repeat from seed and round. It binds nobody: a model owner that wants another cohort
    can ask for one, and what holds back a sum that would isolate somebody is the secure worker's release gate.
    """
    if plan.turns:
        return tuple(sorted(plan.turns[(number - 1) % len(plan.turns)]))
    size = cohort_size(plan, number)
    if not size or size >= len(here):
        return tuple(sorted(here))
    seed, at = _seed_and_round(plan, number)
    order = sorted(here, key=lambda name: digest(Label.COHORT_SAMPLE, seed, at, name.encode()))
    return tuple(sorted(order[:size]))


def cohort_size(plan: OwnerPlan, number: int) -> int:
    """Return how many data owners round `number` asks; 0 asks all.

    With `cohort_most`, uniform over the range: 256 bits of a digest modulo its length.
    It does not depend on who is connected; where fewer are, all of them are asked.
    """
    if plan.cohort_most is None:
        return plan.cohort
    drawn = int.from_bytes(digest(Label.COHORT_SIZE, *_seed_and_round(plan, number)), "big")
    return plan.cohort + drawn % (plan.cohort_most - plan.cohort + 1)


def _seed_and_round(plan: OwnerPlan, number: int) -> tuple[bytes, bytes]:
    return plan.seed.to_bytes(8, "big"), number.to_bytes(8, "big")


def new_question(
    identity: Identity,
    charter: Charter,
    plan: OwnerPlan,
    model: GlobalModel,
    nonces: tuple[bytes, dict[str, bytes]],
    *,
    purpose: Purpose,
    number: int,
    cohort: tuple[str, ...],
    without: tuple[str, ...] = (),
) -> tuple[OpenRound, Signed, RoundKey]:
    """Return the first attempt at a question, signed, and the key to its answer.

    `nonces` are the model owner's, and by name those of the session's holders, in the charter's order.
    """
    owner_nonce, holder_nonces = nonces[0], tuple(nonces[1].values())
    training = plan.training_plan(max(number - 1, 0))
    layout, data, key = model.layout, model.to_bytes(), RoundKey()
    question = OpenRound(
        charter=charter.digest,
        session=session_id(charter.digest, owner_nonce, holder_nonces),
        round=number,
        attempt=0,
        purpose=purpose,
        owner_nonce=owner_nonce,
        holder_nonces=holder_nonces,
        model=model_digest(layout, data),
        layout=layout.digest(),
        layout_bytes=len(layout.encode()),
        model_bytes=len(data),
        coordinates=layout.coordinates(training.kind),
        plan=charter.plan,
        training=training,
        weight_rule=charter.rules.weight_rule,
        cohort=cohort,
        holders=tuple(nonces[1]),
        owner_key=key.public,
        without=without,
    )
    return question, sign(identity, question), key


def next_attempt(
    identity: Identity, question: OpenRound, without: tuple[str, ...]
) -> tuple[OpenRound, Signed, RoundKey]:
    """Return the next attempt at a question: the same but for the attempt, its holders and a fresh key."""
    key = RoundKey()
    again = msgspec.structs.replace(question, attempt=question.attempt + 1, owner_key=key.public, without=without)
    return again, sign(identity, again), key
