"""The scheme `dummy`: it hides nothing, its totals can be foretold, and each of its steps can be made to fail.

For tests of everything above a scheme. Rules of this file:
- It cannot be built, and `scheme("dummy")` refuses it, outside a `with allowed(...)` block; a name that comes from a
  charter is looked up with `chartered`, which refuses it always.
- Holder i > 0 gets the word i everywhere, as a vector; holder 0 gets the secret less all of them. So holder i's total
  after n contributions is n * i in every word.
- A fault replaces what a step returns, or raises; None leaves the step as it is.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from ..errors import ForTestsOnly
from ..ring import Plan, Words, add, check_words
from .base import Domain, Kind, Scheme, Share
from .halves import RingHolder, check_totals


@dataclass(frozen=True)
class Faults:
    """What to do in place of a step's result."""

    split: Callable[[tuple[Share, ...]], tuple[Share, ...]] | None = None
    """Takes the honest shares and returns others."""
    accumulate: Callable[[int, Words, Share], Share] | None = None
    """Takes the holder's number, its total and the share; returns the share to add."""
    combine: Callable[[Words], Words] | None = None
    """Takes the honest sum and returns another."""


_allowed: ContextVar[Faults | None] = ContextVar("dummy", default=None)


@contextlib.contextmanager
def allowed(faults: Faults | None = None) -> Iterator[None]:
    """Let tests build the scheme, with these faults, for as long as the block runs."""
    token = _allowed.set(faults or Faults())
    try:
        yield
    finally:
        _allowed.reset(token)


@dataclass(frozen=True)
class _Dealer:
    scheme: "Dummy"
    plan: Plan
    length: int

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        check_words(secret, self.plan, self.length)
        others = range(1, self.scheme.holders)
        first = secret - self.plan.dtype.type(sum(others))
        shares: tuple[Share, ...] = (first, *(np.full(self.length, index, self.plan.dtype) for index in others))
        fault = self.scheme.faults.split
        return shares if fault is None else fault(shares)


class _Holder(RingHolder):
    fault: Callable[[Words, Share], Share] | None = None

    def accumulate(self, total: Words, share: Share) -> None:
        super().accumulate(total, share if self.fault is None else self.fault(total, share))


@dataclass(frozen=True)
class _Combiner:
    scheme: "Dummy"
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        check_totals(self.scheme, self.plan, self.length, partials)
        total = partials[0].copy()
        for index in range(1, self.scheme.holders):
            add(total, partials[index])
        fault = self.scheme.faults.combine
        return total if fault is None else fault(total)


class Dummy(Scheme):
    """Holder 0 reads each update but for a known constant; the others hold constants.

    Raises ForTestsOnly when built outside `allowed`.
    """

    name = "dummy"
    version = 1
    domain = Domain.RING
    fewest, most = 1, 16
    survives = "nothing that matters: it is for tests"

    def __init__(self, holders: int | None = None, threshold: int | None = None) -> None:
        faults = _allowed.get()
        if faults is None:
            raise ForTestsOnly("the scheme dummy hides nothing; it is for tests and no party runs it")
        super().__init__(holders, threshold)
        self.faults = faults

    @property
    def collusion_sets(self) -> tuple[frozenset[int], ...]:
        """Holder 0 alone."""
        return (frozenset({0}),)

    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return one vector."""
        return (Kind.VECTOR,)

    def dealer(self, plan: Plan, length: int) -> _Dealer:
        """Return a data owner's half."""
        return _Dealer(self, plan, length)

    def holder(self, plan: Plan, length: int, index: int) -> _Holder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""
        self.check_index(index)
        made = _Holder(plan, length, {self.form(index, 0)})
        fault = self.faults.accumulate
        if fault is not None:
            made.fault = lambda total, share: fault(index, total, share)
        return made

    def combiner(self, plan: Plan, length: int) -> _Combiner:
        """Return the model owner's half."""
        return _Combiner(self, plan, length)
