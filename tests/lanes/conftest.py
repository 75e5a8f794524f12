"""Worlds: the same parties over ZeroMQ and in memory, made, driven and closed alike."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tertium.protocol.lanes.base import Address, BulkUp, Event, Lanes, Up
from tertium.protocol.lanes.memory_lanes import MemoryLanes, MemoryNetwork
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from tertium.protocol.ticket import Ticket

LIMIT = 64 * 1024
ANYWHERE = Listen("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")


class Clock:
    """The real clock, that a test can move forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@dataclass(eq=False)
class Party:
    """A party's lanes and every event they gave."""

    lanes: Lanes
    seen: list[Event] = field(default_factory=list)

    def poll(self, timeout: float = 0.0) -> list[Event]:
        events = self.lanes.poll(timeout)
        self.seen += [_kept(event) for event in events]
        return events

    def of(self, *kinds: type) -> list[Event]:
        return [event for event in self.seen if isinstance(event, kinds)]


def _kept(event: Event) -> Event:
    """A record's data is valid until the next poll only."""
    if hasattr(event, "subject") and hasattr(event, "data"):
        return type(event)(event.subject, event.peer, bytes(event.data))
    return event


class World:
    """Makes parties that know each other."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.made: list[Party] = []

    def make(self, name: str, knows: list[str], *, listen: bool = False) -> Party:
        raise NotImplementedError

    def pair(self) -> tuple[Party, Party]:
        """A listening "hub" and a connecting "ann", both up."""
        hub = self.make("hub", ["ann", "bob"], listen=True)
        ann = self.make("ann", ["hub"])
        self.join(ann, hub)
        return hub, ann

    def join(self, client: Party, server: Party) -> None:
        ups = len(server.of(Up))
        client.lanes.connect(server.lanes.name)
        self.drive(client, server, until=lambda: client.of(Up) and len(server.of(Up)) > ups)

    def bulk(self, hub: Party, ann: Party, subject: bytes) -> Ticket:
        """Open a bulk connection and return the ticket that opened it."""
        ticket = hub.lanes.grant("ann", subject)
        ups = len(hub.of(BulkUp)), len(ann.of(BulkUp))
        ann.lanes.open_bulk("hub", ticket)
        self.drive(hub, ann, until=lambda: len(hub.of(BulkUp)) > ups[0] and len(ann.of(BulkUp)) > ups[1])
        return ticket

    def drive(self, *parties: Party, until: Callable[[], object], seconds: float = 8.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"not in {seconds} s; seen: {[p.seen[-5:] for p in parties]}"
            for party in parties:
                party.poll(0.002)

    def idle(self, *parties: Party, seconds: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for party in parties:
                party.poll(0.005)

    def close(self) -> None:
        for party in self.made:
            party.lanes.close()


class MemoryWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.network = MemoryNetwork()

    def make(self, name: str, knows: list[str], *, listen: bool = False) -> Party:
        lanes = MemoryLanes(name, self.network, knows, listen=listen, frame_limit=LIMIT, clock=self.clock)
        self.made.append(Party(lanes))
        return self.made[-1]


class ZmqWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, bytes] = {}
        self.listening: dict[str, Listen] = {}

    def address(self, name: str) -> Address:
        secret = self.secrets.setdefault(name, os.urandom(32))
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        bound = self.listening.get(name)
        return Address(public, bound.control, bound.bulk) if bound else Address(public)

    def make(self, name: str, knows: list[str], *, listen: bool = False, **more: float) -> Party:
        self.address(name)
        lanes = ZmqLanes(
            name,
            self.secrets[name],
            {other: self.address(other) for other in knows},
            # A restarted party listens where it did.
            listen=self.listening.get(name, ANYWHERE) if listen else None,
            frame_limit=LIMIT,
            clock=self.clock,
            **more,
        )
        if lanes.bound:
            self.listening[name] = lanes.bound
        self.made.append(Party(lanes))
        return self.made[-1]


@pytest.fixture(params=[MemoryWorld, ZmqWorld], ids=["memory", "zmq"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = request.param()
    yield world
    world.close()


@pytest.fixture
def zmq_world() -> Iterator[ZmqWorld]:
    world = ZmqWorld()
    yield world
    world.close()
