"""Headers of envelopes, honestly signed by their sender and wrong in one thing, and heads that are none.

Each is refused by its own name before anything is unwrapped, decrypted or allocated.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tertium.crypto import sealing
from tertium.crypto.errors import BadSignature, Misbehaviour
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label, frame
from tertium.crypto.sealing import RoundKey
from tertium.protocol import exchange as exchanges
from tertium.protocol.charter import Mode, Role, Rules, SchemeName
from tertium.protocol.codec import decode_as, decode_message, encode
from tertium.protocol.context import RoundContext
from tertium.protocol.errors import (
    MalformedMessage,
    NotInCharter,
    OversizedClaim,
    UnsupportedVersion,
    WrongAttempt,
    WrongCharter,
    WrongLabel,
    WrongOpenRound,
    WrongRecipient,
    WrongRound,
    WrongSender,
    WrongSession,
)
from tertium.protocol.exchange import Exchange
from tertium.protocol.messages import Header, Ready, SealedHead
from tertium.simulation.federation import make_charter

ROLES = {
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
}
PAYLOAD = bytes(range(16))
Fields = dict[str, Any]
Change = Callable[[Fields], object]
pack = msgspec.msgpack.encode


@dataclass
class Desk:
    """A contribution of alice's for the secure worker, in fields and in bytes."""

    identities: dict[str, Identity] = field(default_factory=lambda: {name: Identity.generate(name) for name in ROLES})

    def __post_init__(self) -> None:
        rules = Rules(mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=3)
        self.charter = make_charter(self.identities, ROLES, rules)
        self.key = RoundKey()
        self.context = RoundContext(self.charter.digest, os.urandom(32), 2, 1, os.urandom(32))
        self.third = Exchange(self.identities["third"], self.charter)
        self.alice = Exchange(self.identities["alice"], self.charter)
        self.sealed = self.alice.seal(Label.CONTRIBUTION, self.context, "third", self.key.public, [PAYLOAD])

    def fields(self) -> Fields:
        header = decode_as(Header, self.sealed.head.header)
        return {name: getattr(header, name) for name in header.__struct_fields__}

    def sign(self, header: bytes, name: str = "alice") -> SealedHead:
        """A head over any bytes at all, signed with this party's real key."""
        wrapped = self.sealed.head.wrapped_key
        signed = frame(Label.CONTRIBUTION, [header, wrapped])
        return SealedHead(
            header=header, wrapped_key=wrapped, signature=self.identities[name].sign(Label.HEADER, signed)
        )

    def examine(self, head: SealedHead, sender: str = "alice") -> Header:
        return self.third.examine(head, Label.CONTRIBUTION, self.context, sender, self.key, [len(PAYLOAD)])


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk()


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unwrapped, opened or allocated."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("touched before the head was admitted")

    monkeypatch.setattr(RoundKey, "unwrap", never)
    monkeypatch.setattr(sealing, "BodyOpener", never)
    monkeypatch.setattr(exchanges.Exchange, "open", never)


def put(name: str, value: object) -> Change:
    return lambda fields: fields.__setitem__(name, value)


def without(name: str) -> Change:
    return lambda fields: fields.pop(name)


def wide(name: str, code: str, size: int) -> Change:
    """The same number in more bytes than it needs."""

    def change(fields: Fields) -> None:
        fields[name] = msgspec.Raw(bytes.fromhex(code) + fields[name].to_bytes(size, "big"))

    return change


def long_bytes(name: str, code: str, size: int) -> Change:
    """The same bytes with a longer length than they need."""

    def change(fields: Fields) -> None:
        fields[name] = msgspec.Raw(bytes.fromhex(code) + len(fields[name]).to_bytes(size, "big") + fields[name])

    return change


def bit(name: str) -> Change:
    return lambda fields: fields.__setitem__(name, bytes([fields[name][0] ^ 1]) + fields[name][1:])


