"""The extension point: a secret-sharing scheme is three halves, named by who runs them.

    dealer     a data owner         split(secret) -> one share a holder
    holder     a secure worker      zero(), accumulate(total, share), merge(total, other)
    combiner   the model owner      combine(partial totals) -> the sum

Nothing else in the system knows the inside of a scheme. Rules for one:
- Holders are numbered from 0; a share, a partial total and a collusion set mean the same holder by the same number.
- Vectors are flat arrays of `plan.dtype`. The combined sum is the sum of the secrets modulo 2^word_bits, word for word
  the same as with any other scheme: a plan keeps honest sums within (p - 1)/2, so ring and field hold the same ones.
- A share that is pure randomness is returned as its 32-byte `Seed`; its holder expands it with `keystream.Keystream`.
  Seeds come from os.urandom, and every secret gets new ones.
- `combine` and `accumulate` refuse what cannot be right; that partial totals are of one contributor set, round and
  attempt is checked before, by the protocol.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ..errors import BadSeed
from ..keystream import SEED_BYTES
from ..ring import Plan, Words


@dataclass(frozen=True)
class Seed:
    """A share that is a keystream: 32 bytes instead of a vector. Raises BadSeed when built with another length."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise BadSeed(f"a seed share is {SEED_BYTES} bytes, not {len(self.seed)}")


Share = Words | Seed


class Domain(enum.Enum):
    """What a scheme adds in: the ring of the plan's words, or the prime field of the same size."""

    RING = "ring"
    FIELD = "field"


class Dealer(Protocol):
    """A data owner's half."""

    def split(self, secret: Words) -> tuple[Share, ...]:
        """Return one share a holder, in their order. A share may be `secret` itself, not a copy.

        Raises:
            WrongArray: `secret` is not a vector of this plan and length.
        """


class Holder(Protocol):
    """One holder's half; it keeps nothing between calls."""

    def zero(self) -> Words:
        """Return a new total of no shares."""

    def accumulate(self, total: Words, share: Share) -> None:
        """Add a share to `total` in place, in one pass over it.

        Raises:
            WrongShare: the share is a seed where this holder takes a vector, or the other way round.
            WrongArray: an array is not a vector of this plan and length.
        """

    def merge(self, total: Words, other: Words) -> None:
        """Add another total of the same holder to `total` in place.

        Raises:
            WrongArray: an array is not a vector of this plan and length.
        """


class Combiner(Protocol):
    """The model owner's half."""

    def combine(self, partials: Mapping[int, Words]) -> Words:
        """Return the sum, given partial totals by holder; it may be one of them, not a copy.

        Raises:
            WrongHolders: these holders' totals do not make a sum (too few, or of a holder there is not).
            WrongArray: an array is not a vector of this plan and length.
        """


class Scheme(ABC):
    """What a scheme declares about itself, and its three halves for vectors of `length` words of a plan."""

    name: ClassVar[str]
    version: ClassVar[int]
    domain: ClassVar[Domain]

    holders: int
    """How many holders there are (m)."""
    threshold: int
    """How many partial totals make the sum (t)."""
    collusion_sets: tuple[frozenset[int], ...]
    """The smallest sets of holders that can together read one update. In every scheme, all other contributors of a
    released set can too: they know their own updates, and the sum."""
    survives: str
    """Whose absence a round survives, in words for the reports."""

    @abstractmethod
    def dealer(self, plan: Plan, length: int) -> Dealer:
        """Return a data owner's half."""

    @abstractmethod
    def holder(self, plan: Plan, length: int, index: int) -> Holder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""

    @abstractmethod
    def combiner(self, plan: Plan, length: int) -> Combiner:
        """Return the model owner's half."""
