"""Totals of which some lie: the right sum is found by its fingerprint, or by all that agree; liars are named."""

import itertools
import os
from typing import Any

import numpy as np
import pytest
from tertium.crypto.errors import ImplausibleSum
from tertium.crypto.fingerprint import fingerprint
from tertium.crypto.ring import FIELD_32, FIELD_64, Plan, check_plausible
from tertium.crypto.sharing import scheme
from tertium.crypto.sharing.recovery import recover_sum

LENGTH = 40
CONTRIBUTORS = 3
PLANS = {
    32: Plan.fit(cohort=3, max_weight=1, value_range=8.0, precision=1e-5, metric_range=10.0, metric_precision=1e-3),
    64: Plan.fit(cohort=3, max_weight=1000, value_range=8.0, precision=1e-7, metric_range=10.0, metric_precision=1e-3),
}


def totals_of(made: Any, plan: Plan, seed: int) -> tuple[dict[int, Any], Any]:
    """The totals of a few secrets, and their sum."""
    chance = np.random.default_rng(seed)
    signed = np.dtype(f"<i{plan.dtype.itemsize}")
    secrets = [chance.integers(-1000, 1000, LENGTH).astype(signed).view(plan.dtype) for _ in range(CONTRIBUTORS)]
    holders = [made.holder(plan, LENGTH, index) for index in range(made.holders)]
    totals = {index: holder.zero() for index, holder in enumerate(holders)}
    for turn, secret in enumerate(secrets):
        for index, share in enumerate(made.dealer(plan, LENGTH).split(secret.copy(), turn)):
            holders[index].accumulate(totals[index], share)
    return totals, sum(secrets[1:], secrets[0].copy())


def lies(total: Any, plan: Plan, seed: int) -> Any:
    field = FIELD_32 if plan.dtype.itemsize == 4 else FIELD_64
    chance = np.random.default_rng(seed)
    changed = total.copy()
    at = int(chance.integers(total.size))
    changed[at] = (int(changed[at]) + int(chance.integers(1, field.modulus - 1))) % field.modulus
    return changed


@pytest.mark.parametrize("bits", PLANS)
@pytest.mark.parametrize(
    ("name", "holders", "threshold"),
    [("shamir", 3, 2), ("shamir", 4, 2), ("shamir", 5, 2), ("shamir", 5, 3), ("replicated", 3, 2)],
)
def test_with_the_right_fingerprint_any_threshold_of_honest_totals_is_enough(
    name: str, holders: int, threshold: int, bits: int
) -> None:
    made, plan = scheme(name, holders, threshold), PLANS[bits]
    assert plan.word_bits == bits
    totals, expected = totals_of(made, plan, holders)
    challenge = os.urandom(32)
    right = fingerprint(expected, challenge)
    for count in range(1, holders - threshold + 1):
        for liars in itertools.combinations(range(holders), count):
            given = {index: lies(each, plan, index) if index in liars else each for index, each in totals.items()}
            found = recover_sum(made, plan, LENGTH, given, lambda total: fingerprint(total, challenge) == right)
            assert found is not None, liars
            np.testing.assert_array_equal(found[0], expected)
            assert found[1] == liars
    # With one more that lies there are too few that do not.
    liars = range(holders - threshold + 1)
    given = {index: lies(each, plan, index) if index in liars else each for index, each in totals.items()}
    assert recover_sum(made, plan, LENGTH, given, lambda total: fingerprint(total, challenge) == right) is None


@pytest.mark.parametrize(("holders", "threshold", "named"), [(3, 2, False), (4, 2, True), (5, 3, True), (5, 4, False)])
def test_without_a_fingerprint_one_liar_is_named_where_enough_others_agree(
    holders: int, threshold: int, named: bool
) -> None:
    made, plan = scheme("shamir", holders, threshold), PLANS[32]
    totals, expected = totals_of(made, plan, 7)
    for liar in range(holders):
        found = recover_sum(made, plan, LENGTH, {**totals, liar: lies(totals[liar], plan, liar)}, None)
        if not named:
            assert found is None
            continue
        assert found is not None
        np.testing.assert_array_equal(found[0], expected)
        assert found[1] == (liar,)


def test_a_total_outside_the_field_is_a_lie_like_any_other() -> None:
    made, plan = scheme("shamir", 4, 2), PLANS[32]
    totals, expected = totals_of(made, plan, 3)
    totals[1][5] = FIELD_32.modulus
    found = recover_sum(made, plan, LENGTH, totals, None)
    assert found is not None
    np.testing.assert_array_equal(found[0], expected)
    assert found[1] == (1,)


def test_several_sets_that_agree_with_themselves_name_nobody() -> None:
    made, plan = scheme("shamir", 6, 2), PLANS[32]
    (one, _), (other, _) = totals_of(made, plan, 1), totals_of(made, plan, 2)
    # Three holders tell one consistent story and three another: neither is larger.
    assert recover_sum(made, plan, LENGTH, {**one, 3: other[3], 4: other[4], 5: other[5]}, None) is None


def test_a_scheme_that_needs_every_total_recovers_nothing() -> None:
    made, plan = scheme("additive", 3), PLANS[32]
    totals, _ = totals_of(made, plan, 1)
    assert recover_sum(made, plan, LENGTH, totals, lambda _: True) is None


@pytest.mark.parametrize("bits", PLANS)
def test_a_word_that_is_honest_for_nobody_is_implausible(bits: int) -> None:
    plan = PLANS[bits]
    limit = plan.largest_sum
    signed = np.dtype(f"<i{plan.dtype.itemsize}")
    for value in (limit, -limit, 0):
        check_plausible(plan, np.array([0, value, 0], signed).view(plan.dtype))
    for value in (limit + 1, -limit - 1):
        with pytest.raises(ImplausibleSum):
            check_plausible(plan, np.array([0, value, 0], signed).view(plan.dtype))
    check_plausible(plan, np.empty(0, plan.dtype))
