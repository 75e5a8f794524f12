"""Whom a model owner asks: drawn from seed and round, in a size that is drawn too, by a rule anybody can repeat."""

import struct
from collections import Counter
from typing import Any

from blake3 import blake3
from tertium.owner.questions import cohort_size, draw_cohort
from tertium.protocol.progress import RoundOpened
from tertium.protocol.site import OwnerPlan

Maker = Any
HERE = [f"p{number:02d}" for number in range(1, 13)]


def framed(label: str, *parts: bytes) -> bytes:
    """What a stranger computes from `docs/protocol.md`, without a line of the program."""
    return blake3(b"".join(struct.pack(">Q", len(part)) + part for part in (label.encode(), *parts))).digest()


def repeated(seed: int, number: int, least: int, most: int, here: list[str]) -> tuple[str, ...]:
    at = struct.pack(">Q", seed), struct.pack(">Q", number)
    size = least + int.from_bytes(framed("tertium/1 cohort size", *at), "big") % (most - least + 1)
    order = sorted(here, key=lambda name: framed("tertium/1 cohort sample", *at, name.encode()))
    return tuple(sorted(order[:size]))


def test_a_stranger_repeats_every_cohort() -> None:
    for seed in (0, 1, 2**63 - 1):
        plan = OwnerPlan(task="t", seed=seed, cohort=3, cohort_most=9)
        for number in range(1, 40):
            assert draw_cohort(plan, HERE[::-1], number) == repeated(seed, number, 3, 9, HERE)


def test_every_size_of_the_range_comes_as_often_as_another_and_none_outside() -> None:
    plan = OwnerPlan(task="t", seed=7, cohort=20, cohort_most=29)
    sizes = Counter(cohort_size(plan, number) for number in range(1, 10_001))
    assert sorted(sizes) == list(range(20, 30))
    # Each is 1,000 give or take 30, the standard deviation; the draw is fixed, so this cannot fail now and then.
    assert all(abs(found - 1000) < 4 * 30 for found in sizes.values())


def test_seed_and_round_make_the_size() -> None:
    def sizes(seed: int) -> list[int]:
        return [
            cohort_size(OwnerPlan(task="t", seed=seed, cohort=2, cohort_most=12), number) for number in range(1, 30)
        ]

    assert sizes(1) == sizes(1)
    assert sizes(1) != sizes(2)


def test_a_size_that_is_not_drawn_is_the_plans() -> None:
    for plan in (OwnerPlan(task="t", cohort=5), OwnerPlan(task="t", cohort=5, cohort_most=5)):
        assert {len(draw_cohort(plan, HERE, number)) for number in range(1, 50)} == {5}
    assert draw_cohort(OwnerPlan(task="t"), HERE[::-1], 1) == tuple(HERE)


def test_where_fewer_are_connected_all_of_them_are_asked() -> None:
    plan = OwnerPlan(task="t", cohort=5, cohort_most=9)
    assert {draw_cohort(plan, HERE[:5], number) for number in range(1, 50)} == {tuple(HERE[:5])}
    assert {len(draw_cohort(plan, HERE[:7], number)) for number in range(1, 100)} == {5, 6, 7}


def test_rounds_ask_cohorts_of_several_sizes_and_each_is_summed(make: Maker) -> None:
    run = make(7, plan=make.plan(rounds=8, cohort=3, cohort_most=6))
    assert set(run.run().values()) == {None}
    cohorts = [opened.cohort for opened in run.said("owner", RoundOpened)]
    assert cohorts == [repeated(run.plan.seed, number, 3, 6, make.names[:7]) for number in range(1, 9)]
    assert len({len(cohort) for cohort in cohorts}) > 1
    for number, cohort in enumerate(cohorts, 1):
        assert run.statement(number).contributors == cohort


def test_turns_go_round_and_draw_nobody() -> None:
    plan = OwnerPlan(task="t", seed=7, turns=(("bob",), ("dave", "alice")))
    asked = [draw_cohort(plan, ["alice", "bob", "carol", "dave"], number) for number in range(1, 6)]
    assert asked == [("bob",), ("alice", "dave"), ("bob",), ("alice", "dave"), ("bob",)]
    # Whose turn it is does not depend on who is there: a round waits for its cohort, as every round does.
    assert draw_cohort(plan, ["carol"], 1) == ("bob",)
