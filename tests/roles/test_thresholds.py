"""Committees that need fewer than all: secure workers die at any step, and the sum is the same, or there is none."""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from tertium.protocol import limits
from tertium.protocol.aborts import sign_abort
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.errors import (
    DisputedContribution,
    GateShut,
    IllegalMessage,
    SplitView,
    WrongOpenRound,
    WrongPlan,
    WrongSender,
)
from tertium.protocol.machine import Send
from tertium.protocol.messages import (
    Aborted,
    Cause,
    Closed,
    CloseList,
    Closes,
    Contribution,
    Cosign,
    Cosignature,
    HolderList,
    Invitation,
    Listed,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Release,
    RequestCosignature,
    RoundOffer,
    RoundRecord,
    RoundStatement,
)
from tertium.protocol.rounds import Phase
from tertium.secure_worker.machine import SecureWorker

Maker = Any
Run = Any
Still = Any
NAMES = ("alice", "bob", "carol", "dave")
WORKERS = ("first", "second", "third", "fourth", "fifth")
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)
BEFORE = (Phase.COLLECTING, Phase.LISTED)
AFTER = (Phase.CLOSED, Phase.RELEASED)


def committee(
    make: Maker,
    threshold: int,
    workers: int,
    rounds: int = 3,
    owner: Any = None,
    more: Any = None,
    deadlines: Deadlines = SOON,
    scheme: str = "shamir",
) -> Run:
    named = SchemeName(name=scheme, threshold=threshold)
    mode = Mode.SHAMIR if scheme == "shamir" else Mode.SHARED
    return make(
        4,
        plan=make.plan(rounds=rounds),
        machines={"owner": owner or make.sums, "dave": make.slow, **(more or {})},
        rules=make.rules(mode=mode, scheme=named, deadlines=deadlines),
        workers=WORKERS[:workers],
    )


@pytest.fixture(scope="module")
def undisturbed(make_once: Maker) -> bytes:
    """The model after three rounds in `trusted` mode, in which nothing happened."""
    run = make_once(4, plan=make_once.plan(rounds=3))
    assert set(run.run().values()) == {None}
    return bytes(run.model.to_bytes())


def at(run: Run, name: str, phase: Phase, number: int = 2) -> None:
    """Run until a secure worker is in this phase of a round."""
    machine = run.machines[name]
    run.run(
        until=lambda: (
            machine.finished
            or (
                (machine.phase is phase and machine._memory.question is not None)
                and machine._memory.question.round == number
            )
        )
    )
    assert machine.phase is phase, run.errors


def same_sums(run: Run, lost: set[str], undisturbed: bytes, plain_sum: Any) -> None:
    errors = {name: error for name, error in run.run().items() if error and name not in lost}
    assert errors == {}
    assert run.released == [1, 2, 3]
    left = next(name for name in run.workers if name not in lost)
    assert run.statement(3, left).contributors == NAMES
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 3, NAMES))
    assert bytes(run.model.to_bytes()) == undisturbed
    assert run.all_refused == []


@pytest.mark.parametrize(
    ("name", "phase"),
    # The fourth counts nobody in this round, so what it counts is final at once.
    [*(("first", phase) for phase in (*BEFORE, *AFTER)), ("fourth", Phase.LISTED)],
)
def test_any_one_of_2_of_4_may_die_at_any_step(
    make: Maker, undisturbed: bytes, plain_sum: Any, name: str, phase: Phase
) -> None:
    run = committee(make, 2, 4)
    at(run, name, phase)
    run.lose(name)
    same_sums(run, {name}, undisturbed, plain_sum)
    assert run.clock.now < 60


def lose_after(run: Run, phase: Phase, *names: str) -> None:
    """Run until the last set is signed and the first of these is in this phase; end them with their totals unopened."""
    at(run, names[0], phase, 3)
    owner = run.machines["owner"]
    run.run(until=lambda: owner.phase not in (Phase.OFFERING, Phase.COLLECTING))
    assert not owner._asking.opened.intersection(names)
    for name in names:
        run.lose(name)


@pytest.mark.parametrize("phase", AFTER)
@pytest.mark.parametrize("scheme", ["shamir", "replicated"])
def test_one_of_2_of_3_may_die_once_the_set_is_signed(
    make: Maker, undisturbed: bytes, plain_sum: Any, scheme: str, phase: Phase
) -> None:
    run = committee(make, 2, 3, scheme=scheme)
    lose_after(run, phase, "second")
    same_sums(run, {"second"}, undisturbed, plain_sum)


