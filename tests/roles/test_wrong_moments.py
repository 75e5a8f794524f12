"""What is said at the wrong moment: before anything was asked, about a round of the past, for what nobody waits for."""

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import BadSignature
from tertium.crypto.sealing import RoundKey
from tertium.learning.numpy_task import NumpyTask
from tertium.protocol.errors import (
    IllegalMessage,
    OversizedClaim,
    SplitView,
    WrongOpenRound,
    WrongRole,
    WrongRound,
    WrongSender,
    WrongSession,
)
from tertium.protocol.messages import (
    Closed,
    CloseList,
    Contribution,
    Evaluated,
    Evaluation,
    Fetch,
    Grant,
    Invitation,
    OfferSession,
    ProposeRound,
    SealedHead,
    SendModel,
    SessionOffer,
)
from tertium.protocol.rounds import Phase
from tertium.protocol.session import question_digest
from tertium.protocol.ticket import Ticket
from tertium.protocol.training import Score
from tertium.secure_worker.machine import SecureWorker

Maker = Any
NAMES = ("alice", "bob", "carol", "dave")
ELSEWHERE = bytes(range(32))
HEAD = SealedHead(header=b"x", wrapped_key=bytes(1168), signature=bytes(64))


def grants(subject: bytes) -> Callable[[Any], Grant]:
    return lambda _: Grant(ticket=Ticket(subject=subject, secret=bytes(16)))


def test_a_data_owner_that_was_never_asked_knows_no_round(make: Maker, still: Any) -> None:
    run = make(4, plan=make.plan(cohort=3, seed=1), machines=dict.fromkeys(NAMES, make.slow))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    (outside,) = set(NAMES) - set(run.machines["third"]._intake.question.cohort)
    at = still(run)
    contributions = tuple(Contribution(name, ELSEWHERE) for name in at.asking.question.cohort)
    close = CloseList(open_round=at.name, holder="third", contributions=contributions, declined=(), missing=())
    at.refuses((outside, "third", lambda _: Closed(close=at.by("third", close)), WrongOpenRound))
    at.refuses((outside, "owner", lambda _: Fetch(subject=ELSEWHERE), IllegalMessage))


def test_a_session_offer_that_is_not_the_secure_workers_own_answer_is_refused(make: Maker, still: Any) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["owner"].phase is Phase.OPENING)
    at, nonce = still(run), run.machines["owner"]._nonce
    run.machines["owner"].take_effects()

    def offer(signer: str, holder: str, answered: bytes = nonce) -> Callable[[Any], OfferSession]:
        said = SessionOffer(
            charter=run.charter.digest, owner_nonce=answered, holder=holder, holder_nonce=os.urandom(32)
        )
        return lambda at: OfferSession(offer=at.by(signer, said))

    at.refuses(("owner", "alice", lambda _: Fetch(subject=ELSEWHERE), WrongOpenRound))
    at.refuses(("owner", "alice", offer("alice", "alice"), WrongRole))
    at.refuses(("owner", "third", offer("third", "alice"), WrongSession))
    at.refuses(("owner", "alice", offer("third", "alice"), WrongSession))
    at.refuses(("owner", "third", offer("third", "third", ELSEWHERE), WrongSession))


def test_a_score_that_is_not_the_evaluators_own_of_this_model_is_refused(make: Maker, still: Any) -> None:
    run = make(4, evaluators={name: NumpyTask(test_examples=10) for name in ("eve", "zoe")})
    run.run(until=lambda: run.machines["owner"].phase is Phase.EVALUATING)
    run.machines["owner"].take_effects()
    score = Score(examples=10, loss=0.5)

    def scores(signer: str, party: str, where: bytes | None = None) -> Callable[[Any], Evaluated]:
        return lambda at: Evaluated(
            evaluation=at.by(signer, Evaluation(open_round=where or at.name, party=party, score=score))
        )

    at = still(run)
    at.refuses(("owner", "eve", scores("eve", "zoe"), WrongOpenRound))
    at.refuses(("owner", "eve", scores("zoe", "eve"), WrongOpenRound))
    at.refuses(("owner", "alice", scores("alice", "alice"), WrongRole))
    at.refuses(("owner", "eve", scores("eve", "eve", ELSEWHERE), WrongOpenRound))


