"""One process a party, through the public commands."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tertium.protocol.charter import Deadlines

OWNERS = ("alice", "bob", "charlie")
LINE = {"task": "line", "rounds": 3, "metrics": ["loss"]}

WATCHED = """
import sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("pickle.") else None)
import pickle
real = pickle.loads, pickle.load
pickle.loads = lambda *a, **k: (seen.append("loads"), real[0](*a, **k))[1]
pickle.load = lambda *a, **k: (seen.append("load"), real[1](*a, **k))[1]
from tertium.cli import main
status = main(sys.argv[1:])
print("UNPICKLED", seen, flush=True)
print("TORCH", "torch" in sys.modules, flush=True)
sys.exit(status)
"""


def federation(found, regression_of, **more):
    owner = {**LINE, "entry": regression_of("owner"), **more.pop("owner", {})}
    return found({name: regression_of(name) for name in OWNERS}, owner, **more)


def test_a_federation_of_processes_trains_and_ends(found, regression_of):
    place = federation(found, regression_of, evaluators={"tester": regression_of("tester")}, fresh=True)
    place.start_all()
    assert place.wait_all() == dict.fromkeys(place.processes, 0)
    assert (place.root / "owner" / "state" / "model.safetensors").exists() or list(
        (place.root / "owner" / "state").glob("model.*")
    )
    text = place.out("owner")
    assert "round 3: aggregate of 3 applied" in text
    assert "UNSAFE" not in text
    assert "session over after 3 rounds" in place.out("tester")
    records = place.root / "owner" / "state" / "records"
    assert sorted(path.name for path in records.glob("*.record")) == [f"round-{n:06d}.third.record" for n in (1, 2, 3)]
    assert sorted(path.name[:12] for path in records.glob("*.check")) == [f"round-{n:06d}" for n in (1, 2, 3)]
    # a data owner's loss stands on its own screen; the model owner's has only the mean
    assert "trained on 40 examples, loss" in place.out("alice")
    assert "trained on" not in text


def test_two_runs_with_one_seed_give_the_same_model_byte_for_byte(found, regression_of, tmp_path):
    models = []
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        place = federation(found, regression_of, folder=folder)
        place.start_all()
        assert set(place.wait_all().values()) == {0}
        models.append(next((folder / "owner" / "state").glob("model.*")).read_bytes())
    assert models[0] == models[1]


def test_no_party_unpickles_and_the_secure_worker_has_no_torch(found, planted_of):
    toy = {"factory": "tertium.learning.tasks.toy:Toy"}
    tasks = {
        "alice": {**toy, "options": {"rows": [2, 3]}},
        "bob": {**toy, "options": {"rows": [0, 1]}},
        "charlie": {**toy, "options": {"rows": [0, 3]}},
    }
    owner = {"task": "toy", "rounds": 2, "batch_size": 0, "entry": {**toy, "options": {"test": True}}}
    place = found(tasks, owner, fresh=True)
    place.start_all(wrapper=WATCHED)
    place.wait_for("third", "round 1: asking")
    maps = Path(f"/proc/{place.processes['third'].pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "/torch/" not in maps
    assert set(place.wait_all(90).values()) == {0}, place.err("owner")
    for name in place.processes:
        assert "UNPICKLED []" in place.out(name), name
    assert "TORCH False" in place.out("third")
    # and the hook sees what it should: the others do train with torch
    assert "TORCH True" in place.out("alice")


@pytest.mark.parametrize("victim", ["owner", "third", "alice"])
def test_a_killed_party_is_named_by_the_others_and_leaves_nothing_behind(found, regression_of, victim):
    place = federation(
        found,
        regression_of,
        owner={"rounds": 100_000},
        deadlines=Deadlines(join=20, upload=20, close=10, release=10, statement=5, absence=5),
    )
    place.start_all()
    place.wait_for("owner", "round 3: asking")
    place.processes[victim].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    status = place.wait_all(30)
    assert time.monotonic() - begun < 25
    for name, code in status.items():
        if name == victim:
            assert code == -signal.SIGKILL
        else:
            assert code == 3, (name, place.out(name)[-500:], place.err(name))
            assert "Traceback" not in place.err(name)
            assert len(place.err(name).splitlines()) == 1
    assert victim in place.err("third" if victim == "owner" else "owner")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stopped", ["owner", "third", "bob"])
def test_a_stopped_party_ends_in_order_and_the_others_say_who_it_was(found, regression_of, stopped, number):
    # Whoever the others cannot go on without may come back, within the charter's time.
    deadlines = Deadlines(join=40, upload=40, close=20, release=20, statement=10, absence=6)
    place = federation(found, regression_of, owner={"rounds": 100_000}, deadlines=deadlines)
    place.start_all()
    place.wait_for("owner", "round 2: asking")
    place.processes[stopped].send_signal(number)
    assert place.wait(stopped, 10) == 128 + number
    assert "Traceback" not in place.err(stopped)
    status = place.wait_all(30)
    assert all(code == 3 for name, code in status.items() if name != stopped), (
        status,
        {name: place.err(name) for name in status},
    )
    assert any(stopped in place.err(name) for name in status if name != stopped)


def test_a_launcher_that_dies_takes_its_party_along(found, regression_of):
    place = federation(found, regression_of, fresh=True)
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        process = place.start("third", "--until-stdin-closes")
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)
    place.wait_for("third", "listening on")
    os.close(write)
    assert process.wait(10) != 0


def test_the_secure_worker_loads_nothing_that_would_make_it_slow_to_start(found, regression_of):
    """How fast it is stands in docs/performance.md; this guards the imports that decide it."""
    place = federation(found, regression_of, fresh=True)
    program = (
        "import sys; from tertium.cli import main; from tertium.cli import running, secure_worker;"
        "bad = [m for m in ('torch', 'rich', 'matplotlib', 'sklearn', 'tertium.learning') if m in sys.modules];"
        "sys.exit(f'loaded {bad}' if bad else main(sys.argv[1:]))"
    )
    place.start("third", wrapper=program)
    place.wait_for("third", "listening on", 10)


def test_import_of_the_secure_worker_loads_no_torch():
    import subprocess

    program = (
        "import sys, tertium.secure_worker.machine, tertium.cli.secure_worker, tertium.workers.data_owner;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_party_that_is_stopped_while_others_train_with_torch_aborts_nobody(found):
    digits = {"factory": "tertium.learning.tasks.digits:Digits"}
    entry = {**digits, "options": {"digits": [], "test": True}}
    owner = {"task": "digits", "rounds": 50, "batches": 9000, "entry": entry}
    place = found(dict.fromkeys(OWNERS, digits), owner, fresh=True)
    place.start_all()
    for name in OWNERS:
        place.wait_for(name, "round 1: model of", 60)
    time.sleep(1)  # then it trains, and would for minutes
    place.processes["owner"].send_signal(signal.SIGINT)
    status = place.wait_all(30)
    # and not -6: an interpreter that ends while a thread of its own is inside torch is aborted by the runtime
    assert status == {"owner": 130, "third": 3, **dict.fromkeys(OWNERS, 3)}
