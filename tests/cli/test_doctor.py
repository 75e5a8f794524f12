"""`tertium doctor`: one thing is put wrong, and the check that is for it must say so, with a remedy, and no other."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tertium.cli import doctor_party
from tertium.crypto.identity import Identity
from tertium.protocol.charter import Mode

Place = Any
Doctor = Callable[..., SimpleNamespace]
NAMES = ("alice", "bob", "carol", "owner", "tester", "third")
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
        time.sleep(60)

class Dies(NumpyTask):
    def trainer(self):
        # it leaves somebody behind, in a session of his own, who holds the other end of the pipe
        if os.fork() == 0:
            os.setsid()
            time.sleep(18)
            os._exit(0)
        os._exit(7)

class Raises(NumpyTask):
    def trainer(self):
        raise RuntimeError("\\x1b[2J" + "no such table " * 999)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_party_of_every_role_is_well(place: Place, doctor: Doctor, name: str) -> None:
    place.admitted(name)
    found = doctor(name, tasks=True)
    assert (found.failed, found.warned) == (set(), set()), found.out
    assert found.said["party"] == name
    assert found.said["role"] == place.line(name).role.value
    wanted = {"keys", "party", "charter", "expiry", "signatures", "mode", "serial", "site", "state", "journal", "disk"}
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
        ({"mode": Mode.SHAMIR}, "mode", "fail", "3 to 8 holder(s), not 2"),
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
    "also", [{"expires": timedelta(days=-1)}, {"signers": ("bob",)}, {"mode": Mode.SHAMIR}, {"signers": ()}]
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


def test_the_doctor_loads_no_torch_and_no_learning() -> None:
    program = (
        "import sys; from tertium.cli import doctor;"
        "sys.exit(str([m for m in sys.modules if m == 'torch' or m.startswith('tertium.learning')] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, capture_output=True, text=True)
    assert done.stderr.strip() == ""
