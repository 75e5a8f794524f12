"""A charter with every role, a question that agrees with it, and an exchange a party."""

import contextlib
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from msgspec import inspect
from tertium.crypto.errors import Misuse
from tertium.crypto.identity import Identity
from tertium.crypto.labels import Label
from tertium.crypto.ring import Plan
from tertium.crypto.sealing import RoundKey
from tertium.protocol.charter import Charter, Mode, Role, Rules, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.context import RoundContext
from tertium.protocol.exchange import Exchange, Outgoing
from tertium.protocol.journal import Journal
from tertium.protocol.ledger import LedgerEntry
from tertium.protocol.messages import CloseList, Header, OpenRound, Purpose, SealedHead
from tertium.protocol.session import session_id
from tertium.protocol.statements import sign, statement_digest
from tertium.protocol.training import DType, Entry, Layout, TrainingPlan, model_digest
from tertium.protocol.vector import vector_bytes
from tertium.protocol.view import Handled, View
from tertium.simulation.federation import make_charter

ROLES = {
    "owner": Role.MODEL_OWNER,
    "third": Role.SECURE_WORKER,
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
    "judge": Role.EVALUATOR,
}
COHORT = ("alice", "bob", "carol")
LAYOUT = Layout(entries=(Entry(name="weight", dtype=DType.FLOAT32, shape=(50,), trainable=True),))
MODEL = bytes(LAYOUT.model_bytes)
PLAN = Plan.fit(cohort=3, max_weight=1, value_range=8.0, precision=1e-5)
RULES = Rules(mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=3)


@dataclass
class World:
    """Six parties with keys, in one round."""

    identities: dict[str, Identity] = field(default_factory=lambda: {n: Identity.generate(n) for n in ROLES})
    handled: dict[str, list[Handled]] = field(default_factory=lambda: {n: [] for n in ROLES})

    def __post_init__(self) -> None:
        self.charter: Charter = make_charter(self.identities, ROLES, RULES)
        self.exchanges = {
            name: Exchange(identity, self.charter, View(identity, self.charter, observe=self.handled[name].append))
            for name, identity in self.identities.items()
        }
        self.owner_key, self.third_key = RoundKey(), RoundKey()
        self.question = self.ask()
        self.signed = sign(self.identities["owner"], self.question)
        self.name = statement_digest(OpenRound, self.signed)
        self.context = RoundContext.of(self.question, self.name)
        self.sections = [vector_bytes(self.question)]

    def ask(self, **changes: Any) -> OpenRound:
        """A question that agrees with the charter but for `changes`."""
        nonces = (os.urandom(32), os.urandom(32))
        said = {
            "charter": self.charter.digest,
            "session": session_id(self.charter.digest, nonces[0], nonces[1:]),
            "round": 2,
            "attempt": 1,
            "purpose": Purpose.TRAIN,
            "owner_nonce": nonces[0],
            "holder_nonces": nonces[1:],
            "model": model_digest(LAYOUT, MODEL),
            "layout": LAYOUT.digest(),
            "layout_bytes": len(LAYOUT.encode()),
            "model_bytes": len(MODEL),
            "coordinates": 50,
            "plan": self.charter.plan,
            "training": TrainingPlan(task="task"),
            "weight_rule": RULES.weight_rule,
            "cohort": COHORT,
            "holders": ("third",),
            "owner_key": self.owner_key.public,
        }
        return OpenRound(**{**said, **changes})

    def payload(self) -> bytes:
        """The bytes of one contribution."""
        return os.urandom(self.sections[0])

    def seal(
        self,
        sender: str = "alice",
        payload: bytes | None = None,
        *,
        label: Label = Label.CONTRIBUTION,
        recipient: str = "third",
        key: RoundKey | None = None,
        exchange: Exchange | None = None,
        **context: Any,
    ) -> Outgoing:
        """A contribution for the secure worker in the current round, but for what is said otherwise."""
        return (exchange or self.exchanges[sender]).seal(
            label,
            RoundContext(**{**vars(self.context), **context}),
            recipient,
            (key or self.third_key).public,
            [self.payload() if payload is None else payload],
        )

    def resigned(self, outgoing: Outgoing, signer: str | None = None, **changes: Any) -> SealedHead:
        """The head of `outgoing` with other fields, wrapped and signed anew by whoever it names or by `signer`."""
        header = msgspec.structs.replace(decode_as(Header, outgoing.head.header), **changes)
        exchange = self.exchanges[signer or header.sender]
        return exchange.seal_head(header, self.third_key.public, os.urandom(32))

    def examine(self, head: SealedHead, sender: str = "alice", label: Label = Label.CONTRIBUTION) -> Header:
        """What the secure worker makes of a head that `sender` announces."""
        return self.exchanges["third"].examine(head, label, self.context, sender, self.third_key, self.sections)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def parties() -> World:
    """A world whose identities and charter alone are used, so that all tests may have the same."""
    return World()


