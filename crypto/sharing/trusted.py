"""The scheme `trusted`: one holder, the secure worker, whose share of an update is the update.

It hides nothing from the secure worker, which opens each update to add it; what it hides, from everybody else, the
sealing of the envelope hides. As a scheme it fixes the sum that all others must equal bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..ring import Plan, Words, check_words
from .base import Domain, Kind, Scheme, Share
from .halves import RingHolder, check_totals, ring_holder


@dataclass(frozen=True)
class _Dealer:
    plan: Plan
    length: int

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        check_words(secret, self.plan, self.length)
        return (secret,)


@dataclass(frozen=True)
class _Combiner:
    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        check_totals(self.scheme, self.plan, self.length, partials)
        return partials[0]


class Trusted(Scheme):
    """One secure worker opens each update and adds it up."""

    name = "trusted"
    version = 1
    domain = Domain.RING
    fewest = most = 1
    survives = "data owners leaving, down to the minimum cohort"

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return one vector."""
        return (Kind.VECTOR,)

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(plan, length)

    def holder(self, plan: Plan, length: int, index: int = 0) -> RingHolder:
        """Return the one holder's half; raises WrongHolders for any index but 0."""
        return ring_holder(self, plan, length, index)

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(self, plan, length)
