"""The scheme `shamir`: points of a polynomial of degree t - 1 whose value at 0 is the secret; any t of m make the sum.

Shamir's threshold sharing (1979) over the prime field of the plan's words, every coordinate on its own polynomial;
holder i has the value at i + 1. Polynomials add up point by point, so totals of shares are shares of the total.

A polynomial through (0, secret) and t - 1 uniform values at other holders' points is a uniform one, so t - 1 holders
get their share as the seed of those values, and the rest get vectors: an upload is m - t + 1 vectors. Who gets a seed
goes round with the turn.

With one total more than t a lie about a total is noticed, with two more the one that lied alone is named
(Reed and Solomon's code, with one error, decoded by trying).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InconsistentTotals
from ..field import BLOCK, Arithmetic, Wide, lagrange
from ..keystream import BLOCK_BYTES, Scratch
from ..ring import Plan, Words, check_words
from .base import Domain, Kind, Scheme, Seed, Share
from .halves import check_totals, room, wrong_form


def _point(holder: int) -> int:
    return holder + 1


class _Dealer:
    def __init__(self, scheme: Scheme, plan: Plan, length: int) -> None:
        self._scheme, self._plan, self._length = scheme, plan, length

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        memory = [room(secret, self._plan, self._length, out)]
        forms = [self._scheme.form(index, turn) for index in range(self._scheme.holders)]
        shares: dict[int, Seed | Words] = {}
        for index, form in enumerate(forms):
            if form == (Kind.SEED,):
                shares[index] = Seed.fresh()
            else:
                shares[index] = memory.pop() if memory else np.empty(self._length, self._plan.dtype)
        self._fill(secret, shares)
        return tuple(shares[index] for index in range(self._scheme.holders))

    def _fill(self, secret: Words, shares: Mapping[int, Seed | Words]) -> None:
        """Write the vectors among the shares: interpolate through the secret and the seeds' values, after Newton."""
        field, scratch = Arithmetic(self._plan.field), Scratch()
        seeds = {index: share for index, share in shares.items() if isinstance(share, Seed)}
        vectors = {_point(index): share for index, share in shares.items() if not isinstance(share, Seed)}
        points = [0, *map(_point, seeds)]
        streams = [seed.keystream(scratch) for seed in seeds.values()]
        step = BLOCK_BYTES // secret.dtype.itemsize
        # A keystream's block is drawn whole: a part of it would cost what comes before it as well.
        drawn = [np.empty(min(step, secret.size), secret.dtype) for _ in streams]
        work = [field.block() for _ in points]
        value = field.block()
        try:
            for outer in range(0, secret.size, step):
                size = min(step, secret.size - outer)
                for stream, values in zip(streams, drawn, strict=True):
                    stream.elements(self._plan.field, outer, values[:size])
                for inner in range(0, size, BLOCK):
                    count, start = min(BLOCK, size - inner), outer + inner
                    known = [each[:count] for each in work]
                    field.from_words(secret[start : start + count], known[0])
                    for values, block in zip(drawn, known[1:], strict=True):
                        np.copyto(block, values[inner : inner + count])
                    _divided_differences(field, points, known)
                    for point, share in vectors.items():
                        _evaluate(field, points, known, point, value[:count])
                        np.copyto(share[start : start + count], value[:count], casting="unsafe")
        finally:
            for stream in streams:
                stream.erase()
            for each in (*drawn, *work, value):
                each.fill(0)
            field.erase()


def _divided_differences(field: Arithmetic, points: list[int], values: list[Wide]) -> None:
    """Turn values at points into the coefficients of Newton's form, in place."""
    for level in range(1, len(points)):
        for j in range(len(points) - 1, level - 1, -1):
            field.subtract(values[j], values[j - 1], values[j])
            field.scale(values[j], field.inverse(points[j] - points[j - level]))


def _evaluate(field: Arithmetic, points: list[int], coefficients: list[Wide], at: int, out: Wide) -> None:
    np.copyto(out, coefficients[-1])
    for point, coefficient in zip(points[-2::-1], coefficients[-2::-1], strict=True):
        field.scale(out, at - point)
        field.add(out, coefficient, out)


