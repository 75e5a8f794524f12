"""The rank test against brute force: every linear combination that could matter, tried."""

import itertools
from fractions import Fraction
from random import Random

import pytest
from tertium.audit import rank as fast
from tertium.audit.rank import computable, primes_for

NAMES = "abcde"


def by_determinants(forms: list[frozenset[str]], known: frozenset[str]) -> set[str]:
    """Whose unit vector leaves the rank as it is, by ranks counted over all square minors."""
    rows = [[int(name in form - known) for name in NAMES] for form in forms]
    whole = rank(rows)
    return {name for name in NAMES if name not in known and rank([*rows, unit(name)]) == whole}


def unit(name: str) -> list[int]:
    return [int(other == name) for other in NAMES]


def rank(rows: list[list[int]]) -> int:
    """The size of the largest square minor that is not zero."""
    for size in range(min(len(rows), len(NAMES)), 0, -1):
        for some in itertools.combinations(rows, size):
            for columns in itertools.combinations(range(len(NAMES)), size):
                if determinant([[row[column] for column in columns] for row in some]) != 0:
                    return size
    return 0


def determinant(rows: list[list[int]]) -> Fraction:
    if not rows:
        return Fraction(1)
    first, *rest = rows
    return sum(
        (
            (-1) ** at * value * determinant([row[:at] + row[at + 1 :] for row in rest])
            for at, value in enumerate(first)
            if value
        ),
        Fraction(0),
    )


def test_what_follows_from_sums_is_what_brute_force_says() -> None:
    chance = Random(6)
    seen = 0
    for _ in range(40):
        forms = [
            frozenset(chance.sample(NAMES, chance.randrange(1, len(NAMES) + 1))) for _ in range(chance.randrange(1, 4))
        ]
        known = frozenset(chance.sample(NAMES, chance.randrange(0, 3)))
        found = by_determinants(forms, known)
        assert computable(forms, known) == found
        seen += len(found)
    assert seen > 10


def test_two_sums_that_differ_by_one_give_it_away_and_one_gives_nothing() -> None:
    whole, fewer = frozenset("abcd"), frozenset("abc")
    assert computable([whole]) == frozenset()
    assert computable([whole, fewer]) == {"d"}
    # Three sums over pairs of three give all: (ab + ac - bc) / 2 is a.
    assert computable([frozenset("ab"), frozenset("ac"), frozenset("bc")]) == frozenset("abc")
    assert computable([whole], "abc") == {"d"}
    assert computable([]) == frozenset()


def by_fractions(forms: list[frozenset[str]]) -> set[str]:
    """Reduced row echelon form over the rationals: whoever has a row to itself."""
    rows: dict[str, dict[str, Fraction]] = {}
    for form in forms:
        row = {name: Fraction(1) for name in form}
        for pivot, other in rows.items():
            row = subtracted(row, other, row.get(pivot, Fraction(0)))
        if row:
            pivot = min(row)
            row = {name: value / row[pivot] for name, value in row.items()}
            rows = {at: subtracted(other, row, other.get(pivot, Fraction(0))) for at, other in rows.items()}
            rows[pivot] = row
    return {pivot for pivot, row in rows.items() if len(row) == 1}


def subtracted(row: dict[str, Fraction], other: dict[str, Fraction], times: Fraction) -> dict[str, Fraction]:
    every = {name: row.get(name, Fraction(0)) - times * other.get(name, Fraction(0)) for name in row.keys() | other}
    return {name: value for name, value in every.items() if value}


def test_larger_ones_are_what_the_rationals_say() -> None:
    chance, names = Random(7), [f"p{number:02d}" for number in range(16)]
    seen: set[int] = set()
    for count in range(2, 18):
        forms = [frozenset(chance.sample(names, chance.randrange(2, 9))) for _ in range(count)]
        found = by_fractions(forms)
        assert computable(forms) == found
        seen.add(len(found))
    assert {0, len(names)} < seen


def test_the_primes_are_primes_and_more_than_any_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (2, 40, 200):
        primes = primes_for(columns)
        assert len(set(primes)) == len(primes)
        assert all(prime < 2**31 and all(prime % divisor for divisor in range(2, 46341)) for prime in primes)
        product = 1
        for prime in primes:
            product *= prime
        assert product**2 * 4**columns > (columns + 1) ** (columns + 1)
    # One that divides the minor, 2 here, hides the rank; of several whose product is above it, one shows it.
    pairs = [frozenset("ab"), frozenset("ac"), frozenset("bc")]
    monkeypatch.setattr(fast, "primes_for", lambda _: (2,))
    assert computable(pairs) == frozenset()
    monkeypatch.setattr(fast, "primes_for", lambda _: (2, 3))
    assert computable(pairs) == frozenset("abc")