# What is changed in the fields, and the error by which it is refused.
FIELDS: dict[str, tuple[Change, type[Misbehaviour]]] = {
    "version 0": (put("version", 0), UnsupportedVersion),
    "version 2": (put("version", 2), UnsupportedVersion),
    "version -1": (put("version", -1), UnsupportedVersion),
    "version of 64 bits": (put("version", 2**64 - 1), UnsupportedVersion),
    "version as text": (put("version", "1"), MalformedMessage),
    "version 1.0": (put("version", 1.0), MalformedMessage),
    "version true": (put("version", True), MalformedMessage),
    "no version": (without("version"), MalformedMessage),
    "version in two bytes": (wide("version", "cc", 1), MalformedMessage),
    "version in nine bytes": (wide("version", "cf", 8), MalformedMessage),
    "version as a signed byte": (wide("version", "d0", 1), MalformedMessage),
    "another suite": (put("suite", "HPKE(X25519)+AES"), UnsupportedVersion),
    "a suite in other letters": (put("suite", sealing.SUITE.lower()), UnsupportedVersion),
    "an empty suite": (put("suite", ""), UnsupportedVersion),
    "a suite of a kilobyte": (put("suite", "x" * 1000), MalformedMessage),
    "a suite as bytes": (put("suite", sealing.SUITE.encode()), MalformedMessage),
    "a suite that is not UTF-8": (put("suite", msgspec.Raw(b"\xa1\xff")), MalformedMessage),
    "no suite": (without("suite"), MalformedMessage),
    "the label of a model": (put("label", Label.MODEL), WrongLabel),
    "the label of an aggregate": (put("label", Label.AGGREGATE), WrongLabel),
    "the label of a receipt": (put("label", Label.RECEIPT), WrongLabel),
    "the label of a header": (put("label", Label.HEADER), WrongLabel),
    "a label there is not": (put("label", "tertium/1 gradient"), MalformedMessage),
    "a label of version 2": (put("label", "tertium/2 contribution"), MalformedMessage),
    "a label as a number": (put("label", 14), MalformedMessage),
    "no label": (without("label"), MalformedMessage),
    "another charter": (bit("charter"), WrongCharter),
    "a charter of zeros": (put("charter", bytes(32)), WrongCharter),
    "a charter of 31 bytes": (put("charter", bytes(31)), MalformedMessage),
    "a charter of 33 bytes": (put("charter", bytes(33)), MalformedMessage),
    "a charter as text": (put("charter", "0" * 32), MalformedMessage),
    "no charter": (put("charter", None), MalformedMessage),
    "a charter with a longer length": (long_bytes("charter", "c5", 2), MalformedMessage),
    "another session": (bit("session"), WrongSession),
    "a session that is empty": (put("session", b""), MalformedMessage),
    "a session with a longer length": (long_bytes("session", "c6", 4), MalformedMessage),
    "no session": (without("session"), MalformedMessage),
    "the round before": (put("round", 1), WrongRound),
    "the round after": (put("round", 3), WrongRound),
    "round 0": (put("round", 0), WrongRound),
    "round 2^53": (put("round", 2**53), WrongRound),
    "round 2^53 + 1": (put("round", 2**53 + 1), MalformedMessage),
    "round -1": (put("round", -1), MalformedMessage),
    "round 2.0": (put("round", 2.0), MalformedMessage),
    "round as text": (put("round", "2"), MalformedMessage),
    "round true": (put("round", True), MalformedMessage),
    "no round": (without("round"), MalformedMessage),
    "round in two bytes": (wide("round", "cc", 1), MalformedMessage),
    "round in three bytes": (wide("round", "cd", 2), MalformedMessage),
    "round in five bytes": (wide("round", "ce", 4), MalformedMessage),
    "round in nine bytes": (wide("round", "cf", 8), MalformedMessage),
    "round as a signed number of nine bytes": (wide("round", "d3", 8), MalformedMessage),
    "the attempt before": (put("attempt", 0), WrongAttempt),
    "the attempt after": (put("attempt", 2), WrongAttempt),
    "an attempt below nothing": (put("attempt", -(2**31)), MalformedMessage),
    "an attempt that is no number": (put("attempt", float("nan")), MalformedMessage),
    "an attempt that is a list": (put("attempt", [1]), MalformedMessage),
    "no attempt": (without("attempt"), MalformedMessage),
    "another's name": (put("sender", "bob"), WrongSender),
    "the recipient's name": (put("sender", "third"), WrongSender),
    "a stranger's name": (put("sender", "mallory"), WrongSender),
    "a name in capitals": (put("sender", "Alice"), MalformedMessage),
    "a name with a line end": (put("sender", "alice\n"), MalformedMessage),
    "a name with a NUL": (put("sender", "alice\0"), MalformedMessage),
    "a name of 33 letters": (put("sender", "a" * 33), MalformedMessage),
    "an empty name": (put("sender", ""), MalformedMessage),
    "a name as bytes": (put("sender", b"alice"), MalformedMessage),
    "a name that is not UTF-8": (put("sender", msgspec.Raw(b"\xa5alic\xff")), MalformedMessage),
    "a name with a longer length": (put("sender", msgspec.Raw(b"\xd9\x05alice")), MalformedMessage),
    "no sender": (without("sender"), MalformedMessage),
    "another recipient": (put("recipient", "owner"), WrongRecipient),
    "the sender as recipient": (put("recipient", "alice"), WrongRecipient),
    "a stranger as recipient": (put("recipient", "mallory"), WrongRecipient),
    "a recipient that is a path": (put("recipient", "../third"), MalformedMessage),
    "no recipient": (put("recipient", None), MalformedMessage),
    "another key": (bit("recipient_key"), WrongRecipient),
    "a key of zeros": (put("recipient_key", bytes(16)), WrongRecipient),
    "a key id of 15 bytes": (put("recipient_key", bytes(15)), MalformedMessage),
    "a key id of 32 bytes": (put("recipient_key", bytes(32)), MalformedMessage),
    "no key id": (without("recipient_key"), MalformedMessage),
    "another OpenRound": (bit("open_round"), WrongOpenRound),
    "an OpenRound of 64 bytes": (put("open_round", bytes(64)), MalformedMessage),
    "an OpenRound that is a number": (put("open_round", 0), MalformedMessage),
    "a broadcast": (put("broadcast", True), MalformedMessage),
    "a broadcast that is 0": (put("broadcast", 0), MalformedMessage),
    "a broadcast that is text": (put("broadcast", "false"), MalformedMessage),
    "no broadcast": (put("broadcast", None), MalformedMessage),
    "no section": (put("sections", ()), OversizedClaim),
    "a section too many": (put("sections", (16, 0)), OversizedClaim),
    "a section split in two": (put("sections", (8, 8)), OversizedClaim),
    "a section one byte short": (put("sections", (15,)), OversizedClaim),
    "a section one byte long": (put("sections", (17,)), OversizedClaim),
    "a section of nothing": (put("sections", (0,)), OversizedClaim),
    "a section of 64 GiB": (put("sections", (2**36,)), OversizedClaim),
    "a section beyond 64 GiB": (put("sections", (2**36 + 1,)), MalformedMessage),
    "a section of 64 bits": (put("sections", (2**64 - 1,)), MalformedMessage),
    "a section below nothing": (put("sections", (-16,)), MalformedMessage),
    "a section of 16.0": (put("sections", (16.0,)), MalformedMessage),
    "a section in a wide number": (put("sections", msgspec.Raw(b"\x91\xcc\x10")), MalformedMessage),
    "five sections": (put("sections", (4, 4, 4, 4, 0)), MalformedMessage),
    "sections as a number": (put("sections", 16), MalformedMessage),
    "sections as a map": (put("sections", {0: 16}), MalformedMessage),
    "sections in a long list": (put("sections", msgspec.Raw(b"\xdc\x00\x01\x10")), MalformedMessage),
    "no sections": (without("sections"), MalformedMessage),
    "another first word": (put("first", 1), MalformedMessage),
    "a first word far away": (put("first", 2**53), MalformedMessage),
    "a first word below nothing": (put("first", -1), MalformedMessage),
    "no first word": (without("first"), MalformedMessage),
    "a commitment of 31 bytes": (put("commitment", bytes(31)), MalformedMessage),
    "an empty commitment": (put("commitment", b""), MalformedMessage),
    "no commitment": (without("commitment"), MalformedMessage),
    "contributors of a contribution": (put("contributors", 1), MalformedMessage),
    "contributors below nothing": (put("contributors", -1), MalformedMessage),
    "contributors left out": (without("contributors"), MalformedMessage),
    "a Close list of a contribution": (put("close", bytes(32)), MalformedMessage),
    "a Close list of 31 bytes": (put("close", bytes(31)), MalformedMessage),
    "a Close list left out": (without("close"), MalformedMessage),
    "a Close list that is false": (put("close", False), MalformedMessage),
    "another field": (put("priority", 1), MalformedMessage),
    "a field without a name": (put("", 1), MalformedMessage),
    "a time": (put("round", datetime(2030, 1, 1, tzinfo=UTC)), MalformedMessage),
    "an extension": (put("session", msgspec.msgpack.Ext(7, bytes(32))), MalformedMessage),
    "everything of another charter": (
        lambda fields: fields.update(charter=bytes(32), session=bytes(32), round=9),
        WrongCharter,
    ),
}


