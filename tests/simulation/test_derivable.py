"""What coalitions can derive: the declared ones do, and of all others none, tried one by one."""

import itertools
from typing import Any

import pytest
from tertium.protocol.charter import Mode
from tertium.simulation.crashes import CrashPlan
from tertium.simulation.derivable import NoUpdateDerivable
from tertium.simulation.scenario import NAMES, WORKERS, Kind, kinds, of_kind
from tertium.simulation.shares import PRIME, Unknown, reaches, solve

OWNERS = NAMES[:3]
LOST = CrashPlan("third", "Send Receipted", 2, "after", "after its last words", 0.3)
HIDING = [kind for kind in kinds() if kind.mode not in (Mode.TRUSTED, Mode.PLAIN)]
A, B = Unknown("alice", True), Unknown("bob", True)
R, S = Unknown("alice", False, b"r"), Unknown("alice", False, b"s")


def named(kind: Kind) -> str:
    return f"{kind.scheme} of {kind.workers}"


@pytest.mark.parametrize(
    ("forms", "found"),
    [
        ([{A: 1}], True),
        ([{A: 2, R: 2}, {R: PRIME - 3}], True),
        ([{A: 1, R: -1}, {S: 1}], False),
        ([{A: 1, R: -1, S: -1}, {R: 1}], False),
        ([{A: 1, R: -1, S: -1}, {R: 1, S: 1}], True),
        ([{A: 1, B: 1}, {A: 1, B: 2}], True),
        ([{A: 1, B: 1}, {A: 2, B: 2}, {R: 1}], False),
        ([{R: 1, S: 1}, {R: 1, S: -1}, {S: 3}], False),
        ([{R: 1, B: 1}, {S: 1, R: 1}, {S: 1, A: 1}, {A: 1, B: -1, R: -2}, {R: -4, A: 2, B: -2}], False),
        ([{R: 1, B: 1}, {S: 1, R: 1}, {S: 1, A: 1}, {B: 1, S: 1}, {R: 1}], True),
        ([], False),
    ],
)
def test_a_combination_that_reaches_one_update_is_found_in_any_order(forms: Any, found: bool) -> None:
    for ordered in itertools.islice(itertools.permutations(forms), 24):
        assert reaches(ordered, frozenset({A})) is found


def test_factors_are_solved_for_modulo_a_prime() -> None:
    one, other = [3, 5, 7, 11], [2, 0, 9, 4]
    wanted = [(6 * a - 4 * b) % 101 for a, b in zip(one, other, strict=True)]
    assert solve([one, other], wanted, 101) == [6, 97]
    assert solve([other, one], wanted, 101) == [97, 6]
    assert solve([one, other], [*wanted[:3], wanted[3] + 1], 101) is None
    assert solve([[0, 0, 0, 0], one], one, 101) == [0, 1]
    assert solve([], [1], 101) is None


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Everything that is held after two rounds, the first of them in two attempts, by kind of federation."""
    from tertium.simulation.scenario import Scenario
    from tertium.simulation.world import World

    made: dict[Kind, Any] = {}

    def invariant(kind: Kind) -> Any:
        if kind not in made:
            scenario = Scenario(1, "by hand", OWNERS, 3, 2, evaluator=True, crashes=(LOST,))
            world = World(of_kind(scenario, kind), tmp_path_factory.mktemp("owner"), [NoUpdateDerivable])
            assert world.play() == []
            assert len(world.released) == 2
            assert {question.attempt for question in world.questions.values()} == {0, 1}
            made[kind] = world._invariants[0]
        return made[kind]

    return invariant


def all_coalitions(world: Any) -> list[frozenset[str]]:
    sizes = range(len(world.roles) + 1)
    return [frozenset(some) for size in sizes for some in itertools.combinations(sorted(world.roles), size)]


@pytest.mark.parametrize("kind", kinds(), ids=named)
def test_no_coalition_but_a_declared_one_derives_anything_and_those_do(held: Any, kind: Kind) -> None:
    invariant = held(kind)
    others = 0
    for coalition in all_coalitions(invariant.world):
        if invariant.allowed(coalition):
            assert invariant.derives(coalition) == [], sorted(coalition)
            others += 1
        elif len(coalition & set(OWNERS)) < 2:
            assert invariant.derives(coalition) == sorted(set(OWNERS) - coalition), sorted(coalition)
    assert 0 < others < 2 ** len(invariant.world.roles)


@pytest.mark.parametrize("kind", kinds(), ids=named)
def test_the_largest_coalitions_are_tried(held: Any, kind: Kind) -> None:
    """Whoever is in no smaller company than a pair of data owners is in one of those that are tried."""
    invariant = held(kind)
    tried = list(invariant.coalitions())
    assert tried
    for coalition in all_coalitions(invariant.world):
        small = len(set(OWNERS) - coalition) >= 2 and invariant.allowed(coalition)
        assert any(coalition <= each for each in tried) is small, sorted(coalition)


def test_all_other_contributors_derive_an_update_and_that_is_declared(held: Any) -> None:
    invariant = held(HIDING[0])
    others = frozenset({"alice", "bob"})
    assert invariant.derives(others) == []
    declared, invariant._released = invariant._released, []
    try:
        assert invariant.derives(others) == ["carol"]
    finally:
        invariant._released = declared


def test_whoever_is_hostile_is_in_every_coalition(play: Any) -> None:
    for hostile in (*WORKERS[:3], "alice", "owner"):
        world = play(
            NoUpdateDerivable, mode=Mode.ADDITIVE, workers=WORKERS[:3], hostile=hostile, lie="", leaves=0.0, rounds=1
        )
        tried = list(world._invariants[0].coalitions())
        assert tried
        assert all(hostile in each for each in tried)
    world = play(NoUpdateDerivable, hostile="third", leaves=0.0)
    assert not list(world._invariants[0].coalitions())