@pytest.mark.parametrize("phase", BEFORE)
def test_one_of_2_of_3_that_dies_before_ends_the_session_in_a_signed_abort(make: Maker, phase: Phase) -> None:
    run = committee(make, 2, 3)
    at(run, "second", phase)
    run.lose("second")
    errors = run.run()
    assert "second is not reachable" in errors["owner"]
    assert all("second is not reachable" in errors[name] for name in NAMES)
    assert not [line for line in run.said("owner") if "going on without" in line.text]
    assert run.released == [1]


@pytest.mark.parametrize("phase", BEFORE)
def test_one_of_3_of_5_may_die_before_the_set_is_signed(
    make: Maker, undisturbed: bytes, plain_sum: Any, phase: Phase
) -> None:
    run = committee(make, 3, 5)  # the fifth counts the slow one, so that it can be found in both phases
    at(run, "fifth", phase)
    assert not run.machines["owner"]._asking.closes
    run.lose("fifth")
    same_sums(run, {"fifth"}, undisturbed, plain_sum)


@pytest.mark.parametrize(("threshold", "workers", "dead"), [(2, 4, ("second", "fourth")), (3, 5, ("second", "fifth"))])
def test_two_of_2_of_4_or_of_3_of_5_may_die_once_the_set_is_signed(
    make: Maker, undisturbed: bytes, plain_sum: Any, threshold: int, workers: int, dead: tuple[str, ...]
) -> None:
    run = committee(make, threshold, workers)
    lose_after(run, Phase.RELEASED, *dead)
    same_sums(run, set(dead), undisturbed, plain_sum)


def test_two_deaths_of_2_of_4_before_the_set_is_signed_are_too_many(make: Maker) -> None:
    run = committee(make, 2, 4)
    at(run, "second", Phase.COLLECTING)
    run.lose("second")
    run.lose("first")
    errors = run.run()
    assert "not reachable" in errors["owner"]
    assert run.released == [1]
    assert run.clock.now < 90


def test_who_comes_back_is_asked_again_in_the_next_round(make: Maker, plain_sum: Any) -> None:
    run = committee(make, 2, 4, rounds=10)
    at(run, "second", Phase.COLLECTING)
    run.restart("second", after=limits.ABSENCE + 0.5)
    asked: list[tuple[str, ...]] = []

    def watch() -> bool:
        asking = run.machines["owner"]._asking
        if asking is not None and (not asked or asked[-1] != asking.question.without):
            asked.append(asking.question.without)
        return all(party.done for party in run.parties.values())

    run.run(until=watch)
    assert asked == [("second",), ()]
    assert set(run.errors.values()) == {None}
    assert run.statement(10, "second").contributors == NAMES
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 10, NAMES))


def test_one_that_was_silent_is_asked_again_once_it_comes_back(make: Maker, plain_sum: Any) -> None:
    hung = True

    class Mute(SecureWorker):
        """Does not say what it counted while it hangs."""

        def send(self, to: str, message: Any) -> None:
            if not (hung and isinstance(message, Listed)):
                super().send(to, message)

    run = committee(make, 2, 4, more={"third": Mute})
    owner, asked = run.machines["owner"], []
    present = {"first", "second", "fourth"}
    run.run(until=lambda: owner._asking is not None and set(owner._asking.question.present) == present)
    assert run.clock.now >= SOON.upload
    hung = False
    run.restart("third")

    def watch() -> bool:
        if owner._asking is not None and (owner._asking.question.round, owner._asking.question.without) not in asked:
            asked.append((owner._asking.question.round, owner._asking.question.without))
        return all(party.done for party in run.parties.values())

    run.run(until=watch)
    assert asked == [(1, ("third",)), (2, ()), (3, ())]
    assert set(run.errors.values()) == {None}
    assert run.statement(3, "third").contributors == NAMES
    np.testing.assert_array_equal(owner.total, plain_sum(run, 3, NAMES))


def test_a_session_begins_without_one_that_never_came(make: Maker, undisturbed: bytes, plain_sum: Any) -> None:
    run = committee(make, 2, 4)
    run.lose("third")
    same_sums(run, {"third"}, undisturbed, plain_sum)
    assert [line for line in run.said("owner") if "begins without third" in line.text]


