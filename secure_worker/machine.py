"""The secure worker: admits sealed contributions, adds them, releases the sum and nothing else.

It follows `rounds.SECURE_WORKER`. What it may admit is in `admission.py`, what is in the sum in `intake.py`, what it
may release in `gate.py`, what it remembers in `memory.py`; this file is the order of things, and the deadlines.

An attempt at a round ends in one of two ways: an aggregate with a signed Close list and a cosigned statement, or a
signed abort that lists whose contribution had a receipt. A restart is the second way for an attempt that was collecting
(total and key were in memory), and neither for one that was released: that is sent again, byte for byte. Who is not
heard from is reported as such: the abort of a time-out names whom this party saw nothing of, and accuses nobody.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from ..crypto.errors import BadWrappedKey, Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..crypto.ring import to_wire
from ..crypto.sharing import scheme
from ..protocol import limits
from ..protocol.aborts import sign_abort
from ..protocol.charter import Charter, Role
from ..protocol.errors import (
    AlreadyContributed,
    GateShut,
    IllegalMessage,
    TooLate,
    WrongOpenRound,
    WrongSender,
    WrongSession,
)
from ..protocol.exchange import Exchange, Incoming, Outgoing
from ..protocol.journal import Journal
from ..protocol.machine import Drop, Expect, Machine, Permit, Provide
from ..protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Closed,
    CloseList,
    Cosign,
    Decline,
    Declined,
    Fetch,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Ready,
    Receipted,
    Refusal,
    RequestSession,
    RoundOffer,
    RoundStatement,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
)
from ..protocol.progress import RefusedProgress, RoundClosed, RoundOpened, Said
from ..protocol.rounds import Phase, Step
from ..protocol.session import HolderSession, new_nonce
from ..protocol.statements import open_signed, sign, statement_digest
from .admission import admit_question
from .attestation import Attestation
from .gate import Decision
from .intake import Buffers, Intake
from .memory import Memory, ReleaseKept


class SecureWorker(Machine):
    """The machine of a secure worker, for one session after another."""

    role: ClassVar[Role] = Role.SECURE_WORKER

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        journal: Journal,
        *,
        serve: bool = False,
        memory: int = limits.VECTOR_MEMORY,
    ) -> None:
        """With `serve`, go on to the next session when one ends; else the end of the first is the end.

        `memory` bounds one summed vector, in bytes.
        """
        super().__init__(identity, charter, exchange)
        self._serve = serve
        self._room = memory
        self._owner = charter.model_owner.name
        self._scheme = scheme(charter.rules.scheme.name)
        self._index = [party.name for party in charter.secure_workers].index(self.name)
        self._memory = Memory(charter, self.name, journal)
        self._connected: set[str] = set()
        self._gone: dict[str, float] = {}
        self._met_owner = False
        self._written_off: set[str] = set()
        self._intake: Intake | None = None
        self._offer: Signed | None = None
        self._buffers = Buffers()
        self._outgoing: Outgoing | None = None
        self._attestation: Attestation | None = None
        self._deadline: float | None = None

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a secure worker can be sent."""
        return {
            RequestSession: self._on_request_session,
            ProposeRound: self._on_propose_round,
            Ready: self._on_ready,
            Declined: self._on_declined,
            Fetch: self._on_fetch,
            Cosign: self._on_cosign,
            Aborted: self._on_aborted,
            SessionOver: self._on_session_over,
            Refusal: self._on_refusal,
        }

    def start(self, now: float) -> None:
        """Wait for the model owner; go on where an earlier process of this party ended."""
        if self._memory.session is None:
            self._deadline = None if self._serve else now + self.charter.rules.deadlines.join
            return
        # Nobody is connected to a process that has just begun; from now on they count as gone.
        self._gone.setdefault(self._owner, now)
        lost = self._memory.lost_attempt
        if lost is not None:
            text = f"{self.name} was restarted; what it had added up is gone"
            receipted = self._memory.receipted()
            self._memory.abort_attempt(sign_abort(self.identity, lost, Cause.LOCAL, text, receipted=receipted))
            self.tell(Said(text=f"round {lost.round}: this attempt was lost with an earlier process", warning=True))
        elif self._memory.released and self._memory.release is not None and not self._memory.release.attested:
            self._reopen(now)

    # --- who is there

    def peer_up(self, peer: str, now: float) -> None:
        """Note a connection; whoever comes back before the set is closed may still contribute."""
        self._connected.add(peer)
        self._gone.pop(peer, None)
        self._met_owner |= peer == self._owner
        if self._attestation is not None and peer in self._attestation.missing:
            self._show_release(peer)
        if peer == self._owner and self._memory.session is None and self._deadline is not None:
            # It waits as long for the data owners from its own start on, and may then begin without some of them.
            self._deadline = now + self.charter.rules.deadlines.join + limits.ABSENCE

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        """Note a lost connection; the round waits `limits.ABSENCE` for its return."""
        self._connected.discard(peer)
        self._gone[peer] = now
        self.tell(Said(text=f"{peer} is not connected any more: {reason}", warning=self.phase is not Phase.IDLE))

    # --- a session

    def _on_request_session(self, peer: str, message: RequestSession, now: float) -> None:
        self._from_owner(peer)
        session = self._memory.session
        # Asked again, over another connection, before anything hangs on it: the same answer.
        if session is None or session.owner_nonce != message.owner_nonce or self._memory.question is not None:
            self._end_round("the model owner opened another session")
            session = HolderSession(self.name, message.owner_nonce, new_nonce())
            self._memory.offer_session(session)
        self._deadline = None
        offer = SessionOffer(
            charter=self.charter.digest,
            owner_nonce=session.owner_nonce,
            holder=self.name,
            holder_nonce=session.nonce,
        )
        self.send(peer, OfferSession(offer=sign(self.identity, offer)))

    def _on_session_over(self, peer: str, message: SessionOver, now: float) -> None:
        self._from_owner(peer)
        end = open_signed(self.charter, message.end, SessionEnd, Role.MODEL_OWNER)
        if end.session != self._memory.session_id:
            raise WrongSession("ends another session", party=peer)
        self._end_round("the model owner ended the session")
        self._leave(None, f"session over after {end.rounds} round(s)")

    def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
        abort = open_signed(self.charter, message.abort, Abort)
        if message.abort.signer != peer or peer != self._owner:
            raise WrongSender("an abort that is not the model owner's own", party=peer)
        if abort.session != self._memory.session_id and self._memory.session_id is not None:
            raise WrongSession("aborts another session", party=peer)
        self._end_round(f"the model owner aborted: {abort.text}")
        self._leave(f"{peer} aborted: {abort.cause.value}: {abort.text}", abort.text)

    def _on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        self.tell(Said(text=f"{peer} refused what we sent: {message.code}", warning=True))

    def _leave(self, error: str | None, text: str) -> None:
        """End a session: for good, or until the next."""
        self._memory.leave_session()
        self._buffers = Buffers()
        if self._serve:
            self.tell(Said(text=text, warning=error is not None))
        else:
            self.finish(error)

    # --- a round

    def _on_propose_round(self, peer: str, message: ProposeRound, now: float) -> None:
        self._from_owner(peer)
        if self._memory.session is None:
            raise WrongSession("asks without having opened a session with this secure worker", party=peer)
        question, name = admit_question(self.charter, self._memory, self._room, message.open_round)
        if name != self._memory.open_round:
            self._end_round("the model owner asked anew")
            before = self._abort_before(question)
            self._memory.admit_question(message.open_round)
            self._collect(question, name, before, now)
        if self._offer is not None:
            self.send(peer, OfferRound(offer=self._offer))
        elif self._memory.released:
            # Attested and over, and the record never arrived: the cosignatures were in memory, so all sign again.
            shown = sorted(self._connected) if self._attestation is None else [peer]
            self._reopen(now)
            for party in shown:
                self._show_release(party)
        elif self._memory.aborted is not None:
            self.send(peer, Aborted(abort=self._memory.aborted))

    def _abort_before(self, question: OpenRound) -> Signed | None:
        """Return the signed abort of the attempt before this one: the offer must show it."""
        if question.attempt == 0:
            return None
        known = self._memory.abort_of(question.session, question.round, question.attempt - 1)
        if known is None:
            # That attempt never came here, so nothing of it did.
            text = f"{self.name} was not asked in this attempt"
            known = sign_abort(self.identity, question, Cause.LOCAL, text, attempt=question.attempt - 1)
            self._memory.abort_attempt(known)
        return known

    def _collect(self, question: OpenRound, name: bytes, before: Signed | None, now: float) -> None:
        self._intake = Intake(question, name, self.exchange, self._scheme, self._index, self._buffers)
        offer = RoundOffer(open_round=name, holder=self.name, key=self._intake.key.public, aborted=before)
        self._offer = sign(self.identity, offer)
        self._deadline = now + self.charter.rules.deadlines.join + self.charter.rules.deadlines.upload
        self.move(Step.ROUND_OPEN)
        for party in set(question.cohort) - self._connected:
            self._gone.setdefault(party, now)
        self.tell(RoundOpened(round=question.round, cohort=question.cohort))

    def _on_ready(self, peer: str, message: Ready, now: float) -> None:
        self.charter.require(peer, Role.DATA_OWNER)
        if self._intake is None:
            raise TooLate("announces an upload while no round collects", party=peer)
        try:
            receipt = self._intake.admit(peer, message.head)
        except AlreadyContributed:
            # A data owner that was restarted may not know what it had sent; this tells it, and nothing else.
            self._send_receipt(peer)
            raise
        if receipt is not None:
            self.send(peer, Receipted(receipt=receipt))
            return
        self._start_uploads()

    def _send_receipt(self, peer: str) -> None:
        done = self._intake.added.get(peer) if self._intake is not None else None
        if done is not None and done.receipt is not None:
            self.send(peer, Receipted(receipt=done.receipt))

    def _start_uploads(self) -> None:
        """Start what there is a buffer for; a data owner whose wrapped key does not open is told, the others go on."""
        while self._intake is not None:
            try:
                upload = self._intake.next_upload()
            except BadWrappedKey as error:
                self.tell(RefusedProgress(code=error.code, text=str(error)))
                if error.party is not None:
                    self.send(error.party, Refusal(code=error.code, about=self._intake.open_round))
                continue
            if upload is None:
                return
            sender, incoming, replaced = upload
            if replaced is not None and replaced != incoming.subject:
                self.effect(Drop(replaced))
            self.effect(Expect(sender, incoming))
            self.effect(Permit(sender, incoming.subject))

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Add a contribution, sign its receipt, make room for the next."""
        intake = self._intake
        if intake is None or incoming.header.open_round != intake.open_round:
            return
        intake.add(peer, incoming, sections[0])
        receipt = sign(self.identity, intake.receipt_for(peer, self.name))
        self._memory.add_contribution(peer, incoming.header.commitment)
        intake.give_receipt(peer, receipt)
        self.effect(Drop(incoming.subject))
        self.send(peer, Receipted(receipt=receipt))
        # If it was the last, the set is closed by `tick`, once the receipt is out: a release takes a while to write.
        self._start_uploads()

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:
        """Free the buffer; the data owner may announce itself again until the set is closed."""
        if self._intake is not None:
            self._intake.failed(peer, subject)
            self._start_uploads()

    def _on_declined(self, peer: str, message: Declined, now: float) -> None:
        decline = open_signed(self.charter, message.decline, Decline, Role.DATA_OWNER)
        if decline.party != peer or message.decline.signer != peer:
            raise WrongSender("declines for somebody else", party=peer)
        intake = self._intake
        if intake is None:
            raise TooLate("declines while no round collects", party=peer)
        if decline.open_round != intake.open_round:
            raise WrongOpenRound("declines another round", party=peer)
        if peer in intake.outstanding:
            broken = intake.decline(peer)
            if broken is not None:
                self.effect(Drop(broken))
                self._start_uploads()
        self._close_if_complete(now)

    # --- closing and releasing

    def _close_if_complete(self, now: float) -> None:
        intake = self._intake
        if intake is None:
            return
        outstanding = intake.outstanding
        absent = {party for party in outstanding if now - self._gone.get(party, now) >= limits.ABSENCE}
        self._written_off = absent
        reachable = len(intake.added) + len(outstanding - absent)
        # Where waiting for the rest could not bring the round to its minimum, it ends now.
        if outstanding == absent or self._expired(now) or reachable < self._minimum:
            self._close(now)

    def _close(self, now: float) -> None:
        intake = self._intake
        if intake is None:
            return
        # Before the deadline only who is written off is missing; the others were not given their time.
        missing = tuple(sorted(intake.outstanding if self._expired(now) else self._written_off))
        contributors = tuple(sorted(intake.added))
        try:
            decision = self._memory.gate.decide(intake.question, contributors)
        except GateShut as shut:
            text = shut.reason
            if missing:
                text += f"; no contribution from {', '.join(missing)} as seen by {self.name}"
            if intake.declined:
                text += f"; declined: {', '.join(sorted(intake.declined))}"
            self._abort(Cause.TOO_FEW if len(contributors) < self._minimum else Cause.FAULT, text, missing)
            return
        close = CloseList(
            open_round=intake.open_round,
            holder=self.name,
            contributions=intake.contributions(),
            declined=tuple(sorted(intake.declined)),
            missing=missing,
        )
        self._release(intake, decision, close, now)
        self.tell(
            RoundClosed(round=decision.round, contributors=contributors, declined=close.declined, missing=missing)
        )

    def _release(self, intake: Intake, decision: Decision, close: CloseList, now: float) -> None:
        """Seal the total, write set, decision and sealed bytes in one transaction, and only then say anything."""
        question, signed_close = intake.question, sign(self.identity, close)
        name = statement_digest(CloseList, signed_close)
        total, broken = intake.close()
        sealed = self.exchange.seal(
            Label.AGGREGATE,
            intake.context,
            self._owner,
            question.owner_key,
            [to_wire(total)],
            contributors=len(decision.contributors),
            close=name,
        )
        statement = RoundStatement(
            open_round=intake.open_round,
            holder=self.name,
            close=name,
            contributors=decision.contributors,
            release=sealed.subject,
            commitment=sealed.commitment,
        )
        kept = ReleaseKept(
            intake.open_round, signed_close, sealed.head, sealed.commitment, sign(self.identity, statement)
        )
        self._memory.decide_release(decision, kept, sealed)
        for subject in broken:
            self.effect(Drop(subject))
        self._reopen(now)
        self._tell_all([self._owner, *question.cohort], Closed(close=kept.close))
        for party in sorted(self._connected, key=lambda party: (party != self._owner, party)):
            self._show_release(party, closed=False)

    def _reopen(self, now: float) -> None:
        """Go to where the release is out and its statement is being cosigned: from the journal, whoever wrote it."""
        kept = self._memory.release
        if kept is None or self._attestation is not None:
            return
        self._intake = self._offer = None
        self._buffers.wipe()
        self._outgoing = self._memory.outgoing()
        self._attestation = Attestation(self.charter, kept)
        self.move(Step.SET_CLOSED)
        deadlines = self.charter.rules.deadlines
        self._deadline = now + deadlines.release + deadlines.statement

    def _show_release(self, party: str, *, closed: bool = True) -> None:
        """Send one party what the round came to: the Close list, to the model owner the release, and the statement."""
        attestation, outgoing = self._attestation, self._outgoing
        if attestation is None or outgoing is None or party not in attestation.expected:
            return
        if closed:
            self.send(party, attestation.closed)
        if party == self._owner:
            self.effect(Provide(party, outgoing))
            self.send(party, attestation.release)
        self.send(party, attestation.request)

    def _on_fetch(self, peer: str, message: Fetch, now: float) -> None:
        self._from_owner(peer)
        if self._outgoing is None or message.subject != self._outgoing.subject:
            raise IllegalMessage("asks for a body this secure worker does not have", party=peer)
        self.effect(Permit(peer, message.subject))

    def _on_cosign(self, peer: str, message: Cosign, now: float) -> None:
        attestation = self._attestation
        if attestation is None:
            raise TooLate("cosigns a statement that is not open", party=peer)
        attestation.take(peer, message)
        if peer == self._owner and self._deadline is not None:
            # It has the aggregate, and waits for the record from now on: no longer than the statement may take.
            self._deadline = min(self._deadline, now + self.charter.rules.deadlines.statement)
        if not attestation.missing:
            self._attest()

    def _attest(self) -> None:
        """Send the record of the round, as complete as it is, and close the round."""
        attestation = self._attestation
        if attestation is None:
            return
        self._memory.attest()
        self._tell_all(sorted(attestation.expected), attestation.record())
        self._forget()
        self.move(Step.ATTESTED)

    # --- ends

    def _abort(self, cause: Cause, text: str, about: tuple[str, ...] = ()) -> None:
        """Sign the end of this attempt, write it down, and send it to everyone in the round."""
        intake = self._intake
        if intake is None:
            return
        abort = sign_abort(self.identity, intake.question, cause, text, about=about, receipted=intake.contributions())
        self._memory.abort_attempt(abort)
        self._tell_all([self._owner, *intake.question.cohort], Aborted(abort=abort))
        self.tell(Said(text=f"round {intake.question.round} ends without a release: {text}", warning=True))
        self._forget()
        self.move(Step.GIVEN_UP)

    def _end_round(self, text: str) -> None:
        """End what is under way: an attempt in its abort, a release in its record."""
        self._attest()
        self._abort(Cause.INTERRUPTED, text)

    def _forget(self) -> None:
        if self._intake is not None:
            for subject in self._intake.close()[1]:
                self.effect(Drop(subject))
        if self._outgoing is not None:
            self.effect(Drop(self._outgoing.subject))
        self._buffers.wipe()
        self._intake = self._offer = self._outgoing = self._attestation = self._deadline = None
        self._written_off = set()

    def interrupt(self, reason: str, now: float) -> None:
        """End the round, if there is one, and the process; the session stays, for the next process of this party."""
        self._end_round(f"{self.name} was stopped by its operator")
        self.finish(reason)

    # --- time

    def tick(self, now: float) -> None:
        """Act on what is due."""
        if self.phase is Phase.COLLECTING:
            self._close_if_complete(now)
        elif self.phase is Phase.RELEASED and (self._all_cosigners_gone(now) or self._expired(now)):
            self._attest()
        if self._serve or self.phase is not Phase.IDLE:
            return
        if self._memory.session is None:
            if self._expired(now):
                self.finish(f"no session from {self._owner} within {self.charter.rules.deadlines.join:g} s")
        elif now - self._gone.get(self._owner, now) >= self._patience:
            # The session stays for the next process: what was released in it may be all that is left of a round.
            self.finish(f"{self._owner} is not connected any more, for {self._patience:g} s")

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [at + limits.ABSENCE for party, at in self._gone.items() if self._matters(party)]
        if self._deadline is not None:
            waits.append(self._deadline)
        lost = self._gone.get(self._owner)
        if lost is not None and not self._serve and self.phase is Phase.IDLE and self._memory.session is not None:
            waits.append(lost + self._patience)
        return min(waits, default=None)

    def _matters(self, party: str) -> bool:
        if party in self._written_off:
            return False
        if self._attestation is not None:
            return party in self._attestation.missing
        return self._intake is not None and party in self._intake.outstanding

    def _expired(self, now: float) -> bool:
        return self._deadline is not None and now >= self._deadline

    def _all_cosigners_gone(self, now: float) -> bool:
        """Whether everybody whose signature is missing has been away for too long to be waited for."""
        if self._attestation is None:
            return False
        missing = self._attestation.missing
        self._written_off = {party for party in missing if now - self._gone.get(party, now) >= limits.ABSENCE}
        return missing == self._written_off

    # --- small things

    @property
    def _patience(self) -> float:
        """How long the model owner may be gone; as long as to join where this process has just begun."""
        deadlines = self.charter.rules.deadlines
        return deadlines.absence if self._met_owner else max(deadlines.absence, deadlines.join)

    @property
    def _minimum(self) -> int:
        return self.charter.rules.minimum_cohort

    def _from_owner(self, peer: str) -> None:
        self.charter.require(peer, Role.MODEL_OWNER)

    def _tell_all(self, parties: Iterable[str], message: Message) -> None:
        for party in parties:
            if party in self._connected:
                self.send(party, message)
