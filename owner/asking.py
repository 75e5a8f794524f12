"""One question while it is open: what may be said about it, by whom, and what has been said so far.

Everything in here is check, then record; nothing is sent. A method raises the named error of the first check that
fails and then has changed nothing. The order of things, time, and what follows from an answer are in `machine.py`.
"""

from dataclasses import dataclass, field

from ..crypto.errors import BadBody, Misbehaviour
from ..crypto.identity import verify
from ..crypto.labels import Label
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey, check_public_key
from ..crypto.sharing.wire import total_from_section
from ..protocol.charter import Charter, Role
from ..protocol.check_messages import Checked, SumCheck
from ..protocol.codec import decode_as
from ..protocol.context import RoundContext
from ..protocol.errors import IllegalMessage, NotInCohort, PeerLost, SplitView, WrongOpenRound, WrongSender
from ..protocol.exchange import Broadcast, Exchange, Incoming, Outgoing
from ..protocol.intake import Intake
from ..protocol.messages import (
    CloseList,
    Decline,
    Evaluation,
    Header,
    HolderList,
    OpenRound,
    RoundKeyStatement,
    RoundRecord,
    RoundStatement,
    SealedHead,
    Signed,
    close_over,
)
from ..protocol.seats import Seats
from ..protocol.session import check_offer
from ..protocol.statements import open_signed, statement_digest
from ..protocol.training import Score
from .verification import Verification


@dataclass(frozen=True)
class Applied:
    """What the work thread says about a step that was taken."""

    contributors: int
    metrics: dict[str, float]
    score: Score | None
    model: bytes
    """Digest of the model after it."""


@dataclass(frozen=True)
class Outcome:
    """What came of checking a sum, and how everybody was told."""

    check: SumCheck
    message: Checked


