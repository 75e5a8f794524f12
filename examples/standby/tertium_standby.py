"""A scheme for four secure workers in two pairs: each pair is one additive holder and its standby.

An update is split into two pieces that add up to it; both members of a pair get the same piece. Any one of the four
may die. To read an update takes one member of each pair, so the two pairs belong to two organisations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tertium.crypto.errors import InconsistentTotals
from tertium.crypto.ring import Plan, Words
from tertium.crypto.sharing.base import Domain, Kind, Scheme, Seed, Share
from tertium.crypto.sharing.halves import RingHolder, check_totals, hide, ring_holder, room


@dataclass(frozen=True)
class StandbyDealer:
    """Splits an update into a seed for one pair and the rest for the other."""

    plan: Plan
    length: int

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        """Return the four shares; which pair gets the vector alternates with the turn."""
        vector = room(secret, self.plan, self.length, out)
        seed = Seed.fresh()
        hide(secret, [seed], vector)
        first, second = (vector, seed) if turn % 2 == 0 else (seed, vector)
        return first, first, second, second


@dataclass(frozen=True)
class StandbyCombiner:
    """Adds one total of each pair."""

    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        """Return the sum; where both members of a pair are there, their totals must be the same."""
        check_totals(self.scheme, self.plan, self.length, partials)
        combined = np.zeros(self.length, self.plan.dtype)
        for one, other in ((0, 1), (2, 3)):
            totals = [partials[index] for index in (one, other) if index in partials]
            if not np.array_equal(totals[0], totals[-1]):
                raise InconsistentTotals(f"holders {one} and {other} give different totals of the same shares")
            combined += totals[0]
        return combined


class Standby(Scheme):
    """Two pieces, each held by a pair of secure workers; one of the four may die."""

    name = "standby"
    version = 1
    domain = Domain.RING
    fewest = most = 4
    survives = "data owners leaving, down to the minimum cohort; one holder, once all have signed who contributed"
    collusion_sets = (frozenset({0, 2}), frozenset({0, 3}), frozenset({1, 2}), frozenset({1, 3}))

    @classmethod
    def thresholds(cls, holders: int) -> range:
        """Three totals are enough: among any three are both pieces."""
        return range(holders - 1, holders)

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return a vector for one pair, a seed for the other."""
        return (Kind.VECTOR if holder // 2 == turn % 2 else Kind.SEED,)

    def dealer(self, plan: Plan, length: int) -> StandbyDealer:
        """Return a data owner's half."""
        return StandbyDealer(plan, length)

    def holder(self, plan: Plan, length: int, index: int) -> RingHolder:
        """Return a secure worker's half, which adds what it is given."""
        return ring_holder(self, plan, length, index)

    def combiner(self, plan: Plan, length: int) -> StandbyCombiner:
        """Return the model owner's half."""
        return StandbyCombiner(self, plan, length)
