"""Bodies in motion: never more than the window outstanding, and what stands still is given up."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto.errors import BadBody
from tertium.protocol import limits
from tertium.protocol.errors import CreditExceeded, PeerLost
from tertium.protocol.messages import Credit
from tertium.protocol.transfers import Completed, Delivered, Failed, Transfers, Unconfirmed

SUBJECT = bytes(range(32))
WINDOW = limits.CREDIT_WINDOW


class Out:
    """An envelope of `count` records, each its own number."""

    subject = SUBJECT

    def __init__(self, count: int) -> None:
        self.count = count
        self.made = 0

    def records(self) -> Iterator[bytes]:
        for number in range(self.count):
            self.made += 1
            yield bytes([number % 256])


class In:
    """Takes `count` records and remembers them."""

    subject = SUBJECT

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[bytes] = []

    def feed(self, record: bytes) -> bool:
        self.taken.append(bytes(record))
        return len(self.taken) == self.count

    def finish(self) -> tuple[memoryview, ...]:
        return (memoryview(b"section"),)


class Pipe:
    """A bulk lane that queues up to `room` records and hands them over one at a time."""

    def __init__(self, room: int = limits.BULK_QUEUE) -> None:
        self.room = room
        self.queue: list[bytes] = []

    def send_record(self, subject: bytes, data: bytes) -> bool:
        assert subject == SUBJECT
        if len(self.queue) >= self.room:
            return False
        self.queue.append(bytes(data))
        return True


def joined(count: int) -> tuple[Transfers, Transfers, Out, In, list[Credit]]:
    sender, receiver, out, incoming = Transfers(), Transfers(), Out(count), In(count)
    sender.provide("third", out, 0.0)  # type: ignore[arg-type]
    receiver.expect("alice", incoming, 0.0)  # type: ignore[arg-type]
    assert sender.up("third", SUBJECT, 0.0) == []
    credits_ = receiver.up("alice", SUBJECT, 0.0)
    receiver.taken()
    return sender, receiver, out, incoming, credits_


@pytest.mark.parametrize("count", [1, WINDOW - 1, WINDOW, WINDOW + 1, 100])
@pytest.mark.parametrize("room", [1, limits.BULK_QUEUE])
def test_a_body_arrives_whole_and_in_order(count: int, room: int) -> None:
    sender, receiver, out, incoming, credits_ = joined(count)
    pipe, done, delivered = Pipe(room), [], []
    for _ in range(10 * count + 10):
        for credit in credits_:
            sender.credit("third", credit)
        credits_ = []
        delivered += sender.pump(pipe, 0.0)[1]  # type: ignore[arg-type]
        while pipe.queue:
            granted, events = receiver.record("alice", SUBJECT, pipe.queue.pop(0), 0.0)
            credits_ += granted
            done += events
        receiver.taken()
    assert incoming.taken == list(Out(count).records())
    assert out.made == count
    assert [type(event) for event in done] == [Completed]
    assert delivered == [Delivered("third", SUBJECT)]


def test_nothing_is_sent_without_credit() -> None:
    sender, _, out, _, _ = joined(5)
    pipe = Pipe()
    sender.pump(pipe, 0.0)  # type: ignore[arg-type]
    assert not pipe.queue
    assert not out.made


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["pump", "take", "credit"]), min_size=30, max_size=300))
def test_never_more_than_the_window_is_outstanding(steps: list[str]) -> None:
    sender, receiver, out, incoming, credits_ = joined(200)
    pipe = Pipe(room=10_000)
    granted = credits_[0].records
    for step in steps:
        if step == "pump":
            sender.pump(pipe, 0.0)  # type: ignore[arg-type]
        elif step == "credit" and credits_:
            sender.credit("third", credits_.pop(0))
        elif step == "take" and pipe.queue:
            more, events = receiver.record("alice", SUBJECT, pipe.queue.pop(0), 0.0)
            receiver.taken()
            assert not [event for event in events if isinstance(event, Failed)]
            credits_ += more
            granted = max([granted, *(credit.records for credit in more)])
        assert granted - len(incoming.taken) <= WINDOW
        assert out.made - len(incoming.taken) <= WINDOW


def test_a_record_beyond_the_credit_ends_the_transfer() -> None:
    receiver = Transfers()
    incoming = In(100)
    receiver.expect("alice", incoming, 0.0)  # type: ignore[arg-type]
    # No connection came up, so no credit was given.
    granted, (event,) = receiver.record("alice", SUBJECT, b"\0", 0.0)
    assert not granted
    assert isinstance(event, Failed)
    assert isinstance(event.error, CreditExceeded)
    assert event.error.party == "alice"
    assert not incoming.taken
    assert receiver.record("alice", SUBJECT, b"\1", 0.0) == ([], [])


def test_a_flood_is_cut_off_at_the_credit_it_had() -> None:
    """All of a batch was sent before any credit granted while it is taken: that credit does not excuse it."""
    _, receiver, _, incoming, _ = joined(1000)
    events = []
    for number in range(WINDOW + 2):
        events += receiver.record("alice", SUBJECT, bytes([number]), 0.0)[1]
    (event,) = events
    assert isinstance(event, Failed)
    assert isinstance(event.error, CreditExceeded)
    assert len(incoming.taken) == WINDOW


def test_a_record_of_somebody_else_is_nothing() -> None:
    _, receiver, _, incoming, _ = joined(3)
    assert receiver.record("bob", SUBJECT, b"\0", 0.0) == ([], [])
    assert receiver.record("alice", bytes(32), b"\0", 0.0) == ([], [])
    assert not incoming.taken


def test_a_connection_of_somebody_else_gets_no_credit() -> None:
    receiver = Transfers()
    receiver.expect("alice", In(3), 0.0)  # type: ignore[arg-type]
    assert receiver.up("bob", SUBJECT, 0.0) == []


def test_nothing_is_sent_before_the_connection_is_up() -> None:
    sender, out = Transfers(), Out(3)
    sender.provide("third", out, 0.0)  # type: ignore[arg-type]
    sender.credit("third", Credit(subject=SUBJECT, records=3))
    sender.pump(Pipe(), 0.0)  # type: ignore[arg-type]
    assert not out.made


def test_credit_of_somebody_else_or_for_something_else_is_nothing() -> None:
    sender, _, out, _, _ = joined(3)
    sender.credit("bob", Credit(subject=SUBJECT, records=3))
    sender.credit("third", Credit(subject=bytes(32), records=3))
    sender.pump(Pipe(), 0.0)  # type: ignore[arg-type]
    assert not out.made


def test_credit_never_shrinks() -> None:
    sender, _, _, _, _ = joined(6)
    pipe = Pipe()
    sender.credit("third", Credit(subject=SUBJECT, records=4))
    sender.credit("third", Credit(subject=SUBJECT, records=1))
    sender.pump(pipe, 0.0)  # type: ignore[arg-type]
    assert len(pipe.queue) == 4


def test_a_refused_body_ends_the_transfer_and_names_the_sender() -> None:
    _, receiver, _, incoming, _ = joined(3)

    def refuse(_: bytes) -> bool:
        raise BadBody("altered")

    incoming.feed = refuse  # type: ignore[method-assign]
    _, (event,) = receiver.record("alice", SUBJECT, b"\0", 0.0)
    assert isinstance(event, Failed)
    assert isinstance(event.error, BadBody)
    assert event.error.party == "alice"


def test_a_transfer_that_stands_still_is_given_up() -> None:
    _, receiver, _, _, _ = joined(3)
    receiver.record("alice", SUBJECT, bytes(limits.RECORD_PLAINTEXT), 5.0)
    assert receiver.next_deadline() == 5.0 + limits.STALL
    assert not receiver.stalled(5.0 + limits.STALL - 0.01)
    (event,) = receiver.stalled(5.0 + limits.STALL)
    assert isinstance(event, Failed)
    assert isinstance(event.error, PeerLost)
    assert event.peer == "alice"
    assert receiver.next_deadline() is None
    assert not receiver.stalled(1000.0)


def test_crumbs_do_not_keep_a_transfer_alive() -> None:
    _, receiver, _, _, _ = joined(100)
    for second in range(4):
        receiver.record("alice", SUBJECT, b"x", float(second))
    assert receiver.next_deadline() == limits.STALL


def test_a_transfer_that_never_begins_is_given_up_too() -> None:
    receiver = Transfers()
    receiver.expect("alice", In(3), 2.0)  # type: ignore[arg-type]
    assert [type(event) for event in receiver.stalled(2.0 + limits.STALL)] == [Failed]


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_lost_connection_fails_a_transfer_under_way(side: str) -> None:
    sender, receiver, _, _, _ = joined(3)
    lost: Callable[..., list[Any]] = sender.down if side == "sender" else receiver.down
    peer = "third" if side == "sender" else "alice"
    (event,) = lost(peer, SUBJECT, "gone")
    assert isinstance(event, Failed)
    assert isinstance(event.error, PeerLost)
    assert lost("bob", SUBJECT, "gone") == []


def test_a_connection_that_ends_after_the_last_record_says_so() -> None:
    """That a record was handed over does not say that it arrived; only a receipt does."""
    sender, _, _, _, (credit,) = joined(3)
    sender.credit("third", credit)
    assert sender.pump(Pipe(), 0.0)[1] == [Delivered("third", SUBJECT)]  # type: ignore[arg-type]
    assert sender.down("third", SUBJECT, "gone") == [Unconfirmed("third", SUBJECT, "gone")]
    sender.up("third", SUBJECT, 1.0)
    sender.credit("third", credit)
    pipe = Pipe()
    sender.pump(pipe, 1.0)  # type: ignore[arg-type]
    assert len(pipe.queue) == 3


def test_a_new_connection_starts_from_the_first_record_with_new_credit() -> None:
    sender, _, _, _, _ = joined(6)
    pipe = Pipe()
    sender.credit("third", Credit(subject=SUBJECT, records=4))
    sender.pump(pipe, 0.0)  # type: ignore[arg-type]
    sender.down("third", SUBJECT, "gone")
    pipe.queue.clear()
    sender.up("third", SUBJECT, 1.0)
    sender.pump(pipe, 1.0)  # type: ignore[arg-type]
    assert not pipe.queue
    sender.credit("third", Credit(subject=SUBJECT, records=2))
    sender.pump(pipe, 1.0)  # type: ignore[arg-type]
    assert pipe.queue == [b"\0", b"\1"]


def test_a_dropped_transfer_is_forgotten() -> None:
    sender, receiver, out, incoming, (credit,) = joined(3)
    sender.drop(SUBJECT)
    receiver.drop(SUBJECT)
    sender.credit("third", credit)
    sender.pump(Pipe(), 0.0)  # type: ignore[arg-type]
    assert not out.made
    assert receiver.record("alice", SUBJECT, b"\0", 0.0) == ([], [])
    assert not incoming.taken
    assert sender.down("third", SUBJECT, "gone") == receiver.down("alice", SUBJECT, "gone") == []
