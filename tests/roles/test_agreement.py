"""A model owner that relays what secure workers tell each other, and lies: nothing is released, or the same sum."""

from typing import Any

import msgspec
import numpy as np
import pytest
from tertium.crypto.errors import BadSignature
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.errors import NotInCohort, SplitView, WrongOpenRound, WrongSender
from tertium.protocol.messages import Aborted, Closed, CloseList, Closes, Cosignature, HolderList, Listed, Lists, Signed
from tertium.protocol.progress import RoundClosed
from tertium.protocol.rounds import Phase
from tertium.protocol.statements import sign
from tertium.secure_worker.agreement import agreed_set, check_closes
from tertium.secure_worker.machine import SecureWorker

Maker = Any
Run = Any
WORKERS = ("first", "second", "third")
SHORT = Deadlines(join=2, upload=5, close=2, release=5, statement=2, absence=3)


def additive(make: Maker, **machines: Any) -> Run:
    rules = make.rules(mode=Mode.ADDITIVE, scheme=SchemeName(name="additive"), deadlines=SHORT)
    return make(4, rules=rules, workers=WORKERS, machines={"owner": make.sums, **machines})


class Relays(ModelOwner):
    """Relays what `change` makes of what it should."""

    change: Any = None

    def send(self, peer: str, message: Any) -> None:
        changed = self.change(peer, message)
        if changed is not None:
            super().send(peer, changed)

    def _apply(self, question: Any, total: Any, contributors: int, *, scored: bool) -> Any:
        self.total = total.copy()
        return super()._apply(question, total, contributors, scored=scored)


def lying(change: Any) -> type[Relays]:
    return type("Lying", (Relays,), {"change": staticmethod(change)})


@pytest.mark.parametrize(
    "change",
    [
        lambda peer, said: None if isinstance(said, Lists) else said,
        lambda peer, said: None if isinstance(said, Lists) and peer == "second" else said,
        lambda peer, said: None if isinstance(said, Closes) else said,
        lambda peer, said: Lists(lists=said.lists[:2]) if isinstance(said, Lists) else said,
        lambda peer, said: Lists(lists=said.lists[::-1]) if isinstance(said, Lists) else said,
        lambda peer, said: Lists(lists=(said.lists[0],) * 3) if isinstance(said, Lists) else said,
        lambda peer, said: Closes(signatures=said.signatures[:2]) if isinstance(said, Closes) else said,
        lambda peer, said: Closes(signatures=(said.signatures[0],) * 3) if isinstance(said, Closes) else said,
    ],
    ids=["no lists", "no lists to one", "no Close lists", "two lists", "in another order", "one thrice",
         "two Close lists", "one Close list thrice"],
)  # fmt: skip
def test_a_model_owner_that_withholds_lists_gets_no_sum(make: Maker, change: Any) -> None:
    run = additive(make, owner=lying(change))
    run.run()
    assert not run.released
    assert not [each for each in run.handled["owner"] if not each.sealed]
    assert not [each for name in WORKERS for each in run.said(name, RoundClosed)]


def test_a_model_owner_that_withholds_close_lists_from_one_gets_partial_totals_of_one_set(make: Maker) -> None:
    """Two of three may release; their totals are of the set that all three signed, and are no sum without the third."""
    run = additive(make, owner=lying(lambda peer, said: None if isinstance(said, Closes) and peer == "third" else said))
    run.run()
    assert not run.released
    assert not hasattr(run.machines["owner"], "total")
    closed = {done.contributors for name in ("first", "second") for done in run.said(name, RoundClosed)}
    assert closed == {("alice", "bob", "carol", "dave")}


def test_a_secure_worker_that_shows_two_lists_is_told_from_the_others(make: Maker) -> None:
    class TwoLists(SecureWorker):
        """Lists nobody, once it has listed somebody."""

        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if isinstance(message, Listed):
                said = decode_as(HolderList, message.list.statement)
                super().send(peer, Listed(list=sign(self.identity, msgspec.structs.replace(said, contributions=()))))

    run = additive(make, second=TwoLists)
    run.run()
    assert "split-view" in run.refused("owner")


def test_a_secure_worker_that_closes_over_another_set_ends_the_attempt(make: Maker) -> None:
    class Drops(SecureWorker):
        """Agrees on a set, and says it closed over one without bob."""

        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Closed):
                said = decode_as(CloseList, message.close.statement)
                kept = tuple(each for each in said.contributions if each.party != "bob")
                message = Closed(close=sign(self.identity, msgspec.structs.replace(said, contributions=kept)))
            super().send(peer, message)

    run = additive(make, second=Drops)
    run.run()
    assert "split-view" in run.refused("owner")
    assert not run.released
    assert not [each for name in ("first", "third") for each in run.said(name, RoundClosed)]


