"""Fingerprints beside Python's integers: exact, additive, sensitive to any change, and hidden by masks that cancel."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto.errors import BadSeed
from tertium.crypto.fingerprint import (
    MODULUS,
    NEIGHBOURS,
    ROW,
    agree,
    challenge_of,
    fingerprint,
    mask,
    masked,
    neighbours,
)
from tertium.crypto.keystream import Keystream
from tertium.crypto.labels import Label
from tertium.crypto.ring import FIELD_64
from tertium.crypto.sharing.independence import chi_square_tail

CHALLENGE = bytes(range(32))
LARGEST = {4: 2**31 - 3, 8: 2**60 - 1}
"""(p - 1)/2 by bytes a word: no honest sum exceeds it."""


def vector(size: int, width: int, tag: int = 0) -> Any:
    """Pseudo-random signed words, honest for a sum of 8."""
    drawn = np.random.default_rng([size, width, tag]).integers(-LARGEST[width] // 8, LARGEST[width] // 8, size)
    return drawn.astype(f"<i{width}").view(f"<u{width}")


def coefficients(rows: int, challenge: bytes) -> tuple[list[int], list[int]]:
    inner, outer = np.empty(ROW, "<u8"), np.empty(max(rows, 1), "<u8")
    Keystream(challenge, Label.FINGERPRINT, b"inner").elements(FIELD_64, 0, inner)
    Keystream(challenge, Label.FINGERPRINT, b"outer").elements(FIELD_64, 0, outer)
    return inner.tolist(), outer.tolist()


def by_hand(words: Any, challenge: bytes) -> int:
    signed = words.view(f"<i{words.dtype.itemsize}").tolist()
    inner, outer = coefficients(-(-len(signed) // ROW), challenge)
    return sum(w * inner[i % ROW] * outer[i // ROW] for i, w in enumerate(signed)) % MODULUS


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 512 * 64 + 1, 70_000])
def test_it_is_the_linear_form_it_says(width: int, size: int) -> None:
    words = vector(size, width)
    assert fingerprint(words, CHALLENGE) == by_hand(words, CHALLENGE)


@pytest.mark.parametrize("width", [4, 8])
def test_it_is_exact_where_every_product_is_largest(width: int) -> None:
    for number in (LARGEST[width], -LARGEST[width], -(2 ** (8 * width - 1)) if width == 4 else -LARGEST[width]):
        words = np.full(3 * ROW, number, f"<i{width}").view(f"<u{width}")
        for challenge in (CHALLENGE, os.urandom(32)):
            assert fingerprint(words, challenge) == by_hand(words, challenge)


def test_a_vector_longer_than_a_block_of_the_keystream() -> None:
    size = (1024 * 1024 // 8 + 3) * ROW
    words = np.zeros(size, "<u4")
    words[-1], words[0] = 5, 3
    inner, outer = coefficients(size // ROW, CHALLENGE)
    assert fingerprint(words, CHALLENGE) == (3 * inner[0] * outer[0] + 5 * inner[-1] * outer[-1]) % MODULUS


@pytest.mark.parametrize("width", [4, 8])
def test_fingerprints_add_up_as_the_vectors_do(width: int) -> None:
    given_ = [vector(1000, width, tag) for tag in range(5)]
    total = np.zeros(1000, f"<u{width}")
    for each in given_:
        total += each
    assert sum(fingerprint(each, CHALLENGE) for each in given_) % MODULUS == fingerprint(total, CHALLENGE)


@pytest.mark.parametrize("width", [4, 8])
def test_any_change_of_one_word_is_seen(width: int) -> None:
    words, bits = vector(300, width), 8 * width
    changes = [1, -1, 2**31, -(2**31), 2**30, 3 * 2**29, *(2**shift for shift in range(0, bits - 4, 3))]
    for number, change in enumerate(changes * 8):
        challenge = number.to_bytes(32, "big")
        other = words.copy()
        at = (number * 37) % words.size
        other[at] = (int(other[at]) + change) % 2**bits
        assert fingerprint(other, challenge) != fingerprint(words, challenge)


def test_the_challenge_hangs_on_everything_that_is_fixed_and_on_every_nonce() -> None:
    made = {
        challenge_of(fixed, nonces)
        for fixed, nonces in (
            ([b"a", b"b"], [b"c"]),
            ([b"a"], [b"b", b"c"]),
            ([b"a", b"b"], [b"d"]),
            ([b"b", b"a"], [b"c"]),
            ([b"ab"], [b"c"]),
            ([], [b"a", b"b", b"c"]),
        )
    }
    assert len(made) == 6


@given(st.integers(1, 70), st.integers(0, MODULUS - 1))
@settings(max_examples=30)
def test_masks_cancel_in_the_sum_and_nowhere_else(count: int, value: int) -> None:
    names = [f"n{number:03}" for number in range(count)]
    seeds = {(one, other): os.urandom(32) for one in names for other in neighbours(names, one) if one < other}
    values = {name: value * (number + 1) % MODULUS for number, name in enumerate(names)}
    answers = {
        name: masked(
            values[name],
            [seed for (one, _), seed in seeds.items() if one == name],
            [seed for (_, other), seed in seeds.items() if other == name],
            CHALLENGE,
        )
        for name in names
    }
    total = sum(values.values()) % MODULUS
    assert agree(answers.values(), total)
    assert not agree(answers.values(), (total + 1) % MODULUS)
    if count > 1:
        assert not agree(list(answers.values())[1:], (total - values[names[0]]) % MODULUS)


@pytest.mark.parametrize("count", [1, 2, 3, NEIGHBOURS, NEIGHBOURS + 1, NEIGHBOURS + 2, 100, 101])
def test_neighbours_are_mutual_and_few(count: int) -> None:
    names = [f"n{number:03}" for number in range(count)]
    found = {name: neighbours(names, name) for name in names}
    for name, others in found.items():
        assert len(others) == len(set(others)) == min(count - 1, NEIGHBOURS)
        assert name not in others
        assert all(name in found[other] for other in others)
        assert list(others) == sorted(others)


def test_what_a_verifier_sees_of_one_contributor_is_uniform() -> None:
    """The answer for one vector, whose fingerprint is known, over fresh seeds: each of its bytes but the top bits."""
    value, samples = fingerprint(vector(100, 4), CHALLENGE), 20_000
    seen = np.array([masked(value, [os.urandom(32)], [], CHALLENGE) for _ in range(samples)], np.uint64)
    for shift in range(0, 56, 8):
        counts = np.bincount(((seen >> np.uint64(shift)) & np.uint64(255)).astype(np.int64), minlength=256)
        expected = samples / 256
        statistic = float(((counts - expected) ** 2 / expected).sum())
        # Below 1e-9 for each of seven bytes: a sound mask fails this once in a hundred million runs.
        assert chi_square_tail(statistic, 255) > 1e-9
    assert mask(bytes(32), CHALLENGE) != mask(bytes(32), bytes(32))


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(BadSeed):
        mask(bytes(31), CHALLENGE)
