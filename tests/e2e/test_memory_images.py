"""What a core of each live process would show, while a round is open and after it: nobody's update, no old key.

Updates are planted, and each data owner holds its own in every encoding that is searched for, so that a search that
finds nothing elsewhere has found it there. What is looked at is the memory itself and not core files: ours write none.
"""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from images import PLANS, Image, encodings, image
from killing import THIRD, Killable, search_path
from tertium.protocol.charter import Deadlines, Mode, Role
from tertium.simulation.scenario import WORKERS
from victim import KEYS

TORTURE = bool(os.environ.get("TERTIUM_TORTURE"))
NAMES = ("alice", "bob", "carol")
LAST = "carol"
"""Trains as long as the test wants, so that a round stays open with the contributions of the others."""
PARAMETERS = 6_000
PATTERNS = {
    name: np.random.default_rng(at).uniform(-4, 4, PARAMETERS).round(6).tolist() for at, name in enumerate(NAMES)
}
"""Not repeated, and searched for by their beginnings: of the last chunk of a body, up to 16 KiB, the library that opens
it hands out a copy that cannot be overwritten; `docs/threat-model.md` says so."""
WITHIN = 60.0
KINDS = {
    "trusted": (Mode.TRUSTED, "trusted", 1),
    "masked": (Mode.MASKED, "masked", 1),
    "additive of 2": (Mode.ADDITIVE, "additive", 2),
    "additive of 3": (Mode.ADDITIVE, "additive", 3),
    "replicated": (Mode.SHARED, "replicated", 3),
    "shamir 2 of 3": (Mode.SHAMIR, "shamir", 3),
}
ALWAYS = ("masked",)
"""Where a secure worker and the model owner are holders; `make torture` has all of them."""


def image_of(pid: int) -> Image:
    try:
        return image(pid)
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"the kernel lets nobody read the memory of a process here: {error}")


class Watched:
    """Two rounds: images of all parties with the first open, and with the second open and nothing sent for it."""

    def __init__(self, found: Any, root: Any, kind: str) -> None:
        mode, scheme, count = KINDS[kind]
        self.workers = WORKERS[:count]
        self.holders = count + (mode is Mode.MASKED)
        entries = {name: self._entry(root, PATTERNS[name], 1 if name == LAST else 2) for name in NAMES}
        plan = {"task": "planted", "rounds": 2, "metrics": [], "kind": "delta", "entry": self._entry(root, [0.0], 0)}
        place = found(
            entries,
            plan,
            deadlines=Deadlines(join=40, upload=60, close=20, release=20, statement=10),
            mode=mode,
            scheme=scheme,
            workers=self.workers,
            fresh=True,
        )
        assert place.charter.plan.values == PLANS[0].values
        self.root = root
        self.federation = Killable(place, root / "go-1", 2)

    @staticmethod
    def _entry(root: Any, pattern: list[float], gated: int) -> dict[str, Any]:
        options = {"parameters": PARAMETERS, "pattern": pattern, "gate": str(root / "go-{}"), "gated": gated}
        return {"factory": "victim:HeldEveryWay" if gated else "victim:PacedPlanted", "options": options}

    def play(self) -> None:
        self.federation.start_all()
        sent = [name for name in NAMES if name != LAST]
        self._until("write RECEIPT_TAKEN", self.holders, sent)
        self._until("work", 1, [LAST])
        self.open = self._images()
        self._go(1)
        self._until("work", 3, NAMES)  # the second is the fingerprint of the first vector
        self.after = self._images()
        self._go(2)
        self.federation.until(self.federation.all_ended, WITHIN)
        assert {self.federation.now(name).code() for name in self.federation.lives} == {0}, self.federation.story()

    def _until(self, place: str, count: int, names: Any) -> None:
        def reached() -> bool:
            lives = [self.federation.now(name) for name in names]
            return all([at for _, at in life.places].count(place) >= count for life in lives)

        self.federation.until(reached, WITHIN)

    def _go(self, number: int) -> None:
        (self.root / f"go-{number}").touch()

    def _images(self) -> dict[str, Image]:
        return {name: image_of(self.federation.now(name).process.pid) for name in self.federation.lives}

    def keys(self, name: str) -> list[list[bytes]]:
        """Return the private halves this party has drawn, a list a round: both seeds of the KEM, and the curve's."""
        data = (self.federation.place.root / f"{name}.0.places.keys").read_bytes()
        return [[data[at + part : at + part + 32] for part in (0, 32, 64)] for at in range(0, len(data), 96)]


