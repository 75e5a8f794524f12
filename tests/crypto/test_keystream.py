"""The keystream against a slow one made of AES in counter mode, and against vectors that were written down."""

import functools
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tertium.crypto.errors import BadPlan, BadSeed, ErasedKeystream, WrongArray
from tertium.crypto.keystream import BLOCK_BYTES, Keystream, Scratch
from tertium.crypto.labels import Label
from tertium.crypto.ring import FIELD_32, FIELD_64, Field

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "keystream.json").read_text())
SEED = bytes(range(32))
# A quarter of its words are rejected, so replacements of replacements and partial reads all happen.
CROWDED = Field(32, 3 * 2**30 + 1)


@functools.cache
def oracle_block(seed, stream, label, context, block):
    """Block `block` of a stream, from the description in the module's docstring and nothing of its code."""
    parts = (stream.encode(), label.encode(), *context)
    framed = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    key = blake3(framed, key=seed).digest()
    counter = block.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(1024 * 1024))


def oracle_words(seed, stream, purpose, size, block):
    data = oracle_block(seed, stream, purpose[0], tuple(purpose[1:]), block)
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def oracle_elements(seed, purpose, field, block):
    modulus, size = field.modulus, field.word_bits // 8
    mask = 2 ** modulus.bit_length() - 1
    drawn = oracle_words(seed, "tertium/1 keystream", purpose, size, block)
    spare = iter(oracle_words(seed, "tertium/1 keystream replacements", purpose, size, block))
    elements = []
    for word in drawn:
        element = word & mask
        while element >= modulus:
            element = next(spare) & mask
        elements.append(element)
    return elements


@functools.cache
def crowded(block):
    return np.array(oracle_elements(SEED, ("tertium/1 contribution",), CROWDED, block), np.uint32)


