"""A model owner that its operator stops, at every moment of a session: everybody else ends then, and says so."""

import os
from itertools import count
from typing import Any

import pytest
from tertium.owner.machine import ModelOwner
from tertium.protocol.messages import Aborted
from tertium.protocol.rounds import Phase
from tertium.secure_worker.machine import SecureWorker

Maker = Any
STOPPED = "stopped by its operator"
LONG = os.environ.get("TERTIUM_LONG") == "1"
"""Every moment is tried in both orders; else every third one in the order in which the model owner comes first."""
SOON = 3.0
"""Simulated seconds: less than any deadline and any absence."""
FIRST = {True: ("owner", "third", "alice", "bob", "carol"), False: ("carol", "bob", "alice", "third", "owner")}


class Applies(ModelOwner):
    """Takes a few turns to apply the first aggregate, as its work thread does; the second is applied at once."""

    held: tuple[str, Any, float] | None = None

    def worked(self, tag: str, result: Any, now: float) -> None:
        if self._round == 0 and self.phase is Phase.APPLYING:
            self.held = (tag, result, now + 0.03)
        else:
            super().worked(tag, result, now)

    def tick(self, now: float) -> None:
        if self.held is not None and now >= self.held[2]:
            tag, result, _ = self.held
            self.held = None
            super().worked(tag, result, now)
        super().tick(now)

    def next_deadline(self) -> float | None:
        return self.held[2] if self.held is not None else super().next_deadline()


@pytest.mark.parametrize("first", [True, False], ids=["owner-first", "owner-last"])
def test_an_owner_that_is_stopped_ends_everybody_at_any_moment_of_a_session(make: Maker, first: bool) -> None:
    phases, moments = set(), 0
    step = 3 if first and not LONG else 1
    for moment in count(step=step):
        run = make(plan=make.plan(rounds=2), order=FIRST[first], machines={"owner": Applies, "carol": make.hesitant})
        owner = run.parties["owner"]
        run.run(until=lambda run=run: run.machines["owner"].phase not in (Phase.CONNECTING, Phase.OPENING))
        for _ in range(moment):
            run.turn()
            run.clock.now += 0.01
        if owner.done:
            break
        phases.add(owner.machine.phase)
        moments += 1
        owner.interrupt(STOPPED)
        errors = run.run(most_seconds=run.clock.now + SOON)
        if owner.error is None:
            continue  # it came to its end in that very turn
        assert set(errors) == set(run.roles)
        assert all(STOPPED in str(error) for error in errors.values()), (moment, errors)
        assert not run.all_refused, moment
    assert moments > 20 // step
    assert step > 1 or phases >= {
        Phase.OFFERING,
        Phase.COLLECTING,
        Phase.RECEIVING,
        Phase.VERIFYING,
        Phase.APPLYING,
        Phase.RELEASED,
    }


def test_an_abort_that_is_lost_is_noticed_by_the_owners_absence(make: Maker) -> None:
    class Deaf(SecureWorker):
        def receive(self, peer: str, message: Any, now: float) -> None:
            if not isinstance(message, Aborted):
                super().receive(peer, message, now)

    run = make(machines={"third": Deaf})
    run.run(until=lambda: run.machines["bob"].phase is Phase.UPLOADING)
    run.parties["owner"].interrupt(STOPPED)
    stopped, absence = run.clock.now, run.rules.deadlines.absence
    errors = run.run()
    assert errors["third"] == f"owner is not connected any more, for {absence:g} s"
    assert run.clock.now - stopped < absence + SOON
