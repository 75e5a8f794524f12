"""A federation over network namespaces: each party on a host of its own, with its own address, routes and loopback.

What loopback cannot show is shown here: that the endpoints of the charter are all a party needs, that a site opens no
port, and what happens when a cable is pulled, so that nobody hears of an end. All namespaces hang together by one
bridge in a namespace of its own; nothing is added to the machine's own network.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from killing import search_path
from tertium.cli import main

IP = shutil.which("ip") or next((at for at in ("/sbin/ip", "/usr/sbin/ip") if Path(at).exists()), None)
HOSTS = {
    "third": "10.77.0.1",
    "owner": "10.77.0.2",
    "alice": "10.77.0.11",
    "bob": "10.77.0.12",
    "charlie": "10.77.0.13",
    "dora": "10.77.0.14",
}
OWNERS = ("alice", "bob", "charlie", "dora")
ROLE = {"third": "secure_worker", "owner": "model_owner"}
COMMAND = {"third": ("secure-worker", "run", "--once"), "owner": ("owner", "run")}
CONTROL, BULK = 7100, 7101
LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""
PROGRAM = "import sys; from tertium.cli import main; sys.exit(main(sys.argv[1:]))"
DEADLINE = 60.0


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(IP), *words], capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr}")
    return done


class Hosts:
    """Namespaces, a bridge between them, and a federation on them, each party in its own folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = f"tt{os.getpid() % 0xFFFF:x}{os.urandom(2).hex()}"
        self.made: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def space(self, name: str) -> str:
        return f"{self.mark}-{name}"

    def up(self) -> None:
        """Make the bridge and a host a party."""
        self._add("hub")
        ip("-n", self.space("hub"), "link", "add", "name", "br0", "type", "bridge")
        ip("-n", self.space("hub"), "link", "set", "br0", "up")
        for name, address in HOSTS.items():
            self._add(name)
            here, port = self.space(name), f"to-{name}"
            ip(
                "-n",
                self.space("hub"),
                "link",
                "add",
                "name",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                here,
            )
            ip("-n", self.space("hub"), "link", "set", port, "master", "br0", "up")
            ip("-n", here, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", here, "link", "set", device, "up")

    def _add(self, name: str) -> None:
        ip("netns", "add", self.space(name))
        self.made.append(self.space(name))

    def cable(self, name: str, state: str) -> None:
        """Pull a party's cable at the switch, or put it back: its own interface stays up, packets vanish."""
        ip("-n", self.space("hub"), "link", "set", f"to-{name}", state)

    def command(self, name: str, *words: object) -> list[str]:
        return [str(IP), "netns", "exec", self.space(name), sys.executable, "-c", PROGRAM, *map(str, words)]

    def do_here(self, *words: object) -> None:
        """Run a command that touches no network, in this process, with the parties' folders at hand."""
        with contextlib.chdir(self.root):
            assert main(list(map(str, words))) == 0, words

    def do(self, name: str, *words: object, status: int | None = 0) -> str:
        """Run a command of tertium on a party's host, to its end."""
        done = subprocess.run(
            self.command(name, *words),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert status is None or done.returncode == status, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def start(self, name: str) -> None:
        words = (*COMMAND.get(name, ("worker", "run")), "--party", name, "--charter", "charter.toml")
        with (self.root / f"{name}.out").open("wb") as out:
            self.processes[name] = subprocess.Popen(
                self.command(name, *words), cwd=self.root, stdout=out, stderr=out, start_new_session=True
            )

    def out(self, name: str) -> str:
        return (self.root / f"{name}.out").read_text()

    def wait_for(self, name: str, text: str) -> None:
        until = time.monotonic() + DEADLINE
        while text not in self.out(name):
            if time.monotonic() > until or self.processes[name].poll() is not None:
                raise AssertionError(f"{name} never printed {text!r}:\n{self.out(name)[-3000:]}")
            time.sleep(0.02)

    def wait(self, name: str, seconds: float = DEADLINE) -> int:
        return self.processes[name].wait(seconds)

    def listening(self, name: str) -> set[tuple[str, int]]:
        """Return the addresses and ports a party's host listens on, by its own kernel tables."""
        found = set()
        lines = Path(f"/proc/{self.processes[name].pid}/net/tcp").read_text().splitlines()[1:]
        for line in lines:
            _, local, _, state = line.split()[:4]
            address, port = local.split(":")
            if state == LISTEN:
                found.add((".".join(str(byte) for byte in bytes.fromhex(address)[::-1]), int(port, 16)))
        return found

    def received(self, name: str) -> int:
        """Return the bytes that came in over a party's cable."""
        (facts,) = json.loads(ip("-n", self.space(name), "-s", "-j", "link", "show", "eth0").stdout)
        return int(facts["stats64"]["rx"]["bytes"])

    def down(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        for name in self.made:
            ip("netns", "del", name, check=False)


@pytest.fixture
def hosts(tmp_path: Path):
    if IP is None:
        pytest.skip("there is no `ip` here: it comes with iproute2")
    made = Hosts(tmp_path)
    try:
        probe = made.space("probe")
        tried = ip("netns", "add", probe, check=False)
        if tried.returncode:
            pytest.skip(f"network namespaces are not permitted here: {tried.stderr.strip()}")
        entered = ip("netns", "exec", probe, "true", check=False)
        bridged = ip("-n", probe, "link", "add", "name", "br0", "type", "bridge", check=False)
        paired = ip("-n", probe, "link", "add", "name", "one", "type", "veth", "peer", "name", "two", check=False)
        ip("netns", "del", probe, check=False)
        for done in (entered, bridged, paired):
            if done.returncode:
                pytest.skip(f"network namespaces cannot be joined here: {done.stderr.strip()}")
        made.up()
        yield made
    finally:
        made.down()
        left = ip("netns", "list", check=False).stdout if made.made else ""
    assert made.mark not in left


def found(hosts: Hosts, *, rounds: int, parameters: int = 100_000, pause: float = 0.0) -> None:
    """Make keys, site files and the charter the way three organisations would: each on its own host.

    Where trainings take a `pause` in seconds it is about later, and all of it is made in this process.
    """
    do = (lambda _, *words: hosts.do_here(*words)) if pause else hosts.do
    for name, address in HOSTS.items():
        at = [f"--{lane}=tcp://{address}:{port}" for lane, port in (("control", CONTROL), ("bulk", BULK))]
        words = ("keygen", name, "--role", ROLE.get(name, "data_owner"), "--out", name)
        do(name, *words, *(at if name in ROLE else ()))
        if name == "third":
            continue
        options = {"parameters": parameters, "pattern": 1e-4}
        entry: dict[str, object] = {"factory": "tertium.learning.numpy_task:Planted", "options": options}
        if pause:
            entry = {"factory": "victim:PacedPlanted", "options": {**options, "pause": pause}}
        site: dict[str, object] = {"tasks": {"big": entry}}
        if name == "owner":
            site["owner"] = {"task": "big", "rounds": rounds, "metrics": []}
        (hosts.root / name / "site.toml").write_text(tomli_w.dumps(site))
    cards = [word for name in HOSTS for word in ("--party", f"{name}/public.toml")]
    new = ("charter", "new", "--federation", "hosts", "--minimum-cohort", 3, "--deadline", "join=40")
    # a party that vanishes between its contribution and its signature is waited for as long as `statement` says
    do(
        "owner",
        *new,
        "--deadline",
        "upload=40",
        "--deadline",
        "statement=10",
        "--deadline",
        "absence=12",
        *cards,
        "--out",
        "charter.toml",
    )
    for name in HOSTS:
        do(name, "charter", "sign", "charter.toml", "--as", name)


def doctor(hosts: Hosts, name: str) -> dict[str, str]:
    """Return the status of each check that touches the network."""
    said = json.loads(
        hosts.do(name, "doctor", "--party", name, "--charter", "charter.toml", "--json", "--no-tasks", status=None)
    )
    return {check["name"]: check["status"] for check in said["checks"] if check["name"].startswith(("reach", "listen"))}


@pytest.mark.slow
def test_a_federation_across_hosts_trains_and_its_sites_open_no_port(hosts: Hosts) -> None:
    found(hosts, rounds=3)
    lanes = [f"reach {peer} {lane}" for peer in ("owner", "third") for lane in ("control", "bulk")]
    # nobody runs yet: the hosts are there, and nothing listens
    assert doctor(hosts, "alice") == dict.fromkeys(lanes, "warn")
    assert doctor(hosts, "third") == {"listen control": "ok", "listen bulk": "ok"}
    hosts.start("third")
    hosts.wait_for("third", "listening on")
    assert doctor(hosts, "owner") == {
        "listen control": "ok",
        "listen bulk": "ok",
        "reach third control": "ok",
        "reach third bulk": "ok",
    }
    hosts.start("owner")
    hosts.wait_for("owner", "listening on")
    assert doctor(hosts, "alice") == dict.fromkeys(lanes, "ok")
    assert doctor(hosts, "third") == {"listen control": "fail", "listen bulk": "fail"}
    for name in OWNERS:
        hosts.start(name)
    hosts.wait_for("owner", "round 1: asking")
    for name, address in HOSTS.items():
        wanted = {(address, CONTROL), (address, BULK)} if name in ROLE else set()
        assert hosts.listening(name) == wanted, name
    assert {name: hosts.wait(name) for name in HOSTS} == dict.fromkeys(HOSTS, 0), hosts.out("owner")
    assert "round 3: aggregate of 4 applied" in hosts.out("owner")
    for kept in ("record", "check"):
        assert len(list((hosts.root / "owner" / "state" / "records").glob(f"*.{kept}"))) == 3
    # four updates of 400 kB a round came over the wire to the third party, and one sum of them to the model owner
    assert hosts.received("third") > 3 * 4 * 400_000
    assert 3 * 400_000 < hosts.received("owner") < 2 * 3 * 400_000


@pytest.mark.slow
def test_a_pulled_cable_is_noticed_and_the_others_go_on(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears of this end: no reset, no goodbye, only silence."""
    monkeypatch.setenv("PYTHONPATH", search_path())
    found(hosts, rounds=100_000, parameters=1000, pause=0.5)
    for name in HOSTS:
        hosts.start(name)
    hosts.wait_for("owner", "round 3: asking")
    hosts.cable("dora", "down")
    pulled = time.monotonic()
    hosts.wait_for("owner", "aggregate of 3 applied")
    assert time.monotonic() - pulled < 25
    assert "dora" in hosts.out("owner").partition("aggregate of 3 applied")[0].rpartition("round 3: asking")[2]
    # she herself says whom she does not hear, and does not hang
    assert hosts.wait("dora", 40) == 3
    assert "Traceback" not in hosts.out("dora")
    assert "tertium: " in hosts.out("dora")
    # what her host cannot reach, the doctor names as unreachable, and takes no longer than it says
    begun = time.monotonic()
    assert set(doctor(hosts, "dora").values()) == {"fail"}
    assert time.monotonic() - begun < 20
    hosts.processes["owner"].send_signal(signal.SIGINT)
    assert hosts.wait("owner", 10) == 130
    for name in ("third", "alice", "bob", "charlie"):
        assert hosts.wait(name, 20) == 3, hosts.out(name)[-1000:]
