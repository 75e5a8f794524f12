"""A secure worker's session: who is there, which session is open, how it ends, and what is due when.

What happens in a round is in `machine.py`, which fills in the abstract methods.
"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from ..crypto.identity import Identity
from ..protocol import limits
from ..protocol.charter import Charter, Role
from ..protocol.errors import WrongSender, WrongSession
from ..protocol.exchange import Exchange, Outgoing
from ..protocol.holder import HolderMachine
from ..protocol.intake import Buffers
from ..protocol.journal import Journal
from ..protocol.messages import (
    Abort,
    Aborted,
    Message,
    OfferSession,
    Refusal,
    RequestSession,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
)
from ..protocol.progress import Said
from ..protocol.rounds import Phase
from ..protocol.session import HolderSession, new_nonce
from ..protocol.statements import open_signed, sign
from ..protocol.text import plural
from .attestation import Attestation
from .memory import Memory


class SecureSession(HolderMachine):
    """The part of a secure worker's machine that knows no round."""

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
        self._memory = Memory(charter, self.name, journal)
        self._connected: set[str] = set()
        self._gone: dict[str, float] = {}
        self._met_owner = False
        self._written_off: set[str] = set()
        self._offer: Signed | None = None
        self._list: Signed | None = None
        """What was counted here, once that is final and the other secure workers' lists are waited for."""
        self._buffers = Buffers()
        self._outgoing: Outgoing | None = None
        self._attestation: Attestation | None = None
        self._deadline: float | None = None

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
        self._leave(None, f"session over after {plural(end.rounds, 'round')}")

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

    # --- for the rounds

    @abstractmethod
    def _end_round(self, text: str) -> None:
        """End what is under way: an attempt in its abort, a release in its record."""

    @abstractmethod
    def _show_release(self, party: str, *, closed: bool = True) -> None:
        """Send one party what the round came to."""

    @abstractmethod
    def _close_if_complete(self, now: float) -> None:
        """Close the set if nobody is left to wait for."""

    @abstractmethod
    def _give_up_agreeing(self) -> None:
        """Abort an attempt whose set the secure workers did not agree on in time."""

    @abstractmethod
    def _attest(self) -> None:
        """Send the record of the round, as complete as it is, and close the round."""

    # --- time

    def tick(self, now: float) -> None:
        """Act on what is due."""
        if self.phase is Phase.COLLECTING:
            self._close_if_complete(now)
        elif self.phase in (Phase.LISTED, Phase.CLOSED) and self._expired(now):
            self._give_up_agreeing()
        elif self.phase is Phase.RELEASED and (self._all_cosigners_gone(now) or self._expired(now)):
            self._attest()
        if self._serve or self.phase is not Phase.IDLE:
            return
        if self._memory.session is None:
            if self._expired(now):
                self.finish(f"no session from {self._owner} within {self.charter.rules.deadlines.join:g} s")
        elif now >= self._gone.get(self._owner, now) + self._patience:
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
        # Once the list is signed nobody is waited for but the other secure workers.
        return self._intake is not None and self._list is None and party in self._intake.awaited

    def _expired(self, now: float) -> bool:
        return self._deadline is not None and now >= self._deadline

    def _all_cosigners_gone(self, now: float) -> bool:
        """Whether everybody whose signature is missing has been away for too long to be waited for."""
        if self._attestation is None:
            return False
        missing = self._attestation.missing
        self._written_off = {party for party in missing if now >= self._gone.get(party, now) + limits.ABSENCE}
        return missing == self._written_off

    # --- small things

    @property
    def _patience(self) -> float:
        """How long the model owner may be gone; as long as to join where this process has just begun."""
        deadlines = self.charter.rules.deadlines
        return deadlines.absence if self._met_owner else max(deadlines.absence, deadlines.join)

    @property
    def _alone(self) -> bool:
        """Whether there is no other secure worker to agree with."""
        return len(self._seats.workers) == 1

    @property
    def _patience_with_others(self) -> float:
        """How long the others' lists may take: each has until its own deadline, and may be on its way back."""
        deadlines = self.charter.rules.deadlines
        return deadlines.join + deadlines.upload + deadlines.close + deadlines.absence

    @property
    def _minimum(self) -> int:
        return self.charter.rules.minimum_cohort

    def _from_owner(self, peer: str) -> None:
        self.charter.require(peer, Role.MODEL_OWNER)

    def _tell_all(self, parties: Iterable[str], message: Message) -> None:
        for party in parties:
            if party in self._connected:
                self.send(party, message)
