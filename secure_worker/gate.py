"""The release gate: the last check before anything leaves a secure worker that data owners' updates went into.

Check, record, act: `decide` raises or returns a frozen record of the release, and only that record lets `machine.py`
seal an aggregate. Which differences of two releases would give one update away, and which the gate stops:
- the same round released twice over different sets: one release a (session, round), by number
- the same model released twice over different sets (another session, another charter): by model digest; a training
  plan that is repeated on an unchanged model gives, for one contributor, the same update, and a difference isolates it
- with `stable_cohort` k, releases whose sets differ by 1 to k - 1 parties either way, whatever was released between
Sets that are the same, or sums over different models, are not stopped; the threat model says what the latter leak.
"""

from dataclasses import dataclass

from ..protocol.charter import Charter
from ..protocol.errors import GateShut
from ..protocol.messages import OpenRound


@dataclass(frozen=True)
class Decision:
    """A release that was decided."""

    session: bytes
    round: int
    model: bytes
    contributors: tuple[str, ...]


class ReleaseGate:
    """What one secure worker has released."""

    def __init__(self, charter: Charter) -> None:
        self._minimum = charter.rules.minimum_cohort
        self._stable = charter.rules.stable_cohort
        self._slots: dict[tuple[bytes, int], Decision] = {}
        self._models: dict[bytes, tuple[str, ...]] = {}
        self._sets: set[frozenset[str]] = set()

    def decide(self, question: OpenRound, contributors: tuple[str, ...]) -> Decision:
        """Decide the release of this round over these contributors, and record it; raises `GateShut`."""
        if len(contributors) < self._minimum:
            raise GateShut(f"{len(contributors)} contributors; the minimum cohort is {self._minimum}")
        slot = (question.session, question.round)
        if slot in self._slots:
            raise GateShut(f"round {question.round} has been released already")
        if self._models.get(question.model, contributors) != contributors:
            raise GateShut("this very model was released over another contributor set")
        now = frozenset(contributors)
        if self._stable is not None:
            changes = [change for earlier in self._sets for change in (earlier - now, now - earlier)]
            if any(0 < len(change) < self._stable for change in changes):
                raise GateShut(f"the contributor set differs by fewer than {self._stable} from an earlier release's")
        decision = Decision(question.session, question.round, question.model, contributors)
        self._slots[slot] = decision
        self._models[question.model] = contributors
        self._sets.add(now)
        return decision
