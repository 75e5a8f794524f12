"""Processes that were killed, or whose disk was full, and are started again by their operator: what they say and do."""

import os
import signal
import time

import pytest
from tertium.protocol.charter import Deadlines

OWNERS = ("alice", "bob", "charlie")
DEADLINES = Deadlines(join=40, upload=40, close=20, release=20, statement=10, absence=60)
FULL = """
import resource, sys
from tertium.cli import main
from tertium.protocol.journal import Journal
real, written = Journal.write, []
def write(*args, **kwargs):
    written.append(args)
    # From the twelfth write on the journal finds its disk full.
    limit = resource.RLIM_INFINITY if len(written) < 12 else 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        return real(*args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Journal.write = write
sys.exit(main(sys.argv[1:]))
"""


def federation(found, regression_of, rounds, **more):
    owner = {"task": "line", "rounds": rounds, "metrics": ["loss"], "entry": regression_of("owner")}
    return found({name: regression_of(name) for name in OWNERS}, owner, deadlines=DEADLINES, **more)


def refused(place, name, *extra):
    assert place.start(name, *extra).wait(60) == 2, place.out(name)
    (line,) = place.err(name).splitlines()
    assert line.startswith("tertium: ")
    return line


def kill(place, name):
    os.killpg(place.processes[name].pid, signal.SIGKILL)
    place.processes[name].wait(20)


def model(place, folder="owner/state"):
    (path,) = (place.root / folder).glob("model.*")
    return path.read_bytes()


@pytest.mark.parametrize("during", [1, 3])
def test_an_owner_that_was_killed_is_told_to_resume_and_finishes_the_same_model(found, regression_of, tmp_path, during):
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    for folder in folders:
        folder.mkdir()
    whole = federation(found, regression_of, 4, folder=folders[0])
    whole.start_all()
    assert set(whole.wait_all().values()) == {0}
    place = federation(found, regression_of, 4, folder=folders[1])
    place.start_all()
    place.wait_for("owner", f"round {during}: asking")
    kill(place, "owner")
    done = len(list((place.root / "owner" / "state" / "checkpoints").iterdir()))
    line = refused(place, "owner")
    assert "left its session unfinished after round" in line
    assert "--resume" in line
    if done:
        assert "is at another model" in refused(place, "owner", "--resume", "--out", str(tmp_path / "other"))
    place.start("owner", "--resume")
    assert place.wait_all() == dict.fromkeys(place.processes, 0), place.err("owner")
    assert "going on in the session an earlier process opened" in place.out("owner")
    assert model(place) == model(whole)


def test_a_party_that_runs_already_is_one_sentence(found, regression_of):
    place = federation(found, regression_of, 100_000)
    place.start_all()
    place.wait_for("owner", "round 2: asking")
    first = dict(place.processes)
    for name in ("owner", "third", "alice"):
        assert "is in use: this party runs already" in refused(place, name, *(["--resume"] if name == "owner" else []))
        assert first[name].poll() is None
    place.processes = first


@pytest.mark.parametrize("name", ["owner", "third", "alice"])
def test_a_full_disk_in_the_middle_of_a_run_is_the_operators_and_is_gone_on_from(found, regression_of, name):
    place = federation(found, regression_of, 8)
    for each in sorted(place.roles, key=lambda each: not place.roles[each].listens):
        place.start(each, wrapper=FULL if each == name else None)
    assert place.wait(name, 90) == 2, place.out(name)
    (line,) = place.err(name).splitlines()
    assert "journal.db cannot be written (" in line
    sentence = line.removeprefix("tertium: ")
    assert place.out(name).splitlines()[-1].endswith(sentence)
    assert place.out(name).count(sentence) == 1
    place.start(name, *(["--resume"] if name == "owner" else []))
    assert place.wait_all(90) == dict.fromkeys(place.processes, 0), place.err("owner")
    assert (place.root / "owner" / "state" / "records" / "round-000008.third.record").exists()


def test_resuming_where_there_is_nothing_is_a_start(found, regression_of):
    place = federation(found, regression_of, 2)
    for name in (*OWNERS, "third"):
        place.start(name)
    place.start("owner", "--resume")
    assert place.wait_all() == dict.fromkeys(place.processes, 0), place.err("owner")
    assert "no checkpoint: beginning with the first round" in place.out("owner")
    # and once more, as a unit does after a restart of the machine: nothing is left but to end
    place.processes.clear()
    assert place.start("owner", "--resume").wait(30) == 0


def stop(place, name):
    place.processes[name].send_signal(signal.SIGTERM)
    return place.wait(name, 30)


def test_a_secure_worker_that_is_stopped_in_order_is_waited_for_and_asked_again(found, regression_of):
    place = federation(found, regression_of, 60)
    place.start_all()
    place.wait_for("owner", "round 3: aggregate")
    assert stop(place, "third") == 143
    time.sleep(1.0)
    place.start("third")
    assert place.wait_all(90) == dict.fromkeys(place.processes, 0), place.err("owner")
    assert "third is not connected any more" in place.out("owner")
    assert "opening another session" not in place.out("owner")


def test_an_owner_that_is_stopped_in_order_ends_the_session_and_resumes_in_another(found, regression_of):
    place = federation(found, regression_of, 60)
    place.start_all()
    place.wait_for("owner", "round 3: aggregate of 3 applied")
    assert stop(place, "owner") == 143
    assert {place.wait(name, 30) for name in (*OWNERS, "third")} == {3}
    assert "stopped by its operator" in place.err("alice")
    for name in (*OWNERS, "third"):
        place.start(name)
    place.start("owner", "--resume")
    assert place.wait_all(90) == dict.fromkeys(place.processes, 0), place.err("owner")
    assert "going on in the session" not in place.out("owner")
    first = next(line for line in place.out("owner").splitlines() if ": asking" in line)
    assert int(first.split()[1].rstrip(":")) >= 4


def test_an_old_disk_that_was_put_back_at_the_secure_worker_is_refused_by_everybody(found, regression_of):
    place = federation(found, regression_of, 3)
    journal = place.root / "third" / "state" / "journal.db"
    place.start_all()
    assert set(place.wait_all().values()) == {0}
    old = journal.read_bytes()
    site = place.root / "owner" / "site.toml"
    site.write_text(site.read_text().replace("rounds = 3", "rounds = 60"))
    for name in (*OWNERS, "third"):
        place.start(name)
    place.start("owner", "--resume")
    place.wait_for("owner", "round 6: aggregate")
    kill(place, "third")
    for path in journal.parent.glob("journal.db*"):
        path.unlink()
    journal.write_bytes(old)
    place.start("third")
    # How a session ends without it is in tests/roles, where no time passes.
    place.wait_for("owner", "refused (split-view): third: shows a view ledger of ")
    assert "refused (split-view)" not in place.out("third")
