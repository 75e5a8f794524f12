"""Several secure workers: they come to one contributor set or to none, whoever lies to them on the way.

Cases are given to federations that stand still, as in `test_wrong_speakers.py`; the others are played to their end.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from tertium.crypto.errors import BadSignature
from tertium.crypto.labels import Label
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import Deadlines, Mode, SchemeName
from tertium.protocol.errors import (
    IllegalMessage,
    NotInCohort,
    SplitView,
    TooLate,
    Unsummable,
    WrongOpenRound,
    WrongRole,
    WrongSender,
)
from tertium.protocol.machine import Provide
from tertium.protocol.messages import (
    Closed,
    CloseList,
    Closes,
    Cosignature,
    Decline,
    Declined,
    HolderList,
    Listed,
    Lists,
    Ready,
    Receipt,
    Receipted,
    SealedHead,
    Signed,
)
from tertium.protocol.progress import RoundClosed, Said
from tertium.protocol.rounds import Phase
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
Still = Any
Case = tuple[str, str, Callable[[Any], Any], type[Exception]]
NAMES = ("alice", "bob", "carol", "dave")
ELSEWHERE = bytes(range(32))
HEAD = SealedHead(header=b"x", wrapped_key=bytes(1168), signature=bytes(64))
SOON = Deadlines(join=10, upload=30, close=10, release=10, statement=5, absence=20)
TWO, THREE = ("first", "second"), ("first", "second", "third")


def among(make: Maker, workers: tuple[str, ...], mode: Mode = Mode.ADDITIVE, **more: Any) -> Run:
    """A federation with these secure workers."""
    named = SchemeName(name="replicated" if mode is Mode.SHARED else mode.value)
    rules = make.rules(mode=mode, scheme=named, deadlines=SOON)
    machines = {"owner": make.sums, **more.pop("machines", {})}
    return make(4, rules=rules, workers=workers, machines=machines, **more)


def cases(**named: Case) -> Any:
    return pytest.mark.parametrize("case", list(named.values()), ids=[name.replace("_", " ") for name in named])


def counting(run: Run, name: str) -> str:
    """Who counts a data owner's contribution to the question that is open."""
    owner = run.machines["owner"]
    worker: str = owner._seats.counting(owner._asking.question, name)
    return worker


# --- lists


@pytest.fixture(scope="module")
def listed(make_once: Maker, still: type[Still]) -> Still:
    """Both secure workers have said what they counted, and the model owner has not passed it on."""
    run = among(make_once, TWO)
    run.run(until=lambda: all(run.machines[name].phase is Phase.LISTED for name in TWO))
    return still(run)


def said(at: Still, name: str) -> Signed:
    signed: Signed = at.run.machines[name]._list
    return signed


def lists(at: Still, **changes: Any) -> Lists:
    """The lists of both, with other fields in the second's."""
    return Lists(lists=(said(at, "first"), at.again("second", said(at, "second"), HolderList, **changes)))


def of_the_first(at: Still) -> Any:
    return msgspec.msgpack.decode(said(at, "first").statement, type=HolderList).contributions


@cases(
    lists_out_of_order=("first", "owner", lambda at: Lists(lists=lists(at).lists[::-1]), WrongSender),
    one_list=("first", "owner", lambda at: Lists(lists=(said(at, "first"),)), WrongSender),
    another_list_of_ours=("second", "owner", lambda at: lists(at, missing=("dave",)), WrongSender),
    a_list_in_anothers_name=("first", "owner", lambda at: lists(at, holder="first"), WrongOpenRound),
    a_list_of_another_question=("first", "owner", lambda at: lists(at, open_round=ELSEWHERE), WrongOpenRound),
    a_list_that_names_a_stranger=("first", "owner", lambda at: lists(at, missing=("zoe",)), NotInCohort),
    a_list_that_adds_a_stranger=("first", "owner", lambda at: lists(at, added=("zoe",)), NotInCohort),
    a_list_of_what_we_count=("first", "owner", lambda at: lists(at, contributions=of_the_first(at)), SplitView),
    lists_passed_on_by_a_data_owner=("first", "alice", lists, WrongRole),
    close_lists_before_any_is_signed=("first", "owner", lambda at: Closes(signatures=()), TooLate),
)
def test_a_secure_worker_that_listed_refuses(listed: Still, case: Case) -> None:
    listed.refuses(case)


def test_a_list_that_nobody_signed_is_refused(listed: Still) -> None:
    ours, theirs = said(listed, "first"), said(listed, "second")
    forged = Signed(theirs.signer, theirs.statement, bytes(64))
    listed.refuses(("first", "owner", lambda at: Lists(lists=(ours, forged)), BadSignature))


