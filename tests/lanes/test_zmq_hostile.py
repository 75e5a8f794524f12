"""Strangers and dishonest peers at the ZeroMQ lanes, with raw sockets; the honest are served throughout."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tertium.protocol import limits
from tertium.protocol.errors import LaneError, StrangerKey, UnknownTicket
from tertium.protocol.lanes.base import Address, BulkDown, BulkUp, Down, Frame, Record, Refused, Up
from tertium.protocol.lanes.malloc import keep_freed_memory
from tertium.protocol.lanes.tickets import TicketBook
from tertium.protocol.lanes.zap import ENDPOINT, Door
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from tertium.protocol.lanes.zmq_sockets import Loop

SUBJECT = bytes(range(32))
GREETING_NULL = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
GREETING_CURVE = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
GREETING_PLAIN = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"PLAIN".ljust(20, b"\0") + b"\0" + bytes(31)
World = Any
Raw = Callable[..., zmq.Socket[bytes]]


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


@pytest.fixture
def raw(zmq_world: World) -> Iterator[Raw]:
    """Make raw DEALERs connected to the hub: as a party by name, with a ticket, or with no mechanism."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    # A socket that nobody holds is closed by the garbage collector.
    held = []

    def make(name: str = "", *, lane: str = "control", ticket: Any = None, **options: Any) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        held.append(made)
        made.linger = 0
        if name:
            zmq_world.address(name)
            made.curve_secretkey = zmq_world.secrets[name]
            made.curve_publickey = public(zmq_world.secrets[name])
            made.curve_serverkey = zmq_world.address("hub").curve
        if ticket is not None:
            made.plain_username, made.plain_password = ticket
        for option, value in options.items():
            setattr(made, option, value)
        made.connect(getattr(zmq_world.listening["hub"], lane))
        return made

    yield make
    context.destroy(linger=0)


@pytest.fixture
def tcp(zmq_world: World) -> Iterator[Callable[[str], socket.socket]]:
    made = []

    def make(lane: str) -> socket.socket:
        host, port = getattr(zmq_world.listening["hub"], lane).removeprefix("tcp://").split(":")
        made.append(socket.create_connection((host, int(port)), timeout=5))
        return made[-1]

    yield make
    for each in made:
        each.close()


def hex_ticket(ticket: Any) -> tuple[bytes, bytes]:
    return ticket.subject.hex().encode(), ticket.secret.hex().encode()


def kinds(party: Any) -> list[type]:
    return [type(event) for event in party.seen]


def still_serves(world: World, hub: Any, ann: Any) -> None:
    """The honest pair exchanges a frame and a record."""
    mark = os.urandom(8)
    assert ann.lanes.send("hub", mark)
    world.drive(hub, ann, until=lambda: Frame("ann", mark) in hub.seen)
    subject = os.urandom(32)
    world.bulk(hub, ann, subject)
    assert ann.lanes.send_record(subject, mark)
    world.drive(hub, ann, until=lambda: Record(subject, "ann", mark) in hub.seen)
    ann.lanes.close_bulk(subject)
    world.drive(hub, ann, until=lambda: hub.of(BulkDown))


# Strangers


