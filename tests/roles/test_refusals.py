"""A data owner that does not keep to the protocol is refused by name, and the honest ones go on to the exact sum."""

import dataclasses
import os
from typing import Any

import msgspec
import pytest
from tertium.crypto import sealing
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.crypto.sealing import RoundKey
from tertium.learning.numpy_task import NumpyTask
from tertium.protocol import limits
from tertium.protocol.charter import Mode, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.errors import WrongRole, WrongSender
from tertium.protocol.exchange import Exchange
from tertium.protocol.ledger import Content, DataClass
from tertium.protocol.machine import Permit
from tertium.protocol.messages import (
    Acceptance,
    Decline,
    Declined,
    Fetch,
    Header,
    Invitation,
    ProposeRound,
    Ready,
    Release,
    RequestSession,
    RoundKeyStatement,
    SealedHead,
    SendModel,
)
from tertium.protocol.progress import RefusedProgress, RoundClosed
from tertium.protocol.rounds import Phase
from tertium.protocol.statements import sign
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

Maker = Any
Run = Any
EVERYBODY = ("alice", "bob", "carol", "dave")
REST = ("alice", "carol", "dave")


class Announces(DataOwner):
    """Changes the head it announces; its own signature stands under it where `signs` says so."""

    fields: Any = None

    def send(self, peer: str, message: Any) -> None:
        super().send(peer, Ready(head=self.altered(message.head)) if isinstance(message, Ready) else message)

    def altered(self, head: SealedHead) -> SealedHead:
        header = decode_as(Header, head.header)
        assert self.asked is not None
        key = self.asked.holder_keys["third"]
        changed = {name: value(header) if callable(value) else value for name, value in self.fields.items()}
        content = Content(DataClass.UPDATE, (self.name,))
        return self.exchange.seal_head(msgspec.structs.replace(header, **changed), key, os.urandom(32), content)


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

    run = against(Flips)
    assert run.refused("third") == ["bad-signature"]
    if field != "header":
        # It is told which envelope is meant, and declines: nobody waits for the deadline.
        (end,) = run.said("third", RoundClosed)
        assert end.declined == ("bob",)
        assert run.clock.now < limits.STALL


def test_a_strangers_signature_is_refused(against: Any) -> None:
    class Stranger(Announces):
        def altered(self, head: SealedHead) -> SealedHead:
            assert self.asked is not None
            exchange = Exchange(Identity.generate("bob"), self.charter)
            return exchange.seal_head(decode_as(Header, head.header), self.asked.holder_keys["third"], os.urandom(32))

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

    run = against(Replays, contributors=EVERYBODY, rounds=2)
    assert run.refused("third") == ["wrong-round"]
    assert run.statement(2).contributors == REST


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

    run = against(Acts, contributors=EVERYBODY)
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

    run = against(Releases, contributors=EVERYBODY)
    assert len(run.refused("owner")) == 1
    assert run.refused("owner")[0] in ("wrong-role", "illegal-message")


@pytest.mark.parametrize("to", ["third", "owner"])
def test_a_model_owner_or_evaluator_that_announces_an_upload(make: Maker, to: str) -> None:
    run = make(evaluators={"judge": NumpyTask(party=9)})
    head = SealedHead(header=b"x", wrapped_key=bytes(limits.WRAPPED_KEY), signature=bytes(64))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING)
    sender = "owner" if to == "third" else "judge"
    run.machines[sender].send(to, Ready(head=head))
    assert set(run.run().values()) == {None}
    assert run.refused(to) == ["wrong-role"]
    assert run.released == [1]


@pytest.mark.parametrize("mode", ["trusted", "additive", "masked"])
def test_a_data_owner_that_announces_its_update_to_the_model_owner(make: Maker, mode: str) -> None:
    """Where it holds nothing it takes nothing; in `masked` it takes a share of its own, and no vector for another."""
    workers = ("first", "second") if mode == "additive" else ("third",)

    class Astray(DataOwner):
        def send(self, peer: str, said: Any) -> None:
            if isinstance(said, Ready) and peer != "owner":
                super().send("owner", said)
            super().send(peer, said)

    rules = make.rules(mode=Mode(mode), scheme=SchemeName(name=mode))
    run = make(4, machines={"bob": Astray}, rules=rules, workers=workers)
    assert set(run.run().values()) == {None}
    assert len(run.refused("owner")) == len(workers)
    assert set(run.refused("owner")) == ({"wrong-recipient"} if mode == "masked" else {"illegal-message"})
    opened = {each.payload for each in run.handled["owner"] if not each.sealed and each.label is Label.CONTRIBUTION}
    assert opened == ({32} if mode == "masked" else set())
    assert run.released == [1]


