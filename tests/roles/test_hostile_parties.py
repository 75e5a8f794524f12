"""Parties with valid keys that use them badly: what they try, and what it costs the others."""

import dataclasses
import os
import threading
import time
from typing import Any, ClassVar

import msgspec
import pytest
from tertium.crypto.errors import Unencodable
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.machine import ModelOwner
from tertium.protocol import limits
from tertium.protocol.codec import decode_as
from tertium.protocol.messages import (
    Closed,
    CloseList,
    Contribution,
    Cosign,
    Evaluated,
    Evaluation,
    Fetch,
    Header,
    OpenRound,
    ProposeRound,
    Refusal,
    RequestCosignature,
    RequestSession,
    RoundKeyStatement,
    RoundStatement,
    SendModel,
    Signed,
)
from tertium.protocol.party import ThreadExecutor
from tertium.protocol.progress import RefusedProgress, Said
from tertium.protocol.rounds import Phase
from tertium.protocol.site import LocalLimits
from tertium.protocol.statements import sign
from tertium.secure_worker.machine import SecureWorker
from tertium.workers.data_owner import DataOwner

Maker = Any


def test_a_receipted_contribution_dropped_behind_a_private_close_list_is_noticed(make: Maker) -> None:
    class Equivocates(SecureWorker):
        """Receipts bob, leaves him out of sum and list, and shows him alone a list with him in it."""

        def _close(self, now: float) -> None:
            self.bobs = self._intake.added.pop("bob")
            self._intake._total -= run.encoded[("bob", self._intake.question.round)]  # it opened it
            self._intake._in_total.discard("bob")
            super()._close(now)

        def send(self, peer: str, message: Any) -> None:
            if peer == "bob" and isinstance(message, Closed):
                close = decode_as(CloseList, message.close.statement)
                with_bob = tuple(
                    sorted((*close.contributions, Contribution("bob", self.bobs.commitment)), key=lambda c: c.party)
                )
                message = Closed(
                    close=sign(self.identity, msgspec.structs.replace(close, contributions=with_bob, missing=()))
                )
            super().send(peer, message)

    run = make(4, machines={"third": Equivocates}, plan=make.plan(rounds=2))
    run.run()
    assert run.statement(1).contributors == ("alice", "carol", "dave")  # bob is not in the sum
    warned = [each.line() for each in run.progress["bob"] if isinstance(each, Said | RefusedProgress)]
    assert any("record" in line for line in warned) or "bob" in run.record(1).absent, warned


@pytest.mark.parametrize("how", ["vanishes", "opens another session"])
def test_no_abort_is_signed_for_a_round_that_was_released(make: Maker, how: str) -> None:
    class Takes(ModelOwner):
        def opened(self, peer: str, incoming: Any, sections: Any, now: float) -> None:
            super().opened(peer, incoming, sections, now)
            if how == "opens another session":
                self.send("third", RequestSession(owner_nonce=os.urandom(32)))

        def _cosign(self, holder: str, statement: Signed) -> None:
            pass

    run = make(4, machines={"owner": Takes})
    run.run(until=lambda: run.machines["owner"].phase in (Phase.VERIFYING, Phase.APPLYING))
    assert [each for each in run.handled["owner"] if not each.sealed]  # it has the sum
    if how == "vanishes":
        run.lose("owner")
    run.run(until=lambda: run.machines["third"].phase is not Phase.RELEASED)
    assert not any("without a release" in each.text for each in run.said("third"))
    for name in ("alice", "bob", "carol", "dave"):
        assert not any("aborted" in each.text for each in run.said(name)), name


def test_declines_that_depend_on_the_data_count_towards_max_refusals(make: Maker) -> None:
    class Leaks(NumpyTask):
        """Out of range each time: what a crafted model does to data with a property of the owner's choosing."""

        def trainer(self) -> Any:
            class T:
                calls = 0

                def train(self, *args: Any) -> Any:
                    T.calls += 1
                    raise Unencodable("out of range")

            Leaks.t = T
            return T()

    run = make(
        4,
        tasks={"alice": Leaks(party=0, examples=20)},
        plan=make.plan(rounds=6),
        limits_of={"alice": LocalLimits(max_refusals=1)},
    )
    run.run()
    assert run.released == [1, 2, 3, 4, 5, 6]
    assert Leaks.t.calls <= 2, Leaks.t.calls


