"""The choke point: every envelope of every role is sealed and opened here, and nowhere else.

What may go to whom stands in one table, `MAY_SEND`. A label the table does not list for a pair of roles cannot be
sealed (a bug, or a changed program, on our side) and is not opened (a peer's). Every sealing, admission and opening is
noted by one `View`, so a ledger sees all of it or none.

Checks of a head, numbered; each raises its own error. Nothing is decrypted or allocated before the last.
 1. the sender the header will be held to is a party of the charter
 2. the signature over label, header and wrapped key verifies under its key
 3. the header decodes, canonically and within bounds
 4. version and suite are known
 5. the label is the one expected here, and the table allows it from this sender's role to the recipient's
 6. header and connection name the same sender
 7. the charter is ours
 8. session, round, attempt and OpenRound digest are the current ones, each with its own error
 9. the recipient is the one it is to be for: us, and then the wrapped key is for our key of this round
10. the lengths are those the round fixes
11. fields that mean nothing for this label are empty, and a contribution lists the commitments to its shares

A mask's seed is an envelope without a body: the content key that its head wraps is the seed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ..crypto import sealing
from ..crypto.errors import BadWrappedKey
from ..crypto.identity import Identity, verify
from ..crypto.labels import Buffer, Label, digest, frame
from . import limits
from .charter import Charter, Role
from .codec import decode_as, encode
from .context import RoundContext
from .errors import (
    MalformedMessage,
    OversizedClaim,
    UnsupportedVersion,
    WrongAttempt,
    WrongCharter,
    WrongLabel,
    WrongOpenRound,
    WrongRecipient,
    WrongRound,
    WrongSender,
    WrongSession,
)
from .ledger import Content
from .messages import Header, SealedHead
from .openings import OpeningStore, keeps
from .seats import Seats
from .view import View

VERSION = 1

MAY_SEND: Final = frozenset(
    {
        (Label.MODEL, Role.MODEL_OWNER, Role.DATA_OWNER),
        (Label.MODEL, Role.MODEL_OWNER, Role.EVALUATOR),
        (Label.CONTRIBUTION, Role.DATA_OWNER, Role.SECURE_WORKER),
        (Label.AGGREGATE, Role.SECURE_WORKER, Role.MODEL_OWNER),
        (Label.MASK_SEED, Role.DATA_OWNER, Role.DATA_OWNER),
    }
)
"""Who may seal what for whom. One update never goes to a model owner, whatever a program asks for."""
TO_AN_OWNER_THAT_HOLDS: Final = (Label.CONTRIBUTION, Role.DATA_OWNER, Role.MODEL_OWNER)
"""The one row more where the charter's scheme makes the model owner a holder: its share of a contribution."""


@dataclass(frozen=True)
class Committed:
    """A commitment to a body that is not sealed yet, with the salt that goes into both."""

    commitment: bytes
    salt: bytes = field(repr=False)


def _body_context(header: Header, subject: bytes) -> bytes:
    return header.open_round if header.broadcast else subject


Opened = Callable[[tuple[memoryview, ...]], None]


class Outgoing:
    """A sealed envelope on its way: the head, and the body as records, made while they are sent."""

    def __init__(self, head: SealedHead, commitment: bytes, records: Callable[[], Iterator[bytes]]) -> None:
        self.head = head
        self.commitment = commitment
        self.subject = head.subject
        self.records = records
        """Call it for the records from the first. A second call, after a lost connection, seals the same plaintext with
        another nonce: other bytes, that open to the same body."""

    def __repr__(self) -> str:
        return f"Outgoing({self.subject[:4].hex()})"


class Incoming:
    """An envelope whose head was admitted, and whose body is being received."""

    def __init__(self, header: Header, subject: bytes, opener: sealing.BodyOpener, opened: Opened) -> None:
        self.header = header
        self.subject = subject
        self._opener = opener
        self._opened = opened

    def feed(self, record: Buffer) -> bool:
        """Take a record; True when the body is complete. Raises `BadBody`."""
        return self._opener.feed(record)

    def finish(self) -> tuple[memoryview, ...]:
        """Return the sections, now authenticated; raises `BadBody` or `CommitmentMismatch`."""
        sections = self._opener.finish()
        self._opened(sections)
        return sections

    @property
    def staging(self) -> sealing.Staging:
        """The buffer the sections are views of, to be used again once they are done with."""
        return self._opener.staging

    def __repr__(self) -> str:
        return f"Incoming({self.subject[:4].hex()} from {self.header.sender})"


