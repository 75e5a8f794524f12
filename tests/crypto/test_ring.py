"""The ring against Python's integers and fractions: exact sums in any order, means within the stated bound."""

import random
import tracemalloc
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto import ring
from tertium.crypto.errors import BadPlan, BadWeight, ImplausibleSum, Unencodable, WrongArray, WrongLength
from tertium.crypto.ring import Fixed, Plan, add, decode, decode_weight, encode, encode_weight, from_wire, to_wire

P = {32: 2**32 - 5, 64: 2**61 - 1}


def exact_word(value: float, weight: int, fixed: Fixed) -> int:
    """The contract in Python: one float64 product, rounded half to even by exact rational arithmetic."""
    return round(Fraction(float(value) * float(weight * 2**fixed.scale_bits)))


def signed(words, plan):
    half = 2 ** (plan.word_bits - 1)
    return [(int(w) + half) % (2 * half) - half for w in words]


def encoded(plan, fixed, values, weight):
    out = np.empty(values.size, plan.dtype)
    encode(plan, fixed, values, weight, out)
    return out


def plan32(**changes):
    fields = {
        "word_bits": 32,
        "cohort": 10,
        "max_weight": 100,
        "values": Fixed(scale_bits=16, bound=8.0),
        "metrics": Fixed(scale_bits=10, bound=64.0),
        "precision": 1e-3,
    }
    return Plan(**{**fields, **changes})


@st.composite
def rounds(draw):
    """A plan, a dtype, and contributions that fit it: (weight, list of values) each."""
    cohort = draw(st.integers(1, 12))
    max_weight = draw(st.sampled_from([1, 2, 7, 1000, 2**20, 2**31]))
    value_range = draw(st.sampled_from([1e-6, 0.3, 1.0, 10.0, 1e4]))
    word_bits = draw(st.sampled_from([32, 64]))
    fixed = ring._finest(word_bits, cohort, max_weight, value_range)
    if fixed is None or cohort * max_weight > (P[word_bits] - 1) // 2:
        word_bits, fixed = 64, ring._finest(64, cohort, max_weight, value_range)
    scale_bits = draw(st.integers(0, fixed.scale_bits))
    fixed = Fixed(scale_bits=scale_bits, bound=value_range)
    plan = Plan(word_bits=word_bits, cohort=cohort, max_weight=max_weight, values=fixed, metrics=fixed, precision=1e9)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    limit = float(np.float32(value_range)) if dtype is np.float32 else value_range
    if limit > value_range:
        limit = float(np.nextafter(np.float32(value_range), np.float32(0)))
    length = draw(st.integers(1, 5))
    value = st.one_of(
        st.floats(-limit, limit, width=32 if dtype is np.float32 else 64),
        st.sampled_from([limit, -limit, 0.0, -0.0]),
    )
    contributions = draw(
        st.lists(
            st.tuples(
                st.one_of(st.integers(1, max_weight), st.just(max_weight)),
                st.lists(value, min_size=length, max_size=length).map(lambda x: np.array(x, dtype)),
            ),
            min_size=1,
            max_size=cohort,
        )
    )
    return plan, contributions


@given(rounds(), st.randoms(use_true_random=False))
@settings(max_examples=250, deadline=None)
def test_aggregate_is_the_integer_sum_in_any_order_and_its_mean_is_within_the_bound(case, shuffler):
    plan, contributions = case
    fixed = plan.values
    length = contributions[0][1].size
    expected = [sum(exact_word(values[i], weight, fixed) for weight, values in contributions) for i in range(length)]
    assert max(abs(x) for x in expected) <= plan.honest_sum(fixed, len(contributions)) <= (P[plan.word_bits] - 1) // 2

    shuffler.shuffle(contributions)
    total = np.zeros(length, plan.dtype)
    weights = np.zeros(1, plan.dtype)
    for weight, values in contributions:
        add(total, encoded(plan, fixed, values, weight))
        add(weights, np.array([encode_weight(plan, weight)]))
    assert signed(total, plan) == expected

    n = len(contributions)
    total_weight = decode_weight(plan, weights[0], contributors=n)
    assert total_weight == sum(weight for weight, _ in contributions)
    mean = decode(plan, fixed, total, contributors=n) / total_weight
    bound = Fraction(plan.error_bound(fixed, n, total_weight))
    by_numpy = np.average(
        np.array([values for _, values in contributions], np.float64), axis=0, weights=[w for w, _ in contributions]
    )
    for i in range(length):
        exact = sum(w * Fraction(float(values[i])) for w, values in contributions) / total_weight
        assert abs(Fraction(float(mean[i])) - exact) <= bound
        assert abs(Fraction(float(mean[i])) - Fraction(float(by_numpy[i]))) <= bound


