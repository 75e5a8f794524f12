"""The rank test against brute force: every linear combination that could matter, tried."""

import itertools
from fractions import Fraction
from random import Random

from tertium.audit.rank import computable

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
