"""What a site plugs in: a `Task`, and the two things the roles drive through it.

This file is torch-free on purpose. A data owner's machine drives a `Trainer`, a model owner's a `GlobalModel`; whether
torch, numpy or something else is behind them is the task's own affair. `tertium.learning.torch_task.TorchTask` serves
any `torch.nn.Module`, `tertium.learning.numpy_task` serves tests, simulations and benchmarks.

Arrays that pass through here are in layout order, one flat array an entry of `layout.updated(kind)`, float32 or
float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..crypto.labels import Buffer
from ..protocol.errors import SiteFileError
from ..protocol.training import Layout, Score, TrainingPlan, UpdateKind

Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocalUpdate:
    """What one data owner computed. Never shown in a repr: it is the thing this software protects."""

    values: Sequence[Values] = field(repr=False)
    """One flat array an entry of `layout.updated(kind)`."""
    examples: int = field(repr=False)
    """Examples trained on, at least 0; the weight under the rule `examples`."""
    metrics: tuple[float, ...] = field(repr=False, default=())
    """One figure a name of `plan.metrics`, in that order."""
    clipped: bool = field(repr=False, default=False)
    """Whether the plan's clipping step changed the update."""


@dataclass(frozen=True)
class ServerOptimiser:
    """How a model owner turns an aggregate into the next model.

    `name` is a class of `torch.optim` ("SGD", "Adam", ...); None sets or adds the mean directly. With an optimiser
    the pseudo-gradient is (global - mean) for `weights`, (-mean) for `delta`, the aggregate itself for `gradients`.
    """

    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    reduction: str = "mean"
    """`mean` divides the sum by the total weight; `sum` does not."""


class Trainer(ABC):
    """A data owner's side of a task: holds its data, trains local copies."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line about this party's data, for its own operator (counts, say)."""

    @abstractmethod
    def train(self, layout: Layout, model: Buffer, plan: TrainingPlan, stream: bytes) -> LocalUpdate:
        """Train a local copy of `model` and return the update.

        `stream` is 32 bytes that differ by seed, party and round; batch order derives from it and nothing else.

        Raises:
            SiteFileError: the model does not fit this site's task (other names, shapes or types).
        """

    @abstractmethod
    def evaluate(self, layout: Layout, model: Buffer) -> Score:
        """Return how `model` does on this party's test data (its own data where it has no other)."""

    @property
    def tests_own(self) -> bool:
        """Whether `evaluate_own` has test data to answer with."""
        return False

    def evaluate_own(self, layout: Layout, model: Buffer, kind: UpdateKind, update: Sequence[Values]) -> Score:
        """Return how this party's own model does on its test data: `model` with nobody's update but `update` applied.

        `update` is what `train` returned for `model`, as it is sent. For this party's own operator, never sent.

        Raises:
            SiteFileError: the task cannot say: no test data, or gradients, with which no local model is made.
        """
        raise SiteFileError("this task scores no model of its own")


class GlobalModel(ABC):
    """A model owner's side of a task: holds the model, applies aggregates."""

    layout: Layout

    def describe(self) -> str:
        """Return one line about this party's test data, for its own operator; empty where it has none."""
        return ""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return the model's bytes, as `layout` describes them."""

    @abstractmethod
    def apply(self, kind: UpdateKind, aggregate: Sequence[Values]) -> None:
        """Take one step with an aggregate already reduced, in float64, one flat array an entry of `updated(kind)`."""

    @abstractmethod
    def evaluate(self) -> Score | None:
        """Return how the model does on this party's held-out data, or None where it has none."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the model (and what the optimiser remembers) atomically, mode 0600."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read what `save` wrote; raises `SiteFileError` if it is not a checkpoint of this model."""


class Task(ABC):
    """Named in a site's own file, with options from the same file; builds whichever side a role needs."""

    def measures(self, metric: str) -> bool:
        """Whether data owners of this task can report this local figure; a model owner asks before it asks them."""
        return True

    @abstractmethod
    def trainer(self) -> Trainer:
        """Return the data owner's (or evaluator's) side; loads the data."""

    @abstractmethod
    def global_model(self, seed: int, optimiser: ServerOptimiser) -> GlobalModel:
        """Return the model owner's side, freshly initialised from `seed`."""
