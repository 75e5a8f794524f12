"""Real federations over real sockets: one process a party through the public commands, or one thread a party."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tertium.crypto.identity import Identity
from tertium.learning.registry import load_task
from tertium.protocol import charter as charters
from tertium.protocol.charter import Arithmetic, Charter, Deadlines, Mode, Party, Role, Rules, SchemeName
from tertium.protocol.site import OwnerPlan
from tertium.protocol.training import UpdateKind

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode puts no folder of tests there
from forks import Forked, Forks, run
from killing import DATA_OWNERS, SCORER, Killable, Oracle

OWNER, THIRD = "owner", "third"
COMMANDS = {
    Role.MODEL_OWNER: "owner",
    Role.SECURE_WORKER: "secure-worker",
    Role.DATA_OWNER: "worker",
    Role.EVALUATOR: "evaluator",
}


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Relay:
    """Passes TCP through, both ways, and keeps a copy of every byte."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.recorded = bytearray()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()  # nobody listens there yet: as if we did not either
                    continue
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.recorded += data
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.close()


@dataclass
class Place:
    """A federation's folders and charter on disk."""

    root: Path
    charter: Charter
    identities: dict[str, Identity]
    roles: dict[str, Role]
    relays: list[Relay] = field(default_factory=list)
    processes: dict[str, subprocess.Popen | Forked] = field(default_factory=dict)
    forks: Forks | None = None
    """What its processes are forked from; where there is none, each is started from nothing."""

    @property
    def recorded(self) -> bytes:
        return b"".join(bytes(relay.recorded) for relay in self.relays)

    def start(self, name: str, *extra: str, wrapper: str | None = None) -> subprocess.Popen | Forked:
        """Start a party's process by its public command, or by a program that ends in that command."""
        command = [COMMANDS[self.roles[name]], "run", "--party", str(self.root / name)]
        command += ["--charter", str(self.root / "charter.toml"), *extra]
        if self.roles[name] is Role.SECURE_WORKER and "--once" not in extra:
            command.append("--once")
        program = wrapper or "import sys; from tertium.cli import main; sys.exit(main(sys.argv[1:]))"
        files = (self.root / f"{name}.out", self.root / f"{name}.err")
        self.processes[name] = process = run(self.forks, program, command, *files, os.environ)
        return process

    def start_all(self, **extra: str) -> None:
        for name in sorted(self.roles, key=lambda name: not self.roles[name].listens):
            self.start(name, wrapper=extra.get("wrapper"))

    def wait(self, name: str, timeout: float = 60.0) -> int:
        return self.processes[name].wait(timeout)

    def wait_all(self, timeout: float = 60.0) -> dict[str, int]:
        until = time.monotonic() + timeout
        return {name: process.wait(max(0.1, until - time.monotonic())) for name, process in self.processes.items()}

    def out(self, name: str) -> str:
        return (self.root / f"{name}.out").read_text()

    def err(self, name: str) -> str:
        return (self.root / f"{name}.err").read_text()

    def wait_for(self, name: str, text: str, timeout: float = 40.0) -> None:
        """Wait until a party has printed `text`."""
        until = time.monotonic() + timeout
        while text not in self.out(name):
            if time.monotonic() > until or self.processes[name].poll() is not None:
                raise AssertionError(f"{name} never printed {text!r}:\n{self.out(name)}\n{self.err(name)}")
            time.sleep(0.02)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        for relay in self.relays:
            relay.close()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def found(tmp_path, forks):
    """Return a maker of federations on disk; everything it starts is stopped."""
    places: list[Place] = []

    def make(
        tasks: dict[str, dict],
        owner: dict,
        *,
        evaluators: dict[str, dict] | None = None,
        minimum: int = 3,
        relayed: bool = False,
        deadlines: Deadlines | None = None,
        arithmetic: Arithmetic | None = None,
        folder: Path | None = None,
        mode: Mode = Mode.TRUSTED,
        scheme: str = "trusted",
        threshold: int | None = None,
        workers: tuple[str, ...] = (THIRD,),
        fresh: bool = False,
    ) -> Place:
        root = folder or tmp_path
        scorers = evaluators or {}
        roles = {OWNER: Role.MODEL_OWNER} | dict.fromkeys(workers, Role.SECURE_WORKER)
        roles |= dict.fromkeys(tasks, Role.DATA_OWNER) | dict.fromkeys(scorers, Role.EVALUATOR)
        identities = {name: Identity.generate(name) for name in roles}
        listening = (OWNER, *workers)
        ports = free_ports(2 * len(listening))
        relays = [Relay(port) for port in ports] if relayed else []
        seen = [relay.port for relay in relays] or ports
        at, bound = (
            {
                name: (f"tcp://127.0.0.1:{each[2 * number]}", f"tcp://127.0.0.1:{each[2 * number + 1]}")
                for number, name in enumerate(listening)
            }
            for each in (seen, ports)
        )
        charter = Charter(
            version=1,
            federation="test",
            serial=1,
            not_after=datetime.now(UTC) + timedelta(days=1),
            rules=Rules(
                mode=mode,
                scheme=SchemeName(name=scheme, threshold=threshold),
                minimum_cohort=minimum,
                unsafe_small_cohort="a test of two" if minimum == 2 else None,
                deadlines=deadlines or Deadlines(join=40, upload=40, close=20, release=20, statement=10),
                arithmetic=arithmetic or Arithmetic(),
            ),
            parties=tuple(
                Party(
                    name=name,
                    role=role,
                    signing=identities[name].public.signing,
                    curve=identities[name].public.curve,
                    control=at.get(name, (None, None))[0],
                    bulk=at.get(name, (None, None))[1],
                )
                for name, role in roles.items()
            ),
        )
        charters.dump(charter, root / "charter.toml")
        for name, role in roles.items():
            place = root / name
            place.mkdir()
            identities[name].save(place / "secret.toml")
            charters.sign(root / "charter.toml", identities[name])
            site: dict = {}
            if role in (Role.DATA_OWNER, Role.EVALUATOR):
                site["tasks"] = {owner["task"]: {**tasks, **scorers}[name]}
            elif role is Role.MODEL_OWNER:
                site["tasks"] = {owner["task"]: owner["entry"]}
                site["owner"] = {key: value for key, value in owner.items() if key != "entry"}
            if name in bound:
                site["listen"] = dict(zip(("control", "bulk"), bound[name], strict=True))
            (place / "site.toml").write_text(tomli_w.dumps(site))
        place = Place(root, charter, identities, roles, relays, forks=None if fresh else forks)
        places.append(place)
        return place

    yield make
    for place in places:
        place.stop()