@pytest.mark.parametrize("to", ["alice"])
def test_a_question_about_a_model_beyond_memory_is_refused(make: Maker, to: str) -> None:
    class Huge(ModelOwner):
        def _ask(self, *args: Any, **more: Any) -> Any:
            asking = super()._ask(*args, **more)
            question = msgspec.structs.replace(asking.question, model_bytes=limits.MODEL_BYTES)
            asking.signed = sign(self.identity, question)
            asking.question, asking.name = (
                question,
                __import__("tertium.protocol.statements", fromlist=["x"]).statement_digest(OpenRound, asking.signed),
            )
            asking.context = type(asking.context).of(question, asking.name)
            asking.model._context = asking.context
            return asking

        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, SendModel):
                header = decode_as(Header, message.head.header)
                asking = self._asking
                header = msgspec.structs.replace(header, sections=(asking.question.layout_bytes, limits.MODEL_BYTES))
                key = decode_as(RoundKeyStatement, self.keys[peer].statement).key
                message = SendModel(head=self.exchange.seal_head(header, key, bytes(32)))
            super().send(peer, message)

        keys: ClassVar[dict] = {}

        def _on_acceptance(self, peer: str, message: Any, now: float) -> None:
            self.keys[peer] = message.key
            super()._on_acceptance(peer, message, now)

    run = make(4, machines={"owner": Huge})
    errors = run.run()
    assert set(errors) == set(run.machines)  # nobody's loop was left by a MemoryError
    assert run.released == []


def test_a_released_round_is_not_admitted_again(make: Maker) -> None:
    class Again(ModelOwner):
        done = False

        def _next(self, now: float) -> None:
            if self._asking is not None and not self.done:
                type(self).done = True
                question = msgspec.structs.replace(self._asking.question, attempt=2**53)
                self.send("third", ProposeRound(open_round=sign(self.identity, question)))
            super()._next(now)

    run = make(4, machines={"owner": Again})
    run.run()
    assert "wrong-round" in run.refused("third")


@pytest.mark.parametrize("lie", ["statement", "close"])
def test_a_data_owner_cosigns_only_what_it_was_closed_with_and_the_charter_allows(make: Maker, lie: str) -> None:
    from tertium.protocol.statements import statement_digest

    class Lies(SecureWorker):
        fake = None

        def send(self, peer: str, message: Any) -> None:
            if peer == "alice" and isinstance(message, Closed) and lie == "close":
                close = decode_as(CloseList, message.close.statement)
                only = tuple(each for each in close.contributions if each.party == "alice")
                message = Closed(close=sign(self.identity, msgspec.structs.replace(close, contributions=only)))
                self.fake = statement_digest(CloseList, message.close)
            if peer == "alice" and isinstance(message, RequestCosignature):
                said = decode_as(RoundStatement, message.statement.statement)
                said = msgspec.structs.replace(said, contributors=("alice",), close=self.fake or said.close)
                message = RequestCosignature(statement=sign(self.identity, said))
            super().send(peer, message)

    sent: list[Any] = []

    class Alice(DataOwner):
        def send(self, peer: str, message: Any) -> None:
            sent.append(type(message))
            super().send(peer, message)

    run = make(4, machines={"third": Lies, "alice": Alice})
    run.run()
    assert Cosign not in sent


@pytest.mark.parametrize(
    "change", [{"first": 7}, {"broadcast": True}, {"contributors": 99}, {"close": bytes(32)}], ids="-".join
)
def test_a_header_field_with_no_meaning_here_is_refused(make: Maker, change: dict[str, Any]) -> None:
    from tertium.protocol.exchange import Exchange

    class Odd(Exchange):
        def new_header(self, *args: Any, **kwargs: Any) -> Header:
            return msgspec.structs.replace(super().new_header(*args, **kwargs), **change)

    run = make(4, exchanges={"alice": Odd})
    run.run()
    assert run.refused("third")


def test_trickling_uploads_do_not_starve_the_others(make: Maker) -> None:
    class Trickles(DataOwner):
        """Seals honestly, and sends a byte of it every ten seconds."""

    run = make(7, minimum=3)
    for name in ("alice", "bob", "carol", "dave"):
        party = run.parties[name]
        out = party._transfers
        last = {"at": -1e9}

        def pump(lanes: Any, now: float, out: Any = out, last: Any = last) -> Any:
            for subject, each in out._out.items():
                if each.up and now - last["at"] >= 10.0:
                    if each.records is None:
                        each.records = iter([bytes([b]) for b in b"".join(each.outgoing.records())])
                    if lanes.send_record(subject, next(each.records)):
                        last["at"] = now
            return False, []

        out.pump = pump
        honest = party.next_deadline
        party.next_deadline = lambda honest=honest, run=run: min(honest() or 1e9, run.clock.now + 5.0)
    run.run(most_seconds=5000.0)
    assert run.released == [1], run.errors


def test_training_that_was_given_up_does_not_queue_up() -> None:
    gate = threading.Event()
    executor = ThreadExecutor(lambda: None)
    ran: list[int] = []
    executor.submit("first", gate.wait)
    for number in range(50):
        executor.submit(str(number), lambda number=number: ran.append(number))
    gate.set()
    time.sleep(0.5)
    assert len(ran) <= 1, len(ran)


@pytest.mark.parametrize("how", ["its site refuses", "it is silent", "it is gone"])
def test_an_evaluator_that_does_not_score_costs_nobody_a_training_deadline(make: Maker, how: str) -> None:
    from tertium.workers.evaluator import Evaluator

    class Silent(Evaluator):
        def send(self, peer: str, message: Any) -> None:
            pass

    run = make(
        4,
        evaluators={"eve": NumpyTask(test_examples=10)},
        machines={"eve": Silent} if how != "its site refuses" else {},
        limits_of={"eve": LocalLimits(tasks=())} if how == "its site refuses" else {},
        plan=make.plan(rounds=2),
    )
    if how == "it is gone":
        run.run(until=lambda: run.machines["owner"].phase is Phase.EVALUATING)
        run.lose("eve")
    run.run()
    assert run.released == [1, 2]
    deadlines = run.charter.rules.deadlines
    once = deadlines.join + deadlines.upload + deadlines.close if how == "it is silent" else 0.0
    assert run.clock.now < 200.0 + once


