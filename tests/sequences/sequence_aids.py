"""What a federation without lanes, disks and real training is made with."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tertium.crypto import identity
from tertium.crypto.ring import Plan
from tertium.learning.numpy_task import NumpyTask
from tertium.learning.task import LocalUpdate, Trainer
from tertium.owner.store import OwnerStore


class Chance(Random):
    """What decides everything random here: quick, and it protects nothing."""

    def choice(self, seq: Any) -> Any:
        return seq[int(self.random() * len(seq))]


class Remembering:
    """An Ed25519 public key that verifies each signature over the same bytes once: a pure function, and half the time.

    Everybody in a federation verifies what is sent to all, in one process here. Nothing else is short-cut.
    """

    _verdicts: ClassVar[dict[tuple[bytes, bytes, bytes], bool]] = {}

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> "Remembering":
        return cls(raw)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise `InvalidSignature` unless this key made the signature."""
        asked = (self._raw, signature, data)
        verdict = self._verdicts.get(asked)
        if verdict is None:
            try:
                Ed25519PublicKey.from_public_bytes(self._raw).verify(signature, data)
                verdict = True
            except (InvalidSignature, ValueError):
                verdict = False
            if len(self._verdicts) > 20_000:
                self._verdicts.clear()
            self._verdicts[asked] = verdict
        if not verdict:
            raise InvalidSignature


def _validate_once(plan: Plan) -> None:
    """Check a plan with exact fractions, the first time it is decoded."""
    if plan not in _VALID:
        _VALIDATE(plan)
        _VALID.add(plan)


_VALIDATE, _VALID = Plan.validate, set[Plan]()


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Let pure functions of the machines be computed once: signatures that verify, plans that are valid."""
    before = identity.Ed25519PublicKey
    identity.Ed25519PublicKey, Plan.validate = Remembering, _validate_once  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        identity.Ed25519PublicKey, Plan.validate = before, _VALIDATE  # type: ignore[method-assign,misc]


class Shelf(OwnerStore):
    """A model owner's folder that is no folder."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), "npz")
        self.done = 0

    def prepare(self) -> None:
        pass

    def newest(self) -> None:
        return None

    def checkpoint(self, model: Any, round_number: int) -> None:
        self.done = round_number

    def check(self, round_number: int, open_round: bytes, data: bytes) -> None:
        """Keep nothing."""

    def record(self, round_number: int, holder: str, data: bytes) -> None:
        pass

    def finish(self, model: Any) -> Path:
        return self.folder


class Pattern(Trainer):
    """Adds a pattern of its own to the model: quick, different for everybody, and findable."""

    def __init__(self, task: NumpyTask, party: int, *, fickle: bool) -> None:
        self._task, self._party, self._fickle, self._times = task, party, fickle, 0

    def describe(self) -> str:
        return "a pattern"

    def train(self, layout: Any, model: Any, plan: Any, stream: bytes) -> LocalUpdate:
        base = self._task.read(layout, model)
        self._times += self._fickle
        pattern = np.float32(0.013) * np.arange(1, 1 + len(base), dtype=np.float32) * np.float32(self._party + 1)
        flat = np.clip(base * np.float32(0.5) + pattern + np.float32(0.001) * np.float32(self._times % 97), -2, 2)
        figures = [0.25 * (self._party + 1)] * len(plan.metrics)
        return self._task.update(flat - base, flat, plan, 3 + self._party, figures)

    def evaluate(self, layout: Any, model: Any) -> Any:
        return self._task.trainer().evaluate(layout, model)