@given(rounds())
@settings(max_examples=100, deadline=None)
def test_encoding_is_within_half_a_step_and_one_rounding_of_the_exact_product(case):
    plan, contributions = case
    for weight, values in contributions:
        for value, word in zip(values, signed(encoded(plan, plan.values, values, weight), plan), strict=True):
            product = weight * Fraction(float(value)) * 2**plan.values.scale_bits
            assert abs(word - product) <= Fraction(1, 2) + abs(product) / 2**53


def test_ties_round_to_even():
    plan = plan32(values=Fixed(scale_bits=0, bound=8.0), precision=1.0)
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32)
    assert signed(encoded(plan, plan.values, values, 1), plan) == [0, 2, 2, 0, -2, -2]


def test_the_weight_is_applied_before_rounding():
    plan = plan32(values=Fixed(scale_bits=0, bound=8.0), precision=1.0)
    assert signed(encoded(plan, plan.values, np.array([0.4]), 10), plan) == [4]


def test_float32_and_float64_of_the_same_numbers_give_the_same_words():
    plan = plan32()
    values = np.random.default_rng(1).uniform(-8, 8, 1000).astype(np.float32)
    single, double = (encoded(plan, plan.values, values.astype(t), 77) for t in (np.float32, np.float64))
    assert np.array_equal(single, double)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("word_bits", [32, 64])
def test_long_vectors_are_encoded_added_and_decoded_as_short_ones(dtype, word_bits):
    plan = plan32(word_bits=word_bits)
    count = 2 * ring.BLOCK + 17
    values = np.random.default_rng(2).uniform(-8, 8, count).astype(dtype)
    words = encoded(plan, plan.values, values, 3)
    picks = [0, ring.BLOCK - 1, ring.BLOCK, 2 * ring.BLOCK - 1, 2 * ring.BLOCK, count - 1]
    assert signed(words[picks], plan) == [exact_word(values[i], 3, plan.values) for i in picks]
    total = words.copy()
    add(total, words)
    decoded = decode(plan, plan.values, total)
    assert decoded.dtype == np.float64
    expected = 2 * np.rint(values.astype(np.float64) * (3 << 16)) / 2**16
    assert np.array_equal(decoded, expected)


def test_words_with_strides_are_written_and_read():
    plan = plan32()
    values = np.arange(6, dtype=np.float32)
    out = np.zeros(12, plan.dtype)
    encode(plan, plan.values, values, 1, out[::2])
    assert np.array_equal(decode(plan, plan.values, out[::2]), values)
    assert not out[1::2].any()


def test_empty_vectors_are_vectors():
    plan = plan32()
    words = encoded(plan, plan.values, np.empty(0, np.float32), 1)
    add(words, words)
    assert decode(plan, plan.values, words).shape == (0,)
    assert from_wire(plan, bytes(to_wire(words)), 0).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 8.0001, -8.0001])
@pytest.mark.parametrize("index", [0, 5, ring.BLOCK, ring.BLOCK + 9])
def test_the_first_value_out_of_range_is_named_and_nothing_is_left_in_the_output(bad, index, dtype):
    plan = plan32()
    values = np.full(ring.BLOCK + 10, 8.0, dtype)
    values[index:] = bad
    values[-1] = 0.0 if index != values.size - 1 else bad
    out = np.full(values.size, 7, plan.dtype)
    with pytest.raises(Unencodable) as caught:
        encode(plan, plan.values, values, 1, out)
    assert caught.value.index == index
    assert not out.any()
    assert "8.0001" not in str(caught.value), "the value itself is private"


@pytest.mark.parametrize("weight", [0, -1, 101, 1.5, float("nan")])
def test_a_weight_out_of_range_is_refused(weight):
    plan = plan32()
    with pytest.raises(BadWeight):
        encoded(plan, plan.values, np.zeros(1), weight)
    with pytest.raises(BadWeight):
        encode_weight(plan, weight)


