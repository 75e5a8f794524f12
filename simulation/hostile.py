"""A party that sends any well-formed message at any time, with every key it holds: its own, and what it was shown.

Rules of the file:
- It runs its role's real machine, so that it gets far enough to do harm, and then drops, doubles, alters and misdirects
  what that machine sends, and adds messages of its own.
- A forged message is built from the definition of its struct, or from a message that was really seen: with fields
  changed and signed again by itself, or with a good signature of somebody else over what it belongs to elsewhere.
- Everything random is drawn from the simulation's generator, so a run with a hostile party repeats exactly too. It
  protects nothing: what a hostile party calls a key or a nonce need not be secret.
- It stops after a while, and then leaves, so that the honest ones can be held to ending.
"""

import contextlib
import functools
import typing
from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import inspect

from ..crypto.errors import TertiumError
from ..crypto.identity import Identity
from ..crypto.ring import Plan
from ..protocol import limits
from ..protocol.charter import Charter
from ..protocol.codec import AnyMessage, decode_as
from ..protocol.exchange import Exchange
from ..protocol.messages import (
    Abort,
    Aborted,
    Acceptance,
    Closed,
    CloseList,
    Decline,
    Declined,
    Evaluated,
    Evaluation,
    Header,
    Hello,
    HelloStatement,
    Invitation,
    Message,
    OfferRound,
    OfferSession,
    OpenRound,
    ProposeRound,
    Receipt,
    Receipted,
    Refusal,
    RequestCosignature,
    RoundKeyStatement,
    RoundOffer,
    RoundRecord,
    RoundStatement,
    SealedHead,
    SessionEnd,
    SessionOffer,
    SessionOver,
    Signed,
    Statement,
)
from ..protocol.statements import sign
from ..protocol.ticket import Ticket
from .world import SimulatedParty

if TYPE_CHECKING:
    from .world import World

STOPS = 15.0
"""Simulated seconds after which a hostile party sends nothing of its own any more."""
OWN = 120
"""Most messages of its own in one simulation."""
SHARE = 0.12
"""Share of its machine's messages that it tampers with."""
REMEMBERED = 300

HOLDS: dict[type[Message], type[Statement]] = {
    Hello: HelloStatement,
    OfferSession: SessionOffer,
    ProposeRound: OpenRound,
    OfferRound: RoundOffer,
    Invitation: OpenRound,
    Acceptance: RoundKeyStatement,
    Declined: Decline,
    Receipted: Receipt,
    Closed: CloseList,
    RequestCosignature: RoundStatement,
    RoundRecord: RoundStatement,
    Evaluated: Evaluation,
    Aborted: Abort,
    SessionOver: SessionEnd,
}
"""The statement a message's `Signed` holds; the offers beside an invitation's question are `RoundOffer`."""

KINDS: tuple[type[Message], ...] = typing.get_args(AnyMessage)


