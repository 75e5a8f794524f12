"""Parties that decline, fall silent or are lost: the round goes on without them, or ends with a signed abort."""

from typing import Any

import pytest
from tertium.learning.numpy_task import NumpyTask
from tertium.protocol import limits
from tertium.protocol.charter import Arithmetic, Deadlines
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Closed,
    Decline,
    Declined,
    OfferRound,
    OfferSession,
    Receipted,
    Release,
)
from tertium.protocol.progress import RoundClosed, RoundDone
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits
from tertium.protocol.statements import open_signed
from tertium.protocol.training import WeightRule
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any


def closed(run: Run) -> list[RoundClosed]:
    return run.said("third", RoundClosed)


def only_declines(run: Run, name: str, reason: str) -> None:
    """Nobody else learns more than that `name` declined; nobody refuses anything over it."""
    assert not run.all_refused
    assert [line.text for line in run.said(name) if reason in line.text]
    for other in run.progress:
        if other != name:
            assert not [line for line in run.progress[other] if reason in line.line()]


# --- declining


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (LocalLimits(tasks=("other",)), "not allowed"),
        (LocalLimits(smallest_cohort=5), "at least 5 are required"),
        (LocalLimits(max_epochs=2), "at most 2 are allowed"),
    ],
)
def test_a_site_that_refuses_is_not_in_the_sum_and_says_no_more(make: Maker, own: LocalLimits, reason: str) -> None:
    run = make(4, plan=make.plan(epochs=3), limits_of={"bob": own})
    assert set(run.run().values()) == {None}
    only_declines(run, "bob", reason)
    (end,) = closed(run)
    assert (end.contributors, end.declined, end.missing) == (("alice", "carol", "dave"), ("bob",), ())
    assert run.statement(1).contributors == ("alice", "carol", "dave")
    assert run.clock.now < limits.STALL


def test_a_decline_holds_no_reason() -> None:
    assert Declined.__struct_fields__ == ("decline", "checkpoint")
    assert Decline.__struct_fields__ == ("open_round", "party")


@pytest.mark.parametrize("rule", WeightRule, ids=lambda rule: rule.value)
def test_a_party_without_examples_declines(make: Maker, rule: WeightRule) -> None:
    rules = make.rules(weight_rule=rule, arithmetic=Arithmetic(max_weight=1 if rule is WeightRule.UNIFORM else 100))
    run = make(4, rules=rules, examples=lambda at: 0 if at == 1 else 20)
    assert set(run.run().values()) == {None}
    only_declines(run, "bob", "no examples")
    assert closed(run)[0].declined == ("bob",)
    assert run.statement(1).contributors == ("alice", "carol", "dave")


def test_a_task_that_fails_declines_and_keeps_the_reason_to_itself(make: Maker) -> None:
    class Fails(NumpyTask):
        def trainer(self) -> Any:
            trainer = super().trainer()

            def train(*_: Any) -> Any:
                raise RuntimeError("patient 4711 has no age")

            trainer.train = train  # type: ignore[method-assign]
            return trainer

    run = make(4, tasks={"bob": Fails(party=1)})
    assert set(run.run().values()) == {None}
    only_declines(run, "bob", "patient 4711")


def test_a_value_out_of_range_declines_and_names_the_tensor_to_its_operator_only(make: Maker) -> None:
    wild = NumpyTask(inputs=[[1e4, 1e4, 1e4, 1e4]] * 3, targets=[1.0, 1.0, 1.0])
    run = make(4, tasks={"bob": wild})
    assert set(run.run().values()) == {None}
    only_declines(run, "bob", "tensor weight")


def test_a_site_stops_after_as_many_refusals_as_it_allows(make: Maker) -> None:
    """Every refusal is one bit about a question the owner chose."""
    own = LocalLimits(tasks=("other",), max_refusals=1)
    run = make(4, plan=make.plan(rounds=4), limits_of={"bob": own})
    assert set(run.run().values()) == {None}
    assert [line.text for line in run.said("bob") if "max_refusals" in line.text]
    assert run.released == [1, 2, 3, 4]


