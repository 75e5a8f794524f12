"""The kit: every built-in scheme and one over the field pass it, and each broken one fails with a sentence."""

import functools
import os
import random
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from tertium.crypto.errors import WrongHolders, WrongShare
from tertium.crypto.keystream import Keystream
from tertium.crypto.labels import Label
from tertium.crypto.ring import Plan, Words, check_words
from tertium.crypto.sharing import dummy, independence, naming
from tertium.crypto.sharing.additive import Additive
from tertium.crypto.sharing.base import Domain, Kind, Scheme, Seed
from tertium.crypto.sharing.conformance import CHECKS, Nonconforming, SchemeConformance, check
from tertium.crypto.sharing.halves import hide, ring_holder
from tertium.crypto.sharing.masked import Masked
from tertium.crypto.sharing.plain import Plain
from tertium.crypto.sharing.registry import load
from tertium.crypto.sharing.replicated import Replicated
from tertium.crypto.sharing.shamir import Shamir
from tertium.crypto.sharing.trusted import Trusted

PLAN = Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-3)


class TestTrusted(SchemeConformance):
    scheme = Trusted


class TestPlain(SchemeConformance):
    scheme = Plain


class TestMasked(SchemeConformance):
    scheme = Masked


class TestAdditiveForTwo(SchemeConformance):
    scheme = Additive


class TestAdditiveForThree(SchemeConformance):
    scheme, holders = Additive, 3


class TestReplicated(SchemeConformance):
    scheme = Replicated


class TestShamirTwoOfThree(SchemeConformance):
    scheme = Shamir


class TestShamirTwoOfFour(SchemeConformance):
    scheme, holders, threshold = Shamir, 4, 2


class TestShamirThreeOfFive(SchemeConformance):
    scheme, holders, threshold = Shamir, 5, 3


def test_the_suite_has_every_check_and_refuses_to_run_on_nothing():
    assert {name.removeprefix("test_") for name in vars(SchemeConformance) if name.startswith("test_")} == set(CHECKS)
    with pytest.raises(Nonconforming, match="does not say which scheme"):
        SchemeConformance().test_sum()


# --- a scheme over the field: nothing in the kit may be cut to the ring


def lift(words: Words, plan: Plan) -> Words:
    """Signed words as field elements."""
    modulus, half = plan.field.modulus, 2 ** (plan.word_bits - 1)
    return np.array([((w + half) % (2 * half) - half) % modulus for w in words.tolist()], plan.dtype)


def element_sum(plan: Plan, *vectors: Words) -> Words:
    return np.array(
        [sum(each) % plan.field.modulus for each in zip(*(v.tolist() for v in vectors), strict=True)], plan.dtype
    )


def elements(plan: Plan, words: Words) -> None:
    check_words(words, plan, words.size)
    if words.size and int(words.max()) >= plan.field.modulus:
        raise WrongShare("a word outside the field")


@dataclass(frozen=True)
class LineDealer:
    plan: Plan
    length: int

    def split(self, secret, turn=0, *, out=None):
        check_words(secret, self.plan, self.length)
        slope = np.empty(self.length, self.plan.dtype)
        Seed.fresh().keystream().elements(self.plan.field, 0, slope)
        value, shares = lift(secret, self.plan), []
        for _ in range(3):
            value = element_sum(self.plan, value, slope)
            shares.append(value)
        return tuple(shares)


@dataclass(frozen=True)
class LineHolder:
    plan: Plan
    length: int

    def zero(self):
        return np.zeros(self.length, self.plan.dtype)

    def accumulate(self, total, share):
        if isinstance(share, Seed | tuple):
            raise WrongShare("takes a vector")
        self.merge(total, share)

    def merge(self, total, other):
        for each in (total, other):
            check_words(each, self.plan, self.length)
        elements(self.plan, other)
        total[:] = element_sum(self.plan, total, other)


