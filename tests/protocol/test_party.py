"""The loop around a machine: nobody is heard before its Hello, and nothing a peer sends ends it."""

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from tertium.crypto.identity import Identity
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_message, encode
from tertium.protocol.errors import WrongRound
from tertium.protocol.exchange import Exchange
from tertium.protocol.lanes.base import Down, Event, Frame, Up
from tertium.protocol.machine import Machine
from tertium.protocol.messages import Fetch, Hello, HelloStatement, Message, Ready, Refusal, RequestSession
from tertium.protocol.party import InlineExecutor, Party
from tertium.protocol.progress import Progress, RefusedProgress
from tertium.protocol.statements import sign

World = Any


class Script:
    """Lanes that give what a test puts in, and keep what is sent."""

    name = "third"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sent: list[tuple[str, Message]] = []

    def poll(self, timeout: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def send(self, peer: str, frame: bytes) -> bool:
        self.sent.append((peer, decode_message(frame)))
        return True

    def close_bulk(self, subject: bytes) -> None: ...
    def close(self) -> None: ...
    def wake(self) -> None: ...


class Listener(Machine):
    """A secure worker that only notes what reaches it."""

    role: ClassVar[Role] = Role.SECURE_WORKER

    def __init__(self, identity: Identity, charter: Any) -> None:
        self.heard: list[tuple[str, Message]] = []
        self.peers: list[str] = []
        super().__init__(identity, charter, Exchange(identity, charter))

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        kinds = (RequestSession, Fetch, Refusal)
        return {kind: lambda peer, message, _: self.heard.append((peer, message)) for kind in kinds}

    def peer_up(self, peer: str, now: float) -> None:
        self.peers.append(peer)

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        self.peers.append(f"not {peer}: {reason}")

    def start(self, now: float) -> None: ...
    def tick(self, now: float) -> None: ...
    def next_deadline(self) -> float | None:
        return None

    def interrupt(self, reason: str, now: float) -> None:
        self.finish(reason)


class Stage:
    def __init__(self, world: World) -> None:
        self.world = world
        self.lanes = Script()
        self.told: list[Progress] = []
        self.machine = Listener(world.identities["third"], world.charter)
        self.party = Party(
            self.machine,
            self.lanes,  # type: ignore[arg-type]
            world.identities["third"],
            world.charter,
            report=self.told.append,
            executor=InlineExecutor(),
            clock=lambda: 0.0,
        )

    def hello(self, signer: Identity | None = None, **changes: Any) -> Hello:
        charter = self.world.charter
        statement = HelloStatement(
            charter=charter.digest,
            sender="alice",
            recipient="third",
            sender_curve=charter.party("alice").curve,
            recipient_curve=charter.party("third").curve,
        )
        statement = msgspec.structs.replace(statement, **changes)
        return Hello(hello=sign(signer or self.world.identities["alice"], statement))

    def step(self, *events: Event | Message, peer: str = "alice") -> None:
        self.lanes.events = [Frame(peer, encode(event)) if isinstance(event, Message) else event for event in events]
        self.party.step(0.0)

    @property
    def refusals(self) -> list[str]:
        return [event.code for event in self.told if isinstance(event, RefusedProgress)]

    @property
    def answers(self) -> list[str]:
        return [message.code for _, message in self.lanes.sent if isinstance(message, Refusal)]


@pytest.fixture
def stage(world: World) -> Stage:
    return Stage(world)


def refuse(*_: object) -> None:
    raise WrongRound("no", party="alice")


QUESTION = RequestSession(owner_nonce=bytes(32))


def test_a_party_introduces_itself_first(stage: Stage) -> None:
    stage.step(Up("alice"))
    ((peer, message),) = stage.lanes.sent
    assert peer == "alice"
    assert isinstance(message, Hello)
    assert not stage.machine.peers


def test_an_honest_hello_opens_the_way(stage: Stage) -> None:
    stage.step(Up("alice"), stage.hello(), QUESTION)
    assert stage.machine.peers == ["alice"]
    assert stage.machine.heard == [("alice", QUESTION)]
    assert not stage.refusals


def test_nothing_is_heard_before_hello(stage: Stage) -> None:
    stage.step(Up("alice"), QUESTION)
    assert not stage.machine.heard
    assert stage.refusals == stage.answers == ["illegal-message"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sender": "bob"}, "wrong-sender"),
        ({"recipient": "owner"}, "wrong-sender"),
        ({"sender_curve": bytes(range(32))}, "wrong-sender"),
        ({"recipient_curve": bytes(range(32))}, "wrong-sender"),
        ({"charter": bytes(32)}, "wrong-charter"),
    ],
)
def test_a_hello_that_does_not_fit_is_refused(stage: Stage, changes: dict[str, Any], code: str) -> None:
    stage.step(Up("alice"), stage.hello(**changes), QUESTION)
    assert not stage.machine.peers
    assert not stage.machine.heard
    assert stage.refusals == stage.answers == [code, "illegal-message"]


