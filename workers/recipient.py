"""What data owner and evaluator have in common: being asked, answering with a fresh key, receiving the model.

What an invitation is held to, numbered; the first failure refuses it by name and nothing is answered but that:
 1. the OpenRound is signed by the charter's model owner, decoded canonically
 2. it agrees with the charter: holders, plan, weight rule, limits, cohort (`session.check_question`)
 3. it asks for what this role does, and names this party
 4. it is no earlier than what this party, or an earlier process of it, answered last in this session
 5. it is the only OpenRound this party has seen for its round and attempt, and asks what other attempts at its round
    asked: two questions are evidence against the model owner
 6. every holder that takes part offers a key for exactly this OpenRound, signed by itself, in the charter's order; from
    the second attempt on with its own abort of the one before, which lists us if it gave us a receipt
 7. a model can be sealed to us and shares to them: their keys are keys
Then the site's own file decides, and only "declined" leaves the site. The model that comes after is taken only if
layout and bytes have the digests the OpenRound names, which every other data owner's copy has too. An invitation that
is the last one again (a connection was lost, or one of us was restarted) is answered again, or not at all.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..crypto.errors import BadBody, Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..crypto.sealing import RoundKey
from ..learning.task import Trainer
from ..protocol.aborts import sign_abort
from ..protocol.charter import Charter, Role
from ..protocol.context import RoundContext
from ..protocol.errors import (
    IllegalMessage,
    MalformedMessage,
    NotInCohort,
    PeerLost,
    SplitView,
    WrongModel,
    WrongOpenRound,
    WrongRound,
    WrongSender,
    WrongSession,
)
from ..protocol.exchange import Exchange, Incoming
from ..protocol.journal import Journal
from ..protocol.machine import Dial, Drop, Expect, Machine
from ..protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Decline,
    Declined,
    Fetch,
    Grant,
    Invitation,
    Message,
    OpenRound,
    Purpose,
    Refusal,
    RoundKeyStatement,
    SealedHead,
    SendModel,
    SessionEnd,
    SessionOver,
)
from ..protocol.progress import Said
from ..protocol.rounds import Phase, Step
from ..protocol.seats import Seats
from ..protocol.session import check_offer, check_question, question_digest
from ..protocol.site import Site
from ..protocol.statements import open_signed, sign, statement_digest
from ..protocol.text import plural
from ..protocol.training import Layout, model_digest
from .memory import Memory


@dataclass
class Asked:
    """One round as this party sees it."""

    question: OpenRound
    open_round: bytes
    holder_keys: dict[str, bytes]
    key: RoundKey
    context: RoundContext
    deadline: float
    head: SealedHead | None = None
    fetching: bool = False
    """Whether the body of `head` was asked for over the connection that is up now."""
    layout: Layout | None = None
    model: memoryview | None = field(default=None, repr=False)
    """A read-only view of the buffer the model was opened to; it is not copied."""


class Recipient(Machine):
    """A party that is invited and gets the model."""

    purpose: Purpose

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        journal: Journal,
        site: Site,
        trainers: dict[str, Trainer],
    ) -> None:
        """`trainers` are this site's own, by the task names its file gives them."""
        super().__init__(identity, charter, exchange)
        self.memory = Memory(charter, journal)
        self._seats = Seats(charter)
        self.site = site
        self.trainers = trainers
        self.owner = charter.model_owner.name
        self.asked: Asked | None = None
        self.session: bytes | None = None
        self._over: bytes | None = None
        """The OpenRound that this process answered and has done with."""
        self._last: OpenRound | None = None
        self._connected: set[str] = set()
        self._lost: dict[str, tuple[float, str]] = {}
        self._spared: set[str] = set()
        """Secure workers that were waited for in vain, and that the others can do without."""
        self._started = 0.0
        self.refusals = 0

    # --- for a role

    @property
    @abstractmethod
    def essential(self) -> tuple[str, ...]:
        """The parties this one cannot go on without."""

    @abstractmethod
    def model_arrived(self, asked: Asked, now: float) -> None:
        """Go on with a model that is the one the question names."""

    def decline(self, asked: Asked, reason: str) -> None:
        """Take no part in a round, and say so; `reason` is for this site's operator only."""
        self.refusals += 1  # whatever the reason: each is one bit about a question the owner chose
        self.memory.decline(asked.question, asked.open_round, refusals=self.refusals)
        self.say_declined(asked)

    def say_declined(self, asked: Asked) -> None:
        """Tell owner and holders that this party takes no part, and nothing else."""
        statement = sign(self.identity, Decline(open_round=asked.open_round, party=self.name))
        for peer in self.essential:
            self.send(peer, Declined(decline=statement))

    def second_line(self, question: OpenRound) -> str | None:
        """Return why this party's own record of earlier sums keeps it out of this question, or None."""
        return None

    def check_abort(self, abort: Abort) -> None:
        """Hold a holder's abort of an attempt to what this party has from it."""

    def taken_part(self, open_round: bytes) -> bool:
        """Whether this party's part in this very attempt is done, in this process or an earlier one."""
        return False

    def resume(self, asked: Asked, now: float) -> bool:
        """Go on with what another attempt at this round has left, without the model; False if there is nothing."""
        return False

    def asked_anew(self) -> None:
        """Forget what a role keeps of a round that is over."""

    def set_aside(self) -> None:
        """Forget what a role keeps of a round beyond `asked`."""

    # --- connections

    def start(self, now: float) -> None:
        """Wait for the parties this one cannot go on without."""
        self._started = now

    def peer_up(self, peer: str, now: float) -> None:
        """Note a connection."""
        self._connected.add(peer)
        self._lost.pop(peer, None)
        self._spared.discard(peer)

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        """Note a lost connection."""
        self._connected.discard(peer)
        self._lost.setdefault(peer, (now, reason))
        if peer == self.owner and self.asked is not None and self.asked.head is not None:
            # What was asked for over that connection does not come; the invitation that follows the next one tells.
            self.asked.fetching = False
            self.effect(Drop(self.asked.head.subject))
        # Between rounds this may be the orderly end, whose last message comes over another connection.
        self.tell(Said(text=f"not connected to {peer}: {reason}", warning=self.phase is not Phase.IDLE))

    # --- messages both roles know

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handlers both roles share."""
        return {
            Invitation: self._on_invitation,
            SendModel: self._on_send_model,
            Grant: self.on_grant,
            Aborted: self._on_aborted,
            SessionOver: self._on_session_over,
            Refusal: self.on_refusal,
        }

    def _on_invitation(self, peer: str, message: Invitation, now: float) -> None:
        asked = self._admit(peer, message, now)  # 1 to 7
        question, name, before = asked.question, asked.open_round, self.memory.answer
        if (
            before is not None
            and before.open_round == name
            and not self._begin_again(peer, asked, declined=before.declined)
        ):
            return
        self.exchange.view.begin(asked.context)
        self.exchange.view.drew(asked.key)
        if question.session != self.session:
            self.refusals = before.refusals if before is not None and before.session == question.session else 0
            self.session = question.session
        self.give_up("the model owner asks anew")
        self.asked_anew()
        reason = self._site_refuses(question) or self.second_line(question)
        if reason is None:
            self.memory.take_invitation(question, name, refusals=self.refusals)
        self.asked, self._last, self._over = asked, question, None
        self.move(Step.ACCEPTED)
        if reason is not None:
            self.tell(Said(text=f"round {question.round}: declined: {reason}", warning=True))
            self.decline(asked, reason)
            self.give_up(None)
        elif not self.resume(asked, now):
            self._accept(peer, asked)

    def _accept(self, peer: str, asked: Asked) -> None:
        statement = RoundKeyStatement(open_round=asked.open_round, party=self.name, key=asked.key.public)
        self.send(peer, Acceptance(key=sign(self.identity, statement)))

    def _begin_again(self, peer: str, again: Asked, *, declined: bool) -> bool:
        """Answer the last invitation again, or return True if this process is to answer it from the start."""
        asked = self.asked
        if asked is not None and asked.open_round == again.open_round:
            if self.phase in (Phase.INVITED, Phase.RECEIVING):
                self._accept(peer, asked)
            return False
        if declined:
            self.say_declined(again)
            return False
        if self._over == again.open_round:
            raise WrongRound(f"asks for round {again.question.round} a second time", party=peer)
        return not self.taken_part(again.open_round)

    def _site_refuses(self, question: OpenRound) -> str | None:
        """Return why this site takes no part, for its own operator, or None."""
        most = self.site.limits.max_refusals
        if most is not None and self.refusals > most:
            return f"this site has declined {self.refusals} rounds, more than limits.max_refusals"
        # An evaluation sums nothing, so no cohort is too small for it.
        cohort = len(question.cohort if self.purpose is Purpose.TRAIN else self.charter.data_owners)
        return self.site.refuses(
            self.charter,
            task=question.training.task,
            epochs=question.training.epochs,
            batches=question.training.batches,
            cohort_size=cohort,
            mode=self.charter.rules.mode,
            updates=self.purpose is Purpose.TRAIN,
        )

    def _admit(self, peer: str, message: Invitation, now: float) -> Asked:
        charter = self.charter
        if peer != self.owner:
            raise WrongSender("invites, and is not the model owner", party=peer)
        question = open_signed(charter, message.open_round, OpenRound, Role.MODEL_OWNER)  # 1
        name = statement_digest(OpenRound, message.open_round)
        check_question(charter, self._seats, question)  # 2
        if question.purpose is not self.purpose:  # 3
            raise IllegalMessage(f"asks a {self.role.words} to {question.purpose.value}", party=peer)
        if self.name not in question.cohort:
            raise NotInCohort("invites a party its own question does not name", party=peer)
        self._check_order(peer, question, name)  # 4, 5
        offers = message.offers
        expected = question.present if self.purpose is Purpose.TRAIN else ()
        if tuple(offer.signer for offer in offers) != expected:  # 6
            raise WrongOpenRound("sends offers of other holders than the question names", party=peer)
        keys: dict[str, bytes] = {}
        for signed in offers:
            offer, abort = check_offer(charter, question, name, signed.signer, signed)  # 6, 7
            if abort is not None:
                self.check_abort(abort)
            keys[offer.holder] = offer.key
        context = RoundContext.of(question, name)
        return Asked(
            question=question,
            open_round=name,
            holder_keys=keys,
            key=RoundKey(),
            context=context,
            deadline=now + charter.rules.deadlines.join,
        )

    def _check_order(self, peer: str, question: OpenRound, name: bytes) -> None:
        before = self.memory.answer
        if before is None or before.session != question.session or before.open_round == name:
            return
        latest, now = (before.round, before.attempt), (question.round, question.attempt)
        if now < latest:  # 4
            raise WrongRound(f"asks for round {question.round} after round {before.round}", party=peer)
        if now == latest:  # 5
            raise SplitView(f"signed two different questions for round {question.round}", party=peer)
        if question.round == before.round and question_digest(question) != before.question:
            raise SplitView(f"asks something else in another attempt at round {question.round}", party=peer)

    def _on_send_model(self, peer: str, message: SendModel, now: float) -> None:
        asked = self._current(peer)
        sections = [asked.question.layout_bytes, asked.question.model_bytes]
        self.exchange.examine(message.head, Label.MODEL, asked.context, peer, asked.key, sections)
        if asked.head == message.head and asked.fetching:
            return
        self._fetch(asked, message.head)

    def _fetch(self, asked: Asked, head: SealedHead) -> None:
        """Ask for the body of this head, in the place of any other; raises `BadWrappedKey` before anything changes."""
        try:
            incoming = self.exchange.open(head, asked.key)
        except MemoryError:
            self.tell(Said(text=f"round {asked.question.round}: declined: no memory for the model", warning=True))
            self.decline(asked, "no memory for the model")
            self.give_up(None)
            return
        if asked.head is not None and asked.head != head:
            self.effect(Drop(asked.head.subject))
        asked.head, asked.fetching = head, True
        self.effect(Expect(self.owner, incoming))
        self.send(self.owner, Fetch(subject=incoming.subject))

    def on_grant(self, peer: str, message: Grant, now: float) -> None:
        """Open the bulk connection over which the model comes."""
        asked = self.asked
        if peer != self.owner or asked is None or asked.head is None or message.ticket.subject != asked.head.subject:
            raise IllegalMessage("grants a transfer that was not asked for", party=peer)
        self.effect(Dial(peer, message.ticket))

    def on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        """Say what was refused."""
        self.tell(Said(text=f"{peer} refused what we sent: {message.code}", warning=True))

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Hold the model that came to the digests everybody was asked about."""
        self.effect(Drop(incoming.subject))
        asked = self.asked
        if asked is None or self.phase is not Phase.RECEIVING or incoming.header.open_round != asked.open_round:
            return
        try:
            asked.layout, asked.model = self._check_model(asked.question, *sections)
        except Misbehaviour as error:
            self.tell(Said(text=f"round {asked.question.round}: {error}", warning=True))
            self.decline(asked, str(error))
            self.give_up(None)
            return
        # The model is here; the key that opened it has no more use.
        asked.key.erase()
        self.move(Step.MODEL_OPENED)
        self.model_arrived(asked, now)

    def _check_model(
        self, question: OpenRound, layout_bytes: memoryview, model: memoryview
    ) -> tuple[Layout, memoryview]:
        try:
            layout = msgspec.msgpack.decode(layout_bytes, type=Layout)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise MalformedMessage("a layout that is none", party=self.owner) from None
        if layout.digest() != question.layout or layout.coordinates(question.kind) != question.coordinates:
            raise WrongModel("sent another layout than the one it asked everybody about", party=self.owner)
        if layout.model_bytes != len(model) or model_digest(layout, model) != question.model:
            raise WrongModel("sent another model than the one it asked everybody about", party=self.owner)
        return layout, model.toreadonly()

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:
        """Ask for the model again if only the connection broke; a model that does not open is refused."""
        asked = self.asked
        if asked is None or self.phase is not Phase.RECEIVING or asked.head is None or asked.head.subject != subject:
            return
        asked.fetching = False
        if isinstance(error, PeerLost | BadBody):
            if self.owner in self._connected:
                self._fetch(asked, asked.head)
            return
        self.tell(Said(text=f"round {asked.question.round}: {error}", warning=True))
        self.decline(asked, str(error))
        self.give_up(None)

    def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
        abort = open_signed(self.charter, message.abort, Abort, Role.MODEL_OWNER, Role.SECURE_WORKER)
        if message.abort.signer != peer or abort.party != peer:
            raise WrongSender("passes on somebody else's abort", party=peer)
        if self.session is not None and abort.session != self.session:
            raise WrongSession("aborts another session", party=peer)
        if peer != self.owner:
            self.check_abort(abort)
            asked = self.asked.question if self.asked is not None else None
            if asked is not None and (abort.round, abort.attempt) == (asked.round, asked.attempt):
                self.give_up(f"{peer} aborted: {abort.text}")
        else:
            self.give_up(f"{peer} aborted: {abort.text}")
            self.finish(f"{peer} ended the session: {abort.cause.value}: {abort.text}")

    def _on_session_over(self, peer: str, message: SessionOver, now: float) -> None:
        end = open_signed(self.charter, message.end, SessionEnd, Role.MODEL_OWNER)
        if peer != self.owner:
            raise WrongSender("passes on the end of a session", party=peer)
        if self.session is not None and end.session != self.session:
            raise WrongSession("ends another session", party=peer)
        self.give_up(None)
        self.tell(Said(text=f"session over after {plural(end.rounds, 'round')}"))
        self.finish()

    # --- for both roles

    def _current(self, peer: str) -> Asked:
        if peer != self.owner:
            raise WrongSender("sends a model, and is not the model owner", party=peer)
        if self.asked is None:
            raise IllegalMessage("sends a model nobody asked for", party=peer)
        return self.asked

    def give_up(self, reason: str | None) -> None:
        """Erase the round's key and forget the round; say why, if there is a reason."""
        asked = self.asked
        if asked is None:
            return
        asked.key.erase()
        if asked.head is not None:
            self.effect(Drop(asked.head.subject))
        self.asked, self._over = None, asked.open_round
        self.set_aside()
        if reason is not None and self.phase not in (Phase.CLOSED, Phase.IDLE):
            self.tell(Said(text=f"round {asked.question.round} ends here: {reason}", warning=True))
        self.move(Step.GIVEN_UP)

    def interrupt(self, reason: str, now: float) -> None:
        """End; the lanes tell the others that we are gone."""
        if self.asked is not None:
            self.decline(self.asked, reason)
            self.give_up(None)
        self.finish(reason)

    def tick(self, now: float) -> None:
        """Act on what is due."""
        party = self._without(now)
        if party is not None:
            lost = self._lost.get(party)
            if lost is None:
                self.give_up(None)
                self.finish(f"no connection to {party} within {self._join:g} s")
                return
            text = f"{party} is not reachable: {lost[1]}"
            if self.asked is not None and self._last is not None:
                # A signer that is gone signs no abort; each of those it leaves behind signs its own.
                self.memory.abandon(sign_abort(self.identity, self._last, Cause.TIMEOUT, text, about=(party,)))
            self.give_up(None)
            self.finish(text)
            return
        if self.asked is not None and now >= self.asked.deadline:
            if self.phase in (Phase.INVITED, Phase.RECEIVING, Phase.TRAINING):
                # Nothing has been sent, so nobody need wait for it.
                self.decline(self.asked, Cause.TIMEOUT.value)
            self.give_up(f"{Cause.TIMEOUT.value} while {self.phase.value}")

    def _without(self, now: float) -> str | None:
        """Return the first whom this party has been without for too long, or None if it can go on."""
        self._spared = {party for party in self.essential if now >= self._awaited_until(party)}
        spare = len(self._seats.workers) - self._seats.quorum
        if self.owner in self._spared or len(self._spared) > spare:
            return next(party for party in self.essential if party in self._spared)
        return None

    def _awaited_until(self, party: str) -> float:
        if party in self._connected:
            return math.inf
        lost = self._lost.get(party)
        return lost[0] + self._patience if lost else self._started + self._join

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [] if self.asked is None else [self.asked.deadline]
        waits += [self._awaited_until(party) for party in self.essential if party not in self._spared]
        return min((at for at in waits if at < math.inf), default=None)

    @property
    def _join(self) -> float:
        return self.charter.rules.deadlines.join

    @property
    def _patience(self) -> float:
        """How long a party may be gone that was here before: as long as to join, until there is a session."""
        return self.charter.rules.deadlines.absence if self.session is not None else self._join