@dataclass(frozen=True)
class LineCombiner:
    scheme: Scheme
    plan: Plan
    length: int

    def combine(self, partials: Mapping[int, Words]) -> Words:
        self.scheme.check_holders(frozenset(partials))
        for total in partials.values():
            check_words(total, self.plan, self.length)
        modulus, (i, j) = self.plan.field.modulus, sorted(partials)[:2]
        # The line through (i + 1, a) and (j + 1, b), at 0.
        over = pow(j - i, -1, modulus)
        out = []
        for a, b in zip(partials[i].tolist(), partials[j].tolist(), strict=True):
            at_zero = (a * (j + 1) - b * (i + 1)) * over % modulus
            out.append((at_zero if at_zero <= modulus // 2 else at_zero - modulus) % 2**self.plan.word_bits)
        return np.array(out, self.plan.dtype)


class Line(Scheme):
    """Shamir's scheme, two of three."""

    name, version, domain = "line", 1, Domain.FIELD
    fewest = most = 3
    survives = "one holder"

    @classmethod
    def thresholds(cls, holders):
        return range(2, 3)

    def form(self, holder, turn):
        return (Kind.VECTOR,)

    def dealer(self, plan, length):
        return LineDealer(plan, length)

    def holder(self, plan, length, index):
        self.check_index(index)
        return LineHolder(plan, length)

    def combiner(self, plan, length):
        return LineCombiner(self, plan, length)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "sum"])
def test_a_scheme_over_the_field_passes(name):
    CHECKS[name](Line())


def test_a_scheme_over_the_field_has_the_right_sums(monkeypatch):
    # In Python's integers a quarter of a million words take too long.
    monkeypatch.setattr("tertium.crypto.sharing.conformance.LENGTHS", ((1, 1), (7, 5), (0, 2)))
    CHECKS["sum"](Line())


# --- broken schemes


class WithDealer(Additive):
    """The scheme `additive` with another way to split."""

    name = "broken"

    def split(self, plan, length, secret, turn, out):
        raise NotImplementedError

    def dealer(self, plan, length):
        scheme = self

        class Broken:
            def split(self, secret, turn=0, *, out=None):
                check_words(secret, plan, length)
                return scheme.split(plan, length, secret, turn, out)

        return Broken()

    def shares(self, secret, turn, seeds, vector):
        made = iter(seeds)
        return tuple(vector if i == turn % self.holders else next(made) for i in range(self.holders))


class WrongSum(WithDealer):
    """Its last word is one too many."""

    def split(self, plan, length, secret, turn, out):
        shares = Additive(self.holders).dealer(plan, length).split(secret, turn)
        vector = shares[turn % self.holders]
        vector[-1:] += 1
        return shares


class Biased(WithDealer):
    """Its masks are a bit short, as where a signed generator is read as unsigned."""

    def split(self, plan, length, secret, turn, out):
        seeds, vector = [Seed.fresh() for _ in range(self.holders - 1)], secret.copy()
        mask = np.empty(length, plan.dtype)
        for seed in seeds:
            seed.keystream().words(0, mask)
            vector -= mask >> 1
        return self.shares(secret, turn, seeds, vector)

    def holder(self, plan, length, index):
        inner = super().holder(plan, length, index)
        inner._add = functools.partial(self.add, plan, length)
        return inner

    def add(self, plan, length, total, piece):
        if isinstance(piece, Seed):
            mask = np.empty(length, plan.dtype)
            piece.keystream().words(0, mask)
            total += mask >> 1
        else:
            total += piece


class ReusesSeeds(WithDealer):
    """It makes its seeds once."""

    def __init__(self, holders=None, threshold=None):
        super().__init__(holders, threshold)
        self.seeds = [Seed.fresh() for _ in range(self.holders - 1)]

    def split(self, plan, length, secret, turn, out):
        vector = secret.copy()
        hide(secret, self.seeds, vector)
        return self.shares(secret, turn, self.seeds, vector)


class OneSeedForTwo(WithDealer):
    """All its seed holders get the same seed."""

    def split(self, plan, length, secret, turn, out):
        seeds, vector = [Seed.fresh()] * (self.holders - 1), secret.copy()
        hide(secret, seeds, vector)
        return self.shares(secret, turn, seeds, vector)


