"""A whole federation in one thread: the real role machines over in-memory lanes, with a clock that is moved by hand.

Nothing here is a mock: keys, charter, envelopes, transfers and machines are the ones that run in production; only the
lanes, the executor and the clock are others.

- `Federation.run` steps every party in turn, in `order`, and moves the clock on by one `tick` a turn. When nothing is
  under way the clock goes to the next deadline of anybody, so a time-out costs no time.
- A fault is put in by giving one party another class (`machines`, `exchanges`) or all of them another `network`; the
  rest notice nothing but what that party or that network does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..crypto.identity import Identity
from ..learning.task import GlobalModel, ServerOptimiser, Task
from ..owner.machine import ModelOwner
from ..owner.store import OwnerStore
from ..protocol import limits
from ..protocol.charter import Charter, Mode, Role, Rules, SchemeName
from ..protocol.charter import Party as CharterParty
from ..protocol.exchange import Exchange
from ..protocol.journal import Journal
from ..protocol.lanes.memory_lanes import Delivery, MemoryLanes, MemoryNetwork
from ..protocol.machine import Machine
from ..protocol.openings import OpeningStore
from ..protocol.party import InlineExecutor, Party
from ..protocol.progress import Progress
from ..protocol.site import LocalLimits, OwnerPlan, Site, TaskEntry, addresses
from ..protocol.view import Handled, View
from ..secure_worker.machine import SecureWorker
from ..workers.data_owner import DataOwner
from ..workers.evaluator import Evaluator

OWNER, THIRD = "owner", "third"
SETTLED = 2
"""Turns without a delivery after which nothing is under way: what happens to a connection is answered within one."""

MachineClass = Callable[..., Machine]
"""A role's class, or one derived from it; called with what that role's constructor takes."""


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Network(MemoryNetwork):
    """A network that counts what it carries, so that a simulation knows when all is quiet."""

    def __init__(self) -> None:
        super().__init__()
        self.carried = 0

    def put(self, delivery: Delivery) -> None:
        """Hand over a delivery, and count it."""
        self.carried += 1
        super().put(delivery)


def make_charter(
    identities: Mapping[str, Identity],
    roles: Mapping[str, Role],
    rules: Rules,
    *,
    days: int = 1,
    federation: str = "simulated",
) -> Charter:
    """Return a charter of these parties, good for `days`, with made-up endpoints for those that listen."""
    parties = []
    for number, (name, role) in enumerate(sorted(roles.items())):
        public, port = identities[name].public, 20_000 + 2 * number
        parties.append(
            CharterParty(
                name=name,
                role=role,
                signing=public.signing,
                curve=public.curve,
                control=f"tcp://127.0.0.1:{port}" if role.listens else None,
                bulk=f"tcp://127.0.0.1:{port + 1}" if role.listens else None,
            )
        )
    return Charter(
        version=1,
        federation=federation,
        serial=1,
        not_after=datetime.now(UTC) + timedelta(days=days),
        rules=rules,
        parties=tuple(parties),
    )


class Federation:
    """Parties of a charter in memory, ready to step."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        owner_task: Task,
        plan: OwnerPlan,
        store: OwnerStore,
        *,
        rules: Rules | None = None,
        evaluators: Mapping[str, Task] | None = None,
        limits_of: Mapping[str, LocalLimits] | None = None,
        machines: Mapping[str, MachineClass] | None = None,
        exchanges: Mapping[str, type[Exchange]] | None = None,
        network: Network | None = None,
        order: Sequence[str] | None = None,
        workers: Sequence[str] = (THIRD,),
        openings: Path | None = None,
        charter: Charter | None = None,
        identities: Mapping[str, Identity] | None = None,
    ) -> None:
        """Build the parties.

        Args:
            tasks: each data owner's, by name; whoever stands here is a data owner.
            owner_task: the model owner's side of the same task.
            plan: what the model owner wants.
            store: where it writes.
            rules: the charter's; mode `trusted` with a minimum cohort of at most 5 by default.
            evaluators: each evaluator's task, by name.
            limits_of: what a data owner's or evaluator's own site file allows, by name.
            machines: another class for some parties, by name.
            exchanges: another exchange for some parties, by name.
            network: what joins them.
            order: in which they take turns, all names once; listening parties first by default.
            workers: the names of the secure workers.
            openings: where model owner and data owners keep what they could open to an auditor, a folder each.
            charter: one that is there already, of exactly these parties; its rules are the ones that hold.
            identities: everybody's keys, where there is a charter.

        Raises:
            CharterError: there are fewer data owners than the rules' minimum, or the rules are none.
        """
        self.clock = Clock()
        self.plan, self.store = plan, store
        if charter is not None:
            rules = charter.rules
        self.rules = rules or Rules(
            mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=min(5, len(tasks))
        )
        scorers = dict(evaluators or {})
        self.tasks: dict[str, Task] = {**tasks, **scorers}
        self.limits_of = dict(limits_of or {})
        self.workers = tuple(workers)
        self.openings = openings
        self.roles = {OWNER: Role.MODEL_OWNER, **dict.fromkeys(self.workers, Role.SECURE_WORKER)}
        self.roles |= dict.fromkeys(tasks, Role.DATA_OWNER) | dict.fromkeys(scorers, Role.EVALUATOR)
        self.identities = dict(identities or {name: Identity.generate(name) for name in self.roles})
        self.charter = charter or make_charter(self.identities, self.roles, self.rules)
        self.network = network or Network()
        self.progress: dict[str, list[Progress]] = {name: [] for name in self.roles}
        """What each party told its own operator."""
        self.handled: dict[str, list[Handled]] = {name: [] for name in self.roles}
        """What each party sealed and opened."""
        self.machines: dict[str, Machine] = {}
        self.journals: dict[str, Journal] = {}
        self.parties: dict[str, Party] = {}
        self.lanes: dict[str, MemoryLanes] = {}
        self.model: GlobalModel = owner_task.global_model(
            plan.seed,
            ServerOptimiser(
                plan.optimiser.name if plan.optimiser else None,
                dict(plan.optimiser.options) if plan.optimiser else {},
                plan.reduction,
            ),
        )
        store.prepare()
        self._classes: Mapping[str, MachineClass] = machines or {}
        self._exchanges: Mapping[str, type[Exchange]] = exchanges or {}
        for name in order or sorted(self.roles, key=lambda name: (not self.roles[name].listens, name)):
            self._add(name)
        for name in self.parties:
            for peer in self._dials(name):
                self.lanes[name].connect(peer)

    def reporter(self, name: str) -> Callable[[Progress], None]:
        """Return what takes a party's progress."""
        return self.progress[name].append

    def observer(self, name: str) -> Callable[[Handled], None]:
        """Return what is told of each envelope that a party seals or opens."""
        return self.handled[name].append

    def _dials(self, name: str) -> tuple[str, ...]:
        """Return whom a party opens connections to, as the commands do."""
        match self.roles[name]:
            case Role.MODEL_OWNER:
                return self.workers
            case Role.DATA_OWNER:
                return (OWNER, *self.workers)
            case Role.EVALUATOR:
                return (OWNER,)
            case Role.SECURE_WORKER:
                return ()

    def _machine(self, name: str) -> Machine:
        identity, role = self.identities[name], self.roles[name]
        journal = self.journals.setdefault(name, Journal.of(identity, role))
        view = View.kept_in(journal, identity, self.charter, self.observer(name))
        exchange = self._exchanges.get(name, Exchange)(identity, self.charter, view, self._opening_store(name))
        if role is Role.MODEL_OWNER:
            owner: MachineClass = self._classes.get(name, ModelOwner)
            return owner(identity, self.charter, exchange, journal, self.plan, self.model, self.store)
        if role is Role.SECURE_WORKER:
            worker: MachineClass = self._classes.get(name, SecureWorker)
            return worker(identity, self.charter, exchange, journal)
        task = self.plan.task
        # The site looks a factory up by its name only to load it; here the trainer is given.
        entry = TaskEntry(factory="tertium.learning.numpy_task:NumpyTask")
        site = Site(limits=self.limits_of.get(name, LocalLimits()), tasks={task: entry})
        recipient: MachineClass = self._classes.get(name, DataOwner if role is Role.DATA_OWNER else Evaluator)
        return recipient(identity, self.charter, exchange, journal, site, {task: self.tasks[name].trainer()})

    def _opening_store(self, name: str) -> OpeningStore | None:
        if self.openings is None or self.roles[name] not in (Role.DATA_OWNER, Role.MODEL_OWNER):
            return None
        self.openings.mkdir(exist_ok=True)
        return OpeningStore(self.openings / name)

    def _add(self, name: str) -> None:
        machine = self.machines[name] = self._machine(name)
        lanes = self.lanes[name] = MemoryLanes(
            name,
            self.network,
            {peer: address for peer, address in addresses(self.charter).items() if peer != name},
            listen=self.roles[name].listens,
            frame_limit=limits.control_frame(len(self.charter.parties)),
            clock=self.clock,
        )
        self.parties[name] = Party(
            machine,
            lanes,
            self.identities[name],
            self.charter,
            report=self.reporter(name),
            executor=InlineExecutor(),
            clock=self.clock,
        )

    @property
    def errors(self) -> dict[str, str | None]:
        """What each party that is done says went wrong, None for nothing."""
        return {name: party.error for name, party in self.parties.items() if party.done}

    def lose(self, name: str) -> None:
        """End a party as a crash does: its connections break and it takes no further turn."""
        self.network.stop(name)
        self.parties.pop(name)

    def turn(self) -> None:
        """Let every party take one turn; one that is done leaves the network."""
        for name, party in list(self.parties.items()):
            if party.done:
                self.lanes[name].close()
            else:
                party.step(0.0)

    def run(
        self, *, until: Callable[[], object] | None = None, most_seconds: float = 3600.0, tick: float = 0.01
    ) -> dict[str, str | None]:
        """Take turns until all are done, or `until` says so; return each finished party's error.

        Raises:
            TimeoutError: after `most_seconds` of simulated time; names who is not done.
        """
        quiet = 0
        while not (until() if until else all(party.done for party in self.parties.values())):
            carried, ended = self.network.carried, len(self.errors)
            self.turn()
            quiet = quiet + 1 if (self.network.carried, len(self.errors)) == (carried, ended) else 0
            self.clock.now += tick
            if quiet > SETTLED:
                quiet = 0  # a deadline may begin something that shows in no delivery at first
                self.clock.now = max(self.clock.now, self._next_deadline(most_seconds))
            if self.clock.now > most_seconds:
                waiting = [
                    f"{name} ({party.machine.phase.value})" for name, party in self.parties.items() if not party.done
                ]
                raise TimeoutError(f"not done after {most_seconds:g} s: {', '.join(waiting)}")
        return self.errors

    def _next_deadline(self, most: float) -> float:
        """Return when somebody has something to do of itself, or just after `most` if nobody ever has."""
        due = [self.lanes[name].due() for name, party in self.parties.items() if not party.done]
        due += [at for party in self.parties.values() if not party.done and (at := party.next_deadline()) is not None]
        return min([*due, math.nextafter(most, math.inf)])
