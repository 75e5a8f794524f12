"""All invariants, and those about how things end. `docs/simulation.md` has the table; whatever is in `ALL` is checked
in every simulation.
"""

from typing import TYPE_CHECKING

from ..protocol.codec import decode_as
from ..protocol.messages import (
    Abort,
    Aborted,
    Header,
    Message,
    Release,
)
from .federation import OWNER

if TYPE_CHECKING:
    from .world import World
from .checked import NoFalseAlarm, VerifiedIsTrue
from .derivable import FreshRandomness, NoUpdateDerivable
from .invariant import Invariant
from .secrecy import (
    BoundedMemory,
    JournalKeepsNoSecret,
    KeysErased,
    NoFalseAccusation,
    OnlyWhoMayOpens,
    SealedToTheOffered,
    SignedBeforeOpened,
    UpdatesStayHome,
)
from .sums import (
    ExactSum,
    MinimumCohort,
    ModelContinuity,
    OneContributorSet,
    OneModelOneSet,
    OneReleaseASlot,
    ReceiptMeansCounted,
    SameQuestion,
)


class NoBusyLoop(Invariant):
    """A party that says it is due has something to do."""

    why = "a deadline in the past that nothing acts on burns a core for ever"

    def spins(self, name: str) -> None:
        """Say so."""
        party = self.world.parties[name]
        self.broken(f"{name} ({party.machine.phase.value}) is due since {party.next_deadline()} and does nothing")


class EverybodyEnds(Invariant):
    """Once the network is healed every honest party ends within the deadlines, with success or one sentence."""

    why = "a hang is the one outcome nobody can act on"

    def stuck(self, waiting: list[str]) -> None:
        """Name who hangs, and where."""
        where = [
            f"{name} ({self.world.parties[name].machine.phase.value})" if name in self.world.parties else name
            for name in waiting
        ]
        self.broken(f"after {self.world.clock.now:.0f} s not ended: {', '.join(where)}")

    def ended(self, name: str, error: str | None) -> None:
        """Hold the sentence to be one."""
        if error is not None and (not error.strip() or "\n" in error or "Traceback" in error):
            self.broken(f"{name} ends with something that is no sentence: {error!r}")


class RunsRecover(Invariant):
    """Where parties only end and are soon back, and enough data owners stay, the model owner gets every aggregate."""

    why = "nothing is lost: a restart goes on from the journal, and another attempt makes good what was only in memory"

    def applies(self) -> bool:
        """Only where recovery is possible whatever is drawn."""
        return self.world.scenario.recovers

    def over(self) -> None:
        """Hold the last life of the model owner to success."""
        party = self.world.parties.get(OWNER)
        error = "it is not there" if party is None else party.error
        if error is not None:
            self.broken(f"the model owner ends with: {error}")


class AgreedOutcome(Invariant):
    """The model owner is content only if as many as make a sum released every round; none aborts what it released."""

    why = "a partial result that looks like a whole one is worse than none"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._released: dict[str, set[int]] = {name: set() for name in world.scenario.workers}

    def applies(self) -> bool:
        """An honest model owner and honest secure workers."""
        return self.world.honest(OWNER) and self.world.honest_workers()

    def said(self, name: str, peer: str, message: Message) -> None:
        """Note what was released; an abort of a released round would be a lie."""
        if isinstance(message, Release) and name in self._released:
            self._released[name].add(decode_as(Header, message.head.header).round)
        elif isinstance(message, Aborted) and name in self._released:
            abort = decode_as(Abort, message.abort.statement)
            if abort.round in self._released[name]:
                self.broken(f"round {abort.round} is aborted after its release")

    def ended(self, name: str, error: str | None) -> None:
        """Hold the model owner's success to the releases."""
        wanted = range(1, self.world.scenario.rounds + 1)
        released = [number for rounds in self._released.values() for number in rounds]
        missing = {number for number in wanted if released.count(number) < self.world.seats.enough}
        if name == OWNER and error is None and missing:
            self.broken(f"the model owner is content without round {min(missing)}")


ALL: tuple[type[Invariant], ...] = (
    UpdatesStayHome,
    NoUpdateDerivable,
    FreshRandomness,
    OnlyWhoMayOpens,
    SealedToTheOffered,
    SignedBeforeOpened,
    OneReleaseASlot,
    MinimumCohort,
    OneContributorSet,
    ExactSum,
    VerifiedIsTrue,
    NoFalseAlarm,
    ModelContinuity,
    OneModelOneSet,
    SameQuestion,
    ReceiptMeansCounted,
    KeysErased,
    JournalKeepsNoSecret,
    NoFalseAccusation,
    BoundedMemory,
    NoBusyLoop,
    EverybodyEnds,
    RunsRecover,
    AgreedOutcome,
)
