"""Invariants about rounds: one question, one contributor set, one release, one exact sum, one step of the model.

What one secure worker must not do, an honest one must not do beside a liar either: only what several have to come to
together is asked of honest ones alone.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..crypto.ring import from_wire
from ..protocol import limits
from ..protocol.charter import Mode
from ..protocol.codec import decode_as
from ..protocol.lanes.memory_lanes import Delivery
from ..protocol.messages import (
    Abort,
    Closed,
    CloseList,
    Cosign,
    Header,
    Message,
    OfferRound,
    OpenRound,
    Purpose,
    Receipt,
    Receipted,
    Release,
    RequestCosignature,
    RoundOffer,
    RoundStatement,
    SealedHead,
    Signed,
)
from ..protocol.session import question_digest
from ..protocol.statements import statement_digest
from ..protocol.training import model_digest
from ..protocol.vector import decode_vector
from .federation import OWNER

if TYPE_CHECKING:
    from .world import World
from .invariant import Invariant


class OneReleaseASlot(Invariant):
    """For each session and round a secure worker releases once, in one attempt; sent again, it is the same bytes."""

    why = "two sums of one round differ by somebody's update"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._heads: dict[tuple[str, bytes, int], SealedHead] = {}
        self._bodies: dict[bytes, dict[int, bytes]] = {}
        self._at: dict[Any, int] = {}

    def said(self, name: str, peer: str, message: Message) -> None:
        """Compare each release with the first of its slot."""
        if isinstance(message, Release) and name in self.world.workers:
            header = decode_as(Header, message.head.header)
            slot = (name, header.session, header.round)
            if self._heads.setdefault(slot, message.head) != message.head:
                self.broken(f"round {header.round} is released twice, and not with the same bytes")
            self._bodies.setdefault(message.head.subject, {})
            if peer != OWNER:
                self.broken(f"a release is sent to {peer}")

    def carried(self, delivery: Delivery) -> None:
        """Compare each record of a released body with the first time it was sent."""
        wire = delivery.wire
        if wire.subject in self._bodies and delivery.source in self.world.workers and delivery.end is None:
            at = self._at[wire] = self._at.get(wire, -1) + 1
            data = bytes(delivery.data)
            if self._bodies[wire.subject].setdefault(at, data) != data:
                self.broken("the body of a release is sent again with other bytes")


class MinimumCohort(Invariant):
    """Nothing is released over fewer contributors than the charter's minimum, or over other than it says."""

    why = "a sum of few gives its parts away"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._closed: dict[bytes, CloseList] = {}

    def said(self, name: str, peer: str, message: Message) -> None:
        """Hold each release to the Close list that its header names, and that to what was added."""
        if name not in self.world.workers:
            return
        if isinstance(message, Closed):
            self._closed[statement_digest(CloseList, message.close)] = decode_as(CloseList, message.close.statement)
        elif isinstance(message, Release):
            header = decode_as(Header, message.head.header)
            close = self._closed.get(header.close or b"")
            if close is None:
                self.broken(f"round {header.round} is released over a set that was never closed")
                return
            if not header.contributors == len(close.contributors) >= self.world.scenario.minimum:
                self.broken(f"round {header.round} is released over {', '.join(close.contributors) or 'nobody'}")
            if set(close.contributors) - self.world.taken.get((close.open_round, name), set()):
                self.broken(f"round {header.round} is closed over somebody whose update was never added")


class OneContributorSet(Invariant):
    """All Close lists of a slot (an attempt, where several agree) name one set, and every honest cosigner signed it."""

    why = "whoever is told another set than was summed is deceived about who it hides among"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._sets: dict[tuple[bytes, int], CloseList] = {}
        self._signed: dict[tuple[str, bytes, int], Signed] = {}
        self._slots: dict[bytes, tuple[bytes, int]] = {}
        self._statements: dict[bytes, RoundStatement] = {}

    def applies(self) -> bool:
        """An honest secure worker; a lie of it is found by others, which tests of their own show."""
        return self.world.honest(OWNER) and self.world.honest_workers()

    def asked(self, name: bytes, question: OpenRound) -> None:
        """Remember which slot a question is of."""
        alone = len(self.world.workers) == 1
        self._slots[name] = (question.session, question.round) if alone else (name, 0)

    def said(self, name: str, peer: str, message: Message) -> None:
        """Compare lists, statements and cosignatures."""
        if isinstance(message, Closed) and name in self.world.workers:
            close = decode_as(CloseList, message.close.statement)
            slot = self._slots.get(close.open_round)
            if slot is None or self._signed.setdefault((name, *slot), message.close) != message.close:
                self.broken(f"{peer} is sent another Close list than others, or of no question")
            elif not self._sets.setdefault(slot, close).same_set(close):
                self.broken(f"{name} closes over another set than another secure worker")
        elif isinstance(message, RequestCosignature) and name in self.world.workers:
            statement = decode_as(RoundStatement, message.statement.statement)
            self._statements[statement_digest(RoundStatement, message.statement)] = statement
        elif isinstance(message, Cosign):
            known = self._statements.get(message.statement)
            closed = None if known is None else self._sets.get(self._slots.get(known.open_round, (b"", 0)))
            if known is None or closed is None:
                self.broken(f"{name} cosigns what nobody asked for")
            elif closed.contributors != known.contributors:
                self.broken(f"{name} cosigns another contributor set than was closed")


