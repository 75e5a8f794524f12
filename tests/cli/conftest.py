"""A federation on disk in which all is well, and the doctor to look at it."""

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import tomli_w
from tertium import cli
from tertium.cli import doctor_host
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol import limits
from tertium.protocol.charter import Charter, Mode, Party, Role, Rules, SchemeName
from tertium.protocol.lanes.zmq_lanes import Listen, ZmqLanes
from tertium.protocol.site import addresses

ROLES = {
    "alice": Role.DATA_OWNER,
    "bob": Role.DATA_OWNER,
    "carol": Role.DATA_OWNER,
    "owner": Role.MODEL_OWNER,
    "tester": Role.EVALUATOR,
    "third": Role.SECURE_WORKER,
}
LINE = {"line": {"factory": "tertium.learning.numpy_task:NumpyTask", "options": {"examples": 40}}}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Place:
    """A federation on disk, all of it well; a test breaks one thing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "charter.toml"
        self.identities = {name: Identity.generate(name) for name in ROLES}
        ports = [f"tcp://127.0.0.1:{port}" for port in free_ports(4)]
        self.at = {"owner": tuple(ports[:2]), "third": tuple(ports[2:])}
        self.second = Identity.generate("second")
        for name in ROLES:
            folder = root / name
            folder.mkdir(mode=0o755)
            self.identities[name].save(folder / "secret.toml")
            charters.dump_card(self.line(name), folder / "public.toml")
            if name != "third":
                self.site(name)
        self.write()

    def line(self, name: str) -> Party:
        public = self.identities[name].public
        control, bulk = self.at.get(name, (None, None))
        return Party(
            name=name, role=ROLES[name], signing=public.signing, curve=public.curve, control=control, bulk=bulk
        )

    def site(self, name: str, **more: object) -> None:
        table: dict[str, object] = {"tasks": LINE}
        if name == "owner":
            table["owner"] = {"task": "line", "rounds": 2, "metrics": ["loss"]}
        (self.root / name / "site.toml").write_text(tomli_w.dumps({**table, **more}))

    def write(
        self,
        *,
        serial: int = 1,
        expires: timedelta = timedelta(days=30),
        signers: tuple[str, ...] = tuple(ROLES),
        path: Path | None = None,
        **rules: object,
    ) -> Charter:
        mode = rules.pop("mode", Mode.TRUSTED)
        path = path or self.path
        for old in (path, charters.signatures_path(path)):
            old.unlink(missing_ok=True)
        parties = [self.line(name) for name in ROLES]
        if mode is Mode.SHAMIR:
            # Two secure workers are one too few for it, and the second is run by nobody here.
            public = self.second.public
            at = {"control": "tcp://127.0.0.1:5", "bulk": "tcp://127.0.0.1:6"}
            parties.append(
                Party(name="second", role=Role.SECURE_WORKER, signing=public.signing, curve=public.curve, **at)
            )
        charter = Charter(
            version=1,
            federation="test",
            serial=serial,
            not_after=datetime.now(UTC) + expires,
            rules=Rules(mode=mode, scheme=SchemeName(name=mode.value), **{"minimum_cohort": 3, **rules}),
            parties=tuple(parties),
        )
        charters.dump(charter, path)
        for name in signers:
            charters.sign(path, self.identities[name])
        if mode is Mode.SHAMIR:
            charters.sign(path, self.second)
        return charter

    def admitted(self, name: str) -> None:
        """Let this party have run with the charter as it is."""
        state = self.root / name / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        charters.admit(self.path, self.identities[name], state, datetime.now(UTC))

    def secrets(self) -> list[str]:
        texts = [(self.root / name / "secret.toml").read_text() for name in ROLES]
        return [value for text in texts for value in re.findall(r"[0-9a-f]{64}", text)]

    def files(self) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(self.root)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    # dozens of small files a test; whether they survive a power failure is not what is tested here
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Place(tmp_path)


@pytest.fixture
def sound_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine on which nothing is wrong, whatever the real one is like; returns where its /proc lies."""
    fake = tmp_path_factory.mktemp("machine")
    (fake / "sys/kernel").mkdir(parents=True)
    (fake / "sys/kernel/core_pattern").write_text("core\n")
    (fake / "swaps").write_text("Filename Type Size Used Priority\n")
    monkeypatch.setattr(doctor_host, "_PROC", fake)
    monkeypatch.setattr(doctor_host, "_SYS", fake / "nowhere")
    monkeypatch.setattr(doctor_host, "clock_in_step", lambda: True)
    return fake


Doctor = Callable[..., SimpleNamespace]


@pytest.fixture
def doctor(
    place: Place, sound_machine: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Doctor:
    """Run the doctor on one party; what it said by check. Nothing may have changed, and no secret may stand in it."""

    # Else a process of the doctor's would write nothing by somebody else's choice.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)

    def look(name: str, *more: str, network: bool = False, tasks: bool = False) -> SimpleNamespace:
        before = place.files()
        arguments = ["doctor", "--party", str(place.root / name), "--charter", str(place.path), "--json"]
        capfd.readouterr()
        skipped = [option for option, wanted in (("--no-network", network), ("--no-tasks", tasks)) if not wanted]
        status = cli.main([*arguments, *skipped, *more])
        out, err = capfd.readouterr()
        assert err == ""
        assert out.count("\n") == 1
        said = json.loads(out)
        assert place.files() == before
        assert not any(secret in out for secret in place.secrets())
        for check in said["checks"]:
            assert check["sentence"].isprintable()
            assert bool(check.get("remedy")) == (check["status"] != "ok"), check
        by_name = {check["name"]: SimpleNamespace(**{"remedy": "", **check}) for check in said["checks"]}
        assert len(by_name) == len(said["checks"])
        failed = {name for name, check in by_name.items() if check.status == "fail"}
        warned = {name for name, check in by_name.items() if check.status == "warn"}
        assert status == (1 if failed else 0)
        assert said["healthy"] is not bool(failed)
        return SimpleNamespace(checks=by_name, failed=failed, warned=warned, said=said, out=out)

    return look


@pytest.fixture
def listener(place: Place) -> Iterator[Callable[..., ZmqLanes]]:
    """Real lanes of a party, polled in a thread; what they reported stands in `.reported`."""
    stop = threading.Event()
    running: list[tuple[ZmqLanes, threading.Thread]] = []

    def listen(name: str, charter: Charter | None = None, identity: Identity | None = None) -> ZmqLanes:
        charter = charter or charters.load(place.path)
        lanes = ZmqLanes(
            name,
            (identity or place.identities[name]).curve_secret,
            {peer: address for peer, address in addresses(charter).items() if peer != name},
            listen=Listen(*place.at[name]),
            frame_limit=limits.control_frame(8),
        )
        lanes.reported = []  # type: ignore[attr-defined]

        def poll() -> None:
            while not stop.is_set():
                lanes.reported.extend(lanes.poll(0.05))  # type: ignore[attr-defined]
            lanes.close()

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        running.append((lanes, thread))
        return lanes

    yield listen
    stop.set()
    for _, thread in running:
        thread.join(10)