@dataclass
class Asking:
    """A round, or an evaluation, that is being asked."""

    charter: Charter
    seats: Seats
    exchange: Exchange
    question: OpenRound
    signed: Signed
    name: bytes
    key: RoundKey
    context: RoundContext
    model: Broadcast
    begun: float
    offers: dict[str, Signed] = field(default_factory=dict)
    accepted: dict[str, bytes] = field(default_factory=dict)
    """The key each recipient accepted with."""
    renewable: set[str] = field(default_factory=set)
    """Who has come back since it accepted, perhaps as a new process that lost its key, and may give another."""
    outgoing: dict[bytes, tuple[str, Outgoing]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    """Evaluators that scored, data owners that declined."""
    closes: dict[str, tuple[bytes, CloseList]] = field(default_factory=dict)
    """By holder: the digest of its signed Close list, and the list."""
    signed_closes: dict[str, Signed] = field(default_factory=dict)
    heads: dict[str, SealedHead] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)
    releases: dict[str, Incoming] = field(default_factory=dict)
    fetching: set[str] = field(default_factory=set)
    """Holders whose total was asked for over the connection that is up now."""
    totals: dict[int, Words] = field(default_factory=dict, repr=False)
    """By the scheme's number of the holder."""
    opened: set[str] = field(default_factory=set)
    """Holders whose release is open, an empty one too."""
    failed: set[str] = field(default_factory=set)
    """Holders whose total does not come, or does not open, though they signed the set."""
    summed: bool = False
    """Whether there are enough totals, and no other is opened."""
    lists: dict[str, Signed] = field(default_factory=dict)
    """By holder, where there are several: what it counted."""
    statements: dict[str, Signed] = field(default_factory=dict)
    records: dict[str, RoundRecord] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    """Holders that know nothing of this session any more: no record comes from them."""
    intake: Intake | None = None
    """Where we are a holder: the shares of the closed set."""
    verification: Verification | None = None
    """The check of the sum, from the closed set to its outcome."""
    outcome: Outcome | None = None
    applied: Applied | None = None

    @property
    def signed_check(self) -> Signed | None:
        """What came of checking the sum, signed, as journals keep it."""
        return None if self.outcome is None else self.outcome.message.check

    # --- before the set is closed

    def take_offer(self, peer: str, signed: Signed) -> bool:
        """Take a holder's key; True once all that take part have offered one."""
        check_offer(self.charter, self.question, self.name, peer, signed)
        if self.offers.get(peer, signed) != signed:
            raise SplitView("offers two keys for one question", party=peer)
        self.offers[peer] = signed
        return set(self.offers) == set(self.question.present)

    def address(self, peer: str, signed: Signed) -> tuple[Outgoing, list[bytes]]:
        """Take the key of somebody who accepts; return the model, addressed to it, and the envelopes it replaces."""
        said = open_signed(self.charter, signed, RoundKeyStatement, Role.DATA_OWNER, Role.EVALUATOR)
        if said.party != peer or signed.signer != peer:
            raise WrongSender("accepts for somebody else", party=peer)
        if said.open_round != self.name:
            raise WrongOpenRound("accepts another question", party=peer)
        if peer not in self.question.cohort:
            raise NotInCohort("was not asked", party=peer)
        replaced: list[bytes] = []
        if self.accepted.get(peer, said.key) != said.key:
            if peer not in self.renewable:
                # Each key would be one more envelope to keep and one more ticket to grant.
                raise SplitView("accepts one question with two keys", party=peer)
            check_public_key(said.key, party=peer)
            replaced = [subject for subject, (recipient, _) in self.outgoing.items() if recipient == peer]
            for subject in replaced:
                del self.outgoing[subject]
        self.renewable.discard(peer)
        known = [outgoing for recipient, outgoing in self.outgoing.values() if recipient == peer]
        if known:
            return known[0], replaced
        check_public_key(said.key, party=peer)
        self.accepted[peer] = said.key
        outgoing = self.model.address(peer, said.key)
        self.outgoing[outgoing.subject] = (peer, outgoing)
        return outgoing, replaced

    def body_for(self, peer: str, subject: bytes) -> Outgoing:
        """Return the envelope of this subject, if it is addressed to `peer`."""
        recipient, outgoing = self.outgoing.get(subject, ("", None))
        if outgoing is None or recipient != peer:
            raise IllegalMessage("asks for a body that is not addressed to it", party=peer)
        return outgoing

    def take_decline(self, peer: str, signed: Signed) -> None:
        """Note that a data owner takes no part."""
        decline = open_signed(self.charter, signed, Decline, Role.DATA_OWNER, Role.EVALUATOR)
        if decline.party != peer or signed.signer != peer or decline.open_round != self.name:
            raise WrongOpenRound("declines another question, or for somebody else", party=peer)
        self.answered.add(peer)

    # --- the sum

    def take_list(self, peer: str, signed: Signed) -> tuple[Signed, ...] | None:
        """Take what a holder counted; return the lists of all that take part, in the charter's order, once here."""
        said = open_signed(self.charter, signed, HolderList, Role.SECURE_WORKER)
        if said.holder != peer or signed.signer != peer or said.open_round != self.name:
            raise WrongOpenRound("lists the contributions to another question", party=peer)
        self._takes_part(peer)
        if self.lists.setdefault(peer, signed) != signed:
            raise SplitView("lists two sets of contributions to one question", party=peer)
        whole = set(self.lists) == set(self.question.present)
        return tuple(self.lists[name] for name in self.question.present) if whole else None

    def take_close(self, peer: str, signed: Signed) -> CloseList | None:
        """Take a holder's Close list; return it once as many have closed as the scheme needs."""
        close = open_signed(self.charter, signed, CloseList, Role.SECURE_WORKER)
        if close.holder != peer or signed.signer != peer or close.open_round != self.name:
            raise WrongOpenRound("closes another question", party=peer)
        self._takes_part(peer)
        strangers = set(close.contributors) - set(self.question.cohort)
        if strangers or len(close.contributions) < self.charter.rules.minimum_cohort:
            raise NotInCohort("closed over a set the question does not allow", party=peer)
        whole = set(self.lists) == set(
            self.question.present
        )  # not so where there is one secure worker, or after a restart
        if whole and not close.same_set(self._set_of_lists(peer)):
            # Before anything is compared with what others closed over: the first of them may be the one that lies.
            raise SplitView("closed over another set than the lists it was shown make", party=peer)
        name = statement_digest(CloseList, signed)
        if self.closes.get(peer, (name, close))[0] != name:
            raise SplitView("closed one round over two contributor sets", party=peer)
        if any(not close.same_set(other) for _, other in self.closes.values()):
            raise SplitView("closed over another set than another secure worker", party=peer)
        self.closes[peer] = (name, close)
        self.signed_closes[peer] = signed
        return close if len(self.closes) >= self.seats.quorum else None

    def _set_of_lists(self, holder: str) -> CloseList:
        lists = [decode_as(HolderList, self.lists[name].statement) for name in self.question.present]
        return close_over(lists, self.name, holder)

    def _takes_part(self, peer: str) -> None:
        if peer not in self.question.present:
            raise WrongOpenRound("speaks of an attempt that does without it", party=peer)

    @property
    def closed(self) -> tuple[str, ...]:
        """Whose signed Close lists are here, in the charter's order."""
        return tuple(name for name in self.question.present if name in self.closes)

    def take_release(self, peer: str, head: SealedHead) -> Incoming | None:
        """Take the head of a holder's aggregate; return what is ready to receive its body, None if that is here."""
        if peer in self.heads:
            if self.heads[peer] != head:
                raise SplitView("releases twice", party=peer)
            over = self.summed or peer in self.opened or peer in self.failed
            return None if over or peer in self.fetching else self.fetch(peer)
        if peer not in self.closes:
            raise IllegalMessage("releases before it closes", party=peer)
        name, close = self.closes[peer]
        sections = self.seats.total_bytes(self.question, peer)
        header = self.exchange.examine(head, Label.AGGREGATE, self.context, peer, self.key, sections)
        if header.close != name or header.contributors != len(close.contributions):
            raise SplitView("releases a sum over another set than it closed with", party=peer)
        if self.summed:
            # Late, and not needed: kept for what its sender states about it.
            self.heads[peer], self.headers[peer] = head, header
            return None
        return self._open(peer, head)

    def fetch(self, peer: str) -> Incoming:
        """Return what is ready to receive the body of a release, from its first byte."""
        return self._open(peer, self.heads[peer])

    def _open(self, peer: str, head: SealedHead) -> Incoming:
        # A wrapped key that opens nothing is refused here, and then nothing of it is kept.
        content = self.seats.total_content(self.closes[peer][1].contributors, peer)
        incoming = self.exchange.open(head, self.key, content=content)
        self.heads[peer], self.releases[peer], self.headers[peer] = head, incoming, incoming.header
        self.fetching.add(peer)
        return incoming

    def lost(self, peer: str) -> bytes | None:
        """Note that a holder's connection is gone; return the subject of the release that does not come over it."""
        if peer not in self.fetching:
            return None
        self.fetching.discard(peer)
        return self.heads[peer].subject

    def grants(self, peer: str, subject: bytes) -> None:
        """Check that a ticket is for a release that is expected."""
        release = self.releases.get(peer)
        if release is None or subject != release.subject:
            raise IllegalMessage("grants a transfer that was not asked for", party=peer)

    def may_fetch_again(self, peer: str, subject: bytes, error: Misbehaviour) -> bool | None:
        """Whether a release that broke off can be asked for again; None if `subject` is no release."""
        head = self.heads.get(peer)
        if head is None or head.subject != subject:
            return None
        return isinstance(error, PeerLost | BadBody)  # anybody on the path can spoil a record

    def take_total(self, peer: str, sections: tuple[memoryview, ...]) -> None:
        """Take a holder's opened total."""
        index, question = self.seats.index(peer), self.question
        self.opened.add(peer)
        if index is not None:
            scheme = self.seats.scheme
            self.totals[index] = total_from_section(scheme, question.plan, question.words, sections[0])

    def sum_up(self, awaited: set[str]) -> bool:
        """Whether there are enough totals and no more of those awaited to come; if so the round key is erased."""
        waits = set(self.question.present) & awaited - self.opened - self.failed
        if self.summed or waits or len(self.opened) < self.seats.enough:
            return False
        self.key.erase()
        self.summed = True
        return True

    @property
    def hopeless(self) -> bool:
        """Whether too many totals have failed for there ever to be a sum."""
        return len(set(self.question.present) - self.failed) < self.seats.enough

    @property
    def contributors(self) -> tuple[str, ...]:
        """Whose contributions the closed set has."""
        return next(iter(self.closes.values()))[1].contributors

    # --- the record

    def take_statement(self, peer: str, signed: Signed) -> None:
        """Take the statement a holder wants cosigned, if it is what it closed with and released."""
        statement = open_signed(self.charter, signed, RoundStatement, Role.SECURE_WORKER)
        if statement.holder != peer or signed.signer != peer or statement.open_round != self.name:
            raise WrongOpenRound("states the outcome of another round", party=peer)
        header, (name, close) = self.headers.get(peer), self.closes.get(peer, (b"", None))
        if header is None or close is None:
            # After our restart the question may be open again between its release and its statement, sent before.
            raise IllegalMessage("states an outcome before it releases", party=peer)
        closed, sealed = (name, close.contributors), (self.heads[peer].subject, header.commitment)
        if (statement.close, statement.contributors) != closed or (statement.release, statement.commitment) != sealed:
            raise SplitView("states another outcome than it released", party=peer)
        self.statements[peer] = signed

    def take_record(self, peer: str, record: RoundRecord) -> None:
        """Take a holder's record, if it is of that statement and every cosignature in it verifies."""
        if record.statement != self.statements.get(peer):
            raise WrongOpenRound("records another statement than it asked us to sign", party=peer)
        for cosignature in record.cosignatures:
            key = self.charter.party(cosignature.party).signing
            signed = record.statement.statement
            verify(key, Label.ROUND_STATEMENT, signed, cosignature.signature, party=peer)
        # Who cosigned and who did not must be all who were asked, or an absence could be kept quiet.
        named = sorted((*(cosignature.party for cosignature in record.cosignatures), *record.absent))
        if named != sorted((self.charter.model_owner.name, *self.closes[peer][1].contributors)):
            raise SplitView("records cosigners that are not the ones who took part", party=peer)
        self.records[peer] = record

    def take_score(self, peer: str, signed: Signed) -> Score:
        """Take an evaluator's score of the model of this question."""
        said = open_signed(self.charter, signed, Evaluation, Role.EVALUATOR)
        if said.party != peer or signed.signer != peer or said.open_round != self.name:
            raise WrongOpenRound("scores another model", party=peer)
        if peer in self.answered:
            raise SplitView("scores one model twice", party=peer)
        self.answered.add(peer)
        return said.score
