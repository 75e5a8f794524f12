"""`TorchTask`: any `torch.nn.Module` as a task, and the data owner's side of it.

Rules of this file:
- One torch thread a party, set when a side is built: threads stall on a shared machine, and their number changes how
  sums are rounded. Deterministic algorithms are asked for, for the same reason.
- What torch draws at random in local training (dropout, say) is seeded from the stream and drawn inside a forked
  generator, so many parties in one process do not disturb each other. It protects nothing.
- A training step never changes the module a trainer was built with: each call builds a copy, which is dropped.
- No loss, metric or tensor of an update is ever in a repr or an error message.
"""

import contextlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..crypto.labels import Buffer, Label, digest
from ..protocol.errors import SiteFileError
from ..protocol.training import Layout, Score, TrainingPlan, UpdateKind
from .batches import batch_order, examples_touched
from .describe import counts_line
from .task import GlobalModel, LocalUpdate, ServerOptimiser, Task, Trainer, Values
from .tensors import integer_difference, layout_of, load_model, moved, read_tensors, set_tensors, tensors_of, to_values
from .updates import clip, own_test, require_aggregate, require_same_layout

EVALUATION_BATCH = 250
"""Examples scored at once; bounds memory and changes nothing else. With 1000, what a layer of MNIST's network puts out
is more than the C library keeps for the next batch, and a third of the time goes into the kernel's pages."""


@dataclass(frozen=True)
class Examples:
    """Inputs and targets, the same number of each along dimension 0. Private, so never in a repr."""

    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if self.inputs.dim() == 0 or self.targets.dim() == 0 or len(self.inputs) != len(self.targets):
            raise SiteFileError("a task's inputs and targets differ in number")

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> "Examples":
        """Return the same examples on a device."""
        return Examples(self.inputs.to(device), self.targets.to(device))


