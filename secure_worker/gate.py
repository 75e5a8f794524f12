"""The release gate: the last check before anything leaves a secure worker that data owners' updates went into.

Check, record, act: `decide` raises or returns a frozen record of the release, `entries` says what the journal has to
hold before anything is sent, and only that record lets `machine.py` release an aggregate. The gate asks the journal and
nothing else, so it forgets nothing when the process ends, a session is over or a charter is renewed.

Which differences of two releases would give one update away, and which the gate stops:
- the same round released twice over different sets: one release a (session, round), by number
- the same model released twice over different sets (another session, another charter): by model digest; a training
  plan that is repeated on an unchanged model gives, for one contributor, the same update, and a difference isolates it
- with `stable_cohort` k, releases whose sets differ by 1 to k - 1 parties either way, whatever was released between
Sets that are the same, or sums over different models, are not stopped; the threat model says what the latter leak.
"""

from dataclasses import dataclass
from typing import ClassVar

from ..protocol.charter import Charter
from ..protocol.errors import GateShut
from ..protocol.journal import Entry, Journal
from ..protocol.messages import OpenRound
from ..protocol.session import contributor_set


class SlotKept(Entry, frozen=True):
    """A (session, round) that was released, and over which set."""

    kind: ClassVar[str] = "gate slot"

    session: bytes
    round: int
    contributors: bytes

    @property
    def key(self) -> bytes:
        """Session and round."""
        return _slot(self.session, self.round)


class ModelKept(Entry, frozen=True):
    """A model, by digest, and over which set a release from it was made."""

    kind: ClassVar[str] = "gate model"

    model: bytes
    contributors: bytes

    @property
    def key(self) -> bytes:
        """The model's digest."""
        return self.model


class SetKept(Entry, frozen=True):
    """A contributor set, by name; one entry however many releases were over it."""

    kind: ClassVar[str] = "gate set"

    contributors: bytes
    names: tuple[str, ...]

    @property
    def key(self) -> bytes:
        """The digest of the set."""
        return self.contributors


@dataclass(frozen=True)
class Decision:
    """A release that was decided."""

    session: bytes
    round: int
    model: bytes
    contributors: tuple[str, ...]


class ReleaseGate:
    """What one secure worker has released, ever."""

    def __init__(self, charter: Charter, journal: Journal) -> None:
        self._minimum = charter.rules.minimum_cohort
        self._stable = charter.rules.stable_cohort
        self._journal = journal

    def decide(self, question: OpenRound, contributors: tuple[str, ...]) -> Decision:
        """Decide the release of this round over these contributors; raises `GateShut`. Records nothing yet."""
        if len(contributors) < self._minimum:
            raise GateShut(f"{len(contributors)} contributors; the minimum cohort is {self._minimum}")
        if self._journal.read(SlotKept, _slot(question.session, question.round)) is not None:
            raise GateShut(f"round {question.round} has been released already")
        before = self._journal.read(ModelKept, question.model)
        if before is not None and before.contributors != contributor_set(contributors):
            raise GateShut("this very model was released over another contributor set")
        if self._stable is not None:
            now = frozenset(contributors)
            released = [frozenset(kept.names) for kept in self._journal.all(SetKept)]
            changes = [change for earlier in released for change in (earlier - now, now - earlier)]
            if any(0 < len(change) < self._stable for change in changes):
                raise GateShut(f"the contributor set differs by fewer than {self._stable} from an earlier release's")
        return Decision(question.session, question.round, question.model, contributors)

    @staticmethod
    def entries(decision: Decision) -> tuple[Entry, ...]:
        """Return what is to be in the journal before anything of this release is sent."""
        slot = SlotKept(decision.session, decision.round, contributor_set(decision.contributors))
        return (slot, *ReleaseGate.bind(decision))

    @staticmethod
    def bind(decision: Decision) -> tuple[Entry, ...]:
        """Return what is to be in the journal before this set is signed, where others may release over it."""
        contributors = contributor_set(decision.contributors)
        return (ModelKept(decision.model, contributors), SetKept(contributors, decision.contributors))


def _slot(session: bytes, number: int) -> bytes:
    return session + number.to_bytes(8, "big")
