"""What data owner and evaluator have in common: being asked, answering with a fresh key, receiving the model.

What an invitation is held to, numbered; the first failure refuses it by name and nothing is answered but that:
 1. the OpenRound is signed by the charter's model owner, decoded canonically
 2. it agrees with the charter: holders, plan, weight rule, limits, cohort (`session.check_question`)
 3. it asks for what this role does, and names this party
 4. it is later than what this party answered last in this session
 5. it is the only OpenRound this party has seen for its round and attempt: two are evidence against the model owner
 6. every holder offers a key for exactly this OpenRound, signed by itself, in the order of the charter
 7. a model can be sealed to us and shares to them: their keys are keys
Then the site's own file decides, and only "declined" leaves the site. The model that comes after is taken only if
layout and bytes have the digests the OpenRound names, which every other data owner's copy has too.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..crypto.errors import BadBody, Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..crypto.sealing import RoundKey, check_public_key
from ..learning.task import Trainer
from ..protocol import limits
from ..protocol.charter import Charter, Role
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
from ..protocol.exchange import Exchange, Incoming, RoundContext
from ..protocol.machine import Dial, Drop, Expect, Machine
from ..protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Fetch,
    Grant,
    Invitation,
    Message,
    OpenRound,
    Purpose,
    Refusal,
    RoundKeyStatement,
    RoundOffer,
    SealedHead,
    SendModel,
    SessionEnd,
    SessionOver,
)
from ..protocol.progress import Said
from ..protocol.rounds import Phase, Step
from ..protocol.session import check_question
from ..protocol.site import Site
from ..protocol.statements import open_signed, sign, statement_digest
from ..protocol.training import Layout, model_digest


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
    layout: Layout | None = None
    model: memoryview | None = field(default=None, repr=False)
    """A read-only view of the buffer the model was opened to; it is not copied."""


class Recipient(Machine):
    """A party that is invited and gets the model."""

    purpose: Purpose

    def __init__(
        self, identity: Identity, charter: Charter, exchange: Exchange, site: Site, trainers: dict[str, Trainer]
    ) -> None:
        """`trainers` are this site's own, by the task names its file gives them."""
        super().__init__(identity, charter, exchange)
        self.site = site
        self.trainers = trainers
        self.owner = charter.model_owner.name
        self.asked: Asked | None = None
        self.session: bytes | None = None
        self._seen: dict[tuple[int, int], bytes] = {}
        self._connected: set[str] = set()
        self._lost: dict[str, tuple[float, str]] = {}
        self._started = 0.0
        self._refusals = 0

    # --- for a role

    @property
    @abstractmethod
    def essential(self) -> tuple[str, ...]:
        """The parties this one cannot go on without."""

    @abstractmethod
    def model_arrived(self, asked: Asked, now: float) -> None:
        """Go on with a model that is the one the question names."""

    def decline(self, asked: Asked, reason: str) -> None:
        """Take no part in a round; `reason` is for this site's operator only."""

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

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        """Note a lost connection."""
        self._connected.discard(peer)
        self._lost.setdefault(peer, (now, reason))
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
        question = asked.question
        if question.session != self.session:
            self.session = question.session
            self._seen.clear()
            self._refusals = 0
        self._seen[(question.round, question.attempt)] = asked.open_round
        self.give_up("the model owner asks anew")
        self.asked = asked
        self.move(Step.ACCEPTED)
        reason = self._site_refuses(question)
        if reason is not None:
            self.tell(Said(text=f"round {question.round}: declined: {reason}", warning=True))
            self.decline(asked, reason)
            self.give_up(None)
            return
        statement = RoundKeyStatement(open_round=asked.open_round, party=self.name, key=asked.key.public)
        self.send(peer, Acceptance(key=sign(self.identity, statement)))

    def _site_refuses(self, question: OpenRound) -> str | None:
        """Return why this site takes no part, for its own operator, or None."""
        most = self.site.limits.max_refusals
        if most is not None and self._refusals > most:
            return f"this site has declined {self._refusals} rounds, more than limits.max_refusals"
        # An evaluation sums nothing, so no cohort is too small for it.
        cohort = len(question.cohort if self.purpose is Purpose.TRAIN else self.charter.data_owners)
        return self.site.refuses(
            self.charter,
            task=question.training.task,
            epochs=question.training.epochs,
            batches=question.training.batches,
            cohort_size=cohort,
            mode=self.charter.rules.mode,
        )

    def _admit(self, peer: str, message: Invitation, now: float) -> Asked:
        charter = self.charter
        if peer != self.owner:
            raise WrongSender("invites, and is not the model owner", party=peer)
        question = open_signed(charter, message.open_round, OpenRound, Role.MODEL_OWNER)  # 1
        name = statement_digest(OpenRound, message.open_round)
        check_question(charter, question)  # 2
        if question.purpose is not self.purpose:  # 3
            raise IllegalMessage(f"asks a {self.role.words} to {question.purpose.value}", party=peer)
        if self.name not in question.cohort:
            raise NotInCohort("invites a party its own question does not name", party=peer)
        if question.session == self.session and self._seen:  # 4
            latest = max(self._seen)
            if (question.round, question.attempt) < latest:
                raise WrongRound(f"asks for round {question.round} after round {latest[0]}", party=peer)
            if self._seen.get((question.round, question.attempt), name) != name:  # 5
                raise SplitView(f"signed two different questions for round {question.round}", party=peer)
            if (question.round, question.attempt) == latest:
                raise WrongRound(f"asks for round {question.round} a second time", party=peer)
        offers = message.offers
        expected = question.holders if self.purpose is Purpose.TRAIN else ()
        if tuple(offer.signer for offer in offers) != expected:  # 6
            raise WrongOpenRound("sends offers of other holders than the question names", party=peer)
        keys: dict[str, bytes] = {}
        for signed in offers:
            offer = open_signed(charter, signed, RoundOffer, Role.SECURE_WORKER)
            if offer.open_round != name or offer.holder != signed.signer:
                raise WrongOpenRound(f"passes on an offer of {signed.signer} for another question", party=peer)
            check_public_key(offer.key, party=offer.holder)  # 7
            keys[offer.holder] = offer.key
        return Asked(
            question=question,
            open_round=name,
            holder_keys=keys,
            key=RoundKey(),
            context=RoundContext.of(question, name),
            deadline=now + charter.rules.deadlines.join,
        )

    def _on_send_model(self, peer: str, message: SendModel, now: float) -> None:
        asked = self._current(peer)
        sections = [asked.question.layout_bytes, asked.question.model_bytes]
        self.exchange.examine(message.head, Label.MODEL, asked.context, peer, asked.key, sections)
        asked.head = message.head
        self._fetch(asked)

    def _fetch(self, asked: Asked) -> None:
        head = asked.head
        if head is None:
            raise IllegalMessage("has sent no model yet", party=self.owner)
        try:
            incoming = self.exchange.open(head, asked.key)
        except MemoryError:
            self.tell(Said(text=f"round {asked.question.round}: declined: no memory for the model", warning=True))
            self.decline(asked, "no memory for the model")
            self.give_up(None)
            return
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
        if isinstance(error, PeerLost | BadBody):
            self._fetch(asked)
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
        if peer != self.owner and self.asked is not None and abort.round != self.asked.question.round:
            raise WrongRound(f"aborts round {abort.round}, which is not the one that is open", party=peer)
        self.give_up(f"{peer} aborted: {abort.text}")
        if peer == self.owner:
            self.finish(f"{peer} ended the session: {abort.cause.value}: {abort.text}")

    def _on_session_over(self, peer: str, message: SessionOver, now: float) -> None:
        end = open_signed(self.charter, message.end, SessionEnd, Role.MODEL_OWNER)
        if peer != self.owner:
            raise WrongSender("passes on the end of a session", party=peer)
        if self.session is not None and end.session != self.session:
            raise WrongSession("ends another session", party=peer)
        self.give_up(None)
        self.tell(Said(text=f"session over after {end.rounds} round(s)"))
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
        self.asked = None
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
        for party in self.essential:
            lost = self._lost.get(party)
            if lost is not None and party not in self._connected and now - lost[0] >= self._patience(party):
                self.give_up(None)
                self.finish(f"{party} is not reachable: {lost[1]}")
                return
            if lost is None and party not in self._connected and now - self._started >= self._join:
                self.give_up(None)
                self.finish(f"no connection to {party} within {self._join:g} s")
                return
        if self.asked is not None and now >= self.asked.deadline:
            if self.phase in (Phase.INVITED, Phase.RECEIVING, Phase.TRAINING):
                # Nothing has been sent, so nobody need wait for it.
                self.decline(self.asked, Cause.TIMEOUT.value)
            self.give_up(f"{Cause.TIMEOUT.value} while {self.phase.value}")

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [] if self.asked is None else [self.asked.deadline]
        for party in self.essential:
            if party in self._connected:
                continue
            lost = self._lost.get(party)
            waits.append(lost[0] + self._patience(party) if lost else self._started + self._join)
        return min(waits, default=None)

    @property
    def _join(self) -> float:
        return self.charter.rules.deadlines.join

    def _patience(self, party: str) -> float:
        """Return how long a party may be unreachable: briefly once a session runs, until `join` before."""
        return limits.ABSENCE if self.session is not None else self._join
