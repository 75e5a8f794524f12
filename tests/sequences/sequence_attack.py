"""Whoever attacks: sends any well-formed message, to anybody, as anybody, with the keys it holds.

Four ways to a message, by what was seen and what is held:
- again: one that some machine said, in this attempt or the one before, from its own sender or from somebody else
- altered: one that was said, with fields changed to what else is known, signed again by its signer if that key is held
  and by another key if not
- made: from the definitions, out of the question, the keys and the digests that are known, sealed and signed properly:
  what a hostile model owner, data owner or secure worker would send that knows the protocol
- odd: a statement of another kind in the place of a statement, or a message built from its definition alone
What is sealed can be fetched: its body waits in `World.bodies`. Nothing here decides by a protective byte.
"""

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import msgspec
import numpy as np
from sequence_checks import Checks
from sequence_known import FROM, HOLDS, Known, definition
from sequence_watch import Watch
from sequence_world import DATA_OWNERS, LINKS, ROLES, SCORER, World
from tertium.crypto.errors import TertiumError
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label, digest, frame
from tertium.owner.questions import new_question
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as, decode_message, encode
from tertium.protocol.exchange import Exchange
from tertium.protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Cause,
    Closed,
    CloseList,
    Closes,
    Contribution,
    Cosign,
    Cosignature,
    Decline,
    Declined,
    Evaluated,
    Evaluation,
    Fetch,
    Grant,
    Headed,
    Header,
    HolderList,
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
    Receipt,
    Receipted,
    Refusal,
    Release,
    RequestCosignature,
    RequestSession,
    RoundKeyStatement,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SealedHead,
    SendModel,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
    Statement,
)
from tertium.protocol.rounds import TABLES
from tertium.protocol.session import session_id
from tertium.protocol.statements import sign, statement_digest
from tertium.protocol.ticket import Ticket
from tertium.protocol.training import Score
from tertium.simulation.federation import OWNER, THIRD

ENDS = {Aborted, SessionOver, RequestSession}
"""Kinds of which one is enough to end all that is under way: sent seldom, or nothing deep would ever be reached."""
HOSTILE: tuple[tuple[str, ...], ...] = (
    (OWNER,),
    (OWNER,),
    (THIRD,),
    ("bob",),
    (OWNER, "bob"),
    (OWNER, "alice", "bob", "carol"),
    (THIRD, "bob"),
    tuple(ROLES),
)
"""Whose keys whoever attacks holds; one of these a federation."""


@cache
def impostors() -> dict[str, Identity]:
    """Data owners' names with keys that are not theirs."""
    return {name: Identity.generate(name) for name in DATA_OWNERS}