def test_an_evaluator_scores_one_model_once(make: Maker) -> None:
    from tertium.protocol.progress import Scored
    from tertium.workers.evaluator import Evaluator

    class Twice(Evaluator):
        def send(self, peer: str, message: Any) -> None:
            if isinstance(message, Evaluated):
                said = decode_as(Evaluation, message.evaluation.statement)
                for loss in (1.0, 2.0, float("nan")):
                    other = msgspec.structs.replace(said, score=msgspec.structs.replace(said.score, loss=loss))
                    super().send(peer, Evaluated(evaluation=sign(self.identity, other)))
            else:
                super().send(peer, message)

    run = make(
        4,
        evaluators={name: NumpyTask(test_examples=10) for name in ("eve", "zoe")},
        machines={"eve": Twice},
    )
    run.run()
    assert len([each for each in run.said("owner", Scored) if each.by == "eve"]) == 1


def test_a_peer_cannot_fill_the_log(make: Maker) -> None:
    class Noisy(DataOwner):
        n = 0

        def tick(self, now: float) -> None:
            super().tick(now)
            if Noisy.n < 5000 and not self.finished:
                for _ in range(50):
                    Noisy.n += 1
                    self.send("third", Refusal(code="x", about=bytes(32)))
                    self.send("owner", Fetch(subject=bytes(32)))

    run = make(4, machines={"alice": Noisy})
    run.run()
    assert len(run.progress["third"]) < 500, len(run.progress["third"])
    assert len(run.progress["owner"]) < 500, len(run.progress["owner"])


def test_a_data_owner_that_ends_early_erases_its_key_and_declines(make: Maker) -> None:
    class Cut(make.wire):
        def __init__(self) -> None:
            super().__init__(lambda delivery: delivery)

        def reachable(self, client: str, server: str) -> bool:
            return (client, server) != ("alice", "third")

    class Slow(ModelOwner):
        def _on_acceptance(self, peer: str, message: Any, now: float) -> None:
            if peer != "alice":
                super()._on_acceptance(peer, message, now)

        def start(self, now: float) -> None:
            super().start(now)
            self._deadline = now + 0.2  # it begins with who is here

    run = make(4, machines={"owner": Slow}, network=Cut())
    keys: list[Any] = []
    run.run(until=lambda: run.machines["alice"].asked is not None)
    keys.append(run.machines["alice"].asked.key)
    run.run()
    assert run.machines["alice"].finished
    assert keys[0].erased


def test_the_simulator_lets_a_party_leave_before_it_moves_the_clock(make: Maker) -> None:
    class Fails(ModelOwner):
        def _on_offer_session(self, *args: Any) -> None:
            pass

    run = make(4, machines={"owner": Fails})
    run.run()


def test_strangers_that_use_up_the_descriptors_do_not_kill_the_loop() -> None:
    import subprocess
    import sys

    script = """
import os, resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
from tertium.protocol.lanes.base import Address
from tertium.protocol.ticket import Ticket
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
secret, there = os.urandom(32), "tcp://127.0.0.1:9"
third = Address(curve=X25519PrivateKey.generate().public_key().public_bytes_raw(), control=there, bulk=there)
any_port = "tcp://127.0.0.1:0"
lanes = ZmqLanes("owner", secret, {"third": third}, listen=Listen(any_port, any_port), frame_limit=70000)
if os.fork() == 0:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
    address = ("127.0.0.1", int(lanes.bound.control.rsplit(":", 1)[1]))
    kept = [socket.create_connection(address, 1) for _ in range(300)]
    time.sleep(3)
    os._exit(0)
time.sleep(1)
lanes.poll(0.1)
lanes.connect("third")
lanes.open_bulk("third", Ticket(subject=bytes(32), secret=bytes(16)))
for _ in range(5):
    lanes.poll(0.1)
print("alive", flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert "alive" in done.stdout, done.stderr[-300:]


@pytest.mark.parametrize("target", ["owner", "bob"])
def test_one_flipped_byte_on_the_bulk_lane_costs_a_transfer_and_no_more(make: Any, target: str) -> None:
    done: list[int] = []

    def change(delivery: Any) -> Any:
        if delivery.wire.subject is not None and delivery.target == target and delivery.end is None and not done:
            done.append(1)
            data = bytearray(delivery.data)
            data[100] ^= 1
            return dataclasses.replace(delivery, data=bytes(data))
        return delivery

    run = make(4, network=make.wire(change))
    run.run()
    assert done
    assert run.released == [1], run.errors["owner"]
    assert run.statement(1).contributors == ("alice", "bob", "carol", "dave")
