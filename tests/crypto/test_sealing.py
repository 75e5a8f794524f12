"""A body opens only as it was sealed, in bounded memory; a round key never leaves its process."""

import copy
import functools
import pickle
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto import sealing
from tertium.crypto.errors import BadBody, BadRecipientKey, BadWrappedKey, CommitmentMismatch, Misbehaviour, Misuse
from tertium.crypto.sealing import BodyOpener, RoundKey

KIB = 1024
RECORD = 64 * KIB
WIRE = RECORD + sealing.RECORD_OVERHEAD
CONTEXT = b"context"
BINDING = (b"who", b"when")
CONTENT_KEY = b"\x07" * sealing.CONTENT_KEY_BYTES
SALT = b"\x09" * sealing.SALT_BYTES
SECTIONS = (bytes(range(256)) * 700, b"second", b"")  # 3 records of 64 KiB


def records_of(sections: tuple[bytes, ...] = SECTIONS, context: bytes = CONTEXT) -> list[bytes]:
    return list(sealing.seal_records(CONTENT_KEY, context, SALT, sections, RECORD))


def opener_for(
    sections: tuple[bytes, ...] = SECTIONS, staging: sealing.Staging | None = None, **other: bytes
) -> BodyOpener:
    return BodyOpener(
        other.get("content_key", CONTENT_KEY),
        other.get("context", CONTEXT),
        sections=[len(section) for section in sections],
        binding=BINDING,
        commitment=other.get("commitment", sealing.commit(BINDING, SALT, sections)),
        staging=staging,
        record=WIRE,
    )


def open_all(opener: BodyOpener, records: list[bytes]) -> list[bytes]:
    for number, record in enumerate(records):
        complete = opener.feed(record)
        assert complete == (number == len(records) - 1)
    return [bytes(view) for view in opener.finish()]


def take(opener: BodyOpener, records: Iterable[bytes]) -> list[bytes]:
    for record in records:
        opener.feed(record)
    return [bytes(view) for view in opener.finish()]


# --- round keys


def test_a_wrapped_key_opens_with_its_key_and_info() -> None:
    key = RoundKey()
    wrapped = sealing.wrap(key.public, CONTENT_KEY, b"info")
    assert len(wrapped) == sealing.WRAPPED_KEY_BYTES
    assert len(key.public) == sealing.PUBLIC_KEY_BYTES
    assert key.unwrap(wrapped, b"info") == CONTENT_KEY


def test_a_wrapped_key_does_not_open_with_another_key_or_info() -> None:
    key, other = RoundKey(), RoundKey()
    wrapped = sealing.wrap(key.public, CONTENT_KEY, b"info")
    with pytest.raises(BadWrappedKey):
        other.unwrap(wrapped, b"info")
    with pytest.raises(BadWrappedKey):
        key.unwrap(wrapped, b"other info")


@pytest.mark.parametrize("length", [0, sealing.WRAPPED_KEY_BYTES - 1, sealing.WRAPPED_KEY_BYTES + 1])
def test_a_wrapped_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(BadWrappedKey):
        RoundKey().unwrap(bytes(length), b"info")


def test_a_wrapped_key_that_holds_something_else_is_refused() -> None:
    key = RoundKey()
    short = sealing.wrap(key.public, b"short", b"info")
    with pytest.raises(BadWrappedKey):
        key.unwrap(short.ljust(sealing.WRAPPED_KEY_BYTES, b"\0"), b"info")
    with pytest.raises(BadWrappedKey):
        key.unwrap(short, b"info")


@functools.cache
def _wrapped() -> tuple[RoundKey, bytes]:
    key = RoundKey()
    return key, sealing.wrap(key.public, CONTENT_KEY, b"info")