class Attacker(Known):
    """Makes messages of what is known."""

    def __init__(self, world: World, watch: Watch, hostile: tuple[str, ...], chance: Random) -> None:
        super().__init__(world, watch, hostile, chance)
        self._makers: dict[type[Message], Callable[[str, str], Message | None]] = {
            RequestSession: lambda t, p: RequestSession(owner_nonce=self._nonce()),
            OfferSession: self._offer_session,
            ProposeRound: lambda t, p: self._propose(),
            OfferRound: lambda t, p: self._offer_round(),
            Invitation: self._invite,
            Acceptance: lambda t, p: self._statement(p, RoundKeyStatement, Acceptance),
            Declined: lambda t, p: self._statement(p, Decline, Declined),
            SendModel: self._send_model,
            Ready: self._ready,
            Release: self._release,
            Fetch: lambda t, p: Fetch(subject=self._known("subject")),
            Grant: lambda t, p: Grant(ticket=Ticket(self._known("subject"), bytes(16))),
            Receipted: self._receipt,
            Listed: lambda t, p: self._listed(),
            Lists: self._lists,
            Closed: self._close,
            Closes: lambda t, p: Closes(signatures=self._all_closes()),
            RequestCosignature: self._request_cosignature,
            Cosign: self._cosign,
            RoundRecord: self._record,
            **Checks(self).makers(),
            Evaluated: lambda t, p: self._statement(p, Evaluation, Evaluated),
            Aborted: self._abort,
            SessionOver: self._session_over,
            Refusal: lambda t, p: Refusal(code=self._code(), about=self._known("subject")),
        }

    # --- a message

    def message(self, target: str) -> tuple[str, Message] | None:
        """Return whom it comes from, and a message that the codec lets through; None if none could be made."""
        chance = self.chance
        row = TABLES[ROLES[target]][self.world.machines[target].phase]
        legal = [kind for kind in row if isinstance(kind, type)]
        if not legal:
            return None
        tried = self.world.often(target)
        # What was tried less often so far comes first, or rare phases would see common messages only.
        kind = min(chance.choice(legal), chance.choice(legal), key=tried)
        if chance.random() < 0.05:
            kind = chance.choice(list(self._makers))
        if kind in ENDS and chance.random() < (0.95 if tried(kind) else 0.4):
            return None
        peer = self._peer(kind, target)
        if kind in self.seen and chance.random() < 0.22:
            source, _, again = chance.choice(self.seen[kind])
            return source if chance.random() < 0.8 and source != target else peer, again
        try:
            altered = kind in self.seen and chance.random() < 0.45
            made = self._altered(kind) if altered else self._makers[kind](target, peer)
            if made is None or chance.random() < 0.03:
                made = self._from_definition(kind, peer)
            # What no decoder lets through never reaches a machine.
            return peer, decode_message(encode(made))
        except (TertiumError, ValueError):
            return None

    def of_the_attempt_before(self, target: str) -> tuple[str, Message] | None:
        """Return what was said in the attempt before the one `target` is in; an envelope's head where one fits."""
        row = TABLES[ROLES[target]][self.world.machines[target].phase]
        fitting = [kind for kind in row if isinstance(kind, type) and self.before.get(kind)]
        heads = [kind for kind in fitting if issubclass(kind, Headed)]
        if not fitting:
            return None
        kind = self.chance.choice(heads if heads and self.chance.random() < 0.7 else fitting)
        said = self.before[kind]
        if kind in heads:
            # A head whose body was never carried, and cannot be made, leads nowhere.
            said = tuple(each for each in said if each[2].head.subject in self.world.bodies) or said  # type: ignore[attr-defined]
        source, _, message = self.chance.choice(said)
        return (source, message) if source != target else None

    def _peer(self, kind: type[Message], target: str) -> str:
        usual = [name for name in FROM[kind] if name != target and ((name, target) in _LINKED)]
        # The holders of the keys more often than others: theirs are the messages that go far.
        held = [name for name in usual if name in self.exchanges]
        drawn = self.chance.random()
        if held and drawn < 0.75:
            return self.chance.choice(held)
        if usual and drawn < 0.95:
            return self.chance.choice(usual)
        return self.chance.choice([name for name in ROLES if name != target])

    def _from_definition(self, kind: type[Message], peer: str) -> Message:
        """Build a message from its struct alone; statement and head are signed by who sends it if that can be."""
        values: dict[str, Any] = {}
        for field in definition(kind).fields:
            if kind in HOLDS and field.name == HOLDS[kind][0]:
                values[field.name] = self._signed(peer, self._build(definition(HOLDS[kind][1])))
            elif field.name == "head" and self.hostile:
                by = peer if peer in self.exchanges else self.chance.choice(self.hostile)
                header = self._build(definition(Header))
                values[field.name] = self.exchanges[by].seal_head(header, self._key().public, bytes(32))
            else:
                values[field.name] = self._build(field.type)
        return kind(**values)

    # --- altered

    def _altered(self, kind: type[Message]) -> Message:
        source, _, message = self.chance.choice(self.seen[kind])
        if kind in HOLDS:
            field, statement = HOLDS[kind]
            signed = self._altered_signed(getattr(message, field), statement)
            message = msgspec.structs.replace(message, **{field: signed})
            if isinstance(message, Invitation) and self.chance.random() < 0.5:
                message = msgspec.structs.replace(message, offers=self._altered_offers(message.offers))
            if isinstance(message, RoundRecord) and self.chance.random() < 0.7:
                message = msgspec.structs.replace(
                    message, cosignatures=self._some(message.cosignatures), absent=self._names()
                )
            return message
        if isinstance(message, Headed):
            return msgspec.structs.replace(message, head=self._altered_head(source, message.head))
        fields = {name: self._value(name, getattr(message, name)) for name in message.__struct_fields__}
        return msgspec.structs.replace(message, **fields)

    def _altered_signed(self, signed: Signed, kind: type[Statement]) -> Signed:
        drawn = self.chance.random()
        if drawn < 0.06:
            return Signed(self._name(), signed.statement, signed.signature)
        if drawn < 0.1:
            return Signed(signed.signer, signed.statement, bytes(64))
        if drawn < 0.14 and self.seen:
            # Another kind of statement, with its own good signature.
            other = self.chance.choice(list(self.seen))
            if other in HOLDS:
                odd: Signed = getattr(self.chance.choice(self.seen[other])[2], HOLDS[other][0])
                return odd
        said: Any = decode_as(kind, signed.statement)
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 3))):
            field = self.chance.choice(said.__struct_fields__)
            said = msgspec.structs.replace(said, **{field: self._value(field, getattr(said, field))})
        return self._signed(signed.signer, said)

    def _signed(self, signer: str, said: Statement) -> Signed:
        """Sign as who should, if that key is held; else as who can, now and then under the other's name."""
        if not self.hostile:
            return Signed(signer, encode(said), bytes(64))
        by = signer if signer in self.exchanges else self.chance.choice(self.hostile)
        signed = sign(self.world.identities[by], said)
        if isinstance(said, OpenRound) and by == OWNER:
            self.watch.asked(signed)
            self._question(said, signed)
        return (
            signed if by == signer or self.chance.random() < 0.7 else Signed(signer, signed.statement, signed.signature)
        )

    def _altered_offers(self, offers: tuple[Signed, ...]) -> tuple[Signed, ...]:
        match self.chance.randrange(4):
            case 0:
                return ()
            case 1:
                return (*offers, *offers)
            case 2 if self.offers:
                return (self.chance.choice(list(self.offers.values())),)
            case _:
                return tuple(self._altered_signed(offer, RoundOffer) for offer in offers)

    def _altered_head(self, source: str, head: SealedHead) -> SealedHead:
        if not self.hostile:
            return SealedHead(head.header, head.wrapped_key, bytes(64))
        by = source if source in self.exchanges else self.chance.choice(self.hostile)
        header = decode_as(Header, head.header)
        if self.chance.random() < 0.3:
            # A good head with a key that opens nothing.
            wrapped = bytes(len(head.wrapped_key))
            data = frame(header.label, [head.header, wrapped])
            return SealedHead(head.header, wrapped, self.world.identities[by].sign(Label.HEADER, data))
        for _ in range(self.chance.choice((1, 1, 2))):
            field = self.chance.choice(header.__struct_fields__)
            header = msgspec.structs.replace(header, **{field: self._value(field, getattr(header, field))})
        return self.exchanges[by].seal_head(header, self._key().public, bytes(32))

    # --- made

    def _made_question(self, purpose: Purpose) -> tuple[OpenRound, Signed, bytes] | None:
        """Ask something of one's own, in a session there is or was, with keys of one's own."""
        if OWNER not in self.exchanges:
            return self._recent(purpose)
        chance, known = self.chance, self._recent(purpose)
        if known is not None and chance.random() < 0.6:
            return known
        nonces = self.known.get("owner_nonce"), self.known.get("holder_nonce")
        if not nonces[0] or not nonces[1]:
            return known
        latest = chance.random() < 0.8
        ours = nonces[0][-1] if latest else chance.choice(nonces[0])
        theirs = (nonces[1][-1] if latest else chance.choice(nonces[1]),)
        base = self._like(purpose)
        number, attempt = self._next_number(latest)
        cohort = tuple(sorted(chance.sample(DATA_OWNERS, chance.choice((2, 3, 3, 3, 4, 4)))))
        question = msgspec.structs.replace(
            base,
            session=session_id(self.world.charter.digest, ours, theirs),
            round=number,
            attempt=attempt,
            owner_nonce=ours,
            holder_nonces=theirs,
            owner_key=self._key().public,
            cohort=cohort if purpose is Purpose.TRAIN else (SCORER,),
            training=msgspec.structs.replace(base.training, seed=chance.choice((7, 7, 8))),
        )
        signed = self._signed(OWNER, question)
        return question, signed, statement_digest(OpenRound, signed)

    def _next_number(self, latest: bool) -> tuple[int, int]:
        """Say which round and attempt could be asked for: the next of either, mostly."""
        chance = self.chance
        asked = self.questions[-1][0] if self.questions else None
        if asked is None or not latest:
            return chance.choice((1, 1, 2)), chance.choice((0, 0, 1))
        return chance.choice(((asked.round, asked.attempt + 1), (asked.round + 1, 0), (asked.round, asked.attempt)))

    def _like(self, purpose: Purpose) -> OpenRound:
        """Return a question such as the model owner asks now; the model is the one there is, or one that was."""
        if self._base is None or self.chance.random() < 0.2:
            world = self.world
            nonces = bytes(32), {THIRD: bytes(32)}
            asked = new_question(
                world.identities[OWNER],
                world.charter,
                world.plan,
                world.model,
                nonces,
                purpose=Purpose.TRAIN,
                number=1,
                cohort=DATA_OWNERS,
            )
            self._base = asked[0]
            self.models.setdefault(self._base.model, world.model.to_bytes())
        model = self._base.model if self.chance.random() < 0.6 else self.chance.choice(list(self.models))
        return msgspec.structs.replace(self._base, purpose=purpose, model=model)

    def _recent(self, purpose: Purpose | None = None) -> tuple[OpenRound, Signed, bytes] | None:
        known = [each for each in self.questions if purpose is None or each[0].purpose is purpose]
        if not known:
            return None
        return known[-1] if self.chance.random() < 0.7 else self.chance.choice(known)

    def _propose(self) -> Message | None:
        asked = self._made_question(Purpose.TRAIN)
        return None if asked is None else ProposeRound(open_round=asked[1])

    def _invite(self, target: str, peer: str) -> Message | None:
        purpose = Purpose.EVALUATE if ROLES[target] is Role.EVALUATOR else Purpose.TRAIN
        asked = self._made_question(purpose)
        if asked is None or purpose is Purpose.EVALUATE:
            return None if asked is None else Invitation(open_round=asked[1], offers=())
        offer = self.offers.get(asked[2])
        if offer is None or (self.chance.random() < 0.3 and self.hostile):
            offer = self._made_offer(asked)
        return Invitation(open_round=asked[1], offers=(offer,))

    def _made_offer(self, asked: tuple[OpenRound, Signed, bytes]) -> Signed:
        question, _, name = asked
        aborted = None
        if question.attempt:
            abort = self._an_abort(THIRD, question, max(0, question.attempt - 1))
            aborted = self._signed(THIRD, abort)
        return self._signed(THIRD, RoundOffer(open_round=name, holder=THIRD, key=self._key().public, aborted=aborted))

    def _offer_round(self) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        return None if asked is None else OfferRound(offer=self._made_offer(asked))

    def _offer_session(self, target: str, peer: str) -> Message:
        offer = SessionOffer(self.world.charter.digest, self._known("owner_nonce"), THIRD, self._nonce())
        return OfferSession(offer=self._signed(THIRD, offer))

    def _statement(self, peer: str, kind: Any, message: Any) -> Message | None:
        """Return an acceptance, a decline or a score, for some question, of who sends it."""
        purpose = Purpose.EVALUATE if peer == SCORER else Purpose.TRAIN
        asked = self._recent(purpose)
        if asked is None:
            return None
        more = {RoundKeyStatement: {"key": self._key().public}, Evaluation: {"score": Score(3, 0.5)}}.get(kind, {})
        party = peer if self.chance.random() < 0.9 else self._name()
        said = self._signed(peer, kind(open_round=asked[2], party=party, **more))
        return message(**{HOLDS[message][0]: said})

    def _send_model(self, target: str, peer: str) -> Message | None:
        accepted = self.accepted.get(target)
        asked = self._of(accepted[0]) if accepted is not None else None
        if OWNER not in self.exchanges or accepted is None or asked is None:
            return None
        model = self.models.get(asked[0].model, b"")
        if self.chance.random() < 0.2:
            model = bytes(len(model))
        sections = [self.world.model.layout.encode(), model]
        broadcast = self.exchanges[OWNER].broadcast(Label.MODEL, self._context(asked), sections)
        return SendModel(head=self._holds(broadcast.address(target, accepted[1])).head)

    def _ready(self, target: str, peer: str) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        offer = self.offers.get(asked[2]) if asked is not None else None
        if asked is None or offer is None or ROLES[peer] is not Role.DATA_OWNER:
            return None
        key = decode_as(RoundOffer, offer.statement).key
        words = np.arange(asked[0].words, dtype=asked[0].plan.dtype) * self.chance.randrange(1, 1000)
        exchange = self.exchanges.get(peer)
        if exchange is None:
            exchange = Exchange(impostors()[peer], self.world.charter)
        sealed = exchange.seal(Label.CONTRIBUTION, self._context(asked), THIRD, key, [words.tobytes()])
        by = peer if peer in self.exchanges else "mallory"
        self.watch.contributions[sealed.commitment] = (by, asked[2], words.tobytes())
        self._remember("subject", sealed.subject)
        return Ready(head=self._holds(sealed).head)

    def _release(self, target: str, peer: str) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        if asked is None or THIRD not in self.exchanges:
            return None
        words = np.ones(asked[0].words, asked[0].plan.dtype)
        sealed = self.exchanges[THIRD].seal(
            Label.AGGREGATE,
            self._context(asked),
            OWNER,
            asked[0].owner_key,
            [words.tobytes()],
            contributors=self.chance.choice((3, 4)),
            close=self._known("close"),
        )
        self._remember("release", sealed.subject)
        self._remember("commitment", sealed.commitment)
        return Release(head=self._holds(sealed).head)

    def _receipt(self, target: str, peer: str) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        if asked is None:
            return None
        subject, commitment = self.announced.get(asked[2], {}).get(target, (bytes(32), bytes(32)))
        said = Receipt(asked[2], THIRD, target, subject, commitment, digest(Label.SHARE_LIST, commitment))
        return Receipted(receipt=self._signed(THIRD, said))

    def _listed(self) -> Listed | None:
        """Say what was counted, as one of several secure workers would: this federation has one."""
        asked = self._recent(Purpose.TRAIN)
        if asked is None:
            return None
        return Listed(list=self._signed(THIRD, HolderList(asked[2], THIRD, self._contributions(asked[2]), (), (), ())))

    def _lists(self, target: str, peer: str) -> Message | None:
        made = self._listed()
        return None if made is None else Lists(lists=(made.list,) * self.chance.choice((0, 1, 1, 1, 2)))

    def _all_closes(self) -> tuple[Cosignature, ...]:
        closed = tuple(message.close for _, _, message in self.seen.get(Closed, ()))  # type: ignore[attr-defined]
        return tuple(Cosignature(party=each.signer, signature=each.signature) for each in self._some(closed)[-2:])

    def _close(self, target: str, peer: str) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        if asked is None:
            return None
        close = CloseList(asked[2], THIRD, self._contributions(asked[2]), (), ())
        signed = self._signed(THIRD, close)
        self._remember("close", statement_digest(CloseList, signed))
        return Closed(close=signed)

    def _contributions(self, name: bytes) -> tuple[Contribution, ...]:
        """Return some of what was announced for a question, and some that was not."""
        known = {party: pair[1] for party, pair in self.announced.get(name, {}).items()}
        for party in DATA_OWNERS:
            if party not in known and self.chance.random() < 0.5:
                known[party] = digest(Label.COMMITMENT, party.encode())
        return tuple(Contribution(party, known[party]) for party in self._some(tuple(sorted(known))))

    def _request_cosignature(self, target: str, peer: str) -> Message | None:
        asked = self._recent(Purpose.TRAIN)
        if asked is None:
            return None
        closed = self.seen.get(Closed)
        names = self._names()
        if closed:
            names = decode_as(CloseList, self.chance.choice(closed)[2].close.statement).contributors  # type: ignore[attr-defined]
        said = RoundStatement(
            asked[2], THIRD, self._known("close"), names, self._known("release"), self._known("commitment")
        )
        return RequestCosignature(statement=self._signed(THIRD, said))

    def _record(self, target: str, peer: str) -> Message | None:
        asked = self.seen.get(RequestCosignature)
        if not asked:
            return None
        statement: Signed = self.chance.choice(asked)[2].statement  # type: ignore[attr-defined]
        given = tuple(message.cosignature for _, _, message in self.seen.get(Cosign, ()))  # type: ignore[attr-defined]
        return RoundRecord(statement=statement, cosignatures=self._some(given), absent=self._names())

    def _cosign(self, target: str, peer: str) -> Message | None:
        asked = self.seen.get(RequestCosignature)
        if not asked:
            return None
        statement: Signed = self.chance.choice(asked)[2].statement  # type: ignore[attr-defined]
        by = peer if peer in self.exchanges else (self.hostile or (peer,))[0]
        signature = self.world.identities[by].sign(Label.ROUND_STATEMENT, statement.statement)
        return Cosign(statement=statement_digest(RoundStatement, statement), cosignature=Cosignature(peer, signature))

    def _abort(self, target: str, peer: str) -> Message | None:
        asked = self._recent()
        if asked is None:
            return None
        return Aborted(abort=self._signed(peer, self._an_abort(peer, asked[0], asked[0].attempt)))

    def _an_abort(self, party: str, question: OpenRound, attempt: int) -> Abort:
        receipted = self._value("receipted", ()) if self.chance.random() < 0.7 else ()
        cause = self.chance.choice(list(Cause))
        return Abort(question.session, question.round, attempt, party, cause, "so it goes", (), receipted)

    def _session_over(self, target: str, peer: str) -> Message | None:
        asked = self._recent()
        return None if asked is None else SessionOver(end=self._signed(OWNER, SessionEnd(asked[0].session, 1)))


_LINKED = {pair for a, b in LINKS for pair in ((a, b), (b, a))}
