"""What whoever attacks knows: all that machines say, the keys it holds, and what it can put into a field of a message.

Values come from what is known under the same name first, and are made up now and then. Nothing here decides by a
protective byte, so that a sequence of choices repeats although the keys differ.
"""

from collections import deque
from functools import cache
from random import Random
from typing import Any

import msgspec
from msgspec import inspect
from sequence_watch import Watch
from sequence_world import DATA_OWNERS, ROLES, SCORER, World
from tertium.crypto.labels import Label
from tertium.crypto.ring import Plan
from tertium.crypto.sealing import RoundKey
from tertium.protocol.check_messages import (
    Answered,
    Challenge,
    Checked,
    MaskedFingerprint,
    MaskKey,
    MaskKeys,
    MaskSeeds,
    OfferMaskKey,
    SumCheck,
)
from tertium.protocol.codec import decode_as
from tertium.protocol.context import RoundContext
from tertium.protocol.exchange import Exchange, Outgoing
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
    SendModel,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
    Statement,
    Ticket,
)
from tertium.protocol.statements import statement_digest
from tertium.protocol.training import Score, WeightRule
from tertium.simulation.federation import OWNER, THIRD

HOLDS: dict[type[Message], tuple[str, type[Statement]]] = {
    OfferSession: ("offer", SessionOffer),
    ProposeRound: ("open_round", OpenRound),
    OfferRound: ("offer", RoundOffer),
    Invitation: ("open_round", OpenRound),
    Acceptance: ("key", RoundKeyStatement),
    Declined: ("decline", Decline),
    Receipted: ("receipt", Receipt),
    Listed: ("list", HolderList),
    Closed: ("close", CloseList),
    RequestCosignature: ("statement", RoundStatement),
    RoundRecord: ("statement", RoundStatement),
    OfferMaskKey: ("key", MaskKey),
    Answered: ("fingerprint", MaskedFingerprint),
    Checked: ("check", SumCheck),
    Evaluated: ("evaluation", Evaluation),
    Aborted: ("abort", Abort),
    SessionOver: ("end", SessionEnd),
}
FROM: dict[type[Message], tuple[str, ...]] = {
    OfferSession: (THIRD,),
    OfferRound: (THIRD,),
    Listed: (THIRD,),
    Closed: (THIRD,),
    Release: (THIRD,),
    RequestCosignature: (THIRD,),
    RoundRecord: (THIRD,),
    Receipted: (THIRD,),
    RequestSession: (OWNER,),
    ProposeRound: (OWNER,),
    Lists: (OWNER,),
    Closes: (OWNER,),
    Invitation: (OWNER,),
    SendModel: (OWNER,),
    SessionOver: (OWNER,),
    Aborted: (OWNER, THIRD),
    Grant: (OWNER, THIRD),
    Ready: DATA_OWNERS,
    Acceptance: (*DATA_OWNERS, SCORER),
    Declined: (*DATA_OWNERS, SCORER),
    Fetch: (*DATA_OWNERS, SCORER, OWNER),
    Cosign: (*DATA_OWNERS, OWNER),
    OfferMaskKey: DATA_OWNERS,
    MaskKeys: (OWNER,),
    MaskSeeds: (OWNER, *DATA_OWNERS),
    Challenge: (OWNER,),
    Answered: DATA_OWNERS,
    Checked: (OWNER,),
    Evaluated: (SCORER,),
    Refusal: tuple(ROLES),
}
"""Who says what to whom, by right."""
KNOWN = 10


@cache
def drawn_keys() -> tuple[RoundKey, ...]:
    """Round keys of whoever attacks; a few serve for all."""
    return tuple(RoundKey() for _ in range(5))


@cache
def definition(kind: type[msgspec.Struct]) -> inspect.StructType:
    """Return what msgspec knows of a struct's fields and their bounds."""
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found


