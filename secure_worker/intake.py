"""Uploads of one round: whose slot is free, whose body is being opened, what has been added.

Rules:
- Memory is the running total, plus a staging buffer for each of at most `limits.UPLOADS_IN_FLIGHT` bodies, used again
  from one to the next and from round to round; it does not grow with the cohort. Heads that wait for a buffer wait in
  order. A buffer that outlives its round is overwritten at its end: it held an update.
- A contributor's slot is used up only when its body is open, its commitment matched and its words are in the total.
- The round key is asked for here alone, and erased by `close`, before anything is released.
"""

from collections import OrderedDict
from dataclasses import dataclass

from ..crypto.errors import BadWrappedKey
from ..crypto.labels import Label
from ..crypto.ring import Words, from_wire
from ..crypto.sealing import RoundKey, Staging, staging_bytes
from ..crypto.sharing.base import Scheme
from ..protocol import limits
from ..protocol.errors import AlreadyContributed, NotInCohort
from ..protocol.exchange import Exchange, Incoming, RoundContext
from ..protocol.messages import Contribution, OpenRound, Receipt, SealedHead, Signed
from ..protocol.vector import vector_bytes


class Buffers:
    """Staging buffers between two uses: fresh memory costs more than opening a body into it does."""

    def __init__(self) -> None:
        self._spare: list[Staging] = []

    def take(self, length: int) -> Staging | None:
        """Return a buffer of `length` bytes that was used before, or None; those of another length are let go."""
        self._spare = [buffer for buffer in self._spare if len(buffer) == length]
        return self._spare.pop() if self._spare else None

    def give(self, buffer: Staging) -> None:
        """Keep a buffer that is done with, if there are not enough yet."""
        if len(self._spare) < limits.UPLOADS_IN_FLIGHT:
            self._spare.append(buffer)

    def wipe(self) -> None:
        """Overwrite what the buffers held."""
        for buffer in self._spare:
            buffer.fill(0)

    def __repr__(self) -> str:
        return f"Buffers({len(self._spare)})"


@dataclass(frozen=True)
class Added:
    """A contribution that is in the total."""

    subject: bytes
    commitment: bytes
    receipt: Signed | None = None


class Intake:
    """The uploads of one round at one holder."""

    def __init__(
        self,
        question: OpenRound,
        open_round: bytes,
        exchange: Exchange,
        scheme: Scheme,
        index: int,
        buffers: Buffers | None = None,
    ) -> None:
        """`buffers` are those of the rounds before, if there were any."""
        self.question = question
        self.open_round = open_round
        self.context = RoundContext.of(question, open_round)
        self.key = RoundKey()
        self.declined: set[str] = set()
        self.added: dict[str, Added] = {}
        self._exchange = exchange
        self._holder = scheme.holder(question.plan, question.words, index)
        self._total: Words = self._holder.zero()
        # Now, while the data owners train, and not under the first upload: memory is handed out when it is touched.
        self._total.fill(0)
        self._opening: dict[str, bytes] = {}
        self._waiting: OrderedDict[str, SealedHead] = OrderedDict()
        self._buffers = buffers or Buffers()
        self._staging_bytes = staging_bytes(vector_bytes(question), limits.RECORD_WIRE)

    @property
    def outstanding(self) -> set[str]:
        """Who may still contribute."""
        return set(self.question.cohort) - self.declined - set(self.added)

    def admit(self, sender: str, head: SealedHead) -> Signed | None:
        """Check an announced upload and queue it; returns the receipt again if this very envelope has one.

        Raises:
            the named errors of `exchange.examine`, NotInCohort, AlreadyContributed.
        """
        sections = [vector_bytes(self.question)]
        self._exchange.examine(head, Label.CONTRIBUTION, self.context, sender, self.key, sections)
        if sender not in self.question.cohort or sender in self.declined:
            raise NotInCohort("has no slot in this round", party=sender)
        done = self.added.get(sender)
        if done is not None:
            if done.subject == head.subject:
                return done.receipt
            raise AlreadyContributed("has its receipt; a second upload is not added", party=sender)
        self._waiting[sender] = head
        return None

    def next_upload(self) -> tuple[str, Incoming, bytes | None] | None:
        """Return an upload to start now: sender, envelope, and the subject of an earlier one it replaces.

        Raises:
            BadWrappedKey: naming the sender, whose announcement is forgotten; call again for the next.
        """
        sender = next(iter(self._waiting), None)
        if sender is None or (len(self._opening) >= limits.UPLOADS_IN_FLIGHT and sender not in self._opening):
            return None
        head = self._waiting.pop(sender)
        staging = self._buffers.take(self._staging_bytes)
        try:
            incoming = self._exchange.open(head, self.key, staging)
        except BadWrappedKey as error:
            if staging is not None:
                self._buffers.give(staging)
            # An upload of this sender that is under way keeps its place: each such head would make room for one more.
            raise BadWrappedKey(error.reason, party=sender) from None
        replaced = self._opening.pop(sender, None)
        self._opening[sender] = incoming.subject
        return sender, incoming, replaced

    def add(self, sender: str, incoming: Incoming, section: memoryview) -> Added:
        """Add an opened body to the total; the one place where an update meets the sum.

        Raises:
            AlreadyContributed: this contributor is in the total.
        """
        if sender in self.added:
            raise AlreadyContributed("has its receipt; a second upload is not added", party=sender)
        words = from_wire(self.question.plan, section, self.question.words)
        self._holder.accumulate(self._total, words)
        self._release_slot(sender, incoming.staging)
        # A second envelope announced while the first came in would be added on top of it.
        self._waiting.pop(sender, None)
        self.added[sender] = Added(incoming.subject, incoming.header.commitment)
        return self.added[sender]

    def give_receipt(self, sender: str, receipt: Signed) -> None:
        """Keep the signed receipt, to be sent again if asked."""
        done = self.added[sender]
        self.added[sender] = Added(done.subject, done.commitment, receipt)

    def receipt_for(self, sender: str, holder: str) -> Receipt:
        """Return the unsigned receipt of a contribution that was added."""
        done = self.added[sender]
        return Receipt(
            open_round=self.open_round,
            holder=holder,
            contributor=sender,
            header=done.subject,
            commitment=done.commitment,
        )

    def failed(self, sender: str, subject: bytes) -> None:
        """Free the buffer of an upload that broke off; the sender's slot stays free."""
        if self._opening.get(sender) == subject:
            self._release_slot(sender, None)

    def decline(self, party: str) -> bytes | None:
        """Note that a data owner takes no part; return the subject of an upload that this breaks off."""
        self.declined.add(party)
        self._waiting.pop(party, None)
        return self._opening.pop(party, None)

    def contributions(self) -> tuple[Contribution, ...]:
        """Return the contributor set, sorted by name."""
        return tuple(Contribution(name, self.added[name].commitment) for name in sorted(self.added))

    def close(self) -> tuple[Words, list[bytes]]:
        """Erase the round key and hand out the total; returns it with the subjects of uploads broken off."""
        self.key.erase()
        broken = list(self._opening.values())
        self._opening.clear()
        self._waiting.clear()
        return self._total, broken

    def _release_slot(self, sender: str, staging: Staging | None) -> None:
        self._opening.pop(sender, None)
        if staging is not None:
            self._buffers.give(staging)

    def __repr__(self) -> str:
        return f"Intake(round {self.question.round}, {len(self.added)} added)"
