"""The extension point: a secret-sharing scheme is three halves, named by who runs them.

    dealer     a data owner         split(secret, turn) -> one share a holder
    holder     whoever a seat says  zero(), accumulate(total, share), merge(total, other)
    combiner   the model owner      combine(partial totals) -> the sum

Nothing else in the system knows the inside of a scheme. Rules for one:
- Holders are numbered from 0; a share, a partial total, a seat and a collusion set mean the same holder by one number.
- A share is a piece or a tuple of pieces, and a piece is a vector of `length` words or a `Seed`. A piece that is pure
  randomness is returned as its seed. Which pieces a holder gets is public: `form(holder, turn)`.
- A partial total is one flat array of `total_vectors * length` words, whatever the shares were.
- `turn` is public too. The protocol hands in a contributor's place in the cohort plus the round, so that work which
  only one holder has (a vector where others get a seed) goes round among holders. It decides nothing else.
- The combined sum is the sum of the secrets modulo 2^word_bits, word for word the same as with any other scheme. In a
  field that holds for honest secrets: a plan keeps their sums within (p - 1)/2, so ring and field hold the same ones.
- Seeds are made by `Seed.fresh`, from os.urandom, anew for every split, and expanded by `Seed.keystream` everywhere.
- `combine` and `accumulate` refuse what cannot be right; that partial totals are of one contributor set, round and
  attempt is checked before, by the protocol.
"""

import enum
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ..errors import BadSeed, WrongHolders
from ..keystream import SEED_BYTES, Keystream, Scratch
from ..labels import Label
from ..ring import Plan, Words

INTERFACE = 1
"""The version of this file's rules; part of every scheme's digest."""


@dataclass(frozen=True)
class Seed:
    """A piece that is a keystream: 32 bytes instead of a vector. Raises BadSeed when built with another length."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise BadSeed(f"a seed share is {SEED_BYTES} bytes, not {len(self.seed)}")

    @classmethod
    def fresh(cls) -> "Seed":
        """Return a new seed from the operating system; the only way a scheme makes one."""
        return cls(os.urandom(SEED_BYTES))

    def keystream(self, scratch: Scratch | None = None) -> Keystream:
        """Return the stream this seed stands for, the same in every scheme and on every machine; erase it after use."""
        return Keystream(self.seed, Label.SHARE, scratch=scratch)


Piece = Words | Seed
Share = Piece | tuple[Piece, ...]


class Kind(enum.Enum):
    """What a piece is on the wire."""

    VECTOR = "vector"
    SEED = "seed"


class Seat(enum.Enum):
    """Who a holder is."""

    SECURE_WORKER = "secure worker"
    MODEL_OWNER = "model owner"


class Domain(enum.Enum):
    """What a scheme adds in: the ring of the plan's words, or the prime field of the same size."""

    RING = "ring"
    FIELD = "field"


class Dealer(Protocol):
    """A data owner's half; it keeps nothing between calls."""

    def split(self, secret: Words, turn: int = 0, *, out: Words | None = None) -> tuple[Share, ...]:
        """Return one share a holder, in their order and of `form(holder, turn)`; `secret` is left as it is.

        A piece may be `secret` itself, not a copy. `out` is memory, as long as `secret`, that a scheme may use for a
        vector it makes: fresh memory costs more than filling it. Whoever passes it keeps it until the shares are sent.

        Raises:
            WrongArray: `secret` or `out` is not a vector of this plan and length.
        """


class Holder(Protocol):
    """One holder's half; it keeps nothing between calls but working memory."""

    def zero(self) -> Words:
        """Return a new total of no shares."""

    def accumulate(self, total: Words, share: Share) -> None:
        """Add a share to `total` in place, in one pass over each of its pieces; after a refusal `total` is as before.

        Raises:
            WrongShare: the share is of another form than this holder can get, or not of the scheme's field.
            WrongArray: an array is not a vector of this plan and length.
        """

    def merge(self, total: Words, other: Words) -> None:
        """Add another total of the same holder to `total` in place.

        Raises:
            WrongArray: an array is not a total of this plan and length.
        """


