"""A model owner's session: who is connected, how a session is opened, gone on with and ended, and the deadlines.

What is asked in it, round by round, is in `machine.py`. A party that is gone is waited for: a data owner as long as a
round can do without it, a secure worker for `deadlines.absence`. An attempt that a holder aborted is made again where
that can help; else the session ends in one sentence, signed, and the model stays as it was after the last checkpoint.

Which secure workers a round can do without is in `missing.py`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ..crypto.identity import Identity
from ..crypto.sealing import RoundKey
from ..learning.task import GlobalModel
from ..protocol import limits
from ..protocol.charter import Charter, Role
from ..protocol.check_messages import MaskKey
from ..protocol.errors import TooLate, WrongRound, WrongSender, WrongSession
from ..protocol.exchange import Exchange
from ..protocol.intake import Buffers
from ..protocol.journal import Journal
from ..protocol.ledger import Act, DataClass
from ..protocol.machine import Drop
from ..protocol.messages import (
    Abort,
    Aborted,
    Cause,
    Invitation,
    Message,
    OfferSession,
    OpenRound,
    ProposeRound,
    Purpose,
    Refusal,
    RequestSession,
    SessionOffer,
    Signed,
)
from ..protocol.progress import Said
from ..protocol.rounds import Phase, Step
from ..protocol.session import new_nonce, session_id
from ..protocol.site import OwnerPlan
from ..protocol.statements import open_signed, sign
from ..protocol.training import model_digest
from .asking import Asking
from .memory import Memory, ReachedKept
from .missing import BEFORE_CLOSE, MissingHolders
from .store import OwnerStore

_MAY_COME_AGAIN = (Cause.LOCAL, Cause.INTERRUPTED)
"""Causes of a holder's abort that another attempt can mend; others only if somebody is gone and may come back."""
_WITH_HOLDERS = (*BEFORE_CLOSE, Phase.CLOSED, Phase.RECEIVING)
_AFTER_CLOSE = (Phase.CLOSED, Phase.RECEIVING, Phase.VERIFYING, Phase.APPLYING, Phase.RELEASED)
_ASKING = (
    Phase.OFFERING,
    Phase.COLLECTING,
    Phase.CLOSED,
    Phase.RECEIVING,
    Phase.VERIFYING,
    Phase.APPLYING,
    Phase.RELEASED,
)
"""Where a holder that comes back is asked again: for its offer, its release, or the record it did not live to send."""


