"""Every kind of control message and of statement with each of its fields malformed in each way its type allows.

The cases follow the struct definitions, so a new message or field has its cases as soon as it is there. Each is refused
by the codec, and by live parties of every role before their Hello, in a round and later, who then finish it.
"""

import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from tertium.crypto.errors import Misbehaviour
from tertium.learning.numpy_task import NumpyTask
from tertium.owner.store import OwnerStore
from tertium.protocol import limits
from tertium.protocol.codec import AnyMessage, decode_as, decode_message, encode
from tertium.protocol.errors import MalformedMessage
from tertium.protocol.lanes.memory_lanes import Delivery
from tertium.protocol.messages import Header, Message, Refusal, SealedHead, Signed, Statement
from tertium.protocol.progress import RoundDone
from tertium.protocol.site import OwnerPlan
from tertium.protocol.statements import open_signed
from tertium.simulation.federation import Federation, Network

MESSAGES: tuple[type[Message], ...] = typing.get_args(AnyMessage)
STATEMENTS: tuple[type[Statement], ...] = tuple(Statement.__subclasses__())
Spoil = Callable[[Any], Any]
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
# A value of every kind msgpack has; a field is given each that is not of its own.
OTHERS: dict[str, Any] = {
    "nil": None,
    "a boolean": True,
    "a number": 7,
    "a fraction": 1.5,
    "text": "seven",
    "bytes": b"seven",
    "a list": [],
    "a map": {},
    "an extension": msgspec.msgpack.Ext(1, b"seven"),
}


def ways(info: Any) -> Iterator[tuple[str, Spoil]]:
    """Yield every way in which a value of this type can be malformed: a name, and what makes a good value bad."""
    match info:
        case inspect.UnionType():
            (inner,) = (each for each in info.types if not isinstance(each, inspect.NoneType))
            yield from ((name, spoil) for name, spoil in ways(inner) if name != "nil")
        case inspect.StrType():
            yield from others("text")
            yield "text that is not UTF-8", lambda _: msgspec.Raw(b"\xa2\xff\xfe")
            yield "text with a longer length", lambda _: msgspec.Raw(b"\xdb\x00\x00\x00\x01a")
            if info.min_length:
                yield "empty text", lambda _: ""
            if info.max_length:
                yield "text one too long", lambda _: "a" * (info.max_length + 1)
            if info.pattern:
                yield "text in capitals", lambda _: "Alice"
                yield "text with a line end", lambda _: "alice\n"
                yield "text with a NUL", lambda _: "al\0ice"
                yield "text that is a path", lambda _: "../alice"
        case inspect.BytesType():
            yield from others("bytes")
            yield (
                "bytes with a longer length",
                lambda value: msgspec.Raw(b"\xc6" + len(value or b"").to_bytes(4, "big") + (value or b"")),
            )
            if info.min_length:
                yield "no bytes", lambda _: b""
                yield "bytes one short", lambda _: bytes(info.min_length - 1)
            if info.max_length is not None and info.max_length < 1 << 16:
                yield "bytes one too long", lambda _: bytes(info.max_length + 1)
        case inspect.IntType():
            yield from others("a number")
            yield "a number in nine bytes", lambda value: msgspec.Raw(b"\xcf" + int(value or 0).to_bytes(8, "big"))
            if info.ge is not None:
                yield "a number below its least", lambda _: info.ge - 1
            if info.le is not None:
                yield "a number above its most", lambda _: info.le + 1
                yield "a number of 64 bits", lambda _: 2**64 - 1
        case inspect.FloatType():
            yield from others("a fraction")
            yield "a fraction of 32 bits", lambda _: msgspec.Raw(b"\xca\x3f\x80\x00\x00")
            if info.ge is not None:
                yield "a fraction below its least", lambda _: info.ge - 0.5
            if info.gt is not None:
                yield "a fraction at its bound", lambda _: float(info.gt)
            if info.lt is not None:
                yield "a fraction above its bound", lambda _: float(info.lt)
        case inspect.BoolType():
            yield from others("a boolean")
        case inspect.EnumType():
            yield from others("")
            yield "a value there is not", lambda _: "no such value"
        case inspect.VarTupleType():
            yield from others("a list")
            yield "a list of nil", lambda _: [None]
            yield "a list of lists", lambda _: [[[]]]
            yield "a list in a map", lambda value: {0: value}
            if info.max_length is not None and info.max_length <= 64:
                yield "a list one too long", lambda _: [None] * (info.max_length + 1)
            for name, spoil in ways(info.item_type):
                yield f"an item: {name}", lambda value, spoil=spoil: [spoil(value[0] if value else None)]
        case inspect.StructType():
            yield from within(info)
        case _:
            raise AssertionError(f"a field is of a kind that these tests do not know: {info}")


