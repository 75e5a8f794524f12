"""Arithmetic in the fields, beside Python's integers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tertium.crypto.errors import WrongShare
from tertium.crypto.field import BLOCK, Arithmetic, lagrange
from tertium.crypto.ring import FIELD_32, FIELD_64, Field

FIELDS = (FIELD_32, FIELD_64)


def edges(field: Field) -> list[int]:
    p = field.modulus
    return [0, 1, 2, 5, 7, 8, 9, 2**16, 2**31 - 1, p // 2, p // 2 + 1, p - 9, p - 2, p - 1]


def elements(field: Field) -> st.SearchStrategy[list[int]]:
    one = st.one_of(st.sampled_from(edges(field)), st.integers(0, field.modulus - 1))
    return st.lists(one, min_size=1, max_size=20)


@pytest.mark.parametrize("field", FIELDS, ids=["32", "64"])
@given(data=st.data())
def test_every_operation_is_that_of_the_integers(field: Field, data: Any) -> None:
    made, p = Arithmetic(field), field.modulus
    one = data.draw(elements(field))
    other = data.draw(st.lists(st.sampled_from([*edges(field), 3]), min_size=len(one), max_size=len(one)))
    factor = data.draw(st.one_of(st.integers(-9, 9), st.sampled_from(edges(field)), st.integers(-p, p)))
    a, b = np.array(one, np.uint64), np.array(other, np.uint64)
    out = np.empty_like(a)
    made.add(a, b, out)
    assert out.tolist() == [(x + y) % p for x, y in zip(one, other, strict=True)]
    made.subtract(a, b, out)
    assert out.tolist() == [(x - y) % p for x, y in zip(one, other, strict=True)]
    out = a.copy()
    made.scale(out, factor)
    assert out.tolist() == [x * factor % p for x in one]
    if field is FIELD_64:
        out = a.copy()
        made.multiply(out, b)
        assert out.tolist() == [x * y % p for x, y in zip(one, other, strict=True)]
    total = np.array(one, f"<u{field.word_bits // 8}")
    made.accumulate(total, np.array(other, total.dtype))
    assert total.tolist() == [(x + y) % p for x, y in zip(one, other, strict=True)]


@pytest.mark.parametrize("field", FIELDS, ids=["32", "64"])
@given(data=st.data())
def test_signed_words_become_elements_and_come_back(field: Field, data: Any) -> None:
    made, p, bits = Arithmetic(field), field.modulus, field.word_bits
    largest = (p - 1) // 2
    signed = data.draw(st.lists(st.integers(-largest, largest), min_size=1, max_size=20))
    signed += [-largest, -1, 0, 1, largest]
    words = np.array([number % 2**bits for number in signed], f"<u{bits // 8}")
    found, back = np.empty(words.size, np.uint64), np.empty_like(words)
    made.from_words(words, found)
    assert found.tolist() == [number % p for number in signed]
    made.to_words(found, back)
    assert back.tolist() == words.tolist()


@pytest.mark.parametrize("field", FIELDS, ids=["32", "64"])
def test_any_word_becomes_an_element(field: Field) -> None:
    bits = field.word_bits
    words = np.array([0, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1, field.modulus], f"<u{bits // 8}")
    found = np.empty(words.size, np.uint64)
    Arithmetic(field).from_words(words, found)
    assert max(found.tolist()) < field.modulus


def test_long_vectors_are_added_block_by_block() -> None:
    for field in FIELDS:
        total = np.arange(3 * BLOCK + 5).astype(f"<u{field.word_bits // 8}")
        added = np.full_like(total, field.modulus - 3)
        Arithmetic(field).accumulate(total, added)
        assert total[:6].tolist() == [field.modulus - 3, field.modulus - 2, field.modulus - 1, 0, 1, 2]
        assert int(total[-1]) == 3 * BLOCK + 4 - 3


def test_what_is_no_element_is_refused() -> None:
    for field in FIELDS:
        dtype = f"<u{field.word_bits // 8}"
        Arithmetic(field).check(np.array([0, field.modulus - 1], dtype))
        Arithmetic(field).check(np.array([], dtype))
        with pytest.raises(WrongShare, match="not in the field"):
            Arithmetic(field).check(np.array([0, field.modulus], dtype))


def test_erasing_overwrites_the_working_memory() -> None:
    made = Arithmetic(FIELD_64)
    block = np.full(9, 12345, np.uint64)
    made.scale(block, 2**40)
    assert any(each.any() for each in made._work)
    made.erase()
    assert not any(each.any() for each in made._work)


@given(st.lists(st.integers(0, 2**61 - 2), min_size=1, max_size=5), st.integers(0, 12))
def test_lagrange_gives_the_value_elsewhere(coefficients: list[int], where: int) -> None:
    p = FIELD_64.modulus

    def at(x: int) -> int:
        return sum(c * x**i for i, c in enumerate(coefficients)) % p

    points = tuple(range(1, len(coefficients) + 1))
    weights = lagrange(points, where, p)
    assert sum(w * at(x) for w, x in zip(weights, points, strict=True)) % p == at(where)
