"""A simulated population: points in a square, labelled by which side of a line they lie on."""

import numpy as np
import torch
from torch import Tensor, nn

from ..options import count, flag, text
from ..torch_task import Examples, TorchTask

BOUNDARY = (0.3, 0.2, 0.8)
"""The label is 1 where BOUNDARY . (1, x1, x2) is above 0. The constant stands in this rule only, not in the inputs."""
BATCH = 1000
"""Points a batch."""
TEST_POINTS = 10_000


class Halfplane(TorchTask):
    """Points of [-1, 1]^2 and a linear layer, a leaky ReLU and a sigmoid under binary cross-entropy.

    Options: `batches`, how many batches of 1,000 points this party has; `seed` and `party`, which fix its points;
    `test`, whether it holds 10,000 points of its own to score on; `device`, cpu or cuda.
    """

    def __init__(
        self, *, batches: int = 5, seed: int = 0, party: int = 0, test: bool = False, device: str = "cpu"
    ) -> None:
        self._batches = count("batches", batches)
        self._seed, self._party = count("seed", seed), count("party", party)
        self._test = flag("test", test)
        self.device = text("device", device)
        self.title = "points"

    def build_model(self) -> nn.Module:
        """Return `Linear(2, 1)`, `LeakyReLU(0.2)`, `Sigmoid`: three parameters."""
        return nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(0.2), nn.Sigmoid())

    def load_data(self) -> Examples:
        """Return this party's points, [n, 2], and labels, [n, 1] of 0.0 and 1.0."""
        return _points(self._batches * BATCH, (self._seed, 1, self._party))

    def load_test(self) -> Examples | None:
        """Return fresh points where this party scores."""
        return _points(TEST_POINTS, (self._seed, 2)) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy."""
        return nn.functional.binary_cross_entropy(outputs, targets)

    def predict(self, outputs: Tensor) -> Tensor | None:
        """Return the label an output is nearer to."""
        return (outputs > 0.5).to(outputs.dtype)


def _points(number: int, seed: tuple[int, ...]) -> Examples:
    """Return `number` points uniform in the square, with their labels."""
    points = np.random.default_rng(seed).uniform(-1.0, 1.0, (number, 2))
    constant, first, second = BOUNDARY
    labels = constant + first * points[:, 0] + second * points[:, 1] > 0
    return Examples(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels.astype(np.float32))[:, None])
