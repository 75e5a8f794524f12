"""The uploads of one round at one holder: few at once, each sender once, buffers used again, seeds kept for the end."""

from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.crypto.sharing.base import Kind, Seed
from tertium.crypto.sharing.wire import share_sections
from tertium.protocol import limits
from tertium.protocol.charter import Mode, SchemeName
from tertium.protocol.errors import AlreadyContributed, IllegalMessage, Unsummable, WrongOpenRound, WrongSender
from tertium.protocol.exchange import Committed, Outgoing
from tertium.protocol.intake import Intake
from tertium.protocol.messages import Receipt
from tertium.protocol.statements import sign
from tertium.workers.data_owner import DataOwner

Maker = Any


class _Idle(DataOwner):
    def _on_invitation(self, peer: str, message: Any, now: float) -> None:
        pass


class Desk:
    """A round of seven that collects, and a way to seal shares for any of its holders."""

    def __init__(self, make: Maker, mode: Mode, scheme: str, workers: tuple[str, ...]) -> None:
        rules = make.rules(mode=mode, scheme=SchemeName(name=scheme))
        self.run = make(7, machines=dict.fromkeys(make.names, _Idle), rules=rules, workers=workers)
        self.run.run(until=lambda: all(self.at(name) is not None for name in workers))
        self.question = self.at(workers[0]).question
        self.seats = self.run.machines[workers[0]]._seats
        self.committed: dict[str, dict[str, Committed]] = {}
        """What each sender's headers list, by holder: of the last vector it has split."""

    def at(self, holder: str) -> Intake:
        found: Intake = self.run.machines[holder]._intake
        return found

    def split(self, sender: str, value: int) -> dict[str, list[Any]]:
        """The sections of every holder's share of a vector that is `value` everywhere."""
        question, seats = self.question, self.seats
        secret = np.full(question.words, value, question.plan.dtype)
        dealer = seats.scheme.dealer(question.plan, question.words)
        shares = dealer.split(secret, seats.turn(question, sender))
        sections = {
            name: [bytes(part) for part in share_sections(share)]
            for name, share in zip(seats.holders, shares, strict=True)
        }
        commit, label = self.run.machines[sender].exchange.commit, Label.CONTRIBUTION
        self.committed[sender] = {
            name: commit(label, self.at(name).context, name, self.at(name).key.public, sections.get(name, []))
            for name in seats.recipients(question, sender)
        }
        return sections

    def seal(self, sender: str, holder: str, sections: list[Any]) -> Outgoing:
        room = self.at(holder)
        exchange = self.run.machines[sender].exchange
        ours, label = self.committed[sender], Label.CONTRIBUTION
        listed = [each.commitment for each in ours.values()]
        return exchange.seal(
            label, room.context, holder, room.key.public, sections, committed=ours[holder], shares=listed
        )

    def upload(self, sender: str, holder: str, sections: list[Any], receipts: tuple[Any, ...] = ()) -> Any:
        """Send a share through announcement, records and receipt; returns the receipt."""
        room, outgoing = self.at(holder), self.seal(sender, holder, sections)
        assert room.admit(sender, outgoing.head, receipts) is None
        name, incoming, _ = room.next_upload()  # type: ignore[misc]
        assert name == sender
        return room.give_receipt(sender, feed(room, sender, incoming, outgoing))

    def contribute(self, sender: str, value: int) -> None:
        """Send every holder its share, in the order of the protocol."""
        sections = self.split(sender, value)
        before = self.seats.before(self.question, sender)
        receipts = tuple(self.upload(sender, name, sections[name]) for name in before)
        last = self.seats.counting(self.question, sender)
        self.upload(sender, last, sections[last], receipts)


def feed(room: Intake, sender: str, incoming: Any, outgoing: Outgoing) -> Receipt:
    for record in outgoing.records():
        incoming.feed(record)
    return room.take(sender, incoming, incoming.finish())


@pytest.fixture
def intake(make: Maker) -> Any:
    """An intake of seven, and a way to seal for it."""
    desk = Desk(make, Mode.TRUSTED, "trusted", ("third",))
    room = desk.at("third")

    def seal(sender: str, value: int = 1) -> Outgoing:
        return desk.seal(sender, "third", desk.split(sender, value)["third"])

    room.seal_for = seal  # type: ignore[attr-defined]
    return room


