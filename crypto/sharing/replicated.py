"""The scheme `replicated`: three additive pieces, each held by two of three holders; any two have all three.

Replicated (CNF) sharing over the ring (Ito, Saito and Nishizeki 1987; for three parties Araki and others, CCS 2016):
holder i has every piece but piece i. One holder may die and the sum is still there, without a field and without
interpolation. Every piece is added twice, by two holders, so their totals of it must be equal: with all three totals
here a holder that lies alone is found out, with two of them only if it lies about the piece that both have.

What it costs: the piece that is no seed goes to two holders, so an upload is two vectors. Which piece that is changes
with the turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InconsistentTotals
from ..ring import Plan, Words, add
from .base import Domain, Kind, Piece, Scheme, Seed, Share
from .halves import RingHolder, check_totals, hide, ring_holder, room

_PIECES = range(3)


def _held(holder: int) -> tuple[int, int]:
    """Return the two pieces that a holder has, in the order of its share and its total."""
    return (holder + 1) % 3, (holder + 2) % 3


@dataclass(frozen=True)
class _Dealer:
    plan: Plan
    length: int

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        vector = room(secret, self.plan, self.length, out)
        pieces: list[Piece] = [vector if piece == turn % 3 else Seed.fresh() for piece in _PIECES]
        hide(secret, [piece for piece in pieces if isinstance(piece, Seed)], vector)
        return tuple(tuple(pieces[piece] for piece in _held(holder)) for holder in range(3))


@dataclass(frozen=True)
class _Combiner:
    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        check_totals(self.scheme, self.plan, self.length, partials)
        found: dict[int, tuple[int, Words]] = {}
        for holder in sorted(partials):
            for place, piece in enumerate(_held(holder)):
                total = partials[holder][place * self.length : (place + 1) * self.length]
                first, other = found.setdefault(piece, (holder, total))
                if not np.array_equal(total, other):
                    raise InconsistentTotals(f"holders {first} and {holder} give different totals of the same shares")
        combined = found[0][1].copy()
        for piece in (1, 2):
            add(combined, found[piece][1])
        return combined


class Replicated(Scheme):
    """Each of three secure workers holds two of three additive pieces; any two make the sum, or read an update."""

    name = "replicated"
    version = 1
    domain = Domain.RING
    fewest = most = 3
    total_vectors = 2
    survives = (
        "data owners leaving, down to the minimum cohort; one of the three holders, once all three have signed who "
        "contributed"
    )

    @classmethod
    def thresholds(cls, holders: int) -> range:
        """Any two of the three."""
        return range(holders - 1, holders)

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return two pieces; one of them is the vector for two of the three holders."""
        return tuple(Kind.VECTOR if piece == turn % 3 else Kind.SEED for piece in _held(holder))

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(plan, length)

    def holder(self, plan: Plan, length: int, index: int) -> RingHolder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""
        return ring_holder(self, plan, length, index)

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(self, plan, length)
