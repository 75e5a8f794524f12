"""Uploads of one round at one holder: whose slot is free, whose body is being opened, what has been taken.

Rules:
- Memory is the running total, plus a staging buffer for each of at most `limits.UPLOADS_IN_FLIGHT` bodies, used again
  from one to the next and from round to round; it does not grow with the cohort. Heads that wait for a buffer wait in
  order. A buffer that outlives its round is overwritten at its end: it held an update.
- A share that its holder counts is added as soon as it is open. Any other may still be of a contribution that nobody
  counts: if it is made of seeds it is kept, 32 bytes each, and added once the set is final; vectors are added at once,
  and a set without them cannot be summed. (A model owner keeps vectors too: `plain` is for teaching.)
- So a holder that has others to agree with waits for those vectors too, and says with its list whose are in its total
  (`beyond`). From then on (`freeze`) none is added before the set is final: what still comes is kept, in no more
  memory than that of the uploads in flight, or two holders that conclude from one list would have two totals.
- A contributor's slot is used up only when its body is open, its commitment matched and its share is taken.
- A secure worker's round key is asked for here alone, and erased by `close`, before anything is released.
"""

from collections import OrderedDict
from dataclasses import dataclass

from ..crypto.errors import BadWrappedKey, WrongShare
from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey, Staging, staging_bytes
from ..crypto.sharing.base import Seed, Share, pieces
from . import limits
from .charter import Charter
from .context import RoundContext
from .errors import AlreadyContributed, IllegalMessage, NotInCohort, SplitView, Unsummable, WrongOpenRound
from .exchange import Exchange, Incoming
from .messages import Contribution, Header, OpenRound, Receipt, SealedHead, Signed, share_list
from .seats import Seats
from .statements import open_signed, sign
from .vector import vector_bytes


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
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        seats: Seats,
        question: OpenRound,
        open_round: bytes,
        *,
        key: RoundKey | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        """`key` is the holder's round key, a fresh one by default; `buffers` are those of the rounds before."""
        self.question = question
        self.open_round = open_round
        self.context = RoundContext.of(question, open_round)
        self.key = key or exchange.view.drew(RoundKey())
        self.declined: set[str] = set()
        self.added: dict[str, Added] = {}
        """Whose share is here, and has or gets a receipt."""
        counted_by = seats.counted_by(question)
        self._ours = {name for name in question.cohort if counted_by[name] == identity.name}
        self._early = seats.vectors_to(question, identity.name) - self._ours
        self._frozen = False
        self._late = 0
        """Vectors that came after that, and are kept where an upload in flight would be."""
        self._identity = identity
        self._charter = charter
        self._exchange = exchange
        self._seats = seats
        index = seats.index(identity.name)
        self._holder = None if index is None else seats.scheme.holder(question.plan, question.words, index)
        self._total: Words | None = None
        if self._holder is not None:
            self._total = self._holder.zero()
            # Now, while the data owners train, and not under the first upload: memory is handed out when it is touched.
            self._total.fill(0)
        self._keeps_vectors = index is not None and index == seats.owner
        self._kept: dict[str, Share] = {}
        self._in_total: set[str] = set()
        self._unerased: set[str] = set()
        self._opening: dict[str, bytes] = {}
        self._waiting: OrderedDict[str, SealedHead] = OrderedDict()
        self._buffers = buffers or Buffers()
        self._staging_bytes = staging_bytes(vector_bytes(question), limits.RECORD_WIRE)

    def counts(self, contributor: str) -> bool:
        """Whether this holder is the one that counts a contribution."""
        return contributor in self._ours

    @property
    def outstanding(self) -> set[str]:
        """Who may still be counted here."""
        return self._ours - self.declined - set(self.added)

    @property
    def awaited(self) -> set[str]:
        """Whose share is worth waiting for before the list: who may be counted here, and vectors that others count."""
        return (self._ours | self._early) - self.declined - set(self.added)

    @property
    def beyond(self) -> tuple[str, ...]:
        """Whose share is in the total though another counts the contribution, sorted."""
        return tuple(sorted(self._in_total - self._ours))

    @property
    def counted(self) -> tuple[str, ...]:
        """Whose contribution is counted here, sorted."""
        return tuple(name for name in sorted(self.added) if self.counts(name))

    def admit(self, sender: str, head: SealedHead, receipts: tuple[Signed, ...] = ()) -> Signed | None:
        """Check an announced upload and queue it; returns the receipt again if this very envelope has one.

        Raises:
            the named errors of `exchange.examine`, NotInCohort, AlreadyContributed; IllegalMessage, WrongOpenRound:
            other receipts than this holder is to be shown; SplitView: its header, or a receipt, contradicts the list
            of all shares' commitments in its header.
        """
        if sender not in self.question.cohort:
            # To a question before this one, which did ask it, it is late and no lie: refused by that name.
            self._exchange.examine_passed_on(head, Label.CONTRIBUTION, self.context, sender, self._identity.name)
            raise NotInCohort("has no slot in this round", party=sender)
        sections = self._seats.share_bytes(self.question, sender, self._identity.name)
        header = self._exchange.examine(head, Label.CONTRIBUTION, self.context, sender, self.key, sections)
        if sender in self.declined:
            raise NotInCohort("has no slot in this round", party=sender)
        self._check_shares(sender, header)
        self._check_receipts(sender, header, receipts)
        done = self.added.get(sender)
        if done is not None:
            if done.subject == head.subject:
                return done.receipt
            raise AlreadyContributed("has its receipt; a second upload is not added", party=sender)
        self._waiting[sender] = head
        return None

    def _check_shares(self, sender: str, header: Header) -> None:
        """Hold the list of commitments to who gets a share, and our own share to its place in it."""
        recipients = self._seats.recipients(self.question, sender)
        if len(header.shares) != len(recipients):
            raise SplitView("lists more or fewer shares than its contribution has", party=sender)
        if header.shares[recipients.index(self._identity.name)] != header.commitment:
            raise SplitView("sends a share other than the one its own header lists", party=sender)

    def _check_receipts(self, sender: str, header: Header, receipts: tuple[Signed, ...]) -> None:
        """Hold receipts to what every other holder of this contribution has to have signed.

        Whom they contradict is the sender: an honest one takes no receipt that is not of what it sent.
        """
        wanted = self._seats.before(self.question, sender) if self.counts(sender) else ()
        if tuple(receipt.signer for receipt in receipts) != wanted:
            raise IllegalMessage("announces a contribution without every other holder's receipt", party=sender)
        for signed, commitment in zip(receipts, header.shares, strict=False):
            receipt = open_signed(self._charter, signed, Receipt)
            said = (receipt.open_round, receipt.holder, receipt.contributor)
            if said != (self.open_round, signed.signer, sender):
                raise WrongOpenRound("shows a receipt of something else", party=sender)
            if receipt.commitment != commitment:
                raise SplitView(f"sent {signed.signer} a share other than the one it lists here", party=sender)
            if receipt.shares != share_list(header.shares):
                raise SplitView(f"lists other shares here than it listed to {signed.signer}", party=sender)

    def next_upload(self) -> tuple[str, Incoming, bytes | None] | None:
        """Return an upload to start now: sender, envelope, and the subject of an earlier one it replaces.

        Raises:
            BadWrappedKey, IllegalMessage: naming the sender, whose key opens nothing, or who has had more noted than
                anybody may; its announcement is forgotten, call again for the next.
        """
        sender = next(iter(self._waiting), None)
        full = len(self._opening) + self._late >= limits.UPLOADS_IN_FLIGHT
        if sender is None or (full and sender not in self._opening):
            return None
        head = self._waiting.pop(sender)
        # Buffers are for one vector; a share of seeds, or of several vectors, is opened to memory of its own.
        length = sum(self._seats.share_bytes(self.question, sender, self._identity.name))
        staging = self._buffers.take(self._staging_bytes) if length == vector_bytes(self.question) else None
        try:
            content = self._seats.content(self.question, sender, self._identity.name)
            incoming = self._exchange.open(head, self.key, staging, content=content)
        except (BadWrappedKey, IllegalMessage) as error:
            if staging is not None:
                self._buffers.give(staging)
            # An upload of this sender that is under way keeps its place: each such head would make room for one more.
            raise type(error)(error.reason, party=sender) from None
        replaced = self._opening.pop(sender, None)
        self._opening[sender] = incoming.subject
        return sender, incoming, replaced

    def take(self, sender: str, incoming: Incoming, sections: tuple[memoryview, ...]) -> Receipt:
        """Take the share in an opened body, the one place where an update meets a sum; return its unsigned receipt.

        Raises:
            AlreadyContributed: this contributor's share is here.
            WrongShare: it is none of the scheme's.
        """
        if sender in self.added:
            raise AlreadyContributed("has its receipt; a second upload is not added", party=sender)
        share = self._seats.share(self.question, sender, self._identity.name, sections)
        seeds = share is not None and all(isinstance(piece, Seed) for piece in pieces(share))
        keeps = self._keeps_vectors or self._frozen or (seeds and not self.counts(sender))
        if share is not None and keeps:
            self._kept[sender] = share
            self._late += self._frozen and not seeds
        elif share is not None:
            self._accumulate(sender, share)
        self._release_slot(sender, None if keeps and not seeds else incoming.staging)
        # A second envelope announced while the first came in would be added on top of it.
        self._waiting.pop(sender, None)
        self._unerased.add(sender)
        self.added[sender] = Added(incoming.subject, incoming.header.commitment)
        return Receipt(
            open_round=self.open_round,
            holder=self._identity.name,
            contributor=sender,
            header=incoming.subject,
            commitment=incoming.header.commitment,
            shares=share_list(incoming.header.shares),
        )

    def give_receipt(self, sender: str, receipt: Receipt) -> Signed:
        """Sign a receipt, and keep it to be sent again if asked."""
        signed, done = sign(self._identity, receipt), self.added[sender]
        self.added[sender] = Added(done.subject, done.commitment, signed)
        return signed

    def failed(self, sender: str, subject: bytes) -> None:
        """Free the buffer of an upload that broke off; the sender's slot stays free."""
        if self._opening.get(sender) == subject:
            self._release_slot(sender, None)

    def decline(self, party: str) -> bytes | None:
        """Note that a data owner takes no part; return the subject of an upload that this breaks off."""
        self.declined.add(party)
        self._waiting.pop(party, None)
        return self._opening.pop(party, None)

    def freeze(self) -> list[bytes]:
        """Add nothing more until the set is final; return the subjects of uploads that this breaks off.

        Those are of contributions counted here: a receipt for one that is not on the list would be a lie.
        """
        self._frozen = True
        for name in self._ours:
            self._waiting.pop(name, None)
        return [self._opening.pop(name) for name in sorted(self._ours & set(self._opening))]

    def receipted(self) -> tuple[Contribution, ...]:
        """Return whose share is here, sorted by name, with what its envelope committed to."""
        return tuple(Contribution(name, self.added[name].commitment) for name in sorted(self.added))

    def contributions(self) -> tuple[Contribution, ...]:
        """Return what is counted here, sorted by name."""
        return tuple(entry for entry in self.receipted() if self.counts(entry.party))

    def check_summable(self, contributors: tuple[str, ...]) -> None:
        """Raise `Unsummable`, naming the first in the way, unless the total over exactly these can be made."""
        if self._holder is None:
            return
        for name in contributors:
            if name not in self.added:
                raise Unsummable("is listed, and its share is not here", party=name)
        for name in sorted(self._in_total - set(contributors)):
            raise Unsummable("is not listed, and its share is in the total already", party=name)

    def total(self, contributors: tuple[str, ...]) -> Words | None:
        """Add what was kept, and return the total over exactly these; None for a holder of nothing.

        Raises:
            Unsummable: a share is missing, is none of the scheme's, or one too many is in the total.
        """
        self.check_summable(contributors)
        for name in contributors:
            if name in self._kept:
                # It stays kept until it is in the total: asked once more, there is to be no total without it.
                try:
                    self._accumulate(name, self._kept[name])
                except WrongShare:
                    raise Unsummable("is listed, and sent a share that cannot be added", party=name) from None
                del self._kept[name]
        return self._total

    def share_of(self, contributor: str) -> Share | None:
        """Return a share that was kept: in `plain`, for the tutorial, the update itself."""
        return self._kept.get(contributor)

    def close(self) -> list[bytes]:
        """Erase the round key, forget what was kept; returns the subjects of uploads broken off."""
        self.key.erase()
        self.forget()
        return self.stop()

    def forget(self) -> None:
        """Drop every share that is kept, and note that what was opened here is gone; only a total may be left."""
        self._kept.clear()
        for name in sorted(self._unerased):
            content = self._seats.content(self.question, name, self._identity.name)
            self._exchange.view.erased(content.data, content.whose)
        self._unerased.clear()

    def stop(self) -> list[bytes]:
        """Take no further upload; returns the subjects of those broken off."""
        broken = list(self._opening.values())
        self._opening.clear()
        self._waiting.clear()
        return broken

    def _accumulate(self, sender: str, share: Share) -> None:
        if self._holder is not None and self._total is not None:
            self._holder.accumulate(self._total, share)
            self._in_total.add(sender)

    def _release_slot(self, sender: str, staging: Staging | None) -> None:
        self._opening.pop(sender, None)
        if staging is None:
            return
        if len(staging) == self._staging_bytes:
            self._buffers.give(staging)
        else:
            staging.fill(0)

    def __repr__(self) -> str:
        return f"Intake(round {self.question.round}, {len(self.added)} added)"