def test_who_vanishes_before_its_last_share_is_in_no_sum(make: Maker, plain_sum: Any) -> None:
    class Vanishes(make.slow):  # type: ignore[name-defined,misc]
        """Gives every holder but the one that counts its share."""

        def send(self, peer: str, message: Any) -> None:
            if getattr(message, "receipts", ()):
                return
            super().send(peer, message)

    run = additive(make, bob=Vanishes)
    run.run(until=lambda: bool(run.released))
    contributors = ("alice", "carol", "dave")
    assert {run.statement(1, name).contributors for name in WORKERS} == {contributors}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, contributors))


# --- one list at a time


@pytest.fixture(scope="module")
def stand(make_once: Maker) -> Any:
    """A round that all three have listed, and nobody has agreed on."""
    rules = make_once.rules(mode=Mode.ADDITIVE, scheme=SchemeName(name="additive"))
    run = make_once(4, rules=rules, workers=WORKERS, machines={"owner": lying(lambda peer, said: _held(said))})
    run.run(until=lambda: all(run.machines[name].phase is Phase.LISTED for name in WORKERS))
    return run


def _held(said: Any) -> Any:
    return None if isinstance(said, Lists | Closes | Aborted) else said


def lists_of(run: Run) -> list[Signed]:
    return [run.machines[name]._list for name in WORKERS]


def agree(run: Run, lists: list[Signed]) -> CloseList:
    first = run.machines["first"]
    intake = first._intake
    return agreed_set(run.charter, first._seats, intake.question, intake.open_round, first._list, tuple(lists))


def again(run: Run, at: int, signer: str | None = None, **changes: Any) -> list[Signed]:
    """The lists with one changed and signed again."""
    lists = lists_of(run)
    said = msgspec.structs.replace(decode_as(HolderList, lists[at].statement), **changes)
    lists[at] = sign(run.identities[signer or WORKERS[at]], said)
    return lists


def test_the_set_is_what_all_lists_name_together(stand: Run) -> None:
    close = agree(stand, lists_of(stand))
    assert close.contributors == ("alice", "bob", "carol", "dave")
    assert (close.holder, close.declined, close.missing) == ("first", (), ())
    declined = agree(stand, again(stand, 1, contributions=(), declined=("alice",), missing=("bob",)))
    own = {each.party for each in decode_as(HolderList, lists_of(stand)[1].statement).contributions}
    assert set(declined.contributors) == {"alice", "bob", "carol", "dave"} - own
    assert not {*declined.declined, *declined.missing} & set(declined.contributors)


def test_every_list_is_checked_before_there_is_a_set(stand: Run) -> None:
    first = decode_as(HolderList, lists_of(stand)[0].statement)
    stolen = decode_as(HolderList, lists_of(stand)[1].statement)
    forged = lists_of(stand)
    forged[1] = msgspec.structs.replace(forged[1], signature=bytes(64))
    for lists, error in (
        (lists_of(stand)[:2], WrongSender),
        (lists_of(stand)[::-1], WrongSender),
        (again(stand, 0, missing=("bob",)), WrongSender),  # not the list that we signed
        (again(stand, 1, open_round=bytes(32)), WrongOpenRound),
        (again(stand, 1, holder="third"), WrongOpenRound),
        (again(stand, 1, missing=("mallory",)), NotInCohort),
        (again(stand, 1, contributions=first.contributions), SplitView),
        (again(stand, 2, contributions=stolen.contributions), SplitView),
        (forged, BadSignature),
    ):
        with pytest.raises(error):
            agree(stand, lists)


def test_every_close_list_is_checked_before_a_release(stand: Run) -> None:
    first = stand.machines["first"]
    seats, question = first._seats, first._intake.question
    close = agree(stand, lists_of(stand))
    ours = sign(stand.identities["first"], close)

    def signatures(at: int = 1, signer: str | None = None, **changes: Any) -> tuple[Cosignature, ...]:
        said = [msgspec.structs.replace(close, holder=name) for name in WORKERS]
        said[at] = msgspec.structs.replace(said[at], **changes)
        signed = [
            sign(stand.identities[(signer or name) if number == at else name], each)
            for number, (name, each) in enumerate(zip(WORKERS, said, strict=True))
        ]
        return tuple(
            Cosignature(party=name, signature=each.signature) for name, each in zip(WORKERS, signed, strict=True)
        )

    good = signatures()
    check_closes(stand.charter, seats, question, ours, good)
    for found, error in (
        (good[:2], WrongSender),
        (good[::-1], WrongSender),
        ((good[0],) * 3, WrongSender),
        (signatures(0, missing=("bob",)), SplitView),
        (signatures(holder="third"), SplitView),
        (signatures(open_round=bytes(32)), SplitView),
        (signatures(contributions=close.contributions[1:]), SplitView),
        (signatures(missing=("erin",)), SplitView),
        (signatures(declined=("erin",)), SplitView),
        (signatures(signer="alice"), SplitView),
    ):
        with pytest.raises(error):
            check_closes(stand.charter, seats, question, ours, found)
