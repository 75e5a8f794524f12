"""`tertium doctor`: one thing is put wrong, and the check that is for it must say so, with a remedy, and no other."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import tomli_w
from tertium import cli
from tertium.cli import doctor_host, doctor_network, doctor_party
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
TASK = """
import os, sys, time
from tertium.learning.numpy_task import NumpyTask

class Noisy(NumpyTask):
    def trainer(self):
        print("noise on stdout")
        return super().trainer()

class Slow(NumpyTask):
    def trainer(self):
        if os.fork() == 0:
            os.setsid()
            time.sleep(20)
            os._exit(0)
        time.sleep(60)

class Dies(NumpyTask):
    def trainer(self):
        os._exit(7)

class Raises(NumpyTask):
    def trainer(self):
        raise RuntimeError("\\x1b[2J" + "no such table " * 999)
"""


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
        charter = Charter(
            version=1,
            federation="test",
            serial=serial,
            not_after=datetime.now(UTC) + expires,
            rules=Rules(mode=mode, scheme=SchemeName(name=mode.value), **{"minimum_cohort": 3, **rules}),
            parties=tuple(self.line(name) for name in ROLES),
        )
        charters.dump(charter, path)
        for name in signers:
            charters.sign(path, self.identities[name])
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


@pytest.fixture(autouse=True)
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
def doctor(place: Place, capfd: pytest.CaptureFixture[str]) -> Doctor:
    """Run the doctor on one party; what it said by check. Nothing may have changed, and no secret may stand in it."""

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


@pytest.mark.parametrize("name", ROLES)
def test_a_sound_party_of_every_role_is_well(place: Place, doctor: Doctor, name: str) -> None:
    place.admitted(name)
    found = doctor(name, tasks=True)
    assert (found.failed, found.warned) == (set(), set()), found.out
    assert found.said["party"] == name
    assert found.said["role"] == ROLES[name].value
    wanted = {"keys", "party", "charter", "expiry", "signatures", "mode", "serial", "site", "state", "disk"}
    wanted |= {"folder", "clock", "core files", "swap"} | ({"torch", "task line"} if name != "third" else set())
    assert set(found.checks) == wanted
    if name == "alice":
        assert "40" in found.checks["task line"].sentence
    if name == "owner":
        assert "5 numbers in 2 tensors" in found.checks["task line"].sentence


def test_a_person_reads_one_line_a_check_and_a_script_a_status(place: Place) -> None:
    (place.root / "bob/secret.toml").chmod(0o644)
    program = "import sys; from tertium.cli import main; sys.exit(main())"
    for name, status in (("alice", 0), ("bob", 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, "doctor", "--no-network", "--charter", str(place.path)],
            cwd=place.root / name,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, "")
        lines = done.stdout.splitlines()
        checks = [line for line in lines if re.match(r"(ok|warn|fail) {2,}\S", line)]
        assert lines[-1].startswith(f"{len(checks)} checks: ")
        assert sum(line.startswith("fail") for line in lines) == status
        assert "Traceback" not in done.stdout
    assert "-> if nobody else can have read it: chmod 600" in done.stdout


# --- keys and folder


def no_key(place: Place, folder: Path) -> None:
    (folder / "secret.toml").unlink()


def open_key(place: Place, folder: Path) -> None:
    (folder / "secret.toml").chmod(0o640)


def broken_key(place: Place, folder: Path) -> None:
    (folder / "secret.toml").write_text("name = 1")


def link_as_key(place: Place, folder: Path) -> None:
    (folder / "secret.toml").rename(folder / "moved")
    (folder / "secret.toml").symlink_to(folder / "moved")


@pytest.mark.parametrize(
    ("wrong", "sentence", "remedy"),
    [
        (no_key, "no such file", "tertium keygen NAME"),
        (open_key, "has mode 0640", "chmod 600"),
        (broken_key, "is not a key file", "backup"),
        (link_as_key, "symbolic link", "backup"),
    ],
)
def test_a_key_file_that_cannot_be_used(
    place: Place, doctor: Doctor, wrong: Callable[[Place, Path], None], sentence: str, remedy: str
) -> None:
    secrets = place.secrets()
    wrong(place, place.root / "alice")
    place.secrets = lambda: secrets  # type: ignore[method-assign]
    found = doctor("alice")
    # the card still says who we are, so the rest is looked at all the same
    assert found.failed == {"keys"}
    assert sentence in found.checks["keys"].sentence
    assert remedy in found.checks["keys"].remedy
    assert found.checks["site"].status == "ok"


def test_other_keys_than_the_charters(place: Place, doctor: Doctor) -> None:
    path = place.root / "alice/secret.toml"
    path.unlink()
    Identity.generate("alice").save(path)
    found = doctor("alice")
    assert found.failed == {"party"}
    assert "other keys" in found.checks["party"].sentence
    # the card in the folder is no longer the card of the keys
    assert found.warned == {"keys"}


def test_a_party_that_does_not_stand_in_the_charter(place: Place, doctor: Doctor) -> None:
    path = place.root / "alice/secret.toml"
    path.unlink()
    (place.root / "alice/public.toml").unlink()
    Identity.generate("mallory").save(path)
    found = doctor("alice")
    assert found.failed == {"party"}
    assert "mallory is not a party" in found.checks["party"].sentence


def test_a_folder_and_a_site_file_that_others_can_write(place: Place, doctor: Doctor) -> None:
    (place.root / "alice").chmod(0o777)
    (place.root / "alice/site.toml").chmod(0o666)
    found = doctor("alice")
    assert (found.failed, found.warned) == (set(), {"folder", "site"})


# --- charter


@pytest.mark.parametrize(
    ("change", "check", "status", "sentence"),
    [
        ({"expires": timedelta(days=6)}, "expiry", "warn", "in 5 days"),
        ({"expires": timedelta(days=-1)}, "expiry", "fail", "expired on"),
        ({"signers": ("alice", "third")}, "signatures", "fail", "not signed by bob, carol, owner, tester"),
        ({"mode": Mode.MASKED}, "mode", "fail", "reserved"),
        ({"minimum_cohort": 2, "unsafe_small_cohort": "a lesson"}, "charter", "warn", "because: a lesson"),
    ],
)
def test_the_terms_of_a_charter(
    place: Place, doctor: Doctor, change: dict[str, object], check: str, status: str, sentence: str
) -> None:
    place.write(**change)
    found = doctor("alice")
    assert (found.failed, found.warned) == (({check}, set()) if status == "fail" else (set(), {check}))
    assert sentence in found.checks[check].sentence


def test_our_own_missing_signature_has_its_own_remedy(place: Place, doctor: Doctor) -> None:
    place.write(signers=("bob",))
    assert doctor("alice").checks["signatures"].remedy.startswith("read it, then: tertium charter sign charter.toml")
    assert doctor("bob").checks["signatures"].remedy.startswith("ask them")


def test_a_changed_line_voids_every_signature(place: Place, doctor: Doctor) -> None:
    place.path.write_text(place.path.read_text().replace("minimum_cohort = 3", "minimum_cohort = 2"))
    assert doctor("alice").failed == {"charter"}
    place.write()
    place.path.write_text(place.path.read_text().replace("max_epochs = 100", "max_epochs = 99"))
    found = doctor("alice")
    assert found.failed == {"signatures"}
    assert "no signature verifies" in found.checks["signatures"].sentence


@pytest.mark.parametrize("content", ["", "parties = 3", "\x00\xff", "version = 1\nparties = [", None])
def test_a_charter_that_is_none(place: Place, doctor: Doctor, content: str | None) -> None:
    place.path.unlink()
    if content is not None:
        place.path.write_text(content)
    found = doctor("alice")
    assert found.failed == {"charter"}
    assert found.said["party"] is None
    assert "keys" in found.checks


def test_a_serial_is_held_against_the_last_run_and_not_recorded(place: Place, doctor: Doctor) -> None:
    place.write(serial=4)
    place.admitted("alice")
    place.write(serial=5)
    found = doctor("alice")
    assert (found.failed, found.warned) == (set(), set()), found.out
    assert "serial 5, after 4" in found.checks["serial"].sentence
    # nothing was recorded of serial 5, so 4 may still be run
    place.write(serial=3)
    found = doctor("alice")
    assert found.failed == {"serial"}
    assert "3 after 4" in found.checks["serial"].sentence
    place.write(serial=4, stable_cohort=2)
    found = doctor("alice")
    assert found.failed == {"serial"}
    assert "rules.stable_cohort" in found.checks["serial"].sentence


@pytest.mark.parametrize(
    "also", [{"expires": timedelta(days=-1)}, {"signers": ("bob",)}, {"mode": Mode.MASKED}, {"signers": ()}]
)
def test_an_older_serial_is_seen_beside_what_else_is_wrong(
    place: Place, doctor: Doctor, also: dict[str, object]
) -> None:
    place.write(serial=4)
    place.admitted("alice")
    place.write(serial=3, **also)
    found = doctor("alice")
    assert len(found.failed) == 2
    assert "serial" in found.failed
    place.write(serial=5, **also)
    assert "serial" not in doctor("alice").failed


def test_a_broken_memory_of_the_last_charter(place: Place, doctor: Doctor) -> None:
    place.admitted("alice")
    (place.root / "alice/state/charter.toml").write_text("nothing")
    assert doctor("alice").failed == {"serial"}


# --- site file and tasks


@pytest.mark.parametrize(
    ("name", "site", "sentence"),
    [
        ("alice", {"limits": {"max_epochs": 5000}}, "laxer"),
        ("alice", {"limits": {"max_epoch": 5}}, "max_epoch"),
        ("alice", {"tasks": {}}, "tasks: alice has none"),
        ("alice", {"listen": {"control": "tcp://*:7100"}}, "nothing to listen on"),
        ("owner", {"owner": {"task": "other"}}, "there is no [tasks.other]"),
        ("third", {}, "never trains"),
    ],
)
def test_a_site_file_that_does_not_fit(
    place: Place, doctor: Doctor, name: str, site: dict[str, object], sentence: str
) -> None:
    place.site(name, **site)
    found = doctor(name)
    assert found.failed == {"site"}
    assert sentence in found.checks["site"].sentence


def test_no_site_file_where_one_is_needed(place: Place, doctor: Doctor) -> None:
    (place.root / "alice/site.toml").unlink()
    assert doctor("alice").failed == {"site"}
    assert "there is no site.toml" in doctor("third").checks["site"].sentence


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"factory": "no_such_module:Task"}, "there is no module no_such_module"),
        ({"factory": "tertium.learning.numpy_task:Nothing"}, "has no class Nothing"),
        ({"factory": "tertium.learning.numpy_task:NumpyTask", "options": {"colour": 1}}, "colour"),
        ({"factory": "doctor_probe:Dies"}, "ended with status 7"),
        ({"factory": "doctor_probe:Raises"}, "RuntimeError: \N{REPLACEMENT CHARACTER}[2Jno such table"),
        ({"factory": "doctor_probe:Slow"}, "did not load within 4 s"),
    ],
)
def test_a_task_that_does_not_load(
    place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, entry: dict[str, object], sentence: str
) -> None:
    (place.root / "doctor_probe.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(place.root))
    place.site("alice", tasks={"mine": entry})
    begun = time.monotonic()
    found = doctor("alice", "--task-seconds", "4", tasks=True)
    assert time.monotonic() - begun < 15
    assert found.failed == {"task mine"}
    assert sentence in found.checks["task mine"].sentence
    assert len(found.checks["task mine"].sentence) < 1000
    assert doctor("alice").failed == set()


def test_a_task_that_prints_does_not_spoil_the_answer(
    place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "doctor_probe.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(place.root))
    place.site("alice", tasks={"mine": {"factory": "doctor_probe:Noisy"}, **LINE})
    found = doctor("alice", tasks=True)
    assert found.failed == set()
    assert {"task mine", "task line"} <= set(found.checks)
    assert "doctor_probe" not in sys.modules


def test_torch_is_asked_for_without_being_loaded(place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_party.util, "find_spec", lambda name: None)
    found = doctor("alice")
    assert (found.failed, found.warned) == (set(), {"torch"})
    assert "pip install" in found.checks["torch"].remedy


# --- state, disk, clock, memory


def test_a_state_folder_that_others_can_read(place: Place, doctor: Doctor) -> None:
    place.admitted("alice")
    (place.root / "alice/state").chmod(0o750)
    found = doctor("alice")
    assert (found.failed, found.warned) == (set(), {"state"})
    assert "chmod 700" in found.checks["state"].remedy


def test_a_state_folder_that_cannot_be_written(place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    place.admitted("alice")
    real = os.access
    # root may write anywhere, so the answer of the kernel is put in its mouth
    monkeypatch.setattr(
        doctor_party.os, "access", lambda path, mode: not str(path).endswith("state") and real(path, mode)
    )
    assert doctor("alice").failed == {"state"}


def test_a_file_in_the_place_of_the_state_folder(place: Place, doctor: Doctor) -> None:
    (place.root / "alice/state").write_text("")
    assert doctor("alice").failed == {"state"}


@pytest.mark.parametrize(("free", "status"), [(10 << 20, "fail"), (500 << 20, "warn"), (2 << 30, "ok")])
def test_room_on_the_disk(
    place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    monkeypatch.setattr(doctor_party.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert doctor("alice").checks["disk"].status == status


@pytest.mark.parametrize(("answer", "words"), [(False, "nothing keeps the clock"), (None, "unknown")])
def test_a_clock_that_nobody_keeps(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, answer: bool | None, words: str
) -> None:
    monkeypatch.setattr(doctor_host, "clock_in_step", lambda: answer)
    found = doctor("alice")
    assert found.warned == {"clock"}
    assert words in found.checks["clock"].sentence


def test_a_clock_before_its_own_files(place: Place, doctor: Doctor) -> None:
    later = time.time() + 86_400
    os.utime(place.path, (later, later))
    assert doctor("alice").failed == {"clock"}


def test_the_kernel_is_asked_for_its_clock_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert doctor_host.clock_in_step() in (True, False, None)


@pytest.mark.parametrize(
    ("pattern", "status"),
    [
        ("core", "ok"),
        ("|/lib/systemd/systemd-coredump %P %u", "ok"),
        ("|/usr/share/apport/apport -p%p", "warn"),
    ],
)
def test_where_core_files_go(doctor: Doctor, sound_machine: Path, pattern: str, status: str) -> None:
    (sound_machine / "sys/kernel/core_pattern").write_text(f"{pattern}\n")
    assert doctor("alice").checks["core files"].status == status


def test_swap(doctor: Doctor, sound_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "Filename Type Size Used Priority\n"
    (sound_machine / "swaps").write_text(f"{head}/dev/zram0 partition 1 0 -2\n")
    assert doctor("alice").checks["swap"].status == "ok"
    (sound_machine / "swaps").write_text(f"{head}/swapfile file 1 0 -2\n")
    assert doctor("alice").warned == {"swap"}
    monkeypatch.setattr(doctor_host, "_SYS", sound_machine)
    (sound_machine / "self").mkdir()
    (sound_machine / "self/cgroup").write_text("0::/tertium.service\n")
    (sound_machine / "fs/cgroup/tertium.service").mkdir(parents=True)
    (sound_machine / "fs/cgroup/tertium.service/memory.swap.max").write_text("0\n")
    assert doctor("alice").checks["swap"].status == "ok"


# --- network


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


def test_peers_that_are_there(place: Place, doctor: Doctor, listener: Callable[..., ZmqLanes]) -> None:
    lanes = [listener("owner"), listener("third")]
    for name, peers in {"alice": ("owner", "third"), "tester": ("owner",)}.items():
        found = doctor(name, network=True)
        assert (found.failed, found.warned) == (set(), set()), found.out
        reached = {check for check in found.checks if check.startswith("reach")}
        assert reached == {f"reach {peer} {lane}" for peer in peers for lane in ("control", "bulk")}
        assert "holds the charter's key and lets us in" in found.checks["reach owner control"].sentence
    # to a party that runs it was nobody: no peer came up, went down or was refused
    time.sleep(0.3)
    assert [each.reported for each in lanes] == [[], []]  # type: ignore[attr-defined]


def test_peers_that_are_not_there_yet_are_warnings(doctor: Doctor) -> None:
    found = doctor("alice", network=True)
    assert found.failed == set()
    assert found.warned == {f"reach {peer} {lane}" for peer in ("owner", "third") for lane in ("control", "bulk")}
    assert "nothing listens there" in found.checks["reach third control"].sentence


def test_the_ports_of_our_own(place: Place, doctor: Doctor, listener: Callable[..., ZmqLanes]) -> None:
    found = doctor("third", network=True)
    assert (found.failed, found.warned) == (set(), set()), found.out
    assert {"listen control", "listen bulk"} <= set(found.checks)
    assert not any(check.startswith("reach") for check in found.checks)
    listener("third")
    found = doctor("third", network=True)
    assert found.failed == {"listen control", "listen bulk"}
    assert "in use" in found.checks["listen bulk"].sentence


def test_an_address_that_is_not_ours(place: Place, doctor: Doctor) -> None:
    place.at["third"] = ("tcp://192.0.2.1:7100", place.at["third"][1])
    place.write()
    found = doctor("third", network=True)
    assert found.failed == {"listen control"}
    assert "[listen] control" in found.checks["listen control"].remedy
    (place.root / "third/site.toml").write_text('[listen]\ncontrol = "tcp://127.0.0.1:0"\n')
    assert doctor("third", network=True).failed == set()


def test_a_peer_with_other_keys_and_one_that_does_not_let_us_in(
    place: Place, doctor: Doctor, listener: Callable[..., ZmqLanes]
) -> None:
    listener("owner", identity=Identity.generate("owner"))
    charter = charters.load(place.path)
    others = [
        party
        if party.name != "alice"
        else msgspec.structs.replace(party, curve=Identity.generate("alice").public.curve)
        for party in charter.parties
    ]
    listener("third", msgspec.structs.replace(charter, parties=tuple(others)))
    found = doctor("alice", network=True)
    assert found.failed == {"reach owner control", "reach third control"}
    assert "does not hold the key the charter names for owner" in found.checks["reach owner control"].sentence
    assert "does not let our key in" in found.checks["reach third control"].sentence


def test_lanes_that_are_mixed_up(place: Place, doctor: Doctor, listener: Callable[..., ZmqLanes]) -> None:
    listener("third")
    place.at["third"] = place.at["third"][::-1]
    place.write()
    found = doctor("alice", network=True)
    assert found.failed == {"reach third control", "reach third bulk"}
    assert "not a bulk lane" in found.checks["reach third bulk"].sentence


@pytest.mark.parametrize(
    ("says", "words"),
    [(b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak ZeroMQ"), (b"", "did not answer within 3 s")],
)
def test_something_else_on_the_port(place: Place, doctor: Doctor, says: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", int(place.at["owner"][1].rpartition(":")[2]))) as server:
        kept = []

        def serve() -> None:
            near, _ = server.accept()
            near.sendall(says)
            kept.append(near)

        threading.Thread(target=serve, daemon=True).start()
        begun = time.monotonic()
        found = doctor("tester", network=True)
        assert time.monotonic() - begun < 5
        kept[0].close()
    assert found.failed == {"reach owner bulk"}
    assert words in found.checks["reach owner bulk"].sentence


def test_a_name_that_does_not_resolve_and_one_that_takes_forever(
    place: Place, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.at["owner"] = ("tcp://nobody.invalid:7100", "tcp://slow.invalid:7101")
    place.write()
    asked = threading.Event()

    def resolve(host: str, *_: object) -> None:
        if host == "slow.invalid":
            asked.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(doctor_network.socket, "getaddrinfo", resolve)
    begun = time.monotonic()
    found = doctor("tester", network=True)
    assert time.monotonic() - begun < 5
    asked.set()
    assert found.failed == {"reach owner control", "reach owner bulk"}
    assert "has no address here" in found.checks["reach owner control"].sentence
    assert "within 3 s" in found.checks["reach owner bulk"].sentence


def test_the_doctor_loads_no_torch_and_no_learning() -> None:
    program = (
        "import sys; from tertium.cli import doctor;"
        "sys.exit(str([m for m in sys.modules if m == 'torch' or m.startswith('tertium.learning')] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True)
    assert done.stderr.strip() == ""
