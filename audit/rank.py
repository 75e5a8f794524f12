"""The rank test: which single updates follow from sums that somebody knows.

A sum over contributors is a linear form with coefficients 0 and 1, a row of a matrix. One update follows from the sums
exactly if its unit vector lies in the span of the rows; elimination over the rationals decides that without rounding.
"""

from collections.abc import Collection, Iterable
from fractions import Fraction

Form = frozenset[str]
"""Whose updates a sum is over."""
_Row = dict[str, Fraction]


def computable(forms: Iterable[Form], known: Collection[str] = ()) -> frozenset[str]:
    """Return whose update follows from these sums, for somebody who knows those of `known` already.

    Reduced row echelon form: a unit vector is in the span exactly if it is a row of it.
    """
    rows: dict[str, _Row] = {}
    left = {form - frozenset(known) for form in forms}
    whole = len(frozenset().union(*left))
    for form in left:
        if len(rows) == whole:
            break  # no further sum can add anything
        row = {name: Fraction(1) for name in form}
        for pivot, other in rows.items():
            if pivot in row:
                _subtract(row, other, row[pivot])
        if not row:
            continue
        pivot = min(row)
        scale = row[pivot]
        row = {name: value / scale for name, value in row.items()}
        for other in rows.values():
            if pivot in other:
                _subtract(other, row, other[pivot])
        rows[pivot] = row
    return frozenset(pivot for pivot, row in rows.items() if len(row) == 1)


def _subtract(row: _Row, other: _Row, times: Fraction) -> None:
    for name, value in list(other.items()):
        left = row.get(name, Fraction(0)) - times * value
        if left:
            row[name] = left
        else:
            row.pop(name, None)