def others(own: str) -> Iterator[tuple[str, Spoil]]:
    for name, value in OTHERS.items():
        if name != own:
            yield name, lambda _, value=value: value


def within(info: Any) -> Iterator[tuple[str, Spoil]]:
    """Yield the ways of a struct: as a whole, and each of its fields."""
    listed, omits = info.array_like, info.cls.__struct_config__.omit_defaults
    yield from others("a list" if listed else "a map")
    yield "an empty one", (lambda _: []) if listed else (lambda _: {})
    for at, field in enumerate(info.fields):
        place = at if listed else field.name

        def change(value: Any, spoil: Spoil, place: Any = place) -> Any:
            made = (list if isinstance(value, list) else dict)(value)
            made[place] = spoil(made[place])
            return made

        for name, spoil in ways(field.type):
            yield f"{field.name}: {name}", lambda value, spoil=spoil, change=change: change(value, spoil)
        if not listed and (field.required or not omits):
            yield (
                f"{field.name}: missing",
                lambda value, place=place: {key: item for key, item in value.items() if key != place},
            )
        elif not listed:
            # What may be missing is left out where it says nothing: two encodings would be one message.
            default = msgspec.to_builtins(field.default)
            yield f"{field.name}: its default", lambda value, place=place, default=default: {**value, place: default}
            # Two keys of one name: which one counts is what parsers disagree about.
            yield (
                f"{field.name}: twice",
                lambda value, place=place: msgspec.Raw(pack_map([*value.items(), (place, value[place])])),
            )
    if listed:
        yield "one part too few", lambda value: value[:-1]
        yield "one part too many", lambda value: [*value, None]
        yield (
            "a list with a wider length",
            lambda value: msgspec.Raw(b"\xdc" + len(value).to_bytes(2, "big") + b"".join(map(pack, value))),
        )
    else:
        yield "another field", lambda value: {**value, "also": 1}
        yield (
            "a map with a wider length",
            lambda value: msgspec.Raw(
                b"\xdf"
                + len(value).to_bytes(4, "big")
                + b"".join(pack(key) + pack(item) for key, item in value.items())
            ),
        )
        if len(info.fields) > 1:
            yield "fields in another order", lambda value: dict(reversed(value.items()))


def pack_map(items: list[tuple[str, Any]]) -> bytes:
    head = bytes([0x80 | len(items)]) if len(items) < 16 else b"\xde" + len(items).to_bytes(2, "big")
    return head + b"".join(pack(key) + pack(item) for key, item in items)