def oracle_range(dtype, start, count):
    """Words `start` to `start + count` of SEED's stream."""
    size = dtype.itemsize
    first, last = start * size // BLOCK_BYTES, (start + count) * size // BLOCK_BYTES
    data = b"".join(
        oracle_block(SEED, "tertium/1 keystream", "tertium/1 contribution", (), b) for b in range(first, last + 1)
    )
    return np.frombuffer(data, dtype)[start - first * BLOCK_BYTES // size :][:count]


def keystream(**options):
    return Keystream(SEED, Label.CONTRIBUTION, **options)


def drawn(stream, start, count, dtype="<u4"):
    out = np.zeros(count, dtype)
    stream.words(start, out)
    return out


def from_vector(vector):
    context = [bytes.fromhex(part) for part in vector["context"]]
    return Keystream(bytes.fromhex(vector["seed"]), Label(vector["label"]), *context)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("vector", VECTORS["streams"])
def test_streams_are_the_ones_written_down(vector, dtype):
    stream = from_vector(vector)
    size = np.dtype(dtype).itemsize
    for piece in vector["bytes"]:
        words = drawn(stream, piece["start"] // size, 32 // size, dtype)
        assert words.tobytes().hex() == piece["hex"]
    both = drawn(stream, 0, 2 * BLOCK_BYTES // size, dtype)
    assert hashlib.sha256(both.tobytes()).hexdigest() == vector["sha256_of_two_blocks"]


@pytest.mark.parametrize("vector", VECTORS["field_elements"], ids=lambda v: v["comment"])
def test_field_elements_are_the_ones_written_down(vector):
    stream = from_vector(vector)
    field = {32: FIELD_32, 64: FIELD_64}[vector["word_bits"]]
    assert field.modulus == vector["modulus"]
    words = np.zeros(3, f"<u{vector['word_bits'] // 8}")
    stream.words(vector["start"], words)
    assert words.tolist() == vector["words"]
    stream.elements(field, vector["start"], words)
    assert words.tolist() == vector["elements"]


def test_the_vectors_hold_a_rejection():
    rejected = [v for v in VECTORS["field_elements"] if any(word >= v["modulus"] for word in v["words"])]
    assert any(v["word_bits"] == 32 for v in rejected)


@pytest.mark.parametrize("vector", VECTORS["bad_seeds"], ids=lambda v: v["comment"])
def test_bad_seeds_are_refused(vector):
    with pytest.raises(BadSeed) as caught:
        Keystream(bytes.fromhex(vector["seed"]), Label.CONTRIBUTION)
    assert caught.value.code == vector["must_fail_with"]


near_a_boundary = st.builds(
    lambda blocks, away: max(0, blocks * 131072 + away), st.integers(0, 4), st.integers(-40, 40)
)  # fmt: skip


@given(near_a_boundary, st.integers(0, 80), st.sampled_from(["<u4", "<u8"]))
@example(0, 300_000, "<u8")
@example(131_071, 2, "<u8")
@example(262_144, 1, "<u4")
@settings(max_examples=100, deadline=None)
def test_words_from_anywhere_are_those_of_aes_in_counter_mode(start, count, dtype):
    assert np.array_equal(drawn(keystream(), start, count, dtype), oracle_range(np.dtype(dtype), start, count))


@given(near_a_boundary, st.integers(0, 80), st.sampled_from(["<u4", "<u8"]), st.integers(0, 2**64 - 1))
@example(5, 700_000, "<u4", 3)
@settings(max_examples=60, deadline=None)
def test_adding_is_adding_the_words_and_subtracting_undoes_it(start, count, dtype, base):
    stream = keystream()
    before = np.full(count, base % 2 ** (8 * np.dtype(dtype).itemsize), dtype)
    total = before.copy()
    stream.add_into(total, start)
    assert np.array_equal(total, before + oracle_range(np.dtype(dtype), start, count))
    stream.subtract_from(total, start)
    assert np.array_equal(total, before)


def test_subtracting_is_not_adding():
    total = np.zeros(4, "<u8")
    keystream().subtract_from(total)
    assert np.array_equal(total, -oracle_range(np.dtype("<u8"), 0, 4))


def test_views_with_strides_are_filled():
    out = np.zeros(10, "<u4")
    keystream().words(7, out[::2])
    assert np.array_equal(out[::2], oracle_range(np.dtype("<u4"), 7, 5))
    assert not out[1::2].any()


@given(
    st.one_of(st.integers(0, 200), st.integers(262_000, 262_300), st.integers(524_000, 524_200)), st.integers(0, 120)
)
@settings(max_examples=40, deadline=None)
def test_elements_from_anywhere_take_the_same_replacements(start, count):
    out = np.zeros(count, "<u4")
    keystream().elements(CROWDED, start, out)
    expected = np.concatenate([crowded(0), crowded(1), crowded(2)])[start : start + count]
    assert np.array_equal(out, expected)


def test_the_modulus_itself_is_rejected():
    out = np.zeros(1000, "<u4")
    field = Field(32, 3)
    keystream().elements(field, 0, out)
    assert out.tolist() == oracle_elements(SEED, ("tertium/1 contribution",), field, 0)[:1000]
    assert set(out.tolist()) == {0, 1, 2}


def test_elements_of_both_fields_are_below_the_modulus_and_reach_the_top():
    for field, dtype in ((FIELD_32, "<u4"), (FIELD_64, "<u8")):
        out = np.zeros(300_000, dtype)
        keystream().elements(field, 0, out)
        assert int(out.max()) < field.modulus
        assert int(out.max()) > field.modulus * 0.9999
        assert abs(float(out.astype(np.float64).mean()) / field.modulus - 0.5) < 0.005


def test_a_field_that_rejects_too_much_is_refused():
    # Half of all words are rejected, so with this seed a block of replacements does not suffice for one of words.
    with pytest.raises(BadPlan):
        keystream().elements(Field(32, 2**31 + 1), 262_000, np.zeros(100, "<u4"))


def test_seed_label_and_context_each_give_another_stream():
    streams = [
        Keystream(SEED, Label.CONTRIBUTION),
        Keystream(bytes(32), Label.CONTRIBUTION),
        Keystream(SEED, Label.AGGREGATE),
        Keystream(SEED, Label.CONTRIBUTION, b""),
        Keystream(SEED, Label.CONTRIBUTION, b"ab"),
        Keystream(SEED, Label.CONTRIBUTION, b"a", b"b"),
    ]
    assert len({drawn(stream, 0, 8).tobytes() for stream in streams}) == len(streams)
    again = Keystream(bytearray(SEED), Label.CONTRIBUTION)
    assert np.array_equal(drawn(again, 0, 8), drawn(streams[0], 0, 8))


def test_the_callers_seed_is_left_alone():
    seed = bytearray(SEED)
    Keystream(seed, Label.CONTRIBUTION).erase()
    assert seed == SEED


def test_no_word_of_four_blocks_comes_twice():
    both = drawn(keystream(), 0, 4 * BLOCK_BYTES // 8, "<u8")
    assert np.unique(both).size == both.size


def test_a_scratch_serves_many_streams_in_turn():
    scratch = Scratch()
    first, second = keystream(scratch=scratch), Keystream(bytes(32), Label.CONTRIBUTION, scratch=scratch)
    a, b = drawn(first, 0, 5), drawn(second, 0, 5)
    assert np.array_equal(drawn(first, 0, 5), a)
    assert not np.array_equal(a, b)


def test_erasing_forgets_key_and_scratch():
    scratch = Scratch()
    stream = keystream(scratch=scratch)
    drawn(stream, 1000, 8)
    held = scratch.first(4 * 1008)
    assert held.any()
    stream.erase()
    assert not held.any()
    for use in (stream.words, lambda start, out: stream.elements(FIELD_32, start, out)):
        with pytest.raises(ErasedKeystream):
            use(0, np.zeros(1, "<u4"))
    for use in (stream.add_into, stream.subtract_from):
        with pytest.raises(ErasedKeystream):
            use(np.zeros(1, "<u4"))
    stream.erase()
    assert "erased" in repr(stream)


def test_a_repr_shows_the_purpose_and_no_secret():
    stream = keystream()
    words = drawn(stream, 0, 4)
    shown = repr(stream) + repr(Scratch())
    assert "contribution" in shown
    assert SEED.hex() not in shown
    assert words.tobytes().hex() not in shown
    assert repr(SEED) not in shown


def test_other_arrays_are_refused():
    stream = keystream()
    frozen = np.zeros(3, "<u4")
    frozen.flags.writeable = False
    for out in (np.zeros(3, "<i4"), np.zeros(3), np.zeros((3, 1), "<u4"), np.zeros(3, ">u4"), frozen):
        for use in (lambda a: stream.words(0, a), stream.add_into, stream.subtract_from):
            with pytest.raises(WrongArray):
                use(out)
    for start in (-1, -(2**40)):
        with pytest.raises(WrongArray):
            stream.words(start, np.zeros(3, "<u4"))
    with pytest.raises(WrongArray):
        stream.elements(FIELD_64, 0, np.zeros(3, "<u4"))