class Sampler:
    """Makes valid structs of any type from its constraints, so that a new message or field cannot be forgotten."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def make(self, kind: Any) -> Any:
        """An instance of a struct type; fields whose values must agree with each other are put right."""
        for _ in range(200):
            fields = {
                field.name: self._value(field.type, kind, field.name)
                for field in inspect.type_info(kind).fields  # type: ignore[union-attr]
            }
            with contextlib.suppress(ValueError, Misuse):
                return kind(**self._agreeing(kind, fields))
        raise AssertionError(f"no valid {kind.__name__} was made")

    def _agreeing(self, kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
        if kind is OpenRound:
            fields["cohort"] = tuple(sorted(set(fields["cohort"])))
            fields["holders"] = tuple(dict.fromkeys(fields["holders"]))
            fields["holder_nonces"] = tuple(self.random.randbytes(32) for _ in fields["holders"])
        if kind is CloseList:
            unique = {entry.party: entry for entry in fields["contributions"]}
            fields["contributions"] = tuple(unique[name] for name in sorted(unique))
        return fields

    def _value(self, info: Any, owner: Any, name: str) -> Any:
        random = self.random
        match info:
            case inspect.StructType():
                return PLAN if info.cls is Plan else self.make(info.cls)
            case inspect.EnumType():
                return random.choice(list(info.cls))
            case inspect.BoolType():
                return random.random() < 0.5
            case inspect.IntType():
                return random.choice([info.ge or 0, min(info.le or 2**53, 2**31) // 3, 1])
            case inspect.FloatType():
                return random.choice([0.25, 0.5])
            case inspect.StrType():
                return "".join(random.choices("abcxyz019", k=random.randint(1, 12)))
            case inspect.BytesType():
                low = info.min_length or 0
                return random.randbytes(random.randint(low, min(info.max_length or 64, low + 64)))
            case inspect.VarTupleType():
                most = min(info.max_length or 3, 3)
                return tuple(self._value(info.item_type, owner, name) for _ in range(random.randint(0, most)))
            case inspect.DictType():
                pairs = [(info.key_type, info.value_type) for _ in range(random.randint(0, 2))]
                return {self._value(key, owner, name): self._value(value, owner, name) for key, value in pairs}
            case inspect.UnionType():
                return self._value(random.choice(info.types), owner, name)
            case inspect.NoneType():
                return None
        raise AssertionError(f"{owner.__name__}.{name} is of a kind this sampler does not know: {info}")


@pytest.fixture
def sampler() -> Callable[[int], Sampler]:
    return Sampler


@pytest.fixture
def other_process() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a Python program; it is ended with the test."""
    started: list[subprocess.Popen] = []

    def start(program: str, *arguments: object, limit: int | None = None) -> subprocess.Popen:
        def bounded() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=bounded,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
def kept(world: Any) -> Any:
    """Parties of a world, each with a ledger in memory."""

    class Kept:
        def __init__(self) -> None:
            self.world = world
            self.journals: dict[str, Journal] = {}
            self.views: dict[str, View] = {}

        def view(self, name: str, *, again: bool = False) -> View:
            identity, charter = world.identities[name], world.charter
            if name not in self.journals:
                self.journals[name] = Journal.of(identity, charter.party(name).role)
            if again or name not in self.views:
                self.views[name] = View.kept_in(self.journals[name], identity, charter)
            return self.views[name]

        def exchange(self, name: str) -> Exchange:
            return Exchange(world.identities[name], world.charter, self.view(name))

        def entries(self, name: str) -> list[LedgerEntry]:
            return [entry for _, entry in self.view(name)._ledger.entries()]

        def exhibits(self, name: str) -> dict[tuple[bytes, str], tuple[str, bytes]]:
            self.view(name).settle()
            rows = self.journals[name]._db.execute("select subject, signer, label, content from exhibits").fetchall()
            return {(subject, signer): (label, content) for subject, signer, label, content in rows}

    return Kept()