def test_arrays_that_do_not_fit_are_refused():
    plan = plan32()
    good = np.zeros(3, plan.dtype)
    frozen = np.zeros(3, plan.dtype)
    frozen.flags.writeable = False
    for values, out in [
        (np.zeros(3, np.float16), good),
        (np.zeros(3, np.int32), good),
        (np.zeros((3, 1)), good),
        (np.zeros(3, ">f4"), good),
        (np.zeros(4), good),
        (np.zeros(3), np.zeros(3, np.uint64)),
        (np.zeros(3), np.zeros(3, np.int32)),
        (np.zeros(3), np.zeros((3, 1), np.uint32)),
        (np.zeros(3), frozen),
    ]:
        with pytest.raises(WrongArray):
            encode(plan, plan.values, values, 1, out)
    for total, words in [
        (good, np.zeros(4, plan.dtype)),
        (good, np.zeros(1, plan.dtype)),
        (good, np.zeros(3, np.uint64)),
        (np.zeros(3), np.zeros(3)),
        (frozen, good),
    ]:
        with pytest.raises(WrongArray):
            add(total, words)
    with pytest.raises(WrongArray):
        decode(plan, plan.values, np.zeros(3, np.uint64))
    with pytest.raises(WrongArray):
        ring.check_words(good, plan, 4)


def test_a_format_of_another_plan_is_refused():
    plan = plan32()
    stranger = Fixed(scale_bits=30, bound=1000.0)
    with pytest.raises(BadPlan):
        encoded(plan, stranger, np.zeros(1), 1)
    with pytest.raises(BadPlan):
        decode(plan, stranger, np.zeros(1, plan.dtype))
    with pytest.raises(BadPlan):
        plan.error_bound(stranger, 1, 1)


def test_addition_wraps_at_the_word():
    for dtype in (np.dtype("<u4"), np.dtype("<u8")):
        total = np.array([2 ** (8 * dtype.itemsize) - 1, 5], dtype)
        add(total, np.array([2, 2**31], dtype))
        assert total.tolist() == [1, 5 + 2**31]


# --- plans ---


@pytest.mark.parametrize("word_bits", [32, 64])
def test_the_wrap_check_is_exact_at_its_edge(word_bits):
    edge = (P[word_bits] - 1) // 2
    metrics = Fixed(scale_bits=0, bound=0.25)

    def plan(**changes):
        fields = {"word_bits": word_bits, "cohort": 1, "max_weight": 1, "metrics": metrics, "precision": 1e6}
        return Plan(**{**fields, **changes})

    # cohort 1, weight 1, scale 2^0: the sum reaches bound + 1/2 (exact for 32-bit edges; 64-bit ones step by 2^7).
    step = 0.5 if word_bits == 32 else 128.0
    largest = float(edge - 0.5) if word_bits == 32 else float(2**60 - 128)
    plan(values=Fixed(scale_bits=0, bound=largest))
    with pytest.raises(BadPlan):
        plan(values=Fixed(scale_bits=0, bound=largest + step))
    with pytest.raises(BadPlan):
        plan(values=Fixed(scale_bits=1, bound=largest))
    with pytest.raises(BadPlan):
        plan(values=metrics, metrics=Fixed(scale_bits=0, bound=largest + step))
    # the half counts once a contributor: with |w v 2^s| = 0.5 a value may round up to 1, so n of them need n
    cohort = 3
    share = Fraction(edge, cohort) - Fraction(1, 2)
    bound = float(share)
    bound = bound if Fraction(bound) <= share else float(np.nextafter(bound, 0))
    plan(cohort=cohort, values=Fixed(scale_bits=0, bound=bound))
    with pytest.raises(BadPlan):
        plan(cohort=cohort, values=Fixed(scale_bits=0, bound=float(np.nextafter(bound, np.inf))))