def test_a_data_owner_that_invites(make: Maker) -> None:
    """Data owners have no line to each other; one that got at another's would still not be the model owner."""
    run = make()
    run.run(until=lambda: run.machines["bob"].asked is not None)
    question = run.machines["bob"].asked.question
    invitation = Invitation(open_round=sign(run.identities["alice"], question), offers=())
    with pytest.raises(WrongSender):
        run.machines["bob"].receive("alice", invitation, run.clock.now)
    with pytest.raises(WrongRole):
        run.machines["bob"].receive("owner", invitation, run.clock.now)
    assert set(run.run().values()) == {None}


def test_a_second_upload_after_the_receipt_is_refused(against: Any, make: Maker) -> None:
    class Twice(DataOwner):
        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            asked = self.asked
            assert asked is not None
            context, key = asked.context, asked.holder_keys[peer]
            section = os.urandom(asked.question.words * asked.question.plan.dtype.itemsize)
            second = self.exchange.seal(Label.CONTRIBUTION, context, peer, key, [section])
            super()._on_receipted(peer, message, now)
            self.send(peer, Ready(head=second.head))

    run = against(Twice, contributors=EVERYBODY, machines={"dave": make.slow})
    assert run.refused("third") == ["already-contributed"]


def test_the_same_upload_announced_again_gets_its_receipt_again(against: Any) -> None:
    class Again(DataOwner):
        def _on_receipted(self, peer: str, message: Any, now: float) -> None:
            head = self._uploads[peer].outgoing.head
            super()._on_receipted(peer, message, now)
            if not hasattr(self, "again"):
                self.again = True
                self.send(peer, Ready(head=head))

    run = against(Again, contributors=EVERYBODY)
    # A second receipt, or TooLate if the set was closed by then; no second addition either way.
    assert set(run.refused("third")) <= {"too-late"}


def test_an_upload_after_the_close_is_too_late(against: Any) -> None:
    class Late(DataOwner):
        def _on_closed(self, peer: str, message: Any, now: float) -> None:
            super()._on_closed(peer, message, now)
            self.send(peer, Ready(head=SealedHead(header=b"x", wrapped_key=bytes(1168), signature=bytes(64))))

    run = against(Late, contributors=EVERYBODY)
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


def test_one_that_answers_an_earlier_question_is_late_and_no_stranger(make: Maker) -> None:
    """The cohort may be another one by then, so that the holder's question does not name it."""
    run = make(4, plan=make.plan(cohort=3, seed=1))
    run.run(until=lambda: run.machines["third"].phase is Phase.COLLECTING and run.machines["third"]._intake)
    intake = run.machines["third"]._intake
    (outside,) = set(make.names[:4]) - set(intake.question.cohort)
    context = dataclasses.replace(intake.context, open_round=bytes(32))
    head = run.machines[outside].exchange.seal(Label.CONTRIBUTION, context, "third", intake.key.public, [b""]).head
    run.machines[outside].send("third", Ready(head=head))
    assert set(run.run().values()) == {None}
    assert run.refused("third") == ["wrong-open-round"]


def test_a_message_in_a_wrong_phase_names_role_phase_and_message(against: Any) -> None:
    class Confused(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            super().send(peer, message)
            if isinstance(message, Ready):
                other = SealedHead(header=b"x", wrapped_key=bytes(limits.WRAPPED_KEY), signature=bytes(64))
                super().send(peer, SendModel(head=other))

    run = against(Confused, contributors=EVERYBODY)
    (refused,) = run.said("third", RefusedProgress)
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

    run = against(Accepts, contributors=EVERYBODY)
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
                    other = os.urandom(32)
                    header = msgspec.structs.replace(decode_as(Header, good.header), commitment=other, shares=(other,))
                    bad = self.exchange.seal_head(header, RoundKey().public, os.urandom(32))
                    super().send(peer, Ready(head=good))
                    super().send(peer, Ready(head=bad))
            super().send(peer, message)

    run = against(Floods, contributors=EVERYBODY, machines={"third": Watches})
    assert run.refused("third") == ["bad-wrapped-key"] * 6
    assert max(most) <= limits.UPLOADS_IN_FLIGHT
