"""The view matrix: one row a party or coalition, one column a data owner, and in each cell what is on record."""

from typing import Final

from ..protocol.ledger import DataClass
from .coalitions import Reach
from .facts import At, Facts, refs
from .knowledge import Knowledge
from .report import Access, Cell, How, Level, Row

MOST_CELLS: Final = 50_000
_READ = (How.MODE, How.OTHERS, How.SUMS)
_ORDER = tuple(Level)


def rows(facts: Facts, known: dict[str, Knowledge], reaches: list[Reach]) -> tuple[Row, ...]:
    """Return the rows of these groups; a row of one party lists every access of its own."""
    owners = [party.name for party in facts.charter.data_owners]
    out = []
    for reach in reaches:
        given = all(name in facts.given for name in reach.who)
        out.append(Row(reach.who, given, tuple(_cell(facts, known, reach, whose) for whose in owners)))
    return tuple(out)


def fit(facts: Facts, reaches: list[Reach], left_out: list[str]) -> list[Reach]:
    """Return as many groups as a matrix can have rows."""
    most = max(MOST_CELLS // max(1, len(facts.charter.data_owners)), 1)
    if len(reaches) > most:
        left_out.append(f"the matrix has {most} of {len(reaches)} rows; the findings are about all")
    return reaches[:most]


def _cell(facts: Facts, known: dict[str, Knowledge], reach: Reach, whose: str) -> Cell:
    access = _accesses(known[reach.who[0]], whose) if len(reach.who) == 1 else ()
    if whose in reach.who:
        return Cell(whose, Level.OWN, 0, "own", access)
    reading = reach.readable.get(whose)
    if reading is not None and reading.how in _READ:
        return Cell(whose, Level.PLAINTEXT, 0, _plain(reading.how), access, refs(reading.places))
    if whose in reach.left:
        left, learnt = reach.left[whose]
        return Cell(whose, Level.AGGREGATE, left, f"aggregate of {left}", access, refs(learnt.places))
    shares = {at.entry.part: at for name in reach.who for at in _shares(known[name], whose)}
    if shares:
        parts = sorted(part.index + 1 for part in shares if part is not None)
        text = f"share {', '.join(map(str, parts))} of {len(facts.seats.holders)}"
        return Cell(whose, Level.SHARE, 0, text, access, refs(shares.values()))
    sealed = [
        at
        for name in reach.who
        for key, places in known[name].access.items()
        if key.whose == whose and key.level is Level.CIPHERTEXT and key.data is not DataClass.MASK
        for at in places
    ]
    level = Level.CIPHERTEXT if sealed else Level.NONE
    return Cell(whose, level, 0, level.value, access, refs(sealed))


def _plain(how: How) -> str:
    return Level.PLAINTEXT.value if how is How.MODE else f"{Level.PLAINTEXT.value}, from sums"


def _shares(known: Knowledge, whose: str) -> list[At]:
    return [at for (name, _), shares in known.shares.items() if name == whose for at in shares.values()]


def _accesses(known: Knowledge, whose: str) -> tuple[Access, ...]:
    """Return all accesses of one party to one data owner, the most telling first."""
    found = [(key, places) for key, places in known.access.items() if key.whose == whose]
    found.sort(key=lambda pair: (-_ORDER.index(pair[0].level), pair[0].data.value, pair[0].part or 0, pair[0].count))
    return tuple(
        Access(key.data.value, key.level, key.part, key.of, key.count, refs(places), len(places))
        for key, places in found
    )