def test_a_stranger_key_is_refused(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    stranger = raw("mallory")
    stranger.send(b"\x01hello")
    zmq_world.drive(hub, until=lambda: hub.of(Refused))
    assert isinstance(hub.of(Refused)[0].error, StrangerKey)
    still_serves(zmq_world, hub, ann)
    assert set(kinds(hub)) == {Up, Refused, Frame, BulkUp, Record, BulkDown}
    assert hub.of(Up) == [Up("ann")]


@pytest.mark.parametrize("lane", ["control", "bulk"])
def test_a_client_without_a_mechanism_is_nobody(zmq_world: World, raw: Raw, lane: str) -> None:
    hub, ann = zmq_world.pair()
    raw(lane=lane).send(b"\x01hello")
    zmq_world.idle(hub, ann, seconds=0.2)
    assert kinds(hub) == [Up]
    still_serves(zmq_world, hub, ann)


def test_a_mechanism_of_the_other_lane_is_nobody(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    ticket = hub.lanes.grant("ann", SUBJECT)
    raw(lane="control", ticket=hex_ticket(ticket)).send(b"\x01hello")
    raw("ann", lane="bulk").send(b"")
    zmq_world.idle(hub, ann, seconds=0.2)
    assert kinds(hub) == [Up]
    # The ticket shown at the wrong door is not used up.
    ann.lanes.open_bulk("hub", ticket)
    zmq_world.drive(hub, ann, until=lambda: hub.of(BulkUp))


@pytest.mark.parametrize("credentials", [(b"zz", b"zz"), (b"\xff", b"\xff"), (b"ab" * 127, b"ab" * 127), (b"00", b" ")])
def test_credentials_that_are_no_ticket(zmq_world: World, raw: Raw, credentials: tuple[bytes, bytes]) -> None:
    hub, ann = zmq_world.pair()
    raw(lane="bulk", ticket=credentials).send(b"")
    zmq_world.drive(hub, ann, until=lambda: hub.of(Refused))
    assert isinstance(hub.of(Refused)[0].error, UnknownTicket)
    still_serves(zmq_world, hub, ann)


@pytest.mark.parametrize("lane", ["control", "bulk"])
@pytest.mark.parametrize("greeting", [GREETING_NULL, GREETING_CURVE, GREETING_PLAIN], ids=["null", "curve", "plain"])
def test_an_announced_giant_frame_is_cut_off(
    zmq_world: World, tcp: Callable[[str], socket.socket], lane: str, greeting: bytes
) -> None:
    hub, ann = zmq_world.pair()
    stranger = tcp(lane)
    # flags 0x02: a frame with an 8-byte length; 0x06: a command with one
    stranger.sendall(greeting + b"\x06" + struct.pack(">Q", 2**40) + b"x" * 1000)
    closed = False
    end = time.monotonic() + 3
    stranger.settimeout(0.02)
    while not closed and time.monotonic() < end:
        hub.poll(0.005)
        try:
            closed = stranger.recv(4096) == b""
        except TimeoutError:
            continue
        except OSError:
            closed = True
    assert closed
    still_serves(zmq_world, hub, ann)
    assert hub.of(Up) == [Up("ann")]


@pytest.mark.parametrize("lane", ["control", "bulk"])
def test_garbage_is_nobody(zmq_world: World, tcp: Callable[[str], socket.socket], lane: str) -> None:
    hub, ann = zmq_world.pair()
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff", bytes(200), GREETING_CURVE[:40]):
        tcp(lane).sendall(junk)
    zmq_world.idle(hub, ann, seconds=0.1)
    assert kinds(hub) == [Up]
    still_serves(zmq_world, hub, ann)


def test_connections_that_say_nothing_keep_nobody_out(
    zmq_world: World, raw: Raw, tcp: Callable[[str], socket.socket]
) -> None:
    hub, ann = zmq_world.pair()
    for lane in ("control", "bulk"):
        for _ in range(20):
            tcp(lane)
    for _ in range(5):
        raw("bob")
    zmq_world.idle(hub, ann, seconds=0.1)
    still_serves(zmq_world, hub, ann)
    # A key alone, without a first frame, is not yet a peer.
    assert hub.of(Up) == [Up("ann")]


# Parties of the charter that break the rules


def test_the_key_and_not_the_routing_id_says_who_speaks(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    raw("bob", routing_id=b"ann").send(b"\x01I am ann")
    zmq_world.idle(hub, ann, seconds=0.1)
    assert hub.of(Frame, Down) == []
    still_serves(zmq_world, hub, ann)


def test_a_chosen_routing_id_is_no_way_into_anothers_connection(zmq_world: World, raw: Raw) -> None:
    hub = zmq_world.make("hub", ["ann", "bob"], listen=True)
    first = raw("ann", routing_id=b"same")
    first.send(b"\x01from ann")
    zmq_world.idle(hub, seconds=0.1)
    first.close()
    second = raw("bob", routing_id=b"same")
    second.send(b"\x01from bob")
    zmq_world.idle(hub, seconds=0.1)
    # Were the first admitted, what is sent to ann now would reach bob.
    hub.lanes.send("ann", b"for ann only")
    zmq_world.idle(hub, seconds=0.05)
    assert second.poll(50) == 0
    assert hub.seen == []


@pytest.mark.parametrize("parts", [[b"\x01a", b"b"], [b"", b""], [b"\x01a"] + [b"x"] * 100])
def test_a_message_of_several_frames_ends_the_connection(zmq_world: World, raw: Raw, parts: list[bytes]) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    bob.send_multipart(parts)
    bob.send(b"\x01after")
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    still_serves(zmq_world, hub, ann)
    assert all(frame.peer == "ann" for frame in hub.of(Frame))
    assert hub.of(Up) == [Up("ann"), Up("bob")]


def test_a_first_message_of_several_frames_is_never_up(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    bob.send_multipart([b"", b"x"])
    bob.send(b"\x01after")
    zmq_world.idle(hub, ann)
    assert kinds(hub) == [Up]


@pytest.mark.parametrize("frame", [b"\x02", b"\x00x", b"\xff" * 100], ids=["kind", "long goodbye", "junk"])
def test_a_frame_that_is_none_ends_the_connection(zmq_world: World, raw: Raw, frame: bytes) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    for each in (b"", frame, b"\x01after"):
        bob.send(each)
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    assert hub.of(Frame) == []
    still_serves(zmq_world, hub, ann)


@pytest.mark.parametrize("excess", [1, 10_000_000])
def test_an_oversize_control_frame_ends_the_connection(zmq_world: World, raw: Raw, excess: int) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    bob.send(b"\x01" + bytes(64 * 1024 + excess))
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    assert hub.of(Frame) == []
    still_serves(zmq_world, hub, ann)


def test_a_second_connection_replaces_the_first_and_the_first_is_told(zmq_world: World, raw: Raw) -> None:
    hub = zmq_world.make("hub", ["ann", "bob"], listen=True)
    first, second = raw("bob"), raw("bob")
    first.send(b"\x01one")
    zmq_world.drive(hub, until=lambda: hub.of(Frame))
    second.send(b"\x01two")
    zmq_world.drive(hub, until=lambda: len(hub.of(Frame)) == 2)
    assert kinds(hub) == [Up, Frame, Down, Up, Frame]
    assert hub.lanes.send("bob", b"to the second")
    assert first.poll(2000)
    assert first.recv() == b"\x00"
    assert second.poll(2000)
    assert second.recv() == b"\x01to the second"
    first.send(b"\x01from the dead")
    zmq_world.idle(hub)
    assert len(hub.of(Frame)) == 2


def test_a_vanished_client_is_noticed_at_once(zmq_world: World, raw: Raw) -> None:
    hub = zmq_world.make("hub", ["bob"], listen=True)
    bob = raw("bob")
    for number in range(10):
        bob.send(b"\x01" + bytes([number]))
    zmq_world.drive(hub, until=lambda: hub.of(Frame))
    bob.close(linger=1000)
    zmq_world.drive(hub, until=lambda: hub.of(Down), seconds=limits.SILENCE / 4)
    assert kinds(hub) == [Up, *[Frame] * 10, Down]


def test_a_silent_client_is_down(zmq_world: World, raw: Raw) -> None:
    hub = zmq_world.make("hub", ["bob"], listen=True, silence=0.4)
    raw("bob").send(b"")
    zmq_world.drive(hub, until=lambda: hub.of(Up))
    start = time.monotonic()
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    assert 0.2 < time.monotonic() - start < 2


def test_pings_keep_a_quiet_connection_up(zmq_world: World) -> None:
    hub = zmq_world.make("hub", ["ann"], listen=True, silence=0.4)
    ann = zmq_world.make("ann", ["hub"], ping_every=0.05, silence=0.4)
    zmq_world.join(ann, hub)
    zmq_world.idle(hub, ann, seconds=0.8)
    assert kinds(hub) == kinds(ann) == [Up]


def test_a_server_that_never_answers_is_down_and_tried_again(zmq_world: World) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server = context.socket(zmq.ROUTER)
    zmq_world.address("hub")
    server.curve_server = True
    server.curve_secretkey = zmq_world.secrets["hub"]
    port = server.bind_to_random_port("tcp://127.0.0.1")
    zmq_world.listening["hub"] = Listen(f"tcp://127.0.0.1:{port}", "tcp://127.0.0.1:1")
    ann = zmq_world.make("ann", ["hub"], ping_every=0.1, silence=0.3)
    ann.lanes.connect("hub")
    zmq_world.drive(ann, until=lambda: len(ann.of(Up)) == 2)
    assert kinds(ann)[:3] == [Up, Down, Up]
    assert "silent" in ann.of(Down)[0].reason
    context.destroy(linger=0)


def test_a_server_with_another_key_is_not_up(zmq_world: World) -> None:
    zmq_world.make("hub", ["ann"], listen=True)
    right = zmq_world.secrets["hub"]
    zmq_world.secrets["hub"] = os.urandom(32)
    ann = zmq_world.make("ann", ["hub"])
    ann.lanes.connect("hub")
    zmq_world.idle(*zmq_world.made, seconds=0.3)
    assert kinds(ann) == kinds(zmq_world.made[0]) == []
    zmq_world.secrets["hub"] = right


# Holders of a ticket that break the rules


def test_a_record_before_the_opening_frame_ends_the_connection(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    holder = raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    holder.send(b"record")
    holder.send(b"")
    zmq_world.drive(hub, until=lambda: hub.of(BulkDown))
    assert hub.of(BulkUp, Record) == []
    still_serves(zmq_world, hub, ann)


@pytest.mark.parametrize("parts", [[b"a", b"b"], [bytes(limits.RECORD_WIRE + 1)]], ids=["several", "oversize"])
def test_a_record_out_of_bounds_ends_the_connection(zmq_world: World, raw: Raw, parts: list[bytes]) -> None:
    hub, ann = zmq_world.pair()
    holder = raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    holder.send(b"")
    zmq_world.drive(hub, until=lambda: hub.of(BulkUp))
    holder.send_multipart(parts)
    zmq_world.drive(hub, until=lambda: hub.of(BulkDown))
    assert hub.of(Record) == []
    still_serves(zmq_world, hub, ann)


def test_a_record_of_the_largest_size_passes(zmq_world: World) -> None:
    hub, ann = zmq_world.pair()
    zmq_world.bulk(hub, ann, SUBJECT)
    assert ann.lanes.send_record(SUBJECT, bytes(limits.RECORD_WIRE))
    zmq_world.drive(hub, ann, until=lambda: hub.of(Record))


def test_a_ticket_used_and_never_opened_is_given_up(zmq_world: World, raw: Raw) -> None:
    hub, _ann = zmq_world.pair()
    raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    zmq_world.idle(hub, seconds=0.1)
    assert hub.of(BulkDown) == []
    zmq_world.clock.ahead += limits.HANDSHAKE + 2
    zmq_world.drive(hub, until=lambda: hub.of(BulkDown))


def test_a_transfer_on_which_nothing_moves_is_ended(zmq_world: World, raw: Raw) -> None:
    hub, _ann = zmq_world.pair()
    holder = raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    holder.send(b"")
    zmq_world.drive(hub, until=lambda: hub.of(BulkUp))
    zmq_world.clock.ahead += limits.BULK_IDLE + 2
    zmq_world.drive(hub, until=lambda: hub.of(BulkDown))
    holder.send(b"too late")
    zmq_world.idle(hub)
    assert hub.of(Record) == []


def test_an_old_connection_cannot_pass_for_the_one_granted_after_it(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    old = raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    zmq_world.idle(hub, seconds=0.1)
    ticket = hub.lanes.grant("ann", SUBJECT)
    old.send(b"")
    old.send(b"old record")
    zmq_world.idle(hub, seconds=0.1)
    assert hub.of(BulkUp, Record) == []
    ann.lanes.open_bulk("hub", ticket)
    zmq_world.drive(hub, ann, until=lambda: hub.of(BulkUp))


def test_a_vanished_holder_is_noticed_at_once_and_its_records_are_read(zmq_world: World, raw: Raw) -> None:
    hub, _ann = zmq_world.pair()
    holder = raw(lane="bulk", ticket=hex_ticket(hub.lanes.grant("ann", SUBJECT)))
    holder.send(b"")
    for number in range(30):
        holder.send(bytes([number]) * 100_000)
    holder.close(linger=5000)
    zmq_world.drive(hub, until=lambda: hub.of(BulkDown))
    assert [event.data[0] for event in hub.of(Record)] == list(range(30))


# The door, setting up, and closing


def test_the_door_answers_requests_that_are_none() -> None:
    loop = Loop(time.monotonic)
    door = Door(loop, {bytes(32): "ann"}, TicketBook(time.monotonic), {})
    asking = loop.context.socket(zmq.DEALER)
    asking.linger = 0
    asking.connect(ENDPOINT)
    good = [b"1.0", b"7", b"control", b"127.0.0.1", b"", b"CURVE", bytes(32)]
    bad = [
        [b"1.0"],
        [b"", b""],
        good[:6],
        [b"2.0", *good[1:]],
        [*good[:2], b"", *good[3:]],
        [*good[:5], b"NULL"],
        [*good[:5], b"PLAIN", b"ab", b"cd"],
        [*good[:2], b"bulk", *good[3:]],
        [*good[:2], b"bulk", b"", b"", b"PLAIN", b"ab"],
        good * 100,
    ]
    for request, status in [*((request, b"400") for request in bad[:-1]), (good, b"200")]:
        asking.send_multipart([b"", *request])
        assert asking.poll(0) == 0
        loop.wait(1000)
        answer = asking.recv_multipart()
        assert answer[3] == status, request
        assert answer[5] == (b"ann" if status == b"200" else b"")
    assert len(loop.events) == len(bad) - 1
    door.close()
    asking.close()
    loop.context.term()


def test_an_address_in_use_is_our_mistake(zmq_world: World) -> None:
    hub = zmq_world.make("hub", ["ann"], listen=True)
    bound = hub.lanes.bound
    before = open_descriptors()
    for listen in (bound, Listen("tcp://127.0.0.1:0", bound.bulk), Listen("nonsense", "tcp://127.0.0.1:0")):
        with pytest.raises(LaneError, match="cannot listen on"):
            ZmqLanes("other", os.urandom(32), {}, listen=listen, frame_limit=1000)
    assert open_descriptors() <= before


def test_keys_that_are_none_are_our_mistake() -> None:
    with pytest.raises(LaneError, match="32 bytes, not 31"):
        ZmqLanes("ann", bytes(31), {}, frame_limit=1000)
    with pytest.raises(LaneError, match="hub has 5 bytes"):
        ZmqLanes("ann", os.urandom(32), {"hub": Address(b"short")}, frame_limit=1000)
    with pytest.raises(LaneError, match="same CURVE key"):
        ZmqLanes("ann", os.urandom(32), {"hub": Address(bytes(32)), "bob": Address(bytes(32))}, frame_limit=1000)


def test_a_peer_that_does_not_listen_cannot_be_connected_to(zmq_world: World) -> None:
    ann = zmq_world.make("ann", ["bob"])
    with pytest.raises(LaneError, match="does not listen"):
        ann.lanes.connect("bob")


def test_the_secret_is_not_shown(zmq_world: World) -> None:
    ann = zmq_world.make("ann", ["hub"])
    assert repr(ann.lanes) == "ZmqLanes('ann')"


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_closing_leaves_no_descriptor_and_no_thread(zmq_world: World) -> None:
    def life() -> None:
        hub, ann = zmq_world.pair()
        zmq_world.bulk(hub, ann, SUBJECT)
        assert ann.lanes.send_record(SUBJECT, bytes(200_000))
        zmq_world.drive(hub, ann, until=lambda: hub.of(Record))
        ann.lanes.close()
        hub.lanes.close()
        zmq_world.listening.clear()

    # The first zero-copy send of a process starts pyzmq's own collector, which stays.
    life()
    before = open_descriptors(), threading.active_count()
    for _ in range(3):
        life()
    assert (open_descriptors(), threading.active_count()) == before


def test_malloc_is_told_once() -> None:
    assert keep_freed_memory() == keep_freed_memory()
