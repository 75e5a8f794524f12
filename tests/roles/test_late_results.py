"""What comes late or for something else: bodies, failures, results, refusals. It is passed over, not acted on."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tertium.crypto.errors import BadBody
from tertium.crypto.labels import Label
from tertium.learning.numpy_task import NumpyTask
from tertium.learning.task import ServerOptimiser
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.errors import GateShut, MalformedMessage, PeerLost, WrongModel, WrongOpenRound, WrongSender
from tertium.protocol.machine import Drop, Tell
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Closed,
    CloseList,
    Contribution,
    Declined,
    Invitation,
    Receipt,
    Receipted,
    Refusal,
    RequestCosignature,
    share_list,
)
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits
from tertium.protocol.training import Score, model_digest
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner
from tertium.workers.evaluator import Evaluator

Maker = Any
Run = Any
NAMES = ("alice", "bob", "carol", "dave")
ELSEWHERE = bytes(range(32))


class Holds(DataOwner):
    """Never hears what its training came to."""

    def worked(self, tag: str, result: Any, now: float) -> None:
        self.held = (tag, result)


class Waits(Evaluator):
    """Never hears what its evaluation came to."""

    def worked(self, tag: str, result: Any, now: float) -> None:
        self.held = (tag, result)


class Unattested(SecureWorker):
    """Never sends the record of a round."""

    def _attest(self) -> None:
        pass


def halted(make: Maker, name: str, *phases: Phase, parties: int = 4, **more: Any) -> tuple[Run, Any]:
    """A federation that stands still as soon as one party is in one of these phases, and that party."""
    run = make(parties, **more)
    run.run(until=lambda: run.machines[name].phase in phases)
    run.machines[name].take_effects()
    return run, run.machines[name]


def acted(machine: Any) -> list[Any]:
    """What a machine did, but for forgetting a transfer and telling its operator."""
    return [effect for effect in machine.take_effects() if not isinstance(effect, Drop | Tell)]


def body(open_round: bytes = ELSEWHERE, label: Label = Label.AGGREGATE) -> Any:
    """A body that is open and authentic, of this round or another."""
    return SimpleNamespace(header=SimpleNamespace(open_round=open_round, label=label), subject=ELSEWHERE)


# --- the secure worker


def test_a_body_of_an_attempt_that_is_over_is_not_added(make: Maker) -> None:
    run, third = halted(make, "third", Phase.COLLECTING)
    total = third._intake._total.copy()
    third.opened("dave", body(label=Label.CONTRIBUTION), (memoryview(bytes(total.nbytes)),), run.clock.now)
    assert not third._intake.added
    assert not acted(third)


def test_only_who_is_in_the_sum_is_asked_to_cosign_it(make: Maker) -> None:
    asked: list[str] = []

    class Third(SecureWorker):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, RequestCosignature):
                asked.append(peer)
            super().send(peer, message)

    run = make(4, machines={"third": Third}, examples=lambda at: 0 if at == 3 else 20)
    assert set(run.run().values()) == {None}
    assert sorted(asked) == ["alice", "bob", "carol", "owner"]


# --- the model owner


def test_a_total_that_comes_again_is_not_applied_again(make: Maker) -> None:
    run, owner = halted(make, "owner", Phase.RELEASED, machines={"third": Unattested})
    section = memoryview(bytes(owner._asking.question.words * 8))
    owner.opened("third", body(), (section,), run.clock.now)
    owner.transfer_failed("third", owner._asking.heads["third"].subject, PeerLost("gone"), run.clock.now)
    owner.worked(owner._asking.name.hex(), RuntimeError("late"), run.clock.now)
    assert owner.phase is Phase.RELEASED
    assert not acted(owner)


def test_a_total_of_one_that_released_nothing_is_passed_over(make: Maker) -> None:
    run, owner = halted(make, "owner", Phase.RECEIVING)
    owner.opened("alice", body(), (memoryview(b""),), run.clock.now)
    assert owner.phase is Phase.RECEIVING
    assert not owner._asking.opened
    assert owner._asking.may_fetch_again("third", ELSEWHERE, PeerLost("gone")) is None
    owner.transfer_failed("third", ELSEWHERE, BadBody("spoilt"), run.clock.now)
    assert not acted(owner)


def test_a_share_at_a_model_owner_that_holds_none_is_passed_over(make: Maker) -> None:
    run, owner = halted(make, "owner", Phase.COLLECTING)
    assert owner._intake is None
    owner.opened("alice", body(owner._asking.name, Label.CONTRIBUTION), (memoryview(bytes(32)),), run.clock.now)
    assert owner.phase is Phase.COLLECTING
    assert not acted(owner)


def test_a_share_of_another_attempt_is_not_taken_by_a_model_owner_that_holds_some(make: Maker) -> None:
    masked = make.rules(mode=Mode.MASKED, scheme=SchemeName(name="masked"))
    run, owner = halted(make, "owner", Phase.COLLECTING, rules=masked)
    taken = set(owner._intake.added)
    owner.opened("dave", body(label=Label.CONTRIBUTION), (memoryview(bytes(32)),), run.clock.now)
    assert set(owner._intake.added) == taken
    assert not acted(owner)


def test_the_result_of_another_job_is_passed_over(make: Maker) -> None:
    class Applies(ModelOwner):
        def worked(self, tag: str, result: Any, now: float) -> None:
            if self.phase is not Phase.APPLYING:
                super().worked(tag, result, now)

    run, owner = halted(make, "owner", Phase.APPLYING, machines={"owner": Applies})
    ModelOwner.worked(owner, ELSEWHERE.hex(), RuntimeError("of another round"), run.clock.now)
    assert owner.phase is Phase.APPLYING
    assert not acted(owner)


def abort_of(run: Run, still: Any, **changes: Any) -> Aborted:
    said = {"session": still.session, "round": 1, "attempt": 0, "party": "third", "cause": Cause.LOCAL, "text": "lost"}
    return Aborted(abort=still.by("third", Abort(**{**said, **changes})))


@pytest.mark.parametrize("changes", [{"round": 2}, {"attempt": 1}], ids=lambda changes: next(iter(changes)))
def test_an_abort_of_another_attempt_does_not_end_this_one(make: Maker, still: Any, changes: dict[str, int]) -> None:
    run, owner = halted(make, "owner", Phase.COLLECTING)
    asking = owner._asking
    owner.receive("third", abort_of(run, still(run), **changes), run.clock.now)
    assert owner._asking is asking
    assert owner.phase is Phase.COLLECTING
    assert not acted(owner)


def test_a_round_that_was_closed_is_not_asked_again(make: Maker, still: Any) -> None:
    run, owner = halted(make, "owner", Phase.RECEIVING)
    owner.receive("third", abort_of(run, still(run)), run.clock.now)
    assert owner.finished
    assert owner._unfinished is None


def test_a_data_owner_that_refuses_the_question_ends_nothing(make: Maker) -> None:
    run, owner = halted(make, "owner", Phase.OFFERING)
    owner.receive("alice", Refusal(code="wrong-round", about=bytes(32)), run.clock.now)
    assert not owner.finished
    assert not acted(owner)


@pytest.mark.parametrize("lost", ["bob", "third"])
def test_a_session_does_not_begin_without_those_it_needs(make: Maker, lost: str) -> None:
    run = make(3)
    run.lose(lost)
    error = str(run.run()["owner"])
    assert error.startswith("not connected within")
    assert lost in error


def test_a_model_owner_with_nothing_left_to_ask_needs_nobody_to_end(make: Maker) -> None:
    run, _ = halted(make, "owner", Phase.RELEASED, machines={"third": Unattested})
    for name in ("third", *NAMES):
        run.lose(name)
    run.restart("owner")
    assert run.run()["owner"] is None


def test_a_release_is_fetched_without_the_data_owners(make: Maker) -> None:
    run, _ = halted(make, "owner", Phase.RECEIVING)
    for name in NAMES:
        run.lose(name)
    run.restart("owner")
    assert run.run()["owner"] is None
    assert run.released == [1]


def test_a_round_does_not_time_out_while_its_secure_worker_may_come_back(make: Maker) -> None:
    deadlines = Deadlines(join=5, upload=5, close=5, release=5, statement=5, absence=60)
    run, _ = halted(make, "bob", Phase.CONTRIBUTED, machines={"dave": make.slow}, rules=make.rules(deadlines=deadlines))
    run.restart("third", after=40)
    assert run.run()["owner"] is None
    assert run.released == [1]


# --- data owners


def test_a_model_is_trained_on_once_and_only_for_its_question(make: Maker) -> None:
    run, bob = halted(make, "bob", Phase.RECEIVING)
    sections = tuple(memoryview(each) for each in (run.model.layout.encode(), run.model.to_bytes()))
    bob.opened("owner", body(), sections, run.clock.now)
    assert bob.phase is Phase.RECEIVING
    assert bob.asked.model is None
    assert not acted(bob)
    run, bob = halted(make, "bob", Phase.TRAINING, machines={"bob": Holds})
    bob.opened("owner", body(bob.asked.open_round), sections, run.clock.now)
    assert bob.phase is Phase.TRAINING
    assert not acted(bob)


def test_the_failure_of_another_transfer_is_not_the_models(make: Maker) -> None:
    run, bob = halted(make, "bob", Phase.RECEIVING)
    bob.transfer_failed("owner", ELSEWHERE, BadBody("spoilt"), run.clock.now)
    assert bob.asked.fetching
    assert not acted(bob)
    run, bob = halted(make, "bob", Phase.TRAINING, machines={"bob": Holds})
    bob.transfer_failed("owner", bob.asked.head.subject, BadBody("spoilt"), run.clock.now)
    assert not acted(bob)


@pytest.mark.parametrize("what", ["another job", "another question"])
def test_training_for_something_else_is_not_sealed(make: Maker, what: str) -> None:
    run, bob = halted(make, "bob", Phase.TRAINING, machines={"bob": Holds})
    if what == "another question":
        bob._training = ELSEWHERE
    DataOwner.worked(bob, ELSEWHERE.hex(), RuntimeError("of something else"), run.clock.now)
    assert bob.phase is Phase.TRAINING
    assert not acted(bob)


def test_another_attempt_trains_nobody_and_sends_no_model_a_second_time(make: Maker) -> None:
    accepted: list[str] = []

    class Counts(ModelOwner):
        def _on_acceptance(self, peer: str, message: Acceptance, now: float) -> None:
            accepted.append(peer)
            super()._on_acceptance(peer, message, now)

    run, _ = halted(make, "bob", Phase.CONTRIBUTED, machines={"owner": Counts, "dave": make.slow})
    run.restart("third")
    assert set(run.run().values()) == {None}
    assert run.statement(1).contributors == NAMES
    assert sorted(accepted) == list(NAMES)


def test_layout_and_model_are_the_ones_the_question_names(make: Maker) -> None:
    run, bob = halted(make, "bob", Phase.RECEIVING)
    question, layout, model = bob.asked.question, run.model.layout, bytes(run.model.to_bytes())
    bob._check_model(question, memoryview(layout.encode()), memoryview(model))
    with pytest.raises(MalformedMessage):
        bob._check_model(question, memoryview(b"\xc1"), memoryview(model))
    wide = msgspec.structs.replace(question, coordinates=question.coordinates + 1)
    with pytest.raises(WrongModel):
        bob._check_model(wide, memoryview(layout.encode()), memoryview(model))
    longer = model + b"x"
    long = msgspec.structs.replace(question, model=model_digest(layout, longer))
    with pytest.raises(WrongModel):
        bob._check_model(long, memoryview(layout.encode()), memoryview(longer))


def test_a_secure_worker_that_is_late_or_was_restarted_is_no_reason_to_decline(make: Maker) -> None:
    run, bob = halted(make, "bob", Phase.UPLOADING)
    for code in ("too-late", "wrong-attempt"):
        about = bob._uploads["third"].outgoing.subject
        bob.receive("third", Refusal(code=code, about=about), run.clock.now)
        assert bob.phase is Phase.UPLOADING
        assert not acted(bob)


def test_a_receipt_of_the_attempt_before_is_not_one_of_this(make: Maker, still: Any) -> None:
    run, bob = halted(make, "bob", Phase.CONTRIBUTED, machines={"dave": make.slow})
    (kept,) = [sent.kept for sent in bob._sent]
    run.restart("third")
    run.run(until=lambda: bob.phase is Phase.UPLOADING)
    bob.take_effects()
    receipt = Receipt(
        open_round=kept.open_round,
        holder="third",
        contributor="bob",
        header=ELSEWHERE,
        commitment=kept.commitments["third"][0],
        shares=share_list(kept.commitments["third"]),
    )
    still(run).refuses(("bob", "third", lambda at: Receipted(receipt=at.by("third", receipt)), WrongOpenRound))


def test_a_receipt_is_signed_by_the_holder_it_came_from(make: Maker, still: Any) -> None:
    """With one secure worker nobody else's can be passed on; with several, this is what tells them apart."""
    run, bob = halted(make, "bob", Phase.UPLOADING)
    upload = bob._uploads["owner"] = bob._uploads["third"]
    receipt = Receipt(
        open_round=bob.asked.open_round,
        holder="owner",
        contributor="bob",
        header=upload.outgoing.subject,
        commitment=upload.outgoing.commitment,
        shares=upload.listed,
    )
    still(run).refuses(("bob", "owner", lambda at: Receipted(receipt=at.by("third", receipt)), WrongSender))


