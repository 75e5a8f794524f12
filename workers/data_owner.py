"""The data owner: trains a copy of the model on data that stays here, and sends one sealed contribution.

It follows `rounds.DATA_OWNER`. An invitation and the model are admitted in `recipient.py`; this file is what comes
after: training, encoding, sealing one share a holder, uploading when every holder has granted a slot, and holding what
holders sign afterwards (receipt, Close list, round statement) against what was sent.

Nothing is sent in clear, nothing is sent twice, and what trained or what was refused and why stays on this machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from ..crypto.errors import Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Buffer, Label, digest
from ..crypto.ring import Words, to_wire
from ..crypto.sealing import new_salt
from ..crypto.sharing.wire import share_sections
from ..learning.task import LocalUpdate, Trainer
from ..protocol.charter import Charter, Role
from ..protocol.check_messages import Challenge, Checked, MaskKeys, MaskSeeds
from ..protocol.errors import (
    IllegalMessage,
    PeerLost,
    TooLate,
    WrongAttempt,
    WrongOpenRound,
    WrongSender,
)
from ..protocol.exchange import Exchange, Outgoing
from ..protocol.journal import Journal
from ..protocol.ledger import Act, DataClass
from ..protocol.machine import Dial, Drop, Provide, Work
from ..protocol.messages import (
    Closed,
    CloseList,
    Grant,
    Message,
    OpenRound,
    Purpose,
    Ready,
    Receipt,
    Receipted,
    Refusal,
    RequestCosignature,
    RoundRecord,
    Signed,
    share_list,
)
from ..protocol.progress import RoundClosed, Said, ScoredOwn, TrainedLocally
from ..protocol.rounds import Phase, Step
from ..protocol.session import question_digest
from ..protocol.site import Site
from ..protocol.statements import open_signed
from ..protocol.training import Layout, Score, WeightRule
from ..protocol.vector import encode_vector
from .answering import AnsweringOwner
from .memory import SentKept
from .recipient import Asked
from .witness import Sent

RETRY = 1.0
"""Seconds before an upload that broke off is announced again."""
_OF_ANOTHER_ATTEMPT = (TooLate.code, WrongAttempt.code)


@dataclass
class _Upload:
    """One share on its way to one holder."""

    holder: str
    outgoing: Outgoing
    counting: bool
    """Whether this holder counts the contribution: its share goes last, with the others' receipts."""
    listed: bytes
    """`share_list` of the shares this one was sealed with."""
    grant: Grant | None = None
    receipted: bool = False
    retry_at: float | None = None


@dataclass(frozen=True)
class _Vector:
    """An encoded vector, until its round is over: another attempt takes the same one."""

    question: bytes
    words: Words = field(repr=False)
    salt: bytes
    digest: bytes


@dataclass(frozen=True)
class _Trained:
    words: Words = field(repr=False)
    update: LocalUpdate = field(repr=False)
    round: int
    seconds: float
    own: Score | str | None = field(repr=False)
    """How the model does that was trained, or why that is not known; None where nobody asked."""


