"""Arithmetic in the prime field of a word size, vectorised in numpy and blocked for the cache.

The primes are 2^32 - 5 for words of 32 bits and 2^61 - 1 for words of 64 (`ring.Field`). Rules of this file:
- A field element lies in a word and is below the prime. What comes from another party is held to that by `check`.
- Work is done in arrays of 64 bits of at most `BLOCK` elements, which stay in a core's second-level cache.
- No division and no numbers of more than 64 bits: 2^32 is 5 and 2^61 is 1 there, so high bits are folded onto low ones.
- A word stands for the signed integer of least magnitude; honest ones, and their sums, are at most (p - 1)/2 either
  way (`ring.Plan`), so ring and field hold the same integers.
"""

import numpy as np
import numpy.typing as npt

from .errors import WrongShare
from .ring import Field, Words

Wide = npt.NDArray[np.uint64]
"""A flat array of field elements, in 64 bits whatever the field."""

BLOCK = 16 * 1024
"""Elements a block: 128 KiB, of which a computation has a handful."""
_LOW_32 = np.uint64(2**32 - 1)
_LOW_31 = np.uint64(2**31 - 1)
_LOW_30 = np.uint64(2**30 - 1)
_LOW_61 = np.uint64(2**61 - 1)
_SMALL = 8
"""An element below 2^61 times a number up to this is below 2^64."""


