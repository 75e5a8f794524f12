"""The conformance kit: what every scheme must do, whoever wrote it, as functions, as a report and as a pytest suite.

In a test file of one's own, which is all it takes:

    from tertium.crypto.sharing.conformance import SchemeConformance

    class TestMine(SchemeConformance):
        scheme = Mine

Rules of this file:
- A check raises `Nonconforming` with one sentence that says what is wrong; every word size of a plan is tried.
- What a sum must be is computed in Python's integers, never by the code under test.
- Secrets are pseudo-random and the same in every run. In a field they are honest ones, for others have no sum there.
- Randomness is listened to, not replaced: `os.urandom` gives what it gives, and the kit notes it.
- A sound scheme fails with a probability below `independence.ERROR`; all other checks are exact.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from blake3 import blake3

from ..errors import TertiumError, WrongArray, WrongHolders, WrongShare
from ..keystream import SEED_BYTES
from ..ring import Words, to_wire
from . import independence
from .base import Domain, Kind, Scheme, Seed, Share, kind, pieces
from .conformance_aids import (
    PLANS,
    Nonconforming,
    bad_shares,
    bad_vectors,
    check_modules,
    compare,
    constant,
    copied,
    listen,
    refused,
    secrets,
    totals,
    unwrapped,
)
from .independence import largest, unprivileged, view
from .naming import scheme_digest, who

GOLDEN = (
    (bytes(range(32)), 32, 262_160, "e01b21e433c08f97589302998024481a0835ffb47afc105d60db0a2b7f64cf3a"),
    (bytes(range(32)), 64, 131_080, "e01b21e433c08f97589302998024481a0835ffb47afc105d60db0a2b7f64cf3a"),
)
"""Seed, word bits, words, and BLAKE3 of those words: past the end of a block of the stream."""
MOST_HOLDERS = 16
LENGTHS = ((1, 1), (7, 5), (0, 2), (2**18 + 9, 2))
"""Words and contributors of the sums that are compared; the last is longer than a block of a keystream."""


# --- the checks, in the order in which they are run


def check_declaration(scheme: Scheme) -> None:
    """It declares what it must, holds to it, and has a digest."""
    if not isinstance(scheme.version, int) or scheme.version < 1:
        raise Nonconforming(f"version is {scheme.version!r}, and must be a whole number from 1")
    if not isinstance(scheme.domain, Domain):
        raise Nonconforming("domain must be Domain.RING or Domain.FIELD")
    if scheme.holders > MOST_HOLDERS:
        raise Nonconforming(f"{scheme.holders} holders are more than the kit can check, which is {MOST_HOLDERS}")
    if not 1 <= scheme.threshold <= scheme.holders or scheme.total_vectors < 1:
        raise Nonconforming("the threshold lies between 1 and the number of holders, and a total has a vector or more")
    if not scheme.survives.strip():
        raise Nonconforming("survives must say whose absence a round survives")
    if len(scheme.seats) != scheme.holders:
        raise Nonconforming(f"{len(scheme.seats)} seats are declared for {scheme.holders} holders")
    sets = scheme.collusion_sets
    if not sets or any(not each or not each <= set(range(scheme.holders)) for each in sets):
        raise Nonconforming("collusion_sets must name at least one set, and each at least one of the holders there are")
    if any(one <= other for one, other in itertools.permutations(sets, 2)):
        raise Nonconforming("a declared collusion set lies in another: only the smallest are declared")
    for index, turn in itertools.product(range(scheme.holders), range(2 * scheme.holders)):
        form = scheme.form(index, turn)
        if not isinstance(form, tuple) or not form or not all(isinstance(each, Kind) for each in form):
            raise Nonconforming(f"form({index}, {turn}) must be a tuple of at least one Kind")
        if form != scheme.form(index, turn % scheme.holders):
            raise Nonconforming(f"form({index}, {turn}) is not that of turn {turn % scheme.holders}: turns go round")
    for wrong in (type(scheme).fewest - 1, type(scheme).most + 1):
        with refused(f"being built for {wrong} holders", WrongHolders):
            type(scheme)(wrong)
    scheme_digest(scheme)
    check_modules(scheme)


def check_forms(scheme: Scheme) -> None:
    """Shares have the declared form at every turn and make the secret, which splitting leaves as it is."""
    for plan in PLANS:
        secret = secrets(plan, 16, 1, scheme.domain)
        for turn in range(2 * scheme.holders):
            given, out = secret.copy(), np.full(16, 7, plan.dtype)
            shares = scheme.dealer(plan, 16).split(given, turn, out=out)
            if not np.array_equal(given, secret):
                raise Nonconforming("split changes the secret, which another attempt would split again")
            if len(shares) != scheme.holders:
                raise Nonconforming(f"split returns {len(shares)} shares for {scheme.holders} holders")
            for index, share in enumerate(shares):
                found = tuple(kind(piece) for piece in pieces(share))
                if found != scheme.form(index, turn):
                    raise Nonconforming(f"holder {index}'s share at turn {turn} is not of the form that is declared")
                for piece in pieces(share):
                    if not isinstance(piece, Seed) and (piece.dtype != plan.dtype or piece.shape != (16,)):
                        raise Nonconforming(f"holder {index}'s vector is {piece.dtype} in shape {piece.shape}")
            sums = {}
            for index, share in enumerate(shares):
                holder = scheme.holder(plan, 16, index)
                sums[index] = holder.zero()
                holder.accumulate(sums[index], share)
            compare(plan, [secret], scheme.combiner(plan, 16).combine(sums), f"of one secret at turn {turn}")


def check_sum(scheme: Scheme) -> None:
    """The combined total is the plain integer sum, for short vectors and for ones longer than a keystream block."""
    for plan in PLANS:
        for length, contributors in LENGTHS:
            given = [secrets(plan, length, tag, scheme.domain) for tag in range(contributors)]
            found = scheme.combiner(plan, length).combine(totals(scheme, plan, length, given))
            compare(plan, given, found, f"of {contributors} secrets of {length} {plan.word_bits}-bit words")
        extremes = [constant(plan, 3, number) for number in (plan.largest_sum // 8, -(plan.largest_sum // 8)) * 4]
        for part in (extremes, extremes[::2], extremes[1::2]):
            found = scheme.combiner(plan, 3).combine(totals(scheme, plan, 3, part))
            compare(plan, part, found, "at the ends of the range")


def check_order(scheme: Scheme) -> None:
    """Contributions may come in any order, at every turn, and are left as they are."""
    for plan in PLANS:
        given = [secrets(plan, 9, tag, scheme.domain) for tag in range(4)]
        dealt = [copied(scheme.dealer(plan, 9).split(secret, turn)) for turn, secret in enumerate(given)]
        expected: dict[int, Words] | None = None
        for order in itertools.permutations(range(4)):
            sums = {}
            for index in range(scheme.holders):
                holder = scheme.holder(plan, 9, index)
                sums[index] = holder.zero()
                for which in order:
                    share = dealt[which][index]
                    before = [piece if isinstance(piece, Seed) else piece.copy() for piece in pieces(share)]
                    holder.accumulate(sums[index], share)
                    for one, other in zip(before, pieces(share), strict=True):
                        if not (isinstance(one, Seed) or isinstance(other, Seed) or np.array_equal(one, other)):
                            raise Nonconforming(f"holder {index} changes a share when it adds it")
            expected = expected or {index: total.copy() for index, total in sums.items()}
            for index, total in sums.items():
                if not np.array_equal(total, expected[index]):
                    raise Nonconforming(f"holder {index}'s total depends on the order of the contributions")
        compare(plan, given, scheme.combiner(plan, 9).combine(expected or {}), "of four secrets at four turns")


def check_merges(scheme: Scheme) -> None:
    """Partial totals of one holder merge to what one total would have been."""
    for plan in PLANS:
        given = [secrets(plan, 9, tag, scheme.domain) for tag in range(4)]
        dealt = [copied(scheme.dealer(plan, 9).split(secret)) for secret in given]
        for index in range(scheme.holders):
            holder = scheme.holder(plan, 9, index)
            whole = holder.zero()
            for shares in dealt:
                holder.accumulate(whole, shares[index])
            for cut in range(5):
                parts = [holder.zero(), holder.zero()]
                for at, shares in enumerate(dealt):
                    holder.accumulate(parts[at >= cut], shares[index])
                other = parts[1].copy()
                holder.merge(parts[0], parts[1])
                if not np.array_equal(parts[0], whole):
                    raise Nonconforming(f"holder {index}'s merged totals are not the total of all contributions")
                if not np.array_equal(parts[1], other):
                    raise Nonconforming(f"holder {index} changes a total when it merges it into another")


def check_holders(scheme: Scheme) -> None:
    """Every set of `threshold` or more holders combines to the sum, and every smaller set is refused."""
    for plan in PLANS:
        given = [secrets(plan, 5, tag, scheme.domain) for tag in range(3)]
        sums = totals(scheme, plan, 5, given)
        combiner = scheme.combiner(plan, 5)
        for size in range(scheme.holders + 1):
            for members in itertools.combinations(range(scheme.holders), size):
                partials = {index: sums[index].copy() for index in members}
                if size >= scheme.threshold:
                    compare(
                        plan,
                        given,
                        combiner.combine(partials),
                        f"from holders {', '.join(map(str, members)) or 'none'}",
                    )
                else:
                    with refused(
                        f"combining holders {', '.join(map(str, members)) or 'none'}, fewer than the threshold",
                        WrongHolders,
                    ):
                        combiner.combine(partials)
        with refused("combining the total of a holder that is not there", WrongHolders):
            combiner.combine({**sums, scheme.holders: sums[0]})
        for index in (-1, scheme.holders):
            with refused(f"the half of holder {index}, which is not there", WrongHolders):
                scheme.holder(plan, 5, index)


def check_refusals(scheme: Scheme) -> None:
    """Malformed and out-of-range shares, totals and secrets are refused, and change nothing."""
    for plan, other in (PLANS, PLANS[::-1]):
        shares = copied(scheme.dealer(plan, 16).split(secrets(plan, 16, 1, scheme.domain)))
        arrays = bad_vectors(plan, other, 16)
        for index, good in enumerate(shares):
            holder = scheme.holder(plan, 16, index)
            forms = {scheme.form(index, turn) for turn in range(scheme.holders)}
            for what, share in bad_shares(scheme, plan, good, forms, arrays):
                total = holder.zero()
                holder.accumulate(total, good)
                before = total.copy()
                with refused(f"{what}, given to holder {index},", WrongShare, WrongArray):
                    holder.accumulate(total, share)
                if not np.array_equal(total, before):
                    raise Nonconforming(f"holder {index} refuses {what}, but its total has changed")
            zeros = {each: scheme.holder(plan, 16, each).zero() for each in range(scheme.holders)}
            for what, bad in bad_vectors(plan, other, holder.zero().size).items():
                with refused(f"holder {index}'s adding to a total that is {what}", WrongArray, WrongShare):
                    holder.accumulate(bad, good)
                with refused(f"holder {index}'s merging into a total that is {what}", WrongArray, WrongShare):
                    holder.merge(bad, holder.zero())
                with refused(f"holder {index}'s merging a total that is {what}", WrongArray, WrongShare):
                    holder.merge(holder.zero(), bad)
                with refused(f"combining a total of holder {index} that is {what}", TertiumError):
                    scheme.combiner(plan, 16).combine({**zeros, index: bad})
        for what, array in arrays.items():
            with refused(f"splitting a vector that is {what}", WrongArray):
                scheme.dealer(plan, 16).split(array)


def check_seeds(scheme: Scheme) -> None:
    """A seed stands for the same words everywhere, and a holder adds exactly those."""
    for seed, bits, count, expected in GOLDEN:
        words = np.empty(count, f"<u{bits // 8}")
        Seed(seed).keystream().words(0, words)
        if blake3(to_wire(words)).hexdigest() != expected:
            raise Nonconforming("seeds expand to other words on this machine than the published ones")
    for plan in PLANS:
        length = 300_000 * 4 // plan.dtype.itemsize
        stream = np.empty(length, plan.dtype)
        if scheme.domain is Domain.FIELD:
            Seed(bytes(range(32))).keystream().elements(plan.field, 0, stream)
            negative = (np.uint64(plan.field.modulus) - stream) % np.uint64(plan.field.modulus)
        else:
            Seed(bytes(range(32))).keystream().words(0, stream)
            negative = np.zeros_like(stream) - stream
        for index, turn in itertools.product(range(scheme.holders), range(scheme.holders)):
            form = scheme.form(index, turn)
            if Kind.SEED not in form or len(form) != scheme.total_vectors:
                continue
            zeros = np.zeros(length, plan.dtype)
            share: Share = tuple(Seed(bytes(range(32))) if each is Kind.SEED else zeros for each in form)
            total = scheme.holder(plan, length, index).zero()
            scheme.holder(plan, length, index).accumulate(total, unwrapped(share))
            for each, part in zip(form, np.split(total, len(form)), strict=True):
                wanted = (stream, negative) if each is Kind.SEED else (zeros,)
                if not any(np.array_equal(part, words) for words in wanted):
                    raise Nonconforming(f"holder {index} adds other words for a seed than Seed.keystream gives")


def check_randomness(scheme: Scheme) -> None:
    """Every split has fresh seeds, and they come from the operating system."""
    needed = next(unprivileged(scheme), None) is not None
    for plan in PLANS:
        secret = secrets(plan, 16, 1, scheme.domain)
        dealer = scheme.dealer(plan, 16)
        splits = [
            listen(dealer if turn % 2 else scheme.dealer(plan, 16), secret, turn) for turn in range(3 * scheme.holders)
        ]
        earlier: set[bytes] = set()
        for seeds, _ in splits:
            reused = next((index for index, seed in seeds if seed in earlier), None)
            if reused is not None:
                raise Nonconforming(
                    f"seed reuse: holder {reused} gets a seed that an earlier split has used, and two secrets with one "
                    "mask give away their difference"
                )
            earlier |= {seed for _, seed in seeds}
        for seeds, heard in splits:
            for index, seed in seeds:
                if not any(seed in drawn for drawn in heard):
                    raise Nonconforming(f"holder {index}'s seed does not come from os.urandom: make it with Seed.fresh")
            if needed and not any(len(drawn) >= SEED_BYTES for drawn in heard):
                raise Nonconforming(f"split draws fewer than {SEED_BYTES} bytes from os.urandom, so nothing can hide")


def check_independence(scheme: Scheme) -> None:
    """What any set of holders holds is independent of the secret, unless a declared collusion set lies in it."""
    sets = list(unprivileged(scheme))
    most = largest(scheme, sets)
    for plan in PLANS:
        independence.check_linear(scheme, plan, sets)
    for plan in PLANS:
        independence.check_repeats(scheme, plan, most)
        independence.check_statistics(scheme, plan, most)


def check_collusion(scheme: Scheme) -> None:
    """Each declared collusion set really reads one update, so the declaration says neither less nor more than is so."""
    for plan in PLANS:
        secret = secrets(plan, 2 * independence.ROWS, 3, scheme.domain)
        for turn in range(scheme.holders):
            shares = scheme.dealer(plan, secret.size).split(secret, turn)
            held = view(scheme, plan, secret.size, shares)
            for members in scheme.collusion_sets:
                if not independence.determined(scheme.domain, plan, held.of(members), secret):
                    raise Nonconforming(f"{who(scheme, members)}: declared as a collusion set, but it reads no update")


CHECKS: dict[str, Callable[[Scheme], None]] = {
    "declaration": check_declaration,
    "forms": check_forms,
    "sum": check_sum,
    "order": check_order,
    "merges": check_merges,
    "holders": check_holders,
    "refusals": check_refusals,
    "seeds": check_seeds,
    "randomness": check_randomness,
    "independence": check_independence,
    "collusion": check_collusion,
}


# --- the report


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what it looks at, and what is wrong, None if nothing is."""

    check: str
    meaning: str
    wrong: str | None