def test_a_nonce_that_comes_late_is_no_fault(make: Maker, still: type[Still]) -> None:
    class Slow(SecureWorker):
        """Keeps its nonce to itself for a while."""

        def send(self, to: str, message: Any) -> None:
            if isinstance(message, OfferSession):
                self.held = message
            else:
                super().send(to, message)

    run = committee(make, 2, 4, rounds=1, more={"third": Slow})
    run.run(until=lambda: run.machines["owner"].phase is Phase.COLLECTING)
    assert run.clock.now >= SOON.close
    at_rest = still(run)
    at_rest.say("owner", "third", run.machines["third"].held)
    assert not run.machines["owner"].take_effects()
    assert set(run.machines["owner"]._nonces) == {"first", "second", "fourth"}
    assert [line for line in run.said("owner") if "begins without third" in line.text]


# --- a question that does without somebody


@pytest.fixture(scope="module")
def going_on(make_once: Maker, still: type[Still]) -> Still:
    """2 of 4, in an attempt that does without the second."""
    run = committee(make_once, 2, 4)
    at(run, "second", Phase.COLLECTING)
    run.lose("second")
    owner = run.machines["owner"]
    run.run(
        until=lambda: (
            owner.phase is Phase.COLLECTING
            and owner._asking.question.without == ("second",)
            and all(run.machines[name]._sent and run.machines[name]._sent[-1].kept.attempt == 1 for name in NAMES[:1])
            and run.machines["first"]._memory.question == owner._asking.question
        )
    )
    return still(run)


def asks(**changes: Any) -> Callable[[Still], ProposeRound]:
    """The next attempt at the question, of a model owner that means another."""
    return lambda at: ProposeRound(open_round=at.again("owner", at.asking.signed, OpenRound, attempt=2, **changes))


def closes(at: Still) -> Closed:
    ours = at.run.machines["alice"]._sent[-1].kept.commitments["first"][-1]
    others = (Contribution(name, bytes(32)) for name in NAMES[1:])
    close = CloseList(at.name, "second", (Contribution("alice", ours), *others), (), ())
    return Closed(close=at.by("second", close))


@pytest.mark.parametrize(
    "case",
    [
        ("owner", "second", lambda at: OfferRound(offer=at.by("second", RoundOffer(at.name, "second", at.key)))),
        ("owner", "second", lambda at: Listed(list=at.by("second", HolderList(at.name, "second", (), (), (), ())))),
        ("owner", "second", closes),
        ("owner", "third", lambda at: OfferRound(offer=at.by("first", RoundOffer(at.name, "third", at.key)))),
        ("owner", "third", lambda at: Closed(close=at.by("first", CloseList(at.name, "third", (), (), ())))),
    ],
    ids=["an offer", "a list", "a close list", "an offer in its name", "a close list in its name"],
)
def test_who_is_done_without_is_not_heard_in_that_attempt(going_on: Still, case: Any) -> None:
    going_on.refuses((*case, WrongOpenRound))


def test_a_data_owner_counts_no_close_list_of_who_is_done_without(going_on: Still) -> None:
    going_on.refuses(("alice", "second", closes, WrongSender))


def test_a_data_owner_takes_a_close_list_from_who_signed_it(going_on: Still) -> None:
    def passed_on(at: Still) -> Closed:
        return Closed(close=at.by("first", CloseList(at.name, "third", (), (), ())))

    going_on.refuses(("alice", "third", passed_on, WrongSender))


def test_who_closes_over_what_another_counts_is_not_accused_of_it(going_on: Still) -> None:
    """What is counted elsewhere a secure worker knows from a list that it cannot check; its own count it knows."""

    def over_another(holder: str) -> Callable[[Still], Closed]:
        contributions = tuple(Contribution(name, bytes(32)) for name in ("alice", "bob", "carol"))
        return lambda at: Closed(close=at.by(holder, CloseList(at.name, holder, contributions, (), ())))

    sent = going_on.run.machines["alice"].find_sent(going_on.name).kept
    others = [name for name in sent.commitments if name != sent.counting]
    assert len(others) == 2
    going_on.refuses(("alice", sent.counting, over_another(sent.counting), SplitView))
    for holder in others:
        going_on.refuses(("alice", holder, over_another(holder), DisputedContribution))
        said = RoundStatement(going_on.name, holder, bytes(32), NAMES[:3], bytes(32), bytes(32))
        signed = going_on.by(holder, said)
        for later in (RequestCosignature(statement=signed), RoundRecord(statement=signed, cosignatures=(), absent=())):
            going_on.refuses(("alice", holder, lambda _, later=later: later, DisputedContribution))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"without": ("first",)}, IllegalMessage),
        ({"without": ("second", "third")}, WrongPlan),
        ({"without": ("first", "fourth", "second", "third")}, WrongPlan),
    ],
    ids=["without the one that is asked", "without a quorum", "without anybody"],
)
def test_a_secure_worker_is_asked_with_a_quorum_and_itself(going_on: Still, changes: Any, error: type) -> None:
    going_on.refuses(("first", "owner", asks(**changes), error))


