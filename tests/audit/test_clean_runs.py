"""A run in which nobody lied has no violation, in any mode, and the matrix says what the mode says of itself."""

from typing import Any

import msgspec
import pytest
from tertium.audit.report import How, Kind, Level, Severity

Maker = Any
SHARED = ("additive", "shamir 2 of 3", "shamir 2 of 4", "replicated")


def cell(report: Any, who: tuple[str, ...], whose: str) -> Any:
    (row,) = [row for row in (*report.matrix, *report.coalitions) if set(row.who) == set(who)]
    (found,) = [each for each in row.cells if each.whose == whose]
    return found


@pytest.mark.parametrize("mode", ["trusted", "masked", *SHARED])
def test_a_clean_run_of_every_mode(make: Maker, mode: str) -> None:
    done = make.audit(make.ran(mode, rounds=2))
    report = done.report
    assert done.violations == []
    assert report.verdict == "clean"
    assert [each.text for each in report.of(Severity.ANOMALY)] == []
    assert [each.check for each in report.attempts] == ["verified", "verified"]
    assert all(each.contributors == ("alice", "bob", "carol") for each in report.attempts)
    assert all(len(each.cosigned) == 4 and not each.not_cosigned for each in report.attempts)
    assert {party.given for party in report.parties} == {True}
    assert all(0 < party.vouched <= party.signed <= party.entries for party in report.parties)
    kept = {(each.party, each.data) for each in report.retention if each.taken != each.erased}
    assert kept == set()
    owner = cell(report, ("owner",), "alice")
    assert (owner.level, owner.text) == (Level.AGGREGATE, "aggregate of 3")
    first = cell(report, ("first",), "alice")
    assert first.text == {"trusted": "plaintext", "masked": "share 1 of 2", "shamir 2 of 4": "share 1 of 4"}.get(
        mode, "share 1 of 3"
    )
    assert cell(report, ("alice",), "bob").text == "aggregate of 2"
    assert cell(report, ("alice", "carol"), "bob").text == "plaintext, from sums"
    both = cell(report, ("owner", "first"), "bob")
    assert (both.level is Level.PLAINTEXT) is (mode in ("trusted", "masked"))
    if mode in SHARED:
        workers = ("first", "second")
        assert (cell(report, workers, "bob").level is Level.PLAINTEXT) is (mode != "additive")
        assert cell(report, ("first", "second", "third"), "bob").level is Level.PLAINTEXT
    ways = {each.how for each in report.exposures}
    assert ways >= {How.MODE, How.OTHERS}
    assert all(each.allowed for each in report.exposures)


def test_a_plain_run_is_a_violation_of_the_owner(make: Maker) -> None:
    done = make.audit(make.ran("plain", rounds=2))
    assert done.violations == [(Kind.PLAIN_ACCESS, "owner")]
    done.holds(Kind.PLAIN_ACCESS, "owner")
    assert [each.level for each in done.report.matrix[0].cells] == [Level.PLAINTEXT] * 3


def test_the_owner_and_all_but_two_have_a_sum_of_two_left_and_that_is_no_violation(make: Maker) -> None:
    done = make.audit(make.ran("additive", parties=4))
    assert done.violations == []
    left = [each for each in done.report.exposures if each.how is How.TWO_LEFT]
    assert (("owner", "alice", "bob"), "carol") in [(each.who, each.whose) for each in left]
    assert cell(done.report, ("owner", "alice", "bob"), "carol").text == "aggregate of 2"


def test_entries_of_another_charter_are_counted_and_held_against_nobody(make: Maker) -> None:
    ran = make.ran()
    ran.charter = msgspec.structs.replace(ran.charter, serial=2)
    done = make.audit(ran)
    assert done.violations == []
    assert done.report.of(Severity.ANOMALY) == ()
    assert done.report.attempts == ()
    number = sum(party.entries for party in done.report.parties)
    assert done.report.left_out == (f"{number} entries are of another charter than was given",)
