"""What a set of holders can learn from the shares it holds: two tests, neither of which trusts the scheme's word.

Linear: is the secret, its lowest bit in a ring, a fixed linear function of what the set holds? Solved exactly, over the
field's prime or over GF(2), from `ROWS` coordinates. A set that cannot tell passes for one that can with a probability
below 2^-(ROWS - columns), and the columns are the pieces it holds. This is what every additive scheme leaks by if it
leaks at all: too few pieces, one seed for two pieces, one seed for two secrets.

Statistical: three sets of secrets (all zero, all ones, pseudo-random) are split, and of every word the set holds, and
of every sum and difference of its words, each byte's histogram is compared between secrets, with a two-sample
chi-square test (Pearson; tail by Wilson and Hilferty 1931, which errs on the safe side there). Each comparison fails a
sound scheme with a probability of 1e-9 / (number of comparisons), and `ERROR` claims less. With 65,536 samples a bit is
found that leans 3 % with the secret. Neither test finds a leak that only a nonlinear relation shows: they replace no
proof.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ring import Plan, Words
from .base import Domain, Scheme, Seed, Share, pieces
from .conformance_aids import Nonconforming, constant, secrets
from .naming import who

Histogram = npt.NDArray[np.int64]
ERROR = 1e-6
"""What the kit states as the probability that it fails a sound scheme in one run."""
ROWS = 160
MOST_COMBINATIONS = 40
SPLITS, SAMPLE = 16, 4096
"""How often each secret is split for the statistics, and its words: 65,536 samples."""
TURNS = 2
_TAIL = 1e-9


@dataclass(frozen=True)
class View:
    """What each holder holds of one split, every piece as the words it stands for."""

    held: tuple[tuple[Words, ...], ...]

    def of(self, holders: frozenset[int]) -> list[Words]:
        """Return all vectors that a set of holders has, each once."""
        found: list[Words] = []
        for index in sorted(holders):
            found += [each for each in self.held[index] if not any(np.array_equal(each, other) for other in found)]
        return found


def view(scheme: Scheme, plan: Plan, length: int, shares: Sequence[Share]) -> View:
    """Return the words that shares stand for."""
    made: dict[bytes, Words] = {}

    def expand(seed: Seed) -> Words:
        if seed.seed not in made:
            stream, out = seed.keystream(), np.empty(length, plan.dtype)
            if scheme.domain is Domain.FIELD:
                stream.elements(plan.field, 0, out)
            else:
                stream.words(0, out)
            made[seed.seed] = out
        return made[seed.seed]

    return View(
        tuple(
            tuple(expand(piece) if isinstance(piece, Seed) else piece.copy() for piece in pieces(share))
            for share in shares
        )
    )


def unprivileged(scheme: Scheme) -> Iterator[frozenset[int]]:
    """Yield every set of holders, smallest first, in which no declared collusion set lies."""
    declared = scheme.collusion_sets
    for size in range(1, scheme.holders + 1):
        for members in map(frozenset, itertools.combinations(range(scheme.holders), size)):
            if not any(each <= members for each in declared):
                yield members


def largest(scheme: Scheme, sets: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Return those of the unprivileged sets to which no holder can be added: they hold all that any of them holds."""
    known, every = set(sets), range(scheme.holders)
    return [each for each in sets if not any(each | {index} in known for index in every if index not in each)]


def determined(domain: Domain, plan: Plan, columns: Sequence[Words], target: Words) -> bool:
    """Return whether `target` is a linear function, with a constant term, of the columns."""
    prime = 2 if domain is Domain.RING else plan.field.modulus
    # A secret is a signed number in a word, a share of a field an element of it.
    half = 1 << (plan.word_bits - 1)
    vectors = [[word % prime for word in each[:ROWS].tolist()] for each in columns]
    vectors.append([1] * ROWS)
    left = [((word + half) % (2 * half) - half) % prime for word in target[:ROWS].tolist()]
    # Gauss: take each vector out of all that come after it, and of the target; what is left there is not in their span.
    for i, vector in enumerate(vectors):
        at = next((row for row, value in enumerate(vector) if value), None)
        if at is None:
            continue
        inverse = pow(vector[at], -1, prime)
        for other in (*vectors[i + 1 :], left):
            factor = other[at] * inverse % prime
            if factor:
                other[:] = [(a - factor * b) % prime for a, b in zip(other, vector, strict=True)]
    return not any(left)


