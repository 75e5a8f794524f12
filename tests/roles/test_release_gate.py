"""The release gate by itself: what may leave a secure worker, and which differences of two sums it stops."""

from types import SimpleNamespace
from typing import Any

import pytest
from tertium.protocol.charter import Role
from tertium.protocol.errors import GateShut
from tertium.protocol.journal import Journal, Write
from tertium.secure_worker.gate import Decision, ReleaseGate

SESSION, MODEL = b"s" * 32, b"m" * 32
FIVE = ("alice", "bob", "carol", "dave", "erin")


class Deciding(ReleaseGate):
    """Writes down what it decides, as a secure worker does."""

    def decide(self, question: Any, contributors: tuple[str, ...]) -> Decision:
        decision = super().decide(question, contributors)
        self._journal.write(Write.RELEASE_DECIDED, *self.entries(decision))
        return decision


def gate(minimum: int = 3, stable: int | None = None) -> ReleaseGate:
    rules = SimpleNamespace(minimum_cohort=minimum, stable_cohort=stable)
    journal = Journal(None, party="third", role=Role.SECURE_WORKER, signing=bytes(32))
    return Deciding(SimpleNamespace(rules=rules), journal)  # type: ignore[arg-type]


def question(number: int = 1, session: bytes = SESSION, model: bytes | None = None) -> Any:
    return SimpleNamespace(session=session, round=number, model=model or bytes([number]) * 32)


@pytest.mark.parametrize("count", range(3))
def test_too_few_contributors_are_never_released(count: int) -> None:
    with pytest.raises(GateShut, match="minimum cohort is 3"):
        gate().decide(question(), FIVE[:count])


def test_the_minimum_itself_is_released() -> None:
    assert gate().decide(question(model=MODEL), FIVE[:3]) == Decision(SESSION, 1, MODEL, FIVE[:3])


@pytest.mark.parametrize("second", [FIVE, FIVE[:4]], ids=["the same set", "another set"])
def test_a_round_is_released_once(second: tuple[str, ...]) -> None:
    shut = gate()
    shut.decide(question(), FIVE)
    with pytest.raises(GateShut, match="released already"):
        shut.decide(question(), second)
    shut.decide(question(2), FIVE)


def test_a_round_of_another_session_is_another_round() -> None:
    shut = gate()
    shut.decide(question(), FIVE)
    shut.decide(question(session=b"t" * 32, model=MODEL), FIVE)


def test_one_model_is_released_over_one_set_only_across_sessions() -> None:
    shut = gate()
    shut.decide(question(model=MODEL), FIVE)
    for session, number in ((SESSION, 2), (b"t" * 32, 1)):
        with pytest.raises(GateShut, match="another contributor set"):
            shut.decide(question(number, session, MODEL), FIVE[:4])
        shut.decide(question(number, session, MODEL), FIVE)


def test_a_refusal_is_not_recorded_as_a_release() -> None:
    shut = gate()
    with pytest.raises(GateShut):
        shut.decide(question(model=MODEL), FIVE[:2])
    shut.decide(question(model=MODEL), FIVE[:4])


@pytest.mark.parametrize(
    ("first", "second", "shuts"),
    [
        (FIVE, FIVE, False),
        (FIVE, FIVE[:4], True),
        (FIVE[:4], FIVE, True),
        (FIVE[:4], (*FIVE[1:4], "erin"), True),
        (FIVE[:3], FIVE, False),
        (FIVE, FIVE[:3], False),
        (FIVE[:4], ("dave", "erin", "frank", "grace"), False),
    ],
)
def test_a_stable_cohort_stops_small_changes_either_way(
    first: tuple[str, ...], second: tuple[str, ...], shuts: bool
) -> None:
    shut = gate(stable=2)
    shut.decide(question(1), first)
    if shuts:
        with pytest.raises(GateShut, match="fewer than 2"):
            shut.decide(question(2), second)
    else:
        shut.decide(question(2), second)


def test_a_stable_cohort_is_held_against_every_earlier_release() -> None:
    """By way of a third set that is far from both, two that differ by one would be released all the same."""
    shut = gate(stable=2)
    shut.decide(question(1), FIVE)
    shut.decide(question(2), FIVE[:3])
    with pytest.raises(GateShut, match="fewer than 2"):
        shut.decide(question(3), FIVE[:4])


def test_the_sets_that_isolate_a_party_by_way_of_a_third_are_stopped() -> None:
    shut = gate(stable=2)
    shut.decide(question(1), tuple("abcdef"))
    shut.decide(question(2), tuple("abcgh"))
    with pytest.raises(GateShut):
        shut.decide(question(3), tuple("abcde"))  # round 1 less round 3 is f


def test_without_a_stable_cohort_sets_may_change() -> None:
    shut = gate()
    shut.decide(question(1), FIVE)
    shut.decide(question(2), FIVE[:4])