def test_declines_below_the_minimum_abort_with_names(make: Maker) -> None:
    aborts: list[Aborted] = []

    class Notes(DataOwner):
        def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
            if peer == "third":
                aborts.append(message)
            super()._on_aborted(peer, message, now)

    own = LocalLimits(tasks=("other",))
    run = make(4, minimum=4, limits_of={"bob": own}, machines={"alice": Notes})
    errors = run.run()
    assert set(errors) == set(run.roles)
    for name, error in errors.items():
        assert "minimum cohort is 4" in str(error), name
        assert "declined: bob" in str(error), name
    run.no_trace_of_an_aggregate()
    (message,) = aborts
    abort = open_signed(run.charter, message.abort, Abort)
    assert abort.party == "third"
    assert abort.cause.value == "too few contributors"
    assert abort.about == ()
    assert run.clock.now < limits.STALL


# --- losing somebody


PHASES = [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.value)
def test_a_round_goes_on_without_a_data_owner_that_is_lost(make: Maker, plain_sum: Any, phase: Phase) -> None:
    run = make(4, plan=make.plan(rounds=2), machines={"dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is phase)
    run.lose("bob")
    errors = run.run()
    assert {name: error for name, error in errors.items() if error} == {}
    assert run.released == [1, 2]
    counted = run.statement(1).contributors
    assert set(counted) >= {"alice", "carol", "dave"}
    assert ("bob" in counted) == (phase is Phase.CONTRIBUTED)
    if "bob" in counted:
        assert run.said("owner", RoundDone)[0].absent_cosigners == ("bob",)
    else:
        assert closed(run)[0].missing == ("bob",)
        assert closed(run)[0].declined == ()
    assert run.statement(2).contributors == ("alice", "carol", "dave")


@pytest.mark.parametrize("phase", PHASES[:3], ids=lambda phase: phase.value)
def test_a_loss_below_the_minimum_aborts_with_the_name(make: Maker, phase: Phase) -> None:
    run = make()
    run.run(until=lambda: run.machines["bob"].phase is phase)
    run.lose("bob")
    errors = run.run()
    assert set(errors) == {"owner", "third", "alice", "carol"}
    for name, error in errors.items():
        assert "no contribution from bob as seen by third" in str(error), name
    run.no_trace_of_an_aggregate()
    # Seconds after the loss the attempt is over: no one could have brought it to its minimum. Then bob may come back.
    assert run.clock.now < limits.ABSENCE + run.rules.deadlines.absence + 2


@pytest.mark.parametrize("lost", ["owner", "third"])
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.value)
def test_everybody_ends_when_the_owner_or_the_secure_worker_is_lost(make: Maker, lost: str, phase: Phase) -> None:
    run = make(machines={"carol": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is phase)
    at = run.clock.now
    run.lose(lost)
    errors = run.run()
    assert set(errors) == set(run.roles) - {lost}
    for name, error in errors.items():
        assert lost in str(error), name
    assert not run.released
    # It may come back within the charter's time; no longer than that, and one message more.
    assert run.clock.now < at + run.rules.deadlines.absence + 2 * limits.ABSENCE + limits.RECONNECT_MOST + 2
    assert all(machine.finished for name, machine in run.machines.items() if name != lost)


def test_a_data_owner_that_comes_back_in_time_contributes(make: Maker) -> None:
    run = make()
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.network.disconnect("bob", "third")
    assert set(run.run().values()) == {None}
    assert run.statement(1).contributors == make.names[:3]


def test_a_data_owner_that_says_nothing_is_waited_for_until_the_deadline_only(make: Maker) -> None:
    class Mute(DataOwner):
        def _on_invitation(self, peer: str, message: Any, now: float) -> None:
            pass

    deadlines = Deadlines(join=20, upload=40, close=5, release=10, statement=5)
    run = make(4, machines={"bob": Mute}, rules=make.rules(deadlines=deadlines))
    assert set(run.run().values()) == {None}
    assert closed(run)[0].missing == ("bob",)
    assert run.statement(1).contributors == ("alice", "carol", "dave")
    assert not [code for name in run.progress if name != "bob" for code in run.refused(name)]
    assert run.record(1).absent == ()
    assert 60 <= run.clock.now < 70


def test_a_silent_data_owner_below_the_minimum_aborts_at_the_deadline_and_accuses_nobody(make: Maker) -> None:
    class Mute(DataOwner):
        def _on_invitation(self, peer: str, message: Any, now: float) -> None:
            pass

    run = make(machines={"bob": Mute}, rules=make.rules(deadlines=Deadlines(join=20, upload=40)))
    errors = run.run()
    assert all("no contribution from bob as seen by third" in str(error) for error in errors.values())
    run.no_trace_of_an_aggregate()
    assert 60 <= run.clock.now < 70


@pytest.mark.parametrize("silent", ["offers no session", "offers no round", "closes never", "releases nothing"])
def test_a_silent_secure_worker_holds_nobody_up_for_good(make: Maker, silent: str) -> None:
    kind = {
        "offers no session": OfferSession,
        "offers no round": OfferRound,
        "closes never": Closed,
        "releases nothing": Release,
    }[silent]

    class Mute(SecureWorker):
        def send(self, peer: str, message: Any) -> None:
            if not isinstance(message, kind):
                super().send(peer, message)

    run = make(machines={"third": Mute})
    errors = run.run()
    assert set(errors) == set(run.roles)
    assert "third" in str(errors["owner"])
    assert all(errors[name] for name in make.names[:3])
    assert not run.released


def test_nobody_waits_for_good_for_a_party_that_never_comes(make: Maker) -> None:
    run = make(4)
    run.lose("bob")
    errors = run.run()
    # Three of four are enough, once the time to join is over.
    assert not [error for error in errors.values() if error]
    assert run.statement(1).contributors == ("alice", "carol", "dave")
    assert run.clock.now >= run.rules.deadlines.join


def test_too_few_that_come_end_with_names(make: Maker) -> None:
    run = make()
    run.lose("bob")
    errors = run.run()
    assert "bob" in str(errors["owner"])
    assert all(errors.values())
    run.no_trace_of_an_aggregate()


# --- an operator's interrupt


@pytest.mark.parametrize("phase", [*PHASES[:3], Phase.TRAINING], ids=lambda phase: phase.value)
def test_a_data_owner_that_is_stopped_takes_leave(make: Maker, phase: Phase) -> None:
    run = make(4)
    if phase is Phase.TRAINING:
        run.machines["bob"].worked = lambda *_: None
    run.run(until=lambda: run.machines["bob"].phase is phase)
    stopped = run.clock.now
    run.parties["bob"].interrupt("stopped by its operator")
    errors = run.run()
    assert errors.pop("bob") == "stopped by its operator"
    assert not [error for error in errors.values() if error]
    assert closed(run)[0].declined == ("bob",)
    assert run.statement(1).contributors == ("alice", "carol", "dave")
    # Nobody waited for a deadline: it said that it goes.
    assert run.clock.now < stopped + limits.ABSENCE


@pytest.mark.parametrize("name", ["owner", "third"])
def test_an_owner_or_secure_worker_that_is_stopped_aborts(make: Maker, name: str) -> None:
    run = make()
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.parties[name].interrupt("stopped by its operator")
    errors = run.run()
    assert set(errors) == set(run.roles)
    for party, error in errors.items():
        # The data owners wait for its return, as the model owner does, and end when it ends or they do.
        assert "stopped by its operator" in str(error) or (name == "third" and "third" in str(error)), party
    run.no_trace_of_an_aggregate()


# --- deadlines of one round leave nothing behind


def test_machines_keep_nothing_of_a_round_that_ended(make: Maker) -> None:
    run = make(4, plan=make.plan(rounds=3), limits_of={"bob": LocalLimits(tasks=("other",))})
    assert set(run.run().values()) == {None}
    for name in make.names[:4]:
        machine = run.machines[name]
        assert machine.asked is None
        assert not machine._uploads
        assert len(machine._sent) <= 2
        assert not run.parties[name]._transfers._in
        assert not run.parties[name]._transfers._out
    assert run.machines["third"]._intake is None
    assert not run.parties["third"]._transfers._in
    assert not run.parties["third"]._transfers._out
    assert not run.parties["owner"]._transfers._in


def test_a_receipt_that_was_lost_is_made_good_by_the_close_list(make: Maker) -> None:
    class Forgets(SecureWorker):
        def send(self, peer: str, message: Any) -> None:
            if not (peer == "bob" and isinstance(message, Receipted)):
                super().send(peer, message)

    run = make(4, machines={"third": Forgets})
    assert set(run.run().values()) == {None}
    assert not run.all_refused
    assert run.record(1).absent == ()
    assert "bob" in run.statement(1).contributors