class Broadcast:
    """One body for several recipients, sealed once; each gets a head of its own with its own wrapped key."""

    def __init__(self, exchange: "Exchange", label: Label, context: RoundContext, sections: Sequence[Buffer]) -> None:
        self._exchange = exchange
        self._label = label
        self._context = context
        self._content_key = sealing.new_content_key()
        self._salt = sealing.new_salt()
        self._sections = sections
        self._records: list[bytes] | None = None
        self._commitment: bytes | None = None

    def address(self, recipient: str, recipient_key: bytes) -> Outgoing:
        """Return the envelope for one recipient; the first call hashes the body, later ones reuse it."""
        exchange = self._exchange
        header = exchange.new_header(
            self._label, self._context, recipient, recipient_key, self._sections, broadcast=True
        )
        if self._commitment is None:
            self._commitment = sealing.commit(header.binding, self._salt, self._sections)
        header = msgspec.structs.replace(header, commitment=self._commitment)
        head = exchange.seal_head(header, recipient_key, self._content_key)
        return Outgoing(head, self._commitment, self._sealed_once)

    def _sealed_once(self) -> Iterator[bytes]:
        if self._records is None:
            self._records = list(
                sealing.seal_records(
                    self._content_key,
                    self._context.open_round,
                    self._salt,
                    self._sections,
                    limits.RECORD_PLAINTEXT,
                )
            )
        return iter(self._records)


