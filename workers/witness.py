"""What a data owner holds holders to: every attempt it sealed a contribution for, and what they sign about it.

A receipt, an abort that lists receipts, a Close list, a round statement and its record must all be about the very
contribution that was sent, name one set, and say it to everybody. A second story about one attempt is evidence whenever
it comes. How a contribution comes to be, and gets to the holders, is in `data_owner.py`.
"""

from abc import abstractmethod
from dataclasses import dataclass, field

import msgspec

from ..crypto.identity import Identity
from ..crypto.labels import Label
from ..learning.task import Trainer
from ..protocol.charter import Charter, Role
from ..protocol.errors import DisputedContribution, GateShut, NotInCohort, SplitView, WrongOpenRound, WrongSender
from ..protocol.exchange import Exchange
from ..protocol.journal import Journal
from ..protocol.messages import (
    Abort,
    Closed,
    CloseList,
    Cosign,
    Cosignature,
    OpenRound,
    RequestCosignature,
    RoundRecord,
    RoundStatement,
)
from ..protocol.progress import Said
from ..protocol.rounds import Phase, Step
from ..protocol.session import contributor_set
from ..protocol.site import Site
from ..protocol.statements import open_signed, statement_digest
from .memory import KEPT, SentKept
from .recipient import Recipient


@dataclass
class Sent:
    """What this party holds holders to, for an attempt it sealed a contribution for: digests, no content."""

    kept: SentKept
    close: dict[str, bytes] = field(default_factory=dict)
    contributors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    statements: dict[str, bytes] = field(default_factory=dict)
    disputed: set[str] = field(default_factory=set)
    """Holders that closed with another contribution of ours than we sent, and may have believed whoever counts it."""

    @property
    def receipted(self) -> bool:
        """Whether every holder that takes part gave a receipt."""
        return set(self.kept.receipts) == set(self.kept.commitments)


