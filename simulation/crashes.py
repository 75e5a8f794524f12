"""Where a party is ended: at a write of its journal, or at an effect it carries out, by name and number.

A crash is no error a program could catch, so it is a `BaseException`; only the simulation's loop does. "before" is
before the transaction commits, or the effect is carried out; "after" is right behind it, with all that was queued
after it lost. A full disk is an ordinary `JournalError`, and the space is there again when the party is started anew.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..crypto.labels import Buffer
from ..protocol.errors import JournalError
from ..protocol.journal import Entry, Journal, Write
from ..protocol.machine import Effect, Send


class Crash(BaseException):
    """The end of a party in the middle of something."""


@dataclass(frozen=True)
class CrashPlan:
    """One end of one party."""

    party: str
    at: str
    """`write NAME` (a name of `Write`), `write` (any of them), `Send MESSAGE`, another effect's class name, `effect`
    (any of them), or `full NAME`, `full`: the disk is, at that write."""
    number: int = 1
    """At which of those, counted from 1 over all lives of the party."""
    when: str = "before"
    vanishes: str = "at once"
    """What the others notice; see `FaultyNetwork.vanish`."""
    back_after: float | None = 0.5
    """Simulated seconds until it is started again; None for never."""

    def words(self) -> str:
        """Return the plan for a person."""
        what = f"{self.at.removeprefix('full').strip() or 'any write'}" if self.at.startswith("full") else self.at
        how = "finds its disk full at" if self.at.startswith("full") else f"crashes {self.when}"
        back = "never comes back" if self.back_after is None else f"is back {self.back_after:.2f} s later"
        return f"{self.party} {how} {what} no. {self.number} ({self.vanishes}), {back}"


@dataclass
class CrashSchedule:
    """All ends of one party, and how often it has been where."""

    plans: list[CrashPlan] = field(default_factory=list)
    fired: list[CrashPlan] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def reach(self, *names: str) -> CrashPlan | None:
        """Note that a point with these names is reached; return the plan that is due there, once."""
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1
        for plan in self.plans:
            if plan.at in names and plan.number == self.counts[plan.at]:
                self.plans.remove(plan)
                self.fired.append(plan)
                return plan
        return None


class FaultyJournal(Journal):
    """A journal that may end its party; it shows each write to `wrote`."""

    def __init__(self, *args: Any, schedule: CrashSchedule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule = schedule
        self.wrote: list[Any] = []
        """Called with each write's name and entries, after it."""
        self._full = False

    @property
    def is_full(self) -> bool:
        """Whether its disk was found full, since it was opened."""
        return self._full

    def reopen(self) -> None:
        """Be what a new process finds: everything that was committed, and a disk with room."""
        self._full = self._broken = False
        self.unstage()

    def write(
        self,
        name: Write,
        *entries: Entry,
        forget: Iterable[type[Entry] | Entry] = (),
        keep: tuple[bytes, Iterable[Buffer]] | None = None,
    ) -> None:
        """Write, unless the party ends here."""
        if self._full:
            raise JournalError("the disk was full before; nothing is written after that")
        plan = self.schedule.reach(f"write {name.name}", "write")
        full = self.schedule.reach(f"full {name.name}", "full")
        if full is not None:
            # As a transaction that fails leaves it: what was staged with this write does not go in with the last words.
            self._full = self._broken = True
            raise JournalError(f"the journal in memory cannot be written ({name.value}): database or disk is full")
        if plan is not None and plan.when == "before":
            raise Crash(plan)
        super().write(name, *entries, forget=forget, keep=keep)
        for look in self.wrote:
            look(name, entries)
        if plan is not None:
            raise Crash(plan)

    def contents(self) -> list[bytes]:
        """Return every value, body record and ledger entry in the file, to be searched."""
        rows = self._db.execute("select value from entries").fetchall()
        rows += self._db.execute("select record from bodies").fetchall()
        rows += self._db.execute("select entry from ledger").fetchall()
        return [*(row[0] for row in rows), self.slots.contents()]


def effect_names(effect: Effect) -> tuple[str, str]:
    """Return the names under which a plan can mean this effect."""
    name = f"Send {type(effect.message).__name__}" if isinstance(effect, Send) else type(effect).__name__
    return name, "effect"
