"""A federation of the real role machines without lanes: messages are handed over one by one, in any order.

Rules of the file:
- Machines, keys, charter, journals and envelopes are the real ones. What `party.py`, `transfers.py` and the lanes do is
  done here in the plainest way: a queue a connection, a body that is handed over whole, a ticket that always works.
- Every effect of every machine is shown to the watch before it is carried out, and every message that was said to
  whoever attacks.
- `Machine.receive` may raise a `Misbehaviour` and nothing else, and then has changed nothing. Every other entry may
  raise nothing at all: `party.py` would not catch it.
- Everything random comes from the `Random` that is handed in, and no choice looks at a protective byte, so that a
  sequence of choices repeats although the keys differ.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from sequence_aids import Pattern, Shelf
from sequence_state import brief, fingerprint
from tertium.crypto.errors import Misbehaviour
from tertium.crypto.identity import Identity
from tertium.learning.numpy_task import NumpyTask
from tertium.learning.task import ServerOptimiser
from tertium.owner.machine import ModelOwner
from tertium.protocol.charter import Charter, Deadlines, Mode, Role, Rules, SchemeName
from tertium.protocol.errors import PeerLost, SiteFileError
from tertium.protocol.exchange import Exchange, Incoming, Outgoing
from tertium.protocol.journal import Journal
from tertium.protocol.limits import DIGEST, TICKET_SECRET
from tertium.protocol.machine import Dial, Drop, Effect, Expect, Finish, Machine, Permit, Provide, Send, Work
from tertium.protocol.messages import Grant, Message, Receipted, Refusal, RoundRecord
from tertium.protocol.rounds import TABLES, Phase
from tertium.protocol.site import OwnerPlan, Site, TaskEntry
from tertium.protocol.ticket import Ticket
from tertium.secure_worker.machine import SecureWorker
from tertium.simulation.federation import OWNER, THIRD, make_charter
from tertium.workers.data_owner import DataOwner
from tertium.workers.evaluator import Evaluator

SCORER, TASK, MINIMUM = "eva", "regression", 3
DATA_OWNERS = ("alice", "bob", "carol", "dave")
ROLES = {
    OWNER: Role.MODEL_OWNER,
    THIRD: Role.SECURE_WORKER,
    **dict.fromkeys(DATA_OWNERS, Role.DATA_OWNER),
    SCORER: Role.EVALUATOR,
}
LINKS = (
    (OWNER, THIRD),
    *((name, OWNER) for name in DATA_OWNERS),
    *((name, THIRD) for name in DATA_OWNERS),
    (SCORER, OWNER),
)
CLASSES: Mapping[Role, Any] = {
    Role.MODEL_OWNER: ModelOwner,
    Role.SECURE_WORKER: SecureWorker,
    Role.DATA_OWNER: DataOwner,
    Role.EVALUATOR: Evaluator,
}
TICKS = 0.25
"""Share of events after which the party looks at the clock."""
ANOTHER = 0.5
"""Share of a model owner's ends after which its operator begins another training, from another model."""
CRASHES = 0.02
"""Share of honest steps after which a secure worker with contributions crashes, in runs where it does."""
DEEP = 0.05
"""Share of refused messages after which all of a machine's state is compared, and not only what is quickly told."""


class Broken(AssertionError):
    """A machine did what no message may make it do."""


@dataclass(frozen=True)
class Setting:
    """What a federation is like; drawn with its seed."""

    fickle: bool
    """Training comes out otherwise each time, as on other hardware; an honest data owner must not send both."""
    serve: bool
    stable: int | None
    kept: int
    """How many messages of a kind whoever attacks remembers."""
    cohort: int
    """How many the model owner asks in a round; 0 asks all."""

    leaps: bool
    """Whether it stands still for some sequences and then goes on for much of a round; else a few steps at a time."""
    crashes: float
    """Share of honest steps after which a secure worker crashes that has contributions: another attempt follows."""

    @classmethod
    def draw(cls, chance: Random) -> "Setting":
        return cls(
            fickle=chance.random() < 0.4,
            serve=chance.random() < 0.5,
            stable=chance.choice((None, None, 2)),
            kept=chance.choice((6, 20)),
            cohort=chance.choice((0, 0, 3)),
            leaps=chance.random() < 0.5,
            crashes=chance.choice((0.0, CRASHES)),
        )


