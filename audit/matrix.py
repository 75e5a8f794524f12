"""The view matrix: one row a party or coalition, one column a data owner, and in each cell what is on record."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..protocol.ledger import DataClass
from .coalitions import Reach
from .facts import MOST_REFS, At, Facts, refs
from .knowledge import Knowledge
from .report import Access, Cell, How, Level, Row

MOST_CELLS: Final = 50_000
_READ = (How.MODE, How.OTHERS, How.SUMS)
_ORDER = tuple(Level)


def rows(facts: Facts, known: dict[str, Knowledge], reaches: list[Reach]) -> tuple[Row, ...]:
    """Return the rows of these groups; a row of one party lists every access of its own."""
    owners = [party.name for party in facts.charter.data_owners]
    held = _held(known)
    out = []
    for reach in reaches:
        given = all(name in facts.given for name in reach.who)
        out.append(Row(reach.who, given, tuple(_cell(facts, known, held, reach, whose) for whose in owners)))
    return tuple(out)


def fit(facts: Facts, reaches: list[Reach], left_out: list[str]) -> list[Reach]:
    """Return as many groups as a matrix can have rows."""
    most = max(MOST_CELLS // max(1, len(facts.charter.data_owners)), 1)
    if len(reaches) > most:
        left_out.append(f"the matrix has {most} of {len(reaches)} rows; the findings are about all")
    return reaches[:most]


def _cell(
    facts: Facts, known: dict[str, Knowledge], held: Mapping[tuple[str, str], "_Held"], reach: Reach, whose: str
) -> Cell:
    access = _accesses(known[reach.who[0]], whose) if len(reach.who) == 1 else ()
    have = [held[name, whose] for name in reach.who]
    if whose in reach.who:
        return Cell(whose, Level.OWN, 0, "own", access)
    reading = reach.readable.get(whose)
    if reading is not None and reading.how in _READ:
        return Cell(whose, Level.PLAINTEXT, 0, _plain(reading.how), access, refs(reading.places))
    if whose in reach.left:
        left, learnt = reach.left[whose]
        return Cell(whose, Level.AGGREGATE, left, f"aggregate of {left}", access, refs(learnt.places))
    shares = {part: at for each in have for part, at in each.shares.items()}
    if shares:
        text = f"share {', '.join(str(part + 1) for part in sorted(shares))} of {len(facts.seats.holders)}"
        return Cell(whose, Level.SHARE, 0, text, access, refs(shares.values()))
    sealed = [at for each in have for at in each.sealed]
    level = Level.CIPHERTEXT if sealed else Level.NONE
    return Cell(whose, level, 0, level.value, access, refs(sealed))


def _plain(how: How) -> str:
    return Level.PLAINTEXT.value if how is How.MODE else f"{Level.PLAINTEXT.value}, from sums"


@dataclass
class _Held:
    """What one party has of one data owner that stands in a cell of each group it is in: found once."""

    shares: dict[int, At] = field(default_factory=dict)
    """By the scheme's number: an entry of each share."""
    sealed: list[At] = field(default_factory=list)


def _held(known: dict[str, Knowledge]) -> dict[tuple[str, str], _Held]:
    """Return it by party and data owner."""
    held: dict[tuple[str, str], _Held] = defaultdict(_Held)
    for name, each in known.items():
        for (whose, _), shares in each.shares.items():
            held[name, whose].shares |= shares
        for whose, access in each.access.items():
            for key, places in access.items():
                if key.level is Level.CIPHERTEXT and key.data is not DataClass.MASK:
                    sealed = held[name, whose].sealed
                    sealed += places[: MOST_REFS - len(sealed)]
    return held


def _accesses(known: Knowledge, whose: str) -> tuple[Access, ...]:
    """Return all accesses of one party to one data owner, the most telling first."""
    found = list(known.access.get(whose, {}).items())
    found.sort(key=lambda pair: (-_ORDER.index(pair[0].level), pair[0].data.value, pair[0].part or 0, pair[0].count))
    return tuple(
        Access(key.data.value, key.level, key.part, key.of, key.count, refs(places), len(places))
        for key, places in found
    )
