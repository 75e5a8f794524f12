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

from ..crypto.errors import Misbehaviour
from ..crypto.identity import Identity
from ..crypto.labels import Buffer, Label, digest
from ..crypto.ring import Words, to_wire
from ..crypto.sharing import scheme
from ..crypto.sharing.base import Seed
from ..learning.task import LocalUpdate, Trainer
from ..protocol.charter import Charter, Role
from ..protocol.errors import IllegalMessage, NotInCohort, PeerLost, SplitView, WrongOpenRound, WrongSender
from ..protocol.exchange import Exchange, Outgoing
from ..protocol.machine import Dial, Drop, Provide, Work
from ..protocol.messages import (
    Closed,
    CloseList,
    Cosign,
    Cosignature,
    Decline,
    Declined,
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
    RoundStatement,
)
from ..protocol.progress import RoundClosed, Said, TrainedLocally
from ..protocol.rounds import Phase, Step
from ..protocol.site import Site
from ..protocol.statements import open_signed, sign, statement_digest
from ..protocol.training import Layout, WeightRule
from ..protocol.vector import encode_vector
from .recipient import Asked, Recipient

RETRY = 1.0
"""Seconds before an upload that broke off is announced again."""


@dataclass
class _Upload:
    """One share on its way to one holder."""

    holder: str
    outgoing: Outgoing
    grant: Grant | None = None
    receipted: bool = False
    retry_at: float | None = None


@dataclass
class _Sent:
    """What this party remembers of a round it contributed to: digests, no content."""

    round: int
    open_round: bytes
    cohort: tuple[str, ...]
    commitments: dict[str, bytes]
    receipted: bool = False
    close: dict[str, bytes] = field(default_factory=dict)
    contributors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)
    statements: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Trained:
    words: Words = field(repr=False)
    update: LocalUpdate = field(repr=False)
    seconds: float = 0.0