def test_a_data_owner_is_not_invited_by_fewer_than_a_quorum(going_on: Still) -> None:
    def invites(at: Still) -> Invitation:
        return Invitation(open_round=asks(without=("second", "third"))(at).open_round, offers=())

    going_on.refuses(("alice", "owner", invites, WrongPlan))


def test_nobody_else_can_be_done_without(going_on: Still) -> None:
    for without in (("alice",), ("third", "second"), ("second", "second")):
        with pytest.raises(ValueError, match="only holders"):
            msgspec.structs.replace(going_on.asking.question, without=without)


# --- one set


def test_a_set_that_was_signed_binds_whatever_becomes_of_the_attempt(make: Maker) -> None:
    run = committee(make, 2, 4)
    at(run, "first", Phase.CLOSED)
    first, owner = run.machines["first"], run.machines["owner"]
    question = owner._asking.question
    gate = first._memory.gate
    assert gate.decide(question, NAMES).contributors == NAMES
    with pytest.raises(GateShut):
        gate.decide(question, NAMES[:3])
    run.restart("first")
    again = run.machines["first"]._memory.gate
    with pytest.raises(GateShut):
        again.decide(msgspec.structs.replace(question, round=7), NAMES[:3])


def test_where_all_must_sign_an_attempt_that_was_not_released_binds_nobody(make: Maker) -> None:
    run = make(4, rules=make.rules(mode=Mode.ADDITIVE, scheme=SchemeName(name="additive")), workers=WORKERS[:2])
    run.run(until=lambda: run.machines["first"].phase is Phase.CLOSED)
    question = run.machines["owner"]._asking.question
    assert run.machines["first"]._memory.gate.decide(question, NAMES[:3]).contributors == NAMES[:3]


@pytest.mark.parametrize(("signers", "released"), [(2, False), (3, True), (4, True)])
def test_a_total_is_released_over_what_a_quorum_signed(
    make: Maker, still: type[Still], signers: int, released: bool
) -> None:
    class Keeps(make.sums):  # type: ignore[misc,name-defined]
        def _pass_on_closes(self, *_: Any, **__: Any) -> None:
            """Show nobody's."""

    run = committee(make, 2, 4, owner=Keeps)
    run.run(until=lambda: len(run.machines["owner"]._asking.closes) == 4 if run.machines["owner"]._asking else False)
    at_rest = still(run)
    signed = [at_rest.asking.signed_closes[name] for name in at_rest.asking.closed[:signers]]
    message = Closes(signatures=tuple(Cosignature(party=each.signer, signature=each.signature) for each in signed))
    if not released:
        at_rest.refuses(("first", "owner", lambda _: message, WrongSender))
        assert not run.machines["first"]._memory.released
        return
    at_rest.say("first", "owner", message)
    assert run.machines["first"]._memory.released


# --- totals that do not come


def test_a_total_that_comes_late_is_not_opened_and_its_statement_is_signed(make: Maker, plain_sum: Any) -> None:
    class Late(SecureWorker):
        """Says nothing to the model owner for a while once it has released."""

        def send(self, to: str, message: Any) -> None:
            if isinstance(message, Release) and to == "owner":
                self.held = message
            elif isinstance(message, RequestCosignature) and to == "owner":
                self.asked = message
            else:
                super().send(to, message)

    run = committee(make, 2, 4, rounds=1, more={"second": Late})
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    asking = run.machines["owner"]._asking
    run.run(until=lambda: len(asking.opened) == 3)
    assert not asking.summed
    run.run(until=lambda: asking.summed)
    assert run.clock.now >= SOON.release
    assert asking.failed == {"second"}
    owner, second = run.machines["owner"], run.machines["second"]
    owner.receive("second", second.held, run.clock.now)
    owner.receive("second", second.asked, run.clock.now)
    sent = [effect.message for effect in owner.take_effects() if isinstance(effect, Send)]
    assert [type(message) for message in sent] == [Cosign]
    errors = run.run()
    assert {name: error for name, error in errors.items() if error} == {}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))


