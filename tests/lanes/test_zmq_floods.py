"""Parties of the charter that send the listening side more than it can be asked to look at."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tertium.protocol import limits
from tertium.protocol.errors import Flooding
from tertium.protocol.lanes.base import BulkDown, Down, Frame, Record, Refused, Up

World = Any
Raw = Callable[..., zmq.Socket[bytes]]


@pytest.fixture
def raw(zmq_world: World) -> Iterator[Raw]:
    """Make raw DEALERs connected to the hub's control lane with a party's keys."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    held = []

    def make(name: str, **options: Any) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        held.append(made)
        made.linger = 0
        zmq_world.address(name)
        made.curve_secretkey = secret = zmq_world.secrets[name]
        made.curve_publickey = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        made.curve_serverkey = zmq_world.address("hub").curve
        for option, value in options.items():
            setattr(made, option, value)
        made.connect(zmq_world.listening["hub"].control)
        return made

    yield make
    context.destroy(linger=0)


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


def flood(bob: zmq.Socket[bytes], frame: bytes = b"\x01" + bytes(2500)) -> int:
    """Send more than a party may; return how many frames were taken."""
    sent = 0
    for _ in range(3 * limits.FLOOD_BURST // len(frame)):
        try:
            bob.send(frame, zmq.DONTWAIT)
            sent += 1
        except zmq.Again:
            break
    return sent


def test_a_party_that_floods_is_cut_off_and_kept_out_for_a_while(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob", sndhwm=100_000)
    bob.send(b"")
    assert flood(bob) > 1000
    zmq_world.drive(hub, ann, until=lambda: hub.of(Down), seconds=20)
    assert "more than any round needs" in hub.of(Down)[0].reason
    # no more than it may, and nothing of what libzmq still held opened the connection again
    assert len(hub.of(Frame)) <= limits.FLOOD_BURST // 2500 + 100
    zmq_world.idle(hub, ann, seconds=0.3)
    assert hub.of(Up, Down) == [Up("ann"), Up("bob"), hub.of(Down)[0]]
    # another connection with the same key
    raw("bob").send(b"")
    zmq_world.drive(hub, ann, until=lambda: hub.of(Refused))
    assert isinstance(hub.of(Refused)[0].error, Flooding)
    assert hub.of(Refused)[0].error.party == "bob"
    still_serves(zmq_world, hub, ann)
    zmq_world.clock.ahead += limits.BANISHED
    raw("bob").send(b"")
    zmq_world.drive(hub, ann, until=lambda: hub.of(Up)[-1] == Up("bob"))


def test_a_connection_made_before_the_flood_is_no_way_back_in(zmq_world: World, raw: Raw) -> None:
    hub, _ann = zmq_world.pair()
    bob, spare = raw("bob", sndhwm=100_000), raw("bob")
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    zmq_world.idle(hub, seconds=0.2)
    flood(bob)
    zmq_world.drive(hub, until=lambda: hub.of(Down), seconds=20)
    spare.send(b"")
    zmq_world.idle(hub, seconds=0.3)
    assert hub.of(Up) == [Up("ann"), Up("bob")]


def test_a_full_queue_of_the_largest_frames_is_no_flood(zmq_world: World) -> None:
    hub, ann = zmq_world.pair()
    for sent in range(limits.CONTROL_QUEUE):
        assert ann.lanes.send("hub", bytes(64 * 1024))
        # Within its own queue: one that is full ends a connection for another reason.
        zmq_world.drive(hub, until=lambda sent=sent: len(hub.of(Frame)) > sent - limits.CONTROL_QUEUE // 2)
    zmq_world.drive(hub, until=lambda: len(hub.of(Frame)) == limits.CONTROL_QUEUE)
    assert not hub.of(Down)


def test_a_retired_connection_that_goes_on_is_severed(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob", reconnect_ivl=-1)
    ended = bob.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    bob.send_multipart([b"\x01a", b"b"])
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    for _ in range(limits.CONTROL_QUEUE):
        assert not ended.poll(0)
        bob.send(b"\x01more", zmq.DONTWAIT)
        hub.poll(0.001)
    zmq_world.idle(hub, seconds=0.1)
    assert not ended.poll(0)
    bob.send(b"\x01and more", zmq.DONTWAIT)
    zmq_world.drive(hub, ann, until=lambda: ended.poll(0))
    bob.disable_monitor()
    ended.close()
    still_serves(zmq_world, hub, ann)
    assert hub.of(Up) == [Up("ann"), Up("bob")]


def test_what_is_left_of_a_retired_connection_that_ended_opens_nothing(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    bob.send_multipart([b"\x01a", b"b"])
    for _ in range(limits.CONTROL_QUEUE // 2):
        bob.send(b"\x01after")
    bob.close(linger=1000)
    # nobody polls meanwhile: the end is known before the frames are read
    time.sleep(0.3)
    zmq_world.idle(hub, ann, seconds=0.3)
    assert hub.of(Up) == [Up("ann"), Up("bob")]
    assert hub.of(Frame) == []


def test_what_is_left_of_a_connection_that_ended_after_it_was_retired_opens_nothing(zmq_world: World, raw: Raw) -> None:
    hub, ann = zmq_world.pair()
    bob = raw("bob")
    bob.send(b"")
    zmq_world.drive(hub, until=lambda: Up("bob") in hub.seen)
    bob.send_multipart([b"\x01a", b"b"])
    zmq_world.drive(hub, until=lambda: hub.of(Down))
    for _ in range(limits.CONTROL_QUEUE // 2):
        bob.send(b"\x01after")
    bob.close(linger=1000)
    time.sleep(0.3)
    zmq_world.idle(hub, ann, seconds=0.3)
    assert hub.of(Up) == [Up("ann"), Up("bob")]
    assert hub.of(Frame) == []
