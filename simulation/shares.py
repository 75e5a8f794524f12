"""What the values that parties hold are made of: each a linear form over updates and the streams of seeds.

Rules of the file:
- An unknown is one data owner's vector, or the stream of one seed it dealt; both are named by their bytes. So a vector
  that is summed again is the same unknown, and so is randomness that is used again.
- What a share or a total is made of is found by trying, on the words themselves: it is not taken from the program that
  made them, nor from the scheme. A piece is small multiples of the vector and of the streams dealt beside it; a total
  is the sum of some of the shares that its holder was given.
- In a scheme over a prime field factors are found by solving for them, modulo its prime; in one over the ring by trying
  small ones.
- Of a form that reaches nothing but one party's vectors, something of them is known, whatever the factor: ranks are
  taken modulo a prime, for the ring a large one, so a form counts whether or not the ring could divide by it.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..crypto.keystream import SEED_BYTES
from ..crypto.ring import Words
from ..crypto.sharing.base import Seed
from ..protocol.messages import OpenRound

PRIME = 2**61 - 1
FACTORS = (-1, 0, 1)
"""What a scheme over the ring multiplies a stream with; one that does otherwise needs more here."""


class Unknown(NamedTuple):
    """Something that only its data owner knows."""

    party: str
    update: bool
    """Whether it is the data owner's vector; else the stream of a seed."""
    value: bytes = b""

    def __repr__(self) -> str:
        return f"Unknown({self.party}, {'update' if self.update else 'seed'})"


Form = dict[Unknown, int]


def reaches(forms: Iterable[Form], targets: frozenset[Unknown], prime: int = PRIME) -> bool:
    """Whether some combination of forms, modulo a prime, is one in `targets` alone, and not nothing."""
    pivots: list[tuple[Unknown, Form]] = []
    for form in forms:
        row = {unknown: factor % prime for unknown, factor in form.items() if factor % prime}
        for unknown, pivot in pivots:
            factor = row.get(unknown)
            if factor is None:
                continue
            for each, times in pivot.items():
                left = (row.get(each, 0) - factor * times) % prime
                if left:
                    row[each] = left
                else:
                    row.pop(each, None)
        rest = next((unknown for unknown in row if unknown not in targets), None)
        if rest is not None:
            inverse = pow(row[rest], -1, prime)
            pivots.append((rest, {each: factor * inverse % prime for each, factor in row.items()}))
        elif row:
            return True
    return False


