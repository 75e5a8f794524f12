"""A data owner that does not keep to the protocol is refused by name, and the honest ones go on to the exact sum."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from tertium.crypto import sealing
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.owner.machine import ModelOwner
from tertium.protocol import limits
from tertium.protocol.codec import decode_as
from tertium.protocol.exchange import Exchange, Outgoing
from tertium.protocol.machine import Dial, Permit
from tertium.protocol.messages import Acceptance, Decline, Declined, Fetch, Header, Invitation, ProposeRound, Ready
from tertium.protocol.messages import Refusal, Release, RequestSession, RoundKeyStatement, SealedHead, SendModel
from tertium.protocol.rounds import Phase
from tertium.protocol.statements import sign
from tertium.protocol.transfers import Transfers
from tertium.secure_worker.intake import Intake
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
REST = ("alice", "carol", "dave")


class Sums(ModelOwner):
    """A model owner whose totals a test can look at."""

    def _apply(self, question: Any, total: Any, contributors: int, *, scored: bool) -> Any:
        self.total = total.copy()
        return super()._apply(question, total, contributors, scored=scored)


@pytest.fixture
def against(make: Maker, plain_sum: Any) -> Callable[..., Run]:
    """Run a round of four in which bob is of a hostile class, and see that the other three are summed exactly."""

    def run_it(hostile: Any = None, *, contributors: tuple[str, ...] = REST, **more: Any) -> Run:
        machines = {"owner": Sums, **({"bob": hostile} if hostile else {}), **more.pop("machines", {})}
        run = make(4, machines=machines, **more)
        errors = run.run()
        assert not [error for name, error in errors.items() if name != "bob" and error]
        assert run.released[0] == 1
        assert run.statement(1).contributors == contributors
        if run.plan.rounds == 1:
            np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, contributors))
        return run

    return run_it


class Announces(DataOwner):
    """Changes the head it announces; its own signature stands under it where `signs` says so."""

    fields: dict[str, Any] = {}

    def send(self, peer: str, message: Any) -> None:
        super().send(peer, Ready(head=self.altered(message.head)) if isinstance(message, Ready) else message)

    def altered(self, head: SealedHead) -> SealedHead:
        header = decode_as(Header, head.header)
        assert self.asked is not None
        key = self.asked.holder_keys["third"]
        changed = {name: value(header) if callable(value) else value for name, value in self.fields.items()}
        return self.exchange.seal_head(msgspec.structs.replace(header, **changed), key, os.urandom(32))


def announcing(**fields: Any) -> type[Announces]:
    return type("AnnouncesOther", (Announces,), {"fields": fields})


# --- what is announced


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"version": 2}, "unsupported-version"),
        ({"label": Label.AGGREGATE}, "bad-signature"),
        ({"sender": "alice"}, "wrong-sender"),
        ({"charter": bytes(32)}, "wrong-charter"),
        ({"session": bytes(32)}, "wrong-session"),
        ({"round": 0}, "wrong-round"),
        ({"round": 2}, "wrong-round"),
        ({"attempt": 1}, "wrong-attempt"),
        ({"open_round": bytes(32)}, "wrong-open-round"),
        ({"recipient": "owner"}, "wrong-recipient"),
        ({"recipient_key": bytes(16)}, "wrong-recipient"),
        ({"sections": lambda header: (header.sections[0] + 4,)}, "oversized-claim"),
        ({"sections": (2**35,)}, "oversized-claim"),
        ({"sections": (0,)}, "oversized-claim"),
        ({"sections": ()}, "oversized-claim"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_head_that_does_not_fit_is_refused(against: Any, fields: dict[str, Any], code: str) -> None:
    run = against(announcing(**fields))
    assert run.refused("third") == [code]
    assert ("bob", 1) in run.encoded
    assert [line.text for line in run.said("bob") if code in line.text]


@pytest.mark.parametrize("field", ["header", "wrapped_key", "signature"])
@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_flipped_bit_in_a_head_is_refused(against: Any, field: str, at: int) -> None:
    class Flips(Announces):
        def altered(self, head: SealedHead) -> SealedHead:
            content = bytearray(getattr(head, field))
            content[at] ^= 1
            return msgspec.structs.replace(head, **{field: bytes(content)})

    assert against(Flips).refused("third") == ["bad-signature"]


def test_a_strangers_signature_is_refused(against: Any) -> None:
    class Stranger(Announces):
        def altered(self, head: SealedHead) -> SealedHead:
            assert self.asked is not None
            exchange = Exchange(Identity.generate("bob"), self.charter)
            return exchange.seal_head(
                decode_as(Header, head.header), self.asked.holder_keys["third"], os.urandom(32)
            )

    assert against(Stranger).refused("third") == ["bad-signature"]


def test_another_partys_head_is_refused(against: Any) -> None:
    seen: list[SealedHead] = []

    class Sees(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Ready):
                seen.append(message.head)
            super().send(peer, message)

    class Replays(Announces):
        def altered(self, head: SealedHead) -> SealedHead:
            return seen[0]

    run = against(Replays, machines={"alice": Sees})
    assert run.refused("third") == ["bad-signature"]


def test_a_head_of_the_last_round_is_refused(against: Any) -> None:
    class Replays(Announces):
        first: Any = None

        def altered(self, head: SealedHead) -> SealedHead:
            type(self).first = type(self).first or head
            return type(self).first

    run = against(Replays, contributors=("alice", "bob", "carol", "dave"), plan=None or _two_rounds())
    assert run.refused("third") == ["wrong-round"]
    assert run.statement(2).contributors == REST


def _two_rounds() -> Any:
    from tertium.protocol.site import OwnerPlan

    return OwnerPlan(task="regression", rounds=2, seed=7)


def test_a_wrapped_key_that_does_not_open_is_refused(against: Any) -> None:
    class Wraps(Announces):
        def altered(self, head: SealedHead) -> SealedHead:
            return self.exchange.seal_head(decode_as(Header, head.header), RoundKey().public, os.urandom(32))

    assert against(Wraps).refused("third") == ["bad-wrapped-key"]


def test_nothing_is_allocated_for_an_oversized_claim(against: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    kind = sealing.BodyOpener

    def watched(*args: Any, **kwargs: Any) -> Any:
        made.append(sum(kwargs["sections"]))
        return kind(*args, **kwargs)

    monkeypatch.setattr(sealing, "BodyOpener", watched)
    run = against(announcing(sections=(2**35,)))
    assert run.refused("third") == ["oversized-claim"]
    assert max(made) < 2**20


# --- the body


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
        contributors=("alice", "bob", "carol", "dave"),
    )
    assert not run.refused("third")


@pytest.mark.usefixtures("small_records")
def test_a_body_that_is_cut_is_given_up_when_it_stands_still(against: Any) -> None:
    run = against(sends(lambda records: records[:-1]), planted=BODY)
    assert set(run.refused("third")) == {"peer-lost"}
    assert "no bytes of a body" in run.said("third", _refused())[0].text


def _refused() -> Any:
    from tertium.protocol.progress import RefusedProgress

    return RefusedProgress


def test_another_body_under_the_same_head_does_not_match_the_commitment(against: Any) -> None:
    """The sender knows the content key, so it can make a body that opens; it is not the one it signed."""

    class Knows(Exchange):
        def seal(self, label: Any, context: Any, recipient: str, key: bytes, sections: Any, **more: Any) -> Outgoing:
            content_key = sealing.new_content_key()
            header = self.new_header(label, context, recipient, key, sections, **more)
            header = msgspec.structs.replace(header, commitment=os.urandom(32))
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

    run = make(4, machines={"owner": Sums}, planted=BODY)
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

    run = make(4, machines={"owner": Sums}, network=make.wire(change))
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

    run = against(Again, contributors=("alice", "bob", "carol", "dave"))
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

    run = against(Sleeps, contributors=("alice", "bob", "carol", "dave"))
    assert "expired-ticket" in run.refused("third")


def test_a_ticket_made_up_is_refused(against: Any) -> None:
    class Invents(DataOwner):
        def on_grant(self, peer: str, message: Any, now: float) -> None:
            if peer == "third":
                forged = msgspec.structs.replace(message.ticket, secret=bytes(limits.TICKET_SECRET))
                self.effect(Dial(peer, forged))
            super().on_grant(peer, message, now)

    run = against(Invents, contributors=("alice", "bob", "carol", "dave"))
    assert run.refused("third") == ["unknown-ticket"]


# --- roles, phases, slots


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("proposes a round", "wrong-role"),
        ("opens a session", "wrong-role"),
        ("fetches the aggregate", "wrong-role"),
    ],
)
def test_a_data_owner_that_acts_as_the_model_owner(against: Any, message: str, code: str) -> None:
    class Acts(DataOwner):
        def send(self, peer: str, said: Any) -> None:
            super().send(peer, said)
            if isinstance(said, Ready):
                assert self.asked is not None
                other = {
                    "proposes a round": ProposeRound(open_round=sign(self.identity, self.asked.question)),
                    "opens a session": RequestSession(owner_nonce=bytes(32)),
                    "fetches the aggregate": Fetch(subject=bytes(32)),
                }[message]
                super().send(peer, other)

    run = against(Acts, contributors=("alice", "bob", "carol", "dave"))
    assert run.refused("third") == [code]


def test_a_data_owner_that_releases_an_aggregate(against: Any) -> None:
    class Releases(DataOwner):
        def send(self, peer: str, said: Any) -> None:
            super().send(peer, said)
            if isinstance(said, Ready):
                self.head = said.head

        def _on_closed(self, peer: str, message: Any, now: float) -> None:
            super()._on_closed(peer, message, now)
            self.send("owner", Release(head=self.head))

    run = against(Releases, contributors=("alice", "bob", "carol", "dave"))
    assert len(run.refused("owner")) == 1
    assert run.refused("owner")[0] in ("wrong-role", "illegal-message")


@pytest.mark.parametrize("to", ["third", "owner"])
def test_a_model_owner_or_evaluator_that_announces_an_upload(make: Maker, to: str) -> None:
    from tertium.learning.numpy_task import NumpyTask

    run = make(evaluators={"judge": NumpyTask(party=9)})
    head = SealedHead(header=b"x", wrapped_key=bytes(limits.WRAPPED_KEY), signature=bytes(64))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    sender = "owner" if to == "third" else "judge"
    run.machines[sender].send(to, Ready(head=head))
    assert set(run.run().values()) == {None}
    assert run.refused(to) == ["wrong-role" if to == "third" else "illegal-message"]
    assert run.released == [1]


def test_a_data_owner_that_invites(make: Maker) -> None:
    """Data owners have no line to each other; one that got at another's would still not be the model owner."""
    run = make()
    run.run(until=lambda: run.machines["bob"].asked is not None)
    question = run.machines["bob"].asked.question
    invitation = Invitation(open_round=sign(run.identities["alice"], question), offers=())
    from tertium.protocol.errors import WrongSender

    with pytest.raises(WrongSender):
        run.machines["bob"].receive("alice", invitation, run.clock.now)
    from tertium.protocol.errors import WrongRole

    with pytest.raises(WrongRole):
        run.machines["bob"].receive("owner", invitation, run.clock.now)
    assert set(run.run().values()) == {None}


