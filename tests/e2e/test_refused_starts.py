"""A set-up that cannot run says so at once: one sentence, status 2, nothing left behind."""

import pytest

OWNERS = ("alice", "bob", "charlie")


@pytest.fixture
def place(found, regression_of):
    owner = {"task": "line", "rounds": 1, "metrics": ["loss"], "entry": regression_of("owner")}
    return found({name: regression_of(name) for name in OWNERS}, owner)


def refused(place, name, *extra):
    assert place.start(name, *extra).wait(30) == 2
    (line,) = place.err(name).splitlines()
    assert "Traceback" not in line
    return line


def test_a_missing_site_file_is_named(place):
    (place.root / "alice" / "site.toml").unlink()
    assert "site.toml does not exist" in refused(place, "alice")


def test_a_wrong_role_is_our_own_mistake(place):
    place.roles = {**place.roles, "alice": place.roles["third"]}
    assert "alice stands in the charter as a data owner" in refused(place, "alice")


def test_a_task_that_breaks_while_it_is_set_up_is_one_sentence_with_its_line(place, tmp_path, monkeypatch):
    (tmp_path / "wards.py").write_text(
        "from tertium.learning.task import Task\n"
        "class Wards(Task):\n"
        "    def trainer(self):\n"
        "        return {}['beds']\n"
        "    def global_model(self, seed, optimiser):\n"
        "        raise NotImplementedError\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (place.root / "alice" / "site.toml").write_text('[tasks.line]\nfactory = "wards:Wards"\n')
    line = refused(place, "alice")
    assert "KeyError" in line
    assert "wards.py, line 4" in line


def test_a_figure_no_data_owner_could_report_is_refused_before_anybody_is_asked(found, regression_of):
    toy = {"factory": "tertium.learning.tasks.toy:Toy"}
    owner = {"task": "toy", "rounds": 1, "metrics": ["loss", "beds"], "entry": toy}
    place = found(dict.fromkeys(OWNERS, toy), owner)
    assert "has no beds" in refused(place, "owner")


def test_a_record_is_inspected_with_a_verdict(place, monkeypatch):
    import subprocess
    import sys

    place.start_all()
    assert set(place.wait_all().values()) == {0}
    (record,) = (place.root / "owner" / "state" / "records").glob("*.record")
    (check,) = (place.root / "owner" / "state" / "records").glob("*.check")

    def inspect(path):
        command = [sys.executable, "-m", "tertium", "inspect", str(path), "--charter", str(place.root / "charter.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    good = inspect(record)
    assert good.returncode == 0
    assert "verdict: verified: 4 of 4 cosigned" in good.stdout
    forged = place.root / "forged.record"
    data = bytearray(record.read_bytes())
    data[-40] ^= 1  # in the last cosignature
    forged.write_bytes(data)
    bad = inspect(forged)
    assert bad.returncode == 1, bad.stdout
    assert "NOT verified" in bad.stdout
    good = inspect(check)
    assert good.returncode == 0
    assert "verdict: verified: 3 signed answers say that the sum is verified" in good.stdout
    data = bytearray(check.read_bytes())
    data[-40] ^= 1  # in the last answer's signature
    forged.write_bytes(data)
    bad = inspect(forged)
    assert bad.returncode == 1, bad.stdout
    assert "NOT verified: owner" in bad.stdout or "NOT verified: passes on" in bad.stdout


def test_a_secure_worker_started_first_waits_as_long_as_the_owner_it_waits_for(found, regression_of):
    from tertium.protocol.charter import Deadlines

    tasks = {name: regression_of(name) for name in (*OWNERS, "dora")}
    owner = {"task": "line", "rounds": 1, "metrics": ["loss"], "entry": regression_of("owner")}
    place = found(tasks, owner, deadlines=Deadlines(join=6, upload=20, close=10, release=10, statement=10))
    place.start("third")
    place.wait_for("third", "listening on")
    for name in ("owner", *OWNERS):
        place.start(name)
    assert place.wait("owner", 40) == 0, place.err("owner")  # without dora, who never came
    assert place.wait("third", 20) == 0