@pytest.fixture
def additive(make: Maker) -> Desk:
    return Desk(make, Mode.ADDITIVE, "additive", ("first", "second", "third"))


def test_no_more_than_a_few_bodies_are_opened_at_once(intake: Any, make: Maker) -> None:
    sent = {name: intake.seal_for(name) for name in make.names}
    for name, outgoing in sent.items():
        assert intake.admit(name, outgoing.head) is None
    started = []
    while (upload := intake.next_upload()) is not None:
        started.append(upload)
    assert [sender for sender, _, _ in started] == list(make.names[: limits.UPLOADS_IN_FLIGHT])
    buffers = {id(incoming.staging) for _, incoming, _ in started}
    while started:
        sender, incoming, _ = started.pop(0)
        feed(intake, sender, incoming, sent[sender])
        if (upload := intake.next_upload()) is not None:
            started.append(upload)
            # Memory does not grow with the cohort: the buffer is one of those at hand.
            assert id(upload[1].staging) in buffers
    assert set(intake.added) == set(make.names)
    assert (np.asarray(intake.total(tuple(sorted(make.names)))) == 7).all()


def test_an_envelope_that_waited_behind_its_own_first_is_not_added_on_top(intake: Any, make: Maker) -> None:
    """Two envelopes of one sender, the second announced while all buffers are in use and somebody else waits."""
    several = limits.UPLOADS_IN_FLIGHT
    first = {name: intake.seal_for(name) for name in make.names[:several]}
    for name, outgoing in first.items():
        intake.admit(name, outgoing.head)
    started = {sender: incoming for sender, incoming, _ in (intake.next_upload() for _ in range(several))}
    next_one = make.names[several]
    waits = intake.seal_for(next_one)
    intake.admit(next_one, waits.head)
    second = intake.seal_for("alice", 1000)
    intake.admit("alice", second.head)
    assert intake.next_upload() is None
    feed(intake, "alice", started["alice"], first["alice"])
    sender, incoming, _ = intake.next_upload()
    assert sender == next_one
    feed(intake, next_one, incoming, waits)
    while (upload := intake.next_upload()) is not None:
        assert upload[0] != "alice"
    assert (np.asarray(intake._total) == 2).all()


def test_one_contributor_is_added_once(intake: Any) -> None:
    outgoing = intake.seal_for("bob")
    intake.admit("bob", outgoing.head)
    _, incoming, _ = intake.next_upload()
    for record in outgoing.records():
        incoming.feed(record)
    sections = incoming.finish()
    intake.take("bob", incoming, sections)
    with pytest.raises(AlreadyContributed):
        intake.take("bob", incoming, sections)
    assert (np.asarray(intake._total) == 1).all()


def test_a_body_that_broke_off_leaves_the_slot_free(intake: Any) -> None:
    outgoing = intake.seal_for("bob")
    intake.admit("bob", outgoing.head)
    _, incoming, _ = intake.next_upload()
    intake.failed("bob", incoming.subject)
    assert "bob" in intake.outstanding
    intake.admit("bob", outgoing.head)
    _, incoming, _ = intake.next_upload()
    feed(intake, "bob", incoming, outgoing)
    assert "bob" not in intake.outstanding


def test_closing_erases_the_key_and_names_what_it_breaks_off(intake: Any) -> None:
    outgoing = intake.seal_for("bob")
    intake.admit("bob", outgoing.head)
    intake.next_upload()
    total, broken = intake.total(()), intake.close()
    assert broken == [outgoing.subject]
    assert intake.key.erased
    assert not np.asarray(total).any()


# --- several holders


def test_shares_of_all_holders_make_the_sum(additive: Desk, make: Maker) -> None:
    for at, name in enumerate(make.names):
        additive.contribute(name, 10**at)
    names = tuple(sorted(make.names))
    totals = {at: additive.at(name).total(names) for at, name in enumerate(additive.seats.holders)}
    counted = [name for holder in additive.seats.workers for name in additive.at(holder).counted]
    assert sorted(counted) == sorted(names)
    question = additive.question
    combiner = additive.seats.scheme.combiner(question.plan, question.words)
    assert (np.asarray(combiner.combine(totals)) == 1_111_111).all()