def closed(run: Run, still: Any, names: tuple[str, ...], ours: bytes = ELSEWHERE) -> Closed:
    contributions = tuple(Contribution(name, ours if name == "bob" else ELSEWHERE) for name in names)
    at = still(run)
    close = CloseList(open_round=at.name, holder="third", contributions=contributions, declined=(), missing=())
    return Closed(close=at.by("third", close))


def test_a_list_without_us_ends_the_round_for_us(make: Maker, still: Any) -> None:
    run, bob = halted(make, "bob", Phase.UPLOADING)
    bob.receive("third", closed(run, still, ("alice", "carol", "dave")), run.clock.now)
    assert bob.phase is Phase.IDLE
    assert bob.asked is None


def test_a_second_set_for_one_model_is_not_signed_for(make: Maker, still: Any) -> None:
    run, bob = halted(make, "bob", Phase.CONTRIBUTED, machines={"dave": make.slow})
    kept = bob._sent[-1].kept
    bob.memory.close_set(kept, ("alice", "bob", "carol"))
    (ours,) = kept.commitments["third"]
    still(run).refuses(("bob", "third", lambda _: closed(run, still, NAMES, ours), GateShut))


def test_a_round_that_was_closed_is_not_contributed_to_again(make: Maker) -> None:
    _, bob = halted(make, "bob", Phase.CLOSED)
    again = msgspec.structs.replace(bob.asked.question, attempt=1)
    assert bob.second_line(again) == "this round has been closed already"