def regression(name: str, seed: int = 1, examples: int = 40) -> dict:
    """Return the site entry of a small torch-free task."""
    options = {"features": 3, "examples": examples, "seed": seed, "party": sum(name.encode()) % 97}
    return {"factory": "tertium.learning.numpy_task:NumpyTask", "options": options}


def planted(parameters: int, pattern: object = 0.5) -> dict:
    """Return the site entry of a task whose update is known."""
    return {
        "factory": "tertium.learning.numpy_task:Planted",
        "options": {"parameters": parameters, "pattern": pattern},
    }


@pytest.fixture
def regression_of():
    return regression


@pytest.fixture
def planted_of():
    return planted


@pytest.fixture
def killable(found, tmp_path):
    """Return a maker of federations to kill parties of, each with the oracle that knows its sums."""
    made: list[Killable] = []

    def make(
        *,
        rounds: int = 4,
        parameters: int = 0,
        evaluator: bool = False,
        empty: str = "",
        gated: int = 0,
        pauses: dict[str, float] | None = None,
        data_owners: tuple[str, ...] = DATA_OWNERS,
        sharing: dict[str, Any] | None = None,
        kind: UpdateKind = UpdateKind.WEIGHTS,
        **deadlines: float,
    ) -> tuple[Killable, Oracle]:
        gate = tmp_path / "go"
        names = (*data_owners, "owner", SCORER)
        pace = {name: {"gate": str(gate), "gated": gated, "pause": (pauses or {}).get(name, 0.0)} for name in names}
        entries: dict[str, Any] = {
            name: planted(parameters, [0.125 * at, -0.5, 0.75])
            if parameters
            else regression(name, examples=0 if name == empty else 40)
            for at, name in enumerate(names)
        }
        tasks = {name: load_task(entry["factory"], entry["options"]) for name, entry in entries.items()}
        for name, entry in entries.items():
            entry["factory"] = "victim:PacedPlanted" if parameters else "victim:PacedNumbers"
            entry["options"] |= pace[name]
        plan = {"task": "line", "rounds": rounds, "metrics": ["loss"], "seed": 11}
        times = {"join": 30, "upload": 40, "close": 10, "release": 10, "statement": 5, "absence": 15}
        place = found(
            {name: entries[name] for name in data_owners},
            {**plan, "kind": kind.value, "entry": entries["owner"]},
            evaluators={SCORER: entries[SCORER]} if evaluator else None,
            deadlines=Deadlines(**{**times, **deadlines}),
            **(sharing or {}),
        )
        federation = Killable(place, gate, rounds)
        made.append(federation)
        return federation, Oracle(place, tasks, tasks["owner"], OwnerPlan(**plan, kind=kind))

    yield make
    for federation in made:
        federation.stop()
