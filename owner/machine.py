"""The model owner: asks one question a round, gets one sum, takes one step.

It follows `rounds.MODEL_OWNER`. It never holds one data owner's update: `exchange.MAY_SEND` has no row for it, this
machine has no handler for it, and what it opens is bound, by signature, to a Close list of at least the minimum cohort.

How a round goes, from here: sign an OpenRound; collect every holder's offer; invite the cohort and give each that
accepts the same sealed model; wait for Close and release; open, decode, apply and checkpoint on the work thread;
cosign; keep the record. A round that ends otherwise ends the session with one sentence that says why, and the model as
it was after the last checkpoint.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from ..crypto.errors import Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Label, digest
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey
from ..crypto.sharing import scheme
from ..learning.task import GlobalModel
from ..protocol import limits
from ..protocol.charter import Charter, Role
from ..protocol.codec import encode
from ..protocol.errors import (
    IllegalMessage,
    WrongOpenRound,
    WrongSender,
    WrongSession,
)
from ..protocol.exchange import Exchange, Incoming, RoundContext
from ..protocol.machine import Dial, Drop, Expect, Machine, Permit, Provide, Work
from ..protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Closed,
    Cosign,
    Cosignature,
    Declined,
    Evaluated,
    Fetch,
    Grant,
    Invitation,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Purpose,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundRecord,
    RoundStatement,
    SendModel,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
)
from ..protocol.progress import RoundClosed, RoundDone, RoundOpened, Said, Scored
from ..protocol.rounds import Phase, Step
from ..protocol.session import new_nonce, session_id
from ..protocol.site import OwnerPlan
from ..protocol.statements import open_signed, sign, statement_digest
from ..protocol.training import model_digest
from ..protocol.vector import decode_vector
from .asking import Applied, Asking
from .store import OwnerStore


class ModelOwner(Machine):
    """The machine of a model owner, for one session."""

    role: ClassVar[Role] = Role.MODEL_OWNER

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        plan: OwnerPlan,
        model: GlobalModel,
        store: OwnerStore,
        *,
        rounds_done: int = 0,
    ) -> None:
        """`rounds_done` rounds of the plan are in `model` already (a run that is resumed)."""
        super().__init__(identity, charter, exchange)
        self.phase = Phase.CONNECTING
        self._plan = plan
        self._model = model
        self._store = store
        self._scheme = scheme(charter.rules.scheme.name)
        self._holders = tuple(party.name for party in charter.secure_workers)
        self._data_owners = tuple(party.name for party in charter.data_owners)
        self._evaluators = tuple(party.name for party in charter.evaluators)
        self._connected: set[str] = set()
        self._mute: set[str] = set()
        """Evaluators that let a deadline pass in this session."""
        self._lost: dict[str, tuple[float, str]] = {}
        self._nonce = new_nonce()
        self._nonces: dict[str, bytes] = {}
        self._session: bytes | None = None
        self._round = rounds_done
        self._unscored = False
        self._asking: Asking | None = None
        self._deadline: float | None = None

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a model owner can be sent. None of them takes an update."""
        return {
            OfferSession: self._on_offer_session,
            OfferRound: self._on_offer_round,
            Acceptance: self._on_acceptance,
            Declined: self._on_declined,
            Fetch: self._on_fetch,
            Grant: self._on_grant,
            Closed: self._on_closed,
            Release: self._on_release,
            RequestCosignature: self._on_request_cosignature,
            RoundRecord: self._on_round_record,
            Evaluated: self._on_evaluated,
            Aborted: self._on_aborted,
            Refusal: self._on_refusal,
        }

    # --- connecting, and the session

    def start(self, now: float) -> None:
        """Wait for everybody, until the join deadline."""
        self._deadline = now + self.charter.rules.deadlines.join

    def peer_up(self, peer: str, now: float) -> None:
        """Note a connection."""
        self._connected.add(peer)
        self._lost.pop(peer, None)
        if self.phase is Phase.CONNECTING:
            self.tell(Said(text=f"{peer} is connected"))
            if {*self._holders, *self._data_owners, *self._evaluators} <= self._connected:
                self._open_session(now)

    def peer_down(self, peer: str, reason: str, now: float) -> None:
        """Note a lost connection; without a secure worker nothing can go on."""
        self._connected.discard(peer)
        self._lost[peer] = (now, reason)
        self.tell(Said(text=f"{peer} is not connected any more: {reason}", warning=True))

    def _open_session(self, now: float) -> None:
        self.move(Step.CONNECTED)
        self._deadline = now + self.charter.rules.deadlines.close
        for holder in self._holders:
            self.send(holder, RequestSession(owner_nonce=self._nonce))

    def _on_offer_session(self, peer: str, message: OfferSession, now: float) -> None:
        offer = open_signed(self.charter, message.offer, SessionOffer, Role.SECURE_WORKER)
        if offer.holder != peer or message.offer.signer != peer or offer.owner_nonce != self._nonce:
            raise WrongSession("offers a session that was not asked for", party=peer)
        self._nonces[peer] = offer.holder_nonce
        if set(self._nonces) == set(self._holders):
            nonces = [self._nonces[holder] for holder in self._holders]
            self._session = session_id(self.charter.digest, self._nonce, nonces)
            self.move(Step.SESSION_OPEN)
            self._next(now)

    # --- asking

    def _next(self, now: float) -> None:
        """Begin what comes next: an evaluation, a round, or the end."""
        self._asking, self._deadline = None, None
        scorers = tuple(name for name in self._evaluators if name in self._connected - self._mute)
        if self._unscored and scorers:
            self._unscored = False
            self.move(Step.NEXT_EVALUATION)
            self._asking = self._ask(Purpose.EVALUATE, self._round, scorers, now)
            self._invite(now)
            return
        if self._round < self._plan.rounds:
            cohort = self._draw_cohort(self._round + 1)
            if len(cohort) < self.charter.rules.minimum_cohort:
                absent = sorted(set(self._data_owners) - self._connected)
                self._fail(
                    Cause.TOO_FEW,
                    f"only {len(cohort)} data owners are connected and the minimum cohort is "
                    f"{self.charter.rules.minimum_cohort}; not connected: {', '.join(absent)}",
                )
                return
            self.move(Step.NEXT_ROUND)
            self._asking = self._ask(Purpose.TRAIN, self._round + 1, cohort, now)
            self._deadline = now + self.charter.rules.deadlines.close
            for holder in self._holders:
                self.send(holder, ProposeRound(open_round=self._asking.signed))
            self.tell(RoundOpened(self._round + 1, cohort))
            return
        self._store.finish(self._model)
        if self._session is not None:
            end = SessionOver(end=sign(self.identity, SessionEnd(session=self._session, rounds=self._round)))
            self._tell_all(end)
        self.finish()

    def _draw_cohort(self, number: int) -> tuple[str, ...]:
        """Draw a round's cohort from who is connected.

        By an order anybody can repeat from seed and round. It binds nobody: a model owner that wants another cohort
        can ask for one, and what holds back a sum that would isolate somebody is the secure worker's release gate.
        """
        here = [name for name in self._data_owners if name in self._connected]
        if not self._plan.cohort or self._plan.cohort >= len(here):
            return tuple(sorted(here))
        seed, at = self._plan.seed.to_bytes(8, "big"), number.to_bytes(8, "big")
        order = sorted(here, key=lambda name: digest(Label.COHORT_SAMPLE, seed, at, name.encode()))
        return tuple(sorted(order[: self._plan.cohort]))

    def _ask(self, purpose: Purpose, number: int, cohort: tuple[str, ...], now: float) -> Asking:
        if self._session is None:
            raise IllegalMessage("no session is open")
        training = self._plan.training_plan(max(number - 1, 0))
        layout, model = self._model.layout, self._model.to_bytes()
        encoded, key = layout.encode(), RoundKey()
        question = OpenRound(
            charter=self.charter.digest,
            session=self._session,
            round=number,
            attempt=0,
            purpose=purpose,
            owner_nonce=self._nonce,
            holder_nonces=tuple(self._nonces[holder] for holder in self._holders),
            model=model_digest(layout, model),
            layout=layout.digest(),
            layout_bytes=len(encoded),
            model_bytes=len(model),
            coordinates=layout.coordinates(training.kind),
            plan=self.charter.plan,
            training=training,
            weight_rule=self.charter.rules.weight_rule,
            cohort=cohort,
            holders=self._holders,
            owner_key=key.public,
        )
        signed = sign(self.identity, question)
        name = statement_digest(OpenRound, signed)
        context = RoundContext.of(question, name)
        broadcast = self.exchange.broadcast(Label.MODEL, context, [encoded, model])
        return Asking(self.charter, self.exchange, question, signed, name, key, context, broadcast, now)

    def _on_offer_round(self, peer: str, message: OfferRound, now: float) -> None:
        if self._open_question(peer).take_offer(peer, message.offer):
            self.move(Step.OFFERED)
            self._invite(now)

    def _invite(self, now: float) -> None:
        asking = self._open_question(self.name)
        deadlines = self.charter.rules.deadlines
        self._deadline = now + deadlines.join + deadlines.upload + deadlines.close
        offers = tuple(asking.offers[holder] for holder in self._holders if holder in asking.offers)
        for party in asking.question.cohort:
            self.send(party, Invitation(open_round=asking.signed, offers=offers))

    def _on_acceptance(self, peer: str, message: Acceptance, now: float) -> None:
        outgoing = self._open_question(peer).address(peer, message.key)
        self.send(peer, SendModel(head=outgoing.head))

    def _on_fetch(self, peer: str, message: Fetch, now: float) -> None:
        self.effect(Provide(peer, self._open_question(peer).body_for(peer, message.subject)))
        self.effect(Permit(peer, message.subject))

    def _on_declined(self, peer: str, message: Declined, now: float) -> None:
        asking = self._open_question(peer)
        asking.take_decline(peer, message.decline)
        self.tell(Said(text=f"round {asking.question.round}: {peer} declined"))
        if self.phase is Phase.EVALUATING and asking.answered >= set(asking.question.cohort):
            self._end_evaluation(now)

    # --- the sum

    def _on_closed(self, peer: str, message: Closed, now: float) -> None:
        asking = self._open_question(peer)
        close = asking.take_close(peer, message.close)
        if self.phase is Phase.COLLECTING and close is not None:
            self._deadline = now + self.charter.rules.deadlines.release
            self.move(Step.SET_CLOSED)
            self.tell(RoundClosed(asking.question.round, close.contributors, close.declined, close.missing))

    def _on_release(self, peer: str, message: Release, now: float) -> None:
        self._receive(peer, self._open_question(peer).take_release(peer, message.head))

    def _receive(self, peer: str, incoming: Incoming) -> None:
        self.effect(Expect(peer, incoming))
        self.send(peer, Fetch(subject=incoming.subject))

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:
        """Ask for an aggregate again if only the connection broke; one that does not open ends the session."""
        asking = self._asking
        if asking is None or self.phase is not Phase.RECEIVING:
            return
        match asking.may_fetch_again(peer, subject, error):
            case True:
                self._receive(peer, asking.fetch(peer))
            case False:
                self._fail(Cause.FAULT, f"the aggregate of {peer} does not open: {error.reason}")

    def _on_grant(self, peer: str, message: Grant, now: float) -> None:
        self._open_question(peer).grants(peer, message.ticket.subject)
        self.effect(Dial(peer, message.ticket))

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Take a holder's total; with the last one, decode and apply."""
        asking = self._asking
        if asking is None or self.phase is not Phase.RECEIVING or peer not in asking.releases:
            return
        question = asking.question
        self.effect(Drop(incoming.subject))
        if not asking.take_total(peer, sections[0]):
            return
        total = self._scheme.combiner(question.plan, question.words).combine(asking.totals)
        contributors, scored = asking.contributors, self._plan.evaluates_after(question.round - 1)
        self.move(Step.AGGREGATE_OPENED)
        self._deadline = None
        for holder, signed in asking.statements.items():
            self._cosign(holder, signed)
        self.effect(Work(asking.name.hex(), lambda: self._apply(question, total, contributors, scored=scored)))

    def _apply(self, question: OpenRound, total: Words, contributors: int, *, scored: bool) -> Applied:
        """Run on the work thread: decode, take the step, checkpoint, score."""
        decoded = decode_vector(question, self._model.layout, total, contributors)
        reduced = decoded.means() if self._plan.reduction == "mean" else decoded.sums
        self._model.apply(question.kind, list(reduced))
        self._store.checkpoint(self._model, question.round)
        score = self._model.evaluate() if scored else None
        return Applied(contributors, decoded.metrics, score)

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Note that the step was taken, or that it could not be."""
        asking = self._asking
        if asking is None or tag != asking.name.hex() or self.phase is not Phase.APPLYING:
            return
        if not isinstance(result, Applied):
            self._fail(Cause.LOCAL, f"the aggregate of round {asking.question.round} could not be applied: {result}")
            return
        asking.applied = result
        self._round = asking.question.round
        self._unscored = self._plan.evaluates_after(self._round - 1)
        self.move(Step.APPLIED)
        self._deadline = now + self.charter.rules.deadlines.statement + limits.ABSENCE
        self._conclude(now)

    # --- the record

    def _on_request_cosignature(self, peer: str, message: RequestCosignature, now: float) -> None:
        self._open_question(peer).take_statement(peer, message.statement)
        if self.phase is not Phase.RECEIVING:
            self._cosign(peer, message.statement)

    def _cosign(self, holder: str, statement: Signed) -> None:
        signature = self.identity.sign(Label.ROUND_STATEMENT, statement.statement)
        name = statement_digest(RoundStatement, statement)
        self.send(holder, Cosign(statement=name, cosignature=Cosignature(party=self.name, signature=signature)))

    def _on_round_record(self, peer: str, message: RoundRecord, now: float) -> None:
        asking = self._open_question(peer)
        asking.take_record(peer, message)
        self._store.record(asking.question.round, peer, encode(message))
        self._conclude(now)

    def _conclude(self, now: float, *, late: bool = False) -> None:
        """Go on once the step is taken and every holder's record is here, or will not come."""
        asking = self._asking
        if asking is None or asking.applied is None or self.phase is not Phase.RELEASED:
            return
        if not late and set(asking.records) != set(self._holders):
            return
        applied = asking.applied
        absent = {name for record in asking.records.values() for name in record.absent}
        absent |= set(self._holders) - set(asking.records)
        self.tell(
            RoundDone(self._round, applied.contributors, applied.metrics, now - asking.begun, tuple(sorted(absent)))
        )
        if applied.score is not None:
            score = applied.score
            self.tell(Scored(self._round, self.name, score.examples, score.loss, score.accuracy, tuple(score.shares)))
        for subject in asking.outgoing:
            self.effect(Drop(subject))
        self.move(Step.ATTESTED)
        self._next(now)

    def _on_evaluated(self, peer: str, message: Evaluated, now: float) -> None:
        asking = self._open_question(peer)
        score = asking.take_score(peer, message.evaluation)
        self.tell(Scored(self._round, peer, score.examples, score.loss, score.accuracy, tuple(score.shares)))
        if self.phase is Phase.EVALUATING and asking.answered >= set(asking.question.cohort):
            self._end_evaluation(now)

    def _end_evaluation(self, now: float) -> None:
        asking = self._open_question(self.name)
        asking.key.erase()
        for subject in asking.outgoing:
            self.effect(Drop(subject))
        self.move(Step.EVALUATED)
        self._next(now)

    # --- ends

    def _on_aborted(self, peer: str, message: Aborted, now: float) -> None:
        abort = open_signed(self.charter, message.abort, Abort, Role.SECURE_WORKER)
        if message.abort.signer != peer or abort.party != peer:
            raise WrongSender("passes on somebody else's abort", party=peer)
        if abort.session != self._session:
            raise WrongSession("aborts another session", party=peer)
        self._fail(abort.cause, f"{peer} aborted round {abort.round}: {abort.cause.value}: {abort.text}")

    def _on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        self.tell(Said(text=f"{peer} refused what we sent: {message.code}", warning=True))
        if peer in self._holders and self.phase in (Phase.OPENING, Phase.OFFERING):
            self._fail(Cause.FAULT, f"{peer} refused the question ({message.code})")

    def _fail(self, cause: Cause, text: str) -> None:
        """End the session: tell everybody, signed, and say why."""
        if self._session is not None:
            abort = Abort(
                session=self._session,
                round=self._round + 1,
                attempt=0,
                party=self.name,
                cause=cause,
                text=text[: limits.TEXT_LENGTH],
            )
            self._tell_all(Aborted(abort=sign(self.identity, abort)))
        if self._asking is not None:
            self._asking.key.erase()
            for subject in self._asking.outgoing:
                self.effect(Drop(subject))
        self.finish(text)

    def interrupt(self, reason: str, now: float) -> None:
        """Abort the session; the last checkpoint stays."""
        self._fail(Cause.INTERRUPTED, reason)

    # --- time

    def tick(self, now: float) -> None:
        """Act on what is due."""
        if self.phase is not Phase.CONNECTING:
            for holder in self._holders:
                lost = self._lost.get(holder)
                if lost is not None and now - lost[0] >= limits.ABSENCE:
                    self._fail(Cause.TIMEOUT, f"{holder} is not reachable: {lost[1]}")
                    return
        if self.phase is Phase.EVALUATING and self._asking is not None:
            silent = set(self._asking.question.cohort) - self._asking.answered
            if all(name in self._lost and now - self._lost[name][0] >= limits.ABSENCE for name in silent):
                self._end_evaluation(now)
                return
        if self._deadline is None or now < self._deadline:
            return
        if self.phase is Phase.CONNECTING:
            self._start_without(now)
        elif self.phase is Phase.RELEASED:
            self._conclude(now, late=True)
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
        missing = [holder for holder in self._holders if holder not in self._connected]
        here = [name for name in self._data_owners if name in self._connected]
        needed = max(self.charter.rules.minimum_cohort, self._plan.cohort)
        if missing or len(here) < needed:
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
            silent = sorted(set(self._holders) - set(asking.offers))
        elif self.phase is Phase.COLLECTING:
            silent = sorted(set(self._holders) - set(asking.closes))
        else:
            silent = self._holders
        return f"nothing from {', '.join(silent)} as seen by {self.name}"

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [] if self._deadline is None else [self._deadline]
        if self.phase is not Phase.CONNECTING:
            waits += [self._lost[holder][0] + limits.ABSENCE for holder in self._holders if holder in self._lost]
        if self.phase is Phase.EVALUATING and self._asking is not None:
            silent = set(self._asking.question.cohort) - self._asking.answered
            if silent and silent <= set(self._lost):
                waits.append(max(self._lost[name][0] for name in silent) + limits.ABSENCE)
        return min(waits, default=None)

    # --- small things

    def _open_question(self, peer: str) -> Asking:
        if self._asking is None:
            raise WrongOpenRound("answers a question that is not open", party=peer)
        return self._asking

    def _tell_all(self, message: Message) -> None:
        for party in sorted(self._connected):
            self.send(party, message)
