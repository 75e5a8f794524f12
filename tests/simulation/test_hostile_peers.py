"""What a hostile party sends is well-formed, of every kind, and repeats exactly."""

import contextlib
from random import Random
from typing import Any

import pytest
from tertium.crypto.errors import BadSignature
from tertium.protocol import limits
from tertium.protocol.charter import Mode, Role
from tertium.protocol.codec import decode_as, decode_message, encode
from tertium.protocol.exchange import Exchange
from tertium.protocol.messages import Aborted, Closed, CloseList, Message
from tertium.protocol.statements import open_signed
from tertium.simulation.hostile import HOLDS, KINDS, Forger
from tertium.simulation.invariant import Invariant
from tertium.simulation.lies import AMONG_SEVERAL, LIES, lies_of
from tertium.simulation.scenario import WORKERS
from tertium.simulation.world import World


class Collects(Invariant):
    """Keeps what is said."""

    why = "no invariant at all"
    heard: list[Message]

    def __init__(self, world: World) -> None:
        super().__init__(world)
        type(self).heard = []

    def said(self, name: str, peer: str, message: Message) -> None:
        self.heard.append(message)


@pytest.fixture
def forger(play: Any) -> Any:
    world = play(Collects)
    seen = list(Collects.heard)

    def make(seed: int = 1) -> Forger:
        identity = world.identities["alice"]
        made = Forger(Random(seed), identity, world.charter, Exchange(identity, world.charter))
        for message in seen:
            made.remember(message)
        return made

    make.world = world  # type: ignore[attr-defined]
    return make


def test_every_kind_of_message_is_forged_and_well_formed(forger: Any) -> None:
    made, kinds = forger(), set()
    frame = limits.control_frame(10)
    for _ in range(1500):
        message = made.message()
        if message is not None:
            assert decode_message(encode(message)) == message
            assert len(encode(message)) <= frame
            kinds.add(type(message))
    assert kinds == set(KINDS)


def test_a_forger_repeats_itself(forger: Any) -> None:
    def kinds(seed: int) -> list[str]:
        made = forger(seed)
        return [type(made.message()).__name__ for _ in range(200)]

    assert kinds(3) == kinds(3)
    assert kinds(3) != kinds(4)


def test_some_of_it_is_truly_signed_by_itself_and_none_by_others(forger: Any) -> None:
    """A hostile party holds its own key and no other: all that verifies is its own, or was seen."""
    made, charter = forger(), forger.world.charter
    ours, altered = 0, 0
    seen = {signed for message in made.seen if (signed := _signed(message)) is not None}
    for _ in range(3000):
        message = made.message()
        signed = None if message is None else _signed(message)
        if signed is None or signed in seen:
            continue
        try:
            open_signed(charter, signed, HOLDS[type(message)])
        except BadSignature:
            altered += 1
        except Exception:
            continue
        else:
            assert signed.signer == "alice"
            ours += 1
    assert ours > 200
    assert altered > 50


def _signed(message: Message) -> Any:
    if type(message) not in HOLDS:
        return None
    return getattr(message, message.__struct_fields__[0])


@pytest.mark.parametrize("liar", ["alice", "owner", "third"])
def test_a_hostile_party_is_refused_by_many_names(play: Any, liar: str) -> None:
    codes: set[str] = set()
    for seed in range(8):
        world = play(seed=seed, hostile=liar)
        assert world.broken == []
        codes |= {entry[3] for entry in world.trace if entry[1] == "refuses"}
    assert {"illegal-message", "bad-signature"} <= codes
    assert len(codes) >= 6


REFUSED = {
    "uploads twice": "refuses third already-contributed",
    "asks again": "refuses third wrong-round",
    "stands still": "declined: ",
    "stands still quietly": "this very model was released over another contributor set",
    "swaps keys": "bad-signature",
    "counts only some": "no contribution from carol, dave as seen by third",
    "adds something else": "it is not what the contributors sent; one of these lied: third, or a contributor",
}
LIAR = {Role.DATA_OWNER: "alice", Role.MODEL_OWNER: "owner", Role.SECURE_WORKER: "third"}


@pytest.mark.parametrize("lie", REFUSED)
def test_a_lie_is_refused_and_breaks_nothing(play: Any, lie: str) -> None:
    (role,) = [role for role, lies in LIES.items() if lie in lies]
    said = ""
    for seed in range(4):
        # Honest data owners that are slow leave a liar time while the round collects.
        world = play(seed=seed, hostile=LIAR[role], lie=lie, rounds=3, leaves=200.0, slow=("bob", "carol", "dave"))
        assert world.broken == []
        said += "\n".join(" ".join(map(str, entry[1:])) for entry in world.trace)
        if lie.startswith("stands still"):
            assert [number for _, number in world.released] == [1]
        if lie in ("counts only some", "swaps keys"):
            assert not world.released
    assert REFUSED[lie] in said


REFUSED_AMONG_SEVERAL = {
    "withholds its list": "collecting contributions: nothing from fourth as seen by owner",
    "lists what another counts": "refuses third split-view",
    "lists less": "split-view",
    "adds what it does not list": "is not listed, and its share is in the total already, at f",
    "closes over another set": "refuses owner split-view",
    "releases too soon": "ends owner None",
    "adds something else": "one of these lied: fifth, fourth, third, or a contributor",
}


@pytest.mark.parametrize("lie", REFUSED_AMONG_SEVERAL)
@pytest.mark.parametrize("scheme", ["additive", "replicated"])
def test_one_of_several_secure_workers_that_lies_gets_nothing_out_of_the_others(
    play: Any, scheme: str, lie: str
) -> None:
    mode = Mode.ADDITIVE if scheme == "additive" else Mode.SHARED
    world = play(mode=mode, scheme=scheme, workers=WORKERS[:3], hostile="fourth", lie=lie, rounds=2, leaves=300.0)
    assert world.broken == []
    said = "\n".join(" ".join(map(str, entry[1:])) for entry in world.trace)
    if (scheme, lie) == ("replicated", "lists less"):
        # The others have the vector in their totals already, so nobody sums anything in that attempt.
        assert "its share is in the total already" in said
    elif (scheme, lie) == ("replicated", "adds something else"):
        # Two totals are enough, and the fingerprints say which two: `VerifiedIsTrue` has added them up.
        assert "ends owner None" in said
    else:
        assert REFUSED_AMONG_SEVERAL[lie] in said


def test_every_lie_is_tried() -> None:
    assert {lie for lies in LIES.values() for lie in lies} == set(REFUSED)
    everywhere = lies_of(Role.SECURE_WORKER, among=1)
    assert {lie for lies in AMONG_SEVERAL.values() for lie in lies} | set(everywhere) == set(REFUSED_AMONG_SEVERAL)
    assert set(everywhere) == {"adds something else"}


def test_a_close_list_that_is_altered_is_signed_again(forger: Any) -> None:
    made = forger()
    closed = next(message for message in made.seen if isinstance(message, Closed))
    altered = set()
    for _ in range(100):
        with contextlib.suppress(ValueError):  # what its struct forbids
            altered.add(encode(made.altered(closed)))
    assert len(altered) > 20
    for each in altered:
        message = decode_message(each)
        assert isinstance(message, Closed)
        assert decode_as(CloseList, message.close.statement)
    assert Aborted in HOLDS
