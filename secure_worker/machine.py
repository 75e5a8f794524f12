"""The secure worker: admits sealed contributions, adds them, releases the sum and nothing else.

It follows `rounds.SECURE_WORKER`. What it may admit is in `admission.py`, what is in the sum in `protocol/intake.py`,
what it may release in `gate.py`, how several agree on a set in `agreement.py`, what it remembers in `memory.py`, the
session and what is due when in `session.py`; this file is the order of things in a round.

An attempt at a round ends in one of two ways: an aggregate with a signed Close list and a cosigned statement, or a
signed abort that lists whose contribution had a receipt. A restart is the second way for an attempt that was collecting
(total and key were in memory), and neither for one that was released: that is sent again, byte for byte. Who is not
heard from is reported as such: the abort of a time-out names whom this party saw nothing of, and accuses nobody.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from ..crypto.errors import Misbehaviour
from ..crypto.labels import Label
from ..crypto.ring import to_wire
from ..protocol import limits
from ..protocol.aborts import sign_abort
from ..protocol.charter import Role
from ..protocol.context import RoundContext
from ..protocol.errors import (
    GateShut,
    IllegalMessage,
    TooLate,
    Unsummable,
    WrongOpenRound,
    WrongSender,
    WrongSession,
)
from ..protocol.exchange import Incoming, Outgoing
from ..protocol.intake import Intake
from ..protocol.ledger import Content, DataClass
from ..protocol.machine import Drop, Permit, Provide
from ..protocol.messages import (
    Aborted,
    Cause,
    Closed,
    CloseList,
    Closes,
    Contribution,
    Cosign,
    Decline,
    Declined,
    Fetch,
    HolderList,
    Listed,
    Lists,
    Message,
    OfferRound,
    OpenRound,
    ProposeRound,
    Ready,
    Refusal,
    RequestSession,
    RoundOffer,
    RoundStatement,
    SessionOver,
    Signed,
)
from ..protocol.progress import RoundClosed, RoundOpened, Said
from ..protocol.rounds import Phase, Step
from ..protocol.statements import open_signed, sign, statement_digest
from .admission import admit_question
from .agreement import agreed_set, check_all_sum, check_closes
from .attestation import Attestation
from .gate import Decision
from .memory import ReleaseKept
from .session import SecureSession


class SecureWorker(SecureSession):
    """The machine of a secure worker, for one session after another."""

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a secure worker can be sent."""
        return {
            RequestSession: self._on_request_session,
            ProposeRound: self._on_propose_round,
            Lists: self._on_lists,
            Closes: self._on_closes,
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
        if self._memory.question is not None and self._memory.open_round is not None:
            self.exchange.view.begin(RoundContext.of(self._memory.question, self._memory.open_round))
        lost = self._memory.lost_attempt
        if lost is not None:
            text = f"{self.name} was restarted; what it had added up is gone"
            receipted = self._counted(lost)
            self._memory.abort_attempt(sign_abort(self.identity, lost, Cause.LOCAL, text, receipted=receipted))
            self.tell(Said(text=f"round {lost.round}: this attempt was lost with an earlier process", warning=True))
        elif self._memory.agreed:
            self._wait_for_closes(now)
        elif self._memory.released and self._memory.release is not None and not self._memory.release.attested:
            self._reopen(now)

    # --- a round

    def _on_propose_round(self, peer: str, message: ProposeRound, now: float) -> None:
        self._from_owner(peer)
        if self._memory.session is None:
            raise WrongSession("asks without having opened a session with this secure worker", party=peer)
        question, name = admit_question(self.charter, self._seats, self._memory, self._room, message.open_round)
        if name != self._memory.open_round:
            self._end_round("the model owner asked anew")
            before = self._abort_before(question)
            self._collect(question, name, before, now)
            if self._offer is not None:
                # What is offered is in the view ledger with the question, in one transaction, and is said after it.
                self.exchange.view.said(peer, OfferRound(offer=self._offer))
            self._memory.admit_question(message.open_round)
        if self._offer is not None:
            self.send(peer, OfferRound(offer=self._offer))
            if self._list is not None:
                self.send(peer, Listed(list=self._list))
        elif self._memory.agreed and self._memory.release is not None:
            # It was restarted, perhaps before every other had the lists: they wait for ours as well.
            if self._memory.release.listed is not None:
                self.send(peer, Listed(list=self._memory.release.listed))
            self.send(peer, Closed(close=self._memory.release.close))
        elif self._memory.released:
            # Attested and over, and the record never arrived: the cosignatures were in memory, so all sign again.
            shown = sorted(self._connected) if self._attestation is None else [peer]
            if self._attestation is not None:
                # A new process of it has not got the aggregate that the one before cosigned.
                self._attestation.forget(peer)
                self._deadline = self._statement_due(now)
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
        self._list = None
        self.exchange.view.begin(RoundContext.of(question, name))
        self._intake = Intake(
            self.identity, self.charter, self.exchange, self._seats, question, name, buffers=self._buffers
        )
        offer = RoundOffer(open_round=name, holder=self.name, key=self._intake.key.public, aborted=before)
        self._offer = sign(self.identity, offer)
        self._deadline = now + self.charter.rules.deadlines.join + self.charter.rules.deadlines.upload
        self.move(Step.ROUND_OPEN)
        for party in set(question.cohort) - self._connected:
            self._gone.setdefault(party, now)
        self.tell(RoundOpened(round=question.round, cohort=question.cohort))

    def _on_ready(self, peer: str, message: Ready, now: float) -> None:
        self.charter.require(peer, Role.DATA_OWNER)
        if self._intake is None or (self._list is not None and self._intake.counts(peer)):
            raise TooLate("announces an upload while no round collects", party=peer)
        self._take_ready(peer, message, self._intake)

    def _note_share(self, peer: str, commitment: bytes) -> None:
        self._memory.add_contribution(peer, commitment)

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Take a share.

        If it was the last, the set is closed by `tick`, once the receipt is out: a release takes a while to write.
        """
        self._take_share(peer, incoming, sections)

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
        if intake is None or (self._list is not None and intake.counts(peer)):
            raise TooLate("declines while no round collects", party=peer)
        if decline.open_round != intake.open_round:
            raise WrongOpenRound("declines another round", party=peer)
        if peer in intake.awaited:
            broken = intake.decline(peer)
            if broken is not None:
                self.effect(Drop(broken))
                self._start_uploads()
        if self.phase is Phase.COLLECTING:
            self._close_if_complete(now)

    # --- closing and releasing

    def _close_if_complete(self, now: float) -> None:
        intake = self._intake
        if intake is None:
            return
        awaited = intake.awaited
        absent = {party for party in awaited if now >= self._gone.get(party, now) + limits.ABSENCE}
        self._written_off = absent
        reachable = len(intake.counted) + len(awaited - absent)
        # Where waiting for the rest could not bring the round to its minimum, it ends now.
        hopeless = self._alone and reachable < self._minimum
        if awaited == absent or self._expired(now) or hopeless:
            self._close(now)

    def _close(self, now: float) -> None:
        """Close over what is counted here, or tell the others what that is."""
        intake = self._intake
        if intake is None:
            return
        # Before the deadline only who is written off is missing; the others were not given their time.
        outstanding = intake.outstanding
        missing = tuple(sorted(outstanding if self._expired(now) else outstanding & self._written_off))
        declined = tuple(sorted(intake.declined))
        if self._alone:
            close = CloseList(
                open_round=intake.open_round,
                holder=self.name,
                contributions=intake.contributions(),
                declined=declined,
                missing=missing,
            )
            self._settle_on(intake, close, now)
            return
        for subject in intake.freeze():
            self.effect(Drop(subject))
        said = HolderList(
            open_round=intake.open_round,
            holder=self.name,
            contributions=intake.contributions(),
            declined=tuple(name for name in declined if intake.counts(name)),
            missing=missing,
            added=intake.beyond,
        )
        self._list = sign(self.identity, said)
        self._deadline = now + self._patience_with_others
        self.move(Step.LISTED)
        self.send(self._owner, Listed(list=self._list))

    def _on_lists(self, peer: str, message: Lists, now: float) -> None:
        self._from_owner_to_several(peer)
        if self._memory.agreed or self._memory.released:
            return  # passed on twice, over two connections
        intake, ours = self._intake, self._list
        if intake is None or ours is None:
            raise TooLate("passes on lists while none are waited for", party=peer)
        close = agreed_set(self.charter, self._seats, intake.question, intake.open_round, ours, message.lists)
        if len(close.contributors) >= self._minimum:
            try:
                check_all_sum(close.contributors, message.lists)
            except Unsummable as stuck:
                self._give_up_set(close, stuck)
                return
        self._settle_on(intake, close, now)

    def _from_owner_to_several(self, peer: str) -> None:
        self._from_owner(peer)
        if self._alone:
            raise IllegalMessage("passes on what other secure workers say, and there are none", party=peer)

    def _settle_on(self, intake: Intake, close: CloseList, now: float) -> None:
        """Make the total of a set and seal it; release it, or with others wait for their word."""
        try:
            decision = self._memory.gate.decide(intake.question, close.contributors)
            total = intake.total(close.contributors)
        except (GateShut, Unsummable) as shut:
            self._give_up_set(close, shut)
            return
        signed_close = sign(self.identity, close)
        name = statement_digest(CloseList, signed_close)
        broken = intake.close()
        sealed = self.exchange.seal(
            Label.AGGREGATE,
            intake.context,
            self._owner,
            intake.question.owner_key,
            [] if total is None else [to_wire(total)],
            contributors=len(decision.contributors),
            close=name,
            content=self._seats.total_content(decision.contributors, self.name),
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
            intake.open_round,
            signed_close,
            sealed.head,
            sealed.commitment,
            sign(self.identity, statement),
            decided=self._alone,
            listed=self._list,
        )
        for subject in broken:
            self.effect(Drop(subject))
        if self._alone:
            self._release(decision, kept, sealed, now)
        else:
            # Where fewer than all make a quorum, others may release over this set whatever becomes of it here, so we
            # sign no second one. Where all are needed, one that has released refuses any other, and that is enough.
            binding = self._seats.quorum < len(self._seats.workers)
            self._memory.agree(kept, sealed, decision if binding else None)
            self._wait_for_closes(now)

    def _give_up_set(self, close: CloseList, shut: GateShut | Unsummable) -> None:
        """Abort the attempt whose set would be this one, and say who was missing in it."""
        self._note_refusal(shut, close.contributors)
        text = str(shut) if isinstance(shut, Unsummable) else shut.reason
        if close.missing:
            text += f"; no contribution from {', '.join(close.missing)} as seen by {self.name}"
        if close.declined:
            text += f"; declined: {', '.join(close.declined)}"
        few = len(close.contributors) < self._minimum
        # A share that is here and not counted is gone in another attempt.
        cause = Cause.TOO_FEW if few else Cause.LOCAL if isinstance(shut, Unsummable) else Cause.FAULT
        self._abort(cause, text, close.missing)

    def _wait_for_closes(self, now: float) -> None:
        """Say over which set we have closed, from the journal, and wait for the other secure workers' word."""
        kept = self._memory.release
        if kept is None:
            return
        self._intake = self._offer = self._list = None
        self._buffers.wipe()
        self.move(Step.SET_AGREED)
        self._deadline = now + self._patience_with_others
        self._tell_all([self._owner], Closed(close=kept.close))

    def _on_closes(self, peer: str, message: Closes, now: float) -> None:
        self._from_owner_to_several(peer)
        if self._memory.released:
            return  # passed on twice, over two connections
        kept, question = self._memory.release, self._memory.question
        if not self._memory.agreed or kept is None or question is None:
            raise TooLate("passes on Close lists while none are waited for", party=peer)
        check_closes(self.charter, self._seats, question, kept.close, message.signatures)
        close = open_signed(self.charter, kept.close, CloseList)
        try:
            decision = self._memory.gate.decide(question, close.contributors)
        except GateShut as shut:
            self._note_refusal(shut, close.contributors)
            self._abort(Cause.FAULT, shut.reason)
            return
        self._release(decision, msgspec.structs.replace(kept, decided=True), None, now)

    def _note_refusal(self, shut: GateShut | Unsummable, contributors: tuple[str, ...]) -> None:
        content = self._seats.total_content(contributors, self.name) if contributors else Content(DataClass.CONTROL, ())
        self.exchange.view.refused(self._owner, shut.code, self._memory.open_round, content=content)

    def _release(self, decision: Decision, kept: ReleaseKept, sealed: Outgoing | None, now: float) -> None:
        """Write set, decision and sealed bytes in one transaction, and only then send anything of it."""
        content = self._seats.total_content(decision.contributors, self.name)
        self.exchange.view.released(self._owner, kept.head, content, kept.commitment)
        self._memory.decide_release(decision, kept, sealed)
        close = open_signed(self.charter, kept.close, CloseList)
        cohort = self._memory.question.cohort if self._memory.question is not None else ()
        self._reopen(now)
        self._tell_all([self._owner, *cohort], Closed(close=kept.close))
        for party in sorted(self._connected, key=lambda party: (party != self._owner, party)):
            self._show_release(party, closed=False)
        self.tell(RoundClosed(decision.round, close.contributors, close.declined, close.missing))

    def _reopen(self, now: float) -> None:
        """Go to where the release is out and its statement is being cosigned: from the journal, whoever wrote it."""
        kept = self._memory.release
        if kept is None or self._attestation is not None:
            return
        self._intake = self._offer = self._list = None
        self._buffers.wipe()
        self._outgoing = self._memory.outgoing()
        self._attestation = Attestation(self.charter, kept)
        self.move(Step.SET_CLOSED)
        self._deadline = self._statement_due(now)

    def _statement_due(self, now: float) -> float:
        return now + self.charter.rules.deadlines.release + self.charter.rules.deadlines.statement

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
        record = attestation.record()
        self.exchange.view.cosigned(record)
        self._tell_all(sorted(attestation.expected), record)
        self._memory.attest()
        self._forget()
        self.move(Step.ATTESTED)

    # --- ends

    def _abort(self, cause: Cause, text: str, about: tuple[str, ...] = ()) -> None:
        """Sign the end of this attempt, write it down, and send it to everyone in the round."""
        question = self._memory.question
        if question is None or (self._intake is None and not self._memory.agreed):
            return
        abort = sign_abort(self.identity, question, cause, text, about=about, receipted=self._counted(question))
        self._memory.abort_attempt(abort)
        self._tell_all([self._owner, *question.cohort], Aborted(abort=abort))
        self.tell(Said(text=f"round {question.round} ends without a release: {text}", warning=True))
        self._forget()
        self.move(Step.GIVEN_UP)

    def _counted(self, question: OpenRound) -> tuple[Contribution, ...]:
        """Return what is counted here and has a receipt: what an abort owes an account of."""
        counted_by = self._seats.counted_by(question)
        return tuple(each for each in self._memory.receipted() if counted_by.get(each.party) == self.name)

    def _give_up_agreeing(self) -> None:
        """Abort an attempt whose set the secure workers did not agree on in time."""
        what = "lists" if self.phase is Phase.LISTED else "Close lists"
        self._abort(Cause.TIMEOUT, f"no {what} of the other secure workers as seen by {self.name}")

    def _end_round(self, text: str) -> None:
        """End what is under way: an attempt in its abort, a release in its record."""
        self._attest()
        self._abort(Cause.INTERRUPTED, text)

    def _forget(self) -> None:
        if self._intake is not None:
            for subject in self._intake.close():
                self.effect(Drop(subject))
        if self._outgoing is not None:
            self.effect(Drop(self._outgoing.subject))
        self._buffers.wipe()
        self._intake = self._offer = self._list = self._outgoing = self._attestation = self._deadline = None
        self._written_off = set()

    def interrupt(self, reason: str, now: float) -> None:
        """End the round, if there is one, and the process; the session stays, for the next process of this party."""
        self._end_round(f"{self.name} was stopped by its operator")
        self.finish(reason)