def test_a_second_upload_after_the_receipt_is_refused(against: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(DataOwner):
        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            asked = self.asked
            assert asked is not None
            context, key = asked.context, asked.holder_keys[peer]
            section = os.urandom(asked.question.words * asked.question.plan.dtype.itemsize)
            second = self.exchange.seal(Label.CONTRIBUTION, context, peer, key, [section])
            super()._on_receipted(peer, message, now)
            self.send(peer, Ready(head=second.head))

    class Slow(DataOwner):
        def worked(self, tag: str, result: Any, now: float) -> None:
            if not hasattr(self, "held"):
                self.held = (tag, result)
                self.until = now + 1.0
            else:
                super().worked(tag, result, now)

        def tick(self, now: float) -> None:
            if hasattr(self, "held") and now >= self.until and self.phase is Phase.TRAINING:
                self.worked(*self.held, now)
            super().tick(now)

        def next_deadline(self) -> float | None:
            return self.until if getattr(self, "until", 0) and self.phase is Phase.TRAINING else super().next_deadline()

    run = against(Twice, contributors=("alice", "bob", "carol", "dave"), machines={"dave": Slow})
    assert run.refused("third") == ["already-contributed"]


def test_the_same_upload_announced_again_gets_its_receipt_again(against: Any) -> None:
    class Again(DataOwner):
        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            head = self._uploads[peer].outgoing.head
            super()._on_receipted(peer, message, now)
            if not hasattr(self, "again"):
                self.again = True
                self.send(peer, Ready(head=head))

    run = against(Again, contributors=("alice", "bob", "carol", "dave"))
    # A second receipt, or TooLate if the set was closed by then; no second addition either way.
    assert set(run.refused("third")) <= {"too-late"}


def test_an_upload_after_the_close_is_too_late(against: Any) -> None:
    class Late(DataOwner):
        def _on_closed(self, peer: str, message: Any, now: float) -> None:
            super()._on_closed(peer, message, now)
            self.send(peer, Ready(head=SealedHead(header=b"x", wrapped_key=bytes(1168), signature=bytes(64))))

    run = against(Late, contributors=("alice", "bob", "carol", "dave"))
    assert run.refused("third") == ["too-late"]


def test_an_upload_after_declining_has_no_slot(against: Any) -> None:
    class Wavers(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            if peer == "third" and isinstance(message, Ready):
                assert self.asked is not None
                statement = Decline(open_round=self.asked.open_round, party=self.name)
                super().send(peer, Declined(decline=sign(self.identity, statement)))
            super().send(peer, message)

    run = against(Wavers)
    assert set(run.refused("third")) <= {"not-in-cohort", "too-late"}
    assert run.refused("third")


def test_a_decline_in_the_middle_of_an_upload_takes_it_out_of_the_sum(against: Any) -> None:
    class Regrets(DataOwner):
        def on_grant(self, peer: str, message: Any, now: float) -> None:
            super().on_grant(peer, message, now)
            if self.phase is Phase.UPLOADING:
                assert self.asked is not None
                statement = Decline(open_round=self.asked.open_round, party=self.name)
                self.send(peer, Declined(decline=sign(self.identity, statement)))

    run = against(Regrets)
    assert not run.refused("third")


def test_a_party_outside_the_cohort_has_no_slot(make: Maker) -> None:
    class Pushes(DataOwner):
        pass

    run = make(4, plan=make.plan(cohort=3, seed=1))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING and run.machines["third"]._intake)
    intake = run.machines["third"]._intake
    (outside,) = set(make.names[:4]) - set(intake.question.cohort)
    payload = bytes(intake.question.words * intake.question.plan.dtype.itemsize)
    exchange = run.machines[outside].exchange
    head = exchange.seal(Label.CONTRIBUTION, intake.context, "third", intake.key.public, [payload]).head
    run.machines[outside].send("third", Ready(head=head))
    assert set(run.run().values()) == {None}
    assert run.refused("third") == ["not-in-cohort"]
    assert outside not in run.statement(1).contributors


def test_a_message_in_a_wrong_phase_names_role_phase_and_message(against: Any) -> None:
    class Confused(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if isinstance(message, Ready):
                other = SealedHead(header=b"x", wrapped_key=bytes(limits.WRAPPED_KEY), signature=bytes(64))
                super().send(peer, SendModel(head=other))

    run = against(Confused, contributors=("alice", "bob", "carol", "dave"))
    (refused,) = run.said("third", _refused())
    for word in ("bob", "SendModel", "secure_worker", "collecting"):
        assert word in refused.text


# --- what would exhaust the other side


def test_many_acceptances_are_one_envelope(against: Any) -> None:
    """Each key would be one more envelope to keep, and one more ticket; with more than it may grant, a model owner
    that did not count them would end."""

    class Accepts(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if isinstance(message, Acceptance):
                assert self.asked is not None
                for _ in range(6):
                    said = RoundKeyStatement(open_round=self.asked.open_round, party=self.name, key=RoundKey().public)
                    super().send(peer, Acceptance(key=sign(self.identity, said)))

    run = against(Accepts, contributors=("alice", "bob", "carol", "dave"))
    assert run.refused("owner") == ["split-view"] * 6


def test_many_heads_are_one_upload_in_flight(against: Any) -> None:
    """Good and bad heads in turn: each good one replaces the last, so that buffers and tickets do not pile up."""
    most: list[int] = []

    class Watches(SecureWorker):
        def effect(self, effect: Any) -> None:
            super().effect(effect)
            if isinstance(effect, Permit) and self._intake is not None:
                most.append(len(self._intake._opening))

    class Floods(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Ready):
                asked = self.asked
                assert asked is not None
                size = asked.question.words * asked.question.plan.dtype.itemsize
                for _ in range(6):
                    key = asked.holder_keys[peer]
                    good = self.exchange.seal(Label.CONTRIBUTION, asked.context, peer, key, [bytes(size)]).head
                    header = msgspec.structs.replace(decode_as(Header, good.header), commitment=os.urandom(32))
                    bad = self.exchange.seal_head(header, RoundKey().public, os.urandom(32))
                    super().send(peer, Ready(head=good))
                    super().send(peer, Ready(head=bad))
            super().send(peer, message)

    run = against(Floods, contributors=("alice", "bob", "carol", "dave"), machines={"third": Watches})
    assert run.refused("third") == ["bad-wrapped-key"] * 6
    assert max(most) <= limits.UPLOADS_IN_FLIGHT
    assert not [line for line in run.said("alice", Refusal)]


# --- the intake by itself


@pytest.fixture
def intake(make: Maker) -> Any:
    """An intake of seven, and a way to seal for it."""
    run = make(7, machines={name: _Idle for name in make.names})
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
    from tertium.protocol.errors import AlreadyContributed

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