# Ways of the whole frame, whatever is in it.
FRAMES: dict[str, Callable[[bytes], bytes]] = {
    "no byte": lambda frame: b"",
    "one byte short": lambda frame: frame[:-1],
    "half of it": lambda frame: frame[: len(frame) // 2],
    "a byte behind it": lambda frame: frame + b"\xc0",
    "twice": lambda frame: frame + frame,
    "without its tag": lambda frame: pack({key: item for key, item in unpack(frame).items() if key != "m"}),
    "with a tag there is not": lambda frame: pack({**unpack(frame), "m": "run-this"}),
    "with a tag in capitals": lambda frame: pack({**unpack(frame), "m": unpack(frame)["m"].upper()}),
    "with a tag that is a number": lambda frame: pack({**unpack(frame), "m": 7}),
    "with a tag that is bytes": lambda frame: pack({**unpack(frame), "m": unpack(frame)["m"].encode()}),
    "with two tags": lambda frame: pack_map([("m", unpack(frame)["m"]), *unpack(frame).items()]),
    "with its tag at the end": lambda frame: pack(dict(reversed(unpack(frame).items()))),
    "in a list": lambda frame: pack([unpack(frame)]),
    "as a list": lambda frame: pack(list(unpack(frame).values())),
    "in bytes": pack,
    "as JSON": lambda frame: msgspec.json.encode(unpack(frame)),
}


Cases = dict[str, tuple[type[Any], Spoil]]


def cases_of(*kinds: type[msgspec.Struct]) -> Cases:
    return {
        f"{kind.__name__}: {name}": (kind, spoil) for kind in kinds for name, spoil in within(inspect.type_info(kind))
    }


MESSAGE_CASES = cases_of(*MESSAGES)
STATEMENT_CASES = cases_of(*STATEMENTS, Header)
FRAME_CASES = {f"{kind.__name__}: {name}": (kind, name) for kind in MESSAGES for name in FRAMES}
CASES = {**MESSAGE_CASES, **STATEMENT_CASES, **FRAME_CASES}


def spoilt(struct: msgspec.Struct, spoil: Spoil) -> bytes:
    good = encode(struct)
    value = spoil(unpack(good))
    bad = bytes(value) if isinstance(value, msgspec.Raw) else pack(value)
    assert bad != good, "this way spoils nothing"
    return bad


def full(sampler: Any, kind: type[msgspec.Struct]) -> Any:
    """An instance whose lists are not empty and whose fields are not None, so that there is something to spoil."""
    for seed in range(200):
        made = sampler(seed).make(kind)
        if all(getattr(made, name) not in (None, ()) for name in made.__struct_fields__):
            return made
    raise AssertionError(f"no {kind.__name__} without an empty field was made")


@pytest.fixture(scope="module")
def good(sampler: Any) -> Callable[[type[msgspec.Struct]], Any]:
    made: dict[type[msgspec.Struct], Any] = {}

    def get(kind: type[msgspec.Struct]) -> Any:
        if kind not in made:
            made[kind] = full(sampler, kind)
        return made[kind]

    return get


def accepted(cases: dict[str, bytes], decode: Callable[[bytes], object]) -> list[str]:
    """Return the names of the cases that were not refused as they should be."""
    out = []
    for name, data in cases.items():
        try:
            decode(data)
        except MalformedMessage as error:
            if error.party == "mallory" and "\n" not in str(error) and len(str(error)) < 300:
                continue
        out.append(name)
    return out


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_message_with_a_malformed_field_is_refused(good: Any, kind: type[Message]) -> None:
    cases = {name: spoilt(good(kind), spoil) for name, (of, spoil) in MESSAGE_CASES.items() if of is kind}
    assert len(cases) > 20
    assert accepted(cases, lambda data: decode_message(data, party="mallory")) == []


@pytest.mark.parametrize("kind", [*STATEMENTS, Header], ids=lambda kind: kind.__name__)
def test_a_statement_with_a_malformed_field_is_refused(good: Any, kind: type[msgspec.Struct]) -> None:
    cases = {name: spoilt(good(kind), spoil) for name, (of, spoil) in STATEMENT_CASES.items() if of is kind}
    assert len(cases) > 20
    assert accepted(cases, lambda data: decode_as(kind, data, party="mallory")) == []


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_a_frame_that_is_no_message_is_refused(good: Any, kind: type[Message]) -> None:
    cases = {name: FRAMES[way](encode(good(kind))) for name, (of, way) in FRAME_CASES.items() if of is kind}
    assert accepted(cases, lambda data: decode_message(data, party="mallory")) == []


def test_what_these_spoil_is_accepted(good: Any) -> None:
    for kind in MESSAGES:
        assert decode_message(encode(good(kind))) == good(kind)
        assert pack(unpack(encode(good(kind)))) == encode(good(kind))
    for kind in (*STATEMENTS, Header):
        assert decode_as(kind, encode(good(kind))) == good(kind)


# --- the same at live parties -------------------------------------------------------------------------------------


class Tapped(Network):
    """A network that keeps what one party answers to what it was never sent by its peer's own program."""

    def __init__(self) -> None:
        super().__init__()
        self.tapped: str | None = None
        self.answers: list[str] = []

    def deliver(self, delivery: Delivery) -> None:
        if delivery.source == self.tapped and delivery.end is None and delivery.wire.subject is None:
            message = decode_message(bytes(delivery.data))
            if isinstance(message, Refusal):
                self.answers.append(message.code)
                self.drop(delivery)
                return
        super().deliver(delivery)


class Live(Federation):
    """A federation in which frames can be slipped in as if a party had sent them."""

    def __init__(self, folder: Path) -> None:
        tasks = {name: NumpyTask(party=at, examples=10) for at, name in enumerate(("alice", "bob", "carol"))}
        self.tap = Tapped()
        super().__init__(
            tasks,
            NumpyTask(test_examples=5),
            OwnerPlan(task="task", rounds=2),
            OwnerStore(folder, "npz"),
            evaluators={"judge": NumpyTask(party=9, test_examples=5)},
            network=self.tap,
        )

    def slip(self, source: str, target: str, frame: bytes) -> list[str]:
        """Have `target` take a frame as one of `source`'s; return the names by which it refused it."""
        self.tap.tapped, self.tap.answers = target, []
        assert self.lanes[source].send(target, frame), (source, target)
        self.parties[target].step(0.0)
        self.tap.tapped = None
        return self.tap.answers

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who can send a frame to whom: both ends of every connection there is."""
        dials = [
            (name, peer) for name in self.roles for peer in self._dials(name) if name in ("alice", "judge", "owner")
        ]
        return [*dials, *((peer, name) for name, peer in dials)]


MOMENTS = {"before the first word": 0, "after the Hello": 2, "in a round": 7, "later in it": 12}


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lines about refusals are not what is counted here, but the answers are; both have their bound.
    monkeypatch.setattr(limits, "LOG_LINES", 10**9)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_live_party_refuses_every_malformed_frame_and_finishes(
    good: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    quick(monkeypatch)
    run = Live(tmp_path)
    for _ in range(MOMENTS[moment]):
        run.turn()
        run.clock.now += 0.01
    frames = [spoilt(good(kind), spoil) for kind, spoil in MESSAGE_CASES.values()]
    frames += [FRAMES[way](encode(good(kind))) for kind, way in FRAME_CASES.values()]
    tried = 0
    for number, (source, target) in enumerate(run.pairs):
        machine, party = run.machines[target], run.parties[target]
        party.step(0.0)  # what honest peers had sent it before
        before = machine.phase
        # Every frame reaches some party at every moment, and every party gets every third.
        for frame in frames[number % 3 :: 3]:
            assert run.slip(source, target, frame) == ["malformed-message"]
            assert not party.done
            tried += 1
        assert machine.phase is before
    assert tried >= len(frames)
    assert set(run.run().values()) == {None}
    done = [event.round for event in run.progress["owner"] if isinstance(event, RoundDone)]
    assert done == [1, 2]


class Opener:
    """Signs what is no statement with the real key of a party, as only its own program can."""

    def __init__(self, run: Live) -> None:
        self.run = run

    def message(self, source: str, carrier: Any, label: Any, data: bytes) -> bytes:
        """A message whose every signed field holds these bytes."""
        identity = self.run.identities[source]
        signed = Signed(signer=source, statement=data, signature=identity.sign(label, data))
        fields = {name: getattr(carrier, name) for name in carrier.__struct_fields__}
        for name, value in fields.items():
            if isinstance(value, Signed):
                fields[name] = signed
            elif isinstance(value, tuple) and value and isinstance(value[0], Signed):
                fields[name] = (signed,)
        return encode(type(carrier)(**fields))


@pytest.mark.parametrize("moment", ["after the Hello", "in a round"])
def test_a_live_party_takes_no_malformed_statement_though_its_signature_is_good(
    good: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    quick(monkeypatch)
    run = Live(tmp_path)
    opener = Opener(run)
    for _ in range(MOMENTS[moment]):
        run.turn()
        run.clock.now += 0.01
    carriers = [good(kind) for kind in MESSAGES if "Signed" in str(inspect.type_info(kind))]
    assert len(carriers) > 10
    bad = [
        (kind, spoilt(good(kind), spoil))
        for number, (kind, spoil) in enumerate(STATEMENT_CASES.values())
        if kind is not Header and number % 4 == 0
    ]
    for kind, data in bad:
        signed = Signed("alice", data, run.identities["alice"].sign(kind.label, data))
        with pytest.raises(MalformedMessage):
            open_signed(run.charter, signed, kind)
    for source, target in run.pairs:
        machine, party = run.machines[target], run.parties[target]
        party.step(0.0)
        before = machine.phase
        for number, (kind, data) in enumerate(bad):
            carrier = carriers[number % len(carriers)]
            codes = run.slip(source, target, opener.message(source, carrier, kind.label, data))
            # Refused by some name (its place in the round, its signer's role, its form), or about nothing anybody asks.
            assert len(codes) <= 1
            assert all(codes), codes
            assert machine.phase is before, (source, target, type(carrier).__name__, kind.__name__)
            assert not party.done
    assert set(run.run().values()) == {None}


@pytest.mark.parametrize(
    "kind", [kind for kind in MESSAGES if issubclass(kind, Message)], ids=lambda kind: kind.__name__
)
def test_a_head_in_a_message_is_held_to_its_lengths(good: Any, kind: type[Message]) -> None:
    for name in kind.__struct_fields__:
        value = getattr(good(kind), name)
        if isinstance(value, SealedHead):
            for part, length in (("wrapped_key", limits.WRAPPED_KEY), ("signature", limits.SIGNATURE)):
                for wrong in (0, length - 1, length + 1):
                    head = [bytes(wrong) if each == part else getattr(value, each) for each in value.__struct_fields__]
                    with pytest.raises(Misbehaviour):
                        decode_message(pack({**unpack(encode(good(kind))), name: head}))
