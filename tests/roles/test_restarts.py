"""Processes that end in the middle of a round and are started again: it is finished, over exactly the same sum."""

import re
from typing import Any

import numpy as np
import pytest
from tertium.protocol import limits
from tertium.protocol.codec import decode_as
from tertium.protocol.errors import JournalError
from tertium.protocol.ledger import CheckpointKept, HeldKept
from tertium.protocol.messages import (
    Abort,
    Cause,
    Closed,
    CloseList,
    OfferRound,
    OpenRound,
    ProposeRound,
    RoundOffer,
    RoundRecord,
)
from tertium.protocol.progress import RefusedProgress, RoundDone
from tertium.protocol.rounds import Phase
from tertium.protocol.statements import open_signed
from tertium.secure_worker.machine import SecureWorker

Maker = Any
Run = Any

NAMES = ("alice", "bob", "carol", "dave")


def phases(role: str) -> list[Phase]:
    return {
        "owner": [Phase.OFFERING, Phase.COLLECTING, Phase.RECEIVING, Phase.VERIFYING, Phase.RELEASED],
        "third": [Phase.COLLECTING, Phase.RELEASED],
        "bob": [Phase.INVITED, Phase.RECEIVING, Phase.UPLOADING, Phase.CONTRIBUTED],
    }[role]


@pytest.fixture
def undisturbed(make: Maker) -> bytes:
    """The model after two rounds in which nothing happened."""
    run = make(4, plan=make.plan(rounds=2))
    assert set(run.run().values()) == {None}
    return bytes(run.model.to_bytes())


def exact(run: Run, plain_sum: Any, number: int = 2) -> None:
    """The last round's sum is that of its contributors, and they are everybody."""
    assert run.statement(number).contributors == NAMES
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, number, NAMES))


@pytest.mark.parametrize(
    ("name", "phase"), [(name, phase) for name in ("owner", "third", "bob") for phase in phases(name)]
)
def test_a_round_survives_the_restart_of_anybody_at_any_step(
    make: Maker, undisturbed: bytes, plain_sum: Any, name: str, phase: Phase
) -> None:
    run = make(4, plan=make.plan(rounds=2), machines={"owner": make.sums, "dave": make.slow})
    run.run(until=lambda: run.machines[name].phase is phase)
    run.restart(name)
    errors = run.run()
    assert {who: error for who, error in errors.items() if error} == {}
    exact(run, plain_sum)
    assert bytes(run.model.to_bytes()) == undisturbed
    assert run.clock.now < 60