@settings(deadline=None)
@given(st.integers(0, sealing.WRAPPED_KEY_BYTES - 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_wrapped_key_is_refused(at: int, bit: int) -> None:
    key, wrapped = _wrapped()
    altered = bytearray(wrapped)
    altered[at] ^= 1 << bit
    with pytest.raises(BadWrappedKey):
        key.unwrap(bytes(altered), b"info")


def test_an_erased_key_opens_nothing() -> None:
    key = RoundKey()
    wrapped = sealing.wrap(key.public, CONTENT_KEY, b"info")
    assert not key.erased
    key.erase()
    assert key.erased
    with pytest.raises(Misuse):
        key.unwrap(wrapped, b"info")


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_round_key_never_leaves_its_process(leave: object) -> None:
    with pytest.raises(TypeError):
        leave(RoundKey())  # type: ignore[operator]


def test_the_repr_of_a_round_key_says_only_its_id() -> None:
    key = RoundKey()
    assert repr(key) == f"RoundKey({key.key_id.hex()})"
    key.erase()
    assert repr(key) == f"RoundKey({key.key_id.hex()}, erased)"


def test_two_round_keys_differ() -> None:
    assert RoundKey().public != RoundKey().public


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(sealing.PUBLIC_KEY_BYTES - 1),
        bytes(sealing.PUBLIC_KEY_BYTES),  # an X25519 point of order 1
        b"\xff" * sealing.PUBLIC_KEY_BYTES,  # ML-KEM coefficients out of range
    ],
)
def test_a_recipient_key_that_is_none_is_refused_by_name(public: bytes) -> None:
    with pytest.raises(BadRecipientKey, match="mallory"):
        sealing.check_public_key(public, party="mallory")
    sealing.check_public_key(RoundKey().public, party="mallory")


# --- bodies


def test_a_body_opens_as_it_was_sealed() -> None:
    records = records_of()
    assert len(records) >= 3
    assert sum(map(len, records)) == sealing.body_bytes(sum(map(len, SECTIONS)))
    assert open_all(opener_for(), records) == list(SECTIONS)