class ReceiptMeansCounted(Invariant):
    """Who holds a receipt of whoever counts it, of the attempt that was released, is in its sum."""

    why = "a receipt is a promise; dropping a receipted contribution must not be possible in silence"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._receipted: dict[bytes, dict[str, bytes]] = {}

    def said(self, name: str, peer: str, message: Message) -> None:
        """Compare receipts with the Close list of the same question."""
        if name not in self.world.workers:
            return
        if isinstance(message, Receipted):
            receipt = decode_as(Receipt, message.receipt.statement)
            question = self.world.admitted.get(receipt.open_round)
            if question is None or self.world.seats.counting(question, receipt.contributor) == name:
                self._receipted.setdefault(receipt.open_round, {})[receipt.contributor] = receipt.commitment
            if peer != receipt.contributor:
                self.broken(f"the receipt of {receipt.contributor} is sent to {peer}")
        elif isinstance(message, Closed):
            close = decode_as(CloseList, message.close.statement)
            listed = {each.party: each.commitment for each in close.contributions}
            for party, commitment in self._receipted.get(close.open_round, {}).items():
                if listed.get(party) != commitment:
                    self.broken(f"{party} holds a receipt and is not in the Close list with it")


class OneModelOneSet(Invariant):
    """For one model only one contributor set is ever released, across rounds, attempts and sessions."""

    why = "the same model over two sets: the difference of the sums is the difference of the sets"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._sets: dict[bytes, tuple[str, ...]] = {}
        self._closed: dict[bytes, CloseList] = {}

    def said(self, name: str, peer: str, message: Message) -> None:
        """Compare the set of each release with the first of its model."""
        if name not in self.world.workers:
            return
        if isinstance(message, Closed):
            self._closed[statement_digest(CloseList, message.close)] = decode_as(CloseList, message.close.statement)
        elif isinstance(message, Release):
            close = self._closed.get(decode_as(Header, message.head.header).close or b"")
            question = self.world.admitted.get(close.open_round) if close else None
            if close and question and self._sets.setdefault(question.model, close.contributors) != close.contributors:
                self.broken(f"one model is released over {close.contributors} and over {self._sets[question.model]}")


class ExactSum(Invariant):
    """What the model owner applies is the sum, in plain integers, of exactly the vectors of the closed set."""

    why = "a lost, doubled or foreign contribution changes the model without a trace"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._closed: dict[bytes, tuple[str, ...]] = {}

    def applies(self) -> bool:
        """Honest secure workers; `VerifiedIsTrue` has those that lie."""
        return self.world.honest(OWNER) and self.world.honest_workers()

    def added_up(self, open_round: bytes, name: str, question: OpenRound, words: bytes) -> None:
        """Hold what the secure worker adds to what that data owner encoded."""
        ours = self.world.encoded.get((name, question.session, question.round))
        if self.world.honest(name) and ours != words:
            self.broken(f"another vector was added for {name} than it encoded")

    def said(self, name: str, peer: str, message: Message) -> None:
        """Note the closed sets."""
        if isinstance(message, Closed) and name in self.world.workers:
            close = decode_as(CloseList, message.close.statement)
            self._closed[close.open_round] = close.contributors

    def applied(self, open_round: bytes, question: OpenRound, total: Any, contributors: int) -> None:
        """Add up, slowly."""
        names = self._closed.get(open_round, ())
        expected = plain_sum(self.world, open_round, question, names)
        if contributors != len(names) or expected is None or expected != [int(word) for word in total]:
            self.broken(f"what is applied in round {question.round} is not the sum over {', '.join(names)}")


def plain_sum(world: "World", open_round: bytes, question: OpenRound, names: Sequence[str]) -> list[int] | None:
    """Return the sum of these vectors as Python integers, modulo the word size; None if one is missing.

    Of vectors that were added where that can be seen, in mode `trusted`; in the others, of those that were encoded.
    """
    if world.scenario.mode is not Mode.TRUSTED:
        return encoded_sum(world, question, names)
    return _sum(question, [world.added.get(open_round, {}).get(name) for name in names])


def encoded_sum(world: "World", question: OpenRound, names: Sequence[str]) -> list[int] | None:
    """Return the sum of what these encoded, as Python integers modulo the word size; None if a vector is missing."""
    return _sum(question, [world.encoded.get((name, question.session, question.round)) for name in names])


def _sum(question: OpenRound, vectors: list[bytes | None]) -> list[int] | None:
    if not vectors or None in vectors:
        return None
    rows = [from_wire(question.plan, memoryview(each or b""), question.words).tolist() for each in vectors]
    modulus = 2 ** (8 * question.plan.dtype.itemsize)
    return [sum(column) % modulus for column in zip(*rows, strict=True)]