class Exchange:
    """One party's sealing and opening. Construct one a process, and give it to the role."""

    def __init__(
        self, identity: Identity, charter: Charter, view: View | None = None, openings: OpeningStore | None = None
    ) -> None:
        """Note what is sealed and opened in `view`, and keep in `openings` what this party can open to an auditor.

        Without a view nothing is noted, for tests of what lies below; as a rule no openings are kept.
        """
        self._identity = identity
        self._charter = charter
        self.view = view or View(identity, charter)
        self._openings = openings
        self._may_send = MAY_SEND
        if Seats(charter).owner is not None:
            self._may_send |= {TO_AN_OWNER_THAT_HOLDS}

    def commit(
        self,
        label: Label,
        context: RoundContext,
        recipient: str,
        recipient_key: bytes,
        sections: Sequence[Buffer],
    ) -> Committed:
        """Commit to what `seal` will be given: all shares of a contribution, before the first header lists them."""
        salt = sealing.new_salt()
        header = self.new_header(label, context, recipient, recipient_key, sections)
        return Committed(sealing.commit(header.binding, salt, sections), salt)

    def seal(
        self,
        label: Label,
        context: RoundContext,
        recipient: str,
        recipient_key: bytes,
        sections: Sequence[Buffer],
        *,
        contributors: int = 0,
        close: bytes | None = None,
        committed: Committed | None = None,
        shares: Sequence[bytes] | None = None,
        content: Content | None = None,
    ) -> Outgoing:
        """Seal `sections` for one recipient's round key. Raises `WrongLabel` if it may not have them from us.

        The sections are read twice (to commit, then to seal) and must not change until the last record is sent.
        `committed` is what `commit` made of the same arguments. `shares` are the commitments to all shares of a
        contribution, in the order of `Seats.recipients`; without them it has this one alone. `content` is whose the
        sections are, as the view ledger has to know of a share or a sum.
        """
        content_key = sealing.new_content_key()
        header = self.new_header(
            label, context, recipient, recipient_key, sections, contributors=contributors, close=close
        )
        committed = committed or self.commit(label, context, recipient, recipient_key, sections)
        commitment, salt = committed.commitment, committed.salt
        listed = ((commitment,) if shares is None else tuple(shares)) if label is Label.CONTRIBUTION else ()
        header = msgspec.structs.replace(header, commitment=commitment, shares=listed)
        head = self.seal_head(header, recipient_key, content_key, content)
        self._keep(header, head.subject, content, salt, sections, sealed=True)
        body_context = _body_context(header, head.subject)
        return Outgoing(
            head,
            commitment,
            lambda: sealing.seal_records(content_key, body_context, salt, sections, limits.RECORD_PLAINTEXT),
        )

    def broadcast(self, label: Label, context: RoundContext, sections: Sequence[Buffer]) -> Broadcast:
        """Prepare one body for several recipients; `Broadcast.address` makes each one's envelope."""
        return Broadcast(self, label, context, sections)

    def examine(
        self,
        head: SealedHead,
        label: Label,
        context: RoundContext,
        sender: str,
        key: sealing.RoundKey,
        sections: Sequence[int],
    ) -> Header:
        """Check a head in the numbered steps of this module, and return its header.

        `sections` are the only lengths that are accepted, in bytes.
        """
        header = self.examine_passed_on(head, label, context, sender, self._identity.name)
        if header.recipient_key != key.key_id:
            raise WrongRecipient("an envelope for another key", party=sender)
        if header.sections != tuple(sections):  # 10
            raise OversizedClaim(
                f"an envelope claims {sum(header.sections)} bytes where the round fixes {sum(sections)}",
                party=sender,
            )
        return header

    def examine_passed_on(
        self, head: SealedHead, label: Label, context: RoundContext, sender: str, recipient: str
    ) -> Header:
        """Check a head that may be for somebody else: every step that needs neither its key nor its lengths."""
        party = self._charter.party(sender)  # 1
        signed = frame(label, [head.header, head.wrapped_key])
        verify(party.signing, Label.HEADER, signed, head.signature, party=sender)  # 2
        header = decode_as(Header, head.header, party=sender)  # 3
        if header.version != VERSION or header.suite != sealing.SUITE:  # 4
            raise UnsupportedVersion(f"envelope version {header.version}, suite {header.suite!r}", party=sender)
        theirs = self._charter.party(recipient).role
        if header.label is not label or (label, party.role, theirs) not in self._may_send:  # 5
            raise WrongLabel(f"{header.label.value!r} may not come from a {party.role.value} here", party=sender)
        if header.sender != sender:  # 6
            raise WrongSender(f"an envelope that names {header.sender} as its sender", party=sender)
        if header.charter != context.charter:  # 7
            raise WrongCharter("an envelope of another charter", party=sender)
        if header.session != context.session:  # 8
            raise WrongSession("an envelope of another session", party=sender)
        if header.round != context.round:
            raise WrongRound(f"an envelope of round {header.round}, now is {context.round}", party=sender)
        if header.attempt != context.attempt:
            raise WrongAttempt(f"an envelope of attempt {header.attempt}, now is {context.attempt}", party=sender)
        if header.open_round != context.open_round:
            raise WrongOpenRound("an envelope that answers another OpenRound", party=sender)
        if header.recipient != recipient:  # 9
            raise WrongRecipient(f"an envelope for {header.recipient}", party=sender)
        aggregate = label is Label.AGGREGATE
        idle = header.first == 0 and (aggregate or (header.contributors == 0 and header.close is None))
        empty = header.commitment == bytes(limits.DIGEST)
        if not idle or header.broadcast is not (label is Label.MODEL) or empty is not (label is Label.MASK_SEED):  # 11
            raise MalformedMessage("an envelope with fields that mean nothing for its label", party=sender)
        if bool(header.shares) is not (label is Label.CONTRIBUTION):
            raise MalformedMessage("an envelope with fields that mean nothing for its label", party=sender)
        return header

    def open(
        self,
        head: SealedHead,
        key: sealing.RoundKey,
        staging: sealing.Staging | None = None,
        *,
        content: Content | None = None,
    ) -> Incoming:
        """Unwrap the content key of a head that `examine` passed, allocate for its body, and prepare to receive it.

        Raises:
            BadWrappedKey: it opens nothing.
            IllegalMessage: one envelope too many of its sender (`View.received`).
        """
        header = decode_as(Header, head.header)
        subject = head.subject
        content_key = key.unwrap(head.wrapped_key, frame(header.label, [subject]))
        self.view.received(header, head, content)
        opener = sealing.BodyOpener(
            content_key,
            _body_context(header, subject),
            sections=header.sections,
            binding=header.binding,
            commitment=header.commitment,
            staging=staging,
            record=limits.RECORD_WIRE,
        )
        return Incoming(
            header, subject, opener, lambda sections: self._opened(header, subject, content, opener, sections)
        )

    def _opened(
        self,
        header: Header,
        subject: bytes,
        content: Content | None,
        opener: sealing.BodyOpener,
        sections: tuple[memoryview, ...],
    ) -> None:
        self.view.opened(header, subject, content)
        self._keep(header, subject, content, opener.salt, sections, sealed=False)

    def _keep(
        self,
        header: Header,
        subject: bytes,
        content: Content | None,
        salt: Buffer,
        sections: Sequence[Buffer],
        *,
        sealed: bool,
    ) -> None:
        if self._openings is not None and keeps(header.label, sealed=sealed):
            self.view.kept(header, subject, content)
            self._openings.keep(header, subject, salt, sections)

    def seal_seed(self, context: RoundContext, recipient: str, recipient_key: bytes) -> tuple[SealedHead, bytes]:
        """Seal a fresh seed of masks for a neighbour; return the head that is all of it, and the seed."""
        seed = sealing.new_content_key()
        header = self.new_header(Label.MASK_SEED, context, recipient, recipient_key, [])
        return self.seal_head(header, recipient_key, seed), seed

    def open_seeds(
        self, sealed: Iterable[tuple[str, SealedHead]], context: RoundContext, key: sealing.RoundKey
    ) -> list[bytes]:
        """Return the seeds of masks that neighbours sealed for us; all of them or none.

        Args:
            sealed: each sender, with the head that holds its seed.

        Raises:
            what `examine` raises; BadWrappedKey, naming the sender: one does not open.
        """
        seeds, opened = [], []
        for sender, head in sealed:
            header = self.examine(head, Label.MASK_SEED, context, sender, key, [])
            try:
                seeds.append(key.unwrap(head.wrapped_key, frame(header.label, [head.subject])))
            except BadWrappedKey as error:
                raise BadWrappedKey(error.reason, party=sender) from None
            self.view.received(header, head, None)
            opened.append((header, head.subject, None))
        self.view.opened_together(opened)
        return seeds

    # --- the parts that `seal` and `Broadcast` share

    def new_header(
        self,
        label: Label,
        context: RoundContext,
        recipient: str,
        recipient_key: bytes,
        sections: Sequence[Buffer],
        *,
        broadcast: bool = False,
        contributors: int = 0,
        close: bytes | None = None,
    ) -> Header:
        """Return a header that lacks only its commitment; raises `WrongLabel` for what may not be sent."""
        ours, theirs = self._charter.party(self._identity.name).role, self._charter.party(recipient).role
        if (label, ours, theirs) not in self._may_send:
            raise WrongLabel(f"{label.value!r} may not go from a {ours.value} to a {theirs.value}", party=recipient)
        return Header(
            version=VERSION,
            suite=sealing.SUITE,
            label=label,
            charter=context.charter,
            session=context.session,
            round=context.round,
            attempt=context.attempt,
            sender=self._identity.name,
            recipient=recipient,
            recipient_key=sealing.key_id(recipient_key),
            open_round=context.open_round,
            broadcast=broadcast,
            sections=tuple(memoryview(section).nbytes for section in sections),
            first=0,
            commitment=bytes(limits.DIGEST),
            contributors=contributors,
            close=close,
        )

    def seal_head(
        self, header: Header, recipient_key: bytes, content_key: bytes, content: Content | None = None
    ) -> SealedHead:
        """Wrap the content key to the recipient, sign, and note what was sealed."""
        encoded = encode(header)
        subject = digest(Label.HEADER, encoded)
        wrapped = sealing.wrap(recipient_key, content_key, frame(header.label, [subject]))
        signature = self._identity.sign(Label.HEADER, frame(header.label, [encoded, wrapped]))
        head = SealedHead(header=encoded, wrapped_key=wrapped, signature=signature)
        self.view.sealed(header, head, content)
        return head
