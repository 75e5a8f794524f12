"""Secure workers of a committee that are killed (-9) and never come back: the rest go on, or say that they cannot.

Each run is one federation of processes, of whose secure workers one or two end at a place in the second round. The
places are those of `test_committee_kills.py`, which follow from the code. With `shamir` 2 of 4 any one of them may be
anywhere: every round is summed over everybody, bit for bit as the oracle works it out. Of 2 of 3 and 3 of 5 that holds
once q have signed the set. `make test` runs `TELLING`; with TERTIUM_TORTURE set all places are tried.
"""

import os
from typing import Any

import pytest
from killing import KILLED, OWNER, THIRD, Killable
from tertium.protocol.charter import Mode, Role
from tertium.protocol.training import UpdateKind
from test_committee_kills import AT_THE_END, AT_THE_START, DEADLINES, NAMES, Kind, at, places

TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
OF_3, OF_4, OF_5 = (Kind(Mode.SHAMIR, "shamir", count) for count in (3, 4, 5))
ROUNDS = 4
ABORTING = ("write ATTEMPT_ABORTED", "send Aborted")
"""Places that one which dies for good never comes to."""
SIGNED = "send Closed"
"""What a secure worker says when it has signed; to the model owner first, and only then to anybody else."""
TELLING = (("write SET_AGREED", "after"),)
EVERYWHERE = [
    (place, when)
    for place in sorted(places(OF_4, Role.SECURE_WORKER) - set(ABORTING) - set(AT_THE_END) - {"send Refusal"})
    for when in ("before", "after")
]


def play(killable: Any, kind: Kind, plans: dict[str, Any], threshold: int | None = None) -> tuple[Killable, Any]:
    federation, oracle = killable(
        rounds=ROUNDS,
        data_owners=NAMES,
        kind=UpdateKind.DELTA,
        sharing={"mode": kind.mode, "scheme": kind.scheme, "workers": kind.workers, "threshold": threshold},
        **DEADLINES,
    )
    federation.start_all(plans)
    federation.until(federation.all_ended, 150.0)
    return federation, oracle


def rests_well(federation: Killable, oracle: Any, dead: set[str]) -> None:
    codes = {name: federation.now(name).code() for name in federation.lives}
    assert codes == {name: KILLED if name in dead else 0 for name in codes}, federation.story()
    federation.nothing_is_half_written()
    assert federation.exact(oracle) == [tuple(sorted(NAMES))] * ROUNDS
    assert federation.model is not None


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("place", "when"), EVERYWHERE if TORTURE else TELLING)
def test_any_one_of_2_of_4_dies_anywhere_and_every_round_is_exact(killable: Any, place: str, when: str) -> None:
    since = 0 if place in AT_THE_START else 2
    federation, oracle = play(killable, OF_4, {THIRD: [at(place, when=when, since=since)]})
    rests_well(federation, oracle, {THIRD})


if TORTURE:

    @pytest.mark.timeout(200)
    @pytest.mark.parametrize("place", ["send Release", "write ROUND_ATTESTED", "send RoundRecord"])
    def test_one_of_2_of_3_dies_after_the_last_set_is_signed(killable: Any, place: str) -> None:
        federation, oracle = play(killable, OF_3, {THIRD: [at(place, since=ROUNDS)]})
        rests_well(federation, oracle, {THIRD})

    @pytest.mark.timeout(200)
    def test_one_of_2_of_3_that_dies_before_ends_it_in_an_abort(killable: Any) -> None:
        federation, oracle = play(killable, OF_3, {THIRD: [at("write CONTRIBUTION_ADDED")]})
        codes = {name: federation.now(name).code() for name in federation.lives}
        assert codes == {name: KILLED if name == THIRD else 3 for name in codes}, federation.story()
        assert f"{THIRD} is not reachable" in federation.now(OWNER).err
        assert len(federation.exact(oracle)) == federation.done == 1
        assert {abort.party for abort in federation.aborts()} >= {OWNER}

    @pytest.mark.timeout(200)
    def test_two_of_3_of_5_die_after_the_last_set_is_signed(killable: Any) -> None:
        first, second = OF_5.workers[:2]
        plans = {name: [at("send Release", since=ROUNDS)] for name in (first, second)}
        federation, oracle = play(killable, OF_5, plans, threshold=3)
        rests_well(federation, oracle, {first, second})