def test_the_total_weight_must_fit_as_well():
    tiny = Fixed(scale_bits=0, bound=1e-12)
    fields = {"word_bits": 32, "cohort": 3, "values": tiny, "metrics": tiny, "precision": 1.0}
    edge = (P[32] - 1) // 2
    Plan(**fields, max_weight=edge // 3)
    with pytest.raises(BadPlan, match="total weight"):
        Plan(**fields, max_weight=edge // 3 + 1)


def test_an_honest_sum_of_64_bit_words_fits_although_the_product_is_rounded():
    # Near 2^60 a float64 steps by 128, so the encoder's product can exceed the exact one by far more than 1/2.
    plan = Plan.fit(cohort=7, max_weight=3, value_range=1.1, precision=1e-9)
    assert plan.word_bits == 64
    for fixed in (plan.values, plan.metrics):
        largest = signed(encoded(plan, fixed, np.array([fixed.bound]), plan.max_weight), plan)[0]
        assert largest <= plan.honest_sum(fixed, 1)
        assert 7 * largest <= plan.honest_sum(fixed) <= plan.largest_sum == (P[64] - 1) // 2


def test_a_product_that_is_rounded_past_the_largest_sum_is_refused():
    # 3 * bound is 2^60 - 64 exactly, within (p - 1)/2 = 2^60 - 1; in float64, as the encoder computes it, it is 2^60.
    bound = float((2**60 - 64) // 3)
    assert 3 * Fraction(bound) == 2**60 - 64
    assert 3.0 * bound == 2.0**60
    tiny = Fixed(scale_bits=0, bound=0.25)
    fields = {"word_bits": 64, "cohort": 1, "metrics": tiny, "values": Fixed(scale_bits=0, bound=bound)}
    Plan(**fields, max_weight=1, precision=1e6)
    with pytest.raises(BadPlan, match="the sum of values"):
        Plan(**fields, max_weight=3, precision=1e6)


def test_large_weights_are_exact():
    plan = Plan.fit(cohort=5, max_weight=2**31, value_range=1.0, precision=1e-3)
    weight = 2**31 - 1
    words = encoded(plan, plan.values, np.array([1.0, -1.0], np.float32), weight)
    step = 2**plan.values.scale_bits
    assert signed(words, plan) == [weight * step, -weight * step]


BAD_FIELDS = [
    {"word_bits": 16},
    {"word_bits": 33},
    {"cohort": 0},
    {"cohort": -1},
    {"cohort": 2**24 + 1},
    {"max_weight": 0},
    {"max_weight": 2**53},
    {"packing": 2},
    {"packing": 0},
    {"precision": 0.0},
    {"precision": 1e-9},
    {"cohort": 10**6},
    {"max_weight": 10**6},
]


@pytest.mark.parametrize("change", BAD_FIELDS)
def test_a_bad_plan_cannot_be_built_or_decoded(change):
    good = msgspec.to_builtins(plan32())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(good), type=Plan) == plan32()
    with pytest.raises(BadPlan):
        plan32(**change)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({**good, **change}), type=Plan)


@pytest.mark.parametrize(
    "change", [{"bound": 0.0}, {"bound": -1.0}, {"bound": float("nan")}, {"bound": float("inf")},
               {"scale_bits": -1}, {"scale_bits": 61}, {"scale_bits": True}]
)  # fmt: skip
def test_a_bad_format_cannot_be_built_or_decoded(change):
    fields = {"scale_bits": 3, "bound": 1.0, **change}
    with pytest.raises(BadPlan):
        Fixed(**fields)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Fixed)


def test_unknown_fields_are_refused_and_whole_numbers_hash_as_floats():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"scale_bits": 3, "bound": 1.0, "more": 1}', type=Fixed)
    whole = plan32(values=Fixed(scale_bits=16, bound=8), precision=1)
    assert msgspec.msgpack.encode(whole) == msgspec.msgpack.encode(plan32(precision=1.0))


@given(
    cohort=st.integers(1, 10_000),
    max_weight=st.integers(1, 10_000),
    value_range=st.floats(1e-6, 1e4),
    precision=st.floats(1e-6, 1.0),
)
@settings(max_examples=150, deadline=None)
def test_fit_gives_the_smallest_words_and_fills_them(cohort, max_weight, value_range, precision):
    wanted = {"cohort": cohort, "max_weight": max_weight, "value_range": value_range, "precision": precision}
    plan = Plan.fit(**wanted)
    assert (plan.cohort, plan.max_weight, plan.values.bound) == (cohort, max_weight, value_range)
    assert plan.error_bound(plan.values, cohort, cohort) <= precision
    assert plan.error_bound(plan.metrics, cohort, cohort) <= 0.01
    for name in ("values", "metrics"):
        fixed = getattr(plan, name)
        if fixed.scale_bits < ring.LARGEST_SCALE:
            finer = Fixed(scale_bits=fixed.scale_bits + 1, bound=fixed.bound)
            with pytest.raises(BadPlan):
                msgspec.structs.replace(plan, **{name: finer})
    if plan.word_bits == 64:
        values, metrics = (ring._finest(32, cohort, max_weight, x) for x in (value_range, 64.0))
        coarse = values is None or ring._error(values, cohort, cohort) > precision
        assert coarse or metrics is None or ring._error(metrics, cohort, cohort) > 0.01


def test_fit_says_what_to_change():
    with pytest.raises(BadPlan, match="ask for less precision, or lower the cohort"):
        Plan.fit(cohort=10_000, max_weight=10_000, value_range=1e4, precision=1e-7)
    with pytest.raises(BadPlan, match="a mean of metrics"):
        Plan.fit(cohort=10, max_weight=1, value_range=1.0, precision=1e-3, metric_precision=1e-15)
    with pytest.raises(BadPlan, match="cannot hold a sum of 1000 contributors"):
        Plan.fit(cohort=1000, max_weight=2**50, value_range=1e4, precision=1.0)
    for name in ("value_range", "precision", "metric_range", "metric_precision"):
        with pytest.raises(BadPlan, match=name):
            Plan.fit(**{"cohort": 5, "max_weight": 1, "value_range": 1.0, "precision": 0.1, name: float("nan")})
    with pytest.raises(BadPlan, match="cohort"):
        Plan.fit(cohort=0, max_weight=1, value_range=1.0, precision=0.1)