class Known:
    """What whoever attacks knows, and the values it can put into a field."""

    def __init__(self, world: World, watch: Watch, hostile: tuple[str, ...], chance: Random) -> None:
        self.world, self.watch, self.chance, self.hostile = world, watch, chance, hostile
        self.seen: dict[type[Message], deque[tuple[str, str, Message]]] = {}
        self.before: dict[type[Message], tuple[tuple[str, str, Message], ...]] = {}
        """What had been seen when another attempt was asked last: of envelopes, those of the attempts before it."""
        self.known: dict[str, deque[Any]] = {}
        self.offers: dict[bytes, Signed] = {}
        self.accepted: dict[str, tuple[bytes, bytes]] = {}
        self.announced: dict[bytes, dict[str, tuple[bytes, bytes]]] = {}
        """By question: by data owner, subject and commitment."""
        self.questions: deque[tuple[OpenRound, Signed, bytes]] = deque(maxlen=6)
        self.models: dict[bytes, bytes] = {}
        self.exchanges = {name: Exchange(world.identities[name], world.charter) for name in hostile}
        self.keys = drawn_keys()
        watch.keys.update({key.key_id: key.secret for key in self.keys})
        self._last: Message | None = None
        self._base: OpenRound | None = None

    # --- what is known

    def hear(self, name: str, peer: str, message: Message) -> None:
        """Note what some machine says; the network is the attacker's."""
        kind = type(message)
        self.seen.setdefault(kind, deque(maxlen=self.world.setting.kept)).append((name, peer, message))
        if message is self._last:
            return
        self._last = message
        if kind in HOLDS:
            field, statement = HOLDS[kind]
            signed: Signed = getattr(message, field)
            said = decode_as(statement, signed.statement)
            self._learn(said)
            if isinstance(said, OpenRound):
                self._question(said, signed)
            elif isinstance(said, RoundOffer):
                self.offers[said.open_round] = signed
            elif isinstance(said, RoundKeyStatement):
                self.accepted[said.party] = (said.open_round, said.key)
            elif isinstance(said, CloseList):
                self._remember("close", statement_digest(CloseList, signed))
            elif isinstance(said, RoundStatement):
                self._remember("statement", statement_digest(RoundStatement, signed))
            elif isinstance(said, Abort):
                self._remember("aborted", signed)
        elif isinstance(message, Headed):
            header = decode_as(Header, message.head.header)
            self._remember("subject", message.head.subject)
            self._remember("commitment", header.commitment)
            self._remember("recipient_key", header.recipient_key)
            if isinstance(message, Ready):
                at = self.announced.setdefault(header.open_round, {})
                at[name] = (message.head.subject, header.commitment)
        elif isinstance(message, RequestSession):
            self._remember("owner_nonce", message.owner_nonce)

    def _question(self, question: OpenRound, signed: Signed) -> None:
        name = statement_digest(OpenRound, signed)
        if all(name != other for _, _, other in self.questions):
            self.questions.append((question, signed, name))
            if question.attempt:
                self.before = {kind: _of_round(question, seen) for kind, seen in self.seen.items()}
            self._remember("open_round", name)
            if question.model not in self.models and len(self.models) < 20:
                self.models[question.model] = self.world.model.to_bytes()

    def _learn(self, said: Statement) -> None:
        for field in said.__struct_fields__:
            if field in _DIGESTS:
                self._remember(field, getattr(said, field))

    def _remember(self, field: str, value: Any) -> None:
        known = self.known.get(field)
        if known is None:
            known = self.known[field] = deque(maxlen=KNOWN)
        if value is not None and (not known or known[-1] != value):
            known.append(value)

    # --- values

    def _of(self, name: bytes) -> tuple[OpenRound, Signed, bytes] | None:
        return next((each for each in self.questions if each[2] == name), None)

    def _context(self, asked: tuple[OpenRound, Signed, bytes]) -> RoundContext:
        return RoundContext.of(asked[0], asked[2])

    def _holds(self, outgoing: Outgoing) -> Outgoing:
        self.world.bodies[outgoing.subject] = outgoing
        return outgoing

    def _known(self, field: str) -> Any:
        known = self.known.get(field)
        return bytes(32) if not known else known[-1] if self.chance.random() < 0.5 else self.chance.choice(known)

    def _key(self) -> RoundKey:
        return self.chance.choice(self.keys)

    def _nonce(self) -> bytes:
        return self.chance.randbytes(32) if self.chance.random() < 0.6 else self._known("owner_nonce")

    def _name(self) -> str:
        return self.chance.choice((*ROLES, "mallory"))

    def _names(self) -> tuple[str, ...]:
        return self._some(DATA_OWNERS)

    def _some(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        keep = self.chance.choice((0.5, 0.8, 1.0))
        return tuple(each for each in given if self.chance.random() < keep)

    def _code(self) -> str:
        return self.chance.choice(
            ("wrong-session", "too-late", "wrong-attempt", "bad-body", "gate-shut", "wrong-label")
        )

    def _build(self, info: inspect.Type) -> Any:
        """Return any value of a type, within its bounds and small, of known ones where there are some."""
        chance = self.chance
        match info:
            case inspect.BytesType():
                length = min(info.max_length or 40, max(info.min_length or 0, 40))
                known = [each[-1] for each in self.known.values() if each and isinstance(each[-1], bytes)]
                fitting = [each for each in known if len(each) == length]
                return chance.choice(fitting) if fitting and chance.random() < 0.7 else chance.randbytes(length)
            case inspect.StrType():
                return self._name()
            case inspect.IntType():
                return chance.choice([n for n in (0, 1, 2, 3, 64) if (info.ge or 0) <= n <= (info.le or 64)])
            case inspect.FloatType():
                return chance.choice((0.0, 0.5, 0.1))
            case inspect.BoolType():
                return chance.random() < 0.5
            case inspect.EnumType():
                return chance.choice(list(info.cls))
            case inspect.NoneType():
                return None
            case inspect.UnionType():
                return self._build(chance.choice(list(info.types)))
            case inspect.VarTupleType():
                built = [self._build(info.item_type) for _ in range(chance.randrange(4))]
                return tuple(sorted(set(built))) if isinstance(info.item_type, inspect.StrType) else tuple(built)
            case inspect.StructType() if info.cls is Plan:
                return self.world.charter.plan
            case inspect.StructType():
                return info.cls(**{field.name: self._build(field.type) for field in info.fields})
            case _:
                raise ValueError(f"no value is made of {info}")

    def _value(self, field: str, old: Any) -> Any:
        """Return another value for a field, one that is known elsewhere where that can be."""
        chance = self.chance
        if field in _NAMES:
            return self._name()
        if field in _MANY_NAMES:
            names = self._names()
            return tuple(sorted({*names, self._name()})) if chance.random() < 0.2 else names
        if field in ("key", "owner_key"):
            return chance.choice((self._key().public, self._known("key"), chance.randbytes(1216)))
        if field in ("round", "attempt", "rounds", "contributors", "first"):
            return max(0, (old if isinstance(old, int) else 0) + chance.choice((-1, 1, 1, 2, 7)))
        if field in ("contributions", "receipted"):
            pairs = {name: pair[1] for at in list(self.announced.values())[-2:] for name, pair in at.items()}
            return self._some(tuple(Contribution(name, pairs[name]) for name in sorted(pairs)))
        if field in _DIGESTS or isinstance(old, bytes):
            known = self.known.get(field) or self.known.get("open_round")
            length = len(old) if isinstance(old, bytes) else 32
            drawn = chance.choice(known) if known and chance.random() < 0.8 else chance.randbytes(length)
            return drawn if len(drawn) == length else chance.randbytes(length)
        if field in _ENUMS:
            return chance.choice(list(_ENUMS[field]))
        match field:
            case "training":
                changes = ({"seed": 8}, {"epochs": 3}, {"task": "other"}, {"metrics": ()}, {"learning_rate": 0.5})
                return msgspec.structs.replace(old, **chance.choice(changes))
            case "holders" | "without":
                return chance.choice(((), (THIRD,), (THIRD, "alice"), ("alice",)))
            case "holder_nonces":
                return tuple(self._known("holder_nonce") for _ in range(chance.choice((1, 1, 2))))
            case "aborted":
                return chance.choice(self.known["aborted"]) if self.known.get("aborted") else None
            case "score":
                return Score(chance.randrange(9), chance.random())
            case "ticket":
                return Ticket(self._known("subject"), bytes(16))
            case "cosignature":
                return Cosignature(self._name(), old.signature)
            case "sections":
                return chance.choice(((), (0,), (64,), (*old, 1)))
            case "broadcast":
                return not old
            case "coordinates" | "layout_bytes" | "model_bytes" | "version":
                return chance.choice((1, 2, 5, 64, 4096))
            case "text" | "code" | "suite":
                return chance.choice(("", "other", "x" * 100))
            case _:
                return old


def _of_round(question: OpenRound, seen: deque[tuple[str, str, Message]]) -> tuple[tuple[str, str, Message], ...]:
    """Return what was seen, of envelopes only those of this question's round."""
    out = []
    for each in seen:
        header = decode_as(Header, each[2].head.header) if isinstance(each[2], Headed) else None
        if header is None or (header.session, header.round) == (question.session, question.round):
            out.append(each)
    return tuple(out)


_NAMES = ("party", "holder", "contributor", "sender", "recipient")
_MANY_NAMES = ("cohort", "contributors", "declined", "missing", "absent", "about")
_DIGESTS = (
    "open_round",
    "session",
    "header",
    "commitment",
    "close",
    "release",
    "owner_nonce",
    "holder_nonce",
    "model",
    "layout",
    "subject",
    "statement",
    "charter",
    "key",
    "recipient_key",
)
_ENUMS: dict[str, Any] = {"purpose": Purpose, "cause": Cause, "weight_rule": WeightRule, "label": Label}
