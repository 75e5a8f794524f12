"""`TorchGlobalModel`: the model owner's side of a `TorchTask`.

How an aggregate becomes the next model:
- trained tensors: with no optimiser the mean is set (`weights`) or added (`delta`); with one, the pseudo-gradient
  (global - mean, -mean, or the aggregate itself) is given to it and it takes one step;
- float tensors no optimiser trains (running statistics, frozen weights): set or added, whatever the optimiser;
- integers: the mean difference, rounded half to even, is added; booleans stay.
Everything is checked before the first tensor is written, so a refused aggregate leaves the model as it was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..protocol.errors import SiteFileError
from ..protocol.training import Entry, Score, UpdateKind
from . import checkpoint
from .errors import BadUpdate
from .task import GlobalModel, ServerOptimiser, Values
from .tensors import layout_of, model_to_bytes, moved, set_tensors, tensors_of
from .torch_task import TorchTask, seeded
from .updates import require_aggregate

_NEED_MORE = {"LBFGS": "evaluates the loss itself", "SparseAdam": "takes sparse gradients only"}


def optimiser_class(name: str) -> type[torch.optim.Optimizer]:
    """Return a class of `torch.optim` by its name.

    Raises:
        SiteFileError: `torch.optim` has no optimiser of that name, or an aggregate alone cannot drive it.
    """
    found = vars(torch.optim).get(name)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)) or found is torch.optim.Optimizer:
        raise SiteFileError(f"torch.optim has no optimiser called {name!r}; SGD and Adam are two it has")
    if name in _NEED_MORE:
        raise SiteFileError(f"{name} {_NEED_MORE[name]}, so it cannot take a step on an aggregate; use another")
    return found


def build_optimiser(wanted: ServerOptimiser, parameters: list[torch.Tensor]) -> torch.optim.Optimizer | None:
    """Return the optimiser a site file names, over `parameters`; None where it names none.

    Raises:
        SiteFileError: no such optimiser, or not with these options.
    """
    if wanted.reduction not in ("mean", "sum"):
        raise SiteFileError(f"an aggregate is reduced by mean or sum, not by {wanted.reduction!r}")
    if wanted.name is None:
        if wanted.options:
            raise SiteFileError("the site file gives optimiser options but no optimiser")
        return None
    kind: Any = optimiser_class(wanted.name)
    if not parameters:
        raise SiteFileError(f"the site file names the optimiser {wanted.name} and the model has nothing to train")
    try:
        optimiser: torch.optim.Optimizer = kind(parameters, **wanted.options)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise SiteFileError(f"torch.optim.{wanted.name} does not take these options: {error}") from error
    return optimiser


class TorchGlobalModel(GlobalModel):
    """A model owner's side of a `TorchTask`: the module, and what a server optimiser remembers."""

    def __init__(self, task: TorchTask, seed: int, optimiser: ServerOptimiser) -> None:
        self.task = task
        self._device = task.settle()
        with seeded(seed, self._device):
            self.module = task.build_model().cpu()
        self.layout = layout_of(self.module)
        self._tensors = tensors_of(self.module, self.layout)
        self._trained = [
            tensor
            for entry, tensor in zip(self.layout.entries, self._tensors, strict=True)
            if entry.in_update(UpdateKind.GRADIENTS)
        ]
        self.server_optimiser = optimiser
        self._optimiser = build_optimiser(optimiser, self._trained)
        self._test = task.load_test()

    def describe(self) -> str:
        """Return one line about the test data, with a count a class; empty where there are none."""
        return self.task.describe_data(self._test, "test") if self._test is not None else ""

    def to_bytes(self) -> bytes:
        """Return the model's bytes, as `layout` describes them."""
        return model_to_bytes(self.module, self.layout)

    def apply(self, kind: UpdateKind, aggregate: Sequence[Values]) -> None:
        """Take one step with a reduced aggregate, one flat array an entry of `layout.updated(kind)`.

        Raises:
            BadUpdate: the aggregate does not fit the layout, is not finite, or leaves a type's range.
            SiteFileError: gradients came and there is no optimiser to take a step with.
        """
        if kind is UpdateKind.GRADIENTS and self._optimiser is None:
            raise SiteFileError("gradients need a server optimiser; name one, SGD say, in the site file")
        means = iter(require_aggregate(self.layout, kind, aggregate))
        written: list[tuple[torch.Tensor, torch.Tensor]] = []
        gradients: list[tuple[torch.Tensor, torch.Tensor]] = []
        for entry, tensor in zip(self.layout.entries, self._tensors, strict=True):
            if not entry.in_update(kind):
                continue
            mean = next(means)
            if entry.trainable and self._optimiser is not None:
                wide = torch.from_numpy(mean).reshape(tensor.shape)
                gradients.append((tensor, _pseudo_gradient(entry, kind, tensor.detach(), wide)))
            else:
                written.append((tensor, moved(entry, tensor, mean, add=kind is UpdateKind.DELTA)))
        set_tensors([tensor for tensor, _ in written], [value for _, value in written])
        if self._optimiser is not None:
            for tensor, gradient in gradients:
                tensor.grad = gradient
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)

    def evaluate(self) -> Score | None:
        """Return how the model does on this party's held-out data, or None where it has none."""
        if self._test is None:
            return None
        if self._device.type == "cpu":
            with seeded(0, self._device):
                return self.task.score(self.module, self._test)
        with seeded(0, self._device):
            copy = self.task.build_model()
            set_tensors(tensors_of(copy, self.layout), self._tensors)
            return self.task.score(copy.to(self._device), self._test.to(self._device))

    def save(self, path: Path) -> None:
        """Write the model and what the optimiser remembers as one safetensors file, atomically, mode 0600.

        The same weights and optimiser state give the same bytes.
        """
        tensors = {entry.name: tensor for entry, tensor in zip(self.layout.entries, self._tensors, strict=True)}
        checkpoint.write(path, self.layout, tensors, self._remembered())

    def load(self, path: Path) -> None:
        """Read what `save` wrote; training goes on as if it had never stopped, bit for bit.

        Raises:
            SiteFileError: not a checkpoint of this model, or written with another optimiser or other options.
        """
        tensors, memory = checkpoint.read(path, self.layout, self._remembered())
        set_tensors(self._tensors, tensors)
        if self._optimiser is not None:
            self._optimiser.state.clear()
            for index, remembered in memory.items():
                self._optimiser.state[self._trained[index]] = remembered

    def _remembered(self) -> checkpoint.OptimiserMemory | None:
        """Return the optimiser's name, options and state, as a checkpoint holds them."""
        if self._optimiser is None or self.server_optimiser.name is None:
            return None
        state = self._optimiser.state
        (group,) = self._optimiser.param_groups
        return checkpoint.OptimiserMemory(
            name=self.server_optimiser.name,
            options={key: value for key, value in group.items() if key != "params"},
            state={index: state[tensor] for index, tensor in enumerate(self._trained) if tensor in state},
        )

    def __repr__(self) -> str:
        return f"TorchGlobalModel({self.task!r}, {len(self.layout.entries)} tensors)"


def _pseudo_gradient(entry: Entry, kind: UpdateKind, current: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return what the optimiser is given for a trained tensor, taken in float64 and rounded once to its type."""
    if kind is UpdateKind.WEIGHTS:
        wide = current.to(torch.float64) - mean
    elif kind is UpdateKind.DELTA:
        wide = -mean
    else:
        wide = mean
    gradient = wide.to(current.dtype)
    if not bool(torch.isfinite(gradient).all()):
        raise BadUpdate(f"the aggregate of {entry.name} leaves the range of {entry.dtype.value}")
    return gradient