@pytest.fixture
def watched(found: Any, tmp_path: Any, monkeypatch: Any) -> Any:
    """Return a maker of such runs; every process is stopped."""
    monkeypatch.setenv(KEYS, "1")
    made: list[Watched] = []

    def make(kind: str) -> Watched:
        made.append(Watched(found, tmp_path, kind))
        made[-1].play()
        return made[-1]

    yield make
    for each in made:
        each.federation.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS if TORTURE else ALWAYS)
def test_no_memory_holds_anothers_update_or_a_key_whose_round_is_over(watched: Any, kind: str) -> None:
    run = watched(kind)
    roles = run.federation.place.roles
    reads = {THIRD} if kind == "trusted" else set()
    for owner in NAMES:
        for what, stretch in encodings(PATTERNS[owner]).items():
            for moment, images in (("while the round is open", run.open), ("after it", run.after)):
                mine = what != "words of 32" or (moment != "after it" and owner != LAST)
                assert images[owner].holds(stretch) or not mine, f"{owner} itself lost {what} {moment}"
                held = {name for name in images if name != owner and images[name].holds(stretch)}
                assert held <= (reads if moment != "after it" else set()), f"{held} hold {what} of {owner} {moment}"
    for reader in reads:  # whose last update is still where it was opened to
        assert any(run.open[reader].holds(encodings(PATTERNS[name])["words of 32"]) for name in NAMES)
    left = {}
    for name, role in roles.items():
        if role is Role.MODEL_OWNER:
            continue  # its key goes to a file until the step is taken, in bytes that nothing can overwrite
        if role is Role.DATA_OWNER:
            # The model of the second round is open as well, and so are the seeds of the first one's masks.
            model, masks, again, _ = run.keys(name)
            over, current = [*model, *masks, *again], []
        else:
            over, current = run.keys(name)
            assert all(run.open[name].holds(part) for part in over), f"{name} has no key to the round that is open"
        assert all(run.after[name].holds(part) for part in current)
        left[name] = [number for number, part in enumerate(over) if run.after[name].holds(part)]
    assert not any(left.values()), f"parts of keys whose round is over: {left}"


def test_every_encoding_is_another_thing_to_look_for() -> None:
    found = encodings(PATTERNS["alice"])
    assert len(set(found.values())) == len(found) > 20
    assert min(map(len, found.values())) >= 32
    assert not set(found.values()) & set(encodings(PATTERNS["bob"]).values())


ERASED = """
import sys
from victim import give_keys_away
from tertium.crypto import sealing
give_keys_away(1)
key = sealing.RoundKey()
key.unwrap(sealing.wrap(key.public, bytes(32), b"x"), b"x")
for moment in ("drawn", "erased"):
    sys.stderr.write(moment)
    sys.stderr.flush()
    sys.stdin.read(1)
    key.erase()
"""


def test_an_erased_key_leaves_no_copy_in_a_process_that_did_nothing_since(tmp_path: Any) -> None:
    with (tmp_path / "keys").open("w+b") as keys:
        process = subprocess.Popen(
            [sys.executable, "-c", ERASED],
            stdin=subprocess.PIPE,
            stdout=keys,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search_path()},
        )
        try:
            found = []
            for moment in (b"drawn", b"erased"):
                assert process.stderr.read(len(moment)) == moment
                seen = image_of(process.pid)
                keys.seek(0)
                secret = keys.read()
                found.append([seen.holds(secret[at : at + 32]) for at in (0, 32, 64)])
                process.stdin.write(b".")
                process.stdin.flush()
            assert found == [[True] * 3, [False] * 3]
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait(10)
            process.stdin.close()
            process.stderr.close()
