"""Your own model on your own data: readmission after a hospital stay, from a CSV file that never leaves its hospital.

Rules of the file:
- `Wards` is all a site has to write. Its options come from that site's own `site.toml`; no peer can name a module, a
  class or a path.
- Inputs are scaled by constants that all sites agreed on beforehand. A scale computed from local data would be one more
  thing that leaks, and would give every site another model.
- Every number of an update must lie within the charter's `value_range`. Here the model counts the batches it saw
  (`num_batches_tracked`, part of every BatchNorm), so the range must be at least the batches of a round.
"""

import csv
import math
from pathlib import Path

import torch
from tertium.learning import Examples, TorchTask
from torch import Tensor, nn

COLUMNS = ("age", "days", "medicines", "pulse")
MIDDLE = torch.tensor([65.0, 6.0, 8.0, 80.0])
SPREAD = torch.tensor([15.0, 4.0, 4.0, 12.0])


class Wards(TorchTask):
    """A small network on four columns; the target is the column `readmitted`, 0 or 1.

    Options: `data`, a CSV file to train on, none for a party that has no training data; `test`, a CSV file to score on.
    """

    classes = 2

    def __init__(self, *, data: str = "", test: str = "") -> None:
        self._data, self._test = data, test
        self.title = "stays"

    def build_model(self) -> nn.Module:
        """Return four inputs, a normalised hidden layer, two classes: 146 parameters and the layer's statistics."""
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

    def load_data(self) -> Examples:
        """Return this hospital's stays, [n, 4] and [n]."""
        return read(self._data)

    def load_test(self) -> Examples | None:
        """Return the held-out stays where this party scores."""
        return read(self._test) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        return nn.functional.cross_entropy(outputs, targets)


def read(path: str) -> Examples:
    """Read a CSV file with the columns of `COLUMNS` and `readmitted`; an empty path gives no examples."""
    if not path:
        return Examples(torch.zeros(0, len(COLUMNS)), torch.zeros(0, dtype=torch.int64))
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    inputs = torch.tensor([[float(row[name]) for name in COLUMNS] for row in rows])
    if not math.isfinite(float(inputs.sum())):
        raise ValueError(f"{path} holds a number that is not finite")
    return Examples((inputs - MIDDLE) / SPREAD, torch.tensor([int(row["readmitted"]) for row in rows]))
