"""Federations whose parties are killed, and what must hold afterwards: read from files and lines, never from memory.

The oracle knows no protocol. It trains every data owner's numpy task itself, on the model it has worked out for the
round before, adds the encoded vectors of a set as Python integers, and takes the step. Which set it was is what every
secure worker's journal says about that very model, and every record and every data owner's journal has to agree.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from forks import Forked, run
from tertium.crypto.identity import verify
from tertium.crypto.labels import Label, digest
from tertium.learning.task import ServerOptimiser, Task
from tertium.owner.memory import AbortKept as OwnersAbort
from tertium.protocol.charter import Role
from tertium.protocol.codec import decode_as
from tertium.protocol.journal import Journal
from tertium.protocol.ledger import Act, HeldKept
from tertium.protocol.ledger_file import LedgerFile
from tertium.protocol.messages import Abort, OpenRound, RoundRecord, RoundStatement, Signed
from tertium.protocol.seats import Seats
from tertium.protocol.session import contributor_set
from tertium.protocol.site import OwnerPlan
from tertium.protocol.statements import open_signed
from tertium.protocol.training import model_digest
from tertium.protocol.vector import decode_vector, encode_vector
from tertium.secure_worker.gate import ModelKept, SlotKept
from tertium.secure_worker.memory import AbortKept as HoldersAbort
from tertium.secure_worker.memory import QuestionKept, ReleaseKept
from tertium.workers.memory import AbortKept as WorkersAbort
from tertium.workers.memory import SummedKept

OWNER, THIRD, SCORER = "owner", "third", "vera"
DATA_OWNERS = ("alice", "bob", "carol", "dave", "erin")
HERE = Path(__file__).parent
COMMANDS = {
    Role.MODEL_OWNER: "owner",
    Role.SECURE_WORKER: "secure-worker",
    Role.DATA_OWNER: "worker",
    Role.EVALUATOR: "evaluator",
}
ABORTS = {Role.MODEL_OWNER: OwnersAbort, Role.SECURE_WORKER: HoldersAbort}
KILLED = -signal.SIGKILL
PROGRAM = "import sys; from victim import run; sys.exit(run())"
Step = tuple[str, str, int, str, int]
"""Action, place, number, before or after, since: see `victim.py`."""


@dataclass
class Life:
    """One process of a party."""

    name: str
    number: int
    folder: Path
    process: subprocess.Popen | Forked
    begun: float
    plan: list[Step]
    ended: float | None = None

    @property
    def out(self) -> str:
        return (self.folder / f"{self.name}.{self.number}.out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / f"{self.name}.{self.number}.err").read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its progress; a last line that was cut off by its end is left out."""
        return [json.loads(line) for line in self.out.splitlines(keepends=True) if line.endswith("}\n")]

    @property
    def places(self) -> list[tuple[float, str]]:
        path = self.folder / f"{self.name}.{self.number}.places"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), place) for at, _, place in (line.partition(" ") for line in lines)]

    def code(self) -> int | None:
        """Return the exit status, or None while it runs; notes when that was first seen."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            self.ended = time.monotonic()
        return code

    def first(self, event: str, **fields: Any) -> dict[str, Any] | None:
        matches = (line for line in self.lines if line["event"] == event)
        return next((line for line in matches if all(line.get(key) == value for key, value in fields.items())), None)


@dataclass
class Killable:
    """A federation on disk, and every process it has had."""

    place: Any
    gate: Path
    rounds: int
    lives: dict[str, list[Life]] = field(default_factory=dict)

    def start(self, name: str, plan: list[Step] | None = None) -> Life:
        """Start a party's process, by the command its operator would use now."""
        role, root = self.place.roles[name], self.place.root
        command = [COMMANDS[role], "run", "--json", "--party", str(root / name)]
        command += ["--charter", str(root / "charter.toml")]
        if role is Role.SECURE_WORKER:
            command.append("--once")
        if role is Role.MODEL_OWNER:
            command.append("--resume")
        number = len(self.lives.setdefault(name, []))
        files = (root / f"{name}.{number}.out", root / f"{name}.{number}.err")
        words = (json.dumps(plan or []), str(root / f"{name}.{number}.places"), *command)
        process = run(self.place.forks, PROGRAM, words, *files, {**os.environ, "PYTHONPATH": search_path()})
        life = Life(name, number, root, process, time.monotonic(), list(plan or []))
        self.lives[name].append(life)
        return life

    def start_all(self, plans: dict[str, list[Step]] | None = None) -> None:
        for name in sorted(self.place.roles, key=lambda name: not self.place.roles[name].listens):
            self.start(name, (plans or {}).get(name))

    def now(self, name: str) -> Life:
        return self.lives[name][-1]

    def all_lives(self) -> list[Life]:
        return [life for lives in self.lives.values() for life in lives]

    def until(self, what: Any, within: float) -> float:
        """Wait until `what()` is true; return for how long."""
        begun = time.monotonic()
        while not what():
            assert time.monotonic() - begun < within, f"not within {within} s:\n{self.story()}"
            time.sleep(0.02)
        return time.monotonic() - begun

    def all_ended(self) -> bool:
        codes = [self.now(name).code() for name in self.lives]
        return None not in codes

    def story(self) -> str:
        """Return what everybody said, for a person who reads a failure."""
        parts = []
        for life in self.all_lives():
            lines = [json.dumps(line) for line in life.lines[-14:]]
            places = [f"{at - self.lives[OWNER][0].begun:.2f} {place}" for at, place in life.places[-8:]]
            parts.append(
                f"== {life.name} {life.number}: status {life.code()} {life.plan}\n"
                + "\n".join([*lines, *life.err.splitlines()[-6:], " | ".join(places)])
            )
        return "\n".join(parts)

    def stop(self) -> None:
        for life in self.all_lives():
            if life.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(life.process.pid, signal.SIGKILL)
                life.process.wait(10)

    # --- what is on the disk

    def state(self, name: str) -> Path:
        return self.place.root / name / "state"

    def checkpoints(self) -> dict[int, Path]:
        return {int(path.name[6:12]): path for path in (self.state(OWNER) / "checkpoints").glob("round-*")}

    @property
    def done(self) -> int:
        """How many rounds are in the newest checkpoint."""
        return max(self.checkpoints(), default=0)

    @property
    def workers(self) -> list[str]:
        return [name for name, role in self.place.roles.items() if role is Role.SECURE_WORKER]

    @property
    def model(self) -> Path | None:
        return next(self.state(OWNER).glob("model.*"), None)

    def entries(self, name: str, kind: Any) -> list[Any]:
        """Return what a party that has ended wrote down, of one kind."""
        identity, path = self.place.identities[name], self.state(name) / "journal.db"
        if not path.exists():
            return []
        journal = Journal(path, party=name, role=self.place.roles[name], signing=identity.public.signing)
        try:
            return journal.all(kind)
        finally:
            journal.close()

    def aborts(self) -> list[Abort]:
        """Return every signed abort that is in any journal; the signatures verify."""
        kept = [(name, ABORTS.get(role, WorkersAbort)) for name, role in self.place.roles.items()]
        signed = [(name, entry.abort) for name, kind in kept for entry in self.entries(name, kind)]
        said = [(name, open_signed(self.place.charter, abort, Abort)) for name, abort in signed]
        assert all(name == abort.party for name, abort in said)
        return [abort for _, abort in said]

    def records(self) -> dict[int, dict[str, RoundRecord]]:
        """Return by round, and then by secure worker, what the model owner keeps of it."""
        kept: dict[int, dict[str, RoundRecord]] = {}
        for path in (self.state(OWNER) / "records").glob("*.record"):
            _, number, holder, _ = path.name.replace("-", ".").split(".")
            kept.setdefault(int(number), {})[holder] = decode_as(RoundRecord, path.read_bytes())
        return kept

    def nothing_is_half_written(self) -> None:
        """Every journal is sound, and every file that has its name is whole; `exact` reads the rest."""
        for name in self.place.roles:
            path = self.state(name) / "journal.db"
            if path.exists():
                with contextlib.closing(sqlite3.connect(path)) as db:
                    assert db.execute("pragma integrity_check").fetchall() == [("ok",)], name
        self.ledgers_are_what_was_signed_for()
        for number, records in self.records().items():
            for holder, record in records.items():
                statement = open_signed(self.place.charter, record.statement, RoundStatement, Role.SECURE_WORKER)
                assert statement.holder == holder, number
                for cosignature in record.cosignatures:
                    key = self.place.charter.party(cosignature.party).signing
                    verify(key, Label.ROUND_STATEMENT, record.statement.statement, cosignature.signature, party=None)
                named = {cosignature.party for cosignature in record.cosignatures} | set(record.absent)
                assert named == {OWNER, *statement.contributors}, number

    def ledgers_are_what_was_signed_for(self) -> None:
        """No kill took back an entry that anybody saw a checkpoint of, nor the entry of a release that was sent."""
        held: dict[str, list[Signed]] = {}
        for name in self.place.roles:
            for kept in self.entries(name, HeldKept):
                held.setdefault(kept.party, []).append(kept.signed)
        for name in self.place.roles:
            path = self.state(name) / "journal.db"
            if not path.exists():
                continue
            with LedgerFile(path, name) as ledger:
                last = ledger.last_signed()
                for signed in [*held.get(name, ()), *([] if last is None else [last])]:
                    ledger.accept(self.place.charter, signed)
                released = {entry.round for _, entry in ledger.entries() if entry.act is Act.RELEASED}
            if name in self.workers:
                assert {kept.round for kept in self.entries(name, SlotKept)} <= released, name

    def nothing_is_left_over(self) -> None:
        """No process that was killed has left a file it was writing."""
        assert not [path for path in self.state(OWNER).rglob("*") if path.name.endswith(".new")]

    # --- the outcome rule

    def exact(self, oracle: "Oracle") -> list[tuple[str, ...]]:
        """Every checkpoint is the oracle's, bit for bit, over a set all journals agree on; return the sets."""
        gates = {name: {kept.model: kept for kept in self.entries(name, ModelKept)} for name in self.workers}
        data_owners = [name for name, role in self.place.roles.items() if role is Role.DATA_OWNER]
        summed = {name: {kept.model: kept for kept in self.entries(name, SummedKept)} for name in data_owners}
        records, checkpoints, sets = self.records(), self.checkpoints(), []
        quorum = Seats(self.place.charter).quorum
        oracle.reset()
        for number in range(1, self.done + 1):
            name = oracle.model_name
            bound = [gate[name].contributors for gate in gates.values() if name in gate]
            assert len(bound) >= quorum, f"round {number} was applied and never released"
            (released,) = set(bound)
            contributors = next(
                chosen for chosen in subsets(data_owners, oracle.minimum) if contributor_set(chosen) == released
            )
            for party in data_owners:
                kept = summed[party].get(name)
                assert kept is None or (party in contributors and kept.contributors == released), (number, party)
            for record in records.get(number, {}).values():
                said = open_signed(self.place.charter, record.statement, RoundStatement)
                assert said.contributors == contributors, number
            oracle.step(number, contributors)
            if number in checkpoints:
                assert checkpoints[number].read_bytes() == oracle.saved(), f"round {number} over {contributors}"
            sets.append(contributors)
        if self.model is not None:
            assert self.done == self.rounds
            assert self.model.read_bytes() == oracle.saved()
        return sets

    def kept_release(self, oracle: "Oracle") -> tuple[str, ...]:
        """Return over which set the round after the newest checkpoint was released, if its bytes wait for the owner."""
        self.exact(oracle)
        kept = self.entries(THIRD, ReleaseKept)
        if not kept:
            return ()
        statement = open_signed(self.place.charter, kept[0].statement, RoundStatement, Role.SECURE_WORKER)
        asked = self.entries(THIRD, QuestionKept)
        question = open_signed(self.place.charter, asked[0].open_round, OpenRound, Role.MODEL_OWNER)
        if question.round != self.done + 1 or question.model != oracle.model_name:
            return ()
        with contextlib.closing(sqlite3.connect(self.state(THIRD) / "journal.db")) as db:
            subjects = {row[0] for row in db.execute("select subject from bodies")}
        assert subjects == {statement.release}
        return statement.contributors

    @property
    def opened(self) -> int:
        """The last round that anybody was asked."""
        rounds = [line["round"] for life in self.all_lives() for line in life.lines if line["event"] == "round-opened"]
        return max(rounds, default=0)


