"""What the checks of the conformance kit are made of: secrets, sums of Python's integers, what is refused, seeds."""

import contextlib
import os
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from ..errors import BadScheme, TertiumError
from ..keystream import SEED_BYTES, Keystream
from ..labels import Label
from ..ring import Plan, Words
from .base import Dealer, Domain, Kind, Scheme, Seed, Share, pieces
from .naming import modules

PLANS = (
    Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-3),
    Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-12),
)
"""One with 32-bit words, one with 64-bit words."""


class Nonconforming(BadScheme, AssertionError):
    """A scheme fails a check of the kit."""


def secrets(plan: Plan, length: int, tag: int, domain: Domain) -> Words:
    """Return a pseudo-random secret: any words for a ring, honest ones for a field."""
    words = np.empty(length, plan.dtype)
    Keystream(bytes(SEED_BYTES), Label.SHARE, b"conformance", tag.to_bytes(8, "big")).words(0, words)
    if domain is Domain.FIELD:
        bound = plan.largest_sum // plan.cohort
        words = words % plan.dtype.type(2 * bound + 1) - plan.dtype.type(bound)
    return words


def constant(plan: Plan, length: int, number: int) -> Words:
    """Return a vector of one number, which may be negative."""
    return np.full(length, number % 2**plan.word_bits, plan.dtype)


def copied(shares: Sequence[Share]) -> list[Share]:
    """Return shares that share no memory with the secret, as those that came over a wire."""
    made: list[Share] = []
    for share in shares:
        copy = tuple(piece if isinstance(piece, Seed) else piece.copy() for piece in pieces(share))
        made.append(copy if isinstance(share, tuple) else copy[0])
    return made


def totals(scheme: Scheme, plan: Plan, length: int, given: Sequence[Words]) -> dict[int, Words]:
    """Return every holder's total of these secrets, each split at another turn."""
    holders = [scheme.holder(plan, length, index) for index in range(scheme.holders)]
    sums = [holder.zero() for holder in holders]
    for turn, secret in enumerate(given):
        shares = scheme.dealer(plan, length).split(secret, turn)
        for holder, total, share in zip(holders, sums, shares, strict=True):
            holder.accumulate(total, share)
    return dict(enumerate(sums))


def compare(plan: Plan, given: Sequence[Words], found: Words, what: str) -> None:
    """Raise Nonconforming unless `found` is the sum of the given words, as Python's integers make it."""
    expected = [sum(column) % 2**plan.word_bits for column in zip(*(each.tolist() for each in given), strict=True)]
    if found.dtype != plan.dtype or found.shape != (len(expected),):
        raise Nonconforming(
            f"the combined sum {what} is {found.dtype} in shape {found.shape}, not a vector of the plan"
        )
    wrong = next((i for i, (one, other) in enumerate(zip(found.tolist(), expected, strict=True)) if one != other), None)
    if wrong is not None:
        raise Nonconforming(
            f"the combined sum {what} is wrong: word {wrong} is {int(found[wrong])}, and the plain integer sum "
            f"{expected[wrong]}"
        )


@contextlib.contextmanager
def refused(what: str, *errors: type[TertiumError]) -> Iterator[None]:
    """Raise Nonconforming unless the block raises one of these errors."""
    try:
        yield
    except errors:
        return
    except Exception as error:
        wanted = " or ".join(each.__name__ for each in errors)
        raise Nonconforming(f"{what} ends in {type(error).__name__}, where {wanted} is due: {error}") from error
    raise Nonconforming(f"{what} is not refused")


def bad_vectors(plan: Plan, other: Plan, length: int) -> dict[str, Words]:
    """Return arrays that are no vectors of `length` words of this plan."""
    return {
        "too short": np.zeros(length - 1, plan.dtype),
        "too long": np.zeros(length + 1, plan.dtype),
        "of other words": np.zeros(length, other.dtype),
        "a matrix": np.zeros((length, 1), plan.dtype),
    }


def bad_shares(
    scheme: Scheme, plan: Plan, good: Share, forms: Collection[tuple[Kind, ...]], arrays: Mapping[str, Words]
) -> Iterator[tuple[str, Share]]:
    """Yield shares that a holder which gets these forms must refuse, each with what is wrong with it."""
    given = pieces(good)
    yield "a share with a piece too many", (*given, Seed(bytes(SEED_BYTES)))
    yield "a share of no piece", ()
    zeros = np.zeros(len(next(iter(arrays.values()))) + 1, plan.dtype)
    for at, piece in enumerate(given):
        swapped: Share = tuple(
            (zeros if isinstance(piece, Seed) else Seed(bytes(SEED_BYTES))) if i == at else each
            for i, each in enumerate(given)
        )
        found = tuple(Kind.SEED if isinstance(each, Seed) else Kind.VECTOR for each in pieces(swapped))
        if found not in forms:
            yield f"a {found[at].value} that no turn gives this holder", unwrapped(swapped)
        if isinstance(piece, Seed):
            continue
        bad = {f"a vector that is {what}": array for what, array in arrays.items()}
        if scheme.domain is Domain.FIELD:
            outside = piece.copy()
            outside[-1] = plan.field.modulus
            bad["a vector with a word outside the field"] = outside
        for what, array in bad.items():
            yield what, unwrapped(tuple(array if i == at else each for i, each in enumerate(given)))


def unwrapped(share: Share) -> Share:
    """Return a share of one piece as that piece."""
    given = pieces(share)
    return given[0] if len(given) == 1 else share


def listen(dealer: Dealer, secret: Words, turn: int) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """Split once; return all seeds with their holders, and all that os.urandom gave meanwhile."""
    heard: list[bytes] = []
    real = os.urandom

    def urandom(size: int) -> bytes:
        heard.append(real(size))
        return heard[-1]

    os.urandom = urandom
    try:
        shares = dealer.split(secret, turn)
    finally:
        os.urandom = real
    seeds = [
        (index, piece.seed) for index, share in enumerate(shares) for piece in pieces(share) if isinstance(piece, Seed)
    ]
    return seeds, heard


def check_modules(scheme: Scheme) -> None:
    """Raise Nonconforming if the scheme's modules use code of their own package that its digest leaves out."""
    inside = set(modules(scheme))
    for name in sorted(inside):
        package = name.partition(".")[0]
        if package == __name__.partition(".")[0]:
            continue
        for used in vars(sys.modules[name]).values():
            home = used.__name__ if isinstance(used, types.ModuleType) else getattr(used, "__module__", None)
            if isinstance(home, str) and home.partition(".")[0] == package and home not in inside:
                raise Nonconforming(f"{name} uses {home}, which is not in the digest: name it in `modules`")