def test_a_hello_by_a_strangers_key_is_refused(stage: Stage) -> None:
    stage.step(Up("alice"), stage.hello(Identity.generate("alice")))
    assert stage.refusals == ["bad-signature"]
    assert not stage.machine.peers


def test_a_hello_of_a_party_not_in_the_charter_is_refused(stage: Stage) -> None:
    stage.step(Up("alice"), stage.hello(Identity.generate("mallory"), sender="mallory"))
    assert stage.refusals == ["not-in-charter"]
    assert not stage.machine.peers


def test_another_partys_hello_is_refused(stage: Stage) -> None:
    bob = stage.hello(stage.world.identities["bob"], sender="bob", sender_curve=stage.world.charter.party("bob").curve)
    stage.step(Up("alice"), bob)
    assert stage.refusals == ["wrong-sender"]
    assert not stage.machine.peers


def test_a_new_connection_is_introduced_anew(stage: Stage) -> None:
    stage.step(Up("alice"), stage.hello(), Down("alice", "gone"), Up("alice"), QUESTION)
    assert stage.machine.peers == ["alice", "not alice: gone"]
    assert not stage.machine.heard
    assert stage.refusals == ["illegal-message"]


def test_a_connection_that_never_introduced_itself_is_not_lost(stage: Stage) -> None:
    stage.step(Up("alice"), Down("alice", "gone"))
    assert not stage.machine.peers


def test_garbage_is_refused_and_the_loop_goes_on(stage: Stage) -> None:
    stage.step(Up("alice"), stage.hello(), Frame("alice", b"garbage"), Frame("alice", b""), QUESTION)
    assert stage.refusals == ["malformed-message", "malformed-message"]
    assert stage.machine.heard == [("alice", QUESTION)]


def test_a_refusal_is_never_answered(stage: Stage) -> None:
    """Two parties that refuse each other's refusals would not stop."""

    stage.machine._handlers[Refusal] = refuse
    stage.step(Up("alice"), stage.hello(), Refusal(code="wrong-round", about=bytes(32)))
    assert stage.refusals == ["wrong-round"]
    assert not stage.answers


def test_a_refusal_instead_of_a_hello_tells_the_machine(stage: Stage) -> None:
    stage.step(Up("alice"), Refusal(code="wrong-charter", about=bytes(32)))
    (line,) = stage.machine.peers
    assert "wrong-charter" in line
    assert not stage.answers


def test_a_refusal_names_what_it_is_about(stage: Stage, sampler: Any) -> None:
    ready = sampler(3).make(Ready)
    stage.machine._handlers[Ready] = refuse
    stage.step(Up("alice"), stage.hello(), ready)
    (refusal,) = [message for _, message in stage.lanes.sent if isinstance(message, Refusal)]
    assert refusal.code == "wrong-round"
    assert refusal.about == ready.head.subject


def test_an_operators_interrupt_ends_it(stage: Stage) -> None:
    stage.step(Up("alice"))
    stage.party.interrupt("stopped by its operator")
    stage.step()
    assert stage.party.done
    assert stage.party.error == "stopped by its operator"