class DataOwner(AnsweringOwner):
    """The machine of a data owner."""

    role: ClassVar[Role] = Role.DATA_OWNER
    purpose = Purpose.TRAIN

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        exchange: Exchange,
        journal: Journal,
        site: Site,
        trainers: dict[str, Trainer],
    ) -> None:
        super().__init__(identity, charter, exchange, journal, site, trainers)
        self._holding = (Role.SECURE_WORKER, *([Role.MODEL_OWNER] if self._seats.owner is not None else []))
        self._uploads: dict[str, _Upload] = {}
        self._training: bytes | None = None
        """The question the job under way trains for, whichever attempt wants its result."""
        self._vector: _Vector | None = None

    @property
    def essential(self) -> tuple[str, ...]:
        """The model owner and every secure worker; of those, `_without` spares what a quorum can."""
        return (self.owner, *self._seats.workers)

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a data owner can be sent."""
        return {
            **super().handlers(),
            Receipted: self._on_receipted,
            Closed: self._on_closed,
            RequestCosignature: self._on_request_cosignature,
            RoundRecord: self._on_round_record,
            MaskKeys: self._on_mask_keys,
            MaskSeeds: self._on_mask_seeds,
            Challenge: self._on_challenge,
            Checked: self._on_checked,
        }

    def peer_up(self, peer: str, now: float) -> None:
        """Announce again an upload that the lost connection broke off."""
        super().peer_up(peer, now)
        upload = self._uploads.get(peer)
        if upload is not None and self.phase is Phase.UPLOADING and not upload.receipted:
            self._announce(upload)

    # --- an invitation

    def holders_of(self, sent: SentKept) -> tuple[str, ...]:
        """Return the secure workers that got a share of a contribution, in the charter's order."""
        return tuple(name for name in self._seats.workers if name in sent.commitments)

    def asked_anew(self) -> None:
        """Answer no more for the sum of the round before."""
        self.stop_answering()

    def resume(self, asked: Asked, now: float) -> bool:
        """Take the vector of the attempt before, or wait for the training that is under way for it."""
        question = question_digest(asked.question)
        if self._vector is not None and self._vector.question == question:
            asked.deadline = now + self.charter.rules.deadlines.upload
            self._seal(asked, self._vector)
            return True
        self._vector = None
        if self._training == question:
            asked.deadline = now + self.charter.rules.deadlines.upload
            self.move(Step.RESUMED)
            return True
        return False

    # --- training

    def model_arrived(self, asked: Asked, now: float) -> None:
        """Train, off the event loop."""
        question, layout, model = asked.question, asked.layout, asked.model
        if layout is None or model is None:
            raise IllegalMessage("no model", party=self.owner)
        asked.deadline = now + self.charter.rules.deadlines.upload
        trainer = self.trainers[question.training.task]
        stream = digest(
            Label.BATCH_ORDER,
            question.training.seed.to_bytes(8, "big"),
            question.round.to_bytes(8, "big"),
            self.name.encode(),
        )
        self._training = question_digest(question)
        entry = self.site.tasks.get(question.training.task)
        score = entry is not None and question.round in entry.evaluate_own_rounds
        self.effect(Work(self._training.hex(), lambda: _train(trainer, question, layout, model, stream, score=score)))

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Seal what was trained, or decline; or answer a challenge."""
        if self._fingerprinted(tag, result):
            return
        if self._training is None or self._training.hex() != tag:
            return
        trained, self._training = self._training, None
        asked = self.asked if self.phase is Phase.TRAINING else None
        if isinstance(result, _Trained):
            salt = new_salt()
            words = result.words
            self._vector = _Vector(trained, words, salt, digest(Label.VECTOR, salt, to_wire(words)))
            model = (Act.OPENED, DataClass.MODEL, ())
            self.exchange.view.derived(
                DataClass.UPDATE,
                (self.name,),
                sources=(model,),
                payload=words.nbytes,
                commitment=self._vector.digest,
            )
            self._tell_own(result)
        if asked is None or question_digest(asked.question) != trained:
            return  # between two attempts, or for a round that is over
        if not isinstance(result, _Trained) or self._vector is None:
            # Why training failed depends on the data: it is for this site's operator alone.
            reason = "no examples, so no weight" if result is None else str(result)
            self.tell(Said(text=f"round {asked.question.round}: declined: {reason}", warning=result is not None))
            self.decline(asked, reason)
            self.give_up(None)
            return
        question, update = asked.question, result.update
        figures = dict(zip(question.training.metrics, update.metrics, strict=True))
        self.tell(TrainedLocally(question.round, update.examples, figures, result.seconds))
        self._seal(asked, self._vector)

    def _tell_own(self, trained: _Trained) -> None:
        """Show our operator how our own model does, or why that is not known; nobody else learns either."""
        own, number = trained.own, trained.round
        if isinstance(own, Score):
            self.tell(ScoredOwn(number, own.examples, own.loss, own.accuracy, tuple(own.shares)))
        elif own is not None:
            self.tell(Said(text=f"round {number}: own model not scored: {own}", warning=True))

    def _seal(self, asked: Asked, vector: _Vector) -> None:
        """Seal one share a holder, fresh; the vector is the one of every attempt at this round."""
        question = asked.question
        earlier = [sent for sent in self._sent if sent.kept.question == vector.question]
        if self.find_sent(asked.open_round) is not None and self._seats.before(question, self.name):
            # Some holders may have shares of the first split; with shares of another they would sum up to noise.
            self.tell(Said(text=f"round {question.round}: declined: restarted while it sent its shares", warning=True))
            self.decline(asked, "this party was restarted while it sent its shares")
            self.give_up(None)
            return
        if any(digest(Label.VECTOR, sent.kept.salt, to_wire(vector.words)) != sent.kept.vector for sent in earlier):
            # Two vectors of one party for one model: their difference would be more than one contribution says.
            self.tell(Said(text=f"round {question.round}: declined: training came out otherwise", warning=True))
            self.decline(asked, "training came out otherwise than before this party was restarted")
            self.give_up(None)
            return
        seats, turn = self._seats, self._seats.turn(question, self.name)
        dealt = seats.scheme.dealer(question.plan, question.words).split(vector.words, turn)
        shares = dict(zip(seats.holders, dealt, strict=True))
        keys, counting = {self.owner: question.owner_key, **asked.holder_keys}, seats.counting(question, self.name)
        exchange, label, context = self.exchange, Label.CONTRIBUTION, asked.context
        parts = {
            holder: share_sections(shares[holder]) if holder in shares else []
            for holder in seats.recipients(question, self.name)
        }
        committed = {
            holder: exchange.commit(label, context, holder, keys[holder], part) for holder, part in parts.items()
        }
        listed = [each.commitment for each in committed.values()]
        for holder, part in parts.items():
            outgoing = exchange.seal(
                label,
                context,
                holder,
                keys[holder],
                part,
                committed=committed[holder],
                shares=listed,
                content=seats.content(question, self.name, holder),
            )
            self._uploads[holder] = _Upload(holder, outgoing, holder == counting, share_list(listed))
        self._remember_sent(asked, vector)
        self.move(Step.TRAINED)
        self._announce_those_due()

    def _remember_sent(self, asked: Asked, vector: _Vector) -> None:
        question, before = asked.question, self.find_sent(asked.open_round)
        earlier = before.kept.commitments if before is not None else {}
        commitments = {
            holder: (*earlier.get(holder, ()), upload.outgoing.commitment) for holder, upload in self._uploads.items()
        }
        kept = SentKept(
            session=question.session,
            round=question.round,
            attempt=question.attempt,
            open_round=asked.open_round,
            question=vector.question,
            model=question.model,
            cohort=question.cohort,
            salt=vector.salt,
            vector=vector.digest,
            counting=self._seats.counting(question, self.name),
            commitments=commitments,
            receipts=before.kept.receipts if before is not None else {},
        )
        self.keep_sent(kept)

    # --- uploading

    def _announce_those_due(self) -> None:
        """Announce the shares that go first; once all of those have their receipts, the one that is counted."""
        first = [upload for upload in self._uploads.values() if not upload.counting and not upload.receipted]
        for upload in first or [upload for upload in self._uploads.values() if upload.counting]:
            self._announce(upload)

    def _announce(self, upload: _Upload) -> None:
        upload.grant, upload.retry_at = None, None
        receipts: tuple[Signed, ...] = ()
        if upload.counting and self.asked is not None:
            sent = self.find_sent(self.asked.open_round)
            others = self._seats.before(self.asked.question, self.name)
            if sent is None or not all(name in sent.kept.receipts for name in others):
                return  # its turn comes with the last of the others' receipts
            receipts = tuple(sent.kept.receipts[name] for name in others)
        self.send(upload.holder, Ready(head=upload.outgoing.head, receipts=receipts))

    def on_grant(self, peer: str, message: Grant, now: float) -> None:
        """Start uploading once every holder whose turn it is has granted a slot: none is kept waiting by another."""
        if self.phase is not Phase.UPLOADING:
            super().on_grant(peer, message, now)
            return
        upload = self._uploads.get(peer)
        if upload is None or message.ticket.subject != upload.outgoing.subject:
            raise IllegalMessage("grants a transfer that was not announced", party=peer)
        upload.grant = message
        due = [each for each in self._uploads.values() if each.counting is upload.counting]
        if all(each.grant is not None or each.receipted for each in due):
            for each in due:
                if each.grant is not None and not each.receipted:
                    self.effect(Provide(each.holder, each.outgoing))
                    self.effect(Dial(each.holder, each.grant.ticket))

    def transfer_failed(self, peer: str, subject: bytes, error: Misbehaviour, now: float) -> None:
        """Announce an upload that broke off again, a little later."""
        upload = self._uploads.get(peer)
        if upload is not None and upload.outgoing.subject == subject:
            if self.phase is Phase.UPLOADING and not upload.receipted and isinstance(error, PeerLost):
                upload.retry_at = now + RETRY
            return
        super().transfer_failed(peer, subject, error, now)

    def on_refusal(self, peer: str, message: Refusal, now: float) -> None:
        """A holder that refuses the upload for good ends the round for us; anything else is only said."""
        super().on_refusal(peer, message, now)
        upload = self._uploads.get(peer)
        if message.code in _OF_ANOTHER_ATTEMPT:
            # It was restarted, or has closed: what it says next, or what the model owner asks next, decides.
            return
        if upload is not None and self.asked is not None and message.about == upload.outgoing.subject:
            # Said to all, so that nobody waits until the deadline for what will not come.
            self.decline(self.asked, message.code)
            self.give_up(f"{peer} refused the contribution ({message.code})")

    def _on_receipted(self, peer: str, message: Receipted, now: float) -> None:
        receipt = open_signed(self.charter, message.receipt, Receipt, *self._holding)
        upload = self._uploads.get(peer)
        sent = self.find_sent(receipt.open_round)
        if upload is None or self.asked is None:
            raise IllegalMessage("receipts what was not sent", party=peer)
        if receipt.holder != peer or message.receipt.signer != peer or receipt.contributor != self.name:
            raise WrongSender("sends a receipt that is not its own, or not ours", party=peer)
        current = (upload.outgoing.subject, upload.outgoing.commitment)
        if sent is None or receipt.open_round != self.asked.open_round:
            raise WrongOpenRound("receipts something else than was sent", party=peer)
        # One that was sealed before a restart may be the one that is in the total; its header is not remembered.
        earlier = receipt.commitment != current[1] and receipt.commitment in sent.kept.commitments[peer]
        if not earlier and (receipt.header, receipt.commitment) != current:
            raise WrongOpenRound("receipts something else than was sent", party=peer)
        # Sealed before a restart it was the only share: with several holders, this party would have declined.
        if receipt.shares != (share_list([receipt.commitment]) if earlier else upload.listed):
            raise WrongOpenRound("receipts something else than was sent", party=peer)
        sent.kept = msgspec.structs.replace(sent.kept, receipts={**sent.kept.receipts, peer: message.receipt})
        self.memory.take_receipt(sent.kept)
        self._receipted(self.asked, upload, now)

    def _receipted(self, asked: Asked, upload: _Upload, now: float) -> None:
        if upload.receipted:
            return
        upload.receipted = True
        self.effect(Drop(upload.outgoing.subject))
        if not upload.counting:
            if all(each.receipted for each in self._uploads.values() if not each.counting):
                self._announce_those_due()
        elif all(each.receipted for each in self._uploads.values()):
            deadlines = self.charter.rules.deadlines
            # The holders wait for others until their own deadline, which began when they offered a key, before us.
            asked.deadline = now + deadlines.join + deadlines.upload + deadlines.close
            # The shares have left; the vector stays until the set is closed, for another attempt.
            self._uploads.clear()
            asked.model = None
            self.move(Step.RECEIPTED)

    def finish(self, error: str | None = None) -> None:
        """End; a contribution that no record names is said before."""
        if not self.finished:
            self.miss_records(self._sent)
            self._vector = None
            self.stop_answering()
        super().finish(error)

    # --- what follows from a Close list

    def set_closed(self, peer: str, sent: Sent, close: CloseList, now: float) -> None:
        """Keep the vector for the check of the sum alone, and wait for what is made of the set."""
        vector, known = self._vector, len(sent.close) >= self._seats.quorum
        if known and vector is not None and vector.question == sent.kept.question:
            self._vector = None  # there is no other attempt at a round that is closed
            self.begin_answering(sent, close, vector.words)
        current = self.asked
        if current is None or current.open_round != close.open_round:
            return
        upload = self._uploads.get(peer)
        if upload is not None and upload.counting and not upload.receipted:
            # The receipt was lost with a connection. The list says the same, signed, and to everybody.
            self._receipted(current, upload, now)
        deadlines = self.charter.rules.deadlines
        current.deadline = now + deadlines.release + deadlines.statement
        if self.phase is Phase.CONTRIBUTED and len(sent.close) >= self._seats.quorum:
            self.tell(RoundClosed(sent.kept.round, close.contributors, close.declined, close.missing))
            self.move(Step.SET_CLOSED)

    # --- ends

    def set_aside(self) -> None:
        """Drop what was to be uploaded."""
        for upload in self._uploads.values():
            self.effect(Drop(upload.outgoing.subject))
        self._uploads.clear()

    def tick(self, now: float) -> None:
        """Announce again what broke off; then what every recipient does."""
        for upload in list(self._uploads.values()):
            if upload.retry_at is not None and now >= upload.retry_at:
                self._announce(upload)
        super().tick(now)

    def next_deadline(self) -> float | None:
        """Return when `tick` has something to do."""
        waits = [upload.retry_at for upload in self._uploads.values() if upload.retry_at is not None]
        other = super().next_deadline()
        if other is not None:
            waits.append(other)
        return min(waits, default=None)


def _train(
    trainer: Trainer, question: OpenRound, layout: Layout, model: Buffer, stream: bytes, *, score: bool
) -> _Trained | None:
    """Run on the work thread: train and encode, then `score`; None where there is nothing to contribute."""
    begun = time.monotonic()
    update = trainer.train(layout, model, question.training, stream)
    if update.examples == 0:
        return None
    weight = update.examples if question.weight_rule is WeightRule.EXAMPLES else 1
    words = encode_vector(question, layout, update.values, weight, update.metrics)
    seconds = time.monotonic() - begun
    # Here and not after the update is sent: a check of the sum that came meanwhile would have to wait for it.
    own = _score_own(trainer, question, layout, model, update) if score else None
    return _Trained(words, update, question.round, seconds, own)


def _score_own(
    trainer: Trainer, question: OpenRound, layout: Layout, model: Buffer, update: LocalUpdate
) -> Score | str:
    """Return the score of our own model, or why there is none: whatever happens, the contribution is made."""
    try:
        return trainer.evaluate_own(layout, model, question.kind, update.values)
    except Exception as error:  # the site's own class may fail in any way
        return str(error) or type(error).__name__