def test_a_share_that_nobody_counts_in_the_end_is_left_out(additive: Desk) -> None:
    """Only seeds go before the share that counts, and a seed is added once the set is final."""
    for name in ("alice", "bob"):
        additive.contribute(name, 5)
    sections = additive.split("carol", 1000)
    for holder in additive.seats.before(additive.question, "carol"):
        assert [len(part) for part in sections[holder]] == [32]
        additive.upload("carol", holder, sections[holder])
    totals = {at: additive.at(name).total(("alice", "bob")) for at, name in enumerate(additive.seats.holders)}
    question = additive.question
    combined = additive.seats.scheme.combiner(question.plan, question.words).combine(totals)
    assert (np.asarray(combined) == 10).all()


def test_a_set_with_somebody_whose_share_is_not_here_has_no_total(additive: Desk) -> None:
    additive.contribute("alice", 5)
    room = additive.at("first")
    before = np.asarray(room._total).copy()
    for ask in (room.check_summable, room.total):
        with pytest.raises(Unsummable) as caught:
            ask(("alice", "bob"))
        assert caught.value.party == "bob"
    np.testing.assert_array_equal(np.asarray(room._total), before)


def test_a_set_without_somebody_who_is_in_the_total_has_none(additive: Desk) -> None:
    additive.contribute("alice", 5)
    room = additive.at(additive.seats.counting(additive.question, "alice"))
    for ask in (room.check_summable, room.total):
        with pytest.raises(Unsummable) as caught:
            ask(())
        assert caught.value.party == "alice"


def test_vectors_that_go_first_are_added_at_once_and_cannot_be_left_out(make: Maker) -> None:
    desk = Desk(make, Mode.SHARED, "replicated", ("first", "second", "third"))
    sections = desk.split("alice", 5)
    seats, turn = desk.seats, desk.seats.turn(desk.question, "alice")
    before = seats.before(desk.question, "alice")
    (early,) = [name for name in before if Kind.VECTOR in seats.scheme.form(seats.holders.index(name), turn)]
    desk.upload("alice", early, sections[early])
    with pytest.raises(Unsummable) as caught:
        desk.at(early).total(())
    assert caught.value.party == "alice"


@pytest.fixture
def replicated(make: Maker) -> Desk:
    return Desk(make, Mode.SHARED, "replicated", ("first", "second", "third"))


def gets_early(desk: Desk, holder: str) -> list[str]:
    """Who sends this holder a vector though another counts the contribution."""
    seats, question = desk.seats, desk.question
    return [name for name in sorted(seats.vectors_to(question, holder)) if seats.counting(question, name) != holder]


def test_once_frozen_a_vector_is_kept_and_goes_in_with_the_set(replicated: Desk) -> None:
    room = replicated.at("first")
    early, late = gets_early(replicated, "first")[:2]
    replicated.upload(early, "first", replicated.split(early, 5)["first"])
    assert room.beyond == (early,)
    assert room.freeze() == []
    before = np.asarray(room._total).copy()
    replicated.upload(late, "first", replicated.split(late, 7)["first"])
    np.testing.assert_array_equal(np.asarray(room._total), before)
    assert room.beyond == (early,)
    room.check_summable((early,))
    room.total((early, late))
    assert (np.asarray(room._total) != before).any()


def test_a_late_vector_that_cannot_be_added_stays_in_the_way_of_every_total(make: Maker) -> None:
    """It has its receipt when that shows. Asked a second time there was a total, over the set, without that share."""
    desk = Desk(make, Mode.SHAMIR, "shamir", ("first", "second", "third"))
    holder, (early, late) = next(
        (name, found[:2]) for name in desk.seats.holders if (found := gets_early(desk, name))[1:]
    )
    room = desk.at(holder)
    desk.upload(early, holder, desk.split(early, 5)[holder])
    room.freeze()
    desk.split(late, 7)
    wrong = np.full(desk.question.words, -1, np.int64).astype(desk.question.plan.dtype).tobytes()
    exchange, key = desk.run.machines[late].exchange, room.key.public
    desk.committed[late][holder] = exchange.commit(Label.CONTRIBUTION, room.context, holder, key, [wrong])
    desk.upload(late, holder, [wrong])
    for _ in range(2):
        with pytest.raises(Unsummable, match="cannot be added"):
            room.total((early, late))
    assert room.total((early,)) is not None