class Witness(Recipient):
    """What a data owner's machine is once something was sent."""

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
        self._sent = [Sent(kept) for kept in self.memory.sent()]

    @abstractmethod
    def set_closed(self, peer: str, sent: Sent, close: CloseList, now: float) -> None:
        """Go on after a holder's Close list that we are on, of a round that is open or over."""

    # --- what was sent

    def keep_sent(self, kept: SentKept) -> None:
        """Write down what is about to be sent, and hold its holders to it from now on."""
        before = self.find_sent(kept.open_round)
        self.memory.seal_update(kept)
        if before is not None:
            before.kept = kept
            return
        # A later round's record makes an earlier one's old news; two cover a record that is late.
        rounds = sorted({kept.round, *(sent.kept.round for sent in self._sent if self._of_session(sent, kept))})[-KEPT:]
        old = [sent for sent in self._sent if not self._of_session(sent, kept) or sent.kept.round not in rounds]
        self.miss_records(old)
        self._sent = [sent for sent in self._sent if sent not in old]
        self._sent.append(Sent(kept))

    @staticmethod
    def _of_session(sent: Sent, kept: SentKept) -> bool:
        return sent.kept.session == kept.session

    def find_sent(self, open_round: bytes) -> Sent | None:
        """Return what was sent in an attempt, if anything was and it is not long past."""
        return next((sent for sent in self._sent if sent.kept.open_round == open_round), None)

    # --- what was sent, and another question

    def second_line(self, question: OpenRound) -> str | None:
        """A sum from this very model that we are in: another one may be over exactly the same set, or without us."""
        summed = self.memory.summed(question.model)
        if summed is None:
            return None
        if (summed.session, summed.round) == (question.session, question.round):
            return "this round has been closed already"
        if summed.contributors != contributor_set(question.cohort):
            return "this very model was summed over another set of contributors"
        return None

    def check_abort(self, abort: Abort) -> None:
        """An attempt that is aborted lists whose contribution had a receipt; ours must not be missing."""
        for sent in self._sent:
            kept = sent.kept
            if (kept.session, kept.round, kept.attempt) != (abort.session, abort.round, abort.attempt):
                continue
            listed = [entry.commitment for entry in abort.receipted if entry.party == self.name]
            ours = kept.commitments.get(abort.party, ())
            counted = abort.party == kept.counting and abort.party in kept.receipts
            if (counted and not listed) or set(listed) - set(ours):
                raise SplitView("aborted without the contribution it gave a receipt for", party=abort.party)

    def taken_part(self, open_round: bytes) -> bool:
        """Whether every holder that takes part has given a receipt."""
        return any(sent.kept.open_round == open_round and sent.receipted for sent in self._sent)

    # --- what holders sign afterwards

    def _remembered(self, peer: str, open_round: bytes) -> Sent:
        sent = self.find_sent(open_round)
        if sent is None:
            raise WrongOpenRound("speaks of a round this party took no part in", party=peer)
        return sent

    def miss_records(self, attempts: list[Sent]) -> None:
        """Say which receipted contributions never came back in a record: a list we alone were shown looks like that."""
        for sent in attempts:
            holders = set(self._seats.workers) & set(sent.kept.commitments)
            silent = sorted(holders - set(sent.kept.recorded)) if sent.receipted else []
            last = not any(other.kept.attempt > sent.kept.attempt for other in attempts if _same_round(other, sent))
            if silent and last:
                text = f"no record of our contribution from {', '.join(silent)}; it may not be in the sum"
                self.tell(Said(text=f"round {sent.kept.round}: {text}", warning=True))

    def _on_closed(self, peer: str, message: Closed, now: float) -> None:
        close = open_signed(self.charter, message.close, CloseList, Role.SECURE_WORKER)
        if close.holder != peer or message.close.signer != peer:
            raise WrongSender("passes on somebody else's Close list", party=peer)
        ours = [entry.commitment for entry in close.contributions if entry.party == self.name]
        current = self.asked if self.asked is not None and self.asked.open_round == close.open_round else None
        sent = self.find_sent(close.open_round)
        if sent is None:
            answer = self.memory.answer
            if current is None and (answer is None or answer.open_round != close.open_round):
                # Of an attempt that long past nothing is kept: whoever could delay its release would frame the holder.
                raise WrongOpenRound("speaks of a round this party took no part in, or long past", party=peer)
            if ours:
                raise SplitView("closed with a contribution that was not sent", party=peer)
            if current is not None:
                self.give_up(f"{peer} closed without us")
            return
        if peer not in sent.kept.commitments:
            raise WrongSender("closes an attempt that does without it", party=peer)
        counting = sent.kept.counting
        sent_it = bool(ours) and ours[0] in sent.kept.commitments.get(counting, ())
        if peer == counting and peer in sent.kept.receipts and not sent_it:
            raise SplitView("receipted our contribution and closed without it", party=peer)
        if not ours:
            if current is not None:
                self.give_up(f"{peer} closed without us")
            return
        if not sent_it:
            if peer != counting:
                # What others count it knows from their signed lists alone, and cannot compare with what we sent.
                sent.disputed.add(peer)
                raise DisputedContribution(f"closed with another contribution of ours to {counting}", party=peer)
            raise SplitView("closed with a contribution that was not sent", party=peer)
        self._take_close(peer, sent, close, statement_digest(CloseList, message.close))
        self.set_closed(peer, sent, close, now)

    def _take_close(self, peer: str, sent: Sent, close: CloseList, name: bytes) -> None:
        """Check a list that we are on, of a round that is open or over: a second list is evidence whenever it comes."""
        minimum = self.charter.rules.minimum_cohort
        if len(close.contributors) < minimum or set(close.contributors) - set(sent.kept.cohort):
            raise NotInCohort("closed over a set the question does not allow", party=peer)
        if sent.close.get(peer, name) != name:
            raise SplitView("closed one round over two contributor sets", party=peer)
        summed = self.memory.summed(sent.kept.model)
        if summed is not None and summed.contributors != contributor_set(close.contributors):
            raise GateShut("closed over another set than a sum from this very model was made over", party=peer)
        if summed is None:
            self.memory.close_set(sent.kept, close.contributors)
        sent.close[peer] = name
        sent.contributors[peer] = close.contributors

    def _on_request_cosignature(self, peer: str, message: RequestCosignature, now: float) -> None:
        statement = open_signed(self.charter, message.statement, RoundStatement, Role.SECURE_WORKER)
        if statement.holder != peer or message.statement.signer != peer:
            raise WrongSender("asks to cosign somebody else's statement", party=peer)
        sent = self._remembered(peer, statement.open_round)
        self._undisputed(sent, peer)
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
        asked = sent.statements.get(peer)
        self._undisputed(sent, peer)
        if asked is None and not self._was_summed(sent, statement.contributors):
            raise SplitView("records an outcome that it never asked us to sign", party=peer)
        if asked is not None and asked != statement_digest(RoundStatement, message.statement):
            raise SplitView("records another outcome than it asked us to sign", party=peer)
        if peer not in sent.kept.recorded:
            sent.kept = msgspec.structs.replace(sent.kept, recorded=(*sent.kept.recorded, peer))
            self.memory.take_record(sent.kept)
        if self.asked is not None and self.asked.open_round == statement.open_round and self.phase is Phase.CLOSED:
            self.asked.key.erase()
            self._over = self.asked.open_round
            self.asked = None
            self.move(Step.ATTESTED)

    @staticmethod
    def _undisputed(sent: Sent, peer: str) -> None:
        """Accuse nobody of stating what we did not take: what was wrong with it has been said of the Close list."""
        if peer in sent.disputed:
            raise DisputedContribution("goes on with another contribution of ours than we sent", party=peer)

    def _was_summed(self, sent: Sent, contributors: tuple[str, ...]) -> bool:
        """Whether an earlier process of ours wrote down this set, as it does before it signs the statement."""
        summed = self.memory.summed(sent.kept.model)
        return summed is not None and summed.contributors == contributor_set(contributors)


def _same_round(one: Sent, other: Sent) -> bool:
    return (one.kept.session, one.kept.round) == (other.kept.session, other.kept.round)
