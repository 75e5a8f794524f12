"""What a party said before it left is heard, even if the other side spoke to it before it listened."""

import time
from typing import Any

from tertium.protocol.lanes.base import BulkDown, Down, Frame, Record

SUBJECT = bytes(range(32))
ON_ITS_WAY = 0.1
"""Seconds by when the end of a connection has reached the other side's machine."""
World = Any


def test_what_was_said_before_closing_is_heard_even_if_we_spoke_in_between(world: World) -> None:
    hub, ann = world.pair()
    assert ann.lanes.send("hub", b"the last word")
    ann.lanes.close()
    time.sleep(ON_ITS_WAY)
    hub.lanes.send("ann", b"late")
    world.drive(hub, until=lambda: hub.of(Down))
    assert hub.seen[1:] == [Frame("ann", b"the last word"), hub.of(Down)[0]]
    assert not hub.lanes.send("ann", b"later")


def test_records_sent_before_closing_arrive_even_if_we_send_in_between(world: World) -> None:
    hub, ann = world.pair()
    world.bulk(hub, ann, SUBJECT)
    assert ann.lanes.send_record(SUBJECT, b"the last record")
    ann.lanes.close()
    time.sleep(ON_ITS_WAY)
    hub.lanes.send_record(SUBJECT, b"late")
    world.drive(hub, until=lambda: hub.of(BulkDown))
    assert hub.of(Record, BulkDown) == [Record(SUBJECT, "ann", b"the last record"), hub.of(BulkDown)[0]]
    assert not hub.lanes.send_record(SUBJECT, b"later")