def solve(columns: Sequence[Sequence[int]], wanted: Sequence[int], prime: int) -> list[int] | None:
    """Return factors with which the columns add up to what is wanted, modulo a prime; None if none do."""
    rows = [[*(column[at] for column in columns), wanted[at]] for at in range(len(wanted))]
    found: list[tuple[int, list[int]]] = []
    for at in range(len(columns)):
        pivot = next((row for row in rows if row[at] % prime), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        inverse = pow(pivot[at], -1, prime)
        pivot = [each * inverse % prime for each in pivot]
        rows = [_less(row, pivot, at, prime) for row in rows]
        found = [(place, _less(row, pivot, at, prime)) for place, row in found] + [(at, pivot)]
    if any(row[-1] % prime for row in rows):
        return None
    places = dict(found)
    return [places[at][-1] if at in places else 0 for at in range(len(columns))]


def _less(row: list[int], pivot: list[int], at: int, prime: int) -> list[int]:
    return [(one - row[at] * other) % prime for one, other in zip(row, pivot, strict=True)]


@dataclass
class Split:
    """One split of one vector, and every share of it that was sealed."""

    party: str
    question: OpenRound
    open_round: bytes
    words: Words = field(repr=False)
    prime: int | None = None
    """The modulus of the field that its scheme adds in; None for one that adds in the ring."""
    dealt: list[bytes] = field(default_factory=list, repr=False)
    """The seeds that were dealt, for whomever; the share of a holder that is done without is never sealed."""
    given: dict[str, list[list[bytes]]] = field(default_factory=dict, repr=False)
    """By holder, the pieces of each share that was sealed for it."""
    _forms: dict[bytes, Form | None] = field(default_factory=dict, repr=False)
    _streams: dict[bytes, Words] = field(default_factory=dict, repr=False)

    @property
    def update(self) -> Unknown:
        """The vector that was split."""
        return Unknown(self.party, True, self.words.tobytes())

    @property
    def pieces(self) -> list[bytes]:
        """Every piece, once."""
        return list(dict.fromkeys(piece for shares in self.given.values() for share in shares for piece in share))

    def seeds(self) -> set[bytes]:
        """Return the seeds in it."""
        return {unknown.value for piece in self.pieces for unknown in self.form(piece) or {} if not unknown.update}

    def form(self, piece: bytes) -> Form | None:
        """Return what a piece is made of; None if nothing was found that it could be."""
        if piece not in self._forms:
            self._forms[piece] = self._found(piece)
        return self._forms[piece]

    def add(self, holder: str, share: list[bytes]) -> None:
        """Note a share; what others are made of may follow from it."""
        self.given.setdefault(holder, []).append(share)
        self._forms.clear()

    def words_of(self, piece: bytes) -> Words | None:
        """Return the words that a piece stands for; None if it is none."""
        form = self.form(piece)
        if form == {Unknown(self.party, False, piece): 1}:
            return self._stream(piece)
        return np.frombuffer(piece, self.words.dtype) if len(piece) == self.words.nbytes else None

    def _found(self, piece: bytes) -> Form | None:
        seeds = [each for each in dict.fromkeys((*self.dealt, *self.pieces)) if len(each) == SEED_BYTES]
        if piece in self.dealt:
            return {Unknown(self.party, False, piece): 1}
        seeds.remove(piece) if piece in seeds else None
        factors: Sequence[int] | None = None
        if len(piece) == self.words.nbytes:
            vector = np.frombuffer(piece, self.words.dtype)
            factors = self._tried(vector, seeds) if self.prime is None else self._solved(vector, seeds, self.prime)
        if factors is not None:
            unknowns = [self.update, *(Unknown(self.party, False, seed) for seed in seeds)]
            return {unknown: factor for unknown, factor in zip(unknowns, factors, strict=True) if factor}
        return None

    def _tried(self, vector: Words, seeds: list[bytes]) -> Sequence[int] | None:
        for own, *factors in itertools.product(reversed(FACTORS), *(FACTORS for _ in seeds)):
            made = {-1: 0 * self.words - self.words, 0: 0 * self.words, 1: self.words}[own]
            for seed, factor in zip(seeds, factors, strict=True):
                if factor:
                    made = made + self._stream(seed) if factor > 0 else made - self._stream(seed)
            if (own or any(factors)) and np.array_equal(made, vector):
                return own, *factors
        return None

    def _solved(self, vector: Words, seeds: list[bytes], prime: int) -> Sequence[int] | None:
        signed = self.words.view(f"<i{self.words.itemsize}").tolist()
        columns = [[each % prime for each in signed], *(self._stream(seed).tolist() for seed in seeds)]
        return solve(columns, vector.tolist(), prime)

    def _stream(self, seed: bytes) -> Words:
        if seed not in self._streams:
            words = np.zeros_like(self.words)
            stream = Seed(seed).keystream()
            if self.prime is None:
                stream.add_into(words)
            else:
                stream.elements(self.question.plan.field, 0, words)
            stream.erase()
            self._streams[seed] = words
        return self._streams[seed]


class Dealt:
    """All splits of a simulation."""

    def __init__(self) -> None:
        self.splits: list[Split] = []
        self._of_round: dict[bytes, list[Split]] = {}
        self._last: dict[str, Split] = {}
        self._by_piece: dict[bytes, Split] = {}

    def split(self, party: str, question: OpenRound, open_round: bytes, words: Words, prime: int | None) -> None:
        """Note that a data owner is about to split its vector."""
        made = self._last[party] = Split(party, question, open_round, words.copy(), prime)
        self.splits.append(made)
        self._of_round.setdefault(open_round, []).append(made)

    def seeds(self, party: str, seeds: list[bytes]) -> None:
        """Note the seeds that a dealer made for the vector a data owner split last."""
        if party in self._last:
            self._last[party].dealt += seeds

    def share(self, party: str, holder: str, sections: list[bytes]) -> None:
        """Note a share that a data owner sealed of the vector it split last."""
        split = self._last.get(party)
        if split is not None:
            split.add(holder, sections)
            for piece in sections:
                self._by_piece.setdefault(piece, split)

    def origin(self, piece: bytes) -> Split | None:
        """Return the split that a piece, seen anywhere, is of."""
        return self._by_piece.get(piece)

    def total(self, open_round: bytes, holder: str, total: bytes) -> tuple[Split, ...] | None:
        """Return the splits whose shares, as this holder was given them, add up to a total; None if none do."""
        found = self._chosen(open_round, holder, total)
        return None if found is None else tuple(split for split, _ in found)

    def total_forms(self, open_round: bytes, holder: str, total: bytes) -> list[Form]:
        """Return what each vector of a total is made of."""
        found = self._chosen(open_round, holder, total) or []
        forms: list[Form] = [{} for _ in (found[0][1] if found else ())]
        for split, share in found:
            for form, piece in zip(forms, share, strict=True):
                for unknown, factor in (split.form(piece) or {}).items():
                    form[unknown] = form.get(unknown, 0) + factor
        return forms

    def summed(self, open_round: bytes, total: Words) -> frozenset[Unknown]:
        """Return the vectors that add up to an applied sum; none if none do."""
        options: dict[str, list[tuple[Split, list[Words]]]] = {}
        for split in self._of_round.get(open_round, ()):
            options.setdefault(split.party, []).append((split, [split.words]))
        found = _adding_up(options, [total]) or []
        return frozenset(option[0].update for option in found)

    def _chosen(self, open_round: bytes, holder: str, total: bytes) -> list[tuple[Split, list[bytes]]] | None:
        options: dict[str, list[tuple[Any, list[Words]]]] = {}
        wanted: list[Words] = []
        prime: int | None = None
        for split in self._of_round.get(open_round, ()):
            prime = split.prime
            if len(total) % split.words.nbytes:
                return None
            wanted = list(np.frombuffer(total, split.words.dtype).reshape(-1, split.words.size))
            for share in split.given.get(holder, ()):
                words = [made for piece in share if (made := split.words_of(piece)) is not None]
                if len(words) == len(share) == len(wanted):
                    options.setdefault(split.party, []).append(((split, share), words))
        found = _adding_up(options, wanted, prime)
        return None if found is None else [option[0] for option in found]


def _adding_up(
    options: dict[str, list[tuple[Any, list[Words]]]], wanted: Sequence[Words], prime: int | None = None
) -> list[Any] | None:
    """Return one option of each of as many as possible that add up to what is wanted; None if none do.

    In the ring of the words, or modulo a prime, of which a few make no more than 64 bits.
    """
    for chosen in itertools.product(*([*each, None] for each in options.values())):
        taken = [option for option in chosen if option is not None]
        sums = zip(*(words for _, words in taken), strict=True)
        if prime is None:
            made = [np.add.reduce(column, dtype=column[0].dtype) for column in sums]
        else:
            made = [np.add.reduce(column, dtype=np.uint64) % np.uint64(prime) for column in sums]
        if taken and len(made) == len(wanted) and all(map(np.array_equal, made, wanted)):
            return taken
    return None
