"""Whatever a frame holds, it is one message in one form, or `MalformedMessage` and nothing else."""

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.protocol import messages
from tertium.protocol.codec import AnyMessage, decode_as, decode_message, encode
from tertium.protocol.errors import MalformedMessage
from tertium.protocol.messages import Header, Message, Statement

MESSAGES = typing.get_args(AnyMessage)
STATEMENTS = tuple(Statement.__subclasses__())


def test_every_message_class_stands_in_the_union() -> None:
    def leaves(kind: type) -> set[type]:
        below = kind.__subclasses__()
        return {kind} if not below else {leaf for each in below for leaf in leaves(each)}

    assert leaves(Message) == set(MESSAGES)
    tags = [kind.__struct_config__.tag for kind in MESSAGES]
    assert len(set(tags)) == len(tags)


def test_every_statement_has_a_label_of_its_own() -> None:
    labels = [kind.label for kind in STATEMENTS]
    assert len(set(labels)) == len(labels) == len(STATEMENTS) > 10


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_every_message_comes_back_as_it_was(kind: type[Message], seed: int, sampler: Any) -> None:
    message = sampler(seed).make(kind)
    decoded = decode_message(encode(message))
    assert type(decoded) is kind
    assert decoded == message


@pytest.mark.parametrize("kind", [*STATEMENTS, Header], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_every_statement_comes_back_as_it_was(kind: Any, seed: int, sampler: Any) -> None:
    statement = sampler(seed).make(kind)
    assert decode_as(kind, encode(statement)) == statement


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_garbage_is_malformed_and_nothing_else(frame: bytes) -> None:
    refused = None
    try:
        message = decode_message(frame, party="mallory")
    except MalformedMessage as error:
        refused = error
    if refused is None:
        assert encode(message) == frame
    else:
        assert refused.party == "mallory"
        assert len(str(refused)) < 300


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("m"), inner, max_size=4),
    max_leaves=12,
)
TAGS = [kind.__struct_config__.tag for kind in MESSAGES]


@given(JUNK, st.sampled_from(TAGS), st.booleans())
@settings(max_examples=300)
def test_well_formed_msgpack_that_is_no_message_is_malformed(junk: object, tag: str, tagged: bool) -> None:
    if tagged and isinstance(junk, dict):
        junk = {**junk, "m": tag}
    with pytest.raises(MalformedMessage):
        decode_message(msgspec.msgpack.encode(junk))


@given(st.data())
@settings(max_examples=200)
def test_a_message_cut_or_altered_anywhere_decodes_canonically_or_is_malformed(data: st.DataObject) -> None:
    frame = bytearray(FRAME)
    at = data.draw(st.integers(0, len(frame) - 1))
    if data.draw(st.booleans()):
        del frame[at:]
    else:
        frame[at] = data.draw(st.integers(0, 255))
    try:
        message = decode_message(bytes(frame))
    except MalformedMessage:
        return
    assert encode(message) == bytes(frame)


FRAME = encode(
    messages.RoundRecord(
        statement=messages.Signed("third", b"statement", bytes(64)),
        cosignatures=(messages.Cosignature("alice", bytes(64)),),
        absent=("bob",),
    )
)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(b"\x82\xa1m\xa5fetch\xa7subject\xc5\x00\x20" + bytes(32), id="a longer length than needed"),
        pytest.param(b"\x82\xa7subject\xc4\x20" + bytes(32) + b"\xa1m\xa5fetch", id="fields in another order"),
        pytest.param(b"\x83\xa1m\xa5fetch" + 2 * (b"\xa7subject\xc4\x20" + bytes(32)), id="a field twice"),
        pytest.param(b"\xde\x00\x02\xa1m\xa5fetch\xa7subject\xc4\x20" + bytes(32), id="a wider map"),
    ],
)
def test_a_second_encoding_of_one_meaning_is_refused(other: bytes) -> None:
    canonical = b"\x82\xa1m\xa5fetch\xa7subject\xc4\x20" + bytes(32)
    assert decode_message(canonical) == messages.Fetch(subject=bytes(32))
    with pytest.raises(MalformedMessage):
        decode_message(other)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_message(FRAME + b"\xc0")


def test_deep_nesting_is_refused_without_harm() -> None:
    with pytest.raises(MalformedMessage):
        decode_message(b"\x91" * 100_000)
    with pytest.raises(MalformedMessage):
        decode_message(b"\x81\xa1m" * 50_000)


def test_unknown_fields_and_unknown_tags_are_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode_message(msgspec.msgpack.encode({"m": "fetch", "subject": bytes(32), "pickle": b"x"}))
    with pytest.raises(MalformedMessage):
        decode_message(msgspec.msgpack.encode({"m": "run-this", "subject": bytes(32)}))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessage):
        decode_message(msgspec.msgpack.encode({"m": "fetch", "subject": bytes(length)}))


def test_lists_that_must_be_sorted_are_refused_unsorted() -> None:
    line = [messages.Contribution(name, bytes(32)) for name in ("bob", "alice")]
    said = {"open_round": bytes(32), "holder": "third", "contributions": line, "declined": (), "missing": ()}
    with pytest.raises(MalformedMessage):
        decode_as(messages.CloseList, msgspec.msgpack.encode(said))
    decode_as(messages.CloseList, msgspec.msgpack.encode({**said, "contributions": line[::-1]}))