def combinations(count: int) -> list[tuple[int, ...]]:
    """Return coefficient tuples from {-1, 0, 1}, one of each pair of opposites: all, or those of one, two and all."""
    if (3**count - 1) // 2 <= MOST_COMBINATIONS:
        signs = [each for each in itertools.product((1, 0, -1), repeat=count) if any(each)]
        return [each for each in signs if next(filter(None, each)) == 1]
    found = [tuple(int(i == at) for i in range(count)) for at in range(count)]
    for one, other in itertools.combinations(range(count), 2):
        found += [tuple(1 if i == one else sign if i == other else 0 for i in range(count)) for sign in (1, -1)]
    return [*found, (1,) * count]


def combined(domain: Domain, plan: Plan, columns: Sequence[Words], signs: tuple[int, ...]) -> Words:
    """Return the columns' sum with these signs, in the scheme's domain."""
    if domain is Domain.RING:
        total: Words = np.zeros_like(columns[0])
        for column, sign in zip(columns, signs, strict=True):
            if sign:
                total = total + column if sign > 0 else total - column
        return total
    modulus = np.uint64(plan.field.modulus)
    wide = np.zeros(columns[0].size, np.uint64)
    for column, sign in zip(columns, signs, strict=True):
        if sign:
            value = column.astype(np.uint64)
            wide = (wide + (value if sign > 0 else modulus - value)) % modulus
    return wide.astype(plan.dtype)


def histograms(words: Words) -> list[Histogram]:
    """Return the histogram of each byte of the words."""
    table = words.view(np.uint8).reshape(words.size, words.dtype.itemsize)
    return [np.bincount(table[:, at], minlength=256) for at in range(words.dtype.itemsize)]


