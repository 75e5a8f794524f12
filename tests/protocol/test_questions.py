"""Signed statements, and what every recipient holds an OpenRound and the offers for it to."""

import contextlib
import os
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import BadRecipientKey, BadSignature, Misbehaviour
from tertium.crypto.identity import Identity
from tertium.crypto.ring import Plan
from tertium.protocol import limits
from tertium.protocol.charter import Role
from tertium.protocol.errors import (
    MalformedMessage,
    NotInCharter,
    NotInCohort,
    SplitView,
    WrongCharter,
    WrongOpenRound,
    WrongPlan,
    WrongRole,
    WrongRound,
    WrongSession,
)
from tertium.protocol.messages import Abort, Cause, Decline, OpenRound, Purpose, RoundOffer, Signed
from tertium.protocol.seats import Seats
from tertium.protocol.session import HolderSession, check_offer, check_question, session_id
from tertium.protocol.statements import open_signed, sign, statement_digest
from tertium.protocol.training import TrainingPlan, WeightRule

World = Any


def decline(party: str = "alice") -> Decline:
    return Decline(open_round=bytes(32), party=party)


def test_a_statement_opens_as_it_was_signed(world: World) -> None:
    signed = sign(world.identities["alice"], decline())
    assert open_signed(world.charter, signed, Decline) == decline()
    assert open_signed(world.charter, signed, Decline, Role.DATA_OWNER, Role.EVALUATOR) == decline()


def test_a_strangers_key_is_refused(world: World) -> None:
    with pytest.raises(BadSignature):
        open_signed(world.charter, sign(Identity.generate("alice"), decline()), Decline)


def test_a_party_not_in_the_charter_is_refused(world: World) -> None:
    with pytest.raises(NotInCharter):
        open_signed(world.charter, sign(Identity.generate("mallory"), decline()), Decline)


def test_a_party_in_the_wrong_role_is_refused_before_its_signature_is_looked_at(world: World) -> None:
    signed = msgspec.structs.replace(sign(world.identities["judge"], decline()), signature=bytes(64))
    with pytest.raises(WrongRole):
        open_signed(world.charter, signed, Decline, Role.DATA_OWNER)


def test_another_partys_signature_is_refused(world: World) -> None:
    signed = sign(world.identities["alice"], decline())
    with pytest.raises(BadSignature):
        open_signed(world.charter, Signed("bob", signed.statement, signed.signature), Decline)


@pytest.mark.parametrize("at", [0, 10, -1])
def test_an_altered_statement_is_refused(world: World, at: int) -> None:
    signed = sign(world.identities["alice"], decline())
    content = bytearray(signed.statement)
    content[at] ^= 1
    with pytest.raises(BadSignature):
        open_signed(world.charter, msgspec.structs.replace(signed, statement=bytes(content)), Decline)


def test_a_statement_of_one_kind_is_not_one_of_another(world: World) -> None:
    signed = sign(world.identities["owner"], world.question)
    with pytest.raises(BadSignature):
        open_signed(world.charter, signed, Decline)
    assert statement_digest(OpenRound, signed) != statement_digest(Decline, signed)


def test_a_signed_statement_that_is_none_is_malformed(world: World) -> None:
    alice = world.identities["alice"]
    signed = Signed("alice", b"garbage", alice.sign(Decline.label, b"garbage"))
    with pytest.raises(MalformedMessage, match="alice"):
        open_signed(world.charter, signed, Decline)


# --- questions


def test_an_honest_question_is_admitted(world: World) -> None:
    check_question(world.charter, Seats(world.charter), world.question)
    check_question(world.charter, Seats(world.charter), world.ask(purpose=Purpose.EVALUATE, cohort=("judge",)))


OTHER_PLAN = Plan.fit(cohort=30, max_weight=1, value_range=2.0, precision=1e-3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"charter": bytes(32)}, WrongCharter),
        ({"session": bytes(32)}, WrongSession),
        ({"owner_nonce": bytes(32)}, WrongSession),
        ({"plan": OTHER_PLAN}, WrongPlan),
        ({"weight_rule": WeightRule.EXAMPLES}, WrongPlan),
        ({"training": TrainingPlan(task="task", epochs=101)}, WrongPlan),
        ({"training": TrainingPlan(task="task", epochs=0, batches=10_001)}, WrongPlan),
        ({"attempt": limits.ATTEMPTS}, WrongRound),
        ({"cohort": ("alice", "bob", "mallory")}, NotInCohort),
        ({"cohort": ("alice", "bob", "judge")}, NotInCohort),
        ({"cohort": ("alice", "bob", "owner")}, NotInCohort),
        ({"cohort": ("alice", "bob")}, NotInCohort),
        ({"cohort": ()}, NotInCohort),
        ({"purpose": Purpose.EVALUATE}, NotInCohort),
        ({"purpose": Purpose.EVALUATE, "cohort": ("alice",)}, NotInCohort),
        ({"purpose": Purpose.EVALUATE, "cohort": ()}, NotInCohort),
    ],
)
def test_a_question_that_does_not_agree_is_refused(
    world: World, changes: dict[str, Any], error: type[Misbehaviour]
) -> None:
    with pytest.raises(error) as caught:
        check_question(world.charter, Seats(world.charter), world.ask(**changes))
    assert caught.value.party == "owner"


