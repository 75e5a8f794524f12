"""A federation on disk for the benchmarks: keys, charter, site files, processes by their public commands, and relays.

Everything listens on the loopback, on ports that were free a moment ago. `Place.stop`, which leaving its `with` block
calls, ends every process that was started.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w
from tertium.cli.trust import Trust, trust
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Arithmetic, Charter, Deadlines, Party, Role, Rules
from tertium.protocol.journal import Journal

OWNER, THIRD = "owner", "third"
_VERBS = {Role.MODEL_OWNER: "owner", Role.SECURE_WORKER: "secure-worker", Role.DATA_OWNER: "worker"}
_COMMAND = "import sys; from tertium.cli import main; sys.exit(main(sys.argv[1:]))"


def data_owners(count: int) -> tuple[str, ...]:
    """Return the names of so many data owners."""
    return tuple(f"site{number:02}" for number in range(count))


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Relay:
    """Passes TCP through, both ways, and counts the bytes each way, ZeroMQ's own framing and handshakes included."""

    def __init__(self, target: int) -> None:
        self.inward = self.outward = 0
        """Bytes to the party that listens, and bytes from it."""
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink, inward in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._copy, args=(source, sink), kwargs={"inward": inward}).start()

    def _copy(self, source: socket.socket, sink: socket.socket, *, inward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                if inward:
                    self.inward += len(data)
                else:
                    self.outward += len(data)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Place:
    """A federation whose data owners all have the torch-free task `Planted`."""

    def __init__(
        self,
        *,
        parameters: int,
        cohort: int,
        rounds: int,
        relayed: bool = False,
        pattern: object = 0.5,
        folder: Path | None = None,
        mode: Trust | None = None,
    ) -> None:
        mode = mode or trust("trusted")
        self.workers = (THIRD,) if mode.workers == 1 else tuple(f"{THIRD}{n}" for n in range(1, mode.workers + 1))
        """The secure workers."""
        self._folder = tempfile.TemporaryDirectory(prefix="tertium-bench-", dir=folder)
        self.root = Path(self._folder.name)
        self.names = data_owners(cohort)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        roles = {OWNER: Role.MODEL_OWNER, **dict.fromkeys(self.workers, Role.SECURE_WORKER)}
        roles |= dict.fromkeys(self.names, Role.DATA_OWNER)
        self.identities = {name: Identity.generate(name) for name in roles}
        listening = [(name, lane) for name in (OWNER, *self.workers) for lane in ("control", "bulk")]
        ports = dict(zip(listening, free_ports(len(listening)), strict=True))
        self.relays = {place: Relay(port) for place, port in ports.items()} if relayed else {}
        reached = {place: relay.port for place, relay in self.relays.items()} or ports
        self._roles = roles
        self.charter = Charter(
            version=1,
            federation="benchmark",
            serial=1,
            not_after=(datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0),
            rules=Rules(
                mode=mode.mode,
                scheme=mode.name,
                minimum_cohort=min(cohort, 3),
                unsafe_small_cohort="a benchmark, with no data in it" if cohort < 3 else None,
                deadlines=Deadlines(join=120, upload=120, close=60, release=60, statement=30),
                arithmetic=Arithmetic(),
            ),
            parties=tuple(
                Party(
                    name=name,
                    role=role,
                    signing=self.identities[name].public.signing,
                    curve=self.identities[name].public.curve,
                    control=_endpoint(reached, name, "control"),
                    bulk=_endpoint(reached, name, "bulk"),
                )
                for name, role in roles.items()
            ),
        )
        charters.dump(self.charter, self.charter_path)
        options = {"parameters": parameters, "pattern": pattern}
        for name, role in roles.items():
            place = self.root / name
            place.mkdir(mode=0o700)
            self.identities[name].save(place / "secret.toml")
            charters.sign(self.charter_path, self.identities[name])
            site: dict[str, Any] = {}
            if role is not Role.SECURE_WORKER:
                site["tasks"] = {"planted": {"factory": "tertium.learning.numpy_task:Planted", "options": options}}
            if role is Role.MODEL_OWNER:
                plan = {"task": "planted", "rounds": rounds, "kind": "delta", "metrics": [], "evaluate_every": 0}
                site["owner"] = plan
            if role.listens:
                site["listen"] = {lane: _endpoint(ports, name, lane) for lane in ("control", "bulk")}
            (place / "site.toml").write_text(tomli_w.dumps(site))

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def charter_path(self) -> Path:
        """Where the charter stands; its signatures stand beside it."""
        return self.root / "charter.toml"

    def journal(self, name: str) -> Journal:
        """Return the journal of a party that this process runs itself."""
        state = self.root / name / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        return Journal.of(self.identities[name], self.charter.party(name).role, state)

    def command(self, name: str) -> list[str]:
        """Return the public command that runs a party, after `tertium`."""
        verb = _VERBS[self._roles[name]]
        command = [verb, "run", "--party", str(self.root / name), "--charter", str(self.charter_path), "--json"]
        return [*command, "--once"] if verb == "secure-worker" else command

    def start(self, name: str, *program: str) -> subprocess.Popen[bytes]:
        """Start a party by its public command, or by another program that takes the same words."""
        command = [sys.executable, *(program or ("-c", _COMMAND)), *self.command(name)]
        with (self.root / f"{name}.out").open("wb") as out, (self.root / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        self.processes[name] = process
        return process

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return what a party has printed so far."""
        text = (self.root / f"{name}.out").read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def wait(self, name: str, timeout: float) -> None:
        """Wait for a party's end; raises `RuntimeError` with what it said if it failed."""
        status = self.processes[name].wait(timeout)
        if status:
            raise RuntimeError(f"{name} ended with {status}: {(self.root / f'{name}.err').read_text().strip()[-500:]}")

    def wait_all(self, timeout: float) -> None:
        """Wait for the end of every party."""
        until = time.monotonic() + timeout
        for name in self.processes:
            self.wait(name, max(0.1, until - time.monotonic()))

    def stop(self) -> None:
        """End what still runs, and remove the folder."""
        for process in self.processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        for relay in self.relays.values():
            relay.close()
        self._folder.cleanup()


def _endpoint(ports: dict[tuple[str, str], int], name: str, lane: str) -> str | None:
    port = ports.get((name, lane))
    return None if port is None else f"tcp://127.0.0.1:{port}"