@dataclass(frozen=True)
class Report:
    """What the kit found of one scheme."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.wrong is None for finding in self.findings)


def check(scheme: Scheme, told: Callable[[Finding], None] | None = None) -> Report:
    """Run every check on a scheme; `told` hears of each as it ends."""
    findings = []
    for name, run in CHECKS.items():
        findings.append(Finding(name, (run.__doc__ or "").strip(), _wrong(run, scheme)))
        if told is not None:
            told(findings[-1])
    return Report(tuple(findings))


def _wrong(run: Callable[[Scheme], None], scheme: Scheme) -> str | None:
    try:
        run(scheme)
    except Nonconforming as error:
        return str(error)
    except Exception as error:
        text = " ".join(str(error).split())
        return f"it raises {type(error).__name__} where it should not: {text}"
    return None


def _test(name: str) -> Callable[["SchemeConformance"], None]:
    def run(self: "SchemeConformance") -> None:
        if self.scheme is None:
            raise Nonconforming(f"{type(self).__name__} does not say which scheme: scheme = Mine")
        CHECKS[name](self.scheme(self.holders, self.threshold))

    run.__doc__ = CHECKS[name].__doc__
    return run


class SchemeConformance:
    """The kit as a pytest suite: derive a class whose name begins with Test, and say which scheme."""

    scheme: ClassVar[type[Scheme] | None] = None
    holders: ClassVar[int | None] = None
    threshold: ClassVar[int | None] = None

    test_declaration = _test("declaration")
    test_forms = _test("forms")
    test_sum = _test("sum")
    test_order = _test("order")
    test_merges = _test("merges")
    test_holders = _test("holders")
    test_refusals = _test("refusals")
    test_seeds = _test("seeds")
    test_randomness = _test("randomness")
    test_independence = _test("independence")
    test_collusion = _test("collusion")