class TorchTask(Task):
    """A torch module, a loss and a party's data; subclass it and name the subclass in the site file.

    Options from the site file arrive as keyword arguments of the subclass.
    """

    title: str = ""
    """What the data are, for `describe`: "digits 0-3"."""
    classes: int = 0
    """Number of classes, 0 where the task has none; sizes `Score.shares`."""
    reduction: Literal["mean", "sum"] = "mean"
    """How `loss` reduces a batch, so that a score over several batches is what one batch would give."""
    device: str = "cpu"
    """Where training and scoring run; the model itself always comes back to the CPU."""
    threads: int = 1
    """Torch threads of this process."""
    own_metrics: ClassVar[tuple[str, ...]] = ()
    """Names `measure` answers, besides "loss" and "accuracy"."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Return the module, freshly initialised; the caller has seeded torch's generator."""

    @abstractmethod
    def load_data(self) -> Examples:
        """Return this party's training data, possibly no example at all."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the 0-dim loss of a batch, reduced as `reduction` says."""

    def load_test(self) -> Examples | None:
        """Return this party's held-out data, or None."""
        return None

    def measures(self, metric: str) -> bool:
        """Whether this task has the figure: `accuracy` needs classes, or a `predict` of its own."""
        if metric == "accuracy":
            return bool(self.classes) or type(self).predict is not TorchTask.predict
        return metric == "loss" or metric in self.own_metrics

    def predict(self, outputs: Tensor) -> Tensor | None:
        """Return what a batch's outputs answer, in the shape of the targets; None where nothing is right or wrong.

        With `classes` the answer is the class with the largest output.
        """
        return outputs.argmax(dim=1) if self.classes else None

    def measure(self, name: str, outputs: Tensor, targets: Tensor) -> float:
        """Return a figure of `own_metrics` for one batch; it is averaged over the batches."""
        raise SiteFileError(f"this task does not measure {name!r}")

    def describe_data(self, data: Examples, title: str) -> str:
        """Return one line about some examples: how many, and of each class where there are classes."""
        return counts_line(title, len(data), data.targets.cpu().numpy() if self.classes else None)

    def fit(self, model: nn.Module, data: Examples, plan: TrainingPlan, stream: bytes) -> tuple[float, ...]:
        """Train `model` in place as the plan says and return its metrics, one a name of `plan.metrics`.

        Default: SGD with the plan's rate and momentum, one step a batch. For `gradients` no step is taken and each
        batch's gradient is added to `.grad`, as torch does when `backward` is called repeatedly: a sum over batches of
        losses that are reduced as the task says. "loss" is the mean over batches of the loss before each step,
        "accuracy" the share of right answers among the examples of those batches. Override it to train otherwise.

        Raises:
            SiteFileError: the module has nothing to train, or a metric's name is unknown.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise SiteFileError("this task's model has no parameter to train")
        optimiser = None
        if plan.kind is not UpdateKind.GRADIENTS:
            optimiser = _Descent(parameters, plan.learning_rate, plan.momentum)
        tally = _Tally(self, plan.metrics)
        model.train()
        model.zero_grad(set_to_none=True)
        for order in batch_order(len(data), plan, stream):
            rows = torch.from_numpy(order).to(data.inputs.device)
            inputs, targets = data.inputs[rows], data.targets[rows]
            if optimiser is not None:
                model.zero_grad(set_to_none=True)
            outputs = model(inputs)
            loss = self.loss(outputs, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            if optimiser is not None:
                optimiser.step()
            tally.add(loss.detach(), outputs.detach(), targets)
        return tally.figures()

    def score(self, model: nn.Module, data: Examples) -> Score:
        """Return how `model` does on `data`: the loss as one batch would give it, the accuracy, the share a class."""
        if len(data) == 0:
            return Score(examples=0, loss=0.0)
        loss, right, judged = 0.0, 0, 0
        shares = torch.zeros(self.classes, dtype=torch.int64)
        training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(data), EVALUATION_BATCH):
                inputs = data.inputs[start : start + EVALUATION_BATCH]
                targets = data.targets[start : start + EVALUATION_BATCH]
                outputs = model(inputs)
                part = float(self.loss(outputs, targets))
                loss += part * len(inputs) if self.reduction == "mean" else part
                answers = self.predict(outputs)
                if answers is not None:
                    right += int((answers == targets).sum())
                    judged += targets.numel()
                    if self.classes:
                        shares += torch.bincount(answers.reshape(-1).cpu(), minlength=self.classes)
        model.train(training)
        return Score(
            examples=len(data),
            loss=loss / len(data) if self.reduction == "mean" else loss,
            accuracy=right / judged if judged else None,
            shares=tuple(count / max(judged, 1) for count in shares.tolist()),
        )

    def trainer(self) -> "TorchTrainer":
        """Return the data owner's (or evaluator's) side; loads the data."""
        return TorchTrainer(self)

    def global_model(self, seed: int, optimiser: ServerOptimiser) -> GlobalModel:
        """Return the model owner's side, its weights drawn from `seed` as `torch.manual_seed(seed)` would.

        Raises:
            SiteFileError: `optimiser` is not one this model can use.
            UnsupportedTensor: the module holds a tensor that cannot travel.
        """
        from .torch_global import TorchGlobalModel

        return TorchGlobalModel(self, seed, optimiser)

    def settle(self) -> torch.device:
        """Set this process's threads and determinism for this task; return its device.

        Raises:
            SiteFileError: the device is unknown or not on this machine.
        """
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise SiteFileError(f"no device is called {self.device!r}; use cpu or cuda") from error
        if device.type == "cuda":
            # cuBLAS is repeatable only with this, and reads it when it starts
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            if not torch.cuda.is_available():
                raise SiteFileError("the site file asks for cuda and torch sees no such device here; use cpu")
        elif device.type != "cpu":
            raise SiteFileError(f"a task runs on cpu or cuda, not on {self.device!r}")
        torch.set_num_threads(self.threads)
        # The same switch as `use_deterministic_algorithms`, which would import torch's compiler for nothing (2 s).
        torch.set_deterministic_debug_mode("error")
        return device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title})" if self.title else f"{type(self).__name__}()"


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with torch's generators seeded, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _Descent:
    """Does what `torch.optim.SGD` does, bit for bit; that class would import torch's compiler for nothing (2 s)."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, momentum: float) -> None:
        self._parameters = parameters
        self._rate, self._momentum = rate, momentum
        self._velocities: dict[int, Tensor] = {}

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        with torch.no_grad():
            for place, parameter in enumerate(self._parameters):
                step = parameter.grad
                if step is None:
                    continue
                if self._momentum:
                    velocity = self._velocities.get(place)
                    step = step.clone() if velocity is None else velocity.mul_(self._momentum).add_(step)
                    self._velocities[place] = step
                parameter.add_(step, alpha=-self._rate)


