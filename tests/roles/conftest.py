"""Federations in one thread, and what tests ask of one that has run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tertium.crypto.sealing import RoundKey
from tertium.learning.numpy_task import NumpyTask, Planted
from tertium.learning.task import ServerOptimiser
from tertium.owner.machine import ModelOwner
from tertium.owner.store import OwnerStore
from tertium.protocol.charter import Deadlines, Mode, Rules, SchemeName
from tertium.protocol.codec import decode_as
from tertium.protocol.lanes.memory_lanes import Delivery
from tertium.protocol.messages import CloseList, RequestCosignature, RoundRecord, RoundStatement
from tertium.protocol.progress import Ended, Progress, RefusedProgress, RoundDone, Said
from tertium.protocol.rounds import Phase
from tertium.protocol.site import OwnerPlan
from tertium.protocol.statements import sign
from tertium.simulation.federation import OWNER, Federation, Network
from tertium.workers.data_owner import DataOwner

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace")
TASK = "regression"


class Run(Federation):
    """A federation that keeps every vector its data owners encode, and answers questions about what happened."""

    def __init__(self, *args: Any, machines: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.encoded: dict[tuple[str, int], Any] = {}
        """What each data owner encoded, by name and round: the one thing that no party but itself should see."""
        self.updates: dict[tuple[str, int], Any] = {}
        given = dict(machines or {})
        for name in args[0]:
            given[name] = self._watched(given.get(name, DataOwner))
        self.owner_task = args[1]
        super().__init__(*args, machines=given, **kwargs)

    def _watched(self, kind: type[DataOwner]) -> type[DataOwner]:
        run = self

        class Watched(kind):  # type: ignore[valid-type,misc]
            def worked(self, tag: str, result: Any, now: float) -> None:
                if self.asked is not None and hasattr(result, "words"):
                    run.encoded[(self.name, self.asked.question.round)] = result.words.copy()
                    run.updates[(self.name, self.asked.question.round)] = result.update
                super().worked(tag, result, now)

        return Watched

    def restart(self, name: str, *, after: float = 0.2) -> None:
        """End a party as a crash does, and start it again with the same journal (and checkpoints) a little later."""
        self.lose(name)
        back = self.clock.now + after
        while self.clock.now < back:
            self.turn()
            self.clock.now += 0.02
        if name == OWNER:
            self.begin_again()
        self._add(name)
        for peer in self._dials(name):
            self.lanes[name].connect(peer)

    def begin_again(self) -> None:
        """Give the model owner's next process its model, from the newest checkpoint if there is one."""
        self.model = self.owner_task.global_model(self.plan.seed, ServerOptimiser(None, {}, self.plan.reduction))
        newest = self.store.newest()
        if newest is not None:
            self.model.load(newest[1])

    def _machine(self, name: str) -> Any:
        newest = self.store.newest()
        if name != OWNER or newest is None:
            return super()._machine(name)
        kind, done = self._classes.get(name, ModelOwner), newest[0]
        self._classes[name] = lambda *args: kind(*args, rounds_done=done)
        try:
            return super()._machine(name)
        finally:
            self._classes[name] = kind

    def said(self, name: str, kind: type[Progress] = Said) -> list[Any]:
        return [progress for progress in self.progress[name] if isinstance(progress, kind)]

    def refused(self, name: str) -> list[str]:
        """The names of the errors with which a party refused something."""
        return [progress.code for progress in self.said(name, RefusedProgress)]

    @property
    def all_refused(self) -> list[str]:
        return [code for name in self.progress for code in self.refused(name)]

    @property
    def released(self) -> list[int]:
        return [done.round for done in self.said("owner", RoundDone)]

    def ended(self, name: str) -> str | None:
        (end,) = self.said(name, Ended)
        return end.error

    def record(self, number: int, holder: str = "third") -> RoundRecord:
        path = self.store.folder / "records" / f"round-{number:06d}.{holder}.record"
        return decode_as(RoundRecord, path.read_bytes())

    def statement(self, number: int, holder: str = "third") -> RoundStatement:
        return decode_as(RoundStatement, self.record(number, holder).statement.statement)

    def no_trace_of_an_aggregate(self) -> None:
        """Nothing was released, applied or written, and everybody ended with a sentence."""
        assert not self.released
        assert not self.closed_lists
        assert not list((self.store.folder / "checkpoints").iterdir())
        assert not list((self.store.folder / "records").iterdir())
        assert not [handled for handled in self.handled["owner"] if not handled.sealed]

    @property
    def closed_lists(self) -> list[CloseList]:
        return [intake for intake in self.handled["third"] if intake.sealed]


