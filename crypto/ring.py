"""Fixed-point arithmetic in a ring of words: what a data owner encodes, a secure worker adds, a model owner decodes.

Rules of this file:
- A value v of a contribution with weight w is the word round_half_even(w * v * 2^scale_bits), modulo 2^word_bits.
  Multiply by the weight, then round: the sum of words is then exact, in any order, in any mode.
- A plan is refused unless every honest |sum| stays at or below (p - 1)/2, p being the prime of its word size. So no
  honest sum wraps, and ring and field hold the same integers. The checks are in exact integer arithmetic.
- Encoding computes in float64 whatever the input: weight * 2^scale_bits is exact there, so a value costs exactly one
  rounding before it is rounded to an integer, and every machine with IEEE 754 gives the same word.
- Words are little-endian in memory and on the wire.
- Large arrays go through in blocks that stay in cache, over scratch that is allocated once a call.

The error of a decoded mean. With B the bound, n contributors, W their total weight, s = scale_bits, u = 2^-53 and
q = n / (2^(s+1) W):

    encoding    |word - w v 2^s| <= 1/2 + u w|v| 2^s        one product, one rounding to an integer
    the sum     |sum of words / 2^s - sum w v| <= W (q + u B)                     no other error: integers
    decoding    three more roundings (integer to float64, W to float64, division): 3 u (q + B), to first order
    together    |decoded mean - exact mean| <= q + 5 u (q + B)

A mean computed by numpy in float64 from the same values has an error of its own, at most (2n + 3) u B to first order
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2). The bound given out covers the
difference to that one too: q + (n + 5) 2u (q + B), in which the spare terms exceed those of second order for
n <= 2^24.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import BadPlan, BadWeight, ImplausibleSum, Unencodable, WrongArray, WrongLength
from .labels import Buffer

Words = npt.NDArray[np.unsignedinteger[Any]]
"""A flat array of ring words, '<u4' or '<u8'."""
Values = npt.NDArray[np.floating[Any]]
"""A flat array of float32 or float64."""

LARGEST_SCALE = 60
LARGEST_COHORT = 2**24
LARGEST_WEIGHT = 2**52
"""Weights up to here are exact in float64, and so is a weight times a power of two."""
BLOCK = 32 * 1024
"""Elements a block: 256 KiB of float64 scratch, which stays in a core's second-level cache."""


@dataclass(frozen=True)
class Field:
    """A prime field whose elements lie in words of a ring's size."""

    word_bits: int
    modulus: int


