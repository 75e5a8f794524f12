"""A model owner with one of four secure workers against the other three: never one model summed over two sets.

That it tries the right things is shown by taking a defence away: then it gets there.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tertium.protocol.seats import Seats
from tertium.secure_worker.gate import ReleaseGate
from tertium.simulation.derivable import NoUpdateDerivable
from tertium.simulation.scenario import CONSPIRACY, WORKERS, draw
from tertium.simulation.sums import OneModelOneSet
from tertium.simulation.torture import explain, run
from tertium.simulation.world import World

SEEDS = 8
"""Those after them, up to 20, are played by `make long`."""
FINDS = {"quorum": (15, 31), "bind": (0, 38)}
"""Seeds that find it without that defence, of about one in twenty; each alone would do."""
SEARCHED = range(100) if os.environ.get("TERTIUM_TORTURE") else None
"""With torture so many are searched, so that nothing hangs on which seeds those are."""


def worlds(folder: Path, seeds: Iterable[int], *invariants: Any) -> Iterator[World]:
    for seed in seeds:
        (folder / str(seed)).mkdir()
        world = World(draw(seed, CONSPIRACY), folder / str(seed), invariants)
        world.play()
        yield world


def test_no_invariant_breaks_over_an_owner_with_an_accomplice() -> None:
    broken = [each for each in run(range(SEEDS), family=CONSPIRACY) if each.broken]
    assert not broken, "\n".join(explain(each.seed, each.broken, CONSPIRACY) for each in broken)


def test_a_conspiracy_is_of_four_secure_workers_of_which_three_make_a_quorum() -> None:
    drawn = [draw(seed, CONSPIRACY) for seed in range(50)]
    assert {each.accomplice for each in drawn} == set(WORKERS)
    assert all(each.liars == {"owner", each.accomplice} and each.lie == "conspires" for each in drawn)
    assert {len(each.data_owners) > each.minimum for each in drawn} == {True}


def test_the_conspirator_trips_over_nothing_and_tries_everything(tmp_path: Path) -> None:
    """An error that escaped it would only look like a party that left."""
    done: set[str] = set()
    for world in worlds(tmp_path, range(4)):
        assert not [entry for entry in world.trace if entry[1] == "crashes"]
        done |= {entry[4] for entry in world.trace if entry[1:3] == ("says", "owner")}
    assert done >= {"RequestSession", "ProposeRound", "Invitation", "Lists", "Closes"}


def test_both_of_them_are_in_every_coalition(tmp_path: Path) -> None:
    for world in worlds(tmp_path, range(1), NoUpdateDerivable):
        tried = list(world._invariants[0].coalitions())
        assert tried
        assert all(world.scenario.liars <= each for each in tried)


@pytest.mark.parametrize("defence", FINDS)
def test_without_a_defence_two_sums_over_different_sets_come_out(
    defence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum of any two; or a gate that binds nobody to a set it has signed or released."""
    if defence == "bind":
        monkeypatch.setattr(ReleaseGate, "bind", staticmethod(lambda _: ()))
    else:
        init = Seats.__init__

        def weaker(self: Any, charter: Any) -> None:
            init(self, charter)
            self.quorum = 2

        monkeypatch.setattr(Seats, "__init__", weaker)
    played = list(worlds(tmp_path, SEARCHED or FINDS[defence], OneModelOneSet))
    found = [world.broken for world in played if world.broken]
    assert found
    assert all(each[0].startswith("OneModelOneSet: one model is released over ") for each in found)
