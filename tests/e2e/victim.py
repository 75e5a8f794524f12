"""What runs in a process whose end is being tested: a party's public command, watched, and ended at a named place.

A place is something the process does: `write NAME` (a name of `Write`), `send MESSAGE`, `record out` and `record in`
(of a body), `replace` (a whole new file takes its name), `work` (a job begins). The plan, JSON in the first argument,
is a list of steps in order: [action, place, number, "before" or "after", since]. The action is "kill" (SIGKILL, by the
process to itself, so that it is exactly there) or "term" (SIGTERM, an operator who stops it). The place counts from 1,
and not before the `since`-th time that this party has written the entry its rounds begin with (0: from its start).
Every place is noted in the file the second argument names, which tells a test how far this process came.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from images import STRETCH, encodings
from tertium.cli import main
from tertium.crypto import sealing
from tertium.learning.numpy_task import NumpyTask, NumpyTrainer, Planted, PlantedTrainer
from tertium.protocol.journal import Journal
from tertium.protocol.lanes.zmq_lanes import ZmqLanes
from tertium.protocol.machine import Work
from tertium.protocol.party import Party
from tertium.protocol.transfers import Transfers

ROUNDS_BEGIN_WITH = ("write QUESTION_ADMITTED", "write QUESTION_SIGNED", "write INVITATION_ANSWERED")
ON_ITS_WAY = 0.1
"""Seconds a message that was handed to ZeroMQ's own thread is given to leave, where the end is to be after it."""
KEYS = "TERTIUM_TEST_KEYS"
"""Where it is set, round keys are drawn so that the test knows them: see `give_keys_away`."""
ACTIONS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}


class Fate:
    """Where this process is, and where it ends."""

    def __init__(self, plan: list[list[Any]], trace: int) -> None:
        self._plan = plan
        self._trace = trace
        self._rounds = 0
        self._seen: dict[str, int] = {}

    def at(self, place: str, act: Callable[[], Any]) -> Any:
        """Do what is done at this place, unless this process ends before it."""
        if place in ROUNDS_BEGIN_WITH:
            self._rounds += 1
        step = self._plan[0] if self._plan else None
        due = False
        if step is not None and place == step[1] and self._rounds >= step[4]:
            self._seen[place] = self._seen.get(place, 0) + 1
            due = self._seen[place] == step[2]
        self._note(place)
        if due and step is not None and step[3] == "before":
            self._end(step[0])
        result = act()
        if due and step is not None and step[3] == "after":
            if place.startswith(("send", "record")):
                time.sleep(ON_ITS_WAY)
            self._end(step[0])
        return result

    def _note(self, place: str) -> None:
        os.write(self._trace, f"{time.monotonic():.6f} {place}\n".encode())

    def _end(self, action: str) -> None:
        self._plan.pop(0)
        self._seen.clear()
        self._note(action)
        os.kill(os.getpid(), ACTIONS[action])


def watch(fate: Fate) -> None:
    """Put `fate` in the way of everything this process does that another party, or its next process, can see."""

    def around(owner: Any, name: str, place: Callable[..., str | None]) -> None:
        real = getattr(owner, name)

        def instead(*args: Any, **more: Any) -> Any:
            where = place(*args, **more)
            return real(*args, **more) if where is None else fate.at(where, lambda: real(*args, **more))

        setattr(owner, name, instead)

    around(Journal, "write", lambda _self, name, *_entries, **_more: f"write {name.name}")
    around(Party, "_send", lambda _self, _peer, message: f"send {type(message).__name__}")
    around(Party, "_carry_out", lambda _self, effect: "work" if isinstance(effect, Work) else None)
    around(ZmqLanes, "send_record", lambda *_: "record out")
    around(Transfers, "record", lambda *_: "record in")
    around(os, "replace", lambda *_: "replace")


class Paced:
    """Trains like the task it wraps, but no sooner than it is let: for a file to be there, or for some seconds.

    In the name of the file "{}" stands for the number of the training.
    """

    def __init__(self, trainer: Any, *, gate: str, gated: int, pause: float) -> None:
        self._trainer, self._gate, self._gated, self._pause = trainer, gate, gated, pause
        self._calls = 0

    def describe(self) -> str:
        """Return one line about this party's data."""
        return self._trainer.describe()

    def train(self, *args: Any) -> Any:
        """Train; the `gated`-th training of this process and those after it wait for the gate."""
        self._calls += 1
        begun = time.monotonic()
        gate = Path(self._gate.format(self._calls))
        while self._gated and self._calls >= self._gated and not gate.exists():
            if time.monotonic() - begun > 60:
                raise TimeoutError("the gate was never opened")
            time.sleep(0.01)
        time.sleep(self._pause)
        return self._trainer.train(*args)

    def evaluate(self, *args: Any) -> Any:
        """Score a model."""
        return self._trainer.evaluate(*args)


class PacedNumbers(NumpyTask):
    """A regression whose training can be held up."""

    def __init__(self, *, gate: str = "", gated: int = 0, pause: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._pace = {"gate": gate, "gated": gated, "pause": pause}

    def trainer(self) -> Any:
        """Return the data owner's side."""
        trainer: NumpyTrainer = super().trainer()
        return Paced(trainer, **self._pace)


class PacedPlanted(Planted):
    """A planted pattern whose training can be held up."""

    def __init__(self, *, gate: str = "", gated: int = 0, pause: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self._pace = {"gate": gate, "gated": gated, "pause": pause}

    def trainer(self) -> Any:
        """Return the side that adds the pattern."""
        trainer: PlantedTrainer = super().trainer()
        return Paced(trainer, **self._pace)


class HeldEveryWay(PacedPlanted):
    """A planted pattern that this process also holds in every encoding, so that a search for one must find it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held = encodings(self.pattern[: 2 * STRETCH].tolist())


def give_keys_away(into: int) -> None:
    """Have every round key drawn here told to the test, by a descriptor, and leave no copy of it but the key itself."""
    for module, kind, size, load in (
        ("mlkem", "MLKEM768PrivateKey", 64, mlkem.MLKEM768PrivateKey.from_seed_bytes),
        ("x25519", "X25519PrivateKey", 32, x25519.X25519PrivateKey.from_private_bytes),
    ):
        public = f"{kind.removesuffix('PrivateKey')}PublicKey"
        real = getattr(sealing, module)
        drawn = partial(_drawn, size, load, into)
        fake = {kind: SimpleNamespace(generate=drawn), public: getattr(real, public)}
        setattr(sealing, module, SimpleNamespace(**fake))


def _drawn(size: int, load: Callable[[bytearray], Any], into: int) -> Any:
    secret = bytearray(size)
    with open("/dev/urandom", "rb", buffering=0) as source:
        assert source.readinto(secret) == size
    os.write(into, secret)
    key = load(secret)
    secret[:] = bytes(size)
    return key


def run() -> int:
    """Run the command that the arguments after plan and trace name."""
    plan, trace, *command = sys.argv[1:]
    watch(Fate(json.loads(plan), os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)))
    if KEYS in os.environ:
        give_keys_away(os.open(f"{trace}.keys", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return main(command)
