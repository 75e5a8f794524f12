"""The rules of `protocol/lanes/base.py`, checked on every implementation through two real ends."""

import threading
import time
from typing import Any

import pytest
from tertium.protocol import limits
from tertium.protocol.errors import ExpiredTicket, LaneError, ReusedTicket, StrangerKey, UnknownTicket
from tertium.protocol.lanes.base import BulkDown, BulkUp, Down, Frame, Record, Refused, Up, Woken
from tertium.protocol.ticket import Ticket

SUBJECT = bytes(range(32))
OTHER = bytes(32)
# `world` is one of the worlds of conftest.py; conftest cannot be imported for its types.
World = Any


def frames(party: Any) -> list[bytes]:
    return [event.data for event in party.of(Frame)]


def records(party: Any, subject: bytes = SUBJECT) -> list[bytes]:
    return [event.data for event in party.of(Record) if event.subject == subject]


def refusals(party: Any) -> list[type]:
    return [type(event.error) for event in party.of(Refused)]


# The control lane


def test_up_on_both_sides_comes_before_any_frame(world: World) -> None:
    hub, ann = world.pair()
    assert ann.lanes.send("hub", b"from ann")
    assert hub.lanes.send("ann", b"from hub")
    world.drive(hub, ann, until=lambda: hub.of(Frame) and ann.of(Frame))
    assert hub.seen == [Up("ann"), Frame("ann", b"from ann")]
    assert ann.seen == [Up("hub"), Frame("hub", b"from hub")]


def test_frames_arrive_once_and_in_order(world: World) -> None:
    hub, ann = world.pair()
    expected = [number.to_bytes(4) * 50 for number in range(300)]
    for number, frame in enumerate(expected):
        assert ann.lanes.send("hub", frame)
        assert hub.lanes.send("ann", frame)
        if number % 16 == 0:
            hub.poll()
            ann.poll()
    world.drive(hub, ann, until=lambda: len(frames(hub)) >= 300 and len(frames(ann)) >= 300)
    world.idle(hub, ann)
    assert frames(hub) == expected
    assert frames(ann) == expected


def test_an_empty_frame_is_a_frame(world: World) -> None:
    hub, ann = world.pair()
    assert ann.lanes.send("hub", b"")
    world.drive(hub, ann, until=lambda: hub.of(Frame))
    assert frames(hub) == [b""]


def test_a_frame_to_a_peer_that_is_not_up_is_dropped_for_good(world: World) -> None:
    hub = world.make("hub", ["ann", "bob"], listen=True)
    ann = world.make("ann", ["hub"])
    assert not ann.lanes.send("hub", b"early")
    assert not hub.lanes.send("ann", b"early")
    assert not hub.lanes.send("nobody", b"early")
    world.join(ann, hub)
    world.idle(hub, ann)
    assert frames(hub) == frames(ann) == []


def test_a_frame_of_the_limit_passes_and_one_over_it_is_our_mistake(world: World) -> None:
    hub, ann = world.pair()
    limit = 64 * 1024
    for sender, receiver, name in ((ann, hub, "hub"), (hub, ann, "ann")):
        assert sender.lanes.send(name, b"x" * limit)
        world.drive(hub, ann, until=lambda receiver=receiver: receiver.of(Frame))
        with pytest.raises(LaneError, match="65536"):
            sender.lanes.send(name, b"x" * (limit + 1))
    assert not hub.of(Down)


def test_what_was_said_before_closing_is_heard_before_down(world: World) -> None:
    hub, ann = world.pair()
    expected = [bytes([number]) * 60_000 for number in range(50)]
    assert all(ann.lanes.send("hub", frame) for frame in expected)
    ann.lanes.close()
    world.drive(hub, until=lambda: hub.of(Down))
    assert hub.seen[1:] == [*(Frame("ann", frame) for frame in expected), Down("ann", "said goodbye")]
    assert not hub.lanes.send("ann", b"late")


def test_what_the_listening_side_said_before_closing_is_heard_before_down(world: World) -> None:
    hub, ann = world.pair()
    expected = [bytes([number]) for number in range(20)]
    assert all(hub.lanes.send("ann", frame) for frame in expected)
    hub.lanes.close()
    # The end has reached ann's machine well before she looks.
    time.sleep(0.1)
    world.drive(ann, until=lambda: ann.of(Down))
    assert ann.seen[1:] == [*(Frame("hub", frame) for frame in expected), ann.of(Down)[0]]


