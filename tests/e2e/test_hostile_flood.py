"""A thousand strangers and two parties of the charter attack one secure worker; the honest get their rounds, exactly.

The attackers are those of `benchmarks/hostile.py`; how much they slow a round down, `benchmarks/flood.py` measures.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tertium.protocol import limits
from tertium.protocol.charter import Deadlines

ROOT = Path(__file__).resolve().parents[2]
HONEST = {"alice": 0.5, "bob": 0.25, "charlie": 0.75}
MEAN = 0.5
TRUDY = 2.5
ROUNDS = 80
ROUNDS_OF_TRUDY = 3
CONNECTIONS = 1000
GROWTH = 64 * limits.MIB
KINDS = {
    "silent",
    "garbage",
    "stalled",
    "drip",
    "giant",
    "endless",
    "half_hello",
    "guess",
    "stranger_key",
    "hasty",
}
ANNOUNCER = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.hostile import run_announcer; "
    "sys.exit(run_announcer(sys.argv[1:]))"
)


class Watched:
    """The largest resident set, and the most descriptors, a process had while it was watched."""

    def __init__(self, pid: int) -> None:
        self._status, self._fd = Path(f"/proc/{pid}/status"), f"/proc/{pid}/fd"
        self.first = self._memory("VmRSS")
        self.memory, self.descriptors = self.first, len(os.listdir(self._fd))
        threading.Thread(target=self._watch, daemon=True).start()

    def _memory(self, field: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * limits.KIB

    def _watch(self) -> None:
        while True:
            try:
                self.memory = max(self.memory, self._memory("VmHWM"))
                self.descriptors = max(self.descriptors, len(os.listdir(self._fd)))
            except (OSError, StopIteration):
                return  # it has ended
            time.sleep(0.05)


@pytest.fixture
def attackers(tmp_path):
    """Start attackers; they end with the test."""
    started = []

    def start(name: str, *words: str) -> Path:
        out = tmp_path / f"{name}.attack"
        with out.open("wb") as stdout:
            command = [sys.executable, "-m", "benchmarks.hostile", name, *words]
            started.append(subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, cwd=ROOT))
        return out

    start.alive = lambda: all(each.poll() is None for each in started)
    yield start
    for each in started:
        each.kill()
        each.wait(10)


def last(path: Path) -> dict:
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    return json.loads(lines[-1]) if lines else {}


def wait_until(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not in {seconds} s"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_flood_costs_the_secure_worker_little_memory_and_the_honest_no_round(
    found, planted_of, attackers, monkeypatch, tmp_path
):
    tasks = {name: planted_of(3, pattern) for name, pattern in HONEST.items()}
    tasks |= {"mallory": planted_of(3, 9.0), "trudy": planted_of(3, TRUDY)}
    place = found(
        tasks,
        {"task": "planted", "rounds": ROUNDS, "kind": "delta", "entry": planted_of(3)},
        deadlines=Deadlines(join=60, upload=40, close=20, release=20, statement=10),
        fresh=True,
    )
    switch = tmp_path / "switch"
    switch.touch()
    monkeypatch.setenv("TERTIUM_FLOOD", str(switch))
    third = place.start("third")
    place.wait_for("third", "listening on")
    watched = Watched(third.pid)

    listed = place.charter.party("third")
    ports = [endpoint.rsplit(":", 1)[1] for endpoint in (listed.control, listed.bulk)]
    key = place.identities["third"].public.curve.hex()
    words = ["--control", ports[0], "--bulk", ports[1], "--key", key, "--connections", str(CONNECTIONS)]
    strangers = attackers("strangers", *words)
    wait_until(lambda: last(strangers).keys() >= KINDS, 90)
    place.start("mallory", wrapper=ANNOUNCER)
    for name in ("owner", "trudy", *HONEST):
        place.start(name)
    # trudy dies after a few rounds; somebody has its keys and talks to the secure worker with them
    place.wait_for("owner", f"round {ROUNDS_OF_TRUDY}: aggregate of 4 applied", 90)
    place.processes.pop("trudy").kill()
    babbler = attackers("babbler", str(place.root / "trudy"), str(place.root / "charter.toml"))
    wait_until(lambda: last(babbler), 60)
    assert f"round {ROUNDS}:" not in place.out("owner")
    status = place.wait_all(80)
    assert attackers.alive()
    assert status == dict.fromkeys(status, 0), {name: place.err(name)[-300:] for name in status}

    assert f"round {ROUNDS}: aggregate of 3 applied" in place.out("owner")
    model = np.load(next((place.root / "owner" / "state").glob("model.*")))
    with_trudy = len(re.findall(r"round \d+: aggregate of 4 applied", place.out("owner")))
    assert model[0].tolist() == [MEAN * ROUNDS + (TRUDY - MEAN) / 4 * with_trudy] * 3
    # they did what they are here for, and it was seen
    assert sum(last(strangers).get(kind, 0) for kind in KINDS) > 2 * CONNECTIONS
    assert watched.descriptors > CONNECTIONS / 4
    seen = place.out("third")
    assert "StrangerKey" in seen or "a key that is not in the charter" in seen
    assert "trudy: connects again after it was cut off for a flood" in seen
    # and this is what it cost
    assert watched.memory - watched.first < GROWTH
    assert watched.descriptors < 2 * CONNECTIONS
    assert "Traceback" not in place.err("third")
