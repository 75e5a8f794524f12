"""The secure worker: admits sealed contributions, adds them, releases the sum and nothing else.

It follows `rounds.SECURE_WORKER`. What it may admit is in `admission.py`, what is in the sum in `intake.py`, what it
may release in `gate.py`; this file is the order of things, and the deadlines.

A round ends in one of two ways: an aggregate with a signed Close list and a cosigned statement, or a signed abort.
Who is not heard from is reported as such: the abort of a time-out names whom this party saw nothing of, and accuses
nobody.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from ..crypto.errors import BadWrappedKey, Misbehaviour
from ..crypto.identity import Identity, verify
from ..crypto.labels import Label
from ..crypto.ring import to_wire
from ..crypto.sharing import scheme
from ..protocol import limits
from ..protocol.charter import Charter, Role
from ..protocol.errors import (
    GateShut,
    IllegalMessage,
    TooLate,
    WrongOpenRound,
    WrongSender,
    WrongSession,
)
from ..protocol.exchange import Exchange, Incoming, Outgoing
from ..protocol.machine import Drop, Expect, Machine, Permit, Provide
from ..protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Closed,
    CloseList,
    Cosign,
    Cosignature,
    Decline,
    Declined,
    Fetch,
    Message,
    OfferRound,
    OfferSession,
    ProposeRound,
    Ready,
    Receipted,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
)
from ..protocol.progress import RefusedProgress, RoundClosed, RoundOpened, Said
from ..protocol.rounds import Phase, Step
from ..protocol.session import HolderSession, new_nonce, session_id
from ..protocol.statements import open_signed, sign, statement_digest
from .admission import Questions
from .gate import ReleaseGate
from .intake import Buffers, Intake


class _Attestation:
    """A round statement while its cosignatures come in."""

    def __init__(self, signed: Signed, expected: Iterable[str]) -> None:
        self.signed = signed
        self.digest = statement_digest(RoundStatement, signed)
        self.expected = set(expected)
        self.cosignatures: dict[str, Cosignature] = {}

    @property
    def missing(self) -> set[str]:
        """Who has not cosigned yet."""
        return self.expected - set(self.cosignatures)


class SecureWorker(Machine):
    """The machine of a secure worker, for one session after another."""

    role: ClassVar[Role] = Role.SECURE_WORKER

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        *,
        serve: bool = False,
        memory: int = limits.VECTOR_MEMORY,
    ) -> None:
        """With `serve`, go on to the next session when one ends; else the end of the first is the end.

        `memory` bounds one summed vector, in bytes.
        """
        super().__init__(identity, charter, exchange)
        self._serve = serve
        self._memory = memory
        self._owner = charter.model_owner.name
        self._scheme = scheme(charter.rules.scheme.name)
        self._index = [party.name for party in charter.secure_workers].index(self.name)
        self._gate = ReleaseGate(charter)
        self._connected: set[str] = set()
        self._gone: dict[str, float] = {}
        self._written_off: set[str] = set()
        self._session: HolderSession | None = None
        self._session_id: bytes | None = None
        self._questions: Questions | None = None
        self._intake: Intake | None = None
        self._buffers = Buffers()
        self._outgoing: Outgoing | None = None
        self._attestation: _Attestation | None = None
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
        """Wait for the model owner."""
        if not self._serve:
            self._deadline = now + self.charter.rules.deadlines.join

    # --- who is there

    def peer_up(self, peer: str, now: float) -> None:
        """Note a connection; whoever comes back before the set is closed may still contribute."""
        self._connected.add(peer)
        self._gone.pop(peer, None)
        if peer == self._owner and self._session is None and self._deadline is not None:
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
        self._give_up("the model owner opened another session")
        self._session = HolderSession(self.name, message.owner_nonce, new_nonce())
        self._questions = Questions(self.charter, self._session, self._memory)
        self._session_id = None
        self._deadline = None
        offer = SessionOffer(
            charter=self.charter.digest,
            owner_nonce=message.owner_nonce,
            holder=self.name,
            holder_nonce=self._session.nonce,
        )
        self.send(peer, OfferSession(offer=sign(self.identity, offer)))

    def _on_session_over(self, peer: str, message: SessionOver, now: float) -> None:
        self._from_owner(peer)
        end = open_signed(self.charter, message.end, SessionEnd, Role.MODEL_OWNER)
        if end.session != self._session_id:
            raise WrongSession("ends another session", party=peer)
        self._give_up("the model owner ended the session")
        self._leave(None, f"session over after {end.rounds} round(s)")

    def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
        abort = open_signed(self.charter, message.abort, Abort)
        if message.abort.signer != peer or peer != self._owner:
            raise WrongSender("an abort that is not the model owner's own", party=peer)
        if abort.session != self._session_id and self._session_id is not None:
            raise WrongSession("aborts another session", party=peer)
        self._give_up(f"the model owner aborted: {abort.text}")
        self._leave(f"{peer} aborted: {abort.cause.value}: {abort.text}", abort.text)

    def _on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        self.tell(Said(text=f"{peer} refused what we sent: {message.code}", warning=True))

    def _leave(self, error: str | None, text: str) -> None:
        """End a session: for good, or until the next."""
        self._session, self._questions, self._session_id = None, None, None
        self._buffers = Buffers()
        if self._serve:
            self.tell(Said(text=text, warning=error is not None))
        else:
            self.finish(error)

    # --- a round

    def _on_propose_round(self, peer: str, message: ProposeRound, now: float) -> None:
        self._from_owner(peer)
        if self._questions is None:
            raise WrongSession("asks without having opened a session with this secure worker", party=peer)
        current = self._intake
        collecting = current.question if current is not None and self.phase is Phase.COLLECTING else None
        question, name = self._questions.admit(message.open_round, collecting)
        if current is None or current.open_round != name:
            if self._attestation is not None:
                self._attest()
            self._give_up("the model owner asked anew")
            self._questions.record(question, name)
            self._session_id = session_id(question.charter, question.owner_nonce, question.holder_nonces)
            self._intake = current = Intake(question, name, self.exchange, self._scheme, self._index, self._buffers)
            self._deadline = now + self.charter.rules.deadlines.join + self.charter.rules.deadlines.upload
            self.move(Step.ROUND_OPEN)
            for party in set(question.cohort) - self._connected:
                self._gone.setdefault(party, now)
            self.tell(RoundOpened(round=question.round, cohort=question.cohort))
        offer = RoundOffer(open_round=name, holder=self.name, key=current.key.public)
        self.send(peer, OfferRound(offer=sign(self.identity, offer)))

    def _on_ready(self, peer: str, message: Ready, now: float) -> None:
        self.charter.require(peer, Role.DATA_OWNER)
        if self.phase is not Phase.COLLECTING or self._intake is None:
            raise TooLate("announces an upload while no round collects", party=peer)
        receipt = self._intake.admit(peer, message.head)
        if receipt is not None:
            self.send(peer, Receipted(receipt=receipt))
            return
        self._start_uploads()

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
        if intake is None or self.phase is not Phase.COLLECTING or incoming.header.open_round != intake.open_round:
            return
        intake.add(peer, incoming, sections[0])
        receipt = sign(self.identity, intake.receipt_for(peer, self.name))
        intake.give_receipt(peer, receipt)
        self.effect(Drop(incoming.subject))
        self.send(peer, Receipted(receipt=receipt))
        self._start_uploads()
        self._close_if_complete(now)

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
        if intake is None or self.phase is not Phase.COLLECTING:
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
        if intake is None or self.phase is not Phase.COLLECTING:
            return
        outstanding = intake.outstanding
        absent = {party for party in outstanding if now - self._gone.get(party, now) >= limits.ABSENCE}
        self._written_off = absent
        expired = self._expired(now)
        reachable = len(intake.added) + len(outstanding - absent)
        if outstanding == absent or expired:
            self._close(now)
        elif reachable < self.charter.rules.minimum_cohort:
            # Waiting for the rest could not bring the round to its minimum.
            self._close(now)

    def _close(self, now: float) -> None:
        intake = self._intake
        if intake is None:
            return
        # Before the deadline only who is written off is missing; the others were not given their time.
        expired = self._deadline is not None and now >= self._deadline
        missing = tuple(sorted(intake.outstanding if expired else self._written_off))
        contributors = tuple(sorted(intake.added))
        try:
            decision = self._gate.decide(intake.question, contributors)
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
        signed = sign(self.identity, close)
        total, broken = intake.close()
        for subject in broken:
            self.effect(Drop(subject))
        audience = [self._owner, *intake.question.cohort]
        self._tell_all(audience, Closed(close=signed))
        self.tell(
            RoundClosed(round=decision.round, contributors=contributors, declined=close.declined, missing=missing)
        )
        self._release(intake, to_wire(total), statement_digest(CloseList, signed), contributors, now)

    def _release(
        self, intake: Intake, total: memoryview, close: bytes, contributors: tuple[str, ...], now: float
    ) -> None:
        question = intake.question
        outgoing = self.exchange.seal(
            Label.AGGREGATE,
            intake.context,
            self._owner,
            question.owner_key,
            [total],
            contributors=len(contributors),
            close=close,
        )
        self._outgoing = outgoing
        if self._questions is not None:
            self._questions.released = question.round
        statement = sign(
            self.identity,
            RoundStatement(
                open_round=intake.open_round,
                holder=self.name,
                close=close,
                contributors=contributors,
                release=outgoing.subject,
                commitment=outgoing.commitment,
            ),
        )
        self._attestation = _Attestation(statement, [self._owner, *contributors])
        self.move(Step.SET_CLOSED)
        deadlines = self.charter.rules.deadlines
        self._deadline = now + deadlines.release + deadlines.statement
        self.effect(Provide(self._owner, outgoing))
        self.send(self._owner, Release(head=outgoing.head))
        self._tell_all([self._owner, *contributors], RequestCosignature(statement=statement))

    def _on_fetch(self, peer: str, message: Fetch, now: float) -> None:
        self._from_owner(peer)
        if self._outgoing is None or message.subject != self._outgoing.subject:
            raise IllegalMessage("asks for a body this secure worker does not have", party=peer)
        self.effect(Permit(peer, message.subject))

    def _on_cosign(self, peer: str, message: Cosign, now: float) -> None:
        attestation = self._attestation
        if attestation is None or message.statement != attestation.digest:
            raise TooLate("cosigns a statement that is not open", party=peer)
        if message.cosignature.party != peer or peer not in attestation.expected:
            raise WrongSender("cosigns for somebody else, or took no part", party=peer)
        key = self.charter.party(peer).identity.signing
        verify(key, Label.ROUND_STATEMENT, attestation.signed.statement, message.cosignature.signature, party=peer)
        attestation.cosignatures[peer] = message.cosignature
        if peer == self._owner and self._deadline is not None:
            # It has the aggregate, and waits for the record from now on: no longer than the statement may take.
            self._deadline = min(self._deadline, now + self.charter.rules.deadlines.statement)
        if not attestation.missing:
            self._attest()

    def _attest(self) -> None:
        """Send the record of the round, as complete as it is, and forget the round."""
        attestation = self._attestation
        if attestation is None:
            return
        absent = tuple(sorted(attestation.missing))
        record = RoundRecord(
            statement=attestation.signed,
            cosignatures=tuple(attestation.cosignatures[name] for name in sorted(attestation.cosignatures)),
            absent=absent,
        )
        self._tell_all(sorted(attestation.expected), record)
        self._forget()
        self.move(Step.ATTESTED)

    # --- ends

    def _abort(self, cause: Cause, text: str, about: tuple[str, ...] = ()) -> None:
        """Sign an abort, send it to everyone in the round, and leave the session to the model owner."""
        intake = self._intake
        if intake is None or self._attestation is not None:
            # Never for a round that was released: "without an aggregate" would be a lie.
            self._give_up(text)
            return
        question = intake.question
        abort = Abort(
            session=question.session,
            round=question.round,
            attempt=question.attempt,
            party=self.name,
            cause=cause,
            text=text[: limits.TEXT_LENGTH],
            about=about,
        )
        self._tell_all([self._owner, *question.cohort], Aborted(abort=sign(self.identity, abort)))
        self._give_up(text)

    def _give_up(self, text: str) -> None:
        """Erase the key and forget the round, if there is one; one that was released gets its record."""
        if self._attestation is not None:
            self._attest()
            return
        if self._intake is None:
            return
        self.tell(Said(text=f"round {self._intake.question.round} ends without a release: {text}", warning=True))
        self._forget()
        self.move(Step.GIVEN_UP)

    def _forget(self) -> None:
        if self._intake is not None:
            for subject in self._intake.close()[1]:
                self.effect(Drop(subject))
        if self._outgoing is not None:
            self.effect(Drop(self._outgoing.subject))
        self._buffers.wipe()
        self._intake = self._outgoing = self._attestation = self._deadline = None
        self._written_off = set()

    def interrupt(self, reason: str, now: float) -> None:
        """Abort the round, if there is one, and end."""
        self._abort(Cause.INTERRUPTED, f"{self.name} was stopped by its operator")
        self.finish(reason)

    # --- time

    def tick(self, now: float) -> None:
        """Act on what is due."""
        if self.phase is Phase.COLLECTING:
            self._close_if_complete(now)
        elif self.phase is Phase.RELEASED and (self._all_cosigners_gone(now) or self._expired(now)):
            self._attest()
        lost = self._gone.get(self._owner)
        if lost is not None and now - lost >= limits.ABSENCE and self._session is not None:
            self._abort(Cause.TIMEOUT, f"{self._owner} is not connected to {self.name} any more", (self._owner,))
            self._leave(f"{self._owner} is not connected any more", f"lost {self._owner}")
        elif not self._serve and self._session is None and self._deadline is not None and now >= self._deadline:
            waited = self.charter.rules.deadlines.join
            self.finish(f"no session from {self._owner} within {waited:g} s")

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [at + limits.ABSENCE for party, at in self._gone.items() if self._matters(party)]
        if self._deadline is not None:
            waits.append(self._deadline)
        return min(waits, default=None)

    def _matters(self, party: str) -> bool:
        if party == self._owner:
            return self._session is not None
        if party in self._written_off:
            return False
        if self.phase is Phase.RELEASED and self._attestation is not None:
            return party in self._attestation.missing
        return self.phase is Phase.COLLECTING and self._intake is not None and party in self._intake.outstanding

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
    def _minimum(self) -> int:
        return self.charter.rules.minimum_cohort

    def _from_owner(self, peer: str) -> None:
        self.charter.require(peer, Role.MODEL_OWNER)

    def _tell_all(self, parties: Iterable[str], message: Message) -> None:
        for party in parties:
            if party in self._connected:
                self.send(party, message)