def test_everybody_at_once(make: Maker, undisturbed: bytes, plain_sum: Any) -> None:
    run = make(4, plan=make.plan(rounds=2), machines={"owner": make.sums, "dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.CONTRIBUTED)
    for name in (*run.roles,):
        run.lose(name)
    for name in run.roles:
        if name == "owner":
            run.begin_again()
        run._add(name)
    for name in run.roles:
        for peer in run._dials(name):
            run.lanes[name].connect(peer)
    assert set(run.run().values()) == {None}
    exact(run, plain_sum)
    assert bytes(run.model.to_bytes()) == undisturbed


def test_a_data_owner_that_comes_back_misses_no_record_that_came(make: Maker) -> None:
    """An alarm that every restart raises is one that nobody reads."""
    run = make(4, plan=make.plan(rounds=6))
    run.run(until=lambda: run.released == [1, 2] and run.machines["bob"].phase is Phase.INVITED)
    run.restart("bob")
    assert set(run.run().values()) == {None}
    warnings = [line.text for line in run.said("bob") if line.warning]
    assert not [text for text in warnings if "no record of our contribution" in text]


def forget(run: Run, name: str) -> None:
    """Take from a journal all that a role wrote, but not the view ledger: without it nobody speaks to that party."""
    ledgers = (CheckpointKept.kind, HeldKept.kind, "journal")
    run.journals[name]._db.execute(f"delete from entries where kind not in {ledgers}")


def loses_its_journal(make: Maker, phase: Phase) -> Run:
    """Run two rounds; in the second, with the model owner in this phase, the secure worker comes back with nothing."""
    run = make(4, plan=make.plan(rounds=2), machines={"owner": make.sums, "dave": make.slow})
    run.run(until=lambda: run.released == [1] and run.machines["owner"].phase is phase)
    forget(run, "third")
    run.restart("third")
    run.run()
    return run


@pytest.mark.parametrize("name", ["third", "owner", "alice"])
def test_a_party_that_lost_its_view_ledger_is_refused_by_whoever_remembers_it(make: Maker, name: str) -> None:
    """It signed for entries that are not there any more: a restored old disk looks like this, and so does a lie."""
    run = make(4, plan=make.plan(rounds=2), machines={"dave": make.slow})
    run.run(until=lambda: run.released == [1] and run.machines["owner"].phase is Phase.COLLECTING)
    del run.journals[name]
    run.restart(name)
    errors = run.run()
    refused = {
        other: [line.text for line in run.said(other, RefusedProgress) if line.code == "split-view"]
        for other in run.roles
    }
    said = [text for texts in refused.values() for text in texts]
    assert said
    shrunk = re.compile(f"{name}: shows a view ledger of [0-9]+ entries, and has signed for [0-9]+")
    assert all(shrunk.search(text) for text in said)
    assert not refused[name]
    if name == "alice":
        # The others go on without it.
        assert run.released == [1, 2]
        assert run.statement(2).contributors == ("bob", "carol", "dave")
    else:
        assert run.released == [1]
        assert errors["owner"]


@pytest.mark.parametrize("phase", [Phase.OFFERING, Phase.COLLECTING])
def test_a_secure_worker_without_its_journal_is_asked_in_another_session(
    make: Maker, undisturbed: bytes, plain_sum: Any, phase: Phase
) -> None:
    run = loses_its_journal(make, phase)
    assert set(run.errors.values()) == {None}
    assert len([line for line in run.said("owner") if "opening another session" in line.text]) == 1
    exact(run, plain_sum)
    assert bytes(run.model.to_bytes()) == undisturbed
    assert run.clock.now < 30  # no deadline has run out


def test_a_secure_worker_without_its_journal_costs_a_step_taken_nothing_but_its_signature(make: Maker) -> None:
    lost = [True]

    class Keeps(SecureWorker):
        def send(self, peer: str, message: Any) -> None:
            if not (isinstance(message, RoundRecord) and lost[0]):
                super().send(peer, message)

    run = make(4, plan=make.plan(rounds=2), machines={"third": Keeps})
    run.run(until=lambda: run.machines["owner"].phase is Phase.RELEASED)
    lost[0] = False
    forget(run, "third")
    run.restart("third")
    assert set(run.run().values()) == {None}
    first, second = run.said("owner", RoundDone)
    assert (first.absent_cosigners, second.absent_cosigners) == (("third",), ())
    assert run.clock.now < 30


def test_a_release_that_went_with_the_journal_ends_the_session_at_once(make: Maker) -> None:
    run = loses_its_journal(make, Phase.RECEIVING)
    assert run.errors["owner"] == "third refused the question (wrong-session)"
    assert run.released == [1]
    assert run.clock.now < 30


def test_another_attempt_asks_the_same_and_shows_whom_the_first_had_receipted(make: Maker) -> None:
    questions: list[Any] = []
    offers: list[Any] = []
    closes: list[Any] = []

    class Third(SecureWorker):
        def _on_propose_round(self, peer: str, message: ProposeRound, now: float) -> None:
            questions.append(decode_as(OpenRound, message.open_round.statement))
            super()._on_propose_round(peer, message, now)

        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, OfferRound):
                offers.append(decode_as(RoundOffer, message.offer.statement))
            if isinstance(message, Closed):
                closes.append(decode_as(CloseList, message.close.statement))
            super().send(peer, message)

    run = make(4, machines={"third": Third, "dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.CONTRIBUTED)
    had = sorted(name for name in NAMES if run.machines[name].phase is Phase.CONTRIBUTED)
    run.restart("third")
    assert set(run.run().values()) == {None}
    first, again, second = questions
    assert first == again
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.owner_key != second.owner_key
    same = {name: getattr(first, name) for name in first.__struct_fields__ if name not in ("attempt", "owner_key")}
    assert same == {name: getattr(second, name) for name in same}
    assert offers[0].aborted is None
    assert offers[0].key != offers[1].key
    abort = open_signed(run.charter, offers[1].aborted, Abort)
    assert (abort.party, abort.attempt, [entry.party for entry in abort.receipted]) == ("third", 0, had)
    # Nobody trained a second time, and no commitment is one of the first attempt's.
    assert sorted(run.encoded) == [(name, 1) for name in NAMES]
    old = {entry.commitment for entry in abort.receipted}
    assert not old & {entry.commitment for entry in closes[-1].contributions}
    assert run.statement(1).contributors == NAMES


def test_a_release_is_resent_byte_for_byte(make: Maker) -> None:
    heads: list[Any] = []
    bodies: list[bytes] = []

    class Third(SecureWorker):
        def effect(self, effect: Any) -> None:
            if type(effect).__name__ == "Provide":
                heads.append(effect.outgoing.head)
                bodies.append(b"".join(effect.outgoing.records()))
            super().effect(effect)

    run = make(4, machines={"third": Third})
    run.run(until=lambda: run.machines["owner"].phase is Phase.RECEIVING)
    run.restart("third")
    run.run(until=lambda: len(heads) > 1)
    run.restart("owner")
    assert set(run.run().values()) == {None}
    assert len(heads) >= 3
    assert len(set(heads)) == 1
    assert len(set(bodies)) == 1
    assert run.statement(1).contributors == NAMES


def test_an_abort_without_our_receipted_contribution_is_evidence(make: Maker) -> None:
    class Forgets(SecureWorker):
        def start(self, now: float) -> None:
            self._memory.receipted = lambda: ()  # type: ignore[method-assign]
            super().start(now)

    run = make(4, machines={"third": Forgets, "dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.CONTRIBUTED)
    run.restart("third")
    run.run()
    assert "split-view" in run.refused("bob")
    assert not run.released


def test_a_data_owner_whose_training_comes_out_otherwise_after_a_restart_declines(make: Maker) -> None:
    run = make(4, machines={"dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    other = make(4)
    other.tasks["bob"] = other.tasks["carol"]
    run.tasks["bob"] = other.tasks["bob"]
    run.restart("bob")
    assert not [error for error in run.run().values() if error]
    assert [line for line in run.said("bob") if "came out otherwise" in line.text]


def everybody_else_begins_anew(run: Run, *kept: str, here: tuple[str, ...]) -> None:
    """A model owner that lost its folder starts over, from the first model; only `kept` know what they wrote before."""
    for name in run.roles:
        run.network.stop(name)
        if name not in kept:
            forget(run, name)
    run.lanes.clear()
    run.parties.clear()
    for path in (run.store.folder / "checkpoints").iterdir():
        path.unlink()
    run.begin_again()
    for name in here:
        run._add(name)
    for name in run.parties:
        for peer in run._dials(name):
            run.lanes[name].connect(peer)


def test_the_gate_remembers_over_restarts_and_sessions(make: Maker) -> None:
    run = make(4)
    assert set(run.run().values()) == {None}
    everybody_else_begins_anew(run, "third", here=("third", "owner", "alice", "bob", "carol"))
    errors = run.run()
    assert "this very model was released over another contributor set" in str(errors["owner"])
    assert run.released == [1]


def test_the_last_contributor_set_of_a_model_binds_data_owners_too(make: Maker) -> None:
    """Their own journals are a second line: a set that differs is not answered, whatever the secure worker allows."""
    run = make(4, machines={"owner": make.sums})
    assert set(run.run().values()) == {None}
    everybody_else_begins_anew(run, "alice", "bob", "carol", "dave", here=("third", "owner", "alice", "bob", "carol"))
    run.run()
    for name in ("alice", "bob", "carol"):
        assert [line for line in run.said(name) if "summed over another set" in line.text], name
    assert run.released == [1]


@pytest.mark.parametrize("away", [1.0, 20.0])
def test_a_data_owner_below_the_minimum_is_waited_for(make: Maker, plain_sum: Any, away: float) -> None:
    run = make(3, machines={"owner": make.sums, "carol": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.restart("bob", after=away)
    assert not [error for error in run.run().values() if error]
    assert run.statement(1).contributors == NAMES[:3]
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES[:3]))


def test_attempts_come_to_an_end(make: Maker) -> None:
    """A secure worker that loses every attempt is not asked for ever."""

    class Loses(SecureWorker):
        def _on_ready(self, peer: str, message: Any, now: float) -> None:
            self._abort(Cause.LOCAL, "lost it")

    run = make(4, machines={"third": Loses})
    errors = run.run()
    assert "lost it" in str(errors["owner"])
    lost = [line for line in run.said("owner") if "attempt" in line.text]
    assert len(lost) <= limits.ATTEMPTS
    assert not run.released


def test_a_full_disk_ends_a_party_in_one_sentence_and_loses_nothing(make: Maker, undisturbed: bytes) -> None:
    run = make(4, plan=make.plan(rounds=2), machines={"dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    write = run.journals["third"].write

    def full(*_: Any, **__: Any) -> None:
        raise JournalError("the journal cannot be written: database or disk is full")

    run.journals["third"].write = full
    run.run(until=lambda: run.parties["third"].done)
    assert "disk is full" in str(run.parties["third"].error)
    run.journals["third"].write = write
    run.restart("third")
    assert not [error for error in run.run().values() if error]
    assert bytes(run.model.to_bytes()) == undisturbed
