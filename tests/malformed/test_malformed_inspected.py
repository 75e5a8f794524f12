"""Records, frames and models that are none: `tertium inspect` says so in one sentence, or that they do not verify."""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tertium.crypto.labels import Label
from tertium.protocol.codec import decode_as, encode
from tertium.protocol.messages import CloseList, Cosignature, Fetch, RoundRecord, RoundStatement, Signed
from tertium.protocol.statements import sign

Place = Any
Entry = dict[str, Any]
WEIGHT: Entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def model(header: object, *, length: int | None = None, data: int = 24) -> bytes:
    """A safetensors file: eight bytes of length, a header in JSON, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def weight(**changes: object) -> bytes:
    return model({"weight": {name: item for name, item in {**WEIGHT, **changes}.items() if item != ...}})


MODELS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "a header of no length": bytes(8),
    "a header beyond the end": model({"weight": WEIGHT}, length=10_000),
    "a header of 64 bits": model({"weight": WEIGHT}, length=2**64 - 1),
    "a header of 17 MiB": model({"weight": WEIGHT}, length=17 * 2**20),
    "a header cut off": model({"weight": WEIGHT}, length=20),
    "a header and a byte of data": model({"weight": WEIGHT}, length=len(json.dumps({"weight": WEIGHT})) + 1),
    "a header that is no JSON": model(b"weights"),
    "a header that is a list": model([WEIGHT]),
    "a header that is a number": model(b"7"),
    "a header of nil": model(b"null"),
    "a header in UTF-16": model(json.dumps({"weight": WEIGHT}).encode("utf-16")),
    "a header that is not UTF-8": model(b'{"\xff": {}}'),
    "a header of lists nested deep": model(b'{"a": ' + b"[" * 100_000),
    "a header of maps nested deep": model(b'{"a": ' * 100_000),
    "a header with a number of 5000 digits": model(b'{"a": ' + b"9" * 5000 + b"}"),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a tensor that is a number": model({"weight": 7}),
    "a tensor that is a list": model({"weight": [WEIGHT]}),
    "a tensor that is empty": model({"weight": {}}),
    "a tensor without a type": weight(dtype=...),
    "a tensor without a shape": weight(shape=...),
    "a tensor without a place": weight(data_offsets=...),
    "a tensor with another field": weight(code="x"),
    "a tensor of a type that is a number": weight(dtype=32),
    "a tensor of a long type": weight(dtype="F" * 1000),
    "a tensor of a shape that is text": weight(shape="2x3"),
    "a tensor of a shape of fractions": weight(shape=[2.5, 3]),
    "a tensor of a shape below nothing": weight(shape=[-1]),
    "a tensor of a shape of 64 bits": weight(shape=[2**63]),
    "a tensor with one offset": weight(data_offsets=[0]),
    "a tensor with three offsets": weight(data_offsets=[0, 1, 2]),
    "a tensor that ends before it begins": weight(data_offsets=[24, 0]),
    "a tensor beyond the end": weight(data_offsets=[0, 25]),
    "a tensor far beyond the end": weight(data_offsets=[2**40, 2**41]),
    "a tensor before the begin": weight(data_offsets=[-8, 16]),
    "tensors cut off": model({"weight": WEIGHT}, data=23),
    "metadata that is a list": model({"weight": WEIGHT, "__metadata__": []}),
    "metadata that is nested": model({"weight": WEIGHT, "__metadata__": {"a": {"b": "c"}}}),
}
FRAMES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda record: b"",
    "garbage": lambda record: b"\xff" * 60,
    "text": lambda record: b"a record\n",
    "a byte short": lambda record: record[:-1],
    "a byte behind it": lambda record: record + b"\n",
    "half of it": lambda record: record[: len(record) // 2],
    "twice": lambda record: record + record,
    "JSON": lambda record: json.dumps({"m": "round-record"}).encode(),
    "another tag": lambda record: msgspec.msgpack.encode({**msgspec.msgpack.decode(record), "m": "no-record"}),
    "no tag": lambda record: record.replace(b"\xa1m\xacround-record", b"", 1),
    "another field": lambda record: msgspec.msgpack.encode({**msgspec.msgpack.decode(record), "also": 1}),
    "lists nested deep": lambda record: b"\x91" * 100_000,
    "fields in another order": lambda record: msgspec.msgpack.encode(
        dict(reversed(msgspec.msgpack.decode(record).items()))
    ),
    "a statement alone": lambda record: decode_as(RoundRecord, record).statement.statement,
    "a head that is none": lambda record: msgspec.msgpack.encode(
        {"m": "ready", "head": [b"x", bytes(1168), bytes(64)]}
    ),
}
Forge = Callable[[Place, RoundRecord], RoundRecord]


def with_statement(change: Callable[[RoundStatement], RoundStatement]) -> Forge:
    """A record over another statement, with the signature of the one that was signed."""

    def forge(place: Place, record: RoundRecord) -> RoundRecord:
        said = change(decode_as(RoundStatement, record.statement.statement))
        return msgspec.structs.replace(
            record, statement=msgspec.structs.replace(record.statement, statement=encode(said))
        )

    return forge


def cosigned(change: Callable[[Place, list[Cosignature]], list[Cosignature]]) -> Forge:
    return lambda place, record: msgspec.structs.replace(
        record, cosignatures=tuple(change(place, list(record.cosignatures)))
    )


def by_data_owner(place: Place, record: RoundRecord) -> RoundRecord:
    said = decode_as(RoundStatement, record.statement.statement)
    return msgspec.structs.replace(record, statement=sign(place.identities["alice"], said))


def of_garbage(place: Place, record: RoundRecord) -> RoundRecord:
    data = b"garbage"
    signature = place.identities["third"].sign(Label.ROUND_STATEMENT, data)
    return msgspec.structs.replace(record, statement=Signed("third", data, signature))


def of_another_kind(place: Place, record: RoundRecord) -> RoundRecord:
    close = CloseList(open_round=bytes(32), holder="third", contributions=(), declined=(), missing=())
    return msgspec.structs.replace(record, statement=sign(place.identities["third"], close))


RECORDS: dict[str, Forge] = {
    "with a contributor less": with_statement(
        lambda said: msgspec.structs.replace(said, contributors=("alice", "bob"))
    ),
    "with another release": with_statement(lambda said: msgspec.structs.replace(said, release=bytes(32))),
    "with another Close list": with_statement(lambda said: msgspec.structs.replace(said, close=bytes(32))),
    "signed by nobody": lambda place, record: msgspec.structs.replace(
        record, statement=msgspec.structs.replace(record.statement, signature=bytes(64))
    ),
    "signed by a data owner": by_data_owner,
    "signed by a stranger": lambda place, record: msgspec.structs.replace(
        record, statement=msgspec.structs.replace(record.statement, signer="mallory")
    ),
    "of garbage that is signed": of_garbage,
    "of a Close list": of_another_kind,
    "with a cosignature of zeros": cosigned(lambda place, found: [*found[:-1], Cosignature("owner", bytes(64))]),
    "with two cosignatures exchanged": cosigned(
        lambda place, found: [
            Cosignature(found[0].party, found[1].signature),
            Cosignature(found[1].party, found[0].signature),
            *found[2:],
        ]
    ),
    "cosigned by a stranger": cosigned(lambda place, found: [*found, Cosignature("mallory", found[0].signature)]),
    "cosigned under another label": cosigned(
        lambda place, found: [*found[:-1], Cosignature("owner", place.identities["owner"].sign(Label.CLOSE, b"x"))]
    ),
    "with a bad cosignature before a good one": cosigned(
        lambda place, found: [Cosignature("alice", bytes(64)), *found]
    ),
    "with a bad cosignature behind a good one": cosigned(
        lambda place, found: [*found, Cosignature("alice", bytes(64))]
    ),
    "with a cosignature missing": cosigned(lambda place, found: found[1:]),
    "with no cosignature": cosigned(lambda place, found: []),
    "with an absentee that cosigned": lambda place, record: msgspec.structs.replace(record, absent=("alice",)),
    "with a stranger for absent": lambda place, record: msgspec.structs.replace(record, absent=("mallory",)),
}
CASES = {
    **{f"a model: {name}": case for name, case in MODELS.items()},
    **{f"a frame: {name}": case for name, case in FRAMES.items()},
    **{f"a record: {name}": case for name, case in RECORDS.items()},
}


@pytest.fixture
def record(place: Place) -> RoundRecord:
    contributors = ("alice", "bob", "carol")
    said = RoundStatement(
        open_round=bytes(range(32)), holder="third", close=b"c" * 32, contributors=contributors, release=b"r" * 32,
        commitment=b"k" * 32,
    )  # fmt: skip
    statement = sign(place.identities["third"], said)
    cosignatures = tuple(
        Cosignature(name, place.identities[name].sign(Label.ROUND_STATEMENT, statement.statement))
        for name in (*contributors, "owner")
    )
    return RoundRecord(statement=statement, cosignatures=cosignatures, absent=())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_none_is_refused(place: Place, one_sentence: Any, name: str) -> None:
    (place.root / "x.safetensors").write_bytes(MODELS[name])
    one_sentence("inspect", "x.safetensors", words=("x.safetensors is no file of tertium", "safetensors file"))
    one_sentence("inspect", "x.safetensors", "--json")


def test_a_pipe_by_the_name_of_a_model_is_not_waited_for(place: Place, one_sentence: Any) -> None:
    os.mkfifo(place.root / "x.safetensors")
    one_sentence("inspect", "x.safetensors", words=("not a regular file",))


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_none_is_refused(place: Place, one_sentence: Any, record: RoundRecord, name: str) -> None:
    (place.root / "x.record").write_bytes(FRAMES[name](encode(record)))
    one_sentence("inspect", "x.record", words=("x.record is no file of tertium",))
    one_sentence("inspect", "x.record", "--json", "--charter", "charter.toml")


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_does_not_hold_is_not_verified(
    place: Place, tertium: Any, record: RoundRecord, name: str
) -> None:
    (place.root / "x.record").write_bytes(encode(RECORDS[name](place, record)))
    said = tertium("inspect", "x.record", "--charter", "charter.toml", status=1)
    assert "verdict: NOT verified" in said.out
    said = tertium("inspect", "x.record", "--charter", "charter.toml", "--json", status=1)
    assert json.loads(said.out)["content"]["verdict"].startswith("NOT verified")


def test_what_these_spoil_is_shown(place: Place, tertium: Any, record: RoundRecord) -> None:
    odd = {"verdict": WEIGHT, "\x1b[2J\n": WEIGHT, "__metadata__": {"a": "b"}}
    (place.root / "x.safetensors").write_bytes(model(odd))
    assert "verdict: F32 [2, 3]" in tertium("inspect", "x.safetensors", status=0).out
    (place.root / "x.record").write_bytes(encode(record))
    said = tertium("inspect", "x.record", "--charter", "charter.toml", status=0).out
    assert "verdict: verified: 4 of 4 cosigned" in said
    (place.root / "y.record").write_bytes(encode(Fetch(subject=bytes(32))))
    assert "message: Fetch" in tertium("inspect", "y.record", status=0).out