@cache
def people(stable: int | None) -> tuple[dict[str, Identity], Charter]:
    """Keys and charter, the same in every federation of a process: what is remembered is in journals."""
    identities = _identities()
    rules = Rules(
        mode=Mode.TRUSTED,
        scheme=SchemeName(name="trusted"),
        minimum_cohort=MINIMUM,
        stable_cohort=stable,
        deadlines=Deadlines(join=10, upload=50, close=10, release=10, statement=5, absence=20),
    )
    return identities, make_charter(identities, ROLES, rules)


@cache
def _identities() -> dict[str, Identity]:
    return {name: Identity.generate(name) for name in ROLES}


class Recorded:
    """A sealed body as it was carried: whoever sat on the path can send it again."""

    def __init__(self, records: list[bytes]) -> None:
        self._records = records

    def records(self) -> Iterator[bytes]:
        return iter(self._records)


class World:
    """One federation, and what is under way in it."""

    def __init__(
        self, setting: Setting, watch: Any, changes: Mapping[Role, Callable[[Any], Any]] | None = None
    ) -> None:
        """`changes` derive another class from a role's, to plant a violation."""
        self.setting, self.watch = setting, watch
        self.identities, self.charter = people(setting.stable)
        self.plan = OwnerPlan(task=TASK, rounds=500, seed=7, metrics=("loss",), evaluate_every=2, cohort=setting.cohort)
        self.classes = {role: (changes or {}).get(role, lambda kind: kind)(kind) for role, kind in CLASSES.items()}
        self.task = NumpyTask(examples=4, test_examples=2)
        self.model = self.task.global_model(7, ServerOptimiser())
        self.store = Shelf()
        self.now = 0.0
        self.journals = {name: Journal.of(self.identities[name], role) for name, role in ROLES.items()}
        self.trainers = {
            name: Pattern(self.task, at, fickle=setting.fickle) for at, name in enumerate((*DATA_OWNERS, SCORER))
        }
        self.machines: dict[str, Machine] = {}
        self.linked: set[tuple[str, str]] = set()
        self.queues: dict[tuple[str, str], deque[Message]] = {
            pair: deque() for a, b in LINKS for pair in ((a, b), (b, a))
        }
        self.provided: dict[tuple[str, bytes], tuple[str, Outgoing]] = {}
        self.expected: dict[tuple[str, bytes], tuple[str, Incoming]] = {}
        self.dialled: set[bytes] = set()
        self.work: dict[str, tuple[str, Callable[[], Any]]] = {}
        self.broke_off: list[tuple[str, str, bytes]] = []
        self.bodies: dict[bytes, Outgoing | Recorded] = {}
        """Of whoever attacks: by subject, what it would send if somebody expected it; recorded ones too."""
        self.heard: Callable[[str, str, Message], None] = lambda name, peer, message: None
        self.deep: Callable[[], bool] = lambda: True
        self.tried: Counter[tuple[str, str, type[Message]]] = Counter()
        """By role, phase and kind of message: how often a message came that the tables know."""
        self._sent: Counter[tuple[tuple[str, str, bool], type[Message]]] = Counter()
        self._came: Counter[tuple[str, str, bool]] = Counter()
        self.taken: Counter[tuple[str, str, type[Message]]] = Counter()
        self._prints: dict[str, Any] = {}
        for name in ROLES:
            self.begin(name)
        for pair in LINKS:
            self.link(pair)

    # --- parties and connections

    def begin(self, name: str) -> None:
        """Start a party's process, the first or the next: from its journal."""
        role, ours = ROLES[name], self.identities[name]
        given = (ours, self.charter, Exchange(ours, self.charter), self.journals[name])
        kind = self.classes[role]
        if role is Role.MODEL_OWNER:
            machine = kind(*given, self.plan, self.model, self.store, rounds_done=self.store.done)
        elif role is Role.SECURE_WORKER:
            machine = kind(*given, serve=self.setting.serve)
        else:
            site = Site(tasks={TASK: TaskEntry(factory="tertium.learning.numpy_task:NumpyTask")})
            machine = kind(*given, site, {TASK: self.trainers[name]})
        self.machines[name] = machine
        self._event(name, lambda: machine.start(self.now), "start")

    def end(self, name: str) -> None:
        """End a party's process as a crash does: what was in memory or under way is gone."""
        for pair in LINKS:
            if name in pair:
                self.unlink(pair, "it ended")
        for table in (self.provided, self.expected):
            for key in [key for key in table if key[0] == name]:
                del table[key]
        self.work.pop(name, None)
        self.broke_off = [each for each in self.broke_off if each[0] != name]

    def restart(self, name: str) -> None:
        """Let a crash be followed by a start at once; connections come back one by one."""
        self.end(name)
        self.begin(name)

    def start_again(self, name: str, chance: Random) -> None:
        """Start a party whose process has ended; a model owner's operator may begin another training, as told to.

        Nobody is in a second sum over one model with another set, so of some models nothing more can come.
        """
        if name == OWNER and chance.random() < ANOTHER:
            self.model = self.task.global_model(chance.randrange(1_000_000), ServerOptimiser())
            self.store = Shelf()
        self.restart(name)

    def link(self, pair: tuple[str, str]) -> None:
        """Connect two parties."""
        self.linked.add(pair)
        for name, peer in (pair, pair[::-1]):
            if not self.machines[name].finished:
                self._event(name, lambda m=self.machines[name], p=peer: m.peer_up(p, self.now), "peer_up")

    def unlink(self, pair: tuple[str, str], why: str) -> None:
        """Break a connection, with what travels on it."""
        if pair not in self.linked:
            return
        self.linked.discard(pair)
        for name, peer in (pair, pair[::-1]):
            self.queues[name, peer].clear()
            for key in [key for key, (other, _) in self.expected.items() if (key[0], other) == (name, peer)]:
                del self.expected[key]
                self.broke_off.append((name, peer, key[1]))
            if name in self.machines and not self.machines[name].finished:
                self._event(name, lambda m=self.machines[name], p=peer: m.peer_down(p, why, self.now), "peer_down")

    def connected(self, name: str, peer: str) -> bool:
        return (name, peer) in self.linked or (peer, name) in self.linked

    def often(self, name: str) -> Callable[[type[Message]], int]:
        """Return how often each kind of message came to a party of this role where this one is."""
        where = self._where(name)
        return lambda kind: self._sent[where, kind]

    def rarely(self, name: str) -> int:
        """Return how many messages came to parties of this role where this one is: another attempt is elsewhere."""
        return self._came[self._where(name)]

    def in_another_attempt(self, name: str) -> bool:
        """Whether a party is in an attempt at a round that is not the first."""
        for place in ("_intake", "_asking", "asked"):
            held = getattr(self.machines[name], place, None)
            if held is not None:
                return bool(held.question.attempt)
        return False

    def _where(self, name: str) -> tuple[str, str, bool]:
        return ROLES[name]._value_, self.machines[name].phase._value_, self.in_another_attempt(name)

    def has_contributions(self) -> bool:
        """Whether the secure worker collects, and has added something."""
        intake = getattr(self.machines[THIRD], "_intake", None)
        return intake is not None and bool(intake.added)

    # --- what can happen

    def give(self, name: str, peer: str, message: Message, *, forged: bool) -> bool:
        """Hand a message to a machine; returns whether it was taken. Refusals of forged ones go to the attacker."""
        machine = self.machines[name]
        if machine.finished:
            return False
        kind, phase, role = type(message), machine.phase, ROLES[name]
        self.watch.delivers(name, message)
        pair = (role._value_, phase._value_, kind) if kind in TABLES[role][phase] else None
        if pair:
            self.tried[pair] += 1
            where = self._where(name)
            self._sent[where, kind] += 1
            self._came[where] += 1
        before, deep = brief(machine), self.deep()
        known = self._print(name) if deep else None
        try:
            machine.receive(peer, message, self.now)
        except Misbehaviour as error:
            effects = machine.take_effects()
            if [each for each in effects if not _again(each, peer)]:
                raise Broken(f"{name} refuses {kind.__name__} ({error.code}) and still does {effects}") from error
            if brief(machine) != before or (deep and fingerprint(machine) != known):
                raise Broken(_changed(name, kind, phase, error, known, machine)) from error
            self._carry_out(name, effects)
            if not forged and not isinstance(message, Refusal) and self.connected(name, peer):
                about = message.about or bytes(DIGEST)
                self.queues[name, peer].append(Refusal(code=error.code, about=about))
            return False
        except Exception as error:
            raise Broken(f"{name} raises {error!r} at {kind.__name__} while {phase.value}") from error
        self._prints.pop(name, None)
        if pair:
            self.taken[pair] += 1
        self._settle(name)
        return True

    def honest(self, chance: Random) -> None:
        """Let one thing happen that happens in an honest run: in any order, but for messages of one connection."""
        # A record is slow now and then, or a model owner that has taken its step would never be seen waiting for it.
        slow = chance.random() < 0.9
        ready = [
            pair for pair, queue in self.queues.items() if queue and not (slow and isinstance(queue[0], RoundRecord))
        ]
        bodies = self.transfers()
        choices: list[Callable[[], None]] = []
        choices += [lambda p=pair: self._pass_on(p) for pair in ready]
        choices += [lambda k=key: self.transfer(k) for key in bodies]
        choices += [lambda n=name: self.finish_work(n) for name in self.work]
        choices += [lambda: self._tell_broken_off()] if self.broke_off else []
        down = [pair for pair in LINKS if pair not in self.linked and not self._over(pair)]
        choices += [lambda p=pair: self.link(p) for pair in down]
        ended = [name for name, machine in self.machines.items() if machine.finished]
        choices += [lambda n=name: self.start_again(n, chance) for name in ended]
        if choices:
            chance.choice(choices)()
            self.now += 0.01
        else:
            self.wait()

    def wait(self) -> None:
        """Let time pass until somebody has something to do."""
        due = [at for m in self.machines.values() if not m.finished and (at := m.next_deadline()) is not None]
        self.pass_time(max(0.01, min(due, default=self.now) - self.now))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; everybody looks at the clock."""
        self.now += seconds
        for name in self.machines:
            self.tick(name)

    def tick(self, name: str) -> None:
        machine = self.machines[name]
        if not machine.finished:
            self._event(name, lambda: machine.tick(self.now), "tick")

    def transfers(self) -> list[tuple[str, bytes]]:
        """Return what could be handed over: by receiver and subject."""
        out = []
        for key, (peer, _) in self.expected.items():
            if key[1] in self.bodies or (key[1] in self.dialled and (peer, key[1]) in self.provided):
                out.append(key)
        return out

    def transfer(self, key: tuple[str, bytes], spoil: Callable[[list[bytes]], list[bytes]] | None = None) -> None:
        """Hand a body over, whole, or spoiled on the way."""
        name, subject = key
        peer, incoming = self.expected.pop(key)
        provided = self.provided.get((peer, subject))
        outgoing = self.bodies[subject] if provided is None else provided[1]
        records = list(outgoing.records())
        machine = self.machines[name]
        try:
            whole = False
            for record in spoil(records) if spoil else records:
                whole = incoming.feed(record)
            sections = incoming.finish()
        except Misbehaviour as caught:
            self.dialled.discard(subject)
            error = caught
            self._event(name, lambda: machine.transfer_failed(peer, subject, error, self.now), "transfer_failed")
            return
        if not whole:
            raise Broken(f"{name} takes a body that is not whole")
        if provided is not None and not self.machines[peer].finished:
            self._event(peer, lambda: self.machines[peer].delivered(name, subject, self.now), "delivered")
        if not machine.finished:
            self.watch.opens(name, incoming)
            self._event(name, lambda: machine.opened(peer, incoming, sections, self.now), "opened")
        self.dialled.discard(subject)
        self.bodies.setdefault(subject, Recorded(records))

    def finish_work(self, name: str) -> None:
        """Do what a machine gave to its work thread."""
        tag, job = self.work.pop(name)
        try:
            result = job()
        except Exception as error:  # as an executor does
            result = error
        self.watch.trains(name, tag, result)
        self.worked(name, tag, result)

    def worked(self, name: str, tag: str, result: Any) -> None:
        machine = self.machines[name]
        if not machine.finished:
            self._event(name, lambda: machine.worked(tag, result, self.now), "worked")

    def full_disk(self, name: str) -> None:
        """Let the work of a machine fail for want of room; a model owner ends there, as at its journal's failure."""
        tag, _ = self.work.get(name, ("00", None))
        try:
            self.worked(name, tag, OSError("full"))
        except Broken as broken:
            if not isinstance(broken.__cause__, SiteFileError):
                raise
            self.machines[name].take_effects()
            self.machines[name].finished = True
            self.end(name)

    def interrupt(self, name: str) -> None:
        machine = self.machines[name]
        if not machine.finished:
            self._event(name, lambda: machine.interrupt("stopped by its operator", self.now), "interrupt")

    def fail(self, name: str, peer: str, subject: bytes) -> None:
        """Tell a machine that a transfer broke off, one of its own or any other."""
        machine, error = self.machines[name], PeerLost("bulk connection lost", party=peer)
        self.expected.pop((name, subject), None)
        if not machine.finished:
            self._event(name, lambda: machine.transfer_failed(peer, subject, error, self.now), "transfer_failed")

    # --- inside

    def _over(self, pair: tuple[str, str]) -> bool:
        return any(self.machines[name].finished for name in pair)

    def _pass_on(self, pair: tuple[str, str]) -> None:
        source, target = pair
        self.give(target, source, self.queues[pair].popleft(), forged=False)

    def _tell_broken_off(self) -> None:
        self.fail(*self.broke_off.pop(0))

    def _event(self, name: str, call: Callable[[], None], what: str) -> None:
        try:
            call()
        except Exception as error:
            raise Broken(f"{name} raises {error!r} at {what} while {self.machines[name].phase.value}") from error
        self._prints.pop(name, None)
        self._settle(name)

    def _settle(self, name: str) -> None:
        self.watch.looks(name, self.machines[name])
        self._carry_out(name, self.machines[name].take_effects())

    def _print(self, name: str) -> Any:
        known = self._prints.get(name)
        if known is None:
            known = self._prints[name] = fingerprint(self.machines[name])
        return known

    def _carry_out(self, name: str, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self.watch.effect(name, effect)
            match effect:
                case Send(peer, message):
                    self.heard(name, peer, message)
                    if self.connected(name, peer):
                        self.queues[name, peer].append(message)
                case Provide(peer, outgoing):
                    self.provided[name, outgoing.subject] = (peer, outgoing)
                case Expect(peer, incoming):
                    self.expected[name, incoming.subject] = (peer, incoming)
                case Permit(peer, subject):
                    grant = Grant(ticket=Ticket(subject, bytes(TICKET_SECRET)))
                    self.heard(name, peer, grant)
                    if self.connected(name, peer):
                        self.queues[name, peer].append(grant)
                case Dial(_, ticket):
                    self.dialled.add(ticket.subject)
                case Drop(subject):
                    self._drop(name, subject)
                case Work(tag, job):
                    self.work[name] = (tag, job)
                case Finish():
                    self.end(name)

    def _drop(self, name: str, subject: bytes) -> None:
        self.provided.pop((name, subject), None)
        self.expected.pop((name, subject), None)
        if subject in self.dialled:
            self.dialled.discard(subject)
            for key, (other, _) in list(self.provided.items()):
                if key[1] == subject and other == name:
                    self.broke_off.append((key[0], name, subject))


def _again(effect: Effect, peer: str) -> bool:
    """Whether an effect is the one that a refusal may have: a receipt is sent again."""
    return isinstance(effect, Send) and isinstance(effect.message, Receipted) and effect.peer == peer


def _changed(name: str, kind: type, phase: Phase, error: Misbehaviour, known: Any, machine: Machine) -> str:
    where = "what is quickly told"
    if known is not None:
        now = fingerprint(machine)
        with contextlib.suppress(TypeError, ValueError):
            where = ", ".join(old[0] for old, new in zip(known, now, strict=True) if old != new) or where
    return f"{name} refuses {kind.__name__} ({error.code}) while {phase.value} and has changed: {where}"