def test_a_reconnect_is_down_then_up_for_the_listening_side(world: World) -> None:
    hub, ann = world.pair()
    ann.lanes.close()
    again = world.make("ann", ["hub"])
    again.lanes.connect("hub")
    world.drive(hub, again, until=lambda: len(hub.of(Up)) == 2 and again.of(Up))
    assert [type(event) for event in hub.seen] == [Up, Down, Up]
    assert hub.lanes.send("ann", b"welcome back")
    world.drive(hub, again, until=lambda: again.of(Frame))


def test_the_connecting_side_reconnects_by_itself(world: World) -> None:
    hub, ann = world.pair()
    hub.lanes.close()
    world.drive(ann, until=lambda: ann.of(Down))
    assert not ann.lanes.send("hub", b"into the void")
    back = world.make("hub", ["ann", "bob"], listen=True)
    world.drive(back, ann, until=lambda: len(ann.of(Up)) == 2 and back.of(Up))
    assert [type(event) for event in ann.seen] == [Up, Down, Up]
    assert ann.lanes.send("hub", b"again")
    world.drive(back, ann, until=lambda: back.of(Frame))
    assert frames(back) == [b"again"]


def test_connecting_before_the_other_side_listens(world: World) -> None:
    hub = world.make("hub", ["ann"], listen=True)
    ann = world.make("ann", ["hub"])
    hub.lanes.close()
    ann.lanes.connect("hub")
    world.idle(ann)
    assert ann.seen == []
    hub = world.make("hub", ["ann"], listen=True)
    world.drive(hub, ann, until=lambda: ann.of(Up) and hub.of(Up))


def test_a_peer_that_takes_nothing_goes_down_within_the_queue_bound(world: World) -> None:
    hub, ann = world.pair()
    sent = 0
    while hub.lanes.send("ann", b"x" * 60_000):
        sent += 1
        assert sent < 1000
        hub.poll(0.0005)
    assert sent >= limits.CONTROL_QUEUE
    world.drive(hub, until=lambda: hub.of(Down))
    world.clock.ahead += limits.PING_EVERY
    # What she did get is a beginning of it, without a gap, and then the connection is over for her too.
    world.drive(hub, ann, until=lambda: ann.of(Down) or len(hub.of(Up)) == 2, seconds=12)
    assert len(frames(ann)) <= sent


def test_a_stranger_is_refused_and_told_once(world: World) -> None:
    hub, ann = world.pair()
    mallory = world.make("mallory", ["hub"])
    mallory.lanes.connect("hub")
    world.drive(hub, mallory, until=lambda: mallory.of(Down) and hub.of(Refused))
    tries = len(hub.of(Refused))
    world.clock.ahead += limits.RECONNECT_MOST
    world.drive(hub, mallory, ann, until=lambda: len(hub.of(Refused)) > tries)
    world.idle(hub, mallory, ann, seconds=0.1)
    assert set(refusals(hub)) == {StrangerKey}
    assert [type(event) for event in mallory.seen] == [Down]
    assert not mallory.lanes.send("hub", b"let me in")
    assert hub.of(Up) == [Up("ann")]
    assert ann.lanes.send("hub", b"still here")
    world.drive(hub, ann, until=lambda: hub.of(Frame))


def test_a_flood_from_one_peer_does_not_starve_another(world: World) -> None:
    hub, ann = world.pair()
    bob = world.make("bob", ["hub"])
    world.join(bob, hub)
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            bob.lanes.send("hub", b"flood" * 100)
            bob.lanes.poll(0)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for number in range(20):
            assert ann.lanes.send("hub", bytes([number]))
            world.drive(
                hub, ann, until=lambda number=number: Frame("ann", bytes([number])) in hub.seen[-2000:], seconds=5
            )
    finally:
        done.set()
        thread.join()


# The bulk lane


