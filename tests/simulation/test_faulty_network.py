"""Each trouble of the simulated network, clock and executor does what it says, and lanes keep their promises."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tertium.protocol import limits
from tertium.protocol.lanes.base import BulkDown, BulkUp, Down, Frame, Record, Up
from tertium.simulation.faults import FaultyNetwork, PacedExecutor, PartyClock, SteppedLanes, Trouble
from tertium.simulation.federation import Clock

SUBJECT = bytes(32)


class Pair:
    """A party that listens and one that connects, over a network with one trouble."""

    def __init__(self, **trouble: Any) -> None:
        self.clock = Clock()
        self.noted: list[tuple[Any, ...]] = []
        self.network = FaultyNetwork(
            Trouble(**{"delay": 0.001, **trouble}), Random(4), lambda: self.clock.now, lambda *a: self.noted.append(a)
        )
        self.hub = self.lanes("hub", listen=True)
        self.site = self.lanes("site")
        self.site.connect("hub")
        self.settle()

    def lanes(self, name: str, *, listen: bool = False) -> SteppedLanes:
        return SteppedLanes(
            name, self.network, ("hub", "site"), listen=listen, frame_limit=10_000, clock=lambda: self.clock.now
        )

    def settle(self, seconds: float = 0.1) -> tuple[list[Any], list[Any]]:
        hub, site, end = [], [], self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += 0.01
            self.network.flush()
            hub += self.hub.poll(0.0) if not self.hub.closed else []
            site += self.site.poll(0.0) if not self.site.closed else []
        return hub, site

    def open_bulk(self) -> None:
        self.site.open_bulk("hub", self.hub.grant("site", SUBJECT))
        hub, _ = self.settle()
        assert hub == [BulkUp(SUBJECT, "site")]


@pytest.fixture
def pair() -> Callable[..., Pair]:
    return Pair


def frames(events: list[Any]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Frame)]


def test_frames_arrive_late_and_in_order(pair: Any) -> None:
    made = pair(delay=0.05, spike=0.2)
    for number in range(50):
        assert made.site.send("hub", bytes([number]))
    assert frames(made.hub.poll(0.0)) == []
    hub, _ = made.settle(60)
    assert frames(hub) == [bytes([number]) for number in range(50)]


def test_two_connections_overtake_each_other(pair: Any) -> None:
    overtaken = 0
    made = pair(delay=0.05)
    made.open_bulk()
    for number in range(30):
        made.site.send("hub", bytes([number]))
        made.site.send_record(SUBJECT, bytes([number]))
        hub, _ = made.settle(3)
        overtaken += isinstance(hub[0], Record)
    assert 0 < overtaken < 30


@pytest.mark.parametrize("kind", ["reset", "drop", "corrupt", "double"])
def test_a_control_frame_that_suffers_costs_its_connection(pair: Any, kind: str) -> None:
    made = pair(**{kind: 1.0})
    made.site.send("hub", b"lost")
    hub, site = made.settle(1)
    assert frames(hub) == []
    assert isinstance(hub[0], Down)
    assert isinstance(site[0], Down)
    assert Up("hub") in site  # and it is opened again
    assert made.noted[0] == (kind, "site", "hub")


def test_a_bulk_record_arrives_altered(pair: Any) -> None:
    made = pair(corrupt=1.0)
    made.open_bulk()
    for _ in range(5):
        made.site.send_record(SUBJECT, b"as it was")
    hub, _ = made.settle(1)
    records = [bytes(event.data) for event in hub if isinstance(event, Record)]
    assert len(records) == 5
    assert b"as it was" not in records


def test_a_bulk_record_arrives_twice(pair: Any) -> None:
    made = pair(double=1.0)
    made.open_bulk()
    made.site.send_record(SUBJECT, b"once")
    hub, _ = made.settle(1)
    assert [bytes(event.data) for event in hub] == [b"once", b"once"]


def test_a_lost_record_costs_its_connection_and_no_other(pair: Any) -> None:
    made = pair(drop=1.0)
    made.open_bulk()
    made.site.send_record(SUBJECT, b"lost")
    hub, site = made.settle(1)
    assert [type(event) for event in hub] == [BulkDown]
    assert [type(event) for event in site] == [BulkDown]


@pytest.mark.parametrize("both", [True, False])
def test_a_short_cut_only_delays(pair: Any, both: bool) -> None:
    made = pair()
    made.network.cut("site", "hub", 5.0, both=both)
    assert not made.network.reachable("site", "hub")
    made.site.send("hub", b"late")
    made.hub.send("site", b"the other way")
    hub, site = made.settle(4)
    assert frames(hub) == []
    assert frames(site) == ([] if both else [b"the other way"])
    hub, site = made.settle(2)
    assert frames(hub) == [b"late"]
    assert made.network.reachable("site", "hub")


def test_a_long_cut_is_noticed_as_silence(pair: Any) -> None:
    made = pair(until=1000.0)
    made.network.cut("site", "hub", 30.0, both=False)
    made.site.send("hub", b"lost")
    hub, site = made.settle(limits.SILENCE - 0.5)
    assert hub == site == []
    hub, site = made.settle(1)
    assert isinstance(hub[0], Down)
    assert isinstance(site[0], Down)
    hub, site = made.settle(30)
    assert frames(hub) == []
    assert Up("site") in hub


def test_nothing_goes_wrong_after_the_healing(pair: Any) -> None:
    made = pair(drop=1.0, until=0.05)
    assert made.clock.now > 0.05
    made.site.send("hub", b"safe")
    hub, _ = made.settle(1)
    assert frames(hub) == [b"safe"]
    assert made.noted == []


@pytest.mark.parametrize(
    ("how", "arrives", "noticed"),
    [("at once", False, 0.0), ("after its last words", True, 0.0), ("without a word", True, limits.SILENCE)],
)
def test_a_party_that_is_gone(pair: Any, how: str, arrives: bool, noticed: float) -> None:
    made = pair()
    made.site.send("hub", b"my last words")
    made.network.vanish("site", how)
    hub, _ = made.settle(max(0.2, noticed - 1))
    assert frames(hub) == ([b"my last words"] if arrives else [])
    assert any(isinstance(event, Down) for event in hub) == (noticed == 0.0)
    if noticed:
        hub, _ = made.settle(2)
        assert isinstance(hub[-1], Down)
    made.site = made.lanes("site")
    made.site.connect("hub")
    hub, _ = made.settle(1)
    assert hub[-1] == Up("site")


def test_a_clock_jumps_stands_still_and_never_goes_back() -> None:
    base = Clock()
    clock = PartyClock(base)
    base.now = 10.0
    clock.jump(300.0)
    assert clock() == 310.0
    assert clock.when(320.0) == 20.0
    clock.stand_still(5.0)
    base.now = 14.0
    assert clock() == 310.0
    assert clock.when(310.5) == 15.5
    clock.jump(1.0)
    assert clock() == 311.0
    base.now = 16.0
    assert clock() == 312.0
    assert clock.when(313.0) == 17.0


def test_a_job_takes_its_time_and_gives_way_to_the_next() -> None:
    base, done = Clock(), []
    executor = PacedExecutor(base, lambda: 2.0)
    executor.submit("first", lambda: done.append("first"))
    executor.submit("second", lambda: 1 / 0)
    assert executor.results() == []
    assert executor.due() == 2.0
    base.now = 2.0
    ((tag, result),) = executor.results()
    assert (tag, type(result), done) == ("second", ZeroDivisionError, [])
