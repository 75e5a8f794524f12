"""The model owner: asks one question a round, gets one sum, takes one step.

It follows `rounds.MODEL_OWNER`. It never holds one data owner's update: `exchange.MAY_SEND` has no row for it, and
what it opens is bound, by signature, to a Close list of at least the minimum cohort. Only where the charter's scheme
makes it a holder does it take shares (`protocol/intake.py`): seeds in `masked`; in `plain`, which a charter has to
excuse, updates.

How a round goes, from here: sign an OpenRound; collect the offers of all holders that take part; invite the cohort and
give each that accepts the same sealed model; wait for Close and release; open, combine and check the sum
(`verifying.py`); decode, apply and checkpoint on the work thread; cosign; keep the record. An attempt that ends
otherwise is made again, with the same question and fresh keys, where that can help (a holder was restarted, somebody
was not heard from); else the session ends with one sentence that says why, and the model as it was after the last
checkpoint. A restart goes on with the question that was open.
"""

from collections.abc import Callable
from typing import Any

from ..crypto.errors import Misbehaviour
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey
from ..protocol import limits
from ..protocol.charter import Role
from ..protocol.check_messages import Answered, MaskSeeds, OfferMaskKey
from ..protocol.codec import encode
from ..protocol.context import RoundContext
from ..protocol.errors import IllegalMessage, SiteFileError, TooLate
from ..protocol.exchange import Incoming
from ..protocol.intake import Intake
from ..protocol.ledger import SHARES, Act, DataClass
from ..protocol.machine import Dial, Drop, Expect, Permit, Provide, Work
from ..protocol.messages import (
    Aborted,
    Acceptance,
    Cause,
    Closed,
    Closes,
    Cosign,
    Cosignature,
    Declined,
    Evaluated,
    Fetch,
    Grant,
    Invitation,
    Listed,
    Lists,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Purpose,
    Ready,
    Refusal,
    Release,
    RequestCosignature,
    RoundRecord,
    RoundStatement,
    SendModel,
    SessionEnd,
    SessionOver,
    Signed,
)
from ..protocol.progress import RoundClosed, RoundDone, RoundOpened, Said, Scored
from ..protocol.rounds import Phase, Step
from ..protocol.statements import sign, statement_digest
from ..protocol.vector import decode_vector
from .asking import Applied, Asking, Outcome
from .questions import draw_cohort, new_question, next_attempt
from .verifying import VerifyingOwner, sum_tag


