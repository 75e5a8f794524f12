"""Tasks without torch, for tests, simulations and benchmarks: a linear or logistic regression, and a planted pattern.

Results are exact repeats of each other on one machine: float32 throughout, sums by numpy's own loops and not by a BLAS
that splits them over threads. Checkpoints are `.npy` files, read with `allow_pickle=False`.
"""

import io
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..crypto.labels import Buffer
from ..protocol.errors import SiteFileError
from ..protocol.training import DType, Entry, Layout, Score, TrainingPlan, UpdateKind
from .batches import batch_order, examples_touched
from .describe import counts_line
from .files import read_whole, write_atomically
from .options import count, number, one_of
from .task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Trainer, Values
from .updates import clip, own_test, require_aggregate, require_model_length, require_same_layout

Floats = npt.NDArray[np.float32]
FIGURES = ("loss", "accuracy")
"""What a regression can report."""
NOISE = 0.1
"""Standard deviation of what is added to the targets of a synthetic linear regression."""


@dataclass(frozen=True)
class Rows:
    """Inputs [n, features] and targets [n], float32. Private, so never in a repr."""

    inputs: Floats = field(repr=False)
    targets: Floats = field(repr=False)

    def __len__(self) -> int:
        return len(self.targets)


def _array(value: object, name: str, dimensions: int) -> Floats:
    """Return an option that is a list (of lists) of numbers as float32; raises `SiteFileError`."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SiteFileError(f"option {name} is not a list of numbers, all rows equally long") from error
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise SiteFileError(f"option {name} is not a {dimensions}-dimensional list of finite numbers")
    return array


class _FlatTask(Task):
    """What the tasks of this file share: all float32, all trained, so a model is one flat vector."""

    layout: Layout

    @abstractmethod
    def initial(self, seed: int) -> Floats:
        """Return the flat model a round starts from at first."""

    @abstractmethod
    def held_out(self) -> Callable[[Floats], Score] | None:
        """Return what scores a flat model on held-out data, or None."""

    def global_model(self, seed: int, optimiser: ServerOptimiser) -> "NumpyGlobalModel":
        """Return the model owner's side, freshly initialised from `seed`; `SiteFileError` for a bad optimiser."""
        return NumpyGlobalModel(self.layout, self.initial(seed), optimiser, self.held_out())

    def read(self, layout: Layout, model: Buffer) -> Floats:
        """Return a model's bytes as a flat float32 vector that may share their memory; raises `SiteFileError`."""
        require_same_layout(self.layout, layout)
        view = memoryview(model).cast("B")
        require_model_length(layout, len(view))
        return np.frombuffer(view, dtype="<f4")

    def update(
        self, change: Floats, local: Floats, plan: TrainingPlan, examples: int, metrics: Sequence[float]
    ) -> LocalUpdate:
        """Return the update: `change` is a difference or a gradient, `local` the model that `weights` would send."""
        (clipped_change, *_), clipped = clip([change], plan.clip_norm)
        flat: Values = clipped_change
        if plan.kind is UpdateKind.WEIGHTS:
            # the local model itself where nothing was clipped: base + (local - base) would round twice
            flat = (local - change) + clipped_change if clipped else local
        ends = np.cumsum([entry.elements for entry in self.layout.entries])
        values = tuple(flat[end - entry.elements : end] for entry, end in zip(self.layout.entries, ends, strict=True))
        return LocalUpdate(values=values, examples=examples, metrics=tuple(metrics), clipped=clipped)


