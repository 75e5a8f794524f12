"""Shares in some totals that cannot be left out: all secure workers give such a set up, before one has signed it."""

from typing import Any

import msgspec
import pytest
from tertium.owner.machine import ModelOwner
from tertium.protocol import limits
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.codec import encode
from tertium.protocol.errors import SplitView
from tertium.protocol.machine import Send
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Closed,
    CloseList,
    Closes,
    Contribution,
    Decline,
    Declined,
    HolderList,
    Lists,
    Signed,
)
from tertium.protocol.rounds import Phase
from tertium.secure_worker.gate import ModelKept
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
Still = Any
NAMES = ("alice", "bob", "carol", "dave")
FOUR = ("first", "second", "third", "fourth")
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)


class Holds(ModelOwner):
    """Passes nothing on."""

    def send(self, peer: str, message: Any) -> None:
        if not isinstance(message, Lists | Closes | Aborted):
            super().send(peer, message)


class HoldsSignatures(ModelOwner):
    """Passes on lists only."""

    def send(self, peer: str, message: Any) -> None:
        if not isinstance(message, Closes | Aborted):
            super().send(peer, message)


class HalfWay(DataOwner):
    """Gives every share but the one that counts."""

    def _announce(self, upload: Any) -> None:
        if not upload.counting:
            super()._announce(upload)


def committee(make: Maker, minimum: int = 3, **machines: Any) -> Run:
    """Two of four make a sum, three sign a set."""
    named = SchemeName(name="shamir", threshold=2)
    rules = make.rules(minimum, mode=Mode.SHAMIR, scheme=named, deadlines=SOON)
    return make(4, rules=rules, workers=FOUR, machines=machines)


def counting(run: Run, name: str) -> str:
    owner = run.machines["owner"]
    worker: str = owner._seats.counting(owner._asking.question, name)
    return worker


def gets_early(run: Run, contributor: str) -> list[str]:
    """Which secure workers get a vector of it that another counts: with t = 2 all but one, which gets a seed."""
    owner = run.machines["owner"]
    seats, question = owner._seats, owner._asking.question
    others = [name for name in FOUR if name != counting(run, contributor)]
    got = [name for name in others if contributor in seats.vectors_to(question, name)]
    assert len(got) == 2
    return got


def said(run: Run, name: str) -> HolderList:
    return msgspec.msgpack.decode(run.machines[name]._list.statement, type=HolderList)


@pytest.mark.parametrize("minimum", [3, 4])
def test_nobody_signs_a_set_that_some_cannot_sum(make: Maker, still: type[Still], minimum: int) -> None:
    """All conclude it from the same lists, also the one that could sum the set, and no release gate is bound to it."""
    run = committee(make, minimum, owner=Holds, bob=HalfWay)
    run.run(until=lambda: all(run.machines[name].phase is Phase.LISTED for name in FOUR))
    at, model = still(run), run.machines["owner"]._asking.question.model
    assert [name for name in FOUR if "bob" in said(run, name).added] == gets_early(run, "bob")
    everybodys = Lists(lists=tuple(run.machines[name]._list for name in at.asking.question.present))
    for name in FOUR:
        machine = run.machines[name]
        machine.take_effects()
        at.say(name, "owner", everybodys)
        sent = [each.message for each in machine.take_effects() if isinstance(each, Send)]
        assert not [each for each in sent if isinstance(each, Closed)]
        abort = msgspec.msgpack.decode(next(e for e in sent if isinstance(e, Aborted)).abort.statement, type=Abort)
        few = minimum == 4
        text = "3 contributors; the minimum cohort is 4" if few else "bob: is not listed, and its share is in the total"
        assert text in abort.text
        assert abort.cause is (Cause.TOO_FEW if few else Cause.LOCAL)
        assert machine._memory.gate._journal.read(ModelKept, model) is None


def added_at(run: Run, name: str) -> set[str]:
    intake = run.machines[name]._intake
    return set() if intake is None else set(intake.added)