class ModelOwner(VerifyingOwner):
    """The machine of a model owner, for one session."""

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a model owner can be sent."""
        return {
            OfferSession: self._on_offer_session,
            OfferRound: self._on_offer_round,
            Acceptance: self._on_acceptance,
            Declined: self._on_declined,
            Fetch: self._on_fetch,
            Grant: self._on_grant,
            Ready: self._on_ready,
            Listed: self._on_listed,
            Closed: self._on_closed,
            Release: self._on_release,
            RequestCosignature: self._on_request_cosignature,
            RoundRecord: self._on_round_record,
            OfferMaskKey: self._on_offer_mask_key,
            MaskSeeds: self._on_mask_seeds,
            Answered: self._on_answered,
            Evaluated: self._on_evaluated,
            Aborted: self._on_aborted,
            Refusal: self._on_refusal,
        }

    # --- asking

    def _next(self, now: float) -> None:
        """Begin what comes next: an evaluation, a round or another attempt at one, or the end."""
        self._asking, self._deadline = None, None
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._propose(pending, now, before=True)
            return
        scorers = self._scorers()
        if scorers:
            self._unscored = False
            self.move(Step.NEXT_EVALUATION)
            self._asking = self._ask(self._new_question(Purpose.EVALUATE, self._round, scorers), now)
            self._invite(now)
            return
        if self._unfinished is not None or self._round < self._last_round:
            self._ask_round(now)
            return
        self._store.finish(self._model)
        if self._session is not None:
            end = SessionOver(end=sign(self.identity, SessionEnd(session=self._session, rounds=self._round)))
            self._tell_all(end)
        self.finish()

    def _ask_round(self, now: float) -> None:
        """Ask the next round, or the one whose attempt ended again, once enough of its cohort are here."""
        here = [name for name in self._data_owners if name in self._connected]
        again = self._unfinished
        cohort = again.cohort if again is not None else self._draw(here)
        without = self._without(now)
        if len(set(cohort) & set(here)) < self.charter.rules.minimum_cohort or without is None:
            if self._waiting_until is None:
                self._waiting_until = now + self.charter.rules.deadlines.absence
                self.tell(Said(text=f"waiting for {self._absent()} to come back", warning=True))
            spare = [self._lost[name][0] + limits.ABSENCE for name in self._nonces if name in self._lost]
            self._deadline = min([self._waiting_until, *(at for at in spare if at > now)])
            return
        self._waiting_until = None
        if again is None:
            self._propose(self._new_question(Purpose.TRAIN, self._round + 1, cohort, without), now)
        else:
            self._unfinished = None
            self._propose(next_attempt(self.identity, again, without), now)

    def _scorers(self) -> tuple[str, ...]:
        """Return the evaluators to ask for a score of this round's model."""
        here = self._connected - self._mute
        return tuple(name for name in self._evaluators if name in here) if self._unscored else ()

    def _draw(self, here: list[str]) -> tuple[str, ...]:
        """Return whom to ask in the next round, of the data owners that are here."""
        return draw_cohort(self._plan, here, self._round + 1)

    def _new_question(
        self, purpose: Purpose, number: int, cohort: tuple[str, ...], without: tuple[str, ...] = ()
    ) -> tuple[OpenRound, Signed, RoundKey]:
        return new_question(
            self.identity,
            self.charter,
            self._plan,
            self._model,
            (self._nonce, self._nonces),
            purpose=purpose,
            number=number,
            cohort=cohort,
            without=without,
        )

    def _propose(self, asked: tuple[OpenRound, Signed, RoundKey], now: float, *, before: bool = False) -> None:
        """Ask a question; one from `before` this process began is asked again."""
        question, signed, key = asked
        # What is noted of the key, and to whom the question goes, goes in with the question, in one transaction.
        self._asking = self._ask(asked, now, before=before)
        for holder in question.present:
            self.exchange.view.said(holder, ProposeRound(open_round=signed))
        self._memory.sign_question(signed, key)
        self.move(Step.NEXT_ROUND)
        self._deadline = now + self.charter.rules.deadlines.close
        for holder in question.present:
            self.send(holder, ProposeRound(open_round=signed))
        if question.attempt == 0:
            self.tell(RoundOpened(question.round, question.cohort))
        else:
            self.tell(Said(text=f"round {question.round}: attempt {question.attempt + 1}", warning=True))

    def _ask(self, asked: tuple[OpenRound, Signed, RoundKey], now: float, *, before: bool = False) -> Asking:
        question, signed, key = asked
        name = statement_digest(OpenRound, signed)
        context = RoundContext.of(question, name)
        self.exchange.view.begin(context)
        self.exchange.view.drew(key, before=before)
        sections = [self._model.layout.encode(), self._model.to_bytes()]
        broadcast = self.exchange.broadcast(Label.MODEL, context, sections)
        self._intake = None
        if question.purpose is Purpose.TRAIN and self._seats.owner is not None:
            self._intake = Intake(
                self.identity, self.charter, self.exchange, self._seats, question, name, key=key, buffers=self._buffers
            )
        return Asking(self.charter, self._seats, self.exchange, question, signed, name, key, context, broadcast, now)

    def _on_offer_round(self, peer: str, message: OfferRound, now: float) -> None:
        complete = self._open_question(peer).take_offer(peer, message.offer)
        if complete and self.phase is Phase.OFFERING:
            self.move(Step.OFFERED)
            self._invite(now)

    def _invite(self, now: float) -> None:
        asking = self._open_question(self.name)
        deadlines = self.charter.rules.deadlines
        self._deadline = now + deadlines.join + deadlines.upload + deadlines.close
        for party in asking.question.cohort:
            self.send(party, self._invitation(asking))

    def _invitation(self, asking: Asking) -> Invitation:
        offers = tuple(asking.offers[holder] for holder in asking.question.present if holder in asking.offers)
        return Invitation(open_round=asking.signed, offers=offers)

    def _on_acceptance(self, peer: str, message: Acceptance, now: float) -> None:
        outgoing, replaced = self._open_question(peer).address(peer, message.key)
        for subject in replaced:
            self.effect(Drop(subject))
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

    # --- shares, where the scheme makes the model owner a holder

    def _on_ready(self, peer: str, message: Ready, now: float) -> None:
        self.charter.require(peer, Role.DATA_OWNER)
        if self._seats.owner is None:
            raise IllegalMessage("offers a contribution to the model owner", party=peer)
        if self._intake is None or self.phase is not Phase.COLLECTING:
            raise TooLate("announces an upload while no round collects", party=peer)
        self._take_ready(peer, message, self._intake)

    def _note_share(self, peer: str, commitment: bytes) -> None:
        # In memory alone: a share is worth nothing to a process that has lost the others of its attempt.
        pass

    # --- the sum

    def _on_listed(self, peer: str, message: Listed, now: float) -> None:
        asking = self._open_question(peer)
        known = peer in asking.lists
        lists = asking.take_list(peer, message.list)
        if lists is not None:
            for holder in [peer] if known else asking.question.present:
                self.send(holder, Lists(lists=lists))

    def _pass_on_closes(self, asking: Asking, peer: str, *, known: bool) -> None:
        """Show every holder that has closed that enough have, over one set: nothing is released before that."""
        quorum = self._seats.quorum
        if len(self._holders) > 1 and len(asking.closed) >= quorum:
            signed = [asking.signed_closes[holder] for holder in asking.closed]
            closes = Closes(
                signatures=tuple(Cosignature(party=each.signer, signature=each.signature) for each in signed)
            )
            # The first to know are all that made the quorum; whoever closes later, or comes back, is told alone.
            for holder in [peer] if known or len(signed) > quorum else asking.closed:
                self.send(holder, closes)

    def _on_closed(self, peer: str, message: Closed, now: float) -> None:
        asking = self._open_question(peer)
        known = peer in asking.closes
        close = asking.take_close(peer, message.close)
        self._pass_on_closes(asking, peer, known=known)
        if self.phase in (Phase.OFFERING, Phase.COLLECTING) and close is not None:
            self._deadline = now + self.charter.rules.deadlines.release
            self.move(Step.SET_CLOSED)
            self.tell(RoundClosed(asking.question.round, close.contributors, close.declined, close.missing))
            for holder in sorted(set(asking.heads) - asking.fetching):
                self._receive(holder, asking.fetch(holder))
            self._begin_verification(asking, now)

    def _on_release(self, peer: str, message: Release, now: float) -> None:
        asking = self._open_question(peer)
        incoming = asking.take_release(peer, message.head)
        if incoming is not None and self.phase in (Phase.OFFERING, Phase.COLLECTING):
            asking.fetching.discard(peer)  # until q holders' Close lists are here
        elif incoming is not None:
            self._receive(peer, incoming)

    def _receive(self, peer: str, incoming: Incoming) -> None:
        self.effect(Expect(peer, incoming))
        self.send(peer, Fetch(subject=incoming.subject))

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:
        """Ask for an aggregate again if only the connection broke; one that does not open ends the session."""
        asking = self._asking
        if self._intake is not None:
            self._intake.failed(peer, subject)
            self._start_uploads()
        if asking is None or self.phase is not Phase.RECEIVING:
            return
        match asking.may_fetch_again(peer, subject, error):
            case True:
                asking.fetching.discard(peer)
                if peer in self._connected:
                    self._receive(peer, asking.fetch(peer))
            case False if not self._spare(peer, now):
                self._fail(Cause.FAULT, f"the aggregate of {peer} does not open: {error.reason}")

    def _on_grant(self, peer: str, message: Grant, now: float) -> None:
        self._open_question(peer).grants(peer, message.ticket.subject)
        self.effect(Dial(peer, message.ticket))

    def opened(self, peer: str, incoming: Incoming, sections: tuple[memoryview, ...], now: float) -> None:
        """Take a holder's total; with the last one, decode and apply. Or a share, where we are a holder."""
        asking = self._asking
        if incoming.header.label is Label.CONTRIBUTION:
            self._take_share(peer, incoming, sections)
            return
        if asking is None or self.phase not in (Phase.CLOSED, Phase.RECEIVING) or peer not in asking.releases:
            return
        self.effect(Drop(incoming.subject))
        asking.take_total(peer, sections)
        self._sum_up_if_enough(now)

    def _sum_up_if_enough(self, now: float) -> None:
        """Combine the totals that are here, if they are enough and no holder that is here still owes one."""
        asking = self._asking
        receiving = self.phase in (Phase.CLOSED, Phase.RECEIVING)
        if asking is None or not receiving or not asking.sum_up(self._connected):
            return
        asking.intake = self._intake
        self._drop_intake()
        self.move(Step.AGGREGATE_OPENED)
        for holder, signed in asking.statements.items():
            self._cosign(holder, signed)
        self._verify(now)

    def _apply_sum(self, asking: Asking, total: Words, now: float) -> None:
        totals = (Act.OPENED, DataClass.AGGREGATE, asking.contributors)
        own = [(Act.OPENED, data, (name,)) for name in asking.contributors for data in (DataClass.UPDATE, *SHARES)]
        sources = (totals, *(own if self._seats.owner is not None else ()))
        self.exchange.view.derived(DataClass.AGGREGATE, asking.contributors, sources=sources, payload=total.nbytes)
        self.effect(Work(asking.name.hex(), lambda: self._take_step(asking, total)))

    def _take_step(self, asking: Asking, total: Words) -> Applied:
        """Run on the work thread: keep what came of the check, then do with the sum what the plan says."""
        question = asking.question
        if asking.outcome is not None:
            self._store.check(question.round, asking.name, encode(asking.outcome.message))
        scored = self._plan.evaluates_after(question.round - 1)
        return self._apply(question, total, len(asking.contributors), scored=scored)

    def _apply(self, question: OpenRound, total: Words, contributors: int, *, scored: bool) -> Applied:
        """Decode, take the step, checkpoint, score."""
        decoded = decode_vector(question, self._model.layout, total, contributors)
        reduced = decoded.means() if self._plan.reduction == "mean" else decoded.sums
        self._model.apply(question.kind, list(reduced))
        self._store.checkpoint(self._model, question.round)
        score = self._model.evaluate() if scored else None
        return Applied(contributors, decoded.metrics, score, self._digest_of_model())

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Note that the step was taken, or that it could not be."""
        asking = self._asking
        if asking is not None and tag == sum_tag(asking) and self.phase is Phase.VERIFYING:
            self._summed(result, now)
            return
        if asking is None or tag != asking.name.hex() or self.phase is not Phase.APPLYING:
            return
        if isinstance(result, SiteFileError | OSError):
            # A full disk: nothing is lost by ending here. The release is asked for again, when there is room.
            raise SiteFileError(f"the model after round {asking.question.round} could not be written: {result}")
        if not isinstance(result, Applied):
            self._fail(Cause.LOCAL, f"the aggregate of round {asking.question.round} could not be applied: {result}")
            return
        self._round, self._reopened, self._why = asking.question.round, False, ""
        self._note_model(result.model, asking.contributors)
        self._memory.take_step(self._reached(result.model), asking.signed_check)
        asking.applied = result
        self._unscored = self._plan.evaluates_after(self._round - 1)
        self.move(Step.APPLIED)
        self._deadline = now + self.charter.rules.deadlines.statement + limits.ABSENCE
        self._conclude(now)

    # --- the record

    def _on_request_cosignature(self, peer: str, message: RequestCosignature, now: float) -> None:
        self._open_question(peer).take_statement(peer, message.statement)
        if self.phase in (Phase.VERIFYING, Phase.APPLYING, Phase.RELEASED):
            self._cosign(peer, message.statement)

    def _cosign(self, holder: str, statement: Signed) -> None:
        signature = self.identity.sign(Label.ROUND_STATEMENT, statement.statement)
        name = statement_digest(RoundStatement, statement)
        self.send(holder, Cosign(statement=name, cosignature=Cosignature(party=self.name, signature=signature)))

    def _on_round_record(self, peer: str, message: RoundRecord, now: float) -> None:
        asking = self._open_question(peer)
        asking.take_record(peer, message)
        self.exchange.view.cosigned(message)
        self._store.record(asking.question.round, peer, encode(message))
        self._conclude(now)

    def _conclude(self, now: float, *, late: bool = False) -> None:
        """Go on once the step is taken, and the record of each holder that takes part is here or will not come."""
        asking = self._asking
        if asking is None or asking.applied is None or self.phase is not Phase.RELEASED:
            return
        question = asking.question
        if not late and not asking.forgotten | set(asking.records) | self._spared(asking) >= set(question.present):
            return
        applied = asking.applied
        absent = {name for record in asking.records.values() for name in record.absent}
        absent |= set(question.present) - set(asking.records)
        took, cosigners = now - asking.begun, tuple(sorted(absent))
        self.tell(RoundDone(self._round, applied.contributors, applied.metrics, took, cosigners, *_of(asking.outcome)))
        if applied.score is not None:
            score = applied.score
            self.tell(Scored(self._round, self.name, score.examples, score.loss, score.accuracy, tuple(score.shares)))
        for subject in asking.outgoing:
            self.effect(Drop(subject))
        self.move(Step.ATTESTED)
        self._next(now)

    def _spared(self, asking: Asking) -> set[str]:
        """Return the holders whose record is not waited for: they are gone, and the sum did without them."""
        return set(self._lost) if self._seats.enough < len(self._holders) else set()

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


def _of(outcome: Outcome | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if outcome is None else (outcome.check.state.value, outcome.check.silent)