def test_what_is_counted_is_final_once_it_is_listed(listed: Still) -> None:
    late = next(name for name in NAMES if counting(listed.run, name) == "first")
    listed.refuses(("first", late, lambda at: Ready(head=HEAD), TooLate))
    said = listed.run.machines["first"]._list
    declined = Decline(open_round=listed.name, party=late)
    listed.refuses(("first", late, lambda at: Declined(decline=at.by(late, declined)), TooLate))
    assert listed.run.machines["first"]._list is said


def test_a_secure_worker_that_has_listed_waits_for_no_data_owner(
    listed: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listed.run.machines["first"]
    late = next(name for name in NAMES if counting(listed.run, name) == "first")
    monkeypatch.delitem(first._intake.added, late)
    assert late in first._intake.outstanding
    first.peer_down(late, "gone", 1.0)
    assert first.next_deadline() == first._deadline
    first.peer_up(late, 2.0)
    first.take_effects()


@pytest.fixture(scope="module")
def collecting(make_once: Maker, still: type[Still]) -> Still:
    """Both secure workers still wait for contributions."""
    run = among(make_once, TWO, machines={"dave": make_once.slow})
    run.run(until=lambda: all(run.machines[name]._intake is not None for name in TWO))
    return still(run)


@cases(
    lists_before_ours=("first", "owner", lambda at: Lists(lists=()), TooLate),
    close_lists_before_ours=("first", "owner", lambda at: Closes(signatures=()), TooLate),
    close_lists_passed_on_by_a_data_owner=("first", "alice", lambda at: Closes(signatures=()), WrongRole),
)
def test_a_secure_worker_that_collects_waits_for_nobodys_lists(collecting: Still, case: Case) -> None:
    collecting.refuses(case)


def test_who_is_alone_is_passed_on_nobodys_lists(make: Maker, still: type[Still]) -> None:
    run = make(3)
    run.run(until=lambda: run.machines["third"].phase is Phase.RELEASED)
    at = still(run)
    for message in (Lists(lists=()), Closes(signatures=())):
        at.refuses(("third", "owner", lambda _, message=message: message, IllegalMessage))


def holder_list(signer: str, holder: str, open_round: bytes | None = None) -> Callable[[Still], Listed]:
    return lambda at: Listed(list=at.by(signer, HolderList(open_round or at.name, holder, (), (), (), ())))


@cases(
    a_list_of_a_data_owners_own=("owner", "alice", holder_list("alice", "alice"), WrongRole),
    a_list_in_anothers_name=("owner", "second", holder_list("second", "first"), WrongOpenRound),
    a_list_signed_by_another=("owner", "second", holder_list("first", "second"), WrongOpenRound),
    a_list_of_another_question=("owner", "second", holder_list("second", "second", ELSEWHERE), WrongOpenRound),
)
def test_a_model_owner_passes_on_no_such_list(collecting: Still, case: Case) -> None:
    collecting.refuses(case)


def test_a_secure_worker_that_lists_two_sets_is_found(make: Maker, still: type[Still]) -> None:
    run = among(make, TWO)
    run.run(until=lambda: run.machines["owner"]._asking is not None and run.machines["owner"]._asking.lists)
    at = still(run)
    (one,) = at.asking.lists
    another = at.again(one, at.asking.lists[one], HolderList, missing=("dave",))
    at.refuses(("owner", one, lambda at: Listed(list=another), SplitView))


# --- Close lists


class Withholds(ModelOwner):
    """Shows nobody that all have closed over one set."""

    def _pass_on_closes(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture(scope="module")
def agreed(make_once: Maker, still: type[Still]) -> Still:
    """All three have closed over one set, and none has seen the others' word for it."""
    run = among(make_once, THREE, machines={"owner": Withholds})
    run.run(until=lambda: all(run.machines[name].phase is Phase.CLOSED for name in THREE))
    return still(run)


def closed(at: Still, name: str) -> Signed:
    signed: Signed = at.run.machines[name]._memory.release.close
    return signed


def passed_on(*signed: Signed) -> Closes:
    return Closes(signatures=tuple(Cosignature(party=each.signer, signature=each.signature) for each in signed))


def closes(at: Still, of: str = "second", by: str | None = None, **changes: Any) -> Closes:
    """All Close lists, with other fields in one."""
    changed = at.again(by or of, closed(at, of), CloseList, **changes)
    return passed_on(*(changed if name == of else closed(at, name) for name in THREE))


def fewer(at: Still) -> Any:
    return msgspec.msgpack.decode(closed(at, "first").statement, type=CloseList).contributions[:-1]


@cases(
    close_lists_out_of_order=("first", "owner", lambda at: Closes(signatures=closes(at).signatures[::-1]), WrongSender),
    a_close_list_less=("first", "owner", lambda at: Closes(signatures=closes(at).signatures[:2]), WrongSender),
    another_close_list_of_ours=("second", "owner", lambda at: closes(at, missing=("dave",)), SplitView),
    a_close_list_in_anothers_name=("first", "owner", lambda at: closes(at, holder="third"), SplitView),
    a_close_list_of_another_question=("first", "owner", lambda at: closes(at, open_round=ELSEWHERE), SplitView),
    a_close_list_of_another_set=("first", "owner", lambda at: closes(at, contributions=fewer(at)), SplitView),
    close_lists_passed_on_by_a_data_owner=("first", "alice", closes, WrongRole),
)
def test_a_secure_worker_that_closed_refuses(agreed: Still, case: Case) -> None:
    agreed.refuses(case)
    assert not agreed.run.machines[case[0]]._memory.released


def test_lists_that_come_twice_are_passed_over(agreed: Still) -> None:
    agreed.say("first", "owner", Lists(lists=()))
    assert not agreed.run.machines["first"].take_effects()


def test_lists_of_a_released_round_are_passed_over(make: Maker, still: type[Still]) -> None:
    run = among(make, TWO)
    run.run(until=lambda: run.machines["first"].phase is Phase.RELEASED)
    at = still(run)
    for message in (Lists(lists=()), Closes(signatures=())):
        at.say("first", "owner", message)
        assert not run.machines["first"].take_effects()


def test_a_model_owner_takes_no_close_list_of_another_set(agreed: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it was restarted, and has not got the lists again that say which set it is."""
    other = agreed.again("second", closed(agreed, "second"), CloseList, contributions=fewer(agreed))
    asking = agreed.asking
    monkeypatch.setattr(asking, "lists", {})
    first = msgspec.msgpack.decode(closed(agreed, "first").statement, type=CloseList)
    asking.closes = {"first": (ELSEWHERE, first)}
    agreed.refuses(("owner", "second", lambda at: Closed(close=other), SplitView))
    assert set(asking.closes) == {"first"}


def test_a_model_owner_that_shows_different_lists_gets_no_release_from_anybody(make: Maker, still: type[Still]) -> None:
    """One secure worker is in league with it, and signs two lists: each of the others closes over another set."""
    run = among(make, THREE)
    run.run(until=lambda: all(run.machines[name].phase is Phase.LISTED for name in THREE))
    at, now = still(run), run.clock.now
    honest = tuple(said(at, name) for name in THREE)
    entries = msgspec.msgpack.decode(honest[1].statement, type=HolderList).contributions
    lie = at.again("second", honest[1], HolderList, contributions=entries[1:])
    assert entries
    sent: list[Any] = []
    for name, shown in zip(THREE, (honest, honest, (honest[0], lie, honest[2])), strict=True):
        at.say(name, "owner", Lists(lists=shown))
        assert run.machines[name].phase is Phase.CLOSED
        sent += run.machines[name].take_effects()
    everybodys = passed_on(*(closed(at, name) for name in THREE))
    for name in THREE:
        with pytest.raises(SplitView):
            at.say(name, "owner", everybodys)
    for name in THREE:
        run.machines[name].tick(now + 1000)
        sent += run.machines[name].take_effects()
        assert run.machines[name].phase is Phase.IDLE
        assert not run.machines[name]._memory.released
    assert not [effect for effect in sent if isinstance(effect, Provide)]


def test_a_set_that_a_holder_has_no_total_over_is_not_summed(listed: Still) -> None:
    intake = listed.run.machines["first"]._intake
    counted = intake.counted
    intake.check_summable(NAMES)
    with pytest.raises(Unsummable):
        intake.check_summable((*NAMES, "zoe"))
    with pytest.raises(Unsummable):
        intake.check_summable(tuple(name for name in NAMES if name != counted[0]))


@pytest.mark.parametrize("withheld", ["_on_listed", "_pass_on_closes"])
def test_a_model_owner_that_passes_nothing_on_gets_an_abort_and_no_release(make: Maker, withheld: str) -> None:
    hostile = type("Hostile", (ModelOwner,), {withheld: lambda self, *_, **__: None})
    run = among(make, TWO, machines={"owner": hostile})
    errors = run.run()
    assert errors["owner"]
    assert run.released == []
    assert not [each for name in TWO for each in run.said(name, RoundClosed)]
    assert all(run.machines[name]._memory.release is None or not run.machines[name]._memory.released for name in TWO)


def test_nothing_is_released_of_an_attempt_that_was_given_up(make: Maker, still: type[Still]) -> None:
    run = among(make, TWO, machines={"owner": Withholds})
    run.run(until=lambda: all(run.machines[name].phase is Phase.CLOSED for name in TWO))
    at, first = still(run), run.machines["first"]
    all_of_them = passed_on(*(closed(at, name) for name in TWO))
    first.tick(run.clock.now + 1000)
    first.take_effects()
    at.refuses(("first", "owner", lambda at: all_of_them, TooLate))
    assert not first._memory.released


@pytest.mark.parametrize("workers", [("third",), TWO])
def test_a_round_that_was_released_is_not_aborted_at_the_end(make: Maker, workers: tuple[str, ...]) -> None:
    run = among(make, workers, Mode.TRUSTED if workers == ("third",) else Mode.ADDITIVE)
    assert not any(run.run().values())
    said = [each.text for name in workers for each in run.said(name, Said)]
    assert not [text for text in said if "ends without a release" in text]


def test_a_model_owner_that_is_restarted_passes_the_lists_on_again(make: Maker, plain_sum: Any) -> None:
    class ToOne(make.sums):  # type: ignore[name-defined,misc]
        """Has shown the lists to the first alone when it is restarted."""

        def send(self, peer: str, message: Any) -> None:
            if not (isinstance(message, Lists) and peer == "second" and not shown):
                super().send(peer, message)

    shown: list[bool] = []
    run = among(make, TWO, machines={"owner": ToOne})
    run.run(until=lambda: run.machines["first"].phase is Phase.CLOSED)
    assert run.machines["second"].phase is Phase.LISTED
    shown.append(True)
    run.restart("owner")
    assert not any(run.run().values())
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
    assert run.statement(1, "first").open_round == run.statement(1, "second").open_round
    assert run.clock.now < 5


# --- shares


@pytest.fixture(scope="module")
def uploading(make_once: Maker, still: type[Still]) -> Still:
    """Bob has sealed its shares and has no receipt; the three secure workers have one of nobody."""
    run = among(make_once, THREE)
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.machines["bob"].take_effects()
    return still(run)


def receipts(at: Still, *, by: str | None = None, **changes: Any) -> tuple[Signed, ...]:
    """The receipts that go before bob's share to whoever counts it, with something else in the last."""
    run, made = at.run, []
    bob = run.machines["bob"]
    holders = bob._seats.before(at.asking.question, "bob")
    for name in holders:
        upload = bob._uploads[name]
        sent = upload.outgoing
        receipt = Receipt(at.name, name, "bob", sent.subject, sent.commitment, upload.listed)
        if name == holders[-1]:
            made.append(at.by(by or name, msgspec.structs.replace(receipt, **changes)))
        else:
            made.append(at.by(name, receipt))
    return tuple(made)


def ready(at: Still, given: tuple[Signed, ...]) -> Ready:
    upload = at.run.machines["bob"]._uploads[counting(at.run, "bob")]
    return Ready(head=upload.outgoing.head, receipts=given)


def forged(at: Still) -> tuple[Signed, ...]:
    *others, last = receipts(at)
    return (*others, Signed(last.signer, last.statement, bytes(64)))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (lambda at: (), IllegalMessage),
        (lambda at: receipts(at)[:1], IllegalMessage),
        (lambda at: receipts(at)[::-1], IllegalMessage),
        (lambda at: receipts(at, by="alice"), IllegalMessage),
        (lambda at: receipts(at, contributor="carol"), WrongOpenRound),
        (lambda at: receipts(at, open_round=ELSEWHERE), WrongOpenRound),
        (lambda at: receipts(at, holder="alice"), WrongOpenRound),
        (lambda at: receipts(at, commitment=ELSEWHERE), SplitView),
        (lambda at: receipts(at, shares=ELSEWHERE), SplitView),
        (forged, BadSignature),
    ],
    ids=[
        "none",
        "one",
        "out of order",
        "of a data owner",
        "of another",
        "of another round",
        "in anothers name",
        "of another share",
        "of another list",
        "forged",
    ],
)
def test_a_contribution_counts_only_with_every_other_holders_receipt(
    uploading: Still, given: Any, error: type[Exception]
) -> None:
    worker = counting(uploading.run, "bob")
    uploading.refuses((worker, "bob", lambda at: ready(at, given(at)), error))
    assert uploading.run.machines[worker]._intake.next_upload() is None


def test_receipts_where_none_are_wanted_are_refused(uploading: Still) -> None:
    bob = uploading.run.machines["bob"]
    other = bob._seats.before(uploading.asking.question, "bob")[0]
    head = bob._uploads[other].outgoing.head
    uploading.refuses((other, "bob", lambda at: Ready(head=head, receipts=receipts(at)), IllegalMessage))


def test_the_share_that_counts_is_not_announced_before_its_turn(uploading: Still) -> None:
    bob, worker = uploading.run.machines["bob"], counting(uploading.run, "bob")
    bob.peer_up(worker, uploading.run.clock.now)
    assert not bob.take_effects()


def test_a_receipt_that_comes_twice_is_taken_once(make: Maker, still: type[Still]) -> None:
    run = among(make, THREE)
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    at, bob = still(run), run.machines["bob"]
    bob.take_effects()
    receipt = receipts(at)[0]
    at.say("bob", receipt.signer, Receipted(receipt=receipt))
    assert bob.take_effects()
    at.say("bob", receipt.signer, Receipted(receipt=receipt))
    assert not bob.take_effects()


class HalfWay(DataOwner):
    """Gives every share but the one that counts."""

    def _announce(self, upload: Any) -> None:
        if not upload.counting:
            super()._announce(upload)


@pytest.mark.parametrize(("mode", "workers"), [(Mode.ADDITIVE, TWO), (Mode.ADDITIVE, THREE), (Mode.MASKED, ("third",))])
def test_a_data_owner_that_vanishes_half_way_is_in_no_sum(
    make: Maker, plain_sum: Any, mode: Mode, workers: tuple[str, ...]
) -> None:
    run = among(make, workers, mode, machines={"bob": HalfWay})
    run.run()
    others = tuple(name for name in NAMES if name != "bob")
    assert run.released == [1]
    assert {run.statement(1, worker).contributors for worker in workers} == {others}
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, others))
    opened = [each for party in (*workers, "owner") for each in run.handled[party] if not each.sealed]
    shares = len([each for each in opened if each.label is Label.CONTRIBUTION])
    assert shares == len(NAMES) * len(run.machines["owner"]._seats.holders) - 1