class _Holder:
    def __init__(self, scheme: Scheme, plan: Plan, length: int) -> None:
        self._scheme, self._plan, self._length = scheme, plan, length
        self._field, self._scratch = Arithmetic(plan.field), Scratch()

    def zero(self) -> Words:
        return np.zeros(self._length, self._plan.dtype)

    def accumulate(self, total: Words, share: Share) -> None:
        if isinstance(share, tuple):
            raise wrong_form(((Kind.SEED,), (Kind.VECTOR,)), share)
        check_words(total, self._plan, self._length, writable=True)
        if isinstance(share, Seed):
            self._expand(total, share)
        else:
            check_words(share, self._plan, self._length)
            self._field.check(share)
            self._field.accumulate(total, share)
        self._field.erase()

    def merge(self, total: Words, other: Words) -> None:
        check_words(total, self._plan, self._length, writable=True)
        check_words(other, self._plan, self._length)
        self._field.check(other)
        self._field.accumulate(total, other)

    def _expand(self, total: Words, seed: Seed) -> None:
        step = BLOCK_BYTES // total.dtype.itemsize
        values, stream = np.empty(min(step, total.size), total.dtype), seed.keystream(self._scratch)
        try:
            for start in range(0, total.size, step):
                part = total[start : start + step]
                stream.elements(self._plan.field, start, values[: part.size])
                self._field.accumulate(part, values[: part.size])
        finally:
            stream.erase()
            values.fill(0)


@dataclass(frozen=True)
class _Combiner:
    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        check_totals(self.scheme, self.plan, self.length, partials)
        field, enough = Arithmetic(self.plan.field), self.scheme.threshold
        for total in partials.values():
            field.check(total)
        given = tuple(sorted(partials))
        if not self._agree(field, partials, given):
            raise InconsistentTotals(self._blame(field, partials, given))
        weights = lagrange(tuple(map(_point, given[:enough])), 0, field.modulus)
        combined = np.empty(self.length, self.plan.dtype)
        for start in range(0, self.length, BLOCK):
            part = combined[start : start + BLOCK]
            field.to_words(_weighted(field, partials, given[:enough], weights, start, part.size), part)
        return combined

    def _agree(self, field: Arithmetic, partials: Mapping[int, Words], given: tuple[int, ...]) -> bool:
        """Whether these totals are points of polynomials of the right degree."""
        first, rest = given[: self.scheme.threshold], given[self.scheme.threshold :]
        for index in rest:
            weights = lagrange(tuple(map(_point, first)), _point(index), field.modulus)
            for start in range(0, self.length, BLOCK):
                other = partials[index][start : start + BLOCK]
                if not np.array_equal(_weighted(field, partials, first, weights, start, other.size), other):
                    return False
        return True

    def _blame(self, field: Arithmetic, partials: Mapping[int, Words], given: tuple[int, ...]) -> str:
        alone = [
            index
            for index, others in zip(reversed(given), itertools.combinations(given, len(given) - 1), strict=True)
            if len(others) > self.scheme.threshold and self._agree(field, partials, others)
        ]
        if len(alone) == 1:
            return f"holder {alone[0]} gives a total that contradicts all others"
        return f"the totals of holders {', '.join(map(str, given))} contradict each other"


def _weighted(
    field: Arithmetic,
    partials: Mapping[int, Words],
    holders: tuple[int, ...],
    weights: tuple[int, ...],
    start: int,
    size: int,
) -> Wide:
    """Return the sum of these holders' totals, each times its weight, of one block."""
    found, block = np.zeros(size, np.uint64), np.empty(size, np.uint64)
    for index, weight in zip(holders, weights, strict=True):
        np.copyto(block, partials[index][start : start + size])
        field.scale(block, weight)
        field.add(found, block, found)
    return found


class Shamir(Scheme):
    """Each secure worker holds a point of a polynomial of degree t - 1; any t make the sum, or read an update."""

    name = "shamir"
    version = 1
    domain = Domain.FIELD
    fewest = 3
    most = 8
    modules = ("tertium.crypto.field",)
    survives = (
        "data owners leaving, down to the minimum cohort; of m holders, m - q before all q have signed who contributed "
        "and m - t after it, where 2q > m + t - 1"
    )

    @classmethod
    def thresholds(cls, holders: int) -> range:
        """From two, as one holder would read everything alone, to one less than all: with all, use `additive`."""
        return range(2, holders)

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return a seed for t - 1 holders, in turn, and a vector for the others."""
        return (Kind.SEED,) if (holder - turn) % self.holders < self.threshold - 1 else (Kind.VECTOR,)

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(self, plan, length)

    def holder(self, plan: Plan, length: int, index: int) -> _Holder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""
        self.check_index(index)
        return _Holder(self, plan, length)

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(self, plan, length)
