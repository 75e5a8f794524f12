"""`tertium doctor` and the machine: state folder, disk, clock, memory, and the network with real lanes at its ends."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tertium.cli import doctor_host, doctor_network, doctor_party
from tertium.crypto.identity import Identity
from tertium.protocol import charter as charters
from tertium.protocol.charter import Role
from tertium.protocol.journal import FILE, Journal
from tertium.protocol.lanes.zmq_lanes import ZmqLanes

Place = Any
Doctor = Callable[..., SimpleNamespace]


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


@pytest.mark.parametrize(
    ("name", "words"),
    [("third", "takes twice its sum, 8 bytes for each number"), ("owner", "three checkpoints"), ("bob", "little")],
)
def test_the_disk_a_role_needs_is_said(place: Place, doctor: Doctor, name: str, words: str) -> None:
    assert words in doctor(name).checks["disk"].sentence


# --- the journal


@pytest.fixture
def journal(place: Place) -> Path:
    """The journal of bob, who has run and was ended in order."""
    place.admitted("bob")
    Journal.of(place.identities["bob"], Role.DATA_OWNER, place.root / "bob/state").close()
    return place.root / "bob/state" / FILE


def test_a_journal_that_the_next_run_can_open(place: Place, doctor: Doctor, journal: Path) -> None:
    found = doctor("bob")
    assert (found.failed, found.warned) == (set(), set())
    assert "is bob's" in found.checks["journal"].sentence
    place.admitted("carol")
    assert "is not there yet" in doctor("carol").checks["journal"].sentence
    journal.write_bytes(b"")
    assert "as if this party had never run" in doctor("bob").checks["journal"].sentence


def test_the_journal_of_a_party_that_runs(place: Place, doctor: Doctor, journal: Path) -> None:
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('pragma locking_mode = exclusive');"
        "d.execute('begin immediate'); print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, journal], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        found = doctor("bob")
        assert found.failed == {"journal"}
        assert f"as process {process.pid}" in found.checks["journal"].sentence
        assert "one process a party" in found.checks["journal"].remedy
    finally:
        process.kill()
        process.communicate(timeout=20)
    assert doctor("bob").failed == set()


@pytest.mark.parametrize("what", ["another's", "garbage", "cut", "folder", "fifo"])
def test_a_journal_the_next_run_would_refuse(place: Place, doctor: Doctor, journal: Path, what: str) -> None:
    words, remedy = "it is damaged", "keep the file"
    if what == "cut":
        os.truncate(journal, 5000)
    elif what == "garbage":
        journal.write_bytes(b"what is this?" * 700)
    else:
        journal.unlink()
        words = "is not a regular file"
    if what == "another's":
        Journal(journal, party="alice", role=Role.DATA_OWNER, signing=bytes(32)).close()
        words, remedy = "is the journal of alice", "put back"
    elif what == "folder":
        journal.mkdir()
    elif what == "fifo":
        os.mkfifo(journal)
    found = doctor("bob")
    assert found.failed == {"journal"}
    assert words in found.checks["journal"].sentence
    assert remedy in found.checks["journal"].remedy


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
            kept.append(near)  # before the other side can have gone on
            near.sendall(says)

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
