"""A whole federation in one thread: the real role machines over in-memory lanes, with a clock that is moved by hand.

Nothing here is a mock: keys, charter, envelopes, transfers and machines are the ones that run in production; only the
lanes, the executor and the clock are others. `Federation.run` steps every party in turn and moves the clock on to the
next deadline when nothing is left to do, so a time-out costs no time.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from ..crypto.identity import Identity
from ..learning.task import GlobalModel, ServerOptimiser, Task, Trainer
from ..owner.machine import ModelOwner
from ..owner.store import OwnerStore
from ..protocol import limits
from ..protocol.charter import Charter, Mode, Party as CharterParty, Role, Rules, SchemeName
from ..protocol.exchange import Exchange, Handled
from ..protocol.lanes.memory_lanes import MemoryLanes, MemoryNetwork
from ..protocol.machine import Machine
from ..protocol.party import InlineExecutor, Party
from ..protocol.progress import Progress
from ..protocol.site import LocalLimits, OwnerPlan, Site, TaskEntry, addresses
from ..secure_worker.machine import SecureWorker
from ..workers.data_owner import DataOwner
from ..workers.evaluator import Evaluator

OWNER, THIRD = "owner", "third"


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def make_charter(
    identities: Mapping[str, Identity], roles: Mapping[str, Role], rules: Rules, *, days: int = 1
) -> Charter:
    """Return a charter of these parties, with made-up endpoints for those that listen."""
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
        federation="simulated",
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
    ) -> None:
        """Build the parties; `tasks` gives each data owner's, by name, and `owner_task` the model owner's."""
        self.clock = Clock()
        self.rules = rules or Rules(
            mode=Mode.TRUSTED, scheme=SchemeName(name="trusted"), minimum_cohort=min(5, len(tasks))
        )
        scorers = dict(evaluators or {})
        roles = {OWNER: Role.MODEL_OWNER, THIRD: Role.SECURE_WORKER}
        roles |= dict.fromkeys(tasks, Role.DATA_OWNER) | dict.fromkeys(scorers, Role.EVALUATOR)
        self.identities = {name: Identity.generate(name) for name in roles}
        self.charter = make_charter(self.identities, roles, self.rules)
        self.network = MemoryNetwork()
        self.progress: dict[str, list[Progress]] = {name: [] for name in roles}
        self.handled: dict[str, list[Handled]] = {name: [] for name in roles}
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
        for name in sorted(roles, key=lambda name: (not roles[name].listens, name)):
            exchange = Exchange(self.identities[name], self.charter, self.handled[name].append)
            machine = self._machine(name, roles[name], exchange, plan, store, {**tasks, **scorers}, limits_of or {})
            self._add(name, machine)
        for name, role in roles.items():
            for peer in (OWNER, THIRD):
                if peer != name and role is not Role.SECURE_WORKER and not (role is Role.EVALUATOR and peer == THIRD):
                    self.lanes[name].connect(peer)

    def _machine(
        self,
        name: str,
        role: Role,
        exchange: Exchange,
        plan: OwnerPlan,
        store: OwnerStore,
        tasks: Mapping[str, Task],
        limits_of: Mapping[str, LocalLimits],
    ) -> Machine:
        identity = self.identities[name]
        if role is Role.MODEL_OWNER:
            return ModelOwner(identity, self.charter, exchange, plan, self.model, store)
        if role is Role.SECURE_WORKER:
            return SecureWorker(identity, self.charter, exchange)
        trainers: dict[str, Trainer] = {plan.task: tasks[name].trainer()}
        entry = TaskEntry(factory="tertium.learning.numpy_task:NumpyTask")
        site = Site(limits=limits_of.get(name, LocalLimits()), tasks={plan.task: entry})
        kind = DataOwner if role is Role.DATA_OWNER else Evaluator
        return kind(identity, self.charter, exchange, site, trainers)

    def _add(self, name: str, machine: Machine) -> None:
        us = self.charter.party(name)
        lanes = MemoryLanes(
            name,
            self.network,
            {peer: address for peer, address in addresses(self.charter).items() if peer != name},
            listen=us.role.listens,
            frame_limit=limits.control_frame(len(self.charter.parties)),
            clock=self.clock,
        )
        self.lanes[name] = lanes
        self.parties[name] = Party(
            machine,
            lanes,
            self.identities[name],
            self.charter,
            report=self.progress[name].append,
            executor=InlineExecutor(),
            clock=self.clock,
        )

    def run(
        self, *, until: Callable[[], bool] | None = None, most_seconds: float = 3600.0, tick: float = 0.05
    ) -> dict[str, str | None]:
        """Step everybody until all are done, or `until` says so; return each finished party's error.

        Raises:
            TimeoutError: after `most_seconds` of simulated time; names who is not done.
        """
        while not (until() if until else all(party.done for party in self.parties.values())):
            for name, party in self.parties.items():
                if not party.done:
                    party.step(0.0)
                    if party.done:
                        self.lanes[name].close()
            self.clock.now += tick
            if self.clock.now > most_seconds:
                waiting = [f"{name} ({party.machine.phase.value})" for name, party in self.parties.items() if not party.done]
                raise TimeoutError(f"not done after {most_seconds:g} s: {', '.join(waiting)}")
        return {name: party.error for name, party in self.parties.items() if party.done}
