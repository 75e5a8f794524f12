"""The uploads of one round: few at once, each sender once, buffers used again."""

from typing import Any

import numpy as np
import pytest
from tertium.crypto.labels import Label
from tertium.protocol import limits
from tertium.protocol.errors import AlreadyContributed
from tertium.protocol.exchange import Outgoing
from tertium.secure_worker.intake import Intake
from tertium.workers.data_owner import DataOwner

Maker = Any


@pytest.fixture
def intake(make: Maker) -> Any:
    """An intake of seven, and a way to seal for it."""
    run = make(7, machines=dict.fromkeys(make.names, _Idle))
    run.run(until=lambda: run.machines["third"]._intake is not None)
    room: Intake = run.machines["third"]._intake
    size = room.question.words * room.question.plan.dtype.itemsize

    def seal(sender: str, value: int = 1) -> Outgoing:
        payload = np.full(room.question.words, value, room.question.plan.dtype).tobytes()
        assert len(payload) == size
        exchange = run.machines[sender].exchange
        return exchange.seal(Label.CONTRIBUTION, room.context, "third", room.key.public, [payload])

    room.seal_for = seal  # type: ignore[attr-defined]
    return room


class _Idle(DataOwner):
    def _on_invitation(self, peer: str, message: Any, now: float) -> None:
        pass


def feed(room: Any, sender: str, incoming: Any, outgoing: Outgoing) -> None:
    for record in outgoing.records():
        incoming.feed(record)
    room.add(sender, incoming, incoming.finish()[0])


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
    assert (np.asarray(intake._total) == 7).all()


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
    section = incoming.finish()[0]
    intake.add("bob", incoming, section)
    with pytest.raises(AlreadyContributed):
        intake.add("bob", incoming, section)
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
    total, broken = intake.close()
    assert broken == [outgoing.subject]
    assert intake.key.erased
    assert not np.asarray(total).any()