def test_the_order_of_questions_is_that_of_one_session(make: Maker) -> None:
    _, bob = halted(make, "bob", Phase.INVITED, Phase.RECEIVING)
    question, name = bob.asked.question, bob.asked.open_round
    bob._check_order("owner", question, name)
    bob._check_order("owner", msgspec.structs.replace(question, session=ELSEWHERE, model=ELSEWHERE), ELSEWHERE)


def test_who_declined_says_so_again_and_does_not_begin(make: Maker) -> None:
    run, owner = halted(make, "owner", Phase.COLLECTING, limits_of={"bob": LocalLimits(tasks=("other",))})
    bob, asking = run.machines["bob"], owner._asking
    run.run(until=lambda: bob.memory.answer is not None and bob.memory.answer.declined)
    bob.take_effects()
    bob.receive("owner", Invitation(open_round=asking.signed, offers=tuple(asking.offers.values())), run.clock.now)
    assert bob.phase is Phase.IDLE
    assert {type(effect.message) for effect in acted(bob)} == {Declined}


# --- evaluators


def test_an_evaluator_signs_the_score_of_this_model_and_of_no_failure(make: Maker) -> None:
    run, judge = halted(
        make,
        "judge",
        Phase.EVALUATING,
        evaluators={"judge": NumpyTask(test_examples=10)},
        machines={"judge": Waits},
    )
    Evaluator.worked(judge, ELSEWHERE.hex(), Score(examples=1, loss=1.0), run.clock.now)
    assert judge.phase is Phase.EVALUATING
    assert not acted(judge)
    judge.phase = Phase.INVITED
    Evaluator.worked(judge, judge.asked.open_round.hex(), Score(examples=1, loss=1.0), run.clock.now)
    assert not acted(judge)
    judge.phase = Phase.EVALUATING
    Evaluator.worked(judge, judge.asked.open_round.hex(), RuntimeError("no data"), run.clock.now)
    assert judge.asked is None
    assert not acted(judge)


# --- a model owner that is started again


@pytest.mark.parametrize("how", ["the same run", "another model", "as told"])
def test_a_session_is_gone_on_with_only_where_it_was_left(make: Maker, how: str) -> None:
    run, owner = halted(make, "owner", Phase.COLLECTING, machines={"owner": ModelOwner})
    if how == "another model":
        run.model = run.owner_task.global_model(8, ServerOptimiser(None, {}, run.plan.reduction))
    if how == "as told":
        run._classes["owner"] = lambda *args: ModelOwner(*args, anew=True)
    again = run._machine("owner")
    again.start(run.clock.now)
    assert again._session == (owner._session if how == "the same run" else None)
    assert (again._pending is not None) == (how == "the same run")