class Wire(Network):
    """A network whose deliveries a test may change: `change` returns one, or None to lose it."""

    def __init__(self, change: Callable[[Delivery], Delivery | None]) -> None:
        super().__init__()
        self.change = change

    def deliver(self, delivery: Delivery) -> None:
        changed = self.change(delivery)
        if changed is not None:
            self.put(changed)


class Sums(ModelOwner):
    """A model owner whose totals a test can look at."""

    def _apply(self, question: Any, total: Any, contributors: int, *, scored: bool) -> Any:
        self.total = total.copy()
        return super()._apply(question, total, contributors, scored=scored)


class Hesitant(DataOwner):
    """Takes a moment to cosign, so that the model owner has to wait for the record of a round."""

    asked_to_sign: tuple[float, str, Any] | None = None

    def receive(self, peer: str, message: Any, now: float) -> None:
        if isinstance(message, RequestCosignature) and self.asked_to_sign is None:
            self.asked_to_sign = (now + 0.3, peer, message)
        else:
            super().receive(peer, message, now)

    def tick(self, now: float) -> None:
        if self.asked_to_sign is not None and now >= self.asked_to_sign[0]:
            _, peer, message = self.asked_to_sign
            super().receive(peer, message, now)
            self.asked_to_sign = None
        super().tick(now)

    def next_deadline(self) -> float | None:
        waits = [self.asked_to_sign[0]] if self.asked_to_sign is not None else []
        return min([*waits, *(at for at in [super().next_deadline()] if at is not None)], default=None)


class Slow(Hesitant):
    """Takes a second to train, so that the set is not closed before."""

    def worked(self, tag: str, result: Any, now: float) -> None:
        if not hasattr(self, "held"):
            self.held = (tag, result)
            self.until = now + 1.0
        else:
            super().worked(tag, result, now)

    def tick(self, now: float) -> None:
        if hasattr(self, "held") and now >= self.until and self.phase is Phase.TRAINING:
            self.worked(*self.held, now)
        super().tick(now)

    def next_deadline(self) -> float | None:
        return self.until if getattr(self, "until", 0) and self.phase is Phase.TRAINING else super().next_deadline()


