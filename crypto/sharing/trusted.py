"""The scheme `trusted`: one holder, whose share of an update is the update.

It hides nothing from the secure worker, which opens each update to add it; what it hides, from everybody else, the
sealing of the envelope hides. As a scheme it fixes the sum that all others must equal bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import WrongHolders, WrongShare
from ..ring import Plan, Words, add, check_words
from .base import Domain, Scheme, Seed, Share


@dataclass(frozen=True)
class _Dealer:
    plan: Plan
    length: int

    def split(self, secret: Words) -> tuple[Share, ...]:
        check_words(secret, self.plan, self.length)
        return (secret,)


@dataclass(frozen=True)
class _Holder:
    plan: Plan
    length: int

    def zero(self) -> Words:
        return np.zeros(self.length, self.plan.dtype)

    def accumulate(self, total: Words, share: Share) -> None:
        if isinstance(share, Seed):
            raise WrongShare("the scheme trusted has no seed shares: its one share is the vector")
        self.merge(total, share)

    def merge(self, total: Words, other: Words) -> None:
        check_words(total, self.plan, self.length)
        add(total, other)


@dataclass(frozen=True)
class _Combiner:
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        if set(partials) != {0}:
            raise WrongHolders("the scheme trusted combines the total of holder 0 and no other")
        check_words(partials[0], self.plan, self.length)
        return partials[0]


class Trusted(Scheme):
    """One secure worker opens each update and adds it up."""

    name = "trusted"
    version = 1
    domain = Domain.RING
    holders = 1
    threshold = 1
    collusion_sets = (frozenset({0}),)
    survives = "data owners leaving, down to the minimum cohort"

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(plan, length)

    def holder(self, plan: Plan, length: int, index: int = 0) -> _Holder:
        """Return the secure worker's half; raises WrongHolders for any index but 0."""
        if index != 0:
            raise WrongHolders(f"the scheme trusted has one holder, number 0, and none of number {index}")
        return _Holder(plan, length)

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(plan, length)
