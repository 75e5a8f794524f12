"""The scheme `trusted`, driven through its three halves as any scheme is, and the look-up by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tertium.crypto.errors import BadSeed, UnknownScheme, WrongArray, WrongHolders, WrongShare
from tertium.crypto.ring import Plan, decode, encode
from tertium.crypto.sharing import scheme
from tertium.crypto.sharing.base import Domain, Scheme, Seed

PLAN = Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-3)
WIDE = Plan.fit(cohort=8, max_weight=50, value_range=4.0, precision=1e-12)


def test_what_the_scheme_declares():
    trusted = scheme("trusted")
    assert isinstance(trusted, Scheme)
    assert (trusted.name, trusted.version, trusted.domain) == ("trusted", 1, Domain.RING)
    assert (trusted.holders, trusted.threshold) == (1, 1)
    assert trusted.collusion_sets == (frozenset({0}),), "the one holder alone reads each update"
    assert "data owners" in trusted.survives


def test_schemes_are_found_by_name_only():
    with pytest.raises(UnknownScheme, match=r"known are .*trusted"):
        scheme("Trusted")
    with pytest.raises(UnknownScheme):
        scheme("os.system")


@given(
    plan=st.sampled_from([PLAN, WIDE]),
    secrets=st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4), min_size=1, max_size=6),
    cut=st.integers(0, 6),
)
@settings(max_examples=80, deadline=None)
def test_the_combined_total_is_the_sum_of_the_secrets_even_through_two_merged_totals(plan, secrets, cut):
    trusted = scheme("trusted")
    dealer, holder, combiner = trusted.dealer(plan, 4), trusted.holder(plan, 4, 0), trusted.combiner(plan, 4)
    modulus = 2**plan.word_bits
    left, right = holder.zero(), holder.zero()
    for i, secret in enumerate(secrets):
        words = np.array([word % modulus for word in secret], plan.dtype)
        shares = dealer.split(words)
        assert len(shares) == trusted.holders
        holder.accumulate(left if i < cut else right, shares[0])
        assert words.tolist() == [word % modulus for word in secret], "accumulating leaves the share as it was"
    holder.merge(left, right)
    expected = [sum(column) % modulus for column in zip(*secrets, strict=True)]
    assert combiner.combine({0: left}).tolist() == expected


def test_from_floats_to_their_sum():
    trusted = scheme("trusted")
    dealer, holder = trusted.dealer(PLAN, 3), trusted.holder(PLAN, 3, 0)
    total = holder.zero()
    for weight in (1, 50):
        words = np.zeros(3, PLAN.dtype)
        encode(PLAN, PLAN.values, np.array([0.5, -4.0, 4.0]), weight, words)
        for share in dealer.split(words):
            holder.accumulate(total, share)
    total = trusted.combiner(PLAN, 3).combine({0: total})
    assert decode(PLAN, PLAN.values, total).tolist() == [25.5, -204.0, 204.0]


def test_totals_are_independent():
    holder = scheme("trusted").holder(PLAN, 2, 0)
    first, second = holder.zero(), holder.zero()
    holder.accumulate(first, np.ones(2, PLAN.dtype))
    assert first.tolist() == [1, 1]
    assert second.tolist() == [0, 0]


@pytest.mark.parametrize("bad", [np.zeros(3, PLAN.dtype), np.zeros(2, WIDE.dtype), np.zeros((2, 1), PLAN.dtype)])
def test_vectors_of_another_plan_or_length_are_refused(bad):
    trusted = scheme("trusted")
    holder = trusted.holder(PLAN, 2, 0)
    for use in (
        lambda: trusted.dealer(PLAN, 2).split(bad),
        lambda: holder.accumulate(holder.zero(), bad),
        lambda: holder.accumulate(bad, bad),
        lambda: holder.merge(holder.zero(), bad),
        lambda: trusted.combiner(PLAN, 2).combine({0: bad}),
    ):
        with pytest.raises(WrongArray):
            use()


def test_a_seed_is_no_share_of_this_scheme():
    holder = scheme("trusted").holder(PLAN, 2, 0)
    total = holder.zero()
    with pytest.raises(WrongShare):
        holder.accumulate(total, Seed(bytes(32)))
    assert not total.any()


def test_holders_that_are_not_there_are_refused():
    trusted = scheme("trusted")
    total = trusted.holder(PLAN, 2, 0).zero()
    for partials in ({}, {1: total}, {0: total, 1: total}):
        with pytest.raises(WrongHolders):
            trusted.combiner(PLAN, 2).combine(partials)
    for index in (1, -1):
        with pytest.raises(WrongHolders):
            trusted.holder(PLAN, 2, index)


def test_a_seed_share_is_32_bytes_and_never_shown():
    with pytest.raises(BadSeed):
        Seed(bytes(31))
    shown = repr(Seed(b"\xaa" * 32))
    assert "aa" not in shown
    assert "170" not in shown