def test_a_share_that_cannot_be_taken_back_ends_the_attempt_and_not_the_session(make: Maker, plain_sum: Any) -> None:
    class Once(HalfWay):
        def _announce(self, upload: Any) -> None:
            if self.asked is not None and self.asked.question.attempt:
                DataOwner._announce(self, upload)
            else:
                super()._announce(upload)

    run = among(make, THREE, Mode.SHARED, machines={"bob": Once})
    errors = run.run()
    assert not any(errors.values())
    assert run.statement(1, "first").contributors == NAMES
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, NAMES))
    assert any("its share is in the total already" in each.text for each in run.said("owner", Said))


def test_a_data_owner_that_is_restarted_between_its_shares_sits_the_round_out(make: Maker, plain_sum: Any) -> None:
    run = among(make, TWO, machines={"dave": make.slow})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.restart("bob")
    errors = run.run()
    assert not any(errors.values())
    others = ("alice", "carol", "dave")
    assert run.statement(1, "first").contributors == others
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, others))
    assert any("restarted while it sent its shares" in each.text for each in run.said("bob", Said))


# --- a model owner with a seat, and one without


@pytest.fixture(scope="module")
def offering(make_once: Maker, still: type[Still]) -> Still:
    """A model owner that holds seeds has asked, and has no secure worker's key."""
    run = among(make_once, ("third",), Mode.MASKED)
    run.run(until=lambda: run.machines["owner"].phase is Phase.OFFERING)
    return still(run)


@cases(
    a_share_before_there_is_a_key=("owner", "alice", lambda at: Ready(head=HEAD), TooLate),
    a_share_of_a_secure_workers=("owner", "third", lambda at: Ready(head=HEAD), WrongRole),
)
def test_a_model_owner_with_a_seat_refuses(offering: Still, case: Case) -> None:
    offering.refuses(case)


def test_a_model_owner_without_a_seat_takes_no_share(collecting: Still) -> None:
    collecting.refuses(("owner", "alice", lambda at: Ready(head=HEAD), IllegalMessage))


def test_a_model_owner_opens_no_contribution_but_where_it_has_a_seat(make: Maker) -> None:
    for mode, workers, shares in ((Mode.MASKED, ("third",), 4), (Mode.ADDITIVE, TWO, 0)):
        run = among(make, workers, mode)
        assert not any(run.run().values())
        opened = [each for each in run.handled["owner"] if not each.sealed and each.label is Label.CONTRIBUTION]
        assert len(opened) == shares