class _Tally:
    """Adds up the figures of a plan's metrics, batch by batch."""

    def __init__(self, task: TorchTask, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in ("loss", "accuracy", *task.own_metrics):
                raise SiteFileError(f"the plan asks for the metric {name!r}, which this task does not measure")
        self._task = task
        self._names = names
        self._batches = 0
        self._sums = dict.fromkeys(names, 0.0)
        self._right = 0
        self._judged = 0

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take in one batch."""
        self._batches += 1
        for name in self._names:
            if name == "loss":
                self._sums[name] += float(loss)
            elif name == "accuracy":
                answers = self._task.predict(outputs)
                if answers is None:
                    raise SiteFileError("the plan asks for the metric 'accuracy' and this task has no right answers")
                self._right += int((answers == targets).sum())
                self._judged += targets.numel()
            else:
                self._sums[name] += self._task.measure(name, outputs, targets)

    def figures(self) -> tuple[float, ...]:
        """Return one figure a name; zeros where there was no batch."""
        shares = {"accuracy": self._right / max(self._judged, 1)}
        return tuple(shares.get(name, self._sums[name] / max(self._batches, 1)) for name in self._names)


class TorchTrainer(Trainer):
    """A data owner's side of a `TorchTask`."""

    def __init__(self, task: TorchTask) -> None:
        self.task = task
        self._device = task.settle()
        self._data = task.load_data().to(self._device)
        test = task.load_test()
        self._test = None if test is None else test.to(self._device)
        with seeded(0, self._device):
            self.layout = layout_of(task.build_model())

    def describe(self) -> str:
        """Return one line about this party's data, for its own operator."""
        parts = []
        if len(self._data) or self._test is None:
            parts.append(self.task.describe_data(self._data, self.task.title))
        if self._test is not None:
            parts.append(self.task.describe_data(self._test, "test"))
        return "; ".join(parts)

    def train(self, layout: Layout, model: Buffer, plan: TrainingPlan, stream: bytes) -> LocalUpdate:
        """Train a local copy of `model` and return the update; see `Trainer.train` and `TorchTask.fit`.

        Clipping takes the L2 length over all float tensors of the update, in float64. Integer tensors (counters such
        as `num_batches_tracked`) are left out of it and unchanged by it.

        Raises:
            SiteFileError: the model does not fit this site's task, or a metric's name is unknown.
            MalformedMessage: a boolean tensor of the model holds a byte other than 0 and 1.
            BadUpdate: an integer tensor moved by more than 2**53.
        """
        require_same_layout(self.layout, layout)
        seed = int.from_bytes(digest(Label.BATCH_ORDER, stream, b"torch")[:8], "big")
        with seeded(seed, self._device):
            copy = self._load(layout, model)
            metrics = self.task.fit(copy, self._data, plan, stream)
        if len(metrics) != len(plan.metrics):
            raise SiteFileError(f"this task's fit returned {len(metrics)} metrics for {len(plan.metrics)} names")
        copy.to("cpu")
        if plan.kind is UpdateKind.GRADIENTS:
            values, clipped = clip(_gradients(layout, copy), plan.clip_norm)
        else:
            values, clipped = _moves(layout, copy, model, plan)
        return LocalUpdate(
            values=tuple(values),
            examples=examples_touched(len(self._data), plan),
            metrics=tuple(float(figure) for figure in metrics),
            clipped=clipped,
        )

    def evaluate(self, layout: Layout, model: Buffer) -> Score:
        """Return how `model` does on this party's test data, or on its own data where it has no other."""
        with seeded(0, self._device):
            copy = self._load(layout, model)
            return self.task.score(copy, self._data if self._test is None else self._test)

    @property
    def tests_own(self) -> bool:
        """Whether the task gave this party test data."""
        return self._test is not None

    def evaluate_own(self, layout: Layout, model: Buffer, kind: UpdateKind, update: Sequence[Values]) -> Score:
        """Return how `model` with this party's update alone does on its test data; see `Trainer.evaluate_own`.

        For `weights` it is the model that `fit` left, clipped as it is sent, bit for bit; for `delta` a last bit may
        differ, since a difference is rounded.

        Raises:
            SiteFileError: there is no test data, or the update is of kind `gradients`.
            BadUpdate: the update does not fit the layout, or leaves the range of a tensor's type.
        """
        test = own_test(kind, self._test)
        values = iter(require_aggregate(layout, kind, update))
        with seeded(0, self._device):
            copy = self.task.build_model()
            load_model(copy, layout, model)
            for entry, tensor in zip(layout.entries, tensors_of(copy, layout), strict=True):
                if entry.in_update(kind):
                    set_tensors([tensor], [moved(entry, tensor, next(values), add=kind is UpdateKind.DELTA)])
            return self.task.score(copy.to(self._device), test)

    def _load(self, layout: Layout, model: Buffer) -> nn.Module:
        """Return a fresh module holding `model`, on this task's device."""
        copy = self.task.build_model()
        load_model(copy, layout, model)
        return copy.to(self._device)

    def __repr__(self) -> str:
        return f"TorchTrainer({self.task!r})"


def _gradients(layout: Layout, module: nn.Module) -> list[Values]:
    """Return the accumulated gradient of each trained tensor; zeros where nothing flowed to it."""
    values = []
    for entry, tensor in zip(layout.entries, tensors_of(module, layout), strict=True):
        if entry.in_update(UpdateKind.GRADIENTS):
            grad = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            values.append(to_values(entry, grad))
    return values


def _moves(layout: Layout, module: nn.Module, model: Buffer, plan: TrainingPlan) -> tuple[list[Values], bool]:
    """Return the update of kind `weights` or `delta`, and whether it was clipped."""
    carried = [
        (entry, local, base)
        for entry, local, base in zip(
            layout.entries, tensors_of(module, layout), read_tensors(layout, model), strict=True
        )
        if entry.in_update(plan.kind)
    ]
    weights = plan.kind is UpdateKind.WEIGHTS
    floats = [to_values(entry, local) for entry, local, _ in carried if entry.dtype.is_float]
    bases = [to_values(entry, base) for entry, _, base in carried if entry.dtype.is_float]
    clipped = False
    if not weights or plan.clip_norm is not None:
        differences = [ours - theirs for ours, theirs in zip(floats, bases, strict=True)]
        differences, clipped = clip(differences, plan.clip_norm)
        if not weights:
            floats = differences
        elif clipped:
            floats = [theirs + step for theirs, step in zip(bases, differences, strict=True)]
    remaining = iter(floats)
    values = [
        next(remaining) if entry.dtype.is_float else integer_difference(entry, local, base)
        for entry, local, base in carried
    ]
    return values, clipped
