"""Act three of the toy tutorial from a notebook's cells: real processes, a running event loop, and every end."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tertium import notebook
from tertium.notebook import NotebookError, SingleUpdateRefused

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("notebook")
FACTORY = "tertium.learning.tasks.toy:Toy"
ROWS = {"bob": {"rows": [0, 1]}, "alice": {"rows": [2, 3]}}
HOW: dict[str, Any] = {
    "owner": {"rows": [], "test": True},
    "unsafe_small_cohort": "two, as in the tutorial",
    "learning_rate": 0.1,
    "batch_size": 0,
}


def alone(steps: list[int]) -> Any:
    """The same arithmetic in one process: local steps from one model, weights averaged in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
    inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    for count in steps:
        trained = []
        for rows in (slice(2), slice(2, 4)):
            local = torch.nn.Linear(2, 1)
            local.load_state_dict(model.state_dict())
            optimiser = torch.optim.SGD(local.parameters(), lr=0.1)
            for _ in range(count):
                optimiser.zero_grad()
                (local(inputs[rows]) - targets[rows]).square().sum().backward()
                optimiser.step()
            trained.append({name: value.double() for name, value in local.state_dict().items()})
        model.load_state_dict({name: (trained[0][name] + trained[1][name]) / 2 for name in trained[0]})
    return model


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One round of 10 local steps and three of 5, all in a coroutine, as Jupyter runs a cell."""
    folder, found = tmp_path_factory.mktemp("notebook") / "run", {}

    async def cell() -> notebook.Federation:
        federation = notebook.launch(FACTORY, ROWS, folder=folder, **HOW)
        model = federation.model
        found["first"] = model
        for steps in (10, 5, 5, 5):
            copies = [model.send(name).train(epochs=steps) for name in ("bob", "alice")]
            mean = notebook.mean(*(each.move("third") for each in copies))
            model = mean.get()
        found.update(model=model, mean=mean, copies=copies)
        return federation

    federation = asyncio.run(cell())
    with federation:
        yield {**found, "federation": federation, "folder": folder}


def test_the_model_is_that_of_the_same_arithmetic_in_one_process(act: dict[str, Any]) -> None:
    expected = alone([10, 5, 5, 5]).state_dict()
    for name, value in act["model"].module.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=0, atol=1e-6), name
    assert act["model"].round == 4
    assert (act["mean"].contributors, act["mean"].check) == (("alice", "bob"), "verified")
    assert act["model"].score.loss < act["first"].score.loss
    inputs = torch.tensor([[1.0, 0.0]])
    assert torch.equal(act["model"](inputs), act["model"].module(inputs).detach())


def test_what_was_moved_is_not_given_back(act: dict[str, Any]) -> None:
    for copy in act["copies"]:
        with pytest.raises(SingleUpdateRefused, match="no message returns it"):
            copy.get()


def test_a_module_is_the_users_own(act: dict[str, Any]) -> None:
    mine = act["federation"].model.copy()
    with torch.no_grad():
        mine.module.weight.zero_()
    assert not torch.equal(mine.module.weight, act["federation"].model.module.weight)


def test_losses_stay_on_their_owners_screens(act: dict[str, Any]) -> None:
    federation = act["federation"]
    assert any("trained on 2 examples, loss" in line for line in federation.log("bob"))
    with pytest.raises(NotebookError, match="owner's screen is where it runs; launched here are alice, bob, third"):
        federation.log("owner")


SCRIPT = """
import os, signal, sys
from tertium import notebook
federation = notebook.launch({factory!r}, {rows!r}, folder=sys.argv[1], **{how!r})
print(*federation._launcher.pids.values(), flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
raise SystemExit("the script ends without closing")
"""


@pytest.mark.parametrize("end", ["killed", "raised"])
def test_no_process_outlives_the_one_that_launched_it(tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(factory=FACTORY, rows=ROWS, how=HOW))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), end], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == (-9 if end == "killed" else 1), done.stderr
    pids = [int(word) for word in done.stdout.splitlines()[-1].split()]
    assert len(pids) == 3
    until = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in pids if alive(pid)]


def test_a_closed_federation_leaves_no_process_and_says_so(act: dict[str, Any]) -> None:
    """The last test of the federation that the others look at."""
    federation = act["federation"]
    pids = list(federation._launcher.pids.values())
    assert all(alive(pid) for pid in pids)
    with pytest.raises(NotebookError, match="first: an audit reads the ledgers of parties that have ended"):
        federation.audit()
    federation.close()
    federation.close()
    assert federation.audit().startswith("clean: no violation is on record")
    assert (act["folder"] / "audit.html").is_file()
    assert not [pid for pid in pids if alive(pid)]
    with pytest.raises(NotebookError, match="the session is over"):
        notebook.mean(*(federation.model.send(name).train().move() for name in ROWS))


def test_a_party_that_cannot_start_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[object] = []
    monkeypatch.setattr("tertium.owner.stepped.SteppedOwner.end", ends.append)
    begun = time.monotonic()
    with pytest.raises(NotebookError, match=r"bob .data owner. failed: .*rows"):
        notebook.launch(FACTORY, {**ROWS, "bob": {"rows": [7]}}, folder=tmp_path / "run", **HOW)
    assert time.monotonic() - begun < 45
    assert not ends, "an end in order was waited for, of a session that never began"


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
