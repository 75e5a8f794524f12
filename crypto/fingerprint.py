"""Fingerprints of vectors: 61 bits that add up as the vectors do, for a challenge unknown when these were fixed.

A fingerprint is a random linear form over the integers that words stand for, modulo P = 2^61 - 1. Element `64 u + a` of
a vector has the coefficient alpha[a] * beta[u], all of them uniform elements drawn from the challenge. Two vectors with
honest words (at most (P - 1)/2 either way, as `ring.Plan` keeps all sums, and `ring.decode` refuses others) that differ
anywhere have the same fingerprint for at most 2 of P challenges (Schwartz and Zippel: first some row's form in alpha
must be 0, then the form in beta).

Rules of this file:
- Coefficients of two levels, because 64 terms at a time are a matrix product: words of at most 31 bits times parts of
  16 bits, 64 of them added, stay below 2^53, so float64 and the machine's BLAS give the exact integers, in any order.
- What one contributor's fingerprint says of its vector is hidden by a mask for each neighbour: the two draw it from one
  seed, one adds it and the other takes it off, so in the sum over all contributors nothing is left of them. Somebody
  who does not know all of a contributor's masks sees a uniform element.
- One seed serves any number of challenges: a mask is drawn for the challenge.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .field import BLOCK, Arithmetic, Wide
from .keystream import BLOCK_BYTES, Keystream
from .labels import Buffer, Label, digest
from .ring import FIELD_64, Words

MODULUS = FIELD_64.modulus
ROW = 64
"""Elements that share a coefficient of the outer level."""
NEIGHBOURS = 32
"""The most parties one contributor shares masks with: the next 16 either way, in a circle."""
_PARTS = 4
_PART_BITS = 16
_TABLE = 512
"""Rows that are multiplied at once: 256 KiB of float64, which stay in the cache."""
_LOW_31 = np.uint64(2**31 - 1)
_LOW_32 = np.uint64(2**32 - 1)
Matrix = npt.NDArray[np.float64]
Numbers = npt.NDArray[Any]
"""A flat array of integers."""


def challenge_of(fixed: Sequence[Buffer], nonces: Sequence[Buffer]) -> bytes:
    """Return the 32-byte challenge that follows from what is fixed and from a nonce of every contributor."""
    return digest(Label.CHALLENGE, digest(Label.CHALLENGE, *fixed), digest(Label.CHALLENGE, *nonces))


def fingerprint(words: Words, challenge: bytes) -> int:
    """Return the fingerprint of a vector, '<u4' or '<u8', for a challenge: an element of the field modulo 2^61 - 1.

    One pass; the working memory is a few blocks.
    """
    field = Arithmetic(FIELD_64)
    inner = _inner(challenge)
    outer = Keystream(challenge, Label.FINGERPRINT, b"outer")
    rows = -(-words.size // ROW)
    # Whole blocks of the keystream are drawn, which are made whole in any case; each is of many blocks of rows.
    step = BLOCK_BYTES // 8
    drawn = np.empty(min(rows, step), np.dtype("<u8"))
    total = 0
    try:
        for first in range(0, rows, step):
            count = min(step, rows - first)
            outer.elements(FIELD_64, first, drawn[:count])
            for row in range(0, count, BLOCK):
                size = min(BLOCK, count - row)
                start = (first + row) * ROW
                sums = _rows(field, words[start : start + size * ROW], inner, size)
                field.multiply(sums, drawn[row : row + size])
                total += int((sums & _LOW_32).sum()) + (int((sums >> np.uint64(32)).sum()) << 32)
    finally:
        outer.erase()
        field.erase()
    return total % MODULUS


def mask(seed: bytes, challenge: bytes) -> int:
    """Return the mask that two neighbours with a common seed share for a challenge; raises BadSeed."""
    stream, out = Keystream(seed, Label.FINGERPRINT_MASK, challenge), np.empty(1, np.dtype("<u8"))
    stream.elements(FIELD_64, 0, out)
    stream.erase()
    return int(out[0])


def masked(value: int, added: Iterable[bytes], taken: Iterable[bytes], challenge: bytes) -> int:
    """Return a fingerprint under the masks of these seeds: of later neighbours added, of earlier ones taken off."""
    hidden = value + sum(mask(seed, challenge) for seed in added) - sum(mask(seed, challenge) for seed in taken)
    return hidden % MODULUS


def agree(answers: Iterable[int], released: int) -> bool:
    """Whether the masked fingerprints of all contributors add up to that of the released sum."""
    return sum(answers) % MODULUS == released


def neighbours(contributors: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the contributors with whom one shares masks, sorted; `contributors` is sorted too.

    All others where they are few; else the next ones either way in a circle, so that the graph stays connected
    whichever they are and no contributor has more than `NEIGHBOURS` seeds to send.
    """
    others = len(contributors) - 1
    if others <= NEIGHBOURS:
        return tuple(each for each in contributors if each != name)
    at = contributors.index(name)
    steps = [step for step in range(-NEIGHBOURS // 2, NEIGHBOURS // 2 + 1) if step]
    return tuple(sorted(contributors[(at + step) % len(contributors)] for step in steps))


def _inner(challenge: bytes) -> Matrix:
    """Return the inner coefficients in parts of 16 bits, 64 by 4."""
    stream, alpha = Keystream(challenge, Label.FINGERPRINT, b"inner"), np.empty(ROW, np.dtype("<u8"))
    stream.elements(FIELD_64, 0, alpha)
    stream.erase()
    low = np.uint64(2**_PART_BITS - 1)
    return np.stack([(alpha >> np.uint64(_PART_BITS * part)) & low for part in range(_PARTS)], axis=1).astype(
        np.float64
    )


def _rows(field: Arithmetic, words: Words, inner: Matrix, rows: int) -> Wide:
    """Return the inner form of each row of 64 words, as field elements; the last row may be short."""
    if words.dtype.itemsize == 4:
        return _combined(field, _products(words.view(np.dtype("<i4")), inner, rows))
    high, low = np.empty(words.size, np.uint64), np.empty(words.size, np.uint64)
    for start in range(0, words.size, BLOCK):
        above, below = high[start : start + BLOCK], low[start : start + BLOCK]
        field.from_words(words[start : start + BLOCK], above)
        np.bitwise_and(above, _LOW_31, out=below)
        np.right_shift(above, np.uint64(31), out=above)
    try:
        sums = _combined(field, _products(high, inner, rows))
        field.scale(sums, 2**31)
        field.add(sums, _combined(field, _products(low, inner, rows)), sums)
        return sums
    finally:
        high.fill(0)
        low.fill(0)


def _products(numbers: Numbers, inner: Matrix, rows: int) -> Numbers:
    """Return the exact products of rows of numbers of 31 bits with each part of the coefficients: 4 by rows."""
    found = np.empty((_PARTS, rows), np.int64)
    table, product = np.empty((_TABLE, ROW)), np.empty((_TABLE, _PARTS))
    for row in range(0, rows, _TABLE):
        size = min(_TABLE, rows - row)
        given = numbers[row * ROW : (row + size) * ROW]
        flat = table[:size].reshape(-1)
        np.copyto(flat[: given.size], given)
        flat[given.size :] = 0
        np.matmul(table[:size], inner, out=product[:size])
        np.copyto(found[:, row : row + size], product[:size].T, casting="unsafe")
    table.fill(0)
    return found


def _combined(field: Arithmetic, parts: Numbers) -> Wide:
    """Return the elements whose parts, of which each counts 2^16 times the one before, are given."""
    found = np.zeros(parts.shape[1], np.uint64)
    for part in parts[::-1]:
        field.scale(found, 2**_PART_BITS)
        # Negative ones wrap at 2^64, and come back with the modulus added.
        field.add(found, np.add(part, (part < 0) * np.int64(MODULUS)).view(np.uint64), found)
    return found