def lives_ended_well(federation: Killable, *, killed: int) -> None:
    """Whoever was not killed ended in order, or with one sentence."""
    ends = {(life.name, life.number): life.code() for life in federation.all_lives()}
    assert list(ends.values()).count(KILLED) == killed, federation.story()
    for life in federation.all_lives():
        assert "Traceback" not in life.err, federation.story()
        if life.code() == KILLED:
            assert life.places[-1][1] == "kill"
        elif life.code() == 0:
            assert life.err == "", federation.story()
            assert life.first("ended") == {"event": "ended"}
        else:
            assert life.code() in (3, 143), federation.story()
            assert len(life.err.splitlines()) == (1 if life.code() == 3 else 0), federation.story()
            (ended,) = [line for line in life.lines if line["event"] == "ended"]
            assert ended["error"], federation.story()


def search_path() -> str:
    """Return where a process that imports `victim` looks for modules."""
    return os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def subsets(names: list[str], least: int) -> list[tuple[str, ...]]:
    """Return every set of at least so many."""
    return [chosen for size in range(least, len(names) + 1) for chosen in combinations(sorted(names), size)]


def plain_sum(vectors: list[Any]) -> Any:
    """Return the sum modulo the word size, in Python's integers; of long vectors, in integers twice as wide."""
    dtype = vectors[0].dtype
    if vectors[0].size > 10_000:
        assert dtype == np.uint32
        wide = np.sum([vector.astype(np.uint64) for vector in vectors], axis=0, dtype=np.uint64)
        return (wide & np.uint64(2**32 - 1)).astype(dtype)
    size = 2 ** (8 * dtype.itemsize)
    return np.array([sum(words) % size for words in zip(*(vector.tolist() for vector in vectors), strict=True)], dtype)