@pytest.mark.parametrize(("tasks", "refused"), [(("other",), True), (("other", "task"), False)])
def test_a_task_the_charter_does_not_list_is_refused(world: World, tasks: tuple[str, ...], refused: bool) -> None:
    rules = world.charter.rules
    listing = msgspec.structs.replace(rules, training=msgspec.structs.replace(rules.training, tasks=tasks))
    charter = msgspec.structs.replace(world.charter, rules=listing)
    nonces = os.urandom(32), (os.urandom(32),)
    session = session_id(charter.digest, *nonces)
    question = world.ask(charter=charter.digest, session=session, owner_nonce=nonces[0], holder_nonces=nonces[1])
    with pytest.raises(WrongPlan, match="task") if refused else contextlib.nullcontext():
        check_question(charter, Seats(charter), question)


@pytest.mark.parametrize("holders", [(), ("alice",), ("other",), ("third", "other")])
def test_other_holders_than_the_charters_are_refused(world: World, holders: tuple[str, ...]) -> None:
    nonces = tuple(os.urandom(32) for _ in holders)
    owner_nonce = os.urandom(32)
    question = world.ask(
        holders=holders,
        holder_nonces=nonces,
        owner_nonce=owner_nonce,
        session=session_id(world.charter.digest, owner_nonce, nonces),
    )
    with pytest.raises(WrongPlan):
        check_question(world.charter, Seats(world.charter), question)


# --- offers


def aborted(world: World, signer: str = "third", **changes: Any) -> Signed:
    """The secure worker's abort of the attempt before the world's question, but for what is said otherwise."""
    said = {
        "session": world.question.session,
        "round": world.question.round,
        "attempt": world.question.attempt - 1,
        "party": "third",
        "cause": Cause.LOCAL,
        "text": "restarted",
    }
    return sign(world.identities[signer], Abort(**{**said, **changes}))


def offered(world: World, signer: str = "third", **changes: Any) -> Signed:
    said = {"open_round": world.name, "holder": "third", "key": world.third_key.public, "aborted": aborted(world)}
    return sign(world.identities[signer], RoundOffer(**{**said, **changes}))


def test_an_honest_offer_is_taken_with_its_abort(world: World) -> None:
    offer, abort = check_offer(world.charter, world.question, world.name, "third", offered(world))
    assert (offer.key, abort.attempt) == (world.third_key.public, 0)


@pytest.mark.parametrize(
    ("abort", "error"),
    [
        ({"party": "other"}, SplitView),
        ({"session": bytes(32)}, SplitView),
        ({"round": 1}, SplitView),
        ({"attempt": 1}, SplitView),
        ({"signer": "alice"}, WrongRole),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value.__name__,
)
def test_an_offer_with_the_abort_of_something_else_is_refused(
    world: World, abort: dict[str, Any], error: type[Misbehaviour]
) -> None:
    signed = offered(world, aborted=aborted(world, **abort))
    with pytest.raises(error):
        check_offer(world.charter, world.question, world.name, "third", signed)


def test_another_attempt_shows_the_abort_of_the_one_before_and_the_first_shows_none(world: World) -> None:
    first = msgspec.structs.replace(world.question, attempt=0)
    for question, abort in ((world.question, None), (first, aborted(world))):
        with pytest.raises(SplitView):
            check_offer(world.charter, question, world.name, "third", offered(world, aborted=abort))


@pytest.mark.parametrize(
    ("changes", "peer", "error"),
    [
        ({"holder": "alice"}, "third", WrongOpenRound),
        ({"holder": "alice"}, "alice", WrongOpenRound),
        ({"open_round": bytes(32)}, "third", WrongOpenRound),
        ({"key": bytes(1216)}, "third", BadRecipientKey),
        ({"signer": "alice", "holder": "alice"}, "alice", WrongRole),
    ],
)
def test_an_offer_that_does_not_agree_is_refused(
    world: World, changes: dict[str, Any], peer: str, error: type[Misbehaviour]
) -> None:
    with pytest.raises(error):
        check_offer(world.charter, world.question, world.name, peer, offered(world, **changes))


def test_a_question_cannot_name_anybody_twice_or_out_of_order(world: World) -> None:
    for cohort in (("bob", "alice", "carol"), ("alice", "alice", "bob")):
        with pytest.raises(ValueError, match="cohort"):
            world.ask(cohort=cohort)


def test_a_holder_knows_its_own_session_by_its_nonce(world: World) -> None:
    question = world.question
    session = HolderSession("third", question.owner_nonce, question.holder_nonces[0])
    assert session.matches(question)
    assert not HolderSession("third", question.owner_nonce, bytes(32)).matches(question)
    assert not HolderSession("third", bytes(32), question.holder_nonces[0]).matches(question)
    assert not HolderSession("other", question.owner_nonce, question.holder_nonces[0]).matches(question)


def test_a_session_id_hangs_on_every_nonce_and_the_charter() -> None:
    one, two, three = (bytes([n]) * 32 for n in (1, 2, 3))
    ids = {
        session_id(one, two, [three]),
        session_id(two, two, [three]),
        session_id(one, three, [three]),
        session_id(one, two, [two]),
        session_id(one, two, [three, three]),
        session_id(one, two, []),
    }
    assert len(ids) == 6
