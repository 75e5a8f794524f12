"""A model owner that asks a round when its operator says so, and between rounds waits: for a notebook.

It is the model owner of `machine.py` in one long session. Wishes come from another thread, one at a time; each is a
plan and a cohort for one round. Nothing of what a model owner may see changes with who decides when a round begins.
"""

import queue
from dataclasses import dataclass
from typing import Any

from ..protocol.progress import Progress
from ..protocol.rounds import Phase
from ..protocol.site import OwnerPlan
from .machine import ModelOwner


class Waiting(Progress, frozen=True, tag="waiting"):
    """Nothing is open: everything that was asked for has been told."""

    round: int

    def line(self) -> str:
        """Return the sentence a person reads."""
        return f"waiting to be asked, after round {self.round}"


@dataclass(frozen=True)
class Wish:
    """One more round: what every data owner of `cohort` is asked to do, whatever number of rounds the plan has."""

    plan: OwnerPlan
    cohort: tuple[str, ...]


class SteppedOwner(ModelOwner):
    """The machine of a model owner whose rounds are asked for one by one."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        """Take what `ModelOwner` takes; the plan's number of rounds counts for nothing."""
        super().__init__(*args, **rest)
        self._asked_for = self._round
        self._wishes: queue.SimpleQueue[Wish | None] = queue.SimpleQueue()
        self._cohort: tuple[str, ...] = ()
        self._ends = False
        self._taking = False

    @property
    def rounds_done(self) -> int:
        """How many rounds are in the model."""
        return self._round

    @property
    def at_rest(self) -> bool:
        """Whether nothing is asked for and nothing open; from any thread."""
        # In this order: a wish leaves the queue while it is being taken, and is busy before that ends.
        return self._wishes.empty() and not self._taking and not self._busy and self.phase is Phase.IDLE

    def ask(self, wish: Wish) -> None:
        """Ask for a round; from any thread, which then wakes the lanes."""
        self._wishes.put(wish)

    def end(self) -> None:
        """Ask for the end of the session, after the round that is open; from any thread."""
        self._wishes.put(None)

    def tick(self, now: float) -> None:
        """Begin what was asked for, once nothing else is open; else act on what is due."""
        if self.phase is Phase.IDLE and not self.finished and not self._busy and not self._wishes.empty():
            self._taking = True
            wish = self._wishes.get()
            if wish is None:
                self._ends = True
            else:
                self._plan, self._cohort, self._asked_for = wish.plan, wish.cohort, self._round + 1
            self._taking = False
            self._next(now)
            return
        super().tick(now)

    @property
    def _last_round(self) -> int:
        return self._asked_for

    @property
    def _busy(self) -> bool:
        """Whether a round that was asked for is not there yet."""
        return self._round < self._last_round or self._unfinished is not None or self._pending is not None

    def _next(self, now: float) -> None:
        if self._busy or self._scorers() or self._ends:
            super()._next(now)
            return
        self._asking, self._deadline = None, None
        self.tell(Waiting(self._round))

    def _draw(self, here: list[str]) -> tuple[str, ...]:
        return self._cohort
