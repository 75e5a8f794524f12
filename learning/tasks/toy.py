"""The tutorials' toy: four rows of two bits, whose target is the first bit, and one linear layer."""

import torch
from torch import Tensor, nn

from ..describe import numbers
from ..options import flag, indices, text
from ..torch_task import Examples, TorchTask

INPUTS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
TARGETS = ((0.0,), (0.0,), (1.0,), (1.0,))


class Toy(TorchTask):
    """Four rows and a linear layer; the loss is the sum of squared errors.

    Options: `rows`, the ones this party holds (Bob: [0, 1], Alice: [2, 3]; all where it is left out); `test`, whether
    it scores on all four rows; `device`, cpu or cuda.
    """

    reduction = "sum"

    def __init__(self, *, rows: object = None, test: bool = False, device: str = "cpu") -> None:
        self._rows = indices("rows", rows, len(INPUTS))
        self._test = flag("test", test)
        self.device = text("device", device)
        self.title = f"rows {numbers(self._rows)}"

    def build_model(self) -> nn.Module:
        """Return `nn.Linear(2, 1)`: three parameters."""
        return nn.Linear(2, 1)

    def load_data(self) -> Examples:
        """Return this party's rows, [n, 2] and [n, 1]."""
        rows = list(self._rows)
        return Examples(torch.tensor(INPUTS)[rows], torch.tensor(TARGETS)[rows])

    def load_test(self) -> Examples | None:
        """Return all four rows where this party scores."""
        return Examples(torch.tensor(INPUTS), torch.tensor(TARGETS)) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of squared errors."""
        return (outputs - targets).square().sum()

    def predict(self, outputs: Tensor) -> Tensor | None:
        """Return the bit an output is nearer to."""
        return (outputs > 0.5).to(outputs.dtype)