def test_error_bound_shrinks_with_weight_and_refuses_impossible_weights():
    plan = plan32()
    assert plan.error_bound(plan.values, 5, 5) >= 2.0**-17
    assert plan.error_bound(plan.values, 5, 500) < plan.error_bound(plan.values, 5, 5) / 50
    for contributors, weight in [(5, 4), (5, 501)]:
        with pytest.raises(BadWeight):
            plan.error_bound(plan.values, contributors, weight)
    for contributors in (0, 11):
        with pytest.raises(BadPlan):
            plan.error_bound(plan.values, contributors, 11)


# --- sums no honest contributors make ---


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_implausible_sum_is_refused_just_beyond_the_honest_one(word_bits, sign):
    plan = plan32(word_bits=word_bits)
    for contributors in (None, 1, 4):
        limit = plan.honest_sum(plan.values, contributors)
        assert limit == (contributors or 10) * 100 * 8 * 2**16
        words = np.zeros(ring.BLOCK + 3, plan.dtype)
        words[-1] = (sign * limit) % 2**word_bits
        assert decode(plan, plan.values, words, contributors=contributors)[-1] == sign * limit / 2**16
        words[-1] = (sign * (limit + 1)) % 2**word_bits
        with pytest.raises(ImplausibleSum, match=f"coordinate {words.size - 1} "):
            decode(plan, plan.values, words, contributors=contributors)


def test_a_sum_at_the_far_end_of_the_ring_is_refused():
    plan = plan32()
    with pytest.raises(ImplausibleSum):
        decode(plan, plan.values, np.array([2**31], plan.dtype))


def test_total_weights_are_plausible_or_refused():
    plan = plan32()
    assert decode_weight(plan, np.uint32(1000)) == 1000
    assert decode_weight(plan, np.uint32(3), contributors=3) == 3
    for word, contributors in [(0, None), (1001, None), (2**32 - 1, None), (2, 3), (301, 3)]:
        with pytest.raises(ImplausibleSum):
            decode_weight(plan, np.uint32(word), contributors=contributors)
    with pytest.raises(BadPlan):
        decode_weight(plan, np.uint32(3), contributors=11)


# --- the wire ---


@pytest.mark.parametrize("word_bits", [32, 64])
def test_words_are_little_endian_on_the_wire_and_not_copied(word_bits):
    plan = plan32(word_bits=word_bits)
    size = word_bits // 8
    words = np.array([1, 2 ** (word_bits - 8)], plan.dtype)
    data = bytes(to_wire(words))
    assert data == b"\x01" + bytes(2 * size - 2) + b"\x01"
    buffer = bytearray(data)
    view = from_wire(plan, memoryview(buffer), 2)
    assert view.dtype == plan.dtype
    assert np.array_equal(view, words)
    buffer[0] = 9
    assert view[0] == 9
    words[0] = 5
    assert not from_wire(plan, data, 2).flags.writeable
    assert to_wire(words)[0] == 5
    unaligned = from_wire(plan, memoryview(b"x" + data)[1:], 2)
    add(words, unaligned)
    assert words.tolist() == [6, 2 ** (word_bits - 7)]


@pytest.mark.parametrize("length", [0, 7, 9, 12, 16])
def test_a_vector_of_another_length_is_refused(length):
    with pytest.raises(WrongLength):
        from_wire(plan32(), bytes(length), 2)


def test_buffers_with_gaps_are_refused():
    with pytest.raises(WrongArray):
        from_wire(plan32(), memoryview(bytes(16))[::2], 2)
    with pytest.raises(WrongArray):
        to_wire(np.zeros(4, np.uint32)[::2])
    with pytest.raises(WrongArray):
        to_wire(np.zeros(4, np.float32))


def test_encoding_and_adding_allocate_no_more_than_one_block():
    plan = plan32()
    count = 40 * ring.BLOCK
    values = np.full(count, random.Random(3).uniform(-8, 8), np.float32)
    out, total = np.zeros(count, plan.dtype), np.zeros(count, plan.dtype)
    tracemalloc.start()
    try:
        encode(plan, plan.values, values, 1, out)
        add(total, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 8 * ring.BLOCK