class NumpyTask(_FlatTask):
    """A linear or logistic regression with plain SGD.

    Options: `model` is "linear" (loss: mean squared error) or "logistic" (mean binary cross-entropy of targets 0 and
    1). Data are either `inputs` (rows) and `targets`, or synthetic: `examples` rows of `features` standard normal
    numbers drawn from (`seed`, `party`), with targets of one true model drawn from `seed`, the same for all parties.
    `test_examples` more synthetic rows, the same for all parties, are held out where it is not 0.

    An answer is right, for "accuracy", when it lies within 0.5 of the target (linear) or on its side of 0.5 (logistic).
    """

    def __init__(
        self,
        *,
        model: str = "linear",
        inputs: object = None,
        targets: object = None,
        features: int = 4,
        examples: int = 100,
        test_examples: int = 0,
        seed: int = 0,
        party: int = 0,
    ) -> None:
        self._logistic = one_of("model", model, ("linear", "logistic")) == "logistic"
        self._seed, self._party = count("seed", seed), count("party", party)
        self._features, self._examples = count("features", features, least=1), count("examples", examples)
        self._test_examples = count("test_examples", test_examples)
        self._given: Rows | None = None
        if (inputs is None) != (targets is None):
            raise SiteFileError("give both options inputs and targets, or neither")
        if inputs is not None:
            rows, answers = _array(inputs, "inputs", 2), _array(targets, "targets", 1)
            if len(rows) != len(answers) or rows.shape[1] == 0:
                raise SiteFileError("options inputs and targets differ in their number of rows")
            if self._logistic and not np.isin(answers, (0, 1)).all():
                raise SiteFileError("targets of a logistic regression are 0 and 1")
            self._given, self._features = Rows(rows, answers), rows.shape[1]
        self.layout = Layout(
            entries=(
                Entry(name="weight", dtype=DType.FLOAT32, shape=(self._features,), trainable=True),
                Entry(name="bias", dtype=DType.FLOAT32, shape=(1,), trainable=True),
            )
        )

    def measures(self, metric: str) -> bool:
        """Whether this regression has such a figure."""
        return metric in FIGURES

    def trainer(self) -> "NumpyTrainer":
        """Return the data owner's side; loads the data."""
        return NumpyTrainer(self, self._given or self._synthetic(self._examples, self._party), self._held_out_rows())

    def initial(self, seed: int) -> Floats:
        """Return weights drawn from `seed`, uniform within 1/sqrt(features) as torch's Linear has them."""
        bound = 1 / math.sqrt(self._features)
        return np.random.default_rng([0x7E, seed]).uniform(-bound, bound, self._features + 1).astype(np.float32)

    def held_out(self) -> Callable[[Floats], Score] | None:
        """Return what scores a flat model on the held-out rows, or None."""
        rows = self._held_out_rows()
        return None if rows is None else lambda flat: self.score(flat, rows)

    def _held_out_rows(self) -> Rows | None:
        return self._synthetic(self._test_examples, None) if self._test_examples else None

    def _synthetic(self, examples: int, party: int | None) -> Rows:
        """Return `examples` rows of one party, or held-out ones for None, under the true model of the seed."""
        truth = np.random.default_rng([self._seed, 1]).standard_normal(self._features + 1).astype(np.float32)
        source = np.random.default_rng([self._seed, 2] if party is None else [self._seed, 3, party])
        inputs = source.standard_normal((examples, self._features)).astype(np.float32)
        answers = self._outputs(truth, inputs)
        if self._logistic:
            answers = (answers > 0).astype(np.float32)
        else:
            answers = answers + np.float32(NOISE) * source.standard_normal(examples).astype(np.float32)
        return Rows(inputs, answers.astype(np.float32))

    @staticmethod
    def _outputs(flat: Floats, inputs: Floats) -> Floats:
        outputs: Floats = np.einsum("ij,j->i", inputs, flat[:-1]) + flat[-1]
        return outputs

    def losses(self, flat: Floats, rows: Rows) -> tuple[float, int]:
        """Return the mean loss of a model on some rows, and how many answers are right."""
        outputs = self._outputs(flat, rows.inputs).astype(np.float64)
        if self._logistic:
            # log(1 + exp(x)) - t x, without overflow
            each = np.logaddexp(0.0, outputs) - rows.targets * outputs
            return float(each.mean()), int(((outputs > 0) == (rows.targets > 0.5)).sum())
        miss = outputs - rows.targets
        return float(np.square(miss).mean()), int((np.abs(miss) < 0.5).sum())

    def gradient(self, flat: Floats, rows: Rows) -> Floats:
        """Return the gradient of the mean loss on some rows, float32 [features + 1]."""
        outputs = self._outputs(flat, rows.inputs)
        if self._logistic:
            # the logistic function as a tanh, which does not overflow
            miss = (np.float32(0.5) * (1 + np.tanh(outputs * np.float32(0.5))) - rows.targets) / np.float32(len(rows))
        else:
            miss = np.float32(2) * (outputs - rows.targets) / np.float32(len(rows))
        return np.append(np.einsum("i,ij->j", miss, rows.inputs), miss.sum()).astype(np.float32)

    def score(self, flat: Floats, rows: Rows) -> Score:
        """Return how a flat model does on some rows."""
        if not len(rows):
            return Score(examples=0, loss=0.0)
        loss, right = self.losses(flat, rows)
        return Score(examples=len(rows), loss=loss, accuracy=right / len(rows))

    def describe_data(self, rows: Rows) -> str:
        """Return one line about some rows, with a count a class for a logistic regression."""
        return counts_line("", len(rows), rows.targets.astype(np.int64) if self._logistic else None)