def test_a_question_of_an_earlier_round_is_refused_by_both(make: Maker, still: Any) -> None:
    run = make(4, plan=make.plan(rounds=2), machines=dict.fromkeys(NAMES, make.slow))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    first, alice = still(run).asking, run.machines["alice"]
    run.run(until=lambda: alice.asked is not None and alice.asked.question.round == 2)
    for machine in run.machines.values():
        machine.take_effects()
    at = still(run)
    assert (first.question.round, at.asking.question.round) == (1, 2)
    old = msgspec.structs.replace(first.question, attempt=1)
    at.refuses(("third", "owner", lambda at: ProposeRound(open_round=at.by("owner", old)), WrongRound))
    again = msgspec.structs.replace(at.asking.question, model=ELSEWHERE)
    later = msgspec.structs.replace(again, attempt=1)
    key = msgspec.structs.replace(at.asking.question, owner_key=RoundKey().public)
    for question, error in ((first.question, WrongRound), (again, SplitView), (later, SplitView), (key, SplitView)):
        signed = at.by("owner", question)
        at.refuses(("alice", "owner", lambda _, it=signed: Invitation(open_round=it, offers=()), error))


def test_a_question_without_a_session_is_refused(make: Maker, still: Any) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    at = still(run)
    fresh = make(4).machines["third"]
    with pytest.raises(WrongSession, match="opened a session"):
        fresh.receive("owner", ProposeRound(open_round=at.asking.signed), 0.0)


def test_a_grant_for_a_model_that_was_not_asked_for_is_refused(make: Maker, still: Any) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["bob"].phase is Phase.RECEIVING)
    run.machines["bob"].take_effects()
    at, subject = still(run), run.machines["bob"].asked.head.subject
    at.refuses(("bob", "third", grants(subject), IllegalMessage))
    at.refuses(("bob", "owner", grants(ELSEWHERE), IllegalMessage))
    at.refuses(("bob", "third", lambda _: SendModel(head=HEAD), WrongSender))
    at.refuses(("bob", "owner", lambda _: SendModel(head=HEAD), BadSignature))


def test_the_digest_of_a_question_leaves_out_only_attempt_and_key(make: Maker, still: Any) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    question = still(run).asking.question
    same = question_digest(msgspec.structs.replace(question, attempt=2, owner_key=RoundKey().public))
    assert same == question_digest(question)
    changes = {"model": ELSEWHERE, "layout": ELSEWHERE, "round": 7, "session": ELSEWHERE, "cohort": NAMES[:3]}
    for field, value in changes.items():
        assert question_digest(msgspec.structs.replace(question, **{field: value})) != same, field


def test_a_secure_worker_that_serves_outlives_a_model_owner_that_goes(make: Maker) -> None:
    class Serves(SecureWorker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, serve=True)

    run = make(4, machines={"third": Serves})
    run.run(until=lambda: run.machines["third"].phase is Phase.RELEASED)
    run.lose("owner")
    third = run.machines["third"]
    run.run(until=lambda: third.phase is not Phase.RELEASED)
    run.clock.now += 5 * run.rules.deadlines.absence
    run.turn()
    assert third.phase is Phase.IDLE
    assert not third.finished


def test_a_question_about_more_than_there_is_room_for_is_refused_before_anything_is_made(make: Maker) -> None:
    run = make(4)
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    third, asking = run.machines["third"], run.machines["owner"]._asking
    third._room = asking.question.words * asking.question.plan.dtype.itemsize - 1
    with pytest.raises(OversizedClaim):
        third.receive("owner", ProposeRound(open_round=asking.signed), run.clock.now)
