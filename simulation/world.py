"""A federation under a scenario: a seeded scheduler, parties that end and start again, and everything observable shown.

The machines, keys, envelopes and transfers are the real ones, as in `federation.py`. Beyond that:
- Any party that has something to do may be the next to step; which one is drawn, and so is how long a step takes.
- Watchers (`watchers.py`) stand at the few places where facts can be seen: what a party sends, seals, opens, writes,
  encodes, adds, applies, refuses, and how it ends. Each fact is told to every invariant; watchers change nothing.
- Invariants hold honest parties to account. What a hostile one says of itself is no fact.
- `trace` is everything that happened, without one protective byte: two runs of a seed have equal traces.
"""

import functools
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from ..crypto.labels import Label
from ..crypto.ring import Words
from ..crypto.sealing import RoundKey
from ..crypto.sharing.base import Domain
from ..learning.numpy_task import NumpyTask
from ..learning.task import GlobalModel, ServerOptimiser
from ..owner.store import OwnerStore
from ..protocol import limits
from ..protocol.charter import Mode
from ..protocol.codec import decode_as
from ..protocol.journal import Entry, Write
from ..protocol.lanes.memory_lanes import Delivery
from ..protocol.machine import Effect, Machine, Tell
from ..protocol.messages import Header, Invitation, Message, OpenRound, ProposeRound, Release, SealedHead, Signed
from ..protocol.party import Party
from ..protocol.progress import Ended, Progress, RefusedProgress
from ..protocol.seats import Seats
from ..protocol.session import question_digest
from ..protocol.site import addresses
from ..protocol.statements import statement_digest
from ..protocol.view import View
from .conspiracy import CONSPIRACIES
from .crashes import Crash, CrashPlan, CrashSchedule, FaultyJournal, effect_names
from .faults import FaultyNetwork, PacedExecutor, PartyClock, SteppedLanes
from .federation import OWNER, Federation
from .lies import lies_of
from .scenario import EVALUATOR, Scenario
from .shares import Dealt
from .watchers import Change, watched, watched_exchange

if TYPE_CHECKING:
    from .invariant import Invariant

STEP = 0.0003
"""Mean simulated seconds a step takes."""
SPINNING = 200
"""Steps in which a party does nothing although it says it is due, after which it is called a busy loop."""
STEPS = 60_000
"""Most steps of one simulation."""


class SimulatedParty(Party):
    """A party that shows what it sends, and may crash at an effect."""

    def __init__(self, world: "World", name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.world, self.name = world, name

    def _send(self, peer: str, message: Message) -> None:
        self.world.says(self.name, peer, message)
        super()._send(peer, message)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Tell):
            super()._carry_out(effect)
            return
        plan = self.world.schedules[self.name].reach(*effect_names(effect))
        if plan is not None and plan.when == "before":
            raise Crash(plan)
        super()._carry_out(effect)
        if plan is not None:
            raise Crash(plan)


class WatchedStore(OwnerStore):
    """A model owner's folder that shows each checkpoint."""

    world: "World"

    def checkpoint(self, model: GlobalModel, round_number: int) -> None:
        """Write, then show."""
        super().checkpoint(model, round_number)
        self.world.tell("checkpointed", round_number, model.to_bytes())