def test_after_the_set_is_signed_nothing_is_asked_again(make: Maker, plain_sum: Any) -> None:
    class Mute(SecureWorker):
        """Releases nothing."""

        def send(self, to: str, message: Any) -> None:
            if not isinstance(message, Release):
                super().send(to, message)

    patient = msgspec.structs.replace(SOON, release=limits.ABSENCE + 10)
    run = committee(make, 2, 4, rounds=1, more={"second": Mute}, deadlines=patient)
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    run.lose("fourth")
    errors = run.run()
    assert {name: error for name, error in errors.items() if error} == {}
    assert not [line for line in run.said("owner") if "going on without" in line.text]
    assert run.clock.now > limits.ABSENCE
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))


def test_one_that_is_back_at_once_costs_an_attempt_and_no_deadline(
    make: Maker, undisturbed: bytes, plain_sum: Any
) -> None:
    run = committee(make, 2, 4)
    at(run, "second", Phase.COLLECTING)
    run.restart("second")
    errors = run.run()
    assert set(errors.values()) == {None}
    assert bytes(run.model.to_bytes()) == undisturbed
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 3, NAMES))
    assert set(run.all_refused) <= {"too-late"}
    assert run.clock.now < limits.ABSENCE


def test_a_holder_that_gives_a_signed_set_up_is_done_without(make: Maker, still: type[Still], plain_sum: Any) -> None:
    run = committee(make, 2, 4, rounds=1)
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    at_rest = still(run)
    question = at_rest.asking.question
    for name in ("fourth", "third"):
        abort = sign_abort(run.identities[name], question, Cause.LOCAL, "no more")
        at_rest.say("owner", name, Aborted(abort=abort))
    assert run.machines["owner"].phase is Phase.RECEIVING
    errors = run.run()
    assert errors["owner"] is None
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))


def test_one_that_is_there_and_silent_is_done_without_from_its_deadline_on(
    make: Maker, undisturbed: bytes, plain_sum: Any
) -> None:
    class Mute(SecureWorker):
        """Never says what it counted."""

        def send(self, to: str, message: Any) -> None:
            if not isinstance(message, Listed):
                super().send(to, message)

    run = committee(make, 2, 4, more={"third": Mute})
    errors = run.run()
    assert {name: error for name, error in errors.items() if error and name != "third"} == {}
    assert run.released == [1, 2, 3]
    assert bytes(run.model.to_bytes()) == undisturbed
    assert len([line for line in run.said("owner") if "going on without third" in line.text]) == 1


def test_totals_that_can_never_be_enough_end_the_session(make: Maker, still: type[Still]) -> None:
    run = committee(make, 3, 4, rounds=1)
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    at_rest = still(run)
    for name in ("fourth", "third"):
        abort = sign_abort(run.identities[name], at_rest.asking.question, Cause.LOCAL, "no more")
        at_rest.say("owner", name, Aborted(abort=abort))
    assert run.machines["owner"].finished
    assert "third aborted round 1" in run.run()["owner"]


def test_too_few_totals_make_no_sum(make: Maker) -> None:
    run = committee(make, 2, 4, rounds=1)
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    asking = run.machines["owner"]._asking
    few = dataclasses.replace(asking, opened={"first"}, failed=set(), summed=False)
    assert not few.sum_up(set())
    assert not few.sum_up({"first"})
    more = dataclasses.replace(asking, opened={"first", "third"}, failed=set(), summed=False)
    assert not more.sum_up({"second"})
    assert more.sum_up(set())
    assert not more.sum_up(set())


def test_one_that_was_gone_for_a_moment_between_rounds_is_waited_for(make: Maker) -> None:
    run = committee(make, 2, 4, rounds=2)
    run.run(until=lambda: run.machines["owner"].phase is Phase.RELEASED)
    owner = run.machines["owner"]
    owner.peer_down("second", "gone", run.clock.now)
    assert owner._without(run.clock.now) is None
    assert owner._without(run.clock.now + limits.ABSENCE) == ("second",)
    owner.peer_down("third", "gone", run.clock.now)
    assert owner._without(run.clock.now + limits.ABSENCE) is None
