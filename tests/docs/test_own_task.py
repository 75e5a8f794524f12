"""The example of a model and data of one's own: it trains, and what the document warns of is so."""

import contextlib
import csv
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tertium.owner.store import OwnerStore
from tertium.protocol.charter import Arithmetic, Mode, Rules, SchemeName
from tertium.protocol.progress import Said, Scored
from tertium.protocol.site import OwnerPlan, load_site
from tertium.simulation.federation import Federation

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own_task"
LONG = os.environ.get("TERTIUM_LONG") == "1"
DEADLINE = 280.0
"""Seconds for a program, or for a script that starts torch four times, on a machine that does four times as much."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def federation(folder: Path, *, rounds: int, value_range: float) -> Federation:
    pytest.importorskip("torch")
    data, wards = load("make_data"), load("wards")
    data.main(folder / "data")
    sites = {name: wards.Wards(data=str(folder / "data" / f"{name}.csv")) for name in data.HOSPITALS}
    rules = Rules(
        mode=Mode.TRUSTED,
        scheme=SchemeName(name="trusted"),
        minimum_cohort=3,
        arithmetic=Arithmetic(value_range=value_range),
    )
    plan = OwnerPlan(task="wards", rounds=rounds, batches=10, learning_rate=0.2, evaluate_every=1)
    owner = wards.Wards(test=str(folder / "data" / "test.csv"))
    return Federation(sites, owner, plan, OwnerStore(folder / "results"), rules=rules)


def test_the_example_learns(tmp_path: Path) -> None:
    made = federation(tmp_path, rounds=10, value_range=16.0)
    assert set(made.run().values()) == {None}
    scores = [said.accuracy for said in made.progress["owner"] if isinstance(said, Scored)]
    with (tmp_path / "data" / "test.csv").open(newline="", encoding="utf-8") as file:
        readmitted = [int(row["readmitted"]) for row in csv.DictReader(file)]
    share = sum(readmitted) / len(readmitted)
    # What one gets by always giving the same answer; a task that lost its targets would get there too, and not beyond.
    constant = max(share, 1 - share)
    assert scores[-1] is not None
    assert constant + 0.2 <= scores[-1] < 1.0
    assert (tmp_path / "results" / "model.safetensors").exists()


def test_too_small_a_range_is_named_to_the_data_owner_only(tmp_path: Path) -> None:
    made = federation(tmp_path, rounds=1, value_range=8.0)
    errors = made.run()
    assert errors["owner"] is not None
    said = " ".join(line.text for line in made.progress["alice"] if isinstance(line, Said))
    assert "num_batches_tracked" in said
    assert "num_batches_tracked" not in " ".join(line.line() for line in made.progress["owner"])


@pytest.mark.parametrize("name", ["owner", "alice", "bob", "carol"])
def test_the_site_files_are_site_files(name: str) -> None:
    site = load_site(EXAMPLE / "sites" / f"{name}.toml")
    assert site.tasks["wards"].factory == "wards:Wards"
    assert (site.owner is not None) == (name == "owner")


def test_the_document_shows_the_site_files_as_they_are() -> None:
    shown = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8"), re.DOTALL)
    files = ("hospitals/sites/hospital0", "hospitals/sites/owner", "own_task/sites/alice", "own_task/sites/owner")
    for name, block in zip(files, shown, strict=True):
        written = (ROOT / "examples" / f"{name}.toml").read_text(encoding="utf-8")
        assert block.split() == re.sub(r"^#.*$", "", written, flags=re.MULTILINE).split()


@pytest.mark.timeout(DEADLINE + 20)
def test_the_program_of_the_document_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    document = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", document, re.DOTALL)[-1]
    load("make_data").main(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("rounds=10", "rounds=2")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "done"


def first_of_four_free_ports() -> int:
    for start in range(20_000, 30_000, 10):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(start, start + 4):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return start
    pytest.fail("no four free ports in a row")


@pytest.mark.slow
@pytest.mark.timeout(DEADLINE + 20)
@pytest.mark.skipif(not LONG, reason="set TERTIUM_LONG=1, or run make long")
def test_the_script_runs_five_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", str(EXAMPLE / "run.sh"), str(tmp_path / "run"), str(first_of_four_free_ports())],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            assert process.wait(DEADLINE) == 0, (tmp_path / "log").read_text()[-2000:]
        finally:
            # The script's children are in its session; none may outlive the test.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
    assert (tmp_path / "run" / "results" / "model.safetensors").exists()
    assert "global model on 600 test examples" in (tmp_path / "log").read_text()
