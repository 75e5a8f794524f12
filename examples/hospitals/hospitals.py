"""The script's model as a task: which module, which data, which loss. Each hospital has a fifth of the patients.

A real hospital reads its own file here. Nothing in this class travels: on the wire the task is a name.
"""

import torch
from sklearn.datasets import load_breast_cancer
from tertium import Examples, TorchTask
from torch import Tensor, nn

HOSPITALS = 5


class Hospitals(TorchTask):
    """Benign or malign, from 30 figures of a tissue sample.

    Options: `hospital`, from 0 to 4, whose patients are trained on; `test`, whether to score on the held-out ones.
    """

    classes = 2

    def __init__(self, *, hospital: int | None = None, test: bool = False) -> None:
        self._hospital, self._test = hospital, test
        self.title = f"patients of hospital {hospital}" if hospital is not None else "no patients"

    def build_model(self) -> nn.Module:
        """Return the script's module."""
        return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))

    def load_data(self) -> Examples:
        """Return this hospital's patients, [n, 30] and [n]; none where no hospital is named."""
        return _patients(self._hospital)

    def load_test(self) -> Examples | None:
        """Return the patients that no hospital trains on."""
        return _patients(HOSPITALS) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return nn.functional.cross_entropy(outputs, targets)


def _patients(part: int | None) -> Examples:
    """Return every sixth patient, from number `part` on."""
    bunch = load_breast_cancer()
    rows = slice(0) if part is None else slice(part, None, HOSPITALS + 1)
    # Constants that all hospitals agreed on: a scale of each one's own would give away its largest value.
    scale = torch.tensor(bunch.data.max(axis=0), dtype=torch.float32)
    return Examples(torch.tensor(bunch.data[rows], dtype=torch.float32) / scale, torch.tensor(bunch.target[rows]))
