"""A body that is not the one that was signed, and a ticket that is not good, are refused; the honest ones go on."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from tertium.crypto import sealing
from tertium.protocol import limits
from tertium.protocol.charter import Deadlines
from tertium.protocol.exchange import Exchange, Outgoing
from tertium.protocol.machine import Dial
from tertium.protocol.progress import RefusedProgress
from tertium.protocol.transfers import Transfers
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
EVERYBODY = ("alice", "bob", "carol", "dave")
REST = ("alice", "carol", "dave")


def sends(change: Callable[[list[bytes]], list[bytes]]) -> type[DataOwner]:
    """A data owner that changes the records of its body."""

    class Changes(DataOwner):
        def _announce(self, upload: Any) -> None:
            if not hasattr(upload.outgoing, "honest"):
                upload.outgoing.honest = upload.outgoing.records
                upload.outgoing.records = lambda: iter(change(list(upload.outgoing.honest())))
            super()._announce(upload)

    return Changes


def flipped(at: float) -> Callable[[list[bytes]], list[bytes]]:
    def flip(records: list[bytes]) -> list[bytes]:
        body = bytearray(b"".join(records))
        position = min(int(at * len(body)), len(body) - 1)
        body[position] ^= 1
        cut, out = 0, []
        for record in records:
            out.append(bytes(body[cut : cut + len(record)]))
            cut += len(record)
        return out

    return flip


@pytest.fixture
def small_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORD_PLAINTEXT", 16 * 1024)
    monkeypatch.setattr(limits, "RECORD_WIRE", 48 * 1024)


BODY = 40_000
"""Parameters of a model whose body has ten records of 16 KiB, more than a window."""


@pytest.mark.usefixtures("small_records")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(flipped(0.0), id="a bit of the first byte"),
        pytest.param(flipped(0.5), id="a bit in the middle"),
        pytest.param(flipped(1.0), id="a bit of the last byte"),
        pytest.param(lambda records: [records[1], records[0], *records[2:]], id="two records swapped"),
        pytest.param(lambda records: [*records[:2], records[1], *records[2:]], id="a record twice"),
        pytest.param(lambda records: [*records[:2], *records[3:]], id="a record left out"),
        pytest.param(lambda records: [*records[:-1], records[-1] + b"x"], id="extended by a byte"),
        pytest.param(lambda records: [os.urandom(len(record)) for record in records], id="noise"),
    ],
)
def test_a_body_that_was_altered_is_refused(against: Any, change: Any) -> None:
    run = against(sends(change), planted=BODY)
    assert set(run.refused("third")) - {"peer-lost"} == {"bad-body"}


@pytest.mark.usefixtures("small_records")
def test_what_follows_a_complete_body_is_nothing(against: Any) -> None:
    """Its signed length was there and its commitment matched; the surplus is never opened."""
    run = against(
        sends(lambda records: [*records, records[-1], b"x"]),
        planted=BODY,
        contributors=EVERYBODY,
    )
    assert not run.refused("third")


@pytest.mark.usefixtures("small_records")
def test_a_body_that_is_cut_is_given_up_when_it_stands_still(against: Any) -> None:
    run = against(sends(lambda records: records[:-1]), planted=BODY)
    assert set(run.refused("third")) == {"peer-lost"}
    assert "no bytes of a body" in run.said("third", RefusedProgress)[0].text


def test_another_body_under_the_same_head_does_not_match_the_commitment(against: Any) -> None:
    """The sender knows the content key, so it can make a body that opens; it is not the one it signed."""

    class Knows(Exchange):
        def seal(self, label: Any, context: Any, recipient: str, key: bytes, sections: Any, **more: Any) -> Outgoing:
            content_key = sealing.new_content_key()
            header, other = self.new_header(label, context, recipient, key, sections), os.urandom(32)
            header = msgspec.structs.replace(header, commitment=other, shares=(other,))
            head = self.seal_head(header, key, content_key)
            return Outgoing(
                head,
                header.commitment,
                lambda: sealing.seal_records(content_key, head.subject, bytes(32), sections, limits.RECORD_PLAINTEXT),
            )

    run = against(exchanges={"bob": Knows})
    assert set(run.refused("third")) == {"commitment-mismatch"}


@pytest.mark.usefixtures("small_records")
def test_a_sender_that_ignores_credit_is_cut_off(make: Maker, plain_sum: Any) -> None:
    class Floods(Transfers):
        def up(self, peer: str, subject: bytes, now: float) -> Any:
            out = super().up(peer, subject, now)
            if subject in self._out:
                self._out[subject].credit = 10**6
            return out

    deadlines = Deadlines(join=10, upload=50, close=10)
    run = make(4, machines={"owner": make.sums}, planted=BODY, rules=make.rules(deadlines=deadlines))
    run.parties["bob"]._transfers = Floods()
    run.run()
    assert "credit-exceeded" in run.refused("third")
    assert run.statement(1).contributors == REST
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, REST))


def test_a_bit_that_flips_on_the_way_costs_one_more_transfer(make: Maker, plain_sum: Any) -> None:
    """Nobody lied: the body is refused, sent again, and in the sum."""
    flips: list[str] = []

    def change(delivery: Any) -> Any:
        upload = delivery.wire.subject is not None and delivery.source == "bob" and delivery.end is None
        if upload and not flips:
            flips.append(delivery.target)
            body = bytearray(delivery.data)
            body[-1] ^= 1
            return dataclasses.replace(delivery, data=bytes(body))
        return delivery

    run = make(4, machines={"owner": make.sums}, network=make.wire(change))
    assert set(run.run().values()) == {None}
    assert flips == ["third"]
    assert run.refused("third") == ["bad-body"]
    everybody = make.names[:4]
    assert run.statement(1).contributors == everybody
    np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, everybody))
    assert run.clock.now < limits.STALL


def test_a_bulk_connection_that_breaks_is_opened_again(make: Maker) -> None:
    broken: list[str] = []

    def change(delivery: Any) -> Any:
        if delivery.wire.subject is not None and delivery.end is None and delivery.source not in broken:
            broken.append(delivery.source)
            run.network.disconnect(delivery.source, delivery.target)
            return None
        return delivery

    run = make(network=make.wire(change))
    assert set(run.run().values()) == {None}
    assert sorted(broken) == ["alice", "bob", "carol", "owner", "third"]
    assert run.statement(1).contributors == make.names[:3]


# --- tickets


def test_a_ticket_used_again_is_refused(against: Any) -> None:
    class Again(DataOwner):
        ticket: Any = None

        def on_grant(self, peer: str, message: Any, now: float) -> None:
            if peer == "third":
                self.ticket = message.ticket
            super().on_grant(peer, message, now)

        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            super()._on_receipted(peer, message, now)
            self.effect(Dial(peer, self.ticket))

    run = against(Again, contributors=EVERYBODY)
    assert run.refused("third") == ["reused-ticket"]


def test_an_expired_ticket_is_refused_and_another_can_be_had(against: Any) -> None:
    class Sleeps(DataOwner):
        late = 0.0

        def on_grant(self, peer: str, message: Any, now: float) -> None:
            super().on_grant(peer, message, now)
            if peer == "third" and not self.late:
                self.late = now + limits.TICKET_LIFETIME + 1
                self.held = [effect for effect in self._effects if isinstance(effect, Dial)]
                self._effects = [effect for effect in self._effects if not isinstance(effect, Dial)]

        def tick(self, now: float) -> None:
            if self.late and now >= self.late and self.held:
                self._effects += self.held
                self.held = []
            super().tick(now)

        def next_deadline(self) -> float | None:
            other = super().next_deadline()
            return self.late if self.late and self.held else other

    run = against(Sleeps, contributors=EVERYBODY)
    assert "expired-ticket" in run.refused("third")


def test_a_ticket_made_up_is_refused(against: Any) -> None:
    class Invents(DataOwner):
        def on_grant(self, peer: str, message: Any, now: float) -> None:
            if peer == "third":
                forged = msgspec.structs.replace(message.ticket, secret=bytes(limits.TICKET_SECRET))
                self.effect(Dial(peer, forged))
            super().on_grant(peer, message, now)

    run = against(Invents, contributors=EVERYBODY)
    assert run.refused("third") == ["unknown-ticket"]