def shuffled(header: bytes) -> bytes:
    items = list(msgspec.msgpack.decode(header).items())
    random.Random(5).shuffle(items)
    return pack(dict(items))


def twice(header: bytes) -> bytes:
    """The first field a second time at the end; the map says so."""
    return (
        b"\xde"
        + (header[2] + 1 if header[0] == 0xDE else (header[0] & 0x0F) + 1).to_bytes(2, "big")
        + (header[3:] if header[0] == 0xDE else header[1:])
        + pack("version")
        + pack(1)
    )


def numbered(header: bytes) -> bytes:
    return pack(dict(enumerate(msgspec.msgpack.decode(header).values())))


def length(header: bytes) -> int:
    """How many fields the map says it has; msgpack writes up to 15 in its first byte, more in two after it."""
    return int.from_bytes(header[1:3], "big") if header[0] == 0xDE else header[0] & 0x0F


def fields_of(header: bytes) -> bytes:
    return header[3:] if header[0] == 0xDE else header[1:]


# What is changed in the bytes; all are refused as malformed.
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "nothing at all": lambda header: b"",
    "garbage": lambda header: b"garbage",
    "nil": lambda header: b"\xc0",
    "a byte that msgpack does not use": lambda header: b"\xc1" + header,
    "a byte short": lambda header: header[:-1],
    "half of it": lambda header: header[: len(header) // 2],
    "one byte": lambda header: header[:1],
    "a byte behind it": lambda header: header + b"\xc0",
    "a second one behind it": lambda header: header + header,
    "a byte before it": lambda header: b"\xc0" + header,
    "two kilobytes of zeros": lambda header: bytes(2048),
    "fields in another order": shuffled,
    "fields in reverse": lambda header: pack(dict(reversed(msgspec.msgpack.decode(header).items()))),
    "a field twice": twice,
    "fields by number": numbered,
    "fields in a list": lambda header: pack(list(msgspec.msgpack.decode(header).values())),
    "a map with a wider length": lambda header: b"\xdf" + length(header).to_bytes(4, "big") + fields_of(header),
    "a map that says one more": lambda header: b"\xde" + (length(header) + 1).to_bytes(2, "big") + fields_of(header),
    "a map that says one less": lambda header: b"\xde" + (length(header) - 1).to_bytes(2, "big") + fields_of(header),
    "a map of four billion": lambda header: b"\xdf\xff\xff\xff\xff" + fields_of(header),
    "names of fields as bytes": lambda header: header.replace(pack("version"), pack(b"version")),
    "names of fields with a longer length": lambda header: header.replace(pack("version"), b"\xd9\x07version"),
    "a name of a field in capitals": lambda header: header.replace(b"version", b"Version"),
    "lists nested deep": lambda header: b"\x91" * 2048,
    "maps nested deep": lambda header: b"\x81\xa1a" * 680,
    "JSON": lambda header: msgspec.json.encode(decode_as(Header, header)),
    "a header in a list": lambda header: b"\x91" + header,
    "a header in bytes": pack,
    "another struct": lambda header: pack({"open_round": bytes(32), "party": "alice"}),
}