@pytest.fixture
def all_but_dave(make: Maker, still: type[Still]) -> Any:
    """Everybody else's shares are everywhere, and dave still trains."""
    run = committee(make, dave=make.slow)
    run.run(until=lambda: all(len(added_at(run, name)) == 3 for name in FOUR))
    return still(run)


def test_a_secure_worker_waits_for_vectors_that_others_count(all_but_dave: Still) -> None:
    """Its list says what it has added, so nothing may come into its total after it."""
    run, now = all_but_dave.run, all_but_dave.run.clock.now
    for name in (*gets_early(run, "dave"), counting(run, "dave")):
        machine = run.machines[name]
        machine.tick(now)
        assert machine.phase is Phase.COLLECTING
        assert machine._intake.awaited == {"dave"}
        assert machine._intake.outstanding == ({"dave"} if name == counting(run, "dave") else set())


def test_it_waits_no_longer_for_who_declines(all_but_dave: Still) -> None:
    run = all_but_dave.run
    name = gets_early(run, "dave")[0]
    declined = Declined(decline=all_but_dave.by("dave", Decline(open_round=all_but_dave.name, party="dave")))
    all_but_dave.say(name, "dave", declined)
    assert run.machines[name].phase is Phase.LISTED
    assert (said(run, name).declined, said(run, name).missing, said(run, name).added) == ((), (), added(run, name))


def test_it_waits_no_longer_for_who_is_gone(all_but_dave: Still) -> None:
    run, now = all_but_dave.run, all_but_dave.run.clock.now
    name = gets_early(run, "dave")[0]
    machine = run.machines[name]
    machine.peer_down("dave", "gone", now)
    assert machine.next_deadline() == now + limits.ABSENCE
    machine.tick(now + limits.ABSENCE)
    assert machine.phase is Phase.LISTED
    assert machine._intake._frozen
    assert (said(run, name).declined, said(run, name).missing, said(run, name).added) == ((), (), added(run, name))


def added(run: Run, name: str) -> tuple[str, ...]:
    """Who but dave is counted by another."""
    return tuple(each for each in NAMES[:3] if name in gets_early(run, each))


@pytest.mark.parametrize("names", [("bob", "alice"), ("alice", "alice")])
def test_who_was_added_is_sorted_and_named_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="sorted and names nobody twice"):
        HolderList(bytes(32), "first", (), (), (), names)


def test_a_model_owner_names_the_first_to_close_over_another_set_than_the_lists_make(
    make: Maker, still: type[Still]
) -> None:
    """Whoever closes after it is honest, and is not held to what a liar said first."""
    run = committee(make, owner=HoldsSignatures)
    run.run(until=lambda: all(run.machines[name].phase is Phase.CLOSED for name in FOUR))
    at = still(run)
    close = run.machines["first"]._memory.release.close
    entries = msgspec.msgpack.decode(close.statement, type=CloseList).contributions
    at.asking.closes.clear()
    lie = at.again("first", close, CloseList, contributions=entries[1:])
    at.refuses(("owner", "first", lambda _: Closed(close=lie), SplitView))
    at.say("owner", "second", Closed(close=run.machines["second"]._memory.release.close))
    assert set(at.asking.closes) == {"second"}


def test_every_list_of_the_largest_committee_fits_a_frame() -> None:
    """Each party is counted by one secure worker, and may be in the totals of fifteen others."""
    holders, names = 16, tuple(f"{at:032}" for at in range(3000))
    lists = []
    for at in range(holders):
        ours = tuple(Contribution(name, bytes(32)) for name in names[at::holders])
        others = tuple(sorted(set(names) - set(names[at::holders])))
        made = HolderList(bytes(32), f"{at:032}", ours, (), (), others)
        lists.append(Signed(f"{at:032}", encode(made), bytes(64)))
    assert len(encode(Lists(lists=tuple(lists)))) < limits.control_frame(len(names))