class NumpyTrainer(Trainer):
    """A data owner's side of a `NumpyTask`."""

    def __init__(self, task: NumpyTask, rows: Rows, test: Rows | None) -> None:
        self.task = task
        self._rows = rows
        self._test = test

    def describe(self) -> str:
        """Return one line about this party's data."""
        return self.task.describe_data(self._rows)

    def train(self, layout: Layout, model: Buffer, plan: TrainingPlan, stream: bytes) -> LocalUpdate:
        """Train a local copy with SGD and return the update; for `gradients` the sum of the batches' gradients.

        "loss" is the mean over batches of the loss before each step, "accuracy" the share of right answers in them.

        Raises:
            SiteFileError: the model does not fit this site's task, or a metric's name is unknown.
        """
        base = self.task.read(layout, model)
        _require_metrics(plan, FIGURES)
        flat, total = base.copy(), np.zeros_like(base)
        velocity: Floats | None = None
        losses, right, judged = [], 0, 0
        rate, momentum = np.float32(plan.learning_rate), np.float32(plan.momentum)
        for order in batch_order(len(self._rows), plan, stream):
            batch = Rows(self._rows.inputs[order], self._rows.targets[order])
            loss, hits = self.task.losses(flat, batch)
            losses.append(loss)
            right, judged = right + hits, judged + len(batch)
            gradient = self.task.gradient(flat, batch)
            if plan.kind is UpdateKind.GRADIENTS:
                total += gradient
            else:
                velocity = gradient if velocity is None else momentum * velocity + gradient
                flat -= rate * velocity
        figures = {"loss": sum(losses) / max(len(losses), 1), "accuracy": right / max(judged, 1)}
        change = total if plan.kind is UpdateKind.GRADIENTS else flat - base
        touched = examples_touched(len(self._rows), plan)
        return self.task.update(change, flat, plan, touched, [figures[name] for name in plan.metrics])

    def evaluate(self, layout: Layout, model: Buffer) -> Score:
        """Return how `model` does on the held-out rows, or on this party's own where there are none."""
        return self.task.score(self.task.read(layout, model), self._rows if self._test is None else self._test)

    @property
    def tests_own(self) -> bool:
        """Whether there are held-out rows."""
        return self._test is not None

    def evaluate_own(self, layout: Layout, model: Buffer, kind: UpdateKind, update: Sequence[Values]) -> Score:
        """Return how `model` with this party's update alone does on the held-out rows; see `Trainer.evaluate_own`."""
        test = own_test(kind, self._test)
        base = self.task.read(layout, model)
        flat = np.concatenate(require_aggregate(layout, kind, update))
        own = (base + flat if kind is UpdateKind.DELTA else flat).astype("<f4")
        return self.task.score(own, test)

    def __repr__(self) -> str:
        return f"NumpyTrainer({self.describe()})"