class FromTheSecret(WithDealer):
    """Its seeds are a hash of the secret, so that a restart makes the same shares."""

    def split(self, plan, length, secret, turn, out):
        words = np.empty(8, "<u4")
        Keystream(secret.tobytes()[:32].ljust(32, b"\0"), Label.SHARE).words(0, words)
        seeds, vector = [Seed(words.tobytes())] * (self.holders - 1), secret.copy()
        hide(secret, seeds, vector)
        os.urandom(32)
        return self.shares(secret, turn, seeds, vector)


class FromAGenerator(WithDealer):
    """Its seeds are fresh, and anybody can foretell them."""

    generator = random.Random(1)

    def split(self, plan, length, secret, turn, out):
        seeds, vector = [Seed(self.generator.randbytes(32)) for _ in range(self.holders - 1)], secret.copy()
        hide(secret, seeds, vector)
        os.urandom(32)
        return self.shares(secret, turn, seeds, vector)


class OneMaskWord(WithDealer):
    """It hides every coordinate by the same word."""

    def split(self, plan, length, secret, turn, out):
        seed = Seed.fresh()
        return self.shares(secret, turn, [seed], secret - np.frombuffer(seed.seed, plan.dtype)[0])

    def holder(self, plan, length, index):
        inner = super().holder(plan, length, index)
        inner._add = lambda total, piece: np.add(
            total, np.frombuffer(piece.seed, plan.dtype)[0] if isinstance(piece, Seed) else piece, out=total
        )
        return inner


class Repeating(WithDealer):
    """Its mask begins again after a thousand words."""

    def split(self, plan, length, secret, turn, out):
        seed, mask = Seed.fresh(), np.empty(1000, plan.dtype)
        Seed.fresh().keystream().words(0, mask)
        return self.shares(secret, turn, [seed], secret - np.resize(mask, length))


class Takes(Additive):
    """Its holders take whatever they are given."""

    name = "takes"

    def holder(self, plan, length, index):
        inner = ring_holder(self, plan, length, index)
        accumulate = inner.accumulate

        def lenient(total, share):
            if isinstance(share, Words.__origin__) and share.size != length:
                share = np.resize(share, length).astype(plan.dtype)
            accumulate(total, share)

        inner.accumulate = lenient
        return inner


class Understated(Additive):
    """It says that all holders are needed where two of three suffice: nobody has the third piece's mask."""

    name = "understated"

    def dealer(self, plan, length):
        inner = Additive(2).dealer(plan, length)

        class Two:
            def split(self, secret, turn=0, *, out=None):
                vector, seed = inner.split(secret, 0)
                zeros = np.zeros_like(secret)
                return vector, seed, zeros

        return Two()

    def form(self, holder, turn):
        return (Kind.SEED if holder == 1 else Kind.VECTOR,)


class Overstated(Additive):
    """It says that two of three holders read an update, and they do not."""

    name = "overstated"
    collusion_sets = (frozenset({0, 1}),)


class Eager(Additive):
    """It combines without its last holder, and gives something."""

    name = "eager"

    def combiner(self, plan, length):
        class Some:
            def combine(self, partials):
                return functools.reduce(np.add, partials.values())

        return Some()


class Crashes(Additive):
    """Its dealer has a bug."""

    name = "crashes"

    def dealer(self, plan, length):
        return 1 // 0


