"""What an invariant is: a small class with its reason, told facts as they happen.

Rules:
- An invariant keeps what it needs of the facts it is told (`World.tell`), and says `broken`; once is enough.
- It holds honest parties to account, and relies only on honest ones: `applies` says when its subject may be hostile.
- It computes what should be with plain means of its own, or from other sources than the code it watches.
- An invariant that was never seen red is none: `tests/simulation/test_invariants.py` plants a violation of each, and
  fails for one that has no planted violation.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..crypto.sealing import RoundKey
from ..protocol.journal import Entry, Write
from ..protocol.lanes.memory_lanes import Delivery
from ..protocol.messages import Header, Message, OpenRound, SealedHead
from ..protocol.progress import RefusedProgress

if TYPE_CHECKING:
    from .world import World


class Invariant:
    """Something that must hold; told facts by hooks, all of which do nothing unless overridden."""

    why: ClassVar[str]

    def __init__(self, world: "World") -> None:
        self.world = world

    def applies(self) -> bool:
        """Whether this can be held against the scenario's honest parties."""
        return True

    def listens(self, hook: str) -> bool:
        """Whether a hook is overridden."""
        return getattr(type(self), hook) is not getattr(Invariant, hook)

    def broken(self, text: str) -> None:
        """Say that it does not hold."""
        self.world.broken.append(f"{type(self).__name__}: {text}")

    # --- facts

    def asked(self, name: bytes, question: OpenRound) -> None:
        """An honest model owner put a question."""

    def said(self, name: str, peer: str, message: Message) -> None:
        """An honest party sends a message."""

    def carried(self, delivery: Delivery) -> None:
        """The network carries a frame, a record, or the end of a connection."""

    def encodes(self, name: str, question: OpenRound, words: bytes, update: Sequence[Any]) -> None:
        """An honest data owner encoded its update."""

    def added_up(self, open_round: bytes, name: str, question: OpenRound, words: bytes) -> None:
        """An honest secure worker added a vector."""

    def applied(self, open_round: bytes, question: OpenRound, total: Any, contributors: int) -> None:
        """A model owner is about to decode and apply a sum."""

    def checkpointed(self, number: int, model: bytes) -> None:
        """A model owner wrote its model after a round."""

    def opens(self, name: str, head: SealedHead, key: RoundKey) -> None:
        """An honest party is about to unwrap an envelope's content key."""

    def seals(self, name: str, header: Header, subject: bytes, key: bytes, sections: list[bytes]) -> None:
        """A party, hostile or not, sealed these sections to this public key."""

    def opened(self, name: str, header: Header, sections: list[bytes]) -> None:
        """A party, hostile or not, opened a body."""

    def has_key(self, name: str, key: RoundKey) -> None:
        """A party uses a round key for the first time."""

    def wrote(self, name: str, write: Write, entries: tuple[Entry, ...]) -> None:
        """A party's journal committed a write."""

    def refused(self, name: str, progress: RefusedProgress) -> None:
        """An honest party refused something."""

    def stepped(self, name: str) -> None:
        """A party took a step."""

    def crashed(self, name: str) -> None:
        """A party ended in the middle of something."""

    def ended(self, name: str, error: str | None) -> None:
        """An honest party is done."""

    def spins(self, name: str) -> None:
        """A party is due again and again, and does nothing."""

    def stuck(self, waiting: list[str]) -> None:
        """The time is over, and these have not ended."""

    def over(self) -> None:
        """All honest parties have ended."""