class Planted(_FlatTask):
    """A flat model of any size whose "training" adds a known pattern: for benchmarks, and to look for it on a wire.

    Options: `parameters` float32 numbers, starting at 0; `pattern`, a number or a list of numbers repeated to that
    length; `examples`, the weight this party claims. Every kind of update carries the pattern; metrics are 0.
    """

    def __init__(self, *, parameters: int = 1000, pattern: object = 0.5, examples: int = 1) -> None:
        size = count("parameters", parameters, least=1)
        self.examples = count("examples", examples)
        listed = isinstance(pattern, list | tuple)
        motif = _array(pattern if listed else [number("pattern", pattern)], "pattern", 1)
        if motif.size == 0:
            raise SiteFileError("option pattern is empty")
        self.pattern = np.tile(motif, -(-size // motif.size))[:size]
        self.layout = Layout(entries=(Entry(name="planted", dtype=DType.FLOAT32, shape=(size,), trainable=True),))

    def trainer(self) -> "PlantedTrainer":
        """Return the side that adds the pattern."""
        return PlantedTrainer(self)

    def initial(self, seed: int) -> Floats:
        """Return zeros."""
        return np.zeros_like(self.pattern)

    def held_out(self) -> Callable[[Floats], Score] | None:
        """Return None: there is nothing to be right about."""
        return None


class PlantedTrainer(Trainer):
    """A data owner's side of `Planted`."""

    def __init__(self, task: Planted) -> None:
        self.task = task

    def describe(self) -> str:
        """Return one line about the data there are not."""
        return f"planted pattern: {self.task.examples} examples"

    def train(self, layout: Layout, model: Buffer, plan: TrainingPlan, stream: bytes) -> LocalUpdate:
        """Return the pattern, added to the model for `weights`; raises `SiteFileError` if the model does not fit."""
        base = self.task.read(layout, model)
        pattern = self.task.pattern
        return self.task.update(pattern, base + pattern, plan, self.task.examples, [0.0] * len(plan.metrics))

    def evaluate(self, layout: Layout, model: Buffer) -> Score:
        """Return the mean square of the model as its loss; raises `SiteFileError` if the model does not fit."""
        flat = self.task.read(layout, model)
        return Score(examples=self.task.examples, loss=float(np.square(flat, dtype=np.float64).mean()))


class NumpyGlobalModel(GlobalModel):
    """A model owner's side of the tasks of this file; its one server optimiser is SGD, with `lr` and `momentum`."""

    def __init__(
        self, layout: Layout, flat: Floats, optimiser: ServerOptimiser, scorer: Callable[[Floats], Score] | None
    ) -> None:
        if optimiser.name not in (None, "SGD"):
            raise SiteFileError(f"a numpy task has no server optimiser {optimiser.name!r}, only SGD")
        if optimiser.reduction not in ("mean", "sum"):
            raise SiteFileError(f"an aggregate is reduced by mean or sum, not by {optimiser.reduction!r}")
        allowed = {"lr": 1e-3, "momentum": 0.0} if optimiser.name else {}
        for name in optimiser.options:
            if name not in allowed:
                raise SiteFileError(f"the server optimiser of a numpy task takes no option {name!r}")
        options = {name: number(name, optimiser.options.get(name, default)) for name, default in allowed.items()}
        self.layout = layout
        self.server_optimiser = optimiser
        self._flat = flat.astype("<f4")
        self._rate, self._momentum = options.get("lr", 0.0), options.get("momentum", 0.0)
        self._velocity = np.zeros(flat.shape, dtype=np.float64)
        self._scorer = scorer

    def to_bytes(self) -> bytes:
        """Return the model's bytes: little-endian float32."""
        return self._flat.tobytes()

    def apply(self, kind: UpdateKind, aggregate: Sequence[Values]) -> None:
        """Take one step with a reduced aggregate, computed in float64 and rounded once to float32.

        Raises:
            BadUpdate: the aggregate does not fit the layout or is not finite.
            SiteFileError: gradients came and there is no optimiser to take a step with.
        """
        if kind is UpdateKind.GRADIENTS and self.server_optimiser.name is None:
            raise SiteFileError("gradients need a server optimiser; name SGD in the site file")
        mean = np.concatenate(require_aggregate(self.layout, kind, aggregate))
        wide = self._flat.astype(np.float64)
        if self.server_optimiser.name is None:
            wide = wide + mean if kind is UpdateKind.DELTA else mean
        else:
            gradient = {UpdateKind.WEIGHTS: wide - mean, UpdateKind.DELTA: -mean, UpdateKind.GRADIENTS: mean}[kind]
            self._velocity = self._momentum * self._velocity + gradient
            wide = wide - self._rate * self._velocity
        self._flat = wide.astype("<f4")

    def evaluate(self) -> Score | None:
        """Return how the model does on the held-out rows, or None where there are none."""
        return self._scorer(self._flat) if self._scorer else None

    def save(self, path: Path) -> None:
        """Write the model and the optimiser's velocity as one `.npy` file, atomically, mode 0600."""
        buffer = io.BytesIO()
        np.save(buffer, np.stack([self._flat.astype("<f8"), self._velocity]), allow_pickle=False)
        write_atomically(path, buffer.getbuffer())

    def load(self, path: Path) -> None:
        """Read what `save` wrote; raises `SiteFileError` if it is not a checkpoint of this model."""
        data = read_whole(path)
        try:
            # not np.load, which also takes zip archives and pickles for files of its own
            rows = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise SiteFileError(f"{path.name} is not a checkpoint of a numpy task") from error
        if rows.dtype != np.dtype("<f8") or rows.shape != (2, self._flat.size):
            raise SiteFileError(f"{path.name} is a checkpoint of another model")
        self._flat, self._velocity = rows[0].astype("<f4"), rows[1].copy()

    def __repr__(self) -> str:
        return f"NumpyGlobalModel({self._flat.size} parameters)"


def _require_metrics(plan: TrainingPlan, known: tuple[str, ...]) -> None:
    for name in plan.metrics:
        if name not in known:
            raise SiteFileError(f"the plan asks for the metric {name!r}, which this task does not measure")