BROKEN = [
    (WrongSum, 2, "sum", "the combined sum of 1 secrets .* is wrong: word 0 is .* and the plain integer"),
    (Biased, 2, "independence", r"secure worker \d can tell secrets apart: byte 3 .* so shares are biased"),
    (ReusesSeeds, 2, "randomness", r"seed reuse: holder \d gets a seed that an earlier split has used"),
    (ReusesSeeds, 2, "independence", "can work out .* (a secret that is split twice|the difference of two)"),
    (OneSeedForTwo, 3, "independence", "secure worker 0 can work out the lowest bit .* one seed makes two"),
    (FromTheSecret, 2, "randomness", "an earlier split has used"),
    (FromAGenerator, 2, "randomness", r"holder \d's seed does not come from os.urandom: make it with Seed.fresh"),
    (OneMaskWord, 2, "seeds", "adds other words for a seed than Seed.keystream gives"),
    (OneMaskWord, 2, "independence", "same mask|distributed otherwise|work out"),
    (Takes, 2, "refusals", "a vector that is too short, given to holder 0, is not refused"),
    (Understated, 3, "independence", "secure workers 0 and 1 can work out the lowest bit of the secret"),
    (Overstated, 3, "collusion", "secure workers 0 and 1: declared as a collusion set, but it reads no update"),
    (Eager, 2, "holders", "fewer than the threshold"),
    (Crashes, 2, "forms", "it raises ZeroDivisionError where it should not"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "holders", "name", "sentence"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_broken_scheme_fails_with_a_sentence(kind, holders, name, sentence, monkeypatch):
    monkeypatch.setattr("tertium.crypto.sharing.conformance.CHECKS", {name: CHECKS[name]})
    report = check(kind(holders))
    (finding,) = report.findings
    assert not report.passed
    assert finding.wrong is not None
    assert re.search(sentence, finding.wrong), finding.wrong
    assert "\n" not in finding.wrong


def test_code_that_the_digest_leaves_out_is_found(tmp_path, monkeypatch):
    package = tmp_path / "split_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("def help(): return 1\n")
    source = (
        "from tertium.crypto.sharing.additive import Additive\nfrom .helper import help\n"
        "class Mine(Additive):\n    name = 'mine'\n"
    )
    (package / "mine.py").write_text(source)
    (package / "named.py").write_text(source + "    modules = ('split_package.helper',)\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(Nonconforming, match=r"uses split_package\.helper, which is not in the digest"):
            CHECKS["declaration"](load("split_package.mine:Mine")())
        CHECKS["declaration"](load("split_package.named:Mine")())
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "split_package"]:
            del sys.modules[name]


def test_a_mask_that_repeats_is_found():
    made = Repeating(2)
    with pytest.raises(Nonconforming, match="several coordinates are hidden by the same mask"):
        independence.check_repeats(made, PLAN, [frozenset({0}), frozenset({1})])


def test_the_dummy_hides_nothing_and_the_kit_says_so():
    with dummy.allowed():
        made = dummy.Dummy(2)
    with pytest.raises(Nonconforming, match="draws fewer than 32 bytes"):
        CHECKS["randomness"](made)
    CHECKS["sum"](made)
    CHECKS["collusion"](made)


# --- the statistics themselves


def test_histograms_of_one_distribution_do_not_differ_and_a_leaning_bit_is_found():
    def histogram(seed: int, to_one: float = 0, to_zero: float = 0) -> independence.Histogram:
        words = np.empty(2 * 65536, "<u4")
        Keystream(bytes([seed]) * 32, Label.SHARE).words(0, words)
        drawn, chance = words[:65536] & 0xFF, words[65536:] / 2**32
        drawn = np.where(chance < to_one, drawn | 1, drawn)
        return np.bincount(np.where(chance < to_zero, drawn & 0xFE, drawn), minlength=256)

    assert not any(independence.differ(histogram(i), histogram(i + 100), 1) for i in range(60))
    assert independence.differ(histogram(1, to_one=0.06), histogram(2, to_zero=0.06), 10_000)


@pytest.mark.parametrize(
    ("statistic", "tail"), [(200, 0.9954), (255, 0.4882), (320, 0.003534), (400, 1.66e-08), (500, 4.385e-18)]
)
def test_the_tail_is_that_of_chi_square_or_a_little_more(statistic, tail):
    """The tails are scipy.stats.chi2.sf(statistic, 255)."""
    assert 0.95 < independence.chi_square_tail(statistic, 255) / tail < 1.5


def test_what_is_said_of_who_reads_an_update():
    assert naming.collusion_words(Trusted()) == "the secure worker"
    assert naming.collusion_words(Plain()) == "the model owner"
    assert naming.collusion_words(Masked()) == "the secure worker with the model owner"
    assert naming.collusion_words(Additive(2)) == "both secure workers together"
    assert naming.collusion_words(Additive(5)) == "all 5 secure workers together"
    assert naming.collusion_words(Replicated()) == "any 2 of the 3 secure workers together"
    assert naming.collusion_words(Shamir(5, 3)) == "any 3 of the 5 secure workers together"
    with pytest.raises(WrongHolders):
        Additive(1)
