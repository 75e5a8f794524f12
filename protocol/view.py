"""What a party notes in its view ledger, and when: sealing, opening, saying and hearing all go through one `View`.

Rules of the file:
- The call that does it is the call that notes it. `Exchange` seals and opens nothing without a `View`, a machine's
  `send` and `receive` hand every message to it, and a loop lets nothing leave before `settle`.
- An envelope is one entry where it is sealed (`sent`), where its head is admitted (`received`) and where its body is
  authentic (`opened`); the last is in the file before anybody gets the content.
- Of a control message each signed statement in it that is listed in `STATEMENTS` is an entry, with the statement as an
  exhibit. A message without one says nothing about anybody's data, and what a model owner merely passes on between
  contributors (keys, sealed seeds, all answers) is noted by who signed it and who opens it.
- Nothing is kept as somebody's that its signature does not show to be: a handler may take a message without a look at
  all of it, and what lies beside an entry under a false signature would keep the true one from its place.
- The same thing said again to the same party, over a new connection, is one entry.
- How much one peer can have us note in an attempt is bounded, or a hostile one could fill the disk.
- Some messages carry a checkpoint of their sender's ledger, which its sender is held to from then on (`witness.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..crypto.errors import Misbehaviour
from ..crypto.identity import Identity, verify
from ..crypto.labels import Label
from ..crypto.sealing import RoundKey, body_bytes
from . import limits
from .charter import Charter
from .context import RoundContext
from .errors import IllegalMessage
from .journal import Journal
from .ledger import SHARES, Act, Checkpoint, Content, DataClass, Exhibit, Ledger, LedgerEntry
from .messages import (
    Header,
    Message,
    RoundRecord,
    SealedHead,
    Signed,
)
from .stated import STATEMENTS, statements_in
from .statements import open_signed
from .witness import Witness


@dataclass(frozen=True)
class Handled:
    """One sealing or opening, as an observer sees it: sizes and digests, never content."""

    sealed: bool
    """True for sealed by us, False for opened by us."""
    peer: str
    label: Label
    round: int
    payload: int
    """Bytes, without salt."""
    header: bytes
    commitment: bytes


Observer = Callable[[Handled], None]
Place = tuple[Act, DataClass | None, Any]
"""By which an earlier entry of a round is found: act, class and whose it is; an envelope by act and subject, too."""


class View:
    """What one party notes. Construct one a process, over the ledger of its journal."""

    def __init__(
        self, identity: Identity, charter: Charter, ledger: Ledger | None = None, observe: Observer | None = None
    ) -> None:
        """Without a ledger nothing is noted: for tests of what lies below."""
        self._identity = identity
        self._charter = charter
        self._ledger = ledger
        self._witness = None if ledger is None else Witness(charter, ledger.held)
        self._observe: Observer = observe or (lambda _: None)
        self._context: RoundContext | None = None
        self._places: dict[Place, list[int]] = {}
        self._said: set[tuple[Act, str, bytes]] = set()
        self._of_peer: dict[str, int] = {}
        self._pending: tuple[str, Message] | None = None
        self._last_exhibit: tuple[Signed, Exhibit] | None = None

    @classmethod
    def kept_in(cls, journal: Journal, identity: Identity, charter: Charter, observe: Observer | None = None) -> "View":
        """Return the view of the party whose journal this is; raises `JournalError` where its ledger is damaged."""
        return cls(identity, charter, Ledger(journal, charter.digest), observe)

    def begin(self, context: RoundContext) -> None:
        """Note everything from now on under this attempt."""
        before = self._context
        if before == context:
            return
        self._hold_to_the_first()
        self._context = context
        another = before is None or (before.session, before.round) != (context.session, context.round)
        # Another attempt sums other envelopes; what was trained, and from which model, is what it was.
        stays = {} if another else {place: at for place, at in self._places.items() if _outlives_an_attempt(place)}
        self._places = stays
        self._said.clear()
        self._of_peer.clear()

    def settle(self) -> None:
        """Have everything noted so far where no kill can take it; raises `JournalError`."""
        if self._ledger is not None:
            self._ledger.settle(later=True)

    def end(self) -> None:
        """Sign for everything that was noted, and have that on the disk, for an auditor who gets the file.

        Raises:
            JournalError: it cannot be written.
        """
        self._hold_to_the_first()
        if self._ledger is not None:
            self._ledger.checkpoint(self._identity)
            self._ledger.settle()

    # --- envelopes

    def sealed(self, header: Header, head: SealedHead, content: Content | None) -> None:
        """Note an envelope that was sealed for its recipient."""
        sources: tuple[Place, ...] = ()
        if header.label is Label.CONTRIBUTION:
            sources = ((Act.DERIVED, DataClass.UPDATE, (header.sender,)),)
        elif header.label is Label.AGGREGATE and content is not None:
            opened = (DataClass.UPDATE, *SHARES)
            sources = tuple((Act.OPENED, data, (name,)) for name in content.whose for data in opened)
        self._envelope(Act.SENT, header.recipient, header, head.subject, content, sources, head=head)
        self._observe(_handled(header, head.subject, sealed=True))

    def received(self, header: Header, head: SealedHead, content: Content | None) -> None:
        """Note an envelope whose head was admitted, and whose body may come now; raises `IllegalMessage`."""
        if (Act.RECEIVED, header.sender, head.subject) in self._said:
            return
        self._count(header.sender)
        self._said.add((Act.RECEIVED, header.sender, head.subject))
        self._envelope(Act.RECEIVED, header.sender, header, head.subject, content, head=head)

    def opened(self, header: Header, subject: bytes, content: Content | None) -> None:
        """Note that an envelope's content is known here from now on, and have that in the file."""
        self.opened_together([(header, subject, content)])

    def opened_together(self, envelopes: Sequence[tuple[Header, bytes, Content | None]]) -> None:
        """Note the same of several, whose contents are handed on together: header, subject and content of each."""
        for header, subject, content in envelopes:
            self._envelope(Act.OPENED, header.sender, header, subject, content, ((Act.RECEIVED, None, subject),))
        self.settle()
        for header, subject, _ in envelopes:
            self._observe(_handled(header, subject, sealed=False))

    def _envelope(
        self,
        act: Act,
        peer: str,
        header: Header,
        subject: bytes,
        content: Content | None,
        sources: tuple[Place, ...] = (),
        *,
        head: SealedHead | None = None,
    ) -> None:
        if self._ledger is None:
            return
        what = content or _plainly(header)
        at = self._note(
            act,
            what.data,
            peer=peer,
            whose=what.whose,
            part=what.part,
            context=RoundContext(header.charter, header.session, header.round, header.attempt, header.open_round),
            payload=sum(header.sections),
            wire=_wire(header),
            subject=subject,
            commitment=None if header.label is Label.MASK_SEED else header.commitment,
            derived_from=self._found(*sources),
            exhibits=() if head is None else (Exhibit.of_head(header.sender, head),),
        )
        self._place(at, act, None, subject)
        if act is not Act.RECEIVED:
            self._place(at, act, what.data, what.whose)

    # --- what a party does by itself

    def derived(
        self,
        data: DataClass,
        whose: tuple[str, ...] = (),
        *,
        sources: tuple[Place, ...],
        payload: int = 0,
        subject: bytes | None = None,
        commitment: bytes | None = None,
    ) -> None:
        """Note what was made of what earlier entries of this round are about."""
        at = self._note(
            Act.DERIVED,
            data,
            whose=whose,
            payload=payload,
            subject=subject,
            commitment=commitment,
            derived_from=self._found(*sources),
        )
        self._place(at, Act.DERIVED, data, whose)

    def stored(
        self, data: DataClass, whose: tuple[str, ...] = (), *, payload: int = 0, subject: bytes | None = None
    ) -> None:
        """Note that what was derived outlives this process."""
        sources = self._found((Act.DERIVED, data, whose))
        self._note(Act.STORED, data, whose=whose, payload=payload, subject=subject, derived_from=sources)

    def kept(self, header: Header, subject: bytes, content: Content | None) -> None:
        """Note that what we sealed or opened is to be on our own disk, for an auditor to be shown."""
        if self._ledger is None:
            return
        what = content or _plainly(header)
        self._note(
            Act.STORED,
            what.data,
            whose=what.whose,
            part=what.part,
            payload=sum(header.sections),
            subject=subject,
            commitment=header.commitment,
            derived_from=self._found((Act.SENT, None, subject), (Act.OPENED, None, subject)),
        )
        self.settle()

    def released(self, peer: str, head: SealedHead, content: Content, commitment: bytes) -> None:
        """Note that a sum was let go of, for good: what was sealed for `peer` may be sent."""
        sources = self._found((Act.SENT, content.data, content.whose))
        self._note(
            Act.RELEASED,
            content.data,
            peer=peer,
            whose=content.whose,
            part=content.part,
            subject=head.subject,
            commitment=commitment,
            derived_from=sources,
        )

    def erased(self, data: DataClass, whose: tuple[str, ...]) -> None:
        """Note that what was opened, or derived, is gone here: overwritten, or dropped with its last reference."""
        sources = self._found((Act.OPENED, data, whose)) or self._found((Act.DERIVED, data, whose))
        self._note(Act.ERASED, data, whose=whose, derived_from=sources)

    def refused(
        self,
        peer: str | None,
        code: str,
        about: bytes | None = None,
        *,
        content: Content | None = None,
        message: Message | None = None,
    ) -> None:
        """Note a refusal by the name of its error; of one peer only so many an attempt.

        The first statement of a refused message is kept, if its signature verifies: of two that contradict each other
        the second is the one that is refused. `content` is what a sum would have held that was not made.
        """
        name = peer or ""
        refusals = self._of_peer.get(f"refused {name}", 0)
        if refusals >= limits.REFUSALS_NOTED:
            return
        self._of_peer[f"refused {name}"] = refusals + 1
        said = () if message is None else statements_in(message)
        first = next(iter(said), None)
        fits = first is not None and len(first[1].statement) <= limits.EXHIBIT_OF_A_REFUSAL
        shown = (Exhibit.of_statement(*first),) if first is not None and fits and self._is_signed(*first) else ()
        subject = shown[0].subject if shown else about
        what = content or Content(DataClass.CONTROL, ())
        self._note(
            Act.REFUSED,
            what.data,
            peer=peer,
            whose=what.whose,
            subject=subject,
            code=code,
            exhibits=shown,
        )

    def _is_signed(self, label: Label, signed: Signed) -> bool:
        """Whether its signer signed this: as a rule that was verified a moment ago, and is remembered."""
        try:
            verify(self._charter.party(signed.signer).signing, label, signed.statement, signed.signature, party=None)
        except Misbehaviour:
            return False
        return True

    def drew(self, key: RoundKey, *, before: bool = False) -> RoundKey:
        """Note that a round key was drawn, or `before` this process began, and later when it is erased; return it."""
        subject, context = key.key_id.ljust(limits.DIGEST, b"\0"), self._context
        drawn = () if before else (self._note(Act.DERIVED, DataClass.KEY, subject=subject),)

        def erased() -> None:
            self._note(Act.ERASED, DataClass.KEY, context=context, subject=subject, derived_from=drawn)

        key.on_erasure = erased
        return key

    # --- control messages

    def said(self, peer: str, message: Message) -> None:
        """Note what the statements in a message say to `peer`."""
        self._statements(Act.SENT, peer, message)

    def hear(self, peer: str, message: Message) -> None:
        """Have what a peer says noted: before anything that follows from it, or with `heard`.

        Raises:
            IllegalMessage: it has said too much in this attempt.
        """
        if type(message) in STATEMENTS:
            self._count(peer)
        self._pending = peer, message

    def heard(self) -> None:
        """Note what a peer said: it was not refused."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._statements(Act.RECEIVED, *pending)

    def unheard(self) -> None:
        """Forget what a peer said: it was refused."""
        self._pending = None

    def _statements(self, act: Act, peer: str, message: Message) -> None:
        if self._ledger is None:
            return
        for label, signed in statements_in(message):
            exhibit = self._as_exhibit(label, signed)
            if (act, peer, exhibit.subject) in self._said:
                continue
            if act is Act.RECEIVED and not self._is_signed(label, signed):
                continue
            self._said.add((act, peer, exhibit.subject))
            self._statement(act, peer, label, signed, exhibit)

    def _as_exhibit(self, label: Label, signed: Signed) -> Exhibit:
        """Return a signed statement as an exhibit; what is said to one after the other is the same one."""
        last = self._last_exhibit
        if last is None or last[0] is not signed:
            last = self._last_exhibit = signed, Exhibit.of_statement(label, signed)
        return last[1]

    def _statement(self, act: Act, peer: str, label: Label, signed: Signed, exhibit: Exhibit) -> None:
        scores = label is Label.EVALUATION
        self._note(
            act,
            DataClass.SCORE if scores else DataClass.CONTROL,
            peer=peer,
            whose=(signed.signer,) if scores else (),
            subject=exhibit.subject,
            wire=len(signed.statement),
            exhibits=(exhibit,),
        )

    def cosigned(self, record: RoundRecord) -> None:
        """Keep every cosignature of a verified record as what it is: the statement, signed by somebody else."""
        for each in record.cosignatures:
            signed = Signed(each.party, record.statement.statement, each.signature)
            self._keep(Exhibit.of_statement(Label.ROUND_STATEMENT, signed))

    # --- checkpoints

    def checkpoint(self, *, whole: bool = False) -> Signed | None:
        """Return the signed checkpoint a message carries: of what is on the disk, or of everything, which is put there.

        Raises:
            JournalError: it cannot be written.
        """
        return None if self._ledger is None else self._ledger.checkpoint(self._identity, settle=whole)

    def hold(self, peer: str, signed: Signed | None, message: Message) -> None:
        """Hold a peer to the checkpoint its message carries, now and in every later process of ours.

        Raises:
            IllegalMessage: it carries none, and should; or too many.
            what `Witness.examine` raises.
        """
        if self._witness is None:
            return
        try:
            said = self._witness.examine(peer, signed, message)
        finally:
            for each in self._witness.contradiction():
                self._keep(Exhibit.of_statement(Label.CHECKPOINT, each))
        if said is not None and signed is not None:
            self._hold(peer, signed, said)

    def _hold(self, peer: str, signed: Signed, said: Checkpoint) -> None:
        self._count(peer)
        if self._ledger is not None:
            self._ledger.hold(signed, said)
        exhibit = Exhibit.of_statement(Label.CHECKPOINT, signed)
        self._statement(Act.RECEIVED, peer, Label.CHECKPOINT, signed, exhibit)

    def _hold_to_the_first(self) -> None:
        """Verify what an attempt that ended without a last word left unverified."""
        # What a peer has just said belongs to the attempt that it begins.
        pending, self._pending = self._pending, None
        for peer, signed in () if self._witness is None else self._witness.unverified():
            try:
                self._hold(peer, signed, open_signed(self._charter, signed, Checkpoint))
            except Misbehaviour as error:
                self.refused(peer, error.code)
        self._pending = pending

    # --- below

    def _count(self, peer: str) -> None:
        count = self._of_peer.get(peer, 0) + 1
        if count > limits.NOTED_OF_A_PEER:
            raise IllegalMessage("says more in one attempt than anybody has to", party=peer)
        self._of_peer[peer] = count

    def _keep(self, exhibit: Exhibit) -> None:
        if self._ledger is not None:
            self._ledger.keep(exhibit)

    def _place(self, at: int, act: Act, data: DataClass | None, which: Any) -> None:
        self._places.setdefault((act, data, which), []).append(at)

    def _found(self, *places: Place) -> tuple[int, ...]:
        return tuple(sorted({at for each in places for at in self._places.get(each, ())}))

    def _note(
        self,
        act: Act,
        data: DataClass,
        *,
        peer: str | None = None,
        context: RoundContext | None = None,
        exhibits: tuple[Exhibit, ...] = (),
        **fields: Any,
    ) -> int:
        if self._ledger is None:
            return 0
        self.heard()
        at = context or self._context
        ours = self._charter.digest
        entry = LedgerEntry(
            act,
            data,
            ours,
            peer=peer,
            session=None if at is None else at.session,
            round=0 if at is None else at.round,
            attempt=0 if at is None else at.attempt,
            open_round=None if at is None else at.open_round,
            **fields,
        )
        return self._ledger.append(entry, *exhibits)

    def __repr__(self) -> str:
        return f"View({self._identity.name}: {self._ledger!r})"


def _outlives_an_attempt(place: Place) -> bool:
    act, data, _ = place
    return act is Act.DERIVED or data is DataClass.MODEL


def _plainly(header: Header) -> Content:
    """Return what a header alone says: a model is nobody's, a score and a mask's seed are their sender's."""
    match header.label:
        case Label.MODEL:
            return Content(DataClass.MODEL, ())
        case Label.MASK_SEED:
            return Content(DataClass.MASK, (header.sender,))
        case Label.CONTRIBUTION:
            return Content(DataClass.UPDATE, (header.sender,))
        case _:
            raise ValueError(f"whose an envelope of {header.label.value} is has to be said")


def _handled(header: Header, subject: bytes, *, sealed: bool) -> Handled:
    peer = header.recipient if sealed else header.sender
    return Handled(sealed, peer, header.label, header.round, sum(header.sections), subject, header.commitment)


def _wire(header: Header) -> int:
    return 0 if header.label is Label.MASK_SEED else body_bytes(sum(header.sections))