class Still:
    """A federation that stands still, and the statements of its parties."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asking = run.machines["owner"]._asking
        self.key = RoundKey().public

    @property
    def name(self) -> bytes:
        return self.asking.name

    @property
    def session(self) -> bytes:
        return self.run.machines["owner"]._session

    def by(self, signer: str, statement: Any) -> Any:
        return sign(self.run.identities[signer], statement)

    def again(self, signer: str, signed: Any, kind: Any, **changes: Any) -> Any:
        """A statement that was made, with other fields."""
        return self.by(signer, msgspec.structs.replace(msgspec.msgpack.decode(signed.statement, type=kind), **changes))

    def say(self, to: str, peer: str, message: Any) -> None:
        machine = self.run.machines[to]
        machine.receive(peer, message, self.run.clock.now)

    def refuses(self, case: tuple[str, str, Callable[["Still"], Any], type[Exception]]) -> None:
        """See that (to whom, from whom, what, which error) is refused, and changes and answers nothing."""
        to, peer, message, error = case
        machine = self.run.machines[to]
        before = machine.phase
        with pytest.raises(error) as raised:
            self.say(to, peer, message(self))
        assert raised.type is error
        assert machine.phase is before
        assert not machine.take_effects()


class Maker:
    """Makes federations of numpy tasks: linear regressions on synthetic rows, small enough to run in milliseconds."""

    names = NAMES
    task = TASK
    wire = Wire
    sums = Sums
    slow = Slow
    hesitant = Hesitant

    @staticmethod
    def silent_about(kind: type[Any]) -> type[DataOwner]:
        """A data owner that never sends messages of one kind."""

        class Silent(DataOwner):
            def send(self, peer: str, message: Any) -> None:
                if not isinstance(message, kind):
                    super().send(peer, message)

        return Silent

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def rules(self, minimum: int = 3, **changes: Any) -> Rules:
        said = {"mode": Mode.TRUSTED, "scheme": SchemeName(name="trusted"), "minimum_cohort": minimum}
        return Rules(**{**said, **changes})

    def plan(self, **changes: Any) -> OwnerPlan:
        return OwnerPlan(**{"task": TASK, "rounds": 1, "seed": 7, **changes})

    def __call__(
        self,
        parties: int = 3,
        *,
        minimum: int = 3,
        examples: Callable[[int], int] = lambda index: 20 + 5 * index,
        plan: OwnerPlan | None = None,
        rules: Rules | None = None,
        planted: int = 0,
        tasks: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Run:
        names = NAMES[:parties]
        given: dict[str, Any] = {
            name: Planted(parameters=planted, pattern=0.25 * (at + 1))
            if planted
            else NumpyTask(party=at, examples=examples(at))
            for at, name in enumerate(names)
        }
        given.update(tasks or {})
        owner_task = Planted(parameters=planted) if planted else NumpyTask(test_examples=10)
        self.made += 1
        return Run(
            given,
            owner_task,
            plan or self.plan(),
            OwnerStore(self.folder / f"owner-{self.made}", "npz"),
            rules=rules or self.rules(minimum),
            **more,
        )


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    # a dozen small files a round; whether they survive a power failure is not what is tested here
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Maker(tmp_path)


@pytest.fixture(scope="module")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes federations that several tests look at, or send to what is refused and changes nothing."""
    return Maker(tmp_path_factory.mktemp("once"))


@pytest.fixture(scope="module")
def still() -> type[Still]:
    return Still


@pytest.fixture
def plain_sum() -> Callable[[Run, int, tuple[str, ...]], Any]:
    """The sum of what some data owners encoded, in plain Python integers modulo the word size."""

    def add(run: Run, number: int, names: tuple[str, ...]) -> Any:
        vectors = [run.encoded[(name, number)] for name in names]
        bits = 8 * vectors[0].dtype.itemsize
        if vectors[0].size > 10_000:
            wide = np.sum([vector.astype(np.uint64) for vector in vectors], axis=0, dtype=np.uint64)
            return (wide & np.uint64(2**bits - 1)).astype(vectors[0].dtype)
        total = [sum(words) % 2**bits for words in zip(*(vector.tolist() for vector in vectors), strict=True)]
        return np.array(total, vectors[0].dtype)

    return add


@pytest.fixture
def against(make: Maker, plain_sum: Any) -> Callable[..., Run]:
    """Run a round of four in which bob is of a hostile class, and see that the others are summed exactly."""

    def run_it(
        hostile: Any = None, *, contributors: tuple[str, ...] = ("alice", "carol", "dave"), rounds: int = 1, **more: Any
    ) -> Run:
        machines = {"owner": Sums, **({"bob": hostile} if hostile else {}), **more.pop("machines", {})}
        more.setdefault("rules", make.rules(deadlines=Deadlines(join=10, upload=50, close=10)))
        run = make(4, machines=machines, plan=make.plan(rounds=rounds), **more)
        errors = run.run()
        assert not [error for name, error in errors.items() if name != "bob" and error]
        assert run.released[0] == 1
        assert run.statement(1).contributors == contributors
        if rounds == 1:
            np.testing.assert_array_equal(run.machines["owner"].total, plain_sum(run, 1, contributors))
        return run

    return run_it