class World(Federation):
    """One scenario being played."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        invariants: Sequence[type["Invariant"]],
        *,
        machines: Mapping[str, Change] | None = None,
        exchanges: Mapping[str, Change] | None = None,
        openings: Path | None = None,
    ) -> None:
        """Build everybody.

        `machines` and `exchanges` change a party's class, to plant a violation; `openings` is as in `Federation`.
        """
        self.scenario, self._liars = scenario, scenario.liars
        self.chance = Random(f"tertium simulation {scenario.seed} schedule")  # noqa: S311
        self.trace: list[tuple[Any, ...]] = []
        self.broken: list[str] = []
        self.steps = 0
        self._know_nothing()
        self.keys: list[tuple[str, int, RoundKey]] = []
        """Round keys seen: whose, in which of its lives, and the key."""
        self.lives: dict[str, int] = {}
        self.lost: set[str] = set()
        """Who has crashed and is not back."""
        self.schedules = {name: CrashSchedule() for name in scenario.roles}
        for plan in scenario.crashes:
            self.schedules[plan.party].plans.append(plan)
        self.clocks: dict[str, PartyClock] = {}
        self.executors: dict[str, PacedExecutor] = {}
        self.free_at = dict.fromkeys(scenario.roles, 0.0) | dict(scenario.late)
        self._dues: dict[str, float] = {}
        """When each party is next due by itself, as it was after its last step."""
        self._patience = scenario.patience
        self._spins = dict.fromkeys(scenario.roles, 0)
        self._planned: list[tuple[float, str, Any]] = [
            (trouble.at, trouble.party, trouble) for trouble in scenario.clocks
        ]
        if scenario.hostile:
            self._planned.append((scenario.leaves, scenario.hostile, "leave"))
        store = WatchedStore(folder, "npz")
        store.world = self
        network = FaultyNetwork(
            scenario.trouble,
            Random(f"tertium simulation {scenario.seed} network"),  # noqa: S311
            lambda: self.clock.now,
            self.note,
        )
        network.seen.append(self._delivered)
        self.faults = network
        tasks = {name: NumpyTask(party=at, examples=6 + 3 * at) for at, name in enumerate(scenario.data_owners)}
        self.owner_task = NumpyTask(test_examples=5)
        self._invariants = [each for each in (kind(self) for kind in invariants) if each.applies()]
        self._hooks: dict[str, list[Callable[..., None]]] = {}
        self.changes = dict(machines or {})
        if scenario.hostile and scenario.lie:
            told = CONSPIRACIES if scenario.accomplice else lies_of(scenario.roles[scenario.hostile])
            self.changes[scenario.hostile] = told[scenario.lie]
        self.changed_exchanges = dict(exchanges or {})
        super().__init__(
            tasks,
            self.owner_task,
            scenario.plan,
            store,
            rules=scenario.rules,
            limits_of={name: scenario.site_limits(name) for name in (*scenario.data_owners, EVALUATOR)},
            evaluators={EVALUATOR: NumpyTask(party=9, examples=5)} if scenario.evaluator else None,
            machines={name: watched(self, name, role) for name, role in scenario.roles.items()},
            exchanges={name: watched_exchange(self, name) for name in scenario.roles},
            network=network,
            workers=scenario.workers,
            openings=openings,
        )
        self.begun = self.model.to_bytes()

    @functools.cached_property
    def seats(self) -> Seats:
        """Who holds which share."""
        return Seats(self.charter)

    # --- facts

    def _know_nothing(self) -> None:
        self.questions: dict[bytes, OpenRound] = {}
        """Every question the model owner signed, by digest."""
        self.jobs: dict[str, OpenRound] = {}
        """A question by the tag data owners give their training for it; the same for all attempts."""
        self.encoded: dict[tuple[str, bytes, int], bytes] = {}
        """By data owner, session and round, the vector it encoded: in mode `trusted` the secure worker may hold it, in
        the others nobody."""
        self.added: dict[bytes, dict[str, bytes]] = {}
        """In mode `trusted`, by question: each vector the secure worker added, by contributor."""
        self.taken: dict[tuple[bytes, str], set[str]] = {}
        """By question and secure worker: whose shares it has taken."""
        self.admitted: dict[bytes, OpenRound] = {}
        """Every question a secure worker took anything for, by digest."""
        self.dealt = Dealt()
        """Every split of an update, and what is known of its shares."""
        self.released: set[tuple[bytes, int]] = set()
        """Sessions and rounds that an honest secure worker released."""

    def tell(self, hook: str, *facts: Any) -> None:
        """Tell every invariant that wants to know."""
        listeners = self._hooks.get(hook)
        if listeners is None:
            listeners = [getattr(each, hook) for each in self._invariants if each.listens(hook)]
            self._hooks[hook] = listeners
        for listener in listeners:
            listener(*facts)

    def honest_workers(self) -> bool:
        """Whether no secure worker is hostile."""
        return self.honest(*self.scenario.workers)

    def honest(self, *names: str) -> bool:
        """Whether none of these parties is hostile."""
        return self._liars.isdisjoint(names)

    def note(self, what: str, *about: Any) -> None:
        """Write a line of the trace."""
        self.trace.append((self.clock.now, what, *about))

    def says(self, name: str, peer: str, message: Message) -> None:
        """Note a message that is being sent."""
        self.note("says", name, peer, type(message).__name__)
        if isinstance(message, ProposeRound | Invitation) and name == OWNER:
            self._asked(message.open_round)
        if isinstance(message, Release) and name in self.scenario.workers:
            header = decode_as(Header, message.head.header)
            self.released.add((header.session, header.round))
        if self.honest(name):
            self.tell("said", name, peer, message)

    def _asked(self, signed: Signed) -> None:
        name = statement_digest(OpenRound, signed)
        if name not in self.questions and self.honest(OWNER):
            self.questions[name] = decode_as(OpenRound, signed.statement)
            self.jobs[question_digest(self.questions[name]).hex()] = self.questions[name]
            self.tell("asked", name, self.questions[name])

    def _delivered(self, delivery: Delivery) -> None:
        if delivery.wire.subject is not None and delivery.end is None:
            self.note("record", delivery.source, delivery.target, len(delivery.data))
        self.tell("carried", delivery)

    def _reported(self, name: str, progress: Progress) -> None:
        self.progress[name].append(progress)
        if isinstance(progress, RefusedProgress):
            self.note("refuses", name, progress.code)
            if self.honest(name):
                self.tell("refused", name, progress)
        elif isinstance(progress, Ended):
            self.note("ends", name, progress.error)

    # --- watched

    def _wrote(self, name: str, write: Write, entries: tuple[Entry, ...]) -> None:
        self.note("writes", name, write.name)
        self.tell("wrote", name, write, entries)

    def was_encoded(self, name: str, question: OpenRound, result: Any) -> None:
        """Note a vector that a data owner encoded."""
        words = result.words.tobytes()
        if self.honest(name):
            self.tell("encodes", name, question, words, [np.asarray(each) for each in result.update.values])
        self.encoded.setdefault((name, question.session, question.round), words)

    def was_added(self, worker: str, open_round: bytes, name: str, question: OpenRound, words: bytes) -> None:
        """Note a share that a secure worker took."""
        self.taken.setdefault((open_round, worker), set()).add(name)
        self.admitted[open_round] = question
        if self.scenario.mode is not Mode.TRUSTED:
            return  # a share says nothing by itself
        self.added.setdefault(open_round, {})[name] = words
        if self.honest(worker):
            self.tell("added_up", open_round, name, question, words)

    def was_split(self, name: str, question: OpenRound, open_round: bytes, words: Words) -> None:
        """Note that a data owner is about to split a vector."""
        over_a_field = self.seats.scheme.domain is Domain.FIELD
        self.dealt.split(name, question, open_round, words, question.plan.field.modulus if over_a_field else None)

    def was_sealed(self, name: str, head: SealedHead, key: bytes, sections: list[bytes]) -> None:
        """Note what an envelope holds, and for which public key."""
        header = decode_as(Header, head.header)
        if header.label is Label.CONTRIBUTION:
            self.dealt.share(name, header.recipient, sections)
        self.tell("seals", name, header, head.subject, key, sections)

    def saw_key(self, name: str, key: RoundKey) -> None:
        """Note a round key that a party uses."""
        if all(known is not key for _, _, known in self.keys):
            self.keys.append((name, self.lives.get(name, 0), key))
            self.tell("has_key", name, key)

    # --- parties

    def _add(self, name: str) -> None:
        role, scenario = self.roles[name], self.scenario
        clock = self.clocks.setdefault(name, PartyClock(self.clock))
        pace = 10.0 if name in scenario.slow else 1.0
        executor = self.executors[name] = PacedExecutor(
            self.clock, lambda: pace * self.chance.choice((0.0, 0.001, 0.02, 0.3))
        )
        if name not in self.journals:
            key = self.identities[name].public.signing
            journal = FaultyJournal(None, party=name, role=role, signing=key, schedule=self.schedules[name])
            journal.wrote.append(lambda write, entries: self._wrote(name, write, entries))
            self.journals[name] = journal
        machine: Any = self._machine(name)
        self.machines[name] = machine
        if name == scenario.hostile and scenario.accomplice is not None:
            chance = Random(f"tertium simulation {scenario.seed} conspiracy {self.lives.get(name, 0)}")  # noqa: S311
            machine.conspire(self.identities[scenario.accomplice], chance)
        lanes = self.lanes[name] = SteppedLanes(
            name,
            self.network,
            {peer: address for peer, address in addresses(self.charter).items() if peer != name},
            listen=role.listens,
            frame_limit=limits.control_frame(len(self.charter.parties)),
            clock=clock,
        )
        self.parties[name] = self._party(name)(
            self,
            name,
            machine,
            lanes,
            self.identities[name],
            self.charter,
            report=lambda progress: self._reported(name, progress),
            executor=executor,
            clock=clock,
        )

    def _machine(self, name: str) -> Machine:
        if name != OWNER or not self.lives.get(name):
            return super()._machine(name)
        newest = self.store.newest()
        self.model = self.fresh_model()
        if newest is not None:
            self.model.load(newest[1])
        rounds, journal = newest[0] if newest is not None else 0, self.journals[name]
        identity = self.identities[name]
        view = View.kept_in(journal, identity, self.charter, self.handled[name].append)
        exchange = self._exchanges[name](identity, self.charter, view)
        return self._classes[name](
            identity,
            self.charter,
            exchange,
            journal,
            self.plan,
            self.model,
            self.store,
            rounds_done=rounds,
        )

    def fresh_model(self) -> GlobalModel:
        """Return the model as it is before the first round."""
        chosen = self.plan.optimiser
        optimiser = ServerOptimiser(chosen.name, dict(chosen.options), self.plan.reduction) if chosen else None
        return self.owner_task.global_model(self.plan.seed, optimiser or ServerOptimiser(reduction=self.plan.reduction))

    def _party(self, name: str) -> type[SimulatedParty]:
        if self.honest(name) or self.scenario.lie:
            return SimulatedParty
        from .hostile import HostileParty

        return HostileParty

    def _crash(self, name: str, plan: CrashPlan) -> None:
        self.note("crashes", name, plan.at, plan.number, plan.when)
        self.faults.vanish(name, plan.vanishes)
        self.parties.pop(name)
        self.lost.add(name)
        self.tell("crashed", name)
        if plan.back_after is not None:
            self._planned.append((self.clock.now + plan.back_after, name, "restart"))

    def _restart(self, name: str) -> None:
        self.note("restarts", name)
        self.lost.discard(name)
        self.lives[name] = self.lives.get(name, 0) + 1
        self._dues.pop(name, None)
        self.journals[name].reopen()  # type: ignore[attr-defined]
        self._add(name)
        for peer in self._dials(name):
            self.lanes[name].connect(peer)
        self.free_at[name] = self.clock.now

    # --- the schedule

    def play(self) -> list[str]:
        """Play to the end; return the invariants that broke, in words."""
        while not self.broken and self._goes_on():
            if self.clock.now > self._patience or self.steps > STEPS:
                self.tell("stuck", self._waiting())
                break
            self._do_planned()
            self.faults.flush()
            now = self.clock.now
            ready, soonest = self._ready(now)
            if ready:
                self._step(self.chance.choice(ready))
                continue
            planned = min((at for at, _, _ in self._planned), default=math.inf)
            following = min(planned, self.faults.due(), self._patience + 1, soonest)
            self.clock.now = max(math.nextafter(now, math.inf), following)
        if not self.broken:
            self.tell("over")
        return self.broken

    def _goes_on(self) -> bool:
        """Whether `_waiting` returns anybody, without making the list: this is asked before every step."""
        for name, party in self.parties.items():
            if not party.done and name not in self._liars:
                return True
        return any(what == "restart" for _, _, what in self._planned)

    def _waiting(self) -> list[str]:
        """Return the honest parties that have not ended, and those that will be back."""
        back = [name for _, name, what in self._planned if what == "restart"]
        return back + [name for name, party in self.parties.items() if not party.done and self.honest(name)]

    def _do_planned(self) -> None:
        if not self._planned:
            return
        now = self.clock.now
        for planned in [each for each in self._planned if each[0] <= now]:
            self._planned.remove(planned)
            _, name, what = planned
            if what == "restart":
                self._restart(name)
                continue
            if what == "leave":
                if name in self.parties and not self.parties[name].done:
                    self._crash(name, CrashPlan(name, "leaving", back_after=None))
                continue
            self.note(what.what, name, what.seconds)
            self._dues.pop(name, None)
            match what.what:
                case "jumps":
                    self.clocks[name].jump(what.seconds)
                case "stands still":
                    self.clocks[name].stand_still(what.seconds)
                case _:
                    self.free_at[name] = max(self.free_at[name], now) + what.seconds

    def _ready(self, now: float) -> tuple[list[str], float]:
        """Return who has something to do, and is free to, and when the first of the others will be."""
        ready, soonest = [], math.inf
        lanes: Mapping[str, Any] = self.lanes
        for name, party in self.parties.items():
            if party.done:
                continue
            at = self.free_at[name]
            if party._started and not lanes[name].pending:
                # What changes it, but for its own steps and its clock, shows as something to poll for.
                due = self._dues.get(name)
                if due is None:
                    due = self._dues[name] = self._due(name)
                at = due if due > at else at
            if at <= now:
                ready.append(name)
            elif at < soonest:
                soonest = at
        return ready, soonest

    def _due(self, name: str) -> float:
        party, when = self.parties[name], self.clocks[name].when
        deadline = party.next_deadline()
        return min(
            when(self.lanes[name].due()), math.inf if deadline is None else when(deadline), self.executors[name].due()
        )

    def _step(self, name: str) -> None:
        party, now = self.parties[name], self.clock.now
        self.steps += 1
        for_nothing, length = not self.lanes[name].pending, len(self.trace)  # type: ignore[attr-defined]
        pace = 10.0 if name in self.scenario.slow else 1.0
        self._dues.pop(name, None)
        self.free_at[name] = now + pace * STEP * self.chance.expovariate(1.0)
        try:
            party.step(0.0)
        except Crash as crash:
            self._crash(name, crash.args[0])
            return
        except Exception:
            if self.honest(name):
                # Anything that escapes a party is a bug: ours, or in how it is simulated.
                self.broken.append(f"NothingEscapes: {name} raised\n{traceback.format_exc()}")
            self._crash(name, CrashPlan(name, "exception", back_after=None))
            return
        self.tell("stepped", name)
        if party.done:
            self._ended(name, party)
            return
        idle = for_nothing and length == len(self.trace) and self._due(name) <= now
        self._spins[name] = self._spins[name] + 1 if idle else 0
        if self._spins[name] > SPINNING and self.honest(name):
            self.tell("spins", name)

    def _ended(self, name: str, party: Party) -> None:
        self.lanes[name].close()
        journal = self.journals[name]
        plan = self.schedules[name].fired[-1] if self.schedules[name].fired else None
        if isinstance(journal, FaultyJournal) and journal.is_full and plan is not None:
            # For everybody else this was a crash; its operator makes room and starts it again.
            self.parties.pop(name)
            self.lost.add(name)
            self.tell("crashed", name)
            if plan.back_after is not None:
                self._planned.append((self.clock.now + plan.back_after, name, "restart"))
        elif self.honest(name):
            self.tell("ended", name, party.error)