class Combiner(Protocol):
    """The model owner's half."""

    def combine(self, partials: Mapping[int, Words]) -> Words:
        """Return the sum, given partial totals by holder; it may be one of them, not a copy.

        Raises:
            WrongHolders: these holders' totals do not make a sum (too few, or of a holder there is not).
            WrongArray: an array is not a total of this plan and length.
            InconsistentTotals: they contradict each other, where the scheme can tell.
        """


class Scheme(ABC):
    """What a scheme declares about itself, and its three halves for vectors of `length` words of a plan.

    Raises WrongHolders when built for a number of holders, or with a threshold, that the scheme has not.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    domain: ClassVar[Domain]
    fewest: ClassVar[int]
    """The fewest holders it can be built for, and the number it is built for by default."""
    most: ClassVar[int]
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules beside the scheme's own whose code it runs; their source is part of its digest."""
    total_vectors: ClassVar[int] = 1
    """How many vectors of `length` words make a partial total."""
    survives: ClassVar[str]
    """Whose absence a round survives, in words for the reports."""

    def __init__(self, holders: int | None = None, threshold: int | None = None) -> None:
        cls = type(self)
        self.holders: int = cls.fewest if holders is None else holders
        """How many holders there are (m)."""
        if not cls.fewest <= self.holders <= cls.most:
            allowed = str(cls.fewest) if cls.fewest == cls.most else f"{cls.fewest} to {cls.most}"
            raise WrongHolders(f"the scheme {cls.name} has {allowed} holder(s), not {self.holders}")
        thresholds = cls.thresholds(self.holders)
        self.threshold: int = thresholds[0] if threshold is None else threshold
        """How many partial totals make the sum (t)."""
        if self.threshold not in thresholds:
            allowed = str(thresholds[0]) if len(thresholds) == 1 else f"{thresholds[0]} to {thresholds[-1]}"
            raise WrongHolders(
                f"the scheme {cls.name} with {self.holders} holder(s) has the threshold {allowed}, not {self.threshold}"
            )

    @classmethod
    def thresholds(cls, holders: int) -> range:
        """Return the thresholds it can have with so many holders, the usual one first; by default all of them."""
        return range(holders, holders + 1)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Who each holder is; by default each is a secure worker."""
        return (Seat.SECURE_WORKER,) * self.holders

    @property
    def collusion_sets(self) -> tuple[frozenset[int], ...]:
        """The smallest sets of holders that can together read one update; by default any `threshold` of them.

        In every scheme, all other contributors of a released set can too: they know their own updates, and the sum.
        """
        return tuple(frozenset(found) for found in itertools.combinations(range(self.holders), self.threshold))

    @abstractmethod
    def form(self, holder: int, turn: int) -> tuple[Kind, ...]:
        """Return the kinds of the pieces that this holder gets at this turn."""

    @abstractmethod
    def dealer(self, plan: Plan, length: int) -> Dealer:
        """Return a data owner's half."""

    @abstractmethod
    def holder(self, plan: Plan, length: int, index: int) -> Holder:
        """Return the half of holder `index`; raises WrongHolders if there is none of that number."""

    @abstractmethod
    def combiner(self, plan: Plan, length: int) -> Combiner:
        """Return the model owner's half."""

    def check_index(self, index: int) -> None:
        """Raise WrongHolders if there is no holder of this number."""
        if not 0 <= index < self.holders:
            last = "number 0" if self.holders == 1 else f"numbers 0 to {self.holders - 1}"
            raise WrongHolders(
                f"the scheme {self.name} has {self.holders} holder(s), {last}, and none of number {index}"
            )

    def check_holders(self, given: frozenset[int]) -> None:
        """Raise WrongHolders unless these are `threshold` or more of the holders there are."""
        for index in sorted(given):
            self.check_index(index)
        if len(given) < self.threshold:
            raise WrongHolders(
                f"the scheme {self.name} combines the totals of {self.threshold} of its {self.holders} holder(s), "
                f"not of {len(given)}"
            )


def pieces(share: Share) -> tuple[Piece, ...]:
    """Return a share as the tuple of its pieces."""
    return share if isinstance(share, tuple) else (share,)


def kind(piece: Piece) -> Kind:
    """Return what a piece is."""
    return Kind.SEED if isinstance(piece, Seed) else Kind.VECTOR