def test_once_frozen_vectors_are_kept_in_place_of_uploads_in_flight(
    replicated: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UPLOADS_IN_FLIGHT", 1)
    room = replicated.at("first")
    one, two = gets_early(replicated, "first")[:2]
    room.freeze()
    replicated.upload(one, "first", replicated.split(one, 5)["first"])
    outgoing = replicated.seal(two, "first", replicated.split(two, 5)["first"])
    assert room.admit(two, outgoing.head) is None
    assert room.next_upload() is None


def test_what_is_counted_here_and_still_comes_in_is_broken_off_when_frozen(additive: Desk) -> None:
    """A receipt for it would be of a contribution that is on no list."""
    here = [name for name in additive.question.cohort if additive.seats.counting(additive.question, name) == "first"]
    room, subjects = additive.at("first"), []
    for name in here:
        sections = additive.split(name, 5)
        before = additive.seats.before(additive.question, name)
        receipts = tuple(additive.upload(name, holder, sections[holder]) for holder in before)
        outgoing = additive.seal(name, "first", sections["first"])
        assert room.admit(name, outgoing.head, receipts) is None
        subjects.append(outgoing.subject)
    assert len(here) > 1
    assert room.next_upload() is not None
    assert room.freeze() == subjects[:1]
    assert room.next_upload() is None
    assert not room._opening


@pytest.mark.parametrize("shown", ["none", "one", "another order", "twice", "one too many"])
def test_the_share_that_counts_wants_every_other_holders_receipt(additive: Desk, shown: str) -> None:
    sections = additive.split("alice", 5)
    first, second = additive.seats.before(additive.question, "alice")
    one, other = (additive.upload("alice", name, sections[name]) for name in (first, second))
    last = additive.seats.counting(additive.question, "alice")
    receipts = {
        "none": (),
        "one": (one,),
        "another order": (other, one),
        "twice": (one, one),
        "one too many": (one, other, one),
    }[shown]
    outgoing = additive.seal("alice", last, sections[last])
    with pytest.raises(IllegalMessage):
        additive.at(last).admit("alice", outgoing.head, receipts)
    assert additive.at(last).next_upload() is None
    assert additive.at(last).admit("alice", outgoing.head, (one, other)) is None


def test_a_share_that_goes_first_shows_no_receipts(additive: Desk) -> None:
    sections = additive.split("alice", 5)
    first, second = additive.seats.before(additive.question, "alice")
    one = additive.upload("alice", first, sections[first])
    with pytest.raises(IllegalMessage):
        additive.at(second).admit("alice", additive.seal("alice", second, sections[second]).head, (one,))


@pytest.mark.parametrize("change", ["contributor", "open_round", "holder"])
def test_a_receipt_of_something_else_counts_for_nothing(additive: Desk, change: str) -> None:
    sections = additive.split("alice", 5)
    before = additive.seats.before(additive.question, "alice")
    last = additive.seats.counting(additive.question, "alice")
    receipts = []
    for name in before:
        said = {"open_round": additive.at(name).open_round, "holder": name, "contributor": "alice"}
        said[change] = {"contributor": "bob", "open_round": bytes(32), "holder": last}[change]
        receipt = Receipt(**said, header=bytes(32), commitment=bytes(32), shares=bytes(32))
        receipts.append(sign(additive.run.identities[name], receipt))
    with pytest.raises((WrongOpenRound, WrongSender)):
        additive.at(last).admit("alice", additive.seal("alice", last, sections[last]).head, tuple(receipts))


def test_a_masks_seed_at_a_model_owner_waits_for_the_set(make: Maker) -> None:
    desk = Desk(make, Mode.MASKED, "masked", ("third",))
    desk.run.run(until=lambda: desk.at("owner") is not None)
    sections = desk.split("alice", 5)
    desk.upload("alice", "owner", sections["owner"])
    room = desk.at("owner")
    assert room.share_of("alice") == Seed(sections["owner"][0])
    assert not np.asarray(room._total).any()
    assert not np.asarray(room.total(())).any()
    assert np.asarray(room.total(("alice",))).any()
    assert room.share_of("alice") is None