def head_of(head: SealedHead, **changes: Any) -> list[Any]:
    return [changes.get(name, getattr(head, name)) for name in ("header", "wrapped_key", "signature")]


# A head as a list, or as bytes; refused by the codec, before anybody looks at a signature.
HEADS: dict[str, Callable[[SealedHead], Any]] = {
    "no signature": lambda head: head_of(head)[:2],
    "nothing": lambda head: [],
    "nil": lambda head: None,
    "a fourth part": lambda head: [*head_of(head), b""],
    "a map": lambda head: dict(zip(("header", "wrapped_key", "signature"), head_of(head), strict=True)),
    "bytes": lambda head: b"".join(head_of(head)),
    "a header over 2 KiB": lambda head: head_of(head, header=bytes(2049)),
    "a header as text": lambda head: head_of(head, header="x"),
    "a header as a map": lambda head: head_of(head, header={}),
    "no header": lambda head: [None, *head_of(head)[1:]],
    "a wrapped key one byte short": lambda head: head_of(head, wrapped_key=head.wrapped_key[:-1]),
    "a wrapped key one byte long": lambda head: head_of(head, wrapped_key=head.wrapped_key + b"\0"),
    "an empty wrapped key": lambda head: head_of(head, wrapped_key=b""),
    "a wrapped key of a megabyte": lambda head: head_of(head, wrapped_key=bytes(2**20)),
    "a wrapped key of X25519 alone": lambda head: head_of(head, wrapped_key=bytes(32 + 48)),
    "a wrapped key as a list": lambda head: head_of(head, wrapped_key=list(head.wrapped_key)),
    "a signature one byte short": lambda head: head_of(head, signature=head.signature[:-1]),
    "a signature one byte long": lambda head: head_of(head, signature=head.signature + b"\0"),
    "an empty signature": lambda head: head_of(head, signature=b""),
    "a signature in hexadecimal": lambda head: head_of(head, signature=head.signature.hex()),
    "two signatures": lambda head: head_of(head, signature=[head.signature, head.signature]),
    "in another order": lambda head: head_of(head)[::-1],
    "a head in a head": lambda head: [head_of(head)],
    "a list with a wider length": lambda head: msgspec.Raw(b"\xdc\x00\x03" + b"".join(map(pack, head_of(head)))),
    "a header with a wider length": lambda head: msgspec.Raw(
        b"\x93\xc6" + len(head.header).to_bytes(4, "big") + head.header + b"".join(map(pack, head_of(head)[1:]))
    ),
}
# A head that decodes, and whose signature is not over what it holds.
UNSIGNED: dict[str, Callable[[Desk], SealedHead]] = {
    "a signature of zeros": lambda desk: msgspec.structs.replace(desk.sealed.head, signature=bytes(64)),
    "a signature of bob's": lambda desk: desk.sign(desk.sealed.head.header, "bob"),
    "a signature of the recipient's": lambda desk: desk.sign(desk.sealed.head.header, "third"),
    "a signature of another head": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        signature=desk.alice.seal(Label.CONTRIBUTION, desk.context, "third", desk.key.public, [PAYLOAD]).head.signature,
    ),
    "a wrapped key of another head": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        wrapped_key=desk.alice.seal(
            Label.CONTRIBUTION, desk.context, "third", desk.key.public, [PAYLOAD]
        ).head.wrapped_key,
    ),
    "a header of another head": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        header=desk.alice.seal(Label.CONTRIBUTION, desk.context, "third", desk.key.public, [PAYLOAD]).head.header,
    ),
    "a signature over the header alone": lambda desk: msgspec.structs.replace(
        desk.sealed.head, signature=desk.identities["alice"].sign(Label.HEADER, desk.sealed.head.header)
    ),
    "a signature without the label": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        signature=desk.identities["alice"].sign(Label.HEADER, desk.sealed.head.header + desk.sealed.head.wrapped_key),
    ),
    "a signature under the label of a contribution": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        signature=desk.identities["alice"].sign(
            Label.CONTRIBUTION, frame(Label.CONTRIBUTION, [desk.sealed.head.header, desk.sealed.head.wrapped_key])
        ),
    ),
    "a signature for an aggregate": lambda desk: msgspec.structs.replace(
        desk.sealed.head,
        signature=desk.identities["alice"].sign(
            Label.HEADER, frame(Label.AGGREGATE, [desk.sealed.head.header, desk.sealed.head.wrapped_key])
        ),
    ),
    "an empty header": lambda desk: msgspec.structs.replace(desk.sealed.head, header=b""),
    "a header that is garbage": lambda desk: msgspec.structs.replace(desk.sealed.head, header=b"\xff" * 100),
}
CASES = {
    **{f"a field: {name}": case for name, case in FIELDS.items()},
    **{f"bytes: {name}": case for name, case in BYTES.items()},
    **{f"a head: {name}": case for name, case in HEADS.items()},
    **{f"unsigned: {name}": case for name, case in UNSIGNED.items()},
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_header_that_is_wrong_in_one_field_is_refused_by_name(desk: Desk, untouched: None, name: str) -> None:
    change, error = FIELDS[name]
    fields = desk.fields()
    change(fields)
    with pytest.raises(Misbehaviour) as caught:
        desk.examine(desk.sign(pack(fields)))
    assert type(caught.value) is error, caught.value
    assert caught.value.party == "alice"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_header_are_refused(desk: Desk, untouched: None, name: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        desk.examine(desk.sign(BYTES[name](desk.sealed.head.header)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_is_none_is_refused_by_the_codec(desk: Desk, untouched: None, name: str) -> None:
    changed = HEADS[name](desk.sealed.head)
    with pytest.raises(MalformedMessage):
        decode_as(SealedHead, pack(changed), party="alice")
    with pytest.raises(MalformedMessage):
        decode_message(pack({"m": "ready", "head": changed}), party="alice")


@pytest.mark.parametrize("name", UNSIGNED)
def test_a_head_whose_signature_is_not_over_it_is_refused(desk: Desk, untouched: None, name: str) -> None:
    head = UNSIGNED[name](desk)
    assert decode_message(encode(Ready(head=head))) == Ready(head=head)
    with pytest.raises(BadSignature):
        desk.examine(head)


def test_a_stranger_is_refused_before_its_signature(desk: Desk, untouched: None) -> None:
    with pytest.raises(NotInCharter):
        desk.examine(desk.sealed.head, "mallory")


def test_the_header_that_these_spoil_is_admitted(desk: Desk) -> None:
    assert pack(desk.fields()) == desk.sealed.head.header
    desk.examine(desk.sign(pack(desk.fields())))
    assert decode_as(SealedHead, pack(head_of(desk.sealed.head))) == desk.sealed.head