class Arithmetic:
    """A field, with the working memory for blocks of it; not for use by two threads at once."""

    def __init__(self, field: Field) -> None:
        self.modulus = field.modulus
        self._bits = field.word_bits
        self._prime = np.uint64(self.modulus)
        self._work = tuple(np.empty(BLOCK, np.uint64) for _ in range(4))

    def inverse(self, number: int) -> int:
        """Return the inverse of a number that is no multiple of the prime."""
        return pow(number, -1, self.modulus)

    def block(self) -> Wide:
        """Return new memory for a block."""
        return np.empty(BLOCK, np.uint64)

    def from_words(self, words: Words, out: Wide) -> None:
        """Write the elements that signed words stand for to `out`, of the same size."""
        np.copyto(out, words)
        sign, high = self._work[0][: out.size], np.uint64(self._bits - 1)
        np.right_shift(out, high, out=sign)
        # A negative word w stands for w - 2^bits, which is w + (p - 2^bits) here; numbers wrap at 2^64.
        np.multiply(sign, np.uint64((self.modulus - 2**self._bits) % 2**64), out=sign)
        np.add(out, sign, out=out)
        if self._bits == 64:
            self._fold(out)
        self.reduce(out)

    def to_words(self, elements: Wide, out: Words) -> None:
        """Write the signed words that elements stand for to `out`; `elements` is used up."""
        negative = self._work[0][: elements.size]
        np.greater(elements, np.uint64((self.modulus - 1) // 2), out=negative, casting="unsafe")
        np.multiply(negative, self._prime, out=negative)
        np.subtract(elements, negative, out=elements)
        np.copyto(out, elements, casting="unsafe")

    def reduce(self, out: Wide) -> None:
        """Bring numbers below twice the prime below the prime."""
        less = self._work[0][: out.size]
        np.subtract(out, self._prime, out=less)
        # Where there was nothing to take off, the difference wrapped and is the larger.
        np.minimum(out, less, out=out)

    def add(self, one: Wide, other: Wide, out: Wide) -> None:
        """Write the sum of two blocks to `out`, which may be one of them."""
        np.add(one, other, out=out)
        self.reduce(out)

    def subtract(self, one: Wide, other: Wide, out: Wide) -> None:
        """Write `one` less `other` to `out`, which may be one of them."""
        lack = self._work[1][: out.size]
        np.subtract(self._prime, other, out=lack)
        np.add(one, lack, out=out)
        self.reduce(out)

    def scale(self, block: Wide, factor: int) -> None:
        """Multiply a block by a number, which may be negative, in place."""
        negative, size = factor < 0, abs(factor) % self.modulus
        if self._bits == 32:
            np.multiply(block, np.uint64(size), out=block)
            self._fold(block)
            self._fold(block)
            self.reduce(block)
        elif size <= _SMALL:
            np.multiply(block, np.uint64(size), out=block)
            self._fold(block)
            self.reduce(block)
        else:
            self._scale_by_large(block, size)
        if negative:
            np.subtract(self._prime, block, out=block)
            self.reduce(block)

    def multiply(self, block: Wide, other: Wide) -> None:
        """Multiply a block by another, element by element, in place; in the field modulo 2^61 - 1 alone."""
        above, below = other >> np.uint64(31), other & _LOW_31
        self._times_halves(block, above, below)

    def check(self, words: Words) -> None:
        """Raise WrongShare unless all words are elements of the field."""
        if words.size and int(words.max()) >= self.modulus:
            raise WrongShare(f"a share has a number that is not in the field modulo {self.modulus}")

    def accumulate(self, total: Words, words: Words) -> None:
        """Add elements, which `check` has passed, to a total in place."""
        for start in range(0, total.size, BLOCK):
            sums, added = total[start : start + BLOCK], words[start : start + BLOCK]
            block, other = self._work[2][: sums.size], self._work[3][: sums.size]
            np.copyto(block, sums)
            np.copyto(other, added)
            self.add(block, other, block)
            np.copyto(sums, block, casting="unsafe")

    def erase(self) -> None:
        """Overwrite the working memory."""
        for each in self._work:
            each.fill(0)

    def _fold(self, block: Wide) -> None:
        """Bring high bits down: of numbers below 2^64 what is left is congruent, and below 6 * 2^32 or 2^61 + 8."""
        high = self._work[0][: block.size]
        if self._bits == 32:
            np.right_shift(block, np.uint64(32), out=high)
            np.bitwise_and(block, _LOW_32, out=block)
            np.multiply(high, np.uint64(5), out=high)
        else:
            np.right_shift(block, np.uint64(61), out=high)
            np.bitwise_and(block, _LOW_61, out=block)
        np.add(block, high, out=block)

    def _scale_by_large(self, block: Wide, factor: int) -> None:
        self._times_halves(block, np.uint64(factor >> 31), np.uint64(factor & (2**31 - 1)))

    def _times_halves(self, block: Wide, above: Wide | np.uint64, below: Wide | np.uint64) -> None:
        """Multiply modulo 2^61 - 1 in halves: (a 2^31 + b)(c 2^31 + d) = 2 ac + (ad + bc) 2^31 + bd, as 2^62 is 2."""
        high, low, middle = (each[: block.size] for each in self._work[1:])
        np.right_shift(block, np.uint64(31), out=high)
        np.bitwise_and(block, _LOW_31, out=low)
        np.multiply(high, below, out=middle)
        np.multiply(low, above, out=block)
        np.add(middle, block, out=middle)
        np.multiply(high, above, out=high)
        np.multiply(low, below, out=block)
        # ac < 2^60, bd < 2^62 and ad + bc < 2^62: together, once the middle is folded, below 2^63 + 2^33.
        np.add(high, high, out=high)
        np.add(block, high, out=block)
        np.right_shift(middle, np.uint64(30), out=high)
        np.bitwise_and(middle, _LOW_30, out=middle)
        np.left_shift(middle, np.uint64(31), out=middle)
        np.add(block, high, out=block)
        np.add(block, middle, out=block)
        self._fold(block)
        self.reduce(block)


def lagrange(points: tuple[int, ...], at: int, modulus: int) -> tuple[int, ...]:
    """Return what to multiply the values at these distinct points by, to get by addition the value at another."""
    found = []
    for i, point in enumerate(points):
        above = below = 1
        for j, other in enumerate(points):
            if j != i:
                above, below = above * (at - other) % modulus, below * (point - other) % modulus
        found.append(above * pow(below, -1, modulus) % modulus)
    return tuple(found)
