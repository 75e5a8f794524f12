"""The rank test: which single updates follow from sums that somebody knows.

A sum over contributors is a linear form with coefficients 0 and 1, a row of a matrix. One update follows from the sums
exactly if its unit vector lies in the span of the rows, that is if the rank falls when its column is taken away.

Ranks are taken over the rationals, and worked out modulo primes: a rank modulo a prime is never above the true one,
and below it only where the prime divides every minor that shows it. A minor of n columns of zeros and ones is at most
(n+1)^((n+1)/2) / 2^n (Hadamard), so of primes whose product is above that, one at least divides it not: the largest
rank over them is the true one. Nobody can choose sums for which it is not.
"""

import functools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Form = frozenset[str]
"""Whose updates a sum is over."""
_Matrix = npt.NDArray[np.int64]
_LARGEST: Final = 2**31 - 1
"""The first prime; two numbers below it multiply without leaving 64 bits."""


def computable(forms: Iterable[Form], known: Collection[str] = ()) -> frozenset[str]:
    """Return whose update follows from these sums, for somebody who knows those of `known` already."""
    away = frozenset(known)
    left = sorted({form - away for form in forms} - {frozenset()}, key=sorted)
    if len(left) < 2:
        return frozenset().union(*(form for form in left if len(form) == 1))
    columns = sorted(frozenset().union(*left))
    matrix = np.array([[name in form for name in columns] for form in left], dtype=np.int64)
    found = [_reduced(matrix, prime) for prime in primes_for(len(columns))]
    whole = max(rank for rank, _ in found)
    without = np.max([rank - units for rank, units in found], axis=0)
    return frozenset(name for name, rest in zip(columns, without, strict=True) if rest < whole)


def _reduced(matrix: _Matrix, prime: int) -> tuple[int, npt.NDArray[Any]]:
    """Return the rank modulo a prime, and of each column whether its unit vector is a row of the reduced form."""
    rows, rank, pivots = matrix.copy(), 0, []
    for column in range(rows.shape[1]):
        below = np.flatnonzero(rows[rank:, column])
        if not len(below):
            continue
        first = rank + int(below[0])
        rows[[rank, first]] = rows[[first, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, prime) % prime
        others = np.flatnonzero(rows[:, column])
        others = others[others != rank]
        rows[others] = (rows[others] - rows[others, column, None] * rows[rank]) % prime
        pivots.append(column)
        rank += 1
        if rank == len(rows):
            break
    units = np.zeros(rows.shape[1], dtype=np.int64)
    units[np.array(pivots)[np.count_nonzero(rows[:rank], axis=1) == 1]] = 1
    return rank, units


@functools.lru_cache(maxsize=64)
def primes_for(columns: int) -> tuple[int, ...]:
    """Return primes whose product is above every minor of so many columns of zeros and ones."""
    bits = (columns + 1) / 2 * math.log2(columns + 1) - columns
    found: list[int] = []
    candidate = _LARGEST
    while sum(math.log2(prime) for prime in found) <= bits + 1:
        if _is_prime(candidate):
            found.append(candidate)
        candidate -= 2
    return tuple(found)


def _is_prime(number: int) -> bool:
    """Miller and Rabin's test with bases that decide it below 4,759,123,141 (Jaeschke, 1993)."""
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    return all(_passes(number, odd >> twos, twos, base) for base in _BASES)


_BASES: Final[Sequence[int]] = (2, 7, 61)


def _passes(number: int, odd: int, twos: int, base: int) -> bool:
    value = pow(base, odd, number)
    if value in (1, number - 1):
        return True
    for _ in range(twos - 1):
        value = value * value % number
        if value == number - 1:
            return True
    return False
