"""A simulated population: points in a square, labelled by which side of a line they lie on."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...protocol.errors import SiteFileError
from ..options import count, flag, text
from ..points import BATCH, held_out_points, training_points
from ..torch_task import Examples, TorchTask


class Halfplane(TorchTask):
    """Points of [-1, 1]^2 and a linear layer, a leaky ReLU and a sigmoid under binary cross-entropy.

    Options: `batches`, how many batches of 1,000 points this party has; `seed` and `party`, which fix its points;
    `test`, whether it holds 10,000 points of its own to score on; `pooled`, in place of `batches` and `party`, the
    batches of the parties 0, 1 and so on, for a party that holds the points of all of them; `device`, cpu or cuda.
    """

    def __init__(
        self,
        *,
        batches: int = 5,
        seed: int = 0,
        party: int = 0,
        test: bool = False,
        pooled: object = None,
        device: str = "cpu",
    ) -> None:
        self._seed = count("seed", seed)
        self._held = {count("party", party): count("batches", batches)}
        if pooled is not None:
            if not isinstance(pooled, list | tuple) or not pooled:
                raise SiteFileError(f"option pooled is {pooled!r} and must list numbers of batches")
            self._held = {number: count("pooled", each) for number, each in enumerate(pooled)}
        self._test = flag("test", test)
        self.device = text("device", device)
        self.title = "points"

    def build_model(self) -> nn.Module:
        """Return `Linear(2, 1)`, `LeakyReLU(0.2)`, `Sigmoid`: three parameters."""
        return nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(0.2), nn.Sigmoid())

    def load_data(self) -> Examples:
        """Return this party's points, [n, 2], and labels, [n, 1] of 0.0 and 1.0."""
        parts = [training_points(self._seed, party, batches * BATCH) for party, batches in self._held.items()]
        inputs, labels = zip(*parts, strict=True)
        return _examples(np.concatenate(inputs), np.concatenate(labels))

    def load_test(self) -> Examples | None:
        """Return fresh points where this party scores."""
        return _examples(*held_out_points(self._seed)) if self._test else None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy."""
        return nn.functional.binary_cross_entropy(outputs, targets)

    def predict(self, outputs: Tensor) -> Tensor | None:
        """Return the label an output is nearer to."""
        return (outputs > 0.5).to(outputs.dtype)


def _examples(inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> Examples:
    return Examples(torch.from_numpy(inputs), torch.from_numpy(labels)[:, None])