FIELD_32 = Field(32, 2**32 - 5)
FIELD_64 = Field(64, 2**61 - 1)
_FIELDS = {32: FIELD_32, 64: FIELD_64}
_UNSIGNED: dict[int, np.dtype[Any]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
_SIGNED: dict[int, np.dtype[Any]] = {32: np.dtype("<i4"), 64: np.dtype("<i8")}


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one kind of coordinate is written: 2^scale_bits steps a unit, values v with |v| <= bound.

    Raises BadPlan when built with a scale outside 0..60 or a bound that is not finite and positive.
    """

    scale_bits: int
    bound: float

    def __post_init__(self) -> None:
        _whole("scale_bits", self.scale_bits, 0, LARGEST_SCALE)
        _positive("bound", self.bound)
        # An int here would encode, and so hash, differently from the float that decoding gives back.
        msgspec.structs.force_setattr(self, "bound", float(self.bound))


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers every party of a round encodes, adds and decodes by; a plan that could wrap cannot be built.

    Raises BadPlan when built with fields out of range, with a sum that could exceed (p - 1)/2, or with a scale too
    coarse for its precision; decoding such a plan raises `msgspec.ValidationError`.
    """

    word_bits: int
    """32 or 64."""
    cohort: int
    """The most contributors a sum may have."""
    max_weight: int
    """The largest weight of one contributor."""
    values: Fixed
    metrics: Fixed
    precision: float
    """The wanted bound on the error of a decoded mean of values, whoever contributes."""
    packing: int = 1
    """Values a word. Only 1 is supported; more is reserved for packed 16-bit and 8-bit values."""

    def __post_init__(self) -> None:
        self.validate()
        msgspec.structs.force_setattr(self, "precision", float(self.precision))

    @classmethod
    def fit(
        cls,
        *,
        cohort: int,
        max_weight: int,
        value_range: float,
        precision: float,
        metric_range: float = 64.0,
        metric_precision: float = 0.01,
    ) -> "Plan":
        """Return the plan with the smallest words, and in them the largest scales, that are precise enough.

        Ranges are the largest |value| before weighting. Precisions bound the error of a decoded mean in the worst
        case, which is that of contributors with weight 1 each.

        Raises:
            BadPlan: no word size holds the sum, or none is precise enough; the message says what to change.
        """
        _whole("cohort", cohort, 1, LARGEST_COHORT)
        _whole("max_weight", max_weight, 1, LARGEST_WEIGHT)
        for name, number in (
            ("value_range", value_range),
            ("precision", precision),
            ("metric_range", metric_range),
            ("metric_precision", metric_precision),
        ):
            _positive(name, number)
        too_coarse = ""
        for word_bits in (32, 64):
            values = _finest(word_bits, cohort, max_weight, value_range)
            metrics = _finest(word_bits, cohort, max_weight, metric_range)
            if values is None or metrics is None or cohort * max_weight > _largest(word_bits):
                continue
            reached = _error(values, cohort, cohort)
            metrics_reached = _error(metrics, cohort, cohort)
            if reached > precision:
                too_coarse = f"a mean of values within {reached:.3g} where precision asks for {precision:.3g}"
            elif metrics_reached > metric_precision:
                too_coarse = f"a mean of metrics within {metrics_reached:.3g} where {metric_precision:.3g} is asked for"
            else:
                return cls(
                    word_bits=word_bits,
                    cohort=cohort,
                    max_weight=max_weight,
                    values=values,
                    metrics=metrics,
                    precision=precision,
                )
        change = "lower the cohort, the largest weight or the range"
        if too_coarse:
            raise BadPlan(f"64-bit words give {too_coarse}: ask for less precision, or {change}")
        raise BadPlan(
            f"64-bit words cannot hold a sum of {cohort} contributors with weights up to {max_weight} and values up to "
            f"{max(value_range, metric_range):g}: {change}"
        )

    def validate(self) -> None:
        """Check everything the class promises; it has run once when a plan exists.

        Raises:
            BadPlan: see the class.
        """
        if self.word_bits not in _FIELDS:
            raise BadPlan(f"word_bits is {self.word_bits}: a plan has words of 32 or 64 bits")
        _whole("cohort", self.cohort, 1, LARGEST_COHORT)
        _whole("max_weight", self.max_weight, 1, LARGEST_WEIGHT)
        _positive("precision", self.precision)
        if self.packing != 1:
            raise BadPlan(f"packing is {self.packing}: only one value a word is supported")
        if self.cohort * self.max_weight > self.largest_sum:
            raise BadPlan(f"the total weight of {self.cohort} contributors can exceed {self.largest_sum}")
        for name, fixed in (("values", self.values), ("metrics", self.metrics)):
            if not _fits(self.word_bits, self.cohort, self.max_weight, fixed):
                raise BadPlan(
                    f"the sum of {name} can exceed {self.largest_sum}: lower the cohort, the largest weight, the bound "
                    "or the scale, or take 64-bit words"
                )
        reached = _error(self.values, self.cohort, self.cohort)
        if reached > self.precision:
            raise BadPlan(f"values are decoded within {reached:.3g}, precision asks for {self.precision:.3g}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a word, '<u4' or '<u8'; in memory and on the wire."""
        return _UNSIGNED[self.word_bits]

    @property
    def field(self) -> Field:
        """The prime field that holds the same sums as the ring."""
        return _FIELDS[self.word_bits]

    @property
    def largest_sum(self) -> int:
        """(p - 1)/2, which no honest |sum| exceeds."""
        return _largest(self.word_bits)

    def honest_sum(self, fixed: Fixed, contributors: int | None = None) -> int:
        """Return the largest |sum of words| that `contributors` (by default the whole cohort) can make honestly."""
        return self._contributors(contributors) * _largest_word(self.max_weight, fixed)

    def error_bound(self, fixed: Fixed, contributors: int, total_weight: int) -> float:
        """Return an upper bound on the error of a decoded mean, in units of the value (formula at the top).

        It holds against the exact mean and against one computed by numpy in float64 from the same values.

        Raises:
            BadPlan: `fixed` is not of this plan.
            BadWeight: this many contributors cannot have this total weight.
        """
        self._own(fixed)
        contributors = self._contributors(contributors)
        if not contributors <= total_weight <= contributors * self.max_weight:
            raise BadWeight(f"{contributors} contributors cannot have a total weight of {total_weight}")
        return _error(fixed, contributors, total_weight)

    def _own(self, fixed: Fixed) -> None:
        if fixed not in (self.values, self.metrics):
            raise BadPlan("this fixed-point format is neither the values' nor the metrics' of the plan")

    def _contributors(self, contributors: int | None) -> int:
        if contributors is None:
            return self.cohort
        if not 1 <= contributors <= self.cohort:
            raise BadPlan(f"{contributors} contributors do not fit a plan for 1 to {self.cohort}")
        return contributors


def encode(plan: Plan, fixed: Fixed, values: Values, weight: int, out: Words) -> None:
    """Write `values` times `weight` as words into `out`.

    `values` is flat, float32 or float64, every |value| at most `fixed.bound`; `out` is flat, of the same length, of
    type `plan.dtype`, and does not overlap it. After a refusal of a value `out` is all zero: no part of a vector that
    cannot be encoded is left behind to be sent.

    Raises:
        Unencodable: a value is NaN, infinite or outside the range; `index` is that of the first one.
        BadWeight: the weight is not in 1..max_weight.
        BadPlan: `fixed` is not of this plan.
        WrongArray: an array has another type, shape or length.
    """
    plan._own(fixed)
    if values.ndim != 1 or values.dtype not in (np.dtype("<f4"), np.dtype("<f8")):
        raise WrongArray(f"values are a flat array of float32 or float64, not {values.ndim}-d {values.dtype}")
    _check_words(out, plan.dtype, values.size, writable=True)
    factor = np.float64(_weight(plan, weight) << fixed.scale_bits)
    scratch = np.empty(min(BLOCK, values.size), np.float64)
    signed = out.view(_SIGNED[plan.word_bits])
    with np.errstate(invalid="ignore"):
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            # NaN makes both extremes NaN, and no comparison with NaN holds.
            if not (-fixed.bound <= float(block.min()) and float(block.max()) <= fixed.bound):
                out.fill(0)
                index = start + int(np.argmin(np.abs(block.astype(np.float64)) <= fixed.bound))
                raise Unencodable(f"coordinate {index} is not a number within ±{fixed.bound:g}", index=index)
            work = scratch[: block.size]
            np.copyto(work, block)
            np.multiply(work, factor, out=work)
            np.rint(work, out=work)
            np.copyto(signed[start : start + BLOCK], work, casting="unsafe")


def encode_weight(plan: Plan, weight: int) -> np.unsignedinteger[Any]:
    """Return a contribution's weight as a word of `plan.dtype`.

    Raises:
        BadWeight: the weight is not in 1..max_weight.
    """
    word: np.unsignedinteger[Any] = plan.dtype.type(_weight(plan, weight))
    return word


def add(total: Words, words: Words) -> None:
    """Add `words` to `total` in place, modulo 2^word_bits.

    One pass in numpy: it reads and writes each element once, so blocks would gain nothing.

    Raises:
        WrongArray: the two are not flat arrays of the same length and the same word type.
    """
    _check_words(total, total.dtype, total.size, writable=True)
    _check_words(words, total.dtype, total.size)
    np.add(total, words, out=total)


def decode(plan: Plan, fixed: Fixed, words: Words, *, contributors: int | None = None) -> npt.NDArray[np.float64]:
    """Return the weighted sum that `words` hold, as a new float64 array; divided by the total weight it is the mean.

    A word stands for the integer of smallest magnitude it is congruent to. Honest sums never exceed
    `plan.honest_sum(fixed, contributors)`, so a word beyond it shows a dishonest encoder, secure worker or path.

    Raises:
        ImplausibleSum: no honest contributors, this many (by default the cohort), could have made this sum.
        BadPlan: `fixed` is not of this plan, or `contributors` more than its cohort.
        WrongArray: `words` is not a flat array of `plan.dtype`.
    """
    plan._own(fixed)
    _check_words(words, plan.dtype, words.size)
    limit = plan.honest_sum(fixed, contributors)
    signed = words.view(_SIGNED[plan.word_bits])
    out = np.empty(words.size, np.float64)
    step = np.float64(2.0**-fixed.scale_bits)
    for start in range(0, words.size, BLOCK):
        block = signed[start : start + BLOCK]
        if int(block.min()) < -limit or int(block.max()) > limit:
            index = start + int(np.argmax((block < -limit) | (block > limit)))
            raise ImplausibleSum(f"coordinate {index} of the sum exceeds what honest contributors can reach")
        work = out[start : start + BLOCK]
        np.copyto(work, block)
        np.multiply(work, step, out=work)
    return out


def check_plausible(plan: Plan, words: Words) -> None:
    """Check that each word stands for an integer of at most (p - 1)/2 either way, as all honest sums do.

    Raises:
        ImplausibleSum: one does not. Modulo p it would be the same as another, which is honest.
        WrongArray: `words` is not a flat array of `plan.dtype`.
    """
    _check_words(words, plan.dtype, words.size)
    signed, limit = words.view(_SIGNED[plan.word_bits]), plan.largest_sum
    if words.size and not (-limit <= int(signed.min()) and int(signed.max()) <= limit):
        raise ImplausibleSum("a word of the sum exceeds what honest contributors can reach")


def decode_weight(plan: Plan, word: int | np.unsignedinteger[Any], *, contributors: int | None = None) -> int:
    """Return the total weight that a summed word holds.

    With `contributors` the total must be one that exactly so many could have; without, that of 1 up to the cohort.

    Raises:
        ImplausibleSum: no honest contributors have this total weight.
        BadPlan: `contributors` is more than the plan's cohort.
    """
    total = int(word)
    most = plan._contributors(contributors)
    least = 1 if contributors is None else contributors
    if not least <= total <= most * plan.max_weight:
        raise ImplausibleSum("the total weight is not one that honest contributors can reach")
    return total


def from_wire(plan: Plan, data: Buffer, count: int) -> Words:
    """Return `data` as an array of `count` words, without a copy; read-only if `data` is.

    Every word is an element of the ring, so there is nothing to refuse in one; implausible sums are found by `decode`.

    Raises:
        WrongLength: `data` is not exactly `count` words long.
        WrongArray: `data` is a memoryview with gaps.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise WrongArray("words are read from a buffer without gaps")
    if view.nbytes != count * plan.dtype.itemsize:
        raise WrongLength(f"a vector of {view.nbytes} bytes, where the plan makes it {count * plan.dtype.itemsize}")
    return np.frombuffer(view.cast("B"), plan.dtype) if count else np.empty(0, plan.dtype)


def to_wire(words: Words) -> memoryview:
    """Return the little-endian bytes of `words`, without a copy.

    Raises:
        WrongArray: `words` is not a flat array of words without gaps.
    """
    _check_words(words, words.dtype, words.size)
    if not words.flags.c_contiguous:
        raise WrongArray("words are written from an array without gaps")
    return words.view(np.uint8).data


def check_words(words: Words, plan: Plan, count: int, *, writable: bool = False) -> None:
    """Check that `words` is a flat array of `count` words of this plan, and can be written to if it must.

    Raises:
        WrongArray: it is not.
    """
    _check_words(words, plan.dtype, count, writable=writable)


def _check_words(words: Words, dtype: np.dtype[Any], count: int, *, writable: bool = False) -> None:
    if dtype not in _UNSIGNED.values() or words.dtype != dtype or words.shape != (count,):
        raise WrongArray(f"wanted a flat array of {count} words ({dtype}), got {words.dtype} in shape {words.shape}")
    if writable and not words.flags.writeable:
        raise WrongArray("the array to write to is read-only")


def _whole(name: str, number: object, low: int, high: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise BadPlan(f"{name} must be a whole number from {low} to {high}")


def _positive(name: str, number: object) -> None:
    if not isinstance(number, int | float) or not math.isfinite(number) or number <= 0:
        raise BadPlan(f"{name} must be a finite number above 0")


def _weight(plan: Plan, weight: int) -> int:
    if not 1 <= weight <= plan.max_weight or weight != int(weight):
        raise BadWeight(f"a weight must be a whole number from 1 to {plan.max_weight}; at zero a data owner declines")
    return int(weight)


def _largest(word_bits: int) -> int:
    return (_FIELDS[word_bits].modulus - 1) // 2


def _largest_word(max_weight: int, fixed: Fixed) -> int:
    """Return the largest integer one contributor can encode: with the encoder's own roundings, which are monotonic.

    Above 2^53 the product's rounding can carry it past max_weight * bound * 2^s + 1/2, so the formula is not enough.
    """
    exact = Fraction(fixed.bound) * (max_weight << fixed.scale_bits)
    rounded = round(float(max_weight << fixed.scale_bits) * fixed.bound)
    return max(rounded, math.floor(exact + Fraction(1, 2)))


# Pure arithmetic in exact fractions, and every statement that is decoded brings the same plan again.
@functools.lru_cache(maxsize=256)
def _fits(word_bits: int, cohort: int, max_weight: int, fixed: Fixed) -> bool:
    exact = Fraction(fixed.bound) * (max_weight << fixed.scale_bits)
    most = _largest(word_bits)
    # In this order: once the exact product is that small, the same one in float64 cannot overflow.
    return cohort * (exact + Fraction(1, 2)) <= most and cohort * _largest_word(max_weight, fixed) <= most


def _finest(word_bits: int, cohort: int, max_weight: int, bound: float) -> Fixed | None:
    formats = (Fixed(scale_bits=bits, bound=float(bound)) for bits in range(LARGEST_SCALE, -1, -1))
    return next((fixed for fixed in formats if _fits(word_bits, cohort, max_weight, fixed)), None)


@functools.lru_cache(maxsize=256)
def _error(fixed: Fixed, contributors: int, total_weight: int) -> float:
    """Return q + (n + 5) 2u (q + B) of the module's docstring, rounded up."""
    rounding = Fraction(contributors, total_weight * 2 ** (fixed.scale_bits + 1))
    bound = rounding + Fraction(contributors + 5, 2**52) * (rounding + Fraction(fixed.bound))
    return math.nextafter(float(bound), math.inf)