class DataOwner(Recipient):
    """The machine of a data owner."""

    role: ClassVar[Role] = Role.DATA_OWNER
    purpose = Purpose.TRAIN

    def __init__(
        self, identity: Identity, charter: Charter, exchange: Exchange, site: Site, trainers: dict[str, Trainer]
    ) -> None:
        super().__init__(identity, charter, exchange, site, trainers)
        self._holders = tuple(party.name for party in charter.secure_workers)
        self._scheme = scheme(charter.rules.scheme.name)
        self._uploads: dict[str, _Upload] = {}
        self._sent: list[_Sent] = []

    @property
    def essential(self) -> tuple[str, ...]:
        """The model owner and every holder."""
        return (self.owner, *self._holders)

    def handlers(self) -> dict[type[Message], Callable[[str, Any, float], None]]:
        """Return the handler of each message a data owner can be sent."""
        return {
            **super().handlers(),
            Receipted: self._on_receipted,
            Closed: self._on_closed,
            RequestCosignature: self._on_request_cosignature,
            RoundRecord: self._on_round_record,
        }

    def peer_up(self, peer: str, now: float) -> None:
        """Announce again an upload that the lost connection broke off."""
        super().peer_up(peer, now)
        upload = self._uploads.get(peer)
        if upload is not None and self.phase is Phase.UPLOADING and not upload.receipted:
            self._announce(upload)

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
        self.effect(Work(asked.open_round.hex(), lambda: _train(trainer, question, layout, model, stream)))

    def worked(self, tag: str, result: Any, now: float) -> None:
        """Seal what was trained, or decline."""
        asked = self.asked
        if asked is None or asked.open_round.hex() != tag or self.phase is not Phase.TRAINING:
            return
        if not isinstance(result, _Trained):
            # Why training failed depends on the data: it is for this site's operator alone.
            reason = "no examples, so no weight" if result is None else str(result)
            self.tell(Said(text=f"round {asked.question.round}: declined: {reason}", warning=result is not None))
            self.decline(asked, reason)
            self.give_up(None)
            return
        question, update = asked.question, result.update
        figures = dict(zip(question.training.metrics, update.metrics, strict=True))
        self.tell(TrainedLocally(question.round, update.examples, figures, result.seconds))
        shares = self._scheme.dealer(question.plan, question.words).split(result.words)
        for holder, share in zip(self._holders, shares, strict=True):
            section = memoryview(share.seed) if isinstance(share, Seed) else to_wire(share)
            outgoing = self.exchange.seal(
                Label.CONTRIBUTION, asked.context, holder, asked.holder_keys[holder], [section]
            )
            self._uploads[holder] = _Upload(holder, outgoing)
        self._sent.append(
            _Sent(
                question.round,
                asked.open_round,
                question.cohort,
                {holder: upload.outgoing.commitment for holder, upload in self._uploads.items()},
            )
        )
        # A later round's record makes an earlier one's old news; two cover a record that is late.
        self._miss_records(self._sent[:-2])
        del self._sent[:-2]
        self.move(Step.TRAINED)
        for upload in self._uploads.values():
            self._announce(upload)

    # --- uploading

    def _announce(self, upload: _Upload) -> None:
        upload.grant, upload.retry_at = None, None
        self.send(upload.holder, Ready(head=upload.outgoing.head))

    def on_grant(self, peer: str, message: Grant, now: float) -> None:
        """Start uploading once every holder has granted a slot: none may see a first byte before all can."""
        if self.phase is not Phase.UPLOADING:
            super().on_grant(peer, message, now)
            return
        upload = self._uploads.get(peer)
        if upload is None or message.ticket.subject != upload.outgoing.subject:
            raise IllegalMessage("grants a transfer that was not announced", party=peer)
        upload.grant = message
        if all(each.grant is not None or each.receipted for each in self._uploads.values()):
            for each in self._uploads.values():
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
        if upload is not None and self.asked is not None and message.about == upload.outgoing.subject:
            # Said to all, so that nobody waits until the deadline for what will not come.
            self.decline(self.asked, message.code)
            self.give_up(f"{peer} refused the contribution ({message.code})")

    def _on_receipted(self, peer: str, message: Receipted, now: float) -> None:
        receipt = open_signed(self.charter, message.receipt, Receipt, Role.SECURE_WORKER)
        upload = self._uploads.get(peer)
        if upload is None or self.asked is None:
            raise IllegalMessage("receipts what was not sent", party=peer)
        if receipt.holder != peer or message.receipt.signer != peer or receipt.contributor != self.name:
            raise WrongSender("sends a receipt that is not its own, or not ours", party=peer)
        if (receipt.open_round, receipt.header, receipt.commitment) != (
            self.asked.open_round,
            upload.outgoing.subject,
            upload.outgoing.commitment,
        ):
            raise WrongOpenRound("receipts something else than was sent", party=peer)
        self._receipted(self.asked, upload, now)

    def _receipted(self, asked: Asked, upload: _Upload, now: float) -> None:
        upload.receipted = True
        self.effect(Drop(upload.outgoing.subject))
        if all(each.receipted for each in self._uploads.values()):
            deadlines = self.charter.rules.deadlines
            # The holders wait for others until their own deadline, which began when they offered a key, before us.
            asked.deadline = now + deadlines.join + deadlines.upload + deadlines.close
            # The update and its shares have left; nothing here needs them any more.
            self._uploads.clear()
            self._sent[-1].receipted = True
            asked.model = None
            self.move(Step.RECEIPTED)

    # --- what holders sign afterwards

    def _remembered(self, peer: str, open_round: bytes) -> _Sent:
        for sent in reversed(self._sent):
            if sent.open_round == open_round:
                return sent
        raise WrongOpenRound("speaks of a round this party took no part in", party=peer)

    def _miss_records(self, rounds: list[_Sent]) -> None:
        """Say which receipted contributions never came back in a record: a list we alone were shown looks like that."""
        for sent in rounds:
            silent = sorted(set(sent.commitments) - sent.recorded) if sent.receipted else []
            if silent:
                text = f"no record of our contribution from {', '.join(silent)}; it may not be in the sum"
                self.tell(Said(text=f"round {sent.round}: {text}", warning=True))

    def finish(self, error: str | None = None) -> None:
        """End; a contribution that no record names is said before."""
        if not self.finished:
            self._miss_records(self._sent)
        super().finish(error)

    def _on_closed(self, peer: str, message: Closed, now: float) -> None:
        close = open_signed(self.charter, message.close, CloseList, Role.SECURE_WORKER)
        if close.holder != peer or message.close.signer != peer:
            raise WrongSender("passes on somebody else's Close list", party=peer)
        ours = [entry.commitment for entry in close.contributions if entry.party == self.name]
        current = self.asked if self.asked is not None and self.asked.open_round == close.open_round else None
        upload = self._uploads.get(peer)
        if current is not None and upload is not None and ours == [upload.outgoing.commitment] and not upload.receipted:
            # The receipt was lost with a connection. The list says the same, signed, and to everybody.
            self._receipted(current, upload, now)
        if current is not None and self.phase not in (Phase.CONTRIBUTED, Phase.CLOSED):
            if ours and (upload is None or ours != [upload.outgoing.commitment]):
                raise SplitView("closed with a contribution that was not sent", party=peer)
            if not ours:
                self.give_up(f"{peer} closed without us")
            return
        if close.open_round in self._seen.values() and close.open_round not in {sent.open_round for sent in self._sent}:
            return  # declined, or given up: there is nothing of ours to hold it to
        sent = self._remembered(peer, close.open_round)
        if not sent.receipted:
            return
        # Checked for a round that is over here too: a second list is evidence whenever it comes.
        if ours != [sent.commitments[peer]]:
            raise SplitView("receipted our contribution and closed without it", party=peer)
        if len(close.contributors) < self.charter.rules.minimum_cohort or set(close.contributors) - set(sent.cohort):
            raise NotInCohort("closed over a set the question does not allow", party=peer)
        name = statement_digest(CloseList, message.close)
        if sent.close.setdefault(peer, name) != name:
            raise SplitView("closed one round over two contributor sets", party=peer)
        sent.contributors[peer] = close.contributors
        if current is None:
            return
        deadlines = self.charter.rules.deadlines
        current.deadline = now + deadlines.release + deadlines.statement
        if self.phase is Phase.CONTRIBUTED and set(sent.close) == set(self._holders):
            self.tell(RoundClosed(sent.round, close.contributors, close.declined, close.missing))
            self.move(Step.SET_CLOSED)

    def _on_request_cosignature(self, peer: str, message: RequestCosignature, now: float) -> None:
        statement = open_signed(self.charter, message.statement, RoundStatement, Role.SECURE_WORKER)
        if statement.holder != peer or message.statement.signer != peer:
            raise WrongSender("asks to cosign somebody else's statement", party=peer)
        sent = self._remembered(peer, statement.open_round)
        if statement.contributors != sent.contributors.get(peer) or sent.close.get(peer) != statement.close:
            raise SplitView("states another contributor set than it closed with", party=peer)
        name = statement_digest(RoundStatement, message.statement)
        if sent.statements.setdefault(peer, name) != name:
            raise SplitView("states two outcomes of one round", party=peer)
        signature = self.identity.sign(Label.ROUND_STATEMENT, message.statement.statement)
        self.send(peer, Cosign(statement=name, cosignature=Cosignature(party=self.name, signature=signature)))

    def _on_round_record(self, peer: str, message: RoundRecord, now: float) -> None:
        statement = open_signed(self.charter, message.statement, RoundStatement, Role.SECURE_WORKER)
        sent = self._remembered(peer, statement.open_round)
        if sent.statements.get(peer) != statement_digest(RoundStatement, message.statement):
            raise SplitView("records another outcome than it asked us to sign", party=peer)
        sent.recorded.add(peer)
        if self.asked is not None and self.asked.open_round == statement.open_round and self.phase is Phase.CLOSED:
            self.asked.key.erase()
            self.asked = None
            self.move(Step.ATTESTED)

    # --- ends

    def decline(self, asked: Asked, reason: str) -> None:
        """Tell owner and holders that this party is not in the sum, and nothing else."""
        self._refusals += 1  # whatever the reason: each is one bit about a question the owner chose
        statement = sign(self.identity, Decline(open_round=asked.open_round, party=self.name))
        for peer in self.essential:
            self.send(peer, Declined(decline=statement))

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


def _train(trainer: Trainer, question: OpenRound, layout: Layout, model: Buffer, stream: bytes) -> _Trained | None:
    """Run on the work thread: train and encode; None where there is nothing to contribute."""
    begun = time.monotonic()
    update = trainer.train(layout, model, question.training, stream)
    if update.examples == 0:
        return None
    weight = update.examples if question.weight_rule is WeightRule.EXAMPLES else 1
    words = encode_vector(question, layout, update.values, weight, update.metrics)
    return _Trained(words, update, time.monotonic() - begun)