def differ(one: Histogram, other: Histogram, comparisons: int) -> bool:
    """Return whether two histograms of equally many samples are of different distributions."""
    both = one + other
    seen = both > 0
    statistic = float((((one - other)[seen]) ** 2 / both[seen]).sum())
    degrees = int(seen.sum()) - 1
    if degrees == 0:
        return False
    return chi_square_tail(statistic, degrees) < _TAIL / comparisons


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Return the probability of a larger statistic; its cube root over the degrees is nearly normal."""
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return 0.5 * math.erfc(z / math.sqrt(2))


def check_linear(scheme: Scheme, plan: Plan, sets: Sequence[frozenset[int]]) -> None:
    """Raise Nonconforming if one of these sets can work out a secret, or the difference of two."""
    length = 2 * ROWS
    one, other = (secrets(plan, length, tag, scheme.domain) for tag in (1, 2))
    most = largest(scheme, sets)
    for turn in range(scheme.holders):
        dealer = scheme.dealer(plan, length)
        held = [view(scheme, plan, length, dealer.split(secret, turn)) for secret in (one, one, other)]
        low = "the lowest bit of " if scheme.domain is Domain.RING else ""
        for splits, target, what in (
            (
                held[:1],
                one,
                f"{low}the secret, and no declared collusion set lies there: too few pieces hide it, or one seed makes "
                "two",
            ),
            (held[:2], one, f"{low}a secret that is split twice: the two splits do not have fresh randomness each"),
            (held[1:], one - other, f"{low}the difference of two secrets: one seed or mask hides both"),
        ):

            def reads(members: frozenset[int], splits: Sequence[View] = splits, target: Words = target) -> bool:
                return determined(scheme.domain, plan, [words for each in splits for words in each.of(members)], target)

            # What no large set reads, no set in it does; and of those that read, the smallest is the one to name.
            if any(reads(members) for members in most):
                raise Nonconforming(f"{who(scheme, next(filter(reads, sets)))} can work out {what}")


def check_repeats(scheme: Scheme, plan: Plan, sets: Sequence[frozenset[int]]) -> None:
    """Raise Nonconforming if a piece of a secret of zeros repeats itself: its coordinates share a mask."""
    zero, per = constant(plan, SAMPLE, 0), 8 // plan.dtype.itemsize
    for turn in range(min(scheme.holders, TURNS)):
        held = [view(scheme, plan, SAMPLE, scheme.dealer(plan, SAMPLE).split(zero, turn)) for _ in range(4)]
        for index in sorted(frozenset().union(*sets)):
            for at in range(len(held[0].held[index])):
                long = np.concatenate([each.held[index][at] for each in held]).view(np.uint64)
                if np.unique(long).size < long.size:
                    raise Nonconforming(
                        f"{who(scheme, frozenset({index}))}: {per} word(s) come twice where the secret is zero, so "
                        "several coordinates are hidden by the same mask"
                    )


def check_statistics(scheme: Scheme, plan: Plan, sets: Sequence[frozenset[int]]) -> None:
    """Raise Nonconforming if what one of these sets holds is distributed otherwise for one secret than for another."""
    given = {
        "all zero": constant(plan, SAMPLE, 0),
        "all ones": constant(plan, SAMPLE, -1),
        "pseudo-random": secrets(plan, SAMPLE, 4, scheme.domain),
    }
    for turn in range(min(scheme.holders, TURNS)):
        # Two holders of one piece hold one thing, which is looked at once.
        first = view(scheme, plan, SAMPLE, scheme.dealer(plan, SAMPLE).split(given["all zero"], turn))
        places = [(i, j) for i, held in enumerate(first.held) for j in range(len(held))]
        names = {at: next(x for x in places if np.array_equal(_at(first, x), _at(first, at))) for at in places}
        wanted: dict[tuple[tuple[tuple[int, int], int], ...], frozenset[int]] = {}
        for members in sets:
            columns = sorted({names[at] for at in places if at[0] in members})
            for signs in combinations(len(columns)):
                wanted.setdefault(tuple((c, s) for c, s in zip(columns, signs, strict=True) if s), members)
        sampled = {name: _sampled(scheme, plan, secret, turn, set(names.values())) for name, secret in given.items()}
        comparisons = len(wanted) * plan.dtype.itemsize * len(given) * 2 * min(scheme.holders, TURNS)
        for terms, members in wanted.items():
            seen = {
                name: histograms(
                    combined(scheme.domain, plan, [columns[at] for at, _ in terms], tuple(sign for _, sign in terms))
                )
                for name, columns in sampled.items()
            }
            for (one, mine), (other, theirs) in itertools.combinations(seen.items(), 2):
                for at, (left, right) in enumerate(zip(mine, theirs, strict=True)):
                    if differ(left, right, comparisons):
                        what = "a share" if len(terms) == 1 else f"{len(terms)} pieces added up"
                        raise Nonconforming(
                            f"{who(scheme, members)} can tell secrets apart: byte {at} of the words of {what} is "
                            f"distributed otherwise for a secret that is {one} than for one that is {other}, so shares "
                            "are biased"
                        )


def _at(held: View, place: tuple[int, int]) -> Words:
    return held.held[place[0]][place[1]]


def _sampled(
    scheme: Scheme, plan: Plan, secret: Words, turn: int, places: Collection[tuple[int, int]]
) -> dict[tuple[int, int], Words]:
    """Split a secret many times; return all the words that came to each place."""
    held = [view(scheme, plan, SAMPLE, scheme.dealer(plan, SAMPLE).split(secret, turn)) for _ in range(SPLITS)]
    return {place: np.concatenate([_at(each, place) for each in held]) for place in places}