def test_records_flow_both_ways_once_and_in_order(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    expected = [bytes([number]) * 100_000 for number in range(30)]
    ways = [(hub, iter(expected)), (ann, iter(expected))]
    waiting = [next(records) for _, records in ways]
    while any(waiting):
        for index, (party, rest) in enumerate(ways):
            if waiting[index] and party.lanes.send_record(SUBJECT, waiting[index]):
                waiting[index] = next(rest, b"")
        world.idle(hub, ann, seconds=0.001)
    world.drive(hub, ann, until=lambda: len(records(hub)) >= 30 and len(records(ann)) >= 30)
    assert records(hub) == records(ann) == expected
    assert hub.of(BulkUp, BulkDown) == [BulkUp(SUBJECT, "ann")]
    assert ann.of(BulkUp, BulkDown) == [BulkUp(SUBJECT, "hub")]


def test_two_transfers_do_not_mix(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    world.bulk(hub, ann, OTHER)
    assert ann.lanes.send_record(SUBJECT, b"one")
    assert ann.lanes.send_record(OTHER, b"other")
    assert hub.lanes.send_record(OTHER, b"back")
    world.drive(hub, ann, until=lambda: len(hub.of(Record)) == 2 and ann.of(Record))
    assert (records(hub), records(hub, OTHER), records(ann, OTHER)) == ([b"one"], [b"other"], [b"back"])


def test_a_record_before_the_connection_is_up_is_not_sent(world: World) -> None:
    hub, ann = world.pair()
    assert not ann.lanes.send_record(SUBJECT, b"early")
    ticket = hub.lanes.grant("ann", SUBJECT)
    assert not hub.lanes.send_record(SUBJECT, b"early")
    ann.lanes.open_bulk("hub", ticket)
    world.drive(hub, ann, until=lambda: hub.of(BulkUp) and ann.of(BulkUp))
    world.idle(hub, ann, seconds=0.05)
    assert not hub.of(Record)
    assert not ann.of(Record)


@pytest.mark.parametrize("from_hub", [False, True], ids=["up", "down"])
def test_the_queue_is_bounded_and_poll_says_when_there_is_room(world: World, from_hub: bool) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    sender, receiver = (hub, ann) if from_hub else (ann, hub)
    record = bytes(limits.RECORD_WIRE)
    sent = 0
    deadline = time.monotonic() + 5
    full_since = time.monotonic()
    while time.monotonic() - full_since < 0.1:
        assert time.monotonic() < deadline
        if sender.lanes.send_record(SUBJECT, record):
            sent += 1
            full_since = time.monotonic()
        else:
            sender.poll(0.005)
    # Two queues, and what the kernel holds of a connection over the loopback device.
    assert limits.CREDIT_WINDOW <= sent <= 2 * limits.BULK_QUEUE + 12
    assert not sender.lanes.send_record(SUBJECT, record)
    reading = threading.Timer(
        0.1, lambda: world.drive(receiver, until=lambda: len(records(receiver)) == sent + 1, seconds=20)
    )
    reading.start()
    start = time.monotonic()
    while not sender.lanes.send_record(SUBJECT, record):
        assert sender.poll(10) == []
    assert time.monotonic() - start < 5
    reading.join()
    assert len(records(receiver)) == sent + 1


@pytest.mark.parametrize("from_hub", [False, True], ids=["up", "down"])
def test_closing_still_sends_what_is_queued(world: World, from_hub: bool) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    sender, receiver = (hub, ann) if from_hub else (ann, hub)
    sent = []
    while sender.lanes.send_record(SUBJECT, record := bytes([len(sent)]) * 500_000):
        sent.append(record)
    sender.lanes.close_bulk(SUBJECT)
    world.drive(hub, ann, until=lambda: receiver.of(BulkDown))
    assert records(receiver) == sent
    assert len(sent) >= limits.CREDIT_WINDOW
    world.idle(hub, ann)
    assert not sender.of(BulkDown)


def test_closing_bulk_is_idempotent_and_silent(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    for _ in range(2):
        hub.lanes.close_bulk(SUBJECT)
        hub.lanes.close_bulk(OTHER)
        world.idle(hub, ann, seconds=0.05)
    assert [type(event) for event in ann.of(BulkUp, BulkDown)] == [BulkUp, BulkDown]
    assert not hub.of(BulkDown)
    assert not ann.lanes.send_record(SUBJECT, b"late")
    assert not hub.lanes.send_record(SUBJECT, b"late")


def test_nothing_of_a_closed_connection_becomes_an_event(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    assert ann.lanes.send_record(SUBJECT, b"unwanted")
    time.sleep(0.05)
    hub.lanes.close_bulk(SUBJECT)
    world.drive(hub, ann, until=lambda: ann.of(BulkDown))
    world.idle(hub, ann, seconds=0.05)
    assert hub.of(Record, BulkDown) == []


def test_an_end_that_was_not_polled_yet_is_taken_back_by_closing(world: World) -> None:
    hub, ann = world.pair()
    ann.lanes.open_bulk("hub", Ticket(SUBJECT, b"short"))
    ann.lanes.open_bulk("hub", Ticket(OTHER, b"short"))
    ann.lanes.close_bulk(SUBJECT)
    world.drive(hub, ann, until=lambda: ann.of(BulkDown))
    world.idle(hub, ann, seconds=0.05)
    assert [event.subject for event in ann.of(BulkDown)] == [OTHER]


def test_losing_the_peer_ends_its_transfer(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    ann.lanes.close()
    world.drive(hub, until=lambda: hub.of(BulkDown) and hub.of(Down))
    assert not hub.lanes.send_record(SUBJECT, b"late")


def test_losing_the_listening_peer_ends_the_transfer(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    hub.lanes.close()
    world.drive(ann, until=lambda: ann.of(BulkDown) and ann.of(Down))


def test_empty_and_oversize_records_are_our_mistake(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    for party in (hub, ann):
        for size in (0, limits.RECORD_WIRE + 1):
            with pytest.raises(LaneError):
                party.lanes.send_record(SUBJECT, bytes(size))


# Tickets


def refused(world: World, hub: Any, ann: Any, ticket: Ticket) -> type:
    """Show `ticket`, see it refused at both ends, return the reason."""
    before = len(hub.of(Refused))
    downs = len(ann.of(BulkDown))
    ann.lanes.open_bulk("hub", ticket)
    world.drive(hub, ann, until=lambda: len(hub.of(Refused)) > before and len(ann.of(BulkDown)) > downs)
    assert not ann.lanes.send_record(ticket.subject, b"anything")
    return refusals(hub)[before]


def test_a_ticket_opens_once(world: World) -> None:
    hub, ann = world.pair()
    ticket = world.bulk(hub, ann, SUBJECT)
    ann.lanes.close_bulk(SUBJECT)
    world.drive(hub, ann, until=lambda: hub.of(BulkDown))
    assert refused(world, hub, ann, ticket) is ReusedTicket


def test_a_ticket_in_use_opens_nothing_and_leaves_the_connection_alone(world: World) -> None:
    hub, ann = world.pair()
    bob = world.make("bob", ["hub"])
    ticket = world.bulk(hub, ann, SUBJECT)
    assert refused(world, hub, bob, ticket) is ReusedTicket
    assert ann.lanes.send_record(SUBJECT, b"mine")
    world.drive(hub, ann, until=lambda: records(hub) == [b"mine"])


def test_a_wrong_secret_opens_nothing_and_spends_nothing(world: World) -> None:
    hub, ann = world.pair()
    ticket = hub.lanes.grant("ann", SUBJECT)
    wrong = Ticket(SUBJECT, bytes(limits.TICKET_SECRET))
    assert refused(world, hub, ann, wrong) is UnknownTicket
    assert refused(world, hub, ann, Ticket(OTHER, ticket.secret)) is UnknownTicket
    ann.lanes.open_bulk("hub", ticket)
    world.drive(hub, ann, until=lambda: hub.of(BulkUp) and ann.of(BulkUp))


def test_a_ticket_expires(world: World) -> None:
    hub, ann = world.pair()
    early, late = hub.lanes.grant("ann", SUBJECT), hub.lanes.grant("ann", OTHER)
    world.clock.ahead += limits.TICKET_LIFETIME - 0.5
    ann.lanes.open_bulk("hub", early)
    world.drive(hub, ann, until=lambda: hub.of(BulkUp) and ann.of(BulkUp))
    world.clock.ahead += 1
    assert refused(world, hub, ann, late) is ExpiredTicket


def test_closing_withdraws_a_ticket_that_was_not_used(world: World) -> None:
    hub, ann = world.pair()
    ticket = hub.lanes.grant("ann", SUBJECT)
    hub.lanes.close_bulk(SUBJECT)
    assert refused(world, hub, ann, ticket) is ExpiredTicket


def test_a_second_grant_withdraws_the_first_and_ends_its_connection(world: World) -> None:
    hub, ann = world.pair()
    first = world.bulk(hub, ann, SUBJECT)
    second = hub.lanes.grant("ann", SUBJECT)
    assert second.secret != first.secret
    world.drive(hub, ann, until=lambda: ann.of(BulkDown))
    assert refused(world, hub, ann, first) is ReusedTicket
    ann.lanes.open_bulk("hub", second)
    world.drive(hub, ann, until=lambda: len(hub.of(BulkUp)) == 2 and len(ann.of(BulkUp)) == 2)
    assert ann.lanes.send_record(SUBJECT, b"second")
    world.drive(hub, ann, until=lambda: hub.of(Record))
    # The end of the first is no event, or it would be taken for the end of the second.
    assert not hub.of(BulkDown)


def test_a_peer_has_a_bounded_number_of_tickets(world: World) -> None:
    hub, _ann = world.pair()
    for number in range(limits.TICKETS_PER_PEER):
        hub.lanes.grant("ann", bytes([number]) * 32)
    hub.lanes.grant("ann", bytes(32))
    with pytest.raises(LaneError, match="ann has 4 tickets"):
        hub.lanes.grant("ann", b"x" * 32)
    hub.lanes.grant("bob", b"y" * 32)
    hub.lanes.close_bulk(bytes(32))
    hub.lanes.grant("ann", b"x" * 32)
    world.clock.ahead += limits.TICKET_LIFETIME + 1
    hub.lanes.grant("ann", b"z" * 32)


@pytest.mark.parametrize("who", ["hub", "ann"])
def test_a_transfer_that_ended_makes_room_for_another(world: World, who: str) -> None:
    hub, ann = world.pair()
    closing, other = (hub, ann) if who == "hub" else (ann, hub)
    for number in range(limits.TICKETS_PER_PEER + 1):
        world.bulk(hub, ann, bytes([number]) * 32)
        closing.lanes.close_bulk(bytes([number]) * 32)
        world.drive(hub, ann, until=lambda number=number: len(other.of(BulkDown)) == number + 1)


def test_a_ticket_does_not_show_its_secret(world: World) -> None:
    hub, _ann = world.pair()
    ticket = hub.lanes.grant("ann", SUBJECT)
    assert ticket.secret.hex() not in repr(ticket)
    assert repr(ticket.secret)[2:-1] not in repr(ticket)


# Polling and closing


def test_poll_keeps_its_timeout(world: World) -> None:
    hub, ann = world.pair()
    world.idle(hub, ann, seconds=0.02)
    for party in (hub, ann):
        start = time.monotonic()
        assert party.poll(0.15) == []
        assert 0.14 <= time.monotonic() - start < 0.6
        start = time.monotonic()
        assert party.poll(0) == []
        assert time.monotonic() - start < 0.1


def test_waiting_costs_no_processor_time(world: World) -> None:
    hub, ann = world.pair()
    world.idle(hub, ann, seconds=0.02)
    start = time.thread_time()
    hub.poll(0.15)
    ann.poll(0.15)
    assert time.thread_time() - start < 0.06


def test_wake_ends_a_poll_in_progress(world: World) -> None:
    hub = world.make("hub", ["ann"], listen=True)
    timer = threading.Timer(0.05, hub.lanes.wake)
    timer.start()
    start = time.monotonic()
    assert hub.poll(5) == [Woken()]
    assert time.monotonic() - start < 2
    timer.join()


def test_wake_is_not_lost_between_polls(world: World) -> None:
    hub = world.make("hub", ["ann"], listen=True)
    for _ in range(3):
        hub.lanes.wake()
    assert Woken() in hub.poll(5)
    assert [event for event in hub.poll(0.05) if not isinstance(event, Woken)] == []


def test_two_threads(world: World) -> None:
    hub, ann = world.pair()
    echoed: list[bytes] = []

    def echo() -> None:
        while len(echoed) < 100:
            for event in hub.lanes.poll(1):
                if isinstance(event, Frame):
                    echoed.append(event.data)
                    hub.lanes.send("ann", event.data)

    thread = threading.Thread(target=echo)
    thread.start()
    expected = [bytes([number]) for number in range(100)]
    for frame in expected:
        assert ann.lanes.send("hub", frame)
        world.drive(ann, until=lambda frame=frame: frame in frames(ann)[-1:])
    thread.join()
    assert frames(ann) == echoed == expected


def test_closing_is_idempotent_and_final(world: World) -> None:
    hub, ann = world.pair()
    for party in (ann, hub):
        party.lanes.close()
        party.lanes.close()
        party.lanes.wake()
        party.lanes.close_bulk(SUBJECT)
        assert not party.lanes.send("hub", b"x")
        assert not party.lanes.send_record(SUBJECT, b"x")
        with pytest.raises(LaneError):
            party.lanes.poll(0)
    with pytest.raises(LaneError):
        ann.lanes.connect("hub")
    with pytest.raises(LaneError):
        hub.lanes.grant("ann", SUBJECT)


def test_misuse_is_named(world: World) -> None:
    hub, ann = world.pair()
    with pytest.raises(LaneError, match="nobody"):
        ann.lanes.connect("nobody")
    with pytest.raises(LaneError, match="nobody"):
        hub.lanes.grant("nobody", SUBJECT)
    with pytest.raises(LaneError, match="nobody"):
        ann.lanes.open_bulk("nobody", Ticket(SUBJECT, bytes(16)))
    with pytest.raises(LaneError, match="listens"):
        ann.lanes.grant("hub", SUBJECT)
    for subject in (b"", b"x" * 65):
        with pytest.raises(LaneError, match="subject"):
            hub.lanes.grant("ann", subject)
