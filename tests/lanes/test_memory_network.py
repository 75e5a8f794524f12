"""The in-memory network's own promises: fault injection by overriding, simulated time, and repeatability."""

from dataclasses import replace

import pytest
from tertium.protocol.errors import LaneError
from tertium.protocol.lanes.base import BulkDown, BulkUp, Down, Frame, Record, Up
from tertium.protocol.lanes.memory_lanes import Delivery, MemoryLanes, MemoryNetwork

SUBJECT = bytes(range(32))


class Faulty(MemoryNetwork):
    """Does with each delivery what `fault` says."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = "none"
        self.held: list[Delivery] = []
        self.cut: set[tuple[str, str]] = set()

    def deliver(self, delivery: Delivery) -> None:
        match self.fault:
            case "drop":
                self.drop(delivery)
            case "twice":
                self.put(delivery)
                self.put(delivery)
            case "corrupt":
                self.put(replace(delivery, data=b"corrupt"))
            case "hold":
                self.held.append(delivery)
            case _:
                self.put(delivery)

    def reachable(self, client: str, server: str) -> bool:
        return (client, server) not in self.cut


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pair(network: MemoryNetwork, clock: Time) -> tuple[MemoryLanes, MemoryLanes]:
    hub = MemoryLanes("hub", network, {"ann": None}, listen=True, frame_limit=1000, clock=clock)
    ann = MemoryLanes("ann", network, ["hub"], frame_limit=1000, clock=clock)
    ann.connect("hub")
    assert hub.poll(0) == [Up("ann")]
    assert ann.poll(0) == [Up("hub")]
    return hub, ann


def opened(network: MemoryNetwork, clock: Time) -> tuple[MemoryLanes, MemoryLanes]:
    hub, ann = pair(network, clock)
    ann.open_bulk("hub", hub.grant("ann", SUBJECT))
    assert hub.poll(0) == [BulkUp(SUBJECT, "ann")]
    assert ann.poll(0) == [BulkUp(SUBJECT, "hub")]
    return hub, ann


@pytest.mark.parametrize(
    ("fault", "arrives"), [("none", [b"x"]), ("drop", []), ("twice", [b"x", b"x"]), ("corrupt", [b"corrupt"])]
)
def test_every_frame_and_record_passes_through_deliver(fault: str, arrives: list[bytes]) -> None:
    network = Faulty()
    hub, ann = opened(network, Time())
    network.fault = fault
    assert ann.send("hub", b"x")
    assert hub.poll(0) == [Frame("ann", data) for data in arrives]
    assert hub.send_record(SUBJECT, b"x")
    assert ann.poll(0) == [Record(SUBJECT, "hub", data) for data in arrives]


def test_what_is_held_arrives_when_put_and_counts_as_queued() -> None:
    network = Faulty()
    hub, ann = opened(network, Time())
    network.fault = "hold"
    sent = 0
    while ann.send_record(SUBJECT, bytes([sent])):
        sent += 1
    assert sent == 10
    ann.close_bulk(SUBJECT)
    assert hub.poll(0) == []
    for delivery in network.held:
        network.put(delivery)
    events = hub.poll(0)
    assert events[:-1] == [Record(SUBJECT, "ann", bytes([number])) for number in range(sent)]
    assert isinstance(events[-1], BulkDown)


def test_what_was_under_way_is_lost_with_its_connection() -> None:
    network = Faulty()
    clock = Time()
    hub, ann = pair(network, clock)
    network.fault = "hold"
    assert ann.send("hub", b"old")
    network.disconnect("ann", "hub")
    clock.now += 1
    network.fault = "none"
    assert [type(event) for event in ann.poll(0)] == [Down, Up]
    for delivery in network.held:
        network.put(delivery)
    assert [type(event) for event in hub.poll(0)] == [Down, Up]


def test_disconnect_ends_both_lanes_and_the_client_dials_again_later() -> None:
    network, clock = MemoryNetwork(), Time()
    hub, ann = opened(network, clock)
    clock.now = 100.0
    network.disconnect("hub", "ann", "cable cut")
    for party, other in ((hub, "ann"), (ann, "hub")):
        assert party.poll(0) == [Down(other, "cable cut"), BulkDown(SUBJECT, other, "cable cut")]
    assert hub.due() == float("inf")
    assert ann.due() > clock.now
    clock.now = ann.due()
    assert ann.poll(0) == [Up("hub")]
    assert hub.poll(0) == [Up("ann")]


def test_a_partition_keeps_them_apart_with_a_growing_pause() -> None:
    network, clock = Faulty(), Time()
    _hub, ann = pair(network, clock)
    network.cut.add(("ann", "hub"))
    network.disconnect("ann", "hub")
    ann.poll(0)
    pauses = []
    for _ in range(8):
        pauses.append(ann.due() - clock.now)
        clock.now = ann.due()
        assert ann.poll(0) == []
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.05)
    assert pauses[-1] == pytest.approx(2.0)
    network.cut.clear()
    clock.now = ann.due()
    assert ann.poll(0) == [Up("hub")]


def test_a_stopped_party_is_closed_and_its_peers_see_it_go() -> None:
    network = MemoryNetwork()
    hub, ann = opened(network, Time())
    network.stop("ann")
    network.stop("ann")
    assert [type(event) for event in hub.poll(0)] == [Down, BulkDown]
    with pytest.raises(LaneError):
        ann.poll(0)
    assert MemoryLanes("ann", network, ["hub"], frame_limit=1000).name == "ann"


def test_a_name_joins_once() -> None:
    network = MemoryNetwork()
    pair(network, Time())
    with pytest.raises(LaneError, match="ann has joined"):
        MemoryLanes("ann", network, [], frame_limit=1000)


def test_a_delivery_does_not_show_its_data() -> None:
    network = Faulty()
    _hub, ann = pair(network, Time())
    network.fault = "hold"
    ann.send("hub", b"confidential")
    assert "confidential" not in repr(network.held[0])
