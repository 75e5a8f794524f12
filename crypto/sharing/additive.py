"""The scheme `additive`: m random shares that add up to the update, which all m holders together read, and no fewer.

All shares but one are pure randomness and travel as 32-byte seeds; the one that is not is the update less those
streams, and goes to holder `turn` modulo m. An upload is one vector and m - 1 seeds, whatever m is.

Why m - 1 holders learn nothing: without the vector's holder they have seeds, made before the update was looked at;
with it, one stream that they have not got is subtracted from every word of the vector (Shannon's one-time pad, as good
as the keystream is).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..ring import Plan, Words, add
from .base import Domain, Kind, Scheme, Seed, Share
from .halves import RingHolder, check_totals, hide, ring_holder, room


@dataclass(frozen=True)
class _Dealer:
    scheme: Scheme
    plan: Plan
    length: int

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        vector = room(secret, self.plan, self.length, out)
        kinds = [self.scheme.form(index, turn)[0] for index in range(self.scheme.holders)]
        shares: list[Share] = [vector if each is Kind.VECTOR else Seed.fresh() for each in kinds]
        hide(secret, [share for share in shares if isinstance(share, Seed)], vector)
        return tuple(shares)


@dataclass(frozen=True)
class _Combiner:
    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        check_totals(self.scheme, self.plan, self.length, partials)
        first, *others = (partials[index] for index in range(self.scheme.holders))
        total = first.copy()
        for other in others:
            add(total, other)
        return total


class Additive(Scheme):
    """Each of m secure workers holds one additive share; only all of them together make a sum, or read an update."""

    name = "additive"
    version = 1
    domain = Domain.RING
    fewest, most = 2, 16
    survives = "data owners leaving, down to the minimum cohort; no holder may be missing"

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return one vector for the holder whose turn it is, one seed for each other."""
        return (Kind.VECTOR if holder == turn % self.holders else Kind.SEED,)

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(self, plan, length)

    def holder(self, plan: Plan, length: int, index: int) -> RingHolder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""
        return ring_holder(self, plan, length, index)

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(self, plan, length)