@functools.cache
def _struct(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


@functools.cache
def _types(kind: type[msgspec.Struct]) -> dict[str, inspect.Type]:
    return {field.name: inspect.type_info(field.type) for field in msgspec.structs.fields(kind)}


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(kind)


class Forger:
    """Makes messages from what one party knows."""

    def __init__(self, chance: Random, identity: Identity, charter: Charter, exchange: Exchange) -> None:
        self._chance, self._identity, self._charter, self._exchange = chance, identity, charter, exchange
        self._names = [party.name for party in charter.parties]
        self.seen: list[Message] = []
        self.tickets: list[Ticket] = []
        self._values: dict[int, OrderedDict[bytes, None]] = {}

    # --- what it knows

    def remember(self, message: Message) -> None:
        """Keep a message and every value in it."""
        if len(self.seen) < REMEMBERED:
            self.seen.append(message)
            self._collect(message, HOLDS.get(type(message)))

    def _collect(self, value: Any, holds: type[Statement] | None) -> None:
        if isinstance(value, bytes):
            self._values.setdefault(len(value), OrderedDict()).setdefault(value)
        elif isinstance(value, Ticket):
            self.tickets.append(value)
        elif isinstance(value, Signed) and holds is not None:
            for kind in (holds, RoundOffer):
                try:
                    self._collect(decode_as(kind, value.statement), None)
                except TertiumError:
                    continue
        elif isinstance(value, SealedHead):
            self._collect(decode_as(Header, value.header), None)
        elif isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                self._collect(getattr(value, name), holds)
        elif isinstance(value, tuple):
            for each in value:
                self._collect(each, holds)

    # --- making

    def message(self) -> Message | None:
        """Return some well-formed message, or None if none could be made this time."""
        drawn = self._chance.random()
        try:
            if drawn < 0.3 and self.seen:
                return self._chance.choice(self.seen)
            if drawn < 0.75 and self.seen:
                return self.altered(self._chance.choice(self.seen))
            return self._fresh(self._chance.choice(KINDS))
        except (TertiumError, ValueError):
            # A struct's own bounds forbid it, or nothing can be wrapped to what was taken for a key.
            return None

    def altered(self, message: Message) -> Message:
        """Return a message with one thing changed, at any depth, and everything of ours signed again."""
        changed = self._alter(message, HOLDS.get(type(message)))
        return changed if isinstance(changed, Message) else message

    def _alter(self, value: Any, holds: type[Statement] | None) -> Any:
        if isinstance(value, Signed) and holds is not None:
            return self._altered_statement(value, holds)
        if isinstance(value, SealedHead):
            return self._altered_head(value)
        if isinstance(value, msgspec.Struct):
            name = self._chance.choice(value.__struct_fields__) if value.__struct_fields__ else None
            if name is None:
                return value
            kind, old = _types(type(value))[name], getattr(value, name)
            deep = isinstance(old, msgspec.Struct) or (isinstance(old, tuple) and self._chance.random() < 0.5)
            new = self._alter(old, holds) if deep else self._build(kind)
            return msgspec.structs.replace(value, **{name: new})
        if isinstance(value, tuple) and value:
            at = self._chance.randrange(len(value))
            match self._chance.randrange(3):
                case 0:
                    return value[:at] + value[at + 1 :]
                case 1:
                    return (*value, value[at])
                case _:
                    return (*value[:at], self._alter(value[at], holds), *value[at + 1 :])
        return value

    def _altered_statement(self, signed: Signed, holds: type[Statement]) -> Signed:
        chance = self._chance.random()
        if chance < 0.1:
            return Signed(self._name(), signed.statement, signed.signature)
        if chance < 0.2:
            return Signed(signed.signer, signed.statement, self._bytes(64))
        try:
            statement = decode_as(holds, signed.statement)
        except TertiumError:
            statement = decode_as(RoundOffer, signed.statement)
        return self._signed(self._alter(statement, None))

    def _signed(self, statement: Statement) -> Signed:
        signed = sign(self._identity, statement)
        return signed if self._chance.random() < 0.9 else Signed(self._name(), signed.statement, signed.signature)

    def _altered_head(self, head: SealedHead) -> SealedHead:
        header = decode_as(Header, head.header)
        if self._chance.random() < 0.3:
            return SealedHead(head.header, self._bytes(limits.WRAPPED_KEY), head.signature)
        if self._chance.random() < 0.7:
            header = self._alter(header, None)
        return self._sealed(header)

    def _sealed(self, header: Header) -> SealedHead:
        """Return a head of this header with a good signature of ours and a content key wrapped to a key we know."""
        header = msgspec.structs.replace(header, sender=self._identity.name)
        return self._exchange.seal_head(header, self._bytes(limits.HPKE_PUBLIC_KEY), self._chance.randbytes(32))

    def _fresh(self, kind: type[Message]) -> Message:
        values = {}
        for field in _fields(kind):
            values[field.name] = self._field(kind, field)
        return kind(**values)

    def _field(self, kind: type[Message], field: msgspec.structs.FieldInfo) -> Any:
        holds = RoundOffer if field.name == "offers" else HOLDS.get(kind)
        if field.type is Signed and holds is not None:
            return self._signed(self._statement(holds))
        if field.name == "offers":
            return tuple(self._signed(self._statement(RoundOffer)) for _ in range(self._chance.randrange(3)))
        if field.type is SealedHead:
            return self._sealed(self._build(_struct(Header)))
        return self._build(_types(kind)[field.name])

    def _statement(self, kind: type[Statement]) -> Any:
        return self._build(_struct(kind))

    def _build(self, info: inspect.Type) -> Any:
        """Return any value of a type, within its bounds, of known values where there are some."""
        chance = self._chance
        match info:
            case inspect.BytesType():
                least, most = info.min_length or 0, info.max_length
                length = least if most is None or most == least else chance.choice((least, min(most, least + 40)))
                return self._bytes(length)
            case inspect.StrType():
                return self._name()
            case inspect.IntType():
                least, most = info.ge or 0, info.le if info.le is not None else 2**31
                return chance.choice([least, most, *(n for n in (0, 1, 2, 3, 64) if least <= n <= most)])
            case inspect.FloatType():
                return chance.choice((info.ge or 0.0, 0.5, 0.1))
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
            case inspect.TupleType():
                return tuple(self._build(each) for each in info.item_types)
            case inspect.StructType():
                if info.cls is Signed:
                    return self._signed(self._statement(Abort))
                if info.cls is Plan:
                    return self._charter.plan
                return info.cls(**{field.name: self._build(field.type) for field in info.fields})
            case _:
                raise ValueError(f"no value is made of {info}")

    def _bytes(self, length: int) -> bytes:
        known = self._values.get(length)
        if known and self._chance.random() < 0.8:
            return self._chance.choice(list(known))
        return self._chance.randbytes(length)

    def _name(self) -> str:
        return self._chance.choice(self._names)


class HostileParty(SimulatedParty):
    """A party whose machine is honest and whose sending is not."""

    def __init__(self, world: "World", name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(world, name, *args, **kwargs)
        self._chance = Random(f"tertium simulation {world.scenario.seed} hostile {world.lives.get(name, 0)}")  # noqa: S311
        self._forger = Forger(self._chance, self._identity, self._charter, self.machine.exchange)
        self._left = OWN
        self._next = 0.0
        self._inside = False

    def _send(self, peer: str, message: Message) -> None:
        self._forger.remember(message)
        if isinstance(message, Hello) or self._inside or self._chance.random() >= SHARE or self._stopped:
            super()._send(peer, message)
            return
        match self._chance.randrange(5):
            case 0:
                self.world.note("withholds", self.name, type(message).__name__)
            case 1:
                super()._send(peer, message)
                super()._send(peer, message)
            case 2:
                super()._send(self._somebody(), message)
            case 3:
                self._mischief(peer)
                super()._send(peer, message)
            case _:
                super()._send(peer, self._tampered(message))

    def _tampered(self, message: Message) -> Message:
        try:
            return self._forger.altered(message)
        except (TertiumError, ValueError):
            return message

    def _frame(self, peer: str, data: bytes, now: float) -> None:
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            message = msgspec.msgpack.decode(data, type=AnyMessage)
            self._forger.remember(message)
            if isinstance(message, Refusal):
                return  # its honest machine would give up, over what it never sent
        super()._frame(peer, data, now)

    def step(self, timeout: float) -> None:
        """Take an honest turn; then add something."""
        super().step(timeout)
        now = self.world.clock.now
        if self._left and now >= self._next and not self._stopped:
            self._next = now + self._chance.expovariate(1.0) * 0.02
            for _ in range(self._chance.randint(1, 3)):
                self._left -= 1
                self._mischief(self._somebody())

    def next_deadline(self) -> float | None:
        """Return when there is something to do: always, while it has something of its own to send."""
        due = super().next_deadline()
        if not self._left or self._stopped:
            return due
        mischief = self._clock() + max(0.0, self._next - self.world.clock.now)
        return mischief if due is None else min(due, mischief)

    @property
    def _stopped(self) -> bool:
        return self.world.clock.now >= STOPS

    def _somebody(self) -> str:
        peers: Sequence[str] = sorted(self._introduced) or sorted(set(self.world.roles) - {self.name})
        return self._chance.choice(peers)

    def _mischief(self, peer: str) -> None:
        """Do one hostile thing to this peer."""
        self._inside = True
        try:
            drawn = self._chance.random()
            if drawn < 0.08 and self._forger.tickets:
                self._lanes.open_bulk(peer, self._chance.choice(self._forger.tickets))
            elif drawn < 0.2:
                self._spoil_a_body()
            elif (message := self._forger.message()) is not None:
                self._send(peer, message)
        except TertiumError as error:
            self.world.note("fails at", self.name, error.code)
        finally:
            self._inside = False

    def _spoil_a_body(self) -> None:
        subjects = list(getattr(self._lanes, "_bulk", ()))
        if subjects:
            data = self._chance.randbytes(self._chance.choice((1, 40, 500, limits.RECORD_PLAINTEXT // 8)))
            self._lanes.send_record(self._chance.choice(subjects), data)