class OwnerSession(MissingHolders):
    """What a model owner's machine is between questions."""

    role: ClassVar[Role] = Role.MODEL_OWNER

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        journal: Journal,
        plan: OwnerPlan,
        model: GlobalModel,
        store: OwnerStore,
        *,
        rounds_done: int = 0,
        anew: bool = False,
    ) -> None:
        """`rounds_done` rounds of the plan are in `model` already (a run that is resumed).

        With `anew`, a session that an earlier process left is not gone on with.
        """
        super().__init__(identity, charter, exchange)
        self.phase = Phase.CONNECTING
        self._plan = plan
        self._model = model
        self._store = store
        self._data_owners = tuple(party.name for party in charter.data_owners)
        self._evaluators = tuple(party.name for party in charter.evaluators)
        self._mute: set[str] = set()
        """Evaluators that let a deadline pass in this session."""
        self._memory = Memory(charter, journal)
        self._anew = anew
        self._nonce = new_nonce()
        self._session: bytes | None = None
        self._reopened = False
        """Whether a session was opened anew since the last round: once is a restart, twice would be a quarrel."""
        self._round = rounds_done
        self._unfinished: OpenRound | None = None
        """The question whose attempt ended, to be asked again."""
        self._pending: tuple[OpenRound, Signed, RoundKey] | None = None
        """The question an earlier process had open."""
        self._buffers = Buffers()
        self._mask_keys: dict[str, tuple[Signed, MaskKey]] = {}
        """By data owner: the last key for masks it offered, which may come before the set is closed here."""
        self._unscored = False
        self._waiting_until: float | None = None
        self._why = ""
        """Why the attempt before ended, as the beginning of a sentence."""

    # --- connecting, and the session

    def start(self, now: float) -> None:
        """Wait for everybody, until the join deadline; go on with what an earlier process left."""
        self._deadline = now + self.charter.rules.deadlines.join
        session = self._memory.session()
        model = self._digest_of_model()
        if session is None or self._anew or not self._memory.goes_on_from(self._round, model, self._store.place):
            return
        self._nonce = session.owner_nonce
        self._nonces = {name: session.holder_nonces[name] for name in self._holders if name in session.holder_nonces}
        self._session = session_id(self.charter.digest, session.owner_nonce, tuple(self._nonces.values()))
        if self._round >= self._last_round:
            # Nothing is left but to say goodbye again, to who is still there.
            self._deadline = now + limits.ABSENCE
        self._pending = self._memory.question()
        if self._pending is not None and self._pending[0].round <= self._round:
            self._pending = None
            # Applied and checkpointed; only these notes are missing.
            self._note_model(model)
            self._memory.take_step(self._reached(model))
        if self._pending is not None and self._seats.owner is not None:
            # The shares that were here went with that process.
            self._unfinished, self._pending = self._pending[0], None

    @property
    def _last_round(self) -> int:
        """After which round there is nothing more to do."""
        return self._plan.rounds

    def _reached(self, model: bytes) -> ReachedKept:
        return ReachedKept(self._round, model, self._store.place, self._round >= self._last_round)

    def _note_model(self, model: bytes, contributors: tuple[str, ...] = ()) -> None:
        view, size = self.exchange.view, len(self._model.to_bytes())
        sources = ((Act.DERIVED, DataClass.AGGREGATE, contributors),)
        view.derived(DataClass.MODEL, sources=sources, payload=size, subject=model)
        view.stored(DataClass.MODEL, payload=size, subject=model)

    def _digest_of_model(self) -> bytes:
        return model_digest(self._model.layout, self._model.to_bytes())

    def peer_up(self, peer: str, now: float) -> None:
        """Note a connection; whoever comes back is told what it missed."""
        self._connected.add(peer)
        self._lost.pop(peer, None)
        self._mute_holders.discard(peer)
        self._note_coming_and_going(peer, now)
        if self.phase is Phase.CONNECTING:
            self.tell(Said(text=f"{peer} is connected"))
            if {*self._holders, *self._data_owners, *self._evaluators} <= self._connected:
                self._open_session(now)
            return
        if peer in self._holders:
            self._ask_holder_again(peer, now)
        asking = self._asking
        if self.phase in (Phase.COLLECTING, Phase.EVALUATING) and asking is not None and peer in asking.question.cohort:
            asking.renewable.add(peer)
            self.send(peer, self._invitation(asking))
        if self.phase is Phase.IDLE and not self.finished:
            self._next(now)

    def _ask_holder_again(self, holder: str, now: float) -> None:
        deadlines = self.charter.rules.deadlines
        if self.phase is Phase.OPENING:
            # What it had to answer within began before it was gone.
            self._deadline = now + deadlines.close
            self.send(holder, RequestSession(owner_nonce=self._nonce))
        elif self.phase in _ASKING and self._asking is not None and holder in self._asking.question.present:
            self.send(holder, ProposeRound(open_round=self._asking.signed))
            if self._deadline is not None:
                self._deadline = max(self._deadline, now + deadlines.close + deadlines.release)

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        """Note a lost connection. A round can do without a data owner, and waits for a secure worker's return."""
        self._connected.discard(peer)
        self._lost[peer] = (now, reason)
        self._note_coming_and_going(peer, now)
        lost = self._asking.lost(peer) if self._asking is not None else None
        if lost is not None:
            self.effect(Drop(lost))
        self.tell(Said(text=f"{peer} is not connected any more: {reason}", warning=True))
        self._sum_up_if_enough(now)

    def _open_session(self, now: float) -> None:
        self.move(Step.CONNECTED)
        if self._session is not None:
            self.tell(Said(text=f"going on in the session an earlier process opened, after round {self._round}"))
            self.move(Step.SESSION_OPEN)
            self._next(now)
            return
        self._request_session(now)

    def _request_session(self, now: float) -> None:
        self._nonce, self._nonces, self._session = new_nonce(), {}, None
        self._deadline = now + self.charter.rules.deadlines.close
        for holder in self._holders:
            self.send(holder, RequestSession(owner_nonce=self._nonce))

    def _on_offer_session(self, peer: str, message: OfferSession, now: float) -> None:
        offer = open_signed(self.charter, message.offer, SessionOffer, Role.SECURE_WORKER)
        if offer.holder != peer or message.offer.signer != peer or offer.owner_nonce != self._nonce:
            raise WrongSession("offers a session that was not asked for", party=peer)
        if self.phase is not Phase.OPENING:
            return  # opened without it
        self._nonces[peer] = offer.holder_nonce
        if set(self._nonces) >= {name for name in self._holders if name in self._connected | set(self._lost)}:
            self._session_opened(now)

    def _session_opened(self, now: float) -> None:
        """Begin the session that the nonces which have come make."""
        self._nonces = {name: self._nonces[name] for name in self._holders if name in self._nonces}
        self._memory.open_session(self._nonce, self._nonces, self._reached(self._digest_of_model()))
        self._session = session_id(self.charter.digest, self._nonce, tuple(self._nonces.values()))
        left_out = [name for name in self._holders if name not in self._nonces]
        if left_out:
            self.tell(Said(text=f"the session begins without {', '.join(left_out)}", warning=True))
        self.move(Step.SESSION_OPEN)
        self._next(now)

    def _reopen(self, why: str, now: float) -> None:
        """Open another session, because a holder does not know this one any more."""
        self.tell(Said(text=f"{why}: opening another session", warning=True))
        self._drop_asking()
        self._reopened = True
        self._unfinished = self._pending = None
        self.move(Step.REOPENED)
        self._request_session(now)

    # --- for the rounds

    @abstractmethod
    def _next(self, now: float) -> None:
        """Begin what comes next."""

    @abstractmethod
    def _invitation(self, asking: Asking) -> Invitation:
        """Return the invitation to the question that is open."""

    @abstractmethod
    def _conclude(self, now: float, *, late: bool = False) -> None:
        """Go on after a round, with the records that have come."""

    @abstractmethod
    def _sum_up_if_enough(self, now: float) -> None:
        """Go on with the totals that are here, if no other is to be waited for."""

    @abstractmethod
    def _note_coming_and_going(self, peer: str, now: float) -> None:
        """Note for the check of a sum that a contributor's connection is lost, or is new."""

    @abstractmethod
    def _tick_verifying(self, now: float) -> None:
        """Act on what is due while a sum is checked."""

    @abstractmethod
    def _next_verifying(self) -> float | None:
        """Return when `_tick_verifying` has something to do."""

    @abstractmethod
    def _end_evaluation(self, now: float) -> None:
        """Go on after an evaluation, with the scores that have come."""

    # --- ends

    def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
        abort = open_signed(self.charter, message.abort, Abort, Role.SECURE_WORKER)
        if message.abort.signer != peer or abort.party != peer:
            raise WrongSender("passes on somebody else's abort", party=peer)
        if abort.session != self._session:
            raise WrongSession("aborts another session", party=peer)
        asking = self._asking
        asked = None if asking is None or asking.question.purpose is not Purpose.TRAIN else asking.question
        if asked is None or (abort.round, abort.attempt) != (asked.round, asked.attempt):
            self.tell(Said(text=f"{peer} aborted an attempt at round {abort.round} that is over"))
            return
        text = f"{peer} aborted round {abort.round}: {abort.cause.value}: {abort.text}"
        # Of who is here and silent, another attempt would be as silent; who is gone may come back. An abort in place of
        # an offer is of an attempt that ended while we were away: who was gone then may be here now.
        if self._spare(peer, now):
            self.tell(Said(text=f"{text}; going on without it", warning=True))
            return
        missed = self.phase is Phase.OFFERING and bool(abort.about)
        helps = abort.cause in _MAY_COME_AGAIN or missed or set(abort.about) - self._connected
        if not helps or self.phase not in BEFORE_CLOSE or asked.attempt + 1 >= limits.ATTEMPTS:
            self._fail(abort.cause, text)
            return
        self.tell(Said(text=text, warning=True))
        self._ask_again(asked, text, now)

    def _ask_again(self, asked: OpenRound, why: str, now: float) -> None:
        """Give an attempt up for another one."""
        self._drop_asking()
        self._unfinished, self._why = asked, f"{why}; "
        self.move(Step.GIVEN_UP)
        self._next(now)

    def _spare(self, holder: str, now: float) -> bool:
        """Do without the total of a holder that has given a closed round up, where there can be enough others."""
        asking = self._asking
        if asking is None or self.phase not in _AFTER_CLOSE:
            return False
        asking.failed |= {holder} - asking.opened
        asking.forgotten.add(holder)
        if asking.hopeless:
            return False
        self._sum_up_if_enough(now)
        self._conclude(now)
        return True

    def _on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        self.tell(Said(text=f"{peer} refused what we sent: {message.code}", warning=True))
        if peer not in self._holders:
            return
        # A holder that comes back is asked again, in every phase, and may have lost its session: an old disk, say.
        forgot = message.code == WrongSession.code
        if self._seats.owner is not None and self.phase is Phase.OFFERING:
            # It released a sum of which our own shares went with an earlier process: in another session it may again,
            # over the very same set.
            forgot = forgot or message.code == WrongRound.code
        why = f"{peer} refused the question ({message.code})"
        if self.phase in BEFORE_CLOSE and forgot and not self._reopened:
            self._reopen(why, now)
        elif self.phase is Phase.OPENING and forgot and self._reopened:
            pass  # of several that have lost a session, each refuses the question in it
        elif self.phase is Phase.RELEASED and forgot and self._asking is not None:
            self._asking.forgotten.add(peer)
            self._conclude(now)
        elif message.code == TooLate.code:
            pass  # about a cosignature, say, that was on its way to an earlier process; no question is refused with it
        elif self.phase in (Phase.OPENING, Phase.OFFERING) or (forgot and self.phase in _WITH_HOLDERS):
            self._fail(Cause.FAULT, why)

    def _drop_intake(self) -> None:
        """Take no more shares, and forget those that are here."""
        if self._intake is not None:
            for subject in self._intake.stop():
                self.effect(Drop(subject))
            if self._asking is None or self._asking.intake is not self._intake:
                self._intake.forget()
        self._intake = None

    def _drop_asking(self) -> None:
        self._drop_intake()
        if self._asking is not None and self._asking.intake is not None:
            self._asking.intake.forget()
        if self._asking is not None:
            self._asking.key.erase()
            for subject in (*self._asking.outgoing, *(head.subject for head in self._asking.heads.values())):
                self.effect(Drop(subject))
        self._asking = None

    def _fail(self, cause: Cause, text: str, about: tuple[str, ...] = ()) -> None:
        """End the session: write it down, tell everybody, signed, and say why."""
        if self._session is not None:
            asked = self._asking.question if self._asking is not None else self._unfinished
            abort = Abort(
                session=self._session,
                round=self._round + 1,
                attempt=asked.attempt if asked is not None else 0,
                party=self.name,
                cause=cause,
                text=text[: limits.TEXT_LENGTH],
                about=about,
            )
            signed = sign(self.identity, abort)
            self._memory.end_session(signed, None if self._asking is None else self._asking.signed_check)
            self._tell_all(Aborted(abort=signed))
        self._drop_asking()
        self.finish(text)

    def interrupt(self, reason: str, now: float) -> None:
        """Abort the session; the last checkpoint stays."""
        self._fail(Cause.INTERRUPTED, reason)

    # --- time

    def tick(self, now: float) -> None:
        """Act on what is due."""
        if self.phase is Phase.VERIFYING:
            self._tick_verifying(now)  # between us and the contributors: no secure worker is waited for
            return
        if self._go_on_without(now):
            return
        away = self._too_many_lost()
        for holder in away:
            since, reason = self._lost[holder]
            if now >= since + self.charter.rules.deadlines.absence:
                self._fail(Cause.TIMEOUT, f"{holder} is not reachable: {reason}")
                return
        if self.phase is Phase.EVALUATING and self._asking is not None:
            silent = set(self._asking.question.cohort) - self._asking.answered
            if silent <= self._gone(now):
                self._end_evaluation(now)
                return
        if self._deadline is None or now < self._deadline or away:
            return
        if self.phase is Phase.CONNECTING:
            self._start_without(now)
        elif self.phase is Phase.OPENING and len(self._nonces) >= self._seats.quorum:
            self._session_opened(now)
        elif self.phase in (Phase.CLOSED, Phase.RECEIVING) and self._receives_without():
            self._sum_up_if_enough(now)
        elif self.phase is Phase.RELEASED:
            self._conclude(now, late=True)
        elif self.phase is Phase.IDLE and self._waiting_until is not None and now < self._waiting_until:
            self._next(now)
        elif self.phase is Phase.IDLE:
            self._fail(Cause.TOO_FEW, f"{self._why}{self._absent()} did not come back")
        elif self.phase is Phase.EVALUATING:
            asking = self._open_question(self.name)
            missing = sorted(set(asking.question.cohort) - asking.answered)
            # Waited for once; an evaluator that says nothing must not cost every round a deadline.
            self._mute.update(missing)
            self.tell(Said(text=f"no score from {', '.join(missing)}", warning=True))
            self._end_evaluation(now)
        else:
            self._fail(Cause.TIMEOUT, f"{Cause.TIMEOUT.value} while {self.phase.value}: {self._waiting_for()}")

    def _start_without(self, now: float) -> None:
        """At the join deadline, begin with who is here if that is enough."""
        done = self._round >= self._last_round
        if self._session is not None and (done or (self._pending is not None and self._holders_here)):
            # What is left is between us and the holders, or with nobody.
            self._open_session(now)
            return
        missing = [holder for holder in self._holders if holder not in self._connected]
        here = [name for name in self._data_owners if name in self._connected]
        needed = max(self.charter.rules.minimum_cohort, self._plan.cohort)
        if not self._holders_here or len(here) < needed:
            absent = missing + [name for name in self._data_owners if name not in self._connected]
            waited = self.charter.rules.deadlines.join
            self.finish(f"not connected within {waited:g} s: {', '.join(absent)}")
            return
        self._open_session(now)

    def _waiting_for(self) -> str:
        asking = self._asking
        if asking is None:
            silent: Sequence[str] = sorted(set(self._holders) - set(self._nonces))
        elif self.phase is Phase.OFFERING:
            silent = sorted(set(asking.question.present) - set(asking.offers))
        elif self.phase is Phase.COLLECTING:
            # Of several, who has not even said what it counted keeps all others waiting.
            closing = set(asking.question.present) - set(asking.closes)
            silent = sorted(closing - set(asking.lists) if asking.lists else closing) or sorted(closing)
        else:
            silent = sorted(set(asking.question.present) - asking.opened)
        return f"nothing from {', '.join(silent)} as seen by {self.name}"

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        if self.phase is Phase.VERIFYING:
            return self._next_verifying()
        away = self._too_many_lost()
        waits = [self._lost[holder][0] + self.charter.rules.deadlines.absence for holder in away]
        if self._deadline is not None and not away:
            waits.append(self._deadline)
        if self.phase is Phase.EVALUATING and self._asking is not None:
            silent = set(self._asking.question.cohort) - self._asking.answered
            if silent and silent <= set(self._lost):
                waits.append(max(self._lost[name][0] for name in silent) + limits.ABSENCE)
        if not away and self._asking is not None and self.phase in BEFORE_CLOSE:
            lost = set(self._asking.question.present) & set(self._lost)
            waits += [self._lost[name][0] + limits.ABSENCE for name in lost]
        return min(waits, default=None)

    # --- for all phases

    def _absent(self) -> str:
        cohort = self._unfinished.cohort if self._unfinished is not None else self._data_owners
        missing = [name for name in (*self._holders, *cohort) if name not in self._connected]
        minimum = self.charter.rules.minimum_cohort
        return f"{', '.join(missing)} (the minimum cohort is {minimum})"

    def _tell_all(self, message: Message) -> None:
        for party in sorted(self._connected):
            self.send(party, message)