class Oracle:
    """What the model is after each round, worked out without a protocol, in plain integers."""

    def __init__(self, place: Any, tasks: dict[str, Task], owner: Task, plan: OwnerPlan) -> None:
        self.minimum = place.charter.rules.minimum_cohort
        self._tasks, self._owner = tasks, owner
        self._plan, self._charter = plan, place.charter
        self._scratch = place.root / "oracle.npz"
        self.reset()

    def reset(self) -> None:
        """Go back to before the first round."""
        self._model = self._owner.global_model(self._plan.seed, ServerOptimiser(reduction=self._plan.reduction))

    @property
    def model_name(self) -> bytes:
        return model_digest(self._model.layout, self._model.to_bytes())

    def step(self, number: int, contributors: tuple[str, ...]) -> None:
        """Take the step of a round over these contributors."""
        training = self._plan.training_plan(number - 1)
        layout, data = self._model.layout, self._model.to_bytes()
        words = layout.coordinates(training.kind) + 1 + len(training.metrics)
        asked: Any = SimpleNamespace(plan=self._charter.plan, training=training, kind=training.kind, words=words)
        seed, at = self._plan.seed.to_bytes(8, "big"), number.to_bytes(8, "big")
        vectors = []
        for name in contributors:
            stream = digest(Label.BATCH_ORDER, seed, at, name.encode())
            update = self._tasks[name].trainer().train(layout, data, training, stream)
            vectors.append(encode_vector(asked, layout, update.values, 1, update.metrics))
        summed = plain_sum(vectors)
        self._model.apply(training.kind, list(decode_vector(asked, layout, summed, len(contributors)).means()))

    def saved(self) -> bytes:
        """Return what a checkpoint of this model holds."""
        self._model.save(self._scratch)
        return self._scratch.read_bytes()