@given(st.lists(st.integers(0, 40 * KIB), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_bodies_of_any_lengths_open(lengths: list[int]) -> None:
    sections = tuple(bytes([at + 1]) * length for at, length in enumerate(lengths))
    assert open_all(opener_for(sections), records_of(sections)) == list(sections)


@given(st.lists(st.integers(0, 300 * KIB), min_size=1, max_size=3))
@settings(deadline=None, max_examples=25)
def test_no_record_is_longer_than_the_lane_takes(lengths: list[int]) -> None:
    records = records_of(tuple(bytes(length) for length in lengths))
    assert max(map(len, records)) <= WIRE
    assert min(map(len, records)) > 0


def test_sealing_is_lazy_so_that_records_do_not_pile_up() -> None:
    section = bytearray(10 * RECORD)
    records = sealing.seal_records(CONTENT_KEY, CONTEXT, SALT, [section], RECORD)
    first = next(records)
    # Had the whole body been sealed at the first record, this change would come too late to be in it.
    section[-1] = 0xAB
    opener = opener_for((bytes(section),))
    for record in [first, *records]:
        opener.feed(record)
    assert bytes(opener.finish()[0][-1:]) == b"\xab"


def test_a_second_sealing_of_a_body_uses_another_nonce_and_opens_the_same() -> None:
    # A transfer that broke off is sealed again; one nonce over two bodies would be a leak, so none is used twice.
    first, second = records_of(), records_of()
    assert first[0][:32] != second[0][:32]
    assert open_all(opener_for(), first) == open_all(opener_for(), second)


BODY = b"".join(records_of((b"\x05" * 40_000,)))


@settings(deadline=None)
@given(st.integers(0, len(BODY) - 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_body_is_refused(at: int, bit: int) -> None:
    altered = bytearray(BODY)
    altered[at] ^= 1 << bit
    opener = opener_for((b"\x05" * 40_000,))
    with pytest.raises(BadBody):
        take(opener, [bytes(altered)])


@settings(deadline=None)
@given(st.integers(0, len(BODY) - 1))
def test_a_body_cut_anywhere_is_refused(length: int) -> None:
    opener = opener_for((b"\x05" * 40_000,))
    with pytest.raises(BadBody):
        take(opener, [BODY[:length]])


@pytest.mark.parametrize("extra", [1, 16, 16 * KIB + 16])
def test_an_extended_body_is_refused_before_the_surplus_is_opened(extra: int) -> None:
    opener = opener_for((b"\x05" * 40_000,))
    with pytest.raises(BadBody, match="longer"):
        opener.feed(BODY + bytes(extra))
    opener = opener_for((b"\x05" * 40_000,))
    assert opener.feed(BODY)
    with pytest.raises(BadBody, match="longer"):
        opener.feed(bytes(extra))


def test_a_longer_body_under_the_same_key_is_refused() -> None:
    longer = b"".join(records_of((b"\x05" * 40_001,)))
    with pytest.raises(BadBody):
        opener_for((b"\x05" * 40_000,)).feed(longer)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (0, 0, 1), (1, 2)])
def test_records_out_of_order_repeated_or_left_out_are_refused(order: tuple[int, ...]) -> None:
    records = records_of()
    opener = opener_for()
    with pytest.raises(BadBody):
        take(opener, [records[at] for at in order])


def test_nothing_is_taken_after_a_refusal_or_after_the_end() -> None:
    opener = opener_for()
    records = records_of()
    with pytest.raises(BadBody):
        opener.feed(bytes(len(records[0])))
    with pytest.raises(BadBody, match="after its end"):
        opener.feed(records[0])
    done = opener_for()
    open_all(done, records)
    with pytest.raises(BadBody, match="after its end"):
        done.feed(b"")
    with pytest.raises(BadBody):
        done.finish()


def test_a_body_sealed_under_another_key_or_context_is_refused() -> None:
    for other in ({"content_key": b"\x08" * 32}, {"context": b"other"}):
        opener = opener_for(**other)
        with pytest.raises(BadBody):
            take(opener, records_of())


def test_another_body_under_the_same_key_is_refused_by_its_commitment() -> None:
    other = (b"\xff" + SECTIONS[0][1:], *SECTIONS[1:])
    opener = opener_for()
    for record in records_of(other):
        opener.feed(record)
    with pytest.raises(CommitmentMismatch):
        opener.finish()


def test_another_salt_is_refused_by_the_commitment() -> None:
    opener = opener_for()
    for record in sealing.seal_records(CONTENT_KEY, CONTEXT, b"\x0a" * 32, SECTIONS, RECORD):
        opener.feed(record)
    with pytest.raises(CommitmentMismatch):
        opener.finish()


def test_a_commitment_is_bound_to_everything_it_lists() -> None:
    ours = sealing.commit(BINDING, SALT, SECTIONS)
    assert sealing.commit((b"who", b"then"), SALT, SECTIONS) != ours
    assert sealing.commit((b"whowhen",), SALT, SECTIONS) != ours
    assert sealing.commit(BINDING, b"\x0a" * 32, SECTIONS) != ours
    assert sealing.commit(BINDING, SALT, SECTIONS[:1]) != ours


# --- staging


def test_a_staging_buffer_is_used_again() -> None:
    first = opener_for()
    open_all(first, records_of())
    buffer = first.staging
    other = (b"\xee" * len(SECTIONS[0]), *SECTIONS[1:])
    second = opener_for(other, staging=buffer)
    assert second.staging is buffer
    assert open_all(second, records_of(other)) == list(other)


def test_the_sections_are_views_of_the_staging_buffer() -> None:
    opener = opener_for()
    for record in records_of():
        opener.feed(record)
    views = opener.finish()
    assert all(view.obj is opener.staging for view in views)


def test_a_staging_buffer_that_is_too_small_is_our_own_mistake() -> None:
    needed = sealing.staging_bytes(sum(map(len, SECTIONS)), WIRE)
    with pytest.raises(Misuse):
        opener_for(staging=np.empty(needed - 1, np.uint8))
    assert open_all(opener_for(staging=np.empty(needed, np.uint8)), records_of()) == list(SECTIONS)


def test_a_refusal_is_never_anything_but_misbehaviour() -> None:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.binary(max_size=200), max_size=5))
    def feed(records: list[bytes]) -> None:
        opener = opener_for((b"",))
        with pytest.raises(Misbehaviour):
            take(opener, records)

    feed()