class ModelContinuity(Invariant):
    """Checkpoint r is the step from checkpoint r-1 with the released sum of round r; the next question asks for it."""

    why = "a crash must neither lose a step nor take it twice"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._sums: dict[int, list[tuple[OpenRound, Any, int]]] = {}
        self._models: dict[int, bytes] = {}

    def applies(self) -> bool:
        """An honest model owner."""
        return self.world.honest(OWNER)

    def applied(self, open_round: bytes, question: OpenRound, total: Any, contributors: int) -> None:
        """Remember every sum a step was taken with."""
        self._sums.setdefault(question.round, []).append((question, total, contributors))

    def checkpointed(self, number: int, model: bytes) -> None:
        """Take the steps again, on a model of our own."""
        if number in self._models and self._models[number] != model:
            self.broken(f"round {number} was applied twice, with two results")
        self._models[number] = model
        if model != self._shadow(number):
            self.broken(f"checkpoint {number} is not the step from checkpoint {number - 1}")

    def _shadow(self, number: int) -> bytes | None:
        shadow = self.world.fresh_model()
        for each in range(1, number + 1):
            if each not in self._sums:
                return None
            question, total, contributors = self._sums[each][-1]
            decoded = decode_vector(question, shadow.layout, total, contributors)
            shadow.apply(question.kind, list(decoded.means()))
        return shadow.to_bytes()

    def asked(self, name: bytes, question: OpenRound) -> None:
        """Hold the model that is asked about to the last checkpoint."""
        before = question.round if question.purpose is Purpose.EVALUATE else question.round - 1
        model = self._models.get(before, self.world.begun if before == 0 else None)
        if model is None or model_digest(self.world.model.layout, memoryview(model)) != question.model:
            self.broken(f"round {question.round} asks with another model than that of checkpoint {before}")

    def ended(self, name: str, error: str | None) -> None:
        """Hold success to the number of rounds that were promised."""
        rounds = self.world.scenario.rounds
        if name == OWNER and error is None and rounds not in self._models:
            self.broken(f"the model owner is content after {max(self._models, default=0)} of {rounds} rounds")


class SameQuestion(Invariant):
    """Every attempt at a round asks the same but for attempt and key, comes in order, and bears the abort before it."""

    why = "an attempt is a second chance to sum, and must not be one to ask something else or to drop somebody quietly"

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._asked: dict[tuple[bytes, int, Purpose], list[OpenRound]] = {}
        self._receipted: dict[tuple[bytes, str], set[str]] = {}

    def applies(self) -> bool:
        """An honest model owner and honest secure workers."""
        return self.world.honest(OWNER) and self.world.honest_workers()

    def asked(self, name: bytes, question: OpenRound) -> None:
        """Compare with the attempts before."""
        known = self._asked.setdefault((question.session, question.round, question.purpose), [])
        if known and question_digest(known[0]) != question_digest(question):
            self.broken(f"attempt {question.attempt} at round {question.round} asks something else")
        if known and question.purpose is Purpose.TRAIN and question.attempt <= known[-1].attempt:
            self.broken(f"attempt {question.attempt} at round {question.round} follows {known[-1].attempt}")
        if question.attempt >= limits.ATTEMPTS:
            self.broken(f"attempt {question.attempt} is one too many")
        known.append(question)

    def said(self, name: str, peer: str, message: Message) -> None:
        """Hold the abort in an offer to the receipts that were given."""
        if name not in self.world.workers:
            return
        if isinstance(message, Receipted):
            receipt = decode_as(Receipt, message.receipt.statement)
            self._receipted.setdefault((receipt.open_round, name), set()).add(receipt.contributor)
        elif isinstance(message, OfferRound):
            offer = decode_as(RoundOffer, message.offer.statement)
            question = self.world.questions.get(offer.open_round)
            if question is None:
                self.broken("a key is offered for a question that was not asked")
            elif question.attempt == 0:
                if offer.aborted is not None:
                    self.broken("the first attempt comes with an abort")
            else:
                self._hold(name, question, offer)

    def _hold(self, holder: str, question: OpenRound, offer: RoundOffer) -> None:
        if offer.aborted is None:
            self.broken(f"attempt {question.attempt} at round {question.round} comes without the abort before it")
            return
        abort = decode_as(Abort, offer.aborted.statement)
        if (abort.session, abort.round, abort.party) != (question.session, question.round, holder):
            self.broken(f"attempt {question.attempt} comes with the abort of something else")
        if abort.attempt >= question.attempt:
            self.broken(f"attempt {question.attempt} comes with the abort of attempt {abort.attempt}")
        given = set()
        for name, each in self.world.questions.items():
            if (each.session, each.round, each.attempt) == (abort.session, abort.round, abort.attempt):
                # Of a contribution that another counted in that attempt, that one owes the account.
                counted_by = self.world.seats.counted_by(each)
                given |= {who for who in self._receipted.get((name, holder), set()) if counted_by[who] == holder}
        if given - {each.party for each in abort.receipted}:
            self.broken(f"the abort of attempt {abort.attempt} keeps quiet about a receipt")
